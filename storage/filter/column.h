/*
 * column.h - the values of one field, by rows: what a filter asks for without reading metadata.
 *
 * A column is made of chunks of CHUNK_SLOTS slots (visibility.h).  A CHUNK is constant: it holds
 * the values of those rows of its slots that it KNOWS, as of an LSN.  Rows that were written since,
 * and those whose values are too many or too long to be kept, are not known: whoever asks tries
 * them one by one.  So a chunk is never wrong, only incomplete, and being brought up to date it is
 * replaced by another.
 *
 * Values are kept sorted, each with the list of its rows, or a bitmap if they are many; numbers and
 * times of which there are many different ones are kept by row instead, as an array to be compared.
 * (Dictionaries and sorted row groups as in column stores: Abadi, Madden and Ferreira, "Integrating
 * compression and execution in column-oriented database systems", SIGMOD 2006; the two forms of
 * lists as in Chambi et al., "Better bitmap performance with Roaring bitmaps", 2016.)
 *
 * A chunk: any thread, for as long as it is not freed.  A builder: one thread.
 */
#ifndef STORAGE_FILTER_COLUMN_H
#define STORAGE_FILTER_COLUMN_H

#include "storage/filter/filter_private.h"
#include "storage/visibility.h"

enum column_kind {
    COLUMN_SCALARS,
    COLUMN_TIMES, /* scalars, but strings that are times are times; texts of times are not kept */
    COLUMN_POINTS,
    COLUMN_WORDS,
    COLUMN_KIND_COUNT
};

/* The kind that answers a condition; COLUMN_KIND_COUNT: none does. */
enum column_kind column_kind_of(const struct filter *f, const struct leaf *leaf);

struct column_chunk;

void column_chunk_free(void *chunk); /* NULL is fine */
uint64_t column_chunk_bytes(const struct column_chunk *c);
/* Rows that were born later are not known. */
uint64_t column_chunk_lsn(const struct column_chunk *c);
/* CHUNK_WORDS words. */
const uint64_t *column_chunk_known(const struct column_chunk *c);

/* The rows that satisfy a condition of the chunk's kind: those in `must` do, those not in `may` do
 * not.  Of rows that are not known the one is clear and the other set.  `workspace` as for
 * leaf_holds(). */
void column_chunk_select(const struct column_chunk *c, const struct leaf *leaf, void *workspace,
                         uint64_t must[CHUNK_WORDS], uint64_t may[CHUNK_WORDS]);

/* Make a chunk: from an older one (may be NULL) those of its known rows that are in `keep`, then
 * rows one by one.  NULL: out of memory. */
struct column_builder;
struct column_builder *column_builder_new(enum column_kind kind, const char *path,
                                          size_t path_bytes, const struct column_chunk *old,
                                          const uint64_t keep[CHUNK_WORDS]);
/* `slot`: from 0 to CHUNK_SLOTS - 1, none twice. */
void column_builder_add(struct column_builder *b, uint32_t slot, const char *metadata,
                        size_t metadata_bytes);
/* NULL: out of memory, now or before. */
struct column_chunk *column_builder_finish(struct column_builder *b, uint64_t lsn);
void column_builder_free(struct column_builder *b); /* NULL is fine */

#endif

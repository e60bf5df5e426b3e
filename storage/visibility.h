/*
 * visibility.h - which slots hold a row of a snapshot, as bits: without looking at each slot.
 *
 * The writer keeps, for each GROUP of 64 slots, a word with a bit for each that holds a live row,
 * and the LSNs of the last birth and the last change in the group.  If a group has not changed
 * since a snapshot, its word is the answer; else its slots are looked at one by one, as they are
 * for rows that may expire.  So a selection is whole words, and exact.
 *
 * Groups are kept in CHUNKS, which columns (storage/filter/column.h) have, too.  A chunk that was
 * in the file when the database was opened has no words until somebody wants them
 * (visibility_track()): opening does not depend on the number of rows.
 *
 * Threads: W the writer, under LOCK_DATABASE; R readers inside an epoch section.
 */
#ifndef STORAGE_VISIBILITY_H
#define STORAGE_VISIBILITY_H

#include "storage/database.h"

enum {
    CHUNK_SLOTS = 16384,
    CHUNK_WORDS = CHUNK_SLOTS / 64,
};

struct visibility;

struct visibility *visibility_new(void);
void visibility_free(struct visibility *v); /* no reader is left; NULL is fine */
/* Memory in bytes; any thread in an epoch section. */
uint64_t visibility_memory(const struct visibility *v);

/* W: the row of `slot` begins at `lsn`; `slot_count` slots are in use, this one included. */
void visibility_birth(struct visibility *v, uint32_t slot, uint32_t slot_count, uint64_t lsn,
                      bool expires);
/* W: it ends. */
void visibility_death(struct visibility *v, uint32_t slot, uint64_t lsn);

/* R: have words for the chunks of the snapshot that have none yet, as far as that can be done
 * without waiting for the writer. */
void visibility_track(struct reader *r);
/* R: slots that would be looked at one by one because their chunks have no words, about. */
uint64_t visibility_untracked(struct reader *r);

static inline uint32_t visibility_chunks(const struct reader *r)
{
    return (uint32_t)(((uint64_t)r->slot_count + CHUNK_SLOTS - 1) / CHUNK_SLOTS);
}

/* R: the rows of the snapshot in a chunk: all CHUNK_WORDS words are written.  ERR_CORRUPT. */
MUST_CHECK enum err_code visibility_words(struct reader *r, uint32_t chunk,
                                          uint64_t words[CHUNK_WORDS], struct err *err);
/* R: has anything in the chunk been born after `lsn`?  If so, words[i] has a bit for each row of
 * the snapshot for which that is so (and for no more than the rows in `among`).  ERR_CORRUPT. */
MUST_CHECK enum err_code visibility_born_after(struct reader *r, uint32_t chunk, uint64_t lsn,
                                               const uint64_t among[CHUNK_WORDS],
                                               uint64_t words[CHUNK_WORDS], bool *any,
                                               struct err *err);
/* R: has the group with this first slot changed (a birth or a death) after `lsn`?  True when that
 * is not known. */
bool visibility_changed_after(struct reader *r, uint32_t first_slot, uint64_t lsn);
/* R: the same for a chunk. */
bool visibility_chunk_changed_after(struct reader *r, uint32_t chunk, uint64_t lsn);
/* R: which rows the snapshot has depends on its LSN alone: all chunks have words, and none of its
 * rows expires.  False, too, if there was a row that expires in the store. */
bool visibility_is_timeless(struct reader *r);

#endif

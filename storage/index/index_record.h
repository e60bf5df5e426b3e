/*
 * index_record.h - record "index" of a manifest: what a checkpoint keeps of a search index beside
 * the regions of its cells and links.
 *
 * The record is a hint as well: it is covered by the manifest's checksum, but one that makes no
 * sense costs no more than building the index anew.
 */
#ifndef STORAGE_INDEX_INDEX_RECORD_H
#define STORAGE_INDEX_INDEX_RECORD_H

#include "storage/base/buf.h"
#include "storage/index/vector_index.h"

struct jvdb_file;

struct index_record {
    uint32_t degree;
    struct graph_options options; /* for graph_new(); mean points into `mean` */
    float *mean;
    float reach2;
    uint32_t node_count, linked_count;
    uint32_t *pivots;
    size_t pivot_count;
    struct vector_index_state state; /* without the graph */
};

/* Append what `state` (with its graph) is to *out: ascending runs of pending slots below
 * `slot_count`, whatever order they were in.  Inside an epoch section.  False: out of memory. */
MUST_CHECK bool index_record_encode(const struct vector_index_state *state, uint32_t slot_count,
                                    struct buf *out);
/* Read a record of a store with so many slots.  False: it makes no sense, or out of memory; *r is
 * empty then. */
MUST_CHECK bool index_record_decode(const uint8_t *bytes, size_t count, const struct schema *schema,
                                    uint32_t slot_count, struct index_record *r);
/* Do the regions of the file hold a graph of this record, made of its options? */
bool index_record_fits(const struct index_record *r, const struct graph *g,
                       const struct jvdb_file *f);
void index_record_deinit(struct index_record *r);

#endif

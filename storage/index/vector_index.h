/*
 * vector_index.h - the search index of one store: its graph, what is not linked yet, what it costs.
 *
 * A store without enough rows has no graph and is searched exactly.  From then on every row is in
 * one of three places:
 *
 *   PENDING  written, not linked yet: compared one by one by every search
 *   LINKED   a node of the graph
 *   ASIDE    has no place in a graph (a zero vector under cosine, numbers whose squares overflow):
 *            compared one by one, for ever
 *
 * A writer makes a row pending before it is visible; a linker links it and only then takes it from
 * the pending: whoever looks at the pending first and at the graph second misses nothing.
 *
 * The indexer (indexer.h) does the work in the background, under `mu`: build, link, repair after
 * deletions, audit, choose the codec, measure the recall.
 *
 * Threads: R marks what readers call, inside an epoch section; W what the writer calls, under
 * LOCK_DATABASE.
 */
#ifndef STORAGE_INDEX_VECTOR_INDEX_H
#define STORAGE_INDEX_VECTOR_INDEX_H

#include "storage/base/lock.h"
#include "storage/index/graph.h"

struct vector_index;
struct database;
struct store;

/* For schema->index, empty.  Never NULL. */
struct vector_index *vector_index_new(const struct schema *schema);
void vector_index_free(struct vector_index *ix); /* no reader is left; NULL is fine */

/* ---- the writer ---- */

/* W: the row of `slot` is about to become visible. */
void vector_index_put(struct vector_index *ix, uint32_t slot);
/* W: it has ended. */
void vector_index_end(struct vector_index *ix, uint32_t slot);
/* W: dead slots may be used again if they died at this LSN or before: no link leads to them, and no
 * reader holds one.  UINT64_MAX without a graph. */
uint64_t vector_index_reuse_lsn(const struct vector_index *ix);
/* Rows that wait to be linked beyond what a search should have to compare: writers wait a little
 * for each write while this is positive.  Any thread. */
uint64_t vector_index_backlog(const struct vector_index *ix);

/* ---- searches ---- */

/* Slot numbers to compare one by one: those at `slots[i & mask]` for head <= i < tail; of these,
 * the ones before `encoded` have their codes in the graph.  Then `aside`. */
struct vector_index_rest {
    const uint32_t *slots;
    uint64_t mask, head, encoded, tail;
    const uint32_t *aside;
    uint32_t aside_count;
};

/* R: the graph to be searched, or NULL: search exactly.  *rest is what it does not hold; taken
 * first. */
struct graph *vector_index_graph(struct vector_index *ix, struct vector_index_rest *rest);

/* R: candidates (ef) that a recall takes for the `k` nearest, from what was measured on this data;
 * a careful guess before that.  *expected: the recall that was measured with it, 0: none was. */
uint32_t vector_index_effort(struct vector_index *ix, double recall, size_t k, double *expected);

/* R: one in N searches, so that it is done again exactly in idle time: note query and result. Cheap
 * when it is not its turn. */
void vector_index_sample(struct vector_index *ix, const float *query, size_t k, uint64_t lsn,
                         const uint32_t *slots, size_t count);

/* ---- for the owner (indexer.c, index_file.c, compact.c) ---- */

struct mutex *vector_index_mutex(
    struct vector_index *ix); /* LOCK_INDEX; whoever holds it owns the graph */

/* Any thread, the database is acquired. */
void vector_index_info(struct vector_index *ix, struct vector_index_info *info);

#endif

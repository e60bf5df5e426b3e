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
 * the pending: whoever looks at the pending first and at the graph second misses nothing.  A row
 * may be found in two places.
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
#include "storage/index/index_info.h"

struct vector_index;

/* For schema->index, empty: the rows that a store has already are learned of when the graph is
 * built, or are told by vector_index_adopt().  The schema is copied.  Never NULL. */
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
/* W: the log broke, and readers fall back to rows as of `lsn`: if any of them may be missing from
 * the graph by now, searches are exact from here on. */
void vector_index_fall_back(struct vector_index *ix, uint64_t lsn);
/* Rows that are pending beyond what a search should have to compare: while this is positive, who
 * puts rows waits first (deletes need not).  While nobody searches, more may be pending.  Any
 * thread. */
uint64_t vector_index_backlog(const struct vector_index *ix);
/* How long, for so many rows.  Each caller gets its own time, one behind the other, so that no more
 * comes in than is linked.  Any thread. */
uint64_t vector_index_delay_ns(struct vector_index *ix, size_t rows);
/* There is something to do that the indexer was not yet told of: tell it.  Any thread. */
bool vector_index_wants_work(struct vector_index *ix);

/* ---- searches ---- */

/* Slot numbers to compare one by one: those at `slots[i & mask]` for head <= i < tail; of these,
 * the ones before `encoded` have their codes in the graph (or are in `aside`, too).  Then `aside`.
 */
struct vector_index_rest {
    const uint32_t *slots;
    uint64_t mask, head, encoded, tail;
    const uint32_t *aside;
    uint32_t aside_count;
    const struct slot_bits *ended; /* rows that may be of no interest; NULL: not known */
};
/* R: has the row of this slot ended?  An older snapshot may see it still. */
bool vector_index_has_ended(const struct vector_index_rest *rest, uint32_t slot);

/* R: the graph to be searched by a reader with snapshot `lsn`, or NULL: search exactly.  *rest is
 * what it does not hold. */
struct graph *vector_index_graph(struct vector_index *ix, uint64_t lsn,
                                 struct vector_index_rest *rest);

/* R: a search has compared so many pending rows.  If they were many, writers make way for a while.
 */
void vector_index_compared_pending(struct vector_index *ix, uint64_t rows);

/* R: candidates (ef) that a recall takes for the `k` nearest, from what was measured on this data;
 * a careful guess before that.  *expected: the recall that was measured with it, 0: none was. */
uint32_t vector_index_effort(struct vector_index *ix, double recall, size_t k, double *expected);

/* R: one in N searches, so that it is done again exactly in idle time: note query (`dimension`
 * floats) and result, nearest first.  Only searches that had no filter and no limit on the
 * distance. Cheap when it is not its turn. */
void vector_index_sample(struct vector_index *ix, const float *query, size_t k, uint64_t lsn,
                         const uint32_t *slots, size_t count);

/* ---- for the owner (indexer.c, index_file.c, compact.c) ---- */

/* LOCK_INDEX; whoever holds it owns the graph.  The store's file is not replaced meanwhile. */
struct mutex *vector_index_mutex(struct vector_index *ix);

/* What calibration has found: the recall of ef[i] candidates for each of the ks. */
enum { EFFORT_KS = 3, EFFORT_STEPS = 16, EFFORT_MAX = 32768 };
struct effort_table {
    uint64_t rows; /* live when it was measured; 0: it was not */
    uint32_t queries;
    uint32_t steps;
    uint32_t ef[EFFORT_STEPS];             /* ascending */
    float recall[EFFORT_KS][EFFORT_STEPS]; /* for k = 1, 10, 100; ascending */
    float error[EFFORT_KS][EFFORT_STEPS];  /* their standard errors */
};

/* What is worth keeping of an index beside cells, links and pivots of its graph. */
struct vector_index_state {
    struct graph *graph; /* NULL: there is none; nothing else counts then */
    uint32_t *pending;   /* slots of rows that may not be linked, dead ones among them */
    size_t pending_count;
    uint32_t *aside;
    size_t aside_count;
    uint32_t *extra_pivots; /* nodes that nothing else leads to */
    size_t extra_pivot_count;
    uint64_t reuse_lsn; /* vector_index_reuse_lsn() */
    struct effort_table effort;
};
/* W: copy it (the arrays are the caller's; the graph is not).  Links of a slot that is neither
 * pending nor aside are in the graph if cells and links are looked at after this call.  ERR_NOMEM.
 */
MUST_CHECK enum err_code vector_index_export(const struct vector_index *ix,
                                             struct vector_index_state *state, struct err *err);
void vector_index_state_deinit(struct vector_index_state *state);
/* Before anybody else knows the index, and before the log is replayed: take the graph and what
 * `state` says, as of LSN `lsn`; the store has `slot_count` slots.  Nodes of rows that are dead may
 * be linked still: no slot is used again until a sweep has seen to them, but for those that replay
 * uses. */
void vector_index_adopt(struct vector_index *ix, const struct vector_index_state *state,
                        uint64_t lsn, uint32_t slot_count);

/* Any thread, R or while the store cannot be closed.  Takes no lock. */
void vector_index_info(struct vector_index *ix, struct vector_index_info *info);

#endif

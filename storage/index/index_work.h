/*
 * index_work.h - one turn of background work on one database, and what there is to do: inside of
 * the indexer.
 *
 * A turn lasts some milliseconds (`deadline_ns`) and is done under LOCK_INDEX of the store, which
 * is therefore not replaced.  Whatever takes longer keeps its state in the index and goes on in a
 * later turn.  Functions that return a time say when the next turn makes sense: 0 is at once,
 * UINT64_MAX not before something happens.
 */
#ifndef STORAGE_INDEX_INDEX_WORK_H
#define STORAGE_INDEX_INDEX_WORK_H

#include "storage/base/clock.h"
#include "storage/database_private.h"
#include "storage/index/nearest.h"
#include "storage/index/team.h"
#include "storage/index/vector_index_private.h"

#define SECOND_NS 1000000000ull

struct index_work {
    struct database *db;
    struct store *store;
    struct vector_index *ix; /* the store's */
    struct team *team;
    const _Atomic bool *stop;
    uint64_t deadline_ns;
};

/* Nobody wants it any more. */
static inline bool work_is_cancelled(const struct index_work *w)
{
    return atomic_load_explicit(w->stop, memory_order_relaxed) ||
           atomic_load_explicit(&w->db->dropping, memory_order_relaxed) ||
           atomic_load_explicit(&w->db->failed, memory_order_relaxed) != ERR_OK;
}

/* The turn is. */
static inline bool work_is_over(const struct index_work *w)
{
    return work_is_cancelled(w) || clock_ns() >= w->deadline_ns;
}

static inline struct graph *work_graph(const struct index_work *w)
{
    return atomic_load_explicit(&w->ix->graph, memory_order_relaxed);
}

/* ---- rows ---- */

/* In an epoch section: the slot and the row in it.  False: damaged, and the database is quarantined
 * now. */
bool work_slot(const struct index_work *w, uint32_t number, const struct slot **slot);
bool work_row(const struct index_work *w, uint32_t number, const struct slot *slot,
              const float **row);

#define SLOT_GET(field) __atomic_load_n(&(field), __ATOMIC_ACQUIRE)

/* A pseudo-random order of the numbers below 2^bits: where number i goes. */
uint64_t work_shuffle(uint64_t i, unsigned bits);
/* The fewest bits that number `count` things. */
unsigned work_shuffle_bits(uint64_t count);

/* exact_distances() of any number of rows. */
void work_distances(const struct exact *e, const float *const *rows, size_t count, double *out);

/* ---- the graph ---- */

/* A bit for each node that the arena has room for, and each slot that is known to be dead: it is
 * not dead, or (`dead`) it is.  *words (may be NULL): how long they are.  NULL: out of memory. */
uint64_t *work_live_bits(const struct index_work *w, const struct graph *g, bool dead,
                         size_t *words);
bool work_is_linked(const struct graph *g, uint32_t node);
/* Does the graph have the code of this life of the slot? */
bool work_is_encoded(const struct graph *g, uint32_t node, uint32_t generation);
/* For graph_link(): in an epoch section, `ctx` is the index's dead bits. */
bool work_is_alive(void *ctx, uint32_t node);
/* Entry points, if they are too few or `anyway`. */
void work_choose_pivots(const struct index_work *w, struct graph *g, bool anyway);

/* ---- what there is to do ---- */

/* index_link.c: link what is pending. */
uint64_t link_pending(struct index_work *w);
bool link_is_done(const struct vector_index *ix);
/* Take positions below `position` from the pending, as they are in the graph. */
void link_skip_to(struct vector_index *ix, uint64_t position);
void link_window_free(struct link_window *window);

/* index_build.c: build a graph where there is none, or another one. */
bool build_is_due(const struct index_work *w);
void build_start(struct index_work *w);
uint64_t build_go_on(struct index_work *w);
/* The rows that come now are for the new graph alone. */
bool build_is_closing(const struct build *b);
void build_free(struct build *b);
/* Without a graph, from nothing: under `mu`. */
void index_reset(struct index_work *w);

/* index_sweep.c: remove links to dead nodes. */
uint64_t sweep_due(const struct index_work *w);
void sweep_start(struct index_work *w);
uint64_t sweep_go_on(struct index_work *w);
void sweep_free(struct sweep *s);

/* index_audit.c: find nodes that nothing leads to, and rows that do not find themselves. */
uint64_t audit_due(const struct index_work *w);
void audit_start(struct index_work *w);
uint64_t audit_go_on(struct index_work *w);
void audit_free(struct audit *a);

/* index_measure.c: the recall that an effort gives; live searches done again. */
uint64_t measurement_due(const struct index_work *w);
void measurement_start(struct index_work *w);
uint64_t measurement_go_on(struct index_work *w);
void measurement_free(struct measurement *m);

/* When something that costs `cost_ns` may be done that waits for idle time: rows have not changed
 * for a while, a long one compared with the cost. */
uint64_t work_idle_at(const struct index_work *w, uint64_t cost_ns);

#endif

/*
 * vector_index_private.h - inside of a vector index: for vector_index.c and the files of the
 * indexer.
 *
 * A row's slot number is in `pending` from before the row is visible until it is linked.  Positions
 * only grow, and what was written to one never changes:
 *
 *      head          encoded            tail
 *   ....|---------------|----------------|
 *  linked    has codes     compared as rows
 *
 * `dead` has a bit for each slot whose row ended while the graph was tracked.
 */
#ifndef STORAGE_INDEX_VECTOR_INDEX_PRIVATE_H
#define STORAGE_INDEX_VECTOR_INDEX_PRIVATE_H

#include <stdatomic.h>

#include "storage/index/vector_index.h"

struct build;       /* index_build.c   */
struct sweep;       /* index_sweep.c   */
struct audit;       /* index_audit.c   */
struct measurement; /* index_measure.c */
struct link_window; /* index_link.c    */

/* Positions base .. base + mask; replaced by a longer one when they are used up. */
struct pending {
    uint64_t base, mask;
    uint32_t slots[];
};

/* Slots or nodes; grows at the end, is replaced when it is full or something is taken out. */
struct slot_list {
    uint32_t cap;
    _Atomic uint32_t count;
    uint32_t slots[];
};

struct slot_bits {
    uint64_t words;
    _Atomic uint64_t bits[];
};

/* Searches to be done again exactly. */
enum { SAMPLES_MAX = 32, SAMPLE_RESULTS_MAX = 100 };
struct sample {
    float *query; /* owned */
    uint64_t lsn;
    uint32_t k, count;
    uint32_t slots[SAMPLE_RESULTS_MAX];
};
struct samples {
    struct mutex mu; /* LOCK_LEAF; guards `list` and what follows */
    struct sample list[SAMPLES_MAX];
    uint32_t count, taken;
    uint64_t last_ns;     /* when one was taken */
    int32_t one_in;       /* so that it is about one a second */
    _Atomic int32_t skip; /* searches until the next one */
};

struct vector_index {
    /* Constant. */
    enum metric metric;
    uint32_t dimension;
    struct index_options options;

    struct mutex mu; /* LOCK_INDEX */

    /* Read by searches; stored under `mu` or by the writer, as said. */
    _Atomic(struct graph *) graph;     /* mu                                                     */
    _Atomic uint64_t from_lsn;         /* mu: older snapshots may see rows that it does not hold */
    _Atomic(struct pending *) pending; /* writer                                                 */
    _Atomic uint64_t head, encoded;    /* mu                                                     */
    _Atomic uint64_t tail;             /* writer                                                 */
    _Atomic(struct slot_list *) aside; /* mu; NULL: none                                         */
    _Atomic(struct slot_list *) extra; /* mu; extra pivots; NULL: none                           */
    _Atomic(struct effort_table *) effort; /* mu; NULL: not measured                              */
    /* What could not be noted for want of memory, or may be missing: searches are exact until the
     * indexer has thrown the graph away. */
    _Atomic bool lost;
    _Atomic uint32_t searched; /* so often, about; not counted for ever */

    /* The writer's (LOCK_DATABASE). */
    bool tracking; /* puts and ends are noted: there is a graph, or one is built */
    _Atomic(struct slot_bits *) dead; /* loaded by linkers, too */
    _Atomic uint64_t ended;           /* rows, while tracked */
    uint32_t untold;                  /* puts since the indexer was told */
    _Atomic bool news;                /* it is to be told */
    _Atomic uint64_t reuse_lsn;       /* stored under both locks */
    /* Rows that died at this LSN or before may be missing.  Stored under mu. */
    _Atomic uint64_t forgot_lsn;

    /* Of the flow of writes. */
    _Atomic uint64_t pending_max; /* more are a backlog, whoever searches         */
    _Atomic uint64_t crowded_ns;  /* when a search last found too many; 0: never  */
    _Atomic uint64_t rows_per_s;  /* that are linked when there is enough to do   */
    _Atomic uint64_t next_put_ns; /* vector_index_delay_ns()                      */

    /* For vector_index_info(). */
    _Atomic bool building;
    _Atomic uint32_t progress_ppm; /* of the build under way */
    _Atomic uint64_t eta_ms;
    _Atomic uint64_t recall_samples;
    _Atomic uint32_t recall_ppm; /* moving average of what samples showed */

    struct samples samples;

    /* The indexer's, under `mu`. */
    struct build *build; /* under way; NULL: none */
    struct sweep *sweep; /* so is this one        */
    struct audit *audit;
    struct measurement *measurement;
    struct link_window *window; /* pending rows being linked */
    uint32_t turns;             /* that linking had to share */
    uint64_t linked;            /* positions below are linked ...                            */
    uint64_t release_position;  /* ... and are head when every reader of this epoch has left */
    uint64_t release_epoch;
    uint64_t timed_rows, timed_ns; /* linked since then, to learn rows_per_s; 0: none are */
    uint64_t swept;                /* of `ended`: a sweep has seen to so many */
    uint64_t inserted;             /* nodes linked or swept since the last audit */
    uint64_t changes;              /* nodes linked or swept since all rows were searched for */
    uint64_t found_lsn;    /* rows born until then were, from the entry points there are now */
    uint64_t tested_rows;  /* when mean and codec were chosen or looked at */
    bool measure_again;    /* links have changed since */
    bool measured_well;    /* as precisely as may be */
    bool fallen_apart;     /* rows do not find themselves: build anew ... */
    uint64_t rebuilt_rows; /* ... but not again before there are clearly more rows than this */
    struct {
        bool replaying; /* the log may be replayed still: slots are used whose nodes are linked */
        bool counting;  /* dead slots of the time before are being noted ...                 */
        uint32_t next, end; /* ... these */
        uint64_t at_ns;     /* when that was */
    } adopted;
    uint64_t seen_changes, changed_ns; /* when rows came or ended last        */
    uint64_t swept_ns, audited_ns;     /* what the last one cost              */
    uint64_t measured_ns, sampled_ns;  /* so for these                        */
    uint64_t sampled_at_ns;            /* when samples were looked at         */
    uint64_t not_before_ns;            /* something failed: try again then    */

    /* For tests: do at once what waits for idle time; there was nothing left to do; queries of a
     * calibration, 0: as many as are good. */
    _Atomic bool hurry, settled;
    _Atomic uint32_t queries_max;
};

/* Searches may look at what is given back; NULL is fine. */
void vector_index_retire(void *p);
void vector_index_retire_graph(struct graph *g);
/* How many rows may be pending, with codes like those of `g`. */
void vector_index_set_pending_max(struct vector_index *ix, const struct graph *g);
/* Searches are exact from here on, until the indexer has thrown the graph away. */
void vector_index_lose(struct vector_index *ix);
/* W: bits for slots below `slots`.  False: out of memory. */
bool vector_index_reserve_dead(struct vector_index *ix, uint64_t slots);
/* W */
void vector_index_set_dead(struct vector_index *ix, uint32_t slot, bool dead);
/* Rows that are pending; any thread. */
uint64_t vector_index_pending(const struct vector_index *ix);

/* A list with the slots of `list` (may be NULL) and `count` more, with room to grow.  NULL: out of
 * memory. */
struct slot_list *slot_list_extend(const struct slot_list *list, const uint32_t *slots,
                                   size_t count);

static inline uint32_t slot_list_count(const struct slot_list *list)
{
    return list ? atomic_load_explicit(&((struct slot_list *)(uintptr_t)list)->count,
                                       memory_order_acquire)
                : 0;
}

static inline bool slot_bits_has(const struct slot_bits *bits, uint32_t slot)
{
    return slot / 64 < bits->words &&
           atomic_load_explicit(&((struct slot_bits *)(uintptr_t)bits)->bits[slot / 64],
                                memory_order_relaxed) >>
                   slot % 64 &
               1;
}

#endif

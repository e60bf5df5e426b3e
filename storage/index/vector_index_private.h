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
    _Atomic uint64_t pending_max; /* more are a backlog                           */
    _Atomic uint64_t rows_per_s;  /* that are linked when there is enough to do   */
    _Atomic uint64_t next_put_ns; /* vector_index_delay_ns()                      */

    /* For vector_index_info(). */
    _Atomic bool building;
    _Atomic uint32_t progress_ppm; /* of the build under way */
    _Atomic uint64_t eta_ms;
    _Atomic uint64_t memory_bytes;
    _Atomic uint32_t recall_ppm;
    _Atomic uint64_t recall_samples;
};

#endif

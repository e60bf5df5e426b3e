/*
 * pool.h - the candidate pool of a graph search: the nearest `limit` entries met so far, sorted.
 *
 * A structure of arrays, so that an insertion compares and moves whole registers and hardly
 * branches; a binary search costs a mispredicted branch or two.  kernel_set.pool_offer puts entries
 * in.  Arrays that begin at a multiple of 64 bytes are a fifth faster with AVX-512.
 *
 * Invariant: distance[0 .. count) ascends.  Behind it, where whole registers are read and written,
 * lie only +inf and distances that dropped out; none of them is nearer than `worst`.
 *
 * The caller owns both arrays.  One thread at a time.
 */
#ifndef STORAGE_KERNEL_POOL_H
#define STORAGE_KERNEL_POOL_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>

enum { POOL_PADDING = 32 };

/* The caller's mark on an id.  It moves with its entry and has no part in the order. */
#define POOL_EXPANDED 0x80000000u

struct pool {
    float *distance;       /* limit + POOL_PADDING */
    uint32_t *id;          /* limit + POOL_PADDING */
    uint32_t count, limit; /* count <= limit, 1 <= limit */
    float worst;           /* what a candidate must be nearer than: +inf until count == limit,
                            * distance[limit - 1] from then on */
};

/* An empty pool over arrays that the caller keeps until it is done with the pool. */
static inline void pool_init(struct pool *pool, float *distance, uint32_t *id, uint32_t limit)
{
    *pool = (struct pool){.distance = distance, .id = id, .limit = limit, .worst = INFINITY};
    for (size_t i = 0; i < (size_t)limit + POOL_PADDING; i++)
        distance[i] = INFINITY;
}

/* Empties the pool; touches only what was used.  Afterwards the caller may set limit to anything
 * from 1 to the limit of pool_init. */
static inline void pool_clear(struct pool *pool)
{
    for (size_t i = 0; i < (size_t)pool->count + POOL_PADDING; i++)
        pool->distance[i] = INFINITY;
    pool->count = 0;
    pool->worst = INFINITY;
}

#endif

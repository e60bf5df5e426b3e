/*
 * kernel_pool.h - pool_offer of one instruction set, in terms of blocks of LANES entries.
 *
 * Private to storage/kernel.  A file includes this after it has defined
 *     LANES                            entries in a block, at most POOL_PADDING
 *     struct block                     their distances and ids
 *     load_block(pool, position), store_block(pool, position, block)
 *     nothing_before()                 a block of -inf
 *     moved_up(block, before)          block one lane up, the last entry of `before` comes in
 *     merged(block, up, distance, id)  lane by lane: block where it is at most distance away,
 *                                      else the candidate where `up` is, else up
 *     clipped(block, count)            +inf from lane count on
 *     near(block, distance)            how many lanes are at most this far away
 *     nearer(distances, left, worst)   bit i: distances[i] < worst, for i < min(LANES, left)
 *
 * In a sorted array an insertion looks the same in every lane, so there is no search: the walk goes
 * down from the last entry, a block at a time, until nothing more moves.  Blocks are stored where
 * they are loaded, so a load soon after finds its bytes in one store, which CPUs forward.
 */
#ifndef STORAGE_KERNEL_KERNEL_POOL_H
#define STORAGE_KERNEL_KERNEL_POOL_H

#include "storage/kernel/kernel_lanes.h"
#include "storage/kernel/pool.h"

/* Returns the position where the entry now is.  distance < pool->worst. */
KERNEL_INLINE uint32_t insert(struct pool *pool, uint32_t id, float distance)
{
    const uint32_t last = pool->count < pool->limit ? pool->count : pool->limit - 1;
    uint32_t at = last / LANES * LANES;
    struct block block = load_block(pool, at);
    uint32_t entries = last % LANES + 1; /* from the old last one on it is +inf */
    for (;;) {
        const struct block before = at ? load_block(pool, at - LANES) : nothing_before();
        const struct block put = merged(block, moved_up(block, before), distance, id);
        store_block(pool, at, clipped(put, entries));
        const uint32_t kept = near(block, distance);
        if (kept || !at || near(before, distance) == LANES) {
            at += kept;
            break;
        }
        at -= LANES;
        entries = LANES;
        block = before;
    }
    pool->count = last + 1;
    if (pool->count == pool->limit) pool->worst = pool->distance[last];
    return at;
}

KERNEL_INLINE uint32_t offer(struct pool *pool, const uint32_t *ids, const float *distances,
                             size_t count)
{
    uint32_t lowest = UINT32_MAX;
    for (size_t i = 0; i < count; i += LANES) {
        uint32_t left = nearer(distances + i, count - i, pool->worst);
        for (; left; left &= left - 1) {
            const size_t j = i + (size_t)__builtin_ctz(left);
            if (!(distances[j] < pool->worst)) continue; /* worst has come down since */
            const uint32_t at = insert(pool, ids[j], distances[j]);
            if (at < lowest) lowest = at;
        }
    }
    return lowest;
}

#endif

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
 *     near(block, distance)            how many lanes are at most this far away
 *     nearer(distances, left, worst)   bit i: distances[i] < worst, for i < min(LANES, left)
 *
 * The walk goes down from the last entry and moves whole blocks up by one lane; in the last group
 * of blocks, where the candidate belongs, every lane decides for itself.  So there is no search,
 * and in a pool of one group no branch depends on where the candidate belongs.  Blocks are stored
 * where they are loaded, so that a load soon after finds its bytes in one store, which CPUs
 * forward. Behind the last entry lie +inf and what dropped out, which was never nearer than worst
 * is now: the candidate is nearer than all of it.
 */
#ifndef STORAGE_KERNEL_KERNEL_POOL_H
#define STORAGE_KERNEL_KERNEL_POOL_H

#include "storage/kernel/kernel_lanes.h"
#include "storage/kernel/pool.h"

/* Blocks that are done without asking whether they are needed: as many as a mispredicted branch
 * costs. */
enum { GROUP = 8 };

/* Returns the position where the entry now is.  distance < pool->worst. */
KERNEL_INLINE uint32_t insert(struct pool *pool, uint32_t id, float distance)
{
    const uint32_t last = pool->count < pool->limit ? pool->count : pool->limit - 1;
    uint32_t at = last / LANES * LANES;
    struct block block = load_block(pool, at);
    /* Groups that move as a whole: even the entry below them is farther. */
    while (at >= GROUP * LANES && pool->distance[at - (GROUP - 1) * LANES - 1] > distance) {
        for (int i = 0; i < GROUP; i++) {
            const struct block before = load_block(pool, at - LANES);
            store_block(pool, at, moved_up(block, before));
            at -= LANES;
            block = before;
        }
    }
    uint32_t stay = near(block, distance);
    for (int i = 1;; i++) {
        const struct block before = at ? load_block(pool, at - LANES) : nothing_before();
        store_block(pool, at, merged(block, moved_up(block, before), distance, id));
        if (!at || i == GROUP) break;
        at -= LANES;
        block = before;
        stay += near(block, distance);
    }
    pool->count = last + 1;
    if (pool->count == pool->limit) pool->worst = pool->distance[last];
    return at + stay;
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

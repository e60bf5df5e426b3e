/* kernel_scalar_navigation.c - codes, pool and transform in plain C: what is correct. */
#include <math.h>
#include <string.h>

#include "storage/kernel/kernel_lanes.h"
#include "storage/kernel/kernel_parts.h"
#include "storage/kernel/pool.h"

void scalar_dot_u8s8(const uint8_t *base, size_t stride, const uint32_t *ids, size_t count,
                     const int8_t *query, size_t bytes, int32_t *out)
{
    for (size_t i = 0; i < count; i++) {
        const uint8_t *code = base + ids[i] * stride;
        int32_t sum = 0;
        for (size_t j = 0; j < bytes; j++)
            sum += code[j] * query[j];
        out[i] = sum;
    }
}

void scalar_dot_u1s8(const uint8_t *base, size_t stride, const uint32_t *ids, size_t count,
                     const int8_t *query, size_t dimension, int32_t *out)
{
    for (size_t i = 0; i < count; i++) {
        const uint8_t *code = base + ids[i] * stride;
        int32_t sum = 0;
        for (size_t j = 0; j < dimension; j++)
            sum += (code[j / 8] >> j % 8 & 1) * query[j];
        out[i] = sum;
    }
}

KERNEL_INLINE float term_of(enum kernel_term term, float x, float y)
{
    if (term == TERM_DOT) return x * y;
    const float d = x - y;
    return term == TERM_L2SQ ? d * d : fabsf(d);
}

KERNEL_INLINE void floats(enum kernel_term term, const uint8_t *base, size_t stride,
                          const uint32_t *ids, size_t count, const float *query, size_t dimension,
                          float *out)
{
    for (size_t i = 0; i < count; i++) {
        const float *cell = (const float *)(const void *)(base + ids[i] * stride);
        float s[KERNEL_LANES] = {0};
        for (size_t j = 0; j < dimension; j++)
            s[j % KERNEL_LANES] += term_of(term, query[j], cell[j]);
        out[i] = ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
    }
}

void scalar_dot_f32(const uint8_t *base, size_t stride, const uint32_t *ids, size_t count,
                    const float *query, size_t dimension, float *out)
{
    floats(TERM_DOT, base, stride, ids, count, query, dimension, out);
}

void scalar_l2sq_f32(const uint8_t *base, size_t stride, const uint32_t *ids, size_t count,
                     const float *query, size_t dimension, float *out)
{
    floats(TERM_L2SQ, base, stride, ids, count, query, dimension, out);
}

void scalar_l1_f32(const uint8_t *base, size_t stride, const uint32_t *ids, size_t count,
                   const float *query, size_t dimension, float *out)
{
    floats(TERM_L1, base, stride, ids, count, query, dimension, out);
}

/* How many entries are at most this far away: the position behind them. */
static uint32_t rank_of(const struct pool *pool, float distance)
{
    uint32_t low = 0, high = pool->count;
    while (low < high) {
        const uint32_t middle = (low + high) / 2;
        if (pool->distance[middle] <= distance)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void insert(struct pool *pool, uint32_t at, uint32_t id, float distance)
{
    const uint32_t kept = pool->count < pool->limit ? pool->count : pool->limit - 1;
    memmove(pool->distance + at + 1, pool->distance + at, (kept - at) * sizeof *pool->distance);
    memmove(pool->id + at + 1, pool->id + at, (kept - at) * sizeof *pool->id);
    pool->distance[at] = distance;
    pool->id[at] = id;
    pool->count = kept + 1;
    if (pool->count == pool->limit) pool->worst = pool->distance[kept];
}

uint32_t scalar_pool_offer(struct pool *pool, const uint32_t *ids, const float *distances,
                           size_t count)
{
    uint32_t lowest = UINT32_MAX;
    for (size_t i = 0; i < count; i++) {
        if (!(distances[i] < pool->worst)) continue;
        const uint32_t at = rank_of(pool, distances[i]);
        insert(pool, at, ids[i], distances[i]);
        if (at < lowest) lowest = at;
    }
    return lowest;
}

void scalar_hadamard(float *x, size_t n)
{
    for (size_t span = 1; span < n; span *= 2) {
        for (size_t i = 0; i < n; i += 2 * span) {
            for (size_t j = i; j < i + span; j++) {
                const float a = x[j], b = x[j + span];
                x[j] = a + b;
                x[j + span] = a - b;
            }
        }
    }
    const float scale = kernel_hadamard_scale(n);
    for (size_t i = 0; i < n; i++)
        x[i] *= scale;
}

/* kernel_neon_pool.c - the candidate pool with NEON. */
#if defined(__aarch64__)

#include <arm_neon.h>

#include "storage/kernel/kernel_lanes.h"
#include "storage/kernel/kernel_parts.h"
#include "storage/kernel/pool.h"

enum { LANES = 4 };

struct block {
    float32x4_t distance;
    uint32x4_t id;
};

KERNEL_INLINE struct block load_block(const struct pool *pool, uint32_t at)
{
    return (struct block){vld1q_f32(pool->distance + at), vld1q_u32(pool->id + at)};
}

KERNEL_INLINE void store_block(struct pool *pool, uint32_t at, struct block b)
{
    vst1q_f32(pool->distance + at, b.distance);
    vst1q_u32(pool->id + at, b.id);
}

KERNEL_INLINE struct block nothing_before(void)
{
    return (struct block){vdupq_n_f32(-INFINITY), vdupq_n_u32(0)};
}

KERNEL_INLINE struct block moved_up(struct block b, struct block before)
{
    return (struct block){vextq_f32(before.distance, b.distance, LANES - 1),
                          vextq_u32(before.id, b.id, LANES - 1)};
}

KERNEL_INLINE struct block merged(struct block b, struct block up, float distance, uint32_t id)
{
    const float32x4_t d = vdupq_n_f32(distance);
    const uint32x4_t stay = vcleq_f32(b.distance, d), reach = vcleq_f32(up.distance, d);
    return (struct block){
        vbslq_f32(stay, b.distance, vbslq_f32(reach, d, up.distance)),
        vbslq_u32(stay, b.id, vbslq_u32(reach, vdupq_n_u32(id), up.id)),
    };
}

KERNEL_INLINE uint32_t near(struct block b, float distance)
{
    return vaddvq_u32(vshrq_n_u32(vcleq_f32(b.distance, vdupq_n_f32(distance)), 31));
}

KERNEL_INLINE uint32_t nearer(const float *distances, size_t left, float worst)
{
    uint32_t bits = 0;
    if (left < LANES) {
        for (size_t i = 0; i < left; i++)
            bits |= (uint32_t)(distances[i] < worst) << i;
        return bits;
    }
    const uint32x4_t lanes = vcltq_f32(vld1q_f32(distances), vdupq_n_f32(worst));
    const uint32x4_t bit_of_lane = {1, 2, 4, 8};
    return vaddvq_u32(vandq_u32(lanes, bit_of_lane));
}

#include "storage/kernel/kernel_pool.h"

uint32_t neon_pool_offer(struct pool *pool, const uint32_t *ids, const float *distances,
                         size_t count)
{
    return offer(pool, ids, distances, count);
}

#else

typedef int kernel_neon_pool_is_for_other_machines;

#endif

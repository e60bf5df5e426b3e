/* kernel_avx512_pool.c - the candidate pool with AVX-512. */
#if defined(__x86_64__)

#include <immintrin.h>

#include "storage/kernel/kernel_lanes.h"
#include "storage/kernel/kernel_parts.h"
#include "storage/kernel/pool.h"

enum { LANES = 16 };

struct block {
    __m512 distance;
    __m512i id;
};

KERNEL_INLINE struct block load_block(const struct pool *pool, uint32_t at)
{
    return (struct block){_mm512_loadu_ps(pool->distance + at), _mm512_loadu_si512(pool->id + at)};
}

KERNEL_INLINE void store_block(struct pool *pool, uint32_t at, struct block b)
{
    _mm512_storeu_ps(pool->distance + at, b.distance);
    _mm512_storeu_si512(pool->id + at, b.id);
}

KERNEL_INLINE struct block nothing_before(void)
{
    return (struct block){_mm512_set1_ps(-INFINITY), _mm512_setzero_si512()};
}

KERNEL_INLINE __m512i shift_in(__m512i values, __m512i before)
{
    return _mm512_alignr_epi32(values, before, LANES - 1);
}

KERNEL_INLINE struct block moved_up(struct block b, struct block before)
{
    return (struct block){
        _mm512_castsi512_ps(
            shift_in(_mm512_castps_si512(b.distance), _mm512_castps_si512(before.distance))),
        shift_in(b.id, before.id),
    };
}

KERNEL_INLINE __mmask16 at_most(__m512 values, float distance)
{
    return _mm512_cmp_ps_mask(values, _mm512_set1_ps(distance), _CMP_LE_OQ);
}

KERNEL_INLINE struct block merged(struct block b, struct block up, float distance, uint32_t id)
{
    const __mmask16 stay = at_most(b.distance, distance), reach = at_most(up.distance, distance);
    const __m512 distances = _mm512_mask_mov_ps(up.distance, reach, _mm512_set1_ps(distance));
    const __m512i ids = _mm512_mask_mov_epi32(up.id, reach, _mm512_set1_epi32((int)id));
    return (struct block){_mm512_mask_mov_ps(distances, stay, b.distance),
                          _mm512_mask_mov_epi32(ids, stay, b.id)};
}

KERNEL_INLINE uint32_t near(struct block b, float distance)
{
    return (uint32_t)__builtin_popcount(at_most(b.distance, distance));
}

KERNEL_INLINE uint32_t nearer(const float *distances, size_t left, float worst)
{
    const __mmask16 some = left < LANES ? (__mmask16)(0xffffu >> (LANES - left)) : 0xffff;
    const __m512 values = _mm512_maskz_loadu_ps(some, distances);
    return _mm512_mask_cmp_ps_mask(some, values, _mm512_set1_ps(worst), _CMP_LT_OQ);
}

#include "storage/kernel/kernel_pool.h"

uint32_t avx512_pool_offer(struct pool *pool, const uint32_t *ids, const float *distances,
                           size_t count)
{
    return offer(pool, ids, distances, count);
}

#else

typedef int kernel_avx512_pool_is_for_other_machines;

#endif

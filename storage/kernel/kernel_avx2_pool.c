/* kernel_avx2_pool.c - the candidate pool with AVX2. */
#if defined(__x86_64__)

#include <immintrin.h>

#include "storage/kernel/kernel_lanes.h"
#include "storage/kernel/kernel_parts.h"
#include "storage/kernel/pool.h"

enum { LANES = 8 };

struct block {
    __m256 distance;
    __m256i id;
};

KERNEL_INLINE struct block load_block(const struct pool *pool, uint32_t at)
{
    return (struct block){
        _mm256_loadu_ps(pool->distance + at),
        _mm256_loadu_si256((const __m256i *)(const void *)(pool->id + at)),
    };
}

KERNEL_INLINE void store_block(struct pool *pool, uint32_t at, struct block b)
{
    _mm256_storeu_ps(pool->distance + at, b.distance);
    _mm256_storeu_si256((__m256i *)(void *)(pool->id + at), b.id);
}

KERNEL_INLINE struct block nothing_before(void)
{
    return (struct block){_mm256_set1_ps(-INFINITY), _mm256_setzero_si256()};
}

KERNEL_INLINE __m256i shift_in(__m256i values, __m256i before)
{
    const __m256i up = _mm256_setr_epi32(7, 0, 1, 2, 3, 4, 5, 6);
    return _mm256_permutevar8x32_epi32(_mm256_blend_epi32(values, before, 1 << (LANES - 1)), up);
}

KERNEL_INLINE struct block moved_up(struct block b, struct block before)
{
    return (struct block){
        _mm256_castsi256_ps(
            shift_in(_mm256_castps_si256(b.distance), _mm256_castps_si256(before.distance))),
        shift_in(b.id, before.id),
    };
}

KERNEL_INLINE __m256 at_most(__m256 values, float distance)
{
    return _mm256_cmp_ps(values, _mm256_set1_ps(distance), _CMP_LE_OQ);
}

/* yes where `where` is set, else no. */
KERNEL_INLINE __m256i chosen(__m256 where, __m256i yes, __m256i no)
{
    return _mm256_blendv_epi8(no, yes, _mm256_castps_si256(where));
}

KERNEL_INLINE struct block merged(struct block b, struct block up, float distance, uint32_t id)
{
    const __m256 stay = at_most(b.distance, distance), reach = at_most(up.distance, distance);
    const __m256 distances = _mm256_blendv_ps(up.distance, _mm256_set1_ps(distance), reach);
    const __m256i ids = chosen(reach, _mm256_set1_epi32((int)id), up.id);
    return (struct block){_mm256_blendv_ps(distances, b.distance, stay), chosen(stay, b.id, ids)};
}

KERNEL_INLINE uint32_t near(struct block b, float distance)
{
    return (uint32_t)__builtin_popcount(
        (unsigned)_mm256_movemask_ps(at_most(b.distance, distance)));
}

KERNEL_INLINE uint32_t nearer(const float *distances, size_t left, float worst)
{
    if (left < LANES) {
        uint32_t bits = 0;
        for (size_t i = 0; i < left; i++)
            bits |= (uint32_t)(distances[i] < worst) << i;
        return bits;
    }
    const __m256 values = _mm256_loadu_ps(distances);
    return (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(values, _mm256_set1_ps(worst), _CMP_LT_OQ));
}

#include "storage/kernel/kernel_pool.h"

uint32_t avx2_pool_offer(struct pool *pool, const uint32_t *ids, const float *distances,
                         size_t count)
{
    return offer(pool, ids, distances, count);
}

#else

typedef int kernel_avx2_pool_is_for_other_machines;

#endif

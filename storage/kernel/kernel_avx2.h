/*
 * kernel_avx2.h - what the integer dot products with and without AVX-VNNI share.
 *
 * Private to storage/kernel; only for files compiled for AVX2.
 */
#ifndef STORAGE_KERNEL_KERNEL_AVX2_H
#define STORAGE_KERNEL_KERNEL_AVX2_H

#include <immintrin.h>
#include <string.h>

#include "storage/kernel/kernel_lanes.h"

struct sums {
    __m256i all;
};

KERNEL_INLINE struct sums no_sums(void)
{
    return (struct sums){_mm256_setzero_si256()};
}

KERNEL_INLINE __m256i load_bytes(const void *from)
{
    return _mm256_loadu_si256((const __m256i *)from);
}

struct bit_query {
    __m256i low, high;
};

KERNEL_INLINE struct bit_query bit_query_of(const int8_t *from)
{
    return (struct bit_query){load_bytes(from), load_bytes(from + 32)};
}

/* The numbers of the query whose bit is set in four bytes of a code. */
KERNEL_INLINE __m256i chosen(__m256i q, const uint8_t *code)
{
    int32_t bits;
    memcpy(&bits, code, sizeof bits);
    const __m256i byte_of_lane =
        _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i bit_of_lane = _mm256_set1_epi64x((int64_t)0x8040201008040201);
    const __m256i bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(bits), byte_of_lane);
    const __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit_of_lane), bit_of_lane);
    return _mm256_and_si256(q, set);
}

KERNEL_INLINE int32_t byte_bias(const int8_t *query, size_t bytes)
{
    (void)query, (void)bytes;
    return 0;
}

KERNEL_INLINE void store_totals(int32_t *out, const struct sums *a, const struct sums *b,
                                const struct sums *c, const struct sums *d, int32_t bias)
{
    (void)bias;
    const __m256i halves =
        _mm256_hadd_epi32(_mm256_hadd_epi32(a->all, b->all), _mm256_hadd_epi32(c->all, d->all));
    const __m128i totals =
        _mm_add_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1));
    _mm_storeu_si128((__m128i *)(void *)out, totals);
}

#endif

/* kernel_avx2_codes.c - integer dot products with AVX2. */
#if defined(__x86_64__)

#include <immintrin.h>
#include <string.h>

#include "storage/kernel/kernel_lanes.h"
#include "storage/kernel/kernel_parts.h"

struct sums {
    __m256i all;
};

KERNEL_INLINE struct sums no_sums(void)
{
    return (struct sums){_mm256_setzero_si256()};
}

/* Even and odd numbers apart, widened to 16 bits: u8 times s8 added in pairs would saturate. */
struct half_query {
    __m256i even, odd;
};

struct byte_query {
    struct half_query low, high;
};

KERNEL_INLINE struct half_query half_query_of(const int8_t *from)
{
    const __m256i q = _mm256_loadu_si256((const __m256i *)(const void *)from);
    return (struct half_query){
        .even = _mm256_srai_epi16(_mm256_slli_epi16(q, 8), 8),
        .odd = _mm256_srai_epi16(q, 8),
    };
}

KERNEL_INLINE struct byte_query byte_query_of(const int8_t *from)
{
    return (struct byte_query){half_query_of(from), half_query_of(from + 32)};
}

KERNEL_INLINE __m256i half_products(const struct half_query *q, const uint8_t *code)
{
    const __m256i c = _mm256_loadu_si256((const __m256i *)(const void *)code);
    const __m256i even = _mm256_and_si256(c, _mm256_set1_epi16(0xff));
    const __m256i odd = _mm256_srli_epi16(c, 8);
    return _mm256_add_epi32(_mm256_madd_epi16(even, q->even), _mm256_madd_epi16(odd, q->odd));
}

KERNEL_INLINE void add_bytes(struct sums *s, const struct byte_query *q, const uint8_t *code)
{
    s->all = _mm256_add_epi32(s->all, half_products(&q->low, code));
    s->all = _mm256_add_epi32(s->all, half_products(&q->high, code + 32));
}

KERNEL_INLINE int32_t byte_bias(const int8_t *query, size_t bytes)
{
    (void)query, (void)bytes;
    return 0;
}

struct bit_query {
    __m256i low, high;
};

KERNEL_INLINE struct bit_query bit_query_of(const int8_t *from)
{
    return (struct bit_query){
        _mm256_loadu_si256((const __m256i *)(const void *)from),
        _mm256_loadu_si256((const __m256i *)(const void *)(from + 32)),
    };
}

/* Sums of two, in 16 bits: the numbers of the query whose bit is set. */
KERNEL_INLINE __m256i half_chosen(__m256i q, const uint8_t *code)
{
    int32_t bits;
    memcpy(&bits, code, sizeof bits);
    const __m256i byte_of_lane =
        _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i bit_of_lane = _mm256_set1_epi64x((int64_t)0x8040201008040201);
    const __m256i bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(bits), byte_of_lane);
    const __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit_of_lane), bit_of_lane);
    return _mm256_maddubs_epi16(_mm256_set1_epi8(1), _mm256_and_si256(q, set));
}

KERNEL_INLINE void add_bits(struct sums *s, const struct bit_query *q, const uint8_t *code)
{
    const __m256i fours =
        _mm256_add_epi16(half_chosen(q->low, code), half_chosen(q->high, code + 4));
    s->all = _mm256_add_epi32(s->all, _mm256_madd_epi16(fours, _mm256_set1_epi16(1)));
}

KERNEL_INLINE void store_totals(int32_t *out, const struct sums *a, const struct sums *b,
                                const struct sums *c, const struct sums *d, int32_t bias)
{
    const __m256i halves =
        _mm256_hadd_epi32(_mm256_hadd_epi32(a->all, b->all), _mm256_hadd_epi32(c->all, d->all));
    const __m128i totals =
        _mm_add_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1));
    _mm_storeu_si128((__m128i *)(void *)out, _mm_add_epi32(totals, _mm_set1_epi32(bias)));
}

#include "storage/kernel/kernel_codes.h"

void avx2_dot_u8s8(const uint8_t *base, size_t stride, const uint32_t *ids, size_t count,
                   const int8_t *query, size_t bytes, int32_t *out)
{
    dot_bytes(base, stride, ids, count, query, bytes, out);
}

void avx2_dot_u1s8(const uint8_t *base, size_t stride, const uint32_t *ids, size_t count,
                   const int8_t *query, size_t dimension, int32_t *out)
{
    dot_bits(base, stride, ids, count, query, dimension, out);
}

#else

typedef int kernel_avx2_codes_is_for_other_machines;

#endif

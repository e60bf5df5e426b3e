/* kernel_avx2_codes.c - integer dot products with AVX2. */
#if defined(__x86_64__)

#include "storage/kernel/kernel_avx2.h"
#include "storage/kernel/kernel_parts.h"

/* Even and odd numbers apart, widened to 16 bits: u8 times s8 added in pairs would saturate. */
struct half_query {
    __m256i even, odd;
};

struct byte_query {
    struct half_query low, high;
};

KERNEL_INLINE struct half_query half_query_of(const int8_t *from)
{
    const __m256i q = load_bytes(from);
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
    const __m256i c = load_bytes(code);
    const __m256i even = _mm256_and_si256(c, _mm256_set1_epi16(0xff));
    const __m256i odd = _mm256_srli_epi16(c, 8);
    return _mm256_add_epi32(_mm256_madd_epi16(even, q->even), _mm256_madd_epi16(odd, q->odd));
}

KERNEL_INLINE void add_bytes(struct sums *s, const struct byte_query *q, const uint8_t *code)
{
    s->all = _mm256_add_epi32(s->all, half_products(&q->low, code));
    s->all = _mm256_add_epi32(s->all, half_products(&q->high, code + 32));
}

/* Sums of two, in 16 bits. */
KERNEL_INLINE __m256i pairs(__m256i numbers)
{
    return _mm256_maddubs_epi16(_mm256_set1_epi8(1), numbers);
}

KERNEL_INLINE void add_bits(struct sums *s, const struct bit_query *q, const uint8_t *code)
{
    const __m256i fours =
        _mm256_add_epi16(pairs(chosen(q->low, code)), pairs(chosen(q->high, code + 4)));
    s->all = _mm256_add_epi32(s->all, _mm256_madd_epi16(fours, _mm256_set1_epi16(1)));
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

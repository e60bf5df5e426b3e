/* kernel_avx512_codes.c - integer dot products with AVX-512 on machines without VNNI. */
#if defined(__x86_64__)

#include <immintrin.h>
#include <string.h>

#include "storage/kernel/kernel_avx512.h"
#include "storage/kernel/kernel_parts.h"

struct sums {
    __m512i all;
};

KERNEL_INLINE struct sums no_sums(void)
{
    return (struct sums){_mm512_setzero_si512()};
}

/* Even and odd numbers apart, widened to 16 bits: u8 times s8 added in pairs would saturate. */
struct byte_query {
    __m512i even, odd;
};

KERNEL_INLINE struct byte_query byte_query_of(const int8_t *from)
{
    const __m512i q = _mm512_loadu_si512(from);
    return (struct byte_query){
        .even = _mm512_srai_epi16(_mm512_slli_epi16(q, 8), 8),
        .odd = _mm512_srai_epi16(q, 8),
    };
}

KERNEL_INLINE void add_bytes(struct sums *s, const struct byte_query *q, const uint8_t *code)
{
    const __m512i c = _mm512_loadu_si512(code);
    const __m512i even = _mm512_and_si512(c, _mm512_set1_epi16(0xff));
    const __m512i odd = _mm512_srli_epi16(c, 8);
    const __m512i pairs =
        _mm512_add_epi32(_mm512_madd_epi16(even, q->even), _mm512_madd_epi16(odd, q->odd));
    s->all = _mm512_add_epi32(s->all, pairs);
}

KERNEL_INLINE int32_t byte_bias(const int8_t *query, size_t bytes)
{
    (void)query, (void)bytes;
    return 0;
}

struct bit_query {
    __m512i all;
};

KERNEL_INLINE struct bit_query bit_query_of(const int8_t *from)
{
    return (struct bit_query){_mm512_loadu_si512(from)};
}

KERNEL_INLINE void add_bits(struct sums *s, const struct bit_query *q, const uint8_t *code)
{
    __mmask64 bits;
    memcpy(&bits, code, sizeof bits);
    const __m512i chosen = _mm512_maskz_mov_epi8(bits, q->all);
    const __m512i pairs = _mm512_maddubs_epi16(_mm512_set1_epi8(1), chosen);
    s->all = _mm512_add_epi32(s->all, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
}

KERNEL_INLINE void store_totals(int32_t *out, const struct sums *a, const struct sums *b,
                                const struct sums *c, const struct sums *d, int32_t bias)
{
    const __m128i totals = totals_of_i32(a->all, b->all, c->all, d->all);
    _mm_storeu_si128((__m128i *)out, _mm_add_epi32(totals, _mm_set1_epi32(bias)));
}

#include "storage/kernel/kernel_codes.h"

void avx512_dot_u8s8(const uint8_t *base, size_t stride, const uint32_t *ids, size_t count,
                     const int8_t *query, size_t bytes, int32_t *out)
{
    dot_bytes(base, stride, ids, count, query, bytes, out);
}

void avx512_dot_u1s8(const uint8_t *base, size_t stride, const uint32_t *ids, size_t count,
                     const int8_t *query, size_t dimension, int32_t *out)
{
    dot_bits(base, stride, ids, count, query, dimension, out);
}

#else

typedef int kernel_avx512_codes_is_for_other_machines;

#endif

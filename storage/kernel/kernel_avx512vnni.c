/* kernel_avx512vnni.c - integer dot products with AVX-512 VNNI: vpdpbusd multiplies u8 by s8 and
 * adds four products to an int32 lane, without saturation. */
#if defined(__x86_64__)

#include <immintrin.h>
#include <string.h>

#include "storage/kernel/kernel_avx512.h"
#include "storage/kernel/kernel_parts.h"

struct sums {
    __m512i all;
};

struct byte_query {
    __m512i all;
};

struct bit_query {
    __m512i all;
};

KERNEL_INLINE struct sums no_sums(void)
{
    return (struct sums){_mm512_setzero_si512()};
}

KERNEL_INLINE struct byte_query byte_query_of(const int8_t *from)
{
    return (struct byte_query){_mm512_loadu_si512(from)};
}

KERNEL_INLINE void add_bytes(struct sums *s, const struct byte_query *q, const uint8_t *code)
{
    s->all = _mm512_dpbusd_epi32(s->all, _mm512_loadu_si512(code), q->all);
}

KERNEL_INLINE int32_t byte_bias(const int8_t *query, size_t bytes)
{
    (void)query, (void)bytes;
    return 0;
}

KERNEL_INLINE struct bit_query bit_query_of(const int8_t *from)
{
    return (struct bit_query){_mm512_loadu_si512(from)};
}

KERNEL_INLINE void add_bits(struct sums *s, const struct bit_query *q, const uint8_t *code)
{
    __mmask64 bits;
    memcpy(&bits, code, sizeof bits);
    const __m512i chosen = _mm512_maskz_mov_epi8(bits, q->all);
    s->all = _mm512_dpbusd_epi32(s->all, _mm512_set1_epi8(1), chosen);
}

KERNEL_INLINE void store_totals(int32_t *out, const struct sums *a, const struct sums *b,
                                const struct sums *c, const struct sums *d, int32_t bias)
{
    (void)bias;
    _mm_storeu_si128((__m128i *)out, totals_of_i32(a->all, b->all, c->all, d->all));
}

#include "storage/kernel/kernel_codes.h"

void avx512vnni_dot_u8s8(const uint8_t *base, size_t stride, const uint32_t *ids, size_t count,
                         const int8_t *query, size_t bytes, int32_t *out)
{
    dot_bytes(base, stride, ids, count, query, bytes, out);
}

void avx512vnni_dot_u1s8(const uint8_t *base, size_t stride, const uint32_t *ids, size_t count,
                         const int8_t *query, size_t dimension, int32_t *out)
{
    dot_bits(base, stride, ids, count, query, dimension, out);
}

#else

typedef int kernel_avx512vnni_is_for_other_machines;

#endif

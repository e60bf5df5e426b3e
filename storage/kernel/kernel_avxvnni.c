/* kernel_avxvnni.c - integer dot products with AVX-VNNI, for machines that have no AVX-512:
 * vpdpbusd multiplies u8 by s8 and adds four products to an int32 lane, without saturation. */
#if defined(__x86_64__)

#include "storage/kernel/kernel_avx2.h"
#include "storage/kernel/kernel_parts.h"

struct byte_query {
    __m256i low, high;
};

KERNEL_INLINE struct byte_query byte_query_of(const int8_t *from)
{
    return (struct byte_query){load_bytes(from), load_bytes(from + 32)};
}

KERNEL_INLINE void add_bytes(struct sums *s, const struct byte_query *q, const uint8_t *code)
{
    s->all = _mm256_dpbusd_avx_epi32(s->all, load_bytes(code), q->low);
    s->all = _mm256_dpbusd_avx_epi32(s->all, load_bytes(code + 32), q->high);
}

KERNEL_INLINE void add_bits(struct sums *s, const struct bit_query *q, const uint8_t *code)
{
    const __m256i one = _mm256_set1_epi8(1);
    s->all = _mm256_dpbusd_avx_epi32(s->all, one, chosen(q->low, code));
    s->all = _mm256_dpbusd_avx_epi32(s->all, one, chosen(q->high, code + 4));
}

#include "storage/kernel/kernel_codes.h"

void avxvnni_dot_u8s8(const uint8_t *base, size_t stride, const uint32_t *ids, size_t count,
                      const int8_t *query, size_t bytes, int32_t *out)
{
    dot_bytes(base, stride, ids, count, query, bytes, out);
}

void avxvnni_dot_u1s8(const uint8_t *base, size_t stride, const uint32_t *ids, size_t count,
                      const int8_t *query, size_t dimension, int32_t *out)
{
    dot_bits(base, stride, ids, count, query, dimension, out);
}

#else

typedef int kernel_avxvnni_is_for_other_machines;

#endif

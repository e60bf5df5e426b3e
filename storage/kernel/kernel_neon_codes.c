/* kernel_neon_codes.c - integer dot products with NEON as every 64-bit ARM has it. */
#if defined(__aarch64__)

#include "storage/kernel/kernel_neon.h"
#include "storage/kernel/kernel_parts.h"

/* Sums of two products, at most 2 * 128 * 127: they fit into 16 bits. */
KERNEL_INLINE int16x8_t pairs(int8x16_t c, int8x16_t q)
{
    const int16x8_t low = vmull_s8(vget_low_s8(c), vget_low_s8(q));
    return vmlal_high_s8(low, c, q);
}

KERNEL_INLINE void add_bytes(struct sums *s, const struct byte_query *q, const uint8_t *code)
{
    s->even = vpadalq_s16(s->even, pairs(moved_down(code), q->a));
    s->odd = vpadalq_s16(s->odd, pairs(moved_down(code + 16), q->b));
    s->even = vpadalq_s16(s->even, pairs(moved_down(code + 32), q->c));
    s->odd = vpadalq_s16(s->odd, pairs(moved_down(code + 48), q->d));
}

KERNEL_INLINE void add_bits(struct sums *s, const struct bit_query *q, const uint8_t *code)
{
    const uint8x8_t c = vld1_u8(code);
    const int16x8_t even = vpadalq_s8(vpaddlq_s8(chosen(q->all.a, c, 0)), chosen(q->all.c, c, 4));
    const int16x8_t odd = vpadalq_s8(vpaddlq_s8(chosen(q->all.b, c, 2)), chosen(q->all.d, c, 6));
    s->even = vpadalq_s16(s->even, even);
    s->odd = vpadalq_s16(s->odd, odd);
}

#include "storage/kernel/kernel_codes.h"

void neon_dot_u8s8(const uint8_t *base, size_t stride, const uint32_t *ids, size_t count,
                   const int8_t *query, size_t bytes, int32_t *out)
{
    dot_bytes(base, stride, ids, count, query, bytes, out);
}

void neon_dot_u1s8(const uint8_t *base, size_t stride, const uint32_t *ids, size_t count,
                   const int8_t *query, size_t dimension, int32_t *out)
{
    dot_bits(base, stride, ids, count, query, dimension, out);
}

#else

typedef int kernel_neon_codes_is_for_other_machines;

#endif

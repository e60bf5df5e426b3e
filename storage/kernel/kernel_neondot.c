/* kernel_neondot.c - integer dot products with the dot product extension of ARMv8.2: SDOT adds four
 * products of s8 to an int32 lane. */
#if defined(__aarch64__)

#include "storage/kernel/kernel_neon.h"
#include "storage/kernel/kernel_parts.h"

KERNEL_INLINE void add_bytes(struct sums *s, const struct byte_query *q, const uint8_t *code)
{
    s->even = vdotq_s32(s->even, moved_down(code), q->a);
    s->odd = vdotq_s32(s->odd, moved_down(code + 16), q->b);
    s->even = vdotq_s32(s->even, moved_down(code + 32), q->c);
    s->odd = vdotq_s32(s->odd, moved_down(code + 48), q->d);
}

KERNEL_INLINE void add_bits(struct sums *s, const struct bit_query *q, const uint8_t *code)
{
    const uint8x8_t c = vld1_u8(code);
    const int8x16_t one = vdupq_n_s8(1);
    s->even = vdotq_s32(s->even, chosen(q->all.a, c, 0), one);
    s->odd = vdotq_s32(s->odd, chosen(q->all.b, c, 2), one);
    s->even = vdotq_s32(s->even, chosen(q->all.c, c, 4), one);
    s->odd = vdotq_s32(s->odd, chosen(q->all.d, c, 6), one);
}

#include "storage/kernel/kernel_codes.h"

void neondot_dot_u8s8(const uint8_t *base, size_t stride, const uint32_t *ids, size_t count,
                      const int8_t *query, size_t bytes, int32_t *out)
{
    dot_bytes(base, stride, ids, count, query, bytes, out);
}

void neondot_dot_u1s8(const uint8_t *base, size_t stride, const uint32_t *ids, size_t count,
                      const int8_t *query, size_t dimension, int32_t *out)
{
    dot_bits(base, stride, ids, count, query, dimension, out);
}

#else

typedef int kernel_neondot_is_for_other_machines;

#endif

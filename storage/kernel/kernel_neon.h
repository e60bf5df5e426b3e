/*
 * kernel_neon.h - what the integer dot products with and without the dot product extension share.
 *
 * Private to storage/kernel.  NEON multiplies s8 by s8 only, so the codes are moved down by 128;
 * byte_bias is what that takes away from every total.
 */
#ifndef STORAGE_KERNEL_KERNEL_NEON_H
#define STORAGE_KERNEL_KERNEL_NEON_H

#include <arm_neon.h>

#include "storage/kernel/kernel_lanes.h"

struct sums {
    int32x4_t even, odd; /* two, since one would wait for its own last addition */
};

struct byte_query {
    int8x16_t a, b, c, d;
};

struct bit_query {
    struct byte_query all;
};

KERNEL_INLINE struct sums no_sums(void)
{
    return (struct sums){vdupq_n_s32(0), vdupq_n_s32(0)};
}

KERNEL_INLINE struct byte_query byte_query_of(const int8_t *from)
{
    return (struct byte_query){vld1q_s8(from), vld1q_s8(from + 16), vld1q_s8(from + 32),
                               vld1q_s8(from + 48)};
}

KERNEL_INLINE struct bit_query bit_query_of(const int8_t *from)
{
    return (struct bit_query){byte_query_of(from)};
}

KERNEL_INLINE int8x16_t moved_down(const uint8_t *code)
{
    return vreinterpretq_s8_u8(veorq_u8(vld1q_u8(code), vdupq_n_u8(0x80)));
}

KERNEL_INLINE int32_t byte_bias(const int8_t *query, size_t bytes)
{
    int32x4_t sum = vdupq_n_s32(0);
    for (size_t j = 0; j < bytes; j += 16)
        sum = vpadalq_s16(sum, vpaddlq_s8(vld1q_s8(query + j)));
    return 128 * vaddvq_s32(sum);
}

/* The numbers of a query whose bit is set in two bytes of a code, from byte `first` of eight. */
KERNEL_INLINE int8x16_t chosen(int8x16_t q, uint8x8_t code, uint8_t first)
{
    const uint8x16_t bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201));
    const uint8x16_t byte = vcombine_u8(vdup_n_u8(first), vdup_n_u8((uint8_t)(first + 1)));
    const uint8x16_t bytes = vqtbl1q_u8(vcombine_u8(code, code), byte);
    return vandq_s8(q, vreinterpretq_s8_u8(vtstq_u8(bytes, bit)));
}

KERNEL_INLINE int32x4_t total(const struct sums *s)
{
    return vaddq_s32(s->even, s->odd);
}

KERNEL_INLINE void store_totals(int32_t *out, const struct sums *a, const struct sums *b,
                                const struct sums *c, const struct sums *d, int32_t bias)
{
    const int32x4_t totals =
        vpaddq_s32(vpaddq_s32(total(a), total(b)), vpaddq_s32(total(c), total(d)));
    vst1q_s32(out, vaddq_s32(totals, vdupq_n_s32(bias)));
}

#endif

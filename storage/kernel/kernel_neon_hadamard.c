/* kernel_neon_hadamard.c - the Walsh-Hadamard transform with NEON. */
#if defined(__aarch64__)

#include <arm_neon.h>

#include "storage/kernel/kernel_lanes.h"
#include "storage/kernel/kernel_parts.h"

enum { WIDTH = 4 };
typedef float32x4_t vec;

KERNEL_INLINE vec load(const float *from)
{
    return vld1q_f32(from);
}

KERNEL_INLINE void store(float *to, vec v)
{
    vst1q_f32(to, v);
}

KERNEL_INLINE vec plus(vec a, vec b)
{
    return vaddq_f32(a, b);
}

KERNEL_INLINE vec minus(vec a, vec b)
{
    return vsubq_f32(a, b);
}

KERNEL_INLINE vec times(vec v, float factor)
{
    return vmulq_n_f32(v, factor);
}

/* Every lane plus its partner; where `sign` has its sign bit, the partner minus the lane. */
KERNEL_INLINE vec butterfly(vec v, vec partner, uint32x4_t sign)
{
    return vaddq_f32(partner, vreinterpretq_f32_u32(veorq_u32(vreinterpretq_u32_f32(v), sign)));
}

KERNEL_INLINE vec within(vec v)
{
    const uint32_t m = 0x80000000u;
    v = butterfly(v, vrev64q_f32(v), (uint32x4_t){0, m, 0, m});
    return butterfly(v, vextq_f32(v, v, 2), (uint32x4_t){0, 0, m, m});
}

#include "storage/kernel/kernel_hadamard.h"

void neon_hadamard(float *x, size_t n)
{
    transform(x, n);
}

#else

typedef int kernel_neon_hadamard_is_for_other_machines;

#endif

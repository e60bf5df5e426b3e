/* kernel_neon.c - the exact distances with NEON, which every 64-bit ARM has; the tables. */
#if defined(__aarch64__)

#include <arm_neon.h>
#include <sys/auxv.h>

#include "storage/kernel/kernel_lanes.h"
#include "storage/kernel/kernel_parts.h"

struct block {
    float64x2_t a, b, c, d;
};

struct sums {
    float64x2_t a, b, c, d; /* partial sums 0-1, 2-3, 4-5, 6-7 */
};

KERNEL_INLINE struct block block_of(const float *from)
{
    const float32x4_t low = vld1q_f32(from), high = vld1q_f32(from + 4);
    return (struct block){
        vcvt_f64_f32(vget_low_f32(low)),
        vcvt_high_f64_f32(low),
        vcvt_f64_f32(vget_low_f32(high)),
        vcvt_high_f64_f32(high),
    };
}

KERNEL_INLINE struct sums zero(void)
{
    const float64x2_t z = vdupq_n_f64(0.0);
    return (struct sums){z, z, z, z};
}

KERNEL_INLINE float64x2_t added(enum kernel_term term, float64x2_t s, float64x2_t x, float64x2_t y)
{
    if (term == TERM_DOT) return vaddq_f64(s, vmulq_f64(x, y));
    const float64x2_t d = vsubq_f64(x, y);
    return vaddq_f64(s, term == TERM_L2SQ ? vmulq_f64(d, d) : vabsq_f64(d));
}

KERNEL_INLINE void add(enum kernel_term term, struct sums *s, struct block x, struct block y)
{
    s->a = added(term, s->a, x.a, y.a);
    s->b = added(term, s->b, x.b, y.b);
    s->c = added(term, s->c, x.c, y.c);
    s->d = added(term, s->d, x.d, y.d);
}

KERNEL_INLINE double fold(const struct sums *s)
{
    const float64x2_t two = vaddq_f64(vaddq_f64(s->a, s->c), vaddq_f64(s->b, s->d));
    return vgetq_lane_f64(two, 0) + vgetq_lane_f64(two, 1);
}

#include "storage/kernel/kernel_exact.h"

static bool supported(void)
{
    return true;
}

static bool supported_with_dot_product(void)
{
    return getauxval(AT_HWCAP) & HWCAP_ASIMDDP;
}

/* clang-format off */
#define IN_BOTH_TABLES                                                                             \
    .dot = dot, .l2sq = l2sq, .l1 = l1, .dot_norm = dot_norm,                                      \
    .dot_rows = dot_rows, .l2sq_rows = l2sq_rows, .l1_rows = l1_rows,                              \
    .dot_norm_rows = dot_norm_rows,                                                                \
    .dot_f32 = neon_dot_f32, .l2sq_f32 = neon_l2sq_f32, .l1_f32 = neon_l1_f32,                     \
    .pool_offer = neon_pool_offer, .hadamard = neon_hadamard
/* clang-format on */

const struct kernel_set kernel_neon = {
    .name = "neon",
    .supported = supported,
    IN_BOTH_TABLES,
    .dot_u8s8 = neon_dot_u8s8,
    .dot_u1s8 = neon_dot_u1s8,
};

const struct kernel_set kernel_neondot = {
    .name = "neondot",
    .supported = supported_with_dot_product,
    IN_BOTH_TABLES,
    .dot_u8s8 = neondot_dot_u8s8,
    .dot_u1s8 = neondot_dot_u1s8,
};

#else

typedef int kernel_neon_is_for_other_machines;

#endif

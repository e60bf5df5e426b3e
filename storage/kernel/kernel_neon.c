/* kernel_neon.c - the distances with NEON, which every 64-bit ARM has: four pairs of lanes. */
#if defined(__aarch64__)

#include <arm_neon.h>

#include "storage/kernel/kernel_lanes.h"
#include "storage/kernel/kernel_parts.h"

struct sums {
    float64x2_t pair[KERNEL_LANES / 2]; /* partial sums 0-1, 2-3, 4-5, 6-7 */
};

KERNEL_INLINE struct sums zero(void)
{
    const float64x2_t z = vdupq_n_f64(0.0);
    return (struct sums){{z, z, z, z}};
}

KERNEL_INLINE float64x2_t term_of(enum kernel_term term, float64x2_t x, float64x2_t y)
{
    if (term == TERM_DOT) return vmulq_f64(x, y);
    const float64x2_t d = vsubq_f64(x, y);
    return term == TERM_L2SQ ? vmulq_f64(d, d) : vabsq_f64(d);
}

/* One block of eight elements. */
KERNEL_INLINE void add(enum kernel_term term, struct sums *s, const float *a, const float *b)
{
    for (size_t k = 0; k < KERNEL_LANES / 2; k++) {
        const float64x2_t x = vcvt_f64_f32(vld1_f32(a + 2 * k));
        const float64x2_t y = vcvt_f64_f32(vld1_f32(b + 2 * k));
        s->pair[k] = vaddq_f64(s->pair[k], term_of(term, x, y));
    }
}

KERNEL_INLINE double fold(const struct sums *s)
{
    double lanes[KERNEL_LANES];
    for (size_t k = 0; k < KERNEL_LANES / 2; k++)
        vst1q_f64(lanes + 2 * k, s->pair[k]);
    return kernel_fold(lanes);
}

KERNEL_INLINE double sum(enum kernel_term term, const float *a, const float *b, size_t n)
{
    struct sums s = zero();
    size_t i = 0;
    for (; i + KERNEL_LANES <= n; i += KERNEL_LANES)
        add(term, &s, a + i, b + i);
    if (i < n) {
        float tail_a[KERNEL_LANES], tail_b[KERNEL_LANES];
        kernel_pad(tail_a, a + i, n - i);
        kernel_pad(tail_b, b + i, n - i);
        add(term, &s, tail_a, tail_b);
    }
    return fold(&s);
}

static double dot(const float *a, const float *b, size_t dimension)
{
    return sum(TERM_DOT, a, b, dimension);
}

static double l2sq(const float *a, const float *b, size_t dimension)
{
    return sum(TERM_L2SQ, a, b, dimension);
}

static double l1(const float *a, const float *b, size_t dimension)
{
    return sum(TERM_L1, a, b, dimension);
}

static double dot_norm(const float *a, const float *b, size_t dimension, double *b_norm2)
{
    struct sums ab = zero(), bb = zero();
    size_t i = 0;
    for (; i + KERNEL_LANES <= dimension; i += KERNEL_LANES) {
        add(TERM_DOT, &ab, a + i, b + i);
        add(TERM_DOT, &bb, b + i, b + i);
    }
    if (i < dimension) {
        float tail_a[KERNEL_LANES], tail_b[KERNEL_LANES];
        kernel_pad(tail_a, a + i, dimension - i);
        kernel_pad(tail_b, b + i, dimension - i);
        add(TERM_DOT, &ab, tail_a, tail_b);
        add(TERM_DOT, &bb, tail_b, tail_b);
    }
    *b_norm2 = fold(&bb);
    return fold(&ab);
}

static void dot_rows(const float *query, const float *const *rows, size_t count, size_t dimension,
                     double *out)
{
    for (size_t i = 0; i < count; i++)
        out[i] = dot(query, rows[i], dimension);
}

static void l2sq_rows(const float *query, const float *const *rows, size_t count, size_t dimension,
                      double *out)
{
    for (size_t i = 0; i < count; i++)
        out[i] = l2sq(query, rows[i], dimension);
}

static void l1_rows(const float *query, const float *const *rows, size_t count, size_t dimension,
                    double *out)
{
    for (size_t i = 0; i < count; i++)
        out[i] = l1(query, rows[i], dimension);
}

static void dot_norm_rows(const float *query, const float *const *rows, size_t count,
                          size_t dimension, double *out, double *norm2)
{
    for (size_t i = 0; i < count; i++)
        out[i] = dot_norm(query, rows[i], dimension, norm2 + i);
}

static bool supported(void)
{
    return true;
}

const struct kernel_set kernel_neon = {
    .name = "neon",
    .supported = supported,
    .dot = dot,
    .l2sq = l2sq,
    .l1 = l1,
    .dot_norm = dot_norm,
    .dot_rows = dot_rows,
    .l2sq_rows = l2sq_rows,
    .l1_rows = l1_rows,
    .dot_norm_rows = dot_norm_rows,
    .dot_u8s8 = scalar_dot_u8s8,
    .dot_u1s8 = scalar_dot_u1s8,
    .dot_f32 = scalar_dot_f32,
    .l2sq_f32 = scalar_l2sq_f32,
    .l1_f32 = scalar_l1_f32,
    .pool_offer = scalar_pool_offer,
    .hadamard = scalar_hadamard,
};

#else

typedef int kernel_neon_is_for_other_machines;

#endif

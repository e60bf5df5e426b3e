/* kernel_scalar.c - the distances in plain C: this file defines what is correct. */
#include <math.h>

#include "storage/kernel/kernel_lanes.h"
#include "storage/kernel/kernel_parts.h"

KERNEL_INLINE double term_of(enum kernel_term term, double x, double y)
{
    if (term == TERM_DOT) return x * y;
    const double d = x - y;
    return term == TERM_L2SQ ? d * d : fabs(d);
}

KERNEL_INLINE double sum(enum kernel_term term, const float *a, const float *b, size_t n)
{
    double s[KERNEL_LANES] = {0};
    size_t i = 0;
    for (; i + KERNEL_LANES <= n; i += KERNEL_LANES) {
        for (size_t k = 0; k < KERNEL_LANES; k++)
            s[k] += term_of(term, (double)a[i + k], (double)b[i + k]);
    }
    for (size_t k = 0; i + k < n; k++)
        s[k] += term_of(term, (double)a[i + k], (double)b[i + k]);
    return kernel_fold(s);
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
    *b_norm2 = sum(TERM_DOT, b, b, dimension);
    return sum(TERM_DOT, a, b, dimension);
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

const struct kernel_set kernel_scalar = {
    .name = "scalar",
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

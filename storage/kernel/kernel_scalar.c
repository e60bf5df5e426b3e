/* kernel_scalar.c - the distances in plain C: this file defines what is correct. */
#include <math.h>

#include "storage/kernel/kernel.h"
#include "storage/kernel/kernel_lanes.h"

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
};

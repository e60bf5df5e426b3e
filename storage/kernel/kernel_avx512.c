/* kernel_avx512.c - the distances with AVX-512: eight lanes in one register.  Compiled with
 * -mavx512f -mavx512dq. */
#if defined(__x86_64__)

#include <immintrin.h>

#include "storage/kernel/kernel_lanes.h"
#include "storage/kernel/kernel_parts.h"

struct sums {
    __m512d all;
};

KERNEL_INLINE struct sums zero(void)
{
    return (struct sums){_mm512_setzero_pd()};
}

KERNEL_INLINE __m512d term_of(enum kernel_term term, __m512d x, __m512d y)
{
    if (term == TERM_DOT) return _mm512_mul_pd(x, y);
    const __m512d d = _mm512_sub_pd(x, y);
    return term == TERM_L2SQ ? _mm512_mul_pd(d, d) : _mm512_abs_pd(d);
}

/* One block of eight elements. */
KERNEL_INLINE void add(enum kernel_term term, struct sums *s, const float *a, const float *b)
{
    const __m512d x = _mm512_cvtps_pd(_mm256_loadu_ps(a));
    const __m512d y = _mm512_cvtps_pd(_mm256_loadu_ps(b));
    s->all = _mm512_add_pd(s->all, term_of(term, x, y));
}

KERNEL_INLINE double fold(const struct sums *s)
{
    double lanes[KERNEL_LANES];
    _mm512_storeu_pd(lanes, s->all);
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
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq");
}

const struct kernel_set kernel_avx512 = {
    .name = "avx512",
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

typedef int kernel_avx512_is_for_other_machines;

#endif

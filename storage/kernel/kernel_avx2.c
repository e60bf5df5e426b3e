/* kernel_avx2.c - the exact distances with AVX2, lanes 0-3 and 4-7; the tables. */
#if defined(__x86_64__)

#include <cpuid.h>
#include <immintrin.h>

#include "storage/kernel/kernel_lanes.h"
#include "storage/kernel/kernel_parts.h"

struct block {
    __m256d low, high;
};

struct sums {
    __m256d low, high; /* partial sums 0-3 and 4-7 */
};

KERNEL_INLINE struct block block_of(const float *from)
{
    return (struct block){_mm256_cvtps_pd(_mm_loadu_ps(from)),
                          _mm256_cvtps_pd(_mm_loadu_ps(from + 4))};
}

KERNEL_INLINE struct sums zero(void)
{
    return (struct sums){_mm256_setzero_pd(), _mm256_setzero_pd()};
}

KERNEL_INLINE __m256d term_of(enum kernel_term term, __m256d x, __m256d y)
{
    if (term == TERM_DOT) return _mm256_mul_pd(x, y);
    const __m256d d = _mm256_sub_pd(x, y);
    return term == TERM_L2SQ ? _mm256_mul_pd(d, d) : _mm256_andnot_pd(_mm256_set1_pd(-0.0), d);
}

KERNEL_INLINE void add(enum kernel_term term, struct sums *s, struct block x, struct block y)
{
    s->low = _mm256_add_pd(s->low, term_of(term, x.low, y.low));
    s->high = _mm256_add_pd(s->high, term_of(term, x.high, y.high));
}

KERNEL_INLINE double fold(const struct sums *s)
{
    const __m256d four = _mm256_add_pd(s->low, s->high);
    const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(two) + _mm_cvtsd_f64(_mm_unpackhi_pd(two, two));
}

#include "storage/kernel/kernel_exact.h"

static bool supported(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

/* By hand: clang 14 has no name for it.  What avx2 asks of the operating system is enough. */
static bool supported_with_vnni(void)
{
    unsigned eax, ebx, ecx, edx;
    return supported() && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && eax & 1 << 4;
}

/* clang-format off */
#define IN_BOTH_TABLES                                                                             \
    .dot = dot, .l2sq = l2sq, .l1 = l1, .dot_norm = dot_norm,                                      \
    .dot_rows = dot_rows, .l2sq_rows = l2sq_rows, .l1_rows = l1_rows,                              \
    .dot_norm_rows = dot_norm_rows,                                                                \
    .dot_f32 = avx2_dot_f32, .l2sq_f32 = avx2_l2sq_f32, .l1_f32 = avx2_l1_f32,                     \
    .pool_offer = avx2_pool_offer, .hadamard = avx2_hadamard
/* clang-format on */

const struct kernel_set kernel_avx2 = {
    .name = "avx2",
    .supported = supported,
    IN_BOTH_TABLES,
    .dot_u8s8 = avx2_dot_u8s8,
    .dot_u1s8 = avx2_dot_u1s8,
};

const struct kernel_set kernel_avxvnni = {
    .name = "avxvnni",
    .supported = supported_with_vnni,
    IN_BOTH_TABLES,
    .dot_u8s8 = avxvnni_dot_u8s8,
    .dot_u1s8 = avxvnni_dot_u1s8,
};

#else

typedef int kernel_avx2_is_for_other_machines;

#endif

/* kernel_avx512.c - the exact distances with AVX-512, eight lanes in one register; the tables. */
#if defined(__x86_64__)

#include <immintrin.h>

#include "storage/kernel/kernel_lanes.h"
#include "storage/kernel/kernel_parts.h"

struct block {
    __m512d all;
};

struct sums {
    __m512d all;
};

KERNEL_INLINE struct block block_of(const float *from)
{
    return (struct block){_mm512_cvtps_pd(_mm256_loadu_ps(from))};
}

KERNEL_INLINE struct sums zero(void)
{
    return (struct sums){_mm512_setzero_pd()};
}

KERNEL_INLINE void add(enum kernel_term term, struct sums *s, struct block x, struct block y)
{
    __m512d value;
    if (term == TERM_DOT) {
        value = _mm512_mul_pd(x.all, y.all);
    } else {
        const __m512d d = _mm512_sub_pd(x.all, y.all);
        value = term == TERM_L2SQ ? _mm512_mul_pd(d, d) : _mm512_abs_pd(d);
    }
    s->all = _mm512_add_pd(s->all, value);
}

KERNEL_INLINE double fold(const struct sums *s)
{
    const __m256d four =
        _mm256_add_pd(_mm512_castpd512_pd256(s->all), _mm512_extractf64x4_pd(s->all, 1));
    const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(two) + _mm_cvtsd_f64(_mm_unpackhi_pd(two, two));
}

#include "storage/kernel/kernel_exact.h"

static bool supported(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}

static bool supported_with_vnni(void)
{
    return supported() && __builtin_cpu_supports("avx512vnni");
}

/* clang-format off */
#define IN_BOTH_TABLES                                                                             \
    .dot = dot, .l2sq = l2sq, .l1 = l1, .dot_norm = dot_norm,                                      \
    .dot_rows = dot_rows, .l2sq_rows = l2sq_rows, .l1_rows = l1_rows,                              \
    .dot_norm_rows = dot_norm_rows,                                                                \
    .dot_f32 = avx512_dot_f32, .l2sq_f32 = avx512_l2sq_f32, .l1_f32 = avx512_l1_f32,               \
    .pool_offer = avx512_pool_offer, .hadamard = avx512_hadamard
/* clang-format on */

const struct kernel_set kernel_avx512 = {
    .name = "avx512",
    .supported = supported,
    IN_BOTH_TABLES,
    .dot_u8s8 = avx512_dot_u8s8,
    .dot_u1s8 = avx512_dot_u1s8,
};

const struct kernel_set kernel_avx512vnni = {
    .name = "avx512vnni",
    .supported = supported_with_vnni,
    IN_BOTH_TABLES,
    .dot_u8s8 = avx512vnni_dot_u8s8,
    .dot_u1s8 = avx512vnni_dot_u1s8,
};

#else

typedef int kernel_avx512_is_for_other_machines;

#endif

/* kernel_avx2_hadamard.c - the Walsh-Hadamard transform with AVX2. */
#if defined(__x86_64__)

#include <immintrin.h>

#include "storage/kernel/kernel_lanes.h"
#include "storage/kernel/kernel_parts.h"

enum { WIDTH = 8 };
typedef __m256 vec;

KERNEL_INLINE vec load(const float *from)
{
    return _mm256_loadu_ps(from);
}

KERNEL_INLINE void store(float *to, vec v)
{
    _mm256_storeu_ps(to, v);
}

KERNEL_INLINE vec plus(vec a, vec b)
{
    return _mm256_add_ps(a, b);
}

KERNEL_INLINE vec minus(vec a, vec b)
{
    return _mm256_sub_ps(a, b);
}

KERNEL_INLINE vec times(vec v, float factor)
{
    return _mm256_mul_ps(v, _mm256_set1_ps(factor));
}

/* Every lane plus its partner; where `sign` is -0.0, the partner minus the lane. */
KERNEL_INLINE vec butterfly(vec v, vec partner, vec sign)
{
    return _mm256_add_ps(partner, _mm256_xor_ps(v, sign));
}

KERNEL_INLINE vec within(vec v)
{
    const float p = 0.0f, m = -0.0f;
    v = butterfly(v, _mm256_permute_ps(v, _MM_SHUFFLE(2, 3, 0, 1)),
                  _mm256_setr_ps(p, m, p, m, p, m, p, m));
    v = butterfly(v, _mm256_permute_ps(v, _MM_SHUFFLE(1, 0, 3, 2)),
                  _mm256_setr_ps(p, p, m, m, p, p, m, m));
    return butterfly(v, _mm256_permute2f128_ps(v, v, 1), _mm256_setr_ps(p, p, p, p, m, m, m, m));
}

#include "storage/kernel/kernel_hadamard.h"

void avx2_hadamard(float *x, size_t n)
{
    transform(x, n);
}

#else

typedef int kernel_avx2_hadamard_is_for_other_machines;

#endif

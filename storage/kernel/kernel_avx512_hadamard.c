/* kernel_avx512_hadamard.c - the Walsh-Hadamard transform with AVX-512. */
#if defined(__x86_64__)

#include <immintrin.h>

#include "storage/kernel/kernel_lanes.h"
#include "storage/kernel/kernel_parts.h"

enum { WIDTH = 16 };
typedef __m512 vec;

KERNEL_INLINE vec load(const float *from)
{
    return _mm512_loadu_ps(from);
}

KERNEL_INLINE void store(float *to, vec v)
{
    _mm512_storeu_ps(to, v);
}

KERNEL_INLINE vec plus(vec a, vec b)
{
    return _mm512_add_ps(a, b);
}

KERNEL_INLINE vec minus(vec a, vec b)
{
    return _mm512_sub_ps(a, b);
}

KERNEL_INLINE vec times(vec v, float factor)
{
    return _mm512_mul_ps(v, _mm512_set1_ps(factor));
}

/* Every lane plus its partner; in the lanes of `upper`, the partner minus the lane. */
KERNEL_INLINE vec butterfly(vec v, vec partner, __mmask16 upper)
{
    const vec sign = _mm512_maskz_mov_ps(upper, _mm512_set1_ps(-0.0f));
    return _mm512_add_ps(partner, _mm512_xor_ps(v, sign));
}

KERNEL_INLINE vec within(vec v)
{
    v = butterfly(v, _mm512_permute_ps(v, _MM_SHUFFLE(2, 3, 0, 1)), 0xaaaa);
    v = butterfly(v, _mm512_permute_ps(v, _MM_SHUFFLE(1, 0, 3, 2)), 0xcccc);
    v = butterfly(v, _mm512_shuffle_f32x4(v, v, _MM_SHUFFLE(2, 3, 0, 1)), 0xf0f0);
    return butterfly(v, _mm512_shuffle_f32x4(v, v, _MM_SHUFFLE(1, 0, 3, 2)), 0xff00);
}

#include "storage/kernel/kernel_hadamard.h"

void avx512_hadamard(float *x, size_t n)
{
    transform(x, n);
}

#else

typedef int kernel_avx512_hadamard_is_for_other_machines;

#endif

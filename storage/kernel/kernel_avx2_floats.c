/* kernel_avx2_floats.c - float32 distances of navigation with AVX2 and FMA. */
#if defined(__x86_64__)

#include <immintrin.h>

#include "storage/kernel/kernel_lanes.h"
#include "storage/kernel/kernel_parts.h"

struct chunk {
    __m256 low, high;
};

KERNEL_INLINE struct chunk chunk_of(const float *from)
{
    return (struct chunk){_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)};
}

KERNEL_INLINE struct chunk no_chunk(void)
{
    return (struct chunk){_mm256_setzero_ps(), _mm256_setzero_ps()};
}

KERNEL_INLINE __m256 added(enum kernel_term term, __m256 s, __m256 q, __m256 c)
{
    if (term == TERM_DOT) return _mm256_fmadd_ps(q, c, s);
    const __m256 d = _mm256_sub_ps(q, c);
    return term == TERM_L2SQ ? _mm256_fmadd_ps(d, d, s)
                             : _mm256_add_ps(s, _mm256_andnot_ps(_mm256_set1_ps(-0.0f), d));
}

KERNEL_INLINE void add_chunk(enum kernel_term term, struct chunk *s, struct chunk q, struct chunk c)
{
    s->low = added(term, s->low, q.low, c.low);
    s->high = added(term, s->high, q.high, c.high);
}

KERNEL_INLINE void store_totals(float *out, const struct chunk *a, const struct chunk *b,
                                const struct chunk *c, const struct chunk *d)
{
    const __m256 ab =
        _mm256_hadd_ps(_mm256_add_ps(a->low, a->high), _mm256_add_ps(b->low, b->high));
    const __m256 cd =
        _mm256_hadd_ps(_mm256_add_ps(c->low, c->high), _mm256_add_ps(d->low, d->high));
    const __m256 halves = _mm256_hadd_ps(ab, cd);
    _mm_storeu_ps(out,
                  _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps(halves, 1)));
}

#include "storage/kernel/kernel_floats.h"

void avx2_dot_f32(const uint8_t *base, size_t stride, const uint32_t *ids, size_t count,
                  const float *query, size_t dimension, float *out)
{
    floats(TERM_DOT, base, stride, ids, count, query, dimension, out);
}

void avx2_l2sq_f32(const uint8_t *base, size_t stride, const uint32_t *ids, size_t count,
                   const float *query, size_t dimension, float *out)
{
    floats(TERM_L2SQ, base, stride, ids, count, query, dimension, out);
}

void avx2_l1_f32(const uint8_t *base, size_t stride, const uint32_t *ids, size_t count,
                 const float *query, size_t dimension, float *out)
{
    floats(TERM_L1, base, stride, ids, count, query, dimension, out);
}

#else

typedef int kernel_avx2_floats_is_for_other_machines;

#endif

/* kernel_avx512_floats.c - float32 distances of navigation with AVX-512. */
#if defined(__x86_64__)

#include <immintrin.h>

#include "storage/kernel/kernel_avx512.h"
#include "storage/kernel/kernel_parts.h"

struct chunk {
    __m512 all;
};

KERNEL_INLINE struct chunk chunk_of(const float *from)
{
    return (struct chunk){_mm512_loadu_ps(from)};
}

KERNEL_INLINE struct chunk no_chunk(void)
{
    return (struct chunk){_mm512_setzero_ps()};
}

KERNEL_INLINE void add_chunk(enum kernel_term term, struct chunk *s, struct chunk q, struct chunk c)
{
    if (term == TERM_DOT) {
        s->all = _mm512_fmadd_ps(q.all, c.all, s->all);
        return;
    }
    const __m512 d = _mm512_sub_ps(q.all, c.all);
    s->all =
        term == TERM_L2SQ ? _mm512_fmadd_ps(d, d, s->all) : _mm512_add_ps(s->all, _mm512_abs_ps(d));
}

KERNEL_INLINE void store_totals(float *out, const struct chunk *a, const struct chunk *b,
                                const struct chunk *c, const struct chunk *d)
{
    _mm_storeu_ps(out, totals_of_f32(a->all, b->all, c->all, d->all));
}

#include "storage/kernel/kernel_floats.h"

void avx512_dot_f32(const uint8_t *base, size_t stride, const uint32_t *ids, size_t count,
                    const float *query, size_t dimension, float *out)
{
    floats(TERM_DOT, base, stride, ids, count, query, dimension, out);
}

void avx512_l2sq_f32(const uint8_t *base, size_t stride, const uint32_t *ids, size_t count,
                     const float *query, size_t dimension, float *out)
{
    floats(TERM_L2SQ, base, stride, ids, count, query, dimension, out);
}

void avx512_l1_f32(const uint8_t *base, size_t stride, const uint32_t *ids, size_t count,
                   const float *query, size_t dimension, float *out)
{
    floats(TERM_L1, base, stride, ids, count, query, dimension, out);
}

#else

typedef int kernel_avx512_floats_is_for_other_machines;

#endif

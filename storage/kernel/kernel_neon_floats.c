/* kernel_neon_floats.c - float32 distances of navigation with NEON. */
#if defined(__aarch64__)

#include <arm_neon.h>

#include "storage/kernel/kernel_lanes.h"
#include "storage/kernel/kernel_parts.h"

struct chunk {
    float32x4_t a, b, c, d;
};

KERNEL_INLINE struct chunk chunk_of(const float *from)
{
    return (struct chunk){vld1q_f32(from), vld1q_f32(from + 4), vld1q_f32(from + 8),
                          vld1q_f32(from + 12)};
}

KERNEL_INLINE struct chunk no_chunk(void)
{
    const float32x4_t z = vdupq_n_f32(0.0f);
    return (struct chunk){z, z, z, z};
}

KERNEL_INLINE float32x4_t added(enum kernel_term term, float32x4_t s, float32x4_t q, float32x4_t c)
{
    if (term == TERM_DOT) return vfmaq_f32(s, q, c);
    if (term == TERM_L1) return vaddq_f32(s, vabdq_f32(q, c));
    const float32x4_t d = vsubq_f32(q, c);
    return vfmaq_f32(s, d, d);
}

KERNEL_INLINE void add_chunk(enum kernel_term term, struct chunk *s, struct chunk q, struct chunk c)
{
    s->a = added(term, s->a, q.a, c.a);
    s->b = added(term, s->b, q.b, c.b);
    s->c = added(term, s->c, q.c, c.c);
    s->d = added(term, s->d, q.d, c.d);
}

KERNEL_INLINE float32x4_t total(const struct chunk *s)
{
    return vaddq_f32(vaddq_f32(s->a, s->b), vaddq_f32(s->c, s->d));
}

KERNEL_INLINE void store_totals(float *out, const struct chunk *a, const struct chunk *b,
                                const struct chunk *c, const struct chunk *d)
{
    vst1q_f32(out, vpaddq_f32(vpaddq_f32(total(a), total(b)), vpaddq_f32(total(c), total(d))));
}

#include "storage/kernel/kernel_floats.h"

void neon_dot_f32(const uint8_t *base, size_t stride, const uint32_t *ids, size_t count,
                  const float *query, size_t dimension, float *out)
{
    floats(TERM_DOT, base, stride, ids, count, query, dimension, out);
}

void neon_l2sq_f32(const uint8_t *base, size_t stride, const uint32_t *ids, size_t count,
                   const float *query, size_t dimension, float *out)
{
    floats(TERM_L2SQ, base, stride, ids, count, query, dimension, out);
}

void neon_l1_f32(const uint8_t *base, size_t stride, const uint32_t *ids, size_t count,
                 const float *query, size_t dimension, float *out)
{
    floats(TERM_L1, base, stride, ids, count, query, dimension, out);
}

#else

typedef int kernel_neon_floats_is_for_other_machines;

#endif

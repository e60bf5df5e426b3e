/*
 * kernel_hadamard.h - the Walsh-Hadamard transform of one instruction set, in terms of vectors.
 *
 * Private to storage/kernel.  A file includes this after it has defined
 *     WIDTH                                floats in a vector
 *     vec                                  the vector
 *     load(from), store(to, vec), plus(a, b), minus(a, b), times(vec, factor)
 *     within(vec)                          the butterflies of span 1 .. WIDTH/2
 *
 * Two spans are done for each trip through memory.  Spans ascend, so every sum is the one that
 * kernel.h defines; a multiplication by 1 changes nothing.
 */
#ifndef STORAGE_KERNEL_KERNEL_HADAMARD_H
#define STORAGE_KERNEL_KERNEL_HADAMARD_H

#include "storage/kernel/kernel_lanes.h"
#include "storage/kernel/kernel_parts.h"

/* Spans s and 2s of the vectors at x, x + s, x + 2s, x + 3s. */
KERNEL_INLINE void store_two_spans(float *x, size_t s, vec a, vec b, vec c, vec d, float factor)
{
    const vec ab = plus(a, b), a_b = minus(a, b), cd = plus(c, d), c_d = minus(c, d);
    store(x, times(plus(ab, cd), factor));
    store(x + s, times(plus(a_b, c_d), factor));
    store(x + 2 * s, times(minus(ab, cd), factor));
    store(x + 3 * s, times(minus(a_b, c_d), factor));
}

/* Every span up to 2 * WIDTH. */
KERNEL_INLINE void first_spans(float *x, size_t n, float factor)
{
    for (size_t i = 0; i < n; i += 4 * WIDTH)
        store_two_spans(x + i, WIDTH, within(load(x + i)), within(load(x + i + WIDTH)),
                        within(load(x + i + 2 * WIDTH)), within(load(x + i + 3 * WIDTH)), factor);
}

KERNEL_INLINE void two_spans(float *x, size_t n, size_t s, float factor)
{
    for (size_t i = 0; i < n; i += 4 * s) {
        for (size_t j = i; j < i + s; j += WIDTH)
            store_two_spans(x + j, s, load(x + j), load(x + j + s), load(x + j + 2 * s),
                            load(x + j + 3 * s), factor);
    }
}

KERNEL_INLINE void last_span(float *x, size_t n, float factor)
{
    for (size_t i = 0; i < n / 2; i += WIDTH) {
        const vec a = load(x + i), b = load(x + i + n / 2);
        store(x + i, times(plus(a, b), factor));
        store(x + i + n / 2, times(minus(a, b), factor));
    }
}

KERNEL_INLINE void transform(float *x, size_t n)
{
    if (n < 4 * WIDTH) {
        scalar_hadamard(x, n);
        return;
    }
    const float scale = kernel_hadamard_scale(n);
    first_spans(x, n, n == 4 * WIDTH ? scale : 1.0f);
    size_t s = 4 * WIDTH; /* the next span */
    for (; 4 * s <= n; s *= 4)
        two_spans(x, n, s, 4 * s == n ? scale : 1.0f);
    if (s < n) last_span(x, n, scale);
}

#endif

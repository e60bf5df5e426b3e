/*
 * kernel_lanes.h - what the kernels share: the terms by name, the ends of a vector, four cells.
 *
 * Private to storage/kernel.  Everything is static and forced inline: the files that include this
 * are compiled for different CPUs, and no function may be shared between them by the linker.
 */
#ifndef STORAGE_KERNEL_KERNEL_LANES_H
#define STORAGE_KERNEL_KERNEL_LANES_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>

#define KERNEL_INLINE static inline __attribute__((always_inline))

enum { KERNEL_LANES = 8 };

/* What is added up for a pair of elements: a*b, (a-b)^2, |a-b|. */
enum kernel_term { TERM_DOT, TERM_L2SQ, TERM_L1 };

/* The last count < 8 elements as a full block.  Its zeros add +0.0 to sums that are never -0.0,
 * which changes no bit. */
KERNEL_INLINE void kernel_pad(float block[KERNEL_LANES], const float *from, size_t count)
{
    for (size_t i = 0; i < KERNEL_LANES; i++)
        block[i] = i < count ? from[i] : 0.0f;
}

/* Both operations round correctly, so every machine gets the same factor. */
KERNEL_INLINE float kernel_hadamard_scale(size_t n)
{
    return (float)(1 / sqrt((double)n));
}

/* Four cells to score at once, so that they share the loads of the query and one reduction.  When
 * fewer are left the last one stands in for the others; out[] has room for what comes of it. */
struct quad {
    const uint8_t *a, *b, *c, *d;
};

KERNEL_INLINE struct quad kernel_quad(const uint8_t *base, size_t stride, const uint32_t *ids,
                                      size_t left)
{
    return (struct quad){
        base + ids[0] * stride,
        base + ids[left > 1 ? 1 : 0] * stride,
        base + ids[left > 2 ? 2 : left - 1] * stride,
        base + ids[left > 3 ? 3 : left - 1] * stride,
    };
}

/* The order of the last additions is part of the contract (kernel.h). */
KERNEL_INLINE double kernel_fold(const double s[KERNEL_LANES])
{
    return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}

#endif

/*
 * kernel.h - distances between two float32 vectors in float64, the same on every machine.
 *
 * A kernel_set is one implementation of every distance.  kernel_best() picks the widest one that
 * this CPU runs, once; kernel_sets[] lists them all so that tests and benchmarks can compare each
 * with kernel_scalar, which defines correct.
 *
 * Each result is defined down to the last bit: element i goes into partial sum i mod 8, in order,
 * in float64, without fused multiply-add; the sums are added as
 * ((s0+s4)+(s2+s6)) + ((s1+s5)+(s3+s7)).  So results do not depend on the CPU, ties are ties
 * everywhere, and an exact search is exact.
 *
 * No alignment needed; dimension may be any positive count.  Any thread.
 */
#ifndef STORAGE_KERNEL_KERNEL_H
#define STORAGE_KERNEL_KERNEL_H

#include <stdbool.h>
#include <stddef.h>

typedef double kernel_fn(const float *a, const float *b, size_t dimension);

struct kernel_set {
    const char *name;
    bool (*supported)(void); /* on the CPU we are running on */
    kernel_fn *dot;          /* sum of a*b                   */
    kernel_fn *l2sq;         /* sum of (a-b)^2               */
    kernel_fn *l1;           /* sum of |a-b|                 */
    /* dot product of a and b; *b_norm2 = sum of b*b, in one pass over b */
    double (*dot_norm)(const float *a, const float *b, size_t dimension, double *b_norm2);
};

extern const struct kernel_set kernel_scalar;
extern const struct kernel_set kernel_avx2;
extern const struct kernel_set kernel_avx512;
extern const struct kernel_set kernel_neon;

extern const struct kernel_set *const kernel_sets[]; /* NULL-terminated, widest first */
const struct kernel_set *kernel_best(void);

#endif

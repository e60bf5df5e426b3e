/*
 * kernel.h - the inner loops of search: exact distances, and those that navigate on codes.
 *
 * A kernel_set is one implementation of every function.  kernel_best() picks the widest one that
 * this CPU runs, once; kernel_sets[] lists them all so that tests and benchmarks can compare each
 * with kernel_scalar, which defines correct.  All functions: any thread, no allocation, no errors,
 * no prefetching (the caller knows what comes next).
 *
 * Exact distances, of float32 vectors in float64.  Each result is defined down to the last bit:
 * element i goes into partial sum i mod 8, in order, in float64, without fused multiply-add; the
 * sums are added as ((s0+s4)+(s2+s6)) + ((s1+s5)+(s3+s7)).  So results do not depend on the CPU,
 * ties are ties everywhere, and an exact search is exact.  No alignment needed; dimension may be
 * any positive count.
 *
 * Navigation.  A cell is the code of one row; cell i lies at base + i * stride, both multiples of
 * 64 bytes.  One call scores the cells ids[0 .. count) in that order, four at a time; ids may
 * repeat, count may be 0, and out[] has room for count rounded up to a multiple of 4.  Integer
 * results are the same bits in every set.  Those in float32 are not: never compare distances that
 * different sets computed.
 *
 * Denormal numbers: around the navigation functions the caller may set flush-to-zero and
 * denormals-are-zero.  Around the exact ones it must not, since their results would change.
 */
#ifndef STORAGE_KERNEL_KERNEL_H
#define STORAGE_KERNEL_KERNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct pool; /* storage/kernel/pool.h */

typedef double kernel_fn(const float *a, const float *b, size_t dimension);
typedef double kernel_norm_fn(const float *a, const float *b, size_t dimension, double *b_norm2);

/* out[i] is the distance of query and rows[i], to the bit what the function for one row gives.
 * Rows overlap in the pipeline. */
typedef void kernel_rows_fn(const float *query, const float *const *rows, size_t count,
                            size_t dimension, double *out);
typedef void kernel_norm_rows_fn(const float *query, const float *const *rows, size_t count,
                                 size_t dimension, double *out, double *norm2);

/* length is counted in bytes of the code or in dimensions, as said below. */
typedef void kernel_codes_fn(const uint8_t *base, size_t stride, const uint32_t *ids, size_t count,
                             const int8_t *query, size_t length, int32_t *out);

/* Cells of float32, padded with zeros to a multiple of 16 floats; the query needs no padding. */
typedef void kernel_floats_fn(const uint8_t *base, size_t stride, const uint32_t *ids, size_t count,
                              const float *query, size_t dimension, float *out);

struct kernel_set {
    const char *name;
    bool (*supported)(void); /* on the CPU we are running on */

    /* ---- exact ---- */
    kernel_fn *dot;  /* sum of a*b     */
    kernel_fn *l2sq; /* sum of (a-b)^2 */
    kernel_fn *l1;   /* sum of |a-b|   */
    /* dot product of a and b; *b_norm2 = sum of b*b, in one pass over b */
    kernel_norm_fn *dot_norm;
    kernel_rows_fn *dot_rows, *l2sq_rows, *l1_rows;
    kernel_norm_rows_fn *dot_norm_rows;

    /* ---- navigation ---- */
    /* Sum over j < length of code[j] * query[j], code unsigned, |query[j]| <= 127.  length: bytes,
     * a multiple of 64, at most 65,536, so that no sum leaves int32. */
    kernel_codes_fn *dot_u8s8;
    /* Sum of query[j] over the bits j that are set in a code of one bit per dimension; bit j is
     * bit j % 8 of byte j / 8.  |query[j]| <= 127.  length: dimensions, a multiple of 64. */
    kernel_codes_fn *dot_u1s8;
    /* In float32, in no promised order. */
    kernel_floats_fn *dot_f32, *l2sq_f32, *l1_f32;

    /* Puts in, one after the other, each of count candidates that is nearer than pool->worst
     * (strictly: never +inf or NaN); behind entries of equal distance.  The farthest entry of a
     * full pool drops out.  Returns the lowest position that changed, UINT32_MAX if none did.  The
     * candidates lie outside the pool.
     * The sorted array with marks is the one of Fu et al., "Fast approximate nearest neighbor
     * search with the navigating spreading-out graph", 2019; kernel_pool.h says how it is kept
     * sorted. */
    uint32_t (*pool_offer)(struct pool *pool, const uint32_t *ids, const float *distances,
                           size_t count);

    /* Walsh-Hadamard transform of x in place, natural order, times 1/sqrt(n) (so it is its own
     * inverse and keeps lengths).  n is a power of two, 1 included.  The same bits in every set:
     * butterflies (a+b, a-b) of span 1, 2, 4 ... n/2, then one multiplication by
     * (float)(1/sqrt(n)). Fino and Algazi, "Unified matrix treatment of the fast Walsh-Hadamard
     * transform", 1976. */
    void (*hadamard)(float *x, size_t n);
};

extern const struct kernel_set kernel_scalar;
extern const struct kernel_set kernel_avx2;
extern const struct kernel_set kernel_avxvnni;
extern const struct kernel_set kernel_avx512;
extern const struct kernel_set kernel_avx512vnni;
extern const struct kernel_set kernel_neon;
extern const struct kernel_set kernel_neondot;

extern const struct kernel_set *const kernel_sets[]; /* NULL-terminated, widest first */
const struct kernel_set *kernel_best(void);

#endif

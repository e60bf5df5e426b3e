/*
 * kernel_exact.h - the exact distances of one instruction set, in terms of blocks of eight.
 *
 * Private to storage/kernel.  A file includes this after it has defined
 *     struct block                     eight elements as float64
 *     struct sums                      the eight partial sums
 *     block_of(from)                   the block at a pointer to float
 *     zero()                           sums of nothing
 *     add(term, sums, block, block)    one more block
 *     fold(sums)                       the total, added in the order of kernel.h
 * and gets dot, l2sq, l1, dot_norm and their forms for several rows.  A single sum waits for its
 * own last addition most of the time; four rows side by side fill that time.
 */
#ifndef STORAGE_KERNEL_KERNEL_EXACT_H
#define STORAGE_KERNEL_KERNEL_EXACT_H

#include "storage/kernel/kernel_lanes.h"
#include "storage/kernel/kernel_parts.h"

KERNEL_INLINE struct block padded_block(const float *from, size_t count)
{
    float block[KERNEL_LANES];
    kernel_pad(block, from, count);
    return block_of(block);
}

KERNEL_INLINE double sum(enum kernel_term term, const float *a, const float *b, size_t n)
{
    struct sums s = zero();
    size_t i = 0;
    for (; i + KERNEL_LANES <= n; i += KERNEL_LANES)
        add(term, &s, block_of(a + i), block_of(b + i));
    if (i < n) add(term, &s, padded_block(a + i, n - i), padded_block(b + i, n - i));
    return fold(&s);
}

KERNEL_INLINE void sum_four(enum kernel_term term, const float *query, const float *const rows[4],
                            size_t n, double out[4])
{
    const float *const a = rows[0], *const b = rows[1], *const c = rows[2], *const d = rows[3];
    struct sums sa = zero(), sb = zero(), sc = zero(), sd = zero();
    size_t i = 0;
    for (; i + KERNEL_LANES <= n; i += KERNEL_LANES) {
        const struct block q = block_of(query + i);
        add(term, &sa, q, block_of(a + i));
        add(term, &sb, q, block_of(b + i));
        add(term, &sc, q, block_of(c + i));
        add(term, &sd, q, block_of(d + i));
    }
    if (i < n) {
        const struct block q = padded_block(query + i, n - i);
        add(term, &sa, q, padded_block(a + i, n - i));
        add(term, &sb, q, padded_block(b + i, n - i));
        add(term, &sc, q, padded_block(c + i, n - i));
        add(term, &sd, q, padded_block(d + i, n - i));
    }
    out[0] = fold(&sa);
    out[1] = fold(&sb);
    out[2] = fold(&sc);
    out[3] = fold(&sd);
}

KERNEL_INLINE void sum_rows(enum kernel_term term, const float *query, const float *const *rows,
                            size_t count, size_t n, double *out)
{
    size_t i = 0;
    for (; i + 4 <= count; i += 4)
        sum_four(term, query, rows + i, n, out + i);
    for (; i < count; i++)
        out[i] = sum(term, query, rows[i], n);
}

static double dot(const float *a, const float *b, size_t dimension)
{
    return sum(TERM_DOT, a, b, dimension);
}

static double l2sq(const float *a, const float *b, size_t dimension)
{
    return sum(TERM_L2SQ, a, b, dimension);
}

static double l1(const float *a, const float *b, size_t dimension)
{
    return sum(TERM_L1, a, b, dimension);
}

static double dot_norm(const float *a, const float *b, size_t dimension, double *b_norm2)
{
    struct sums ab = zero(), bb = zero();
    size_t i = 0;
    for (; i + KERNEL_LANES <= dimension; i += KERNEL_LANES) {
        const struct block x = block_of(a + i), y = block_of(b + i);
        add(TERM_DOT, &ab, x, y);
        add(TERM_DOT, &bb, y, y);
    }
    if (i < dimension) {
        const struct block x = padded_block(a + i, dimension - i);
        const struct block y = padded_block(b + i, dimension - i);
        add(TERM_DOT, &ab, x, y);
        add(TERM_DOT, &bb, y, y);
    }
    *b_norm2 = fold(&bb);
    return fold(&ab);
}

static void dot_rows(const float *query, const float *const *rows, size_t count, size_t dimension,
                     double *out)
{
    sum_rows(TERM_DOT, query, rows, count, dimension, out);
}

static void l2sq_rows(const float *query, const float *const *rows, size_t count, size_t dimension,
                      double *out)
{
    sum_rows(TERM_L2SQ, query, rows, count, dimension, out);
}

static void l1_rows(const float *query, const float *const *rows, size_t count, size_t dimension,
                    double *out)
{
    sum_rows(TERM_L1, query, rows, count, dimension, out);
}

/* Two rows, since each needs two sums, and registers are few. */
KERNEL_INLINE void dot_norm_two(const float *query, const float *a, const float *b, size_t n,
                                double out[2], double norm2[2])
{
    struct sums qa = zero(), aa = zero(), qb = zero(), bb = zero();
    size_t i = 0;
    for (; i + KERNEL_LANES <= n; i += KERNEL_LANES) {
        const struct block q = block_of(query + i), x = block_of(a + i), y = block_of(b + i);
        add(TERM_DOT, &qa, q, x);
        add(TERM_DOT, &aa, x, x);
        add(TERM_DOT, &qb, q, y);
        add(TERM_DOT, &bb, y, y);
    }
    if (i < n) {
        const struct block q = padded_block(query + i, n - i);
        const struct block x = padded_block(a + i, n - i), y = padded_block(b + i, n - i);
        add(TERM_DOT, &qa, q, x);
        add(TERM_DOT, &aa, x, x);
        add(TERM_DOT, &qb, q, y);
        add(TERM_DOT, &bb, y, y);
    }
    out[0] = fold(&qa);
    out[1] = fold(&qb);
    norm2[0] = fold(&aa);
    norm2[1] = fold(&bb);
}

static void dot_norm_rows(const float *query, const float *const *rows, size_t count,
                          size_t dimension, double *out, double *norm2)
{
    size_t i = 0;
    for (; i + 2 <= count; i += 2)
        dot_norm_two(query, rows[i], rows[i + 1], dimension, out + i, norm2 + i);
    if (i < count) out[i] = dot_norm(query, rows[i], dimension, norm2 + i);
}

#endif

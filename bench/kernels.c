/*
 * kernels.c - nanoseconds per distance of every kernel set, and how much faster than scalar it is.
 *
 * Sets take turns within a round, so that a busy or throttled machine slows all of them alike; the
 * ratio is the median of the ratios of single rounds.
 */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "storage/base/clock.h"
#include "storage/kernel/kernel.h"

enum {
    ROUNDS = 31,
    ROWS = 32, /* 32 * 768 floats are 96 KiB: in the second-level cache, so this is not about RAM */
    SETS_MAX = 8,
    FLOATS_PER_ROUND = 2000000,
};

enum function { DOT, L2SQ, L1, DOT_NORM, FUNCTION_COUNT };
static const char *const FUNCTION_NAMES[] = {"dot", "l2sq", "l1", "dot_norm"};

static volatile double sink;

static double run_once(const struct kernel_set *set, enum function f, const float *query,
                       const float *row, size_t dimension)
{
    double norm2;
    switch (f) {
    case DOT:
        return set->dot(query, row, dimension);
    case L2SQ:
        return set->l2sq(query, row, dimension);
    case L1:
        return set->l1(query, row, dimension);
    default:
        return set->dot_norm(query, row, dimension, &norm2) + norm2;
    }
}

static double measure(const struct kernel_set *set, enum function f, const float *query,
                      const float *rows, size_t dimension)
{
    const size_t passes = FLOATS_PER_ROUND / (ROWS * dimension) + 1;
    double total = 0;
    const uint64_t begin = clock_ns();
    for (size_t pass = 0; pass < passes; pass++) {
        for (size_t i = 0; i < ROWS; i++)
            total += run_once(set, f, query, rows + i * dimension, dimension);
    }
    const uint64_t end = clock_ns();
    sink = total;
    return (double)(end - begin) / (double)(passes * ROWS);
}

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values)
{
    qsort(values, ROUNDS, sizeof *values, compare);
    return values[ROUNDS / 2];
}

int main(void)
{
    static const size_t dimensions[] = {128, 256, 768};
    const struct kernel_set *sets[SETS_MAX];
    size_t count = 0;
    for (size_t i = 0; kernel_sets[i] && count < SETS_MAX; i++) {
        if (kernel_sets[i]->supported()) sets[count++] = kernel_sets[i];
    }
    const size_t scalar = count - 1; /* kernel_sets[] ends with it */

    for (size_t d = 0; d < sizeof dimensions / sizeof *dimensions; d++) {
        const size_t dimension = dimensions[d];
        float *query = malloc(dimension * sizeof *query);
        float *rows = malloc(ROWS * dimension * sizeof *rows);
        if (!query || !rows) return 1;
        for (size_t i = 0; i < dimension; i++)
            query[i] = (float)(i * 7 % 13) - 6;
        for (size_t i = 0; i < ROWS * dimension; i++)
            rows[i] = (float)(i * 5 % 17) - 8;

        for (int f = 0; f < FUNCTION_COUNT; f++) {
            double ns[SETS_MAX][ROUNDS], ratio[SETS_MAX][ROUNDS];
            for (size_t s = 0; s < count; s++)
                measure(sets[s], f, query, rows, dimension);
            for (int round = 0; round < ROUNDS; round++) {
                for (size_t s = 0; s < count; s++)
                    ns[s][round] = measure(sets[s], f, query, rows, dimension);
                for (size_t s = 0; s < count; s++)
                    ratio[s][round] = ns[scalar][round] / ns[s][round];
            }
            for (size_t s = 0; s < count; s++)
                printf(
                    "{\"bench\":\"kernels\",\"function\":\"%s\",\"dimension\":%zu,\"set\":\"%s\","
                    "\"ns\":%.1f,\"times_scalar\":%.2f}\n",
                    FUNCTION_NAMES[f], dimension, sets[s]->name, median(ns[s]), median(ratio[s]));
        }
        free(query);
        free(rows);
    }
    return 0;
}

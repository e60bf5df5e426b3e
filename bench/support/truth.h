/*
 * truth.h - the exact nearest rows, and how much of them a search found.
 *
 * Distances come from the storage kernels, so they are those of an exact search, to the last bit.
 * Recall counts by distance: a result that is as near as the k-th nearest row is a hit, whichever
 * of several equally near rows it is.
 */
#ifndef BENCH_TRUTH_H
#define BENCH_TRUTH_H

#include "bench/support/datasets.h"

struct truth {
    size_t query_count;
    uint32_t k;
    uint32_t *found;   /* for each query: how many there are; k, but for few allowed rows */
    double *distances; /* k for each query, ascending; owned */
    uint32_t *rows;    /* their numbers; owned */
};

/* The k nearest base rows of every query, among those whose bit is set in `allowed` (NULL: all). */
void truth_find(struct truth *t, const struct dataset *set, uint32_t k, const uint64_t *allowed,
                int threads);
/* The same for all rows; kept in a file in cache_dir if that is not NULL. */
void truth_of(struct truth *t, const struct dataset *set, uint32_t k, const char *cache_dir,
              int threads);
void truth_free(struct truth *t);

/* Distances of the metric, as reader_search() gives them; count <= TRUTH_ROWS_MAX. */
enum { TRUTH_ROWS_MAX = 128 };
void truth_distances(enum metric metric, const float *query, const float *const *rows, size_t count,
                     size_t dimension, double *out);

/* Of the k nearest rows of query `q`, how many are among `rows`; no row counts twice. */
uint32_t truth_hits(const struct truth *t, const struct dataset *set, size_t q, uint32_t k,
                    const uint32_t *rows, size_t count);
/* What truth_hits() can reach. */
uint32_t truth_best(const struct truth *t, size_t q, uint32_t k);

#endif

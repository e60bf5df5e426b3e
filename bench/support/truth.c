/* truth.c - exact search by blocks of rows: each is read once for all queries of a thread. */
#include "bench/support/truth.h"

#include <inttypes.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/support/client.h"
#include "storage/base/parallel.h"
#include "storage/kernel/kernel.h"

enum { QUERIES_AT_ONCE = 50, ROWS_AT_ONCE = TRUTH_ROWS_MAX };

struct search {
    const struct truth *truth;
    const struct dataset *set;
    const uint64_t *allowed;
    _Atomic size_t next;
};

static double norm(const float *row, size_t dimension)
{
    return sqrt(kernel_best()->dot(row, row, dimension));
}

/* The formulas of flat.c. */
static double value_of(enum metric metric, double raw, double query_norm, double row_norm2)
{
    switch (metric) {
    case METRIC_COSINE: {
        if (query_norm == 0 || row_norm2 == 0) return 1;
        double c = raw / (query_norm * sqrt(row_norm2));
        return 1 - (c > 1 ? 1 : c < -1 ? -1 : c);
    }
    case METRIC_EUCLIDEAN:
        return sqrt(raw);
    case METRIC_DOT_PRODUCT:
        return 0 - raw;
    default:
        return raw;
    }
}

static void raw_distances(enum metric metric, const float *query, const float *const *rows,
                          size_t count, size_t dimension, double *raw, double *norm2)
{
    const struct kernel_set *k = kernel_best();
    if (metric == METRIC_COSINE) k->dot_norm_rows(query, rows, count, dimension, raw, norm2);
    if (metric == METRIC_EUCLIDEAN) k->l2sq_rows(query, rows, count, dimension, raw);
    if (metric == METRIC_DOT_PRODUCT) k->dot_rows(query, rows, count, dimension, raw);
    if (metric == METRIC_MANHATTAN) k->l1_rows(query, rows, count, dimension, raw);
}

static void distances(enum metric metric, const float *query, double query_norm,
                      const float *const *rows, size_t count, size_t dimension, double *out)
{
    double norm2[ROWS_AT_ONCE] = {0};
    raw_distances(metric, query, rows, count, dimension, out, norm2);
    for (size_t i = 0; i < count; i++)
        out[i] = value_of(metric, out[i], query_norm, norm2[i]);
}

void truth_distances(enum metric metric, const float *query, const float *const *rows, size_t count,
                     size_t dimension, double *out)
{
    double query_norm = metric == METRIC_COSINE ? norm(query, dimension) : 0;
    distances(metric, query, query_norm, rows, count, dimension, out);
}

/* Insertion into a short sorted list: nearly all rows fail the first comparison. */
static void offer(const struct truth *t, size_t q, double distance, uint32_t row)
{
    double *d = t->distances + q * t->k;
    uint32_t *rows = t->rows + q * t->k, n = t->found[q];
    if (n == t->k && !(distance < d[n - 1])) return;
    uint32_t at = n < t->k ? n : n - 1;
    for (; at > 0 && distance < d[at - 1]; at--) {
        d[at] = d[at - 1];
        rows[at] = rows[at - 1];
    }
    d[at] = distance;
    rows[at] = row;
    if (n < t->k) t->found[q]++;
}

static void compare(const struct search *s, size_t q, double query_norm, const uint32_t *numbers,
                    size_t count)
{
    const struct dataset *set = s->set;
    const float *rows[ROWS_AT_ONCE];
    double out[ROWS_AT_ONCE];
    for (size_t i = 0; i < count; i++)
        rows[i] = set->base + (size_t)numbers[i] * set->dimension;
    distances(set->metric, set->query + q * set->dimension, query_norm, rows, count, set->dimension,
              out);
    for (size_t i = 0; i < count; i++)
        offer(s->truth, q, out[i], numbers[i]);
}

static void search_block(const struct search *s, size_t first, size_t end)
{
    const struct dataset *set = s->set;
    double norms[QUERIES_AT_ONCE];
    uint32_t numbers[ROWS_AT_ONCE];
    size_t count = 0;
    for (size_t q = first; q < end; q++)
        norms[q - first] = norm(set->query + q * set->dimension, set->dimension);
    for (size_t row = 0; row < set->base_count; row++) {
        if (!s->allowed || s->allowed[row / 64] >> row % 64 & 1) numbers[count++] = (uint32_t)row;
        if (count < ROWS_AT_ONCE && row + 1 < set->base_count) continue;
        for (size_t q = first; q < end; q++)
            compare(s, q, norms[q - first], numbers, count);
        count = 0;
    }
}

static void search(void *ctx)
{
    struct search *s = ctx;
    for (;;) {
        size_t first = atomic_fetch_add(&s->next, QUERIES_AT_ONCE), end = first + QUERIES_AT_ONCE;
        if (first >= s->set->query_count) return;
        search_block(s, first, end < s->set->query_count ? end : s->set->query_count);
    }
}

static void allocate(struct truth *t, const struct dataset *set, uint32_t k)
{
    *t = (struct truth){.query_count = set->query_count, .k = k};
    t->found = calloc(set->query_count, sizeof *t->found);
    t->distances = calloc(set->query_count * k, sizeof *t->distances);
    t->rows = calloc(set->query_count * k, sizeof *t->rows);
    if (!t->found || !t->distances || !t->rows) bench_fail("no memory for the ground truth");
}

void truth_find(struct truth *t, const struct dataset *set, uint32_t k, const uint64_t *allowed,
                int threads)
{
    allocate(t, set, k);
    struct search s = {.truth = t, .set = set, .allowed = allowed};
    parallel_run(threads, search, &s);
}

/* What the cached file is about; a changed generator has other first numbers. */
static uint64_t fingerprint(const struct dataset *set, uint32_t k)
{
    uint64_t hash = 14695981039346656037u; /* FNV-1a, by 32 bits */
    const uint32_t *at[2] = {(const void *)set->base, (const void *)set->query};
    const size_t counts[2] = {set->base_count, set->query_count};
    hash ^= k + ((uint64_t)set->metric << 32);
    for (int part = 0; part < 2; part++)
        for (size_t i = 0; i < counts[part] * set->dimension; i++)
            hash = (hash ^ at[part][i]) * 1099511628211u;
    return hash;
}

static bool transfer(struct truth *t, FILE *f, size_t (*move)(void *, size_t, size_t, FILE *))
{
    const size_t n = t->query_count, cells = n * t->k;
    return move(t->found, sizeof *t->found, n, f) == n &&
           move(t->distances, sizeof *t->distances, cells, f) == cells &&
           move(t->rows, sizeof *t->rows, cells, f) == cells;
}

static size_t write_out(void *from, size_t size, size_t count, FILE *f)
{
    return fwrite(from, size, count, f);
}

void truth_of(struct truth *t, const struct dataset *set, uint32_t k, const char *cache_dir,
              int threads)
{
    char path[512], new_path[520];
    if (!cache_dir) {
        truth_find(t, set, k, NULL, threads);
        return;
    }
    snprintf(path, sizeof path, "%s/truth-%s-%016" PRIx64, cache_dir, set->name,
             fingerprint(set, k));
    FILE *f = fopen(path, "rb");
    if (f) {
        allocate(t, set, k);
        bool whole = transfer(t, f, fread);
        fclose(f);
        if (whole) return;
        truth_free(t);
    }
    truth_find(t, set, k, NULL, threads);
    snprintf(new_path, sizeof new_path, "%s.new", path);
    f = fopen(new_path, "wb");
    if (!f || !transfer(t, f, write_out) || fclose(f) || rename(new_path, path))
        bench_fail("cannot write %s", path);
}

void truth_free(struct truth *t)
{
    free(t->found);
    free(t->distances);
    free(t->rows);
    *t = (struct truth){0};
}

uint32_t truth_best(const struct truth *t, size_t q, uint32_t k)
{
    return k < t->found[q] ? k : t->found[q];
}

uint32_t truth_hits(const struct truth *t, const struct dataset *set, size_t q, uint32_t k,
                    const uint32_t *rows, size_t count)
{
    uint32_t best = truth_best(t, q, k), hits = 0;
    if (best == 0) return 0;
    const double limit = t->distances[q * t->k + best - 1];
    const float *query = set->query + q * set->dimension;
    for (size_t i = 0; i < count; i++) {
        bool seen = false;
        for (size_t j = 0; j < i && !seen; j++)
            seen = rows[j] == rows[i];
        if (seen || rows[i] >= set->base_count) continue;
        const float *row = set->base + (size_t)rows[i] * set->dimension;
        double distance;
        truth_distances(set->metric, query, &row, 1, set->dimension, &distance);
        hits += distance <= limit;
    }
    return hits < best ? hits : best;
}

/*
 * datasets.h - rows and queries for benchmarks: generated, the same on every machine, or real ones
 * read from a directory.
 *
 * Queries are held out: no base row is one, but they come from the same distribution unless the
 * set says otherwise.  One thread at a time.  Whatever fails ends the benchmark (client.h).
 */
#ifndef BENCH_DATASETS_H
#define BENCH_DATASETS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "storage/types.h"

struct dataset {
    const char *name;
    const char *source; /* "generated"; "real"; "stand-in": generated for want of the real one */
    enum metric metric;
    uint32_t dimension;
    size_t base_count, query_count;
    float *base, *query; /* rows one behind the other; owned */
};

struct dataset_options {
    const char *data_dir; /* holds base.fvecs and query.fvecs; or NULL */
    size_t rows, queries; /* 0: what the set says; a real one has no more than it has */
    int threads;
};

/* Make the set of that name.  Those that come from the real one ("lsa", "tanh768", "noise500k")
 * take a stand-in without data_dir, and say so in `source` and on standard error. */
void dataset_make(struct dataset *set, const char *name, const struct dataset_options *options);
void dataset_free(struct dataset *set);

/* The names: `index` 0, 1 ... until NULL.  The first DATASET_GENERATORS are those that the default
 * effort is judged by. */
enum { DATASET_GENERATORS = 10 };
const char *dataset_name(size_t index);
const char *dataset_what(const char *name); /* one line */
size_t dataset_rows(const char *name);      /* how many it has by itself */
uint32_t dataset_dimension(const char *name);
enum metric dataset_metric(const char *name);

/* Files of an int32 dimension and 4-byte numbers, repeated (.fvecs, .ivecs); *numbers is the
 * caller's to free().  False: there is no such file. */
bool vecs_read(const char *dir, const char *file, void **numbers, size_t *count,
               uint32_t *dimension);

#endif

/*
 * metrics.h - numbers about the process, kept with relaxed atomics, rendered by api/metrics_text.c.
 *
 * metrics.def is the table: one row per series.  Every series exists, at 0, from the start.
 * Any thread.
 */
#ifndef STORAGE_BASE_METRICS_H
#define STORAGE_BASE_METRICS_H

#include <stdatomic.h>
#include <stdint.h>

enum stat_counter {
#define COUNTER(id, name, help) STAT_##id,
#define HISTOGRAM(id, name, help)
#include "storage/base/metrics.def"
    STAT_COUNTER_COUNT
};

enum stat_histogram {
#define COUNTER(id, name, help)
#define HISTOGRAM(id, name, help) STAT_##id,
#include "storage/base/metrics.def"
    STAT_HISTOGRAM_COUNT
};

/* Upper bounds in seconds; the bucket after the last is +Inf. */
#define STAT_BOUNDS                                                                                \
    {                                                                                              \
        0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, \
            1, 2.5, 5, 10                                                                          \
    }
enum { STAT_BOUND_COUNT = 17 };

/* A histogram may also live outside the table, one per label value (api/router.c). */
struct histogram {
    _Atomic uint64_t bucket[STAT_BOUND_COUNT + 1]; /* not cumulative */
    _Atomic uint64_t sum_ns;
};

extern _Atomic uint64_t stat_counters[STAT_COUNTER_COUNT];
extern struct histogram stat_histograms[STAT_HISTOGRAM_COUNT];
extern const double stat_bounds[STAT_BOUND_COUNT];

static inline void stat_add(enum stat_counter id, uint64_t n)
{
    atomic_fetch_add_explicit(&stat_counters[id], n, memory_order_relaxed);
}
static inline uint64_t stat_get(enum stat_counter id)
{
    return atomic_load_explicit(&stat_counters[id], memory_order_relaxed);
}
/* Note one duration in nanoseconds. */
void histogram_observe(struct histogram *h, uint64_t ns);
static inline void stat_observe(enum stat_histogram id, uint64_t ns)
{
    histogram_observe(&stat_histograms[id], ns);
}

#endif

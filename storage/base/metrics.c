/* metrics.c - the storage behind metrics.def. */
#include "storage/base/metrics.h"

_Atomic uint64_t stat_counters[STAT_COUNTER_COUNT];
struct histogram stat_histograms[STAT_HISTOGRAM_COUNT];
const double stat_bounds[STAT_BOUND_COUNT] = STAT_BOUNDS;

void histogram_observe(struct histogram *h, uint64_t ns)
{
    const double seconds = (double)ns / 1e9;
    int i = 0;
    while (i < STAT_BOUND_COUNT && seconds > stat_bounds[i])
        i++;
    atomic_fetch_add_explicit(&h->bucket[i], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&h->sum_ns, ns, memory_order_relaxed);
}

/*
 * contest.h - every kernel set does the same work; what each takes, and how it compares to scalar.
 *
 * Sets take turns within a round, so that a busy or throttled machine slows all of them alike; the
 * ratio is the median of the ratios of single rounds.  One JSON line for each set.
 */
#ifndef BENCH_SUPPORT_CONTEST_H
#define BENCH_SUPPORT_CONTEST_H

#include "storage/kernel/kernel.h"

struct contest {
    const char *function;
    const char *more;                                               /* further JSON members */
    double (*measure)(const struct kernel_set *, const void *work); /* nanoseconds per item */
    const void *work;
};

void contest_run(const struct contest *);

#endif

#include "bench/support/contest.h"

#include <stdio.h>
#include <stdlib.h>

enum { ROUNDS = 15, SETS_MAX = 8 };

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

void contest_run(const struct contest *contest)
{
    const struct kernel_set *sets[SETS_MAX];
    size_t count = 0;
    for (size_t i = 0; kernel_sets[i] && count < SETS_MAX; i++) {
        if (kernel_sets[i]->supported()) sets[count++] = kernel_sets[i];
    }
    const size_t scalar = count - 1; /* kernel_sets[] ends with it */

    double ns[SETS_MAX][ROUNDS], ratio[SETS_MAX][ROUNDS];
    for (size_t s = 0; s < count; s++)
        contest->measure(sets[s], contest->work);
    for (int round = 0; round < ROUNDS; round++) {
        for (size_t s = 0; s < count; s++)
            ns[s][round] = contest->measure(sets[s], contest->work);
        for (size_t s = 0; s < count; s++)
            ratio[s][round] = ns[scalar][round] / ns[s][round];
    }
    for (size_t s = 0; s < count; s++)
        printf("{\"bench\":\"kernels\",\"function\":\"%s\",%s,\"set\":\"%s\",\"ns\":%.2f,"
               "\"times_scalar\":%.2f}\n",
               contest->function, contest->more, sets[s]->name, median(ns[s]), median(ratio[s]));
    fflush(stdout);
}

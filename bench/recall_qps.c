/*
 * recall_qps.c - searches per second against recall, next to hnswlib on the same rows in the same
 * run; what building costs and what a row takes in memory, of both.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/support/args.h"
#include "bench/support/client.h"
#include "bench/support/subjects.h"

enum { K = 10, EF_MAX = 1200, ROUNDS = 5, QUICK_ROUNDS = 3 };

static void one_set(const struct bench_args *args, const char *name)
{
    struct dataset set;
    struct truth truth;
    struct subject theirs;
    struct build_cost cost;
    static struct ladder ladder, none;
    double begun = bench_now();
    bench_make_set(args, name, &set);
    double made = bench_now();
    truth_of(&truth, &set, K, args->cache_dir, args->options.threads);
    fprintf(stderr, "%s: made %.1f s, truth %.1f s\n", name, made - begun, bench_now() - made);
    subject_hnswlib(&theirs, &set, &(struct subject_options){.threads = 1}, &cost);
    fprintf(stderr, "build cpu %.1f wall %.1f bytes %.0f\n", cost.cpu_s, cost.wall_s, cost.row_bytes);
    ladder_climb(&ladder, &theirs, &set, &truth, K, EF_MAX, args->options.threads);
    ladder_race(&ladder, &none, &set, K, 5, args->options.threads);
    for (size_t i = 0; i < ladder.count; i++)
        fprintf(stderr, "%u:%.4f ", ladder.rungs[i].ef, ladder.rungs[i].recall);
    for (int t = 0; t < TARGETS; t++)
        fprintf(stderr, "\n%.2f: %.0f %.0f", measure_targets[t],
                ladder_median_qps(&ladder, measure_targets[t], 5, false),
                ladder_median_qps(&ladder, measure_targets[t], 5, true));
    fprintf(stderr, "\n");
    subject_hnswlib_free(&theirs);
    truth_free(&truth);
    dataset_free(&set);
}

int main(int argc, char **argv)
{
    struct bench_args args;
    bench_args_init(&args);
    for (int i = 1; i < argc; i++)
        if (!bench_args_take(&args, argv[i])) bench_fail("usage: recall_qps ...\n" BENCH_ARGS_HELP);
    const char *at = args.sets ? args.sets : "lsa";
    for (char name[64]; bench_next_name(&at, name);)
        one_set(&args, name);
    return 0;
}

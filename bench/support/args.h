/* args.h - the options that the benchmarks of the index share. */
#ifndef BENCH_ARGS_H
#define BENCH_ARGS_H

#include "bench/support/datasets.h"

#define BENCH_ARGS_HELP                                                                            \
    "  --data=DIR     the real data set (base.fvecs, query.fvecs); else BENCH_DATA; else a "       \
    "stand-in\n"                                                                                   \
    "  --cache=DIR    keep there what takes long to make\n"                                        \
    "  --set=A,B      data sets (--set=list tells them)\n"                                         \
    "  --rows=N --queries=N --rounds=N --threads=N\n"                                              \
    "  --quick        a fifth of the rows, fewer rounds\n"

struct bench_args {
    struct dataset_options options; /* threads: all processors unless told otherwise */
    const char *cache_dir;
    const char *sets; /* comma-separated; NULL: what the benchmark takes by itself */
    int rounds;       /* 0: what the benchmark takes by itself */
    bool quick;
};

void bench_args_init(struct bench_args *a);
/* True: it was one of these. */
bool bench_args_take(struct bench_args *a, const char *arg);

/* The next name of a comma-separated list into `name` (64 bytes); *at moves on.  False: the end. */
bool bench_next_name(const char **at, char *name);
/* Make a set, with fewer rows if --quick. */
void bench_make_set(const struct bench_args *a, const char *name, struct dataset *set);

/* The value of "--key=" or NULL. */
const char *bench_value(const char *arg, const char *key);

#endif

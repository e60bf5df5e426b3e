/*
 * cold_open.c - from the start of a process to its first answered search.
 *
 *   cold_open [--runs=N] [options of args.h]
 *
 * A database is made once (with --cache=DIR it is kept and used again).  Then processes are
 * started, one after the other, that open the service, pin the database and search; the files are
 * in the page cache.  Milliseconds from before fork(): to the open service, to the first answer, to
 * the hundredth; medians of the runs.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench/support/args.h"
#include "bench/support/client.h"
#include "bench/support/store.h"

enum { K = 10, RUNS = 11, RUNS_MAX = 99, SEARCHES = 100 };

struct times {
    double started, open, first, all; /* bench_now() */
    uint64_t rows;
    enum search_strategy strategy; /* of the first */
    double first_ms;               /* that search alone */
};

static void child(const char *dir, const struct dataset *shape, int to)
{
    struct times t = {0};
    struct bench_store store;
    struct vector_index_info info;
    uint32_t ids[K];
    float *query = calloc(shape->dimension, sizeof *query);
    if (!query) bench_fail("no memory");
    t.started = bench_now();
    store_open(&store, &(struct store_options){
                           .dir = dir, .metric = shape->metric, .dimension = shape->dimension});
    t.open = bench_now();
    for (int i = 0; i < SEARCHES; i++) {
        bench_row((uint64_t)i, query, shape->dimension);
        struct search_query q = {.vector = query, .top_k = K};
        struct search_report report;
        if (store_search(&store, &q, ids, &report) != K) bench_fail("too few results");
        if (i > 0) continue;
        t.first = bench_now();
        t.first_ms = 1e3 * (t.first - t.open);
        t.strategy = report.strategy;
    }
    t.all = bench_now();
    store_index_info(&store, &info);
    t.rows = info.indexed_count;
    if (write(to, &t, sizeof t) != sizeof t) bench_fail("cannot report");
    _exit(0); /* as a kill would: nothing was written */
}

/* A process of its own, by exec: nothing is inherited but the page cache. */
static double run_child(const char *program, const char *dir, const struct dataset *shape,
                        struct times *t)
{
    int ends[2];
    char number[16], dimension[16], metric[16];
    if (pipe(ends)) bench_fail("pipe: %s", strerror(errno));
    snprintf(number, sizeof number, "%d", ends[1]);
    snprintf(dimension, sizeof dimension, "%u", shape->dimension);
    snprintf(metric, sizeof metric, "%d", (int)shape->metric);
    double begun = bench_now();
    pid_t pid = fork();
    if (pid == 0) {
        close(ends[0]);
        execl(program, program, "--child", dir, number, dimension, metric, (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    if (pid < 0 || read(ends[0], t, sizeof *t) != sizeof *t) bench_fail("the child failed");
    close(ends[0]);
    waitpid(pid, NULL, 0);
    return begun;
}

static void make_database(const struct bench_args *args, const char *dir, const char *name,
                          struct dataset *set)
{
    char marker[600];
    struct bench_store store;
    snprintf(marker, sizeof marker, "%s.made", dir);
    if (args->cache_dir && access(marker, F_OK) == 0) return;
    if (mkdir(dir, 0700) && errno != EEXIST) bench_fail("cannot make %s", dir);
    bench_make_set(args, name, set);
    double begun = bench_now(), cpu = measure_cpu_s();
    store_open(&store, &(struct store_options){.dir = dir,
                                               .metric = set->metric,
                                               .dimension = set->dimension,
                                               .capacity = set->base_count});
    store_put(&store, set->base, 0, set->base_count, NULL, NULL);
    double loaded = bench_now();
    store_settle(&store);
    double linked = bench_now();
    store_close(&store);
    printf("{\"bench\":\"cold_open\",\"rows\":%zu,\"dimension\":%u,\"load_s\":%.1f,"
           "\"linked_s\":%.1f,\"closed_s\":%.1f,\"cpu_s\":%.1f}\n",
           set->base_count, set->dimension, loaded - begun, linked - begun, bench_now() - begun,
           measure_cpu_s() - cpu);
    fflush(stdout);
    free(set->base);
    free(set->query);
    set->base = set->query = NULL;
    FILE *f = args->cache_dir ? fopen(marker, "w") : NULL;
    if (f) fclose(f);
}

int main(int argc, char **argv)
{
    struct bench_args args;
    char dir[512];
    const char *value;
    int runs = RUNS;
    if (argc == 6 && strcmp(argv[1], "--child") == 0) {
        struct dataset shape = {.dimension = (uint32_t)atoi(argv[4]),
                                .metric = (enum metric)atoi(argv[5])};
        child(argv[2], &shape, atoi(argv[3]));
    }
    bench_args_init(&args);
    for (int i = 1; i < argc; i++) {
        if ((value = bench_value(argv[i], "--runs")))
            runs = atoi(value);
        else if (!bench_args_take(&args, argv[i]))
            bench_fail("usage: cold_open [--runs=N] [options]\n" BENCH_ARGS_HELP);
    }
    if (runs < 1 || runs > RUNS_MAX) bench_fail("--runs=1 .. %d", RUNS_MAX);
    const char *name = args.sets ? args.sets : "million256";
    struct dataset shape = {.dimension = dataset_dimension(name), .metric = dataset_metric(name)};
    if (args.cache_dir)
        snprintf(dir, sizeof dir, "%s/cold-%s-%zu%s", args.cache_dir, name, args.options.rows,
                 args.quick ? "-quick" : "");
    else
        snprintf(dir, sizeof dir, "%s/jadevectordb-bench-XXXXXX",
                 getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
    if (!args.cache_dir && !mkdtemp(dir)) bench_fail("cannot make %s", dir);
    make_database(&args, dir, name, &shape);

    double open[RUNS_MAX], first[RUNS_MAX], search[RUNS_MAX], all[RUNS_MAX], start[RUNS_MAX];
    struct times t;
    run_child(argv[0], dir, &shape, &t); /* fills the page cache */
    for (int i = 0; i < runs; i++) {
        double begun = run_child(argv[0], dir, &shape, &t);
        start[i] = 1e3 * (t.started - begun);
        open[i] = 1e3 * (t.open - begun);
        first[i] = 1e3 * (t.first - begun);
        search[i] = t.first_ms;
        all[i] = 1e3 * (t.all - begun);
    }
    const size_t n = (size_t)runs;
    printf("{\"bench\":\"cold_open\",\"set\":\"%s\",\"indexed\":%llu,\"runs\":%d,"
           "\"strategy\":\"%s\",\"process_ms\":%.2f,\"open_ms\":%.2f,\"first_answer_ms\":%.2f,"
           "\"first_search_ms\":%.2f,\"hundredth_answer_ms\":%.2f}\n",
           name, (unsigned long long)t.rows, runs, search_strategy_name(t.strategy),
           bench_median(start, n), bench_median(open, n), bench_median(first, n),
           bench_median(search, n), bench_median(all, n));
    fprintf(stderr,
            "%s, %llu rows in the graph, %s: first answer after %.1f ms, %d after %.1f ms\n", name,
            (unsigned long long)t.rows, search_strategy_name(t.strategy), bench_median(first, n),
            SEARCHES, bench_median(all, n));
    if (!args.cache_dir) store_remove(dir);
    return 0;
}

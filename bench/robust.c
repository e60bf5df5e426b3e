/*
 * robust.c - data that break proximity graphs: equal rows, one row in the middle of all others,
 * clusters that arrive one after the other or lie far apart; next to hnswlib.
 *
 *   robust [options of args.h]
 *
 * Recall counts by distance.  "self" is the part of the rows that a search for their own numbers
 * finds (or finds a row that is equal).  Databases are made with a graph whatever their size.  They
 * are judged when all rows are linked, and again when the index has done what it leaves for idle
 * times: it looks for rows that are not found, and mends or makes anew.
 */
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "bench/support/args.h"
#include "bench/support/client.h"
#include "bench/support/store.h"
#include "storage/base/parallel.h"

enum { K = 10, SELF_ROWS_MAX = 20000 };
static const uint32_t efforts[] = {0, 40, 160}; /* 0: what the database chooses */
enum { EFFORTS = sizeof efforts / sizeof *efforts };

/* ---- does every row find itself? ---- */

struct self_search {
    const struct subject *subject;
    const struct dataset *set;
    uint32_t ef;
    size_t rows;
    _Atomic size_t next, found;
};

static bool finds_itself(const struct self_search *s, size_t row)
{
    const float *own = s->set->base + row * s->set->dimension;
    uint32_t ids[K];
    size_t count = s->subject->search(s->subject->ctx, own, K, s->ef, ids);
    if (count == 0) return false;
    const float *rows[2] = {own, s->set->base + (size_t)ids[0] * s->set->dimension};
    double distances[2];
    truth_distances(s->set->metric, own, rows, 2, s->set->dimension, distances);
    return distances[1] <= distances[0];
}

static void search_selves(void *ctx)
{
    struct self_search *s = ctx;
    for (size_t i; (i = atomic_fetch_add(&s->next, 1)) < s->rows;)
        if (finds_itself(s, i * s->set->base_count / s->rows)) atomic_fetch_add(&s->found, 1);
}

static double self_recall(const struct subject *subject, const struct dataset *set, uint32_t ef,
                          int threads)
{
    struct self_search s = {.subject = subject, .set = set, .ef = ef};
    s.rows = set->base_count < SELF_ROWS_MAX ? set->base_count : SELF_ROWS_MAX;
    if (subject->set_ef) subject->set_ef(subject->ctx, ef);
    parallel_run(threads, search_selves, &s);
    return (double)s.found / (double)s.rows;
}

/* ---- one set ---- */

static void judge(const struct subject *s, const struct dataset *set, const struct truth *truth,
                  const char *codec, const char *state, int threads)
{
    printf("{\"bench\":\"robust\",\"set\":\"%s\",\"rows\":%zu,\"subject\":\"%s\",\"codec\":\"%s\","
           "\"state\":\"%s\"",
           set->name, set->base_count, s->name, codec, state);
    fprintf(stderr, "%-13s %-9s %-8s %-7s", set->name, s->name, codec, state);
    for (size_t i = 0; i < EFFORTS; i++) {
        double recall = measure_recall(s, set, truth, K, efforts[i], threads);
        double self = self_recall(s, set, efforts[i], threads);
        printf(",\"recall_%u\":%.4f,\"self_%u\":%.4f", efforts[i], recall, efforts[i], self);
        fprintf(stderr, "  ef %u: recall %.4f self %.4f", efforts[i], recall, self);
    }
    printf("}\n");
    fprintf(stderr, "\n");
    fflush(stdout);
}

static void one_set(const struct bench_args *args, const char *name)
{
    const int threads = args->options.threads;
    const struct index_options index = {.kind = INDEX_GRAPH};
    struct dataset set;
    struct truth truth;
    struct subject ours, theirs;
    struct build_cost cost;
    bench_make_set(args, name, &set);
    truth_of(&truth, &set, K, args->cache_dir, threads);
    subject_database(&ours, &set, &index, &cost);
    judge(&ours, &set, &truth, cost.codec, "linked", threads);
    store_rest(subject_database_store(&ours));
    judge(&ours, &set, &truth, cost.codec, "audited", threads);
    subject_database_free(&ours);
    subject_hnswlib(&theirs, &set, &(struct subject_options){.threads = 1}, &cost);
    judge(&theirs, &set, &truth, cost.codec, "linked", threads);
    subject_hnswlib_free(&theirs);
    truth_free(&truth);
    dataset_free(&set);
}

int main(int argc, char **argv)
{
    struct bench_args args;
    bench_args_init(&args);
    for (int i = 1; i < argc; i++) {
        if (!bench_args_take(&args, argv[i]))
            bench_fail("usage: robust [options]\n" BENCH_ARGS_HELP);
    }
    const char *at = args.sets ? args.sets : "duplicates64,zero64,ordered32,tight32";
    for (char name[64]; bench_next_name(&at, name);)
        one_set(&args, name);
    return 0;
}

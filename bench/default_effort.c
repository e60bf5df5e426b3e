/*
 * default_effort.c - what a search that names no effort finds and costs, next to the smallest ef
 * that would have been enough.
 *
 *   default_effort [options of args.h]
 *
 * The database measures its own recall in the background and chooses the effort from that; here is
 * how well it does so, for queries that it has never seen.
 */
#include <stdio.h>
#include <string.h>

#include "bench/support/args.h"
#include "bench/support/client.h"
#include "bench/support/store.h"

enum { K = 10, EF_MAX = 1200, ROUNDS = 5, QUICK_ROUNDS = 3, MEASUREMENT_S = 60 };
#define DEFAULT_RECALL 0.95 /* of a search that does not ask for one */

struct trial {
    const struct bench_args *args;
    struct dataset set;
    struct truth truth;
    struct subject ours;
    struct build_cost cost;
    int rounds;
};

/* Work of all queries with this effort (0: the default), on this thread. */
static void tell_work(const struct trial *t, uint32_t ef, double *ef_used, double *distances,
                      double *expected)
{
    struct bench_store *store = subject_database_store(&t->ours);
    uint32_t ids[K];
    *ef_used = *distances = 0;
    for (size_t i = 0; i < t->set.query_count; i++) {
        struct search_query q = {
            .vector = t->set.query + i * t->set.dimension, .top_k = K, .ef = ef};
        struct search_report report;
        store_search(store, &q, ids, &report);
        *ef_used += report.ef / (double)t->set.query_count;
        *distances += (double)report.code_distances / (double)t->set.query_count;
        *expected = report.expected_recall;
    }
}

/* The database measures its own recall in the background, after it has linked all rows; and again,
 * more precisely, in idle time, which need not be waited for here. */
static void await_measurement(const struct trial *t)
{
    double ef, distances, expected = 0;
    for (double end = bench_now() + MEASUREMENT_S; expected == 0 && bench_now() < end;) {
        tell_work(t, 0, &ef, &distances, &expected);
        bench_sleep(0.05);
    }
    if (expected == 0) fprintf(stderr, "NOTE: %s: no recall was measured\n", t->set.name);
    struct bench_store *store = subject_database_store(&t->ours);
    service_settle_index(store->svc, store->db);
}

/* The smallest ef that reaches a recall, EF_MAX + 1 if none does. */
static uint32_t least_ef(const struct trial *t, double recall)
{
    uint32_t low = K, high = EF_MAX + 1;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        double here =
            measure_recall(&t->ours, &t->set, &t->truth, K, middle, t->args->options.threads);
        if (here >= recall)
            high = middle;
        else
            low = middle + 1;
    }
    return high;
}

static double seconds_each(const struct trial *t, uint32_t ef, int repeats)
{
    struct pass p = measure_pass(&t->ours, &t->set, K, ef, repeats, 1);
    return p.cpu_s / (double)p.searches;
}

/* The default's time against that of the smallest sufficient ef, in turn. */
static double time_ratio(const struct trial *t, uint32_t ef)
{
    double ratios[ROUNDS_MAX];
    int repeats = 1 + (int)(0.1 / (seconds_each(t, ef, 1) * (double)t->set.query_count));
    for (int i = 0; i < t->rounds; i++) {
        double by_default = seconds_each(t, 0, repeats);
        ratios[i] = by_default / seconds_each(t, ef, repeats);
    }
    return bench_median(ratios, (size_t)t->rounds);
}

static void judge(const struct bench_args *args, int rounds, const char *name)
{
    const struct index_options index = {.kind = INDEX_AUTO};
    const int threads = args->options.threads;
    struct trial t = {.args = args, .rounds = rounds};
    double ef, distances, least_distances, unused, expected;
    bench_make_set(args, name, &t.set);
    truth_of(&t.truth, &t.set, K, args->cache_dir, threads);
    subject_database(&t.ours, &t.set, &index, &t.cost);
    await_measurement(&t);
    double recall = measure_recall(&t.ours, &t.set, &t.truth, K, 0, threads);
    uint32_t least = least_ef(&t, DEFAULT_RECALL);
    tell_work(&t, least, &unused, &least_distances, &unused);
    tell_work(&t, 0, &ef, &distances, &expected);
    double ratio = time_ratio(&t, least);
    printf("{\"bench\":\"default_effort\",\"set\":\"%s\",\"source\":\"%s\",\"rows\":%zu,"
           "\"codec\":\"%s\",\"recall\":%.4f,\"expected_recall\":%.4f,\"ef\":%.1f,"
           "\"least_ef\":%u,\"distances\":%.0f,\"least_distances\":%.0f,\"time_ratio\":%.2f}\n",
           name, t.set.source, t.set.base_count, t.cost.codec, recall, expected, ef, least,
           distances, least_distances, ratio);
    fflush(stdout);
    fprintf(stderr, "%-13s %-8s %7.4f %9.4f %6.0f %9u %9.2f\n", name, t.cost.codec, recall,
            expected, ef, least, ratio);
    subject_database_free(&t.ours);
    truth_free(&t.truth);
    dataset_free(&t.set);
}

int main(int argc, char **argv)
{
    struct bench_args args;
    bench_args_init(&args);
    for (int i = 1; i < argc; i++)
        if (!bench_args_take(&args, argv[i]))
            bench_fail("usage: default_effort [options]\n" BENCH_ARGS_HELP);
    int rounds = args.rounds ? args.rounds : args.quick ? QUICK_ROUNDS : ROUNDS;
    if (rounds > ROUNDS_MAX) bench_fail("at most %d rounds", ROUNDS_MAX);
    fprintf(stderr, "%-13s %-8s %7s %9s %6s %9s %9s\n", "set", "codec", "recall", "expected", "ef",
            "least ef", "time x");
    const char *at = args.sets;
    for (size_t i = 0; !at && i < DATASET_GENERATORS; i++)
        judge(&args, rounds, dataset_name(i));
    for (char name[64]; at && bench_next_name(&at, name);)
        judge(&args, rounds, name);
    return 0;
}

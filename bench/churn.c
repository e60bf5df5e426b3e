/*
 * churn.c - does recall last while rows come and go?
 *
 *   churn [--round-percent=N] [options of args.h]     --rounds: of churn, ten by default
 *
 * A database holds half of the rows of a set.  In each round a tenth of the live rows, chosen at
 * random, is deleted, and as many new ones are inserted, one request each, while another thread
 * searches.  Told after each round: recall next to that of a fresh database of the same rows at the
 * same ef, how many live rows a search for themselves does not find ("lost") at once and when the
 * index has looked for them in idle time ("audited"), and the longest request of each kind next to
 * the latest waking of an idle thread, which is the machine's doing.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/support/args.h"
#include "bench/support/client.h"
#include "bench/support/random.h"
#include "bench/support/store.h"
#include "storage/base/parallel.h"

enum { K = 10, ROUNDS = 10, QUICK_ROUNDS = 3, PERCENT = 10, SEARCH_PAUSE_US = 200 };
static const uint32_t efforts[] = {40, 80};
enum { EFFORTS = sizeof efforts / sizeof *efforts };

struct churn {
    struct bench_args args;
    struct dataset set;
    struct bench_store store;
    struct truth truth; /* of the live rows */
    uint64_t *live;     /* a bit for each row of the set */
    uint32_t *live_rows;
    size_t live_count;
    size_t next_row; /* not inserted yet */
    struct random random;
    _Atomic bool stopping;
    struct bench_times puts, deletes, searches, wakings;
};

static void set_live(struct churn *c, uint32_t row, bool is_live)
{
    uint64_t bit = (uint64_t)1 << row % 64;
    c->live[row / 64] = is_live ? c->live[row / 64] | bit : c->live[row / 64] & ~bit;
}

static const float *row_of(const struct churn *c, size_t row)
{
    return c->set.base + row * c->set.dimension;
}

/* ---- what goes on beside ---- */

static void *search_all_along(void *arg)
{
    struct churn *c = arg;
    uint32_t ids[K];
    for (size_t i = 0; !c->stopping; i = (i + 1) % c->set.query_count) {
        struct search_query q = {.vector = c->set.query + i * c->set.dimension, .top_k = K};
        double begun = bench_now();
        store_search(&c->store, &q, ids, NULL);
        bench_times_add(&c->searches, bench_now() - begun);
        bench_sleep(SEARCH_PAUSE_US / 1e6);
    }
    return NULL;
}

static void *wake_all_along(void *arg)
{
    struct churn *c = arg;
    while (!c->stopping) {
        double begun = bench_now();
        bench_sleep(0.001);
        bench_times_add(&c->wakings, bench_now() - begun - 0.001);
    }
    return NULL;
}

/* ---- one round ---- */

static void replace_one(struct churn *c)
{
    size_t at = random_below(&c->random, c->live_count);
    uint32_t old = c->live_rows[at], new = (uint32_t)c->next_row++;
    double begun = bench_now();
    store_delete(&c->store, old, 1);
    bench_times_add(&c->deletes, bench_now() - begun);
    begun = bench_now();
    store_put_one(&c->store, row_of(c, new), new);
    bench_times_add(&c->puts, bench_now() - begun);
    set_live(c, old, false);
    set_live(c, new, true);
    c->live_rows[at] = new;
}

static double replace_some(struct churn *c, size_t count)
{
    pthread_t searcher, waker;
    c->stopping = false;
    c->puts.count = c->deletes.count = c->searches.count = c->wakings.count = 0;
    if (pthread_create(&searcher, NULL, search_all_along, c) ||
        pthread_create(&waker, NULL, wake_all_along, c))
        bench_fail("no thread");
    double begun = bench_now();
    for (size_t i = 0; i < count && c->next_row < c->set.base_count; i++)
        replace_one(c);
    double took = bench_now() - begun;
    store_settle(&c->store);
    c->stopping = true;
    pthread_join(searcher, NULL);
    pthread_join(waker, NULL);
    return took;
}

/* ---- judging ---- */

static size_t search(void *ctx, const float *query, uint32_t k, uint32_t ef, uint32_t *rows)
{
    struct search_query q = {.vector = query, .top_k = k, .ef = ef};
    return store_search(ctx, &q, rows, NULL);
}

struct self_search {
    struct churn *c;
    uint32_t ef;
    _Atomic size_t next, missed;
};

/* Found: the row itself, or one that is equal. */
static void search_selves(void *ctx)
{
    struct self_search *s = ctx;
    const struct dataset *set = &s->c->set;
    for (size_t i; (i = atomic_fetch_add(&s->next, 1)) < s->c->live_count;) {
        const float *own = row_of(s->c, s->c->live_rows[i]);
        struct search_query q = {.vector = own, .top_k = 1, .ef = s->ef};
        uint32_t id;
        bool found = store_search(&s->c->store, &q, &id, NULL) == 1;
        if (found && id != s->c->live_rows[i])
            found = memcmp(own, row_of(s->c, id), set->dimension * sizeof *own) == 0;
        if (!found) atomic_fetch_add(&s->missed, 1);
    }
}

static size_t count_lost(struct churn *c, uint32_t ef)
{
    struct self_search s = {.c = c, .ef = ef};
    parallel_run(c->args.options.threads, search_selves, &s);
    return s.missed;
}

/* A new database of the rows that are live now. */
static void open_fresh(struct churn *c, struct bench_store *fresh)
{
    store_open(fresh, &(struct store_options){.metric = c->set.metric,
                                              .dimension = c->set.dimension,
                                              .index.kind = INDEX_GRAPH,
                                              .capacity = c->live_count});
    for (size_t first = 0; first < c->set.base_count;) {
        if (!(c->live[first / 64] >> first % 64 & 1)) {
            first++;
            continue;
        }
        size_t end = first;
        while (end < c->set.base_count && (c->live[end / 64] >> end % 64 & 1))
            end++;
        store_put(fresh, row_of(c, first), first, end - first, NULL, NULL);
        first = end;
    }
    store_settle(fresh);
}

static void judge(struct churn *c, int round, double took)
{
    const int threads = c->args.options.threads;
    struct bench_store fresh;
    struct subject aged = {.name = "churned", .ctx = &c->store, .search = search};
    struct subject new = {.name = "fresh", .ctx = &fresh, .search = search};
    truth_find(&c->truth, &c->set, K, c->live, threads);
    open_fresh(c, &fresh);
    printf("{\"bench\":\"churn\",\"set\":\"%s\",\"source\":\"%s\",\"round\":%d,\"live\":%zu",
           c->set.name, c->set.source, round, c->live_count);
    fprintf(stderr, "round %2d:", round);
    for (size_t i = 0; i < EFFORTS; i++) {
        uint32_t ef = efforts[i];
        double a = measure_recall(&aged, &c->set, &c->truth, K, ef, threads);
        double b = measure_recall(&new, &c->set, &c->truth, K, ef, threads);
        printf(",\"ef_%u\":{\"recall\":%.4f,\"fresh\":%.4f}", ef, a, b);
        fprintf(stderr, "  ef %u %.4f (fresh %.4f)", ef, a, b);
    }
    double by_default = measure_recall(&aged, &c->set, &c->truth, K, 0, threads);
    size_t lost = count_lost(c, 0);
    store_rest(&c->store);
    size_t after = count_lost(c, 0), after_80 = count_lost(c, 80);
    printf(",\"default_recall\":%.4f,\"lost_default\":%zu,\"lost_default_audited\":%zu,"
           "\"lost_80_audited\":%zu",
           by_default, lost, after, after_80);
    fprintf(stderr, "  default %.4f  lost %zu, audited %zu, %zu with ef 80", by_default, lost,
            after, after_80);
    if (round > 0) {
        double put = 1e3 * bench_quantile(&c->puts, 1), gone = 1e3 * bench_quantile(&c->deletes, 1),
               found = 1e3 * bench_quantile(&c->searches, 1),
               woken = 1e3 * bench_quantile(&c->wakings, 1);
        printf(",\"seconds\":%.2f,\"replaced_per_s\":%.0f,\"put_max_ms\":%.2f,"
               "\"delete_max_ms\":%.2f,\"search_max_ms\":%.2f,\"search_p99_ms\":%.2f,"
               "\"idle_max_ms\":%.2f",
               took, (double)c->puts.count / took, put, gone, found,
               1e3 * bench_quantile(&c->searches, 0.99), woken);
        fprintf(stderr, "  longest ms: put %.1f delete %.1f search %.1f idle %.1f", put, gone,
                found, woken);
    }
    printf("}\n");
    fprintf(stderr, "\n");
    fflush(stdout);
    store_close(&fresh);
    truth_free(&c->truth);
}

int main(int argc, char **argv)
{
    static struct churn c;
    const char *value;
    size_t percent = PERCENT;
    bench_args_init(&c.args);
    for (int i = 1; i < argc; i++) {
        if ((value = bench_value(argv[i], "--round-percent")))
            percent = strtoull(value, NULL, 10);
        else if (!bench_args_take(&c.args, argv[i]))
            bench_fail("usage: churn [--round-percent=N] [options]\n" BENCH_ARGS_HELP);
    }
    int rounds = c.args.rounds ? c.args.rounds : c.args.quick ? QUICK_ROUNDS : ROUNDS;
    bench_make_set(&c.args, c.args.sets ? c.args.sets : "lsa", &c.set);
    c.live_count = c.next_row = c.set.base_count / 2;
    c.live = calloc(c.set.base_count / 64 + 1, sizeof *c.live);
    c.live_rows = calloc(c.live_count, sizeof *c.live_rows);
    if (!c.live || !c.live_rows) bench_fail("no memory");
    c.random = random_stream(7, 7);
    for (size_t i = 0; i < c.live_count; i++) {
        c.live_rows[i] = (uint32_t)i;
        set_live(&c, (uint32_t)i, true);
    }
    store_open(&c.store, &(struct store_options){.metric = c.set.metric,
                                                 .dimension = c.set.dimension,
                                                 .index.kind = INDEX_GRAPH,
                                                 .capacity = c.live_count});
    store_put(&c.store, c.set.base, 0, c.live_count, NULL, NULL);
    store_settle(&c.store);
    judge(&c, 0, 0);
    for (int round = 1; round <= rounds; round++) {
        double took = replace_some(&c, c.live_count * percent / 100);
        judge(&c, round, took);
    }
    store_close(&c.store);
    dataset_free(&c.set);
    free(c.live);
    free(c.live_rows);
    return 0;
}

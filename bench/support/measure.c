/* measure.c - passes over all queries, on one thread or on several, timed by two clocks. */
#include "bench/support/measure.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench/support/client.h"
#include "storage/base/lock.h"
#include "storage/base/parallel.h"

enum { K_MAX = 1000, QUERIES_AT_ONCE = 32 };
#define PASS_S 0.1 /* a pass takes at least so long */

const double measure_targets[TARGETS] = {0.95, 0.98, 0.99};

static double seconds_of(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

double measure_cpu_s(void)
{
    return seconds_of(CLOCK_PROCESS_CPUTIME_ID);
}

struct work {
    const struct subject *subject;
    const struct dataset *set;
    const struct truth *truth; /* NULL: only time it */
    uint32_t k, ef;
    size_t searches; /* query number i mod query_count */
    _Atomic size_t next;
    _Atomic uint64_t cpu_ns, hits, best;
};

static void do_work(void *ctx)
{
    struct work *w = ctx;
    uint32_t rows[K_MAX];
    uint64_t hits = 0, best = 0;
    const double begun = seconds_of(CLOCK_THREAD_CPUTIME_ID);
    for (;;) {
        size_t first = atomic_fetch_add(&w->next, QUERIES_AT_ONCE), end = first + QUERIES_AT_ONCE;
        if (first >= w->searches) break;
        for (size_t i = first; i < end && i < w->searches; i++) {
            size_t q = i % w->set->query_count;
            const float *query = w->set->query + q * w->set->dimension;
            size_t count = w->subject->search(w->subject->ctx, query, w->k, w->ef, rows);
            if (!w->truth) continue;
            hits += truth_hits(w->truth, w->set, q, w->k, rows, count);
            best += truth_best(w->truth, q, w->k);
        }
    }
    atomic_fetch_add(&w->cpu_ns, (uint64_t)(1e9 * (seconds_of(CLOCK_THREAD_CPUTIME_ID) - begun)));
    atomic_fetch_add(&w->hits, hits);
    atomic_fetch_add(&w->best, best);
}

static void run(struct work *w, int threads)
{
    if (w->k > K_MAX) bench_fail("k is at most %d", K_MAX);
    if (w->subject->set_ef) w->subject->set_ef(w->subject->ctx, w->ef);
    parallel_run(threads, do_work, w);
}

struct pass measure_pass(const struct subject *s, const struct dataset *set, uint32_t k,
                         uint32_t ef, int repeats, int threads)
{
    if (s->pass) return s->pass(s->ctx, ef, repeats, threads);
    struct work w = {
        .subject = s, .set = set, .k = k, .ef = ef, .searches = set->query_count * (size_t)repeats};
    double begun = bench_now();
    run(&w, threads);
    return (struct pass){
        .wall_s = bench_now() - begun, .cpu_s = (double)w.cpu_ns / 1e9, .searches = w.searches};
}

double measure_qps(const struct pass *p, int threads)
{
    return (double)p->searches / (threads > 1 ? p->wall_s : p->cpu_s);
}

static double recall_of_all(const struct subject *s, const struct dataset *set,
                            const struct truth *t, uint32_t k, uint32_t ef)
{
    uint32_t *rows = calloc(set->query_count * k, sizeof *rows);
    uint64_t hits = 0, best = 0;
    if (!rows) bench_fail("no memory");
    s->search_all(s->ctx, ef, rows);
    for (size_t q = 0; q < set->query_count; q++) {
        hits += truth_hits(t, set, q, k, rows + q * k, k);
        best += truth_best(t, q, k);
    }
    free(rows);
    return best ? (double)hits / (double)best : 1;
}

double measure_recall(const struct subject *s, const struct dataset *set, const struct truth *t,
                      uint32_t k, uint32_t ef, int threads)
{
    if (s->search_all) return recall_of_all(s, set, t, k, ef);
    struct work w = {
        .subject = s, .set = set, .truth = t, .k = k, .ef = ef, .searches = set->query_count};
    run(&w, threads);
    return w.best ? (double)w.hits / (double)w.best : 1;
}

/* ---- ladders ---- */

/* Steps of about an eighth: 10 11 12 13 15 17 19 ... */
static uint32_t next_ef(uint32_t ef)
{
    uint32_t step = ef / 8;
    return ef + (step ? step : 1);
}

void ladder_climb(struct ladder *l, const struct subject *s, const struct dataset *set,
                  const struct truth *t, uint32_t k, uint32_t ef_max, int threads)
{
    *l = (struct ladder){.subject = s};
    for (uint32_t ef = k; ef <= ef_max && l->count < RUNGS_MAX; ef = next_ef(ef)) {
        struct rung *r = &l->rungs[l->count++];
        r->ef = ef;
        r->recall = measure_recall(s, set, t, k, ef, threads);
        if (r->recall >= measure_targets[TARGETS - 1]) break;
    }
    for (size_t i = 0; i < l->count; i++) {
        double below = i ? l->rungs[i - 1].recall : -1, here = l->rungs[i].recall;
        for (int target = 0; target < TARGETS; target++) {
            double wanted = measure_targets[target];
            if (below >= wanted || here < wanted) continue;
            l->rungs[i].timed = true;
            if (i) l->rungs[i - 1].timed = true;
        }
    }
}

static void time_rung(const struct subject *s, struct rung *r, const struct dataset *set,
                      uint32_t k, int round, int threads)
{
    if (round == 0) {
        struct pass p = measure_pass(s, set, k, r->ef, 1, 1);
        r->repeats = 1 + (int)(PASS_S / p.wall_s);
    }
    for (int all = 0; all < (threads > 1 ? 2 : 1); all++) {
        int used = all ? threads : 1;
        struct pass p = measure_pass(s, set, k, r->ef, r->repeats, used);
        r->qps[all][round] = measure_qps(&p, used);
    }
}

/* The first rung from *i on that is to be timed; *i is behind it.  NULL: none is left. */
static struct rung *next_timed(struct ladder *l, size_t *i)
{
    while (*i < l->count)
        if (l->rungs[(*i)++].timed) return &l->rungs[*i - 1];
    return NULL;
}

void ladder_race(struct ladder *a, struct ladder *b, const struct dataset *set, uint32_t k,
                 int rounds, int threads)
{
    if (rounds > ROUNDS_MAX) bench_fail("at most %d rounds", ROUNDS_MAX);
    for (int round = 0; round < rounds; round++) {
        size_t i = 0, j = 0;
        for (bool more = true; more;) {
            struct rung *of_a = next_timed(a, &i), *of_b = next_timed(b, &j);
            if (of_a) time_rung(a->subject, of_a, set, k, round, threads);
            if (of_b) time_rung(b->subject, of_b, set, k, round, threads);
            more = of_a || of_b;
        }
    }
}

double ladder_qps(const struct ladder *l, double recall, int round, bool all_threads)
{
    for (size_t i = 0; i < l->count; i++) {
        const struct rung *above = &l->rungs[i], *below = above - 1;
        if (above->recall < recall) continue;
        double fast = above->qps[all_threads][round];
        if (i == 0 || !below->timed) return fast;
        double part = (recall - below->recall) / (above->recall - below->recall);
        return exp((1 - part) * log(below->qps[all_threads][round]) + part * log(fast));
    }
    return 0;
}

double ladder_median_qps(const struct ladder *l, double recall, int rounds, bool all_threads)
{
    double values[ROUNDS_MAX];
    for (int round = 0; round < rounds; round++)
        values[round] = ladder_qps(l, recall, round, all_threads);
    return bench_median(values, (size_t)rounds);
}

double ladder_ratio(const struct ladder *a, const struct ladder *b, double recall, int rounds,
                    bool all_threads)
{
    double values[ROUNDS_MAX];
    for (int round = 0; round < rounds; round++) {
        double ours = ladder_qps(a, recall, round, all_threads);
        double theirs = ladder_qps(b, recall, round, all_threads);
        if (ours <= 0 || theirs <= 0) return 0;
        values[round] = ours / theirs;
    }
    return bench_median(values, (size_t)rounds);
}

double ladder_best_recall(const struct ladder *l)
{
    double best = 0;
    for (size_t i = 0; i < l->count; i++)
        if (l->rungs[i].recall > best) best = l->rungs[i].recall;
    return best;
}

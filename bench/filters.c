/*
 * filters.c - searches with a filter: recall, whether k come out whenever k match, and speed next
 * to an exact scan of the rows that match and to hnswlib without any filter.
 *
 *   filters [options of args.h]
 *
 * Each row carries two numbers below 10,000 in its metadata: "any", drawn at random, and "near",
 * its rank by distance from one row of the set, the anchor.
 *
 *   uncorrelated   rows with a small "any", all queries
 *   correlated     rows near the anchor, the queries nearest to it
 *   opposite       rows far from the anchor, the queries nearest to it
 *
 * The scan compares the matching rows one by one, their numbers given: what no plan can do without
 * unless it is cheaper.  All rates are by CPU time of one thread, in turn within a round.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/json_filter.h"
#include "bench/support/args.h"
#include "bench/support/client.h"
#include "bench/support/random.h"
#include "bench/support/store.h"

enum { K = 10, ROUNDS = 5, QUICK_ROUNDS = 3, RANKS = 10000, EF_MAX = 1200, NEAR_PART = 5 };

/* What others gave with a filter on the text set, on a machine of this kind: searches per second of
 * one connection for each one of hnswlib's at recall .95 (30,100); and at which recall. */
static const struct other {
    const char *name;
    double percent, recall, qps_per_hnswlib;
} others[] = {{"pgvector 0.8.6, iterative scan", 10, 0.96, 262 / 30100.0},
              {"Redis 8.8 vector set, Q8", 10, 0.935, 281 / 30100.0},
              {"pgvector 0.8.6, iterative scan", 1, 0.63, 40 / 30100.0},
              {"Redis 8.8 vector set, Q8", 1, 0.44, 180 / 30100.0}};

enum relation { UNCORRELATED, CORRELATED, OPPOSITE, RELATION_COUNT };
static const char *const relation_names[] = {"uncorrelated", "correlated", "opposite"};
static const double percents[] = {90, 50, 25, 10, 1, 0.1};

struct world {
    struct dataset set;
    struct dataset near_queries; /* the same rows, but other queries */
    uint32_t *any, *near;        /* of each row */
    struct bench_store store;
    struct subject hnswlib;
    uint32_t hnswlib_ef; /* reaches .95 */
    int rounds, threads;
};

/* ---- metadata ---- */

struct ranked {
    double distance;
    uint32_t row;
};

static int by_distance(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->distance != y->distance) return x->distance < y->distance ? -1 : 1;
    return x->row < y->row ? -1 : x->row > y->row;
}

static struct ranked *rank(const struct dataset *set, const float *rows, size_t count)
{
    struct ranked *r = calloc(count, sizeof *r);
    if (!r) bench_fail("no memory");
    for (size_t i = 0; i < count; i++) {
        const float *row = rows + i * set->dimension;
        r[i].row = (uint32_t)i;
        truth_distances(set->metric, set->base, &row, 1, set->dimension, &r[i].distance);
    }
    qsort(r, count, sizeof *r, by_distance);
    return r;
}

static void number_rows(struct world *w)
{
    const struct dataset *set = &w->set;
    struct random random = random_stream(3, 3);
    struct ranked *rows = rank(set, set->base, set->base_count);
    struct ranked *queries = rank(set, set->query, set->query_count);
    w->any = calloc(set->base_count, sizeof *w->any);
    w->near = calloc(set->base_count, sizeof *w->near);
    w->near_queries = *set;
    w->near_queries.query_count = set->query_count / NEAR_PART;
    w->near_queries.query = calloc(w->near_queries.query_count * set->dimension, sizeof(float));
    if (!w->any || !w->near || !w->near_queries.query) bench_fail("no memory");
    for (size_t i = 0; i < set->base_count; i++) {
        w->any[i] = (uint32_t)random_below(&random, RANKS);
        w->near[rows[i].row] = (uint32_t)(i * RANKS / set->base_count);
    }
    for (size_t i = 0; i < w->near_queries.query_count; i++)
        memcpy(w->near_queries.query + i * set->dimension,
               set->query + queries[i].row * set->dimension, set->dimension * sizeof(float));
    free(rows);
    free(queries);
}

static size_t metadata(void *ctx, uint64_t id, char *text, size_t cap)
{
    const struct world *w = ctx;
    return (size_t)snprintf(text, cap, "{\"any\":%u,\"near\":%u,\"name\":\"row %llu\"}", w->any[id],
                            w->near[id], (unsigned long long)id);
}

/* ---- a filter ---- */

struct condition {
    enum relation relation;
    uint32_t limit; /* matching values of the RANKS there are */
    char text[64];
    struct arena arena;
    const struct filter *filter;
    uint64_t *allowed;
    uint32_t *rows; /* allowed ones */
    size_t count;
};

static bool matches(const struct world *w, const struct condition *c, size_t row)
{
    switch (c->relation) {
    case UNCORRELATED:
        return w->any[row] < c->limit;
    case CORRELATED:
        return w->near[row] < c->limit;
    default:
        return w->near[row] >= RANKS - c->limit;
    }
}

static void condition_init(struct condition *c, const struct world *w, enum relation relation,
                           double percent)
{
    struct err err;
    *c = (struct condition){.relation = relation, .limit = (uint32_t)(percent * RANKS / 100)};
    snprintf(c->text, sizeof c->text, "{\"%s\":{\"%s\":%u}}",
             relation == UNCORRELATED ? "any" : "near", relation == OPPOSITE ? "$gte" : "$lt",
             relation == OPPOSITE ? RANKS - c->limit : c->limit);
    struct json_scan scan;
    json_scan_init(&scan, c->text, strlen(c->text), &c->arena);
    if (json_filter(&scan, NULL, &c->filter, &err)) bench_fail("%s: %s", c->text, err.msg);
    c->allowed = calloc(w->set.base_count / 64 + 1, sizeof *c->allowed);
    c->rows = calloc(w->set.base_count, sizeof *c->rows);
    if (!c->allowed || !c->rows) bench_fail("no memory");
    for (size_t i = 0; i < w->set.base_count; i++) {
        if (!matches(w, c, i)) continue;
        c->allowed[i / 64] |= (uint64_t)1 << i % 64;
        c->rows[c->count++] = (uint32_t)i;
    }
}

static void condition_deinit(struct condition *c)
{
    arena_free(&c->arena);
    free(c->allowed);
    free(c->rows);
}

/* ---- subjects ---- */

struct filtered {
    struct world *world;
    const struct condition *condition;
    bool exact;
};

static size_t search(void *ctx, const float *query, uint32_t k, uint32_t ef, uint32_t *rows)
{
    const struct filtered *f = ctx;
    struct search_query q = {
        .vector = query, .top_k = k, .ef = ef, .filter = f->condition->filter, .exact = f->exact};
    return store_search(&f->world->store, &q, rows, NULL);
}

/* Compare all rows that match, their numbers given. */
static size_t scan(void *ctx, const float *query, uint32_t k, uint32_t ef, uint32_t *rows)
{
    const struct filtered *f = ctx;
    const struct dataset *set = &f->world->set;
    const struct condition *c = f->condition;
    const float *at[TRUTH_ROWS_MAX];
    double distances[TRUTH_ROWS_MAX], best[K];
    size_t found = 0;
    (void)ef;
    for (size_t first = 0; first < c->count; first += TRUTH_ROWS_MAX) {
        size_t n = c->count - first < TRUTH_ROWS_MAX ? c->count - first : TRUTH_ROWS_MAX;
        for (size_t i = 0; i < n; i++)
            at[i] = set->base + (size_t)c->rows[first + i] * set->dimension;
        truth_distances(set->metric, query, at, n, set->dimension, distances);
        for (size_t i = 0; i < n; i++) {
            if (found == k && distances[i] >= best[k - 1]) continue;
            size_t place = found < k ? found++ : k - 1;
            for (; place > 0 && distances[i] < best[place - 1]; place--) {
                best[place] = best[place - 1];
                rows[place] = rows[place - 1];
            }
            best[place] = distances[i];
            rows[place] = c->rows[first + i];
        }
    }
    return found;
}

/* ---- measuring ---- */

struct outcome {
    double recall, qps, times_scan, times_exact, times_hnswlib;
    size_t short_results; /* answers with fewer rows than match, or than k */
    struct search_report report;
};

static size_t count_short(struct world *w, const struct condition *c, const struct dataset *set,
                          struct search_report *report)
{
    const size_t wanted = c->count < K ? c->count : K;
    size_t short_results = 0;
    for (size_t i = 0; i < set->query_count; i++) {
        uint32_t ids[K];
        struct search_query q = {
            .vector = set->query + i * set->dimension, .top_k = K, .filter = c->filter};
        short_results += store_search(&w->store, &q, ids, report) < wanted;
    }
    return short_results;
}

static double qps(const struct subject *s, const struct dataset *set, uint32_t ef)
{
    struct pass p = measure_pass(s, set, K, ef, 1, 1);
    return measure_qps(&p, 1);
}

static void measure(struct world *w, const struct condition *c, const struct dataset *set,
                    struct outcome *o)
{
    struct filtered planned = {w, c, false}, exact = {w, c, true};
    struct subject ours = {.name = "database", .ctx = &planned, .search = search};
    struct subject all = {.name = "exact", .ctx = &exact, .search = search};
    struct subject bare = {.name = "scan", .ctx = &planned, .search = scan};
    double rates[ROUNDS_MAX], by_scan[ROUNDS_MAX], by_exact[ROUNDS_MAX], by_peer[ROUNDS_MAX];
    struct truth truth;
    /* Exact searches of half a set are slow; a part of the queries is enough for times. */
    struct dataset few = *set;
    if (few.query_count > 200) few.query_count = 200;
    truth_find(&truth, set, K, c->allowed, w->threads);
    o->recall = measure_recall(&ours, set, &truth, K, 0, w->threads);
    o->short_results = count_short(w, c, set, &o->report);
    for (int i = 0; i < w->rounds; i++) {
        rates[i] = qps(&ours, &few, 0);
        by_scan[i] = rates[i] / qps(&bare, &few, 0);
        by_exact[i] = rates[i] / qps(&all, &few, 0);
        by_peer[i] = rates[i] / qps(&w->hnswlib, set, w->hnswlib_ef);
    }
    o->qps = bench_median(rates, (size_t)w->rounds);
    o->times_scan = bench_median(by_scan, (size_t)w->rounds);
    o->times_exact = bench_median(by_exact, (size_t)w->rounds);
    o->times_hnswlib = bench_median(by_peer, (size_t)w->rounds);
    truth_free(&truth);
}

static void tell(const struct world *w, const struct condition *c, double percent,
                 const struct outcome *o)
{
    printf("{\"bench\":\"filters\",\"set\":\"%s\",\"source\":\"%s\",\"relation\":\"%s\","
           "\"percent\":%g,\"matching\":%zu,\"recall\":%.4f,\"short_results\":%zu,\"qps\":%.0f,"
           "\"times_scan\":%.3g,\"times_exact_search\":%.3g,\"times_hnswlib_unfiltered\":%.3g,"
           "\"strategy\":\"%s\",\"filter_us\":%.0f,\"graph_us\":%.0f,\"rescore_us\":%.0f}\n",
           w->set.name, w->set.source, relation_names[c->relation], percent, c->count, o->recall,
           o->short_results, o->qps, o->times_scan, o->times_exact, o->times_hnswlib,
           search_strategy_name(o->report.strategy), (double)o->report.filter_ns / 1e3,
           (double)o->report.graph_ns / 1e3, (double)o->report.rescore_ns / 1e3);
    fprintf(stderr,
            "%-13s %5g%% %7zu rows  recall %.4f  short %zu  %7.0f QPS  x%.2g of a scan  %s (filter "
            "%.0f us)",
            relation_names[c->relation], percent, c->count, o->recall, o->short_results, o->qps,
            o->times_scan, search_strategy_name(o->report.strategy),
            (double)o->report.filter_ns / 1e3);
    for (size_t i = 0; c->relation == UNCORRELATED && i < sizeof others / sizeof *others; i++) {
        if (others[i].percent != percent) continue;
        double times = o->times_hnswlib / others[i].qps_per_hnswlib;
        printf("{\"bench\":\"filters\",\"set\":\"%s\",\"percent\":%g,\"other\":\"%s\","
               "\"recall\":%.4f,\"other_recall\":%.3f,\"times_other\":%.1f}\n",
               w->set.name, percent, others[i].name, o->recall, others[i].recall, times);
        fprintf(stderr, "\n%22s x%.1f of %s (recall %.3f), scaled by hnswlib", "", times,
                others[i].name, others[i].recall);
    }
    fprintf(stderr, "\n");
    fflush(stdout);
}

static void find_hnswlib_ef(struct world *w, const char *cache_dir)
{
    static struct ladder ladder;
    struct truth truth;
    truth_of(&truth, &w->set, K, cache_dir, w->threads);
    ladder_climb(&ladder, &w->hnswlib, &w->set, &truth, K, EF_MAX, w->threads);
    w->hnswlib_ef = EF_MAX;
    for (size_t i = ladder.count; i-- > 0;)
        if (ladder.rungs[i].recall >= 0.95) w->hnswlib_ef = ladder.rungs[i].ef;
    truth_free(&truth);
}

int main(int argc, char **argv)
{
    static struct world w;
    static char indexes[] = "{\"metadata_indexes\":{\"any\":\"integer\",\"near\":\"integer\"}}";
    struct bench_args args;
    struct build_cost cost;
    bench_args_init(&args);
    for (int i = 1; i < argc; i++)
        if (!bench_args_take(&args, argv[i]))
            bench_fail("usage: filters [options]\n" BENCH_ARGS_HELP);
    w.threads = args.options.threads;
    w.rounds = args.rounds ? args.rounds : args.quick ? QUICK_ROUNDS : ROUNDS;
    bench_make_set(&args, args.sets ? args.sets : "lsa", &w.set);
    number_rows(&w);
    subject_hnswlib(&w.hnswlib, &w.set, &(struct subject_options){.threads = w.threads}, &cost);
    find_hnswlib_ef(&w, args.cache_dir);
    store_open(&w.store, &(struct store_options){.options = indexes,
                                                 .metric = w.set.metric,
                                                 .dimension = w.set.dimension,
                                                 .index.kind = INDEX_GRAPH,
                                                 .capacity = w.set.base_count});
    store_put(&w.store, w.set.base, 0, w.set.base_count, metadata, &w);
    store_settle(&w.store);
    service_settle_index(w.store.svc, w.store.db); /* which measures the recall, too */
    for (int relation = 0; relation < RELATION_COUNT; relation++) {
        for (size_t i = 0; i < sizeof percents / sizeof *percents; i++) {
            struct condition c;
            struct outcome o;
            condition_init(&c, &w, (enum relation)relation, percents[i]);
            measure(&w, &c, relation == UNCORRELATED ? &w.set : &w.near_queries, &o);
            tell(&w, &c, percents[i], &o);
            condition_deinit(&c);
        }
    }
    store_close(&w.store);
    subject_hnswlib_free(&w.hnswlib);
    free(w.near_queries.query);
    free(w.any);
    free(w.near);
    dataset_free(&w.set);
    return 0;
}

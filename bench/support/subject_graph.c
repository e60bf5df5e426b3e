/* subject_graph.c - the graph without a database around it, for tuning it. */
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/support/client.h"
#include "bench/support/random.h"
#include "bench/support/subjects.h"
#include "storage/base/epoch.h"
#include "storage/base/parallel.h"
#include "storage/index/graph.h"
#include "storage/kernel/kernel.h"

enum {
    SAMPLE_ROWS = 20000,
    RESCORE_MIN = 30,
    RESCORE_MAX = 4096,
    FLOAT_DIMENSIONS = 32, /* up to here an int8 cell is no smaller than floats */
    NODES_AT_ONCE = 16,
    FIRST_ROUND = 1024, /* nodes before pivots are chosen again; doubles */
};

struct bare_graph {
    struct graph *g;
    const struct dataset *set;
    uint32_t rescore;
    float *mean;
    float gain;
};

/* The mean of a sample of the rows as they are coded, and the gain (codec.h). */
static void sample(struct bare_graph *b)
{
    const struct dataset *set = b->set;
    const size_t n = set->base_count < SAMPLE_ROWS ? set->base_count : SAMPLE_ROWS;
    const size_t dimension = set->dimension;
    double *sum = calloc(dimension, sizeof *sum), spread = 0;
    b->mean = malloc(dimension * sizeof *b->mean);
    if (!sum || !b->mean) bench_fail("no memory for a mean");
    for (size_t i = 0; i < n; i++) {
        const float *row = set->base + i * set->base_count / n * dimension;
        double norm = 1;
        if (set->metric == METRIC_COSINE) norm = sqrt(kernel_best()->dot(row, row, dimension));
        for (size_t j = 0; j < dimension; j++)
            sum[j] += norm > 0 ? (double)row[j] / norm : 0;
    }
    for (size_t j = 0; j < dimension; j++)
        b->mean[j] = (float)(sum[j] / (double)n);
    for (size_t i = 0; i < n; i++)
        spread += kernel_best()->l2sq(set->base + i * set->base_count / n * dimension, b->mean,
                                      dimension);
    b->gain = set->metric == METRIC_COSINE || spread == 0 ? 1 : (float)sqrt((double)n / spread);
    for (size_t j = 0; j < dimension; j++)
        b->mean[j] *= b->gain;
    free(sum);
}

static enum codec_kind codec_of(const struct dataset *set, const char *name)
{
    for (int kind = 0; name && kind < CODEC_KIND_COUNT; kind++)
        if (strcmp(name, codec_name((enum codec_kind)kind)) == 0) return (enum codec_kind)kind;
    if (name) bench_fail("no codec is called \"%s\"", name);
    bool as_floats = set->metric == METRIC_MANHATTAN || set->dimension <= FLOAT_DIMENSIONS;
    return as_floats ? CODEC_FLOAT32 : CODEC_INT8;
}

struct building {
    struct bare_graph *b;
    const uint32_t *order;
    size_t end;
    _Atomic size_t next;
};

static void link_nodes(void *ctx)
{
    struct building *w = ctx;
    const struct dataset *set = w->b->set;
    for (;;) {
        size_t first = atomic_fetch_add(&w->next, NODES_AT_ONCE);
        if (first >= w->end) return;
        epoch_enter();
        for (size_t i = first; i < w->end && i < first + NODES_AT_ONCE; i++) {
            uint32_t node = w->order[i];
            const float *row = set->base + (size_t)node * set->dimension;
            if (graph_encode(w->b->g, node, row, 0) && !graph_link(w->b->g, node, 0, NULL))
                bench_fail("no memory to link a node");
        }
        epoch_leave();
    }
}

static uint32_t *order_of(size_t count, bool shuffled)
{
    uint32_t *order = malloc(count * sizeof *order);
    struct random r = random_stream(1, 1);
    if (!order) bench_fail("no memory for an order");
    for (size_t i = 0; i < count; i++) {
        size_t at = shuffled ? random_below(&r, i + 1) : i;
        order[i] = order[at];
        order[at] = (uint32_t)i;
    }
    return order;
}

static void build(struct bare_graph *b, const struct subject_options *o)
{
    const size_t count = b->set->base_count;
    uint32_t *order = order_of(count, o->shuffled);
    struct building w = {.b = b, .order = order};
    for (size_t round = FIRST_ROUND; w.end < count; round *= 2) {
        w.end = round < count ? round : count;
        parallel_run(o->threads, link_nodes, &w);
        w.next = w.end; /* threads overshoot */
        graph_choose_pivots(b->g, NULL, NULL, 0);
    }
    free(order);
}

/* ---- searching ---- */

struct near {
    double distance;
    uint32_t row;
};

static int by_distance(const void *a, const void *b)
{
    const struct near *x = a, *y = b;
    return x->distance != y->distance ? (x->distance > y->distance) - (x->distance < y->distance)
                                      : (x->row > y->row) - (x->row < y->row);
}

static inline void fetch(const float *row, size_t dimension)
{
    for (size_t i = 0; i < dimension; i += 16) {
        __builtin_prefetch(row + i);
        __asm__ volatile("" : : : "memory"); /* gcc 12 keeps only the first one otherwise */
    }
}

/* Compare the first `count` as rows; nearest first. */
static void rescore(const struct dataset *set, const float *query, const uint32_t *nodes,
                    uint32_t count, struct near *near)
{
    const float *rows[TRUTH_ROWS_MAX];
    double distances[TRUTH_ROWS_MAX];
    for (uint32_t first = 0; first < count; first += TRUTH_ROWS_MAX) {
        uint32_t n = count - first < TRUTH_ROWS_MAX ? count - first : TRUTH_ROWS_MAX;
        for (uint32_t i = 0; i < n; i++) {
            rows[i] = set->base + (size_t)nodes[first + i] * set->dimension;
            fetch(rows[i], set->dimension);
        }
        truth_distances(set->metric, query, rows, n, set->dimension, distances);
        for (uint32_t i = 0; i < n; i++)
            near[first + i] = (struct near){distances[i], nodes[first + i]};
    }
    qsort(near, count, sizeof *near, by_distance);
}

static size_t search(void *ctx, const float *query, uint32_t k, uint32_t ef, uint32_t *rows)
{
    const struct bare_graph *b = ctx;
    struct graph_query q = {.vector = query, .ef = ef, .hidden = UINT32_MAX};
    struct graph_found found;
    static _Thread_local struct near near[RESCORE_MAX];
    struct err err;
    epoch_enter();
    if (graph_search(b->g, &q, &found, &err)) bench_fail("%s", err.msg);
    uint32_t count = b->rescore ? b->rescore : 3 * k > RESCORE_MIN ? 3 * k : RESCORE_MIN;
    if (count > found.count) count = found.count;
    if (count > RESCORE_MAX) count = RESCORE_MAX;
    rescore(b->set, query, found.nodes, count, near);
    epoch_leave();
    for (uint32_t i = 0; i < k && i < count; i++)
        rows[i] = near[i].row;
    return k < count ? k : count;
}

void subject_graph_work(const struct subject *s, const struct dataset *set, uint32_t ef,
                        double *visited, double *distances)
{
    const struct bare_graph *b = s->ctx;
    *visited = *distances = 0;
    for (size_t i = 0; i < set->query_count; i++) {
        struct graph_query q = {
            .vector = set->query + i * set->dimension, .ef = ef, .hidden = UINT32_MAX};
        struct graph_found found;
        struct err err;
        epoch_enter();
        if (graph_search(b->g, &q, &found, &err)) bench_fail("%s", err.msg);
        epoch_leave();
        *visited += (double)found.visited / (double)set->query_count;
        *distances += (double)found.distances_computed / (double)set->query_count;
    }
}

void subject_graph(struct subject *s, const struct dataset *set, const struct subject_options *o,
                   struct build_cost *cost)
{
    struct bare_graph *b = calloc(1, sizeof *b);
    struct err err;
    if (!b) bench_fail("no memory");
    *b = (struct bare_graph){.set = set, .rescore = o->rescore};
    const double cpu = measure_cpu_s(), wall = bench_now();
    sample(b);
    struct graph_options options = {.codec = codec_of(set, o->codec),
                                    .m = o->m,
                                    .ef_construction = o->ef_construction,
                                    .gain = b->gain,
                                    .mean = b->mean};
    if (graph_new(set->metric, set->dimension, &options, &b->g, &err) ||
        graph_reserve(b->g, (uint32_t)set->base_count, &err))
        bench_fail("%s", err.msg);
    build(b, o);
    *cost = (struct build_cost){.cpu_s = measure_cpu_s() - cpu,
                                .wall_s = bench_now() - wall,
                                .row_bytes = b->g->codec.cell_bytes + b->g->link_bytes};
    snprintf(cost->codec, sizeof cost->codec, "%s", codec_name(options.codec));
    *s = (struct subject){.name = "graph", .ctx = b, .search = search};
}

void subject_graph_free(struct subject *s)
{
    struct bare_graph *b = s->ctx;
    graph_free(b->g);
    free(b->mean);
    free(b);
}

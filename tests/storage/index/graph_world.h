/* graph_world.h - a graph over rows that the test knows, and what an exact search finds. */
#ifndef TESTS_STORAGE_INDEX_GRAPH_WORLD_H
#define TESTS_STORAGE_INDEX_GRAPH_WORLD_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "storage/base/epoch.h"
#include "storage/index/graph.h"
#include "tests/storage/kernel/random.h"

/* Sanitizers make everything many times slower: fewer rows show the same. */
#if defined(__SANITIZE_THREAD__)
enum { ROWS_DIVISOR = 10 };
#elif defined(__SANITIZE_ADDRESS__)
enum { ROWS_DIVISOR = 5 };
#else
enum { ROWS_DIVISOR = 1 };
#endif

enum { QUERIES = 100, K = 10 };

struct world {
    struct graph *g;
    enum metric metric;
    uint32_t n, rows, room; /* rows so far, and at most */
    float *row;             /* room * n   */
    uint64_t *dead;         /* a bit each */
};

static inline float *world_row(const struct world *w, uint32_t i)
{
    return w->row + (size_t)i * w->n;
}

static inline bool world_is_dead(const struct world *w, uint32_t i)
{
    return w->dead[i / 64] >> i % 64 & 1;
}

static inline void world_kill(struct world *w, uint32_t i)
{
    w->dead[i / 64] |= (uint64_t)1 << i % 64;
}

static inline bool world_is_alive(void *ctx, uint32_t i)
{
    return !world_is_dead(ctx, i);
}

static inline double world_distance(const struct world *w, const float *q, const float *x)
{
    const struct kernel_set *k = kernel_best();
    double norm2, dot;
    switch (w->metric) {
    case METRIC_COSINE:
        dot = k->dot_norm(q, x, w->n, &norm2);
        return norm2 > 0 ? -dot / sqrt(norm2) : 0;
    case METRIC_DOT_PRODUCT:
        return -k->dot(q, x, w->n);
    case METRIC_MANHATTAN:
        return k->l1(q, x, w->n);
    default:
        return k->l2sq(q, x, w->n);
    }
}

/* Room for rows, which the test fills in, and bits. */
static inline void world_init(struct world *w, enum metric metric, uint32_t n, uint32_t room)
{
    *w = (struct world){.metric = metric, .n = n, .room = room};
    w->row = calloc((size_t)room * n, sizeof *w->row);
    w->dead = calloc(room / 64 + 1, sizeof *w->dead);
    assert_true(w->row && w->dead);
}

static inline void fill_uniform(struct world *w, uint32_t first, uint32_t end)
{
    for (size_t i = (size_t)first * w->n; i < (size_t)end * w->n; i++)
        w->row[i] = random_unit();
}

/* About what embeddings are like: a few directions matter, and rows have neighbours. */
static inline void fill_like_embeddings(struct world *w, uint32_t first, uint32_t end)
{
    enum { HIDDEN_MAX = 16 };
    static float matrix[HIDDEN_MAX][4096];
    static bool have_matrix;
    for (size_t i = 0; i < HIDDEN_MAX * 4096 && !have_matrix; i++)
        matrix[i / 4096][i % 4096] = random_unit();
    have_matrix = true;
    for (uint32_t i = first; i < end; i++) {
        float hidden[HIDDEN_MAX], length = 1 + 0.3f * random_unit();
        for (int h = 0; h < HIDDEN_MAX; h++)
            hidden[h] = random_unit();
        for (uint32_t k = 0; k < w->n; k++) {
            float sum = 0.05f * random_unit() + 0.2f;
            for (int h = 0; h < HIDDEN_MAX; h++)
                sum += hidden[h] * matrix[h][k];
            world_row(w, i)[k] = length * sum;
        }
    }
}

/* As the indexer would choose them. */
static inline float mean_and_gain(const struct world *w, uint32_t rows, float *mean)
{
    double *sum = calloc(w->n, sizeof *sum), spread = 0;
    assert_non_null(sum);
    for (uint32_t i = 0; i < rows; i++) {
        const float *x = world_row(w, i);
        double factor = 1;
        if (w->metric == METRIC_COSINE)
            factor = 1 / sqrt(fmax(kernel_best()->dot(x, x, w->n), 1e-30));
        for (uint32_t k = 0; k < w->n; k++)
            sum[k] += x[k] * factor / rows;
    }
    for (uint32_t k = 0; k < w->n; k++)
        mean[k] = (float)sum[k];
    for (uint32_t i = 0; i < rows && w->metric != METRIC_COSINE; i++)
        spread += kernel_best()->l2sq(world_row(w, i), mean, w->n) / rows;
    float gain = spread > 0 ? (float)(1 / sqrt(spread)) : 1;
    for (uint32_t k = 0; k < w->n; k++)
        mean[k] *= gain;
    free(sum);
    return gain;
}

/* An empty graph for the rows that are filled in. */
static inline void world_graph(struct world *w, enum codec_kind kind, uint32_t m, uint32_t ef,
                               uint32_t sample)
{
    struct err err;
    float *mean = calloc(w->n, sizeof *mean);
    assert_non_null(mean);
    struct graph_options options = {.codec = kind, .m = m, .ef_construction = ef, .mean = mean};
    options.gain = mean_and_gain(w, sample, mean);
    assert_int_equal(graph_new(w->metric, w->n, &options, &w->g, &err), ERR_OK);
    free(mean);
}

static inline void world_link(struct world *w, uint32_t i)
{
    struct graph_liveness alive = {world_is_alive, w};
    assert_true(graph_encode(w->g, i, world_row(w, i), i + 1));
    assert_true(graph_link(w->g, i, 0, &alive));
}

static inline uint64_t *live_bits(const struct world *w)
{
    uint64_t *bits = calloc(w->room / 64 + 1, sizeof *bits);
    assert_non_null(bits);
    for (uint32_t i = 0; i < w->rows; i++)
        if (!world_is_dead(w, i)) bits[i / 64] |= (uint64_t)1 << i % 64;
    return bits;
}

static inline uint32_t count_unreachable(const struct world *w)
{
    struct err err;
    uint64_t *live = live_bits(w);
    uint32_t *nodes = calloc(w->rows, sizeof *nodes), count;
    assert_non_null(nodes);
    assert_int_equal(graph_unreachable(w->g, live, nodes, w->rows, &count, &err), ERR_OK);
    free(nodes);
    free(live);
    return count;
}

static inline void choose_pivots(struct world *w, const uint32_t *extra, uint32_t extra_count)
{
    uint64_t *live = live_bits(w);
    graph_choose_pivots(w->g, live, extra, extra_count);
    free(live);
}

/* Encodes and links rows first .. end - 1, with new pivots when they are wanted. */
static inline void world_grow(struct world *w, uint32_t end)
{
    struct err err;
    assert_int_equal(graph_reserve(w->g, end, &err), ERR_OK);
    for (uint32_t i = w->rows; i < end; i++) {
        world_link(w, i);
        w->rows = i + 1;
        if (graph_wants_pivots(w->g)) choose_pivots(w, NULL, 0);
    }
}

static inline void world_free(struct world *w)
{
    graph_free(w->g);
    epoch_synchronize();
    free(w->row);
    free(w->dead);
}

/* ---- searches ---- */

/* What a search finds, the dead left out, its order by the metric: at most k. */
struct hits {
    uint32_t count;
    uint32_t node[K];
    double distance[K];
    struct graph_found found; /* its arrays are the thread's */
};

static inline void hits_offer(struct hits *h, uint32_t node, double distance)
{
    uint32_t at = h->count < K ? h->count++ : K;
    if (at == K && !(distance < h->distance[K - 1])) return;
    if (at == K) at = K - 1;
    for (; at > 0 && h->distance[at - 1] > distance; at--) {
        h->node[at] = h->node[at - 1];
        h->distance[at] = h->distance[at - 1];
    }
    h->node[at] = node;
    h->distance[at] = distance;
}

static inline bool allows(const uint64_t *allowed, uint32_t i)
{
    return !allowed || (allowed[i / 64] >> i % 64 & 1);
}

static inline struct hits exact(const struct world *w, const float *q, const uint64_t *allowed)
{
    struct hits h = {0};
    for (uint32_t i = 0; i < w->rows; i++)
        if (!world_is_dead(w, i) && allows(allowed, i))
            hits_offer(&h, i, world_distance(w, q, world_row(w, i)));
    return h;
}

static inline struct hits search_with(const struct world *w, const struct graph_query *q)
{
    struct hits h = {0};
    struct err err;
    epoch_enter();
    assert_int_equal(graph_search(w->g, q, &h.found, &err), ERR_OK);
    for (uint32_t i = 0; i < h.found.count; i++) {
        uint32_t node = h.found.nodes[i];
        assert_true(i == 0 || h.found.distances[i] >= h.found.distances[i - 1]);
        if (node < w->rows && !world_is_dead(w, node))
            hits_offer(&h, node, world_distance(w, q->vector, world_row(w, node)));
    }
    epoch_leave();
    return h;
}

static inline struct hits search(const struct world *w, const float *vector, uint32_t ef)
{
    return search_with(w, &(struct graph_query){.vector = vector, .ef = ef, .hidden = UINT32_MAX});
}

static inline bool has_hit(const struct hits *h, uint32_t node)
{
    for (uint32_t i = 0; i < h->count; i++)
        if (h->node[i] == node) return true;
    return false;
}

/* How many of the nearest were found; a tie is as good. */
static inline double recall_of(const struct hits *want, const struct hits *got)
{
    uint32_t good = 0;
    for (uint32_t i = 0; i < got->count; i++)
        good += got->distance[i] <= want->distance[want->count - 1];
    return want->count ? (double)(good < want->count ? good : want->count) / want->count : 1;
}

/* Queries like the rows. */
static inline double recall_with(const struct world *w, uint32_t ef, const uint64_t *allowed,
                                 void (*fill)(struct world *w, uint32_t first, uint32_t end))
{
    struct world queries;
    double sum = 0;
    world_init(&queries, w->metric, w->n, QUERIES);
    fill(&queries, 0, QUERIES);
    for (uint32_t i = 0; i < QUERIES; i++) {
        struct graph_query q = {.vector = world_row(&queries, i),
                                .ef = ef,
                                .allowed = allowed,
                                .allowed_nodes = allowed ? w->rows : 0,
                                .hidden = UINT32_MAX};
        struct hits want = exact(w, q.vector, allowed), got = search_with(w, &q);
        sum += recall_of(&want, &got) / QUERIES;
    }
    free(queries.row);
    free(queries.dead);
    return sum;
}

#endif

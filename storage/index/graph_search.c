/* graph_search.c - walk a graph from its pivots to the nodes nearest to a query; scan codes. */
#include <string.h>

#include "storage/base/mem.h"
#include "storage/index/graph_private.h"

enum {
    ENTRIES = 4, /* pivots that a walk begins at                               */
    LINES_IN_FLIGHT =
        56, /* cache lines to be fetched at a time: the buffers for more are not there */
    SCAN_CHUNK = 64,
    FRONTIER_MIN = 256,
    FRONTIER_MAX = 8192,
};

static void fetch_cells(const struct graph *g, const struct graph_arena *a, const uint32_t *nodes,
                        uint32_t count)
{
    uint32_t used = g->codec.code_bytes + (a->factors ? 0 : (uint32_t)sizeof(struct code_tail));
    if (used > LINES_IN_FLIGHT * 64) used = LINES_IN_FLIGHT * 64; /* the rest comes by itself */
    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *cell = graph_cell(g, a, nodes[i]);
        for (uint32_t at = 0; at < used; at += 64)
            graph_prefetch(cell + at);
        if (a->factors) graph_prefetch(&a->factors[nodes[i]]);
    }
}

/* Cells to fetch ahead, a multiple of 4. */
static uint32_t window_of(const struct graph *g)
{
    uint32_t lines = (g->codec.code_bytes + 63) / 64, window = LINES_IN_FLIGHT / lines / 4 * 4;
    return window < 4 ? 4 : window;
}

void graph_score(const struct graph *g, const struct graph_arena *a, const struct codec_query *q,
                 const uint32_t *nodes, uint32_t count, float *out)
{
    uint32_t window = window_of(g);
    fetch_cells(g, a, nodes, count < window ? count : window);
    for (uint32_t at = 0; at < count; at += window) {
        uint32_t n = count - at < window ? count - at : window;
        uint32_t left = count - at - n;
        fetch_cells(g, a, nodes + at + n, left < window ? left : window);
        codec_distances(&g->codec, q, a->cells, a->factors, nodes + at, n, out + at);
    }
}

/* The links of a node that were not met before.  One of equal nodes is enough for a linker. */
static uint32_t fresh_links(const struct graph *g, const struct graph_arena *a,
                            struct graph_scratch *s, uint32_t number, bool linking, uint32_t *fresh)
{
    struct graph_node *node = graph_node(g, a, number);
    uint32_t head = atomic_load_explicit(&node->head, memory_order_acquire);
    uint32_t degree = head & NODE_DEGREE, first = linking && head & NODE_TWIN ? 1 : 0;
    if (degree > g->degree) degree = g->degree;
    uint16_t *visited = s->visited;
    const uint16_t visit = s->visit;
    uint32_t count = 0;
    for (uint32_t i = first; i < degree; i++) {
        uint32_t link = atomic_load_explicit(&node->links[i], memory_order_acquire);
        if (link >= a->capacity) continue;
        fresh[count] = link;
        count += visited[link] != visit;
        visited[link] = visit;
    }
    return count;
}

static void fetch_links(const struct graph *g, const struct graph_arena *a, uint32_t number)
{
    const uint8_t *node = (const uint8_t *)graph_node(g, a, number);
    for (uint32_t at = 0; at < g->link_bytes; at += 64)
        graph_prefetch(node + at);
}

/* The pivots nearest to a query, nearest first. */
struct entries {
    uint32_t count;
    uint32_t numbers[ENTRIES]; /* among the pivots */
    float distances[ENTRIES];
};

static void nearest_pivots(const struct graph *g, const struct graph_arena *a,
                           const struct graph_pivots *pivots, const struct codec_query *q,
                           uint32_t hidden, struct entries *e)
{
    float distances[SCAN_CHUNK] UNINITIALIZED;
    uint32_t numbers[SCAN_CHUNK] UNINITIALIZED;
    e->count = 0;
    for (uint32_t at = 0; at < pivots->count; at += SCAN_CHUNK) {
        uint32_t n = pivots->count - at < SCAN_CHUNK ? pivots->count - at : SCAN_CHUNK;
        for (uint32_t i = 0; i < n; i++)
            numbers[i] = at + i;
        codec_distances(&g->codec, q, pivots->cells, NULL, numbers, n, distances);
        for (uint32_t i = 0; i < n; i++) {
            if (e->count == ENTRIES && !(distances[i] < e->distances[ENTRIES - 1])) continue;
            uint32_t node = pivots->nodes[at + i];
            if (node == hidden || node >= a->capacity) continue;
            uint32_t place = e->count < ENTRIES ? e->count++ : ENTRIES - 1;
            for (; place > 0 && e->distances[place - 1] > distances[i]; place--) {
                e->numbers[place] = e->numbers[place - 1];
                e->distances[place] = e->distances[place - 1];
            }
            e->numbers[place] = at + i;
            e->distances[place] = distances[i];
        }
    }
}

/* The nearest pivots into the pool; nobody was visited before. */
static void enter(struct graph *g, const struct graph_arena *a, struct graph_scratch *s,
                  const struct codec_query *q, uint32_t hidden, struct pool *results,
                  const uint64_t *allowed, uint32_t allowed_nodes)
{
    const struct graph_pivots *pivots = graph_pivots(g);
    if (!pivots) return;
    struct entries e UNINITIALIZED;
    nearest_pivots(g, a, pivots, q, hidden, &e);
    s->distances_computed += pivots->count;
    for (uint32_t i = 0; i < e.count; i++) {
        uint32_t node = pivots->nodes[e.numbers[i]];
        if (s->visited[node] == s->visit) continue;
        s->visited[node] = s->visit;
        g->codec.kernels->pool_offer(&s->pool, &node, &e.distances[i], 1);
        if (results && node < allowed_nodes && bits_has(allowed, node))
            g->codec.kernels->pool_offer(results, &node, &e.distances[i], 1);
    }
}

uint32_t graph_place(struct graph *g, uint32_t node)
{
    struct graph_arena *a = graph_arena(g);
    const struct graph_pivots *pivots = graph_pivots(g);
    struct graph_scratch *s = pivots && a && node < a->capacity ? graph_scratch(g, a, 1) : NULL;
    if (!s) return 0;
    struct codec_query q = {.code = s->code};
    struct entries e UNINITIALIZED;
    codec_query_from_cell(&g->codec, &q, graph_cell(g, a, node));
    nearest_pivots(g, a, pivots, &q, NO_NODE, &e);
    uint32_t place = 0;
    for (uint32_t i = 0; i < 2 && i < e.count; i++)
        place |= e.numbers[i] << (16 - 16 * i);
    return place;
}

static void hide(struct graph_scratch *s, const struct graph_arena *a, uint32_t hidden)
{
    if (hidden < a->capacity) s->visited[hidden] = s->visit;
}

/* Nodes whose cells are on their way. */
struct flight {
    uint32_t nodes[BATCH_MAX];
    uint32_t count;
};

/* Score what has arrived; the lowest place of the pool that changed. */
static uint32_t land(struct graph *g, const struct graph_arena *a, struct graph_scratch *s,
                     const struct codec_query *q, struct flight *f, uint32_t window)
{
    uint32_t lowest = UINT32_MAX;
    for (uint32_t at = 0; at < f->count; at += window) {
        uint32_t n = f->count - at < window ? f->count - at : window;
        uint32_t left = f->count - at - n;
        fetch_cells(g, a, f->nodes + at + n, left < window ? left : window);
        codec_distances(&g->codec, q, a->cells, a->factors, f->nodes + at, n, s->distances);
        uint32_t changed = g->codec.kernels->pool_offer(&s->pool, f->nodes + at, s->distances, n);
        if (changed < lowest) {
            lowest = changed;
            fetch_links(g, a, s->pool.id[changed] & ~POOL_EXPANDED);
        }
    }
    f->count = 0;
    return lowest;
}

void graph_walk(struct graph *g, const struct graph_arena *a, struct graph_scratch *s,
                const struct codec_query *q, uint32_t hidden, uint32_t follow)
{
    struct pool *pool = &s->pool;
    struct flight flights[2] UNINITIALIZED;
    int now = 0;
    flights[0].count = flights[1].count = 0;
    /* A linker hides a node that is not there yet. */
    const bool is_hiding = !q->from_cell && hidden < a->capacity;
    hide(s, a, hidden);
    enter(g, a, s, q, hidden, NULL, NULL, 0);
    uint32_t window = window_of(g);
    for (uint32_t next = 0;;) {
        while (next < pool->count && pool->id[next] & POOL_EXPANDED)
            next++;
        struct flight *out = &flights[now], *back = &flights[!now];
        if (next < pool->count && next < follow) {
            uint32_t id = pool->id[next];
            pool->id[next] = id | POOL_EXPANDED;
            s->visited_count++;
            out->count = fresh_links(g, a, s, id, q->from_cell, out->nodes);
            if (is_hiding) {
                uint32_t detour = graph_detour(g, a, s, id, hidden);
                if (detour != NO_NODE && graph_visit(s, detour)) out->nodes[out->count++] = detour;
            }
            s->distances_computed += out->count;
            fetch_cells(g, a, out->nodes, out->count < window ? out->count : window);
            for (uint32_t z = next + 1; z < pool->count && z < next + 3; z++)
                fetch_links(g, a, pool->id[z] & ~POOL_EXPANDED);
        } else if (back->count == 0) {
            break;
        }
        uint32_t lowest = land(g, a, s, q, back, window);
        if (lowest < next) next = lowest;
        now = !now;
    }
    for (uint32_t i = 0; i < pool->count; i++)
        pool->id[i] &= ~POOL_EXPANDED;
}

/* Nodes that are farther away are not followed. */
static float horizon(const struct graph_scratch *s, uint32_t explore)
{
    if (s->pool.count < explore) return INFINITY;
    float nearest = explore ? s->pool.distance[explore - 1] : -INFINITY;
    return nearest > s->results.worst ? nearest : s->results.worst;
}

/* Nodes of `ids` that may be candidates go to the results, all that are not beyond the horizon to
 * the frontier.  Returns the lowest place of the frontier that changed. */
static uint32_t offer_filtered(struct graph *g, struct graph_scratch *s,
                               const struct graph_query *gq, uint32_t *ids, float *distances,
                               uint32_t count)
{
    uint32_t allowed[BATCH_MAX] UNINITIALIZED, n = 0;
    float allowed_distances[BATCH_MAX] UNINITIALIZED;
    for (uint32_t i = 0; i < count; i++) {
        allowed[n] = ids[i];
        allowed_distances[n] = distances[i];
        n += ids[i] < gq->allowed_nodes && bits_has(gq->allowed, ids[i]);
    }
    if (n) g->codec.kernels->pool_offer(&s->results, allowed, allowed_distances, n);
    const float far = horizon(s, gq->explore);
    uint32_t near = 0;
    for (uint32_t i = 0; i < count; i++) {
        ids[near] = ids[i];
        distances[near] = distances[i];
        near += distances[i] < far;
    }
    return g->codec.kernels->pool_offer(&s->pool, ids, distances, near);
}

/* The same walk with two pools: it goes on through nodes that may not be candidates, until the
 * frontier is farther away than every candidate wanted. */
static bool walk_filtered(struct graph *g, const struct graph_arena *a, struct graph_scratch *s,
                          const struct codec_query *q, const struct graph_query *gq)
{
    struct pool *pool = &s->pool;
    hide(s, a, gq->hidden);
    enter(g, a, s, q, gq->hidden, &s->results, gq->allowed, gq->allowed_nodes);
    for (uint32_t i = 0; i < gq->seed_count; i++) {
        uint32_t seed = gq->seeds[i];
        if (seed >= a->capacity || s->visited[seed] == s->visit) continue;
        s->visited[seed] = s->visit;
        s->fresh[0] = seed;
        graph_score(g, a, q, s->fresh, 1, s->distances);
        offer_filtered(g, s, gq, s->fresh, s->distances, 1);
    }
    for (uint32_t next = 0; next < pool->count;) {
        uint32_t id = pool->id[next];
        if (id & POOL_EXPANDED) {
            next++;
            continue;
        }
        if (pool->distance[next] > horizon(s, gq->explore)) break;
        if (gq->distances_max && s->distances_computed > gq->distances_max) return false;
        pool->id[next] = id | POOL_EXPANDED;
        s->visited_count++;
        uint32_t fresh = fresh_links(g, a, s, id, false, s->fresh);
        s->distances_computed += fresh;
        if (next + 1 < pool->count) fetch_links(g, a, pool->id[next + 1] & ~POOL_EXPANDED);
        graph_score(g, a, q, s->fresh, fresh, s->distances);
        uint32_t changed = offer_filtered(g, s, gq, s->fresh, s->distances, fresh);
        next = changed < next + 1 ? changed : next + 1;
    }
    return true;
}

/* The whole frontier is nearer than the worst candidate, and there was no room for more of it. */
static bool has_lost_sight(const struct graph_scratch *s)
{
    return s->pool.count == s->pool.limit && s->pool.worst < s->results.worst;
}

static void scan_list(struct graph *g, const struct graph_arena *a, struct graph_scratch *s,
                      const struct codec_query *q, const uint32_t *nodes, uint32_t count,
                      struct pool *results);

/* Nodes that a walk would not have come to.  If it has come to some, they are not compared again.
 */
static void scan_loose(struct graph *g, const struct graph_arena *a, struct graph_scratch *s,
                       const struct codec_query *q, const struct graph_query *gq)
{
    uint32_t nodes[SCAN_CHUNK] UNINITIALIZED;
    for (uint32_t at = 0; at < gq->loose_count;) {
        uint32_t n = 0;
        for (; at < gq->loose_count && n < SCAN_CHUNK; at++) {
            nodes[n] = gq->loose[at];
            n += nodes[n] < a->capacity && s->visited[nodes[n]] != s->visit;
        }
        scan_list(g, a, s, q, nodes, n, &s->pool);
    }
}

static struct codec_query make_query(const struct graph *g, struct graph_scratch *s,
                                     const float *vector)
{
    struct codec_query q = {.code = s->code};
    codec_query_from_vector(&g->codec, &q, vector, s->numbers);
    return q;
}

static void report(const struct graph_scratch *s, const struct pool *pool,
                   struct graph_found *found)
{
    *found = (struct graph_found){.nodes = pool->id,
                                  .distances = pool->distance,
                                  .count = pool->count,
                                  .visited = s->visited_count,
                                  .distances_computed = s->distances_computed};
}

static uint32_t frontier_of(const struct graph_query *gq)
{
    uint32_t frontier = gq->frontier;
    if (frontier == 0) frontier = gq->ef < FRONTIER_MAX / 4 ? 4 * gq->ef : FRONTIER_MAX;
    if (frontier > FRONTIER_MAX) frontier = FRONTIER_MAX;
    if (frontier < FRONTIER_MIN) frontier = FRONTIER_MIN;
    uint32_t least = gq->ef > gq->explore ? gq->ef : gq->explore;
    return frontier < least ? least : frontier;
}

enum err_code graph_search(struct graph *g, const struct graph_query *gq, struct graph_found *found,
                           struct err *err)
{
    *found = (struct graph_found){0};
    struct graph_arena *a = graph_arena(g);
    if (!a) return ERR_OK;
    struct graph_scratch *s = graph_scratch(g, a, gq->allowed ? frontier_of(gq) : gq->ef);
    if (!s) return err_set(err, ERR_NOMEM, "out of memory for a search");
    struct codec_query q = make_query(g, s, gq->vector);
    bool complete = true, lost_sight = false;
    if (gq->allowed) {
        s->results.limit = gq->ef;
        complete = walk_filtered(g, a, s, &q, gq);
        lost_sight = complete && has_lost_sight(s);
        if (complete) scan_list(g, a, s, &q, gq->loose, gq->loose_count, &s->results);
        report(s, &s->results, found);
    } else {
        graph_walk(g, a, s, &q, gq->hidden, UINT32_MAX);
        scan_loose(g, a, s, &q, gq);
        report(s, &s->pool, found);
    }
    found->gave_up = !complete;
    found->lost_sight = lost_sight;
    return ERR_OK;
}

/* ---- scans ---- */

static void scan_chunk(struct graph *g, const struct graph_arena *a, struct graph_scratch *s,
                       const struct codec_query *q, const uint32_t *nodes, uint32_t count)
{
    float distances[SCAN_CHUNK] UNINITIALIZED;
    codec_distances(&g->codec, q, a->cells, a->factors, nodes, count, distances);
    s->distances_computed += count;
    g->codec.kernels->pool_offer(&s->pool, nodes, distances, count);
}

static void scan_bits(struct graph *g, const struct graph_arena *a, struct graph_scratch *s,
                      const struct codec_query *q, const uint64_t *bits, uint32_t nodes)
{
    uint32_t chunks[2][SCAN_CHUNK] UNINITIALIZED, counts[2] = {0, 0}, now = 0;
    if (nodes > a->capacity) nodes = a->capacity; /* so word * 64 stays in range */
    for (uint32_t word = 0; word * 64 < nodes; word++) {
        uint64_t left = bits[word];
        if (nodes - word * 64 < 64) left &= ((uint64_t)1 << (nodes - word * 64)) - 1;
        for (; left; left &= left - 1) {
            uint32_t node = word * 64 + (uint32_t)__builtin_ctzll(left);
            fetch_cells(g, a, &node, 1);
            chunks[now][counts[now]++] = node;
            if (counts[now] < SCAN_CHUNK / 4) continue;
            /* The chunk before this one has arrived by now. */
            now = !now;
            scan_chunk(g, a, s, q, chunks[now], counts[now]);
            counts[now] = 0;
        }
    }
    scan_chunk(g, a, s, q, chunks[!now], counts[!now]);
    scan_chunk(g, a, s, q, chunks[now], counts[now]);
}

static void scan_list(struct graph *g, const struct graph_arena *a, struct graph_scratch *s,
                      const struct codec_query *q, const uint32_t *nodes, uint32_t count,
                      struct pool *results)
{
    uint32_t chunk[SCAN_CHUNK] UNINITIALIZED;
    float distances[SCAN_CHUNK] UNINITIALIZED;
    for (uint32_t at = 0; at < count;) {
        uint32_t n = 0;
        for (; at < count && n < SCAN_CHUNK; at++) {
            chunk[n] = nodes[at];
            n += nodes[at] < a->capacity;
        }
        graph_score(g, a, q, chunk, n, distances);
        s->distances_computed += n;
        g->codec.kernels->pool_offer(results, chunk, distances, n);
    }
}

enum err_code graph_scan(struct graph *g, const struct graph_query *gq, const uint32_t *nodes,
                         uint32_t count, struct graph_found *found, struct err *err)
{
    *found = (struct graph_found){0};
    struct graph_arena *a = graph_arena(g);
    if (!a) return ERR_OK;
    struct graph_scratch *s = graph_scratch(g, a, gq->ef);
    if (!s) return err_set(err, ERR_NOMEM, "out of memory for a search");
    struct codec_query q = make_query(g, s, gq->vector);
    if (nodes)
        scan_list(g, a, s, &q, nodes, count, &s->pool);
    else
        scan_bits(g, a, s, &q, gq->allowed, gq->allowed_nodes);
    scan_list(g, a, s, &q, gq->loose, gq->loose_count, &s->pool);
    report(s, &s->pool, found);
    return ERR_OK;
}

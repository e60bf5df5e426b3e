/* graph_link.c - make a node part of the graph: find its neighbours, choose links, link back. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "storage/base/mem.h"
#include "storage/index/graph_private.h"

/* A candidate is in the way of a farther one if it is nearer to that one than the node is; in the
 * second pass only if it is clearly nearer. */
static const float SECOND_PASS = 1.2f;

/* ---- candidates ---- */

struct candidate_arrays {
    struct candidates c;
    uint32_t nodes[CANDIDATES_MAX];
    float distances[CANDIDATES_MAX], nearest[CANDIDATES_MAX];
    uint8_t state[CANDIDATES_MAX];
};

static pthread_key_t candidates_key;
static pthread_once_t candidates_once = PTHREAD_ONCE_INIT;
static _Thread_local struct candidate_arrays *own;

static void make_key(void)
{
    (void)pthread_key_create(&candidates_key, mem_free);
}

struct candidates *graph_candidates(void)
{
    if (!own) {
        pthread_once(&candidates_once, make_key);
        own = mem_try(sizeof *own);
        if (!own) return NULL;
        pthread_setspecific(candidates_key, own);
    }
    own->c = (struct candidates){.nodes = own->nodes,
                                 .distances = own->distances,
                                 .nearest = own->nearest,
                                 .state = own->state};
    return &own->c;
}

/* Mostly few, and nearly in order. */
void graph_sort_candidates(struct candidates *c)
{
    for (uint32_t i = 1; i < c->count; i++) {
        uint32_t node = c->nodes[i], at = i;
        float distance = c->distances[i];
        for (; at > 0 && c->distances[at - 1] > distance; at--) {
            c->nodes[at] = c->nodes[at - 1];
            c->distances[at] = c->distances[at - 1];
        }
        c->nodes[at] = node;
        c->distances[at] = distance;
    }
}

/* ---- choosing ---- */

struct choice {
    struct graph *g;
    const struct graph_arena *a;
    struct graph_scratch *s;
    struct candidates *c;
    const struct graph_liveness *alive;
    uint32_t *links;
    uint32_t count;
};

/* `which` is a link now: all others may be nearer to it than to what was chosen before. */
static void note_chosen(struct choice *ch, uint32_t which)
{
    struct candidates *c = ch->c;
    struct codec_query q = {.code = ch->s->other_code};
    codec_query_from_cell(&ch->g->codec, &q, graph_cell(ch->g, ch->a, c->nodes[which]));
    for (uint32_t at = 0; at < c->count; at += BATCH_MAX) {
        float distances[BATCH_MAX] UNINITIALIZED;
        uint32_t n = c->count - at < BATCH_MAX ? c->count - at : BATCH_MAX;
        codec_distances(&ch->g->codec, &q, ch->a->cells, ch->a->factors, c->nodes + at, n,
                        distances);
        float *nearest = c->nearest + at;
        for (uint32_t i = 0; i < n; i++)
            nearest[i] = distances[i] < nearest[i] ? distances[i] : nearest[i];
    }
}

static void choose(struct choice *ch, uint32_t which)
{
    struct candidates *c = ch->c;
    if (ch->alive && !ch->alive->is_alive(ch->alive->ctx, c->nodes[which])) {
        c->state[which] = REFUSED;
        return;
    }
    c->state[which] = CHOSEN;
    ch->links[ch->count++] = c->nodes[which];
    note_chosen(ch, which);
}

static void choose_spread(struct choice *ch, uint32_t limit, float slack)
{
    struct candidates *c = ch->c;
    for (uint32_t i = 0; i < c->count && ch->count < limit; i++) {
        /* Not "<": of equal rows one is enough. */
        if (c->state[i] || slack * c->nearest[i] <= c->distances[i]) continue;
        choose(ch, i);
    }
}

uint32_t graph_choose_links(struct graph *g, const struct graph_arena *a, struct graph_scratch *s,
                            struct candidates *c, uint32_t limit,
                            const struct graph_liveness *alive, uint32_t *links)
{
    struct choice ch = {.g = g, .a = a, .s = s, .c = c, .alive = alive, .links = links};
    for (uint32_t i = 0; i < c->count; i++)
        c->nearest[i] = INFINITY;
    for (uint32_t i = 0; i < c->count; i++) {
        if (c->state[i] != CHOSEN) continue;
        links[ch.count++] = c->nodes[i];
        note_chosen(&ch, i);
    }
    choose_spread(&ch, limit, 1);
    choose_spread(&ch, limit, SECOND_PASS);
    for (uint32_t i = 0; i < c->count && ch.count < DEGREE_MIN_FILL && ch.count < limit; i++)
        if (!c->state[i]) choose(&ch, i);
    return ch.count;
}

/* ---- linking ---- */

static bool has_link(const uint32_t *links, uint32_t count, uint32_t node)
{
    for (uint32_t i = 0; i < count; i++)
        if (links[i] == node) return true;
    return false;
}

/* Let `from` lead to `to`, perhaps in the place of another link. */
static void link_back(struct graph *g, struct graph_arena *a, struct graph_scratch *s,
                      struct candidates *c, uint32_t from, uint32_t to)
{
    struct graph_node *node = graph_node(g, a, from);
    uint32_t links[BATCH_MAX] UNINITIALIZED;
    graph_lock_node(node);
    uint32_t flags = atomic_load_explicit(&node->head, memory_order_relaxed) & NODE_LINKED;
    uint32_t count = graph_links(g, node, a->capacity, links);
    if (has_link(links, count, to)) {
        graph_unlock_node(node);
        return;
    }
    if (count < g->degree) {
        links[count] = to;
        graph_store_links(a, node, from, links, count + 1, flags);
        return;
    }
    links[count++] = to;
    struct codec_query q = {.code = s->other_code};
    codec_query_from_cell(&g->codec, &q, graph_cell(g, a, from));
    graph_score(g, a, &q, links, count, s->distances);
    c->count = count;
    memcpy(c->nodes, links, count * sizeof *links);
    memcpy(c->distances, s->distances, count * sizeof *c->distances);
    memset(c->state, 0, count);
    graph_sort_candidates(c);
    count = graph_choose_links(g, a, s, c, g->degree, NULL, links);
    graph_store_links(a, node, from, links, count, flags);
}

/* The first node of all. */
static bool is_first(struct graph *g, struct graph_arena *a, uint32_t node)
{
    static pthread_mutex_t mu = PTHREAD_MUTEX_INITIALIZER;
    if (graph_pivots(g) && graph_pivots(g)->count) return false;
    pthread_mutex_lock(&mu);
    bool first = !graph_pivots(g) || graph_pivots(g)->count == 0;
    if (first) {
        graph_store_links(a, graph_node(g, a, node), node, NULL, 0, NODE_LINKED);
        graph_mark_dirty(a->dirty_cells, node);
        atomic_fetch_add_explicit(&g->linked_count, 1, memory_order_relaxed);
        graph_set_pivots(g, &node, 1);
    }
    pthread_mutex_unlock(&mu);
    return first;
}

bool graph_link(struct graph *g, uint32_t node, uint32_t ef, const struct graph_liveness *alive)
{
    struct graph_arena *a = graph_arena(g);
    if (ef == 0) ef = g->ef_construction;
    struct graph_scratch *s = graph_scratch(g, a, ef);
    struct candidates *c = graph_candidates();
    if (!s || !c) return false;
    if (is_first(g, a, node)) return true;

    struct codec_query q = {.code = s->code};
    codec_query_from_cell(&g->codec, &q, graph_cell(g, a, node));
    graph_walk(g, a, s, &q, node);
    c->count = s->pool.count < CANDIDATES_MAX ? s->pool.count : CANDIDATES_MAX;
    memcpy(c->nodes, s->pool.id, c->count * sizeof *c->nodes);
    memcpy(c->distances, s->pool.distance, c->count * sizeof *c->distances);
    memset(c->state, 0, c->count);

    uint32_t links[BATCH_MAX] UNINITIALIZED;
    uint32_t count = graph_choose_links(g, a, s, c, g->degree / 2 + 1, alive, links);
    struct graph_node *n = graph_node(g, a, node);
    graph_lock_node(n);
    bool was_linked = atomic_load_explicit(&n->head, memory_order_relaxed) & NODE_LINKED;
    graph_store_links(a, n, node, links, count, NODE_LINKED);
    /* Again: whoever wrote the group out since it was encoded has left out what was not linked. */
    graph_mark_dirty(a->dirty_cells, node);
    if (!was_linked) atomic_fetch_add_explicit(&g->linked_count, 1, memory_order_relaxed);
    for (uint32_t i = 0; i < count; i++)
        link_back(g, a, s, c, links[i], node);
    return true;
}

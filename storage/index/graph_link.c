/* graph_link.c - make a node part of the graph: find its neighbours, choose links, link back. */
#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "storage/base/mem.h"
#include "storage/index/graph_private.h"

/* A candidate is in the way of a farther one if it is nearer to that one than the node is; in the
 * second pass only if it is clearly nearer, in the third one if it is much nearer. */
static const float SECOND_PASS = 1.2f, THIRD_PASS = 1.6f;

enum {
    ASIDE_PART = 8,          /* one link in so many is left for the third pass     */
    UNFOLLOWED_PART = 4,     /* of the candidates: the links of the farthest would
                              * lead to few that are chosen, and cost an eighth   */
    PRODUCT_EF = 100,        /* of the second walk under dot product ...           */
    PRODUCT_CANDIDATES = 64, /* ... and what is taken of it */
};

/* ---- candidates ---- */

struct candidate_arrays {
    struct candidates c;
    uint32_t nodes[CANDIDATES_MAX];
    float distances[CANDIDATES_MAX], nearest[CANDIDATES_MAX], products[CANDIDATES_MAX];
    uint8_t state[CANDIDATES_MAX];
};

static pthread_key_t candidates_key;
static pthread_once_t candidates_once = PTHREAD_ONCE_INIT;
static _Thread_local struct candidate_arrays *own;

static void free_candidates(void *p)
{
    mem_free(p);
    own = NULL;
}

static void make_key(void)
{
    int failed = pthread_key_create(&candidates_key, free_candidates);
    assert(!failed);
    (void)failed;
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
                                 .products = own->products,
                                 .state = own->state};
    return &own->c;
}

static void sort_with_gap(struct candidates *c, uint32_t gap)
{
    for (uint32_t i = gap; i < c->count; i++) {
        uint32_t node = c->nodes[i], at = i;
        float distance = c->distances[i];
        for (; at >= gap && c->distances[at - gap] > distance; at -= gap) {
            c->nodes[at] = c->nodes[at - gap];
            c->distances[at] = c->distances[at - gap];
        }
        c->nodes[at] = node;
        c->distances[at] = distance;
    }
}

/* Shell's sort, with the gaps of Ciura ("Best increments for the average case of Shellsort", 2001).
 * Mostly they are few; after many deletions they are a thousand. */
void graph_sort_candidates(struct candidates *c)
{
    static const uint16_t gaps[] = {701, 301, 132, 57, 23, 10, 4, 1};
    for (size_t i = 0; i < sizeof gaps / sizeof gaps[0]; i++)
        if (gaps[i] < c->count) sort_with_gap(c, gaps[i]);
}

/* ---- choosing ---- */

struct choice {
    struct graph *g;
    const struct graph_arena *a;
    struct graph_scratch *s;
    struct candidates *c;
    const struct graph_liveness *alive;
    uint32_t *links;
    uint32_t count, limit;
    bool by_product;
};

/* `which` is a link now: all others may be nearer to it than to what was chosen before. */
static void note_chosen(struct choice *ch, uint32_t which)
{
    struct candidates *c = ch->c;
    struct codec_query q = {.code = ch->s->other_code};
    const uint8_t *cell = graph_cell(ch->g, ch->a, c->nodes[which]);
    if (ch->by_product)
        codec_query_product(&ch->g->codec, &q, cell);
    else
        codec_query_from_cell(&ch->g->codec, &q, cell);
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
    if (ch->count < ch->limit) note_chosen(ch, which);
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

/* The candidate that is least hidden by those chosen before, by its distances to the nearest one of
 * them and to the node. */
static uint32_t least_hidden(const struct candidates *c)
{
    uint32_t best = c->count;
    float nearest = 1, distance = THIRD_PASS;
    for (uint32_t i = 0; i < c->count; i++) {
        if (c->state[i] || c->nearest[i] * distance <= nearest * c->distances[i]) continue;
        best = i;
        nearest = c->nearest[i];
        distance = c->distances[i];
    }
    return best;
}

/* The nearest candidates lie in the same clusters as the node, where rows are many and alike.  The
 * last links lead away from there: without them small clusters are found by few searches, whatever
 * their effort. */
static void choose_aside(struct choice *ch, uint32_t limit)
{
    for (uint32_t i; ch->count < limit && (i = least_hidden(ch->c)) < ch->c->count;)
        choose(ch, i);
}

/* The candidate with the largest inner product that none chosen before is in the way of. */
static uint32_t largest_product(const struct candidates *c)
{
    uint32_t best = c->count;
    for (uint32_t i = 0; i < c->count; i++) {
        if (c->state[i] || c->nearest[i] <= c->products[i]) continue;
        if (best == c->count || c->products[i] < c->products[best]) best = i;
    }
    return best;
}

/* Those that are CHOSEN already are links; all others may be hidden by them. */
static void take_chosen(struct choice *ch)
{
    struct candidates *c = ch->c;
    ch->count = 0;
    for (uint32_t i = 0; i < c->count; i++)
        c->nearest[i] = INFINITY;
    for (uint32_t i = 0; i < c->count; i++) {
        if (c->state[i] != CHOSEN) continue;
        ch->links[ch->count++] = c->nodes[i];
        note_chosen(ch, i);
    }
}

/* What is sought by inner product is mostly long rows, and the links that lead there are those by
 * inner product: the rows that a search for `node` finds, of which none is nearer to one chosen
 * before.  They are few where rows are short, many where they are long (Morozov and Babenko,
 * "Non-metric similarity graphs for maximum inner product search", NeurIPS 2018). */
static void choose_by_product(struct choice *ch, uint32_t node, uint32_t limit)
{
    struct candidates *c = ch->c;
    struct codec_query q = {.code = ch->s->other_code};
    codec_query_product(&ch->g->codec, &q, graph_cell(ch->g, ch->a, node));
    codec_distances(&ch->g->codec, &q, ch->a->cells, ch->a->factors, c->nodes, c->count,
                    c->products);
    ch->by_product = true;
    take_chosen(ch);
    /* Half of what there is room for. */
    if (ch->count < limit) limit -= (limit - ch->count) / 2;
    for (uint32_t i; ch->count < limit && (i = largest_product(c)) < c->count;)
        choose(ch, i);
    ch->by_product = false;
}

uint32_t graph_choose_links(struct graph *g, const struct graph_arena *a, struct graph_scratch *s,
                            struct candidates *c, uint32_t node, uint32_t limit,
                            const struct graph_liveness *alive, uint32_t *links)
{
    struct choice ch = {
        .g = g, .a = a, .s = s, .c = c, .alive = alive, .links = links, .limit = limit};
    if (g->codec.metric == METRIC_DOT_PRODUCT) choose_by_product(&ch, node, limit);
    take_chosen(&ch);
    choose_spread(&ch, limit, 1);
    choose_spread(&ch, limit - limit / ASIDE_PART, SECOND_PASS);
    choose_aside(&ch, limit);
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

/* The dead links of a list whose living ones were chosen: they stay as far as there is room, for
 * they may be the way to somewhere. */
static uint32_t keep_refused(const struct candidates *c, uint32_t limit, uint32_t *links,
                             uint32_t count)
{
    for (uint32_t i = 0; i < c->count && count < limit; i++)
        if (c->state[i] == REFUSED) links[count++] = c->nodes[i];
    return count;
}

/* Navigation distances from a node. */
static void score_from(const struct graph *g, const struct graph_arena *a, struct graph_scratch *s,
                       uint32_t node, const uint32_t *others, uint32_t count, float *out)
{
    struct codec_query q = {.code = s->other_code};
    codec_query_from_cell(&g->codec, &q, graph_cell(g, a, node));
    graph_score(g, a, &q, others, count, out);
}

/* A node with as many links as it can have, and one more. */
struct crowd {
    uint32_t *links; /* the last one has just come */
    uint32_t count;
    const float *distances;   /* from the node */
    float between[BATCH_MAX]; /* from the last one to the others */
};

/* Is one of the links in the way of the last one?  Then choosing anew would come to the same, at
 * ten times the cost: mostly it is so. */
static bool is_hidden(const struct crowd *w, const struct graph_liveness *alive)
{
    float distance = w->distances[w->count - 1];
    for (uint32_t i = 0; i + 1 < w->count; i++)
        if (w->distances[i] <= distance && SECOND_PASS * w->between[i] <= distance &&
            (!alive || alive->is_alive(alive->ctx, w->links[i])))
            return true;
    return false;
}

/* Is the last one in the way of some others?  They make room for it; no need to choose anew
 * either. */
static bool takes_places(struct crowd *w)
{
    uint32_t kept[BATCH_MAX] UNINITIALIZED, count = 0, last = w->count - 1;
    for (uint32_t i = 0; i < last; i++) {
        kept[count] = w->links[i];
        count +=
            w->distances[last] > w->distances[i] || SECOND_PASS * w->between[i] > w->distances[i];
    }
    if (count == last || count + 1 < DEGREE_MIN_FILL) return false;
    kept[count++] = w->links[last];
    memcpy(w->links, kept, count * sizeof *kept);
    w->count = count;
    return true;
}

/* Choose among more links than there is room for; returns how many there are then. */
static uint32_t choose_anew(struct graph *g, const struct graph_arena *a, struct graph_scratch *s,
                            struct candidates *c, uint32_t from, uint32_t limit,
                            const struct graph_liveness *alive, uint32_t *links, uint32_t count)
{
    c->count = count;
    memcpy(c->nodes, links, count * sizeof *links);
    memcpy(c->distances, s->distances, count * sizeof *c->distances);
    memset(c->state, 0, count);
    graph_sort_candidates(c);
    count = graph_choose_links(g, a, s, c, from, limit, alive, links);
    return keep_refused(c, limit, links, count);
}

/* Let `from` lead to `to`, perhaps in the place of other links. */
static void link_back(struct graph *g, struct graph_arena *a, struct graph_scratch *s,
                      struct candidates *c, uint32_t from, uint32_t to,
                      const struct graph_liveness *alive)
{
    struct graph_node *node = graph_node(g, a, from);
    uint32_t links[BATCH_MAX] UNINITIALIZED;
    graph_lock_node(node);
    uint32_t flags = atomic_load_explicit(&node->head, memory_order_relaxed) & NODE_LINKED;
    uint32_t twins = graph_twin(node, a->capacity) == NO_NODE ? 0 : 1;
    if (twins) flags |= NODE_TWIN;
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
    links[count] = to;
    /* The twin stays where it is. */
    struct crowd w UNINITIALIZED;
    w.links = links + twins;
    w.count = count - twins + 1;
    w.distances = s->distances;
    score_from(g, a, s, from, w.links, w.count, s->distances);
    if (g->codec.metric != METRIC_DOT_PRODUCT) { /* whose links are chosen by products, too */
        score_from(g, a, s, to, w.links, w.count - 1, w.between);
        if (is_hidden(&w, alive)) {
            graph_unlock_node(node);
            return;
        }
        if (takes_places(&w)) {
            graph_store_links(a, node, from, links, w.count + twins, flags);
            return;
        }
    }
    count = choose_anew(g, a, s, c, from, g->degree - twins, alive, w.links, w.count);
    graph_store_links(a, node, from, links, count + twins, flags);
}

/* The nodes whose inner product with `node` is largest are candidates as well. */
static void find_by_product(struct graph *g, const struct graph_arena *a, struct candidates *c,
                            uint32_t node)
{
    struct graph_scratch *s = graph_scratch(g, a, PRODUCT_EF);
    if (!s) return;
    struct codec_query q = {.code = s->code};
    codec_query_product(&g->codec, &q, graph_cell(g, a, node));
    graph_walk(g, a, s, &q, node, UINT32_MAX);
    uint32_t had = c->count;
    for (uint32_t i = 0; i < s->pool.count && i < PRODUCT_CANDIDATES; i++)
        if (c->count < CANDIDATES_MAX && !has_link(c->nodes, had, s->pool.id[i]))
            c->nodes[c->count++] = s->pool.id[i];
    codec_query_from_cell(&g->codec, &q, graph_cell(g, a, node));
    graph_score(g, a, &q, c->nodes + had, c->count - had, s->distances);
    memcpy(c->distances + had, s->distances, (c->count - had) * sizeof *c->distances);
    graph_sort_candidates(c);
}

/* The nodes nearest to `node`, as many as the pool holds; true if there may be more. */
static bool find_candidates(struct graph *g, const struct graph_arena *a, struct graph_scratch *s,
                            struct candidates *c, uint32_t node)
{
    struct codec_query q = {.code = s->code};
    /* Short rows are hard enough to find under dot product. */
    uint32_t unfollowed =
        g->codec.metric == METRIC_DOT_PRODUCT ? 0 : s->pool.limit / UNFOLLOWED_PART;
    codec_query_from_cell(&g->codec, &q, graph_cell(g, a, node));
    graph_walk(g, a, s, &q, node, s->pool.limit - unfollowed);
    bool more = s->pool.count == s->pool.limit;
    c->count = s->pool.count < CANDIDATES_MAX ? s->pool.count : CANDIDATES_MAX;
    memcpy(c->nodes, s->pool.id, c->count * sizeof *c->nodes);
    memcpy(c->distances, s->pool.distance, c->count * sizeof *c->distances);
    if (g->codec.metric == METRIC_DOT_PRODUCT) find_by_product(g, a, c, node);
    memset(c->state, 0, c->count);
    return more;
}

/* Nodes that are to lead to `node`, for want of living ones: the nearest of the dead. */
static uint32_t nearest_refused(const struct candidates *c, uint32_t limit, uint32_t *nodes)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < c->count && count < limit; i++)
        if (c->state[i] == REFUSED) nodes[count++] = c->nodes[i];
    return count;
}

/* The links of `node`, behind that of its ring if it has one already. */
static void store_own_links(struct graph *g, struct graph_arena *a, uint32_t node, uint32_t *links,
                            uint32_t count)
{
    struct graph_node *n = graph_node(g, a, node);
    graph_lock_node(n);
    uint32_t twin = graph_twin(n, a->capacity);
    if (twin == NO_NODE) {
        graph_store_links(a, n, node, links, count, NODE_LINKED);
        return;
    }
    if (count < g->degree) count++;
    memmove(links + 1, links, (count - 1) * sizeof *links);
    links[0] = twin;
    graph_store_links(a, n, node, links, count, NODE_LINKED | NODE_TWIN);
}

static void note_linked(struct graph *g, struct graph_arena *a, uint32_t node, bool was_linked)
{
    /* Again: whoever wrote the group out since it was encoded has left out what was not linked. */
    graph_mark_dirty(a->dirty_cells, node);
    if (!was_linked) atomic_fetch_add_explicit(&g->linked_count, 1, memory_order_relaxed);
}

bool graph_link(struct graph *g, uint32_t node, uint32_t ef, const struct graph_liveness *alive)
{
    struct graph_arena *a = graph_arena(g);
    if (ef == 0) ef = g->ef_construction;
    struct graph_scratch *s = graph_scratch(g, a, ef);
    struct candidates *c = graph_candidates();
    if (!s || !c) return false;
    enum graph_entry entry = graph_enter_first(g, a, node);
    if (entry != ENTRY_THERE_IS) return entry == ENTRY_IS_FIRST;

    bool was_linked = graph_is_linked(g, a, node);
    bool more = find_candidates(g, a, s, c, node);
    if (graph_link_to_twin(g, a, c, node, alive)) {
        note_linked(g, a, node, was_linked);
        return true;
    }
    uint32_t links[BATCH_MAX] UNINITIALIZED, from[BATCH_MAX] UNINITIALIZED;
    uint32_t limit = g->degree / 2 + 1;
    uint32_t count = graph_choose_links(g, a, s, c, node, limit, alive, links);
    if (count < DEGREE_MIN_FILL && more && ef <= CANDIDATES_MAX / 4) {
        /* Nearly all are dead there: look farther, once. */
        s = graph_scratch(g, a, 4 * ef);
        if (!s) return false;
        find_candidates(g, a, s, c, node);
        count = graph_choose_links(g, a, s, c, node, limit, alive, links);
    }
    uint32_t from_count = count;
    memcpy(from, links, count * sizeof *links);
    if (count < DEGREE_MIN_FILL)
        from_count += nearest_refused(c, DEGREE_MIN_FILL - count, from + count);
    store_own_links(g, a, node, links, count);
    note_linked(g, a, node, was_linked);
    for (uint32_t i = 0; i < from_count; i++)
        link_back(g, a, s, c, from[i], node, alive);
    return true;
}

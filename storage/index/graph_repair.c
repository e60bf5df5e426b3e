/* graph_repair.c - keep a graph whole: links around dead nodes, nodes that nothing leads to. */
#include <string.h>

#include "storage/base/mem.h"
#include "storage/index/graph_private.h"

/* ---- links to dead nodes ---- */

enum { LOST_MAX = 1024 }; /* dead nodes that are looked behind, for one list */

/* What becomes of a list. */
struct repair {
    const uint64_t *dead;
    uint32_t number, end; /* the node; all numbers are below `end` */
    uint32_t kept, lost;  /* links; `kept` are the first candidates */
    bool changed;
    uint32_t behind[LOST_MAX], behind_count; /* dead nodes */
};

/* The links of a node (but for its ring, which goes on by itself) that are alive, or whose twin is:
 * that one is in the same place. */
static void gather_kept(struct graph *g, const struct graph_arena *a, struct graph_scratch *s,
                        struct repair *r, struct candidates *c)
{
    uint32_t links[BATCH_MAX] UNINITIALIZED;
    uint32_t count = graph_other_links(g, graph_node(g, a, r->number), r->end, links);
    (void)graph_visit(s, r->number);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t link = links[i];
        if (!graph_visit(s, link)) continue;
        if (bits_has(r->dead, link)) {
            r->changed = true;
            r->behind[r->behind_count++] = link;
            link = graph_next_living_twin(g, a, r->dead, link, r->end);
            if (link == NO_NODE || !graph_visit(s, link)) continue;
            r->behind_count--;
        }
        c->nodes[c->count++] = link;
    }
    memset(c->state, CHOSEN, c->count);
    r->kept = c->count;
    r->lost = r->behind_count;
}

/* What the dead ones lead to, and the dead ones behind those if that is too little. */
static void gather_behind(struct graph *g, const struct graph_arena *a, struct graph_scratch *s,
                          struct repair *r, struct candidates *c)
{
    uint32_t links[BATCH_MAX] UNINITIALIZED, enough = r->kept + r->lost;
    for (uint32_t i = 0; i < r->lost || (i < r->behind_count && c->count < enough); i++) {
        uint32_t count = graph_links(g, graph_node(g, a, r->behind[i]), r->end, links);
        for (uint32_t k = 0; k < count && c->count < CANDIDATES_MAX; k++) {
            if (!graph_visit(s, links[k])) continue;
            if (bits_has(r->dead, links[k])) {
                if (r->behind_count < LOST_MAX) r->behind[r->behind_count++] = links[k];
                continue;
            }
            c->state[c->count] = 0;
            c->nodes[c->count++] = links[k];
        }
    }
}

/* At most `limit` links: what is kept and the best of the rest, or the best of all. */
static uint32_t choose_again(struct graph *g, const struct graph_arena *a, struct graph_scratch *s,
                             const struct repair *r, struct candidates *c, bool thorough,
                             uint32_t limit, uint32_t *links)
{
    struct codec_query q = {.code = s->code};
    codec_query_from_cell(&g->codec, &q, graph_cell(g, a, r->number));
    graph_score(g, a, &q, c->nodes, c->count, c->distances);
    if (thorough) {
        memset(c->state, 0, c->count);
        graph_sort_candidates(c);
    } else {
        /* At most as many as were lost come in. */
        struct candidates rest = {.count = c->count - r->kept,
                                  .nodes = c->nodes + r->kept,
                                  .distances = c->distances + r->kept};
        graph_sort_candidates(&rest);
        if (r->kept + r->lost < limit) limit = r->kept + r->lost;
    }
    return graph_choose_links(g, a, s, c, r->number, limit, NULL, links);
}

static bool repair(struct graph *g, struct graph_arena *a, const uint64_t *dead, uint32_t number,
                   uint32_t end, bool thorough)
{
    struct graph_node *node = graph_node(g, a, number);
    struct graph_scratch *s = graph_scratch(g, a, 1);
    struct candidates *c = graph_candidates();
    if (!s || !c) return false;
    struct repair r UNINITIALIZED;
    r.dead = dead;
    r.number = number;
    r.end = end;
    r.behind_count = 0;
    uint32_t links[BATCH_MAX] UNINITIALIZED, twins = 0;
    uint32_t twin = graph_next_living_twin(g, a, dead, number, end);
    r.changed = twin != graph_twin(node, end);
    if (twin != NO_NODE) {
        links[twins++] = twin;
        (void)graph_visit(s, twin);
    }
    gather_kept(g, a, s, &r, c);
    if (!r.changed) return false;
    gather_behind(g, a, s, &r, c);
    uint32_t count =
        twins + choose_again(g, a, s, &r, c, thorough, g->degree - twins, links + twins);
    graph_lock_node(node);
    graph_store_links(a, node, number, links, count, NODE_LINKED | (twins ? NODE_TWIN : 0));
    return true;
}

uint32_t graph_sweep(struct graph *g, const uint64_t *dead, uint32_t first, uint32_t end,
                     bool thorough)
{
    struct graph_arena *a = graph_arena(g);
    uint32_t changed = 0, nodes = atomic_load_explicit(&g->node_count, memory_order_acquire);
    if (!a) return 0;
    if (nodes > a->capacity) nodes = a->capacity;
    for (uint32_t node = first; node < end && node < nodes; node++) {
        if (bits_has(dead, node) || !graph_is_linked(g, a, node)) continue;
        changed += repair(g, a, dead, node, nodes, thorough);
    }
    return changed;
}

/* ---- as if a node were not there ---- */

/* Without the hidden node, what leads to it would not all lead elsewhere.  About half of those
 * nodes came later, chose it, and would have chosen another; to the rest it made its link itself,
 * and they would have a link less.  Taking all for the one kind or for the other is wrong by
 * several percent of recall, to different sides.  With a quarter of them it is right near 0.95 on
 * the data that are hardest to search, and rather too low on others (measured on ten sets). */
static bool would_have_chosen(uint32_t node, uint32_t hidden)
{
    return (node * 0x9e3779b1u ^ hidden) * 0x85ebca6bu >> 30 == 0;
}

/* Links of the hidden node that the list does not have: behind the `kept` ones. */
static void gather_instead(struct graph *g, const struct graph_arena *a, uint32_t node,
                           uint32_t hidden, uint32_t kept, struct candidates *c)
{
    uint32_t links[BATCH_MAX] UNINITIALIZED;
    uint32_t count = graph_other_links(g, graph_node(g, a, hidden), a->capacity, links);
    for (uint32_t i = 0; i < count; i++) {
        bool is_known = links[i] == node;
        for (uint32_t k = 0; k < kept && !is_known; k++)
            is_known = c->nodes[k] == links[i];
        if (is_known) continue;
        c->state[c->count] = 0;
        c->nodes[c->count++] = links[i];
    }
}

uint32_t graph_detour(struct graph *g, const struct graph_arena *a, struct graph_scratch *s,
                      uint32_t node, uint32_t hidden)
{
    struct candidates *c = graph_candidates();
    uint32_t links[BATCH_MAX] UNINITIALIZED;
    uint32_t degree = graph_links(g, graph_node(g, a, node), a->capacity, links);
    if (!c) return NO_NODE;
    for (uint32_t i = 0; i < degree; i++)
        if (links[i] != hidden) c->nodes[c->count++] = links[i];
    uint32_t kept = c->count;
    if (kept == degree) return NO_NODE;
    uint32_t twin = graph_twin(graph_node(g, a, hidden), a->capacity);
    if (twin != NO_NODE) return twin;
    if (!would_have_chosen(node, hidden)) return NO_NODE;
    memset(c->state, CHOSEN, kept);
    gather_instead(g, a, node, hidden, kept, c);
    struct codec_query q = {.code = s->other_code};
    codec_query_from_cell(&g->codec, &q, graph_cell(g, a, node));
    struct candidates rest = {
        .count = c->count - kept, .nodes = c->nodes + kept, .distances = c->distances + kept};
    graph_score(g, a, &q, rest.nodes, rest.count, rest.distances);
    graph_sort_candidates(&rest);
    uint32_t count = graph_choose_links(g, a, s, c, node, kept + 1, NULL, links);
    return count > kept ? links[kept] : NO_NODE;
}

/* ---- nodes that nothing leads to ---- */

enum err_code graph_unreachable(struct graph *g, const uint64_t *live, uint32_t *nodes,
                                uint32_t max, uint32_t *count, struct err *err)
{
    *count = 0;
    struct graph_arena *a = graph_arena(g);
    const struct graph_pivots *pivots = graph_pivots(g);
    if (!a) return ERR_OK;
    uint32_t end = atomic_load_explicit(&g->node_count, memory_order_acquire), waiting = 0;
    if (end > a->capacity) end = a->capacity;
    size_t words = ((size_t)end + 63) / 64;
    uint64_t *reached = mem_try(words * sizeof *reached);
    uint32_t *queue = mem_try((size_t)end * sizeof *queue);
    if (!reached || !queue) {
        mem_free(reached);
        mem_free(queue);
        return err_set(err, ERR_NOMEM, "out of memory for a walk over %u rows", end);
    }
    memset(reached, 0, words * sizeof *reached);
    for (uint32_t i = 0; pivots && i < pivots->count; i++)
        if (pivots->nodes[i] < end && bits_add(reached, pivots->nodes[i]))
            queue[waiting++] = pivots->nodes[i];
    while (waiting > 0) {
        uint32_t links[BATCH_MAX] UNINITIALIZED;
        uint32_t degree = graph_links(g, graph_node(g, a, queue[--waiting]), end, links);
        for (uint32_t i = 0; i < degree; i++)
            if (bits_add(reached, links[i])) queue[waiting++] = links[i];
    }
    for (uint32_t node = 0; node < end && *count < max; node++) {
        if (bits_has(reached, node) || (live && !bits_has(live, node))) continue;
        if (graph_is_linked(g, a, node)) nodes[(*count)++] = node;
    }
    mem_free(reached);
    mem_free(queue);
    return ERR_OK;
}

/* ---- nodes that few lead to ---- */

/* Of the links behind the first `twins`, which are not touched. */
static uint32_t farthest_link(struct graph *g, const struct graph_arena *a, uint32_t number,
                              const uint32_t *links, uint32_t count, uint32_t twins)
{
    struct graph_scratch *s = graph_scratch(g, a, 1);
    if (!s || count == twins) return count;
    struct codec_query q = {.code = s->code};
    codec_query_from_cell(&g->codec, &q, graph_cell(g, a, number));
    graph_score(g, a, &q, links + twins, count - twins, s->distances);
    uint32_t farthest = 0;
    for (uint32_t i = 1; i < count - twins; i++)
        if (s->distances[i] > s->distances[farthest]) farthest = i;
    return twins + farthest;
}

/* True: `number` leads to `to` now.  *dropped: what it led to instead, if it gave that up. */
static bool add_link(struct graph *g, struct graph_arena *a, uint32_t number, uint32_t to,
                     bool give_up_another, uint32_t *dropped)
{
    struct graph_node *node = graph_node(g, a, number);
    uint32_t links[BATCH_MAX] UNINITIALIZED;
    graph_lock_node(node);
    uint32_t head = atomic_load_explicit(&node->head, memory_order_relaxed);
    uint32_t count = graph_links(g, node, a->capacity, links), place = count;
    for (uint32_t i = 0; i < count; i++)
        if (links[i] == to) place = i;
    if (place == g->degree && give_up_another)
        place = farthest_link(g, a, number, links, count, head & NODE_TWIN ? 1 : 0);
    if (!(head & NODE_LINKED) || place == g->degree || (place < count && links[place] == to)) {
        graph_unlock_node(node);
        return head & NODE_LINKED && place < count;
    }
    if (place < count) *dropped = links[place];
    links[place] = to;
    graph_store_links(a, node, number, links, place == count ? count + 1 : count,
                      head & (NODE_LINKED | NODE_TWIN));
    return true;
}

uint32_t graph_lead_to(struct graph *g, const uint32_t *from, uint32_t count, uint32_t to)
{
    struct graph_arena *a = graph_arena(g);
    uint32_t dropped = NO_NODE;
    for (int give_up = 0; give_up <= 1; give_up++)
        for (uint32_t i = 0; a && i < count; i++)
            if (from[i] < a->capacity && add_link(g, a, from[i], to, give_up, &dropped))
                return dropped;
    return dropped;
}

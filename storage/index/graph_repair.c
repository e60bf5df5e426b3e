/* graph_repair.c - keep a graph whole: links around dead nodes, nodes that nothing leads to. */
#include <string.h>

#include "storage/base/mem.h"
#include "storage/index/graph_private.h"

/* ---- links to dead nodes ---- */

enum { LOST_MAX = 1024 }; /* dead nodes that are looked behind, for one list */

static bool is_new(struct graph_scratch *s, uint32_t node)
{
    bool new = s->visited[node] != s->visit;
    s->visited[node] = s->visit;
    return new;
}

/* The live links of a node, then what its dead ones lead to, and the dead ones behind those if they
 * are too few.  Returns how many links are dead. */
static uint32_t gather(struct graph *g, const struct graph_arena *a, struct graph_scratch *s,
                       const uint64_t *dead, uint32_t number, uint32_t end, struct candidates *c)
{
    uint32_t links[BATCH_MAX] UNINITIALIZED, lost[LOST_MAX] UNINITIALIZED, lost_count = 0;
    uint32_t count = graph_links(g, graph_node(g, a, number), end, links);
    (void)is_new(s, number);
    for (uint32_t i = 0; i < count; i++) {
        if (!is_new(s, links[i])) continue;
        if (graph_bit(dead, links[i]))
            lost[lost_count++] = links[i];
        else
            c->nodes[c->count++] = links[i];
    }
    memset(c->state, CHOSEN, c->count);
    uint32_t lost_links = lost_count, enough = c->count + lost_links;
    for (uint32_t i = 0; i < lost_links || (i < lost_count && c->count < enough); i++) {
        count = graph_links(g, graph_node(g, a, lost[i]), end, links);
        for (uint32_t k = 0; k < count && c->count < CANDIDATES_MAX; k++) {
            if (!is_new(s, links[k])) continue;
            if (graph_bit(dead, links[k])) {
                if (lost_count < LOST_MAX) lost[lost_count++] = links[k];
                continue;
            }
            c->state[c->count] = 0;
            c->nodes[c->count++] = links[k];
        }
    }
    return lost_links;
}

static bool repair(struct graph *g, struct graph_arena *a, const uint64_t *dead, uint32_t number,
                   uint32_t end, bool thorough)
{
    struct graph_node *node = graph_node(g, a, number);
    struct graph_scratch *s = graph_scratch(g, a, 1);
    struct candidates *c = graph_candidates();
    if (!s || !c) return false;
    uint32_t lost = gather(g, a, s, dead, number, end, c);
    if (lost == 0) return false;

    struct codec_query q = {.code = s->code};
    codec_query_from_cell(&g->codec, &q, graph_cell(g, a, number));
    graph_score(g, a, &q, c->nodes, c->count, c->distances);
    uint32_t kept = 0, limit = g->degree;
    for (uint32_t i = 0; i < c->count; i++)
        kept += c->state[i] == CHOSEN;
    if (thorough) {
        memset(c->state, 0, c->count);
        graph_sort_candidates(c);
    } else {
        /* What is left stays, and at most as many as were lost come in. */
        struct candidates rest = {
            .count = c->count - kept, .nodes = c->nodes + kept, .distances = c->distances + kept};
        graph_sort_candidates(&rest);
        if (kept + lost < limit) limit = kept + lost;
    }
    uint32_t links[BATCH_MAX] UNINITIALIZED;
    uint32_t count = graph_choose_links(g, a, s, c, limit, NULL, links);
    graph_lock_node(node);
    graph_store_links(a, node, number, links, count, NODE_LINKED);
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
        if (graph_bit(dead, node) || !graph_is_linked(g, a, node)) continue;
        changed += repair(g, a, dead, node, nodes, thorough);
    }
    return changed;
}

/* ---- nodes that nothing leads to ---- */

static bool reach(uint64_t *reached, uint32_t node)
{
    uint64_t bit = (uint64_t)1 << node % 64;
    if (reached[node / 64] & bit) return false;
    reached[node / 64] |= bit;
    return true;
}

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
        if (pivots->nodes[i] < end && reach(reached, pivots->nodes[i]))
            queue[waiting++] = pivots->nodes[i];
    while (waiting > 0) {
        uint32_t links[BATCH_MAX] UNINITIALIZED;
        uint32_t degree = graph_links(g, graph_node(g, a, queue[--waiting]), end, links);
        for (uint32_t i = 0; i < degree; i++)
            if (reach(reached, links[i])) queue[waiting++] = links[i];
    }
    for (uint32_t node = 0; node < end && *count < max; node++) {
        if (graph_bit(reached, node) || (live && !graph_bit(live, node))) continue;
        if (graph_is_linked(g, a, node)) nodes[(*count)++] = node;
    }
    mem_free(reached);
    mem_free(queue);
    return ERR_OK;
}

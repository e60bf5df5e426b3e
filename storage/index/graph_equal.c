/*
 * graph_equal.c - rows that are equal, as far as their codes tell: rings beside the graph.
 *
 * Of a thousand equal rows all are each other's nearest, no list has room for more than a few, and
 * whoever comes near finds nothing else.  So the first is a node like any other, and the others are
 * strung behind it: links[0] of each leads to the next, the last one's to the first (NODE_TWIN).
 *
 *        p -> c -> b -> a -> p            the newest comes right behind p
 *
 * Searches follow a ring; linkers do not, and no other node links to c, b or a.  These have the
 * other links of p, so that a walk can also begin with them.  A link of a ring is not given up for
 * another; when what it leads to is dead, the next living one takes its place.
 */
#include <math.h>
#include <string.h>

#include "storage/base/lock.h"
#include "storage/base/mem.h"
#include "storage/index/graph_private.h"

enum {
    TWIN_TRIES = 8, /* candidates that are looked at, from the nearest on  */
    STEPS_MAX = 64, /* to see whether two equal nodes are in one ring */
};

static bool is_about(float a, float b)
{
    return fabsf(a - b) <= 1e-5f * fabsf(a);
}

/* Two rows of one direction may differ in the last digit. */
static bool are_equal(const struct graph *g, const struct graph_arena *a, uint32_t x, uint32_t y)
{
    const uint8_t *cell_x = graph_cell(g, a, x), *cell_y = graph_cell(g, a, y);
    if (memcmp(cell_x, cell_y, g->codec.code_bytes) != 0) return false;
    const struct code_tail *tail_x = codec_tail(&g->codec, cell_x);
    const struct code_tail *tail_y = codec_tail(&g->codec, cell_y);
    return is_about(tail_x->norm2, tail_y->norm2) && is_about(tail_x->row_norm2, tail_y->row_norm2);
}

uint32_t graph_next_living_twin(const struct graph *g, const struct graph_arena *a,
                                const uint64_t *dead, uint32_t node, uint32_t end)
{
    uint32_t twin = graph_twin(graph_node(g, a, node), end), met = node;
    for (uint32_t steps = 1; twin != NO_NODE && bits_has(dead, twin); steps++) {
        if ((steps & (steps - 1)) == 0) met = twin; /* a wrong ring may never come back */
        twin = graph_twin(graph_node(g, a, twin), end);
        if (twin == node || twin == met) return NO_NODE;
    }
    return twin;
}

/* Let the ring go from `number` to `next`; where there was none, the last link makes room. */
static void store_twin(struct graph *g, struct graph_arena *a, uint32_t number, uint32_t head,
                       uint32_t next)
{
    struct graph_node *node = graph_node(g, a, number);
    uint32_t links[BATCH_MAX] UNINITIALIZED, others[BATCH_MAX] UNINITIALIZED, count = 1;
    uint32_t other_count = graph_other_links(g, node, a->capacity, others);
    links[0] = next;
    for (uint32_t i = 0; i < other_count && count < g->degree; i++)
        if (others[i] != next) links[count++] = others[i];
    graph_store_links(a, node, number, links, count, (head & NODE_LINKED) | NODE_TWIN);
}

/* The same, if it goes to `expected` now (NO_NODE: it is in none). */
static bool change_twin(struct graph *g, struct graph_arena *a, uint32_t number, uint32_t expected,
                        uint32_t next)
{
    struct graph_node *node = graph_node(g, a, number);
    graph_lock_node(node);
    if (graph_twin(node, a->capacity) != expected) {
        graph_unlock_node(node);
        return false;
    }
    store_twin(g, a, number, atomic_load_explicit(&node->head, memory_order_relaxed), next);
    return true;
}

/* The other links of `twin`, behind the one of the ring that `node` may have. */
static void take_links(struct graph *g, struct graph_arena *a, uint32_t node, uint32_t twin)
{
    struct graph_node *n = graph_node(g, a, node);
    uint32_t links[BATCH_MAX] UNINITIALIZED, count = 0;
    uint32_t found[BATCH_MAX] UNINITIALIZED;
    uint32_t found_count = graph_other_links(g, graph_node(g, a, twin), a->capacity, found);
    graph_lock_node(n);
    uint32_t next = graph_twin(n, a->capacity);
    if (next != NO_NODE) links[count++] = next;
    for (uint32_t i = 0; i < found_count && count < g->degree; i++)
        if (found[i] != node && found[i] != next) links[count++] = found[i];
    graph_store_links(a, n, node, links, count, NODE_LINKED | (next != NO_NODE ? NODE_TWIN : 0));
}

/* A node that is in no ring comes right behind `twin`. */
static void insert(struct graph *g, struct graph_arena *a, uint32_t node, uint32_t twin)
{
    uint32_t before = NO_NODE, next;
    do {
        next = graph_twin(graph_node(g, a, twin), a->capacity);
        uint32_t goes_to = next == NO_NODE ? twin : next;
        /* First this, so that the ring never ends here. */
        if (!change_twin(g, a, node, before, goes_to)) return; /* somebody was faster */
        before = goes_to;
    } while (!change_twin(g, a, twin, next, node));
}

/* The last node of what hangs behind `node` and not behind `twin` as well, and where it leads.
 * NO_NODE: all of it hangs behind `twin`. */
static uint32_t end_of_ring(const struct graph *g, const struct graph_arena *a,
                            struct graph_scratch *s, uint32_t node, uint32_t twin, uint32_t *next)
{
    for (uint32_t at = twin; at != NO_NODE && graph_visit(s, at);)
        at = graph_twin(graph_node(g, a, at), a->capacity);
    uint32_t end = NO_NODE;
    for (uint32_t at = node; at != NO_NODE && graph_visit(s, at);) {
        end = at;
        at = *next = graph_twin(graph_node(g, a, at), a->capacity);
    }
    return end;
}

/* What hangs behind `node`, itself first, comes right behind `twin`: two rings become one. */
static void splice(struct graph *g, struct graph_arena *a, uint32_t node, uint32_t twin)
{
    /* Two that do the same to the same rings would lose a part of them. */
    static struct mutex mu = {PTHREAD_MUTEX_INITIALIZER, LOCK_LEAF};
    mutex_lock(&mu);
    for (;;) {
        struct graph_scratch *s = graph_scratch(g, a, 1); /* nothing is visited */
        uint32_t next = NO_NODE, end = s ? end_of_ring(g, a, s, node, twin, &next) : NO_NODE;
        if (end == NO_NODE) break;
        uint32_t behind = graph_twin(graph_node(g, a, twin), a->capacity);
        /* New nodes come in meanwhile: then look again. */
        if (change_twin(g, a, end, next, behind == NO_NODE ? twin : behind) &&
            change_twin(g, a, twin, behind, node))
            break;
    }
    mutex_unlock(&mu);
}

static bool is_alive(const struct graph_liveness *alive, uint32_t node)
{
    return !alive || alive->is_alive(alive->ctx, node);
}

/* Are they in two rings?  A long way is not gone: then they are taken to be in one. */
static bool are_apart(const struct graph *g, const struct graph_arena *a, uint32_t x, uint32_t y)
{
    uint32_t at = x;
    for (int steps = 0; steps < STEPS_MAX; steps++) {
        at = graph_twin(graph_node(g, a, at), a->capacity);
        if (at == y) return false;
        if (at == NO_NODE || at == x) return true;
    }
    return false;
}

bool graph_link_to_twin(struct graph *g, struct graph_arena *a, const struct candidates *c,
                        uint32_t node, const struct graph_liveness *alive)
{
    uint32_t twin = NO_NODE;
    for (uint32_t i = 0; i < c->count && i < TWIN_TRIES; i++) {
        uint32_t other = c->nodes[i];
        if (!are_equal(g, a, node, other) || !is_alive(alive, other)) continue;
        if (twin == NO_NODE) {
            twin = other;
            take_links(g, a, node, twin);
            if (graph_twin(graph_node(g, a, node), a->capacity) == NO_NODE)
                insert(g, a, node, twin);
            else
                splice(g, a, node, twin);
        } else if (are_apart(g, a, twin, other)) {
            /* Equal rows that came at the same time do not know each other. */
            splice(g, a, other, twin);
        }
    }
    return twin != NO_NODE;
}

/* graph_private.h - inside of the graph: for graph*.c. */
#ifndef STORAGE_INDEX_GRAPH_PRIVATE_H
#define STORAGE_INDEX_GRAPH_PRIVATE_H

#include "storage/base/bits.h"
#include "storage/index/graph.h"
#include "storage/kernel/pool.h"

enum {
    DEGREE_MAX = 254,
    DEGREE_MIN_FILL =
        8,           /* links that a node keeps even if they point the same way: without them one
                        row in the middle of all others would be everybody's only neighbour */
    BATCH_MAX = 256, /* links of a node, rounded up */
    NO_NODE = UINT32_MAX,
};

/* What a search needs, one for each thread, kept between searches. */
struct graph_scratch {
    uint16_t *visited; /* == visit: met in this search */
    uint32_t visited_nodes;
    uint16_t visit;
    uint32_t room;       /* of each pool */
    struct pool pool;    /* candidates and frontier in one; with a filter the frontier */
    struct pool results; /* with a filter: the candidates */
    float *pool_distances, *results_distances;
    uint32_t *pool_ids, *results_ids;
    size_t numbers_bytes;
    void *code, *other_code; /* of queries */
    void *numbers;           /* for the codec */
    uint32_t fresh[BATCH_MAX];
    float distances[BATCH_MAX];
    uint64_t visited_count, distances_computed;
};

/* The calling thread's, ready for graphs of this arena and pools of `ef`; all pools are empty,
 * nothing is visited.  NULL: out of memory. */
struct graph_scratch *graph_scratch(const struct graph *g, const struct graph_arena *a,
                                    uint32_t ef);

static inline struct graph_arena *graph_arena(const struct graph *g)
{
    /* Pairs with graph_set_arena(). */
    return atomic_load_explicit(&((struct graph *)(uintptr_t)g)->arena, memory_order_acquire);
}

static inline struct graph_pivots *graph_pivots(const struct graph *g)
{
    /* Pairs with publish_pivots(). */
    return atomic_load_explicit(&((struct graph *)(uintptr_t)g)->pivots, memory_order_acquire);
}

/* Was it not met before? */
static inline bool graph_visit(struct graph_scratch *s, uint32_t node)
{
    bool is_new = s->visited[node] != s->visit;
    s->visited[node] = s->visit;
    return is_new;
}

static inline void graph_prefetch(const void *p)
{
#if defined(__x86_64__)
    /* gcc 12 drops all but the first of a loop of __builtin_prefetch(). */
    __asm__ volatile("prefetcht0 %0" : : "m"(*(const char *)p));
#else
    __builtin_prefetch(p);
    __asm__ volatile("" : : : "memory");
#endif
}

/* Links of a node from the one at `first` on, as they are now: at most DEGREE_MAX numbers below
 * `bound`. */
static inline uint32_t graph_links_from(const struct graph *g, struct graph_node *node,
                                        uint32_t head, uint32_t first, uint32_t bound,
                                        uint32_t *links)
{
    uint32_t degree = head & NODE_DEGREE;
    if (degree > g->degree) degree = g->degree;
    uint32_t count = 0;
    for (uint32_t i = first; i < degree; i++) {
        uint32_t link = atomic_load_explicit(&node->links[i], memory_order_acquire);
        links[count] = link;
        count += link < bound;
    }
    return count;
}

/* All of them. */
static inline uint32_t graph_links(const struct graph *g, struct graph_node *node, uint32_t bound,
                                   uint32_t *links)
{
    uint32_t head = atomic_load_explicit(&node->head, memory_order_acquire);
    return graph_links_from(g, node, head, 0, bound, links);
}

/* But that of a ring. */
static inline uint32_t graph_other_links(const struct graph *g, struct graph_node *node,
                                         uint32_t bound, uint32_t *links)
{
    uint32_t head = atomic_load_explicit(&node->head, memory_order_acquire);
    return graph_links_from(g, node, head, head & NODE_TWIN ? 1 : 0, bound, links);
}

/* The next node of its ring; NO_NODE: it is in none. */
static inline uint32_t graph_twin(struct graph_node *node, uint32_t bound)
{
    uint32_t head = atomic_load_explicit(&node->head, memory_order_acquire);
    if (!(head & NODE_TWIN) || !(head & NODE_DEGREE)) return NO_NODE;
    uint32_t twin = atomic_load_explicit(&node->links[0], memory_order_acquire);
    return twin < bound ? twin : NO_NODE;
}

static inline bool graph_is_linked(const struct graph *g, const struct graph_arena *a,
                                   uint32_t node)
{
    uint32_t head = atomic_load_explicit(&graph_node(g, a, node)->head, memory_order_acquire);
    return head & NODE_LINKED;
}

/* Make an encoded node the entry of a graph that has none.  One of several linkers is the first. */
enum graph_entry { ENTRY_IS_FIRST, ENTRY_THERE_IS, ENTRY_NO_MEMORY };
enum graph_entry graph_enter_first(struct graph *g, struct graph_arena *a, uint32_t node);

void graph_mark_dirty(_Atomic uint64_t *bits, uint32_t node);

/* Keep others from changing the links of a node; short. */
void graph_lock_node(struct graph_node *node);
void graph_unlock_node(struct graph_node *node);
/* Under the lock: other links.  Unlocks. */
void graph_store_links(struct graph_arena *a, struct graph_node *node, uint32_t number,
                       const uint32_t *links, uint32_t count, uint32_t flags);

/* Navigation distances of `count` nodes, their cells fetched ahead. */
void graph_score(const struct graph *g, const struct graph_arena *a, const struct codec_query *q,
                 const uint32_t *nodes, uint32_t count, float *out);
/* From the nearest pivots, and whatever the pool holds already, to the pool->limit nearest nodes.
 * Links of the nearest `follow` of them are followed; UINT32_MAX: of all. */
void graph_walk(struct graph *g, const struct graph_arena *a, struct graph_scratch *s,
                const struct codec_query *q, uint32_t hidden, uint32_t follow);

/* Candidates for the links of a node, nearest first. */
struct candidates {
    uint32_t count;
    uint32_t *nodes;
    float *distances; /* to the node */
    float *nearest;   /* to the nearest one chosen so far */
    float *products;  /* METRIC_DOT_PRODUCT, while they are chosen */
    uint8_t *state;   /* 0, or one of these */
};
enum { CHOSEN = 1, REFUSED = 2 };

/* Choose at most `limit` of them as links of `node` that point in different directions; those that
 * are CHOSEN already stay, the dead that it would have chosen are REFUSED.  `alive` may be NULL. */
uint32_t graph_choose_links(struct graph *g, const struct graph_arena *a, struct graph_scratch *s,
                            struct candidates *c, uint32_t node, uint32_t limit,
                            const struct graph_liveness *alive, uint32_t *links);
/* Sort by distance. */
void graph_sort_candidates(struct candidates *c);

/* ---- equal nodes: graph_equal.c ---- */

/* If a living candidate equals `node`, make it follow that one in its ring, with its links. */
bool graph_link_to_twin(struct graph *g, struct graph_arena *a, const struct candidates *c,
                        uint32_t node, const struct graph_liveness *alive);
/* The first living node behind `node` in its ring, not itself; NO_NODE: there is none.  Numbers are
 * below `end`. */
uint32_t graph_next_living_twin(const struct graph *g, const struct graph_arena *a,
                                const uint64_t *dead, uint32_t node, uint32_t end);

/* ---- graph_repair.c ---- */

/* The node that `node` would lead to instead of `hidden` had that one never been there, about;
 * NO_NODE: none, or it does not lead there.  Uses graph_candidates() and s->other_code. */
uint32_t graph_detour(struct graph *g, const struct graph_arena *a, struct graph_scratch *s,
                      uint32_t node, uint32_t hidden);

enum { CANDIDATES_MAX = 2048 };
/* Arrays of CANDIDATES_MAX, the calling thread's; count 0.  NULL: out of memory. */
struct candidates *graph_candidates(void);

#endif

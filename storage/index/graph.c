/* graph.c - the life of a graph: memory, entry points, copies for a file. */
#include <assert.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>

#include "storage/base/clock.h"
#include "storage/base/crc32c.h"
#include "storage/base/epoch.h"
#include "storage/base/mem.h"
#include "storage/index/graph_private.h"

enum {
    LINE = 64,
    M_DEFAULT = 16,
    EF_CONSTRUCTION_DEFAULT = 200,
    PIVOTS_MIN = 128,
    PIVOTS_MAX = 1024
};
#define HUGE_PAGE (2ul << 20)

/* ---- the arena ---- */

static size_t dirty_words(uint32_t capacity)
{
    return ((size_t)capacity / GRAPH_GROUP_NODES + 64) / 64;
}

static size_t mapped_bytes(size_t bytes)
{
    size_t page = bytes < HUGE_PAGE ? 4096 : HUGE_PAGE;
    return (bytes + page - 1) / page * page;
}

/* Zeros; of huge pages if it is large: a walk touches memory all over the place. */
static uint8_t *map_memory(size_t bytes)
{
    size_t size = mapped_bytes(bytes);
    size_t align = size < HUGE_PAGE ? 0 : HUGE_PAGE;
    uint8_t *all = mmap(NULL, size + align, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (all == MAP_FAILED) return NULL;
    if (!align) return all;
    size_t before = (align - (uintptr_t)all % align) % align;
    if (before) munmap(all, before);
    if (align - before) munmap(all + before + size, align - before);
    madvise(all + before, size, MADV_HUGEPAGE);
    return all + before;
}

static void release_memory(struct graph_arena *a)
{
    size_t *bytes = a->owner;
    if (a->cells) munmap(a->cells, mapped_bytes(bytes[0]));
    if (a->nodes) munmap(a->nodes, mapped_bytes(bytes[1]));
    mem_free(bytes);
    mem_free(a);
}

static size_t factors_bytes(uint32_t capacity)
{
    return mapped_bytes((size_t)capacity * sizeof(struct code_factors));
}

static void retire_arena(void *p)
{
    struct graph_arena *a = p;
    mem_free((void *)a->dirty_cells);
    mem_free((void *)a->dirty_links);
    if (a->factors) munmap(a->factors, factors_bytes(a->capacity));
    a->release(a);
}

void graph_arena_free(struct graph_arena *arena)
{
    retire_arena(arena);
}

struct graph_arena *graph_arena_new(const struct graph *g, uint32_t capacity)
{
    struct graph_arena *a = mem_new(struct graph_arena);
    size_t *bytes = mem_zalloc(2 * sizeof *bytes);
    bytes[0] = (size_t)capacity * g->codec.cell_bytes;
    bytes[1] = (size_t)capacity * g->link_bytes;
    *a = (struct graph_arena){.cells = map_memory(bytes[0]),
                              .nodes = map_memory(bytes[1]),
                              .capacity = capacity,
                              .release = release_memory,
                              .owner = bytes};
    a->factors = (struct code_factors *)(void *)map_memory((size_t)capacity * sizeof *a->factors);
    if (a->cells && a->nodes && a->factors) return a;
    if (a->factors) munmap(a->factors, factors_bytes(capacity));
    release_memory(a);
    return NULL;
}

static void set_factors(const struct graph *g, struct graph_arena *a, uint32_t node)
{
    const struct code_tail *tail = codec_tail(&g->codec, graph_cell(g, a, node));
    a->factors[node] = (struct code_factors){tail->scale, tail->norm2};
}

enum err_code graph_set_arena(struct graph *g, struct graph_arena *arena, struct err *err)
{
    struct graph_arena *old = graph_arena(g);
    if (arena->capacity > GRAPH_NODES_MAX) {
        retire_arena(arena);
        return err_set(err, ERR_NOMEM, "a graph has at most %d rows", GRAPH_NODES_MAX);
    }
    size_t words = dirty_words(arena->capacity);
    arena->dirty_cells = mem_try(words * sizeof *arena->dirty_cells);
    arena->dirty_links = mem_try(words * sizeof *arena->dirty_links);
    if (!arena->dirty_cells || !arena->dirty_links) {
        retire_arena(arena);
        return err_set(err, ERR_NOMEM, "out of memory for a graph of %u rows", arena->capacity);
    }
    size_t kept = old ? dirty_words(old->capacity) : 0;
    for (size_t i = 0; i < words; i++) {
        uint64_t cells = i < kept ? atomic_load(&old->dirty_cells[i]) : 0;
        uint64_t links = i < kept ? atomic_load(&old->dirty_links[i]) : 0;
        atomic_init(&arena->dirty_cells[i], cells);
        atomic_init(&arena->dirty_links[i], links);
    }
    uint32_t used = atomic_load_explicit(&g->node_count, memory_order_relaxed);
    for (uint32_t i = 0; arena->factors && i < used && i < arena->capacity; i++)
        set_factors(g, arena, i);
    /* Pairs with graph_arena(). */
    atomic_store_explicit(&g->arena, arena, memory_order_release);
    if (old) epoch_retire(retire_arena, old);
    return ERR_OK;
}

/* A node that somebody may be copying at the same time: its lock stays behind. */
static void move_node(const struct graph *g, struct graph_node *to, struct graph_node *from)
{
    uint32_t head = atomic_load_explicit(&from->head, memory_order_relaxed);
    for (uint32_t i = 0; i < (head & NODE_DEGREE) && i < g->degree; i++)
        atomic_init(&to->links[i], atomic_load_explicit(&from->links[i], memory_order_relaxed));
    atomic_init(&to->head, head & ~(uint32_t)NODE_LOCKED);
}

enum err_code graph_reserve(struct graph *g, uint32_t nodes, struct err *err)
{
    struct graph_arena *old = graph_arena(g);
    if (old && nodes <= old->capacity) return ERR_OK;
    if (nodes > GRAPH_NODES_MAX)
        return err_set(err, ERR_NOMEM, "a graph has at most %d rows", GRAPH_NODES_MAX);
    /* Memory that is not touched costs nothing, as a rule. */
    uint64_t capacity = old ? 2 * (uint64_t)old->capacity : 0;
    if (capacity < nodes) capacity = nodes;
    if (capacity < 4096) capacity = 4096;
    if (capacity > GRAPH_NODES_MAX) capacity = GRAPH_NODES_MAX;
    struct graph_arena *a = graph_arena_new(g, (uint32_t)capacity);
    if (!a && nodes < capacity) a = graph_arena_new(g, nodes);
    if (!a) return err_set(err, ERR_NOMEM, "out of memory for a graph of %u rows", nodes);
    if (old) {
        uint32_t used = atomic_load_explicit(&g->node_count, memory_order_relaxed);
        if (used > old->capacity) used = old->capacity;
        memcpy(a->cells, old->cells, (size_t)used * g->codec.cell_bytes);
        for (uint32_t i = 0; i < used; i++)
            move_node(g, graph_node(g, a, i), graph_node(g, old, i));
    }
    return graph_set_arena(g, a, err);
}

/* ---- the graph ---- */

static uint32_t random_seed(void)
{
    uint32_t seed = 0;
    while (seed == 0)
        if (getrandom(&seed, sizeof seed, 0) != sizeof seed) seed = (uint32_t)clock_ns() | 1;
    return seed;
}

enum err_code graph_new(enum metric metric, uint32_t dimension, const struct graph_options *options,
                        struct graph **out, struct err *err)
{
    struct graph *g = mem_new(struct graph);
    uint32_t m = options->m ? options->m : M_DEFAULT;
    enum err_code rc =
        codec_init(&g->codec, options->codec, metric, dimension, options->gain, options->mean, err);
    if (rc) {
        mem_free(g);
        return rc;
    }
    size_t bytes = sizeof(struct graph_node) + (2 * (size_t)m - 2) * sizeof(uint32_t);
    bytes = (bytes + LINE - 1) / LINE * LINE;
    uint32_t degree = (uint32_t)((bytes - sizeof(struct graph_node)) / sizeof(uint32_t));
    g->link_bytes = (uint32_t)bytes;
    g->degree = degree < DEGREE_MAX ? degree : DEGREE_MAX;
    g->ef_construction =
        options->ef_construction ? options->ef_construction : EF_CONSTRUCTION_DEFAULT;
    g->codec.seed = options->seed ? options->seed : random_seed();
    *out = g;
    return ERR_OK;
}

static void free_pivots(void *p)
{
    struct graph_pivots *pivots = p;
    if (!pivots) return;
    mem_free(pivots->nodes);
    mem_free(pivots->cells);
    mem_free(pivots);
}

void graph_free(struct graph *g)
{
    if (!g) return;
    struct graph_arena *a = graph_arena(g);
    if (a) retire_arena(a);
    free_pivots(graph_pivots(g));
    codec_deinit(&g->codec);
    mem_free(g);
}

uint64_t graph_memory(const struct graph *g)
{
    const struct graph_pivots *pivots = graph_pivots(g);
    uint64_t nodes = atomic_load_explicit(&g->node_count, memory_order_relaxed);
    return nodes * (g->codec.cell_bytes + g->link_bytes + sizeof(struct code_factors)) +
           (pivots ? (uint64_t)pivots->count * g->codec.cell_bytes : 0);
}

/* ---- nodes ---- */

void graph_mark_dirty(_Atomic uint64_t *bits, uint32_t node)
{
    uint32_t group = node / GRAPH_GROUP_NODES;
    uint64_t bit = (uint64_t)1 << group % 64;
    /* Even if it seems to be set: it may just be taken, by somebody who does not see the change. */
    atomic_fetch_or_explicit(&bits[group / 64], bit, memory_order_release);
}

/* A lock that nobody gives back lies in a damaged file that was mapped.  To take it is no harm even
 * if somebody was only slow: what two linkers then store are links, and links are hints. */
void graph_lock_node(struct graph_node *node)
{
    enum { SPINS = 128 };
    const uint64_t patience_ns = 20 * 1000 * 1000;
    uint64_t until = 0;
    for (int tries = 1;; tries++) {
        uint32_t head = atomic_load_explicit(&node->head, memory_order_relaxed);
        if ((!(head & NODE_LOCKED) || (until && clock_ns() > until)) &&
            atomic_compare_exchange_weak_explicit(&node->head, &head, head | NODE_LOCKED,
                                                  memory_order_acquire, memory_order_relaxed))
            return;
        if (tries % SPINS) continue;
        /* Whoever has it may have lost its processor. */
        if (!until) until = clock_ns() + patience_ns;
        sched_yield();
    }
}

void graph_unlock_node(struct graph_node *node)
{
    uint32_t head = atomic_load_explicit(&node->head, memory_order_relaxed);
    atomic_store_explicit(&node->head, head & ~(uint32_t)NODE_LOCKED, memory_order_release);
}

void graph_store_links(struct graph_arena *a, struct graph_node *node, uint32_t number,
                       const uint32_t *links, uint32_t count, uint32_t flags)
{
    for (uint32_t i = 0; i < count; i++)
        atomic_store_explicit(&node->links[i], links[i], memory_order_release);
    graph_mark_dirty(a->dirty_links, number);
    atomic_store_explicit(&node->head, count | flags, memory_order_release);
}

bool graph_encode(struct graph *g, uint32_t node, const float *row, uint32_t generation)
{
    struct graph_arena *a = graph_arena(g);
    assert(a && node < a->capacity);
    struct graph_scratch *s = graph_scratch(g, a, 1);
    if (!s || !codec_encode(&g->codec, node, row, generation, graph_cell(g, a, node), s->numbers))
        return false;
    if (a->factors) set_factors(g, a, node);
    graph_mark_dirty(a->dirty_cells, node);
    uint32_t count = atomic_load_explicit(&g->node_count, memory_order_relaxed);
    while (count <= node &&
           !atomic_compare_exchange_weak_explicit(&g->node_count, &count, node + 1,
                                                  memory_order_release, memory_order_relaxed))
        ;
    return true;
}

void graph_forget(struct graph *g, uint32_t node)
{
    struct graph_arena *a = graph_arena(g);
    struct graph_node *n = graph_node(g, a, node);
    if (a->unchecked) { /* its lock may be anything */
        atomic_store_explicit(&n->head, 0, memory_order_release);
        return;
    }
    graph_lock_node(n);
    bool was_linked = atomic_load_explicit(&n->head, memory_order_relaxed) & NODE_LINKED;
    graph_store_links(a, n, node, NULL, 0, 0);
    if (was_linked) atomic_fetch_sub_explicit(&g->linked_count, 1, memory_order_relaxed);
}

/* ---- copies for a file ---- */

static uint32_t node_check(const struct graph *g, uint32_t node, uint32_t generation,
                           const struct graph_node *copy)
{
    uint32_t words[4] = {
        g->codec.seed, node, generation,
        atomic_load_explicit(&((struct graph_node *)(uintptr_t)copy)->head, memory_order_relaxed)};
    uint32_t crc = crc32c(0, words, sizeof words);
    return crc32c(crc, (const uint8_t *)copy + sizeof *copy, g->link_bytes - sizeof *copy);
}

void graph_copy_node(struct graph *g, uint32_t node, uint32_t generation, void *copy)
{
    struct graph_node *n = graph_node(g, graph_arena(g), node), *to = copy;
    memset(copy, 0, g->link_bytes);
    graph_lock_node(n);
    uint32_t head = atomic_load_explicit(&n->head, memory_order_relaxed);
    uint32_t degree = head & NODE_DEGREE;
    for (uint32_t i = 0; i < degree && i < g->degree; i++)
        atomic_store_explicit(&to->links[i],
                              atomic_load_explicit(&n->links[i], memory_order_relaxed),
                              memory_order_relaxed);
    graph_unlock_node(n);
    atomic_store_explicit(&to->head, head & ~(uint32_t)NODE_LOCKED, memory_order_relaxed);
    to->check = node_check(g, node, generation, to);
}

void graph_seal_node(const struct graph *g, uint32_t node, uint32_t generation, void *copy)
{
    struct graph_node *n = copy;
    n->check = node_check(g, node, generation, n);
}

bool graph_node_is_good(const struct graph *g, uint32_t node, uint32_t generation, const void *copy)
{
    const struct graph_node *n = copy;
    uint32_t head =
        atomic_load_explicit(&((struct graph_node *)(uintptr_t)n)->head, memory_order_relaxed);
    uint32_t degree = head & NODE_DEGREE;
    return degree <= g->degree && !(head & ~(uint32_t)(NODE_DEGREE | NODE_LINKED | NODE_TWIN)) &&
           (degree > 0 || !(head & NODE_TWIN)) && n->check == node_check(g, node, generation, n);
}

/* ---- pivots ---- */

static void publish_pivots(struct graph *g, struct graph_pivots *pivots)
{
    /* Pairs with graph_pivots(). */
    struct graph_pivots *old = atomic_exchange_explicit(&g->pivots, pivots, memory_order_acq_rel);
    if (old) epoch_retire(free_pivots, old);
}

static uint32_t pivots_wanted(const struct graph *g)
{
    uint32_t linked = atomic_load_explicit(&g->linked_count, memory_order_relaxed);
    /* Half as many do where rows lie evenly; clusters far apart want one each. */
    uint32_t wanted = (uint32_t)sqrt((double)linked);
    if (wanted < PIVOTS_MIN) wanted = PIVOTS_MIN;
    if (wanted > PIVOTS_MAX) wanted = PIVOTS_MAX;
    return wanted < linked ? wanted : linked;
}

bool graph_wants_pivots(const struct graph *g)
{
    const struct graph_pivots *pivots = graph_pivots(g);
    uint32_t wanted = pivots_wanted(g);
    uint32_t linked = atomic_load_explicit(&g->linked_count, memory_order_relaxed);
    if (!pivots) return linked > 0;
    return pivots->count < wanted && linked > (uint64_t)pivots->chosen_at + pivots->chosen_at / 4;
}

static uint64_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

static void set_pivot(struct graph *g, const struct graph_arena *a, struct graph_pivots *p,
                      uint32_t node)
{
    memcpy(p->cells + (size_t)p->count * g->codec.cell_bytes, graph_cell(g, a, node),
           g->codec.cell_bytes);
    p->nodes[p->count++] = node;
}

/* NULL: out of memory. */
static struct graph_pivots *pivots_new(struct graph *g, const uint32_t *nodes, uint32_t count)
{
    const struct graph_arena *a = graph_arena(g);
    struct graph_pivots *p = mem_new(struct graph_pivots);
    p->chosen_at = atomic_load_explicit(&g->linked_count, memory_order_relaxed);
    p->nodes = mem_try(count * sizeof *p->nodes);
    p->cells = mem_try_aligned((size_t)count * g->codec.cell_bytes);
    if (!p->nodes || !p->cells) {
        free_pivots(p);
        return NULL;
    }
    for (uint32_t i = 0; a && i < count; i++) {
        if (nodes[i] < a->capacity) set_pivot(g, a, p, nodes[i]);
    }
    return p;
}

void graph_set_pivots(struct graph *g, const uint32_t *nodes, uint32_t count)
{
    struct graph_pivots *p = pivots_new(g, nodes, count);
    if (!p) return; /* the old ones do, too */
    if (p->count == 0) {
        free_pivots(p);
        p = NULL;
    }
    publish_pivots(g, p);
}

enum graph_entry graph_enter_first(struct graph *g, struct graph_arena *a, uint32_t node)
{
    if (graph_pivots(g)) return ENTRY_THERE_IS;
    struct graph_pivots *p = pivots_new(g, &node, 1), *none = NULL;
    if (!p) return ENTRY_NO_MEMORY;
    struct graph_node *n = graph_node(g, a, node);
    uint32_t was = atomic_load_explicit(&n->head, memory_order_relaxed);
    /* Before anybody comes this way. */
    if (!(was & NODE_LINKED)) graph_store_links(a, n, node, NULL, 0, NODE_LINKED);
    /* Pairs with graph_pivots(). */
    bool first = atomic_compare_exchange_strong_explicit(&g->pivots, &none, p, memory_order_acq_rel,
                                                         memory_order_acquire);
    if (!first) {
        if (!(was & NODE_LINKED)) graph_store_links(a, n, node, NULL, 0, 0);
        free_pivots(p);
        return ENTRY_THERE_IS;
    }
    graph_mark_dirty(a->dirty_cells, node);
    if (!(was & NODE_LINKED)) atomic_fetch_add_explicit(&g->linked_count, 1, memory_order_relaxed);
    return ENTRY_IS_FIRST;
}

/* One of each of as many stretches of nodes: a sample without repetition. */
void graph_choose_pivots(struct graph *g, const uint64_t *live, const uint32_t *extra,
                         uint32_t extra_count)
{
    enum { TRIES = 64 };
    const struct graph_arena *a = graph_arena(g);
    uint32_t nodes = atomic_load_explicit(&g->node_count, memory_order_acquire);
    uint32_t wanted = pivots_wanted(g), count = 0;
    if (!a || nodes == 0) return;
    if (nodes > a->capacity) nodes = a->capacity;
    uint32_t *chosen = mem_try(((size_t)wanted + extra_count + 1) * sizeof *chosen);
    if (!chosen) return;
    uint64_t random = nodes;
    for (uint32_t i = 0; i < wanted; i++) {
        uint32_t first = (uint32_t)((uint64_t)nodes * i / wanted);
        uint32_t end = (uint32_t)((uint64_t)nodes * (i + 1) / wanted);
        for (uint32_t t = 0; t < TRIES && end > first; t++) {
            uint32_t node = first + (uint32_t)(next_random(&random) % (end - first));
            if (!graph_is_linked(g, a, node) || (live && !bits_has(live, node))) continue;
            chosen[count++] = node;
            break;
        }
    }
    for (uint32_t i = 0; i < extra_count; i++)
        chosen[count++] = extra[i];
    /* Few live ones among many dead: any of them will do. */
    for (uint32_t node = 0; node < nodes && count == 0; node++) {
        if (graph_is_linked(g, a, node) && (!live || bits_has(live, node))) chosen[count++] = node;
    }
    graph_set_pivots(g, chosen, count);
    mem_free(chosen);
}

/* ---- scratch ---- */

static pthread_key_t scratch_key;
static pthread_once_t scratch_once = PTHREAD_ONCE_INIT;
static _Thread_local struct graph_scratch *own;

static void scratch_free(void *p)
{
    struct graph_scratch *s = p;
    mem_free(s->visited);
    mem_free(s->pool_distances);
    mem_free(s->results_distances);
    mem_free(s->pool_ids);
    mem_free(s->results_ids);
    mem_free(s->code);
    mem_free(s->other_code);
    mem_free(s->numbers);
    mem_free(s);
    own = NULL;
}

static void scratch_make_key(void)
{
    int failed = pthread_key_create(&scratch_key, scratch_free);
    assert(!failed);
    (void)failed;
}

static bool have_visited(struct graph_scratch *s, uint32_t nodes)
{
    if (s->visited_nodes < nodes) {
        mem_free(s->visited);
        s->visited_nodes = 0;
        s->visited = mem_try((size_t)nodes * sizeof *s->visited);
        if (!s->visited) return false;
        s->visited_nodes = nodes;
        s->visit = UINT16_MAX;
    }
    if (s->visit == UINT16_MAX) {
        memset(s->visited, 0, (size_t)s->visited_nodes * sizeof *s->visited);
        s->visit = 0;
    }
    s->visit++;
    return true;
}

static bool have_pools(struct graph_scratch *s, uint32_t ef)
{
    if (s->room >= ef) return true;
    uint32_t room = ef < 1024 ? 1024 : ef;
    size_t entries = (size_t)room + POOL_PADDING;
    mem_free(s->pool_distances);
    mem_free(s->results_distances);
    mem_free(s->pool_ids);
    mem_free(s->results_ids);
    s->room = 0;
    s->pool_distances = mem_try_aligned(entries * sizeof(float));
    s->results_distances = mem_try_aligned(entries * sizeof(float));
    s->pool_ids = mem_try_aligned(entries * sizeof(uint32_t));
    s->results_ids = mem_try_aligned(entries * sizeof(uint32_t));
    if (!s->pool_distances || !s->results_distances || !s->pool_ids || !s->results_ids)
        return false;
    s->room = room;
    pool_init(&s->pool, s->pool_distances, s->pool_ids, room);
    pool_init(&s->results, s->results_distances, s->results_ids, room);
    return true;
}

static bool have_numbers(struct graph_scratch *s, size_t bytes)
{
    if (s->numbers_bytes >= bytes) return true;
    mem_free(s->code);
    mem_free(s->other_code);
    mem_free(s->numbers);
    s->numbers_bytes = 0;
    s->code = mem_try_aligned(bytes);
    s->other_code = mem_try_aligned(bytes);
    s->numbers = mem_try_aligned(bytes);
    if (!s->code || !s->other_code || !s->numbers) return false;
    s->numbers_bytes = bytes;
    return true;
}

struct graph_scratch *graph_scratch(const struct graph *g, const struct graph_arena *a, uint32_t ef)
{
    if (!own) {
        pthread_once(&scratch_once, scratch_make_key);
        own = mem_new(struct graph_scratch);
        pthread_setspecific(scratch_key, own);
    }
    struct graph_scratch *s = own;
    if (!have_visited(s, a->capacity) || !have_pools(s, ef) ||
        !have_numbers(s, codec_scratch_bytes(&g->codec)))
        return NULL;
    pool_clear(&s->pool);
    pool_clear(&s->results);
    s->pool.limit = s->results.limit = ef;
    s->visited_count = s->distances_computed = 0;
    return s;
}

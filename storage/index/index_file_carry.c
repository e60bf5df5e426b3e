/*
 * index_file_carry.c - the graph of a database for its compacted copy.
 *
 * Slots get other numbers, rows stay what they are: codes are copied and links translated, which is
 * a hundred times faster than linking.  Links to dead rows are swept first, so that few are
 * missing; a row that is left with less than half of its links is linked again, and so is what was
 * not linked in the old graph.
 */
#include <stdlib.h>
#include <string.h>

#include "storage/base/clock.h"
#include "storage/base/epoch.h"
#include "storage/base/log.h"
#include "storage/base/mem.h"
#include "storage/index/index_file_private.h"

enum {
    SLICE_NODES = 1024,
    SWEPT_NODES = 16384, /* under the lock at a time, or ...           */
    TURNS_MAX = 16,      /* ... more: each turn looks for the dead anew */
    DEAD_ONE_IN = 200,   /* fewer dead rows are not worth looking for */
};

struct carry {
    struct database *db;
    struct store *copy;
    const uint32_t *moved;
    uint32_t moved_count;
    struct graph *from, *to;
    struct graph_arena *a; /* of the new graph, until it is given to it */
    uint32_t from_count;   /* nodes of the old graph that there is a place for */
    uint32_t slot_count;   /* of the copy                                      */
    uint64_t *linked;      /* a bit for each slot of the copy                  */
    uint32_t linked_count;
    bool (*go_on)(void *ctx);
    void *ctx;
};

static enum err_code check_go_on(const struct carry *c, struct err *err)
{
    if (!c->go_on || c->go_on(c->ctx)) return ERR_OK;
    return err_set(err, ERR_SHUTTING_DOWN, "the carrying over of a search index was interrupted");
}

static enum err_code out_of_memory(const struct carry *c, struct err *err)
{
    return err_set(err, ERR_NOMEM, "out of memory for the search index of \"%s\"", c->db->name);
}

/* The new slot of an old one. */
static uint32_t moved_to(const struct carry *c, uint32_t slot)
{
    return slot < c->moved_count ? c->moved[slot] : INDEX_NO_SLOT;
}

/* ---- the old graph ---- */

/* A bit for each node of a dead row; NULL: out of memory. */
static uint64_t *find_dead(struct store *store, struct graph *g, uint32_t nodes, uint32_t *count)
{
    const struct graph_arena *a = index_arena(g);
    uint64_t *dead = bits_new(a->capacity);
    *count = 0;
    epoch_enter();
    for (uint32_t n = 0; dead && n < nodes; n++) {
        if (!index_is_linked(graph_node(g, a, n))) continue;
        const struct slot *s = jvdb_file_read(&store->file, REGION_SLOTS, n);
        if (!s || __atomic_load_n(&s->death, __ATOMIC_ACQUIRE) == SLOT_NEVER) continue;
        bits_add(dead, n);
        ++*count;
    }
    epoch_leave();
    return dead;
}

/* Some nodes from *next on, under the lock.  Slots of dead rows are not used again meanwhile. */
static enum err_code sweep_some(struct store *store, uint32_t *next, bool *done, struct err *err)
{
    struct graph *g = index_current_graph(store->vectors);
    uint32_t nodes = g ? atomic_load_explicit(&g->node_count, memory_order_relaxed) : 0;
    uint32_t linked = g ? atomic_load_explicit(&g->linked_count, memory_order_relaxed) : 0, count;
    *done = *next >= nodes;
    if (*done) return ERR_OK;
    uint64_t *dead = find_dead(store, g, nodes, &count);
    if (!dead) return err_set(err, ERR_NOMEM, "out of memory for a sweep");
    *done = count <= linked / DEAD_ONE_IN;
    uint32_t most = nodes / TURNS_MAX > SWEPT_NODES ? nodes / TURNS_MAX : SWEPT_NODES;
    for (uint32_t i = 0; i < most && *next < nodes && !*done; i += SLICE_NODES) {
        uint32_t end = nodes - *next < SLICE_NODES ? nodes : *next + SLICE_NODES;
        graph_sweep(g, dead, *next, end, false);
        *next = end;
    }
    mem_free(dead);
    return ERR_OK;
}

enum err_code index_file_sweep(struct database *db, bool (*go_on)(void *ctx), void *ctx,
                               struct err *err)
{
    struct store *store = db->store;
    enum err_code rc = ERR_OK;
    bool done = false;
    for (uint32_t next = 0; !done && !rc;) {
        mutex_lock(vector_index_mutex(store->vectors));
        rc = index_file_load(db, NULL, NULL, err);
        if (!rc) rc = sweep_some(store, &next, &done, err);
        mutex_unlock(vector_index_mutex(store->vectors));
        if (!rc && go_on && !go_on(ctx))
            rc = err_set(err, ERR_SHUTTING_DOWN, "a sweep was interrupted");
    }
    return rc;
}

static struct graph_node *old_node(const struct carry *c, uint32_t node)
{
    return graph_node(c->from, index_arena(c->from), node);
}

/* ---- the new one ---- */

static enum err_code make_graph(struct carry *c, struct err *err)
{
    const struct graph *g = c->from;
    const struct graph_options options = {.codec = g->codec.kind,
                                          .m = g->degree / 2 + 1,
                                          .ef_construction = g->ef_construction,
                                          .gain = g->codec.gain,
                                          .mean = g->codec.mean};
    uint32_t spare = c->slot_count / 4;
    uint32_t room = c->slot_count < UINT32_MAX - 1 - spare ? c->slot_count + spare : UINT32_MAX - 1;
    enum err_code rc = graph_new(g->codec.metric, g->codec.dimension, &options, &c->to, err);
    if (rc) return rc;
    atomic_store(c->to->codec.reach2, atomic_load(g->codec.reach2));
    c->a = graph_arena_new(c->to, room ? room : 1);
    c->linked = bits_new(c->slot_count);
    return c->a && c->linked ? ERR_OK : out_of_memory(c, err);
}

/* A node's links in numbers of the copy, INDEX_NO_SLOT where there is no such row; returns head. */
static uint32_t translate(const struct carry *c, uint32_t node, uint32_t links[NODE_DEGREE])
{
    struct graph_node *n = old_node(c, node);
    uint32_t head = atomic_load_explicit(&n->head, memory_order_acquire);
    for (uint32_t i = 0; i < (head & NODE_DEGREE); i++) {
        uint32_t to = moved_to(c, atomic_load_explicit(&n->links[i], memory_order_relaxed));
        links[i] = to < c->slot_count ? to : INDEX_NO_SLOT;
    }
    return head;
}

/* Does a row come over as it is linked? */
static bool stays_linked(const struct carry *c, uint32_t node, uint32_t slot)
{
    uint32_t links[NODE_DEGREE], kept = 0;
    const struct slot *s = jvdb_file_read(&c->copy->file, REGION_SLOTS, slot);
    if (!s || s->death != SLOT_NEVER || !index_is_linked(old_node(c, node))) return false;
    uint32_t degree = translate(c, node, links) & NODE_DEGREE;
    for (uint32_t i = 0; i < degree; i++)
        kept += links[i] != INDEX_NO_SLOT;
    return 2 * kept >= degree;
}

static void copy_node(struct carry *c, uint32_t node, uint32_t slot)
{
    uint32_t links[NODE_DEGREE], kept = 0;
    const struct slot *s = jvdb_file_read(&c->copy->file, REGION_SLOTS, slot);
    uint8_t *cell = graph_cell(c->to, c->a, slot);
    memcpy(cell, graph_cell(c->from, index_arena(c->from), node), c->to->codec.cell_bytes);
    codec_move_cell(&c->to->codec, slot, s->generation, cell);
    struct graph_node *n = graph_node(c->to, c->a, slot);
    uint32_t head = translate(c, node, links), twin = head & NODE_TWIN;
    for (uint32_t i = 0; i < (head & NODE_DEGREE); i++) {
        if (links[i] != INDEX_NO_SLOT && bits_has(c->linked, links[i]))
            atomic_store_explicit(&n->links[kept++], links[i], memory_order_relaxed);
        else if (i == 0)
            twin = 0; /* the ring ends here */
    }
    atomic_store_explicit(&n->head, kept | NODE_LINKED | twin, memory_order_relaxed);
}

/* Nodes in the order of the old graph; the copy has its rows in the same order, about. */
static enum err_code copy_nodes(struct carry *c, struct err *err)
{
    enum err_code rc = ERR_OK;
    for (uint32_t n = 0; n < c->from_count && !rc; n++) {
        uint32_t slot = moved_to(c, n);
        if (n % SLICE_NODES == 0) rc = check_go_on(c, err);
        if (slot >= c->slot_count || !stays_linked(c, n, slot)) continue;
        bits_add(c->linked, slot);
        c->linked_count++;
    }
    for (uint32_t n = 0; n < c->from_count && !rc; n++) {
        uint32_t slot = moved_to(c, n);
        if (n % SLICE_NODES == 0) rc = check_go_on(c, err);
        if (slot < c->slot_count && bits_has(c->linked, slot)) copy_node(c, n, slot);
    }
    return rc;
}

static void mark_all_dirty(struct graph_arena *a, uint32_t nodes)
{
    for (uint32_t group = 0; group <= nodes / GRAPH_GROUP_NODES; group++) {
        atomic_fetch_or(&a->dirty_cells[group / 64], UINT64_C(1) << group % 64);
        atomic_fetch_or(&a->dirty_links[group / 64], UINT64_C(1) << group % 64);
    }
}

/* Old nodes that are linked in the copy, in the numbers of the copy. */
static uint32_t translate_nodes(const struct carry *c, const uint32_t *nodes, size_t count,
                                uint32_t *out)
{
    uint32_t kept = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t slot = moved_to(c, nodes[i]);
        if (slot < c->slot_count && bits_has(c->linked, slot)) out[kept++] = slot;
    }
    return kept;
}

static void carry_pivots(struct carry *c, const uint32_t *extra, uint32_t extra_count)
{
    const struct graph_pivots *old = atomic_load_explicit(&c->from->pivots, memory_order_relaxed);
    uint32_t count = old ? old->count : 0;
    uint32_t *nodes = mem_zalloc((count + 1) * sizeof *nodes);
    uint32_t kept = count ? translate_nodes(c, old->nodes, count, nodes) : 0;
    if (kept && 2 * kept >= count)
        graph_set_pivots(c->to, nodes, kept);
    else
        graph_choose_pivots(c->to, NULL, extra, extra_count);
    mem_free(nodes);
}

/* ---- what is beside the graph ---- */

/* Rows that live in the copy and are neither linked nor aside; takes the aside from their bits. */
static enum err_code find_pending(struct carry *c, const uint64_t *aside,
                                  struct vector_index_state *state, struct err *err)
{
    uint32_t most = c->slot_count - c->linked_count;
    state->pending = mem_try(((size_t)most + 1) * sizeof *state->pending);
    if (!state->pending) return out_of_memory(c, err);
    for (uint32_t slot = 0; slot < c->slot_count; slot++) {
        if (bits_has(c->linked, slot) || bits_has(aside, slot)) continue;
        const struct slot *s = jvdb_file_read(&c->copy->file, REGION_SLOTS, slot);
        if (!s) return database_damaged(c->db, "a slot", err);
        if (s->death == SLOT_NEVER) state->pending[state->pending_count++] = slot;
    }
    return ERR_OK;
}

/* `state` is that of the old index; it becomes that of the new one. */
static enum err_code carry_state(struct carry *c, struct vector_index_state *state, struct err *err)
{
    size_t aside_count = 0;
    uint64_t *aside = bits_new(c->slot_count);
    if (!aside) return out_of_memory(c, err);
    for (size_t i = 0; i < state->aside_count; i++) {
        uint32_t slot = moved_to(c, state->aside[i]);
        if (slot >= c->slot_count || bits_has(c->linked, slot)) continue;
        state->aside[aside_count++] = slot;
        bits_add(aside, slot);
    }
    state->aside_count = aside_count;
    state->extra_pivot_count =
        translate_nodes(c, state->extra_pivots, state->extra_pivot_count, state->extra_pivots);
    mem_free(state->pending);
    state->pending = NULL;
    state->pending_count = 0;
    state->reuse_lsn = 0; /* until the first sweep */
    enum err_code rc = find_pending(c, aside, state, err);
    mem_free(aside);
    return rc;
}

/* ---- all ---- */

static enum err_code carry(struct carry *c, struct vector_index_state *state, struct err *err)
{
    enum err_code rc = make_graph(c, err);
    if (!rc) rc = copy_nodes(c, err);
    if (!rc) rc = carry_state(c, state, err);
    if (rc) return rc;
    struct graph_arena *a = c->a;
    c->a = NULL;
    atomic_store(&c->to->node_count, c->slot_count);
    atomic_store(&c->to->linked_count, c->linked_count);
    rc = graph_set_arena(c->to, a, err);
    if (rc) return rc;
    mark_all_dirty(a, c->slot_count);
    carry_pivots(c, state->extra_pivots, (uint32_t)state->extra_pivot_count);
    state->graph = c->to;
    c->to = NULL;
    return ERR_OK;
}

enum err_code index_file_carry(struct database *db, struct store *copy, const uint32_t *moved,
                               uint32_t moved_count, bool (*go_on)(void *ctx), void *ctx,
                               struct err *err)
{
    struct vector_index *ix = db->store->vectors;
    struct vector_index_state state = {0};
    uint64_t begun = clock_ns();
    mutex_assert_held(vector_index_mutex(ix));
    enum err_code rc = index_file_load(db, go_on, ctx, err);
    struct graph *g = index_current_graph(ix);
    if (rc || !g) return rc;
    mutex_lock(&db->writer);
    rc = vector_index_export(ix, &state, err);
    mutex_unlock(&db->writer);
    if (rc) return rc;

    struct carry c = {.db = db,
                      .copy = copy,
                      .moved = moved,
                      .moved_count = moved_count,
                      .from = g,
                      .slot_count = copy->counts.slot_count,
                      .go_on = go_on,
                      .ctx = ctx};
    c.from_count = atomic_load_explicit(&g->node_count, memory_order_relaxed);
    if (c.from_count > moved_count) c.from_count = moved_count;
    rc = carry(&c, &state, err);
    if (!rc) {
        vector_index_adopt(copy->vectors, &state, db->store->file.checkpoint_lsn, c.slot_count);
        log_debug("database \"%s\": carried over a search index, %u rows linked and %zu pending, "
                  "in %.1f ms",
                  db->name, c.linked_count, state.pending_count,
                  (double)(clock_ns() - begun) / 1e6);
    }
    if (c.a) graph_arena_free(c.a);
    graph_free(c.to);
    mem_free(c.linked);
    vector_index_state_deinit(&state);
    return rc;
}

/*
 * index_file_load.c - from the file to memory, every checksum compared on the way.
 *
 * WHO IS LINKED.  A row that lived at the checkpoint and was neither pending nor aside should be;
 * later rows are pending, whatever the file has of them.  A dead row stays, to be walked over,
 * until it is swept.  Links to what is not linked are taken out: it may be linked later, and is
 * encoded then, when nobody must be able to walk over it.
 *
 * While the owner does this, slots of such rows are not used again: their generations stand still.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "storage/base/clock.h"
#include "storage/base/epoch.h"
#include "storage/base/log.h"
#include "storage/base/mem.h"
#include "storage/index/index_file_private.h"

enum {
    SLICE_NODES = 4096, /* checked, or made pending, at a time */
    /* More bad rows than this, and more than one in so many: not worth mending. */
    BAD_MAX = 64,
    BAD_ONE_IN = 32,
};

struct load {
    struct database *db;
    struct store *store;
    struct graph *g;
    const struct index_mapping *m;
    struct graph_arena *a; /* the new one */
    uint32_t node_count, linked_count;
    uint64_t expected;       /* rows that should be linked                  */
    uint64_t *linked;        /* a bit for each node that is                 */
    uint64_t *changed_cells; /* a bit for each group, to be written out ... */
    uint64_t *changed_links; /* ... again                                   */
    uint32_t *again;         /* slots of rows that become pending           */
    size_t again_count, again_cap;
    uint64_t bad_codes;
    void *scratch; /* for the codec */
    bool (*go_on)(void *ctx);
    void *ctx;
};

static enum err_code check_go_on(const struct load *l, struct err *err)
{
    if (!l->go_on || l->go_on(l->ctx)) return ERR_OK;
    return err_set(err, ERR_SHUTTING_DOWN, "the loading of a search index was interrupted");
}

static enum err_code out_of_memory(const struct load *l, struct err *err)
{
    return err_set(err, ERR_NOMEM, "out of memory for the search index of \"%s\"", l->db->name);
}

static enum err_code load_init(struct load *l, struct err *err)
{
    l->node_count = atomic_load_explicit(&l->g->node_count, memory_order_relaxed);
    l->a = graph_arena_new(l->g, index_arena(l->g)->capacity);
    l->linked = bits_new(l->node_count);
    l->changed_cells = bits_new(l->node_count / GRAPH_GROUP_NODES);
    l->changed_links = bits_new(l->node_count / GRAPH_GROUP_NODES);
    l->scratch = mem_try_aligned(codec_scratch_bytes(&l->g->codec));
    bool good = l->a && l->linked && l->changed_cells && l->changed_links && l->scratch;
    return good ? ERR_OK : out_of_memory(l, err);
}

static void load_deinit(struct load *l)
{
    if (l->a) graph_arena_free(l->a);
    mem_free(l->linked);
    mem_free(l->changed_cells);
    mem_free(l->changed_links);
    mem_free(l->again);
    mem_free(l->scratch);
}

/* ---- reading ---- */

/* The file, not the mapping: it comes in order, and what cannot be read is an errno. */
static enum err_code read_part(struct load *l, int part, int fd, uint8_t *to, struct err *err)
{
    const struct index_part *p = &l->m->parts[part];
    uint32_t most = (uint32_t)(INDEX_PIECE_BYTES / p->shape.cell_bytes);
    enum err_code rc = ERR_OK;
    if (most == 0) most = 1;
    for (uint32_t node = 0; node < l->node_count && !rc;) {
        uint32_t left = l->node_count - node;
        uint32_t run = index_part_run(p, node, left < most ? left : most);
        int os_errno = file_read(fd, to + (size_t)node * p->shape.cell_bytes,
                                 run * p->shape.cell_bytes, index_part_place(p, node));
        if (os_errno) return err_os(err, os_errno, "read the search index of \"%s\"", l->db->name);
        node += run;
        rc = check_go_on(l, err);
    }
    return rc;
}

static enum err_code read_parts(struct load *l, struct err *err)
{
    int fd = -1;
    const struct jvdb_file *f = &l->store->file;
    int os_errno = file_open(f->dir_fd, f->file_name, O_RDONLY, &fd);
    if (os_errno) return err_os(err, os_errno, "open %s", f->file_name);
    enum err_code rc = read_part(l, PART_CODES, fd, l->a->cells, err);
    if (!rc) rc = read_part(l, PART_LINKS, fd, l->a->nodes, err);
    file_close(fd);
    return rc;
}

/* ---- checking ---- */

/* The file may keep what it has: it is not believed the next time either. */
static void clear_node(struct load *l, uint32_t node)
{
    memset((void *)graph_node(l->g, l->a, node), 0, l->g->link_bytes);
}

static bool link_again(struct load *l, uint32_t node)
{
    clear_node(l, node);
    if (l->again_count == l->again_cap) {
        size_t cap = l->again_cap ? l->again_cap * 2 : 256;
        uint32_t *grown = mem_resize(l->again, cap * sizeof *grown);
        if (!grown) return false;
        l->again = grown;
        l->again_cap = cap;
    }
    l->again[l->again_count++] = node;
    return true;
}

static bool code_is_good(const struct load *l, uint32_t node, uint32_t generation)
{
    return codec_cell_is_good(&l->g->codec, node, graph_cell(l->g, l->a, node), generation);
}

static bool links_are_good(const struct load *l, uint32_t node, uint32_t generation)
{
    struct graph_node *n = graph_node(l->g, l->a, node);
    return index_is_linked(n) && graph_node_is_good(l->g, node, generation, n);
}

/* Make the code from the row.  False: it has no place in a graph, or cannot be read. */
static bool mend_code(struct load *l, uint32_t node, uint32_t generation)
{
    const float *row = jvdb_file_read(&l->store->file, REGION_VECTORS, node);
    l->bad_codes++;
    if (!row || !codec_encode(&l->g->codec, node, row, generation, graph_cell(l->g, l->a, node),
                              l->scratch))
        return false;
    bits_add(l->changed_cells, node / GRAPH_GROUP_NODES);
    return true;
}

/* What becomes of a node.  False: out of memory. */
static bool check_node(struct load *l, uint32_t node)
{
    const struct slot *s = jvdb_file_read(&l->store->file, REGION_SLOTS, node);
    uint64_t death = s ? __atomic_load_n(&s->death, __ATOMIC_ACQUIRE) : 0;
    uint64_t birth = s ? __atomic_load_n(&s->birth, __ATOMIC_ACQUIRE) : SLOT_NEVER;
    bool may_link = birth <= l->m->lsn && !bits_has(l->m->unlinked, node);
    if (!may_link || (death != SLOT_NEVER && death <= l->m->reuse_lsn)) {
        clear_node(l, node);
        return true;
    }
    uint32_t generation = __atomic_load_n(&s->generation, __ATOMIC_ACQUIRE);
    bool good = links_are_good(l, node, generation);
    if (death != SLOT_NEVER) {
        good = good && code_is_good(l, node, generation);
        if (!good) clear_node(l, node);
    } else {
        l->expected++;
        if (good && !code_is_good(l, node, generation)) good = mend_code(l, node, generation);
        if (!good) return link_again(l, node);
    }
    if (good) bits_add(l->linked, node);
    return true;
}

/* Take out links to what is not linked. */
static void check_links(struct load *l, uint32_t node)
{
    struct graph_node *n = graph_node(l->g, l->a, node);
    uint32_t head = atomic_load_explicit(&n->head, memory_order_relaxed);
    uint32_t degree = head & NODE_DEGREE, kept = 0, twin = head & NODE_TWIN;
    for (uint32_t i = 0; i < degree; i++) {
        uint32_t to = atomic_load_explicit(&n->links[i], memory_order_relaxed);
        if (to >= l->node_count || to == node || !bits_has(l->linked, to)) {
            if (i == 0) twin = 0;
            continue;
        }
        atomic_store_explicit(&n->links[kept++], to, memory_order_relaxed);
    }
    if (kept == degree) return;
    atomic_store_explicit(&n->head, kept | NODE_LINKED | twin, memory_order_relaxed);
    bits_add(l->changed_links, node / GRAPH_GROUP_NODES);
}

static enum err_code check_nodes(struct load *l, struct err *err)
{
    enum err_code rc = ERR_OK;
    for (uint32_t node = 0; node < l->node_count && !rc;) {
        uint32_t end = l->node_count - node < SLICE_NODES ? l->node_count : node + SLICE_NODES;
        bool good = true;
        epoch_enter();
        for (; node < end && good; node++)
            good = check_node(l, node);
        epoch_leave();
        rc = good ? check_go_on(l, err) : out_of_memory(l, err);
    }
    for (uint32_t node = 0; node < l->node_count && !rc; node++) {
        if (node % SLICE_NODES == 0) rc = check_go_on(l, err);
        if (!bits_has(l->linked, node)) continue;
        l->linked_count++;
        check_links(l, node);
    }
    return rc;
}

/* ---- taking over ---- */

/* Before the new arena is published: whoever does not find them there has looked here before. */
static void make_pending(struct load *l)
{
    for (size_t at = 0; at < l->again_count;) {
        mutex_lock(&l->db->writer);
        for (int i = 0; i < SLICE_NODES && at < l->again_count; i++, at++) {
            const struct slot *s = jvdb_file_read(&l->store->file, REGION_SLOTS, l->again[at]);
            if (s && s->death == SLOT_NEVER && s->birth <= l->m->lsn)
                vector_index_put(l->store->vectors, l->again[at]);
        }
        mutex_unlock(&l->db->writer);
    }
}

static void mark_changed(struct load *l)
{
    struct graph_arena *a = index_arena(l->g);
    for (uint32_t group = 0; group <= l->node_count / GRAPH_GROUP_NODES; group++) {
        uint64_t one = UINT64_C(1) << group % 64;
        if (bits_has(l->changed_cells, group)) atomic_fetch_or(&a->dirty_cells[group / 64], one);
        if (bits_has(l->changed_links, group)) atomic_fetch_or(&a->dirty_links[group / 64], one);
    }
}

/* Those that are still linked, with their codes as they are now. */
static void set_pivots(struct load *l)
{
    const struct graph_pivots *old = atomic_load_explicit(&l->g->pivots, memory_order_relaxed);
    uint32_t *nodes = mem_zalloc((old->count + 1) * sizeof *nodes), count = 0;
    for (uint32_t i = 0; i < old->count; i++)
        if (bits_has(l->linked, old->nodes[i])) nodes[count++] = old->nodes[i];
    if (count)
        graph_set_pivots(l->g, nodes, count);
    else
        graph_choose_pivots(l->g, NULL, NULL, 0);
    mem_free(nodes);
}

static enum err_code publish(struct load *l, struct err *err)
{
    make_pending(l);
    struct graph_arena *a = l->a;
    l->a = NULL;
    enum err_code rc = graph_set_arena(l->g, a, err);
    if (rc) return rc;
    atomic_store_explicit(&l->g->linked_count, l->linked_count, memory_order_relaxed);
    set_pivots(l);
    mark_changed(l);
    return ERR_OK;
}

static void give_up(struct load *l, const char *why)
{
    log_warning("database \"%s\": its search index is built anew: %s", l->db->name, why);
    vector_index_lose(l->store->vectors);
}

/* True: it is not worth mending. */
static bool is_too_bad(struct load *l)
{
    uint64_t bad = l->again_count + l->bad_codes;
    char why[100];
    if (bad <= BAD_MAX || bad <= l->expected / BAD_ONE_IN) return false;
    snprintf(why, sizeof why, "%" PRIu64 " of its %" PRIu64 " rows are damaged", bad, l->expected);
    give_up(l, why);
    return true;
}

enum err_code index_file_load(struct database *db, bool (*go_on)(void *ctx), void *ctx,
                              struct err *err)
{
    struct store *store = db->store;
    uint64_t begun = clock_ns();
    mutex_assert_held(vector_index_mutex(store->vectors));
    if (!index_file_is_mapped(store->vectors)) return ERR_OK;
    struct graph *g = index_current_graph(store->vectors);
    struct load l = {.db = db, .store = store, .g = g, .go_on = go_on, .ctx = ctx};
    l.m = index_mapping_of(index_arena(g));
    enum err_code rc = load_init(&l, err);
    if (!rc) rc = read_parts(&l, err);
    if (rc == ERR_IO || rc == ERR_CORRUPT) { /* exact searches go on without it */
        give_up(&l, err->msg);
        rc = ERR_OK;
        goto out;
    }
    if (!rc) rc = check_nodes(&l, err);
    if (!rc) rc = database_check_read(db, &store->file, ERR_OK, err);
    if (rc || is_too_bad(&l)) goto out;
    rc = publish(&l, err);
    if (rc) goto out;
    if (l.again_count || l.bad_codes)
        log_info("database \"%s\": in its search index, %" PRIu64 " codes were made again, and %zu "
                 "rows are linked again",
                 db->name, l.bad_codes, l.again_count);
    log_debug("database \"%s\": loaded a search index of %" PRIu32 " rows in %.1f ms", db->name,
              l.linked_count, (double)(clock_ns() - begun) / 1e6);
out:
    load_deinit(&l);
    return rc;
}

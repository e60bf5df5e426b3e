/*
 * graph_db.h - a small database with a search graph, built and kept up by the test itself.
 *
 * Rows have integer ids; a row's vector follows from its id and its value; value 0: there is none.
 * The test is the owner of the graph: graph_db_link() does what the indexer does.
 */
#ifndef TESTS_STORAGE_INDEX_GRAPH_DB_H
#define TESTS_STORAGE_INDEX_GRAPH_DB_H

#include "tests/storage/temp_dir.h"

#include "storage/base/epoch.h"
#include "storage/base/mem.h"
#include "storage/checkpoint.h"
#include "storage/compact.h"
#include "storage/database_private.h"
#include "storage/index/index_file.h"
#include "storage/index/vector_index_private.h"

enum { GRAPH_DB_DIMENSION = 24, GRAPH_DB_ROWS_MAX = 20000 };

static const uint8_t graph_db_uuid[16] = {3, 1, 4, 1, 5};
static struct schema graph_db_schema = {
    .dimension = GRAPH_DB_DIMENSION, .metric = METRIC_EUCLIDEAN, .index = {.kind = INDEX_GRAPH}};
static uint32_t graph_db_value[GRAPH_DB_ROWS_MAX];
static uint32_t graph_db_ef = 40; /* candidates of a link */

/* Some thirty clusters. */
static inline void graph_db_vector(uint64_t id, uint32_t value, float v[GRAPH_DB_DIMENSION])
{
    uint64_t state = (id + 1) * 0x9e3779b97f4a7c15u ^ value * 0xbf58476d1ce4e5b9u;
    uint64_t centre = (id * 7919 + value) % 31 + 1;
    for (int i = 0; i < GRAPH_DB_DIMENSION; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        centre = centre * 6364136223846793005u + 1442695040888963407u;
        v[i] = (float)(centre >> 40) / 1e6f + (float)(state >> 40) / 4e6f;
    }
}

static inline void graph_db_create(void)
{
    struct err err;
    memset(graph_db_value, 0, sizeof graph_db_value);
    if (database_create_files(data_fd, "db", graph_db_uuid, &graph_db_schema, &err))
        fail_msg("%s", err.msg);
}

static inline struct database *graph_db_open_in(int dir)
{
    struct err err;
    struct database *db = NULL;
    struct database_open_options options = {0};
    struct database_host host = {0};
    if (database_open(dir, "db", graph_db_uuid, &options, &host, &db, &err))
        fail_msg("%s", err.msg);
    return db;
}

static inline struct database *graph_db_open(void)
{
    return graph_db_open_in(data_fd);
}

static inline void graph_db_close(struct database *db)
{
    epoch_synchronize();
    database_free(db);
}

/* Everything to the file first. */
static inline void graph_db_stop(struct database *db)
{
    struct err err;
    if (checkpoint_close(db, &err)) fail_msg("%s", err.msg);
    graph_db_close(db);
}

static inline void graph_db_put(struct database *db, uint32_t first, uint32_t end, uint32_t value)
{
    enum { BATCH = 128 };
    static _Thread_local float vectors[BATCH][GRAPH_DB_DIMENSION];
    struct row_input rows[BATCH];
    struct err err;
    uint64_t lsn;
    while (first < end) {
        uint32_t n = 0;
        for (; n < BATCH && first < end; n++, first++) {
            graph_db_vector(first, value, vectors[n]);
            rows[n] = (struct row_input){.id.number = first, .vector = vectors[n]};
            graph_db_value[first] = value;
        }
        if (database_put(db, rows, n, GRAPH_DB_DIMENSION, true, &lsn, &err))
            fail_msg("%s", err.msg);
    }
}

static inline void graph_db_delete(struct database *db, uint32_t first, uint32_t end)
{
    struct err err;
    uint64_t lsn;
    for (; first < end; first++) {
        size_t deleted;
        struct vector_id id = {.number = first};
        if (database_delete(db, &id, 1, true, &deleted, &lsn, &err)) fail_msg("%s", err.msg);
        graph_db_value[first] = 0;
    }
}

/* ---- the owner ---- */

static inline struct graph *graph_db_graph(struct database *db)
{
    struct vector_index_rest rest;
    return vector_index_graph(db->store->vectors, UINT64_MAX, &rest);
}

static inline const struct slot *graph_db_slot(struct database *db, uint32_t slot)
{
    return jvdb_file_read(&db->store->file, REGION_SLOTS, slot);
}

static inline void graph_db_link_slot(struct database *db, struct graph *g, uint32_t slot)
{
    const struct slot *s = graph_db_slot(db, slot);
    const float *row = jvdb_file_read(&db->store->file, REGION_VECTORS, slot);
    if (__atomic_load_n(&s->death, __ATOMIC_ACQUIRE) != SLOT_NEVER) return;
    assert_true(graph_encode(g, slot, row, s->generation));
    assert_true(graph_link(g, slot, graph_db_ef, NULL));
}

/* Build the graph, or link what is pending. */
static inline void graph_db_link(struct database *db, enum codec_kind codec)
{
    struct err err;
    struct vector_index *ix = db->store->vectors;
    mutex_lock(vector_index_mutex(ix));
    if (index_file_load(db, NULL, NULL, &err)) fail_msg("%s", err.msg);
    struct graph *g = graph_db_graph(db);
    if (!g || g->codec.kind != codec) {
        uint32_t slots = atomic_load(&db->slot_count);
        struct graph_options options = {
            .codec = codec, .m = graph_db_schema.index.m, .ef_construction = 60};
        if (graph_new(graph_db_schema.metric, GRAPH_DB_DIMENSION, &options, &g, &err) ||
            graph_reserve(g, slots, &err))
            fail_msg("%s", err.msg);
        for (uint32_t slot = 0; slot < slots; slot++)
            graph_db_link_slot(db, g, slot);
        graph_choose_pivots(g, NULL, NULL, 0);
        struct graph *old = atomic_exchange(&ix->graph, NULL);
        vector_index_retire(atomic_exchange(&ix->aside, NULL));
        vector_index_retire(atomic_exchange(&ix->extra, NULL));
        atomic_store(&ix->head, atomic_load(&ix->tail));
        atomic_store(&ix->encoded, atomic_load(&ix->tail));
        atomic_store(&ix->lost, false);
        struct vector_index_state state = {.graph = g};
        vector_index_adopt(ix, &state, 0, slots);
        if (old) {
            epoch_synchronize();
            graph_free(old);
        }
    } else {
        struct vector_index_rest rest;
        vector_index_graph(ix, UINT64_MAX, &rest);
        uint32_t nodes = 0; /* slot_count may not be published yet */
        for (uint64_t i = rest.head; i < rest.tail; i++)
            if (rest.slots[i & rest.mask] >= nodes) nodes = rest.slots[i & rest.mask] + 1;
        if (graph_reserve(g, nodes, &err)) fail_msg("%s", err.msg);
        for (uint64_t i = rest.head; i < rest.tail; i++)
            graph_db_link_slot(db, g, rest.slots[i & rest.mask]);
        atomic_store(&ix->encoded, rest.tail);
        atomic_store(&ix->head, rest.tail);
    }
    mutex_unlock(vector_index_mutex(ix));
}

/* Lead links around the dead, so that their slots are used again after a checkpoint. */
static inline void graph_db_sweep(struct database *db)
{
    struct vector_index *ix = db->store->vectors;
    mutex_lock(vector_index_mutex(ix));
    struct graph *g = graph_db_graph(db);
    uint32_t nodes = atomic_load(&g->node_count);
    uint64_t *dead = mem_zalloc(atomic_load(&g->arena)->capacity / 8 + 8);
    for (uint32_t n = 0; n < nodes; n++)
        if (graph_db_slot(db, n)->death != SLOT_NEVER) dead[n / 64] |= UINT64_C(1) << n % 64;
    graph_sweep(g, dead, 0, nodes, false);
    for (uint32_t n = 0; n < nodes; n++)
        if (dead[n / 64] >> n % 64 & 1) graph_forget(g, n);
    graph_choose_pivots(g, NULL, NULL, 0);
    mem_free(dead);
    atomic_store(&ix->reuse_lsn, db->last_lsn);
    mutex_unlock(vector_index_mutex(ix));
}

static inline void graph_db_load(struct database *db)
{
    struct err err;
    mutex_lock(vector_index_mutex(db->store->vectors));
    if (index_file_load(db, NULL, NULL, &err)) fail_msg("%s", err.msg);
    mutex_unlock(vector_index_mutex(db->store->vectors));
}

/* ---- looking ---- */

static inline struct vector_index_info graph_db_info(struct database *db)
{
    struct vector_index_info info;
    vector_index_info(db->store->vectors, &info);
    return info;
}

static inline uint32_t graph_db_live(void)
{
    uint32_t live = 0;
    for (uint32_t i = 0; i < GRAPH_DB_ROWS_MAX; i++)
        live += graph_db_value[i] != 0;
    return live;
}

/* How many of every `step`-th live row are not found as the nearest to themselves, in the graph or
 * pending. */
static inline uint32_t graph_db_missed(struct database *db, uint32_t step)
{
    uint32_t missed = 0, slots = db->store->counts.slot_count;
    struct err err;
    epoch_enter();
    struct vector_index_rest rest;
    struct graph *g = vector_index_graph(db->store->vectors, UINT64_MAX, &rest);
    for (uint32_t slot = step / 2; slot < slots && g; slot += step) {
        const struct slot *s = graph_db_slot(db, slot);
        float vector[GRAPH_DB_DIMENSION];
        if (s->death != SLOT_NEVER) continue;
        graph_db_vector(s->key, graph_db_value[s->key], vector);
        struct graph_query q = {.vector = vector, .ef = 50, .hidden = UINT32_MAX};
        struct graph_found found;
        assert_int_equal(graph_search(g, &q, &found, &err), ERR_OK);
        bool is_found = false;
        for (uint32_t i = 0; i < found.count; i++)
            is_found = is_found || found.nodes[i] == slot;
        for (uint64_t i = rest.head; i < rest.tail; i++)
            is_found = is_found || rest.slots[i & rest.mask] == slot;
        missed += !is_found;
    }
    epoch_leave();
    return missed;
}

/* Every row is what it should be, read as a client does. */
static inline void graph_db_check_rows(struct database *db)
{
    struct reader r;
    struct err err;
    reader_begin(db, &r);
    assert_int_equal(reader_count(&r), graph_db_live());
    for (uint32_t id = 0; id < GRAPH_DB_ROWS_MAX; id++) {
        struct vector_id vid = {.number = id};
        struct row row;
        float want[GRAPH_DB_DIMENSION];
        enum err_code rc = reader_get(&r, &vid, &row, &err);
        assert_int_equal(rc, graph_db_value[id] ? ERR_OK : ERR_VECTOR_NOT_FOUND);
        if (rc) continue;
        graph_db_vector(id, graph_db_value[id], want);
        assert_memory_equal(row.vector, want, sizeof want);
    }
    reader_end(&r);
}

/* Every live row that is not pending has a good code and is linked, and links lead to linked nodes.
 */
static inline void graph_db_check_graph(struct database *db)
{
    struct vector_index_rest rest;
    struct graph *g = vector_index_graph(db->store->vectors, UINT64_MAX, &rest);
    const struct graph_arena *a = atomic_load(&g->arena);
    uint32_t linked = 0;
    assert_non_null(g);
    for (uint32_t slot = 0; slot < atomic_load(&g->node_count); slot++) {
        const struct slot *s = graph_db_slot(db, slot);
        struct graph_node *n = graph_node(g, a, slot);
        bool is_pending = false, is_linked = atomic_load(&n->head) & NODE_LINKED;
        for (uint64_t i = rest.head; i < rest.tail; i++)
            is_pending = is_pending || rest.slots[i & rest.mask] == slot;
        linked += is_linked;
        if (s->death == SLOT_NEVER) assert_int_not_equal(is_linked, is_pending);
        if (!is_linked) continue;
        assert_true(codec_cell_is_good(&g->codec, slot, graph_cell(g, a, slot), s->generation));
        for (uint32_t i = 0; i < (atomic_load(&n->head) & NODE_DEGREE); i++) {
            uint32_t to = atomic_load(&n->links[i]);
            assert_true(to < atomic_load(&g->node_count) && to != slot);
            assert_true(atomic_load(&graph_node(g, a, to)->head) & NODE_LINKED);
        }
    }
    assert_int_equal(linked, atomic_load(&g->linked_count));
}

#endif

/* The life of a graph: memory, marks, copies for a file. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <pthread.h>

#include <cmocka.h>

#include "storage/base/mem.h"
#include "tests/storage/index/graph_world.h"

static void make(struct world *w, uint32_t rows, uint32_t room)
{
    world_init(w, METRIC_EUCLIDEAN, 16, room);
    fill_like_embeddings(w, 0, room);
    world_graph(w, CODEC_INT8, 16, 60, rows);
    world_grow(w, rows);
}

static struct graph_arena *arena_of(const struct world *w)
{
    return atomic_load(&w->g->arena);
}

static void a_graph_grows_with_what_is_in_it(void **state)
{
    (void)state;
    enum { ROWS = 9000 / ROWS_DIVISOR };
    struct world w;
    struct err err;
    make(&w, 200, ROWS);
    uint32_t capacity = arena_of(&w)->capacity;
    assert_true(capacity >= 4096);
    assert_int_equal(graph_reserve(w.g, capacity, &err), ERR_OK);
    assert_int_equal(arena_of(&w)->capacity, capacity);
    assert_int_equal(graph_reserve(w.g, capacity + 1, &err), ERR_OK);
    assert_true(arena_of(&w)->capacity >= 2 * capacity);
    world_grow(&w, ROWS);
    uint64_t memory = graph_memory(w.g);
    assert_true(memory > (uint64_t)ROWS * (w.g->codec.cell_bytes + w.g->link_bytes));
    assert_true(memory < (uint64_t)ROWS * (w.g->codec.cell_bytes + w.g->link_bytes) * 5 / 4);
    for (uint32_t i = 0; i < ROWS; i += 37) {
        struct hits h = search(&w, world_row(&w, i), 60);
        assert_true(has_hit(&h, i));
    }
    world_free(&w);
}

/* The mark in a pool is the topmost bit of a number. */
static void a_graph_has_its_limits(void **state)
{
    (void)state;
    struct world w;
    struct err err;
    make(&w, 50, 50);
    struct graph_arena *before = arena_of(&w);
    assert_int_equal(graph_reserve(w.g, (uint32_t)GRAPH_NODES_MAX + 1, &err), ERR_NOMEM);
    assert_int_equal(graph_reserve(w.g, UINT32_MAX, &err), ERR_NOMEM);
    assert_ptr_equal(arena_of(&w), before);
    assert_int_equal(search(&w, world_row(&w, 7), 20).node[0], 7);
    world_free(&w);
}

static void no_room_in_the_address_space_is_an_error(void **state)
{
    (void)state;
    struct graph_options options = {.codec = CODEC_FLOAT32};
    struct graph *g;
    struct err err;
    assert_int_equal(graph_new(METRIC_EUCLIDEAN, 65536, &options, &g, &err), ERR_OK);
    assert_int_equal(graph_reserve(g, GRAPH_NODES_MAX, &err), ERR_NOMEM); /* 512 TiB */
    assert_null(atomic_load(&g->arena));
    assert_int_equal(graph_reserve(g, 1, &err), ERR_OK);
    graph_free(g);
}

static void rows_without_a_place_are_refused(void **state)
{
    (void)state;
    struct graph_options options = {0};
    struct graph *g;
    struct err err;
    float row[16] = {0};
    assert_int_equal(graph_new(METRIC_COSINE, 16, &options, &g, &err), ERR_OK);
    assert_int_equal(graph_reserve(g, 10, &err), ERR_OK);
    assert_false(graph_encode(g, 3, row, 1));
    assert_int_equal(atomic_load(&g->node_count), 0);
    row[3] = 1e-40f;
    assert_true(graph_encode(g, 3, row, 1));
    assert_int_equal(atomic_load(&g->node_count), 4);
    assert_true(codec_cell_is_good(&g->codec, 3, graph_cell(g, atomic_load(&g->arena), 3), 1));
    graph_free(g);
}

/* ---- marks ---- */

static uint32_t count_bits(_Atomic uint64_t *bits, const struct graph_arena *a)
{
    uint32_t count = 0;
    for (uint32_t group = 0; group * GRAPH_GROUP_NODES < a->capacity; group++)
        count += atomic_load(&bits[group / 64]) >> group % 64 & 1;
    return count;
}

static bool take_bit(_Atomic uint64_t *bits, uint32_t node)
{
    uint32_t group = node / GRAPH_GROUP_NODES;
    uint64_t bit = (uint64_t)1 << group % 64;
    return atomic_fetch_and(&bits[group / 64], ~bit) & bit;
}

static void take_all(struct graph_arena *a)
{
    for (uint32_t i = 0; i < a->capacity; i += GRAPH_GROUP_NODES) {
        (void)take_bit(a->dirty_cells, i);
        (void)take_bit(a->dirty_links, i);
    }
}

static void what_changes_is_marked(void **state)
{
    (void)state;
    enum { ROWS = 4200 };
    struct world w;
    make(&w, 500, ROWS);
    take_all(arena_of(&w));
    assert_int_equal(count_bits(arena_of(&w)->dirty_cells, arena_of(&w)), 0);
    assert_true(graph_encode(w.g, 500, world_row(&w, 500), 1));
    assert_int_equal(count_bits(arena_of(&w)->dirty_cells, arena_of(&w)), 1);
    assert_int_equal(count_bits(arena_of(&w)->dirty_links, arena_of(&w)), 0);
    assert_true(take_bit(arena_of(&w)->dirty_cells, 500));

    /* Every list that differs is marked, its own and those that lead back. */
    uint8_t *before = malloc((size_t)501 * w.g->link_bytes);
    assert_non_null(before);
    memcpy(before, arena_of(&w)->nodes, (size_t)501 * w.g->link_bytes);
    assert_true(graph_link(w.g, 500, 0, NULL));
    uint32_t changed = 0;
    for (uint32_t i = 0; i <= 500; i++) {
        if (!memcmp(before + (size_t)i * w.g->link_bytes, graph_node(w.g, arena_of(&w), i),
                    w.g->link_bytes))
            continue;
        changed++;
        uint32_t group = i / GRAPH_GROUP_NODES;
        assert_true(atomic_load(&arena_of(&w)->dirty_links[group / 64]) >> group % 64 & 1);
    }
    assert_true(changed > 5);
    free(before);

    /* Growing keeps the marks. */
    uint32_t marked = count_bits(arena_of(&w)->dirty_links, arena_of(&w));
    struct err err;
    struct graph_arena *old = arena_of(&w);
    assert_int_equal(graph_reserve(w.g, old->capacity + 1, &err), ERR_OK);
    assert_true(arena_of(&w) != old);
    assert_int_equal(count_bits(arena_of(&w)->dirty_links, arena_of(&w)), marked);
    take_all(arena_of(&w));
    graph_forget(w.g, 4);
    assert_true(take_bit(arena_of(&w)->dirty_links, 4));
    uint64_t dead[ROWS / 64 + 1] = {1 << 7};
    assert_true(graph_sweep(w.g, dead, 0, 500, false) > 0);
    assert_true(count_bits(arena_of(&w)->dirty_links, arena_of(&w)) > 0);
    world_free(&w);
}

/* ---- copies ---- */

static void a_copy_knows_what_it_is_of(void **state)
{
    (void)state;
    struct world w;
    make(&w, 300, 300);
    _Alignas(64) uint8_t copy[256];
    assert_true(w.g->link_bytes <= sizeof copy);
    for (uint32_t i = 0; i < 300; i += 29) {
        graph_copy_node(w.g, i, 5, copy);
        assert_true(graph_node_is_good(w.g, i, 5, copy));
        assert_false(graph_node_is_good(w.g, i + 1, 5, copy));
        assert_false(graph_node_is_good(w.g, i, 4, copy));
        const struct graph_node *now = graph_node(w.g, arena_of(&w), i);
        const struct graph_node *then = (const struct graph_node *)(const void *)copy;
        assert_int_equal(atomic_load(&then->head), atomic_load(&now->head));
        for (uint32_t k = 0; k < (atomic_load(&now->head) & NODE_DEGREE); k++)
            assert_int_equal(atomic_load(&then->links[k]), atomic_load(&now->links[k]));
        for (uint32_t at = 0; at < w.g->link_bytes; at++) {
            for (int bit = 0; bit < 8; bit++) {
                copy[at] ^= (uint8_t)(1 << bit);
                assert_false(graph_node_is_good(w.g, i, 5, copy));
                copy[at] ^= (uint8_t)(1 << bit);
            }
        }
    }
    world_free(&w);
}

/* A lock that was held while the arena moved would never be given back. */
static void locks_stay_in_the_old_arena(void **state)
{
    (void)state;
    struct world w;
    struct err err;
    make(&w, 300, 300);
    struct graph_node *node = graph_node(w.g, arena_of(&w), 8);
    uint32_t head = atomic_fetch_or(&node->head, NODE_LOCKED); /* graph_copy_node() is at it */
    epoch_enter();
    assert_int_equal(graph_reserve(w.g, arena_of(&w)->capacity + 1, &err), ERR_OK);
    atomic_store(&node->head, head);
    epoch_leave();
    assert_int_equal(atomic_load(&graph_node(w.g, arena_of(&w), 8)->head), head);
    world_free(&w);
}

/* ---- another place ---- */

static int released;

static void count_release(struct graph_arena *a)
{
    released++;
    free(a->cells);
    free(a->nodes);
    free(a->owner);
    mem_free(a);
}

static struct graph_arena *copy_arena(const struct world *w, uint32_t capacity)
{
    struct graph_arena *from = arena_of(w), *a = mem_new(struct graph_arena);
    size_t cells = (size_t)capacity * w->g->codec.cell_bytes;
    size_t nodes = (size_t)capacity * w->g->link_bytes;
    *a = (struct graph_arena){.cells = aligned_alloc(64, cells),
                              .nodes = aligned_alloc(64, nodes),
                              .capacity = capacity,
                              .release = count_release};
    assert_true(a->cells && a->nodes);
    memcpy(a->cells, from->cells, cells);
    memcpy(a->nodes, from->nodes, nodes);
    return a;
}

static void an_arena_without_factors_is_as_good(void **state)
{
    (void)state;
    struct world w;
    struct err err;
    make(&w, 640, 1000);
    struct hits before = search(&w, world_row(&w, 11), 50);
    released = 0;
    assert_int_equal(graph_set_arena(w.g, copy_arena(&w, 640), &err), ERR_OK);
    assert_null(arena_of(&w)->factors);
    struct hits after = search(&w, world_row(&w, 11), 50);
    assert_memory_equal(before.node, after.node, sizeof before.node);
    world_grow(&w, 1000); /* moves to memory */
    assert_non_null(arena_of(&w)->factors);
    epoch_synchronize();
    assert_int_equal(released, 1);
    after = search(&w, world_row(&w, 11), 60);
    assert_int_equal(after.node[0], 11);
    for (uint32_t i = 0; i < 1000; i++) {
        const struct code_tail *tail = codec_tail(&w.g->codec, graph_cell(w.g, arena_of(&w), i));
        assert_true(arena_of(&w)->factors[i].norm2 == tail->norm2);
        assert_true(arena_of(&w)->factors[i].scale == tail->scale);
    }
    assert_int_equal(graph_set_arena(w.g, copy_arena(&w, 1000), &err), ERR_OK);
    world_free(&w);
    assert_int_equal(released, 2);
}

/* ---- threads that end ---- */

static void *search_once(void *arg)
{
    struct world *w = arg;
    struct hits h = search(w, world_row(w, 3), 40);
    assert_true(has_hit(&h, 3));
    world_link(w, 5);
    return NULL;
}

static void threads_take_their_memory_with_them(void **state)
{
    (void)state;
    struct world w;
    make(&w, 300, 300);
    for (int i = 0; i < 50; i++) {
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, search_once, &w), 0);
        pthread_join(thread, NULL);
    }
    world_free(&w); /* LeakSanitizer looks at the rest */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_graph_grows_with_what_is_in_it),
        cmocka_unit_test(a_graph_has_its_limits),
        cmocka_unit_test(no_room_in_the_address_space_is_an_error),
        cmocka_unit_test(rows_without_a_place_are_refused),
        cmocka_unit_test(what_changes_is_marked),
        cmocka_unit_test(a_copy_knows_what_it_is_of),
        cmocka_unit_test(locks_stay_in_the_old_arena),
        cmocka_unit_test(an_arena_without_factors_is_as_good),
        cmocka_unit_test(threads_take_their_memory_with_them),
    };
    return cmocka_run_group_tests_name("graph", tests, NULL, NULL);
}

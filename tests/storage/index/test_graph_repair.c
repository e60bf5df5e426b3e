/* After deletions: no links to the dead, and the living are found as before. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "tests/storage/index/graph_world.h"

enum { ROWS = 4000 / ROWS_DIVISOR, EF = 25 };

static void make(struct world *w, enum codec_kind kind, uint32_t rows)
{
    world_init(w, METRIC_EUCLIDEAN, 24, rows);
    fill_like_embeddings(w, 0, rows);
    world_graph(w, kind, 16, 100, rows);
    world_grow(w, rows);
}

static void kill_all_but(struct world *w, uint32_t one_in)
{
    for (uint32_t i = 0; i < w->rows; i++)
        if (random_bits() % one_in) world_kill(w, i);
}

static uint32_t links_of(const struct world *w, uint32_t i, uint32_t *links)
{
    struct graph_node *node = graph_node(w->g, atomic_load(&w->g->arena), i);
    uint32_t degree = atomic_load(&node->head) & NODE_DEGREE;
    for (uint32_t k = 0; k < degree; k++)
        links[k] = atomic_load(&node->links[k]);
    return degree;
}

static void check_links(const struct world *w)
{
    uint32_t links[256];
    for (uint32_t i = 0; i < w->rows; i++) {
        if (world_is_dead(w, i)) continue;
        uint32_t degree = links_of(w, i, links);
        assert_true(degree > 0);
        assert_true(degree <= w->g->degree);
        for (uint32_t k = 0; k < degree; k++) {
            assert_true(links[k] < w->rows && links[k] != i);
            assert_false(world_is_dead(w, links[k]));
            for (uint32_t other = 0; other < k; other++)
                assert_true(links[other] != links[k]);
        }
    }
}

static void forget_dead(struct world *w)
{
    for (uint32_t i = 0; i < w->rows; i++)
        if (world_is_dead(w, i)) graph_forget(w->g, i);
}

/* A graph of the same living rows that never knew others. */
static double recall_of_fresh(const struct world *w)
{
    struct world fresh;
    world_init(&fresh, w->metric, w->n, w->rows);
    uint32_t count = 0;
    for (uint32_t i = 0; i < w->rows; i++)
        if (!world_is_dead(w, i))
            memcpy(world_row(&fresh, count++), world_row(w, i), w->n * sizeof(float));
    world_graph(&fresh, w->g->codec.kind, 16, 100, count);
    world_grow(&fresh, count);
    double recall = recall_with(&fresh, EF, NULL, fill_like_embeddings);
    world_free(&fresh);
    return recall;
}

static void a_sweep_leaves_a_graph_as_good_as_new(void **state)
{
    (void)state;
    static const uint32_t one_in[] = {2, 10, 50};
    for (size_t i = 0; i < sizeof one_in / sizeof one_in[0]; i++) {
        for (int thorough = 0; thorough < 2; thorough++) {
            struct world w;
            make(&w, CODEC_INT8, ROWS);
            kill_all_but(&w, one_in[i]);
            assert_true(graph_sweep(w.g, w.dead, 0, w.rows, thorough) > 0);
            check_links(&w);
            assert_int_equal(graph_sweep(w.g, w.dead, 0, w.rows, thorough), 0);
            choose_pivots(&w, NULL, 0);
            forget_dead(&w);
            double recall = recall_with(&w, EF, NULL, fill_like_embeddings);
            double fresh = recall_of_fresh(&w);
            print_message("one in %u left, %s: recall %g, fresh %g, unreachable %u\n", one_in[i],
                          thorough ? "thorough" : "cheap", recall, fresh, count_unreachable(&w));
            assert_int_equal(count_unreachable(&w), 0);
            assert_true(recall >= fresh - 0.02);
            world_free(&w);
        }
    }
}

/* Rows die where they are near to each other: whole neighbourhoods at a time. */
static void a_sweep_bridges_what_died_together(void **state)
{
    (void)state;
    for (int thorough = 0; thorough < 2; thorough++) {
        struct world w;
        make(&w, CODEC_FLOAT32, ROWS);
        for (uint32_t i = 0; i < w.rows; i++)
            if (world_row(&w, i)[0] > -1.2f) world_kill(&w, i);
        graph_sweep(w.g, w.dead, 0, w.rows, thorough);
        check_links(&w);
        choose_pivots(&w, NULL, 0);
        forget_dead(&w);
        assert_int_equal(count_unreachable(&w), 0);
        world_free(&w);
    }
}

/* Ten rounds in which every tenth row is replaced. */
static void a_graph_outlives_its_rows(void **state)
{
    (void)state;
    enum { LIVE = 2000 / ROWS_DIVISOR, PART = LIVE / 10, ROUNDS = 10 };
    struct world w;
    world_init(&w, METRIC_EUCLIDEAN, 24, LIVE + ROUNDS * PART);
    fill_like_embeddings(&w, 0, w.room);
    world_graph(&w, CODEC_INT8, 16, 100, LIVE);
    world_grow(&w, LIVE);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        for (uint32_t i = 0; i < PART; i++)
            world_kill(&w, round * PART + i);
        graph_sweep(w.g, w.dead, 0, w.rows, false);
        choose_pivots(&w, NULL, 0);
        forget_dead(&w);
        world_grow(&w, w.rows + PART);
    }
    assert_int_equal(atomic_load(&w.g->linked_count), LIVE);
    check_links(&w);
    double recall = recall_with(&w, EF, NULL, fill_like_embeddings), fresh = recall_of_fresh(&w);
    print_message("all rows replaced: recall %g, fresh %g\n", recall, fresh);
    assert_true(recall >= fresh - 0.02);
    world_free(&w);
}

/* A slot is used again once nothing leads to it. */
static void forgotten_nodes_can_be_linked_again(void **state)
{
    (void)state;
    struct world w;
    make(&w, CODEC_INT8, 600);
    for (uint32_t round = 0; round < 5; round++) {
        for (uint32_t i = round; i < 600; i += 3)
            world_kill(&w, i);
        graph_sweep(w.g, w.dead, 0, 600, false);
        choose_pivots(&w, NULL, 0);
        forget_dead(&w);
        forget_dead(&w); /* counts once */
        for (uint32_t i = round; i < 600; i += 3) {
            w.dead[i / 64] &= ~((uint64_t)1 << i % 64);
            fill_like_embeddings(&w, i, i + 1);
            world_link(&w, i);
        }
        assert_int_equal(atomic_load(&w.g->linked_count), 600);
    }
    uint32_t good = 0;
    for (uint32_t i = 0; i < 600; i++) {
        struct hits h = search(&w, world_row(&w, i), 60);
        good += has_hit(&h, i);
    }
    assert_true(good >= 598);
    world_free(&w);
}

/* ---- nodes that nothing leads to ---- */

static void cut_off(struct world *w, uint32_t node)
{
    for (uint32_t i = 0; i < w->rows; i++) {
        uint32_t links[256], kept = 0, degree = links_of(w, i, links);
        struct graph_node *n = graph_node(w->g, atomic_load(&w->g->arena), i);
        for (uint32_t k = 0; k < degree; k++)
            if (links[k] != node) atomic_store(&n->links[kept++], links[k]);
        atomic_store(&n->head, kept | NODE_LINKED);
    }
}

static void what_nothing_leads_to_is_noticed(void **state)
{
    (void)state;
    struct world w;
    struct err err;
    make(&w, CODEC_INT8, 1000);
    assert_int_equal(count_unreachable(&w), 0);
    uint32_t lonely[] = {17, 400, 999}, nodes[10], count;
    graph_set_pivots(w.g, &(uint32_t){5}, 1);
    for (int i = 0; i < 3; i++)
        cut_off(&w, lonely[i]);
    uint64_t *live = live_bits(&w);
    assert_int_equal(graph_unreachable(w.g, live, nodes, 10, &count, &err), ERR_OK);
    assert_int_equal(count, 3);
    for (int i = 0; i < 3; i++)
        assert_int_equal(nodes[i], lonely[i]);
    assert_int_equal(graph_unreachable(w.g, NULL, nodes, 2, &count, &err), ERR_OK);
    assert_int_equal(count, 2);

    live[17 / 64] &= ~((uint64_t)1 << 17 % 64); /* nobody looks for the dead */
    assert_int_equal(graph_unreachable(w.g, live, nodes, 10, &count, &err), ERR_OK);
    assert_int_equal(count, 2);

    /* An entry of its own, or links back: either will do. */
    struct hits h = search(&w, world_row(&w, 400), 50);
    assert_false(has_hit(&h, 400));
    choose_pivots(&w, &(uint32_t){400}, 1);
    h = search(&w, world_row(&w, 400), 50);
    assert_true(has_hit(&h, 400));
    assert_true(graph_link(w.g, 999, 0, NULL));
    graph_set_pivots(w.g, &(uint32_t){5}, 1);
    h = search(&w, world_row(&w, 999), 50);
    assert_true(has_hit(&h, 999));
    free(live);
    world_free(&w);
}

static void without_pivots_nothing_is_reached(void **state)
{
    (void)state;
    struct world w;
    make(&w, CODEC_INT8, 100);
    graph_set_pivots(w.g, NULL, 0);
    assert_int_equal(count_unreachable(&w), 100);
    assert_true(graph_wants_pivots(w.g));
    assert_int_equal(search(&w, world_row(&w, 0), 10).count, 0);
    choose_pivots(&w, NULL, 0);
    assert_int_equal(count_unreachable(&w), 0);
    assert_false(graph_wants_pivots(w.g));
    world_free(&w);
}

/* Give a node as many links as there is room for: to nodes from `first` on. */
static void fill_up(struct world *w, uint32_t node, uint32_t first)
{
    struct graph_node *n = graph_node(w->g, atomic_load(&w->g->arena), node);
    for (uint32_t k = 0; k < w->g->degree; k++)
        atomic_store(&n->links[k], first + k);
    atomic_store(&n->head, w->g->degree | NODE_LINKED);
}

static uint32_t farthest_of(const struct world *w, uint32_t node, const uint32_t *links)
{
    uint32_t farthest = 0;
    for (uint32_t k = 1; k < w->g->degree; k++)
        if (world_distance(w, world_row(w, node), world_row(w, links[k])) >
            world_distance(w, world_row(w, node), world_row(w, links[farthest])))
            farthest = k;
    return farthest;
}

static void a_node_that_is_missed_is_led_to(void **state)
{
    (void)state;
    enum { MISSED = 321, FULL = 500 };
    struct world w;
    uint32_t before[256], after[256];
    make(&w, CODEC_INT8, 1000);
    cut_off(&w, MISSED);
    struct hits h = search(&w, world_row(&w, MISSED), 20);
    uint32_t near = h.node[0], count = links_of(&w, near, before);
    assert_false(has_hit(&h, MISSED));
    assert_true(count < w.g->degree);

    /* Whoever has room comes first; numbers outside of the graph are left out. */
    fill_up(&w, FULL, 600);
    assert_int_equal(graph_lead_to(w.g, (uint32_t[]){w.rows + 5, FULL, near}, 3, MISSED),
                     UINT32_MAX);
    assert_int_equal(links_of(&w, near, after), count + 1);
    assert_memory_equal(after, before, count * sizeof *after);
    assert_int_equal(search(&w, world_row(&w, MISSED), 20).node[0], MISSED);
    assert_int_equal(graph_lead_to(w.g, &near, 1, MISSED), UINT32_MAX); /* it does already */
    assert_int_equal(links_of(&w, near, after), count + 1);

    /* Where there is no room, the farthest goes. */
    links_of(&w, FULL, before);
    uint32_t farthest = farthest_of(&w, FULL, before);
    assert_int_equal(graph_lead_to(w.g, &(uint32_t){FULL}, 1, MISSED), before[farthest]);
    before[farthest] = MISSED;
    assert_int_equal(links_of(&w, FULL, after), w.g->degree);
    assert_memory_equal(after, before, w.g->degree * sizeof *after);
    world_free(&w);
}

/* ---- pivots ---- */

static void dead_pivots_are_replaced(void **state)
{
    (void)state;
    struct world w;
    make(&w, CODEC_INT8, ROWS);
    const struct graph_pivots *pivots = atomic_load(&w.g->pivots);
    assert_true(pivots->count >= 32);
    for (uint32_t i = 0; i < pivots->count; i++)
        world_kill(&w, pivots->nodes[i]);
    double recall = recall_with(&w, EF, NULL, fill_like_embeddings); /* walks through them */
    assert_true(recall > 0.9);
    graph_sweep(w.g, w.dead, 0, w.rows, false);
    choose_pivots(&w, NULL, 0);
    forget_dead(&w);
    pivots = atomic_load(&w.g->pivots);
    assert_true(pivots->count >= 30);
    for (uint32_t i = 0; i < pivots->count; i++) {
        assert_false(world_is_dead(&w, pivots->nodes[i]));
        assert_memory_equal(pivots->cells + (size_t)i * w.g->codec.cell_bytes,
                            graph_cell(w.g, atomic_load(&w.g->arena), pivots->nodes[i]),
                            w.g->codec.cell_bytes);
        for (uint32_t k = 0; k < i; k++)
            assert_true(pivots->nodes[k] != pivots->nodes[i]);
    }
    assert_true(recall_with(&w, EF, NULL, fill_like_embeddings) >= recall - 0.02);
    world_free(&w);
}

static void one_living_row_among_many_dead_is_a_pivot(void **state)
{
    (void)state;
    struct world w;
    make(&w, CODEC_INT8, 1000);
    for (uint32_t i = 0; i < 1000; i++)
        if (i != 777) world_kill(&w, i);
    choose_pivots(&w, NULL, 0);
    assert_int_equal(atomic_load(&w.g->pivots)->count, 1);
    assert_int_equal(search(&w, world_row(&w, 1), 1000).node[0], 777);
    world_kill(&w, 777);
    choose_pivots(&w, NULL, 0);
    assert_int_equal(search(&w, world_row(&w, 1), 10).found.count, 0);
    world_free(&w);
}

/* Numbers from a file may be anything. */
static void pivots_outside_of_the_graph_are_left_out(void **state)
{
    (void)state;
    struct world w;
    make(&w, CODEC_INT8, 100);
    uint32_t capacity = atomic_load(&w.g->arena)->capacity;
    graph_set_pivots(w.g, (uint32_t[]){capacity, 3, UINT32_MAX}, 3);
    assert_int_equal(atomic_load(&w.g->pivots)->count, 1);
    assert_true(search(&w, world_row(&w, 50), 50).count > 0);
    graph_set_pivots(w.g, (uint32_t[]){capacity, UINT32_MAX}, 2);
    assert_int_equal(search(&w, world_row(&w, 50), 50).count, 0);
    world_free(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_sweep_leaves_a_graph_as_good_as_new),
        cmocka_unit_test(a_sweep_bridges_what_died_together),
        cmocka_unit_test(a_graph_outlives_its_rows),
        cmocka_unit_test(forgotten_nodes_can_be_linked_again),
        cmocka_unit_test(what_nothing_leads_to_is_noticed),
        cmocka_unit_test(without_pivots_nothing_is_reached),
        cmocka_unit_test(a_node_that_is_missed_is_led_to),
        cmocka_unit_test(dead_pivots_are_replaced),
        cmocka_unit_test(one_living_row_among_many_dead_is_a_pivot),
        cmocka_unit_test(pivots_outside_of_the_graph_are_left_out),
    };
    return cmocka_run_group_tests_name("graph_repair", tests, NULL, NULL);
}

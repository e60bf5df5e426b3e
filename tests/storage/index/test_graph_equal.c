/* Rows that are equal: each of them is found, and none is in the way of the others. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <pthread.h>

#include <cmocka.h>

#include "tests/storage/index/graph_world.h"

enum { GROUPS = 8, N = 24 };

/* The first GROUPS rows, and rows that equal one of them or, one in `others`, none. */
static void fill_groups(struct world *w, uint32_t others)
{
    fill_like_embeddings(w, 0, w->room);
    for (uint32_t i = GROUPS; i < w->room; i++)
        if (random_bits() % others)
            memcpy(world_row(w, i), world_row(w, (uint32_t)random_bits() % GROUPS),
                   w->n * sizeof(float));
}

static void make(struct world *w, enum metric metric, enum codec_kind kind, uint32_t rows,
                 uint32_t others)
{
    world_init(w, metric, N, rows);
    fill_groups(w, others);
    world_graph(w, kind, 16, 60, rows);
    world_grow(w, rows);
}

static bool equals(const struct world *w, uint32_t a, uint32_t b)
{
    return memcmp(world_row(w, a), world_row(w, b), w->n * sizeof(float)) == 0;
}

/* Every living row like row `i` is among as many candidates as there are such rows. */
static void check_finds_all_like(const struct world *w, uint32_t i)
{
    uint32_t live = 0, linked_dead = 0, found = 0;
    for (uint32_t k = 0; k < w->rows; k++) {
        if (!equals(w, i, k)) continue;
        live += !world_is_dead(w, k);
        linked_dead += world_is_dead(w, k);
    }
    struct hits h = search(w, world_row(w, i), live + linked_dead + 20);
    for (uint32_t k = 0; k < h.found.count; k++)
        found += h.found.nodes[k] < w->rows && equals(w, i, h.found.nodes[k]) &&
                 !world_is_dead(w, h.found.nodes[k]);
    if (found != live) fail_msg("%u of %u rows like row %u are found", found, live, i);
}

static void each_of_many_equal_rows_is_found(void **state)
{
    (void)state;
    for (int metric = 0; metric < METRIC_COUNT; metric++) {
        for (int kind = 0; kind < CODEC_KIND_COUNT; kind++) {
            struct world w;
            if (metric == METRIC_MANHATTAN && kind != CODEC_FLOAT32) continue;
            make(&w, metric, kind, 3000 / ROWS_DIVISOR, 4);
            /* Signs of so few numbers say little, and a dot product prefers longer rows. */
            bool is_first = kind != CODEC_BINARY && metric != METRIC_DOT_PRODUCT;
            for (uint32_t i = 0; i < GROUPS && is_first; i++)
                check_finds_all_like(&w, i);
            assert_int_equal(count_unreachable(&w), 0);
            world_free(&w);
        }
    }
}

/* The others have neighbours of many directions, whatever crowds are between them. */
static void rows_between_crowds_are_found(void **state)
{
    (void)state;
    struct world w;
    make(&w, METRIC_EUCLIDEAN, CODEC_INT8, 4000 / ROWS_DIVISOR, 3);
    uint32_t good = 0, count = 0;
    for (uint32_t i = GROUPS; i < w.rows; i++) {
        bool is_single = true;
        for (uint32_t k = 0; k < GROUPS; k++)
            is_single &= !equals(&w, i, k);
        if (!is_single) continue;
        struct hits h = search(&w, world_row(&w, i), 20);
        count++;
        good += has_hit(&h, i);
    }
    print_message("%u of %u rows between crowds are found\n", good, count);
    assert_true(good >= count - count / 100);
    world_free(&w);
}

static void rows_of_one_direction_are_equal_under_cosine(void **state)
{
    (void)state;
    struct world w;
    world_init(&w, METRIC_COSINE, N, 1000);
    fill_like_embeddings(&w, 0, 1000);
    for (uint32_t i = 1; i < 1000; i += 2)
        for (uint32_t k = 0; k < N; k++)
            world_row(&w, i)[k] = world_row(&w, 0)[k] * (float)(i % 97 + 1);
    world_graph(&w, CODEC_INT8, 16, 60, 1000);
    world_grow(&w, 1000);
    assert_int_equal(count_unreachable(&w), 0);
    struct hits h = search(&w, world_row(&w, 0), 600);
    uint32_t found = 0;
    for (uint32_t i = 0; i < h.found.count; i++)
        found += h.found.nodes[i] % 2;
    assert_true(found >= 495); /* where a code differs by a step it is a node of its own */
    world_free(&w);
}

/* ---- rings ---- */

static uint32_t links_of(const struct world *w, uint32_t i, uint32_t *links, bool *has_twin)
{
    struct graph_node *node = graph_node(w->g, atomic_load(&w->g->arena), i);
    uint32_t head = atomic_load(&node->head), degree = head & NODE_DEGREE;
    *has_twin = head & NODE_TWIN;
    for (uint32_t k = 0; k < degree; k++)
        links[k] = atomic_load(&node->links[k]);
    return degree;
}

/* A ring leads through equal nodes back to where it began; nothing is linked to twice. */
static void check_rings(const struct world *w)
{
    uint32_t links[256];
    bool has_twin;
    for (uint32_t i = 0; i < w->rows; i++) {
        if (world_is_dead(w, i)) continue;
        uint32_t degree = links_of(w, i, links, &has_twin), at = i, steps = 0;
        for (uint32_t k = 0; k < degree; k++) {
            assert_true(links[k] != i);
            for (uint32_t other = 0; other < k; other++)
                assert_true(links[other] != links[k]);
        }
        if (!has_twin) continue;
        do {
            assert_true(links_of(w, at, links, &has_twin) > 0);
            assert_true(has_twin);
            at = links[0];
            assert_true(equals(w, i, at));
            assert_false(world_is_dead(w, at));
            assert_true(++steps <= w->rows);
        } while (at != i);
    }
}

/* Rows come and go, most of them equal to others; nothing is ever lost. */
static void rings_outlive_their_rows(void **state)
{
    (void)state;
    enum { ROUNDS = 12, ROWS = 900 };
    for (int thorough = 0; thorough < 2; thorough++) {
        struct world w;
        make(&w, METRIC_EUCLIDEAN, CODEC_INT8, ROWS, 5);
        check_rings(&w);
        for (int round = 0; round < ROUNDS; round++) {
            for (uint32_t i = 0; i < ROWS; i++)
                if (random_bits() % 3 == 0 ||
                    (round % 4 == 3 && equals(&w, i, (uint32_t)round % 8)))
                    world_kill(&w, i);
            graph_sweep(w.g, w.dead, 0, ROWS, thorough);
            choose_pivots(&w, NULL, 0);
            for (uint32_t i = 0; i < ROWS; i++)
                if (world_is_dead(&w, i)) graph_forget(w.g, i);
            check_rings(&w);
            assert_int_equal(count_unreachable(&w), 0);
            for (uint32_t i = 0; i < ROWS; i++) {
                if (!world_is_dead(&w, i) || random_bits() % 3 == 0) continue;
                w.dead[i / 64] &= ~((uint64_t)1 << i % 64);
                uint32_t like = (uint32_t)random_bits() % ROWS;
                if (random_bits() % 4 && like != i)
                    memcpy(world_row(&w, i), world_row(&w, like), N * sizeof(float));
                else
                    fill_like_embeddings(&w, i, i + 1);
                world_link(&w, i);
            }
            check_rings(&w);
            assert_int_equal(count_unreachable(&w), 0);
            for (uint32_t i = 0; i < ROWS; i += 100)
                check_finds_all_like(&w, i);
        }
        world_free(&w);
    }
}

/* Links are hints: what a ring lost is linked again, with what hangs behind it. */
static void what_was_cut_off_is_linked_again(void **state)
{
    (void)state;
    struct world w;
    world_init(&w, METRIC_EUCLIDEAN, N, 400);
    fill_like_embeddings(&w, 0, 400);
    for (uint32_t i = 200; i < 400; i++)
        memcpy(world_row(&w, i), world_row(&w, 5), N * sizeof(float));
    world_graph(&w, CODEC_INT8, 16, 60, 400);
    world_grow(&w, 400);
    graph_set_pivots(w.g, &(uint32_t){0}, 1);
    assert_int_equal(count_unreachable(&w), 0);
    struct graph_arena *a = atomic_load(&w.g->arena);
    for (uint32_t cut = 210; cut < 400; cut += 60) /* 399 comes behind 5, then 398 ... */
        atomic_store(&graph_node(w.g, a, cut)->head, NODE_LINKED);
    assert_true(count_unreachable(&w) > 100);
    struct err err;
    uint64_t *live = live_bits(&w);
    uint32_t nodes[400], count;
    assert_int_equal(graph_unreachable(w.g, live, nodes, 400, &count, &err), ERR_OK);
    free(live);
    for (uint32_t i = 0; i < count; i++)
        assert_true(graph_link(w.g, nodes[count - 1 - i], 0, NULL));
    assert_int_equal(count_unreachable(&w), 0);
    assert_int_equal(atomic_load(&w.g->linked_count), 400);
    /* And again, though nothing is wrong. */
    for (uint32_t i = 0; i < 400; i++)
        assert_true(graph_link(w.g, i, 0, NULL));
    assert_int_equal(count_unreachable(&w), 0);
    check_finds_all_like(&w, 5);
    assert_int_equal(atomic_load(&w.g->linked_count), 400);
    world_free(&w);
}

/* Of equal rows that are linked at the same time, each may take itself for the first. */
static void two_firsts_are_brought_together(void **state)
{
    (void)state;
    struct world w;
    world_init(&w, METRIC_EUCLIDEAN, N, 120);
    fill_like_embeddings(&w, 0, 120);
    for (uint32_t i = 50; i < 120; i++)
        memcpy(world_row(&w, i), world_row(&w, 49), N * sizeof(float));
    world_graph(&w, CODEC_INT8, 16, 60, 120);
    struct err err;
    assert_int_equal(graph_reserve(w.g, 120, &err), ERR_OK);
    world_grow(&w, 60); /* 49, 59, 58 ... 50 */
    for (uint32_t i = 49; i < 60; i++)
        world_kill(&w, i);
    world_grow(&w, 70); /* 60, 69, 68 ... 61 */
    memset(w.dead, 0, 16);
    uint32_t links[256], at = 70, count = 0;
    bool has_twin;
    world_grow(&w, 71);
    do {
        assert_true(links_of(&w, at, links, &has_twin) > 0);
        at = links[0];
        count++;
    } while (at != 70 && count < 100);
    assert_int_equal(count, 22);
    check_rings(&w);
    world_grow(&w, 120);
    check_rings(&w);
    world_free(&w);
}

/* A list that is full makes room for the ring. */
static void a_full_list_has_room_for_a_ring(void **state)
{
    (void)state;
    struct world w;
    world_init(&w, METRIC_EUCLIDEAN, N, 3000);
    fill_uniform(&w, 0, 3000);
    memset(world_row(&w, 0), 0, N * sizeof(float)); /* everybody's neighbour */
    for (uint32_t i = 2000; i < 3000; i += 2)
        memset(world_row(&w, i), 0, N * sizeof(float));
    world_graph(&w, CODEC_FLOAT32, 4, 60, 3000);
    world_grow(&w, 3000);
    uint32_t links[256];
    bool has_twin;
    assert_true(links_of(&w, 0, links, &has_twin) <= w.g->degree);
    assert_true(has_twin);
    check_rings(&w);
    check_finds_all_like(&w, 0);
    assert_int_equal(count_unreachable(&w), 0);
    world_free(&w);
}

/* ---- threads ---- */

struct shared {
    struct world *w;
    _Atomic uint32_t next;
};

static void *link_some(void *arg)
{
    struct shared *s = arg;
    for (;;) {
        uint32_t i = atomic_fetch_add(&s->next, 1);
        if (i >= s->w->room) return NULL;
        epoch_enter();
        world_link(s->w, i);
        epoch_leave();
    }
}

static void equal_rows_come_from_everywhere(void **state)
{
    (void)state;
    enum { THREADS = 4, ROWS = 2000 / ROWS_DIVISOR };
    struct world w;
    struct err err;
    pthread_t threads[THREADS];
    world_init(&w, METRIC_EUCLIDEAN, N, ROWS);
    fill_groups(&w, 3);
    world_graph(&w, CODEC_INT8, 16, 60, ROWS);
    assert_int_equal(graph_reserve(w.g, ROWS, &err), ERR_OK);
    struct shared s = {.w = &w};
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, link_some, &s), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    w.rows = ROWS;
    check_rings(&w);
    choose_pivots(&w, NULL, 0);
    assert_true(count_unreachable(&w) <= 1);
    struct hits h = search(&w, world_row(&w, 0), ROWS);
    assert_true(h.found.count >= ROWS - 1);
    world_free(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_of_many_equal_rows_is_found),
        cmocka_unit_test(rows_between_crowds_are_found),
        cmocka_unit_test(rows_of_one_direction_are_equal_under_cosine),
        cmocka_unit_test(rings_outlive_their_rows),
        cmocka_unit_test(what_was_cut_off_is_linked_again),
        cmocka_unit_test(two_firsts_are_brought_together),
        cmocka_unit_test(a_full_list_has_room_for_a_ring),
        cmocka_unit_test(equal_rows_come_from_everywhere),
    };
    return cmocka_run_group_tests_name("graph_equal", tests, NULL, NULL);
}

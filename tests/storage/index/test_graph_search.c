/* Searches find what an exact search finds, nearly always, and nothing that they must not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "storage/index/graph_private.h"
#include "tests/storage/index/graph_world.h"

enum { ROWS = 5000 / ROWS_DIVISOR };

/* Linked one after the other; `w->g` is ready. */
static void make(struct world *w, enum metric metric, enum codec_kind kind, uint32_t m, uint32_t n,
                 uint32_t rows)
{
    world_init(w, metric, n, rows);
    fill_like_embeddings(w, 0, rows);
    world_graph(w, kind, m, 100, rows);
    world_grow(w, rows);
}

static void a_graph_finds_what_an_exact_search_finds(void **state)
{
    (void)state;
    static const struct {
        enum codec_kind kind;
        uint32_t n, ef;
        double recall;
    } cases[] = {
        {CODEC_INT8, 32, 25, 0.97}, {CODEC_FLOAT32, 32, 25, 0.97}, {CODEC_BINARY, 128, 100, 0.9}};
    for (int metric = 0; metric < METRIC_COUNT; metric++) {
        for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
            struct world w;
            if (metric == METRIC_MANHATTAN && cases[i].kind != CODEC_FLOAT32) continue;
            make(&w, metric, cases[i].kind, 16, cases[i].n, ROWS);
            double recall = recall_with(&w, cases[i].ef, NULL, fill_like_embeddings);
            print_message("%s, metric %d: recall %g\n", codec_name(cases[i].kind), metric, recall);
            assert_true(recall >= cases[i].recall);
            world_free(&w);
        }
    }
}

/* Half of the rows are longer than the others by a factor of 3 and more. */
static void fill_of_many_lengths(struct world *w, uint32_t first, uint32_t end)
{
    fill_uniform(w, first, end);
    for (uint32_t i = first; i < end; i++) {
        float length = expf(1.2f * (random_unit() + random_unit() + random_unit()));
        for (uint32_t k = 0; k < w->n; k++)
            world_row(w, i)[k] *= length;
    }
}

/* Dot product: there are links to the long rows, and those to near ones reach the short ones. */
static void long_rows_are_found_quickly_and_short_ones_at_all(void **state)
{
    (void)state;
    for (int kind = 0; kind < CODEC_KIND_COUNT; kind += 2) {
        struct world w;
        struct err err;
        static uint32_t nodes[ROWS];
        uint32_t count;
        world_init(&w, METRIC_DOT_PRODUCT, 48, ROWS);
        fill_of_many_lengths(&w, 0, ROWS);
        world_graph(&w, kind, 16, 100, ROWS);
        world_grow(&w, ROWS);
        double recall = recall_with(&w, 30, NULL, fill_uniform);

        assert_true(recall >= 0.95);
        assert_int_equal(graph_unreachable(w.g, NULL, nodes, ROWS, &count, &err), ERR_OK);
        print_message("%s: recall %g, unreachable %u\n", codec_name(kind), recall, count);
        assert_true(count <= ROWS / 100); /* audits see to them */
        world_free(&w);
    }
}

static void any_number_of_links_will_do(void **state)
{
    (void)state;
    static const uint32_t ms[] = {1, 4, 16, 64, 128, 1000};
    for (size_t i = 0; i < sizeof ms / sizeof ms[0]; i++) {
        struct world w;
        make(&w, METRIC_EUCLIDEAN, CODEC_INT8, ms[i], 32, 1000);
        assert_int_equal(w.g->link_bytes % 64, 0);
        assert_true(w.g->degree >= (ms[i] < 128 ? 2 * ms[i] - 2 : 254));
        assert_true(recall_with(&w, 40, NULL, fill_like_embeddings) >= 0.95);
        world_free(&w);
    }
}

static void an_empty_graph_has_nothing(void **state)
{
    (void)state;
    struct world w;
    struct err err;
    world_init(&w, METRIC_EUCLIDEAN, 8, 1);
    world_graph(&w, CODEC_INT8, 0, 0, 0);
    float zeros[8] = {0};
    assert_int_equal(search(&w, zeros, 10).count, 0);
    assert_int_equal(graph_memory(w.g), 0);
    assert_false(graph_wants_pivots(w.g));
    assert_int_equal(graph_reserve(w.g, 1, &err), ERR_OK);
    assert_int_equal(search(&w, zeros, 10).count, 0);
    choose_pivots(&w, NULL, 0);
    graph_set_pivots(w.g, NULL, 0);
    assert_int_equal(search(&w, zeros, 10).count, 0);
    world_grow(&w, 1);
    assert_int_equal(search(&w, zeros, 10).count, 1);
    world_free(&w);
}

static void fewer_than_ef_are_all_found(void **state)
{
    (void)state;
    struct world w;
    make(&w, METRIC_COSINE, CODEC_INT8, 16, 20, 50);
    for (uint32_t i = 0; i < 50; i++) {
        struct hits h = search(&w, world_row(&w, i), 32768);
        assert_int_equal(h.found.count, 50);
        assert_int_equal(h.node[0], i);
    }
    world_free(&w);
}

/* ---- hidden nodes ---- */

static bool finds(const struct world *w, const struct graph_query *q, uint32_t node)
{
    struct hits h = search_with(w, q);
    for (uint32_t i = 0; i < h.found.count; i++)
        if (h.found.nodes[i] == node) return true;
    return false;
}

static void hidden_nodes_are_never_found(void **state)
{
    (void)state;
    struct world w;
    make(&w, METRIC_EUCLIDEAN, CODEC_INT8, 16, 16, 500);
    uint64_t *all = live_bits(&w);
    for (uint32_t i = 0; i < 500; i++) {
        struct graph_query q = {.vector = world_row(&w, i), .ef = 50, .hidden = i};
        assert_false(finds(&w, &q, i));
        q.allowed = all;
        q.allowed_nodes = 500;
        assert_false(finds(&w, &q, i));
        q.seeds = &i;
        q.seed_count = 1;
        assert_false(finds(&w, &q, i));
        q.hidden = UINT32_MAX;
        assert_true(finds(&w, &q, i));
    }
    free(all);
    world_free(&w);
}

/* A chain 0 - 1 - 2 ...: whoever walks it meets every node. */
static void make_chain(struct world *w, uint32_t rows)
{
    struct err err;
    world_init(w, METRIC_EUCLIDEAN, 1, rows);
    for (uint32_t i = 0; i < rows; i++)
        w->row[i] = (float)i;
    world_graph(w, CODEC_FLOAT32, 16, 100, rows);
    assert_int_equal(graph_reserve(w->g, rows, &err), ERR_OK);
    struct graph_arena *a = atomic_load(&w->g->arena);
    for (uint32_t i = 0; i < rows; i++) {
        assert_true(graph_encode(w->g, i, world_row(w, i), i + 1));
        struct graph_node *node = graph_node(w->g, a, i);
        atomic_store(&node->links[0], i ? i - 1 : 1);
        atomic_store(&node->links[1], i + 1 < rows ? i + 1 : i - 1);
        atomic_store(&node->head, 2 | NODE_LINKED);
    }
    w->rows = rows;
    atomic_store(&w->g->linked_count, rows);
    graph_set_pivots(w->g, &(uint32_t){0}, 1);
}

static void hidden_nodes_are_not_walked_through(void **state)
{
    (void)state;
    struct world w;
    make_chain(&w, 100);
    float far = 99;
    struct graph_query q = {.vector = &far, .ef = 10, .hidden = UINT32_MAX};
    assert_int_equal(search_with(&w, &q).node[0], 99);
    q.hidden = 50;
    assert_int_equal(search_with(&w, &q).node[0], 49);
    q.hidden = 0; /* the one entry */
    assert_int_equal(search_with(&w, &q).found.count, 0);
    world_free(&w);
}

/* Some of those that lead to it would lead to its neighbours. */
static void a_hidden_node_leaves_half_a_gap(void **state)
{
    (void)state;
    enum { NODES = 1000 };
    struct world w;
    make_chain(&w, NODES);
    struct graph_arena *a = graph_arena(w.g);
    struct graph_scratch *s = graph_scratch(w.g, a, 1);
    uint32_t detours = 0;
    assert_non_null(s);
    for (uint32_t i = 1; i + 2 < NODES; i++) {
        uint32_t to = graph_detour(w.g, a, s, i, i + 1);
        if (to != NO_NODE) assert_int_equal(to, i + 2);
        detours += to != NO_NODE;
        assert_int_equal(graph_detour(w.g, a, s, i, i + 2), NO_NODE); /* it does not lead there */
    }
    assert_in_range(detours, NODES / 5, NODES / 2);
    world_free(&w);
}

/* ---- filters ---- */

static uint64_t *some_bits(const struct world *w, uint32_t one_in)
{
    uint64_t *bits = calloc(w->rows / 64 + 1, sizeof *bits);
    assert_non_null(bits);
    for (uint32_t i = 0; i < w->rows; i++)
        if (random_bits() % one_in == 0) bits[i / 64] |= (uint64_t)1 << i % 64;
    return bits;
}

static void a_filtered_search_finds_only_what_is_allowed(void **state)
{
    (void)state;
    struct world w;
    make(&w, METRIC_COSINE, CODEC_INT8, 16, 32, ROWS);
    static const uint32_t shares[] = {1, 2, 10, 50};
    for (size_t i = 0; i < sizeof shares / sizeof shares[0]; i++) {
        uint64_t *allowed = some_bits(&w, shares[i]);
        for (uint32_t k = 0; k < 20; k++) {
            struct graph_query q = {.vector = world_row(&w, k),
                                    .ef = 30,
                                    .allowed = allowed,
                                    .allowed_nodes = w.rows - 77,
                                    .hidden = UINT32_MAX};
            struct hits h = search_with(&w, &q);
            assert_true(h.found.count > 0);
            for (uint32_t j = 0; j < h.found.count; j++) {
                assert_true(h.found.nodes[j] < q.allowed_nodes);
                assert_true(allows(allowed, h.found.nodes[j]));
            }
        }
        double recall = recall_with(&w, 80, allowed, fill_like_embeddings);
        print_message("one in %u: recall %g\n", shares[i], recall);
        assert_true(recall >= 0.95);
        free(allowed);
    }
    world_free(&w);
}

static void a_filtered_search_gives_up_when_it_is_told_to(void **state)
{
    (void)state;
    struct world w;
    make(&w, METRIC_COSINE, CODEC_INT8, 16, 32, 2000);
    uint64_t *none = calloc(w.rows / 64 + 1, sizeof *none);
    assert_non_null(none);
    struct graph_query q = {.vector = world_row(&w, 0),
                            .ef = 10,
                            .allowed = none,
                            .allowed_nodes = w.rows,
                            .hidden = UINT32_MAX};
    struct hits h = search_with(&w, &q);
    assert_false(h.found.gave_up);
    assert_int_equal(h.found.count, 0);
    uint64_t all = h.found.distances_computed;
    assert_true(all <= w.rows + 64);
    q.distances_max = 300;
    h = search_with(&w, &q);
    assert_true(h.found.gave_up);
    assert_true(h.found.distances_computed <= 300 + w.g->degree);
    q.distances_max = all + 1;
    assert_false(search_with(&w, &q).found.gave_up);
    free(none);
    world_free(&w);
}

/* All that is near is no candidate, and more of it than a frontier holds. */
static void a_filtered_search_says_when_it_has_lost_sight(void **state)
{
    (void)state;
    enum { NODES = 1500 };
    struct world w;
    make_chain(&w, NODES);
    uint64_t *allowed = calloc(NODES / 64 + 1, sizeof *allowed);
    assert_non_null(allowed);
    float first = 0;
    struct graph_query q = {.vector = &first,
                            .ef = 5,
                            .allowed = allowed,
                            .allowed_nodes = NODES,
                            .hidden = UINT32_MAX};
    static const struct {
        uint32_t from, frontier;
        bool is_lost;
    } cases[] = {{0, 0, false}, {100, 0, false}, {1000, 0, true}, {1000, 1200, false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        memset(allowed, 0, (NODES / 64 + 1) * sizeof *allowed);
        for (uint32_t n = cases[i].from; n < NODES; n++)
            allowed[n / 64] |= (uint64_t)1 << n % 64;
        q.frontier = cases[i].frontier;
        struct hits h = search_with(&w, &q);
        assert_int_equal(h.found.lost_sight, cases[i].is_lost);
        assert_false(h.found.gave_up);
        if (!cases[i].is_lost) assert_int_equal(h.node[0], cases[i].from);
    }
    free(allowed);
    world_free(&w);
}

/* Few candidates are wanted, and they come early: it looks around all the same. */
static void a_filtered_search_looks_around(void **state)
{
    (void)state;
    struct world w;
    make(&w, METRIC_EUCLIDEAN, CODEC_FLOAT32, 6, 64, ROWS);
    uint64_t *allowed = some_bits(&w, 1);
    double recall[2] = {0};
    for (uint32_t k = 0; k < 200; k++) {
        float query[64];
        for (int i = 0; i < 64; i++)
            query[i] = (world_row(&w, k)[i] + world_row(&w, k + 1)[i]) / 2;
        struct graph_query q = {.vector = query,
                                .ef = 10,
                                .allowed = allowed,
                                .allowed_nodes = w.rows,
                                .hidden = UINT32_MAX};
        struct hits best = search_with(
            &w, &(struct graph_query){.vector = query, .ef = ROWS, .hidden = UINT32_MAX});
        float worst = best.found.distances[9];
        for (int i = 0; i < 2; i++) {
            q.explore = i ? 100 : 0;
            struct hits h = search_with(&w, &q);
            assert_int_equal(h.found.count, 10);
            if (i) assert_true(h.found.visited >= 100);
            for (uint32_t j = 0; j < h.found.count; j++)
                recall[i] += (h.found.distances[j] <= worst) / 2000.0;
        }
    }
    print_message("explored: recall %g, else %g\n", recall[1], recall[0]);
    assert_true(1 - recall[1] < (1 - recall[0]) / 2);
    free(allowed);
    world_free(&w);
}

/* Seeds lead where no walk from the pivots would. */
static void seeds_are_entries(void **state)
{
    (void)state;
    struct world w;
    make_chain(&w, 100);
    atomic_store(&graph_node(w.g, atomic_load(&w.g->arena), 50)->head, NODE_LINKED);
    uint64_t all[2] = {UINT64_MAX, UINT64_MAX};
    float far = 70;
    uint32_t seeds[] = {60, 4000000000u, 60};
    struct graph_query q = {
        .vector = &far, .ef = 5, .allowed = all, .allowed_nodes = 100, .hidden = UINT32_MAX};
    assert_int_equal(search_with(&w, &q).node[0], 50);
    q.seeds = seeds;
    q.seed_count = 3;
    assert_int_equal(search_with(&w, &q).node[0], 70);
    world_free(&w);
}

/* Nodes that no link leads to. */
static void loose_nodes_are_found_all_the_same(void **state)
{
    (void)state;
    enum { LINKED = 600, LOOSE = 150 };
    struct world w;
    struct err err;
    make(&w, METRIC_EUCLIDEAN, CODEC_FLOAT32, 16, 16, LINKED + LOOSE);
    graph_free(w.g); /* another one over the same rows, not yet all of them */
    world_graph(&w, CODEC_FLOAT32, 0, 0, 0);
    w.rows = 0;
    world_grow(&w, LINKED);
    assert_int_equal(graph_reserve(w.g, LINKED + LOOSE, &err), ERR_OK);
    uint32_t loose[2 * LOOSE + 2], count = 0;
    for (uint32_t i = LINKED; i < LINKED + LOOSE; i++) {
        assert_true(graph_encode(w.g, i, world_row(&w, i), 0));
        loose[count++] = i;
    }
    uint64_t *linked = live_bits(&w);
    loose[count++] = atomic_load(&w.g->arena)->capacity;
    for (uint32_t i = 0; i < LOOSE; i++) /* these have been linked meanwhile */
        loose[count++] = i;
    loose[count++] = UINT32_MAX;
    w.rows = LINKED + LOOSE;
    double recall = 0;
    for (uint32_t i = 0; i < w.rows; i++) {
        struct graph_query q = {.vector = world_row(&w, i),
                                .ef = 60,
                                .hidden = UINT32_MAX,
                                .loose = loose,
                                .loose_count = count};
        struct hits want = exact(&w, q.vector, NULL), got = search_with(&w, &q);
        if (i >= LINKED) assert_int_equal(got.node[0], i);
        recall += recall_of(&want, &got) / w.rows;
        for (uint32_t k = 1; k < got.count; k++)
            assert_int_not_equal(got.node[k], got.node[k - 1]); /* distances differ */
        /* With a filter loose nodes are candidates as well. */
        q.allowed = linked;
        q.allowed_nodes = LINKED;
        q.loose_count = LOOSE;
        got = search_with(&w, &q);
        if (i >= LINKED) assert_int_equal(got.node[0], i);
        struct graph_found found;
        assert_int_equal(graph_scan(w.g, &q, NULL, 0, &found, &err), ERR_OK);
        assert_int_equal(found.nodes[0], i);
        assert_int_equal(found.distances_computed, LINKED + LOOSE);
        for (uint32_t k = 0; k < want.count; k++)
            assert_int_equal(found.nodes[k], want.node[k]);
    }
    assert_true(recall > 0.95);
    free(linked);
    world_free(&w);
}

/* ---- scans ---- */

static void a_scan_is_exact(void **state)
{
    (void)state;
    struct world w;
    struct err err;
    make(&w, METRIC_EUCLIDEAN, CODEC_FLOAT32, 16, 24, 2003);
    uint32_t *list = calloc(w.rows, sizeof *list);
    assert_non_null(list);
    for (uint32_t round = 0; round < 20; round++) {
        uint64_t *allowed = some_bits(&w, 1 + round);
        uint32_t bound = w.rows - round * 31, count = 0;
        for (uint32_t i = bound; i-- > 0;)
            if (allows(allowed, i)) list[count++] = i;
        struct graph_query q = {
            .vector = world_row(&w, round), .ef = 15, .allowed = allowed, .allowed_nodes = bound};
        struct world part = w;
        part.rows = bound;
        struct hits want = exact(&part, q.vector, allowed);
        for (int over_list = 0; over_list < 2; over_list++) {
            struct graph_found found;
            assert_int_equal(graph_scan(w.g, &q, over_list ? list : NULL, count, &found, &err),
                             ERR_OK);
            assert_int_equal(found.count, count < 15 ? count : 15);
            assert_int_equal(found.distances_computed, count);
            for (uint32_t i = 0; i < want.count; i++)
                assert_int_equal(found.nodes[i], want.node[i]);
        }
        free(allowed);
    }
    free(list);
    world_free(&w);
}

static void a_scan_stays_inside_of_the_arena(void **state)
{
    (void)state;
    struct world w;
    struct err err;
    struct graph_found found;
    make(&w, METRIC_EUCLIDEAN, CODEC_INT8, 16, 24, 100);
    uint32_t capacity = atomic_load(&w.g->arena)->capacity;
    uint32_t list[] = {5, capacity, UINT32_MAX, 7, 1u << 31, 9};
    struct graph_query q = {.vector = world_row(&w, 5), .ef = 15};
    assert_int_equal(graph_scan(w.g, &q, list, 6, &found, &err), ERR_OK);
    assert_int_equal(found.count, 3);
    assert_int_equal(found.nodes[0], 5);
    uint64_t *all = malloc(capacity / 8 + 8);
    memset(all, 0xff, capacity / 8 + 8);
    q.allowed = all;
    q.allowed_nodes = capacity + 64;
    assert_int_equal(graph_scan(w.g, &q, NULL, 0, &found, &err), ERR_OK);
    assert_int_equal(found.distances_computed, capacity);
    free(all);
    world_free(&w);
}

/* ---- what a thread keeps ---- */

static void searches_of_one_thread_do_not_disturb_each_other(void **state)
{
    (void)state;
    struct world a, b;
    make(&a, METRIC_EUCLIDEAN, CODEC_INT8, 16, 16, 300);
    make(&b, METRIC_COSINE, CODEC_FLOAT32, 64, 100, 40);
    world_free(&b);
    make(&b, METRIC_COSINE, CODEC_FLOAT32, 64, 100, 5000 / ROWS_DIVISOR);
    for (uint32_t i = 0; i < 100; i++) {
        struct hits want = exact(&a, world_row(&a, i), NULL);
        struct hits got = search(&a, world_row(&a, i), 300);
        assert_int_equal(got.found.count, 300);
        assert_true(recall_of(&want, &got) == 1);
        got = search(&b, world_row(&b, i), 5000);
        assert_int_equal(got.node[0], i);
        got = search(&a, world_row(&a, i), 1);
        assert_int_equal(got.found.count, 1);
    }
    world_free(&a);
    world_free(&b);
}

/* The mark of what was visited is 16 bits wide. */
static void searches_without_number(void **state)
{
    (void)state;
    struct world w;
    make(&w, METRIC_EUCLIDEAN, CODEC_INT8, 16, 4, 20);
    for (uint32_t i = 0; i < 65536 + 100; i++) {
        struct graph_found found;
        struct err err;
        struct graph_query q = {.vector = world_row(&w, i % 20), .ef = 20, .hidden = UINT32_MAX};
        assert_int_equal(graph_search(w.g, &q, &found, &err), ERR_OK);
        assert_int_equal(found.count, 20);
    }
    world_free(&w);
}

/* ---- damage ---- */

static void garbage_in_links_is_harmless(void **state)
{
    (void)state;
    struct world w;
    struct err err;
    make(&w, METRIC_EUCLIDEAN, CODEC_INT8, 16, 16, 500);
    struct graph_arena *a = atomic_load(&w.g->arena);
    for (uint32_t i = 0; i < 500; i++) {
        struct graph_node *node = graph_node(w.g, a, i);
        for (uint32_t k = 0; k < w.g->degree; k++) {
            uint32_t link = (uint32_t)random_bits();
            if (k % 3 == 0) link = (uint32_t)random_bits() % a->capacity;
            if (k % 3 == 1) link = a->capacity - k % 2;
            atomic_store(&node->links[k], link);
        }
        atomic_store(&node->head, (random_bits() & NODE_DEGREE) | NODE_LINKED);
    }
    uint64_t *all = live_bits(&w), dead[8] = {0x1111111111111111, 0xf0f0f0f0f0f0f0f0};
    uint32_t nodes[500], count;
    for (uint32_t i = 0; i < 500; i++) {
        struct graph_query q = {.vector = world_row(&w, i), .ef = 50, .hidden = UINT32_MAX};
        search_with(&w, &q);
        q.allowed = all;
        q.allowed_nodes = 500;
        search_with(&w, &q);
        _Alignas(64) uint8_t copy[1024];
        graph_copy_node(w.g, i, 1, copy);
    }
    assert_int_equal(graph_unreachable(w.g, all, nodes, 500, &count, &err), ERR_OK);
    assert_true(graph_sweep(w.g, dead, 0, 500, false) > 0);
    assert_true(graph_sweep(w.g, all, 0, 250, true) == 0);
    for (uint32_t i = 0; i < 500; i++)
        assert_true(graph_link(w.g, i, 0, NULL));
    free(all);
    world_free(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_graph_finds_what_an_exact_search_finds),
        cmocka_unit_test(long_rows_are_found_quickly_and_short_ones_at_all),
        cmocka_unit_test(any_number_of_links_will_do),
        cmocka_unit_test(an_empty_graph_has_nothing),
        cmocka_unit_test(fewer_than_ef_are_all_found),
        cmocka_unit_test(hidden_nodes_are_never_found),
        cmocka_unit_test(hidden_nodes_are_not_walked_through),
        cmocka_unit_test(a_hidden_node_leaves_half_a_gap),
        cmocka_unit_test(a_filtered_search_finds_only_what_is_allowed),
        cmocka_unit_test(a_filtered_search_gives_up_when_it_is_told_to),
        cmocka_unit_test(a_filtered_search_says_when_it_has_lost_sight),
        cmocka_unit_test(a_filtered_search_looks_around),
        cmocka_unit_test(seeds_are_entries),
        cmocka_unit_test(loose_nodes_are_found_all_the_same),
        cmocka_unit_test(a_scan_is_exact),
        cmocka_unit_test(a_scan_stays_inside_of_the_arena),
        cmocka_unit_test(searches_of_one_thread_do_not_disturb_each_other),
        cmocka_unit_test(searches_without_number),
        cmocka_unit_test(garbage_in_links_is_harmless),
    };
    return cmocka_run_group_tests_name("graph_search", tests, NULL, NULL);
}

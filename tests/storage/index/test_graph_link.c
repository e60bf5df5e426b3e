/* Linking: whatever rows there are, and in whatever order, each of them can be found. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "storage/index/graph_private.h"
#include "tests/storage/index/graph_world.h"

static void make(struct world *w, enum metric metric, enum codec_kind kind, uint32_t n,
                 uint32_t rows, void (*fill)(struct world *w, uint32_t first, uint32_t end))
{
    world_init(w, metric, n, rows);
    fill(w, 0, rows);
    world_graph(w, kind, 16, 200, rows);
    world_grow(w, rows);
}

/* Rows that find themselves, of `sample`. */
static uint32_t count_found(const struct world *w, uint32_t sample, uint32_t ef)
{
    uint32_t good = 0;
    for (uint32_t i = 0; i < sample; i++) {
        uint32_t row = (uint32_t)((uint64_t)w->rows * i / sample);
        struct hits h = search(w, world_row(w, row), ef);
        good +=
            h.count > 0 && h.distance[0] <= world_distance(w, world_row(w, row), world_row(w, row));
    }
    return good;
}

/* A row that is nearer to all others than they are to each other would be their only link. */
static void fill_around_zero(struct world *w, uint32_t first, uint32_t end)
{
    fill_uniform(w, first, end);
    memset(world_row(w, w->room / 2), 0, w->n * sizeof(float));
}

static void a_zero_vector_amid_all_others_hides_nobody(void **state)
{
    (void)state;
    for (int kind = CODEC_INT8; kind <= CODEC_FLOAT32; kind += CODEC_FLOAT32 - CODEC_INT8) {
        struct world w;
        make(&w, METRIC_EUCLIDEAN, kind, 64, 5000 / ROWS_DIVISOR, fill_around_zero);
        assert_int_equal(count_found(&w, 500, 80), 500);
        world_free(&w);
    }
}

/* 20 rows a hundred times each, among others. */
static void fill_with_copies(struct world *w, uint32_t first, uint32_t end)
{
    enum { GROUPS = 20 };
    fill_uniform(w, first, end);
    for (uint32_t i = first; i < end; i++)
        if (i >= GROUPS && random_bits() % 2)
            memcpy(world_row(w, i), world_row(w, (uint32_t)random_bits() % GROUPS),
                   w->n * sizeof(float));
}

static void copies_of_rows_do_not_cut_off_the_others(void **state)
{
    (void)state;
    struct world w;
    make(&w, METRIC_EUCLIDEAN, CODEC_INT8, 16, 4000 / ROWS_DIVISOR, fill_with_copies);
    assert_true(count_found(&w, 500, 40) >= 495);
    double recall = recall_with(&w, 160, NULL, fill_uniform);
    print_message("copies: recall %g\n", recall);
    assert_true(recall >= 0.95);
    world_free(&w);
}

/* All rows alike: the graph is still walked to the end of ef. */
static void fill_alike(struct world *w, uint32_t first, uint32_t end)
{
    for (uint32_t i = first; i < end; i++)
        for (uint32_t k = 0; k < w->n; k++)
            world_row(w, i)[k] = (float)k;
}

static void rows_that_are_all_alike_are_found(void **state)
{
    (void)state;
    struct world w;
    make(&w, METRIC_COSINE, CODEC_INT8, 16, 1000, fill_alike);
    assert_true(search(&w, world_row(&w, 0), 100).found.count == 100);
    world_free(&w);
}

/* Far apart, and each tighter than one step of an int8 code. */
static void fill_clusters(struct world *w, uint32_t first, uint32_t end)
{
    enum { CLUSTERS = 50 };
    static float centre[CLUSTERS][64];
    if (centre[0][0] == 0) {
        for (int i = 0; i < CLUSTERS * 64; i++)
            centre[i / 64][i % 64] = 300 * random_unit();
    }
    for (uint32_t i = first; i < end; i++)
        for (uint32_t k = 0; k < w->n; k++)
            world_row(w, i)[k] = centre[i % CLUSTERS][k] + 0.1f * random_unit();
}

static void tight_clusters_are_told_apart_by_float32(void **state)
{
    (void)state;
    struct world w;
    make(&w, METRIC_EUCLIDEAN, CODEC_FLOAT32, 32, 4000 / ROWS_DIVISOR, fill_clusters);
    double recall = recall_with(&w, 60, NULL, fill_clusters);
    print_message("clusters: recall %g\n", recall);
    assert_true(recall >= 0.95);
    world_free(&w);
}

/* ---- rows that died ---- */

/* An update is a new row and a dead one.  If the dead ones crowd the same place, the new one has to
 * be found all the same. */
static void a_row_that_is_updated_all_the_time_is_found(void **state)
{
    (void)state;
    enum { ROWS = 2000 / ROWS_DIVISOR, UPDATES = 400 };
    for (int apart = 0; apart < 2; apart++) {
        struct world w;
        world_init(&w, METRIC_EUCLIDEAN, 32, ROWS + UPDATES);
        fill_like_embeddings(&w, 0, ROWS + UPDATES);
        world_graph(&w, CODEC_INT8, 16, 100, ROWS);
        world_grow(&w, ROWS);
        struct err err;
        assert_int_equal(graph_reserve(w.g, ROWS + UPDATES, &err), ERR_OK);
        uint32_t last = 123, lost = 0;
        for (uint32_t i = ROWS; i < ROWS + UPDATES; i++) {
            for (uint32_t k = 0; k < w.n; k++)
                world_row(&w, i)[k] = world_row(&w, 123)[k] + (apart ? 0.01f * random_unit() : 0);
            world_kill(&w, last);
            w.rows = i + 1;
            world_link(&w, i);
            last = i;
            /* Dead rows crowd the candidates, too: ask for more than there are. */
            struct hits h = search(&w, world_row(&w, i), UPDATES + 100);
            lost += !has_hit(&h, i);
        }
        print_message("updated in place: lost %u of %d times\n", lost, UPDATES);
        assert_int_equal(lost, 0);
        uint64_t *live = live_bits(&w);
        uint32_t nodes[64], count;
        assert_int_equal(graph_unreachable(w.g, live, nodes, 64, &count, &err), ERR_OK);
        assert_int_equal(count, 0);
        for (uint32_t i = 0; i < w.rows; i++)
            assert_true(graph_sweep(w.g, w.dead, i, i + 1, apart) <= 1);
        struct hits h = search(&w, world_row(&w, last), 30);
        assert_true(has_hit(&h, last));
        free(live);
        world_free(&w);
    }
}

/* Linked while everything else is dead: it has to be found, and what comes after it. */
static void rows_after_a_clearance_are_found(void **state)
{
    (void)state;
    enum { OLD = 1000, NEW = 500 };
    struct world w;
    world_init(&w, METRIC_COSINE, 32, OLD + NEW);
    fill_like_embeddings(&w, 0, OLD + NEW);
    world_graph(&w, CODEC_INT8, 16, 100, OLD);
    world_grow(&w, OLD);
    for (uint32_t i = 0; i < OLD; i++)
        world_kill(&w, i);
    world_grow(&w, OLD + NEW);
    uint32_t good = 0;
    for (uint32_t i = OLD; i < OLD + NEW; i++) {
        struct hits h = search(&w, world_row(&w, i), 400);
        good += has_hit(&h, i);
    }
    print_message("after a clearance: %u of %d found\n", good, NEW);
    assert_int_equal(good, NEW);
    world_free(&w);
}

static void dead_rows_are_not_linked_to(void **state)
{
    (void)state;
    enum { ROWS = 1000 };
    struct world w;
    make(&w, METRIC_EUCLIDEAN, CODEC_INT8, 16, ROWS, fill_like_embeddings);
    for (uint32_t i = 0; i < ROWS - 1; i += 2)
        world_kill(&w, i);
    struct graph_liveness alive = {world_is_alive, &w};
    struct graph_arena *a = atomic_load(&w.g->arena);
    for (uint32_t i = 1; i < ROWS; i += 50) {
        assert_true(graph_link(w.g, i, 50, &alive));
        struct graph_node *node = graph_node(w.g, a, i);
        uint32_t degree = atomic_load(&node->head) & NODE_DEGREE;
        assert_true(degree > 0);
        for (uint32_t k = 0; k < degree; k++) {
            uint32_t link = atomic_load(&node->links[k]);
            assert_true(link != i);
            assert_false(world_is_dead(&w, link));
        }
    }
    assert_int_equal(atomic_load(&w.g->linked_count), ROWS); /* none of them twice */
    world_free(&w);
}

/* Sorted input is the worst for entry points: all of them at one end. */
static void fill_sorted(struct world *w, uint32_t first, uint32_t end)
{
    for (uint32_t i = first; i < end; i++)
        for (uint32_t k = 0; k < w->n; k++)
            world_row(w, i)[k] = (float)i * (k ? 0.1f : 1) + random_unit();
}

static void sorted_rows_are_found(void **state)
{
    (void)state;
    struct world w;
    make(&w, METRIC_EUCLIDEAN, CODEC_FLOAT32, 2, 4000 / ROWS_DIVISOR, fill_sorted);
    assert_int_equal(count_found(&w, 500, 10), 500);
    world_free(&w);
}

/* ---- lists that are full ---- */

enum { DEGREE = 30, HUB = 0, LATER = DEGREE + 1 };

/* Row HUB leads to DEGREE rows around it; returns its links once the row LATER, which is filled in,
 * is linked, too. */
static uint32_t link_later(struct world *w, uint32_t *links)
{
    uint32_t from = HUB;
    world_graph(w, CODEC_FLOAT32, 16, 200, LATER + 1);
    world_grow(w, LATER);
    for (uint32_t i = 1; i <= DEGREE; i++)
        assert_int_equal(graph_lead_to(w->g, &from, 1, i), NO_NODE);
    world_grow(w, LATER + 1);
    struct graph_arena *a = graph_arena(w->g);
    return graph_links(w->g, graph_node(w->g, a, HUB), a->capacity, links);
}

static bool is_among(uint32_t node, const uint32_t *links, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        if (links[i] == node) return true;
    return false;
}

/* Each in a direction of its own; the one that comes later is in front of three of them. */
static void a_row_takes_the_places_of_those_it_is_in_front_of(void **state)
{
    (void)state;
    struct world w;
    uint32_t links[BATCH_MAX], count;
    world_init(&w, METRIC_EUCLIDEAN, 64, LATER + 1);
    memset(world_row(&w, 0), 0, (LATER + 1) * w.n * sizeof(float));
    for (uint32_t i = 1; i <= DEGREE; i++)
        world_row(&w, i)[i] = 10;
    for (uint32_t i = 1; i <= 3; i++)
        world_row(&w, LATER)[i] = 3;
    count = link_later(&w, links);
    assert_true(is_among(LATER, links, count));
    for (uint32_t i = 1; i <= DEGREE; i++)
        assert_int_equal(is_among(i, links, count), i > 3);
    world_free(&w);
}

/* Those that it is in front of are all there are: some of them stay. */
static void a_list_is_not_left_with_few_links(void **state)
{
    (void)state;
    struct world w;
    uint32_t links[BATCH_MAX], count;
    world_init(&w, METRIC_EUCLIDEAN, 64, LATER + 1);
    memset(world_row(&w, 0), 0, (LATER + 1) * w.n * sizeof(float));
    for (uint32_t i = 1; i <= DEGREE; i++) {
        world_row(&w, i)[0] = 7.4f;
        world_row(&w, i)[i] = 6.7f;
    }
    world_row(&w, LATER)[0] = 4;
    count = link_later(&w, links);
    assert_true(is_among(LATER, links, count));
    assert_true(count >= DEGREE_MIN_FILL);
    world_free(&w);
}

/* A row that would be linked to its own cluster alone, but for the links that are left for what is
 * hidden least. */
static void some_links_lead_out_of_a_cluster(void **state)
{
    (void)state;
    enum { FAR = 20, NEAR = 40, ROWS = FAR + NEAR };
    struct world w;
    world_init(&w, METRIC_EUCLIDEAN, 64, ROWS);
    memset(world_row(&w, 0), 0, ROWS * w.n * sizeof(float));
    for (uint32_t i = 0; i < ROWS; i++)
        world_row(&w, i)[i] = i < FAR ? 3 : 1 + 0.004f * (float)(i - FAR);
    world_graph(&w, CODEC_FLOAT32, 16, 200, ROWS);
    world_grow(&w, ROWS);
    struct graph_arena *a = graph_arena(w.g);
    uint32_t links[BATCH_MAX], out = 0;
    uint32_t count = graph_links(w.g, graph_node(w.g, a, ROWS - 1), a->capacity, links);
    for (uint32_t i = 0; i < count; i++)
        out += links[i] < FAR;
    assert_int_equal(count, 16);
    assert_true(out >= 2);
    world_free(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_zero_vector_amid_all_others_hides_nobody),
        cmocka_unit_test(copies_of_rows_do_not_cut_off_the_others),
        cmocka_unit_test(rows_that_are_all_alike_are_found),
        cmocka_unit_test(tight_clusters_are_told_apart_by_float32),
        cmocka_unit_test(a_row_that_is_updated_all_the_time_is_found),
        cmocka_unit_test(rows_after_a_clearance_are_found),
        cmocka_unit_test(dead_rows_are_not_linked_to),
        cmocka_unit_test(sorted_rows_are_found),
        cmocka_unit_test(a_row_takes_the_places_of_those_it_is_in_front_of),
        cmocka_unit_test(a_list_is_not_left_with_few_links),
        cmocka_unit_test(some_links_lead_out_of_a_cluster),
    };
    return cmocka_run_group_tests_name("graph_link", tests, NULL, NULL);
}

/* The record of an index: what went in comes out, and nothing is believed unchecked. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "storage/base/epoch.h"
#include "storage/format.h"
#include "storage/index/index_record.h"

enum { DIMENSION = 7, SLOTS = 400 };

static struct err err;
static const struct schema schema = {.dimension = DIMENSION, .metric = METRIC_DOT_PRODUCT};

static struct graph *some_graph(enum codec_kind codec)
{
    static const float mean[DIMENSION] = {1, -2, 3.5f, 0, 1e-20f, 1e20f, -0.0f};
    struct graph_options options = {
        .codec = codec, .m = 9, .ef_construction = 77, .gain = 0.25f, .mean = mean};
    struct graph *g;
    assert_int_equal(graph_new(schema.metric, DIMENSION, &options, &g, &err), ERR_OK);
    assert_int_equal(graph_reserve(g, SLOTS, &err), ERR_OK);
    for (uint32_t n = 0; n < 300; n++) {
        float row[DIMENSION];
        for (int i = 0; i < DIMENSION; i++)
            row[i] = (float)rand() / (float)RAND_MAX;
        assert_true(graph_encode(g, n, row, 1) && graph_link(g, n, 20, NULL));
    }
    graph_choose_pivots(g, NULL, NULL, 0);
    return g;
}

static void encode(struct graph *g, struct buf *out)
{
    uint32_t pending[] = {399, 7, 8, 9, 350, 351, 7, 9, 0, 64, 63, 65, 128};
    uint32_t aside[] = {20, 3, 21};
    uint32_t extra[] = {5};
    struct vector_index_state state = {
        .graph = g,
        .pending = pending,
        .pending_count = sizeof pending / sizeof *pending,
        .aside = aside,
        .aside_count = 3,
        .extra_pivots = extra,
        .extra_pivot_count = 1,
        .reuse_lsn = 123456789012,
        .effort = {.rows = 300, .queries = 20, .steps = 2, .ef = {10, 40}},
    };
    state.effort.recall[0][0] = 0.5f;
    state.effort.recall[2][1] = 0.75f;
    state.effort.error[1][1] = 0.125f;
    epoch_enter();
    assert_true(index_record_encode(&state, SLOTS, out));
    epoch_leave();
}

static void what_goes_in_comes_out(void **state)
{
    (void)state;
    static const uint32_t pending[] = {0, 7, 8, 9, 63, 64, 65, 128, 350, 351, 399};
    for (int codec = 0; codec < CODEC_KIND_COUNT; codec++) {
        struct graph *g = some_graph((enum codec_kind)codec);
        const struct graph_pivots *pivots = atomic_load(&g->pivots);
        struct buf out = {0};
        struct index_record r;
        encode(g, &out);
        assert_true(index_record_decode((uint8_t *)out.data, out.len, &schema, SLOTS, &r));
        assert_int_equal(r.node_count, 300);
        assert_int_equal(r.linked_count, 300);
        assert_true(r.reach2 > 0 && r.reach2 == atomic_load(g->codec.reach2));
        assert_int_equal(r.pivot_count, pivots->count);
        assert_memory_equal(r.pivots, pivots->nodes, r.pivot_count * sizeof *r.pivots);
        assert_int_equal(r.state.pending_count, sizeof pending / sizeof *pending);
        assert_memory_equal(r.state.pending, pending, sizeof pending);
        assert_int_equal(r.state.aside_count, 3);
        assert_int_equal(r.state.aside[0], 3);
        assert_int_equal(r.state.aside[2], 21);
        assert_int_equal(r.state.extra_pivot_count, 1);
        assert_int_equal(r.state.extra_pivots[0], 5);
        assert_int_equal(r.state.reuse_lsn, 123456789012);
        assert_int_equal(r.state.effort.rows, 300);
        assert_int_equal(r.state.effort.ef[1], 40);
        assert_true(r.state.effort.recall[0][0] == 0.5f && r.state.effort.recall[2][1] == 0.75f);
        assert_true(r.state.effort.error[1][1] == 0.125f && r.state.effort.error[1][0] == 0);

        /* A graph of the same make. */
        struct graph *again;
        assert_int_equal(graph_new(schema.metric, DIMENSION, &r.options, &again, &err), ERR_OK);
        assert_int_equal(again->link_bytes, g->link_bytes);
        assert_int_equal(again->degree, r.degree);
        assert_int_equal(again->ef_construction, 77);
        assert_int_equal(again->codec.seed, g->codec.seed);
        assert_int_equal(again->codec.cell_bytes, g->codec.cell_bytes);
        assert_true(again->codec.gain == g->codec.gain);
        if (g->codec.mean)
            assert_memory_equal(again->codec.mean, g->codec.mean, DIMENSION * sizeof(float));
        const struct graph_arena *a = atomic_load(&g->arena);
        assert_true(codec_cell_is_good(&again->codec, 9, graph_cell(g, a, 9), 1));
        graph_free(again);
        index_record_deinit(&r);
        buf_free(&out);
        graph_free(g);
    }
}

static void an_empty_graph_has_a_record_too(void **state)
{
    (void)state;
    struct graph_options options = {.codec = CODEC_FLOAT32};
    struct vector_index_state empty = {0};
    struct index_record r;
    struct buf out = {0};
    assert_int_equal(graph_new(schema.metric, DIMENSION, &options, &empty.graph, &err), ERR_OK);
    assert_true(index_record_encode(&empty, 0, &out));
    assert_true(index_record_decode((uint8_t *)out.data, out.len, &schema, 0, &r));
    assert_int_equal(r.state.pending_count, 0);
    index_record_deinit(&r);
    buf_free(&out);
    graph_free(empty.graph);
}

/* Each field of the head gets values that a record cannot have. */
static void a_head_that_makes_no_sense_is_refused(void **state)
{
    (void)state;
    struct graph *g = some_graph(CODEC_INT8);
    struct buf out = {0};
    struct index_record r;
    encode(g, &out);
    struct disk_index *d = (struct disk_index *)(void *)out.data, right = *d;
#define REFUSED(field, value)                                                                      \
    do {                                                                                           \
        d->field = (value);                                                                        \
        assert_false(index_record_decode((uint8_t *)out.data, out.len, &schema, SLOTS, &r));       \
        *d = right;                                                                                \
    } while (0)
    REFUSED(codec, CODEC_KIND_COUNT);
    REFUSED(codec, UINT32_MAX);
    REFUSED(degree, 0);
    REFUSED(degree, 13);
    REFUSED(degree, 128);
    REFUSED(ef_construction, 0);
    REFUSED(ef_construction, UINT32_MAX);
    REFUSED(seed, 0);
    REFUSED(gain, 0);
    REFUSED(gain, NAN);
    REFUSED(gain, INFINITY);
    REFUSED(reach2, -1);
    REFUSED(reach2, NAN);
    REFUSED(node_count, SLOTS + 1);
    REFUSED(node_count, 4);
    REFUSED(linked_count, 301);
    REFUSED(effort_rows, 0);
    REFUSED(step_count, 0);
    REFUSED(step_count, 1000);
    REFUSED(mean_count, 0);
    REFUSED(mean_count, DIMENSION - 1);
    REFUSED(pivot_count, 0);
    REFUSED(pivot_count, UINT32_MAX);
    REFUSED(extra_count, 2);
    REFUSED(extra_count, UINT32_MAX);
    REFUSED(aside_run_count, 1);
    REFUSED(aside_run_count, UINT32_MAX);
    REFUSED(run_count, right.run_count + 1);
    REFUSED(run_count, UINT32_MAX);
    assert_true(index_record_decode((uint8_t *)out.data, out.len, &schema, SLOTS, &r));
    index_record_deinit(&r);
    /* Of another schema, of fewer slots. */
    struct schema other = schema;
    other.dimension++;
    assert_false(index_record_decode((uint8_t *)out.data, out.len, &other, SLOTS, &r));
    assert_false(index_record_decode((uint8_t *)out.data, out.len, &schema, SLOTS - 1, &r));
    buf_free(&out);
    graph_free(g);
}

static void one_that_is_cut_short_or_too_long_is_refused(void **state)
{
    (void)state;
    struct graph *g = some_graph(CODEC_BINARY);
    struct buf out = {0};
    struct index_record r;
    encode(g, &out);
    for (size_t len = 0; len < out.len; len++) {
        uint8_t *exact = malloc(len + 1); /* sanitizers see the end */
        memcpy(exact, out.data, len);
        assert_false(index_record_decode(exact, len, &schema, SLOTS, &r));
        free(exact);
    }
    buf_add(&out, "", 1);
    assert_false(index_record_decode((uint8_t *)out.data, out.len, &schema, SLOTS, &r));
    buf_free(&out);
    graph_free(g);
}

static void random_lies_are_refused_or_harmless(void **state)
{
    (void)state;
    struct graph *g = some_graph(CODEC_INT8);
    struct buf out = {0};
    struct index_record r;
    encode(g, &out);
    srand(5);
    int believed = 0;
    for (int round = 0; round < 20000; round++) {
        size_t at = (size_t)rand() % out.len;
        char right = out.data[at];
        out.data[at] = (char)rand();
        if (index_record_decode((uint8_t *)out.data, out.len, &schema, SLOTS, &r)) {
            believed++;
            for (size_t i = 0; i < r.pivot_count; i++)
                assert_true(r.pivots[i] < r.node_count && r.node_count <= SLOTS);
            for (size_t i = 0; i < r.state.pending_count; i++)
                assert_true(r.state.pending[i] < SLOTS);
            for (size_t i = 0; i < r.state.aside_count; i++)
                assert_true(r.state.aside[i] < SLOTS);
            index_record_deinit(&r);
        }
        out.data[at] = right;
    }
    assert_true(believed > 0);
    buf_free(&out);
    graph_free(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_goes_in_comes_out),
        cmocka_unit_test(an_empty_graph_has_a_record_too),
        cmocka_unit_test(a_head_that_makes_no_sense_is_refused),
        cmocka_unit_test(one_that_is_cut_short_or_too_long_is_refused),
        cmocka_unit_test(random_lies_are_refused_or_harmless),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* What writers note and searches are told, without an indexer. */
#include "tests/storage/fixture.h"

#include <pthread.h>

#include "storage/base/epoch.h"
#include "storage/index/effort.h"
#include "storage/index/index_work.h"
#include "storage/index/vector_index_private.h"

static struct err err;
static const struct schema schema = {.dimension = 4, .metric = METRIC_EUCLIDEAN};

static struct graph *empty_graph(void)
{
    struct graph_options options = {.codec = CODEC_FLOAT32};
    struct graph *g = NULL;
    CHECK_OK(graph_new(schema.metric, schema.dimension, &options, &g, &err));
    return g;
}

/* An index with a graph, as if a file had held it. */
static struct vector_index *index_with_graph(const struct vector_index_state *more)
{
    struct vector_index *ix = vector_index_new(&schema);
    struct vector_index_state state = more ? *more : (struct vector_index_state){0};
    state.graph = empty_graph();
    vector_index_adopt(ix, &state, 100, 0);
    return ix;
}

static void without_a_graph_searches_are_exact_and_slots_are_free(void **state)
{
    (void)state;
    struct vector_index *ix = vector_index_new(&schema);
    struct vector_index_rest rest;
    vector_index_put(ix, 0);
    vector_index_end(ix, 0);
    assert_null(vector_index_graph(ix, UINT64_MAX, &rest));
    assert_int_equal(rest.tail, rest.head);
    assert_int_equal(vector_index_reuse_lsn(ix), UINT64_MAX);
    assert_int_equal(vector_index_backlog(ix), 0);
    vector_index_free(ix);
}

static void without_a_graph_the_indexer_is_told_now_and_then(void **state)
{
    (void)state;
    struct vector_index *ix = vector_index_new(&schema);
    int told = 0;
    for (uint32_t i = 0; i < 2560; i++) {
        vector_index_put(ix, i);
        told += vector_index_wants_work(ix);
    }
    assert_int_equal(told, 10);
    vector_index_free(ix);
}

static void with_a_graph_every_change_is_told(void **state)
{
    (void)state;
    struct vector_index *ix = index_with_graph(NULL);
    assert_true(vector_index_wants_work(ix)); /* it was opened */
    assert_false(vector_index_wants_work(ix));
    vector_index_put(ix, 3);
    assert_true(vector_index_wants_work(ix));
    vector_index_end(ix, 3);
    assert_true(vector_index_wants_work(ix));
    vector_index_free(ix);
}

static void older_snapshots_than_the_graph_are_searched_exactly(void **state)
{
    (void)state;
    struct vector_index *ix = index_with_graph(NULL);
    struct vector_index_rest rest;
    assert_null(vector_index_graph(ix, 99, &rest));
    assert_non_null(vector_index_graph(ix, 100, &rest));
    vector_index_lose(ix);
    assert_null(vector_index_graph(ix, 100, &rest));
    vector_index_free(ix);
}

static void readers_that_fall_back_may_lose_the_graph(void **state)
{
    (void)state;
    struct vector_index *ix = index_with_graph(NULL);
    struct vector_index_rest rest;
    atomic_store(&ix->forgot_lsn, 150); /* rows that died at 150 are no longer in it */
    vector_index_fall_back(ix, 150);
    assert_non_null(vector_index_graph(ix, 150, &rest));
    vector_index_fall_back(ix, 149);
    assert_null(vector_index_graph(ix, 149, &rest));
    vector_index_free(ix);
}

static void the_dead_are_known(void **state)
{
    (void)state;
    struct vector_index *ix = index_with_graph(NULL);
    for (uint32_t i = 0; i < 1000; i++)
        vector_index_put(ix, i);
    for (uint32_t i = 0; i < 1000; i += 3)
        vector_index_end(ix, i);
    vector_index_put(ix, 300); /* used again */
    struct slot_bits *dead = atomic_load(&ix->dead);
    for (uint32_t i = 0; i < 1000; i++)
        assert_int_equal(slot_bits_has(dead, i), i % 3 == 0 && i != 300);
    assert_false(slot_bits_has(dead, 5000000));
    vector_index_free(ix);
}

/* ---- pending rows ---- */

struct race {
    struct vector_index *ix;
    _Atomic bool done;
    _Atomic uint64_t checked;
};

static void *look(void *arg)
{
    struct race *race = arg;
    uint64_t head = 0, tail = 0;
    while (!atomic_load(&race->done)) {
        struct vector_index_rest rest;
        epoch_enter();
        assert_non_null(vector_index_graph(race->ix, 100, &rest));
        assert_true(rest.head >= head && rest.tail >= tail && rest.head <= rest.tail);
        assert_true(rest.encoded <= rest.tail);
        /* Slot i is put at position i. */
        for (uint64_t i = rest.head; i < rest.tail; i++)
            assert_int_equal(rest.slots[i & rest.mask], i);
        epoch_leave();
        head = rest.head;
        tail = rest.tail;
        atomic_fetch_add(&race->checked, 1);
    }
    return NULL;
}

/* The linker's part: takes the older half away. */
static void *take(void *arg)
{
    struct race *race = arg;
    while (!atomic_load(&race->done)) {
        uint64_t head = atomic_load(&race->ix->head), tail = atomic_load(&race->ix->tail);
        uint64_t to = head + (tail - head) / 2;
        atomic_store_explicit(&race->ix->encoded, tail, memory_order_release);
        atomic_store_explicit(&race->ix->head, to, memory_order_release);
        sched_yield();
    }
    return NULL;
}

static void pending_rows_are_seen_whole_while_they_come_and_go(void **state)
{
    (void)state;
    struct race race = {.ix = index_with_graph(NULL)};
    pthread_t readers[2], linker;
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&readers[i], NULL, look, &race), 0);
    assert_int_equal(pthread_create(&linker, NULL, take, &race), 0);
    for (uint32_t i = 0; i < 200000; i++) {
        vector_index_put(race.ix, i);
        if (i % 5000 == 0) sched_yield();
    }
    while (atomic_load(&race.checked) < 100)
        sched_yield();
    atomic_store(&race.done, true);
    for (int i = 0; i < 2; i++)
        pthread_join(readers[i], NULL);
    pthread_join(linker, NULL);
    epoch_synchronize();
    vector_index_free(race.ix);
}

/* ---- slowing down ---- */

static void writers_wait_only_for_a_backlog_and_one_behind_the_other(void **state)
{
    (void)state;
    struct vector_index *ix = index_with_graph(NULL);
    uint64_t max = atomic_load(&ix->pending_max);
    atomic_store(&ix->rows_per_s, 1000);
    for (uint32_t i = 0; i < max; i++)
        vector_index_put(ix, i);
    assert_int_equal(vector_index_backlog(ix), 0);
    assert_int_equal(vector_index_delay_ns(ix, 1000), 0);
    for (uint32_t i = 0; i < max / 2; i++)
        vector_index_put(ix, i);
    assert_int_equal(vector_index_backlog(ix), max / 2);
    /* As fast as they are linked: 100 rows in a tenth of a second. */
    uint64_t first = vector_index_delay_ns(ix, 100), second = vector_index_delay_ns(ix, 100);
    assert_in_range(first, 90000000, 100000000);
    assert_in_range(second, first, 100000000);
    /* Never so long that the client gives up. */
    assert_in_range(vector_index_delay_ns(ix, 1), 1, 50000000);
    assert_in_range(vector_index_delay_ns(ix, 1000000), 1, 5000000000);
    vector_index_free(ix);
}

static void few_rows_may_be_pending_while_they_are_searched(void **state)
{
    (void)state;
    const uint64_t seconds = 1000000000;
    struct vector_index *ix = index_with_graph(NULL);
    atomic_store(&ix->rows_per_s, 10000);
    for (uint32_t i = 0; i < 10000; i++)
        vector_index_put(ix, i);
    /* Nobody searches, or finds only few. */
    assert_int_equal(vector_index_backlog(ix), 0);
    vector_index_compared_pending(ix, 100);
    assert_int_equal(vector_index_backlog(ix), 0);

    vector_index_compared_pending(ix, 10000);
    assert_true(vector_index_backlog(ix) > 8000);
    /* Slower than they are linked, but not much at a time. */
    assert_in_range(vector_index_delay_ns(ix, 1), seconds / 10000 + 1, seconds / 25);
    for (int i = 0; i < 100; i++)
        assert_in_range(vector_index_delay_ns(ix, 1), 1, seconds / 25);

    /* Without searches more and more may be. */
    uint64_t last = vector_index_backlog(ix);
    for (uint64_t ago = 300; ago < 1000; ago += 300) {
        atomic_store(&ix->crowded_ns, clock_ns() - ago * 1000000);
        assert_true(vector_index_backlog(ix) < last);
        last = vector_index_backlog(ix);
    }
    atomic_store(&ix->crowded_ns, clock_ns() - 3 * seconds);
    assert_int_equal(vector_index_backlog(ix), 0);
    /* Another thread's clock may be a little ahead. */
    atomic_store(&ix->crowded_ns, clock_ns() + seconds);
    assert_true(vector_index_backlog(ix) > 8000);
    vector_index_free(ix);
}

/* ---- what is kept ---- */

static void state_goes_out_and_comes_back(void **state)
{
    (void)state;
    uint32_t pending[] = {5, 9, 7}, aside[] = {2}, extra[] = {3, 4};
    struct vector_index_state given = {.pending = pending,
                                       .pending_count = 3,
                                       .aside = aside,
                                       .aside_count = 1,
                                       .extra_pivots = extra,
                                       .extra_pivot_count = 2,
                                       .reuse_lsn = 77};
    given.effort = (struct effort_table){.rows = 10, .queries = 1, .steps = 1, .ef = {32}};
    struct vector_index *ix = index_with_graph(&given);
    struct vector_index_state got;
    CHECK_OK(vector_index_export(ix, &got, &err));
    assert_int_equal(got.pending_count, 3);
    assert_memory_equal(got.pending, pending, sizeof pending);
    assert_int_equal(got.aside_count, 1);
    assert_memory_equal(got.aside, aside, sizeof aside);
    assert_int_equal(got.extra_pivot_count, 2);
    assert_memory_equal(got.extra_pivots, extra, sizeof extra);
    assert_int_equal(got.reuse_lsn, 77);
    assert_int_equal(got.effort.ef[0], 32);
    assert_ptr_equal(got.graph, atomic_load(&ix->graph));
    vector_index_state_deinit(&got);

    struct vector_index_rest rest;
    assert_non_null(vector_index_graph(ix, 100, &rest));
    assert_int_equal(rest.tail - rest.head, 3);
    assert_int_equal(rest.encoded, rest.head);
    assert_int_equal(rest.aside_count, 1);
    assert_int_equal(vector_index_reuse_lsn(ix), 77);
    vector_index_free(ix);
}

/* ---- effort ---- */

static void effort_without_measurement_is_a_careful_guess(void **state)
{
    (void)state;
    struct vector_index *ix = index_with_graph(NULL);
    double expected = 1;
    assert_in_range(vector_index_effort(ix, 0.95, 10, &expected), 60, 70);
    assert_true(expected == 0);
    assert_in_range(vector_index_effort(ix, 0.95, 100, &expected), 200, 210);
    assert_true(vector_index_effort(ix, 0.99, 10, &expected) > 150);
    assert_in_range(vector_index_effort(ix, 0.99, 10000, &expected), 10000, EFFORT_MAX);
    vector_index_free(ix);
}

/* ---- samples ---- */

static void only_some_searches_are_kept_and_not_too_many(void **state)
{
    (void)state;
    struct vector_index *ix = index_with_graph(NULL);
    float query[4] = {1, 2, 3, 4};
    uint32_t slots[10] = {0};
    for (int i = 0; i < 1000; i++)
        vector_index_sample(ix, query, 10, 100, slots, 10);
    /* Much more than one a second: each time twice as many are passed over. */
    assert_in_range(ix->samples.count, 2, 11);
    for (int i = 0; i < 1000; i++) {
        atomic_store(&ix->samples.skip, 0);
        vector_index_sample(ix, query, 10, 100, slots, 10);
    }
    assert_int_equal(ix->samples.count, SAMPLES_MAX);
    vector_index_free(ix);
}

/* ---- order ---- */

static void a_shuffle_visits_every_number_once(void **state)
{
    (void)state;
    static bool seen[4096];
    for (unsigned bits = 1; bits <= 12; bits++) {
        uint64_t all = UINT64_C(1) << bits, in_place = 0;
        memset(seen, 0, sizeof seen);
        for (uint64_t i = 0; i < all; i++) {
            uint64_t to = work_shuffle(i, bits);
            assert_true(to < all && !seen[to]);
            seen[to] = true;
            in_place += to == i || to == i + 1;
        }
        if (bits > 6) assert_true(in_place < all / 8);
    }
    assert_int_equal(work_shuffle_bits(1), 1);
    assert_int_equal(work_shuffle_bits(1024), 10);
    assert_int_equal(work_shuffle_bits(1025), 11);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_a_graph_searches_are_exact_and_slots_are_free),
        cmocka_unit_test(without_a_graph_the_indexer_is_told_now_and_then),
        cmocka_unit_test(with_a_graph_every_change_is_told),
        cmocka_unit_test(older_snapshots_than_the_graph_are_searched_exactly),
        cmocka_unit_test(readers_that_fall_back_may_lose_the_graph),
        cmocka_unit_test(the_dead_are_known),
        cmocka_unit_test(pending_rows_are_seen_whole_while_they_come_and_go),
        cmocka_unit_test(writers_wait_only_for_a_backlog_and_one_behind_the_other),
        cmocka_unit_test(few_rows_may_be_pending_while_they_are_searched),
        cmocka_unit_test(state_goes_out_and_comes_back),
        cmocka_unit_test(effort_without_measurement_is_a_careful_guess),
        cmocka_unit_test(only_some_searches_are_kept_and_not_too_many),
        cmocka_unit_test(a_shuffle_visits_every_number_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

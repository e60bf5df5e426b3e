/* Counters and histograms. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <pthread.h>

#include <cmocka.h>

#include "storage/base/metrics.h"

static void every_series_starts_at_zero(void **state)
{
    (void)state;
    for (int i = 0; i < STAT_COUNTER_COUNT; i++)
        assert_int_equal(stat_get(i), 0);
    const struct histogram empty = {0};
    for (int i = 0; i < STAT_HISTOGRAM_COUNT; i++)
        assert_memory_equal(&stat_histograms[i], &empty, sizeof empty);
}

static void bounds_are_ascending_and_inclusive(void **state)
{
    (void)state;
    for (int i = 0; i < STAT_BOUND_COUNT; i++) {
        if (i > 0) assert_true(stat_bounds[i - 1] < stat_bounds[i]);
        struct histogram h = {0};
        const uint64_t ns = (uint64_t)(stat_bounds[i] * 1e9 + 0.5);
        histogram_observe(&h, ns);
        histogram_observe(&h, ns + 1);
        assert_int_equal(h.bucket[i], 1);
        assert_int_equal(h.bucket[i + 1], 1);
        assert_int_equal(h.sum_ns, 2 * ns + 1);
    }
}

static void a_duration_beyond_the_last_bound_is_counted(void **state)
{
    (void)state;
    struct histogram h = {0};
    histogram_observe(&h, 3600u * UINT64_C(1000000000));
    assert_int_equal(h.bucket[STAT_BOUND_COUNT], 1);
}

static void *count_a_thousand(void *arg)
{
    for (int i = 0; i < 1000; i++) {
        stat_add(STAT_SEARCHES, 1);
        stat_observe(STAT_FLUSH_SECONDS, 1000);
    }
    return arg;
}

static void threads_lose_no_count(void **state)
{
    (void)state;
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, count_a_thousand, NULL), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(stat_get(STAT_SEARCHES), 4000);
    assert_int_equal(stat_histograms[STAT_FLUSH_SECONDS].bucket[0], 4000);
    assert_int_equal(stat_histograms[STAT_FLUSH_SECONDS].sum_ns, 4000000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_series_starts_at_zero),
        cmocka_unit_test(bounds_are_ascending_and_inclusive),
        cmocka_unit_test(a_duration_beyond_the_last_bound_is_counted),
        cmocka_unit_test(threads_lose_no_count),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

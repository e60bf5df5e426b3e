/* Background threads sleep as long as they said, and not a moment longer than they are let. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>

#include "storage/base/clock.h"
#include "storage/base/ticker.h"

#define HOUR_NS 3600000000000ull

static void a_sleep_is_not_shorter_than_asked_for(void **state)
{
    (void)state;
    struct ticker t;
    ticker_init(&t);
    uint64_t until = clock_ns() + 20000000;
    assert_true(ticker_sleep_until(&t, until));
    assert_true(clock_ns() >= until);
    assert_true(ticker_sleep_until(&t, until)); /* it is past: no sleep */
    ticker_deinit(&t);
}

static void *sleep_for_an_hour(void *ticker)
{
    return ticker_sleep_until(ticker, clock_ns() + HOUR_NS) ? ticker : NULL;
}

static void a_stop_wakes_every_sleeper_and_nobody_sleeps_behind_it(void **state)
{
    (void)state;
    struct ticker t;
    pthread_t threads[3];
    ticker_init(&t);
    assert_false(ticker_is_stopped(&t));
    for (int i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, sleep_for_an_hour, &t), 0);
    ticker_stop(&t);
    for (int i = 0; i < 3; i++) {
        void *slept_on = &t;
        pthread_join(threads[i], &slept_on);
        assert_null(slept_on);
    }
    assert_true(ticker_is_stopped(&t));
    assert_false(ticker_sleep_until(&t, clock_ns() + HOUR_NS));
    ticker_deinit(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_sleep_is_not_shorter_than_asked_for),
        cmocka_unit_test(a_stop_wakes_every_sleeper_and_nobody_sleeps_behind_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

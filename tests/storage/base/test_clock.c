/* Two clocks and one text form. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "storage/base/clock.h"

static void known_times_have_known_texts(void **state)
{
    (void)state;
    const struct {
        uint64_t ms;
        const char *text;
    } rows[] = {
        {0, "1970-01-01T00:00:00.000Z"},
        {999, "1970-01-01T00:00:00.999Z"},
        {951782400000, "2000-02-29T00:00:00.000Z"},
        {1795167000123, "2026-11-20T09:30:00.123Z"},
        {4294967296000, "2106-02-07T06:28:16.000Z"},
        {253402300799999, "9999-12-31T23:59:59.999Z"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char text[25];
        clock_rfc3339(rows[i].ms, text);
        assert_string_equal(text, rows[i].text);
    }
}

static void a_time_beyond_four_digit_years_stays_in_the_format(void **state)
{
    (void)state;
    char text[25];
    clock_rfc3339(UINT64_MAX, text);
    assert_string_equal(text, "9999-12-31T23:59:59.999Z");
}

static void the_monotonic_clock_never_goes_back(void **state)
{
    (void)state;
    uint64_t before = clock_ns();
    for (int i = 0; i < 10000; i++) {
        const uint64_t now = clock_ns();
        assert_true(now >= before);
        before = now;
    }
}

static void wall_time_is_the_time_of_day(void **state)
{
    (void)state;
    const uint64_t before = (uint64_t)time(NULL);
    const uint64_t ms = clock_wall_ms();
    /* time() may use a coarser clock that is a tick behind */
    assert_true(ms / 1000 >= before && ms / 1000 <= (uint64_t)time(NULL) + 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_times_have_known_texts),
        cmocka_unit_test(a_time_beyond_four_digit_years_stays_in_the_format),
        cmocka_unit_test(the_monotonic_clock_never_goes_back),
        cmocka_unit_test(wall_time_is_the_time_of_day),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

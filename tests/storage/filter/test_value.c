/* Numbers and times: exact, and in a total order. */
#include "tests/storage/fixture.h"

#include <inttypes.h>

#include "storage/filter/value.h"

static struct number number(const char *text)
{
    struct number n;
    if (!number_parse(text, strlen(text), &n)) fail_msg("%s is no number", text);
    return n;
}

static int compare(const char *a, const char *b)
{
    struct number x = number(a), y = number(b);
    int order = number_compare(&x, &y);
    assert_int_equal(number_compare(&y, &x) < 0, order > 0);
    assert_int_equal(number_compare(&y, &x) == 0, order == 0);
    return order;
}

static void numbers_in_ascending_order_compare_so(void **state)
{
    (void)state;
    static const char *const ascending[] = {
        "-1e999",
        "-1e300",
        "-18446744073709551617",
        "-18446744073709551615",
        "-9223372036854775809",
        "-9223372036854775808",
        "-9007199254740993",
        "-9007199254740992",
        "-2.5",
        "-2",
        "-1e-300",
        "0",
        "1e-300",
        "0.1",
        "0.30000000000000004",
        "1",
        "1.0000000000000002",
        "2.5",
        "9007199254740991",
        "9007199254740992",
        "9007199254740993",
        "9223372036854775807",
        "9223372036854775808",
        "18446744073709551614",
        "18446744073709551615",
        "18446744073709551616",
        "1e300",
        "1e999",
    };
    enum { COUNT = sizeof ascending / sizeof *ascending };
    for (int i = 0; i < COUNT; i++) {
        for (int k = 0; k < COUNT; k++) {
            int order = compare(ascending[i], ascending[k]);
            if ((order > 0) - (order < 0) != (i > k) - (i < k))
                fail_msg("%s and %s: %d", ascending[i], ascending[k], order);
        }
    }
}

static void one_number_written_in_several_ways_is_one_number(void **state)
{
    (void)state;
    static const char *const equal[][2] = {
        {"1000", "1e3"},
        {"1000", "1000.0"},
        {"1000", "1E+3"},
        {"0", "-0"},
        {"0", "-0.0"},
        {"0", "0e7"},
        {"-1.5", "-15e-1"},
        {"0.1", "0.10"},
        {"0.1", "1e-1"},
        {"1e22", "10000000000000000000000"},
        {"123456.789", "1.23456789e5"},
        {"18446744073709551616", "1.8446744073709551616e19"},
    };
    for (size_t i = 0; i < sizeof equal / sizeof *equal; i++)
        if (compare(equal[i][0], equal[i][1]) != 0) fail_msg("%s, %s", equal[i][0], equal[i][1]);
}

static void reals_are_rounded_as_strtod_rounds_them(void **state)
{
    (void)state;
    uint64_t seed = 1;
    char text[64];
    for (int i = 0; i < 200000; i++) {
        uint64_t bits = test_random(&seed);
        int digits = (int)(bits % 18) + 1, decimals = (int)((bits >> 8) % 19);
        snprintf(text, sizeof text, "%s%" PRIu64 ".%0*" PRIu64, bits >> 63 ? "-" : "",
                 test_random(&seed) % (uint64_t)pow(10, digits), decimals + 1,
                 test_random(&seed) % (uint64_t)pow(10, decimals));
        double want = strtod(text, NULL), got = number(text).real;
        if (want != got) fail_msg("%s: %.17g, not %.17g", text, got, want);
    }
}

static void what_is_no_number_is_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {"", "-", "x", "1x", "1e", "1.5.2", "--1", "1 "};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct number n;
        if (number_parse(bad[i], strlen(bad[i]), &n)) fail_msg("\"%s\" was taken", bad[i]);
    }
}

static bool instant(const char *text, struct instant *at)
{
    return instant_parse(text, strlen(text), at);
}

static void times_are_points_whatever_their_offset(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int64_t seconds;
        uint32_t nanoseconds;
    } good[] = {
        {"1970-01-01T00:00:00Z", 0, 0},
        {"1970-01-01T00:00:00.000000001Z", 0, 1},
        {"1970-01-01t00:00:00.5z", 0, 500000000},
        {"1970-01-01 01:00:00+01:00", 0, 0},
        {"1969-12-31T23:30:00-00:30", 0, 0},
        {"2000-02-29T12:00:00Z", 951825600, 0},
        {"2026-11-20T09:30:00.1234567899Z", 1795167000, 123456789},
        {"0001-01-01T00:00:00Z", -62135596800, 0},
        {"9999-12-31T23:59:59Z", 253402300799, 0},
        {"2016-12-31T23:59:60Z", 1483228800, 0},
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        struct instant at;
        if (!instant(good[i].text, &at)) fail_msg("%s was refused", good[i].text);
        if (at.seconds != good[i].seconds || at.nanoseconds != good[i].nanoseconds)
            fail_msg("%s: %" PRId64 ".%09u", good[i].text, at.seconds, at.nanoseconds);
    }
    static const char *const bad[] = {
        "",
        "2026-11-20",
        "2026-11-20T09:30:00",
        "2026-13-20T09:30:00Z",
        "2026-02-29T09:30:00Z",
        "2026-11-20T24:00:00Z",
        "2026-11-20T09:60:00Z",
        "2026-11-20T09:30:00.Z",
        "2026-11-20T09:30:00+1:00",
        "2026-11-20T09:30:00+24:00",
        "2026-11-20T09:30:00Zjunk",
        "2026/11/20T09:30:00Z",
        "some text that is twenty",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct instant at;
        if (instant(bad[i], &at)) fail_msg("\"%s\" was taken", bad[i]);
    }
}

/* Every day has 86400 seconds, and none is left out. */
static void days_follow_each_other(void **state)
{
    (void)state;
    struct instant before = {0}, at;
    bool first = true;
    for (int year = 1890; year <= 2110; year++) {
        for (int month = 1; month <= 12; month++) {
            for (int day = 1; day <= 31; day++) {
                char text[48];
                snprintf(text, sizeof text, "%04d-%02d-%02dT00:00:00Z", year, month, day);
                if (!instant(text, &at)) continue;
                if (!first) assert_int_equal(at.seconds - before.seconds, 86400);
                before = at;
                first = false;
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_in_ascending_order_compare_so),
        cmocka_unit_test(one_number_written_in_several_ways_is_one_number),
        cmocka_unit_test(reals_are_rounded_as_strtod_rounds_them),
        cmocka_unit_test(what_is_no_number_is_refused),
        cmocka_unit_test(times_are_points_whatever_their_offset),
        cmocka_unit_test(days_follow_each_other),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

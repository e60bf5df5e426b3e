/* test_float_text.c - api/float_text.c against strtof() and printf(). */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "api/float_text.h"

static uint64_t state = 88172645463325252u;
static uint64_t next_random(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}

static float float_of(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static uint32_t bits_of(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

static size_t shortest_printf(float f)
{
    char text[32];
    size_t best = 32;
    for (int precision = 1; precision <= 9; precision++) {
        int n = snprintf(text, sizeof text, "%.*g", precision, f);
        if (strtof(text, NULL) == f && (size_t)n < best) best = (size_t)n;
    }
    return best;
}

/* printf() rounds to the nearest of as many digits; if that reads back, it is what we want too. */
static void check_nearest(float f, const char *text)
{
    int digits = 0;
    for (const char *p = text; *p && *p != 'e'; p++) {
        if (*p >= '1' && *p <= '9')
            digits++;
        else if (*p == '0' && digits)
            digits++;
    }
    for (const char *p = strchr(text, 'e') ? strchr(text, 'e') : text + strlen(text);
         digits > 1 && p[-1] == '0' && !strchr(text, '.'); p--)
        digits--;
    char same[32];
    snprintf(same, sizeof same, "%.*g", digits, f);
    if (strtof(same, NULL) == f && strtod(same, NULL) != strtod(text, NULL))
        fail_msg("%a printed as %s, nearest is %s", f, text, same);
}

static void check_written(float f, int length_too)
{
    char text[FLOAT_TEXT_BYTES_MAX + 1];
    size_t n = float_text_write(f, text);
    assert_true(n <= FLOAT_TEXT_BYTES_MAX);
    text[n] = 0;
    if (bits_of(strtof(text, NULL)) != bits_of(f)) fail_msg("%a printed as %s", f, text);
    const char *end = NULL;
    float again = 0;
    assert_int_equal(float_text_parse(text, &end, &again), FLOAT_PARSED);
    assert_ptr_equal(end, text + n);
    assert_int_equal(bits_of(again), bits_of(f));
    if (length_too && f != 0) check_nearest(f, text);
    if (length_too && !(f == 0 && signbit(f)) && n > shortest_printf(f))
        fail_msg("%a printed as %s, printf needs %zu bytes", f, text, shortest_printf(f));
}

static void random_floats_round_trip_in_the_fewest_bytes(void **unused)
{
    (void)unused;
    for (int i = 0; i < 2000000; i++) {
        float f = float_of((uint32_t)next_random());
        if (isfinite(f)) check_written(f, i % 20 == 0);
    }
}

static void boundaries_round_trip_in_the_fewest_bytes(void **unused)
{
    (void)unused;
    for (uint32_t exponent = 0; exponent < 255; exponent++)
        for (int i = -3; i <= 3; i++)
            for (uint32_t sign = 0; sign < 2; sign++) {
                float f = float_of((exponent << 23) + (uint32_t)i + (sign << 31));
                if (isfinite(f)) check_written(f, 1);
            }
    for (int i = 0; i < 20000; i++)
        check_written((float)i, 1);
    for (int e = -45; e <= 38; e++) {
        char text[16];
        snprintf(text, sizeof text, "1e%d", e);
        float f = strtof(text, NULL);
        check_written(f, 1);
        check_written(nextafterf(f, 0), 1);
        check_written(nextafterf(f, 1e38f), 1);
    }
}

static void zeros_keep_their_sign(void **unused)
{
    (void)unused;
    char text[FLOAT_TEXT_BYTES_MAX];
    assert_int_equal(float_text_write(0.0f, text), 1);
    assert_memory_equal(text, "0", 1);
    assert_int_equal(float_text_write(-0.0f, text), 4);
    assert_memory_equal(text, "-0.0", 4);
}

static void doubles_round_trip(void **unused)
{
    (void)unused;
    char text[DOUBLE_TEXT_BYTES_MAX + 1], wide[40];
    for (int i = 0; i < 500000; i++) {
        uint64_t bits = next_random();
        double d;
        memcpy(&d, &bits, sizeof d);
        if (i % 2) d = (double)(int64_t)bits / 0x1p63;
        if (i % 5 == 0) d = (double)(bits % 100000) / 1000;
        if (!isfinite(d)) continue;
        size_t n = double_text_write(d, text);
        assert_true(n <= DOUBLE_TEXT_BYTES_MAX);
        text[n] = 0;
        if (strtod(text, NULL) != d) fail_msg("%a printed as %s", d, text);
        size_t best = 40;
        for (int precision = 1; precision <= 17; precision++) {
            int len = snprintf(wide, sizeof wide, "%.*g", precision, d);
            if (strtod(wide, NULL) == d && (size_t)len < best) best = (size_t)len;
        }
        if (n > best) fail_msg("%a printed as %s, printf needs %zu bytes", d, text, best);
    }
}

static void check_parsed(const char *text)
{
    const char *end = NULL;
    float got = 0, want = strtof(text, NULL);
    enum float_parse rc = float_text_parse(text, &end, &got);
    if (isinf(want)) {
        if (rc != FLOAT_OVERFLOW) fail_msg("%s: overflow not seen", text);
        return;
    }
    if (rc != FLOAT_PARSED || end != text + strlen(text) || bits_of(got) != bits_of(want))
        fail_msg("%s: %a, not %a", text, got, want);
    assert_ptr_equal(number_text_skip(text), end);
}

static void every_form_of_number_is_rounded_as_strtof_does(void **unused)
{
    (void)unused;
    char text[128];
    for (int i = 0; i < 3000000; i++) {
        uint64_t r = next_random();
        float f = float_of((uint32_t)(r >> 32));
        double d;
        switch (i % 8) {
        case 0: /* what Python prints for a list of float32 */
            if (!isfinite(f)) continue;
            snprintf(text, sizeof text, "%.17g", (double)f);
            break;
        case 1:
            snprintf(text, sizeof text, "%.9g", isfinite(f) ? (double)f : 1.0);
            break;
        case 2: /* exactly a midpoint, or beside it */
            if (!isfinite(f) || !isfinite(nextafterf(f, INFINITY))) continue;
            d = ((double)f + (double)nextafterf(f, INFINITY)) / 2;
            snprintf(text, sizeof text, "%.*g", (int)(r % 60) + 1, d);
            break;
        case 3:
            d = (double)r / 0x1p64;
            snprintf(text, sizeof text, "%.*f", (int)(r % 30), d);
            break;
        case 4:
            snprintf(text, sizeof text, "%llue%d", (unsigned long long)r, (int)(r % 90) - 60);
            break;
        case 5:
            snprintf(text, sizeof text, "-0.000000%llu%lluE+%d", (unsigned long long)r,
                     (unsigned long long)next_random(), (int)(r % 60));
            break;
        case 6: /* midpoints of a short decimal form: 24-bit odd halves */
            d = ((double)(r & 0xffffff) + 0.5) * ldexp(1, (int)(r >> 40) % 30 - 15);
            snprintf(text, sizeof text, "%.20g", d);
            break;
        default:
            snprintf(text, sizeof text, "%llu.%llu", (unsigned long long)(r % 1000),
                     (unsigned long long)next_random());
        }
        check_parsed(text);
    }
}

static void edge_numbers_are_read_right(void **unused)
{
    (void)unused;
    static const char *const texts[] = {
        "0",
        "-0",
        "-0.0",
        "0e5",
        "0.0e-400",
        "1e39",
        "-1e39",
        "3.4028235e38",
        "3.4028235677973366e38",
        "3.4028235677973365e38",
        "3.4028236e38",
        "1e-45",
        "7e-46",
        "7.1e-46",
        "1.17549435e-38",
        "1.1754942e-38",
        "16777217",
        "16777216.99999999",
        "16777217.00000000000000000000000001",
        "1e400",
        "1e-400",
        "1e99999999999999999999",
        "1e-99999999999999999999",
        "0e99999999999",
        "9007199254740993",
        "9223372036854775807",
        "18446744073709551615",
        "18446744073709551616",
        "99999999999999999999",
        "0.00000000000000000000000000000000000001",
        "1.0000000596046448",
        "1.00000005960464477539062500000",
        "1.00000005960464477539062500001",
        "1.00000005960464477539062499999",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        check_parsed(texts[i]);
}

static void what_is_no_json_number_is_refused(void **unused)
{
    (void)unused;
    static const char *const texts[] = {"",    "-",   "+1",  ".5",   "1.",  "01",   "-01", "1e",
                                        "1e+", "NaN", "inf", "0x10", "--1", "1.e3", "e5",  "-.5"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        const char *end;
        float f;
        const char *skipped = number_text_skip(texts[i]);
        if (strcmp(texts[i], "0x10") == 0) continue; /* "0", then something else */
        if (float_text_parse(texts[i], &end, &f) != FLOAT_SYNTAX) fail_msg("took %s", texts[i]);
        assert_null(skipped);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_floats_round_trip_in_the_fewest_bytes),
        cmocka_unit_test(boundaries_round_trip_in_the_fewest_bytes),
        cmocka_unit_test(zeros_keep_their_sign),
        cmocka_unit_test(doubles_round_trip),
        cmocka_unit_test(every_form_of_number_is_rounded_as_strtof_does),
        cmocka_unit_test(edge_numbers_are_read_right),
        cmocka_unit_test(what_is_no_json_number_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* UTF-8: all characters, and all ways to be malformed that RFC 3629 knows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "storage/base/utf8.h"

static void every_character_is_decoded(void **state)
{
    (void)state;
    for (uint32_t c = 0; c <= 0x10ffff; c++) {
        char text[4];
        const size_t bytes = utf8_encode(c, text);
        uint32_t got = UINT32_MAX;
        if (c >= 0xd800 && c <= 0xdfff) {
            assert_int_equal(utf8_decode(text, bytes, &got), 0);
        } else {
            assert_int_equal(utf8_decode(text, bytes, &got), bytes);
            assert_int_equal(got, c);
            assert_int_equal(utf8_decode(text, bytes - 1, &got), 0);
        }
    }
}

static void characters_are_encoded_in_as_few_bytes_as_they_need(void **state)
{
    (void)state;
    static const struct {
        uint32_t character;
        const char *bytes;
    } cases[] = {
        {0x01, "\x01"},
        {0x7f, "\x7f"},
        {0x80, "\xc2\x80"},
        {0x7ff, "\xdf\xbf"},
        {0x800, "\xe0\xa0\x80"},
        {0x20ac, "\xe2\x82\xac"},
        {0xd800, "\xed\xa0\x80"},
        {0xffff, "\xef\xbf\xbf"},
        {0x10000, "\xf0\x90\x80\x80"},
        {0x10ffff, "\xf4\x8f\xbf\xbf"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char bytes[4];
        assert_int_equal(utf8_encode(cases[i].character, bytes), strlen(cases[i].bytes));
        assert_memory_equal(bytes, cases[i].bytes, strlen(cases[i].bytes));
    }
}

static void malformed_bytes_are_refused(void **state)
{
    (void)state;
    const char *const bad[] = {
        "\x80",         "\xbf",         "\xc0\x80",     "\xc1\xbf",         "\xc2",
        "\xc2\x41",     "\xe0\x9f\xbf", "\xe0\x80\x80", "\xed\xa0\x80",     "\xe2\x82",
        "\xe2\x28\xa1", "\xe2\x82\x28", "\xf0\x80\x80", "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80",
        "\xf5\x80\x80", "\xff",         "\xfe",         "\xf0\x9f\x98\x28",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        uint32_t c;
        assert_int_equal(utf8_decode(bad[i], strlen(bad[i]), &c), 0);
    }
}

static void a_cut_never_splits_a_character(void **state)
{
    (void)state;
    const char text[] = "a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80z";
    const size_t want[] = {0, 1, 1, 3, 3, 3, 6, 6, 6, 6, 10, 11};
    for (size_t len = 0; len < sizeof text; len++)
        assert_int_equal(utf8_cut(text, len), want[len]);
}

static void control_characters_are_c0_del_and_c1(void **state)
{
    (void)state;
    for (uint32_t c = 0; c < 0x200; c++) {
        const bool want = c < 0x20 || c == 0x7f || (c >= 0x80 && c < 0xa0);
        assert_true(utf8_is_control(c) == want);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_character_is_decoded),
        cmocka_unit_test(characters_are_encoded_in_as_few_bytes_as_they_need),
        cmocka_unit_test(malformed_bytes_are_refused),
        cmocka_unit_test(a_cut_never_splits_a_character),
        cmocka_unit_test(control_characters_are_c0_del_and_c1),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

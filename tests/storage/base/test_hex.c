/* Hexadecimal digits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "storage/base/hex.h"

static void all_other_characters_are_no_digits(void **state)
{
    (void)state;
    static const char digits[] = "0123456789abcdefABCDEF";
    int found = 0;
    for (int c = -128; c < 128; c++)
        found += hex_digit((char)c) >= 0;
    assert_int_equal(found, sizeof digits - 1);
    for (int i = 0; digits[i]; i++)
        assert_int_equal(hex_digit(digits[i]), i < 16 ? i : i - 6);
}

static void a_value_has_all_its_digits(void **state)
{
    (void)state;
    assert_int_equal(hex_value("09aFz", 4), 0x9af);
    assert_int_equal(hex_value("ffffff0", 7), 0xffffff0);
    assert_int_equal(hex_value("", 0), 0);
    assert_int_equal(hex_value("12g4", 4), -1);
    assert_int_equal(hex_value("12", 4), -1); /* the end of the text is no digit */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_other_characters_are_no_digits),
        cmocka_unit_test(a_value_has_all_its_digits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

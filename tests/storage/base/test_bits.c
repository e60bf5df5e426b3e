/* Sets of numbers as bits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "storage/base/bits.h"

static void a_set_holds_what_was_added_and_not_removed(void **state)
{
    (void)state;
    enum { MOST = 192 };
    uint64_t *bits = bits_new(MOST);
    assert_non_null(bits);
    for (uint32_t i = 0; i <= MOST; i++)
        assert_false(bits_has(bits, i));
    for (uint32_t i = 0; i <= MOST; i += 3) {
        assert_true(bits_add(bits, i));
        assert_false(bits_add(bits, i));
    }
    for (uint32_t i = 0; i <= MOST; i += 2)
        bits_remove(bits, i);
    for (uint32_t i = 0; i <= MOST; i++)
        assert_int_equal(bits_has(bits, i), i % 3 == 0 && i % 2);
    mem_free(bits);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_set_holds_what_was_added_and_not_removed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

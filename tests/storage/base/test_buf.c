/* A buffer grows, and remembers when it could not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "storage/base/buf.h"

static void everything_that_was_added_is_there_in_order(void **state)
{
    (void)state;
    struct buf b = {0};
    for (int i = 0; i < 5000; i++) {
        buf_str(&b, "ab");
        buf_add(&b, "c\0d", 3);
        buf_add(&b, NULL, 0);
    }
    assert_false(b.failed);
    assert_int_equal(b.len, 25000);
    for (size_t i = 0; i < b.len; i += 5)
        assert_memory_equal(b.data + i, "abc\0d", 5);
    buf_free(&b);
    assert_null(b.data);
    buf_str(&b, "again");
    assert_int_equal(b.len, 5);
    buf_free(&b);
}

static void formatted_text_of_any_length_fits(void **state)
{
    (void)state;
    char text[3000];
    for (size_t len = 0; len < sizeof text; len += len < 300 ? 1 : 333) {
        struct buf b = {0};
        memset(text, 'x', len);
        text[len] = '\0';
        buf_printf(&b, "<%s>", text);
        buf_printf(&b, "%d", 7);
        assert_int_equal(b.len, len + 3);
        assert_memory_equal(b.data + b.len - 2, ">7", 2);
        assert_memory_equal(b.data + 1, text, len);
        buf_free(&b);
    }
}

static void a_failed_growth_is_remembered(void **state)
{
    (void)state;
    struct buf b = {0};
    buf_str(&b, "kept");
    assert_null(buf_reserve(&b, SIZE_MAX));
    assert_true(b.failed);
    buf_str(&b, "ignored");
    buf_printf(&b, "%s", "ignored");
    assert_int_equal(b.len, 4);
    assert_memory_equal(b.data, "kept", 4);
    buf_free(&b);
    assert_false(b.failed);
}

static void reserved_room_can_be_written(void **state)
{
    (void)state;
    struct buf b = {0};
    char *room = buf_reserve(&b, 1000);
    assert_non_null(room);
    memset(room, 'r', 1000);
    b.len += 1000;
    assert_ptr_equal(buf_reserve(&b, 0), b.data + 1000);
    buf_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(everything_that_was_added_is_there_in_order),
        cmocka_unit_test(formatted_text_of_any_length_fits),
        cmocka_unit_test(a_failed_growth_is_remembered),
        cmocka_unit_test(reserved_room_can_be_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

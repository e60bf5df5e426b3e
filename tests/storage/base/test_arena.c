/* Memory that dies together: aligned, separate, bounded. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "storage/base/arena.h"

static void allocations_are_aligned_and_do_not_overlap(void **state)
{
    (void)state;
    struct arena a = {0};
    unsigned char *blocks[300];
    for (size_t i = 0; i < 300; i++) {
        const size_t bytes = i * i % 20011;
        blocks[i] = arena_alloc(&a, bytes);
        assert_non_null(blocks[i]);
        assert_int_equal((uintptr_t)blocks[i] % 16, 0);
        memset(blocks[i], (int)i, bytes);
    }
    for (size_t i = 0; i < 300; i++) {
        for (size_t k = 0; k < i * i % 20011; k++)
            assert_int_equal(blocks[i][k], i & 255);
    }
    arena_free(&a);
    assert_int_equal(a.bytes, 0);
}

static void the_bound_holds_and_freeing_makes_room(void **state)
{
    (void)state;
    struct arena a = {.bytes_max = 100000};
    size_t got = 0;
    while (arena_alloc(&a, 1000))
        got += 1000;
    assert_true(got > 60000 && got <= 100000 && a.bytes <= 100000);
    assert_null(arena_alloc(&a, 100001));
    arena_free(&a);
    assert_non_null(arena_alloc(&a, 90000));
    arena_free(&a);
    assert_null(arena_alloc(&a, SIZE_MAX));
    assert_null(arena_alloc(&a, SIZE_MAX - 15));
}

static void a_large_object_does_not_waste_the_room_of_the_head(void **state)
{
    (void)state;
    struct arena a = {0};
    char *before = arena_alloc(&a, 16);
    assert_non_null(arena_alloc(&a, 1 << 20));
    assert_ptr_equal(arena_alloc(&a, 16), before + 16);
    arena_free(&a);
}

static void a_copy_is_a_copy(void **state)
{
    (void)state;
    struct arena a = {0};
    char text[] = "text";
    char *copy = arena_copy(&a, text, sizeof text);
    text[0] = 'n';
    assert_string_equal(copy, "text");
    assert_non_null(arena_copy(&a, NULL, 0));
    arena_free(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(allocations_are_aligned_and_do_not_overlap),
        cmocka_unit_test(the_bound_holds_and_freeing_makes_room),
        cmocka_unit_test(a_large_object_does_not_waste_the_room_of_the_head),
        cmocka_unit_test(a_copy_is_a_copy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

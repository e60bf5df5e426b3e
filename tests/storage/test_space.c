/* Free ranges against a bitmap. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "storage/format.h"
#include "storage/space.h"

enum { BLOCKS = 300 };

static void assert_same(const struct space *s, const bool is_free[BLOCKS])
{
    bool seen[BLOCKS] = {0};
    uint64_t free_blocks = 0;
    for (size_t i = 0; i < s->count; i++) {
        const struct space_range *r = &s->ranges[i];
        assert_true(r->bytes > 0 && r->at % BLOCK_BYTES == 0 && r->bytes % BLOCK_BYTES == 0);
        /* Ascending, and joined wherever possible. */
        if (i) assert_true(s->ranges[i - 1].at + s->ranges[i - 1].bytes < r->at);
        for (uint64_t b = r->at / BLOCK_BYTES; b < (r->at + r->bytes) / BLOCK_BYTES; b++) {
            assert_true(b < BLOCKS);
            seen[b] = true;
            free_blocks++;
        }
    }
    assert_memory_equal(seen, is_free, sizeof seen);
    assert_int_equal(s->free_bytes, free_blocks * BLOCK_BYTES);
}

static bool first_fit(const bool is_free[BLOCKS], uint64_t want, uint64_t *at)
{
    uint64_t run = 0;
    for (uint64_t b = 0; b < BLOCKS; b++) {
        run = is_free[b] ? run + 1 : 0;
        if (run < want) continue;
        *at = b + 1 - want;
        return true;
    }
    return false;
}

static void random_takes_and_gives_agree_with_a_bitmap(void **state)
{
    (void)state;
    struct space s = {0};
    bool is_free[BLOCKS] = {0};
    struct {
        uint64_t at, blocks;
    } held[BLOCKS] = {{0, BLOCKS}};
    size_t held_count = 1;
    srandom(7);
    for (int round = 0; round < 20000; round++) {
        if (held_count && random() % 2) {
            /* Give back a part of what is held: the start, the end or all of it. */
            size_t i = (size_t)random() % held_count;
            uint64_t blocks = 1 + (uint64_t)random() % held[i].blocks, at = held[i].at;
            if (random() % 2) {
                at += held[i].blocks - blocks;
            } else {
                held[i].at += blocks;
            }
            held[i].blocks -= blocks;
            if (!held[i].blocks) held[i] = held[--held_count];
            space_give(&s, at * BLOCK_BYTES, blocks * BLOCK_BYTES);
            memset(is_free + at, 1, blocks);
        } else {
            uint64_t want = 1 + (uint64_t)random() % 40, at = 0, expected = 0;
            bool fits = first_fit(is_free, want, &expected);
            assert_int_equal(space_take(&s, want * BLOCK_BYTES, &at), fits);
            if (fits) {
                assert_int_equal(at, expected * BLOCK_BYTES);
                memset(is_free + expected, 0, want);
                held[held_count].at = expected;
                held[held_count++].blocks = want;
            }
        }
        assert_same(&s, is_free);
    }
    space_deinit(&s);
}

static void taking_from_nothing_fails_and_leaves_the_place_alone(void **state)
{
    (void)state;
    struct space s = {0};
    uint64_t at = 77;
    assert_false(space_take(&s, BLOCK_BYTES, &at));
    space_give(&s, 0, BLOCK_BYTES);
    assert_false(space_take(&s, 2 * BLOCK_BYTES, &at));
    assert_int_equal(at, 77);
    assert_int_equal(s.free_bytes, BLOCK_BYTES);
    space_deinit(&s);
}

static void giving_nothing_changes_nothing(void **state)
{
    (void)state;
    struct space s = {0};
    space_give(&s, BLOCK_BYTES, 0);
    assert_int_equal(s.count, 0);
    space_deinit(&s);
    space_deinit(&s);
}

static void a_gap_that_is_closed_joins_both_sides(void **state)
{
    (void)state;
    struct space s = {0};
    space_give(&s, 0, BLOCK_BYTES);
    space_give(&s, 2 * BLOCK_BYTES, BLOCK_BYTES);
    assert_int_equal(s.count, 2);
    space_give(&s, BLOCK_BYTES, BLOCK_BYTES);
    assert_int_equal(s.count, 1);
    uint64_t at;
    assert_true(space_take(&s, 3 * BLOCK_BYTES, &at));
    assert_int_equal(at, 0);
    assert_int_equal(s.free_bytes, 0);
    space_deinit(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_takes_and_gives_agree_with_a_bitmap),
        cmocka_unit_test(taking_from_nothing_fails_and_leaves_the_place_alone),
        cmocka_unit_test(giving_nothing_changes_nothing),
        cmocka_unit_test(a_gap_that_is_closed_joins_both_sides),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

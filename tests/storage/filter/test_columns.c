/* Which columns a store has: those that are asked for, those that are used, and no more than fit.
 */
#include "tests/storage/fixture.h"

#include "storage/base/buf.h"
#include "storage/base/epoch.h"
#include "storage/filter/columns.h"

enum { AUTOMATIC_MAX = 16, ROWS_ENOUGH = 16384 }; /* as in columns.c */

static struct column *find(struct columns *cs, const char *path, bool is_wanted)
{
    return columns_find(cs, path, strlen(path), COLUMN_SCALARS, is_wanted);
}

static void note(struct columns *cs, const char *path, uint64_t rows)
{
    columns_note(cs, path, strlen(path), COLUMN_SCALARS, rows);
}

static struct columns_info info_of(struct columns *cs)
{
    struct columns_info info;
    columns_info(cs, &info);
    return info;
}

/* A chunk of about so many bytes. */
static struct column_chunk *make_chunk(uint32_t bytes)
{
    struct column_builder *b = column_builder_new(COLUMN_SCALARS, "f", 1, NULL, NULL);
    char row[500];
    for (uint32_t slot = 0; slot * 400 < bytes; slot++) {
        int n = snprintf(row, sizeof row, "{\"f\":\"%0400u\"}", slot);
        column_builder_add(b, slot, row, (size_t)n);
    }
    struct column_chunk *c = column_builder_finish(b, 1);
    assert_non_null(c);
    return c;
}

static void a_field_gets_a_column_when_it_was_used_often_or_long(void **state)
{
    (void)state;
    struct columns *cs = columns_new();
    epoch_enter();
    for (int i = 0; i < 3; i++) {
        assert_null(find(cs, "a", false));
        note(cs, "a", 10);
    }
    assert_non_null(find(cs, "a", false));
    note(cs, "b", ROWS_ENOUGH);
    assert_non_null(find(cs, "b", false));
    assert_null(columns_find(cs, "b", 1, COLUMN_WORDS, false)); /* of another kind */
    assert_non_null(find(cs, "c", true));
    assert_ptr_equal(find(cs, "c", true), find(cs, "c", false));
    assert_int_equal(info_of(cs).count, 3);
    assert_int_equal(info_of(cs).automatic, 2);
    epoch_leave();
    columns_free(cs);
}

static void of_automatic_columns_the_one_used_longest_ago_goes(void **state)
{
    (void)state;
    struct columns *cs = columns_new();
    char path[16];
    epoch_enter();
    find(cs, "asked for", true);
    for (int i = 0; i < AUTOMATIC_MAX; i++) {
        snprintf(path, sizeof path, "f%d", i);
        note(cs, path, ROWS_ENOUGH);
    }
    assert_non_null(find(cs, "f0", false)); /* used again: f1 is the oldest now */
    note(cs, "one more", ROWS_ENOUGH);
    assert_non_null(find(cs, "one more", false));
    assert_null(find(cs, "f1", false));
    assert_non_null(find(cs, "f0", false));
    assert_non_null(find(cs, "asked for", false));
    assert_int_equal(info_of(cs).automatic, AUTOMATIC_MAX);
    epoch_leave();
    epoch_synchronize();
    columns_free(cs);
}

static void chunks_are_published_unless_somebody_was_quicker(void **state)
{
    (void)state;
    struct columns *cs = columns_new();
    epoch_enter();
    struct column *c = find(cs, "f", true);
    struct column_chunk *first = make_chunk(1000), *second = make_chunk(5000);
    assert_null(columns_chunk(c, 9));
    columns_publish(cs, c, 9, NULL, first, 1000000);
    assert_ptr_equal(columns_chunk(c, 9), first);
    assert_int_equal(info_of(cs).bytes, column_chunk_bytes(first));
    columns_publish(cs, c, 9, NULL, make_chunk(3000), 1000000); /* made from nothing: too late */
    assert_ptr_equal(columns_chunk(c, 9), first);
    columns_publish(cs, c, 9, first, second, 1000000);
    assert_ptr_equal(columns_chunk(c, 9), second);
    assert_int_equal(info_of(cs).bytes, column_chunk_bytes(second));
    columns_publish(cs, c, 70, NULL, make_chunk(1000), 1000000); /* a longer directory */
    assert_ptr_equal(columns_chunk(c, 9), second);
    assert_non_null(columns_chunk(c, 70));
    epoch_leave();
    epoch_synchronize();
    columns_free(cs);
}

static void wear_tells_when_a_chunk_is_to_be_replaced(void **state)
{
    (void)state;
    struct columns *cs = columns_new();
    epoch_enter();
    struct column *c = find(cs, "f", true);
    struct column_chunk *chunk = make_chunk(1000);
    columns_publish(cs, c, 0, NULL, chunk, 1000);
    assert_false(columns_wear(c, 0, 0));
    int times = 0;
    while (!columns_wear(c, 0, 50))
        times++;
    assert_in_range(times, 5, 100);
    columns_publish(cs, c, 0, chunk, make_chunk(1000), 1000);
    assert_false(columns_wear(c, 0, 1));   /* the new one is not worn */
    assert_true(columns_wear(c, 0, 1000)); /* many at once */
    epoch_leave();
    epoch_synchronize();
    columns_free(cs);
}

/* However much there is to be kept: automatic columns go first, then there is no more. */
static void memory_is_bounded(void **state)
{
    (void)state;
    enum { MIB = 1 << 20, SLOTS = 1000 };
    const uint64_t most = 8 * MIB + 512 * SLOTS;
    struct columns *cs = columns_new();
    epoch_enter();
    note(cs, "automatic", ROWS_ENOUGH);
    struct column *automatic = find(cs, "automatic", false), *wanted = find(cs, "wanted", true);
    for (uint32_t i = 0; i < 2; i++)
        columns_publish(cs, automatic, i, NULL, make_chunk(3 * MIB), SLOTS);
    assert_non_null(columns_chunk(automatic, 1));
    for (uint32_t i = 0; i < 4; i++)
        columns_publish(cs, wanted, i, NULL, make_chunk(3 * MIB), SLOTS);
    assert_null(find(cs, "automatic", false));
    assert_non_null(columns_chunk(wanted, 1));
    assert_null(columns_chunk(wanted, 3));
    assert_false(columns_has_room(cs, wanted));
    assert_true(info_of(cs).bytes <= most && info_of(cs).bytes > most / 2);
    /* There is more when there are more rows. */
    columns_publish(cs, wanted, 3, NULL, make_chunk(3 * MIB), 100 * SLOTS);
    assert_non_null(columns_chunk(wanted, 3));
    assert_true(columns_has_room(cs, wanted));
    epoch_leave();
    epoch_synchronize();
    columns_free(cs);
}

static void another_store_inherits_the_columns_but_not_their_rows(void **state)
{
    (void)state;
    struct columns *from = columns_new(), *to = columns_new();
    epoch_enter();
    columns_publish(from, find(from, "wanted", true), 0, NULL, make_chunk(1000), 1000);
    note(from, "used", ROWS_ENOUGH);
    columns_inherit(to, from);
    assert_int_equal(info_of(to).count, 2);
    assert_int_equal(info_of(to).automatic, 1);
    assert_int_equal(info_of(to).bytes, 0);
    assert_null(columns_chunk(find(to, "wanted", false), 0));
    epoch_leave();
    columns_free(from);
    columns_free(to);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_field_gets_a_column_when_it_was_used_often_or_long),
        cmocka_unit_test(of_automatic_columns_the_one_used_longest_ago_goes),
        cmocka_unit_test(chunks_are_published_unless_somebody_was_quicker),
        cmocka_unit_test(wear_tells_when_a_chunk_is_to_be_replaced),
        cmocka_unit_test(memory_is_bounded),
        cmocka_unit_test(another_store_inherits_the_columns_but_not_their_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

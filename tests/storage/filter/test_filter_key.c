/* A filter's key: one for each meaning. */
#include "tests/storage/fixture.h"

#include "api/json_filter.h"
#include "storage/base/buf.h"
#include "storage/filter/filter_private.h"

static const char datetime_options[] = "{\"metadata_indexes\":{\"a\":\"datetime\"}}";

static const struct filter *compile(const char *text, const char *options, struct arena *arena)
{
    struct json_scan s;
    struct err err;
    const struct filter *filter = NULL;
    json_scan_init(&s, text, strlen(text), arena);
    CHECK_OK(json_filter(&s, options, &filter, &err));
    return filter;
}

static bool have_one_key(const struct filter *a, const struct filter *b)
{
    return a->key_bytes == b->key_bytes && memcmp(a->key, b->key, a->key_bytes) == 0;
}

static void filters_that_differ_have_different_keys(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "{}",
        "{\"a\":1}",
        "{\"a\":-1}",
        "{\"a\":1.5}",
        "{\"a\":-1.5}",
        "{\"a\":2}",
        "{\"a\":\"1\"}",
        "{\"a\":\"\"}",
        "{\"a\":true}",
        "{\"a\":false}",
        "{\"a\":null}",
        "{\"b\":1}",
        "{\"ab\":1}",
        "{\"id\":1}",
        "{\"a\":{\"$ne\":1}}",
        "{\"a\":{\"$gt\":1}}",
        "{\"a\":{\"$gte\":1}}",
        "{\"a\":{\"$lt\":1}}",
        "{\"a\":{\"$lte\":1}}",
        "{\"a\":{\"$in\":[1]}}",
        "{\"a\":{\"$in\":[]}}",
        "{\"a\":{\"$in\":[1,2]}}",
        "{\"a\":{\"$nin\":[1,2]}}",
        "{\"a\":{\"$in\":[\"x\",\"y\"]}}",
        "{\"a\":{\"$in\":[\"xy\",\"\"]}}",
        "{\"a\":{\"$exists\":true}}",
        "{\"a\":{\"$exists\":false}}",
        "{\"a\":{\"$contains\":\"x\"}}",
        "{\"a\":{\"$prefix\":\"x\"}}",
        "{\"a\":{\"$regex\":\"x\"}}",
        "{\"a\":{\"$regex\":\"x+\"}}",
        "{\"a\":{\"$text\":\"x\"}}",
        "{\"a\":{\"$text\":\"x y\"}}",
        "{\"a\":{\"$geo_radius\":{\"lat\":1,\"lon\":2,\"meters\":3}}}",
        "{\"a\":{\"$geo_radius\":{\"lat\":2,\"lon\":1,\"meters\":3}}}",
        "{\"a\":{\"$geo_radius\":{\"lat\":1,\"lon\":2,\"meters\":4}}}",
        "{\"a\":{\"$geo_box\":{\"top_left\":{\"lat\":4,\"lon\":1},\"bottom_right\":{\"lat\":2,"
        "\"lon\":3}}}}",
        "{\"a\":{\"$geo_box\":{\"top_left\":{\"lat\":4,\"lon\":1},\"bottom_right\":{\"lat\":2,"
        "\"lon\":5}}}}",
        "{\"a\":1,\"b\":2}",
        "{\"a\":2,\"b\":1}",
        "{\"$or\":[{\"a\":1},{\"b\":2}]}",
        "{\"$not\":{\"a\":1,\"b\":2}}",
        "{\"$or\":[{\"a\":1},{\"b\":2},{\"c\":3}]}",
        "{\"$or\":[{\"$or\":[{\"a\":1},{\"b\":2}]},{\"c\":3}]}",
        "{\"$or\":[{\"a\":1},{\"$or\":[{\"b\":2},{\"c\":3}]}]}",
        "{\"$or\":[{\"a\":1,\"b\":2},{\"c\":3}]}",
        "{\"$or\":[{\"a\":1},{\"b\":2,\"c\":3}]}",
    };
    enum { COUNT = sizeof texts / sizeof *texts };
    const struct filter *filters[COUNT];
    struct arena arena = {0};
    for (int i = 0; i < COUNT; i++) {
        filters[i] = compile(texts[i], NULL, &arena);
        assert_non_null(filters[i]->key);
        for (int k = 0; k < i; k++)
            if (have_one_key(filters[i], filters[k])) fail_msg("%s is %s", texts[i], texts[k]);
    }
    arena_free(&arena);
}

static void what_a_field_is_is_part_of_the_key(void **state)
{
    (void)state;
    struct arena arena = {0};
    const char *text = "{\"a\":\"2026-11-20T09:30:00Z\"}";
    const struct filter *as_text = compile(text, NULL, &arena);
    const struct filter *as_time = compile(text, datetime_options, &arena);
    assert_false(have_one_key(as_text, as_time));
    const char *exists = "{\"a\":{\"$exists\":true}}";
    assert_false(
        have_one_key(compile(exists, NULL, &arena), compile(exists, datetime_options, &arena)));
    arena_free(&arena);
}

static void filters_of_one_meaning_may_share_a_key(void **state)
{
    (void)state;
    static const char *const pairs[][2] = {
        {"{\"a\":1000}", "{ \"a\" : 1e3 }"},
        {"{\"a\":\"\\u0078\"}", "{\"a\":{\"$eq\":\"x\"}}"},
        {"{\"a\":{\"$in\":[3,1,2,1]}}", "{\"a\":{\"$in\":[1,2,3]}}"},
    };
    struct arena arena = {0};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        const struct filter *a = compile(pairs[i][0], NULL, &arena);
        const struct filter *b = compile(pairs[i][1], NULL, &arena);
        assert_true(have_one_key(a, b));
        assert_int_equal(a->hash, b->hash);
    }
    arena_free(&arena);
}

static void a_long_filter_has_no_key(void **state)
{
    (void)state;
    struct arena arena = {0};
    struct buf text = {0};
    for (int values = 10; values <= 10000; values *= 10) {
        text.len = 0;
        buf_str(&text, "{\"a\":{\"$in\":[1");
        for (int i = 0; i < values - 1; i++)
            buf_printf(&text, ",%d", i + 2);
        buf_str(&text, "]}}");
        buf_add(&text, "", 1);
        const struct filter *filter = compile(text.data, NULL, &arena);
        bool has_key = filter->key != NULL;
        assert_true(has_key == (values * 10 < FILTER_KEY_BYTES_MAX));
    }
    buf_free(&text);
    arena_free(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(filters_that_differ_have_different_keys),
        cmocka_unit_test(what_a_field_is_is_part_of_the_key),
        cmocka_unit_test(filters_of_one_meaning_may_share_a_key),
        cmocka_unit_test(a_long_filter_has_no_key),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

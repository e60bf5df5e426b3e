/* test_json.c - typed getters and the writer. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "api/json.h"

static json_t *load(const char *text, enum err_code want)
{
    struct arena arena = {0};
    struct err err;
    json_t *object = NULL;
    enum err_code rc = json_load_object(text, strlen(text), &arena, &object, &err);
    if (rc != want) fail_msg("%s: %d, wanted %d", text, rc, want);
    if (rc) assert_null(object);
    arena_free(&arena);
    return object;
}

static void only_objects_are_bodies_and_nothing_is_an_empty_one(void **unused)
{
    (void)unused;
    static const char *const empty[] = {"", " \n", "{}", " { } "};
    for (size_t i = 0; i < 4; i++) {
        json_t *object = load(empty[i], ERR_OK);
        assert_int_equal(json_object_size(object), 0);
        json_decref(object);
    }
    load("[]", ERR_INVALID_REQUEST);
    load("5", ERR_INVALID_REQUEST);
    load("null", ERR_INVALID_REQUEST);
    load("{\"a\":1,\"a\":1}", ERR_INVALID_JSON);
    load("{", ERR_INVALID_JSON);
    load("{}x", ERR_INVALID_JSON);
    load("[", ERR_INVALID_JSON);
    load("{\"a\":1e999}", ERR_INVALID_JSON);
}

static void members_have_types_and_ranges(void **unused)
{
    (void)unused;
    static const char *const names[] = {"n", "t", NULL};
    json_t *object = load("{\"n\":5,\"t\":\"x\",\"r\":5.0,\"m\":-1,\"b\":true}", ERR_OK);
    struct err err;
    uint64_t n = 77;
    const char *text = NULL;
    size_t len = 0;
    bool found;
    assert_int_equal(json_get_u64(object, "n", 5, 5, &n, &found, &err), ERR_OK);
    assert_true(found && n == 5);
    assert_int_equal(json_get_u64(object, "none", 1, 9, &n, &found, &err), ERR_OK);
    assert_true(!found && n == 5);
    assert_int_equal(json_get_u64(object, "n", 6, 9, &n, &found, &err), ERR_INVALID_REQUEST);
    assert_int_equal(json_get_u64(object, "n", 1, 4, &n, &found, &err), ERR_INVALID_REQUEST);
    assert_string_equal(err.msg, "\"n\" must be an integer from 1 to 4");
    assert_int_equal(json_get_u64(object, "r", 1, 9, &n, &found, &err), ERR_INVALID_REQUEST);
    assert_int_equal(json_get_u64(object, "m", 0, 9, &n, &found, &err), ERR_INVALID_REQUEST);
    assert_int_equal(json_get_u64(object, "t", 0, 9, &n, &found, &err), ERR_INVALID_REQUEST);
    assert_int_equal(json_get_text(object, "t", &text, &len, &found, &err), ERR_OK);
    assert_true(found && len == 1 && text[0] == 'x');
    assert_int_equal(json_get_text(object, "b", &text, &len, &found, &err), ERR_INVALID_REQUEST);
    assert_int_equal(json_only_fields(object, names, "the request", &err), ERR_INVALID_REQUEST);
    assert_string_equal(err.msg, "the request has an unknown field \"r\"");
    json_decref(object);
}

static void what_is_written_reads_back(void **unused)
{
    (void)unused;
    static const char odd[] = "q\" b\\ \n\t\x01\x1f / \x7f \xc3\xa9 \xf0\x9d\x84\x9e";
    static const double numbers[] = {
        0, -0.0, 1, -1.5, 0.1, 1e300, 5e-324, 1.7976931348623157e308, 1e22, 123456789};
    struct buf out = {0};
    buf_str(&out, "[");
    json_put_string(&out, odd, sizeof odd); /* with its zero byte */
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        buf_str(&out, ",");
        json_put_double(&out, numbers[i]);
    }
    buf_str(&out, ",");
    json_put_double(&out, NAN);
    buf_str(&out, ",");
    json_put_u64(&out, 9223372036854775807u);
    buf_str(&out, ",");
    json_put_floats(&out, (const float[]){1, 0.5f, -3}, 3);
    json_put_floats(&out, NULL, 0);
    assert_memory_equal(out.data + out.len - 2, "[]", 2);
    out.len -= 2;
    buf_str(&out, "]");

    json_t *array = json_loadb(out.data, out.len, JSON_ALLOW_NUL, NULL);
    assert_non_null(array);
    const json_t *text = json_array_get(array, 0);
    assert_int_equal(json_string_length(text), sizeof odd);
    assert_memory_equal(json_string_value(text), odd, sizeof odd);
    size_t n = sizeof numbers / sizeof *numbers;
    for (size_t i = 0; i < n; i++)
        assert_true(json_number_value(json_array_get(array, 1 + i)) == numbers[i]);
    assert_true(json_is_null(json_array_get(array, 1 + n)));
    assert_true(json_integer_value(json_array_get(array, 2 + n)) == INT64_MAX);
    assert_int_equal(json_array_size(json_array_get(array, 3 + n)), 3);
    json_decref(array);
    buf_free(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_objects_are_bodies_and_nothing_is_an_empty_one),
        cmocka_unit_test(members_have_types_and_ranges),
        cmocka_unit_test(what_is_written_reads_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

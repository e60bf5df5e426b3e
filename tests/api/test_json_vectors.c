/* test_json_vectors.c - what a search asks for, as it reaches storage. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "api/json_vectors.h"

static struct arena arena;

static struct search_query query(const char *params)
{
    static const struct vector_rules rules = {.database = "docs", .dimension = 2};
    struct search_request search;
    struct json_scan s;
    struct err err;
    char body[300];
    snprintf(body, sizeof body, "{\"data\":[1,2]%s%s}", *params ? ",\"params\":" : "", params);
    json_scan_init(&s, body, strlen(body), &arena);
    if (json_vector_search(&s, &rules, &search, &err)) fail_msg("%s: %s", body, err.msg);
    assert_true(search.query.vector[0] == 1 && search.query.vector[1] == 2);
    return search.query;
}

static int drop_arena(void **state)
{
    (void)state;
    arena_free(&arena);
    return 0;
}

static void what_is_not_said_is_chosen_by_storage(void **state)
{
    (void)state;
    static const char *const texts[] = {"", "{}", "{\"exact\":false}", "{\"rescore\":true}"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct search_query q = query(texts[i]);
        assert_false(q.exact || q.no_rescore);
        assert_int_equal(q.ef, 0);
        assert_true(q.recall == 0 && q.oversampling == 0);
    }
}

static void each_parameter_arrives(void **state)
{
    (void)state;
    struct search_query q = query("{\"exact\":true,\"ef\":77,\"recall\":0.9,\"rescore\":false,"
                                  "\"oversampling\":2.5}");
    assert_true(q.exact && q.no_rescore);
    assert_int_equal(q.ef, 77);
    assert_true(q.recall == 0.9 && q.oversampling == 2.5);
}

static void the_ends_of_each_range_are_allowed(void **state)
{
    (void)state;
    assert_int_equal(query("{\"ef\":1}").ef, 1);
    assert_int_equal(query("{\"ef\":32768}").ef, 32768);
    assert_true(query("{\"recall\":0.5}").recall == 0.5);
    assert_true(query("{\"recall\":1}").recall == 1);
    assert_true(query("{\"oversampling\":1}").oversampling == 1);
    assert_true(query("{\"oversampling\":100}").oversampling == 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(what_is_not_said_is_chosen_by_storage, drop_arena),
        cmocka_unit_test_teardown(each_parameter_arrives, drop_arena),
        cmocka_unit_test_teardown(the_ends_of_each_range_are_allowed, drop_arena),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

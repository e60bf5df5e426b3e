/* The filter language: what matches, and what a refusal says. */
#include "tests/storage/fixture.h"

#include "api/json_filter.h"

static enum err_code compile(const char *text, const char *options, struct arena *arena,
                             const struct filter **filter, struct err *err)
{
    struct json_scan s;
    json_scan_init(&s, text, strlen(text), arena);
    enum err_code rc = json_filter(&s, options, filter, err);
    return rc ? rc : json_scan_end(&s, err);
}

static const char options[] = "{\"index\":{\"type\":\"flat\"},\"metadata_indexes\":{\"at\":"
                              "\"datetime\",\"a.at\":\"datetime\","
                              "\"title\":\"text\"}}";

static bool id_matches(const char *filter_text, struct vector_id id, const char *metadata)
{
    struct arena arena = {0};
    const struct filter *filter;
    struct err err;
    bool matches;
    if (compile(filter_text, options, &arena, &filter, &err))
        fail_msg("%s: %s", filter_text, err.msg);
    CHECK_OK(filter_matches(filter, &id, metadata, strlen(metadata), &matches, &err));
    arena_free(&arena);
    return matches;
}

static bool matches(const char *filter_text, const char *metadata)
{
    return id_matches(filter_text, (struct vector_id){.number = 7}, metadata);
}

struct verdict {
    const char *filter;
    const char *yes[8], *no[8];
};

static void check(const struct verdict *v, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        for (int k = 0; k < 8 && v[i].yes[k]; k++)
            if (!matches(v[i].filter, v[i].yes[k]))
                fail_msg("%s should match %s", v[i].filter, v[i].yes[k]);
        for (int k = 0; k < 8 && v[i].no[k]; k++)
            if (matches(v[i].filter, v[i].no[k]))
                fail_msg("%s should not match %s", v[i].filter, v[i].no[k]);
    }
}
#define CHECK_ALL(verdicts) check(verdicts, sizeof verdicts / sizeof *verdicts)

static void comparisons_keep_types_apart(void **state)
{
    (void)state;
    static const struct verdict verdicts[] = {
        {"{}", {"{}", "{\"a\":1}"}, {0}},
        {"{\"a\":1}",
         {"{\"a\":1}", "{\"a\":1.0}", "{\"a\":1e0}"},
         {"{\"a\":\"1\"}", "{\"a\":true}", "{\"a\":2}", "{}", "{\"b\":1}", "{\"a\":{\"a\":1}}"}},
        {"{\"a\":\"x\"}",
         {"{\"a\":\"x\"}", "{\"a\":\"\\u0078\"}"},
         {"{\"a\":\"X\"}", "{\"a\":\"xy\"}"}},
        {"{\"a\":true}", {"{\"a\":true}"}, {"{\"a\":1}", "{\"a\":\"true\"}", "{\"a\":false}"}},
        {"{\"a\":{\"$eq\":false}}", {"{\"a\":false}"}, {"{\"a\":0}", "{\"a\":null}", "{}"}},
        {"{\"a\":{\"$gt\":10}}",
         {"{\"a\":11}", "{\"a\":10.5}"},
         {"{\"a\":10}", "{\"a\":\"11\"}", "{}", "{\"a\":null}"}},
        {"{\"a\":{\"$gte\":10,\"$lte\":12}}",
         {"{\"a\":10}", "{\"a\":12}"},
         {"{\"a\":9}", "{\"a\":13}"}},
        {"{\"a\":{\"$lt\":\"m\"}}",
         {"{\"a\":\"lz\"}", "{\"a\":\"\"}"},
         {"{\"a\":\"m\"}", "{\"a\":1}"}},
        {"{\"a\":{\"$gt\":9007199254740992}}",
         {"{\"a\":9007199254740993}"},
         {"{\"a\":9007199254740992}"}},
        {"{\"a\":{\"$lt\":18446744073709551615}}",
         {"{\"a\":18446744073709551614}"},
         {"{\"a\":18446744073709551615}", "{\"a\":18446744073709551616}"}},
        {"{\"a\":{\"$gte\":-1.5}}", {"{\"a\":-1}", "{\"a\":-1.5}"}, {"{\"a\":-2}"}},
    };
    CHECK_ALL(verdicts);
}

static void negations_hold_for_rows_without_the_field(void **state)
{
    (void)state;
    static const struct verdict verdicts[] = {
        {"{\"a\":{\"$ne\":1}}",
         {"{}", "{\"a\":2}", "{\"a\":\"1\"}", "{\"a\":[2,3]}"},
         {"{\"a\":1}", "{\"a\":[1,2]}"}},
        {"{\"a\":{\"$nin\":[1,\"x\"]}}", {"{}", "{\"a\":2}"}, {"{\"a\":1}", "{\"a\":\"x\"}"}},
        {"{\"a\":{\"$exists\":true}}",
         {"{\"a\":null}", "{\"a\":[]}", "{\"a\":{}}", "{\"a\":0}"},
         {"{}"}},
        {"{\"a\":{\"$exists\":false}}", {"{}", "{\"b\":{\"a\":1}}"}, {"{\"a\":null}", "{\"a\":0}"}},
        {"{\"a\":null}",
         {"{}", "{\"a\":null}", "{\"a\":[1,null]}"},
         {"{\"a\":0}", "{\"a\":[]}", "{\"a\":\"\"}"}},
        {"{\"a\":{\"$ne\":null}}", {"{\"a\":0}", "{\"a\":{}}"}, {"{}", "{\"a\":null}"}},
        {"{\"a\":{\"$in\":[null,5]}}", {"{}", "{\"a\":null}", "{\"a\":5}"}, {"{\"a\":6}"}},
        {"{\"a\":{\"$nin\":[null,5]}}", {"{\"a\":6}"}, {"{}", "{\"a\":null}", "{\"a\":5}"}},
        {"{\"$not\":{\"a\":1}}", {"{}", "{\"a\":2}"}, {"{\"a\":1}"}},
        {"{\"$not\":{\"a\":1,\"b\":2}}", {"{\"a\":1}", "{\"b\":2}"}, {"{\"a\":1,\"b\":2}"}},
        {"{\"a\":{\"$not\":{\"$gt\":5}}}", {"{}", "{\"a\":5}", "{\"a\":\"x\"}"}, {"{\"a\":6}"}},
        {"{\"a\":{\"$not\":{\"$gt\":5,\"$lt\":9}}}", {"{\"a\":5}", "{\"a\":9}"}, {"{\"a\":6}"}},
        {"{\"$not\":{}}", {0}, {"{}", "{\"a\":1}"}},
    };
    CHECK_ALL(verdicts);
}

static void sets_arrays_and_paths(void **state)
{
    (void)state;
    static const struct verdict verdicts[] = {
        {"{\"a\":{\"$in\":[3,1,2,1]}}",
         {"{\"a\":1}", "{\"a\":2.0}", "{\"a\":[9,3]}"},
         {"{\"a\":4}", "{}"}},
        {"{\"a\":{\"$in\":[]}}", {0}, {"{}", "{\"a\":1}"}},
        {"{\"a\":{\"$nin\":[]}}", {"{}", "{\"a\":1}"}, {0}},
        {"{\"a\":{\"$in\":[\"x\",2,true,\"yy\"]}}",
         {"{\"a\":\"yy\"}", "{\"a\":true}"},
         {"{\"a\":\"y\"}"}},
        {"{\"a\":1}", {"{\"a\":[1,2]}"}, {"{\"a\":[[1]]}", "{\"a\":[]}", "{\"a\":[{\"a\":1}]}"}},
        /* Different elements may satisfy different operators, as in Mongo. */
        {"{\"a\":{\"$gt\":5,\"$lt\":3}}", {"{\"a\":[1,9]}"}, {"{\"a\":[4]}", "{\"a\":4}"}},
        {"{\"a.b\":1}",
         {"{\"a\":{\"b\":1}}", "{\"a.b\":1}", "{\"a\":[{\"b\":0},{\"b\":1}]}"},
         {"{\"a\":1}", "{\"b\":1}", "{\"a\":{\"b\":2}}"}},
        {"{\"a.b.c\":{\"$exists\":true}}",
         {"{\"a\":{\"b\":{\"c\":null}}}"},
         {"{\"a\":{\"b\":{}}}"}},
        {"{\"a\":{\"$contains\":\"x\"}}",
         {"{\"a\":[\"x\"]}", "{\"a\":\"axb\"}"},
         {"{\"a\":[\"axb\"]}", "{\"a\":\"ab\"}", "{\"a\":1}", "{}"}},
        {"{\"a\":{\"$contains\":2}}",
         {"{\"a\":[1,2]}"},
         {"{\"a\":2}", "{\"a\":\"2\"}", "{\"a\":[\"2\"]}"}},
        {"{\"a\":{\"$contains\":\"\"}}",
         {"{\"a\":\"\"}", "{\"a\":\"z\"}"},
         {"{\"a\":[\"z\"]}", "{\"a\":3}"}},
        {"{\"a\":{\"$prefix\":\"ab\"}}",
         {"{\"a\":\"ab\"}", "{\"a\":\"abc\"}", "{\"a\":[\"x\",\"abz\"]}"},
         {"{\"a\":\"a\"}", "{\"a\":\"xab\"}", "{\"a\":1}"}},
        {"{\"a\":{\"$regex\":\"^li.*dev$\"}}",
         {"{\"a\":\"libfoo-dev\"}", "{\"a\":[1,\"lidev\"]}"},
         {"{\"a\":\"dev\"}", "{\"a\":1}", "{}"}},
        {"{\"$and\":[{\"a\":1},{\"b\":2}]}", {"{\"a\":1,\"b\":2}"}, {"{\"a\":1}", "{\"b\":2}"}},
        {"{\"$or\":[{\"a\":1},{\"b\":2}],\"c\":3}",
         {"{\"a\":1,\"c\":3}", "{\"c\":3,\"b\":2}"},
         {"{\"a\":1}", "{\"c\":3}"}},
        {"{\"$or\":[{\"$and\":[{\"a\":1},{\"$not\":{\"b\":1}}]},{\"c\":{\"$in\":[1,2]}}]}",
         {"{\"a\":1}", "{\"c\":2}"},
         {"{\"a\":1,\"b\":1}", "{}"}},
    };
    CHECK_ALL(verdicts);
}

static void times_are_compared_as_times_where_the_field_says_so(void **state)
{
    (void)state;
    static const struct verdict verdicts[] = {
        {"{\"at\":{\"$gt\":\"2026-01-01T00:00:00Z\"}}",
         {"{\"at\":\"2026-01-01T00:30:00+00:00\"}", "{\"at\":\"2025-12-31T23:30:00-01:00\"}"},
         {"{\"at\":\"2026-01-01T00:30:00+01:00\"}", "{\"at\":\"zzz\"}", "{\"at\":3}"}},
        {"{\"at\":\"2026-01-01T00:00:00Z\"}",
         {"{\"at\":\"2026-01-01T01:00:00.000+01:00\"}"},
         {"{\"at\":\"2026-01-01T00:00:01Z\"}"}},
        {"{\"at\":{\"$in\":[\"2026-01-01T00:00:00Z\",\"unknown\"]}}",
         {"{\"at\":\"2026-01-01T01:00:00+01:00\"}", "{\"at\":\"unknown\"}"},
         {"{\"at\":\"2026\"}"}},
        {"{\"at\":{\"$prefix\":\"2026-01\"}}",
         {"{\"at\":\"2026-01-01T01:00:00Z\"}"},
         {"{\"at\":\"2025\"}"}},
        {"{\"a.at\":{\"$lt\":\"2026-01-01T00:00:00Z\"}}",
         {"{\"a\":{\"at\":\"2025-01-01t00:00:00z\"}}"},
         {"{\"at\":\"2025-01-01T00:00:00Z\"}"}},
        /* Without the index they are texts. */
        {"{\"other\":{\"$gt\":\"2026-01-01T00:00:00Z\"}}",
         {"{\"other\":\"2026-01-01T00:30:00+01:00\"}"},
         {"{\"other\":\"2025-12-31T23:30:00-01:00\"}"}},
    };
    CHECK_ALL(verdicts);
}

static void places_and_texts(void **state)
{
    (void)state;
    static const struct verdict verdicts[] = {
        {"{\"p\":{\"$geo_radius\":{\"lat\":52.52,\"lon\":13.405,\"meters\":30000}}}",
         {"{\"p\":{\"lat\":52.39,\"lon\":13.06}}",
          "{\"p\":{\"lon\":13.4,\"x\":\"\\u00e9\",\"lat\":52.5}}",
          "{\"p\":[{\"lat\":0,\"lon\":0},{\"lat\":52.5,\"lon\":13.4}]}"},
         {"{\"p\":{\"lat\":48.85,\"lon\":2.35}}", "{\"p\":{\"lat\":52.5}}", "{\"p\":\"52.5,13.4\"}",
          "{\"p\":{\"lat\":\"52.5\",\"lon\":\"13.4\"}}", "{}", "{\"p\":[52.5,13.4]}"}},
        {"{\"p\":{\"$geo_box\":{\"top_left\":{\"lat\":10,\"lon\":170},\"bottom_right\":{\"lat\":-"
         "10,\"lon\":-170}}}}",
         {"{\"p\":{\"lat\":0,\"lon\":175}}", "{\"p\":{\"lat\":0,\"lon\":-175}}"},
         {"{\"p\":{\"lat\":0,\"lon\":0}}", "{\"p\":{\"lat\":11,\"lon\":175}}"}},
        {"{\"title\":{\"$text\":\"quick FOX\"}}",
         {"{\"title\":\"The quick, brown fox.\"}", "{\"title\":[\"dog\",\"Fox: quick\"]}"},
         {"{\"title\":\"quick\"}", "{\"title\":[\"quick\",\"fox\"]}", "{\"title\":\"quick foxes\"}",
          "{}"}},
    };
    CHECK_ALL(verdicts);
}

static void ids_can_be_filtered(void **state)
{
    (void)state;
    struct vector_id seven = {.number = 7}, text = test_text_id("doc/a");
    assert_true(id_matches("{\"$id\":7}", seven, "{}"));
    assert_true(id_matches("{\"$id\":\"7\"}", seven, "{}"));
    assert_true(id_matches("{\"$id\":{\"$in\":[\"x\",\"7\",9]}}", seven, "{}"));
    assert_true(id_matches("{\"$id\":{\"$gte\":7,\"$lt\":8}}", seven, "{}"));
    assert_true(id_matches("{\"$id\":{\"$ne\":8}}", seven, "{}"));
    assert_true(id_matches("{\"$id\":{\"$exists\":true}}", seven, "{}"));
    assert_false(id_matches("{\"$id\":{\"$prefix\":\"7\"}}", seven, "{}"));
    assert_false(id_matches("{\"$id\":null}", seven, "{}"));
    assert_true(id_matches("{\"$id\":{\"$prefix\":\"doc/\"}}", text, "{}"));
    assert_true(id_matches("{\"$id\":{\"$contains\":\"c/\"}}", text, "{}"));
    assert_true(id_matches("{\"$id\":\"doc/a\",\"x\":1}", text, "{\"x\":1}"));
    assert_false(id_matches("{\"$id\":{\"$gt\":0}}", text, "{}"));
}

static void refusals_name_the_place_and_teach(void **state)
{
    (void)state;
    static const char *const bad[][2] = {
        {"[]", "a filter that is not an object"},
        {"3", "a filter that is not an object"},
        {"{\"a\":{\"$gtx\":1}}", "unknown operator \"$gtx\" at \"a\""},
        {"{\"$xor\":[]}", "unknown operator \"$xor\" at its top"},
        {"{\"$and\":[{\"a\":1},{\"b\":{\"c\":1}}]}", "\"$and[1].b\" is compared with an object"},
        {"{\"a\":[1]}", "\"a\" is compared with an array; use $in"},
        {"{\"a\":{\"$eq\":{}}}", "\"a.$eq\" is compared with an object"},
        {"{\"a\":{}}", "empty object"},
        {"{\"$and\":{}}", "\"$and\" needs an array of filters"},
        {"{\"$or\":[]}", "\"$or\" needs at least one"},
        {"{\"$or\":[1]}", "\"$or[0]\" is not an object"},
        {"{\"$not\":[]}", "\"$not\" is not an object"},
        {"{\"a\":{\"$not\":5}}", "\"a.$not\" needs an object of operators"},
        {"{\"a\":{\"$in\":5}}", "\"a.$in\" needs an array"},
        {"{\"a\":{\"$in\":[[1]]}}", "\"a.$in\" is compared with an array"},
        {"{\"a\":{\"$gt\":null}}", "\"a.$gt\" needs a number or a string"},
        {"{\"a\":{\"$lte\":true}}", "\"a.$lte\" needs a number or a string"},
        {"{\"at\":{\"$lte\":\"2026-01-01\"}}", "\"at.$lte\" needs a time like"},
        {"{\"a\":{\"$exists\":1}}", "\"a.$exists\" needs true or false"},
        {"{\"a\":{\"$prefix\":1}}", "\"a.$prefix\" needs a string"},
        {"{\"a\":{\"$contains\":null}}", "\"a.$contains\" needs"},
        {"{\"a\":{\"$regex\":\"(\"}}", "\"a.$regex\" is not a regular expression: a ("},
        {"{\"a\":{\"$text\":\" . \"}}", "\"a.$text\" has no word"},
        {"{\"a\":{\"$geo_radius\":5}}", "\"a.$geo_radius\" needs {\"lat\""},
        {"{\"a\":{\"$geo_radius\":{\"lat\":1,\"lon\":2}}}", "\"a.$geo_radius\" needs"},
        {"{\"a\":{\"$geo_radius\":{\"lat\":1,\"lon\":2,\"meters\":-1}}}", "\"meters\" from 0"},
        {"{\"a\":{\"$geo_radius\":{\"lat\":91,\"lon\":2,\"meters\":1}}}", "-90 to 90"},
        {"{\"a\":{\"$geo_radius\":{\"lat\":1,\"lon\":2,\"meters\":1,\"x\":1}}}", "needs"},
        {"{\"a\":{\"$geo_box\":{\"top_left\":{\"lat\":1,\"lon\":2}}}}", "\"a.$geo_box\" needs"},
        {"{\"a\":{\"$geo_box\":{\"top_left\":{\"lat\":1,\"lon\":2},\"bottom_right\":{\"lat\":2,"
         "\"lon\":2}}}}",
         "north"},
        {"{\"a..b\":1}", "\"a..b\" has no path"},
        {"{\"\":1}", "has no path"},
        {"{\"a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p.q\":1}", "more than 16 keys"},
        {"{\"$id\":{\"$gt\":true}}", "\"$id.$gt\" needs"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct arena arena = {0};
        const struct filter *filter;
        struct err err;
        enum err_code rc = compile(bad[i][0], options, &arena, &filter, &err);
        if (rc != ERR_INVALID_FILTER) fail_msg("%s: %d", bad[i][0], rc);
        if (!strstr(err.msg, bad[i][1])) fail_msg("%s: %s", bad[i][0], err.msg);
        arena_free(&arena);
    }
}

static void null_is_no_filter(void **state)
{
    (void)state;
    struct arena arena = {0};
    struct err err;
    const struct filter *filter = (const struct filter *)&arena;
    CHECK_OK(compile(" null ", NULL, &arena, &filter, &err));
    assert_null(filter);
    arena_free(&arena);
}

static void broken_json_is_told_from_a_wrong_filter(void **state)
{
    (void)state;
    static const char *const bad[] = {"{\"a\":",
                                      "{\"$foo\":1",
                                      "{\"a\":1,\"a\":2}",
                                      "{\"a\":nul}",
                                      "{\"$and\":[{\"b\":1,\"b\":1}]}",
                                      "{} x",
                                      ""};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct arena arena = {0};
        const struct filter *filter;
        struct err err;
        enum err_code rc = compile(bad[i], NULL, &arena, &filter, &err);
        if (rc != ERR_INVALID_JSON) fail_msg("%s: %d %s", bad[i], rc, err.msg);
        arena_free(&arena);
    }
}

/* `unit` so many times between two texts. */
static char *repeated(const char *before, const char *unit, int count, const char *behind)
{
    char *text = malloc(strlen(before) + (size_t)count * strlen(unit) + strlen(behind) + 1);
    strcpy(text, before);
    char *at = text + strlen(text);
    for (int i = 0; i < count; i++)
        at = stpcpy(at, unit);
    strcpy(at, behind);
    return text;
}

static void check_limit(char *text, const char *message)
{
    struct arena arena = {0};
    const struct filter *filter;
    struct err err = {0};
    enum err_code rc = compile(text, NULL, &arena, &filter, &err);
    if (rc != (message ? ERR_INVALID_FILTER : ERR_OK) || (message && !strstr(err.msg, message)))
        fail_msg("%.40s...: %d %s", text, rc, err.msg);
    arena_free(&arena);
    free(text);
}

static void filters_have_limits(void **state)
{
    (void)state;
    char tail[64];
    for (int depth = 15; depth <= 16; depth++) {
        tail[0] = '\0';
        for (int i = 0; i < depth; i++)
            strcat(tail, "}");
        check_limit(repeated("{\"$not\":", "{\"$not\":", depth - 1, strcat((char[64]){"{}"}, tail)),
                    depth == 15 ? NULL : "16 levels");
    }
    check_limit(repeated("{\"$or\":[", "{\"a\":1},", 990, "{}]}"), NULL);
    check_limit(repeated("{\"$or\":[", "{\"a\":1},", 1000, "{}]}"), "1000 conditions");
    check_limit(repeated("{\"a\":{\"$in\":[", "1,", 9999, "2]}}"), NULL);
    check_limit(repeated("{\"a\":{\"$in\":[", "1,", 10000, "2]}}"), "10000 values");
    check_limit(repeated("{\"a\":{\"$regex\":\"", "x", 990, "\"}}"), NULL);
    check_limit(repeated("{\"a\":{\"$regex\":\"", "x", 1001, "\"}}"), "bytes");
    check_limit(repeated("{\"", "x", 256, "\":1}"), NULL);
    check_limit(repeated("{\"", "x", 257, "\":1}"), "256 bytes");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(comparisons_keep_types_apart),
        cmocka_unit_test(negations_hold_for_rows_without_the_field),
        cmocka_unit_test(sets_arrays_and_paths),
        cmocka_unit_test(times_are_compared_as_times_where_the_field_says_so),
        cmocka_unit_test(places_and_texts),
        cmocka_unit_test(ids_can_be_filtered),
        cmocka_unit_test(refusals_name_the_place_and_teach),
        cmocka_unit_test(null_is_no_filter),
        cmocka_unit_test(broken_json_is_told_from_a_wrong_filter),
        cmocka_unit_test(filters_have_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

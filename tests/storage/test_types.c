/* The rules of ids, names, metrics and durabilities. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "storage/types.h"

static struct err err;

static struct vector_id parse(const char *text)
{
    struct vector_id id;
    assert_int_equal(vector_id_parse(text, strlen(text), &id, &err), ERR_OK);
    return id;
}

static void canonical_decimals_are_numbers(void **state)
{
    (void)state;
    const struct {
        const char *text;
        uint64_t number;
    } rows[] = {
        {"0", 0},
        {"7", 7},
        {"10", 10},
        {"1000000000000000000", 1000000000000000000},
        {"9223372036854775807", INT64_MAX},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const struct vector_id id = parse(rows[i].text);
        assert_null(id.text);
        assert_true(id.number == rows[i].number);
    }
}

static void everything_else_is_a_string(void **state)
{
    (void)state;
    const char *const texts[] = {
        "007",
        "00",
        "+1",
        "-1",
        "-0",
        "9223372036854775808",
        "9999999999999999999",
        "1e3",
        "1.0",
        " 1",
        "1 ",
        "0x10",
        "18446744073709551616",
        "99999999999999999999",
        "a",
        "a/b?",
        "1٣",
        "é",
        "\xf0\x9f\x98\x80",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        const struct vector_id id = parse(texts[i]);
        assert_ptr_equal(id.text, texts[i]);
        assert_int_equal(id.text_bytes, strlen(texts[i]));
    }
}

static void a_string_id_has_1_to_512_bytes(void **state)
{
    (void)state;
    char text[513];
    memset(text, 'x', sizeof text);
    struct vector_id id;
    assert_int_equal(vector_id_parse(text, 512, &id, &err), ERR_OK);
    assert_int_equal(id.text_bytes, 512);
    assert_int_equal(vector_id_parse(text, 513, &id, &err), ERR_INVALID_ID);
    assert_non_null(strstr(err.msg, "513"));
    assert_int_equal(vector_id_parse(text, 0, &id, &err), ERR_INVALID_ID);
    memset(text, '0', sizeof text);
    assert_int_equal(vector_id_parse(text, 513, &id, &err), ERR_INVALID_ID);
}

static void control_characters_and_bad_utf8_are_refused(void **state)
{
    (void)state;
    const char *const texts[] = {
        "a\nb", "\x1b[1m", "\x7f",  "x\xc2\x80",    "\xc2\x9fz",
        "\x01", "\xff",    "a\xc3", "\xed\xa0\x80",
    };
    struct vector_id id;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        assert_int_equal(vector_id_parse(texts[i], strlen(texts[i]), &id, &err), ERR_INVALID_ID);
        assert_int_equal(err.code, ERR_INVALID_ID);
    }
    assert_int_equal(vector_id_parse("a\0b", 3, &id, &err), ERR_INVALID_ID);
    assert_int_equal(vector_id_parse("\xc2\xa0", 2, &id, &err), ERR_OK); /* first after C1 */
}

static void ids_sort_integers_first_then_strings_by_bytes(void **state)
{
    (void)state;
    const char *const ascending[] = {
        "0",  "9", "10",      "9223372036854775807", "-1", "007", "9223372036854775808", "Z", "a",
        "aa", "b", "\xc3\xa9"};
    const int count = (int)(sizeof ascending / sizeof *ascending);
    for (int i = 0; i < count; i++) {
        for (int k = 0; k < count; k++) {
            const struct vector_id a = parse(ascending[i]), b = parse(ascending[k]);
            const int order = vector_id_compare(&a, &b);
            assert_true(i < k ? order < 0 : i > k ? order > 0 : order == 0);
        }
    }
}

static void a_formatted_id_fits_and_keeps_whole_characters(void **state)
{
    (void)state;
    char text[32];
    struct vector_id id = parse("9223372036854775807");
    vector_id_format(&id, text, sizeof text);
    assert_string_equal(text, "9223372036854775807");
    vector_id_format(&id, text, 4);
    assert_string_equal(text, "922");
    id = parse("ab\xe2\x82\xac"
               "cd");
    vector_id_format(&id, text, sizeof text);
    assert_string_equal(text, "ab\xe2\x82\xac"
                              "cd");
    vector_id_format(&id, text, 6);
    assert_string_equal(text, "ab\xe2\x82\xac");
    vector_id_format(&id, text, 5);
    assert_string_equal(text, "ab");
    vector_id_format(&id, text, 1);
    assert_string_equal(text, "");
}

static void metrics_have_names_and_aliases(void **state)
{
    (void)state;
    const struct {
        const char *text;
        enum metric metric;
    } rows[] = {
        {"cosine", METRIC_COSINE},   {"euclidean", METRIC_EUCLIDEAN},
        {"l2", METRIC_EUCLIDEAN},    {"dot_product", METRIC_DOT_PRODUCT},
        {"dot", METRIC_DOT_PRODUCT}, {"inner_product", METRIC_DOT_PRODUCT},
        {"ip", METRIC_DOT_PRODUCT},  {"manhattan", METRIC_MANHATTAN},
        {"l1", METRIC_MANHATTAN},
    };
    enum metric m;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        assert_true(metric_parse(rows[i].text, strlen(rows[i].text), &m));
        assert_int_equal(m, rows[i].metric);
    }
    for (int i = 0; i < METRIC_COUNT; i++) {
        const char *name = metric_name(i);
        assert_true(metric_parse(name, strlen(name), &m));
        assert_int_equal(m, i);
        assert_true(strlen(name) > 2); /* the name is never an alias */
    }
    assert_false(metric_parse("Cosine", 6, &m));
    assert_false(metric_parse("cosinex", 7, &m));
    assert_false(metric_parse("cosine", 5, &m));
    assert_false(metric_parse("", 0, &m));
}

static void durabilities_have_names(void **state)
{
    (void)state;
    enum durability d;
    for (int i = 0; i < DURABILITY_COUNT; i++) {
        const char *name = durability_name(i);
        assert_true(durability_parse(name, strlen(name), &d));
        assert_int_equal(d, i);
    }
    assert_string_equal(durability_name(DURABILITY_SYNCED), "synced");
    assert_string_equal(durability_name(DURABILITY_PERIODIC), "periodic");
    assert_false(durability_parse("async", 5, &d));
}

static void index_kinds_and_quantizations_have_names(void **state)
{
    (void)state;
    static const char *const kinds[] = {"auto", "hnsw", "flat"};
    static const char *const quantizations[] = {"auto", "none", "int8", "binary"};
    enum index_kind k;
    enum quantization q;
    for (int i = 0; i < INDEX_KIND_COUNT; i++) {
        assert_string_equal(index_kind_name(i), kinds[i]);
        assert_true(index_kind_parse(kinds[i], strlen(kinds[i]), &k));
        assert_int_equal(k, i);
    }
    for (int i = 0; i < QUANTIZATION_COUNT; i++) {
        assert_string_equal(quantization_name(i), quantizations[i]);
        assert_true(quantization_parse(quantizations[i], strlen(quantizations[i]), &q));
        assert_int_equal(q, i);
    }
    assert_false(index_kind_parse("ivf", 3, &k));
    assert_false(quantization_parse("pq", 2, &q));
}

static void good_database_names_pass(void **state)
{
    (void)state;
    const char *const names[] = {"a",   "A",        "0",    "_",    "docs",
                                 "a.b", "a-b_c.D9", "jvdb", "a..b", "x."};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        assert_int_equal(database_name_check(names[i], strlen(names[i]), &err), ERR_OK);
    char longest[129];
    memset(longest, 'n', sizeof longest);
    assert_int_equal(database_name_check(longest, 128, &err), ERR_OK);
    assert_int_equal(database_name_check(longest, 129, &err), ERR_INVALID_NAME);
}

static void bad_database_names_are_refused(void **state)
{
    (void)state;
    const char *const names[] = {"",       ".",     "..",       ".a",  "-a",
                                 "a/b",    "../x",  "a b",      "a%",  "\xc3\xa9",
                                 "a.jvdb", ".jvdb", "a.jvdb.b", "a\n", "a:b"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        assert_int_equal(database_name_check(names[i], strlen(names[i]), &err), ERR_INVALID_NAME);
        assert_true(strlen(err.msg) > 10);
    }
    assert_int_equal(database_name_check("a\0b", 3, &err), ERR_INVALID_NAME);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(canonical_decimals_are_numbers),
        cmocka_unit_test(everything_else_is_a_string),
        cmocka_unit_test(a_string_id_has_1_to_512_bytes),
        cmocka_unit_test(control_characters_and_bad_utf8_are_refused),
        cmocka_unit_test(ids_sort_integers_first_then_strings_by_bytes),
        cmocka_unit_test(a_formatted_id_fits_and_keeps_whole_characters),
        cmocka_unit_test(metrics_have_names_and_aliases),
        cmocka_unit_test(durabilities_have_names),
        cmocka_unit_test(index_kinds_and_quantizations_have_names),
        cmocka_unit_test(good_database_names_pass),
        cmocka_unit_test(bad_database_names_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

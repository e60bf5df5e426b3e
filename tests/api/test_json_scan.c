/* test_json_scan.c - what is JSON and what is not, and where the fault is. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "api/json_scan.h"
#include "storage/base/buf.h"

static enum err_code scan(const char *text, size_t len, struct err *err)
{
    struct arena arena = {0};
    struct json_scan s;
    struct json_text raw;
    char *copy = malloc(len + 1); /* nothing but the zero byte behind it, for the sanitizer */
    memcpy(copy, text, len);
    copy[len] = 0;
    json_scan_init(&s, copy, len, &arena);
    enum err_code rc = json_scan_value(&s, &raw, err);
    if (!rc) rc = json_scan_end(&s, err);
    if (!rc && raw.len > len) rc = ERR_INTERNAL;
    arena_free(&arena);
    free(copy);
    return rc;
}

static void valid_json_is_accepted(void **unused)
{
    (void)unused;
    static const char *const texts[] = {
        "[]",
        "{}",
        "[[]]",
        "[{}]",
        " [ ] ",
        "\t\n\r{ \"a\" : 1 }\n",
        "0",
        "-0",
        "-0.0",
        "1e5",
        "1E+5",
        "1.5e-300",
        "123456789012345678901234567890",
        "1e400",
        "true",
        "false",
        "null",
        "\"\"",
        "\"a\"",
        "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"",
        "\"\\u0000\"",
        "\"\\u00e9\\uD834\\uDD1E\"",
        "\"\xc3\xa9\xe6\x97\xa5\xf0\x9d\x84\x9e\"",
        "\"\x7f\"",
        "[1,2,3]",
        "[1,[2,[3,{\"a\":[]}]]]",
        "{\"a\":1,\"b\":2,\"A\":3}",
        "{\"\":0}",
        "{\"a\":{\"a\":{\"a\":1}}}",
        "\"\xf4\x8f\xbf\xbf\"",
        "\"\xef\xbf\xbf\"",
        "{\"a\":\"\\u0061\"}",
    };
    struct err err;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        if (scan(texts[i], strlen(texts[i]), &err)) fail_msg("%s: %s", texts[i], err.msg);
    }
}

static void everything_else_is_refused(void **unused)
{
    (void)unused;
    static const char *const texts[] = {
        "",
        " ",
        "[",
        "]",
        "{",
        "}",
        "[1,]",
        "[,1]",
        "[1 2]",
        "[1,,2]",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{,}",
        "{a:1}",
        "{'a':1}",
        "{1:1}",
        "[1}",
        "{\"a\":1]",
        "nul",
        "tru",
        "True",
        "nullx",
        "[true false]",
        "01",
        "-",
        "+1",
        ".1",
        "1.",
        "1.e1",
        "1e",
        "1e+",
        "0x1",
        "--1",
        "1_000",
        "NaN",
        "Infinity",
        "-Infinity",
        "\"",
        "\"a",
        "\"\\",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\u123g\"",
        "\"\\uD834\"",
        "\"\\uDD1E\"",
        "\"\\uD834\\u0041\"",
        "\"a\nb\"",
        "\"\t\"",
        "\"\x1f\"",
        "\"\xff\"",
        "\"\xc0\x80\"",
        "\"\xc3\"",
        "\"\xe0\x80\x80\"",
        "\"\xed\xa0\x80\"",
        "\"\xf4\x90\x80\x80\"",
        "\"\xf8\x88\x80\x80\x80\"",
        "[1]x",
        "{}{}",
        "1 2",
        "\xef\xbb\xbf[]",
        "// c\n[]",
        "[/**/]",
        "{\"a\":1,\"a\":2}",
        "{\"a\":1,\"\\u0061\":2}",
        "[{\"b\":{\"x\":1,\"y\":2,\"x\":3}}]",
        "\"\\U0041\"",
        "\f[]",
        "[\"\xc2\xa0\",\xc2\xa0]",
    };
    struct err err;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        if (!scan(texts[i], strlen(texts[i]), &err)) fail_msg("took %s", texts[i]);
        assert_int_equal(err.code, ERR_INVALID_JSON);
        assert_non_null(strstr(err.msg, "at byte "));
    }
    assert_int_equal(scan("[1,\0002]", 6, &err), ERR_INVALID_JSON);
    assert_int_equal(scan("\"a\0b\"", 5, &err), ERR_INVALID_JSON);
    assert_int_equal(scan("[]\0", 3, &err), ERR_INVALID_JSON);
}

static void a_fault_is_named_by_its_byte(void **unused)
{
    (void)unused;
    struct err err;
    assert_int_equal(scan("[1, 2, x]", 9, &err), ERR_INVALID_JSON);
    assert_non_null(strstr(err.msg, "at byte 7:"));
    assert_int_equal(scan("{\"a\": tru}", 10, &err), ERR_INVALID_JSON);
    assert_non_null(strstr(err.msg, "at byte 6:"));
    assert_int_equal(scan("[1", 2, &err), ERR_INVALID_JSON);
    assert_non_null(strstr(err.msg, "at byte 2:"));
    assert_non_null(strstr(err.msg, "the text ends here"));
}

static void nesting_ends_at_64_levels(void **unused)
{
    (void)unused;
    char text[256];
    struct err err;
    for (int depth = 63; depth <= 66; depth++) {
        memset(text, '[', (size_t)depth);
        memset(text + depth, ']', (size_t)depth);
        assert_int_equal(scan(text, 2 * (size_t)depth, &err),
                         depth <= 64 ? ERR_OK : ERR_INVALID_JSON);
    }
    char *deep = malloc(1 << 20);
    memset(deep, '[', 1 << 20);
    assert_int_equal(scan(deep, 1 << 20, &err), ERR_INVALID_JSON);
    free(deep);
}

static void a_duplicate_key_is_found_among_many(void **unused)
{
    (void)unused;
    struct err err;
    for (int count = 2; count < 3000; count = count * 3 / 2 + 1) {
        struct buf text = {0};
        char name[32];
        buf_str(&text, "{");
        for (int i = 0; i < count; i++)
            buf_printf(&text, "\"k%d\":%d,", i, i);
        size_t head = text.len;
        buf_str(&text, "\"new\":0}");
        assert_int_equal(scan(text.data, text.len, &err), ERR_OK);
        text.len = head;
        snprintf(name, sizeof name, "\"k%d\"", count / 2);
        buf_printf(&text, "%s:0}", name);
        assert_int_equal(scan(text.data, text.len, &err), ERR_INVALID_JSON);
        assert_non_null(strstr(err.msg, name));
        buf_free(&text);
    }
}

static void strings_are_unescaped(void **unused)
{
    (void)unused;
    static const struct {
        const char *json, *want;
        size_t len;
    } cases[] = {
        {"\"plain\"", "plain", 5},
        {"\"a\\\"b\\\\c\\/d\"", "a\"b\\c/d", 7},
        {"\"\\b\\f\\n\\r\\t\"", "\b\f\n\r\t", 5},
        {"\"\\u0041\\u00e9\\u65e5\\uD834\\uDD1E\"", "A\xc3\xa9\xe6\x97\xa5\xf0\x9d\x84\x9e", 10},
        {"\"x\\u0000y\"", "x\0y", 3},
        {"\"\"", "", 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct arena arena = {0};
        struct json_scan s;
        struct json_text text;
        struct err err;
        json_scan_init(&s, cases[i].json, strlen(cases[i].json), &arena);
        assert_int_equal(json_scan_string(&s, &text, &err), ERR_OK);
        assert_int_equal(text.len, cases[i].len);
        assert_memory_equal(text.data, cases[i].want, text.len);
        assert_ptr_equal(s.at, s.end);
        arena_free(&arena);
    }
}

/* Whatever we take, jansson takes; whatever it takes, we take (numbers beyond it apart). */
static void mutated_text_is_judged_as_jansson_does(void **unused)
{
    (void)unused;
    static const char seed[] =
        "{\"a\":[1,-2.5e3,true,null,\"x\\u00e9\\n\xc3\xa9\"],\"b\":{\"c\":{},\"d\":[[],[{}]]}}";
    static const char bytes[] = "{}[]\",:\\/u0123456789eE+-. \n\ttrfalsn\x80\xc3\x01";
    uint64_t state = 42;
    size_t taken = 0;
    for (int i = 0; i < 300000; i++) {
        char text[sizeof seed];
        size_t len = sizeof seed - 1;
        memcpy(text, seed, sizeof seed);
        for (int n = 0; n <= i % 3; n++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            size_t at = (state >> 33) % len;
            char c = bytes[(state >> 13) % (sizeof bytes - 1)];
            if (state >> 60 & 1) {
                text[at] = c;
            } else {
                memmove(text + at, text + at + 1, len - at);
                len--;
            }
        }
        struct err err;
        json_error_t fault;
        bool ours = scan(text, len, &err) == ERR_OK;
        json_t *theirs = json_loadb(
            text, len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_ANY, &fault);
        if (ours != (theirs != NULL) && json_error_code(&fault) != json_error_numeric_overflow)
            fail_msg("%.*s: ours %d, jansson %d %s", (int)len, text, ours, theirs != NULL,
                     fault.text);
        taken += ours;
        json_decref(theirs);
    }
    assert_in_range(taken, 1000, 299000);
}

static enum err_code floats(const char *json, float *out, size_t cap, size_t *count,
                            struct err *err)
{
    struct json_scan s;
    struct arena arena = {0};
    char *copy = strdup(json);
    json_scan_init(&s, copy, strlen(copy), &arena);
    enum err_code rc = json_scan_floats(&s, out, cap, count, err);
    if (!rc) rc = json_scan_end(&s, err);
    free(copy);
    return rc;
}

static void arrays_of_numbers_become_float32(void **unused)
{
    (void)unused;
    float out[4] = {0};
    size_t count;
    struct err err;
    assert_int_equal(floats("[1,2.5,-3e2]", out, 4, &count, &err), ERR_OK);
    assert_int_equal(count, 3);
    assert_true(out[0] == 1 && out[1] == 2.5f && out[2] == -300);
    assert_int_equal(floats(" [ 1 ,\n2\t, 3 ] ", out, 4, &count, &err), ERR_OK);
    assert_int_equal(count, 3);
    assert_int_equal(floats("[]", out, 4, &count, &err), ERR_OK);
    assert_int_equal(count, 0);
    /* more than fit are counted, not stored */
    assert_int_equal(floats("[1,2,3,4,5,6]", out, 4, &count, &err), ERR_OK);
    assert_int_equal(count, 6);
    /* a midpoint that float64 would round twice */
    assert_int_equal(floats("[1.00000005960464477539062500001]", out, 4, &count, &err), ERR_OK);
    assert_true(out[0] == nextafterf(1, 2));
}

static void what_is_no_finite_float32_is_named(void **unused)
{
    (void)unused;
    static const struct {
        const char *json, *part;
    } cases[] = {
        {"[1, NaN]", "NaN at data[1]"},
        {"[Infinity]", "Infinity at data[0]"},
        {"[1,2,-Infinity]", "-Infinity at data[2]"},
        {"[0,1e39]", "1e39 at data[1]"},
        {"[-3.5e38]", "-3.5e38 at data[0]"},
        {"[1,null]", "null at data[1]"},
        {"[\"1\"]", "a string at data[0]"},
        {"[[1]]", "an array at data[0]"},
        {"[1,{}]", "an object at data[1]"},
        {"[true]", "true at data[0]"},
    };
    float out[4];
    size_t count;
    struct err err;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(floats(cases[i].json, out, 4, &count, &err), ERR_INVALID_VECTOR);
        if (!strstr(err.msg, cases[i].part)) fail_msg("%s: %s", cases[i].json, err.msg);
    }
    static const char *const broken[] = {"[1,]", "[,]",  "[1 2]", "[1,,2]", "[1",
                                         "[1,",  "[",    "[01]",  "[1.]",   "[.5]",
                                         "[+1]", "[1e]", "[1}",   "[-]",    "[x]"};
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        if (floats(broken[i], out, 4, &count, &err) != ERR_INVALID_JSON)
            fail_msg("%s: not refused as JSON", broken[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(valid_json_is_accepted),
        cmocka_unit_test(everything_else_is_refused),
        cmocka_unit_test(a_fault_is_named_by_its_byte),
        cmocka_unit_test(nesting_ends_at_64_levels),
        cmocka_unit_test(a_duplicate_key_is_found_among_many),
        cmocka_unit_test(strings_are_unescaped),
        cmocka_unit_test(mutated_text_is_judged_as_jansson_does),
        cmocka_unit_test(arrays_of_numbers_become_float32),
        cmocka_unit_test(what_is_no_finite_float32_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

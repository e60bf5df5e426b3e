/* test_dump_frame.c - the pieces of a dump, however it is cut. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "api/dump_frame.h"

static void note(void *ctx, const char *what, const char *json, size_t len)
{
    struct buf *out = ctx;
    buf_str(out, what);
    buf_add(out, json, len);
    buf_str(out, "\n");
}
static enum err_code begin(void *ctx, struct err *err)
{
    (void)err;
    note(ctx, "begin", "", 0);
    return ERR_OK;
}
static enum err_code name(void *ctx, const char *json, size_t len, uint64_t at, struct err *err)
{
    (void)err, (void)at;
    note(ctx, "name ", json, len);
    return ERR_OK;
}
static enum err_code schema(void *ctx, const char *json, size_t len, uint64_t at, struct err *err)
{
    (void)err, (void)at;
    note(ctx, "schema ", json, len);
    return ERR_OK;
}
static enum err_code vectors(void *ctx, struct err *err)
{
    (void)err;
    note(ctx, "vectors", "", 0);
    return ERR_OK;
}
static enum err_code row(void *ctx, const char *json, size_t len, uint64_t at, struct err *err)
{
    (void)err, (void)at;
    assert_int_equal(json[len], 0);
    note(ctx, "row ", json, len);
    return ERR_OK;
}
static enum err_code end(void *ctx, struct err *err)
{
    (void)err;
    note(ctx, "end", "", 0);
    return ERR_OK;
}
static const struct dump_events events = {begin, name, schema, vectors, row, end};

/* The events of `text`, fed in two slices (or byte by byte with cut < 0). */
static enum err_code run(const char *text, long cut, bool single, struct buf *out, struct err *err)
{
    struct dump_frame f;
    size_t len = strlen(text);
    enum err_code rc = ERR_OK;
    out->len = 0;
    dump_frame_init(&f, &events, out, single);
    if (cut < 0) {
        for (size_t i = 0; i < len && !rc; i++)
            rc = dump_frame_feed(&f, text + i, 1, err);
    } else {
        rc = dump_frame_feed(&f, text, (size_t)cut, err);
        if (!rc) rc = dump_frame_feed(&f, text + cut, len - (size_t)cut, err);
    }
    if (!rc) rc = dump_frame_end(&f, err);
    dump_frame_deinit(&f);
    buf_add(out, "", 1);
    return rc;
}

static const char dump[] = " {\"databases\" : [ {\"name\":\"a\\\"]}\", "
                           "\"schema\":{\"dimension\":2,\"x\":\"}\"},\n\"vectors\":"
                           "[{\"id\":1,\"data\":[1,2],\"metadata\":{\"k\":\"\\\\\\\"[{\"}} , "
                           "{\"id\":\"\xc3\xa9\"},7,\"s\"]},"
                           "{\"n\\u0061me\":\"b\",\"vectors\":[]},{}]} \n";
static const char dump_events_text[] =
    "begin\nname \"a\\\"]}\"\nschema {\"dimension\":2,\"x\":\"}\"}\nvectors\n"
    "row {\"id\":1,\"data\":[1,2],\"metadata\":{\"k\":\"\\\\\\\"[{\"}}\nrow "
    "{\"id\":\"\xc3\xa9\"}\nrow 7\n"
    "row \"s\"\nend\nbegin\nname \"b\"\nvectors\nend\nbegin\nend\n";

static void a_dump_is_the_same_wherever_it_is_cut(void **unused)
{
    (void)unused;
    struct buf out = {0};
    struct err err;
    for (long cut = -1; cut <= (long)strlen(dump); cut++) {
        if (run(dump, cut, false, &out, &err)) fail_msg("cut at %ld: %s", cut, err.msg);
        assert_string_equal(out.data, dump_events_text);
        assert_int_equal(run(dump, cut, true, &out, &err), ERR_OK);
        assert_string_equal(out.data, dump_events_text);
    }
    buf_free(&out);
}

static void one_database_may_stand_alone_where_that_is_allowed(void **unused)
{
    (void)unused;
    static const char text[] = "{\"name\":\"a\",\"schema\":{},\"vectors\":[{}]}";
    struct buf out = {0};
    struct err err;
    for (long cut = -1; cut <= (long)strlen(text); cut++) {
        assert_int_equal(run(text, cut, true, &out, &err), ERR_OK);
        assert_string_equal(out.data, "begin\nname \"a\"\nschema {}\nvectors\nrow {}\nend\n");
    }
    assert_int_equal(run(text, 0, false, &out, &err), ERR_INVALID_REQUEST);
    assert_int_equal(run("{\"databases\":[],\"name\":\"a\"}", 0, true, &out, &err),
                     ERR_INVALID_REQUEST);
    assert_int_equal(run("{\"name\":\"a\",\"databases\":[]}", 0, true, &out, &err),
                     ERR_INVALID_REQUEST);
    buf_free(&out);
}

static void every_prefix_is_incomplete(void **unused)
{
    (void)unused;
    struct buf out = {0};
    struct err err;
    size_t len = strlen(dump) - 2; /* the white space behind it */
    for (size_t n = 0; n < len; n++) {
        char *text = strndup(dump, n);
        assert_int_equal(run(text, 0, false, &out, &err), ERR_INVALID_JSON);
        free(text);
    }
    buf_free(&out);
}

static void a_broken_frame_is_refused(void **unused)
{
    (void)unused;
    static const char *const texts[] = {
        "[]",
        "null",
        "\"databases\"",
        "{\"databases\":[]}x",
        "{\"databases\":[]}{}",
        "{\"databases\"[]}",
        "{\"databases\":[1]}",
        "{\"databases\":[[]]}",
        "{\"databases\":[{]}",
        "{\"databases\":[{}}",
        "{\"databases\":[{},]}",
        "{\"databases\":[,{}]}",
        "{\"databases\":[{}{}]}",
        "{,}",
        "{\"databases\":[],}",
        "{\"databases\":[{\"name\":}]}",
        "{\"databases\":[{\"vectors\":[,]}]}",
        "{\"databases\":[{\"vectors\":[1,]}]}",
        "{\"databases\":[{\"vectors\":[1 2]}]}",
        "{\"databases\":[{\"name\" \"a\"}]}",
        "{databases:[]}",
        "{\"data\\xbases\":[]}",
        "{\"databases\":[{\"name\":\"a\" \"schema\":{}}]}",
    };
    static const char *const requests[] = {
        "{}",
        "{\"databases\":{}}",
        "{\"databases\":null}",
        "{\"database\":[]}",
        "{\"\":[]}",
        "{\"databases\":[],\"databases\":[]}",
        "{\"databases\":[{\"\":[]}]}",
        "{\"databases\":[{\"name\":\"a\",\"name\":\"b\"}]}",
        "{\"databases\":[{\"vectors\":{}}]}",
        "{\"databases\":[{\"rows\":[]}]}",
    };
    struct buf out = {0};
    struct err err;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        for (long cut = -1; cut < 1; cut++) {
            if (run(texts[i], cut, false, &out, &err) != ERR_INVALID_JSON)
                fail_msg("took %s", texts[i]);
        }
    }
    for (size_t i = 0; i < sizeof requests / sizeof *requests; i++) {
        if (run(requests[i], -1, false, &out, &err) != ERR_INVALID_REQUEST)
            fail_msg("took %s", requests[i]);
    }
    buf_free(&out);
}

static void a_value_without_end_is_not_kept_for_ever(void **unused)
{
    (void)unused;
    struct dump_frame f;
    struct buf out = {0};
    struct err err;
    char piece[4096];
    memset(piece, '[', sizeof piece);
    dump_frame_init(&f, &events, &out, false);
    static const char head[] = "{\"databases\":[{\"vectors\":[";
    assert_int_equal(dump_frame_feed(&f, head, sizeof head - 1, &err), ERR_OK);
    enum err_code rc = ERR_OK;
    size_t fed = 0;
    while (!rc && fed < 64u << 20) {
        rc = dump_frame_feed(&f, piece, sizeof piece, &err);
        fed += sizeof piece;
    }
    assert_int_equal(rc, ERR_PAYLOAD_TOO_LARGE);
    assert_in_range(fed, DUMP_ROW_BYTES_MAX, DUMP_ROW_BYTES_MAX + 2 * sizeof piece);
    dump_frame_deinit(&f);
    buf_free(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_dump_is_the_same_wherever_it_is_cut),
        cmocka_unit_test(one_database_may_stand_alone_where_that_is_allowed),
        cmocka_unit_test(every_prefix_is_incomplete),
        cmocka_unit_test(a_broken_frame_is_refused),
        cmocka_unit_test(a_value_without_end_is_not_kept_for_ever),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

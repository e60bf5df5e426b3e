/* test_handlers_batch.c - the forms of POST .../vectors/batch, on the in-memory engine. */
#include "tests/api/loopback.h"

#include <math.h>

static struct service *service;
static struct api_app app;
static struct answer a;

static const char BATCH[] = "/api/v1/databases/docs/vectors/batch";

static int set_up(void **unused)
{
    (void)unused;
    struct err err;
    struct service_options options = {.engine = ENGINE_MEMORY, .max_open_files = 100};
    struct api_options api = {.max_body_bytes = 1 << 20};
    if (service_open(&options, &service, &err) || api_app_init(&app, service, &api, &err)) {
        print_message("%s\n", err.msg);
        return -1;
    }
    loopback(&app, &a, "POST", "/api/v1/databases/docs", "{\"dimension\":2}", NULL);
    return a.status == 201 ? 0 : -1;
}

static int tear_down(void **unused)
{
    (void)unused;
    struct err err;
    answer_drop(&a);
    api_app_deinit(&app);
    return service_close(service, &err) ? -1 : 0;
}

static long long number(const char *name)
{
    json_t *value = json_object_get(a.json, name);
    if (!json_is_integer(value)) fail_msg("no integer %s in %s", name, a.body);
    return json_integer_value(value);
}

/* ---- raw float32 rows ---- */

static void post_floats(const char *query, const void *floats, size_t bytes)
{
    char target[256];
    struct extras x = {.content_type = "application/octet-stream", .body_bytes = bytes};
    snprintf(target, sizeof target, "%s%s", BATCH, query);
    loopback(&app, &a, "POST", target, bytes ? floats : NULL, &x);
}

static void expect_row(const char *id, const char *data)
{
    char target[256];
    snprintf(target, sizeof target, "/api/v1/databases/docs/vectors/%s?include=data", id);
    loopback(&app, &a, "GET", target, NULL, NULL);
    expect(&a, 200, NULL);
    if (!strstr(a.body, data)) fail_msg("%s, wanted %s", a.body, data);
}

static void expect_nothing_stored(void)
{
    loopback(&app, &a, "POST", "/api/v1/databases/docs/count", "{}", NULL);
    expect(&a, 200, NULL);
    assert_int_equal(number("count"), 0);
}

static void raw_rows_are_stored_under_consecutive_ids(void **unused)
{
    (void)unused;
    const float rows[] = {1, 2, 3, 4, -0.0f, 1e-45f};
    post_floats("?first_id=7&count=3", rows, sizeof rows);
    expect(&a, 200, NULL);
    assert_int_equal(number("count"), 3);
    assert_int_equal(number("created"), 3);
    assert_int_equal(number("replaced"), 0);
    assert_null(json_object_get(a.json, "vector_ids"));
    expect_row("7", "[1,2]");
    expect_row("8", "[3,4]");
    expect_row("9", "[-0.0,1e-45]");
    post_floats("?first_id=9&count=1&durability=periodic", rows, 8);
    expect(&a, 200, NULL);
    assert_int_equal(number("replaced"), 1);
    expect_row("9", "[1,2]");
}

static void a_raw_batch_of_nothing_changes_nothing(void **unused)
{
    (void)unused;
    post_floats("?first_id=0&count=0", NULL, 0);
    expect(&a, 200, NULL);
    assert_int_equal(number("count"), 0);
    expect_nothing_stored();
}

static void the_greatest_id_can_be_the_last_of_a_raw_batch(void **unused)
{
    (void)unused;
    const float rows[] = {1, 2, 3, 4};
    post_floats("?first_id=9223372036854775806&count=2", rows, sizeof rows);
    expect(&a, 200, NULL);
    expect_row("9223372036854775807", "[3,4]");
}

static void raw_parameters_must_be_there_and_sane(void **unused)
{
    (void)unused;
    static const struct {
        const char *query, *code, *says;
    } bad[] = {
        {"", "invalid_request", "first_id"},
        {"?first_id=1", "invalid_request", "count"},
        {"?count=2", "invalid_request", "first_id"},
        {"?first_id=&count=2", "invalid_id", "first_id"},
        {"?first_id=x&count=2", "invalid_id", "first_id"},
        {"?first_id=-1&count=2", "invalid_id", "first_id"},
        {"?first_id=01&count=2", "invalid_id", "first_id"},
        {"?first_id=9223372036854775808&count=2", "invalid_id", "first_id"},
        {"?first_id=9223372036854775807&count=2", "invalid_id", "beyond"},
        {"?first_id=1&count=-1", "invalid_request", "count"},
        {"?first_id=1&count=1e3", "invalid_request", "count"},
        {"?first_id=1&count=1000001", "invalid_request", "1000000"},
        {"?first_id=1&count=99999999999999999999", "invalid_request", "count"},
        {"?first_id=1&count=2&count=2", "invalid_request", "count"},
        {"?first_id=1&count=2&extra=1", "invalid_request", "extra"},
        {"?first_id=1&count=2&durability=never", "invalid_request", "durability"},
    };
    const float rows[] = {1, 2, 3, 4};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        post_floats(bad[i].query, rows, sizeof rows);
        expect(&a, 400, bad[i].code);
        if (!strstr(answer_message(&a), bad[i].says)) fail_msg("%s: %s", bad[i].query, a.body);
    }
    expect_nothing_stored();
    loopback(&app, &a, "POST", "/api/v1/databases/docs/vectors/batch?first_id=1&count=0",
             "{\"vectors\":[]}", NULL);
    expect(&a, 400, "invalid_request"); /* they say nothing about JSON */
}

static void a_raw_body_of_the_wrong_length_is_refused(void **unused)
{
    (void)unused;
    static const struct {
        size_t bytes;
        const char *code, *says;
    } bad[] = {
        {0, "invalid_request", "2 vectors of dimension 2 are 16 bytes"},
        {1, "invalid_request", "the body has 1 bytes"},
        {8, "dimension_mismatch", "1 float32 numbers for each of 2 vectors"},
        {12, "invalid_request", "are 16 bytes"},
        {15, "invalid_request", "are 16 bytes"},
        {17, "invalid_request", "are 16 bytes"},
        {24, "dimension_mismatch", "database \"docs\" has dimension 2"},
    };
    const float rows[8] = {0};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        post_floats("?first_id=0&count=2", rows, bad[i].bytes);
        expect(&a, 400, bad[i].code);
        if (!strstr(answer_message(&a), bad[i].says)) fail_msg("%zu: %s", bad[i].bytes, a.body);
    }
    post_floats("?first_id=0&count=0", rows, 8);
    expect(&a, 400, "invalid_request");
    expect_nothing_stored();
}

static void a_raw_row_that_is_not_finite_is_named(void **unused)
{
    (void)unused;
    const float bad[] = {NAN, -NAN, INFINITY, -INFINITY};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        float rows[] = {1, 2, 3, 4, 5, bad[i], 7, 8};
        post_floats("?first_id=0&count=4", rows, sizeof rows);
        expect(&a, 400, "invalid_vector");
        if (!strstr(answer_message(&a), "number 2 of vector 3 of 4 is not finite"))
            fail_msg("%s", a.body);
    }
    expect_nothing_stored();
}

static void raw_rows_are_for_batches_alone(void **unused)
{
    (void)unused;
    struct extras x = {.content_type = "Application/Octet-Stream; a=b", .body_bytes = 8};
    const float row[] = {1, 2};
    loopback(&app, &a, "POST", "/api/v1/databases/docs/vectors", (const char *)row, &x);
    expect(&a, 415, "unsupported_media_type");
    loopback(&app, &a, "POST", "/api/v1/import", (const char *)row, &x);
    expect(&a, 415, "unsupported_media_type");
    loopback(&app, &a, "POST", "/api/v1/databases/docs/vectors/batch?first_id=0&count=1",
             (const char *)row, &x);
    expect(&a, 200, NULL);
    x.content_type = "application/octet-streams";
    loopback(&app, &a, "POST", BATCH, (const char *)row, &x);
    expect(&a, 415, "unsupported_media_type");
    assert_non_null(strstr(answer_message(&a), "application/octet-stream"));
    x = (struct extras){.content_type = "application/octet-stream", .claimed = (1 << 20) + 4};
    loopback(&app, &a, "POST", BATCH, NULL, &x);
    expect(&a, 413, "payload_too_large");
    post_floats("?first_id=0&count=1", row, sizeof row);
    expect(&a, 200, NULL);
    loopback(&app, &a, "POST", "/api/v1/databases/none/vectors/batch?first_id=0&count=1",
             (const char *)row,
             &(struct extras){.content_type = "application/octet-stream", .body_bytes = 8});
    expect(&a, 404, "database_not_found");
}

/* ---- lines ---- */

static void post_lines(const char *lines, size_t slice)
{
    struct extras x = {.content_type = "application/x-ndjson", .slice = slice};
    loopback(&app, &a, "POST", BATCH, lines, &x);
}

static long long detail(const char *name)
{
    json_t *details = json_object_get(json_object_get(a.json, "error"), "details");
    json_t *value = json_object_get(details, name);
    return value ? json_integer_value(value) : -1;
}

static void expect_count(long long count)
{
    loopback(&app, &a, "POST", "/api/v1/databases/docs/count", "{}", NULL);
    assert_int_equal(number("count"), count);
}

/* `count` lines, with ids from 1; the one with `bad` (0: none) has three numbers. */
static char *many_lines(int count, int bad)
{
    char *text = malloc((size_t)count * 80 + 1), *at = text;
    for (int i = 1; i <= count; i++)
        at +=
            sprintf(at, "{\"vector_id\":%d,\"data\":[%d,2%s],\"metadata\":{\"i\":\"\\u00e9%d\"}}\n",
                    i, i, i == bad ? ",3" : "", i);
    *at = 0;
    return text;
}

static void lines_are_stored_whatever_the_slices(void **unused)
{
    (void)unused;
    static const char lines[] =
        "\n{\"vector_id\":1,\"data\":[1,2]}\r\n  \r\n"
        "{\"vector_id\":\"a\\u00e9\",\"data\":[3,4],\"metadata\":{\"k\":1}}\n"
        "\t{\"data_base64\":\"AACAPwAAAEA=\"} \n\n"
        "{\"vector_id\":1,\"data\":[5,6]}"; /* no line feed */
    for (size_t slice = 1; slice <= sizeof lines; slice++) {
        post_lines(lines, slice);
        expect(&a, 200, NULL);
        assert_int_equal(number("count"), 4);
        assert_int_equal(number("committed"), 7);
        assert_int_equal(number("created") + number("replaced"), 4);
        assert_true(number("lsn") > 0);
        expect_row("1", "[5,6]");
        expect_row("a%C3%A9", "[3,4]");
    }
    loopback(&app, &a, "GET", "/api/v1/databases/docs/vectors/a%C3%A9", NULL, NULL);
    assert_non_null(strstr(a.body, "{\"k\":1}"));
}

static void no_lines_are_no_vectors(void **unused)
{
    (void)unused;
    static const char *const bodies[] = {NULL, "", "\n", "\r\n\n  \n", "  "};
    static const int lines[] = {0, 0, 1, 3, 1};
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        post_lines(bodies[i], 0);
        expect(&a, 200, NULL);
        assert_int_equal(number("count"), 0);
        assert_int_equal(number("committed"), lines[i]);
        assert_int_equal(number("lsn"), 0);
    }
}

static void a_bad_line_is_named_with_what_stays_stored(void **unused)
{
    (void)unused;
    static const struct {
        int bad, stored;
    } cases[] = {{1, 0}, {1000, 0}, {1001, 1000}, {2500, 2000}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *lines = many_lines(2500, cases[i].bad), says[32];
        tear_down(NULL);
        assert_int_equal(set_up(NULL), 0);
        post_lines(lines, 777);
        expect(&a, 400, "dimension_mismatch");
        snprintf(says, sizeof says, "line %d has 3 numbers", cases[i].bad);
        if (!strstr(answer_message(&a), says)) fail_msg("%s, wanted %s", a.body, says);
        assert_int_equal(detail("line"), cases[i].bad);
        assert_int_equal(detail("committed"), cases[i].stored);
        expect_count(cases[i].stored);
        free(lines);
    }
    char *lines = many_lines(2500, 0);
    post_lines(lines, 10007);
    expect(&a, 200, NULL);
    assert_int_equal(number("count"), 2500);
    assert_int_equal(number("committed"), 2500);
    assert_int_equal(number("created"), 500);
    assert_int_equal(number("replaced"), 2000);
    expect_row("2500", "[2500,2]");
    free(lines);
}

static void what_is_wrong_with_a_line_is_said(void **unused)
{
    (void)unused;
    static const struct {
        const char *line, *code, *says;
    } bad[] = {
        {"{", "invalid_json", "line 2: invalid JSON at byte 1"},
        {"{\"data\":[1,2]} {\"data\":[1,2]}", "invalid_json", "line 2: "},
        {"{\"data\":[1,2]},", "invalid_json", "line 2: "},
        {"[1,2]", "invalid_request", "line 2 is not a JSON object"},
        {"{\"data\":[1]}", "dimension_mismatch", "line 2 has 1 number;"},
        {"{\"data\":[1,1e99]}", "invalid_vector", "line 2 "},
        {"{\"vector_id\":-1,\"data\":[1,2]}", "invalid_id", "line 2 "},
        {"{\"id\":1,\"data\":[1,2]}", "invalid_request", "line 2 has an unknown field \"id\""},
        {"{\"vectors\":[]}", "invalid_request", "line 2 has an unknown field \"vectors\""},
        {"\xff", "invalid_json", "line 2: "},
    };
    char lines[200];
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        snprintf(lines, sizeof lines, "{\"data\":[1,2]}\n%s\n{\"data\":[1,2]}\n", bad[i].line);
        post_lines(lines, 0);
        expect(&a, 400, bad[i].code);
        if (!strstr(answer_message(&a), bad[i].says)) fail_msg("%s: %s", bad[i].line, a.body);
        assert_int_equal(detail("line"), 2);
        assert_int_equal(detail("committed"), 0);
        assert_true(a.close);
    }
    expect_nothing_stored();
}

static void a_line_has_a_greatest_length(void **unused)
{
    (void)unused;
    const size_t most = 8 * 1024 * 1024;
    char *lines = malloc(most + 100);
    for (int more = 0; more < 2; more++) {
        int n = sprintf(lines, "\n{\"vector_id\":1,");
        memset(lines + n, ' ', most + 2 - (size_t)n);
        sprintf(lines + 1 + most - 13 + more, "\"data\":[1,2]}\n");
        lines[1] = '{';
        post_lines(lines, 65536);
        if (!more) {
            expect(&a, 200, NULL);
            continue;
        }
        expect(&a, 413, "payload_too_large");
        assert_non_null(strstr(answer_message(&a), "line 2 is longer than 8388608 bytes"));
        assert_int_equal(detail("line"), 2);
    }
    free(lines);
}

static void lines_have_no_limit_together(void **unused)
{
    (void)unused;
    char *lines = many_lines(30000, 0);
    assert_true(strlen(lines) > 1 << 20);
    post_lines(lines, 256 * 1024);
    expect(&a, 200, NULL);
    expect_count(30000);
    for (int i = 1; i <= 30000; i += 13) { /* each has its own */
        char target[100], metadata[40];
        snprintf(target, sizeof target, "/api/v1/databases/docs/vectors/%d", i);
        snprintf(metadata, sizeof metadata, "\"metadata\":{\"i\":\"\\u00e9%d\"}", i);
        loopback(&app, &a, "GET", target, NULL, NULL);
        if (!strstr(a.body, metadata)) fail_msg("%s, wanted %s", a.body, metadata);
    }
    free(lines);
}

static void what_is_not_for_lines_is_refused(void **unused)
{
    (void)unused;
    static const char line[] = "{\"data\":[1,2]}\n";
    struct extras x = {.content_type = "application/x-ndjson; charset=utf-8"};
    loopback(&app, &a, "POST", "/api/v1/databases/none/vectors/batch", line, &x);
    expect(&a, 404, "database_not_found");
    assert_int_equal(detail("committed"), 0);
    loopback(&app, &a, "POST", "/api/v1/databases/docs/vectors/batch?count=1", line, &x);
    expect(&a, 400, "invalid_request");
    loopback(&app, &a, "POST", "/api/v1/databases/docs/vectors/batch?durability=no", line, &x);
    expect(&a, 400, "invalid_request");
    loopback(&app, &a, "POST", "/api/v1/import", line, &x);
    expect(&a, 415, "unsupported_media_type");
    loopback(&app, &a, "POST", "/api/v1/databases/docs/vectors", line, &x);
    expect(&a, 415, "unsupported_media_type");
    expect_nothing_stored();
    loopback(&app, &a, "POST", "/api/v1/databases/docs/vectors/batch?durability=periodic", line,
             &x);
    expect(&a, 200, NULL);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        T(raw_rows_are_stored_under_consecutive_ids),
        T(a_raw_batch_of_nothing_changes_nothing),
        T(the_greatest_id_can_be_the_last_of_a_raw_batch),
        T(raw_parameters_must_be_there_and_sane),
        T(a_raw_body_of_the_wrong_length_is_refused),
        T(a_raw_row_that_is_not_finite_is_named),
        T(raw_rows_are_for_batches_alone),
        T(lines_are_stored_whatever_the_slices),
        T(no_lines_are_no_vectors),
        T(a_bad_line_is_named_with_what_stays_stored),
        T(what_is_wrong_with_a_line_is_said),
        T(a_line_has_a_greatest_length),
        T(lines_have_no_limit_together),
        T(what_is_not_for_lines_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

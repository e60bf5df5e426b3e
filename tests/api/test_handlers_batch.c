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
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

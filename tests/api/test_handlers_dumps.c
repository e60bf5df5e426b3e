/* test_handlers_dumps.c - export, import and restore on the in-memory engine. */
#include "tests/api/loopback.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static struct service *service;
static struct api_app app;
static struct answer a;

static int set_up(void **unused)
{
    (void)unused;
    struct err err;
    struct service_options options = {.engine = ENGINE_MEMORY, .max_open_files = 100};
    struct api_options api = {.max_body_bytes = 1 << 20};
    if (service_open(&options, &service, &err) || api_app_init(&app, service, &api, &err))
        return -1;
    app.ready = 1;
    return 0;
}

static int tear_down(void **unused)
{
    (void)unused;
    struct err err;
    answer_drop(&a);
    api_app_deinit(&app);
    return service_close(service, &err) ? -1 : 0;
}

static void get(const char *target)
{
    loopback(&app, &a, "GET", target, NULL, NULL);
}
static void post(const char *target, const char *body)
{
    loopback(&app, &a, "POST", target, body, NULL);
}
static json_t *field(const char *name)
{
    return json_object_get(a.json, name);
}
static long long count(const char *name)
{
    char target[200];
    snprintf(target, sizeof target, "/api/v1/databases/%s/count", name);
    post(target, NULL);
    return a.status == 200 ? json_integer_value(field("count")) : -1;
}
#define has(part) assert_non_null(strstr(a.body, part))

/* `rows` rows of `name` in batches. */
static void fill(const char *name, int dimension, int rows)
{
    char target[200], schema[100];
    struct buf body = {0};
    snprintf(target, sizeof target, "/api/v1/databases/%s", name);
    snprintf(schema, sizeof schema,
             "{\"dimension\":%d,\"distance_metric\":\"l1\",\"description\":\"x\"}", dimension);
    post(target, schema);
    expect(&a, 201, NULL);
    snprintf(target, sizeof target, "/api/v1/databases/%s/vectors/batch", name);
    for (int i = 0; i < rows;) {
        body.len = 0;
        buf_str(&body, "{\"vectors\":[");
        for (int n = 0; n < 200 && i < rows; n++, i++) {
            buf_printf(&body, "%s{\"vector_id\":", n ? "," : "");
            buf_printf(&body, i % 3 ? "%d" : "\"id-%d\"", i);
            buf_printf(&body, ",\"metadata\":{\"n\": %d},\"data\":[", i);
            for (int j = 0; j < dimension; j++)
                buf_printf(&body, "%s%d.%d", j ? "," : "", i, j);
            buf_str(&body, "]}");
        }
        buf_str(&body, "]}");
        buf_add(&body, "", 1);
        post(target, body.data);
        expect(&a, 200, NULL);
    }
    buf_free(&body);
}

static void a_dump_imported_and_dumped_again_is_the_same(void **unused)
{
    (void)unused;
    fill("one", 3, 10);
    fill("two", 64, 3001);
    fill("zero", 2, 0);
    post("/api/v1/export", "{\"format\":\"json\"}");
    expect(&a, 200, NULL);
    assert_true(a.streamed);
    assert_non_null(a.json);
    assert_int_equal(json_array_size(field("databases")), 3);
    char *dump = strdup(a.body);
    static const char *const names[] = {"one", "two", "zero"};
    for (size_t i = 0; i < 3; i++) {
        char target[64];
        snprintf(target, sizeof target, "/api/v1/databases/%s", names[i]);
        loopback(&app, &a, "DELETE", target, NULL, NULL);
        expect(&a, 200, NULL);
    }
    struct extras x = {.slice = 1021};
    loopback(&app, &a, "POST", "/api/v1/import", dump, &x);
    expect(&a, 200, NULL);
    assert_int_equal(json_integer_value(field("imported")), 3011);
    has("{\"name\":\"two\",\"vectors\":3001,\"created\":true,\"lsn\":");
    post("/api/v1/export", NULL);
    expect(&a, 200, NULL);
    assert_string_equal(a.body, dump);
    /* once more over what is there */
    post("/api/v1/import", dump);
    expect(&a, 200, NULL);
    has("\"created\":false");
    assert_int_equal(count("two"), 3001);
    free(dump);
}

static void an_empty_server_dumps_valid_json(void **unused)
{
    (void)unused;
    post("/api/v1/export", "{}");
    expect(&a, 200, NULL);
    assert_false(a.streamed);
    assert_int_equal(json_array_size(field("databases")), 0);
    loopback(&app, &a, "POST", "/api/v1/import", "{\"databases\":[]}", NULL);
    expect(&a, 200, NULL);
    assert_int_equal(json_integer_value(field("imported")), 0);
}

static void single_databases_can_be_dumped(void **unused)
{
    (void)unused;
    fill("one", 3, 5);
    fill("two", 3, 6);
    get("/api/v1/databases/two/export?format=json");
    expect(&a, 200, NULL);
    assert_int_equal(json_array_size(field("databases")), 1);
    char *dump = strdup(a.body);
    post("/api/v1/databases/other/restore", dump);
    expect(&a, 200, NULL);
    has("\"databases\":[{\"name\":\"other\",\"vectors\":6,\"created\":true");
    assert_int_equal(count("other"), 6);
    free(dump);
    post("/api/v1/export", "{\"databases\":[\"two\",\"one\"]}");
    expect(&a, 200, NULL);
    assert_int_equal(json_array_size(field("databases")), 2);
    post("/api/v1/export", "{\"databases\":[\"two\",\"three\"]}");
    expect(&a, 404, "database_not_found");
    post("/api/v1/export", "{\"databases\":[\"two\",\"two\"]}");
    expect(&a, 400, "invalid_request");
    post("/api/v1/export", "{\"format\":\"binary\"}");
    expect(&a, 400, "invalid_request");
    assert_non_null(strstr(answer_message(&a), "json"));
    get("/api/v1/databases/none/export");
    expect(&a, 404, "database_not_found");
    struct extras x = {.client_gone = true};
    fill("long", 64, 2000);
    loopback(&app, &a, "GET", "/api/v1/databases/long/export", NULL, &x);
    expect(&a, 200, NULL);
    assert_true(a.streamed);
}

static void a_restore_takes_one_database_object(void **unused)
{
    (void)unused;
    static const char object[] = "{\"name\":\"elsewhere\",\"schema\":{\"dimension\":2,\"distance_"
                                 "metric\":\"cosine\"},\"vectors\":"
                                 "[{\"id\":1,\"data\":[1,2],\"metadata\":\"{\\\"a\\\":1}\"},{"
                                 "\"vector_id\":\"b\",\"data\":[3,4]}]}";
    for (size_t slice = 1; slice < sizeof object; slice++) {
        struct extras x = {.slice = slice};
        loopback(&app, &a, "POST", "/api/v1/databases/docs/restore", object, &x);
        expect(&a, 200, NULL);
    }
    assert_int_equal(count("docs"), 2);
    assert_int_equal(count("elsewhere"), -1);
    get("/api/v1/databases/docs/vectors/1");
    has("\"metadata\":{\"a\":1}");
    post("/api/v1/databases/docs/restore?mode=replace", object);
    expect(&a, 400, "invalid_request");
    assert_non_null(strstr(answer_message(&a), "replace"));
    post("/api/v1/databases/docs/restore", "{\"databases\":[]}");
    expect(&a, 400, "invalid_request");
    post("/api/v1/databases/docs/restore",
         "{\"databases\":[{\"name\":\"a\",\"vectors\":[]},{\"name\":\"b\",\"vectors\":[]}]}");
    expect(&a, 400, "invalid_request");
    post("/api/v1/databases/docs/restore", NULL);
    expect(&a, 400, "invalid_json");
    post("/api/v1/databases/a%2Fb/restore", object);
    expect(&a, 400, "invalid_name");
    post("/api/v1/databases/new/restore", "{\"vectors\":[]}");
    expect(&a, 400, "invalid_request");
    post("/api/v1/databases/new/restore", "{\"schema\":{\"dimension\":2}}");
    expect(&a, 200, NULL);
    assert_int_equal(count("new"), 0);
    struct extras x = {.no_length = true};
    loopback(&app, &a, "POST", "/api/v1/databases/docs/restore", object, &x);
    expect(&a, 200, NULL);
}

static void wrong_dumps_are_refused(void **unused)
{
    (void)unused;
    fill("docs", 2, 1);
    static const struct {
        const char *body, *code, *part;
    } cases[] = {
        {"{\"databases\":[{\"schema\":{\"dimension\":2},\"vectors\":[]}]}", "invalid_request",
         "name"},
        {"{\"databases\":[{\"vectors\":[],\"name\":\"a\"}]}", "invalid_request", "name"},
        {"{\"databases\":[{\"name\":\"a\",\"vectors\":[]}]}", "invalid_request", "schema"},
        {"{\"databases\":[{\"name\":\"../a\",\"schema\":{\"dimension\":2}}]}", "invalid_name",
         "name"},
        {"{\"databases\":[{\"name\":5}]}", "invalid_json", "string"},
        {"{\"databases\":[{\"name\":\"a\",\"schema\":{\"dimension\":0}}]}", "invalid_request",
         "dimension"},
        {"{\"databases\":[{\"name\":\"a\",\"schema\":{\"dimension\":2,\"x\":1}}]}",
         "invalid_request", "\"x\""},
        {"{\"databases\":[{\"name\":\"a\",\"schema\":[]}]}", "invalid_request", "object"},
        {"{\"databases\":[{\"name\":\"docs\",\"schema\":{\"dimension\":3},\"vectors\":[]}]}",
         "dimension_mismatch", "3"},
        {"{\"databases\":[{\"name\":\"docs\",\"schema\":{\"dimension\":2,\"distance_metric\":"
         "\"cosine\"},\"vectors\":[]}]}",
         "conflict", "distance_metric"},
        {"{\"databases\":[{\"name\":\"docs\",\"vectors\":[{\"id\":1,\"data\":[1]}]}]}",
         "dimension_mismatch", "vector 1 of database \"docs\""},
        {"{\"databases\":[{\"name\":\"docs\",\"vectors\":[{\"data\":[1,2]}]}]}", "invalid_id",
         "id"},
        {"{\"databases\":[{\"name\":\"docs\",\"vectors\":[{\"id\":1,\"data\":[1,NaN]}]}]}",
         "invalid_vector", "NaN"},
        {"{\"databases\":[{\"name\":\"docs\",\"vectors\":[{\"id\":1,\"data\":[1,2]]}]}]}",
         "invalid_json", "byte"},
        {"{\"databases\":[{\"name\":\"docs\",\"vectors\":[5]}]}", "invalid_request", "object"},
        {"{\"databases\":[{\"name\":\"docs\",\"vectors\":[{\"id\":1,\"data\":[1,2]}",
         "invalid_json", "middle"},
        {"", "invalid_json", "middle"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        post("/api/v1/import", cases[i].body);
        if (strcmp(answer_code(&a), cases[i].code) != 0 ||
            !strstr(answer_message(&a), cases[i].part))
            fail_msg("%s: %s", cases[i].body, a.body);
        assert_true(a.close);
        has("\"details\":{\"imported\":0}");
    }
    assert_int_equal(count("docs"), 1);
}

static void a_stream_that_fails_before_its_first_byte_is_an_error(void **unused)
{
    (void)unused;
    char text[] = "/api/v1/import";
    struct api_request req = {.method = "POST", .path = text, .chunked = true, .may_block = true};
    struct api_response res = {0};
    assert_int_equal(api_begin(&app, &req, &res), API_STREAM);
    req.feed_rc = err_set(&req.feed_err, ERR_OVERLOADED, "too many requests are waiting");
    assert_int_equal(api_dispatch(&app, &req, &res), API_DONE);
    assert_int_equal(res.status, 503);
    api_end(&app, &req, &res, true);
}

static void an_error_in_the_middle_says_what_was_imported(void **unused)
{
    (void)unused;
    struct buf body = {0};
    buf_str(&body, "{\"databases\":[{\"name\":\"d\",\"schema\":{\"dimension\":1},\"vectors\":[");
    for (int i = 0; i < 2500; i++)
        buf_printf(&body, "{\"id\":%d,\"data\":[%s]},", i, i == 2200 ? "" : "1");
    buf_str(&body, "{\"id\":9999,\"data\":[1]}]}]}");
    buf_add(&body, "", 1);
    struct extras x = {.slice = 777};
    loopback(&app, &a, "POST", "/api/v1/import", body.data, &x);
    expect(&a, 400, "dimension_mismatch");
    has("\"details\":{\"imported\":2000}");
    assert_non_null(strstr(answer_message(&a), "vector 2201 of database \"d\""));
    assert_int_equal(count("d"), 2000);
    buf_free(&body);
}

static void output_is_written_only_below_the_export_path(void **unused)
{
    (void)unused;
    char dir[] = "/tmp/test_dumps_XXXXXX", path[300], body[400];
    struct stat st;
    fill("docs", 3, 500);
    post("/api/v1/export", "{\"output\":\"/backup/x.json\"}");
    expect(&a, 200, NULL);
    assert_int_equal(json_array_size(field("databases")), 1);
    assert_non_null(strstr(a.warning, "299"));
    char *dump = strdup(a.body);

    assert_non_null(mkdtemp(dir));
    app.options.export_path = dir;
    snprintf(path, sizeof path, "%s/sub", dir);
    assert_int_equal(mkdir(path, 0700), 0);
    snprintf(path, sizeof path, "%s/link", dir);
    assert_int_equal(symlink("/tmp", path), 0);
    static const char *const outputs[] = {
        "a.json",      "sub/b.json", "/sub/../../c.json", "../c.json", "link/c.json", "sub/..",
        "none/c.json", "",           "/etc/c.json"};
    for (size_t i = 0; i < sizeof outputs / sizeof *outputs; i++) {
        snprintf(body, sizeof body, "{\"output\":\"%s\"}", outputs[i]);
        post("/api/v1/export", body);
        if (i < 2)
            expect(&a, 200, NULL);
        else if (a.status != 400)
            fail_msg("%s: %s", body, a.body);
    }
    snprintf(body, sizeof body, "{\"output\":\"%s/d.json\"}", dir);
    post("/api/v1/export", body);
    expect(&a, 200, NULL);
    assert_int_equal(json_integer_value(field("bytes")), strlen(dump));
    static const char *const written[] = {"a.json", "sub/b.json", "d.json"};
    for (size_t i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, written[i]);
        FILE *f = fopen(path, "r");
        assert_non_null(f);
        char *got = calloc(1, strlen(dump) + 2);
        assert_int_equal(fread(got, 1, strlen(dump) + 1, f), strlen(dump));
        assert_string_equal(got, dump);
        fclose(f);
        free(got);
        unlink(path);
    }
    snprintf(path, sizeof path, "%s/a.json.part", dir);
    assert_int_not_equal(stat(path, &st), 0);
    snprintf(path, sizeof path, "%s/link", dir);
    unlink(path);
    snprintf(path, sizeof path, "%s/sub", dir);
    rmdir(path);
    assert_int_equal(rmdir(dir), 0);
    free(dump);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        T(a_dump_imported_and_dumped_again_is_the_same),
        T(an_empty_server_dumps_valid_json),
        T(single_databases_can_be_dumped),
        T(a_restore_takes_one_database_object),
        T(wrong_dumps_are_refused),
        T(a_stream_that_fails_before_its_first_byte_is_an_error),
        T(an_error_in_the_middle_says_what_was_imported),
        T(output_is_written_only_below_the_export_path),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

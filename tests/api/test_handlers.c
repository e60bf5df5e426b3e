/* test_handlers.c - every route once and more, on the in-memory engine, without a server. */
#include "tests/api/loopback.h"

#include <math.h>

static struct service *service;
static struct api_app app;
static struct answer a;

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
static void put(const char *target, const char *body)
{
    loopback(&app, &a, "PUT", target, body, NULL);
}
static void delete (const char *target)
{
    loopback(&app, &a, "DELETE", target, NULL, NULL);
}
static json_t *field(const char *name)
{
    return json_object_get(a.json, name);
}
static long long number(const char *name)
{
    if (!json_is_integer(field(name))) fail_msg("no integer %s in %s", name, a.body);
    return json_integer_value(field(name));
}
static const char *text(const char *name)
{
    return json_string_value(field(name));
}
static void create(const char *name, const char *schema)
{
    char target[200];
    snprintf(target, sizeof target, "/api/v1/databases/%s", name);
    post(target, schema);
    expect(&a, 201, NULL);
}
#define has(part) assert_non_null(strstr(a.body, part))

/* ---- conventions ---- */

static void the_open_routes_answer_at_both_places(void **unused)
{
    (void)unused;
    static const char *const paths[] = {"/health", "/ready", "/version", "/metrics",
                                        "/openapi.json"};
    char target[64];
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        get(paths[i]);
        expect(&a, 200, NULL);
        snprintf(target, sizeof target, "/api/v1%s/", paths[i]);
        get(target);
        expect(&a, 200, NULL);
    }
    get("/databases");
    expect(&a, 404, "not_found");
    app.ready = 0;
    get("/ready");
    expect(&a, 503, "not_ready");
    assert_int_equal(a.retry_after_seconds, 1);
    app.draining = 1;
    get("/ready");
    expect(&a, 503, "shutting_down");
    assert_true(a.close);
}

static void an_error_has_code_message_and_request_id(void **unused)
{
    (void)unused;
    get("/api/v1/databases/none");
    expect(&a, 404, "database_not_found");
    json_t *error = field("error");
    assert_string_equal(json_string_value(json_object_get(error, "request_id")), a.request_id);
    assert_true(strlen(a.request_id) > 8);
    assert_true(strlen(answer_message(&a)) > 10);
    struct extras x = {.request_id = "my-id.1"};
    loopback(&app, &a, "GET", "/api/v1/nothing", NULL, &x);
    assert_string_equal(a.request_id, "my-id.1");
    has("\"request_id\":\"my-id.1\"");
    x.request_id = "evil\"id";
    loopback(&app, &a, "GET", "/health", NULL, &x);
    assert_string_not_equal(a.request_id, "evil\"id");
}

static void a_wrong_method_is_405_with_allow(void **unused)
{
    (void)unused;
    loopback(&app, &a, "PATCH", "/api/v1/databases/x/vectors/1", NULL, NULL);
    expect(&a, 405, "method_not_allowed");
    assert_string_equal(a.allow, "GET, HEAD, PUT, DELETE");
    post("/api/v1/storage/stats", NULL);
    expect(&a, 405, "method_not_allowed");
    assert_string_equal(a.allow, "GET, HEAD");
    get("/api/v1/databases/x/search");
    assert_string_equal(a.allow, "POST");
    get("/api/v1/storage/stats");
    assert_string_equal(a.allow, "");
}

static void head_is_get(void **unused)
{
    (void)unused;
    create("docs", "{\"dimension\":2}");
    loopback(&app, &a, "HEAD", "/api/v1/databases/docs", NULL, NULL);
    expect(&a, 200, NULL);
    loopback(&app, &a, "HEAD", "/api/v1/databases/docs/search", NULL, NULL);
    expect(&a, 405, NULL);
}

static void unknown_fields_and_parameters_are_refused_by_name(void **unused)
{
    (void)unused;
    create("docs", "{\"dimension\":2}");
    static const char *const bodies[][2] = {
        {"/api/v1/databases/d2", "{\"dimension\":2,\"extra\":1}"},
        {"/api/v1/databases/docs/vectors", "{\"data\":[1,2],\"extra\":1}"},
        {"/api/v1/databases/docs/vectors/batch", "{\"vectors\":[],\"extra\":1}"},
        {"/api/v1/databases/docs/vectors/batch", "{\"vectors\":[{\"data\":[1,2],\"extra\":1}]}"},
        {"/api/v1/databases/docs/vectors/get", "{\"ids\":[],\"extra\":1}"},
        {"/api/v1/databases/docs/vectors/delete", "{\"ids\":[],\"extra\":1}"},
        {"/api/v1/databases/docs/count", "{\"extra\":1}"},
        {"/api/v1/databases/docs/search", "{\"data\":[1,2],\"extra\":1}"},
        {"/api/v1/databases/docs/search", "{\"data\":[1,2],\"params\":{\"extra\":1}}"},
        {"/api/v1/databases/docs/search/batch", "{\"searches\":[{\"data\":[1,2],\"extra\":1}]}"},
        {"/api/v1/databases/docs/flush", "{\"extra\":1}"},
        {"/api/v1/storage/flush", "{\"extra\":1}"},
        {"/api/v1/export", "{\"extra\":1}"},
        {"/api/v1/databases/docs/vectors?extra=1", "{\"data\":[1,2]}"},
        {"/api/v1/export?extra=1", "{}"},
        {"/api/v1/import?extra=1", "{\"databases\":[]}"},
    };
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        post(bodies[i][0], bodies[i][1]);
        expect(&a, 400, "invalid_request");
        if (!strstr(answer_message(&a), "extra"))
            fail_msg("%s %s: %s", bodies[i][0], bodies[i][1], a.body);
    }
    get("/api/v1/databases?extra=1");
    expect(&a, 400, "invalid_request");
    post("/api/v1/databases/docs/count", "{}");
    expect(&a, 200, NULL);
    assert_int_equal(number("count"), 0);
}

static void bodies_are_checked_before_they_are_read(void **unused)
{
    (void)unused;
    create("docs", "{\"dimension\":2}");
    struct extras x = {.claimed = (1 << 20) + 1};
    loopback(&app, &a, "POST", "/api/v1/databases/docs/vectors", NULL, &x);
    expect(&a, 413, "payload_too_large");
    assert_true(a.close);
    x = (struct extras){.content_type = "text/xml"};
    loopback(&app, &a, "POST", "/api/v1/databases/docs/vectors", "<a/>", &x);
    expect(&a, 415, "unsupported_media_type");
    static const char *const unknown[] = {"br", "deflate", "gzip, zstd", "gzipp", "*"};
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
        x = (struct extras){.content_encoding = unknown[i]};
        loopback(&app, &a, "POST", "/api/v1/import", "xx", &x);
        expect(&a, 415, "unsupported_media_type");
        assert_non_null(strstr(answer_message(&a), "gzip, as zstd"));
        assert_non_null(strstr(a.headers, "Accept-Encoding: gzip, zstd\n"));
    }
    x = (struct extras){.content_encoding = "br"}; /* of nothing */
    loopback(&app, &a, "POST", "/api/v1/storage/flush", NULL, &x);
    expect(&a, 200, NULL);
    x = (struct extras){.content_type = "application/json; charset=utf-8"};
    loopback(&app, &a, "POST", "/api/v1/databases/docs/vectors", "{\"data\":[1,2]}", &x);
    expect(&a, 201, NULL);
    loopback(&app, &a, "DELETE", "/api/v1/databases/docs/vectors/0", "{}", NULL);
    expect(&a, 400, "invalid_request");
    post("/api/v1/storage/flush", NULL); /* curl -X POST */
    expect(&a, 200, NULL);
    assert_true(number("flushed") >= 0);
    assert_true(json_is_number(field("duration_ms")));
}

static void broken_json_says_where(void **unused)
{
    (void)unused;
    create("docs", "{\"dimension\":2}");
    static const char *const targets[] = {"/api/v1/databases/d2",
                                          "/api/v1/databases/docs/vectors",
                                          "/api/v1/databases/docs/vectors/batch",
                                          "/api/v1/databases/docs/vectors/get",
                                          "/api/v1/databases/docs/search",
                                          "/api/v1/export",
                                          "/api/v1/import",
                                          "/api/v1/databases/docs/search/batch",
                                          "/api/v1/databases/docs/count"};
    for (size_t i = 0; i < sizeof targets / sizeof *targets; i++) {
        post(targets[i], "{\"a\" 1}");
        if (a.status != 400 || !strstr(a.body, "at byte ")) {
            if (strcmp(answer_code(&a), "invalid_request") != 0)
                fail_msg("%s: %s", targets[i], a.body);
        }
        post(targets[i], "{\"filter\":{},,}");
        assert_int_equal(a.status, 400);
    }
}

static void a_body_that_breaks_off_is_invalid_json(void **unused)
{
    (void)unused;
    static const char *const bodies[][2] = {
        {"/api/v1/databases/new",
         "{\"dimension\":2,\"index\":{\"type\":\"flat\"},\"description\":\"x\"}"},
        {"/api/v1/databases/docs/vectors",
         "{\"vector_id\":\"a\",\"data\":[1,2],\"metadata\":{\"a\":[true]},\"mode\":\"upsert\"}"},
        {"/api/v1/databases/docs/vectors/batch",
         "{\"vectors\":[{\"vector_id\":1,\"data\":[1,2]},{\"data_base64\":\"AACAPwAAAEA=\","
         "\"metadata\":\"{}\"}]}"},
        {"/api/v1/databases/docs/count",
         "{\"filter\":{\"a\":{\"$in\":[1,\"x\",null]},\"$or\":[{\"b.c\":true},{\"$not\":{}}]}}"},
        {"/api/v1/databases/docs/vectors/delete",
         "{\"filter\":{\"a\":{\"$geo_radius\":{\"lat\":1,\"lon\":2,\"meters\":3}}}}"},
        {"/api/v1/databases/docs/vectors/scroll",
         "{\"filter\":{\"a\":{\"$exists\":false}},\"limit\":7,\"cursor\":null,\"include\":["
         "\"data\"]}"},
        {"/api/v1/databases/docs/vectors/get", "{\"ids\":[1,\"x\"],\"include\":[\"data\"]}"},
        {"/api/v1/databases/docs/vectors/delete", "{\"ids\":[1,\"x\"]}"},
        {"/api/v1/databases/docs/search",
         "{\"data\":[1,2],\"top_k\":5,\"offset\":0,\"include\":[\"metadata\"],\"min_score\":0.5,"
         "\"params\":{\"exact\":true,"
         "\"ef\":10},\"explain\":false}"},
        {"/api/v1/databases/docs/search/batch",
         "{\"searches\":[{\"data\":[1,2]},{\"vector_id\":\"none\"}]}"},
        {"/api/v1/export", "{\"format\":\"json\",\"databases\":[\"docs\"]}"},
    };
    create("docs", "{\"dimension\":2}");
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        for (size_t len = 1; len < strlen(bodies[i][1]); len++) {
            char *body = strndup(bodies[i][1], len);
            post(bodies[i][0], body);
            if (a.status != 400 || strcmp(answer_code(&a), "invalid_json") != 0)
                fail_msg("%s %s: %s", bodies[i][0], body, a.body);
            free(body);
        }
    }
    post("/api/v1/databases/docs/count", NULL);
    assert_int_equal(number("count"), 0);
}

/* ---- databases ---- */

static void a_database_is_created_described_and_deleted(void **unused)
{
    (void)unused;
    post("/api/v1/databases/docs",
         "{\"dimension\":4,\"distance_metric\":\"l2\",\"description\":\"d\",\"quantization\":"
         "\"int8\","
         "\"index\":{\"type\":\"hnsw\",\"m\":16},\"metadata_indexes\":{\"a.b\":\"keyword\"},"
         "\"durability\":\"periodic\",\"initial_capacity\":5}");
    expect(&a, 201, NULL);
    assert_true(json_is_integer(field("lsn")));
    get("/api/v1/databases/docs");
    expect(&a, 200, NULL);
    assert_string_equal(text("name"), "docs");
    assert_string_equal(text("distance_metric"), "euclidean");
    assert_string_equal(text("durability"), "periodic");
    assert_string_equal(text("quantization"), "int8");
    assert_string_equal(text("description"), "d");
    assert_int_equal(number("dimension"), 4);
    assert_int_equal(number("initial_capacity"), 5);
    has("\"metadata_indexes\":{\"a.b\":\"keyword\"}");
    post("/api/v1/databases/docs", "{\"dimension\":4}");
    expect(&a, 409, "database_exists");
    get("/api/v1/databases/docs/stats");
    expect(&a, 200, NULL);
    assert_int_equal(number("vector_count"), 0);
    post("/api/v1/databases/docs/flush", NULL);
    expect(&a, 200, NULL);
    delete ("/api/v1/databases/docs");
    expect(&a, 200, NULL);
    assert_true(json_is_integer(field("lsn")));
    delete ("/api/v1/databases/docs");
    expect(&a, 404, "database_not_found");
}

static void put_is_idempotent(void **unused)
{
    (void)unused;
    put("/api/v1/databases/docs", "{\"dimension\":4,\"distance_metric\":\"dot\"}");
    expect(&a, 201, NULL);
    put("/api/v1/databases/docs",
        "{\"distance_metric\":\"dot_product\",\"dimension\":4,\"quantization\":\"auto\"}");
    expect(&a, 200, NULL);
    put("/api/v1/databases/docs", "{\"dimension\":5,\"distance_metric\":\"dot\"}");
    expect(&a, 409, "conflict");
}

static void index_options_are_kept_shown_and_compared(void **unused)
{
    (void)unused;
    static const struct {
        const char *given, *shown, *same, *other;
    } cases[] = {
        {"\"index\":{\"type\":\"hnsw\",\"m\":24,\"ef_construction\":300}",
         "\"index\":{\"type\":\"hnsw\",\"m\":24,\"ef_construction\":300}",
         "\"index\":{\"ef_construction\":300,\"m\":24,\"type\":\"hnsw\"}",
         "\"index\":{\"type\":\"hnsw\",\"m\":24}"},
        {"\"index\":{\"type\":\"flat\"}", "\"index\":{\"type\":\"flat\"}",
         "\"index\":{\"type\":\"flat\"},\"quantization\":\"auto\"", "\"description\":\"\""},
        {"\"quantization\":\"none\"", "\"quantization\":\"none\"", "\"quantization\":\"none\"",
         "\"quantization\":\"int8\""},
        {"\"quantization\":\"binary\",\"description\":\"b\"",
         "\"quantization\":\"binary\",\"description\":\"b\"",
         "\"description\":\"b\",\"quantization\":\"binary\"", "\"quantization\":\"binary\""},
        /* what a graph is not built with is cut */
        {"\"index\":{\"type\":\"hnsw\",\"m\":2,\"ef_construction\":100000}",
         "\"index\":{\"type\":\"hnsw\",\"m\":4,\"ef_construction\":2000}",
         "\"index\":{\"type\":\"hnsw\",\"m\":3,\"ef_construction\":2001}",
         "\"index\":{\"type\":\"hnsw\",\"m\":512,\"ef_construction\":1}"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char body[256];
        snprintf(body, sizeof body, "{\"dimension\":4,%s}", cases[i].given);
        put("/api/v1/databases/docs", body);
        expect(&a, 201, NULL);
        has(cases[i].shown);
        get("/api/v1/databases/docs");
        has(cases[i].shown);
        snprintf(body, sizeof body, "{\"dimension\":4,%s}", cases[i].same);
        put("/api/v1/databases/docs", body);
        expect(&a, 200, NULL);
        snprintf(body, sizeof body, "{\"dimension\":4,%s}", cases[i].other);
        put("/api/v1/databases/docs", body);
        expect(&a, 409, "conflict");
        get("/api/v1/databases/docs/export");
        has(cases[i].shown);
        delete ("/api/v1/databases/docs");
    }
    /* the default says nothing */
    put("/api/v1/databases/docs",
        "{\"dimension\":4,\"index\":{\"type\":\"auto\"},\"quantization\":\"auto\"}");
    assert_null(field("index"));
    assert_null(field("quantization"));
    put("/api/v1/databases/docs", "{\"dimension\":4}");
    expect(&a, 200, NULL);
}

static void a_name_may_be_in_the_body(void **unused)
{
    (void)unused;
    post("/api/v1/databases", "{\"name\":\"docs\",\"dimension\":4}");
    expect(&a, 201, NULL);
    post("/api/v1/databases", "{\"dimension\":4}");
    expect(&a, 400, "invalid_request");
    post("/api/v1/databases/x", "{\"name\":\"y\",\"dimension\":4}");
    expect(&a, 400, "invalid_request");
    post("/api/v1/databases", "{\"name\":\"a\\u0000b\",\"dimension\":4}");
    expect(&a, 400, "invalid_name");
}

static void bad_schemas_are_refused(void **unused)
{
    (void)unused;
    static const char *const bodies[] = {
        "{}",
        "{\"dimension\":0}",
        "{\"dimension\":65537}",
        "{\"dimension\":\"4\"}",
        "{\"dimension\":4.0}",
        "{\"dimension\":4,\"distance_metric\":\"hamming\"}",
        "{\"dimension\":4,\"durability\":\"none\"}",
        "{\"dimension\":4,\"initial_capacity\":0}",
        "{\"dimension\":4,\"index\":\"hnsw\"}",
        "{\"dimension\":4,\"index\":{\"type\":\"ivf\"}}",
        "{\"dimension\":4,\"index\":{\"type\":\"hnsw\",\"m\":1}}",
        "{\"dimension\":4,\"index\":{\"type\":\"hnsw\",\"x\":1}}",
        "{\"dimension\":4,\"quantization\":\"pq\"}",
        "{\"dimension\":4,\"metadata_indexes\":{\"a\":\"string\"}}",
        "{\"dimension\":4,\"metadata_indexes\":[]}",
        "{\"dimension\":4,\"default_ttl_seconds\":5}",
        "{\"dimension\":4,\"description\":5}",
        "[]",
        "4",
    };
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        post("/api/v1/databases/docs", bodies[i]);
        if (a.status != 400 || strcmp(answer_code(&a), "invalid_request") != 0)
            fail_msg("%s: %d %s", bodies[i], a.status, a.body);
    }
    post("/api/v1/databases/docs", "{\"dimension\":4,\"dimension\":4}");
    expect(&a, 400, "invalid_json");
    get("/api/v1/databases/docs");
    expect(&a, 404, NULL);
}

static void bad_names_are_refused_however_they_are_written(void **unused)
{
    (void)unused;
    static const char *const names[] = {".a", "-a",   "a.jvdb", "%2e%2e", "..",     "a%2fb", "a%00",
                                        "a%", "a%zz", "%ff",    "a%20b",  "%C3%A9", "a+b"};
    char target[64];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(target, sizeof target, "/api/v1/databases/%s", names[i]);
        post(target, "{\"dimension\":4}");
        if (strcmp(answer_code(&a), "invalid_name") != 0) fail_msg("POST %s: %s", target, a.body);
        get(target);
        if (strcmp(answer_code(&a), "invalid_name") != 0) fail_msg("GET %s: %s", target, a.body);
    }
}

static void databases_are_listed_page_by_page(void **unused)
{
    (void)unused;
    static const char *const names[] = {"b", "a2", "a1", "c", "a3"};
    for (size_t i = 0; i < 5; i++)
        create(names[i], "{\"dimension\":2}");
    get("/api/v1/databases");
    expect(&a, 200, NULL);
    assert_int_equal(json_array_size(field("databases")), 5);
    assert_int_equal(number("total"), 5);
    assert_true(json_is_null(field("next")));
    get("/api/v1/databases?prefix=a&limit=2");
    assert_int_equal(json_array_size(field("databases")), 2);
    assert_int_equal(number("total"), 3);
    char target[200];
    snprintf(target, sizeof target, "/api/v1/databases?prefix=a&limit=2&cursor=%s", text("next"));
    get(target);
    assert_int_equal(json_array_size(field("databases")), 1);
    assert_true(json_is_null(field("next")));
    has("\"name\":\"a3\"");
    get("/api/v1/databases?cursor=%21%21");
    expect(&a, 400, "invalid_request");
    get("/api/v1/databases?limit=0");
    expect(&a, 400, "invalid_request");
}

/* ---- vectors ---- */

static void a_vector_comes_back_as_it_was_sent(void **unused)
{
    (void)unused;
    create("docs", "{\"dimension\":3}");
    post("/api/v1/databases/docs/vectors", "{\"vector_id\":1,\"data\":[0.1,-0.0,1e-45],"
                                           "\"metadata\":{\"z\": 1.50, \"a\":\"\\u00e9\"}}");
    expect(&a, 201, NULL);
    assert_int_equal(number("vector_id"), 1);
    assert_true(number("lsn") > 0);
    get("/api/v1/databases/docs/vectors/1");
    expect(&a, 200, NULL);
    has("\"data\":[0.1,-0.0,1e-45]");
    has("\"metadata\":{\"z\": 1.50, \"a\":\"\\u00e9\"}");
    char etag[40];
    snprintf(etag, sizeof etag, "\"%lld\"", number("version"));
    assert_string_equal(a.etag, etag);
    post("/api/v1/databases/docs/vectors", "{\"vector_id\":\"1\",\"data\":[1,2,3]}");
    expect(&a, 200, NULL);
    get("/api/v1/databases/docs/vectors/1?include=metadata");
    has("\"metadata\":{}");
    assert_null(field("data"));
    get("/api/v1/databases/docs/vectors/1?encoding=base64&include=data");
    assert_string_equal(text("data_base64"), "AACAPwAAAEAAAEBA");
    post("/api/v1/databases/docs/vectors",
         "{\"vector_id\":\"b\",\"data_base64\":\"AACAPwAAAEAAAEBA\"}");
    expect(&a, 201, NULL);
    get("/api/v1/databases/docs/vectors/b");
    has("\"data\":[1,2,3]");
    get("/api/v1/databases/docs/vectors/2");
    expect(&a, 404, "vector_not_found");
}

static void metadata_in_a_string_is_the_object_it_holds(void **unused)
{
    (void)unused;
    create("docs", "{\"dimension\":1}");
    post("/api/v1/databases/docs/vectors", "{\"vector_id\":1,\"data\":[1],\"metadata\":\"{}\"}");
    expect(&a, 201, NULL);
    get("/api/v1/databases/docs/vectors/1");
    has("\"metadata\":{}");
    post("/api/v1/databases/docs/vectors", "{\"vector_id\":1,\"data\":[1],\"metadata\":\" "
                                           "{\\\"index\\\": 7, \\\"t\\\":\\\"\\\\u0041\\\"} \"}");
    expect(&a, 200, NULL);
    get("/api/v1/databases/docs/vectors/1");
    has("\"metadata\":{\"index\": 7, \"t\":\"\\u0041\"}");
    static const char *const bad[] = {
        "5",      "[]",    "null",    "true", "\"x\"",
        "\"[]\"", "\"{\"", "\"{}x\"", "\"\"", "\"{\\\"a\\\":1,\\\"a\\\":2}\""};
    char body[128];
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        snprintf(body, sizeof body, "{\"data\":[1],\"metadata\":%s}", bad[i]);
        post("/api/v1/databases/docs/vectors", body);
        if (a.status != 400) fail_msg("%s: %s", body, a.body);
    }
    char *big = malloc(70000);
    size_t n = (size_t)snprintf(big, 70000, "{\"data\":[1],\"metadata\":{\"k\":\"");
    memset(big + n, 'x', 65536);
    strcpy(big + n + 65536, "\"}}");
    post("/api/v1/databases/docs/vectors", big);
    expect(&a, 400, "invalid_request");
    free(big);
}

static void ids_are_integers_or_strings(void **unused)
{
    (void)unused;
    static const char *const good[][2] = {{"0", "0"},
                                          {"9223372036854775807", "9223372036854775807"},
                                          {"\"x y\"", "x%20y"},
                                          {"\"a/b\"", "a%2Fb"},
                                          {"\"01\"", "01"},
                                          {"\"9223372036854775808\"", "9223372036854775808"},
                                          {"\"\\u00e9\"", "%C3%A9"},
                                          {"\"a%b\"", "a%25b"},
                                          {"\"a+b\"", "a+b"},
                                          {"\"get\"", "get"},
                                          {"\"\\\"q\\\"\"", "%22q%22"}};
    static const char *const bad[] = {
        "-1",  "1.0", "1e3",  "9223372036854775808", "-0",      "1.5",        "true", "null",
        "[1]", "{}",  "\"\"", "\"a\\u0000\"",        "\"\\n\"", "\"\\u0085\""};
    char body[200], target[200];
    create("docs", "{\"dimension\":1}");
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        snprintf(body, sizeof body, "{\"vector_id\":%s,\"data\":[1]}", good[i][0]);
        post("/api/v1/databases/docs/vectors", body);
        expect(&a, 201, NULL);
        snprintf(target, sizeof target, "/api/v1/databases/docs/vectors/%s", good[i][1]);
        get(target);
        expect(&a, 200, NULL);
        put(target, "{\"data\":[2]}");
        expect(&a, 200, NULL);
        delete (target);
        expect(&a, 200, NULL);
        assert_int_equal(number("deleted"), 1);
        delete (target);
        expect(&a, 404, "vector_not_found");
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        snprintf(body, sizeof body, "{\"vector_id\":%s,\"data\":[1]}", bad[i]);
        post("/api/v1/databases/docs/vectors", body);
        if (a.status != 400 || strcmp(answer_code(&a), "invalid_id") != 0)
            fail_msg("%s: %s", body, a.body);
    }
    static const char *const bad_paths[] = {"%00", "a%0A", "%ff", "%", "%c0%80"};
    for (size_t i = 0; i < sizeof bad_paths / sizeof *bad_paths; i++) {
        snprintf(target, sizeof target, "/api/v1/databases/docs/vectors/%s", bad_paths[i]);
        get(target);
        expect(&a, 400, "invalid_id");
    }
    char *longest = calloc(1, 700);
    strcpy(longest, "/api/v1/databases/docs/vectors/");
    memset(longest + strlen(longest), 'a', 513);
    put(longest, "{\"data\":[1]}");
    expect(&a, 400, "invalid_id");
    longest[strlen(longest) - 1] = 0;
    put(longest, "{\"data\":[1]}");
    expect(&a, 201, NULL);
    free(longest);
    put("/api/v1/databases/docs/vectors/5", "{\"vector_id\":6,\"data\":[1]}");
    expect(&a, 400, "invalid_request");
}

static void the_server_assigns_ids(void **unused)
{
    (void)unused;
    create("docs", "{\"dimension\":1}");
    post("/api/v1/databases/docs/vectors", "{\"data\":[1]}");
    expect(&a, 201, NULL);
    long long first = number("vector_id");
    post("/api/v1/databases/docs/vectors/batch",
         "{\"vectors\":[{\"data\":[1]},{\"vector_id\":\"s\",\"data\":[2]},{\"data\":[3]}]}");
    expect(&a, 200, NULL);
    json_t *ids = field("vector_ids");
    assert_int_equal(json_array_size(ids), 3);
    assert_int_equal(json_integer_value(json_array_get(ids, 0)), first + 1);
    assert_string_equal(json_string_value(json_array_get(ids, 1)), "s");
    assert_int_equal(json_integer_value(json_array_get(ids, 2)), first + 2);
}

static void wrong_vectors_are_refused_with_a_lesson(void **unused)
{
    (void)unused;
    create("docs", "{\"dimension\":3}");
    static const struct {
        const char *body, *code, *part;
    } cases[] = {
        {"{\"data\":[1,2]}", "dimension_mismatch",
         "the vector has 2 numbers; database \"docs\" has dimension 3"},
        {"{\"data\":[1,2,3,4]}", "dimension_mismatch", "has 4 numbers"},
        {"{\"data\":[]}", "dimension_mismatch", "has 0 numbers"},
        {"{\"data\":[1,NaN,3]}", "invalid_vector", "NaN at data[1]"},
        {"{\"data\":[1,2,1e39]}", "invalid_vector", "1e39 at data[2]"},
        {"{\"data\":\"x\"}", "invalid_vector", "data"},
        {"{\"data_base64\":\"AACAPw==\"}", "dimension_mismatch", "has 1 number;"},
        {"{\"data_base64\":\"AACAPwA=\"}", "invalid_vector", "multiple of 4"},
        {"{\"data_base64\":\"AADAfwAAAEAAAEBA\"}", "invalid_vector", "data_base64[0]"},
        {"{\"data_base64\":\"*\"}", "invalid_vector", "base64"},
        {"{\"data\":[1,2,3],\"data_base64\":\"AACAPwAAAEAAAEBA\"}", "invalid_request", "both"},
        {"{\"vector_id\":1}", "invalid_request", "neither"},
        {"{\"data\":[1,2,3],\"ttl_seconds\":5}", "invalid_request", "ttl_seconds"},
        {"{\"data\":[1,2,3],\"mode\":\"insert\"}", "invalid_request", "mode"},
        {"{\"data\":[1,2,3],\"if_nearest\":{}}", "invalid_request", "if_nearest"},
        {"{\"data\":[1,2,3],\"id\":1}", "invalid_request", "vector_id"},
        {"{\"data\":[1,2,3],\"data\":[1,2,3]}", "invalid_request", "twice"},
        {"{\"data\":[1,2,3]", "invalid_json", "at byte 15"},
        {"[1]", "invalid_request", "object"},
        {"", "invalid_json", "byte 0"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        post("/api/v1/databases/docs/vectors", cases[i].body);
        expect(&a, 400, cases[i].code);
        if (!strstr(answer_message(&a), cases[i].part)) fail_msg("%s: %s", cases[i].body, a.body);
    }
    post("/api/v1/databases/docs/vectors", "{\"data\":[1,2,3],\"mode\":\"upsert\"}");
    expect(&a, 201, NULL);
}

static void a_batch_is_all_or_nothing_and_names_the_row(void **unused)
{
    (void)unused;
    create("docs", "{\"dimension\":2}");
    struct buf body = {0};
    for (int bad = 0; bad < 2; bad++) {
        body.len = 0;
        buf_str(&body, "{\"vectors\":[");
        for (int i = 0; i < 100; i++)
            buf_printf(&body, "%s{\"vector_id\":%d,\"data\":[1%s]}", i ? ", " : "", i,
                       bad && i == 16 ? "" : ",2");
        buf_str(&body, "]}");
        buf_add(&body, "", 1);
        if (bad) {
            post("/api/v1/databases/docs/vectors/delete", "{\"ids\":[5]}");
            expect(&a, 200, NULL);
        }
        post("/api/v1/databases/docs/vectors/batch", body.data);
        if (!bad) {
            expect(&a, 200, NULL);
            assert_int_equal(number("count"), 100);
            assert_int_equal(number("created"), 100);
            assert_true(number("lsn") > 0);
        } else {
            expect(&a, 400, "dimension_mismatch");
            assert_string_equal(answer_message(&a),
                                "vector 17 of 100 has 1 number; database \"docs\" has dimension 2");
        }
    }
    post("/api/v1/databases/docs/count", NULL);
    assert_int_equal(number("count"), 99);
    post("/api/v1/databases/docs/vectors/batch",
         "{\"vectors\":[{\"vector_id\":-1,\"data\":[1,2]},{\"data\":[1,2]}]}");
    expect(&a, 400, "invalid_id");
    assert_non_null(strstr(answer_message(&a), "vector 1 of 2 "));
    post("/api/v1/databases/docs/vectors/batch", "{\"vectors\":[]}");
    expect(&a, 200, NULL);
    post("/api/v1/databases/docs/vectors/batch", "{}");
    expect(&a, 400, "invalid_request");
    post("/api/v1/databases/docs/vectors/batch?durability=periodic",
         "{\"vectors\":[{\"data\":[1,2]}]}");
    expect(&a, 200, NULL);
    post("/api/v1/databases/docs/vectors/batch?durability=never",
         "{\"vectors\":[{\"data\":[1,2]}]}");
    expect(&a, 400, "invalid_request");
    buf_free(&body);
}

static void many_are_read_and_deleted_by_id(void **unused)
{
    (void)unused;
    create("docs", "{\"dimension\":1}");
    post("/api/v1/databases/docs/vectors/batch",
         "{\"vectors\":[{\"vector_id\":1,\"data\":[1]},{\"vector_id\":\"x\",\"data\":[2],"
         "\"metadata\":{\"a\":1}}]}");
    post("/api/v1/databases/docs/vectors/get",
         "{\"ids\":[\"x\",7,1,\"y\"],\"include\":[\"metadata\"]}");
    expect(&a, 200, NULL);
    has("\"missing\":[7,\"y\"]");
    assert_int_equal(json_array_size(field("vectors")), 2);
    has("{\"vector_id\":\"x\",\"metadata\":{\"a\":1},\"version\":");
    post("/api/v1/databases/docs/vectors/delete", "{\"ids\":[\"x\",7]}");
    expect(&a, 200, NULL);
    assert_int_equal(number("deleted"), 1);
    post("/api/v1/databases/docs/vectors/delete", "{}");
    expect(&a, 400, "invalid_request");
    has("no \\\"ids\\\" and no \\\"filter\\\"");
    post("/api/v1/databases/docs/vectors/delete", "{\"filter\":null}"); /* not: all */
    expect(&a, 400, "invalid_request");
    post("/api/v1/databases/docs/vectors/delete", "{\"ids\":[1],\"filter\":{}}");
    expect(&a, 400, "invalid_request");
    post("/api/v1/databases/docs/vectors/delete", "{\"filter\":{\"$a\":1}}");
    expect(&a, 400, "invalid_filter");
    post("/api/v1/databases/docs/vectors/get", "{\"filter\":{}}");
    expect(&a, 400, "invalid_request");
    post("/api/v1/databases/docs/vectors/delete", "{\"ids\":[1.5]}");
    expect(&a, 400, "invalid_id");
    post("/api/v1/databases/docs/vectors/get", "{\"ids\":[1],\"include\":[\"vector\"]}");
    expect(&a, 400, "invalid_request");
}

static void filters_choose_what_is_counted_and_found(void **unused)
{
    (void)unused;
    create("docs", "{\"dimension\":1,\"distance_metric\":\"euclidean\",\"metadata_indexes\":{"
                   "\"at\":\"datetime\"}}");
    post("/api/v1/databases/docs/vectors/batch",
         "{\"vectors\":[{\"vector_id\":1,\"data\":[1],\"metadata\":{\"a\":1}},"
         "{\"vector_id\":2,\"data\":[2],\"metadata\":{\"a\":2,\"at\":\"2026-01-01T01:00:00+01:00\"}"
         "},"
         "{\"vector_id\":\"x\",\"data\":[3],\"metadata\":{\"a\":[2,3]}},"
         "{\"vector_id\":4,\"data\":[4]}]}");
    expect(&a, 200, NULL);
    static const struct {
        const char *filter;
        int count;
    } cases[] = {
        {"{}", 4},
        {"{\"a\":2}", 2},
        {"{\"a\":{\"$ne\":2}}", 2},
        {"{\"$id\":{\"$in\":[\"x\",\"4\",9]}}", 2},
        {"{\"at\":{\"$lte\":\"2026-01-01T00:00:00Z\"}}", 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char body[200];
        snprintf(body, sizeof body, "{\"filter\":%s}", cases[i].filter);
        post("/api/v1/databases/docs/count", body);
        expect(&a, 200, NULL);
        if (number("count") != cases[i].count) fail_msg("%s: %s", cases[i].filter, a.body);
        snprintf(body, sizeof body, "{\"data\":[4],\"top_k\":9,\"filter\":%s}", cases[i].filter);
        post("/api/v1/databases/docs/search", body);
        expect(&a, 200, NULL);
        assert_int_equal(json_array_size(field("results")), cases[i].count);
    }
    post("/api/v1/databases/docs/search", "{\"data\":[4],\"top_k\":1,\"filter\":{\"a\":2}}");
    has("\"vector_id\":\"x\"");
    post("/api/v1/databases/docs/count", "");
    assert_int_equal(number("count"), 4);
    post("/api/v1/databases/docs/count", "{\"filter\":{\"a\":{\"$gt\":null}}}");
    expect(&a, 400, "invalid_filter");
    has("the request has a filter in which");
    post("/api/v1/databases/docs/vectors/delete", "{\"filter\":{\"a\":2}}");
    expect(&a, 200, NULL);
    assert_int_equal(number("deleted"), 2);
    assert_int_equal(number("lsn"), 2);
    post("/api/v1/databases/docs/vectors/delete", "{\"filter\":{\"a\":2}}");
    expect(&a, 200, NULL);
    assert_int_equal(number("deleted"), 0);
    assert_int_equal(number("lsn"), 2);
    post("/api/v1/databases/docs/count", "");
    assert_int_equal(number("count"), 2);
    post("/api/v1/databases/docs/count", "{\"filters\":{}}");
    expect(&a, 400, "invalid_request");
    post("/api/v1/databases/docs/count", "{\"filter\":{\"a\":}}");
    expect(&a, 400, "invalid_json");
    post("/api/v1/databases/docs/count", "[]");
    expect(&a, 400, "invalid_request");
}

static void rows_that_match_are_listed_page_by_page(void **unused)
{
    (void)unused;
    create("docs", "{\"dimension\":1}");
    struct buf body = {0};
    buf_str(&body, "{\"vectors\":[");
    for (int i = 0; i < 100; i++)
        buf_printf(&body, "{\"vector_id\":%d,\"data\":[%d],\"metadata\":{\"a\":%d}},", i, i, i % 3);
    buf_str(&body, "{\"vector_id\":\"p-1\",\"data\":[1],\"metadata\":{\"a\":1}},"
                   "{\"vector_id\":\"p-2\",\"data\":[1]}]}");
    buf_add(&body, "", 1);
    post("/api/v1/databases/docs/vectors/batch", body.data);
    expect(&a, 200, NULL);
    post("/api/v1/databases/docs/vectors/scroll", "");
    assert_int_equal(json_array_size(field("vectors")), 100);
    size_t seen = 0, pages = 0;
    char next[200] = "null";
    do {
        body.len = 0;
        buf_printf(&body,
                   "{\"filter\":{\"a\":1},\"limit\":10,\"include\":[\"metadata\"],\"cursor\":%s}",
                   next);
        buf_add(&body, "", 1);
        post("/api/v1/databases/docs/vectors/scroll", body.data);
        expect(&a, 200, NULL);
        size_t i;
        json_t *row;
        json_array_foreach(field("vectors"), i, row)
        {
            json_t *id = json_object_get(row, "vector_id");
            if (json_is_integer(id)) assert_int_equal(json_integer_value(id), 3 * (seen + i) + 1);
            assert_null(json_object_get(row, "data"));
            assert_int_equal(
                json_integer_value(json_object_get(json_object_get(row, "metadata"), "a")), 1);
        }
        seen += json_array_size(field("vectors"));
        pages++;
        if (json_is_string(field("next")))
            snprintf(next, sizeof next, "\"%s\"", json_string_value(field("next")));
    } while (json_is_string(field("next")));
    assert_int_equal(seen, 34);
    assert_int_equal(pages, 4);
    post("/api/v1/databases/docs/vectors/scroll", "{\"filter\":{\"a\":1},\"prefix\":\"p-\"}");
    assert_int_equal(json_array_size(field("vectors")), 1);
    post("/api/v1/databases/docs/vectors/scroll", "{\"filter\":{\"a\":9},\"limit\":1}");
    has("{\"vectors\":[],\"next\":null}");
    static const char *const bad[][2] = {
        {"{\"limit\":0}", "invalid_request"},
        {"{\"limit\":10001}", "invalid_request"},
        {"{\"cursor\":\"!\"}", "invalid_request"},
        {"{\"cursor\":7}", "invalid_request"},
        {"{\"filter\":[]}", "invalid_filter"},
        {"{\"order_by\":\"a\"}", "invalid_request"},
        {"{\"encoding\":\"x\"}", "invalid_request"},
        {"{\"include\":1}", "invalid_request"},
        {"{\"limit\":1", "invalid_json"},
        {"[]", "invalid_request"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        post("/api/v1/databases/docs/vectors/scroll", bad[i][0]);
        expect(&a, 400, bad[i][1]);
    }
    buf_free(&body);
}

static void rows_are_listed_in_id_order(void **unused)
{
    (void)unused;
    create("docs", "{\"dimension\":1}");
    struct buf body = {0};
    buf_str(&body, "{\"vectors\":[");
    for (int i = 0; i < 250; i++)
        buf_printf(&body, "{\"vector_id\":%d,\"data\":[%d]},", (i * 37) % 250, i);
    buf_str(&body, "{\"vector_id\":\"p-1\",\"data\":[1]},{\"vector_id\":\"p-2\",\"data\":[1]},{"
                   "\"vector_id\":\"q\",\"data\":[1]}]}");
    buf_add(&body, "", 1);
    post("/api/v1/databases/docs/vectors/batch", body.data);
    expect(&a, 200, NULL);
    buf_free(&body);
    long long expected = 0;
    int pages = 0;
    char target[300] = "/api/v1/databases/docs/vectors?limit=60&include=metadata";
    for (;; pages++) {
        get(target);
        expect(&a, 200, NULL);
        for (size_t i = 0; i < json_array_size(field("vectors")); i++) {
            json_t *id = json_object_get(json_array_get(field("vectors"), i), "vector_id");
            if (expected < 250)
                assert_int_equal(json_integer_value(id), expected);
            else
                assert_true(json_is_string(id));
            expected++;
        }
        if (json_is_null(field("next"))) break;
        snprintf(target, sizeof target,
                 "/api/v1/databases/docs/vectors?limit=60&include=metadata&cursor=%s",
                 text("next"));
    }
    assert_int_equal(expected, 253);
    assert_int_equal(pages, 4);
    get("/api/v1/databases/docs/vectors?prefix=p-");
    assert_int_equal(json_array_size(field("vectors")), 2);
    get("/api/v1/databases/docs/vectors");
    assert_int_equal(json_array_size(field("vectors")), 100);
    static const char *const bad[] = {"limit=0",         "limit=10001", "limit=x",
                                      "cursor=%7E",      "include=foo", "encoding=hex",
                                      "limit=1&limit=2", "a=%zz"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        snprintf(target, sizeof target, "/api/v1/databases/docs/vectors?%s", bad[i]);
        get(target);
        expect(&a, 400, "invalid_request");
    }
}

static void a_long_page_ends_early_with_a_cursor(void **unused)
{
    (void)unused;
    create("wide", "{\"dimension\":65536}");
    char *body = malloc(65536 * 13 + 100), *p = body;
    p += sprintf(p, "{\"data\":[");
    for (int i = 0; i < 65536; i++)
        p += sprintf(p, "%s0.%d", i ? "," : "", 12345678 + i);
    strcpy(p, "]}");
    for (int i = 0; i < 15; i++) {
        post("/api/v1/databases/wide/vectors", body);
        expect(&a, 201, NULL);
    }
    free(body);
    size_t rows = 0, pages = 0;
    char target[200] = "/api/v1/databases/wide/vectors?limit=100";
    for (;; pages++) {
        get(target);
        expect(&a, 200, NULL);
        assert_true(a.deferred);
        rows += json_array_size(field("vectors"));
        if (json_is_null(field("next"))) break;
        snprintf(target, sizeof target, "/api/v1/databases/wide/vectors?limit=100&cursor=%s",
                 text("next"));
    }
    assert_int_equal(rows, 15);
    assert_true(pages >= 1);
}

/* ---- search ---- */

static void nearest_rows_come_first(void **unused)
{
    (void)unused;
    create("docs", "{\"dimension\":2,\"distance_metric\":\"euclidean\"}");
    post("/api/v1/databases/docs/vectors/batch",
         "{\"vectors\":[{\"vector_id\":1,\"data\":[0,0],\"metadata\":{\"n\":1}},{\"vector_id\":2,"
         "\"data\":[3,4]},"
         "{\"vector_id\":\"t\",\"data\":[3,4]},{\"vector_id\":3,\"data\":[6,8]}]}");
    post("/api/v1/databases/docs/search",
         "{\"data\":[0,0],\"top_k\":3,\"include\":[\"metadata\",\"data\"]}");
    expect(&a, 200, NULL);
    has("{\"vector_id\":1,\"score\":1,\"distance\":0,\"data\":[0,0],\"metadata\":{\"n\":1}},"
        "{\"vector_id\":2,\"score\":0.16666666666666666,\"distance\":5,\"data\":[3,4],\"metadata\":"
        "{}},"
        "{\"vector_id\":\"t\",");
    has("\"complete\":true,\"strategy\":\"exact\"");
    assert_true(json_is_integer(field("took_us")));
    post("/api/v1/databases/docs/search", "{\"vector_id\":2,\"k\":10}");
    assert_int_equal(json_array_size(field("results")), 3);
    has("\"results\":[{\"vector_id\":\"t\"");
    assert_null(strstr(a.body, "metadata"));
    post("/api/v1/databases/docs/search", "{\"data\":[0,0],\"limit\":1,\"offset\":3}");
    has("\"results\":[{\"vector_id\":3,");
    post("/api/v1/databases/docs/search", "{\"data\":[0,0],\"max_distance\":5}");
    assert_int_equal(json_array_size(field("results")), 3);
    post("/api/v1/databases/docs/search", "{\"data_base64\":\"AAAAAAAAAAA=\",\"min_score\":0.5}");
    assert_int_equal(json_array_size(field("results")), 1);
    post("/api/v1/databases/docs/search",
         "{\"data\":[0,0],\"params\":{\"exact\":true,\"ef\":10,\"recall\":0.95,\"rescore\":true,"
         "\"oversampling\":2.0},\"explain\":true}");
    expect(&a, 200, NULL);
    static const char *const members[] = {"plan",
                                          "ef",
                                          "candidates",
                                          "visited",
                                          "distance_computations",
                                          "code_distances",
                                          "row_distances",
                                          "unlinked",
                                          "expected_recall",
                                          "stages"};
    static const char *const stages[] = {"parse_us",   "filter_us", "graph_us",  "unlinked_us",
                                         "rescore_us", "read_us",   "search_us", "encode_us"};
    for (size_t i = 0; i < sizeof members / sizeof *members; i++)
        if (!json_object_get(field("explain"), members[i])) fail_msg("no %s", members[i]);
    for (size_t i = 0; i < sizeof stages / sizeof *stages; i++)
        assert_true(json_is_number(
            json_object_get(json_object_get(field("explain"), "stages"), stages[i])));
    has("\"ef\":null,\"candidates\":4,");
    has("\"expected_recall\":1,");
    post("/api/v1/databases/docs/search/batch",
         "{\"searches\":[{\"data\":[0,0],\"top_k\":1},{\"data\":[6,8],\"top_k\":2}]}");
    expect(&a, 200, NULL);
    assert_int_equal(json_array_size(field("results")), 2);
    assert_int_equal(json_array_size(json_array_get(field("results"), 1)), 2);
    get("/metrics");
    has("jadevectordb_search_duration_seconds_count{strategy=\"exact\"} ");
    has("jadevectordb_search_duration_seconds_count{strategy=\"graph\"} ");
    has("jadevectordb_search_duration_seconds_count{strategy=\"filtered_graph\"} ");
    assert_null(strstr(a.body, "recall_estimate")); /* nothing was measured */
}

/* {"vector_id":0,"data":[0,...]}, ... */
static void fill(const char *name, size_t count, size_t dimension)
{
    char *body = malloc(100 + count * (40 + dimension * 8)), *p = body, target[100];
    p += sprintf(p, "{\"vectors\":[");
    for (size_t i = 0; i < count; i++) {
        p += sprintf(p, "%s{\"vector_id\":%zu,\"data\":[", i ? "," : "", i);
        for (size_t k = 0; k < dimension; k++)
            p += sprintf(p, "%s%zu", k ? "," : "", i * (k == 0));
        p += sprintf(p, "]}");
    }
    strcpy(p, "]}");
    snprintf(target, sizeof target, "/api/v1/databases/%s/vectors/batch", name);
    post(target, body);
    expect(&a, 200, NULL);
    free(body);
}

/* Enough work that no thread is left without. */
static void a_batch_answers_each_search_in_order(void **unused)
{
    (void)unused;
    enum { SEARCHES = 300, ROWS = 1000 };
    create("docs", "{\"dimension\":16,\"distance_metric\":\"euclidean\"}");
    fill("docs", ROWS, 16);
    char *body = malloc(100 + SEARCHES * 100), *p = body;
    p += sprintf(p, "{\"searches\":[");
    for (int i = 0; i < SEARCHES; i++)
        p += sprintf(p, "%s{\"vector_id\":%d,\"top_k\":%d,\"explain\":%s}", i ? "," : "", i * 3,
                     1 + i % 5, i % 2 ? "true" : "false");
    strcpy(p, "]}");
    post("/api/v1/databases/docs/search/batch", body);
    expect(&a, 200, NULL);
    assert_true(a.has_parts);
    assert_false(a.deferred);
    assert_string_equal(text("strategy"), "exact");
    assert_true(json_is_true(field("complete")));
    assert_int_equal(json_array_size(field("results")), SEARCHES);
    assert_int_equal(json_array_size(field("searches")), SEARCHES);
    for (size_t i = 0; i < SEARCHES; i++) {
        json_t *hits = json_array_get(field("results"), i),
               *info = json_array_get(field("searches"), i);
        assert_int_equal(json_array_size(hits), 1 + i % 5);
        json_int_t nearest =
            json_integer_value(json_object_get(json_array_get(hits, 0), "vector_id"));
        /* Of two at distance 1 the lower id, and never the vector itself. */
        assert_int_equal(nearest, i == 0 ? 1 : i * 3 - 1);
        assert_string_equal(json_string_value(json_object_get(info, "strategy")), "exact");
        assert_true(json_is_integer(json_object_get(info, "took_us")));
        assert_int_equal(json_is_object(json_object_get(info, "explain")), i % 2);
    }
    /* The first that fails is told, whichever thread came to it. */
    p = body;
    p += sprintf(p, "{\"searches\":[");
    for (int i = 0; i < SEARCHES; i++)
        p += sprintf(p, "%s{\"vector_id\":%d}", i ? "," : "", i < SEARCHES / 2 ? i : ROWS + i);
    strcpy(p, "]}");
    for (int i = 0; i < 20; i++) {
        post("/api/v1/databases/docs/search/batch", body);
        expect(&a, 404, "vector_not_found");
        if (!strstr(answer_message(&a), "search 151: database \"docs\" has no vector \"1150\""))
            fail_msg("%s", a.body);
    }
    free(body);
}

static void a_short_batch_is_answered_at_once(void **unused)
{
    (void)unused;
    create("docs", "{\"dimension\":2,\"distance_metric\":\"euclidean\"}");
    fill("docs", 3, 2);
    /* At once means that the last search begins within 100 us: a thread that was put aside is late,
     * but not each time. */
    a.deferred = true;
    for (int i = 0; i < 50 && (a.has_parts || a.deferred); i++) {
        post("/api/v1/databases/docs/search/batch",
             "{\"searches\":[{\"data\":[0,0]},{\"data\":[2,0]}]}");
        expect(&a, 200, NULL);
    }
    assert_false(a.has_parts || a.deferred);
    assert_int_equal(json_array_size(field("results")), 2);
    post("/api/v1/databases/docs/search/batch", "{\"searches\":[]}");
    expect(&a, 200, NULL);
    assert_int_equal(json_array_size(field("results")), 0);
    assert_true(json_is_null(field("strategy")));
    post("/api/v1/databases/docs/search/batch",
         "{\"searches\":[{\"data\":[0,0]},{\"vector_id\":9}]}");
    expect(&a, 404, "vector_not_found");
    has("search 2: database");
}

static void wrong_searches_are_refused(void **unused)
{
    (void)unused;
    create("docs", "{\"dimension\":2}");
    static const struct {
        const char *body, *code, *part;
    } cases[] = {
        {"{\"data\":[1]}", "dimension_mismatch", "the search has 1 number"},
        {"{}", "invalid_request", "exactly one"},
        {"{\"data\":[1,2],\"vector_id\":1}", "invalid_request", "exactly one"},
        {"{\"data\":[1,2],\"top_k\":0}", "invalid_request", "top_k"},
        {"{\"data\":[1,2],\"k\":10001}", "invalid_request", "\"k\""},
        {"{\"data\":[1,2],\"top_k\":1.5}", "invalid_request", "top_k"},
        {"{\"data\":[1,2],\"top_k\":1,\"k\":1}", "invalid_request", "more than one"},
        {"{\"data\":[1,2],\"offset\":20000}", "invalid_request", "offset"},
        {"{\"data\":[1,2],\"filter\":[]}", "invalid_filter", "the search has a filter that is not"},
        {"{\"data\":[1,2],\"filter\":{\"a\":{\"$x\":1}}}", "invalid_filter",
         "the search has a filter with the unknown operator \"$x\" at \"a\""},
        {"{\"data\":[1,2],\"include\":[\"x\"]}", "invalid_request", "include"},
        {"{\"data\":[1,2],\"include\":\"data\"}", "invalid_request", "include"},
        {"{\"data\":[1,2],\"min_score\":\"x\"}", "invalid_request", "min_score"},
        {"{\"data\":[1,2],\"params\":5}", "invalid_request", "\"params\""},
        {"{\"data\":[1,2],\"params\":{\"effort\":9}}", "invalid_request",
         "the search has \"params\" that has an unknown field \"effort\""},
        {"{\"data\":[1,2],\"params\":{\"recall\":1.01}}", "invalid_request",
         "\"params.recall\" that is not a number from 0.5 to 1"},
        {"{\"data\":[1,2],\"params\":{\"recall\":0.49}}", "invalid_request", "0.5 to 1"},
        {"{\"data\":[1,2],\"params\":{\"ef\":0}}", "invalid_request",
         "\"params.ef\" that is not an integer from 1 to 32768"},
        {"{\"data\":[1,2],\"params\":{\"ef\":32769}}", "invalid_request", "1 to 32768"},
        {"{\"data\":[1,2],\"params\":{\"exact\":1}}", "invalid_request", "params.exact"},
        {"{\"data\":[1,2],\"params\":{\"rescore\":\"no\"}}", "invalid_request", "params.rescore"},
        {"{\"data\":[1,2],\"params\":{\"oversampling\":0.5}}", "invalid_request",
         "\"params.oversampling\" that is not a number from 1 to 100"},
        {"{\"data\":[1,2],\"params\":{\"oversampling\":101}}", "invalid_request", "1 to 100"},
        {"{\"data\":[1,2],\"group_by\":\"a\"}", "invalid_request", "group_by"},
        {"{\"data\":[1,2]]", "invalid_json", "at byte 13"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        post("/api/v1/databases/docs/search", cases[i].body);
        expect(&a, 400, cases[i].code);
        if (!strstr(answer_message(&a), cases[i].part)) fail_msg("%s: %s", cases[i].body, a.body);
    }
    post("/api/v1/databases/docs/search", "{\"vector_id\":5}");
    expect(&a, 404, "vector_not_found");
    post("/api/v1/databases/docs/search/batch", "{\"searches\":[{\"data\":[1,2]},{\"data\":[1]}]}");
    expect(&a, 400, "dimension_mismatch");
    assert_non_null(strstr(answer_message(&a), "search 2 has 1 number"));
}

/* ---- storage, metrics ---- */

static void the_keys_of_the_guide_are_there(void **unused)
{
    (void)unused;
    create("docs", "{\"dimension\":2}");
    get("/api/v1/storage/stats");
    expect(&a, 200, NULL);
    static const char *const keys[] = {
        "total_databases", "total_vectors",  "total_bytes",
        "open_files",      "max_open_files", "lru_hits",
        "lru_misses",      "lru_evictions",  "lru_evictions_per_minute",
        "cache_hit_rate",  "flush",          "disk",
        "memory"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        if (!field(keys[i])) fail_msg("no %s", keys[i]);
    }
    assert_int_equal(number("total_databases"), 1);
    assert_true(json_integer_value(json_object_get(field("memory"), "rss_bytes")) > 0);
}

static void metrics_are_well_formed_and_cumulative(void **unused)
{
    (void)unused;
    get("/api/v1/nothing");
    get("/metrics");
    expect(&a, 200, NULL);
    static const char *const names[] = {"flush_duration_ms",
                                        "open_files",
                                        "max_open_files",
                                        "flush_duration_seconds_bucket",
                                        "wal_sync_duration_seconds_count",
                                        "search_duration_seconds_sum",
                                        "inserts_total",
                                        "rejected_requests_total",
                                        "checksum_errors_total",
                                        "databases",
                                        "vectors",
                                        "disk_free_bytes",
                                        "resident_memory_bytes",
                                        "build_info"};
    char part[96];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(part, sizeof part, "\njadevectordb_%s", names[i]);
        if (!strstr(a.body, part)) fail_msg("no %s", names[i]);
    }
    has("route=\"/databases/{db}/restore\",method=\"POST\",status=\"200\",le=\"+Inf\"} 0\n");
    has("route=\"unmatched\",method=\"GET\",status=\"404\"");
    /* every series has TYPE before it, buckets only grow, the last is the count */
    char type[96] = "", series[300] = "";
    unsigned long long before = 0, last_bucket = 0;
    char *copy = strdup(a.body), *rest = copy;
    for (char *line = strtok_r(copy, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        if (sscanf(line, "# TYPE %95s", type) == 1) continue;
        if (line[0] == '#') continue;
        if (strncmp(line, type, strlen(type)) != 0)
            fail_msg("%s is not below its TYPE %s", line, type);
        char *le = strstr(line, "le=\""), *value = strrchr(line, ' ');
        assert_non_null(value);
        unsigned long long n = strtoull(value, NULL, 10);
        if (le) {
            *le = 0;
            if (strcmp(line, series) != 0) before = 0;
            snprintf(series, sizeof series, "%s", line);
            assert_true(n >= before);
            before = last_bucket = n;
        } else if (strstr(line, "_count") && strstr(type, "_seconds")) {
            assert_int_equal(n, last_bucket);
        }
    }
    free(copy);
}

/* ---- CORS ---- */

static void browsers_are_told_what_is_allowed(void **unused)
{
    (void)unused;
    struct extras x = {.origin = "https://a.example"};
    loopback(&app, &a, "GET", "/health", NULL, &x);
    assert_string_equal(a.headers, "");
    app.options.cors_origins = "https://b.example, https://a.example";
    loopback(&app, &a, "GET", "/health", NULL, &x);
    assert_non_null(strstr(a.headers, "Access-Control-Allow-Origin: https://a.example\n"));
    loopback(&app, &a, "OPTIONS", "/api/v1/databases/x/vectors", NULL, &x);
    expect(&a, 204, NULL);
    assert_non_null(strstr(a.headers, "Access-Control-Allow-Methods: GET, HEAD, POST\n"));
    x.origin = "https://c.example";
    loopback(&app, &a, "GET", "/health", NULL, &x);
    assert_null(strstr(a.headers, "Allow-Origin"));
    loopback(&app, &a, "OPTIONS", "/api/v1/databases/x/vectors", NULL, &x);
    expect(&a, 405, NULL);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        T(the_open_routes_answer_at_both_places),
        T(an_error_has_code_message_and_request_id),
        T(a_wrong_method_is_405_with_allow),
        T(head_is_get),
        T(unknown_fields_and_parameters_are_refused_by_name),
        T(bodies_are_checked_before_they_are_read),
        T(broken_json_says_where),
        T(a_body_that_breaks_off_is_invalid_json),
        T(a_database_is_created_described_and_deleted),
        T(put_is_idempotent),
        T(index_options_are_kept_shown_and_compared),
        T(a_name_may_be_in_the_body),
        T(bad_schemas_are_refused),
        T(bad_names_are_refused_however_they_are_written),
        T(databases_are_listed_page_by_page),
        T(a_vector_comes_back_as_it_was_sent),
        T(metadata_in_a_string_is_the_object_it_holds),
        T(ids_are_integers_or_strings),
        T(the_server_assigns_ids),
        T(wrong_vectors_are_refused_with_a_lesson),
        T(a_batch_is_all_or_nothing_and_names_the_row),
        T(many_are_read_and_deleted_by_id),
        T(filters_choose_what_is_counted_and_found),
        T(rows_that_match_are_listed_page_by_page),
        T(rows_are_listed_in_id_order),
        T(a_long_page_ends_early_with_a_cursor),
        T(nearest_rows_come_first),
        T(a_batch_answers_each_search_in_order),
        T(a_short_batch_is_answered_at_once),
        T(wrong_searches_are_refused),
        T(the_keys_of_the_guide_are_there),
        T(metrics_are_well_formed_and_cumulative),
        T(browsers_are_told_what_is_allowed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

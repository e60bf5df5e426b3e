/* test_auth.c - keys, scopes, databases, rates, and the file they come from. */
#include "tests/api/loopback.h"

#include <sys/stat.h>
#include <unistd.h>

#include "storage/base/log.h"

static struct service *service;
static struct api_app app;
static struct answer a;
static char path[64];

/* As sha256sum prints them. */
#define READER "3d0941964aa3ebdcb00ccef58b1bb399f9f898465e9886d5aec7f31090a0fb30"
#define WRITER "b93006774cbdd4b299389a03ac3d88c3a76b460d538795bc12718011a909fba5"
#define BOSS   "a5e7c002443743c5836758c7d1cd8ddefd9fcf2061daa0efaac683fb99966057"
#define ONLY_A "6bae0fe5f88e946cbad4f590933e3e54451d258b1e4ea40c8ccf7fe40c29c771"

#define KEY(name, scope, hash, databases)                                                          \
    "{\"name\":\"" name "\",\"scope\":\"" scope "\",\"sha256\":\"" hash                            \
    "\",\"databases\":" databases "}"
static const char four_keys[] = "{\"keys\":[" KEY("r", "read", READER, "[\"*\"]") "," KEY(
    "w", "write", WRITER,
    "[\"*\"]") "," KEY("b", "admin", BOSS, "[\"*\"]") "," KEY("a", "admin", ONLY_A, "[\"a\"]") "]}";

static void write_keys(const char *text, mode_t mode)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
    assert_int_equal(chmod(path, mode), 0);
}

static int set_up_with(uint64_t rate)
{
    struct err err;
    struct service_options options = {.engine = ENGINE_MEMORY, .max_open_files = 100};
    struct api_options api = {
        .max_body_bytes = 1 << 20, .api_keys_file = path, .rate_limit_per_key = rate};
    snprintf(path, sizeof path, "/tmp/test_auth_XXXXXX");
    int fd = mkstemp(path);
    if (fd < 0) return -1;
    close(fd);
    write_keys(four_keys, 0600);
    if (service_open(&options, &service, &err) || api_app_init(&app, service, &api, &err)) {
        print_message("%s\n", err.msg);
        return -1;
    }
    app.ready = 1;
    return 0;
}

static int set_up(void **unused)
{
    (void)unused;
    return set_up_with(0);
}

static int set_up_limited(void **unused)
{
    (void)unused;
    return set_up_with(5);
}

static int tear_down(void **unused)
{
    (void)unused;
    struct err err;
    answer_drop(&a);
    api_app_deinit(&app);
    unlink(path);
    return service_close(service, &err) ? -1 : 0;
}

static void call(const char *key, const char *method, const char *target, const char *body)
{
    struct extras x = {.api_key = key};
    loopback(&app, &a, method, target, body, &x);
}

static void without_a_key_only_the_open_routes_answer(void **unused)
{
    (void)unused;
    static const char *const open[] = {"/health", "/ready", "/version", "/openapi.json"};
    static const char *const closed[] = {"/metrics", "/api/v1/metrics", "/api/v1/databases",
                                         "/api/v1/storage/stats", "/api/v1/databases/a"};
    for (size_t i = 0; i < 4; i++) {
        call(NULL, "GET", open[i], NULL);
        expect(&a, 200, NULL);
    }
    for (size_t i = 0; i < 5; i++) {
        call(NULL, "GET", closed[i], NULL);
        expect(&a, 401, "unauthorized");
        assert_non_null(strstr(a.headers, "WWW-Authenticate: Bearer\n"));
    }
}

static void a_wrong_key_is_answered_like_a_missing_one(void **unused)
{
    (void)unused;
    static const char *const wrong[] = {"x", "", "READER", "reader ", READER};
    struct extras x = {.request_id = "same"};
    loopback(&app, &a, "GET", "/api/v1/databases", NULL, &x);
    expect(&a, 401, "unauthorized");
    char *body = strdup(a.body);
    for (size_t i = 0; i < 5; i++) {
        x = (struct extras){.request_id = "same", .api_key = wrong[i]};
        loopback(&app, &a, "GET", "/api/v1/databases", NULL, &x);
        assert_string_equal(a.body, body);
    }
    free(body);
}

static void a_key_comes_in_either_header(void **unused)
{
    (void)unused;
    static const char *const good[] = {"Bearer reader", "bearer reader", "Bearer  reader"};
    struct extras x = {.api_key = "reader"};
    loopback(&app, &a, "GET", "/api/v1/databases", NULL, &x);
    expect(&a, 200, NULL);
    for (size_t i = 0; i < 3; i++) {
        x = (struct extras){.authorization = good[i]};
        loopback(&app, &a, "GET", "/api/v1/databases", NULL, &x);
        expect(&a, 200, NULL);
    }
    x = (struct extras){.authorization = "Basic reader"};
    loopback(&app, &a, "GET", "/api/v1/databases", NULL, &x);
    expect(&a, 401, NULL);
}

static void scopes_hold(void **unused)
{
    (void)unused;
    call("writer", "POST", "/api/v1/databases/a", "{\"dimension\":1}");
    expect(&a, 403, "forbidden");
    call("boss", "POST", "/api/v1/databases/a", "{\"dimension\":1}");
    expect(&a, 201, NULL);
    call("reader", "POST", "/api/v1/databases/a/vectors", "{\"data\":[1]}");
    expect(&a, 403, "forbidden");
    call("writer", "POST", "/api/v1/databases/a/vectors", "{\"data\":[1]}");
    expect(&a, 201, NULL);
    call("reader", "POST", "/api/v1/databases/a/search", "{\"data\":[1]}");
    expect(&a, 200, NULL);
    call("reader", "GET", "/api/v1/databases/a/export", NULL);
    expect(&a, 403, "forbidden");
    call("writer", "POST", "/api/v1/import", "{}");
    expect(&a, 403, "forbidden");
    call("reader", "POST", "/api/v1/storage/flush", NULL);
    expect(&a, 403, "forbidden");
}

static void a_key_for_some_databases_is_for_no_other(void **unused)
{
    (void)unused;
    call("only-a", "PUT", "/api/v1/databases/a", "{\"dimension\":1}");
    expect(&a, 201, NULL);
    call("only-a", "PUT", "/api/v1/databases/b", "{\"dimension\":1}");
    expect(&a, 403, "forbidden");
    call("only-a", "PUT", "/api/v1/databases/%61", "{\"dimension\":1}");
    expect(&a, 200, NULL);
    call("only-a", "GET", "/api/v1/databases", NULL);
    expect(&a, 403, "forbidden");
    call("only-a", "POST", "/api/v1/export", "{\"databases\":[\"a\"]}");
    expect(&a, 403, "forbidden");
    call("only-a", "GET", "/api/v1/databases/a/export", NULL);
    expect(&a, 200, NULL);
    call("only-a", "GET", "/health", NULL);
    expect(&a, 200, NULL);
}

/* The lines of the log with "audit: ", without what is new in each run. */
static void audit_lines(char *out, size_t cap, const char *log_path)
{
    char line[1024];
    FILE *f = fopen(log_path, "r");

    *out = 0;
    assert_non_null(f);
    while (fgets(line, sizeof line, f)) {
        char *from = strstr(line, "audit: "), *to = strstr(line, " [request ");
        if (!from) continue;
        assert_non_null(to);
        assert_true(strlen(out) + (size_t)(to - from) + 2 < cap);
        strncat(out, from, (size_t)(to - from));
        strcat(out, "\n");
    }
    fclose(f);
}

static void what_needs_an_admin_key_is_noted_with_its_name(void **unused)
{
    char log_path[] = "/tmp/test_auth_log_XXXXXX", lines[4096];
    struct log_options options = {.level = LOG_INFO, .path = log_path};
    struct err err;
    int fd = mkstemp(log_path);

    (void)unused;
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(log_open(&options, &err), ERR_OK);
    call("boss", "PUT", "/api/v1/databases/a", "{\"dimension\":1}");
    call("boss", "POST", "/api/v1/databases", "{\"name\":\"in-body\",\"dimension\":1}");
    call("boss", "DELETE", "/api/v1/databases/absent", NULL);
    call("writer", "DELETE", "/api/v1/databases/a", NULL);
    call("only-a", "DELETE", "/api/v1/databases/a", NULL);
    /* Nobody is, and none of these is for admins. */
    call(NULL, "DELETE", "/api/v1/databases/a", NULL);
    call("nobody", "DELETE", "/api/v1/databases/a", NULL);
    call("boss", "GET", "/api/v1/databases", NULL);
    call("boss", "POST", "/api/v1/databases/a/vectors", "{\"data\":[1]}");
    call("boss", "GET", "/health", NULL);
    call("boss", "GET", "/nothing", NULL);
    log_close();
    audit_lines(lines, sizeof lines, log_path);
    unlink(log_path);
    assert_string_equal(lines, "audit: PUT /api/v1/databases/a 201, key b, from ?\n"
                               "audit: POST /api/v1/databases database in-body 201, key b, from ?\n"
                               "audit: DELETE /api/v1/databases/absent 404, key b, from ?\n"
                               "audit: DELETE /api/v1/databases/a 403, key w, from ?\n"
                               "audit: DELETE /api/v1/databases/a 200, key a, from ?\n");
}

static void a_key_that_asks_too_often_is_told_when_to_come_back(void **unused)
{
    (void)unused;
    int limited = 0;
    for (int i = 0; i < 12; i++) {
        call("reader", "GET", "/api/v1/databases", NULL);
        if (a.status != 429) continue;
        expect(&a, 429, "rate_limited");
        assert_int_equal(a.retry_after_seconds, 1);
        limited++;
    }
    assert_true(limited >= 1 && limited <= 7);
    call("writer", "GET", "/api/v1/databases", NULL);
    expect(&a, 200, NULL);
}

static void a_reload_takes_new_keys_and_keeps_the_old_on_failure(void **unused)
{
    (void)unused;
    static const char *const broken[] = {
        "",
        "{",
        "{}",
        "[]",
        "{\"keys\":[]}",
        "{\"keys\":[{}]}",
        "{\"keys\":[],\"x\":1}",
        "{\"keys\":[" KEY("", "read", READER, "[\"*\"]") "]}",
        "{\"keys\":[" KEY("r", "root", READER, "[\"*\"]") "]}",
        "{\"keys\":[" KEY("r", "read", "abc", "[\"*\"]") "]}",
        "{\"keys\":[" KEY("r", "read", READER "00", "[\"*\"]") "]}",
        "{\"keys\":[" KEY("r", "read", READER, "[]") "]}",
        "{\"keys\":[" KEY("r", "read", READER, "[\"a/b\"]") "]}",
        "{\"keys\":[" KEY("r", "read", READER, "\"*\"") "]}",
        "{\"keys\":[{\"name\":\"r\",\"scope\":\"read\",\"sha256\":\"" READER "\"}]}",
    };
    struct err err;
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        write_keys(broken[i], 0600);
        if (!api_app_reload(&app, &err)) fail_msg("took %s", broken[i]);
        call("reader", "GET", "/api/v1/databases", NULL);
        expect(&a, 200, NULL);
    }
    for (int i = 0; i < 2; i++) {
        write_keys(four_keys, i ? 0640 : 0604);
        assert_int_not_equal(api_app_reload(&app, &err), ERR_OK);
        assert_non_null(strstr(err.msg, "chmod 600"));
    }
    write_keys("{\"keys\":[" KEY("w", "read", WRITER, "[\"*\"]") "]}", 0600);
    assert_int_equal(api_app_reload(&app, &err), ERR_OK);
    call("reader", "GET", "/api/v1/databases", NULL);
    expect(&a, 401, NULL);
    call("writer", "GET", "/api/v1/databases", NULL);
    expect(&a, 200, NULL);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        T(without_a_key_only_the_open_routes_answer),
        T(a_wrong_key_is_answered_like_a_missing_one),
        T(a_key_comes_in_either_header),
        T(scopes_hold),
        T(a_key_for_some_databases_is_for_no_other),
        T(what_needs_an_admin_key_is_noted_with_its_name),
        T(a_reload_takes_new_keys_and_keeps_the_old_on_failure),
        cmocka_unit_test_setup_teardown(a_key_that_asks_too_often_is_told_when_to_come_back,
                                        set_up_limited, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

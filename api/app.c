/* app.c - the life of a request: route, access, body, handler, wait, answer. */
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>

#include "api/api_private.h"
#include "api/auth.h"
#include "api/base64.h"
#include "api/json_vectors.h"
#include "storage/base/clock.h"
#include "storage/base/log.h"
#include "storage/base/utf8.h"

enum {
    INLINE_BODY_BYTES_MAX = 64 * 1024, /* longer bodies are parsed on a worker */
    ARENA_BYTES_MIN = 64 * 1024 * 1024,
};

const char JSON_TYPE[] = "application/json";

/* Request ids that we make: a random number per process, then a counter. */
static uint64_t request_id_seed;
static _Atomic uint64_t request_id_count;

enum err_code api_app_init(struct api_app *app, struct service *service,
                           const struct api_options *options, struct err *err)
{
    *app = (struct api_app){.service = service, .options = *options, .started_ns = clock_ns()};
    if (!app->options.initial_capacity) app->options.initial_capacity = 10000;
    if (getrandom(&request_id_seed, sizeof request_id_seed, 0) != sizeof request_id_seed)
        request_id_seed = clock_wall_ms();
    if (!options->api_keys_file) return ERR_OK;
    return auth_load(options->api_keys_file, options->rate_limit_per_key, &app->auth, err);
}

enum err_code api_app_reload(struct api_app *app, struct err *err)
{
    return app->auth ? auth_reload(app->auth, err) : ERR_OK;
}

void api_app_deinit(struct api_app *app)
{
    auth_free(app->auth);
    app->auth = NULL;
}

/* ---- errors ---- */

static void make_request_id(const struct api_request *req, struct api_response *res)
{
    if (res->request_id[0]) return;
    size_t len = req->request_id ? strlen(req->request_id) : 0;
    bool usable = len > 0 && len < sizeof res->request_id;
    for (size_t i = 0; usable && i < len; i++) {
        char c = req->request_id[i];
        usable = c > ' ' && c < 0x7f && c != '"' && c != '\\';
    }
    if (usable) {
        memcpy(res->request_id, req->request_id, len + 1);
        return;
    }
    snprintf(res->request_id, sizeof res->request_id, "%016" PRIx64 "-%" PRIx64, request_id_seed,
             atomic_fetch_add_explicit(&request_id_count, 1, memory_order_relaxed) + 1);
}

static void drop_wait(struct api_response *res)
{
    if (res->wait_db) service_release(res->wait_db);
    res->wait_db = NULL;
}

static void drop_stream(struct api_request *req)
{
    if (req->stream && req->stream_free) req->stream_free(req->stream);
    req->stream = NULL;
    req->stream_free = NULL;
    req->part = NULL;
}

/* What a client is told: causes inside the server stay inside, but for codes that mean something
 * to whoever runs it. */
static const char *public_message(const struct err *err)
{
    switch (err->code) {
    case ERR_INTERNAL:
    case ERR_IO:
    case ERR_WOULD_BLOCK:
    case ERR_WOULD_COMPUTE:
        return "the request failed inside the server; its log has the cause under this request id";
    case ERR_NOMEM:
        return "the server is short of memory for this request; try again, or send less at once";
    default:
        return err->msg;
    }
}

/* A state that the server announces by itself is not worth an error per request. */
static enum log_level level_of(enum err_code code)
{
    switch (code) {
    case ERR_NOT_READY:
    case ERR_SHUTTING_DOWN:
        return LOG_DEBUG;
    case ERR_OVERLOADED:
    case ERR_NOMEM:
    case ERR_READ_ONLY:
    case ERR_STORAGE_FULL:
        return LOG_WARNING;
    default:
        return LOG_ERROR;
    }
}

void api_fail(struct api_request *req, struct api_response *res, const struct err *err)
{
    make_request_id(req, res);
    drop_wait(res);
    res->produce = NULL;
    res->etag[0] = res->warning[0] = 0;
    res->body.len = 0;
    res->body.failed = false;

    int status = http_status(err->code);
    if (status >= 500)
        log_write(level_of(err->code), "%s %.200s: %s [%s, request %s]",
                  req->method ? req->method : "?", req->path ? req->path : "?", err->msg,
                  err_word(err->code), res->request_id);
    if ((status == 429 || status == 503) && !res->retry_after_seconds) res->retry_after_seconds = 1;
    if (status == 413 || status == 429) stat_add(STAT_REJECTED_REQUESTS, 1);

    struct buf *out = answer_json(res, status);
    buf_str(out, "{\"error\":{\"code\":");
    json_put_str(out, err_word(err->code));
    buf_str(out, ",\"message\":");
    json_put_str(out, public_message(err));
    buf_str(out, ",\"request_id\":");
    json_put_str(out, res->request_id);
    if (res->details[0]) {
        buf_str(out, ",\"details\":");
        buf_str(out, res->details);
    }
    buf_str(out, "}}\n");
}

void api_fail_code(struct api_request *req, struct api_response *res, enum err_code code,
                   const char *message)
{
    struct err err;
    err_set(&err, code, "%s", message);
    api_fail(req, res, &err);
}

/* ---- begin ---- */

static void add_header(struct api_response *res, const char *name, const char *value)
{
    if (res->header_count < API_HEADERS_MAX)
        res->headers[res->header_count++] = (struct api_header){name, value};
}

static bool origin_allowed(const char *list, const char *origin)
{
    size_t len = strlen(origin);
    while (*list) {
        list += strspn(list, ", ");
        size_t n = strcspn(list, ", ");
        if (n == 1 && *list == '*') return true;
        if (n && n == len && strncasecmp(list, origin, n) == 0) return true;
        list += n;
    }
    return false;
}

static bool cors_headers(const struct api_app *app, const struct api_request *req,
                         struct api_response *res)
{
    if (!app->options.cors_origins || !req->origin) return false;
    add_header(res, "Vary", "Origin");
    if (!origin_allowed(app->options.cors_origins, req->origin)) return false;
    add_header(res, "Access-Control-Allow-Origin", req->origin);
    add_header(res, "Access-Control-Expose-Headers",
               "X-Request-Id, ETag, Retry-After, Warning, Allow");
    return true;
}

/* A browser asks whether it may: answered for every path that exists, without a key. */
static bool preflight(struct api_request *req, struct api_response *res, const char *allow)
{
    if (strcmp(req->method, "OPTIONS") != 0 || !allow[0]) return false;
    char *methods = arena_copy(&req->arena, allow, strlen(allow) + 1);
    add_header(res, "Access-Control-Allow-Methods", methods ? methods : "GET");
    add_header(res, "Access-Control-Allow-Headers",
               "Authorization, Content-Type, Content-Encoding, X-API-Key, X-Request-Id, If-Match");
    add_header(res, "Access-Control-Max-Age", "600");
    res->status = 204;
    res->content_type = JSON_TYPE;
    return true;
}

static bool is_type(const char *type, const char *wanted)
{
    size_t len = strcspn(type, "; \t");
    return len == strlen(wanted) && strncasecmp(type, wanted, len) == 0;
}

static bool is_json_type(const char *type)
{
    size_t len = strcspn(type, "; \t");
    if (is_type(type, "application/json")) return true;
    return len > 5 && strncasecmp(type + len - 5, "+json", 5) == 0;
}

/* False: this route does not take it. */
static bool find_form(struct api_request *req)
{
    const char *type = req->content_type;
    req->form = FORM_JSON;
    if (!type || !*type || is_json_type(type)) return true;
    if (req->route->body != BODY_BATCH) return false;
    if (is_type(type, "application/octet-stream"))
        req->form = FORM_FLOATS;
    else if (is_type(type, "application/x-ndjson"))
        req->form = FORM_LINES;
    else
        return false;
    return true;
}

static bool is_streamed(const struct api_request *req)
{
    return req->route->body == BODY_STREAM || req->form == FORM_LINES;
}

/* False: nobody here can expand it. */
static bool find_encoding(struct api_request *req)
{
    static const struct {
        const char *name;
        enum api_encoding encoding;
    } known[] = {
        {"", ENCODING_IDENTITY},   {"identity", ENCODING_IDENTITY}, {"gzip", ENCODING_GZIP},
        {"x-gzip", ENCODING_GZIP}, {"zstd", ENCODING_ZSTD},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (req->content_encoding && strcasecmp(req->content_encoding, known[i].name) != 0)
            continue;
        req->encoding = known[i].encoding;
        return true;
    }
    return false;
}

static enum err_code check_body(const struct api_app *app, struct api_request *req,
                                struct api_response *res, struct err *err)
{
    bool form_is_known = find_form(req);
    bool has_body = req->chunked || (req->has_content_length && req->content_length > 0);
    if (!has_body) return ERR_OK;
    if (req->route->body == BODY_EMPTY)
        return err_set(err, ERR_INVALID_REQUEST, "%.16s %.100s takes no body", req->method,
                       req->route->pattern);
    if (!find_encoding(req)) {
        add_header(res, "Accept-Encoding", "gzip, zstd");
        return err_set(err, ERR_UNSUPPORTED_MEDIA_TYPE,
                       "Content-Encoding %.40s is not supported; a body may be sent as gzip, as "
                       "zstd, or as it is (identity)",
                       req->content_encoding);
    }
    if (!form_is_known)
        return err_set(
            err, ERR_UNSUPPORTED_MEDIA_TYPE,
            "Content-Type %.80s is not supported here; send application/json%s", req->content_type,
            req->route->body == BODY_BATCH ? ", application/x-ndjson or application/octet-stream"
                                           : "");
    if (!is_streamed(req) && req->content_length > app->options.max_body_bytes)
        return err_set(err, ERR_PAYLOAD_TOO_LARGE,
                       "the body has %" PRIu64 " bytes; server.max_body_bytes is %" PRIu64,
                       req->content_length, app->options.max_body_bytes);
    return ERR_OK;
}

static enum api_next finish(struct api_app *app, struct api_request *req, struct api_response *res)
{
    if (res->body.failed) {
        struct err err;
        err_set(&err, ERR_NOMEM, "out of memory for the answer");
        buf_free(&res->body);
        api_fail(req, res, &err);
    }
    if (app->draining) res->close = true;
    return API_DONE;
}

/* A condition that nobody tests must not look as if it had been met. */
static enum err_code check_conditions(const struct api_request *req, struct err *err)
{
    if (strcmp(req->method, "GET") == 0 || strcmp(req->method, "HEAD") == 0) return ERR_OK;
    const char *header = req->if_match          ? "If-Match"
                         : req->idempotency_key ? "Idempotency-Key"
                                                : NULL;
    if (!header) return ERR_OK;
    return err_set(err, ERR_INVALID_REQUEST, "%s is not supported by this version", header);
}

enum api_next api_begin(struct api_app *app, struct api_request *req, struct api_response *res)
{
    struct err err;
    req->begun_ns = clock_ns();
    make_request_id(req, res);

    bool cors = cors_headers(app, req, res);
    enum err_code rc = router_match(req, res->allow, sizeof res->allow, &err);
    if (rc == ERR_METHOD_NOT_ALLOWED && cors && preflight(req, res, res->allow))
        return finish(app, req, res);
    if (!rc && app->auth && req->route->scope != SCOPE_NONE) {
        const char *db =
            strncmp(req->route->pattern, "/databases/{db}", 15) == 0 ? req->params[0].text : NULL;
        rc = auth_check(app->auth, req->authorization, req->api_key, (int)req->route->scope, db,
                        req->key_name, &res->retry_after_seconds, &err);
        if (rc == ERR_UNAUTHORIZED) add_header(res, "WWW-Authenticate", "Bearer");
    }
    if (!rc) rc = check_conditions(req, &err);
    if (!rc) rc = check_body(app, req, res, &err);
    if (rc) {
        /* A body that is on its way is not worth reading. */
        if (req->chunked || req->content_length > INLINE_BODY_BYTES_MAX) res->close = true;
        api_fail(req, res, &err);
        return finish(app, req, res);
    }
    /* Each piece of a stream is deferred, and of a body that has to be expanded. */
    req->waits = req->route->thread == THREAD_WORKER || is_streamed(req) ||
                 (req->encoding != ENCODING_IDENTITY && req->route->scope >= SCOPE_WRITE);
    return is_streamed(req) ? API_STREAM : API_BODY;
}

enum err_code api_feed(struct api_app *app, struct api_request *req, const char *data, size_t len,
                       struct err *err)
{
    if (req->feed_rc) {
        *err = req->feed_err;
        return req->feed_rc;
    }
    enum err_code rc = req->form == FORM_LINES ? lines_feed(app, req, data, len, err)
                                               : dumps_feed(app, req, data, len, err);
    if (rc) {
        req->feed_rc = rc;
        req->feed_err = *err;
    }
    return rc;
}

enum api_next api_dispatch(struct api_app *app, struct api_request *req, struct api_response *res)
{
    struct err err;
    const struct api_route *route = req->route;
    if (!req->may_block &&
        (route->thread == THREAD_WORKER || req->body_bytes > INLINE_BODY_BYTES_MAX)) {
        /* A long body of a write is parsed for longer than it is written, but searches should not
         * stand in one line with an import. */
        req->waits = route->thread == THREAD_WORKER || route->scope >= SCOPE_WRITE;
        return API_DEFER;
    }

    /* A body of the smallest numbers grows fourfold in memory, its ids and metadata do not. */
    req->arena.bytes_max = ARENA_BYTES_MIN + 8 * req->body_bytes;
    enum err_code rc = route->handler(app, req, res, &err);
    if ((rc == ERR_WOULD_BLOCK || rc == ERR_WOULD_COMPUTE) && !req->may_block) {
        req->waits = rc == ERR_WOULD_BLOCK;
        drop_wait(res);
        drop_stream(req);
        res->body.len = 0;
        res->body.failed = false;
        res->produce = NULL;
        res->etag[0] = res->warning[0] = res->details[0] = 0;
        return API_DEFER;
    }
    if (!rc && req->part) return API_PARTS;
    if (rc) {
        if (is_streamed(req)) res->close = true; /* part of the body may be unread */
        api_fail(req, res, &err);
    }
    if (strcmp(req->method, "HEAD") == 0 && res->produce) {
        res->produce = NULL;
        res->body.len = 0;
    }
    return finish(app, req, res);
}

bool api_part(struct api_request *req)
{
    return req->part(req);
}

void api_join(struct api_app *app, struct api_request *req, struct api_response *res)
{
    struct err err;
    if (req->join(req, res, &err)) api_fail(req, res, &err);
    drop_stream(req);
    finish(app, req, res);
}

/* ---- durability ---- */

static void became_durable(void *ctx, enum err_code rc)
{
    struct api_response *res = ctx;
    res->wait_rc = rc;
    res->wait_done(res->wait_ctx); /* `res` may be gone behind this */
}

bool api_wait(struct api_response *res, struct api_request *req, void (*done)(void *ctx), void *ctx)
{
    if (!res->wait_db) return false;
    if (done) {
        res->wait_done = done;
        res->wait_ctx = ctx;
        res->wait_rc = ERR_OK;
        if (!database_await(res->wait_db, res->wait_lsn, res->wait_durability, became_durable, res))
            return true;
    }
    enum err_code rc = res->wait_rc;
    drop_wait(res);
    if (rc) {
        struct err err;
        err_set(&err, rc,
                "the write could not be made durable: its log cannot be synced; the database is "
                "read-only until the server is restarted");
        api_fail(req, res, &err);
    }
    return false;
}

/* Who did what that needs the greatest rights, done or failed.  Not what was refused for want of a
 * key: anybody could fill the log. */
static void audit(const struct api_request *req, const struct api_response *res)
{
    bool has_key = req->key_name[0];

    if (!req->route || req->route->scope != SCOPE_ADMIN) return;
    if (res->status == 401 || res->status == 429) return;
    log_info("audit: %.16s %.300s%s%s %d, %s%s, from %s [request %s]", req->method, req->path,
             req->subject ? " database " : "", req->subject ? req->subject : "", res->status,
             has_key ? "key " : "no key", req->key_name, req->peer ? req->peer : "?",
             res->request_id);
}

void api_end(struct api_app *app, struct api_request *req, struct api_response *res, bool sent)
{
    (void)app;
    uint64_t ns = req->begun_ns ? clock_ns() - req->begun_ns : 0;
    metrics_note_request(req->route, req->method ? req->method : "", res->status, ns);
    log_debug("%.16s %.300s %d %zu bytes %.3f ms%s [request %s]", req->method ? req->method : "?",
              req->path ? req->path : "?", res->status, res->body.len, (double)ns * 1e-6,
              sent ? "" : ", client gone", res->request_id);
    audit(req, res);
    drop_wait(res);
    drop_stream(req);
    buf_free(&res->body);
    arena_free(&req->arena);
}

/* ---- helpers of handlers ---- */

struct buf *answer_json(struct api_response *res, int status)
{
    res->status = status;
    res->content_type = JSON_TYPE;
    return &res->body;
}

void body_scan(struct api_request *req, struct json_scan *s)
{
    json_scan_init(s, req->body_bytes ? req->body : "", req->body_bytes, &req->arena);
}

enum err_code body_none(struct api_request *req, struct err *err)
{
    struct json_scan s;
    struct json_text key;
    bool more;
    enum err_code rc = query_none(req, err);
    if (rc) return rc;
    body_scan(req, &s);
    if (!json_scan_peek(&s)) return json_scan_end(&s, err);
    rc = json_scan_object(&s, err);
    if (!rc) rc = json_scan_member(&s, &key, &more, err);
    if (rc) return rc;
    if (more)
        return err_set(err, ERR_INVALID_REQUEST, "the request has an unknown field \"%.*s\"",
                       (int)utf8_cut(key.data, key.len < 64 ? key.len : 64), key.data);
    return json_scan_end(&s, err);
}

enum err_code query_durability(struct query *q, const struct database *db, enum durability *out,
                               struct err *err)
{
    size_t len;
    const char *text = query_text(q, "durability", &len);
    *out = database_schema(db)->durability;
    if (!text || durability_parse(text, len, out)) return ERR_OK;
    return err_set(err, ERR_INVALID_REQUEST, "?durability= must be synced or periodic");
}

void answer_waits(struct api_response *res, struct database *db, uint64_t lsn,
                  enum durability durability)
{
    service_retain(db);
    res->wait_db = db;
    res->wait_lsn = lsn;
    res->wait_durability = durability;
}

void put_vector_id(struct buf *out, const struct vector_id *id)
{
    if (id->text)
        json_put_string(out, id->text, id->text_bytes);
    else
        json_put_u64(out, id->number);
}

void put_row_values(struct buf *out, const struct row *row, const struct row_format *format)
{
    if (format->include & INCLUDE_DATA) {
        if (format->base64) {
            buf_str(out, ",\"data_base64\":\"");
            base64_write(out, row->vector, format->dimension * sizeof(float));
            buf_str(out, "\"");
        } else {
            buf_str(out, ",\"data\":");
            json_put_floats(out, row->vector, format->dimension);
        }
    }
    if (format->include & INCLUDE_METADATA) {
        buf_str(out, ",\"metadata\":");
        if (row->metadata_bytes)
            buf_add(out, row->metadata, row->metadata_bytes);
        else
            buf_str(out, "{}");
    }
}

enum err_code query_include(struct query *q, unsigned fallback, unsigned *include, struct err *err)
{
    const char *p = query_text(q, "include", NULL);
    *include = fallback;
    if (!p) return ERR_OK;
    *include = 0;
    while (*p) {
        size_t len = strcspn(p, ",");
        struct json_text word = {p, len};
        if (json_text_is(&word, "data"))
            *include |= INCLUDE_DATA;
        else if (json_text_is(&word, "metadata"))
            *include |= INCLUDE_METADATA;
        else
            return err_set(err, ERR_INVALID_REQUEST,
                           "?include= is a list of \"data\" and \"metadata\"");
        p += len + (p[len] == ',');
    }
    return ERR_OK;
}

void put_cursor(struct buf *out, const char *text, size_t len)
{
    buf_str(out, "\"");
    base64url_write(out, text, len);
    buf_str(out, "\"");
}

enum err_code cursor_read(struct arena *arena, const char *cursor, size_t given, const char **text,
                          size_t *len, struct err *err)
{
    *text = NULL;
    *len = 0;
    if (!cursor || !given) return ERR_OK;
    char *out = given <= 4096 ? arena_alloc(arena, base64_bytes_max(given) + 1) : NULL;
    if (!out || !base64_read(cursor, given, out, len) || memchr(out, 0, *len))
        return err_set(err, ERR_INVALID_REQUEST,
                       "the cursor is not one that this server gave out in \"next\"");
    out[*len] = 0;
    *text = out;
    return ERR_OK;
}

enum err_code query_cursor(struct api_request *req, struct query *q, const char **text, size_t *len,
                           struct err *err)
{
    size_t given = 0;
    const char *cursor = query_text(q, "cursor", &given);
    return cursor_read(&req->arena, cursor, given, text, len, err);
}

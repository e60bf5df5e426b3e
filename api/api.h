/*
 * api.h - a request and its answer as plain structs: no sockets, no libmicrohttpd.
 *
 * server/exchange.c turns each HTTP request into the calls below; tests make the same calls without
 * a server.  The life of a request:
 *
 *   api_begin()     headers are known.  Finds the route, checks access, media type and length.
 *                   API_DONE: the answer is in *res already, the body is not to be read.
 *                   API_BODY: read the whole body into req->body, then api_dispatch().
 *                   API_STREAM: give each piece of the body to api_feed(), then api_dispatch().
 *                   The body of both is to be expanded first if it is compressed (req->encoding).
 *   api_feed()      blocks: worker threads only.  On failure stop reading; api_dispatch() answers.
 *   api_dispatch()  runs the handler.  With req->may_block false it may return API_DEFER: nothing
 *                   was done, call it again from a worker with may_block true.
 *                   API_PARTS: what is left to do can be done side by side.  Call api_part() on
 *                   any number of workers until it has returned false on each, then api_join().
 *   api_wait()      the answer must not leave before its write is durable.
 *   res->produce    the body is made piece by piece (worker threads only).
 *   api_end()       after the answer has gone out, or when the client has.
 *
 * A request and its response belong to one thread at a time, but for api_part().
 */
#ifndef API_API_H
#define API_API_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "api/auth.h"
#include "storage/base/arena.h"
#include "storage/base/buf.h"
#include "storage/service.h"

struct api_route; /* api/router.c */
struct api_response;

struct api_options {
    uint64_t max_body_bytes;   /* of a buffered body, as it was sent and expanded */
    const char *api_keys_file; /* NULL: no keys, everybody is admin */
    const char *cors_origins;
    uint32_t slow_query_ms;
    const char *export_path;
    uint64_t rate_limit_per_key; /* requests/s, 0: none */
    /* Of a new database that does not say; 0 rows: 10000. */
    uint64_t initial_capacity;
    enum durability durability;
};

/* What handlers need to know of the process; read-only for them. */
struct api_app {
    struct service *service;
    struct api_options options;
    uint64_t started_ns;   /* clock_ns() at start                       */
    _Atomic int ready;     /* /ready answers 200                        */
    _Atomic int draining;  /* every answer says Connection: close       */
    struct api_auth *auth; /* NULL without keys                         */
    /* Gauges that the server owns; set before the first request. */
    size_t (*connection_count)(void *ctx);
    void *connection_ctx;
};

enum api_next { API_DONE, API_BODY, API_STREAM, API_DEFER, API_PARTS };

/* What a body is made of, by its Content-Type. */
enum api_form {
    FORM_JSON,
    FORM_FLOATS, /* little-endian float32 numbers          */
    FORM_LINES,  /* JSON objects, one a line; always streamed */
};

/* How a body is compressed, by its Content-Encoding. */
enum api_encoding { ENCODING_IDENTITY, ENCODING_GZIP, ENCODING_ZSTD };

enum { API_PARAMS_MAX = 4, API_HEADERS_MAX = 8 };

struct api_header {
    const char *name;  /* static text                     */
    const char *value; /* static, or lives until api_end() */
};

struct api_request {
    /* Set by the server before api_begin(); borrowed until api_end(). */
    const char *method;       /* "GET" */
    const char *path;         /* raw, percent-encoded, without the query; decoded after routing */
    const char *query;        /* raw text behind '?', or NULL          */
    const char *content_type; /* header values, or NULL                */
    const char *content_encoding;
    const char *authorization;
    const char *api_key;    /* X-API-Key    */
    const char *request_id; /* X-Request-Id of the client, or NULL */
    const char *accept;
    const char *origin;
    const char *if_match; /* conditions and idempotency: refused until they are kept */
    const char *idempotency_key;
    const char *peer; /* address of the client, or NULL; for the log */
    bool has_content_length;
    uint64_t content_length;
    bool chunked; /* Transfer-Encoding: chunked */

    bool may_block; /* this thread may wait; set before each call */
    bool waits;     /* set by api/ with API_STREAM and API_DEFER: it may wait for a disk or a lock,
                       not for the CPU alone: see work.waits of server/workers.h */

    /* The whole body, for API_BODY: `body_bytes` bytes followed by at least 64 readable zero
     * bytes, aligned as malloc() does.  Owned by the server. */
    char *body;
    size_t body_bytes;

    /* Owned by api/. */
    struct arena arena; /* dropped by api_end() */
    const struct api_route *route;
    enum api_form form;         /* by api_begin() */
    enum api_encoding encoding; /* by api_begin(); body_bytes, body and what api_feed() gets are
                                   expanded */
    struct {
        char *text; /* decoded, NUL-terminated, in the arena */
        size_t len;
    } params[API_PARAMS_MAX];
    void *stream; /* state of a streamed body, of a streamed answer or of parts */
    void (*stream_free)(void *stream);
    /* API_PARTS; part() is called by several threads at once. */
    bool (*part)(struct api_request *req);
    enum err_code (*join)(struct api_request *req, struct api_response *res, struct err *err);
    size_t part_count;     /* as many threads can be of use */
    enum err_code feed_rc; /* first failure of api_feed() */
    struct err feed_err;
    uint64_t begun_ns;
    char key_name[AUTH_NAME_BYTES]; /* whose API key it is, or ""                          */
    const char *subject;            /* database named in the body instead of the path, or NULL */
};

struct api_response {
    int status;
    const char *content_type; /* static text */
    struct buf body;
    char request_id[65];
    char allow[96];                             /* value of Allow, or "" */
    char warning[128];                          /* value of Warning, or "" */
    char etag[32];                              /* value of ETag, or "" */
    uint32_t retry_after_seconds;               /* 0: none */
    bool close;                                 /* Connection: close behind it */
    struct api_header headers[API_HEADERS_MAX]; /* further headers (CORS, WWW-Authenticate) */
    size_t header_count;
    char details[160]; /* JSON object text for "details" of an error, or "" */

    /* Not NULL: `body` is the first piece; call produce() on a worker for each next one, which
     * appends to *out; *done says that this was the last.  An error ends the connection: a client
     * must not take half an answer for a whole. */
    enum err_code (*produce)(struct api_request *req, struct buf *out, bool *done, struct err *err);

    /* A write that must be durable first (api_wait()). */
    struct database *wait_db; /* acquired once more */
    uint64_t wait_lsn;
    enum durability wait_durability;
    /* Private to api_wait(). */
    void (*wait_done)(void *ctx);
    void *wait_ctx;
    enum err_code wait_rc;
};

/* Tear everything down with api_app_deinit(). */
MUST_CHECK enum err_code api_app_init(struct api_app *app, struct service *service,
                                      const struct api_options *options, struct err *err);
/* Read the keys file again (SIGHUP); the old keys stay on failure. */
MUST_CHECK enum err_code api_app_reload(struct api_app *app, struct err *err);
void api_app_deinit(struct api_app *app);

/* `req` zeroed but for the fields named above, `res` zeroed. */
enum api_next api_begin(struct api_app *app, struct api_request *req, struct api_response *res);
MUST_CHECK enum err_code api_feed(struct api_app *app, struct api_request *req, const char *data,
                                  size_t len, struct err *err);
enum api_next api_dispatch(struct api_app *app, struct api_request *req, struct api_response *res);

/* Do one part; false: there was none left.  Workers only, on any number of threads at once. */
bool api_part(struct api_request *req);
/* Every api_part() has returned: the answer is in *res. */
void api_join(struct api_app *app, struct api_request *req, struct api_response *res);

/* False: nothing to wait for (any more).  True: done(ctx) will be called once, on some other
 * thread, possibly before this returns; then call api_wait() again with done NULL, which turns the
 * answer into an error if the write could not be made durable, and returns false. */
bool api_wait(struct api_response *res, struct api_request *req, void (*done)(void *ctx),
              void *ctx);

/* Fill *res with the error body {"error":{"code","message","request_id"}}: any answer under way is
 * dropped. */
void api_fail(struct api_request *req, struct api_response *res, const struct err *err);
/* For errors that the server itself finds (a bad request line, a body that is too long). */
void api_fail_code(struct api_request *req, struct api_response *res, enum err_code code,
                   const char *message);

/* Free both and note metrics and the access log line.  `sent` false: the client went away. */
void api_end(struct api_app *app, struct api_request *req, struct api_response *res, bool sent);

#endif

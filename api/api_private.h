/*
 * api_private.h - what the files of api/ share: routes, queries, helpers of handlers.
 *
 * A handler returns ERR_OK with *res filled, or an error.  ERR_WOULD_BLOCK and ERR_WOULD_COMPUTE
 * (it must not have changed anything) mean: once more on a thread that may wait, or has the time.
 */
#ifndef API_API_PRIVATE_H
#define API_API_PRIVATE_H

#include "api/api.h"
#include "api/json.h"
#include "api/json_scan.h"
#include "storage/base/metrics.h"

typedef enum err_code api_handler_fn(struct api_app *app, struct api_request *req,
                                     struct api_response *res, struct err *err);

enum api_base { BASE_V1, BASE_ROOT };
enum api_scope { SCOPE_NONE, SCOPE_READ, SCOPE_WRITE, SCOPE_ADMIN };
enum api_body_kind { BODY_EMPTY, BODY_JSON, BODY_BATCH, BODY_STREAM };
enum api_thread { THREAD_INLINE, THREAD_WORKER };

struct api_route {
    const char *method;
    enum api_base base;
    const char *pattern;
    api_handler_fn *handler;
    enum api_scope scope;
    enum api_body_kind body;
    enum api_thread thread;
    int status;
    const char *summary;
};

enum {
#define ROUTE(...) +1
    ROUTE_COUNT = 0
#include "api/routes.def"
};
extern const struct api_route api_routes[ROUTE_COUNT];

#define ROUTE(method, base, pattern, handler, ...) api_handler_fn handler;
#include "api/routes.def"

/* ---- router.c ---- */

/* Find req->route and fill req->params.  ERR_NOT_FOUND, ERR_METHOD_NOT_ALLOWED (`allow` filled),
 * ERR_INVALID_REQUEST, ERR_INVALID_NAME or ERR_INVALID_ID for text that is not percent-encoded
 * UTF-8. */
MUST_CHECK enum err_code router_match(struct api_request *req, char *allow, size_t allow_cap,
                                      struct err *err);

enum { QUERY_MAX = 16 };
struct query {
    struct {
        const char *name, *value; /* decoded, NUL-terminated, in the arena */
        size_t value_len;
        bool used;
    } items[QUERY_MAX];
    int count;
};
MUST_CHECK enum err_code query_parse(struct api_request *req, struct query *q, struct err *err);
const char *query_text(struct query *q, const char *name, size_t *len); /* NULL: not there */
MUST_CHECK enum err_code query_u64(struct query *q, const char *name, uint64_t min, uint64_t max,
                                   uint64_t *out, struct err *err);
/* ERR_INVALID_REQUEST for a parameter that nobody asked for. */
MUST_CHECK enum err_code query_done(const struct query *q, struct err *err);
/* For handlers without parameters. */
MUST_CHECK enum err_code query_none(struct api_request *req, struct err *err);

/* ---- http_status.c ---- */

int http_status(enum err_code code);

/* ---- openapi.c ---- */

extern const char openapi_json[];
extern const char openapi_json_end[];

/* ---- metrics_text.c ---- */

extern struct histogram metrics_search[SEARCH_STRATEGY_COUNT];
/* `route` may be NULL (no such route). */
void metrics_note_request(const struct api_route *route, const char *method, int status,
                          uint64_t ns);
void metrics_write(struct api_app *app, struct buf *out);
uint64_t process_rss_bytes(void);

/* ---- helpers ---- */

extern const char JSON_TYPE[]; /* "application/json" */

/* Start a JSON answer. */
struct buf *answer_json(struct api_response *res, int status);
/* A scanner over the body; an empty one is "". */
void body_scan(struct api_request *req, struct json_scan *s);
/* Body {} or nothing, and no query. */
MUST_CHECK enum err_code body_none(struct api_request *req, struct err *err);
/* ?durability= of a write, or the database's own. */
MUST_CHECK enum err_code query_durability(struct query *q, const struct database *db,
                                          enum durability *out, struct err *err);
/* The answer waits until `lsn` is durable. */
void answer_waits(struct api_response *res, struct database *db, uint64_t lsn,
                  enum durability durability);
/* "id as JSON": a number or a string. */
void put_vector_id(struct buf *out, const struct vector_id *id);

/* What a row's answer shows behind its id. */
struct row_format {
    unsigned include;
    size_t dimension;
    bool base64;
};
/* ,"data":[...],"metadata":{...} */
void put_row_values(struct buf *out, const struct row *row, const struct row_format *format);

/* {"vector_id":..., the same, "version":...} */
void put_row(struct buf *out, const struct row *row, const struct row_format *format);
/* Of GET requests for rows: ?encoding= and ?include=. */
MUST_CHECK enum err_code query_format(struct query *q, const struct database *db,
                                      struct row_format *format, struct err *err);
/* Roughly what `rows` rows take as text. */
uint64_t rows_text_bytes(const struct database *db, unsigned include, uint64_t rows);
enum { INLINE_TEXT_BYTES_MAX = 64 * 1024 }; /* to be printed on a loop thread: about 100 us */

/* ?include= as a bit set of INCLUDE_*. */
MUST_CHECK enum err_code query_include(struct query *q, unsigned fallback, unsigned *include,
                                       struct err *err);

/* Cursors are opaque to clients: the last id or name, in base64url. */
void put_cursor(struct buf *out, const char *text, size_t len);
MUST_CHECK enum err_code query_cursor(struct api_request *req, struct query *q, const char **text,
                                      size_t *len, struct err *err);
/* The same from anywhere: `given` bytes at `cursor`; none: *text is NULL. */
MUST_CHECK enum err_code cursor_read(struct arena *arena, const char *cursor, size_t given,
                                     const char **text, size_t *len, struct err *err);

/* handlers_databases.c; also for dumps: dimension and metric (with its aliases) from an object.
 * `options` is the canonical JSON text of what storage does not read itself, in malloc'ed memory
 * (mem_free()), or NULL. */
MUST_CHECK enum err_code schema_from_json(const struct api_app *app, const json_t *object,
                                          struct schema *schema, struct err *err);
/* ,"index":{...},"quantization":"...",... as they were given, without what says no more than the
 * default. */
void put_schema_options(struct buf *out, const struct schema *schema);

/* handlers_batch_lines.c: a batch as NDJSON, piece by piece, and its answer. */
MUST_CHECK enum err_code lines_feed(struct api_app *app, struct api_request *req, const char *data,
                                    size_t len, struct err *err);
MUST_CHECK enum err_code lines_answer(struct api_app *app, struct api_request *req,
                                      struct api_response *res, struct err *err);
/* The LSN of the last write that a reader would see. */
uint64_t database_lsn_now(struct database *db);

/* handlers_dumps.c */
MUST_CHECK enum err_code dumps_feed(struct api_app *app, struct api_request *req, const char *data,
                                    size_t len, struct err *err);

#endif

/*
 * exchange.c - the life of one request, between libmicrohttpd, the API and the workers.
 *
 * PARTS.  A request whose work can be done side by side (API_PARTS) is led by one worker and helped
 * by workers that have nothing to do.  Each works for SLICE_NS at a time; then, if other requests
 * wait, the helpers go, and the leader stands in line again.  So a long batch has all cores while
 * it is alone, and its turn among the others while it is not.  Whoever leaves last makes the
 * answer.
 */
#include <assert.h>
#include <string.h>
#include <strings.h>

#include "server/answer_encoder.h"
#include "server/http_private.h"
#include "storage/base/clock.h"
#include "storage/base/mem.h"
#include "storage/base/metrics.h"

enum {
    URI_BYTES_MAX = 8 * 1024,
    LINE_BYTES_MAX = 64 * 1024,           /* more than libmicrohttpd has for all headers */
    DISCARD_BYTES_MAX = 16 * 1024 * 1024, /* behind a body that was too long, before we hang up */
    PARTS_MAX = 16,                       /* workers on one request */
};
#define SLICE_NS (2 * MS)

/* ---- exchanges ---- */

static void exchange_free(struct exchange *x, bool sent)
{
    if (x->api_knows) api_end(x->loop->http->app, &x->req, &x->res, sent);
    buf_free(&x->out);
    buf_free(&x->plain);
    answer_encoder_free(x->encoder);
    exchange_drop_body(x);
    mem_free(x->parts);
    mem_free(x);
}

void exchange_fail(struct exchange *x, enum err_code code, const char *message)
{
    x->api_knows = true;
    api_fail_code(&x->req, &x->res, code, message);
    if (code == ERR_OVERLOADED || code == ERR_SHUTTING_DOWN) {
        stat_add(STAT_REJECTED_REQUESTS, 1);
        if (x->res.retry_after_seconds == 0) x->res.retry_after_seconds = 1;
    }
}

static bool is_out_of_time(const struct exchange *x)
{
    return atomic_load_explicit(&x->loop->http->out_of_time, memory_order_relaxed);
}

/* The workers' queue is full, or closed. */
static void exchange_fail_full(struct exchange *x)
{
    if (x->loop->draining)
        exchange_fail(x, ERR_SHUTTING_DOWN, "the server is stopping");
    else
        exchange_fail(x, ERR_OVERLOADED, "too many requests are waiting");
}

static struct connection *exchange_connection(const struct exchange *x)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(x->mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return info ? info->socket_context : NULL;
}

void exchange_expect(struct exchange *x, uint64_t ns)
{
    struct connection *c = exchange_connection(x);

    if (c) c->deadline_ns = ns == 0 ? 0 : clock_ns() + ns;
}

static void exchange_suspend(struct exchange *x)
{
    MHD_suspend_connection(x->mhd);
    x->loop->suspended_count++;
}

/* On the syncer thread that found the write durable, or not. */
static void exchange_durable(void *ctx)
{
    loop_push_done(ctx);
}

/* ---- parts of one request ---- */

static void exchange_leave(struct exchange *x)
{
    if (atomic_fetch_sub_explicit(&x->parts_busy, 1, memory_order_acq_rel) > 1) return;
    x->out_of_time = is_out_of_time(x);
    if (!x->out_of_time) api_join(x->loop->http->app, &x->req, &x->res);
    loop_push_done(x);
}

/* Let workers that have nothing to do help. */
static void exchange_spread(struct exchange *x)
{
    struct workers *workers = x->loop->http->workers;
    long slack = x->part_count > 1 ? workers_slack(workers) : 0;

    for (size_t i = 1; i < x->part_count && slack > 0; i++) {
        struct part *p = &x->parts[i];
        if (atomic_load_explicit(&p->busy, memory_order_acquire)) continue;
        atomic_store_explicit(&p->busy, true, memory_order_relaxed);
        atomic_fetch_add_explicit(&x->parts_busy, 1, memory_order_relaxed);
        slack--;
        if (workers_submit(workers, &p->work)) continue;
        atomic_store_explicit(&p->busy, false, memory_order_relaxed);
        atomic_fetch_sub_explicit(&x->parts_busy, 1, memory_order_relaxed);
        return;
    }
}

/* False: nothing is left. */
static bool exchange_slice(struct exchange *x)
{
    uint64_t end = clock_ns() + SLICE_NS;

    do
        if (is_out_of_time(x) || !api_part(&x->req)) return false;
    while (clock_ns() < end);
    return true;
}

static void part_lead(void *ctx)
{
    struct part *p = ctx;
    struct exchange *x = p->exchange;
    struct workers *workers = x->loop->http->workers;

    for (;;) {
        exchange_spread(x);
        if (!exchange_slice(x)) break;
        if (workers_slack(workers) < 0 && workers_submit(workers, &p->work)) return;
    }
    exchange_leave(x);
}

static void part_help(void *ctx)
{
    struct part *p = ctx;
    struct exchange *x = p->exchange;

    while (exchange_slice(x) && workers_slack(x->loop->http->workers) >= 0)
        continue;
    atomic_store_explicit(&p->busy, false, memory_order_release);
    exchange_leave(x);
}

/* False: no room, and *res says so.  True: it comes back over `done`. */
static bool exchange_parts(struct exchange *x)
{
    x->part_count = x->req.part_count < PARTS_MAX ? x->req.part_count : PARTS_MAX;
    x->parts = mem_zalloc(x->part_count * sizeof *x->parts);
    for (size_t i = 0; i < x->part_count; i++) {
        x->parts[i].exchange = x;
        x->parts[i].work.fn = i == 0 ? part_lead : part_help;
        x->parts[i].work.ctx = &x->parts[i];
    }
    x->job = JOB_PARTS;
    atomic_store_explicit(&x->parts_busy, 1, memory_order_relaxed);
    bool computes = x->req.may_block && !x->work.waits; /* this thread is one to compute on */
    if (!computes && workers_submit(x->loop->http->workers, &x->parts[0].work)) return true;
    if (!x->req.may_block) {
        exchange_fail_full(x);
        return false;
    }
    part_lead(&x->parts[0]);
    return true;
}

/* On a worker, or in the loop with req.may_block false.  False: API_DEFER.  *waiting: the exchange
 * comes back over `done` by itself and must not be touched any more. */
static bool exchange_dispatch(struct exchange *x, bool *waiting)
{
    *waiting = false;
    enum api_next next = api_dispatch(x->loop->http->app, &x->req, &x->res);
    if (next == API_DEFER) return false;
    if (next == API_PARTS) {
        *waiting = exchange_parts(x);
        return true;
    }
    if (!x->res.wait_db) return true;
    x->job = JOB_AWAIT;
    *waiting = api_wait(&x->res, &x->req, exchange_durable, x);
    if (!*waiting) x->job = JOB_DISPATCH;
    return true;
}

/* On a worker. */
static void exchange_work(void *ctx)
{
    struct exchange *x = ctx;
    bool waiting = false;

    x->out_of_time = is_out_of_time(x);
    x->req.may_block = true;
    if (!x->out_of_time) {
        switch (x->job) {
        case JOB_FEED:
            exchange_feed(x);
            break;
        case JOB_DISPATCH:
            if (x->is_stream) {
                exchange_feed(x);
                exchange_end_body(x);
            }
            if (!exchange_dispatch(x, &waiting))
                exchange_fail(x, ERR_INTERNAL, "a handler would not run on a worker");
            break;
        case JOB_PACK:
            exchange_pack(x);
            break;
        case JOB_PRODUCE:
            do
                exchange_produce(x); /* an empty piece is not worth a round through the loop */
            while (x->out_rc == ERR_OK && !x->out_last && x->out.len == 0);
            break;
        case JOB_PARTS:
        case JOB_AWAIT:
            break;
        }
    }
    if (!waiting) loop_push_done(x);
}

bool exchange_submit(struct exchange *x, enum exchange_job job)
{
    if (x->loop->draining && is_out_of_time(x)) return false;
    x->job = job;
    x->work.fn = exchange_work;
    x->work.ctx = x;
    x->work.waits = x->req.waits;
    if (!workers_submit(x->loop->http->workers, &x->work)) return false;
    exchange_suspend(x);
    return true;
}

void exchange_return(struct exchange *x)
{
    switch (x->job) {
    case JOB_FEED:
        x->state = EXCHANGE_STREAM;
        if (x->out_of_time) x->req.feed_rc = ERR_SHUTTING_DOWN;
        if (x->req.feed_rc) x->state = EXCHANGE_DISCARD;
        if (x->is_stream)
            exchange_expect(x, x->loop->http->timeout_ns); /* each piece has its own deadline */
        else if (x->req.feed_rc)
            exchange_fail_body(x);
        break;
    case JOB_DISPATCH:
    case JOB_PARTS:
    case JOB_AWAIT:
        x->state = EXCHANGE_ANSWER;
        if (x->out_of_time) {
            exchange_fail(x, ERR_SHUTTING_DOWN, "the server is stopping");
        } else if (x->job == JOB_AWAIT) {
            bool again = api_wait(&x->res, &x->req, NULL, NULL);
            assert(!again);
        }
        break;
    case JOB_PACK:
        x->state = EXCHANGE_ANSWER;
        break;
    case JOB_PRODUCE:
        if (x->out_of_time) x->out_rc = ERR_SHUTTING_DOWN;
        x->state = EXCHANGE_SENT;
        break;
    }
    x->loop->suspended_count--;
    MHD_resume_connection(x->mhd);
}

/* ---- requests ---- */

struct header_walk {
    struct api_request *req;
    const char **accept_encoding;
    const char *content_length;
    unsigned content_lengths, content_encodings, transfer_encodings, hosts;
    bool bad_name;
};

/* A token of RFC 9110.  "Content-Length : 2" is a header that we would not see and a proxy would.
 */
static bool header_name_is_good(const char *name)
{
    static const char others[] = "!#$%&'*+-.^_`|~0123456789";

    if (!*name) return false;
    for (; *name; name++) {
        char letter = (char)(*name | 0x20);
        if ((letter < 'a' || letter > 'z') && !strchr(others, *name)) return false;
    }
    return true;
}

static enum MHD_Result header_visit(void *cls, enum MHD_ValueKind kind, const char *key,
                                    const char *value)
{
    struct header_walk *w = cls;
    struct api_request *req = w->req;
    const struct {
        const char *key;
        const char **value;
    } wanted[] = {
        {"Content-Type", &req->content_type},
        {"Content-Encoding", &req->content_encoding},
        {"Authorization", &req->authorization},
        {"X-API-Key", &req->api_key},
        {"X-Request-Id", &req->request_id},
        {"Accept", &req->accept},
        {"Accept-Encoding", w->accept_encoding},
        {"Origin", &req->origin},
        {"If-Match", &req->if_match},
        {"Idempotency-Key", &req->idempotency_key},
    };

    (void)kind;
    if (!header_name_is_good(key)) w->bad_name = true;
    if (strcasecmp(key, "Content-Length") == 0) {
        w->content_lengths++;
        w->content_length = value;
        return MHD_YES;
    }
    if (strcasecmp(key, "Transfer-Encoding") == 0) {
        w->transfer_encodings++;
        req->chunked = value && strcasecmp(value, "chunked") == 0;
        return MHD_YES;
    }
    if (strcasecmp(key, "Host") == 0) {
        w->hosts++;
        return MHD_YES;
    }
    if (strcasecmp(key, "Content-Encoding") == 0) w->content_encodings++;
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        if (strcasecmp(key, wanted[i].key) != 0) continue;
        if (!*wanted[i].value) *wanted[i].value = value; /* the first counts */
        break;
    }
    return MHD_YES;
}

/* Digits and nothing else: "+1", " 1" and "1, 1" are how requests get smuggled. */
static bool content_length_parse(const char *text, uint64_t *out)
{
    uint64_t n = 0;

    if (!text || !*text) return false;
    for (; *text; text++) {
        if (*text < '0' || *text > '9' || n > (UINT64_MAX - 9) / 10) return false;
        n = n * 10 + (uint64_t)(*text - '0');
    }
    *out = n;
    return true;
}

/* NULL, or what makes it impossible to say where this request ends. */
static const char *exchange_headers(struct exchange *x)
{
    struct header_walk walk = {.req = &x->req, .accept_encoding = &x->accept_encoding};

    MHD_get_connection_values(x->mhd, MHD_HEADER_KIND, header_visit, &walk);
    if (walk.bad_name) return "a header name with a character that cannot be in one";
    if (walk.content_lengths > 1) return "more than one Content-Length";
    if (walk.content_lengths > 0 && walk.transfer_encodings > 0)
        return "Content-Length together with Transfer-Encoding";
    if (walk.transfer_encodings > 1 || (walk.transfer_encodings == 1 && !x->req.chunked))
        return "Transfer-Encoding other than \"chunked\"";
    if (walk.hosts > 1) return "more than one Host";
    if (walk.content_encodings > 1) return "more than one Content-Encoding";
    if (walk.content_lengths == 1) {
        if (!content_length_parse(walk.content_length, &x->req.content_length))
            return "Content-Length is not a number";
        x->req.has_content_length = true;
    }
    return NULL;
}

/* Is there more between the end of `text`, as far as C can see it, and `next` than the space that
 * libmicrohttpd has made a zero byte?  Somewhere else altogether tells nothing. */
static bool hides_something(const char *text, size_t bytes, const char *next)
{
    uintptr_t end = (uintptr_t)text + bytes, at = (uintptr_t)next;
    return at > end + 1 && at - end < LINE_BYTES_MAX;
}

/* NULL, or why this is not the line of a request.  libmicrohttpd hands its words over as C strings:
 * "DELETE /docs\0-old" would be one for "/docs". */
static const char *exchange_line(const struct exchange *x, const char *version)
{
    const char *method = x->req.method;

    if (hides_something(method, strlen(method), x->sent_uri) ||
        hides_something(x->sent_uri, x->sent_uri_bytes, version))
        return "a zero byte, or more than one space in a row, in the request line";
    if (x->uri_is_raw)
        return "a space or a control character in the URI that is not percent-encoded";
    return NULL;
}

/* The answer is known before the body.  With a body on its way the connection ends behind it. */
static enum MHD_Result exchange_refuse(struct exchange *x)
{
    bool body = x->req.chunked || x->req.content_length > 0;

    if (body || x->res.close) {
        x->res.close = true;
        return exchange_answer(x);
    }
    x->state = EXCHANGE_ANSWER; /* in the next call, as libmicrohttpd likes it for keep-alive */
    return MHD_YES;
}

/* Headers are complete. */
static enum MHD_Result exchange_begin(struct exchange *x, const char *version)
{
    const char *headers_wrong = exchange_headers(x); /* always: they say whether there is a body */
    const char *wrong = exchange_line(x, version);
    const struct connection *c = exchange_connection(x);

    if (c) x->req.peer = c->peer_text;
    x->loop->request_count++;
    if (!wrong) wrong = headers_wrong;
    if (wrong) {
        exchange_fail(x, ERR_INVALID_REQUEST, wrong);
        x->res.close = true;
        return exchange_refuse(x);
    }
    if (x->uri_too_long) {
        exchange_fail(x, ERR_URI_TOO_LONG, "the URI is longer than 8 KiB");
        x->res.close = true;
        return exchange_refuse(x);
    }
    x->api_knows = true;
    switch (api_begin(x->loop->http->app, &x->req, &x->res)) {
    case API_DONE:
        return exchange_refuse(x);
    case API_STREAM:
        x->is_stream = true;
        break;
    case API_BODY:
    case API_DEFER:
    case API_PARTS:
        break;
    }
    return exchange_make_body(x) ? MHD_YES : exchange_refuse(x);
}

/* The request is complete: answer it here if that is quick. */
static enum MHD_Result exchange_run(struct exchange *x)
{
    bool waiting = false;

    exchange_expect(x, 0);
    x->req.may_block = false;
    if (!x->is_stream) {
        if (x->piece_bytes > 0) { /* the last one; then this function again */
            if (exchange_submit(x, JOB_FEED)) {
                x->state = EXCHANGE_BUSY;
                return MHD_YES;
            }
            exchange_fail_full(x);
            return exchange_answer(x);
        }
        exchange_end_body(x);
        if (x->req.feed_rc) {
            exchange_fail_body(x);
            return exchange_answer(x);
        }
        if (exchange_dispatch(x, &waiting)) {
            if (!waiting) return exchange_answer(x);
            x->state = EXCHANGE_BUSY;
            exchange_suspend(x);
            return MHD_YES;
        }
    }
    if (exchange_submit(x, JOB_DISPATCH)) {
        x->state = EXCHANGE_BUSY;
        return MHD_YES;
    }
    exchange_fail_full(x);
    return exchange_answer(x);
}

/* ---- what libmicrohttpd calls ---- */

static bool uri_is_encoded(const char *uri)
{
    for (; *uri; uri++)
        if ((unsigned char)*uri <= ' ' || *uri == 0x7f) return false;
    return true;
}

void *mhd_uri(void *cls, const char *uri, struct MHD_Connection *mhd)
{
    struct http_loop *l = cls;
    size_t len = strlen(uri);
    bool too_long = len > URI_BYTES_MAX;
    struct exchange *x;

    if (too_long) len = 0;
    x = mem_zalloc(sizeof *x + len + 1);
    memcpy(x->uri, uri, len);
    x->loop = l;
    x->mhd = mhd;
    x->uri_too_long = too_long;
    x->uri_is_raw = !uri_is_encoded(uri);
    x->sent_uri = uri;
    x->sent_uri_bytes = strlen(uri);
    x->req.path = x->uri;
    char *query = strchr(x->uri, '?');
    if (query) {
        *query = '\0';
        x->req.query = query + 1;
    }
    exchange_expect(x, l->http->timeout_ns);
    return x;
}

/* The API decodes the path, after routing, from the text that mhd_uri() got: nobody looks at what
 * libmicrohttpd would make of it. */
size_t mhd_unescape(void *cls, struct MHD_Connection *mhd, char *text)
{
    (void)cls;
    (void)mhd;
    return strlen(text);
}

enum MHD_Result mhd_request(void *cls, struct MHD_Connection *mhd, const char *url,
                            const char *method, const char *version, const char *data,
                            size_t *bytes, void **context)
{
    struct exchange *x = *context;

    (void)cls;
    (void)mhd;
    (void)url;
    if (x->state == EXCHANGE_LINE) {
        x->req.method = method;
        return exchange_begin(x, version);
    }
    if (*bytes > 0) {
        switch (x->state) {
        case EXCHANGE_BODY:
            exchange_take_body(x, data, *bytes);
            *bytes = 0;
            break;
        case EXCHANGE_STREAM:
            exchange_take_piece(x, data, bytes);
            break;
        case EXCHANGE_BUSY:
            /* It comes with the next chunk of its buffer although the connection is suspended;
             * what we do not take now it brings again. */
            break;
        case EXCHANGE_DISCARD:
            x->discarded_bytes += *bytes;
            *bytes = 0;
            /* A streamed body has its deadline alone: its client should get to know how far the
             * import came. */
            if (x->is_stream) break;
            x->res.close = true;
            if (x->discarded_bytes > DISCARD_BYTES_MAX) return MHD_NO;
            break;
        default:
            *bytes = 0;
            break;
        }
        return MHD_YES;
    }
    switch (x->state) {
    case EXCHANGE_BODY:
    case EXCHANGE_STREAM:
        return exchange_run(x);
    case EXCHANGE_DISCARD:
        return x->is_stream ? exchange_run(x) : exchange_answer(x);
    case EXCHANGE_ANSWER:
        return exchange_answer(x);
    default:
        return MHD_YES;
    }
}

void mhd_completed(void *cls, struct MHD_Connection *mhd, void **context,
                   enum MHD_RequestTerminationCode why)
{
    struct http_loop *l = cls;
    struct exchange *x = *context;

    (void)mhd;
    if (!x) return;
    *context = NULL;
    assert(x->state != EXCHANGE_BUSY);
    if (x->state != EXCHANGE_LINE) l->request_count--;
    /* The next request line may take as long as an idle connection lives, and then its time. */
    exchange_expect(x, 2 * l->http->timeout_ns);
    exchange_free(x, why == MHD_REQUEST_TERMINATED_COMPLETED_OK);
}

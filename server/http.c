/*
 * http.c - loops, connections and exchanges.
 *
 *   http ── http_loop (N) ── connection ── exchange: one request and its answer
 *
 * THREADS.  Everything of a loop belongs to its thread: libmicrohttpd, the connections, the
 * exchanges.  Other threads reach it through two stacks and one uv_async:
 *
 *   arrived   connections dealt to it                       (http_take())
 *   done      exchanges that a worker or a syncer is through with
 *
 * libmicrohttpd has no way to wake an external loop, so only the loop itself resumes a connection.
 * An exchange that is handed to a worker (EXCHANGE_BUSY) belongs to that worker until it comes back
 * over `done`; its connection is suspended all that time, and so cannot go away under it.  For the
 * same reason it does not matter whether the worker is done before the loop has suspended: the loop
 * looks at `done` only when it is back in its event loop.
 *
 * PARTS.  A request whose work can be done side by side (API_PARTS) is led by one worker and helped
 * by workers that have nothing to do.  Each works for SLICE_NS at a time; then, if other requests
 * wait, the helpers go, and the leader stands in line again.  So a long batch has all cores while
 * it is alone, and its turn among the others while it is not.  Whoever leaves last makes the
 * answer.
 *
 * THE END.  MHD_stop_daemon() aborts the process if a connection is suspended.  A loop stops only
 * when suspended_count is 0; past the deadline nothing new is handed to a worker, and what a worker
 * has begun is waited for: storage could not be closed under it anyway.
 */
#include "server/http.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <microhttpd.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>
#include <uv.h>

#include "storage/base/clock.h"
#include "storage/base/log.h"
#include "storage/base/mem.h"
#include "storage/base/metrics.h"

enum {
    URI_BYTES_MAX = 8 * 1024,
    /* libmicrohttpd clears this much after every request: beyond 32 KiB it shows. */
    CONNECTION_BYTES = 32 * 1024,
    BODY_PADDING = 64, /* zero bytes behind a body, for parsers that look ahead */
    BODY_FIRST_BYTES = 64 * 1024,
    DISCARD_BYTES_MAX = 16 * 1024 * 1024, /* behind a body that was too long, before we hang up */
    BODIES_MAX = 16,          /* bodies of the greatest length that may be in memory at once */
    PIECE_BYTES = 256 * 1024, /* of a streamed body */
    BLOCK_BYTES = 64 * 1024,  /* of a streamed answer */
    PARTS_MAX = 16,           /* workers on one request */
    RUNS_MAX = 64,            /* of libmicrohttpd before other handles get their turn */
    SWEEP_MS = 500,
    DRAIN_SWEEP_MS = 10,
    DRAIN_GRACE_MS = 100, /* for requests that are on their way when the end comes */
    DRAIN_FLUSH_MS = 300, /* past the deadline, for answers to leave */
};
#define MS        1000000ull
#define SLICE_NS  (2 * MS)
#define LOOP_GONE UINT64_MAX /* pong of a loop that has stopped, as it should */

enum exchange_state {
    EXCHANGE_LINE,    /* the request line has arrived                     */
    EXCHANGE_BODY,    /* collecting the body                              */
    EXCHANGE_STREAM,  /* collecting a piece for api_feed()                */
    EXCHANGE_DISCARD, /* the answer is known, but the body is on its way  */
    EXCHANGE_BUSY,    /* a worker or the log has it; suspended            */
    EXCHANGE_ANSWER,  /* *res is to be sent                               */
    EXCHANGE_SENT,    /* libmicrohttpd has the answer                     */
};

enum exchange_job {
    JOB_FEED,     /* api_feed() the piece                       */
    JOB_DISPATCH, /* api_feed() what is left, api_dispatch()    */
    JOB_PARTS,    /* api_part() until none is left, api_join()  */
    JOB_AWAIT,    /* the write becomes durable                  */
    JOB_PRODUCE,  /* the next piece of a streamed answer        */
};

/* One worker's part in a request. */
struct part {
    struct work work;
    struct exchange *exchange;
    _Atomic bool busy; /* set by the leader, cleared by the helper that goes */
};

struct exchange {
    struct api_request req;
    struct api_response res;
    struct work work;
    struct exchange *next_done; /* while on a `done` stack */
    struct http_loop *loop;
    struct MHD_Connection *mhd;
    enum exchange_state state;
    enum exchange_job job;
    bool api_knows; /* api_begin() or api_fail() was called: api_end() is due */
    bool uri_too_long;
    bool out_of_time; /* past the drain's deadline: the job was not done */
    size_t body_cap;  /* of req.body, without the padding */
    uint64_t discarded_bytes;

    /* API_PARTS */
    struct part *parts; /* [0] is the leader's */
    size_t part_count;
    _Atomic size_t parts_busy; /* who takes it to 0 makes the answer */

    /* a streamed body: the piece being filled, or being fed */
    char *piece;
    size_t piece_bytes;

    /* a streamed answer: res.body, then what produce() made */
    struct buf out;
    size_t out_sent;
    bool out_last;
    enum err_code out_rc;

    char uri[]; /* raw; cut at '?' */
};

/* From http_take() until libmicrohttpd has closed it. */
struct connection {
    struct connection *prev, *next; /* `next` alone while on the `arrived` stack */
    struct http_loop *loop;
    int fd;
    struct sockaddr_storage peer;
    socklen_t peer_bytes;
    uint64_t deadline_ns; /* for what has to arrive next; 0: nothing has to */
};

struct http_loop {
    /* constant after start */
    struct http *http;
    struct MHD_Daemon *mhd;
    uv_thread_t thread;
    bool started;

    /* the loop thread alone, once started */
    uv_loop_t uv;
    uv_poll_t poll;
    uv_timer_t timer; /* libmicrohttpd's timeouts */
    bool timer_armed;
    uv_timer_t sweeper;
    struct connection *connections;
    struct connection *adding; /* on its way through MHD_add_connection() */
    size_t request_count;      /* whose headers have arrived and whose answer has not left */
    size_t suspended_count;
    bool draining, stopped;
    uint64_t drain_began_ns;

    /* atomic; the other side is whoever calls loop_push_*(), http_ping(), http_drain() */
    uv_async_t async;
    _Atomic(struct connection *) arrived;
    _Atomic(struct exchange *) done;
    _Atomic size_t connection_count; /* dealt to this loop and not closed */
    _Atomic uint64_t pong;
};

struct http {
    /* constant after start */
    struct http_options options;
    struct api_app *app;
    struct workers *workers;
    size_t loop_count;
    struct http_loop *loops;
    uint64_t timeout_ns;

    /* the thread that calls http_take() and http_ping() */
    size_t turn;

    /* set by http_drain() before `drain`, read by loops after they see it */
    void (*drained)(void *ctx);
    void *drained_ctx;
    _Atomic bool drain;
    _Atomic bool out_of_time; /* set by the first loop past the deadline, read by workers */
    _Atomic size_t loops_running;
    _Atomic uint64_t ping;
    _Atomic uint64_t bodies_bytes; /* received and not yet answered, on all loops */
};

static void loop_drive(struct http_loop *l);
static void loop_on_sweep(uv_timer_t *timer);

/* ---- from other threads to a loop ---- */

static void loop_push_done(struct exchange *x)
{
    struct http_loop *l = x->loop;
    struct exchange *old = atomic_load_explicit(&l->done, memory_order_relaxed);

    do
        x->next_done = old;
    while (!atomic_compare_exchange_weak_explicit(&l->done, &old, x, memory_order_release,
                                                  memory_order_relaxed));
    /* x is the loop's from here on.  With something on the stack a wake-up is already due. */
    if (!old) uv_async_send(&l->async);
}

static void loop_push_arrived(struct http_loop *l, struct connection *c)
{
    struct connection *old = atomic_load_explicit(&l->arrived, memory_order_relaxed);

    do
        c->next = old;
    while (!atomic_compare_exchange_weak_explicit(&l->arrived, &old, c, memory_order_release,
                                                  memory_order_relaxed));
    if (!old) uv_async_send(&l->async);
}

/* ---- exchanges ---- */

static void exchange_drop_body(struct exchange *x)
{
    atomic_fetch_sub_explicit(&x->loop->http->bodies_bytes, x->req.body_bytes,
                              memory_order_relaxed);
    mem_free(x->req.body);
    x->req.body = NULL;
    x->req.body_bytes = 0;
}

static void exchange_free(struct exchange *x, bool sent)
{
    if (x->api_knows) api_end(x->loop->http->app, &x->req, &x->res, sent);
    buf_free(&x->out);
    exchange_drop_body(x);
    mem_free(x->piece);
    mem_free(x->parts);
    mem_free(x);
}

static void exchange_fail(struct exchange *x, enum err_code code, const char *message)
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

/* Deadline for whatever this request has to bring next; 0: it is our turn. */
static void exchange_expect(struct exchange *x, uint64_t ns)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(x->mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    struct connection *c = info ? info->socket_context : NULL;

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

static enum err_code exchange_feed(struct exchange *x)
{
    struct err err;
    enum err_code rc;

    if (x->piece_bytes == 0 || x->req.feed_rc) return x->req.feed_rc;
    rc = api_feed(x->loop->http->app, &x->req, x->piece, x->piece_bytes, &err);
    if (rc && !x->req.feed_rc) { /* whoever failed first tells api_dispatch() */
        x->req.feed_rc = rc;
        x->req.feed_err = err;
    }
    x->piece_bytes = 0;
    return rc;
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

static void exchange_produce(struct exchange *x)
{
    struct err err = {.code = ERR_OK};

    x->out.len = 0;
    x->out_sent = 0;
    x->out_rc = x->res.produce(&x->req, &x->out, &x->out_last, &err);
    if (x->out_rc == ERR_OK && x->out.failed) x->out_rc = err_set(&err, ERR_NOMEM, "out of memory");
    if (x->out_rc) log_warning("an answer was broken off: %s", err.msg);
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
            (void)exchange_feed(x);
            break;
        case JOB_DISPATCH:
            (void)exchange_feed(x);
            if (!exchange_dispatch(x, &waiting))
                exchange_fail(x, ERR_INTERNAL, "a handler would not run on a worker");
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

/* Suspend and let a worker do `job`.  False: no room. */
static bool exchange_submit(struct exchange *x, enum exchange_job job)
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

/* Back from a worker or from the log: say what comes next and let the connection run again. */
static void exchange_return(struct exchange *x)
{
    switch (x->job) {
    case JOB_FEED:
        x->state = EXCHANGE_STREAM;
        if (x->out_of_time) x->req.feed_rc = ERR_SHUTTING_DOWN;
        if (x->req.feed_rc) x->state = EXCHANGE_DISCARD;
        exchange_expect(x, x->loop->http->timeout_ns); /* each piece has its own deadline */
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
    case JOB_PRODUCE:
        if (x->out_of_time) x->out_rc = ERR_SHUTTING_DOWN;
        x->state = EXCHANGE_SENT;
        break;
    }
    x->loop->suspended_count--;
    MHD_resume_connection(x->mhd);
}

/* ---- answers ---- */

/* Called by libmicrohttpd for the next bytes of a streamed answer. */
static ssize_t exchange_read(void *cls, uint64_t pos, char *to, size_t bytes_max)
{
    struct exchange *x = cls;
    bool head = pos < x->res.body.len;
    const struct buf *from = head ? &x->res.body : &x->out;
    size_t at = head ? (size_t)pos : x->out_sent;
    size_t bytes = from->len - at;

    if (bytes > 0) {
        if (bytes > bytes_max) bytes = bytes_max;
        memcpy(to, from->data + at, bytes);
        if (!head) x->out_sent += bytes;
        return (ssize_t)bytes;
    }
    if (x->out_rc) return MHD_CONTENT_READER_END_WITH_ERROR;
    if (x->out_last) return MHD_CONTENT_READER_END_OF_STREAM;
    if (!exchange_submit(x, JOB_PRODUCE)) return MHD_CONTENT_READER_END_WITH_ERROR;
    x->state = EXCHANGE_BUSY;
    return 0;
}

static struct MHD_Response *exchange_response(struct exchange *x)
{
    if (x->res.produce)
        return MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK_BYTES, exchange_read, x,
                                                 NULL);
    /* The buffer lives until api_end(), and so longer than libmicrohttpd looks at it. */
    return MHD_create_response_from_buffer(x->res.body.len, x->res.body.data,
                                           MHD_RESPMEM_PERSISTENT);
}

static enum MHD_Result exchange_answer(struct exchange *x)
{
    struct api_response *res = &x->res;
    struct MHD_Response *r;
    char number[16];
    enum MHD_Result ok;

    if (res->body.failed && !res->produce)
        exchange_fail(x, ERR_OVERLOADED, "out of memory for the answer");
    r = exchange_response(x);
    if (!r) return MHD_NO;
    if (res->content_type) MHD_add_response_header(r, "Content-Type", res->content_type);
    if (*res->request_id) MHD_add_response_header(r, "X-Request-Id", res->request_id);
    if (*res->allow) MHD_add_response_header(r, "Allow", res->allow);
    if (*res->warning) MHD_add_response_header(r, "Warning", res->warning);
    if (*res->etag) MHD_add_response_header(r, "ETag", res->etag);
    for (size_t i = 0; i < res->header_count; i++)
        MHD_add_response_header(r, res->headers[i].name, res->headers[i].value);
    if (res->retry_after_seconds > 0) {
        snprintf(number, sizeof number, "%" PRIu32, res->retry_after_seconds);
        MHD_add_response_header(r, "Retry-After", number);
    }
    /* libmicrohttpd 0.9.75 ends a HEAD of unknown length with a chunk of no bytes, which the client
     * would take for the next answer. */
    if (res->produce && strcmp(x->req.method, "HEAD") == 0) res->close = true;
    if (res->close || x->loop->draining || atomic_load(&x->loop->http->app->draining))
        MHD_add_response_header(r, "Connection", "close");
    x->state = EXCHANGE_SENT;
    exchange_expect(x, 0);
    ok = MHD_queue_response(x->mhd, (unsigned)res->status, r);
    MHD_destroy_response(r);
    return ok;
}

/* ---- requests ---- */

struct header_walk {
    struct api_request *req;
    const char *content_length;
    unsigned content_lengths, transfer_encodings, hosts;
};

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
        {"Origin", &req->origin},
        {"If-Match", &req->if_match},
        {"Idempotency-Key", &req->idempotency_key},
    };

    (void)kind;
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
    struct header_walk walk = {.req = &x->req};

    MHD_get_connection_values(x->mhd, MHD_HEADER_KIND, header_visit, &walk);
    if (walk.content_lengths > 1) return "more than one Content-Length";
    if (walk.content_lengths > 0 && walk.transfer_encodings > 0)
        return "Content-Length together with Transfer-Encoding";
    if (walk.transfer_encodings > 1 || (walk.transfer_encodings == 1 && !x->req.chunked))
        return "Transfer-Encoding other than \"chunked\"";
    if (walk.hosts > 1) return "more than one Host";
    if (walk.content_lengths == 1) {
        if (!content_length_parse(walk.content_length, &x->req.content_length))
            return "Content-Length is not a number";
        x->req.has_content_length = true;
    }
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

/* Room for a body of the announced length.  False: *res says why not. */
static bool exchange_make_body(struct exchange *x)
{
    uint64_t bytes_max = x->loop->http->options.body_bytes_max;

    if (x->req.content_length > bytes_max) {
        exchange_fail(x, ERR_PAYLOAD_TOO_LARGE, "the body is longer than server.max_body_bytes");
        return false;
    }
    x->body_cap = (size_t)x->req.content_length;
    if (x->req.chunked) x->body_cap = bytes_max < BODY_FIRST_BYTES ? bytes_max : BODY_FIRST_BYTES;
    x->req.body = mem_try(x->body_cap + BODY_PADDING);
    if (x->req.body) return true;
    exchange_fail(x, ERR_OVERLOADED, "out of memory for the body");
    return false;
}

/* Headers are complete. */
static enum MHD_Result exchange_begin(struct exchange *x)
{
    const char *wrong = exchange_headers(x);

    x->loop->request_count++;
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
        x->piece = mem_try(PIECE_BYTES);
        if (!x->piece) {
            exchange_fail(x, ERR_OVERLOADED, "out of memory for the body");
            return exchange_refuse(x);
        }
        x->state = EXCHANGE_STREAM;
        return MHD_YES;
    case API_BODY:
    case API_DEFER:
    case API_PARTS:
        break;
    }
    x->state = EXCHANGE_BODY;
    return exchange_make_body(x) ? MHD_YES : exchange_refuse(x);
}

/* Make room for `more` bytes of a chunked body. */
static bool exchange_grow_body(struct exchange *x, size_t more)
{
    uint64_t bytes_max = x->loop->http->options.body_bytes_max;
    size_t need = x->req.body_bytes + more, cap = x->body_cap;

    if (need > bytes_max) {
        exchange_fail(x, ERR_PAYLOAD_TOO_LARGE, "the body is longer than server.max_body_bytes");
        return false;
    }
    while (cap < need)
        cap *= 2;
    if (cap > bytes_max) cap = (size_t)bytes_max;
    char *body = mem_resize(x->req.body, cap + BODY_PADDING);
    if (!body) {
        exchange_fail(x, ERR_OVERLOADED, "out of memory for the body");
        return false;
    }
    x->req.body = body;
    x->body_cap = cap;
    return true;
}

/* Count what has arrived, not what was announced: that is memory which nobody has touched yet. */
static bool exchange_count_body(struct exchange *x, size_t more)
{
    struct http *http = x->loop->http;
    uint64_t others = atomic_fetch_add_explicit(&http->bodies_bytes, more, memory_order_relaxed);

    if (others + more <= BODIES_MAX * http->options.body_bytes_max) return true;
    atomic_fetch_sub_explicit(&http->bodies_bytes, more, memory_order_relaxed);
    exchange_fail(x, ERR_OVERLOADED, "too many long bodies are under way");
    return false;
}

static void exchange_take_body(struct exchange *x, const char *data, size_t bytes)
{
    if ((bytes > x->body_cap - x->req.body_bytes && !exchange_grow_body(x, bytes)) ||
        !exchange_count_body(x, bytes)) {
        /* libmicrohttpd takes no answer in the middle of a body: let the rest go by, for as long
         * as a request may take to arrive. */
        exchange_drop_body(x);
        x->res.close = true;
        x->state = EXCHANGE_DISCARD;
        return;
    }
    memcpy(x->req.body + x->req.body_bytes, data, bytes);
    x->req.body_bytes += bytes;
}

/* Take what fits; *bytes is what is left for the next call, after the worker. */
static void exchange_take_piece(struct exchange *x, const char *data, size_t *bytes)
{
    size_t room = PIECE_BYTES - x->piece_bytes, take = *bytes < room ? *bytes : room;

    memcpy(x->piece + x->piece_bytes, data, take);
    x->piece_bytes += take;
    *bytes -= take;
    if (x->piece_bytes < PIECE_BYTES) return;
    if (exchange_submit(x, JOB_FEED)) {
        x->state = EXCHANGE_BUSY;
        exchange_expect(x, 0);
        return;
    }
    struct err err;
    x->req.feed_rc = err_set(&err, ERR_OVERLOADED, "too many requests are waiting");
    x->req.feed_err = err;
    x->piece_bytes = 0;
    x->state = EXCHANGE_DISCARD;
}

/* The request is complete: answer it here if that is quick. */
static enum MHD_Result exchange_run(struct exchange *x)
{
    bool waiting = false, streamed = x->piece != NULL;

    exchange_expect(x, 0);
    if (x->req.body) memset(x->req.body + x->req.body_bytes, 0, BODY_PADDING);
    x->req.may_block = false;
    if (!streamed && exchange_dispatch(x, &waiting)) {
        if (!waiting) return exchange_answer(x);
        x->state = EXCHANGE_BUSY;
        exchange_suspend(x);
        return MHD_YES;
    }
    if (exchange_submit(x, JOB_DISPATCH)) {
        x->state = EXCHANGE_BUSY;
        return MHD_YES;
    }
    exchange_fail_full(x);
    return exchange_answer(x);
}

/* ---- what libmicrohttpd calls ---- */

static void *mhd_uri(void *cls, const char *uri, struct MHD_Connection *mhd)
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
static size_t mhd_unescape(void *cls, struct MHD_Connection *mhd, char *text)
{
    (void)cls;
    (void)mhd;
    return strlen(text);
}

static enum MHD_Result mhd_request(void *cls, struct MHD_Connection *mhd, const char *url,
                                   const char *method, const char *version, const char *data,
                                   size_t *bytes, void **context)
{
    struct exchange *x = *context;

    (void)cls;
    (void)mhd;
    (void)url;
    (void)version;
    if (x->state == EXCHANGE_LINE) {
        x->req.method = method;
        return exchange_begin(x);
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
            if (!x->piece && x->discarded_bytes > DISCARD_BYTES_MAX) return MHD_NO;
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
        return x->piece ? exchange_run(x) : exchange_answer(x);
    case EXCHANGE_ANSWER:
        return exchange_answer(x);
    default:
        return MHD_YES;
    }
}

static void mhd_completed(void *cls, struct MHD_Connection *mhd, void **context,
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

static void connection_free(struct connection *c)
{
    struct http_loop *l = c->loop;

    l->http->options.forget(l->http->options.ctx, &c->peer);
    atomic_fetch_sub_explicit(&l->connection_count, 1, memory_order_relaxed);
    mem_free(c);
}

static void mhd_connection(void *cls, struct MHD_Connection *mhd, void **context,
                           enum MHD_ConnectionNotificationCode what)
{
    struct http_loop *l = cls;
    struct connection *c;

    (void)mhd;
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        c = l->adding;
        l->adding = NULL;
        assert(c);
        c->prev = NULL;
        c->next = l->connections;
        if (c->next) c->next->prev = c;
        l->connections = c;
        c->deadline_ns = clock_ns() + 2 * l->http->timeout_ns;
        *context = c;
        return;
    }
    c = *context;
    if (!c) return;
    *context = NULL;
    if (c->prev)
        c->prev->next = c->next;
    else
        l->connections = c->next;
    if (c->next) c->next->prev = c->prev;
    connection_free(c);
}

static void mhd_log(void *cls, const char *fmt, va_list args)
{
    char line[512];

    (void)cls;
    vsnprintf(line, sizeof line, fmt, args);
    line[strcspn(line, "\r\n")] = '\0';
    log_debug("libmicrohttpd: %s", line);
}

/* ---- the loop ---- */

static void loop_on_timer(uv_timer_t *timer)
{
    struct http_loop *l = timer->data;

    l->timer_armed = false;
    loop_drive(l);
}

static void loop_on_poll(uv_poll_t *poll, int status, int events)
{
    (void)status;
    (void)events;
    loop_drive(poll->data);
}

static void loop_drive(struct http_loop *l)
{
    MHD_UNSIGNED_LONG_LONG wait_ms = 0;
    bool timed = true;

    if (l->stopped) return;
    for (int i = 0; i < RUNS_MAX && timed && wait_ms == 0; i++) {
        MHD_run(l->mhd);
        timed = MHD_get_timeout(l->mhd, &wait_ms) == MHD_YES;
    }
    if (!timed) return;
    /* Timeouts of connections only move away, so a timer that fires early just comes back here;
     * arming it anew for every request would cost more. */
    if (wait_ms > 0 && l->timer_armed) return;
    uv_timer_start(&l->timer, loop_on_timer, wait_ms, 0);
    l->timer_armed = true;
}

static void loop_add(struct http_loop *l, struct connection *c)
{
    if (!uv_is_active((uv_handle_t *)&l->sweeper))
        uv_timer_start(&l->sweeper, loop_on_sweep, SWEEP_MS, SWEEP_MS);
    l->adding = c;
    /* Closes the descriptor if it fails. */
    if (MHD_add_connection(l->mhd, c->fd, (struct sockaddr *)&c->peer, c->peer_bytes) != MHD_YES)
        log_warning("a connection could not be added: %s", strerror(errno));
    if (l->adding) {
        l->adding = NULL;
        connection_free(c);
    }
}

/* The client has gone, and everything it sent has been read.  libmicrohttpd misses that when the
 * last bytes and the end arrive together: its edge-triggered epoll has no further edge. */
static bool connection_has_ended(const struct connection *c)
{
    char byte;
    return recv(c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
}

/* A client may hold a connection for ever by sending a byte now and then: libmicrohttpd's timeout
 * is one of idle time.  These are the deadlines of whole requests. */
static void loop_reap(struct http_loop *l)
{
    uint64_t now = clock_ns();

    for (struct connection *c = l->connections; c; c = c->next) {
        if (c->deadline_ns == 0) continue; /* it waits for us */
        if (now < c->deadline_ns && !connection_has_ended(c)) continue;
        c->deadline_ns = 0;
        shutdown(c->fd, SHUT_RDWR); /* libmicrohttpd sees the end and closes it */
    }
}

static void loop_stop(struct http_loop *l)
{
    struct http *http = l->http;

    assert(l->suspended_count == 0);
    l->stopped = true;
    uv_poll_stop(&l->poll);
    uv_timer_stop(&l->timer);
    uv_timer_stop(&l->sweeper);
    MHD_stop_daemon(l->mhd);
    l->mhd = NULL;
    assert(!l->connections);
    uv_stop(&l->uv);
    atomic_store(&l->pong, LOOP_GONE);
    if (atomic_fetch_sub(&http->loops_running, 1) == 1) http->drained(http->drained_ctx);
}

/* May this loop stop?  It may once every answer has left; clients that have just been connected,
 * or that have a next request on its way, get DRAIN_GRACE_MS to be served. */
static void loop_drain(struct http_loop *l)
{
    struct http *http = l->http;
    uint64_t deadline = http->options.drain_ms * MS, flush = deadline + DRAIN_FLUSH_MS * MS;
    uint64_t elapsed = clock_ns() - l->drain_began_ns;

    if (elapsed >= deadline && !atomic_load(&http->out_of_time)) {
        atomic_store(&http->out_of_time, true);
        log_warning("requests are still under way after %" PRIu32 " ms", http->options.drain_ms);
    }
    loop_drive(l);
    if (l->suspended_count > 0) return;
    if (l->request_count > 0 && elapsed < flush) return;
    if (l->connections && elapsed < DRAIN_GRACE_MS * MS) return;
    loop_stop(l);
}

static void loop_on_sweep(uv_timer_t *timer)
{
    struct http_loop *l = timer->data;

    loop_reap(l);
    if (l->draining)
        loop_drain(l);
    else if (!l->connections)
        uv_timer_stop(&l->sweeper); /* an idle daemon sleeps */
}

static void loop_begin_drain(struct http_loop *l)
{
    l->draining = true;
    l->drain_began_ns = clock_ns();
    uv_timer_start(&l->sweeper, loop_on_sweep, 0, DRAIN_SWEEP_MS);
}

static void loop_on_async(uv_async_t *async)
{
    struct http_loop *l = async->data;
    /* Before `arrived` is emptied: nothing arrives after it is set. */
    bool drain = atomic_load(&l->http->drain);
    struct connection *c = atomic_exchange_explicit(&l->arrived, NULL, memory_order_acquire);
    struct exchange *x = atomic_exchange_explicit(&l->done, NULL, memory_order_acquire);

    atomic_store(&l->pong, atomic_load(&l->http->ping));
    while (x) {
        struct exchange *next = x->next_done;
        exchange_return(x);
        x = next;
    }
    while (c) {
        struct connection *next = c->next;
        loop_add(l, c);
        c = next;
    }
    if (drain && !l->draining) loop_begin_drain(l);
    loop_drive(l);
}

static void loop_main(void *arg)
{
    struct http_loop *l = arg;

    loop_drive(l);
    uv_run(&l->uv, UV_RUN_DEFAULT);
}

/* Everything but the thread.  What is begun is undone by loop_deinit(). */
static enum err_code loop_init(struct http_loop *l, struct http *http, struct err *err)
{
    const struct http_options *o = &http->options;
    unsigned flags =
        MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG | MHD_USE_NO_LISTEN_SOCKET;
    struct MHD_OptionItem items[16];
    size_t n = 0;
    int rc;

    l->http = http;
    rc = uv_loop_init(&l->uv);
    if (rc) return err_os(err, -rc, "cannot make an event loop");
    l->uv.data = l;
#define ITEM(...) items[n++] = (struct MHD_OptionItem){__VA_ARGS__}
    ITEM(MHD_OPTION_EXTERNAL_LOGGER, (intptr_t)mhd_log, NULL);
    ITEM(MHD_OPTION_URI_LOG_CALLBACK, (intptr_t)mhd_uri, l);
    ITEM(MHD_OPTION_UNESCAPE_CALLBACK, (intptr_t)mhd_unescape, NULL);
    ITEM(MHD_OPTION_NOTIFY_COMPLETED, (intptr_t)mhd_completed, l);
    ITEM(MHD_OPTION_NOTIFY_CONNECTION, (intptr_t)mhd_connection, l);
    ITEM(MHD_OPTION_CONNECTION_MEMORY_LIMIT, CONNECTION_BYTES, NULL);
    ITEM(MHD_OPTION_CONNECTION_LIMIT, (intptr_t)o->connection_count_max + 64, NULL);
    ITEM(MHD_OPTION_CONNECTION_TIMEOUT, (intptr_t)o->request_timeout_seconds, NULL);
    ITEM(MHD_OPTION_STRICT_FOR_CLIENT, 1, NULL);
    if (o->tls_cert) {
        flags |= MHD_USE_TLS;
        ITEM(MHD_OPTION_HTTPS_MEM_CERT, 0, (void *)(uintptr_t)o->tls_cert);
        ITEM(MHD_OPTION_HTTPS_MEM_KEY, 0, (void *)(uintptr_t)o->tls_key);
        ITEM(MHD_OPTION_HTTPS_PRIORITIES, 0,
             (void *)(uintptr_t) "SECURE128:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2");
    }
    ITEM(MHD_OPTION_END, 0, NULL);
#undef ITEM
    assert(n <= sizeof items / sizeof *items);
    l->mhd = MHD_start_daemon(flags, 0, NULL, NULL, mhd_request, l, MHD_OPTION_ARRAY, items,
                              MHD_OPTION_END);
    if (!l->mhd) {
        uv_loop_close(&l->uv);
        l->uv.data = NULL;
        return err_set(err, ERR_INVALID_REQUEST, "%s",
                       o->tls_cert ? "libmicrohttpd does not accept security.tls_cert and "
                                     "security.tls_key (log.level debug says more)"
                                   : "libmicrohttpd does not start");
    }
    int fd = MHD_get_daemon_info(l->mhd, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd;
    rc = uv_async_init(&l->uv, &l->async, loop_on_async);
    if (!rc) rc = uv_poll_init(&l->uv, &l->poll, fd);
    if (!rc) rc = uv_timer_init(&l->uv, &l->timer);
    if (!rc) rc = uv_timer_init(&l->uv, &l->sweeper);
    if (rc) return err_os(err, -rc, "cannot make an event loop");
    l->async.data = l->poll.data = l->timer.data = l->sweeper.data = l;
    uv_poll_start(&l->poll, UV_READABLE, loop_on_poll);
    return ERR_OK;
}

static void loop_close_handle(uv_handle_t *handle, void *arg)
{
    (void)arg;
    if (!uv_is_closing(handle)) uv_close(handle, NULL);
}

static void loop_deinit(struct http_loop *l)
{
    if (!l->uv.data) return;
    /* Connections that were dealt to a loop which had already stopped. */
    struct connection *c = atomic_exchange(&l->arrived, NULL);
    while (c) {
        struct connection *next = c->next;
        close(c->fd);
        connection_free(c);
        c = next;
    }
    uv_walk(&l->uv, loop_close_handle, NULL);
    uv_run(&l->uv, UV_RUN_DEFAULT);
    if (l->mhd) MHD_stop_daemon(l->mhd);
    uv_loop_close(&l->uv);
}

/* ---- all loops ---- */

static size_t http_core_count(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
    return (size_t)CPU_COUNT(&set);
}

static void http_wake(struct http *http)
{
    for (size_t i = 0; i < http->loop_count; i++)
        if (http->loops[i].started) uv_async_send(&http->loops[i].async);
}

enum err_code http_start(const struct http_options *options, struct api_app *app,
                         struct workers *workers, struct http **out, struct err *err)
{
    struct http *http = mem_new(struct http);
    enum err_code rc = ERR_OK;

    http->options = *options;
    http->app = app;
    http->workers = workers;
    http->timeout_ns = options->request_timeout_seconds * 1000 * MS;
    http->loop_count = options->threads ? options->threads : http_core_count();
    http->loops = mem_zalloc(http->loop_count * sizeof *http->loops);
    for (size_t i = 0; i < http->loop_count && !rc; i++)
        rc = loop_init(&http->loops[i], http, err);
    if (rc) goto out;
    for (size_t i = 0; i < http->loop_count; i++) {
        struct http_loop *l = &http->loops[i];
        int failed = uv_thread_create(&l->thread, loop_main, l);
        if (failed) {
            rc = err_os(err, -failed, "cannot start a loop thread");
            goto out;
        }
        l->started = true;
        atomic_fetch_add(&http->loops_running, 1);
    }
    *out = http;
    http = NULL;
out:
    if (http) {
        http_stop(http);
        http_free(http);
    }
    return rc;
}

void http_take(struct http *http, int fd, const struct sockaddr_storage *peer, socklen_t peer_bytes)
{
    struct http_loop *best = NULL;
    size_t least = SIZE_MAX;

    /* The least loaded; among equals each in its turn. */
    http->turn++;
    for (size_t i = 0; i < http->loop_count; i++) {
        struct http_loop *l = &http->loops[(http->turn + i) % http->loop_count];
        size_t count = atomic_load_explicit(&l->connection_count, memory_order_relaxed);
        if (count >= least) continue;
        least = count;
        best = l;
    }
    struct connection *c = mem_new(struct connection);
    c->loop = best;
    c->fd = fd;
    c->peer = *peer;
    c->peer_bytes = peer_bytes;
    atomic_fetch_add_explicit(&best->connection_count, 1, memory_order_relaxed);
    loop_push_arrived(best, c);
}

size_t http_connection_count(const struct http *http)
{
    size_t count = 0;

    for (size_t i = 0; i < http->loop_count; i++)
        count += atomic_load_explicit(&http->loops[i].connection_count, memory_order_relaxed);
    return count;
}

bool http_ping(struct http *http)
{
    uint64_t ping = atomic_load(&http->ping);
    bool answered = true;

    for (size_t i = 0; i < http->loop_count; i++) {
        uint64_t pong = atomic_load(&http->loops[i].pong);
        if (pong != ping && pong != LOOP_GONE) answered = false;
    }
    /* A loop that is late keeps its old question: asking again would hide that it is late. */
    if (answered) atomic_store(&http->ping, ping + 1);
    http_wake(http);
    return answered;
}

void http_drain(struct http *http, void (*drained)(void *ctx), void *ctx)
{
    http->drained = drained;
    http->drained_ctx = ctx;
    atomic_store(&http->drain, true);
    http_wake(http);
}

static void http_ignore(void *ctx)
{
    (void)ctx;
}

void http_stop(struct http *http)
{
    if (!atomic_load(&http->drain)) http_drain(http, http_ignore, NULL);
    for (size_t i = 0; i < http->loop_count; i++) {
        struct http_loop *l = &http->loops[i];
        if (l->started) uv_thread_join(&l->thread);
        l->started = false;
    }
}

void http_free(struct http *http)
{
    if (!http) return;
    for (size_t i = 0; i < http->loop_count; i++)
        loop_deinit(&http->loops[i]);
    mem_free(http->loops);
    mem_free(http);
}

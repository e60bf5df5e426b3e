/*
 * fake_api.h - an api/ without routes or storage, for tests of the layer above it.
 *
 *   /echo          buffered body, answered in the loop: method, path, query, length, first bytes
 *   /defer         the same on a worker
 *   /gate          on a worker, which waits for fake.gate first
 *   /denied        401 before the body
 *   /durable       answered when a thread of ours says so;  ?fail: it says that it failed
 *   /import        streamed body: bytes and a sum;  ?fail: the second piece is refused
 *   /dump?N        streamed answer of N pieces of 100,000 bytes;  ?-N: broken off after N
 *   /long?N        an answer of N bytes, not all the same
 *   /meet          two parts that wait for each other
 *   /parts         parts without end, until fake.enough;  /parts?defer: dispatched on a worker
 *   /empty         204
 *
 * Content-Encoding: gzip and zstd are for the layer above to expand.
 */
#include <assert.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/api.h"

enum { FAKE_PIECE = 100000 };

static struct {
    sem_t gate;    /* /gate waits for it             */
    sem_t at_gate; /* and says here that it is there */
    sem_t met[2];  /* /meet                          */
    _Atomic bool enough;
    _Atomic int begun, ended, sent, parts;
} fake;

struct fake_stream {
    uint64_t bytes, sum, pieces;
    long left;
};

static bool fake_is(const struct api_request *req, const char *path)
{
    return strcmp(req->path, path) == 0;
}

static void fake_answer(struct api_response *res, int status)
{
    res->status = status;
    res->content_type = "text/plain";
    snprintf(res->request_id, sizeof res->request_id, "fake");
}

enum api_next api_begin(struct api_app *app, struct api_request *req, struct api_response *res)
{
    (void)app;
    atomic_fetch_add(&fake.begun, 1);
    if (req->content_encoding)
        req->encoding = *req->content_encoding == 'g' ? ENCODING_GZIP : ENCODING_ZSTD;
    if (fake_is(req, "/denied")) {
        fake_answer(res, 401);
        buf_str(&res->body, "denied");
        return API_DONE;
    }
    if (!fake_is(req, "/import")) return API_BODY;
    req->stream = calloc(1, sizeof(struct fake_stream));
    return API_STREAM;
}

enum err_code api_feed(struct api_app *app, struct api_request *req, const char *data, size_t len,
                       struct err *err)
{
    struct fake_stream *s = req->stream;

    (void)app;
    assert(req->may_block);
    s->bytes += len;
    s->pieces++;
    for (size_t i = 0; i < len; i++)
        s->sum = s->sum * 31 + (unsigned char)data[i];
    if (req->query && s->pieces == 2) return err_set(err, ERR_INVALID_JSON, "bad piece");
    return ERR_OK;
}

static enum err_code fake_produce(struct api_request *req, struct buf *out, bool *done,
                                  struct err *err)
{
    struct fake_stream *s = req->stream;

    assert(req->may_block);
    if (s->left < 0 && ++s->left == 0) return err_set(err, ERR_IO, "as asked");
    memset(buf_reserve(out, FAKE_PIECE), 'x', FAKE_PIECE);
    out->len += FAKE_PIECE;
    *done = s->left > 0 && --s->left == 0;
    return ERR_OK;
}

/* `bytes` counts parts. */
static bool fake_meet(struct api_request *req)
{
    struct fake_stream *s = req->stream;
    uint64_t i = __atomic_fetch_add(&s->bytes, 1, __ATOMIC_RELAXED);

    assert(req->part_count == 2);
    if (i >= 2) return false;
    sem_post(&fake.met[i]);
    sem_wait(&fake.met[!i]);
    return true;
}

static bool fake_part(struct api_request *req)
{
    struct fake_stream *s = req->stream;

    __atomic_fetch_add(&s->bytes, 1, __ATOMIC_RELAXED);
    atomic_fetch_add(&fake.parts, 1);
    return !fake.enough;
}

static enum err_code fake_join(struct api_request *req, struct api_response *res, struct err *err)
{
    struct fake_stream *s = req->stream;

    (void)err;
    fake_answer(res, 200);
    buf_printf(&res->body, "parts %s", s->bytes >= 2 ? "many" : "few");
    return ERR_OK;
}

bool api_part(struct api_request *req)
{
    return req->part(req);
}

void api_join(struct api_app *app, struct api_request *req, struct api_response *res)
{
    struct err err;

    (void)app;
    if (req->join(req, res, &err)) abort();
}

enum api_next api_dispatch(struct api_app *app, struct api_request *req, struct api_response *res)
{
    (void)app;
    if ((fake_is(req, "/defer") || fake_is(req, "/gate")) && !req->may_block) return API_DEFER;
    if (fake_is(req, "/gate")) {
        sem_post(&fake.at_gate);
        sem_wait(&fake.gate);
    }
    if (fake_is(req, "/meet") || fake_is(req, "/parts")) {
        if (req->query && !req->may_block) return API_DEFER;
        req->stream = calloc(1, sizeof(struct fake_stream));
        req->part = fake_is(req, "/meet") ? fake_meet : fake_part;
        req->join = fake_join;
        req->part_count = fake_is(req, "/meet") ? 2 : 1000;
        return API_PARTS;
    }
    fake_answer(res, 200);
    if (fake_is(req, "/empty")) {
        res->status = 204;
    } else if (fake_is(req, "/long")) {
        size_t bytes = strtoul(req->query, NULL, 10);
        char *to = buf_reserve(&res->body, bytes);
        for (size_t i = 0; i < bytes; i++)
            to[i] = (char)('a' + i / 7 % 26);
        res->body.len = bytes;
    } else if (fake_is(req, "/import")) {
        struct fake_stream *s = req->stream;
        if (req->feed_rc) {
            api_fail(req, res, &req->feed_err);
            return API_DONE;
        }
        buf_printf(&res->body, "bytes %llu sum %llu", (unsigned long long)s->bytes,
                   (unsigned long long)s->sum);
    } else if (fake_is(req, "/dump")) {
        struct fake_stream *s = req->stream = calloc(1, sizeof *s);
        s->left = req->query ? atol(req->query) : 1;
        buf_str(&res->body, "head;");
        res->produce = fake_produce;
    } else {
        if (fake_is(req, "/durable")) res->wait_db = (struct database *)&fake;
        for (size_t i = 0; req->body && i < 64; i++)
            assert(req->body[req->body_bytes + i] == 0);
        buf_printf(&res->body, "%s %s?%s %zu %.*s", req->method, req->path,
                   req->query ? req->query : "", req->body_bytes,
                   req->body_bytes < 8 ? (int)req->body_bytes : 8, req->body ? req->body : "");
    }
    return API_DONE;
}

struct fake_wait {
    void (*done)(void *ctx);
    void *ctx;
};

static void *fake_syncer(void *arg)
{
    struct fake_wait wait = *(struct fake_wait *)arg;
    free(arg);
    wait.done(wait.ctx);
    return NULL;
}

bool api_wait(struct api_response *res, struct api_request *req, void (*done)(void *ctx), void *ctx)
{
    pthread_t thread;

    if (!done) {
        res->wait_db = NULL;
        if (req->query) api_fail_code(req, res, ERR_READ_ONLY, "not durable");
        return false;
    }
    struct fake_wait *wait = malloc(sizeof *wait);
    *wait = (struct fake_wait){done, ctx};
    if (pthread_create(&thread, NULL, fake_syncer, wait) != 0) abort();
    pthread_detach(thread);
    return true;
}

void api_fail_code(struct api_request *req, struct api_response *res, enum err_code code,
                   const char *message)
{
    (void)req;
    res->produce = NULL;
    res->wait_db = NULL;
    res->body.len = 0;
    fake_answer(res, code == ERR_PAYLOAD_TOO_LARGE ? 413
                     : code == ERR_URI_TOO_LONG    ? 414
                     : code == ERR_OVERLOADED || code == ERR_SHUTTING_DOWN || code == ERR_READ_ONLY
                         ? 503
                         : 400);
    buf_printf(&res->body, "%s: %s", err_word(code), message);
}

void api_fail(struct api_request *req, struct api_response *res, const struct err *err)
{
    api_fail_code(req, res, err->code, err->msg);
}

void api_end(struct api_app *app, struct api_request *req, struct api_response *res, bool sent)
{
    (void)app;
    free(req->stream);
    buf_free(&res->body);
    atomic_fetch_add(&fake.ended, 1);
    if (sent) atomic_fetch_add(&fake.sent, 1);
}

enum err_code api_app_reload(struct api_app *app, struct err *err)
{
    (void)app;
    (void)err;
    return ERR_OK;
}

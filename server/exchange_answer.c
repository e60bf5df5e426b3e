/*
 * exchange_answer.c - the answer of a request on its way out: whole, or piece by piece.
 *
 * Text and JSON are compressed for clients that ask for it, if they are long enough for it to pay:
 * short ones here, which takes up to 150 us, longer ones on a worker, streams piece by piece where
 * they are made.  An ETag stays what it is: it names the version of a vector, not of these bytes.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "server/answer_encoder.h"
#include "server/http_private.h"
#include "storage/base/log.h"

enum {
    BLOCK_BYTES = 64 * 1024, /* of a streamed answer */
    PACK_BYTES_MIN = 1024,
    PACK_INLINE_BYTES_MAX = 32 * 1024,
};

/* ---- compression ---- */

/* Whether a client asks for it or not: is this an answer to compress? */
static bool exchange_can_pack(const struct exchange *x)
{
    const char *type = x->res.content_type;

    if (!type || (strncmp(type, "text/", 5) != 0 && !strstr(type, "json"))) return false;
    if (strcmp(x->req.method, "HEAD") == 0) return false;
    return x->res.produce || x->res.body.len >= PACK_BYTES_MIN;
}

void exchange_pack(struct exchange *x)
{
    struct buf *body = &x->res.body, packed = {0};
    struct answer_encoder *e = answer_encoder_new();

    if (!e) return;
    answer_encoder_run(e, body->data, body->len, true, &packed);
    answer_encoder_free(e);
    if (packed.failed || packed.len >= body->len) {
        buf_free(&packed);
        return;
    }
    buf_free(body);
    *body = packed;
    x->is_packed = true;
}

/* True: a worker has it, and exchange_answer() is called again. */
static bool exchange_pack_answer(struct exchange *x)
{
    x->was_packed = true;
    if (x->res.produce) {
        x->encoder = answer_encoder_new();
        x->is_packed = x->encoder != NULL;
        /* What there is of it already comes out of the encoder, too. */
        if (x->is_packed) {
            buf_free(&x->plain);
            x->plain = x->res.body;
            x->res.body = (struct buf){0};
        }
        return false;
    }
    if (x->res.body.len <= PACK_INLINE_BYTES_MAX) {
        exchange_pack(x);
        return false;
    }
    x->req.waits = false;
    if (!exchange_submit(x, JOB_PACK)) return false; /* then as it is */
    x->state = EXCHANGE_BUSY;
    return true;
}

/* ---- streams ---- */

void exchange_produce(struct exchange *x)
{
    struct err err = {.code = ERR_OK};
    struct buf *to = x->encoder ? &x->plain : &x->out;

    x->out.len = 0;
    x->out_sent = 0;
    x->out_rc = x->res.produce(&x->req, to, &x->out_last, &err);
    if (x->out_rc == ERR_OK && x->encoder) {
        answer_encoder_run(x->encoder, to->data, to->len, x->out_last, &x->out);
        to->len = 0;
    }
    if (x->out_rc == ERR_OK && (x->out.failed || to->failed))
        x->out_rc = err_set(&err, ERR_NOMEM, "out of memory");
    if (x->out_rc) log_warning("an answer was broken off: %s", err.msg);
}

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

/* ---- answers ---- */

static struct MHD_Response *exchange_response(struct exchange *x)
{
    if (x->res.produce)
        return MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK_BYTES, exchange_read, x,
                                                 NULL);
    /* The buffer lives until api_end(), and so longer than libmicrohttpd looks at it. */
    return MHD_create_response_from_buffer(x->res.body.len, x->res.body.data,
                                           MHD_RESPMEM_PERSISTENT);
}

enum MHD_Result exchange_answer(struct exchange *x)
{
    struct api_response *res = &x->res;
    struct MHD_Response *r;
    char number[16];
    bool can_pack;
    enum MHD_Result ok;

    if (res->body.failed && !res->produce)
        exchange_fail(x, ERR_OVERLOADED, "out of memory for the answer");
    can_pack = x->was_packed || exchange_can_pack(x);
    if (can_pack && !x->was_packed && accepts_gzip(x->accept_encoding) && exchange_pack_answer(x))
        return MHD_YES;
    r = exchange_response(x);
    if (!r) return MHD_NO;
    if (can_pack) MHD_add_response_header(r, "Vary", "Accept-Encoding");
    if (x->is_packed) MHD_add_response_header(r, "Content-Encoding", "gzip");
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

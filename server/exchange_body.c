/* exchange_body.c - the body of a request on its way in: whole, or piece by piece. */
#include <string.h>

#include "server/http_private.h"
#include "storage/base/mem.h"

enum {
    BODY_PADDING = 64, /* zero bytes behind a body, for parsers that look ahead */
    BODY_FIRST_BYTES = 64 * 1024,
    BODIES_MAX = 16,          /* bodies of the greatest length that may be in memory at once */
    PIECE_BYTES = 256 * 1024, /* of a streamed body */
};

void exchange_drop_body(struct exchange *x)
{
    atomic_fetch_sub_explicit(&x->loop->http->bodies_bytes, x->req.body_bytes,
                              memory_order_relaxed);
    mem_free(x->req.body);
    x->req.body = NULL;
    x->req.body_bytes = 0;
}

/* ---- whole bodies ---- */

bool exchange_make_body(struct exchange *x)
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

void exchange_take_body(struct exchange *x, const char *data, size_t bytes)
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

void exchange_end_body(struct exchange *x)
{
    if (x->req.body) memset(x->req.body + x->req.body_bytes, 0, BODY_PADDING);
}

/* ---- streamed bodies ---- */

bool exchange_make_piece(struct exchange *x)
{
    x->piece = mem_try(PIECE_BYTES);
    if (!x->piece) exchange_fail(x, ERR_OVERLOADED, "out of memory for the body");
    return x->piece != NULL;
}

void exchange_take_piece(struct exchange *x, const char *data, size_t *bytes)
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

enum err_code exchange_feed(struct exchange *x)
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

/*
 * exchange_body.c - the body of a request on its way in.
 *
 * A buffered body that is not compressed is copied to where it belongs as it arrives.  Any other
 * comes in pieces, each of which a worker takes: it expands them, into the buffer or in slices of
 * constant size, and gives what is streamed to the API.
 *
 * WHAT A COMPRESSED BODY MAY COST.  A buffered one may expand to body_bytes_max, and only what has
 * been expanded takes memory.  A streamed one takes constant memory, but time: it may expand to
 * EXPANSION_MAX times what was sent, which no text compressed with gzip reaches.  What decoders
 * take together has a limit, too.
 */
#include <string.h>
#include <sys/mman.h>

#include "server/body_decoder.h"
#include "server/http_private.h"
#include "storage/base/mem.h"

enum {
    BODY_PADDING = 64, /* zero bytes behind a body, for parsers that look ahead */
    BODY_FIRST_BYTES = 64 * 1024,
    BODIES_MAX = 16,          /* bodies of the greatest length that may be in memory at once */
    PIECE_BYTES = 256 * 1024, /* of a body that comes in pieces, and of what they expand to */
    EXPANSION_MAX = 1100,     /* gzip reaches 1032 */
    DECODERS_BYTES_MAX = 256 * 1024 * 1024, /* 30 windows of the greatest length */
};

static const char TOO_LONG[] = "the body is longer than server.max_body_bytes";
static const char TOO_MANY[] = "too many long bodies are under way";
static const char TOO_MANY_DECODERS[] = "too many compressed bodies are under way";
static const char NO_MEMORY[] = "out of memory for the body";

/* Count memory.  False: it is too much, and not counted. */
static bool count_memory(_Atomic uint64_t *counter, size_t more, uint64_t bytes_max)
{
    uint64_t others = atomic_fetch_add_explicit(counter, more, memory_order_relaxed);

    if (others + more <= bytes_max) return true;
    atomic_fetch_sub_explicit(counter, more, memory_order_relaxed);
    return false;
}

/* What has arrived, not what was announced: that is memory which nobody has touched yet. */
static bool bodies_count(struct http *http, size_t more)
{
    return count_memory(&http->bodies_bytes, more, BODIES_MAX * http->options.body_bytes_max);
}

/* ---- room ---- */

/* For pieces, and the one who expands them. */
static bool exchange_make_piece(struct exchange *x)
{
    bool is_short = !x->req.chunked && x->req.content_length < PIECE_BYTES;

    /* One byte more: a piece that is full is fed at once, a short body at its end. */
    x->piece_cap = is_short ? (size_t)x->req.content_length + 1 : PIECE_BYTES;
    x->piece = mem_try(x->piece_cap);
    if (!x->piece) return false;
    if (x->req.encoding == ENCODING_IDENTITY) return true;
    x->decoder = body_decoder_new(x->req.encoding);
    if (x->is_stream) x->expanded = mem_try(PIECE_BYTES);
    return x->decoder && (x->expanded || !x->is_stream);
}

bool exchange_make_body(struct exchange *x)
{
    uint64_t bytes_max = x->loop->http->options.body_bytes_max;
    bool in_pieces = x->is_stream || x->req.encoding != ENCODING_IDENTITY;

    if (!x->is_stream && x->req.content_length > bytes_max) {
        exchange_fail(x, ERR_PAYLOAD_TOO_LARGE, TOO_LONG);
        return false;
    }
    x->state = in_pieces ? EXCHANGE_STREAM : EXCHANGE_BODY;
    if (in_pieces && !exchange_make_piece(x)) goto no_memory;
    if (x->is_stream) return true;
    x->body_cap = (size_t)x->req.content_length;
    if (x->req.chunked || in_pieces)
        x->body_cap = bytes_max < BODY_FIRST_BYTES ? bytes_max : BODY_FIRST_BYTES;
    x->req.body = mem_try(x->body_cap + BODY_PADDING);
    if (x->req.body) return true;
no_memory:
    exchange_fail(x, ERR_OVERLOADED, NO_MEMORY);
    return false;
}

static void exchange_free_body(struct exchange *x)
{
    if (x->body_is_mapped)
        munmap(x->req.body, x->body_cap + BODY_PADDING);
    else
        mem_free(x->req.body);
    x->req.body = NULL;
    x->body_is_mapped = false;
}

/* Make room for `need` bytes in all, in a body of unknown length: at once for the longest that
 * there may be, of which pages that nobody touches take no memory.  And back it goes to the system,
 * instead of staying with the allocator of whichever thread it was. */
static enum err_code exchange_grow_body(struct exchange *x, size_t need, struct err *err)
{
    uint64_t bytes_max = x->loop->http->options.body_bytes_max;
    size_t bytes = (size_t)bytes_max + BODY_PADDING;

    if (need > bytes_max) return err_set(err, ERR_PAYLOAD_TOO_LARGE, TOO_LONG);
    char *body = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (body == MAP_FAILED) return err_set(err, ERR_OVERLOADED, NO_MEMORY);
    madvise(body, bytes, MADV_NOHUGEPAGE); /* what is not counted should not be taken */
    memcpy(body, x->req.body, x->req.body_bytes);
    exchange_free_body(x);
    x->req.body = body;
    x->body_is_mapped = true;
    x->body_cap = (size_t)bytes_max;
    return ERR_OK;
}

void exchange_drop_body(struct exchange *x)
{
    struct http *http = x->loop->http;

    atomic_fetch_sub_explicit(&http->bodies_bytes, x->req.body_bytes, memory_order_relaxed);
    atomic_fetch_sub_explicit(&http->decoders_bytes, x->decoder_bytes, memory_order_relaxed);
    x->req.body_bytes = x->decoder_bytes = 0;
    exchange_free_body(x);
    mem_free(x->piece);
    mem_free(x->expanded);
    body_decoder_free(x->decoder);
    x->piece = x->expanded = NULL;
    x->piece_bytes = 0;
    x->decoder = NULL;
}

/* ---- as it arrives ---- */

static enum err_code exchange_add_body(struct exchange *x, const char *data, size_t bytes,
                                       struct err *err)
{
    size_t need = x->req.body_bytes + bytes;
    enum err_code rc = need > x->body_cap ? exchange_grow_body(x, need, err) : ERR_OK;

    if (rc) return rc;
    if (!bodies_count(x->loop->http, bytes)) return err_set(err, ERR_OVERLOADED, TOO_MANY);
    memcpy(x->req.body + x->req.body_bytes, data, bytes);
    x->req.body_bytes += bytes;
    return ERR_OK;
}

void exchange_take_body(struct exchange *x, const char *data, size_t bytes)
{
    struct err err;

    if (exchange_add_body(x, data, bytes, &err) == ERR_OK) return;
    /* libmicrohttpd takes no answer in the middle of a body: let the rest go by, for as long as a
     * request may take to arrive. */
    exchange_fail(x, err.code, err.msg);
    exchange_drop_body(x);
    x->res.close = true;
    x->state = EXCHANGE_DISCARD;
}

/* The first failure counts. */
static void exchange_note(struct exchange *x, const struct err *err)
{
    if (x->req.feed_rc) return;
    x->req.feed_rc = err->code;
    x->req.feed_err = *err;
}

void exchange_fail_body(struct exchange *x)
{
    const struct err *err = &x->req.feed_err;

    if (x->req.feed_rc == ERR_SHUTTING_DOWN)
        exchange_fail(x, ERR_SHUTTING_DOWN, "the server is stopping");
    else
        exchange_fail(x, err->code == ERR_NOMEM ? ERR_OVERLOADED : err->code, err->msg);
    exchange_drop_body(x);
}

void exchange_take_piece(struct exchange *x, const char *data, size_t *bytes)
{
    size_t room = x->piece_cap - x->piece_bytes, take = *bytes < room ? *bytes : room;
    struct err err;

    memcpy(x->piece + x->piece_bytes, data, take);
    x->piece_bytes += take;
    *bytes -= take;
    if (x->piece_bytes < x->piece_cap) return;
    if (exchange_submit(x, JOB_FEED)) {
        x->state = EXCHANGE_BUSY;
        /* A stream waits for us now.  A buffered body has one deadline for all of it. */
        if (x->is_stream) exchange_expect(x, 0);
        return;
    }
    err_set(&err, ERR_OVERLOADED, "too many requests are waiting");
    exchange_note(x, &err);
    x->piece_bytes = 0;
    x->state = EXCHANGE_DISCARD;
    if (!x->is_stream) exchange_fail_body(x);
}

/* ---- on a worker ---- */

/* The decoder has grown by the window of a frame, or shrunk. */
static enum err_code exchange_count_decoder(struct exchange *x, struct err *err)
{
    _Atomic uint64_t *counter = &x->loop->http->decoders_bytes;
    size_t now = body_decoder_memory(x->decoder), was = x->decoder_bytes;

    if (now > was && !count_memory(counter, now - was, DECODERS_BYTES_MAX))
        return err_set(err, ERR_OVERLOADED, TOO_MANY_DECODERS);
    if (now < was) atomic_fetch_sub_explicit(counter, was - now, memory_order_relaxed);
    x->decoder_bytes = now;
    return ERR_OK;
}

/* Expand to `out`; *is_empty: no more comes of this input. */
static enum err_code exchange_expand(struct exchange *x, const char **in, size_t *in_bytes,
                                     char *out, size_t room, size_t *out_bytes, bool *is_empty,
                                     struct err *err)
{
    if (atomic_load_explicit(&x->loop->http->out_of_time, memory_order_relaxed))
        return err_set(err, ERR_SHUTTING_DOWN, "the server is stopping");
    enum err_code rc = body_decoder_run(x->decoder, in, in_bytes, out, room, out_bytes, err);
    *is_empty = *out_bytes < room;
    return rc ? rc : exchange_count_decoder(x, err);
}

/* The piece, expanded, to the end of the body.  One byte of the padding is used to see whether a
 * full body would go on. */
static enum err_code exchange_expand_body(struct exchange *x, struct err *err)
{
    const char *in = x->piece;
    size_t in_bytes = x->piece_bytes, out_bytes;
    bool is_empty = false;

    while (!is_empty) {
        size_t at = x->req.body_bytes, room = x->body_cap + 1 - at;
        if (room > PIECE_BYTES) room = PIECE_BYTES;
        enum err_code rc =
            exchange_expand(x, &in, &in_bytes, x->req.body + at, room, &out_bytes, &is_empty, err);
        if (rc) return rc;
        if (!bodies_count(x->loop->http, out_bytes)) return err_set(err, ERR_OVERLOADED, TOO_MANY);
        x->req.body_bytes += out_bytes;
        if (x->req.body_bytes > x->body_cap) rc = exchange_grow_body(x, x->req.body_bytes, err);
        if (rc) return rc;
    }
    return ERR_OK;
}

/* The piece, expanded, slice by slice to the API. */
static enum err_code exchange_expand_stream(struct exchange *x, struct err *err)
{
    const char *in = x->piece;
    size_t in_bytes = x->piece_bytes, out_bytes;
    uint64_t bytes_max = x->loop->http->options.body_bytes_max;
    bool is_empty = false;

    x->received_bytes += in_bytes;
    while (!is_empty) {
        enum err_code rc = exchange_expand(x, &in, &in_bytes, x->expanded, PIECE_BYTES, &out_bytes,
                                           &is_empty, err);
        if (rc) return rc;
        x->expanded_bytes += out_bytes;
        if (x->expanded_bytes > bytes_max && x->expanded_bytes / EXPANSION_MAX > x->received_bytes)
            return err_set(err, ERR_PAYLOAD_TOO_LARGE,
                           "the body is more than %d times longer than it was sent", EXPANSION_MAX);
        if (out_bytes > 0) rc = api_feed(x->loop->http->app, &x->req, x->expanded, out_bytes, err);
        if (rc) return rc;
    }
    return ERR_OK;
}

void exchange_feed(struct exchange *x)
{
    struct err err;
    enum err_code rc;

    if (x->piece_bytes == 0 || x->req.feed_rc) return;
    if (!x->decoder)
        rc = api_feed(x->loop->http->app, &x->req, x->piece, x->piece_bytes, &err);
    else if (x->is_stream)
        rc = exchange_expand_stream(x, &err);
    else
        rc = exchange_expand_body(x, &err);
    if (rc) exchange_note(x, &err);
    x->piece_bytes = 0;
}

void exchange_end_body(struct exchange *x)
{
    struct err err;

    if (x->decoder && !x->req.feed_rc && body_decoder_end(x->decoder, &err)) exchange_note(x, &err);
    if (x->req.body) memset(x->req.body + x->req.body_bytes, 0, BODY_PADDING);
}

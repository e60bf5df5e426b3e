/* body_decoder.c - zlib and libzstd behind one interface. */
#include "server/body_decoder.h"

#include <assert.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

#include "storage/base/mem.h"

enum {
    WINDOW_LOG_MAX = 23,
    GZIP_MEMORY = 48 * 1024, /* of inflate(), with its window */
    GZIP_FIRST_BYTE = 0x1f,
    MAGIC_BYTES = 4,
    ZSTD_HEAD_BYTES_MAX = 18,
};
_Static_assert(1 << WINDOW_LOG_MAX == BODY_WINDOW_BYTES_MAX, "the window of zstd");

struct body_decoder {
    enum api_encoding encoding;
    bool is_between; /* members or frames: here the body may end */
    bool any;        /* of them is complete */
    z_stream gzip;
    ZSTD_DStream *zstd;
    /* Of the frame at hand. */
    unsigned char head[ZSTD_HEAD_BYTES_MAX]; /* what was read of it first */
    size_t head_bytes;
    uint64_t made; /* what came out of it */
};

struct body_decoder *body_decoder_new(enum api_encoding encoding)
{
    struct body_decoder *d = mem_new(struct body_decoder);
    d->encoding = encoding;
    d->is_between = true;
    if (encoding == ENCODING_GZIP) {
        if (inflateInit2(&d->gzip, MAX_WBITS + 16) == Z_OK) return d;
    } else {
        assert(encoding == ENCODING_ZSTD);
        d->zstd = ZSTD_createDStream();
        if (d->zstd &&
            !ZSTD_isError(ZSTD_DCtx_setParameter(d->zstd, ZSTD_d_windowLogMax, WINDOW_LOG_MAX)))
            return d;
        ZSTD_freeDStream(d->zstd);
    }
    mem_free(d);
    return NULL;
}

void body_decoder_free(struct body_decoder *d)
{
    if (!d) return;
    if (d->encoding == ENCODING_GZIP) inflateEnd(&d->gzip);
    ZSTD_freeDStream(d->zstd);
    mem_free(d);
}

size_t body_decoder_memory(const struct body_decoder *d)
{
    return d->zstd ? ZSTD_sizeof_DStream(d->zstd) : GZIP_MEMORY;
}

static const char *name_of(const struct body_decoder *d)
{
    return d->encoding == ENCODING_GZIP ? "gzip" : "zstd";
}

/* What stands where a member or a frame should begin does not begin one. */
static enum err_code refuse_start(const struct body_decoder *d, struct err *err)
{
    if (d->any)
        return err_set(err, ERR_INVALID_REQUEST, "the body goes on behind the end of its %s stream",
                       name_of(d));
    return err_set(err, ERR_INVALID_REQUEST, "the body is not %s, as its Content-Encoding says",
                   name_of(d));
}

static enum err_code refuse_damage(const struct body_decoder *d, const char *why, struct err *err)
{
    return err_set(err, ERR_INVALID_REQUEST, "the %s stream of the body is damaged: %s", name_of(d),
                   why);
}

/* ---- gzip ---- */

static enum err_code gzip_failed(const struct body_decoder *d, int rc, struct err *err)
{
    if (rc == Z_MEM_ERROR) return err_set(err, ERR_NOMEM, "out of memory for a gzip stream");
    return refuse_damage(d, d->gzip.msg ? d->gzip.msg : "it makes no sense", err);
}

static enum err_code gzip_run(struct body_decoder *d, struct err *err)
{
    z_stream *z = &d->gzip;
    do {
        if (d->is_between) {
            if (z->avail_in == 0) return ERR_OK;
            if (*z->next_in != GZIP_FIRST_BYTE) return refuse_start(d, err);
            if (d->any && inflateReset(z) != Z_OK)
                return err_set(err, ERR_INTERNAL, "inflateReset() failed");
            d->is_between = false;
        }
        int rc = inflate(z, Z_NO_FLUSH);
        if (rc == Z_BUF_ERROR) return ERR_OK; /* nothing to do until there is more input */
        if (rc != Z_OK && rc != Z_STREAM_END) return gzip_failed(d, rc, err);
        if (rc == Z_STREAM_END) d->is_between = d->any = true;
    } while (z->avail_out > 0 && z->avail_in > 0);
    return ERR_OK;
}

/* ---- zstd ---- */

/* libzstd would read frames of its first versions, too, which know no bound of the window.
 * Looks at the first bytes of a frame: true while it can be one of RFC 8878. */
static bool zstd_begins(const struct body_decoder *d, const unsigned char *in, size_t bytes)
{
    static const unsigned char FRAME[MAGIC_BYTES] = {0x28, 0xb5, 0x2f, 0xfd};
    static const unsigned char SKIPPABLE[MAGIC_BYTES] = {0x50, 0x2a, 0x4d, 0x18};
    unsigned char magic[MAGIC_BYTES];
    size_t known = d->head_bytes;

    if (known >= MAGIC_BYTES) return true;
    memcpy(magic, d->head, known);
    for (; bytes > 0 && known < MAGIC_BYTES; bytes--)
        magic[known++] = *in++;
    if (memcmp(magic, FRAME, known) == 0) return true;
    return (magic[0] & 0xf0) == SKIPPABLE[0] &&
           (known < 2 || memcmp(magic + 1, SKIPPABLE + 1, known - 1) == 0);
}

static void zstd_note_head(struct body_decoder *d, const unsigned char *in, size_t bytes)
{
    for (; bytes > 0 && d->head_bytes < ZSTD_HEAD_BYTES_MAX; bytes--)
        d->head[d->head_bytes++] = *in++;
}

/* A frame is complete: did as much come out as its head promised?  libzstd looks at that unless
 * the last block is empty. */
static bool zstd_is_whole(const struct body_decoder *d)
{
    unsigned long long promised = ZSTD_getFrameContentSize(d->head, d->head_bytes);
    return promised == ZSTD_CONTENTSIZE_UNKNOWN || promised == d->made;
}

static enum err_code zstd_failed(const struct body_decoder *d, size_t rc, struct err *err)
{
    switch (ZSTD_getErrorCode(rc)) {
    case ZSTD_error_memory_allocation:
        return err_set(err, ERR_NOMEM, "out of memory for a zstd stream");
    case ZSTD_error_frameParameter_windowTooLarge:
        return err_set(err, ERR_INVALID_REQUEST,
                       "the zstd stream of the body needs a window of more than 8 MiB; compress it "
                       "at level 19 or below, without --long");
    default:
        return refuse_damage(d, ZSTD_getErrorName(rc), err);
    }
}

static enum err_code zstd_run(struct body_decoder *d, ZSTD_inBuffer *in, ZSTD_outBuffer *out,
                              struct err *err)
{
    do {
        if (d->is_between && in->pos == in->size) return ERR_OK;
        const unsigned char *from = (const unsigned char *)in->src + in->pos;
        size_t left = in->size - in->pos, room = out->size - out->pos;
        if (!zstd_begins(d, from, left)) return refuse_start(d, err);
        size_t rc = ZSTD_decompressStream(d->zstd, out, in);
        if (ZSTD_isError(rc)) return zstd_failed(d, rc, err);
        zstd_note_head(d, from, left - (in->size - in->pos));
        d->made += room - (out->size - out->pos);
        d->is_between = rc == 0;
        if (d->is_between) {
            if (!zstd_is_whole(d))
                return refuse_damage(d, "a frame is not as long as its head says", err);
            d->any = true;
            d->head_bytes = 0;
            d->made = 0;
        }
    } while (out->pos < out->size && in->pos < in->size);
    return ERR_OK;
}

/* ---- either ---- */

enum err_code body_decoder_run(struct body_decoder *d, const char **in, size_t *in_bytes, char *out,
                               size_t room, size_t *out_bytes, struct err *err)
{
    enum err_code rc;

    assert(room > 0);
    if (d->zstd) {
        ZSTD_inBuffer from = {.src = *in, .size = *in_bytes};
        ZSTD_outBuffer to = {.dst = out, .size = room};
        rc = zstd_run(d, &from, &to, err);
        *in += from.pos;
        *in_bytes -= from.pos;
        *out_bytes = to.pos;
        return rc;
    }
    assert(*in_bytes <= UINT_MAX && room <= UINT_MAX);
    d->gzip.next_in = (z_const Bytef *)(uintptr_t)*in;
    d->gzip.avail_in = (uInt)*in_bytes;
    d->gzip.next_out = (Bytef *)out;
    d->gzip.avail_out = (uInt)room;
    rc = gzip_run(d, err);
    *in += *in_bytes - d->gzip.avail_in;
    *in_bytes = d->gzip.avail_in;
    *out_bytes = room - d->gzip.avail_out;
    return rc;
}

enum err_code body_decoder_end(const struct body_decoder *d, struct err *err)
{
    if (d->is_between) return ERR_OK;
    return err_set(err, ERR_INVALID_REQUEST, "the body ends in the middle of its %s stream",
                   name_of(d));
}

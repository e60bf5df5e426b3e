/* answer_encoder.c - Accept-Encoding, and zlib. */
#include "server/answer_encoder.h"

#include <assert.h>
#include <limits.h>
#include <stdint.h>
#include <string.h>
#include <strings.h>
#include <zlib.h>

#include "storage/base/mem.h"

/* ---- Accept-Encoding ---- */

/* ";q=0.5" with blanks anywhere: thousandths.  No weight is 1; one that makes no sense 0. */
static int weight_of(const char *text, size_t len)
{
    const char *end = text + len;
    int weight = 0;

    while (text < end && strchr(" \t;", *text))
        text++;
    if (text == end) return 1000;
    if (end - text < 3 || strncasecmp(text, "q=", 2) != 0 || (text[2] != '0' && text[2] != '1'))
        return 0;
    weight = (text[2] - '0') * 1000;
    text += 3;
    if (text < end && *text == '.') {
        text++;
        for (int unit = 100; text < end && *text >= '0' && *text <= '9'; unit /= 10)
            weight += (*text++ - '0') * unit;
    }
    while (text < end && (*text == ' ' || *text == '\t'))
        text++;
    return text < end || weight > 1000 ? 0 : weight;
}

bool accepts_gzip(const char *header)
{
    int gzip = -1, identity = -1, rest = -1; /* -1: not named */

    while (header && *header) {
        header += strspn(header, " \t,");
        size_t len = strcspn(header, ","), name = strcspn(header, " \t;,");
        int weight = weight_of(header + name, len - name);
        if ((name == 4 && strncasecmp(header, "gzip", 4) == 0) ||
            (name == 6 && strncasecmp(header, "x-gzip", 6) == 0))
            gzip = weight > gzip ? weight : gzip;
        else if (name == 8 && strncasecmp(header, "identity", 8) == 0)
            identity = weight;
        else if (name == 1 && *header == '*')
            rest = weight;
        header += len;
    }
    if (gzip < 0) gzip = rest;
    return gzip > 0 && gzip >= identity;
}

/* ---- gzip ---- */

struct answer_encoder {
    z_stream gzip;
};

struct answer_encoder *answer_encoder_new(void)
{
    struct answer_encoder *e = mem_new(struct answer_encoder);

    if (deflateInit2(&e->gzip, Z_BEST_SPEED, Z_DEFLATED, MAX_WBITS + 16, 8, Z_DEFAULT_STRATEGY) ==
        Z_OK)
        return e;
    mem_free(e);
    return NULL;
}

void answer_encoder_free(struct answer_encoder *e)
{
    if (!e) return;
    deflateEnd(&e->gzip);
    mem_free(e);
}

void answer_encoder_run(struct answer_encoder *e, const char *data, size_t bytes, bool last,
                        struct buf *out)
{
    z_stream *z = &e->gzip;
    int rc = Z_OK;

    assert(bytes <= UINT_MAX);
    z->next_in = (z_const Bytef *)(uintptr_t)data;
    z->avail_in = (uInt)bytes;
    do {
        size_t room = z->avail_in / 2 + 1024;
        z->next_out = (Bytef *)buf_reserve(out, room);
        if (!z->next_out) return;
        z->avail_out = (uInt)room;
        rc = deflate(z, last ? Z_FINISH : Z_NO_FLUSH);
        assert(rc == Z_OK || rc == Z_STREAM_END || rc == Z_BUF_ERROR);
        out->len += room - z->avail_out;
    } while (rc != Z_STREAM_END && (z->avail_in > 0 || z->avail_out == 0));
}

/*
 * fuzz_body.c - compressed bodies: however they are sliced, the same comes out, and it costs no
 * more memory than body_decoder.h says.
 *
 * An input is the encoding (first byte), the size of slices (two bytes), and the body.
 */
#include "tests/fuzz/fuzz.h"

#include <zlib.h>
#include <zstd.h>

#include "server/body_decoder.h"

enum { HEAD = 3, OUT_BYTES_MAX = 1 << 20 };

/* What comes out, up to OUT_BYTES_MAX; the server has such a bound, too. */
static enum err_code expand(enum api_encoding encoding, const uint8_t *body, size_t bytes,
                            size_t slice, size_t room, struct buf *out)
{
    struct body_decoder *d = body_decoder_new(encoding);
    struct err err;
    enum err_code rc = ERR_OK;
    CLAIM(d);
    for (size_t at = 0; at < bytes && !rc && out->len < OUT_BYTES_MAX; at += slice) {
        size_t left = bytes - at < slice ? bytes - at : slice, made;
        char *piece = fuzz_text(body + at, left), *exact = malloc(room);
        const char *in = piece;
        CLAIM(exact);
        do {
            rc = body_decoder_run(d, &in, &left, exact, room, &made, &err);
            CLAIM(made <= room);
            buf_add(out, exact, made);
        } while (!rc && made == room && out->len < OUT_BYTES_MAX);
        CLAIM(rc || out->len >= OUT_BYTES_MAX || left == 0);
        free(exact);
        free(piece);
    }
    if (!rc && out->len < OUT_BYTES_MAX) rc = body_decoder_end(d, &err);
    CLAIM(body_decoder_memory(d) < BODY_WINDOW_BYTES_MAX + 1024 * 1024);
    CLAIM(!rc || rc == ERR_INVALID_REQUEST || rc == ERR_NOMEM);
    body_decoder_free(d);
    return rc;
}

static size_t gzip(const void *from, size_t bytes, void *to, size_t room)
{
    z_stream z = {0};
    if (deflateInit2(&z, 6, Z_DEFLATED, MAX_WBITS + 16, 8, Z_DEFAULT_STRATEGY) != Z_OK) return 0;
    z.next_in = (z_const Bytef *)(uintptr_t)from;
    z.avail_in = (uInt)bytes;
    z.next_out = to;
    z.avail_out = (uInt)room;
    int end = deflate(&z, Z_FINISH);
    deflateEnd(&z);
    return end == Z_STREAM_END ? room - z.avail_out : 0;
}

static size_t zstd(const void *from, size_t bytes, void *to, size_t room)
{
    size_t len = ZSTD_compress(to, room, from, bytes, 3);
    return ZSTD_isError(len) ? 0 : len;
}

/* What goes in comes out again; without its end it is refused. */
static void comes_back(enum api_encoding encoding, const uint8_t *text, size_t bytes, size_t slice)
{
    size_t room = bytes + bytes / 8 + 256;
    uint8_t *packed = malloc(room);
    struct buf out = {0};
    CLAIM(packed);
    size_t len = encoding == ENCODING_ZSTD ? zstd(text, bytes, packed, room)
                                           : gzip(text, bytes, packed, room);
    CLAIM(len > 0);
    CLAIM(!expand(encoding, packed, len, slice, 1000, &out));
    CLAIM(out.len == bytes && (bytes == 0 || memcmp(out.data, text, bytes) == 0));
    out.len = 0;
    CLAIM(expand(encoding, packed, len - 1 - bytes % (len - 1), slice, 1000, &out));
    buf_free(&out);
    free(packed);
}

static void are_alike(enum err_code a, const struct buf *of_a, enum err_code b,
                      const struct buf *of_b)
{
    bool whole = of_a->len < OUT_BYTES_MAX && of_b->len < OUT_BYTES_MAX;
    CLAIM(!whole || a == b);
    CLAIM(!whole || a || of_a->len == of_b->len);
    size_t both = of_a->len < of_b->len ? of_a->len : of_b->len;
    CLAIM(both == 0 || memcmp(of_a->data, of_b->data, both) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < HEAD) return 0;
    enum api_encoding encoding = data[0] & 1 ? ENCODING_ZSTD : ENCODING_GZIP;
    /* libzstd has other code for a frame that lies there in one piece (9 bytes are the shortest).
     * The two disagree about a few blocks that hold nothing and are not what RFC 8878 says. */
    bool is_zstd = encoding == ENCODING_ZSTD;
    size_t slice = 1 + (is_zstd ? data[1] % 8 : data[1]), room = 1 + 256 * (size_t)data[2];
    struct buf whole = {0}, sliced = {0}, bytewise = {0};
    data += HEAD;
    size -= HEAD;
    enum err_code a = expand(encoding, data, size, size ? size : 1, 64 * 1024, &whole);
    enum err_code b = expand(encoding, data, size, slice, room, &sliced);
    if (is_zstd)
        are_alike(b, &sliced, expand(encoding, data, size, 1, 64 * 1024, &bytewise), &bytewise);
    if (!is_zstd || (!a && !b)) are_alike(a, &whole, b, &sliced);
    buf_free(&whole);
    buf_free(&sliced);
    buf_free(&bytewise);
    comes_back(encoding, data, size, slice);
    return 0;
}

/* A good member or frame behind what there is, now and then: random bytes have no checksums. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t size_max, unsigned seed)
{
    char text[256];
    if (size < HEAD || seed % 8) return LLVMFuzzerMutate(data, size, size_max);
    size_t bytes = seed / 8 % sizeof text;
    memset(text, (int)(seed >> 16 & 0x7f), bytes);
    if (bytes) LLVMFuzzerMutate((uint8_t *)text, bytes, sizeof text);
    size_t room = size_max - size;
    return size + (data[0] & 1 ? zstd(text, bytes, data + size, room)
                               : gzip(text, bytes, data + size, room));
}

void fuzz_seeds(fuzz_add_fn *add, void *ctx)
{
    static uint8_t seed[8192], text[100000];
    for (int encoding = 0; encoding < 2; encoding++) {
        for (size_t bytes = 0; bytes <= sizeof text; bytes = bytes ? bytes * 10 : 10) {
            for (size_t i = 0; i < bytes; i++)
                text[i] = (uint8_t)("[0.25,-1.5e3]"[i % 13] + (i / 1000 & 1));
            memcpy(seed, (uint8_t[]){(uint8_t)encoding, 7, 1}, HEAD);
            size_t room = sizeof seed - HEAD;
            size_t len = encoding ? zstd(text, bytes, seed + HEAD, room)
                                  : gzip(text, bytes, seed + HEAD, room);
            add(ctx, seed, HEAD + len);
        }
    }
    add(ctx, "\0\1\1", HEAD);
}

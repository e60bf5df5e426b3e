/* test_body_decoder.c - whatever the slices, what comes out is what went in, or an error. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "server/body_decoder.h"
#include "storage/base/buf.h"
#include "storage/base/mem.h"

static const enum api_encoding BOTH[] = {ENCODING_GZIP, ENCODING_ZSTD};

static void gzip_add(struct buf *to, const void *from, size_t bytes)
{
    z_stream z = {0};
    assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, MAX_WBITS + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
    size_t room = deflateBound(&z, bytes);
    z.next_in = (z_const Bytef *)(uintptr_t)from;
    z.avail_in = (uInt)bytes;
    z.next_out = (Bytef *)buf_reserve(to, room);
    z.avail_out = (uInt)room;
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    to->len += room - z.avail_out;
    deflateEnd(&z);
}

static void zstd_add(struct buf *to, const void *from, size_t bytes, int window_log)
{
    ZSTD_CCtx *c = ZSTD_createCCtx();
    size_t room = ZSTD_compressBound(bytes);
    ZSTD_CCtx_setParameter(c, ZSTD_c_checksumFlag, 1);
    if (window_log) {
        ZSTD_CCtx_setParameter(c, ZSTD_c_windowLog, window_log);
        ZSTD_CCtx_setParameter(c, ZSTD_c_contentSizeFlag, 0);
    }
    size_t len = ZSTD_compress2(c, buf_reserve(to, room), room, from, bytes);
    assert_false(ZSTD_isError(len));
    to->len += len;
    ZSTD_freeCCtx(c);
}

static void add(enum api_encoding encoding, struct buf *to, const void *from, size_t bytes)
{
    if (encoding == ENCODING_GZIP)
        gzip_add(to, from, bytes);
    else
        zstd_add(to, from, bytes, 0);
}

/* Expand in slices of `slice` bytes into rooms of `room`. */
static enum err_code expand(enum api_encoding encoding, const struct buf *from, size_t slice,
                            size_t room, struct buf *to, struct err *err)
{
    struct body_decoder *d = body_decoder_new(encoding);
    enum err_code rc = ERR_OK;
    for (size_t at = 0; at < from->len && !rc; at += slice) {
        size_t bytes = from->len - at < slice ? from->len - at : slice, made;
        char *copy = mem_try(bytes); /* exactly as long, for the sanitizer */
        const char *in = copy;
        memcpy(copy, from->data + at, bytes);
        do {
            rc = body_decoder_run(d, &in, &bytes, buf_reserve(to, room), room, &made, err);
            to->len += made;
        } while (!rc && made == room);
        if (!rc) assert_int_equal(bytes, 0);
        mem_free(copy);
    }
    if (!rc) rc = body_decoder_end(d, err);
    assert_true(body_decoder_memory(d) < BODY_WINDOW_BYTES_MAX + 1024 * 1024);
    body_decoder_free(d);
    return rc;
}

static void expect_error(enum api_encoding encoding, const struct buf *from, size_t slice,
                         const char *says)
{
    struct buf to = {0};
    struct err err;
    assert_int_equal(expand(encoding, from, slice, 1000, &to, &err), ERR_INVALID_REQUEST);
    if (!strstr(err.msg, says)) fail_msg("%s, wanted %s", err.msg, says);
    buf_free(&to);
}

static void fill(char *text, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        text[i] = (char)(i % 7 ? i * i >> 5 : 'x');
}

static void every_slice_and_room_gives_the_same(void **unused)
{
    (void)unused;
    enum { BYTES = 40000 };
    static const size_t sizes[] = {1, 2, 3, 7, 100, 4096, 65536};
    char *text = mem_try(BYTES);
    fill(text, BYTES);
    for (size_t e = 0; e < 2; e++) {
        struct buf from = {0}, to = {0};
        struct err err;
        add(BOTH[e], &from, text, BYTES);
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            for (size_t r = 0; r < sizeof sizes / sizeof *sizes; r++) {
                to.len = 0;
                assert_int_equal(expand(BOTH[e], &from, sizes[s], sizes[r], &to, &err), ERR_OK);
                assert_int_equal(to.len, BYTES);
                assert_memory_equal(to.data, text, BYTES);
            }
        }
        to.len = 0; /* a room that is full when all is there */
        assert_int_equal(expand(BOTH[e], &from, from.len, BYTES, &to, &err), ERR_OK);
        assert_int_equal(to.len, BYTES);
        buf_free(&from);
        buf_free(&to);
    }
    mem_free(text);
}

static void nothing_is_an_empty_body(void **unused)
{
    (void)unused;
    for (size_t e = 0; e < 2; e++) {
        struct buf from = {0}, to = {0};
        struct err err;
        assert_int_equal(expand(BOTH[e], &from, 1, 1, &to, &err), ERR_OK);
        add(BOTH[e], &from, "", 0);
        assert_int_equal(expand(BOTH[e], &from, 1, 1, &to, &err), ERR_OK);
        assert_int_equal(to.len, 0);
        buf_free(&from);
        buf_free(&to);
    }
}

static void members_behind_each_other_are_one_body(void **unused)
{
    (void)unused;
    for (size_t e = 0; e < 2; e++) {
        struct buf from = {0}, to = {0};
        struct err err;
        add(BOTH[e], &from, "one,", 4);
        add(BOTH[e], &from, "", 0);
        if (BOTH[e] == ENCODING_ZSTD)
            buf_add(&from, "\x5f\x2a\x4d\x18\x03\0\0\0abc", 11); /* skipped */
        add(BOTH[e], &from, "two", 3);
        for (size_t slice = 1; slice <= from.len; slice++) {
            to.len = 0;
            assert_int_equal(expand(BOTH[e], &from, slice, 2, &to, &err), ERR_OK);
            assert_int_equal(to.len, 7);
            assert_memory_equal(to.data, "one,two", 7);
        }
        buf_free(&from);
        buf_free(&to);
    }
}

static void what_follows_the_end_is_refused(void **unused)
{
    (void)unused;
    for (size_t e = 0; e < 2; e++) {
        struct buf from = {0};
        add(BOTH[e], &from, "text", 4);
        size_t end = from.len;
        for (size_t slice = 1; slice <= end + 2; slice++) {
            from.len = end;
            buf_add(&from, "\0\0", 2);
            expect_error(BOTH[e], &from, slice, "goes on behind the end");
            from.len = end;
            buf_add(&from, "{}", 2);
            expect_error(BOTH[e], &from, slice, "goes on behind the end");
        }
        buf_free(&from);
    }
}

static void every_end_before_the_end_is_noticed(void **unused)
{
    (void)unused;
    char text[500];
    fill(text, sizeof text);
    for (size_t e = 0; e < 2; e++) {
        struct buf from = {0};
        add(BOTH[e], &from, text, sizeof text);
        size_t end = from.len;
        for (from.len = 1; from.len < end; from.len++) {
            expect_error(BOTH[e], &from, from.len, "ends in the middle");
            expect_error(BOTH[e], &from, 1, "ends in the middle");
        }
        buf_free(&from);
    }
}

static void every_flipped_bit_is_noticed_or_harmless(void **unused)
{
    (void)unused;
    char text[200];
    fill(text, sizeof text);
    for (size_t e = 0; e < 2; e++) {
        struct buf from = {0}, to = {0};
        struct err err;
        size_t noticed = 0;
        add(BOTH[e], &from, text, sizeof text);
        for (size_t bit = 0; bit < 8 * from.len; bit++) {
            from.data[bit / 8] ^= (char)(1 << bit % 8);
            to.len = 0;
            if (expand(BOTH[e], &from, from.len, 64, &to, &err)) {
                noticed++;
            } else { /* time and system in a gzip head, an unused bit in a zstd head */
                assert_int_equal(to.len, sizeof text);
                assert_memory_equal(to.data, text, sizeof text);
            }
            from.data[bit / 8] ^= (char)(1 << bit % 8);
        }
        assert_true(noticed > 7 * (from.len - 12));
        buf_free(&from);
        buf_free(&to);
    }
}

static void another_format_is_refused(void **unused)
{
    (void)unused;
    struct buf from = {0};
    gzip_add(&from, "text", 4);
    expect_error(ENCODING_ZSTD, &from, 1, "is not zstd");
    from.len = 0;
    zstd_add(&from, "text", 4, 0);
    expect_error(ENCODING_GZIP, &from, 1, "is not gzip");
    from.len = 0;
    buf_str(&from, "{\"data\":[1]}");
    expect_error(ENCODING_GZIP, &from, 100, "is not gzip");
    expect_error(ENCODING_ZSTD, &from, 100, "is not zstd");
    for (char version = 0x22; version < 0x28; version++) { /* frames of libzstd before 0.8 */
        char magic[] = {version, '\xb5', '\x2f', '\xfd', 0x60, 0, 0, 0, 0, 0, 0, 0};
        from.len = 0;
        buf_add(&from, magic, sizeof magic);
        expect_error(ENCODING_ZSTD, &from, 1, "is not zstd");
        expect_error(ENCODING_ZSTD, &from, 12, "is not zstd");
    }
    buf_free(&from);
}

static void a_window_beyond_8_mib_is_refused(void **unused)
{
    (void)unused;
    const size_t bytes = 20 * 1024 * 1024;
    char *text = mem_zalloc(bytes);
    struct buf from = {0}, to = {0};
    struct err err;
    zstd_add(&from, text, bytes, 23);
    assert_int_equal(expand(ENCODING_ZSTD, &from, 5, 65536, &to, &err), ERR_OK);
    assert_int_equal(to.len, bytes);
    from.len = 0;
    zstd_add(&from, text, bytes, 24);
    expect_error(ENCODING_ZSTD, &from, from.len, "8 MiB");
    buf_free(&from);
    buf_free(&to);
    mem_free(text);
}

static void a_bomb_takes_no_memory(void **unused)
{
    (void)unused;
    enum { ROOM = 65536 };
    /* A frame without end: 128 KiB in each block of four bytes. */
    static const char head[] = {'\x28', '\xb5', '\x2f', '\xfd', 0, 0x38},
                      block[] = {0x02, 0, 0x10, 'x'};
    struct body_decoder *d = body_decoder_new(ENCODING_ZSTD);
    char *out = mem_try(ROOM);
    const char *in = head;
    size_t in_bytes = sizeof head, made;
    uint64_t total = 0;
    struct err err;
    assert_int_equal(body_decoder_run(d, &in, &in_bytes, out, ROOM, &made, &err), ERR_OK);
    for (int i = 0; i < 1000; i++) {
        in = block;
        in_bytes = sizeof block;
        do {
            assert_int_equal(body_decoder_run(d, &in, &in_bytes, out, ROOM, &made, &err), ERR_OK);
            total += made;
        } while (made == ROOM);
    }
    assert_int_equal(total, 1000ull * 128 * 1024);
    assert_true(body_decoder_memory(d) < 1024 * 1024); /* its window is 128 KiB */
    assert_int_equal(body_decoder_end(d, &err), ERR_INVALID_REQUEST);
    body_decoder_free(d);
    mem_free(out);
}

/* Found by tests/fuzz/fuzz_body.c: libzstd takes it, or not, depending on the slices. */
static void a_frame_shorter_than_its_head_says_is_refused(void **state)
{
    (void)state;
    /* 65 bytes are promised, and the only block is empty. */
    static const char frame[] = "\x28\xb5\x2f\xfd\x20\x41\x01\x00\x00";
    /* The same with none promised, behind one with a block of 2 bytes. */
    static const char good[] = "\x28\xb5\x2f\xfd\x20\x02\x11\x00\x00hi"
                               "\x28\xb5\x2f\xfd\x20\x00\x01\x00\x00";
    for (size_t slice = 1; slice <= 20; slice++) {
        struct buf from = {0}, to = {0};
        struct err err;
        buf_add(&from, frame, sizeof frame - 1);
        assert_int_equal(expand(ENCODING_ZSTD, &from, slice, 100, &to, &err), ERR_INVALID_REQUEST);
        from.len = 0;
        buf_add(&from, good, sizeof good - 1);
        assert_int_equal(expand(ENCODING_ZSTD, &from, slice, 100, &to, &err), ERR_OK);
        assert_int_equal(to.len, 2);
        buf_free(&from);
        buf_free(&to);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_slice_and_room_gives_the_same),
        cmocka_unit_test(nothing_is_an_empty_body),
        cmocka_unit_test(members_behind_each_other_are_one_body),
        cmocka_unit_test(what_follows_the_end_is_refused),
        cmocka_unit_test(every_end_before_the_end_is_noticed),
        cmocka_unit_test(every_flipped_bit_is_noticed_or_harmless),
        cmocka_unit_test(another_format_is_refused),
        cmocka_unit_test(a_window_beyond_8_mib_is_refused),
        cmocka_unit_test(a_bomb_takes_no_memory),
        cmocka_unit_test(a_frame_shorter_than_its_head_says_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

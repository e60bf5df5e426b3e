/* test_answer_encoder.c - who gets gzip, and that it is gzip. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>
#include <zlib.h>

#include "server/answer_encoder.h"
#include "storage/base/mem.h"

static void gzip_is_for_those_who_ask_for_it(void **unused)
{
    (void)unused;
    static const char *const yes[] = {
        "gzip",
        "GZip",
        "x-gzip",
        "*",
        "deflate, gzip, br, zstd",
        "br,gzip",
        "  gzip  ",
        "gzip;q=1",
        "gzip; q=0.001",
        "gzip ; q=0.5 , br",
        "gzip;q=0.5, identity;q=0.5",
        "gzip;q=1.000",
        "*;q=0.5",
        "identity;q=0.5, *",
        "identity;q=0, *;q=0.1",
        "br, *;q=0.1, gzip;q=1",
        ",,gzip,",
    };
    static const char *const no[] = {
        "",
        "identity",
        "br",
        "gzipped",
        "gzip;q=0",
        "gzip;q=0.000",
        "gzip;q=0, *",
        "*;q=0",
        "gzip;q=0.5, identity",
        "gzip;q=0.499, identity;q=0.5",
        "identity;q=1, *;q=0",
        "identity, *;q=0.5",
        "gzip;q=",
        "gzip;q=2",
        "gzip;q=1.001",
        "gzip;q=abc",
        "gzip;q=0.5x",
        "gzip;level=1",
        "deflate",
        "g zip",
        ";",
    };
    assert_false(accepts_gzip(NULL));
    for (size_t i = 0; i < sizeof yes / sizeof *yes; i++)
        if (!accepts_gzip(yes[i])) fail_msg("%s", yes[i]);
    for (size_t i = 0; i < sizeof no / sizeof *no; i++)
        if (accepts_gzip(no[i])) fail_msg("%s", no[i]);
}

static void whatever_the_pieces_it_expands_to_the_same(void **unused)
{
    (void)unused;
    enum { BYTES = 300000 };
    static const size_t pieces[] = {1000, 65536, BYTES};
    char *text = mem_try(BYTES), *back = mem_try(BYTES + 1);
    for (int kind = 0; kind < 2; kind++) {
        for (size_t i = 0; i < BYTES; i++) /* noise, which becomes longer; and text */
            text[i] = (char)(kind ? i * i * 2654435761u >> 20 : 'a' + (i >> 3) % 20);
        for (size_t p = 0; p < sizeof pieces / sizeof *pieces; p++) {
            struct answer_encoder *e = answer_encoder_new();
            struct buf out = {0};
            for (size_t at = 0; at < BYTES; at += pieces[p])
                answer_encoder_run(e, text + at, BYTES - at < pieces[p] ? BYTES - at : pieces[p],
                                   false, &out);
            answer_encoder_run(e, NULL, 0, true, &out);
            answer_encoder_free(e);
            assert_false(out.failed);
            z_stream z = {.next_in = (Bytef *)out.data, .avail_in = (uInt)out.len};
            assert_int_equal(inflateInit2(&z, MAX_WBITS + 16), Z_OK);
            z.next_out = (Bytef *)back;
            z.avail_out = BYTES + 1;
            assert_int_equal(inflate(&z, Z_FINISH), Z_STREAM_END);
            assert_int_equal(z.total_out, BYTES);
            assert_int_equal(z.avail_in, 0);
            assert_memory_equal(back, text, BYTES);
            inflateEnd(&z);
            buf_free(&out);
        }
    }
    mem_free(text);
    mem_free(back);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gzip_is_for_those_who_ask_for_it),
        cmocka_unit_test(whatever_the_pieces_it_expands_to_the_same),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

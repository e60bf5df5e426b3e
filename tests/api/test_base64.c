/* test_base64.c - RFC 4648's own examples, and back again. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "api/base64.h"

static void the_examples_of_the_rfc_hold(void **unused)
{
    (void)unused;
    static const char *const pairs[][2] = {{"", ""},
                                           {"f", "Zg=="},
                                           {"fo", "Zm8="},
                                           {"foo", "Zm9v"},
                                           {"foob", "Zm9vYg=="},
                                           {"fooba", "Zm9vYmE="},
                                           {"foobar", "Zm9vYmFy"}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        struct buf out = {0};
        char back[32];
        size_t n;
        base64_write(&out, pairs[i][0], strlen(pairs[i][0]));
        assert_int_equal(out.len, strlen(pairs[i][1]));
        if (out.len) assert_memory_equal(out.data, pairs[i][1], out.len);
        assert_true(base64_read(pairs[i][1], strlen(pairs[i][1]), back, &n));
        assert_int_equal(n, strlen(pairs[i][0]));
        assert_memory_equal(back, pairs[i][0], n);
        buf_free(&out);
    }
}

static void any_bytes_come_back_in_both_alphabets(void **unused)
{
    (void)unused;
    unsigned char bytes[300];
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (unsigned char)(i * 151 + 7);
    for (size_t len = 0; len <= sizeof bytes; len++) {
        for (int url = 0; url < 2; url++) {
            struct buf out = {0};
            size_t n;
            (url ? base64url_write : base64_write)(&out, bytes, len);
            if (url && out.len) assert_null(memchr(out.data, '=', out.len));
            char *back = malloc(base64_bytes_max(out.len));
            assert_true(base64_read(out.data ? out.data : "", out.len, back, &n));
            assert_int_equal(n, len);
            assert_memory_equal(back, bytes, len);
            free(back);
            buf_free(&out);
        }
    }
}

static void what_is_not_base64_is_refused(void **unused)
{
    (void)unused;
    static const char *const texts[] = {"A",    "AAAAA", "A===",  "====",   "AA=A", "Zg=",
                                        "Zh==", "Zm9=",  "Zm 9v", "Zm9v\n", "Zm9*", "Zg==Zg=="};
    char out[16];
    size_t n;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        if (base64_read(texts[i], strlen(texts[i]), out, &n)) fail_msg("took %s", texts[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_examples_of_the_rfc_hold),
        cmocka_unit_test(any_bytes_come_back_in_both_alphabets),
        cmocka_unit_test(what_is_not_base64_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

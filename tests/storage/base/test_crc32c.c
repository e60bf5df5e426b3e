/* CRC-32C: known vectors, and every implementation against the definition, bit by bit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "storage/base/crc32c.h"

typedef uint32_t crc_fn(uint32_t crc, const void *data, size_t len);
static crc_fn *const IMPLEMENTATIONS[] = {crc32c, crc32c_portable};
enum { IMPLEMENTATION_COUNT = 2, LONGEST = 9000 };

static uint32_t bit_by_bit(uint32_t crc, const unsigned char *p, size_t len)
{
    crc = ~crc;
    while (len--) {
        crc ^= *p++;
        for (int bit = 0; bit < 8; bit++)
            crc = crc & 1 ? crc >> 1 ^ 0x82f63b78u : crc >> 1;
    }
    return ~crc;
}

static unsigned char *some_bytes(size_t len)
{
    unsigned char *bytes = malloc(len ? len : 1);
    assert_non_null(bytes);
    uint32_t state = 1;
    for (size_t i = 0; i < len; i++) {
        state = state * 1664525u + 1013904223u;
        bytes[i] = (unsigned char)(state >> 24);
    }
    return bytes;
}

/* RFC 3720, appendix B.4, and the check value of the catalogues. */
static void known_inputs_have_known_checksums(void **state)
{
    (void)state;
    unsigned char block[32];
    for (int i = 0; i < IMPLEMENTATION_COUNT; i++) {
        crc_fn *crc = IMPLEMENTATIONS[i];
        assert_int_equal(crc(0, "123456789", 9), 0xe3069283u);
        assert_int_equal(crc(0, "", 0), 0);
        memset(block, 0, sizeof block);
        assert_int_equal(crc(0, block, sizeof block), 0x8a9136aau);
        memset(block, 0xff, sizeof block);
        assert_int_equal(crc(0, block, sizeof block), 0x62a8ab43u);
        for (unsigned k = 0; k < sizeof block; k++)
            block[k] = (unsigned char)k;
        assert_int_equal(crc(0, block, sizeof block), 0x46dd794eu);
    }
}

static void every_length_and_alignment_agrees_with_the_definition(void **state)
{
    (void)state;
    for (size_t len = 0; len < LONGEST; len += len < 1100 ? 1 : 101) {
        for (size_t offset = 0; offset < (len < 300 ? 16 : 2); offset++) {
            /* The copy ends where the allocation does: AddressSanitizer sees a read too far. */
            unsigned char *bytes = some_bytes(len + offset);
            const uint32_t want = bit_by_bit((uint32_t)len, bytes + offset, len);
            for (int i = 0; i < IMPLEMENTATION_COUNT; i++)
                assert_int_equal(IMPLEMENTATIONS[i]((uint32_t)len, bytes + offset, len), want);
            free(bytes);
        }
    }
}

static void stripe_lengths_agree_with_the_definition(void **state)
{
    (void)state;
    const size_t around[] = {504, 1008, 4080, 4096, 4584, 8160, 8192, 65536};
    for (size_t k = 0; k < sizeof around / sizeof *around; k++) {
        for (size_t len = around[k] - 9; len <= around[k] + 9; len++) {
            unsigned char *bytes = some_bytes(len);
            const uint32_t want = bit_by_bit(0, bytes, len);
            for (int i = 0; i < IMPLEMENTATION_COUNT; i++)
                assert_int_equal(IMPLEMENTATIONS[i](0, bytes, len), want);
            free(bytes);
        }
    }
}

static void a_checksum_can_be_continued_anywhere(void **state)
{
    (void)state;
    enum { LEN = 4200 };
    unsigned char *bytes = some_bytes(LEN);
    const uint32_t whole = bit_by_bit(0, bytes, LEN);
    for (int i = 0; i < IMPLEMENTATION_COUNT; i++) {
        crc_fn *crc = IMPLEMENTATIONS[i];
        for (size_t cut = 0; cut <= LEN; cut += 7)
            assert_int_equal(crc(crc(0, bytes, cut), bytes + cut, LEN - cut), whole);
    }
    free(bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_inputs_have_known_checksums),
        cmocka_unit_test(every_length_and_alignment_agrees_with_the_definition),
        cmocka_unit_test(stripe_lengths_agree_with_the_definition),
        cmocka_unit_test(a_checksum_can_be_continued_anywhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

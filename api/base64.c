/* base64.c - three bytes, four characters. */
#include "api/base64.h"

#include <stdint.h>

static const char STANDARD[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
static const char URL_SAFE[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

static void encode(struct buf *out, const unsigned char *in, size_t len, const char *alphabet,
                   bool padded)
{
    char *to = buf_reserve(out, len / 3 * 4 + 4);
    if (!to) return;
    char *p = to;
    for (; len >= 3; in += 3, len -= 3) {
        uint32_t w = (uint32_t)in[0] << 16 | (uint32_t)in[1] << 8 | in[2];
        *p++ = alphabet[w >> 18];
        *p++ = alphabet[w >> 12 & 63];
        *p++ = alphabet[w >> 6 & 63];
        *p++ = alphabet[w & 63];
    }
    if (len) {
        uint32_t w = (uint32_t)in[0] << 16 | (len == 2 ? (uint32_t)in[1] << 8 : 0);
        *p++ = alphabet[w >> 18];
        *p++ = alphabet[w >> 12 & 63];
        if (len == 2)
            *p++ = alphabet[w >> 6 & 63];
        else if (padded)
            *p++ = '=';
        if (padded) *p++ = '=';
    }
    out->len += (size_t)(p - to);
}

void base64_write(struct buf *out, const void *bytes, size_t len)
{
    encode(out, bytes, len, STANDARD, true);
}

void base64url_write(struct buf *out, const void *bytes, size_t len)
{
    encode(out, bytes, len, URL_SAFE, false);
}

/* Of each character of both alphabets its value plus 1; 0 for all others. */
/* clang-format off */
static const uint8_t VALUES[256] = {
    ['A'] = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26,
    ['a'] = 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49,
            50, 51, 52,
    ['0'] = 53, 54, 55, 56, 57, 58, 59, 60, 61, 62,
    ['+'] = 63, ['-'] = 63, ['/'] = 64, ['_'] = 64,
};
/* clang-format on */

/* Above 63: none. */
static inline uint32_t value_of(char c)
{
    return VALUES[(unsigned char)c] - 1u;
}

bool base64_read(const char *text, size_t len, void *out, size_t *out_len)
{
    if (len % 4 == 0 && len && text[len - 1] == '=') len -= text[len - 2] == '=' ? 2 : 1;
    if (len % 4 == 1) return false;

    unsigned char *p = out;
    for (; len >= 4; text += 4, len -= 4) {
        uint32_t a = value_of(text[0]), b = value_of(text[1]), c = value_of(text[2]),
                 d = value_of(text[3]);
        if ((a | b | c | d) > 63) return false;
        uint32_t w = a << 18 | b << 12 | c << 6 | d;
        *p++ = (unsigned char)(w >> 16);
        *p++ = (unsigned char)(w >> 8);
        *p++ = (unsigned char)w;
    }
    if (len) {
        uint32_t a = value_of(text[0]), b = value_of(text[1]), c = len == 3 ? value_of(text[2]) : 0;
        if ((a | b | c) > 63 || (len == 2 ? b & 15 : c & 3)) return false;
        *p++ = (unsigned char)(a << 2 | b >> 4);
        if (len == 3) *p++ = (unsigned char)(b << 4 | c >> 2);
    }
    *out_len = (size_t)(p - (unsigned char *)out);
    return true;
}

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

static int value_of(char c)
{
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    if (c == '+' || c == '-') return 62;
    if (c == '/' || c == '_') return 63;
    return -1;
}

bool base64_read(const char *text, size_t len, void *out, size_t *out_len)
{
    if (len % 4 == 0 && len && text[len - 1] == '=') len -= text[len - 2] == '=' ? 2 : 1;
    if (len % 4 == 1) return false;

    unsigned char *p = out;
    uint32_t w = 0;
    for (size_t i = 0; i < len; i++) {
        int v = value_of(text[i]);
        if (v < 0) return false;
        w = w << 6 | (uint32_t)v;
        if (i % 4 == 3) {
            *p++ = (unsigned char)(w >> 16);
            *p++ = (unsigned char)(w >> 8);
            *p++ = (unsigned char)w;
            w = 0;
        }
    }
    if (len % 4 == 2) {
        if (w & 15) return false;
        *p++ = (unsigned char)(w >> 4);
    } else if (len % 4 == 3) {
        if (w & 3) return false;
        *p++ = (unsigned char)(w >> 10);
        *p++ = (unsigned char)(w >> 2);
    }
    *out_len = (size_t)(p - (unsigned char *)out);
    return true;
}

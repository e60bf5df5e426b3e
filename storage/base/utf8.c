/* utf8.c - the table of RFC 3629, section 4, as code. */
#include "storage/base/utf8.h"

size_t utf8_decode(const char *text, size_t len, uint32_t *character)
{
    if (len == 0) return 0;
    const unsigned char *p = (const unsigned char *)text;
    if (p[0] < 0x80) {
        *character = p[0];
        return 1;
    }

    /* Only the second byte has a range that depends on the first: that is what keeps out overlong
     * forms (E0, F0), surrogates (ED) and characters beyond the last (F4). */
    size_t bytes;
    unsigned low = 0x80, high = 0xbf;
    if (p[0] >= 0xc2 && p[0] <= 0xdf) {
        bytes = 2;
    } else if (p[0] >= 0xe0 && p[0] <= 0xef) {
        bytes = 3;
        if (p[0] == 0xe0) low = 0xa0;
        if (p[0] == 0xed) high = 0x9f;
    } else if (p[0] >= 0xf0 && p[0] <= 0xf4) {
        bytes = 4;
        if (p[0] == 0xf0) low = 0x90;
        if (p[0] == 0xf4) high = 0x8f;
    } else {
        return 0;
    }
    if (len < bytes || p[1] < low || p[1] > high) return 0;

    uint32_t c = p[0] & (0x7fu >> bytes);
    for (size_t i = 1; i < bytes; i++) {
        if ((p[i] & 0xc0) != 0x80) return 0;
        c = c << 6 | (p[i] & 0x3f);
    }
    *character = c;
    return bytes;
}

size_t utf8_encode(uint32_t character, char bytes[4])
{
    if (character < 0x80) {
        bytes[0] = (char)character;
        return 1;
    }
    size_t count = character < 0x800 ? 2 : character < 0x10000 ? 3 : 4;
    for (size_t i = count - 1; i > 0; i--, character >>= 6)
        bytes[i] = (char)(0x80 | (character & 0x3f));
    bytes[0] = (char)((0xf00 >> count) | character);
    return count;
}

size_t utf8_cut(const char *text, size_t len)
{
    const unsigned char *p = (const unsigned char *)text;
    size_t start = len;
    while (start > 0 && len - start < 3 && (p[start - 1] & 0xc0) == 0x80)
        start--;
    if (start == 0 || p[start - 1] < 0xc0) return len;

    size_t bytes = p[start - 1] >= 0xf0 ? 4 : p[start - 1] >= 0xe0 ? 3 : 2;
    return len - (start - 1) < bytes ? start - 1 : len;
}

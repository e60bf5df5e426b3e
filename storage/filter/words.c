#include "storage/filter/words.h"

#include "storage/base/utf8.h"

size_t char_decode(const char *text, size_t len, uint32_t *c)
{
    if ((unsigned char)*text < 0x80) {
        *c = (unsigned char)*text;
        return 1;
    }
    size_t bytes = utf8_decode(text, len, c);
    if (bytes) return bytes;
    *c = 0xfffd;
    return 1;
}

static bool is_in(uint32_t c, uint32_t first, uint32_t last)
{
    return c - first <= last - first;
}

/* Blocks in which capitals and small letters alternate, beginning with a capital. */
static bool alternates_from_even(uint32_t c)
{
    return is_in(c, 0x100, 0x12f) || is_in(c, 0x132, 0x137) || is_in(c, 0x14a, 0x177) ||
           is_in(c, 0x460, 0x481) || is_in(c, 0x48a, 0x4bf) || is_in(c, 0x4d0, 0x52f) ||
           is_in(c, 0x1e00, 0x1e95) || is_in(c, 0x1ea0, 0x1eff) || is_in(c, 0x370, 0x373) ||
           is_in(c, 0x3d8, 0x3ef) || is_in(c, 0x1f8, 0x21f) || is_in(c, 0x222, 0x233);
}

static bool alternates_from_odd(uint32_t c)
{
    return is_in(c, 0x139, 0x148) || is_in(c, 0x179, 0x17e) || is_in(c, 0x4c1, 0x4ce) ||
           is_in(c, 0x1cd, 0x1dc);
}

uint32_t char_fold(uint32_t c)
{
    if (c < 0x80) return is_in(c, 'A', 'Z') ? c + 32 : c;
    if (alternates_from_even(c)) return c | 1;
    if (alternates_from_odd(c)) return c + (c & 1);
    if ((is_in(c, 0xc0, 0xde) && c != 0xd7) || (is_in(c, 0x391, 0x3ab) && c != 0x3a2) ||
        is_in(c, 0x410, 0x42f))
        return c + 32;
    if (is_in(c, 0x400, 0x40f)) return c + 80;
    if (is_in(c, 0x531, 0x556)) return c + 48;
    if (is_in(c, 0x388, 0x38a)) return c + 37;
    if (is_in(c, 0x38e, 0x38f)) return c + 63;
    switch (c) {
    case 0xb5: /* micro sign */
        return 0x3bc;
    case 0x178:
        return 0xff;
    case 0x17f: /* long s */
        return 's';
    case 0x386:
        return 0x3ac;
    case 0x38c:
        return 0x3cc;
    case 0x3c2: /* final sigma */
        return 0x3c3;
    case 0x4c0:
        return 0x4cf;
    case 0x1e9e: /* capital sharp s */
        return 0xdf;
    default:
        return c;
    }
}

uint32_t char_unfold(uint32_t c)
{
    static const int distances[] = {32, 1, 80, 48, 37, 63, 38, 64, 15, -121, -7615};
    for (size_t i = 0; i < sizeof distances / sizeof *distances; i++) {
        uint32_t capital = c - (uint32_t)distances[i];
        if (char_fold(capital) == c) return capital;
    }
    return c;
}

/* Of the characters beyond ASCII, those that are no part of a word: signs, punctuation, spaces,
 * controls, symbols. */
static bool separates(uint32_t c)
{
    if (c < 0xc0) return c != 0xaa && c != 0xb5 && c != 0xba;
    return c == 0xd7 || c == 0xf7 || is_in(c, 0x2000, 0x206f) || is_in(c, 0x20a0, 0x20cf) ||
           is_in(c, 0x2190, 0x2bff) || is_in(c, 0x2e00, 0x2e7f) || is_in(c, 0x3000, 0x3004) ||
           is_in(c, 0x3008, 0x3020) || c == 0x3030 || c == 0x30fb || is_in(c, 0xe000, 0xf8ff) ||
           is_in(c, 0xfe10, 0xfe6f) || is_in(c, 0xff00, 0xff0f) || is_in(c, 0xff1a, 0xff20) ||
           is_in(c, 0xff3b, 0xff40) || is_in(c, 0xff5b, 0xff65) || c == 0xfeff ||
           is_in(c, 0xfff0, 0xffff) || is_in(c, 0x1f000, 0x1faff);
}

static bool is_word_char(uint32_t c)
{
    if (c < 0x80) return is_in(c | 32, 'a', 'z') || is_in(c, '0', '9') || c == '_';
    return !separates(c);
}

/* Written without spaces between words. */
static bool stands_alone(uint32_t c)
{
    return is_in(c, 0x3005, 0x3007) || is_in(c, 0x3040, 0x30ff) || is_in(c, 0x3400, 0x4dbf) ||
           is_in(c, 0x4e00, 0x9fff) || is_in(c, 0xf900, 0xfaff) || is_in(c, 0x20000, 0x3ffff);
}

static uint32_t put_folded(uint32_t c, char *to)
{
    return (uint32_t)utf8_encode(char_fold(c), to);
}

bool words_next(struct words *w, char word[WORD_BYTES_MAX], uint32_t *bytes)
{
    uint32_t n = 0, c;
    while (w->at < w->end) {
        size_t step = char_decode(w->at, (size_t)(w->end - w->at), &c);
        bool is_part = is_word_char(c);
        if (n && (!is_part || stands_alone(c))) break;
        w->at += step;
        if (!is_part) continue;
        if (n + 4 <= WORD_BYTES_MAX) n += put_folded(c, word + n);
        if (stands_alone(c)) break;
    }
    *bytes = n;
    return n > 0;
}

/* utf8.h - well-formed UTF-8 (RFC 3629), one character at a time. */
#ifndef STORAGE_BASE_UTF8_H
#define STORAGE_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Decode the character that starts at text[0]; `len` bytes are readable.  Returns its length in
 * bytes and sets *character, or 0 if there is no well-formed one (overlong forms, surrogates and
 * values above U+10FFFF are malformed).  Any thread. */
size_t utf8_decode(const char *text, size_t len, uint32_t *character);

/* The 1 to 4 bytes of a character up to U+10FFFF; returns how many.  Half a surrogate pair, which
 * is no character, is three bytes that utf8_decode() refuses.  Any thread. */
size_t utf8_encode(uint32_t character, char bytes[4]);

/* C0, DEL and C1: what must not reach a terminal, a log or an id. */
static inline bool utf8_is_control(uint32_t character)
{
    return character < 0x20 || (character >= 0x7f && character <= 0x9f);
}

/* The longest prefix of `len` bytes that does not end inside a character. */
size_t utf8_cut(const char *text, size_t len);

#endif

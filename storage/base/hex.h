/* hex.h - hexadecimal digits, large or small. */
#ifndef STORAGE_BASE_HEX_H
#define STORAGE_BASE_HEX_H

#include <stddef.h>

/* -1: it is none.  Any thread; so is hex_value(). */
static inline int hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

/* The number of `digits` (at most 7) digits; -1: one is none, and those behind it are not looked
 * at. */
static inline int hex_value(const char *text, size_t digits)
{
    int value = 0;
    for (size_t i = 0; i < digits; i++) {
        int digit = hex_digit(text[i]);
        if (digit < 0) return -1;
        value = value * 16 + digit;
    }
    return value;
}

#endif

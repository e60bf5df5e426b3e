/*
 * float_text.h - numbers and their decimal text, both ways without loss.
 *
 * Any thread.
 */
#ifndef API_FLOAT_TEXT_H
#define API_FLOAT_TEXT_H

#include <stddef.h>

enum {
    FLOAT_TEXT_BYTES_MAX = 16,  /* "-1.17549435e-38" */
    DOUBLE_TEXT_BYTES_MAX = 32, /* "-2.2250738585072014e-308" */
};

/* The shortest JSON number that reads back as the same float (of those, the nearest).  `value` is
 * finite; not NUL-terminated; returns the length, at most *_BYTES_MAX. */
size_t float_text_write(float value, char *out);
size_t double_text_write(double value, char *out);

enum float_parse {
    FLOAT_PARSED,
    FLOAT_SYNTAX,   /* no JSON number here */
    FLOAT_OVERFLOW, /* beyond the largest float32 */
};

/* Read the JSON number that starts at `text` as the float32 nearest to it: rounded once, ties to
 * even, as strtof() does.  Something that is not part of a number must follow it in memory.
 * *end is behind the number (at the fault for FLOAT_SYNTAX). */
enum float_parse float_text_parse(const char *text, const char **end, float *out);

/* Walk over one JSON number without converting it; NULL: there is none. */
const char *number_text_skip(const char *text);

#endif

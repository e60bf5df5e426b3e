/*
 * json_scan.h - a strict pull scanner for JSON (RFC 8259): one pass, no tree.
 *
 * The caller asks for what it expects; each call consumes one token or one whole value:
 *
 *     rc = json_scan_object(s, err);
 *     while (!(rc = json_scan_member(s, &key, &more, err)) && more)
 *         ... consume exactly one value ...
 *
 * Text is UTF-8 and checked; nesting is at most JSON_DEPTH_MAX.  Faults are ERR_INVALID_JSON with
 * the byte position.  Duplicate keys are found by json_scan_value(); whoever walks the members of
 * an object finds them there (json_scan_field()).
 *
 * The text must be followed by a zero byte in memory.  Results borrow the text, or the arena when
 * something had to be unescaped.  One thread at a time.
 */
#ifndef API_JSON_SCAN_H
#define API_JSON_SCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "storage/base/arena.h"
#include "storage/base/err.h"

enum { JSON_DEPTH_MAX = 64 };

struct json_text {
    const char *data; /* not NUL-terminated */
    size_t len;
};

struct json_scan {
    const char *start;
    const char *at;
    const char *end; /* *end is readable and 0 */
    struct arena *arena;
    size_t base; /* position of `start` in the whole document, for messages */
    unsigned depth;
    bool fresh; /* right behind a [ or { */
};

void json_scan_init(struct json_scan *s, const char *text, size_t len, struct arena *arena);

/* The first byte of the next token, not consumed; 0 at the end. */
char json_scan_peek(struct json_scan *s);

MUST_CHECK enum err_code json_scan_object(struct json_scan *s, struct err *err);
/* The next key, and its colon; *more false: the object is closed. */
MUST_CHECK enum err_code json_scan_member(struct json_scan *s, struct json_text *key, bool *more,
                                          struct err *err);
MUST_CHECK enum err_code json_scan_array(struct json_scan *s, struct err *err);
/* *more false: the array is closed; else the next element is there to be consumed. */
MUST_CHECK enum err_code json_scan_element(struct json_scan *s, bool *more, struct err *err);
/* Unescaped; escaped text is copied into the arena. */
MUST_CHECK enum err_code json_scan_string(struct json_scan *s, struct json_text *out,
                                          struct err *err);
/* Any value, checked to its end, duplicate keys included; *raw is its text as it stands. */
MUST_CHECK enum err_code json_scan_value(struct json_scan *s, struct json_text *raw,
                                         struct err *err);
/* Only white space is left. */
MUST_CHECK enum err_code json_scan_end(struct json_scan *s, struct err *err);

/* An array of numbers as float32.  Stores the first `cap`; *count is how many there are.
 * ERR_INVALID_VECTOR (naming the element) for what is no finite float32. */
MUST_CHECK enum err_code json_scan_floats(struct json_scan *s, float *out, size_t cap,
                                          size_t *count, struct err *err);

/* ERR_INVALID_JSON: `what` was expected here. */
MUST_CHECK enum err_code json_scan_fail(const struct json_scan *s, const char *what,
                                        struct err *err);

/* The next value is not of the type that belongs here: `code` with `message`, unless it is no whole
 * JSON value at all (ERR_INVALID_JSON). */
MUST_CHECK enum err_code json_scan_mistyped(struct json_scan *s, enum err_code code,
                                            const char *message, struct err *err);

/* The index of `key` in `names` (NULL-terminated), noting it in *seen.  ERR_INVALID_REQUEST, as a
 * predicate ("has an unknown field ..."), if it is unknown or was seen before. */
MUST_CHECK enum err_code json_scan_field(const struct json_text *key, const char *const *names,
                                         uint32_t *seen, int *field, struct err *err);

static inline bool json_text_is(const struct json_text *t, const char *word)
{
    size_t i = 0;
    while (i < t->len && word[i] && t->data[i] == word[i])
        i++;
    return i == t->len && !word[i];
}

#endif

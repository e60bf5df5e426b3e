/* json_scan.c - the scanner.  The zero byte behind the text ends every inner loop. */
#include "api/json_scan.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "api/float_text.h"
#include "storage/base/hex.h"
#include "storage/base/utf8.h"

/* More keys than this in one object are compared by sorting. */
enum { KEYS_INLINE = 16 };

void json_scan_init(struct json_scan *s, const char *text, size_t len, struct arena *arena)
{
    *s = (struct json_scan){.start = text, .at = text, .end = text + len, .arena = arena};
}

enum err_code json_scan_fail(const struct json_scan *s, const char *what, struct err *err)
{
    return err_set(err, ERR_INVALID_JSON, "invalid JSON at byte %zu: %s%s",
                   s->base + (size_t)(s->at - s->start), what,
                   s->at >= s->end ? ", but the text ends here" : "");
}

static inline bool is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

static void skip_space(struct json_scan *s)
{
    const char *p = s->at;
    while (is_space(*p))
        p++;
    s->at = p;
}

char json_scan_peek(struct json_scan *s)
{
    skip_space(s);
    return *s->at;
}

static enum err_code enter(struct json_scan *s, char bracket, const char *what, struct err *err)
{
    if (json_scan_peek(s) != bracket) return json_scan_fail(s, what, err);
    if (s->depth == JSON_DEPTH_MAX)
        return json_scan_fail(s, "nested more than 64 levels deep", err);
    s->at++;
    s->depth++;
    s->fresh = true;
    return ERR_OK;
}

enum err_code json_scan_object(struct json_scan *s, struct err *err)
{
    return enter(s, '{', "expected an object", err);
}

enum err_code json_scan_array(struct json_scan *s, struct err *err)
{
    return enter(s, '[', "expected an array", err);
}

/* Consume the comma in front of the next item, or the closing bracket. */
static enum err_code next_item(struct json_scan *s, char closing, bool *more, struct err *err)
{
    char c = json_scan_peek(s);
    *more = false;
    if (c == closing) {
        s->at++;
        s->depth--;
        s->fresh = false;
        return ERR_OK;
    }
    if (!s->fresh) {
        if (c != ',')
            return json_scan_fail(s, closing == '}' ? "expected , or }" : "expected , or ]", err);
        s->at++;
        skip_space(s);
    }
    s->fresh = false;
    *more = true;
    return ERR_OK;
}

enum err_code json_scan_element(struct json_scan *s, bool *more, struct err *err)
{
    return next_item(s, ']', more, err);
}

enum err_code json_scan_member(struct json_scan *s, struct json_text *key, bool *more,
                               struct err *err)
{
    enum err_code rc = next_item(s, '}', more, err);
    if (rc || !*more) return rc;
    if (*s->at != '"') return json_scan_fail(s, "expected a key in quotes", err);
    rc = json_scan_string(s, key, err);
    if (rc) return rc;
    if (json_scan_peek(s) != ':') return json_scan_fail(s, "expected :", err);
    s->at++;
    return ERR_OK;
}

/* s->at is at a backslash: step over the escape and give its character. */
static enum err_code escape(struct json_scan *s, uint32_t *c, struct err *err)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    const char *p = s->at + 1;
    const char *simple = *p ? strchr(from, *p) : NULL;
    if (simple) {
        *c = (unsigned char)to[simple - from];
        s->at = p + 1;
        return ERR_OK;
    }
    if (*p != 'u') return json_scan_fail(s, "unknown escape", err);
    int unit = hex_value(p + 1, 4);
    if (unit < 0) return json_scan_fail(s, "expected four hexadecimal digits", err);
    p += 5;
    if (unit >= 0xdc00 && unit <= 0xdfff) return json_scan_fail(s, "half a surrogate pair", err);
    if (unit >= 0xd800 && unit <= 0xdbff) {
        int low = p[0] == '\\' && p[1] == 'u' ? hex_value(p + 2, 4) : -1;
        if (low < 0xdc00 || low > 0xdfff) return json_scan_fail(s, "half a surrogate pair", err);
        *c = 0x10000 + (((uint32_t)unit - 0xd800) << 10) + ((uint32_t)low - 0xdc00);
        p += 6;
    } else {
        *c = (uint32_t)unit;
    }
    s->at = p;
    return ERR_OK;
}

/* Step over a string; *escaped says whether it has escapes.  s->at is at its opening quote. */
static enum err_code skip_string(struct json_scan *s, bool *escaped, struct err *err)
{
    *escaped = false;
    s->at++;
    for (;;) {
        const char *p = s->at;
        while ((unsigned char)*p >= 0x20 && (unsigned char)*p < 0x80 && *p != '"' && *p != '\\')
            p++;
        s->at = p;
        uint32_t c;
        if (*p == '"') {
            s->at++;
            return ERR_OK;
        } else if (*p == '\\') {
            *escaped = true;
            enum err_code rc = escape(s, &c, err);
            if (rc) return rc;
        } else if ((unsigned char)*p < 0x20) {
            return json_scan_fail(s, p < s->end ? "control character in a string" : "expected \"",
                                  err);
        } else {
            size_t bytes = utf8_decode(p, (size_t)(s->end - p), &c);
            if (bytes == 0) return json_scan_fail(s, "not valid UTF-8", err);
            s->at = p + bytes;
        }
    }
}

enum err_code json_scan_string(struct json_scan *s, struct json_text *out, struct err *err)
{
    if (json_scan_peek(s) != '"') return json_scan_fail(s, "expected a string", err);
    const char *from = s->at + 1;
    bool escaped;
    enum err_code rc = skip_string(s, &escaped, err);
    if (rc) return rc;
    const char *to = s->at - 1;
    *out = (struct json_text){from, (size_t)(to - from)};
    if (!escaped) return ERR_OK;

    char *text = arena_alloc(s->arena, out->len + 1); /* unescaping never makes it longer */
    if (!text) return err_set(err, ERR_NOMEM, "out of memory");
    char *p = text;
    const char *after = s->at;
    for (s->at = from; s->at < to;) {
        if (*s->at != '\\') {
            *p++ = *s->at++;
            continue;
        }
        uint32_t c;
        rc = escape(s, &c, err);
        assert(!rc); /* skip_string() has been here */
        p += utf8_encode(c, p);
    }
    s->at = after;
    *p = 0;
    *out = (struct json_text){text, (size_t)(p - text)};
    return ERR_OK;
}

struct key_set {
    struct json_text few[KEYS_INLINE];
    struct json_text *many; /* in the arena, once there are more */
    size_t count, cap;
};

static int compare_texts(const void *a, const void *b)
{
    const struct json_text *x = a, *y = b;
    if (x->len != y->len) return x->len < y->len ? -1 : 1;
    return memcmp(x->data, y->data, x->len);
}

static enum err_code duplicate_key(const struct json_scan *s, const struct json_text *key,
                                   struct err *err)
{
    int len = (int)utf8_cut(key->data, key->len < 64 ? key->len : 64);
    return err_set(err, ERR_INVALID_JSON,
                   "invalid JSON at byte %zu: the object has the key \"%.*s\" twice",
                   s->base + (size_t)(s->at - s->start), len, key->data);
}

static enum err_code key_set_add(struct key_set *keys, const struct json_scan *s,
                                 const struct json_text *key, struct err *err)
{
    if (keys->count < KEYS_INLINE) {
        for (size_t i = 0; i < keys->count; i++) {
            if (compare_texts(&keys->few[i], key) == 0) return duplicate_key(s, key, err);
        }
        keys->few[keys->count++] = *key;
        return ERR_OK;
    }
    if (keys->count >= keys->cap) {
        size_t cap = keys->cap ? keys->cap * 2 : 4 * KEYS_INLINE;
        struct json_text *many = arena_alloc(s->arena, cap * sizeof *many);
        if (!many) return err_set(err, ERR_NOMEM, "out of memory");
        memcpy(many, keys->many ? keys->many : keys->few, keys->count * sizeof *many);
        keys->many = many;
        keys->cap = cap;
    }
    keys->many[keys->count++] = *key;
    return ERR_OK;
}

static enum err_code key_set_check(struct key_set *keys, const struct json_scan *s, struct err *err)
{
    if (!keys->many) return ERR_OK;
    qsort(keys->many, keys->count, sizeof *keys->many, compare_texts);
    for (size_t i = 1; i < keys->count; i++) {
        if (compare_texts(&keys->many[i - 1], &keys->many[i]) == 0)
            return duplicate_key(s, &keys->many[i], err);
    }
    return ERR_OK;
}

static enum err_code skip_word(struct json_scan *s, const char *word, struct err *err)
{
    size_t len = strlen(word);
    if (strncmp(s->at, word, len) != 0) return json_scan_fail(s, "expected a value", err);
    s->at += len;
    return ERR_OK;
}

/* Recursion is bounded by JSON_DEPTH_MAX. */
static enum err_code skip_value(struct json_scan *s, struct err *err)
{
    enum err_code rc;
    bool more, escaped;
    switch (json_scan_peek(s)) {
    case '{': {
        struct key_set keys;
        keys.many = NULL;
        keys.count = keys.cap = 0;
        struct json_text key;
        rc = json_scan_object(s, err);
        while (!rc && !(rc = json_scan_member(s, &key, &more, err)) && more) {
            rc = key_set_add(&keys, s, &key, err);
            if (!rc) rc = skip_value(s, err);
        }
        return rc ? rc : key_set_check(&keys, s, err);
    }
    case '[':
        rc = json_scan_array(s, err);
        while (!rc && !(rc = json_scan_element(s, &more, err)) && more)
            rc = skip_value(s, err);
        return rc;
    case '"':
        return skip_string(s, &escaped, err);
    case 't':
        return skip_word(s, "true", err);
    case 'f':
        return skip_word(s, "false", err);
    case 'n':
        return skip_word(s, "null", err);
    default: {
        const char *behind = number_text_skip(s->at);
        if (!behind) return json_scan_fail(s, "expected a value", err);
        s->at = behind;
        return ERR_OK;
    }
    }
}

enum err_code json_scan_value(struct json_scan *s, struct json_text *raw, struct err *err)
{
    skip_space(s);
    const char *from = s->at;
    enum err_code rc = skip_value(s, err);
    *raw = (struct json_text){from, (size_t)(s->at - from)};
    return rc;
}

enum err_code json_scan_mistyped(struct json_scan *s, enum err_code code, const char *message,
                                 struct err *err)
{
    struct json_text raw;
    enum err_code rc = json_scan_value(s, &raw, err);
    return rc ? rc : err_set(err, code, "%s", message);
}

enum err_code json_scan_end(struct json_scan *s, struct err *err)
{
    skip_space(s);
    return s->at == s->end ? ERR_OK : json_scan_fail(s, "something behind the value", err);
}

/* An element of an array of numbers that is none. */
static enum err_code no_number(struct json_scan *s, size_t index, struct err *err)
{
    static const char *const words[] = {"NaN",       "nan", "Infinity", "-Infinity", "-NaN", "null",
                                        "-infinity", "inf", "-inf",     "true",      "false"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (strncmp(s->at, words[i], strlen(words[i])) == 0)
            return err_set(err, ERR_INVALID_VECTOR,
                           "has %s at data[%zu]: every element must be a finite number", words[i],
                           index);
    }
    if (*s->at == '"' || *s->at == '[' || *s->at == '{')
        return err_set(err, ERR_INVALID_VECTOR, "has %s at data[%zu], not a number",
                       *s->at == '"'   ? "a string"
                       : *s->at == '[' ? "an array"
                                       : "an object",
                       index);
    return json_scan_fail(s, "expected a number", err);
}

enum err_code json_scan_floats(struct json_scan *s, float *out, size_t cap, size_t *count,
                               struct err *err)
{
    enum err_code rc = json_scan_array(s, err);
    if (rc) return rc;
    size_t n = 0;
    const char *p = s->at;
    while (is_space(*p))
        p++;
    if (*p == ']') goto closed;
    for (;;) {
        float value;
        const char *behind;
        enum float_parse parsed = float_text_parse(p, &behind, &value);
        if (parsed != FLOAT_PARSED) {
            s->at = p;
            if (parsed == FLOAT_OVERFLOW)
                return err_set(err, ERR_INVALID_VECTOR,
                               "has %.*s at data[%zu], which is beyond the largest float32",
                               behind - p > 40 ? 40 : (int)(behind - p), p, n);
            rc = no_number(s, n, err);
            if (rc == ERR_INVALID_JSON) {
                s->at = behind;
                return json_scan_fail(s, "expected a number", err);
            }
            return rc;
        }
        if (n < cap) out[n] = value;
        n++;
        p = behind;
        while (is_space(*p))
            p++;
        if (*p == ']') break;
        if (*p != ',') {
            s->at = p;
            return json_scan_fail(s, "expected , or ]", err);
        }
        p++;
        while (is_space(*p))
            p++;
    }
closed:
    s->at = p + 1;
    s->depth--;
    s->fresh = false;
    *count = n;
    return ERR_OK;
}

enum err_code json_scan_field(const struct json_text *key, const char *const *names, uint32_t *seen,
                              int *field, struct err *err)
{
    for (int i = 0; names[i]; i++) {
        if (!json_text_is(key, names[i])) continue;
        if (*seen >> i & 1)
            return err_set(err, ERR_INVALID_REQUEST, "has the field \"%s\" twice", names[i]);
        *seen |= 1u << i;
        *field = i;
        return ERR_OK;
    }
    int len = (int)utf8_cut(key->data, key->len < 64 ? key->len : 64);
    return err_set(err, ERR_INVALID_REQUEST, "has an unknown field \"%.*s\"", len, key->data);
}

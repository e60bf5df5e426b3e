/* json.c - getters on top of jansson; a writer on top of buf. */
#include "api/json.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "api/float_text.h"
#include "api/json_scan.h"
#include "storage/base/utf8.h"

enum err_code json_load_object(const char *text, size_t len, struct arena *arena, json_t **out,
                               struct err *err)
{
    struct json_scan scan;
    struct json_text raw;
    json_scan_init(&scan, text, len, arena);
    *out = NULL;
    if (!json_scan_peek(&scan) && scan.at == scan.end) {
        *out = json_object();
        return *out ? ERR_OK : err_set(err, ERR_NOMEM, "out of memory");
    }
    if (json_scan_peek(&scan) != '{')
        return json_scan_mistyped(&scan, ERR_INVALID_REQUEST, "the body must be a JSON object",
                                  err);
    enum err_code rc = json_scan_value(&scan, &raw, err);
    if (!rc) rc = json_scan_end(&scan, err);
    if (rc) return rc;

    /* What jansson still refuses are numbers that no field of ours could hold. */
    json_error_t fault;
    *out = json_loadb(raw.data, raw.len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &fault);
    if (*out) return ERR_OK;
    return err_set(err, ERR_INVALID_JSON, "invalid JSON at byte %d: %s", fault.position,
                   fault.text);
}

enum err_code json_only_fields(const json_t *object, const char *const *names, const char *where,
                               struct err *err)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)object, key, value)
    {
        size_t i = 0;
        while (names[i] && strcmp(names[i], key) != 0)
            i++;
        if (!names[i]) {
            size_t len = strlen(key);
            return err_set(err, ERR_INVALID_REQUEST, "%s has an unknown field \"%.*s\"", where,
                           (int)utf8_cut(key, len < 64 ? len : 64), key);
        }
    }
    return ERR_OK;
}

enum err_code json_get_u64(const json_t *object, const char *name, uint64_t min, uint64_t max,
                           uint64_t *out, bool *found, struct err *err)
{
    const json_t *value = json_object_get(object, name);
    *found = value != NULL;
    if (!value) return ERR_OK;
    json_int_t n = json_is_integer(value) ? json_integer_value(value) : -1;
    if (n < 0 || (uint64_t)n < min || (uint64_t)n > max)
        return err_set(err, ERR_INVALID_REQUEST,
                       "\"%s\" must be an integer from %" PRIu64 " to %" PRIu64, name, min, max);
    *out = (uint64_t)n;
    return ERR_OK;
}

enum err_code json_get_text(const json_t *object, const char *name, const char **out, size_t *len,
                            bool *found, struct err *err)
{
    const json_t *value = json_object_get(object, name);
    *found = value != NULL;
    if (!value) return ERR_OK;
    if (!json_is_string(value))
        return err_set(err, ERR_INVALID_REQUEST, "\"%s\" must be a string", name);
    *out = json_string_value(value);
    *len = json_string_length(value);
    return ERR_OK;
}

void json_put_string(struct buf *out, const char *text, size_t len)
{
    buf_add(out, "\"", 1);
    size_t from = 0;
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c >= 0x20 && c != '"' && c != '\\') continue;
        buf_add(out, text + from, i - from);
        if (c == '"' || c == '\\')
            buf_printf(out, "\\%c", c);
        else
            buf_printf(out, "\\u%04x", c);
        from = i + 1;
    }
    buf_add(out, text + from, len - from);
    buf_add(out, "\"", 1);
}

void json_put_str(struct buf *out, const char *text)
{
    json_put_string(out, text, strlen(text));
}

void json_put_u64(struct buf *out, uint64_t value)
{
    char digits[20];
    size_t at = sizeof digits;
    do {
        digits[--at] = (char)('0' + value % 10);
    } while (value /= 10);
    buf_add(out, digits + at, sizeof digits - at);
}

void json_put_double(struct buf *out, double value)
{
    if (!isfinite(value)) {
        buf_str(out, "null");
        return;
    }
    char *to = buf_reserve(out, DOUBLE_TEXT_BYTES_MAX);
    if (to) out->len += double_text_write(value, to);
}

void json_put_floats(struct buf *out, const float *values, size_t count)
{
    char *to = buf_reserve(out, count * (FLOAT_TEXT_BYTES_MAX + 1) + 2);
    if (!to) return;
    char *p = to;
    *p++ = '[';
    for (size_t i = 0; i < count; i++) {
        if (i) *p++ = ',';
        p += float_text_write(values[i], p);
    }
    *p++ = ']';
    out->len += (size_t)(p - to);
}

/* text.c - the pure text work of the client: addresses, path segments, vectors, safe printing. */
#include "server/cli/text.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "storage/base/utf8.h"

#define LETTERS    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
#define DIGITS     "0123456789"
#define UNRESERVED LETTERS DIGITS "-._~"

void text_add_segment(struct buf *out, const char *text)
{
    /* "." and ".." are good ids, but mean something else in a path. */
    const char *plain = text[strspn(text, ".")] ? UNRESERVED : "";
    for (; *text; text++) {
        if (strchr(plain, *text))
            buf_add(out, text, 1);
        else
            buf_printf(out, "%%%02X", (unsigned char)*text);
    }
}

static bool starts_with(const char *text, const char *start)
{
    return strncmp(text, start, strlen(start)) == 0;
}

enum err_code text_add_base_url(struct buf *out, const char *text, struct err *err)
{
    static const char suffix[] = "/api/v1";
    size_t len = strlen(text);
    const char *scheme_end = strstr(text, "://");

    if (scheme_end && !starts_with(text, "http://") && !starts_with(text, "https://"))
        return err_set(err, ERR_INVALID_REQUEST, "--url: \"%.100s\" is not an http:// address",
                       text);
    while (len && text[len - 1] == '/')
        len--;
    if (len > strlen(suffix) && starts_with(text + len - strlen(suffix), suffix))
        len -= strlen(suffix);

    const char *host = scheme_end ? scheme_end + 3 : text;
    if (host >= text + len || strcspn(host, "/") == 0)
        return err_set(err, ERR_INVALID_REQUEST, "--url: \"%.100s\" names no host", text);
    for (size_t i = 0; i < len; i++) {
        if ((unsigned char)text[i] <= ' ' || strchr("?#\x7f", text[i]))
            return err_set(err, ERR_INVALID_REQUEST,
                           "--url: \"%.100s\" must be like http://127.0.0.1:8080", text);
    }
    if (!scheme_end) buf_str(out, "http://");
    buf_add(out, text, len);
    return ERR_OK;
}

/* Length of the JSON number at `text`, 0 if there is none. */
static size_t number_bytes(const char *text)
{
    const char *at = text;
    size_t digits;

    if (*at == '-') at++;
    digits = strspn(at, DIGITS);
    if (digits == 0 || (*at == '0' && digits > 1)) return 0;
    at += digits;
    if (*at == '.') {
        digits = strspn(++at, DIGITS);
        if (digits == 0) return 0;
        at += digits;
    }
    if (*at == 'e' || *at == 'E') {
        at++;
        if (*at == '+' || *at == '-') at++;
        digits = strspn(at, DIGITS);
        if (digits == 0) return 0;
        at += digits;
    }
    return (size_t)(at - text);
}

enum err_code text_add_vector(struct buf *out, const char *text, struct err *err)
{
    static const char space[] = " \t\r\n";
    const char *at = text + strspn(text, space);
    bool bracket = *at == '[';
    size_t count = 0;

    at += bracket;
    buf_str(out, "[");
    for (;;) {
        at += strspn(at, space);
        if (count == 0 && (*at == ']' || !*at))
            return err_set(err, ERR_INVALID_VECTOR, "the vector is empty");

        size_t len = number_bytes(at);
        if (len == 0 || (at[len] && !strchr(", \t\r\n]", at[len]))) {
            size_t shown = strcspn(at, ", \t\r\n]");
            return err_set(err, ERR_INVALID_VECTOR,
                           "number %zu of the vector, \"%.*s\", is no number", count + 1,
                           (int)(shown < 40 ? shown : 40), at);
        }
        if (count++) buf_str(out, ",");
        buf_add(out, at, len);
        at += len;

        size_t gap = strspn(at, space);
        at += gap;
        if (*at == ',')
            at++;
        else if (!*at || *at == ']')
            break;
        else if (bracket || !gap)
            return err_set(err, ERR_INVALID_VECTOR, "a comma is missing behind number %zu", count);
    }
    if (bracket != (*at == ']'))
        return err_set(err, ERR_INVALID_VECTOR,
                       bracket ? "the vector lacks its ]" : "the vector lacks its [");
    at += bracket;
    if (at[strspn(at, space)])
        return err_set(err, ERR_INVALID_VECTOR, "there is more text behind the vector");
    buf_str(out, "]");
    return ERR_OK;
}

void text_add_printable(struct buf *out, const char *text, size_t len)
{
    size_t step;
    for (size_t i = 0; i < len; i += step) {
        uint32_t character;
        step = utf8_decode(text + i, len - i, &character);
        if (step && !utf8_is_control(character)) {
            buf_add(out, text + i, step);
            continue;
        }
        if (!step) step = 1;
        for (size_t j = 0; j < step; j++)
            buf_printf(out, "\\x%02x", (unsigned char)text[i + j]);
    }
}

void text_bytes(char out[32], double bytes)
{
    static const char *const units[] = {"bytes", "KB", "MB", "GB", "TB"};
    size_t unit = 0;
    while (bytes >= 1000 && unit + 1 < sizeof units / sizeof *units) {
        bytes /= 1000;
        unit++;
    }
    snprintf(out, 32, unit ? "%.1f %s" : "%.0f %s", bytes, units[unit]);
}

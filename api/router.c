/* router.c - from method and path to a route; query parameters. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "api/api_private.h"
#include "storage/base/hex.h"
#include "storage/base/utf8.h"

const struct api_route api_routes[ROUTE_COUNT] = {
#define ROUTE(method, base, pattern, handler, scope, body, thread, status, summary)                \
    {#method,     BASE_##base,     pattern, handler, SCOPE_##scope,                                \
     BODY_##body, THREAD_##thread, status,  summary},
#include "api/routes.def"
};

enum { SEGMENTS_MAX = 8 };

struct segment {
    char *text; /* NULL: cannot be decoded */
    size_t len;
};

/* Percent-decoded, NUL-terminated, in the arena.  NULL: a bad escape, a zero byte, not UTF-8 (or no
 * memory, which ends the same way). */
static char *decode(struct arena *arena, const char *text, size_t len, bool is_query,
                    size_t *out_len)
{
    char *out = arena_alloc(arena, len + 1);
    if (!out) return NULL;
    char *p = out;
    for (size_t i = 0; i < len; i++) {
        if (text[i] == '%') {
            int byte = i + 2 < len ? hex_value(text + i + 1, 2) : -1;
            if (byte <= 0) return NULL;
            *p++ = (char)byte;
            i += 2;
        } else {
            *p++ = text[i] == '+' && is_query ? ' ' : text[i];
        }
    }
    *p = 0;
    *out_len = (size_t)(p - out);
    for (size_t at = 0; at < *out_len;) {
        uint32_t character;
        size_t bytes = utf8_decode(out + at, *out_len - at, &character);
        if (bytes == 0) return NULL;
        at += bytes;
    }
    return out;
}

/* Split at '/' first, decode then: an encoded slash belongs to its segment. */
static int split(struct arena *arena, const char *path, struct segment *segments)
{
    int n = 0;
    while (*path == '/') {
        const char *from = ++path;
        path += strcspn(path, "/");
        if (!*path && path == from && n > 0) break; /* a trailing slash */
        if (n == SEGMENTS_MAX) return -1;
        segments[n].len = 0;
        segments[n].text = decode(arena, from, (size_t)(path - from), false, &segments[n].len);
        n++;
    }
    return *path ? -1 : n;
}

static bool matches(const char *pattern, const struct segment *segments, int count)
{
    int i = 0;
    while (*pattern == '/') {
        const char *word = ++pattern;
        size_t len = strcspn(pattern, "/");
        pattern += len;
        if (i == count) return false;
        if (*word != '{' && (!segments[i].text || segments[i].len != len ||
                             memcmp(segments[i].text, word, len) != 0))
            return false;
        if (*word == '{' && segments[i].text && segments[i].len == 0) return false;
        i++;
    }
    return i == count;
}

static enum err_code take_params(struct api_request *req, const struct segment *segments,
                                 struct err *err)
{
    int n = 0;
    const char *pattern = req->route->pattern;
    for (int i = 0; *pattern == '/'; i++) {
        const char *word = ++pattern;
        pattern += strcspn(pattern, "/");
        if (*word != '{') continue;
        if (!segments[i].text)
            return err_set(err, word[1] == 'd' ? ERR_INVALID_NAME : ERR_INVALID_ID,
                           "the %s in the path is not percent-encoded UTF-8 text without zero "
                           "bytes",
                           word[1] == 'd' ? "database name" : "vector id");
        req->params[n].text = segments[i].text;
        req->params[n].len = segments[i].len;
        n++;
    }
    return ERR_OK;
}

static void add_allowed(char *allow, size_t cap, const char *method)
{
    size_t used = strlen(allow);
    if (strstr(allow, method)) return;
    snprintf(allow + used, cap - used, "%s%s", used ? ", " : "", method);
    if (strcmp(method, "GET") == 0) add_allowed(allow, cap, "HEAD");
}

enum err_code router_match(struct api_request *req, char *allow, size_t allow_cap, struct err *err)
{
    struct segment all[SEGMENTS_MAX];
    const char *method = strcmp(req->method, "HEAD") == 0 ? "GET" : req->method;

    allow[0] = 0;
    req->route = NULL;
    int count = split(&req->arena, req->path, all);
    if (count < 0) return err_set(err, ERR_NOT_FOUND, "there is no such path");
    bool is_v1 = count >= 2 && all[0].text && all[1].text && strcmp(all[0].text, "api") == 0 &&
                 strcmp(all[1].text, "v1") == 0;
    const struct segment *segments = is_v1 ? all + 2 : all;
    if (is_v1) count -= 2;

    const struct api_route *found = NULL;
    for (const struct api_route *r = api_routes; r < api_routes + ROUTE_COUNT; r++) {
        if (!is_v1 && r->base != BASE_ROOT) continue;
        if (!matches(r->pattern, segments, count)) continue;
        add_allowed(allow, allow_cap, r->method);
        if (!found && strcmp(r->method, method) == 0) found = r;
    }
    if (!found) {
        for (int i = 0; i < count && !allow[0]; i++) {
            if (!segments[i].text)
                return err_set(err, ERR_INVALID_REQUEST,
                               "the path is not percent-encoded UTF-8 text without zero bytes");
        }
        if (!allow[0])
            return err_set(err, ERR_NOT_FOUND, "there is no such path; see /openapi.json");
        return err_set(err, ERR_METHOD_NOT_ALLOWED, "%.16s is not possible here; allowed: %s",
                       req->method, allow);
    }
    req->route = found;
    allow[0] = 0;
    return take_params(req, segments, err);
}

enum err_code query_parse(struct api_request *req, struct query *q, struct err *err)
{
    q->count = 0;
    for (const char *p = req->query; p && *p;) {
        size_t len = strcspn(p, "&");
        const char *equals = memchr(p, '=', len);
        size_t name_len = equals ? (size_t)(equals - p) : len, ignored;
        if (len > 0) {
            if (q->count == QUERY_MAX)
                return err_set(err, ERR_INVALID_REQUEST, "more than %d query parameters",
                               QUERY_MAX);
            char *name = decode(&req->arena, p, name_len, true, &ignored);
            const char *from = equals ? equals + 1 : p + len;
            char *value = decode(&req->arena, from, (size_t)(p + len - from), true,
                                 &q->items[q->count].value_len);
            if (!name || !value)
                return err_set(err, ERR_INVALID_REQUEST,
                               "the query is not percent-encoded UTF-8 text without zero bytes");
            for (int i = 0; i < q->count; i++) {
                if (strcmp(q->items[i].name, name) == 0)
                    return err_set(err, ERR_INVALID_REQUEST,
                                   "the query parameter \"%.64s\" is there twice", name);
            }
            q->items[q->count].name = name;
            q->items[q->count].value = value;
            q->items[q->count++].used = false;
        }
        p += len + (p[len] == '&');
    }
    return ERR_OK;
}

const char *query_text(struct query *q, const char *name, size_t *len)
{
    for (int i = 0; i < q->count; i++) {
        if (strcmp(q->items[i].name, name) != 0) continue;
        q->items[i].used = true;
        if (len) *len = q->items[i].value_len;
        return q->items[i].value;
    }
    return NULL;
}

enum err_code query_u64(struct query *q, const char *name, uint64_t min, uint64_t max,
                        uint64_t *out, struct err *err)
{
    size_t len;
    const char *text = query_text(q, name, &len);
    if (!text) return ERR_OK;
    uint64_t n = 0;
    bool good = len > 0 && len < 19;
    for (size_t i = 0; good && i < len; i++) {
        good = text[i] >= '0' && text[i] <= '9';
        n = n * 10 + (uint64_t)(text[i] - '0');
    }
    if (!good || n < min || n > max)
        return err_set(err, ERR_INVALID_REQUEST,
                       "?%s= must be an integer from %" PRIu64 " to %" PRIu64, name, min, max);
    *out = n;
    return ERR_OK;
}

enum err_code query_done(const struct query *q, struct err *err)
{
    for (int i = 0; i < q->count; i++) {
        if (!q->items[i].used)
            return err_set(
                err, ERR_INVALID_REQUEST, "the query parameter \"%.*s\" is not known here",
                (int)utf8_cut(q->items[i].name,
                              strlen(q->items[i].name) < 64 ? strlen(q->items[i].name) : 64),
                q->items[i].name);
    }
    return ERR_OK;
}

enum err_code query_none(struct api_request *req, struct err *err)
{
    struct query q;
    enum err_code rc = query_parse(req, &q, err);
    return rc ? rc : query_done(&q, err);
}

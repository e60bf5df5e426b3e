/*
 * fuzz_path.c - paths and queries: what the router decodes is what a plain decoder makes of the
 * same bytes, and names and ids that are let through keep to their rules.
 *
 * An input is a method (first byte), a path, and behind a '?' a query.
 */
#include "tests/fuzz/fuzz.h"

#include <ctype.h>

#include "api/api_private.h"
#include "storage/base/utf8.h"

/* The plain decoder: false for a bad escape or a zero byte. */
static bool decode(const char *text, size_t len, bool is_query, struct buf *out)
{
    for (size_t i = 0; i < len; i++) {
        char c = text[i];
        if (c == '%') {
            if (i + 2 >= len || !isxdigit((unsigned char)text[i + 1]) ||
                !isxdigit((unsigned char)text[i + 2]))
                return false;
            char digits[3] = {text[i + 1], text[i + 2], 0};
            c = (char)strtoul(digits, NULL, 16);
            if (!c) return false;
            i += 2;
        } else if (c == '+' && is_query) {
            c = ' ';
        }
        buf_add(out, &c, 1);
    }
    return true;
}

static bool is_utf8(const char *text, size_t len)
{
    uint32_t character;
    for (size_t at = 0, n; at < len; at += n)
        if (!(n = utf8_decode(text + at, len - at, &character))) return false;
    return true;
}

static void name_keeps_rules(const char *name, size_t len)
{
    struct err err;
    if (database_name_check(name, len, &err)) {
        CLAIM(is_utf8(err.msg, strlen(err.msg)));
        return;
    }
    CLAIM(len >= 1 && len <= NAME_BYTES_MAX && name[0] != '.' && name[0] != '-');
    for (size_t i = 0; i < len; i++)
        CLAIM(isascii(name[i]) && (isalnum((unsigned char)name[i]) || strchr("_-.", name[i])));
    CLAIM(!memmem(name, len, ".jvdb", 5));
}

static void id_keeps_rules(const char *text, size_t len)
{
    struct vector_id id, again;
    struct err err;
    char shown[ID_BYTES_MAX + 1];
    uint32_t character;
    if (vector_id_parse(text, len, &id, &err)) {
        CLAIM(is_utf8(err.msg, strlen(err.msg)) || !is_utf8(text, len));
        return;
    }
    CLAIM(id.text ? id.text_bytes >= 1 && id.text_bytes <= ID_BYTES_MAX : id.number <= INT64_MAX);
    vector_id_format(&id, shown, sizeof shown);
    CLAIM(strlen(shown) == len && memcmp(shown, text, len) == 0);
    CLAIM(!vector_id_parse(shown, len, &again, &err));
    CLAIM(vector_id_compare(&id, &again) == 0);
    for (size_t at = 0; at < len;) {
        size_t n = utf8_decode(text + at, len - at, &character);
        CLAIM(n && !utf8_is_control(character));
        at += n;
    }
}

/* The parameters of a route are the segments of the path at their places, decoded. */
static void params_are_decoded(const struct api_request *req)
{
    struct buf plain = {0};
    const char *pattern = req->route->pattern, *path = req->path;
    int param = 0;
    if (req->route->base == BASE_V1 || strncmp(path, "/api/v1/", 8) == 0)
        for (int i = 0; i < 2; i++)
            path = strchr(path + 1, '/');
    for (; *pattern == '/'; pattern += strcspn(pattern, "/")) {
        pattern++;
        CLAIM(path && *path == '/');
        path++;
        size_t len = strcspn(path, "/");
        if (*pattern == '{') {
            plain.len = 0;
            CLAIM(decode(path, len, false, &plain));
            CLAIM(req->params[param].len == plain.len && plain.len > 0);
            CLAIM(memcmp(req->params[param].text, plain.data, plain.len) == 0);
            CLAIM(req->params[param].text[plain.len] == 0);
            CLAIM(is_utf8(plain.data, plain.len) && !memchr(plain.data, 0, plain.len));
            param++;
        }
        path += len;
    }
    CLAIM(*path == 0 || strcmp(path, "/") == 0);
    buf_free(&plain);
}

static void query_is_decoded(struct api_request *req)
{
    struct query q;
    struct err err;
    struct buf plain = {0};
    size_t parts = 0;
    bool good = true;
    enum err_code rc = query_parse(req, &q, &err);
    for (const char *p = req->query; p && *p; p += strcspn(p, "&"), p += *p == '&') {
        size_t len = strcspn(p, "&");
        if (!len) continue;
        const char *equals = memchr(p, '=', len);
        size_t name_len = equals ? (size_t)(equals - p) : len;
        plain.len = 0;
        good &= decode(p, name_len, true, &plain) && is_utf8(plain.data, plain.len);
        plain.len = 0;
        if (equals)
            good &= decode(equals + 1, len - name_len - 1, true, &plain) &&
                    is_utf8(plain.data, plain.len);
        if (!rc) {
            CLAIM(q.items[parts].value_len == plain.len);
            CLAIM(plain.len == 0 || memcmp(q.items[parts].value, plain.data, plain.len) == 0);
        }
        parts++;
    }
    if (!rc) {
        CLAIM(good && parts == (size_t)q.count && parts <= QUERY_MAX);
        uint64_t n = 5;
        if (!query_u64(&q, "limit", 1, 1000, &n, &err)) CLAIM(n >= 1 && n <= 1000);
        const char *cursor;
        size_t len;
        if (query_cursor(req, &q, &cursor, &len, &err)) CLAIM(err.code == ERR_INVALID_REQUEST);
        if (query_done(&q, &err)) CLAIM(is_utf8(err.msg, strlen(err.msg)));
    }
    buf_free(&plain);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const methods[] = {"GET", "POST", "PUT", "DELETE", "HEAD", "PATCH"};
    if (size < 1) return 0;
    char *path = fuzz_text(data + 1, size - 1);
    struct api_request req = {.method = methods[data[0] % 6], .path = path};
    struct err err;
    char allow[96]; /* as in struct api_response */
    req.query = strchr(path, '?');
    if (req.query) *(char *)(uintptr_t)req.query++ = 0;

    enum err_code rc = router_match(&req, allow, sizeof allow, &err);
    CLAIM(strlen(allow) < sizeof allow - 1);
    CLAIM((rc == ERR_METHOD_NOT_ALLOWED) == (allow[0] != 0) || rc == ERR_INVALID_NAME);
    if (!rc) {
        params_are_decoded(&req);
        query_is_decoded(&req);
        for (int i = 0; i < 2 && req.params[i].text; i++) {
            name_keeps_rules(req.params[i].text, req.params[i].len);
            id_keeps_rules(req.params[i].text, req.params[i].len);
        }
    } else {
        CLAIM(is_utf8(err.msg, strlen(err.msg)));
    }
    name_keeps_rules((const char *)data, size);
    id_keeps_rules((const char *)data, size);
    arena_free(&req.arena);
    free(path);
    return 0;
}

void fuzz_seeds(fuzz_add_fn *add, void *ctx)
{
    char line[512];
    for (size_t i = 0; i < ROUTE_COUNT; i++) {
        const struct api_route *r = &api_routes[i];
        int at = strcmp(r->method, "GET") == 0      ? 0
                 : strcmp(r->method, "POST") == 0   ? 1
                 : strcmp(r->method, "PUT") == 0    ? 2
                 : strcmp(r->method, "DELETE") == 0 ? 3
                                                    : 5;
        snprintf(line, sizeof line, "%c/api/v1%s", at, r->pattern);
        add(ctx, line, 1 + strlen(line + 1));
    }
    static const char *const more[] = {
        "\0/health",
        "\0/api/v1/databases/a%20b/vectors/%C3%A9?limit=10&cursor=aWQ&include=data,metadata",
        "\3/api/v1/databases/d/vectors/9223372036854775807/",
        "\3/api/v1/databases/d/vectors/%2e%2e%2f%00x",
        "\1/api/v1/databases/d/vectors/batch?durability=periodic&&a=b+c%2B",
        "\4/api/v1//databases/%zz",
    };
    for (size_t i = 0; i < sizeof more / sizeof *more; i++)
        add(ctx, more[i], 1 + strlen(more[i] + 1));
}

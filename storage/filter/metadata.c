/*
 * metadata.c - a scanner that skips.
 *
 * At each object there is a list of ACTIVE paths: those whose first keys led here, with the place
 * where the rest begins.  A member's key is compared with each rest: equal, its value is one; equal
 * up to a dot, the path is active for the objects in the value.
 *
 * Every function takes the place where it begins and returns the place behind what it read, or NULL
 * if the text is not JSON: then the walk ends.
 */
#include "storage/filter/metadata.h"

#include <string.h>

#include "storage/base/hex.h"
#include "storage/base/mem.h"
#include "storage/base/utf8.h"

enum {
    DEPTH_MAX = 64, /* as api/json_scan.h has it */
    UNESCAPED_BYTES_MIN = 1024,
};

/* One walk over one text. */
struct cursor {
    struct metadata_walk *w;
    const char *end;
    unsigned dotless_left;
    bool stopped;
};

unsigned metadata_path_keys(const char *text, size_t bytes)
{
    unsigned keys = 1;
    if (bytes == 0 || text[0] == '.' || text[bytes - 1] == '.') return 0;
    for (size_t i = 1; i < bytes; i++) {
        if (text[i] != '.') continue;
        if (text[i - 1] == '.') return 0;
        keys++;
    }
    return keys;
}

bool metadata_walk_init(struct metadata_walk *w, const struct metadata_path *paths, unsigned count,
                        metadata_value_fn *fn, void *ctx)
{
    *w = (struct metadata_walk){.paths = paths, .path_count = count, .fn = fn, .ctx = ctx};
    for (unsigned i = 0; i < count; i++) {
        unsigned keys = metadata_path_keys(paths[i].text, paths[i].bytes);
        w->dotless += keys == 1;
        /* A path is active at most once for each number of keys that led there. */
        w->active_max += keys < METADATA_PATH_KEYS_MAX ? keys : METADATA_PATH_KEYS_MAX;
    }
    w->active = mem_try((w->active_max + 1) * sizeof *w->active);
    return w->active != NULL;
}

void metadata_walk_deinit(struct metadata_walk *w)
{
    mem_free(w->active);
    mem_free(w->unescaped);
    w->active = NULL;
    w->unescaped = NULL;
}

/* ---- skipping ---- */

static inline const char *skip_space(const char *p, const char *end)
{
    while (p < end && (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t'))
        p++;
    return p;
}

/* From behind the opening quote to the closing one. */
static const char *string_end(const char *p, const char *end, bool *escaped)
{
    *escaped = false;
    for (; p < end; p++) {
        if (*p == '"') return p;
        if (*p == '\\') {
            *escaped = true;
            p++;
        }
    }
    return NULL;
}

/* From an opening bracket to behind the one that closes it. */
static const char *skip_nested(const char *p, const char *end)
{
    size_t depth = 0;
    bool escaped;
    for (; p < end; p++) {
        switch (*p) {
        case '"':
            p = string_end(p + 1, end, &escaped);
            if (!p) return NULL;
            break;
        case '{':
        case '[':
            depth++;
            break;
        case '}':
        case ']':
            if (--depth == 0) return p + 1;
            break;
        default:
            break;
        }
    }
    return NULL;
}

/* Numbers and words. */
static const char *skip_word(const char *p, const char *end)
{
    const char *first = p;
    while (p < end && *p != ',' && *p != '}' && *p != ']' && *p != ' ' && *p != '\n' &&
           *p != '\r' && *p != '\t')
        p++;
    return p > first ? p : NULL;
}

static const char *skip_value(const char *p, const char *end)
{
    bool escaped;
    if (p >= end) return NULL;
    if (*p == '{' || *p == '[') return skip_nested(p, end);
    if (*p != '"') return skip_word(p, end);
    p = string_end(p + 1, end, &escaped);
    return p ? p + 1 : NULL;
}

/* ---- texts ---- */

static int hex4(const char *p, const char *end)
{
    return end - p < 4 ? -1 : hex_value(p, 4);
}

/* Without its escapes a text is never longer.  Returns its length; `to` has room for `end - p`. */
static size_t unescape(const char *p, const char *end, char *to)
{
    static const char from[] = "\"\\/bfnrt", plain[] = "\"\\/\b\f\n\r\t";
    char *first = to;
    while (p < end) {
        if (*p != '\\' || p + 1 == end) {
            *to++ = *p++;
            continue;
        }
        const char *simple = memchr(from, p[1], sizeof from - 1);
        if (simple) {
            *to++ = plain[simple - from];
            p += 2;
            continue;
        }
        int unit = p[1] == 'u' ? hex4(p + 2, end) : -1;
        if (unit < 0) { /* no JSON: as it stands */
            *to++ = *p++;
            continue;
        }
        uint32_t c = (uint32_t)unit;
        p += 6;
        bool is_high = unit >= 0xd800 && unit <= 0xdbff;
        int low = is_high && end - p >= 6 && p[0] == '\\' && p[1] == 'u' ? hex4(p + 2, end) : -1;
        if (low >= 0xdc00 && low <= 0xdfff) {
            c = 0x10000 + ((c - 0xd800) << 10) + ((uint32_t)low - 0xdc00);
            p += 6;
        }
        to += utf8_encode(c, to);
    }
    return (size_t)(to - first);
}

/* The text between p and end without its escapes, in memory of the walk. */
static const char *unescaped(struct metadata_walk *w, const char *p, const char *end, size_t *bytes)
{
    size_t room = (size_t)(end - p);
    if (room > w->unescaped_max) {
        size_t max = room < UNESCAPED_BYTES_MIN ? UNESCAPED_BYTES_MIN : room;
        char *wider = mem_resize(w->unescaped, max);
        if (!wider) {
            w->out_of_memory = true;
            return NULL;
        }
        w->unescaped = wider;
        w->unescaped_max = max;
    }
    *bytes = unescape(p, end, w->unescaped);
    return w->unescaped;
}

/* ---- values ---- */

static void give(struct cursor *c, unsigned path, const struct value *v)
{
    if (!c->w->fn(c->w->ctx, path, v)) c->stopped = true;
}

static const char *give_string(struct cursor *c, unsigned path, const char *p, bool in_array)
{
    bool escaped;
    const char *close = string_end(p + 1, c->end, &escaped);
    if (!close) return NULL;
    struct value v = {.kind = VALUE_STRING, .in_array = in_array, .text = p + 1};
    size_t bytes = (size_t)(close - p - 1);
    if (escaped) v.text = unescaped(c->w, p + 1, close, &bytes);
    if (!v.text) return NULL;
    v.bytes = (uint32_t)bytes;
    give(c, path, &v);
    return close + 1;
}

static const char *give_word(struct cursor *c, unsigned path, const char *p, bool in_array)
{
    const char *behind = skip_word(p, c->end);
    if (!behind) return NULL;
    struct value v = {.in_array = in_array};
    if (*p == 't')
        v.kind = VALUE_TRUE;
    else if (*p == 'f')
        v.kind = VALUE_FALSE;
    else if (*p == 'n')
        v.kind = VALUE_NULL;
    else if (number_parse(p, (size_t)(behind - p), &v.number))
        v.kind = VALUE_NUMBER;
    else
        return NULL;
    give(c, path, &v);
    return behind;
}

static const char *give_value(struct cursor *c, unsigned path, const char *p, bool in_array);

/* The array itself, then its elements; those of arrays in arrays are not looked at. */
static const char *give_array(struct cursor *c, unsigned path, const char *p, bool in_array)
{
    const char *behind = skip_nested(p, c->end);
    if (!behind) return NULL;
    struct value v = {.kind = VALUE_ARRAY, .in_array = in_array};
    give(c, path, &v);
    if (in_array) return behind;
    for (p = skip_space(p + 1, c->end); p < behind - 1 && !c->stopped;) {
        p = give_value(c, path, p, true);
        if (!p) return NULL;
        p = skip_space(p, c->end);
        if (p < behind - 1 && *p == ',') p = skip_space(p + 1, c->end);
    }
    return behind;
}

static const char *give_value(struct cursor *c, unsigned path, const char *p, bool in_array)
{
    if (p >= c->end) return NULL;
    switch (*p) {
    case '"':
        return give_string(c, path, p, in_array);
    case '[':
        return give_array(c, path, p, in_array);
    case '{': {
        const char *behind = skip_nested(p, c->end);
        if (!behind) return NULL;
        struct value v = {.kind = VALUE_OBJECT, .in_array = in_array, .text = p};
        v.bytes = (uint32_t)(behind - p);
        give(c, path, &v);
        return behind;
    }
    default:
        return give_word(c, path, p, in_array);
    }
}

/* ---- objects ---- */

static const char *walk_object(struct cursor *c, const char *p, struct metadata_active *active,
                               size_t count, unsigned depth);

/* The value of a member that leads on: an object, or an array with objects in it. */
static const char *descend(struct cursor *c, const char *p, struct metadata_active *active,
                           size_t count, unsigned depth)
{
    if (*p == '{') return walk_object(c, p, active, count, depth + 1);
    if (*p != '[') return skip_value(p, c->end);
    for (p = skip_space(p + 1, c->end); p < c->end && *p != ']' && !c->stopped;) {
        p = *p == '{' ? walk_object(c, p, active, count, depth + 1) : skip_value(p, c->end);
        if (!p) return NULL;
        p = skip_space(p, c->end);
        if (p < c->end && *p == ',') p = skip_space(p + 1, c->end);
    }
    return p < c->end ? p + 1 : NULL;
}

/* What a member is to the active paths: its value is given for those that end here; those that go
 * on become active behind `active`. */
static const char *walk_member(struct cursor *c, const char *key, size_t key_bytes, const char *p,
                               struct metadata_active *active, size_t count, unsigned depth)
{
    struct metadata_walk *w = c->w;
    size_t deeper = 0;
    const char *behind = NULL;
    for (size_t i = 0; i < count && !c->stopped; i++) {
        const struct metadata_path *path = &w->paths[active[i].path];
        const char *rest = path->text + active[i].rest;
        size_t rest_bytes = path->bytes - active[i].rest;
        if (key_bytes > rest_bytes || memcmp(key, rest, key_bytes) != 0) continue;
        if (key_bytes == rest_bytes) {
            behind = give_value(c, active[i].path, p, false);
            if (!behind) return NULL;
            if (depth == 0 && !memchr(path->text, '.', path->bytes)) c->dotless_left--;
        } else if (rest[key_bytes] == '.' &&
                   (size_t)(active - w->active) + count + deeper < w->active_max) {
            active[count + deeper++] =
                (struct metadata_active){active[i].path, active[i].rest + (uint32_t)key_bytes + 1};
        }
    }
    if (c->stopped) return NULL;
    if (deeper && depth + 1 < DEPTH_MAX) return descend(c, p, active + count, deeper, depth);
    return behind ? behind : skip_value(p, c->end);
}

static const char *walk_object(struct cursor *c, const char *p, struct metadata_active *active,
                               size_t count, unsigned depth)
{
    const char *end = c->end;
    p = skip_space(p + 1, end);
    while (p < end && *p == '"') {
        bool escaped;
        const char *key = p + 1, *close = string_end(key, end, &escaped);
        if (!close) return NULL;
        size_t key_bytes = (size_t)(close - key);
        char copy[6 * METADATA_PATH_BYTES_MAX]; /* \u0061 is one byte */
        if (escaped && key_bytes <= sizeof copy) {
            key_bytes = unescape(key, close, copy);
            key = copy;
        }
        p = skip_space(close + 1, end);
        if (p >= end || *p != ':') return NULL;
        p = skip_space(p + 1, end);
        if (p >= end) return NULL;
        p = walk_member(c, key, key_bytes, p, active, count, depth);
        if (!p || c->stopped) return NULL;
        if (depth == 0 && c->dotless_left == 0 && c->w->dotless == c->w->path_count) return NULL;
        p = skip_space(p, end);
        if (p < end && *p == ',') p = skip_space(p + 1, end);
    }
    return p < end && *p == '}' ? p + 1 : NULL;
}

void metadata_walk(struct metadata_walk *w, const char *text, size_t bytes)
{
    struct cursor c = {.w = w, .end = text + bytes, .dotless_left = w->dotless};
    const char *p = skip_space(text, c.end);
    if (w->path_count == 0 || p >= c.end || *p != '{' || bytes > UINT32_MAX) return;
    for (unsigned i = 0; i < w->path_count; i++)
        w->active[i] = (struct metadata_active){.path = i};
    walk_object(&c, p, w->active, w->path_count, 0);
}

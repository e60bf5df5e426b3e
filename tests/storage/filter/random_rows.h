/*
 * random_rows.h - random rows and random filters, and a plain model of what matches.
 *
 * The model knows nothing of JSON text, columns or bitmaps: a row is a list of values for each
 * field, a filter a tree of conditions on them, and both write themselves as JSON.
 */
#ifndef TESTS_STORAGE_FILTER_RANDOM_ROWS_H
#define TESTS_STORAGE_FILTER_RANDOM_ROWS_H

#include "tests/storage/fixture.h"

#include <inttypes.h>

#include "api/json_filter.h"
#include "storage/base/buf.h"

/* What the fields of the database are; the others are not known to it. */
static const char random_options[] =
    "{\"metadata_indexes\":{\"kind\":\"keyword\",\"size\":\"integer\",\"price\":\"float\","
    "\"open\":\"bool\",\"at\":\"datetime\",\"place\":\"geo\",\"title\":\"text\"}}";

enum random_field { KIND, SIZE, PRICE, OPEN, AT, TAGS, DEEP, PLACE, TITLE, ANY, FIELD_COUNT };
static const char *const field_names[FIELD_COUNT] = {"kind", "size",   "price", "open",  "at",
                                                     "tags", "deep.x", "place", "title", "any"};

enum plain_kind { NOTHING, PLAIN_NULL, PLAIN_BOOL, PLAIN_NUMBER, PLAIN_TEXT, PLAIN_POINT };
struct plain {
    enum plain_kind kind;
    double number; /* of PLAIN_BOOL: 0 or 1; PLAIN_POINT: lat */
    double lon;
    int64_t seconds; /* of a text that is a time */
    bool is_time;
    char text[48];
};

enum { ELEMENTS_MAX = 3 };
struct plain_field {
    bool is_there, is_array;
    int count;
    struct plain values[ELEMENTS_MAX];
};
struct plain_row {
    struct plain_field fields[FIELD_COUNT];
};

/* ---- values ---- */

static inline struct plain plain_number(double n)
{
    return (struct plain){.kind = PLAIN_NUMBER, .number = n};
}

static inline struct plain plain_text(const char *text)
{
    struct plain p = {.kind = PLAIN_TEXT};
    snprintf(p.text, sizeof p.text, "%s", text);
    return p;
}

static inline struct plain random_time(uint64_t *seed)
{
    struct plain p = {.kind = PLAIN_TEXT, .is_time = true};
    int minute = (int)(test_random(seed) % 300), offset = (int)(test_random(seed) % 5) - 2;
    p.seconds = INT64_C(1767225600) + minute * 60; /* 2026-01-01T00:00:00Z */
    int local = minute + offset * 60 + 24 * 60;    /* minutes of that day, and one more */
    snprintf(p.text, sizeof p.text, "%s%02d:%02d:00%c%02d:00",
             local < 24 * 60 ? "2025-12-31T" : "2026-01-01T", local / 60 % 24, local % 60,
             offset < 0 ? '-' : '+', abs(offset));
    return p;
}

static inline struct plain random_value(uint64_t *seed, enum random_field field)
{
    static const char *const words[] = {"",      "lib",   "libs",   "admin", "ad",
                                        "fonts", "Größe", "a\"b\\", "x y z"};
    static const char *const titles[] = {
        "the quick brown fox", "Quick fox; lazy DOG", "brown dog", "fox", "---", "the the the"};
    uint64_t dice = test_random(seed);
    switch (field) {
    case KIND:
    case TAGS:
        return plain_text(words[dice % 9]);
    case SIZE:
        if (dice % 16 == 0) return plain_number(9007199254740992.0 + (double)(dice >> 8 & 6));
        return plain_number((double)((int)(dice >> 8 & 63) - 20));
    case PRICE:
        return plain_number((double)((int)(dice >> 8 & 1023) - 300) / 4);
    case OPEN:
        return (struct plain){.kind = PLAIN_BOOL, .number = dice >> 8 & 1};
    case AT:
        return random_time(seed);
    case DEEP:
        return plain_number((double)(dice % 5));
    case PLACE:
        return (struct plain){.kind = PLAIN_POINT,
                              .number = (double)(int)(dice >> 8 & 127) - 64,
                              .lon = (double)(int)(dice >> 20 & 255) - 128};
    case TITLE:
        return plain_text(titles[dice % 6]);
    default:
        return dice % 4 == 0 ? (struct plain){.kind = PLAIN_NULL}
                             : random_value(seed, (enum random_field)(dice % PLACE));
    }
}

static inline void random_row(struct plain_row *row, uint64_t *seed)
{
    memset(row, 0, sizeof *row);
    for (int f = 0; f < FIELD_COUNT; f++) {
        struct plain_field *field = &row->fields[f];
        uint64_t dice = test_random(seed);
        if (dice % 5 == 0) continue;
        field->is_there = true;
        /* Now and then a field has what it should not have. */
        enum random_field like = dice % 37 == 1 ? ANY : (enum random_field)f;
        field->is_array = f == TAGS ? dice % 8 != 1 : dice % 23 == 1;
        field->count = field->is_array ? (int)((dice >> 32) % (ELEMENTS_MAX + 1)) : 1;
        for (int i = 0; i < field->count; i++)
            field->values[i] = random_value(seed, like);
    }
}

/* ---- as JSON ---- */

static inline void put_plain(struct buf *out, const struct plain *p)
{
    switch (p->kind) {
    case PLAIN_NULL:
        buf_str(out, "null");
        break;
    case PLAIN_BOOL:
        buf_str(out, p->number != 0 ? "true" : "false");
        break;
    case PLAIN_NUMBER:
        buf_printf(out, "%.17g", p->number);
        break;
    case PLAIN_POINT:
        buf_printf(out, "{\"lon\":%.17g,\"lat\":%.17g}", p->lon, p->number);
        break;
    default:
        buf_str(out, "\"");
        for (const char *c = p->text; *c; c++) {
            if (*c == '"' || *c == '\\' || *c == 'f')
                buf_printf(out, "\\u%04x", (unsigned char)*c); /* some escapes */
            else
                buf_add(out, c, 1);
        }
        buf_str(out, "\"");
    }
}

static inline void put_plain_row(struct buf *out, const struct plain_row *row)
{
    bool first = true;
    buf_str(out, "{");
    for (int f = 0; f < FIELD_COUNT; f++) {
        const struct plain_field *field = &row->fields[f];
        if (!field->is_there) continue;
        buf_printf(out, "%s", first ? "" : ", ");
        buf_str(out, f == DEEP ? "\"deep\":{\"x\":" : "");
        if (f != DEEP) buf_printf(out, "\"%s\": ", field_names[f]);
        if (field->is_array) buf_str(out, "[");
        for (int i = 0; i < field->count; i++) {
            if (i) buf_str(out, " ,");
            put_plain(out, &field->values[i]);
        }
        if (field->is_array) buf_str(out, "]");
        if (f == DEEP) buf_str(out, "}");
        first = false;
    }
    buf_str(out, "}");
}

/* ---- filters ---- */

struct plain_filter {
    enum filter_op op;
    int part_count; /* of AND, OR, NOT */
    struct plain_filter *parts[3];
    enum random_field field;
    int value_count;
    struct plain values[5];
};

static inline void plain_filter_free(struct plain_filter *f)
{
    for (int i = 0; i < f->part_count; i++)
        plain_filter_free(f->parts[i]);
    free(f);
}

static inline enum filter_op random_operator(uint64_t *seed, enum random_field field)
{
    static const enum filter_op ops[] = {FILTER_EQ,   FILTER_NE,     FILTER_GT,       FILTER_GTE,
                                         FILTER_LT,   FILTER_LTE,    FILTER_IN,       FILTER_NIN,
                                         FILTER_IN,   FILTER_EXISTS, FILTER_CONTAINS, FILTER_PREFIX,
                                         FILTER_REGEX};
    if (field == PLACE) return test_random(seed) % 2 ? FILTER_GEO_BOX : FILTER_EXISTS;
    if (field == TITLE) return FILTER_TEXT;
    return ops[test_random(seed) % (sizeof ops / sizeof *ops)];
}

static inline struct plain_filter *random_filter(uint64_t *seed, int depth)
{
    struct plain_filter *f = calloc(1, sizeof *f);
    assert_non_null(f);
    uint64_t dice = test_random(seed);
    if (depth > 0 && dice % 2) {
        f->op = (enum filter_op)((dice >> 8) % 3);
        f->part_count = f->op == FILTER_NOT ? 1 : 1 + (int)((dice >> 16) % 3);
        for (int i = 0; i < f->part_count; i++)
            f->parts[i] = random_filter(seed, depth - 1);
        return f;
    }
    f->field = (enum random_field)((dice >> 8) % FIELD_COUNT);
    f->op = random_operator(seed, f->field);
    f->value_count = f->op == FILTER_IN || f->op == FILTER_NIN ? (int)((dice >> 32) % 5) : 1;
    if (f->op == FILTER_EXISTS) f->value_count = 0;
    if (f->op == FILTER_GEO_BOX) f->value_count = 2;
    for (int i = 0; i < f->value_count; i++)
        f->values[i] = random_value(seed, f->field);
    struct plain *v = f->values;
    bool is_order = f->op >= FILTER_GT && f->op <= FILTER_LTE;
    bool is_text = f->op == FILTER_PREFIX || f->op == FILTER_REGEX;
    if (is_order && v->kind != PLAIN_NUMBER && (v->kind != PLAIN_TEXT || f->field == AT))
        *v = f->field == AT ? random_time(seed) : plain_number(3);
    if (is_text && (v->kind != PLAIN_TEXT || dice >> 40 & 1)) *v = plain_text("li");
    if (f->op == FILTER_REGEX) *v = plain_text(dice >> 41 & 1 ? "^li|d" : "[a-f]$");
    if (f->op == FILTER_CONTAINS && v->kind == PLAIN_NULL) *v = plain_text("b");
    if (f->op == FILTER_TEXT) *v = plain_text(dice >> 42 & 1 ? "fox" : "Brown the");
    if (f->op == FILTER_GEO_BOX && v[0].number < v[1].number) {
        double swap = v[0].number;
        v[0].number = v[1].number;
        v[1].number = swap;
    }
    return f;
}

static inline void put_plain_filter(struct buf *out, const struct plain_filter *f)
{
    static const char *const names[] = {"$and",        "$or",      "$not",      "$eq",     "$ne",
                                        "$gt",         "$gte",     "$lt",       "$lte",    "$in",
                                        "$nin",        "$exists",  "$contains", "$prefix", "$regex",
                                        "$geo_radius", "$geo_box", "$text"};
    if (f->op <= FILTER_NOT) {
        buf_printf(out, "{\"%s\":%s", names[f->op], f->op == FILTER_NOT ? "" : "[");
        for (int i = 0; i < f->part_count; i++) {
            if (i) buf_str(out, ",");
            put_plain_filter(out, f->parts[i]);
        }
        buf_printf(out, "%s}", f->op == FILTER_NOT ? "" : "]");
        return;
    }
    buf_printf(out, "{\"%s\":{\"%s\":", field_names[f->field], names[f->op]);
    if (f->op == FILTER_EXISTS) buf_str(out, "true");
    if (f->op == FILTER_GEO_BOX) buf_str(out, "{\"top_left\":");
    if (f->op == FILTER_IN || f->op == FILTER_NIN) buf_str(out, "[");
    for (int i = 0; i < f->value_count; i++) {
        if (i) buf_str(out, f->op == FILTER_GEO_BOX ? ",\"bottom_right\":" : ",");
        put_plain(out, &f->values[i]);
    }
    if (f->op == FILTER_IN || f->op == FILTER_NIN) buf_str(out, "]");
    if (f->op == FILTER_GEO_BOX) buf_str(out, "}");
    buf_str(out, "}}");
}

static inline const struct filter *compile_plain_filter(const struct plain_filter *f,
                                                        struct arena *arena, struct buf *text)
{
    struct err err;
    struct json_scan s;
    const struct filter *filter = NULL;
    text->len = 0;
    put_plain_filter(text, f);
    buf_add(text, "", 1);
    json_scan_init(&s, text->data, text->len - 1, arena);
    if (json_filter(&s, random_options, &filter, &err)) fail_msg("%s: %s", text->data, err.msg);
    return filter;
}

/* ---- the model ---- */

/* < 0, 0, > 0; *comparable false: of different kinds. */
static inline int compare_plain(const struct plain *a, const struct plain *b, bool as_times,
                                bool *comparable)
{
    *comparable = a->kind == b->kind;
    if (!*comparable) return 1;
    if (a->kind == PLAIN_TEXT) {
        if (as_times && a->is_time != b->is_time) *comparable = false;
        if (as_times && a->is_time && b->is_time)
            return (a->seconds > b->seconds) - (a->seconds < b->seconds);
        return strcmp(a->text, b->text);
    }
    if (a->kind == PLAIN_POINT) *comparable = false;
    return (a->number > b->number) - (a->number < b->number);
}

static inline bool plain_text_has_words(const char *text, const char *words)
{
    /* The titles above are plain enough. */
    if (strcmp(words, "fox") == 0) return strstr(text, "fox") != NULL;
    return strstr(text, "the") && strstr(text, "brown");
}

static inline bool value_satisfies(const struct plain_filter *f, const struct plain *v,
                                   bool in_array)
{
    bool comparable;
    const struct plain *operand = f->values;
    int order = compare_plain(v, operand, f->field == AT, &comparable);
    switch (f->op) {
    case FILTER_EQ:
    case FILTER_NE:
        return comparable && order == 0;
    case FILTER_GT:
        return comparable && order > 0;
    case FILTER_GTE:
        return comparable && order >= 0;
    case FILTER_LT:
        return comparable && order < 0;
    case FILTER_LTE:
        return comparable && order <= 0;
    case FILTER_IN:
    case FILTER_NIN:
        for (int i = 0; i < f->value_count; i++)
            if (compare_plain(v, &f->values[i], f->field == AT, &comparable) == 0 && comparable)
                return true;
        return false;
    case FILTER_CONTAINS:
        if (in_array) return comparable && order == 0;
        return v->kind == PLAIN_TEXT && operand->kind == PLAIN_TEXT &&
               strstr(v->text, operand->text);
    case FILTER_PREFIX:
        return v->kind == PLAIN_TEXT && strncmp(v->text, operand->text, strlen(operand->text)) == 0;
    case FILTER_REGEX: {
        if (v->kind != PLAIN_TEXT) return false;
        if (operand->text[0] == '^') return strncmp(v->text, "li", 2) == 0 || strchr(v->text, 'd');
        size_t len = strlen(v->text);
        return len && v->text[len - 1] >= 'a' && v->text[len - 1] <= 'f';
    }
    case FILTER_TEXT:
        return v->kind == PLAIN_TEXT && plain_text_has_words(v->text, operand->text);
    case FILTER_GEO_BOX: {
        const struct plain *a = &f->values[0], *b = &f->values[1];
        if (v->kind != PLAIN_POINT || v->number > a->number || v->number < b->number) return false;
        if (a->lon <= b->lon) return v->lon >= a->lon && v->lon <= b->lon;
        return v->lon >= a->lon || v->lon <= b->lon;
    }
    default:
        return false;
    }
}

static inline bool plain_row_matches(const struct plain_filter *f, const struct plain_row *row)
{
    bool any = false, has_null = false;
    switch (f->op) {
    case FILTER_AND:
        for (int i = 0; i < f->part_count; i++)
            if (!plain_row_matches(f->parts[i], row)) return false;
        return true;
    case FILTER_OR:
        for (int i = 0; i < f->part_count; i++)
            if (plain_row_matches(f->parts[i], row)) return true;
        return false;
    case FILTER_NOT:
        return !plain_row_matches(f->parts[0], row);
    default:
        break;
    }
    const struct plain_field *field = &row->fields[f->field];
    if (f->op == FILTER_EXISTS) return field->is_there;
    for (int i = 0; i < field->count; i++)
        any |= value_satisfies(f, &field->values[i], field->is_array);
    for (int i = 0; i < f->value_count; i++)
        has_null |= f->values[i].kind == PLAIN_NULL;
    bool is_equality =
        f->op == FILTER_EQ || f->op == FILTER_NE || f->op == FILTER_IN || f->op == FILTER_NIN;
    if (is_equality && has_null && !field->is_there) any = true;
    return f->op == FILTER_NE || f->op == FILTER_NIN ? !any : any;
}

#endif

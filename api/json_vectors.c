/* json_vectors.c - rows, batches, id lists and searches. */
#include "api/json_vectors.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/base64.h"
#include "api/float_text.h"
#include "api/json_filter.h"
#include "storage/base/utf8.h"

enum { TOP_K_MAX = 10000, SEARCH_DEPTH_MAX = 20000, EF_MAX = 32768, OVERSAMPLING_MAX = 100 };
static const double RECALL_MIN = 0.5;

static enum err_code no_memory(struct err *err)
{
    return err_set(err, ERR_NOMEM, "out of memory for this request");
}

void json_vectors_subject(struct err *err, const char *subject)
{
    if (err->code == ERR_INVALID_JSON || err->code == ERR_NOMEM) return;
    char text[sizeof err->msg];
    int n = snprintf(text, sizeof text, "%s %s", subject, err->msg);
    if (n >= (int)sizeof text) text[utf8_cut(text, sizeof text - 1)] = 0;
    memcpy(err->msg, text, sizeof text);
}

enum err_code json_vector_id(struct json_scan *s, struct vector_id *id, struct err *err)
{
    struct json_text text;
    enum err_code rc;
    char c = json_scan_peek(s);
    if (c == '"') {
        rc = json_scan_string(s, &text, err);
        if (rc) return rc;
        rc = vector_id_parse(text.data, text.len, id, err);
        if (rc) {
            struct err why = *err;
            err_set(err, rc, "has an invalid id: %s", why.msg);
        }
        return rc;
    }
    if (c != '-' && !(c >= '0' && c <= '9'))
        return json_scan_mistyped(s, ERR_INVALID_ID,
                                  "has an id that is neither an integer nor a string", err);
    rc = json_scan_value(s, &text, err);
    if (rc) return rc;
    bool digits = true;
    for (size_t i = 0; i < text.len; i++)
        digits &= text.data[i] >= '0' && text.data[i] <= '9';
    /* Digits that vector_id_parse() does not take for a number are too many. */
    if (digits && !vector_id_parse(text.data, text.len, id, err) && !id->text) return ERR_OK;
    return err_set(err, ERR_INVALID_ID,
                   "has the invalid id %.*s: an id is an integer from 0 to 9223372036854775807 "
                   "without fraction or exponent, or a string",
                   text.len > 40 ? 40 : (int)text.len, text.data);
}

enum err_code json_vector_ids(struct json_scan *s, size_t max, struct vector_id **ids,
                              size_t *count, struct err *err)
{
    size_t n = 0, cap = 64;
    bool more;
    struct vector_id *list = arena_alloc(s->arena, cap * sizeof *list);
    if (!list) return no_memory(err);
    enum err_code rc = json_scan_array(s, err);
    while (!rc && !(rc = json_scan_element(s, &more, err)) && more) {
        if (n == max) return err_set(err, ERR_INVALID_REQUEST, "has more than %zu ids", max);
        if (n == cap) {
            struct vector_id *wider = arena_alloc(s->arena, 2 * cap * sizeof *list);
            if (!wider) return no_memory(err);
            memcpy(wider, list, n * sizeof *list);
            list = wider;
            cap *= 2;
        }
        rc = json_vector_id(s, &list[n++], err);
    }
    *ids = list;
    *count = n;
    return rc;
}

enum err_code json_vector_include(struct json_scan *s, unsigned *include, struct err *err)
{
    struct json_text word;
    bool more;
    *include = 0;
    enum err_code rc = json_scan_array(s, err);
    while (!rc && !(rc = json_scan_element(s, &more, err)) && more) {
        rc = json_scan_string(s, &word, err);
        if (rc) break;
        if (json_text_is(&word, "data"))
            *include |= INCLUDE_DATA;
        else if (json_text_is(&word, "metadata"))
            *include |= INCLUDE_METADATA;
        else
            return err_set(err, ERR_INVALID_REQUEST,
                           "has an \"include\" other than \"data\" and \"metadata\"");
    }
    return rc;
}

static enum err_code dimension_mismatch(const struct vector_rules *rules, size_t count,
                                        struct err *err)
{
    return err_set(err, ERR_DIMENSION_MISMATCH,
                   "has %zu number%s; database \"%s\" has dimension %zu", count,
                   count == 1 ? "" : "s", rules->database, rules->dimension);
}

static enum err_code scan_data(struct json_scan *s, const struct vector_rules *rules,
                               const float **out, struct err *err)
{
    size_t count;
    if (json_scan_peek(s) != '[')
        return json_scan_mistyped(s, ERR_INVALID_VECTOR,
                                  "has \"data\" that is not an array of numbers", err);
    float *vector = arena_alloc(s->arena, rules->dimension * sizeof *vector);
    if (!vector) return no_memory(err);
    enum err_code rc = json_scan_floats(s, vector, rules->dimension, &count, err);
    if (rc) return rc;
    if (count != rules->dimension) return dimension_mismatch(rules, count, err);
    *out = vector;
    return ERR_OK;
}

static enum err_code scan_data_base64(struct json_scan *s, const struct vector_rules *rules,
                                      const float **out, struct err *err)
{
    struct json_text text;
    size_t bytes;
    if (json_scan_peek(s) != '"')
        return json_scan_mistyped(s, ERR_INVALID_VECTOR, "has \"data_base64\" that is not a string",
                                  err);
    enum err_code rc = json_scan_string(s, &text, err);
    if (rc) return rc;
    float *vector = arena_alloc(s->arena, base64_bytes_max(text.len));
    if (!vector) return no_memory(err);
    if (!base64_read(text.data, text.len, vector, &bytes))
        return err_set(err, ERR_INVALID_VECTOR, "has \"data_base64\" that is not base64");
    if (bytes % 4)
        return err_set(err, ERR_INVALID_VECTOR,
                       "has %zu bytes in \"data_base64\", not a multiple of 4", bytes);
    if (bytes / 4 != rules->dimension) return dimension_mismatch(rules, bytes / 4, err);
    for (size_t i = 0; i < rules->dimension; i++) {
        if (!isfinite(vector[i]))
            return err_set(err, ERR_INVALID_VECTOR,
                           "has a number at data_base64[%zu] that is not finite", i);
    }
    *out = vector;
    return ERR_OK;
}

/* An object, or a string that holds one: scripts of the migration guide send "{}". */
static enum err_code scan_metadata(struct json_scan *s, struct row_input *row, struct err *err)
{
    struct json_text raw;
    struct json_scan inner;
    enum err_code rc;
    char c = json_scan_peek(s);
    if (c == '{') {
        rc = json_scan_value(s, &raw, err);
        if (rc) return rc;
    } else if (c == '"') {
        rc = json_scan_string(s, &raw, err);
        if (rc) return rc;
        char *text = arena_alloc(s->arena, raw.len + 1); /* the scanner wants a zero byte */
        if (!text) return no_memory(err);
        memcpy(text, raw.data, raw.len);
        text[raw.len] = 0;
        json_scan_init(&inner, text, raw.len, s->arena);
        if (json_scan_peek(&inner) != '{')
            return err_set(err, ERR_INVALID_REQUEST,
                           "has \"metadata\" in a string that does not hold a JSON object");
        struct err why;
        rc = json_scan_value(&inner, &raw, &why);
        if (!rc) rc = json_scan_end(&inner, &why);
        if (rc)
            return err_set(err, rc == ERR_INVALID_JSON ? ERR_INVALID_REQUEST : rc,
                           "has \"metadata\" in a string that does not hold a JSON object: %s",
                           why.msg);
    } else {
        return json_scan_mistyped(s, ERR_INVALID_REQUEST,
                                  "has \"metadata\" that is not a JSON object", err);
    }
    if (raw.len > METADATA_BYTES_MAX)
        return err_set(err, ERR_INVALID_REQUEST,
                       "has %zu bytes of metadata; at most %d are allowed", raw.len,
                       METADATA_BYTES_MAX);
    row->metadata = raw.data;
    row->metadata_bytes = (uint32_t)raw.len;
    return ERR_OK;
}

enum err_code json_vector_row(struct json_scan *s, const struct vector_rules *rules,
                              struct row_input *row, struct err *err)
{
    enum { VECTOR_ID, ID, DATA, DATA_BASE64, METADATA, MODE, TTL, IF_NEAREST };
    static const char *const names[] = {"vector_id",   "id",         "data",
                                        "data_base64", "metadata",   "mode",
                                        "ttl_seconds", "if_nearest", NULL};
    struct json_text key, word;
    uint32_t seen = 0;
    int field;
    bool more;

    *row = (struct row_input){.assign_id = true};
    if (json_scan_peek(s) != '{')
        return json_scan_mistyped(s, ERR_INVALID_REQUEST, "is not a JSON object", err);
    enum err_code rc = json_scan_object(s, err);
    while (!rc && !(rc = json_scan_member(s, &key, &more, err)) && more) {
        rc = json_scan_field(&key, names, &seen, &field, err);
        if (rc) return rc;
        switch (field) {
        case ID:
            if (!rules->is_dump)
                return err_set(err, ERR_INVALID_REQUEST,
                               "has an unknown field \"id\"; it is called \"vector_id\"");
            /* fall through */
        case VECTOR_ID:
            if (!row->assign_id)
                return err_set(err, ERR_INVALID_REQUEST, "has both \"id\" and \"vector_id\"");
            rc = json_vector_id(s, &row->id, err);
            row->assign_id = false;
            break;
        case DATA:
            rc = scan_data(s, rules, &row->vector, err);
            break;
        case DATA_BASE64:
            rc = scan_data_base64(s, rules, &row->vector, err);
            break;
        case METADATA:
            rc = scan_metadata(s, row, err);
            break;
        case MODE:
            rc = json_scan_string(s, &word, err);
            if (!rc && !json_text_is(&word, "upsert"))
                rc = err_set(err, ERR_INVALID_REQUEST,
                             "has a \"mode\" that this version does not support; it supports "
                             "\"upsert\"");
            break;
        default:
            return err_set(err, ERR_INVALID_REQUEST,
                           "has the field \"%s\", which this version does not support yet",
                           names[field]);
        }
    }
    if (rc) return rc;
    if ((seen >> DATA & 1) && (seen >> DATA_BASE64 & 1))
        return err_set(err, ERR_INVALID_REQUEST, "has both \"data\" and \"data_base64\"");
    if (!row->vector)
        return err_set(err, ERR_INVALID_REQUEST, "has neither \"data\" nor \"data_base64\"");
    if (rules->path_id) {
        if (!row->assign_id && vector_id_compare(&row->id, rules->path_id) != 0)
            return err_set(err, ERR_INVALID_REQUEST, "has another \"vector_id\" than the path");
        row->id = *rules->path_id;
        row->assign_id = false;
    }
    if (rules->is_dump && row->assign_id) return err_set(err, ERR_INVALID_ID, "has no \"id\"");
    return ERR_OK;
}

bool json_vector_keep(struct arena *arena, struct row_input *row)
{
    if (row->id.text) {
        row->id.text = arena_copy(arena, row->id.text, row->id.text_bytes);
        if (!row->id.text) return false;
    }
    if (row->metadata) {
        row->metadata = arena_copy(arena, row->metadata, row->metadata_bytes);
        if (!row->metadata) return false;
    }
    return true;
}

/* "vector 17 of 100": the rest of the array is counted for it. */
static void name_row(struct json_scan *s, size_t row, struct err *err)
{
    char subject[64];
    struct err ignored;
    struct json_text raw;
    bool more;
    size_t count = row;
    if (err->code == ERR_INVALID_JSON || err->code == ERR_NOMEM) return;
    while (!json_scan_element(s, &more, &ignored) && more) {
        if (json_scan_value(s, &raw, &ignored)) break;
        count++;
    }
    if (s->at > s->start && s->at[-1] == ']' && s->depth == 1)
        snprintf(subject, sizeof subject, "vector %zu of %zu", row, count);
    else
        snprintf(subject, sizeof subject, "vector %zu", row);
    json_vectors_subject(err, subject);
}

static enum err_code scan_rows(struct json_scan *s, const struct vector_rules *rules,
                               struct row_input **rows, size_t *count, struct err *err)
{
    size_t n = 0, cap = 128;
    bool more;
    struct row_input *list = arena_alloc(s->arena, cap * sizeof *list);
    if (!list) return no_memory(err);
    if (json_scan_peek(s) != '[')
        return json_scan_mistyped(s, ERR_INVALID_REQUEST,
                                  "the request has \"vectors\" that is no array", err);
    enum err_code rc = json_scan_array(s, err);
    while (!rc && !(rc = json_scan_element(s, &more, err)) && more) {
        if (n == cap) {
            struct row_input *wider = arena_alloc(s->arena, 2 * cap * sizeof *list);
            if (!wider) return no_memory(err);
            memcpy(wider, list, n * sizeof *list);
            list = wider;
            cap *= 2;
        }
        struct json_scan before = *s;
        rc = json_vector_row(s, rules, &list[n++], err);
        if (rc && rc != ERR_INVALID_JSON && rc != ERR_NOMEM) {
            struct json_text raw;
            struct err ignored;
            *s = before;
            if (json_scan_value(s, &raw, &ignored)) s->depth = 0; /* the rest cannot be counted */
            name_row(s, n, err);
        }
    }
    *rows = list;
    *count = n;
    return rc;
}

enum err_code json_vector_batch(struct json_scan *s, const struct vector_rules *rules,
                                struct row_input **rows, size_t *count, struct err *err)
{
    static const char *const names[] = {"vectors", NULL};
    struct json_text key;
    uint32_t seen = 0;
    int field;
    bool more;
    *count = 0;
    if (json_scan_peek(s) != '{')
        return json_scan_mistyped(s, ERR_INVALID_REQUEST, "the body must be a JSON object", err);
    enum err_code rc = json_scan_object(s, err);
    while (!rc && !(rc = json_scan_member(s, &key, &more, err)) && more) {
        rc = json_scan_field(&key, names, &seen, &field, err);
        if (rc) {
            json_vectors_subject(err, "the request");
            return rc;
        }
        rc = scan_rows(s, rules, rows, count, err);
    }
    if (!rc) rc = json_scan_end(s, err);
    if (!rc && !seen) rc = err_set(err, ERR_INVALID_REQUEST, "the request has no \"vectors\"");
    return rc;
}

/* ---- search ---- */

static enum err_code scan_u64(struct json_scan *s, const char *name, uint64_t min, uint64_t max,
                              uint64_t *out, struct err *err)
{
    struct json_text raw;
    json_scan_peek(s);
    enum err_code rc = json_scan_value(s, &raw, err);
    if (rc) return rc;
    uint64_t n = 0;
    bool good = raw.len > 0 && raw.len < 19;
    for (size_t i = 0; good && i < raw.len; i++) {
        good = raw.data[i] >= '0' && raw.data[i] <= '9';
        n = n * 10 + (uint64_t)(raw.data[i] - '0');
    }
    if (!good || n < min || n > max)
        return err_set(err, ERR_INVALID_REQUEST,
                       "has a \"%s\" that is not an integer from %llu to %llu", name,
                       (unsigned long long)min, (unsigned long long)max);
    *out = n;
    return ERR_OK;
}

static enum err_code scan_double(struct json_scan *s, const char *name, double min, double max,
                                 double *out, struct err *err)
{
    struct json_text raw;
    enum err_code rc = json_scan_value(s, &raw, err);
    if (rc) return rc;
    double value = raw.data[0] == '-' || (raw.data[0] >= '0' && raw.data[0] <= '9')
                       ? strtod(raw.data, NULL)
                       : NAN;
    if (!isfinite(value) || value < min || value > max) {
        if (min == -INFINITY)
            return err_set(err, ERR_INVALID_REQUEST, "has a \"%s\" that is not a finite number",
                           name);
        return err_set(err, ERR_INVALID_REQUEST, "has a \"%s\" that is not a number from %g to %g",
                       name, min, max);
    }
    *out = value;
    return ERR_OK;
}

static enum err_code scan_bool(struct json_scan *s, const char *name, bool *out, struct err *err)
{
    struct json_text raw;
    enum err_code rc = json_scan_value(s, &raw, err);
    if (rc) return rc;
    if (!json_text_is(&raw, "true") && !json_text_is(&raw, "false"))
        return err_set(err, ERR_INVALID_REQUEST, "has a \"%s\" that is neither true nor false",
                       name);
    *out = raw.data[0] == 't';
    return ERR_OK;
}

/* How hard to look.  Whoever says more than one thing gets the surest of them: exact, then ef, then
 * recall. */
static enum err_code scan_params(struct json_scan *s, struct search_query *query, struct err *err)
{
    enum { EXACT, EF, RECALL, RESCORE, OVERSAMPLING };
    static const char *const names[] = {"exact", "ef", "recall", "rescore", "oversampling", NULL};
    struct json_text key;
    uint32_t seen = 0;
    int field;
    bool more, rescore = true;
    uint64_t ef = 0;
    if (json_scan_peek(s) != '{')
        return json_scan_mistyped(s, ERR_INVALID_REQUEST,
                                  "has \"params\" that is not a JSON object", err);
    enum err_code rc = json_scan_object(s, err);
    while (!rc && !(rc = json_scan_member(s, &key, &more, err)) && more) {
        rc = json_scan_field(&key, names, &seen, &field, err);
        if (rc) {
            json_vectors_subject(err, "has \"params\" that");
            return rc;
        }
        switch (field) {
        case EXACT:
            rc = scan_bool(s, "params.exact", &query->exact, err);
            break;
        case EF:
            rc = scan_u64(s, "params.ef", 1, EF_MAX, &ef, err);
            break;
        case RECALL:
            rc = scan_double(s, "params.recall", RECALL_MIN, 1, &query->recall, err);
            break;
        case RESCORE:
            rc = scan_bool(s, "params.rescore", &rescore, err);
            break;
        default:
            rc = scan_double(s, "params.oversampling", 1, OVERSAMPLING_MAX, &query->oversampling,
                             err);
        }
    }
    query->ef = (uint32_t)ef;
    query->no_rescore = !rescore;
    return rc;
}

enum err_code json_vector_search(struct json_scan *s, const struct vector_rules *rules,
                                 struct search_request *search, struct err *err)
{
    enum {
        DATA,
        DATA_BASE64,
        VECTOR_ID,
        TOP_K,
        K,
        LIMIT,
        OFFSET,
        FILTER,
        INCLUDE,
        MIN_SCORE,
        MAX_DISTANCE,
        PARAMS,
        EXPLAIN,
        GROUP_BY,
        GROUP_SIZE,
        DIVERSITY
    };
    static const char *const names[] = {
        "data",       "data_base64", "vector_id", "top_k",        "k",      "limit",   "offset",
        "filter",     "include",     "min_score", "max_distance", "params", "explain", "group_by",
        "group_size", "diversity",   NULL};
    struct json_text key;
    uint32_t seen = 0;
    int field;
    bool more;
    uint64_t top_k = 10, offset = 0;

    *search = (struct search_request){0};
    if (json_scan_peek(s) != '{')
        return json_scan_mistyped(s, ERR_INVALID_REQUEST, "is not a JSON object", err);
    enum err_code rc = json_scan_object(s, err);
    while (!rc && !(rc = json_scan_member(s, &key, &more, err)) && more) {
        rc = json_scan_field(&key, names, &seen, &field, err);
        if (rc) return rc;
        switch (field) {
        case DATA:
            rc = scan_data(s, rules, &search->query.vector, err);
            break;
        case DATA_BASE64:
            rc = scan_data_base64(s, rules, &search->query.vector, err);
            break;
        case VECTOR_ID:
            rc = json_vector_id(s, &search->id, err);
            search->by_id = true;
            break;
        case TOP_K:
        case K:
        case LIMIT:
            rc = scan_u64(s, names[field], 1, TOP_K_MAX, &top_k, err);
            break;
        case OFFSET:
            rc = scan_u64(s, "offset", 0, SEARCH_DEPTH_MAX, &offset, err);
            break;
        case FILTER:
            rc = json_filter(s, rules->options, &search->query.filter, err);
            break;
        case INCLUDE:
            if (json_scan_peek(s) != '[')
                return json_scan_mistyped(s, ERR_INVALID_REQUEST,
                                          "has an \"include\" that is no array", err);
            rc = json_vector_include(s, &search->include, err);
            break;
        case MIN_SCORE:
            rc = scan_double(s, "min_score", -INFINITY, INFINITY, &search->query.min_score, err);
            search->query.has_min_score = true;
            break;
        case MAX_DISTANCE:
            rc = scan_double(s, "max_distance", -INFINITY, INFINITY, &search->query.max_distance,
                             err);
            search->query.has_max_distance = true;
            break;
        case PARAMS:
            rc = scan_params(s, &search->query, err);
            break;
        case EXPLAIN:
            rc = scan_bool(s, "explain", &search->explain, err);
            break;
        default:
            return err_set(err, ERR_INVALID_REQUEST,
                           "has the field \"%s\", which this version does not support yet",
                           names[field]);
        }
    }
    if (rc) return rc;
    int targets = (seen >> DATA & 1) + (seen >> DATA_BASE64 & 1) + (seen >> VECTOR_ID & 1);
    if (targets != 1)
        return err_set(err, ERR_INVALID_REQUEST,
                       "must have exactly one of \"data\", \"data_base64\" and \"vector_id\"");
    if ((seen >> TOP_K & 1) + (seen >> K & 1) + (seen >> LIMIT & 1) > 1)
        return err_set(err, ERR_INVALID_REQUEST,
                       "has more than one of \"top_k\", \"k\" and \"limit\"");
    if (top_k + offset > SEARCH_DEPTH_MAX)
        return err_set(err, ERR_INVALID_REQUEST, "has top_k + offset beyond %d", SEARCH_DEPTH_MAX);
    search->query.top_k = top_k;
    search->query.offset = offset;
    return ERR_OK;
}

/* handlers_vectors.c - rows: store, read, delete, count. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "api/api_private.h"
#include "api/json_filter.h"
#include "api/json_vectors.h"

enum {
    IDS_MAX = 10000,
    ANSWER_BYTES_MAX = 256 * 1024 * 1024,
};

static enum err_code acquire(struct api_app *app, struct api_request *req, struct database **db,
                             struct err *err)
{
    return service_acquire(app->service, req->params[0].text, req->may_block, db, err);
}

static enum err_code path_id(const struct api_request *req, struct vector_id *id, struct err *err)
{
    return vector_id_parse(req->params[1].text, req->params[1].len, id, err);
}

/* ---- writes ---- */

enum err_code vectors_put(struct api_app *app, struct api_request *req, struct api_response *res,
                          struct err *err)
{
    struct query q;
    struct database *db = NULL;
    struct vector_id id;
    struct row_input row;
    struct json_scan s;
    enum durability durability;
    uint64_t lsn;
    bool has_path_id = req->params[1].text != NULL;

    enum err_code rc = query_parse(req, &q, err);
    if (!rc) rc = acquire(app, req, &db, err);
    if (!rc) rc = query_durability(&q, db, &durability, err);
    if (!rc) rc = query_done(&q, err);
    if (!rc && has_path_id) rc = path_id(req, &id, err);
    if (rc) goto out;

    struct vector_rules rules = {.database = database_name(db),
                                 .dimension = database_schema(db)->dimension,
                                 .path_id = has_path_id ? &id : NULL};
    body_scan(req, &s);
    rc = json_vector_row(&s, &rules, &row, err);
    if (!rc) rc = json_scan_end(&s, err);
    if (rc) {
        json_vectors_subject(err, "the vector");
        goto out;
    }
    rc = database_put(db, &row, 1, rules.dimension, req->may_block, &lsn, err);
    if (rc) goto out;
    struct buf *out = answer_json(res, row.replaced ? 200 : 201);
    buf_str(out, "{\"vector_id\":");
    put_vector_id(out, &row.id);
    buf_printf(out, ",\"created\":%s,\"version\":%" PRIu64 ",\"lsn\":%" PRIu64 "}\n",
               row.replaced ? "false" : "true", lsn, lsn);
    answer_waits(res, db, lsn, durability);
out:
    if (db) service_release(db);
    return rc;
}

enum err_code vectors_delete(struct api_app *app, struct api_request *req, struct api_response *res,
                             struct err *err)
{
    struct query q;
    struct database *db = NULL;
    struct vector_id id;
    enum durability durability;
    size_t deleted;
    uint64_t lsn;

    enum err_code rc = query_parse(req, &q, err);
    if (!rc) rc = acquire(app, req, &db, err);
    if (!rc) rc = query_durability(&q, db, &durability, err);
    if (!rc) rc = query_done(&q, err);
    if (!rc) rc = path_id(req, &id, err);
    if (!rc) rc = database_delete(db, &id, 1, req->may_block, &deleted, &lsn, err);
    if (rc) goto out;
    if (!deleted) {
        char text[80];
        vector_id_format(&id, text, sizeof text);
        rc = err_set(err, ERR_VECTOR_NOT_FOUND, "database \"%s\" has no vector %s",
                     database_name(db), text);
        goto out;
    }
    struct buf *out = answer_json(res, 200);
    buf_str(out, "{\"vector_id\":");
    put_vector_id(out, &id);
    buf_printf(out, ",\"deleted\":1,\"lsn\":%" PRIu64 "}\n", lsn);
    answer_waits(res, db, lsn, durability);
out:
    if (db) service_release(db);
    return rc;
}

/* The body of calls for many rows. */
struct many {
    struct vector_id *ids; /* NULL: none were given */
    size_t count;
    const struct filter *filter; /* NULL: none was given */
};

/* {"ids":[...]}, or {"filter":{...}} if `database` (to filter on) is not NULL; with "include" if
 * `include` is not NULL. */
static enum err_code scan_many(struct api_request *req, const struct database *database,
                               struct many *many, unsigned *include, struct err *err)
{
    enum { IDS, FILTER, INCLUDE };
    static const char *const names[] = {"ids", "filter", "include", NULL};
    struct json_scan s;
    struct json_text key;
    uint32_t seen = 0;
    int field;
    bool more;

    *many = (struct many){0};
    body_scan(req, &s);
    if (json_scan_peek(&s) != '{')
        return json_scan_mistyped(&s, ERR_INVALID_REQUEST,
                                  database ? "the body must be a JSON object with \"ids\" or "
                                             "\"filter\""
                                           : "the body must be a JSON object with \"ids\"",
                                  err);
    enum err_code rc = json_scan_object(&s, err);
    while (!rc && !(rc = json_scan_member(&s, &key, &more, err)) && more) {
        rc = json_scan_field(&key, names, &seen, &field, err);
        if (rc) break;
        if ((field == FILTER && !database) || (field == INCLUDE && !include))
            rc = err_set(err, ERR_INVALID_REQUEST, "has an unknown field \"%s\"", names[field]);
        else if (field == FILTER)
            rc = json_filter(&s, database_schema(database)->options, &many->filter, err);
        else if (field == INCLUDE)
            rc = json_vector_include(&s, include, err);
        else if (json_scan_peek(&s) != '[')
            rc = json_scan_mistyped(&s, ERR_INVALID_REQUEST, "has \"ids\" that is not an array",
                                    err);
        else
            rc = json_vector_ids(&s, IDS_MAX, &many->ids, &many->count, err);
    }
    if (!rc) rc = json_scan_end(&s, err);
    if (!rc && many->ids && many->filter)
        rc = err_set(err, ERR_INVALID_REQUEST, "has both \"ids\" and \"filter\"");
    if (!rc && !many->ids && !many->filter)
        rc = err_set(err, ERR_INVALID_REQUEST, "has no \"ids\"%s",
                     database ? " and no \"filter\"" : "");
    if (rc) json_vectors_subject(err, "the request");
    return rc;
}

enum err_code vectors_delete_many(struct api_app *app, struct api_request *req,
                                  struct api_response *res, struct err *err)
{
    struct query q;
    struct database *db = NULL;
    struct many many;
    enum durability durability;
    size_t deleted;
    uint64_t lsn;

    enum err_code rc = query_parse(req, &q, err);
    if (!rc) rc = acquire(app, req, &db, err);
    if (!rc) rc = query_durability(&q, db, &durability, err);
    if (!rc) rc = query_done(&q, err);
    if (!rc) rc = scan_many(req, db, &many, NULL, err);
    if (!rc && many.filter)
        rc = database_delete_matching(db, many.filter, req->may_block, &deleted, &lsn, err);
    else if (!rc)
        rc = database_delete(db, many.ids, many.count, req->may_block, &deleted, &lsn, err);
    if (rc) goto out;
    buf_printf(answer_json(res, 200), "{\"deleted\":%zu,\"lsn\":%" PRIu64 "}\n", deleted, lsn);
    /* Also if there was nothing to delete: it may have gone by a write that is not durable yet. */
    answer_waits(res, db, lsn, durability);
out:
    if (db) service_release(db);
    return rc;
}

/* ---- reads ---- */

enum err_code query_format(struct query *q, const struct database *db, struct row_format *format,
                           struct err *err)
{
    const char *encoding = query_text(q, "encoding", NULL);
    *format = (struct row_format){.dimension = database_schema(db)->dimension};
    if (encoding && strcmp(encoding, "base64") == 0)
        format->base64 = true;
    else if (encoding && strcmp(encoding, "json") != 0)
        return err_set(err, ERR_INVALID_REQUEST, "?encoding= must be json or base64");
    return query_include(q, INCLUDE_DATA | INCLUDE_METADATA, &format->include, err);
}

uint64_t rows_text_bytes(const struct database *db, unsigned include, uint64_t rows)
{
    uint64_t row = 64;
    if (include & INCLUDE_DATA) row += 12 * (uint64_t)database_schema(db)->dimension;
    if (include & INCLUDE_METADATA) row += 128;
    return row * rows;
}

void put_row(struct buf *out, const struct row *row, const struct row_format *format)
{
    buf_str(out, "{\"vector_id\":");
    put_vector_id(out, &row->id);
    put_row_values(out, row, format);
    buf_str(out, ",\"version\":");
    json_put_u64(out, row->version);
    buf_str(out, "}");
}

enum err_code vectors_get(struct api_app *app, struct api_request *req, struct api_response *res,
                          struct err *err)
{
    struct query q;
    struct database *db = NULL;
    struct vector_id id;
    struct row_format format;
    struct reader r;
    struct row row;

    enum err_code rc = query_parse(req, &q, err);
    if (!rc) rc = acquire(app, req, &db, err);
    if (!rc) rc = query_format(&q, db, &format, err);
    if (!rc) rc = query_done(&q, err);
    if (!rc) rc = path_id(req, &id, err);
    if (rc) goto out;

    reader_begin(db, &r);
    rc = reader_get(&r, &id, &row, err);
    if (!rc) {
        struct buf *out = answer_json(res, 200);
        put_row(out, &row, &format);
        buf_str(out, "\n");
        snprintf(res->etag, sizeof res->etag, "\"%" PRIu64 "\"", row.version);
    }
    rc = reader_check(&r, rc, err);
    reader_end(&r);
out:
    if (db) service_release(db);
    return rc;
}

enum err_code vectors_get_many(struct api_app *app, struct api_request *req,
                               struct api_response *res, struct err *err)
{
    struct query q;
    struct database *db = NULL;
    struct many many;
    struct row_format format;
    struct reader r;
    struct row row;
    struct buf missing = {0};
    size_t found = 0;

    enum err_code rc = query_parse(req, &q, err);
    if (!rc) rc = acquire(app, req, &db, err);
    if (!rc) rc = query_format(&q, db, &format, err);
    if (!rc) rc = query_done(&q, err);
    if (!rc) rc = scan_many(req, NULL, &many, &format.include, err);
    if (!rc && !req->may_block &&
        rows_text_bytes(db, format.include, many.count) > INLINE_TEXT_BYTES_MAX)
        rc = err_set(err, ERR_WOULD_COMPUTE, "a long answer");
    if (rc) goto out;

    struct buf *out = answer_json(res, 200);
    buf_str(out, "{\"vectors\":[");
    reader_begin(db, &r);
    for (size_t i = 0; i < many.count && !rc; i++) {
        rc = reader_get(&r, &many.ids[i], &row, err);
        if (rc == ERR_VECTOR_NOT_FOUND) {
            if (missing.len) buf_str(&missing, ",");
            put_vector_id(&missing, &many.ids[i]);
            rc = ERR_OK;
        } else if (!rc) {
            if (found++) buf_str(out, ",");
            put_row(out, &row, &format);
            if (out->len > ANSWER_BYTES_MAX)
                rc = err_set(err, ERR_INVALID_REQUEST,
                             "the answer is longer than 256 MiB; ask for fewer vectors at once");
        }
    }
    rc = reader_check(&r, rc, err);
    reader_end(&r);
    if (rc) goto out;
    buf_str(out, "],\"missing\":[");
    buf_add(out, missing.data, missing.len);
    buf_str(out, "]}\n");
    out->failed |= missing.failed;
out:
    buf_free(&missing);
    if (db) service_release(db);
    return rc;
}

/* The body {"filter"?}, or nothing. */
static enum err_code scan_filter(struct api_request *req, const struct database *db,
                                 const struct filter **filter, struct err *err)
{
    static const char *const names[] = {"filter", NULL};
    struct json_scan s;
    struct json_text key;
    uint32_t seen = 0;
    int field;
    bool more;

    *filter = NULL;
    body_scan(req, &s);
    if (!json_scan_peek(&s)) return json_scan_end(&s, err);
    if (json_scan_peek(&s) != '{')
        return json_scan_mistyped(&s, ERR_INVALID_REQUEST,
                                  "the body must be a JSON object with \"filter\"", err);
    enum err_code rc = json_scan_object(&s, err);
    while (!rc && !(rc = json_scan_member(&s, &key, &more, err)) && more) {
        rc = json_scan_field(&key, names, &seen, &field, err);
        if (!rc) rc = json_filter(&s, database_schema(db)->options, filter, err);
        if (rc) json_vectors_subject(err, "the request");
    }
    return rc ? rc : json_scan_end(&s, err);
}

static enum err_code count_matching(struct reader *r, const struct filter *filter,
                                    struct api_request *req, uint64_t *count, struct err *err)
{
    struct filter_rows rows;
    enum err_code rc = filter_find_rows(r, filter, req->may_block, &rows, err);
    *count = rows.count;
    filter_rows_deinit(&rows);
    return rc;
}

enum err_code vectors_count(struct api_app *app, struct api_request *req, struct api_response *res,
                            struct err *err)
{
    struct database *db = NULL;
    const struct filter *filter;
    struct reader r;
    uint64_t count;

    enum err_code rc = query_none(req, err);
    if (!rc) rc = acquire(app, req, &db, err);
    if (!rc) rc = scan_filter(req, db, &filter, err);
    if (rc) goto out;
    reader_begin(db, &r);
    if (filter)
        rc = count_matching(&r, filter, req, &count, err);
    else
        count = reader_count(&r);
    reader_end(&r);
    if (!rc) buf_printf(answer_json(res, 200), "{\"count\":%" PRIu64 "}\n", count);
out:
    if (db) service_release(db);
    return rc;
}

/* handlers_search.c - one search, or several in one request. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "api/api_private.h"
#include "api/json_vectors.h"
#include "storage/base/clock.h"
#include "storage/base/log.h"

enum {
    SEARCHES_MAX = 1000,
    INLINE_TEXT_BYTES_MAX = 64 * 1024,
    ANSWER_BYTES_MAX = 256 * 1024 * 1024,
};

static void put_hits(struct buf *out, const struct search_hit *hits, size_t count,
                     const struct row_format *format)
{
    buf_str(out, "[");
    for (size_t i = 0; i < count; i++) {
        if (i) buf_str(out, ",");
        buf_str(out, "{\"vector_id\":");
        put_vector_id(out, &hits[i].row.id);
        buf_str(out, ",\"score\":");
        json_put_double(out, hits[i].score);
        buf_str(out, ",\"distance\":");
        json_put_double(out, hits[i].distance);
        put_row_values(out, &hits[i].row, format);
        buf_str(out, "}");
    }
    buf_str(out, "]");
}

/* Run one search and append its results.  `hits` has room for its top_k. */
static enum err_code run(struct api_app *app, struct api_request *req, struct database *db,
                         struct search_request *search, struct search_hit *hits,
                         struct api_response *res, uint64_t *took_ns, struct err *err)
{
    struct buf *out = &res->body;
    struct row_format format = {.include = search->include,
                                .dimension = database_schema(db)->dimension};
    struct reader r;
    struct row row;
    size_t count = 0;
    enum err_code rc = ERR_OK;

    uint64_t row_bytes = 128 + (search->include & INCLUDE_METADATA ? 128 : 0) +
                         (search->include & INCLUDE_DATA ? 12 * (uint64_t)format.dimension : 0);
    if (!req->may_block && row_bytes * search->query.top_k > INLINE_TEXT_BYTES_MAX)
        return err_set(err, ERR_WOULD_COMPUTE, "a long answer");

    uint64_t begun = clock_ns();
    reader_begin(db, &r);
    if (search->by_id) {
        rc = reader_get(&r, &search->id, &row, err);
        search->query.vector = row.vector;
        search->query.exclude = &search->id;
    }
    if (!rc) rc = reader_search(&r, &search->query, req->may_block, hits, &count, NULL, err);
    *took_ns = clock_ns() - begun;
    if (!rc) {
        put_hits(out, hits, count, &format);
        if (out->len > ANSWER_BYTES_MAX)
            rc = err_set(err, ERR_INVALID_REQUEST,
                         "the answer is longer than 256 MiB; ask for fewer results, or without "
                         "\"data\"");
    }
    rc = reader_check(&r, rc, err);
    reader_end(&r);
    if (rc) return rc;

    histogram_observe(&metrics_search_exact, *took_ns);
    if (app->options.slow_query_ms && *took_ns / 1000000 >= app->options.slow_query_ms)
        log_warning("slow search: %.1f ms in database \"%s\", top_k %zu, %zu results [request %s]",
                    (double)*took_ns * 1e-6, database_name(db), search->query.top_k, count,
                    res->request_id);
    return ERR_OK;
}

enum err_code search_one(struct api_app *app, struct api_request *req, struct api_response *res,
                         struct err *err)
{
    struct database *db = NULL;
    struct search_request search;
    struct json_scan s;
    uint64_t took_ns;

    enum err_code rc = query_none(req, err);
    if (!rc) rc = service_acquire(app->service, req->params[0].text, req->may_block, &db, err);
    if (rc) return rc;

    struct vector_rules rules = {.database = database_name(db),
                                 .dimension = database_schema(db)->dimension};
    body_scan(req, &s);
    rc = json_vector_search(&s, &rules, &search, err);
    if (!rc) rc = json_scan_end(&s, err);
    if (rc) {
        json_vectors_subject(err, "the search");
        goto out;
    }
    struct search_hit *hits = arena_alloc(&req->arena, search.query.top_k * sizeof *hits);
    if (!hits) {
        rc = err_set(err, ERR_NOMEM, "out of memory for the results");
        goto out;
    }
    struct buf *out = answer_json(res, 200);
    buf_str(out, "{\"results\":");
    rc = run(app, req, db, &search, hits, res, &took_ns, err);
    if (rc) goto out;
    buf_printf(out, ",\"took_us\":%" PRIu64 ",\"complete\":true,\"strategy\":\"exact\"",
               took_ns / 1000);
    if (search.explain) {
        struct reader r;
        reader_begin(db, &r);
        uint64_t rows = reader_count(&r);
        reader_end(&r);
        buf_printf(out,
                   ",\"explain\":{\"plan\":\"exact scan\",\"candidates\":%" PRIu64
                   ",\"distance_computations\":%" PRIu64 ",\"stages\":{\"parse_us\":%" PRIu64
                   ",\"search_us\":%" PRIu64 "}}",
                   rows, rows, (clock_ns() - req->begun_ns - took_ns) / 1000, took_ns / 1000);
    }
    buf_str(out, "}\n");
out:
    service_release(db);
    return rc;
}

/* The body {"searches":[...]}; *searches is in the arena. */
static enum err_code scan_searches(struct json_scan *s, const struct vector_rules *rules,
                                   struct search_request **searches, size_t *count, struct err *err)
{
    static const char *const names[] = {"searches", NULL};
    struct search_request *list = NULL;
    struct json_text key;
    uint32_t seen = 0;
    int field;
    bool more;
    size_t n = 0, cap = 0;

    if (json_scan_peek(s) != '{')
        return json_scan_mistyped(s, ERR_INVALID_REQUEST,
                                  "the body must be a JSON object with \"searches\"", err);
    enum err_code rc = json_scan_object(s, err);
    while (!rc && !(rc = json_scan_member(s, &key, &more, err)) && more) {
        rc = json_scan_field(&key, names, &seen, &field, err);
        if (!rc && json_scan_peek(s) != '[')
            rc = json_scan_mistyped(s, ERR_INVALID_REQUEST, "has \"searches\" that is not an array",
                                    err);
        if (rc) {
            json_vectors_subject(err, "the request");
            return rc;
        }
        rc = json_scan_array(s, err);
        while (!rc && !(rc = json_scan_element(s, &more, err)) && more) {
            if (n == SEARCHES_MAX)
                return err_set(err, ERR_INVALID_REQUEST, "the request has more than %d searches",
                               SEARCHES_MAX);
            if (n == cap) {
                cap = cap ? 2 * cap : 16;
                struct search_request *wider = arena_alloc(s->arena, cap * sizeof *wider);
                if (!wider) return err_set(err, ERR_NOMEM, "out of memory for the searches");
                if (n) memcpy(wider, list, n * sizeof *wider);
                list = wider;
            }
            char subject[32];
            snprintf(subject, sizeof subject, "search %zu", n + 1);
            rc = json_vector_search(s, rules, &list[n++], err);
            if (rc) json_vectors_subject(err, subject);
        }
    }
    if (!rc) rc = json_scan_end(s, err);
    if (!rc && !seen) rc = err_set(err, ERR_INVALID_REQUEST, "the request has no \"searches\"");
    *searches = list;
    *count = n;
    return rc;
}

enum err_code search_batch(struct api_app *app, struct api_request *req, struct api_response *res,
                           struct err *err)
{
    struct database *db = NULL;
    struct search_request *searches = NULL;
    struct json_scan s;
    size_t count = 0, top_k_max = 1;
    uint64_t took_ns, total_ns = 0;

    enum err_code rc = query_none(req, err);
    if (!rc) rc = service_acquire(app->service, req->params[0].text, req->may_block, &db, err);
    if (rc) return rc;

    struct vector_rules rules = {.database = database_name(db),
                                 .dimension = database_schema(db)->dimension};
    body_scan(req, &s);
    rc = scan_searches(&s, &rules, &searches, &count, err);
    if (!rc && count > 1 && !req->may_block)
        rc = err_set(err, ERR_WOULD_COMPUTE, "several searches");
    if (rc) goto out;

    for (size_t i = 0; i < count; i++) {
        if (searches[i].query.top_k > top_k_max) top_k_max = searches[i].query.top_k;
    }
    struct search_hit *hits = arena_alloc(&req->arena, top_k_max * sizeof *hits);
    if (!hits) {
        rc = err_set(err, ERR_NOMEM, "out of memory for the results");
        goto out;
    }
    struct buf *out = answer_json(res, 200);
    buf_str(out, "{\"results\":[");
    for (size_t i = 0; i < count; i++) {
        if (i) buf_str(out, ",");
        rc = run(app, req, db, &searches[i], hits, res, &took_ns, err);
        if (rc) goto out;
        total_ns += took_ns;
    }
    buf_printf(out, "],\"took_us\":%" PRIu64 ",\"complete\":true,\"strategy\":\"exact\"}\n",
               total_ns / 1000);
out:
    service_release(db);
    return rc;
}

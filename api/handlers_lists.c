/* handlers_lists.c - rows in the order of their ids, page by page: all, or those that match. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "api/api_private.h"
#include "api/json_filter.h"
#include "api/json_vectors.h"

enum {
    LIST_LIMIT_MAX = 10000,
    PAGE_BYTES_MAX = 8 * 1024 * 1024, /* a page ends early beyond this: there is a cursor */
    INLINE_ENTRIES_MAX = 2000,        /* of the id index, to be looked at on a loop thread */
};

/* What is asked for. */
struct page {
    struct row_format format;
    const struct filter *filter; /* NULL: every row */
    uint64_t limit;
    const char *cursor, *prefix; /* NULL: none */
    size_t cursor_len, prefix_len;
};

struct list {
    struct buf *out;
    const struct row_format *format;
    struct vector_id last;
    size_t count;
    bool cut; /* the page is long enough */
};

static bool list_row(void *ctx, const struct row *row)
{
    struct list *list = ctx;
    if (list->count++) buf_str(list->out, ",");
    put_row(list->out, row, list->format);
    list->last = row->id;
    list->cut = list->out->len > PAGE_BYTES_MAX || list->out->failed;
    return !list->cut;
}

/* The rows that match, as bits; without a filter *bits is NULL. */
static enum err_code select_rows(struct api_request *req, struct reader *r, const struct page *page,
                                 uint64_t **bits, struct err *err)
{
    struct filter_rows rows;
    *bits = NULL;
    if (!page->filter) return ERR_OK;
    *bits = arena_alloc(&req->arena, (filter_words(r) + 1) * sizeof **bits);
    if (!*bits) return err_set(err, ERR_NOMEM, "out of memory for a filter");
    enum err_code rc = filter_find_rows(r, page->filter, req->may_block, &rows, err);
    if (!rc) filter_rows_to_bits(&rows, r, *bits);
    uint64_t count = rows.count;
    filter_rows_deinit(&rows);
    if (rc || req->may_block) return rc;
    /* As many entries of the index are looked at as it takes to find so many that match. */
    uint64_t entries = page->limit < count ? r->live_count / count * page->limit : r->live_count;
    return entries > INLINE_ENTRIES_MAX ? err_set(err, ERR_WOULD_COMPUTE, "a long walk") : ERR_OK;
}

static void put_next(struct buf *out, const struct vector_id *last)
{
    char digits[24];
    int n = snprintf(digits, sizeof digits, "%" PRIu64, last->number);
    if (last->text)
        put_cursor(out, last->text, last->text_bytes);
    else
        put_cursor(out, digits, (size_t)n);
}

static enum err_code answer_page(struct api_request *req, struct database *db,
                                 const struct page *page, struct api_response *res, struct err *err)
{
    struct vector_id after;
    struct reader r;
    uint64_t *bits;
    bool more = false;
    if (page->cursor && vector_id_parse(page->cursor, page->cursor_len, &after, err))
        return err_set(err, ERR_INVALID_REQUEST,
                       "the cursor is not one that this server gave out in \"next\"");
    if (!req->may_block &&
        rows_text_bytes(db, page->format.include, page->limit) > INLINE_TEXT_BYTES_MAX)
        return err_set(err, ERR_WOULD_COMPUTE, "a long answer");

    struct buf *out = answer_json(res, 200);
    struct list list = {.out = out, .format = &page->format};
    buf_str(out, "{\"vectors\":[");
    reader_begin(db, &r);
    enum err_code rc = select_rows(req, &r, page, &bits, err);
    const struct vector_id *from = page->cursor ? &after : NULL;
    if (!rc && bits)
        rc = reader_list_selected(&r, bits, from, page->prefix, page->prefix_len, page->limit,
                                  list_row, &list, &more, err);
    else if (!rc)
        rc = reader_list(&r, from, page->prefix, page->prefix_len, page->limit, list_row, &list,
                         &more, err);
    if (!rc) {
        buf_str(out, "],\"next\":");
        if ((more || list.cut) && list.count)
            put_next(out, &list.last);
        else
            buf_str(out, "null");
        buf_str(out, "}\n");
    }
    rc = reader_check(&r, rc, err);
    reader_end(&r);
    return rc;
}

enum err_code vectors_list(struct api_app *app, struct api_request *req, struct api_response *res,
                           struct err *err)
{
    struct query q;
    struct database *db = NULL;
    struct page page = {.limit = 100};

    enum err_code rc = query_parse(req, &q, err);
    if (!rc) rc = service_acquire(app->service, req->params[0].text, req->may_block, &db, err);
    if (!rc) rc = query_format(&q, db, &page.format, err);
    if (!rc) rc = query_u64(&q, "limit", 1, LIST_LIMIT_MAX, &page.limit, err);
    if (!rc) rc = query_cursor(req, &q, &page.cursor, &page.cursor_len, err);
    if (rc) goto out;
    page.prefix = query_text(&q, "prefix", &page.prefix_len);
    rc = query_done(&q, err);
    if (!rc) rc = answer_page(req, db, &page, res, err);
out:
    if (db) service_release(db);
    return rc;
}

/* ---- scroll: the same with a filter, in a body ---- */

static enum err_code scan_text(struct json_scan *s, const char *name, struct json_text *text,
                               struct err *err)
{
    if (json_scan_peek(s) == '"') return json_scan_string(s, text, err);
    enum err_code rc = json_scan_value(s, text, err);
    if (!rc && !json_text_is(text, "null"))
        rc = err_set(err, ERR_INVALID_REQUEST, "has a \"%s\" that is not a string", name);
    *text = (struct json_text){0};
    return rc;
}

static enum err_code scan_limit(struct json_scan *s, uint64_t *limit, struct err *err)
{
    struct json_text raw;
    json_scan_peek(s);
    enum err_code rc = json_scan_value(s, &raw, err);
    if (rc) return rc;
    *limit = 0;
    bool good = raw.len < 6;
    for (size_t i = 0; i < raw.len && good; i++) {
        good = raw.data[i] >= '0' && raw.data[i] <= '9';
        *limit = *limit * 10 + (uint64_t)(raw.data[i] - '0');
    }
    if (good && *limit >= 1 && *limit <= LIST_LIMIT_MAX) return ERR_OK;
    return err_set(err, ERR_INVALID_REQUEST, "has a \"limit\" that is not an integer from 1 to %d",
                   LIST_LIMIT_MAX);
}

static enum err_code scan_page(struct api_request *req, const struct database *db,
                               struct page *page, struct err *err)
{
    enum { FILTER, LIMIT, CURSOR, PREFIX, INCLUDE, ENCODING, ORDER_BY };
    static const char *const names[] = {"filter",  "limit",    "cursor",   "prefix",
                                        "include", "encoding", "order_by", NULL};
    struct json_scan s;
    struct json_text key, text;
    uint32_t seen = 0;
    int field;
    bool more;

    body_scan(req, &s);
    if (!json_scan_peek(&s)) return json_scan_end(&s, err);
    if (json_scan_peek(&s) != '{')
        return json_scan_mistyped(&s, ERR_INVALID_REQUEST, "is not a JSON object", err);
    enum err_code rc = json_scan_object(&s, err);
    while (!rc && !(rc = json_scan_member(&s, &key, &more, err)) && more) {
        rc = json_scan_field(&key, names, &seen, &field, err);
        if (rc) break;
        switch (field) {
        case FILTER:
            rc = json_filter(&s, database_schema(db)->options, &page->filter, err);
            break;
        case LIMIT:
            rc = scan_limit(&s, &page->limit, err);
            break;
        case CURSOR:
            rc = scan_text(&s, "cursor", &text, err);
            if (!rc)
                rc = cursor_read(&req->arena, text.data, text.len, &page->cursor, &page->cursor_len,
                                 err);
            break;
        case PREFIX:
            rc = scan_text(&s, "prefix", &text, err);
            page->prefix = text.data;
            page->prefix_len = text.len;
            break;
        case INCLUDE:
            if (json_scan_peek(&s) != '[')
                return json_scan_mistyped(&s, ERR_INVALID_REQUEST,
                                          "has an \"include\" that is no array", err);
            rc = json_vector_include(&s, &page->format.include, err);
            break;
        case ENCODING:
            rc = scan_text(&s, "encoding", &text, err);
            page->format.base64 = json_text_is(&text, "base64");
            if (!rc && !page->format.base64 && !json_text_is(&text, "json"))
                rc = err_set(err, ERR_INVALID_REQUEST,
                             "has an \"encoding\" other than \"json\" and \"base64\"");
            break;
        default:
            rc = err_set(err, ERR_INVALID_REQUEST,
                         "has the field \"order_by\", which this version does not support yet");
        }
    }
    return rc ? rc : json_scan_end(&s, err);
}

enum err_code vectors_scroll(struct api_app *app, struct api_request *req, struct api_response *res,
                             struct err *err)
{
    struct database *db = NULL;
    struct page page = {.limit = 100};

    enum err_code rc = query_none(req, err);
    if (!rc) rc = service_acquire(app->service, req->params[0].text, req->may_block, &db, err);
    if (rc) return rc;
    page.format = (struct row_format){.include = INCLUDE_DATA | INCLUDE_METADATA,
                                      .dimension = database_schema(db)->dimension};
    rc = scan_page(req, db, &page, err);
    if (rc)
        json_vectors_subject(err, "the request");
    else
        rc = answer_page(req, db, &page, res, err);
    service_release(db);
    return rc;
}

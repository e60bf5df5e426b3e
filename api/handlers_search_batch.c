/*
 * handlers_search_batch.c - several searches in one request, of one snapshot.
 *
 * What is quick is done where the request arrived.  The rest are PARTS (api.h): each thread that
 * takes part takes the next search until none is left.  Searches are taken in order, and one that
 * was taken is finished; so if some fail, the first of them is among those that were run, and the
 * answer is its error, whatever the number of threads.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "api/search_run.h"
#include "storage/base/clock.h"
#include "storage/base/lock.h"
#include "storage/base/mem.h"

enum {
    SEARCHES_MAX = 1000,
    ANSWER_BYTES_MAX = 256 * 1024 * 1024,
    INLINE_NS = 100 * 1000, /* a thread that must not wait begins no search later than this */
};

struct batch {
    const struct api_app *app;
    struct database *db;    /* acquired */
    const char *request_id; /* of the response */
    struct search_request *searches;
    struct search_result {
        struct buf text; /* a JSON array */
        struct search_run run;
    } * results;
    size_t count;
    uint64_t begun_ns, parse_ns;
    struct snapshot snapshot;
    bool has_snapshot;

    _Atomic size_t next; /* search to be taken */
    _Atomic size_t bytes;
    struct mutex mu; /* LOCK_LEAF; guards what follows */
    size_t failed_idx;
    struct err failed;
    _Atomic bool has_failed; /* atomic to be looked at without the lock */
};

static void batch_free(void *p)
{
    struct batch *b = p;
    for (size_t i = 0; i < b->count; i++)
        buf_free(&b->results[i].text);
    if (b->has_snapshot) snapshot_drop(&b->snapshot);
    service_release(b->db);
    mutex_deinit(&b->mu);
    mem_free(b->results);
    mem_free(b);
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

/* Run one search into its own buffer. */
static enum err_code run_one(struct batch *b, size_t i, bool may_block, struct err *err)
{
    struct search_result *result = &b->results[i];
    struct reader r;
    reader_begin_at(&b->snapshot, &r);
    enum err_code rc = search_run(b->app, &r, &b->searches[i], may_block, b->request_id,
                                  &result->text, &result->run, err);
    reader_end(&r);
    if (rc) return rc;
    if (result->text.failed) return err_set(err, ERR_NOMEM, "out of memory for the results");
    if (atomic_fetch_add(&b->bytes, result->text.len) + result->text.len > ANSWER_BYTES_MAX)
        return err_set(err, ERR_INVALID_REQUEST,
                       "the answer is longer than 256 MiB; ask for fewer results, or without "
                       "\"data\"");
    return ERR_OK;
}

/* The first of those that fail counts. */
static void note_failure(struct batch *b, size_t i, const struct err *err)
{
    mutex_lock(&b->mu);
    if (!b->has_failed || i < b->failed_idx) {
        b->failed_idx = i;
        err_set(&b->failed, err->code, "search %zu: %s", i + 1, err->msg);
        b->has_failed = true;
    }
    mutex_unlock(&b->mu);
}

static bool part(struct api_request *req)
{
    struct batch *b = req->stream;
    struct err err;
    if (b->has_failed) return false;
    size_t i = atomic_fetch_add(&b->next, 1);
    if (i >= b->count) return false;
    if (run_one(b, i, true, &err)) note_failure(b, i, &err);
    return true;
}

/* Those that a thread which must not wait has the time for.  True: all. */
static bool run_inline(struct batch *b)
{
    struct err err;
    while (b->next < b->count && !b->has_failed && clock_ns() - b->begun_ns < INLINE_NS) {
        enum err_code rc = run_one(b, b->next, false, &err);
        if (rc == ERR_WOULD_COMPUTE || rc == ERR_WOULD_BLOCK) return false;
        if (rc) note_failure(b, b->next, &err);
        b->next++;
    }
    return b->next >= b->count || b->has_failed;
}

static void put_infos(struct buf *out, const struct batch *b)
{
    bool alike = b->count > 0;
    buf_str(out, "[");
    for (size_t i = 0; i < b->count; i++) {
        const struct search_run *run = &b->results[i].run;
        buf_printf(out, "%s{\"took_us\":%" PRIu64 ",\"strategy\":\"%s\"", i ? "," : "",
                   run->took_ns / 1000, search_strategy_name(run->report.strategy));
        if (b->searches[i].explain) {
            buf_str(out, ",\"explain\":");
            put_explain(out, run, b->parse_ns);
        }
        buf_str(out, "}");
        alike = alike && run->report.strategy == b->results[0].run.report.strategy;
    }
    buf_str(out, "],\"strategy\":");
    if (alike)
        json_put_str(out, search_strategy_name(b->results[0].run.report.strategy));
    else
        buf_str(out, "null");
}

static enum err_code answer(struct batch *b, struct api_response *res, struct err *err)
{
    if (b->has_failed) {
        *err = b->failed;
        return err->code;
    }
    struct buf *out = answer_json(res, 200);
    buf_str(out, "{\"results\":[");
    for (size_t i = 0; i < b->count; i++) {
        struct buf *text = &b->results[i].text;
        if (i) buf_str(out, ",");
        buf_add(out, text->data, text->len);
        buf_free(text);
    }
    buf_str(out, "],\"searches\":");
    put_infos(out, b);
    buf_printf(out, ",\"took_us\":%" PRIu64 ",\"complete\":true}\n",
               (clock_ns() - b->begun_ns) / 1000);
    return ERR_OK;
}

static enum err_code join(struct api_request *req, struct api_response *res, struct err *err)
{
    return answer(req->stream, res, err);
}

enum err_code search_batch(struct api_app *app, struct api_request *req, struct api_response *res,
                           struct err *err)
{
    struct database *db = NULL;
    struct json_scan s;
    uint64_t begun = clock_ns();
    size_t count = 0;

    enum err_code rc = query_none(req, err);
    if (!rc) rc = service_acquire(app->service, req->params[0].text, req->may_block, &db, err);
    if (rc) return rc;

    struct batch *b = mem_new(struct batch);
    b->app = app;
    b->db = db;
    b->request_id = res->request_id;
    b->begun_ns = begun;
    mutex_init(&b->mu, LOCK_LEAF);

    struct vector_rules rules = {.database = database_name(db),
                                 .dimension = database_schema(db)->dimension,
                                 .options = database_schema(db)->options};
    body_scan(req, &s);
    rc = scan_searches(&s, &rules, &b->searches, &count, err);
    if (rc) goto out;
    b->results = mem_try((count + 1) * sizeof *b->results);
    if (!b->results) {
        rc = err_set(err, ERR_NOMEM, "out of memory for the results");
        goto out;
    }
    memset(b->results, 0, count * sizeof *b->results);
    b->count = count;
    snapshot_take(db, &b->snapshot);
    b->has_snapshot = true;
    b->parse_ns = clock_ns() - begun;
    if (run_inline(b)) {
        rc = answer(b, res, err);
        goto out;
    }
    req->stream = b;
    req->stream_free = batch_free;
    req->part = part;
    req->join = join;
    req->part_count = count - b->next;
    return ERR_OK;
out:
    batch_free(b);
    return rc;
}

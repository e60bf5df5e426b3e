/* handlers_search.c - one search. */
#include <inttypes.h>

#include "api/search_run.h"
#include "storage/base/clock.h"

enum err_code search_one(struct api_app *app, struct api_request *req, struct api_response *res,
                         struct err *err)
{
    struct database *db = NULL;
    struct search_request search;
    struct search_run run;
    struct json_scan s;
    struct reader r;
    uint64_t begun = clock_ns();

    enum err_code rc = query_none(req, err);
    if (!rc) rc = service_acquire(app->service, req->params[0].text, req->may_block, &db, err);
    if (rc) return rc;

    struct vector_rules rules = {.database = database_name(db),
                                 .dimension = database_schema(db)->dimension,
                                 .options = database_schema(db)->options};
    body_scan(req, &s);
    rc = json_vector_search(&s, &rules, &search, err);
    if (!rc) rc = json_scan_end(&s, err);
    if (rc) {
        json_vectors_subject(err, "the search");
        goto out;
    }
    uint64_t parsed = clock_ns();
    struct buf *out = answer_json(res, 200);
    buf_str(out, "{\"results\":");
    reader_begin(db, &r);
    rc = search_run(app, &r, &search, req->may_block, res->request_id, out, &run, err);
    reader_end(&r);
    if (rc) goto out;
    buf_printf(out, ",\"took_us\":%" PRIu64 ",\"complete\":true,\"strategy\":\"%s\"",
               run.took_ns / 1000, search_strategy_name(run.report.strategy));
    if (search.explain) {
        buf_str(out, ",\"explain\":");
        put_explain(out, &run, parsed - begun);
    }
    buf_str(out, "}\n");
out:
    service_release(db);
    return rc;
}

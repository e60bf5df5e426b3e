/* handlers_verify.c - are the files of a database what was written? */
#include <inttypes.h>

#include "api/api_private.h"
#include "storage/base/clock.h"
#include "storage/base/mem.h"
#include "storage/verify.h"

static void put_verify_error(struct buf *out, const struct verify_error *e)
{
    char text[320];
    buf_printf(out, "{\"region\":\"%s\"", verify_region_name(e->region));
    if (e->has_block) buf_printf(out, ",\"block\":%" PRIu64, e->block);
    if (e->has_row) buf_printf(out, ",\"row\":%" PRIu64, e->row);
    if (e->has_sums)
        buf_printf(out, ",\"expected\":\"%08" PRIx32 "\",\"got\":\"%08" PRIx32 "\"", e->want,
                   e->got);
    verify_error_text(e, text, sizeof text);
    buf_printf(out, ",\"healed\":%s,\"message\":", e->healed ? "true" : "false");
    json_put_str(out, text);
    buf_str(out, "}");
}

enum err_code databases_verify(struct api_app *app, struct api_request *req,
                               struct api_response *res, struct err *err)
{
    uint64_t begun = clock_ns();
    bool quarantined = false;
    struct verify_result *r = mem_new(struct verify_result);
    enum err_code rc = body_none(req, err);
    if (!rc) rc = service_verify(app->service, req->params[0].text, r, &quarantined, err);
    if (rc) goto out;
    struct buf *out = answer_json(res, 200);
    buf_str(out, "{\"name\":");
    json_put_str(out, req->params[0].text);
    buf_printf(out,
               ",\"ok\":%s,\"quarantined\":%s,\"blocks_checked\":%" PRIu64
               ",\"rows_checked\":%" PRIu64 ",\"records_checked\":%" PRIu64
               ",\"log_records_checked\":%" PRIu64 ",\"index_cells_checked\":%" PRIu64
               ",\"index_cells_bad\":%" PRIu64 ",\"bytes_read\":%" PRIu64 ",\"lsn\":%" PRIu64
               ",\"error_count\":%" PRIu64 ",\"errors\":[",
               r->error_count ? "false" : "true", quarantined ? "true" : "false", r->blocks_checked,
               r->rows_checked, r->records_checked, r->log_records, r->index.cells_checked,
               r->index.cells_bad, r->bytes_read, r->lsn, r->error_count);
    for (size_t i = 0; i < r->errors_kept; i++) {
        if (i) buf_str(out, ",");
        put_verify_error(out, &r->errors[i]);
    }
    buf_str(out, "],\"duration_ms\":");
    json_put_double(out, (double)(clock_ns() - begun) / 1e6);
    buf_str(out, "}\n");
out:
    mem_free(r);
    return rc;
}

#include "api/search_run.h"

#include <inttypes.h>

#include "storage/base/clock.h"
#include "storage/base/log.h"
#include "storage/base/mem.h"


static uint64_t row_text_bytes(const struct search_request *search, uint32_t dimension)
{
    return 128 + (search->include & INCLUDE_DATA ? 12 * (uint64_t)dimension : 0);
}

/* Is the text of these results too much for a thread that must not wait? */
static bool is_long(const struct search_request *search, uint32_t dimension,
                    const struct search_hit *hits, size_t count)
{
    uint64_t bytes = count * row_text_bytes(search, dimension);
    for (size_t i = 0; i < count && search->include & INCLUDE_METADATA; i++)
        bytes += hits[i].row.metadata_bytes;
    return bytes > INLINE_TEXT_BYTES_MAX;
}

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

static enum err_code find(struct reader *r, struct search_request *search, bool may_block,
                          struct search_hit *hits, struct search_run *run, struct err *err)
{
    struct row row;
    if (search->by_id) {
        enum err_code rc = reader_get(r, &search->id, &row, err);
        if (rc) return rc;
        search->query.vector = row.vector;
        search->query.exclude = &search->id;
    }
    return reader_search(r, &search->query, may_block, hits, &run->count, &run->report, err);
}

static void note(const struct api_app *app, const struct reader *r,
                 const struct search_request *search, const struct search_run *run,
                 const char *request_id)
{
    const char *strategy = search_strategy_name(run->report.strategy);
    histogram_observe(&metrics_search[run->report.strategy], run->took_ns);
    if (!app->options.slow_query_ms || run->took_ns / 1000000 < app->options.slow_query_ms) return;
    log_warning("slow search: %.1f ms in database \"%s\", strategy %s, ef %" PRIu32
                ", top_k %zu, %zu results [request %s]",
                (double)run->took_ns * 1e-6, database_name(r->db), strategy, run->report.ef,
                search->query.top_k, run->count, request_id);
}

enum err_code search_run(const struct api_app *app, struct reader *r, struct search_request *search,
                         bool may_block, const char *request_id, struct buf *out,
                         struct search_run *run, struct err *err)
{
    struct row_format format = {.include = search->include,
                                .dimension = database_schema(r->db)->dimension};
    uint64_t begun = clock_ns();

    *run = (struct search_run){.row_count = reader_count(r)};
    size_t hits_max = search->query.top_k;
    if (hits_max > run->row_count) hits_max = run->row_count + 1;
    if (!may_block && hits_max * row_text_bytes(search, format.dimension) > INLINE_TEXT_BYTES_MAX)
        return err_set(err, ERR_WOULD_COMPUTE, "a long answer");
    struct search_hit *hits = mem_try(search->query.top_k * sizeof *hits);
    if (!hits) return err_set(err, ERR_NOMEM, "out of memory for the results");

    enum err_code rc = find(r, search, may_block, hits, run, err);
    uint64_t found = clock_ns();
    run->took_ns = found - begun;
    if (!rc && !may_block && is_long(search, format.dimension, hits, run->count))
        rc = err_set(err, ERR_WOULD_COMPUTE, "a long answer");
    if (!rc) put_hits(out, hits, run->count, &format);
    rc = reader_check(r, rc, err);
    mem_free(hits);
    run->encode_ns = clock_ns() - found;
    if (!rc) note(app, r, search, run, request_id);
    return rc;
}

void put_explain(struct buf *out, const struct search_run *run, uint64_t parse_ns)
{
    const struct search_report *p = &run->report;
    const struct {
        const char *name;
        uint64_t ns;
    } stages[] = {
        {"parse", parse_ns},          {"filter", p->filter_ns},   {"graph", p->graph_ns},
        {"unlinked", p->unlinked_ns}, {"rescore", p->rescore_ns}, {"read", p->read_ns},
        {"search", run->took_ns},     {"encode", run->encode_ns},
    };
    buf_str(out, "{\"plan\":");
    json_put_str(out, p->plan);
    buf_str(out, ",\"ef\":");
    if (p->ef)
        json_put_u64(out, p->ef);
    else
        buf_str(out, "null");
    buf_printf(out,
               ",\"candidates\":%" PRIu64 ",\"visited\":%" PRIu64
               ",\"distance_computations\":%" PRIu64 ",\"code_distances\":%" PRIu64
               ",\"row_distances\":%" PRIu64 ",\"unlinked\":%" PRIu64 ",\"expected_recall\":",
               p->allowed == UINT64_MAX ? run->row_count : p->allowed, p->visited,
               p->code_distances + p->row_distances, p->code_distances, p->row_distances,
               p->unlinked);
    if (p->expected_recall > 0)
        json_put_double(out, p->expected_recall);
    else
        buf_str(out, "null");
    buf_str(out, ",\"stages\":{");
    for (size_t i = 0; i < sizeof stages / sizeof *stages; i++)
        buf_printf(out, "%s\"%s_us\":%.1f", i ? "," : "", stages[i].name,
                   (double)stages[i].ns / 1e3);
    buf_str(out, "}}");
}

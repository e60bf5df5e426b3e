/* handlers_storage.c - the whole server: checkpoint everything, count everything. */
#include <inttypes.h>

#include "api/api_private.h"
#include "storage/base/clock.h"

enum err_code storage_flush(struct api_app *app, struct api_request *req, struct api_response *res,
                            struct err *err)
{
    size_t flushed = 0;
    double duration_ms = 0;
    enum err_code rc = body_none(req, err);
    if (!rc) rc = service_flush_all(app->service, &flushed, &duration_ms, err);
    if (rc) return rc;
    struct buf *out = answer_json(res, 200);
    buf_printf(out, "{\"flushed\":%zu,\"duration_ms\":", flushed);
    json_put_double(out, duration_ms);
    buf_str(out, "}\n");
    return ERR_OK;
}

enum err_code storage_stats(struct api_app *app, struct api_request *req, struct api_response *res,
                            struct err *err)
{
    struct service_stats s = {0};
    enum err_code rc = query_none(req, err);
    if (rc) return rc;
    service_stats(app->service, &s);

    struct buf *out = answer_json(res, 200);
    uint64_t lookups = s.lru_hits + s.lru_misses;
    buf_printf(out,
               "{\"total_databases\":%" PRIu64 ",\"total_vectors\":%" PRIu64
               ",\"total_bytes\":%" PRIu64 ",\"wal_bytes\":%" PRIu64
               ",\"quarantined_databases\":%" PRIu64 ",\"open_files\":%" PRIu64
               ",\"max_open_files\":%" PRIu64 ",\"lru_hits\":%" PRIu64 ",\"lru_misses\":%" PRIu64
               ",\"lru_evictions\":%" PRIu64 ",\"lru_evictions_per_minute\":",
               s.databases, s.vectors, s.bytes, s.wal_bytes, s.quarantined, s.open_files,
               s.max_open_files, s.lru_hits, s.lru_misses, s.lru_evictions);
    json_put_double(out, s.lru_evictions_per_minute);
    buf_str(out, ",\"cache_hit_rate\":");
    json_put_double(out, lookups ? (double)s.lru_hits / (double)lookups : 1);
    buf_printf(out, ",\"persistence\":\"%s\"",
               service_is_persistent(app->service) ? "persistent" : "in-memory");
    buf_printf(out,
               ",\"flush\":{\"count\":%" PRIu64 ",\"interval_seconds\":%" PRIu32
               ",\"last_duration_ms\":",
               s.flushes, s.flush_interval_seconds);
    json_put_double(out, s.last_flush_ms);
    buf_str(out, ",\"last_at\":");
    if (s.last_flush_at_ms) {
        char text[25];
        clock_rfc3339(s.last_flush_at_ms, text);
        json_put_str(out, text);
    } else {
        buf_str(out, "null");
    }
    buf_printf(out, "},\"disk\":{\"free_bytes\":%" PRIu64 ",\"total_bytes\":%" PRIu64 "}",
               s.disk_free_bytes, s.disk_total_bytes);
    buf_printf(out,
               ",\"memory\":{\"rss_bytes\":%" PRIu64 ",\"index_bytes\":%" PRIu64
               ",\"filter_bytes\":%" PRIu64 "},\"uptime_seconds\":%" PRIu64 "}\n",
               process_rss_bytes(), s.index_bytes, s.filter_bytes,
               (clock_ns() - app->started_ns) / 1000000000);
    return ERR_OK;
}

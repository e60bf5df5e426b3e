/* metrics_text.c - the metrics of the process as Prometheus text. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "api/api_private.h"
#include "storage/base/mem.h"

enum { RECALL_DATABASES_MAX = 100 }; /* labels are bounded */

/* Statuses that a route can answer with; each has one slot, the last takes what is left. */
static const int STATUSES[] = {200, 201, 204, 400, 401, 403, 404, 405, 409, 410, 411,
                               412, 413, 414, 415, 423, 429, 431, 500, 503, 507, 0};
enum { STATUS_COUNT = sizeof STATUSES / sizeof *STATUSES };

static const char *const METHODS[] = {"GET",   "HEAD",   "POST",    "PUT",
                                      "PATCH", "DELETE", "OPTIONS", "other"};
enum { METHOD_COUNT = sizeof METHODS / sizeof *METHODS };

/* By route; requests without one by method. */
static struct histogram by_route[ROUTE_COUNT][STATUS_COUNT];
static struct histogram unmatched[METHOD_COUNT][STATUS_COUNT];

struct histogram metrics_search[SEARCH_STRATEGY_COUNT];

void metrics_note_request(const struct api_route *route, const char *method, int status,
                          uint64_t ns)
{
    int s = 0, m = 0;
    while (s < STATUS_COUNT - 1 && STATUSES[s] != status)
        s++;
    if (route) {
        histogram_observe(&by_route[route - api_routes][s], ns);
        return;
    }
    while (m < METHOD_COUNT - 1 && strcmp(METHODS[m], method) != 0)
        m++;
    histogram_observe(&unmatched[m][s], ns);
}

uint64_t process_rss_bytes(void)
{
    unsigned long long total, resident = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (!f) return 0;
    if (fscanf(f, "%llu %llu", &total, &resident) != 2) resident = 0;
    fclose(f);
    return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

static void put_head(struct buf *out, const char *name, const char *type, const char *help)
{
    buf_printf(out, "# HELP jadevectordb_%s %s\n# TYPE jadevectordb_%s %s\n", name, help, name,
               type);
}

/* `labels` is "" or `a="b",` with its comma. */
static void put_histogram(struct buf *out, const char *name, const char *labels,
                          struct histogram *h)
{
    uint64_t count = 0;
    for (int i = 0; i <= STAT_BOUND_COUNT; i++) {
        count += atomic_load_explicit(&h->bucket[i], memory_order_relaxed);
        if (i < STAT_BOUND_COUNT)
            buf_printf(out, "jadevectordb_%s_bucket{%sle=\"%g\"} %llu\n", name, labels,
                       stat_bounds[i], (unsigned long long)count);
        else
            buf_printf(out, "jadevectordb_%s_bucket{%sle=\"+Inf\"} %llu\n", name, labels,
                       (unsigned long long)count);
    }
    int len = (int)strlen(labels);
    double sum = (double)atomic_load_explicit(&h->sum_ns, memory_order_relaxed) * 1e-9;
    buf_printf(out, "jadevectordb_%s_sum%s%.*s%s %.9g\n", name, len ? "{" : "", len ? len - 1 : 0,
               labels, len ? "}" : "", sum);
    buf_printf(out, "jadevectordb_%s_count%s%.*s%s %llu\n", name, len ? "{" : "", len ? len - 1 : 0,
               labels, len ? "}" : "", (unsigned long long)count);
}

static bool is_used(struct histogram *h)
{
    for (int i = 0; i <= STAT_BOUND_COUNT; i++) {
        if (atomic_load_explicit(&h->bucket[i], memory_order_relaxed)) return true;
    }
    return false;
}

static void put_request(struct buf *out, const char *route, const char *method, int status,
                        struct histogram *h)
{
    char labels[160];
    char text[8] = "other";
    if (status) snprintf(text, sizeof text, "%d", status);
    snprintf(labels, sizeof labels, "route=\"%s\",method=\"%s\",status=\"%s\",", route, method,
             text);
    put_histogram(out, "http_request_duration_seconds", labels, h);
}

/* The success of every route is there from the start; another status once it has happened. */
static void put_requests(struct buf *out)
{
    put_head(out, "http_request_duration_seconds", "histogram",
             "Time from the head of a request to the end of its answer");
    for (int r = 0; r < ROUTE_COUNT; r++) {
        for (int s = 0; s < STATUS_COUNT; s++) {
            if (STATUSES[s] == api_routes[r].status || is_used(&by_route[r][s]))
                put_request(out, api_routes[r].pattern, api_routes[r].method, STATUSES[s],
                            &by_route[r][s]);
        }
    }
    for (int m = 0; m < METHOD_COUNT; m++) {
        for (int s = 0; s < STATUS_COUNT; s++) {
            if ((m == 0 && STATUSES[s] == 404) || is_used(&unmatched[m][s]))
                put_request(out, "unmatched", METHODS[m], STATUSES[s], &unmatched[m][s]);
        }
    }
}

/* A label's value with its quotes. */
static void put_label(struct buf *out, const char *text)
{
    buf_str(out, "\"");
    for (; *text; text++) {
        if (*text == '\n')
            buf_str(out, "\\n");
        else
            buf_printf(out, *text == '"' || *text == '\\' ? "\\%c" : "%c", *text);
    }
    buf_str(out, "\"");
}

static void put_gauge(struct buf *out, const char *name, const char *help, double value)
{
    put_head(out, name, "gauge", help);
    buf_printf(out, "jadevectordb_%s ", name);
    json_put_double(out, value);
    buf_str(out, "\n");
}

/* Of a database that has been measured; without one there is no such family. */
static void put_recall(struct api_app *app, struct buf *out)
{
    struct recall_estimate *list = mem_zalloc(RECALL_DATABASES_MAX * sizeof *list);
    size_t count = service_recall_estimates(app->service, list, RECALL_DATABASES_MAX);
    if (count)
        put_head(out, "recall_estimate", "gauge",
                 "Share of the nearest vectors that searches found, measured again in idle time");
    for (size_t i = 0; i < count; i++) {
        buf_str(out, "jadevectordb_recall_estimate{database=");
        put_label(out, list[i].name);
        buf_str(out, "} ");
        json_put_double(out, list[i].recall);
        buf_str(out, "\n");
    }
    mem_free(list);
}

void metrics_write(struct api_app *app, struct buf *out)
{
    struct service_stats s = {0};
    service_stats(app->service, &s);

    put_gauge(out, "databases", "Databases", (double)s.databases);
    put_gauge(out, "databases_quarantined", "Databases refused because they are damaged",
              (double)s.quarantined);
    put_gauge(out, "vectors", "Live vectors of all databases", (double)s.vectors);
    put_gauge(out, "storage_bytes", "Bytes of all database files", (double)s.bytes);
    put_gauge(out, "wal_bytes", "Bytes of all write-ahead logs", (double)s.wal_bytes);
    put_gauge(out, "open_files", "Database files open now", (double)s.open_files);
    put_gauge(out, "max_open_files", "Limit of open database files", (double)s.max_open_files);
    put_gauge(out, "flush_duration_ms", "Duration of the last flush in milliseconds",
              s.last_flush_ms);
    put_gauge(out, "pending_index_vectors", "Vectors that wait to be linked into an index",
              (double)s.index_pending);
    put_gauge(out, "index_memory_bytes", "Memory of the graphs of open databases",
              (double)s.index_bytes);
    put_gauge(out, "filter_memory_bytes", "Memory of what filters use", (double)s.filter_bytes);
    put_recall(app, out);
    put_gauge(out, "scrub_progress_ratio", "Progress of the current scrub; 1 between two",
              s.scrub_progress);
    put_gauge(out, "disk_free_bytes", "Free bytes of the file system below the data directory",
              (double)s.disk_free_bytes);
    put_gauge(out, "resident_memory_bytes", "Resident memory of the process",
              (double)process_rss_bytes());
    put_gauge(out, "http_connections", "Open HTTP connections",
              app->connection_count ? (double)app->connection_count(app->connection_ctx) : 0);
    put_head(out, "build_info", "gauge", "Version of the program");
    buf_str(out, "jadevectordb_build_info{version=\"" JADEVECTORDB_VERSION "\"} 1\n");

#define COUNTER(id, name, help)                                                                    \
    put_head(out, name, "counter", help);                                                          \
    buf_printf(out, "jadevectordb_%s %llu\n", name, (unsigned long long)stat_get(STAT_##id));
#define HISTOGRAM(id, name, help)                                                                  \
    put_head(out, name, "histogram", help);                                                        \
    put_histogram(out, name, "", &stat_histograms[STAT_##id]);
#include "storage/base/metrics.def"

    put_head(out, "search_duration_seconds", "histogram", "Duration of one search");
    for (int i = 0; i < SEARCH_STRATEGY_COUNT; i++) {
        char label[40];
        snprintf(label, sizeof label, "strategy=\"%s\",", search_strategy_name(i));
        put_histogram(out, "search_duration_seconds", label, &metrics_search[i]);
    }
    put_requests(out);
}

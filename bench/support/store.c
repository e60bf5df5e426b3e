/* store.c - a service in a directory of its own with one database, and searches of it. */
#include "bench/support/store.h"

#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/support/client.h"
#include "storage/base/log.h"

enum { BATCH_ROWS = 1000, METADATA_BYTES = 160, HITS_MAX = 1000, STUCK_S = 300 };
#define NO_GRAPH_S 2.0 /* after so long none will come */
static const char DATABASE[] = "bench";

void store_open(struct bench_store *s, const struct store_options *o)
{
    struct err err;
    const char *parent = getenv("TMPDIR");
    *s = (struct bench_store){
        .dimension = o->dimension, .index_kind = o->index.kind, .keeps_dir = o->dir != NULL};
    if (o->dir)
        snprintf(s->dir, sizeof s->dir, "%s", o->dir);
    else
        snprintf(s->dir, sizeof s->dir, "%s/jadevectordb-bench-XXXXXX", parent ? parent : "/tmp");
    if (!o->dir && !mkdtemp(s->dir)) bench_fail("cannot make %s: %s", s->dir, strerror(errno));

    struct log_options quiet = {.level = LOG_WARNING};
    if (log_open(&quiet, &err)) bench_fail("%s", err.msg);
    struct service_options options = {.engine = ENGINE_PERSISTENT,
                                      .storage_path = s->dir,
                                      .max_open_files = 100,
                                      .flush_interval_seconds = 300,
                                      .auto_flush = true,
                                      .wal_sync_interval_ms = 100,
                                      .wal_bytes_max = (uint64_t)1 << 30};
    struct schema schema = {.dimension = o->dimension,
                            .metric = o->metric,
                            .durability = DURABILITY_PERIODIC,
                            .initial_capacity = o->capacity,
                            .index = o->index,
                            .options = o->options};
    bool created;
    if (service_open(&options, &s->svc, &err) ||
        service_create(s->svc, DATABASE, &schema, true, &created, &err) ||
        service_acquire(s->svc, DATABASE, true, &s->db, &err))
        bench_fail("%s: %s", s->dir, err.msg);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st;
    (void)type;
    (void)at;
    return remove(path);
}

void store_remove(const char *dir)
{
    nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

void store_close(struct bench_store *s)
{
    struct err err;
    service_release(s->db);
    service_interrupt(s->svc);
    if (service_close(s->svc, &err)) bench_fail("%s: %s", s->dir, err.msg);
    if (!s->keeps_dir) store_remove(s->dir);
}

/* ---- writes ---- */

static void put(struct bench_store *s, struct row_input *rows, size_t count)
{
    struct err err;
    uint64_t lsn;
    if (database_put(s->db, rows, count, s->dimension, true, &lsn, &err) ||
        database_wait(s->db, lsn, DURABILITY_PERIODIC, &err))
        bench_fail("put: %s", err.msg);
}

void store_put(struct bench_store *s, const float *rows, uint64_t first, size_t count,
               store_metadata_fn *metadata, void *ctx)
{
    struct row_input *batch = calloc(BATCH_ROWS, sizeof *batch);
    char *text = malloc((size_t)BATCH_ROWS * METADATA_BYTES);
    if (!batch || !text) bench_fail("no memory for a batch");
    for (size_t done = 0; done < count;) {
        size_t n = count - done < BATCH_ROWS ? count - done : BATCH_ROWS;
        for (size_t i = 0; i < n; i++) {
            char *of_row = text + i * METADATA_BYTES;
            batch[i] = (struct row_input){.id.number = first + done + i,
                                          .vector = rows + (done + i) * s->dimension};
            if (!metadata) continue;
            batch[i].metadata = of_row;
            batch[i].metadata_bytes =
                (uint32_t)metadata(ctx, first + done + i, of_row, METADATA_BYTES);
        }
        put(s, batch, n);
        done += n;
    }
    free(batch);
    free(text);
}

void store_put_one(struct bench_store *s, const float *row, uint64_t id)
{
    struct row_input input = {.id.number = id, .vector = row};
    put(s, &input, 1);
}

void store_delete(struct bench_store *s, uint64_t first, size_t count)
{
    struct vector_id ids[BATCH_ROWS];
    for (size_t done = 0; done < count;) {
        size_t n = count - done < BATCH_ROWS ? count - done : BATCH_ROWS, deleted;
        struct err err;
        uint64_t lsn;
        for (size_t i = 0; i < n; i++)
            ids[i] = (struct vector_id){.number = first + done + i};
        if (database_delete(s->db, ids, n, true, &deleted, &lsn, &err) ||
            database_wait(s->db, lsn, DURABILITY_PERIODIC, &err))
            bench_fail("delete: %s", err.msg);
        if (deleted != n) bench_fail("%zu rows were not there", n - deleted);
        done += n;
    }
}

/* ---- the index ---- */

void store_index_info(struct bench_store *s, struct vector_index_info *info)
{
    struct database_info of_database;
    struct err err;
    if (service_info(s->svc, DATABASE, true, &of_database, &err)) bench_fail("%s", err.msg);
    *info = of_database.index;
    database_info_deinit(&of_database);
}

/* Without a graph: is one on its way?  That is not told at once. */
static bool stays_without(struct bench_store *s, double since)
{
    return s->index_kind == INDEX_FLAT || bench_now() - since > NO_GRAPH_S;
}

double store_settle(struct bench_store *s)
{
    const double begun = bench_now();
    double moved = begun, progress = -1;
    for (;;) {
        struct vector_index_info info;
        store_index_info(s, &info);
        if (info.state == INDEX_STATE_READY && info.pending_count == 0) return bench_now() - begun;
        if (info.state == INDEX_STATE_NONE && stays_without(s, moved)) return moved - begun;
        double now_at = info.progress + (double)info.indexed_count;
        if (now_at != progress) {
            progress = now_at;
            moved = bench_now();
        }
        if (bench_now() - moved > STUCK_S) bench_fail("the index does not get ready");
        bench_sleep(0.01);
    }
}

void store_rest(struct bench_store *s)
{
    service_settle_index(s->svc, s->db);
}

/* ---- searches ---- */

size_t store_search(struct bench_store *s, const struct search_query *query, uint32_t *ids,
                    struct search_report *report)
{
    static _Thread_local struct search_hit hits[HITS_MAX];
    struct reader r;
    struct err err;
    size_t count = 0;
    if (query->top_k > HITS_MAX) bench_fail("top_k is at most %d here", HITS_MAX);
    reader_begin(s->db, &r);
    enum err_code rc = reader_search(&r, query, true, hits, &count, report, &err);
    for (size_t i = 0; i < count; i++)
        ids[i] = (uint32_t)hits[i].row.id.number;
    if (reader_check(&r, rc, &err)) bench_fail("search: %s", err.msg);
    reader_end(&r);
    return count;
}

static size_t search(void *ctx, const float *query, uint32_t k, uint32_t ef, uint32_t *rows)
{
    struct search_query q = {.vector = query, .top_k = k, .ef = ef};
    return store_search(ctx, &q, rows, NULL);
}

void subject_database(struct subject *s, const struct dataset *set, const struct index_options *o,
                      struct build_cost *cost)
{
    struct bench_store *store = calloc(1, sizeof *store);
    struct vector_index_info info;
    if (!store) bench_fail("no memory");
    store_open(store, &(struct store_options){.metric = set->metric,
                                              .dimension = set->dimension,
                                              .index = *o,
                                              .capacity = set->base_count});
    const double cpu = measure_cpu_s(), wall = bench_now();
    store_put(store, set->base, 0, set->base_count, NULL, NULL);
    store_settle(store);
    *cost = (struct build_cost){.cpu_s = measure_cpu_s() - cpu, .wall_s = bench_now() - wall};
    store_index_info(store, &info);
    cost->row_bytes = (double)info.memory_bytes / (double)set->base_count;
    snprintf(cost->codec, sizeof cost->codec, "%s",
             info.state == INDEX_STATE_NONE ? "exact" : codec_name(info.codec));
    *s = (struct subject){.name = "database", .ctx = store, .search = search};
}

struct bench_store *subject_database_store(const struct subject *s)
{
    return s->ctx;
}

void subject_database_free(struct subject *s)
{
    store_close(s->ctx);
    free(s->ctx);
}

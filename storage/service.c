/* service.c - the verbs: validate, order, apply. */
#include "storage/service.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/statvfs.h>

#include "storage/base/epoch.h"
#include "storage/base/log.h"
#include "storage/base/mem.h"
#include "storage/base/metrics.h"
#include "storage/compact.h"
#include "storage/compactor.h"
#include "storage/engine.h"
#include "storage/flusher.h"
#include "storage/index/indexer.h"
#include "storage/scrub.h"

enum { FIRST_SCRUB_MS_MAX = 3600 * 1000 };

enum { RELIEFS_MAX = 16 }; /* databases that are closed for the sake of a new one */

struct service {
    struct engine *engine;
    struct file_cache *cache;
    struct flusher *flusher;
    struct compactor *compactor; /* may be NULL */
    struct indexer *indexer;     /* may be NULL */
    _Atomic bool interrupted;
    struct scrub *scrub;
    bool is_persistent;
    uint32_t flush_interval_seconds;
    char *storage_path;
};

enum err_code service_open(const struct service_options *options, struct service **out,
                           struct err *err)
{
    struct service *s = mem_new(struct service);
    s->is_persistent = options->engine == ENGINE_PERSISTENT;
    s->flush_interval_seconds = options->auto_flush ? options->flush_interval_seconds : 0;
    s->storage_path = mem_strdup(options->storage_path ? options->storage_path : "");
    enum err_code rc = ERR_OK;
    if (s->is_persistent)
        rc = engine_persistent_new(options, &s->engine, err);
    else
        s->engine = engine_memory_new();
    if (rc) goto out;
    s->cache = file_cache_new(s->engine, options->max_open_files);
    rc = s->engine->ops->load(s->engine, s->cache, err);
    if (rc) goto out;
    if (!options->no_indexer) s->indexer = indexer_start(s->cache, options->index_threads);
    s->flusher = flusher_start(s->engine, s->cache, options);
    s->compactor = compactor_start(s->cache, options->compact_percent);
    /* Not at once: a start has better things to do. */
    uint64_t interval_ms = options->scrub_interval_seconds * 1000;
    struct scrub_options scrub = {
        .interval_ms = interval_ms,
        .first_ms = interval_ms < FIRST_SCRUB_MS_MAX ? interval_ms : FIRST_SCRUB_MS_MAX,
        .bytes_per_second = options->scrub_bytes_per_second,
    };
    s->scrub = scrub_start(s->engine, s->cache, &scrub);
    *out = s;
    return ERR_OK;
out:
    if (s->engine) {
        struct err ignored;
        if (s->engine->ops->stop(s->engine, s->cache, false, &ignored)) (void)ignored;
    }
    file_cache_free(s->cache);
    mem_free(s->storage_path);
    mem_free(s);
    return rc;
}

enum err_code service_close(struct service *s, struct err *err)
{
    if (!s) return ERR_OK;
    size_t flushed;
    double ms;
    service_interrupt(s);
    compactor_stop(s->compactor);
    indexer_stop(s->indexer);
    scrub_stop(s->scrub);
    flusher_stop(s->flusher);
    enum err_code rc = flusher_flush_all(s->flusher, FLUSH_AT_STOP, &flushed, &ms, err);
    /* What was wrong may have passed (a full disk, too few descriptors), and what counts is whether
     * anything is left; the log has the first reasons. */
    if (rc) rc = flusher_flush_all(s->flusher, FLUSH_AT_STOP, &flushed, &ms, err);
    flusher_free(s->flusher);
    struct err late;
    enum err_code closed = file_cache_close_all(s->cache, &late);
    if (closed && !rc) {
        rc = closed;
        *err = late;
    }
    enum err_code stopped = s->engine->ops->stop(s->engine, s->cache, rc == ERR_OK, &late);
    if (stopped && !rc) {
        rc = stopped;
        *err = late;
    }
    file_cache_free(s->cache);
    epoch_synchronize();
    mem_free(s->storage_path);
    mem_free(s);
    return rc;
}

bool service_is_persistent(const struct service *s)
{
    return s->is_persistent;
}

/* ---- databases ---- */

static bool same_schema(const struct schema *a, const struct schema *b)
{
    const char *x = a->options ? a->options : "{}", *y = b->options ? b->options : "{}";
    return a->dimension == b->dimension && a->metric == b->metric &&
           a->durability == b->durability && a->index.kind == b->index.kind &&
           a->index.quantization == b->index.quantization && a->index.m == b->index.m &&
           a->index.ef_construction == b->index.ef_construction && strcmp(x, y) == 0;
}

static enum err_code check_schema(const struct schema *schema, struct err *err)
{
    if (schema->dimension < 1 || schema->dimension > DIMENSION_MAX)
        return err_set(err, ERR_INVALID_REQUEST, "dimension must be 1 to %d", DIMENSION_MAX);
    if (schema->metric >= METRIC_COUNT || schema->durability >= DURABILITY_COUNT)
        return err_set(err, ERR_INVALID_REQUEST, "unknown distance metric or durability");
    if (!index_options_are_sane(&schema->index))
        return err_set(err, ERR_INVALID_REQUEST,
                       "index: m must be %d to %d, ef_construction %d to %d", INDEX_M_MIN,
                       INDEX_M_MAX, INDEX_EF_MIN, INDEX_EF_MAX);
    if (schema->options && strlen(schema->options) > OPTIONS_BYTES_MAX)
        return err_set(err, ERR_INVALID_REQUEST, "the options are longer than %d bytes",
                       OPTIONS_BYTES_MAX);
    return ERR_OK;
}

/* Of a name that exists: is it the same database? */
static enum err_code compare_existing(struct service *s, const char *name,
                                      const struct schema *schema, struct err *err)
{
    struct database_info info;
    enum err_code rc = file_cache_info(s->cache, name, true, &info, err);
    if (rc) return rc;
    if (!same_schema(&info.schema, schema))
        rc = err_set(err, ERR_CONFLICT,
                     "database \"%s\" exists with another schema: dimension %u, %s, %s", name,
                     info.schema.dimension, metric_name(info.schema.metric),
                     durability_name(info.schema.durability));
    database_info_deinit(&info);
    return rc;
}

enum err_code service_create(struct service *s, const char *name, const struct schema *schema,
                             bool if_missing, bool *created, struct err *err)
{
    *created = false;
    enum err_code rc = database_name_check(name, strlen(name), err);
    if (!rc) rc = check_schema(schema, err);
    if (rc) return rc;

    struct cache_entry entry = {.schema = *schema, .counts_known = true};
    snprintf(entry.name, sizeof entry.name, "%s", name);
    if (getrandom(entry.uuid, sizeof entry.uuid, 0) != sizeof entry.uuid)
        return err_os(err, errno, "get random numbers");
    rc = file_cache_reserve(s->cache, &entry, err);
    if (rc == ERR_DATABASE_EXISTS && if_missing) return compare_existing(s, name, schema, err);
    if (rc) return rc;
    rc = s->engine->ops->create(s->engine, name, entry.uuid, schema, err);
    for (int i = 0; rc && i < RELIEFS_MAX && file_cache_relieve(s->cache, err); i++)
        rc = s->engine->ops->create(s->engine, name, entry.uuid, schema, err);
    file_cache_settle(s->cache, name, rc == ERR_OK);
    if (rc) return rc;
    *created = true;
    log_info("created database \"%s\": dimension %u, %s, %s", name, schema->dimension,
             metric_name(schema->metric), durability_name(schema->durability));
    if (s->engine->ops->can_evict) return ERR_OK;

    /* In memory it exists from its first opening on, and is never closed. */
    struct database *db;
    rc = file_cache_acquire(s->cache, name, true, &db, err);
    if (rc == ERR_OK) {
        file_cache_release(db);
    } else {
        struct err ignored;
        if (file_cache_drop(s->cache, name, &ignored)) (void)ignored;
    }
    return rc;
}

enum err_code service_drop(struct service *s, const char *name, struct err *err)
{
    enum err_code rc = database_name_check(name, strlen(name), err);
    if (!rc) rc = file_cache_drop(s->cache, name, err);
    if (!rc) log_info("dropped database \"%s\"", name);
    return rc;
}

enum err_code service_acquire(struct service *s, const char *name, bool may_block,
                              struct database **out, struct err *err)
{
    enum err_code rc = database_name_check(name, strlen(name), err);
    return rc ? rc : file_cache_acquire(s->cache, name, may_block, out, err);
}

void service_retain(struct database *db)
{
    file_cache_retain(db);
}

void service_release(struct database *db)
{
    file_cache_release(db);
}

enum err_code service_info(struct service *s, const char *name, bool may_block,
                           struct database_info *info, struct err *err)
{
    enum err_code rc = database_name_check(name, strlen(name), err);
    return rc ? rc : file_cache_info(s->cache, name, may_block, info, err);
}

enum err_code service_list(struct service *s, const char *after, const char *prefix, size_t limit,
                           bool may_block, struct database_info **infos, size_t *count,
                           size_t *total, bool *more, struct err *err)
{
    return file_cache_list(s->cache, after, prefix, limit, may_block, infos, count, total, more,
                           err);
}

/* ---- flush ---- */

enum err_code service_flush(struct service *s, const char *name, double *duration_ms,
                            struct err *err)
{
    struct database *db;
    enum err_code rc = service_acquire(s, name, true, &db, err);
    if (rc) return rc;
    rc = flusher_flush_one(s->flusher, db, duration_ms, err);
    file_cache_release(db);
    return rc;
}

enum err_code service_flush_all(struct service *s, size_t *flushed, double *duration_ms,
                                struct err *err)
{
    enum err_code rc = flusher_flush_all(s->flusher, FLUSH_BY_HAND, flushed, duration_ms, err);
    /* Who asked finds an answer in the log even if there was nothing to write. */
    if (!rc && *flushed == 0)
        log_info("flush completed databases=0 flush_duration_ms=%.1f", *duration_ms);
    return rc;
}

/* ---- compaction ---- */

enum err_code service_compact(struct service *s, const char *name, struct compact_result *result,
                              struct err *err)
{
    struct database *db;
    enum err_code rc = service_acquire(s, name, true, &db, err);
    if (rc) return rc;
    struct compact_options options = {.cancel = &s->interrupted};
    rc = compact_run(db, &options, result, err);
    file_cache_release(db);
    return rc;
}

void service_interrupt(struct service *s)
{
    atomic_store(&s->interrupted, true);
    compactor_interrupt(s->compactor);
    indexer_interrupt(s->indexer);
}

void service_settle_index(struct service *s, struct database *db)
{
    if (s->indexer) indexer_settle(s->indexer, db);
}

/* ---- verify ---- */

static bool goes_on(void *ctx, uint64_t bytes)
{
    (void)bytes;
    struct service *s = ctx;
    return !atomic_load_explicit(&s->interrupted, memory_order_relaxed);
}

enum err_code service_verify(struct service *s, const char *name, struct verify_result *r,
                             bool *quarantined, struct err *err)
{
    struct database *db;
    /* Opened once: a checkpoint that a stop interrupted is finished, and what opening finds wrong
     * is said as it always is. */
    enum err_code rc = service_acquire(s, name, true, &db, err);
    if (rc) return rc;
    rc = database_check_readable(db, err);
    file_cache_release(db);
    if (!rc) rc = scrub_database(s->engine, s->cache, name, goes_on, s, r, quarantined, err);
    if (!rc && !r->complete && !goes_on(s, 0))
        rc = err_set(err, ERR_SHUTTING_DOWN, "the verification of \"%s\" was interrupted", name);
    else if (!rc && !r->complete)
        rc = err_set(err, ERR_OVERLOADED,
                     "the file of \"%s\" was changed all the while; try it again later", name);
    return rc;
}

/* ---- statistics ---- */

void service_stats(struct service *s, struct service_stats *stats)
{
    *stats = (struct service_stats){.flush_interval_seconds = s->flush_interval_seconds};
    file_cache_stats(s->cache, stats);
    stats->flushes = stat_get(STAT_FLUSHES);
    stats->scrub_progress = scrub_progress(s->scrub);
    flusher_last(s->flusher, &stats->last_flush_at_ms, &stats->last_flush_ms);
    struct statvfs fs;
    if (s->is_persistent && statvfs(s->storage_path, &fs) == 0) {
        stats->disk_free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
        stats->disk_total_bytes = (uint64_t)fs.f_blocks * fs.f_frsize;
    }
}

size_t service_recall_estimates(struct service *s, struct recall_estimate *list, size_t max)
{
    return file_cache_recall_estimates(s->cache, list, max);
}

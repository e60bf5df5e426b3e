#include "storage/flusher.h"

#include <stdio.h>
#include <string.h>

#include "storage/base/clock.h"
#include "storage/base/epoch.h"
#include "storage/base/log.h"
#include "storage/base/mem.h"
#include "storage/base/parallel.h"
#include "storage/base/ticker.h"
#include "storage/engine.h"
#include "storage/index/index_file.h"
#include "storage/syncer.h"

enum { FLUSH_THREADS = 8, HOLD_S = 60 };
#define SECOND_NS      1000000000ull
#define TICK_NS        (SECOND_NS / 4)
#define IDLE_WRITER_NS SECOND_NS
/* A stop has 10 s, of which requests may take some; a modest disk (100 MB/s) writes this in half of
 * them.  docs/OPERATIONS.md has what was measured. */
#define DIRTY_BYTES_MAX (512ull << 20)

struct flusher {
    struct engine *engine;
    struct file_cache *cache;
    uint64_t interval_ns; /* 0: none */
    uint64_t wal_sync_ns;
    uint64_t wal_bytes_max;
    uint64_t dirty_bytes_max;
    uint64_t hold_ns;
    int threads; /* of a whole flush */

    struct ticker ticker;
    pthread_t thread, sync_thread;
    _Atomic uint64_t last_at_ms, last_us;
    struct mutex whole; /* LOCK_FLUSH: one flusher_flush_all() at a time */
};

static void note(struct flusher *f, double duration_ms)
{
    atomic_store(&f->last_at_ms, clock_wall_ms());
    atomic_store(&f->last_us, (uint64_t)(duration_ms * 1000));
}

/* One whole flush; its threads take the databases one after the other. */
struct round {
    struct flusher *f;
    struct mutex mu; /* LOCK_ROUND */
    enum flush_reason reason;
    bool closed_ones; /* second half: closed databases with a log */
    char name[NAME_BYTES_MAX + 1];
    size_t flushed;
    enum err_code rc; /* first failure */
    struct err err;
};

/* Pin the next database of the round.  False: no more. */
static bool take_next(struct round *r, struct database **db, char name[NAME_BYTES_MAX + 1],
                      enum err_code *rc, struct err *err)
{
    struct cache_entry entry;
    bool found;
    *rc = ERR_OK;
    mutex_lock(&r->mu);
    if (!r->closed_ones) {
        found = file_cache_next_open(r->f->cache, r->name, db);
        if (found) snprintf(r->name, sizeof r->name, "%s", database_name(*db));
        memcpy(name, r->name, sizeof r->name);
        mutex_unlock(&r->mu);
        return found;
    }
    found = file_cache_next_entry(r->f->cache, r->name, true, &entry);
    if (found) snprintf(r->name, sizeof r->name, "%s", entry.name);
    memcpy(name, r->name, sizeof r->name);
    mutex_unlock(&r->mu);
    if (found) *rc = file_cache_acquire(r->f->cache, entry.name, true, db, err);
    return found;
}

static void flush_some(void *ctx)
{
    struct round *r = ctx;
    struct database *db = NULL;
    char name[NAME_BYTES_MAX + 1];
    enum err_code rc;
    struct err err;
    while (take_next(r, &db, name, &rc, &err)) {
        /* Dropped or quarantined meanwhile: nothing to flush. */
        if (rc == ERR_DATABASE_NOT_FOUND || rc == ERR_QUARANTINED) continue;
        bool by_time = r->reason == FLUSH_BY_TIME;
        bool due = !rc && (database_is_dirty(db) ||
                           (by_time ? index_file_is_due(db) : index_file_is_dirty(db)));
        if (due && by_time && database_is_held(db)) due = false;
        if (due) rc = r->f->engine->ops->flush(r->f->engine, db, &err);
        if (db) file_cache_release(db);
        db = NULL;
        if (rc == ERR_QUARANTINED) continue;
        if (rc) log_warning("flush of database \"%s\": %s", name, err.msg);
        mutex_lock(&r->mu);
        if (rc && !r->rc) {
            r->rc = rc;
            r->err = err;
        }
        r->flushed += due && !rc;
        mutex_unlock(&r->mu);
    }
}

enum err_code flusher_flush_all(struct flusher *f, enum flush_reason reason, size_t *flushed,
                                double *duration_ms, struct err *err)
{
    struct round r = {.f = f, .reason = reason};
    uint64_t begun = clock_ns();
    /* From the first file that is ready until all have been copied. */
    if (reason == FLUSH_BY_HAND) file_cache_hold_all(f->cache, UINT64_MAX);
    mutex_init(&r.mu, LOCK_ROUND);
    mutex_lock(&f->whole);
    /* Small checkpoints are all waiting for the disk, which takes many at a time. */
    parallel_run(f->threads, flush_some, &r);
    r.closed_ones = true;
    r.name[0] = '\0';
    parallel_run(f->threads, flush_some, &r);
    if (r.rc && r.err.os_errno && (r.rc == ERR_OVERLOADED || r.rc == ERR_NOMEM)) {
        /* Too few descriptors or mappings for so many at a time. */
        r.rc = ERR_OK;
        for (int i = 0; i < 2; i++) {
            r.closed_ones = i == 1;
            r.name[0] = '\0';
            flush_some(&r);
        }
    }
    mutex_unlock(&f->whole);
    mutex_deinit(&r.mu);
    if (reason == FLUSH_BY_HAND) file_cache_hold_all(f->cache, r.rc ? 0 : clock_ns() + f->hold_ns);

    *flushed = r.flushed;
    *duration_ms = (double)(clock_ns() - begun) / 1e6;
    note(f, *duration_ms);
    if (r.rc) {
        *err = r.err;
        return r.rc;
    }
    if (r.flushed)
        log_info("flush completed databases=%zu flush_duration_ms=%.1f", r.flushed, *duration_ms);
    return ERR_OK;
}

enum err_code flusher_flush_one(struct flusher *f, struct database *db, double *duration_ms,
                                struct err *err)
{
    uint64_t begun = clock_ns();
    atomic_store(&db->hold_until_ns, UINT64_MAX);
    enum err_code rc = f->engine->ops->flush(f->engine, db, err);
    atomic_store(&db->hold_until_ns, rc ? 0 : clock_ns() + f->hold_ns);
    *duration_ms = (double)(clock_ns() - begun) / 1e6;
    if (rc) return rc;
    note(f, *duration_ms);
    log_info("flush completed database=%s flush_duration_ms=%.1f", database_name(db), *duration_ms);
    return ERR_OK;
}

void flusher_last(const struct flusher *f, uint64_t *at_ms, double *duration_ms)
{
    *at_ms = atomic_load(&f->last_at_ms);
    *duration_ms = (double)atomic_load(&f->last_us) / 1e3;
}

static void periodic_flush(struct flusher *f)
{
    size_t flushed;
    double ms;
    struct err err;
    if (flusher_flush_all(f, FLUSH_BY_TIME, &flushed, &ms, &err)) (void)err; /* is in the log */
}

/* Checkpoint one that has to be, held or not. */
static bool relieve(struct flusher *f, struct database *db, const char *why)
{
    struct err err;
    if (database_check_writable(db, &err)) return false; /* known, and said */
    if (f->engine->ops->flush(f->engine, db, &err)) {
        log_warning("checkpoint for %s: %s", why, err.msg);
        return false;
    }
    log_debug("checkpointed database \"%s\" for %s", database_name(db), why);
    return true;
}

/* What all open databases have to write out, and which has the most.  Each is told to slow its
 * writers down if it is far too much. */
static uint64_t dirty_bytes(struct flusher *f, uint32_t write_delay_us,
                            char worst[NAME_BYTES_MAX + 1])
{
    char name[NAME_BYTES_MAX + 1] = "";
    struct database *db;
    uint64_t all = 0, most = 0;
    worst[0] = '\0';
    while (file_cache_next_open(f->cache, name, &db)) {
        snprintf(name, sizeof name, "%s", database_name(db));
        uint64_t bytes = database_dirty_bytes(db);
        struct err err;
        atomic_store_explicit(&db->write_delay_us, write_delay_us, memory_order_relaxed);
        if (bytes > most && !database_check_writable(db, &err)) {
            most = bytes;
            memcpy(worst, name, sizeof name);
        }
        file_cache_release(db);
        all += bytes;
    }
    return all;
}

/* Not more than a stop can write in time. */
static void limit_dirty(struct flusher *f)
{
    char name[NAME_BYTES_MAX + 1];
    uint64_t bytes = dirty_bytes(f, 0, name);
    bool good = true;
    while (good && bytes > f->dirty_bytes_max && name[0]) {
        struct database *db;
        struct err err;
        if (file_cache_acquire(f->cache, name, true, &db, &err)) break;
        good = relieve(f, db, "the bytes to be written out");
        file_cache_release(db);
        uint32_t delay_us = bytes > 2 * f->dirty_bytes_max ? WRITE_DELAY_US_MAX : 0;
        bytes = dirty_bytes(f, delay_us, name);
    }
    if (bytes > f->dirty_bytes_max) dirty_bytes(f, 0, name); /* it is of no use */
}

/* What cannot wait for the interval. */
static void tend(struct flusher *f)
{
    char name[NAME_BYTES_MAX + 1] = "";
    struct database *db;
    while (file_cache_next_open(f->cache, name, &db)) {
        snprintf(name, sizeof name, "%s", database_name(db));
        if (db->wal && wal_bytes(db->wal) > f->wal_bytes_max)
            relieve(f, db, "the length of its log");
        database_close_idle_writer(db, IDLE_WRITER_NS);
        file_cache_release(db);
    }
    limit_dirty(f);
    if (f->engine->ops->tend) f->engine->ops->tend(f->engine);
    epoch_collect();
}

/* After an unclean stop the counts of a database are known once its log was replayed: open each one
 * now, in the background, so that statistics are whole and logs do not wait for a first visitor. */
static void learn_counts(struct flusher *f)
{
    struct cache_entry entry = {.name = ""};
    while (!ticker_is_stopped(&f->ticker) &&
           file_cache_next_entry(f->cache, entry.name, false, &entry)) {
        struct database_info info;
        struct err err;
        if (entry.counts_known) continue;
        if (file_cache_info(f->cache, entry.name, true, &info, &err))
            log_warning("%s", err.msg);
        else
            database_info_deinit(&info);
    }
}

/* Half the interval: a log is looked at in time, however its first record fell. */
static uint64_t sync_tick_ns(const struct flusher *f)
{
    uint64_t ns = f->wal_sync_ns / 2 + 1;
    return ns < TICK_NS ? ns : TICK_NS;
}

/* The promise of periodic durability, on a thread that never waits for a disk itself. */
static void *sync_logs(void *arg)
{
    struct flusher *f = arg;
    const uint64_t tick_ns = sync_tick_ns(f);
    while (ticker_sleep_until(&f->ticker, clock_ns() + tick_ns)) {
        char name[NAME_BYTES_MAX + 1] = "";
        struct database *db;
        while (file_cache_next_open(f->cache, name, &db)) {
            snprintf(name, sizeof name, "%s", database_name(db));
            uint64_t since = db->wal ? wal_unsynced_since_ns(db->wal) : 0;
            /* The next look would come too late. */
            if (since && clock_ns() - since + tick_ns >= f->wal_sync_ns) wal_sync_soon(db->wal);
            file_cache_release(db);
        }
    }
    return NULL;
}

static void *run(void *arg)
{
    struct flusher *f = arg;
    learn_counts(f);
    uint64_t last_ns = clock_ns();
    while (ticker_sleep_until(&f->ticker, clock_ns() + TICK_NS)) {
        tend(f);
        if (f->interval_ns && clock_ns() - last_ns >= f->interval_ns) {
            periodic_flush(f);
            last_ns = clock_ns();
        }
    }
    return NULL;
}

struct flusher *flusher_start(struct engine *engine, struct file_cache *cache,
                              const struct service_options *options)
{
    struct flusher *f = mem_new(struct flusher);
    f->engine = engine;
    f->cache = cache;
    f->interval_ns = options->auto_flush ? options->flush_interval_seconds * SECOND_NS : 0;
    f->wal_sync_ns = options->wal_sync_interval_ms * 1000000ull;
    f->wal_bytes_max = options->wal_bytes_max;
    f->dirty_bytes_max = options->dirty_bytes_max ? options->dirty_bytes_max : DIRTY_BYTES_MAX;
    f->hold_ns = options->hold_ms ? options->hold_ms * 1000000ull : HOLD_S * SECOND_NS;
    /* Each may hold a descriptor beyond the limit of open files. */
    f->threads = options->max_open_files / 8 > FLUSH_THREADS
                     ? FLUSH_THREADS
                     : (int)(options->max_open_files / 8) + 1;
    ticker_init(&f->ticker);
    mutex_init(&f->whole, LOCK_FLUSH);
    int failed = pthread_create(&f->thread, NULL, run, f);
    if (!failed) failed = pthread_create(&f->sync_thread, NULL, sync_logs, f);
    assert(!failed);
    (void)failed;
    return f;
}

void flusher_stop(struct flusher *f)
{
    if (!f) return;
    ticker_stop(&f->ticker);
    pthread_join(f->thread, NULL);
    pthread_join(f->sync_thread, NULL);
}

void flusher_free(struct flusher *f)
{
    if (!f) return;
    mutex_deinit(&f->whole);
    ticker_deinit(&f->ticker);
    mem_free(f);
}

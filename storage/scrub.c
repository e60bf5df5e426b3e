/* scrub.c - round after round, and what becomes of damage. */
#include "storage/scrub.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "storage/base/clock.h"
#include "storage/base/log.h"
#include "storage/base/mem.h"
#include "storage/base/metrics.h"
#include "storage/base/ticker.h"
#include "storage/checkpoint.h"
#include "storage/engine.h"
#include "storage/index/index_file.h"

/* ---- one database ---- */

/* Is this block right in memory, and will the next checkpoint write it? */
static bool memory_has_block(struct database *db, enum verify_region region, uint64_t block)
{
    const uint8_t kept = region == VERIFY_SUMS ? BLOCK_PRIVATE : BLOCK_DIRTY | BLOCK_TO_SAVE;
    mutex_lock(&db->writer);
    struct jvdb_file *f = &atomic_load(&db->store)->file;
    mutex_lock(&f->blocks);
    struct jvdb_view *v = atomic_load_explicit(&f->view, memory_order_relaxed);
    bool has = block < v->map_bytes / BLOCK_BYTES &&
               atomic_load_explicit(&v->state[block], memory_order_relaxed) & kept;
    mutex_unlock(&f->blocks);
    mutex_unlock(&db->writer);
    return has;
}

static bool memory_has(struct database *db, const struct verify_error *e)
{
    switch (e->region) {
    case VERIFY_SUPERBLOCK:
    case VERIFY_MANIFEST:
    case VERIFY_LOG:
        return true;
    case VERIFY_SUMS:
    case VERIFY_SLOTS:
    case VERIFY_ID_INDEX:
        return e->is_block && memory_has_block(db, e->region, e->block);
    default:
        return false;
    }
}

static bool same_place(const struct verify_error *a, const struct verify_error *b)
{
    return a->region == b->region && a->has_block == b->has_block && a->block == b->block &&
           a->has_row == b->has_row && a->row == b->row;
}

/* What the second look found and the first did not, for the report and for the reason. */
static void add_new_errors(struct verify_result *r, const struct verify_result *again)
{
    size_t before = r->errors_kept;
    for (size_t k = 0; k < again->errors_kept; k++) {
        bool known = false;
        for (size_t i = 0; i < before && !known; i++)
            known = same_place(&r->errors[i], &again->errors[k]);
        if (known) continue;
        r->error_count++;
        if (r->errors_kept < VERIFY_ERRORS_MAX) r->errors[r->errors_kept++] = again->errors[k];
    }
}

/* Write anew what memory still has.  False: there is damage that it has not. */
static bool heal(struct database *db, const struct verify_options *o, struct verify_result *r)
{
    struct err err;
    if (r->error_count != r->errors_kept) return false;
    /* The superblocks are written in turn. */
    int checkpoints = 1;
    for (size_t i = 0; i < r->errors_kept; i++) {
        if (!memory_has(db, &r->errors[i])) return false;
        if (r->errors[i].region == VERIFY_SUPERBLOCK) checkpoints = SUPERBLOCK_COUNT;
    }
    enum err_code rc = ERR_OK;
    for (int i = 0; i < checkpoints && !rc; i++)
        rc = checkpoint_rewrite(db, &err);
    if (rc) {
        /* What is served is right all the same. */
        log_warning("database \"%s\": its file is damaged, its memory is not, but it cannot be "
                    "written: %s",
                    db->name, err.msg);
        return true;
    }
    struct verify_result *again = mem_new(struct verify_result);
    bool good = verify_files(o, again, &err) == ERR_OK;
    for (size_t i = 0; i < r->errors_kept && good; i++) {
        r->errors[i].healed = again->complete;
        for (size_t k = 0; k < again->errors_kept; k++)
            if (same_place(&r->errors[i], &again->errors[k])) r->errors[i].healed = false;
    }
    if (good && again->complete && again->error_count == 0)
        log_warning(
            "database \"%s\": damage of its files was repaired from memory, by a checkpoint",
            db->name);
    if (good && again->error_count) add_new_errors(r, again);
    good = good && again->error_count == 0;
    mem_free(again);
    return good;
}

static void log_errors(const char *name, const struct verify_result *r)
{
    enum { LINES_MAX = 8 };
    for (size_t i = 0; i < r->errors_kept && i < LINES_MAX; i++) {
        char text[320];
        verify_error_text(&r->errors[i], text, sizeof text);
        log_error("%s.jvdb: %s", name, text);
    }
    if (r->error_count > LINES_MAX)
        log_error("%s.jvdb: and %" PRIu64 " more", name, r->error_count - LINES_MAX);
}

/* No row is damaged: what is bad is written anew from memory, or made anew by the next opening. */
static void heal_index(const char *name, struct database *db, const struct index_check *check)
{
    struct err err;
    bool all = check->is_unusable || check->bad_kept < check->cells_bad;
    bool can = db && index_file_write_again(db, all ? NULL : check->bad, check->bad_kept);
    stat_add(STAT_CHECKSUM_ERRORS, check->cells_bad + check->is_unusable);
    if (can && checkpoint_rewrite(db, &err)) can = false;
    if (check->is_unusable)
        log_warning("database \"%s\": the record of its search index makes no sense; %s", name,
                    can ? "it was written anew" : "the index is built anew when it is opened");
    else
        log_warning("database \"%s\": %" PRIu64
                    " codes or links of its search index are bad in its "
                    "file; they are %s",
                    name, check->cells_bad, can ? "written anew" : "made anew when it is opened");
}

static enum err_code gone(const char *name, struct err *err)
{
    return err_set(err, ERR_DATABASE_NOT_FOUND, "there is no database \"%s\"", name);
}

enum err_code scrub_database(struct engine *engine, struct file_cache *cache, const char *name,
                             bool (*pace)(void *ctx, uint64_t bytes), void *ctx,
                             struct verify_result *r, bool *quarantined, struct err *err)
{
    enum { TRIES = 3 };
    struct cache_entry entry, now;
    struct database *db;
    *r = (struct verify_result){.complete = true};
    *quarantined = false;
    if (engine->dir_fd < 0) return ERR_OK; /* memory has no checksums to compare */

    enum err_code rc = ERR_OK;
    for (int i = 0; i < TRIES; i++) {
        if (!file_cache_peek(cache, name, &entry, &db)) return gone(name, err);
        struct verify_options o = {
            .dir_fd = engine->dir_fd,
            .name = name,
            .uuid = entry.uuid,
            .live = true,
            .durable_lsn = db              ? wal_durable_lsn(db->wal)
                           : entry.has_log ? entry.last_lsn
                                           : 0,
            .pace = pace,
            .ctx = ctx,
        };
        file_cache_release(db);
        rc = verify_files(&o, r, err);
        bool bad_index = !rc && (r->index.cells_bad || r->index.is_unusable);
        if (bad_index && r->error_count == 0 && file_cache_peek(cache, name, &now, &db)) {
            heal_index(name, db, &r->index);
            file_cache_release(db);
        }
        if (rc || r->error_count == 0) break;

        bool was_open = db != NULL;
        if (!file_cache_peek(cache, name, &now, &db) ||
            memcmp(now.uuid, entry.uuid, sizeof now.uuid) != 0) {
            file_cache_release(db);
            return gone(name, err); /* dropped meanwhile */
        }
        /* What closing writes may have put it right; what opening reads may lie elsewhere. */
        if (was_open != (db != NULL) && i + 1 < TRIES) {
            file_cache_release(db);
            continue;
        }
        log_errors(name, r);
        bool healed = db && heal(db, &o, r);
        stat_add(STAT_CHECKSUM_ERRORS, r->error_count);
        if (!healed) {
            struct err why = {.code = ERR_CORRUPT};
            char text[320] = "";
            for (size_t k = 0; k < r->errors_kept && !text[0]; k++)
                if (!r->errors[k].healed) verify_error_text(&r->errors[k], text, sizeof text);
            snprintf(why.msg, sizeof why.msg, "%s%s", text, r->error_count > 1 ? ", and more" : "");
            if (db) database_quarantine(db, &why);
            *quarantined = db || file_cache_quarantine(cache, name, entry.uuid, why.msg);
            if (!*quarantined && i + 1 < TRIES) continue; /* opened just now */
        }
        file_cache_release(db);
        break;
    }
    return rc;
}

/* ---- the thread ---- */

struct scrub {
    struct engine *engine;
    struct file_cache *cache;
    struct scrub_options options;
    struct ticker ticker;
    pthread_t thread;
    /* Of the round under way. */
    uint64_t begun_ns, done_bytes;
    _Atomic uint64_t total_bytes;   /* 0: no round was begun yet */
    _Atomic uint64_t counted_bytes; /* of them */
};

static bool pace(void *ctx, uint64_t bytes)
{
    struct scrub *s = ctx;
    uint64_t total = atomic_load_explicit(&s->total_bytes, memory_order_relaxed);
    s->done_bytes += bytes;
    stat_add(STAT_SCRUBBED_BYTES, bytes);
    if (s->done_bytes <= total)
        atomic_store_explicit(&s->counted_bytes, s->done_bytes, memory_order_relaxed);
    /* Where it should be by now; sleeps shorter than this cost more than they smooth. */
    const uint64_t coarse_ns = 5000000;
    uint64_t due =
        s->begun_ns + (uint64_t)((double)s->done_bytes / (double)s->options.bytes_per_second * 1e9);
    uint64_t now = clock_ns();
    if (due < now + coarse_ns) {
        /* It was held up: it does not make up for that. */
        if (due + 1000000000 < now) s->begun_ns += now - due;
        return !ticker_is_stopped(&s->ticker);
    }
    return ticker_sleep_until(&s->ticker, due);
}

/* False: it was stopped. */
static bool do_round(struct scrub *s)
{
    struct service_stats stats = {0};
    struct cache_entry entry = {.name = ""};
    struct verify_result *r = mem_new(struct verify_result);
    bool stopped = ticker_is_stopped(&s->ticker);
    uint64_t databases = 0, bad = 0, begun = clock_ns();
    file_cache_stats(s->cache, &stats);
    s->done_bytes = 0;
    s->begun_ns = begun;
    atomic_store(&s->counted_bytes, 0);
    atomic_store(&s->total_bytes, stats.bytes + 1);
    while (!stopped && file_cache_next_sound(s->cache, entry.name, &entry)) {
        struct err err;
        bool quarantined;
        enum err_code rc =
            scrub_database(s->engine, s->cache, entry.name, pace, s, r, &quarantined, &err);
        if (rc && rc != ERR_DATABASE_NOT_FOUND)
            log_warning("scrub of \"%s\": %s", entry.name, err.msg);
        databases++;
        bad += !rc && r->error_count;
        stopped = ticker_is_stopped(&s->ticker);
        /* The next round may find it at rest. */
        if (!rc && !r->complete && !stopped)
            log_warning("scrub of \"%s\": its file was changed all the while", entry.name);
    }
    mem_free(r);
    if (stopped) return false;
    atomic_store(&s->counted_bytes, stats.bytes + 1);
    stat_add(STAT_SCRUBS, 1);
    log_info("scrub completed databases=%" PRIu64 " damaged=%" PRIu64 " bytes=%" PRIu64
             " scrub_duration_s=%.1f",
             databases, bad, s->done_bytes, (double)(clock_ns() - begun) / 1e9);
    return true;
}

static void *run(void *arg)
{
    struct scrub *s = arg;
    /* Not a low priority of the processor: it takes locks that requests wait for.  The pace is what
     * leaves the processor to others. */
    file_yield(true);

    uint64_t next = clock_ns() + s->options.first_ms * 1000000;
    while (ticker_sleep_until(&s->ticker, next)) {
        next = clock_ns() + s->options.interval_ms * 1000000;
        if (!do_round(s)) break;
    }
    return NULL;
}

struct scrub *scrub_start(struct engine *engine, struct file_cache *cache,
                          const struct scrub_options *options)
{
    if (options->interval_ms == 0 || engine->dir_fd < 0) return NULL;
    struct scrub *s = mem_new(struct scrub);
    s->engine = engine;
    s->cache = cache;
    s->options = *options;
    ticker_init(&s->ticker);
    int failed = pthread_create(&s->thread, NULL, run, s);
    assert(!failed);
    (void)failed;
    return s;
}

void scrub_stop(struct scrub *s)
{
    if (!s) return;
    ticker_stop(&s->ticker);
    pthread_join(s->thread, NULL);
    ticker_deinit(&s->ticker);
    mem_free(s);
}

double scrub_progress(const struct scrub *s)
{
    if (!s) return 0;
    uint64_t total = atomic_load_explicit(&s->total_bytes, memory_order_relaxed);
    return total ? (double)atomic_load_explicit(&s->counted_bytes, memory_order_relaxed) /
                       (double)total
                 : 0;
}

/*
 * file_cache.c - names, pins, LRU.
 *
 * The table is a sorted array of entries: listings come out in order, lookups are a binary search.
 * An entry's state moves CLOSED -> OPENING -> OPEN -> CLOSING -> CLOSED; who moves it out of CLOSED
 * or OPEN does the slow part without the lock, and everybody else who wants it waits on `changed`.
 * Opening happens with room made first: a victim is picked under the lock and closed after it was
 * released.
 */
#include "storage/file_cache.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "storage/base/clock.h"
#include "storage/base/log.h"
#include "storage/base/mem.h"
#include "storage/base/metrics.h"
#include "storage/base/parallel.h"
#include "storage/catalog.h"
#include "storage/engine.h"

enum {
    WAIT_FOR_ROOM_S = 5, /* then 503 overloaded                                           */
    CLOSE_THREADS = 8,
    RELIEFS_MAX = 16,       /* databases that are closed for the sake of one opening         */
    KEPT_LOGS_MAX = 256,    /* closed databases that a crash may leave to be replayed        */
    INLINE_CHECKS_MAX = 16, /* files looked at (check_counts()) on a thread that must not wait */
    EVICTION_RING = 4096,   /* times of the last evictions, for the rate over a minute       */
};

enum entry_state { MAKING, CLOSED, OPENING, OPEN, CLOSING };

/* There may be ten thousand: about 170 bytes each, and the name. */
struct entry {
    struct file_cache *cache;
    struct database *db;
    struct entry *newer, *older; /* in the LRU, while OPEN */
    struct schema schema;        /* options owned */
    /* Counts as of the last closing. */
    uint64_t live_count, dead_count, file_bytes, last_lsn;
    uint64_t hold_until_ns; /* struct open_hints, as the three below */
    char *reason;           /* why it is quarantined; owned */
    uint8_t uuid[16];
    uint32_t pins;
    uint8_t state; /* enum entry_state */
    bool dropping;
    bool wanted; /* asked for since evict() last looked */
    bool quarantined;
    bool has_file;  /* seen by the start's scan */
    bool unchecked; /* counts are the catalog's; nobody has looked whether the file is that one */
    bool counts_known; /* so are the counts */
    bool has_log;      /* closed with records in its log */
    bool reopened;
    bool lsn_is_known;
    char name[]; /* with a zero behind it */
};

struct file_cache {
    struct engine *engine;
    size_t max_open;
    void (*index_work)(void *ctx, const char *name); /* file_cache_on_index_work() */
    void *index_work_ctx;

    struct mutex mu; /* LOCK_FILE_CACHE; guards the rest */
    pthread_cond_t changed;
    struct entry **entries; /* by name */
    size_t count, cap;
    struct entry **by_hash; /* while the start looks for each file; NULL: make it, or none */
    size_t hash_mask;
    struct entry *newest, *oldest;
    size_t open_files;
    size_t kept_logs;
    uint64_t evicted_ns[EVICTION_RING];
    size_t evictions;
};

/* ---- table ---- */

/* The first entry whose name is not less than `name`. */
static size_t lower_bound(const struct file_cache *c, const char *name)
{
    size_t low = 0, high = c->count;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (strcmp(c->entries[mid]->name, name) < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static struct entry *find(const struct file_cache *c, const char *name)
{
    size_t i = lower_bound(c, name);
    return i < c->count && strcmp(c->entries[i]->name, name) == 0 ? c->entries[i] : NULL;
}

static struct entry *insert(struct file_cache *c, const struct cache_entry *info)
{
    if (c->count == c->cap) {
        size_t cap = c->cap ? c->cap * 2 : 64;
        struct entry **grown = mem_zalloc(cap * sizeof *grown);
        if (c->count) memcpy(grown, c->entries, c->count * sizeof *grown);
        mem_free(c->entries);
        c->entries = grown;
        c->cap = cap;
    }
    size_t name_bytes = strlen(info->name) + 1;
    struct entry *e = mem_zalloc(sizeof *e + name_bytes);
    memcpy(e->name, info->name, name_bytes);
    memcpy(e->uuid, info->uuid, sizeof e->uuid);
    e->schema = info->schema;
    e->schema.options = info->schema.options ? mem_strdup(info->schema.options) : NULL;
    e->live_count = info->live_count;
    e->dead_count = info->dead_count;
    e->file_bytes = info->file_bytes;
    e->last_lsn = info->last_lsn;
    e->counts_known = info->counts_known;
    e->has_log = info->has_log;
    e->cache = c;
    e->state = CLOSED;
    size_t i = lower_bound(c, info->name);
    memmove(&c->entries[i + 1], &c->entries[i], (c->count - i) * sizeof c->entries[0]);
    c->entries[i] = e;
    c->count++;
    return e;
}

static void drop_hash(struct file_cache *c)
{
    mem_free(c->by_hash);
    c->by_hash = NULL;
}

static void remove_entry(struct file_cache *c, struct entry *e)
{
    size_t i = lower_bound(c, e->name);
    c->count--;
    memmove(&c->entries[i], &c->entries[i + 1], (c->count - i) * sizeof c->entries[0]);
    if (e->has_log) c->kept_logs--;
    drop_hash(c);
    mem_free(e->schema.options);
    mem_free(e->reason);
    mem_free(e);
}

static void quarantine_entry(struct entry *e, const char *reason)
{
    mem_free(e->reason);
    e->reason = mem_strdup(reason);
    e->quarantined = true;
}

/* ---- LRU ---- */

static void lru_remove(struct file_cache *c, struct entry *e)
{
    *(e->newer ? &e->newer->older : &c->newest) = e->older;
    *(e->older ? &e->older->newer : &c->oldest) = e->newer;
    e->newer = e->older = NULL;
}

static void lru_push(struct file_cache *c, struct entry *e)
{
    e->older = c->newest;
    e->newer = NULL;
    if (c->newest) c->newest->newer = e;
    c->newest = e;
    if (!c->oldest) c->oldest = e;
}

static void remember_counts(struct entry *e)
{
    struct database *db = e->db;
    e->live_count = atomic_load_explicit(&db->live_count, memory_order_relaxed);
    e->dead_count = atomic_load_explicit(&db->dead_count, memory_order_relaxed);
    e->file_bytes = atomic_load_explicit(&db->file_bytes, memory_order_relaxed);
    e->last_lsn = atomic_load_explicit(&db->visible_lsn, memory_order_relaxed);
    e->counts_known = true;
}

/* Close an OPEN entry without pins; the lock is released meanwhile. */
static enum err_code close_entry(struct file_cache *c, struct entry *e, bool keep_log,
                                 struct err *err)
{
    mutex_assert_held(&c->mu);
    assert(e->state == OPEN && e->pins == 0);
    struct database *db = e->db;
    e->state = CLOSING;
    lru_remove(c, e);
    remember_counts(e);
    e->hold_until_ns = atomic_load(&db->hold_until_ns);
    bool failed = atomic_load(&db->failed) == ERR_QUARANTINED;
    char db_reason[sizeof db->reason];
    snprintf(db_reason, sizeof db_reason, "%s", db->reason);
    bool has_log = false;
    mutex_unlock(&c->mu);
    enum err_code rc = c->engine->ops->close(c->engine, db, keep_log, &has_log, err);
    mutex_lock(&c->mu);
    e->db = NULL;
    e->state = CLOSED;
    e->has_log = has_log;
    if (has_log) c->kept_logs++;
    if (failed || rc == ERR_READ_ONLY) {
        /* Opened again it would forget that. */
        quarantine_entry(e, failed ? db_reason
                                   : "it could not be written to disk; restart the server");
    }
    assert(c->open_files > 0);
    c->open_files--;
    pthread_cond_broadcast(&c->changed);
    return rc;
}

/* Not one that must stay read-only until restart: opened again it would forget that. */
static struct entry *pick_victim(struct file_cache *c)
{
    for (struct entry *e = c->oldest; e; e = e->newer)
        if (e->pins == 0 && !e->dropping && atomic_load(&e->db->failed) != ERR_READ_ONLY &&
            !(e->db->wal && wal_is_broken(e->db->wal)))
            return e;
    return NULL;
}

/* Close a victim, unless somebody wants it meanwhile; the lock is released.  What takes long of a
 * closing, the checkpoint, is done while it is still open: nobody waits for that who only reads. */
static void evict(struct file_cache *c, struct entry *victim)
{
    struct err err;
    if (c->engine->ops->close_is_slow(victim->db, c->kept_logs < KEPT_LOGS_MAX)) {
        victim->pins++;
        victim->wanted = false;
        mutex_unlock(&c->mu);
        /* It is tried once: the closing that follows says what is wrong. */
        if (c->engine->ops->flush(c->engine, victim->db, &err)) (void)err;
        mutex_lock(&c->mu);
        victim->pins--;
        pthread_cond_broadcast(&c->changed);
        if (victim->pins > 0 || victim->wanted || victim->dropping) return;
    }
    stat_add(STAT_LRU_EVICTIONS, 1);
    c->evicted_ns[c->evictions++ % EVICTION_RING] = clock_ns();
    if (close_entry(c, victim, c->kept_logs < KEPT_LOGS_MAX, &err))
        log_warning("closing a database: %s; its log keeps what was acknowledged", err.msg);
}

/* Have room for one more open file.  True: there is.  The lock may have been released. */
static bool make_room(struct file_cache *c)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += WAIT_FOR_ROOM_S;
    while (c->open_files >= c->max_open) {
        struct entry *victim = pick_victim(c);
        if (victim) {
            evict(c, victim);
        } else if (pthread_cond_timedwait(&c->changed, &c->mu.os, &until) != 0) {
            return c->open_files < c->max_open;
        }
    }
    return true;
}

/* Not every open database has a descriptor: only one that wrote. */
static struct entry *pick_relief(struct file_cache *c, int os_errno)
{
    struct entry *victim = pick_victim(c);
    if (os_errno == ENOMEM) return victim; /* every one has mappings */
    for (struct entry *e = victim; e; e = e->newer)
        if (e->pins == 0 && !e->dropping && !atomic_load(&e->db->failed) && e->db->wal &&
            !wal_is_broken(e->db->wal) &&
            (wal_is_started(e->db->wal) || atomic_load(&e->db->has_writer_fd)))
            return e;
    return NULL;
}

static bool relieve_locked(struct file_cache *c, const struct err *err)
{
    static _Thread_local bool busy; /* a closing that meets the same want */
    bool wanted = err->os_errno == EMFILE || err->os_errno == ENFILE || err->os_errno == ENOMEM;
    if (!wanted || busy || !c->engine->ops->can_evict) return false;
    struct entry *victim = pick_relief(c, err->os_errno);
    if (!victim) return false;
    busy = true;
    evict(c, victim);
    busy = false;
    return true;
}

bool file_cache_relieve(struct file_cache *c, const struct err *err)
{
    mutex_lock(&c->mu);
    bool relieved = relieve_locked(c, err);
    mutex_unlock(&c->mu);
    return relieved;
}

/* ---- what a database tells (struct database_host) ---- */

static bool relieve(void *ctx, const struct err *err)
{
    struct entry *e = ctx;
    return file_cache_relieve(e->cache, err);
}

static void index_has_work(void *ctx)
{
    struct entry *e = ctx;
    if (e->cache->index_work) e->cache->index_work(e->cache->index_work_ctx, e->name);
}

static enum err_code writer_opens(void *ctx, enum patience patience, struct err *err)
{
    struct entry *e = ctx;
    struct file_cache *c = e->cache;
    mutex_lock(&c->mu);
    while (patience != PATIENCE_FORCE && c->open_files >= c->max_open) {
        if (patience == PATIENCE_NONE) {
            mutex_unlock(&c->mu);
            return err_set(err, ERR_WOULD_BLOCK, "too many open files");
        }
        struct entry *victim = pick_victim(c);
        /* All in use: to wait for each other would be a deadlock, so go over the limit. */
        if (!victim) break;
        evict(c, victim);
    }
    c->open_files++;
    mutex_unlock(&c->mu);
    return ERR_OK;
}

static void writer_closed(void *ctx)
{
    struct entry *e = ctx;
    struct file_cache *c = e->cache;
    mutex_lock(&c->mu);
    assert(c->open_files > 0);
    c->open_files--;
    pthread_cond_broadcast(&c->changed);
    mutex_unlock(&c->mu);
}

/* ---- acquire ---- */

static enum err_code not_found(const char *name, struct err *err)
{
    return err_set(err, ERR_DATABASE_NOT_FOUND, "there is no database \"%s\"", name);
}

/* Damage may have been found just now, while it is in use. */
static bool is_quarantined(const struct entry *e)
{
    return e->quarantined || (e->state == OPEN && atomic_load(&e->db->failed) == ERR_QUARANTINED);
}

static enum err_code quarantined(const struct entry *e, struct err *err)
{
    return err_set(err, ERR_QUARANTINED, "database \"%s\" is quarantined: %s", e->name,
                   e->quarantined ? e->reason : e->db->reason);
}

static void quarantine(struct entry *e, const struct err *err)
{
    quarantine_entry(e, err->msg);
    log_error("database \"%s\" is quarantined: %s", e->name, e->reason);
}

/* Open a CLOSED entry; the lock is released meanwhile.  On success it is OPEN with one pin. */
static enum err_code open_entry(struct file_cache *c, struct entry *e, struct err *err)
{
    e->state = OPENING;
    if (c->engine->ops->can_evict && !make_room(c)) {
        e->state = CLOSED;
        pthread_cond_broadcast(&c->changed);
        return err_set(err, ERR_OVERLOADED,
                       "all %zu open files are in use; try again, or raise max_open_files",
                       c->max_open);
    }
    c->open_files++;
    if (e->has_log) c->kept_logs--;
    bool had_log = e->has_log;
    e->has_log = false;
    struct open_hints hints = {e->lsn_is_known, e->reopened, e->hold_until_ns, e->last_lsn};
    mutex_unlock(&c->mu);

    struct database_host host = {.writer_opens = writer_opens,
                                 .writer_closed = writer_closed,
                                 .relieve = relieve,
                                 .index_has_work = index_has_work,
                                 .ctx = e};
    struct database *db = NULL;
    enum err_code rc =
        c->engine->ops->open(c->engine, e->name, e->uuid, &e->schema, hints, &host, &db, err);
    for (int i = 0; rc && i < RELIEFS_MAX && file_cache_relieve(c, err); i++)
        rc = c->engine->ops->open(c->engine, e->name, e->uuid, &e->schema, hints, &host, &db, err);
    mutex_lock(&c->mu);
    pthread_cond_broadcast(&c->changed);
    if (rc) {
        e->state = CLOSED;
        c->open_files--;
        e->has_log = had_log;
        if (had_log) c->kept_logs++;
        if (rc == ERR_CORRUPT || rc == ERR_QUARANTINED) {
            quarantine(e, err);
            return quarantined(e, err);
        }
        return rc;
    }
    db->owner = e;
    e->db = db;
    e->state = OPEN;
    e->unchecked = false;
    atomic_store(&db->hold_until_ns, e->hold_until_ns);
    e->hold_until_ns = 0;
    e->lsn_is_known = e->reopened = true;
    e->pins = 1;
    lru_push(c, e);
    index_has_work(e);
    return ERR_OK;
}

enum err_code file_cache_acquire(struct file_cache *c, const char *name, bool may_block,
                                 struct database **out, struct err *err)
{
    enum err_code rc = ERR_OK;
    mutex_lock(&c->mu);
    for (;;) {
        struct entry *e = find(c, name);
        if (!e || e->dropping || (e->state == MAKING && !may_block)) {
            rc = e && !e->dropping ? err_set(err, ERR_WOULD_BLOCK, "being made")
                                   : not_found(name, err);
            break;
        }
        if (is_quarantined(e)) {
            rc = quarantined(e, err);
            break;
        }
        if (e->state == OPEN) {
            stat_add(STAT_LRU_HITS, 1);
            e->pins++;
            e->wanted = true;
            if (c->newest != e) {
                lru_remove(c, e);
                lru_push(c, e);
            }
            *out = e->db;
            break;
        }
        if (!may_block) {
            rc = err_set(err, ERR_WOULD_BLOCK, "the database is not open");
            break;
        }
        if (e->state == CLOSED) {
            stat_add(STAT_LRU_MISSES, 1);
            rc = open_entry(c, e, err);
            if (!rc) *out = e->db;
            break;
        }
        mutex_wait(&c->changed, &c->mu);
    }
    mutex_unlock(&c->mu);
    return rc;
}

void file_cache_retain(struct database *db)
{
    struct entry *e = db->owner;
    mutex_lock(&e->cache->mu);
    assert(e->pins > 0);
    e->pins++;
    mutex_unlock(&e->cache->mu);
}

void file_cache_release(struct database *db)
{
    if (!db) return;
    struct entry *e = db->owner;
    struct file_cache *c = e->cache;
    mutex_lock(&c->mu);
    assert(e->pins > 0);
    if (--e->pins == 0) pthread_cond_broadcast(&c->changed);
    mutex_unlock(&c->mu);
}

/* ---- make and drop ---- */

enum err_code file_cache_add(struct file_cache *c, const struct cache_entry *entry,
                             const char *quarantine, struct err *err)
{
    enum err_code rc = ERR_OK;
    mutex_lock(&c->mu);
    if (find(c, entry->name)) {
        rc = err_set(err, ERR_DATABASE_EXISTS, "database \"%s\" exists", entry->name);
    } else {
        struct entry *e = insert(c, entry);
        e->lsn_is_known = entry->counts_known;
        e->unchecked = entry->counts_known && c->engine->ops->is_at;
        if (e->has_log) c->kept_logs++;
        if (quarantine) {
            quarantine_entry(e, quarantine);
        }
    }
    mutex_unlock(&c->mu);
    return rc;
}

enum err_code file_cache_reserve(struct file_cache *c, const struct cache_entry *entry,
                                 struct err *err)
{
    enum err_code rc = ERR_OK;
    mutex_lock(&c->mu);
    for (;;) {
        struct entry *e = find(c, entry->name);
        if (!e) {
            e = insert(c, entry);
            e->state = MAKING;
            e->lsn_is_known = true; /* none was ever given to anybody */
            break;
        }
        if (!e->dropping && e->state != MAKING) {
            rc = err_set(err, ERR_DATABASE_EXISTS, "database \"%s\" exists", entry->name);
            break;
        }
        mutex_wait(&c->changed, &c->mu);
    }
    mutex_unlock(&c->mu);
    return rc;
}

void file_cache_settle(struct file_cache *c, const char *name, bool made)
{
    mutex_lock(&c->mu);
    struct entry *e = find(c, name);
    assert(e && e->state == MAKING);
    if (made)
        e->state = CLOSED;
    else
        remove_entry(c, e);
    pthread_cond_broadcast(&c->changed);
    mutex_unlock(&c->mu);
}

enum err_code file_cache_drop(struct file_cache *c, const char *name, struct err *err)
{
    mutex_lock(&c->mu);
    struct entry *e = find(c, name);
    if (!e || e->dropping || e->state == MAKING) {
        mutex_unlock(&c->mu);
        return not_found(name, err);
    }
    e->dropping = true; /* nobody new gets it */
    if (e->db) atomic_store(&e->db->dropping, true);
    while (e->pins > 0 || e->state == OPENING || e->state == CLOSING)
        mutex_wait(&c->changed, &c->mu);
    struct database *db = e->db;
    struct err failure;
    bool failed = db && database_has_failed(db, &failure);
    if (e->state == OPEN) {
        lru_remove(c, e);
        remember_counts(e);
        e->state = CLOSING;
        e->db = NULL;
    }
    mutex_unlock(&c->mu);
    enum err_code rc = c->engine->ops->drop(c->engine, e->name, e->uuid, db, err);
    mutex_lock(&c->mu);
    if (db) c->open_files--;
    if (rc) { /* it is still there, closed */
        if (rc == ERR_QUARANTINED || failed) quarantine(e, failed ? &failure : err);
        e->dropping = false;
        e->state = CLOSED;
        if (db && !e->has_log) c->kept_logs++;
        e->has_log = e->has_log || db != NULL;
    } else {
        remove_entry(c, e);
    }
    pthread_cond_broadcast(&c->changed);
    mutex_unlock(&c->mu);
    return rc;
}

/* ---- walking ---- */

/* The first entry behind `after`. */
static size_t behind(const struct file_cache *c, const char *after)
{
    size_t i = lower_bound(c, after);
    return i < c->count && strcmp(c->entries[i]->name, after) == 0 ? i + 1 : i;
}

bool file_cache_next_open(struct file_cache *c, const char *after, struct database **out)
{
    bool found = false;
    mutex_lock(&c->mu);
    for (size_t i = behind(c, after); i < c->count && !found; i++) {
        struct entry *e = c->entries[i];
        if (e->state != OPEN || e->dropping) continue;
        e->pins++;
        *out = e->db;
        found = true;
    }
    mutex_unlock(&c->mu);
    return found;
}

static void copy_info(const struct entry *e, struct cache_entry *info)
{
    *info = (struct cache_entry){
        .schema = e->schema,
        .live_count = e->live_count,
        .dead_count = e->dead_count,
        .file_bytes = e->file_bytes,
        .last_lsn = e->last_lsn,
        .counts_known = e->counts_known,
        .has_log = e->has_log,
    };
    memcpy(info->name, e->name, strlen(e->name));
    memcpy(info->uuid, e->uuid, sizeof info->uuid);
}

/* Closed with records in its log, or never opened since an unclean stop. */
static bool may_have_log(const struct entry *e)
{
    return e->has_log || (!e->counts_known && !e->quarantined);
}

bool file_cache_next_entry(struct file_cache *c, const char *after, bool has_log_only,
                           struct cache_entry *entry)
{
    bool found = false;
    mutex_lock(&c->mu);
    for (size_t i = behind(c, after); i < c->count && !found; i++) {
        struct entry *e = c->entries[i];
        if (e->state == MAKING || e->dropping || (has_log_only && !may_have_log(e))) continue;
        copy_info(e, entry);
        found = true;
    }
    mutex_unlock(&c->mu);
    return found;
}

static size_t name_hash(const char *name)
{
    uint64_t h = 14695981039346656037ull; /* FNV-1a */
    for (; *name; name++)
        h = (h ^ (uint8_t)*name) * 1099511628211ull;
    return (size_t)(h ^ h >> 32);
}

/* A directory comes in no order: with thousands of names a binary search for each is most of what a
 * start takes. */
static void make_hash(struct file_cache *c)
{
    c->hash_mask = 15;
    while (c->hash_mask < 2 * c->count)
        c->hash_mask = 2 * c->hash_mask + 1;
    c->by_hash = mem_zalloc((c->hash_mask + 1) * sizeof *c->by_hash);
    for (size_t i = 0; i < c->count; i++) {
        size_t at = name_hash(c->entries[i]->name) & c->hash_mask;
        while (c->by_hash[at])
            at = (at + 1) & c->hash_mask;
        c->by_hash[at] = c->entries[i];
    }
}

/* For the start. */
static struct entry *find_fast(struct file_cache *c, const char *name)
{
    if (!c->by_hash) make_hash(c);
    size_t at = name_hash(name) & c->hash_mask;
    while (c->by_hash[at] && strcmp(c->by_hash[at]->name, name) != 0)
        at = (at + 1) & c->hash_mask;
    return c->by_hash[at] ? c->by_hash[at] : find(c, name); /* or adopted since */
}

bool file_cache_is_known(struct file_cache *c, const char *name)
{
    mutex_lock(&c->mu);
    bool known = find_fast(c, name) != NULL;
    mutex_unlock(&c->mu);
    return known;
}

bool file_cache_next_sound(struct file_cache *c, const char *after, struct cache_entry *entry)
{
    bool found = false;
    mutex_lock(&c->mu);
    for (size_t i = behind(c, after); i < c->count && !found; i++) {
        struct entry *e = c->entries[i];
        if (e->state == MAKING || e->dropping || is_quarantined(e)) continue;
        if (e->state == OPEN) remember_counts(e);
        copy_info(e, entry);
        found = true;
    }
    mutex_unlock(&c->mu);
    return found;
}

bool file_cache_peek(struct file_cache *c, const char *name, struct cache_entry *entry,
                     struct database **db)
{
    bool found = false;
    *db = NULL;
    mutex_lock(&c->mu);
    for (;;) {
        struct entry *e = find(c, name);
        if (!e || e->state == MAKING || e->dropping) break;
        if (e->state == OPENING || e->state == CLOSING) {
            mutex_wait(&c->changed, &c->mu);
            continue;
        }
        if (e->state == OPEN) {
            remember_counts(e);
            e->pins++;
            *db = e->db;
        }
        copy_info(e, entry);
        found = true;
        break;
    }
    mutex_unlock(&c->mu);
    return found;
}

bool file_cache_quarantine(struct file_cache *c, const char *name, const uint8_t uuid[16],
                           const char *reason)
{
    mutex_lock(&c->mu);
    struct entry *e = find(c, name);
    if (e && !e->dropping && e->state == CLOSED && !e->quarantined &&
        memcmp(e->uuid, uuid, sizeof e->uuid) == 0) {
        quarantine_entry(e, reason);
        log_error("database \"%s\" is quarantined: %s", e->name, e->reason);
    }
    bool is_quarantined = e && e->quarantined && memcmp(e->uuid, uuid, sizeof e->uuid) == 0;
    mutex_unlock(&c->mu);
    return is_quarantined;
}

void file_cache_hold_all(struct file_cache *c, uint64_t until_ns)
{
    mutex_lock(&c->mu);
    for (size_t i = 0; i < c->count; i++) {
        struct entry *e = c->entries[i];
        if (e->state == OPEN) atomic_store(&e->db->hold_until_ns, until_ns);
        e->hold_until_ns = until_ns;
    }
    mutex_unlock(&c->mu);
}

bool file_cache_has_file(struct file_cache *c, const char *name)
{
    mutex_lock(&c->mu);
    struct entry *e = find_fast(c, name);
    if (e) e->has_file = true;
    mutex_unlock(&c->mu);
    return e != NULL;
}

bool file_cache_find_uuid(struct file_cache *c, const uint8_t uuid[16],
                          char name[NAME_BYTES_MAX + 1])
{
    bool found = false;
    mutex_lock(&c->mu);
    for (size_t i = 0; i < c->count && !found; i++) {
        const struct entry *e = c->entries[i];
        found = e->has_file && memcmp(e->uuid, uuid, sizeof e->uuid) == 0;
        if (found) snprintf(name, NAME_BYTES_MAX + 1, "%s", e->name);
    }
    mutex_unlock(&c->mu);
    return found;
}

void file_cache_quarantine_missing(struct file_cache *c)
{
    drop_hash(c);
    for (size_t i = 0; i < c->count; i++) {
        struct entry *e = c->entries[i];
        if (e->has_file || e->quarantined) continue;
        char reason[NAME_BYTES_MAX + 40];
        snprintf(reason, sizeof reason, "its file %s.jvdb is missing", e->name);
        quarantine_entry(e, reason);
        log_error("database \"%s\" is quarantined: %s", e->name, e->reason);
    }
}

bool cache_walk_next(void *ctx, struct catalog_entry *entry)
{
    struct cache_walk *walk = ctx;
    while (walk->i < walk->cache->count) {
        const struct entry *info = walk->cache->entries[walk->i++];
        static const uint8_t unknown[16];
        if (memcmp(info->uuid, unknown, sizeof unknown) == 0) continue; /* never read */
        *entry = (struct catalog_entry){
            .schema = info->schema,
            .live_count = info->live_count,
            .dead_count = info->dead_count,
            .file_bytes = info->file_bytes,
            .last_lsn = info->last_lsn,
            .counts_known = info->counts_known && !info->has_log,
        };
        memcpy(entry->name, info->name, strlen(info->name));
        memcpy(entry->uuid, info->uuid, sizeof entry->uuid);
        return true;
    }
    return false;
}

/* ---- information ---- */

void database_info_deinit(struct database_info *info)
{
    mem_free(info->schema.options);
    info->schema.options = NULL;
}

void service_list_free(struct database_info *infos, size_t count)
{
    for (size_t i = 0; i < count; i++)
        database_info_deinit(&infos[i]);
    mem_free(infos);
}

/* What a compaction could give back: dead rows and the records that no live row needs. */
static uint64_t garbage_bytes(const struct entry *e)
{
    uint64_t row_bytes =
        ((uint64_t)e->schema.dimension * sizeof(float) + ROW_ALIGN - 1) / ROW_ALIGN * ROW_ALIGN;
    uint64_t bytes = e->dead_count * (row_bytes + sizeof(struct slot));
    if (e->state == OPEN)
        bytes += atomic_load_explicit(&e->db->garbage_bytes, memory_order_relaxed);
    return bytes < e->file_bytes ? bytes : e->file_bytes;
}

/* True: `info` is filled.  False: its counts are not known, it must be opened. */
static bool fill_info(struct entry *e, struct database_info *info)
{
    *info = (struct database_info){.open = e->state == OPEN, .quarantined = is_quarantined(e)};
    snprintf(info->name, sizeof info->name, "%s", e->name);
    if (info->quarantined)
        snprintf(info->reason, sizeof info->reason, "%s",
                 e->quarantined ? e->reason : e->db->reason);
    if (e->state == OPEN) {
        struct database *db = e->db;
        remember_counts(e);
        info->durable_lsn = db->wal ? wal_durable_lsn(db->wal) : e->last_lsn;
        info->wal_bytes = db->wal ? wal_bytes(db->wal) : 0;
        info->last_flush_at_ms = atomic_load(&db->last_flush_at_ms);
        info->last_flush_ms = (double)atomic_load(&db->last_flush_ns) / 1e6;
        database_index_info(db, &info->index);
        info->filter_bytes = database_filter_bytes(db);
    } else if (!e->counts_known && !e->quarantined) {
        return false;
    } else {
        info->durable_lsn = e->last_lsn;
    }
    info->schema = e->schema;
    info->schema.options = e->schema.options ? mem_strdup(e->schema.options) : NULL;
    info->vector_count = e->live_count;
    info->deleted_count = e->dead_count;
    info->file_bytes = e->file_bytes;
    info->last_lsn = e->last_lsn;
    info->live_bytes = info->file_bytes - garbage_bytes(e);
    return true;
}

/* The catalog may be older than the file, put back by hand or by a write that was lost: then its
 * counts are not those of the file, which must be opened to know.  The lock is released meanwhile.
 */
static void check_counts(struct file_cache *c, struct entry *e)
{
    char name[NAME_BYTES_MAX + 1];
    uint8_t uuid[16];
    uint64_t lsn = e->last_lsn;
    snprintf(name, sizeof name, "%s", e->name);
    memcpy(uuid, e->uuid, sizeof uuid);
    mutex_unlock(&c->mu);
    bool good = c->engine->ops->is_at(c->engine, name, uuid, lsn);
    mutex_lock(&c->mu);
    e = find(c, name);
    if (!e || !e->unchecked || memcmp(e->uuid, uuid, sizeof uuid) != 0) return;
    e->unchecked = false;
    if (good) return;
    log_warning("database \"%s\": the catalog does not know its last state", name);
    e->counts_known = false;
    e->lsn_is_known = false;
}

enum err_code file_cache_info(struct file_cache *c, const char *name, bool may_block,
                              struct database_info *info, struct err *err)
{
    for (int attempt = 0; attempt < 8; attempt++) {
        mutex_lock(&c->mu);
        struct entry *e = find(c, name);
        bool exists = e && !e->dropping && e->state != MAKING;
        bool checking = exists && e->unchecked && e->state == CLOSED && !e->quarantined;
        if (checking) check_counts(c, e);
        bool filled = exists && !checking && fill_info(e, info);
        mutex_unlock(&c->mu);
        if (!exists) return not_found(name, err);
        if (filled) return ERR_OK;
        if (checking) continue;

        struct database *db;
        enum err_code rc = file_cache_acquire(c, name, may_block, &db, err);
        if (rc == ERR_QUARANTINED) continue; /* and say so */
        if (rc) return rc;
        file_cache_release(db);
    }
    return err_set(err, ERR_OVERLOADED, "database \"%s\" is closed again and again", name);
}

/* In a list, a database that cannot be opened now keeps nobody from hearing of the others. */
static bool fill_unknown(struct file_cache *c, const char *name, const struct err *why,
                         struct database_info *info)
{
    mutex_lock(&c->mu);
    struct entry *e = find(c, name);
    if (e) {
        *info = (struct database_info){.schema = e->schema, .counts_unknown = true};
        info->schema.options = e->schema.options ? mem_strdup(e->schema.options) : NULL;
        snprintf(info->name, sizeof info->name, "%s", e->name);
        snprintf(info->reason, sizeof info->reason, "%s", why->msg);
    }
    mutex_unlock(&c->mu);
    return e != NULL;
}

enum err_code file_cache_list(struct file_cache *c, const char *after, const char *prefix,
                              size_t limit, bool may_block, struct database_info **infos,
                              size_t *count, size_t *total, bool *more, struct err *err)
{
    size_t prefix_bytes = prefix ? strlen(prefix) : 0, cap = 0;
    char(*names)[NAME_BYTES_MAX + 1] = NULL;
    struct database_info *list = NULL;
    enum err_code rc = ERR_OK;
    *infos = NULL;
    *count = *total = 0;
    *more = false;

    /* Names first: filling one may open a database, which cannot be done under the lock. */
    mutex_lock(&c->mu);
    size_t first = prefix_bytes ? lower_bound(c, prefix) : 0, wanted = 0, unchecked = 0;
    names = mem_try((c->count + 1) * sizeof *names);
    for (size_t i = first; i < c->count && names; i++) {
        struct entry *e = c->entries[i];
        if (strncmp(e->name, prefix ? prefix : "", prefix_bytes) != 0) break;
        if (e->state == MAKING || e->dropping) continue;
        ++*total;
        if (after && strcmp(e->name, after) <= 0) continue;
        if (wanted == limit) {
            *more = true;
            continue;
        }
        memcpy(names[wanted++], e->name, strlen(e->name) + 1);
        unchecked += e->unchecked;
    }
    mutex_unlock(&c->mu);
    if (!may_block && unchecked > INLINE_CHECKS_MAX) {
        rc = err_set(err, ERR_WOULD_BLOCK, "many files must be looked at");
        goto out;
    }
    list = mem_try((wanted + 1) * sizeof *list);
    if (!names || !list) {
        rc = err_set(err, ERR_NOMEM, "out of memory for a list of databases");
        goto out;
    }
    for (size_t i = 0; i < wanted; i++) {
        rc = file_cache_info(c, names[i], may_block, &list[cap], err);
        if (rc == ERR_DATABASE_NOT_FOUND) { /* dropped meanwhile */
            rc = ERR_OK;
            continue;
        }
        if (rc == ERR_WOULD_BLOCK || rc == ERR_WOULD_COMPUTE) goto out;
        bool listed = !rc || fill_unknown(c, names[i], err, &list[cap]);
        rc = ERR_OK;
        cap += listed;
    }
    *infos = list;
    *count = cap;
    list = NULL;
out:
    if (list) service_list_free(list, cap);
    mem_free(names);
    return rc;
}

void file_cache_stats(struct file_cache *c, struct service_stats *stats)
{
    mutex_lock(&c->mu);
    for (size_t i = 0; i < c->count; i++) {
        struct entry *e = c->entries[i];
        if (e->state == MAKING || e->dropping) continue;
        if (e->state == OPEN) {
            struct vector_index_info index;
            remember_counts(e);
            if (e->db->wal) stats->wal_bytes += wal_bytes(e->db->wal);
            database_index_info(e->db, &index);
            stats->index_pending += index.pending_count;
            stats->index_bytes += index.memory_bytes;
            stats->filter_bytes += database_filter_bytes(e->db);
        }
        stats->databases++;
        stats->quarantined += is_quarantined(e);
        stats->vectors += e->live_count;
        stats->bytes += e->file_bytes;
    }
    stats->open_files = c->engine->ops->can_evict ? c->open_files : 0;
    stats->max_open_files = c->max_open;
    size_t kept = c->evictions < EVICTION_RING ? c->evictions : EVICTION_RING;
    uint64_t now = clock_ns(), minute = 60ull * 1000 * 1000 * 1000;
    size_t recent = 0;
    for (size_t i = 0; i < kept; i++)
        recent += now - c->evicted_ns[i] < minute;
    stats->lru_evictions_per_minute = (double)recent;
    mutex_unlock(&c->mu);
    stats->lru_hits = stat_get(STAT_LRU_HITS);
    stats->lru_misses = stat_get(STAT_LRU_MISSES);
    stats->lru_evictions = stat_get(STAT_LRU_EVICTIONS);
}

size_t file_cache_recall_estimates(struct file_cache *c, struct recall_estimate *list, size_t max)
{
    size_t count = 0;
    mutex_lock(&c->mu);
    for (size_t i = 0; i < c->count && count < max; i++) {
        struct entry *e = c->entries[i];
        if (e->state != OPEN || e->dropping) continue;
        struct vector_index_info index;
        database_index_info(e->db, &index);
        if (index.recall_samples == 0) continue;
        snprintf(list[count].name, sizeof list[count].name, "%s", e->name);
        list[count++].recall = index.recall_estimate;
    }
    mutex_unlock(&c->mu);
    return count;
}

void file_cache_on_index_work(struct file_cache *c, void (*fn)(void *ctx, const char *name),
                              void *ctx)
{
    mutex_lock(&c->mu);
    c->index_work = fn;
    c->index_work_ctx = ctx;
    mutex_unlock(&c->mu);
}

/* ---- life ---- */

struct file_cache *file_cache_new(struct engine *engine, size_t max_open)
{
    struct file_cache *c = mem_new(struct file_cache);
    c->engine = engine;
    c->max_open = max_open;
    mutex_init(&c->mu, LOCK_FILE_CACHE);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&c->changed, &attr);
    pthread_condattr_destroy(&attr);
    return c;
}

struct closing {
    struct file_cache *cache;
    enum err_code rc; /* first failure; guarded by cache->mu */
    struct err err;
};

static void close_some(void *ctx)
{
    struct closing *closing = ctx;
    struct file_cache *c = closing->cache;
    mutex_lock(&c->mu);
    while (c->oldest) {
        struct err err;
        struct entry *e = c->oldest;
        enum err_code rc = close_entry(c, e, false, &err);
        if (rc) log_warning("closing database \"%s\": %s", e->name, err.msg);
        if (rc && !closing->rc) {
            closing->rc = rc;
            closing->err = err;
        }
    }
    mutex_unlock(&c->mu);
}

enum err_code file_cache_close_all(struct file_cache *c, struct err *err)
{
    struct closing closing = {.cache = c};
    parallel_run(CLOSE_THREADS, close_some, &closing);
    if (closing.rc) *err = closing.err;
    return closing.rc;
}

void file_cache_free(struct file_cache *c)
{
    if (!c) return;
    while (c->count)
        remove_entry(c, c->entries[c->count - 1]);
    drop_hash(c);
    mem_free(c->entries);
    pthread_cond_destroy(&c->changed);
    mutex_deinit(&c->mu);
    mem_free(c);
}

/*
 * engine_persistent.c - databases in files: a directory, its catalog, and what a start finds there.
 *
 * CREATE makes the log, then the file under another name, renames it, syncs the directory, and
 * last notes it in the catalog: a crash before that leaves a file that the next start adopts, which
 * is the same empty database.  DROP notes a tombstone first, then unlinks: a crash in between
 * leaves files whose uuid is known to be dead, which the next start removes.
 * Once they are gone the tombstone is forgotten, so that a backup of it can be put back.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "storage/base/file.h"
#include "storage/base/log.h"
#include "storage/base/mem.h"
#include "storage/catalog.h"
#include "storage/checkpoint.h"
#include "storage/compact.h"
#include "storage/engine.h"
#include "storage/index/index_file.h"
#include "storage/manifest.h"
#include "storage/reserve.h"
#include "storage/syncer.h"

enum {
    SYNCER_THREADS = 2,
    KEPT_LOG_BYTES_MAX = 1 << 20, /* a longer log is checkpointed when its database is closed */
};

/* Dropped databases whose files may still be there. */
struct tombstones {
    struct mutex mu; /* LOCK_LEAF */
    struct catalog_entry *entries;
    size_t count, cap;
};

struct persistent {
    struct engine engine;
    int dir_fd;
    struct catalog *catalog;
    struct syncer *syncer;
    struct reserve *reserve; /* NULL: read_only */
    bool read_only;          /* the directory cannot be written */
    uint64_t wal_bytes_max;
    struct tombstones dead;
};

static struct persistent *self(struct engine *e)
{
    return (struct persistent *)e;
}

/* ---- start ---- */

struct loading {
    struct persistent *p;
    struct file_cache *cache;
};

/* A copy under another name is somebody's backup. */
static bool is_dead(const struct tombstones *t, const char *name, const uint8_t uuid[16])
{
    for (size_t i = 0; i < t->count; i++)
        if (memcmp(t->entries[i].uuid, uuid, 16) == 0 && strcmp(t->entries[i].name, name) == 0)
            return true;
    return false;
}

static void bury(struct tombstones *t, const char *name, const uint8_t uuid[16])
{
    mutex_lock(&t->mu);
    if (t->count == t->cap) {
        t->cap = t->cap ? t->cap * 2 : 16;
        struct catalog_entry *grown = mem_zalloc(t->cap * sizeof *grown);
        if (t->count) memcpy(grown, t->entries, t->count * sizeof *grown);
        mem_free(t->entries);
        t->entries = grown;
    }
    struct catalog_entry *e = &t->entries[t->count++];
    *e = (struct catalog_entry){.dropped = true};
    memcpy(e->name, name, strlen(name));
    memcpy(e->uuid, uuid, sizeof e->uuid);
    mutex_unlock(&t->mu);
}

static void unbury(struct tombstones *t, const uint8_t uuid[16])
{
    mutex_lock(&t->mu);
    for (size_t i = 0; i < t->count; i++)
        if (memcmp(t->entries[i].uuid, uuid, 16) == 0) t->entries[i--] = t->entries[--t->count];
    mutex_unlock(&t->mu);
}

static void take_entry(void *ctx, const struct catalog_entry *ce)
{
    struct loading *l = ctx;
    if (ce->dropped) {
        bury(&l->p->dead, ce->name, ce->uuid);
        return;
    }
    struct cache_entry e = {
        .schema = ce->schema,
        .live_count = ce->live_count,
        .dead_count = ce->dead_count,
        .file_bytes = ce->file_bytes,
        .last_lsn = ce->last_lsn,
        .counts_known = ce->counts_known,
    };
    memcpy(e.name, ce->name, sizeof e.name);
    memcpy(e.uuid, ce->uuid, sizeof e.uuid);
    struct err err;
    if (database_name_check(e.name, strlen(e.name), &err) ||
        file_cache_add(l->cache, &e, NULL, &err))
        log_warning("catalog: %s", err.msg);
}

static enum err_code remove_files(struct persistent *p, const char *name, struct err *err)
{
    static const char *const suffixes[] = {".jvdb", ".ckpt", ".new"};
    for (size_t i = 0; i < sizeof suffixes / sizeof suffixes[0]; i++) {
        char file_name[200];
        snprintf(file_name, sizeof file_name, "%s%s", name, suffixes[i]);
        int os_errno = file_unlink(p->dir_fd, file_name);
        if (os_errno) return err_os(err, os_errno, "remove %s", file_name);
    }
    enum err_code rc = wal_remove(p->dir_fd, name, err);
    if (rc) return rc;
    int os_errno = file_sync(p->dir_fd);
    return os_errno ? err_os(err, os_errno, "sync the storage directory") : ERR_OK;
}

/* It is dropped already, as far as the next start is concerned: a failure only leaves that to it.
 */
static void finish_drop(struct persistent *p, const char *name, const uint8_t uuid[16])
{
    struct err err;
    if (remove_files(p, name, &err) || catalog_forget(p->catalog, name, uuid, &err))
        log_warning("dropping \"%s\" is left to the next start: %s", name, err.msg);
    else
        unbury(&p->dead, uuid);
}

/* A copy of a database that is here, too, gets a uuid of its own. */
static enum err_code tell_apart(struct loading *l, const char *name, int fd,
                                struct disk_superblock *sb, struct err *err)
{
    char original[NAME_BYTES_MAX + 1];
    uint8_t uuid[16];
    if (!file_cache_find_uuid(l->cache, sb->uuid, original)) return ERR_OK;
    if (getrandom(uuid, sizeof uuid, 0) != sizeof uuid)
        return err_os(err, errno, "get random numbers");
    enum err_code rc = database_stamp_copy(l->p->dir_fd, name, fd, sb, uuid, err);
    if (!rc) log_info("%s.jvdb is a copy of \"%s\": it has a uuid of its own now", name, original);
    return rc;
}

/* A .jvdb that the catalog does not know: copied in by hand, or its creation was interrupted. */
static void adopt(struct loading *l, const char *name)
{
    struct persistent *p = l->p;
    struct cache_entry e = {0};
    struct manifest m = {0};
    struct disk_superblock sb;
    struct err err;
    char file_name[200];
    int fd = -1;
    bool alike;
    snprintf(e.name, sizeof e.name, "%s", name);
    snprintf(file_name, sizeof file_name, "%s.jvdb", name);
    int os_errno = file_open(p->dir_fd, file_name, p->read_only ? O_RDONLY : O_RDWR, &fd);
    enum err_code rc = os_errno ? err_os(&err, os_errno, "open %s", file_name)
                                : superblock_read(fd, file_name, &sb, &alike, &err);
    if (!rc) rc = manifest_peek(fd, file_name, &sb, &m, &err);
    if (!rc && !p->read_only && !is_dead(&p->dead, name, sb.uuid))
        rc = tell_apart(l, name, fd, &sb, &err);
    file_close(fd);
    if (!rc && p->read_only)
        rc = err_set(&err, ERR_QUARANTINED,
                     "the catalog does not know %s, and the storage directory cannot be written",
                     file_name);
    if (!rc && is_dead(&p->dead, name, sb.uuid)) {
        log_info("removing %s: the stop interrupted the drop of its database", file_name);
        finish_drop(p, name, sb.uuid);
        goto out;
    }
    if (!rc) {
        memcpy(e.uuid, sb.uuid, sizeof e.uuid);
        e.schema = m.schema;
        struct catalog_entry ce = {.schema = m.schema};
        memcpy(ce.name, e.name, sizeof ce.name);
        memcpy(ce.uuid, e.uuid, sizeof ce.uuid);
        rc = database_adopt_files(p->dir_fd, name, sb.uuid, sb.lsn, &err);
        if (!rc) rc = catalog_add(p->catalog, &ce, &err);
        if (!rc) log_info("adopted %s", file_name);
    }
    if (rc) log_error("database \"%s\" is quarantined: %s", name, err.msg);
    struct err ignored;
    if (file_cache_add(l->cache, &e, rc ? err.msg : NULL, &ignored)) log_warning("%s", ignored.msg);
out:
    manifest_deinit(&m);
}

/* `NAME.new` of a known database: of a compaction that did not come to its end. */
static bool remove_leftover(struct loading *l, const char *file_name, size_t len)
{
    char name[NAME_BYTES_MAX + 1];
    if (len <= 4 || len - 4 > NAME_BYTES_MAX || strcmp(file_name + len - 4, ".new") != 0)
        return false;
    memcpy(name, file_name, len - 4);
    name[len - 4] = '\0';
    if (!file_cache_is_known(l->cache, name)) return false;
    int os_errno = compact_remove_leftover(l->p->dir_fd, name);
    if (os_errno) log_warning("cannot remove %s: %s", file_name, strerror(os_errno));
    return true;
}

/* Names of .jvdb files that the catalog does not know. */
struct strays {
    struct stray {
        char name[NAME_BYTES_MAX + 1];
        bool has_log;
    } * all;
    size_t count, cap;
};

static void stray_add(struct strays *s, const struct loading *l, const char *name)
{
    if (s->count == s->cap) {
        s->cap = s->cap ? s->cap * 2 : 16;
        struct stray *grown = mem_zalloc(s->cap * sizeof *grown);
        if (s->count) memcpy(grown, s->all, s->count * sizeof *grown);
        mem_free(s->all);
        s->all = grown;
    }
    struct stray *one = &s->all[s->count++];
    snprintf(one->name, sizeof one->name, "%s", name);
    one->has_log = wal_exists(l->p->dir_fd, name);
}

/* Of two files with one uuid the one with a log is the original. */
static int by_log_and_name(const void *a, const void *b)
{
    const struct stray *x = a, *y = b;
    if (x->has_log != y->has_log) return x->has_log ? -1 : 1;
    return strcmp(x->name, y->name);
}

static enum err_code scan_directory(struct loading *l, bool was_lost, struct err *err)
{
    int fd = dup(l->p->dir_fd);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    if (!dir) {
        int os_errno = errno;
        if (fd >= 0) close(fd);
        return err_os(err, os_errno, "list the storage directory");
    }
    struct strays strays = {0};
    rewinddir(dir);
    for (struct dirent *d; (d = readdir(dir));) {
        char name[NAME_BYTES_MAX + 1];
        size_t len = strlen(d->d_name);
        if (remove_leftover(l, d->d_name, len)) continue;
        if (len <= 5 || strcmp(d->d_name + len - 5, ".jvdb") != 0) continue;
        struct err bad;
        if (database_name_check(d->d_name, len - 5, &bad)) {
            log_warning("ignoring %s: %s", d->d_name, bad.msg);
            continue;
        }
        memcpy(name, d->d_name, len - 5);
        name[len - 5] = '\0';
        if (!file_cache_has_file(l->cache, name)) stray_add(&strays, l, name);
    }
    closedir(dir);
    /* When all known ones are found: one of those may be the original of a copy. */
    if (strays.count) qsort(strays.all, strays.count, sizeof strays.all[0], by_log_and_name);
    for (size_t i = 0; i < strays.count; i++) {
        adopt(l, strays.all[i].name);
        file_cache_has_file(l->cache, strays.all[i].name);
    }
    if (was_lost && strays.count)
        log_warning("the catalog was lost: it is made anew from the files that are here; a "
                    "database whose file is missing is not known any more");
    mem_free(strays.all);
    file_cache_quarantine_missing(l->cache);
    return ERR_OK;
}

/* Every database and every tombstone, for catalog_rewrite(). */
struct all_entries {
    struct cache_walk databases;
    const struct tombstones *dead;
    size_t i;
};

static bool next_entry(void *ctx, struct catalog_entry *entry)
{
    struct all_entries *all = ctx;
    /* Tombstones first: a name that was made anew is the last of its records. */
    if (all->i < all->dead->count) {
        *entry = all->dead->entries[all->i++];
        return true;
    }
    return cache_walk_next(&all->databases, entry);
}

static enum err_code rewrite(struct persistent *p, struct file_cache *cache, bool clean,
                             struct err *err)
{
    struct all_entries all = {.databases = {.cache = cache}, .dead = &p->dead};
    enum err_code rc = catalog_rewrite(p->catalog, next_entry, &all, clean, err);
    if (rc && reserve_use(p->reserve, err)) {
        all = (struct all_entries){.databases = {.cache = cache}, .dead = &p->dead};
        rc = catalog_rewrite(p->catalog, next_entry, &all, clean, err);
        reserve_done(p->reserve);
    }
    return rc;
}

static enum err_code load(struct engine *e, struct file_cache *cache, struct err *err)
{
    struct persistent *p = self(e);
    struct loading l = {.p = p, .cache = cache};
    bool was_clean = false, was_lost = false;
    enum err_code rc =
        catalog_open(p->dir_fd, take_entry, &l, &p->catalog, &was_clean, &was_lost, err);
    /* From here the counts on disk are old: a catalog in use says so. */
    if (!rc && !p->read_only) {
        bool rewrites = catalog_is_worn(p->catalog);
        if (rewrites) rc = rewrite(p, cache, false, err);
        if (rewrites ? rc == ERR_STORAGE_FULL : !rc)
            rc = catalog_mark_in_use(p->catalog, was_clean, err);
    }
    if (!rc) rc = scan_directory(&l, was_lost, err);
    return rc;
}

/* ---- databases ---- */

static enum err_code check_writable(const struct persistent *p, struct err *err)
{
    return p->read_only ? err_set(err, ERR_READ_ONLY, "the storage directory cannot be written")
                        : ERR_OK;
}

static enum err_code create(struct engine *e, const char *name, const uint8_t uuid[16],
                            const struct schema *schema, struct err *err)
{
    struct persistent *p = self(e);
    enum err_code rc = check_writable(p, err);
    if (!rc) rc = reserve_check(p->reserve, err);
    if (!rc) rc = database_create_files(p->dir_fd, name, uuid, schema, err);
    if (rc) return rc;
    struct catalog_entry ce = {.schema = *schema};
    memcpy(ce.name, name, strlen(name));
    memcpy(ce.uuid, uuid, sizeof ce.uuid);
    rc = catalog_add(p->catalog, &ce, err);
    struct err ignored;
    if (rc && remove_files(p, name, &ignored))
        log_warning("cannot clean up after creating \"%s\" failed: %s", name, ignored.msg);
    return rc;
}

static enum err_code open_database(struct engine *e, const char *name, const uint8_t uuid[16],
                                   const struct schema *schema, struct open_hints hints,
                                   const struct database_host *host, struct database **out,
                                   struct err *err)
{
    (void)schema;
    struct persistent *p = self(e);
    struct database_open_options options = {
        .syncer = p->syncer,
        .reserve = p->reserve,
        .read_only = p->read_only,
        .reopened = hints.reopened,
        .skip_lsns = !hints.lsn_is_known,
        .lsn_min = hints.lsn_min,
        .wal_bytes_max = p->wal_bytes_max,
    };
    return database_open(p->dir_fd, name, uuid, &options, host, out, err);
}

static bool is_at(struct engine *e, const char *name, const uint8_t uuid[16], uint64_t lsn)
{
    char file_name[200];
    struct disk_superblock sb;
    struct err ignored;
    int fd = -1;
    bool alike;
    snprintf(file_name, sizeof file_name, "%s.jvdb", name);
    if (file_open(self(e)->dir_fd, file_name, O_RDONLY, &fd)) return false;
    bool good = superblock_read(fd, file_name, &sb, &alike, &ignored) == ERR_OK && sb.lsn == lsn &&
                memcmp(sb.uuid, uuid, sizeof sb.uuid) == 0;
    file_close(fd);
    return good;
}

static bool wants_checkpoint(struct database *db, bool keep_log)
{
    bool is_long = wal_bytes(db->wal) > KEPT_LOG_BYTES_MAX && !database_is_held(db);
    return !keep_log || is_long || wal_segments(db->wal) >= WAL_SEGMENTS_MANY ||
           (index_file_is_due(db) && !database_is_held(db));
}

static bool close_is_slow(struct database *db, bool keep_log)
{
    struct err ignored;
    return checkpoint_is_due(db) && database_check_writable(db, &ignored) == ERR_OK &&
           wants_checkpoint(db, keep_log);
}

static enum err_code close_database(struct engine *e, struct database *db, bool keep_log,
                                    bool *has_log, struct err *err)
{
    if (self(e)->read_only) {
        *has_log = false;
        database_free(db);
        return ERR_OK;
    }
    enum err_code rc = ERR_OK;
    /* What is quarantined stays as it is, and was reported.  Each opening that writes adds a
     * segment. */
    bool damaged = atomic_load(&db->failed) == ERR_QUARANTINED;
    if (!damaged && wants_checkpoint(db, keep_log))
        rc = keep_log ? checkpoint_run(db, err) : checkpoint_close(db, err);
    *has_log = database_is_dirty(db);
    /* No clean stop: its log may hold what was not acknowledged. */
    if (!rc && !damaged && database_has_failed(db, err)) rc = err->code;
    /* What periodic durability has not synced yet must not hang on a closed log. */
    struct err ignored;
    if (*has_log && !wal_is_broken(db->wal) && wal_sync(db->wal, rc ? &ignored : err) && !rc)
        rc = err->code;
    database_free(db);
    return rc;
}

static enum err_code drop(struct engine *e, const char *name, const uint8_t uuid[16],
                          struct database *db, struct err *err)
{
    struct persistent *p = self(e);
    bool was_broken = catalog_is_broken(p->catalog);
    database_free(db);
    enum err_code rc = check_writable(p, err);
    if (rc) return rc;
    rc = catalog_drop(p->catalog, name, uuid, err);
    if (rc && reserve_use(p->reserve, err)) {
        rc = catalog_drop(p->catalog, name, uuid, err);
        reserve_done(p->reserve);
    }
    /* A write to it could be lost with it. */
    if (rc && !was_broken && catalog_is_broken(p->catalog))
        return err_set(err, ERR_QUARANTINED,
                       "only a restart of the server can tell whether it is dropped: the catalog "
                       "could not be synced");
    if (rc) return rc;
    bury(&p->dead, name, uuid);
    finish_drop(p, name, uuid);
    return ERR_OK;
}

static enum err_code flush(struct engine *e, struct database *db, struct err *err)
{
    (void)e;
    return checkpoint_run(db, err);
}

static void tend(struct engine *e)
{
    reserve_restore(self(e)->reserve);
}

static enum err_code stop(struct engine *e, struct file_cache *cache, bool clean, struct err *err)
{
    struct persistent *p = self(e);
    enum err_code rc = ERR_OK;
    if (p->catalog && clean && !p->read_only) rc = rewrite(p, cache, true, err);
    catalog_close(p->catalog);
    syncer_stop(p->syncer);
    reserve_close(p->reserve);
    if (p->dir_fd >= 0) close(p->dir_fd);
    mutex_deinit(&p->dead.mu);
    mem_free(p->dead.entries);
    mem_free(p);
    return rc;
}

enum err_code engine_persistent_new(const struct service_options *options, struct engine **out,
                                    struct err *err)
{
    static const struct engine_ops ops = {
        .name = "persistent",
        .can_evict = true,
        .load = load,
        .create = create,
        .open = open_database,
        .is_at = is_at,
        .close = close_database,
        .close_is_slow = close_is_slow,
        .drop = drop,
        .flush = flush,
        .tend = tend,
        .stop = stop,
    };
    /* The path itself may be a symbolic link; nothing below it is followed (file_open()). */
    int dir_fd = open(options->storage_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir_fd < 0)
        return err_os(err, errno, "open the storage directory %s", options->storage_path);
    struct persistent *p = mem_new(struct persistent);
    p->engine.ops = &ops;
    mutex_init(&p->dead.mu, LOCK_LEAF);
    p->engine.dir_fd = p->dir_fd = dir_fd;
    p->wal_bytes_max = options->wal_bytes_max;
    p->syncer = syncer_start(SYNCER_THREADS);
    const char *distant = file_distant_system(dir_fd);
    if (distant)
        log_warning("the storage directory %s is on a %s file system: a lock or a sync may promise "
                    "less than on a local disk",
                    options->storage_path, distant);
    p->read_only = faccessat(dir_fd, ".", W_OK, AT_EACCESS) != 0;
    if (p->read_only)
        log_warning("the storage directory %s cannot be written (%s): reads only",
                    options->storage_path, strerror(errno));
    else
        p->reserve = reserve_open(dir_fd);
    *out = &p->engine;
    return ERR_OK;
}

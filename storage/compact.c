/*
 * compact.c - copy, catch up, take over.
 *
 *   1  COPY.  Fix LSN C; from here every slot that a writer touches is noted, and no slot that ends
 *      is used again.  Copy the rows that live at C, in the order of their slots, a batch at a
 *      time, into `<name>.new`.
 *   2  CATCH UP.  Bring over the touched slots, and those touched meanwhile, until few are left.
 *   3  TAKE OVER.  Writers pause, the log is synced; with the checkpoint lock and the writer lock:
 *      the last few; finish the file with the LSN of now; rename it over the old one, sync the
 *      directory; switch to a new log segment; publish the new store.  The log before it is not
 *      needed any more: its records are not newer than the file.
 *
 * Between the last two the graph of the search index is carried over (index_file_carry.c), under
 * LOCK_INDEX, which is held until the old store is replaced: what comes in meanwhile is pending.
 *
 * The copy is built by the code of ordinary writes, in a database struct of its own that nobody
 * else sees.  A row is the same row if id and version are: that is how catching up knows what it
 * has.
 */
#include "storage/compact.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "storage/base/clock.h"
#include "storage/base/epoch.h"
#include "storage/base/log.h"
#include "storage/base/mem.h"
#include "storage/base/metrics.h"
#include "storage/checkpoint.h"
#include "storage/index/index_file.h"
#include "storage/records.h"

enum {
    BATCH_ROWS = 256,
    FEW = 512,       /* touched slots that may wait for the last step                 */
    ROUNDS_MAX = 30, /* of catching up; then writers wait for however many there are  */
    SPILL_MIB = 64,  /* changed memory of the copy, before it is written to its file  */
};

struct compaction {
    struct database *db;
    struct database *copy; /* nobody else's */
    const struct compact_options *options;
    struct touched touched; /* filled by writers, under the writer lock */
    struct row_op ops[BATCH_ROWS];
    uint32_t from[BATCH_ROWS]; /* their slots in the old store */
    size_t count;
    /* The slot of the copy that has the row of an old slot; NULL: out of memory for it. */
    uint32_t *moved;
    uint32_t moved_count;
    uint64_t slice_begun;
    uint64_t unspilled; /* bytes that went into mutable regions since the last spill, about */
};

static void new_name(const char *name, char text[200])
{
    snprintf(text, 200, "%s.new", name);
}

int compact_remove_leftover(int dir_fd, const char *name)
{
    char file_name[200];
    new_name(name, file_name);
    return file_unlink(dir_fd, file_name);
}

/* ---- the copy ---- */

static enum err_code copy_begin(struct compaction *c, struct err *err)
{
    struct database *db = c->db;
    const struct jvdb_file *old = &db->store->file;
    char file_name[200];
    new_name(db->name, file_name);
    c->copy = database_new(db->name, &db->schema, db->dir_fd, &(struct database_host){0});
    struct jvdb_file *f = &c->copy->store->file;
    enum err_code rc =
        jvdb_file_init(f, db->dir_fd, file_name, old->uuid, db->schema.dimension, err);
    c->copy->store->row_bytes = db->store->row_bytes;
    if (rc || db->dir_fd < 0) return rc;

    int os_errno = file_open(db->dir_fd, file_name, O_RDWR | O_CREAT | O_TRUNC, &f->fd);
    if (!os_errno) os_errno = file_allocate(f->fd, 0, HEADER_BYTES);
    if (os_errno) return err_os(err, os_errno, "make %s", file_name);
    space_give(&f->space, SUPERBLOCK_COUNT * BLOCK_BYTES,
               HEADER_BYTES - SUPERBLOCK_COUNT * BLOCK_BYTES);
    return jvdb_file_map(f, err);
}

/* The row of `from` is in slot `to` of the copy now, or nowhere (INDEX_NO_SLOT). */
static void note_moved(struct compaction *c, uint32_t from, uint32_t to)
{
    if (!c->moved) return;
    if (from >= c->moved_count) {
        uint64_t count = (uint64_t)from + from / 8 + BATCH_ROWS;
        uint32_t *grown = mem_resize(c->moved, count * sizeof *grown);
        if (!grown) {
            mem_free(c->moved);
            c->moved = NULL;
            return;
        }
        for (uint64_t i = c->moved_count; i < count; i++)
            grown[i] = INDEX_NO_SLOT;
        c->moved = grown;
        c->moved_count = (uint32_t)(count < UINT32_MAX ? count : UINT32_MAX);
    }
    c->moved[from] = to;
}

/* Write the batch into the copy. */
static enum err_code copy_batch(struct compaction *c, struct err *err)
{
    struct database *copy = c->copy;
    uint64_t slots = copy->store->counts.slot_count, records = copy->store->counts.records_bytes;
    if (c->count == 0) return ERR_OK;
    for (size_t i = 0; i < c->count; i++) {
        struct disk_wal_op *op = &c->ops[i].head;
        op->slot = (uint32_t)slots++;
        if (!op->text_bytes && !op->metadata_bytes) continue;
        op->record_at = records + 1;
        records += records_size(op->text_bytes, op->metadata_bytes);
    }
    enum err_code rc = database_reserve(copy, slots, records, c->count, err);
    if (!rc) rc = database_write_rows(copy, c->ops, c->count, err);
    for (size_t i = 0; i < c->count && !rc; i++)
        rc = database_apply(copy, c->ops[i].lsn, &c->ops[i], err);
    for (size_t i = 0; i < c->count && !rc; i++)
        note_moved(c, c->from[i], c->ops[i].head.slot);
    c->unspilled += c->count * (sizeof(struct slot) + 2 * sizeof(struct index_entry));
    c->count = 0;
    return rc;
}

/* Not in an epoch section: it takes its time. */
static enum err_code spill(struct compaction *c, struct err *err)
{
    if (c->copy->dir_fd < 0 || c->unspilled < (uint64_t)SPILL_MIB << 20) return ERR_OK;
    c->unspilled = 0;
    return checkpoint_write_new(c->copy, err);
}

/* Add a row of the old store to the batch, which has room. */
static enum err_code add_row(struct compaction *c, struct reader *r, uint32_t slot_number,
                             const struct slot *s, struct err *err)
{
    struct row row;
    enum err_code rc = slot_row(r, slot_number, s, &row, err);
    if (rc) return rc;
    struct row_op *op = &c->ops[c->count];
    c->from[c->count] = slot_number;
    *op = (struct row_op){
        .head = {.kind = WAL_OP_PUT,
                 .key = s->key,
                 .expires_at_ms = s->expires_at_ms,
                 .text_bytes = s->text_bytes,
                 .row_crc = s->row_crc},
        .text = row.id.text,
        .metadata = row.metadata,
        .vector = row.vector,
        .lsn = row.version,
    };
    if (s->record_at) op->head.metadata_bytes = row.metadata_bytes;
    /* A row without metadata reads as "{}", which is not stored. */
    if (row.metadata_bytes == 2) op->head.metadata_bytes = 0;
    c->count++;
    return ERR_OK;
}

static enum err_code check_cancelled(const struct compaction *c, struct err *err)
{
    if (c->options->cancel && atomic_load_explicit(c->options->cancel, memory_order_relaxed))
        return err_set(err, ERR_SHUTTING_DOWN, "the compaction of \"%s\" was interrupted",
                       c->db->name);
    if (atomic_load_explicit(&c->db->dropping, memory_order_relaxed))
        return err_set(err, ERR_DATABASE_NOT_FOUND, "database \"%s\" was dropped", c->db->name);
    return database_check_writable(c->db, err);
}

/* Half of the time for others: a lower priority would also hold up those who wait for the last
 * step. */
static void rest(const struct compaction *c, uint64_t begun)
{
    if (!c->options->gently) return;
    uint64_t ns = clock_ns() - begun;
    nanosleep(
        &(struct timespec){.tv_sec = (time_t)(ns / 1000000000), .tv_nsec = (long)(ns % 1000000000)},
        NULL);
}

/* Step 1: what lives at `lsn`, a batch to a section, so that readers' garbage can be freed. */
static enum err_code copy_rows(struct compaction *c, uint64_t lsn, uint32_t slot_count,
                               struct err *err)
{
    enum err_code rc = ERR_OK;
    for (uint32_t next = 0; next < slot_count && !rc;) {
        uint64_t begun = clock_ns();
        rc = check_cancelled(c, err);
        struct reader r;
        reader_begin(c->db, &r);
        for (; next < slot_count && c->count < BATCH_ROWS && !rc; next++) {
            const struct slot *s = jvdb_file_read(&r.store->file, REGION_SLOTS, next);
            if (!s)
                rc = database_damaged(c->db, "a slot", err);
            else if (slot_is_visible(s, lsn, 0)) /* expired rows are still rows */
                rc = add_row(c, &r, next, s, err);
        }
        if (!rc) rc = copy_batch(c, err);
        reader_end(&r);
        if (!rc) rc = spill(c, err);
        rest(c, begun);
    }
    return rc;
}

/* ---- catching up ---- */

/* The slot of the copy that holds the row with this id and version and lives; *found false: none.
 */
static enum err_code find_copied(struct compaction *c, const struct index_key *key,
                                 uint64_t version, uint32_t *slot, bool *found, struct err *err)
{
    struct store *st = c->copy->store;
    enum index_result in_index = id_index_find(&st->index, key, slot);
    if (in_index == INDEX_DAMAGED) return database_damaged(c->copy, "the id index", err);
    *found = false;
    if (in_index == INDEX_MISSING) return ERR_OK;
    const struct slot *s = jvdb_file_read(&st->file, REGION_SLOTS, *slot);
    if (!s) return database_damaged(c->copy, "a slot", err);
    *found = s->birth == version && s->death == SLOT_NEVER;
    return ERR_OK;
}

/* Bring one touched slot over, as of the reader's snapshot. */
static enum err_code catch_up_slot(struct compaction *c, struct reader *r, uint32_t number,
                                   struct err *err)
{
    const struct slot *s = jvdb_file_read(&r->store->file, REGION_SLOTS, number);
    if (!s) return database_damaged(c->db, "a slot", err);
    uint64_t death = __atomic_load_n(&s->death, __ATOMIC_ACQUIRE);
    uint64_t birth = __atomic_load_n(&s->birth, __ATOMIC_ACQUIRE);
    if (birth > r->lsn) return ERR_OK; /* a later round's */

    char copy[ID_BYTES_MAX];
    struct index_key key = {.key = s->key, .text_bytes = s->text_bytes};
    if (s->text_bytes) {
        key.text = records_text(&r->store->file, s->record_at, s->text_bytes, copy);
        if (!key.text) return database_damaged(c->db, "a record", err);
    }
    uint32_t copied;
    bool found;
    enum err_code rc = find_copied(c, &key, birth, &copied, &found, err);
    if (rc) return rc;
    bool lives = death > r->lsn;
    if (lives == found) return ERR_OK;
    if (lives) {
        rc = add_row(c, r, number, s, err);
        return rc ? rc : copy_batch(c, err);
    }
    note_moved(c, number, INDEX_NO_SLOT);
    struct row_op end = {.head = {.kind = WAL_OP_DELETE, .slot = copied}};
    return database_apply(c->copy, death, &end, err);
}

/* Bring `touched` over; the reader's snapshot is not older than any of it. */
static enum err_code catch_up(struct compaction *c, struct reader *r, const struct touched *touched,
                              struct err *err)
{
    enum err_code rc = ERR_OK;
    for (size_t i = 0; i < touched->count && !rc; i++)
        rc = catch_up_slot(c, r, touched->slots[i], err);
    return rc;
}

static enum err_code out_of_memory(const struct compaction *c, struct err *err)
{
    return err_set(err, ERR_NOMEM, "out of memory for the compaction of \"%s\"", c->db->name);
}

/* Step 2, once.  True in *few: the rest can wait for the last step. */
static enum err_code catch_up_round(struct compaction *c, bool *few, struct err *err)
{
    struct database *db = c->db;
    struct touched round;
    enum err_code rc = check_cancelled(c, err);
    if (rc) return rc;
    mutex_lock(&db->writer);
    round = c->touched;
    *few = round.count <= FEW;
    if (!*few) c->touched = (struct touched){0};
    mutex_unlock(&db->writer);
    if (round.lost) return out_of_memory(c, err);
    if (*few) return ERR_OK;

    /* In slices: a section must not hold back the world for long. */
    for (size_t at = 0; at < round.count && !rc; at += BATCH_ROWS) {
        size_t left = round.count - at;
        struct touched slice = {.slots = round.slots + at,
                                .count = left < BATCH_ROWS ? left : BATCH_ROWS};
        struct reader r;
        rc = check_cancelled(c, err);
        if (rc) break;
        reader_begin(db, &r);
        rc = catch_up(c, &r, &slice, err);
        reader_end(&r);
        if (!rc) rc = spill(c, err);
    }
    mem_free(round.slots);
    return rc;
}

static enum err_code catch_up_all(struct compaction *c, struct err *err)
{
    enum err_code rc = ERR_OK;
    bool few = false;
    for (int i = 0; i < ROUNDS_MAX && !few && !rc; i++)
        rc = catch_up_round(c, &few, err);
    return rc;
}

/* ---- the search index ---- */

static bool may_go_on(void *ctx)
{
    struct err ignored;
    return check_cancelled(ctx, &ignored) == ERR_OK;
}

static bool may_sweep_on(void *ctx)
{
    struct compaction *c = ctx;
    rest(c, c->slice_begun);
    c->slice_begun = clock_ns();
    return may_go_on(c);
}

static enum err_code sweep_index(struct compaction *c, struct err *err)
{
    struct err why;
    c->slice_begun = clock_ns();
    if (index_file_sweep(c->db, may_sweep_on, c, &why)) return check_cancelled(c, err);
    return catch_up_all(c, err);
}

/* With LOCK_INDEX of the store that is replaced.  It takes its time: catch up once more. */
static enum err_code carry_index(struct compaction *c, struct err *err)
{
    enum err_code rc = ERR_OK;
    struct err why;
    if (c->moved)
        rc = index_file_carry(c->db, c->copy->store, c->moved, c->moved_count, may_go_on, c, &why);
    if (rc) {
        enum err_code cancelled = check_cancelled(c, err);
        if (cancelled) return cancelled;
        if (rc == ERR_CORRUPT) return err_set(err, rc, "%s", why.msg);
        log_info("database \"%s\": its search index is built anew: %s", c->db->name, why.msg);
    }
    return catch_up_all(c, err);
}

/* ---- taking over ---- */

/* The file gets its name. */
static enum err_code rename_copy(struct compaction *c, bool *renamed, struct err *err)
{
    struct database *db = c->db;
    struct jvdb_file *f = &c->copy->store->file;
    const char *final = db->store->file.file_name;
    int os_errno = file_rename(db->dir_fd, f->file_name, final);
    if (os_errno) return err_os(err, os_errno, "rename %s to %s", f->file_name, final);
    *renamed = true;
    snprintf(f->file_name, sizeof f->file_name, "%s", final);
    os_errno = file_sync(db->dir_fd);
    if (!os_errno) return ERR_OK;
    /* Which file the name means after a power cut is not known; both hold all that was
     * acknowledged, with the log.  But one of them only with this log. */
    log_error("database \"%s\" is read-only until restart: syncing the directory failed: %s",
              db->name, strerror(os_errno));
    int expected = ERR_OK;
    atomic_compare_exchange_strong(&db->failed, &expected, ERR_READ_ONLY);
    return err_set(err, ERR_READ_ONLY,
                   "database \"%s\" is read-only until restart: syncing the directory failed",
                   db->name);
}

/* Step 3, under the writer lock (and, for files, the checkpoint lock). */
static enum err_code take_over(struct compaction *c, struct err *err)
{
    struct database *db = c->db;
    struct store *old = db->store, *st = c->copy->store;
    uint64_t lsn = db->last_lsn;
    bool renamed = false;
    enum err_code rc = check_cancelled(c, err);
    if (!rc && c->touched.lost) rc = out_of_memory(c, err);
    if (rc) return rc;
    struct reader r;
    reader_begin(db, &r);
    rc = catch_up(c, &r, &c->touched, err);
    reader_end(&r);
    /* Zeros that were copied as rows would fail their checksums, but the rows would be gone. */
    rc = database_check_read(db, &old->file, rc, err);
    if (rc) return rc;

    st->counts.next_id = old->counts.next_id;
    if (db->wal) {
        rc = checkpoint_finish_new(c->copy, old->file.generation + 1, lsn, err);
        rc = database_check_read(db, &st->file, rc, err);
        if (!rc) rc = rename_copy(c, &renamed, err);
        /* The segments before this one can go: nothing in them is newer than the file. */
        if (!rc) rc = wal_switch(db->wal, err);
        if (rc && renamed && rc != ERR_READ_ONLY) {
            int expected = ERR_OK;
            atomic_compare_exchange_strong(&db->failed, &expected, ERR_READ_ONLY);
        }
        if (rc) return rc;
        file_close(old->file.fd);
        old->file.fd = -1;
    }
    c->copy->store = NULL;
    db->reuse_lsn = lsn;
    db->reuse_next.lsn = 0;
    database_publish_store(db, lsn, st);
    atomic_store_explicit(&db->checkpoint_lsn, lsn, memory_order_release);
    return ERR_OK;
}

static void set_paused(struct database *db, bool paused)
{
    mutex_lock(&db->writer);
    db->paused = paused;
    if (!paused) pthread_cond_broadcast(&db->resumed);
    mutex_unlock(&db->writer);
}

/* With LOCK_INDEX of the store that is replaced. */
static enum err_code lock_and_take_over(struct compaction *c, struct err *err)
{
    struct database *db = c->db;
    if (!db->wal) {
        mutex_lock(&db->writer);
        enum err_code rc = take_over(c, err);
        db->touched = NULL;
        mutex_unlock(&db->writer);
        return rc;
    }
    /* The bulk of the new file goes to the disk before anybody has to wait for it. */
    enum err_code rc = checkpoint_write_new(c->copy, err);
    if (rc) return rc;
    int os_errno = file_datasync(c->copy->store->file.fd);
    if (os_errno) return err_os(err, os_errno, "sync %s", c->copy->store->file.file_name);
    rc = checkpoint_lock(db, err);
    if (rc) return rc;
    rc = wal_prepare(db->wal, err);
    if (!rc) rc = wal_sync(db->wal, err);
    if (!rc) {
        /* What ended is not in the copy: it must be durable that it did, or nobody could go back
         * to what was acknowledged.  A sync that fails wants the writer lock. */
        set_paused(db, true);
        rc = wal_sync(db->wal, err);
        mutex_lock(&db->writer);
        if (!rc) rc = take_over(c, err);
        db->touched = NULL;
        mutex_unlock(&db->writer);
        set_paused(db, false);
    }
    /* The header of the new segment comes to the disk before the old ones go: a power cut in
     * between must not leave the file without a log. */
    if (!rc) rc = wal_sync(db->wal, err);
    if (!rc) wal_drop_old(db->wal);
    mutex_unlock(&db->checkpoint_mu);
    return rc;
}

enum err_code compact_run(struct database *db, const struct compact_options *options,
                          struct compact_result *result, struct err *err)
{
    uint64_t begun = clock_ns();
    struct compaction *c = mem_new(struct compaction);
    c->db = db;
    c->options = options;
    mutex_lock(&db->compact_mu);
    result->bytes_before = atomic_load(&db->file_bytes);
    enum err_code rc = check_cancelled(c, err);
    if (!rc) rc = reserve_check(db->reserve, err);
    if (!rc) rc = copy_begin(c, err);
    if (rc) goto out;

    mutex_lock(&db->writer);
    db->touched = &c->touched;
    uint64_t lsn = db->last_lsn;
    uint32_t slot_count = db->store->counts.slot_count;
    mutex_unlock(&db->writer);
    c->moved = mem_try(1);
    rc = copy_rows(c, lsn, slot_count, err);
    if (!rc) rc = catch_up_all(c, err);
    if (!rc) rc = sweep_index(c, err);
    if (!rc) {
        struct store *old = db->store;
        mutex_lock(vector_index_mutex(old->vectors));
        rc = carry_index(c, err);
        if (!rc) rc = lock_and_take_over(c, err);
        mutex_unlock(vector_index_mutex(old->vectors));
        if (db->store != old) store_retire(old);
    }
    if (!rc) {
        result->bytes_after = atomic_load(&db->file_bytes);
        result->rows = atomic_load(&db->live_count);
        stat_add(STAT_COMPACTIONS, 1);
        log_info("compacted database \"%s\": %" PRIu64 " rows, %" PRIu64
                 " bytes instead of %" PRIu64 ", in %.1f ms",
                 db->name, result->rows, result->bytes_after, result->bytes_before,
                 (double)(clock_ns() - begun) / 1e6);
    }
out:
    mutex_lock(&db->writer);
    db->touched = NULL;
    mutex_unlock(&db->writer);
    if (c->copy && c->copy->store && db->dir_fd >= 0 &&
        compact_remove_leftover(db->dir_fd, db->name) != 0)
        log_warning("cannot remove %s.new", db->name);
    mutex_unlock(&db->compact_mu);
    database_free(c->copy);
    mem_free(c->touched.slots);
    mem_free(c->moved);
    mem_free(c);
    epoch_collect();
    return rc;
}

uint64_t compact_waste_of_rows(const struct schema *schema, uint64_t dead_count)
{
    return dead_count * (sizeof(struct slot) + sizeof(struct index_entry) +
                         (uint64_t)schema->dimension * sizeof(float));
}

uint64_t compact_waste(struct database *db)
{
    uint64_t dead = atomic_load_explicit(&db->dead_count, memory_order_relaxed);
    return compact_waste_of_rows(&db->schema, dead) +
           atomic_load_explicit(&db->garbage_bytes, memory_order_relaxed);
}

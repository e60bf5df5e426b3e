/*
 * database.c - the write path: log, store, publish.
 *
 * A WRITE, under `writer`:
 *   1. choose slots and the places of records, and reserve room for them: the last step that a full
 *      disk can refuse, and nothing has happened yet;
 *   2. write the rows into their fresh slots of the file, where no reader looks;
 *   3. append one record with all of it to the log: from here it will survive a crash;
 *   4. apply: slots, index, deaths of what was replaced, all with an LSN that no reader uses yet;
 *   5. publish that LSN: readers that begin now see all of it, earlier ones nothing.
 *
 * THE LOG IS BOUNDED.  Beyond wal_bytes_max, where the flusher begins a checkpoint, each write is
 * slowed a little, the more the longer the log is; at twice that writes wait for the checkpoint.
 *
 * SLOTS are taken from the chain of dead ones, oldest first, if the death is part of a finished
 * checkpoint, every reader that could still see the row has left, and the search index has removed
 * all links to it; else a new one is added.
 *
 * SO IS WHAT IS NOT LINKED in the search index yet: puts wait a little while there is too much of
 * it.
 */
#include "storage/database.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "storage/base/clock.h"
#include "storage/base/crc32c.h"
#include "storage/base/epoch.h"
#include "storage/base/log.h"
#include "storage/base/mem.h"
#include "storage/base/metrics.h"
#include "storage/checkpoint.h"
#include "storage/database_private.h"
#include "storage/filter/columns.h"
#include "storage/filter/filter_cache.h"
#include "storage/records.h"
#include "storage/visibility.h"

/* See id_index.c for why these are acquire and release. */
#define SET(field, value) __atomic_store_n(&(field), (value), __ATOMIC_RELEASE)

const struct schema *database_schema(const struct database *db)
{
    return &db->schema;
}

const char *database_name(const struct database *db)
{
    return db->name;
}

struct store *store_new(const struct schema *schema)
{
    struct store *store = mem_new(struct store);
    store->index.file = &store->file;
    store->file.fd = store->file.dir_fd = -1;
    store->counts.next_id = 1;
    store->vectors = vector_index_new(schema);
    store->visibility = visibility_new();
    store->columns = columns_new();
    store->filters = filter_cache_new();
    return store;
}

void store_free(struct store *store)
{
    if (!store) return;
    vector_index_free(store->vectors);
    filter_cache_free(store->filters);
    columns_free(store->columns);
    visibility_free(store->visibility);
    jvdb_file_deinit(&store->file);
    mem_free(store);
}

static void free_retired(void *store)
{
    store_free(store);
}

void store_retire(struct store *store)
{
    epoch_retire(free_retired, store);
}

struct database *database_new(const char *name, const struct schema *schema, int dir_fd,
                              const struct database_host *host)
{
    struct database *db = mem_new(struct database);
    snprintf(db->name, sizeof db->name, "%s", name);
    db->schema = *schema;
    db->schema.options = schema->options ? mem_strdup(schema->options) : NULL;
    db->dir_fd = dir_fd;
    db->host = *host;
    db->kernels = kernel_best();
    mutex_init(&db->compact_mu, LOCK_COMPACT);
    mutex_init(&db->checkpoint_mu, LOCK_CHECKPOINT);
    mutex_init(&db->writer, LOCK_DATABASE);
    pthread_cond_init(&db->resumed, NULL);
    atomic_init(&db->store, store_new(&db->schema));
    return db;
}

void database_free(struct database *db)
{
    if (!db) return;
    wal_close(db->wal);
    if (atomic_load(&db->has_writer_fd) && db->host.writer_closed)
        db->host.writer_closed(db->host.ctx);
    store_free(db->store);
    mutex_deinit(&db->compact_mu);
    mutex_deinit(&db->checkpoint_mu);
    pthread_cond_destroy(&db->resumed);
    mutex_deinit(&db->writer);
    mem_free(db->schema.options);
    mem_free(db);
}

void database_quarantine(struct database *db, const struct err *err)
{
    if (atomic_load(&db->failed) != ERR_OK || atomic_exchange(&db->reason_taken, true)) return;
    /* It will stand behind the name of the database: not twice. */
    char own[NAME_BYTES_MAX + 16];
    int len = snprintf(own, sizeof own, "database \"%s\": ", db->name);
    bool named = strncmp(err->msg, own, (size_t)len) == 0;
    snprintf(db->reason, sizeof db->reason, "%s", err->msg + (named ? len : 0));
    int expected = ERR_OK;
    /* Pairs with database_check_readable(). */
    if (atomic_compare_exchange_strong(&db->failed, &expected, ERR_QUARANTINED))
        log_error("database \"%s\" is quarantined: %s", db->name, db->reason);
}

enum err_code database_damaged(struct database *db, const char *what, struct err *err)
{
    err_set(err, ERR_CORRUPT, "database \"%s\": %s is damaged", db->name, what);
    database_quarantine(db, err);
    return ERR_CORRUPT;
}

enum err_code database_check_read(struct database *db, struct jvdb_file *file, enum err_code rc,
                                  struct err *err)
{
    if (!jvdb_file_is_lost(file)) return rc;
    err_set(err, ERR_CORRUPT,
            "database \"%s\": a part of its file cannot be read; it was cut short, or the disk "
            "fails",
            db->name);
    database_quarantine(db, err);
    return ERR_CORRUPT;
}

enum err_code database_check_readable(struct database *db, struct err *err)
{
    if (atomic_load_explicit(&db->failed, memory_order_acquire) != ERR_QUARANTINED) return ERR_OK;
    return err_set(err, ERR_QUARANTINED, "database \"%s\" is quarantined: %s", db->name,
                   db->reason);
}

bool database_has_failed(struct database *db, struct err *err)
{
    if (database_check_readable(db, err)) return true;
    bool broken = atomic_load_explicit(&db->failed, memory_order_acquire) == ERR_READ_ONLY ||
                  (db->wal && wal_is_broken(db->wal));
    if (!broken) return false;
    err_set(err, ERR_READ_ONLY,
            "database \"%s\" is read-only until restart: writing it to disk failed", db->name);
    return true;
}

enum err_code database_check_writable(struct database *db, struct err *err)
{
    if (database_has_failed(db, err)) return err->code;
    if (!db->read_only) return ERR_OK;
    return err_set(err, ERR_READ_ONLY,
                   "database \"%s\" is read-only: the storage directory cannot be written",
                   db->name);
}

bool database_is_dirty(struct database *db)
{
    return atomic_load_explicit(&db->visible_lsn, memory_order_acquire) >
           atomic_load_explicit(&db->checkpoint_lsn, memory_order_acquire);
}

uint64_t database_dirty_bytes(struct database *db)
{
    if (!db->wal || !database_is_dirty(db)) return 0;
    uint64_t blocks = atomic_load_explicit(&db->store->file.dirty_blocks, memory_order_relaxed);
    return wal_bytes(db->wal) + 2 * blocks * BLOCK_BYTES;
}

void database_index_info(struct database *db, struct vector_index_info *info)
{
    epoch_enter();
    vector_index_info(atomic_load_explicit(&db->store, memory_order_acquire)->vectors, info);
    epoch_leave();
    if (info->state == INDEX_STATE_NONE)
        info->indexed_count = atomic_load_explicit(&db->live_count, memory_order_relaxed);
}

uint64_t database_filter_bytes(struct database *db)
{
    struct columns_info info;
    epoch_enter();
    const struct store *store = atomic_load_explicit(&db->store, memory_order_acquire);
    columns_info(store->columns, &info);
    uint64_t bytes =
        info.bytes + visibility_memory(store->visibility) + filter_cache_bytes(store->filters);
    epoch_leave();
    return bytes;
}

bool database_is_held(struct database *db)
{
    return db->wal && clock_ns() < atomic_load(&db->hold_until_ns) &&
           wal_bytes(db->wal) <= db->wal_bytes_max;
}

/* ---- the descriptor for writing ---- */

bool database_relieve(struct database *db, int attempt, const struct err *err)
{
    enum { ATTEMPTS_MAX = 16 };
    return attempt < ATTEMPTS_MAX && db->host.relieve && db->host.relieve(db->host.ctx, err);
}

static enum err_code writer_ready(struct database *db, enum patience patience, struct err *err)
{
    if (db->dir_fd < 0) return ERR_OK;
    enum err_code rc = ERR_OK;
    if (!wal_is_started(db->wal)) {
        if (patience == PATIENCE_NONE)
            return err_set(err, ERR_WOULD_BLOCK, "the log is not started");
        /* Starts that end in kills add up, too. */
        if (patience == PATIENCE_WAIT && wal_segments(db->wal) >= WAL_SEGMENTS_MANY)
            rc = checkpoint_run(db, err);
        if (rc) return rc;
        mutex_lock(&db->checkpoint_mu);
        if (!wal_is_started(db->wal)) {
            rc = wal_prepare(db->wal, err);
            mutex_lock(&db->writer);
            if (!rc) rc = wal_switch(db->wal, err);
            mutex_unlock(&db->writer);
        }
        mutex_unlock(&db->checkpoint_mu);
        if (rc) return rc;
    }
    if (atomic_load_explicit(&db->has_writer_fd, memory_order_acquire)) return ERR_OK;

    rc = db->host.writer_opens ? db->host.writer_opens(db->host.ctx, patience, err) : ERR_OK;
    if (rc) return rc;
    mutex_lock(&db->writer);
    bool already = atomic_load(&db->has_writer_fd);
    if (!already) {
        rc = jvdb_file_writable(&db->store->file, err);
        if (!rc) {
            atomic_store(&db->has_writer_fd, true);
            atomic_store(&db->last_write_ns, clock_ns());
        }
    }
    mutex_unlock(&db->writer);
    if ((already || rc) && db->host.writer_closed) db->host.writer_closed(db->host.ctx);
    return rc;
}

enum err_code database_writer_ready(struct database *db, enum patience patience, struct err *err)
{
    enum err_code rc = writer_ready(db, patience, err);
    if (rc == ERR_OVERLOADED && patience == PATIENCE_NONE)
        return err_set(err, ERR_WOULD_BLOCK, "too few descriptors");
    for (int i = 0; rc && database_relieve(db, i, err); i++)
        rc = writer_ready(db, patience, err);
    return rc;
}

void database_close_idle_writer(struct database *db, uint64_t idle_ns)
{
    if (!atomic_load_explicit(&db->has_writer_fd, memory_order_acquire) || db->dir_fd < 0) return;
    if (clock_ns() - atomic_load(&db->last_write_ns) < idle_ns) return;

    /* The same descriptor from the first write to the sync: a fresh one can miss an error. */
    mutex_lock(&db->checkpoint_mu); /* a checkpoint uses it too */
    mutex_lock(&db->writer);
    uint64_t writes = db->store->file.write_count;
    int fd = db->store->file.fd;
    mutex_unlock(&db->writer);
    int os_errno = fd >= 0 ? file_datasync(fd) : 0;

    mutex_lock(&db->writer);
    bool closed = false;
    if (os_errno) {
        log_error("database \"%s\" is read-only until restart: syncing %s failed: %s", db->name,
                  db->store->file.file_name, strerror(os_errno));
        int expected = ERR_OK; /* damage is worse, and stays */
        atomic_compare_exchange_strong(&db->failed, &expected, ERR_READ_ONLY);
        atomic_store(&db->store->file.sync_failed, true);
    } else if (fd >= 0 && db->store->file.write_count == writes) {
        file_close(fd);
        db->store->file.fd = -1;
        atomic_store(&db->has_writer_fd, false);
        closed = true;
    }
    mutex_unlock(&db->writer);
    mutex_unlock(&db->checkpoint_mu);
    if (closed && db->host.writer_closed) db->host.writer_closed(db->host.ctx);
}

/* ---- room ---- */

enum err_code database_reserve(struct database *db, uint64_t slots, uint64_t records_bytes,
                               uint64_t keys, struct err *err)
{
    if (slots > UINT32_MAX - 1)
        return err_set(err, ERR_STORAGE_FULL, "database \"%s\" has all the rows it can hold",
                       db->name);
    enum err_code rc = jvdb_file_grow(&db->store->file, REGION_VECTORS, slots, err);
    if (!rc) rc = jvdb_file_grow(&db->store->file, REGION_SLOTS, slots, err);
    if (!rc) rc = jvdb_file_grow(&db->store->file, REGION_RECORDS, records_bytes, err);
    if (!rc)
        rc = jvdb_file_grow(&db->store->file, REGION_ID_INDEX,
                            id_index_nodes_needed(&db->store->index, keys), err);
    return rc;
}

/* Without another extent, which takes space from the file system and clears it. */
static bool has_room(struct database *db, uint64_t slots, uint64_t records_bytes, uint64_t keys)
{
    const struct jvdb_file *f = &db->store->file;
    const uint64_t wanted[REGION_COUNT] = {
        [REGION_VECTORS] = slots,
        [REGION_SLOTS] = slots,
        [REGION_RECORDS] = records_bytes,
        [REGION_ID_INDEX] = id_index_nodes_needed(&db->store->index, keys),
    };
    for (int r = 0; r < REGION_COUNT; r++) {
        uint32_t extents = atomic_load_explicit(&f->extent_count[r], memory_order_relaxed);
        if (region_capacity(&f->shapes[r], extents) < wanted[r]) return false;
    }
    return true;
}

uint32_t database_row_crc(const struct database *db, const struct disk_wal_op *op,
                          const float *vector)
{
    uint32_t crc = crc32c(0, &op->key, sizeof op->key);
    crc = crc32c(crc, &op->text_bytes, sizeof op->text_bytes);
    return crc32c(crc, vector, (size_t)db->schema.dimension * sizeof(float));
}

enum err_code database_write_rows(struct database *db, const struct row_op *ops, size_t count,
                                  struct err *err)
{
    static const char zeros[ROW_ALIGN];
    enum { RUN_MAX = 256 };
    struct iovec iov[2 * RUN_MAX];
    uint64_t vector_bytes = (uint64_t)db->schema.dimension * sizeof(float);
    uint64_t padding = db->store->row_bytes - vector_bytes;

    for (size_t i = 0; i < count;) {
        if (ops[i].head.kind != WAL_OP_PUT) {
            i++;
            continue;
        }
        /* Rows of neighbouring slots go out in one call. */
        uint32_t first = ops[i].head.slot;
        uint64_t room = region_run(&db->store->file.shapes[REGION_VECTORS], first);
        uint32_t rows = 0;
        int parts = 0;
        for (; i < count && rows < room && rows < RUN_MAX; i++, rows++) {
            if (ops[i].head.kind != WAL_OP_PUT || ops[i].head.slot != first + rows) break;
            iov[parts++] = (struct iovec){(void *)(uintptr_t)ops[i].vector, vector_bytes};
            if (padding) iov[parts++] = (struct iovec){(void *)(uintptr_t)zeros, padding};
        }
        enum err_code rc =
            jvdb_file_write(&db->store->file, REGION_VECTORS, first, iov, parts, err);
        if (rc) return rc;
    }
    for (size_t i = 0; i < count; i++) {
        const struct disk_wal_op *op = &ops[i].head;
        if (op->kind != WAL_OP_PUT || !op->record_at) continue;
        enum err_code rc = records_write(&db->store->file, op->record_at, ops[i].lsn, ops[i].text,
                                         op->text_bytes, ops[i].metadata, op->metadata_bytes, err);
        if (rc) return rc;
    }
    return ERR_OK;
}

/* ---- apply ---- */

static struct slot *slot_change(struct database *db, uint32_t number)
{
    return jvdb_file_change(&db->store->file, REGION_SLOTS, number);
}

static void touch(struct database *db, uint32_t slot)
{
    struct touched *t = db->touched;
    if (!t || t->lost) return;
    if (t->count == t->cap) {
        size_t cap = t->cap ? t->cap * 2 : 1024;
        uint32_t *grown = mem_try(cap * sizeof *grown);
        if (!grown) {
            t->lost = true;
            return;
        }
        if (t->count) memcpy(grown, t->slots, t->count * sizeof *grown);
        mem_free(t->slots);
        t->slots = grown;
        t->cap = cap;
    }
    t->slots[t->count++] = slot;
}

/* The row of a slot ends at `lsn`; the slot joins the chain of those to be used again. */
static enum err_code end_row(struct database *db, uint32_t number, uint64_t lsn, struct err *err)
{
    struct disk_counts *c = &db->store->counts;
    struct slot *s = slot_change(db, number);
    if (!s) return database_damaged(db, "a slot", err);
    touch(db, number);
    SET(s->death, lsn);
    vector_index_end(db->store->vectors, number);
    visibility_death(db->store->visibility, number, lsn);
    s->next_dead = 0;
    if (c->dead_last) {
        struct slot *last = slot_change(db, c->dead_last - 1);
        if (!last) return database_damaged(db, "a slot", err);
        last->next_dead = number + 1;
    } else {
        c->dead_first = number + 1;
    }
    c->dead_last = number + 1;
    c->dead_count++;
    c->live_count--;
    if (s->record_at) {
        struct disk_record head = {0};
        const struct disk_record *stored =
            jvdb_file_read(&db->store->file, REGION_RECORDS, s->record_at - 1);
        /* Only an estimate for statistics: a head that straddles extents is left out. */
        if (stored &&
            region_run(&db->store->file.shapes[REGION_RECORDS], s->record_at - 1) >= sizeof head) {
            memcpy(&head, stored, sizeof head);
            c->garbage_bytes += records_size(head.text_bytes, head.metadata_bytes);
        }
    }
    return ERR_OK;
}

static struct index_key slot_key(struct database *db, const struct slot *s, char copy[ID_BYTES_MAX])
{
    struct index_key key = {.key = s->key};
    if (s->text_bytes) {
        key.text = records_text(&db->store->file, s->record_at, s->text_bytes, copy);
        key.text_bytes = key.text ? s->text_bytes : 0;
    }
    return key;
}

/* Take slot `number`: the head of the dead, or one behind the last. */
static enum err_code take_slot(struct database *db, uint32_t number, struct err *err)
{
    struct disk_counts *c = &db->store->counts;
    if (number == c->slot_count) {
        c->slot_count++;
        return ERR_OK;
    }
    struct slot *s = slot_change(db, number);
    if (!s || c->dead_first != number + 1)
        return database_damaged(db, "the chain of free slots", err);
    c->dead_first = s->next_dead;
    if (!c->dead_first) c->dead_last = 0;
    c->dead_count--;

    char copy[ID_BYTES_MAX];
    struct index_key key = slot_key(db, s, copy);
    if (s->text_bytes && !key.text) return database_damaged(db, "a record", err);
    if (id_index_remove(&db->store->index, &key, number) == INDEX_DAMAGED)
        return database_damaged(db, "the id index", err);
    SET(s->birth, SLOT_NEVER); /* before anything else changes: readers look at death, then birth */
    return ERR_OK;
}

static enum err_code apply_put(struct database *db, uint64_t lsn, struct row_op *op,
                               struct err *err)
{
    const struct disk_wal_op *h = &op->head;
    enum err_code rc = take_slot(db, h->slot, err);
    if (rc) return rc;
    struct slot *s = slot_change(db, h->slot);
    if (!s) return database_damaged(db, "a slot", err);

    uint32_t old = 0;
    struct index_key key = {.key = h->key, .text = op->text, .text_bytes = h->text_bytes};
    enum index_result found = id_index_find(&db->store->index, &key, &old);
    if (found == INDEX_DAMAGED) return database_damaged(db, "the id index", err);
    const struct slot *replaced = NULL;
    if (found == INDEX_FOUND) {
        replaced = jvdb_file_read(&db->store->file, REGION_SLOTS, old);
        if (!replaced) return database_damaged(db, "a slot", err);
    }
    SET(s->birth, SLOT_NEVER);
    SET(s->generation, s->generation + 1);
    s->key = h->key;
    s->expires_at_ms = h->expires_at_ms;
    s->record_at = h->record_at;
    s->text_bytes = h->text_bytes;
    SET(s->replaced, replaced ? old + 1 : 0);
    SET(s->replaced_generation, replaced ? replaced->generation : 0);
    s->next_dead = 0;
    s->row_crc = h->row_crc;
    SET(s->death, SLOT_NEVER);
    SET(s->birth, lsn);
    vector_index_put(db->store->vectors, h->slot);
    visibility_birth(db->store->visibility, h->slot, db->store->counts.slot_count, lsn,
                     h->expires_at_ms != 0);
    touch(db, h->slot);
    if (h->record_at) {
        uint64_t end = h->record_at - 1 + records_size(h->text_bytes, h->metadata_bytes);
        if (end > db->store->counts.records_bytes) db->store->counts.records_bytes = end;
    }
    db->store->counts.live_count++;
    if (!h->text_bytes && h->key >= db->store->counts.next_id)
        db->store->counts.next_id = h->key + 1;

    if (id_index_put(&db->store->index, &key, h->record_at, h->slot, &old) == INDEX_DAMAGED)
        return database_damaged(db, "the id index", err);
    op->replaced = replaced && replaced->death == SLOT_NEVER;
    return op->replaced ? end_row(db, old, lsn, err) : ERR_OK;
}

enum err_code database_apply(struct database *db, uint64_t lsn, struct row_op *op, struct err *err)
{
    switch (op->head.kind) {
    case WAL_OP_PUT:
        return apply_put(db, lsn, op, err);
    case WAL_OP_DELETE: {
        const struct slot *s = op->head.slot < db->store->counts.slot_count
                                   ? jvdb_file_read(&db->store->file, REGION_SLOTS, op->head.slot)
                                   : NULL;
        if (!s || s->death != SLOT_NEVER) return database_damaged(db, "the log or a slot", err);
        return end_row(db, op->head.slot, lsn, err);
    }
    default:
        return database_damaged(db, "the log", err);
    }
}

void database_publish(struct database *db, uint64_t lsn)
{
    database_publish_store(db, lsn, db->store);
}

void database_publish_store(struct database *db, uint64_t lsn, struct store *store)
{
    struct store *old = db->store;
    if (store != old) {
        epoch_enter();
        columns_inherit(store->columns, old->columns);
        epoch_leave();
    }
    uint32_t version = atomic_load_explicit(&db->snapshot_version, memory_order_relaxed);
    atomic_store_explicit(&db->snapshot_version, version + 1, memory_order_release);
    if (store != old) atomic_store_explicit(&db->store, store, memory_order_release);
    atomic_store_explicit(&db->visible_lsn, lsn, memory_order_release);
    atomic_store_explicit(&db->live_count, db->store->counts.live_count, memory_order_release);
    atomic_store_explicit(&db->slot_count, db->store->counts.slot_count, memory_order_release);
    /* Pairs with reader_begin(). */
    atomic_store_explicit(&db->snapshot_version, version + 2, memory_order_release);

    db->last_lsn = lsn;
    atomic_store_explicit(&db->dead_count, db->store->counts.dead_count, memory_order_relaxed);
    atomic_store_explicit(&db->garbage_bytes, db->store->counts.garbage_bytes,
                          memory_order_relaxed);
    atomic_store_explicit(&db->file_bytes, db->store->file.file_bytes, memory_order_relaxed);
    atomic_store_explicit(&db->last_write_ns, clock_ns(), memory_order_relaxed);
}

/* ---- put ---- */

static enum err_code check_rows(struct database *db, const struct row_input *rows, size_t count,
                                size_t dimension, struct err *err)
{
    if (dimension != db->schema.dimension)
        return err_set(err, ERR_DIMENSION_MISMATCH,
                       "the vector has %zu numbers; database \"%s\" has dimension %" PRIu32,
                       dimension, db->name, db->schema.dimension);
    for (size_t i = 0; i < count; i++) {
        for (size_t k = 0; k < dimension; k++)
            if (!isfinite(rows[i].vector[k]))
                return err_set(err, ERR_INVALID_VECTOR,
                               "number %zu of vector %zu of %zu is not finite", k + 1, i + 1,
                               count);
        if (rows[i].metadata_bytes > METADATA_BYTES_MAX)
            return err_set(err, ERR_INVALID_REQUEST,
                           "metadata of vector %zu of %zu has %" PRIu32
                           " bytes; at most %d are kept",
                           i + 1, count, rows[i].metadata_bytes, METADATA_BYTES_MAX);
    }
    return ERR_OK;
}

/* Slow a write down if there is too much to be written out already. */
static enum err_code give_way(struct database *db, bool may_block, struct err *err)
{
    if (!db->wal || !db->wal_bytes_max) return ERR_OK;
    uint64_t bytes = wal_bytes(db->wal), limit = db->wal_bytes_max;
    uint32_t delay_us = atomic_load_explicit(&db->write_delay_us, memory_order_relaxed);
    if (bytes <= limit && !delay_us) return ERR_OK;
    if (!may_block) return err_set(err, ERR_WOULD_BLOCK, "the log is long");
    if (bytes >= 2 * limit) {
        enum err_code rc = checkpoint_shorten_log(db, 2 * limit, err);
        /* A full disk bounds the log by itself, and a delete may still fit. */
        return rc == ERR_STORAGE_FULL ? ERR_OK : rc;
    }
    if (bytes > limit) {
        double over = (double)(bytes - limit) / (double)limit;
        uint32_t us = (uint32_t)(WRITE_DELAY_US_MAX * over * over);
        if (us > delay_us) delay_us = us;
    }
    nanosleep(&(struct timespec){.tv_nsec = (long)delay_us * 1000}, NULL);
    return ERR_OK;
}

/* Slow a put down if the search index cannot keep up.  Not under `writer`. */
static enum err_code wait_for_linkers(struct database *db, size_t rows, bool may_block,
                                      struct err *err)
{
    epoch_enter();
    struct vector_index *ix = atomic_load_explicit(&db->store, memory_order_acquire)->vectors;
    bool behind = vector_index_backlog(ix) > 0;
    uint64_t ns = behind && may_block ? vector_index_delay_ns(ix, rows) : 0;
    epoch_leave();
    if (behind && !may_block) return err_set(err, ERR_WOULD_BLOCK, "many rows are not linked yet");
    if (ns)
        nanosleep(&(struct timespec){.tv_sec = (time_t)(ns / 1000000000),
                                     .tv_nsec = (long)(ns % 1000000000)},
                  NULL);
    return ERR_OK;
}

/* Under no lock, after rows were changed. */
static void tell_indexer(struct database *db)
{
    if (!db->host.index_has_work) return;
    epoch_enter();
    struct vector_index *ix = atomic_load_explicit(&db->store, memory_order_acquire)->vectors;
    bool has_work = vector_index_wants_work(ix);
    epoch_leave();
    if (has_work) db->host.index_has_work(db->host.ctx);
}

enum err_code database_lock_writer(struct database *db, bool may_block, struct err *err)
{
    enum err_code rc = give_way(db, may_block, err);
    if (rc) return rc;
    for (;;) {
        rc = database_writer_ready(db, may_block ? PATIENCE_WAIT : PATIENCE_NONE, err);
        if (rc) return rc;
        if (!may_block && checkpoint_is_running())
            return err_set(err, ERR_WOULD_BLOCK, "a checkpoint is under way");
        if (may_block)
            mutex_lock(&db->writer);
        else if (!mutex_trylock(&db->writer))
            return err_set(err, ERR_WOULD_BLOCK, "the writer is busy");
        if (db->paused && !may_block) {
            mutex_unlock(&db->writer);
            return err_set(err, ERR_WOULD_BLOCK, "a compaction is taking over");
        }
        while (db->paused)
            mutex_wait(&db->resumed, &db->writer);
        if (db->store->file.fd >= 0) return ERR_OK;
        mutex_unlock(&db->writer); /* closed as idle just now */
    }
}

static uint64_t next_lsn(struct database *db)
{
    return db->wal ? wal_next_lsn(db->wal) : db->last_lsn + 1;
}

/* Slots that died in a finished checkpoint are free once the readers of that time have left.  In
 * memory there is no checkpoint that could refer to them: only readers count. */
static void advance_reuse(struct database *db)
{
    /* What ended since a compaction began must still be there when it catches up. */
    if (db->touched) return;
    if (db->reuse_next.lsn && epoch_passed(db->reuse_next.epoch)) {
        db->reuse_lsn = db->reuse_next.lsn;
        db->reuse_next.lsn = 0;
    }
    if (!db->wal && !db->reuse_next.lsn && db->reuse_lsn < db->last_lsn) {
        db->reuse_next.lsn = db->last_lsn;
        db->reuse_next.epoch = epoch_now();
    }
}

/* Choose a slot and a place for the record of each row; nothing changes. */
static enum err_code place_rows(struct database *db, struct row_input *rows, size_t count,
                                struct row_op *ops, uint64_t *slots, uint64_t *records_bytes,
                                struct err *err)
{
    uint64_t slot_count = db->store->counts.slot_count, records = db->store->counts.records_bytes;
    uint64_t next_id = db->store->counts.next_id;
    uint32_t dead = db->store->counts.dead_first;
    uint64_t reuse_lsn = vector_index_reuse_lsn(db->store->vectors);
    if (db->reuse_lsn < reuse_lsn) reuse_lsn = db->reuse_lsn;
    for (size_t i = 0; i < count; i++) {
        struct row_input *row = &rows[i];
        struct disk_wal_op *op = &ops[i].head;
        if (row->assign_id) {
            if (next_id > INT64_MAX)
                return err_set(err, ERR_CONFLICT,
                               "database \"%s\" has no free integer id above %" PRId64
                               "; give an id",
                               db->name, INT64_MAX);
            row->id = (struct vector_id){.number = next_id};
        }
        struct index_key key = index_key_of(&row->id);
        if (!key.text_bytes && key.key >= next_id) next_id = key.key + 1;
        uint32_t metadata_bytes = row->metadata ? row->metadata_bytes : 0;
        if (metadata_bytes == 2 && memcmp(row->metadata, "{}", 2) == 0) metadata_bytes = 0;

        *op = (struct disk_wal_op){.kind = WAL_OP_PUT,
                                   .key = key.key,
                                   .text_bytes = key.text_bytes,
                                   .metadata_bytes = metadata_bytes};
        ops[i].text = key.text;
        ops[i].metadata = row->metadata;
        ops[i].vector = row->vector;

        const struct slot *s = NULL;
        if (dead) {
            s = dead <= db->store->counts.slot_count
                    ? jvdb_file_read(&db->store->file, REGION_SLOTS, dead - 1)
                    : NULL;
            if (!s) return database_damaged(db, "a slot", err);
        }
        if (s && s->death <= reuse_lsn) {
            op->slot = dead - 1;
            dead = s->next_dead;
        } else {
            dead = 0; /* the next ones died later still */
            if (slot_count >= UINT32_MAX - 1)
                return err_set(err, ERR_STORAGE_FULL,
                               "database \"%s\" has all the rows it can hold", db->name);
            op->slot = (uint32_t)slot_count++;
        }
        if (key.text_bytes || metadata_bytes) {
            op->record_at = records + 1;
            records += records_size(key.text_bytes, metadata_bytes);
        }
        op->row_crc = database_row_crc(db, op, row->vector);
    }
    *slots = slot_count;
    *records_bytes = records;
    return ERR_OK;
}

/* The log record of `ops`: heads and texts are gathered in `scratch`, vectors stay where they are.
 */
static enum err_code log_rows(struct database *db, const struct row_op *ops, size_t count,
                              uint64_t *lsn, struct err *err)
{
    if (!db->wal) { /* in memory */
        *lsn = next_lsn(db);
        return ERR_OK;
    }
    /* What the choice of slots was made of. */
    enum err_code rc = database_check_read(db, &db->store->file, ERR_OK, err);
    if (rc) return rc;
    static const char zeros[8];
    size_t vector_bytes = (size_t)db->schema.dimension * sizeof(float), scratch_bytes = 0;
    for (size_t i = 0; i < count; i++)
        scratch_bytes +=
            sizeof ops[i].head + ops[i].head.text_bytes + ops[i].head.metadata_bytes + 8;
    struct iovec *iov = mem_try((3 * count + 2) * sizeof *iov);
    char *scratch = mem_try(scratch_bytes), *at = scratch;
    if (!iov || !scratch) {
        rc = err_set(err, ERR_NOMEM, "out of memory for a write of %zu rows", count);
        goto out;
    }
    struct disk_wal_record head = {.type = WAL_ROWS, .op_count = (uint32_t)count};
    int parts = 0;
    iov[parts++] = (struct iovec){&head, sizeof head};
    for (size_t i = 0; i < count; i++) {
        const struct disk_wal_op *op = &ops[i].head;
        char *start = at;
        memcpy(at, op, sizeof *op);
        at += sizeof *op;
        if (op->text_bytes) memcpy(at, ops[i].text, op->text_bytes);
        at += op->text_bytes;
        if (op->metadata_bytes) memcpy(at, ops[i].metadata, op->metadata_bytes);
        at += op->metadata_bytes;
        size_t pad = (8 - (size_t)(at - start) % 8) % 8;
        memset(at, 0, pad);
        at += pad;
        iov[parts++] = (struct iovec){start, (size_t)(at - start)};
        if (op->kind != WAL_OP_PUT) continue;
        iov[parts++] = (struct iovec){(void *)(uintptr_t)ops[i].vector, vector_bytes};
        if (vector_bytes % 8) iov[parts++] = (struct iovec){(void *)(uintptr_t)zeros, 4};
    }
    rc = wal_append(db->wal, &head, iov, parts, lsn, err);
out:
    mem_free(iov);
    mem_free(scratch);
    return rc;
}

/* Steps 4 and 5.  A failure here is damage (which quarantines): the log has the record, memory has
 * half of it. */
static enum err_code apply_and_publish(struct database *db, uint64_t lsn, struct row_op *ops,
                                       size_t count, struct err *err)
{
    for (size_t i = 0; i < count; i++) {
        enum err_code rc = database_apply(db, lsn, &ops[i], err);
        if (rc) return rc;
    }
    enum err_code rc = database_check_read(db, &db->store->file, ERR_OK, err);
    if (!rc) database_publish(db, lsn);
    return rc;
}

enum err_code database_commit(struct database *db, struct row_op *ops, size_t count, uint64_t *lsn,
                              struct err *err)
{
    enum err_code rc = log_rows(db, ops, count, lsn, err);
    return rc ? rc : apply_and_publish(db, *lsn, ops, count, err);
}

enum err_code database_put(struct database *db, struct row_input *rows, size_t count,
                           size_t dimension, bool may_block, uint64_t *lsn, struct err *err)
{
    if (count == 0 || count > UINT32_MAX / 4)
        return err_set(err, ERR_INVALID_REQUEST, "a write needs at least one vector");
    enum err_code rc = database_check_writable(db, err);
    if (!rc) rc = check_rows(db, rows, count, dimension, err);
    if (!rc) rc = reserve_check(db->reserve, err);
    if (!rc) rc = wait_for_linkers(db, count, may_block, err);
    if (rc) return rc;

    struct row_op *ops = mem_try(count * sizeof *ops);
    if (!ops) return err_set(err, ERR_NOMEM, "out of memory for a write of %zu rows", count);
    rc = database_lock_writer(db, may_block, err);
    if (rc) goto out;
    advance_reuse(db);
    uint64_t slots = 0, records_bytes = 0;
    rc = place_rows(db, rows, count, ops, &slots, &records_bytes, err);
    if (!rc && !may_block && !has_room(db, slots, records_bytes, count))
        rc = err_set(err, ERR_WOULD_BLOCK, "the file has to grow");
    if (!rc) rc = database_reserve(db, slots, records_bytes, count, err);
    uint64_t record_lsn = next_lsn(db);
    for (size_t i = 0; i < count; i++)
        ops[i].lsn = record_lsn;
    if (!rc) rc = database_write_rows(db, ops, count, err);
    if (!rc) rc = database_commit(db, ops, count, lsn, err);
    if (rc) rc = database_check_read(db, &db->store->file, rc, err);
    mutex_unlock(&db->writer);
    if (!rc) tell_indexer(db);
    if (!rc) stat_add(STAT_INSERTS, count);
    for (size_t i = 0; i < count && !rc; i++)
        rows[i].replaced = ops[i].replaced;
out:
    mem_free(ops);
    return rc;
}

/* ---- durability ---- */

/* The rows of the snapshot at `lsn`. */
static enum err_code count_live(struct database *db, uint64_t lsn, uint64_t *count, struct err *err)
{
    struct store *st = db->store;
    *count = 0;
    for (uint32_t i = 0; i < st->counts.slot_count; i++) {
        const struct slot *s = jvdb_file_read(&st->file, REGION_SLOTS, i);
        if (!s) return database_damaged(db, "a slot", err);
        *count += s->birth <= lsn && lsn < s->death;
    }
    return ERR_OK;
}

void database_fall_back(void *ctx)
{
    struct database *db = ctx;
    struct err err;
    uint64_t kept = wal_kept_lsn(db->wal), live;
    mutex_lock(&db->writer); /* whoever has appended has published now, and nobody appends again */
    int expected = ERR_OK;
    atomic_compare_exchange_strong(&db->failed, &expected, ERR_READ_ONLY);
    if (db->last_lsn > kept && count_live(db, kept, &live, &err) == ERR_OK) {
        log_warning("database \"%s\": hiding what was written from LSN %" PRIu64 " to %" PRIu64
                    ", which was not acknowledged",
                    db->name, kept + 1, db->last_lsn);
        db->store->counts.live_count = live; /* no write and no checkpoint comes any more */
        vector_index_fall_back(db->store->vectors, kept);
        database_publish(db, kept);
    }
    mutex_unlock(&db->writer);
}

bool database_await(struct database *db, uint64_t lsn, enum durability durability,
                    database_durable_fn *fn, void *ctx)
{
    if (!db->wal) return true;
    if (durability == DURABILITY_PERIODIC && wal_acknowledge(db->wal, lsn)) return true;
    return wal_await(db->wal, lsn, fn, ctx);
}

enum err_code database_wait(struct database *db, uint64_t lsn, enum durability durability,
                            struct err *err)
{
    if (!db->wal || (durability == DURABILITY_PERIODIC && wal_acknowledge(db->wal, lsn)))
        return ERR_OK;
    while (wal_durable_lsn(db->wal) < lsn) {
        enum err_code rc = wal_sync(db->wal, err);
        if (rc) return rc;
    }
    return ERR_OK;
}

void database_lsns(struct database *db, uint64_t *last, uint64_t *durable)
{
    *last = atomic_load_explicit(&db->visible_lsn, memory_order_acquire);
    *durable = db->wal ? wal_durable_lsn(db->wal) : *last;
    if (!db->wal) return;
    uint64_t given = wal_last_lsn(db->wal); /* more than is visible if the log broke */
    if (given > *last) *last = given;
}

/*
 * delete.c - end rows: those with some ids, or those that match a filter.
 *
 * By filter, the rows are selected in a snapshot, while others write.  Then, under `writer`, what
 * has changed since is looked at again (visibility.h knows what that is), so that the rows that end
 * are those that match at the LSN of their end, and the lock is not held for a long scan.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "storage/base/mem.h"
#include "storage/base/metrics.h"
#include "storage/checkpoint.h"
#include "storage/database_private.h"
#include "storage/filter/filter.h"
#include "storage/records.h"

enum { INLINE_DELETES_MAX = 200 }; /* on a thread that must not wait: about 200 us */

static int by_slot(const void *a, const void *b)
{
    const struct row_op *x = a, *y = b;
    return x->head.slot < y->head.slot ? -1 : x->head.slot > y->head.slot;
}

/* An id that was named twice dies once. */
static size_t drop_repeated(struct row_op *ops, size_t count)
{
    if (count == 0) return 0;
    qsort(ops, count, sizeof ops[0], by_slot);
    size_t kept = 1;
    for (size_t i = 1; i < count; i++)
        if (ops[i].head.slot != ops[kept - 1].head.slot) ops[kept++] = ops[i];
    return kept;
}

/* Under `writer`: log, apply and publish the end of rows.  No rows: nothing is logged. */
static enum err_code end_rows_locked(struct database *db, struct row_op *ops, size_t count,
                                     uint64_t *lsn, struct err *err)
{
    enum err_code rc = ERR_OK;
    *lsn = db->last_lsn;
    if (count == 0) return ERR_OK;
    rc = database_commit(db, ops, count, lsn, err);
    if (rc && reserve_use(db->reserve, err)) {
        rc = database_commit(db, ops, count, lsn, err);
        reserve_done(db->reserve);
    }
    return rc;
}

/* Under `writer`: what is to be deleted, and how it is. */
typedef enum err_code delete_fn(struct database *db, void *ctx, size_t *deleted, uint64_t *lsn,
                                struct err *err);

struct ids_to_delete {
    const struct vector_id *ids;
    size_t count;
    struct row_op *ops; /* room for as many */
};

/* Those of the ids that exist. */
static enum err_code delete_ids(struct database *db, void *ctx, size_t *deleted, uint64_t *lsn,
                                struct err *err)
{
    struct ids_to_delete *d = ctx;
    enum err_code rc = ERR_OK;
    size_t found_count = 0;
    for (size_t i = 0; i < d->count && !rc; i++) {
        struct index_key key = index_key_of(&d->ids[i]);
        uint32_t slot;
        enum index_result found = id_index_find(&db->store->index, &key, &slot);
        const struct slot *s =
            found == INDEX_FOUND ? jvdb_file_read(&db->store->file, REGION_SLOTS, slot) : NULL;
        if (found == INDEX_DAMAGED || (found == INDEX_FOUND && !s))
            rc = database_damaged(db, "the id index", err);
        if (rc || !s || s->death != SLOT_NEVER) continue;
        d->ops[found_count++] = (struct row_op){
            .head = {.kind = WAL_OP_DELETE,
                     .slot = slot,
                     .key = key.key,
                     .text_bytes = key.text_bytes},
            .text = key.text,
        };
    }
    found_count = drop_repeated(d->ops, found_count);
    if (!rc) rc = end_rows_locked(db, d->ops, found_count, lsn, err);
    rc = database_check_read(db, &db->store->file, rc, err);
    if (!rc) *deleted = found_count;
    return rc;
}

struct rows_to_delete {
    const struct filter *filter;
    struct snapshot snapshot; /* that the bits are about: its store cannot go before it */
    uint64_t *bits;
    size_t words;
    uint64_t count;
};

/* Operations that end the rows whose bits are set. */
static enum err_code ops_of_bits(struct reader *r, const uint64_t *bits, struct row_op *ops,
                                 struct err *err)
{
    for (size_t w = 0; w < filter_words(r); w++) {
        for (uint64_t left = bits[w]; left; left &= left - 1) {
            uint32_t number = (uint32_t)(w * 64 + (size_t)__builtin_ctzll(left));
            const struct slot *s = jvdb_file_read(&r->store->file, REGION_SLOTS, number);
            struct record record = {0};
            if (!s) return database_damaged(r->db, "a slot", err);
            if (s->text_bytes) {
                enum err_code rc =
                    records_read(&r->store->file, s->record_at, &r->pieces, &record, err);
                if (rc == ERR_CORRUPT) database_quarantine(r->db, err);
                if (rc) return rc;
                if (record.text_bytes != s->text_bytes)
                    return database_damaged(r->db, "a record", err);
            }
            *ops++ = (struct row_op){
                .head = {.kind = WAL_OP_DELETE,
                         .slot = number,
                         .key = s->key,
                         .text_bytes = s->text_bytes},
                .text = record.text,
            };
        }
    }
    return ERR_OK;
}

/* The bits as of now: rows may have come and gone since they were selected. */
static enum err_code select_again(struct rows_to_delete *d, struct reader *r, struct err *err)
{
    size_t words = filter_words(r);
    if (words > d->words) {
        uint64_t *wider = mem_resize(d->bits, words * sizeof *wider);
        if (!wider) return err_set(err, ERR_NOMEM, "out of memory for a filter");
        memset(wider + d->words, 0, (words - d->words) * sizeof *wider);
        d->bits = wider;
        d->words = words;
    }
    const struct reader *before = &d->snapshot.of;
    if (r->store == before->store)
        return filter_select_again(r, d->filter, before->lsn, d->bits, &d->count, err);
    /* A compaction took over in between: other slots. */
    return filter_select(r, d->filter, true, d->bits, &d->count, err);
}

static enum err_code delete_rows(struct database *db, void *ctx, size_t *deleted, uint64_t *lsn,
                                 struct err *err)
{
    struct rows_to_delete *d = ctx;
    struct row_op *ops = NULL;
    struct reader r;
    reader_begin(db, &r); /* of the newest rows: nobody else writes */
    enum err_code rc = select_again(d, &r, err);
    if (!rc) {
        ops = mem_try((d->count + 1) * sizeof *ops);
        if (!ops) rc = err_set(err, ERR_NOMEM, "out of memory for %" PRIu64 " deletes", d->count);
    }
    if (!rc) rc = ops_of_bits(&r, d->bits, ops, err);
    if (!rc) rc = end_rows_locked(db, ops, d->count, lsn, err);
    rc = database_check_read(db, &db->store->file, rc, err);
    reader_end(&r);
    if (!rc) *deleted = d->count;
    mem_free(ops);
    return rc;
}

static enum err_code delete_once(struct database *db, delete_fn *fn, void *ctx, bool may_block,
                                 size_t *deleted, uint64_t *lsn, struct err *err)
{
    enum err_code rc = database_lock_writer(db, may_block, err);
    if (rc && reserve_use(db->reserve, err)) {
        rc = database_lock_writer(db, may_block, err);
        reserve_done(db->reserve);
    }
    if (rc) return rc;
    rc = fn(db, ctx, deleted, lsn, err);
    mutex_unlock(&db->writer);
    return rc;
}

static enum err_code delete_by(struct database *db, delete_fn *fn, void *ctx, bool may_block,
                               size_t *deleted, uint64_t *lsn, struct err *err)
{
    enum err_code rc = delete_once(db, fn, ctx, may_block, deleted, lsn, err);
    /* The disk is full and others were quicker: a checkpoint makes room in the log. */
    if (rc == ERR_STORAGE_FULL && db->wal) {
        struct err why;
        if (!may_block)
            rc = err_set(err, ERR_WOULD_BLOCK, "a checkpoint comes first");
        else if (checkpoint_run(db, &why) == ERR_OK)
            rc = delete_once(db, fn, ctx, may_block, deleted, lsn, err);
    }
    if (!rc) stat_add(STAT_DELETES, *deleted);
    return rc;
}

enum err_code database_delete(struct database *db, const struct vector_id *ids, size_t count,
                              bool may_block, size_t *deleted, uint64_t *lsn, struct err *err)
{
    *deleted = 0;
    enum err_code rc = database_check_writable(db, err);
    if (rc) return rc;
    struct ids_to_delete d = {.ids = ids, .count = count};
    d.ops = mem_try((count + 1) * sizeof *d.ops);
    if (!d.ops) return err_set(err, ERR_NOMEM, "out of memory for %zu deletes", count);
    rc = delete_by(db, delete_ids, &d, may_block, deleted, lsn, err);
    mem_free(d.ops);
    return rc;
}

/* Which rows, for now: what takes long is done here, while others write. */
static enum err_code select_to_delete(struct rows_to_delete *d, bool may_block, struct err *err)
{
    struct reader r;
    struct filter_rows rows = {0};
    reader_begin_at(&d->snapshot, &r);
    d->words = filter_words(&r) + 1;
    d->bits = mem_try(d->words * sizeof *d->bits);
    enum err_code rc = d->bits ? filter_find_rows(&r, d->filter, may_block, &rows, err)
                               : err_set(err, ERR_NOMEM, "out of memory for a filter");
    if (!rc) filter_rows_to_bits(&rows, &r, d->bits);
    if (!rc) d->bits[d->words - 1] = 0;
    d->count = rows.count;
    filter_rows_deinit(&rows);
    reader_end(&r);
    return rc;
}

enum err_code database_delete_matching(struct database *db, const struct filter *filter,
                                       bool may_block, size_t *deleted, uint64_t *lsn,
                                       struct err *err)
{
    struct rows_to_delete d = {.filter = filter};
    *deleted = 0;
    enum err_code rc = database_check_writable(db, err);
    if (rc) return rc;
    snapshot_take(db, &d.snapshot);
    rc = select_to_delete(&d, may_block, err);
    if (!rc && !may_block && d.count > INLINE_DELETES_MAX)
        rc = err_set(err, ERR_WOULD_COMPUTE, "many deletes");
    if (!rc) rc = delete_by(db, delete_rows, &d, may_block, deleted, lsn, err);
    snapshot_drop(&d.snapshot);
    mem_free(d.bits);
    return rc;
}

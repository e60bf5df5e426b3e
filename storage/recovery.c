/*
 * recovery.c - make a database's files, and open them again whatever happened to them.
 *
 * Opening reads the superblock, finishes an interrupted checkpoint, maps the file, and replays the
 * log behind the checkpoint into the slots that it names: the same steps as a write, at memory
 * speed, and idempotent, since nothing it reads is changed before the next checkpoint.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "storage/base/clock.h"
#include "storage/base/log.h"
#include "storage/base/mem.h"
#include "storage/checkpoint.h"
#include "storage/database_private.h"
#include "storage/index/index_file.h"
#include "storage/manifest.h"
#include "storage/records.h"

/* ---- create ---- */

/* An empty file: superblocks A and B alike, the manifest behind them. */
static int write_empty_file(int fd, const uint8_t uuid[16], const struct schema *schema)
{
    struct jvdb_file f = {.fd = -1};
    struct buf manifest = {0};
    struct disk_counts counts = {.next_id = 1};
    size_t sums_at, sums_count;
    int os_errno = 0;
    memcpy(f.uuid, uuid, sizeof f.uuid);
    region_shapes(f.shapes, schema->dimension);
    manifest_encode(&f, schema, &counts, NULL, 1, 0, &manifest, &sums_at, &sums_count);
    if (manifest.failed) {
        os_errno = ENOMEM;
        goto out;
    }
    uint64_t at = SUPERBLOCK_COUNT * BLOCK_BYTES;
    struct disk_superblock sb = superblock_make(&f, &manifest, at, HEADER_BYTES);
    os_errno = file_allocate(fd, 0, HEADER_BYTES);
    for (int i = 0; i < SUPERBLOCK_COUNT && !os_errno; i++)
        os_errno = file_write(fd, &sb, sizeof sb, (uint64_t)i * BLOCK_BYTES);
    if (!os_errno) os_errno = file_write(fd, manifest.data, manifest.len, at);
    if (!os_errno) os_errno = file_sync(fd);
out:
    buf_free(&manifest);
    return os_errno;
}

static enum err_code skip_record(void *ctx, const struct disk_wal_record *record,
                                 const uint8_t *ops, uint64_t ops_bytes, struct err *err)
{
    (void)ctx, (void)record, (void)ops, (void)ops_bytes, (void)err;
    return ERR_OK;
}

/* Have a started, durable log segment if there is none. */
static enum err_code make_log(int dir_fd, const char *name, const uint8_t uuid[16],
                              uint64_t checkpoint_lsn, struct err *err)
{
    struct wal *wal = NULL;
    struct wal_recovery found;
    struct wal_options options = {
        .dir_fd = dir_fd, .name = name, .checkpoint_lsn = checkpoint_lsn, .create = true};
    memcpy(options.uuid, uuid, sizeof options.uuid);
    enum err_code rc = wal_open(&options, skip_record, NULL, &wal, &found, err);
    if (!rc && found.segments == 0) {
        rc = wal_prepare(wal, err);
        if (!rc) rc = wal_switch(wal, err);
        if (!rc) rc = wal_sync_segment(wal, err);
    }
    wal_close(wal);
    return rc;
}

enum err_code database_adopt_files(int dir_fd, const char *name, const uint8_t uuid[16],
                                   uint64_t checkpoint_lsn, struct err *err)
{
    return make_log(dir_fd, name, uuid, checkpoint_lsn, err);
}

enum err_code database_stamp_copy(int dir_fd, const char *name, int fd, struct disk_superblock *sb,
                                  const uint8_t uuid[16], struct err *err)
{
    char file_name[200], ckpt[200];
    struct wal *wal = NULL;
    struct wal_recovery found = {0};
    struct wal_options options = {
        .dir_fd = dir_fd, .name = name, .checkpoint_lsn = sb->lsn, .create = true};
    int ckpt_fd = -1;
    memcpy(options.uuid, sb->uuid, sizeof options.uuid);
    snprintf(file_name, sizeof file_name, "%s.jvdb", name);
    snprintf(ckpt, sizeof ckpt, "%s.ckpt", name);
    /* Its log and its checkpoint would not be known by the new uuid. */
    enum err_code rc = wal_open(&options, skip_record, NULL, &wal, &found, err);
    wal_close(wal);
    bool has_ckpt = file_open(dir_fd, ckpt, O_RDONLY, &ckpt_fd) != ENOENT;
    file_close(ckpt_fd);
    if (!rc && (found.records || has_ckpt))
        rc = err_set(err, ERR_QUARANTINED,
                     "%s is a copy of another database here, taken while it was in use; copy it "
                     "again after a flush, without its log",
                     file_name);
    return rc ? rc : manifest_stamp(fd, file_name, sb, uuid, err);
}

enum err_code database_create_files(int dir_fd, const char *name, const uint8_t uuid[16],
                                    const struct schema *schema, struct err *err)
{
    char temporary[200], final[200], ckpt[200];
    snprintf(temporary, sizeof temporary, "%s.new", name);
    snprintf(final, sizeof final, "%s.jvdb", name);
    snprintf(ckpt, sizeof ckpt, "%s.ckpt", name);
    int fd = -1;

    /* The log first: a file without a log is not trusted. */
    enum err_code rc = wal_remove(dir_fd, name, err);
    if (rc) return rc;
    struct err ignored;
    rc = make_log(dir_fd, name, uuid, 0, err);
    if (rc) {
        if (wal_remove(dir_fd, name, &ignored)) log_warning("%s", ignored.msg);
        return rc;
    }

    int os_errno = file_unlink(dir_fd, ckpt);
    if (!os_errno) os_errno = file_open(dir_fd, temporary, O_RDWR | O_CREAT | O_TRUNC, &fd);
    if (!os_errno) os_errno = write_empty_file(fd, uuid, schema);
    file_close(fd);
    if (!os_errno) os_errno = file_rename(dir_fd, temporary, final);
    if (!os_errno) os_errno = file_sync(dir_fd);
    if (os_errno) {
        rc = err_os(err, os_errno, "create %s", final);
        /* Half a database is none. */
        if (file_unlink(dir_fd, temporary) || file_unlink(dir_fd, final) ||
            wal_remove(dir_fd, name, &ignored))
            log_warning("cannot clean up after creating \"%s\" failed", name);
    }
    return rc;
}

/* ---- open ---- */

struct replay {
    struct database *db;
    struct row_op_list list;
};

static enum err_code bad_record(struct database *db, uint64_t lsn, struct err *err)
{
    return err_set(err, ERR_CORRUPT, "the log of \"%s\" is damaged at LSN %" PRIu64, db->name, lsn);
}

static bool parse_ops(struct database *db, const struct disk_wal_record *record,
                      const uint8_t *bytes, uint64_t size, struct row_op *ops)
{
    uint64_t vector_bytes = (uint64_t)db->schema.dimension * sizeof(float), at = 0;
    for (uint32_t i = 0; i < record->op_count; i++) {
        struct row_op *op = &ops[i];
        if (size - at < sizeof op->head) return false;
        memcpy(&op->head, bytes + at, sizeof op->head);
        uint64_t texts = (uint64_t)op->head.text_bytes + op->head.metadata_bytes;
        uint64_t head_bytes = (sizeof op->head + texts + 7) & ~(uint64_t)7;
        if (op->head.text_bytes > ID_BYTES_MAX || op->head.metadata_bytes > METADATA_BYTES_MAX ||
            size - at < head_bytes)
            return false;
        op->text = (const char *)bytes + at + sizeof op->head;
        op->metadata = op->text + op->head.text_bytes;
        at += head_bytes;
        op->vector = NULL;
        if (op->head.kind == WAL_OP_DELETE) continue;
        if (op->head.kind != WAL_OP_PUT) return false;
        uint64_t padded = (vector_bytes + 7) & ~(uint64_t)7;
        if (size - at < padded) return false;
        op->vector = (const float *)(const void *)(bytes + at);
        at += padded;
        if (database_row_crc(db, &op->head, op->vector) != op->head.row_crc) return false;
    }
    return at == size;
}

enum err_code database_parse_ops(struct database *db, const struct disk_wal_record *record,
                                 const uint8_t *bytes, uint64_t size, struct row_op_list *list,
                                 struct err *err)
{
    if (record->op_count > size / sizeof(struct disk_wal_op))
        return bad_record(db, record->lsn, err);
    if (record->op_count > list->cap) {
        mem_free(list->ops);
        list->cap = record->op_count;
        list->ops = mem_try(list->cap * sizeof *list->ops);
        if (!list->ops) {
            list->cap = 0;
            return err_set(err, ERR_NOMEM, "out of memory to replay the log of \"%s\"", db->name);
        }
    }
    if (!parse_ops(db, record, bytes, size, list->ops)) return bad_record(db, record->lsn, err);
    return ERR_OK;
}

/* What place_rows() chose then, checked: rows go where the file has no live row. */
static bool places_are_sane(struct database *db, const struct disk_wal_record *record,
                            const struct row_op *ops, uint64_t *slots, uint64_t *records_bytes)
{
    *slots = db->store->counts.slot_count;
    *records_bytes = db->store->counts.records_bytes;
    for (uint32_t i = 0; i < record->op_count; i++) {
        const struct disk_wal_op *op = &ops[i].head;
        if (op->kind == WAL_OP_DELETE) continue;
        if (op->slot > *slots) return false;
        if (op->slot == *slots) ++*slots;
        if (!op->record_at) continue;
        if (op->record_at - 1 != *records_bytes) return false;
        *records_bytes += records_size(op->text_bytes, op->metadata_bytes);
    }
    return true;
}

static enum err_code replay_record(void *ctx, const struct disk_wal_record *record,
                                   const uint8_t *bytes, uint64_t size, struct err *err)
{
    struct replay *rp = ctx;
    struct database *db = rp->db;
    if (record->type != WAL_ROWS)
        return err_set(err, ERR_QUARANTINED,
                       "the log of \"%s\" has a record of type %d at LSN %" PRIu64
                       "; a newer version wrote it",
                       db->name, record->type, record->lsn);
    uint64_t slots, records_bytes;
    enum err_code rc = database_parse_ops(db, record, bytes, size, &rp->list, err);
    if (rc) return rc;
    struct row_op *ops = rp->list.ops;
    if (!places_are_sane(db, record, ops, &slots, &records_bytes))
        return bad_record(db, record->lsn, err);

    /* As much room as the write took, and no more: the disk may be full. */
    uint64_t puts = 0;
    for (uint32_t i = 0; i < record->op_count; i++)
        puts += ops[i].head.kind == WAL_OP_PUT;
    if (db->read_only)
        return err_set(err, ERR_QUARANTINED,
                       "its log holds writes that its file does not, and the storage directory "
                       "cannot be written: make it writable and restart the server");
    rc = jvdb_file_writable(&db->store->file, err);
    if (rc) return rc;
    rc = database_reserve(db, slots, records_bytes, puts, err);
    if (rc && reserve_use(db->reserve, err)) {
        rc = database_reserve(db, slots, records_bytes, puts, err);
        reserve_done(db->reserve);
    }
    for (uint32_t i = 0; i < record->op_count; i++)
        ops[i].lsn = record->lsn;
    if (!rc) rc = database_write_rows(db, ops, record->op_count, err);
    for (uint32_t i = 0; i < record->op_count && !rc; i++)
        rc = database_apply(db, record->lsn, &ops[i], err);
    if (!rc) database_publish(db, record->lsn);
    return rc;
}

static enum err_code open_log(struct database *db, const struct database_open_options *options,
                              struct err *err)
{
    struct wal_options wal_options = {
        .dir_fd = db->dir_fd,
        .name = db->name,
        .checkpoint_lsn = db->store->file.checkpoint_lsn,
        .read_only = options->read_only,
        .skip_lsns = options->skip_lsns,
        .syncer = options->syncer,
        .on_broken = database_fall_back,
        .on_broken_ctx = db,
    };
    memcpy(wal_options.uuid, db->store->file.uuid, sizeof wal_options.uuid);
    struct replay replay = {.db = db};
    struct wal_recovery found;
    uint64_t begun = clock_ns();
    enum err_code rc = wal_open(&wal_options, replay_record, &replay, &db->wal, &found, err);
    mem_free(replay.list.ops);
    rc = database_check_read(db, &db->store->file, rc, err);
    if (rc) return rc;

    if (found.cut_bytes)
        log_warning("database \"%s\": cut a torn tail of %" PRIu64
                    " bytes off the log; none of it was acknowledged as durable",
                    db->name, found.cut_bytes);
    if (found.records) {
        log_write(options->reopened ? LOG_DEBUG : LOG_INFO,
                  "database \"%s\": replayed %" PRIu64 " log records (%" PRIu64
                  " bytes) in %.1f ms",
                  db->name, found.records, found.bytes, (double)(clock_ns() - begun) / 1e6);
        int os_errno = file_datasync(db->store->file.fd);
        if (os_errno)
            return err_set(err, ERR_QUARANTINED,
                           "its file could not be synced (%s); closed until a restart of the "
                           "server",
                           strerror(os_errno));
    }
    file_close(db->store->file.fd);
    db->store->file.fd = -1;
    return ERR_OK;
}

/* A file that this server may not use, or something else in its place: that will not pass. */
static enum err_code refused(enum err_code rc, struct err *err)
{
    bool is_denied = err->os_errno == EACCES || err->os_errno == EPERM || err->os_errno == EINVAL;
    if (rc == ERR_IO && is_denied) rc = err->code = ERR_QUARANTINED;
    return rc;
}

enum err_code database_open(int dir_fd, const char *name, const uint8_t uuid[16],
                            const struct database_open_options *options,
                            const struct database_host *host, struct database **out,
                            struct err *err)
{
    char file_name[160];
    snprintf(file_name, sizeof file_name, "%s.jvdb", name);
    struct database *db = NULL;
    struct manifest manifest = {0};
    struct disk_superblock sb;
    bool applied = false, alike = false;
    int fd = -1;
    int os_errno = file_open(dir_fd, file_name, options->read_only ? O_RDONLY : O_RDWR, &fd);
    if (os_errno == ENOENT) return err_set(err, ERR_CORRUPT, "the file %s is missing", file_name);
    if (os_errno == EINVAL) return err_set(err, ERR_CORRUPT, "%s is not a regular file", file_name);
    if (os_errno) return refused(err_os(err, os_errno, "open %s", file_name), err);

    enum err_code rc = superblock_read(fd, file_name, &sb, &alike, err);
    if (!rc)
        rc = checkpoint_apply_leftover(dir_fd, name, fd, options->read_only, &sb, &applied, err);
    if (!rc && applied) rc = superblock_read(fd, file_name, &sb, &alike, err);
    if (!rc && memcmp(sb.uuid, uuid, sizeof sb.uuid) != 0)
        rc = err_set(err, ERR_CORRUPT, "%s is another database than the one known by that name",
                     file_name);
    if (rc) goto out;

    db = database_new(name, &(struct schema){.dimension = 1}, dir_fd, host);
    db->reserve = options->reserve;
    db->read_only = options->read_only;
    rc = jvdb_file_init(&db->store->file, dir_fd, file_name, uuid, 1, err);
    if (!rc) rc = manifest_read(fd, &sb, &db->store->file, &manifest, err);
    if (rc) goto out;
    db->schema = manifest.schema;
    manifest.schema.options = NULL;
    vector_index_free(db->store->vectors); /* it was of no dimension yet */
    db->store->vectors = vector_index_new(&db->schema);
    db->store->row_bytes = db->store->file.shapes[REGION_VECTORS].cell_bytes;
    db->store->counts = manifest.counts;
    atomic_store(&db->store->index.root, manifest.counts.index_root);
    db->store->index.levels = manifest.counts.index_levels;
    db->store->index.nodes = manifest.counts.index_nodes;
    db->store->file.superblocks_alike = alike;
    db->reuse_lsn = sb.lsn; /* nobody reads yet */
    atomic_store(&db->checkpoint_lsn, sb.lsn);
    database_publish(db, sb.lsn);
    db->wal_bytes_max = options->wal_bytes_max;
    index_file_open(db->store, name, fd, &db->schema, &manifest);
    rc = open_log(db, options, err);
    if (!rc && wal_last_lsn(db->wal) < options->lsn_min)
        rc = wal_older_copy(name, wal_last_lsn(db->wal), options->lsn_min, err);
    if (rc) goto out;
    *out = db;
    db = NULL;
out:
    if (rc) rc = refused(rc, err);
    file_close(fd);
    manifest_deinit(&manifest);
    database_free(db);
    return rc;
}

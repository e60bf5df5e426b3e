/*
 * database_private.h - inside of an open database: for database.c, reader.c, checkpoint.c,
 * recovery.c and the engines.
 */
#ifndef STORAGE_DATABASE_PRIVATE_H
#define STORAGE_DATABASE_PRIVATE_H

#include <stdatomic.h>

#include "storage/base/lock.h"
#include "storage/database.h"
#include "storage/id_index.h"
#include "storage/index/vector_index.h"
#include "storage/jvdb_file.h"
#include "storage/kernel/kernel.h"
#include "storage/reserve.h"
#include "storage/wal.h"

/* What a client takes for a slow server, not for a hanging one. */
enum { WRITE_DELAY_US_MAX = 50000 };

enum patience {
    PATIENCE_NONE, /* ERR_WOULD_BLOCK rather than wait                         */
    PATIENCE_WAIT, /* make room first                                          */
    PATIENCE_FORCE /* a checkpoint: it must go on, over the limit if need be   */
};

/* How a database tells the table of open files (file_cache.c) that it holds one more. */
struct database_host {
    /* About to open a descriptor for writing, not under any lock. */
    enum err_code (*writer_opens)(void *ctx, enum patience patience, struct err *err);
    void (*writer_closed)(void *ctx);
    /* Something failed, under no lock now.  True: for want of descriptors or mappings, and some
     * other database was closed for it: try again. */
    bool (*relieve)(void *ctx, const struct err *err);
    /* The search index has work to be done in the background.  Not under any lock.  May be NULL. */
    void (*index_has_work)(void *ctx);
    void *ctx;
};

/* The rows: a file, the index over it, and the counts that belong to both.  Compaction puts another
 * store in its place; readers go on with the one that they began with. */
struct store {
    struct jvdb_file file;
    struct id_index index;
    struct disk_counts counts;     /* without the index_ members, which are index's */
    uint64_t row_bytes;            /* of a vector as it lies in the file, padding included */
    struct vector_index *vectors;  /* never NULL; the search index: index is that of ids */
    struct visibility *visibility; /* never NULL */
    struct columns *columns;       /* never NULL; of metadata */
    struct filter_cache *filters;  /* never NULL; what they found */
    /* What the file has of `vectors`: of which graph (0: of none), linked up to which position of
     * the pending.  Stored by the checkpoint. */
    _Atomic uint32_t saved_seed;
    _Atomic uint64_t saved_head;
};

/* Slots whose row was born or ended since a compaction began. */
struct touched {
    uint32_t *slots;
    size_t count, cap;
    bool lost; /* out of memory: the list is not complete */
};

struct database {
    /* Constant after open. */
    char name[NAME_BYTES_MAX + 1];
    struct schema schema; /* options owned */
    int dir_fd;           /* borrowed; -1: in memory */
    const struct kernel_set *kernels;
    struct database_host host;
    struct reserve *reserve; /* borrowed; NULL: none */
    bool read_only;          /* the storage directory cannot be written */
    void *owner;             /* the file cache's entry */
    uint64_t wal_bytes_max;  /* of the log before it is checkpointed; 0: no limit */

    /* Of the newest rows.  Replaced under both locks below; readers load it with the snapshot. */
    _Atomic(struct store *) store;

    struct mutex compact_mu;    /* LOCK_COMPACT */
    struct mutex checkpoint_mu; /* LOCK_CHECKPOINT: file.generation and so on */
    uint64_t ckpt_bytes_missed; /* size of the last .ckpt, if it did not fit; LOCK_CHECKPOINT */
    struct mutex writer;        /* LOCK_DATABASE: all that follows            */
    struct wal *wal;            /* NULL: in memory */
    uint64_t last_lsn;
    struct touched *touched; /* a compaction under way wants to know; else NULL */
    bool paused;             /* writers wait for `resumed` */
    pthread_cond_t resumed;
    uint64_t reuse_lsn; /* slots that died up to here may be used again */
    struct {
        uint64_t lsn; /* 0: none; becomes reuse_lsn when every reader of `epoch` has left */
        uint64_t epoch;
    } reuse_next;

    /* The published snapshot: three values and the store, under a version that is odd while they
     * change. */
    _Atomic uint32_t snapshot_version;
    _Atomic uint64_t visible_lsn;
    _Atomic uint64_t live_count;
    _Atomic uint32_t slot_count;

    /* ERR_OK, ERR_READ_ONLY or ERR_QUARANTINED: what every later write (or call) gets. */
    _Atomic int failed;
    /* Why it is quarantined; written once, before `failed` says so. */
    _Atomic bool reason_taken;
    char reason[sizeof((struct err *)0)->msg];

    struct {
        uint64_t wasteful_since_ns, not_before_ns;
    } compactor;                     /* compactor.c's */
    _Atomic bool dropping;           /* long work on it is pointless */
    _Atomic uint64_t hold_until_ns;  /* clock_ns(): no checkpoint by time before                */
    _Atomic uint32_t write_delay_us; /* of each write, while there is too much to be written out */

    /* For statistics; atomic, stored by the writer or the checkpoint. */
    _Atomic bool has_writer_fd;
    _Atomic uint64_t last_write_ns;
    _Atomic uint64_t dead_count;
    _Atomic uint64_t garbage_bytes;
    _Atomic uint64_t file_bytes;
    _Atomic uint64_t checkpoint_lsn;
    _Atomic uint64_t last_flush_at_ms;
    _Atomic uint64_t last_flush_ns;
};

/* ---- database.c ---- */

struct store *store_new(const struct schema *schema);
/* Unmap, close, free; nothing is written.  No reader is left.  NULL is fine. */
void store_free(struct store *store);
/* The same, when the last reader of it has left. */
void store_retire(struct store *store);

/* A database struct without files: for database_create() and database_open(). */
struct database *database_new(const char *name, const struct schema *schema, int dir_fd,
                              const struct database_host *host);
/* Unmap, close, free; nothing is written.  No reader, writer or waiter is left.  NULL is fine. */
void database_free(struct database *db);

/* One operation of a record, for writers and for replay alike.  ERR_CORRUPT. */
struct row_op {
    struct disk_wal_op head;
    const char *text;
    const char *metadata;
    const float *vector;
    uint64_t lsn;  /* for its record */
    bool replaced; /* out of database_apply(): the put ended a live row of its id */
};
/* Room for the operations of a record; starts as {0}, mem_free(ops) at the end. */
struct row_op_list {
    struct row_op *ops;
    size_t cap;
};
MUST_CHECK enum err_code database_apply(struct database *db, uint64_t lsn, struct row_op *op,
                                        struct err *err);
/* Room for so many slots, bytes of records, and keys in the index. */
MUST_CHECK enum err_code database_reserve(struct database *db, uint64_t slots,
                                          uint64_t records_bytes, uint64_t keys, struct err *err);
/* Write the rows of put operations into their slots. */
MUST_CHECK enum err_code database_write_rows(struct database *db, const struct row_op *ops,
                                             size_t count, struct err *err);
/* Make what was applied up to `lsn` visible. */
void database_publish(struct database *db, uint64_t lsn);
/* wal_options.on_broken: show readers no more than what was acknowledged.  What later writes ended
 * or replaced is there still: its slots are used again only behind a checkpoint, which has synced
 * the log first. */
void database_fall_back(void *ctx);
/* The same, in another store: readers that begin from now on see `store`; the old one is to be
 * given to store_retire(). */
void database_publish_store(struct database *db, uint64_t lsn, struct store *store);
uint32_t database_row_crc(const struct database *db, const struct disk_wal_op *op,
                          const float *vector);
/* It was quarantined or became read-only while it was open: *err.  Opened again it would forget. */
bool database_has_failed(struct database *db, struct err *err);
/* Damage was found: everything but closing is refused from now on. */
void database_quarantine(struct database *db, const struct err *err);
/* Quarantine the database because `what` ("a slot") is damaged; returns ERR_CORRUPT. */
enum err_code database_damaged(struct database *db, const char *what, struct err *err);
/* To be asked after reading from a file, before what was read is used: `rc` as it is if all that
 * was read is good; else ERR_CORRUPT, and the database is quarantined (jvdb_file_is_lost()). */
MUST_CHECK enum err_code database_check_read(struct database *db, struct jvdb_file *file,
                                             enum err_code rc, struct err *err);
/* ERR_QUARANTINED after damage; for writes also ERR_READ_ONLY after a failed sync. */
MUST_CHECK enum err_code database_check_readable(struct database *db, struct err *err);
MUST_CHECK enum err_code database_check_writable(struct database *db, struct err *err);
/* Rows were written that the file's checkpoint does not hold. */
bool database_is_dirty(struct database *db);
/* What a stop would have to write, about: the log stands for the rows, which are as many bytes in
 * the file; a block that changed is written twice. */
uint64_t database_dirty_bytes(struct database *db);
/* A flush by hand was not long ago: the file stays as it is, so that it can be copied, unless the
 * log has reached its limit. */
bool database_is_held(struct database *db);
/* If the descriptor for writing was not used for a while: sync and close it. */
void database_close_idle_writer(struct database *db, uint64_t idle_ns);
/* Something failed with `err`, and no lock is held: true if it is worth another try, the
 * `attempt`-th (from 0), because others gave up descriptors or mappings for it. */
bool database_relieve(struct database *db, int attempt, const struct err *err);
/* What its search index says of itself.  Any thread, while the database cannot be closed. */
void database_index_info(struct database *db, struct vector_index_info *info);
/* The descriptor is open, and the host knows.  Call before taking `writer`. */
MUST_CHECK enum err_code database_writer_ready(struct database *db, enum patience patience,
                                               struct err *err);
/* Take `writer` with a descriptor to write through and a log to append to.  ERR_WOULD_BLOCK and
 * whatever can keep these from being there. */
MUST_CHECK enum err_code database_lock_writer(struct database *db, bool may_block, struct err *err);
/* Under `writer`: log the operations as one record, apply and publish them.  If logging fails,
 * nothing has happened. */
MUST_CHECK enum err_code database_commit(struct database *db, struct row_op *ops, size_t count,
                                         uint64_t *lsn, struct err *err);

/* Memory of what filters use (visibility.h, filter/columns.h, filter/filter_cache.h) in bytes.  Any
 * thread. */
uint64_t database_filter_bytes(struct database *db);

/* ---- reader.c ---- */

struct record; /* records.h */

/* R: is the row of this slot part of the snapshot? */
bool slot_is_visible(const struct slot *s, uint64_t lsn, uint64_t now_ms);
/* R: the slot of the row with this id in the snapshot.  ERR_VECTOR_NOT_FOUND, ERR_CORRUPT. */
MUST_CHECK enum err_code reader_find(struct reader *r, const struct vector_id *id,
                                     uint32_t *slot_number, struct err *err);
/* R: the vector of a slot, its checksum compared on the first touch.  NULL: damaged. */
const float *slot_vector(struct reader *r, uint32_t slot_number, const struct slot *s);
/* R: id and metadata of a visible slot, "{}" if it has none.  ERR_CORRUPT, ERR_NOMEM. */
MUST_CHECK enum err_code slot_metadata(struct reader *r, const struct slot *s, struct vector_id *id,
                                       struct record *record, struct err *err);
/* R: everything of a visible slot. */
MUST_CHECK enum err_code slot_row(struct reader *r, uint32_t slot_number, const struct slot *s,
                                  struct row *row, struct err *err);

/* ---- recovery.c ---- */

struct database_open_options {
    struct syncer *syncer;
    struct reserve *reserve; /* may be NULL; outlives the database */
    bool skip_lsns;          /* wal_options.skip_lsns */
    bool read_only;          /* the storage directory cannot be written */
    bool reopened;           /* the LRU closed it in this process: a replay is no news */
    uint64_t lsn_min;        /* it was known to hold this: less is an older copy */
    uint64_t wal_bytes_max;  /* database.wal_bytes_max */
};
/* Make the files of a new database: durable when this returns. */
MUST_CHECK enum err_code database_create_files(int dir_fd, const char *name, const uint8_t uuid[16],
                                               const struct schema *schema, struct err *err);
/* A file that was copied in without a log gets an empty one, from its checkpoint's LSN on. */
MUST_CHECK enum err_code database_adopt_files(int dir_fd, const char *name, const uint8_t uuid[16],
                                              uint64_t checkpoint_lsn, struct err *err);
/* Give the file of a copy (open as `fd`) a uuid of its own.  Refuses one whose log or checkpoint
 * holds more than the file. */
MUST_CHECK enum err_code database_stamp_copy(int dir_fd, const char *name, int fd,
                                             struct disk_superblock *sb, const uint8_t uuid[16],
                                             struct err *err);
/* The operations of a record of rows, pointing into it: record->op_count of them in list->ops.
 * ERR_CORRUPT: it does not hold what it says, or not for this dimension; ERR_NOMEM. */
MUST_CHECK enum err_code database_parse_ops(struct database *db,
                                            const struct disk_wal_record *record,
                                            const uint8_t *bytes, uint64_t size,
                                            struct row_op_list *list, struct err *err);
/* Open one: apply a leftover .ckpt, map, replay the log. */
MUST_CHECK enum err_code database_open(int dir_fd, const char *name, const uint8_t uuid[16],
                                       const struct database_open_options *options,
                                       const struct database_host *host, struct database **out,
                                       struct err *err);

#endif

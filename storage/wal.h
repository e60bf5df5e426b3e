/*
 * wal.h - the write-ahead log of one database: what is acknowledged can be redone.
 *
 * Records are numbered by LSN without gaps and chained by checksum; they lie in segments
 * `<name>.wal.N`.  A checkpoint switches to a new segment and afterwards drops the older ones.
 * docs/FORMAT.md has the bytes, and the rule that tells a torn tail (cut) from damage (refused).
 *
 * Threads: wal_append(), wal_switch() under the database's writer lock; wal_prepare() and
 * wal_drop_old() under its checkpoint lock; wal_await(), wal_sync() and the getters anywhere.
 */
#ifndef STORAGE_WAL_H
#define STORAGE_WAL_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "storage/base/err.h"
#include "storage/format.h"

struct wal;
struct syncer;

struct wal_options {
    int dir_fd;       /* borrowed for the life of the log */
    const char *name; /* of the database */
    uint8_t uuid[16];
    uint64_t checkpoint_lsn; /* what the file holds already */
    bool create;             /* it is right that there may be no log of this uuid yet */
    bool read_only;          /* nothing will be appended */
    bool
        skip_lsns; /* numbers may have been given to writes that are lost: leave 2^20 of them out */
    struct syncer *syncer; /* who makes wal_await() come true */
    /* Called once if the log breaks, before anybody who waits is told so, under no lock of the log:
     * the time to hide what was not acknowledged (wal_kept_lsn()).  May be NULL. */
    void (*on_broken)(void *ctx);
    void *on_broken_ctx;
};

/* What was found at open. */
struct wal_recovery {
    uint64_t records;   /* replayed                                             */
    uint64_t bytes;     /* of them                                              */
    uint64_t cut_bytes; /* torn tail that was left behind: never acknowledged   */
    uint32_t segments;
};

/* Called for each record of rows behind the checkpoint, in LSN order.  `ops` is what follows the
 * record's head; valid during the call.  Anything but ERR_OK ends wal_open(). */
typedef enum err_code wal_replay_fn(void *ctx, const struct disk_wal_record *record,
                                    const uint8_t *ops, uint64_t ops_bytes, struct err *err);

/* ERR_CORRUPT: damaged before its tail, missing, or it does not reach back to the file's LSN.
 * Writes nothing to the segments it reads. */
MUST_CHECK enum err_code wal_open(const struct wal_options *options, wal_replay_fn *replay,
                                  void *ctx, struct wal **out, struct wal_recovery *found,
                                  struct err *err);
/* ERR_CORRUPT: the file of `name` ends at `file_lsn`, although `known_lsn` was given before; with
 * the way out. */
enum err_code wal_older_copy(const char *name, uint64_t file_lsn, uint64_t known_lsn,
                             struct err *err);
/* The caller guarantees that nobody waits.  Does not sync.  NULL is fine. */
void wal_close(struct wal *wal);
/* Has the database a segment, of whatever content? */
bool wal_exists(int dir_fd, const char *name);
/* Remove every segment of `name` in the directory (a dropped database). */
MUST_CHECK enum err_code wal_remove(int dir_fd, const char *name, struct err *err);

/* False until a segment is started: wal_prepare() and wal_switch() first (an open log that was only
 * read has none, so that opening needs no sync). */
bool wal_is_started(struct wal *wal);
/* Have a segment file that is durable by name, ready for wal_switch().  Syncs. */
MUST_CHECK enum err_code wal_prepare(struct wal *wal, struct err *err);
/* Go on in the prepared segment.  Cannot wait for a disk. */
MUST_CHECK enum err_code wal_switch(struct wal *wal, struct err *err);
/* Sync the current segment, header and all. */
MUST_CHECK enum err_code wal_sync_segment(struct wal *wal, struct err *err);
/* Drop every segment but the current one.  Their records are in the file, which is synced. */
void wal_drop_old(struct wal *wal);

/* Append one record; the head's crc, bytes, lsn, durable_lsn and previous_crc are filled in here.
 * iov[0] must be the head; iov may be changed and has room for one more behind iov_count.  On
 * failure nothing was appended, and what a torn write left was cut off.  ERR_STORAGE_FULL and
 * ERR_NOMEM: try again later.  ERR_READ_ONLY: the log is broken, by this write or before. */
MUST_CHECK enum err_code wal_append(struct wal *wal, struct disk_wal_record *head,
                                    struct iovec *iov, int iov_count, uint64_t *lsn,
                                    struct err *err);

uint64_t wal_last_lsn(struct wal *wal);
uint64_t wal_next_lsn(struct wal *wal); /* of the next append; stable under the writer lock */
uint64_t wal_durable_lsn(struct wal *wal);
uint64_t wal_bytes(struct wal *wal); /* records in all segments */
/* How many segments an opening would read.  There is an end to their number (wal_prepare() says
 * ERR_OVERLOADED), and only a checkpoint makes them fewer. */
size_t wal_segments(struct wal *wal);
enum { WAL_SEGMENTS_MANY = 16 }; /* time for a checkpoint before another one is started */
bool wal_is_broken(struct wal *wal);
/* Up to here writes were acknowledged, as durable or by wal_acknowledge(), when the log broke;
 * final from then on. */
uint64_t wal_kept_lsn(struct wal *wal);
uint64_t wal_unsynced_since_ns(
    struct wal *wal); /* clock_ns() of the oldest unsynced record; 0: none */

/* Make everything appended so far durable; callers share one fdatasync.  A failure is final: the
 * kernel may have dropped the pages, so the log takes no more records. */
MUST_CHECK enum err_code wal_sync(struct wal *wal, struct err *err);

/* The write `lsn` is about to be acknowledged without a sync (periodic durability).  False: the log
 * broke first, and it must not be. */
MUST_CHECK bool wal_acknowledge(struct wal *wal, uint64_t lsn);

/* Have a syncer thread do it soon; who waits is told. */
void wal_sync_soon(struct wal *wal);

typedef void wal_durable_fn(void *ctx, enum err_code rc);
/* True: everything up to `lsn` is durable.  False: fn(ctx, rc) will be called by a syncer thread.
 */
bool wal_await(struct wal *wal, uint64_t lsn, wal_durable_fn *fn, void *ctx);

/* ---- for syncer.c ---- */
struct wal_queue_link {
    struct wal *next;
    int state;
};
struct wal_queue_link *wal_queue_link(struct wal *wal);

#endif

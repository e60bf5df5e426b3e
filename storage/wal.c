/*
 * wal.c - segments, appending, group commit, replay.
 *
 * SEGMENTS.  Files `<name>.wal.0` .. `.63`.  A segment's header says its sequence number, its base
 * (the LSN of its first record), the LSN it goes on after, and a salt that is part of every
 * record's checksum, so that the stale records of a recycled file are never taken for new ones.
 * A later segment supersedes earlier ones from its `after` on.
 *
 * THE TAIL.  Unsynced pages reach the disk in any order, so a bad record is no proof of damage: it
 * is the torn tail unless a later, intact record says (durable_lsn) that it had been on disk.  Then
 * it is damage, and the log is refused.  Recovery never writes to the segments it read; it goes on
 * in a new one.
 *
 * GROUP COMMIT.  One fdatasync at a time; everybody whose record was appended before it began rides
 * along.  The segment before the current one is synced first, so that no record is durable before
 * its predecessors.
 *
 * BROKEN.  A failed sync is never tried again: the kernel reports it once and may have dropped the
 * pages.  Nor is a record appended behind one whose write failed, unless for want of room.  The log
 * is broken then until it is opened again: what had been acknowledged is kept, what had not is
 * hidden (on_broken), and only then the waiters are told.
 */
#include "storage/wal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "storage/base/clock.h"
#include "storage/base/crc32c.h"
#include "storage/base/file.h"
#include "storage/base/guard.h"
#include "storage/base/lock.h"
#include "storage/base/log.h"
#include "storage/base/mem.h"
#include "storage/base/metrics.h"
#include "storage/syncer.h"
#include "storage/wal_segment.h"

enum {
    SEGMENTS_RESERVED = 4, /* for the next start: it must be able to checkpoint */
    GROW_BYTES = 1 << 20,
    UNSYNCED_BYTES_MAX = 8 << 20, /* then it is synced, whoever may be waiting for it */
};
#define LSN_SKIP (1ull << 20)

struct segment {
    int number; /* of the file */
    int fd;
    uint64_t sequence;
    uint64_t base_lsn;
    uint64_t after_lsn;
    uint64_t salt;
    uint64_t end;       /* offset behind the last record */
    uint64_t allocated; /* file size */
    uint32_t last_crc;  /* of the last record, 0: none */
};

struct waiter {
    struct waiter *next;
    uint64_t lsn;
    wal_durable_fn *fn;
    void *ctx;
};

struct wal {
    /* Constant after open. */
    int dir_fd;
    char name[160];
    uint8_t uuid[16];
    struct syncer *syncer;
    struct wal_queue_link queue_link; /* the syncer's */

    struct mutex mu; /* LOCK_WAL; the current segment is also the writer's own */
    pthread_cond_t idle;
    struct segment current; /* fd -1: not started */
    struct segment next;    /* prepared, fd -1: none */
    struct segment old[WAL_SEGMENTS_MAX];
    size_t old_count;
    uint64_t used_numbers;   /* bit n: file n exists                                   */
    uint64_t spares;         /* of them: hold nothing, can be used again               */
    uint64_t durable_spares; /* of those: sure to keep its name if the power fails     */
    uint64_t sequence;
    uint64_t last_lsn;
    uint64_t next_lsn; /* last_lsn + 1, or more after an unclean stop */
    int previous_fd;   /* a segment that must be synced before the current one; -1: none */
    uint64_t previous_from, previous_end; /* what of it is not synced yet */
    uint64_t synced_end;                  /* of the current one */
    bool header_unsynced;                 /* of the current one */
    bool syncing;
    int broken_errno;
    bool broken_told;          /* on_broken() has returned */
    uint64_t acknowledged_lsn; /* the last one given to wal_acknowledge() */
    void (*on_broken)(void *ctx);
    void *on_broken_ctx;
    uint64_t unsynced_since_ns;
    struct waiter *waiters;
    _Atomic uint64_t durable_lsn;
    _Atomic uint64_t bytes;
};

/* What a segment is called until it is complete. */
static void new_segment_name(const char *name, char text[200])
{
    snprintf(text, 200, "%s.wal.tmp", name);
}

/* ---- records ---- */

static bool record_is_intact(const uint8_t *bytes, uint64_t size, uint64_t at, uint64_t salt)
{
    const struct disk_wal_record *r = (const void *)(bytes + at);
    if (at + sizeof *r > size || r->bytes < sizeof *r || r->bytes > size - at) return false;
    return crc32c(wal_record_crc_start(salt), (const uint8_t *)r + sizeof r->crc,
                  r->bytes - sizeof r->crc) == r->crc;
}

static enum err_code broken_err(const struct wal *wal, struct err *err)
{
    return err_set(err, ERR_READ_ONLY,
                   "database \"%s\" is read-only until restart: its log could not be written",
                   wal->name);
}

static void break_log(struct wal *wal, int os_errno, const char *what)
{
    mutex_assert_held(&wal->mu);
    if (wal->broken_errno) return;
    wal->broken_errno = os_errno;
    wal->unsynced_since_ns = 0;
    log_error("database \"%s\" is read-only until restart: %s its log failed: %s", wal->name, what,
              strerror(os_errno));
}

/* The write of a record failed.  Part of it may be in the file: a head of zeros is no record. */
static enum err_code append_failed(struct wal *wal, int os_errno, struct err *err)
{
    static const struct disk_wal_record nothing;
    int cut_errno = file_write(wal->current.fd, &nothing, sizeof nothing, wal->current.end);
    err_os(err, os_errno, "append to the log of \"%s\"", wal->name);
    if (!cut_errno && (err->code == ERR_STORAGE_FULL || err->code == ERR_NOMEM)) return err->code;
    mutex_lock(&wal->mu);
    break_log(wal, os_errno, "writing");
    mutex_unlock(&wal->mu);
    /* Those who wait for earlier records are told by a syncer thread: this one holds locks. */
    if (wal->syncer) syncer_kick(wal->syncer, wal);
    return broken_err(wal, err);
}

enum err_code wal_append(struct wal *wal, struct disk_wal_record *head, struct iovec *iov,
                         int iov_count, uint64_t *lsn, struct err *err)
{
    static const char zeros[8];
    struct segment *seg = &wal->current;
    assert(seg->fd >= 0 && iov[0].iov_base == head);

    mutex_lock(&wal->mu);
    int broken = wal->broken_errno;
    uint64_t next = wal->next_lsn;
    mutex_unlock(&wal->mu);
    if (broken) return broken_err(wal, err);

    uint64_t bytes = 0;
    for (int i = 0; i < iov_count; i++)
        bytes += iov[i].iov_len;
    if (bytes > UINT32_MAX / 2)
        return err_set(err, ERR_PAYLOAD_TOO_LARGE, "a write of %" PRIu64 " bytes is too large",
                       bytes);
    head->bytes = (uint32_t)bytes;
    head->lsn = next;
    head->durable_lsn = wal_durable_lsn(wal);
    head->previous_crc = seg->last_crc;
    uint32_t crc = crc32c(wal_record_crc_start(seg->salt), (const uint8_t *)head + sizeof head->crc,
                          sizeof *head - sizeof head->crc);
    for (int i = 1; i < iov_count; i++)
        crc = crc32c(crc, iov[i].iov_base, iov[i].iov_len);
    head->crc = crc;

    uint64_t end = seg->end + wal_padded(bytes);
    if (end > seg->allocated) {
        uint64_t grow = end - seg->allocated;
        if (grow < GROW_BYTES && seg->allocated >= GROW_BYTES) grow = GROW_BYTES;
        if (grow < seg->allocated && seg->allocated < GROW_BYTES) grow = seg->allocated;
        int os_errno = file_allocate(seg->fd, seg->allocated, grow);
        if (os_errno) return err_os(err, os_errno, "extend the log of \"%s\"", wal->name);
        seg->allocated += grow;
    }
    iov[iov_count] = (struct iovec){(void *)(uintptr_t)zeros, wal_padded(bytes) - bytes};
    int os_errno = file_writev(seg->fd, iov, iov_count + 1, seg->end);
    if (os_errno) return append_failed(wal, os_errno, err);

    mutex_lock(&wal->mu);
    seg->end = end;
    seg->last_crc = crc;
    wal->last_lsn = next;
    wal->next_lsn = next + 1;
    if (!wal->unsynced_since_ns) wal->unsynced_since_ns = clock_ns();
    /* A write that waits for its sync should not wait for a second's worth of others. */
    bool is_much = wal->syncer && seg->end - wal->synced_end >= UNSYNCED_BYTES_MAX;
    atomic_fetch_add_explicit(&wal->bytes, wal_padded(bytes), memory_order_relaxed);
    mutex_unlock(&wal->mu);
    if (is_much) syncer_kick(wal->syncer, wal);
    stat_add(STAT_WAL_RECORDS, 1);
    *lsn = next;
    return ERR_OK;
}

/* ---- syncing ---- */

uint64_t wal_durable_lsn(struct wal *wal)
{
    return atomic_load_explicit(&wal->durable_lsn, memory_order_acquire);
}

uint64_t wal_last_lsn(struct wal *wal)
{
    mutex_lock(&wal->mu);
    uint64_t lsn = wal->last_lsn;
    mutex_unlock(&wal->mu);
    return lsn;
}

uint64_t wal_next_lsn(struct wal *wal)
{
    mutex_lock(&wal->mu);
    uint64_t lsn = wal->next_lsn;
    mutex_unlock(&wal->mu);
    return lsn;
}

uint64_t wal_bytes(struct wal *wal)
{
    return atomic_load_explicit(&wal->bytes, memory_order_relaxed);
}

size_t wal_segments(struct wal *wal)
{
    mutex_lock(&wal->mu);
    size_t count = wal->old_count + (wal->current.fd >= 0);
    mutex_unlock(&wal->mu);
    return count;
}

bool wal_is_broken(struct wal *wal)
{
    mutex_lock(&wal->mu);
    bool broken = wal->broken_errno != 0;
    mutex_unlock(&wal->mu);
    return broken;
}

uint64_t wal_kept_lsn(struct wal *wal)
{
    mutex_lock(&wal->mu);
    uint64_t durable = wal_durable_lsn(wal);
    uint64_t kept = wal->acknowledged_lsn > durable ? wal->acknowledged_lsn : durable;
    mutex_unlock(&wal->mu);
    return kept;
}

bool wal_acknowledge(struct wal *wal, uint64_t lsn)
{
    mutex_lock(&wal->mu);
    if (!wal->broken_errno && lsn > wal->acknowledged_lsn) wal->acknowledged_lsn = lsn;
    bool acknowledged = lsn <= wal->acknowledged_lsn || lsn <= wal_durable_lsn(wal);
    mutex_unlock(&wal->mu);
    return acknowledged;
}

uint64_t wal_unsynced_since_ns(struct wal *wal)
{
    mutex_lock(&wal->mu);
    uint64_t ns = wal->unsynced_since_ns;
    mutex_unlock(&wal->mu);
    return ns;
}

struct wal_queue_link *wal_queue_link(struct wal *wal)
{
    return &wal->queue_link;
}

/* Take those out of the list that need not wait any longer. */
static struct waiter *take_waiters(struct wal *wal, bool all)
{
    mutex_assert_held(&wal->mu);
    uint64_t durable = wal_durable_lsn(wal);
    struct waiter *taken = NULL, **link = &wal->waiters;
    while (*link) {
        struct waiter *w = *link;
        if (!all && w->lsn > durable) {
            link = &w->next;
            continue;
        }
        *link = w->next;
        w->next = taken;
        taken = w;
    }
    return taken;
}

/* What was not acknowledged is hidden before anybody hears that it is lost. */
static void tell_broken(struct wal *wal)
{
    mutex_assert_held(&wal->mu);
    wal->broken_told = true;
    if (!wal->on_broken) return;
    wal->syncing = true; /* others who come to wait, wait for this */
    mutex_unlock(&wal->mu);
    wal->on_broken(wal->on_broken_ctx);
    mutex_lock(&wal->mu);
    wal->syncing = false;
    pthread_cond_broadcast(&wal->idle);
}

enum err_code wal_sync(struct wal *wal, struct err *err)
{
    enum err_code rc = ERR_OK;
    struct waiter *taken = NULL;
    mutex_lock(&wal->mu);
    uint64_t wanted = wal->last_lsn;
    while (wal->syncing)
        mutex_wait(&wal->idle, &wal->mu);
    if (!wal->broken_errno &&
        (wal_durable_lsn(wal) < wanted || wal->previous_fd >= 0 || wal->header_unsynced)) {
        uint64_t target = wal->last_lsn;
        int previous = wal->previous_fd, fd = wal->current.fd;
        uint64_t previous_from = wal->previous_from, previous_end = wal->previous_end;
        uint64_t from = wal->synced_end, end = fd >= 0 ? wal->current.end : 0;
        wal->syncing = true;
        wal->unsynced_since_ns = 0;
        mutex_unlock(&wal->mu);

        uint64_t begun = clock_ns();
        int os_errno = 0;
        if (previous >= 0) os_errno = file_write_back(previous, previous_from, previous_end);
        if (!os_errno && previous >= 0) os_errno = file_datasync(previous);
        if (!os_errno && fd >= 0) os_errno = file_write_back(fd, from, end);
        if (!os_errno && fd >= 0) os_errno = file_datasync(fd);
        stat_add(STAT_WAL_SYNCS, 1);
        stat_observe(STAT_WAL_SYNC_SECONDS, clock_ns() - begun);

        mutex_lock(&wal->mu);
        wal->syncing = false;
        if (os_errno) {
            break_log(wal, os_errno, "syncing");
        } else {
            /* Pairs with wal_durable_lsn(). */
            atomic_store_explicit(&wal->durable_lsn, target, memory_order_release);
            if (wal->previous_fd == previous) wal->previous_fd = -1;
            if (wal->current.fd == fd) {
                wal->header_unsynced = false;
                wal->synced_end = end;
            } else if (wal->previous_fd == fd) {
                wal->previous_from = end;
            }
        }
        pthread_cond_broadcast(&wal->idle);
    }
    if (wal->broken_errno && !wal->broken_told) tell_broken(wal);
    taken = take_waiters(wal, wal->broken_errno != 0);
    if (wal->broken_errno) rc = broken_err(wal, err);
    mutex_unlock(&wal->mu);

    while (taken) {
        struct waiter *next = taken->next;
        taken->fn(taken->ctx, taken->lsn <= wal_durable_lsn(wal) ? ERR_OK : ERR_READ_ONLY);
        mem_free(taken);
        taken = next;
    }
    return rc;
}

void wal_sync_soon(struct wal *wal)
{
    if (wal->syncer) syncer_kick(wal->syncer, wal);
}

bool wal_await(struct wal *wal, uint64_t lsn, wal_durable_fn *fn, void *ctx)
{
    if (wal_durable_lsn(wal) >= lsn) return true;
    struct waiter *w = mem_new(struct waiter);
    *w = (struct waiter){.lsn = lsn, .fn = fn, .ctx = ctx};
    mutex_lock(&wal->mu);
    w->next = wal->waiters;
    wal->waiters = w;
    mutex_unlock(&wal->mu);
    syncer_kick(wal->syncer, wal);
    return false;
}

/* ---- segments ---- */

static int write_header(const struct wal *wal, const struct segment *seg)
{
    struct disk_wal_header h = {
        .magic = WAL_MAGIC,
        .format_version = FORMAT_VERSION,
        .sequence = seg->sequence,
        .base_lsn = seg->base_lsn,
        .after_lsn = seg->after_lsn,
        .salt = seg->salt,
    };
    memcpy(h.magic, WAL_MAGIC, sizeof h.magic);
    memcpy(h.uuid, wal->uuid, sizeof h.uuid);
    h.crc = wal_header_crc(&h);
    uint8_t sector[WAL_HEADER_BYTES] = {0};
    memcpy(sector, &h, sizeof h);
    return file_write(seg->fd, sector, sizeof sector, 0);
}

bool wal_is_started(struct wal *wal)
{
    mutex_lock(&wal->mu);
    bool started = wal->current.fd >= 0;
    mutex_unlock(&wal->mu);
    return started;
}

/* A current segment without a record is as good as a new one, unless somebody has removed it. */
static bool is_unused(struct wal *wal)
{
    mutex_lock(&wal->mu);
    bool unused = wal->current.fd >= 0 && wal->current.end == WAL_HEADER_BYTES &&
                  file_has_name(wal->current.fd);
    mutex_unlock(&wal->mu);
    return unused;
}

/* Go on in a file that is there and is sure to keep its name. */
static int take_spare(struct wal *wal, struct segment *seg, const char *file_name)
{
    int os_errno = file_open(wal->dir_fd, file_name, O_RDWR, &seg->fd);
    if (!os_errno) os_errno = file_size(seg->fd, &seg->allocated);
    /* Somebody has removed it. */
    if (os_errno == ENOENT) wal->durable_spares &= ~(1ull << seg->number);
    return os_errno;
}

/* Durable before it has its name: what a power cut leaves of a new file may be anything, and a bad
 * header under that name is taken for damage.  If a sync fails here, the next call does not try it
 * again: it makes another file, and renames that. */
static int make_spare(struct wal *wal, struct segment *seg, const char *new_name,
                      const char *file_name)
{
    int os_errno = file_open(wal->dir_fd, new_name, O_RDWR | O_CREAT | O_TRUNC, &seg->fd);
    if (!os_errno) os_errno = file_allocate(seg->fd, 0, WAL_PREALLOCATED_BYTES);
    seg->allocated = WAL_PREALLOCATED_BYTES;
    if (!os_errno) os_errno = write_header(wal, seg);
    if (!os_errno) os_errno = file_datasync(seg->fd);
    if (!os_errno) os_errno = file_rename(wal->dir_fd, new_name, file_name);
    if (os_errno) return os_errno;
    wal->used_numbers |= 1ull << seg->number;
    wal->spares |= 1ull << seg->number;
    return file_sync(wal->dir_fd);
}

enum err_code wal_prepare(struct wal *wal, struct err *err)
{
    if (wal->next.fd >= 0) return ERR_OK;
    struct segment seg = {.fd = -1, .end = WAL_HEADER_BYTES};
    char file_name[WAL_SEGMENT_NAME_BYTES], new_name[200];
    new_segment_name(wal->name, new_name);
    if (getrandom(&seg.salt, sizeof seg.salt, 0) != sizeof seg.salt)
        return err_os(err, errno, "get random numbers");

    uint64_t numbers = wal->durable_spares ? wal->durable_spares : wal->spares;
    int used = __builtin_popcountll(wal->used_numbers);
    bool reserved = wal->current.fd >= 0 && used >= WAL_SEGMENTS_MAX - SEGMENTS_RESERVED;
    if (!numbers && !reserved) numbers = ~wal->used_numbers;
    if (!numbers)
        return err_set(err, ERR_OVERLOADED, "the log of \"%s\" has %d segments", wal->name,
                       WAL_SEGMENTS_MAX);
    seg.number = __builtin_ctzll(numbers);
    uint64_t bit = 1ull << seg.number;
    wal_segment_name(wal->name, seg.number, file_name);
    int os_errno = ENOENT;
    if (wal->durable_spares & bit) os_errno = take_spare(wal, &seg, file_name);
    if (os_errno == ENOENT) os_errno = make_spare(wal, &seg, new_name, file_name);
    if (os_errno) {
        file_close(seg.fd);
        int ignored = file_unlink(wal->dir_fd, new_name); /* it may have taken the last inode */
        (void)ignored;
        return err_os(err, os_errno, "prepare log segment %s", file_name);
    }
    wal->spares &= ~bit;
    wal->durable_spares &= ~bit;
    wal->next = seg;
    return ERR_OK;
}

enum err_code wal_switch(struct wal *wal, struct err *err)
{
    if (is_unused(wal)) return ERR_OK;
    assert(wal->next.fd >= 0);
    mutex_lock(&wal->mu);
    struct segment seg = wal->next;
    seg.sequence = wal->sequence + 1;
    seg.after_lsn = wal->last_lsn;
    seg.base_lsn = wal->next_lsn;
    int os_errno = wal->broken_errno ? EIO : write_header(wal, &seg);
    if (os_errno) {
        mutex_unlock(&wal->mu);
        return err_os(err, os_errno, "start a log segment of \"%s\"", wal->name);
    }
    if (wal->current.fd >= 0) {
        assert(wal->old_count < WAL_SEGMENTS_MAX);
        wal->old[wal->old_count++] = wal->current;
        /* At most one is unsynced: wal_sync() comes between two switches (checkpoint.c). */
        if (wal_durable_lsn(wal) < wal->last_lsn) {
            wal->previous_fd = wal->current.fd;
            wal->previous_from = wal->synced_end;
            wal->previous_end = wal->current.end;
        }
    }
    wal->synced_end = 0;
    wal->sequence = seg.sequence;
    wal->current = seg;
    wal->header_unsynced = true;
    wal->next.fd = -1;
    mutex_unlock(&wal->mu);
    return ERR_OK;
}

enum err_code wal_sync_segment(struct wal *wal, struct err *err)
{
    int os_errno = file_datasync(wal->current.fd);
    if (os_errno) return err_os(err, os_errno, "sync the log of \"%s\"", wal->name);
    return ERR_OK;
}

void wal_drop_old(struct wal *wal)
{
    struct segment old[WAL_SEGMENTS_MAX];
    mutex_lock(&wal->mu);
    while (wal->syncing)
        mutex_wait(&wal->idle, &wal->mu);
    size_t count = wal->old_count;
    memcpy(old, wal->old, count * sizeof old[0]);
    wal->old_count = 0;
    atomic_store_explicit(&wal->bytes, wal->current.end - WAL_HEADER_BYTES, memory_order_relaxed);
    mutex_unlock(&wal->mu);

    for (size_t i = 0; i < count; i++) {
        /* One is kept for the next checkpoint: a file that exists needs no sync of the directory.
         * Nothing in it may pass for a log: an older copy of the .jvdb is not to be replayed with
         * half of what it missed. */
        bool keep = !wal->durable_spares && old[i].fd >= 0 && file_has_name(old[i].fd);
        if (keep) {
            struct segment nothing = {.fd = old[i].fd, .salt = old[i].salt};
            keep = write_header(wal, &nothing) == 0;
        }
        if (keep && old[i].allocated > WAL_PREALLOCATED_BYTES)
            keep = file_truncate(old[i].fd, WAL_PREALLOCATED_BYTES) == 0;
        file_close(old[i].fd);
        wal->spares |= 1ull << old[i].number;
        if (keep) wal->durable_spares |= 1ull << old[i].number;
    }
    for (uint64_t left_over = wal->spares & ~wal->durable_spares; left_over;
         left_over &= left_over - 1) {
        char file_name[WAL_SEGMENT_NAME_BYTES];
        int number = __builtin_ctzll(left_over);
        wal_segment_name(wal->name, number, file_name);
        if (file_unlink(wal->dir_fd, file_name) != 0) continue;
        wal->spares &= ~(1ull << number);
        wal->used_numbers &= ~(1ull << number);
    }
}

/* ---- open ---- */

struct replay {
    struct wal *wal;
    uint64_t checkpoint_lsn;
    wal_replay_fn *fn;
    void *ctx;
    struct wal_recovery *found;
    uint64_t lsn;     /* last record that counts          */
    uint64_t cut_lsn; /* first one that does not; 0: none */
};

static int by_sequence(const void *a, const void *b)
{
    const struct segment *x = a, *y = b;
    return x->sequence < y->sequence ? -1 : x->sequence > y->sequence;
}

/* An intact record behind the bad one that had seen it durable: damage, not a torn tail. */
static enum err_code look_for_evidence(const struct replay *rp, const struct segment *seg,
                                       const uint8_t *bytes, uint64_t size, uint64_t from,
                                       struct err *err)
{
    uint64_t budget = size * WAL_SEARCH_WORK;
    for (uint64_t at = from; at + sizeof(struct disk_wal_record) <= size; at += 8) {
        const struct disk_wal_record *r = (const void *)(bytes + at);
        if (!wal_is_evidence(r, rp->cut_lsn) || r->bytes > size - at) continue;
        if (r->bytes > budget)
            return err_set(err, ERR_CORRUPT, "the log of \"%s\" is damaged at LSN %" PRIu64,
                           rp->wal->name, rp->cut_lsn);
        budget -= r->bytes;
        if (record_is_intact(bytes, size, at, seg->salt))
            return err_set(err, ERR_CORRUPT,
                           "the log of \"%s\" is damaged at LSN %" PRIu64
                           ", which was durable before LSN %" PRIu64 " was written",
                           rp->wal->name, rp->cut_lsn, r->lsn);
    }
    return ERR_OK;
}

/* Replay one segment up to `end_lsn` (exclusive). */
static enum err_code replay_segment(struct replay *rp, struct segment *seg, uint64_t end_lsn,
                                    const uint8_t *bytes, uint64_t size, struct err *err)
{
    uint64_t lsn = seg->base_lsn, at = WAL_HEADER_BYTES;
    uint32_t previous = 0;
    enum err_code rc = ERR_OK;
    for (; lsn < end_lsn && !rp->cut_lsn; lsn++) {
        const struct disk_wal_record *r = (const void *)(bytes + at);
        if (!record_is_intact(bytes, size, at, seg->salt) || r->lsn != lsn ||
            r->previous_crc != previous)
            break;
        const uint8_t *payload = bytes + at + sizeof *r;
        uint64_t payload_bytes = r->bytes - sizeof *r;
        if (lsn > rp->checkpoint_lsn) {
            rc = rp->fn(rp->ctx, r, payload, payload_bytes, err);
            if (rc) return rc;
            rp->found->records++;
            rp->found->bytes += wal_padded(r->bytes);
            rp->lsn = lsn;
        }
        previous = r->crc;
        at += wal_padded(r->bytes);
    }
    seg->end = at;
    if (lsn < end_lsn && lsn > rp->checkpoint_lsn) {
        if (!rp->cut_lsn) rp->cut_lsn = lsn;
        rc = look_for_evidence(rp, seg, bytes, size, at, err);
        /* A record that was begun names its LSN; anything else is what an earlier life of the file
         * left there. */
        const struct disk_wal_record *torn = (const void *)(bytes + at);
        if (size - at >= sizeof *torn && torn->lsn == lsn) {
            uint64_t rest = size - at, length = wal_padded(torn->bytes);
            rp->found->cut_bytes += length < rest ? length : rest;
        }
    }
    return rc;
}

static enum err_code replay_file(struct replay *rp, struct segment *seg, uint64_t end_lsn,
                                 struct err *err)
{
    uint64_t size = seg->allocated;
    if (size <= WAL_HEADER_BYTES) return ERR_OK;
    uint8_t *bytes = mmap(NULL, size, PROT_READ, MAP_PRIVATE, seg->fd, 0);
    if (bytes == MAP_FAILED) return err_os(err, errno, "map the log of \"%s\"", rp->wal->name);
    madvise(bytes, size, MADV_SEQUENTIAL);
    _Atomic bool lost = false;
    struct guard *guard = guard_add(bytes, size, false, &lost);

    /* After kill -9 the records may be in the page cache alone: what is replayed now must not be
     * lost by a later power cut, or a checkpoint could hold rows that the log forgot. */
    enum err_code rc = ERR_OK;
    if (record_is_intact(bytes, size, WAL_HEADER_BYTES, seg->salt)) {
        int os_errno = file_datasync(seg->fd);
        if (os_errno) /* and never tried again */
            rc = err_set(err, ERR_QUARANTINED,
                         "its log could not be synced (%s); closed until a restart of the server",
                         strerror(os_errno));
    }
    if (!rc) rc = replay_segment(rp, seg, end_lsn, bytes, size, err);
    /* Zeros would pass for the end of the log. */
    if (atomic_load(&lost))
        rc = err_set(
            err, ERR_CORRUPT,
            "a part of the log of \"%s\" cannot be read; it was cut short, or the disk fails",
            rp->wal->name);
    guard_remove(guard);
    munmap(bytes, size);
    return rc;
}

/* Find the started segments of this database, in order. */
static enum err_code find_segments(struct wal *wal, bool read_only,
                                   struct segment found[WAL_SEGMENTS_MAX], size_t *count,
                                   struct err *err)
{
    *count = 0;
    for (int i = 0; i < WAL_SEGMENTS_MAX; i++) {
        char file_name[WAL_SEGMENT_NAME_BYTES];
        struct segment seg = {.number = i, .fd = -1};
        struct disk_wal_header h = {0};
        wal_segment_name(wal->name, i, file_name);
        int os_errno = file_open(wal->dir_fd, file_name, read_only ? O_RDONLY : O_RDWR, &seg.fd);
        if (os_errno == ENOENT) continue;
        if (!os_errno) os_errno = file_size(seg.fd, &seg.allocated);
        if (!os_errno && seg.allocated >= sizeof h) os_errno = file_read(seg.fd, &h, sizeof h, 0);
        if (os_errno) {
            file_close(seg.fd);
            if (os_errno == EINVAL)
                return err_set(err, ERR_CORRUPT, "log segment %s is not a regular file", file_name);
            return err_os(err, os_errno, "read log segment %s", file_name);
        }
        wal->used_numbers |= 1ull << i;
        bool intact = wal_header_is_intact(&h);
        bool ours = intact && memcmp(h.uuid, wal->uuid, sizeof h.uuid) == 0;
        enum err_code rc = ERR_OK;
        if (!intact && !wal_header_is_blank(&h))
            rc = err_set(err, ERR_CORRUPT, "the header of log segment %s is damaged", file_name);
        else if (ours && h.format_version != FORMAT_VERSION)
            rc = err_set(err, ERR_QUARANTINED, "log segment %s has format version %" PRIu32,
                         file_name, h.format_version);
        if (rc) {
            file_close(seg.fd);
            return rc;
        }
        if (!ours || h.base_lsn == 0) { /* prepared, dropped, or left by another life of the name */
            file_close(seg.fd);
            wal->spares |= 1ull << i;
            continue;
        }
        seg.sequence = h.sequence;
        seg.base_lsn = h.base_lsn;
        seg.after_lsn = h.after_lsn;
        seg.salt = h.salt;
        seg.end = WAL_HEADER_BYTES;
        found[(*count)++] = seg;
    }
    if (*count) qsort(found, *count, sizeof found[0], by_sequence);
    return ERR_OK;
}

enum err_code wal_older_copy(const char *name, uint64_t file_lsn, uint64_t known_lsn,
                             struct err *err)
{
    return err_set(err, ERR_CORRUPT,
                   "its file is an older copy (LSN %" PRIu64 " of %" PRIu64
                   "); put the newer one back, or go on with this one: jadevectordb-cli accept %s",
                   file_lsn, known_lsn, name);
}

static enum err_code replay_all(struct replay *rp, struct segment *segs, size_t count,
                                struct err *err)
{
    struct wal *wal = rp->wal;
    for (size_t i = 0; i < count; i++) {
        /* Superseded from the least `after` of any later segment on. */
        uint64_t end_lsn = UINT64_MAX;
        for (size_t k = i + 1; k < count; k++)
            if (segs[k].after_lsn + 1 < end_lsn) end_lsn = segs[k].after_lsn + 1;

        /* Of a segment that a recovery superseded from its start on, nothing counts: it went on
         * behind records that were lost. */
        bool needed = end_lsn > rp->checkpoint_lsn + 1 && end_lsn > segs[i].after_lsn + 1;
        bool gap = needed && !rp->cut_lsn && segs[i].after_lsn > rp->lsn;
        if (gap && rp->lsn == rp->checkpoint_lsn)
            return wal_older_copy(wal->name, rp->lsn, segs[i].after_lsn, err);
        if (gap)
            return err_set(err, ERR_CORRUPT,
                           "the log of \"%s\" has nothing between LSN %" PRIu64 " and %" PRIu64
                           ": a segment is missing",
                           wal->name, rp->lsn, segs[i].after_lsn);
        if (needed) {
            enum err_code rc = replay_file(rp, &segs[i], end_lsn, err);
            if (rc) return rc;
        }
    }
    return ERR_OK;
}

enum err_code wal_open(const struct wal_options *options, wal_replay_fn *replay, void *ctx,
                       struct wal **out, struct wal_recovery *found, struct err *err)
{
    struct segment segs[WAL_SEGMENTS_MAX];
    size_t count = 0;
    struct wal *wal = mem_new(struct wal);
    wal->dir_fd = options->dir_fd;
    wal->syncer = options->syncer;
    wal->on_broken = options->on_broken;
    wal->on_broken_ctx = options->on_broken_ctx;
    snprintf(wal->name, sizeof wal->name, "%s", options->name);
    memcpy(wal->uuid, options->uuid, sizeof wal->uuid);
    mutex_init(&wal->mu, LOCK_WAL);
    pthread_cond_init(&wal->idle, NULL);
    wal->current.fd = wal->next.fd = wal->previous_fd = -1;
    *found = (struct wal_recovery){0};

    struct replay rp = {.wal = wal,
                        .checkpoint_lsn = options->checkpoint_lsn,
                        .lsn = options->checkpoint_lsn,
                        .fn = replay,
                        .ctx = ctx,
                        .found = found};
    enum err_code rc = find_segments(wal, options->read_only, segs, &count, err);
    if (rc) goto out;
    if (count == 0 && !options->create) {
        rc = err_set(err, ERR_CORRUPT,
                     "its log is missing; put it back, or go on with the file as it is: "
                     "jadevectordb-cli accept %s",
                     wal->name);
        goto out;
    }
    rc = replay_all(&rp, segs, count, err);
    if (rc) goto out;
    /* They wait for the next checkpoint to be dropped, which needs their names only. */
    for (size_t i = 0; i < count; i++) {
        file_close(segs[i].fd);
        segs[i].fd = -1;
    }
    found->segments = (uint32_t)count;
    wal->sequence = count ? segs[count - 1].sequence : 0;
    wal->last_lsn = rp.lsn;
    wal->next_lsn = rp.lsn + 1;
    if (options->skip_lsns) wal->next_lsn += LSN_SKIP;
    atomic_store(&wal->durable_lsn, rp.lsn);
    atomic_store(&wal->bytes, found->bytes);
    memcpy(wal->old, segs, count * sizeof segs[0]);
    wal->old_count = count;
    count = 0;
    *out = wal;
    wal = NULL;
out:
    for (size_t i = 0; i < count; i++)
        file_close(segs[i].fd);
    wal_close(wal);
    return rc;
}

void wal_close(struct wal *wal)
{
    if (!wal) return;
    if (wal->syncer) syncer_forget(wal->syncer, wal);
    assert(!wal->waiters && !wal->syncing);
    for (size_t i = 0; i < wal->old_count; i++)
        file_close(wal->old[i].fd);
    file_close(wal->current.fd);
    file_close(wal->next.fd);
    pthread_cond_destroy(&wal->idle);
    mutex_deinit(&wal->mu);
    mem_free(wal);
}

bool wal_exists(int dir_fd, const char *name)
{
    for (int i = 0; i < WAL_SEGMENTS_MAX; i++) {
        char file_name[WAL_SEGMENT_NAME_BYTES];
        wal_segment_name(name, i, file_name);
        if (faccessat(dir_fd, file_name, F_OK, AT_SYMLINK_NOFOLLOW) == 0) return true;
    }
    return false;
}

enum err_code wal_remove(int dir_fd, const char *name, struct err *err)
{
    for (int i = 0; i < WAL_SEGMENTS_MAX; i++) {
        char file_name[WAL_SEGMENT_NAME_BYTES];
        wal_segment_name(name, i, file_name);
        int os_errno = file_unlink(dir_fd, file_name);
        if (os_errno) return err_os(err, os_errno, "remove %s", file_name);
    }
    char new_name[200];
    new_segment_name(name, new_name);
    int os_errno = file_unlink(dir_fd, new_name);
    return os_errno ? err_os(err, os_errno, "remove %s", new_name) : ERR_OK;
}

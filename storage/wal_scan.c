/* wal_scan.c - segments in order, record by record, by pread(). */
#include "storage/wal_scan.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "storage/base/file.h"
#include "storage/base/mem.h"
#include "storage/wal_segment.h"

enum { WINDOW_BYTES = 1 << 20, PACE_BYTES = 256 * 1024 };

struct segment {
    int fd;
    char file_name[WAL_SEGMENT_NAME_BYTES];
    uint64_t bytes;
    struct disk_wal_header h;
};

struct scan {
    struct wal_scan *s;
    struct segment segs[WAL_SEGMENTS_MAX];
    size_t count;
    uint64_t lsn;     /* last record that counts */
    uint64_t cut_lsn; /* first one that does not; 0: none */
    uint8_t *record;  /* the record read last */
    size_t record_cap;
    uint8_t *window;
    uint64_t window_at, window_bytes;
    int window_fd;
    uint64_t unpaced; /* bytes read or checksummed since pace() was called */
    bool stop;
};

static void damage(struct wal_scan *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void damage(struct wal_scan *s, const char *fmt, ...)
{
    if (s->damaged) return; /* the first says most */
    va_list args;
    va_start(args, fmt);
    s->damage = (struct err){.code = ERR_CORRUPT};
    vsnprintf(s->damage.msg, sizeof s->damage.msg, fmt, args);
    va_end(args);
    s->damaged = true;
}

/* ---- reading ---- */

static void pace(struct scan *sc, uint64_t bytes)
{
    struct wal_scan *s = sc->s;
    sc->unpaced += bytes;
    if (!s->pace || sc->stop || sc->unpaced < PACE_BYTES) return;
    if (!s->pace(s->ctx, sc->unpaced)) sc->stop = true;
    sc->unpaced = 0;
}

/* Bytes that must be there; 0 or an errno.  Unread ones would pass for the end of the log. */
static int read_bytes(struct scan *sc, const struct segment *seg, void *to, uint64_t bytes,
                      uint64_t at)
{
    pace(sc, bytes);
    return file_read(seg->fd, to, bytes, at);
}

static void unreadable(struct scan *sc, const struct segment *seg, int os_errno)
{
    damage(sc->s, "a part of log segment %s cannot be read: %s", seg->file_name,
           strerror(os_errno));
}

/* 40 bytes at a multiple of 8, through a window; false: behind the end, or unreadable. */
static bool read_head(struct scan *sc, const struct segment *seg, uint64_t at,
                      struct disk_wal_record *r)
{
    if (at > seg->bytes || seg->bytes - at < sizeof *r || sc->stop) return false;
    if (sc->window_fd != seg->fd || at < sc->window_at ||
        at + sizeof *r > sc->window_at + sc->window_bytes) {
        uint64_t n = seg->bytes - at < WINDOW_BYTES ? seg->bytes - at : WINDOW_BYTES;
        sc->window_fd = -1;
        int os_errno = read_bytes(sc, seg, sc->window, n, at);
        if (os_errno) {
            /* One bad sector must not take its neighbours along. */
            unreadable(sc, seg, os_errno);
            n = n < BLOCK_BYTES ? n : BLOCK_BYTES;
            if (read_bytes(sc, seg, sc->window, n, at)) n = sizeof *r;
            if (n == sizeof *r && read_bytes(sc, seg, sc->window, n, at)) return false;
        }
        sc->window_fd = seg->fd;
        sc->window_at = at;
        sc->window_bytes = n;
    }
    memcpy(r, sc->window + (at - sc->window_at), sizeof *r);
    return true;
}

/* The whole record at `at` into sc->record, if it is intact. */
static bool read_record(struct scan *sc, const struct segment *seg, uint64_t at)
{
    struct disk_wal_record r;
    if (!read_head(sc, seg, at, &r) || r.bytes < sizeof r || r.bytes > seg->bytes - at)
        return false;
    if (r.bytes > sc->record_cap) {
        uint8_t *grown = mem_resize(sc->record, r.bytes);
        if (!grown) return false;
        sc->record = grown;
        sc->record_cap = r.bytes;
    }
    int os_errno = read_bytes(sc, seg, sc->record, r.bytes, at);
    if (os_errno) {
        unreadable(sc, seg, os_errno);
        return false;
    }
    uint32_t crc = crc32c(wal_record_crc_start(seg->h.salt), sc->record + sizeof r.crc,
                          r.bytes - sizeof r.crc);
    return crc == r.crc;
}

/* ---- segments ---- */

static int by_sequence(const void *a, const void *b)
{
    const struct segment *x = a, *y = b;
    return x->h.sequence < y->h.sequence ? -1 : x->h.sequence > y->h.sequence;
}

/* Every segment that was ever started. */
static enum err_code open_segments(struct scan *sc, struct err *err)
{
    struct wal_scan *s = sc->s;
    for (int i = 0; i < WAL_SEGMENTS_MAX; i++) {
        struct segment seg = {.fd = -1};
        wal_segment_name(s->name, i, seg.file_name);
        int os_errno = file_open(s->dir_fd, seg.file_name, O_RDONLY, &seg.fd);
        if (os_errno == ENOENT) continue;
        if (!os_errno) os_errno = file_size(seg.fd, &seg.bytes);
        if (os_errno) {
            file_close(seg.fd);
            return err_os(err, os_errno, "read log segment %s", seg.file_name);
        }
        bool readable = seg.bytes < sizeof seg.h || !file_read(seg.fd, &seg.h, sizeof seg.h, 0);
        bool intact = wal_header_is_intact(&seg.h);
        if (!readable || (!intact && !wal_header_is_blank(&seg.h)))
            damage(s, "the header of log segment %s is damaged", seg.file_name);
        if (readable && intact)
            sc->segs[sc->count++] = seg;
        else
            file_close(seg.fd);
    }
    if (sc->count) qsort(sc->segs, sc->count, sizeof sc->segs[0], by_sequence);
    return ERR_OK;
}

/* Whose log is it? */
static void choose_uuid(const struct scan *sc, uint8_t uuid[16])
{
    memset(uuid, 0, 16);
    for (size_t i = 0; i < sc->count; i++) {
        const struct disk_wal_header *h = &sc->segs[i].h;
        if (h->format_version == FORMAT_VERSION && h->base_lsn) memcpy(uuid, h->uuid, 16);
    }
    if (sc->s->uuid) memcpy(uuid, sc->s->uuid, 16);
}

static enum err_code find_segments(struct scan *sc, struct err *err)
{
    struct wal_scan *s = sc->s;
    uint8_t uuid[16];
    enum err_code rc = open_segments(sc, err);
    if (rc) return rc;
    choose_uuid(sc, uuid);
    size_t kept = 0;
    for (size_t i = 0; i < sc->count; i++) {
        const struct segment *seg = &sc->segs[i];
        bool ours = memcmp(seg->h.uuid, uuid, sizeof uuid) == 0;
        bool known = seg->h.format_version == FORMAT_VERSION;
        if (ours && known && seg->h.base_lsn) {
            sc->segs[kept++] = *seg;
            continue;
        }
        if (ours && !known)
            damage(s, "log segment %s has format version %" PRIu32, seg->file_name,
                   seg->h.format_version);
        s->foreign += !ours && (!known || seg->h.base_lsn);
        file_close(seg->fd);
    }
    sc->count = kept;
    s->segments = (uint32_t)kept;
    return ERR_OK;
}

/* ---- records ---- */

static void look_for_evidence(struct scan *sc, const struct segment *seg, uint64_t from)
{
    struct disk_wal_record r;
    uint64_t budget = seg->bytes * WAL_SEARCH_WORK;
    if (sc->s->damaged) return; /* it could add nothing */
    for (uint64_t at = from; read_head(sc, seg, at, &r); at += 8) {
        if (!wal_is_evidence(&r, sc->cut_lsn) || r.bytes > seg->bytes - at) continue;
        if (r.bytes > budget) {
            damage(sc->s, "the log of \"%s\" is damaged at LSN %" PRIu64, sc->s->name, sc->cut_lsn);
            return;
        }
        budget -= r.bytes;
        if (!read_record(sc, seg, at)) continue;
        damage(sc->s,
               "the log of \"%s\" is damaged at LSN %" PRIu64
               ", which was durable before LSN %" PRIu64 " was written",
               sc->s->name, sc->cut_lsn, r.lsn);
        return;
    }
}

/* The next intact record of this segment behind a bad place; 0: none. */
static uint64_t find_next(struct scan *sc, const struct segment *seg, uint64_t from,
                          uint64_t end_lsn, uint64_t *budget)
{
    struct disk_wal_record r;
    for (uint64_t at = from; read_head(sc, seg, at, &r); at += 8) {
        if (r.lsn <= sc->lsn || r.lsn >= end_lsn || r.durable_lsn >= r.lsn || !wal_is_head(&r) ||
            r.bytes > seg->bytes - at)
            continue;
        if (r.bytes > *budget) return 0;
        *budget -= r.bytes;
        if (read_record(sc, seg, at)) return at;
    }
    return 0;
}

static void take_record(struct scan *sc)
{
    struct wal_scan *s = sc->s;
    const struct disk_wal_record *r = (const void *)sc->record;
    if (r->lsn <= s->after_lsn) return;
    if (!s->first_lsn) s->first_lsn = r->lsn;
    s->last_lsn = sc->lsn = r->lsn;
    s->records++;
    s->bytes += wal_padded(r->bytes);
    if (s->fn && r->type == WAL_ROWS &&
        !s->fn(s->ctx, r, sc->record + sizeof *r, r->bytes - sizeof *r))
        sc->stop = true;
}

/* A record that was begun names its LSN; anything else is what an earlier life of the file left. */
static void count_cut(struct scan *sc, const struct segment *seg, uint64_t at, uint64_t lsn)
{
    struct disk_wal_record torn;
    if (!read_head(sc, seg, at, &torn) || torn.lsn != lsn) return;
    uint64_t length = wal_padded(torn.bytes), rest = seg->bytes - at;
    sc->s->cut_bytes += length < rest ? length : rest;
}

static void scan_segment(struct scan *sc, const struct segment *seg, uint64_t end_lsn)
{
    struct wal_scan *s = sc->s;
    uint64_t lsn = seg->h.base_lsn, at = WAL_HEADER_BYTES, budget = seg->bytes * WAL_SEARCH_WORK;
    uint32_t previous = 0;
    while (!sc->stop && lsn < end_lsn) {
        const struct disk_wal_record *r = (const void *)sc->record;
        bool good = !sc->cut_lsn && read_record(sc, seg, at);
        if (good) r = (const void *)sc->record;
        if (!good || r->lsn != lsn || r->previous_crc != previous) {
            if (lsn <= s->after_lsn && !s->past_damage) return; /* not judged */
            /* Also of a segment behind the one with the bad record: it may be the proof. */
            if (!sc->cut_lsn) sc->cut_lsn = lsn;
            look_for_evidence(sc, seg, at);
            if (!s->past_damage) {
                count_cut(sc, seg, at, lsn);
                return;
            }
            sc->cut_lsn = 0;
            uint64_t next = find_next(sc, seg, at, end_lsn, &budget);
            if (!next) {
                count_cut(sc, seg, at, lsn);
                return;
            }
            at = next;
            s->gaps++;
            r = (const void *)sc->record;
            damage(s, "the log of \"%s\" is damaged at LSN %" PRIu64, s->name, lsn);
        }
        previous = r->crc;
        at += wal_padded(r->bytes);
        lsn = r->lsn + 1;
        take_record(sc);
    }
}

static void scan_segments(struct scan *sc)
{
    struct wal_scan *s = sc->s;
    for (size_t i = 0; i < sc->count && !sc->stop; i++) {
        const struct segment *seg = &sc->segs[i];
        /* Superseded from the least `after` of any later segment on. */
        uint64_t end_lsn = UINT64_MAX;
        for (size_t k = i + 1; k < sc->count; k++)
            if (sc->segs[k].h.after_lsn + 1 < end_lsn) end_lsn = sc->segs[k].h.after_lsn + 1;
        if (end_lsn <= s->after_lsn + 1 || end_lsn <= seg->h.after_lsn + 1) continue;
        if (!sc->cut_lsn && seg->h.after_lsn > sc->lsn) {
            damage(s,
                   "the log of \"%s\" has nothing between LSN %" PRIu64 " and %" PRIu64
                   ": the .jvdb file is older than its log, or a log segment is missing",
                   s->name, sc->lsn, seg->h.after_lsn);
            if (!s->past_damage) return;
            s->gaps++;
        }
        scan_segment(sc, seg, end_lsn);
    }
}

enum err_code wal_scan(struct wal_scan *s, struct err *err)
{
    struct scan *sc = mem_new(struct scan);
    sc->s = s;
    sc->lsn = s->after_lsn;
    sc->window = mem_zalloc(WINDOW_BYTES);
    sc->window_fd = -1;
    enum err_code rc = find_segments(sc, err);
    if (!rc) scan_segments(sc);
    if (s->pace && sc->unpaced && !sc->stop) (void)s->pace(s->ctx, sc->unpaced);
    for (size_t i = 0; i < sc->count; i++)
        file_close(sc->segs[i].fd);
    mem_free(sc->record);
    mem_free(sc->window);
    mem_free(sc);
    return rc;
}

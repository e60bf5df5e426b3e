/* wal_scan.c - segments in order, record by record, by pread(). */
#include "storage/wal_scan.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "storage/base/crc32c.h"
#include "storage/base/file.h"
#include "storage/base/mem.h"

enum { SEGMENTS_MAX = 64, WINDOW_BYTES = 1 << 20 };

struct segment {
    int number, fd;
    uint64_t bytes;
    struct disk_wal_header h;
};

struct scan {
    struct wal_scan *s;
    struct segment segs[SEGMENTS_MAX];
    size_t count;
    uint64_t lsn;     /* last record that counts */
    uint64_t cut_lsn; /* first one that does not; 0: none */
    uint8_t *record;  /* the record read last */
    size_t record_cap;
    uint8_t *window;
    uint64_t window_at, window_bytes;
    int window_fd;
    bool stop;
};

static uint64_t padded(uint64_t bytes)
{
    return (bytes + 7) & ~(uint64_t)7;
}

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

/* 40 bytes at a multiple of 8, through a window; false: behind the end, or unreadable. */
static bool read_head(struct scan *sc, const struct segment *seg, uint64_t at,
                      struct disk_wal_record *r)
{
    if (at > seg->bytes || seg->bytes - at < sizeof *r) return false;
    if (sc->window_fd != seg->fd || at < sc->window_at ||
        at + sizeof *r > sc->window_at + sc->window_bytes) {
        uint64_t n = seg->bytes - at < WINDOW_BYTES ? seg->bytes - at : WINDOW_BYTES;
        sc->window_fd = -1;
        if (file_read(seg->fd, sc->window, n, at)) {
            n = sizeof *r;
            if (file_read(seg->fd, sc->window, n, at)) return false;
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
    if (file_read(seg->fd, sc->record, r.bytes, at)) return false;
    uint32_t crc = crc32c(0, &seg->h.salt, sizeof seg->h.salt);
    crc = crc32c(crc, sc->record + sizeof r.crc, r.bytes - sizeof r.crc);
    return crc == r.crc;
}

/* ---- segments ---- */

static int by_sequence(const void *a, const void *b)
{
    const struct segment *x = a, *y = b;
    return x->h.sequence < y->h.sequence ? -1 : x->h.sequence > y->h.sequence;
}

static enum err_code find_segments(struct scan *sc, struct err *err)
{
    static const struct disk_wal_header blank;
    struct wal_scan *s = sc->s;
    for (int i = 0; i < SEGMENTS_MAX; i++) {
        char file_name[200];
        struct segment seg = {.number = i, .fd = -1};
        snprintf(file_name, sizeof file_name, "%s.wal.%d", s->name, i);
        int os_errno = file_open(s->dir_fd, file_name, O_RDONLY, &seg.fd);
        if (os_errno == ENOENT) continue;
        if (!os_errno) os_errno = file_size(seg.fd, &seg.bytes);
        if (os_errno) {
            file_close(seg.fd);
            return err_os(err, os_errno, "read log segment %s", file_name);
        }
        bool readable = seg.bytes < sizeof seg.h || !file_read(seg.fd, &seg.h, sizeof seg.h, 0);
        bool intact = memcmp(seg.h.magic, WAL_MAGIC, sizeof seg.h.magic) == 0 &&
                      seg.h.crc == crc32c(0, &seg.h, offsetof(struct disk_wal_header, crc));
        if (!readable || (!intact && memcmp(&seg.h, &blank, sizeof blank) != 0))
            damage(s, "the header of log segment %s is damaged", file_name);
        else if (intact && seg.h.format_version != FORMAT_VERSION)
            damage(s, "log segment %s has format version %" PRIu32, file_name,
                   seg.h.format_version);
        else if (intact && seg.h.base_lsn) {
            sc->segs[sc->count++] = seg;
            continue;
        }
        file_close(seg.fd);
    }
    if (sc->count) qsort(sc->segs, sc->count, sizeof sc->segs[0], by_sequence);

    uint8_t uuid[16] = {0};
    if (sc->count) memcpy(uuid, sc->segs[sc->count - 1].h.uuid, sizeof uuid);
    if (s->uuid) memcpy(uuid, s->uuid, sizeof uuid);
    size_t kept = 0;
    for (size_t i = 0; i < sc->count; i++) {
        if (memcmp(sc->segs[i].h.uuid, uuid, sizeof uuid) == 0) {
            sc->segs[kept++] = sc->segs[i];
            continue;
        }
        file_close(sc->segs[i].fd);
        s->foreign++;
    }
    sc->count = kept;
    s->segments = (uint32_t)kept;
    return ERR_OK;
}

/* ---- records ---- */

static void look_for_evidence(struct scan *sc, const struct segment *seg, uint64_t from)
{
    struct disk_wal_record r;
    for (uint64_t at = from; read_head(sc, seg, at, &r); at += 8) {
        if (r.lsn < sc->cut_lsn || r.durable_lsn < sc->cut_lsn || r.durable_lsn >= r.lsn) continue;
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
                          uint64_t end_lsn)
{
    struct disk_wal_record r;
    for (uint64_t at = from; read_head(sc, seg, at, &r); at += 8) {
        if (r.lsn <= sc->lsn || r.lsn >= end_lsn || r.durable_lsn >= r.lsn || r.bytes < sizeof r ||
            r.bytes > seg->bytes - at)
            continue;
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
    s->bytes += padded(r->bytes);
    if (s->fn && r->type == WAL_ROWS &&
        !s->fn(s->ctx, r, sc->record + sizeof *r, r->bytes - sizeof *r))
        sc->stop = true;
}

static void scan_segment(struct scan *sc, const struct segment *seg, uint64_t end_lsn)
{
    struct wal_scan *s = sc->s;
    uint64_t lsn = seg->h.base_lsn, at = WAL_HEADER_BYTES;
    uint32_t previous = 0;
    while (!sc->stop && lsn < end_lsn && !sc->cut_lsn) {
        bool good = read_record(sc, seg, at);
        const struct disk_wal_record *r = (const void *)sc->record;
        if (!good || r->lsn != lsn || r->previous_crc != previous) {
            if (lsn <= s->after_lsn && !s->past_damage) return; /* not judged */
            struct disk_wal_record torn;
            bool begun = read_head(sc, seg, at, &torn) && torn.lsn == lsn;
            uint64_t length = begun ? padded(torn.bytes) : 0, rest = seg->bytes - at;
            sc->cut_lsn = lsn;
            look_for_evidence(sc, seg, at);
            if (s->past_damage) {
                sc->cut_lsn = 0;
                at = find_next(sc, seg, at, end_lsn);
                if (!at) {
                    s->cut_bytes += length < rest ? length : rest;
                    return;
                }
                s->gaps++;
                r = (const void *)sc->record;
                damage(s, "the log of \"%s\" is damaged at LSN %" PRIu64, s->name, lsn);
            } else {
                s->cut_bytes += length < rest ? length : rest;
                return;
            }
        }
        previous = r->crc;
        at += padded(r->bytes);
        lsn = r->lsn + 1;
        take_record(sc);
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
    for (size_t i = 0; i < sc->count && !rc && !sc->stop; i++) {
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
            if (!s->past_damage) break;
            s->gaps++;
        }
        scan_segment(sc, seg, end_lsn);
    }
    for (size_t i = 0; i < sc->count; i++)
        file_close(sc->segs[i].fd);
    mem_free(sc->record);
    mem_free(sc->window);
    mem_free(sc);
    return rc;
}

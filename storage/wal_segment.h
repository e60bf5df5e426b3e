/*
 * wal_segment.h - what wal.c, which writes and replays the segments of a log, and wal_scan.c, which
 * only looks at them, must see alike: names, sizes, checksums, and what can be a record.
 */
#ifndef STORAGE_WAL_SEGMENT_H
#define STORAGE_WAL_SEGMENT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "storage/base/crc32c.h"
#include "storage/format.h"

enum {
    WAL_SEGMENTS_MAX = 64, /* files `<name>.wal.0` .. `.63` */
    WAL_SEGMENT_NAME_BYTES = 200,
    /* What a search behind a bad record may spend on checksums, in sizes of the segment.  A forged
     * log is full of heads; each would cost a checksum over what it says. */
    WAL_SEARCH_WORK = 16,
};

static inline void wal_segment_name(const char *name, int number, char text[WAL_SEGMENT_NAME_BYTES])
{
    snprintf(text, WAL_SEGMENT_NAME_BYTES, "%s.wal.%d", name, number);
}

/* Room that a record of so many bytes takes. */
static inline uint64_t wal_padded(uint64_t bytes)
{
    return (bytes + 7) & ~(uint64_t)7;
}

static inline uint32_t wal_header_crc(const struct disk_wal_header *h)
{
    return crc32c(0, h, offsetof(struct disk_wal_header, crc));
}

static inline bool wal_header_is_intact(const struct disk_wal_header *h)
{
    return memcmp(h->magic, WAL_MAGIC, sizeof h->magic) == 0 && h->crc == wal_header_crc(h);
}

/* A header is written by one sector: blank (never used), or whole, or damaged. */
static inline bool wal_header_is_blank(const struct disk_wal_header *h)
{
    static const struct disk_wal_header blank;
    return memcmp(h, &blank, sizeof blank) == 0;
}

/* Continue with the record's bytes behind the field `crc`. */
static inline uint32_t wal_record_crc_start(uint64_t salt)
{
    return crc32c(0, &salt, sizeof salt);
}

/* What is sure of a record's head before its checksum is computed. */
static inline bool wal_is_head(const struct disk_wal_record *r)
{
    enum { TYPES_MAX = 16 };
    return r->bytes >= sizeof *r && r->type > 0 && r->type < TYPES_MAX && r->flags == 0 &&
           r->reserved == 0;
}

/* An intact record like this proves that `cut_lsn`, which cannot be read, had been durable. */
static inline bool wal_is_evidence(const struct disk_wal_record *r, uint64_t cut_lsn)
{
    return r->lsn >= cut_lsn && r->durable_lsn >= cut_lsn && r->durable_lsn < r->lsn &&
           wal_is_head(r);
}

#endif

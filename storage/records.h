/*
 * records.h - region "records": string ids and metadata, append-only bytes with a checksum each.
 *
 * A record is addressed by its offset in the region plus 1; 0 means "no record".  Functions marked
 * R may be called by readers inside an epoch section.
 */
#ifndef STORAGE_RECORDS_H
#define STORAGE_RECORDS_H

#include "storage/base/arena.h"
#include "storage/jvdb_file.h"
#include "storage/types.h"

/* Bytes that a record takes, a multiple of 8. */
uint64_t records_size(uint32_t text_bytes, uint32_t metadata_bytes);

/* The checksum of a record up to its texts, which follow: of the place, so that a record that a
 * misdirected write or a stale block put elsewhere does not pass, and of its head. */
uint32_t records_head_crc(uint64_t record_at, const struct disk_record *head);

/* Writer: write a record at address `record_at`; its bytes are in extents already. */
MUST_CHECK enum err_code records_write(struct jvdb_file *f, uint64_t record_at, uint64_t lsn,
                                       const char *text, uint32_t text_bytes, const char *metadata,
                                       uint32_t metadata_bytes, struct err *err);

/* R: the string id of a record; `text_bytes` is what the caller expects.
 * The record's checksum is compared at the first touch.  Points into the mapping,
 * or to `copy` if the record straddles extents.  NULL: damaged. */
const char *records_text(struct jvdb_file *f, uint64_t record_at, uint32_t text_bytes,
                         char copy[ID_BYTES_MAX]);

struct record {
    const char *text;
    uint32_t text_bytes;
    const char *metadata;
    uint32_t metadata_bytes;
    uint64_t lsn;
};
/* R: the whole record, its checksum compared.  Texts point into the mapping, or into `straddling`.
 * ERR_CORRUPT, ERR_NOMEM. */
MUST_CHECK enum err_code records_read(struct jvdb_file *f, uint64_t record_at,
                                      struct arena *straddling, struct record *out,
                                      struct err *err);

#endif

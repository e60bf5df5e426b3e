/*
 * wal_scan.h - read the log of a database without opening it: nothing is written, synced or
 * changed, and damage is reported instead of refused.
 *
 * For verify.c (is the log good?), salvage.c (what can still be got out of it?) and accept.c (what
 * would be lost?).  The rules for the tail are those of wal.c.  Any thread.
 */
#ifndef STORAGE_WAL_SCAN_H
#define STORAGE_WAL_SCAN_H

#include <stdbool.h>
#include <stdint.h>

#include "storage/base/err.h"
#include "storage/format.h"

struct wal_scan {
    /* In. */
    int dir_fd;
    const char *name;
    const uint8_t *uuid; /* NULL: of whatever database the newest segment is */
    uint64_t after_lsn;  /* what the file holds: the log must go on from there, if any is left */
    bool past_damage;    /* go on with the next intact record instead of stopping */
    /* Called for each record of rows, in LSN order; false ends the scan.  NULL is fine. */
    bool (*fn)(void *ctx, const struct disk_wal_record *record, const uint8_t *ops,
               uint64_t ops_bytes);
    /* Called now and then with the bytes read since; may sleep; false ends the scan.  NULL is fine.
     */
    bool (*pace)(void *ctx, uint64_t bytes);
    void *ctx; /* of both */

    /* Out. */
    uint32_t segments;  /* that belong to this database and are in use */
    uint32_t foreign;   /* segments of another database under this name */
    uint64_t first_lsn; /* of the records behind after_lsn; 0: none */
    uint64_t last_lsn;
    uint64_t records, bytes;
    uint64_t cut_bytes; /* torn tail: never acknowledged as durable */
    bool damaged;
    uint32_t gaps; /* with past_damage: how often intact records had to be looked for */
    struct err damage;
};

/* ERR_IO, ERR_NOMEM: the log could not be looked at; damage is no error here. */
MUST_CHECK enum err_code wal_scan(struct wal_scan *s, struct err *err);

#endif

/*
 * verify.h - is what a database holds on the disk what was written?
 *
 * Checks the files of one database against all that vouches for them: superblocks, manifest, every
 * block of the mutable regions, every live row and its record, the id index (order, and agreement
 * with the slots both ways), the counts, the chain of dead slots, the extents, and the log.  The
 * codes and links of the search index are compared as well, but what is bad there is no error
 * (verify_index.h).
 *
 * It reads the files and nothing else, so the same code serves a file on a shelf, a closed database
 * and an open one.  Beside a running daemon the file may move on to another checkpoint at any time:
 * what looks wrong is only reported if the file has not moved on meanwhile, and looked at again if
 * it has.  No lock is taken; readers and writers do not notice.
 *
 * Any thread.
 */
#ifndef STORAGE_VERIFY_H
#define STORAGE_VERIFY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "storage/base/err.h"
#include "storage/verify_index.h"

enum { VERIFY_ERRORS_MAX = 64 };

enum verify_region {
    VERIFY_FILE, /* the file as a whole */
    VERIFY_SUPERBLOCK,
    VERIFY_MANIFEST,
    VERIFY_SUMS,
    VERIFY_SLOTS,
    VERIFY_ID_INDEX,
    VERIFY_COUNTS,
    VERIFY_VECTORS,
    VERIFY_RECORDS,
    VERIFY_LOG,
};
const char *verify_region_name(enum verify_region region);

struct verify_error {
    enum verify_region region;
    bool has_block, has_row, has_sums;
    bool is_block;      /* the block as such is bad, not what it says          */
    uint64_t block;     /* of the file, 4096 bytes each; has_block            */
    uint64_t row;       /* slot; has_row                                      */
    uint32_t want, got; /* checksums; has_sums                                */
    bool healed;        /* it was written anew, from memory (scrub.c)         */
    char what[200];
};

struct verify_result {
    bool complete;            /* it came to the end: neither stopped, nor given up */
    uint64_t generation, lsn; /* of the checkpoint that was checked last */
    uint64_t blocks_checked, rows_checked, records_checked, bytes_read;
    uint64_t log_records, log_bytes, log_cut_bytes;
    uint32_t log_segments;
    struct index_check index;
    uint64_t error_count; /* all of them; the first are kept: */
    size_t errors_kept;
    struct verify_error errors[VERIFY_ERRORS_MAX];
};

struct verify_options {
    int dir_fd;
    const char *name;    /* of the database: `<name>.jvdb` */
    const uint8_t *uuid; /* which it must have; NULL: any */
    /* A daemon may write to it now: a .ckpt beside it is a checkpoint under way.  Otherwise a
     * complete one is what an opening will apply, and counts as applied. */
    bool live;
    uint64_t durable_lsn; /* live: so far the log must be good */
    /* Called now and then with the bytes read since; may sleep; false: stop.  NULL is fine. */
    bool (*pace)(void *ctx, uint64_t bytes);
    void *ctx;
};

/* What was found is in *r: no errors and `complete` mean that all is well.  ERR_QUARANTINED: a
 * newer version wrote the file; ERR_NOMEM; ERR_IO: the file could not be opened. */
MUST_CHECK enum err_code verify_files(const struct verify_options *o, struct verify_result *r,
                                      struct err *err);

/* One line for people: "vectors: row 17: ... (block 33)". */
void verify_error_text(const struct verify_error *e, char *text, size_t cap);

#endif

/*
 * salvage.h - every row of a damaged .jvdb that can still be proven, into a fresh one.
 *
 * A row counts as rescued if its own checksum says that id and vector are what was written; damage
 * of anything else (superblocks, manifest, blocks of slots, the id index, the log) only makes it
 * harder to find.  Nothing is made up: what cannot be proven is reported as lost.  The damaged file
 * and its log are not changed.
 */
#ifndef STORAGE_SALVAGE_H
#define STORAGE_SALVAGE_H

#include "storage/types.h"

struct salvage_options {
    int dir_fd;       /* of the damaged file */
    const char *name; /* `<name>.jvdb` in it, with its log and .ckpt, if they are there */
    int output_dir_fd;
    const char *output_dir;  /* its path */
    const char *output_name; /* `<output_name>.jvdb` is made there; it must not exist */
    /* For a file whose schema cannot be read: then only its log is of use.  0: not known. */
    uint32_t dimension;
    enum metric metric;
    /* A line about something that is lost or in doubt; at most SALVAGE_LINES_MAX of them. */
    void (*say)(void *ctx, const char *line);
    void *ctx;
};
enum { SALVAGE_LINES_MAX = 50 };

struct salvage_result {
    bool expected_known;    /* the manifest says how many rows there were, and can be trusted */
    uint64_t rows_expected; /* in the file, without its log */
    uint64_t rows_rescued;  /* in the new file */
    uint64_t rows_lost;     /* known to have been there; more, if !expected_known */
    uint64_t rows_in_doubt; /* rescued from a damaged block: perhaps deleted or replaced since */
    uint64_t metadata_lost; /* rows rescued without their metadata */
    uint64_t log_records;
    uint64_t log_gaps; /* damaged places in the log: what was written there is not known */
    bool complete;     /* sure that nothing is missing */
};

/* ERR_CORRUPT: nothing can be rescued; ERR_DATABASE_EXISTS: the output exists; ERR_QUARANTINED: a
 * newer version wrote the file; ERR_STORAGE_FULL and so on: the new file could not be written. */
MUST_CHECK enum err_code salvage_run(const struct salvage_options *o, struct salvage_result *r,
                                     struct err *err);

#endif

/*
 * compact.h - give back the space of dead rows and of records that nobody needs.
 *
 * The live rows are copied into a new file while the database serves; then, under its locks, the
 * rest is caught up with and the new file takes the name of the old one.  Readers go on with the
 * rows that they began with; writers wait for the last step alone (three syncs).  Rows keep their
 * versions, every byte of them is checked on the way, and a crash at any moment leaves one file or
 * the other, both whole.  It needs room for a second copy of the live rows.
 */
#ifndef STORAGE_COMPACT_H
#define STORAGE_COMPACT_H

#include "storage/database_private.h"

struct compact_options {
    const _Atomic bool *cancel; /* may be NULL; when it becomes true: ERR_SHUTTING_DOWN */
    bool gently;                /* rest as long as it works, until the last step */
};

/* Compact an acquired database; returns when it is done.  One at a time: a second caller waits for
 * the first, and does it again.  ERR_STORAGE_FULL: no room for the copy.  ERR_CORRUPT: a row is
 * damaged; the database is quarantined and the old file untouched.  After any error it is as it
 * was, unless the error is ERR_READ_ONLY: the name or the log could not be synced.  Blocks; no lock
 * may be held. */
MUST_CHECK enum err_code compact_run(struct database *db, const struct compact_options *options,
                                     struct compact_result *result, struct err *err);

/* Bytes of the file that a compaction would give back, about.  Any thread. */
uint64_t compact_waste(struct database *db);
/* The part of it that so many dead rows are. */
uint64_t compact_waste_of_rows(const struct schema *schema, uint64_t dead_count);

/* For a start: remove what a compaction or a creation left behind that did not come to its end. */
MUST_CHECK int compact_remove_leftover(int dir_fd, const char *name);

#endif

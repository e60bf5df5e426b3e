/*
 * accept.h - take a .jvdb as it is, on purpose: an older copy that was put back, or a file whose
 * log is damaged.
 *
 * Its log is set aside (renamed to `NAME.wal.N~TIME`, which no start looks at), the file gets a new
 * uuid, so that nothing written for its other life can be taken for its own, an empty log, and its
 * place in the catalog.  An accept that was interrupted can be done again.
 *
 * Offline: the caller holds the lock of the data directory.
 */
#ifndef STORAGE_ACCEPT_H
#define STORAGE_ACCEPT_H

#include "storage/types.h"

struct accept_result {
    uint64_t lsn; /* of the file as it is now */
    uint32_t files_set_aside;
    char aside_suffix[40];
    uint64_t log_records; /* behind the file, intact, that are not in it */
    uint64_t log_bytes;
    uint64_t first_lsn, last_lsn; /* of them; 0: none */
    bool log_was_damaged;
    struct err log_damage;
};

/* ERR_DATABASE_NOT_FOUND: no `<name>.jvdb`; ERR_CORRUPT: it is damaged itself (see salvage.h);
 * ERR_QUARANTINED: of a newer version.  What it did before it failed is harmless. */
MUST_CHECK enum err_code accept_run(int dir_fd, const char *name, struct accept_result *r,
                                    struct err *err);

#endif

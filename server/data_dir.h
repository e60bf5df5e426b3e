/* data_dir.h - the data directory, and the lock that says whose it is. */
#ifndef SERVER_DATA_DIR_H
#define SERVER_DATA_DIR_H

#include "storage/base/err.h"

/* Create `path` (with its parents, mode 0750) if it is missing and lock `.lock` in it.  On success
 * *lock_fd holds the lock until data_dir_close().
 * ERR_CONFLICT: another daemon has it; the message names its pid.  All others: not usable. */
MUST_CHECK enum err_code data_dir_open(const char *path, int *lock_fd, struct err *err);
void data_dir_close(int lock_fd); /* -1 is fine */

#endif

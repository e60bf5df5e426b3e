/*
 * file.h - the system calls that persistence is made of; short results and EINTR are handled.
 *
 * Every write, sync, truncation, allocation and rename of the storage layer goes through here.
 * Functions return 0 or an errno; callers turn it into an err with the name that means something.
 * Any thread.
 */
#ifndef STORAGE_BASE_FILE_H
#define STORAGE_BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "storage/base/err.h"

/* The kind of the file system of `fd` if its locks, syncs or mappings cannot be relied on as those
 * of a local disk can ("NFS", "FUSE" ...); else NULL. */
const char *file_distant_system(int fd);

/* Open `name` below the directory `dir_fd`: O_CLOEXEC and O_NOFOLLOW are added, and anything but
 * a regular file is refused (EINVAL), as is a name with a slash: so nothing outside of that one
 * directory can be meant, and no symbolic link is followed (openat2() could promise no more).  On
 * success *fd is the caller's. */
MUST_CHECK int file_open(int dir_fd, const char *name, int flags, int *fd);
void file_close(int fd); /* -1 is fine */

MUST_CHECK int file_read(int fd, void *to, size_t len, uint64_t at); /* short file: EIO */
MUST_CHECK int file_write(int fd, const void *from, size_t len, uint64_t at);
/* Gather write; may change iov[]. */
MUST_CHECK int file_writev(int fd, struct iovec *iov, int count, uint64_t at);
MUST_CHECK int file_size(int fd, uint64_t *bytes);
bool file_has_name(int fd); /* false: it was removed, and goes with its last descriptor */

/* Make bytes [at, at + len) really there, so that a later write cannot find the disk full.  On
 * failure the file is cut back to its old size (ext4 keeps what a failed fallocate got). */
MUST_CHECK int file_allocate(int fd, uint64_t at, uint64_t len);
MUST_CHECK int file_truncate(int fd, uint64_t bytes);
MUST_CHECK int file_datasync(int fd);
/* Before a file_datasync() that may find a lot: write [from, to) to the disk in pieces and wait for
 * each, so that the small syncs of others get in between.  Nothing is durable yet.  The kernel
 * tells an error of write-back once: one of these is to be taken like one of the sync. */
MUST_CHECK int file_write_back(int fd, uint64_t from, uint64_t to);
/* The disk access of this thread gives way to that of others, or not any more. */
void file_yield(bool yields);
MUST_CHECK int file_sync(int fd); /* also for a directory */
MUST_CHECK int file_rename(int dir_fd, const char *from, const char *to);
MUST_CHECK int file_unlink(int dir_fd, const char *name); /* a missing file is success */

#endif

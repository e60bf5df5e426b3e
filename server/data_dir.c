/* data_dir.c - an flock on `.lock`: the kernel drops it however the daemon ends. */
#include "server/data_dir.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "storage/base/mem.h"

/* *made: how many directories of the path were missing. */
static enum err_code data_dir_make(const char *path, int *made, struct err *err)
{
    char *copy = mem_strdup(path);
    enum err_code rc = ERR_OK;

    for (char *at = copy + 1; *copy && rc == ERR_OK; at++) {
        char was = *at;
        if (was != '/' && was != '\0') continue;
        *at = '\0';
        if (mkdir(copy, 0750) == 0)
            (*made)++;
        else if (errno != EEXIST)
            rc = err_os(err, errno, "cannot create the data directory %s", path);
        if (was == '\0') break;
        *at = was;
    }
    mem_free(copy);
    return rc;
}

/* A directory survives a power cut for sure when the one above it was synced.  The last one always,
 * as the process that made it may have been killed before it came to that. */
static enum err_code data_dir_sync_above(const char *path, int dir, int levels, struct err *err)
{
    int fd = openat(dir, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    while (fd >= 0) {
        /* Some file systems cannot sync a directory, and say so. */
        int os_errno = fsync(fd) != 0 && errno != EINVAL && errno != EROFS ? errno : 0;
        int above = --levels > 0 ? openat(fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
        close(fd);
        if (os_errno) {
            if (above >= 0) close(above);
            return err_os(err, os_errno, "cannot sync the directory above %s", path);
        }
        fd = above;
    }
    return ERR_OK; /* also if it may not be read: then it was not made by us */
}

/* The pid in the lock file; the holder may be about to write it, so look for up to 200 ms. */
static long data_dir_holder(int fd)
{
    for (int i = 0; i < 20; i++) {
        char text[24] = {0};
        if (pread(fd, text, sizeof text - 1, 0) > 0) {
            long pid = strtol(text, NULL, 10);
            if (pid > 0) return pid;
        }
        nanosleep(&(struct timespec){.tv_nsec = 10 * 1000 * 1000}, NULL);
    }
    return 0;
}

enum err_code data_dir_open(const char *path, int *lock_fd, struct err *err)
{
    enum err_code rc;
    char text[24];
    int dir = -1, fd = -1, made = 0;

    if (!path || !*path)
        return err_set(err, ERR_INVALID_REQUEST, "persistence.storage_path is empty");
    dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0 && errno == ENOENT) {
        rc = data_dir_make(path, &made, err);
        if (rc) goto out;
        dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    }
    if (dir < 0) {
        rc = err_os(err, errno, "cannot open the data directory %s", path);
        goto out;
    }
    rc = data_dir_sync_above(path, dir, made, err);
    if (rc) goto out;
    if (faccessat(dir, ".", R_OK | X_OK, AT_EACCESS) != 0) {
        rc = err_os(err, errno, "cannot use the data directory %s", path);
        goto out;
    }
    fd = openat(dir, ".lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0640);
    bool read_only = fd < 0 && (errno == EROFS || errno == EACCES || errno == EPERM);
    if (read_only) {
        /* Storage finds out by itself.  A daemon on another mount of it would have made the file.
         */
        fd = openat(dir, ".lock", O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0 && errno == ENOENT) {
            *lock_fd = -1;
            rc = ERR_OK;
            goto out;
        }
    }
    if (fd < 0) {
        rc = err_os(err, errno, "cannot open .lock in the data directory %s", path);
        goto out;
    }
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK)
            rc = err_os(err, errno, "cannot lock the data directory %s", path);
        else
            rc = err_set(err, ERR_CONFLICT,
                         "the data directory %s is in use by another daemon, pid %ld", path,
                         data_dir_holder(fd));
        goto out;
    }
    int len = snprintf(text, sizeof text, "%-10ld\n", (long)getpid());
    /* Over what an earlier daemon wrote, so that a full disk cannot refuse it; and who refuses us
     * next does without the number rather than we without the data. */
    if (!read_only && pwrite(fd, text, (size_t)len, 0) != len && errno != ENOSPC &&
        errno != EDQUOT) {
        rc = err_os(err, errno, "cannot write to the data directory %s (.lock)", path);
        goto out;
    }
    *lock_fd = fd;
    fd = -1;
    rc = ERR_OK;
out:
    if (fd >= 0) close(fd);
    if (dir >= 0) close(dir);
    return rc;
}

void data_dir_close(int lock_fd)
{
    if (lock_fd >= 0) close(lock_fd);
}

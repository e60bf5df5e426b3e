/*
 * faults.h - fail, or look at the disk before, any system call that changes files.
 *
 * The linker takes these before libc's.  Include it in one file of a program.  Only calls of a
 * thread that armed it (or of all, with faults.all_threads) count.
 */
#ifndef TESTS_STORAGE_FAULTS_H
#define TESTS_STORAGE_FAULTS_H

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum fault_kind {
    FAULT_WRITE = 1,
    FAULT_ALLOCATE = 2,
    FAULT_SYNC = 4,
    FAULT_NAME = 8, /* rename, unlink */
    FAULT_TRUNCATE = 16,
    FAULT_ANY = 31,
};

static struct {
    _Atomic int kinds; /* which calls count; 0: none */
    int fail_at;       /* this one fails, the first is 0; -1: none */
    int fail_errno;
    bool fail_all; /* and all that follow */
    void (*before)(int call);
    bool all_threads;
    _Atomic int calls;
    _Atomic int dir_syncs; /* fsync() calls, always counted */
} faults = {.fail_at = -1};
static _Thread_local bool faults_mine, faults_busy;

static inline void faults_arm(int kinds, int fail_at, int fail_errno)
{
    faults.fail_at = fail_at;
    faults.fail_errno = fail_errno;
    faults.fail_all = false;
    faults.before = NULL;
    faults.all_threads = false;
    faults_mine = true;
    atomic_store(&faults.calls, 0);
    atomic_store(&faults.kinds, kinds);
}

/* How many calls counted. */
static inline int faults_disarm(void)
{
    atomic_store(&faults.kinds, 0);
    return atomic_load(&faults.calls);
}

static int fault(enum fault_kind kind)
{
    if (!(atomic_load(&faults.kinds) & (int)kind) || faults_busy) return 0;
    if (!faults_mine && !faults.all_threads) return 0;
    int call = atomic_fetch_add(&faults.calls, 1);
    if (faults.before) {
        faults_busy = true;
        faults.before(call);
        faults_busy = false;
    }
    if (faults.fail_at < 0 || call < faults.fail_at) return 0;
    if (call > faults.fail_at && !faults.fail_all) return 0;
    errno = faults.fail_errno;
    return -1;
}

ssize_t pwrite(int fd, const void *bytes, size_t len, off_t at)
{
    if (fault(FAULT_WRITE)) return -1;
    return syscall(SYS_pwrite64, fd, bytes, len, at);
}

ssize_t pwritev(int fd, const struct iovec *iov, int count, off_t at)
{
    if (fault(FAULT_WRITE)) return -1;
    return syscall(SYS_pwritev, fd, iov, (long)count, (long)at, 0L);
}

int fallocate(int fd, int mode, off_t at, off_t len)
{
    if (fault(FAULT_ALLOCATE)) return -1;
    return (int)syscall(SYS_fallocate, fd, mode, at, len);
}

int ftruncate(int fd, off_t len)
{
    if (fault(FAULT_TRUNCATE)) return -1;
    return (int)syscall(SYS_ftruncate, fd, len);
}

int fdatasync(int fd)
{
    if (fault(FAULT_SYNC)) return -1;
    return (int)syscall(SYS_fdatasync, fd);
}

int fsync(int fd)
{
    atomic_fetch_add(&faults.dir_syncs, 1);
    if (fault(FAULT_SYNC)) return -1;
    return (int)syscall(SYS_fsync, fd);
}

int renameat(int from_dir, const char *from, int to_dir, const char *to)
{
    if (fault(FAULT_NAME)) return -1;
    return (int)syscall(SYS_renameat2, from_dir, from, to_dir, to, 0);
}

int unlinkat(int dir, const char *name, int flags)
{
    if (fault(FAULT_NAME)) return -1;
    return (int)syscall(SYS_unlinkat, dir, name, flags);
}

#endif

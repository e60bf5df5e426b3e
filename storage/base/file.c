/* file.c - system calls on files, until they are done or have really failed. */
#include "storage/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Do a system call again as long as a signal interrupts it. */
#define UNINTERRUPTED(result, call)                                                                \
    do {                                                                                           \
        (result) = (call);                                                                         \
    } while ((result) < 0 && errno == EINTR)

const char *file_distant_system(int fd)
{
    static const struct {
        unsigned long magic;
        const char *name;
    } kinds[] = {
        {0x6969, "NFS"},     {0xff534d42, "CIFS"}, {0xfe534d42, "SMB"},
        {0x517b, "SMB"},     {0x01021997, "9P"},   {0x00c36400, "Ceph"},
        {0x5346414f, "AFS"}, {0x65735546, "FUSE"}, {0x0bd00bd0, "Lustre"},
    };
    struct statfs fs;
    if (fstatfs(fd, &fs) != 0) return NULL;
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (((unsigned long)fs.f_type & 0xffffffff) == kinds[i].magic) return kinds[i].name;
    return NULL;
}

int file_open(int dir_fd, const char *name, int flags, int *fd)
{
    if (strchr(name, '/')) return EINVAL;
    int f;
    /* O_NONBLOCK: a FIFO in the file's place must not stop us; regular files ignore it. */
    UNINTERRUPTED(
        f, openat(dir_fd, name, flags | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, 0640));
    if (f < 0) {
        /* a symbolic link, a directory, a FIFO or socket: not the regular file we want */
        return errno == ELOOP || errno == EISDIR || errno == ENXIO ? EINVAL : errno;
    }

    struct stat st;
    int rc = fstat(f, &st) != 0 ? errno : 0;
    if (rc == 0 && !S_ISREG(st.st_mode)) rc = EINVAL;
    if (rc) {
        close(f);
        return rc;
    }
    *fd = f;
    return 0;
}

void file_close(int fd)
{
    /* Linux has closed it even when close() says EINTR: never again. */
    if (fd >= 0) close(fd);
}

int file_read(int fd, void *to, size_t len, uint64_t at)
{
    char *p = to;
    while (len > 0) {
        ssize_t n;
        UNINTERRUPTED(n, pread(fd, p, len, (off_t)at));
        if (n < 0) return errno;
        if (n == 0) return EIO;
        p += n;
        at += (size_t)n;
        len -= (size_t)n;
    }
    return 0;
}

int file_write(int fd, const void *from, size_t len, uint64_t at)
{
    const char *p = from;
    while (len > 0) {
        ssize_t n;
        UNINTERRUPTED(n, pwrite(fd, p, len, (off_t)at));
        if (n < 0) return errno;
        if (n == 0) return EIO;
        p += n;
        at += (size_t)n;
        len -= (size_t)n;
    }
    return 0;
}

int file_writev(int fd, struct iovec *iov, int count, uint64_t at)
{
    for (;;) {
        while (count > 0 && iov->iov_len == 0) {
            iov++;
            count--;
        }
        if (count <= 0) return 0;

        ssize_t n;
        UNINTERRUPTED(n, pwritev(fd, iov, count < IOV_MAX ? count : IOV_MAX, (off_t)at));
        if (n < 0) return errno;
        if (n == 0) return EIO;
        at += (size_t)n;
        size_t left = (size_t)n;
        while (left > 0) {
            const size_t part = left < iov->iov_len ? left : iov->iov_len;
            iov->iov_base = (char *)iov->iov_base + part;
            iov->iov_len -= part;
            left -= part;
            if (iov->iov_len == 0) {
                iov++;
                count--;
            }
        }
    }
}

int file_size(int fd, uint64_t *bytes)
{
    struct stat st;
    if (fstat(fd, &st) != 0) return errno;
    *bytes = (uint64_t)st.st_size;
    return 0;
}

bool file_has_name(int fd)
{
    struct stat st;
    return fstat(fd, &st) == 0 && st.st_nlink > 0;
}

/* For file systems without fallocate().  Only what is behind the end needs it: what is before it
 * has been written or allocated by us. */
static int write_zeros(int fd, uint64_t from, uint64_t to)
{
    static const char zeros[64 * 1024];
    while (from < to) {
        const uint64_t left = to - from;
        const size_t part = left < sizeof zeros ? (size_t)left : sizeof zeros;
        int rc = file_write(fd, zeros, part, from);
        if (rc) return rc;
        from += part;
    }
    return 0;
}

int file_allocate(int fd, uint64_t at, uint64_t len)
{
    if (len == 0) return 0;
    if (at > INT64_MAX || len > INT64_MAX - at) return EFBIG;

    uint64_t old_size;
    int rc = file_size(fd, &old_size);
    if (rc) return rc;

    int result;
    UNINTERRUPTED(result, fallocate(fd, 0, (off_t)at, (off_t)len));
    if (result == 0) return 0;
    rc = errno;
    if (rc == EOPNOTSUPP || rc == ENOSYS) rc = write_zeros(fd, old_size, at + len);
    if (rc) {
        /* The first error is the one to report; a file left too long is only a waste. */
        uint64_t size;
        int ignored = file_size(fd, &size);
        if (ignored == 0 && size != old_size) ignored = file_truncate(fd, old_size);
        (void)ignored;
    }
    return rc;
}

int file_truncate(int fd, uint64_t bytes)
{
    if (bytes > INT64_MAX) return EFBIG;
    int result;
    UNINTERRUPTED(result, ftruncate(fd, (off_t)bytes));
    return result < 0 ? errno : 0;
}

int file_datasync(int fd)
{
    int result;
    UNINTERRUPTED(result, fdatasync(fd));
    return result < 0 ? errno : 0;
}

int file_write_back(int fd, uint64_t from, uint64_t to)
{
    /* Two pieces are under way at a time: a disk has a few milliseconds of work, and no pause. */
    const uint64_t piece = 4 << 20;
    if (to <= from || to - from <= piece) return 0;
    for (uint64_t at = from, before = from; at < to || before < to;) {
        const uint64_t len = to - at < piece ? to - at : piece;
        int rc = 0;
        if (at < to) rc = sync_file_range(fd, (off_t)at, (off_t)len, SYNC_FILE_RANGE_WRITE);
        if (rc == 0 && (at > before || at == to)) {
            rc = sync_file_range(fd, (off_t)before, (off_t)(at - before),
                                 SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE |
                                     SYNC_FILE_RANGE_WAIT_AFTER);
            before = at;
        }
        if (rc != 0 && errno == EINTR) continue;
        /* Not every file system can; then the sync has it all to do. */
        if (rc != 0 && (errno == EINVAL || errno == ENOSYS || errno == EOPNOTSUPP)) return 0;
        if (rc != 0) return errno;
        at += len;
    }
    return 0;
}

void file_yield(bool yields)
{
    /* From linux/ioprio.h, which Debian 12 does not install: "this thread", best effort, least
     * urgent; 0 is "as the thread's nice value says". */
    enum { WHO_PROCESS = 1, BEST_EFFORT = 2 << 13, LEAST = 7 };
    syscall(SYS_ioprio_set, WHO_PROCESS, 0, yields ? BEST_EFFORT | LEAST : 0);
}

int file_sync(int fd)
{
    int result;
    UNINTERRUPTED(result, fsync(fd));
    return result < 0 ? errno : 0;
}

int file_rename(int dir_fd, const char *from, const char *to)
{
    return renameat(dir_fd, from, dir_fd, to) != 0 ? errno : 0;
}

int file_unlink(int dir_fd, const char *name)
{
    return unlinkat(dir_fd, name, 0) != 0 && errno != ENOENT ? errno : 0;
}

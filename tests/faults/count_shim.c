/*
 * count_shim.c - an LD_PRELOAD library that counts a process's system calls on the files below one
 * directory, and at the k-th of them kills the process, fails the call, or cuts a write short.
 *
 *   SHIM_DIR       the directory; calls on anything else (sockets, logs) neither count nor fail
 *   SHIM_CONTROL   a file of CONTROL_BYTES, mapped shared: a test arms, disarms and reads it while
 *                  the process runs, and still has the counts after it was killed
 *
 * Counts are of the process, over all of its threads.  An open or an unlink of a name that is not
 * there does not count: the daemon looks for many that never are.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* shim.py knows these, and the layout of struct control. */
enum kind {
    KIND_OPEN = 1,
    KIND_READ = 2,
    KIND_WRITE = 4,
    KIND_SYNC = 8,
    KIND_TRUNCATE = 16,
    KIND_ALLOCATE = 32,
    KIND_RENAME = 64,
    KIND_UNLINK = 128,
    KIND_MMAP = 256,
    KIND_CLOSE = 512,
};
enum action {
    ACTION_COUNT,     /* only that */
    ACTION_KILL,      /* the process, instead of the call */
    ACTION_KILL_HALF, /* the same; a write has written its first half */
    ACTION_FAIL,      /* with fail_errno */
    ACTION_SHORT,     /* a write writes its first half and says so */
};
enum { CONTROL_BYTES = 64 * 1024, HITS_MAX = 256, NAME_BYTES = 96, FDS_MAX = 4096 };
#define CONTROL_LOADED 0x4d494853u

struct control {
    _Atomic uint32_t loaded; /* by us: we are there */
    _Atomic uint32_t kinds;  /* which calls count; 0: none */
    _Atomic uint32_t action;
    _Atomic uint32_t fail_errno;
    _Atomic uint64_t at;      /* the first call is 1 */
    _Atomic uint32_t forever; /* that call and all after it */
    _Atomic uint32_t not_used;
    _Atomic uint64_t calls;
    _Atomic uint64_t hits;
    struct {
        uint32_t kind;
        char name[NAME_BYTES]; /* of the file, the end of its path */
    } hit[HITS_MAX];
};
_Static_assert(sizeof(struct control) <= CONTROL_BYTES, "shim.py makes a file of this size");

static struct control *control;
static char dir_path[PATH_MAX];
static size_t dir_len;
static _Atomic uint8_t is_ours[FDS_MAX]; /* 0: not known, 1: no, 2: yes */

/* ---- what is below the directory ---- */

static bool below(const char *path)
{
    return dir_len && strncmp(path, dir_path, dir_len) == 0 &&
           (path[dir_len] == '/' || path[dir_len] == '\0');
}

static bool fd_path(int fd, char path[PATH_MAX])
{
    char link[40];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    long n = syscall(SYS_readlink, link, path, PATH_MAX - 1);
    if (n < 0) return false;
    path[n] = '\0';
    return true;
}

static bool ours(int fd)
{
    if (fd < 0 || !dir_len) return false;
    uint8_t known = fd < FDS_MAX ? atomic_load_explicit(&is_ours[fd], memory_order_relaxed) : 0;
    if (known) return known == 2;
    char path[PATH_MAX];
    bool yes = fd_path(fd, path) && below(path);
    if (fd < FDS_MAX) atomic_store_explicit(&is_ours[fd], yes ? 2 : 1, memory_order_relaxed);
    return yes;
}

static void forget(int fd)
{
    if (fd >= 0 && fd < FDS_MAX) atomic_store_explicit(&is_ours[fd], 0, memory_order_relaxed);
}

static bool path_is_ours(int dir_fd, const char *path)
{
    return path[0] == '/' ? below(path) : dir_fd != AT_FDCWD && ours(dir_fd);
}

/* ---- the k-th call ---- */

static void note(uint64_t number, enum kind kind, int fd, const char *name)
{
    if (number >= HITS_MAX) return;
    char path[PATH_MAX] = "";
    if (!name) name = fd_path(fd, path) ? path : "?";
    size_t len = strlen(name);
    if (len >= NAME_BYTES) name += len - (NAME_BYTES - 1);
    control->hit[number].kind = kind;
    memcpy(control->hit[number].name, name, strlen(name) + 1);
}

/* What to do with this call; ACTION_COUNT: let it pass. */
static enum action judge(enum kind kind, int fd, const char *name)
{
    if (!control || !(atomic_load(&control->kinds) & kind)) return ACTION_COUNT;
    uint64_t call = atomic_fetch_add(&control->calls, 1) + 1, at = atomic_load(&control->at);
    if (at == 0 || call < at || (call > at && !atomic_load(&control->forever))) return ACTION_COUNT;
    note(atomic_fetch_add(&control->hits, 1), kind, fd, name);
    return atomic_load(&control->action);
}

static void die(void)
{
    syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
    for (;;)
        syscall(SYS_pause);
}

/* True if a call that is no write has failed: errno is set. */
static bool failed(enum kind kind, int fd, const char *name)
{
    enum action action = judge(kind, fd, name);
    if (action == ACTION_KILL || action == ACTION_KILL_HALF) die();
    if (action != ACTION_FAIL) return false;
    errno = (int)atomic_load(&control->fail_errno);
    return true;
}

/* The functions behind ours: the sanitizers' if there are any, then libc's. */
#define NEXT(name)                                                                                 \
    static __typeof__(name) *next;                                                                 \
    if (!next) next = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

__attribute__((constructor)) static void start(void)
{
    const char *dir = getenv("SHIM_DIR"), *file = getenv("SHIM_CONTROL");
    if (!dir || !file) return;
    if (!realpath(dir, dir_path)) snprintf(dir_path, sizeof dir_path, "%s", dir);
    dir_len = strlen(dir_path);
    int fd = (int)syscall(SYS_openat, AT_FDCWD, file, O_RDWR | O_CLOEXEC, 0);
    if (fd < 0) return;
    void *map =
        (void *)syscall(SYS_mmap, NULL, CONTROL_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
    if (map == MAP_FAILED) return;
    control = map;
    atomic_store(&control->loaded, CONTROL_LOADED);
}

/* ---- writes ---- */

static ssize_t half_write(int fd, const struct iovec *iov, int count, off_t at, enum action action)
{
    size_t bytes = 0;
    for (int i = 0; i < count; i++)
        bytes += iov[i].iov_len;
    size_t left = (bytes + 1) / 2, done = 0;
    for (int i = 0; i < count && left; i++) {
        size_t part = iov[i].iov_len < left ? iov[i].iov_len : left;
        long n = part == 0 ? 0
                 : at < 0  ? syscall(SYS_write, fd, iov[i].iov_base, part)
                           : syscall(SYS_pwrite64, fd, iov[i].iov_base, part, at + (off_t)done);
        if (n < 0) break;
        done += (size_t)n;
        left -= part;
    }
    if (action == ACTION_KILL_HALF) die();
    return (ssize_t)done;
}

/* True if the write is done with, one way or another.  `at` < 0: at the file's position. */
static bool write_taken(int fd, const struct iovec *iov, int count, off_t at, ssize_t *result)
{
    if (!ours(fd)) return false;
    enum action action = judge(KIND_WRITE, fd, NULL);
    *result = -1;
    switch (action) {
    case ACTION_COUNT:
        return false;
    case ACTION_KILL:
        die();
        return true;
    case ACTION_FAIL:
        errno = (int)atomic_load(&control->fail_errno);
        return true;
    case ACTION_KILL_HALF:
    case ACTION_SHORT:
        *result = half_write(fd, iov, count, at, action);
        return true;
    }
    return false;
}

ssize_t write(int fd, const void *bytes, size_t len)
{
    NEXT(write);
    ssize_t result;
    struct iovec iov = {(void *)(uintptr_t)bytes, len};
    return write_taken(fd, &iov, 1, -1, &result) ? result : next(fd, bytes, len);
}

ssize_t writev(int fd, const struct iovec *iov, int count)
{
    NEXT(writev);
    ssize_t result;
    return write_taken(fd, iov, count, -1, &result) ? result : next(fd, iov, count);
}

#define PWRITE(name)                                                                               \
    ssize_t name(int fd, const void *bytes, size_t len, off_t at)                                  \
    {                                                                                              \
        NEXT(name);                                                                                \
        ssize_t result;                                                                            \
        struct iovec iov = {(void *)(uintptr_t)bytes, len};                                        \
        return write_taken(fd, &iov, 1, at, &result) ? result : next(fd, bytes, len, at);          \
    }
PWRITE(pwrite)
PWRITE(pwrite64)

#define PWRITEV(name)                                                                              \
    ssize_t name(int fd, const struct iovec *iov, int count, off_t at)                             \
    {                                                                                              \
        NEXT(name);                                                                                \
        ssize_t result;                                                                            \
        return write_taken(fd, iov, count, at, &result) ? result : next(fd, iov, count, at);       \
    }
PWRITEV(pwritev)
PWRITEV(pwritev64)

/* ---- reads ---- */

ssize_t read(int fd, void *to, size_t len)
{
    NEXT(read);
    return ours(fd) && failed(KIND_READ, fd, NULL) ? -1 : next(fd, to, len);
}

#define PREAD(name)                                                                                \
    ssize_t name(int fd, void *to, size_t len, off_t at)                                           \
    {                                                                                              \
        NEXT(name);                                                                                \
        return ours(fd) && failed(KIND_READ, fd, NULL) ? -1 : next(fd, to, len, at);               \
    }
PREAD(pread)
PREAD(pread64)

/* What a fortified build calls. */
ssize_t __read_chk(int fd, void *to, size_t len, size_t room);
ssize_t __pread_chk(int fd, void *to, size_t len, off_t at, size_t room);

ssize_t __read_chk(int fd, void *to, size_t len, size_t room)
{
    if (len > room) abort();
    return read(fd, to, len);
}

ssize_t __pread_chk(int fd, void *to, size_t len, off_t at, size_t room)
{
    if (len > room) abort();
    return pread(fd, to, len, at);
}

/* ---- size and durability ---- */

#define ON_FD(name, kind)                                                                          \
    int name(int fd)                                                                               \
    {                                                                                              \
        NEXT(name);                                                                                \
        return ours(fd) && failed(kind, fd, NULL) ? -1 : next(fd);                                 \
    }
ON_FD(fsync, KIND_SYNC)
ON_FD(fdatasync, KIND_SYNC)
ON_FD(syncfs, KIND_SYNC)

#define FTRUNCATE(name)                                                                            \
    int name(int fd, off_t len)                                                                    \
    {                                                                                              \
        NEXT(name);                                                                                \
        return ours(fd) && failed(KIND_TRUNCATE, fd, NULL) ? -1 : next(fd, len);                   \
    }
FTRUNCATE(ftruncate)
FTRUNCATE(ftruncate64)

#define FALLOCATE(name)                                                                            \
    int name(int fd, int mode, off_t at, off_t len)                                                \
    {                                                                                              \
        NEXT(name);                                                                                \
        return ours(fd) && failed(KIND_ALLOCATE, fd, NULL) ? -1 : next(fd, mode, at, len);         \
    }
FALLOCATE(fallocate)
FALLOCATE(fallocate64)

#define POSIX_FALLOCATE(name)                                                                      \
    int name(int fd, off_t at, off_t len)                                                          \
    {                                                                                              \
        NEXT(name);                                                                                \
        return ours(fd) && failed(KIND_ALLOCATE, fd, NULL) ? errno : next(fd, at, len);            \
    }
POSIX_FALLOCATE(posix_fallocate)
POSIX_FALLOCATE(posix_fallocate64)

/* ---- names ---- */

int rename(const char *from, const char *to)
{
    NEXT(rename);
    return path_is_ours(AT_FDCWD, to) && failed(KIND_RENAME, -1, to) ? -1 : next(from, to);
}

int renameat(int from_dir, const char *from, int to_dir, const char *to)
{
    NEXT(renameat);
    if (path_is_ours(to_dir, to) && failed(KIND_RENAME, -1, to)) return -1;
    return next(from_dir, from, to_dir, to);
}

int renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned flags)
{
    NEXT(renameat2);
    if (path_is_ours(to_dir, to) && failed(KIND_RENAME, -1, to)) return -1;
    return next(from_dir, from, to_dir, to, flags);
}

int linkat(int from_dir, const char *from, int to_dir, const char *to, int flags)
{
    NEXT(linkat);
    if (path_is_ours(to_dir, to) && failed(KIND_RENAME, -1, to)) return -1;
    return next(from_dir, from, to_dir, to, flags);
}

static bool exists(int dir_fd, const char *name)
{
    return syscall(SYS_faccessat, dir_fd, name, F_OK) == 0;
}

int unlink(const char *name)
{
    NEXT(unlink);
    if (path_is_ours(AT_FDCWD, name) && exists(AT_FDCWD, name) && failed(KIND_UNLINK, -1, name))
        return -1;
    return next(name);
}

int unlinkat(int dir_fd, const char *name, int flags)
{
    NEXT(unlinkat);
    if (path_is_ours(dir_fd, name) && exists(dir_fd, name) && failed(KIND_UNLINK, -1, name))
        return -1;
    return next(dir_fd, name, flags);
}

/* ---- descriptors and maps ---- */

static mode_t mode_of(int flags, va_list args)
{
    return flags & (O_CREAT | __O_TMPFILE) ? va_arg(args, mode_t) : 0;
}

static bool open_failed(int dir_fd, const char *path, int flags)
{
    return path_is_ours(dir_fd, path) && (flags & O_CREAT || exists(dir_fd, path)) &&
           failed(KIND_OPEN, -1, path);
}

#define OPEN(name)                                                                                 \
    int name(const char *path, int flags, ...)                                                     \
    {                                                                                              \
        NEXT(name);                                                                                \
        va_list args;                                                                              \
        va_start(args, flags);                                                                     \
        mode_t mode = mode_of(flags, args);                                                        \
        va_end(args);                                                                              \
        if (open_failed(AT_FDCWD, path, flags)) return -1;                                         \
        int fd = next(path, flags, mode);                                                          \
        forget(fd);                                                                                \
        return fd;                                                                                 \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                                               \
    int name(int dir_fd, const char *path, int flags, ...)                                         \
    {                                                                                              \
        NEXT(name);                                                                                \
        va_list args;                                                                              \
        va_start(args, flags);                                                                     \
        mode_t mode = mode_of(flags, args);                                                        \
        va_end(args);                                                                              \
        if (open_failed(dir_fd, path, flags)) return -1;                                           \
        int fd = next(dir_fd, path, flags, mode);                                                  \
        forget(fd);                                                                                \
        return fd;                                                                                 \
    }
OPENAT(openat)
OPENAT(openat64)

int __open_2(const char *path, int flags);
int __openat_2(int dir_fd, const char *path, int flags);

int __open_2(const char *path, int flags)
{
    return open(path, flags);
}

int __openat_2(int dir_fd, const char *path, int flags)
{
    return openat(dir_fd, path, flags);
}

int close(int fd)
{
    NEXT(close);
    /* Closed even if it says that it failed, as Linux does it. */
    bool bad = ours(fd) && failed(KIND_CLOSE, fd, NULL);
    int os_errno = errno;
    forget(fd);
    int rc = next(fd);
    if (!bad) return rc;
    errno = os_errno;
    return -1;
}

/* Allocators map before dlsym() can work. */
#define MMAP(name)                                                                                 \
    void *name(void *hint, size_t len, int prot, int flags, int fd, off_t at)                      \
    {                                                                                              \
        if (!control) return (void *)syscall(SYS_mmap, hint, len, prot, flags, fd, at);            \
        NEXT(name);                                                                                \
        if (ours(fd) && failed(KIND_MMAP, fd, NULL)) return MAP_FAILED;                            \
        return next(hint, len, prot, flags, fd, at);                                               \
    }
MMAP(mmap)
MMAP(mmap64)

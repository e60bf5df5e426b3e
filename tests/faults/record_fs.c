/*
 * record_fs.c - a file system that passes everything on and writes down what would reach a disk.
 *
 *     record_fs LOG BACKING MOUNT [SYNC_DELAY_US]
 *
 * Serves BACKING at MOUNT through FUSE and appends to LOG, in one order: every change of a file
 * (write(), and what the kernel writes back of shared maps), every change of a name, both ends of
 * every fsync, and whatever is written to MOUNT/.mark.  From that power_loss.py makes the
 * directories that a power cut at any moment could have left.  Begins with what BACKING holds,
 * which counts as durable.  Prints a line when it serves; SIGTERM unmounts and ends it.
 *
 * A sync has two records because it takes time: what is written after its begin is not covered by
 * it, and what it covers counts as durable only from its end on.  SYNC_DELAY_US makes the time
 * between them longer (a random part of it each time), so that writes to other files and changes of
 * names get in between.  Writes to the same file do not: the kernel lets them wait for the sync.
 *
 * BACKING itself is never synced.  Not supported: symbolic links, renaming of directories.
 */
#define FUSE_USE_VERSION 31
#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define MARK_PATH "/.mark"
enum { RECORD_MAGIC = 0x52464a56, COPY_BYTES = 1 << 16 };

/* power_loss.py has the same numbers. */
enum record_op {
    RECORD_WRITE = 1,
    RECORD_TRUNCATE, /* `at` is the new size */
    RECORD_ALLOCATE, /* the file reaches at least `at` + `length` */
    RECORD_ZERO,
    RECORD_SYNC_BEGIN, /* `at` is a number that its end has too */
    RECORD_SYNC_END,
    RECORD_DIR_SYNC_BEGIN,
    RECORD_DIR_SYNC_END,
    RECORD_CREATE,
    RECORD_MKDIR,
    RECORD_UNLINK,
    RECORD_RMDIR,
    RECORD_RENAME,
    RECORD_LINK,
    RECORD_MARK,
    RECORD_ALL_DURABLE /* everything before this one is on the disk */
};

struct record {
    uint32_t magic;
    uint32_t op;
    uint64_t inode;
    uint64_t at;
    uint64_t length;
    uint32_t path_bytes; /* then the path, the new path, the data */
    uint32_t new_path_bytes;
    uint32_t data_bytes;
    uint32_t reserved;
};

struct handle {
    int fd;
    bool is_mark;
    uint64_t inode;
    char path[];
};

static int backing_fd = -1;
static int log_fd = -1;
static long sync_delay_us;

/* Held over a change and its record, so that the log has the order in which things happened. */
static pthread_mutex_t order = PTHREAD_MUTEX_INITIALIZER;
static uint64_t syncs;
static uint64_t dice = 88172645463325252u;

/* ---- the log ---- */

static void record_data(enum record_op op, uint64_t inode, uint64_t at, uint64_t length,
                        const char *path, const char *new_path, const void *data, size_t bytes)
{
    struct record r = {.magic = RECORD_MAGIC,
                       .op = op,
                       .inode = inode,
                       .at = at,
                       .length = length,
                       .path_bytes = path ? (uint32_t)strlen(path) : 0,
                       .new_path_bytes = new_path ? (uint32_t)strlen(new_path) : 0,
                       .data_bytes = (uint32_t)bytes};
    struct iovec parts[] = {{&r, sizeof r},
                            {(void *)(uintptr_t)path, r.path_bytes},
                            {(void *)(uintptr_t)new_path, r.new_path_bytes},
                            {(void *)(uintptr_t)data, bytes}};
    size_t whole = sizeof r + r.path_bytes + r.new_path_bytes + bytes;
    if (writev(log_fd, parts, 4) != (ssize_t)whole) {
        perror("record_fs: cannot write the log");
        abort(); /* half a log proves nothing */
    }
}

static void record(enum record_op op, uint64_t inode, uint64_t at, uint64_t length,
                   const char *path, const char *new_path)
{
    record_data(op, inode, at, length, path, new_path, NULL, 0);
}

/* ---- paths and handles ---- */

static const char *below(const char *path)
{
    return path[1] ? path + 1 : ".";
}

static bool is_mark_path(const char *path)
{
    return path && strcmp(path, MARK_PATH) == 0;
}

static uint64_t inode_of(const char *path)
{
    struct stat st;
    return fstatat(backing_fd, below(path), &st, AT_SYMLINK_NOFOLLOW) == 0 ? st.st_ino : 0;
}

static struct handle *handle_of(const struct fuse_file_info *fi)
{
    return fi ? (struct handle *)(uintptr_t)fi->fh : NULL;
}

static int handle_new(const char *path, int fd, bool is_mark, struct fuse_file_info *fi)
{
    struct handle *h = calloc(1, sizeof *h + strlen(path) + 1);
    if (!h) return -ENOMEM;
    struct stat st = {0};
    if (fd >= 0 && fstat(fd, &st) != 0) {
        free(h);
        return -errno;
    }
    h->fd = fd;
    h->is_mark = is_mark;
    h->inode = st.st_ino;
    strcpy(h->path, path);
    fi->fh = (uintptr_t)h;
    return 0;
}

static void handle_free(struct handle *h)
{
    if (h->fd >= 0) close(h->fd);
    free(h);
}

/* ---- looking ---- */

static void *on_init(struct fuse_conn_info *conn, struct fuse_config *config)
{
    /* write() must arrive when it is called; only maps are written back later. */
    conn->want &= ~(unsigned)FUSE_CAP_WRITEBACK_CACHE;
    config->use_ino = 1;
    config->nullpath_ok = 1;
    config->hard_remove = 1;
    config->kernel_cache = 1; /* nobody else changes BACKING */
    config->entry_timeout = config->attr_timeout = 3600;
    puts("serving");
    fflush(stdout);
    return NULL;
}

static int on_getattr(const char *path, struct stat *st, struct fuse_file_info *fi)
{
    const struct handle *h = handle_of(fi);
    if (h ? h->is_mark : is_mark_path(path)) {
        *st = (struct stat){.st_mode = S_IFREG | 0600, .st_nlink = 1, .st_ino = 1};
        return 0;
    }
    int failed = h ? fstat(h->fd, st) : fstatat(backing_fd, below(path), st, AT_SYMLINK_NOFOLLOW);
    return failed ? -errno : 0;
}

static int on_opendir(const char *path, struct fuse_file_info *fi)
{
    int fd = openat(backing_fd, below(path), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return -errno;
    int failed = handle_new(path, fd, false, fi);
    if (failed) close(fd);
    return failed;
}

static int on_readdir(const char *path, void *to, fuse_fill_dir_t fill, off_t at,
                      struct fuse_file_info *fi, enum fuse_readdir_flags flags)
{
    (void)path, (void)at, (void)flags;
    int fd = openat(handle_of(fi)->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    if (!dir) return -errno;
    for (struct dirent *d; (d = readdir(dir));)
        if (fill(to, d->d_name, NULL, 0, 0)) break;
    closedir(dir);
    return 0;
}

static int on_releasedir(const char *path, struct fuse_file_info *fi)
{
    (void)path;
    handle_free(handle_of(fi));
    return 0;
}

static int on_read(const char *path, char *to, size_t bytes, off_t at, struct fuse_file_info *fi)
{
    (void)path;
    const struct handle *h = handle_of(fi);
    if (h->is_mark) return 0;
    ssize_t n = pread(h->fd, to, bytes, at);
    return n < 0 ? -errno : (int)n;
}

static int on_statfs(const char *path, struct statvfs *st)
{
    (void)path;
    return fstatvfs(backing_fd, st) ? -errno : 0;
}

static off_t on_lseek(const char *path, off_t at, int whence, struct fuse_file_info *fi)
{
    (void)path;
    off_t found = lseek(handle_of(fi)->fd, at, whence);
    return found < 0 ? -errno : found;
}

/* ---- changing data ---- */

static int on_open(const char *path, struct fuse_file_info *fi)
{
    if (is_mark_path(path)) {
        fi->direct_io = 1;
        return handle_new(path, -1, true, fi);
    }
    /* The kernel reads around a part that is written of a map, and tells where an append goes. */
    int flags = (fi->flags & (O_TRUNC | O_NOFOLLOW)) |
                ((fi->flags & O_ACCMODE) == O_RDONLY ? O_RDONLY : O_RDWR);
    pthread_mutex_lock(&order);
    int fd = openat(backing_fd, below(path), flags | O_CLOEXEC);
    int failed = fd < 0 ? -errno : handle_new(path, fd, false, fi);
    if (!failed && flags & O_TRUNC) record(RECORD_TRUNCATE, handle_of(fi)->inode, 0, 0, path, NULL);
    pthread_mutex_unlock(&order);
    if (failed && fd >= 0) close(fd);
    return failed;
}

static int on_create(const char *path, mode_t mode, struct fuse_file_info *fi)
{
    pthread_mutex_lock(&order);
    int fd = openat(backing_fd, below(path), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    int failed = fd < 0 ? -errno : handle_new(path, fd, false, fi);
    if (!failed) record(RECORD_CREATE, handle_of(fi)->inode, 0, 0, path, NULL);
    pthread_mutex_unlock(&order);
    if (failed && fd >= 0) close(fd);
    return failed;
}

static int on_release(const char *path, struct fuse_file_info *fi)
{
    (void)path;
    handle_free(handle_of(fi));
    return 0;
}

static int on_write(const char *path, const char *from, size_t bytes, off_t at,
                    struct fuse_file_info *fi)
{
    (void)path;
    const struct handle *h = handle_of(fi);
    pthread_mutex_lock(&order);
    ssize_t n = h->is_mark ? (ssize_t)bytes : pwrite(h->fd, from, bytes, at);
    int failed = n < 0 ? -errno : 0;
    if (!failed)
        record_data(h->is_mark ? RECORD_MARK : RECORD_WRITE, h->inode, (uint64_t)at, (uint64_t)n,
                    h->path, NULL, from, (size_t)n);
    pthread_mutex_unlock(&order);
    return failed ? failed : (int)n;
}

static int on_truncate(const char *path, off_t bytes, struct fuse_file_info *fi)
{
    const struct handle *h = handle_of(fi);
    if (h ? h->is_mark : is_mark_path(path)) return 0;
    int fd = h ? h->fd : openat(backing_fd, below(path), O_RDWR | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) return -errno;
    pthread_mutex_lock(&order);
    int failed = ftruncate(fd, bytes) != 0 ? -errno : 0;
    if (!failed)
        record(RECORD_TRUNCATE, h ? h->inode : inode_of(path), (uint64_t)bytes, 0,
               h ? h->path : path, NULL);
    pthread_mutex_unlock(&order);
    if (!h) close(fd);
    return failed;
}

static int on_fallocate(const char *path, int mode, off_t at, off_t bytes,
                        struct fuse_file_info *fi)
{
    (void)path;
    const struct handle *h = handle_of(fi);
    if (mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))
        return -EOPNOTSUPP;
    pthread_mutex_lock(&order);
    int failed = fallocate(h->fd, mode, at, bytes) != 0 ? -errno : 0;
    if (!failed && !(mode & FALLOC_FL_KEEP_SIZE))
        record(RECORD_ALLOCATE, h->inode, (uint64_t)at, (uint64_t)bytes, h->path, NULL);
    if (!failed && mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))
        record(RECORD_ZERO, h->inode, (uint64_t)at, (uint64_t)bytes, h->path, NULL);
    pthread_mutex_unlock(&order);
    return failed;
}

/* ---- syncing ---- */

static void record_sync(enum record_op begin, enum record_op end, const struct handle *h)
{
    pthread_mutex_lock(&order);
    uint64_t number = ++syncs;
    dice ^= dice << 13;
    dice ^= dice >> 7;
    dice ^= dice << 17;
    long wait_us = sync_delay_us ? (long)(dice % (uint64_t)sync_delay_us) : 0;
    record(begin, h->inode, number, 0, h->path, NULL);
    pthread_mutex_unlock(&order);

    if (wait_us) nanosleep(&(struct timespec){.tv_nsec = wait_us * 1000}, NULL);

    pthread_mutex_lock(&order);
    record(end, h->inode, number, 0, h->path, NULL);
    pthread_mutex_unlock(&order);
}

static int on_fsync(const char *path, int data_only, struct fuse_file_info *fi)
{
    (void)path, (void)data_only; /* fdatasync covers the size too */
    if (!handle_of(fi)->is_mark) record_sync(RECORD_SYNC_BEGIN, RECORD_SYNC_END, handle_of(fi));
    return 0;
}

static int on_fsyncdir(const char *path, int data_only, struct fuse_file_info *fi)
{
    (void)path, (void)data_only;
    record_sync(RECORD_DIR_SYNC_BEGIN, RECORD_DIR_SYNC_END, handle_of(fi));
    return 0;
}

/* ---- changing names ---- */

static int on_mkdir(const char *path, mode_t mode)
{
    pthread_mutex_lock(&order);
    int failed = mkdirat(backing_fd, below(path), mode) != 0 ? -errno : 0;
    if (!failed) record(RECORD_MKDIR, inode_of(path), 0, 0, path, NULL);
    pthread_mutex_unlock(&order);
    return failed;
}

static int remove_name(const char *path, int flags, enum record_op op)
{
    pthread_mutex_lock(&order);
    uint64_t inode = inode_of(path);
    int failed = unlinkat(backing_fd, below(path), flags) != 0 ? -errno : 0;
    if (!failed) record(op, inode, 0, 0, path, NULL);
    pthread_mutex_unlock(&order);
    return failed;
}

static int on_unlink(const char *path)
{
    return remove_name(path, 0, RECORD_UNLINK);
}

static int on_rmdir(const char *path)
{
    return remove_name(path, AT_REMOVEDIR, RECORD_RMDIR);
}

static int on_rename(const char *from, const char *to, unsigned flags)
{
    struct stat st;
    if (flags & ~1u) return -EINVAL; /* 1: RENAME_NOREPLACE */
    if (fstatat(backing_fd, below(from), &st, AT_SYMLINK_NOFOLLOW) != 0) return -errno;
    if (S_ISDIR(st.st_mode)) return -EXDEV;
    pthread_mutex_lock(&order);
    int failed = renameat2(backing_fd, below(from), backing_fd, below(to), flags) != 0 ? -errno : 0;
    if (!failed) record(RECORD_RENAME, st.st_ino, 0, 0, from, to);
    pthread_mutex_unlock(&order);
    return failed;
}

static int on_link(const char *from, const char *to)
{
    pthread_mutex_lock(&order);
    int failed = linkat(backing_fd, below(from), backing_fd, below(to), 0) != 0 ? -errno : 0;
    if (!failed) record(RECORD_LINK, inode_of(to), 0, 0, from, to);
    pthread_mutex_unlock(&order);
    return failed;
}

/* ---- attributes: passed on, not recorded ---- */

static int on_chmod(const char *path, mode_t mode, struct fuse_file_info *fi)
{
    const struct handle *h = handle_of(fi);
    return (h ? fchmod(h->fd, mode) : fchmodat(backing_fd, below(path), mode, 0)) ? -errno : 0;
}

static int on_utimens(const char *path, const struct timespec times[2], struct fuse_file_info *fi)
{
    const struct handle *h = handle_of(fi);
    if (h ? h->is_mark : is_mark_path(path)) return 0;
    int failed =
        h ? futimens(h->fd, times) : utimensat(backing_fd, below(path), times, AT_SYMLINK_NOFOLLOW);
    return failed ? -errno : 0;
}

/* ---- begin ---- */

static void record_file(int fd, uint64_t inode, const char *path)
{
    static char bytes[COPY_BYTES];
    uint64_t at = 0;
    record(RECORD_CREATE, inode, 0, 0, path, NULL);
    for (ssize_t n; (n = pread(fd, bytes, sizeof bytes, (off_t)at)) > 0; at += (uint64_t)n)
        record_data(RECORD_WRITE, inode, at, (uint64_t)n, path, NULL, bytes, (size_t)n);
}

/* What BACKING holds already.  `path` is that of the directory without its last slash. */
static void record_directory(int dir_fd, const char *path)
{
    DIR *dir = fdopendir(dir_fd);
    if (!dir) return;
    for (struct dirent *d; (d = readdir(dir));) {
        char inner[1024];
        struct stat st;
        if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0) continue;
        snprintf(inner, sizeof inner, "%s/%s", path, d->d_name);
        int fd = openat(dirfd(dir), d->d_name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        if (fd < 0 || fstat(fd, &st) != 0) {
            if (fd >= 0) close(fd);
            continue;
        }
        if (S_ISDIR(st.st_mode)) {
            record(RECORD_MKDIR, st.st_ino, 0, 0, inner, NULL);
            record_directory(fd, inner); /* closes it */
            continue;
        }
        if (S_ISREG(st.st_mode)) record_file(fd, st.st_ino, inner);
        close(fd);
    }
    closedir(dir);
}

static const struct fuse_operations operations = {
    .init = on_init,
    .getattr = on_getattr,
    .opendir = on_opendir,
    .readdir = on_readdir,
    .releasedir = on_releasedir,
    .fsyncdir = on_fsyncdir,
    .open = on_open,
    .create = on_create,
    .release = on_release,
    .read = on_read,
    .write = on_write,
    .truncate = on_truncate,
    .fallocate = on_fallocate,
    .fsync = on_fsync,
    .lseek = on_lseek,
    .statfs = on_statfs,
    .mkdir = on_mkdir,
    .unlink = on_unlink,
    .rmdir = on_rmdir,
    .rename = on_rename,
    .link = on_link,
    .chmod = on_chmod,
    .utimens = on_utimens,
};

int main(int argc, char **argv)
{
    if (argc != 4 && argc != 5) {
        fprintf(stderr, "usage: record_fs LOG BACKING MOUNT [SYNC_DELAY_US]\n");
        return 2;
    }
    umask(0);
    log_fd = open(argv[1], O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0644);
    backing_fd = open(argv[2], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    sync_delay_us = argc == 5 ? strtol(argv[4], NULL, 10) : 0;
    if (log_fd < 0 || backing_fd < 0 || sync_delay_us < 0 || sync_delay_us > 999999) {
        perror("record_fs");
        return 1;
    }
    record_directory(openat(backing_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), "");
    record(RECORD_ALL_DURABLE, 0, 0, 0, NULL, NULL);

    char *fuse_argv[] = {argv[0], "-f", "-o", "default_permissions,fsname=record_fs",
                         argv[3], NULL};
    return fuse_main(5, fuse_argv, &operations, NULL);
}

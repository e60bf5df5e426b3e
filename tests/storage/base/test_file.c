/* File calls: complete or failed, never in between. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include "storage/base/file.h"

static char dir_path[512];
static int dir = -1;

/* The linker takes this one before libc's: a file system that cannot, and one that is interrupted.
 */
static int fallocate_errno;
static int fallocate_interruptions;

int fallocate(int fd, int mode, off_t offset, off_t len)
{
    if (fallocate_interruptions > 0) {
        fallocate_interruptions--;
        errno = EINTR;
        return -1;
    }
    if (fallocate_errno) {
        errno = fallocate_errno;
        return -1;
    }
    return (int)syscall(SYS_fallocate, fd, mode, offset, len);
}

/* The same for sync_file_range(). */
static int range_errno;
static int range_calls;
static uint64_t range_waited_to; /* all before it was waited for */
static bool range_gap;

int sync_file_range(int fd, off_t at, off_t len, unsigned flags)
{
    range_calls++;
    if (range_errno) {
        errno = range_errno;
        if (range_errno == EINTR) range_errno = 0;
        return -1;
    }
    if (flags & SYNC_FILE_RANGE_WAIT_AFTER) {
        range_gap = range_gap || (uint64_t)at != range_waited_to;
        range_waited_to = (uint64_t)(at + len);
    }
    return (int)syscall(SYS_sync_file_range, fd, at, len, flags);
}

static int open_new(const char *name)
{
    int fd = -1;
    assert_int_equal(file_open(dir, name, O_RDWR | O_CREAT | O_EXCL, &fd), 0);
    return fd;
}

static uint64_t size_of(int fd)
{
    uint64_t bytes;
    assert_int_equal(file_size(fd, &bytes), 0);
    return bytes;
}

static void a_new_file_is_private_and_closes_on_exec(void **state)
{
    (void)state;
    const mode_t mask = umask(0);
    int fd = open_new("new");
    umask(mask);
    struct stat st;
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0640);
    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    file_close(fd);
    file_close(-1);
    int unused = -7;
    assert_int_equal(file_open(dir, "new", O_RDWR | O_CREAT | O_EXCL, &unused), EEXIST);
    assert_int_equal(file_open(dir, "absent", O_RDWR, &unused), ENOENT);
    assert_int_equal(unused, -7);
}

static void only_regular_files_are_opened(void **state)
{
    (void)state;
    file_close(open_new("target"));
    assert_int_equal(symlinkat("target", dir, "link"), 0);
    assert_int_equal(mkfifoat(dir, "fifo", 0600), 0);
    assert_int_equal(mkdirat(dir, "folder", 0700), 0);
    int fd = -7;
    const int flags[] = {O_RDONLY, O_WRONLY, O_RDWR};
    for (int i = 0; i < 3; i++) {
        assert_int_equal(file_open(dir, "link", flags[i], &fd), EINVAL);
        assert_int_equal(file_open(dir, "fifo", flags[i], &fd), EINVAL);
        assert_int_equal(file_open(dir, "folder", flags[i], &fd), EINVAL);
    }
    assert_int_equal(fd, -7);
}

static void what_was_written_is_read(void **state)
{
    (void)state;
    int fd = open_new("data");
    char text[16] = {0};
    assert_int_equal(file_write(fd, "hello", 5, 3), 0);
    assert_int_equal(size_of(fd), 8);
    assert_int_equal(file_read(fd, text, 8, 0), 0);
    assert_memory_equal(text, "\0\0\0hello", 8);
    assert_int_equal(file_read(fd, text, 9, 0), EIO); /* too short */
    assert_int_equal(file_read(fd, text, 1, 8), EIO);
    assert_int_equal(file_read(fd, text, 0, 100), 0);
    assert_int_equal(file_truncate(fd, 4), 0);
    assert_int_equal(size_of(fd), 4);
    assert_int_equal(file_datasync(fd), 0);
    assert_int_equal(file_sync(fd), 0);
    assert_int_equal(file_sync(dir), 0);
    file_close(fd);
    assert_int_equal(file_write(-1, "x", 1, 0), EBADF);
    assert_int_equal(file_read(-1, text, 1, 0), EBADF);
    assert_int_equal(file_sync(-1), EBADF);
    assert_int_equal(file_datasync(-1), EBADF);
    assert_int_equal(file_truncate(-1, 0), EBADF);
}

static void a_gather_write_may_have_more_parts_than_the_kernel_takes(void **state)
{
    (void)state;
    enum { PARTS = 2 * IOV_MAX + 500 };
    int fd = open_new("gather");
    struct iovec *iov = calloc(PARTS, sizeof *iov);
    char *want = malloc(3 * PARTS), *got = malloc(3 * PARTS);
    assert_true(iov && want && got);
    size_t bytes = 0;
    for (int i = 0; i < PARTS; i++) {
        const size_t len = (size_t)i % 4; /* empty parts, too */
        memset(want + bytes, 'a' + i % 26, len);
        iov[i] = (struct iovec){want + bytes, len};
        bytes += len;
    }
    assert_int_equal(file_writev(fd, iov, PARTS, 5), 0);
    assert_int_equal(size_of(fd), bytes + 5);
    assert_int_equal(file_read(fd, got, bytes, 5), 0);
    assert_memory_equal(got, want, bytes);
    assert_int_equal(file_writev(fd, NULL, 0, 0), 0);
    free(iov);
    free(want);
    free(got);
    file_close(fd);
}

/* RLIMIT_FSIZE cuts a write in two: its first part succeeds short, the rest fails. */
static void with_size_limit(rlim_t bytes, struct rlimit *old)
{
    assert_int_equal(getrlimit(RLIMIT_FSIZE, old), 0);
    struct rlimit limit = {bytes, old->rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

static void a_write_that_is_cut_short_reports_the_reason(void **state)
{
    (void)state;
    int fd = open_new("limited");
    char block[1000];
    memset(block, 'x', sizeof block);
    struct iovec iov[2] = {{block, 600}, {block, 1000}};
    struct rlimit old;
    with_size_limit(1500, &old);
    const int first = file_write(fd, block, sizeof block, 0);
    const int second = file_write(fd, block, sizeof block, 1000);
    const int gathered = file_writev(fd, iov, 2, 0);
    setrlimit(RLIMIT_FSIZE, &old);
    assert_int_equal(first, 0);
    assert_int_equal(second, EFBIG);
    assert_int_equal(gathered, EFBIG);
    assert_int_equal(size_of(fd), 1500);
    file_close(fd);
}

static void an_allocation_makes_the_file_longer_and_reads_as_zeros(void **state)
{
    (void)state;
    int fd = open_new("allocated");
    assert_int_equal(file_write(fd, "abc", 3, 0), 0);
    assert_int_equal(file_allocate(fd, 0, 100000), 0);
    assert_int_equal(size_of(fd), 100000);
    struct stat st;
    assert_int_equal(fstat(fd, &st), 0);
    assert_true((uint64_t)st.st_blocks * 512 >= 100000);
    char text[8];
    assert_int_equal(file_read(fd, text, 8, 0), 0);
    assert_memory_equal(text, "abc\0\0\0\0\0", 8);
    assert_int_equal(file_allocate(fd, 10, 0), 0);
    assert_int_equal(file_allocate(fd, 0, 10), 0);
    assert_int_equal(size_of(fd), 100000);
    file_close(fd);
}

static void a_failed_allocation_leaves_the_old_size(void **state)
{
    (void)state;
    int fd = open_new("too-large");
    assert_int_equal(file_write(fd, "abc", 3, 0), 0);
    struct rlimit old;
    with_size_limit(50000, &old);
    const int rc = file_allocate(fd, 0, 100000);
    setrlimit(RLIMIT_FSIZE, &old);
    assert_int_equal(rc, EFBIG);
    assert_int_equal(size_of(fd), 3);

    assert_int_equal(file_allocate(fd, UINT64_MAX, 1), EFBIG);
    assert_int_equal(file_allocate(fd, 1, UINT64_MAX), EFBIG);
    struct statfs fs;
    assert_int_equal(fstatfs(fd, &fs), 0);
    const uint64_t more_than_all = (uint64_t)fs.f_blocks * (uint64_t)fs.f_bsize * 2;
    /* Only on one of our own: others would find a shared one full for that moment. */
    if (more_than_all > 0 && more_than_all < (UINT64_C(1) << 29)) {
        assert_int_not_equal(file_allocate(fd, 0, more_than_all), 0);
        assert_int_equal(size_of(fd), 3);
    }
    file_close(fd);
}

static void a_file_system_without_fallocate_gets_zeros(void **state)
{
    (void)state;
    int fd = open_new("no-fallocate");
    assert_int_equal(file_write(fd, "abc", 3, 0), 0);
    fallocate_errno = EOPNOTSUPP;
    int rc = file_allocate(fd, 1, 199999);
    assert_int_equal(rc, 0);
    assert_int_equal(size_of(fd), 200000);
    struct stat st;
    assert_int_equal(fstat(fd, &st), 0);
    assert_true((uint64_t)st.st_blocks * 512 >= 200000);
    char text[8];
    assert_int_equal(file_read(fd, text, 8, 0), 0);
    assert_memory_equal(text, "abc\0\0\0\0\0", 8);

    struct rlimit old;
    with_size_limit(250000, &old);
    rc = file_allocate(fd, 0, 300000);
    setrlimit(RLIMIT_FSIZE, &old);
    fallocate_errno = 0;
    assert_int_equal(rc, EFBIG);
    assert_int_equal(size_of(fd), 200000);
    file_close(fd);
}

static void an_interrupted_call_is_repeated(void **state)
{
    (void)state;
    int fd = open_new("interrupted");
    fallocate_interruptions = 3;
    assert_int_equal(file_allocate(fd, 0, 5000), 0);
    assert_int_equal(fallocate_interruptions, 0);
    assert_int_equal(size_of(fd), 5000);
    file_close(fd);
}

static void write_back_goes_through_all_of_it_in_pieces(void **state)
{
    (void)state;
    const uint64_t bytes = (20 << 20) + 12345;
    int fd = open_new("write-back");
    assert_int_equal(file_allocate(fd, 0, bytes), 0);
    range_calls = 0;
    range_waited_to = 4096;
    assert_int_equal(file_write_back(fd, 4096, bytes), 0);
    assert_int_equal(range_waited_to, bytes);
    assert_false(range_gap);
    assert_true(range_calls >= 10); /* five pieces and a bit, begun and waited for */

    range_errno = EINTR;
    range_waited_to = 0;
    assert_int_equal(file_write_back(fd, 0, bytes), 0);
    assert_int_equal(range_waited_to, bytes);
    assert_false(range_gap);

    range_calls = 0;
    assert_int_equal(file_write_back(fd, 1 << 20, 2 << 20), 0); /* little: the sync can do it */
    assert_int_equal(file_write_back(fd, 5, 5), 0);
    assert_int_equal(range_calls, 0);
    range_errno = EINVAL; /* not every file system can */
    assert_int_equal(file_write_back(fd, 0, bytes), 0);
    range_errno = EIO;
    assert_int_equal(file_write_back(fd, 0, bytes), EIO);
    range_errno = 0;
    file_close(fd);
}

static void renaming_replaces_and_unlinking_is_idempotent(void **state)
{
    (void)state;
    int fd = open_new("from");
    assert_int_equal(file_write(fd, "new", 3, 0), 0);
    file_close(fd);
    file_close(open_new("to"));
    assert_int_equal(file_rename(dir, "from", "to"), 0);
    assert_int_equal(file_rename(dir, "from", "to"), ENOENT);
    assert_int_equal(file_open(dir, "to", O_RDONLY, &fd), 0);
    assert_int_equal(size_of(fd), 3);
    file_close(fd);
    assert_int_equal(file_unlink(dir, "to"), 0);
    assert_int_equal(file_unlink(dir, "to"), 0);
    assert_int_equal(mkdirat(dir, "full", 0700), 0);
    assert_int_not_equal(file_unlink(dir, "full"), 0);
}

static int set_up(void **state)
{
    (void)state;
    signal(SIGXFSZ, SIG_IGN);
    const char *base = getenv("TMPDIR");
    snprintf(dir_path, sizeof dir_path, "%s/jvdb-file-XXXXXX", base ? base : "/tmp");
    if (!mkdtemp(dir_path)) return -1;
    dir = open(dir_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return dir >= 0 ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    close(dir);
    char command[600];
    snprintf(command, sizeof command, "rm -rf '%s'", dir_path);
    return system(command);
}

static void a_name_with_a_slash_is_refused(void **state)
{
    (void)state;
    int fd = -1;
    assert_int_equal(file_open(dir, "../etc/passwd", O_RDONLY, &fd), EINVAL);
    assert_int_equal(file_open(dir, "/etc/passwd", O_RDONLY, &fd), EINVAL);
    assert_int_equal(file_open(dir, "..", O_RDONLY, &fd), EINVAL);
    assert_int_equal(fd, -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_name_with_a_slash_is_refused),
        cmocka_unit_test(a_new_file_is_private_and_closes_on_exec),
        cmocka_unit_test(only_regular_files_are_opened),
        cmocka_unit_test(what_was_written_is_read),
        cmocka_unit_test(a_gather_write_may_have_more_parts_than_the_kernel_takes),
        cmocka_unit_test(a_write_that_is_cut_short_reports_the_reason),
        cmocka_unit_test(an_allocation_makes_the_file_longer_and_reads_as_zeros),
        cmocka_unit_test(a_failed_allocation_leaves_the_old_size),
        cmocka_unit_test(a_file_system_without_fallocate_gets_zeros),
        cmocka_unit_test(an_interrupted_call_is_repeated),
        cmocka_unit_test(write_back_goes_through_all_of_it_in_pieces),
        cmocka_unit_test(renaming_replaces_and_unlinking_is_idempotent),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}

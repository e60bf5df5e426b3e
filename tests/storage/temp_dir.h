/*
 * temp_dir.h - two fresh directories for each test, and files in them as bytes.
 *
 * `data` is where the test works; `image` takes copies of it: what a kill -9 would have left.
 */
#ifndef TESTS_STORAGE_TEMP_DIR_H
#define TESTS_STORAGE_TEMP_DIR_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char temp_path[400];
static int data_fd = -1, image_fd = -1;

static inline int temp_dir_set_up(void **state)
{
    (void)state;
    const char *base = getenv("TMPDIR");
    snprintf(temp_path, sizeof temp_path, "%s/jvdb-test-XXXXXX", base ? base : "/tmp");
    if (!mkdtemp(temp_path)) return -1;
    int fd = open(temp_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || mkdirat(fd, "data", 0700) || mkdirat(fd, "image", 0700)) return -1;
    data_fd = openat(fd, "data", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    image_fd = openat(fd, "image", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    close(fd);
    return data_fd >= 0 && image_fd >= 0 ? 0 : -1;
}

static inline int temp_dir_tear_down(void **state)
{
    (void)state;
    char command[500];
    close(data_fd);
    close(image_fd);
    snprintf(command, sizeof command, "rm -rf '%s'", temp_path);
    return system(command);
}

#define temp_dir_test(f) cmocka_unit_test_setup_teardown(f, temp_dir_set_up, temp_dir_tear_down)

/* Call fn(dir, name) for every file. */
static inline void for_each_file(int dir, void (*fn)(int dir, const char *name))
{
    int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fdopendir(fd);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0) fn(dir, e->d_name);
    closedir(d);
}

static inline bool file_exists(int dir, const char *name)
{
    return faccessat(dir, name, F_OK, 0) == 0;
}

/* The bytes of a file; the caller frees them.  Plain libc: no fault of faults.h meets it. */
static inline uint8_t *file_bytes(int dir, const char *name, size_t *len)
{
    int fd = openat(dir, name, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    struct stat st;
    assert_int_equal(fstat(fd, &st), 0);
    uint8_t *bytes = malloc((size_t)st.st_size + 1);
    assert_non_null(bytes);
    *len = 0;
    for (ssize_t n; (n = read(fd, bytes + *len, (size_t)st.st_size - *len)) > 0;)
        *len += (size_t)n;
    close(fd);
    return bytes;
}

static inline void set_file(int dir, const char *name, const void *bytes, size_t len)
{
    int fd = openat(dir, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_true(write(fd, bytes, len) == (ssize_t)len);
    close(fd);
}

/* Change bytes of a file in place: what is mapped sees it. */
static inline void poke(int dir, const char *name, uint64_t at, const void *bytes, size_t len)
{
    int fd = openat(dir, name, O_WRONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_true(lseek(fd, (off_t)at, SEEK_SET) == (off_t)at);
    assert_true(write(fd, bytes, len) == (ssize_t)len);
    close(fd);
}

static inline void flip_byte(int dir, const char *name, uint64_t at)
{
    int fd = openat(dir, name, O_RDONLY | O_CLOEXEC);
    uint8_t byte;
    assert_true(lseek(fd, (off_t)at, SEEK_SET) == (off_t)at);
    assert_int_equal(read(fd, &byte, 1), 1);
    close(fd);
    byte ^= 0xff;
    poke(dir, name, at, &byte, 1);
}

static inline void remove_file(int dir, const char *name)
{
    unlinkat(dir, name, 0);
}

static inline void copy_to_image(int dir, const char *name)
{
    size_t len;
    uint8_t *bytes = file_bytes(dir, name, &len);
    set_file(image_fd, name, bytes, len);
    free(bytes);
}

/* Make `image` what `data` is now. */
static inline void take_image(void)
{
    for_each_file(image_fd, remove_file);
    for_each_file(data_fd, copy_to_image);
}

#endif

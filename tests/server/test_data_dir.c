/* test_data_dir.c - one daemon per directory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <sys/stat.h>
#include <unistd.h>

#include "server/data_dir.h"

static char top[64];

static int make_top(void **state)
{
    (void)state;
    strcpy(top, "/tmp/test_data_dir.XXXXXX");
    return mkdtemp(top) ? 0 : -1;
}

static int remove_top(void **state)
{
    char path[100];
    (void)state;
    const char *const names[] = {"/a/b/.lock", "/.lock", "/file"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s%s", top, names[i]);
        unlink(path);
    }
    snprintf(path, sizeof path, "%s/a/b", top);
    rmdir(path);
    snprintf(path, sizeof path, "%s/a", top);
    rmdir(path);
    return rmdir(top);
}

static void a_missing_directory_is_made_with_its_parents(void **state)
{
    char path[100];
    struct stat st;
    struct err err;
    int fd;
    (void)state;
    snprintf(path, sizeof path, "%s/a/b/", top);
    assert_int_equal(data_dir_open(path, &fd, &err), ERR_OK);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777 & ~0750, 0);
    data_dir_close(fd);
}

static void the_second_is_refused_and_told_the_pid_of_the_first(void **state)
{
    char pid[32];
    struct err err;
    int first, second;
    (void)state;
    assert_int_equal(data_dir_open(top, &first, &err), ERR_OK);
    /* flock() belongs to the open file, so a second open in this process is as good as another. */
    assert_int_equal(data_dir_open(top, &second, &err), ERR_CONFLICT);
    snprintf(pid, sizeof pid, "pid %ld", (long)getpid());
    assert_non_null(strstr(err.msg, pid));
    assert_non_null(strstr(err.msg, top));
    data_dir_close(first);
    assert_int_equal(data_dir_open(top, &second, &err), ERR_OK);
    data_dir_close(second);
}

static void a_file_is_not_a_data_directory(void **state)
{
    char path[100];
    struct err err;
    int fd;
    (void)state;
    snprintf(path, sizeof path, "%s/file", top);
    fclose(fopen(path, "w"));
    assert_int_not_equal(data_dir_open(path, &fd, &err), ERR_OK);
    assert_non_null(strstr(err.msg, path));
    strcat(path, "/below");
    assert_int_not_equal(data_dir_open(path, &fd, &err), ERR_OK);
    assert_int_not_equal(data_dir_open("", &fd, &err), ERR_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_missing_directory_is_made_with_its_parents),
        cmocka_unit_test(the_second_is_refused_and_told_the_pid_of_the_first),
        cmocka_unit_test(a_file_is_not_a_data_directory),
    };
    return cmocka_run_group_tests(tests, make_top, remove_top);
}

/* test_activation.c - sockets by LISTEN_FDS; descriptor 3 of this process is what each test puts
 * there. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/activation.h"

static void pass(const char *pid, const char *count)
{
    char own[32];

    snprintf(own, sizeof own, "%ld", (long)getpid());
    setenv("LISTEN_PID", pid ? pid : own, 1);
    setenv("LISTEN_FDS", count, 1);
    setenv("LISTEN_FDNAMES", "x", 1);
}

static void put_socket(int family, int type, bool listens)
{
    int fd = socket(family, type, 0);
    assert_true(fd >= 0);
    if (listens) assert_int_equal(listen(fd, 1), 0);
    if (fd == 3) return;
    assert_int_equal(dup2(fd, 3), 3);
    close(fd);
}

static void assert_refused(void)
{
    struct err err;
    int fd = 0;

    assert_int_equal(activation_take(&fd, &err), ERR_INVALID_REQUEST);
    assert_int_equal(fd, -1);
    assert_non_null(strstr(err.msg, "LISTEN_FDS"));
}

static void assert_none(void)
{
    struct err err;
    int fd = 0;

    assert_int_equal(activation_take(&fd, &err), ERR_OK);
    assert_int_equal(fd, -1);
}

static void a_listening_socket_is_taken_once(void **state)
{
    struct err err;
    int fd = -1;

    (void)state;
    put_socket(AF_INET, SOCK_STREAM, true);
    pass(NULL, "1");
    assert_int_equal(activation_take(&fd, &err), ERR_OK);
    assert_int_equal(fd, 3);
    assert_true(fcntl(3, F_GETFL) & O_NONBLOCK);
    assert_true(fcntl(3, F_GETFD) & FD_CLOEXEC);
    assert_null(getenv("LISTEN_PID"));
    assert_null(getenv("LISTEN_FDS"));
    assert_null(getenv("LISTEN_FDNAMES"));
    assert_none();
}

static void without_one_for_this_process_there_is_none(void **state)
{
    (void)state;
    put_socket(AF_INET, SOCK_STREAM, true);
    pass("1", "1");
    assert_none();
    assert_null(getenv("LISTEN_FDS"));
    pass("", "1");
    assert_none();
    pass(NULL, "0");
    assert_none();
    assert_false(fcntl(3, F_GETFD) & FD_CLOEXEC); /* not ours to touch */
}

static void anything_else_is_refused(void **state)
{
    static const char *const counts[] = {"2", "-1", "one", "1x", "", "99999999999999999999"};

    (void)state;
    put_socket(AF_INET, SOCK_STREAM, true);
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        pass(NULL, counts[i]);
        assert_refused();
    }
    put_socket(AF_INET, SOCK_STREAM, false);
    pass(NULL, "1");
    assert_refused();
    put_socket(AF_INET, SOCK_DGRAM, false);
    pass(NULL, "1");
    assert_refused();
    put_socket(AF_UNIX, SOCK_STREAM, false);
    pass(NULL, "1");
    assert_refused();
    assert_int_equal(dup2(STDERR_FILENO, 3), 3);
    pass(NULL, "1");
    assert_refused();
    close(3);
    pass(NULL, "1");
    assert_refused();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_listening_socket_is_taken_once),
        cmocka_unit_test(without_one_for_this_process_there_is_none),
        cmocka_unit_test(anything_else_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

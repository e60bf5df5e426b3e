/* test_notify.c - datagrams to the service manager. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "server/notify.h"

/* A manager that listens at `name`; '@' is an abstract one. */
static int manager_bind(const char *name)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    size_t len = strlen(name);
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    memcpy(addr.sun_path, name, len);
    if (name[0] == '@') addr.sun_path[0] = '\0';
    socklen_t bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len);
    assert_int_equal(bind(fd, (struct sockaddr *)&addr, bytes), 0);
    return fd;
}

static void expect(int fd, const char *want)
{
    char got[200] = "";
    assert_true(recv(fd, got, sizeof got - 1, MSG_DONTWAIT) > 0);
    assert_string_equal(got, want);
}

static void the_state_arrives_at_a_path_and_at_an_abstract_name(void **state)
{
    char dir[] = "/tmp/test_notify.XXXXXX", path[64], name[64];
    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/socket", dir);
    snprintf(name, sizeof name, "@%s/abstract", dir);
    int at_path = manager_bind(path), at_name = manager_bind(name);
    setenv("NOTIFY_SOCKET", path, 1);
    notify_send("READY=1");
    expect(at_path, "READY=1");
    setenv("NOTIFY_SOCKET", name, 1);
    notify_send("STOPPING=1");
    expect(at_name, "STOPPING=1");
    close(at_path);
    close(at_name);
    unlink(path);
    rmdir(dir);
}

static void without_a_manager_nothing_happens(void **state)
{
    (void)state;
    unsetenv("NOTIFY_SOCKET");
    notify_send("READY=1");
    setenv("NOTIFY_SOCKET", "relative", 1);
    notify_send("READY=1");
    unsetenv("NOTIFY_SOCKET");
}

static void the_watchdog_is_only_for_the_process_it_names(void **state)
{
    char pid[32];
    (void)state;
    unsetenv("WATCHDOG_USEC");
    unsetenv("WATCHDOG_PID");
    assert_int_equal(notify_watchdog_us(), 0);
    setenv("WATCHDOG_USEC", "3000000", 1);
    assert_int_equal(notify_watchdog_us(), 3000000);
    setenv("WATCHDOG_PID", "1", 1);
    assert_int_equal(notify_watchdog_us(), 0);
    snprintf(pid, sizeof pid, "%ld", (long)getpid());
    setenv("WATCHDOG_PID", pid, 1);
    assert_int_equal(notify_watchdog_us(), 3000000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_state_arrives_at_a_path_and_at_an_abstract_name),
        cmocka_unit_test(without_a_manager_nothing_happens),
        cmocka_unit_test(the_watchdog_is_only_for_the_process_it_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

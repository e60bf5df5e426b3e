/* test_listener.c - addresses, and how many connections each may have. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <unistd.h>

#include "server/listener.h"

static struct listener *open_on(const char *host, size_t max, size_t per_ip_max)
{
    struct listener_options o = {
        .host = host, .connection_count_max = max, .connection_per_ip_count_max = per_ip_max};
    struct listener *l = NULL;
    struct err err;
    return listener_open(&o, &l, &err) == ERR_OK ? l : NULL;
}

static struct sockaddr_storage client(const char *address)
{
    struct sockaddr_storage peer = {0};
    struct sockaddr_in *v4 = (struct sockaddr_in *)&peer;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&peer;

    if (inet_pton(AF_INET, address, &v4->sin_addr) == 1) {
        peer.ss_family = AF_INET;
    } else {
        assert_int_equal(inet_pton(AF_INET6, address, &v6->sin6_addr), 1);
        peer.ss_family = AF_INET6;
    }
    return peer;
}

static bool admit(struct listener *l, const char *address)
{
    struct sockaddr_storage peer = client(address);
    return listener_admit(l, &peer);
}

static void forget(struct listener *l, const char *address)
{
    struct sockaddr_storage peer = client(address);
    listener_forget(l, &peer);
}

static void port_0_becomes_a_real_port_in_the_url(void **state)
{
    (void)state;
    struct listener *l = open_on("localhost", 1, 1);
    assert_non_null(l);
    assert_memory_equal(listener_url(l), "http://127.0.0.1:", 17);
    assert_true(strtoul(listener_url(l) + 17, NULL, 10) > 0);
    listener_close(l);
    l = open_on("::1", 1, 1);
    if (l) assert_memory_equal(listener_url(l), "http://[::1]:", 13); /* if there is IPv6 */
    listener_close(l);
}

static void names_are_not_looked_up(void **state)
{
    struct listener_options o = {.host = "example.org"};
    struct listener *l;
    struct err err;
    (void)state;
    assert_int_equal(listener_open(&o, &l, &err), ERR_INVALID_REQUEST);
    assert_non_null(strstr(err.msg, "server.host"));
}

static void one_address_has_a_limited_share(void **state)
{
    (void)state;
    struct listener *l = open_on("127.0.0.1", 100, 2);
    assert_true(admit(l, "192.0.2.1"));
    assert_true(admit(l, "192.0.2.1"));
    assert_false(admit(l, "192.0.2.1"));
    assert_false(admit(l, "::ffff:192.0.2.1")); /* the same, on a socket that speaks both */
    assert_true(admit(l, "192.0.2.2"));
    forget(l, "192.0.2.1");
    assert_true(admit(l, "::ffff:192.0.2.1"));
    assert_false(admit(l, "192.0.2.1"));
    forget(l, "192.0.2.1");
    forget(l, "192.0.2.1");
    forget(l, "192.0.2.2");
    listener_close(l);
}

static void an_ipv6_network_shares_one_share(void **state)
{
    (void)state;
    struct listener *l = open_on("127.0.0.1", 100, 2);
    assert_true(admit(l, "2001:db8:0:1::1"));
    assert_true(admit(l, "2001:db8:0:1:ffff::2"));
    assert_false(admit(l, "2001:db8:0:1::3"));
    assert_true(admit(l, "2001:db8:0:2::1"));
    forget(l, "2001:db8:0:1::1");
    forget(l, "2001:db8:0:1::1");
    forget(l, "2001:db8:0:2::1");
    listener_close(l);
}

static void loopback_is_only_held_to_the_total(void **state)
{
    (void)state;
    struct listener *l = open_on("127.0.0.1", 6, 1);
    for (int i = 0; i < 2; i++) {
        assert_true(admit(l, "127.0.0.1"));
        assert_true(admit(l, "::1"));
        assert_true(admit(l, "::ffff:127.0.0.9"));
    }
    assert_false(admit(l, "127.0.0.1"));
    assert_false(admit(l, "192.0.2.1"));
    for (int i = 0; i < 6; i++)
        forget(l, "127.0.0.1");
    listener_close(l);
}

/* A socket that listens at a free port of `address`. */
static int listening_socket(const char *address, struct sockaddr_in *bound)
{
    socklen_t bytes = sizeof *bound;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    *bound = (struct sockaddr_in){.sin_family = AF_INET};
    assert_int_equal(inet_pton(AF_INET, address, &bound->sin_addr), 1);
    assert_int_equal(bind(fd, (struct sockaddr *)bound, sizeof *bound), 0);
    assert_int_equal(listen(fd, 8), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)bound, &bytes), 0);
    return fd;
}

static void who_waits_at_a_passed_socket_is_left_to_the_next(void **state)
{
    struct sockaddr_in bound;
    struct listener *l = NULL;
    struct err err;
    int fd = listening_socket("127.0.0.1", &bound), own = dup(fd);
    struct listener_options o = {.host = "not looked at",
                                 .passed_fd = own,
                                 .connection_count_max = 1,
                                 .connection_per_ip_count_max = 1};

    (void)state;
    assert_int_equal(listener_open(&o, &l, &err), ERR_OK);
    assert_int_equal(listener_fd(l), own);
    assert_int_equal(strtoul(strrchr(listener_url(l), ':') + 1, NULL, 10), ntohs(bound.sin_port));
    assert_true(listener_is_loopback(l));
    int client = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(client, (struct sockaddr *)&bound, sizeof bound), 0);
    listener_shut(l); /* it would call take(), which is not there, if it accepted */
    int accepted = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
    assert_true(accepted >= 0);
    listener_close(l);
    close(accepted);
    close(client);
    close(fd);
}

static void a_socket_for_everybody_is_not_loopback(void **state)
{
    struct sockaddr_in bound;
    struct listener *l = NULL;
    struct err err;
    struct listener_options o = {.passed_fd = listening_socket("0.0.0.0", &bound)};

    (void)state;
    assert_int_equal(listener_open(&o, &l, &err), ERR_OK);
    assert_false(listener_is_loopback(l));
    listener_close(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(port_0_becomes_a_real_port_in_the_url),
        cmocka_unit_test(names_are_not_looked_up),
        cmocka_unit_test(one_address_has_a_limited_share),
        cmocka_unit_test(an_ipv6_network_shares_one_share),
        cmocka_unit_test(loopback_is_only_held_to_the_total),
        cmocka_unit_test(who_waits_at_a_passed_socket_is_left_to_the_next),
        cmocka_unit_test(a_socket_for_everybody_is_not_loopback),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* A lock taken out of order ends the program at once. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "storage/base/lock.h"

static struct mutex low, high, peer;

/* The signal that ends a child that runs fn(), 0 if it ends well. */
static int signal_of(void (*fn)(void))
{
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        signal(SIGABRT, SIG_DFL); /* not cmocka's handler */
        const int null = open("/dev/null", O_WRONLY);
        dup2(null, STDERR_FILENO); /* assert() has much to say */
        fn();
        _exit(0);
    }
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        continue;
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static void take_upwards(void)
{
    mutex_lock(&low);
    if (!mutex_trylock(&high)) abort();
    mutex_assert_held(&low);
    mutex_unlock(&low); /* in any order */
    mutex_unlock(&high);
    mutex_lock(&low);
    mutex_unlock(&low);
}

static void take_downwards(void)
{
    mutex_lock(&high);
    mutex_lock(&low);
}

static void try_downwards(void)
{
    mutex_lock(&high);
    if (mutex_trylock(&low)) _exit(1);
}

static void take_two_of_a_rank(void)
{
    mutex_lock(&low);
    mutex_lock(&peer);
}

static void release_what_is_not_held(void)
{
    mutex_unlock(&low);
}

static void upwards_is_allowed(void **state)
{
    (void)state;
    assert_int_equal(signal_of(take_upwards), 0);
}

static void downwards_sideways_and_unheld_abort(void **state)
{
    (void)state;
    assert_int_equal(signal_of(take_downwards), SIGABRT);
    assert_int_equal(signal_of(try_downwards), SIGABRT);
    assert_int_equal(signal_of(take_two_of_a_rank), SIGABRT);
    assert_int_equal(signal_of(release_what_is_not_held), SIGABRT);
}

static int set_up(void **state)
{
    (void)state;
    mutex_init(&low, LOCK_CATALOG);
    mutex_init(&peer, LOCK_CATALOG);
    mutex_init(&high, LOCK_LEAF);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(upwards_is_allowed),
        cmocka_unit_test(downwards_sideways_and_unheld_abort),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}

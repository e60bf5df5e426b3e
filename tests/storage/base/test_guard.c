/* A mapping whose file lost its bytes: zeros and a flag, and everything else as it was. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "storage/base/guard.h"

enum { PAGES = 16 };

struct mapped {
    int fd;
    size_t page, bytes;
    volatile uint8_t *at;
    _Atomic bool lost;
    struct guard *guard;
};

/* A file full of 'x', mapped with 16 pages of room behind its end. */
static void map(struct mapped *m, bool writable)
{
    m->page = (size_t)sysconf(_SC_PAGESIZE);
    m->bytes = 2 * PAGES * m->page;
    m->fd = memfd_create("test", MFD_CLOEXEC);
    assert_true(m->fd >= 0);
    char page[65536];
    memset(page, 'x', sizeof page);
    for (int i = 0; i < PAGES; i++)
        assert_int_equal(pwrite(m->fd, page, m->page, (off_t)(m->page * (size_t)i)), m->page);
    int prot = PROT_READ | (writable ? PROT_WRITE : 0);
    int flags = writable ? MAP_PRIVATE : MAP_SHARED;
    void *at = mmap(NULL, m->bytes, prot, flags, m->fd, 0);
    assert_true(at != MAP_FAILED);
    m->at = at;
    atomic_store(&m->lost, false);
    m->guard = NULL;
}

static void map_guarded(struct mapped *m, bool writable)
{
    map(m, writable);
    guard_install(); /* cmocka takes the signal before each test */
    m->guard = guard_add((void *)(uintptr_t)m->at, m->bytes, writable, &m->lost);
}

static void unmap(struct mapped *m)
{
    guard_remove(m->guard);
    munmap((void *)(uintptr_t)m->at, m->bytes);
    close(m->fd);
}

static void cut(struct mapped *m, int pages)
{
    assert_int_equal(ftruncate(m->fd, (off_t)(m->page * (size_t)pages)), 0);
}

static void bytes_that_are_gone_read_as_zeros_and_are_said_to_be_lost(void **state)
{
    (void)state;
    struct mapped m;
    map_guarded(&m, false);
    assert_int_equal(m.at[8 * m.page], 'x');
    cut(&m, 8);
    assert_int_equal(m.at[7 * m.page], 'x');
    assert_false(atomic_load(&m.lost));
    errno = ENOTTY;
    assert_int_equal(m.at[8 * m.page], 0);
    assert_int_equal(errno, ENOTTY);
    assert_true(atomic_load(&m.lost));
    for (size_t i = 0; i < m.bytes; i += 512) /* one fault was enough */
        assert_int_equal(m.at[i], 0);
    unmap(&m);
}

static void a_private_mapping_can_still_be_stored_into(void **state)
{
    (void)state;
    struct mapped m;
    map_guarded(&m, true);
    m.at[9 * m.page] = 'y'; /* the file going takes the private page with it */
    cut(&m, 0);
    m.at[9 * m.page + 1] = 'z';
    assert_true(atomic_load(&m.lost));
    assert_int_equal(m.at[9 * m.page], 0);
    assert_int_equal(m.at[9 * m.page + 1], 'z');
    unmap(&m);
}

static void a_lost_mapping_leaves_the_others_alone(void **state)
{
    (void)state;
    struct mapped before, bad, after;
    map_guarded(&before, true);
    map_guarded(&bad, true);
    map_guarded(&after, false);
    before.at[0] = 'b';
    cut(&bad, 0);
    assert_int_equal(bad.at[0], 0);
    assert_int_equal(before.at[0], 'b');
    assert_int_equal(before.at[1], 'x');
    assert_int_equal(after.at[0], 'x');
    assert_false(atomic_load(&before.lost));
    assert_false(atomic_load(&after.lost));
    unmap(&bad);
    unmap(&before);
    unmap(&after);
}

static void a_guard_is_used_again_for_another_mapping(void **state)
{
    (void)state;
    for (int i = 0; i < 100; i++) {
        struct mapped one, two;
        map_guarded(&one, i % 2);
        map_guarded(&two, i % 3);
        cut(i % 5 ? &one : &two, 0);
        assert_int_equal(one.at[0], i % 5 ? 0 : 'x');
        assert_int_equal(two.at[0], i % 5 ? 'x' : 0);
        assert_int_equal(atomic_load(&one.lost), i % 5 != 0);
        assert_int_equal(atomic_load(&two.lost), i % 5 == 0);
        unmap(&one);
        unmap(&two);
    }
}

static void *read_all(void *arg)
{
    struct mapped *m = arg;
    for (size_t at = m->bytes; at > 0; at -= m->page)
        if (m->at[at - m->page] != 0) return m;
    return NULL;
}

static void threads_may_meet_the_same_loss_at_once(void **state)
{
    (void)state;
    for (int round = 0; round < 50; round++) {
        struct mapped m;
        pthread_t threads[8];
        map_guarded(&m, round % 2);
        cut(&m, 0);
        for (int i = 0; i < 8; i++)
            assert_int_equal(pthread_create(&threads[i], NULL, read_all, &m), 0);
        for (int i = 0; i < 8; i++) {
            void *failed;
            pthread_join(threads[i], &failed);
            assert_null(failed);
        }
        assert_true(atomic_load(&m.lost));
        unmap(&m);
    }
}

/* True: fn() did not come back. */
static bool is_fatal(void (*fn)(void *), void *arg)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        alarm(20);
        signal(SIGBUS, SIG_DFL); /* not cmocka */
        guard_install();
        fn(arg);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    /* A sanitizer reports it and exits. */
    return (WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS) ||
           (WIFEXITED(status) && WEXITSTATUS(status) != 0);
}

static void look(void *arg)
{
    struct mapped *m = arg;
    close(STDERR_FILENO);
    if (m->at[0] == 'x') _exit(0);
}

static void send_to_itself(void *arg)
{
    (void)arg;
    close(STDERR_FILENO);
    raise(SIGBUS);
}

static void a_mapping_that_nobody_guards_is_fatal_as_ever(void **state)
{
    (void)state;
    struct mapped guarded, other;
    map_guarded(&guarded, false);
    map(&other, false);
    assert_false(is_fatal(look, &other));
    cut(&other, 0);
    assert_true(is_fatal(look, &other));
    unmap(&other);

    cut(&guarded, 0);
    assert_false(is_fatal(look, &guarded));
    guard_remove(guarded.guard);
    guarded.guard = NULL;
    assert_true(is_fatal(look, &guarded));
    unmap(&guarded);
}

static void a_signal_that_somebody_sent_is_fatal_as_ever(void **state)
{
    (void)state;
    struct mapped m;
    map_guarded(&m, false);
    assert_true(is_fatal(send_to_itself, NULL));
    unmap(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_that_are_gone_read_as_zeros_and_are_said_to_be_lost),
        cmocka_unit_test(a_private_mapping_can_still_be_stored_into),
        cmocka_unit_test(a_lost_mapping_leaves_the_others_alone),
        cmocka_unit_test(a_guard_is_used_again_for_another_mapping),
        cmocka_unit_test(threads_may_meet_the_same_loss_at_once),
        cmocka_unit_test(a_mapping_that_nobody_guards_is_fatal_as_ever),
        cmocka_unit_test(a_signal_that_somebody_sent_is_fatal_as_ever),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

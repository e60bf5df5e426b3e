/* Nothing is freed under a reader, and everything is freed in the end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <pthread.h>
#include <semaphore.h>

#include <cmocka.h>

#include "storage/base/epoch.h"

static _Atomic unsigned freed;

static void count_freed(void *p)
{
    (void)p;
    atomic_fetch_add(&freed, 1);
}

/* A reader in another thread that is told when to enter and to leave. */
struct reader {
    pthread_t thread;
    sem_t inside, may_leave;
    unsigned nest;
};

static void *read_section(void *arg)
{
    struct reader *r = arg;
    for (unsigned i = 0; i < r->nest; i++)
        epoch_enter();
    sem_post(&r->inside);
    while (sem_wait(&r->may_leave) != 0)
        continue;
    for (unsigned i = 0; i < r->nest; i++)
        epoch_leave();
    return NULL;
}

static void reader_start(struct reader *r, unsigned nest)
{
    r->nest = nest;
    sem_init(&r->inside, 0, 0);
    sem_init(&r->may_leave, 0, 0);
    assert_int_equal(pthread_create(&r->thread, NULL, read_section, r), 0);
    while (sem_wait(&r->inside) != 0)
        continue;
}

static void reader_stop(struct reader *r)
{
    sem_post(&r->may_leave);
    pthread_join(r->thread, NULL);
    sem_destroy(&r->inside);
    sem_destroy(&r->may_leave);
}

static void without_readers_an_epoch_passes_at_once(void **state)
{
    (void)state;
    const uint64_t first = epoch_now(), second = epoch_now();
    assert_true(second > first);
    assert_true(epoch_passed(first) && epoch_passed(second));
}

static void an_open_section_holds_its_epoch_and_later_ones(void **state)
{
    (void)state;
    const uint64_t before = epoch_now();
    struct reader r;
    reader_start(&r, 1);
    const uint64_t during = epoch_now(), later = epoch_now();
    assert_true(epoch_passed(before));
    assert_false(epoch_passed(during));
    assert_false(epoch_passed(later));
    reader_stop(&r);
    assert_true(epoch_passed(during) && epoch_passed(later));
}

static void a_section_that_begins_later_holds_nothing(void **state)
{
    (void)state;
    const uint64_t before = epoch_now();
    struct reader r;
    reader_start(&r, 1);
    assert_true(epoch_passed(before));
    reader_stop(&r);
}

static void only_the_outermost_leave_ends_a_section(void **state)
{
    (void)state;
    epoch_enter();
    epoch_enter();
    const uint64_t epoch = epoch_now();
    epoch_leave();
    assert_false(epoch_passed(epoch));
    epoch_enter();
    epoch_leave();
    assert_false(epoch_passed(epoch));
    epoch_leave();
    assert_true(epoch_passed(epoch));
}

static void a_retired_object_waits_for_its_readers(void **state)
{
    (void)state;
    atomic_store(&freed, 0);
    struct reader r;
    reader_start(&r, 2);
    epoch_retire(count_freed, NULL);
    epoch_collect();
    assert_int_equal(atomic_load(&freed), 0);
    reader_stop(&r);
    epoch_collect();
    assert_int_equal(atomic_load(&freed), 1);
    epoch_collect();
    assert_int_equal(atomic_load(&freed), 1);
}

static void a_section_may_retire_what_it_sees_itself(void **state)
{
    (void)state;
    atomic_store(&freed, 0);
    epoch_enter();
    for (int i = 0; i < 1000; i++)
        epoch_retire(count_freed, NULL);
    assert_int_equal(atomic_load(&freed), 0);
    epoch_leave();
    epoch_collect();
    assert_int_equal(atomic_load(&freed), 1000);
}

static void retiring_alone_keeps_the_queue_short(void **state)
{
    (void)state;
    atomic_store(&freed, 0);
    for (int i = 0; i < 1000; i++)
        epoch_retire(count_freed, NULL);
    assert_true(atomic_load(&freed) >= 900);
    epoch_synchronize();
    assert_int_equal(atomic_load(&freed), 1000);
}

static void *leave_later(void *arg)
{
    struct reader *r = arg;
    /* Not a sleep: synchronize() below must be correct whenever this happens. */
    reader_stop(r);
    return NULL;
}

static void synchronize_waits_for_open_sections(void **state)
{
    (void)state;
    atomic_store(&freed, 0);
    for (int i = 0; i < 50; i++) {
        struct reader r;
        reader_start(&r, 1);
        epoch_retire(count_freed, NULL);
        pthread_t helper;
        assert_int_equal(pthread_create(&helper, NULL, leave_later, &r), 0);
        epoch_synchronize();
        assert_int_equal(atomic_load(&freed), (unsigned)i + 1);
        pthread_join(helper, NULL);
    }
}

/* The stress: writers replace a shared object and retire the old one; freeing poisons it; readers
 * must never meet the poison.  ThreadSanitizer checks the ordering, AddressSanitizer the lifetime.
 */
enum { WRITERS = 2, READERS = 3, ROUNDS = 3000, ALIVE = 0x600d, DEAD = 0xdead };

struct object {
    unsigned state;
    unsigned copy;
};

static _Atomic(struct object *) shared;
static _Atomic bool stop;
static _Atomic unsigned allocated, reclaimed;

static struct object *object_new(void)
{
    struct object *o = malloc(sizeof *o);
    if (!o) abort();
    *o = (struct object){ALIVE, ALIVE};
    atomic_fetch_add(&allocated, 1);
    return o;
}

static void object_free(void *p)
{
    struct object *o = p;
    o->state = DEAD;
    free(o);
    atomic_fetch_add(&reclaimed, 1);
}

static void *write_objects(void *arg)
{
    for (int i = 0; i < ROUNDS; i++) {
        struct object *old = atomic_exchange_explicit(&shared, object_new(), memory_order_acq_rel);
        if (i % 3 == 0) {
            const uint64_t epoch = epoch_now();
            while (!epoch_passed(epoch))
                sched_yield();
            object_free(old);
        } else {
            epoch_retire(object_free, old);
        }
        if (i % 100 == 0) epoch_collect();
    }
    return arg;
}

static void *read_objects(void *arg)
{
    uintptr_t bad = 0;
    while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
        epoch_enter();
        struct object *o = atomic_load_explicit(&shared, memory_order_acquire);
        for (int i = 0; i < 5; i++)
            bad += o->state != ALIVE || o->copy != ALIVE;
        epoch_leave();
    }
    (void)arg;
    return (void *)bad;
}

static void *short_lived_reader(void *arg)
{
    epoch_enter();
    struct object *o = atomic_load_explicit(&shared, memory_order_acquire);
    const uintptr_t bad = o->state != ALIVE;
    epoch_leave();
    (void)arg;
    return (void *)bad;
}

static void no_reader_ever_sees_a_freed_object(void **state)
{
    (void)state;
    atomic_store(&stop, false);
    atomic_store(&shared, object_new());
    pthread_t writers[WRITERS], readers[READERS];
    for (int i = 0; i < READERS; i++)
        assert_int_equal(pthread_create(&readers[i], NULL, read_objects, NULL), 0);
    for (int i = 0; i < WRITERS; i++)
        assert_int_equal(pthread_create(&writers[i], NULL, write_objects, NULL), 0);
    uintptr_t bad = 0;
    void *result;
    for (int i = 0; i < 200; i++) { /* threads that come and go share records */
        pthread_t t;
        assert_int_equal(pthread_create(&t, NULL, short_lived_reader, NULL), 0);
        pthread_join(t, &result);
        bad += (uintptr_t)result;
    }
    for (int i = 0; i < WRITERS; i++)
        pthread_join(writers[i], NULL);
    atomic_store(&stop, true);
    for (int i = 0; i < READERS; i++) {
        pthread_join(readers[i], &result);
        bad += (uintptr_t)result;
    }
    assert_int_equal(bad, 0);
    epoch_synchronize();
    object_free(atomic_load(&shared));
    assert_int_equal(atomic_load(&allocated), atomic_load(&reclaimed));
}

static void *unpin(void *arg)
{
    epoch_unpin(arg);
    return NULL;
}

static void a_pin_holds_its_epoch_whoever_ends_it(void **state)
{
    (void)state;
    struct epoch_pin first, second;
    pthread_t thread;
    const uint64_t before = epoch_now();
    epoch_pin(&first);
    epoch_pin(&second);
    const uint64_t during = epoch_now();
    assert_true(epoch_passed(before));
    epoch_enter(); /* of no matter to the pins */
    epoch_leave();
    assert_int_equal(pthread_create(&thread, NULL, unpin, &first), 0);
    pthread_join(thread, NULL);
    assert_false(epoch_passed(during));
    epoch_unpin(&second);
    assert_true(epoch_passed(during));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_readers_an_epoch_passes_at_once),
        cmocka_unit_test(an_open_section_holds_its_epoch_and_later_ones),
        cmocka_unit_test(a_section_that_begins_later_holds_nothing),
        cmocka_unit_test(only_the_outermost_leave_ends_a_section),
        cmocka_unit_test(a_retired_object_waits_for_its_readers),
        cmocka_unit_test(a_section_may_retire_what_it_sees_itself),
        cmocka_unit_test(retiring_alone_keeps_the_queue_short),
        cmocka_unit_test(synchronize_waits_for_open_sections),
        cmocka_unit_test(no_reader_ever_sees_a_freed_object),
        cmocka_unit_test(a_pin_holds_its_epoch_whoever_ends_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

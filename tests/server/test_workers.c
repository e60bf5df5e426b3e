/* test_workers.c - the bounded queue and its threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>

#include "server/workers.h"

enum { JOBS = 200 };

struct job {
    struct work work;
    struct workers *workers;
    sem_t *begun, *go;
    _Atomic int runs;
    int again; /* how often it hands itself over again */
};

static void count(void *ctx)
{
    struct job *job = ctx;
    atomic_fetch_add(&job->runs, 1);
}

static void hold(void *ctx)
{
    struct job *job = ctx;
    sem_post(job->begun);
    sem_wait(job->go);
    atomic_fetch_add(&job->runs, 1);
}

static void resubmit(void *ctx)
{
    struct job *job = ctx;
    atomic_fetch_add(&job->runs, 1);
    if (job->again-- > 0) assert_true(workers_submit(job->workers, &job->work));
}

static struct workers *start(size_t threads, size_t max)
{
    struct workers *w;
    struct err err;
    assert_int_equal(workers_start(threads, max, &w, &err), ERR_OK);
    return w;
}

static void job_init(struct job *job, struct workers *w, void (*fn)(void *), sem_t *begun,
                     sem_t *go)
{
    *job = (struct job){.workers = w, .begun = begun, .go = go};
    job->work = (struct work){.fn = fn, .ctx = job};
}

static void stop_does_everything_that_was_queued(void **state)
{
    static struct job jobs[JOBS];
    struct workers *w = start(3, JOBS);

    (void)state;
    for (int i = 0; i < JOBS; i++) {
        job_init(&jobs[i], w, count, NULL, NULL);
        assert_true(workers_submit(w, &jobs[i].work));
    }
    workers_stop(w);
    for (int i = 0; i < JOBS; i++)
        assert_int_equal(jobs[i].runs, 1);
}

static void a_full_queue_refuses_and_takes_again_later(void **state)
{
    struct workers *w = start(2, 2);
    struct job held[2], queued[2], extra;
    sem_t begun, go;

    (void)state;
    sem_init(&begun, 0, 0);
    sem_init(&go, 0, 0);
    for (int i = 0; i < 2; i++) {
        job_init(&held[i], w, hold, &begun, &go);
        assert_true(workers_submit(w, &held[i].work));
    }
    sem_wait(&begun);
    sem_wait(&begun); /* both threads are busy, the queue is empty */
    for (int i = 0; i < 2; i++) {
        job_init(&queued[i], w, hold, &begun, &go);
        assert_true(workers_submit(w, &queued[i].work));
    }
    job_init(&extra, w, count, NULL, NULL);
    assert_false(workers_submit(w, &extra.work));
    sem_post(&go);
    sem_wait(&begun); /* one of the queued has begun: there is room */
    assert_true(workers_submit(w, &extra.work));
    for (int i = 0; i < 3; i++)
        sem_post(&go);
    workers_stop(w);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(held[i].runs, 1);
        assert_int_equal(queued[i].runs, 1);
    }
    assert_int_equal(extra.runs, 1);
    sem_destroy(&begun);
    sem_destroy(&go);
}

static _Atomic int turn;
static void note_turn(void *ctx)
{
    struct job *job = ctx;
    atomic_store(&job->runs, atomic_fetch_add(&turn, 1));
}

static void first_come_is_first_begun(void **state)
{
    struct workers *w = start(2, JOBS);
    static struct job jobs[JOBS];
    struct job held[2];
    sem_t begun, go;

    (void)state;
    sem_init(&begun, 0, 0);
    sem_init(&go, 0, 0);
    for (int i = 0; i < 2; i++) {
        job_init(&held[i], w, hold, &begun, &go);
        assert_true(workers_submit(w, &held[i].work));
    }
    sem_wait(&begun);
    sem_wait(&begun);
    for (int i = 0; i < JOBS; i++) {
        job_init(&jobs[i], w, note_turn, NULL, NULL);
        assert_true(workers_submit(w, &jobs[i].work));
    }
    sem_post(&go); /* one thread works the queue off, the other stays out of it */
    while (atomic_load(&turn) < JOBS)
        sched_yield();
    sem_post(&go);
    workers_stop(w);
    for (int i = 0; i < JOBS; i++)
        assert_int_equal(jobs[i].runs, i);
    sem_destroy(&begun);
    sem_destroy(&go);
}

static void work_that_waits_does_not_hold_up_work_that_computes(void **state)
{
    enum { WAITING = 100 };
    struct workers *w = start(2, WAITING);
    static struct job waiting[WAITING];
    struct job computing;
    sem_t begun, go;

    (void)state;
    sem_init(&begun, 0, 0);
    sem_init(&go, 0, 0);
    for (int i = 0; i < WAITING; i++) {
        job_init(&waiting[i], w, hold, &begun, &go);
        waiting[i].work.waits = true;
        assert_true(workers_submit(w, &waiting[i].work));
    }
    sem_wait(&begun);
    job_init(&computing, w, count, NULL, NULL);
    assert_true(workers_submit(w, &computing.work));
    while (atomic_load(&computing.runs) == 0)
        sched_yield();
    for (int i = 0; i < WAITING; i++)
        assert_int_equal(atomic_load(&waiting[i].runs), 0);
    for (int i = 0; i < WAITING; i++)
        sem_post(&go);
    workers_stop(w);
    for (int i = 0; i < WAITING; i++)
        assert_int_equal(waiting[i].runs, 1);
    sem_destroy(&begun);
    sem_destroy(&go);
}

static void work_may_hand_itself_over_again(void **state)
{
    struct workers *w = start(2, 4);
    struct job job;

    (void)state;
    job_init(&job, w, resubmit, NULL, NULL);
    job.again = 50;
    assert_true(workers_submit(w, &job.work));
    while (atomic_load(&job.runs) < 51)
        sched_yield();
    workers_stop(w);
    assert_int_equal(job.runs, 51);
}

static void slack_is_who_is_idle_less_what_waits(void **state)
{
    struct workers *w = start(3, 10);
    struct job jobs[6], waiting;
    sem_t begun, go;
    (void)state;
    sem_init(&begun, 0, 0);
    sem_init(&go, 0, 0);
    job_init(&waiting, w, hold, &begun, &go);
    waiting.work.waits = true; /* the other line */
    assert_true(workers_submit(w, &waiting.work));
    sem_wait(&begun);
    while (workers_slack(w) < 3) /* until all have begun to wait for work */
        sched_yield();
    for (int i = 0; i < 6; i++) {
        job_init(&jobs[i], w, hold, &begun, &go);
        assert_true(workers_submit(w, &jobs[i].work));
        if (i < 3) sem_wait(&begun);
        assert_int_equal(workers_slack(w), 2 - i);
    }
    for (int i = 0; i < 7; i++)
        sem_post(&go);
    while (workers_slack(w) < 3)
        sched_yield();
    workers_stop(w);
    sem_destroy(&begun);
    sem_destroy(&go);
}

static void stopping_nothing_is_fine(void **state)
{
    (void)state;
    workers_stop(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stop_does_everything_that_was_queued),
        cmocka_unit_test(a_full_queue_refuses_and_takes_again_later),
        cmocka_unit_test(first_come_is_first_begun),
        cmocka_unit_test(work_that_waits_does_not_hold_up_work_that_computes),
        cmocka_unit_test(work_may_hand_itself_over_again),
        cmocka_unit_test(slack_is_who_is_idle_less_what_waits),
        cmocka_unit_test(stopping_nothing_is_fine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

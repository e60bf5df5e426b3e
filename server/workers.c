/* workers.c - a list of work, a condition to sleep on, and threads that take from its head. */
#include "server/workers.h"

#include <assert.h>
#include <sched.h>
#include <uv.h>

#include "storage/base/lock.h"
#include "storage/base/mem.h"

enum { THREADS_MIN = 2, THREADS_MAX = 1024 };

struct workers {
    /* constant after start */
    size_t queue_count_max;
    size_t thread_count;
    uv_thread_t *threads;

    /* guarded by mu */
    struct mutex mu;
    pthread_cond_t changed;
    struct work *head;
    struct work **tail;
    size_t queue_count;
    size_t idle_count; /* threads that sleep on `changed` */
    bool stopping;
};

static void workers_main(void *arg)
{
    struct workers *w = arg;

    mutex_lock(&w->mu);
    for (;;) {
        while (!w->head && !w->stopping) {
            w->idle_count++;
            mutex_wait(&w->changed, &w->mu);
            w->idle_count--;
        }
        struct work *work = w->head;
        if (!work) break; /* stopping, and nothing is left */
        w->head = work->next;
        if (!w->head) w->tail = &w->head;
        w->queue_count--;
        mutex_unlock(&w->mu);
        work->fn(work->ctx); /* may free `work` */
        mutex_lock(&w->mu);
    }
    mutex_unlock(&w->mu);
}

static size_t workers_core_count(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0) return THREADS_MIN;
    return (size_t)CPU_COUNT(&set);
}

static void workers_join(struct workers *w)
{
    mutex_lock(&w->mu);
    w->stopping = true;
    pthread_cond_broadcast(&w->changed);
    mutex_unlock(&w->mu);
    for (size_t i = 0; i < w->thread_count; i++)
        uv_thread_join(&w->threads[i]);
    assert(!w->head);
    pthread_cond_destroy(&w->changed);
    mutex_deinit(&w->mu);
    mem_free(w->threads);
    mem_free(w);
}

enum err_code workers_start(size_t threads, size_t queue_count_max, struct workers **out,
                            struct err *err)
{
    struct workers *w = mem_new(struct workers);

    if (threads == 0) threads = workers_core_count();
    if (threads < THREADS_MIN) threads = THREADS_MIN;
    if (threads > THREADS_MAX) threads = THREADS_MAX;
    w->queue_count_max = queue_count_max;
    w->tail = &w->head;
    mutex_init(&w->mu, LOCK_LEAF);
    pthread_cond_init(&w->changed, NULL);
    w->threads = mem_zalloc(threads * sizeof *w->threads);
    while (w->thread_count < threads) {
        int rc = uv_thread_create(&w->threads[w->thread_count], workers_main, w);
        if (rc) {
            workers_join(w);
            return err_os(err, -rc, "cannot start a worker thread");
        }
        w->thread_count++;
    }
    *out = w;
    return ERR_OK;
}

bool workers_submit(struct workers *w, struct work *work)
{
    bool taken = false;

    mutex_lock(&w->mu);
    if (!w->stopping && w->queue_count < w->queue_count_max) {
        work->next = NULL;
        *w->tail = work;
        w->tail = &work->next;
        w->queue_count++;
        taken = true;
        if (w->idle_count > 0) pthread_cond_signal(&w->changed);
    }
    mutex_unlock(&w->mu);
    return taken;
}

void workers_stop(struct workers *w)
{
    if (w) workers_join(w);
}

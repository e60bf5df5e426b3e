/* workers.c - lists of work, conditions to sleep on, and threads that take from their heads. */
#include "server/workers.h"

#include <assert.h>
#include <sched.h>
#include <uv.h>

#include "storage/base/lock.h"
#include "storage/base/mem.h"

enum {
    THREADS_MIN = 2,
    THREADS_MAX = 1024,
    THREADS_WAITING_MAX = 8, /* more would only wait for the same disk */
};

struct line {
    /* constant after start */
    struct workers *workers;
    size_t thread_count;
    uv_thread_t *threads;

    /* guarded by mu */
    pthread_cond_t changed;
    struct work *head;
    struct work **tail;
    size_t queue_count;
    size_t idle_count; /* threads that sleep on `changed` */
};

struct workers {
    size_t queue_count_max; /* constant after start */
    struct mutex mu;
    bool stopping;        /* guarded by mu */
    struct line lines[2]; /* [work.waits] */
};

static void workers_main(void *arg)
{
    struct line *l = arg;
    struct workers *w = l->workers;

    mutex_lock(&w->mu);
    for (;;) {
        while (!l->head && !w->stopping) {
            l->idle_count++;
            mutex_wait(&l->changed, &w->mu);
            l->idle_count--;
        }
        struct work *work = l->head;
        if (!work) break; /* stopping, and nothing is left */
        l->head = work->next;
        if (!l->head) l->tail = &l->head;
        l->queue_count--;
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
    for (int i = 0; i < 2; i++)
        pthread_cond_broadcast(&w->lines[i].changed);
    mutex_unlock(&w->mu);
    for (int i = 0; i < 2; i++) {
        struct line *l = &w->lines[i];
        for (size_t t = 0; t < l->thread_count; t++)
            uv_thread_join(&l->threads[t]);
    }
    for (int i = 0; i < 2; i++) {
        assert(!w->lines[i].head);
        pthread_cond_destroy(&w->lines[i].changed);
        mem_free(w->lines[i].threads);
    }
    mutex_deinit(&w->mu);
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
    mutex_init(&w->mu, LOCK_LEAF);
    for (int i = 0; i < 2; i++) {
        struct line *l = &w->lines[i];
        l->workers = w;
        l->tail = &l->head;
        pthread_cond_init(&l->changed, NULL);
        l->threads = mem_zalloc((threads + THREADS_WAITING_MAX) * sizeof *l->threads);
    }
    for (int i = 0; i < 2; i++) {
        struct line *l = &w->lines[i];
        size_t wanted = i == 0 ? threads : THREADS_WAITING_MAX;
        while (l->thread_count < wanted) {
            int rc = uv_thread_create(&l->threads[l->thread_count], workers_main, l);
            if (rc) {
                workers_join(w);
                return err_os(err, -rc, "cannot start a worker thread");
            }
            l->thread_count++;
        }
    }
    *out = w;
    return ERR_OK;
}

bool workers_submit(struct workers *w, struct work *work)
{
    struct line *l = &w->lines[work->waits];
    bool taken = false;

    mutex_lock(&w->mu);
    if (!w->stopping && l->queue_count < w->queue_count_max) {
        work->next = NULL;
        *l->tail = work;
        l->tail = &work->next;
        l->queue_count++;
        taken = true;
        if (l->idle_count > 0) pthread_cond_signal(&l->changed);
    }
    mutex_unlock(&w->mu);
    return taken;
}

long workers_slack(struct workers *w)
{
    mutex_lock(&w->mu);
    long slack = (long)w->lines[0].idle_count - (long)w->lines[0].queue_count;
    mutex_unlock(&w->mu);
    return slack;
}

void workers_stop(struct workers *w)
{
    if (w) workers_join(w);
}

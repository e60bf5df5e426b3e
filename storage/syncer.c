#include "storage/syncer.h"

#include <pthread.h>
#include <stdbool.h>

#include "storage/base/lock.h"
#include "storage/base/mem.h"
#include "storage/wal.h"

/* wal_queue_link.state; guarded by syncer.mu */
enum { IDLE, QUEUED, SYNCING, SYNC_AGAIN };

struct syncer {
    struct mutex mu; /* LOCK_LEAF */
    pthread_cond_t work;
    pthread_cond_t done;
    struct wal *first, *last; /* FIFO of QUEUED logs */
    bool stopping;
    int thread_count;
    pthread_t threads[8];
};

static void push(struct syncer *s, struct wal *wal)
{
    wal_queue_link(wal)->state = QUEUED;
    wal_queue_link(wal)->next = NULL;
    if (s->last)
        wal_queue_link(s->last)->next = wal;
    else
        s->first = wal;
    s->last = wal;
    pthread_cond_signal(&s->work);
}

static void *run(void *arg)
{
    struct syncer *s = arg;
    mutex_lock(&s->mu);
    for (;;) {
        while (!s->first && !s->stopping)
            mutex_wait(&s->work, &s->mu);
        struct wal *wal = s->first;
        if (!wal) break;
        struct wal_queue_link *link = wal_queue_link(wal);
        s->first = link->next;
        if (!s->first) s->last = NULL;
        link->state = SYNCING;
        mutex_unlock(&s->mu);

        struct err err;
        /* A failure is remembered by the log and told to its waiters. */
        if (wal_sync(wal, &err)) (void)err;

        mutex_lock(&s->mu);
        bool again = link->state == SYNC_AGAIN;
        link->state = IDLE;
        if (again) push(s, wal);
        pthread_cond_broadcast(&s->done);
    }
    mutex_unlock(&s->mu);
    return NULL;
}

struct syncer *syncer_start(int threads)
{
    struct syncer *s = mem_new(struct syncer);
    mutex_init(&s->mu, LOCK_LEAF);
    pthread_cond_init(&s->work, NULL);
    pthread_cond_init(&s->done, NULL);
    assert(threads > 0 && threads <= 8);
    for (int i = 0; i < threads; i++)
        if (pthread_create(&s->threads[i], NULL, run, s) == 0) s->thread_count++;
    assert(s->thread_count > 0);
    return s;
}

void syncer_stop(struct syncer *s)
{
    if (!s) return;
    mutex_lock(&s->mu);
    s->stopping = true;
    pthread_cond_broadcast(&s->work);
    mutex_unlock(&s->mu);
    for (int i = 0; i < s->thread_count; i++)
        pthread_join(s->threads[i], NULL);
    pthread_cond_destroy(&s->work);
    pthread_cond_destroy(&s->done);
    mutex_deinit(&s->mu);
    mem_free(s);
}

void syncer_kick(struct syncer *s, struct wal *wal)
{
    mutex_lock(&s->mu);
    struct wal_queue_link *link = wal_queue_link(wal);
    if (link->state == IDLE)
        push(s, wal);
    else if (link->state == SYNCING)
        link->state = SYNC_AGAIN;
    mutex_unlock(&s->mu);
}

void syncer_forget(struct syncer *s, struct wal *wal)
{
    mutex_lock(&s->mu);
    while (wal_queue_link(wal)->state != IDLE)
        mutex_wait(&s->done, &s->mu);
    mutex_unlock(&s->mu);
}

#include "storage/index/team.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "storage/base/lock.h"
#include "storage/base/mem.h"

/* A sixth of a processor that others keep busy: a search is seldom interrupted.  With much less,
 * searches in a row would starve the linkers, and writers would wait. */
enum { NICE = 7 };

struct team {
    int size;
    pthread_t helpers[TEAM_MAX];
    int started; /* the leader's */

    struct mutex mu; /* LOCK_LEAF; guards the rest */
    pthread_cond_t work, done;
    void (*fn)(void *ctx);
    void *ctx;
    int wanted;  /* helpers that may still take part */
    int running; /* helpers that do */
    bool stopped;
};

void team_give_way(void)
{
    /* Of this thread alone: that is how Linux understands it. */
    if (setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), NICE)) return;
}

static void *help(void *arg)
{
    struct team *t = arg;
    team_give_way();
    mutex_lock(&t->mu);
    for (;;) {
        while (!t->wanted && !t->stopped)
            mutex_wait(&t->work, &t->mu);
        if (t->stopped) break;
        t->wanted--;
        t->running++;
        mutex_unlock(&t->mu);
        t->fn(t->ctx);
        mutex_lock(&t->mu);
        if (--t->running == 0) pthread_cond_signal(&t->done);
    }
    mutex_unlock(&t->mu);
    return NULL;
}

struct team *team_new(int threads)
{
    struct team *t = mem_new(struct team);
    t->size = threads < 1 ? 1 : threads > TEAM_MAX ? TEAM_MAX : threads;
    mutex_init(&t->mu, LOCK_LEAF);
    pthread_cond_init(&t->work, NULL);
    pthread_cond_init(&t->done, NULL);
    return t;
}

void team_free(struct team *t)
{
    if (!t) return;
    mutex_lock(&t->mu);
    t->stopped = true;
    pthread_cond_broadcast(&t->work);
    mutex_unlock(&t->mu);
    for (int i = 0; i < t->started; i++)
        pthread_join(t->helpers[i], NULL);
    pthread_cond_destroy(&t->work);
    pthread_cond_destroy(&t->done);
    mutex_deinit(&t->mu);
    mem_free(t);
}

int team_size(const struct team *t)
{
    return t->size;
}

void team_run(struct team *t, int threads, void (*fn)(void *ctx), void *ctx)
{
    int helpers = (threads < t->size ? threads : t->size) - 1;
    while (t->started < helpers && pthread_create(&t->helpers[t->started], NULL, help, t) == 0)
        t->started++;
    if (helpers > t->started) helpers = t->started;
    if (helpers > 0) {
        mutex_lock(&t->mu);
        t->fn = fn;
        t->ctx = ctx;
        t->wanted = helpers;
        if (helpers == 1)
            pthread_cond_signal(&t->work);
        else
            pthread_cond_broadcast(&t->work);
        mutex_unlock(&t->mu);
    }
    fn(ctx);
    if (helpers <= 0) return;
    mutex_lock(&t->mu);
    t->wanted = 0; /* who has not come yet would find nothing left */
    while (t->running)
        mutex_wait(&t->done, &t->mu);
    mutex_unlock(&t->mu);
}

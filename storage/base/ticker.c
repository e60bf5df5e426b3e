/* ticker.c - a condition on the monotonic clock, which nobody sets. */
#include "storage/base/ticker.h"

#include <time.h>

#include "storage/base/clock.h"

void ticker_init(struct ticker *t)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    mutex_init(&t->mu, LOCK_LEAF);
    pthread_cond_init(&t->wake, &attr);
    pthread_condattr_destroy(&attr);
    atomic_init(&t->stopped, false);
}

void ticker_deinit(struct ticker *t)
{
    pthread_cond_destroy(&t->wake);
    mutex_deinit(&t->mu);
}

bool ticker_sleep_until(struct ticker *t, uint64_t ns)
{
    struct timespec until = {.tv_sec = (time_t)(ns / 1000000000),
                             .tv_nsec = (long)(ns % 1000000000)};
    mutex_lock(&t->mu);
    while (!ticker_is_stopped(t) && clock_ns() < ns)
        pthread_cond_timedwait(&t->wake, &t->mu.os, &until);
    mutex_unlock(&t->mu);
    return !ticker_is_stopped(t);
}

void ticker_stop(struct ticker *t)
{
    mutex_lock(&t->mu);
    atomic_store_explicit(&t->stopped, true, memory_order_relaxed);
    pthread_cond_broadcast(&t->wake);
    mutex_unlock(&t->mu);
}

/*
 * ticker.h - the sleep of background threads, which somebody else may end.
 *
 * A thread sleeps with ticker_sleep_until() between pieces of work; ticker_stop() wakes every
 * sleeper, and from then on nobody sleeps.  Any thread.
 */
#ifndef STORAGE_BASE_TICKER_H
#define STORAGE_BASE_TICKER_H

#include <stdatomic.h>
#include <stdint.h>

#include "storage/base/lock.h"

struct ticker {
    struct mutex mu; /* LOCK_LEAF */
    pthread_cond_t wake;
    _Atomic bool stopped; /* stored under mu; long work may look at it without */
};

void ticker_init(struct ticker *t);
void ticker_deinit(struct ticker *t); /* nobody sleeps any more */

/* Until clock_ns() is `ns`.  False: it was stopped. */
bool ticker_sleep_until(struct ticker *t, uint64_t ns);
void ticker_stop(struct ticker *t);

static inline bool ticker_is_stopped(const struct ticker *t)
{
    return atomic_load_explicit(&t->stopped, memory_order_relaxed);
}

#endif

/*
 * workers.h - threads for whatever may wait, behind one bounded queue.
 *
 * A piece of work is a struct embedded in what it works on: handing it over allocates nothing.
 * First come, first served.
 */
#ifndef SERVER_WORKERS_H
#define SERVER_WORKERS_H

#include <stdbool.h>
#include <stddef.h>

#include "storage/base/err.h"

struct work {
    void (*fn)(void *ctx); /* runs once, on a worker; may hand the same work over again */
    void *ctx;
    struct work *next; /* private to workers.c while it is queued */
};

struct workers;

/* `threads` threads (0: the number of cores, at least 2) and room for `queue_count_max` pieces of
 * work that nobody has begun.  On success *out is to be given to workers_stop(). */
MUST_CHECK enum err_code workers_start(size_t threads, size_t queue_count_max, struct workers **out,
                                       struct err *err);

/* False: the queue is full or being stopped, and fn will not be called.  True: `work` is theirs
 * until fn is called.  Any thread. */
MUST_CHECK bool workers_submit(struct workers *workers, struct work *work);

/* Do what is queued, join the threads, free everything.  NULL is fine. */
void workers_stop(struct workers *workers);

#endif

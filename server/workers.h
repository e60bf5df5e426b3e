/*
 * workers.h - threads for what takes long, behind bounded queues.
 *
 * There are two lines, each with threads and a queue of its own: work that computes, and work that
 * may wait for a disk, a lock or another database.  So a few checkpoints, openings or evictions at
 * once do not keep a search of an open database waiting.
 *
 * A piece of work is a struct embedded in what it works on: handing it over allocates nothing.
 * First come, first served, within a line.
 */
#ifndef SERVER_WORKERS_H
#define SERVER_WORKERS_H

#include <stdbool.h>
#include <stddef.h>

#include "storage/base/err.h"

struct work {
    void (*fn)(void *ctx); /* runs once, on a worker; may hand the same work over again */
    void *ctx;
    bool waits;        /* which line: it may wait for something else than the CPU */
    struct work *next; /* private to workers.c while it is queued */
};

struct workers;

/* `threads` threads to compute (0: the number of cores, at least 2), a few more to wait, and room
 * in each line for `queue_count_max` pieces of work that nobody has begun.  On success *out is to
 * be given to workers_stop(). */
MUST_CHECK enum err_code workers_start(size_t threads, size_t queue_count_max, struct workers **out,
                                       struct err *err);

/* False: the queue is full or being stopped, and fn will not be called.  True: `work` is theirs
 * until fn is called.  Any thread. */
MUST_CHECK bool workers_submit(struct workers *workers, struct work *work);

/* Of the line that computes: threads with nothing to do, less work that nobody has begun. Negative:
 * somebody waits.  Any thread; it may be different a moment later. */
long workers_slack(struct workers *workers);

/* Do what is queued, join the threads, free everything.  NULL is fine. */
void workers_stop(struct workers *workers);

#endif

/*
 * flusher.h - the background threads that keep promises about time.
 *
 * Every flush interval it checkpoints each database that changed, but not within a minute of a
 * flush by hand, so that the file can be copied.  In between it checkpoints one whose log has grown
 * too long, and the one with the most to write if all of them together would take a stop too long;
 * it syncs logs of periodic durability, closes descriptors that nobody writes through any more, and
 * frees what readers have left behind.
 */
#ifndef STORAGE_FLUSHER_H
#define STORAGE_FLUSHER_H

#include "storage/file_cache.h"

struct flusher;
struct engine;

struct flusher *flusher_start(struct engine *engine, struct file_cache *cache,
                              const struct service_options *options);
/* The thread has ended when this returns; flusher_flush_all() still works.  NULL is fine. */
void flusher_stop(struct flusher *f);
void flusher_free(struct flusher *f);

enum flush_reason { FLUSH_BY_TIME, FLUSH_BY_HAND, FLUSH_AT_STOP };

/* One whole flush: every database that the file system does not hold yet, closed ones with a log
 * too.  The first error is reported, the others go on.  Any thread; one at a time. */
enum err_code flusher_flush_all(struct flusher *f, enum flush_reason reason, size_t *flushed,
                                double *duration_ms, struct err *err);

/* Checkpoint one database (acquired), by hand. */
MUST_CHECK enum err_code flusher_flush_one(struct flusher *f, struct database *db,
                                           double *duration_ms, struct err *err);
/* The last flush, whoever asked for it: wall time (0: none yet) and duration. */
void flusher_last(const struct flusher *f, uint64_t *at_ms, double *duration_ms);

#endif

/*
 * indexer.h - the background threads that build and keep the search indexes of all open databases.
 *
 * One thread leads: it goes from database to database, wherever there is something to do, for some
 * milliseconds at a time, and shares the work with helpers (team.h).  It sleeps until a writer or
 * an opening wakes it, or until it is time for what waits for idle time.  A graph is built for one
 * database at a time; what is pending elsewhere is linked in between.
 *
 * It pins a database while it works on it, and one for as long as its graph is being built.
 */
#ifndef STORAGE_INDEX_INDEXER_H
#define STORAGE_INDEX_INDEXER_H

#include "storage/file_cache.h"

struct indexer;

/* `threads` at most, the leader included; 0: as many as there are processors. */
struct indexer *indexer_start(struct file_cache *cache, uint32_t threads);
/* Whatever is under way is given up, and nothing more is begun; does not wait.  NULL is fine. */
void indexer_interrupt(struct indexer *x);
/* The threads have ended when this returns.  NULL is fine. */
void indexer_stop(struct indexer *x);

/* For tests: wait until nothing is left to be done for a database: linked, swept, audited and
 * measured, without waiting for idle time.  The database is acquired, and nobody writes to it. */
void indexer_settle(struct indexer *x, struct database *db);

#endif

/*
 * compactor.h - the background thread that compacts databases in which too much is dead.
 *
 * It looks at the open databases every second, at the closed ones every minute.  One is due when
 * the part of its file that a compaction would give back has been over the threshold for some
 * seconds: rows that are updated all the time use the dead slots again by themselves.  One at a
 * time, gently, and never more than about a twentieth of the time for any database.
 */
#ifndef STORAGE_COMPACTOR_H
#define STORAGE_COMPACTOR_H

#include "storage/file_cache.h"

struct compactor;

/* `percent` of a file that may be waste; 0: no thread, NULL is returned. */
struct compactor *compactor_start(struct file_cache *cache, uint32_t percent);
/* A compaction under way gives up; the thread has ended when this returns.  NULL is fine. */
void compactor_stop(struct compactor *c);
/* A compaction under way gives up, and no other begins; does not wait.  NULL is fine. */
void compactor_interrupt(struct compactor *c);

#endif

/*
 * syncer.h - a few threads that make logs durable, one fdatasync in flight for each log.
 *
 * Any thread may kick; the waiters of a log are called back on a syncer thread.
 */
#ifndef STORAGE_SYNCER_H
#define STORAGE_SYNCER_H

struct syncer;
struct wal;

struct syncer *syncer_start(int threads);
/* Every log must be forgotten before. */
void syncer_stop(struct syncer *s);

/* See to it that everything appended to `wal` before this call is synced soon. */
void syncer_kick(struct syncer *s, struct wal *wal);
/* Return once no syncer thread has to do with `wal` any more; nobody may kick it from then on. */
void syncer_forget(struct syncer *s, struct wal *wal);

#endif

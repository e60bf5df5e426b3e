/*
 * lock.h - mutexes that know their place.
 *
 * This enum IS the locking hierarchy: a thread may only take a lock whose rank is greater than
 * every rank it already holds.  It is asserted in every build; the test is two instructions.
 */
#ifndef STORAGE_BASE_LOCK_H
#define STORAGE_BASE_LOCK_H

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>

enum lock_rank {
    LOCK_COMPACT = 1, /* compact.c: one compaction of a database at a time; held all along       */
    LOCK_INDEX,       /* vector_index.h: one owner of a database's graph at a time; held for a batch
                         of work, never by a request                                             */
    LOCK_CATALOG,     /* catalog.c: appends to the catalog file; held across its fsync           */
    LOCK_FLUSH,       /* flusher.c: one whole flush at a time; held across it, taken by no request
                         but a flush                                                              */
    LOCK_ROUND,       /* flusher.c: which database comes next                                     */
    LOCK_FILE_CACHE,  /* file_cache.c: the table of databases, pins, LRU order                    */
    LOCK_CHECKPOINT,  /* checkpoint.c: one checkpoint of a database at a time; held across its
                         fsyncs, which is its purpose: readers never take it, a writer only to
                         start the log after an open                                              */
    LOCK_DATABASE,    /* database.c: the one writer of a database: log order == apply order       */
    LOCK_BLOCKS,      /* jvdb_file.c: dirty and verified blocks                                   */
    LOCK_WAL,         /* wal.c: end of the log, waiters                                           */
    LOCK_LEAF,        /* metrics, log sink, queues: takes nothing else                            */
};

struct mutex {
    pthread_mutex_t os;
    enum lock_rank rank;
};

extern _Thread_local unsigned lock_ranks_held; /* bit r set = a lock of rank r is held */

static inline void mutex_init(struct mutex *m, enum lock_rank rank)
{
    pthread_mutex_init(&m->os, NULL);
    m->rank = rank;
}

static inline void mutex_deinit(struct mutex *m)
{
    pthread_mutex_destroy(&m->os);
}

static inline void mutex_lock(struct mutex *m)
{
    assert(lock_ranks_held >> m->rank == 0 && "lock taken out of order");
    pthread_mutex_lock(&m->os);
    lock_ranks_held |= 1u << m->rank;
}

/* True if the lock is now held. */
static inline bool mutex_trylock(struct mutex *m)
{
    assert(lock_ranks_held >> m->rank == 0 && "lock taken out of order");
    if (pthread_mutex_trylock(&m->os) != 0) return false;
    lock_ranks_held |= 1u << m->rank;
    return true;
}

static inline void mutex_unlock(struct mutex *m)
{
    assert(lock_ranks_held >> m->rank & 1u);
    lock_ranks_held &= ~(1u << m->rank);
    pthread_mutex_unlock(&m->os);
}

/* The caller holds `m` and no lock of a higher rank. */
static inline void mutex_wait(pthread_cond_t *cond, struct mutex *m)
{
    assert(lock_ranks_held >> m->rank == 1u);
    pthread_cond_wait(cond, &m->os);
}

#define mutex_assert_held(m) assert(lock_ranks_held >> (m)->rank & 1u)

#endif

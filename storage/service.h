/*
 * service.h - the verbs of the product: databases by name.  The only door for api/.
 *
 * Any thread, except that service_open() and service_close() must not race with anything.
 * `may_block` as in database.h.
 */
#ifndef STORAGE_SERVICE_H
#define STORAGE_SERVICE_H

#include "storage/database.h"
#include "storage/index/index_info.h"

struct service;

enum engine_kind { ENGINE_PERSISTENT, ENGINE_MEMORY };

struct service_options {
    enum engine_kind engine;
    const char *storage_path;        /* borrowed during service_open() */
    size_t max_open_files;           /* 5 .. 1000 */
    uint32_t flush_interval_seconds; /* 0: only by hand, by log size and at shutdown */
    bool auto_flush;                 /* false: as if the interval were 0             */
    uint32_t wal_sync_interval_ms;   /* periodic durability */
    uint64_t wal_bytes_max;          /* per database, before a checkpoint is forced */
    uint32_t compact_percent; /* of a file that may be dead before it is compacted; 0: never */
    uint64_t scrub_interval_seconds; /* 0: no scrub */
    uint64_t scrub_bytes_per_second;
    uint64_t dirty_bytes_max; /* of all databases, as well; 0: 512 MiB        */
    uint32_t index_threads;   /* that build and keep search graphs; 0: one for each processor */
    bool no_indexer;          /* for tests: nobody does, and all searches are exact           */
    uint32_t hold_ms; /* after a flush by hand: no checkpoint by time for so long; 0: 60 s */
};

/* Everything after the directory lock (server/daemon.c).  ERR_IO and friends name the path. */
MUST_CHECK enum err_code service_open(const struct service_options *options, struct service **out,
                                      struct err *err);
/* Checkpoint everything and free it.  An error is reported, but all is freed anyway: the logs hold
 * what could not be flushed.  NULL is fine. */
enum err_code service_close(struct service *svc, struct err *err);

/* ---- databases ---- */

/* *created: false if `if_missing` and a database with the same schema exists.
 * ERR_INVALID_NAME, ERR_DATABASE_EXISTS, ERR_CONFLICT (if_missing, but another schema). */
MUST_CHECK enum err_code service_create(struct service *svc, const char *name,
                                        const struct schema *schema, bool if_missing, bool *created,
                                        struct err *err);
MUST_CHECK enum err_code service_drop(struct service *svc, const char *name, struct err *err);

/* Pin a database, opening it if need be.  Give it back with service_release().
 * ERR_INVALID_NAME, ERR_DATABASE_NOT_FOUND, ERR_QUARANTINED, ERR_OVERLOADED, ERR_WOULD_BLOCK. */
MUST_CHECK enum err_code service_acquire(struct service *svc, const char *name, bool may_block,
                                         struct database **out, struct err *err);
void service_retain(struct database *db); /* one more release is due */
void service_release(struct database *db);

struct database_info {
    char name[NAME_BYTES_MAX + 1];
    struct schema schema; /* options owned: database_info_deinit() */
    bool open;
    bool quarantined;
    char reason[384];    /* why it is quarantined, or why its counts are not known */
    bool counts_unknown; /* in a list: it could not be opened now, the counts are 0 */
    uint64_t vector_count;
    uint64_t deleted_count; /* dead rows whose slots are not reused yet */
    uint64_t last_lsn;
    uint64_t durable_lsn;
    uint64_t file_bytes; /* .jvdb                                      */
    uint64_t live_bytes; /* what the live rows need of it              */
    uint64_t wal_bytes;
    uint64_t last_flush_at_ms; /* wall time, 0 = never in this process */
    double last_flush_ms;
    /* Of an open database; of a closed one all zero. */
    struct vector_index_info index;
    uint64_t filter_bytes; /* memory of what filters use; 0: not open */
};
void database_info_deinit(struct database_info *info);

/* Of a closed database too, without opening it when its counts are known; else ERR_WOULD_BLOCK or
 * open it. */
MUST_CHECK enum err_code service_info(struct service *svc, const char *name, bool may_block,
                                      struct database_info *info, struct err *err);
/* In name order, names greater than `after` (NULL: from the start) that start with `prefix` (may be
 * NULL), at most `limit`.  *infos is an array to be given to service_list_free(). *total counts all
 * databases with that prefix; *more: some are left behind the last. */
MUST_CHECK enum err_code service_list(struct service *svc, const char *after, const char *prefix,
                                      size_t limit, bool may_block, struct database_info **infos,
                                      size_t *count, size_t *total, bool *more, struct err *err);
void service_list_free(struct database_info *infos, size_t count);

/* Checkpoint: returns when the .jvdb alone holds everything acknowledged before the call.
 * Both block. */
MUST_CHECK enum err_code service_flush(struct service *svc, const char *name, double *duration_ms,
                                       struct err *err);
MUST_CHECK enum err_code service_flush_all(struct service *svc, size_t *flushed,
                                           double *duration_ms, struct err *err);

/* Rewrite a database without its dead rows (compact.h).  Blocks; ERR_SHUTTING_DOWN after
 * service_interrupt(). */
MUST_CHECK enum err_code service_compact(struct service *svc, const char *name,
                                         struct compact_result *result, struct err *err);
/* The end is near: whatever takes long and can be done again gives up.  Any thread. */
void service_interrupt(struct service *svc);
/* For tests: indexer_settle(). */
void service_settle_index(struct service *svc, struct database *db);

/* Compare what a database's files hold with its checksums, without blocking anybody (verify.h).
 * Damage quarantines the database, unless memory could put it right; *quarantined: it is now.
 * Blocks; ERR_SHUTTING_DOWN after service_interrupt(); ERR_OVERLOADED: the file never held still.
 */
struct verify_result;
MUST_CHECK enum err_code service_verify(struct service *svc, const char *name,
                                        struct verify_result *r, bool *quarantined,
                                        struct err *err);

struct service_stats {
    uint64_t databases, vectors, quarantined;
    uint64_t bytes;     /* of all .jvdb files (persistent) or of memory (in-memory) */
    uint64_t wal_bytes; /* of all logs */
    uint64_t open_files, max_open_files; /* open_files: databases mapped plus descriptors on them */
    uint64_t lru_hits, lru_misses, lru_evictions;
    double lru_evictions_per_minute; /* over the last minute */
    uint64_t flushes;
    double last_flush_ms;
    uint64_t last_flush_at_ms;
    uint32_t flush_interval_seconds;
    double scrub_progress; /* of the round under way, 0 to 1; 1 between rounds */
    uint64_t disk_free_bytes, disk_total_bytes; /* 0 for the in-memory engine */
    uint64_t index_pending;                     /* rows of open databases that wait to be linked */
    uint64_t index_bytes;                       /* memory of their graphs                        */
    uint64_t filter_bytes;                      /* and of what filters use                       */
};
void service_stats(struct service *svc, struct service_stats *stats);

/* The recall that searches of an open database had, as far as it was measured. */
struct recall_estimate {
    char name[NAME_BYTES_MAX + 1];
    double recall;
};
/* In name order, at most `max`; returns how many. */
size_t service_recall_estimates(struct service *svc, struct recall_estimate *list, size_t max);
bool service_is_persistent(const struct service *svc);

#endif

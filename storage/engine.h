/*
 * engine.h - what an engine is: how a database comes to be, opens, closes, and goes.
 *
 * Everything above (names, pins, the LRU: file_cache.h; the verbs: service.h) and below (rows, log,
 * checkpoints: database.h) is common to both engines.
 */
#ifndef STORAGE_ENGINE_H
#define STORAGE_ENGINE_H

#include "storage/database_private.h"
#include "storage/file_cache.h"
#include "storage/service.h"

struct engine {
    const struct engine_ops *ops;
    int dir_fd; /* of the files; -1: in memory */
};

struct open_hints {
    bool lsn_is_known;      /* no LSN was given that the files may not show: none is skipped */
    bool reopened;          /* it was open before in this process */
    uint64_t hold_until_ns; /* database.hold_until_ns of before */
    uint64_t lsn_min;       /* the last LSN that a clean stop or closing noted */
};

struct engine_ops {
    const char *name;
    bool can_evict; /* a closed database can be opened again */

    /* Tell `cache` (file_cache_add()) every database that exists. */
    enum err_code (*load)(struct engine *e, struct file_cache *cache, struct err *err);
    /* Make a database; durable when it returns. */
    enum err_code (*create)(struct engine *e, const char *name, const uint8_t uuid[16],
                            const struct schema *schema, struct err *err);
    enum err_code (*open)(struct engine *e, const char *name, const uint8_t uuid[16],
                          const struct schema *schema, struct open_hints hints,
                          const struct database_host *host, struct database **out, struct err *err);
    /* Does the file of a closed database stand at this LSN, as the catalog says?  Reads a block or
     * two.  NULL: an engine without files. */
    bool (*is_at)(struct engine *e, const char *name, const uint8_t uuid[16], uint64_t lsn);
    /* Nobody uses it any more.  With `keep_log`, a database with a small log may close without a
     * checkpoint.  Frees db whatever happens; *has_log: its log must be replayed at the next open.
     */
    enum err_code (*close)(struct engine *e, struct database *db, bool keep_log, bool *has_log,
                           struct err *err);
    /* Would that take a checkpoint? */
    bool (*close_is_slow)(struct database *db, bool keep_log);
    /* Remove for good a database that is closed: `db` is freed first if it is not NULL. */
    enum err_code (*drop)(struct engine *e, const char *name, const uint8_t uuid[16],
                          struct database *db, struct err *err);
    enum err_code (*flush)(struct engine *e, struct database *db, struct err *err);
    /* Several times a second, on the flusher's thread.  May be NULL. */
    void (*tend)(struct engine *e);
    /* All databases are closed.  `clean`: without an error. */
    enum err_code (*stop)(struct engine *e, struct file_cache *cache, bool clean, struct err *err);
};

struct engine *engine_memory_new(void);
MUST_CHECK enum err_code engine_persistent_new(const struct service_options *options,
                                               struct engine **out, struct err *err);

#endif

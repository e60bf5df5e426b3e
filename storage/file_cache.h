/*
 * file_cache.h - the table of databases, and the LRU of those that are open.
 *
 * At most `max_open` files are open: an open database counts one for its mapping and one more while
 * it holds a descriptor for writing.  A database in use is pinned and never closed; the one that
 * was unused longest is closed when room is needed.
 *
 * Any thread.  `may_block` false: ERR_WOULD_BLOCK rather than open, close or wait.
 */
#ifndef STORAGE_FILE_CACHE_H
#define STORAGE_FILE_CACHE_H

#include "storage/service.h"

struct engine;
struct file_cache;

/* What is known of a database whether it is open or not. */
struct cache_entry {
    char name[NAME_BYTES_MAX + 1];
    uint8_t uuid[16];
    struct schema schema; /* options owned */
    uint64_t live_count, dead_count, file_bytes, last_lsn;
    bool counts_known;
    bool has_log; /* closed with records in its log */
};

struct file_cache *file_cache_new(struct engine *engine, size_t max_open);
/* Close every database; the first error is reported, all are closed. */
enum err_code file_cache_close_all(struct file_cache *c, struct err *err);
void file_cache_free(struct file_cache *c);

/* Put an entry in the table; the options are copied.  `quarantine` (may be NULL): why it is not to
 * be used.  ERR_DATABASE_EXISTS. */
MUST_CHECK enum err_code file_cache_add(struct file_cache *c, const struct cache_entry *entry,
                                        const char *quarantine, struct err *err);
/* A name that is being made: others wait for it.  ERR_DATABASE_EXISTS. */
MUST_CHECK enum err_code file_cache_reserve(struct file_cache *c, const struct cache_entry *entry,
                                            struct err *err);
/* It was made, or not. */
void file_cache_settle(struct file_cache *c, const char *name, bool made);

MUST_CHECK enum err_code file_cache_acquire(struct file_cache *c, const char *name, bool may_block,
                                            struct database **out, struct err *err);
void file_cache_retain(struct database *db);
void file_cache_release(struct database *db);

/* Something failed with `err`.  True: for want of descriptors or mappings, and a database that
 * nobody uses was closed for it: try again. */
bool file_cache_relieve(struct file_cache *c, const struct err *err);

/* Wait until nobody uses it, then have the engine drop it, and forget it. */
MUST_CHECK enum err_code file_cache_drop(struct file_cache *c, const char *name, struct err *err);

/* Pin the next open database behind `after` ("" to begin) in name order.  False: no more. */
bool file_cache_next_open(struct file_cache *c, const char *after, struct database **out);
/* Copy the next entry behind `after`; `has_log_only`: closed ones that may have a
 * log to be replayed.  False: no more.
 * entry->schema.options is borrowed and gone with the entry: do not keep it. */
bool file_cache_next_entry(struct file_cache *c, const char *after, bool has_log_only,
                           struct cache_entry *entry);

/* The same for those that are not quarantined, open or not. */
bool file_cache_next_sound(struct file_cache *c, const char *after, struct cache_entry *entry);
/* Copy one entry; *db is pinned if it is open (file_cache_release()), else NULL: it is not opened
 * for this.  False: there is none. */
bool file_cache_peek(struct file_cache *c, const char *name, struct cache_entry *entry,
                     struct database **db);
/* Damage was found in the files of a database that is closed: it is not to be opened.  False: it
 * was opened or dropped meanwhile, and nothing happens. */
bool file_cache_quarantine(struct file_cache *c, const char *name, const uint8_t uuid[16],
                           const char *reason);
/* A flush of all by hand: see database_is_held(). */
void file_cache_hold_all(struct file_cache *c, uint64_t until_ns);

/* For the engine's start and stop. */
bool file_cache_is_known(struct file_cache *c, const char *name);
/* The file of `name` was found: false if no such entry is in the table. */
bool file_cache_has_file(struct file_cache *c, const char *name);
/* The name of a database whose file was found and has this uuid: true, and a copy in `name`. */
bool file_cache_find_uuid(struct file_cache *c, const uint8_t uuid[16],
                          char name[NAME_BYTES_MAX + 1]);
void file_cache_quarantine_missing(struct file_cache *c); /* entries whose file was not found */
/* An iterator over all entries in the form that catalog_rewrite() takes; ctx is a struct
 * cache_walk. Nobody may change the table meanwhile. */
struct catalog_entry;
struct cache_walk {
    struct file_cache *cache;
    size_t i;
};
bool cache_walk_next(void *ctx, struct catalog_entry *entry);

/* As service_info() and service_list(). */
MUST_CHECK enum err_code file_cache_info(struct file_cache *c, const char *name, bool may_block,
                                         struct database_info *info, struct err *err);
MUST_CHECK enum err_code file_cache_list(struct file_cache *c, const char *after,
                                         const char *prefix, size_t limit, bool may_block,
                                         struct database_info **infos, size_t *count, size_t *total,
                                         bool *more, struct err *err);
/* Call fn(ctx, name) whenever the search index of a database may have work to be done, and when one
 * was opened; NULL: nobody.  fn may be called under LOCK_FILE_CACHE.  Not while databases are used.
 */
void file_cache_on_index_work(struct file_cache *c, void (*fn)(void *ctx, const char *name),
                              void *ctx);
/* The counts of service_stats(); those of closed databases as of their closing. */
void file_cache_stats(struct file_cache *c, struct service_stats *stats);
/* As service_recall_estimates(). */
size_t file_cache_recall_estimates(struct file_cache *c, struct recall_estimate *list, size_t max);

#endif

/*
 * scrub.h - look for damage before a reader meets it.
 *
 * One thread at low priority verifies the files of every database (verify.h), over and over, at a
 * limited speed.  It opens no database: no open file is taken from the LRU, nothing is evicted.
 * What it finds is dealt with as what a verify by hand finds:
 *
 *   - The database is open, and what is bad on the disk is good in memory (a superblock, the
 *     manifest, the log, a block that was changed since the last checkpoint): a checkpoint writes
 *     it anew, and nobody was ever given a wrong row.
 *   - Anything else: the database is quarantined, with the reason.
 */
#ifndef STORAGE_SCRUB_H
#define STORAGE_SCRUB_H

#include "storage/file_cache.h"
#include "storage/verify.h"

struct engine;
struct scrub;

/* Verify one database and deal with what is found; *quarantined: it is now.  ERR_DATABASE_NOT_FOUND
 * also if it was dropped meanwhile.  Any thread. */
MUST_CHECK enum err_code scrub_database(struct engine *engine, struct file_cache *cache,
                                        const char *name, bool (*pace)(void *ctx, uint64_t bytes),
                                        void *ctx, struct verify_result *r, bool *quarantined,
                                        struct err *err);

struct scrub_options {
    uint64_t interval_ms; /* from the start of one round to the start of the next; 0: never */
    uint64_t first_ms;    /* from now to the first round */
    uint64_t bytes_per_second;
};
struct scrub *scrub_start(struct engine *engine, struct file_cache *cache,
                          const struct scrub_options *options);
/* Returns at once, wherever it was.  NULL is fine. */
void scrub_stop(struct scrub *s);

/* How far the round under way is, 0 to 1; 1 between rounds, 0 before the first.  NULL is fine. */
double scrub_progress(const struct scrub *s);

#endif

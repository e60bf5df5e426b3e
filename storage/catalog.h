/*
 * catalog.h - which databases exist, so that a missing file differs from a database that never was.
 *
 * `.catalog` is an append-only log with a checksum per record.  A clean shutdown writes it anew
 * with the counts of every database and a last record that says so; then the next start knows the
 * counts without opening a file.  A damaged or lost catalog is rebuilt from the files by the
 * engine.
 *
 * One thread at a time, but for catalog_add() and catalog_drop(), which lock.
 */
#ifndef STORAGE_CATALOG_H
#define STORAGE_CATALOG_H

#include "storage/types.h"

struct catalog;

struct catalog_entry {
    char name[NAME_BYTES_MAX + 1];
    uint8_t uuid[16];
    struct schema schema; /* options borrowed */
    uint64_t live_count, dead_count, file_bytes, last_lsn;
    bool counts_known; /* of the four: only after a clean stop */
    bool dropped;      /* a tombstone: its files may still be there */
};

/* Called for each database that the catalog holds, and for each tombstone that is not forgotten. */
typedef void catalog_entry_fn(void *ctx, const struct catalog_entry *entry);

/* *was_clean: the last stop was; only then entries have counts_known.  *was_lost: there was no
 * usable catalog. ERR_QUARANTINED: of a newer format. */
MUST_CHECK enum err_code catalog_open(int dir_fd, catalog_entry_fn *fn, void *ctx,
                                      struct catalog **out, bool *was_clean, bool *was_lost,
                                      struct err *err);
/* Durable when they return.  ERR_READ_ONLY: this sync failed, or one before; until restart. */
MUST_CHECK enum err_code catalog_add(struct catalog *c, const struct catalog_entry *entry,
                                     struct err *err);
MUST_CHECK enum err_code catalog_drop(struct catalog *c, const char *name, const uint8_t uuid[16],
                                      struct err *err);
/* The files of a dropped database are gone: its tombstone has done its work. */
MUST_CHECK enum err_code catalog_forget(struct catalog *c, const char *name, const uint8_t uuid[16],
                                        struct err *err);
/* Lost, torn, or mostly of databases that are gone: it should be written anew. */
bool catalog_is_worn(const struct catalog *c);
/* Write the catalog anew: `next` fills the next entry and returns false at the end. */
MUST_CHECK enum err_code catalog_rewrite(struct catalog *c,
                                         bool (*next)(void *ctx, struct catalog_entry *entry),
                                         void *ctx, bool clean, struct err *err);
/* For a start, as catalog_rewrite() but in place: the catalog is in use, its counts are old.
 * Durable when it returns, with all that was in it.  Needs no room, but a catalog. */
MUST_CHECK enum err_code catalog_mark_in_use(struct catalog *c, bool was_clean, struct err *err);
/* A record may be on disk that was refused: nothing is added any more.  From any thread. */
bool catalog_is_broken(struct catalog *c);
void catalog_close(struct catalog *c);

#endif

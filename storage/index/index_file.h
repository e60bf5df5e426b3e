/*
 * index_file.h - the graph of a search index in the file of its database.
 *
 * Codes and links lie in regions "codes" and "links": cell number = slot number.  A checkpoint
 * writes what changed of them in place, before its sync, and puts record "index" into the manifest
 * (index_record.h).  Neither the log nor a .ckpt knows of them: every cell proves by checksums of
 * its own that it belongs to its row, and links are hints, so that after a crash an old or a torn
 * cell costs its row being linked again, and no more.
 *
 * Opening maps the file as it lies: a search can walk the graph at once, whatever is wrong with it,
 * since nothing in it makes a row.  Then the indexer calls index_file_load(), which copies the
 * graph to memory of huge pages and compares all checksums on the way.
 */
#ifndef STORAGE_INDEX_INDEX_FILE_H
#define STORAGE_INDEX_INDEX_FILE_H

#include "storage/database_private.h"
#include "storage/index/index_record.h"
#include "storage/manifest.h"

/* ---- for checkpoint.c ---- */

/* Part of a graph in the file: the extents of a region, as of some moment. */
struct index_part {
    struct region_shape shape;
    uint64_t *extents; /* owned */
    uint32_t extent_count;
};
enum { PART_CODES, PART_LINKS, PART_COUNT };

/* What one checkpoint writes. */
struct index_save {
    struct buf record; /* for the manifest; empty: there is no index to be kept */
    struct index_part parts[PART_COUNT];
    uint32_t seed; /* of the graph */
    uint32_t node_count;
    uint64_t head; /* of the pending */
};

/* Have room for the graph in the file, a little at a time; without the space for it nothing has
 * changed, and index_file_fix() says that there is no index.  Under no lock above LOCK_CHECKPOINT,
 * with a descriptor to write through. */
void index_file_grow(struct database *db);
/* Under the writer lock: what the checkpoint of this moment says of the index.  Never fails: what
 * cannot be kept is made again. */
void index_file_fix(struct store *store, struct index_save *save);
/* Then, not under it, before the sync of the file: write what changed.  Linkers go on.  0 or an
 * errno: the record must not go into the manifest then; what was not written is still to be.  True
 * in *sync_failed: the errno is to be taken like one of a sync (file_write_back()). */
MUST_CHECK int index_file_write(struct store *store, const struct index_save *save,
                                bool *sync_failed);
/* The checkpoint is finished; `kept`: the record is in its manifest. */
void index_file_saved(struct store *store, const struct index_save *save, bool kept);
void index_file_end(struct index_save *save);
/* The file does not have all of the index that there is.  Any thread, the database is acquired. */
bool index_file_is_dirty(struct database *db);
/* So much of it that a checkpoint for its sake costs less than linking it again.  Likewise. */
bool index_file_is_due(struct database *db);

/* For scrub.c: the file has bad codes or links for these slots, or for all (NULL): the next
 * checkpoint writes them again.  False: memory has no graph that is better than the file.  Any
 * thread, the database is acquired. */
bool index_file_write_again(struct database *db, const uint32_t *slots, size_t count);

/* ---- for recovery.c ---- */

/* The index of a store that was just read, before the log is replayed; `fd` is its file.
 * Milliseconds at any size.  Never fails: an index that is of no use is made again. */
void index_file_open(struct store *store, const char *name, int fd, const struct schema *schema,
                     const struct manifest *m);

/* ---- for the owner ---- */

/* Is the graph still where index_file_open() has mapped it?  Then nothing but index_file_load() may
 * be done to it yet.  Owner. */
bool index_file_is_mapped(struct vector_index *ix);
/* Copy a mapped graph to memory, and compare its checksums on the way: codes that are not good are
 * made from their rows, rows with bad links become pending.  If more than a few are bad, the index
 * is given up (vector_index_graph() is NULL then, and it is to be built anew).  `go_on` (may be
 * NULL) is asked now and then; false: ERR_SHUTTING_DOWN, and the graph is where it was.  ERR_NOMEM
 * likewise. Owner; the database is acquired, no other lock is held. */
MUST_CHECK enum err_code index_file_load(struct database *db, bool (*go_on)(void *ctx), void *ctx,
                                         struct err *err);

/* For compact.c, before the next: lead links around dead rows, if there are many, a part at a time;
 * the indexer goes on in between.  `go_on` as above; it may sleep.  An error is no harm.  No lock
 * of LOCK_INDEX or higher is held; nobody else replaces the store. */
MUST_CHECK enum err_code index_file_sweep(struct database *db, bool (*go_on)(void *ctx), void *ctx,
                                          struct err *err);
/* For compact.c: give the store that is going to replace that of `db` its graph.  moved[s] is the
 * slot of the copy that has the row of slot s, or INDEX_NO_SLOT, for s < moved_count; rows of the
 * copy that come over without links are pending, and what is written to it later will be.  Nobody
 * else knows the copy; its index is new, or empty.  Nothing to do without a graph.  After an error
 * the copy has none, which is no harm but for ERR_SHUTTING_DOWN (`go_on` as above) and ERR_CORRUPT.
 * Owner of the index of `db`; nothing higher is held. */
enum { INDEX_NO_SLOT = UINT32_MAX };
MUST_CHECK enum err_code index_file_carry(struct database *db, struct store *copy,
                                          const uint32_t *moved, uint32_t moved_count,
                                          bool (*go_on)(void *ctx), void *ctx, struct err *err);

#endif

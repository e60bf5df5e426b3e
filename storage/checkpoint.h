/*
 * checkpoint.h - bring a .jvdb file to the state of now, all or nothing.
 *
 * After it the file alone is the whole database.  The blocks that changed go to `<name>.ckpt`
 * first, then to their places; whichever moment the power fails, the file is exactly the old
 * checkpoint or exactly the new one (after recovery has applied the .ckpt), and the log redoes the
 * rest.
 */
#ifndef STORAGE_CHECKPOINT_H
#define STORAGE_CHECKPOINT_H

#include "storage/database_private.h"

/* Everything applied before this call is in the file when it returns, and the search index as far
 * as it is linked.  Nothing to do: ERR_OK at once.  Readers and writers go on meanwhile.  Blocks;
 * no lock of rank LOCK_CHECKPOINT or higher may be held. ERR_STORAGE_FULL: as before, try again
 * later.  ERR_READ_ONLY: a sync failed. */
MUST_CHECK enum err_code checkpoint_run(struct database *db, struct err *err);
/* Is there something to do? */
bool checkpoint_is_due(struct database *db);
/* Wait for the one under way, and run one if the log is still that long. */
MUST_CHECK enum err_code checkpoint_shorten_log(struct database *db, uint64_t bytes_max,
                                                struct err *err);
/* The same even if there is nothing new: what the file lost is written again from memory. */
MUST_CHECK enum err_code checkpoint_rewrite(struct database *db, struct err *err);
/* As checkpoint_run(), and then make both superblocks alike: the database is about to be closed for
 * good. */
MUST_CHECK enum err_code checkpoint_close(struct database *db, struct err *err);

/* Is one under way, of whichever database?  Then even a write to the page cache can wait for the
 * disk: the journal of the file system is one for all.  A hint. */
bool checkpoint_is_running(void);

/* Take `checkpoint_mu` with a descriptor to write through: no checkpoint is under way, and none
 * begins.  Blocks. */
MUST_CHECK enum err_code checkpoint_lock(struct database *db, struct err *err);

/* For compaction, of a database that nobody else knows, with its file open for writing.
 * write_new: write what is dirty to its place and give the memory back; the file is not whole yet.
 * finish_new: the rest, manifest and both superblocks too, and sync it: it is a whole file at
 * `lsn`.  ERR_STORAGE_FULL, ERR_IO. */
MUST_CHECK enum err_code checkpoint_write_new(struct database *db, struct err *err);
MUST_CHECK enum err_code checkpoint_finish_new(struct database *db, uint64_t generation,
                                               uint64_t lsn, struct err *err);

/* For recovery: apply `<name>.ckpt` to the file if it is complete and the file's successor, and
 * remove it; with read_only, ERR_QUARANTINED if that is due.  `sb` is the file's superblock; true
 * in *applied: read it again. */
MUST_CHECK enum err_code checkpoint_apply_leftover(int dir_fd, const char *name, int jvdb_fd,
                                                   bool read_only, const struct disk_superblock *sb,
                                                   bool *applied, struct err *err);
/* Is this .ckpt complete?  Reads all of it.  0 or an errno. */
MUST_CHECK int checkpoint_check_file(int fd, struct disk_ckpt_header *header,
                                     struct disk_ckpt_footer *footer, bool *complete);

#endif

/*
 * reserve.h - room that is kept for the day the disk is full.
 *
 * Deleting on a full disk needs room first: for the record in the log, for the checkpoint that lets
 * the log go, for a line of the catalog.  So a few files of the storage directory hold some, and
 * are given up when one of those meets a full disk.  Until the reserve could be made again, nothing
 * else may use room: writes are refused although a few pages are free, and resume by themselves
 * when the disk has enough again.
 *
 * A NULL reserve (in memory, in tests) refuses nothing and has nothing to give.  Any thread.
 */
#ifndef STORAGE_RESERVE_H
#define STORAGE_RESERVE_H

#include <stdbool.h>

#include "storage/base/err.h"

struct reserve;

/* `dir_fd` is borrowed.  The reserve is made if it is not there; that it cannot be made is a state,
 * not an error. */
struct reserve *reserve_open(int dir_fd);
void reserve_close(struct reserve *r); /* its files stay */

/* For whoever may wait for better times (inserts, new databases): ERR_STORAGE_FULL while there is
 * no reserve and no room to make it again. */
MUST_CHECK enum err_code reserve_check(struct reserve *r, struct err *err);
/* For those that must not: `err` says why something failed.  True: for want of room, and the
 * reserve is given up (now or just before): try once more, then reserve_done().  In between nobody
 * makes it again, so that the room is there for the one it was kept for. */
bool reserve_use(struct reserve *r, const struct err *err);
void reserve_done(struct reserve *r);
/* Make it again if that is possible now and nobody uses it; cheap while it is there. */
void reserve_restore(struct reserve *r);

#endif

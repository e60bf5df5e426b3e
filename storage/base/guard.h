/*
 * guard.h - a mapped file that loses its bytes is an error, not the end of the process.
 *
 * A page of a mapping can turn out to be unreadable at any time: somebody cuts the file short, or
 * the disk fails to read it.  The kernel says so with SIGBUS, in the middle of whatever looked.
 * Here the whole mapping is then replaced by zeros and its `lost` flag is set, and the thread goes
 * on: there is nothing to unwind, whatever locks it holds.  So:
 *
 *     what was read through a guarded mapping counts only if `lost` is still false AFTERWARDS.
 *
 * Test it before anything that was read is answered, logged or written to another file.  `lost`
 * never becomes false again.  As zeros may appear between two looks at the same bytes, a reader
 * must be safe on any content, however often it was checked; readers of files are anyway.
 *
 * A system call that is given such an address fails with EFAULT instead.
 */
#ifndef STORAGE_BASE_GUARD_H
#define STORAGE_BASE_GUARD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

struct guard; /* one mapping */

/* Watch [at, at + bytes), a whole mapping of a file; writable says whether it was mapped with
 * PROT_WRITE.  The first call of the process installs the handler of SIGBUS.  `lost` outlives every
 * access to the mapping.  Any thread; never NULL. */
struct guard *guard_add(void *at, size_t bytes, bool writable, _Atomic bool *lost);
/* Before the mapping is unmapped, when nobody looks at it any more.  NULL is fine.  Any thread. */
void guard_remove(struct guard *guard);

/* Take SIGBUS (again, if somebody else took it since the first guard); what is not about a guarded
 * mapping goes to whoever had it before.  Not thread-safe. */
void guard_install(void);

#endif

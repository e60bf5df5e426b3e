/*
 * epoch.h - readers without locks: memory is given back once nobody can still look at it.
 *
 * A reader brackets its work with epoch_enter() and epoch_leave(); both are a few instructions and
 * never wait.  A writer that has unlinked something hands it to epoch_retire(), or asks with
 * epoch_now() and epoch_passed() whether every reader of that moment has left.  Epoch-based
 * reclamation after K. Fraser, "Practical lock-freedom" (2004), with one global counter.
 *
 * One domain for the whole process.  Sections nest.  A section must not sleep or take a lock that
 * a caller of epoch_synchronize() may hold.
 */
#ifndef STORAGE_BASE_EPOCH_H
#define STORAGE_BASE_EPOCH_H

#include <stdbool.h>
#include <stdint.h>

void epoch_enter(void);
void epoch_leave(void);

/* A section that belongs to no thread: what was there at epoch_pin() stays, for the threads that
 * are told of it, until epoch_unpin(), on whichever thread.  They enter sections of their own. */
struct epoch_pin {
    void *record; /* private */
};
void epoch_pin(struct epoch_pin *pin);
void epoch_unpin(struct epoch_pin *pin);

/* Start a new epoch and return the one that ended: epoch_passed(e) is true once every section that
 * was open at this call has been left.  Any thread. */
uint64_t epoch_now(void);
bool epoch_passed(uint64_t epoch);

/* Call fn(p) later, on the thread of some epoch_collect() or epoch_retire(), when no section that
 * is open now is open any more.  Unlink `p` first.  Any thread, not inside fn. */
void epoch_retire(void (*fn)(void *p), void *p);
void epoch_collect(void); /* free what can be freed; cheap; call it now and then */
/* Wait until every section open now has been left, and free what that allows.  Never call it
 * inside a section. */
void epoch_synchronize(void);

#endif

/*
 * epoch.c - one counter, one word per thread.
 *
 *     now          1, 2, 3, ...   grows by one with every epoch_now()
 *     active       0 outside of sections, else a value that `now` had when the section began
 *
 * epoch_now() returns e and makes the counter e + 1.  A section that was open then has active <= e;
 * one that begins later reads e + 1 or more and, as that read acquires, sees what the writer
 * unlinked before.  The case between is a reader that has read e but not yet stored it while the
 * counter moves: it looks again after storing.  If it finds e still, its store precedes the
 * increment in the one order of all seq_cst operations, so every later scan sees it; if not, it
 * takes the new value.  No fences: ThreadSanitizer understands every step.
 *
 * Records are never freed, only handed to the next thread or pin, so that a scan needs no lock.
 */
#include "storage/base/epoch.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <time.h>

#include "storage/base/lock.h"
#include "storage/base/mem.h"

struct record {
    _Atomic uint64_t active; /* written by the owner; read by scans: acquires what it left */
    _Atomic bool owned;      /* released by the exiting thread, acquired by the next owner */
    unsigned nest;           /* owner only                                                 */
    struct record *next;     /* constant once the record is in the list                    */
    char pad[128 - 32];      /* neighbours do not share a cache line (or a pair of them)   */
};

struct retired {
    struct retired *next;
    void (*fn)(void *p);
    void *p;
    uint64_t epoch;
};

static _Atomic uint64_t now = 1;
static _Atomic(struct record *) records;
static _Thread_local struct record *mine;

static pthread_once_t key_once = PTHREAD_ONCE_INIT;
static pthread_key_t key;

/* guarded by retired_lock: a queue, epochs ascending */
static struct mutex retired_lock = {PTHREAD_MUTEX_INITIALIZER, LOCK_LEAF};
static struct retired *retired_head;
static struct retired **retired_tail = &retired_head;
static unsigned retired_count;

enum { RETIRED_MANY = 64 }; /* so many wait: epoch_retire() collects, too */

static void give_up_record(void *arg)
{
    struct record *r = arg;
    assert(r->nest == 0 && "thread ended inside a section");
    mine = NULL;
    atomic_store_explicit(&r->owned, false, memory_order_release);
}

static void make_key(void)
{
    if (pthread_key_create(&key, give_up_record) != 0) abort();
}

static struct record *take_record(void)
{
    struct record *r;
    for (r = atomic_load(&records); r; r = r->next) {
        bool owned = false;
        if (atomic_compare_exchange_strong(&r->owned, &owned, true)) break;
    }
    if (!r) {
        r = mem_new(struct record);
        atomic_init(&r->owned, true);
        r->next = atomic_load(&records);
        while (!atomic_compare_exchange_weak(&records, &r->next, r))
            continue;
    }
    return r;
}

static struct record *new_record(void)
{
    pthread_once(&key_once, make_key);
    mine = take_record();
    if (pthread_setspecific(key, mine) != 0) abort();
    return mine;
}

static void begin_section(struct record *r)
{
    uint64_t seen = atomic_load(&now);
    for (;;) {
        atomic_store(&r->active, seen);
        const uint64_t again = atomic_load(&now);
        if (again == seen) return;
        seen = again;
    }
}

void epoch_enter(void)
{
    struct record *r = mine ? mine : new_record();
    if (r->nest++ == 0) begin_section(r);
}

void epoch_leave(void)
{
    struct record *r = mine;
    assert(r && r->nest > 0);
    if (--r->nest == 0) atomic_store_explicit(&r->active, 0, memory_order_release);
}

void epoch_pin(struct epoch_pin *pin)
{
    pin->record = take_record();
    begin_section(pin->record);
}

void epoch_unpin(struct epoch_pin *pin)
{
    struct record *r = pin->record;
    atomic_store_explicit(&r->active, 0, memory_order_release);
    atomic_store_explicit(&r->owned, false, memory_order_release);
    pin->record = NULL;
}

uint64_t epoch_now(void)
{
    return atomic_fetch_add(&now, 1);
}

/* The epoch of the oldest open section, UINT64_MAX when all threads are outside. */
static uint64_t oldest_active(void)
{
    uint64_t oldest = UINT64_MAX;
    for (struct record *r = atomic_load(&records); r; r = r->next) {
        const uint64_t active = atomic_load(&r->active);
        if (active != 0 && active < oldest) oldest = active;
    }
    return oldest;
}

bool epoch_passed(uint64_t epoch)
{
    return oldest_active() > epoch;
}

void epoch_retire(void (*fn)(void *p), void *p)
{
    struct retired *item = mem_new(struct retired);
    item->fn = fn;
    item->p = p;

    mutex_lock(&retired_lock);
    item->epoch = epoch_now(); /* under the lock, so that the queue is in order */
    *retired_tail = item;
    retired_tail = &item->next;
    const bool many = ++retired_count >= RETIRED_MANY;
    mutex_unlock(&retired_lock);
    if (many) epoch_collect();
}

void epoch_collect(void)
{
    struct retired *free_these = NULL, **end = &free_these;

    mutex_lock(&retired_lock);
    if (retired_head) {
        const uint64_t oldest = oldest_active();
        while (retired_head && retired_head->epoch < oldest) {
            *end = retired_head;
            end = &retired_head->next;
            retired_head = retired_head->next;
            retired_count--;
        }
        *end = NULL;
        if (!retired_head) retired_tail = &retired_head;
    }
    mutex_unlock(&retired_lock);

    while (free_these) {
        struct retired *item = free_these;
        free_these = item->next;
        item->fn(item->p);
        mem_free(item);
    }
}

void epoch_synchronize(void)
{
    assert((!mine || mine->nest == 0) && "waiting for itself");
    const uint64_t epoch = epoch_now();
    struct timespec pause = {.tv_nsec = 1000};
    while (!epoch_passed(epoch)) {
        nanosleep(&pause, NULL);
        if (pause.tv_nsec < 1000000) pause.tv_nsec *= 2;
    }
    epoch_collect();
}

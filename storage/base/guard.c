/*
 * guard.c - the list of watched mappings, and the handler that looks into it.
 *
 * The handler may run on any thread at any moment, so it takes no lock and calls nothing but the
 * kernel.  Entries are never freed, only used again; `version` is odd while one changes, so that
 * the handler never takes the start of one mapping with the end of another.  No page is mapped
 * under an entry that is being added or removed, so the handler may skip those.
 *
 * The WHOLE mapping is replaced, not the page: thousands of lost pages would be thousands of faults
 * and, alternating with good ones, as many mappings as the kernel allows.
 */
#include "storage/base/guard.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "storage/base/lock.h"
#include "storage/base/mem.h"

struct guard {
    _Atomic unsigned version; /* odd: unused or changing; pairs with the handler's loads */
    _Atomic uintptr_t at;
    _Atomic size_t bytes;
    _Atomic bool writable;
    _Atomic(_Atomic bool *) lost;
    struct guard *next;      /* constant once the guard is in the list */
    struct guard *next_free; /* guarded by free_lock                   */
};

static _Atomic(struct guard *) guards;
static struct mutex free_lock = {PTHREAD_MUTEX_INITIALIZER, LOCK_LEAF};
static struct guard *free_guards;

static pthread_once_t installed = PTHREAD_ONCE_INIT;
static struct sigaction previous;

/* Replace the mapping that holds `address` by zeros.  False: it is none of ours. */
static bool replace(uintptr_t address)
{
    for (struct guard *g = atomic_load(&guards); g; g = g->next) {
        const unsigned version = atomic_load(&g->version);
        const uintptr_t at = atomic_load(&g->at);
        const size_t bytes = atomic_load(&g->bytes);
        const int prot = PROT_READ | (atomic_load(&g->writable) ? PROT_WRITE : 0);
        _Atomic bool *lost = atomic_load(&g->lost);
        if (version & 1 || version != atomic_load(&g->version)) continue;
        if (address < at || address - at >= bytes) continue;

        atomic_store(lost, true); /* before anybody can see a zero */
        /* Not mmap(): sanitizers take that over, and are not made for signal handlers. */
        return syscall(SYS_mmap, at, bytes, prot,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0L) == (long)at;
    }
    return false;
}

static void on_bus_error(int number, siginfo_t *info, void *context)
{
    const int saved_errno = errno;
    /* A positive code: from the kernel, about an access; si_addr holds. */
    const bool ours =
        info->si_code > 0 && info->si_code != BUS_ADRALN && replace((uintptr_t)info->si_addr);
    errno = saved_errno;
    if (ours) return; /* the access is done again */

    if (previous.sa_flags & SA_SIGINFO && previous.sa_sigaction) {
        previous.sa_sigaction(number, info, context);
        return;
    }
    signal(number, SIG_DFL); /* and the access is done again */
    if (info->si_code <= 0) raise(number);
}

void guard_install(void)
{
    struct sigaction action = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO}, was;
    sigemptyset(&action.sa_mask);
    if (sigaction(SIGBUS, &action, &was) != 0) abort();
    if (!(was.sa_flags & SA_SIGINFO) || was.sa_sigaction != on_bus_error) previous = was;
}

struct guard *guard_add(void *at, size_t bytes, bool writable, _Atomic bool *lost)
{
    pthread_once(&installed, guard_install);
    mutex_lock(&free_lock);
    struct guard *g = free_guards;
    if (g) free_guards = g->next_free;
    mutex_unlock(&free_lock);

    const bool is_new = !g;
    if (is_new) {
        g = mem_new(struct guard);
        atomic_init(&g->version, 1);
    }
    atomic_store(&g->at, (uintptr_t)at);
    atomic_store(&g->bytes, bytes);
    atomic_store(&g->writable, writable);
    atomic_store(&g->lost, lost);
    atomic_fetch_add(&g->version, 1);
    if (is_new) {
        g->next = atomic_load(&guards);
        while (!atomic_compare_exchange_weak(&guards, &g->next, g))
            continue;
    }
    return g;
}

void guard_remove(struct guard *g)
{
    if (!g) return;
    atomic_fetch_add(&g->version, 1);
    mutex_lock(&free_lock);
    g->next_free = free_guards;
    free_guards = g;
    mutex_unlock(&free_lock);
}

/*
 * index_link.c - from pending to linked.
 *
 * First whatever has no code yet gets one, so that searches compare codes and not rows.  Then
 * windows of pending rows are linked, each in a random order: rows often come in the order of what
 * they are about, and a graph that grows cluster by cluster falls apart.
 *
 * A row that has ended is not linked.  Searches that began before its end may want it still, so it
 * stays among the pending until they have left.
 *
 * Windows are short when little is pending: rows of a window are pending until all of them are
 * linked, and searches compare them as long.
 */
#include "storage/index/index_work.h"

#include <string.h>

#include "storage/base/epoch.h"
#include "storage/base/mem.h"

enum {
    WINDOW = 4096,
    WINDOW_MIN = 256,
    MANY = 64, /* rows from which on helpers are worth their waking */
    ENCODE_MANY = 512,
    TIMED_ROWS = 256, /* the speed is learned from so many ...    */
};
#define TIMED_NS (SECOND_NS / 10) /* ... or from what is linked in so long */
#define RETRY_NS (1 * SECOND_NS)

/* Pending rows that are worked on in parallel. */
struct batch {
    const struct index_work *w;
    struct graph *graph;
    uint32_t count;
    _Atomic uint32_t next;
    uint32_t slots[WINDOW];
};

struct link_window {
    struct batch encode;
    _Atomic uint32_t aside_count; /* of rows that have no place in the graph */
    uint32_t aside[WINDOW];

    struct batch link; /* may take several turns */
    uint32_t ef;
    _Atomic bool skipped;         /* a row had ended             */
    _Atomic uint64_t skipped_lsn; /* the latest end of such a row */
    _Atomic bool failed;          /* out of memory               */
};

void link_window_free(struct link_window *window)
{
    mem_free(window);
}

static uint64_t load_tail(const struct vector_index *ix)
{
    return atomic_load_explicit(&ix->tail, memory_order_acquire);
}

bool link_is_done(const struct vector_index *ix)
{
    return load_tail(ix) == atomic_load_explicit(&ix->head, memory_order_relaxed);
}

/* Copy positions first .. end-1. */
static void copy_positions(const struct vector_index *ix, uint64_t first, uint64_t end,
                           uint32_t *slots)
{
    epoch_enter();
    const struct pending *p = atomic_load_explicit(&ix->pending, memory_order_acquire);
    for (uint64_t i = first; i < end; i++)
        slots[i - first] = p->slots[i & p->mask];
    epoch_leave();
}

/* ---- codes ---- */

/* In an epoch section. */
static void encode_slot(struct link_window *win, uint32_t number)
{
    const struct index_work *w = win->encode.w;
    struct graph *g = win->encode.graph;
    const struct slot *s;
    const float *row;
    if (!work_slot(w, number, &s)) return;
    uint32_t generation = SLOT_GET(s->generation);
    bool has_code = work_is_encoded(g, number, generation);
    /* After a crash a slot may be used again whose node is linked still. */
    if (!has_code && work_is_linked(g, number)) graph_forget(g, number);
    if (has_code || !work_row(w, number, s, &row)) return;
    if (graph_encode(g, number, row, generation)) return;
    win->aside[atomic_fetch_add_explicit(&win->aside_count, 1, memory_order_relaxed)] = number;
}

static void encode_some(void *ctx)
{
    enum { TAKE = 32 };
    struct link_window *win = ctx;
    struct batch *b = &win->encode;
    for (;;) {
        uint32_t at = atomic_fetch_add_explicit(&b->next, TAKE, memory_order_relaxed);
        if (at >= b->count || work_is_cancelled(b->w)) return;
        uint32_t end = b->count - at < TAKE ? b->count : at + TAKE;
        epoch_enter();
        for (; at < end; at++)
            encode_slot(win, b->slots[at]);
        epoch_leave();
    }
}

static bool add_aside(struct vector_index *ix, const uint32_t *slots, uint32_t count)
{
    struct slot_list *old = atomic_load_explicit(&ix->aside, memory_order_relaxed);
    uint32_t had = slot_list_count(old);
    if (count == 0) return true;
    if (old && old->cap - had >= count) {
        memcpy(old->slots + had, slots, count * sizeof *slots);
        atomic_store_explicit(&old->count, had + count, memory_order_release);
        return true;
    }
    struct slot_list *list = slot_list_extend(old, slots, count);
    if (!list) return false;
    atomic_store_explicit(&ix->aside, list, memory_order_release);
    vector_index_retire(old);
    return true;
}

static bool reserve_for(struct graph *g, const uint32_t *slots, uint32_t count)
{
    struct err err;
    uint32_t most = 0;
    for (uint32_t i = 0; i < count; i++)
        if (slots[i] > most) most = slots[i];
    return graph_reserve(g, most + 1, &err) == ERR_OK;
}

/* True: all have their codes, or are aside. */
static bool encode_pending(struct index_work *w, struct link_window *win)
{
    struct vector_index *ix = w->ix;
    struct batch *b = &win->encode;
    for (;;) {
        uint64_t first = atomic_load_explicit(&ix->encoded, memory_order_relaxed);
        uint64_t tail = load_tail(ix);
        if (first == tail) return true;
        if (work_is_over(w)) return false;
        b->count = tail - first < WINDOW ? (uint32_t)(tail - first) : WINDOW;
        copy_positions(ix, first, first + b->count, b->slots);
        atomic_store(&b->next, 0);
        atomic_store(&win->aside_count, 0);
        bool good = reserve_for(b->graph, b->slots, b->count);
        if (good) team_run(w->team, b->count < ENCODE_MANY ? 1 : TEAM_MAX, encode_some, win);
        if (work_is_cancelled(w)) return false;
        if (!good || !add_aside(ix, win->aside, atomic_load(&win->aside_count))) {
            ix->not_before_ns = clock_ns() + RETRY_NS;
            return false;
        }
        atomic_store_explicit(&ix->encoded, first + b->count, memory_order_release);
    }
}

/* ---- links ---- */

static void note_skipped(struct link_window *win, uint64_t death)
{
    atomic_store_explicit(&win->skipped, true, memory_order_relaxed);
    uint64_t seen = atomic_load_explicit(&win->skipped_lsn, memory_order_relaxed);
    while (seen < death &&
           !atomic_compare_exchange_weak_explicit(&win->skipped_lsn, &seen, death,
                                                  memory_order_relaxed, memory_order_relaxed))
        continue;
}

static void link_slot(struct link_window *win, uint32_t number)
{
    const struct index_work *w = win->link.w;
    struct graph *g = win->link.graph;
    const struct slot *s;
    epoch_enter();
    if (work_slot(w, number, &s)) {
        uint64_t death = SLOT_GET(s->death);
        /* An end that is not published yet does not count: searches that begin now want the row. */
        uint64_t visible = atomic_load_explicit(&w->db->visible_lsn, memory_order_acquire);
        struct graph_liveness alive = {work_is_alive,
                                       atomic_load_explicit(&w->ix->dead, memory_order_acquire)};
        if (death <= visible)
            note_skipped(win, death);
        else if (!work_is_linked(g, number) &&
                 work_is_encoded(g, number, SLOT_GET(s->generation)) &&
                 !graph_link(g, number, win->ef, &alive))
            atomic_store_explicit(&win->failed, true, memory_order_relaxed);
    }
    epoch_leave();
}

static void link_some(void *ctx)
{
    struct link_window *win = ctx;
    struct batch *b = &win->link;
    while (!work_is_over(b->w) && !atomic_load_explicit(&win->failed, memory_order_relaxed)) {
        uint32_t at = atomic_fetch_add_explicit(&b->next, 1, memory_order_relaxed);
        if (at >= b->count) return;
        link_slot(win, b->slots[at]);
    }
}

static void shuffle(uint32_t *slots, uint32_t count, uint64_t seed)
{
    for (uint32_t i = count; i > 1; i--) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        uint32_t k = (uint32_t)((seed >> 33) % i), swap = slots[i - 1];
        slots[i - 1] = slots[k];
        slots[k] = swap;
    }
}

/* Take half of the pending rows into the window, the next ones. */
static void fill_window(struct vector_index *ix, struct link_window *win)
{
    struct batch *b = &win->link;
    uint64_t left = atomic_load_explicit(&ix->encoded, memory_order_relaxed) - ix->linked;
    uint64_t half = left / 2 < WINDOW ? left / 2 : WINDOW;
    b->count = (uint32_t)(left < WINDOW_MIN ? left : half < WINDOW_MIN ? WINDOW_MIN : half);
    if (b->count == 0) return;
    copy_positions(ix, ix->linked, ix->linked + b->count, b->slots);
    shuffle(b->slots, b->count, ix->linked);
    atomic_store(&b->next, 0);
    atomic_store(&win->skipped, false);
    win->ef = b->graph->ef_construction;
}

/* `rows` were linked, from `begun_ns` on.  What else was done since the last call counts, too: so
 * fast rows may come in, and not faster. */
static void note_speed(struct vector_index *ix, uint32_t rows, uint64_t begun_ns)
{
    if (ix->timed_ns == 0) ix->timed_ns = begun_ns;
    ix->timed_rows += rows;
    uint64_t now = clock_ns(), took = now - ix->timed_ns;
    if (took == 0 || (ix->timed_rows < TIMED_ROWS && took < TIMED_NS)) return;
    uint64_t speed = ix->timed_rows * SECOND_NS / took;
    uint64_t before = atomic_load_explicit(&ix->rows_per_s, memory_order_relaxed);
    atomic_store_explicit(&ix->rows_per_s, (before + speed) / 2 + 1, memory_order_relaxed);
    ix->timed_rows = 0;
    ix->timed_ns = now;
}

/* There is nothing to link: the time until there is does not count. */
static void stop_timing(struct vector_index *ix)
{
    ix->timed_rows = 0;
    ix->timed_ns = 0;
}

/* What is linked is no longer pending, once nobody wants what was skipped. */
static void release(struct vector_index *ix)
{
    uint64_t head = atomic_load_explicit(&ix->head, memory_order_relaxed);
    if (ix->release_position > head) {
        if (!epoch_passed(ix->release_epoch)) return;
        head = ix->release_position;
    } else {
        head = ix->linked;
    }
    /* Pairs with vector_index_graph(). */
    atomic_store_explicit(&ix->head, head, memory_order_release);
}

static void finish_window(struct vector_index *ix, struct link_window *win)
{
    release(ix); /* what was finished before: this window may have to wait for longer */
    ix->linked += win->link.count;
    ix->inserted += win->link.count;
    ix->changes += win->link.count;
    win->link.count = 0;
    if (atomic_load(&win->skipped)) {
        uint64_t lsn = atomic_load(&win->skipped_lsn);
        if (lsn > atomic_load(&ix->forgot_lsn)) atomic_store(&ix->forgot_lsn, lsn);
        ix->release_position = ix->linked;
        ix->release_epoch = epoch_now();
    }
    release(ix);
}

/* Go on with the window.  False: no more for now. */
static bool link_window(struct index_work *w, struct link_window *win)
{
    struct batch *b = &win->link;
    uint32_t begun_at = atomic_load(&b->next);
    uint64_t begun = clock_ns();
    atomic_store(&win->failed, false);
    team_run(w->team, b->count - begun_at < MANY ? 1 : TEAM_MAX, link_some, win);
    if (work_is_cancelled(w)) return false;
    if (atomic_load(&win->failed)) {
        atomic_store(&b->next, 0); /* those that are linked are not linked again */
        w->ix->not_before_ns = clock_ns() + RETRY_NS;
        return false;
    }
    uint32_t next = atomic_load(&b->next), end = next < b->count ? next : b->count;
    note_speed(w->ix, end - begun_at, begun);
    if (end == b->count) finish_window(w->ix, win);
    work_choose_pivots(w, b->graph, false);
    return true;
}

void link_skip_to(struct vector_index *ix, uint64_t position)
{
    if (ix->window) ix->window->link.count = 0;
    ix->linked = ix->release_position = position;
    atomic_store_explicit(&ix->head, position, memory_order_release);
}

uint64_t link_pending(struct index_work *w)
{
    struct vector_index *ix = w->ix;
    if (!ix->window) ix->window = mem_new(struct link_window);
    struct link_window *win = ix->window;
    win->encode.w = win->link.w = w;
    win->encode.graph = win->link.graph = work_graph(w);
    release(ix);
    while (!work_is_over(w) && encode_pending(w, win)) {
        if (win->link.count == 0) fill_window(ix, win);
        if (win->link.count == 0 || !link_window(w, win)) break;
    }
    bool all = ix->linked == load_tail(ix);
    if (all) stop_timing(ix);
    if (link_is_done(ix)) return UINT64_MAX;
    if (ix->not_before_ns > clock_ns()) return ix->not_before_ns;
    /* Only readers that are about to leave may want what was skipped? */
    return all ? clock_ns() + SECOND_NS / 1000 : 0;
}

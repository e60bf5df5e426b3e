/*
 * index_sweep.c - keep the graph whole: links around dead nodes.
 *
 * A sweep is about the nodes that are dead at its beginning (D).
 *   1  Wait until the searches that could want one of these rows have left.
 *   2  Go over all nodes, a slice at a time, several threads at once, and replace their links into
 *      D.  Linking goes on between the slices: it does not link to dead nodes.
 *   3  The nodes of D give up their own links; entry points and the rows aside are chosen without
 *      them.
 *   4  When the searches of that time have left, and the pending rows of that time are linked, no
 *      way leads to D any more: their slots may be used again.
 */
#include "storage/index/index_work.h"

#include <string.h>

#include "storage/base/bits.h"
#include "storage/base/epoch.h"
#include "storage/base/mem.h"
#include "storage/base/metrics.h"

enum {
    DEAD_PERCENT = 5, /* of the linked nodes: more are swept at once */
    SWEEP_TAKE = 256, /* nodes that a thread takes at a time         */
};

struct sweep {
    enum { WAIT_BEFORE, SLICES, WAIT_AFTER } step;
    uint64_t *dead; /* D */
    size_t words;
    uint64_t ended;    /* how many rows had ended */
    uint64_t lsn;      /* by then                  */
    uint64_t position; /* end of the pending then  */
    uint64_t epoch;    /* its readers have to leave */
    uint64_t work_ns;
    bool thorough;

    const struct index_work *w; /* while it is worked on */
    struct graph *graph;
    _Atomic uint32_t next;
    uint32_t end;
};

void sweep_free(struct sweep *s)
{
    if (!s) return;
    mem_free(s->dead);
    mem_free(s);
}

/* ---- dead slots of the time before the graph was opened ---- */

/* A part of them; true: all are known. */
static bool count_adopted(struct index_work *w)
{
    enum { SLICE = 2048 };
    struct vector_index *ix = w->ix;
    while (ix->adopted.counting) {
        if (work_is_over(w)) return false;
        mutex_lock(&w->db->writer);
        uint64_t found = 0, reuse_lsn = atomic_load(&ix->reuse_lsn);
        for (uint32_t i = 0; i < SLICE && ix->adopted.next < ix->adopted.end; i++) {
            uint32_t slot = ix->adopted.next++;
            const struct slot *s;
            if (!work_slot(w, slot, &s)) break;
            bool linked = work_is_linked(work_graph(w), slot);
            if (s->death == SLOT_NEVER || (s->death <= reuse_lsn && !linked)) continue;
            if (linked && s->death <= reuse_lsn) reuse_lsn = s->death - 1;
            vector_index_set_dead(ix, slot, true);
            found += linked;
        }
        atomic_fetch_add_explicit(&ix->ended, found, memory_order_relaxed);
        atomic_store(&ix->reuse_lsn, reuse_lsn);
        mutex_unlock(&w->db->writer);
        if (ix->adopted.next >= ix->adopted.end) ix->adopted.counting = false;
    }
    return true;
}

/* ---- sweeps ---- */

uint64_t sweep_due(const struct index_work *w)
{
    const struct vector_index *ix = w->ix;
    const struct graph *g = work_graph(w);
    if (!g) return UINT64_MAX;
    if (ix->adopted.counting) return 0;
    uint64_t ended = atomic_load_explicit(&ix->ended, memory_order_relaxed) - ix->swept;
    if (ended == 0) return UINT64_MAX;
    uint64_t linked = atomic_load_explicit(&g->linked_count, memory_order_relaxed);
    return ended * 100 > linked * DEAD_PERCENT ? 0 : work_idle_at(w, ix->swept_ns);
}

void sweep_start(struct index_work *w)
{
    struct vector_index *ix = w->ix;
    if (!count_adopted(w)) return;
    struct sweep *s = mem_new(struct sweep);
    s->thorough = clock_ns() >= work_idle_at(w, ix->swept_ns);
    /* All that has ended is published once the lock is free. */
    mutex_lock(&w->db->writer);
    s->dead = work_live_bits(w, work_graph(w), true, &s->words);
    s->ended = atomic_load_explicit(&ix->ended, memory_order_relaxed) - ix->swept;
    s->lsn = w->db->last_lsn;
    s->position = atomic_load_explicit(&ix->tail, memory_order_relaxed);
    mutex_unlock(&w->db->writer);
    s->epoch = epoch_now();
    if (!s->dead) {
        ix->not_before_ns = clock_ns() + SECOND_NS;
        sweep_free(s);
        return;
    }
    ix->sweep = s;
}

/* Linking goes on between the turns, and the graph grows: none of what comes is dead. */
static bool cover_graph(struct sweep *s)
{
    struct graph_arena *a = atomic_load(&s->graph->arena);
    size_t words = a ? (size_t)a->capacity / 64 + 1 : 1;
    if (words <= s->words) return true;
    uint64_t *grown = mem_resize(s->dead, words * sizeof *grown);
    if (!grown) return false;
    memset(grown + s->words, 0, (words - s->words) * sizeof *grown);
    s->dead = grown;
    s->words = words;
    return true;
}

static void sweep_some(void *ctx)
{
    struct sweep *s = ctx;
    while (!work_is_over(s->w)) {
        uint32_t first = atomic_fetch_add_explicit(&s->next, SWEEP_TAKE, memory_order_relaxed);
        if (first >= s->end) return;
        uint32_t end = s->end - first < SWEEP_TAKE ? s->end : first + SWEEP_TAKE;
        graph_sweep(s->graph, s->dead, first, end, s->thorough);
    }
}

/* `list` without what is in D; false: out of memory. */
static bool drop_dead(_Atomic(struct slot_list *) *list, const uint64_t *dead, uint32_t bound)
{
    struct slot_list *old = atomic_load_explicit(list, memory_order_relaxed);
    uint32_t count = slot_list_count(old), kept = 0;
    if (count == 0) return true;
    struct slot_list *new = slot_list_extend(NULL, old->slots, count);
    if (!new) return false;
    for (uint32_t i = 0; i < count; i++) {
        new->slots[kept] = old->slots[i];
        kept += old->slots[i] >= bound || !bits_has(dead, old->slots[i]);
    }
    atomic_store_explicit(&new->count, kept, memory_order_relaxed);
    atomic_store_explicit(list, new, memory_order_release);
    vector_index_retire(old);
    return true;
}

static bool finish_slices(struct index_work *w, struct sweep *s)
{
    struct vector_index *ix = w->ix;
    if (!drop_dead(&ix->aside, s->dead, s->end) || !drop_dead(&ix->extra, s->dead, s->end))
        return false;
    for (uint32_t i = 0; i < s->end; i++)
        if (bits_has(s->dead, i) && work_is_linked(s->graph, i)) graph_forget(s->graph, i);
    work_choose_pivots(w, s->graph, true);
    if (s->lsn > atomic_load(&ix->forgot_lsn)) atomic_store(&ix->forgot_lsn, s->lsn);
    s->epoch = epoch_now();
    return true;
}

/* Slots of D may be used again.  They are not dead any more: the next sweep, under way when one of
 * them has a row again, must leave that alone. */
static void free_slots(struct index_work *w, const struct sweep *s)
{
    struct vector_index *ix = w->ix;
    mutex_lock(&w->db->writer);
    struct slot_bits *dead = atomic_load_explicit(&ix->dead, memory_order_relaxed);
    for (size_t i = 0; i < s->words && i < dead->words; i++)
        if (s->dead[i])
            atomic_fetch_and_explicit(&dead->bits[i], ~s->dead[i], memory_order_relaxed);
    atomic_store_explicit(&ix->reuse_lsn, s->lsn, memory_order_relaxed);
    mutex_unlock(&w->db->writer);
}

static void finish(struct index_work *w, struct sweep *s)
{
    struct vector_index *ix = w->ix;
    uint64_t linked = atomic_load(&s->graph->linked_count);
    free_slots(w, s);
    ix->swept += s->ended;
    ix->inserted += s->ended; /* links have changed: the next audit looks what they lost */
    ix->changes += s->ended;
    ix->swept_ns = s->work_ns;
    if (s->ended * 100 > linked * DEAD_PERCENT) ix->measure_again = true;
    stat_add(STAT_INDEX_SWEEPS, 1);
    sweep_free(s);
    ix->sweep = NULL;
}

uint64_t sweep_go_on(struct index_work *w)
{
    struct vector_index *ix = w->ix;
    struct sweep *s = ix->sweep;
    const uint64_t soon = clock_ns() + SECOND_NS / 1000;
    s->w = w;
    s->graph = work_graph(w);
    if (!cover_graph(s)) {
        ix->not_before_ns = clock_ns() + SECOND_NS;
        return ix->not_before_ns;
    }
    if (s->step == WAIT_BEFORE) {
        if (!epoch_passed(s->epoch)) return soon;
        /* Nodes that come later are linked without links into D. */
        struct graph_arena *a = atomic_load(&s->graph->arena);
        s->end = atomic_load(&s->graph->node_count);
        if (a && s->end > a->capacity) s->end = a->capacity;
        s->step = SLICES;
    }
    if (s->step == SLICES) {
        uint64_t begun = clock_ns();
        team_run(w->team, TEAM_MAX, sweep_some, s);
        bool done = atomic_load(&s->next) >= s->end && !work_is_cancelled(w);
        if (done && !finish_slices(w, s)) {
            ix->not_before_ns = clock_ns() + SECOND_NS;
            return ix->not_before_ns;
        }
        s->work_ns += clock_ns() - begun;
        if (done) s->step = WAIT_AFTER;
        return 0;
    }
    if (!epoch_passed(s->epoch) || atomic_load(&ix->head) < s->position) return soon;
    finish(w, s);
    return 0;
}

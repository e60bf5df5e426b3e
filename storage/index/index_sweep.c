/*
 * index_sweep.c - keep the graph whole: links around dead nodes, and nodes that nothing leads to.
 *
 * A SWEEP is about the nodes that are dead at its beginning (D).
 *   1  Wait until the searches that could want one of these rows have left.
 *   2  Go over all nodes, a slice at a time, several threads at once, and replace their links into
 *      D.  Linking goes on between the slices: it does not link to dead nodes.
 *   3  The nodes of D give up their own links; entry points and the rows aside are chosen without
 *      them.
 *   4  When the searches of that time have left, and the pending rows of that time are linked, no
 *      way leads to D any more: their slots may be used again.
 *
 * AN AUDIT walks from the entry points to all that can be reached.  What is not reached is linked
 * again, with more care; what then still is not becomes an entry point itself.
 */
#include "storage/index/index_work.h"

#include <inttypes.h>
#include <string.h>

#include "storage/base/epoch.h"
#include "storage/base/log.h"
#include "storage/base/mem.h"
#include "storage/base/metrics.h"

enum {
    DEAD_PERCENT = 5,          /* of the linked nodes: more are swept at once           */
    SWEEP_TAKE = 256,          /* nodes that a thread takes at a time                   */
    AUDIT_MIN = 20000,         /* nodes linked, and ...                                 */
    AUDIT_PERCENT = 25,        /* ... of all: audited though it is not idle             */
    UNREACHABLE_MAX = 1 << 18, /* that are looked at in one audit              */
    CHOSEN_MAX = 1024,         /* of them, to be linked again                  */
    ROUNDS_MAX = 4,            /* of linking again                             */
    EF_MAX = 2048,
    EXTRA_MAX = 1024, /* entry points that nothing leads to           */
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

static bool is_in(const uint64_t *bits, uint32_t i)
{
    return bits[i / 64] >> i % 64 & 1;
}

/* False: it was set. */
static bool reach(uint64_t *bits, uint32_t i)
{
    if (is_in(bits, i)) return false;
    bits[i / 64] |= UINT64_C(1) << i % 64;
    return true;
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
        kept += old->slots[i] >= bound || !is_in(dead, old->slots[i]);
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
        if (is_in(s->dead, i) && work_is_linked(s->graph, i)) graph_forget(s->graph, i);
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

/* ---- audits ---- */

uint64_t audit_due(const struct index_work *w)
{
    const struct vector_index *ix = w->ix;
    const struct graph *g = work_graph(w);
    if (!g || ix->inserted == 0) return UINT64_MAX;
    uint64_t linked = atomic_load_explicit(&g->linked_count, memory_order_relaxed);
    bool many = ix->inserted >= AUDIT_MIN && ix->inserted * 100 >= linked * AUDIT_PERCENT;
    return many ? 0 : work_idle_at(w, ix->audited_ns);
}

struct relinking {
    const struct index_work *w;
    struct graph *graph;
    const uint32_t *nodes;
    uint32_t count, ef;
    _Atomic uint32_t next;
};

static void relink_some(void *ctx)
{
    struct relinking *r = ctx;
    while (!work_is_cancelled(r->w)) {
        uint32_t at = atomic_fetch_add_explicit(&r->next, 1, memory_order_relaxed);
        if (at >= r->count) return;
        epoch_enter();
        struct graph_liveness alive = {work_is_alive,
                                       atomic_load_explicit(&r->w->ix->dead, memory_order_acquire)};
        /* Without memory it stays as it was. */
        (void)!graph_link(r->graph, r->nodes[at], r->ef, &alive);
        epoch_leave();
    }
}

/* Linked live nodes without a link of their own. */
static uint32_t find_lonely(struct graph *g, const uint64_t *live, uint32_t *nodes, uint32_t max)
{
    struct graph_arena *a = atomic_load(&g->arena);
    uint32_t end = atomic_load(&g->node_count), count = 0;
    if (atomic_load(&g->linked_count) < 2) return 0;
    for (uint32_t i = 0; a && i < end && i < a->capacity && count < max; i++) {
        uint32_t head = atomic_load_explicit(&graph_node(g, a, i)->head, memory_order_relaxed);
        if ((head & NODE_LINKED) && !(head & NODE_DEGREE) && is_in(live, i)) nodes[count++] = i;
    }
    return count;
}

/* Of `nodes`, so many as it takes to reach the others: each that was not reached yet, and the walk
 * from there.  Returns how many; `chosen` has room for `max`. */
static uint32_t representatives(struct graph *g, const uint32_t *nodes, uint32_t count,
                                uint32_t *chosen, uint32_t max)
{
    struct graph_arena *a = atomic_load(&g->arena);
    size_t words = (size_t)a->capacity / 64 + 1;
    uint64_t *seen = mem_try(words * sizeof *seen);
    uint32_t *queue = mem_try((size_t)a->capacity * sizeof *queue);
    uint32_t found = 0;
    if (seen) memset(seen, 0, words * sizeof *seen);
    for (uint32_t i = 0; i < count && found < max && seen && queue; i++) {
        uint32_t waiting = 0;
        if (!reach(seen, nodes[i])) continue;
        chosen[found++] = nodes[i];
        queue[waiting++] = nodes[i];
        while (waiting) {
            struct graph_node *n = graph_node(g, a, queue[--waiting]);
            uint32_t degree = atomic_load(&n->head) & NODE_DEGREE;
            for (uint32_t k = 0; k < degree && k < g->degree; k++) {
                uint32_t link = atomic_load(&n->links[k]);
                if (link < a->capacity && reach(seen, link)) queue[waiting++] = link;
            }
        }
    }
    mem_free(seen);
    mem_free(queue);
    return found;
}

/* Make entry points of what cannot be reached otherwise. */
static void add_extra(struct index_work *w, struct graph *g, const uint32_t *nodes, uint32_t count)
{
    struct slot_list *old = atomic_load(&w->ix->extra);
    uint32_t had = slot_list_count(old);
    if (count > EXTRA_MAX - had) count = EXTRA_MAX - had;
    struct slot_list *list = count ? slot_list_extend(old, nodes, count) : NULL;
    if (!list) return;
    atomic_store_explicit(&w->ix->extra, list, memory_order_release);
    vector_index_retire(old);
    work_choose_pivots(w, g, true);
}

struct audit {
    uint64_t *live;
    uint32_t *nodes, *chosen;
    uint32_t count, chosen_count;
};

static bool find_lost(struct graph *g, struct audit *a, bool and_lonely)
{
    struct err err;
    if (graph_unreachable(g, a->live, a->nodes, UNREACHABLE_MAX, &a->count, &err)) return false;
    a->chosen_count = representatives(g, a->nodes, a->count, a->chosen, CHOSEN_MAX);
    if (and_lonely)
        a->chosen_count +=
            find_lonely(g, a->live, a->chosen + a->chosen_count, CHOSEN_MAX - a->chosen_count);
    return a->chosen_count > 0;
}

static void relink(struct index_work *w, struct graph *g, const struct audit *a, uint32_t ef)
{
    struct relinking r = {.w = w, .graph = g, .nodes = a->chosen, .count = a->chosen_count};
    r.ef = ef < EF_MAX ? ef : EF_MAX;
    team_run(w->team, TEAM_MAX, relink_some, &r);
    stat_add(STAT_INDEX_RELINKED, a->chosen_count);
    w->ix->measure_again = true;
}

/* Does a row find itself, or one just like it?  True if it cannot be said. */
static bool finds_itself(const struct index_work *w, struct graph *g, uint32_t node)
{
    enum { EF = 64 };
    struct err err;
    struct graph_found found;
    const struct slot *s;
    const float *row, *other;
    if (!work_slot(w, node, &s) || SLOT_GET(s->death) != SLOT_NEVER || !work_row(w, node, s, &row))
        return true;
    struct graph_query q = {.vector = row, .ef = EF, .hidden = UINT32_MAX};
    if (graph_search(g, &q, &found, &err)) return true;
    for (uint32_t i = 0; i < found.count; i++)
        if (found.nodes[i] == node) return true;
    if (found.count == 0) return false;
    uint32_t nearest = found.nodes[0];
    return work_slot(w, nearest, &s) && work_row(w, nearest, s, &other) &&
           memcmp(row, other, w->ix->dimension * sizeof *row) == 0;
}

/* Where all can be reached, a walk may still not find its way: rows that come cluster by cluster
 * leave no links between clusters but the first few.  A sample tells; only a graph that is built in
 * another order is better. */
static void look_for_ruins(struct index_work *w, struct graph *g, const uint64_t *live)
{
    enum { SAMPLE = 300, LOST_MAX = 6 };
    struct vector_index *ix = w->ix;
    uint32_t nodes = atomic_load(&g->node_count), lost = 0, looked_at = 0;
    uint64_t rows = atomic_load(&w->db->live_count), random = nodes;
    if (ix->metric == METRIC_DOT_PRODUCT) return; /* longer rows than itself are nearer to a row */
    for (int i = 0; i < 2 * SAMPLE && looked_at < SAMPLE && nodes && !work_is_cancelled(w); i++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        uint32_t node = (uint32_t)((random >> 33) % nodes);
        if (!is_in(live, node) || !work_is_linked(g, node)) continue;
        epoch_enter();
        lost += !finds_itself(w, g, node);
        epoch_leave();
        looked_at++;
    }
    /* While rows come in, not for each quarter more of them. */
    bool idle = work_idle_at(w, ix->audited_ns) <= clock_ns();
    if (lost <= LOST_MAX || rows <= ix->rebuilt_rows + ix->rebuilt_rows / (idle ? 20 : 2)) return;
    log_info("database \"%s\": %" PRIu32 " of %" PRIu32
             " rows do not find themselves in its graph; it will be built anew",
             w->db->name, lost, looked_at);
    ix->fallen_apart = true;
}

void audit(struct index_work *w)
{
    struct vector_index *ix = w->ix;
    struct graph *g = work_graph(w);
    uint64_t begun = clock_ns();
    uint32_t ef = 2 * g->ef_construction;
    struct audit a = {.live = work_live_bits(w, g, false, NULL)};
    a.nodes = mem_try(UNREACHABLE_MAX * sizeof *a.nodes);
    a.chosen = mem_try(CHOSEN_MAX * sizeof *a.chosen);
    bool good = a.live && a.nodes && a.chosen;
    /* The entry points stand for rows of all times, not for those of the beginning. */
    work_choose_pivots(w, g, true);
    for (int round = 0; good && !work_is_cancelled(w); round++) {
        if (!find_lost(g, &a, round == 0)) break;
        if (round == ROUNDS_MAX) {
            add_extra(w, g, a.chosen, a.chosen_count);
            break;
        }
        relink(w, g, &a, ef);
        ef *= 2;
    }
    if (good) look_for_ruins(w, g, a.live);
    mem_free(a.live);
    mem_free(a.nodes);
    mem_free(a.chosen);
    if (!work_is_cancelled(w)) ix->inserted = 0;
    ix->audited_ns = clock_ns() - begun;
}

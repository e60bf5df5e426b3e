/*
 * index_audit.c - is every row found?  An audit looks, after rows came and went.
 *
 *   1  REACH: walk from the entry points to all that can be reached.  What is not reached is linked
 *      again, with more care; what then still is not becomes an entry point itself.
 *   2  SELVES: search for each row.  A walk may end near a row that has few ways to it without
 *      meeting it; then a node where the walk was is made to lead to it.  After few changes only
 * the rows that came since are searched for, after many all: links to old rows make room for links
 * to new ones.
 *
 * Rows that come cluster by cluster leave no links between clusters but the first few, and many of
 * them are not found.  A sample tells, and then the graph is built anew, in another order.
 */
#include "storage/index/index_work.h"

#include <inttypes.h>
#include <string.h>

#include "storage/base/bits.h"
#include "storage/base/epoch.h"
#include "storage/base/log.h"
#include "storage/base/mem.h"
#include "storage/base/metrics.h"
#include "storage/index/effort.h"

enum {
    AUDIT_MIN = 20000,         /* nodes linked, and ...                        */
    AUDIT_PERCENT = 25,        /* ... of all: audited though it is not idle    */
    UNREACHABLE_MAX = 1 << 18, /* that are looked at in one audit              */
    CHOSEN_MAX = 1024,         /* of them, to be linked again                  */
    ROUNDS_MAX = 4,            /* of linking again                             */
    EF_MAX = 2048,             /* for that                                     */
    EXTRA_MAX = 1024,          /* entry points that nothing leads to           */
    ALL_PERCENT = 10,          /* of the rows have changed: search for all     */
    SELF_TAKE = 64,            /* rows that a thread takes at a time           */
    FROM_MAX = EFFORT_MIN,     /* nodes that may come to lead to a row         */
    CHAIN_MAX = 8,             /* rows that make room for others, in turn      */
    SAMPLE = 300,              /* rows ...                                     */
    SAMPLE_EF = 64,            /* ... searched for with this effort:           */
    SAMPLE_LOST_MAX = 6,       /* if more are missed, the graph is in pieces   */
};

struct audit {
    enum { REACH, SELVES } step;
    uint64_t *live; /* a bit for each node that is not dead */

    /* REACH */
    uint32_t *nodes, *chosen;
    uint32_t count, chosen_count;

    /* SELVES: of the rows born in [first_lsn, lsn] */
    uint64_t first_lsn, lsn, changes;
    unsigned bits;       /* of the shuffled order */
    uint64_t sample_end; /* in that order */
    uint32_t node_count;
    _Atomic uint64_t next;
    _Atomic uint32_t mended, lost_count;
    uint32_t lost[CHOSEN_MAX]; /* that nothing could be made to lead to */

    const struct index_work *w; /* while it is worked on */
    struct graph *graph;
};

void audit_free(struct audit *a)
{
    if (!a) return;
    mem_free(a->live);
    mem_free(a->nodes);
    mem_free(a->chosen);
    mem_free(a);
}

uint64_t audit_due(const struct index_work *w)
{
    const struct vector_index *ix = w->ix;
    const struct graph *g = work_graph(w);
    if (!g || ix->inserted == 0) return UINT64_MAX;
    uint64_t linked = atomic_load_explicit(&g->linked_count, memory_order_relaxed);
    bool many = ix->inserted >= AUDIT_MIN && ix->inserted * 100 >= linked * AUDIT_PERCENT;
    return many ? 0 : work_idle_at(w, ix->audited_ns);
}

static bool is_idle(const struct index_work *w)
{
    return work_idle_at(w, w->ix->audited_ns) <= clock_ns();
}

/* ---- what can be reached ---- */

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
        if ((head & NODE_LINKED) && !(head & NODE_DEGREE) && bits_has(live, i)) nodes[count++] = i;
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
        if (!bits_add(seen, nodes[i])) continue;
        chosen[found++] = nodes[i];
        queue[waiting++] = nodes[i];
        while (waiting) {
            struct graph_node *n = graph_node(g, a, queue[--waiting]);
            uint32_t degree = atomic_load(&n->head) & NODE_DEGREE;
            for (uint32_t k = 0; k < degree && k < g->degree; k++) {
                uint32_t link = atomic_load(&n->links[k]);
                if (link < a->capacity && bits_add(seen, link)) queue[waiting++] = link;
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

static void look_for_unreachable(struct index_work *w, struct audit *a)
{
    uint32_t ef = 2 * a->graph->ef_construction;
    /* The entry points stand for rows of all times, not for those of the beginning.  From others a
     * walk takes other ways: then all rows are searched for. */
    if (a->first_lsn <= 1) work_choose_pivots(w, a->graph, true);
    for (int round = 0; !work_is_cancelled(w); round++) {
        if (!find_lost(a->graph, a, round == 0)) break;
        if (round == ROUNDS_MAX) {
            add_extra(w, a->graph, a->chosen, a->chosen_count);
            break;
        }
        relink(w, a->graph, a, ef);
        ef *= 2;
    }
}

/* ---- does every row find itself? ---- */

/* In an epoch section: the live, linked row of a node that was there when this audit began. */
static const float *row_in_question(const struct audit *a, uint32_t node, uint64_t *birth)
{
    const struct slot *s;
    const float *row;
    if (!work_is_linked(a->graph, node) || !work_slot(a->w, node, &s)) return NULL;
    *birth = SLOT_GET(s->birth);
    if (SLOT_GET(s->death) != SLOT_NEVER || *birth > a->lsn) return NULL;
    return work_row(a->w, node, s, &row) ? row : NULL;
}

/* Is the nearest live row that a search found as near to the row as the row itself?  It may be an
 * equal one. */
static bool is_as_near(const struct index_work *w, const float *row, uint32_t nearest)
{
    const struct slot *s;
    const float *rows[2] = {row};
    double distances[2];
    if (!work_slot(w, nearest, &s) || !work_row(w, nearest, s, &rows[1])) return true;
    struct exact e = exact_init(w->db, row);
    exact_distances(&e, rows, 2, distances);
    return distances[1] <= distances[0];
}

/* True, too, if it cannot be said.  Else the nearest nodes that the search met are in `from`. */
static bool finds_itself(const struct audit *a, uint32_t node, const float *row, uint32_t ef,
                         uint32_t *from, uint32_t *from_count)
{
    struct err err;
    struct graph_found found;
    struct graph_query q = {.vector = row, .ef = ef, .hidden = UINT32_MAX};
    *from_count = 0;
    if (graph_search(a->graph, &q, &found, &err)) return true;
    for (uint32_t i = 0; i < found.count; i++)
        if (found.nodes[i] == node) return true;
    const struct slot_bits *dead = atomic_load_explicit(&a->w->ix->dead, memory_order_acquire);
    for (uint32_t i = 0; i < found.count && *from_count < FROM_MAX; i++)
        if (!slot_bits_has(dead, found.nodes[i])) from[(*from_count)++] = found.nodes[i];
    return *from_count > 0 && is_as_near(a->w, row, from[0]);
}

/* Make a search for the row of this node meet it, if it does not.  Returns a node that lost a link
 * for that; UINT32_MAX: none. */
static uint32_t look_for_self(struct audit *a, uint32_t node, uint64_t first_lsn)
{
    uint32_t from[FROM_MAX], from_count;
    uint64_t birth;
    const float *row = row_in_question(a, node, &birth);
    if (!row || birth < first_lsn || finds_itself(a, node, row, EFFORT_MIN, from, &from_count))
        return UINT32_MAX;
    uint32_t dropped = graph_lead_to(a->graph, from, from_count, node);
    atomic_fetch_add_explicit(&a->mended, 1, memory_order_relaxed);
    if (finds_itself(a, node, row, EFFORT_MIN, from, &from_count)) return dropped;
    uint32_t at = atomic_fetch_add_explicit(&a->lost_count, 1, memory_order_relaxed);
    if (at < CHOSEN_MAX) a->lost[at] = node;
    return dropped;
}

/* And what this takes a link from. */
static void look_for_chain(struct audit *a, uint32_t node)
{
    epoch_enter();
    uint32_t next = look_for_self(a, node, a->first_lsn);
    for (int i = 0; i < CHAIN_MAX && next != UINT32_MAX; i++)
        next = look_for_self(a, next, 0);
    epoch_leave();
}

static void look_for_selves(void *ctx)
{
    struct audit *a = ctx;
    const uint64_t end = UINT64_C(1) << a->bits;
    while (!work_is_over(a->w)) {
        uint64_t at = atomic_fetch_add_explicit(&a->next, SELF_TAKE, memory_order_relaxed);
        if (at >= end) return;
        for (uint64_t i = at; i < at + SELF_TAKE && i < end; i++) {
            uint64_t node = work_shuffle(i, a->bits);
            if (node < a->node_count) look_for_chain(a, (uint32_t)node);
        }
    }
}

/* ---- has it fallen apart? ---- */

static bool has_fallen_apart(const struct audit *a, uint32_t *lost, uint32_t *looked_at)
{
    uint32_t from[FROM_MAX], from_count;
    uint64_t birth;
    *lost = *looked_at = 0;
    for (uint64_t i = 0; i < UINT64_C(1) << a->bits && *looked_at < SAMPLE; i++) {
        uint64_t node = work_shuffle(i, a->bits);
        if (node >= a->node_count || work_is_cancelled(a->w)) continue;
        epoch_enter();
        const float *row = row_in_question(a, (uint32_t)node, &birth);
        *looked_at += row != NULL;
        *lost += row && !finds_itself(a, (uint32_t)node, row, SAMPLE_EF, from, &from_count);
        epoch_leave();
    }
    return *lost > SAMPLE_LOST_MAX;
}

/* Only a graph that is built in another order is better.  Under dot product it would not be. */
static bool look_for_ruins(struct index_work *w, const struct audit *a)
{
    struct vector_index *ix = w->ix;
    uint32_t lost, looked_at;
    uint64_t rows = atomic_load(&w->db->live_count);
    if (ix->metric == METRIC_DOT_PRODUCT) return false;
    /* While rows come in, not for each quarter more of them. */
    if (rows <= ix->rebuilt_rows + ix->rebuilt_rows / (is_idle(w) ? 20 : 2)) return false;
    if (!has_fallen_apart(a, &lost, &looked_at)) return false;
    log_info("database \"%s\": %" PRIu32 " of %" PRIu32
             " rows do not find themselves in its graph; it will be built anew",
             w->db->name, lost, looked_at);
    ix->fallen_apart = true;
    return true;
}

/* ---- one audit ---- */

void audit_start(struct index_work *w)
{
    struct vector_index *ix = w->ix;
    struct graph *g = work_graph(w);
    struct audit *a = mem_new(struct audit);
    a->graph = g;
    a->live = work_live_bits(w, g, false, NULL);
    a->nodes = mem_try(UNREACHABLE_MAX * sizeof *a->nodes);
    a->chosen = mem_try(CHOSEN_MAX * sizeof *a->chosen);
    if (!a->live || !a->nodes || !a->chosen) {
        ix->not_before_ns = clock_ns() + SECOND_NS;
        audit_free(a);
        return;
    }
    uint64_t linked = atomic_load(&g->linked_count);
    a->changes = ix->changes;
    a->lsn = atomic_load_explicit(&w->db->visible_lsn, memory_order_acquire);
    a->first_lsn = a->changes * 100 >= linked * ALL_PERCENT ? 0 : ix->found_lsn + 1;
    a->node_count = atomic_load(&g->node_count);
    a->bits = work_shuffle_bits(a->node_count);
    ix->audit = a;
}

static void finish(struct index_work *w, struct audit *a)
{
    struct vector_index *ix = w->ix;
    uint32_t lost = atomic_load(&a->lost_count);
    if (lost) add_extra(w, a->graph, a->lost, lost < CHOSEN_MAX ? lost : CHOSEN_MAX);
    stat_add(STAT_INDEX_RELINKED, atomic_load(&a->mended));
    if (a->first_lsn <= 1) ix->changes -= a->changes;
    ix->found_lsn = lost ? 0 : a->lsn;
    audit_free(a);
    ix->audit = NULL;
}

/* Entry points, links, and whether that is enough. */
static void look_at_whole(struct index_work *w, struct audit *a)
{
    struct vector_index *ix = w->ix;
    uint64_t begun = clock_ns();
    look_for_unreachable(w, a);
    bool is_ruined = look_for_ruins(w, a), has_time = is_idle(w);
    if (work_is_cancelled(w)) return;
    ix->audited_ns = clock_ns() - begun;
    a->step = SELVES;
    /* While rows come quickly, searching for each of them has to wait: one audit is still due. */
    ix->inserted = has_time ? 0 : 1;
    if (!is_ruined && has_time) return;
    audit_free(a);
    ix->audit = NULL;
}

uint64_t audit_go_on(struct index_work *w)
{
    struct audit *a = w->ix->audit;
    a->w = w;
    a->graph = work_graph(w);
    if (a->step == REACH) {
        look_at_whole(w, a);
        return 0;
    }
    uint64_t begun = clock_ns();
    team_run(w->team, TEAM_MAX, look_for_selves, a);
    w->ix->audited_ns += clock_ns() - begun;
    if (atomic_load(&a->next) >= UINT64_C(1) << a->bits && !work_is_cancelled(w)) finish(w, a);
    return 0;
}

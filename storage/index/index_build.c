/*
 * index_build.c - build a graph from the rows that are there.
 *
 * Where there is no graph: from the moment S on the writer notes what it puts (vector_index.c); the
 * rows of before S are coded and linked, and then searches see the graph, with all that came
 * meanwhile as pending rows.
 *
 * Rows are linked in a random order, in rounds: each takes in half as many as the graph has by
 * then.  Within a round rows that lie near each other come one after the other, for then most of
 * what they are compared with is in the caches already (a sixth less time at 500,000 rows).  What a
 * row is linked to is the same, as two thirds of the rows were there before the round.
 *
 * Where a graph serves already, its rows have doubled since their codes were chosen (in idle time:
 * have become a quarter more), or an audit has found that it fell apart (rows came cluster by
 * cluster).  If other codes would be better, or the order was bad, a new graph is built aside: pass
 * after pass takes in the rows that were put during the last one, until they are few.  During the
 * last pass nothing more is linked into the old graph, so that everything before a known position
 * of the pending is in the new one.
 */
#include "storage/index/index_work.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "storage/base/epoch.h"
#include "storage/base/log.h"
#include "storage/base/mem.h"
#include "storage/base/metrics.h"
#include "storage/index/index_codec.h"

enum {
    GRAPH_ROWS_MIN = 256,  /* INDEX_GRAPH                                           */
    AUTO_ROWS_MIN = 10000, /* INDEX_AUTO ...                                        */
    AUTO_SCAN_US = 100,    /* ... and a scan takes at least so long                 */
    FEW = 2000,            /* rows of the last pass, about                          */
    PASSES_MAX = 20,
    TAKE = 64,           /* slots that a thread takes at a time                   */
    EARLY = 512,         /* rows of the first rounds                              */
    ROUND_PART = 2,      /* rows linked before for each one of a round            */
    ROUND_MAX = 1 << 20, /* rows of a round: bounds its memory                    */
    SORTED_FROM = 8192,  /* rows linked: from then on rounds are sorted           */
    STRIPES = TEAM_MAX,  /* parts of a round, far from each other                 */
};
#define RETRY_NS (60 * SECOND_NS)

enum step { STEP_CODEC, STEP_ENCODE, STEP_GATHER, STEP_LINK };

/* A part of a round.  Threads are in different ones: rows that are linked at the same time do not
 * see each other. */
struct stripe {
    _Atomic uint32_t next;
    uint32_t end;
};

struct build {
    enum step step;
    struct graph *graph; /* nobody else's */
    struct codec_choice *choice;
    uint64_t begun_ns;

    /* This pass: rows born after `after_lsn`, up to `lsn`, in slots below `slot_count`; every row
     * before `position` of the pending is not younger. */
    uint64_t after_lsn, lsn, position;
    uint32_t slot_count;
    unsigned bits; /* of the shuffled order */
    int passes;
    bool is_last;
    bool anyway; /* whatever codes are best */

    const struct index_work *w; /* while it is worked on */
    _Atomic uint64_t next;
    _Atomic bool failed;

    /* A round: of the shuffled order, from round_first to round_end. */
    uint64_t round_first, round_end;
    uint64_t *rows; /* graph_place() << 32 | slot */
    uint32_t rows_cap;
    _Atomic uint32_t row_count;
    struct stripe stripes[STRIPES];
    _Atomic uint32_t threads; /* that work on it */

    struct mutex aside_mu; /* LOCK_LEAF */
    uint32_t *aside;
    size_t aside_count, aside_cap;
};

void build_free(struct build *b)
{
    if (!b) return;
    graph_free(b->graph);
    codec_choice_free(b->choice);
    mutex_deinit(&b->aside_mu);
    mem_free(b->aside);
    mem_free(b->rows);
    mem_free(b);
}

bool build_is_closing(const struct build *b)
{
    return b && b->is_last;
}

/* ---- when ---- */

/* What an exact search takes, about. */
static uint64_t scan_us(uint64_t rows, uint32_t dimension)
{
    return rows * (8 + dimension / 10) / 1000;
}

/* Other rows may want other codes: looked at when there are twice as many as last time, in idle
 * time when there are a quarter more. */
static bool is_time_for_a_test(const struct index_work *w, uint64_t rows)
{
    uint64_t tested = w->ix->tested_rows;
    if (tested == 0 || rows < tested + tested / 4) return false;
    return rows >= 2 * tested || work_idle_at(w, 0) <= clock_ns();
}

bool build_is_due(const struct index_work *w)
{
    const struct vector_index *ix = w->ix;
    uint64_t rows = atomic_load_explicit(&w->db->live_count, memory_order_relaxed);
    if (ix->not_before_ns > clock_ns() || ix->options.kind == INDEX_FLAT) return false;
    if (work_graph(w)) return ix->fallen_apart || is_time_for_a_test(w, rows);
    if (ix->options.kind == INDEX_GRAPH) return rows >= GRAPH_ROWS_MIN;
    return rows >= AUTO_ROWS_MIN && scan_us(rows, ix->dimension) >= AUTO_SCAN_US;
}

/* ---- begin and end ---- */

/* The rows of this moment, from those of the last pass on. */
static void begin_pass(struct index_work *w, struct build *b)
{
    struct vector_index *ix = w->ix;
    mutex_lock(&w->db->writer);
    b->after_lsn = b->lsn;
    b->lsn = w->db->last_lsn;
    b->slot_count = w->store->counts.slot_count;
    b->position = atomic_load_explicit(&ix->tail, memory_order_relaxed);
    if (!ix->tracking) {
        ix->tracking = true;
        atomic_store_explicit(&ix->reuse_lsn, b->lsn, memory_order_relaxed);
        ix->swept = atomic_load_explicit(&ix->ended, memory_order_relaxed);
        if (!vector_index_reserve_dead(ix, b->slot_count)) vector_index_lose(ix);
    }
    mutex_unlock(&w->db->writer);
    b->bits = work_shuffle_bits(b->slot_count);
    b->passes++;
    atomic_store(&b->next, 0);
}

void build_start(struct index_work *w)
{
    struct vector_index *ix = w->ix;
    struct build *b = mem_new(struct build);
    mutex_init(&b->aside_mu, LOCK_LEAF);
    b->begun_ns = clock_ns();
    b->anyway = ix->fallen_apart;
    if (b->anyway || !work_graph(w)) ix->rebuilt_rows = atomic_load(&w->db->live_count);
    ix->fallen_apart = false;
    begin_pass(w, b);
    b->choice = codec_choice_new(w, b->slot_count, b->lsn);
    if (!b->choice) atomic_store(&b->failed, true);
    ix->build = b;
    atomic_store(&ix->progress_ppm, 0);
    atomic_store(&ix->eta_ms, 0);
    if (!work_graph(w)) atomic_store(&ix->building, true);
}

void index_reset(struct index_work *w)
{
    struct vector_index *ix = w->ix;
    mutex_lock(&w->db->writer);
    ix->tracking = false;
    struct graph *g = atomic_exchange(&ix->graph, NULL);
    uint64_t tail = atomic_load(&ix->tail);
    atomic_store(&ix->encoded, tail);
    link_skip_to(ix, tail);
    struct slot_bits *dead = atomic_exchange(&ix->dead, NULL);
    struct slot_list *aside = atomic_exchange(&ix->aside, NULL);
    struct slot_list *extra = atomic_exchange(&ix->extra, NULL);
    ix->swept = atomic_load(&ix->ended);
    atomic_store(&ix->lost, false);
    mutex_unlock(&w->db->writer);

    vector_index_retire(dead);
    vector_index_retire(aside);
    vector_index_retire(extra);
    if (g) vector_index_retire_graph(g);
    build_free(ix->build);
    sweep_free(ix->sweep);
    audit_free(ix->audit);
    measurement_free(ix->measurement);
    ix->build = NULL;
    ix->sweep = NULL;
    ix->audit = NULL;
    ix->measurement = NULL;
    ix->inserted = ix->changes = ix->tested_rows = 0;
    ix->adopted.replaying = ix->adopted.counting = false;
    atomic_store(&ix->building, false);
}

static void give_up(struct index_work *w)
{
    struct vector_index *ix = w->ix;
    ix->not_before_ns = clock_ns() + RETRY_NS;
    if (!work_is_cancelled(w))
        log_warning("database \"%s\": out of memory for a search index; its searches are exact",
                    w->db->name);
    if (!work_graph(w)) {
        index_reset(w);
        return;
    }
    build_free(ix->build);
    ix->build = NULL;
}

/* ---- codes ---- */

static void add_aside(struct build *b, uint32_t slot)
{
    mutex_lock(&b->aside_mu);
    if (b->aside_count == b->aside_cap) {
        size_t cap = b->aside_cap ? 2 * b->aside_cap : 64;
        uint32_t *grown = mem_resize(b->aside, cap * sizeof *grown);
        if (grown) {
            b->aside = grown;
            b->aside_cap = cap;
        }
    }
    if (b->aside_count < b->aside_cap)
        b->aside[b->aside_count++] = slot;
    else
        atomic_store(&b->failed, true);
    mutex_unlock(&b->aside_mu);
}

/* In an epoch section: is the row of this slot one of this pass? */
static bool is_ours(const struct build *b, const struct slot *s)
{
    uint64_t death = SLOT_GET(s->death), birth = SLOT_GET(s->birth);
    return death == SLOT_NEVER && birth > b->after_lsn && birth <= b->lsn;
}

static void encode_some(void *ctx)
{
    struct build *b = ctx;
    while (!work_is_over(b->w)) {
        uint64_t at = atomic_fetch_add_explicit(&b->next, TAKE, memory_order_relaxed);
        if (at >= b->slot_count) return;
        epoch_enter();
        for (uint64_t i = at; i < at + TAKE && i < b->slot_count; i++) {
            uint32_t slot = (uint32_t)i;
            const struct slot *s;
            const float *row;
            if (!work_slot(b->w, slot, &s)) break;
            if (!is_ours(b, s)) continue;
            if (!work_row(b->w, slot, s, &row)) break;
            if (!graph_encode(b->graph, slot, row, SLOT_GET(s->generation))) add_aside(b, slot);
        }
        epoch_leave();
    }
}

/* ---- rounds ---- */

static uint64_t positions(const struct build *b)
{
    return UINT64_C(1) << b->bits;
}

/* False: out of memory. */
static bool begin_round(struct build *b, uint64_t first)
{
    uint64_t size = atomic_load(&b->graph->linked_count) / ROUND_PART;
    if (size < EARLY) size = EARLY;
    if (size > ROUND_MAX) size = ROUND_MAX;
    if (size > positions(b) - first) size = positions(b) - first;
    b->round_first = first;
    b->round_end = first + size;
    b->step = STEP_GATHER;
    atomic_store(&b->next, first);
    atomic_store(&b->row_count, 0);
    if (b->rows_cap >= size) return true;
    uint64_t *rows = mem_resize(b->rows, size * sizeof *rows);
    if (!rows) return false;
    b->rows = rows;
    b->rows_cap = (uint32_t)size;
    return true;
}

/* In an epoch section: is it coded, and not linked yet? */
static bool is_to_be_linked(const struct build *b, uint32_t slot)
{
    const struct slot *s;
    return work_slot(b->w, slot, &s) && is_ours(b, s) &&
           work_is_encoded(b->graph, slot, SLOT_GET(s->generation)) &&
           !work_is_linked(b->graph, slot);
}

static bool is_sorted(const struct build *b)
{
    return atomic_load_explicit(&b->graph->linked_count, memory_order_relaxed) >= SORTED_FROM;
}

static void gather_some(void *ctx)
{
    struct build *b = ctx;
    const bool by_place = is_sorted(b);
    while (!work_is_over(b->w)) {
        uint64_t at = atomic_fetch_add_explicit(&b->next, TAKE, memory_order_relaxed);
        if (at >= b->round_end) return;
        epoch_enter();
        for (uint64_t i = at; i < at + TAKE && i < b->round_end; i++) {
            uint64_t slot = work_shuffle(i, b->bits);
            if (slot >= b->slot_count || !is_to_be_linked(b, (uint32_t)slot)) continue;
            uint64_t place = by_place ? graph_place(b->graph, (uint32_t)slot) : 0;
            b->rows[atomic_fetch_add_explicit(&b->row_count, 1, memory_order_relaxed)] =
                place << 32 | slot;
        }
        epoch_leave();
    }
}

static int by_key(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void finish_gathering(struct build *b)
{
    uint32_t count = atomic_load(&b->row_count);
    if (is_sorted(b)) qsort(b->rows, count, sizeof *b->rows, by_key);
    for (uint32_t i = 0; i < STRIPES; i++) {
        atomic_store(&b->stripes[i].next, (uint32_t)((uint64_t)count * i / STRIPES));
        b->stripes[i].end = (uint32_t)((uint64_t)count * (i + 1) / STRIPES);
    }
    b->step = STEP_LINK;
}

/* Rows of the round that are left. */
static uint64_t rows_left(const struct build *b)
{
    uint64_t left = 0;
    for (uint32_t i = 0; i < STRIPES; i++) {
        uint32_t next = atomic_load(&b->stripes[i].next), end = b->stripes[i].end;
        left += next < end ? end - next : 0;
    }
    return left;
}

/* ---- links ---- */

static void link_one(struct build *b, uint32_t slot)
{
    epoch_enter();
    struct graph_liveness alive = {work_is_alive,
                                   atomic_load_explicit(&b->w->ix->dead, memory_order_acquire)};
    if (is_to_be_linked(b, slot) && !graph_link(b->graph, slot, 0, &alive))
        atomic_store(&b->failed, true);
    epoch_leave();
}

static void link_stripe(struct build *b, struct stripe *stripe)
{
    while (!work_is_over(b->w) && !atomic_load_explicit(&b->failed, memory_order_relaxed)) {
        if (atomic_load_explicit(&stripe->next, memory_order_relaxed) >= stripe->end) return;
        uint32_t at = atomic_fetch_add_explicit(&stripe->next, 1, memory_order_relaxed);
        if (at < stripe->end) link_one(b, (uint32_t)b->rows[at]);
    }
}

static void link_some(void *ctx)
{
    struct build *b = ctx;
    uint32_t team = (uint32_t)team_size(b->w->team);
    uint32_t thread = atomic_fetch_add_explicit(&b->threads, 1, memory_order_relaxed);
    uint32_t first = thread % team * STRIPES / team;
    for (uint32_t i = 0; i < STRIPES; i++)
        link_stripe(b, &b->stripes[(first + i) % STRIPES]);
}

/* ---- steps ---- */

/* A graph with the codes that were chosen; false: none is needed. */
static bool codec_is_chosen(struct index_work *w, struct build *b)
{
    struct vector_index *ix = w->ix;
    const struct graph *old = work_graph(w);
    ix->tested_rows = atomic_load_explicit(&w->db->live_count, memory_order_relaxed);
    if (ix->tested_rows == 0) ix->tested_rows = 1;
    if (old && !b->anyway && !codec_choice_differs(b->choice, old)) return false;
    struct err err;
    struct graph_options options = {.m = ix->options.m,
                                    .ef_construction = ix->options.ef_construction};
    codec_choice_result(b->choice, &options);
    if (graph_new(ix->metric, ix->dimension, &options, &b->graph, &err)) {
        b->graph = NULL;
        atomic_store(&b->failed, true);
    }
    codec_choice_free(b->choice);
    b->choice = NULL;
    return true;
}

static bool reserve(struct build *b)
{
    struct err err;
    return graph_reserve(b->graph, b->slot_count ? b->slot_count : 1, &err) == ERR_OK;
}

/* True: every row of this pass is linked. */
static bool link_turn(struct index_work *w, struct build *b)
{
    while (!work_is_over(w) && !atomic_load(&b->failed)) {
        if (b->step == STEP_GATHER) {
            team_run(w->team, TEAM_MAX, gather_some, b);
            if (atomic_load(&b->next) < b->round_end) continue;
            finish_gathering(b);
        }
        /* The first rows have nothing to be linked to but each other. */
        bool early = atomic_load(&b->graph->linked_count) < EARLY;
        atomic_store(&b->threads, 0);
        team_run(w->team, early ? 1 : TEAM_MAX, link_some, b);
        if (rows_left(b) > 0) continue;
        work_choose_pivots(w, b->graph, false);
        if (b->round_end == positions(b)) return !atomic_load(&b->failed);
        if (!begin_round(b, b->round_end)) atomic_store(&b->failed, true);
    }
    return false;
}

static void note_progress(struct index_work *w, struct build *b)
{
    uint64_t at = b->step == STEP_LINK ? b->round_end - rows_left(b) : b->round_first;
    double done = (double)at / (double)positions(b);
    uint64_t ms = (clock_ns() - b->begun_ns) / 1000000;
    atomic_store(&w->ix->progress_ppm, (uint32_t)(done * 999999));
    if (done > 0.01) atomic_store(&w->ix->eta_ms, (uint64_t)((double)ms * (1 - done) / done) + 1);
}

/* Searches use the graph from now on. */
static void publish(struct index_work *w, struct build *b)
{
    struct vector_index *ix = w->ix;
    struct graph *old = work_graph(w), *g = b->graph;
    struct slot_list *aside = slot_list_extend(NULL, b->aside, b->aside_count);
    if (!aside) {
        atomic_store(&b->failed, true);
        return;
    }
    b->graph = NULL;
    work_choose_pivots(w, g, true);
    vector_index_set_pending_max(ix, g);

    mutex_lock(&w->db->writer);
    /* Rows that have ended by now may be missing; older snapshots could see them. */
    atomic_store_explicit(&ix->from_lsn, w->db->last_lsn, memory_order_release);
    atomic_store(&ix->forgot_lsn, w->db->last_lsn);
    aside = atomic_exchange(&ix->aside, aside);
    struct slot_list *extra = atomic_exchange(&ix->extra, NULL);
    atomic_store_explicit(&ix->encoded, b->position, memory_order_release);
    atomic_store_explicit(&ix->graph, g, memory_order_release);
    link_skip_to(ix, b->position); /* after the graph: see vector_index_graph() */
    mutex_unlock(&w->db->writer);

    vector_index_retire(aside);
    vector_index_retire(extra);
    if (old) vector_index_retire_graph(old);
    audit_free(ix->audit);
    ix->audit = NULL;
    ix->inserted = ix->changes = atomic_load(&g->linked_count);
    ix->measure_again = true;
    atomic_store(&ix->building, false);
    stat_add(STAT_INDEX_BUILDS, 1);
    log_info("database \"%s\": a graph over %" PRIu32 " rows (%s) in %.1f s", w->db->name,
             atomic_load(&g->linked_count), codec_name(g->codec.kind),
             (double)(clock_ns() - b->begun_ns) / 1e9);
}

/* True: there is nothing more to do. */
static bool pass_is_done(struct index_work *w, struct build *b)
{
    if (!work_graph(w) || b->is_last) {
        publish(w, b);
        return !atomic_load(&b->failed);
    }
    uint64_t came = atomic_load(&w->ix->tail) - b->position;
    b->is_last = came <= FEW || b->passes >= PASSES_MAX;
    begin_pass(w, b);
    b->step = STEP_ENCODE;
    if (!reserve(b)) atomic_store(&b->failed, true);
    return false;
}

uint64_t build_go_on(struct index_work *w)
{
    struct vector_index *ix = w->ix;
    struct build *b = ix->build;
    bool done = false;
    b->w = w;
    if (b->step == STEP_CODEC && !atomic_load(&b->failed)) {
        bool made = codec_choice_go_on(w, b->choice);
        if (codec_choice_failed(b->choice)) atomic_store(&b->failed, true);
        if (made && !codec_is_chosen(w, b)) done = true;
        if (made && !done) {
            b->step = STEP_ENCODE;
            if (!atomic_load(&b->failed) && !reserve(b)) atomic_store(&b->failed, true);
        }
    }
    if (b->step == STEP_ENCODE && !done && !atomic_load(&b->failed)) {
        team_run(w->team, TEAM_MAX, encode_some, b);
        if (atomic_load(&b->next) >= b->slot_count && !work_is_cancelled(w) && !begin_round(b, 0))
            atomic_store(&b->failed, true);
    }
    if (b->step >= STEP_GATHER && !done && !atomic_load(&b->failed)) {
        bool all = link_turn(w, b);
        note_progress(w, b);
        if (all && !work_is_cancelled(w)) done = pass_is_done(w, b);
    }
    if (atomic_load(&b->failed)) {
        give_up(w);
    } else if (done) {
        build_free(b);
        ix->build = NULL;
    }
    return 0;
}

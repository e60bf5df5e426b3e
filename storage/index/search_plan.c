/*
 * search_plan.c - how to search: which of the ways is the cheapest that finds enough.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "storage/index/search_private.h"

enum {
    EXACT_TIMES = 2,            /* that many times what is rescored: compared at once  */
    INLINE_ELEMENTS = 450000,   /* numbers of rows that take about 200 us              */
    ROW_ELEMENTS = 64,          /* so many more is a row, however short it is          */
    INLINE_CODE_NS = 150 * 1000 /* of codes                                            */
};

static const double RECALL_DEFAULT = 0.95, RECALL_FILTERED = 0.99;

/* Distances on codes that a walk takes, about, and what they cost. */
static double walk_distances(const struct search *s, double ef)
{
    const struct graph_pivots *pivots =
        atomic_load_explicit(&s->graph->pivots, memory_order_acquire);
    return 12 * ef + 150 + (pivots ? pivots->count / 4.0 : 0);
}

static double code_ns(const struct search *s)
{
    return 4 + s->graph->codec.code_bytes / 24.0;
}

enum { WALK_TIMES = 3 }; /* a distance on a walk costs so many of a scan */

void search_plan_says(struct search *s, const char *what)
{
    if (s->report) snprintf(s->report->plan, sizeof s->report->plan, "%s", what);
}

void search_plan_adds(struct search *s, const char *what)
{
    size_t said = strlen(s->report->plan);
    snprintf(s->report->plan + said, sizeof s->report->plan - said, "%s", what);
}

/* Candidates of a walk: what was asked for, or what the recall takes. */
static uint32_t choose_ef(struct search *s, double recall_min)
{
    double expected = 0, recall = s->query->recall > 0 ? s->query->recall : RECALL_DEFAULT;
    if (recall < recall_min) recall = recall_min;
    uint64_t ef = s->query->ef;
    if (!ef) ef = vector_index_effort(s->r->store->vectors, recall, s->wanted, &expected);
    if (s->report) s->report->expected_recall = expected;
    /* Dead rows are still in the way until a sweep. */
    uint64_t linked = atomic_load_explicit(&s->graph->linked_count, memory_order_relaxed);
    uint64_t live = s->r->live_count ? s->r->live_count : 1;
    if (linked > live) ef = ef * (linked < 4 * live ? linked : 4 * live) / live;
    if (ef < s->wanted + 1) ef = s->wanted + 1;
    return ef < SEARCH_EF_MAX ? (uint32_t)ef : SEARCH_EF_MAX;
}

/* Walk through rows that do not match, or compare the codes of all that do? */
static void plan_filtered(struct search *s)
{
    uint64_t rows = s->r->live_count ? s->r->live_count : 1;
    double selectivity = (double)s->allowed / (double)rows;
    /* Their codes would spare too few of them. */
    if (s->allowed <=
        EXACT_TIMES * search_rescore_most(s->graph, s->wanted, s->query->oversampling)) {
        s->plan = PLAN_EXACT;
        search_plan_says(s, "few rows match: each is compared");
        return;
    }
    s->explore = choose_ef(s, RECALL_FILTERED);
    double ef = s->explore * sqrt(selectivity);
    if (ef < 2.0 * (double)s->wanted) ef = 2.0 * (double)s->wanted;
    if (s->query->ef > ef) ef = s->query->ef;
    s->ef = ef < SEARCH_EF_MAX ? (uint32_t)ef + 1 : SEARCH_EF_MAX;
    double met = ef / selectivity; /* on the way, if matching rows are as frequent there */
    s->frontier = 2 * met < SEARCH_EF_MAX ? (uint32_t)(2 * met) : SEARCH_EF_MAX;
    if (walk_distances(s, met) * WALK_TIMES < (double)s->allowed) {
        s->plan = PLAN_WALK_FILTERED;
        search_plan_says(s, "many rows match: a walk over the graph, past those that do not");
    } else {
        s->plan = PLAN_CODES;
        search_plan_says(s, "comparing the codes of all rows that match is cheaper than a walk");
    }
}

bool search_is_long_scan(const struct search *s, uint64_t rows)
{
    return rows * (s->r->db->schema.dimension + ROW_ELEMENTS) > INLINE_ELEMENTS;
}

bool search_is_long_scan_of_codes(const struct search *s, uint64_t codes)
{
    return (double)codes * code_ns(s) > INLINE_CODE_NS;
}

enum err_code search_make_plan(struct search *s, struct err *err)
{
    const struct search_query *q = s->query;
    uint64_t rows = search_rows(s);
    s->plan = PLAN_EXACT;
    if (!s->graph)
        search_plan_says(s, "no graph: every row is compared");
    else if (q->exact || q->recall >= 1)
        search_plan_says(s, "exact was asked for: every row is compared");
    else if (s->wanted >= SEARCH_EF_MAX || s->wanted * 8 > rows)
        search_plan_says(s, "a large part of the rows is wanted: every row is compared");
    else if (q->filter)
        plan_filtered(s);
    else {
        s->plan = PLAN_WALK;
        s->ef = choose_ef(s, 0);
        search_plan_says(s, "a walk over the graph");
    }
    if (s->may_block) return ERR_OK;

    double ns = 0;
    if (s->plan == PLAN_EXACT) {
        uint64_t looked_at = q->filter ? rows : s->r->slot_count;
        if (search_is_long_scan(s, looked_at))
            return err_set(err, ERR_WOULD_COMPUTE, "a long scan");
    } else {
        if (s->plan == PLAN_CODES)
            ns = (double)rows * code_ns(s);
        else
            ns = walk_distances(s, s->ef) * WALK_TIMES * code_ns(s);
        ns += (double)(s->rest.tail - s->rest.head) * code_ns(s);
    }
    if (ns > INLINE_CODE_NS) return err_set(err, ERR_WOULD_COMPUTE, "a long search");
    return ERR_OK;
}

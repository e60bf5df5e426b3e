/*
 * search.c - one search: plan, find candidates, compare them as rows, read the best.
 *
 *   1  FILTER   which rows match, as bits (storage/filter)
 *   2  PLAN     exact if there is no graph, if few rows match, or if it is asked for; else scan the
 *               codes of the rows that match, or walk the graph, whichever is cheaper
 *               (search_plan.c)
 *   3  FIND     candidates by codes, of rows that the graph does not hold yet, too; and those that
 *               have no code
 *   4  RESCORE  the candidates as rows, until no better one is likely to come (search_rescore.c)
 *   5  READ     the rows that are answered
 *
 * Whatever the plan: if fewer rows come out than were asked for, and more would match, it is done
 * again with more candidates, and at last exactly.
 */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "storage/base/bits.h"
#include "storage/base/clock.h"
#include "storage/base/mem.h"
#include "storage/base/metrics.h"
#include "storage/filter/filter.h"
#include "storage/index/search_private.h"

enum {
    RESULTS_MAX = 20000,
    PENDING_FEW = 32, /* so few pending rows are compared as rows */
};

/* ---- finding ---- */

static void note_walk(struct search *s, const struct graph_found *found)
{
    if (!s->report) return;
    s->report->visited += found->visited;
    s->report->code_distances += found->distances_computed;
}

static enum err_code keep_found(struct search *s, const struct graph_found *found, struct err *err)
{
    if (s->cap < found->count) {
        uint32_t *slots = mem_resize(s->slots, found->count * sizeof *slots);
        if (slots) s->slots = slots;
        float *distances = mem_resize(s->distances, found->count * sizeof *distances);
        if (distances) s->distances = distances;
        if (!slots || !distances)
            return err_set(err, ERR_NOMEM, "out of memory for %u candidates", found->count);
        s->cap = found->count;
    }
    s->count = found->count;
    if (found->count) {
        memcpy(s->slots, found->nodes, found->count * sizeof *s->slots);
        memcpy(s->distances, found->distances, found->count * sizeof *s->distances);
    }
    note_walk(s, found);
    return ERR_OK;
}

static enum err_code rescore(struct search *s, size_t most, struct err *err)
{
    struct code_candidates c = {s->slots, s->distances, s->count};
    uint64_t compared = 0;
    if (s->query->no_rescore) most = s->wanted;
    enum err_code rc = search_rescore(s->r, s->graph, &s->exact, s->query->exclude, &c, most,
                                      &s->nearest, &compared, err);
    if (s->report) s->report->row_distances += compared;
    return rc;
}

/* Have the rows that match as bits. */
static enum err_code need_bits(struct search *s, struct err *err)
{
    if (s->bits || !s->query->filter) return ERR_OK;
    s->bits = s->rows.bits;
    if (s->bits) return ERR_OK;
    s->own_bits = mem_try((filter_words(s->r) + 1) * sizeof *s->own_bits);
    if (!s->own_bits) return err_set(err, ERR_NOMEM, "out of memory for a filter");
    filter_rows_to_bits(&s->rows, s->r, s->own_bits);
    s->bits = s->own_bits;
    return ERR_OK;
}

static bool matches(const struct search *s, uint32_t slot)
{
    return slot < s->r->slot_count && (!s->bits || bits_has(s->bits, slot));
}

/* A pending row that has ended, before this snapshot.  Of a row that is replaced again and again
 * there may be more than there are candidates. */
static bool is_over(const struct search *s, uint32_t number)
{
    if (!vector_index_has_ended(&s->rest, number)) return false;
    const struct slot *slot = jvdb_file_read(&s->r->store->file, REGION_SLOTS, number);
    return slot && !slot_is_visible(slot, s->r->lsn, s->r->now_ms);
}

/* What the graph does not hold and what matches: pending rows that have codes, to be compared by
 * them if they are many; and the others. */
static enum err_code gather_rest(struct search *s, struct err *err)
{
    const struct vector_index_rest *rest = &s->rest;
    size_t room = (size_t)(rest->tail - rest->head) + rest->aside_count;
    if (room == 0) return ERR_OK;
    enum err_code rc = need_bits(s, err);
    if (rc) return rc;
    s->loose = mem_try(room * sizeof *s->loose);
    if (!s->loose) return err_set(err, ERR_NOMEM, "out of memory for %zu rows", room);
    uint64_t i = rest->head;
    size_t count = 0;
    for (; rest->encoded - rest->head > PENDING_FEW && i < rest->encoded; i++) {
        uint32_t slot = rest->slots[i & rest->mask];
        s->loose[count] = slot;
        count += matches(s, slot) && !is_over(s, slot);
    }
    s->loose_coded = count;
    for (; i < rest->tail; i++) {
        s->loose[count] = rest->slots[i & rest->mask];
        count += matches(s, s->loose[count]);
    }
    for (uint32_t k = 0; k < rest->aside_count; k++) {
        s->loose[count] = rest->aside[k];
        count += matches(s, rest->aside[k]);
    }
    s->loose_count = count;
    vector_index_compared_pending(s->r->store->vectors, rest->tail - rest->head);
    if (s->report) s->report->unlinked = room;
    return ERR_OK;
}

/* Those without codes, one by one. */
static enum err_code find_in_rest(struct search *s, struct err *err)
{
    size_t count = s->loose_count - s->loose_coded;
    if (count == 0) return ERR_OK;
    uint64_t begun = s->report ? clock_ns() : 0;
    enum err_code rc = flat_scan_list(s->r, &s->exact, s->query->exclude, s->loose + s->loose_coded,
                                      count, true, &s->nearest, err);
    if (s->report) {
        s->report->row_distances += count;
        s->report->unlinked_ns += clock_ns() - begun;
    }
    return rc;
}

/* `bits` of the rows that are neither pending nor aside. */
static enum err_code make_coded(struct search *s, struct err *err)
{
    if (s->coded) return ERR_OK;
    enum err_code rc = need_bits(s, err);
    if (rc) return rc;
    size_t words = filter_words(s->r);
    s->coded = mem_try((words + 1) * sizeof *s->coded);
    if (!s->coded) return err_set(err, ERR_NOMEM, "out of memory for a filter");
    memcpy(s->coded, s->bits, words * sizeof *s->coded);
    for (uint64_t i = s->rest.head; i < s->rest.tail; i++) {
        uint32_t slot = s->rest.slots[i & s->rest.mask];
        if (slot < s->r->slot_count) s->coded[slot / 64] &= ~((uint64_t)1 << slot % 64);
    }
    for (uint32_t i = 0; i < s->rest.aside_count; i++) {
        uint32_t slot = s->rest.aside[i];
        if (slot < s->r->slot_count) s->coded[slot / 64] &= ~((uint64_t)1 << slot % 64);
    }
    return ERR_OK;
}

/* A list of rows that match, all of which the graph holds. */
static bool is_all_linked_list(const struct search *s)
{
    return s->rows.slots && s->rest.head == s->rest.tail && s->rest.aside_count == 0;
}

/* How many of the list are among the first `nodes`. */
static uint32_t listed_nodes(const struct search *s, uint32_t nodes)
{
    uint64_t count = s->rows.count;
    while (count && s->rows.slots[count - 1] >= nodes)
        count--;
    return (uint32_t)count;
}

static enum err_code find_by_codes(struct search *s, struct err *err)
{
    struct graph_found found;
    size_t most = search_rescore_most(s->graph, s->wanted, s->query->oversampling);
    uint32_t nodes = atomic_load_explicit(&s->graph->node_count, memory_order_acquire);
    struct graph_query gq = {
        .vector = s->query->vector,
        .ef = s->ef,
        .hidden = UINT32_MAX,
        .allowed_nodes = s->r->slot_count < nodes ? s->r->slot_count : nodes,
        .loose = s->loose,
        .loose_count = (uint32_t)s->loose_coded,
    };
    enum err_code rc = ERR_OK;
    bool is_list = s->plan == PLAN_CODES && is_all_linked_list(s);
    uint64_t begun = s->report ? clock_ns() : 0;
    if (s->plan != PLAN_WALK && !is_list) {
        rc = make_coded(s, err);
        if (rc) return rc;
        gq.allowed = s->coded;
    }
    if (s->plan == PLAN_WALK_FILTERED) {
        gq.distances_max = s->allowed;
        gq.frontier = s->frontier;
        gq.explore = s->explore;
        rc = graph_search(s->graph, &gq, &found, err);
        if (!rc && (found.gave_up || found.lost_sight || found.count < s->wanted)) {
            s->plan = PLAN_CODES;
            note_walk(s, &found);
            search_plan_says(
                s, "a walk found too few rows that match: the codes of all were compared");
            if (!s->may_block && search_is_long_scan_of_codes(s, s->allowed))
                rc = err_set(err, ERR_WOULD_COMPUTE, "a long scan of codes");
        }
    } else if (s->plan == PLAN_WALK) {
        rc = graph_search(s->graph, &gq, &found, err);
    }
    if (!rc && s->plan == PLAN_CODES) {
        /* Rows that are dead or excluded may be among them. */
        gq.ef = most + 64 < SEARCH_EF_MAX ? (uint32_t)most + 64 : SEARCH_EF_MAX;
        uint32_t count = is_list ? listed_nodes(s, gq.allowed_nodes) : 0;
        rc = graph_scan(s->graph, &gq, is_list ? s->rows.slots : NULL, count, &found, err);
    }
    if (!rc) rc = keep_found(s, &found, err);
    uint64_t walked = s->report ? clock_ns() : 0;
    if (!rc) rc = rescore(s, most, err);
    if (s->report) {
        s->report->graph_ns += walked - begun;
        s->report->rescore_ns += clock_ns() - walked;
    }
    return rc;
}

static enum err_code find_exactly(struct search *s, struct err *err)
{
    uint64_t begun = s->report ? clock_ns() : 0;
    const struct vector_id *exclude = s->query->exclude;
    enum err_code rc = s->rows.slots
                           ? flat_scan_list(s->r, &s->exact, exclude, s->rows.slots, s->rows.count,
                                            false, &s->nearest, err)
                           : flat_scan(s->r, &s->exact, exclude, s->rows.bits, &s->nearest, err);
    if (s->report) {
        s->report->row_distances += search_rows(s);
        s->report->rescore_ns += clock_ns() - begun;
    }
    return rc;
}

/* Results that there must be. */
static uint64_t due(const struct search *s)
{
    uint64_t rows = search_rows(s);
    if (rows > 0 && s->query->exclude) rows--;
    return rows < s->wanted ? rows : s->wanted;
}

static enum err_code find(struct search *s, struct err *err)
{
    enum err_code rc = s->plan == PLAN_EXACT ? ERR_OK : gather_rest(s, err);
    for (int attempt = 0; s->plan != PLAN_EXACT && !rc; attempt++) {
        s->nearest.count = 0;
        rc = find_by_codes(s, err);
        if (!rc) rc = find_in_rest(s, err);
        if (rc || s->nearest.count >= due(s)) return rc;
        /* Rows that expired are counted, but not found; rows that died are found, but not seen. */
        if (attempt == 0 && s->plan == PLAN_WALK && s->ef < SEARCH_EF_MAX / 8) {
            s->ef *= 8;
            continue;
        }
        s->plan = PLAN_EXACT;
        search_plan_says(s, "too few rows came out of the index: every row was compared");
        if (!s->may_block && search_is_long_scan(s, s->r->slot_count))
            return err_set(err, ERR_WOULD_COMPUTE, "a long scan");
    }
    s->nearest.count = 0;
    return rc ? rc : find_exactly(s, err);
}

/* ---- the answer ---- */

static enum err_code read_hits(struct search *s, struct search_hit *hits, size_t *count,
                               struct err *err)
{
    const struct search_query *q = s->query;
    uint64_t begun = s->report ? clock_ns() : 0;
    for (size_t i = q->offset; i < s->nearest.count; i++) {
        const struct candidate *c = &s->nearest.heap[i];
        struct search_hit *hit = &hits[*count];
        if (q->has_max_distance && c->distance > q->max_distance) break; /* so is the rest */
        enum err_code rc = slot_row(s->r, c->slot_number, c->slot, &hit->row, err);
        if (rc) return rc;
        hit->distance = c->distance;
        hit->score = exact_score(&s->exact, c->distance, c->cosine);
        if (q->has_min_score && hit->score < q->min_score) break;
        ++*count;
    }
    if (s->report) s->report->read_ns += clock_ns() - begun;
    return ERR_OK;
}

static enum err_code select_rows(struct search *s, struct err *err)
{
    s->allowed = UINT64_MAX;
    if (!s->query->filter) return ERR_OK;
    uint64_t begun = s->report ? clock_ns() : 0;
    enum err_code rc = filter_find_rows(s->r, s->query->filter, s->may_block, &s->rows, err);
    s->allowed = s->rows.count;
    if (s->report) {
        s->report->allowed = s->allowed;
        s->report->filter_ns = clock_ns() - begun;
    }
    return rc;
}

static enum search_strategy strategy_of(enum plan plan)
{
    switch (plan) {
    case PLAN_EXACT:
        return SEARCH_EXACT;
    case PLAN_WALK:
        return SEARCH_GRAPH;
    default:
        return SEARCH_FILTERED_GRAPH;
    }
}

/* One in some live searches is done again exactly, later. */
static void sample(struct search *s)
{
    enum { SAMPLED_MAX = 100 };
    uint32_t slots[SAMPLED_MAX];
    if (s->plan != PLAN_WALK || s->query->exclude || s->wanted > SAMPLED_MAX) return;
    for (size_t i = 0; i < s->nearest.count; i++)
        slots[i] = s->nearest.heap[i].slot_number;
    vector_index_sample(s->r->store->vectors, s->query->vector, s->wanted, s->r->lsn, slots,
                        s->nearest.count);
}

static enum err_code check_query(const struct search *s, struct err *err)
{
    const struct search_query *q = s->query;
    if (q->top_k < 1 || q->top_k > RESULTS_MAX || q->offset > RESULTS_MAX - q->top_k)
        return err_set(err, ERR_INVALID_REQUEST, "top_k + offset must be 1 to %d", RESULTS_MAX);
    uint32_t dimension = s->r->db->schema.dimension;
    /* Squares of float32 cannot overflow a float64: the sum is finite if they all are. */
    if (isfinite(s->r->db->kernels->dot(q->vector, q->vector, dimension))) return ERR_OK;
    for (uint32_t i = 0; i < dimension; i++)
        if (!isfinite(q->vector[i]))
            return err_set(err, ERR_INVALID_VECTOR, "number %" PRIu32 " of the query is not finite",
                           i + 1);
    return ERR_OK;
}

static enum err_code run(struct search *s, struct search_hit *hits, size_t *count, struct err *err)
{
    enum err_code rc = database_check_readable(s->r->db, err);
    if (!rc) rc = check_query(s, err);
    if (rc) return rc;
    s->wanted = s->query->top_k + s->query->offset;
    s->exact = exact_init(s->r->db, s->query->vector);
    s->graph = vector_index_graph(s->r->store->vectors, s->r->lsn, &s->rest);
    rc = select_rows(s, err);
    if (!rc) rc = search_make_plan(s, err);
    if (!rc) rc = nearest_init(&s->nearest, s->r, s->wanted, err);
    if (!rc) rc = find(s, err);
    if (rc) return rc;
    nearest_sort(&s->nearest);
    sample(s);
    rc = read_hits(s, hits, count, err);
    if (s->report) {
        s->report->strategy = strategy_of(s->plan);
        s->report->ef = s->plan == PLAN_EXACT ? 0 : s->ef;
        s->report->allowed = s->allowed;
        if (s->plan == PLAN_EXACT) s->report->expected_recall = 1;
        if (s->rows.from_cache) search_plan_adds(s, "; which rows match was known");
    }
    stat_add(STAT_SEARCHES, 1);
    return rc;
}

enum err_code reader_search(struct reader *r, const struct search_query *query, bool may_block,
                            struct search_hit *hits, size_t *count, struct search_report *report,
                            struct err *err)
{
    struct search s = {.r = r, .query = query, .report = report, .may_block = may_block};
    *count = 0;
    if (report) *report = (struct search_report){.allowed = UINT64_MAX};
    enum err_code rc = run(&s, hits, count, err);
    if (rc) *count = 0;
    nearest_deinit(&s.nearest);
    filter_rows_deinit(&s.rows);
    mem_free(s.own_bits);
    mem_free(s.coded);
    mem_free(s.loose);
    mem_free(s.slots);
    mem_free(s.distances);
    return reader_check(r, rc, err);
}

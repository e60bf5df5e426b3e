/*
 * search_rescore.c - candidates compared as rows, in float64, until no better one is likely to
 * come.
 *
 * Codes err about normally: how much is learned on the way, from the rows compared so far.
 */
#include <math.h>

#include "storage/index/search_private.h"

enum {
    RESCORE_MIN = 64,  /* rows to be compared at most, whatever k is       */
    LEARNED_FROM = 10, /* rows that tell how much codes err                */
    BATCH = 8,         /* rows that are compared at a time                 */
};

/* The error of codes: what they say less what rows say, over the rows compared so far. */
struct code_error {
    double count, mean, squares; /* Welford's sums */
};

static void note_error(struct code_error *e, double error)
{
    double step = error - e->mean;
    e->count += 1;
    e->mean += step / e->count;
    e->squares += step * (error - e->mean);
}

/* A distance of the metric on the scale of navigation distances, but for a constant. */
static double on_code_scale(const struct graph *g, double distance)
{
    double gain = g->codec.gain;
    switch (g->codec.metric) {
    case METRIC_COSINE:
        return 2 * distance;
    case METRIC_EUCLIDEAN:
        return distance * distance * gain * gain;
    case METRIC_DOT_PRODUCT:
        return distance * gain * gain;
    default:
        return distance * gain;
    }
}

/* Is everything from here on too far away, as sure as may be?  Errors are about normal. */
static bool is_hopeless(const struct graph *g, const struct code_error *e, double worst,
                        float code_distance)
{
    const double sigmas = 4;
    if (isinf(worst) || e->count < LEARNED_FROM) return false;
    double deviation = sqrt(e->squares / e->count);
    return code_distance - e->mean - sigmas * deviation > on_code_scale(g, worst);
}

static void fetch_ahead(struct reader *r, uint32_t slot_number)
{
    if (slot_number >= r->slot_count) return;
    const char *slot = jvdb_file_read(&r->store->file, REGION_SLOTS, slot_number);
    const char *row = jvdb_file_read(&r->store->file, REGION_VECTORS, slot_number);
    if (slot) __builtin_prefetch(slot);
    uint64_t bytes = r->store->row_bytes < 2048 ? r->store->row_bytes : 2048;
    for (uint64_t at = 0; row && at < bytes; at += 64) {
        __builtin_prefetch(row + at);
        __asm__ volatile("" : : : "memory"); /* gcc 12 would keep the first one only */
    }
}

/* Rows to be compared before any can be left out, when `done` have been. */
static size_t rows_needed(const struct nearest *nearest, size_t done)
{
    size_t missing = nearest->limit - nearest->count;
    size_t unlearned = done < LEARNED_FROM ? LEARNED_FROM - done : 0;
    return missing > unlearned ? missing : unlearned;
}

static bool is_id(struct reader *r, const struct slot *s, const struct vector_id *id)
{
    char copy[ID_BYTES_MAX];
    struct vector_id own = slot_id(r, s, copy);
    return vector_id_compare(&own, id) == 0;
}

enum err_code search_rescore(struct reader *r, const struct graph *g, const struct exact *e,
                             const struct vector_id *exclude, const struct code_candidates *c,
                             size_t most, struct nearest *nearest, uint64_t *compared,
                             struct err *err)
{
    struct code_error error = {0};
    size_t done = 0, fetched = 0;
    if (most == 0 || most > c->count) most = c->count;
    for (size_t at = 0; at < c->count && done < most;) {
        /* Rows that must be compared come first, and no others with them: a row that is not needed
         * costs as much as those that are. */
        size_t needed = rows_needed(nearest, done);
        size_t room = needed > 0 && needed < BATCH ? needed : BATCH;
        size_t ahead = needed > 0 && needed < 2 * BATCH ? needed : 2 * BATCH;
        if (room > most - done) room = most - done;
        for (; fetched < c->count && fetched < at + ahead; fetched++) {
            if (is_hopeless(g, &error, nearest_worst(nearest), c->distances[fetched])) break;
            fetch_ahead(r, c->slots[fetched]);
        }
        struct candidate batch[BATCH];
        const float *rows[BATCH];
        float codes[BATCH];
        double distances[BATCH], cosines[BATCH] = {0};
        size_t n = 0;
        for (; at < c->count && n < room; at++) {
            uint32_t number = c->slots[at];
            if (number >= r->slot_count) continue;
            const struct slot *s = jvdb_file_read(&r->store->file, REGION_SLOTS, number);
            if (!s) return database_damaged(r->db, "a slot", err);
            if (!slot_is_visible(s, r->lsn, r->now_ms) || (exclude && is_id(r, s, exclude)))
                continue;
            if (is_hopeless(g, &error, nearest_worst(nearest), c->distances[at])) {
                at = c->count;
                break;
            }
            const float *row = slot_vector(r, number, s);
            if (!row) return database_damaged(r->db, "a vector", err);
            batch[n] = (struct candidate){.slot_number = number, .slot = s};
            codes[n] = c->distances[at];
            rows[n++] = row;
        }
        exact_compare(e, rows, n, distances, cosines);
        for (size_t i = 0; i < n; i++) {
            batch[i].distance = distances[i];
            batch[i].cosine = cosines[i];
            note_error(&error, codes[i] - on_code_scale(g, distances[i]));
            nearest_offer_once(nearest, &batch[i]);
        }
        done += n;
    }
    *compared += done;
    return ERR_OK;
}

/* One bit a number tells little: what few rows miss, no number of candidates brings back. */
size_t search_rescore_most(const struct graph *g, size_t k, double oversampling)
{
    size_t times = g->codec.kind == CODEC_BINARY ? 8 : 1;
    if (oversampling > 0) return (size_t)((double)k * oversampling) + 1;
    return times * (3 * k < RESCORE_MIN ? RESCORE_MIN : 3 * k);
}

enum err_code search_graph_only(struct reader *r, struct graph *g, const float *query, uint32_t ef,
                                size_t k, uint32_t hidden, uint32_t *slots, double *distances,
                                size_t *count, uint64_t *distances_computed, struct err *err)
{
    struct exact e = exact_init(r->db, query);
    struct nearest nearest;
    struct graph_found found;
    uint64_t compared = 0;
    struct graph_query gq = {.vector = query, .ef = ef, .hidden = hidden};
    *count = 0;
    enum err_code rc = graph_search(g, &gq, &found, err);
    if (rc) return rc;
    rc = nearest_init(&nearest, r, k, err);
    if (rc) return rc;
    struct code_candidates c = {found.nodes, found.distances, found.count};
    rc = search_rescore(r, g, &e, NULL, &c, search_rescore_most(g, k, 0), &nearest, &compared, err);
    if (!rc) nearest_sort(&nearest);
    for (size_t i = 0; i < nearest.count && !rc; i++) {
        slots[i] = nearest.heap[i].slot_number;
        distances[i] = nearest.heap[i].distance;
    }
    *count = rc ? 0 : nearest.count;
    if (distances_computed) *distances_computed = found.distances_computed;
    nearest_deinit(&nearest);
    return rc;
}

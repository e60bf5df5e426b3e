/*
 * flat.c - exact search: every visible row of the snapshot, nearest first.
 *
 * Distances come out of the kernels in float64 with a fixed order of summation, so the result is
 * the same on every machine, and equal distances are equal: ties are broken by id.
 */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "storage/base/mem.h"
#include "storage/base/metrics.h"
#include "storage/database_private.h"
#include "storage/records.h"

/* Elements that may be looked at on a thread that must not wait: about 200 us of work. */
enum { INLINE_ELEMENTS_MAX = 400 * 1000, RESULTS_MAX = 20000 };

struct candidate {
    double distance;
    uint32_t slot_number;
    const struct slot *slot;
};

/* The best so far, the worst of them on top: a binary heap. */
struct nearest {
    struct reader *reader;
    struct candidate *heap;
    size_t count;
    size_t limit;
};

static struct vector_id slot_id(struct reader *r, const struct slot *s, char copy[ID_BYTES_MAX])
{
    if (!s->text_bytes) return (struct vector_id){.number = s->key};
    const char *text = records_text(&r->store->file, s->record_at, s->text_bytes, copy);
    /* A damaged text is reported when the row itself is read. */
    return (struct vector_id){.text = text ? text : "", .text_bytes = text ? s->text_bytes : 0};
}

static bool is_nearer(struct reader *r, const struct candidate *a, const struct candidate *b)
{
    if (a->distance != b->distance) return a->distance < b->distance;
    char copy_a[ID_BYTES_MAX], copy_b[ID_BYTES_MAX];
    struct vector_id id_a = slot_id(r, a->slot, copy_a), id_b = slot_id(r, b->slot, copy_b);
    return vector_id_compare(&id_a, &id_b) < 0;
}

static void sift_down(struct nearest *n, size_t i)
{
    for (;;) {
        size_t worst = i, left = 2 * i + 1, right = left + 1;
        if (left < n->count && is_nearer(n->reader, &n->heap[worst], &n->heap[left])) worst = left;
        if (right < n->count && is_nearer(n->reader, &n->heap[worst], &n->heap[right]))
            worst = right;
        if (worst == i) return;
        struct candidate swap = n->heap[i];
        n->heap[i] = n->heap[worst];
        n->heap[worst] = swap;
        i = worst;
    }
}

static void offer(struct nearest *n, const struct candidate *c)
{
    if (n->count == n->limit) {
        if (c->distance > n->heap[0].distance || !is_nearer(n->reader, c, &n->heap[0])) return;
        n->heap[0] = *c;
        sift_down(n, 0);
        return;
    }
    size_t i = n->count++;
    n->heap[i] = *c;
    while (i > 0 && is_nearer(n->reader, &n->heap[(i - 1) / 2], &n->heap[i])) {
        struct candidate swap = n->heap[i];
        n->heap[i] = n->heap[(i - 1) / 2];
        n->heap[(i - 1) / 2] = swap;
        i = (i - 1) / 2;
    }
}

static void sort_nearest_first(struct nearest *n)
{
    size_t count = n->count;
    while (n->count > 1) {
        struct candidate worst = n->heap[0];
        n->heap[0] = n->heap[--n->count];
        sift_down(n, 0);
        n->heap[n->count] = worst;
    }
    n->count = count;
}

struct distance {
    const struct kernel_set *kernels;
    enum metric metric;
    const float *query;
    size_t dimension;
    double query_norm;
};

/* A zero vector has no direction: its cosine with everything is taken as 0. */
static double cosine(const struct distance *d, const float *row)
{
    double row_norm2, dot = d->kernels->dot_norm(d->query, row, d->dimension, &row_norm2);
    if (d->query_norm == 0 || row_norm2 == 0) return 0;
    double c = dot / (d->query_norm * sqrt(row_norm2));
    return c > 1 ? 1 : c < -1 ? -1 : c;
}

static double distance_to(const struct distance *d, const float *row)
{
    switch (d->metric) {
    case METRIC_COSINE:
        return 1 - cosine(d, row);
    case METRIC_EUCLIDEAN:
        return sqrt(d->kernels->l2sq(d->query, row, d->dimension));
    case METRIC_DOT_PRODUCT:
        return 0 - d->kernels->dot(d->query, row, d->dimension);
    default:
        return d->kernels->l1(d->query, row, d->dimension);
    }
}

static double score_of(const struct distance *d, const float *row, double distance)
{
    switch (d->metric) {
    case METRIC_COSINE:
        return cosine(d, row);
    case METRIC_DOT_PRODUCT:
        return d->kernels->dot(d->query, row, d->dimension);
    default:
        return 1 / (1 + distance);
    }
}

static bool is_excluded(struct reader *r, const struct vector_id *exclude, const struct slot *s)
{
    if (!exclude) return false;
    char copy[ID_BYTES_MAX];
    struct vector_id id = slot_id(r, s, copy);
    return vector_id_compare(&id, exclude) == 0;
}

static enum err_code scan(struct reader *r, const struct distance *d,
                          const struct vector_id *exclude, struct nearest *nearest, struct err *err)
{
    struct database *db = r->db;
    const uint32_t slots_per_block = BLOCK_BYTES / sizeof(struct slot);
    for (uint32_t first = 0; first < r->slot_count; first += slots_per_block) {
        const struct slot *slots = jvdb_file_read(&r->store->file, REGION_SLOTS, first);
        if (!slots) return database_damaged(db, "a slot", err);
        uint32_t end =
            r->slot_count - first < slots_per_block ? r->slot_count - first : slots_per_block;
        for (uint32_t i = 0; i < end; i++) {
            const struct slot *s = &slots[i];
            if (!slot_is_visible(s, r->lsn, r->now_ms) || is_excluded(r, exclude, s)) continue;
            const float *row = slot_vector(r, first + i, s);
            if (!row) return database_damaged(db, "a vector", err);
            struct candidate c = {distance_to(d, row), first + i, s};
            offer(nearest, &c);
        }
    }
    return ERR_OK;
}

enum err_code reader_search(struct reader *r, const struct search_query *q, bool may_block,
                            struct search_hit *hits, size_t *count, struct search_report *report,
                            struct err *err)
{
    struct database *db = r->db;
    *count = 0;
    if (report)
        *report = (struct search_report){
            .strategy = SEARCH_EXACT, .allowed = UINT64_MAX, .expected_recall = 1};
    enum err_code rc = database_check_readable(db, err);
    if (rc) return rc;
    if (q->top_k < 1 || q->top_k > RESULTS_MAX || q->offset > RESULTS_MAX - q->top_k)
        return err_set(err, ERR_INVALID_REQUEST, "top_k + offset must be 1 to %d", RESULTS_MAX);
    for (uint32_t i = 0; i < db->schema.dimension; i++)
        if (!isfinite(q->vector[i]))
            return err_set(err, ERR_INVALID_VECTOR, "number %" PRIu32 " of the query is not finite",
                           i + 1);
    if (!may_block && (uint64_t)r->slot_count * db->schema.dimension > INLINE_ELEMENTS_MAX)
        return err_set(err, ERR_WOULD_COMPUTE, "a long scan");

    struct distance d = {.kernels = db->kernels,
                         .metric = db->schema.metric,
                         .query = q->vector,
                         .dimension = db->schema.dimension};
    if (d.metric == METRIC_COSINE)
        d.query_norm = sqrt(d.kernels->dot(d.query, d.query, d.dimension));

    struct nearest nearest = {.reader = r, .limit = q->top_k + q->offset};
    size_t room = nearest.limit < r->slot_count ? nearest.limit : r->slot_count;
    nearest.heap = mem_try((room + 1) * sizeof *nearest.heap);
    if (!nearest.heap)
        return err_set(err, ERR_NOMEM, "out of memory for %zu results", nearest.limit);
    rc = scan(r, &d, q->exclude, &nearest, err);
    if (!rc) sort_nearest_first(&nearest);
    for (size_t i = q->offset; i < nearest.count && !rc; i++) {
        const struct candidate *c = &nearest.heap[i];
        struct search_hit *hit = &hits[*count];
        if (q->has_max_distance && c->distance > q->max_distance) break; /* so is the rest */
        rc = slot_row(r, c->slot_number, c->slot, &hit->row, err);
        if (rc) break;
        hit->distance = c->distance;
        hit->score = score_of(&d, hit->row.vector, c->distance);
        if (q->has_min_score && hit->score < q->min_score) break;
        ++*count;
    }
    mem_free(nearest.heap);
    stat_add(STAT_SEARCHES, 1);
    return reader_check(r, rc, err);
}

#include "storage/index/nearest.h"

#include <math.h>
#include <string.h>

#include "storage/base/mem.h"
#include "storage/records.h"

/* ---- distances ---- */

struct exact exact_init(const struct database *db, const float *query)
{
    struct exact e = {.kernels = db->kernels,
                      .metric = db->schema.metric,
                      .query = query,
                      .dimension = db->schema.dimension};
    if (e.metric == METRIC_COSINE) e.query_norm = sqrt(e.kernels->dot(query, query, e.dimension));
    return e;
}

/* A zero vector has no direction: its cosine with everything is taken as 0. */
static double cosine(const struct exact *e, double dot, double row_norm2)
{
    if (e->query_norm == 0 || row_norm2 == 0) return 0;
    double c = dot / (e->query_norm * sqrt(row_norm2));
    return c > 1 ? 1 : c < -1 ? -1 : c;
}

void exact_distances(const struct exact *e, const float *const *rows, size_t count, double *out)
{
    double cosines[EXACT_ROWS_MAX];
    exact_compare(e, rows, count, out, cosines);
}

void exact_compare(const struct exact *e, const float *const *rows, size_t count, double *out,
                   double *cosines)
{
    double norm2[EXACT_ROWS_MAX];
    switch (e->metric) {
    case METRIC_COSINE:
        e->kernels->dot_norm_rows(e->query, rows, count, e->dimension, cosines, norm2);
        for (size_t i = 0; i < count; i++) {
            cosines[i] = cosine(e, cosines[i], norm2[i]);
            out[i] = 1 - cosines[i];
        }
        return;
    case METRIC_EUCLIDEAN:
        e->kernels->l2sq_rows(e->query, rows, count, e->dimension, out);
        for (size_t i = 0; i < count; i++)
            out[i] = sqrt(out[i]);
        return;
    case METRIC_DOT_PRODUCT:
        e->kernels->dot_rows(e->query, rows, count, e->dimension, out);
        for (size_t i = 0; i < count; i++)
            out[i] = 0 - out[i];
        return;
    default:
        e->kernels->l1_rows(e->query, rows, count, e->dimension, out);
    }
}

double exact_score(const struct exact *e, double distance, double cosine)
{
    switch (e->metric) {
    case METRIC_COSINE:
        return cosine;
    case METRIC_DOT_PRODUCT:
        return 0 - distance;
    default:
        return 1 / (1 + distance);
    }
}

/* ---- the nearest ---- */

struct vector_id slot_id(struct reader *r, const struct slot *s, char copy[ID_BYTES_MAX])
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

enum err_code nearest_init(struct nearest *n, struct reader *r, size_t limit, struct err *err)
{
    *n = (struct nearest){.reader = r, .limit = limit};
    size_t room = limit < r->slot_count ? limit : r->slot_count;
    n->heap = mem_try((room + 1) * sizeof *n->heap);
    if (n->heap) return ERR_OK;
    return err_set(err, ERR_NOMEM, "out of memory for %zu results", limit);
}

void nearest_deinit(struct nearest *n)
{
    mem_free(n->heap);
    mem_free(n->table);
}

static void exchange(struct nearest *n, size_t i, size_t k)
{
    struct candidate c = n->heap[i];
    n->heap[i] = n->heap[k];
    n->heap[k] = c;
}

static void sift_down(struct nearest *n, size_t i)
{
    for (;;) {
        size_t worst = i, left = 2 * i + 1, right = left + 1;
        if (left < n->count && is_nearer(n->reader, &n->heap[worst], &n->heap[left])) worst = left;
        if (right < n->count && is_nearer(n->reader, &n->heap[worst], &n->heap[right]))
            worst = right;
        if (worst == i) return;
        exchange(n, i, worst);
        i = worst;
    }
}

void nearest_offer(struct nearest *n, const struct candidate *c)
{
    if (n->count == n->limit) {
        if (c->distance > n->heap[0].distance || !is_nearer(n->reader, c, &n->heap[0])) return;
        n->heap[0] = *c;
        sift_down(n, 0);
        return;
    }
    size_t i = n->count++;
    n->heap[i] = *c;
    for (; i > 0 && is_nearer(n->reader, &n->heap[(i - 1) / 2], &n->heap[i]); i = (i - 1) / 2)
        exchange(n, i, (i - 1) / 2);
}

/* ---- which rows are in the heap: a hash table of their slots, by linear probing ---- */

static size_t table_room(const struct nearest *n)
{
    return n->table ? (size_t)1 << n->table_bits : 0;
}

/* False: it is in there. */
static bool table_add(struct nearest *n, uint32_t slot)
{
    size_t i = (slot * 2654435769u) >> (32 - n->table_bits); /* Fibonacci hashing */
    for (; n->table[i]; i = (i + 1) & (table_room(n) - 1))
        if (n->table[i] == slot + 1) return false;
    n->table[i] = slot + 1;
    n->table_count++;
    return true;
}

static void drop_table(struct nearest *n)
{
    mem_free(n->table);
    n->table = NULL;
    n->table_count = 0;
}

/* Of the heap as it is, a quarter full at most.  Without memory there is none. */
static void make_table(struct nearest *n)
{
    enum { BITS_MIN = 8 };
    drop_table(n);
    n->table_bits = BITS_MIN;
    while ((size_t)1 << n->table_bits < 4 * (n->count + 1))
        n->table_bits++;
    n->table = mem_try(sizeof *n->table << n->table_bits);
    if (n->table) memset(n->table, 0, sizeof *n->table << n->table_bits);
    for (size_t i = 0; i < n->count && n->table; i++)
        table_add(n, n->heap[i].slot_number);
}

static bool is_new(struct nearest *n, uint32_t slot)
{
    enum { FEW = 32 }; /* are looked through */
    if (n->count == 0) drop_table(n);
    /* The table keeps what has left the heap, which would leave it again, until it is made anew. */
    if (n->count > FEW && 2 * n->table_count >= table_room(n)) make_table(n);
    if (n->table) return table_add(n, slot);
    for (size_t i = 0; i < n->count; i++)
        if (n->heap[i].slot_number == slot) return false;
    return true;
}

void nearest_offer_once(struct nearest *n, const struct candidate *c)
{
    if (n->count == n->limit && c->distance > n->heap[0].distance) return;
    if (is_new(n, c->slot_number)) nearest_offer(n, c);
}

void nearest_sort(struct nearest *n)
{
    size_t count = n->count;
    while (n->count > 1) {
        exchange(n, 0, --n->count);
        sift_down(n, 0);
    }
    n->count = count;
}

double nearest_worst(const struct nearest *n)
{
    return n->count == n->limit ? n->heap[0].distance : INFINITY;
}

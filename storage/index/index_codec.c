#include "storage/index/index_codec.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "storage/base/epoch.h"
#include "storage/base/mem.h"

enum {
    MEAN_ROWS = 20000,
    MEDIAN_ROWS = 1000,
    QUERIES = 50,
    TEST_ROWS = 200000,
    TEST_BYTES = 256 << 20, /* of rows: enough of them, however long they are */
    NEAREST = 10,
    CANDIDATES = 30,
    NEAREST_FEW = 3, /* so that clusters of some 20 rows are seen to be mixed up */
    CANDIDATES_FEW = 10,
    CHUNK = 64,      /* neighbouring slots that are compared at a time */
    FEW_NUMBERS = 16 /* of a row: float32 is as small as anything else */
};
#define GOOD_ENOUGH     0.98
#define GOOD_ENOUGH_FEW 0.95
/* Rows that are so much longer than the others have no say: squares of theirs would drown the rest.
 */
#define OUTLIER 1000.0
/* In units of the rows' distances from their mean. */
#define MEAN_MOVED   0.25
#define GAIN_CHANGED 4.0

/* The nearest of what one thread has seen, nearest first. */
struct closest {
    uint32_t count, candidates;
    double distance[NEAREST];
    float code_distance[CANDIDATES];
    double candidate[CANDIDATES]; /* exact distance of each */
};

struct part {
    struct closest of[QUERIES];
};

enum step { STEP_MEAN, STEP_TEST, STEP_MADE };

struct codec_choice {
    enum step step;
    _Atomic bool failed;
    enum codec_kind kind;
    bool is_tested; /* the kind is to be found out */
    uint32_t slot_count;
    uint64_t lsn;

    /* the mean */
    uint64_t tries; /* slots looked at, in a random order */
    uint32_t rows, outliers;
    double *sum, squares;
    double longest2; /* |row|^2 of what is no outlier; 0: not known yet */
    float *mean;
    float gain;

    /* the test */
    struct codec codec;
    float *queries; /* QUERIES rows */
    uint32_t query_slots[QUERIES], query_count;
    void *codes;
    struct codec_query coded[QUERIES];
    struct exact exact[QUERIES];
    uint32_t chunks; /* to be compared */
    _Atomic uint32_t next;
    const struct index_work *w; /* while it is worked on */
    _Atomic int parts_used;
    struct part *parts; /* one for each thread */
};

struct codec_choice *codec_choice_new(const struct index_work *w, uint32_t slot_count, uint64_t lsn)
{
    const struct index_options *o = &w->ix->options;
    uint32_t n = w->ix->dimension;
    struct codec_choice *c = mem_new(struct codec_choice);
    c->slot_count = slot_count;
    c->lsn = lsn;
    c->gain = 1;
    c->sum = mem_try(n * sizeof *c->sum);
    c->mean = mem_try(n * sizeof *c->mean);
    c->queries = mem_try((size_t)QUERIES * n * sizeof *c->queries);
    if (!c->sum || !c->mean || !c->queries) {
        codec_choice_free(c);
        return NULL;
    }
    memset(c->sum, 0, n * sizeof *c->sum);
    memset(c->mean, 0, n * sizeof *c->mean);
    switch (o->quantization) {
    case QUANTIZATION_INT8:
        c->kind = CODEC_INT8;
        break;
    case QUANTIZATION_BINARY:
        c->kind = CODEC_BINARY;
        break;
    case QUANTIZATION_NONE:
        c->kind = CODEC_FLOAT32;
        break;
    default:
        c->kind = CODEC_FLOAT32;
        c->is_tested = w->ix->metric != METRIC_MANHATTAN && n > FEW_NUMBERS;
    }
    return c;
}

void codec_choice_free(struct codec_choice *c)
{
    if (!c) return;
    if (c->codec.kernels) codec_deinit(&c->codec);
    mem_free(c->sum);
    mem_free(c->mean);
    mem_free(c->queries);
    mem_free(c->codes);
    mem_free(c->parts);
    mem_free(c);
}

bool codec_choice_failed(const struct codec_choice *c)
{
    return atomic_load(&((struct codec_choice *)(uintptr_t)c)->failed);
}

/* ---- the mean ---- */

/* In an epoch section: a row of those in question; NULL: the slot has none. */
static const float *row_of(const struct index_work *w, const struct codec_choice *c, uint32_t slot)
{
    const struct slot *s;
    const float *row;
    if (!work_slot(w, slot, &s)) return NULL;
    if (SLOT_GET(s->death) != SLOT_NEVER || SLOT_GET(s->birth) > c->lsn) return NULL;
    return work_row(w, slot, s, &row) ? row : NULL;
}

static double norm2_of(const struct index_work *w, const float *row)
{
    return w->db->kernels->dot(row, row, w->ix->dimension);
}

static int compare_doubles(const void *a, const void *b)
{
    const double *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

/* What is no outlier: from the median length of some rows. */
static void find_longest(const struct index_work *w, struct codec_choice *c)
{
    double norms[MEDIAN_ROWS];
    size_t count = 0;
    unsigned bits = work_shuffle_bits(c->slot_count);
    for (uint64_t i = 0; i < UINT64_C(4) * MEDIAN_ROWS && count < MEDIAN_ROWS; i++) {
        uint64_t slot = work_shuffle(i, bits);
        if (slot >= c->slot_count) continue;
        epoch_enter();
        const float *row = row_of(w, c, (uint32_t)slot);
        if (row) norms[count++] = norm2_of(w, row);
        epoch_leave();
    }
    qsort(norms, count, sizeof norms[0], compare_doubles);
    double median2 = count ? norms[count / 2] : 0;
    c->longest2 = median2 > 0 ? median2 * OUTLIER * OUTLIER : INFINITY;
}

static void add_to_mean(const struct index_work *w, struct codec_choice *c, const float *row)
{
    double norm2 = norm2_of(w, row), scale = 1;
    bool by_norm = w->ix->metric == METRIC_COSINE;
    if (norm2 > c->longest2 || (by_norm && norm2 == 0)) {
        c->outliers++;
        return;
    }
    if (by_norm) {
        scale = 1 / sqrt(norm2);
        norm2 = 1;
    }
    for (uint32_t k = 0; k < w->ix->dimension; k++)
        c->sum[k] += scale * row[k];
    c->squares += norm2;
    c->rows++;
}

static void add_query(const struct index_work *w, struct codec_choice *c, uint32_t slot,
                      const float *row)
{
    if (c->query_count == QUERIES) return;
    memcpy(c->queries + (size_t)c->query_count * w->ix->dimension, row,
           w->ix->dimension * sizeof *row);
    c->query_slots[c->query_count++] = slot;
}

/* True: done. */
static bool find_mean(struct index_work *w, struct codec_choice *c)
{
    enum { LOOKS = 16 };
    uint32_t n = w->ix->dimension;
    unsigned bits = work_shuffle_bits(c->slot_count);
    if (c->longest2 == 0) find_longest(w, c);
    while (c->rows < MEAN_ROWS && c->tries < UINT64_C(1) << bits && c->tries < 8u * MEAN_ROWS) {
        if (c->tries % LOOKS == 0 && work_is_over(w)) return false;
        uint64_t slot = work_shuffle(c->tries++, bits);
        if (slot >= c->slot_count) continue;
        epoch_enter();
        const float *row = row_of(w, c, (uint32_t)slot);
        if (row) {
            add_to_mean(w, c, row);
            add_query(w, c, (uint32_t)slot, row);
        }
        epoch_leave();
    }
    double rows = c->rows ? c->rows : 1, mean2 = 0;
    for (uint32_t k = 0; k < n; k++) {
        double m = c->sum[k] / rows;
        mean2 += m * m;
        c->mean[k] = (float)m;
    }
    double spread2 = c->squares / rows - mean2;
    if (w->ix->metric != METRIC_COSINE && spread2 > 0) c->gain = (float)(1 / sqrt(spread2));
    if (!isfinite(c->gain) || c->gain == 0) c->gain = 1;
    for (uint32_t k = 0; k < n; k++)
        c->mean[k] *= c->gain;
    return true;
}

/* ---- the test ---- */

static bool prepare_test(struct index_work *w, struct codec_choice *c)
{
    struct err err;
    uint32_t n = w->ix->dimension;
    if (codec_init(&c->codec, CODEC_INT8, w->ix->metric, n, c->gain, c->mean, &err)) return false;
    size_t bytes = codec_scratch_bytes(&c->codec);
    c->parts = mem_try((size_t)team_size(w->team) * sizeof *c->parts);
    c->codes = mem_try_aligned((QUERIES + 1) * bytes);
    if (!c->parts || !c->codes) return false;
    memset(c->parts, 0, (size_t)team_size(w->team) * sizeof *c->parts);
    uint8_t *codes = c->codes, *scratch = codes + QUERIES * bytes;
    for (uint32_t q = 0; q < c->query_count; q++) {
        c->coded[q].code = codes + q * bytes;
        codec_query_from_vector(&c->codec, &c->coded[q], c->queries + (size_t)q * n, scratch);
        c->exact[q] = exact_init(w->db, c->queries + (size_t)q * n);
    }
    uint64_t rows = TEST_BYTES / (n * sizeof(float));
    if (rows > TEST_ROWS) rows = TEST_ROWS;
    uint32_t all = (c->slot_count + CHUNK - 1) / CHUNK;
    c->chunks = rows / CHUNK < all ? (uint32_t)(rows / CHUNK) : all;
    return true;
}

static void offer_exact(struct closest *n, double distance)
{
    if (n->count == NEAREST && distance >= n->distance[NEAREST - 1]) return;
    uint32_t at = n->count < NEAREST ? n->count++ : NEAREST - 1;
    for (; at > 0 && n->distance[at - 1] > distance; at--)
        n->distance[at] = n->distance[at - 1];
    n->distance[at] = distance;
}

static void offer_candidate(struct closest *n, float code_distance, double distance)
{
    if (n->candidates == CANDIDATES && !(code_distance < n->code_distance[CANDIDATES - 1])) return;
    uint32_t at = n->candidates < CANDIDATES ? n->candidates++ : CANDIDATES - 1;
    for (; at > 0 && n->code_distance[at - 1] > code_distance; at--) {
        n->code_distance[at] = n->code_distance[at - 1];
        n->candidate[at] = n->candidate[at - 1];
    }
    n->code_distance[at] = code_distance;
    n->candidate[at] = distance;
}

/* Rows of neighbouring slots, and their codes one behind the other. */
struct chunk {
    uint32_t count;
    uint32_t slots[CHUNK], ids[CHUNK];
    const float *rows[CHUNK];
    double distances[CHUNK];
    float code_distances[CHUNK];
};

static void load_chunk(const struct codec_choice *c, uint32_t first, struct chunk *ch,
                       uint8_t *cells, void *scratch)
{
    ch->count = 0;
    for (uint32_t slot = first; slot < c->slot_count && slot < first + CHUNK; slot++) {
        const float *row = row_of(c->w, c, slot);
        uint32_t i = ch->count;
        if (!row ||
            !codec_encode(&c->codec, i, row, 0, cells + (size_t)i * c->codec.cell_bytes, scratch))
            continue;
        ch->rows[i] = row;
        ch->slots[i] = slot;
        ch->ids[i] = i;
        ch->count++;
    }
}

static void compare_chunk(const struct codec_choice *c, struct chunk *ch, const uint8_t *cells,
                          struct part *part)
{
    for (uint32_t q = 0; q < c->query_count; q++) {
        work_distances(&c->exact[q], ch->rows, ch->count, ch->distances);
        codec_distances(&c->codec, &c->coded[q], cells, NULL, ch->ids, ch->count,
                        ch->code_distances);
        for (uint32_t i = 0; i < ch->count; i++) {
            if (ch->slots[i] == c->query_slots[q]) continue;
            offer_exact(&part->of[q], ch->distances[i]);
            offer_candidate(&part->of[q], ch->code_distances[i], ch->distances[i]);
        }
    }
}

static void test_some(void *ctx)
{
    struct codec_choice *c = ctx;
    struct part *part =
        &c->parts[atomic_fetch_add_explicit(&c->parts_used, 1, memory_order_relaxed)];
    uint8_t *cells = mem_try_aligned(CHUNK * (size_t)c->codec.cell_bytes);
    void *scratch = mem_try_aligned(codec_scratch_bytes(&c->codec));
    uint32_t all = (c->slot_count + CHUNK - 1) / CHUNK;
    struct chunk ch;
    while (cells && scratch && !work_is_over(c->w)) {
        uint32_t at = atomic_fetch_add_explicit(&c->next, 1, memory_order_relaxed);
        if (at >= c->chunks) break;
        uint32_t first = (uint32_t)((uint64_t)all * at / c->chunks) * CHUNK;
        epoch_enter();
        load_chunk(c, first, &ch, cells, scratch);
        compare_chunk(c, &ch, cells, part);
        epoch_leave();
    }
    if (!cells || !scratch) atomic_store(&c->failed, true);
    mem_free(cells);
    mem_free(scratch);
}

static void merge_parts(struct codec_choice *c, int parts)
{
    for (int p = 1; p < parts; p++) {
        for (uint32_t q = 0; q < c->query_count; q++) {
            const struct closest *from = &c->parts[p].of[q];
            struct closest *to = &c->parts[0].of[q];
            for (uint32_t i = 0; i < from->count; i++)
                offer_exact(to, from->distance[i]);
            for (uint32_t i = 0; i < from->candidates; i++)
                offer_candidate(to, from->code_distance[i], from->candidate[i]);
        }
    }
}

/* How many of the `nearest` rows were among the first `candidates` by codes, of all that could have
 * been. */
static double share_found(const struct codec_choice *c, uint32_t nearest, uint32_t candidates)
{
    double found = 0, wanted = 0;
    for (uint32_t q = 0; q < c->query_count; q++) {
        const struct closest *n = &c->parts[0].of[q];
        uint32_t count = n->count < nearest ? n->count : nearest, hits = 0;
        if (count == 0) continue;
        for (uint32_t i = 0; i < n->candidates && i < candidates; i++)
            hits += n->candidate[i] <= n->distance[count - 1];
        found += hits < count ? hits : count;
        wanted += count;
    }
    return wanted > 0 ? found / wanted : 1;
}

/* True: done. */
static bool test(struct index_work *w, struct codec_choice *c)
{
    c->w = w;
    atomic_store(&c->parts_used, 0);
    team_run(w->team, TEAM_MAX, test_some, c);
    if (atomic_load(&c->next) < c->chunks) return false;
    merge_parts(c, team_size(w->team));
    bool good = share_found(c, NEAREST, CANDIDATES) >= GOOD_ENOUGH &&
                share_found(c, NEAREST_FEW, CANDIDATES_FEW) >= GOOD_ENOUGH_FEW;
    c->kind = good ? CODEC_INT8 : CODEC_FLOAT32;
    return true;
}

bool codec_choice_go_on(struct index_work *w, struct codec_choice *c)
{
    if (c->step == STEP_MEAN) {
        if (!find_mean(w, c)) return false;
        c->step = c->is_tested && c->query_count ? STEP_TEST : STEP_MADE;
        if (c->step == STEP_TEST && !prepare_test(w, c)) {
            atomic_store(&c->failed, true);
            return false;
        }
    }
    if (c->step == STEP_TEST && !work_is_over(w) && test(w, c)) c->step = STEP_MADE;
    return c->step == STEP_MADE;
}

/* ---- the result ---- */

void codec_choice_result(const struct codec_choice *c, struct graph_options *options)
{
    options->codec = c->kind;
    options->gain = c->gain;
    options->mean = c->mean;
}

bool codec_choice_differs(const struct codec_choice *c, const struct graph *g)
{
    if (c->kind != g->codec.kind) return true;
    double gain = c->gain / g->codec.gain, moved2 = 0;
    if (gain > GAIN_CHANGED || gain < 1 / GAIN_CHANGED) return true;
    if (c->kind == CODEC_FLOAT32) return false;
    for (uint32_t k = 0; k < g->codec.dimension; k++) {
        double d = (double)c->mean[k] - gain * g->codec.mean[k];
        moved2 += d * d;
    }
    /* With the gain the spread is 1; under cosine it is what the norms leave. */
    double spread2 = 1;
    if (g->codec.metric == METRIC_COSINE) {
        for (uint32_t k = 0; k < g->codec.dimension; k++)
            spread2 -= (double)c->mean[k] * c->mean[k];
    }
    return moved2 > MEAN_MOVED * MEAN_MOVED * fmax(spread2, 1e-6);
}

/* Codes: distances between them are those between rows, as near as the code can tell. */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "storage/base/mem.h"
#include "storage/index/codec.h"
#include "tests/storage/kernel/random.h"

enum { ROWS_MAX = 40, GENERATION = 7 };

static const uint32_t dimensions[] = {1,  2,   3,   15,  16,   17,   63,   64,
                                      65, 100, 256, 768, 1000, 4096, 65536};
enum { DIMENSIONS = sizeof dimensions / sizeof dimensions[0] };

/* Rows, their codes, and what the codec makes of the rows in float64: times gain, or of length 1;
 * without the mean if the code has none. */
struct world {
    struct codec codec;
    uint32_t n, rows;
    float *row;     /* rows * n */
    float *mean;    /* of the rows as they are coded */
    double *seen;   /* rows * n; nothing is taken away from CODEC_FLOAT32 */
    uint8_t *cells; /* rows */
    struct code_factors *factors;
    void *scratch, *code;
    float gain;
};

static double dot64(const double *a, const double *b, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

static double l2sq64(const double *a, const double *b, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (a[i] - b[i]) * (a[i] - b[i]);
    return sum;
}

static double l1_64(const double *a, const double *b, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += fabs(a[i] - b[i]);
    return sum;
}

/* A row as it is coded, in float64. */
static void see(const struct world *w, const float *row, bool centre, double *out)
{
    double norm2 = 0, factor = w->gain;
    for (size_t i = 0; i < w->n; i++)
        norm2 += (double)row[i] * row[i];
    if (w->codec.metric == METRIC_COSINE) factor = norm2 > 0 ? 1 / sqrt(norm2) : 0;
    for (size_t i = 0; i < w->n; i++)
        out[i] = row[i] * factor - (centre ? w->mean[i] : 0);
}

static const double *seen(const struct world *w, uint32_t row)
{
    return w->seen + (size_t)row * w->n;
}

/* What CODEC_FLOAT32 has is not centred. */
static bool is_centred(const struct world *w)
{
    return w->codec.kind != CODEC_FLOAT32;
}

/* Encodes w->row, all of which have a place in a graph. */
static void encode_all(struct world *w)
{
    const struct codec *c = &w->codec;
    for (uint32_t i = 0; i < w->rows; i++) {
        uint8_t *cell = w->cells + (size_t)i * c->cell_bytes;
        assert_true(codec_encode(c, i, w->row + (size_t)i * w->n, GENERATION, cell, w->scratch));
        const struct code_tail *tail = codec_tail(c, cell);
        w->factors[i] = (struct code_factors){tail->scale, tail->norm2};
        see(w, w->row + (size_t)i * w->n, is_centred(w), w->seen + (size_t)i * w->n);
    }
}

static void mean_of_rows(struct world *w)
{
    double *row = calloc(w->n, sizeof *row), *sum = calloc(w->n, sizeof *sum);
    assert_true(row && sum);
    for (uint32_t i = 0; i < w->rows; i++) {
        see(w, w->row + (size_t)i * w->n, false, row);
        for (size_t k = 0; k < w->n; k++)
            sum[k] += row[k] / w->rows;
    }
    for (size_t k = 0; k < w->n; k++)
        w->mean[k] = (float)sum[k];
    free(row);
    free(sum);
}

static void world_new(struct world *w, enum codec_kind kind, enum metric metric, uint32_t n,
                      uint32_t rows, float gain, void (*fill)(struct world *w))
{
    struct err err;
    *w = (struct world){.n = n, .rows = rows, .gain = metric == METRIC_COSINE ? 1 : gain};
    w->codec.metric = metric;
    w->row = calloc((size_t)rows * n, sizeof *w->row);
    w->seen = calloc((size_t)rows * n, sizeof *w->seen);
    w->mean = calloc(n, sizeof *w->mean);
    w->factors = calloc(rows, sizeof *w->factors);
    assert_true(w->row && w->seen && w->mean && w->factors);
    fill(w);
    mean_of_rows(w);
    assert_int_equal(codec_init(&w->codec, kind, metric, n, gain, w->mean, &err), ERR_OK);
    assert_int_equal(w->codec.cell_bytes % 64, 0);
    w->cells = aligned_alloc(64, (size_t)rows * w->codec.cell_bytes);
    w->scratch = mem_try_aligned(codec_scratch_bytes(&w->codec));
    w->code = mem_try_aligned(codec_scratch_bytes(&w->codec));
    assert_true(w->cells && w->scratch && w->code);
    encode_all(w);
}

static void world_free(struct world *w)
{
    codec_deinit(&w->codec);
    free(w->row);
    free(w->seen);
    free(w->mean);
    free(w->cells);
    free(w->factors);
    mem_free(w->scratch);
    mem_free(w->code);
}

static uint8_t *cell_of(const struct world *w, uint32_t i)
{
    return w->cells + (size_t)i * w->codec.cell_bytes;
}

static const struct code_tail *tail_of(const struct world *w, uint32_t i)
{
    return codec_tail(&w->codec, cell_of(w, i));
}

/* Far from the origin, of different lengths. */
static void fill_random(struct world *w)
{
    for (uint32_t i = 0; i < w->rows; i++) {
        float length = 0.5f + fabsf(random_unit());
        for (size_t k = 0; k < w->n; k++)
            w->row[(size_t)i * w->n + k] = length * random_unit() + (k % 3 ? 0.25f : -0.5f);
    }
}

/* Distances of all rows, the same with factors as without. */
static void all_distances(const struct world *w, const struct codec_query *q, float *out)
{
    uint32_t ids[ROWS_MAX];
    float other[ROWS_MAX + 4];
    for (uint32_t i = 0; i < w->rows; i++)
        ids[i] = i;
    codec_distances(&w->codec, q, w->cells, NULL, ids, w->rows, out);
    codec_distances(&w->codec, q, w->cells, w->factors, ids, w->rows, other);
    for (uint32_t i = 0; i < w->rows; i++) {
        assert_true(isfinite(out[i]));
        assert_true(out[i] == other[i]);
    }
}

static struct codec_query query_of(const struct world *w, const float *vector)
{
    struct codec_query q = {.code = w->code};
    codec_query_from_vector(&w->codec, &q, vector, w->scratch);
    return q;
}

static struct codec_query query_of_cell(const struct world *w, uint32_t i)
{
    struct codec_query q = {.code = w->code};
    codec_query_from_cell(&w->codec, &q, cell_of(w, i));
    return q;
}

/* ---- how well two lists agree ---- */

static double rank_in(const double *values, uint32_t count, uint32_t i)
{
    double rank = 0;
    for (uint32_t k = 0; k < count; k++)
        rank += values[k] < values[i] ? 1 : values[k] == values[i] ? 0.5 : 0;
    return rank;
}

/* Spearman's. */
static double rank_correlation(const double *a, const float *b, uint32_t count)
{
    double x[ROWS_MAX], y[ROWS_MAX], b64[ROWS_MAX], mean = 0, xy = 0, xx = 0, yy = 0;
    for (uint32_t i = 0; i < count; i++)
        b64[i] = b[i];
    for (uint32_t i = 0; i < count; i++) {
        x[i] = rank_in(a, count, i);
        y[i] = rank_in(b64, count, i);
        mean += x[i] / count;
    }
    for (uint32_t i = 0; i < count; i++) {
        xy += (x[i] - mean) * (y[i] - mean);
        xx += (x[i] - mean) * (x[i] - mean);
        yy += (y[i] - mean) * (y[i] - mean);
    }
    return xx > 0 && yy > 0 ? xy / sqrt(xx * yy) : 1;
}

/* ---- searches ---- */

/* What a navigation distance would be without rounding. */
static double ideal(const struct world *w, const double *q, uint32_t row)
{
    const double *x = seen(w, row);
    if (w->codec.metric == METRIC_DOT_PRODUCT) return -dot64(q, x, w->n);
    if (w->codec.kind != CODEC_FLOAT32) return dot64(x, x, w->n) - 2 * dot64(q, x, w->n);
    return w->codec.metric == METRIC_MANHATTAN ? l1_64(q, x, w->n) : l2sq64(q, x, w->n);
}

/* Six standard deviations of the rounding of both sides, which is evenly spread. */
static double rounding_bound(const struct world *w, const struct codec_query *q,
                             const double *seen_q, uint32_t row)
{
    const double *x = seen(w, row);
    double x_norm = sqrt(dot64(x, x, w->n)), q_norm = sqrt(dot64(seen_q, seen_q, w->n));
    double steps = 12 / sqrt(12), rounding = 1e-5 * (x_norm + q_norm) * (x_norm + q_norm);
    double of_query = 2 * x_norm * q->scale * steps;
    switch (w->codec.kind) {
    case CODEC_INT8: {
        double scale = tail_of(w, row)->scale;
        return rounding + of_query + 2 * (x_norm + q_norm) * scale * steps +
               w->n * scale * scale / 6;
    }
    case CODEC_BINARY:
        return rounding + of_query + 12 * x_norm * q_norm / sqrt(w->n);
    default:
        return w->codec.metric == METRIC_MANHATTAN ? 1e-4 * sqrt(w->n) * (x_norm + q_norm)
                                                   : rounding;
    }
}

/* Of a metric's distance itself: does the order of cells agree with the order of rows? */
static double true_distance(const struct world *w, const float *vector, uint32_t row)
{
    const float *x = w->row + (size_t)row * w->n;
    const struct kernel_set *k = &kernel_scalar;
    double x_norm2, dot = k->dot_norm(vector, x, w->n, &x_norm2);
    switch (w->codec.metric) {
    case METRIC_COSINE:
        return -dot / sqrt(x_norm2);
    case METRIC_DOT_PRODUCT:
        return -dot;
    case METRIC_MANHATTAN: /* only float32 knows it */
        if (w->codec.kind == CODEC_FLOAT32) return k->l1(vector, x, w->n);
        return k->l2sq(vector, x, w->n);
    default:
        return k->l2sq(vector, x, w->n);
    }
}

static void to_unit_length(double *x, size_t n)
{
    double inverse = 1 / sqrt(dot64(x, x, n));
    for (size_t i = 0; i < n; i++)
        x[i] *= inverse;
}

static void check_search(const struct world *w, const float *vector)
{
    static const double least[] = {
        [CODEC_INT8] = 0.98, [CODEC_BINARY] = 0.5, [CODEC_FLOAT32] = 0.999};
    float got[ROWS_MAX + 4];
    double want[ROWS_MAX];
    double *q64 = calloc(w->n, sizeof *q64);
    assert_non_null(q64);
    struct codec_query q = query_of(w, vector);
    all_distances(w, &q, got);
    see(w, vector, is_centred(w) && w->codec.metric != METRIC_DOT_PRODUCT, q64);
    if (w->codec.metric == METRIC_DOT_PRODUCT) to_unit_length(q64, w->n);
    for (uint32_t i = 0; i < w->rows; i++) {
        want[i] = true_distance(w, vector, i);
        double off = fabs(got[i] - ideal(w, q64, i)), bound = rounding_bound(w, &q, q64, i);
        if (off > bound)
            fail_msg("%s, metric %d, %u dimensions: off by %g, not %g", codec_name(w->codec.kind),
                     (int)w->codec.metric, w->n, off, bound);
    }
    double r = rank_correlation(want, got, w->rows);
    if ((w->codec.kind != CODEC_BINARY || (w->n >= 63 && w->rows == ROWS_MAX)) &&
        r < least[w->codec.kind])
        fail_msg("%s, metric %d, %u dimensions: rank correlation %g", codec_name(w->codec.kind),
                 (int)w->codec.metric, w->n, r);
    free(q64);
}

/* ---- distances between cells ---- */

/* The row that an int8 cell stands for. */
static double *decoded(const struct world *w, uint32_t row)
{
    double *x = calloc(w->codec.padded, sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < w->codec.padded; i++)
        x[i] = (cell_of(w, row)[i] - 128) * (double)tail_of(w, row)->scale;
    return x;
}

static double augmented_of(const struct world *w, uint32_t row)
{
    return sqrt(fmax(0, (double)atomic_load(w->codec.reach2) - tail_of(w, row)->row_norm2));
}

static double ideal_between(const struct world *w, uint32_t a, uint32_t b)
{
    double d;
    if (w->codec.kind == CODEC_INT8) {
        double *x = decoded(w, a), *y = decoded(w, b);
        d = l2sq64(x, y, w->codec.padded);
        free(x);
        free(y);
    } else if (w->codec.metric == METRIC_MANHATTAN) {
        return l1_64(seen(w, a), seen(w, b), w->n);
    } else {
        d = l2sq64(seen(w, a), seen(w, b), w->n);
    }
    if (w->codec.metric != METRIC_DOT_PRODUCT) return d;
    double step = augmented_of(w, a) - augmented_of(w, b);
    return d + step * step;
}

static double between_bound(const struct world *w, uint32_t a, uint32_t b)
{
    double reach2 = w->codec.metric == METRIC_DOT_PRODUCT ? atomic_load(w->codec.reach2) : 0;
    double norms = (double)tail_of(w, a)->norm2 + tail_of(w, b)->norm2 + reach2;
    if (w->codec.kind == CODEC_FLOAT32 && w->codec.metric == METRIC_MANHATTAN)
        return 1e-4 * sqrt(norms * w->n);
    return 1e-5 * norms + 1e-30;
}

static void check_cells(const struct world *w)
{
    enum { FROM = 6 };
    float got[FROM][ROWS_MAX + 4];
    for (uint32_t i = 0; i < FROM; i++) {
        struct codec_query q = query_of_cell(w, i);
        all_distances(w, &q, got[i]);
    }
    for (uint32_t i = 0; i < FROM; i++) {
        double bound = between_bound(w, i, i);
        if (fabsf(got[i][i]) > bound)
            fail_msg("%s, metric %d, %u dimensions: %g from itself", codec_name(w->codec.kind),
                     (int)w->codec.metric, w->n, (double)got[i][i]);
        for (uint32_t k = 0; k < FROM; k++) {
            bound = between_bound(w, i, k);
            if (fabsf(got[i][k] - got[k][i]) > bound)
                fail_msg("%s, metric %d, %u dimensions: %g there, %g back",
                         codec_name(w->codec.kind), (int)w->codec.metric, w->n, (double)got[i][k],
                         (double)got[k][i]);
            double off = fabs(got[i][k] - ideal_between(w, i, k));
            if (w->codec.kind != CODEC_BINARY && off > bound)
                fail_msg("%s, metric %d, %u dimensions: off by %g between rows, not %g",
                         codec_name(w->codec.kind), (int)w->codec.metric, w->n, off, bound);
        }
    }
}

static void check_norms(const struct world *w)
{
    for (uint32_t i = 0; i < w->rows; i++) {
        const double *x = seen(w, i);
        double want = dot64(x, x, w->n);
        if (w->codec.kind == CODEC_INT8) {
            double *coded = decoded(w, i);
            want = dot64(coded, coded, w->codec.padded);
            free(coded);
        }
        assert_true(fabs(tail_of(w, i)->norm2 - want) <= 1e-5 * want + 1e-30);
    }
}

static void every_code_orders_cells_as_the_metric_orders_rows(void **state)
{
    (void)state;
    for (int kind = 0; kind < CODEC_KIND_COUNT; kind++) {
        for (int metric = 0; metric < METRIC_COUNT; metric++) {
            for (uint32_t d = 0; d < DIMENSIONS; d++) {
                struct world w;
                uint32_t n = dimensions[d], rows = n > 5000 ? 10 : n > 1000 ? 16 : ROWS_MAX;
                world_new(&w, kind, metric, n, rows, d % 2 ? 1 : 0.3f, fill_random);
                float *vector = calloc(n, sizeof *vector);
                assert_non_null(vector);
                for (uint32_t i = 0; i < n; i++)
                    vector[i] = random_unit() + (i % 2 ? 0.5f : 0);
                check_search(&w, vector);
                check_cells(&w);
                check_norms(&w);
                free(vector);
                world_free(&w);
            }
        }
    }
}

/* ---- rows that are hard to code ---- */

/* Rows of any size, in the order of their distances; the query is the first of them. */
static void check_order(const struct world *w, double least)
{
    float got[ROWS_MAX + 4];
    double want[ROWS_MAX], unit = w->gain;
    struct codec_query q = query_of(w, w->row);
    all_distances(w, &q, got);
    for (uint32_t i = 0; i < w->rows; i++) {
        const float *x = w->row + (size_t)i * w->n;
        want[i] = 0;
        for (size_t k = 0; k < w->n; k++) {
            double a = w->row[k] * unit, b = x[k] * unit;
            want[i] += w->codec.metric == METRIC_DOT_PRODUCT ? -a * b : (a - b) * (a - b);
        }
    }
    double r = rank_correlation(want, got, w->rows);
    if (r < least)
        fail_msg("%s, metric %d, gain %g: rank correlation %g", codec_name(w->codec.kind),
                 (int)w->codec.metric, (double)w->gain, r);
}

static float size_of_rows;

static void fill_of_size(struct world *w)
{
    for (size_t i = 0; i < (size_t)w->rows * w->n; i++)
        w->row[i] = size_of_rows * random_unit();
}

static void huge_and_tiny_rows_keep_their_order_with_the_right_gain(void **state)
{
    (void)state;
    static const float sizes[] = {1e18f, 1e25f, FLT_MAX, 1e-15f, 1e-25f, 1e-30f, 1e-38f};
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        for (int metric = METRIC_EUCLIDEAN; metric <= METRIC_DOT_PRODUCT; metric++) {
            for (int kind = 0; kind < CODEC_KIND_COUNT; kind++) {
                struct world w;
                size_of_rows = sizes[s];
                float gain = (float)(1 / (sizes[s] * sqrt(100 / 3.0)));
                world_new(&w, kind, metric, 100, ROWS_MAX, gain, fill_of_size);
                check_order(&w, kind == CODEC_BINARY ? 0.5 : 0.98);
                check_cells(&w);
                world_free(&w);
            }
        }
    }
}

static void under_cosine_only_the_direction_counts(void **state)
{
    (void)state;
    static const float sizes[] = {FLT_MAX, 1e30f, 1e-30f, 1e-38f};
    for (int kind = 0; kind < CODEC_KIND_COUNT; kind++) {
        for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
            struct world w;
            size_of_rows = 1;
            world_new(&w, kind, METRIC_COSINE, 64, ROWS_MAX, 5, fill_of_size);
            float vector[64], scaled[64], as_is[ROWS_MAX + 4], got[ROWS_MAX + 4];
            for (size_t i = 0; i < 64; i++) {
                vector[i] = random_unit();
                scaled[i] = vector[i] * sizes[s];
            }
            struct codec_query q = query_of(&w, vector);
            all_distances(&w, &q, as_is);
            q = query_of(&w, scaled);
            all_distances(&w, &q, got);
            for (uint32_t i = 0; i < w.rows; i++)
                assert_true(fabsf(as_is[i] - got[i]) < 1e-2f);
            world_free(&w);
        }
    }
}

/* Denormal numbers have few digits, but one is still twice the other. */
static void denormal_rows_have_a_place(void **state)
{
    (void)state;
    for (int kind = 0; kind < CODEC_KIND_COUNT; kind++) {
        struct world w;
        size_of_rows = 1e-40f;
        world_new(&w, kind, METRIC_EUCLIDEAN, 64, ROWS_MAX, 1e38f, fill_of_size);
        check_order(&w, kind == CODEC_BINARY ? 0.5 : 0.95);
        world_free(&w);
        world_new(&w, kind, METRIC_COSINE, 64, ROWS_MAX, 1, fill_of_size);
        check_cells(&w);
        world_free(&w);
    }
}

/* 1 / rms of denormal rows is no float32. */
static void a_gain_beyond_float32_is_the_largest_there_is(void **state)
{
    (void)state;
    struct codec c;
    struct err err;
    float row[16], scratch[64] __attribute__((aligned(64)));
    uint8_t cell[128] __attribute__((aligned(64)));
    for (size_t i = 0; i < 16; i++)
        row[i] = 1e-42f;
    assert_int_equal(codec_init(&c, CODEC_FLOAT32, METRIC_EUCLIDEAN, 16, INFINITY, NULL, &err),
                     ERR_OK);
    assert_true(codec_encode(&c, 0, row, 0, cell, scratch));
    assert_true(codec_tail(&c, cell)->norm2 > 0);
    codec_deinit(&c);
}

static bool can_encode(const struct codec *c, float number)
{
    float row[64], scratch[64] __attribute__((aligned(64)));
    uint8_t cell[512] __attribute__((aligned(64)));
    for (size_t i = 0; i < 64; i++)
        row[i] = number;
    return codec_encode(c, 0, row, 0, cell, scratch);
}

static void rows_without_a_place_are_refused(void **state)
{
    (void)state;
    for (int kind = 0; kind < CODEC_KIND_COUNT; kind++) {
        for (int metric = 0; metric < METRIC_COUNT; metric++) {
            struct codec c;
            struct err err;
            assert_int_equal(codec_init(&c, kind, metric, 64, 1, NULL, &err), ERR_OK);
            assert_true(can_encode(&c, 1));
            assert_true(can_encode(&c, 1e-44f));
            assert_true(can_encode(&c, 0) == (metric != METRIC_COSINE));
            assert_true(can_encode(&c, -0.0f) == (metric != METRIC_COSINE));
            assert_true(can_encode(&c, 1e16f));
            assert_true(can_encode(&c, 1e19f) == (metric == METRIC_COSINE));
            assert_true(can_encode(&c, FLT_MAX) == (metric == METRIC_COSINE));
            codec_deinit(&c);
        }
    }
}

/* A query may be any finite vector: if it is far from all rows, they still differ. */
static void a_query_of_any_size_keeps_its_direction(void **state)
{
    (void)state;
    static const float sizes[] = {1e17f, 1e19f, 1e30f, FLT_MAX};
    for (int kind = 0; kind < CODEC_KIND_COUNT; kind++) {
        for (int metric = METRIC_EUCLIDEAN; metric <= METRIC_DOT_PRODUCT; metric++) {
            for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
                struct world w;
                size_of_rows = 1;
                world_new(&w, kind, metric, 64, ROWS_MAX, s % 2 ? 1 : 3, fill_of_size);
                float vector[64], got[ROWS_MAX + 4];
                double want[ROWS_MAX];
                for (size_t i = 0; i < 64; i++)
                    vector[i] = sizes[s] * random_unit();
                struct codec_query q = query_of(&w, vector);
                all_distances(&w, &q, got);
                /* So far away, the distance is the inner product and a constant.  Of float32
                 * numbers nothing is left of it: it is the rows' lengths that are lost. */
                for (uint32_t i = 0; i < w.rows; i++)
                    want[i] = -kernel_scalar.dot(vector, w.row + (size_t)i * 64, 64);
                double r = rank_correlation(want, got, w.rows);
                bool may_round = kind == CODEC_FLOAT32 && metric == METRIC_EUCLIDEAN;
                if (!may_round && r < (kind == CODEC_BINARY ? 0.5 : 0.98))
                    fail_msg("%s, metric %d, query of %g: rank correlation %g", codec_name(kind),
                             metric, (double)sizes[s], r);
                world_free(&w);
            }
        }
    }
}

static void the_length_of_a_dot_product_query_does_not_count(void **state)
{
    (void)state;
    static const float sizes[] = {1e-20f, 1e-30f, 1e-37f};
    for (int kind = 0; kind < CODEC_KIND_COUNT; kind++) {
        for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
            struct world w;
            float vector[64], got[ROWS_MAX + 4];
            double want[ROWS_MAX];
            size_of_rows = 1;
            world_new(&w, kind, METRIC_DOT_PRODUCT, 64, ROWS_MAX, 1, fill_of_size);
            for (size_t i = 0; i < 64; i++)
                vector[i] = sizes[s] * random_unit();
            struct codec_query q = query_of(&w, vector);
            all_distances(&w, &q, got);
            for (uint32_t i = 0; i < w.rows; i++)
                want[i] = -kernel_scalar.dot(vector, w.row + (size_t)i * 64, 64);
            assert_true(rank_correlation(want, got, w.rows) > (kind == CODEC_BINARY ? 0.5 : 0.98));
            world_free(&w);
        }
    }
}

static void zero_queries_give_distances(void **state)
{
    (void)state;
    for (int kind = 0; kind < CODEC_KIND_COUNT; kind++) {
        for (int metric = 0; metric < METRIC_COUNT; metric++) {
            struct world w;
            float zeros[17] = {0}, got[ROWS_MAX + 4];
            world_new(&w, kind, metric, 17, ROWS_MAX, 1, fill_random);
            struct codec_query q = query_of(&w, zeros);
            all_distances(&w, &q, got); /* looks that they are finite */
            world_free(&w);
        }
    }
}

static void fill_constant_columns(struct world *w)
{
    for (size_t i = 0; i < (size_t)w->rows * w->n; i++)
        w->row[i] = i % w->n % 4 ? 1000 : random_unit();
}

static void fill_equal(struct world *w)
{
    for (size_t i = 0; i < (size_t)w->rows * w->n; i++)
        w->row[i] = (float)(i % w->n);
}

static void columns_that_say_nothing_cost_nothing(void **state)
{
    (void)state;
    for (int kind = 0; kind < CODEC_KIND_COUNT; kind++) {
        struct world w;
        world_new(&w, kind, METRIC_EUCLIDEAN, 100, ROWS_MAX, 1, fill_constant_columns);
        check_order(&w, kind == CODEC_BINARY ? 0.4 : 0.98);
        world_free(&w);
        world_new(&w, kind, METRIC_EUCLIDEAN, 100, ROWS_MAX, 1, fill_equal);
        float got[ROWS_MAX + 4];
        struct codec_query q = query_of_cell(&w, 0);
        all_distances(&w, &q, got);
        for (uint32_t i = 0; i < w.rows; i++)
            assert_true(fabsf(got[i]) < 1e-6f);
        world_free(&w);
    }
}

/* ---- METRIC_DOT_PRODUCT ---- */

static void fill_of_many_lengths(struct world *w)
{
    for (uint32_t i = 0; i < w->rows; i++) {
        for (size_t k = 0; k < w->n; k++)
            w->row[(size_t)i * w->n + k] = (float)(i + 1) * random_unit();
    }
}

/* Of rows that were made equally long, the nearest to a row has the largest product with it. */
static void reach_makes_distances_of_dot_products(void **state)
{
    (void)state;
    for (int kind = 0; kind < CODEC_KIND_COUNT; kind += 2) {
        struct world w;
        world_new(&w, kind, METRIC_DOT_PRODUCT, 48, ROWS_MAX, 1, fill_of_many_lengths);
        float longest = 0;
        for (uint32_t i = 0; i < w.rows; i++)
            longest = fmaxf(longest, tail_of(&w, i)->row_norm2);
        assert_true(atomic_load(w.codec.reach2) == longest);
        check_cells(&w);
        world_free(&w);
    }
}

/* The mean that was taken away from both is there again. */
static void products_of_cells_are_those_of_rows(void **state)
{
    (void)state;
    for (int kind = 0; kind < CODEC_KIND_COUNT; kind++) {
        struct world w;
        world_new(&w, kind, METRIC_DOT_PRODUCT, 200, ROWS_MAX, 0.25f, fill_random);
        double row[200], other[200], tolerance = kind == CODEC_INT8 ? 0.01 : 1e-5;
        if (kind == CODEC_BINARY) tolerance = 0.3;
        for (uint32_t i = 0; i < w.rows; i += 7) {
            float got[ROWS_MAX + 4];
            struct codec_query q = {.code = w.code};
            codec_query_product(&w.codec, &q, cell_of(&w, i));
            all_distances(&w, &q, got);
            see(&w, w.row + (size_t)i * w.n, false, row);
            for (uint32_t k = 0; k < w.rows; k++) {
                see(&w, w.row + (size_t)k * w.n, false, other);
                double scale = sqrt(dot64(row, row, w.n) * dot64(other, other, w.n));
                assert_true(fabs(-got[k] - dot64(row, other, w.n)) <= tolerance * scale);
            }
        }
        world_free(&w);
    }
}

/* Others encode while a thread links: one query has one reach. */
static void a_longer_row_does_not_move_a_query(void **state)
{
    (void)state;
    for (int kind = 0; kind < CODEC_KIND_COUNT; kind++) {
        struct world w;
        float before[ROWS_MAX + 4], after[ROWS_MAX + 4], row[48];
        world_new(&w, kind, METRIC_DOT_PRODUCT, 48, ROWS_MAX, 1, fill_of_many_lengths);
        struct codec_query q = query_of_cell(&w, 3);
        all_distances(&w, &q, before);
        uint8_t *cell = mem_try_aligned(w.codec.cell_bytes);
        for (size_t i = 0; i < 48; i++)
            row[i] = 1e4f;
        assert_true(codec_encode(&w.codec, 0, row, 0, cell, w.scratch));
        all_distances(&w, &q, after);
        for (uint32_t i = 0; i < w.rows; i++)
            assert_true(before[i] == after[i]);
        mem_free(cell);
        world_free(&w);
    }
}

/* ---- damage ---- */

static void damage_to_a_cell_is_noticed(void **state)
{
    (void)state;
    for (int kind = 0; kind < CODEC_KIND_COUNT; kind++) {
        struct world w;
        world_new(&w, kind, METRIC_EUCLIDEAN, 100, 3, 1, fill_random);
        const struct codec *c = &w.codec;
        uint8_t *cell = cell_of(&w, 1);
        assert_true(codec_cell_is_good(c, 1, cell, GENERATION));
        assert_false(codec_cell_is_good(c, 0, cell, GENERATION));
        assert_false(codec_cell_is_good(c, 1, cell, GENERATION + 1));
        assert_false(codec_cell_is_good(c, 1, cell, GENERATION - 1));
        for (size_t i = 0; i < c->code_bytes + sizeof(struct code_tail); i++) {
            for (int bit = 0; bit < 8; bit++) {
                cell[i] ^= (uint8_t)(1 << bit);
                assert_false(codec_cell_is_good(c, 1, cell, GENERATION));
                cell[i] ^= (uint8_t)(1 << bit);
            }
        }
        assert_true(codec_cell_is_good(c, 1, cell, GENERATION));
        world_free(&w);
    }
}

static void a_tail_that_no_row_has_is_refused(void **state)
{
    (void)state;
    static const float odd[] = {NAN, -INFINITY, -1};
    for (int kind = 0; kind < CODEC_KIND_COUNT; kind++) {
        struct world w;
        world_new(&w, kind, METRIC_EUCLIDEAN, 100, 3, 1, fill_random);
        const struct codec *c = &w.codec;
        uint8_t *cell = cell_of(&w, 1);
        struct code_tail *tail = codec_tail(c, cell), right = *tail;
        for (size_t i = 0; i < 3 * sizeof odd / sizeof odd[0]; i++) {
            float *fields[] = {&tail->scale, &tail->norm2, &tail->row_norm2};
            *fields[i % 3] = odd[i / 3];
            codec_move_cell(c, 1, GENERATION, cell); /* with a right checksum */
            assert_false(codec_cell_is_good(c, 1, cell, GENERATION));
            *tail = right;
        }
        static const int32_t sums[] = {1, -1, 1 << 24, INT32_MIN};
        for (size_t i = 0; i < sizeof sums / sizeof sums[0]; i++) {
            tail->sum = (int32_t)((uint32_t)right.sum + (uint32_t)sums[i]);
            codec_move_cell(c, 1, GENERATION, cell);
            assert_false(codec_cell_is_good(c, 1, cell, GENERATION));
        }
        *tail = right;
        assert_true(codec_cell_is_good(c, 1, cell, GENERATION));
        world_free(&w);
    }
}

static void zeros_are_no_cell(void **state)
{
    (void)state;
    struct codec c;
    struct err err;
    uint8_t cell[192] __attribute__((aligned(64))) = {0};
    assert_int_equal(codec_init(&c, CODEC_INT8, METRIC_EUCLIDEAN, 64, 1, NULL, &err), ERR_OK);
    for (uint32_t node = 0; node < 1000; node++) {
        assert_false(codec_cell_is_good(&c, node, cell, 0));
        assert_false(codec_cell_is_good(&c, node, cell, UINT32_MAX));
    }
    codec_deinit(&c);
}

/* What is behind the tail depends on nothing: files compare equal. */
static void the_same_row_gives_the_same_cell(void **state)
{
    (void)state;
    struct codec c;
    struct err err;
    float row[100], *scratch = mem_try_aligned(128 * sizeof(float));
    uint8_t *a = mem_try_aligned(1024), *b = mem_try_aligned(1024);
    for (int kind = 0; kind < CODEC_KIND_COUNT; kind++) {
        assert_int_equal(codec_init(&c, kind, METRIC_EUCLIDEAN, 100, 1, NULL, &err), ERR_OK);
        for (size_t i = 0; i < 100; i++)
            row[i] = random_unit();
        memset(a, 0x55, 1024);
        memset(b, 0xaa, 1024);
        memset(scratch, 0x55, 128 * sizeof(float));
        assert_true(codec_encode(&c, 5, row, 1, a, scratch));
        memset(scratch, 0xaa, 128 * sizeof(float));
        assert_true(codec_encode(&c, 5, row, 1, b, scratch));
        assert_memory_equal(a, b, c.cell_bytes);
        codec_deinit(&c);
    }
    mem_free(scratch);
    mem_free(a);
    mem_free(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_code_orders_cells_as_the_metric_orders_rows),
        cmocka_unit_test(huge_and_tiny_rows_keep_their_order_with_the_right_gain),
        cmocka_unit_test(under_cosine_only_the_direction_counts),
        cmocka_unit_test(denormal_rows_have_a_place),
        cmocka_unit_test(a_gain_beyond_float32_is_the_largest_there_is),
        cmocka_unit_test(rows_without_a_place_are_refused),
        cmocka_unit_test(a_query_of_any_size_keeps_its_direction),
        cmocka_unit_test(the_length_of_a_dot_product_query_does_not_count),
        cmocka_unit_test(zero_queries_give_distances),
        cmocka_unit_test(columns_that_say_nothing_cost_nothing),
        cmocka_unit_test(reach_makes_distances_of_dot_products),
        cmocka_unit_test(products_of_cells_are_those_of_rows),
        cmocka_unit_test(a_longer_row_does_not_move_a_query),
        cmocka_unit_test(damage_to_a_cell_is_noticed),
        cmocka_unit_test(a_tail_that_no_row_has_is_refused),
        cmocka_unit_test(zeros_are_no_cell),
        cmocka_unit_test(the_same_row_gives_the_same_cell),
    };
    return cmocka_run_group_tests_name("codec", tests, NULL, NULL);
}

#include "storage/index/codec.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "storage/base/crc32c.h"
#include "storage/base/mem.h"

enum { LINE = 64, CHUNK = 64 };

#define NORM2_MAX 1e36 /* squares and their sums must stay float32 */

const char *codec_name(enum codec_kind kind)
{
    static const char *const names[CODEC_KIND_COUNT] = {"int8", "binary", "float32"};
    return kind < CODEC_KIND_COUNT ? names[kind] : "?";
}

static uint32_t round_up(uint32_t n, uint32_t unit)
{
    return (n + unit - 1) / unit * unit;
}

/* Any fixed sequence of independent signs does; files depend on this one. */
static void make_signs(int8_t *signs, size_t count)
{
    uint64_t state = 0x9e3779b97f4a7c15u;
    for (size_t i = 0; i < count; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        signs[i] = state >> 63 ? 1 : -1;
    }
}

enum err_code codec_init(struct codec *c, enum codec_kind kind, enum metric metric,
                         uint32_t dimension, float gain, const float *mean, struct err *err)
{
    *c = (struct codec){.kind = kind,
                        .metric = metric,
                        .dimension = dimension,
                        .gain = metric == METRIC_COSINE || gain == 0 ? 1 : fminf(gain, FLT_MAX),
                        .kernels = kernel_best()};
    switch (kind) {
    case CODEC_INT8:
        c->padded = round_up(dimension, LINE);
        c->code_bytes = c->padded;
        break;
    case CODEC_BINARY:
        c->padded = round_up(dimension, LINE);
        c->code_bytes = c->padded / 8;
        break;
    default:
        c->padded = round_up(dimension, LINE / sizeof(float));
        c->code_bytes = c->padded * sizeof(float);
    }
    c->cell_bytes = round_up(c->code_bytes + sizeof(struct code_tail), LINE);
    c->reach2 = mem_new(_Atomic float);
    if (kind == CODEC_FLOAT32) return ERR_OK;

    size_t sign_count = (size_t)CODEC_ROTATIONS * dimension;
    c->mean = mem_try(dimension * sizeof *c->mean);
    c->signs = mem_try(sign_count);
    if (!c->mean || !c->signs) {
        codec_deinit(c);
        return err_set(err, ERR_NOMEM, "out of memory for a codec of %u dimensions", dimension);
    }
    if (mean)
        memcpy(c->mean, mean, dimension * sizeof *c->mean);
    else
        memset(c->mean, 0, dimension * sizeof *c->mean);
    make_signs(c->signs, sign_count);
    return ERR_OK;
}

void codec_deinit(struct codec *c)
{
    mem_free(c->mean);
    mem_free(c->signs);
    mem_free(c->reach2);
    *c = (struct codec){.kind = c->kind};
}

size_t codec_scratch_bytes(const struct codec *c)
{
    return round_up(c->dimension, LINE) * sizeof(float);
}

/* ---- from rows to numbers ---- */

/* A transform of a power of two covers the first numbers, the next one the last: with four rounds
 * every number has met every other.  Lengths and distances stay as they are. */
static void rotate(const struct codec *c, float *x)
{
    size_t n = c->dimension, span = 1;
    while (span * 2 <= n)
        span *= 2;
    int rounds = span == n ? 2 : CODEC_ROTATIONS;
    for (int r = 0; r < rounds; r++) {
        const int8_t *signs = c->signs + (size_t)r * n;
        for (size_t i = 0; i < n; i++)
            x[i] *= signs[i];
        c->kernels->hadamard(r % 2 ? x + (n - span) : x, span);
    }
}

/* What a row is multiplied by; 0: it has no direction, or it is too long. */
static double factor_for_row(const struct codec *c, double norm2)
{
    double gain = c->gain;
    if (c->metric == METRIC_COSINE) return norm2 > 0 ? 1 / sqrt(norm2) : 0;
    return norm2 * gain * gain < NORM2_MAX ? gain : 0;
}

/* The same for what is searched for.  The order of dot products does not depend on its length; from
 * far outside, neither does that of distances. */
static double factor_for_query(const struct codec *c, double norm2)
{
    double gain = c->gain;
    if (norm2 == 0) return 0;
    if (c->metric == METRIC_COSINE || c->metric == METRIC_DOT_PRODUCT) return 1 / sqrt(norm2);
    return fmin(gain, sqrt(NORM2_MAX / norm2));
}

/* A row times `factor` as the codec sees it before coding, and zeros up to a whole line. */
static void prepare(const struct codec *c, const float *row, double factor, bool centre, float *x)
{
    size_t n = c->dimension;
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(row[i] * factor);
    for (size_t i = n; i < round_up(c->dimension, LINE); i++)
        x[i] = 0;
    if (c->kind == CODEC_FLOAT32) return;
    if (centre) {
        for (size_t i = 0; i < n; i++)
            x[i] -= c->mean[i];
    }
    rotate(c, x);
}

static float largest(const float *x, size_t n)
{
    float lanes[16] = {0};
    for (size_t i = 0; i < n; i += 16) {
        for (size_t k = 0; k < 16; k++) {
            float a = fabsf(x[i + k]);
            lanes[k] = a > lanes[k] ? a : lanes[k];
        }
    }
    float most = 0;
    for (size_t k = 0; k < 16; k++)
        most = lanes[k] > most ? lanes[k] : most;
    return most;
}

/* To the nearest integer, for |x| <= 127: adding 1.5 * 2^23 leaves it in the low bits. */
static inline int32_t round_to_int(float x)
{
    float shifted = x + 12582912.0f;
    int32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    return bits - 0x4b400000;
}

/* x = scale * code, code within +-127; the sums of the codes and of their squares. */
static float quantize(const float *x, size_t n, int8_t *code, int32_t *sum, int64_t *squares)
{
    float most = largest(x, n);
    if (!(most > 1e-30f)) most = 1e-30f;
    float inverse = 127 / most;
    int64_t total = 0;
    int32_t codes_sum = 0;
    for (size_t at = 0; at < n; at += LINE) {
        int32_t line_sum = 0, line_squares = 0;
        for (size_t i = at; i < at + LINE; i++) {
            int32_t v = round_to_int(x[i] * inverse);
            code[i] = (int8_t)v;
            line_sum += v;
            line_squares += v * v;
        }
        codes_sum += line_sum;
        total += line_squares;
    }
    *sum = codes_sum;
    *squares = total;
    return most / 127;
}

/* ---- cells ---- */

static uint32_t cell_crc(const struct codec *c, uint32_t node, const uint8_t *cell)
{
    const uint32_t words[2] = {c->seed, node};
    uint32_t crc = crc32c(0, words, sizeof words);
    return crc32c(crc, cell, c->code_bytes + offsetof(struct code_tail, crc));
}

static void note_reach(const struct codec *c, float norm2)
{
    float seen = atomic_load_explicit(c->reach2, memory_order_relaxed);
    while (norm2 > seen && !atomic_compare_exchange_weak_explicit(
                               c->reach2, &seen, norm2, memory_order_relaxed, memory_order_relaxed))
        ;
}

static void encode_int8(const struct codec *c, const float *x, uint8_t *cell,
                        struct code_tail *tail)
{
    int32_t sum;
    int64_t squares;
    float scale = quantize(x, c->padded, (int8_t *)cell, &sum, &squares);
    for (size_t i = 0; i < c->padded; i++)
        cell[i] ^= 0x80; /* signed to unsigned: + 128 */
    tail->scale = scale;
    tail->sum = sum;
    tail->norm2 = (float)((double)scale * scale * (double)squares);
}

/* The scale that makes the estimate of inner products unbiased (Gao and Long, "RaBitQ", SIGMOD
 * 2024); the norm is the row's own for the same reason. */
static void encode_binary(const struct codec *c, const float *x, uint8_t *cell,
                          struct code_tail *tail)
{
    double sum = 0, norm2 = 0;
    memset(cell, 0, c->code_bytes);
    for (size_t i = 0; i < c->dimension; i++) {
        sum += fabsf(x[i]);
        norm2 += (double)x[i] * x[i];
        if (x[i] < 0) {
            tail->sum--;
            continue;
        }
        tail->sum++;
        cell[i / 8] |= (uint8_t)(1u << i % 8);
    }
    tail->norm2 = (float)norm2;
    tail->scale = sum > 0 ? (float)(norm2 / sum) : 0;
}

bool codec_encode(const struct codec *c, uint32_t node, const float *row, uint32_t generation,
                  uint8_t *cell, void *scratch)
{
    float *x = scratch;
    double norm2 = c->kernels->dot(row, row, c->dimension), factor = factor_for_row(c, norm2);
    if (factor == 0) return false;
    prepare(c, row, factor, true, x);
    struct code_tail tail = {.row_norm2 = (float)(norm2 * factor * factor),
                             .generation = generation + 1};
    switch (c->kind) {
    case CODEC_INT8:
        encode_int8(c, x, cell, &tail);
        break;
    case CODEC_BINARY:
        encode_binary(c, x, cell, &tail);
        break;
    default:
        memcpy(cell, x, c->code_bytes);
        tail.norm2 = tail.row_norm2;
        tail.scale = 1;
    }
    size_t used = c->code_bytes + sizeof tail;
    memcpy(cell + c->code_bytes, &tail, sizeof tail);
    memset(cell + used, 0, c->cell_bytes - used);
    codec_tail(c, cell)->crc = cell_crc(c, node, cell);
    if (c->metric == METRIC_DOT_PRODUCT) note_reach(c, tail.row_norm2);
    return true;
}

/* What encode_int8() and encode_binary() note in the tail. */
static int32_t sum_of_code(const struct codec *c, const uint8_t *cell)
{
    int32_t sum = 0;
    switch (c->kind) {
    case CODEC_INT8:
        for (size_t i = 0; i < c->padded; i++)
            sum += cell[i] - 128;
        return sum;
    case CODEC_BINARY:
        for (size_t i = 0; i < c->code_bytes; i++)
            sum += __builtin_popcount(cell[i]);
        return 2 * sum - (int32_t)c->dimension;
    default:
        return 0;
    }
}

bool codec_cell_is_good(const struct codec *c, uint32_t node, const uint8_t *cell,
                        uint32_t generation)
{
    const struct code_tail *tail = codec_tail(c, cell);
    return tail->generation == generation + 1 && tail->crc == cell_crc(c, node, cell) &&
           tail->scale >= 0 && tail->norm2 >= 0 && tail->row_norm2 >= 0 && /* no NaN either */
           tail->sum == sum_of_code(c, cell);
}

void codec_move_cell(const struct codec *c, uint32_t node, uint32_t generation, uint8_t *cell)
{
    struct code_tail *tail = codec_tail(c, cell);
    tail->generation = generation + 1;
    tail->crc = cell_crc(c, node, cell);
}

/* ---- distances ---- */

void codec_query_from_vector(const struct codec *c, struct codec_query *q, const float *vector,
                             void *scratch)
{
    float *x = c->kind == CODEC_FLOAT32 ? q->code : scratch;
    double factor = factor_for_query(c, c->kernels->dot(vector, vector, c->dimension));
    /* Inner products do not care where the centre is; distances do. */
    bool centre = c->metric != METRIC_DOT_PRODUCT;
    *q = (struct codec_query){.code = q->code, .scale = 1};
    prepare(c, vector, factor, centre, x);
    if (c->kind == CODEC_FLOAT32) return;
    int32_t sum;
    int64_t squares;
    q->scale = quantize(x, c->padded, q->code, &sum, &squares);
    q->bias = c->kind == CODEC_INT8 ? 128 * sum : sum;
}

/* The rows of two cells are a and b, and m is the mean that was taken away:
 *   <a, b> = <a - m, b - m> + (|a|^2 - |a - m|^2) / 2 + (|b|^2 - |b - m|^2) / 2.
 * One of these halves. */
static float product_from_mean(const struct codec *c, const struct code_tail *tail)
{
    return c->kind == CODEC_FLOAT32 ? 0 : (tail->row_norm2 - tail->norm2) / 2;
}

static float augmented(const struct codec_query *q, float row_norm2)
{
    float rest = q->reach2 - row_norm2;
    return rest > 0 ? sqrtf(rest) : 0;
}

/* `restrict`, for bytes may be anything's: without it each store is followed by a load of `n`. */
static void to_signed(int8_t *restrict to, const uint8_t *restrict from, size_t n)
{
    for (size_t i = 0; i < n; i++)
        to[i] = (int8_t)(from[i] ^ 0x80);
}

void codec_query_from_cell(const struct codec *c, struct codec_query *q, const uint8_t *cell)
{
    const struct code_tail *tail = codec_tail(c, cell);
    int8_t *code = q->code;
    *q = (struct codec_query){
        .code = code, .scale = tail->scale, .norm2 = tail->norm2, .from_cell = true};
    if (c->metric == METRIC_DOT_PRODUCT) {
        q->reach2 = atomic_load_explicit(c->reach2, memory_order_relaxed);
        q->augmented = augmented(q, tail->row_norm2);
    }
    switch (c->kind) {
    case CODEC_INT8:
        to_signed(code, cell, c->padded);
        q->bias = 128 * tail->sum;
        break;
    case CODEC_BINARY:
        memset(code, 0, c->padded);
        for (size_t i = 0; i < c->dimension; i++)
            code[i] = cell[i / 8] >> i % 8 & 1 ? 1 : -1;
        q->bias = tail->sum;
        /* As good a guess as with the scales of the tails, but the same from both sides: the
         * signs that agree stand for the cosine. */
        q->scale = sqrtf(tail->norm2) / (float)c->dimension;
        break;
    default:
        memcpy(code, cell, c->code_bytes);
    }
}

void codec_query_product(const struct codec *c, struct codec_query *q, const uint8_t *cell)
{
    codec_query_from_cell(c, q, cell);
    q->by_product = true;
    q->from_mean = product_from_mean(c, codec_tail(c, cell));
}

/* Inner products of numbers to distances: `products` is what the kernel gave for `ids`. */
static void from_products(const struct codec *c, const struct codec_query *q, const uint8_t *cells,
                          const struct code_factors *factors, const uint32_t *ids, size_t count,
                          const int32_t *products, float *out)
{
    /* Binary: the sum over set bits, twice, less that over all, is the sum with signs. */
    int32_t times = c->kind == CODEC_BINARY ? 2 : 1;
    struct code_factors f[CHUNK] UNINITIALIZED;
    for (size_t i = 0; i < count; i++) {
        if (factors) {
            f[i] = factors[ids[i]];
        } else {
            const struct code_tail *tail = codec_tail(c, cells + (size_t)ids[i] * c->cell_bytes);
            f[i] = (struct code_factors){tail->scale, tail->norm2};
        }
    }
    for (size_t i = 0; i < count && c->kind == CODEC_BINARY && q->from_cell; i++)
        f[i].scale = sqrtf(f[i].norm2);
    for (size_t i = 0; i < count; i++)
        out[i] = q->scale * f[i].scale * (float)(times * products[i] - q->bias);
    if (c->metric == METRIC_DOT_PRODUCT && !q->from_cell) {
        for (size_t i = 0; i < count; i++)
            out[i] = -out[i];
        return;
    }
    if (q->by_product) {
        for (size_t i = 0; i < count; i++) {
            const struct code_tail *tail = codec_tail(c, cells + (size_t)ids[i] * c->cell_bytes);
            out[i] = -(out[i] + q->from_mean + product_from_mean(c, tail));
        }
        return;
    }
    for (size_t i = 0; i < count; i++)
        out[i] = f[i].norm2 + q->norm2 - 2 * out[i];
    for (size_t i = 0; i < count && c->metric == METRIC_DOT_PRODUCT; i++) {
        const struct code_tail *tail = codec_tail(c, cells + (size_t)ids[i] * c->cell_bytes);
        float step = augmented(q, tail->row_norm2) - q->augmented;
        out[i] += step * step;
    }
}

static void float_distances(const struct codec *c, const struct codec_query *q,
                            const uint8_t *cells, const uint32_t *ids, size_t count, float *out)
{
    size_t stride = c->cell_bytes, n = c->dimension;
    if (c->metric == METRIC_MANHATTAN) {
        c->kernels->l1_f32(cells, stride, ids, count, q->code, n, out);
    } else if (c->metric == METRIC_DOT_PRODUCT && (!q->from_cell || q->by_product)) {
        c->kernels->dot_f32(cells, stride, ids, count, q->code, n, out);
        for (size_t i = 0; i < count; i++)
            out[i] = -out[i];
    } else {
        c->kernels->l2sq_f32(cells, stride, ids, count, q->code, n, out);
        for (size_t i = 0; i < count && c->metric == METRIC_DOT_PRODUCT; i++) {
            const struct code_tail *tail = codec_tail(c, cells + (size_t)ids[i] * stride);
            float step = augmented(q, tail->row_norm2) - q->augmented;
            out[i] += step * step;
        }
    }
}

void codec_distances(const struct codec *c, const struct codec_query *q, const uint8_t *cells,
                     const struct code_factors *factors, const uint32_t *ids, size_t count,
                     float *out)
{
    if (c->kind == CODEC_FLOAT32) {
        float_distances(c, q, cells, ids, count, out);
        return;
    }
    int32_t products[CHUNK] UNINITIALIZED;
    kernel_codes_fn *kernel = c->kind == CODEC_INT8 ? c->kernels->dot_u8s8 : c->kernels->dot_u1s8;
    for (size_t at = 0; at < count; at += CHUNK) {
        size_t n = count - at < CHUNK ? count - at : CHUNK;
        kernel(cells, c->cell_bytes, ids + at, n, q->code, c->padded, products);
        from_products(c, q, cells, factors, ids + at, n, products, out + at);
    }
}

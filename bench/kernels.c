/*
 * kernels.c - nanoseconds per distance of every kernel set, and how much faster than scalar it is.
 *
 * "cache": the rows fit into the second-level cache.  "random": rows anywhere in 64 MiB, the next
 * ones prefetched as a graph search does it.
 */
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "bench/support/contest.h"
#include "storage/base/clock.h"

enum {
    LINE = 64,
    BATCH = 12, /* new neighbours of a node, more or less */
    BATCHES = 512,
    NUMBERS_PER_ROUND = 1000000,
    SMALL_REGION = 96 << 10,
    LARGE_REGION = 64 << 20,
    LINES_PREFETCHED = 16,
};

static volatile double sink;

struct work;
typedef double score_fn(const struct kernel_set *, const struct work *, const uint32_t *ids);

/* Scores BATCH rows; what it returns keeps the compiler honest. */
struct function {
    const char *name;
    size_t bits; /* of an element of a row */
    score_fn *score;
};

struct work {
    const struct function *function;
    const uint8_t *base;
    size_t dimension, stride;
    bool prefetch;
    const float *query;
    const int8_t *byte_query;
    uint32_t ids[BATCHES * BATCH];
};

static const float *row(const struct work *w, uint32_t id)
{
    return (const float *)(const void *)(w->base + id * w->stride);
}

static double one_by_one(kernel_fn *f, const struct work *w, const uint32_t *ids)
{
    double total = 0;
    for (size_t i = 0; i < BATCH; i++)
        total += f(w->query, row(w, ids[i]), w->dimension);
    return total;
}

static double together(kernel_rows_fn *f, const struct work *w, const uint32_t *ids)
{
    const float *rows[BATCH];
    double out[BATCH];
    for (size_t i = 0; i < BATCH; i++)
        rows[i] = row(w, ids[i]);
    f(w->query, rows, BATCH, w->dimension, out);
    return out[0];
}

static double codes(kernel_codes_fn *f, const struct work *w, const uint32_t *ids)
{
    int32_t out[BATCH];
    f(w->base, w->stride, ids, BATCH, w->byte_query, w->dimension, out);
    return out[0];
}

static double floats(kernel_floats_fn *f, const struct work *w, const uint32_t *ids)
{
    float out[BATCH];
    f(w->base, w->stride, ids, BATCH, w->query, w->dimension, out);
    return (double)out[0];
}

#define SCORE(name, how)                                                                           \
    static double score_##name(const struct kernel_set *set, const struct work *w,                 \
                               const uint32_t *ids)                                                \
    {                                                                                              \
        return how(set->name, w, ids);                                                             \
    }
SCORE(dot, one_by_one)
SCORE(l2sq, one_by_one)
SCORE(l1, one_by_one)
SCORE(dot_rows, together)
SCORE(l2sq_rows, together)
SCORE(l1_rows, together)
SCORE(dot_u8s8, codes)
SCORE(dot_u1s8, codes)
SCORE(dot_f32, floats)
SCORE(l2sq_f32, floats)
SCORE(l1_f32, floats)
#undef SCORE

static double score_dot_norm(const struct kernel_set *set, const struct work *w,
                             const uint32_t *ids)
{
    double total = 0, norm2;
    for (size_t i = 0; i < BATCH; i++)
        total += set->dot_norm(w->query, row(w, ids[i]), w->dimension, &norm2) + norm2;
    return total;
}

static double score_dot_norm_rows(const struct kernel_set *set, const struct work *w,
                                  const uint32_t *ids)
{
    const float *rows[BATCH];
    double out[BATCH], norm2[BATCH];
    for (size_t i = 0; i < BATCH; i++)
        rows[i] = row(w, ids[i]);
    set->dot_norm_rows(w->query, rows, BATCH, w->dimension, out, norm2);
    return out[0] + norm2[0];
}

static const struct function FUNCTIONS[] = {
    {"dot", 32, score_dot},
    {"l2sq", 32, score_l2sq},
    {"l1", 32, score_l1},
    {"dot_norm", 32, score_dot_norm},
    {"dot_rows", 32, score_dot_rows},
    {"l2sq_rows", 32, score_l2sq_rows},
    {"l1_rows", 32, score_l1_rows},
    {"dot_norm_rows", 32, score_dot_norm_rows},
    {"dot_u8s8", 8, score_dot_u8s8},
    {"dot_u1s8", 1, score_dot_u1s8},
    {"dot_f32", 32, score_dot_f32},
    {"l2sq_f32", 32, score_l2sq_f32},
    {"l1_f32", 32, score_l1_f32},
};

static void prefetch(const struct work *w, const uint32_t *ids)
{
    for (size_t i = 0; i < BATCH; i++) {
        const uint8_t *cell = w->base + ids[i] * w->stride;
        for (size_t l = 0; l < LINES_PREFETCHED && l * LINE < w->stride; l++) {
            __builtin_prefetch(cell + l * LINE);
            atomic_signal_fence(memory_order_seq_cst); /* or gcc 12 keeps only the first one */
        }
    }
}

static double measure(const struct kernel_set *set, const void *work)
{
    const struct work *w = work;
    const size_t batches = NUMBERS_PER_ROUND / (BATCH * w->dimension) + 1;
    static size_t position; /* goes on where the last measurement ended */
    double total = 0;
    const uint64_t begin = clock_ns();
    for (size_t b = 0; b < batches; b++) {
        const uint32_t *ids = w->ids + position * BATCH;
        position = (position + 1) % BATCHES;
        if (w->prefetch) prefetch(w, w->ids + position * BATCH);
        total += w->function->score(set, w, ids);
    }
    const uint64_t end = clock_ns();
    sink = total;
    return (double)(end - begin) / (double)(batches * BATCH);
}

static uint32_t next_random(void)
{
    static uint64_t state = 88172645463325252u;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 16);
}

static void run(struct work *w, size_t region, const char *region_name)
{
    w->stride = (w->dimension * w->function->bits / 8 + LINE - 1) / LINE * LINE;
    w->prefetch = region == LARGE_REGION;
    for (size_t i = 0; i < BATCHES * BATCH; i++)
        w->ids[i] = next_random() % (uint32_t)(region / w->stride);
    char more[64];
    snprintf(more, sizeof more, "\"dimension\":%zu,\"region\":\"%s\"", w->dimension, region_name);
    contest_run(&(struct contest){w->function->name, more, measure, w});
}

int main(void)
{
    static const size_t dimensions[] = {128, 256, 768, 1536};
    enum { LONGEST = 1536 };
    static float query[LONGEST];
    static int8_t byte_query[LONGEST];
    for (size_t i = 0; i < LONGEST; i++) {
        query[i] = (float)(i * 7 % 13) - 6;
        byte_query[i] = (int8_t)(i * 7 % 255 - 127);
    }
    float *numbers = aligned_alloc(LINE, LARGE_REGION);
    if (!numbers) return 1;
    for (size_t i = 0; i < LARGE_REGION / sizeof *numbers; i++)
        numbers[i] = (float)(i * 5 % 17) - 8;

    static struct work work;
    work.base = (const uint8_t *)(void *)numbers;
    work.query = query;
    work.byte_query = byte_query;
    for (size_t d = 0; d < sizeof dimensions / sizeof *dimensions; d++) {
        work.dimension = dimensions[d];
        for (size_t f = 0; f < sizeof FUNCTIONS / sizeof *FUNCTIONS; f++) {
            work.function = &FUNCTIONS[f];
            run(&work, SMALL_REGION, "cache");
            run(&work, LARGE_REGION, "random");
        }
    }
    free(numbers);
    return 0;
}

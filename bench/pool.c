/*
 * pool.c - the candidate pool and the Walsh-Hadamard transform of every kernel set: nanoseconds per
 * offered candidate, and per transform.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/support/contest.h"
#include "storage/base/clock.h"
#include "storage/kernel/pool.h"

enum {
    BATCH = 12,
    CANDIDATES = 400000, /* so many that no branch predictor learns them by heart */
    LIMIT_MAX = 4000,
    LENGTH_MAX = 4096,
    TRANSFORMS = 200,
};

static volatile float sink;

struct work {
    struct pool *pool;
    size_t searches, offers; /* offers in one search */
    size_t length;
    float *numbers;
    const uint32_t *ids;
    const float *distances; /* searches * offers * BATCH */
};

static float random_unit(void)
{
    static uint64_t state = 88172645463325252u;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (float)(state >> 40) / (float)(1 << 24);
}

/* As a search meets them: ever nearer at first, then a crowd of which few are near enough. */
static void fill(float *distances, size_t searches, size_t offers)
{
    for (size_t s = 0; s < searches; s++) {
        for (size_t o = 0; o < offers; o++) {
            const float scale = 0.5f + expf(-8.0f * (float)o / (float)offers);
            for (size_t i = 0; i < BATCH; i++)
                *distances++ = scale * (0.5f + random_unit());
        }
    }
}

static double measure_pool(const struct kernel_set *set, const void *work)
{
    const struct work *w = work;
    const float *distances = w->distances;
    const uint64_t begin = clock_ns();
    for (size_t s = 0; s < w->searches; s++) {
        pool_clear(w->pool);
        for (size_t o = 0; o < w->offers; o++, distances += BATCH)
            set->pool_offer(w->pool, w->ids, distances, BATCH);
    }
    const uint64_t end = clock_ns();
    sink = w->pool->worst;
    return (double)(end - begin) / (double)(w->searches * w->offers * BATCH);
}

static double measure_hadamard(const struct kernel_set *set, const void *work)
{
    const struct work *w = work;
    const uint64_t begin = clock_ns();
    for (size_t i = 0; i < TRANSFORMS; i++)
        set->hadamard(w->numbers, w->length);
    const uint64_t end = clock_ns();
    sink = w->numbers[0];
    return (double)(end - begin) / TRANSFORMS;
}

static void run_pool(struct work *w, uint32_t limit)
{
    w->offers = 2 * limit < 40 ? 40 : 2 * limit;
    w->searches = CANDIDATES / (w->offers * BATCH);
    fill((float *)(uintptr_t)w->distances, w->searches, w->offers);
    pool_clear(w->pool);
    w->pool->limit = limit;
    char more[64];
    snprintf(more, sizeof more, "\"limit\":%u", limit);
    contest_run(&(struct contest){"pool_offer", more, measure_pool, w});
}

int main(void)
{
    static const uint32_t limits[] = {10, 20, 50, 100, 200, 500, 1000, 4000};
    static _Alignas(64) float distance[LIMIT_MAX + POOL_PADDING], numbers[LENGTH_MAX];
    static _Alignas(64) uint32_t id[LIMIT_MAX + POOL_PADDING];
    static uint32_t ids[BATCH];
    float *distances = malloc(CANDIDATES * sizeof *distances);
    if (!distances) return 1;
    struct pool pool;
    pool_init(&pool, distance, id, LIMIT_MAX);
    struct work work = {.pool = &pool, .numbers = numbers, .ids = ids, .distances = distances};
    for (size_t i = 0; i < LENGTH_MAX; i++)
        numbers[i] = random_unit();

    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++)
        run_pool(&work, limits[i]);
    for (work.length = 128; work.length <= LENGTH_MAX; work.length *= 2) {
        char more[64];
        snprintf(more, sizeof more, "\"length\":%zu", work.length);
        contest_run(&(struct contest){"hadamard", more, measure_hadamard, &work});
    }
    free(distances);
    return 0;
}

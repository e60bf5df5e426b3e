/* pool_offer of every set against a model that sorts one entry at a time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "storage/kernel/kernel.h"
#include "storage/kernel/pool.h"
#include "tests/storage/kernel/random.h"

enum { LARGEST = 16384, OFFERED_MAX = 300 };

struct entry {
    float distance;
    uint32_t id;
};

static struct entry model[LARGEST + 1];
static uint32_t model_count;

static uint32_t model_insert(struct entry e, uint32_t limit)
{
    if (!(e.distance < INFINITY)) return UINT32_MAX;
    uint32_t at = model_count;
    while (at > 0 && model[at - 1].distance > e.distance)
        at--;
    if (at == limit) return UINT32_MAX;
    memmove(model + at + 1, model + at, (model_count - at) * sizeof *model);
    model[at] = e;
    if (model_count < limit) model_count++;
    return at;
}

static uint32_t model_offer(const uint32_t *ids, const float *distances, size_t count,
                            uint32_t limit)
{
    uint32_t lowest = UINT32_MAX;
    for (size_t i = 0; i < count; i++) {
        const uint32_t at = model_insert((struct entry){distances[i], ids[i]}, limit);
        if (at < lowest) lowest = at;
    }
    return lowest;
}

static struct pool new_pool(uint32_t limit)
{
    /* Exactly as much memory as the header asks for; AddressSanitizer sees any access behind. */
    float *distance = malloc((limit + POOL_PADDING) * sizeof *distance);
    uint32_t *id = calloc(limit + POOL_PADDING, sizeof *id);
    assert_non_null(distance);
    assert_non_null(id);
    struct pool pool;
    pool_init(&pool, distance, id, limit);
    return pool;
}

static void free_pool(struct pool *pool)
{
    free(pool->distance);
    free(pool->id);
}

static void check_pool(const struct kernel_set *set, const struct pool *pool)
{
    if (pool->count != model_count)
        fail_msg("%s: %u entries, not %u", set->name, pool->count, model_count);
    for (uint32_t i = 0; i < model_count; i++) {
        if (memcmp(&pool->distance[i], &model[i].distance, 4) != 0 || pool->id[i] != model[i].id)
            fail_msg("%s: entry %u of %u (limit %u) is %u at %g, not %u at %g", set->name, i,
                     model_count, pool->limit, pool->id[i], (double)pool->distance[i], model[i].id,
                     (double)model[i].distance);
    }
    for (uint32_t i = model_count; i < pool->limit + POOL_PADDING; i++) {
        if (!(pool->distance[i] >= pool->worst))
            fail_msg("%s: distance %u behind %u entries (limit %u) is %g", set->name, i,
                     model_count, pool->limit, (double)pool->distance[i]);
    }
    const float worst = model_count == pool->limit ? model[model_count - 1].distance : INFINITY;
    assert_true(pool->worst == worst);
}

/* What a search does: offer some, mark some as expanded, offer more. */
static void run(const struct kernel_set *set, struct pool *pool, float (*distance)(void),
                size_t offers)
{
    model_count = 0;
    for (size_t round = 0; round < offers; round++) {
        const size_t count = random_bits() % 16 ? random_bits() % 40 : random_bits() % OFFERED_MAX;
        uint32_t *ids = malloc(count * sizeof *ids);
        float *distances = malloc(count * sizeof *distances);
        assert_true(!count || (ids && distances));
        for (size_t i = 0; i < count; i++) {
            ids[i] = (uint32_t)random_bits();
            distances[i] = distance();
        }
        const uint32_t want = model_offer(ids, distances, count, pool->limit);
        const uint32_t got = set->pool_offer(pool, ids, distances, count);
        if (got != want)
            fail_msg("%s: lowest change at %u, not %u (limit %u)", set->name, got, want,
                     pool->limit);
        check_pool(set, pool);
        free(ids);
        free(distances);

        for (int marks = 0; marks < 3 && model_count; marks++) {
            const size_t i = random_bits() % model_count;
            model[i].id |= POOL_EXPANDED;
            pool->id[i] |= POOL_EXPANDED;
        }
    }
}

static float coarse(void)
{
    return (float)(random_bits() % 12) - 4;
}

static float shrinking_scale;

/* Later candidates tend to be nearer, as in a search. */
static float nearer_and_nearer(void)
{
    shrinking_scale *= 0.999f;
    return (random_unit() + 1) * shrinking_scale;
}

static float odd_ones(void)
{
    switch (random_bits() % 8) {
    case 0:
        return INFINITY;
    case 1:
        return NAN;
    case 2:
        return 0.0f;
    case 3:
        return -0.0f;
    case 4:
        return -random_any();
    default:
        return random_any();
    }
}

static void check_all(float (*distance)(void))
{
    static const uint32_t limits[] = {1,  2,  3,  7,  8,  9,  15, 16,  17,  31,
                                      32, 33, 47, 48, 63, 64, 65, 100, 1000};
    for (size_t s = 0; kernel_sets[s]; s++) {
        if (!kernel_sets[s]->supported()) continue;
        for (size_t l = 0; l < sizeof limits / sizeof *limits; l++) {
            shrinking_scale = 1;
            struct pool pool = new_pool(limits[l]);
            run(kernel_sets[s], &pool, distance, 60);
            free_pool(&pool);
        }
    }
}

static void any_sequence_gives_what_the_model_gives(void **state)
{
    (void)state;
    check_all(random_unit);
    check_all(nearer_and_nearer);
}

static void equal_distances_keep_the_order_of_arrival(void **state)
{
    (void)state;
    check_all(coarse);
}

static void infinity_and_nan_never_get_in(void **state)
{
    (void)state;
    check_all(odd_ones);
}

static void the_longest_pool_works(void **state)
{
    (void)state;
    for (size_t s = 0; kernel_sets[s]; s++) {
        if (!kernel_sets[s]->supported()) continue;
        struct pool pool = new_pool(LARGEST);
        run(kernel_sets[s], &pool, random_unit, 1200);
        assert_int_equal(pool.count, LARGEST);
        free_pool(&pool);
    }
}

static void a_cleared_pool_is_as_new_and_may_be_smaller(void **state)
{
    (void)state;
    for (size_t s = 0; kernel_sets[s]; s++) {
        if (!kernel_sets[s]->supported()) continue;
        struct pool pool = new_pool(100);
        for (uint32_t limit = 100; limit; limit--) {
            pool_clear(&pool);
            for (uint32_t i = 0; i < 100 + POOL_PADDING; i++)
                assert_true(pool.distance[i] == INFINITY);
            pool.limit = limit;
            run(kernel_sets[s], &pool, random_unit, 8);
        }
        free_pool(&pool);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_sequence_gives_what_the_model_gives),
        cmocka_unit_test(equal_distances_keep_the_order_of_arrival),
        cmocka_unit_test(infinity_and_nan_never_get_in),
        cmocka_unit_test(the_longest_pool_works),
        cmocka_unit_test(a_cleared_pool_is_as_new_and_may_be_smaller),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

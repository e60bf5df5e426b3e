/* The best rows so far. */
#include "tests/storage/fixture.h"

#include "storage/index/nearest.h"

enum { SLOTS = 500 };

static struct slot slots[SLOTS];
static struct reader reader = {.slot_count = SLOTS};
static double distances[SLOTS];

/* As many different distances as asked for, so that there are ties. */
static void fill(uint32_t different)
{
    uint64_t seed = different;
    for (uint32_t i = 0; i < SLOTS; i++) {
        slots[i] = (struct slot){.key = (i * 7919u) % SLOTS}; /* ids in another order than slots */
        distances[i] = (double)(test_random(&seed) % different);
    }
}

static int by_distance_and_id(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    if (distances[x] != distances[y]) return distances[x] < distances[y] ? -1 : 1;
    return slots[x].key < slots[y].key ? -1 : 1;
}

static void offer(struct nearest *n, uint32_t slot, bool once)
{
    struct candidate c = {.distance = distances[slot], .slot_number = slot, .slot = &slots[slot]};
    if (once)
        nearest_offer_once(n, &c);
    else
        nearest_offer(n, &c);
}

static void check(struct nearest *n, size_t limit)
{
    uint32_t order[SLOTS];
    for (uint32_t i = 0; i < SLOTS; i++)
        order[i] = i;
    qsort(order, SLOTS, sizeof order[0], by_distance_and_id);
    nearest_sort(n);
    assert_int_equal(n->count, limit);
    for (size_t i = 0; i < limit; i++)
        assert_int_equal(n->heap[i].slot_number, order[i]);
    nearest_deinit(n);
}

static const uint32_t limits[] = {1, 2, 10, 100, SLOTS};
static const uint32_t ties[] = {1, 3, 50, 1000000};

static void the_best_are_kept_and_ties_broken_by_id(void **state)
{
    (void)state;
    struct err err;
    for (size_t t = 0; t < sizeof ties / sizeof ties[0]; t++) {
        for (size_t k = 0; k < sizeof limits / sizeof limits[0]; k++) {
            struct nearest n;
            fill(ties[t]);
            CHECK_OK(nearest_init(&n, &reader, limits[k], &err));
            for (uint32_t i = 0; i < SLOTS; i++)
                offer(&n, i, false);
            check(&n, limits[k]);
        }
    }
}

static void a_row_that_is_offered_again_counts_once(void **state)
{
    (void)state;
    struct err err;
    for (size_t t = 0; t < sizeof ties / sizeof ties[0]; t++) {
        for (size_t k = 0; k < sizeof limits / sizeof limits[0]; k++) {
            struct nearest n;
            uint64_t seed = 1;
            fill(ties[t]);
            CHECK_OK(nearest_init(&n, &reader, limits[k], &err));
            for (int attempt = 0; attempt < 2; attempt++) {
                n.count = 0;
                for (uint32_t i = 0; i < SLOTS; i++) {
                    offer(&n, i, true);
                    for (int again = 0; again < 3; again++)
                        offer(&n, (uint32_t)(test_random(&seed) % (i + 1)), true);
                }
            }
            check(&n, limits[k]);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_best_are_kept_and_ties_broken_by_id),
        cmocka_unit_test(a_row_that_is_offered_again_counts_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

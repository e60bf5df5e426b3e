/* Which results a store keeps: those of filters that come again, the newest, no more than fit. */
#include "tests/storage/fixture.h"

#include <inttypes.h>

#include "storage/base/epoch.h"
#include "storage/filter/filter_cache.h"

/* A filter that is nothing but its key. */
struct named {
    char key[16];
    struct filter filter;
};

static const struct filter *name(struct named *n, uint64_t number)
{
    memset(n, 0, sizeof *n);
    snprintf(n->key, sizeof n->key, "%" PRIu64, number);
    n->filter.key = (const uint8_t *)n->key;
    n->filter.key_bytes = (uint32_t)strlen(n->key);
    n->filter.hash = number * UINT64_C(0x9e3779b97f4a7c15);
    return &n->filter;
}

static struct filter_result *make(const struct filter *filter, uint32_t first, size_t count)
{
    uint32_t *slots;
    struct filter_result *result = filter_result_new_list(filter, count, &slots);
    assert_non_null(result);
    for (size_t i = 0; i < count; i++)
        slots[i] = first + (uint32_t)i;
    return result;
}

/* False: the cache does not take it. */
static bool put(struct filter_cache *c, uint64_t number, uint64_t lsn, size_t count)
{
    struct named n;
    const struct filter *filter = name(&n, number);
    struct filter_result *result = make(filter, (uint32_t)number, count);
    filter_cache_note(c, filter);
    if (filter_cache_put(c, result, lsn, 0)) return true;
    filter_result_free(result);
    return false;
}

/* The LSN of what is kept; 0: nothing is. */
static uint64_t find(struct filter_cache *c, uint64_t number)
{
    struct named n;
    uint64_t lsn = 0;
    const struct filter_result *result = filter_cache_find(c, name(&n, number), &lsn);
    if (!result) return 0;
    assert_true(result->count == 0 || result->slots[0] == number);
    return lsn;
}

static void a_filter_is_wanted_when_it_was_used_before(void **state)
{
    (void)state;
    struct named n;
    struct filter_cache *c = filter_cache_new();
    assert_int_equal(filter_cache_bytes(c), 0);
    /* These do not get in each other's way. */
    for (uint64_t i = 0; i < 200; i++) {
        assert_false(filter_cache_wants(c, name(&n, i)));
        assert_false(filter_cache_wants(c, name(&n, i)));
        filter_cache_note(c, name(&n, i));
    }
    for (uint64_t i = 0; i < 200; i++)
        assert_true(filter_cache_wants(c, name(&n, i)));
    struct filter unnamed = {0};
    filter_cache_note(c, &unnamed);
    assert_false(filter_cache_wants(c, &unnamed));
    filter_cache_free(c);
}

static void the_newest_result_stays(void **state)
{
    (void)state;
    struct named n;
    struct filter_cache *c = filter_cache_new();
    epoch_enter();
    assert_int_equal(find(c, 7), 0);
    assert_true(put(c, 7, 10, 5));
    assert_int_equal(find(c, 7), 10);
    assert_false(put(c, 7, 10, 5));
    assert_false(put(c, 7, 9, 5));
    assert_true(put(c, 7, 12, 5));
    assert_int_equal(find(c, 7), 12);
    uint64_t lsn;
    struct filter_result *result = filter_cache_find(c, name(&n, 7), &lsn);
    filter_result_raise(result, 11);
    assert_int_equal(find(c, 7), 12);
    filter_result_raise(result, 20);
    assert_int_equal(find(c, 7), 20);
    assert_false(put(c, 7, 19, 5));
    epoch_leave();
    filter_cache_free(c);
    epoch_collect();
}

/* A hash says where to look, and no more. */
static void equal_hashes_are_kept_apart(void **state)
{
    (void)state;
    struct named a, b;
    uint64_t lsn;
    struct filter_cache *c = filter_cache_new();
    name(&a, 1);
    name(&b, 2);
    b.filter.hash = a.filter.hash;
    filter_cache_note(c, &a.filter);
    epoch_enter();
    assert_true(filter_cache_put(c, make(&a.filter, 1, 3), 5, 0));
    assert_null(filter_cache_find(c, &b.filter, &lsn));
    assert_true(filter_cache_put(c, make(&b.filter, 2, 3), 6, 0));
    assert_int_equal(filter_cache_find(c, &a.filter, &lsn)->slots[0], 1);
    assert_int_equal(filter_cache_find(c, &b.filter, &lsn)->slots[0], 2);
    epoch_leave();
    filter_cache_free(c);
}

static uint64_t count_kept(struct filter_cache *c, uint64_t filters)
{
    uint64_t kept = 0;
    for (uint64_t i = 1; i <= filters; i++)
        kept += find(c, i) != 0;
    return kept;
}

static void there_are_no_more_results_than_agreed_and_the_used_ones_stay(void **state)
{
    (void)state;
    struct filter_cache *c = filter_cache_new();
    enum { FILTERS = 3 * FILTER_RESULTS_MAX };
    epoch_enter();
    for (uint64_t i = 1; i <= FILTERS; i++) {
        assert_true(put(c, i, 1, 4));
        assert_int_equal(find(c, i), 1);
        assert_int_equal(find(c, 1), 1); /* used all along */
    }
    epoch_leave();
    uint64_t kept = count_kept(c, FILTERS);
    assert_true(kept > FILTER_RESULTS_MAX / 2 && kept <= FILTER_RESULTS_MAX);
    filter_cache_free(c);
    epoch_collect();
}

static void there_are_no_more_bytes_than_agreed(void **state)
{
    (void)state;
    struct filter_cache *c = filter_cache_new();
    const size_t large = FILTER_RESULT_BYTES_MIN / 8 / sizeof(uint32_t);
    epoch_enter();
    for (uint64_t i = 1; i <= 50; i++) {
        assert_true(put(c, i, 1, large));
        assert_true(filter_cache_bytes(c) <= FILTER_RESULT_BYTES_MIN);
    }
    uint64_t kept = count_kept(c, 50);
    assert_true(kept >= 6 && kept <= 8);
    assert_int_equal(find(c, 50), 1);
    /* One that would be more than all is not taken, and costs nothing. */
    assert_false(put(c, 51, 1, 8 * large));
    assert_int_equal(count_kept(c, 51), kept);
    /* Results of the same filter take each other's place. */
    for (uint64_t lsn = 2; lsn < 50; lsn++)
        assert_true(put(c, 50, lsn, large / 2));
    assert_int_equal(count_kept(c, 51), kept);
    epoch_leave();
    filter_cache_free(c);
    epoch_collect();
}

/* A reader that stays holds back what was taken out: that is bounded, too. */
static void what_is_taken_out_is_bounded(void **state)
{
    (void)state;
    enum { COUNT = FILTER_RESULT_BYTES_MIN / 2 / sizeof(uint32_t) };
    struct filter_cache *c = filter_cache_new();
    uint64_t lsn = 1;
    epoch_enter();
    while (lsn < 200 && put(c, 1, lsn, COUNT))
        lsn++;
    assert_true(lsn > 16);
    assert_true(lsn * COUNT * sizeof(uint32_t) < 2 * (uint64_t)FILTER_RESULT_BYTES_OUT);
    assert_int_equal(find(c, 1), lsn - 1);
    epoch_leave();
    epoch_collect();
    epoch_enter();
    assert_true(put(c, 1, lsn, COUNT));
    epoch_leave();
    filter_cache_free(c);
    epoch_collect();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_filter_is_wanted_when_it_was_used_before),
        cmocka_unit_test(the_newest_result_stays),
        cmocka_unit_test(equal_hashes_are_kept_apart),
        cmocka_unit_test(there_are_no_more_results_than_agreed_and_the_used_ones_stay),
        cmocka_unit_test(there_are_no_more_bytes_than_agreed),
        cmocka_unit_test(what_is_taken_out_is_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

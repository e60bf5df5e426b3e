/* Both forms of the comparisons, against what they mean. */
#include "tests/storage/fixture.h"

#include "storage/filter/compare.c"

enum { WORDS = 7, COUNT = WORDS * 64 };

typedef void doubles_fn(const double *numbers, const uint64_t *has, size_t words, double low,
                        double high, uint64_t *bits);
typedef void int64s_fn(const int64_t *numbers, const uint64_t *has, size_t words, int64_t low,
                       int64_t high, uint64_t *bits);

static void check_doubles(doubles_fn *fn)
{
    static const double special[] = {-INFINITY, INFINITY, 0.0, -0.0, 1e308, -5e-324, 3};
    uint64_t seed = 1;
    double numbers[COUNT];
    for (int round = 0; round < 300; round++) {
        uint64_t has[WORDS], bits[WORDS], before[WORDS];
        for (int i = 0; i < COUNT; i++)
            numbers[i] = test_random(&seed) % 8 ? (double)test_random_float(&seed)
                                                : special[test_random(&seed) % 7];
        for (int w = 0; w < WORDS; w++) {
            has[w] = w == 3 ? 0 : test_random(&seed) | test_random(&seed);
            bits[w] = before[w] = test_random(&seed) & test_random(&seed);
        }
        double low = round % 5 ? (double)test_random_float(&seed) : special[round / 5 % 7];
        double high = round % 7 ? low + 0.5 : special[round / 7 % 7];
        fn(numbers, has, WORDS, low, high, bits);
        for (int i = 0; i < COUNT; i++) {
            bool holds = (has[i / 64] >> i % 64 & 1) && numbers[i] >= low && numbers[i] <= high;
            assert_int_equal(bits[i / 64] >> i % 64 & 1, (before[i / 64] >> i % 64 & 1) | holds);
        }
    }
}

static void check_int64s(int64s_fn *fn)
{
    static const int64_t special[] = {INT64_MIN, INT64_MAX, 0, -1, INT64_MIN + 1};
    uint64_t seed = 2;
    int64_t numbers[COUNT];
    for (int round = 0; round < 300; round++) {
        uint64_t has[WORDS], bits[WORDS] = {0};
        for (int i = 0; i < COUNT; i++)
            numbers[i] = test_random(&seed) % 8 ? (int64_t)test_random(&seed) >> (round % 60)
                                                : special[test_random(&seed) % 5];
        for (int w = 0; w < WORDS; w++)
            has[w] = test_random(&seed);
        int64_t low = special[test_random(&seed) % 5], high = special[test_random(&seed) % 5];
        if (round % 3) low = (int64_t)test_random(&seed) >> (round % 60);
        if (round % 2) high = (int64_t)test_random(&seed) >> (round % 60);
        if (low > high) continue; /* an interval that is not empty */
        fn(numbers, has, WORDS, low, high, bits);
        for (int i = 0; i < COUNT; i++) {
            bool holds = (has[i / 64] >> i % 64 & 1) && numbers[i] >= low && numbers[i] <= high;
            assert_int_equal(bits[i / 64] >> i % 64 & 1, holds);
        }
    }
}

static void doubles_are_compared(void **state)
{
    (void)state;
    check_doubles(compare_doubles);
    check_doubles(doubles_plain);
}

static void int64s_are_compared(void **state)
{
    (void)state;
    check_int64s(compare_int64s);
    check_int64s(int64s_plain);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(doubles_are_compared),
        cmocka_unit_test(int64s_are_compared),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

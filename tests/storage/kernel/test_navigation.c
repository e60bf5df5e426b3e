/* The navigation kernels of every set against their definitions. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "storage/kernel/kernel.h"
#include "tests/storage/kernel/random.h"

enum { CELLS = 9, LONGEST = 65536, STRIDE_MAX = LONGEST * 4 + 64, HADAMARD_MAX = 65536 };

static uint8_t *cells;     /* CELLS * STRIDE_MAX */
static int8_t *byte_query; /* LONGEST */
static float *float_query; /* LONGEST */

static size_t round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

/* A copy that ends where its allocation ends, so that AddressSanitizer sees a read too far. */
static void *tight_copy(const void *from, size_t bytes)
{
    void *copy = malloc(bytes);
    assert_non_null(copy);
    memcpy(copy, from, bytes);
    return copy;
}

/* Every count up to more than two groups of four, cells in some order, some twice. */
static void some_ids(uint32_t *ids, size_t count)
{
    for (size_t i = 0; i < count; i++)
        ids[i] = (uint32_t)(random_bits() % CELLS);
}

static int64_t byte_product(const uint8_t *code, const int8_t *query, size_t bytes)
{
    int64_t sum = 0;
    for (size_t j = 0; j < bytes; j++)
        sum += (int64_t)code[j] * query[j];
    return sum;
}

static int64_t bit_product(const uint8_t *code, const int8_t *query, size_t dimension)
{
    int64_t sum = 0;
    for (size_t j = 0; j < dimension; j++)
        sum += code[j / 8] >> j % 8 & 1 ? query[j] : 0;
    return sum;
}

enum code { BYTES, BITS };

static void check_codes(enum code code, size_t count, size_t length)
{
    const size_t bytes = code == BYTES ? length : length / 8;
    const size_t stride = round_up(bytes, 64) + 64 * (random_bits() % 2);
    uint32_t ids[3 * CELLS];
    some_ids(ids, count);
    uint32_t *tight_ids = tight_copy(ids, count * sizeof *ids);
    int8_t *query = tight_copy(byte_query, length);
    for (size_t s = 0; kernel_sets[s]; s++) {
        if (!kernel_sets[s]->supported()) continue;
        int32_t *out = malloc(round_up(count, 4) * sizeof *out);
        assert_non_null(out);
        if (code == BYTES)
            kernel_sets[s]->dot_u8s8(cells, stride, tight_ids, count, query, length, out);
        else
            kernel_sets[s]->dot_u1s8(cells, stride, tight_ids, count, query, length, out);
        for (size_t i = 0; i < count; i++) {
            const uint8_t *cell = cells + ids[i] * stride;
            const int64_t want = code == BYTES ? byte_product(cell, query, length)
                                               : bit_product(cell, query, length);
            if (out[i] != want)
                fail_msg("%s: %d is not %ld at length %zu, %zu of %zu", kernel_sets[s]->name,
                         out[i], (long)want, length, i, count);
        }
        free(out);
    }
    free(query);
    free(tight_ids);
}

static void fill_codes(uint8_t (*code)(void), int8_t (*number)(void))
{
    for (size_t i = 0; i < CELLS * (size_t)STRIDE_MAX; i++)
        cells[i] = code();
    for (size_t i = 0; i < LONGEST; i++)
        byte_query[i] = number();
}

static uint8_t any_code(void)
{
    return (uint8_t)(random_bits() >> 20);
}

static uint8_t largest_code(void)
{
    return 255;
}

static uint8_t extreme_code(void)
{
    return random_bits() & 1 << 9 ? 255 : 0;
}

static int8_t any_number(void)
{
    return (int8_t)(random_bits() % 255 - 127);
}

static int8_t largest_number(void)
{
    return 127;
}

static int8_t smallest_number(void)
{
    return -127;
}

static int8_t extreme_number(void)
{
    return random_bits() & 1 << 9 ? 127 : -127;
}

static void check_lengths(enum code code)
{
    for (size_t length = 64; length <= 64 * 20; length += 64) {
        for (size_t count = 0; count <= 13; count++)
            check_codes(code, count, length);
    }
    check_codes(code, 3 * CELLS, 4096);
    check_codes(code, 7, LONGEST - 64);
    check_codes(code, 6, LONGEST);
}

static void integer_products_are_exact(void **state)
{
    (void)state;
    fill_codes(any_code, any_number);
    check_lengths(BYTES);
    check_lengths(BITS);
}

static void extreme_codes_neither_saturate_nor_overflow(void **state)
{
    (void)state;
    uint8_t (*const codes[])(void) = {largest_code, extreme_code};
    int8_t (*const numbers[])(void) = {largest_number, smallest_number, extreme_number};
    for (size_t c = 0; c < 2; c++) {
        for (size_t n = 0; n < 3; n++) {
            fill_codes(codes[c], numbers[n]);
            check_lengths(BYTES);
            check_lengths(BITS);
        }
    }
}

static void one_bit_is_one_number_of_the_query(void **state)
{
    (void)state;
    enum { DIMENSION = 512 };
    for (size_t j = 0; j < DIMENSION; j++)
        byte_query[j] = any_number();
    for (size_t bit = 0; bit < DIMENSION; bit++) {
        memset(cells, 0, DIMENSION / 8);
        cells[bit / 8] = (uint8_t)(1 << bit % 8);
        for (size_t s = 0; kernel_sets[s]; s++) {
            if (!kernel_sets[s]->supported()) continue;
            int32_t out[4];
            kernel_sets[s]->dot_u1s8(cells, 64, (uint32_t[]){0}, 1, byte_query, DIMENSION, out);
            assert_int_equal(out[0], byte_query[bit]);
        }
    }
}

/* ---- float32 ---- */

struct floats_of_one_pair {
    double value, magnitude; /* the sum, and the sum of the absolute terms */
};

enum distance { DOT, L2SQ, L1, DISTANCES };

static kernel_floats_fn *function_of(const struct kernel_set *set, enum distance d)
{
    return d == DOT ? set->dot_f32 : d == L2SQ ? set->l2sq_f32 : set->l1_f32;
}

static struct floats_of_one_pair define(enum distance d, const float *a, const float *b, size_t n)
{
    struct floats_of_one_pair r = {0, 0};
    for (size_t i = 0; i < n; i++) {
        const double x = a[i], y = b[i];
        const double term = d == DOT ? x * y : d == L2SQ ? (x - y) * (x - y) : fabs(x - y);
        r.value += term;
        r.magnitude += fabs(term);
    }
    return r;
}

static void check_floats(size_t count, size_t dimension)
{
    const size_t stride = round_up(dimension * 4, 64) + 64 * (random_bits() % 2);
    for (size_t i = 0; i < CELLS; i++) {
        float *cell = (float *)(void *)(cells + i * stride);
        for (size_t j = 0; j < stride / 4; j++)
            cell[j] = j < dimension ? random_unit() : j < round_up(dimension, 16) ? 0 : NAN;
    }
    uint32_t ids[3 * CELLS];
    some_ids(ids, count);
    uint32_t *tight_ids = tight_copy(ids, count * sizeof *ids);
    float *query = tight_copy(float_query, dimension * sizeof *query);
    for (size_t s = 0; kernel_sets[s]; s++) {
        if (!kernel_sets[s]->supported()) continue;
        for (enum distance d = DOT; d < DISTANCES; d++) {
            float *out = malloc(round_up(count, 4) * sizeof *out);
            assert_non_null(out);
            function_of(kernel_sets[s], d)(cells, stride, tight_ids, count, query, dimension, out);
            for (size_t i = 0; i < count; i++) {
                const float *cell = (const float *)(const void *)(cells + ids[i] * stride);
                const struct floats_of_one_pair want = define(d, query, cell, dimension);
                /* eight partial sums or more: the errors of an eighth of the additions add up */
                const double bound = (double)(dimension / 8 + 8) * 0x1p-24 * want.magnitude;
                if (!(fabs(out[i] - want.value) <= bound))
                    fail_msg("%s: distance %d is %.9g, not %.9g, at dimension %zu, %zu of %zu",
                             kernel_sets[s]->name, (int)d, (double)out[i], want.value, dimension, i,
                             count);
            }
            free(out);
        }
    }
    free(query);
    free(tight_ids);
}

static void float_distances_are_within_rounding(void **state)
{
    (void)state;
    for (size_t i = 0; i < LONGEST; i++)
        float_query[i] = random_unit();
    for (size_t dimension = 1; dimension <= 200; dimension++) {
        for (size_t count = 0; count <= 9; count++)
            check_floats(count, dimension);
    }
    check_floats(3 * CELLS, 1000);
    check_floats(5, 1536);
    check_floats(6, LONGEST - 1);
    check_floats(7, LONGEST);
}

/* ---- Walsh-Hadamard ---- */

static void check_hadamard(float (*number)(void), size_t n)
{
    float *want = malloc(n * sizeof *want);
    assert_non_null(want);
    for (size_t i = 0; i < n; i++)
        want[i] = number();
    for (size_t s = 0; kernel_sets[s]; s++) {
        if (!kernel_sets[s]->supported() || kernel_sets[s] == &kernel_scalar) continue;
        float *got = tight_copy(want, n * sizeof *want),
              *again = tight_copy(want, n * sizeof *want);
        kernel_sets[s]->hadamard(got, n);
        kernel_scalar.hadamard(again, n);
        if (memcmp(got, again, n * sizeof *got) != 0)
            fail_msg("%s differs at %zu", kernel_sets[s]->name, n);
        free(got);
        free(again);
    }
    free(want);
}

static void every_transform_is_bit_identical(void **state)
{
    (void)state;
    for (size_t n = 1; n <= HADAMARD_MAX; n *= 2) {
        check_hadamard(random_unit, n);
        check_hadamard(random_denormal, n);
    }
}

/* The definition: row i of the matrix has (-1)^popcount(i & j) in column j. */
static void the_transform_is_the_matrix_of_walsh_and_hadamard(void **state)
{
    (void)state;
    for (size_t n = 1; n <= 1024; n *= 2) {
        float x[1024], y[1024];
        for (size_t i = 0; i < n; i++)
            x[i] = y[i] = random_unit();
        kernel_scalar.hadamard(y, n);
        for (size_t i = 0; i < n; i++) {
            double sum = 0;
            for (size_t j = 0; j < n; j++)
                sum += __builtin_popcountll(i & j) & 1 ? -(double)x[j] : (double)x[j];
            assert_true(fabs(y[i] - sum / sqrt((double)n)) < 1e-5);
        }
    }
}

static void the_transform_undoes_itself(void **state)
{
    (void)state;
    for (size_t n = 1; n <= HADAMARD_MAX; n *= 2) {
        float *x = malloc(n * sizeof *x);
        assert_non_null(x);
        for (size_t i = 0; i < n; i++)
            x[i] = (float)(i % 31) - 15;
        kernel_best()->hadamard(x, n);
        kernel_best()->hadamard(x, n);
        for (size_t i = 0; i < n; i++)
            assert_true(fabsf(x[i] - ((float)(i % 31) - 15)) < 1e-3f);
        free(x);
    }
}

static int set_up(void **state)
{
    (void)state;
    cells = aligned_alloc(64, CELLS * (size_t)STRIDE_MAX);
    byte_query = malloc(LONGEST);
    float_query = malloc(LONGEST * sizeof *float_query);
    return cells && byte_query && float_query ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    free(cells);
    free(byte_query);
    free(float_query);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(integer_products_are_exact),
        cmocka_unit_test(extreme_codes_neither_saturate_nor_overflow),
        cmocka_unit_test(one_bit_is_one_number_of_the_query),
        cmocka_unit_test(float_distances_are_within_rounding),
        cmocka_unit_test(every_transform_is_bit_identical),
        cmocka_unit_test(the_transform_is_the_matrix_of_walsh_and_hadamard),
        cmocka_unit_test(the_transform_undoes_itself),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}

/* Every kernel set gives the bits of kernel_scalar, and kernel_scalar those of its definition. */
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

enum { LONGEST = 65536 };

struct results {
    double dot, l2sq, l1, dot_of_norm, norm2;
};

static struct results run(const struct kernel_set *set, const float *a, const float *b, size_t n)
{
    struct results r = {set->dot(a, b, n), set->l2sq(a, b, n), set->l1(a, b, n), 0, 0};
    r.dot_of_norm = set->dot_norm(a, b, n, &r.norm2);
    return r;
}

/* The definition of kernel.h, word for word. */
static struct results define(const float *a, const float *b, size_t n)
{
    double dot[8] = {0}, l2sq[8] = {0}, l1[8] = {0}, norm[8] = {0};
    for (size_t i = 0; i < n; i++) {
        const double x = a[i], y = b[i];
        dot[i % 8] += x * y;
        l2sq[i % 8] += (x - y) * (x - y);
        l1[i % 8] += fabs(x - y);
        norm[i % 8] += y * y;
    }
#define FOLD(s) (((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7])))
    return (struct results){FOLD(dot), FOLD(l2sq), FOLD(l1), FOLD(dot), FOLD(norm)};
#undef FOLD
}

/* Copies end exactly where the allocation ends, so that AddressSanitizer sees a read too far, and
 * begin at every multiple of four bytes. */
static void check_all(const float *a, const float *b, size_t n, size_t offset)
{
    char *memory_a = malloc(n * 4 + offset), *memory_b = malloc(n * 4 + (offset * 5) % 32);
    assert_non_null(memory_a);
    assert_non_null(memory_b);
    float *x = (float *)(void *)(memory_a + offset);
    float *y = (float *)(void *)(memory_b + (offset * 5) % 32);
    memcpy(x, a, n * 4);
    memcpy(y, b, n * 4);

    const struct results want = define(x, y, n);
    for (size_t i = 0; kernel_sets[i]; i++) {
        if (!kernel_sets[i]->supported()) continue;
        const struct results got = run(kernel_sets[i], x, y, n);
        if (memcmp(&got, &want, sizeof got) != 0)
            fail_msg("%s differs at dimension %zu, offset %zu", kernel_sets[i]->name, n, offset);
    }
    free(memory_a);
    free(memory_b);
}

static float *left, *right;

static void with_numbers(float (*number)(void))
{
    for (size_t i = 0; i < LONGEST; i++) {
        left[i] = number();
        right[i] = number();
    }
    for (size_t n = 1; n <= 130; n++) {
        for (size_t offset = 0; offset < 32; offset += 4)
            check_all(left + n, right + 2 * n, n, offset);
    }
    check_all(left, right, 1000, 4);
    check_all(left, right, LONGEST, 12);
}

static void every_set_is_bit_identical_on_ordinary_numbers(void **state)
{
    (void)state;
    with_numbers(random_unit);
}

static void every_set_is_bit_identical_on_all_finite_numbers(void **state)
{
    (void)state;
    with_numbers(random_any);
}

static void every_set_is_bit_identical_on_denormal_numbers(void **state)
{
    (void)state;
    with_numbers(random_denormal);
}

static void the_largest_numbers_do_not_overflow(void **state)
{
    (void)state;
    const float largest = 0x1.fffffep127f;
    for (size_t i = 0; i < LONGEST; i++) {
        left[i] = largest;
        right[i] = -largest;
    }
    check_all(left, right, LONGEST, 0);
    const struct results r = run(kernel_best(), left, right, LONGEST);
    assert_true(isfinite(r.dot) && isfinite(r.l2sq) && isfinite(r.l1) && isfinite(r.norm2));
}

static void known_vectors_have_known_distances(void **state)
{
    (void)state;
    const float a[] = {1, 2, 3, 4, 5, 6, 7, 8, 9}, b[] = {9, 8, 7, 6, 5, 4, 3, 2, 1};
    for (size_t i = 0; kernel_sets[i]; i++) {
        if (!kernel_sets[i]->supported()) continue;
        const struct results r = run(kernel_sets[i], a, b, 9);
        assert_true(r.dot == 165 && r.l2sq == 240 && r.l1 == 40);
        assert_true(r.dot_of_norm == 165 && r.norm2 == 285);
    }
}

static void a_zero_vector_has_a_positive_zero_distance_to_itself(void **state)
{
    (void)state;
    const float zeros[9] = {0, -0.0f, 0, -0.0f, 0, 0, 0, 0, -0.0f};
    const struct results nothing = {0, 0, 0, 0, 0};
    for (size_t n = 1; n <= 9; n++) {
        for (size_t i = 0; kernel_sets[i]; i++) {
            if (!kernel_sets[i]->supported()) continue;
            const struct results r = run(kernel_sets[i], zeros, zeros, n);
            assert_memory_equal(&r, &nothing, sizeof r);
        }
    }
}

/* Rows that end where their allocations end, some of them the same row, in every count. */
static void check_rows(size_t count, size_t n)
{
    enum { ROWS = 11 };
    float *query = malloc(n * sizeof *query), *own[ROWS];
    const float *rows[ROWS];
    assert_non_null(query);
    memcpy(query, left, n * sizeof *query);
    for (size_t r = 0; r < count; r++) {
        own[r] = malloc(n * sizeof *query);
        assert_non_null(own[r]);
        memcpy(own[r], right + 7 * r, n * sizeof *query);
        rows[r] = own[r % 5 == 3 ? 0 : r];
    }
    for (size_t i = 0; kernel_sets[i]; i++) {
        const struct kernel_set *set = kernel_sets[i];
        if (!set->supported()) continue;
        const double untouched = -1.5;
        double dot[ROWS + 1], l2sq[ROWS + 1], l1[ROWS + 1], with_norm[ROWS + 1], norm2[ROWS + 1];
        dot[count] = l2sq[count] = l1[count] = with_norm[count] = norm2[count] = untouched;
        set->dot_rows(query, rows, count, n, dot);
        set->l2sq_rows(query, rows, count, n, l2sq);
        set->l1_rows(query, rows, count, n, l1);
        set->dot_norm_rows(query, rows, count, n, with_norm, norm2);
        for (size_t r = 0; r < count; r++) {
            const struct results want = define(query, rows[r], n);
            const struct results got = {dot[r], l2sq[r], l1[r], with_norm[r], norm2[r]};
            if (memcmp(&got, &want, sizeof got) != 0)
                fail_msg("%s: row %zu of %zu differs at %zu", set->name, r, count, n);
        }
        assert_true(dot[count] == untouched && l2sq[count] == untouched && l1[count] == untouched);
        assert_true(with_norm[count] == untouched && norm2[count] == untouched);
    }
    for (size_t r = 0; r < count; r++)
        free(own[r]);
    free(query);
}

static void several_rows_give_the_bits_of_single_rows(void **state)
{
    (void)state;
    float (*const numbers[])(void) = {random_unit, random_any, random_denormal};
    for (size_t k = 0; k < 3; k++) {
        for (size_t i = 0; i < LONGEST; i++) {
            left[i] = numbers[k]();
            right[i] = numbers[k]();
        }
        for (size_t n = 1; n <= 200; n++) {
            for (size_t count = 0; count <= 11; count++)
                check_rows(count, n);
        }
        check_rows(7, 1536);
        check_rows(5, LONGEST - 100);
    }
}

static void the_best_set_is_the_first_supported_one(void **state)
{
    (void)state;
    size_t i = 0;
    while (!kernel_sets[i]->supported())
        i++;
    assert_ptr_equal(kernel_best(), kernel_sets[i]);
    assert_ptr_equal(kernel_best(), kernel_sets[i]);
    while (kernel_sets[i + 1])
        i++;
    assert_ptr_equal(kernel_sets[i], &kernel_scalar);
}

static int set_up(void **state)
{
    (void)state;
    left = malloc(LONGEST * sizeof *left);
    right = malloc(LONGEST * sizeof *right);
    return left && right ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    free(left);
    free(right);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_set_is_bit_identical_on_ordinary_numbers),
        cmocka_unit_test(every_set_is_bit_identical_on_all_finite_numbers),
        cmocka_unit_test(every_set_is_bit_identical_on_denormal_numbers),
        cmocka_unit_test(the_largest_numbers_do_not_overflow),
        cmocka_unit_test(known_vectors_have_known_distances),
        cmocka_unit_test(a_zero_vector_has_a_positive_zero_distance_to_itself),
        cmocka_unit_test(several_rows_give_the_bits_of_single_rows),
        cmocka_unit_test(the_best_set_is_the_first_supported_one),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}

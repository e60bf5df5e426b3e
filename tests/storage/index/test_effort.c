/* From what was measured to an effort: enough, and not much more. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>

#include "storage/index/effort.h"

static struct effort_table table(void)
{
    struct effort_table t = {.rows = 1000, .queries = 300, .steps = 4, .ef = {10, 40, 160, 640}};
    const float recall[4] = {0.8f, 0.9f, 0.98f, 0.999f};
    for (int i = 0; i < 4; i++) {
        t.recall[0][i] = recall[i] + 0.0005f;
        t.recall[1][i] = recall[i];
        t.recall[2][i] = recall[i] - 0.1f;
        t.error[1][i] = 0.001f;
    }
    return t;
}

static void effort_is_what_was_measured(void **state)
{
    (void)state;
    struct effort_table t = table();
    double expected;
    assert_int_equal((int)effort_measured(&t, 0.5, 10, &expected), 10);
    /* Twice the error less is known; and a tenth of what may be missed is not to be missed. */
    const double wanted = 1 - (1 - (0.9 - 2 * 0.001)) / 0.9;
    assert_true(fabs(effort_measured(&t, wanted, 10, &expected) - 40) < 0.5);
    assert_true(fabs(expected - 0.9) < 0.001);
    assert_true(effort_measured(&t, wanted + 0.005, 10, &expected) > 41);
    double ef = effort_measured(&t, 0.9, 10, &expected);
    assert_true(ef > 40 && ef < 60);
    ef = effort_measured(&t, 0.95, 10, &expected);
    assert_true(ef > 60 && ef < 160);
    assert_true(expected > 0.94 && expected < 0.98);
}

static void effort_grows_with_recall_and_with_k(void **state)
{
    (void)state;
    struct effort_table t = table();
    double expected, last = 0;
    for (double recall = 0.5; recall < 0.9999; recall += 0.003) {
        double ef = effort_measured(&t, recall, 10, &expected);
        assert_true(ef >= last);
        last = ef;
    }
    last = 0;
    for (size_t k = 1; k < 1000; k += 7) {
        double ef = effort_measured(&t, 0.85, k, &expected);
        assert_true(ef >= last * 0.999);
        last = ef;
    }
}

static void the_larger_the_error_the_larger_the_effort(void **state)
{
    (void)state;
    struct effort_table t = table();
    double expected, last = 0;
    for (float error = 0; error < 0.01f; error += 0.001f) {
        for (uint32_t i = 0; i < t.steps; i++)
            t.error[1][i] = error;
        double ef = effort_measured(&t, 0.95, 10, &expected);
        assert_true(ef > last);
        assert_true(expected - 2 * error >= 0.95);
        last = ef;
    }
}

static void more_rows_than_were_measured_take_more(void **state)
{
    (void)state;
    assert_true(effort_grown(40, 1000, 1000) == 40);
    assert_true(effort_grown(40, 1000, 500) == 40);
    assert_true(fabs(effort_grown(40, 1000, 4000) - 80) < 1e-9);
    assert_true(effort_grown(40, 0, 4000) == 40);
}

static void a_guess_knows_what_the_codes_tell(void **state)
{
    (void)state;
    double few = effort_guessed(CODEC_INT8, 1000, 0.95, 10);
    assert_true(few >= 60 && few <= 70);
    assert_true(effort_guessed(CODEC_FLOAT32, 1000, 0.95, 10) == few);
    assert_true(effort_guessed(CODEC_BINARY, 1000, 0.95, 10) >= 3 * few);
    /* What 50,000 uniform rows of 64 dimensions take; but not without end. */
    assert_true(effort_guessed(CODEC_INT8, 50000, 0.95, 10) >= 330);
    assert_true(effort_guessed(CODEC_INT8, 1e8, 0.95, 10) <= 1000);
    assert_true(effort_guessed(CODEC_INT8, 1000, 0.99, 10) > 2 * few);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(effort_is_what_was_measured),
        cmocka_unit_test(effort_grows_with_recall_and_with_k),
        cmocka_unit_test(the_larger_the_error_the_larger_the_effort),
        cmocka_unit_test(more_rows_than_were_measured_take_more),
        cmocka_unit_test(a_guess_knows_what_the_codes_tell),
    };
    return cmocka_run_group_tests_name("effort", tests, NULL, NULL);
}

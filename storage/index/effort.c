#include "storage/index/effort.h"

#include <math.h>

const uint32_t effort_ks[EFFORT_KS] = {1, 10, 100};

/* What is missed of a recall, never nothing: its logarithm is what is interpolated.  It falls about
 * in a straight line over the logarithm of the effort. */
static double log_miss(double recall)
{
    return log(fmax(1 - recall, 1e-5));
}

/* What is aimed at: a part of what may be missed is kept in reserve.  Queries are not drawn from
 * the rows, and those of a day find a little more or less than the average. */
static double aim(double recall)
{
    const double reserve = 0.1;
    return 1 - (1 - reserve) * (1 - recall);
}

/* Position in the ladder of candidates where the row of the table reaches the recall: step number
 * and part of the way from the one before it.  Beyond the last one: false. */
static double reach(const struct effort_table *t, int row, double recall)
{
    const double errors = 2; /* standard ones, to be on the safe side */
    const float *r = t->recall[row], *error = t->error[row];
    for (uint32_t i = 0; i < t->steps; i++) {
        double good = r[i] - errors * error[i];
        if (good < recall) continue;
        if (i == 0) return 0;
        double from = log_miss(r[i - 1] - errors * error[i - 1]), to = log_miss(good);
        double part = from > to ? (from - log_miss(recall)) / (from - to) : 1;
        return i - 1 + fmin(fmax(part, 0), 1);
    }
    return INFINITY;
}

static double at_position(const struct effort_table *t, double position)
{
    uint32_t i = (uint32_t)position;
    if (i + 1 >= t->steps) return t->ef[t->steps - 1];
    return t->ef[i] * pow((double)t->ef[i + 1] / t->ef[i], position - i);
}

static double recall_at(const struct effort_table *t, int row, double position)
{
    uint32_t i = (uint32_t)position;
    if (i + 1 >= t->steps) return t->recall[row][t->steps - 1];
    double from = log_miss(t->recall[row][i]), to = log_miss(t->recall[row][i + 1]);
    return fmax(t->recall[row][i], 1 - exp(from + (position - i) * (to - from)));
}

static double effort_in_row(const struct effort_table *t, int row, double wanted, double *expected)
{
    double recall = aim(wanted);
    double position = reach(t, row, recall);
    uint32_t last = t->steps - 1;
    if (isfinite(position)) {
        *expected = recall_at(t, row, position);
        return at_position(t, position);
    }
    /* The ladder ends before: whoever wants more gets more, as far as it is known what that means.
     */
    *expected = t->recall[row][last];
    double missing = log_miss(*expected) - log_miss(recall);
    return t->ef[last] * fmin(4, exp(fmax(0.5, missing)));
}

double effort_measured(const struct effort_table *t, double recall, size_t k, double *expected)
{
    int row = 0;
    while (row + 1 < EFFORT_KS && effort_ks[row + 1] <= k)
        row++;
    double low = effort_in_row(t, row, recall, expected);
    if (effort_ks[row] == k) return low;
    if (row + 1 == EFFORT_KS) return low * (double)k / effort_ks[row];
    double expected_high, high = effort_in_row(t, row + 1, recall, &expected_high);
    double part =
        log((double)k / effort_ks[row]) / log((double)effort_ks[row + 1] / effort_ks[row]);
    *expected += part * (expected_high - *expected);
    return low * pow(high / low, part);
}

double effort_grown(double effort, double measured_rows, double rows)
{
    return rows > measured_rows && measured_rows > 0 ? effort * sqrt(rows / measured_rows) : effort;
}

double effort_guessed(enum codec_kind codec, double rows, double recall, size_t k)
{
    const double few = 64, few_rows = 1000, most = 512, binary_times = 4;
    double ef = fmax(2 * (double)k, fmin(effort_grown(few, few_rows, rows), most));
    double miss = fmax(1 - recall, 0.0005);
    if (codec == CODEC_BINARY) ef *= binary_times;
    return ef * fmax(0.5, pow(0.05 / miss, 0.7));
}

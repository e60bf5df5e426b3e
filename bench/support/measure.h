/*
 * measure.h - speed against recall: subjects, ladders of effort, and what lies between two rungs.
 *
 * A SUBJECT is anything that finds the k nearest rows of a query with a given effort (ef).  Two
 * subjects are measured in turn, rung by rung and round by round, so that whatever else the machine
 * does slows both alike; ratios are medians of the ratios of single rounds.  Rates of one thread
 * are by its CPU time; those of several threads by the clock on the wall.
 */
#ifndef BENCH_MEASURE_H
#define BENCH_MEASURE_H

#include "bench/support/truth.h"

struct pass {
    double wall_s, cpu_s; /* CPU: of all threads together */
    size_t searches;
};

struct subject {
    const char *name;
    void *ctx;
    /* Before searches with this effort; may be NULL. */
    void (*set_ef)(void *ctx, uint32_t ef);
    /* Row numbers of the k nearest; how many.  Any number of threads at once. */
    size_t (*search)(void *ctx, const float *query, uint32_t k, uint32_t ef, uint32_t *rows);
    /* Instead of it, for a subject in another process, which knows queries and k: time all queries;
     * find the rows of all queries, k each. */
    struct pass (*pass)(void *ctx, uint32_t ef, int repeats, int threads);
    void (*search_all)(void *ctx, uint32_t ef, uint32_t *rows);
};

/* Search for all queries `repeats` times over. */
struct pass measure_pass(const struct subject *s, const struct dataset *set, uint32_t k,
                         uint32_t ef, int repeats, int threads);
double measure_qps(const struct pass *p, int threads);

/* Recall of all queries together. */
double measure_recall(const struct subject *s, const struct dataset *set, const struct truth *t,
                      uint32_t k, uint32_t ef, int threads);

enum { RUNGS_MAX = 64, ROUNDS_MAX = 31, TARGETS = 3 };
extern const double measure_targets[TARGETS]; /* recalls at which speeds are compared */

struct rung {
    uint32_t ef;
    double recall;
    bool timed;
    int repeats;               /* of a pass, so that it takes long enough */
    double qps[2][ROUNDS_MAX]; /* of one thread; of all */
};
struct ladder {
    const struct subject *subject;
    struct rung rungs[RUNGS_MAX];
    size_t count;
    double seconds_per_pass;
};

/* Climb: recall of every rung from ef = k on, until the highest target is reached or `ef_max`.
 * Those on both sides of a target are marked to be timed. */
void ladder_climb(struct ladder *l, const struct subject *s, const struct dataset *set,
                  const struct truth *t, uint32_t k, uint32_t ef_max, int threads);
/* Time the rungs of two ladders in turn. */
void ladder_race(struct ladder *a, struct ladder *b, const struct dataset *set, uint32_t k,
                 int rounds, int threads);

/* Rate at a recall in one round: between two rungs the logarithm of the rate is a straight line.
 * The first rung's if that is beyond the target already; 0 if no rung reaches it. */
double ladder_qps(const struct ladder *l, double recall, int round, bool all_threads);
double ladder_median_qps(const struct ladder *l, double recall, int rounds, bool all_threads);
/* Median of the rounds' ratios of a to b; 0 if one of them does not get there. */
double ladder_ratio(const struct ladder *a, const struct ladder *b, double recall, int rounds,
                    bool all_threads);
double ladder_best_recall(const struct ladder *l);

double measure_cpu_s(void); /* of the process */

#endif

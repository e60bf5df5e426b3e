/*
 * selections.c - what a filter costs: inserting rows with metadata, selecting without a column, the
 * selection that builds one, and selecting with it.
 *
 *   selections [--rows=N] [--rounds=N] [--quick]
 *
 * Rows look like packages of a distribution: a name of their own, a section out of sixty, a size,
 * an architecture, tags, a time.  For each filter: microseconds of the first selections (by trying
 * rows, filling a column, with the column), the median of many, and the median right after a write;
 * all in CPU time of the one thread.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "api/json_filter.h"
#include "bench/support/args.h"
#include "bench/support/client.h"
#include "bench/support/random.h"
#include "bench/support/store.h"
#include "storage/database_private.h"
#include "storage/visibility.h"

enum { ROWS = 57744, DIMENSION = 8, ROUNDS = 300, SECTIONS = 60 };

static size_t metadata(void *ctx, uint64_t id, char *text, size_t cap)
{
    static const char *const architectures[] = {"all", "amd64", "amd64", "any"};
    (void)ctx;
    struct random r = random_stream(11, id);
    double skew = random_unit(&r);
    unsigned section = (unsigned)(skew * skew * SECTIONS);
    unsigned size = (unsigned)random_exp(3 + 2 * random_normal(&r));
    unsigned minute = (unsigned)random_below(&r, 525600), tag = (unsigned)random_below(&r, 40);
    int n = snprintf(
        text, cap,
        "{\"name\":\"lib%" PRIx64 "-dev\",\"section\":\"sec%u\",\"size\":%u,"
        "\"arch\":\"%s\",\"tags\":[\"t%u\",\"t%u\"],\"at\":\"2026-%02u-%02uT%02u:%02u:00Z\"}",
        random_next(&r) >> 40, section, size, architectures[random_below(&r, 4)], tag,
        (tag * 7 + 3) % 40, minute / 43800 + 1, minute % 28 + 1, minute / 60 % 24, minute % 60);
    return (size_t)n;
}

/* Seconds that this thread has had: what others do on the machine counts less. */
static double cpu_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double select_us(struct bench_store *s, const struct filter *filter, uint64_t *count)
{
    struct reader r;
    struct err err;
    double begun = cpu_now();
    reader_begin(s->db, &r);
    uint64_t *bits = malloc((filter_words(&r) + 1) * sizeof *bits);
    if (!bits || filter_select(&r, filter, true, bits, count, &err))
        bench_fail("select: %s", bits ? err.msg : "no memory");
    free(bits);
    reader_end(&r);
    return (cpu_now() - begun) * 1e6;
}

static const struct filter *compile(const char *text, struct arena *arena)
{
    struct json_scan scan;
    struct err err;
    const struct filter *filter;
    json_scan_init(&scan, text, strlen(text), arena);
    if (json_filter(&scan, NULL, &filter, &err)) bench_fail("%s: %s", text, err.msg);
    return filter;
}

static void measure(struct bench_store *s, const char *text, const float *row, int rounds)
{
    struct arena arena = {0};
    const struct filter *filter = compile(text, &arena);
    uint64_t count;
    double first[5], *steady = calloc((size_t)rounds, sizeof *steady);
    double *written = calloc((size_t)rounds, sizeof *written);
    if (!steady || !written) bench_fail("no memory");
    for (int i = 0; i < 5; i++)
        first[i] = select_us(s, filter, &count);
    for (int i = 0; i < rounds; i++)
        steady[i] = select_us(s, filter, &count);
    for (int i = 0; i < rounds; i++) {
        store_put(s, row, (uint64_t)i * 37, 1, metadata, NULL);
        written[i] = select_us(s, filter, &count);
    }
    printf("{\"bench\":\"selections\",\"filter\":%s,\"matches\":%" PRIu64
           ",\"first_us\":[%.0f,%.0f,%.0f,%.0f,%.0f],\"median_us\":%.1f,\"after_write_us\":%.1f}\n",
           text, count, first[0], first[1], first[2], first[3], first[4],
           bench_median(steady, (size_t)rounds), bench_median(written, (size_t)rounds));
    fflush(stdout);
    free(steady);
    free(written);
    arena_free(&arena);
}

int main(int argc, char **argv)
{
    static const char *const filters[] = {
        "{}",
        "{\"section\":\"sec0\"}",
        "{\"section\":\"sec55\"}",
        "{\"section\":{\"$in\":[\"sec1\",\"sec7\",\"sec30\"]}}",
        "{\"size\":{\"$gte\":10,\"$lt\":100}}",
        "{\"name\":{\"$prefix\":\"liba\"}}",
        "{\"name\":{\"$regex\":\"^lib[0-4]+.*a-dev$\"}}",
        "{\"tags\":\"t3\"}",
        "{\"arch\":\"amd64\",\"section\":{\"$ne\":\"sec0\"},\"size\":{\"$gt\":5}}",
        "{\"$or\":[{\"section\":\"sec3\"},{\"$not\":{\"size\":{\"$lt\":500}}}]}",
        "{\"at\":{\"$gte\":\"2026-11\"}}",
        "{\"nowhere\":1}",
    };
    struct bench_args args;
    size_t rows = ROWS;
    bench_args_init(&args);
    for (int i = 1; i < argc; i++) {
        const char *value = bench_value(argv[i], "--rows");
        if (value)
            rows = strtoull(value, NULL, 10);
        else if (!bench_args_take(&args, argv[i]))
            bench_fail("usage: selections [--rows=N] [--rounds=N] [--quick]");
    }
    if (args.quick) rows /= 5;
    int rounds = args.rounds ? args.rounds : ROUNDS;
    float *vectors = calloc(rows, DIMENSION * sizeof *vectors);
    if (!vectors) bench_fail("no memory");
    struct bench_store s;
    store_open(&s, &(struct store_options){.metric = METRIC_EUCLIDEAN,
                                           .dimension = DIMENSION,
                                           .index.kind = INDEX_FLAT,
                                           .capacity = rows});
    double begun = cpu_now();
    store_put(&s, vectors, 0, rows, metadata, NULL);
    double took = cpu_now() - begun;
    printf("{\"bench\":\"selections\",\"rows\":%zu,\"inserts_per_s\":%.0f}\n", rows,
           (double)rows / took);
    for (size_t i = 0; i < sizeof filters / sizeof *filters; i++)
        measure(&s, filters[i], vectors, rounds);
    begun = cpu_now();
    store_put(&s, vectors, 0, rows, metadata, NULL);
    took = cpu_now() - begun;
    printf("{\"bench\":\"selections\",\"rows\":%zu,\"replaces_per_s\":%.0f}\n", rows,
           (double)rows / took);
    store_close(&s);
    free(vectors);
    return 0;
}

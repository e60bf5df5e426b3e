/*
 * datasets.c - one function for each kind of row; a row depends on its number and the seed alone,
 * so any thread may make any row.
 */
#include "bench/support/datasets.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/support/client.h"
#include "bench/support/random.h"
#include "storage/base/parallel.h"

enum {
    SEED = 20261120,
    TOPICS = 200,      /* centres of what imitates text */
    LATENT = 64,       /* its dimensions before they are spread over many */
    ROWS_AT_ONCE = 64, /* taken by a thread */
    DUPLICATE_GROUPS = 20,
    DUPLICATE_COPIES = 500,
    TIGHT_CLUSTERS = 100,
    ORDERED_CLUSTERS = 2000,
    SPARSE_WORDS = 24, /* of a row */
};

struct spec;

/* What all rows of a set share. */
struct world {
    const struct spec *spec;
    uint64_t seed;
    uint32_t dimension;
    size_t base_count;
    float *centres;        /* of topics or clusters */
    float *basis;          /* what one latent number adds to a row, one behind the other */
    float *spectrum;       /* of the latent numbers */
    struct dataset source; /* rows to be changed, if the set is made of another one */
};

/* Make row `number`; queries are numbered behind the base rows. */
typedef void row_fn(const struct world *w, uint64_t number, struct random *r, float *row);
typedef void prepare_fn(struct world *w, const struct dataset_options *options);

struct spec {
    const char *name, *what;
    enum metric metric;
    uint32_t dimension;
    size_t rows, queries;
    prepare_fn *prepare; /* may be NULL */
    row_fn *row;
};

static float *floats(size_t count)
{
    float *f = malloc(count * sizeof *f);
    if (!f) bench_fail("no memory for %zu numbers", count);
    return f;
}

static void scale_to(float *row, size_t dimension, double length)
{
    double sum = 0;
    for (size_t i = 0; i < dimension; i++)
        sum += (double)row[i] * (double)row[i];
    double factor = sum > 0 ? length / sqrt(sum) : 0;
    for (size_t i = 0; i < dimension; i++)
        row[i] = (float)((double)row[i] * factor);
}

static float *normal_table(uint64_t seed, size_t rows, size_t dimension, double deviation)
{
    float *table = floats(rows * dimension);
    struct random r = random_stream(seed, UINT64_MAX);
    for (size_t i = 0; i < rows * dimension; i++)
        table[i] = (float)(deviation * random_normal(&r));
    return table;
}

/* ---- plain distributions ---- */

static void uniform_row(const struct world *w, uint64_t number, struct random *r, float *row)
{
    (void)number;
    for (size_t i = 0; i < w->dimension; i++)
        row[i] = (float)(random_unit(r) - 0.5);
}

/* Uniform, and in their midst one zero vector: nearer to everything than anything else. */
static void zero_row(const struct world *w, uint64_t number, struct random *r, float *row)
{
    uniform_row(w, number, r, row);
    if (number == 0) memset(row, 0, w->dimension * sizeof *row);
}

static void centres_near(struct world *w, const struct dataset_options *options)
{
    (void)options;
    w->centres = normal_table(w->seed + 1, TOPICS, w->dimension, 1);
}

static void mixture_row(const struct world *w, uint64_t number, struct random *r, float *row)
{
    (void)number;
    const float *centre = w->centres + random_below(r, TOPICS) * w->dimension;
    for (size_t i = 0; i < w->dimension; i++)
        row[i] = centre[i] + (float)(0.5 * random_normal(r));
}

/* ---- clusters far from each other ---- */

static void centres_far(struct world *w, const struct dataset_options *options)
{
    (void)options;
    struct random r = random_stream(w->seed + 1, UINT64_MAX);
    w->centres = floats(ORDERED_CLUSTERS * (size_t)w->dimension);
    for (size_t i = 0; i < ORDERED_CLUSTERS * (size_t)w->dimension; i++)
        w->centres[i] = (float)(200 * random_unit(&r));
}

static void around(const struct world *w, uint64_t cluster, struct random *r, float *row)
{
    const float *centre = w->centres + cluster * w->dimension;
    for (size_t i = 0; i < w->dimension; i++)
        row[i] = centre[i] + (float)(0.1 * random_normal(r));
}

static void tight_row(const struct world *w, uint64_t number, struct random *r, float *row)
{
    (void)number;
    around(w, random_below(r, TIGHT_CLUSTERS), r, row);
}

static void ordered_row(const struct world *w, uint64_t number, struct random *r, float *row)
{
    uint64_t cluster = number < w->base_count ? number * ORDERED_CLUSTERS / w->base_count
                                              : random_below(r, ORDERED_CLUSTERS);
    around(w, cluster, r, row);
}

/* ---- groups of equal rows among others ---- */

static void duplicates_row(const struct world *w, uint64_t number, struct random *r, float *row)
{
    const uint64_t copies = DUPLICATE_GROUPS * DUPLICATE_COPIES;
    /* The groups are spread over the whole: 7919 has no factor in common with the count. */
    uint64_t place =
        number < w->base_count ? number * 7919 % w->base_count : random_below(r, w->base_count);
    uint64_t group = place * 20000 / w->base_count / DUPLICATE_COPIES;
    if (place * 20000 / w->base_count >= copies) {
        mixture_row(w, number, r, row);
        return;
    }
    struct random of_group = random_stream(w->seed + 2, group);
    mixture_row(w, number, &of_group, row);
    if (number < w->base_count) return;
    for (size_t i = 0; i < w->dimension; i++) /* a query near the copies */
        row[i] += (float)(0.02 * random_normal(r));
}

/* ---- what imitates the embeddings of text ---- */

/* Topics whose spread falls by a power law, with an exponent (3/8) that square roots can make. */
static void latent_topics(struct world *w, size_t latent)
{
    w->spectrum = floats(latent);
    for (size_t j = 0; j < latent; j++) {
        double quarter = sqrt(sqrt((double)(j + 1)));
        w->spectrum[j] = (float)(1 / (quarter * sqrt(quarter)));
    }
    w->centres = normal_table(w->seed + 1, TOPICS, latent, 1);
}

static void latent_row(const struct world *w, size_t latent, struct random *r, float *row)
{
    const float *topic = w->centres + random_below(r, TOPICS) * latent;
    for (size_t j = 0; j < latent; j++)
        row[j] = (float)((double)w->spectrum[j] * ((double)topic[j] + random_normal(r)));
}

static void low_rank(struct world *w, const struct dataset_options *options)
{
    (void)options;
    latent_topics(w, LATENT);
    w->basis = normal_table(w->seed + 3, LATENT, w->dimension, 1);
}

static void spread(const float *basis, const float *latent, size_t count, float *row,
                   size_t dimension)
{
    memset(row, 0, dimension * sizeof *row);
    for (size_t j = 0; j < count; j++)
        for (size_t i = 0; i < dimension; i++)
            row[i] += latent[j] * basis[j * dimension + i];
}

static void low_rank_row(const struct world *w, uint64_t number, struct random *r, float *row)
{
    (void)number;
    float latent[LATENT];
    latent_row(w, LATENT, r, latent);
    spread(w->basis, latent, LATENT, row, w->dimension);
    for (size_t i = 0; i < w->dimension; i++)
        row[i] += (float)(0.3 * random_normal(r));
    scale_to(row, w->dimension, 1);
}

/* Norms spread lognormally: e^(0.5 n). */
static void norms_row(const struct world *w, uint64_t number, struct random *r, float *row)
{
    low_rank_row(w, number, r, row);
    scale_to(row, w->dimension, random_exp(0.5 * random_normal(r)));
}

static void power_law(struct world *w, const struct dataset_options *options)
{
    (void)options;
    latent_topics(w, w->dimension);
}

static void power_law_row(const struct world *w, uint64_t number, struct random *r, float *row)
{
    (void)number;
    latent_row(w, w->dimension, r, row);
    scale_to(row, w->dimension, 1);
}

/* Queries as of another model: their spread falls in another order, and all are off to one side. */
static void foreign_row(const struct world *w, uint64_t number, struct random *r, float *row)
{
    power_law_row(w, number, r, row);
    if (number < w->base_count) return;
    for (size_t i = 0; i < w->dimension; i++)
        row[i] += (float)(0.04 * random_normal(r)) + (i % 2 ? 0.03f : -0.03f);
    scale_to(row, w->dimension, 1);
}

/* Few words of many, the frequent ones often, most of them of one topic. */
static void sparse_row(const struct world *w, uint64_t number, struct random *r, float *row)
{
    (void)number;
    uint64_t topic = random_below(r, TOPICS);
    memset(row, 0, w->dimension * sizeof *row);
    for (int i = 0; i < SPARSE_WORDS; i++) {
        double u = random_unit(r);
        uint64_t rank = (uint64_t)(u * u * u * w->dimension);
        bool of_topic = random_unit(r) < 0.7;
        uint64_t word = of_topic ? (rank * 167 + topic * 8191) % w->dimension : rank;
        row[word] += (float)(0.5 + random_unit(r));
    }
    scale_to(row, w->dimension, 1);
}

/* ---- made of another set ---- */

static void from_source(struct world *w, const struct dataset_options *options)
{
    struct dataset_options all = {.data_dir = options->data_dir, .threads = options->threads};
    dataset_make(&w->source, "lsa", &all);
}

static const float *source_row(const struct world *w, uint64_t number)
{
    const struct dataset *s = &w->source;
    size_t i =
        number < w->base_count ? number % s->base_count : (number - w->base_count) % s->query_count;
    return (number < w->base_count ? s->base : s->query) + i * s->dimension;
}

static void copies_row(const struct world *w, uint64_t number, struct random *r, float *row)
{
    memcpy(row, source_row(w, number), w->dimension * sizeof *row);
    if (number < w->source.base_count) return;
    for (size_t i = 0; i < w->dimension; i++)
        row[i] += (float)(0.02 * random_normal(r));
    scale_to(row, w->dimension, 1);
}

static void lift(struct world *w, const struct dataset_options *options)
{
    from_source(w, options);
    w->basis = normal_table(w->seed + 3, w->source.dimension, w->dimension, 1.5);
}

/* Through a random layer of neurons to more dimensions, none of which is a mix of the others. */
static void lifted_row(const struct world *w, uint64_t number, struct random *r, float *row)
{
    (void)r;
    spread(w->basis, source_row(w, number), w->source.dimension, row, w->dimension);
    for (size_t i = 0; i < w->dimension; i++) {
        double e = random_exp(2 * (double)row[i]);
        row[i] = (float)((e - 1) / (e + 1));
    }
    scale_to(row, w->dimension, 1);
}

/* ---- the sets ---- */

#define L2     METRIC_EUCLIDEAN
#define COSINE METRIC_COSINE
static const struct spec specs[] = {
    {"uniform2", "2-d uniform", L2, 2, 50000, 1000, NULL, uniform_row},
    {"mixture32", "32-d gaussian mixture", L2, 32, 50000, 1000, centres_near, mixture_row},
    {"lowrank1536", "1536-d of rank 64, as embeddings are", COSINE, 1536, 20000, 1000, low_rank,
     low_rank_row},
    {"norms128", "128-d dot product, lognormal norms", METRIC_DOT_PRODUCT, 128, 50000, 1000,
     low_rank, norms_row},
    {"manhattan64", "64-d gaussian mixture, L1", METRIC_MANHATTAN, 64, 50000, 1000, centres_near,
     mixture_row},
    {"tight32", "100 tight clusters far apart, 32-d", L2, 32, 50000, 1000, centres_far, tight_row},
    {"duplicates64", "20 groups of 500 equal rows among 20,000, 64-d", L2, 64, 20000, 1000,
     centres_near, duplicates_row},
    {"uniform64", "64-d uniform", L2, 64, 50000, 1000, NULL, uniform_row},
    {"lsa", "text: TF-IDF and SVD to 256-d", COSINE, 256, 57744, 2000, power_law, power_law_row},
    {"sparse512", "512-d, 24 words a row", COSINE, 512, 50000, 1000, NULL, sparse_row},
    /* not among DATASET_GENERATORS */
    {"foreign256", "queries of another distribution", COSINE, 256, 50000, 1000, power_law,
     foreign_row},
    {"tanh768", "lsa lifted to 768-d by a random layer", COSINE, 768, 57744, 2000, lift,
     lifted_row},
    {"noise500k", "lsa and noisy copies of it", COSINE, 256, 500000, 1000, from_source, copies_row},
    {"ordered32", "2,000 clusters, one after the other, 32-d", L2, 32, 100000, 1000, centres_far,
     ordered_row},
    {"zero64", "5,000 uniform rows around one zero vector, 64-d", L2, 64, 5001, 500, NULL,
     zero_row},
    {"million256", "1,000,000 like the stand-in of lsa", COSINE, 256, 1000000, 500, power_law,
     power_law_row},
};
enum { SPEC_COUNT = sizeof specs / sizeof *specs };

const char *dataset_name(size_t index)
{
    return index < SPEC_COUNT ? specs[index].name : NULL;
}

static const struct spec *spec_of(const char *name)
{
    for (size_t i = 0; i < SPEC_COUNT; i++)
        if (strcmp(specs[i].name, name) == 0) return &specs[i];
    bench_fail("no data set is called \"%s\"", name);
}

const char *dataset_what(const char *name)
{
    return spec_of(name)->what;
}

size_t dataset_rows(const char *name)
{
    return spec_of(name)->rows;
}

uint32_t dataset_dimension(const char *name)
{
    return spec_of(name)->dimension;
}

enum metric dataset_metric(const char *name)
{
    return spec_of(name)->metric;
}

struct making {
    const struct world *world;
    struct dataset *set;
    _Atomic uint64_t next;
};

static void make_rows(void *ctx)
{
    struct making *m = ctx;
    const struct dataset *set = m->set;
    const uint64_t end = set->base_count + set->query_count;
    for (;;) {
        uint64_t first = atomic_fetch_add(&m->next, ROWS_AT_ONCE);
        if (first >= end) return;
        for (uint64_t i = first; i < end && i < first + ROWS_AT_ONCE; i++) {
            struct random r = random_stream(m->world->seed, i);
            float *row = i < set->base_count ? set->base + i * set->dimension
                                             : set->query + (i - set->base_count) * set->dimension;
            m->world->spec->row(m->world, i, &r, row);
        }
    }
}

static void generate(struct dataset *set, const struct spec *spec,
                     const struct dataset_options *options)
{
    set->base_count = options->rows ? options->rows : spec->rows;
    set->query_count = options->queries ? options->queries : spec->queries;
    set->dimension = spec->dimension;
    set->base = floats(set->base_count * set->dimension);
    set->query = floats(set->query_count * set->dimension);
    struct world w = {.spec = spec,
                      .seed = SEED + (uint64_t)(spec - specs) * 1000,
                      .dimension = spec->dimension,
                      .base_count = set->base_count};
    if (spec->prepare) spec->prepare(&w, options);
    struct making m = {.world = &w, .set = set};
    parallel_run(options->threads, make_rows, &m);
    set->source = w.source.base ? w.source.source : "generated";
    free(w.centres);
    free(w.basis);
    free(w.spectrum);
    if (w.source.base) dataset_free(&w.source);
}

/* ---- the real one ---- */

bool vecs_read(const char *dir, const char *file, void **numbers, size_t *count,
               uint32_t *dimension)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, file);
    FILE *f = fopen(path, "rb");
    if (!f && errno == ENOENT) return false;
    if (!f || fread(dimension, sizeof *dimension, 1, f) != 1)
        bench_fail("cannot read %s: %s", path, strerror(errno));
    fseek(f, 0, SEEK_END);
    const size_t row_bytes = *dimension * 4ull;
    *count = (size_t)ftell(f) / (row_bytes + 4);
    char *to = malloc(*count * row_bytes);
    if (!to) bench_fail("no memory for %s", path);
    rewind(f);
    for (size_t i = 0; i < *count; i++) {
        uint32_t width;
        if (fread(&width, 4, 1, f) != 1 || width != *dimension ||
            fread(to + i * row_bytes, row_bytes, 1, f) != 1)
            bench_fail("%s is damaged at row %zu", path, i);
    }
    fclose(f);
    *numbers = to;
    return true;
}

/* Keep `wanted` rows from all over the set. */
static void thin_out(float *rows, size_t *count, size_t wanted, size_t dimension)
{
    if (!wanted || wanted >= *count) return;
    for (size_t i = 0; i < wanted; i++)
        memmove(rows + i * dimension, rows + i * *count / wanted * dimension,
                dimension * sizeof *rows);
    *count = wanted;
}

static bool read_real(struct dataset *set, const struct dataset_options *options)
{
    uint32_t dimension;
    void *base, *query;
    if (!options->data_dir ||
        !vecs_read(options->data_dir, "base.fvecs", &base, &set->base_count, &set->dimension) ||
        !vecs_read(options->data_dir, "query.fvecs", &query, &set->query_count, &dimension))
        return false;
    if (dimension != set->dimension) bench_fail("queries of another dimension");
    set->base = base;
    set->query = query;
    thin_out(set->base, &set->base_count, options->rows, dimension);
    thin_out(set->query, &set->query_count, options->queries, dimension);
    set->source = "real";
    return true;
}

void dataset_make(struct dataset *set, const char *name, const struct dataset_options *options)
{
    const struct spec *spec = spec_of(name);
    *set = (struct dataset){.name = spec->name, .metric = spec->metric};
    if (strcmp(name, "lsa") != 0) {
        generate(set, spec, options);
        return;
    }
    if (read_real(set, options)) return;
    fprintf(stderr, "NOTE: %s: no real data set (--data=DIR); a generated STAND-IN is used\n",
            options->data_dir ? options->data_dir : "lsa");
    generate(set, spec, options);
    set->source = "stand-in";
}

void dataset_free(struct dataset *set)
{
    free(set->base);
    free(set->query);
    *set = (struct dataset){0};
}

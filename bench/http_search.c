/*
 * http_search.c - what a search costs the daemon over HTTP, next to the bare call of storage and to
 * hnswlib's.
 *
 *   http_search [options of args.h] [-- DAEMON-OPTION...]
 *
 * The same rows lie in a database of this process, in one of a daemon and in hnswlib.  Each
 * searches with the smallest effort that finds the share of the nearest (the daemon with that of
 * the database here, whose graph is as good).  The ways take turns within each round; "cpu_us" is
 * CPU time per search, of the thread that calls or of the whole daemon, and the ratios are medians
 * of the ratios of single rounds.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "api/base64.h"
#include "api/json.h"
#include "bench/support/args.h"
#include "bench/support/client.h"
#include "bench/support/store.h"

enum { K = 10, QUERIES_MAX = 1000, BATCH = 100, PUT_ROWS = 1000, EF_MAX = 2000, ROUNDS = 7 };

enum way { BARE, HNSWLIB, JSON, BASE64, BATCH_JSON, BATCH_BASE64, WAYS };
static const char *const way_names[WAYS] = {
    "bare", "hnswlib", "json", "base64", "batch of 100, json", "batch of 100, base64"};

struct contest {
    struct bench_args args;
    struct dataset set;
    struct truth truth;
    struct subject ours, theirs;
    struct bench_daemon server;
    struct bench_client client;

    /* For one share of the nearest. */
    double target;
    uint32_t ef[2]; /* ours; theirs */
    struct buf *bodies[WAYS];
    size_t body_count[WAYS];
    double cpu_us[WAYS][ROUNDS_MAX], wall_us[WAYS][ROUNDS_MAX];
};

/* ---- the daemon ---- */

static void put_rows(struct contest *c, size_t first, size_t count)
{
    struct buf body = {0};
    buf_str(&body, "{\"vectors\":[");
    for (size_t i = first; i < first + count; i++) {
        buf_printf(&body, "%s{\"vector_id\":%zu,\"data_base64\":\"", i > first ? "," : "", i);
        base64_write(&body, c->set.base + i * c->set.dimension, c->set.dimension * sizeof(float));
        buf_str(&body, "\"}");
    }
    buf_str(&body, "]}");
    bench_must(&c->client, "POST", "/databases/bench/vectors/batch", body.data, body.len);
    buf_free(&body);
}

static void fill_daemon(struct contest *c)
{
    char schema[200];
    int len = snprintf(schema, sizeof schema,
                       "{\"dimension\":%u,\"distance_metric\":\"%s\",\"durability\":\"periodic\","
                       "\"index\":{\"type\":\"hnsw\"}}",
                       c->set.dimension, metric_name(c->set.metric));
    bench_must(&c->client, "POST", "/databases/bench", schema, (size_t)len);
    for (size_t first = 0; first < c->set.base_count; first += PUT_ROWS) {
        size_t left = c->set.base_count - first;
        put_rows(c, first, left < PUT_ROWS ? left : PUT_ROWS);
    }
    do {
        bench_sleep(0.05);
        bench_must(&c->client, "GET", "/databases/bench/stats", NULL, 0);
    } while (!strstr(c->client.answer, "\"state\":\"ready\""));
}

/* ---- searches ---- */

static bool is_base64(enum way way)
{
    return way == BASE64 || way == BATCH_BASE64;
}

static void put_search(const struct contest *c, struct buf *out, size_t query, enum way way)
{
    const float *vector = c->set.query + query * c->set.dimension;
    if (is_base64(way)) {
        buf_str(out, "{\"data_base64\":\"");
        base64_write(out, vector, c->set.dimension * sizeof *vector);
        buf_str(out, "\"");
    } else {
        buf_str(out, "{\"data\":");
        json_put_floats(out, vector, c->set.dimension);
    }
    buf_printf(out, ",\"top_k\":%d,\"params\":{\"ef\":%u}}", K, c->ef[0]);
}

static void make_bodies(struct contest *c)
{
    for (int way = JSON; way < WAYS; way++) {
        size_t each = way < BATCH_JSON ? 1 : BATCH, n = 0;
        c->bodies[way] = calloc(c->set.query_count, sizeof *c->bodies[way]);
        if (!c->bodies[way]) bench_fail("no memory");
        for (size_t q = 0; q < c->set.query_count; n++) {
            struct buf *body = &c->bodies[way][n];
            if (each > 1) buf_str(body, "{\"searches\":[");
            for (size_t i = 0; i < each && q < c->set.query_count; i++, q++) {
                if (i) buf_str(body, ",");
                put_search(c, body, q, way);
            }
            if (each > 1) buf_str(body, "]}");
        }
        c->body_count[way] = n;
    }
}

static void free_bodies(struct contest *c)
{
    for (int way = JSON; way < WAYS; way++) {
        for (size_t i = 0; i < c->body_count[way]; i++)
            buf_free(&c->bodies[way][i]);
        free(c->bodies[way]);
    }
}

static void search_daemon(struct contest *c, enum way way)
{
    for (size_t i = 0; i < c->body_count[way]; i++) {
        const struct buf *body = &c->bodies[way][i];
        bench_must(&c->client, "POST",
                   way < BATCH_JSON ? "/databases/bench/search" : "/databases/bench/search/batch",
                   body->data, body->len);
        if (!strstr(c->client.answer, "\"strategy\":\"graph\""))
            bench_fail("no search of the graph: %.300s", c->client.answer);
    }
}

static double daemon_cpu_s(const struct contest *c)
{
    clockid_t clock;
    struct timespec t;
    if (clock_getcpuclockid(c->server.pid, &clock) || clock_gettime(clock, &t))
        bench_fail("no CPU clock of the daemon");
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void time_way(struct contest *c, enum way way, int round)
{
    const double per_search = 1e6 / (double)c->set.query_count;
    if (way < JSON) {
        const struct subject *s = way == BARE ? &c->ours : &c->theirs;
        struct pass p = measure_pass(s, &c->set, K, c->ef[way], 1, 1);
        c->cpu_us[way][round] = per_search * p.cpu_s;
        c->wall_us[way][round] = per_search * p.wall_s;
        return;
    }
    double wall = bench_now(), cpu = daemon_cpu_s(c);
    search_daemon(c, way);
    c->cpu_us[way][round] = per_search * (daemon_cpu_s(c) - cpu);
    c->wall_us[way][round] = per_search * (bench_now() - wall);
}

/* The smallest effort that reaches the target, about; ends the benchmark if none does. */
static uint32_t effort_for(struct contest *c, const struct subject *s, double *recall)
{
    for (uint32_t ef = K; ef <= EF_MAX; ef += 1 + ef / 12) {
        *recall = measure_recall(s, &c->set, &c->truth, K, ef, 1);
        if (*recall >= c->target) return ef;
    }
    bench_fail("%s does not reach %.2f", s->name, c->target);
}

static double median_ratio(const double *a, const double *b, int rounds)
{
    double ratios[ROUNDS_MAX];
    for (int i = 0; i < rounds; i++)
        ratios[i] = a[i] / b[i];
    return bench_median(ratios, (size_t)rounds);
}

static void compete(struct contest *c, double target)
{
    int rounds = c->args.rounds;
    double recall[2];
    c->target = target;
    c->ef[0] = effort_for(c, &c->ours, &recall[0]);
    c->ef[1] = effort_for(c, &c->theirs, &recall[1]);
    make_bodies(c);
    for (int round = -1; round < rounds; round++) /* one to warm up */
        for (int way = 0; way < WAYS; way++)
            time_way(c, (enum way)way, round < 0 ? 0 : round);
    for (int way = 0; way < WAYS; way++) {
        double over[2];
        for (int i = 0; i < 2; i++)
            over[i] = median_ratio(c->cpu_us[way], c->cpu_us[i], rounds);
        printf("{\"bench\":\"http_search\",\"set\":\"%s\",\"source\":\"%s\",\"rows\":%zu,"
               "\"way\":\"%s\",\"recall\":%.4f,\"ef\":%u,\"cpu_us\":%.1f,\"wall_us\":%.1f,"
               "\"over_bare\":%.2f,\"over_hnswlib\":%.2f}\n",
               c->set.name, c->set.source, c->set.base_count, way_names[way],
               recall[way == HNSWLIB], c->ef[way == HNSWLIB],
               bench_median(c->cpu_us[way], (size_t)rounds),
               bench_median(c->wall_us[way], (size_t)rounds), over[BARE], over[HNSWLIB]);
    }
    fflush(stdout);
    free_bodies(c);
}

static void contest(struct contest *c, const char *name, const char *const *daemon_options)
{
    struct build_cost ignored;
    int threads = c->args.options.threads;
    bench_make_set(&c->args, name, &c->set);
    if (c->set.query_count > QUERIES_MAX) c->set.query_count = QUERIES_MAX;
    truth_of(&c->truth, &c->set, K, c->args.cache_dir, threads);
    subject_database(&c->ours, &c->set, &(struct index_options){.kind = INDEX_GRAPH}, &ignored);
    subject_hnswlib(&c->theirs, &c->set, &(struct subject_options){.threads = threads}, &ignored);
    bench_daemon_start(&c->server, NULL, daemon_options);
    bench_client_init(&c->client, c->server.port);
    fill_daemon(c);
    compete(c, 0.95);
    compete(c, 0.99);
    bench_client_deinit(&c->client);
    bench_daemon_discard(&c->server);
    subject_hnswlib_free(&c->theirs);
    subject_database_free(&c->ours);
    truth_free(&c->truth);
    dataset_free(&c->set);
}

int main(int argc, char **argv)
{
    static struct contest c; /* large */
    const char *const *daemon_options = NULL;
    bench_args_init(&c.args);
    for (int i = 1; i < argc && !daemon_options; i++) {
        if (strcmp(argv[i], "--") == 0)
            daemon_options = (const char *const *)argv + i + 1;
        else if (!bench_args_take(&c.args, argv[i]))
            bench_fail("usage: http_search [options] [-- DAEMON-OPTION...]\n" BENCH_ARGS_HELP);
    }
    if (c.args.rounds == 0) c.args.rounds = ROUNDS;
    if (c.args.rounds > ROUNDS_MAX) bench_fail("--rounds=1 .. %d", ROUNDS_MAX);
    const char *at = c.args.sets ? c.args.sets : "lsa";
    for (char name[64]; bench_next_name(&at, name);)
        contest(&c, name, daemon_options);
    return 0;
}

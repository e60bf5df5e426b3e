/*
 * many_databases.c - what thousands of databases cost that are closed: start, memory, descriptors,
 * lists, statistics, making and dropping one more.
 *
 *   many_databases [--databases=N] [--threads=N] [--dir=DIR] [-- DAEMON-OPTION...]
 *
 * Every tenth gets rows, so that the LRU turns over while they are made.  Times are medians;
 * "ready" is from fork() to the first 200 of GET /ready, asked for every half millisecond.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/support/client.h"

enum { DIMENSION = 16, ROWS = 4, REPEATS = 21, STARTS = 5, CHAIN = 3000 };

static struct bench_daemon server;
static int database_count = 10000;
static _Atomic int next_database;

static void *make_some(void *arg)
{
    static const char schema[] = "{\"dimension\":16,\"distance_metric\":\"euclidean\"}";
    struct bench_client c;
    struct buf rows = {0};
    char path[128];
    (void)arg;
    bench_client_init(&c, server.port);
    bench_batch(&rows, NULL, ROWS, 1, DIMENSION);
    for (int i; (i = atomic_fetch_add(&next_database, 1)) < database_count;) {
        snprintf(path, sizeof path, "/databases/tenant-%05d", i);
        bench_must(&c, "POST", path, schema, sizeof schema - 1);
        if (i % 10) continue;
        snprintf(path, sizeof path, "/databases/tenant-%05d/vectors/batch", i);
        bench_must(&c, "POST", path, rows.data, rows.len);
    }
    buf_free(&rows);
    bench_client_deinit(&c);
    return NULL;
}

static void look(const char *when)
{
    printf("{\"bench\":\"many_databases\",\"databases\":%d,\"when\":\"%s\",\"rss_mb\":%.1f,"
           "\"rss_anon_mb\":%.1f,\"descriptors\":%zu,\"mappings\":%zu}\n",
           database_count, when, (double)bench_status_bytes(server.pid, "VmRSS") / 1e6,
           (double)bench_status_bytes(server.pid, "RssAnon") / 1e6, bench_descriptors(server.pid),
           bench_mappings(server.pid, ".jvdb"));
    fflush(stdout);
}

static void say(const char *what, double ms, double max_ms)
{
    printf("{\"bench\":\"many_databases\",\"databases\":%d,\"what\":\"%s\",\"ms\":%.2f,"
           "\"max_ms\":%.2f}\n",
           database_count, what, ms, max_ms);
    fflush(stdout);
}

/* Median of one request done again and again. */
static void repeat(struct bench_client *c, const char *what, const char *path)
{
    double took[REPEATS];
    for (int i = 0; i < REPEATS; i++) {
        double begun = bench_now();
        bench_must(c, "GET", path, NULL, 0);
        took[i] = 1e3 * (bench_now() - begun);
    }
    double median = bench_median(took, REPEATS);
    say(what, median, took[REPEATS - 1]);
}

static void list_all(struct bench_client *c)
{
    char path[256] = "/databases?limit=1000";
    double begun = bench_now();
    for (;;) {
        bench_must(c, "GET", path, NULL, 0);
        const char *next = strstr(c->answer, "\"next\":\"");
        if (!next) break;
        snprintf(path, sizeof path, "/databases?limit=1000&cursor=%.*s",
                 (int)strcspn(next + 8, "\""), next + 8);
    }
    double took = 1e3 * (bench_now() - begun);
    say("list all, 1000 a page", took, took);
}

static void make_and_drop(struct bench_client *c)
{
    static const char schema[] = "{\"dimension\":16}";
    double made[REPEATS], dropped[REPEATS];
    for (int i = 0; i < REPEATS; i++) {
        double begun = bench_now();
        bench_must(c, "POST", "/databases/tenant-middle", schema, sizeof schema - 1);
        double then = bench_now();
        bench_must(c, "DELETE", "/databases/tenant-middle", NULL, 0);
        made[i] = 1e3 * (then - begun);
        dropped[i] = 1e3 * (bench_now() - then);
    }
    double median = bench_median(made, REPEATS);
    say("make one more", median, made[REPEATS - 1]);
    median = bench_median(dropped, REPEATS);
    say("drop it", median, dropped[REPEATS - 1]);
}

/* Reads that find their database closed, nearly always. */
static void visit(struct bench_client *c)
{
    struct bench_times times = {0};
    uint64_t random = 9;
    char path[128];
    for (int i = 0; i < CHAIN; i++) {
        int n = (int)(bench_random(&random) % (uint64_t)database_count);
        snprintf(path, sizeof path, "/databases/tenant-%05d/vectors/1", n);
        double begun = bench_now();
        int status = bench_request(c, "GET", path, NULL, 0);
        if (status != (n % 10 ? 404 : 200)) bench_fail("%s: %d %s", path, status, c->answer);
        bench_times_add(&times, bench_now() - begun);
    }
    double median = 1e3 * bench_quantile(&times, 0.5);
    say("read from a closed one", median, 1e3 * bench_quantile(&times, 0.999));
    free(times.values);
}

/* "total_vectors" is known when every count is. */
static double wait_for_counts(struct bench_client *c)
{
    double begun = bench_now(), wanted = (double)((database_count + 9) / 10 * ROWS);
    for (;;) {
        bench_must(c, "GET", "/storage/stats", NULL, 0);
        if (bench_number(c, "total_vectors") == wanted) return 1e3 * (bench_now() - begun);
        if (bench_now() - begun > 300)
            bench_fail("%.0f of %.0f rows are known", bench_number(c, "total_vectors"), wanted);
        bench_sleep(0.01);
    }
}

static void start_again(bool kill_it, const char *const *options)
{
    double ready[STARTS], stop[STARTS], learned[STARTS];
    for (int i = 0; i < STARTS; i++) {
        struct bench_client c;
        stop[i] = 1e3 * bench_daemon_stop(&server, kill_it);
        bench_daemon_restart(&server, false, options);
        ready[i] = 1e3 * server.ready_s;
        if (i == 0) look(kill_it ? "just started after kill -9" : "just started");
        bench_client_init(&c, server.port);
        learned[i] = wait_for_counts(&c);
        if (i == 0 && kill_it) look("counts learned");
        bench_client_deinit(&c);
    }
    double median = bench_median(ready, STARTS);
    say(kill_it ? "ready after kill -9" : "ready after a clean stop", median, ready[STARTS - 1]);
    median = bench_median(learned, STARTS);
    say(kill_it ? "counts known after kill -9" : "counts known", median, learned[STARTS - 1]);
    if (kill_it) return;
    median = bench_median(stop, STARTS);
    say("clean stop", median, stop[STARTS - 1]);
}

int main(int argc, char **argv)
{
    const char *dir = NULL, *const *options = NULL;
    int thread_count = 16;
    for (int i = 1; i < argc; i++) {
        if (strncmp(argv[i], "--databases=", 12) == 0) {
            database_count = atoi(argv[i] + 12);
        } else if (strncmp(argv[i], "--threads=", 10) == 0) {
            thread_count = atoi(argv[i] + 10);
        } else if (strncmp(argv[i], "--dir=", 6) == 0) {
            dir = argv[i] + 6;
        } else if (strcmp(argv[i], "--") == 0) {
            options = (const char *const *)argv + i + 1;
            break;
        } else {
            bench_fail("usage: many_databases [--databases=N] [--threads=N] [--dir=DIR] [-- ...]");
        }
    }
    if (thread_count < 1 || thread_count > 256) bench_fail("--threads=1 .. 256");
    bench_daemon_start(&server, dir, options);
    say("ready, empty", 1e3 * server.ready_s, 1e3 * server.ready_s);
    look("empty");

    pthread_t threads[256];
    double begun = bench_now();
    for (int i = 0; i < thread_count; i++)
        pthread_create(&threads[i], NULL, make_some, NULL);
    for (int i = 0; i < thread_count; i++)
        pthread_join(threads[i], NULL);
    double took = bench_now() - begun;
    printf("{\"bench\":\"many_databases\",\"databases\":%d,\"what\":\"make them\",\"seconds\":%.1f,"
           "\"per_second\":%.0f,\"threads\":%d}\n",
           database_count, took, database_count / took, thread_count);
    look("made");

    start_again(false, options);
    struct bench_client c;
    bench_client_init(&c, server.port);
    list_all(&c);
    repeat(&c, "GET /storage/stats", "/storage/stats");
    repeat(&c, "GET /metrics", "//metrics");
    make_and_drop(&c);
    visit(&c);
    look("after reads of many");
    bench_client_deinit(&c);
    start_again(true, options);
    bench_daemon_discard(&server);
    return 0;
}

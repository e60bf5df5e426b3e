/*
 * stalls.c - do searches, reads and synced writes stall while a large database is filled,
 * checkpointed or compacted?
 *
 * One daemon, one run after the other.  Constant load: exact searches of a database of 10,000 rows
 * and of one of 1,000, reads by id of the large one and of small ones, synced writes of single rows
 * all over the large one and to a small one.  A search of the large one is an exact scan of all of
 * it and no fair probe of stalls; it is made now and then and reported by itself.
 *
 * What is no fault of the daemon is measured beside it, in the same process at the same priority: a
 * thread that wakes every millisecond and notes how late, and one that appends 4 KiB to a file in
 * the same file system and calls fdatasync().  The claim is about differences of quantiles: the
 * 99.9th percentile of searches and reads against the first, of synced writes against the second.
 *
 *   stalls [--rows=N] [--runs=N] [--dir=DIR] [--seconds=N] [-- DAEMON-OPTION...]
 *
 * JSON lines: one for each run, phase and operation; then medians over the runs.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "bench/support/client.h"

enum {
    BIG_DIMENSION = 768,
    SMALL_DIMENSION = 128,
    MIDDLE_ROWS = 10000,
    SMALL_ROWS = 1000,
    BATCH_ROWS = 1000,
    DIRTY_BATCHES =
        10, /* of random rows before each further checkpoint: every slot block changes */
    ROUNDS_MAX = 40,
    OTHERS = 4,
    RUNS_MAX = 99,
};
#define PAUSE_S      0.001
#define SYNC_PAUSE_S 0.002

enum phase { QUIET, INGEST, DIRTYING, CHECKPOINT, COMPACT, PHASE_COUNT, NONE = PHASE_COUNT };
static const char *const phase_names[] = {"quiet", "ingest", "dirtying", "checkpoint", "compact"};

enum op {
    IDLE_PROBE,
    SYNC_PROBE,
    SEARCH,
    SEARCH_SMALL,
    READ_BIG,
    READ,
    WRITE_BIG,
    WRITE,
    OP_COUNT
};
static const char *const op_names[] = {
    "idle probe", "fdatasync probe", "search 10k", "search 1k", "read big",
    "read",       "write big",       "write"};

static struct bench_daemon server;
static uint64_t big_rows = 340000; /* 768 floats each: 1 GB */
static double seconds_min = 5;     /* of checkpoints in each run */
static _Atomic int phase = NONE;
static _Atomic bool stopping;
static struct bench_times times[PHASE_COUNT][OP_COUNT];
static _Atomic uint64_t anon_max[PHASE_COUNT];

/* Only the thread of `op` calls this. */
static void note(int when, enum op op, double took)
{
    if (when != NONE) bench_times_add(&times[when][op], took);
}

/* ---- probes ---- */

static void *idle_probe(void *arg)
{
    struct timespec next, now;
    (void)arg;
    clock_gettime(CLOCK_MONOTONIC, &next);
    while (!stopping) {
        int when = phase;
        next.tv_nsec += 1000000;
        next.tv_sec += next.tv_nsec / 1000000000;
        next.tv_nsec %= 1000000000;
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL);
        clock_gettime(CLOCK_MONOTONIC, &now);
        note(when, IDLE_PROBE,
             (double)(now.tv_sec - next.tv_sec) + (double)(now.tv_nsec - next.tv_nsec) / 1e9);
        next = now;
    }
    return NULL;
}

static void *sync_probe(void *arg)
{
    static const char page[4096] = {1};
    char path[512];
    (void)arg;
    snprintf(path, sizeof path, "%s/probe", server.dir);
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0) bench_fail("cannot make %s", path);
    while (!stopping) {
        int when = phase;
        double begun = bench_now();
        if (write(fd, page, sizeof page) != sizeof page || fdatasync(fd))
            bench_fail("the probe cannot write %s", path);
        note(when, SYNC_PROBE, bench_now() - begun);
        bench_sleep(SYNC_PAUSE_S);
    }
    close(fd);
    return NULL;
}

/* The most anonymous memory of each phase. */
static void *watcher(void *arg)
{
    (void)arg;
    while (!stopping) {
        int when = phase;
        uint64_t bytes = bench_status_bytes(server.pid, "RssAnon");
        if (when != NONE && bytes > anon_max[when]) anon_max[when] = bytes;
        bench_sleep(0.02);
    }
    return NULL;
}

/* ---- load ---- */

static void *load(void *arg)
{
    const enum op op = (enum op)(intptr_t)arg;
    struct bench_client c;
    struct buf body = {0};
    uint64_t random = 77 + (uint64_t)op;
    char path[128];
    bench_client_init(&c, server.port);
    while (!stopping) {
        const char *method = "GET";
        unsigned long long r = bench_random(&random);
        int when = phase;
        body.len = 0;
        switch (op) {
        case SEARCH:
        case SEARCH_SMALL: {
            float query[SMALL_DIMENSION];
            method = "POST";
            snprintf(path, sizeof path, "/databases/%s/search", op == SEARCH ? "middle" : "other0");
            bench_row(r, query, SMALL_DIMENSION);
            buf_str(&body, "{\"top_k\":10,\"data\":[");
            for (int i = 0; i < SMALL_DIMENSION; i++)
                buf_printf(&body, "%s%g", i ? "," : "", (double)query[i]);
            buf_str(&body, "]}");
            break;
        }
        case READ_BIG:
            snprintf(path, sizeof path, "/databases/big/vectors/%llu", r % big_rows + 1);
            break;
        case READ:
            snprintf(path, sizeof path, "/databases/other%llu/vectors/%llu", r % OTHERS,
                     r / OTHERS % SMALL_ROWS + 1);
            break;
        case WRITE_BIG:
            method = "PUT";
            snprintf(path, sizeof path, "/databases/big/vectors/%llu?durability=synced",
                     r % big_rows + 1);
            bench_one(&body, r, BIG_DIMENSION);
            break;
        default:
            method = "PUT";
            snprintf(path, sizeof path, "/databases/other%llu/vectors/%llu?durability=synced",
                     r % OTHERS, r / OTHERS % SMALL_ROWS + 1);
            bench_one(&body, r, SMALL_DIMENSION);
            break;
        }
        double begun = bench_now();
        int status = bench_request(&c, method, path, body.data, body.len);
        double took = bench_now() - begun;
        /* While it is filled, or made anew, not every row is there. */
        bool may_miss = op == READ_BIG || op == WRITE_BIG;
        if (status / 100 != 2 && !(may_miss && status == 404))
            bench_fail("%s %s: %d %.300s", method, path, status, c.answer);
        if (status / 100 == 2 || op == READ_BIG) note(when, op, took);
        bench_sleep(op == WRITE || op == WRITE_BIG ? SYNC_PAUSE_S : PAUSE_S);
    }
    buf_free(&body);
    bench_client_deinit(&c);
    return NULL;
}

/* ---- one run ---- */

static void make(struct bench_client *c, const char *name, int dimension, uint64_t rows)
{
    char path[128], body[200];
    struct buf batch = {0};
    int len =
        snprintf(body, sizeof body,
                 "{\"dimension\":%d,\"distance_metric\":\"euclidean\",\"durability\":\"periodic\"}",
                 dimension);
    snprintf(path, sizeof path, "/databases/%s", name);
    bench_must(c, "POST", path, body, (size_t)len);
    snprintf(path, sizeof path, "/databases/%s/vectors/batch", name);
    bench_batch(&batch, NULL, BATCH_ROWS, rows, (size_t)dimension);
    for (uint64_t done = 0; done < rows; done += BATCH_ROWS)
        bench_must(c, "POST", path, batch.data, batch.len);
    buf_free(&batch);
}

static void dirty(struct bench_client *c, uint64_t *random)
{
    uint64_t ids[BATCH_ROWS];
    struct buf batch = {0};
    for (int i = 0; i < DIRTY_BATCHES; i++) {
        for (int k = 0; k < BATCH_ROWS; k++)
            ids[k] = bench_random(random) % big_rows + 1;
        bench_batch(&batch, ids, BATCH_ROWS, *random, BIG_DIMENSION);
        bench_must(c, "POST", "/databases/big/vectors/batch", batch.data, batch.len);
    }
    buf_free(&batch);
}

static double big_search(struct bench_client *c, uint64_t *random)
{
    struct buf body = {0};
    float query[BIG_DIMENSION];
    bench_row(bench_random(random), query, BIG_DIMENSION);
    buf_str(&body, "{\"top_k\":10,\"data\":[");
    for (int i = 0; i < BIG_DIMENSION; i++)
        buf_printf(&body, "%s%g", i ? "," : "", (double)query[i]);
    buf_str(&body, "]}");
    double begun = bench_now();
    bench_must(c, "POST", "/databases/big/search", body.data, body.len);
    buf_free(&body);
    return bench_now() - begun;
}

/* One search of the large database beside whatever happens. */
static void *beside(void *arg)
{
    double *took = arg;
    struct bench_client c;
    uint64_t random = 5;
    bench_client_init(&c, server.port);
    bench_sleep(0.02);
    *took = big_search(&c, &random);
    bench_client_deinit(&c);
    return NULL;
}

static uint64_t disk_bytes(void)
{
    char path[512];
    struct stat st;
    snprintf(path, sizeof path, "%s/data/big.jvdb", server.dir);
    return stat(path, &st) == 0 ? (uint64_t)st.st_blocks * 512 : 0;
}

static void report(int run, enum phase p, double seconds)
{
    for (int op = 0; op < OP_COUNT; op++) {
        struct bench_times *t = &times[p][op];
        if (t->count == 0) continue;
        printf("{\"bench\":\"stalls\",\"run\":%d,\"phase\":\"%s\",\"seconds\":%.1f,\"op\":\"%s\","
               "\"count\":%zu,\"p50_ms\":%.2f,\"p99_ms\":%.2f,\"p999_ms\":%.2f,\"max_ms\":%.2f}\n",
               run, phase_names[p], seconds, op_names[op], t->count, 1e3 * bench_quantile(t, 0.5),
               1e3 * bench_quantile(t, 0.99), 1e3 * bench_quantile(t, 0.999),
               1e3 * bench_quantile(t, 1));
    }
    fflush(stdout);
}

static double excess[PHASE_COUNT][OP_COUNT][RUNS_MAX], p999[PHASE_COUNT][OP_COUNT][RUNS_MAX];
static int runs_of[PHASE_COUNT];

static void end_phase(int run, enum phase p, double seconds)
{
    report(run, p, seconds);
    int n = runs_of[p]++;
    for (int op = 0; op < OP_COUNT; op++) {
        bool syncs = op == WRITE || op == WRITE_BIG || op == SYNC_PROBE;
        p999[p][op][n] = 1e3 * bench_quantile(&times[p][op], 0.999);
        excess[p][op][n] = p999[p][op][n] -
                           1e3 * bench_quantile(&times[p][syncs ? SYNC_PROBE : IDLE_PROBE], 0.999);
    }
}

static void one_run(int run, bool first)
{
    struct bench_client c;
    uint64_t random = (uint64_t)run * 1000003;
    double begun, took, spent[PHASE_COUNT] = {0}, searches[2][ROUNDS_MAX], flushes[ROUNDS_MAX];
    size_t rounds = 0, searched = 0;
    pthread_t threads[OP_COUNT + 1];
    bench_client_init(&c, server.port);
    memset(anon_max, 0, sizeof anon_max);
    for (int p = 0; p < PHASE_COUNT; p++)
        for (int op = 0; op < OP_COUNT; op++)
            times[p][op].count = 0;
    if (first) {
        make(&c, "middle", SMALL_DIMENSION, MIDDLE_ROWS);
        for (int i = 0; i < OTHERS; i++) {
            char name[16];
            snprintf(name, sizeof name, "other%d", i);
            make(&c, name, SMALL_DIMENSION, SMALL_ROWS);
        }
    }
    make(&c, "big", BIG_DIMENSION, BATCH_ROWS);
    bench_must(&c, "POST", "/storage/flush", NULL, 0);
    uint64_t anon_before = bench_status_bytes(server.pid, "RssAnon");

    stopping = false;
    for (int op = 0; op < OP_COUNT; op++)
        pthread_create(&threads[op], NULL,
                       op == IDLE_PROBE   ? idle_probe
                       : op == SYNC_PROBE ? sync_probe
                                          : load,
                       (void *)(intptr_t)op);
    pthread_create(&threads[OP_COUNT], NULL, watcher, NULL);

    begun = bench_now();
    phase = QUIET;
    bench_sleep(seconds_min);
    spent[QUIET] = bench_now() - begun;

    struct buf batch = {0};
    bench_batch(&batch, NULL, BATCH_ROWS, 1, BIG_DIMENSION);
    begun = bench_now();
    phase = INGEST;
    for (uint64_t rows = BATCH_ROWS; rows < big_rows; rows += BATCH_ROWS)
        bench_must(&c, "POST", "/databases/big/vectors/batch", batch.data, batch.len);
    spent[INGEST] = bench_now() - begun;
    buf_free(&batch);

    while (rounds < ROUNDS_MAX && (rounds == 0 || spent[CHECKPOINT] < seconds_min)) {
        pthread_t searcher;
        begun = bench_now();
        phase = CHECKPOINT;
        pthread_create(&searcher, NULL, beside, &searches[1][rounds]);
        bench_must(&c, "POST", "/databases/big/flush", NULL, 0);
        took = bench_now() - begun;
        phase = NONE;
        pthread_join(searcher, NULL);
        spent[CHECKPOINT] += took;
        flushes[rounds++] = took;
        begun = bench_now();
        phase = DIRTYING;
        dirty(&c, &random);
        spent[DIRTYING] += bench_now() - begun;
    }
    phase = NONE;
    bench_must(&c, "POST", "/databases/big/flush", NULL, 0);
    begun = bench_now();
    phase = COMPACT;
    bool compacts = bench_request(&c, "POST", "/databases/big/compact", NULL, 0) / 100 == 2;
    phase = NONE;
    spent[COMPACT] = bench_now() - begun;

    stopping = true;
    for (int i = 0; i <= OP_COUNT; i++)
        pthread_join(threads[i], NULL);
    bench_must(&c, "POST", "/storage/flush", NULL, 0);
    while (searched < 5)
        searches[0][searched++] = big_search(&c, &random);
    uint64_t bytes = disk_bytes(), anon_after = bench_status_bytes(server.pid, "RssAnon");
    size_t maps = bench_mappings(server.pid, "big.jvdb");
    begun = bench_now();
    bench_must(&c, "DELETE", "/databases/big", NULL, 0);
    took = bench_now() - begun;

    for (int p = 0; p < PHASE_COUNT; p++)
        if (p != COMPACT || compacts) end_phase(run, p, spent[p]);
    double first_flush = flushes[0];
    printf("{\"bench\":\"stalls\",\"run\":%d,\"rows\":%llu,\"file_bytes\":%llu,"
           "\"ingest_mb_per_s\":%.0f,\"flush_s\":%.2f,\"flush_again_s\":%.2f,\"flushes\":%zu,"
           "\"search_big_ms\":%.0f,\"search_big_in_checkpoint_ms\":%.0f,"
           "\"rss_anon_mb\":{\"before\":%.1f,\"ingest\":%.1f,\"checkpoint\":%.1f,\"after\":%.1f,"
           "\"dropped\":%.1f},\"drop_ms\":%.1f,\"mappings\":%zu,\"mappings_dropped\":%zu}\n",
           run, (unsigned long long)big_rows, (unsigned long long)bytes,
           (double)big_rows * BIG_DIMENSION * 4 / 1e6 / spent[INGEST], first_flush,
           bench_median(flushes, rounds), rounds, 1e3 * bench_median(searches[0], searched),
           1e3 * bench_median(searches[1], rounds), (double)anon_before / 1e6,
           (double)anon_max[INGEST] / 1e6, (double)anon_max[CHECKPOINT] / 1e6,
           (double)anon_after / 1e6, (double)bench_status_bytes(server.pid, "RssAnon") / 1e6,
           1e3 * took, maps, bench_mappings(server.pid, "big.jvdb"));
    fflush(stdout);
    bench_client_deinit(&c);
}

int main(int argc, char **argv)
{
    const char *dir = NULL, *const *options = NULL;
    int runs = 5;
    for (int i = 1; i < argc; i++) {
        if (strncmp(argv[i], "--rows=", 7) == 0) {
            big_rows = strtoull(argv[i] + 7, NULL, 10);
        } else if (strncmp(argv[i], "--runs=", 7) == 0) {
            runs = atoi(argv[i] + 7);
        } else if (strncmp(argv[i], "--dir=", 6) == 0) {
            dir = argv[i] + 6;
        } else if (strncmp(argv[i], "--seconds=", 10) == 0) {
            seconds_min = atof(argv[i] + 10);
        } else if (strcmp(argv[i], "--") == 0) {
            options = (const char *const *)argv + i + 1;
            break;
        } else {
            bench_fail("usage: stalls [--rows=N] [--runs=N] [--dir=DIR] [--seconds=N] [-- ...]");
        }
    }
    if (runs < 1 || runs > RUNS_MAX) bench_fail("--runs=1 .. %d", RUNS_MAX);
    bench_daemon_start(&server, dir, options);
    for (int run = 1; run <= runs; run++)
        one_run(run, run == 1);
    for (int p = 0; p < PHASE_COUNT; p++)
        for (int op = 0; op < OP_COUNT && runs_of[p]; op++)
            printf("{\"bench\":\"stalls\",\"median_of\":%d,\"phase\":\"%s\",\"op\":\"%s\","
                   "\"p999_ms\":%.2f,\"beyond_probe_ms\":%.2f}\n",
                   runs_of[p], phase_names[p], op_names[op],
                   bench_median(p999[p][op], (size_t)runs_of[p]),
                   bench_median(excess[p][op], (size_t)runs_of[p]));
    bench_daemon_discard(&server);
    return 0;
}

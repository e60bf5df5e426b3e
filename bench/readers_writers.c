/*
 * readers_writers.c - how much longer does a reader wait beside writers at full speed than beside
 * threads that only use the CPU?
 *
 *   readers_writers [--seconds=N] [options of args.h]     --rounds: five by default
 *
 * One thread searches all the time.  Phases take turns: alone; beside two burners, which compute
 * and touch nothing; beside two inserters at full speed, with whatever the index does in the
 * background for them.  All are threads of one process at the same priority, so the scheduler
 * treats burners and inserters alike, and what inserters cost beyond burners is locks, memory and
 * linking.  Half of the set is there at the start; when all of it is, rows are replaced.  How the
 * inserters fare is told, too: they may be slowed down, but none of their requests for long.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "bench/support/args.h"
#include "bench/support/client.h"
#include "bench/support/store.h"

enum { K = 10, ROUNDS = 5, QUICK_ROUNDS = 3, INSERTERS = 2 };
#define PHASE_S 3.0

enum phase { ALONE, BURNERS, WRITERS, PHASE_COUNT };
static const char *const phase_names[] = {"alone", "beside 2 burners", "beside 2 inserters"};

struct world {
    struct dataset set;
    struct bench_store store;
    _Atomic size_t next_row;
    _Atomic bool stopping;
    double seconds;
    struct search_report last; /* of the phase */
};

struct neighbour {
    struct world *world;
    struct bench_times puts;
};

static void *insert(void *arg)
{
    struct neighbour *n = arg;
    struct world *w = n->world;
    while (!w->stopping) {
        size_t row = atomic_fetch_add(&w->next_row, 1);
        /* All inserted: the same rows again, which replaces them. */
        const float *vector = w->set.base + row % w->set.base_count * w->set.dimension;
        double begun = bench_now();
        store_put_one(&w->store, vector, row % w->set.base_count);
        bench_times_add(&n->puts, bench_now() - begun);
    }
    return NULL;
}

static void *burn(void *arg)
{
    struct world *w = ((struct neighbour *)arg)->world;
    volatile uint64_t x = 1;
    while (!w->stopping)
        for (int i = 0; i < 1000; i++)
            x = x * 6364136223846793005u + 1442695040888963407u;
    return NULL;
}

/* Search for `seconds`; times of every search. */
static void read_for(struct world *w, struct bench_times *times)
{
    uint32_t ids[K];
    const double end = bench_now() + w->seconds;
    times->count = 0;
    for (size_t i = 0; bench_now() < end; i = (i + 1) % w->set.query_count) {
        struct search_query q = {.vector = w->set.query + i * w->set.dimension, .top_k = K};
        double begun = bench_now();
        store_search(&w->store, &q, ids, &w->last);
        bench_times_add(times, bench_now() - begun);
    }
}

static void run_phase(struct world *w, enum phase phase, struct bench_times *searches,
                      struct bench_times *puts)
{
    static struct neighbour neighbours[INSERTERS];
    pthread_t threads[INSERTERS];
    void *(*beside)(void *) = phase == WRITERS ? insert : burn;
    w->stopping = false;
    puts->count = 0;
    for (int i = 0; phase != ALONE && i < INSERTERS; i++) {
        neighbours[i].world = w;
        neighbours[i].puts.count = 0;
        if (pthread_create(&threads[i], NULL, beside, &neighbours[i])) bench_fail("no thread");
    }
    read_for(w, searches);
    w->stopping = true;
    for (int i = 0; phase != ALONE && i < INSERTERS; i++) {
        pthread_join(threads[i], NULL);
        for (size_t k = 0; k < neighbours[i].puts.count; k++)
            bench_times_add(puts, neighbours[i].puts.values[k]);
    }
}

/* Nothing is left to be done in the background, in the phases without inserters. */
static void settle(struct world *w)
{
    store_settle(&w->store);
    service_settle_index(w->store.svc, w->store.db);
}

int main(int argc, char **argv)
{
    static struct world w;
    static struct bench_times times, puts;
    struct bench_args args;
    const char *value;
    double p99[PHASE_COUNT][ROUNDS_MAX], ratios[ROUNDS_MAX], seconds = PHASE_S;
    bench_args_init(&args);
    for (int i = 1; i < argc; i++) {
        if ((value = bench_value(argv[i], "--seconds")))
            seconds = atof(value);
        else if (!bench_args_take(&args, argv[i]))
            bench_fail("usage: readers_writers [--seconds=N] [options]\n" BENCH_ARGS_HELP);
    }
    int rounds = args.rounds ? args.rounds : args.quick ? QUICK_ROUNDS : ROUNDS;
    if (rounds < 1 || rounds > ROUNDS_MAX) bench_fail("--rounds=1 .. %d", ROUNDS_MAX);
    w.seconds = seconds;
    bench_make_set(&args, args.sets ? args.sets : "lsa", &w.set);
    w.next_row = w.set.base_count / 2;
    store_open(&w.store, &(struct store_options){.metric = w.set.metric,
                                                 .dimension = w.set.dimension,
                                                 .capacity = w.set.base_count});
    store_put(&w.store, w.set.base, 0, w.next_row, NULL, NULL);
    settle(&w);
    for (int round = 0; round < rounds; round++) {
        for (int phase = 0; phase < PHASE_COUNT; phase++) {
            run_phase(&w, (enum phase)phase, &times, &puts);
            p99[phase][round] = bench_quantile(&times, 0.99);
            printf("{\"bench\":\"readers_writers\",\"round\":%d,\"phase\":\"%s\",\"searches\":%zu,"
                   "\"p50_us\":%.0f,\"p99_us\":%.0f,\"p999_us\":%.0f,\"max_us\":%.0f,"
                   "\"strategy\":\"%s\",\"unlinked\":%llu",
                   round, phase_names[phase], times.count, 1e6 * bench_quantile(&times, 0.5),
                   1e6 * p99[phase][round], 1e6 * bench_quantile(&times, 0.999),
                   1e6 * bench_quantile(&times, 1), search_strategy_name(w.last.strategy),
                   (unsigned long long)w.last.unlinked);
            if (puts.count)
                printf(",\"inserted_per_s\":%.0f,\"put_p50_us\":%.0f,\"put_p99_us\":%.0f,"
                       "\"put_max_ms\":%.1f",
                       (double)puts.count / seconds, 1e6 * bench_quantile(&puts, 0.5),
                       1e6 * bench_quantile(&puts, 0.99), 1e3 * bench_quantile(&puts, 1));
            printf("}\n");
            fflush(stdout);
            settle(&w);
        }
        ratios[round] = p99[WRITERS][round] / p99[BURNERS][round];
    }
    double ratio = bench_median(ratios, (size_t)rounds);
    printf("{\"bench\":\"readers_writers\",\"rounds\":%d,\"p99_us\":{\"alone\":%.0f,"
           "\"burners\":%.0f,\"inserters\":%.0f},\"ratio\":%.2f}\n",
           rounds, 1e6 * bench_median(p99[ALONE], (size_t)rounds),
           1e6 * bench_median(p99[BURNERS], (size_t)rounds),
           1e6 * bench_median(p99[WRITERS], (size_t)rounds), ratio);
    fprintf(stderr, "p99 beside inserters is x%.2f of that beside burners\n", ratio);
    store_close(&w.store);
    dataset_free(&w.set);
    return 0;
}

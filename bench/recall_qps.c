/*
 * recall_qps.c - searches per second against recall, next to hnswlib on the same rows in the same
 * run; what building costs and what a row takes in memory, of both.
 *
 *   recall_qps [--subject=database|graph] [options of args.h]
 *
 * Both climb a ladder of ef; the rungs around each target recall are then timed in turn (ours,
 * theirs, ours, theirs ...), and rates between two rungs are interpolated (measure.h).
 * JSON lines: every rung, then for each target the rates and their ratio.  A table of the ratios
 * goes to standard error.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/support/args.h"
#include "bench/support/client.h"
#include "bench/support/store.h"

enum { K = 10, EF_MAX = 1200, ROUNDS = 5, QUICK_ROUNDS = 3, TABLE_BYTES_MAX = 64 * 1024 };
static const char DEFAULT_SETS[] = "lsa,tanh768,lowrank1536,norms128";

struct plan {
    struct bench_args args;
    struct subject_options ours, theirs;
    struct index_options index; /* of the database */
    bool bare;                  /* the graph, not a database */
    const char *peer;           /* "none": ours alone */
};

/* What both are about, and what came out. */
struct contest {
    const struct plan *plan;
    struct dataset set;
    struct truth truth;
    struct subject ours, theirs;
    struct build_cost our_cost, their_cost;
    struct ladder our_ladder, their_ladder;
    double idle_cpu_s; /* what a database does once all is linked: it audits and measures itself */
    int rounds;
};

static bool has_peer(const struct plan *p)
{
    return strcmp(p->peer, "none") != 0;
}

static char table[TABLE_BYTES_MAX];

static void print_rungs(const struct contest *c, const struct ladder *l)
{
    for (size_t i = 0; i < l->count; i++) {
        struct rung r = l->rungs[i];
        printf("{\"bench\":\"recall_qps\",\"set\":\"%s\",\"subject\":\"%s\",\"ef\":%u,"
               "\"recall\":%.4f",
               c->set.name, l->subject->name, r.ef, r.recall);
        if (r.timed)
            printf(",\"qps_1\":%.0f,\"qps_all\":%.0f", bench_median(r.qps[0], (size_t)c->rounds),
                   bench_median(r.qps[1], (size_t)c->rounds));
        printf("}\n");
    }
}

static void print_build(const struct contest *c)
{
    const struct build_cost *a = &c->our_cost, *b = &c->their_cost;
    printf("{\"bench\":\"recall_qps\",\"set\":\"%s\",\"source\":\"%s\",\"metric\":\"%s\","
           "\"rows\":%zu,\"dimension\":%u,\"queries\":%zu,\"subject\":\"%s\",\"peer\":\"%s\","
           "\"codec\":\"%s\","
           "\"build_cpu_s\":%.2f,\"build_wall_s\":%.2f,\"idle_cpu_s\":%.2f,\"row_bytes\":%.0f",
           c->set.name, c->set.source, metric_name(c->set.metric), c->set.base_count,
           c->set.dimension, c->set.query_count, c->ours.name, c->plan->peer, a->codec, a->cpu_s,
           a->wall_s, c->idle_cpu_s, a->row_bytes);
    if (has_peer(c->plan))
        printf(",\"peer_build_cpu_s\":%.2f,\"peer_row_bytes\":%.0f,\"build_ratio\":%.2f,"
               "\"memory_ratio\":%.2f",
               b->cpu_s, b->row_bytes, b->cpu_s / a->cpu_s, b->row_bytes / a->row_bytes);
    printf("}\n");
}

static void print_target(const struct contest *c, double recall)
{
    const struct ladder *a = &c->our_ladder, *b = &c->their_ladder;
    printf(
        "{\"bench\":\"recall_qps\",\"set\":\"%s\",\"subject\":\"%s\",\"peer\":\"%s\",\"recall\":%."
        "2f,"
        "\"qps_1\":%.0f,\"peer_qps_1\":%.0f,\"ratio_1\":%.2f,\"qps_all\":%.0f,"
        "\"peer_qps_all\":%.0f,\"ratio_all\":%.2f,\"best_recall\":%.4f,"
        "\"peer_best_recall\":%.4f}\n",
        c->set.name, c->ours.name, c->plan->peer, recall,
        ladder_median_qps(a, recall, c->rounds, false),
        ladder_median_qps(b, recall, c->rounds, false),
        ladder_ratio(a, b, recall, c->rounds, false), ladder_median_qps(a, recall, c->rounds, true),
        ladder_median_qps(b, recall, c->rounds, true), ladder_ratio(a, b, recall, c->rounds, true),
        ladder_best_recall(a), ladder_best_recall(b));
}

/* ---- the table ---- */

static void add_to_table(const struct contest *c)
{
    const struct ladder *a = &c->our_ladder, *b = &c->their_ladder;
    size_t len = strlen(table);
#define ADD(...) len += (size_t)snprintf(table + len, sizeof table - len, __VA_ARGS__)
    if (len == 0)
        ADD("%-13s %-8s %9s %7s | %s\n", "set", "codec", "build x", "mem x",
            "recall: our QPS, x the peer's on one thread (on all)");
    if (len + 400 > sizeof table) return;
    ADD("%-13s %-8s %9.2f %7.2f |", c->set.name, c->our_cost.codec,
        c->their_cost.cpu_s / c->our_cost.cpu_s, c->their_cost.row_bytes / c->our_cost.row_bytes);
    for (int t = 0; t < TARGETS; t++) {
        double target = measure_targets[t], ratio = ladder_ratio(a, b, target, c->rounds, false);
        double ours = ladder_median_qps(a, target, c->rounds, false);
        ADD("  .%02.0f: %6.0f", 100 * target, ours);
        if (ratio > 0)
            ADD(" x%.2f (x%.2f)", ratio, ladder_ratio(a, b, target, c->rounds, true));
        else if (has_peer(c->plan))
            ADD(" best %.3f / %.3f", ladder_best_recall(a), ladder_best_recall(b));
    }
    ADD("\n");
#undef ADD
}

/* ---- one set ---- */

static void make_theirs(struct contest *c)
{
    const struct plan *p = c->plan;
    if (strcmp(p->peer, "hnswlib") == 0)
        subject_hnswlib(&c->theirs, &c->set, &p->theirs, &c->their_cost);
    else
        subject_python(&c->theirs, p->peer, &c->set, K, &p->theirs, &c->their_cost);
}

static void free_theirs(struct contest *c)
{
    if (strcmp(c->plan->peer, "hnswlib") == 0)
        subject_hnswlib_free(&c->theirs);
    else
        subject_python_free(&c->theirs);
}

static void make_ours(struct contest *c)
{
    const struct plan *p = c->plan;
    if (p->bare) {
        subject_graph(&c->ours, &c->set, &p->ours, &c->our_cost);
        return;
    }
    subject_database(&c->ours, &c->set, &p->index, &c->our_cost);
    double cpu = measure_cpu_s();
    store_rest(subject_database_store(&c->ours));
    c->idle_cpu_s = measure_cpu_s() - cpu;
}

static void free_ours(struct contest *c)
{
    if (c->plan->bare)
        subject_graph_free(&c->ours);
    else
        subject_database_free(&c->ours);
}

static void compete(const struct plan *p, const char *name)
{
    static struct contest c; /* large */
    const int threads = p->args.options.threads;
    c = (struct contest){.plan = p, .rounds = p->args.rounds};
    bench_make_set(&p->args, name, &c.set);
    truth_of(&c.truth, &c.set, K, p->args.cache_dir, threads);
    make_ours(&c);
    ladder_climb(&c.our_ladder, &c.ours, &c.set, &c.truth, K, EF_MAX, threads);
    if (has_peer(p)) {
        make_theirs(&c);
        ladder_climb(&c.their_ladder, &c.theirs, &c.set, &c.truth, K, EF_MAX, threads);
    }
    ladder_race(&c.our_ladder, &c.their_ladder, &c.set, K, c.rounds, threads);

    print_rungs(&c, &c.our_ladder);
    if (has_peer(p)) print_rungs(&c, &c.their_ladder);
    print_build(&c);
    for (int t = 0; t < TARGETS; t++)
        print_target(&c, measure_targets[t]);
    fflush(stdout);
    add_to_table(&c);
    if (has_peer(p)) free_theirs(&c);
    free_ours(&c);
    truth_free(&c.truth);
    dataset_free(&c.set);
}

static void usage(void)
{
    bench_fail("usage: recall_qps [options]\n"
               "  --subject=database   our search through the storage layer (that is the default)\n"
               "    --index=auto|hnsw --quantization=auto|none|int8|binary --m=N "
               "--ef-construction=N\n"
               "  --subject=graph      the bare graph, to tune it; with\n"
               "    --codec=int8|float32|binary --m=N --ef-construction=N --rescore=N --shuffled\n"
               "    --build-threads=N\n"
               "  --peer=hnswlib       or faiss, usearch, usearch-i8 (Python packages), none\n"
               "  --default            what a search without ef costs and finds, on ten "
               "sets\n" BENCH_ARGS_HELP);
}

static int take_word(const char *key, const char *value, const char *const *words)
{
    for (int i = 0; words[i]; i++)
        if (strcmp(words[i], value) == 0) return i;
    bench_fail("%s: there is no \"%s\"", key, value);
}

static bool take(struct plan *p, const char *arg)
{
    const char *value;
    if ((value = bench_value(arg, "--subject")))
        p->bare = take_word("--subject", value, (const char *const[]){"database", "graph", NULL});
    else if ((value = bench_value(arg, "--index")))
        p->index.kind = (enum index_kind)take_word(
            "--index", value, (const char *const[]){"auto", "hnsw", "flat", NULL});
    else if ((value = bench_value(arg, "--quantization")))
        p->index.quantization = (enum quantization)take_word(
            "--quantization", value, (const char *const[]){"auto", "none", "int8", "binary", NULL});
    else if ((value = bench_value(arg, "--codec")))
        p->ours.codec = value;
    else if ((value = bench_value(arg, "--m")))
        p->index.m = p->ours.m = (uint32_t)atoi(value);
    else if ((value = bench_value(arg, "--ef-construction")))
        p->index.ef_construction = p->ours.ef_construction = (uint32_t)atoi(value);
    else if ((value = bench_value(arg, "--rescore")))
        p->ours.rescore = (uint32_t)atoi(value);
    else if ((value = bench_value(arg, "--build-threads")))
        p->ours.threads = atoi(value);
    else if (strcmp(arg, "--shuffled") == 0)
        p->ours.shuffled = true;
    else if ((value = bench_value(arg, "--peer")))
        p->peer = value;
    else
        return bench_args_take(&p->args, arg);
    return true;
}

int main(int argc, char **argv)
{
    struct plan plan = {.ours.threads = 1, .peer = "hnswlib"};
    bench_args_init(&plan.args);
    for (int i = 1; i < argc; i++)
        if (!take(&plan, argv[i])) usage();
    /* Both build with as many: threads that share a core take more CPU time for the same work. */
    plan.theirs.threads = plan.bare ? plan.ours.threads : plan.args.options.threads;
    if (plan.args.rounds == 0) plan.args.rounds = plan.args.quick ? QUICK_ROUNDS : ROUNDS;
    const char *at = plan.args.sets ? plan.args.sets : DEFAULT_SETS;
    for (char name[64]; bench_next_name(&at, name);)
        compete(&plan, name);
    fputs(table, stderr);
    return 0;
}

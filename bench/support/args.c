/* args.c - "--key=value", by hand. */
#include "bench/support/args.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/support/client.h"

enum { QUICK_PART = 5, THREADS_MAX = 16 };

const char *bench_value(const char *arg, const char *key)
{
    size_t len = strlen(key);
    return strncmp(arg, key, len) == 0 && arg[len] == '=' ? arg + len + 1 : NULL;
}

void bench_args_init(struct bench_args *a)
{
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    *a = (struct bench_args){0};
    a->options.data_dir = getenv("BENCH_DATA");
    if (a->options.data_dir && !*a->options.data_dir) a->options.data_dir = NULL;
    a->options.threads = processors < 1             ? 1
                         : processors > THREADS_MAX ? THREADS_MAX
                                                    : (int)processors;
}

static void list_sets(void)
{
    for (size_t i = 0; dataset_name(i); i++)
        printf("%-14s %s\n", dataset_name(i), dataset_what(dataset_name(i)));
    exit(0);
}

bool bench_args_take(struct bench_args *a, const char *arg)
{
    const char *value;
    if ((value = bench_value(arg, "--data")))
        a->options.data_dir = *value ? value : NULL;
    else if ((value = bench_value(arg, "--cache")))
        a->cache_dir = value;
    else if ((value = bench_value(arg, "--set")))
        a->sets = value;
    else if ((value = bench_value(arg, "--rows")))
        a->options.rows = strtoull(value, NULL, 10);
    else if ((value = bench_value(arg, "--queries")))
        a->options.queries = strtoull(value, NULL, 10);
    else if ((value = bench_value(arg, "--rounds")))
        a->rounds = atoi(value);
    else if ((value = bench_value(arg, "--threads")))
        a->options.threads = atoi(value);
    else if (strcmp(arg, "--quick") == 0)
        a->quick = true;
    else
        return false;
    if (a->options.threads < 1 || a->options.threads > THREADS_MAX)
        bench_fail("--threads=1 .. %d", THREADS_MAX);
    if (a->sets && strcmp(a->sets, "list") == 0) list_sets();
    return true;
}

bool bench_next_name(const char **at, char *name)
{
    size_t len = strcspn(*at, ",");
    if (len == 0 || len >= 64) return false;
    memcpy(name, *at, len);
    name[len] = '\0';
    *at += len + ((*at)[len] == ',');
    return true;
}

void bench_make_set(const struct bench_args *a, const char *name, struct dataset *set)
{
    struct dataset_options options = a->options;
    if (a->quick && !options.rows) options.rows = dataset_rows(name) / QUICK_PART;
    dataset_make(set, name, &options);
}

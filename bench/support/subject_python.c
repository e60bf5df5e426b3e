/* subject_python.c - a library that is there for Python only, in a process of its own. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench/support/client.h"
#include "bench/support/subjects.h"

struct python {
    pid_t pid;
    FILE *orders, *answers;
    char path[256]; /* of a file for many numbers */
    size_t query_count;
    uint32_t k;
};

static void answer(struct python *p, const char *format, double *a, double *b)
{
    char line[200];
    int wanted = a ? 2 : 0;
    if (fgets(line, sizeof line, p->answers) && sscanf(line, format, a, b) == wanted) return;
    unlink(p->path);
    bench_fail("the Python peer failed (pip install numpy faiss-cpu usearch; BENCH_PYTHON)");
}

static void order(struct python *p, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vfprintf(p->orders, format, args);
    va_end(args);
    fflush(p->orders);
}

static struct pass pass(void *ctx, uint32_t ef, int repeats, int threads)
{
    struct python *p = ctx;
    struct pass result = {.searches = p->query_count * (size_t)repeats};
    order(p, "pass %u %d %d\n", ef, repeats, threads);
    answer(p, "%lf %lf", &result.cpu_s, &result.wall_s);
    return result;
}

static void search_all(void *ctx, uint32_t ef, uint32_t *rows)
{
    struct python *p = ctx;
    const size_t count = p->query_count * p->k;
    order(p, "rows %u %s\n", ef, p->path);
    answer(p, "done", NULL, NULL);
    FILE *f = fopen(p->path, "rb");
    if (!f || fread(rows, sizeof *rows, count, f) != count) bench_fail("cannot read %s", p->path);
    fclose(f);
}

static void write_rows(const struct python *p, const struct dataset *set)
{
    FILE *f = fopen(p->path, "wb");
    const size_t base = set->base_count * set->dimension, query = set->query_count * set->dimension;
    if (!f || fwrite(set->base, sizeof(float), base, f) != base ||
        fwrite(set->query, sizeof(float), query, f) != query || fclose(f))
        bench_fail("cannot write %s: %s", p->path, strerror(errno));
}

static void start(struct python *p, const char *library, const struct dataset *set, uint32_t m,
                  uint32_t ef_construction)
{
    const char *python = getenv("BENCH_PYTHON") ? getenv("BENCH_PYTHON") : "python3";
    char numbers[6][24];
    const size_t values[6] = {set->dimension, set->base_count, set->query_count, p->k, m,
                              ef_construction};
    int to[2], from[2];
    for (int i = 0; i < 6; i++)
        snprintf(numbers[i], sizeof numbers[i], "%zu", values[i]);
    if (pipe(to) || pipe(from)) bench_fail("pipe: %s", strerror(errno));
    p->pid = fork();
    if (p->pid == 0) {
        dup2(to[0], STDIN_FILENO);
        dup2(from[1], STDOUT_FILENO);
        close(to[1]);
        close(from[0]);
        execlp(python, python, "bench/support/peers.py", library, metric_name(set->metric),
               numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5], p->path,
               (char *)NULL);
        _exit(127);
    }
    close(to[0]);
    close(from[1]);
    p->orders = fdopen(to[1], "w");
    p->answers = fdopen(from[0], "r");
    if (p->pid < 0 || !p->orders || !p->answers) bench_fail("fork: %s", strerror(errno));
}

void subject_python(struct subject *s, const char *library, const struct dataset *set, uint32_t k,
                    const struct subject_options *o, struct build_cost *cost)
{
    struct python *p = calloc(1, sizeof *p);
    const char *parent = getenv("TMPDIR");
    const uint32_t m = o->m ? o->m : 16;
    if (!p) bench_fail("no memory");
    p->query_count = set->query_count;
    p->k = k;
    snprintf(p->path, sizeof p->path, "%s/jadevectordb-bench-XXXXXX", parent ? parent : "/tmp");
    int fd = mkstemp(p->path);
    if (fd < 0) bench_fail("cannot make %s: %s", p->path, strerror(errno));
    close(fd);
    write_rows(p, set);
    start(p, library, set, m, o->ef_construction ? o->ef_construction : 200);
    *cost = (struct build_cost){.codec = "float32"};
    answer(p, "ready %lf %lf", &cost->cpu_s, &cost->wall_s);
    cost->row_bytes = set->dimension * (strstr(library, "i8") ? 1.0 : 4.0) + 2 * m * 4 + 8;
    *s = (struct subject){.name = library, .ctx = p, .pass = pass, .search_all = search_all};
}

void subject_python_free(struct subject *s)
{
    struct python *p = s->ctx;
    fclose(p->orders);
    fclose(p->answers);
    waitpid(p->pid, NULL, 0);
    unlink(p->path);
    free(p);
}

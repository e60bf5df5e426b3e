/* client.c - a daemon of one's own, a connection to it, and what it looks like from outside. */
#include "bench/support/client.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <ftw.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "api/base64.h"
#include "storage/base/clock.h"

enum { HEAD_BYTES_MAX = 16 * 1024, OPTIONS_MAX = 32, START_S = 60 };

void bench_fail(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    exit(1);
}

double bench_now(void)
{
    return (double)clock_ns() / 1e9;
}

void bench_sleep(double seconds)
{
    struct timespec pause = {.tv_sec = (time_t)seconds,
                             .tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9)};
    while (nanosleep(&pause, &pause) != 0 && errno == EINTR)
        continue;
}

/* ---- daemon ---- */

static int free_port(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof at;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (void *)&at, sizeof at) || getsockname(fd, (void *)&at, &size))
        bench_fail("no free port: %s", strerror(errno));
    close(fd);
    return ntohs(at.sin_port);
}

static void run(struct bench_daemon *d, const char *const *options)
{
    const char *program = getenv("JADEVECTORDB_BIN");
    if (!program) program = "bin/jadevectordb";
    char path[512], port[64], log[600];
    snprintf(path, sizeof path, "--persistence-storage-path=%s/data", d->dir);
    snprintf(port, sizeof port, "--server-port=%d", d->port);
    snprintf(log, sizeof log, "--log-file=%s/log", d->dir);
    const char *argv[OPTIONS_MAX] = {program, path, port, log};
    for (int i = 4; options && *options && i < OPTIONS_MAX - 1; i++)
        argv[i] = *options++;

    double begun = bench_now();
    d->pid = fork();
    if (d->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execv(program, (char *const *)(uintptr_t)argv);
        fprintf(stderr, "cannot run %s: %s\n", program, strerror(errno));
        _exit(127);
    }
    if (d->pid < 0) bench_fail("fork: %s", strerror(errno));
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)d->port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    static const char get[] = "GET /ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    for (bool ready = false; !ready;) {
        char answer[16] = "";
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd >= 0 && connect(fd, (void *)&to, sizeof to) == 0 &&
            send(fd, get, sizeof get - 1, MSG_NOSIGNAL) > 0 &&
            recv(fd, answer, sizeof answer - 1, MSG_WAITALL) > 0)
            ready = strncmp(answer + 9, "200", 3) == 0;
        if (fd >= 0) close(fd);
        if (ready) break;
        if (waitpid(d->pid, NULL, WNOHANG) == d->pid || bench_now() - begun > START_S)
            bench_fail("the daemon does not start; see %s/log", d->dir);
        bench_sleep(0.0005);
    }
    d->ready_s = bench_now() - begun;
}

void bench_daemon_start(struct bench_daemon *d, const char *parent, const char *const *options)
{
    char dir[400];
    if (!parent) parent = getenv("TMPDIR");
    snprintf(dir, sizeof dir, "%s/jadevectordb-bench-XXXXXX", parent ? parent : "/tmp");
    if (!mkdtemp(dir)) bench_fail("cannot make %s: %s", dir, strerror(errno));
    *d = (struct bench_daemon){.dir = strdup(dir), .port = free_port()};
    run(d, options);
}

double bench_daemon_stop(struct bench_daemon *d, bool kill_it)
{
    double begun = bench_now();
    if (d->pid <= 0) return 0;
    kill(d->pid, kill_it ? SIGKILL : SIGTERM);
    waitpid(d->pid, NULL, 0);
    d->pid = 0;
    return bench_now() - begun;
}

void bench_daemon_restart(struct bench_daemon *d, bool kill_it, const char *const *options)
{
    bench_daemon_stop(d, kill_it);
    run(d, options);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st;
    (void)type;
    (void)at;
    return remove(path);
}

void bench_daemon_discard(struct bench_daemon *d)
{
    bench_daemon_stop(d, true);
    nftw(d->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    free(d->dir);
    d->dir = NULL;
}

uint64_t bench_status_bytes(pid_t pid, const char *field)
{
    char path[64], line[256];
    unsigned long long kb = 0;
    size_t len = strlen(field);
    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, field, len) == 0 && line[len] == ':')
            kb = strtoull(line + len + 1, NULL, 10);
    if (f) fclose(f);
    return kb * 1024;
}

size_t bench_descriptors(pid_t pid)
{
    char path[64];
    size_t count = 0;
    snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
    DIR *dir = opendir(path);
    while (dir && readdir(dir))
        count++;
    if (dir) closedir(dir);
    return count < 2 ? 0 : count - 2; /* . and .. */
}

size_t bench_mappings(pid_t pid, const char *text)
{
    char path[64], line[1024];
    size_t count = 0;
    snprintf(path, sizeof path, "/proc/%d/maps", (int)pid);
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f))
        count += strstr(line, text) != NULL;
    if (f) fclose(f);
    return count;
}

/* ---- connection ---- */

void bench_client_init(struct bench_client *c, int port)
{
    *c = (struct bench_client){.port = port, .fd = -1, .cap = 64 * 1024};
    c->answer = malloc(c->cap);
    if (!c->answer) bench_fail("out of memory");
}

void bench_client_deinit(struct bench_client *c)
{
    if (c->fd >= 0) close(c->fd);
    free(c->answer);
}

static void dial(struct bench_client *c)
{
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)c->port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || connect(c->fd, (void *)&to, sizeof to))
        bench_fail("cannot connect to the daemon: %s", strerror(errno));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

static void send_all(struct bench_client *c, const char *bytes, size_t count)
{
    while (count > 0) {
        ssize_t n = send(c->fd, bytes, count, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) bench_fail("the daemon hung up: %s", strerror(errno));
        bytes += n;
        count -= (size_t)n;
    }
}

static size_t receive(struct bench_client *c, size_t have)
{
    if (have + 1 >= c->cap) {
        c->cap *= 2;
        c->answer = realloc(c->answer, c->cap);
        if (!c->answer) bench_fail("out of memory");
    }
    for (;;) {
        ssize_t n = recv(c->fd, c->answer + have, c->cap - have - 1, 0);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) bench_fail("the daemon hung up: %s", n ? strerror(errno) : "end of stream");
        return have + (size_t)n;
    }
}

int bench_request(struct bench_client *c, const char *method, const char *path, const void *body,
                  size_t body_bytes)
{
    char head[1024];
    bool at_root = strncmp(path, "//", 2) == 0;
    int len = snprintf(head, sizeof head,
                       "%s %s%s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                       "Content-Length: %zu\r\n\r\n",
                       method, at_root ? "" : "/api/v1", at_root ? path + 1 : path, body_bytes);
    if (c->fd < 0) dial(c);
    send_all(c, head, (size_t)len);
    if (body_bytes) send_all(c, body, body_bytes);

    size_t have = 0;
    char *end;
    do {
        have = receive(c, have);
        c->answer[have] = '\0';
        end = strstr(c->answer, "\r\n\r\n");
        if (!end && have > HEAD_BYTES_MAX) bench_fail("an answer without an end of its head");
    } while (!end);
    int status = atoi(c->answer + 9);
    *end = '\0';
    const char *length = strcasestr(c->answer, "\r\ncontent-length:");
    bool closes = strcasestr(c->answer, "\r\nconnection: close") != NULL;
    size_t head_bytes = (size_t)(end - c->answer) + 4;
    size_t wanted = length ? strtoull(length + 17, NULL, 10) : 0;
    if (!length) bench_fail("an answer without a length: %s", path);
    while (have < head_bytes + wanted)
        have = receive(c, have);
    memmove(c->answer, c->answer + head_bytes, wanted);
    c->answer[wanted] = '\0';
    c->answer_bytes = wanted;
    if (closes) {
        close(c->fd);
        c->fd = -1;
    }
    return status;
}

void bench_must(struct bench_client *c, const char *method, const char *path, const void *body,
                size_t body_bytes)
{
    int status = bench_request(c, method, path, body, body_bytes);
    if (status / 100 != 2) bench_fail("%s %s: %d %.500s", method, path, status, c->answer);
}

double bench_number(const struct bench_client *c, const char *key)
{
    char quoted[80];
    int len = snprintf(quoted, sizeof quoted, "\"%s\":", key);
    const char *at = strstr(c->answer, quoted);
    return at ? strtod(at + len, NULL) : -1;
}

/* ---- rows ---- */

/* splitmix64 */
uint64_t bench_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

void bench_row(uint64_t seed, float *row, size_t dimension)
{
    for (size_t i = 0; i < dimension; i++)
        row[i] = (float)(int32_t)bench_random(&seed) / 2147483648.0f;
}

static void add_row(struct buf *out, uint64_t seed, size_t dimension)
{
    float row[4096];
    if (dimension > sizeof row / sizeof *row) bench_fail("dimension %zu", dimension);
    bench_row(seed, row, dimension);
    buf_str(out, "\"data_base64\":\"");
    base64_write(out, row, dimension * sizeof *row);
    buf_str(out, "\"}");
}

void bench_batch(struct buf *out, const uint64_t *ids, size_t count, uint64_t seed,
                 size_t dimension)
{
    out->len = 0;
    buf_str(out, "{\"vectors\":[");
    for (size_t i = 0; i < count; i++) {
        buf_str(out, i ? ",{" : "{");
        if (ids) buf_printf(out, "\"vector_id\":%llu,", (unsigned long long)ids[i]);
        add_row(out, seed + (ids ? ids[i] : i), dimension);
    }
    buf_str(out, "]}");
}

void bench_one(struct buf *out, uint64_t seed, size_t dimension)
{
    out->len = 0;
    buf_str(out, "{");
    add_row(out, seed, dimension);
}

/* ---- times ---- */

void bench_times_add(struct bench_times *t, double seconds)
{
    if (t->count == t->cap) {
        t->cap = t->cap ? t->cap * 2 : 4096;
        t->values = realloc(t->values, t->cap * sizeof *t->values);
        if (!t->values) bench_fail("out of memory");
    }
    t->values[t->count++] = (float)seconds;
}

static int by_float(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

double bench_quantile(struct bench_times *t, double q)
{
    if (t->count == 0) return 0;
    qsort(t->values, t->count, sizeof *t->values, by_float);
    size_t i = (size_t)(q * (double)t->count);
    return (double)t->values[i < t->count ? i : t->count - 1];
}

static int by_double(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double bench_median(double *values, size_t count)
{
    qsort(values, count, sizeof *values, by_double);
    return count ? values[count / 2] : 0;
}

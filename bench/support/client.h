/*
 * client.h - for benchmarks that drive the real daemon: start one, talk to it, look at it from
 * outside.
 *
 * The daemon is the program that JADEVECTORDB_BIN names; it listens on a free port, works in a
 * directory of its own below $TMPDIR (or /tmp, or --dir), and dies with the benchmark.  Whatever
 * fails ends the benchmark: there is nobody to recover for.
 */
#ifndef BENCH_CLIENT_H
#define BENCH_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "storage/base/buf.h"

struct bench_daemon {
    pid_t pid;
    int port;
    char *dir;      /* of its databases; removed by bench_daemon_discard() */
    double ready_s; /* from fork() until GET /ready said 200 */
};

/* Start one with further options (NULL-terminated), wait until it is ready.  `dir`: NULL for a new
 * one below `parent` (NULL: $TMPDIR). */
void bench_daemon_start(struct bench_daemon *d, const char *parent, const char *const *options);
/* Stop it (kill: by SIGKILL) and start it again on the same directory. */
void bench_daemon_restart(struct bench_daemon *d, bool kill, const char *const *options);
/* SIGTERM (or SIGKILL), and wait; seconds it took. */
double bench_daemon_stop(struct bench_daemon *d, bool kill);
/* Kill it and remove its directory. */
void bench_daemon_discard(struct bench_daemon *d);

/* A number of /proc/PID/status ("RssAnon", kB there) in bytes, or the count of open descriptors. */
uint64_t bench_status_bytes(pid_t pid, const char *field);
size_t bench_descriptors(pid_t pid);
/* Lines of /proc/PID/maps that contain `text`. */
size_t bench_mappings(pid_t pid, const char *text);

/* One keep-alive connection. */
struct bench_client {
    int port;
    int fd;
    char *answer; /* body of the last one, zero-terminated */
    size_t answer_bytes;
    size_t cap;
};
void bench_client_init(struct bench_client *c, int port);
void bench_client_deinit(struct bench_client *c);
/* The status.  `path` is below /api/v1 unless it begins with "//". */
int bench_request(struct bench_client *c, const char *method, const char *path, const void *body,
                  size_t body_bytes);
/* The same, and it must be 2xx. */
void bench_must(struct bench_client *c, const char *method, const char *path, const void *body,
                size_t body_bytes);
/* The number behind "key": in the last answer; -1: none. */
double bench_number(const struct bench_client *c, const char *key);

/* ---- rows ---- */

/* Fill a row with numbers that depend on `seed` alone. */
void bench_row(uint64_t seed, float *row, size_t dimension);
uint64_t bench_random(uint64_t *state);
/* {"vectors":[...]} of `count` rows with these ids (NULL: the daemon gives them), as base64. */
void bench_batch(struct buf *out, const uint64_t *ids, size_t count, uint64_t seed,
                 size_t dimension);
/* One row as {"data_base64":...}. */
void bench_one(struct buf *out, uint64_t seed, size_t dimension);

/* ---- times ---- */

double bench_now(void); /* seconds, monotonic */
void bench_sleep(double seconds);

/* Times of many operations, in seconds. */
struct bench_times {
    float *values;
    size_t count, cap;
};
void bench_times_add(struct bench_times *t, double seconds);
/* Sorts. */
double bench_quantile(struct bench_times *t, double q);
double bench_median(double *values, size_t count);

void bench_fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

#endif

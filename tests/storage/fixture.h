/* fixture.h - what the tests of storage share: a directory of their own, a service on it, rows. */
#ifndef TESTS_STORAGE_FIXTURE_H
#define TESTS_STORAGE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "storage/base/clock.h"
#include "storage/service.h"

#define CHECK_OK(call)                                                                             \
    do {                                                                                           \
        err.msg[0] = '\0';                                                                         \
        if (call) fail_msg("%s: %s", #call, err.msg);                                              \
    } while (0)

/* ---- directories ---- */

static inline char *test_dir_new(void)
{
    const char *base = getenv("TMPDIR");
    char path[512];
    snprintf(path, sizeof path, "%s/jvdb-test-XXXXXX", base && *base ? base : "/tmp");
    assert_non_null(mkdtemp(path));
    char *copy = strdup(path);
    assert_non_null(copy);
    return copy;
}

/* Only files lie in a test's directory. */
static inline void test_dir_remove(char *path)
{
    DIR *dir = opendir(path);
    assert_non_null(dir);
    for (struct dirent *d; (d = readdir(dir));)
        if (d->d_type != DT_DIR) unlinkat(dirfd(dir), d->d_name, 0);
    closedir(dir);
    assert_int_equal(rmdir(path), 0);
    free(path);
}

static inline bool test_file_exists(const char *dir, const char *name)
{
    char path[768];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return access(path, F_OK) == 0;
}

static inline void test_file_copy(const char *from_dir, const char *from, const char *to_dir,
                                  const char *to)
{
    char path[768], bytes[65536];
    snprintf(path, sizeof path, "%s/%s", from_dir, from);
    int in = open(path, O_RDONLY);
    snprintf(path, sizeof path, "%s/%s", to_dir, to);
    int out = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(in >= 0 && out >= 0);
    for (ssize_t n; (n = read(in, bytes, sizeof bytes)) != 0;) {
        assert_true(n > 0);
        assert_int_equal(write(out, bytes, (size_t)n), n);
    }
    close(in);
    close(out);
}

/* A new directory with the files of this moment: what kill -9 would leave. */
static inline char *test_dir_copy(const char *from)
{
    char *to = test_dir_new();
    DIR *dir = opendir(from);
    assert_non_null(dir);
    for (struct dirent *d; (d = readdir(dir));)
        if (d->d_type == DT_REG) test_file_copy(from, d->d_name, to, d->d_name);
    closedir(dir);
    return to;
}

/* Ask again and again until it is true; false after a minute. */
static inline bool test_until(bool (*done)(void *ctx), void *ctx)
{
    for (uint64_t end = clock_ns() + 60000000000ull; clock_ns() < end;) {
        if (done(ctx)) return true;
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
    return done(ctx);
}

/* ---- numbers ---- */

/* SplitMix64 (Steele, Lea, Flood, 2014). */
static inline uint64_t test_random(uint64_t *seed)
{
    uint64_t z = *seed += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static inline float test_random_float(uint64_t *seed)
{
    return (float)(test_random(seed) >> 40) / (1 << 23) - 1;
}

/* ---- databases ---- */

static inline struct service_options test_options(const char *dir)
{
    return (struct service_options){
        .engine = dir ? ENGINE_PERSISTENT : ENGINE_MEMORY,
        .storage_path = dir,
        .max_open_files = 100,
        .wal_sync_interval_ms = 1000,
        .wal_bytes_max = 256 << 20,
    };
}

/* dir == NULL: in memory.  The flusher flushes only when it is told to. */
static inline struct service *test_service_open(const char *dir)
{
    struct err err;
    struct service *svc = NULL;
    struct service_options options = test_options(dir);
    CHECK_OK(service_open(&options, &svc, &err));
    return svc;
}

static inline void test_service_close(struct service *svc)
{
    struct err err;
    CHECK_OK(service_close(svc, &err));
}

static inline void test_create(struct service *svc, const char *name, uint32_t dimension,
                               enum metric metric)
{
    struct err err;
    bool created;
    /* Periodic: most tests do not wait for a disk. */
    struct schema schema = {.dimension = dimension,
                            .metric = metric,
                            .durability = DURABILITY_PERIODIC,
                            .initial_capacity = 100};
    CHECK_OK(service_create(svc, name, &schema, false, &created, &err));
    assert_true(created);
}

static inline struct database *test_acquire(struct service *svc, const char *name)
{
    struct err err;
    struct database *db = NULL;
    CHECK_OK(service_acquire(svc, name, true, &db, &err));
    return db;
}

static inline struct vector_id test_text_id(const char *text)
{
    return (struct vector_id){.text = text, .text_bytes = (uint32_t)strlen(text)};
}

static inline uint64_t test_put(struct database *db, struct vector_id id, const float *vector,
                                const char *metadata)
{
    struct err err;
    struct row_input row = {.id = id, .vector = vector, .metadata = metadata};
    row.metadata_bytes = metadata ? (uint32_t)strlen(metadata) : 0;
    uint64_t lsn = 0;
    CHECK_OK(database_put(db, &row, 1, database_schema(db)->dimension, true, &lsn, &err));
    return lsn;
}

static inline uint64_t test_put_number(struct database *db, uint64_t number, float first)
{
    float *vector = calloc(database_schema(db)->dimension, sizeof *vector);
    assert_non_null(vector);
    vector[0] = first;
    uint64_t lsn = test_put(db, (struct vector_id){.number = number}, vector, NULL);
    free(vector);
    return lsn;
}

static inline size_t test_delete(struct database *db, struct vector_id id)
{
    struct err err;
    size_t deleted;
    uint64_t lsn;
    CHECK_OK(database_delete(db, &id, 1, true, &deleted, &lsn, &err));
    return deleted;
}

/* The first number of a row; NAN: there is no such row. */
static inline float test_first(struct database *db, struct vector_id id)
{
    struct err err = {0};
    struct reader r;
    struct row row;
    reader_begin(db, &r);
    enum err_code rc = reader_get(&r, &id, &row, &err);
    float first = rc == ERR_OK ? row.vector[0] : NAN;
    reader_end(&r);
    if (rc && rc != ERR_VECTOR_NOT_FOUND) fail_msg("%s", err.msg);
    return first;
}

static inline uint64_t test_count(struct database *db)
{
    struct reader r;
    reader_begin(db, &r);
    uint64_t count = reader_count(&r);
    reader_end(&r);
    return count;
}

static inline struct database_info test_info(struct service *svc, const char *name)
{
    struct err err;
    struct database_info info;
    CHECK_OK(service_info(svc, name, true, &info, &err));
    database_info_deinit(&info);
    return info;
}

#endif

/* What is promised about time: flushes, syncs, short logs, descriptors given back. */
#include "tests/storage/fixture.h"

struct fixture {
    char *dir;
    struct service *svc;
    struct service_options options;
    uint64_t lsn; /* that is waited for */
};

static int set_up(void **state)
{
    struct fixture *fx = calloc(1, sizeof *fx);
    assert_non_null(fx);
    fx->dir = test_dir_new();
    fx->options = test_options(fx->dir);
    *state = fx;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *fx = *state;
    if (fx->svc) test_service_close(fx->svc);
    test_dir_remove(fx->dir);
    free(fx);
    return 0;
}

/* A service with those options, and a database "a" with one row. */
static void start(struct fixture *fx)
{
    struct err err;
    CHECK_OK(service_open(&fx->options, &fx->svc, &err));
    test_create(fx->svc, "a", 4, METRIC_COSINE);
    struct database *db = test_acquire(fx->svc, "a");
    fx->lsn = test_put_number(db, 1, 1);
    service_release(db);
}

static bool is_flushed(void *ctx)
{
    struct fixture *fx = ctx;
    return test_info(fx->svc, "a").last_flush_at_ms != 0;
}

static bool is_synced(void *ctx)
{
    struct fixture *fx = ctx;
    return test_info(fx->svc, "a").durable_lsn >= fx->lsn;
}

static uint64_t open_files(struct fixture *fx)
{
    struct service_stats stats;
    service_stats(fx->svc, &stats);
    return stats.open_files;
}

static bool descriptor_is_closed(void *ctx)
{
    return open_files(ctx) == 1;
}

static void check_copy(struct fixture *fx, uint64_t rows)
{
    char *other = test_dir_new();
    test_file_copy(fx->dir, "a.jvdb", other, "a.jvdb");
    struct service *svc = test_service_open(other);
    struct database *db = test_acquire(svc, "a");
    assert_int_equal(test_count(db), rows);
    service_release(db);
    test_service_close(svc);
    test_dir_remove(other);
}

static void the_interval_brings_changes_into_the_file(void **state)
{
    struct fixture *fx = *state;
    fx->options.auto_flush = true;
    fx->options.flush_interval_seconds = 1;
    uint64_t begun = clock_ns();
    start(fx);
    assert_true(test_until(is_flushed, fx));
    assert_true(clock_ns() - begun >= 900000000);
    struct database_info info = test_info(fx->svc, "a");
    assert_int_equal(info.wal_bytes, 0);
    assert_int_equal(info.durable_lsn, info.last_lsn);
    assert_true(info.last_flush_ms > 0);
    assert_true(info.last_flush_at_ms <= clock_wall_ms());
    check_copy(fx, 1);
}

/* By the time that an idle descriptor is closed, an interval of one second has passed, too. */
static void without_automatic_flushes_there_is_none(void **state)
{
    struct fixture *fx = *state;
    fx->options.auto_flush = false;
    fx->options.flush_interval_seconds = 1;
    start(fx);
    assert_true(test_until(descriptor_is_closed, fx));
    assert_false(is_flushed(fx));
    assert_true(test_info(fx->svc, "a").wal_bytes > 0);
    check_copy(fx, 0);
}

static void what_is_not_due_is_left_alone(void **state)
{
    struct fixture *fx = *state;
    fx->options.auto_flush = true;
    fx->options.flush_interval_seconds = 0; /* none */
    fx->options.wal_sync_interval_ms = 60 * 1000;
    fx->options.wal_bytes_max = 1 << 20;
    start(fx);
    assert_true(test_until(descriptor_is_closed, fx));
    assert_false(is_flushed(fx));
    assert_false(is_synced(fx));
}

static void periodic_durability_syncs_in_time(void **state)
{
    struct fixture *fx = *state;
    fx->options.wal_sync_interval_ms = 100;
    start(fx);
    assert_true(test_until(is_synced, fx));
    for (int i = 0; i < 5; i++) {
        struct database *db = test_acquire(fx->svc, "a");
        uint64_t begun = clock_ns();
        fx->lsn = test_put_number(db, 2, 2);
        service_release(db);
        assert_true(test_until(is_synced, fx));
        /* Generous, for slow disks and crowded machines; the default would be a second. */
        uint64_t ms = (clock_ns() - begun) / 1000000;
        if (ms > 5000) fail_msg("%u ms", (unsigned)ms);
    }
    assert_false(is_flushed(fx));
}

static bool log_is_short(void *ctx)
{
    struct fixture *fx = ctx;
    return is_flushed(fx) && test_info(fx->svc, "a").wal_bytes <= fx->options.wal_bytes_max;
}

static void a_log_that_is_too_long_is_checkpointed(void **state)
{
    struct fixture *fx = *state;
    fx->options.wal_bytes_max = 1 << 20;
    start(fx);
    static char metadata[60001];
    memset(metadata, ' ', sizeof metadata - 1);
    memcpy(metadata, "{\"a\":1}", 7);
    struct database *db = test_acquire(fx->svc, "a");
    for (uint64_t i = 0; i < 60; i++)
        test_put(db, (struct vector_id){.number = i}, (const float[]){1, 2, 3, 4}, metadata);
    service_release(db);
    assert_true(test_until(log_is_short, fx));
    check_copy(fx, 60);
}

static void an_idle_descriptor_is_closed_and_opened_again(void **state)
{
    struct fixture *fx = *state;
    start(fx);
    for (int round = 0; round < 2; round++) {
        assert_int_equal(open_files(fx), 2); /* the mapping, and a descriptor to write through */
        assert_true(test_until(descriptor_is_closed, fx));
        struct database *db = test_acquire(fx->svc, "a");
        assert_true(test_first(db, (struct vector_id){.number = 1}) == 1);
        assert_int_equal(open_files(fx), 1); /* reading needs none */
        test_put_number(db, (uint64_t)round + 2, 2);
        assert_int_equal(test_count(db), (unsigned)round + 2);
        service_release(db);
    }
}

static void the_last_sync_needs_no_interval(void **state)
{
    struct fixture *fx = *state;
    struct err err;
    fx->options.wal_sync_interval_ms = 60 * 1000;
    fx->options.flush_interval_seconds = 3600;
    fx->options.auto_flush = true;
    start(fx);
    uint64_t begun = clock_ns();
    CHECK_OK(service_close(fx->svc, &err));
    fx->svc = NULL;
    assert_true(clock_ns() - begun < 8000000000);
    check_copy(fx, 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(the_interval_brings_changes_into_the_file),
        TEST(without_automatic_flushes_there_is_none),
        TEST(what_is_not_due_is_left_alone),
        TEST(periodic_durability_syncs_in_time),
        TEST(a_log_that_is_too_long_is_checkpointed),
        TEST(an_idle_descriptor_is_closed_and_opened_again),
        TEST(the_last_sync_needs_no_interval),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

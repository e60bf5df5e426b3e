/* What only databases in files can get wrong: the LRU's closing and opening, and kills. */
#include "tests/storage/faults.h"
#include "tests/storage/fixture.h"

static struct err err;

static size_t count_files(const char *dir, const char *prefix)
{
    size_t count = 0;
    DIR *d = opendir(dir);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));)
        count += strncmp(e->d_name, prefix, strlen(prefix)) == 0;
    closedir(d);
    return count;
}

static struct service *open_with_few_files(const char *dir)
{
    struct service_options options = test_options(dir);
    options.max_open_files = 5;
    struct service *svc = NULL;
    CHECK_OK(service_open(&options, &svc, &err));
    return svc;
}

static void a_database_may_be_closed_and_opened_for_one_write_any_number_of_times(void **state)
{
    (void)state;
    char *dir = test_dir_new(), name[16];
    struct service *svc = open_with_few_files(dir);
    for (int i = 0; i < 6; i++) {
        snprintf(name, sizeof name, "d%d", i);
        test_create(svc, name, 2, METRIC_EUCLIDEAN);
    }
    for (uint64_t round = 0; round < 80; round++) {
        for (int i = 0; i < 6; i++) {
            snprintf(name, sizeof name, "d%d", i);
            struct database *db = test_acquire(svc, name);
            test_put_number(db, round, 1);
            assert_int_equal(test_count(db), round + 1);
            service_release(db);
        }
    }
    assert_true(count_files(dir, "d0.wal.") < 20);
    test_service_close(svc);
    test_dir_remove(dir);
}

static void starts_that_end_in_kills_leave_a_log_that_takes_writes(void **state)
{
    (void)state;
    char *dir = test_dir_new();
    struct service *svc = test_service_open(dir);
    test_create(svc, "a", 2, METRIC_EUCLIDEAN);
    for (uint64_t kill = 0; kill < 100; kill++) {
        struct database *db = test_acquire(svc, "a");
        test_put_number(db, kill, 1);
        assert_int_equal(test_count(db), kill + 1);
        service_release(db);
        char *image = test_dir_copy(dir);
        test_service_close(svc);
        test_dir_remove(dir);
        dir = image;
        svc = test_service_open(dir);
    }
    assert_true(count_files(dir, "a.wal.") < 40);
    test_service_close(svc);
    test_dir_remove(dir);
}

static void a_closed_database_that_could_not_be_dropped_is_flushed_by_a_stop(void **state)
{
    (void)state;
    char *dir = test_dir_new(), name[16];
    struct service *svc = open_with_few_files(dir);
    for (int i = 0; i < 8; i++) { /* the first are closed again, with a log */
        snprintf(name, sizeof name, "d%d", i);
        test_create(svc, name, 2, METRIC_EUCLIDEAN);
        struct database *db = test_acquire(svc, name);
        test_put_number(db, 1, 1);
        service_release(db);
    }
    assert_false(test_info(svc, "d0").open);
    faults_arm(FAULT_WRITE, 0, ENOSPC);
    faults.fail_all = true; /* with the reserve given up, too */
    enum err_code rc = service_drop(svc, "d0", &err);
    faults_disarm();
    assert_int_equal(rc, ERR_STORAGE_FULL);
    test_service_close(svc);

    svc = test_service_open(dir);
    struct database *db = test_acquire(svc, "d0");
    assert_int_equal(test_count(db), 1);
    assert_int_equal(test_info(svc, "d0").wal_bytes, 0);
    service_release(db);
    test_service_close(svc);
    test_dir_remove(dir);
}

static void a_stop_tries_again_what_failed_once(void **state)
{
    (void)state;
    for (int kinds = FAULT_WRITE; kinds <= FAULT_ALLOCATE; kinds *= 2) {
        char *dir = test_dir_new();
        struct service *svc = test_service_open(dir);
        test_create(svc, "a", 2, METRIC_EUCLIDEAN);
        struct database *db = test_acquire(svc, "a");
        test_put_number(db, 1, 1);
        service_release(db);
        faults_arm(kinds, 0, EIO);
        faults.all_threads = true;
        enum err_code rc = service_close(svc, &err);
        assert_true(faults_disarm() > 1);
        assert_int_equal(rc, ERR_OK);
        svc = test_service_open(dir);
        assert_int_equal(test_info(svc, "a").vector_count, 1);
        assert_false(test_info(svc, "a").open); /* the stop was clean */
        test_service_close(svc);
        test_dir_remove(dir);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_database_may_be_closed_and_opened_for_one_write_any_number_of_times),
        cmocka_unit_test(starts_that_end_in_kills_leave_a_log_that_takes_writes),
        cmocka_unit_test(a_closed_database_that_could_not_be_dropped_is_flushed_by_a_stop),
        cmocka_unit_test(a_stop_tries_again_what_failed_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The threads that sync logs: fair, once at a time, and gone when told so. */
#include "tests/storage/faults.h"
#include "tests/storage/temp_dir.h"

#include <pthread.h>

#include "storage/syncer.h"
#include "storage/wal.h"

enum { LOGS = 24 };

static struct err err;
static struct wal *logs[LOGS];
static _Atomic int called, failed;
static pthread_mutex_t mu = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;

static enum err_code skip_record(void *ctx, const struct disk_wal_record *record,
                                 const uint8_t *ops, uint64_t ops_bytes, struct err *e)
{
    (void)ctx, (void)record, (void)ops, (void)ops_bytes, (void)e;
    return ERR_OK;
}

static struct wal *open_log(struct syncer *syncer, int number)
{
    char name[16];
    struct wal *wal;
    struct wal_recovery found;
    snprintf(name, sizeof name, "log%d", number);
    struct wal_options o = {.dir_fd = data_fd, .name = name, .create = true, .syncer = syncer};
    assert_int_equal(wal_open(&o, skip_record, NULL, &wal, &found, &err), ERR_OK);
    assert_int_equal(wal_prepare(wal, &err), ERR_OK);
    assert_int_equal(wal_switch(wal, &err), ERR_OK);
    return wal;
}

static uint64_t append(struct wal *wal)
{
    struct disk_wal_record head = {.type = WAL_ROWS};
    struct iovec iov[2] = {{&head, sizeof head}};
    uint64_t lsn = 0;
    assert_int_equal(wal_append(wal, &head, iov, 1, &lsn, &err), ERR_OK);
    return lsn;
}

static void durable(void *ctx, enum err_code rc)
{
    (void)ctx;
    pthread_mutex_lock(&mu);
    failed += rc != ERR_OK;
    called++;
    pthread_cond_broadcast(&cond);
    pthread_mutex_unlock(&mu);
}

static void wait_for(int count)
{
    pthread_mutex_lock(&mu);
    while (called < count)
        pthread_cond_wait(&cond, &mu);
    pthread_mutex_unlock(&mu);
}

static void many_logs_are_all_synced_by_few_threads(void **state)
{
    (void)state;
    called = failed = 0;
    struct syncer *s = syncer_start(2);
    for (int i = 0; i < LOGS; i++)
        logs[i] = open_log(s, i);
    int waiting = 0;
    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < LOGS; i++)
            waiting += !wal_await(logs[i], append(logs[i]), durable, NULL);
    }
    wait_for(waiting);
    for (int i = 0; i < LOGS; i++) {
        assert_int_equal(wal_durable_lsn(logs[i]), 20);
        wal_close(logs[i]);
    }
    syncer_stop(s);
    assert_int_equal(called, waiting);
    assert_int_equal(failed, 0);
}

static struct wal *one;
static bool kicked_during_sync;

/* While the first sync is on its way: one more record, and one more kick. */
static void append_during_sync(int call)
{
    if (call != 0) return;
    append(one);
    kicked_during_sync = !wal_await(one, 2, durable, NULL);
}

static void a_kick_during_a_sync_starts_another_one(void **state)
{
    (void)state;
    called = failed = 0;
    struct syncer *s = syncer_start(1);
    one = open_log(s, 0);
    uint64_t lsn = append(one);
    faults_arm(FAULT_SYNC, -1, 0);
    faults.all_threads = true;
    faults.before = append_during_sync;
    assert_false(wal_await(one, lsn, durable, NULL));
    wait_for(2);
    faults_disarm();
    assert_true(kicked_during_sync);
    assert_int_equal(wal_durable_lsn(one), 2);
    wal_close(one);
    syncer_stop(s);
}

static void a_log_that_fails_does_not_hold_up_the_others(void **state)
{
    (void)state;
    called = failed = 0;
    struct syncer *s = syncer_start(1);
    logs[0] = open_log(s, 0);
    logs[1] = open_log(s, 1);
    faults_arm(FAULT_SYNC, 0, EIO);
    faults.all_threads = true;
    assert_false(wal_await(logs[0], append(logs[0]), durable, NULL));
    wait_for(1);
    assert_int_equal(failed, 1);
    assert_false(wal_await(logs[1], append(logs[1]), durable, NULL));
    wait_for(2);
    faults_disarm();
    assert_int_equal(failed, 1);
    assert_true(wal_is_broken(logs[0]));
    assert_false(wal_is_broken(logs[1]));
    wal_close(logs[0]);
    wal_close(logs[1]);
    syncer_stop(s);
}

static void forgetting_waits_for_the_sync_under_way(void **state)
{
    (void)state;
    struct syncer *s = syncer_start(4);
    for (int round = 0; round < 50; round++) {
        called = failed = 0;
        struct wal *wal = open_log(s, round % 3);
        append(wal);
        syncer_kick(s, wal);
        syncer_forget(s, wal);
        assert_int_equal(wal_durable_lsn(wal), wal_last_lsn(wal));
        wal_close(wal);
        assert_int_equal(wal_remove(data_fd, "log0", &err), ERR_OK);
        assert_int_equal(wal_remove(data_fd, "log1", &err), ERR_OK);
        assert_int_equal(wal_remove(data_fd, "log2", &err), ERR_OK);
    }
    syncer_stop(s);
}

static void stopping_an_idle_syncer_returns(void **state)
{
    (void)state;
    for (int threads = 1; threads <= 8; threads++)
        syncer_stop(syncer_start(threads));
    syncer_stop(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        temp_dir_test(many_logs_are_all_synced_by_few_threads),
        temp_dir_test(a_kick_during_a_sync_starts_another_one),
        temp_dir_test(a_log_that_fails_does_not_hold_up_the_others),
        temp_dir_test(forgetting_waits_for_the_sync_under_way),
        temp_dir_test(stopping_an_idle_syncer_returns),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

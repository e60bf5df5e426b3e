/* Compaction: smaller, the same rows with the same versions, whatever happens meanwhile. */
#include "tests/storage/kills.h"

#include <pthread.h>

#include "storage/base/guard.h"
#include "storage/compact.h"

static struct err err;
static const struct compact_options at_once;
static struct model m;

/* Many rounds over the same ids: most of the file is dead rows and old records. */
static struct database *wasteful_database(void)
{
    model_create(data_fd);
    memset(&m, 0, sizeof m);
    struct database *db = model_open(data_fd);
    for (uint32_t round = 1; round < 200; round++) {
        model_put(db, &m, 0, MODEL_ROWS - 1, round);
        if (round % 50 == 0) model_checkpoint(db);
    }
    model_delete(db, &m, 3, 30);
    return db;
}

static void compact(struct database *db)
{
    struct compact_result result;
    if (compact_run(db, &at_once, &result, &err)) fail_msg("%s", err.msg);
    assert_true(result.bytes_after <= result.bytes_before);
}

static uint64_t file_bytes_of(const char *name)
{
    struct stat st;
    assert_int_equal(fstatat(data_fd, name, &st, 0), 0);
    return (uint64_t)st.st_size;
}

/* Versions of the rows, 0 where there is none. */
static void versions(struct database *db, uint64_t version[MODEL_ROWS])
{
    struct reader r;
    reader_begin(db, &r);
    for (uint32_t n = 0; n < MODEL_ROWS; n++) {
        struct model_row want;
        struct row row;
        model_row(&want, n, 1);
        version[n] = reader_get(&r, &want.id, &row, &err) == ERR_OK ? row.version : 0;
    }
    reader_end(&r);
}

static void the_file_shrinks_and_rows_keep_content_and_version(void **state)
{
    (void)state;
    struct database *db = wasteful_database();
    uint64_t before[MODEL_ROWS], after[MODEL_ROWS], bytes = file_bytes_of("db.jvdb");
    versions(db, before);
    compact(db);
    assert_true(file_bytes_of("db.jvdb") < bytes / 4);
    assert_false(file_exists(data_fd, "db.new"));
    assert_int_equal(compact_waste(db), 0);
    for (int round = 0; round < 2; round++) { /* now, and from the disk */
        assert_model(db, &m);
        versions(db, after);
        assert_memory_equal(after, before, sizeof after);
        model_close(db);
        db = model_open(data_fd);
    }
    assert_false(database_is_dirty(db));
    model_close(db);
}

static void writes_checkpoints_and_restarts_go_on_after_it(void **state)
{
    (void)state;
    struct database *db = wasteful_database();
    for (uint32_t round = 0; round < 6; round++) {
        struct compact_result result;
        if (compact_run(db, &at_once, &result, &err)) fail_msg("%s", err.msg);
        model_put(db, &m, round * 5, round * 5 + 20, 300 + round);
        model_delete(db, &m, round * 9, round * 9 + 3);
        if (round % 2) model_checkpoint(db);
        if (round % 3 == 2) {
            model_close(db);
            db = model_open(data_fd);
        }
        assert_model(db, &m);
        assert_model_in(data_fd, &m);
    }
    model_close(db);
}

static void a_reader_that_began_before_goes_on_with_its_rows(void **state)
{
    (void)state;
    struct database *db = wasteful_database();
    struct reader r;
    struct row row;
    struct model_row want;
    reader_begin(db, &r);
    compact(db);
    model_delete(db, &m, 40, 50);
    compact(db);
    for (uint32_t n = 31; n < MODEL_ROWS; n++) {
        model_row(&want, n, 199);
        if (reader_get(&r, &want.id, &row, &err)) fail_msg("%s", err.msg);
        assert_memory_equal(row.vector, want.vector, sizeof want.vector);
    }
    reader_end(&r);
    assert_model(db, &m);
    model_close(db);
}

static void the_next_free_id_is_not_forgotten(void **state)
{
    (void)state;
    struct database *db = wasteful_database();
    float vector[MODEL_DIMENSION] = {1};
    struct row_input row = {.assign_id = true, .vector = vector};
    uint64_t lsn, given;
    size_t deleted;
    assert_int_equal(database_put(db, &row, 1, MODEL_DIMENSION, true, &lsn, &err), ERR_OK);
    given = row.id.number;
    assert_int_equal(database_delete(db, &row.id, 1, true, &deleted, &lsn, &err), ERR_OK);
    compact(db);
    model_close(db);
    db = model_open(data_fd);
    row = (struct row_input){.assign_id = true, .vector = vector};
    assert_int_equal(database_put(db, &row, 1, MODEL_DIMENSION, true, &lsn, &err), ERR_OK);
    assert_true(row.id.number > given);
    model_close(db);
}

/* ---- writers beside it ---- */

static struct {
    struct database *db;
    _Atomic bool stop;
    _Atomic uint32_t rounds;
} writer;

static void *write_all_the_time(void *arg)
{
    (void)arg;
    for (uint32_t i = 0; !atomic_load(&writer.stop); i++) {
        uint32_t first = i * 7 % (MODEL_ROWS - 8);
        model_put(writer.db, &m, first, first + 7, 1000 + i);
        if (i % 3 == 0) model_delete(writer.db, &m, first + 2, first + 3);
        if (i % 100 == 99) model_checkpoint(writer.db);
        atomic_store(&writer.rounds, i);
    }
    return NULL;
}

static void writers_and_checkpoints_beside_it_lose_nothing(void **state)
{
    (void)state;
    struct database *db = wasteful_database();
    pthread_t thread;
    writer.db = db;
    atomic_store(&writer.rounds, 0);
    atomic_store(&writer.stop, false);
    assert_int_equal(pthread_create(&thread, NULL, write_all_the_time, NULL), 0);
    for (int i = 0; i < 30 || atomic_load(&writer.rounds) < 2; i++) {
        struct compact_result result;
        if (compact_run(db, &at_once, &result, &err)) fail_msg("%s", err.msg);
    }
    atomic_store(&writer.stop, true);
    pthread_join(thread, NULL);
    assert_model(db, &m);
    assert_model_in(data_fd, &m);
    model_close(db);
}

/* Between the copy and the last step, by way of a system call that the copy makes. */
static int writes_left;

static void *write_once(void *arg)
{
    (void)arg;
    uint32_t i = (uint32_t)writes_left, first = i * 5 % (MODEL_ROWS - 8);
    model_put(writer.db, &m, first, first + 7, 2000 + i);
    model_delete(writer.db, &m, first + 1, first + 4);
    model_put(writer.db, &m, first + 2, first + 2, 2100 + i);
    return NULL;
}

static void write_in_between(int call)
{
    pthread_t thread;
    /* The first calls are the copy's; the last step excludes writers. */
    if (call > 8 || writes_left == 0) return;
    writes_left--;
    assert_int_equal(pthread_create(&thread, NULL, write_once, NULL), 0);
    pthread_join(thread, NULL);
}

static void what_is_written_during_the_copy_is_caught_up_with(void **state)
{
    (void)state;
    struct database *db = wasteful_database();
    writer.db = db;
    for (int round = 0; round < 5; round++) {
        writes_left = 5;
        faults_arm(FAULT_WRITE, -1, 0);
        faults.before = write_in_between;
        struct compact_result result;
        enum err_code rc = compact_run(db, &at_once, &result, &err);
        faults_disarm();
        if (rc) fail_msg("%s", err.msg);
        assert_int_equal(writes_left, 0);
        assert_model(db, &m);
        assert_model_in(data_fd, &m);
    }
    model_close(db);
}

/* ---- kill -9, failures ---- */

static void a_kill_before_any_system_call_of_it_loses_nothing(void **state)
{
    (void)state;
    struct database *db = wasteful_database();
    kills_begin(&m, "db.new");
    for (uint32_t round = 0; round < 3; round++) {
        struct compact_result result;
        kills_watch();
        enum err_code rc = compact_run(db, &at_once, &result, &err);
        kills_end();
        if (rc) fail_msg("%s", err.msg);
        model_put(db, &m, round * 9, round * 9 + 20, round + 5);
        model_delete(db, &m, round * 7, round * 7 + 3);
    }
    assert_true(images.count > 30);
    assert_true(kills.with_file > 20);
    model_close(db);
}

static void a_failure_of_any_system_call_leaves_every_row(void **state)
{
    (void)state;
    static const int errnos[] = {ENOSPC, EIO};
    struct database *db = wasteful_database();
    for (size_t e = 0; e < sizeof errnos / sizeof errnos[0]; e++) {
        for (int call = 0;; call++) {
            struct compact_result result;
            faults_arm(FAULT_ANY, call, errnos[e]);
            enum err_code rc = compact_run(db, &at_once, &result, &err);
            int calls = faults_disarm();
            assert_model(db, &m);
            assert_model_in(data_fd, &m);
            if (calls <= call) {
                assert_int_equal(rc, ERR_OK);
                break;
            }
            /* An unlink of what is not needed any more may fail without being heard. */
            if (rc && rc != ERR_READ_ONLY && errnos[e] == ENOSPC)
                assert_int_equal(rc, ERR_STORAGE_FULL);
            if (atomic_load(&db->failed) || wal_is_broken(db->wal)) {
                model_close(db); /* read-only: until restart */
                db = model_open(data_fd);
            }
            model_put(db, &m, 0, 20, 400 + (uint32_t)call);
        }
    }
    model_close(db);
}

static void a_failed_sync_is_never_passed_over(void **state)
{
    (void)state;
    struct database *db = wasteful_database();
    for (int call = 0;; call++) {
        struct compact_result result;
        assert_true(database_await(db, db->last_lsn, DURABILITY_PERIODIC, NULL, NULL));
        faults_arm(FAULT_SYNC, call, EIO);
        enum err_code rc = compact_run(db, &at_once, &result, &err);
        int calls = faults_disarm();
        if (calls <= call) {
            assert_int_equal(rc, ERR_OK);
            assert_true(calls >= 3);
            break;
        }
        if (rc == ERR_OK) fail_msg("nobody heard of call %d", call);
        assert_model(db, &m);
        model_close(db);
        assert_model_in(data_fd, &m);
        db = model_open(data_fd);
        model_put(db, &m, 0, 20, 400 + (uint32_t)call);
    }
    model_close(db);
}

static void a_damaged_row_stops_it_and_the_file_stays(void **state)
{
    (void)state;
    struct database *db = wasteful_database();
    model_checkpoint(db);
    model_close(db);
    db = model_open(data_fd);
    struct reader r;
    struct row row;
    struct model_row want;
    model_row(&want, 40, 1);
    reader_begin(db, &r);
    assert_int_equal(reader_get(&r, &want.id, &row, &err), ERR_OK);
    const struct jvdb_view *v = atomic_load(&db->store->file.view);
    size_t at = (size_t)((const uint8_t *)row.vector - v->shared), len;
    reader_end(&r);
    model_close(db);
    flip_byte(data_fd, "db.jvdb", at);
    uint8_t *before = file_bytes(data_fd, "db.jvdb", &len);

    db = model_open(data_fd);
    struct compact_result result;
    assert_int_equal(compact_run(db, &at_once, &result, &err), ERR_CORRUPT);
    assert_int_equal(database_check_readable(db, &err), ERR_QUARANTINED);
    assert_false(file_exists(data_fd, "db.new"));
    model_close(db);
    size_t len_after;
    uint8_t *after = file_bytes(data_fd, "db.jvdb", &len_after);
    assert_int_equal(len, len_after);
    assert_memory_equal(before, after, len);
    free(before);
    free(after);
}

static void cut_the_old_file(int call)
{
    struct stat st;
    if (call != 0 || fstatat(data_fd, "db.jvdb", &st, 0)) return;
    int fd = openat(data_fd, "db.jvdb", O_WRONLY | O_CLOEXEC);
    assert_int_equal(ftruncate(fd, st.st_size / 2), 0);
    close(fd);
}

static void an_old_file_that_is_cut_short_meanwhile_is_not_replaced(void **state)
{
    (void)state;
    struct database *db = wasteful_database();
    model_checkpoint(db);
    guard_install(); /* cmocka took SIGBUS */
    faults_arm(FAULT_ANY, -1, 0);
    faults.before = cut_the_old_file;
    struct compact_result result;
    enum err_code rc = compact_run(db, &at_once, &result, &err);
    faults_disarm();
    assert_int_equal(rc, ERR_CORRUPT);
    assert_int_equal(database_check_readable(db, &err), ERR_QUARANTINED);
    assert_false(file_exists(data_fd, "db.new"));
    model_close(db);
}

static _Atomic bool cancelled_now;
static int cancel_at;

static void cancel(int call)
{
    if (call == cancel_at) atomic_store(&cancelled_now, true);
}

static void it_can_be_interrupted_under_way(void **state)
{
    (void)state;
    struct database *db = wasteful_database();
    struct compact_options options = {.cancel = &cancelled_now};
    int interrupted = 0;
    for (cancel_at = 0;; cancel_at++) {
        struct compact_result result;
        atomic_store(&cancelled_now, false);
        faults_arm(FAULT_ANY, -1, 0);
        faults.before = cancel;
        enum err_code rc = compact_run(db, &options, &result, &err);
        int calls = faults_disarm();
        assert_true(rc == ERR_OK || rc == ERR_SHUTTING_DOWN);
        interrupted += rc == ERR_SHUTTING_DOWN;
        assert_false(file_exists(data_fd, "db.new"));
        assert_model(db, &m);
        assert_model_in(data_fd, &m);
        if (calls <= cancel_at) break;
        model_put(db, &m, 0, 20, 400 + (uint32_t)cancel_at);
    }
    assert_true(interrupted > 2);
    model_close(db);
}

static void it_can_be_interrupted(void **state)
{
    (void)state;
    struct database *db = wasteful_database();
    _Atomic bool cancel = true;
    struct compact_options cancelled = {.cancel = &cancel};
    struct compact_result result;
    assert_int_equal(compact_run(db, &cancelled, &result, &err), ERR_SHUTTING_DOWN);
    assert_false(file_exists(data_fd, "db.new"));
    atomic_store(&db->dropping, true);
    assert_int_equal(compact_run(db, &at_once, &result, &err), ERR_DATABASE_NOT_FOUND);
    atomic_store(&db->dropping, false);
    assert_model(db, &m);
    compact(db);
    assert_model(db, &m);
    model_close(db);
}

static void what_an_earlier_one_left_behind_is_no_hindrance(void **state)
{
    (void)state;
    struct database *db = wasteful_database();
    static const uint8_t junk[100000] = {1, 2, 3};
    set_file(data_fd, "db.new", junk, sizeof junk);
    compact(db);
    assert_model_in(data_fd, &m);
    set_file(data_fd, "db.new", junk, sizeof junk);
    assert_int_equal(compact_remove_leftover(data_fd, "db"), 0);
    assert_int_equal(compact_remove_leftover(data_fd, "db"), 0);
    assert_false(file_exists(data_fd, "db.new"));
    model_close(db);
}

/* Zeros in place of what the disk could not read (guard.h): slots that look dead. */
static void a_file_that_could_not_be_read_stays(void **state)
{
    (void)state;
    struct database *db = wasteful_database();
    atomic_store(&db->store->file.lost, true);
    struct compact_result result;
    assert_int_equal(compact_run(db, &at_once, &result, &err), ERR_CORRUPT);
    assert_int_equal(atomic_load(&db->failed), ERR_QUARANTINED);
    model_close(db);
    assert_model_in(data_fd, &m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        temp_dir_test(the_file_shrinks_and_rows_keep_content_and_version),
        temp_dir_test(writes_checkpoints_and_restarts_go_on_after_it),
        temp_dir_test(a_reader_that_began_before_goes_on_with_its_rows),
        temp_dir_test(the_next_free_id_is_not_forgotten),
        temp_dir_test(writers_and_checkpoints_beside_it_lose_nothing),
        temp_dir_test(what_is_written_during_the_copy_is_caught_up_with),
        temp_dir_test(a_kill_before_any_system_call_of_it_loses_nothing),
        temp_dir_test(a_failure_of_any_system_call_leaves_every_row),
        temp_dir_test(a_failed_sync_is_never_passed_over),
        temp_dir_test(a_damaged_row_stops_it_and_the_file_stays),
        temp_dir_test(an_old_file_that_is_cut_short_meanwhile_is_not_replaced),
        temp_dir_test(a_file_that_could_not_be_read_stays),
        temp_dir_test(it_can_be_interrupted),
        temp_dir_test(it_can_be_interrupted_under_way),
        temp_dir_test(what_an_earlier_one_left_behind_is_no_hindrance),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

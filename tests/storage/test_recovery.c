/* Creating and opening: what was acknowledged is there, whole, whatever stopped the process. */
#include "tests/storage/faults.h"
#include "tests/storage/model.h"

#include <errno.h>
#include <pthread.h>
#include <sys/wait.h>

static struct err err;
static struct model m;

static struct database *new_database(void)
{
    memset(&m, 0, sizeof m);
    model_create(data_fd);
    return model_open(data_fd);
}

static enum err_code open_error(int dir)
{
    struct database *db;
    enum err_code rc = model_try_open(dir, false, &db, &err);
    if (!rc) model_close(db);
    return rc;
}

/* ---- create ---- */

static void a_new_database_is_empty_and_small(void **state)
{
    (void)state;
    struct database *db = new_database();
    assert_model(db, &m);
    assert_int_equal(db->schema.dimension, MODEL_DIMENSION);
    assert_int_equal(db->schema.metric, METRIC_EUCLIDEAN);
    model_close(db);
    size_t len;
    free(file_bytes(data_fd, "db.jvdb", &len));
    assert_true(len <= 128 * 1024);
    model_checkpoint(db = model_open(data_fd));
    model_close(db);
    assert_model_in(data_fd, &m);
}

static void a_creation_that_fails_leaves_no_file(void **state)
{
    (void)state;
    for (int n = 0;; n++) {
        faults_arm(FAULT_WRITE | FAULT_ALLOCATE | FAULT_SYNC, n, ENOSPC);
        enum err_code rc = database_create_files(data_fd, "db", model_uuid, &model_schema, &err);
        faults_disarm();
        if (rc == ERR_OK) {
            assert_true(n > 5);
            assert_int_equal(open_error(data_fd), ERR_OK);
            return;
        }
        assert_int_equal(rc, ERR_STORAGE_FULL);
        assert_false(file_exists(data_fd, "db.jvdb"));
        assert_false(file_exists(data_fd, "db.new"));
        /* And the next one succeeds. */
        model_create(data_fd);
        memset(&m, 0, sizeof m);
        assert_model_in(data_fd, &m);
        for_each_file(data_fd, remove_file);
    }
}

static int images, adoptable;

static void *open_what_is_there(void *arg)
{
    (void)arg;
    struct model empty = {0};
    char why[300];
    images++;
    if (!file_exists(image_fd, "db.jvdb")) return NULL;
    adoptable += model_matches_dir(image_fd, &empty, why) ? 1 : -1000;
    return NULL;
}

static void on_a_thread_of_its_own(void *(*fn)(void *))
{
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, fn, NULL), 0);
    pthread_join(thread, NULL);
}

static void look_at_image(int call)
{
    (void)call;
    take_image();
    on_a_thread_of_its_own(open_what_is_there);
}

static void a_creation_that_is_killed_leaves_nothing_or_an_empty_database(void **state)
{
    (void)state;
    images = adoptable = 0;
    faults_arm(FAULT_ANY, -1, 0);
    faults.before = look_at_image;
    model_create(data_fd);
    faults_disarm();
    assert_true(images > 8);
    assert_true(adoptable > 0);
}

static void files_of_an_earlier_life_of_the_name_are_replaced(void **state)
{
    (void)state;
    struct database *db = new_database();
    model_put(db, &m, 0, 20, 1);
    model_close(db);
    set_file(data_fd, "db.ckpt", "rubbish", 7);
    remove_file(data_fd, "db.jvdb");
    memset(&m, 0, sizeof m);
    model_create(data_fd);
    assert_model_in(data_fd, &m);
}

/* ---- open ---- */

static void replay_is_idempotent(void **state)
{
    (void)state;
    struct database *db = new_database();
    for (uint32_t i = 0; i < 40; i++) {
        model_put(db, &m, i, i + 20, i + 1);
        model_delete(db, &m, i / 2, i / 2 + 3);
        if (i % 13 == 12) model_checkpoint(db);
    }
    struct disk_counts counts = db->store->counts;
    uint64_t lsn = db->last_lsn;
    model_close(db);
    for (int i = 0; i < 4; i++) {
        db = model_open(data_fd);
        assert_true(database_is_dirty(db));
        assert_model(db, &m);
        assert_memory_equal(&db->store->counts, &counts, offsetof(struct disk_counts, index_root));
        assert_int_equal(db->last_lsn, lsn);
        model_close(db);
    }
    db = model_open(data_fd);
    model_put(db, &m, 0, 10, 60);
    model_checkpoint(db);
    model_close(db);
    assert_model_in(data_fd, &m);
}

static int log_files;

/* The image is how it was before. */
static void assert_log_as_in_image(int dir, const char *name)
{
    size_t before_len, now_len;
    if (!strstr(name, ".wal.")) return;
    log_files++;
    uint8_t *before = file_bytes(image_fd, name, &before_len),
            *now = file_bytes(dir, name, &now_len);
    assert_int_equal(now_len, before_len);
    assert_memory_equal(now, before, before_len);
    free(before);
    free(now);
}

static void an_opening_writes_nothing_to_the_log_that_it_reads(void **state)
{
    (void)state;
    struct database *db = new_database();
    model_put(db, &m, 0, 20, 1);
    model_checkpoint(db);
    model_put(db, &m, 10, 30, 2);
    uint64_t whole = wal_bytes(db->wal);
    struct model before_last = m;
    model_put(db, &m, 5, 6, 3);
    uint64_t last = wal_bytes(db->wal) - whole;
    model_close(db);
    /* The current segment is the one whose records begin with the checkpoint's; tear its tail. */
    char name[20];
    size_t len = 0;
    for (int i = 0; i < 4; i++) {
        snprintf(name, sizeof name, "db.wal.%d", i);
        if (!file_exists(data_fd, name)) continue;
        uint8_t *bytes = file_bytes(data_fd, name, &len);
        struct disk_wal_header h;
        memcpy(&h, bytes, sizeof h);
        free(bytes);
        if (h.base_lsn) break;
    }
    flip_byte(data_fd, name, WAL_HEADER_BYTES + whole + last - 9);
    take_image();
    for (int i = 0; i < 3; i++) {
        db = model_open(data_fd);
        assert_model(db, &before_last);
        model_close(db);
        log_files = 0;
        for_each_file(data_fd, assert_log_as_in_image);
        assert_true(log_files > 0);
    }
}

static void the_log_alone_brings_rows_back_that_the_file_lost(void **state)
{
    (void)state;
    struct database *db = new_database();
    model_put(db, &m, 0, 30, 1);
    model_checkpoint(db);
    size_t len;
    uint8_t *synced = file_bytes(data_fd, "db.jvdb", &len);
    for (uint32_t i = 0; i < 10; i++) {
        uint64_t lsn = model_put(db, &m, i, i + 50, i + 2);
        assert_int_equal(database_wait(db, lsn, DURABILITY_SYNCED, &err), ERR_OK);
    }
    model_close(db);
    /* Power fails: only the log was synced. */
    set_file(data_fd, "db.jvdb", synced, len);
    free(synced);
    assert_model_in(data_fd, &m);
}

static int failed_images;

static void *open_again(void *arg)
{
    (void)arg;
    char why[300];
    images++;
    failed_images += !model_matches_dir(image_fd, &m, why);
    return NULL;
}

static void open_image_again(int call)
{
    (void)call;
    take_image();
    on_a_thread_of_its_own(open_again);
}

/* Makes data an unfinished checkpoint (a complete .ckpt) with a log behind it. */
static void keep_ckpt_image(int call)
{
    (void)call;
    if (images++ == 0) take_image();
}

static void interrupted_checkpoint(void)
{
    struct database *db = new_database();
    model_put(db, &m, 0, 40, 1);
    model_checkpoint(db);
    model_put(db, &m, 10, 60, 2);
    images = 0;
    faults_arm(FAULT_NAME, -1, 0);
    faults.before = keep_ckpt_image;
    model_checkpoint(db);
    faults_disarm();
    model_close(db);
    assert_true(file_exists(image_fd, "db.ckpt"));
    for_each_file(data_fd, remove_file);
    int swap = data_fd;
    data_fd = image_fd;
    image_fd = swap;
}

static void an_opening_that_is_killed_can_be_repeated(void **state)
{
    (void)state;
    interrupted_checkpoint();
    images = failed_images = 0;
    faults_arm(FAULT_ANY, -1, 0);
    faults.before = open_image_again;
    struct database *db = model_open(data_fd);
    faults_disarm();
    model_close(db);
    assert_true(images >= 4);
    assert_int_equal(failed_images, 0);
}

/* An opening behind an interrupted checkpoint; the n-th call of these kinds fails.  How many calls
 * it made. */
static int open_with_fault(int kinds, int n, struct database **db, enum err_code *rc)
{
    for_each_file(data_fd, remove_file);
    for_each_file(image_fd, remove_file);
    interrupted_checkpoint();
    faults_arm(kinds, n, EIO);
    *rc = model_try_open(data_fd, false, db, &err);
    return faults_disarm();
}

static void an_opening_that_fails_can_be_repeated(void **state)
{
    (void)state;
    for (int n = 0;; n++) {
        struct database *db;
        enum err_code rc;
        int calls = open_with_fault(FAULT_ANY, n, &db, &rc);
        if (rc == ERR_OK) {
            assert_model(db, &m);
            model_close(db);
        } else {
            /* a failed sync is not for the same process to try again */
            assert_true(rc == ERR_IO || rc == ERR_QUARANTINED);
        }
        assert_model_in(data_fd, &m);
        if (n >= calls) {
            assert_true(n >= 3);
            return;
        }
    }
}

static void an_opening_whose_sync_fails_is_final(void **state)
{
    (void)state;
    for (int n = 0;; n++) {
        struct database *db;
        enum err_code rc;
        int calls = open_with_fault(FAULT_SYNC, n, &db, &rc);
        if (n >= calls) {
            assert_int_equal(rc, ERR_OK);
            model_close(db);
            assert_true(n >= 3);
            return;
        }
        assert_int_equal(rc, ERR_QUARANTINED);
    }
}

static void a_missing_log_is_damage(void **state)
{
    (void)state;
    struct database *db = new_database();
    model_put(db, &m, 0, 20, 1);
    model_checkpoint(db);
    model_close(db);
    assert_int_equal(wal_remove(data_fd, "db", &err), ERR_OK);
    assert_int_equal(open_error(data_fd), ERR_CORRUPT);
}

static void a_missing_file_is_damage(void **state)
{
    (void)state;
    model_close(new_database());
    remove_file(data_fd, "db.jvdb");
    assert_int_equal(open_error(data_fd), ERR_CORRUPT);
    assert_false(file_exists(data_fd, "db.jvdb"));
}

static void an_older_copy_of_the_file_is_refused(void **state)
{
    (void)state;
    struct database *db = new_database();
    model_put(db, &m, 0, 20, 1);
    model_checkpoint(db);
    size_t len;
    uint8_t *older = file_bytes(data_fd, "db.jvdb", &len);
    for (int more = 0; more < 3; more++) {
        model_put(db, &m, 3, 9, 2);
        model_checkpoint(db);
        take_image();
        set_file(image_fd, "db.jvdb", older, len);
        assert_int_equal(open_error(image_fd), ERR_CORRUPT);
    }
    free(older);
    model_close(db);
}

static void the_file_of_another_database_is_refused(void **state)
{
    (void)state;
    static const uint8_t other[16] = {77};
    model_close(new_database());
    assert_int_equal(database_create_files(image_fd, "db", other, &model_schema, &err), ERR_OK);
    copy_to_image(data_fd, "db.wal.0");
    assert_int_equal(open_error(image_fd), ERR_CORRUPT);
}

static void a_file_that_is_cut_short_is_refused(void **state)
{
    (void)state;
    struct database *db = new_database();
    model_put(db, &m, 0, 60, 1);
    model_checkpoint(db);
    uint64_t bytes = db->store->file.file_bytes;
    model_close(db);
    size_t len;
    uint8_t *all = file_bytes(data_fd, "db.jvdb", &len);
    for (size_t cut = 0; cut < bytes; cut += 4096 + 511) {
        set_file(data_fd, "db.jvdb", all, cut);
        assert_int_equal(open_error(data_fd), ERR_CORRUPT);
    }
    set_file(data_fd, "db.jvdb", all, len);
    free(all);
    assert_model_in(data_fd, &m);
}

/* Bytes all over the file, flipped one at a time: an error or the right rows, never others. */
static void a_flipped_byte_is_never_served(void **state)
{
    (void)state;
    struct database *db = new_database();
    model_put(db, &m, 0, 60, 1);
    model_delete(db, &m, 7, 9);
    assert_int_equal(checkpoint_close(db, &err), ERR_OK);
    uint64_t bytes = db->store->file.file_bytes;
    model_close(db);
    int refused = 0, damaged = 0, harmless = 0;
    take_image();
    for (uint64_t at = 0; at < bytes; at += 211) {
        flip_byte(image_fd, "db.jvdb", at);
        if (model_try_open(image_fd, false, &db, &err)) {
            assert_int_equal(err.code, ERR_CORRUPT);
            refused++;
        } else {
            struct reader r;
            int errors = 0, wrong = 0, gone = 0;
            reader_begin(db, &r);
            for (uint32_t n = 0; n < MODEL_ROWS; n++) {
                struct model_row want;
                struct row row;
                model_row(&want, n, m.value[n]);
                enum err_code rc = reader_get(&r, &want.id, &row, &err);
                if (rc == ERR_OK) {
                    wrong += m.value[n] == 0 || row.metadata_bytes != want.metadata_bytes ||
                             memcmp(row.vector, want.vector, sizeof want.vector) != 0 ||
                             memcmp(row.metadata, want.metadata, want.metadata_bytes) != 0;
                } else if (rc == ERR_VECTOR_NOT_FOUND) {
                    gone += m.value[n] != 0;
                } else {
                    errors++;
                }
            }
            reader_end(&r);
            if (wrong) fail_msg("byte %d: %d wrong rows", (int)at, wrong);
            if (gone) fail_msg("byte %d: %d rows are gone", (int)at, gone);
            damaged += errors > 0;
            harmless += errors == 0;
            model_close(db);
        }
        flip_byte(image_fd, "db.jvdb", at);
    }
    assert_true(refused > 5);
    assert_true(damaged > 20);
    assert_true(harmless > 20);
    assert_model_in(image_fd, &m);
}

static void slots_are_used_again_after_checkpoints_and_openings(void **state)
{
    (void)state;
    struct database *db = new_database();
    for (uint32_t round = 0; round < 60; round++) {
        model_put(db, &m, 0, MODEL_ROWS - 1, round + 1);
        model_delete(db, &m, round % 30, round % 30 + 10);
        if (round % 2) model_checkpoint(db);
        if (round % 5 == 4) {
            model_close(db);
            db = model_open(data_fd);
        }
        epoch_synchronize();
        assert_model(db, &m);
    }
    /* Rows of up to three rounds are between two checkpoints. */
    assert_true(db->store->counts.slot_count <= 6 * MODEL_ROWS);
    model_close(db);
    assert_model_in(data_fd, &m);
}

/* ---- kill -9 ---- */

enum { ROUNDS = 200, OPERATIONS = 40 };

enum message_kind { BEGUN = 1, ACKNOWLEDGED };
struct message {
    uint32_t kind, first, last, value; /* value 0: a delete */
    uint64_t lsn;
};

static int kill_at;

static void kill_before(int call)
{
    if (call == kill_at) _exit(0);
}

/* Writes, deletes, checkpoints until killed; what it says goes through the pipe. */
static void child(int out, unsigned seed, uint32_t value)
{
    struct database *db;
    struct model ignored = {0};
    srandom(seed);
    kill_at = (int)(random() % 150);
    bool while_opening = random() % 4 == 0;
    faults_arm(while_opening ? FAULT_ANY : 0, -1, 0);
    faults.before = kill_before;
    if (model_try_open(data_fd, true, &db, &err)) _exit(1);
    if (!while_opening) kill_at /= 2;
    atomic_store(&faults.kinds, FAULT_ANY);
    for (int i = 0; i < OPERATIONS; i++) {
        struct message msg = {.kind = BEGUN, .first = (uint32_t)random() % MODEL_ROWS};
        long what = random() % 10;
        msg.last = msg.first + (uint32_t)random() % (MODEL_ROWS - msg.first);
        if (what == 0) {
            if (checkpoint_run(db, &err)) _exit(2);
            continue;
        }
        msg.value = what < 3 ? 0 : value++;
        if (write(out, &msg, sizeof msg) != sizeof msg) _exit(3);
        enum err_code rc =
            msg.value ? model_try_put(db, &ignored, msg.first, msg.last, msg.value, &msg.lsn, &err)
                      : model_try_delete(db, &ignored, msg.first, msg.last, &msg.lsn, &err);
        if (rc || database_wait(db, msg.lsn, DURABILITY_SYNCED, &err)) _exit(4);
        msg.kind = ACKNOWLEDGED;
        if (write(out, &msg, sizeof msg) != sizeof msg) _exit(5);
    }
    _exit(0);
}

static void apply(struct model *to, const struct message *msg)
{
    for (uint32_t n = msg->first; n <= msg->last; n++)
        to->value[n] = msg->value;
}

static void nothing_acknowledged_is_lost_by_200_kills(void **state)
{
    (void)state;
    model_close(new_database());
    uint64_t last_lsn = 0;
    uint32_t value = 1;
    int in_flight_there = 0, in_flight_gone = 0;
    for (unsigned round = 0; round < ROUNDS; round++) {
        int ends[2], status;
        assert_int_equal(pipe(ends), 0);
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) child(ends[1], round, value);
        close(ends[1]);
        struct message msg;
        struct model with_last = m;
        bool in_flight = false;
        while (read(ends[0], &msg, sizeof msg) == sizeof msg) {
            if (msg.value >= value) value = msg.value + 1;
            in_flight = msg.kind == BEGUN;
            apply(&with_last, &msg);
            if (in_flight) continue;
            apply(&m, &msg);
            /* A delete of nothing gets the LSN of the write before. */
            assert_true(msg.lsn > last_lsn || (msg.value == 0 && msg.lsn >= last_lsn));
            last_lsn = msg.lsn;
        }
        close(ends[0]);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 0);

        struct database *db;
        char why[300];
        if (model_try_open(data_fd, round % 2, &db, &err)) fail_msg("round %u: %s", round, err.msg);
        if (!model_matches(db, &m, why)) {
            /* What was not acknowledged is there as a whole, or not at all. */
            if (!in_flight || !model_matches(db, &with_last, why))
                fail_msg("round %u: %s", round, why);
            m = with_last;
            in_flight_there++;
        } else {
            in_flight_gone += in_flight;
        }
        assert_true(db->last_lsn >= last_lsn);
        last_lsn = db->last_lsn;
        model_close(db);
    }
    if (in_flight_there <= 5 || in_flight_gone <= 5)
        fail_msg("%d in flight were there, %d were gone", in_flight_there, in_flight_gone);
}

static void lsns_never_go_back_although_a_tail_is_lost(void **state)
{
    (void)state;
    struct database *db = new_database();
    model_put(db, &m, 0, 5, 1);
    struct model durable = m;
    size_t len;
    uint8_t *log = file_bytes(data_fd, "db.wal.1", &len);
    uint64_t given = 0;
    for (uint32_t i = 0; i < 10; i++)
        given = model_put(db, &m, 0, 5, i + 2);
    model_close(db);
    /* Power fails: what was not synced is gone, the readers of then may remember its LSNs. */
    set_file(data_fd, "db.wal.1", log, len);
    free(log);
    if (model_try_open(data_fd, true, &db, &err)) fail_msg("%s", err.msg);
    assert_model(db, &durable);
    assert_true(model_put(db, &durable, 1, 2, 3) > given);
    model_close(db);
    assert_model_in(data_fd, &durable);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        temp_dir_test(a_new_database_is_empty_and_small),
        temp_dir_test(a_creation_that_fails_leaves_no_file),
        temp_dir_test(a_creation_that_is_killed_leaves_nothing_or_an_empty_database),
        temp_dir_test(files_of_an_earlier_life_of_the_name_are_replaced),
        temp_dir_test(replay_is_idempotent),
        temp_dir_test(an_opening_writes_nothing_to_the_log_that_it_reads),
        temp_dir_test(the_log_alone_brings_rows_back_that_the_file_lost),
        temp_dir_test(an_opening_that_is_killed_can_be_repeated),
        temp_dir_test(an_opening_that_fails_can_be_repeated),
        temp_dir_test(an_opening_whose_sync_fails_is_final),
        temp_dir_test(a_missing_log_is_damage),
        temp_dir_test(a_missing_file_is_damage),
        temp_dir_test(an_older_copy_of_the_file_is_refused),
        temp_dir_test(the_file_of_another_database_is_refused),
        temp_dir_test(a_file_that_is_cut_short_is_refused),
        temp_dir_test(a_flipped_byte_is_never_served),
        temp_dir_test(slots_are_used_again_after_checkpoints_and_openings),
        temp_dir_test(nothing_acknowledged_is_lost_by_200_kills),
        temp_dir_test(lsns_never_go_back_although_a_tail_is_lost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

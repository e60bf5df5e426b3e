/* The file is always exactly one checkpoint, whatever stops or fails. */
#include "tests/storage/kills.h"

#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>

static struct err err;
static struct model m;

static struct database *new_database(void)
{
    memset(&m, 0, sizeof m);
    model_create(data_fd);
    return model_open(data_fd);
}

/* A database with a checkpoint, and some of everything behind it. */
static struct database *busy_database(void)
{
    struct database *db = new_database();
    model_put(db, &m, 0, MODEL_ROWS - 1, 1);
    model_delete(db, &m, 3, 9);
    model_checkpoint(db);
    model_put(db, &m, 2, 30, 2);
    model_delete(db, &m, 20, 25);
    model_put(db, &m, 40, 50, 4);
    return db;
}

/* ---- what a checkpoint is ---- */

static void after_a_checkpoint_the_file_alone_is_the_database(void **state)
{
    (void)state;
    struct database *db = busy_database();
    model_checkpoint(db);
    assert_false(file_exists(data_fd, "db.ckpt"));
    model_adopt_image();
    assert_model_in(image_fd, &m);
    /* What is written later is not in a copy made earlier. */
    struct model earlier = m;
    model_put(db, &m, 0, 10, 7);
    assert_model_in(image_fd, &earlier);
    model_close(db);
}

static void a_checkpoint_of_nothing_new_touches_nothing(void **state)
{
    (void)state;
    struct database *db = busy_database();
    model_checkpoint(db);
    uint64_t generation = db->store->file.generation;
    faults_arm(FAULT_ANY, -1, 0);
    model_checkpoint(db);
    assert_int_equal(faults_disarm(), 0);
    assert_int_equal(db->store->file.generation, generation);
    model_close(db);
}

static void after_a_checkpoint_an_opening_replays_nothing(void **state)
{
    (void)state;
    struct database *db = busy_database();
    assert_true(database_is_dirty(db));
    assert_true(wal_bytes(db->wal) > 0);
    model_checkpoint(db);
    assert_false(database_is_dirty(db));
    assert_int_equal(wal_bytes(db->wal), 0);
    uint64_t lsn = db->last_lsn;
    model_close(db);
    db = model_open(data_fd);
    assert_false(database_is_dirty(db));
    assert_int_equal(wal_bytes(db->wal), 0);
    assert_int_equal(atomic_load(&db->checkpoint_lsn), lsn);
    assert_model(db, &m);
    model_close(db);
}

static void a_clean_close_makes_both_superblocks_alike(void **state)
{
    (void)state;
    struct database *db = busy_database();
    assert_int_equal(checkpoint_close(db, &err), ERR_OK);
    model_close(db);
    size_t len;
    uint8_t *bytes = file_bytes(data_fd, "db.jvdb", &len);
    assert_memory_equal(bytes, bytes + BLOCK_BYTES, BLOCK_BYTES);
    free(bytes);
    for (uint64_t i = 0; i < SUPERBLOCK_COUNT; i++) {
        take_image();
        flip_byte(image_fd, "db.jvdb", i * BLOCK_BYTES + 50);
        assert_model_in(image_fd, &m);
    }
}

static void many_checkpoints_do_not_make_the_file_grow(void **state)
{
    (void)state;
    struct database *db = busy_database();
    for (uint32_t i = 0; i < 10; i++) {
        model_put(db, &m, 0, 10, i + 1);
        model_checkpoint(db);
        epoch_synchronize();
    }
    uint64_t bytes = db->store->file.file_bytes;
    uint32_t slots = db->store->counts.slot_count;
    for (uint32_t i = 0; i < 100; i++) {
        model_put(db, &m, 0, 10, 3); /* without metadata: records are append-only */
        model_checkpoint(db);
        epoch_synchronize();
    }
    assert_int_equal(db->store->counts.slot_count, slots);
    assert_true(db->store->file.file_bytes <= bytes + 4 * UNIT_BYTES_MIN);
    assert_model(db, &m);
    model_close(db);
    assert_model_in(data_fd, &m);
}

/* The disk could not read a page: there are zeros in its place (guard.h). */
static void a_checkpoint_does_not_write_what_could_not_be_read(void **state)
{
    (void)state;
    struct database *db = busy_database();
    size_t before_len, after_len;
    uint8_t *before = file_bytes(data_fd, "db.jvdb", &before_len);
    atomic_store(&db->store->file.lost, true);
    assert_int_equal(checkpoint_run(db, &err), ERR_CORRUPT);
    assert_false(file_exists(data_fd, "db.ckpt"));
    assert_int_equal(atomic_load(&db->failed), ERR_QUARANTINED);
    uint8_t *after = file_bytes(data_fd, "db.jvdb", &after_len);
    assert_int_equal(after_len, before_len);
    assert_memory_equal(after, before, before_len);
    free(before);
    free(after);
    assert_int_equal(checkpoint_run(db, &err), ERR_QUARANTINED);
    model_close(db);
    assert_model_in(data_fd, &m);
}

static uint64_t rss_anon(void)
{
    unsigned long kilobytes = 0;
    char line[200];
    FILE *f = fopen("/proc/self/status", "r");
    assert_non_null(f);
    while (fgets(line, sizeof line, f))
        if (sscanf(line, "RssAnon: %lu", &kilobytes) == 1) break;
    fclose(f);
    return (uint64_t)kilobytes * 1024;
}

static void a_checkpoint_gives_private_pages_back(void **state)
{
    (void)state;
    enum { BATCH = 1000, ROWS = 60000 };
    struct database *db = new_database();
    static const float vector[MODEL_DIMENSION];
    static struct row_input rows[BATCH];
    for (int i = 0; i < ROWS; i += BATCH) {
        uint64_t lsn;
        for (int k = 0; k < BATCH; k++)
            rows[k] = (struct row_input){.assign_id = true, .vector = vector};
        assert_int_equal(database_put(db, rows, BATCH, MODEL_DIMENSION, true, &lsn, &err), ERR_OK);
    }
    uint64_t before = rss_anon();
    model_checkpoint(db);
    uint64_t after = rss_anon();
    if (after + 3000000 > before)
        fail_msg("RssAnon went from %d to %d kB", (int)(before >> 10), (int)(after >> 10));
    struct jvdb_view *v = atomic_load(&db->store->file.view);
    for (uint64_t b = 0; b < db->store->file.file_bytes / BLOCK_BYTES; b++)
        assert_false(atomic_load(&v->state[b]) & (BLOCK_PRIVATE | BLOCK_DIRTY | BLOCK_TO_SAVE));
    struct reader r;
    reader_begin(db, &r);
    assert_int_equal(reader_count(&r), ROWS);
    for (uint64_t id = 1; id <= ROWS; id += 97) {
        struct row row;
        assert_int_equal(reader_get(&r, &(struct vector_id){.number = id}, &row, &err), ERR_OK);
    }
    reader_end(&r);
    model_close(db);
}

/* ---- kill -9 ---- */

static void a_kill_before_any_system_call_of_a_checkpoint_loses_nothing(void **state)
{
    (void)state;
    struct database *db = busy_database();
    kills_begin(&m, "db.ckpt");
    for (uint32_t round = 0; round < 4; round++) {
        kills_watch();
        enum err_code rc = round == 3 ? checkpoint_close(db, &err) : checkpoint_run(db, &err);
        kills_end();
        assert_int_equal(rc, ERR_OK);
        model_put(db, &m, round * 9, round * 9 + 20, round + 5);
        model_delete(db, &m, round * 7, round * 7 + 3);
    }
    assert_true(images.count > 40);
    assert_true(kills.with_file > 8);
    model_close(db);
}

static uint8_t *ckpt, *old_file;
static size_t ckpt_len, old_len;

static void keep_the_ckpt(int call)
{
    (void)call;
    if (ckpt) return;
    take_image();
    ckpt = file_bytes(image_fd, "db.ckpt", &ckpt_len);
}

/* Leaves an image of a checkpoint that was about to remove its .ckpt, and the file before it. */
static struct database *stopped_checkpoint(void)
{
    struct database *db = busy_database();
    ckpt = NULL;
    old_file = file_bytes(data_fd, "db.jvdb", &old_len);
    faults_arm(FAULT_NAME, -1, 0);
    faults.before = keep_the_ckpt;
    enum err_code rc = checkpoint_run(db, &err);
    faults_disarm();
    assert_int_equal(rc, ERR_OK);
    assert_non_null(ckpt);
    assert_true(ckpt_len > 5 * BLOCK_BYTES);
    return db;
}

static void end_stopped_checkpoint(struct database *db)
{
    free(ckpt);
    free(old_file);
    model_close(db);
}

static void a_complete_ckpt_finishes_the_file_even_if_all_of_the_file_is_old(void **state)
{
    (void)state;
    struct database *db = stopped_checkpoint();
    set_file(image_fd, "db.jvdb", old_file, old_len);
    assert_model_in(image_fd, &m);
    assert_false(file_exists(image_fd, "db.ckpt"));
    struct database *again = model_open(image_fd);
    assert_false(database_is_dirty(again));
    model_close(again);
    end_stopped_checkpoint(db);
}

static void check_superblocks_after(const uint8_t *file, size_t file_len, uint64_t torn)
{
    size_t len;
    set_file(image_fd, "db.jvdb", file, file_len);
    set_file(image_fd, "db.ckpt", ckpt, ckpt_len);
    flip_byte(image_fd, "db.jvdb", torn * BLOCK_BYTES + 50);
    struct database *again = model_open(image_fd);
    uint8_t *bytes = file_bytes(image_fd, "db.jvdb", &len);
    assert_memory_equal(bytes, bytes + BLOCK_BYTES, sizeof(struct disk_superblock));
    free(bytes);
    model_close(again);
}

/* A superblock that was being written is no damage afterwards: that of this checkpoint, or the
 * other one, which the end of the program before made like it. */
static void a_complete_ckpt_leaves_both_superblocks_alike(void **state)
{
    (void)state;
    struct database *db = stopped_checkpoint();
    size_t new_len;
    uint8_t *new_file = file_bytes(image_fd, "db.jvdb", &new_len);
    uint64_t new = db->store->file.generation % SUPERBLOCK_COUNT;
    check_superblocks_after(old_file, old_len, new);
    check_superblocks_after(new_file, new_len, 1 - new);
    free(new_file);
    end_stopped_checkpoint(db);
}

static void a_complete_ckpt_is_applied_again_without_harm(void **state)
{
    (void)state;
    struct database *db = stopped_checkpoint();
    assert_model_in(image_fd, &m);
    set_file(image_fd, "db.ckpt", ckpt, ckpt_len);
    assert_model_in(image_fd, &m);
    end_stopped_checkpoint(db);
}

static void an_incomplete_ckpt_is_ignored_and_the_log_redoes_it(void **state)
{
    (void)state;
    struct database *db = stopped_checkpoint();
    for (size_t len = 0; len < ckpt_len; len += len < 200 || len + 200 > ckpt_len ? 7 : 1500) {
        set_file(image_fd, "db.jvdb", old_file, old_len);
        set_file(image_fd, "db.ckpt", ckpt, len);
        assert_model_in(image_fd, &m);
        assert_false(file_exists(image_fd, "db.ckpt"));
    }
    end_stopped_checkpoint(db);
}

static void a_ckpt_with_any_damage_is_ignored_and_the_log_redoes_it(void **state)
{
    (void)state;
    struct database *db = stopped_checkpoint();
    for (size_t at = 0; at < ckpt_len; at += at < 100 || at + 100 > ckpt_len ? 1 : 997) {
        set_file(image_fd, "db.jvdb", old_file, old_len);
        set_file(image_fd, "db.ckpt", ckpt, ckpt_len);
        flip_byte(image_fd, "db.ckpt", at);
        assert_model_in(image_fd, &m);
    }
    end_stopped_checkpoint(db);
}

/* Change the header of the .ckpt and make its checksum right. */
static void set_ckpt_header(const struct disk_ckpt_header *h)
{
    struct disk_ckpt_footer f;
    memcpy(ckpt, h, sizeof *h);
    memcpy(&f, ckpt + ckpt_len - sizeof f, sizeof f);
    f.crc = crc32c(0, ckpt, ckpt_len - sizeof f.crc);
    memcpy(ckpt + ckpt_len - sizeof f, &f, sizeof f);
    set_file(image_fd, "db.ckpt", ckpt, ckpt_len);
}

static void the_ckpt_of_another_database_is_ignored(void **state)
{
    (void)state;
    struct database *db = stopped_checkpoint();
    set_file(image_fd, "db.jvdb", old_file, old_len);
    struct disk_ckpt_header h;
    memcpy(&h, ckpt, sizeof h);
    h.uuid[3] ^= 1;
    h.generation += 5;
    set_ckpt_header(&h);
    assert_model_in(image_fd, &m);
    end_stopped_checkpoint(db);
}

static void an_older_file_beside_a_newer_ckpt_is_refused(void **state)
{
    (void)state;
    struct database *db = stopped_checkpoint();
    set_file(image_fd, "db.jvdb", old_file, old_len);
    struct disk_ckpt_header h;
    memcpy(&h, ckpt, sizeof h);
    h.generation++;
    set_ckpt_header(&h);
    struct database *none;
    assert_int_equal(model_try_open(image_fd, false, &none, &err), ERR_CORRUPT);
    size_t len;
    uint8_t *same = file_bytes(image_fd, "db.jvdb", &len);
    assert_int_equal(len, old_len);
    assert_memory_equal(same, old_file, len);
    free(same);
    assert_true(file_exists(image_fd, "db.ckpt"));
    end_stopped_checkpoint(db);
}

static void an_older_ckpt_is_ignored(void **state)
{
    (void)state;
    struct database *db = stopped_checkpoint();
    model_put(db, &m, 0, 20, 9);
    model_checkpoint(db);
    model_put(db, &m, 5, 25, 10);
    take_image();
    set_file(image_fd, "db.ckpt", ckpt, ckpt_len);
    assert_model_in(image_fd, &m);
    assert_false(file_exists(image_fd, "db.ckpt"));
    end_stopped_checkpoint(db);
}

/* ---- failures ---- */

/* Fail call number n of a checkpoint, for every n, and go on.  `must_be_told`: none of them may be
 * passed over. */
static void fail_every_call(int kinds, int os_errno, bool may_be_final, bool must_be_told)
{
    for (int n = 0;; n++) {
        for_each_file(data_fd, remove_file);
        struct database *db = busy_database();
        assert_true(database_await(db, db->last_lsn, DURABILITY_PERIODIC, NULL, NULL));
        faults_arm(kinds, n, os_errno);
        enum err_code rc = checkpoint_run(db, &err);
        int calls = faults_disarm();
        if (must_be_told && n < calls && rc == ERR_OK) fail_msg("nobody heard of call %d", n);
        assert_model(db, &m);
        uint64_t lsn;
        enum err_code put = model_try_put(db, &m, 1, 5, 11, &lsn, &err);
        if (put) {
            assert_int_equal(put, ERR_READ_ONLY);
            assert_int_equal(rc, ERR_READ_ONLY);
            if (!may_be_final) fail_msg("call %d made it read-only", n);
            assert_int_equal(checkpoint_run(db, &err), ERR_READ_ONLY);
        } else {
            model_delete(db, &m, 50, 55);
            model_checkpoint(db);
        }
        assert_model(db, &m);
        model_close(db);
        assert_model_in(data_fd, &m);
        if (n >= calls) {
            assert_int_equal(rc, ERR_OK);
            assert_true(n > 0);
            return;
        }
    }
}

static void after_any_failed_sync_everything_acknowledged_is_there(void **state)
{
    (void)state;
    fail_every_call(FAULT_SYNC, EIO, true, true);
}

static void after_any_failed_write_everything_acknowledged_is_there(void **state)
{
    (void)state;
    fail_every_call(FAULT_WRITE | FAULT_ALLOCATE | FAULT_TRUNCATE, EIO, true, false);
}

static void after_any_failed_unlink_everything_acknowledged_is_there(void **state)
{
    (void)state;
    fail_every_call(FAULT_NAME, EIO, false, false);
}

static void a_ckpt_that_does_not_fit_leaves_everything_dirty_and_the_next_run_succeeds(void **state)
{
    (void)state;
    signal(SIGXFSZ, SIG_IGN);
    struct database *db = busy_database();
    struct rlimit old, small = {0};
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = old;
    small.rlim_cur =
        3 * BLOCK_BYTES; /* the .ckpt has more; what exists may be overwritten up to it */
    take_image();
    assert_int_equal(wal_prepare(db->wal, &err), ERR_OK);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    enum err_code rc = checkpoint_run(db, &err);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(rc, ERR_STORAGE_FULL);
    assert_false(file_exists(data_fd, "db.ckpt"));
    assert_true(database_is_dirty(db));
    assert_model(db, &m);
    model_put(db, &m, 0, 12, 8);
    model_checkpoint(db);
    model_adopt_image();
    assert_model_in(image_fd, &m);
    model_close(db);
    assert_model_in(data_fd, &m);
}

/* Several failed ones in a row, with writes between them: what was fixed first must not be lost. */
static void a_ckpt_that_never_fits_does_not_use_up_the_log(void **state)
{
    (void)state;
    signal(SIGXFSZ, SIG_IGN);
    struct database *db = busy_database();
    struct rlimit old, small;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = old;
    small.rlim_cur = 3 * BLOCK_BYTES;
    for (uint32_t round = 0; round < 100; round++) {
        assert_int_equal(wal_prepare(db->wal, &err), ERR_OK);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
        enum err_code rc = checkpoint_run(db, &err);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
        assert_int_equal(rc, ERR_STORAGE_FULL);
        assert_false(file_exists(data_fd, "db.ckpt"));
        model_put(db, &m, round % 10, 12, 8);
    }
    assert_true(wal_segments(db->wal) < 5);
    model_checkpoint(db);
    model_close(db);
    assert_model_in(data_fd, &m);
}

static void failed_checkpoints_in_a_row_add_up(void **state)
{
    (void)state;
    struct database *db = busy_database();
    int calls = 0;
    for (uint32_t round = 0; round < 30; round++) {
        faults_arm(FAULT_WRITE | FAULT_ALLOCATE, (int)(round % 3), ENOSPC);
        enum err_code rc = checkpoint_run(db, &err);
        calls += faults_disarm();
        if (rc) assert_int_equal(rc, ERR_STORAGE_FULL);
        if (rc == ERR_OK && round > 5) break;
        model_put(db, &m, round, round + 4, round + 20);
        take_image();
        assert_model_in(image_fd, &m);
    }
    assert_true(calls > 3);
    model_checkpoint(db);
    model_adopt_image();
    assert_model_in(image_fd, &m);
    model_close(db);
}

/* ---- writers meanwhile ---- */

static struct {
    struct database *db;
    int at_call, writes;
} between;

static void *write_between(void *arg)
{
    (void)arg;
    struct err e;
    uint64_t lsn;
    if (!model_try_put(between.db, &m, 1, 33, 50, &lsn, &e) &&
        !model_try_delete(between.db, &m, 28, 44, &lsn, &e))
        between.writes++;
    return NULL;
}

static void write_at_call(int call)
{
    pthread_t thread;
    if (call != between.at_call || lock_ranks_held >> LOCK_DATABASE) return;
    assert_int_equal(pthread_create(&thread, NULL, write_between, NULL), 0);
    pthread_join(thread, NULL);
}

static void a_write_at_any_moment_of_a_checkpoint_goes_into_the_next(void **state)
{
    (void)state;
    between.writes = 0;
    for (between.at_call = 0;; between.at_call++) {
        for_each_file(data_fd, remove_file);
        between.db = busy_database();
        struct model then = m;
        int writes = between.writes;
        faults_arm(FAULT_ANY, -1, 0);
        faults.before = write_at_call;
        enum err_code rc = checkpoint_run(between.db, &err);
        int calls = faults_disarm();
        assert_int_equal(rc, ERR_OK);
        assert_model(between.db, &m);
        if (between.writes > writes) {
            /* The first calls come before the state is fixed: then it is in this one. */
            char why[300];
            model_adopt_image();
            if (!model_matches_dir(image_fd, &then, why)) assert_model_in(image_fd, &m);
        }
        model_checkpoint(between.db);
        model_adopt_image();
        assert_model_in(image_fd, &m);
        model_close(between.db);
        assert_model_in(data_fd, &m);
        if (between.at_call >= calls) break;
    }
    assert_true(between.writes > 5);
}

enum { VALUES = 4000 };
static struct {
    struct database *db;
    _Atomic bool stop;
    _Atomic uint64_t lsn_of[VALUES];
    _Atomic uint32_t last;
    _Atomic int bad;
} busy;

static void *keep_writing(void *arg)
{
    (void)arg;
    struct model mine = {0};
    struct err e;
    for (uint32_t value = 1; value < VALUES && !atomic_load(&busy.stop); value++) {
        uint64_t lsn = 0;
        /* All rows in one write: no state between two values exists. */
        if (model_try_put(busy.db, &mine, 0, MODEL_ROWS - 1, value, &lsn, &e))
            atomic_fetch_add(&busy.bad, 1);
        atomic_store(&busy.lsn_of[value], lsn);
        atomic_store(&busy.last, value);
    }
    return NULL;
}

static void a_checkpoint_among_writers_is_exactly_the_state_at_its_lsn(void **state)
{
    (void)state;
    memset(&busy, 0, sizeof busy);
    busy.db = new_database();
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, keep_writing, NULL), 0);
    while (atomic_load(&busy.last) == 0)
        ;
    int checked = 0;
    for (int round = 0; round < 25; round++) {
        model_checkpoint(busy.db);
        epoch_collect();
        model_adopt_image(); /* while the writer goes on */
        struct database *copy = model_open(image_fd);
        uint64_t lsn = atomic_load(&copy->checkpoint_lsn);
        struct model then = {0};
        /* The writer may be about to note it. */
        for (uint32_t value = 1; value < VALUES && !then.value[0]; value++)
            if (atomic_load(&busy.lsn_of[value]) == lsn)
                for (int n = 0; n < MODEL_ROWS; n++)
                    then.value[n] = value;
        if (then.value[0]) {
            checked++;
            char why[300];
            bool good = model_matches(copy, &then, why);
            if (!good) {
                atomic_store(&busy.stop, true);
                pthread_join(thread, NULL);
                fail_msg("LSN %d: %s", (int)lsn, why);
            }
        }
        model_close(copy);
    }
    atomic_store(&busy.stop, true);
    pthread_join(thread, NULL);
    assert_true(checked > 5);
    assert_int_equal(atomic_load(&busy.bad), 0);
    for (int n = 0; n < MODEL_ROWS; n++)
        m.value[n] = atomic_load(&busy.last);
    assert_model(busy.db, &m);
    model_close(busy.db);
    assert_model_in(data_fd, &m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        temp_dir_test(after_a_checkpoint_the_file_alone_is_the_database),
        temp_dir_test(a_checkpoint_of_nothing_new_touches_nothing),
        temp_dir_test(after_a_checkpoint_an_opening_replays_nothing),
        temp_dir_test(a_clean_close_makes_both_superblocks_alike),
        temp_dir_test(many_checkpoints_do_not_make_the_file_grow),
        temp_dir_test(a_checkpoint_does_not_write_what_could_not_be_read),
        temp_dir_test(a_checkpoint_gives_private_pages_back),
        temp_dir_test(a_kill_before_any_system_call_of_a_checkpoint_loses_nothing),
        temp_dir_test(a_complete_ckpt_finishes_the_file_even_if_all_of_the_file_is_old),
        temp_dir_test(a_complete_ckpt_leaves_both_superblocks_alike),
        temp_dir_test(a_complete_ckpt_is_applied_again_without_harm),
        temp_dir_test(an_incomplete_ckpt_is_ignored_and_the_log_redoes_it),
        temp_dir_test(a_ckpt_with_any_damage_is_ignored_and_the_log_redoes_it),
        temp_dir_test(the_ckpt_of_another_database_is_ignored),
        temp_dir_test(an_older_file_beside_a_newer_ckpt_is_refused),
        temp_dir_test(an_older_ckpt_is_ignored),
        temp_dir_test(after_any_failed_sync_everything_acknowledged_is_there),
        temp_dir_test(after_any_failed_write_everything_acknowledged_is_there),
        temp_dir_test(after_any_failed_unlink_everything_acknowledged_is_there),
        temp_dir_test(a_ckpt_that_does_not_fit_leaves_everything_dirty_and_the_next_run_succeeds),
        temp_dir_test(a_ckpt_that_never_fits_does_not_use_up_the_log),
        temp_dir_test(failed_checkpoints_in_a_row_add_up),
        temp_dir_test(a_write_at_any_moment_of_a_checkpoint_goes_into_the_next),
        temp_dir_test(a_checkpoint_among_writers_is_exactly_the_state_at_its_lsn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

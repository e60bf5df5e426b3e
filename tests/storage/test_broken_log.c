/* A log that cannot be written or synced: what was acknowledged stays, what was not is hidden. */
#include "tests/storage/faults.h"
#include "tests/storage/fixture.h"

#include <stdatomic.h>

#include "storage/database_private.h"
#include "storage/filter/filter.h"

enum { IDS = 40 };

struct fixture {
    char *dir, *image;
    struct service *svc;
    struct database *db;
};

static struct err err;

static struct service *open_service(const char *dir)
{
    struct service_options options = test_options(dir);
    struct service *svc = NULL;
    options.wal_sync_interval_ms = 3600000; /* nobody syncs but the test */
    CHECK_OK(service_open(&options, &svc, &err));
    return svc;
}

static int set_up(void **state)
{
    struct fixture *fx = calloc(1, sizeof *fx);
    assert_non_null(fx);
    fx->dir = test_dir_new();
    fx->image = test_dir_new();
    fx->svc = open_service(fx->dir);
    test_create(fx->svc, "a", 2, METRIC_EUCLIDEAN);
    fx->db = test_acquire(fx->svc, "a");
    *state = fx;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *fx = *state;
    faults_disarm();
    service_release(fx->db);
    if (service_close(fx->svc, &err)) err.msg[0] = '\0'; /* what is read-only is not flushed */
    test_dir_remove(fx->dir);
    test_dir_remove(fx->image);
    free(fx);
    return 0;
}

static struct vector_id number_id(uint64_t number)
{
    return (struct vector_id){.number = number};
}

static enum err_code try_put(struct fixture *fx, uint64_t number, float first, uint64_t *lsn)
{
    float vector[2] = {first, 0};
    struct row_input row = {.id = number_id(number), .vector = vector};
    return database_put(fx->db, &row, 1, 2, true, lsn, &err);
}

static void make_durable(struct fixture *fx)
{
    CHECK_OK(wal_sync(fx->db->wal, &err));
}

static void fail_the_sync(struct fixture *fx)
{
    faults_arm(FAULT_SYNC, 0, EIO);
    assert_int_equal(wal_sync(fx->db->wal, &err), ERR_READ_ONLY);
    faults_disarm();
}

/* What a database should hold: the first number of each row, 0: there is none. */
struct rows {
    float first[IDS];
    uint64_t count;
};

static void set_row(struct rows *rows, uint64_t id, float first)
{
    rows->count += (first != 0) - (rows->first[id] != 0);
    rows->first[id] = first;
}

struct listed {
    const struct rows *rows;
    uint64_t count;
};

static bool is_expected(void *ctx, const struct row *row)
{
    struct listed *l = ctx;
    assert_true(row->id.number < IDS);
    assert_true(l->rows->first[row->id.number] == row->vector[0]);
    l->count++;
    return true;
}

/* A filter that every row matches, new and used before. */
static void check_filter(struct reader *r, const struct rows *rows)
{
    struct arena arena = {0};
    struct value zero = {.kind = VALUE_NUMBER, .number = number_from_u64(0)};
    struct filter_node node = {.op = FILTER_GTE, .values = &zero, .value_count = 1, .where = "id"};
    const struct filter *filter;
    CHECK_OK(filter_compile(&node, NULL, &arena, &filter, &err));
    for (int use = 0; use < 3; use++) {
        struct filter_rows found;
        CHECK_OK(filter_find_rows(r, filter, true, &found, &err));
        assert_int_equal(found.count, rows->count);
        filter_rows_deinit(&found);
    }
    arena_free(&arena);
}

/* Every way to read finds exactly `rows`. */
static void check_reader(struct reader *r, const struct rows *rows)
{
    struct listed listed = {.rows = rows};
    struct search_hit hits[IDS];
    struct row row;
    bool more;
    size_t hit_count;
    for (uint64_t id = 0; id < IDS; id++) {
        struct vector_id vector_id = number_id(id);
        enum err_code rc = reader_get(r, &vector_id, &row, &err);
        assert_int_equal(rc, rows->first[id] != 0 ? ERR_OK : ERR_VECTOR_NOT_FOUND);
        if (!rc) assert_true(row.vector[0] == rows->first[id]);
    }
    CHECK_OK(reader_list(r, NULL, NULL, 0, SIZE_MAX, is_expected, &listed, &more, &err));
    assert_int_equal(listed.count, rows->count);
    assert_int_equal(reader_count(r), rows->count);
    float zero[2] = {0, 0};
    struct search_query query = {.vector = zero, .top_k = IDS};
    CHECK_OK(reader_search(r, &query, true, hits, &hit_count, NULL, &err));
    assert_int_equal(hit_count, rows->count);
    for (size_t i = 0; i < hit_count; i++)
        assert_true(hits[i].row.vector[0] == rows->first[hits[i].row.id.number]);
    check_filter(r, rows);
}

static void check_rows(struct fixture *fx, const struct rows *rows)
{
    struct reader r;
    reader_begin(fx->db, &r);
    check_reader(&r, rows);
    reader_end(&r);
}

/* ---- a failed sync ---- */

static void rows_that_were_not_acknowledged_are_hidden_and_what_they_replaced_is_back(void **state)
{
    struct fixture *fx = *state;
    struct rows rows = {0};
    for (uint64_t id = 1; id <= 6; id++) {
        test_put_number(fx->db, id, (float)id);
        set_row(&rows, id, (float)id);
    }
    make_durable(fx);
    test_put_number(fx->db, 1, 100);   /* replaced */
    test_put_number(fx->db, 1, 101);   /* twice    */
    test_delete(fx->db, number_id(2)); /* deleted  */
    test_delete(fx->db, number_id(3)); /* deleted and made again */
    test_put_number(fx->db, 3, 103);
    test_put_number(fx->db, 7, 107); /* new                    */
    test_put_number(fx->db, 8, 108); /* new and gone again     */
    test_delete(fx->db, number_id(8));
    fail_the_sync(fx);
    check_rows(fx, &rows);
    struct database_info info = test_info(fx->svc, "a");
    assert_int_equal(info.vector_count, 6);
    assert_int_equal(info.last_lsn, 6);
}

static void a_reader_that_had_begun_keeps_its_snapshot(void **state)
{
    struct fixture *fx = *state;
    struct rows durable = {0}, seen;
    test_put_number(fx->db, 1, 1);
    set_row(&durable, 1, 1);
    make_durable(fx);
    seen = durable;
    test_put_number(fx->db, 2, 2);
    set_row(&seen, 2, 2);
    struct reader r;
    reader_begin(fx->db, &r);
    check_reader(&r, &seen); /* from now on it is known which rows match */
    fail_the_sync(fx);
    check_reader(&r, &seen);
    reader_end(&r);
    check_rows(fx, &durable);
}

static void acknowledged_by_periodic_durability_stays_visible(void **state)
{
    struct fixture *fx = *state;
    struct rows rows = {0};
    test_put_number(fx->db, 1, 1);
    set_row(&rows, 1, 1);
    make_durable(fx);
    uint64_t lsn = test_put_number(fx->db, 2, 2);
    set_row(&rows, 2, 2);
    assert_true(database_await(fx->db, lsn, DURABILITY_PERIODIC, NULL, NULL));
    lsn = test_put_number(fx->db, 3, 3); /* its answer has not left */
    fail_the_sync(fx);
    check_rows(fx, &rows);
    assert_int_equal(database_wait(fx->db, lsn, DURABILITY_PERIODIC, &err), ERR_READ_ONLY);
    assert_int_equal(database_wait(fx->db, lsn - 1, DURABILITY_PERIODIC, &err), ERR_OK);
}

struct told {
    struct database *db;
    _Atomic int calls, refused, visible;
};

static void tell(void *ctx, enum err_code rc)
{
    struct told *t = ctx;
    struct err e;
    struct reader r;
    struct row row;
    struct vector_id id = number_id(2);
    reader_begin(t->db, &r);
    if (reader_get(&r, &id, &row, &e) == ERR_OK) atomic_fetch_add(&t->visible, 1);
    reader_end(&r);
    if (rc == ERR_READ_ONLY) atomic_fetch_add(&t->refused, 1);
    atomic_fetch_add(&t->calls, 1);
}

static bool all_told(void *ctx)
{
    return atomic_load(&((struct told *)ctx)->calls) == 3;
}

static void whoever_waits_is_told_when_the_rows_are_hidden(void **state)
{
    struct fixture *fx = *state;
    struct told told = {.db = fx->db};
    test_put_number(fx->db, 1, 1);
    make_durable(fx);
    uint64_t lsn = test_put_number(fx->db, 2, 2);
    faults_arm(FAULT_SYNC, 0, EIO);
    faults.all_threads = true;
    for (int i = 0; i < 3; i++)
        assert_false(database_await(fx->db, lsn, DURABILITY_SYNCED, tell, &told));
    assert_true(test_until(all_told, &told));
    assert_int_equal(faults_disarm(), 1); /* one failed fdatasync, and never another one */
    assert_int_equal(atomic_load(&told.refused), 3);
    assert_int_equal(atomic_load(&told.visible), 0);
}

static void the_database_is_read_only_and_takes_no_checkpoint_until_it_is_opened_again(void **state)
{
    struct fixture *fx = *state;
    uint64_t lsn;
    size_t deleted;
    double ms;
    struct vector_id one = number_id(1);
    test_put_number(fx->db, 1, 1);
    make_durable(fx);
    test_put_number(fx->db, 2, 2);
    fail_the_sync(fx);
    faults_arm(FAULT_ANY, -1, 0);
    faults.all_threads = true;
    assert_int_equal(try_put(fx, 3, 3, &lsn), ERR_READ_ONLY);
    assert_int_equal(database_delete(fx->db, &one, 1, true, &deleted, &lsn, &err), ERR_READ_ONLY);
    assert_int_equal(service_flush(fx->svc, "a", &ms, &err), ERR_READ_ONLY);
    assert_int_equal(wal_sync(fx->db->wal, &err), ERR_READ_ONLY);
    assert_int_equal(faults_disarm(), 0); /* nothing was written, named or synced */
    assert_false(test_file_exists(fx->dir, "a.ckpt"));
    assert_int_equal(database_wait(fx->db, 1, DURABILITY_SYNCED, &err), ERR_OK);
    assert_int_equal(database_wait(fx->db, 2, DURABILITY_SYNCED, &err), ERR_READ_ONLY);

    service_release(fx->db);
    assert_int_equal(service_close(fx->svc, &err), ERR_READ_ONLY);
    fx->svc = open_service(fx->dir);
    fx->db = test_acquire(fx->svc, "a");
    assert_true(test_first(fx->db, one) == 1);
    test_put_number(fx->db, 3, 3);
    make_durable(fx);
}

/* Any history, with checkpoints and slots that are used again: readers fall back to exactly the
 * rows of the last durable write. */
static void a_fall_back_is_the_state_of_the_last_durable_write(void **state)
{
    struct fixture *fx = *state;
    for (uint64_t seed = 1; seed <= 60; seed++) {
        uint64_t random = seed;
        struct rows now = {0}, durable;
        char name[16];
        double ms;
        snprintf(name, sizeof name, "d%d", (int)seed);
        service_release(fx->db);
        test_create(fx->svc, name, 2, METRIC_EUCLIDEAN);
        fx->db = test_acquire(fx->svc, name);
        durable = now;
        size_t steps = 50 + test_random(&random) % 300;
        for (size_t i = 0; i < steps; i++) {
            uint64_t id = test_random(&random) % IDS, what = test_random(&random) % 100;
            if (what < 55) {
                float first = (float)(1 + test_random(&random) % 100000);
                test_put_number(fx->db, id, first);
                set_row(&now, id, first);
            } else if (what < 95) {
                assert_int_equal(test_delete(fx->db, number_id(id)), now.first[id] != 0);
                set_row(&now, id, 0);
            } else if (what < 98) {
                make_durable(fx);
                durable = now;
            } else {
                CHECK_OK(service_flush(fx->svc, name, &ms, &err));
                durable = now;
            }
        }
        check_rows(fx, &now);
        test_put_number(fx->db, 0, 7); /* so that there is something to sync */
        fail_the_sync(fx);
        check_rows(fx, &durable);
    }
}

/* A page that never reached the disk may leave the page cache at any later time. */
static void lose_row(struct fixture *fx, const float vector[2])
{
    char path[768];
    snprintf(path, sizeof path, "%s/a.jvdb", fx->dir);
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    struct stat st;
    assert_int_equal(fstat(fd, &st), 0);
    char *bytes = malloc((size_t)st.st_size);
    assert_non_null(bytes);
    assert_int_equal(pread(fd, bytes, (size_t)st.st_size, 0), st.st_size);
    char *row = memmem(bytes, (size_t)st.st_size, vector, 2 * sizeof vector[0]);
    assert_non_null(row);
    assert_int_equal(pwrite(fd, "\0\0\0\0\0\0\0\0", 8, row - bytes), 8);
    free(bytes);
    close(fd);
}

static void after_a_failed_sync_of_the_file_no_lost_page_is_served(void **state)
{
    struct fixture *fx = *state;
    struct reader r;
    struct row row;
    struct vector_id id = number_id(1);
    const float vector[2] = {12345, 0};
    double ms;
    test_put_number(fx->db, 1, vector[0]);
    make_durable(fx);
    assert_true(test_first(fx->db, id) == vector[0]); /* its checksum was compared */
    for (int i = 0; i < 3; i++) { /* the first ones make a segment of the log to spare */
        test_put_number(fx->db, 2, 2);
        faults_arm(FAULT_SYNC, i < 2 ? -1 : 2, EIO); /* behind both segments of the log */
        assert_int_equal(service_flush(fx->svc, "a", &ms, &err), i < 2 ? ERR_OK : ERR_READ_ONLY);
        faults_disarm();
    }
    assert_false(wal_is_broken(fx->db->wal));
    assert_true(test_first(fx->db, id) == vector[0]);
    lose_row(fx, vector);
    reader_begin(fx->db, &r);
    assert_int_equal(reader_get(&r, &id, &row, &err), ERR_CORRUPT);
    reader_end(&r);
}

/* ---- a failed write ---- */

static void a_write_that_the_disk_refuses_breaks_the_log(void **state)
{
    struct fixture *fx = *state;
    struct told told = {.db = fx->db};
    struct rows rows = {0};
    uint64_t lsn, ignored;
    test_put_number(fx->db, 1, 1);
    set_row(&rows, 1, 1);
    make_durable(fx);
    lsn = test_put_number(fx->db, 2, 2);
    faults_arm(FAULT_WRITE, 1, EIO); /* behind the row's own */
    assert_int_equal(try_put(fx, 3, 3, &ignored), ERR_READ_ONLY);
    faults_disarm();
    for (int i = 0; i < 3; i++)
        assert_false(database_await(fx->db, lsn, DURABILITY_SYNCED, tell, &told));
    assert_true(test_until(all_told, &told));
    assert_int_equal(atomic_load(&told.refused), 3);
    check_rows(fx, &rows);
    assert_int_equal(try_put(fx, 4, 4, &ignored), ERR_READ_ONLY);
}

static void a_write_for_which_there_is_no_room_is_refused_and_the_next_one_taken(void **state)
{
    struct fixture *fx = *state;
    struct rows rows = {0};
    uint64_t lsn;
    test_put_number(fx->db, 1, 1);
    set_row(&rows, 1, 1);
    for (int fail_at = 0; fail_at < 2; fail_at++) { /* the row's write, the log's */
        faults_arm(FAULT_WRITE, fail_at, ENOSPC);
        assert_int_equal(try_put(fx, 2, 2, &lsn), ERR_STORAGE_FULL);
        faults_disarm();
        check_rows(fx, &rows);
    }
    test_put_number(fx->db, 3, 3);
    set_row(&rows, 3, 3);
    make_durable(fx);
    check_rows(fx, &rows);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(rows_that_were_not_acknowledged_are_hidden_and_what_they_replaced_is_back),
        TEST(a_reader_that_had_begun_keeps_its_snapshot),
        TEST(acknowledged_by_periodic_durability_stays_visible),
        TEST(whoever_waits_is_told_when_the_rows_are_hidden),
        TEST(the_database_is_read_only_and_takes_no_checkpoint_until_it_is_opened_again),
        TEST(a_fall_back_is_the_state_of_the_last_durable_write),
        TEST(after_a_failed_sync_of_the_file_no_lost_page_is_served),
        TEST(a_write_that_the_disk_refuses_breaks_the_log),
        TEST(a_write_for_which_there_is_no_room_is_refused_and_the_next_one_taken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

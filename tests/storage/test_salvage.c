/* What is rescued of a damaged file: all that can be proven, and nothing else. */
#include "storage/salvage.h"

#include "storage/accept.h"
#include "storage/image.h"
#include "storage/verify.h"
#include "tests/storage/fixture.h"

enum { DIM = 8, ROWS = 700 };

static void open_dir(const char *dir, int *fd)
{
    *fd = open(dir, O_RDONLY | O_DIRECTORY);
    assert_true(*fd >= 0);
}

/* Rows 1 .. ROWS with their number as first component; even ones twice, every tenth deleted. */
static void fill(const char *dir)
{
    struct err err;
    double ms;
    struct service *svc = test_service_open(dir);
    test_create(svc, "docs", DIM, METRIC_MANHATTAN);
    struct database *db = test_acquire(svc, "docs");
    for (uint64_t i = 1; i <= ROWS; i++)
        test_put_number(db, i, (float)i * (i % 2 ? 1 : -1));
    CHECK_OK(service_flush(svc, "docs", &ms, &err));
    for (uint64_t i = 2; i <= ROWS; i += 2)
        test_put_number(db, i, (float)i);
    for (uint64_t i = 10; i <= ROWS; i += 10)
        test_delete(db, (struct vector_id){.number = i});
    service_release(db);
    test_service_close(svc);
}

static void overwrite(const char *dir, uint64_t at, size_t len)
{
    char path[768], zeros[BLOCK_BYTES] = {0};
    snprintf(path, sizeof path, "%s/docs.jvdb", dir);
    int fd = open(path, O_WRONLY);
    assert_int_equal(pwrite(fd, zeros, len, (off_t)at), len);
    close(fd);
}

/* Where a cell lies. */
static uint64_t place(const char *dir, enum region_id region, uint64_t cell)
{
    struct err err;
    struct image img;
    int fd;
    open_dir(dir, &fd);
    CHECK_OK(image_open(fd, "docs", false, &img, &err));
    assert_true(image_use(&img, &img.superblocks[0], true));
    uint64_t at = image_place(&img, region, cell);
    image_close(&img);
    close(fd);
    return at;
}

static struct salvage_result salvage(const char *dir)
{
    struct err err;
    struct salvage_result r;
    int fd;
    open_dir(dir, &fd);
    struct salvage_options o = {
        .dir_fd = fd, .name = "docs", .output_dir_fd = fd, .output_dir = dir, .output_name = "new"};
    CHECK_OK(salvage_run(&o, &r, &err));
    close(fd);
    return r;
}

/* Every row of "new" is the newest version of what was written; how many there are. */
static uint64_t check_new(const char *dir)
{
    uint64_t count = 0;
    struct service *svc = test_service_open(dir);
    struct database *db = test_acquire(svc, "new");
    assert_int_equal(database_schema(db)->metric, METRIC_MANHATTAN);
    for (uint64_t i = 1; i <= ROWS + 5; i++) {
        float first = test_first(db, (struct vector_id){.number = i});
        if (isnan(first)) continue;
        assert_true(first == (float)i && i % 10);
        count++;
    }
    assert_int_equal(test_count(db), count);
    service_release(db);
    test_service_close(svc);
    return count;
}

static void a_whole_file_is_rescued_whole(void **state)
{
    (void)state;
    char *dir = test_dir_new();
    fill(dir);
    struct salvage_result r = salvage(dir);
    assert_true(r.complete && r.expected_known);
    assert_int_equal(r.rows_rescued, ROWS - ROWS / 10);
    assert_int_equal(check_new(dir), ROWS - ROWS / 10);
    test_dir_remove(dir);
}

static void one_superblock_is_enough_and_none_is_too(void **state)
{
    (void)state;
    for (int gone = 1; gone <= 3; gone++) {
        char *dir = test_dir_new();
        fill(dir);
        for (int i = 0; i < 2; i++)
            if (gone >> i & 1) overwrite(dir, (uint64_t)i * BLOCK_BYTES, BLOCK_BYTES);
        struct salvage_result r = salvage(dir);
        assert_int_equal(r.complete, gone != 3); /* nothing vouches for the manifest then */
        assert_int_equal(r.rows_rescued, ROWS - ROWS / 10);
        char path[768];
        snprintf(path, sizeof path, "%s/docs.jvdb", dir);
        assert_int_equal(unlink(path), 0);
        assert_int_equal(check_new(dir), ROWS - ROWS / 10);
        test_dir_remove(dir);
    }
}

static void a_lost_vector_takes_no_other_along(void **state)
{
    (void)state;
    char *dir = test_dir_new();
    fill(dir);
    overwrite(dir, place(dir, REGION_VECTORS, 20), 4); /* of vector 21 */
    struct salvage_result r = salvage(dir);
    assert_false(r.complete);
    assert_int_equal(r.rows_lost, 1);
    assert_int_equal(check_new(dir), ROWS - ROWS / 10 - 1);
    test_dir_remove(dir);
}

static void slots_of_a_damaged_block_are_tried_one_by_one(void **state)
{
    (void)state;
    char *dir = test_dir_new();
    fill(dir);
    uint64_t at = place(dir, REGION_SLOTS, 20);
    overwrite(dir, at, sizeof(struct slot));
    struct salvage_result r = salvage(dir);
    assert_false(r.complete);
    assert_int_equal(r.rows_lost, 1);
    assert_true(r.rows_in_doubt > 20);
    test_dir_remove(dir);
}

static void an_output_that_exists_is_left_alone(void **state)
{
    (void)state;
    struct err err;
    struct salvage_result r;
    char *dir = test_dir_new();
    fill(dir);
    int fd;
    open_dir(dir, &fd);
    struct salvage_options o = {.dir_fd = fd,
                                .name = "docs",
                                .output_dir_fd = fd,
                                .output_dir = dir,
                                .output_name = "docs"};
    assert_int_equal(salvage_run(&o, &r, &err), ERR_DATABASE_EXISTS);
    close(fd);
    test_dir_remove(dir);
}

/* ---- accept ---- */

static void an_older_copy_becomes_the_database_when_it_is_accepted(void **state)
{
    (void)state;
    struct err err;
    double ms;
    char *dir = test_dir_new(), *copy = test_dir_new();
    fill(dir);
    test_file_copy(dir, "docs.jvdb", copy, "docs.jvdb");
    struct service *svc = test_service_open(dir);
    struct database *db = test_acquire(svc, "docs");
    test_put_number(db, 9999, 1);
    CHECK_OK(service_flush(svc, "docs", &ms, &err));
    test_put_number(db, 9998, 1);
    service_release(db);
    test_service_close(svc);
    test_file_copy(copy, "docs.jvdb", dir, "docs.jvdb");
    svc = test_service_open(dir);
    assert_int_equal(service_acquire(svc, "docs", true, &db, &err), ERR_QUARANTINED);
    test_service_close(svc);

    int fd;
    open_dir(dir, &fd);
    for (int i = 0; i < 2; i++) { /* again does no harm */
        struct accept_result r;
        CHECK_OK(accept_run(fd, "docs", &r, &err));
        struct verify_result *v = calloc(1, sizeof *v);
        struct verify_options o = {.dir_fd = fd, .name = "docs"};
        CHECK_OK(verify_files(&o, v, &err));
        assert_int_equal(v->error_count, 0);
        free(v);
    }
    close(fd);
    for (int i = 0; i < 2; i++) {
        svc = test_service_open(dir);
        db = test_acquire(svc, "docs");
        assert_int_equal(test_count(db), ROWS - ROWS / 10 + (uint64_t)i);
        assert_true(isnan(test_first(db, (struct vector_id){.number = 9999})));
        test_put_number(db, 8888, 1);
        service_release(db);
        test_service_close(svc);
    }
    test_dir_remove(copy);
    test_dir_remove(dir);
}

static int set_aside_files(const char *path)
{
    int n = 0;
    DIR *dir = opendir(path);
    assert_non_null(dir);
    for (struct dirent *d; (d = readdir(dir));)
        n += strchr(d->d_name, '~') != NULL;
    closedir(dir);
    return n;
}

static void what_was_set_aside_is_never_written_over(void **state)
{
    (void)state;
    struct err err;
    char *dir = test_dir_new();
    int fd, expected = 0;
    fill(dir);
    open_dir(dir, &fd);
    for (int i = 0; i < 12; i++) { /* some of them in the same second */
        struct accept_result r;
        CHECK_OK(accept_run(fd, "docs", &r, &err));
        assert_true(r.files_set_aside > 0);
        expected += (int)r.files_set_aside;
        assert_int_equal(set_aside_files(dir), expected);
    }
    close(fd);
    struct service *svc = test_service_open(dir);
    struct database *db = test_acquire(svc, "docs");
    assert_int_equal(test_count(db), ROWS - ROWS / 10);
    service_release(db);
    test_service_close(svc);
    test_dir_remove(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_whole_file_is_rescued_whole),
        cmocka_unit_test(one_superblock_is_enough_and_none_is_too),
        cmocka_unit_test(a_lost_vector_takes_no_other_along),
        cmocka_unit_test(slots_of_a_damaged_block_are_tried_one_by_one),
        cmocka_unit_test(an_output_that_exists_is_left_alone),
        cmocka_unit_test(an_older_copy_becomes_the_database_when_it_is_accepted),
        cmocka_unit_test(what_was_set_aside_is_never_written_over),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

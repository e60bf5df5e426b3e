/* Verification of codes and links: what is bad is counted, and is no damage of rows. */
#include "storage/base/crc32c.h"
#include "storage/verify.h"
#include "tests/storage/index/graph_db.h"

#include <pthread.h>

enum { ROWS = 500 };

static struct err err;

static struct database *written_database(void)
{
    graph_db_create();
    struct database *db = graph_db_open();
    graph_db_put(db, 0, ROWS, 1);
    graph_db_link(db, CODEC_INT8);
    if (checkpoint_run(db, &err)) fail_msg("%s", err.msg);
    return db;
}

static const struct index_check *verify(int dir, bool live)
{
    static _Thread_local struct verify_result r;
    char text[320] = "";
    struct verify_options o = {.dir_fd = dir, .name = "db", .uuid = graph_db_uuid, .live = live};
    if (verify_files(&o, &r, &err)) fail_msg("%s", err.msg);
    if (r.errors_kept) verify_error_text(&r.errors[0], text, sizeof text);
    if (r.error_count) fail_msg("%s", text); /* of rows: never in these tests */
    assert_true(r.complete);
    return &r.index;
}

static uint64_t place_of(struct database *db, enum region_id region, uint64_t cell)
{
    struct region_place p = region_place(&db->store->file.shapes[region], cell);
    return atomic_load(&db->store->file.view)->extents[region][p.extent] + p.offset;
}

static void every_linked_row_has_a_code_and_links(void **state)
{
    (void)state;
    struct database *db = written_database();
    graph_db_put(db, ROWS, ROWS + 50, 1); /* pending */
    graph_db_put(db, 0, 20, 2);           /* pending, and as many dead that are linked */
    if (checkpoint_run(db, &err)) fail_msg("%s", err.msg);
    for (int live = 0; live < 2; live++) {
        const struct index_check *check = verify(data_fd, live);
        assert_int_equal(check->cells_checked, 2 * (ROWS - 20));
        assert_int_equal(check->cells_bad, 0);
        assert_false(check->is_unusable);
    }
    graph_db_close(db);
}

static void a_database_without_a_graph_has_nothing_to_check(void **state)
{
    (void)state;
    graph_db_create();
    struct database *db = graph_db_open();
    graph_db_put(db, 0, 50, 1);
    graph_db_stop(db);
    const struct index_check *check = verify(data_fd, false);
    assert_int_equal(check->cells_checked, 0);
    assert_false(check->is_unusable);
}

static void what_is_bad_is_counted_and_told(void **state)
{
    (void)state;
    struct database *db = written_database();
    uint64_t code = place_of(db, REGION_CODES, 77) + 5, links = place_of(db, REGION_LINKS, 300) + 9;
    uint64_t many = place_of(db, REGION_CODES, 0);
    uint64_t bytes = db->store->file.shapes[REGION_CODES].cell_bytes;
    graph_db_stop(db);
    take_image();
    flip_byte(image_fd, "db.jvdb", links);
    flip_byte(image_fd, "db.jvdb", code);
    const struct index_check *check = verify(image_fd, false);
    assert_int_equal(check->cells_bad, 2);
    assert_int_equal(check->bad_kept, 2);
    assert_int_equal(check->bad[0], 77);
    assert_int_equal(check->bad[1], 300);

    uint8_t *zeros = calloc(ROWS, bytes);
    poke(image_fd, "db.jvdb", many, zeros, (INDEX_BAD_MAX + 44) * bytes);
    free(zeros);
    check = verify(image_fd, false);
    assert_int_equal(check->cells_bad, INDEX_BAD_MAX + 44 + 1);
    assert_int_equal(check->bad_kept, INDEX_BAD_MAX);
    assert_int_equal(check->cells_checked, 2 * ROWS);
}

static void memory_writes_it_again(void **state)
{
    (void)state;
    for (int all = 0; all < 2; all++) {
        struct database *db = written_database();
        flip_byte(data_fd, "db.jvdb", place_of(db, REGION_CODES, 77) + 5);
        flip_byte(data_fd, "db.jvdb", place_of(db, REGION_LINKS, 400) + 8);
        const struct index_check *check = verify(data_fd, true);
        assert_int_equal(check->cells_bad, 2);
        assert_false(index_file_is_dirty(db));
        assert_true(index_file_write_again(db, all ? NULL : check->bad, check->bad_kept));
        assert_true(index_file_is_dirty(db));
        if (checkpoint_rewrite(db, &err)) fail_msg("%s", err.msg);
        assert_int_equal(verify(data_fd, true)->cells_bad, 0);
        graph_db_close(db);
        for_each_file(data_fd, remove_file);
    }
}

static void what_is_mapped_cannot_heal_its_file(void **state)
{
    (void)state;
    struct database *db = written_database();
    graph_db_stop(db);
    db = graph_db_open();
    assert_false(index_file_write_again(db, NULL, 0));
    assert_false(index_file_is_dirty(db));
    graph_db_close(db);
}

static void a_record_that_makes_no_sense_is_told(void **state)
{
    (void)state;
    struct database *db = written_database();
    graph_db_stop(db);
    size_t len;
    uint8_t *file = file_bytes(data_fd, "db.jvdb", &len);
    struct disk_superblock sb;
    memcpy(&sb, file, sizeof sb);
    uint8_t *manifest = file + sb.manifest_at;
    uint8_t *name = memmem(manifest, sb.manifest_bytes, "index\0\0\0\0\0\0\0\0\0\0", 16);
    assert_non_null(name);
    struct disk_index *d = (void *)(name + sizeof(struct disk_manifest_record));
    d->codec = 77;
    sb.manifest_crc = crc32c(0, manifest, sb.manifest_bytes);
    sb.crc = superblock_crc(&sb);
    memcpy(file, &sb, sizeof sb);
    memcpy(file + BLOCK_BYTES, &sb, sizeof sb);
    set_file(data_fd, "db.jvdb", file, len);
    free(file);
    const struct index_check *check = verify(data_fd, false);
    assert_true(check->is_unusable);
    db = graph_db_open();
    assert_null(graph_db_graph(db));
    graph_db_check_rows(db);
    graph_db_link(db, CODEC_INT8);
    graph_db_stop(db);
    assert_int_equal(verify(data_fd, false)->cells_checked, 2 * ROWS);
}

/* ---- beside a living database ---- */

static _Atomic bool stop;

static void *write_and_link(void *arg)
{
    struct database *db = arg;
    struct err why;
    for (uint32_t value = 2; !atomic_load(&stop); value++) {
        uint32_t first = value * 37 % (ROWS - 40);
        graph_db_put(db, first, first + 40, value);
        if (value % 3 == 0) graph_db_link(db, CODEC_INT8);
        if (value % 5 == 0 && checkpoint_run(db, &why)) fail_msg("%s", why.msg);
        epoch_collect();
    }
    return NULL;
}

static void nothing_is_wrong_while_it_is_written(void **state)
{
    (void)state;
    struct database *db = written_database();
    pthread_t writer;
    atomic_store(&stop, false);
    pthread_create(&writer, NULL, write_and_link, db);
    for (int round = 0; round < 30; round++)
        assert_int_equal(verify(data_fd, true)->cells_bad, 0);
    atomic_store(&stop, true);
    pthread_join(writer, NULL);
    graph_db_close(db);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        temp_dir_test(every_linked_row_has_a_code_and_links),
        temp_dir_test(a_database_without_a_graph_has_nothing_to_check),
        temp_dir_test(what_is_bad_is_counted_and_told),
        temp_dir_test(memory_writes_it_again),
        temp_dir_test(what_is_mapped_cannot_heal_its_file),
        temp_dir_test(a_record_that_makes_no_sense_is_told),
        temp_dir_test(nothing_is_wrong_while_it_is_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

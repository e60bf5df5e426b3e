/* A compaction carries the graph over: the same neighbours under other numbers. */
#include "tests/storage/index/graph_db.h"

#include "tests/storage/images.h"

enum { ROWS = 600 };

static struct err err;
static const struct compact_options at_once;

static void compact(struct database *db)
{
    struct compact_result result;
    if (compact_run(db, &at_once, &result, &err)) fail_msg("%s", err.msg);
    assert_int_equal(result.rows, graph_db_live());
}

static void check(struct database *db)
{
    graph_db_check_graph(db);
    graph_db_check_rows(db);
    assert_int_equal(graph_db_missed(db, 1), 0);
}

/* And after the pending rows were linked. */
static void check_and_link(struct database *db)
{
    check(db);
    graph_db_link(db, CODEC_INT8);
    check(db);
}

/* Of ROWS rows every third is dead, and many were written twice; all of it is linked. */
static struct database *wasteful_database(enum codec_kind codec)
{
    graph_db_create();
    struct database *db = graph_db_open();
    graph_db_put(db, 0, ROWS, 1);
    graph_db_link(db, codec);
    graph_db_put(db, 100, 250, 2);
    graph_db_link(db, codec);
    for (uint32_t id = 0; id < ROWS; id += 3)
        graph_db_delete(db, id, id + 1);
    return db;
}

static void nothing_is_linked_again(void **state)
{
    (void)state;
    for (int codec = 0; codec < CODEC_KIND_COUNT; codec++) {
        struct database *db = wasteful_database((enum codec_kind)codec);
        compact(db);
        assert_int_equal(graph_db_info(db).indexed_count, graph_db_live());
        assert_int_equal(graph_db_info(db).pending_count, 0);
        assert_int_equal(graph_db_info(db).codec, codec);
        check(db);
        assert_false(index_file_is_dirty(db)); /* it is in the new file */
        graph_db_close(db);
        db = graph_db_open();
        assert_int_equal(graph_db_info(db).indexed_count, graph_db_live());
        graph_db_load(db);
        assert_int_equal(graph_db_info(db).pending_count, 0);
        assert_false(index_file_is_dirty(db));
        check(db);
        graph_db_close(db);
        for_each_file(data_fd, remove_file);
    }
}

static void what_was_pending_stays_pending(void **state)
{
    (void)state;
    struct database *db = wasteful_database(CODEC_INT8);
    graph_db_put(db, ROWS, ROWS + 70, 1);
    graph_db_put(db, 1, 2, 7);
    graph_db_delete(db, ROWS + 69, ROWS + 70);
    compact(db);
    assert_int_equal(graph_db_info(db).pending_count, 70);
    check(db);
    graph_db_put(db, ROWS + 70, ROWS + 90, 1);
    graph_db_delete(db, 5, 9);
    graph_db_link(db, CODEC_INT8);
    check(db);
    graph_db_stop(db);
    db = graph_db_open();
    assert_int_equal(graph_db_info(db).pending_count, 0);
    graph_db_load(db);
    check(db);
    graph_db_close(db);
}

static void a_graph_that_is_still_mapped_is_checked_first(void **state)
{
    (void)state;
    struct database *db = wasteful_database(CODEC_INT8);
    if (checkpoint_run(db, &err)) fail_msg("%s", err.msg);
    const uint64_t *extents = atomic_load(&db->store->file.view)->extents[REGION_LINKS];
    uint64_t at = extents[0] + 128 * 256;
    graph_db_close(db);
    static const uint8_t zeros[256];
    poke(data_fd, "db.jvdb", at, zeros, sizeof zeros);
    db = graph_db_open();
    compact(db);
    assert_in_range(graph_db_info(db).pending_count, 1, 8);
    check_and_link(db);
    graph_db_close(db);
}

static void rows_that_lose_most_of_their_links_are_linked_again(void **state)
{
    (void)state;
    graph_db_create();
    struct database *db = graph_db_open();
    graph_db_put(db, 0, ROWS, 1);
    graph_db_link(db, CODEC_INT8);
    /* Links that lead nowhere, and no sweep to mend them: nobody is dead. */
    struct graph *g = graph_db_graph(db);
    struct graph_arena *a = atomic_load(&g->arena);
    for (uint32_t n = 10; n < 60; n += 4) {
        struct graph_node *node = graph_node(g, a, n);
        for (uint32_t i = 0; i < (atomic_load(&node->head) & NODE_DEGREE); i++)
            if (i % 4) atomic_store(&node->links[i], UINT32_MAX - 5);
    }
    compact(db);
    assert_int_equal(graph_db_info(db).pending_count, 13);
    check_and_link(db);
    graph_db_close(db);
}

static void without_a_graph_none_is_made(void **state)
{
    (void)state;
    graph_db_create();
    struct database *db = graph_db_open();
    graph_db_put(db, 0, 100, 1);
    graph_db_delete(db, 0, 50);
    compact(db);
    assert_null(graph_db_graph(db));
    graph_db_check_rows(db);
    graph_db_close(db);
}

static void everything_dead_leaves_an_empty_graph(void **state)
{
    (void)state;
    struct database *db = wasteful_database(CODEC_INT8);
    graph_db_delete(db, 0, ROWS);
    compact(db);
    assert_int_equal(graph_db_info(db).indexed_count, 0);
    graph_db_check_rows(db);
    graph_db_put(db, 5, 90, 3);
    graph_db_link(db, CODEC_INT8);
    check(db);
    graph_db_stop(db);
    db = graph_db_open();
    graph_db_load(db);
    check(db);
    graph_db_close(db);
}

static void in_memory_it_is_carried_over_too(void **state)
{
    (void)state;
    struct database_host host = {0};
    memset(graph_db_value, 0, sizeof graph_db_value);
    struct database *db = database_new("db", &graph_db_schema, -1, &host);
    if (jvdb_file_init(&db->store->file, -1, "db", graph_db_uuid, GRAPH_DB_DIMENSION, &err))
        fail_msg("%s", err.msg);
    db->store->row_bytes = db->store->file.shapes[REGION_VECTORS].cell_bytes;
    graph_db_put(db, 0, ROWS, 1);
    graph_db_link(db, CODEC_INT8);
    graph_db_delete(db, 50, 150);
    compact(db);
    assert_int_equal(graph_db_info(db).indexed_count, ROWS - 100);
    check(db);
    graph_db_close(db);
}

/* ---- at the same time ---- */

static _Atomic bool stop;

static void *write_rows(void *arg)
{
    for (uint32_t value = 3; !atomic_load(&stop); value++) {
        uint32_t first = value * 37 % (ROWS - 20);
        graph_db_put(arg, first, first + 20, value);
        if (value % 5 == 0) graph_db_delete(arg, first, first + 7);
    }
    return NULL;
}

static void writes_go_on_meanwhile(void **state)
{
    (void)state;
    struct database *db = wasteful_database(CODEC_INT8);
    pthread_t writer;
    struct compact_result result;
    atomic_store(&stop, false);
    pthread_create(&writer, NULL, write_rows, db);
    for (int round = 0; round < 4; round++) {
        if (compact_run(db, &at_once, &result, &err)) fail_msg("%s", err.msg);
        graph_db_link(db, CODEC_INT8);
    }
    atomic_store(&stop, true);
    pthread_join(writer, NULL);
    graph_db_link(db, CODEC_INT8);
    check(db);
    graph_db_stop(db);
    db = graph_db_open();
    assert_int_equal(graph_db_info(db).pending_count, 0);
    graph_db_load(db);
    check(db);
    graph_db_close(db);
}

/* ---- kills ---- */

static void use_image(void)
{
    struct database *db = graph_db_open_in(image_fd);
    graph_db_check_rows(db);
    assert_non_null(graph_db_graph(db)); /* that of the old file or of the new one */
    graph_db_load(db);
    graph_db_check_graph(db);
    assert_int_equal(graph_db_missed(db, 17), 0);
    database_free(db);
}

static void a_kill_before_any_call_leaves_a_graph(void **state)
{
    (void)state;
    struct database *db = wasteful_database(CODEC_INT8);
    if (checkpoint_run(db, &err)) fail_msg("%s", err.msg);
    images.count = 0;
    images_watch(use_image);
    compact(db);
    faults_disarm();
    assert_true(images.count > 20);
    graph_db_close(db);
}

/* A call that fails: the old database goes on as it was, with its graph. */
static void a_compaction_that_fails_changes_nothing(void **state)
{
    (void)state;
    struct database *db = wasteful_database(CODEC_INT8);
    struct compact_result result;
    if (checkpoint_run(db, &err)) fail_msg("%s", err.msg);
    for (int at = 0;; at += 1 + at / 8) {
        faults_arm(FAULT_WRITE | FAULT_ALLOCATE, at, ENOSPC);
        enum err_code rc = compact_run(db, &at_once, &result, &err);
        int calls = faults_disarm();
        assert_non_null(graph_db_graph(db));
        graph_db_link(db, CODEC_INT8);
        check(db);
        if (calls <= at) {
            assert_int_equal(rc, ERR_OK);
            break;
        }
        assert_true(rc == ERR_OK || rc == ERR_STORAGE_FULL);
        if (rc == ERR_OK) { /* without the index in the file: it was not worth failing */
            if (checkpoint_run(db, &err)) fail_msg("%s", err.msg);
            assert_false(index_file_is_dirty(db));
        }
    }
    graph_db_close(db);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        temp_dir_test(nothing_is_linked_again),
        temp_dir_test(what_was_pending_stays_pending),
        temp_dir_test(a_graph_that_is_still_mapped_is_checked_first),
        temp_dir_test(rows_that_lose_most_of_their_links_are_linked_again),
        temp_dir_test(without_a_graph_none_is_made),
        temp_dir_test(everything_dead_leaves_an_empty_graph),
        temp_dir_test(in_memory_it_is_carried_over_too),
        temp_dir_test(writes_go_on_meanwhile),
        temp_dir_test(a_kill_before_any_call_leaves_a_graph),
        temp_dir_test(a_compaction_that_fails_changes_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

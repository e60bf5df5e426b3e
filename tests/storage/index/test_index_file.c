/* The graph in the file: it is there after a restart, and whatever is wrong with it costs no row.
 */
#include "tests/storage/index/graph_db.h"

#include <pthread.h>

#include "storage/accept.h"
#include "storage/base/guard.h"
#include "storage/salvage.h"
#include "tests/storage/images.h"

enum { ROWS = 450 };

static struct err err;

static struct database *linked_database(void)
{
    graph_db_create();
    struct database *db = graph_db_open();
    graph_db_put(db, 0, ROWS, 1);
    graph_db_link(db, CODEC_INT8);
    return db;
}

static struct database *written_database(void)
{
    struct database *db = linked_database();
    if (checkpoint_run(db, &err)) fail_msg("%s", err.msg);
    return db;
}

/* Links of all nodes, one behind the other. */
static uint32_t *all_links(struct database *db)
{
    struct graph *g = graph_db_graph(db);
    struct graph_arena *a = atomic_load(&g->arena);
    uint32_t nodes = atomic_load(&g->node_count);
    uint32_t *all = calloc((size_t)nodes * (g->degree + 1) + 1, sizeof *all), *to = all;
    for (uint32_t n = 0; n < nodes; n++, to += g->degree + 1) {
        struct graph_node *node = graph_node(g, a, n);
        *to = atomic_load(&node->head);
        for (uint32_t i = 0; i < (*to & NODE_DEGREE); i++)
            to[1 + i] = atomic_load(&node->links[i]);
    }
    return all;
}

static void after_a_restart_everything_is_linked(void **state)
{
    (void)state;
    struct database *db = linked_database();
    uint32_t *before = all_links(db);
    graph_db_stop(db);
    db = graph_db_open();
    struct vector_index_info info = graph_db_info(db);
    assert_int_equal(info.indexed_count, ROWS);
    assert_int_equal(info.pending_count, 0);
    assert_int_equal(info.state, INDEX_STATE_READY);
    assert_int_equal(info.codec, CODEC_INT8);
    for (int loaded = 0; loaded < 2; loaded++) {
        assert_int_equal(index_file_is_mapped(db->store->vectors), !loaded);
        uint32_t *after = all_links(db);
        assert_memory_equal(after, before,
                            ROWS * (graph_db_graph(db)->degree + 1) * sizeof *before);
        free(after);
        assert_int_equal(graph_db_missed(db, 3), 0);
        if (!loaded) graph_db_load(db);
    }
    graph_db_check_graph(db);
    graph_db_check_rows(db);
    assert_false(index_file_is_dirty(db));
    assert_false(checkpoint_is_due(db));
    free(before);
    graph_db_close(db);
}

static void what_was_not_linked_at_the_checkpoint_is_pending(void **state)
{
    (void)state;
    struct database *db = linked_database();
    graph_db_put(db, ROWS, ROWS + 50, 1); /* pending */
    graph_db_put(db, 10, 20, 2);          /* replaced: pending */
    graph_db_delete(db, 30, 35);
    if (checkpoint_run(db, &err)) fail_msg("%s", err.msg);
    graph_db_put(db, ROWS + 50, ROWS + 80, 1); /* only in the log */
    graph_db_delete(db, 40, 45);
    graph_db_link(db, CODEC_INT8); /* only in memory */
    graph_db_close(db);

    db = graph_db_open();
    assert_int_equal(graph_db_info(db).pending_count, 50 + 10 + 30);
    graph_db_load(db);
    assert_int_equal(graph_db_info(db).pending_count, 50 + 10 + 30);
    graph_db_check_graph(db);
    assert_int_equal(graph_db_missed(db, 3), 0);
    graph_db_link(db, CODEC_INT8);
    assert_int_equal(graph_db_info(db).pending_count, 0);
    graph_db_check_graph(db);
    graph_db_check_rows(db);
    assert_int_equal(graph_db_missed(db, 3), 0);
    graph_db_stop(db);
    db = graph_db_open();
    assert_int_equal(graph_db_info(db).pending_count, 0);
    graph_db_load(db);
    graph_db_check_graph(db);
    graph_db_close(db);
}

/* Their slots may be written to before a crash, for rows of which the log then knows nothing. */
static void rows_that_ended_before_they_were_linked_are_not_pending(void **state)
{
    (void)state;
    struct database *db = linked_database();
    graph_db_put(db, ROWS, ROWS + 50, 1);
    graph_db_delete(db, ROWS + 10, ROWS + 30);
    assert_int_equal(graph_db_info(db).pending_count, 50);
    if (checkpoint_run(db, &err)) fail_msg("%s", err.msg);
    graph_db_delete(db, ROWS, ROWS + 5); /* in the log: nobody can have written there */
    graph_db_close(db);
    db = graph_db_open();
    assert_int_equal(graph_db_info(db).pending_count, 30);
    graph_db_load(db);
    graph_db_check_graph(db);
    graph_db_link(db, CODEC_INT8);
    graph_db_check_graph(db);
    graph_db_check_rows(db);
    graph_db_close(db);
}

static void a_graph_that_grows_is_kept_by_each_checkpoint(void **state)
{
    (void)state;
    struct database *db = linked_database();
    for (uint32_t end = ROWS + 101; end < 2500; end += end / 3) {
        uint32_t live = graph_db_live();
        graph_db_put(db, live, end, 1);
        graph_db_link(db, CODEC_INT8);
        if (end % 2) {
            graph_db_stop(db);
            db = graph_db_open();
        } else if (checkpoint_run(db, &err)) {
            fail_msg("%s", err.msg);
        }
        take_image();
        struct database *copy = graph_db_open_in(image_fd);
        assert_int_equal(graph_db_info(copy).indexed_count, end);
        graph_db_load(copy);
        assert_int_equal(graph_db_info(copy).pending_count, 0);
        graph_db_check_graph(copy);
        graph_db_close(copy);
    }
    graph_db_close(db);
}

static void the_file_alone_is_a_backup_with_its_index(void **state)
{
    (void)state;
    struct database *db = linked_database();
    if (checkpoint_run(db, &err)) fail_msg("%s", err.msg);
    copy_to_image(data_fd, "db.jvdb");
    uint64_t lsn = db->last_lsn;
    graph_db_close(db);
    if (database_adopt_files(image_fd, "db", graph_db_uuid, lsn, &err)) fail_msg("%s", err.msg);
    db = graph_db_open_in(image_fd);
    assert_int_equal(graph_db_info(db).indexed_count, ROWS);
    graph_db_load(db);
    assert_int_equal(graph_db_info(db).pending_count, 0);
    graph_db_check_graph(db);
    graph_db_close(db);
}

/* Where a cell lies in the file, after a checkpoint. */
static uint64_t place_of(struct database *db, enum region_id region, uint64_t cell)
{
    struct region_place p = region_place(&db->store->file.shapes[region], cell);
    return atomic_load(&db->store->file.view)->extents[region][p.extent] + p.offset;
}

/* Open the image, use it, mend it; true if it needed to be mended. */
static bool use_damaged_image(void)
{
    struct database *db = graph_db_open_in(image_fd);
    (void)graph_db_missed(db, 7); /* anything but a crash */
    graph_db_load(db);
    bool mended = graph_db_info(db).pending_count || index_file_is_dirty(db);
    graph_db_link(db, CODEC_INT8);
    graph_db_check_graph(db);
    assert_int_equal(graph_db_missed(db, 3), 0);
    graph_db_check_rows(db);
    graph_db_stop(db);
    db = graph_db_open_in(image_fd);
    graph_db_load(db);
    assert_int_equal(graph_db_info(db).indexed_count, ROWS);
    assert_int_equal(graph_db_info(db).pending_count, 0);
    assert_false(index_file_is_dirty(db));
    graph_db_close(db);
    return mended;
}

static void any_flipped_byte_is_found_and_healed(void **state)
{
    (void)state;
    static const enum region_id regions[] = {REGION_CODES, REGION_LINKS};
    struct database *db = written_database();
    uint64_t places[2][24];
    for (int r = 0; r < 2; r++) {
        uint64_t bytes = db->store->file.shapes[regions[r]].cell_bytes;
        for (uint32_t i = 0; i < 24; i++) {
            uint64_t at = i < 16 ? i * bytes / 16 : (i * 7919) % bytes; /* of one cell; of any */
            places[r][i] = place_of(db, regions[r], i < 16 ? 33 : i * 17) + at;
        }
    }
    graph_db_stop(db);
    int mended = 0;
    for (int r = 0; r < 2; r++) {
        for (int i = 0; i < 24; i++) {
            take_image();
            flip_byte(image_fd, "db.jvdb", places[r][i]);
            mended += use_damaged_image();
        }
    }
    assert_true(mended > 36); /* padding is no damage */
}

static void cells_that_were_never_written_are_made_again(void **state)
{
    (void)state;
    struct database *db = written_database();
    uint64_t codes = place_of(db, REGION_CODES, 64), links = place_of(db, REGION_LINKS, 128);
    graph_db_stop(db);
    static const uint8_t zeros[4096];
    take_image();
    poke(image_fd, "db.jvdb", codes, zeros, sizeof zeros);
    assert_true(use_damaged_image());
    take_image();
    poke(image_fd, "db.jvdb", links, zeros, 2048);
    assert_true(use_damaged_image());
}

static void links_to_anywhere_are_no_harm(void **state)
{
    (void)state;
    struct database *db = written_database();
    uint64_t links = place_of(db, REGION_LINKS, 0);
    uint64_t bytes = db->store->file.shapes[REGION_LINKS].cell_bytes;
    graph_db_stop(db);
    take_image();
    for (uint32_t n = 0; n < 60; n++) {
        uint32_t node[32];
        for (int i = 0; i < 32; i++)
            node[i] = i == 0 ? n * 0x01010101 : n % 3 ? UINT32_MAX - n : n * 40;
        poke(image_fd, "db.jvdb", links + n * bytes, node, sizeof node);
    }
    assert_true(use_damaged_image());
}

static void a_graph_with_much_damage_is_given_up(void **state)
{
    (void)state;
    struct database *db = written_database();
    uint64_t links = place_of(db, REGION_LINKS, 0);
    graph_db_stop(db);
    take_image();
    static const uint8_t zeros[16384];
    poke(image_fd, "db.jvdb", links, zeros, sizeof zeros);
    db = graph_db_open_in(image_fd);
    assert_non_null(graph_db_graph(db));
    graph_db_load(db);
    assert_null(graph_db_graph(db)); /* exact searches go on */
    graph_db_check_rows(db);
    graph_db_link(db, CODEC_INT8);
    graph_db_check_graph(db);
    graph_db_stop(db);
    db = graph_db_open_in(image_fd);
    assert_int_equal(graph_db_info(db).indexed_count, ROWS);
    graph_db_close(db);
}

static bool refuse(void *calls)
{
    return --*(int *)calls > 0;
}

/* Its code is left out of the first checkpoint, and must not be of the second. */
static void what_is_encoded_before_a_checkpoint_and_linked_after_it_is_kept(void **state)
{
    (void)state;
    struct database *db = written_database();
    graph_db_put(db, ROWS, ROWS + 40, 1);
    struct graph *g = graph_db_graph(db);
    assert_int_equal(graph_reserve(g, ROWS + 40, &err), ERR_OK);
    for (uint32_t slot = ROWS; slot < ROWS + 40; slot++) {
        const float *row = jvdb_file_read(&db->store->file, REGION_VECTORS, slot);
        assert_true(graph_encode(g, slot, row, graph_db_slot(db, slot)->generation));
    }
    if (checkpoint_run(db, &err)) fail_msg("%s", err.msg);
    for (uint32_t slot = ROWS; slot < ROWS + 40; slot++)
        assert_true(graph_link(g, slot, 40, NULL));
    atomic_store(&db->store->vectors->head, atomic_load(&db->store->vectors->tail));
    graph_db_stop(db);
    db = graph_db_open();
    graph_db_load(db);
    assert_int_equal(graph_db_info(db).indexed_count, ROWS + 40);
    assert_int_equal(graph_db_info(db).pending_count, 0);
    assert_false(index_file_is_dirty(db)); /* nothing was mended */
    graph_db_check_graph(db);
    graph_db_close(db);
}

static void slots_that_are_used_again_do_not_confuse_it(void **state)
{
    (void)state;
    struct database *db = written_database();
    for (uint32_t round = 2; round < 5; round++) {
        graph_db_delete(db, round * 20, round * 20 + 40);
        graph_db_sweep(db);
        if (checkpoint_run(db, &err)) fail_msg("%s", err.msg);
        epoch_synchronize();
        uint32_t slots = db->store->counts.slot_count;
        graph_db_put(db, round * 20, round * 20 + 40, round);
        assert_int_equal(db->store->counts.slot_count, slots); /* used again */
        take_image(); /* the file has what was before; the log says otherwise */
        struct database *copy = graph_db_open_in(image_fd);
        graph_db_load(copy);
        assert_int_equal(graph_db_info(copy).pending_count, 40);
        graph_db_check_graph(copy);
        graph_db_close(copy);
        graph_db_link(db, CODEC_INT8);
        graph_db_check_graph(db);
    }
    graph_db_stop(db);
    db = graph_db_open();
    graph_db_load(db);
    assert_int_equal(graph_db_info(db).pending_count, 0);
    graph_db_check_graph(db);
    assert_int_equal(graph_db_missed(db, 1), 0);
    graph_db_close(db);
}

static void a_load_that_is_interrupted_leaves_everything_as_it_is(void **state)
{
    (void)state;
    struct database *db = linked_database();
    graph_db_stop(db);
    db = graph_db_open();
    for (int calls = 1; calls < 6; calls++) {
        int left = calls;
        mutex_lock(vector_index_mutex(db->store->vectors));
        assert_int_equal(index_file_load(db, refuse, &left, &err), ERR_SHUTTING_DOWN);
        mutex_unlock(vector_index_mutex(db->store->vectors));
        assert_true(index_file_is_mapped(db->store->vectors));
    }
    graph_db_load(db);
    assert_false(index_file_is_mapped(db->store->vectors));
    graph_db_check_graph(db);
    graph_db_close(db);
}

static uint64_t used_bytes(struct database *db)
{
    return db->store->file.file_bytes - db->store->file.space.free_bytes;
}

static void another_codec_takes_other_extents_and_gives_the_old_ones_back(void **state)
{
    (void)state;
    struct database *db = linked_database();
    if (checkpoint_run(db, &err)) fail_msg("%s", err.msg);
    uint64_t int8_bytes = used_bytes(db), at = place_of(db, REGION_CODES, 0);
    graph_db_link(db, CODEC_FLOAT32);
    if (checkpoint_run(db, &err)) fail_msg("%s", err.msg);
    assert_int_not_equal(place_of(db, REGION_CODES, 0), at);
    uint64_t float_bytes = used_bytes(db);
    for (int i = 0; i < 4; i++) {
        graph_db_link(db, i % 2 ? CODEC_FLOAT32 : CODEC_INT8);
        graph_db_put(db, 0, 1, (uint32_t)i + 2);
        graph_db_link(db, i % 2 ? CODEC_FLOAT32 : CODEC_INT8);
        if (checkpoint_run(db, &err)) fail_msg("%s", err.msg);
        assert_int_equal(used_bytes(db), i % 2 ? float_bytes : int8_bytes);
    }
    graph_db_stop(db);
    db = graph_db_open();
    assert_int_equal(graph_db_info(db).codec, CODEC_FLOAT32);
    graph_db_load(db);
    graph_db_check_graph(db);
    graph_db_check_rows(db);
    graph_db_close(db);
}

static void cells_of_an_earlier_graph_are_not_taken_for_its_own(void **state)
{
    (void)state;
    struct database *db = linked_database();
    if (checkpoint_run(db, &err)) fail_msg("%s", err.msg);
    uint64_t places[2] = {place_of(db, REGION_CODES, 0), place_of(db, REGION_LINKS, 0)};
    size_t len;
    uint8_t *old = file_bytes(data_fd, "db.jvdb", &len);
    atomic_store(&db->store->vectors->lost, true); /* the same codec, from scratch */
    graph_db_link(db, CODEC_INT8);
    graph_db_stop(db);
    for (int i = 0; i < 2; i++) {
        take_image();
        poke(image_fd, "db.jvdb", places[i], old + places[i], 6 * 128);
        assert_true(use_damaged_image());
    }
    free(old);
}

static void a_mapped_file_that_is_cut_short_is_no_crash(void **state)
{
    (void)state;
    graph_db_schema.index.m = INDEX_M_MAX; /* large enough to be mapped */
    graph_db_create();
    struct database *db = graph_db_open();
    graph_db_ef = 8;
    graph_db_put(db, 0, 9000, 1);
    graph_db_link(db, CODEC_BINARY);
    graph_db_ef = 40;
    graph_db_stop(db);
    graph_db_schema.index.m = 0;
    db = graph_db_open();
    assert_true(index_file_is_mapped(db->store->vectors));
    uint64_t bytes = place_of(db, REGION_LINKS, 4500);
    int fd = openat(data_fd, "db.jvdb", O_WRONLY | O_CLOEXEC);
    assert_int_equal(ftruncate(fd, (off_t)(bytes / 4096 * 4096)), 0);
    close(fd);
    guard_install(); /* cmocka has its own idea of signals */
    struct graph *g = graph_db_graph(db);
    struct graph_found found;
    float vector[GRAPH_DB_DIMENSION];
    for (uint32_t id = 4000; id < 5000; id++) {
        graph_db_vector(id, 1, vector);
        struct graph_query q = {.vector = vector, .ef = 50, .hidden = UINT32_MAX};
        assert_int_equal(graph_search(g, &q, &found, &err), ERR_OK);
    }
    assert_null(graph_db_graph(db)); /* lost: exact searches, which find out more */
    graph_db_close(db);
}

/* ---- failures and kills ---- */

static void without_room_the_checkpoint_goes_on_without_the_index(void **state)
{
    (void)state;
    graph_db_create();
    struct database *db = graph_db_open();
    graph_db_put(db, 0, ROWS, 1);
    if (checkpoint_run(db, &err)) fail_msg("%s", err.msg);
    graph_db_link(db, CODEC_INT8);
    uint64_t used = used_bytes(db);
    /* The first allocation is that of a segment of the log; then the disk is full. */
    faults_arm(FAULT_ALLOCATE, 1, ENOSPC);
    faults.fail_all = true;
    assert_int_equal(checkpoint_run(db, &err), ERR_OK);
    assert_true(faults_disarm() > 1);
    assert_true(index_file_is_dirty(db));
    take_image();
    struct database *copy = graph_db_open_in(image_fd);
    assert_null(graph_db_graph(copy));
    graph_db_check_rows(copy);
    graph_db_close(copy);
    assert_int_equal(used_bytes(db), used);
    /* Later there is room. */
    assert_true(checkpoint_is_due(db));
    assert_int_equal(checkpoint_run(db, &err), ERR_OK);
    assert_false(checkpoint_is_due(db));
    graph_db_close(db);
    db = graph_db_open();
    assert_int_equal(graph_db_info(db).indexed_count, ROWS);
    graph_db_load(db);
    graph_db_check_graph(db);
    graph_db_close(db);
}

/* Whichever call fails: the rows are there, and after the next checkpoint so is the graph. */
static void any_failing_call_costs_no_more_than_this_checkpoint(void **state)
{
    (void)state;
    static const int kinds[] = {FAULT_WRITE, FAULT_ALLOCATE};
    graph_db_create();
    struct database *db = graph_db_open();
    uint32_t value = 1;
    for (int k = 0; k < 2; k++) {
        for (int at = 0;; at += 1 + at / 4) {
            graph_db_put(db, 0, 40, value++);
            graph_db_put(db, ROWS + 4 * value, ROWS + 4 * value + 4, value);
            graph_db_link(db, at % 2 ? CODEC_INT8 : CODEC_FLOAT32);
            faults_arm(kinds[k], at, ENOSPC);
            enum err_code rc = checkpoint_run(db, &err);
            int calls = faults_disarm();
            if (rc == ERR_OK && index_file_is_dirty(db)) {
                take_image();
                struct database *without = graph_db_open_in(image_fd);
                assert_null(graph_db_graph(without)); /* not half of it */
                graph_db_check_rows(without);
                graph_db_close(without);
            }
            bool broken = rc == ERR_READ_ONLY; /* in place, after the .ckpt was whole */
            if (broken) {
                graph_db_close(db);
                db = graph_db_open();
            }
            assert_int_equal(checkpoint_run(db, &err), ERR_OK);
            take_image();
            struct database *copy = graph_db_open_in(image_fd);
            graph_db_check_rows(copy);
            graph_db_load(copy);
            if (!broken) {
                assert_int_equal(graph_db_info(copy).pending_count, 0);
                assert_false(index_file_is_dirty(copy)); /* nothing was mended */
            }
            graph_db_link(copy, at % 2 ? CODEC_INT8 : CODEC_FLOAT32);
            graph_db_check_graph(copy);
            graph_db_close(copy);
            if (calls <= at) break;
        }
    }
    graph_db_close(db);
}

static void use_image(void)
{
    struct database *db = graph_db_open_in(image_fd);
    graph_db_check_rows(db);
    assert_non_null(graph_db_graph(db)); /* some checkpoint's */
    (void)graph_db_missed(db, 17);
    struct vector_index *ix = db->store->vectors;
    mutex_lock(vector_index_mutex(ix));
    assert_int_equal(index_file_load(db, NULL, NULL, &err), ERR_OK);
    mutex_unlock(vector_index_mutex(ix));
    if (graph_db_graph(db)) {
        graph_db_check_graph(db);
        graph_db_link(db, graph_db_graph(db)->codec.kind);
        graph_db_check_graph(db);
        assert_int_equal(graph_db_missed(db, 17), 0);
    }
    graph_db_check_rows(db);
    database_free(db);
}

static void a_kill_before_any_call_of_a_checkpoint_leaves_a_graph(void **state)
{
    (void)state;
    struct database *db = written_database();
    images.count = 0;
    for (uint32_t round = 2; round < 4; round++) {
        graph_db_delete(db, 400, 420);
        graph_db_sweep(db);
        if (checkpoint_run(db, &err)) fail_msg("%s", err.msg);
        epoch_synchronize();
        graph_db_put(db, 400, 420, round); /* in used slots */
        graph_db_put(db, ROWS * (round - 1), ROWS * round, 1);
        graph_db_put(db, 0, 100, round);
        graph_db_delete(db, round * 90, round * 90 + 10);
        graph_db_link(db, CODEC_INT8);
        images_watch(use_image);
        if (checkpoint_run(db, &err)) fail_msg("%s", err.msg);
        faults_disarm();
    }
    assert_true(images.count > 40);
    graph_db_close(db);
}

/* ---- at the same time ---- */

static _Atomic bool stop;

static void *write_rows(void *arg)
{
    struct database *db = arg;
    for (uint32_t value = 2; !atomic_load(&stop) && value < 100; value++) {
        uint32_t first = value * 37 % (ROWS - 40);
        graph_db_put(db, first, first + 40, value);
        graph_db_put(db, ROWS + 2 * value, ROWS + 2 * value + 2, value);
    }
    atomic_store(&stop, true);
    return NULL;
}

static void *write_checkpoints(void *arg)
{
    struct err why;
    while (!atomic_load(&stop))
        if (checkpoint_run(arg, &why)) fail_msg("%s", why.msg);
    return NULL;
}

static uint64_t pending_and_alive(struct database *db)
{
    struct vector_index_rest rest;
    uint64_t count = 0;
    vector_index_graph(db->store->vectors, UINT64_MAX, &rest);
    for (uint64_t i = rest.head; i < rest.tail; i++)
        count += graph_db_slot(db, rest.slots[i & rest.mask])->death == SLOT_NEVER;
    return count;
}

/* Linking goes on under checkpoints and writes; nothing that a record claims is missing. */
static void linkers_writers_and_checkpoints_do_not_disturb_each_other(void **state)
{
    (void)state;
    struct database *db = written_database();
    pthread_t threads[2];
    atomic_store(&stop, false);
    pthread_create(&threads[0], NULL, write_rows, db);
    pthread_create(&threads[1], NULL, write_checkpoints, db);
    while (!atomic_load(&stop)) {
        graph_db_link(db, CODEC_INT8);
        epoch_collect();
    }
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    if (checkpoint_run(db, &err)) fail_msg("%s", err.msg);
    uint64_t pending = pending_and_alive(db);
    graph_db_close(db);
    db = graph_db_open();
    graph_db_load(db);
    assert_int_equal(graph_db_info(db).pending_count, pending);
    graph_db_check_graph(db);
    graph_db_link(db, CODEC_INT8);
    graph_db_check_graph(db);
    graph_db_check_rows(db);
    graph_db_close(db);
}

/* ---- other ways to a file ---- */

static void an_accepted_file_keeps_its_index(void **state)
{
    (void)state;
    struct database *db = written_database();
    graph_db_stop(db);
    struct accept_result r;
    if (accept_run(data_fd, "db", &r, &err)) fail_msg("%s", err.msg);
    struct disk_superblock sb;
    bool alike;
    int fd = openat(data_fd, "db.jvdb", O_RDONLY | O_CLOEXEC);
    assert_int_equal(superblock_read(fd, "db.jvdb", &sb, &alike, &err), ERR_OK);
    close(fd);
    struct database_open_options options = {0};
    struct database_host host = {0};
    assert_int_equal(database_open(data_fd, "db", sb.uuid, &options, &host, &db, &err), ERR_OK);
    assert_int_equal(graph_db_info(db).indexed_count, ROWS);
    graph_db_load(db);
    assert_int_equal(graph_db_info(db).pending_count, 0);
    graph_db_check_graph(db);
    graph_db_close(db);
}

static void rows_are_rescued_from_a_file_with_an_index(void **state)
{
    (void)state;
    struct database *db = written_database();
    graph_db_stop(db);
    /* Its manifest is found by its looks, and believed with its regions of the index. */
    static const uint8_t zeros[2 * BLOCK_BYTES];
    poke(data_fd, "db.jvdb", 0, zeros, sizeof zeros);
    char output[500];
    snprintf(output, sizeof output, "%s/image", temp_path);
    struct salvage_options o = {.dir_fd = data_fd,
                                .name = "db",
                                .output_dir_fd = image_fd,
                                .output_dir = output,
                                .output_name = "new"};
    struct salvage_result r;
    if (salvage_run(&o, &r, &err)) fail_msg("%s", err.msg);
    assert_int_equal(r.rows_rescued, ROWS);
    assert_int_equal(r.rows_lost, 0);
}

static void without_memory_files_there_is_nothing_to_keep(void **state)
{
    (void)state;
    struct database_host host = {0};
    struct database *db = database_new("db", &graph_db_schema, -1, &host);
    struct index_save save;
    index_file_fix(db->store, &save);
    assert_int_equal(save.record.len, 0);
    assert_false(index_file_is_dirty(db) || index_file_is_due(db));
    index_file_end(&save);
    database_free(db);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        temp_dir_test(after_a_restart_everything_is_linked),
        temp_dir_test(what_was_not_linked_at_the_checkpoint_is_pending),
        temp_dir_test(rows_that_ended_before_they_were_linked_are_not_pending),
        temp_dir_test(a_graph_that_grows_is_kept_by_each_checkpoint),
        temp_dir_test(the_file_alone_is_a_backup_with_its_index),
        temp_dir_test(any_flipped_byte_is_found_and_healed),
        temp_dir_test(cells_that_were_never_written_are_made_again),
        temp_dir_test(links_to_anywhere_are_no_harm),
        temp_dir_test(a_graph_with_much_damage_is_given_up),
        temp_dir_test(what_is_encoded_before_a_checkpoint_and_linked_after_it_is_kept),
        temp_dir_test(slots_that_are_used_again_do_not_confuse_it),
        temp_dir_test(a_load_that_is_interrupted_leaves_everything_as_it_is),
        temp_dir_test(another_codec_takes_other_extents_and_gives_the_old_ones_back),
        temp_dir_test(cells_of_an_earlier_graph_are_not_taken_for_its_own),
        temp_dir_test(a_mapped_file_that_is_cut_short_is_no_crash),
        temp_dir_test(without_room_the_checkpoint_goes_on_without_the_index),
        temp_dir_test(any_failing_call_costs_no_more_than_this_checkpoint),
        temp_dir_test(a_kill_before_any_call_of_a_checkpoint_leaves_a_graph),
        temp_dir_test(linkers_writers_and_checkpoints_do_not_disturb_each_other),
        temp_dir_test(an_accepted_file_keeps_its_index),
        temp_dir_test(rows_are_rescued_from_a_file_with_an_index),
        temp_dir_test(without_memory_files_there_is_nothing_to_keep),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

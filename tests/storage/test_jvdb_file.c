/* Mappings, growth and first touches of a .jvdb file. */
#include "tests/storage/faults.h"
#include "tests/storage/model.h"

#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>

#include "storage/base/metrics.h"

static struct err err;
static struct model m;

/* A file on disk with a checkpoint in it, closed. */
static void make_file(void)
{
    memset(&m, 0, sizeof m);
    model_create(data_fd);
    struct database *db = model_open(data_fd);
    model_put(db, &m, 0, MODEL_ROWS - 1, 1);
    model_checkpoint(db);
    model_close(db);
}

/* Offset in the file of a cell. */
static uint64_t offset_of(struct jvdb_file *f, enum region_id region, uint64_t cell)
{
    struct region_place place = region_place(&f->shapes[region], cell);
    return atomic_load(&f->view)->extents[region][place.extent] + place.offset;
}

/* ---- first touch ---- */

static void the_first_touch_of_a_damaged_block_gives_nothing_and_is_counted(void **state)
{
    (void)state;
    static const enum region_id regions[] = {REGION_SLOTS, REGION_ID_INDEX};
    make_file();
    for (int i = 0; i < 2; i++) {
        struct database *db = model_open(data_fd);
        uint64_t at = offset_of(&db->store->file, regions[i], 0) + 100;
        flip_byte(data_fd, "db.jvdb", at);
        uint64_t before = stat_get(STAT_CHECKSUM_ERRORS);
        assert_null(jvdb_file_read(&db->store->file, regions[i], 0));
        assert_null(jvdb_file_change(&db->store->file, regions[i], 0));
        assert_true(stat_get(STAT_CHECKSUM_ERRORS) > before);
        model_close(db);
        flip_byte(data_fd, "db.jvdb", at);
    }
    assert_model_in(data_fd, &m);
}

static void a_damaged_block_of_checksums_vouches_for_nothing(void **state)
{
    (void)state;
    make_file();
    struct database *db = model_open(data_fd);
    uint64_t at = offset_of(&db->store->file, REGION_SUMS, 0) + 3000; /* a sum that nobody uses */
    flip_byte(data_fd, "db.jvdb", at);
    assert_null(jvdb_file_read(&db->store->file, REGION_SLOTS, 0));
    model_close(db);
}

static void what_was_verified_is_not_checked_again(void **state)
{
    (void)state;
    make_file();
    struct database *db = model_open(data_fd);
    uint64_t errors = stat_get(STAT_CHECKSUM_ERRORS);
    const struct slot *s = jvdb_file_read(&db->store->file, REGION_SLOTS, 0);
    assert_non_null(s);
    uint64_t block = offset_of(&db->store->file, REGION_SLOTS, 0) / BLOCK_BYTES;
    assert_true(atomic_load(&atomic_load(&db->store->file.view)->state[block]) & BLOCK_VERIFIED);
    /* A change gives it a private page: what happens to the file is no longer seen. */
    struct slot *mine = jvdb_file_change(&db->store->file, REGION_SLOTS, 0);
    assert_ptr_equal(mine, s);
    mine->expires_at_ms = 4711;
    flip_byte(data_fd, "db.jvdb", block * BLOCK_BYTES);
    assert_non_null(jvdb_file_read(&db->store->file, REGION_SLOTS, 0));
    assert_int_equal(mine->expires_at_ms, 4711);
    assert_int_equal(stat_get(STAT_CHECKSUM_ERRORS), errors);
    model_close(db);
}

static void changes_in_memory_never_reach_the_file(void **state)
{
    (void)state;
    make_file();
    size_t len;
    uint8_t *before = file_bytes(data_fd, "db.jvdb", &len);
    struct database *db = model_open(data_fd);
    for (uint32_t n = 0; n < MODEL_ROWS; n++) {
        struct slot *s = jvdb_file_change(&db->store->file, REGION_SLOTS, n);
        assert_non_null(s);
        memset(s, 0xee, sizeof *s);
    }
    model_close(db);
    size_t after_len;
    uint8_t *after = file_bytes(data_fd, "db.jvdb", &after_len);
    assert_int_equal(after_len, len);
    assert_memory_equal(before, after, len);
    free(before);
    free(after);
    assert_model_in(data_fd, &m);
}

static void a_cell_that_does_not_exist_is_nothing(void **state)
{
    (void)state;
    make_file();
    struct database *db = model_open(data_fd);
    for (int r = 0; r < REGION_COUNT; r++) {
        uint64_t end = region_capacity(&db->store->file.shapes[r], db->store->file.extent_count[r]);
        assert_null(jvdb_file_read(&db->store->file, r, end));
        assert_null(jvdb_file_read(&db->store->file, r, UINT64_MAX / 2));
        if (db->store->file.shapes[r].is_mutable)
            assert_null(jvdb_file_change(&db->store->file, r, end));
    }
    model_close(db);
}

/* ---- growth ---- */

static void new_mutable_extents_are_zero_whatever_lay_there(void **state)
{
    (void)state;
    make_file();
    struct database *db = model_open(data_fd);
    struct jvdb_file *f = &db->store->file;
    assert_int_equal(jvdb_file_writable(f, &err), ERR_OK);
    /* Junk behind the end and in the free space. */
    uint8_t junk[BLOCK_BYTES];
    memset(junk, 0xaa, sizeof junk);
    for (size_t i = 0; i < f->space.count; i++)
        for (uint64_t b = 0; b < f->space.ranges[i].bytes; b += BLOCK_BYTES)
            poke(data_fd, "db.jvdb", f->space.ranges[i].at + b, junk, sizeof junk);
    for (uint64_t b = 0; b < 64; b++)
        poke(data_fd, "db.jvdb", f->file_bytes + b * BLOCK_BYTES, junk, sizeof junk);
    uint64_t old = region_capacity(&f->shapes[REGION_SLOTS], f->extent_count[REGION_SLOTS]);
    assert_int_equal(jvdb_file_grow(f, REGION_SLOTS, old * 8, &err), ERR_OK);
    static const struct slot zero;
    for (uint64_t n = old; n < old * 8; n++) {
        const struct slot *s = jvdb_file_read(f, REGION_SLOTS, n);
        assert_non_null(s);
        assert_memory_equal(s, &zero, sizeof zero);
    }
    model_close(db);
}

static void extents_never_overlap(void **state)
{
    (void)state;
    make_file();
    struct database *db = model_open(data_fd);
    struct jvdb_file *f = &db->store->file;
    assert_int_equal(jvdb_file_writable(f, &err), ERR_OK);
    for (int round = 0; round < 60; round++)
        for (int r = 0; r < REGION_COUNT; r++) {
            uint64_t cells = region_capacity(&f->shapes[r], f->extent_count[r]);
            assert_int_equal(jvdb_file_grow(f, r, cells + 1, &err), ERR_OK);
        }
    size_t blocks = f->file_bytes / BLOCK_BYTES;
    uint8_t *used = calloc(1, blocks);
    const struct jvdb_view *v = atomic_load(&f->view);
    for (int r = 0; r < REGION_COUNT; r++)
        for (uint32_t e = 0; e < f->extent_count[r]; e++)
            for (uint64_t b = 0; b < region_extent_bytes(&f->shapes[r], e) / BLOCK_BYTES; b++) {
                uint64_t block = v->extents[r][e] / BLOCK_BYTES + b;
                assert_true(block >= SUPERBLOCK_COUNT && block < blocks);
                assert_int_equal(used[block]++, 0);
            }
    free(used);
    /* Every block of a mutable region has a checksum somewhere. */
    assert_true(region_capacity(&f->shapes[REGION_SUMS], f->extent_count[REGION_SUMS]) >= blocks);
    model_close(db);
}

/* A database whose rows are so long that some hundred fill the mapping. */
static struct database *open_wide(void)
{
    static const struct schema wide = {.dimension = DIMENSION_MAX};
    struct database_open_options options = {0};
    struct database_host host = {0};
    struct database *db;
    assert_int_equal(database_create_files(data_fd, "db", model_uuid, &wide, &err), ERR_OK);
    assert_int_equal(database_open(data_fd, "db", model_uuid, &options, &host, &db, &err), ERR_OK);
    assert_int_equal(jvdb_file_writable(&db->store->file, &err), ERR_OK);
    return db;
}

static void growth_beyond_the_mapping_keeps_old_pointers_and_private_blocks(void **state)
{
    (void)state;
    struct database *db = open_wide();
    struct jvdb_file *f = &db->store->file;
    enum { SLOTS = 1000, ROW_BYTES = DIMENSION_MAX * 4 };
    assert_int_equal(jvdb_file_grow(f, REGION_SLOTS, SLOTS, &err), ERR_OK);
    for (uint32_t n = 0; n < SLOTS; n++)
        ((struct slot *)jvdb_file_change(f, REGION_SLOTS, n))->key = n * 7;
    assert_int_equal(jvdb_file_grow(f, REGION_VECTORS, 1, &err), ERR_OK);
    char *row = malloc(ROW_BYTES);
    memset(row, 'x', ROW_BYTES);
    struct iovec iov = {row, ROW_BYTES};
    assert_int_equal(jvdb_file_write(f, REGION_VECTORS, 0, &iov, 1, &err), ERR_OK);

    epoch_enter();
    const struct jvdb_view *old = atomic_load(&f->view);
    uint64_t old_bytes = old->map_bytes;
    const struct slot *old_slot = jvdb_file_read(f, REGION_SLOTS, 5);
    const char *old_row = jvdb_file_read(f, REGION_VECTORS, 0);
    assert_memory_equal(old_row, row, ROW_BYTES);
    uint64_t rows = old_bytes / ROW_BYTES + 10;
    if (jvdb_file_grow(f, REGION_VECTORS, rows, &err)) {
        epoch_leave();
        model_close(db);
        free(row);
        if (err.code == ERR_STORAGE_FULL) skip();
        fail_msg("%s", err.msg);
    }
    const struct jvdb_view *now = atomic_load(&f->view);
    bool replaced = now->mutable_bytes != old->mutable_bytes;
    bool same_old = old_slot->key == 35 && memcmp(old_row, row, ROW_BYTES) == 0;
    const char *new_row = jvdb_file_read(f, REGION_VECTORS, 0);
    bool same_new = new_row != old_row && memcmp(new_row, row, ROW_BYTES) == 0;
    epoch_leave();
    assert_true(replaced);
    assert_true(now->map_bytes >= f->file_bytes);
    assert_true(same_old);
    assert_true(same_new);
    for (uint32_t n = 0; n < SLOTS; n++) {
        assert_int_equal(((const struct slot *)jvdb_file_read(f, REGION_SLOTS, n))->key, n * 7);
        assert_int_equal(((struct slot *)jvdb_file_change(f, REGION_SLOTS, n))->key, n * 7);
    }
    memset(row, 'y', ROW_BYTES);
    iov = (struct iovec){row, ROW_BYTES};
    assert_int_equal(jvdb_file_write(f, REGION_VECTORS, rows - 1, &iov, 1, &err), ERR_OK);
    assert_memory_equal(jvdb_file_read(f, REGION_VECTORS, rows - 1), row, ROW_BYTES);
    free(row);
    model_close(db);
}

static void a_full_disk_changes_nothing(void **state)
{
    (void)state;
    signal(SIGXFSZ, SIG_IGN);
    make_file();
    struct database *db = model_open(data_fd);
    struct rlimit old, small;
    uint64_t lsn, bytes = db->store->file.file_bytes;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = old;
    small.rlim_cur = bytes;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    struct model kept = m;
    int full = 0;
    for (uint32_t i = 0; i < 200; i++) {
        enum err_code rc = model_try_put(db, &m, 0, MODEL_ROWS - 1, i + 2, &lsn, &err);
        if (rc == ERR_OK) {
            kept = m;
            continue;
        }
        assert_int_equal(rc, ERR_STORAGE_FULL);
        full++;
    }
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_true(full > 100);
    assert_model(db, &kept);
    size_t len;
    free(file_bytes(data_fd, "db.jvdb", &len));
    assert_int_equal(len, bytes);
    /* With room again it goes on. */
    m = kept;
    model_put(db, &m, 0, 20, 500);
    model_checkpoint(db);
    model_close(db);
    assert_model_in(data_fd, &m);
}

/* ---- threads ---- */

static struct {
    struct database *db;
    _Atomic bool stop;
    _Atomic int bad, looked;
} threads;

static void *look_at_slots(void *arg)
{
    (void)arg;
    unsigned seed = 1;
    while (!atomic_load(&threads.stop)) {
        struct jvdb_file *f = &threads.db->store->file;
        epoch_enter();
        uint64_t end = region_capacity(&f->shapes[REGION_RECORDS],
                                       atomic_load(&f->extent_count[REGION_RECORDS]));
        /* Behind the records there is nothing yet. */
        uint64_t used = threads.db->store->counts.records_bytes;
        for (int i = 0; i < 100 && end > used; i++) {
            seed = seed * 1103515245 + 12345;
            const uint8_t *byte =
                jvdb_file_read(f, REGION_RECORDS, used + (seed >> 4) % (end - used));
            if (!byte || *byte) atomic_fetch_add(&threads.bad, 1);
        }
        epoch_leave();
        atomic_fetch_add(&threads.looked, 1);
    }
    return NULL;
}

static void readers_go_on_while_tables_of_extents_grow(void **state)
{
    (void)state;
    make_file();
    threads.db = model_open(data_fd);
    struct jvdb_file *f = &threads.db->store->file;
    assert_int_equal(jvdb_file_writable(f, &err), ERR_OK);
    atomic_store(&threads.stop, false);
    pthread_t readers[2];
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&readers[i], NULL, look_at_slots, NULL), 0);
    for (uint32_t e = 0; e < 70; e++) {
        uint64_t cells = region_capacity(&f->shapes[REGION_RECORDS], e + 1);
        assert_int_equal(jvdb_file_grow(f, REGION_RECORDS, cells, &err), ERR_OK);
        epoch_collect();
    }
    int looked = atomic_load(&threads.looked);
    while (atomic_load(&threads.looked) < looked + 20)
        ;
    atomic_store(&threads.stop, true);
    for (int i = 0; i < 2; i++)
        pthread_join(readers[i], NULL);
    assert_int_equal(atomic_load(&threads.bad), 0);
    model_close(threads.db);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        temp_dir_test(the_first_touch_of_a_damaged_block_gives_nothing_and_is_counted),
        temp_dir_test(a_damaged_block_of_checksums_vouches_for_nothing),
        temp_dir_test(what_was_verified_is_not_checked_again),
        temp_dir_test(changes_in_memory_never_reach_the_file),
        temp_dir_test(a_cell_that_does_not_exist_is_nothing),
        temp_dir_test(new_mutable_extents_are_zero_whatever_lay_there),
        temp_dir_test(extents_never_overlap),
        temp_dir_test(growth_beyond_the_mapping_keeps_old_pointers_and_private_blocks),
        temp_dir_test(a_full_disk_changes_nothing),
        temp_dir_test(readers_go_on_while_tables_of_extents_grow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* What a verification finds, and that it finds nothing where nothing is wrong. */
#include "storage/verify.h"

#include <pthread.h>

#include "storage/base/crc32c.h"
#include "storage/compact.h"
#include "storage/image.h"
#include "storage/scrub.h"
#include "tests/storage/fixture.h"

enum { DIM = 20, ROWS = 3000 };

static struct verify_result *verify_dir(const char *dir, const char *name, bool live)
{
    static struct verify_result r;
    struct err err;
    int fd = open(dir, O_RDONLY | O_DIRECTORY);
    assert_true(fd >= 0);
    struct verify_options o = {.dir_fd = fd, .name = name, .live = live};
    CHECK_OK(verify_files(&o, &r, &err));
    close(fd);
    return &r;
}

static void assert_clean(const struct verify_result *r)
{
    char text[320] = "";
    if (r->errors_kept) verify_error_text(&r->errors[0], text, sizeof text);
    if (r->error_count) fail_msg("%llu errors: %s", (unsigned long long)r->error_count, text);
    assert_true(r->complete);
}

/* Integer and string ids (short, long, with common beginnings), updates, deletes, metadata. */
static void write_rows(struct database *db, uint64_t *seed, size_t count)
{
    float vector[DIM];
    for (size_t i = 0; i < count; i++) {
        uint64_t dice = test_random(seed);
        char text[80], metadata[900];
        for (int k = 0; k < DIM; k++)
            vector[k] = test_random_float(seed);
        snprintf(text, sizeof text, "%s-%llu", dice & 1 ? "a long common beginning of ids" : "id",
                 (unsigned long long)(dice >> 8) % 700);
        struct vector_id id =
            dice % 3 ? (struct vector_id){.number = (dice >> 8) % 2000} : test_text_id(text);
        int len = snprintf(metadata, sizeof metadata, "{\"i\":%zu,\"t\":\"%0*d\"}", i,
                           (int)(dice >> 20) % 800 + 1, 0);
        assert_true(len > 0);
        if (dice % 7 == 0)
            test_delete(db, id);
        else
            test_put(db, id, vector, dice % 4 ? metadata : NULL);
    }
}

static void fill(const char *dir, uint64_t seed)
{
    struct err err;
    double ms;
    struct service *svc = test_service_open(dir);
    test_create(svc, "docs", DIM, METRIC_COSINE);
    struct database *db = test_acquire(svc, "docs");
    for (int i = 0; i < 4; i++) {
        write_rows(db, &seed, ROWS / 4);
        CHECK_OK(service_flush(svc, "docs", &ms, &err));
    }
    service_release(db);
    test_service_close(svc);
}

static void flip(const char *dir, const char *name, uint64_t at)
{
    char path[768];
    uint8_t byte;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, (off_t)at), 1);
    byte ^= 0x10;
    assert_int_equal(pwrite(fd, &byte, 1, (off_t)at), 1);
    close(fd);
}

/* Places in the file, by what lies there. */
static uint64_t place_of(const char *dir, enum verify_region region, uint64_t *row)
{
    struct err err;
    struct image img;
    int fd = open(dir, O_RDONLY | O_DIRECTORY);
    CHECK_OK(image_open(fd, "docs", false, &img, &err));
    assert_true(image_use(&img, &img.superblocks[0], true));
    uint64_t at = 0;
    *row = 0;
    switch (region) {
    case VERIFY_SUPERBLOCK:
        at = BLOCK_BYTES + 700;
        break;
    case VERIFY_MANIFEST:
        at = img.sb.manifest_at + 100;
        break;
    case VERIFY_SUMS:
        at = image_place(&img, REGION_SUMS, 5);
        break;
    case VERIFY_SLOTS:
        at = image_place(&img, REGION_SLOTS, 100) + 3;
        break;
    case VERIFY_ID_INDEX:
        at = image_place(&img, REGION_ID_INDEX, 3) + 555;
        break;
    case VERIFY_VECTORS:
    case VERIFY_RECORDS: {
        const struct slot *s;
        enum image_state state;
        for (*row = 50;; ++*row) {
            s = image_cell(&img, REGION_SLOTS, *row, &state);
            if (s->death == SLOT_NEVER && s->record_at) break;
        }
        at = region == VERIFY_VECTORS ? image_place(&img, REGION_VECTORS, *row) + 9
                                      : image_place(&img, REGION_RECORDS, s->record_at - 1) + 34;
        break;
    }
    default:
        fail();
    }
    image_close(&img);
    close(fd);
    return at;
}

/* ---- tests ---- */

static void whatever_was_written_is_in_order(void **state)
{
    (void)state;
    char *dir = test_dir_new();
    fill(dir, 1);
    for (int live = 0; live < 2; live++) {
        const struct verify_result *r = verify_dir(dir, "docs", live);
        assert_clean(r);
        assert_true(r->rows_checked > 1000 && r->records_checked > 500);
        assert_true(r->blocks_checked > 40 && r->bytes_read > 100000);
    }
    test_dir_remove(dir);
}

static void a_new_database_is_in_order(void **state)
{
    (void)state;
    char *dir = test_dir_new();
    struct service *svc = test_service_open(dir);
    test_create(svc, "docs", DIM, METRIC_COSINE);
    assert_clean(verify_dir(dir, "docs", true));
    test_service_close(svc);
    assert_clean(verify_dir(dir, "docs", false));
    test_dir_remove(dir);
}

static void one_flipped_bit_is_found_in_every_region(void **state)
{
    (void)state;
    static const enum verify_region regions[] = {VERIFY_SUPERBLOCK, VERIFY_MANIFEST, VERIFY_SUMS,
                                                 VERIFY_SLOTS,      VERIFY_ID_INDEX, VERIFY_VECTORS,
                                                 VERIFY_RECORDS};
    char *dir = test_dir_new();
    fill(dir, 2);
    for (size_t i = 0; i < sizeof regions / sizeof regions[0]; i++) {
        uint64_t row, at = place_of(dir, regions[i], &row);
        flip(dir, "docs.jvdb", at);
        const struct verify_result *r = verify_dir(dir, "docs", true);
        assert_int_equal(r->error_count, 1);
        assert_int_equal(r->errors[0].region, regions[i]);
        assert_true(r->errors[0].has_block);
        if (regions[i] != VERIFY_MANIFEST && regions[i] != VERIFY_RECORDS)
            assert_int_equal(r->errors[0].block, at / BLOCK_BYTES);
        if (row) assert_int_equal(r->errors[0].row, row);
        flip(dir, "docs.jvdb", at);
        assert_clean(verify_dir(dir, "docs", true));
    }
    test_dir_remove(dir);
}

/* Change a slot and make every checksum on the way to the superblock right again. */
static void forge_slot(const char *dir, uint64_t number, void (*change)(struct slot *s))
{
    struct err err;
    struct image img;
    char path[768];
    int dir_fd = open(dir, O_RDONLY | O_DIRECTORY);
    CHECK_OK(image_open(dir_fd, "docs", false, &img, &err));
    assert_true(image_use(&img, &img.superblocks[0], true));
    snprintf(path, sizeof path, "%s/docs.jvdb", dir);
    int fd = open(path, O_RDWR);
    uint8_t block[BLOCK_BYTES], sums[BLOCK_BYTES];
    uint64_t at = image_place(&img, REGION_SLOTS, number), b = at / BLOCK_BYTES;
    assert_int_equal(pread(fd, block, sizeof block, (off_t)(b * BLOCK_BYTES)), BLOCK_BYTES);
    change((struct slot *)(void *)(block + at % BLOCK_BYTES));
    assert_int_equal(pwrite(fd, block, sizeof block, (off_t)(b * BLOCK_BYTES)), BLOCK_BYTES);

    uint64_t sum_at = image_place(&img, REGION_SUMS, b), s = sum_at / BLOCK_BYTES * BLOCK_BYTES;
    assert_int_equal(pread(fd, sums, sizeof sums, (off_t)s), BLOCK_BYTES);
    uint32_t crc = crc32c(0, block, sizeof block);
    memcpy(sums + sum_at % BLOCK_BYTES, &crc, sizeof crc);
    assert_int_equal(pwrite(fd, sums, sizeof sums, (off_t)s), BLOCK_BYTES);

    size_t bytes = img.sb.manifest_bytes;
    uint8_t *manifest = malloc(bytes);
    assert_int_equal(pread(fd, manifest, bytes, (off_t)img.sb.manifest_at), bytes);
    uint32_t was = img.f.sums_crc[b / 1024];
    crc = crc32c(0, sums, sizeof sums);
    bool found = false;
    for (size_t i = 0; i + 4 <= bytes && !found; i += 4) {
        if (memcmp(manifest + i, &was, 4) != 0) continue;
        memcpy(manifest + i, &crc, 4);
        found = true;
    }
    assert_true(found);
    assert_int_equal(pwrite(fd, manifest, bytes, (off_t)img.sb.manifest_at), bytes);
    struct disk_superblock sb = img.sb;
    sb.manifest_crc = crc32c(0, manifest, bytes);
    sb.crc = superblock_crc(&sb);
    for (int i = 0; i < SUPERBLOCK_COUNT; i++)
        assert_int_equal(pwrite(fd, &sb, sizeof sb, (off_t)i * BLOCK_BYTES), sizeof sb);
    free(manifest);
    close(fd);
    image_close(&img);
    close(dir_fd);
}

static uint64_t live_slot(const char *dir)
{
    uint64_t row;
    place_of(dir, VERIFY_VECTORS, &row);
    return row;
}

static void give_another_key(struct slot *s)
{
    s->key ^= 1;
}
static void kill_row(struct slot *s)
{
    s->death = s->birth + 1;
}
static void bear_in_the_future(struct slot *s)
{
    s->birth += 1 << 30;
}

static void what_has_right_checksums_and_makes_no_sense_is_found(void **state)
{
    (void)state;
    void (*const changes[])(struct slot *) = {give_another_key, kill_row, bear_in_the_future};
    for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
        char *dir = test_dir_new();
        fill(dir, 3);
        forge_slot(dir, live_slot(dir), changes[i]);
        assert_true(verify_dir(dir, "docs", false)->error_count > 0);
        test_dir_remove(dir);
    }
}

static void a_damaged_log_is_found_and_a_torn_tail_is_none(void **state)
{
    (void)state;
    struct err err;
    uint64_t seed = 4;
    char *dir = test_dir_new(), *image = test_dir_new();
    struct service *svc = test_service_open(dir);
    test_create(svc, "docs", DIM, METRIC_COSINE);
    struct database *db = test_acquire(svc, "docs");
    for (int i = 0; i < 10; i++) {
        write_rows(db, &seed, 20);
        uint64_t lsn = test_put_number(db, 1, 1);
        CHECK_OK(database_wait(db, lsn, DURABILITY_SYNCED, &err));
    }
    char log[32], next[32];
    test_file_copy(dir, "docs.jvdb", image, "docs.jvdb");
    for (int i = 0; i < 64; i++) {
        snprintf(next, sizeof next, "docs.wal.%d", i);
        if (!test_file_exists(dir, next)) continue;
        test_file_copy(dir, next, image, next);
        snprintf(log, sizeof log, "%s", next); /* the last one has the records */
    }
    service_release(db);
    test_service_close(svc);

    const struct verify_result *r = verify_dir(image, "docs", false);
    assert_clean(r);
    assert_true(r->log_records >= 100);
    uint64_t records = r->log_records, bytes = r->log_bytes;
    flip(image, log, WAL_HEADER_BYTES + bytes - 30);
    r = verify_dir(image, "docs", false);
    assert_clean(r);
    assert_int_equal(r->log_records, records - 1);
    flip(image, log, WAL_HEADER_BYTES + bytes / 2);
    r = verify_dir(image, "docs", false);
    assert_int_equal(r->error_count, 1);
    assert_int_equal(r->errors[0].region, VERIFY_LOG);
    test_dir_remove(dir);
    test_dir_remove(image);
}

static void a_missing_or_shortened_file_is_damage(void **state)
{
    (void)state;
    char *dir = test_dir_new(), path[768];
    assert_int_equal(verify_dir(dir, "docs", false)->error_count, 1);
    fill(dir, 5);
    snprintf(path, sizeof path, "%s/docs.jvdb", dir);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(truncate(path, st.st_size - 3 * BLOCK_BYTES), 0);
    assert_true(verify_dir(dir, "docs", false)->error_count > 0);
    assert_int_equal(truncate(path, 100), 0);
    assert_true(verify_dir(dir, "docs", false)->error_count > 0);
    assert_int_equal(truncate(path, 0), 0);
    assert_true(verify_dir(dir, "docs", false)->error_count > 0);
    test_dir_remove(dir);
}

/* A complete docs.ckpt of this generation, whose only block is zeros over the first slots. */
static void forge_ckpt(const char *dir, const struct image *img, uint64_t generation)
{
    char path[768];
    struct {
        uint8_t head[BLOCK_BYTES], block[BLOCK_BYTES];
        uint64_t number;
        struct disk_ckpt_footer footer;
    } *c = calloc(1, sizeof *c);
    struct disk_ckpt_header h = {
        .format_version = FORMAT_VERSION, .generation = generation, .lsn = img->sb.lsn};
    memcpy(h.magic, CKPT_MAGIC, sizeof h.magic);
    memcpy(h.uuid, img->sb.uuid, sizeof h.uuid);
    memcpy(c->head, &h, sizeof h);
    c->number = image_place(img, REGION_SLOTS, 0) / BLOCK_BYTES;
    c->footer = (struct disk_ckpt_footer){.block_count = 1, .bytes = sizeof *c};
    memcpy(c->footer.magic, CKPT_MAGIC, sizeof c->footer.magic);
    c->footer.crc = crc32c(
        0, c, offsetof(struct disk_ckpt_footer, crc) + ((uint8_t *)&c->footer - (uint8_t *)c));
    snprintf(path, sizeof path, "%s/docs.ckpt", dir);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_int_equal(write(fd, c, sizeof *c), sizeof *c);
    close(fd);
    free(c);
}

static void only_the_newest_superblock_says_which_checkpoint_is_due(void **state)
{
    (void)state;
    struct err err;
    uint64_t seed = 24;
    double ms;
    char *live = test_dir_new();
    fill(live, 25);
    struct service *svc = test_service_open(live);
    struct database *db = test_acquire(svc, "docs");
    write_rows(db, &seed, 10);
    CHECK_OK(service_flush(svc, "docs", &ms, &err)); /* the other superblock is the older one */
    char *dir = test_dir_copy(live);
    service_release(db);
    test_service_close(svc);

    struct image img;
    int fd = open(dir, O_RDONLY | O_DIRECTORY);
    CHECK_OK(image_open(fd, "docs", false, &img, &err));
    uint64_t newest = image_newest(&img)->generation;
    assert_true(img.superblock_good[0] && img.superblock_good[1]);
    assert_true(img.superblocks[0].generation + img.superblocks[1].generation == 2 * newest - 1);
    assert_true(image_use(&img, image_newest(&img), true));
    for (uint64_t generation = newest - 2; generation <= newest + 2; generation++) {
        bool is_due = generation == newest || generation == newest + 1;
        forge_ckpt(dir, &img, generation);
        assert_int_equal(verify_dir(dir, "docs", false)->error_count > 0, is_due);
    }
    image_close(&img);
    close(fd);
    test_dir_remove(dir);
    test_dir_remove(live);
}

struct writing {
    struct service *svc;
    _Atomic bool stop;
    _Atomic int checkpoints;
};

static void *write_and_flush(void *arg)
{
    struct writing *w = arg;
    struct err err;
    uint64_t seed = 6;
    double ms;
    struct database *db = test_acquire(w->svc, "docs");
    while (!atomic_load(&w->stop)) {
        write_rows(db, &seed, 60);
        CHECK_OK(service_flush(w->svc, "docs", &ms, &err));
        if (atomic_fetch_add(&w->checkpoints, 1) % 3 == 2) {
            struct compact_result result;
            CHECK_OK(service_compact(w->svc, "docs", &result, &err));
        }
    }
    service_release(db);
    return NULL;
}

static void writers_checkpoints_and_compactions_do_not_look_like_damage(void **state)
{
    (void)state;
    struct err err;
    char *dir = test_dir_new();
    fill(dir, 7);
    struct service *svc = test_service_open(dir);
    struct writing w = {.svc = svc};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, write_and_flush, &w), 0);
    struct verify_result *r = calloc(1, sizeof *r);
    /* However fast this machine is at the one and at the other. */
    for (int i = 0; i < 40 || atomic_load(&w.checkpoints) < 7; i++) {
        bool quarantined;
        CHECK_OK(service_verify(svc, "docs", r, &quarantined, &err));
        assert_clean(r);
        assert_false(quarantined);
    }
    atomic_store(&w.stop, true);
    pthread_join(thread, NULL);
    free(r);
    test_service_close(svc);
    assert_clean(verify_dir(dir, "docs", false));
    test_dir_remove(dir);
}

/* ---- a checkpoint at any moment of a verification ---- */

enum { MANY_ROWS = 40000, MANY_DIM = 4, GONE_EVERY = 50 };

/* More blocks of slots and id index than image.c keeps; every 50th id was deleted. */
static void fill_many(const char *dir)
{
    static float vectors[1000][MANY_DIM];
    static struct row_input rows[1000];
    struct err err;
    uint64_t seed = 20, lsn;
    double ms;
    struct service *svc = test_service_open(dir);
    /* Without a graph: whoever builds one looks at all rows, and finds damage before verify does.
     */
    bool created;
    const struct schema schema = {.dimension = MANY_DIM,
                                  .metric = METRIC_EUCLIDEAN,
                                  .durability = DURABILITY_PERIODIC,
                                  .index.kind = INDEX_FLAT};
    CHECK_OK(service_create(svc, "docs", &schema, false, &created, &err));
    struct database *db = test_acquire(svc, "docs");
    for (uint64_t first = 0; first < MANY_ROWS; first += 1000) {
        for (uint64_t i = 0; i < 1000; i++) {
            for (int k = 0; k < MANY_DIM; k++)
                vectors[i][k] = test_random_float(&seed);
            rows[i] = (struct row_input){.id = {.number = first + i}, .vector = vectors[i]};
        }
        CHECK_OK(database_put(db, rows, 1000, MANY_DIM, true, &lsn, &err));
    }
    for (uint64_t id = 0; id < MANY_ROWS; id += GONE_EVERY)
        assert_int_equal(test_delete(db, (struct vector_id){.number = id}), 1);
    CHECK_OK(service_flush(svc, "docs", &ms, &err));
    service_release(db);
    test_service_close(svc);
}

struct watched {
    struct service *svc;
    const struct verify_result *r;
    void (*then)(const char *dir); /* after the checkpoint; may be NULL */
    const char *dir;
    int calls, at; /* the checkpoint comes in this call, from 1; 0: with the first rows */
    uint64_t next_id;
    bool stops; /* in the call after it */
    bool done;
};

/* Blocks of slots and index all over the file change, but no row. */
static void write_a_checkpoint(struct watched *w)
{
    struct err err;
    double ms;
    struct database *db = test_acquire(w->svc, "docs");
    for (int i = 0; i < 20; i++) {
        struct vector_id id = {.number = w->next_id};
        w->next_id = (w->next_id + 37 * GONE_EVERY) % MANY_ROWS;
        test_put_number(db, id.number, 1);
        assert_int_equal(test_delete(db, id), 1);
    }
    CHECK_OK(service_flush(w->svc, "docs", &ms, &err));
    service_release(db);
}

static bool checkpoint_once(void *ctx, uint64_t bytes)
{
    struct watched *w = ctx;
    (void)bytes;
    w->calls++;
    if (w->done && w->stops) return false;
    if (w->done || (w->at ? w->calls != w->at : w->r->rows_checked == 0)) return true;
    w->done = true;
    write_a_checkpoint(w);
    if (w->then) w->then(w->dir);
    return true;
}

static struct verify_result *verify_watched(struct watched *w)
{
    static struct verify_result r;
    struct err err;
    int fd = open(w->dir, O_RDONLY | O_DIRECTORY);
    struct verify_options o = {
        .dir_fd = fd, .name = "docs", .live = true, .pace = checkpoint_once, .ctx = w};
    w->r = &r;
    w->calls = 0;
    w->done = false;
    CHECK_OK(verify_files(&o, &r, &err));
    close(fd);
    return &r;
}

static void a_checkpoint_at_any_moment_hides_nothing(void **state)
{
    (void)state;
    char *dir = test_dir_new();
    fill_many(dir);
    struct watched w = {.svc = test_service_open(dir), .dir = dir, .at = -1};
    const struct verify_result *r = verify_watched(&w);
    assert_clean(r);
    const uint64_t live = MANY_ROWS - MANY_ROWS / GONE_EVERY;
    assert_int_equal(r->rows_checked, live);
    int calls = w.calls;
    assert_true(calls > 20);
    for (w.at = 1; w.at <= calls; w.at += 4) {
        r = verify_watched(&w);
        assert_true(w.done);
        assert_clean(r);
        assert_int_equal(r->rows_checked, live);
    }
    test_service_close(w.svc);
    assert_clean(verify_dir(dir, "docs", false));

    /* Slot and id index do not agree any more. */
    forge_slot(dir, MANY_ROWS / 2 + 7, give_another_key);
    w.svc = test_service_open(dir);
    for (w.at = 1; w.at <= calls; w.at += 7) {
        bool found = false;
        r = verify_watched(&w);
        for (size_t i = 0; i < r->errors_kept; i++)
            found = found || r->errors[i].region == VERIFY_ID_INDEX;
        if (!found) fail_msg("nothing was found with a checkpoint in call %d", w.at);
    }
    test_service_close(w.svc);
    test_dir_remove(dir);
}

static void what_was_not_looked_at_twice_before_a_stop_is_no_damage(void **state)
{
    (void)state;
    char *dir = test_dir_new();
    fill_many(dir);
    struct watched w = {.svc = test_service_open(dir), .dir = dir, .at = -1, .stops = true};
    assert_clean(verify_watched(&w));
    int calls = w.calls;
    for (w.at = 1; w.at < calls; w.at += 5) {
        const struct verify_result *r = verify_watched(&w);
        assert_false(r->complete);
        assert_int_equal(r->error_count, 0);
    }
    test_service_close(w.svc);
    test_dir_remove(dir);
}

static void flip_last_row(const char *dir)
{
    struct err err;
    struct image img;
    int fd = open(dir, O_RDONLY | O_DIRECTORY);
    CHECK_OK(image_open(fd, "docs", false, &img, &err));
    assert_true(image_use(&img, image_newest(&img), true));
    flip(dir, "docs.jvdb", image_place(&img, REGION_VECTORS, MANY_ROWS - 1) + 3);
    flip(dir, "docs.jvdb", img.sb.manifest_at + 100);
    image_close(&img);
    close(fd);
}

static void a_new_checkpoint_that_is_damaged_is_not_passed_over(void **state)
{
    (void)state;
    char *dir = test_dir_new();
    fill_many(dir);
    struct watched w = {.svc = test_service_open(dir), .dir = dir, .then = flip_last_row};
    const struct verify_result *r = verify_watched(&w);
    assert_true(w.done);
    assert_true(r->complete && r->error_count > 0);
    assert_int_equal(r->errors[0].region, VERIFY_MANIFEST);
    test_service_close(w.svc);
    test_dir_remove(dir);
}

/* In each pass: it can never be told what is damage and what is new. */
static bool checkpoint_often(void *ctx, uint64_t bytes)
{
    struct watched *w = ctx;
    (void)bytes;
    if (w->calls++ % 40 == 0) write_a_checkpoint(w);
    return true;
}

static void a_file_that_never_holds_still_is_not_called_damaged(void **state)
{
    (void)state;
    struct err err;
    char *dir = test_dir_new();
    fill_many(dir);
    struct watched w = {.svc = test_service_open(dir), .dir = dir};
    int fd = open(dir, O_RDONLY | O_DIRECTORY);
    struct verify_options o = {
        .dir_fd = fd, .name = "docs", .live = true, .pace = checkpoint_often, .ctx = &w};
    static struct verify_result r;
    CHECK_OK(verify_files(&o, &r, &err));
    assert_false(r.complete);
    assert_int_equal(r.error_count, 0);
    close(fd);
    test_service_close(w.svc);
    test_dir_remove(dir);
}

static void remove_log(const char *dir)
{
    for (int i = 0; i < 64; i++) {
        char path[768];
        snprintf(path, sizeof path, "%s/docs.wal.%d", dir, i);
        unlink(path);
    }
}

static void a_log_that_is_gone_is_missed_and_made_again(void **state)
{
    (void)state;
    struct err err;
    double ms;
    uint64_t seed = 21;
    char *dir = test_dir_new();
    struct service *svc = test_service_open(dir);
    test_create(svc, "docs", DIM, METRIC_COSINE);
    struct database *db = test_acquire(svc, "docs");
    struct verify_result *r = calloc(1, sizeof *r);
    /* With records in it, and without. */
    for (int round = 0; round < 4; round++) {
        write_rows(db, &seed, 50);
        CHECK_OK(service_flush(svc, "docs", &ms, &err)); /* one segment is kept for the next */
        if (round % 2) write_rows(db, &seed, 50);
        uint64_t count = test_count(db);
        remove_log(dir);
        bool quarantined = true;
        CHECK_OK(service_verify(svc, "docs", r, &quarantined, &err));
        assert_int_equal(r->error_count, 1);
        assert_int_equal(r->errors[0].region, VERIFY_LOG);
        assert_true(r->errors[0].healed);
        assert_false(quarantined);
        CHECK_OK(service_verify(svc, "docs", r, &quarantined, &err));
        assert_clean(r);
        assert_int_equal(test_count(db), count);
    }
    free(r);
    service_release(db);
    test_service_close(svc);
    test_dir_remove(dir);
}

/* ---- what becomes of it ---- */

static void damage_under_an_open_database_quarantines_it_with_the_reason(void **state)
{
    (void)state;
    struct err err;
    char *dir = test_dir_new();
    fill(dir, 8);
    struct service *svc = test_service_open(dir);
    test_create(svc, "other", DIM, METRIC_COSINE);
    uint64_t row, at = place_of(dir, VERIFY_VECTORS, &row);
    flip(dir, "docs.jvdb", at);
    struct database *db = test_acquire(svc, "docs");
    struct verify_result *r = calloc(1, sizeof *r);
    bool quarantined;
    CHECK_OK(service_verify(svc, "docs", r, &quarantined, &err));
    assert_true(quarantined);
    assert_int_equal(r->error_count, 1);
    struct row found;
    struct reader reader;
    struct vector_id id = {.number = 1};
    reader_begin(db, &reader);
    assert_int_equal(reader_get(&reader, &id, &found, &err), ERR_QUARANTINED);
    reader_end(&reader);
    assert_non_null(strstr(err.msg, "vectors: the row in slot"));
    service_release(db);

    struct database_info info = test_info(svc, "docs");
    assert_true(info.quarantined);
    assert_non_null(strstr(info.reason, "vectors: the row in slot"));
    test_put_number(db = test_acquire(svc, "other"), 1, 1);
    service_release(db);
    CHECK_OK(service_verify(svc, "other", r, &quarantined, &err));
    assert_clean(r);
    CHECK_OK(service_drop(svc, "docs", &err));
    free(r);
    test_service_close(svc);
    test_dir_remove(dir);
}

static void what_memory_still_has_is_written_anew(void **state)
{
    (void)state;
    static const enum verify_region regions[] = {VERIFY_SUPERBLOCK, VERIFY_MANIFEST, VERIFY_SLOTS,
                                                 VERIFY_ID_INDEX};
    for (size_t i = 0; i < sizeof regions / sizeof regions[0]; i++) {
        struct err err;
        uint64_t row;
        char *dir = test_dir_new();
        fill(dir, 9);
        uint64_t at = place_of(dir, regions[i], &row);
        struct service *svc = test_service_open(dir);
        struct database *db = test_acquire(svc, "docs");
        uint64_t seed = 10;
        write_rows(db, &seed, ROWS); /* every block is dirty by now */
        uint64_t count = test_count(db);
        flip(dir, "docs.jvdb", at);
        struct verify_result *r = calloc(1, sizeof *r);
        bool quarantined = true;
        CHECK_OK(service_verify(svc, "docs", r, &quarantined, &err));
        assert_int_equal(r->error_count, 1);
        assert_int_equal(r->errors[0].region, regions[i]);
        assert_false(quarantined);
        assert_true(r->errors[0].healed);
        CHECK_OK(service_verify(svc, "docs", r, &quarantined, &err));
        assert_clean(r);
        assert_int_equal(test_count(db), count);
        service_release(db);
        free(r);
        test_service_close(svc);
        assert_clean(verify_dir(dir, "docs", false));
        test_dir_remove(dir);
    }
}

static void what_is_found_when_the_rest_is_healed_is_the_reason(void **state)
{
    (void)state;
    struct err err;
    uint64_t row;
    char *dir = test_dir_new();
    fill(dir, 9);
    uint64_t manifest_at = place_of(dir, VERIFY_MANIFEST, &row);
    uint64_t at = place_of(dir, VERIFY_VECTORS, &row);
    struct service *svc = test_service_open(dir);
    struct database *db = test_acquire(svc, "docs");
    flip(dir, "docs.jvdb", manifest_at); /* without it no row can be looked at */
    flip(dir, "docs.jvdb", at);
    struct verify_result *r = calloc(1, sizeof *r);
    bool quarantined = false;
    CHECK_OK(service_verify(svc, "docs", r, &quarantined, &err));
    assert_true(quarantined);
    assert_int_equal(r->error_count, 2);
    assert_true(r->errors[0].healed);
    assert_false(r->errors[1].healed);
    assert_int_equal(r->errors[1].region, VERIFY_VECTORS);
    assert_non_null(strstr(test_info(svc, "docs").reason, "vectors: the row in slot"));
    service_release(db);
    free(r);
    test_service_close(svc);
    test_dir_remove(dir);
}

static bool was_found(void *ctx)
{
    struct service_stats stats;
    service_stats(ctx, &stats);
    return stats.quarantined == 1 && stats.scrub_progress == 1;
}

static void the_scrub_finds_damage_of_closed_databases_without_opening_them(void **state)
{
    (void)state;
    struct err err;
    char *dir = test_dir_new();
    fill(dir, 11);
    uint64_t row, at = place_of(dir, VERIFY_RECORDS, &row);
    flip(dir, "docs.jvdb", at);
    struct service_options options = test_options(dir);
    options.scrub_interval_seconds = 1;
    options.scrub_bytes_per_second = 1 << 30;
    struct service *svc = NULL;
    CHECK_OK(service_open(&options, &svc, &err));
    assert_true(test_until(was_found, svc));
    struct service_stats stats;
    service_stats(svc, &stats);
    assert_int_equal(stats.open_files, 0);
    struct database *db;
    assert_int_equal(service_acquire(svc, "docs", true, &db, &err), ERR_QUARANTINED);
    assert_non_null(strstr(err.msg, "records: the record of slot"));
    test_service_close(svc);
    test_dir_remove(dir);
}

static struct service *scrub_service(const char *dir, uint64_t bytes_per_second)
{
    struct err err;
    struct service_options options = test_options(dir);
    options.scrub_interval_seconds = 1;
    options.scrub_bytes_per_second = bytes_per_second;
    struct service *svc = NULL;
    CHECK_OK(service_open(&options, &svc, &err));
    return svc;
}

static void the_scrub_misses_the_log_of_a_closed_database(void **state)
{
    (void)state;
    struct err err;
    char *dir = test_dir_new();
    fill(dir, 22);
    remove_log(dir);
    struct service *svc = scrub_service(dir, 1 << 30);
    assert_true(test_until(was_found, svc));
    struct database *db;
    assert_int_equal(service_acquire(svc, "docs", true, &db, &err), ERR_QUARANTINED);
    assert_non_null(strstr(err.msg, "the log is missing"));
    test_service_close(svc);
    test_dir_remove(dir);
}

static void the_scrub_goes_on_behind_a_file_that_never_holds_still(void **state)
{
    (void)state;
    char *dir = test_dir_new();
    fill_many(dir);
    struct service *svc = test_service_open(dir);
    test_create(svc, "other", DIM, METRIC_COSINE);
    test_service_close(svc);
    flip(dir, "other.jvdb", BLOCK_BYTES + 700);
    svc = scrub_service(dir, 40 << 20); /* a tenth of a second for the first one */
    struct watched w = {.svc = svc, .dir = dir};
    struct service_stats stats = {0};
    for (uint64_t end = clock_ns() + 60000000000ull; !stats.quarantined && clock_ns() < end;) {
        write_a_checkpoint(&w);
        service_stats(svc, &stats);
    }
    assert_int_equal(stats.quarantined, 1);
    assert_true(test_info(svc, "other").quarantined);
    test_service_close(svc);
    test_dir_remove(dir);
}

static void a_slow_scrub_ends_at_once_with_the_service(void **state)
{
    (void)state;
    struct err err;
    char *dir = test_dir_new();
    fill(dir, 12);
    struct service_options options = test_options(dir);
    options.scrub_interval_seconds = 1;
    options.scrub_bytes_per_second = 1; /* it would take days */
    struct service *svc = NULL;
    CHECK_OK(service_open(&options, &svc, &err));
    struct service_stats stats = {0};
    for (uint64_t end = clock_ns() + 10000000000ull; !stats.scrub_progress && clock_ns() < end;) {
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
        service_stats(svc, &stats);
    }
    assert_true(stats.scrub_progress > 0 && stats.scrub_progress < 1);
    uint64_t begun = clock_ns();
    test_service_close(svc);
    assert_true(clock_ns() - begun < 5000000000ull);
    test_dir_remove(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whatever_was_written_is_in_order),
        cmocka_unit_test(a_new_database_is_in_order),
        cmocka_unit_test(one_flipped_bit_is_found_in_every_region),
        cmocka_unit_test(what_has_right_checksums_and_makes_no_sense_is_found),
        cmocka_unit_test(a_damaged_log_is_found_and_a_torn_tail_is_none),
        cmocka_unit_test(a_missing_or_shortened_file_is_damage),
        cmocka_unit_test(only_the_newest_superblock_says_which_checkpoint_is_due),
        cmocka_unit_test(writers_checkpoints_and_compactions_do_not_look_like_damage),
        cmocka_unit_test(a_checkpoint_at_any_moment_hides_nothing),
        cmocka_unit_test(what_was_not_looked_at_twice_before_a_stop_is_no_damage),
        cmocka_unit_test(a_new_checkpoint_that_is_damaged_is_not_passed_over),
        cmocka_unit_test(a_file_that_never_holds_still_is_not_called_damaged),
        cmocka_unit_test(a_log_that_is_gone_is_missed_and_made_again),
        cmocka_unit_test(damage_under_an_open_database_quarantines_it_with_the_reason),
        cmocka_unit_test(what_memory_still_has_is_written_anew),
        cmocka_unit_test(what_is_found_when_the_rest_is_healed_is_the_reason),
        cmocka_unit_test(the_scrub_finds_damage_of_closed_databases_without_opening_them),
        cmocka_unit_test(the_scrub_misses_the_log_of_a_closed_database),
        cmocka_unit_test(the_scrub_goes_on_behind_a_file_that_never_holds_still),
        cmocka_unit_test(a_slow_scrub_ends_at_once_with_the_service),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

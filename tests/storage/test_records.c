/* Records come back as they were written, wherever they lie, or not at all. */
#include "tests/storage/fixture.h"

#include "storage/base/epoch.h"
#include "storage/records.h"

static const uint8_t uuid[16] = "records";

struct fixture {
    char *path;
    int dir;
    struct jvdb_file f;
};

static int set_up(void **state)
{
    struct fixture *fx = calloc(1, sizeof *fx);
    assert_non_null(fx);
    struct err err;
    fx->path = test_dir_new();
    fx->dir = open(fx->path, O_RDONLY | O_DIRECTORY);
    int fd = openat(fx->dir, "r.jvdb", O_RDWR | O_CREAT, 0600);
    assert_true(fx->dir >= 0 && fd >= 0 && ftruncate(fd, HEADER_BYTES) == 0);
    close(fd);
    CHECK_OK(jvdb_file_init(&fx->f, fx->dir, "r.jvdb", uuid, DIMENSION_MAX, &err));
    CHECK_OK(jvdb_file_writable(&fx->f, &err));
    CHECK_OK(jvdb_file_map(&fx->f, &err));
    *state = fx;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *fx = *state;
    epoch_synchronize();
    jvdb_file_deinit(&fx->f);
    close(fx->dir);
    test_dir_remove(fx->path);
    free(fx);
    return 0;
}

/* Extent by extent, each followed by one of another region: what straddles two is in two places. */
static void grow(struct fixture *fx, uint64_t bytes)
{
    struct err err;
    uint32_t extents = atomic_load(&fx->f.extent_count[REGION_RECORDS]);
    while (region_capacity(&fx->f.shapes[REGION_RECORDS], extents) < bytes) {
        extents++;
        CHECK_OK(jvdb_file_grow(&fx->f, REGION_RECORDS,
                                region_capacity(&fx->f.shapes[REGION_RECORDS], extents), &err));
        CHECK_OK(jvdb_file_grow(&fx->f, REGION_SLOTS,
                                region_capacity(&fx->f.shapes[REGION_SLOTS], extents), &err));
    }
}

/* Texts that differ from place to place. */
static void fill(char *text, size_t bytes, uint64_t seed)
{
    for (size_t i = 0; i < bytes; i++)
        text[i] = (char)('!' + (seed * 31 + i * 7 + i / 90) % 90);
}

static char id_text[ID_BYTES_MAX], metadata[METADATA_BYTES_MAX];

static void write_record(struct fixture *fx, uint64_t at, uint32_t text_bytes,
                         uint32_t metadata_bytes)
{
    struct err err;
    fill(id_text, text_bytes, at);
    fill(metadata, metadata_bytes, at + 1);
    CHECK_OK(records_write(&fx->f, at + 1, at ^ 77, id_text, text_bytes, metadata, metadata_bytes,
                           &err));
}

static void check_record(struct fixture *fx, uint64_t at, uint32_t text_bytes,
                         uint32_t metadata_bytes)
{
    struct err err;
    struct arena pieces = {0};
    struct record got;
    char copy[ID_BYTES_MAX];
    fill(id_text, text_bytes, at);
    fill(metadata, metadata_bytes, at + 1);
    epoch_enter();
    CHECK_OK(records_read(&fx->f, at + 1, &pieces, &got, &err));
    assert_int_equal(got.lsn, at ^ 77);
    assert_int_equal(got.text_bytes, text_bytes);
    assert_int_equal(got.metadata_bytes, metadata_bytes);
    assert_memory_equal(got.text, id_text, text_bytes);
    assert_memory_equal(got.metadata, metadata, metadata_bytes);
    const char *text = records_text(&fx->f, at + 1, text_bytes, copy);
    assert_non_null(text);
    assert_memory_equal(text, id_text, text_bytes);
    assert_null(records_text(&fx->f, at + 1, text_bytes + 1, copy));
    epoch_leave();
    arena_free(&pieces);
}

static void a_record_takes_whole_words(void **state)
{
    (void)state;
    for (uint32_t text = 0; text < 40; text++)
        for (uint32_t meta = 0; meta < 40; meta++) {
            uint64_t size = records_size(text, meta),
                     need = sizeof(struct disk_record) + text + meta;
            assert_true(size % 8 == 0 && size >= need && size < need + 8);
        }
    assert_int_equal(records_size(ID_BYTES_MAX, METADATA_BYTES_MAX), 32 + 512 + 65536);
}

static void records_straddle_extents_at_every_boundary(void **state)
{
    struct fixture *fx = *state;
    enum { EXTENTS = 28 };
    uint64_t end = region_capacity(&fx->f.shapes[REGION_RECORDS], EXTENTS);
    grow(fx, end);
    for (uint32_t extent = 1; extent < EXTENTS; extent++) {
        uint64_t boundary = region_capacity(&fx->f.shapes[REGION_RECORDS], extent);
        assert_int_equal(region_run(&fx->f.shapes[REGION_RECORDS], boundary - 8), 8);
        /* The boundary in front of the record, in its head, its id, its metadata, behind it. */
        for (uint64_t before = 0; before <= records_size(41, 99); before += 8) {
            write_record(fx, boundary - before, 41, 99);
            check_record(fx, boundary - before, 41, 99);
        }
    }
}

static void neighbours_of_a_straddling_record_stay_whole(void **state)
{
    struct fixture *fx = *state;
    uint64_t boundary = region_capacity(&fx->f.shapes[REGION_RECORDS], 3);
    grow(fx, boundary + 4096);
    uint64_t middle = boundary - 48, left = middle - records_size(9, 15),
             right = middle + records_size(33, 34);
    write_record(fx, left, 9, 15);
    write_record(fx, right, 512, 7);
    write_record(fx, middle, 33, 34);
    check_record(fx, left, 9, 15);
    check_record(fx, middle, 33, 34);
    check_record(fx, right, 512, 7);
}

static void the_longest_record_may_span_many_extents(void **state)
{
    struct fixture *fx = *state;
    uint64_t size = records_size(ID_BYTES_MAX, METADATA_BYTES_MAX);
    grow(fx, 4 * size);
    for (uint64_t at = 0; at < 3 * size; at += 8 * 1021)
        write_record(fx, at, ID_BYTES_MAX, METADATA_BYTES_MAX),
            check_record(fx, at, ID_BYTES_MAX, METADATA_BYTES_MAX);
}

static void empty_texts_are_records_too(void **state)
{
    struct fixture *fx = *state;
    grow(fx, 4096);
    write_record(fx, 0, 0, 0);
    write_record(fx, 32, 1, 0);
    write_record(fx, 72, 0, 1);
    check_record(fx, 0, 0, 0);
    check_record(fx, 32, 1, 0);
    check_record(fx, 72, 0, 1);
}

/* Offset in the file of a byte of the region. */
static uint64_t file_offset(struct fixture *fx, uint64_t at)
{
    const struct jvdb_view *v = atomic_load(&fx->f.view);
    return (uint64_t)((const uint8_t *)jvdb_file_read(&fx->f, REGION_RECORDS, at) - v->shared);
}

static void flip(struct fixture *fx, uint64_t at, uint8_t bit)
{
    uint8_t byte;
    uint64_t offset = file_offset(fx, at);
    assert_int_equal(file_read(fx->f.fd, &byte, 1, offset), 0);
    byte ^= bit;
    assert_int_equal(file_write(fx->f.fd, &byte, 1, offset), 0);
}

static void every_flipped_bit_is_refused(void **state)
{
    struct fixture *fx = *state;
    struct err err;
    uint64_t boundary = region_capacity(&fx->f.shapes[REGION_RECORDS], 1);
    grow(fx, boundary + 65536);
    const uint64_t places[] = {128, boundary - 40}; /* in one piece, and in two */
    for (int p = 0; p < 2; p++) {
        write_record(fx, places[p], 21, 30);
        uint64_t bytes = sizeof(struct disk_record) + 21 + 30; /* the padding means nothing */
        for (uint64_t i = 0; i < bytes; i++) {
            for (int bit = 0; bit < 8; bit++) {
                flip(fx, places[p] + i, (uint8_t)(1u << bit));
                struct arena pieces = {0};
                struct record got;
                if (records_read(&fx->f, places[p] + 1, &pieces, &got, &err) != ERR_CORRUPT)
                    fail_msg("bit %d of byte %d was not missed", bit, (int)i);
                arena_free(&pieces);
                flip(fx, places[p] + i, (uint8_t)(1u << bit));
            }
        }
        check_record(fx, places[p], 21, 30);
    }
}

static void a_record_that_lies_elsewhere_is_refused(void **state)
{
    struct fixture *fx = *state;
    struct err err;
    struct arena pieces = {0};
    struct record got;
    uint8_t bytes[64];
    grow(fx, 4096);
    write_record(fx, 0, 0, 32);
    write_record(fx, 64, 0, 32);
    assert_int_equal(file_read(fx->f.fd, bytes, sizeof bytes, file_offset(fx, 64)), 0);
    assert_int_equal(file_write(fx->f.fd, bytes, sizeof bytes, file_offset(fx, 0)), 0);
    assert_int_equal(records_read(&fx->f, 1, &pieces, &got, &err), ERR_CORRUPT);
    check_record(fx, 64, 0, 32);
    arena_free(&pieces);
}

static void an_address_that_is_none_is_refused(void **state)
{
    struct fixture *fx = *state;
    struct err err;
    struct record got;
    struct arena pieces = {0};
    char copy[ID_BYTES_MAX];
    grow(fx, 1);
    uint64_t end = region_capacity(
        &fx->f.shapes[REGION_RECORDS],
        atomic_load_explicit(&fx->f.extent_count[REGION_RECORDS], memory_order_relaxed));
    /* A record that ends exactly with the region, and one that would go on behind it. */
    write_record(fx, end - records_size(5, 3), 5, 3);
    check_record(fx, end - records_size(5, 3), 5, 3);
    const uint64_t bad[] = {0,          end - 31,       end - 8,        end,       end + 1,
                            UINT64_MAX, UINT64_MAX - 7, UINT64_MAX / 2, 1ull << 40};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(records_read(&fx->f, bad[i], &pieces, &got, &err), ERR_CORRUPT);
        assert_null(records_text(&fx->f, bad[i], 5, copy));
    }
    arena_free(&pieces);
}

/* The mapping is 256 MiB at first: the file outgrows it while somebody reads. */
static void a_reader_keeps_its_bytes_when_the_file_outgrows_its_mapping(void **state)
{
    struct fixture *fx = *state;
    struct err err;
    grow(fx, 4096);
    write_record(fx, 64, 100, 1000);
    epoch_enter();
    struct arena pieces = {0};
    struct record got;
    CHECK_OK(records_read(&fx->f, 65, &pieces, &got, &err));
    const struct jvdb_view *before = atomic_load(&fx->f.view);
    CHECK_OK(jvdb_file_grow(&fx->f, REGION_VECTORS, 1100, &err)); /* 256 KiB each */
    const struct jvdb_view *after = atomic_load(&fx->f.view);
    assert_true(after->map_bytes > before->map_bytes);
    assert_true(after->map_bytes >= fx->f.file_bytes);
    epoch_collect();
    fill(metadata, 1000, 65);
    assert_memory_equal(got.metadata, metadata, 1000);
    epoch_leave();
    arena_free(&pieces);
    check_record(fx, 64, 100, 1000);
    write_record(fx, 2048, 7, 9);
    check_record(fx, 2048, 7, 9);
}

static void growth_moves_nothing(void **state)
{
    struct fixture *fx = *state;
    uint64_t at = 0, places[600], count = 0;
    while (count < 600) {
        uint32_t text = (uint32_t)(count * 37 % 513), meta = (uint32_t)(count * count % 5000);
        grow(fx, at + records_size(text, meta));
        write_record(fx, at, text, meta);
        places[count++] = at;
        at += records_size(text, meta);
    }
    for (uint64_t i = 0; i < count; i++)
        check_record(fx, places[i], (uint32_t)(i * 37 % 513), (uint32_t)(i * i % 5000));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_record_takes_whole_words),
        TEST(records_straddle_extents_at_every_boundary),
        TEST(neighbours_of_a_straddling_record_stay_whole),
        TEST(the_longest_record_may_span_many_extents),
        TEST(empty_texts_are_records_too),
        TEST(every_flipped_bit_is_refused),
        TEST(a_record_that_lies_elsewhere_is_refused),
        TEST(an_address_that_is_none_is_refused),
        TEST(a_reader_keeps_its_bytes_when_the_file_outgrows_its_mapping),
        TEST(growth_moves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

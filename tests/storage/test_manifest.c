/* Superblock and manifest: nothing that a file says of itself is believed unchecked. */
#include "tests/storage/model.h"

#include "storage/base/mem.h"

static struct err err;

/* ---- a file with a rich manifest, and its parts ---- */

static uint8_t *whole;
static size_t whole_len;
static struct disk_superblock sb;
static uint8_t *manifest; /* within `whole` */

static void make_file(void)
{
    static struct schema schema = {.dimension = 16,
                                   .metric = METRIC_DOT_PRODUCT,
                                   .durability = DURABILITY_PERIODIC,
                                   .initial_capacity = 12345,
                                   .index = {.kind = INDEX_GRAPH,
                                             .quantization = QUANTIZATION_BINARY,
                                             .m = 4,
                                             .ef_construction = 2000},
                                   .options = (char *)(uintptr_t) "{\"description\":\"some\"}"};
    struct database_open_options options = {0};
    struct database_host host = {0};
    struct database *db;
    static float vector[16];
    static struct row_input rows[900];
    uint64_t lsn;
    size_t deleted;
    assert_int_equal(database_create_files(data_fd, "db", model_uuid, &schema, &err), ERR_OK);
    assert_int_equal(database_open(data_fd, "db", model_uuid, &options, &host, &db, &err), ERR_OK);
    for (int i = 0; i < 900; i++)
        rows[i] = (struct row_input){.id.number = (uint64_t)i,
                                     .vector = vector,
                                     .metadata = "{\"a\":\"some text of a row\"}",
                                     .metadata_bytes = 25};
    assert_int_equal(database_put(db, rows, 900, 16, true, &lsn, &err), ERR_OK);
    assert_int_equal(database_delete(db, &rows[7].id, 1, true, &deleted, &lsn, &err), ERR_OK);
    struct jvdb_file *f = &db->store->file;
    jvdb_file_reshape(f, REGION_CODES, 128);
    jvdb_file_reshape(f, REGION_LINKS, 64);
    assert_int_equal(jvdb_file_grow(f, REGION_CODES, 900, &err), ERR_OK);
    assert_int_equal(jvdb_file_grow(f, REGION_LINKS, 900, &err), ERR_OK);
    assert_int_equal(checkpoint_close(db, &err), ERR_OK);
    model_close(db);
    whole = file_bytes(data_fd, "db.jvdb", &whole_len);
    memcpy(&sb, whole, sizeof sb);
    manifest = whole + sb.manifest_at;
}

static int set_up(void **state)
{
    if (temp_dir_set_up(state)) return -1;
    make_file();
    return 0;
}

static int tear_down(void **state)
{
    free(whole);
    return temp_dir_tear_down(state);
}

static void write_file(void)
{
    set_file(data_fd, "db.jvdb", whole, whole_len);
}

/* The checksums of the manifest and of both superblocks, made right. */
static void sign(void)
{
    struct disk_superblock b;
    memcpy(&b, &sb, sizeof b);
    if (b.manifest_at < whole_len && b.manifest_bytes <= whole_len - b.manifest_at)
        b.manifest_crc = crc32c(0, whole + b.manifest_at, b.manifest_bytes);
    b.crc = crc32c(0, &b, offsetof(struct disk_superblock, crc));
    memcpy(whole, &b, sizeof b);
    memcpy(whole + BLOCK_BYTES, &b, sizeof b);
    write_file();
}

/* The payload of record number n of that name in the manifest, and its head. */
static void *payload(const char *name, int n, struct disk_manifest_record **head)
{
    struct disk_manifest m;
    memcpy(&m, manifest, sizeof m);
    uint8_t *at = manifest + sizeof m;
    for (uint32_t i = 0; i < m.record_count; i++) {
        struct disk_manifest_record *r = (void *)at;
        if (strcmp(r->name, name) == 0 && n-- == 0) {
            if (head) *head = r;
            return r + 1;
        }
        at += sizeof *r + (r->bytes + 7) / 8 * 8;
    }
    fail();
    return NULL;
}

static struct disk_region *region(enum region_id id)
{
    return payload("region", (int)id, NULL);
}

static uint64_t *offsets(enum region_id id)
{
    return (uint64_t *)(void *)(region(id) + 1);
}

static enum err_code try_read(struct manifest *m)
{
    struct disk_superblock found;
    struct jvdb_file f;
    bool alike;
    int fd = openat(data_fd, "db.jvdb", O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    *m = (struct manifest){0};
    enum err_code rc = superblock_read(fd, "db.jvdb", &found, &alike, &err);
    if (!rc) {
        assert_int_equal(jvdb_file_init(&f, data_fd, "db.jvdb", found.uuid, 1, &err), ERR_OK);
        rc = manifest_read(fd, &found, &f, m, &err);
        jvdb_file_deinit(&f);
    }
    close(fd);
    return rc;
}

static enum err_code read_code(void)
{
    struct manifest m;
    enum err_code rc = try_read(&m);
    if (!rc) manifest_deinit(&m);
    return rc;
}

/* ---- right ones ---- */

static void what_was_encoded_is_read(void **state)
{
    (void)state;
    struct manifest m;
    assert_int_equal(try_read(&m), ERR_OK);
    assert_int_equal(m.schema.dimension, 16);
    assert_int_equal(m.schema.metric, METRIC_DOT_PRODUCT);
    assert_int_equal(m.schema.durability, DURABILITY_PERIODIC);
    assert_int_equal(m.schema.initial_capacity, 12345);
    assert_int_equal(m.schema.index.kind, INDEX_GRAPH);
    assert_int_equal(m.schema.index.quantization, QUANTIZATION_BINARY);
    assert_int_equal(m.schema.index.m, 4);
    assert_int_equal(m.schema.index.ef_construction, 2000);
    assert_string_equal(m.schema.options, "{\"description\":\"some\"}");
    assert_int_equal(m.counts.live_count, 899);
    assert_int_equal(m.counts.dead_count, 1);
    assert_int_equal(m.counts.slot_count, 900);
    assert_int_equal(m.counts.next_id, 900);
    assert_int_equal(m.counts.dead_first, 8);
    manifest_deinit(&m);
    int fd = openat(data_fd, "db.jvdb", O_RDONLY | O_CLOEXEC);
    assert_int_equal(manifest_peek(fd, "db.jvdb", &sb, &m, &err), ERR_OK);
    close(fd);
    assert_int_equal(m.schema.dimension, 16);
    assert_int_equal(m.counts.live_count, 899);
    manifest_deinit(&m);
}

/* Of the regions of the search index: their extents, and the shapes that are the file's own. */
static void regions_of_an_index_are_read(void **state)
{
    (void)state;
    struct database_open_options options = {0};
    struct database_host host = {0};
    struct database *db;
    assert_int_equal(database_open(data_fd, "db", model_uuid, &options, &host, &db, &err), ERR_OK);
    const struct jvdb_file *f = &db->store->file;
    assert_int_equal(f->shapes[REGION_CODES].cell_bytes, 128);
    assert_int_equal(f->shapes[REGION_LINKS].cell_bytes, 64);
    assert_true(region_capacity(&f->shapes[REGION_CODES], f->extent_count[REGION_CODES]) >= 900);
    assert_true(region_capacity(&f->shapes[REGION_LINKS], f->extent_count[REGION_LINKS]) >= 900);
    model_close(db);
}

static void a_record_of_an_index_is_read_and_can_be_taken_out_again(void **state)
{
    (void)state;
    struct jvdb_file f;
    struct manifest m = {0};
    struct disk_counts counts = {0};
    struct schema schema = {.dimension = 3};
    struct buf index = {0}, with = {0}, without = {0};
    uint64_t *extents[REGION_COUNT] = {0};
    size_t sums_at, sums_count;
    buf_str(&index, "anything at all");
    assert_int_equal(jvdb_file_init(&f, data_fd, "x", model_uuid, 3, &err), ERR_OK);
    manifest_encode(&f, &schema, &counts, &index, 5, 7, &with, &sums_at, &sums_count);
    manifest_encode(&f, &schema, &counts, NULL, 5, 7, &without, &sums_at, &sums_count);
    struct disk_superblock b = superblock_make(&f, &with, 0, HEADER_BYTES);
    b.manifest_at = SUPERBLOCK_COUNT * BLOCK_BYTES;
    jvdb_file_deinit(&f);
    assert_true(manifest_parse((uint8_t *)with.data, &b, &f, extents, &m));
    assert_int_equal(m.index_bytes, index.len);
    assert_memory_equal(m.index, index.data, index.len);
    manifest_deinit(&m);
    manifest_drop_index(&with);
    assert_int_equal(with.len, without.len);
    assert_memory_equal(with.data, without.data, with.len);
    buf_free(&index);
    buf_free(&with);
    buf_free(&without);
    for (int r = 0; r < REGION_COUNT; r++)
        mem_free(extents[r]);
    mem_free(f.sums_crc);
    space_deinit(&f.space);
}

static void free_space_is_what_no_extent_uses(void **state)
{
    (void)state;
    struct database_open_options options = {0};
    struct database_host host = {0};
    struct database *db;
    assert_int_equal(database_open(data_fd, "db", model_uuid, &options, &host, &db, &err), ERR_OK);
    struct jvdb_file *f = &db->store->file;
    uint64_t used = SUPERBLOCK_COUNT * BLOCK_BYTES + f->manifest_bytes;
    for (int r = 0; r < REGION_COUNT; r++)
        for (uint32_t e = 0; e < f->extent_count[r]; e++)
            used += region_extent_bytes(&f->shapes[r], e);
    assert_int_equal(used + f->space.free_bytes, f->file_bytes);
    model_close(db);
}

static void the_superblock_of_the_greater_generation_counts(void **state)
{
    (void)state;
    struct disk_superblock found, newer = sb;
    bool alike;
    newer.generation += 2;
    newer.crc = crc32c(0, &newer, offsetof(struct disk_superblock, crc));
    for (uint64_t i = 0; i < SUPERBLOCK_COUNT; i++) {
        write_file();
        poke(data_fd, "db.jvdb", i * BLOCK_BYTES, &newer, sizeof newer);
        int fd = openat(data_fd, "db.jvdb", O_RDONLY | O_CLOEXEC);
        assert_int_equal(superblock_read(fd, "db.jvdb", &found, &alike, &err), ERR_OK);
        close(fd);
        assert_int_equal(found.generation, sb.generation + 2);
        assert_false(alike);
    }
}

/* ---- damage ---- */

static void any_flipped_byte_of_a_superblock_leaves_the_other_one(void **state)
{
    (void)state;
    for (size_t at = 0; at < SUPERBLOCK_COUNT * BLOCK_BYTES; at++) {
        flip_byte(data_fd, "db.jvdb", at);
        enum err_code rc = read_code();
        /* A byte of the version may look like a newer format. */
        bool version = at % BLOCK_BYTES >= 4 && at % BLOCK_BYTES < 8;
        if (!(rc == ERR_OK || (version && rc == ERR_QUARANTINED)))
            fail_msg("byte %d: %s", (int)at, err.msg);
        flip_byte(data_fd, "db.jvdb", at);
    }
}

static void any_flipped_byte_of_both_superblocks_is_refused(void **state)
{
    (void)state;
    for (size_t at = 0; at < BLOCK_BYTES; at++) {
        flip_byte(data_fd, "db.jvdb", at);
        flip_byte(data_fd, "db.jvdb", at + BLOCK_BYTES);
        assert_int_not_equal(read_code(), ERR_OK);
        flip_byte(data_fd, "db.jvdb", at);
        flip_byte(data_fd, "db.jvdb", at + BLOCK_BYTES);
    }
}

static void any_flipped_byte_of_the_manifest_is_refused(void **state)
{
    (void)state;
    for (size_t at = 0; at < sb.manifest_bytes; at++) {
        flip_byte(data_fd, "db.jvdb", sb.manifest_at + at);
        assert_int_equal(read_code(), ERR_CORRUPT);
        flip_byte(data_fd, "db.jvdb", sb.manifest_at + at);
    }
    assert_int_equal(read_code(), ERR_OK);
}

static void a_file_that_is_none_of_ours_is_refused(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, 1, 4095, 4096, 8192, 100000};
    uint8_t *zeros = calloc(1, 100000);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        set_file(data_fd, "db.jvdb", zeros, sizes[i]);
        assert_int_equal(read_code(), ERR_CORRUPT);
    }
    free(zeros);
}

static void a_newer_format_is_quarantined_and_left_alone(void **state)
{
    (void)state;
    for (int what = 0; what < 3; what++) {
        struct disk_superblock right = sb;
        if (what == 0) sb.format_version = 3;
        if (what == 1) sb.features_incompat = 1;
        if (what == 2) sb.features_ro_compat = 1ull << 63;
        sign();
        sb = right;
        struct database *db;
        assert_int_equal(model_try_open(data_fd, false, &db, &err), ERR_QUARANTINED);
        size_t len;
        uint8_t *after = file_bytes(data_fd, "db.jvdb", &len);
        assert_int_equal(len, whole_len);
        assert_memory_equal(after, whole, len);
        free(after);
    }
    sb.features_compat = 1ull << 40;
    sign();
    assert_int_equal(read_code(), ERR_OK);
}

/* ---- lies with right checksums ---- */

static void assert_refused(const char *what)
{
    sign();
    enum err_code rc = read_code();
    if (rc != ERR_CORRUPT && rc != ERR_QUARANTINED) fail_msg("%s: %d", what, (int)rc);
}

#define REFUSED(place, value)                                                                      \
    do {                                                                                           \
        __typeof__(place) right_ = (place);                                                        \
        (place) = (value);                                                                         \
        assert_refused(#place " = " #value);                                                       \
        (place) = right_;                                                                          \
    } while (0)

static void a_lying_superblock_is_refused(void **state)
{
    (void)state;
    REFUSED(sb.manifest_at, 0);
    REFUSED(sb.manifest_at, BLOCK_BYTES);
    REFUSED(sb.manifest_at, sb.manifest_at + 8);
    REFUSED(sb.manifest_at, whole_len);
    REFUSED(sb.manifest_at, UINT64_MAX - BLOCK_BYTES + 1);
    REFUSED(sb.manifest_bytes, 0);
    REFUSED(sb.manifest_bytes, 40);
    REFUSED(sb.manifest_bytes, UINT64_MAX - BLOCK_BYTES + 1);
    REFUSED(sb.file_bytes, sb.file_bytes + BLOCK_BYTES * 1000);
    REFUSED(sb.file_bytes, sb.file_bytes - 1);
    REFUSED(sb.file_bytes, BLOCK_BYTES);
    REFUSED(sb.file_bytes, UINT64_MAX - BLOCK_BYTES + 1);
    REFUSED(sb.generation, sb.generation + 1);
    REFUSED(sb.lsn, sb.lsn + 1);
    REFUSED(sb.uuid[0], 1);
    sign();
    assert_int_equal(read_code(), ERR_OK);
}

static void a_lying_head_of_the_manifest_is_refused(void **state)
{
    (void)state;
    struct disk_manifest *h = (void *)manifest;
    REFUSED(h->magic[0], 'X');
    REFUSED(h->bytes, 0);
    REFUSED(h->bytes, sizeof *h - 1);
    REFUSED(h->bytes, sb.manifest_bytes + 1);
    REFUSED(h->bytes, UINT64_MAX);
    REFUSED(h->bytes, h->bytes - 8);
    REFUSED(h->record_count, 0);
    REFUSED(h->record_count, h->record_count - 1);
    REFUSED(h->record_count, h->record_count + 1);
    REFUSED(h->record_count, UINT32_MAX);
    sign();
    assert_int_equal(read_code(), ERR_OK);
}

static void records_that_are_too_long_unknown_or_twice_are_refused(void **state)
{
    (void)state;
    struct disk_manifest_record *r;
    static const char *const names[] = {"schema", "counts", "region", "sums"};
    for (int i = 0; i < 4; i++) {
        payload(names[i], 0, &r);
        REFUSED(r->name[0], 'x'); /* required, and unknown */
        REFUSED(r->bytes, UINT32_MAX);
        REFUSED(r->bytes, (uint32_t)sb.manifest_bytes);
    }
    payload("region", 2, &r);
    struct disk_region *slots = region(REGION_SLOTS);
    char right[16];
    memcpy(right, slots->name, 16);
    memcpy(slots->name, region(REGION_ID_INDEX)->name, 16);
    assert_refused("a region twice");
    memcpy(slots->name, right, 16);
    /* A second schema, after the regions were measured by the first. */
    payload("schema", 0, &r);
    struct disk_manifest *h = (void *)manifest;
    uint8_t *end = manifest + h->bytes;
    size_t bytes = sizeof *r + (r->bytes + 7) / 8 * 8;
    assert_true(h->bytes + bytes <= sb.manifest_bytes);
    memcpy(end, r, bytes);
    ((struct disk_schema *)(void *)(end + sizeof *r))->dimension = 1;
    h->bytes += bytes;
    h->record_count++;
    assert_refused("a schema twice");
}

static void a_lying_schema_is_refused(void **state)
{
    (void)state;
    struct disk_schema *s = payload("schema", 0, NULL);
    REFUSED(s->dimension, 0);
    REFUSED(s->dimension, DIMENSION_MAX + 1);
    REFUSED(s->dimension, 17); /* the cells of the vectors are of 16 */
    REFUSED(s->metric, METRIC_COUNT);
    REFUSED(s->metric, UINT32_MAX);
    REFUSED(s->durability, DURABILITY_COUNT);
    REFUSED(s->options_bytes, s->options_bytes + 1);
    REFUSED(s->options_bytes, OPTIONS_BYTES_MAX + 1);
    REFUSED(s->options_bytes, UINT32_MAX);
    REFUSED(s->index_kind, INDEX_KIND_COUNT);
    REFUSED(s->quantization, QUANTIZATION_COUNT);
    REFUSED(s->m, INDEX_M_MIN - 1);
    REFUSED(s->m, INDEX_M_MAX + 1);
    REFUSED(s->ef_construction, INDEX_EF_MIN - 1);
    REFUSED(s->ef_construction, INDEX_EF_MAX + 1);
}

static void lying_counts_are_refused(void **state)
{
    (void)state;
    struct disk_counts *c = payload("counts", 0, NULL);
    REFUSED(c->slot_count, UINT32_MAX);
    REFUSED(c->slot_count, 100000);
    REFUSED(c->live_count, c->slot_count);
    REFUSED(c->live_count, UINT64_MAX);
    REFUSED(c->live_count, UINT64_MAX - c->dead_count + 1);
    REFUSED(c->dead_count, UINT64_MAX - c->live_count + 1);
    REFUSED(c->dead_first, c->slot_count + 1);
    REFUSED(c->dead_last, UINT32_MAX);
    REFUSED(c->records_bytes, UINT64_MAX);
    REFUSED(c->records_bytes, region_capacity(&(struct region_shape){.unit_shift = 14}, 40));
    REFUSED(c->index_nodes, 1u << 20);
    REFUSED(c->index_root, c->index_nodes + 1);
    REFUSED(c->index_root, 0);
    REFUSED(c->index_levels, 0);
    REFUSED(c->index_levels, 13);
}

static void lying_regions_are_refused(void **state)
{
    (void)state;
    for (int r = 0; r < REGION_COUNT; r++) {
        struct disk_region *dr = region(r);
        assert_true(dr->extent_count > 0);
        REFUSED(dr->cell_bytes, dr->cell_bytes * 2);
        REFUSED(dr->cell_bytes, 0);
        REFUSED(dr->unit_cells, dr->unit_cells * 2);
        REFUSED(dr->is_mutable, !dr->is_mutable);
        REFUSED(dr->extent_count, dr->extent_count + 1000);
        REFUSED(dr->extent_count, UINT32_MAX);
        uint64_t *at = offsets(r);
        REFUSED(at[0], at[0] + 8);
        REFUSED(at[0], 0);
        REFUSED(at[0], BLOCK_BYTES);
        REFUSED(at[0], sb.manifest_at);
        REFUSED(at[0], sb.file_bytes);
        REFUSED(at[0], sb.file_bytes - BLOCK_BYTES / 2 * 2 + BLOCK_BYTES);
        REFUSED(at[0], UINT64_MAX - BLOCK_BYTES + 1);
        uint64_t *other = offsets((r + 1) % REGION_COUNT);
        REFUSED(at[0], other[0]);
        if (dr->extent_count > 1) REFUSED(at[1], at[0]);
    }
    sign();
    assert_int_equal(read_code(), ERR_OK);
}

static void an_extent_that_is_not_aligned_is_refused(void **state)
{
    (void)state;
    /* Room behind the last extent, so that nothing overlaps. */
    enum { MORE = 1 << 20 };
    uint64_t end = sb.file_bytes;
    uint8_t *longer = calloc(1, end + MORE);
    assert_non_null(longer);
    memcpy(longer, whole, whole_len < end ? whole_len : end);
    free(whole);
    whole = longer;
    whole_len = end + MORE;
    manifest = whole + sb.manifest_at;
    sb.file_bytes = end + MORE;
    offsets(REGION_SLOTS)[0] = end;
    sign();
    assert_int_equal(read_code(), ERR_OK);
    offsets(REGION_SLOTS)[0] = end + 8;
    assert_refused("an extent at 8");
}

/* One byte of the manifest is anything, with right checksums: no crash, nothing out of bounds. */
static void random_lies_are_refused_or_harmless(void **state)
{
    (void)state;
    srandom(3);
    struct disk_manifest h;
    memcpy(&h, manifest, sizeof h);
    for (int round = 0; round < 3000; round++) {
        uint8_t *byte = manifest + (size_t)random() % h.bytes, right = *byte;
        *byte = (uint8_t)random();
        struct disk_superblock b = sb;
        b.manifest_crc = crc32c(0, manifest, sb.manifest_bytes);
        b.crc = crc32c(0, &b, offsetof(struct disk_superblock, crc));
        poke(data_fd, "db.jvdb", 0, &b, sizeof b);
        poke(data_fd, "db.jvdb", sb.manifest_at, manifest, sb.manifest_bytes);
        struct database *db;
        if (model_try_open(data_fd, false, &db, &err) == ERR_OK) {
            struct reader r;
            struct row row;
            reader_begin(db, &r);
            for (uint64_t id = 0; id < 900; id += 100)
                if (reader_get(&r, &(struct vector_id){.number = id}, &row, &err)) continue;
            reader_end(&r);
            model_close(db);
        }
        *byte = right;
    }
}

#define manifest_test(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        manifest_test(what_was_encoded_is_read),
        manifest_test(regions_of_an_index_are_read),
        manifest_test(a_record_of_an_index_is_read_and_can_be_taken_out_again),
        manifest_test(free_space_is_what_no_extent_uses),
        manifest_test(the_superblock_of_the_greater_generation_counts),
        manifest_test(any_flipped_byte_of_a_superblock_leaves_the_other_one),
        manifest_test(any_flipped_byte_of_both_superblocks_is_refused),
        manifest_test(any_flipped_byte_of_the_manifest_is_refused),
        manifest_test(a_file_that_is_none_of_ours_is_refused),
        manifest_test(a_newer_format_is_quarantined_and_left_alone),
        manifest_test(a_lying_superblock_is_refused),
        manifest_test(a_lying_head_of_the_manifest_is_refused),
        manifest_test(records_that_are_too_long_unknown_or_twice_are_refused),
        manifest_test(a_lying_schema_is_refused),
        manifest_test(lying_counts_are_refused),
        manifest_test(lying_regions_are_refused),
        manifest_test(an_extent_that_is_not_aligned_is_refused),
        manifest_test(random_lies_are_refused_or_harmless),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * docs/FORMAT.md says what is on disk: its tables against the structs, its dumps against the code
 * that reads the files.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <fcntl.h>
#include <inttypes.h>
#include <unistd.h>

#include "storage/base/buf.h"
#include "storage/base/file.h"
#include "storage/base/mem.h"
#include "storage/catalog.h"
#include "storage/format.h"
#include "storage/id_index.h"
#include "storage/index/graph.h"
#include "storage/manifest.h"
#include "storage/records.h"
#include "storage/wal.h"

#define DOCUMENT "docs/FORMAT.md"

static struct buf document; /* NUL-terminated */

/* The next line, without its end; NULL behind the last.  *at moves on. */
static const char *next_line(const char **at, char line[256])
{
    if (!**at) return NULL;
    size_t len = strcspn(*at, "\n");
    snprintf(line, 256, "%.*s", (int)len, *at);
    *at += len + ((*at)[len] == '\n');
    return line;
}

/* ---- tables ---- */

struct field {
    const char *type;
    const char *name;
    size_t offset;
    size_t bytes;
    size_t type_bytes;
};

#define FIELD(t, f)                                                                                \
    {                                                                                              \
#t, #f, offsetof(struct t, f), sizeof(((struct t *)0)->f), sizeof(struct t)                \
    }

static const struct field fields[] = {
    FIELD(disk_superblock, magic),
    FIELD(disk_superblock, format_version),
    FIELD(disk_superblock, features_compat),
    FIELD(disk_superblock, features_ro_compat),
    FIELD(disk_superblock, features_incompat),
    FIELD(disk_superblock, uuid),
    FIELD(disk_superblock, generation),
    FIELD(disk_superblock, lsn),
    FIELD(disk_superblock, manifest_at),
    FIELD(disk_superblock, manifest_bytes),
    FIELD(disk_superblock, file_bytes),
    FIELD(disk_superblock, manifest_crc),
    FIELD(disk_superblock, reserved_flags),
    FIELD(disk_superblock, reserved),
    FIELD(disk_superblock, crc),
    FIELD(disk_manifest, magic),
    FIELD(disk_manifest, record_count),
    FIELD(disk_manifest, uuid),
    FIELD(disk_manifest, generation),
    FIELD(disk_manifest, lsn),
    FIELD(disk_manifest, bytes),
    FIELD(disk_manifest_record, name),
    FIELD(disk_manifest_record, flags),
    FIELD(disk_manifest_record, bytes),
    FIELD(disk_schema, dimension),
    FIELD(disk_schema, metric),
    FIELD(disk_schema, durability),
    FIELD(disk_schema, options_bytes),
    FIELD(disk_schema, initial_capacity),
    FIELD(disk_schema, index_kind),
    FIELD(disk_schema, quantization),
    FIELD(disk_schema, m),
    FIELD(disk_schema, ef_construction),
    FIELD(disk_counts, live_count),
    FIELD(disk_counts, dead_count),
    FIELD(disk_counts, next_id),
    FIELD(disk_counts, records_bytes),
    FIELD(disk_counts, garbage_bytes),
    FIELD(disk_counts, slot_count),
    FIELD(disk_counts, dead_first),
    FIELD(disk_counts, dead_last),
    FIELD(disk_counts, index_root),
    FIELD(disk_counts, index_levels),
    FIELD(disk_counts, index_nodes),
    FIELD(disk_region, name),
    FIELD(disk_region, is_mutable),
    FIELD(disk_region, extent_count),
    FIELD(disk_region, cell_bytes),
    FIELD(disk_region, unit_cells),
    FIELD(disk_region, reserved),
    FIELD(disk_index, codec),
    FIELD(disk_index, degree),
    FIELD(disk_index, ef_construction),
    FIELD(disk_index, seed),
    FIELD(disk_index, gain),
    FIELD(disk_index, reach2),
    FIELD(disk_index, node_count),
    FIELD(disk_index, linked_count),
    FIELD(disk_index, reuse_lsn),
    FIELD(disk_index, effort_rows),
    FIELD(disk_index, effort_queries),
    FIELD(disk_index, step_count),
    FIELD(disk_index, mean_count),
    FIELD(disk_index, pivot_count),
    FIELD(disk_index, extra_count),
    FIELD(disk_index, aside_run_count),
    FIELD(disk_index, run_count),
    FIELD(disk_index, reserved),
    FIELD(disk_index_run, first),
    FIELD(disk_index_run, count),
    FIELD(disk_index_effort, ef),
    FIELD(disk_index_effort, recall),
    FIELD(disk_index_effort, error),
    FIELD(disk_index_effort, reserved),
    FIELD(slot, key),
    FIELD(slot, birth),
    FIELD(slot, death),
    FIELD(slot, expires_at_ms),
    FIELD(slot, record_at),
    FIELD(slot, text_bytes),
    FIELD(slot, replaced),
    FIELD(slot, next_dead),
    FIELD(slot, generation),
    FIELD(slot, row_crc),
    FIELD(slot, replaced_generation),
    FIELD(code_tail, scale),
    FIELD(code_tail, norm2),
    FIELD(code_tail, sum),
    FIELD(code_tail, row_norm2),
    FIELD(code_tail, generation),
    FIELD(code_tail, crc),
    FIELD(graph_node, head),
    FIELD(graph_node, check),
    FIELD(disk_record, crc),
    FIELD(disk_record, text_bytes),
    FIELD(disk_record, metadata_bytes),
    FIELD(disk_record, reserved),
    FIELD(disk_record, lsn),
    FIELD(disk_record, predecessor),
    FIELD(index_node, version),
    FIELD(index_node, count),
    FIELD(index_node, level),
    FIELD(index_node, right),
    FIELD(index_node, bound),
    FIELD(index_node, reserved),
    FIELD(index_node, entries),
    FIELD(index_entry, key),
    FIELD(index_entry, text_at),
    FIELD(index_entry, ref),
    FIELD(index_entry, text_bytes),
    FIELD(disk_wal_header, magic),
    FIELD(disk_wal_header, format_version),
    FIELD(disk_wal_header, uuid),
    FIELD(disk_wal_header, sequence),
    FIELD(disk_wal_header, base_lsn),
    FIELD(disk_wal_header, after_lsn),
    FIELD(disk_wal_header, salt),
    FIELD(disk_wal_header, reserved),
    FIELD(disk_wal_header, crc),
    FIELD(disk_wal_record, crc),
    FIELD(disk_wal_record, bytes),
    FIELD(disk_wal_record, lsn),
    FIELD(disk_wal_record, durable_lsn),
    FIELD(disk_wal_record, previous_crc),
    FIELD(disk_wal_record, type),
    FIELD(disk_wal_record, flags),
    FIELD(disk_wal_record, op_count),
    FIELD(disk_wal_record, reserved),
    FIELD(disk_wal_op, kind),
    FIELD(disk_wal_op, slot),
    FIELD(disk_wal_op, key),
    FIELD(disk_wal_op, expires_at_ms),
    FIELD(disk_wal_op, record_at),
    FIELD(disk_wal_op, text_bytes),
    FIELD(disk_wal_op, metadata_bytes),
    FIELD(disk_wal_op, row_crc),
    FIELD(disk_wal_op, reserved),
    FIELD(disk_ckpt_header, magic),
    FIELD(disk_ckpt_header, format_version),
    FIELD(disk_ckpt_header, uuid),
    FIELD(disk_ckpt_header, generation),
    FIELD(disk_ckpt_header, lsn),
    FIELD(disk_ckpt_footer, block_count),
    FIELD(disk_ckpt_footer, bytes),
    FIELD(disk_ckpt_footer, magic),
    FIELD(disk_ckpt_footer, crc),
    FIELD(disk_catalog_header, magic),
    FIELD(disk_catalog_header, format_version),
    FIELD(disk_catalog_record, crc),
    FIELD(disk_catalog_record, bytes),
    FIELD(disk_catalog_record, type),
    FIELD(disk_catalog_record, name_bytes),
    FIELD(disk_catalog_record, uuid),
    FIELD(disk_catalog_record, live_count),
    FIELD(disk_catalog_record, dead_count),
    FIELD(disk_catalog_record, file_bytes),
    FIELD(disk_catalog_record, last_lsn),
    FIELD(disk_catalog_record, flags),
    FIELD(disk_catalog_record, format_version),
    FIELD(disk_catalog_record, schema),
};
enum { FIELD_COUNT = sizeof fields / sizeof *fields };

static void the_tables_are_the_structs_field_by_field(void **state)
{
    (void)state;
    char line[256], type[64] = "", name[64];
    size_t offset, bytes, found = 0, expected = 0;
    const char *at = document.data;
    while (next_line(&at, line)) {
        if (sscanf(line, "### `struct %63[a-z_0-9]`, %zu bytes", type, &bytes) == 2) {
            assert_true(found < FIELD_COUNT);
            assert_string_equal(type, fields[found].type);
            assert_int_equal(bytes, fields[found].type_bytes);
            expected = 0;
            continue;
        }
        if (sscanf(line, "| %zu | %zu | `%63[a-z_0-9]` |", &offset, &bytes, name) != 3) continue;
        assert_true(found < FIELD_COUNT);
        assert_string_equal(type, fields[found].type);
        assert_string_equal(name, fields[found].name);
        assert_int_equal(offset, fields[found].offset);
        assert_int_equal(bytes, fields[found].bytes);
        /* Neither document nor compiler leaves a gap. */
        assert_int_equal(offset, expected);
        expected = offset + bytes;
        bool is_last =
            found + 1 == FIELD_COUNT || strcmp(fields[found + 1].type, fields[found].type) != 0;
        if (is_last) assert_int_equal(expected, fields[found].type_bytes);
        found++;
    }
    assert_int_equal(found, FIELD_COUNT);
}

static void the_constants_have_their_values(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int value;
    } constants[] = {
        {"FORMAT_VERSION", FORMAT_VERSION},     {"BLOCK_BYTES", BLOCK_BYTES},
        {"HEADER_BYTES", HEADER_BYTES},         {"SUPERBLOCK_COUNT", SUPERBLOCK_COUNT},
        {"UNIT_BYTES_MIN", UNIT_BYTES_MIN},     {"INDEX_NODE_ENTRIES", INDEX_NODE_ENTRIES},
        {"WAL_HEADER_BYTES", WAL_HEADER_BYTES}, {"WAL_PREALLOCATED_BYTES", WAL_PREALLOCATED_BYTES},
    };
    for (size_t i = 0; i < sizeof constants / sizeof *constants; i++) {
        char row[100];
        snprintf(row, sizeof row, "\n| `%s` | %d |", constants[i].name, constants[i].value);
        assert_non_null(strstr(document.data, row));
    }
}

static void the_rows_of_the_example_lie_where_it_says(void **state)
{
    (void)state;
    struct region_shape shapes[REGION_COUNT];
    region_shapes(shapes, 768);
    const struct region_shape *s = &shapes[REGION_VECTORS];
    assert_int_equal(s->cell_bytes, 3072);
    assert_int_equal(s->unit_cells, 8);

    char line[256];
    uint64_t row, unit, extent, units, first, offset;
    int rows = 0;
    const char *at = document.data;
    while (next_line(&at, line)) {
        if (sscanf(line,
                   "| %" SCNu64 " | %" SCNu64 " | %" SCNu64 " | %" SCNu64 " | %" SCNu64
                   " | %" SCNu64 " |",
                   &row, &unit, &extent, &units, &first, &offset) != 6)
            continue;
        struct region_place place = region_place(s, row);
        assert_int_equal(unit, row / s->unit_cells);
        assert_int_equal(extent, place.extent);
        assert_int_equal(offset, place.offset);
        assert_int_equal(units * s->unit_cells * s->cell_bytes,
                         region_extent_bytes(s, place.extent));
        assert_int_equal(first, region_capacity(s, place.extent));
        rows++;
    }
    assert_int_equal(rows, 9);
}

/* ---- dumps ---- */

static char directory[64];
static int dir_fd = -1;

/* Write the file whose bytes stand in the block marked ```kind; what is not shown is zero. */
static void write_dump(const char *kind, const char *file_name, size_t file_bytes)
{
    char line[256], mark[32];
    uint8_t *image = mem_zalloc(file_bytes);
    int fd = -1, rows = 0;
    snprintf(mark, sizeof mark, "\n```%s\n", kind);
    const char *at = strstr(document.data, mark);
    assert_non_null(at);
    at += strlen(mark);
    while (next_line(&at, line) && strcmp(line, "```") != 0) {
        unsigned offset;
        int used = 0;
        if (sscanf(line, "%5x: %n", &offset, &used) != 1) continue;
        assert_true(offset + 16 <= file_bytes);
        const char *hex = line + used;
        for (unsigned i = 0; i < 16; i++) {
            unsigned byte;
            assert_int_equal(sscanf(hex, "%2x", &byte), 1);
            image[offset + i] = (uint8_t)byte;
            hex += i % 2 ? 3 : 2;
        }
        rows++;
    }
    assert_true(rows > 0);
    assert_int_equal(file_open(dir_fd, file_name, O_RDWR | O_CREAT | O_TRUNC, &fd), 0);
    assert_int_equal(file_write(fd, image, file_bytes, 0), 0);
    file_close(fd);
    mem_free(image);
}

static void the_dump_of_a_database_can_be_opened_and_read(void **state)
{
    (void)state;
    struct disk_superblock sb;
    struct jvdb_file file;
    struct manifest manifest;
    struct err err;
    bool alike = true;
    int fd = -1;
    write_dump("jvdb", "docs.jvdb", 86016);
    assert_int_equal(file_open(dir_fd, "docs.jvdb", O_RDWR, &fd), 0);
    assert_int_equal(superblock_read(fd, "docs.jvdb", &sb, &alike, &err), ERR_OK);
    assert_int_equal(jvdb_file_init(&file, dir_fd, "docs.jvdb", sb.uuid, 1, &err), ERR_OK);
    assert_int_equal(manifest_read(fd, &sb, &file, &manifest, &err), ERR_OK);
    assert_int_equal(manifest.schema.dimension, 4);
    assert_int_equal(manifest.counts.live_count, 3);

    /* Each of these compares a checksum first. */
    struct id_index index = {.file = &file,
                             .root = manifest.counts.index_root,
                             .levels = manifest.counts.index_levels,
                             .nodes = manifest.counts.index_nodes};
    struct index_key key = index_key_of(&(struct vector_id){.text = "up", .text_bytes = 2});
    uint32_t number = 0;
    assert_int_equal(id_index_find(&index, &key, &number), INDEX_FOUND);
    assert_int_equal(number, 2);
    const struct slot *slot = jvdb_file_read(&file, REGION_SLOTS, 1);
    assert_non_null(slot);
    assert_int_equal(slot->key, 2);
    struct arena arena = {0};
    struct record record;
    assert_int_equal(records_read(&file, slot->record_at, &arena, &record, &err), ERR_OK);
    assert_memory_equal(record.metadata, "{\"title\": \"near east\"}", record.metadata_bytes);
    const float *row = jvdb_file_read(&file, REGION_VECTORS, 1);
    assert_non_null(row);
    assert_true(row[0] == 0.9f && row[1] == 0.1f && row[2] == 0 && row[3] == 0);

    arena_free(&arena);
    manifest_deinit(&manifest);
    jvdb_file_deinit(&file);
    file_close(fd);
}

static enum err_code check_record(void *ctx, const struct disk_wal_record *record,
                                  const uint8_t *ops, uint64_t ops_bytes, struct err *err)
{
    (void)ctx, (void)err;
    struct disk_wal_op op;
    assert_int_equal(record->lsn, 3);
    assert_int_equal(record->op_count, 1);
    assert_int_equal(ops_bytes, sizeof op + 8);
    memcpy(&op, ops, sizeof op);
    assert_int_equal(op.kind, WAL_OP_DELETE);
    assert_int_equal(op.slot, 2);
    assert_int_equal(op.text_bytes, 2);
    assert_memory_equal(ops + sizeof op, "up", 2);
    return ERR_OK;
}

static void the_dump_of_a_log_can_be_replayed(void **state)
{
    (void)state;
    write_dump("wal", "docs.wal.1", WAL_PREALLOCATED_BYTES);
    struct wal_options options = {.dir_fd = dir_fd, .name = "docs", .checkpoint_lsn = 2};
    struct wal_recovery found;
    struct wal *wal = NULL;
    struct err err;
    struct disk_wal_header header;
    int fd = -1;
    assert_int_equal(file_open(dir_fd, "docs.wal.1", O_RDWR, &fd), 0);
    assert_int_equal(file_read(fd, &header, sizeof header, 0), 0);
    file_close(fd);
    memcpy(options.uuid, header.uuid, sizeof options.uuid);
    assert_int_equal(wal_open(&options, check_record, NULL, &wal, &found, &err), ERR_OK);
    assert_int_equal(found.records, 1);
    assert_int_equal(found.cut_bytes, 0);
    wal_close(wal);
}

static void check_entry(void *ctx, const struct catalog_entry *entry)
{
    ++*(int *)ctx;
    assert_string_equal(entry->name, "docs");
    assert_int_equal(entry->schema.dimension, 4);
    assert_int_equal(entry->live_count, 3);
    assert_int_equal(entry->last_lsn, 2);
    assert_false(entry->dropped);
}

static void the_dump_of_a_catalog_can_be_read(void **state)
{
    (void)state;
    write_dump("catalog", ".catalog", 240);
    struct catalog *catalog = NULL;
    struct err err;
    bool was_clean = false, was_lost = true;
    int entries = 0;
    assert_int_equal(
        catalog_open(dir_fd, check_entry, &entries, &catalog, &was_clean, &was_lost, &err), ERR_OK);
    assert_int_equal(entries, 1);
    assert_true(was_clean);
    assert_false(was_lost);
    catalog_close(catalog);
}

static int set_up(void **state)
{
    (void)state;
    uint64_t bytes = 0;
    int fd = open(DOCUMENT, O_RDONLY | O_CLOEXEC); /* make runs tests at the top of the tree */
    if (fd < 0 || file_size(fd, &bytes)) return -1;
    char *text = mem_zalloc(bytes + 1);
    if (file_read(fd, text, bytes, 0)) return -1;
    buf_add(&document, text, bytes + 1);
    mem_free(text);
    file_close(fd);
    snprintf(directory, sizeof directory, "/tmp/test_format.XXXXXX");
    if (!mkdtemp(directory)) return -1;
    dir_fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return document.failed || dir_fd < 0 ? -1 : 0;
}

static int tear_down(void **state)
{
    (void)state;
    static const char *const names[] = {"docs.jvdb", "docs.wal.1", ".catalog"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        unlinkat(dir_fd, names[i], 0);
    close(dir_fd);
    buf_free(&document);
    return rmdir(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_tables_are_the_structs_field_by_field),
        cmocka_unit_test(the_constants_have_their_values),
        cmocka_unit_test(the_rows_of_the_example_lie_where_it_says),
        cmocka_unit_test(the_dump_of_a_database_can_be_opened_and_read),
        cmocka_unit_test(the_dump_of_a_log_can_be_replayed),
        cmocka_unit_test(the_dump_of_a_catalog_can_be_read),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}

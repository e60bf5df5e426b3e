/*
 * fuzz_file.c - a data directory of which some bytes were changed: it is verified, opened, read,
 * searched, written to, and closed.  Without forged checksums nothing that is read may be wrong.
 *
 * An input is flags (first byte), and changes: which part of which file, offset there (two bytes),
 * how many bytes (four bits), and these.
 */
#include "tests/fuzz/disk.h"

#include <fcntl.h>
#include <unistd.h>

#include "storage/base/crc32c.h"
#include "storage/format.h"
#include "storage/verify.h"

enum {
    FORGE = 1, /* make checksums right */
    WRITE = 2, /* and use it by more than reading */
    CKPT = 4,  /* the changes are in a .ckpt, whose checksum is always right */
    FAR = 8    /* one of its blocks goes where the first change says */
};
enum { ROWS = 330, EXTENTS_MAX = 64, CHANGES_MAX = 64 };

static struct disk disk;

/* What a change can be about. */
enum part { SUPERBLOCKS, MANIFEST, CATALOG, ANYWHERE, EXTENT_0 };
struct place {
    size_t at, bytes;
};
static struct place manifest, extents[EXTENTS_MAX], sums_of_sums;
static size_t extent_count, sums_at, records_at, slots_at, slots_bytes, vectors_at;

static struct disk_superblock *newest(uint8_t *file)
{
    struct disk_superblock *a = (void *)file, *b = (void *)(file + BLOCK_BYTES);
    return b->generation > a->generation ? b : a;
}

/* Find the parts of the file. */
static void survey(const struct disk_file *f)
{
    const struct disk_superblock *sb = newest(f->bytes);
    manifest = (struct place){(size_t)sb->manifest_at, (size_t)sb->manifest_bytes};
    struct disk_manifest head;
    memcpy(&head, f->bytes + manifest.at, sizeof head);
    size_t at = manifest.at + sizeof head;
    for (uint32_t i = 0; i < head.record_count; i++) {
        struct disk_manifest_record r;
        struct disk_region region;
        memcpy(&r, f->bytes + at, sizeof r);
        at += sizeof r;
        if (strncmp(r.name, "sums", sizeof r.name) == 0) sums_of_sums = (struct place){at, r.bytes};
        if (strncmp(r.name, "region", sizeof r.name) == 0) {
            memcpy(&region, f->bytes + at, sizeof region);
            for (uint32_t e = 0; e < region.extent_count && extent_count < EXTENTS_MAX; e++) {
                uint64_t offset;
                memcpy(&offset, f->bytes + at + sizeof region + e * sizeof offset, sizeof offset);
                size_t bytes = (size_t)region.cell_bytes * region.unit_cells;
                extents[extent_count++] = (struct place){(size_t)offset, bytes};
                if (e > 0) continue;
                if (strcmp(region.name, "sums") == 0) sums_at = (size_t)offset;
                if (strcmp(region.name, "records") == 0) records_at = (size_t)offset;
                if (strcmp(region.name, "vectors") == 0) vectors_at = (size_t)offset;
                if (strcmp(region.name, "slots") == 0) {
                    slots_at = (size_t)offset;
                    slots_bytes = bytes;
                }
            }
        }
        at += (r.bytes + 7) & ~(size_t)7;
    }
    CLAIM(extent_count && sums_at && sums_of_sums.at && slots_at && vectors_at && records_at);
}

/* A directory as a clean stop leaves it: a search graph, and dead rows. */
static struct disk *good(void)
{
    struct schema schema = {.dimension = DISK_DIMENSION,
                            .metric = METRIC_EUCLIDEAN,
                            .durability = DURABILITY_PERIODIC,
                            .initial_capacity = 100,
                            .index = {.kind = INDEX_GRAPH, .quantization = QUANTIZATION_INT8}};
    struct database *db;
    struct err err;
    bool created;
    double ms;
    size_t deleted;
    uint64_t lsn;
    if (disk.count) return &disk;
    struct service *service = disk_service(&err);
    CLAIM(service);
    CLAIM(!service_create(service, "d", &schema, false, &created, &err));
    CLAIM(!service_acquire(service, "d", true, &db, &err));
    for (uint32_t i = 0; i < ROWS; i++)
        disk_put(db, i);
    service_settle_index(service, db);
    CLAIM(!service_flush(service, "d", &ms, &err));
    for (uint64_t i = 0; i < 20; i += 2)
        CLAIM(
            !database_delete(db, &(struct vector_id){.number = i}, 1, true, &deleted, &lsn, &err));
    service_release(db);
    CLAIM(!service_close(service, &err));
    disk_take(&disk);
    survey(disk_find(&disk, ".jvdb"));
    return &disk;
}
enum { ROWS_LEFT = ROWS - 10 };

/* ---- changes ---- */

struct change {
    size_t at, bytes; /* in the .jvdb; none there: bytes is 0 */
};

static void change(struct disk *now, const uint8_t *data, size_t size, struct change *done,
                   size_t *count)
{
    while (size >= 4 && *count < CHANGES_MAX) {
        unsigned part = data[0] % (EXTENT_0 + extent_count);
        size_t offset = data[1] | (size_t)data[2] << 8, bytes = 1 + data[3] % 16;
        data += 4;
        size -= 4;
        if (bytes > size) bytes = size;
        struct disk_file *f = disk_find(now, part == CATALOG ? ".catalog" : ".jvdb");
        struct place p = {0, f->size};
        if (part == SUPERBLOCKS) p = (struct place){0, SUPERBLOCK_COUNT * BLOCK_BYTES};
        if (part == MANIFEST) p = manifest;
        if (part >= EXTENT_0) p = extents[part - EXTENT_0];
        size_t at = p.at + offset % p.bytes;
        if (part == ANYWHERE) at = (offset * 64 + data[-1] / 16) % f->size;
        if (bytes > f->size - at) bytes = f->size - at;
        memcpy(f->bytes + at, data, bytes);
        if (part != CATALOG) done[(*count)++] = (struct change){at, bytes};
        data += bytes;
        size -= bytes;
    }
}

/* ---- checksums made right, from below ---- */

static void put_u32(uint8_t *at, uint32_t n)
{
    memcpy(at, &n, sizeof n);
}

/* Of the rows in the first extents, as FORMAT.md has them. */
static void forge_row(uint8_t *file, size_t index)
{
    struct slot slot;
    size_t row_bytes = (DISK_DIMENSION * sizeof(float) + 63) & ~(size_t)63;
    if ((index + 1) * row_bytes > 16384 || (index + 1) * sizeof slot > slots_bytes) return;
    memcpy(&slot, file + slots_at + index * sizeof slot, sizeof slot);
    slot.row_crc = crc32c(0, &slot.key, sizeof slot.key);
    slot.row_crc = crc32c(slot.row_crc, &slot.text_bytes, sizeof slot.text_bytes);
    slot.row_crc =
        crc32c(slot.row_crc, file + vectors_at + index * row_bytes, DISK_DIMENSION * sizeof(float));
    memcpy(file + slots_at + index * sizeof slot, &slot, sizeof slot);
}

static void forge_records(uint8_t *file)
{
    size_t end = 16384;
    for (size_t at = 0; at + sizeof(struct disk_record) <= end;) {
        struct disk_record r;
        uint64_t place = at + 1;
        memcpy(&r, file + records_at + at, sizeof r);
        uint64_t bytes = sizeof r + (uint64_t)r.text_bytes + r.metadata_bytes;
        if (bytes > end - at) return;
        uint32_t crc = crc32c(0, &place, sizeof place);
        put_u32(file + records_at + at,
                crc32c(crc, file + records_at + at + sizeof crc, bytes - sizeof crc));
        at += (bytes + 7) & ~(size_t)7;
    }
}

static void forge(struct disk_file *f, const struct change *done, size_t count)
{
    forge_records(f->bytes);
    for (size_t i = 0; i < count; i++) {
        if (done[i].at >= slots_at && done[i].at < slots_at + slots_bytes)
            forge_row(f->bytes, (done[i].at - slots_at) / sizeof(struct slot));
        else if (done[i].at >= vectors_at && done[i].at < vectors_at + 16384)
            forge_row(f->bytes, (done[i].at - vectors_at) / 64);
    }
    for (size_t i = 0; i < count; i++) {
        size_t block = done[i].at / BLOCK_BYTES;
        if ((block + 1) * BLOCK_BYTES > f->size || block >= BLOCK_BYTES / 4) continue;
        put_u32(f->bytes + sums_at + 4 * block,
                crc32c(0, f->bytes + block * BLOCK_BYTES, BLOCK_BYTES));
    }
    put_u32(f->bytes + sums_of_sums.at, crc32c(0, f->bytes + sums_at, BLOCK_BYTES));
    struct disk_superblock *sb = newest(f->bytes);
    if (sb->manifest_at <= f->size && sb->manifest_bytes <= f->size - sb->manifest_at)
        sb->manifest_crc = crc32c(0, f->bytes + sb->manifest_at, sb->manifest_bytes);
    for (int i = 0; i < SUPERBLOCK_COUNT; i++) {
        sb = (void *)(f->bytes + i * BLOCK_BYTES);
        sb->crc = crc32c(0, sb, offsetof(struct disk_superblock, crc));
    }
}

static void forge_catalog(struct disk_file *f)
{
    for (size_t at = sizeof(struct disk_catalog_header); f->size - at >= 2 * sizeof(uint32_t);) {
        uint32_t bytes;
        memcpy(&bytes, f->bytes + at + sizeof(uint32_t), sizeof bytes);
        if (bytes < sizeof(struct disk_catalog_record) || bytes > f->size - at) return;
        put_u32(f->bytes + at,
                crc32c(0, f->bytes + at + sizeof(uint32_t), bytes - sizeof(uint32_t)));
        at += bytes;
    }
}

/* A checkpoint that is to be finished: the blocks that were changed, and the superblock. */
static struct disk_file make_ckpt(const struct disk_file *changed, const struct change *done,
                                  size_t count, bool far)
{
    const struct disk_superblock *sb = newest(changed->bytes);
    struct disk_ckpt_header head = {
        .format_version = FORMAT_VERSION, .generation = sb->generation, .lsn = sb->lsn};
    struct disk_ckpt_footer foot = {.block_count = count + 1};
    memcpy(head.magic, CKPT_MAGIC, sizeof head.magic);
    memcpy(foot.magic, CKPT_MAGIC, sizeof foot.magic);
    memcpy(head.uuid, sb->uuid, sizeof head.uuid);
    foot.bytes = BLOCK_BYTES + foot.block_count * (BLOCK_BYTES + sizeof(uint64_t)) + sizeof foot;
    struct disk_file f = {.name = "d.ckpt", .bytes = calloc(1, foot.bytes), .size = foot.bytes};
    CLAIM(f.bytes);
    memcpy(f.bytes, &head, sizeof head);
    uint8_t *numbers = f.bytes + BLOCK_BYTES * (1 + foot.block_count);
    for (size_t i = 0; i <= count; i++) {
        size_t at = i < count ? done[i].at : (size_t)((const uint8_t *)sb - changed->bytes);
        uint64_t number = at / BLOCK_BYTES;
        size_t left = changed->size - number * BLOCK_BYTES;
        memcpy(f.bytes + BLOCK_BYTES * (1 + i), changed->bytes + number * BLOCK_BYTES,
               left < BLOCK_BYTES ? left : BLOCK_BYTES);
        if (far && i == 0 && count && changed->size - done[0].at >= sizeof number)
            memcpy(&number, changed->bytes + done[0].at, sizeof number);
        memcpy(numbers + i * sizeof number, &number, sizeof number);
    }
    memcpy(f.bytes + foot.bytes - sizeof foot, &foot, sizeof foot);
    foot.crc = crc32c(0, f.bytes, foot.bytes - sizeof foot.crc);
    memcpy(f.bytes + foot.bytes - sizeof foot, &foot, sizeof foot);
    return f;
}

/* ---- use ---- */

static bool verify(void)
{
    struct verify_result *r = calloc(1, sizeof *r);
    struct verify_options o = {.dir_fd = open(fuzz_dir(), O_RDONLY | O_DIRECTORY | O_CLOEXEC),
                               .name = "d"};
    struct err err;
    char line[400];
    CLAIM(r && o.dir_fd >= 0);
    bool good_files = !verify_files(&o, r, &err) && r->error_count == 0;
    for (size_t i = 0; i < r->errors_kept; i++)
        verify_error_text(&r->errors[i], line, sizeof line);
    close(o.dir_fd);
    free(r);
    return good_files;
}

static void use(bool exact, bool write)
{
    struct err err;
    struct database *db;
    double ms;
    size_t deleted;
    uint64_t lsn;
    struct service *service = disk_service(&err);
    if (!service) {
        CLAIM(err.msg[0]);
        return;
    }
    enum err_code rc = service_acquire(service, "d", true, &db, &err);
    if (!rc) {
        size_t rows = disk_read(db, exact);
        CLAIM(!exact || rows == SIZE_MAX || rows == ROWS_LEFT);
        if (write && database_schema(db)->dimension == DISK_DIMENSION) {
            float vector[DISK_DIMENSION] = {1};
            struct row_input row = {.id = {.number = 22}, .vector = vector};
            struct vector_id id = {.number = 24};
            rc = database_put(db, &row, 1, DISK_DIMENSION, true, &lsn, &err);
            if (!rc) rc = database_delete(db, &id, 1, true, &deleted, &lsn, &err);
            if (!rc) rc = service_flush(service, "d", &ms, &err);
            if (!rc) disk_read(db, false);
        }
        service_release(db);
    } else {
        /* A database that was there is never "not there". */
        CLAIM(!exact || rc != ERR_DATABASE_NOT_FOUND);
        CLAIM(err.msg[0]);
    }
    if (service_close(service, &err)) CLAIM(err.msg[0]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1) return 0;
    struct disk *d = good(), now = *d;
    struct change done[CHANGES_MAX];
    size_t count = 0;
    unsigned flags = data[0];
    CLAIM(d->count < DISK_FILES_MAX);
    for (size_t i = 0; i < now.count; i++) {
        now.files[i].bytes = malloc(now.files[i].size + 1);
        CLAIM(now.files[i].bytes);
        memcpy(now.files[i].bytes, d->files[i].bytes, now.files[i].size);
    }
    change(&now, data + 1, size - 1, done, &count);
    if (flags & FORGE) {
        forge(disk_find(&now, ".jvdb"), done, count);
        forge_catalog(disk_find(&now, ".catalog"));
    }
    if (flags & CKPT) {
        struct disk_file *f = disk_find(&now, ".jvdb");
        now.files[now.count++] = make_ckpt(f, done, count, flags & FAR);
        memcpy(f->bytes, disk_find(d, ".jvdb")->bytes, f->size);
    }
    disk_restore(&now);
    verify();
    use(!(flags & (FORGE | CKPT)), flags & WRITE);
    for (size_t i = 0; i < now.count; i++)
        free(now.files[i].bytes);
    return 0;
}

void fuzz_seeds(fuzz_add_fn *add, void *ctx)
{
    good();
    add(ctx, "", 1);
    for (unsigned part = 0; part < EXTENT_0 + extent_count; part++) {
        uint8_t seed[] = {WRITE, (uint8_t)part, 16, 0, 7, 1, 2, 3, 4, 5, 6, 7, 8};
        if (part % 2 || part == CATALOG) seed[0] |= FORGE;
        add(ctx, seed, sizeof seed);
        if (part != SUPERBLOCKS && part != MANIFEST && part != EXTENT_0) continue;
        seed[0] = FORGE | CKPT | (part % 2 ? FAR : WRITE);
        add(ctx, seed, sizeof seed);
    }
}

/*
 * fuzz_log.c - segments of a log beside a good file: they are looked at (wal_scan()), the database
 * is opened over them, read, and closed.
 *
 * An input is flags (first byte) and the bytes of one segment, or of two, each the half of it.
 */
#include "tests/fuzz/disk.h"

#include <fcntl.h>
#include <unistd.h>

#include "storage/wal_scan.h"
#include "storage/wal_segment.h"

enum { FORGE_HEADER = 1, FORGE_RECORDS = 2, TWO_SEGMENTS = 4 };
enum { ROWS_IN_FILE = 5 };

static struct disk disk;
static uint8_t uuid[16];

/* Rows in the file, and more in the log: as a kill -9 would leave it. */
static struct disk *good(void)
{
    struct schema schema = {.dimension = DISK_DIMENSION,
                            .metric = METRIC_EUCLIDEAN,
                            .durability = DURABILITY_PERIODIC,
                            .initial_capacity = 100};
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
    for (uint32_t i = 0; i < ROWS_IN_FILE; i++)
        disk_put(db, i);
    CLAIM(!service_flush(service, "d", &ms, &err));
    for (uint32_t i = ROWS_IN_FILE - 1; i < ROWS_IN_FILE + 3; i++)
        disk_put(db, i);
    struct vector_id zero = {.number = 0};
    CLAIM(!database_delete(db, &zero, 1, true, &deleted, &lsn, &err));
    disk_take(&disk);
    service_release(db);
    CLAIM(!service_close(service, &err));

    const struct disk_superblock *sb = (const void *)disk_find(&disk, ".jvdb")->bytes;
    memcpy(uuid, sb->uuid, sizeof uuid);
    return &disk;
}

/* Make the checksums what they should be: of the header, and of each record that there is. */
static void forge(uint8_t *bytes, size_t size, unsigned flags)
{
    struct disk_wal_header header;
    if (size < WAL_HEADER_BYTES) return;
    memcpy(&header, bytes, sizeof header);
    if (flags & FORGE_HEADER) {
        memcpy(header.uuid, uuid, sizeof uuid);
        header.crc = wal_header_crc(&header);
        memcpy(bytes, &header, sizeof header);
    }
    uint32_t previous = 0;
    for (size_t at = WAL_HEADER_BYTES; flags & FORGE_RECORDS;) {
        struct disk_wal_record r;
        if (size - at < sizeof r) return;
        memcpy(&r, bytes + at, sizeof r);
        if (r.bytes < sizeof r || r.bytes > size - at) return;
        if (at > WAL_HEADER_BYTES) r.previous_crc = previous;
        memcpy(bytes + at, &r, sizeof r);
        r.crc = crc32c(wal_record_crc_start(header.salt), bytes + at + sizeof r.crc,
                       r.bytes - sizeof r.crc);
        memcpy(bytes + at, &r, sizeof r.crc);
        previous = r.crc;
        if (wal_padded(r.bytes) > size - at) return;
        at += wal_padded(r.bytes);
    }
}

struct scanned {
    uint64_t last_lsn, records, sum;
};

static bool see_record(void *ctx, const struct disk_wal_record *record, const uint8_t *ops,
                       uint64_t bytes)
{
    struct scanned *s = ctx;
    CLAIM(record->lsn > s->last_lsn);
    CLAIM(bytes + sizeof *record <= record->bytes || bytes == record->bytes - sizeof *record);
    for (uint64_t i = 0; i < bytes; i++)
        s->sum += ops[i];
    s->last_lsn = record->lsn;
    s->records++;
    return true;
}

static void scan(bool past_damage)
{
    struct scanned seen = {0};
    struct wal_scan s = {.dir_fd = open(fuzz_dir(), O_RDONLY | O_DIRECTORY | O_CLOEXEC),
                         .name = "d",
                         .past_damage = past_damage,
                         .fn = see_record,
                         .ctx = &seen};
    struct err err;
    CLAIM(s.dir_fd >= 0);
    if (!wal_scan(&s, &err)) {
        CLAIM(seen.records == 0 || seen.last_lsn <= s.last_lsn);
        CLAIM(!s.damaged || s.damage.msg[0]);
    }
    close(s.dir_fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1) return 0;
    struct disk *d = good();
    struct disk now = {.count = 0};
    unsigned flags = data[0];
    uint8_t *bytes = (uint8_t *)fuzz_text(data + 1, --size);
    size_t first = flags & TWO_SEGMENTS ? size / 2 : size;
    forge(bytes, first, flags);
    forge(bytes + first, size - first, flags);

    now.files[now.count++] = *disk_find(d, ".jvdb");
    now.files[now.count++] = *disk_find(d, ".catalog");
    now.files[now.count++] = (struct disk_file){"d.wal.0", bytes, first};
    if (flags & TWO_SEGMENTS)
        now.files[now.count++] = (struct disk_file){"d.wal.1", bytes + first, size - first};
    disk_restore(&now);
    scan(false);
    scan(true);

    struct err err;
    struct database *db;
    struct service *service = disk_service(&err);
    CLAIM(service);
    if (!service_acquire(service, "d", true, &db, &err)) {
        disk_read(db, false);
        service_release(db);
    } else {
        CLAIM(err.code == ERR_QUARANTINED && err.msg[0]);
    }
    /* What cannot be written is an error, too. */
    if (service_close(service, &err)) CLAIM(err.msg[0]);
    free(bytes);
    return 0;
}

void fuzz_seeds(fuzz_add_fn *add, void *ctx)
{
    struct disk *d = good();
    for (size_t i = 0; i < d->count; i++) {
        const struct disk_file *f = &d->files[i];
        if (!strstr(f->name, ".wal.")) continue;
        size_t size = f->size;
        while (size > WAL_HEADER_BYTES && f->bytes[size - 1] == 0)
            size--;
        uint8_t *seed = calloc(1, 1 + 2 * (size + 8));
        CLAIM(seed);
        memcpy(seed + 1, f->bytes, size);
        add(ctx, seed, 1 + size);
        seed[0] = FORGE_HEADER | FORGE_RECORDS;
        add(ctx, seed, 1 + size + 8);
        memcpy(seed + 1 + size, f->bytes, size);
        seed[0] |= TWO_SEGMENTS;
        add(ctx, seed, 1 + 2 * size);
        free(seed);
    }
    add(ctx, "", 1);
}

#include "storage/catalog.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "storage/base/buf.h"
#include "storage/base/crc32c.h"
#include "storage/base/file.h"
#include "storage/base/lock.h"
#include "storage/base/log.h"
#include "storage/base/mem.h"
#include "storage/format.h"
#include "storage/manifest.h"

#define CATALOG_NAME     ".catalog"
#define CATALOG_NEW_NAME ".catalog.new"
enum {
    CATALOG_BYTES_MAX = 1 << 30,
    GARBAGE_RECORDS = 1000, /* not worth writing it anew */
};

struct catalog {
    int dir_fd;
    struct mutex mu; /* LOCK_CATALOG; guards what follows */
    int fd;
    uint64_t end;
    bool broken;
    /* As it was read: what is of use, and what is not any more. */
    size_t kept_count, record_count;
    bool is_lost; /* or torn, or damaged */
};

static void add_record(struct buf *out, enum catalog_type type, const struct catalog_entry *e)
{
    static const char zeros[8];
    size_t name_bytes = e ? strlen(e->name) : 0;
    struct disk_schema schema = e ? disk_schema_of(&e->schema) : (struct disk_schema){0};
    struct disk_catalog_record r = {
        .type = type, .name_bytes = (uint32_t)name_bytes, .format_version = FORMAT_VERSION};
    size_t bytes = (sizeof r + name_bytes + schema.options_bytes + 7) & ~(size_t)7;
    r.bytes = (uint32_t)bytes;
    if (e) {
        memcpy(r.uuid, e->uuid, sizeof r.uuid);
        r.live_count = e->live_count;
        r.dead_count = e->dead_count;
        r.file_bytes = e->file_bytes;
        r.last_lsn = e->last_lsn;
        r.flags = e->counts_known ? CATALOG_COUNTS_KNOWN : 0;
        r.schema = schema;
    }
    size_t start = out->len;
    buf_add(out, &r, sizeof r);
    if (e) buf_add(out, e->name, name_bytes);
    if (schema.options_bytes) buf_add(out, e->schema.options, schema.options_bytes);
    buf_add(out, zeros, bytes - sizeof r - name_bytes - schema.options_bytes);
    if (out->failed) return;
    uint32_t crc = crc32c(0, out->data + start + sizeof r.crc, bytes - sizeof r.crc);
    memcpy(out->data + start, &crc, sizeof crc);
}

/* ---- reading ---- */

/* The head of the record at `at`, or false: the end, or damage. */
static bool check(const char *bytes, uint64_t size, uint64_t at, struct disk_catalog_record *r)
{
    if (size - at < sizeof *r) return false;
    memcpy(r, bytes + at, sizeof *r);
    uint64_t texts = (uint64_t)r->name_bytes + r->schema.options_bytes;
    struct schema schema;
    return r->bytes >= sizeof *r && r->bytes <= size - at && r->bytes % 8 == 0 &&
           texts <= r->bytes - sizeof *r && r->name_bytes <= NAME_BYTES_MAX &&
           r->format_version == FORMAT_VERSION &&
           (r->type != CATALOG_DATABASE || disk_schema_read(&r->schema, &schema)) &&
           crc32c(0, bytes + at + sizeof r->crc, r->bytes - sizeof r->crc) == r->crc;
}

/* The entry of a record that was checked; options are owned by it. */
static void parse(const char *record, struct catalog_entry *e)
{
    struct disk_catalog_record r;
    memcpy(&r, record, sizeof r);
    *e = (struct catalog_entry){
        .live_count = r.live_count,
        .dead_count = r.dead_count,
        .file_bytes = r.file_bytes,
        .last_lsn = r.last_lsn,
        .counts_known = r.flags & CATALOG_COUNTS_KNOWN,
        .dropped = r.type == CATALOG_DROPPED,
    };
    /* A tombstone has none. */
    if (!disk_schema_read(&r.schema, &e->schema)) e->schema = (struct schema){0};
    memcpy(e->uuid, r.uuid, sizeof e->uuid);
    memcpy(e->name, record + sizeof r, r.name_bytes);
    if (r.schema.options_bytes) {
        e->schema.options = mem_zalloc(r.schema.options_bytes + 1);
        memcpy(e->schema.options, record + sizeof r + r.name_bytes, r.schema.options_bytes);
    }
}

/* A record, where it lies; later ones have greater addresses. */
static int by_name(const void *a, const void *b)
{
    const char *x = *(const char *const *)a, *y = *(const char *const *)b;
    struct disk_catalog_record p, q;
    memcpy(&p, x, sizeof p);
    memcpy(&q, y, sizeof q);
    uint32_t shorter = p.name_bytes < q.name_bytes ? p.name_bytes : q.name_bytes;
    int order = memcmp(x + sizeof p, y + sizeof q, shorter);
    if (order) return order;
    if (p.name_bytes != q.name_bytes) return p.name_bytes < q.name_bytes ? -1 : 1;
    return x < y ? -1 : x > y;
}

static bool same_name(const char *x, const char *y)
{
    struct disk_catalog_record p, q;
    memcpy(&p, x, sizeof p);
    memcpy(&q, y, sizeof q);
    return p.name_bytes == q.name_bytes && memcmp(x + sizeof p, y + sizeof q, p.name_bytes) == 0;
}

/* The records of one name, in order: the last says what it is; a tombstone counts until it is
 * forgotten. */
static void hand_over_name(struct catalog *c, const char *const *all, size_t count, bool was_clean,
                           catalog_entry_fn *fn, void *ctx)
{
    for (size_t i = 0; i < count; i++) {
        struct disk_catalog_record r, later;
        memcpy(&r, all[i], sizeof r);
        bool counts = r.type == CATALOG_DATABASE ? i + 1 == count : r.type == CATALOG_DROPPED;
        for (size_t k = i + 1; k < count && counts && r.type == CATALOG_DROPPED; k++) {
            memcpy(&later, all[k], sizeof later);
            if (later.type == CATALOG_FORGOTTEN && memcmp(later.uuid, r.uuid, sizeof r.uuid) == 0)
                counts = false;
        }
        if (!counts) continue;
        struct catalog_entry e;
        parse(all[i], &e);
        e.counts_known = e.counts_known && was_clean;
        fn(ctx, &e);
        mem_free(e.schema.options);
        c->kept_count++;
    }
}

static void hand_over(struct catalog *c, const char **all, size_t count, bool was_clean,
                      catalog_entry_fn *fn, void *ctx)
{
    /* A catalog that was written anew is in order. */
    bool in_order = true;
    for (size_t i = 1; i < count && in_order; i++)
        in_order = by_name(&all[i - 1], &all[i]) < 0;
    if (!in_order) qsort(all, count, sizeof all[0], by_name);
    for (size_t i = 0, end; i < count; i = end) {
        for (end = i + 1; end < count && same_name(all[i], all[end]); end++)
            continue;
        hand_over_name(c, all + i, end - i, was_clean, fn, ctx);
    }
}

static enum err_code read_all(struct catalog *c, uint64_t size, catalog_entry_fn *fn, void *ctx,
                              bool *was_clean, bool *was_lost, struct err *err)
{
    struct disk_catalog_header head;
    char *bytes = size <= CATALOG_BYTES_MAX ? mem_try(size + 1) : NULL;
    if (!bytes) return err_set(err, ERR_NOMEM, "out of memory for the catalog");
    int os_errno = file_read(c->fd, bytes, size, 0);
    if (os_errno) {
        mem_free(bytes);
        return err_os(err, os_errno, "read " CATALOG_NAME);
    }
    memcpy(&head, bytes, sizeof head);
    if (memcmp(head.magic, CATALOG_MAGIC, sizeof head.magic) != 0) {
        *was_lost = true;
        mem_free(bytes);
        return ERR_OK;
    }
    struct disk_catalog_record r;
    bool known = head.format_version == FORMAT_VERSION, header_is_bad = !known;
    /* The records say it again, with a checksum. */
    if (!known && check(bytes, size, sizeof head, &r)) {
        log_warning("the header of the catalog is damaged; its records are not");
        known = true;
    }
    if (!known) {
        mem_free(bytes);
        return err_set(err, ERR_QUARANTINED,
                       CATALOG_NAME " has format version %" PRIu32
                                    "; this program reads version %d",
                       head.format_version, FORMAT_VERSION);
    }
    const char **all = NULL;
    size_t count = 0, cap = 0;
    uint64_t at = sizeof head;
    for (; at < size && check(bytes, size, at, &r); at += r.bytes) {
        *was_clean = r.type == CATALOG_CLEAN;
        if (r.type == CATALOG_CLEAN || r.type == CATALOG_IN_USE) continue;
        if (count == cap) {
            cap = cap ? cap * 2 : 1024;
            const char **grown = mem_zalloc(cap * sizeof *grown);
            if (count) memcpy(grown, all, count * sizeof *grown);
            mem_free(all);
            all = grown;
        }
        all[count++] = bytes + at;
    }
    if (at < size) {
        log_warning("the catalog is torn or damaged at byte %" PRIu64 "; the files fill the gap",
                    at);
    }
    if (at < size || header_is_bad) {
        *was_clean = false;
        *was_lost = true;
    }
    c->end = at;
    c->record_count = count;
    hand_over(c, all, count, *was_clean, fn, ctx);
    mem_free(all);
    mem_free(bytes);
    return ERR_OK;
}

/* ---- writing ---- */

static enum err_code append(struct catalog *c, const struct buf *records, struct err *err)
{
    mutex_assert_held(&c->mu);
    if (records->failed) return err_set(err, ERR_NOMEM, "out of memory for the catalog");
    if (c->broken)
        return err_set(err, ERR_READ_ONLY,
                       "no database can be created or dropped until restart: " CATALOG_NAME
                       " could not be written");
    int os_errno = file_write(c->fd, records->data, records->len, c->end);
    bool written = !os_errno;
    if (written) os_errno = file_datasync(c->fd);
    if (!os_errno) {
        c->end += records->len;
        return ERR_OK;
    }
    /* A later start must not find what was refused; after a failed sync, a power cut still may
     * leave it. */
    int cut_errno = file_truncate(c->fd, c->end);
    if (!written && !cut_errno) return err_os(err, os_errno, "write " CATALOG_NAME);
    c->broken = true;
    log_error("no database can be created or dropped until restart: %s the catalog failed: %s",
              written ? "syncing" : "writing", strerror(os_errno));
    return err_set(err, ERR_READ_ONLY,
                   "no database can be created or dropped until restart: " CATALOG_NAME
                   " could not be written");
}

bool catalog_is_broken(struct catalog *c)
{
    mutex_lock(&c->mu);
    bool broken = c->broken;
    mutex_unlock(&c->mu);
    return broken;
}

static enum err_code append_one(struct catalog *c, enum catalog_type type,
                                const struct catalog_entry *e, struct err *err)
{
    struct buf record = {0};
    add_record(&record, type, e);
    mutex_lock(&c->mu);
    enum err_code rc = append(c, &record, err);
    mutex_unlock(&c->mu);
    buf_free(&record);
    return rc;
}

enum err_code catalog_add(struct catalog *c, const struct catalog_entry *entry, struct err *err)
{
    return append_one(c, CATALOG_DATABASE, entry, err);
}

enum err_code catalog_drop(struct catalog *c, const char *name, const uint8_t uuid[16],
                           struct err *err)
{
    struct catalog_entry e = {.dropped = true};
    memcpy(e.name, name, strlen(name));
    memcpy(e.uuid, uuid, sizeof e.uuid);
    return append_one(c, CATALOG_DROPPED, &e, err);
}

enum err_code catalog_forget(struct catalog *c, const char *name, const uint8_t uuid[16],
                             struct err *err)
{
    struct catalog_entry e = {0};
    memcpy(e.name, name, strlen(name));
    memcpy(e.uuid, uuid, sizeof e.uuid);
    return append_one(c, CATALOG_FORGOTTEN, &e, err);
}

enum err_code catalog_rewrite(struct catalog *c, bool (*next)(void *ctx, struct catalog_entry *e),
                              void *ctx, bool clean, struct err *err)
{
    struct buf all = {0};
    struct disk_catalog_header head = {.format_version = FORMAT_VERSION};
    memcpy(head.magic, CATALOG_MAGIC, sizeof head.magic);
    buf_add(&all, &head, sizeof head);
    struct catalog_entry e;
    while (next && next(ctx, &e))
        add_record(&all, e.dropped ? CATALOG_DROPPED : CATALOG_DATABASE, &e);
    add_record(&all, clean ? CATALOG_CLEAN : CATALOG_IN_USE, NULL);

    int fd = -1, os_errno = all.failed ? ENOMEM : 0;
    if (!os_errno)
        os_errno = file_open(c->dir_fd, CATALOG_NEW_NAME, O_RDWR | O_CREAT | O_TRUNC, &fd);
    if (!os_errno) os_errno = file_write(fd, all.data, all.len, 0);
    if (!os_errno) os_errno = file_sync(fd);
    if (!os_errno) os_errno = file_rename(c->dir_fd, CATALOG_NEW_NAME, CATALOG_NAME);
    if (!os_errno) os_errno = file_sync(c->dir_fd);
    enum err_code rc = ERR_OK;
    if (os_errno) {
        rc = err_os(err, os_errno, "write " CATALOG_NAME);
        file_close(fd);
    } else {
        file_close(c->fd);
        c->fd = fd;
        c->end = all.len;
    }
    buf_free(&all);
    return rc;
}

bool catalog_is_worn(const struct catalog *c)
{
    return c->is_lost || c->record_count > 2 * c->kept_count + GARBAGE_RECORDS;
}

enum err_code catalog_mark_in_use(struct catalog *c, bool was_clean, struct err *err)
{
    if (c->fd < 0) return err_set(err, ERR_STORAGE_FULL, "there is no catalog");
    enum err_code rc = ERR_OK;
    int os_errno = 0;
    if (was_clean) {
        /* The record that says otherwise is the last one. */
        struct buf record = {0};
        add_record(&record, CATALOG_IN_USE, NULL);
        mutex_lock(&c->mu);
        c->end -= record.len;
        rc = append(c, &record, err);
        mutex_unlock(&c->mu);
        buf_free(&record);
    } else {
        /* After kill -9 the last records may be in the page cache alone, and the name too. */
        os_errno = file_datasync(c->fd);
    }
    if (!rc && !os_errno) os_errno = file_sync(c->dir_fd);
    return os_errno ? err_os(err, os_errno, "sync " CATALOG_NAME) : rc;
}

enum err_code catalog_open(int dir_fd, catalog_entry_fn *fn, void *ctx, struct catalog **out,
                           bool *was_clean, bool *was_lost, struct err *err)
{
    struct catalog *c = mem_new(struct catalog);
    c->dir_fd = dir_fd;
    c->fd = -1;
    mutex_init(&c->mu, LOCK_CATALOG);
    *was_clean = false;
    *was_lost = false;
    uint64_t size = 0;
    enum err_code rc = ERR_OK;
    int os_errno = file_open(dir_fd, CATALOG_NAME, O_RDWR, &c->fd);
    if (os_errno == EROFS || os_errno == EACCES || os_errno == EPERM)
        os_errno = file_open(dir_fd, CATALOG_NAME, O_RDONLY, &c->fd); /* to be written anew */
    if (!os_errno) os_errno = file_size(c->fd, &size);
    if (os_errno && os_errno != ENOENT) {
        rc = err_os(err, os_errno, "open " CATALOG_NAME);
        goto out;
    }
    if (size < sizeof(struct disk_catalog_header)) {
        *was_lost = true;
    } else {
        rc = read_all(c, size, fn, ctx, was_clean, was_lost, err);
        if (rc) goto out;
    }
    c->is_lost = *was_lost;
    *out = c;
    c = NULL;
out:
    catalog_close(c);
    return rc;
}

void catalog_close(struct catalog *c)
{
    if (!c) return;
    file_close(c->fd);
    mutex_deinit(&c->mu);
    mem_free(c);
}

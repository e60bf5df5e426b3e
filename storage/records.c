#include "storage/records.h"

#include <inttypes.h>
#include <string.h>

#include "storage/base/crc32c.h"
#include "storage/base/metrics.h"

uint64_t records_size(uint32_t text_bytes, uint32_t metadata_bytes)
{
    uint64_t bytes = sizeof(struct disk_record) + (uint64_t)text_bytes + metadata_bytes;
    return (bytes + 7) & ~(uint64_t)7;
}

uint32_t records_head_crc(uint64_t record_at, const struct disk_record *head)
{
    uint32_t crc = crc32c(0, &record_at, sizeof record_at);
    return crc32c(crc, &head->text_bytes, sizeof *head - offsetof(struct disk_record, text_bytes));
}

enum err_code records_write(struct jvdb_file *f, uint64_t record_at, uint64_t lsn, const char *text,
                            uint32_t text_bytes, const char *metadata, uint32_t metadata_bytes,
                            struct err *err)
{
    static const char zeros[8];
    struct disk_record head = {
        .text_bytes = text_bytes, .metadata_bytes = metadata_bytes, .lsn = lsn};
    head.crc = records_head_crc(record_at, &head);
    head.crc = crc32c(head.crc, text, text_bytes);
    head.crc = crc32c(head.crc, metadata, metadata_bytes);

    uint64_t size = records_size(text_bytes, metadata_bytes);
    uint64_t padding = size - sizeof head - text_bytes - metadata_bytes;
    const struct iovec parts[] = {{&head, sizeof head},
                                  {(void *)(uintptr_t)text, text_bytes},
                                  {(void *)(uintptr_t)metadata, metadata_bytes},
                                  {(void *)(uintptr_t)zeros, padding}};
    uint64_t at = record_at - 1;
    size_t part = 0, used = 0;
    while (part < 4) {
        /* As much as one extent takes. */
        uint64_t room = region_run(&f->shapes[REGION_RECORDS], at), run = 0;
        struct iovec iov[4];
        int count = 0;
        while (part < 4 && room > 0) {
            uint64_t n = parts[part].iov_len - used;
            if (n > room) n = room;
            if (n > 0) iov[count++] = (struct iovec){(char *)parts[part].iov_base + used, n};
            run += n;
            room -= n;
            used += n;
            if (used == parts[part].iov_len) {
                part++;
                used = 0;
            }
        }
        if (run == 0) break;
        enum err_code rc = jvdb_file_write(f, REGION_RECORDS, at, iov, count, err);
        if (rc) return rc;
        at += run;
    }
    return ERR_OK;
}

/* `bytes` bytes of the region from `at`: in the mapping if they are in one extent, else copied to
 * `copy`.  NULL: beyond the region. */
static const char *region_bytes(struct jvdb_file *f, uint64_t at, uint64_t bytes, char *copy)
{
    const char *first = jvdb_file_read(f, REGION_RECORDS, at);
    uint64_t run = region_run(&f->shapes[REGION_RECORDS], at);
    if (!first || bytes <= run) return first;

    for (uint64_t done = 0; done < bytes;) {
        const char *from = jvdb_file_read(f, REGION_RECORDS, at + done);
        if (!from) return NULL;
        run = region_run(&f->shapes[REGION_RECORDS], at + done);
        if (run > bytes - done) run = bytes - done;
        memcpy(copy + done, from, run);
        done += run;
    }
    return copy;
}

static bool read_head(struct jvdb_file *f, uint64_t record_at, struct disk_record *head)
{
    char copy[sizeof *head];
    /* A torn address may be anything; all that matters is that it is refused or harmless. */
    if (record_at == 0 || record_at > UINT64_MAX / 2) return false;
    const char *at = region_bytes(f, record_at - 1, sizeof *head, copy);
    if (!at) return false;
    memcpy(head, at, sizeof *head);
    return true;
}

/* The checksum of a whole record as it lies in the file, piece by piece. */
static bool record_is_intact(struct jvdb_file *f, uint64_t record_at,
                             const struct disk_record *head)
{
    if (head->text_bytes > ID_BYTES_MAX || head->metadata_bytes > METADATA_BYTES_MAX) return false;
    if (jvdb_file_is_checked(f, REGION_RECORDS, record_at - 1)) return true;
    uint64_t at = record_at - 1 + sizeof *head;
    uint64_t end = at + head->text_bytes + head->metadata_bytes;
    uint32_t crc = records_head_crc(record_at, head);
    while (at < end) {
        const char *piece = jvdb_file_read(f, REGION_RECORDS, at);
        uint64_t run = region_run(&f->shapes[REGION_RECORDS], at);
        if (!piece) return false;
        if (run > end - at) run = end - at;
        crc = crc32c(crc, piece, run);
        at += run;
    }
    if (crc != head->crc) return false;
    jvdb_file_set_checked(f, REGION_RECORDS, record_at - 1);
    return true;
}

const char *records_text(struct jvdb_file *f, uint64_t record_at, uint32_t text_bytes,
                         char copy[ID_BYTES_MAX])
{
    struct disk_record head;
    if (text_bytes > ID_BYTES_MAX || !read_head(f, record_at, &head)) return NULL;
    if (head.text_bytes != text_bytes || !record_is_intact(f, record_at, &head)) return NULL;
    return region_bytes(f, record_at - 1 + sizeof head, text_bytes, copy);
}

static enum err_code damaged(const struct jvdb_file *f, uint64_t record_at, struct err *err)
{
    stat_add(STAT_CHECKSUM_ERRORS, 1);
    return err_set(err, ERR_CORRUPT, "%s: the record at %" PRIu64 " is damaged", f->file_name,
                   record_at - 1);
}

enum err_code records_read(struct jvdb_file *f, uint64_t record_at, struct arena *straddling,
                           struct record *out, struct err *err)
{
    struct disk_record head;
    if (!read_head(f, record_at, &head)) return damaged(f, record_at, err);
    if (!record_is_intact(f, record_at, &head)) return damaged(f, record_at, err);

    uint64_t at = record_at - 1 + sizeof head,
             bytes = (uint64_t)head.text_bytes + head.metadata_bytes;
    char *copy = NULL;
    if (bytes > region_run(&f->shapes[REGION_RECORDS], at)) {
        copy = arena_alloc(straddling, bytes);
        if (!copy) return err_set(err, ERR_NOMEM, "out of memory for a record");
    }
    const char *texts = bytes ? region_bytes(f, at, bytes, copy) : "";
    if (!texts) return damaged(f, record_at, err);
    *out = (struct record){
        .text = texts,
        .text_bytes = head.text_bytes,
        .metadata = texts + head.text_bytes,
        .metadata_bytes = head.metadata_bytes,
        .lsn = head.lsn,
    };
    return ERR_OK;
}

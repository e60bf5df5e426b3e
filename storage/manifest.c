#include "storage/manifest.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "storage/base/crc32c.h"
#include "storage/base/file.h"
#include "storage/base/mem.h"

void manifest_deinit(struct manifest *m)
{
    mem_free(m->schema.options);
    m->schema.options = NULL;
    mem_free(m->index);
    m->index = NULL;
}

struct disk_schema disk_schema_of(const struct schema *schema)
{
    return (struct disk_schema){
        .dimension = schema->dimension,
        .metric = schema->metric,
        .durability = schema->durability,
        .options_bytes = schema->options ? (uint32_t)strlen(schema->options) : 0,
        .initial_capacity = schema->initial_capacity,
        .index_kind = schema->index.kind,
        .quantization = schema->index.quantization,
        .m = schema->index.m,
        .ef_construction = schema->index.ef_construction,
    };
}

bool disk_schema_read(const struct disk_schema *s, struct schema *schema)
{
    if (s->dimension < 1 || s->dimension > DIMENSION_MAX || s->metric >= METRIC_COUNT ||
        s->durability >= DURABILITY_COUNT || s->options_bytes > OPTIONS_BYTES_MAX ||
        s->index_kind >= INDEX_KIND_COUNT || s->quantization >= QUANTIZATION_COUNT)
        return false;
    *schema = (struct schema){
        .dimension = s->dimension,
        .metric = s->metric,
        .durability = s->durability,
        .initial_capacity = s->initial_capacity,
        .index = {.kind = s->index_kind,
                  .quantization = s->quantization,
                  .m = s->m,
                  .ef_construction = s->ef_construction},
    };
    return index_options_are_sane(&schema->index);
}

/* ---- writing ---- */

static void add_record(struct buf *out, const char *name, const void *head, size_t head_bytes,
                       const void *tail, size_t tail_bytes)
{
    static const char zeros[8];
    bool required = strcmp(name, INDEX_RECORD) != 0;
    struct disk_manifest_record r = {.flags = required ? MANIFEST_REQUIRED : 0,
                                     .bytes = (uint32_t)(head_bytes + tail_bytes)};
    memcpy(r.name, name, strlen(name));
    buf_add(out, &r, sizeof r);
    buf_add(out, head, head_bytes);
    buf_add(out, tail, tail_bytes);
    buf_add(out, zeros, (8 - r.bytes % 8) % 8);
}

void manifest_encode(struct jvdb_file *f, const struct schema *schema,
                     const struct disk_counts *counts, const struct buf *index, uint64_t generation,
                     uint64_t lsn, struct buf *out, size_t *sums_at, size_t *sums_count)
{
    struct disk_manifest head = {.record_count = 3, .generation = generation, .lsn = lsn};
    memcpy(head.magic, MANIFEST_MAGIC, sizeof head.magic);
    memcpy(head.uuid, f->uuid, sizeof head.uuid);
    size_t start = out->len;
    buf_add(out, &head, sizeof head);

    struct disk_schema s = disk_schema_of(schema);
    add_record(out, "schema", &s, sizeof s, schema->options, s.options_bytes);
    add_record(out, "counts", counts, sizeof *counts, NULL, 0);

    const struct jvdb_view *v = atomic_load_explicit(&f->view, memory_order_relaxed);
    for (int r = 0; r < REGION_COUNT; r++) {
        const struct region_shape *shape = &f->shapes[r];
        struct disk_region dr = {
            .is_mutable = shape->is_mutable,
            .extent_count = atomic_load_explicit(&f->extent_count[r], memory_order_relaxed),
            .cell_bytes = shape->cell_bytes,
            .unit_cells = shape->unit_cells,
        };
        if (region_is_index(r) && !dr.extent_count) continue; /* it has no shape yet */
        head.record_count++;
        memcpy(dr.name, shape->name, strlen(shape->name));
        add_record(out, "region", &dr, sizeof dr, v ? v->extents[r] : NULL,
                   dr.extent_count * sizeof(uint64_t));
    }
    uint32_t sums_extents =
        atomic_load_explicit(&f->extent_count[REGION_SUMS], memory_order_relaxed);
    *sums_count = 0;
    for (uint32_t e = 0; e < sums_extents; e++)
        *sums_count += region_extent_bytes(&f->shapes[REGION_SUMS], e) / BLOCK_BYTES;
    *sums_at = out->len + sizeof(struct disk_manifest_record);
    size_t sums_bytes = *sums_count * sizeof(uint32_t);
    char *zeros = mem_zalloc(BLOCK_BYTES + sums_bytes);
    add_record(out, "sums", zeros, sums_bytes, NULL, 0);
    if (index && index->len) {
        add_record(out, INDEX_RECORD, index->data, index->len, NULL, 0);
        head.record_count++;
    }

    head.bytes = out->len - start;
    if (!out->failed) memcpy(out->data + start, &head, sizeof head);
    buf_add(out, zeros, (BLOCK_BYTES - head.bytes % BLOCK_BYTES) % BLOCK_BYTES);
    mem_free(zeros);
}

void manifest_drop_index(struct buf *manifest)
{
    struct disk_manifest head;
    struct disk_manifest_record r;
    memcpy(&head, manifest->data, sizeof head);
    size_t at = sizeof head;
    for (uint32_t i = 0; i < head.record_count; i++) {
        memcpy(&r, manifest->data + at, sizeof r);
        if (strncmp(r.name, INDEX_RECORD, sizeof r.name) == 0) { /* the last one */
            memset(manifest->data + at, 0, head.bytes - at);
            head.bytes = at;
            head.record_count--;
        }
        at += sizeof r + (((size_t)r.bytes + 7) & ~(size_t)7);
    }
    memcpy(manifest->data, &head, sizeof head);
}

uint32_t superblock_crc(const struct disk_superblock *sb)
{
    return crc32c(0, sb, offsetof(struct disk_superblock, crc));
}

struct disk_superblock superblock_make(const struct jvdb_file *f, const struct buf *manifest,
                                       uint64_t manifest_at, uint64_t file_bytes)
{
    struct disk_manifest head;
    memcpy(&head, manifest->data, sizeof head);
    struct disk_superblock sb = {
        .format_version = FORMAT_VERSION,
        .generation = head.generation,
        .lsn = head.lsn,
        .manifest_at = manifest_at,
        .manifest_bytes = manifest->len,
        .file_bytes = file_bytes,
        .manifest_crc = crc32c(0, manifest->data, manifest->len),
    };
    memcpy(sb.magic, SUPERBLOCK_MAGIC, sizeof sb.magic);
    memcpy(sb.uuid, f->uuid, sizeof sb.uuid);
    sb.crc = superblock_crc(&sb);
    return sb;
}

/* ---- reading ---- */

/* A read that fails is no damage, and no proof that there is none: *os_errno. */
static bool manifest_is_intact(int fd, const struct disk_superblock *sb, uint8_t **bytes,
                               int *os_errno)
{
    uint64_t size = 0;
    *os_errno = file_size(fd, &size);
    if (*os_errno || sb->manifest_at > size || sb->manifest_bytes > size - sb->manifest_at)
        return false;
    if (sb->manifest_bytes < sizeof(struct disk_manifest) ||
        sb->manifest_bytes > MANIFEST_BYTES_MAX ||
        sb->manifest_at < SUPERBLOCK_COUNT * BLOCK_BYTES || sb->manifest_at % BLOCK_BYTES ||
        sb->manifest_bytes % BLOCK_BYTES)
        return false;
    *bytes = mem_try(sb->manifest_bytes);
    *os_errno = *bytes ? file_read(fd, *bytes, sb->manifest_bytes, sb->manifest_at) : ENOMEM;
    if (!*os_errno && crc32c(0, *bytes, sb->manifest_bytes) == sb->manifest_crc) return true;
    mem_free(*bytes);
    *bytes = NULL;
    return false;
}

enum err_code superblock_read(int fd, const char *file_name, struct disk_superblock *out,
                              bool *alike, struct err *err)
{
    bool found = false, seen_magic = false;
    uint64_t size = 0;
    *alike = false;
    int os_errno = file_size(fd, &size);
    if (os_errno) return err_os(err, os_errno, "read %s", file_name);
    for (int i = 0; i < SUPERBLOCK_COUNT; i++) {
        struct disk_superblock sb;
        if (size < (uint64_t)i * BLOCK_BYTES + sizeof sb) continue;
        /* The copy that cannot be read may be the newer one. */
        os_errno = file_read(fd, &sb, sizeof sb, (uint64_t)i * BLOCK_BYTES);
        if (os_errno) return err_os(err, os_errno, "read the superblocks of %s", file_name);
        if (memcmp(sb.magic, SUPERBLOCK_MAGIC, sizeof sb.magic) != 0) continue;
        seen_magic = true;
        /* A newer format may checksum otherwise: the version is looked at first. */
        if (sb.format_version != FORMAT_VERSION && sb.format_version < 1000)
            return err_set(err, ERR_QUARANTINED,
                           "%s has format version %" PRIu32 "; this program reads version %d",
                           file_name, sb.format_version, FORMAT_VERSION);
        if (sb.crc != superblock_crc(&sb)) continue;
        if (sb.features_incompat || sb.features_ro_compat)
            return err_set(err, ERR_QUARANTINED,
                           "%s uses features that this program does not know; a newer version "
                           "wrote it",
                           file_name);
        uint8_t *bytes = NULL;
        bool intact = manifest_is_intact(fd, &sb, &bytes, &os_errno);
        mem_free(bytes);
        if (os_errno) return err_os(err, os_errno, "read the manifest of %s", file_name);
        if (!intact) continue;
        *alike = found && memcmp(&sb, out, sizeof sb) == 0;
        if (!found || sb.generation > out->generation) *out = sb;
        found = true;
    }
    if (found) return ERR_OK;
    return err_set(err, ERR_CORRUPT,
                   seen_magic ? "%s: superblock or manifest is damaged"
                              : "%s is not a JadeVectorDB file (invalid magic number)",
                   file_name);
}

struct cursor {
    const uint8_t *at;
    const uint8_t *end;
};

static const void *take(struct cursor *c, size_t bytes)
{
    if ((size_t)(c->end - c->at) < bytes) return NULL;
    const void *p = c->at;
    c->at += bytes;
    return p;
}

static bool parse_schema(struct cursor c, struct schema *schema)
{
    struct disk_schema s;
    const void *p = take(&c, sizeof s);
    if (!p) return false;
    memcpy(&s, p, sizeof s);
    struct schema read;
    if (!disk_schema_read(&s, &read)) return false;
    const char *options = take(&c, s.options_bytes);
    if (!options) return false;
    mem_free(schema->options);
    *schema = read;
    if (s.options_bytes) {
        schema->options = mem_zalloc(s.options_bytes + 1);
        memcpy(schema->options, options, s.options_bytes);
    }
    return true;
}

static int by_offset(const void *a, const void *b)
{
    const struct space_range *x = a, *y = b;
    return x->at < y->at ? -1 : x->at > y->at;
}

/* Free is what lies between the extents; overlapping extents are a lie. */
static bool find_free_space(struct jvdb_file *f, const struct disk_superblock *sb,
                            struct space_range *used, size_t count)
{
    used[count++] = (struct space_range){0, SUPERBLOCK_COUNT * BLOCK_BYTES};
    used[count++] = (struct space_range){sb->manifest_at, sb->manifest_bytes};
    qsort(used, count, sizeof used[0], by_offset);
    uint64_t end = 0;
    for (size_t i = 0; i < count; i++) {
        if (used[i].at < end || used[i].bytes > sb->file_bytes ||
            used[i].at > sb->file_bytes - used[i].bytes)
            return false;
        space_give(&f->space, end, used[i].at - end);
        end = used[i].at + used[i].bytes;
    }
    space_give(&f->space, end, sb->file_bytes - end);
    return true;
}

static bool parse_region(struct jvdb_file *f, struct cursor c, uint64_t *extents[REGION_COUNT],
                         struct space_range **used, size_t *used_count, bool *is_newer)
{
    struct disk_region dr;
    const void *p = take(&c, sizeof dr);
    if (!p) return false;
    memcpy(&dr, p, sizeof dr);
    for (int r = 0; r < REGION_COUNT; r++) {
        struct region_shape *shape = &f->shapes[r];
        if (strncmp(dr.name, shape->name, sizeof dr.name) != 0) continue;
        if (region_is_index(r) && !region_set_cell_bytes(shape, dr.cell_bytes)) return false;
        const uint8_t *offsets = take(&c, (size_t)dr.extent_count * sizeof(uint64_t));
        if (!offsets || extents[r] || dr.cell_bytes != shape->cell_bytes ||
            dr.unit_cells != shape->unit_cells || dr.is_mutable != shape->is_mutable)
            return false;
        uint64_t cap = 8;
        while (cap < dr.extent_count)
            cap *= 2;
        extents[r] = mem_zalloc(cap * sizeof(uint64_t));
        if (dr.extent_count) memcpy(extents[r], offsets, dr.extent_count * sizeof(uint64_t));
        struct space_range *grown =
            mem_resize(*used, (*used_count + dr.extent_count + 2) * sizeof **used);
        if (!grown) return false;
        *used = grown;
        for (uint32_t e = 0; e < dr.extent_count; e++) {
            if (extents[r][e] % BLOCK_BYTES) return false;
            (*used)[(*used_count)++] =
                (struct space_range){extents[r][e], region_extent_bytes(shape, e)};
        }
        f->extent_cap[r] = cap;
        atomic_store_explicit(&f->extent_count[r], dr.extent_count, memory_order_relaxed);
        return true;
    }
    *is_newer = true; /* a kind of region that is not known here */
    return false;
}

/* An index is of use only as a whole: if it is too large for the memory, it is made again. */
static void keep_index(struct manifest *m, const uint8_t *payload, uint32_t bytes)
{
    mem_free(m->index);
    m->index = mem_try(bytes + 1);
    m->index_bytes = bytes;
    if (m->index) memcpy(m->index, payload, bytes);
}

static bool counts_are_sane(struct jvdb_file *f, const struct disk_counts *c)
{
    uint64_t cap[REGION_COUNT];
    for (int r = 0; r < REGION_COUNT; r++)
        cap[r] = region_capacity(&f->shapes[r],
                                 atomic_load_explicit(&f->extent_count[r], memory_order_relaxed));
    return c->slot_count <= cap[REGION_SLOTS] && c->slot_count <= cap[REGION_VECTORS] &&
           c->live_count <= c->slot_count && c->dead_count <= c->slot_count - c->live_count &&
           c->dead_first <= c->slot_count && c->dead_last <= c->slot_count &&
           c->records_bytes <= cap[REGION_RECORDS] && c->index_nodes <= cap[REGION_ID_INDEX] &&
           c->index_root <= c->index_nodes && c->index_levels <= 12 &&
           (c->index_root == 0) == (c->index_levels == 0);
}

/* Walk the records. */
bool manifest_parse(const uint8_t *bytes, const struct disk_superblock *sb, struct jvdb_file *f,
                    uint64_t *extents[REGION_COUNT], struct manifest *m)
{
    struct disk_manifest head;
    memcpy(&head, bytes, sizeof head);
    if (memcmp(head.magic, MANIFEST_MAGIC, sizeof head.magic) != 0 ||
        head.bytes > sb->manifest_bytes || head.bytes < sizeof head ||
        memcmp(head.uuid, sb->uuid, sizeof head.uuid) != 0 || head.generation != sb->generation ||
        head.lsn != sb->lsn)
        return false;

    struct cursor c = {bytes + sizeof head, bytes + head.bytes};
    struct space_range *used = NULL;
    size_t used_count = 0;
    bool has_schema = false, has_counts = false, has_sums = false, good = true;
    for (uint32_t i = 0; i < head.record_count && good; i++) {
        struct disk_manifest_record r;
        const void *p = take(&c, sizeof r);
        if (!p) {
            good = false;
            break;
        }
        memcpy(&r, p, sizeof r);
        const uint8_t *payload = take(&c, ((size_t)r.bytes + 7) & ~(size_t)7);
        if (!payload) {
            good = false;
            break;
        }
        struct cursor body = {payload, payload + r.bytes};
        if (strncmp(r.name, "schema", sizeof r.name) == 0) {
            good = has_schema = !has_schema && parse_schema(body, &m->schema);
            if (good && f) region_shapes(f->shapes, m->schema.dimension);
        } else if (strncmp(r.name, "counts", sizeof r.name) == 0) {
            good = has_counts = r.bytes == sizeof m->counts;
            if (good) memcpy(&m->counts, payload, sizeof m->counts);
        } else if (strncmp(r.name, "region", sizeof r.name) == 0) {
            if (f)
                good =
                    has_schema && parse_region(f, body, extents, &used, &used_count, &m->is_newer);
        } else if (strncmp(r.name, "sums", sizeof r.name) == 0) {
            has_sums = true;
            if (!f) continue;
            mem_free(f->sums_crc);
            f->sums_count = r.bytes / sizeof(uint32_t);
            f->sums_crc = mem_zalloc(f->sums_count * sizeof(uint32_t) + 1);
            memcpy(f->sums_crc, payload, f->sums_count * sizeof(uint32_t));
        } else if (strncmp(r.name, INDEX_RECORD, sizeof r.name) == 0) {
            if (f) keep_index(m, payload, r.bytes);
        } else if (r.flags & MANIFEST_REQUIRED) {
            m->is_newer = true;
            good = false;
        }
    }
    good = good && has_schema && has_counts && has_sums;
    if (good && f) {
        struct space_range *grown = mem_resize(used, (used_count + 2) * sizeof *used);
        if (grown) used = grown;
        good = grown && find_free_space(f, sb, used, used_count) && counts_are_sane(f, &m->counts);
    }
    mem_free(used);
    return good;
}

static enum err_code refused(const char *file_name, const struct manifest *m, struct err *err)
{
    if (m->is_newer)
        return err_set(
            err, ERR_QUARANTINED,
            "%s holds something that this program does not know; a newer version wrote it",
            file_name);
    return err_set(err, ERR_CORRUPT, "%s: the manifest is damaged", file_name);
}

enum err_code manifest_read(int fd, const struct disk_superblock *sb, struct jvdb_file *f,
                            struct manifest *m, struct err *err)
{
    uint8_t *bytes = NULL;
    uint64_t *extents[REGION_COUNT] = {0};
    uint64_t size = 0;
    int os_errno = file_size(fd, &size);
    if (os_errno) return err_os(err, os_errno, "measure %s", f->file_name);
    if (size < sb->file_bytes || sb->file_bytes % BLOCK_BYTES)
        return err_set(err, ERR_CORRUPT, "%s has %" PRIu64 " bytes, %" PRIu64 " are needed",
                       f->file_name, size, sb->file_bytes);
    *m = (struct manifest){0};
    enum err_code rc = ERR_OK;
    bool good =
        manifest_is_intact(fd, sb, &bytes, &os_errno) && manifest_parse(bytes, sb, f, extents, m);
    if (!good) {
        rc = os_errno ? err_os(err, os_errno, "read the manifest of %s", f->file_name)
                      : refused(f->file_name, m, err);
        goto out;
    }
    f->file_bytes = sb->file_bytes;
    f->manifest_at = sb->manifest_at;
    f->manifest_bytes = sb->manifest_bytes;
    f->generation = sb->generation;
    f->checkpoint_lsn = sb->lsn;
    rc = jvdb_file_map(f, err);
    if (rc) goto out;
    struct jvdb_view *v = atomic_load_explicit(&f->view, memory_order_relaxed);
    for (int r = 0; r < REGION_COUNT; r++) {
        v->extents[r] = extents[r];
        extents[r] = NULL;
    }
out:
    for (int r = 0; r < REGION_COUNT; r++)
        mem_free(extents[r]);
    mem_free(bytes);
    if (rc) manifest_deinit(m);
    return rc;
}

enum err_code manifest_peek(int fd, const char *file_name, const struct disk_superblock *sb,
                            struct manifest *m, struct err *err)
{
    uint8_t *bytes = NULL;
    *m = (struct manifest){0};
    int os_errno;
    bool good =
        manifest_is_intact(fd, sb, &bytes, &os_errno) && manifest_parse(bytes, sb, NULL, NULL, m);
    mem_free(bytes);
    if (good) return ERR_OK;
    manifest_deinit(m);
    if (os_errno) return err_os(err, os_errno, "read the manifest of %s", file_name);
    return refused(file_name, m, err);
}

enum err_code manifest_stamp(int fd, const char *file_name, struct disk_superblock *sb,
                             const uint8_t uuid[16], struct err *err)
{
    uint8_t *bytes = NULL;
    int os_errno = 0;
    if (sb->file_bytes % BLOCK_BYTES || !manifest_is_intact(fd, sb, &bytes, &os_errno))
        return os_errno ? err_os(err, os_errno, "read the manifest of %s", file_name)
                        : err_set(err, ERR_CORRUPT, "%s: the manifest is damaged", file_name);
    struct disk_manifest head;
    struct disk_superblock next = *sb;
    memcpy(&head, bytes, sizeof head);
    memcpy(head.uuid, uuid, sizeof head.uuid);
    memcpy(next.uuid, uuid, sizeof next.uuid);
    head.generation = next.generation = sb->generation + 1;
    memcpy(bytes, &head, sizeof head);
    /* The old manifest stays whole until the new one counts. */
    next.manifest_at = sb->file_bytes;
    next.file_bytes = sb->file_bytes + sb->manifest_bytes;
    next.manifest_crc = crc32c(0, bytes, next.manifest_bytes);
    next.crc = superblock_crc(&next);
    os_errno = file_allocate(fd, next.manifest_at, next.manifest_bytes);
    if (!os_errno) os_errno = file_write(fd, bytes, next.manifest_bytes, next.manifest_at);
    if (!os_errno) os_errno = file_datasync(fd);
    for (uint64_t i = 0; i < SUPERBLOCK_COUNT && !os_errno; i++) {
        uint64_t at = (next.generation + i) % SUPERBLOCK_COUNT * BLOCK_BYTES;
        os_errno = file_write(fd, &next, sizeof next, at);
        if (!os_errno) os_errno = file_datasync(fd);
    }
    mem_free(bytes);
    if (os_errno) return err_os(err, os_errno, "give %s a uuid of its own", file_name);
    *sb = next;
    return ERR_OK;
}

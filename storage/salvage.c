/*
 * salvage.c - find the slots, prove each row, write the proven ones as a database of their own.
 *
 * WHERE THE SLOTS LIE says the manifest.  It is taken from the newest superblock that leads to an
 * intact one; else from a damaged superblock, or from any block that looks like a manifest: it is a
 * hint then, and the rows' checksums decide.  Of a block of slots that fails its checksum, each
 * slot is tried by itself.  Rows are written in the order of their birth, so that the newest
 * version of an id stays; then the log is replayed, past its damaged places if need be.
 *
 * The new file is made by the ordinary engine in a directory of its own, and moved when it is
 * whole.
 */
#include "storage/salvage.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "storage/base/file.h"
#include "storage/base/mem.h"
#include "storage/database_private.h"
#include "storage/image.h"
#include "storage/service.h"
#include "storage/verify.h"
#include "storage/wal_scan.h"

enum { BATCH_ROWS = 64, KNOWN_LOST_MAX = 1 << 20 };

struct candidate {
    uint64_t birth;
    uint32_t slot;
    bool is_proven; /* its block's checksum is right */
};

struct lost {
    uint32_t slot;
    uint32_t text_bytes;
    uint64_t key;
    char *text; /* of a longer string id; NULL: not known */
    bool found; /* in the log, after all */
};

struct batch {
    struct row_input rows[BATCH_ROWS];
    struct image_record *records[BATCH_ROWS];
    char short_text[BATCH_ROWS][8];
    uint8_t *vectors;
    size_t count;
};

struct salvage {
    const struct salvage_options *o;
    struct salvage_result *r;
    struct image img;
    bool has_manifest, manifest_is_proven;
    uint32_t dimension;
    uint64_t after_lsn;
    struct candidate *candidates;
    size_t count, cap;
    struct lost *lost;
    size_t lost_count, lost_cap;
    uint64_t unread_blocks; /* of slots */
    uint8_t *rescued;       /* one bit per slot */
    uint64_t slot_count;
    struct batch batch;
    struct service *service;
    struct database *db;
    struct err *err;
    struct row_op_list ops;
    enum err_code rc; /* of the log's callback */
    int lines;
};

static void say(struct salvage *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void say(struct salvage *s, const char *fmt, ...)
{
    char line[700];
    va_list args;
    if (!s->o->say || s->lines > SALVAGE_LINES_MAX) return;
    va_start(args, fmt);
    vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    s->o->say(s->o->ctx, s->lines++ < SALVAGE_LINES_MAX ? line : "and more");
}

/* ---- the manifest ---- */

static void use_superblock(struct salvage *s, const struct disk_superblock *sb, bool proven)
{
    if (s->has_manifest && s->img.sb.generation >= sb->generation) return;
    /* A candidate that is of no use must not take the place of one that is. */
    struct disk_superblock before = s->img.sb;
    if (image_use(&s->img, sb, proven)) {
        s->has_manifest = true;
        s->manifest_is_proven = proven;
    } else if (s->has_manifest && !image_use(&s->img, &before, s->manifest_is_proven)) {
        s->has_manifest = false;
    }
}

/* Any block that looks like the head of a manifest. */
static void scan_for_manifests(struct salvage *s)
{
    struct image *img = &s->img;
    for (uint64_t at = SUPERBLOCK_COUNT * BLOCK_BYTES; at + BLOCK_BYTES <= img->bytes;
         at += BLOCK_BYTES) {
        struct disk_manifest head;
        if (image_read(img, &head, sizeof head, at) ||
            memcmp(head.magic, MANIFEST_MAGIC, sizeof head.magic) != 0 ||
            head.bytes > MANIFEST_BYTES_MAX)
            continue;
        struct disk_superblock sb = {
            .generation = head.generation,
            .lsn = head.lsn,
            .manifest_at = at,
            .manifest_bytes = (head.bytes + BLOCK_BYTES - 1) / BLOCK_BYTES * BLOCK_BYTES,
            .file_bytes = INT64_MAX / BLOCK_BYTES * BLOCK_BYTES,
        };
        memcpy(sb.uuid, head.uuid, sizeof sb.uuid);
        use_superblock(s, &sb, false);
    }
}

static enum err_code find_manifest(struct salvage *s, struct err *err)
{
    struct image *img = &s->img;
    if (img->is_newer && !img->superblock_good[0] && !img->superblock_good[1])
        return err_set(err, ERR_QUARANTINED,
                       "%s has another format version; this program reads version %d",
                       img->file_name, FORMAT_VERSION);
    for (int i = 0; i < SUPERBLOCK_COUNT; i++)
        if (img->superblock_good[i]) use_superblock(s, &img->superblocks[i], true);
    uint64_t newest = image_newest(img) ? image_newest(img)->generation : 0;
    /* The newest checkpoint, even on the word of a damaged manifest: an older one's blocks are in
     * use for other things. */
    if (!s->has_manifest || img->sb.generation < newest) {
        for (int i = 0; i < SUPERBLOCK_COUNT; i++)
            use_superblock(s, &img->superblocks[i], false);
        if (!s->has_manifest || !s->manifest_is_proven) scan_for_manifests(s);
    } else if (!img->superblock_good[0] || !img->superblock_good[1]) {
        scan_for_manifests(s); /* the other superblock may have been the newer one */
    }
    if (s->has_manifest) {
        s->dimension = img->manifest.schema.dimension;
        s->after_lsn = img->sb.lsn;
        if (!s->manifest_is_proven)
            say(s, "the manifest is damaged; what it still says is used to find the rows");
        return ERR_OK;
    }
    s->dimension = s->o->dimension;
    if (!s->dimension)
        return err_set(err, ERR_CORRUPT,
                       "%s has no manifest left: where its rows lie is not known; with its "
                       "--dimension (and --metric), its log can still be read",
                       img->file_name);
    say(s, "no manifest is left: only the log can be read");
    return ERR_OK;
}

/* ---- the slots ---- */

static bool bit(const uint8_t *bits, uint64_t i)
{
    return bits[i / 8] >> i % 8 & 1;
}

static enum err_code add_candidate(struct salvage *s, uint32_t number, const struct slot *slot,
                                   bool is_proven, struct err *err)
{
    if (s->count == s->cap) {
        size_t cap = s->cap ? s->cap * 2 : 1024;
        struct candidate *grown = mem_resize(s->candidates, cap * sizeof *grown);
        if (!grown) return err_set(err, ERR_NOMEM, "out of memory");
        s->candidates = grown;
        s->cap = cap;
    }
    s->candidates[s->count++] = (struct candidate){slot->birth, number, is_proven};
    return ERR_OK;
}

static int by_birth(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    if (x->birth != y->birth) return x->birth < y->birth ? -1 : 1;
    return x->slot < y->slot ? -1 : x->slot > y->slot;
}

/* Slots that say that their row lives. */
static enum err_code find_candidates(struct salvage *s, struct err *err)
{
    struct image *img = &s->img;
    if (!s->has_manifest) return ERR_OK;
    uint64_t capacity =
        region_capacity(&img->f.shapes[REGION_SLOTS], img->f.extent_count[REGION_SLOTS]);
    s->slot_count = img->manifest.counts.slot_count;
    if (!s->manifest_is_proven || s->slot_count > capacity) s->slot_count = capacity;
    s->rescued = mem_try(s->slot_count / 8 + 1);
    if (!s->rescued) return err_set(err, ERR_NOMEM, "out of memory");
    memset(s->rescued, 0, s->slot_count / 8 + 1);
    for (uint64_t i = 0; i < s->slot_count; i++) {
        enum image_state state;
        const struct slot *slot = image_cell(img, REGION_SLOTS, i, &state);
        if (i % (BLOCK_BYTES / sizeof *slot) == 0) s->unread_blocks += state != IMAGE_GOOD;
        if (!slot || slot->death != SLOT_NEVER || slot->birth == SLOT_NEVER || !slot->birth)
            continue;
        bool is_proven = state == IMAGE_GOOD;
        if (is_proven && slot->birth > img->sb.lsn) is_proven = false;
        enum err_code rc = add_candidate(s, (uint32_t)i, slot, is_proven, err);
        if (rc) return rc;
    }
    if (s->unread_blocks)
        say(s, "%" PRIu64 " blocks of slots are damaged: each slot of them is tried by itself",
            s->unread_blocks);
    if (s->count) qsort(s->candidates, s->count, sizeof s->candidates[0], by_birth);
    return ERR_OK;
}

/* ---- writing ---- */

static enum err_code flush_batch(struct salvage *s, struct err *err)
{
    struct batch *b = &s->batch;
    uint64_t lsn;
    if (b->count == 0) return ERR_OK;
    enum err_code rc = database_put(s->db, b->rows, b->count, s->dimension, true, &lsn, err);
    b->count = 0;
    return rc;
}

static void id_text(uint64_t key, uint32_t text_bytes, const char *text, char out[600])
{
    char bytes[8];
    if (!text_bytes) {
        snprintf(out, 600, "%" PRIu64, key);
        return;
    }
    for (int i = 0; i < 8; i++)
        bytes[i] = (char)(key >> (56 - 8 * i));
    if (text || text_bytes <= sizeof bytes)
        snprintf(out, 600, "\"%.*s\"", (int)text_bytes, text ? text : bytes);
    else
        snprintf(out, 600, "\"%.8s...\" (%" PRIu32 " bytes)", bytes, text_bytes);
}

static void note_lost(struct salvage *s, uint32_t number, const struct slot *slot, const char *text,
                      const char *why)
{
    char id[600];
    id_text(slot->key, slot->text_bytes, text, id);
    say(s, "lost: vector %s: %s", id, why);
    if (s->lost_count == KNOWN_LOST_MAX) return;
    if (s->lost_count == s->lost_cap) {
        size_t cap = s->lost_cap ? s->lost_cap * 2 : 64;
        struct lost *grown = mem_resize(s->lost, cap * sizeof *grown);
        if (!grown) return;
        s->lost = grown;
        s->lost_cap = cap;
    }
    struct lost *l = &s->lost[s->lost_count++];
    *l = (struct lost){.slot = number, .key = slot->key, .text_bytes = slot->text_bytes};
    if (text) {
        l->text = mem_zalloc(slot->text_bytes + 1);
        memcpy(l->text, text, slot->text_bytes);
    }
}

/* Add a candidate to the batch if everything that is said about it is proven. */
static void try_row(struct salvage *s, const struct candidate *c)
{
    struct image *img = &s->img;
    struct batch *b = &s->batch;
    uint64_t row_bytes = img->f.shapes[REGION_VECTORS].cell_bytes;
    uint8_t *vector = b->vectors + b->count * row_bytes;
    struct image_record *record = b->records[b->count];
    enum image_state state;
    const struct slot *cell = image_cell(img, REGION_SLOTS, c->slot, &state);
    if (!cell) return;
    struct slot slot = *cell;
    uint64_t at = image_place(img, REGION_VECTORS, c->slot);

    /* The record first: it may tell the id of a vector that is lost. */
    bool has_record = slot.record_at && slot.text_bytes <= ID_BYTES_MAX &&
                      image_record(img, slot.record_at, record) == IMAGE_GOOD &&
                      record->head.text_bytes == slot.text_bytes;
    if (has_record && slot.text_bytes) {
        struct vector_id id = {.text = record->text, .text_bytes = slot.text_bytes};
        has_record = index_key_of(&id).key == slot.key;
    }
    /* In a damaged slot the address may be another row's. */
    if (has_record && !c->is_proven) has_record = record->head.lsn == slot.birth;
    const char *text = has_record && slot.text_bytes ? record->text : NULL;

    if (slot.text_bytes > ID_BYTES_MAX || !at || image_read(img, vector, row_bytes, at) ||
        image_row_crc(img, slot.key, slot.text_bytes, vector) != slot.row_crc) {
        if (c->is_proven) note_lost(s, c->slot, &slot, text, "its numbers are damaged");
        return;
    }
    struct row_input *row = &b->rows[b->count];
    *row = (struct row_input){.vector = (const float *)(const void *)vector};
    char id[600];
    if (!slot.text_bytes) {
        row->id.number = slot.key;
    } else if (text) {
        row->id = (struct vector_id){.text = text, .text_bytes = slot.text_bytes};
    } else if (slot.text_bytes <= sizeof slot.key) { /* the key is the whole id */
        for (uint32_t i = 0; i < slot.text_bytes; i++)
            b->short_text[b->count][i] = (char)(slot.key >> (56 - 8 * i));
        row->id =
            (struct vector_id){.text = b->short_text[b->count], .text_bytes = slot.text_bytes};
    } else {
        if (c->is_proven) note_lost(s, c->slot, &slot, NULL, "the text of its id is damaged");
        return;
    }
    if (has_record && record->head.metadata_bytes) {
        row->metadata = record->metadata;
        row->metadata_bytes = record->head.metadata_bytes;
    } else if (slot.record_at && !has_record) {
        s->r->metadata_lost++;
        id_text(slot.key, slot.text_bytes, text, id);
        say(s, "vector %s is rescued without its metadata, which is damaged", id);
    }
    if (!c->is_proven) s->r->rows_in_doubt++;
    s->rescued[c->slot / 8] |= (uint8_t)(1u << c->slot % 8);
    b->count++;
}

static enum err_code write_rows(struct salvage *s, struct err *err)
{
    enum err_code rc = ERR_OK;
    for (size_t i = 0; i < s->count && !rc; i++) {
        try_row(s, &s->candidates[i]);
        if (s->batch.count == BATCH_ROWS) rc = flush_batch(s, err);
    }
    return rc ? rc : flush_batch(s, err);
}

/* ---- the log ---- */

/* A record's own checksum has proven it; but the dimension may be a guess. */
static bool replay(void *ctx, const struct disk_wal_record *record, const uint8_t *bytes,
                   uint64_t size)
{
    struct salvage *s = ctx;
    enum err_code rc = database_parse_ops(s->db, record, bytes, size, &s->ops, s->err);
    if (rc == ERR_CORRUPT) {
        s->r->log_gaps++;
        say(s, "the log record of LSN %" PRIu64 " does not fit a dimension of %" PRIu32,
            record->lsn, s->dimension);
        return true;
    }
    s->rc = rc;
    for (uint32_t i = 0; i < record->op_count && !s->rc; i++) {
        const struct row_op *op = &s->ops.ops[i];
        struct vector_id id = {.number = op->head.key};
        uint64_t lsn;
        size_t deleted;
        if (op->head.text_bytes)
            id = (struct vector_id){.text = op->text, .text_bytes = op->head.text_bytes};
        if (op->head.kind == WAL_OP_PUT) {
            struct row_input row = {.id = id,
                                    .vector = op->vector,
                                    .metadata = op->head.metadata_bytes ? op->metadata : NULL,
                                    .metadata_bytes = op->head.metadata_bytes};
            s->rc = database_put(s->db, &row, 1, s->dimension, true, &lsn, s->err);
            continue;
        }
        s->rc = database_delete(s->db, &id, 1, true, &deleted, &lsn, s->err);
        for (size_t k = 0; k < s->lost_count; k++)
            if (s->lost[k].slot == op->head.slot && s->lost[k].key == op->head.key)
                s->lost[k].found = true;
    }
    return !s->rc;
}

static enum err_code replay_log(struct salvage *s, struct err *err)
{
    struct wal_scan scan = {
        .dir_fd = s->o->dir_fd,
        .name = s->o->name,
        .uuid = s->has_manifest ? s->img.sb.uuid : NULL,
        .after_lsn = s->after_lsn,
        .past_damage = true,
        .fn = replay,
        .ctx = s,
    };
    enum err_code rc = wal_scan(&scan, err);
    if (s->rc) return s->rc;
    if (rc) return rc;
    s->r->log_records = scan.records;
    s->r->log_gaps += scan.gaps;
    if (scan.damaged && !scan.gaps) s->r->log_gaps++;
    if (scan.damaged) say(s, "%s", scan.damage.msg);
    return ERR_OK;
}

/* ---- the reckoning ---- */

static bool is_there(struct salvage *s, const struct lost *l)
{
    char bytes[8];
    struct vector_id id = {.number = l->key};
    if (l->text_bytes && !l->text && l->text_bytes > sizeof bytes) return false;
    for (int i = 0; i < 8; i++)
        bytes[i] = (char)(l->key >> (56 - 8 * i));
    if (l->text_bytes)
        id = (struct vector_id){.text = l->text ? l->text : bytes, .text_bytes = l->text_bytes};
    struct reader r;
    struct row row;
    struct err ignored;
    reader_begin(s->db, &r);
    bool there = reader_get(&r, &id, &row, &ignored) == ERR_OK;
    reader_end(&r);
    return there;
}

/* Ids that the index knows in slots that could not be read. */
static void name_unread_slots(struct salvage *s)
{
    struct image *img = &s->img;
    uint64_t nodes = img->manifest.counts.index_nodes;
    struct image_record *record = s->batch.records[0];
    struct index_node *node = mem_new(struct index_node);
    for (uint64_t n = 0; n < nodes && s->unread_blocks && s->lines <= SALVAGE_LINES_MAX; n++) {
        enum image_state state;
        const void *cell = image_cell(img, REGION_ID_INDEX, n, &state);
        if (!cell || state != IMAGE_GOOD) continue;
        memcpy(node, cell, sizeof *node);
        if (node->level != 0 || node->count > INDEX_NODE_ENTRIES) continue;
        for (uint32_t i = 0; i < node->count; i++) {
            const struct index_entry *e = &node->entries[i];
            char id[600];
            if (e->ref >= s->slot_count || bit(s->rescued, e->ref)) continue;
            image_cell(img, REGION_SLOTS, e->ref, &state);
            if (state == IMAGE_GOOD) continue; /* dead, or named before */
            bool has_text = e->text_bytes && e->text_bytes <= ID_BYTES_MAX &&
                            image_record(img, e->text_at, record) == IMAGE_GOOD &&
                            record->head.text_bytes == e->text_bytes;
            id_text(e->key, e->text_bytes, has_text ? record->text : NULL, id);
            say(s, "lost, unless it was deleted: vector %s: its slot is damaged", id);
        }
    }
    mem_free(node);
}

static void reckon(struct salvage *s, uint64_t rescued_from_file)
{
    struct salvage_result *r = s->r;
    r->expected_known = s->has_manifest && s->manifest_is_proven;
    r->rows_expected = s->has_manifest ? s->img.manifest.counts.live_count : 0;
    uint64_t lost = r->rows_expected > rescued_from_file ? r->rows_expected - rescued_from_file : 0;
    if (lost < s->lost_count) lost = s->lost_count;
    for (size_t i = 0; i < s->lost_count; i++)
        if ((s->lost[i].found || is_there(s, &s->lost[i])) && lost) lost--;
    r->rows_lost = lost;
    if (rescued_from_file > r->rows_expected && r->rows_in_doubt)
        say(s, "more rows than were counted: some were deleted or replaced before the damage");
    r->complete = r->expected_known && !r->rows_lost && !r->metadata_lost && !r->log_gaps &&
                  rescued_from_file <= r->rows_expected;
    struct reader reader;
    reader_begin(s->db, &reader);
    r->rows_rescued = reader_count(&reader);
    reader_end(&reader);
}

/* ---- the new file ---- */

/* Remove the directory of the making, with whatever is in it. */
static void remove_workshop(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    if (!dir && fd >= 0) close(fd);
    if (dir) {
        for (struct dirent *d; (d = readdir(dir));)
            if (strcmp(d->d_name, ".") != 0 && strcmp(d->d_name, "..") != 0)
                (void)!unlinkat(dirfd(dir), d->d_name, 0);
        closedir(dir);
    }
    (void)!rmdir(path);
}

static enum err_code open_workshop(struct salvage *s, const char *path, struct err *err)
{
    struct service_options options = {
        .engine = ENGINE_PERSISTENT,
        .storage_path = path,
        .max_open_files = 10,
        .wal_sync_interval_ms = 3600000,
        .wal_bytes_max = 64 << 20,
    };
    struct schema schema = {.dimension = s->dimension, .metric = s->o->metric};
    bool created;
    if (s->has_manifest) schema = s->img.manifest.schema;
    enum err_code rc = service_open(&options, &s->service, err);
    if (!rc) rc = service_create(s->service, s->o->output_name, &schema, false, &created, err);
    if (!rc) rc = service_acquire(s->service, s->o->output_name, true, &s->db, err);
    if (!rc && s->has_manifest) { /* ids that were given once are not given again */
        mutex_lock(&s->db->writer);
        struct disk_counts *counts = &atomic_load(&s->db->store)->counts;
        uint64_t next_id = s->img.manifest.counts.next_id;
        if (next_id > counts->next_id && next_id <= INT64_MAX) counts->next_id = next_id;
        mutex_unlock(&s->db->writer);
    }
    return rc;
}

static enum err_code make_batch(struct salvage *s, struct err *err)
{
    uint64_t row_bytes =
        ((uint64_t)s->dimension * sizeof(float) + ROW_ALIGN - 1) / ROW_ALIGN * ROW_ALIGN;
    s->batch.vectors = mem_try(BATCH_ROWS * row_bytes);
    if (!s->batch.vectors) return err_set(err, ERR_NOMEM, "out of memory");
    for (int i = 0; i < BATCH_ROWS; i++)
        s->batch.records[i] = mem_new(struct image_record);
    return ERR_OK;
}

/* It must be what it claims to be before it gets its name. */
static enum err_code check_and_move(struct salvage *s, const char *path, struct err *err)
{
    const struct salvage_options *o = s->o;
    char file_name[NAME_BYTES_MAX + 8];
    struct verify_result *r = mem_new(struct verify_result);
    int dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    enum err_code rc = dir_fd < 0 ? err_os(err, errno, "open %.200s", path) : ERR_OK;
    struct verify_options verify = {.dir_fd = dir_fd, .name = o->output_name};
    if (!rc) rc = verify_files(&verify, r, err);
    if (!rc && r->error_count) {
        char text[320];
        verify_error_text(&r->errors[0], text, sizeof text);
        rc = err_set(err, ERR_INTERNAL, "the new file is not what was written: %s", text);
    }
    snprintf(file_name, sizeof file_name, "%s.jvdb", o->output_name);
    if (!rc && linkat(dir_fd, file_name, o->output_dir_fd, file_name, 0) != 0)
        rc = errno == EEXIST
                 ? err_set(err, ERR_DATABASE_EXISTS, "%s exists: it is not written over", file_name)
                 : err_os(err, errno, "name %s", file_name);
    int os_errno = rc ? 0 : file_sync(o->output_dir_fd);
    if (os_errno) rc = err_os(err, os_errno, "sync %.200s", o->output_dir);
    file_close(dir_fd);
    mem_free(r);
    return rc;
}

enum err_code salvage_run(const struct salvage_options *o, struct salvage_result *r,
                          struct err *err)
{
    struct salvage *s = mem_new(struct salvage);
    char workshop[4096], file_name[NAME_BYTES_MAX + 8];
    bool has_workshop = false;
    *r = (struct salvage_result){0};
    s->o = o;
    s->r = r;
    s->err = err;
    snprintf(file_name, sizeof file_name, "%s.jvdb", o->output_name);
    enum err_code rc = ERR_OK;
    if (faccessat(o->output_dir_fd, file_name, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
        rc = err_set(err, ERR_DATABASE_EXISTS, "%s exists: it is not written over", file_name);
    if (!rc) rc = image_open(o->dir_fd, o->name, true, &s->img, err);
    if (!rc) rc = find_manifest(s, err);
    if (!rc) rc = find_candidates(s, err);
    if (!rc) rc = make_batch(s, err);
    if (rc) goto out;

    int len =
        snprintf(workshop, sizeof workshop, "%s/%s.repair-XXXXXX", o->output_dir, o->output_name);
    if (len >= (int)sizeof workshop || !mkdtemp(workshop)) {
        rc = err_os(err, len >= (int)sizeof workshop ? ENAMETOOLONG : errno,
                    "make a directory in %.200s", o->output_dir);
        goto out;
    }
    has_workshop = true;
    rc = open_workshop(s, workshop, err);
    if (!rc) rc = write_rows(s, err);
    uint64_t rescued = 0;
    for (uint64_t i = 0; i < s->slot_count && !rc; i++)
        rescued += bit(s->rescued, i);
    if (!rc) rc = replay_log(s, err);
    if (!rc && s->has_manifest) name_unread_slots(s);
    if (!rc) reckon(s, rescued);
    struct err late;
    if (s->db) service_release(s->db);
    if (service_close(s->service, rc ? &late : err) && !rc) rc = err->code;
    if (!rc) rc = check_and_move(s, workshop, err);
out:
    if (has_workshop) remove_workshop(workshop);
    for (int i = 0; i < BATCH_ROWS; i++)
        mem_free(s->batch.records[i]);
    mem_free(s->batch.vectors);
    for (size_t i = 0; i < s->lost_count; i++)
        mem_free(s->lost[i].text);
    mem_free(s->lost);
    mem_free(s->candidates);
    mem_free(s->ops.ops);
    mem_free(s->rescued);
    image_close(&s->img);
    mem_free(s);
    return rc;
}

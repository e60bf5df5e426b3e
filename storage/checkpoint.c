/*
 * checkpoint.c - the protocol that keeps a file whole.
 *
 * STEP 1.  Excluding the writer: fix LSN C, switch to a new log segment, mark every dirty block
 * TO_SAVE.  From here a writer that meets such a block puts a copy of it aside first.
 *
 * STEP 2.  Write the codes and links of the search index that changed (index_file_save.c), in
 * place: they need no protection.  Sync the old log segment and the .jvdb (rows of C and before lie
 * in their slots).
 *
 * STEP 3.  Write the blocks as of C, their checksums, the manifest and the superblock to
 * `<name>.ckpt`, with a checksummed footer; sync it and the directory.
 *
 * STEP 4.  Write the same blocks in place; sync.
 *
 * STEP 5.  Remove the .ckpt and the old log segments; what they held is free for use; give private
 * pages that nobody touched since back to the file.
 *
 * A failure up to step 3 leaves everything as it was.  One in step 4 leaves the .ckpt for the next
 * start and makes the database read-only.
 *
 * PACE.  Readers take none of its locks but on the first touch of a block, writers meet them all.
 * So nothing is read, written or computed under one: blocks are copied, and pages given back, a few
 * at a time, and the locks are free in between.  What goes to the disk goes there in pieces
 * (file_write_back()) that give way to others, so that the syncs of logs, on the same disk and in
 * the same journal, find no long queue before them.
 */
#include "storage/checkpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "storage/base/clock.h"
#include "storage/base/crc32c.h"
#include "storage/base/epoch.h"
#include "storage/base/log.h"
#include "storage/base/mem.h"
#include "storage/base/metrics.h"
#include "storage/index/index_file.h"
#include "storage/manifest.h"

enum {
    COPY_BYTES = 1 << 20,       /* a .ckpt is written and read through a buffer of this size */
    SLICE_BLOCKS = 64,          /* copied, or given back, under the lock at a time            */
    WRITE_BACK_BYTES = 8 << 20, /* written before the disk gets to see them                   */
};

/* ---- the .ckpt file ---- */

struct ckpt_writer {
    int fd;
    bool in_place;   /* fd is a .jvdb that nobody knows yet: blocks go to their places at once */
    uint8_t *buffer; /* of COPY_BYTES */
    size_t used;
    uint64_t at;
    uint64_t written_back;
    uint32_t crc;
    int os_errno;     /* first failure */
    uint64_t *blocks; /* the block numbers, in the order of the file */
    size_t count;
    size_t cap;
};

static void ckpt_flush(struct ckpt_writer *w)
{
    if (!w->os_errno) w->os_errno = file_write(w->fd, w->buffer, w->used, w->at);
    w->at += w->used;
    w->used = 0;
    if (!w->os_errno && w->at - w->written_back >= WRITE_BACK_BYTES) {
        w->os_errno = file_write_back(w->fd, w->written_back, w->at);
        w->written_back = w->at;
    }
}

static void ckpt_bytes(struct ckpt_writer *w, const void *bytes, size_t count)
{
    w->crc = crc32c(w->crc, bytes, count);
    for (size_t done = 0; done < count;) {
        size_t n = COPY_BYTES - w->used < count - done ? COPY_BYTES - w->used : count - done;
        memcpy(w->buffer + w->used, (const uint8_t *)bytes + done, n);
        w->used += n;
        done += n;
        if (w->used == COPY_BYTES) ckpt_flush(w);
    }
}

static void ckpt_block(struct ckpt_writer *w, uint64_t block, const void *bytes)
{
    if (w->count == w->cap) {
        size_t cap = w->cap ? w->cap * 2 : 256;
        uint64_t *grown = mem_zalloc(cap * sizeof *grown);
        if (w->count) memcpy(grown, w->blocks, w->count * sizeof *grown);
        mem_free(w->blocks);
        w->blocks = grown;
        w->cap = cap;
    }
    w->blocks[w->count++] = block;
    if (!w->in_place)
        ckpt_bytes(w, bytes, BLOCK_BYTES);
    else if (!w->os_errno)
        w->os_errno = file_write(w->fd, bytes, BLOCK_BYTES, block * BLOCK_BYTES);
}

static void ckpt_name(const char *name, char text[200])
{
    snprintf(text, 200, "%s.ckpt", name);
}

static void ckpt_begin(struct ckpt_writer *w, const struct database *db, uint64_t generation,
                       uint64_t lsn)
{
    char file_name[200];
    ckpt_name(db->name, file_name);
    w->os_errno = file_open(db->dir_fd, file_name, O_RDWR | O_CREAT | O_TRUNC, &w->fd);
    struct disk_ckpt_header h = {
        .format_version = FORMAT_VERSION, .generation = generation, .lsn = lsn};
    memcpy(h.magic, CKPT_MAGIC, sizeof h.magic);
    memcpy(h.uuid, db->store->file.uuid, sizeof h.uuid);
    uint8_t block[BLOCK_BYTES] = {0};
    memcpy(block, &h, sizeof h);
    ckpt_bytes(w, block, sizeof block);
}

/* The offsets and the footer. */
static void ckpt_finish(struct ckpt_writer *w)
{
    ckpt_bytes(w, w->blocks, w->count * sizeof w->blocks[0]);
    struct disk_ckpt_footer f = {.block_count = w->count};
    f.bytes = w->at + w->used + sizeof f;
    memcpy(f.magic, CKPT_MAGIC, sizeof f.magic);
    f.crc = crc32c(w->crc, &f, offsetof(struct disk_ckpt_footer, crc));
    ckpt_bytes(w, &f, sizeof f);
    ckpt_flush(w);
}

/* All of it durable, with its name. */
static int ckpt_sync(const struct ckpt_writer *w, int dir_fd)
{
    int os_errno = file_datasync(w->fd);
    return os_errno ? os_errno : file_sync(dir_fd);
}

int checkpoint_check_file(int fd, struct disk_ckpt_header *h, struct disk_ckpt_footer *f,
                          bool *complete)
{
    uint64_t size = 0;
    *complete = false;
    int os_errno = file_size(fd, &size);
    if (os_errno || size < BLOCK_BYTES + sizeof *f) return os_errno;
    os_errno = file_read(fd, h, sizeof *h, 0);
    if (!os_errno) os_errno = file_read(fd, f, sizeof *f, size - sizeof *f);
    if (os_errno) return os_errno;
    if (memcmp(h->magic, CKPT_MAGIC, sizeof h->magic) != 0 ||
        memcmp(f->magic, CKPT_MAGIC, sizeof f->magic) != 0 || f->bytes != size ||
        f->block_count > size / BLOCK_BYTES ||
        BLOCK_BYTES + f->block_count * (BLOCK_BYTES + sizeof(uint64_t)) + sizeof *f != size)
        return 0;
    uint8_t *buffer = mem_try(COPY_BYTES);
    if (!buffer) return ENOMEM;
    uint32_t crc = 0;
    uint64_t end = size - sizeof f->crc;
    for (uint64_t at = 0; at < end && !os_errno;) {
        size_t n = end - at < COPY_BYTES ? (size_t)(end - at) : COPY_BYTES;
        os_errno = file_read(fd, buffer, n, at);
        crc = crc32c(crc, buffer, n);
        at += n;
    }
    mem_free(buffer);
    *complete = !os_errno && crc == f->crc;
    return os_errno;
}

/* Step 4: the blocks of a complete .ckpt to their places, to be synced there.  Idempotent. */
static int ckpt_copy_in_place(int fd, const uint64_t *blocks, size_t count, int jvdb_fd,
                              uint8_t *buffer)
{
    uint64_t lowest = UINT64_MAX, highest = 0, written = 0;
    int os_errno = 0;
    for (size_t i = 0; i < count && !os_errno;) {
        size_t run = 1, most = COPY_BYTES / BLOCK_BYTES;
        while (run < most && i + run < count && blocks[i + run] == blocks[i] + run)
            run++;
        os_errno =
            file_read(fd, buffer, run * BLOCK_BYTES, BLOCK_BYTES + (uint64_t)i * BLOCK_BYTES);
        if (!os_errno)
            os_errno = file_write(jvdb_fd, buffer, run * BLOCK_BYTES, blocks[i] * BLOCK_BYTES);
        if (blocks[i] < lowest) lowest = blocks[i];
        if (blocks[i] + run > highest) highest = blocks[i] + run;
        i += run;
        written += run * BLOCK_BYTES;
        if (os_errno || written < WRITE_BACK_BYTES) continue;
        os_errno = file_write_back(jvdb_fd, lowest * BLOCK_BYTES, highest * BLOCK_BYTES);
        lowest = UINT64_MAX;
        highest = written = 0;
    }
    return os_errno;
}

/* Make the other superblock like the one of this generation. */
static int copy_superblock(int fd, uint64_t generation)
{
    struct disk_superblock sb;
    uint64_t from = generation % SUPERBLOCK_COUNT, to = SUPERBLOCK_COUNT - 1 - from;
    int os_errno = file_read(fd, &sb, sizeof sb, from * BLOCK_BYTES);
    if (os_errno || sb.generation != generation || sb.crc != superblock_crc(&sb)) return os_errno;
    os_errno = file_write(fd, &sb, sizeof sb, to * BLOCK_BYTES);
    return os_errno ? os_errno : file_datasync(fd);
}

enum err_code checkpoint_apply_leftover(int dir_fd, const char *name, int jvdb_fd, bool read_only,
                                        const struct disk_superblock *sb, bool *applied,
                                        struct err *err)
{
    char file_name[200];
    struct disk_ckpt_header h;
    struct disk_ckpt_footer f;
    bool complete = false;
    int fd = -1;
    uint64_t *blocks = NULL, jvdb_bytes = 0;
    uint8_t *buffer = NULL;
    enum err_code rc = ERR_OK;
    *applied = false;
    ckpt_name(name, file_name);
    int os_errno = file_open(dir_fd, file_name, read_only ? O_RDONLY : O_RDWR, &fd);
    if (os_errno == ENOENT) return ERR_OK;
    if (os_errno == EINVAL) return err_set(err, ERR_CORRUPT, "%s is not a regular file", file_name);
    if (!os_errno) os_errno = checkpoint_check_file(fd, &h, &f, &complete);
    if (os_errno) goto out;

    bool ours = complete && memcmp(h.uuid, sb->uuid, sizeof h.uuid) == 0;
    if (ours && h.format_version != FORMAT_VERSION) {
        rc = err_set(err, ERR_QUARANTINED,
                     "%s has format version %" PRIu32 "; this program reads version %d", file_name,
                     h.format_version, FORMAT_VERSION);
        goto out;
    }
    if (ours && h.generation > sb->generation + 1) {
        rc = wal_older_copy(name, sb->lsn, h.lsn, err);
        goto out;
    }
    if (read_only) {
        if (ours && h.generation >= sb->generation)
            rc = err_set(err, ERR_QUARANTINED,
                         "%s must be finished first, and the storage directory cannot be written: "
                         "make it writable and restart the server",
                         file_name);
        goto out;
    }
    if (ours && h.generation >= sb->generation) {
        blocks = mem_try(f.block_count * sizeof *blocks + 1);
        buffer = mem_try(COPY_BYTES);
        if (!blocks || !buffer) {
            os_errno = ENOMEM;
            goto out;
        }
        /* After kill -9 it may be in the page cache alone. */
        os_errno = file_datasync(fd);
        if (!os_errno) os_errno = file_sync(dir_fd);
        if (os_errno) goto unsynced;
        os_errno = file_read(fd, blocks, f.block_count * sizeof *blocks,
                             BLOCK_BYTES + f.block_count * BLOCK_BYTES);
        if (!os_errno) os_errno = file_size(jvdb_fd, &jvdb_bytes);
        if (os_errno) goto out;
        /* The file was synced at its full length before the .ckpt was written. */
        for (uint64_t i = 0; i < f.block_count && !rc; i++)
            if (blocks[i] >= jvdb_bytes / BLOCK_BYTES)
                rc = err_set(err, ERR_CORRUPT,
                             "%s is damaged: block %" PRIu64 " lies beyond the end of the file",
                             file_name, blocks[i]);
        if (rc) goto out;
        os_errno = ckpt_copy_in_place(fd, blocks, f.block_count, jvdb_fd, buffer);
        if (os_errno) goto out;
        os_errno = file_datasync(jvdb_fd);
        /* What was going on may have torn the older superblock: it is no damage to be told of. */
        if (!os_errno) os_errno = copy_superblock(jvdb_fd, h.generation);
        if (os_errno) goto unsynced;
        *applied = true;
        log_info("database \"%s\": finished the checkpoint at LSN %" PRIu64
                 " that a stop had interrupted",
                 name, h.lsn);
    }
    os_errno = file_unlink(dir_fd, file_name);
out:
    if (os_errno && !rc) rc = err_os(err, os_errno, "apply %s", file_name);
    file_close(fd);
    mem_free(buffer);
    mem_free(blocks);
    return rc;
unsynced:
    rc = err_set(err, ERR_QUARANTINED,
                 "%s could not be synced (%s); closed until a restart of the server", file_name,
                 strerror(os_errno));
    goto out;
}

/* ---- one checkpoint ---- */

/* Blocks of an extent of a mutable region. */
struct stretch {
    uint64_t first, end;
};

struct run {
    struct database *db;
    struct jvdb_file *file;
    uint64_t lsn, generation;
    struct buf manifest;
    uint64_t manifest_at;
    struct index_save index; /* of the search index */
    bool index_failed;       /* it is not in the manifest after all */
    size_t dropped_count;    /* extents that the manifest does not name any more */
    size_t sums_at, sums_count;
    uint64_t dirty_blocks;
    uint64_t file_bytes;       /* as of C */
    struct stretch *stretches; /* of all mutable regions but REGION_SUMS, as of C, ascending */
    size_t stretch_count;
    uint8_t *pages; /* of SLICE_BLOCKS */
    struct ckpt_writer out;
};

/* All the memory of a size that could be missing, before anything is begun. */
static enum err_code run_init(struct run *run, struct err *err)
{
    run->pages = mem_try(SLICE_BLOCKS * BLOCK_BYTES);
    if (!run->out.in_place) run->out.buffer = mem_try(COPY_BYTES);
    if (run->pages && (run->out.buffer || run->out.in_place)) return ERR_OK;
    return err_set(err, ERR_NOMEM, "out of memory for a checkpoint of \"%s\"", run->db->name);
}

static void run_deinit(struct run *run)
{
    mem_free(run->pages);
    mem_free(run->stretches);
    mem_free(run->out.blocks);
    mem_free(run->out.buffer);
    if (!run->out.in_place) file_close(run->out.fd);
    buf_free(&run->manifest);
    index_file_end(&run->index);
}

static struct jvdb_view *view_of(struct jvdb_file *f)
{
    return atomic_load_explicit(&f->view, memory_order_relaxed);
}

/* Encode the manifest and take space for it.  Taking can add an extent, which changes the manifest.
 */
static enum err_code make_manifest(struct run *run, struct err *err)
{
    struct database *db = run->db;
    struct jvdb_file *f = run->file;
    uint64_t taken = 0;
    run->dropped_count = f->dropped_count;
    for (;;) {
        struct disk_counts counts = db->store->counts;
        counts.index_root = atomic_load_explicit(&db->store->index.root, memory_order_relaxed);
        counts.index_levels = db->store->index.levels;
        counts.index_nodes = db->store->index.nodes;
        run->manifest.len = 0;
        manifest_encode(f, &db->schema, &counts, &run->index.record, run->generation, run->lsn,
                        &run->manifest, &run->sums_at, &run->sums_count);
        if (run->manifest.failed) {
            if (taken) space_give(&f->space, run->manifest_at, taken);
            return err_set(err, ERR_NOMEM, "out of memory for a manifest");
        }
        if (taken == run->manifest.len) return ERR_OK;
        if (taken) space_give(&f->space, run->manifest_at, taken);
        taken = run->manifest.len;
        enum err_code rc = jvdb_file_take(f, taken, &run->manifest_at, err);
        if (rc) return rc;
        rc = jvdb_file_grow(f, REGION_SUMS, 0, err);
        if (rc) {
            space_give(&f->space, run->manifest_at, taken);
            return rc;
        }
    }
}

static int by_first(const void *a, const void *b)
{
    const struct stretch *x = a, *y = b;
    return x->first < y->first ? -1 : x->first > y->first;
}

/* Where blocks can be dirty: a small part of a file that is mostly rows. */
static void find_stretches(struct run *run)
{
    struct jvdb_file *f = run->file;
    size_t count = 0;
    for (int r = 0; r < REGION_COUNT; r++)
        count += atomic_load_explicit(&f->extent_count[r], memory_order_relaxed);
    run->stretches = mem_zalloc((count + 1) * sizeof *run->stretches);
    for (int r = 0; r < REGION_COUNT; r++) {
        uint32_t extents = atomic_load_explicit(&f->extent_count[r], memory_order_relaxed);
        if (!f->shapes[r].is_mutable || r == REGION_SUMS) continue;
        for (uint32_t i = 0; i < extents; i++) {
            uint64_t first = view_of(f)->extents[r][i] / BLOCK_BYTES;
            uint64_t blocks = region_extent_bytes(&f->shapes[r], i) / BLOCK_BYTES;
            run->stretches[run->stretch_count++] = (struct stretch){first, first + blocks};
        }
    }
    qsort(run->stretches, run->stretch_count, sizeof *run->stretches, by_first);
}

/* What is to be saved; the counts of the run are known. */
static void mark_dirty_blocks(struct run *run)
{
    struct jvdb_file *f = run->file;
    find_stretches(run);
    mutex_lock(&f->blocks);
    run->dirty_blocks = atomic_exchange(&f->dirty_blocks, 0);
    _Atomic uint8_t *state = view_of(f)->state;
    for (size_t i = 0; i < run->stretch_count; i++) {
        for (uint64_t b = run->stretches[i].first; b < run->stretches[i].end; b++) {
            uint8_t s = atomic_load_explicit(&state[b], memory_order_relaxed);
            if (!(s & BLOCK_DIRTY)) continue;
            s = (uint8_t)((s & ~BLOCK_DIRTY) | BLOCK_TO_SAVE);
            atomic_store_explicit(&state[b], s, memory_order_relaxed);
        }
    }
    if (f->sums_dirty_cap < run->sums_count) {
        uint8_t *grown = mem_zalloc(run->sums_count);
        if (f->sums_dirty) memcpy(grown, f->sums_dirty, f->sums_dirty_cap);
        mem_free(f->sums_dirty);
        f->sums_dirty = grown;
        f->sums_dirty_cap = run->sums_count;
    }
    mutex_unlock(&f->blocks);
}

/* Step 1, under the writer lock. */
static enum err_code fix(struct run *run, struct err *err)
{
    struct database *db = run->db;
    struct jvdb_file *f = run->file;
    run->lsn = db->last_lsn;
    run->generation = f->generation + 1;
    index_file_fix(db->store, &run->index);
    enum err_code rc = make_manifest(run, err);
    if (rc) return rc;
    rc = wal_switch(db->wal, err);
    if (rc) {
        space_give(&f->space, run->manifest_at, run->manifest.len);
        return rc;
    }
    run->file_bytes = f->file_bytes;
    mark_dirty_blocks(run);
    return ERR_OK;
}

/* Note the checksums of copied blocks, and put them into the .ckpt. */
static bool save_copies(struct run *run, const struct block_copy *copies, size_t count)
{
    struct jvdb_file *f = run->file;
    uint32_t crcs[SLICE_BLOCKS];
    assert(count <= SLICE_BLOCKS);
    for (size_t i = 0; i < count; i++)
        crcs[i] = crc32c(0, copies[i].bytes, BLOCK_BYTES);
    bool good = true;
    mutex_lock(&f->blocks);
    for (size_t i = 0; i < count; i++)
        good = good && jvdb_file_set_sum(f, copies[i].block, crcs[i]);
    mutex_unlock(&f->blocks);
    for (size_t i = 0; i < count; i++)
        ckpt_block(&run->out, copies[i].block, copies[i].bytes);
    return good;
}

/* Step 3, first half: every TO_SAVE block as of C, in slices. */
static bool save_blocks(struct run *run)
{
    struct jvdb_file *f = run->file;
    struct block_copy slice[SLICE_BLOCKS];
    uint8_t *pages = run->pages;
    bool good = true;
    for (size_t i = 0; i < run->stretch_count; i++) {
        for (uint64_t b = run->stretches[i].first; b < run->stretches[i].end && good;) {
            size_t count = 0;
            mutex_lock(&f->blocks);
            struct jvdb_view *v = view_of(f);
            for (; b < run->stretches[i].end && count < SLICE_BLOCKS; b++) {
                uint8_t s = atomic_load_explicit(&v->state[b], memory_order_relaxed);
                if (!(s & BLOCK_TO_SAVE)) continue;
                slice[count] = (struct block_copy){b, pages + count * BLOCK_BYTES};
                memcpy(slice[count++].bytes, v->mutable_bytes + b * BLOCK_BYTES, BLOCK_BYTES);
                atomic_store_explicit(&v->state[b], (uint8_t)(s & ~BLOCK_TO_SAVE),
                                      memory_order_relaxed);
            }
            mutex_unlock(&f->blocks);
            good = save_copies(run, slice, count);
        }
    }

    /* What writers put aside meanwhile; no block is TO_SAVE now, so there will be no more. */
    mutex_lock(&f->blocks);
    struct block_copy *copies = f->copies;
    size_t copy_count = f->copy_count;
    f->copies = NULL;
    f->copy_count = f->copy_cap = 0;
    mutex_unlock(&f->blocks);
    for (size_t i = 0; i < copy_count; i += SLICE_BLOCKS) {
        size_t count = copy_count - i < SLICE_BLOCKS ? copy_count - i : SLICE_BLOCKS;
        good = save_copies(run, copies + i, count) && good;
    }
    for (size_t i = 0; i < copy_count; i++)
        mem_free(copies[i].bytes);
    mem_free(copies);
    return good;
}

/* Step 3, second half: checksums, manifest, superblock. */
static void save_summary(struct run *run)
{
    struct jvdb_file *f = run->file;
    uint8_t page[BLOCK_BYTES];
    uint32_t *sums = (uint32_t *)(void *)(run->manifest.data + run->sums_at);
    for (size_t i = 0; i < run->sums_count; i++) {
        bool is_new = i >= f->sums_count;
        if (!is_new && !f->sums_dirty[i]) {
            sums[i] = f->sums_crc[i];
            continue;
        }
        mutex_lock(&f->blocks);
        uint64_t block = jvdb_file_sum_block(f, i);
        memcpy(page, view_of(f)->mutable_bytes + block * BLOCK_BYTES, BLOCK_BYTES);
        mutex_unlock(&f->blocks);
        sums[i] = crc32c(0, page, BLOCK_BYTES);
        ckpt_block(&run->out, block, page);
    }
    for (size_t at = 0; at < run->manifest.len; at += BLOCK_BYTES)
        ckpt_block(&run->out, (run->manifest_at + at) / BLOCK_BYTES, run->manifest.data + at);
    struct disk_superblock sb =
        superblock_make(f, &run->manifest, run->manifest_at, run->file_bytes);
    uint64_t copy = run->generation % SUPERBLOCK_COUNT;
    ckpt_block(&run->out, copy, &sb);
    if (run->out.in_place) ckpt_block(&run->out, SUPERBLOCK_COUNT - 1 - copy, &sb);
}

/* It did not come to step 4: everything is dirty again. */
static void undo(struct run *run)
{
    struct database *db = run->db;
    struct jvdb_file *f = run->file;
    char file_name[200];
    ckpt_name(db->name, file_name);
    atomic_fetch_add(&f->dirty_blocks, run->dirty_blocks);
    mutex_lock(&db->writer);
    mutex_lock(&f->blocks);
    _Atomic uint8_t *state = view_of(f)->state;
    for (size_t i = 0; i < run->stretch_count; i++) {
        for (uint64_t b = run->stretches[i].first; b < run->stretches[i].end; b++) {
            uint8_t s = atomic_load_explicit(&state[b], memory_order_relaxed);
            if (s & BLOCK_TO_SAVE)
                atomic_store_explicit(&state[b], (uint8_t)((s & ~BLOCK_TO_SAVE) | BLOCK_DIRTY),
                                      memory_order_relaxed);
        }
    }
    for (size_t i = 0; i < run->out.count; i++) {
        uint64_t b = run->out.blocks[i];
        uint8_t s = atomic_load_explicit(&state[b], memory_order_relaxed);
        /* Only blocks of mutable regions are tracked; the checksums' have sums_dirty. */
        if (s & BLOCK_PRIVATE && !(run->manifest_at / BLOCK_BYTES <= b &&
                                   b < (run->manifest_at + run->manifest.len) / BLOCK_BYTES))
            atomic_store_explicit(&state[b], (uint8_t)(s | BLOCK_DIRTY), memory_order_relaxed);
    }
    for (size_t i = 0; i < run->sums_count; i++) {
        uint64_t b = jvdb_file_sum_block(f, i);
        atomic_fetch_and_explicit(&state[b], (uint8_t)~BLOCK_DIRTY, memory_order_relaxed);
    }
    for (size_t i = 0; i < f->copy_count; i++)
        mem_free(f->copies[i].bytes);
    f->copy_count = 0;
    mutex_unlock(&f->blocks);
    space_give(&f->space, run->manifest_at, run->manifest.len);
    mutex_unlock(&db->writer);
    if (file_unlink(db->dir_fd, file_name) != 0) log_warning("cannot remove %s", file_name);
}

/* Step 5: what the file now holds needs no private page, if nobody touched it since. */
static void give_pages_back(struct run *run)
{
    struct database *db = run->db;
    struct jvdb_file *f = run->file;
    const uint64_t page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
    const uint64_t blocks_per_page = page_bytes > BLOCK_BYTES ? page_bytes / BLOCK_BYTES : 1;
    const uint64_t *blocks = run->out.blocks;
    for (size_t i = 0; i < run->out.count;) {
        /* Dropping a page excludes writers, and the remapping of the file. */
        mutex_lock(&db->writer);
        mutex_lock(&f->blocks);
        struct jvdb_view *v = view_of(f);
        for (int n = 0; n < SLICE_BLOCKS && i < run->out.count; n++, i++) {
            uint64_t first = blocks[i] / blocks_per_page * blocks_per_page;
            bool clean = true, is_private = false;
            for (uint64_t b = first; b < first + blocks_per_page; b++) {
                uint8_t s = atomic_load_explicit(&v->state[b], memory_order_relaxed);
                clean = clean && !(s & (BLOCK_DIRTY | BLOCK_TO_SAVE));
                is_private = is_private || s & BLOCK_PRIVATE;
            }
            if (!clean || !is_private) continue;
            if (madvise(v->mutable_bytes + first * BLOCK_BYTES, blocks_per_page * BLOCK_BYTES,
                        MADV_DONTNEED) != 0)
                continue;
            for (uint64_t b = first; b < first + blocks_per_page; b++)
                atomic_fetch_and_explicit(&v->state[b], (uint8_t)~BLOCK_PRIVATE,
                                          memory_order_relaxed);
        }
        mutex_unlock(&f->blocks);
        mutex_unlock(&db->writer);
    }
}

/* The file is now what the run has written: remember its summary.  Under the writer lock. */
static void note_summary(struct run *run)
{
    struct jvdb_file *f = run->file;
    uint32_t *sums = (uint32_t *)(void *)(run->manifest.data + run->sums_at);
    uint32_t *sums_crc = mem_zalloc(run->sums_count * sizeof *sums_crc + 1);
    memcpy(sums_crc, sums, run->sums_count * sizeof *sums_crc);
    mutex_lock(&f->blocks);
    mem_free(f->sums_crc);
    f->sums_crc = sums_crc;
    f->sums_count = run->sums_count;
    memset(f->sums_dirty, 0, f->sums_dirty_cap);
    mutex_unlock(&f->blocks);
    f->generation = run->generation;
    f->superblocks_alike = run->out.in_place;
    f->checkpoint_lsn = run->lsn;
    space_give(&f->space, f->manifest_at, f->manifest_bytes);
    f->manifest_at = run->manifest_at;
    f->manifest_bytes = run->manifest.len;
    jvdb_file_give_dropped(f, run->dropped_count);
    index_file_saved(run->db->store, &run->index, !run->index_failed);
}

static void finish(struct run *run)
{
    struct database *db = run->db;
    struct jvdb_file *f = run->file;
    char file_name[200];
    ckpt_name(db->name, file_name);
    if (file_unlink(db->dir_fd, file_name) != 0) log_warning("cannot remove %s", file_name);
    wal_drop_old(db->wal);

    mutex_lock(&db->writer);
    note_summary(run);
    atomic_store_explicit(&db->file_bytes, f->file_bytes, memory_order_relaxed);
    db->reuse_next.lsn = run->lsn;
    db->reuse_next.epoch = epoch_now();
    mutex_unlock(&db->writer);
    atomic_store_explicit(&db->checkpoint_lsn, run->lsn, memory_order_release);
    give_pages_back(run);
}

static enum err_code fail_for_good(struct database *db, int os_errno, const char *what,
                                   struct err *err)
{
    log_error("database \"%s\" is read-only until restart: %s failed: %s", db->name, what,
              strerror(os_errno));
    int expected = ERR_OK;
    atomic_compare_exchange_strong(&db->failed, &expected, ERR_READ_ONLY);
    atomic_store(&db->store->file.sync_failed, true);
    return err_set(err, ERR_READ_ONLY, "database \"%s\" is read-only until restart: %s failed",
                   db->name, what);
}

/* The codes and links that changed; without them there is no record of the search index.  0, or an
 * errno that is one of a sync. */
static int save_index(struct run *run)
{
    bool sync_failed = false;
    int os_errno = index_file_write(run->db->store, &run->index, &sync_failed);
    if (os_errno == 0 || sync_failed) return os_errno;
    log_warning("database \"%s\": its search index is not kept by this checkpoint: %s",
                run->db->name, strerror(os_errno));
    manifest_drop_index(&run->manifest);
    run->index_failed = true;
    return 0;
}

/* Steps 2 to 5. */
static enum err_code save(struct run *run, struct err *err)
{
    struct database *db = run->db;
    enum err_code rc = wal_sync(db->wal, err);
    if (rc) {
        undo(run);
        return rc;
    }
    file_yield(true);
    rc = jvdb_file_check_length(run->file, run->file_bytes, err); /* as of C: it may be growing */
    if (rc) {
        undo(run);
        return database_check_read(db, run->file, rc, err);
    }
    int os_errno = save_index(run);
    if (!os_errno) os_errno = file_write_back(run->file->fd, 0, run->file_bytes);
    if (!os_errno) os_errno = file_datasync(run->file->fd);
    if (os_errno) {
        undo(run);
        return fail_for_good(db, os_errno, "syncing its file", err);
    }
    ckpt_begin(&run->out, db, run->generation, run->lsn);
    bool good = save_blocks(run);
    if (good) {
        save_summary(run);
        good = !jvdb_file_is_lost(run->file); /* no zeros in the place of blocks */
    }
    if (good) {
        ckpt_finish(&run->out);
    }
    if (!good || run->out.os_errno) {
        os_errno = run->out.os_errno;
        db->ckpt_bytes_missed = run->out.at;
        undo(run);
        if (good) return err_os(err, os_errno, "write the checkpoint of \"%s\"", db->name);
        return database_check_read(db, run->file, database_damaged(db, "a block of checksums", err),
                                   err);
    }
    /* Running out of space is no failed sync: the next try writes another file. */
    os_errno = ckpt_sync(&run->out, db->dir_fd);
    if (os_errno == ENOSPC || os_errno == EDQUOT) {
        db->ckpt_bytes_missed = run->out.at;
        undo(run);
        return err_os(err, os_errno, "write the checkpoint of \"%s\"", db->name);
    }
    if (os_errno) {
        undo(run);
        return fail_for_good(db, os_errno, "syncing its checkpoint", err);
    }
    rc = jvdb_file_check_length(run->file, run->file_bytes, err);
    if (rc) {
        undo(run);
        return database_check_read(db, run->file, rc, err);
    }
    os_errno = ckpt_copy_in_place(run->out.fd, run->out.blocks, run->out.count, run->file->fd,
                                  run->out.buffer);
    if (!os_errno) os_errno = file_datasync(run->file->fd);
    if (os_errno) return fail_for_good(db, os_errno, "writing its file", err);
    finish(run);
    return ERR_OK;
}

/* After a .ckpt that did not fit: is there room now?  Each checkpoint that begins takes a segment
 * of the log, and there is an end to them. */
static enum err_code check_room(struct database *db, struct err *err)
{
    if (!db->ckpt_bytes_missed) return ERR_OK;
    char file_name[200];
    int fd = -1;
    ckpt_name(db->name, file_name);
    int os_errno = file_open(db->dir_fd, file_name, O_RDWR | O_CREAT | O_TRUNC, &fd);
    if (!os_errno) os_errno = file_allocate(fd, 0, db->ckpt_bytes_missed);
    file_close(fd);
    int unlink_errno = file_unlink(db->dir_fd, file_name);
    if (!os_errno) os_errno = unlink_errno;
    if (os_errno) return err_os(err, os_errno, "write the checkpoint of \"%s\"", db->name);
    db->ckpt_bytes_missed = 0;
    return ERR_OK;
}

static _Atomic int running;

bool checkpoint_is_due(struct database *db)
{
    return db->wal && (database_is_dirty(db) || index_file_is_dirty(db));
}

bool checkpoint_is_running(void)
{
    return atomic_load_explicit(&running, memory_order_relaxed) > 0;
}

/* The checkpoint lock is held, the descriptor is open. */
static enum err_code run_locked(struct database *db, struct err *err)
{
    struct run run = {.db = db, .file = &db->store->file, .out.fd = -1};
    uint64_t begun = clock_ns();
    enum err_code rc = database_check_writable(db, err);
    if (!rc) rc = run_init(&run, err);
    if (!rc) rc = check_room(db, err);
    if (!rc) rc = wal_prepare(db->wal, err);
    if (!rc) {
        index_file_grow(db);
        mutex_lock(&db->writer);
        rc = fix(&run, err);
        mutex_unlock(&db->writer);
    }
    if (!rc) {
        atomic_fetch_add(&running, 1);
        rc = save(&run, err);
        file_yield(false);
        atomic_fetch_sub(&running, 1);
    }
    if (!rc) {
        uint64_t took = clock_ns() - begun;
        atomic_store(&db->last_flush_ns, took);
        atomic_store(&db->last_flush_at_ms, clock_wall_ms());
        stat_add(STAT_FLUSHES, 1);
        stat_observe(STAT_FLUSH_SECONDS, took);
        log_debug("checkpoint of \"%s\": LSN %" PRIu64 ", %zu blocks, %.1f ms", db->name, run.lsn,
                  run.out.count, (double)took / 1e6);
    }
    run_deinit(&run);
    return rc;
}

enum err_code checkpoint_lock(struct database *db, struct err *err)
{
    for (;;) {
        enum err_code rc = database_writer_ready(db, PATIENCE_FORCE, err);
        if (rc) return rc;
        mutex_lock(&db->checkpoint_mu);
        if (atomic_load(&db->has_writer_fd)) return ERR_OK;
        mutex_unlock(&db->checkpoint_mu); /* closed as idle just now */
    }
}

static enum err_code run_once(struct database *db, bool always, uint64_t bytes_max, struct err *err)
{
    enum err_code rc = checkpoint_lock(db, err);
    if (rc && reserve_use(db->reserve, err)) {
        rc = checkpoint_lock(db, err);
        reserve_done(db->reserve);
    }
    if (rc) return rc;
    if (always || (checkpoint_is_due(db) && wal_bytes(db->wal) >= bytes_max)) {
        rc = run_locked(db, err);
        if (rc && reserve_use(db->reserve, err)) {
            rc = run_locked(db, err);
            reserve_done(db->reserve);
        }
    }
    mutex_unlock(&db->checkpoint_mu);
    return rc;
}

/* With whatever room, descriptors and mappings can be had for it. */
static enum err_code run_if(struct database *db, bool always, uint64_t bytes_max, struct err *err)
{
    enum err_code rc = run_once(db, always, bytes_max, err);
    for (int i = 0; rc && database_relieve(db, i, err); i++)
        rc = run_once(db, always, bytes_max, err);
    return rc;
}

enum err_code checkpoint_run(struct database *db, struct err *err)
{
    return checkpoint_is_due(db) ? run_if(db, false, 0, err) : ERR_OK;
}

enum err_code checkpoint_rewrite(struct database *db, struct err *err)
{
    return db->wal ? run_if(db, true, 0, err) : ERR_OK;
}

enum err_code checkpoint_shorten_log(struct database *db, uint64_t bytes_max, struct err *err)
{
    return run_if(db, false, bytes_max, err);
}

enum err_code checkpoint_close(struct database *db, struct err *err)
{
    if (!db->wal) return ERR_OK;
    enum err_code rc = checkpoint_run(db, err);
    if (rc || db->store->file.superblocks_alike) return rc;

    rc = checkpoint_lock(db, err);
    if (rc) return rc;
    int os_errno = copy_superblock(db->store->file.fd, db->store->file.generation);
    if (os_errno) rc = fail_for_good(db, os_errno, "writing its superblocks", err);
    db->store->file.superblocks_alike = rc == ERR_OK;
    mutex_unlock(&db->checkpoint_mu);
    return rc;
}

/* ---- a file that nobody knows yet ---- */

static enum err_code written(const struct run *run, bool good, struct err *err)
{
    if (run->out.os_errno) return err_os(err, run->out.os_errno, "write %s", run->file->file_name);
    if (!good) return err_set(err, ERR_INTERNAL, "%s has no checksums", run->file->file_name);
    return ERR_OK;
}

enum err_code checkpoint_write_new(struct database *db, struct err *err)
{
    struct jvdb_file *f = &db->store->file;
    struct run run = {.db = db, .file = f, .out = {.fd = f->fd, .in_place = true}};
    enum err_code rc = run_init(&run, err);
    if (!rc) {
        bool sync_failed = false;
        index_file_grow(db);
        index_file_fix(db->store, &run.index);
        int os_errno = index_file_write(db->store, &run.index, &sync_failed);
        if (sync_failed) run.out.os_errno = os_errno; /* else the last step tries again */
        run.sums_count = jvdb_file_sum_blocks(f);
        mark_dirty_blocks(&run);
        bool good = save_blocks(&run);
        rc = written(&run, good, err);
    }
    if (!rc) give_pages_back(&run);
    run_deinit(&run);
    return rc;
}

enum err_code checkpoint_finish_new(struct database *db, uint64_t generation, uint64_t lsn,
                                    struct err *err)
{
    struct jvdb_file *f = &db->store->file;
    struct run run = {.db = db,
                      .file = f,
                      .lsn = lsn,
                      .generation = generation,
                      .out = {.fd = f->fd, .in_place = true}};
    enum err_code rc = run_init(&run, err);
    if (rc) goto out;
    index_file_fix(db->store, &run.index);
    rc = make_manifest(&run, err);
    if (rc) goto out;
    run.out.os_errno = save_index(&run);
    run.file_bytes = f->file_bytes;
    mark_dirty_blocks(&run);
    bool good = save_blocks(&run);
    if (good) save_summary(&run);
    rc = written(&run, good, err);
    if (!rc) {
        int os_errno = file_write_back(f->fd, 0, run.file_bytes);
        if (!os_errno) os_errno = file_sync(f->fd);
        if (os_errno) rc = err_os(err, os_errno, "sync %s", f->file_name);
    }
    /* What was not written before is little: its pages may stay private. */
    if (!rc) note_summary(&run);
out:
    run_deinit(&run);
    return rc;
}

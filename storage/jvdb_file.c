/*
 * jvdb_file.c - mappings, growth and block states of a .jvdb file.
 *
 * BLOCK STATES.  A mutable block is VERIFIED once its checksum was compared (under `blocks`, so
 * that no writer changes it meanwhile) or when it was made here.  A writer that changes it sets
 * DIRTY and PRIVATE first.  A checkpoint turns every DIRTY into TO_SAVE while it excludes the
 * writer (checkpoint.c), then copies block by block under `blocks`; a writer that meets TO_SAVE
 * puts a copy of the block aside before its first store.  So: DIRTY without TO_SAVE can only be
 * changed by a thread that excludes the writer: the writer may test for it without the lock.
 */
#include "storage/jvdb_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "storage/base/crc32c.h"
#include "storage/base/epoch.h"
#include "storage/base/log.h"
#include "storage/base/mem.h"
#include "storage/base/metrics.h"

#define MAP_BYTES_MIN (256ull << 20) /* address space, not memory */

struct retired {
    struct jvdb_view *view;
    const uint64_t *extents; /* a table that was outgrown, or NULL */
};

static void view_free(struct jvdb_view *v)
{
    if (v->owns_maps) {
        guard_remove(v->guards[0]);
        guard_remove(v->guards[1]);
        if (v->mutable_bytes != v->shared) munmap(v->mutable_bytes, v->map_bytes);
        munmap((void *)(uintptr_t)v->shared, v->map_bytes);
        munmap((void *)(uintptr_t)v->state, v->map_bytes / BLOCK_BYTES);
        munmap((void *)(uintptr_t)v->rows_checked, v->map_bytes / ROW_ALIGN / 8);
        munmap((void *)(uintptr_t)v->records_checked, v->map_bytes / RECORD_ALIGN / 8);
    }
    mem_free(v);
}

static void retire(void *p)
{
    struct retired *r = p;
    view_free(r->view);
    mem_free((void *)(uintptr_t)r->extents);
    mem_free(r);
}

static struct jvdb_view *view_of(struct jvdb_file *f)
{
    return atomic_load_explicit(&f->view, memory_order_relaxed);
}

/* Readers that load the view from now on see `v`; the old one goes when the last has left. */
static void publish_view(struct jvdb_file *f, struct jvdb_view *v, const uint64_t *outgrown)
{
    struct jvdb_view *old = view_of(f);
    atomic_store_explicit(&f->view, v, memory_order_release);
    if (!old) return;
    struct retired *r = mem_new(struct retired);
    r->view = old;
    r->extents = outgrown;
    epoch_retire(retire, r);
}

static bool in_memory(const struct jvdb_file *f)
{
    return f->dir_fd < 0;
}

static void *map_zeros(uint64_t bytes)
{
    return mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                -1, 0);
}

static int map_file(struct jvdb_file *f, int fd, struct jvdb_view *v)
{
    int flags = in_memory(f) ? MAP_SHARED : MAP_PRIVATE;
    void *mutable_bytes =
        mmap(NULL, v->map_bytes, PROT_READ | PROT_WRITE, flags | MAP_NORESERVE, fd, 0);
    if (mutable_bytes == MAP_FAILED) return errno;
    void *shared = mutable_bytes;
    if (!in_memory(f)) {
        shared = mmap(NULL, v->map_bytes, PROT_READ, MAP_SHARED | MAP_NORESERVE, fd, 0);
        if (shared == MAP_FAILED) {
            int os_errno = errno;
            munmap(mutable_bytes, v->map_bytes);
            return os_errno;
        }
        /* Reranking and random reads touch single rows: read-ahead would fetch 32 pages each. */
        madvise(shared, v->map_bytes, MADV_RANDOM);
        madvise(mutable_bytes, v->map_bytes, MADV_RANDOM);
    }
    void *state = map_zeros(v->map_bytes / BLOCK_BYTES);
    void *rows_checked = map_zeros(v->map_bytes / ROW_ALIGN / 8);
    void *records_checked = map_zeros(v->map_bytes / RECORD_ALIGN / 8);
    if (state == MAP_FAILED || rows_checked == MAP_FAILED || records_checked == MAP_FAILED) {
        int os_errno = errno;
        if (state != MAP_FAILED) munmap(state, v->map_bytes / BLOCK_BYTES);
        if (rows_checked != MAP_FAILED) munmap(rows_checked, v->map_bytes / ROW_ALIGN / 8);
        if (records_checked != MAP_FAILED) munmap(records_checked, v->map_bytes / RECORD_ALIGN / 8);
        if (shared != mutable_bytes) munmap(shared, v->map_bytes);
        munmap(mutable_bytes, v->map_bytes);
        return os_errno;
    }
    v->shared = shared;
    v->mutable_bytes = mutable_bytes;
    v->state = state;
    v->rows_checked = rows_checked;
    v->records_checked = records_checked;
    v->guards[0] = guard_add(mutable_bytes, v->map_bytes, true, &f->lost);
    if (shared != mutable_bytes) v->guards[1] = guard_add(shared, v->map_bytes, false, &f->lost);
    v->owns_maps = true;
    return 0;
}

enum err_code jvdb_file_map(struct jvdb_file *f, struct err *err)
{
    struct jvdb_view *old = view_of(f);
    uint64_t bytes = f->file_bytes * 4 > MAP_BYTES_MIN ? f->file_bytes * 4 : MAP_BYTES_MIN;
    enum err_code rc = ERR_OK;
    int fd = f->fd;
    if (fd < 0) {
        int os_errno = file_open(f->dir_fd, f->file_name, O_RDONLY, &fd);
        if (os_errno) return err_os(err, os_errno, "open %s", f->file_name);
    }
    struct jvdb_view *v = mem_new(struct jvdb_view);
    v->map_bytes = (bytes + (1u << 20) - 1) >> 20 << 20;
    int os_errno = map_file(f, fd, v);
    if (os_errno) {
        mem_free(v);
        rc = err_os(err, os_errno, "map %" PRIu64 " bytes of %s", bytes, f->file_name);
        goto out;
    }
    if (old) {
        memcpy(v->extents, old->extents, sizeof v->extents);
        mutex_lock(&f->blocks);
        uint64_t blocks = old->map_bytes / BLOCK_BYTES;
        for (uint64_t b = 0; b < blocks; b++) {
            uint8_t state = atomic_load_explicit(&old->state[b], memory_order_relaxed);
            if (!state) continue;
            if (state & BLOCK_PRIVATE && !in_memory(f))
                memcpy(v->mutable_bytes + b * BLOCK_BYTES, old->mutable_bytes + b * BLOCK_BYTES,
                       BLOCK_BYTES);
            atomic_store_explicit(&v->state[b], state, memory_order_relaxed);
        }
        publish_view(f, v, NULL);
        mutex_unlock(&f->blocks);
    } else {
        publish_view(f, v, NULL);
    }
out:
    if (fd != f->fd) file_close(fd);
    return rc;
}

enum err_code jvdb_file_init(struct jvdb_file *f, int dir_fd, const char *file_name,
                             const uint8_t uuid[16], uint32_t dimension, struct err *err)
{
    *f = (struct jvdb_file){.dir_fd = dir_fd, .fd = -1};
    snprintf(f->file_name, sizeof f->file_name, "%s", file_name);
    memcpy(f->uuid, uuid, sizeof f->uuid);
    region_shapes(f->shapes, dimension);
    mutex_init(&f->blocks, LOCK_BLOCKS);
    f->file_bytes = HEADER_BYTES;
    if (!in_memory(f)) return ERR_OK;

    f->fd = memfd_create(file_name, MFD_CLOEXEC);
    if (f->fd < 0) return err_os(err, errno, "make memory for %s", file_name);
    f->file_bytes = 0;
    return jvdb_file_map(f, err);
}

void jvdb_file_deinit(struct jvdb_file *f)
{
    struct jvdb_view *v = view_of(f);
    if (v) {
        for (int r = 0; r < REGION_COUNT; r++)
            mem_free((void *)(uintptr_t)v->extents[r]);
        view_free(v);
    }
    file_close(f->fd);
    space_deinit(&f->space);
    mutex_deinit(&f->blocks);
    for (size_t i = 0; i < f->copy_count; i++)
        mem_free(f->copies[i].bytes);
    mem_free(f->copies);
    mem_free(f->sums_crc);
    mem_free(f->sums_dirty);
    mem_free(f->dropped);
    *f = (struct jvdb_file){.fd = -1, .dir_fd = -1};
}

enum err_code jvdb_file_writable(struct jvdb_file *f, struct err *err)
{
    if (f->fd >= 0) return ERR_OK;
    int os_errno = file_open(f->dir_fd, f->file_name, O_RDWR, &f->fd);
    if (os_errno) {
        f->fd = -1;
        return err_os(err, os_errno, "open %s for writing", f->file_name);
    }
    return ERR_OK;
}

enum err_code jvdb_file_check_length(struct jvdb_file *f, uint64_t bytes, struct err *err)
{
    uint64_t found;
    int os_errno = file_size(f->fd, &found);
    if (os_errno) return err_os(err, os_errno, "measure %s", f->file_name);
    if (found >= bytes) return ERR_OK;
    atomic_store(&f->lost, true);
    return err_set(err, ERR_CORRUPT,
                   "%s was cut short while it was in use: it has %" PRIu64 " bytes, %" PRIu64
                   " are needed",
                   f->file_name, found, bytes);
}

/* ---- growth ---- */

enum err_code jvdb_file_take(struct jvdb_file *f, uint64_t bytes, uint64_t *at, struct err *err)
{
    if (space_take(&f->space, bytes, at)) return ERR_OK;
    enum err_code rc = jvdb_file_writable(f, err);
    if (!rc) rc = jvdb_file_check_length(f, f->file_bytes, err);
    if (rc) return rc;

    uint64_t old_bytes = f->file_bytes;
    int os_errno = file_allocate(f->fd, old_bytes, bytes);
    if (os_errno)
        return err_os(err, os_errno, "extend %s by %" PRIu64 " bytes", f->file_name, bytes);
    f->write_count++;
    f->file_bytes = old_bytes + bytes;
    if (f->file_bytes > view_of(f)->map_bytes) {
        rc = jvdb_file_map(f, err);
        if (rc) {
            f->file_bytes = old_bytes;
            return rc;
        }
    }
    *at = old_bytes;
    return ERR_OK;
}

/* A new extent may show bytes of an earlier life of its place. */
static void clear_extent(struct jvdb_file *f, uint64_t at, uint64_t bytes, uint8_t state)
{
    struct jvdb_view *v = view_of(f);
    memset(v->mutable_bytes + at, 0, bytes);
    mutex_lock(&f->blocks);
    for (uint64_t b = at / BLOCK_BYTES; b < (at + bytes) / BLOCK_BYTES; b++)
        atomic_store_explicit(&v->state[b], state, memory_order_release);
    mutex_unlock(&f->blocks);
}

static enum err_code add_extent(struct jvdb_file *f, enum region_id region, struct err *err)
{
    uint32_t count = atomic_load_explicit(&f->extent_count[region], memory_order_relaxed);
    uint64_t bytes = region_extent_bytes(&f->shapes[region], count), at;
    enum err_code rc = jvdb_file_take(f, bytes, &at, err);
    if (rc) return rc;

    if (f->shapes[region].is_mutable) {
        uint8_t state = BLOCK_VERIFIED | BLOCK_PRIVATE;
        /* Checksums are computed and saved by the checkpoint itself. */
        if (region != REGION_SUMS) {
            state |= BLOCK_DIRTY;
            atomic_fetch_add_explicit(&f->dirty_blocks, bytes / BLOCK_BYTES, memory_order_relaxed);
        }
        clear_extent(f, at, bytes, state);
    }
    struct jvdb_view *v = view_of(f);
    uint64_t *extents = (uint64_t *)(uintptr_t)v->extents[region];
    if (count == f->extent_cap[region]) {
        uint64_t cap = count ? (uint64_t)count * 2 : 8;
        uint64_t *grown = mem_zalloc(cap * sizeof *grown);
        if (count) memcpy(grown, extents, count * sizeof *grown);
        grown[count] = at;
        struct jvdb_view *next = mem_new(struct jvdb_view);
        *next = *v;
        next->extents[region] = grown;
        v->owns_maps = false; /* now the new view's; only writers look at this */
        f->extent_cap[region] = cap;
        /* A checkpoint looks at the view under this lock and in no epoch section. */
        mutex_lock(&f->blocks);
        publish_view(f, next, extents);
        mutex_unlock(&f->blocks);
    } else {
        extents[count] = at; /* readers look only below extent_count */
    }
    atomic_store_explicit(&f->extent_count[region], count + 1, memory_order_release);
    return ERR_OK;
}

static uint64_t capacity(struct jvdb_file *f, enum region_id region)
{
    return region_capacity(&f->shapes[region],
                           atomic_load_explicit(&f->extent_count[region], memory_order_relaxed));
}

enum err_code jvdb_file_grow(struct jvdb_file *f, enum region_id region, uint64_t cells,
                             struct err *err)
{
    while (capacity(f, region) < cells) {
        enum err_code rc = add_extent(f, region, err);
        if (rc) return rc;
    }
    while (!in_memory(f) && capacity(f, REGION_SUMS) < f->file_bytes / BLOCK_BYTES) {
        enum err_code rc = add_extent(f, REGION_SUMS, err);
        if (rc) return rc;
    }
    return ERR_OK;
}

void jvdb_file_shrink(struct jvdb_file *f, enum region_id region, uint32_t extents)
{
    assert(!f->shapes[region].is_mutable);
    uint32_t count = atomic_load_explicit(&f->extent_count[region], memory_order_relaxed);
    const uint64_t *offsets = view_of(f)->extents[region];
    if (count <= extents) return;
    atomic_store_explicit(&f->extent_count[region], extents, memory_order_release);
    for (uint32_t e = extents; e < count; e++)
        space_give(&f->space, offsets[e], region_extent_bytes(&f->shapes[region], e));
}

void jvdb_file_reshape(struct jvdb_file *f, enum region_id region, uint64_t cell_bytes)
{
    assert(region_is_index(region));
    struct region_shape *shape = &f->shapes[region];
    uint32_t count = atomic_load_explicit(&f->extent_count[region], memory_order_relaxed);
    if (count) {
        const uint64_t *offsets = view_of(f)->extents[region];
        struct space_range *grown = mem_zalloc((f->dropped_count + count) * sizeof *grown);
        if (f->dropped_count) memcpy(grown, f->dropped, f->dropped_count * sizeof *grown);
        for (uint32_t e = 0; e < count; e++)
            grown[f->dropped_count++] =
                (struct space_range){offsets[e], region_extent_bytes(shape, e)};
        mem_free(f->dropped);
        f->dropped = grown;
        atomic_store_explicit(&f->extent_count[region], 0, memory_order_release);
    }
    bool is_sane = region_set_cell_bytes(shape, cell_bytes);
    assert(is_sane);
    (void)is_sane;
}

void jvdb_file_give_dropped(struct jvdb_file *f, size_t count)
{
    if (count == 0) return;
    for (size_t i = 0; i < count; i++)
        space_give(&f->space, f->dropped[i].at, f->dropped[i].bytes);
    f->dropped_count -= count;
    memmove(f->dropped, f->dropped + count, f->dropped_count * sizeof *f->dropped);
}

/* ---- blocks ---- */

static const uint8_t *block_bytes(struct jvdb_file *f, uint64_t block)
{
    return view_of(f)->mutable_bytes + block * BLOCK_BYTES;
}

static bool checksum_is(struct jvdb_file *f, uint64_t block, uint32_t want)
{
    uint32_t got = crc32c(0, block_bytes(f, block), BLOCK_BYTES);
    if (got == want) return true;
    stat_add(STAT_CHECKSUM_ERRORS, 1);
    log_error("%s: block %" PRIu64 " has checksum %08" PRIx32 ", expected %08" PRIx32, f->file_name,
              block, got, want);
    return false;
}

enum { SUMS_PER_BLOCK = BLOCK_BYTES / sizeof(uint32_t) };

/* Offset in the file of the checksum of `block`; 0: there is none. */
static uint64_t sum_offset(struct jvdb_file *f, uint64_t block)
{
    struct region_place place = region_place(&f->shapes[REGION_SUMS], block);
    uint32_t extents = atomic_load_explicit(&f->extent_count[REGION_SUMS], memory_order_relaxed);
    if (place.extent >= extents) return 0;
    return view_of(f)->extents[REGION_SUMS][place.extent] + place.offset;
}

/* The manifest vouches for the blocks of checksums. */
static bool verify_sum_block(struct jvdb_file *f, uint64_t sum_block, uint64_t index)
{
    _Atomic uint8_t *state = view_of(f)->state;
    if (atomic_load_explicit(&state[sum_block], memory_order_relaxed) & BLOCK_VERIFIED) return true;
    if (index >= f->sums_count || !checksum_is(f, sum_block, f->sums_crc[index])) return false;
    atomic_fetch_or_explicit(&state[sum_block], BLOCK_VERIFIED, memory_order_release);
    return true;
}

static bool verify_locked(struct jvdb_file *f, uint64_t block)
{
    mutex_assert_held(&f->blocks);
    _Atomic uint8_t *state = view_of(f)->state;
    if (atomic_load_explicit(&state[block], memory_order_relaxed) & BLOCK_VERIFIED) return true;

    uint64_t sum_at = sum_offset(f, block);
    if (!sum_at || !verify_sum_block(f, sum_at / BLOCK_BYTES, block / SUMS_PER_BLOCK)) return false;
    uint32_t want;
    memcpy(&want, view_of(f)->mutable_bytes + sum_at, sizeof want);
    if (!checksum_is(f, block, want)) return false;
    atomic_fetch_or_explicit(&state[block], BLOCK_VERIFIED, memory_order_release);
    return true;
}

bool jvdb_file_set_sum(struct jvdb_file *f, uint64_t block, uint32_t crc)
{
    mutex_assert_held(&f->blocks);
    uint64_t sum_at = sum_offset(f, block), index = block / SUMS_PER_BLOCK;
    if (!sum_at || !verify_sum_block(f, sum_at / BLOCK_BYTES, index)) return false;
    struct jvdb_view *v = view_of(f);
    memcpy(v->mutable_bytes + sum_at, &crc, sizeof crc);
    atomic_fetch_or_explicit(&v->state[sum_at / BLOCK_BYTES], BLOCK_PRIVATE, memory_order_relaxed);
    assert(index < f->sums_dirty_cap);
    f->sums_dirty[index] = 1;
    return true;
}

uint64_t jvdb_file_sum_block(struct jvdb_file *f, size_t index)
{
    return sum_offset(f, (uint64_t)index * SUMS_PER_BLOCK) / BLOCK_BYTES;
}

size_t jvdb_file_sum_blocks(struct jvdb_file *f)
{
    return capacity(f, REGION_SUMS) / SUMS_PER_BLOCK;
}

bool jvdb_file_verify(struct jvdb_file *f, uint64_t block)
{
    if (in_memory(f)) return true;
    mutex_lock(&f->blocks);
    bool good = verify_locked(f, block);
    mutex_unlock(&f->blocks);
    return good;
}

static void put_copy_aside(struct jvdb_file *f, uint64_t block)
{
    if (f->copy_count == f->copy_cap) {
        size_t cap = f->copy_cap ? f->copy_cap * 2 : 64;
        struct block_copy *grown = mem_zalloc(cap * sizeof *grown);
        if (f->copy_count) memcpy(grown, f->copies, f->copy_count * sizeof *grown);
        mem_free(f->copies);
        f->copies = grown;
        f->copy_cap = cap;
    }
    uint8_t *bytes = mem_zalloc(BLOCK_BYTES);
    memcpy(bytes, block_bytes(f, block), BLOCK_BYTES);
    f->copies[f->copy_count++] = (struct block_copy){block, bytes};
}

void *jvdb_file_change(struct jvdb_file *f, enum region_id region, uint64_t cell)
{
    const struct region_shape *shape = &f->shapes[region];
    assert(shape->is_mutable);
    struct region_place place = region_place(shape, cell);
    if (place.extent >= atomic_load_explicit(&f->extent_count[region], memory_order_relaxed))
        return NULL;
    struct jvdb_view *v = view_of(f);
    uint64_t at = v->extents[region][place.extent] + place.offset, block = at / BLOCK_BYTES;
    if (in_memory(f)) return v->mutable_bytes + at;

    const uint8_t ready = BLOCK_VERIFIED | BLOCK_DIRTY | BLOCK_PRIVATE;
    uint8_t state = atomic_load_explicit(&v->state[block], memory_order_relaxed);
    if ((state & (ready | BLOCK_TO_SAVE)) == ready) return v->mutable_bytes + at;

    mutex_lock(&f->blocks);
    bool good = verify_locked(f, block);
    if (good) {
        state = atomic_load_explicit(&v->state[block], memory_order_relaxed);
        if (state & BLOCK_TO_SAVE) put_copy_aside(f, block);
        if (!(state & BLOCK_DIRTY))
            atomic_fetch_add_explicit(&f->dirty_blocks, 1, memory_order_relaxed);
        atomic_store_explicit(&v->state[block], ready, memory_order_release);
    }
    mutex_unlock(&f->blocks);
    return good ? v->mutable_bytes + at : NULL;
}

enum err_code jvdb_file_write(struct jvdb_file *f, enum region_id region, uint64_t cell,
                              struct iovec *iov, int iov_count, struct err *err)
{
    assert(!f->shapes[region].is_mutable && f->fd >= 0);
    struct region_place place = region_place(&f->shapes[region], cell);
    uint64_t at = view_of(f)->extents[region][place.extent] + place.offset;
    enum err_code rc = jvdb_file_check_length(f, f->file_bytes, err);
    if (rc) return rc;
    f->write_count++;
    int os_errno = file_writev(f->fd, iov, iov_count, at);
    if (os_errno) return err_os(err, os_errno, "write to %s", f->file_name);
    return ERR_OK;
}

/* The byte that holds the bit, and the bit. */
static _Atomic uint8_t *checked_byte(struct jvdb_file *f, enum region_id region, uint64_t cell,
                                     uint8_t *bit)
{
    struct region_place place = region_place(&f->shapes[region], cell);
    const struct jvdb_view *v = atomic_load_explicit(&f->view, memory_order_acquire);
    bool is_row = region == REGION_VECTORS;
    uint64_t at =
        (v->extents[region][place.extent] + place.offset) / (is_row ? ROW_ALIGN : RECORD_ALIGN);
    *bit = (uint8_t)(1u << at % 8);
    return &(is_row ? v->rows_checked : v->records_checked)[at / 8];
}

bool jvdb_file_is_checked(struct jvdb_file *f, enum region_id region, uint64_t cell)
{
    if (in_memory(f)) return true;
    if (atomic_load_explicit(&f->sync_failed, memory_order_relaxed)) return false;
    uint8_t bit;
    _Atomic uint8_t *byte = checked_byte(f, region, cell, &bit);
    return atomic_load_explicit(byte, memory_order_relaxed) & bit;
}

void jvdb_file_set_checked(struct jvdb_file *f, enum region_id region, uint64_t cell)
{
    uint8_t bit;
    _Atomic uint8_t *byte = checked_byte(f, region, cell, &bit);
    atomic_fetch_or_explicit(byte, bit, memory_order_relaxed);
}

/*
 * jvdb_file.h - one .jvdb file: its mappings, its extents, which of its blocks changed.
 *
 * The file is always exactly one checkpoint.  Immutable regions are read through a shared read-only
 * mapping and written with pwrite() to places that the last checkpoint does not use.  Mutable
 * regions live in a private mapping: changed in memory only, until checkpoint.c writes them.
 * Nothing is ever stored through a shared mapping of a file: a full disk would be a SIGBUS, and a
 * failed write-back would be reported once and then forgotten.
 *
 * In memory (no directory) the file is a memfd, mapped once for both kinds; blocks need no
 * tracking and no checksums.
 *
 * Threads: readers, inside an epoch section, may call the functions marked R at any time.  All
 * others belong to the writer (under LOCK_DATABASE) or to checkpoint.c.
 */
#ifndef STORAGE_JVDB_FILE_H
#define STORAGE_JVDB_FILE_H

#include <stdatomic.h>

#include "storage/base/err.h"
#include "storage/base/file.h"
#include "storage/base/guard.h"
#include "storage/base/lock.h"
#include "storage/region.h"
#include "storage/space.h"

enum {
    ROW_ALIGN = 64,  /* rows start at multiples of it: a cache line, the widest SIMD load */
    RECORD_ALIGN = 8 /* so do records */
};

/* State of a block of a mutable region. */
enum block_state {
    BLOCK_VERIFIED = 1, /* its checksum was right, or it was made by this process           */
    BLOCK_DIRTY = 2,    /* to be written by the next checkpoint                             */
    BLOCK_TO_SAVE = 4,  /* the checkpoint under way has not copied it yet                   */
    BLOCK_PRIVATE = 8,  /* the private page may differ from the file                        */
};

/* One mapping of the file.  Replaced as a whole when the file outgrows it; readers inside an epoch
 * section may go on with the old one, which then shows the state of the moment of replacement. */
struct jvdb_view {
    const uint8_t *shared;  /* immutable regions                     */
    uint8_t *mutable_bytes; /* mutable regions                       */
    uint64_t map_bytes;     /* of each mapping, beyond the file      */
    _Atomic uint8_t *state; /* enum block_state, one for each block  */
    /* The row that begins at a multiple of ROW_ALIGN, the record that begins at a multiple of
     * RECORD_ALIGN, was checked against its checksum: one bit each.  (jvdb_file_checked()) */
    _Atomic uint8_t *rows_checked;
    _Atomic uint8_t *records_checked;
    struct guard *guards[2];               /* of the maps                           */
    bool owns_maps;                        /* false: a later view has the same maps */
    const uint64_t *extents[REGION_COUNT]; /* offset in the file of each extent */
};

struct block_copy {
    uint64_t block;
    uint8_t *bytes; /* as it was at the checkpoint's LSN */
};

struct jvdb_file {
    /* Constant after open. */
    int dir_fd; /* borrowed; -1: in memory */
    char file_name[160];
    uint8_t uuid[16];
    struct region_shape shapes[REGION_COUNT]; /* but those of the search index: the writer's */

    /* Atomic; stored by the writer, loaded by readers. */
    _Atomic(struct jvdb_view *) view;
    _Atomic uint32_t extent_count[REGION_COUNT]; /* stored after the extent's offset */
    /* A sync of the file failed: the kernel may drop pages that never reached the disk, at any
     * later time, so rows and records are checked at every touch. */
    _Atomic bool sync_failed;

    _Atomic bool lost; /* see jvdb_file_is_lost(); set by any thread, for good */

    /* The writer's (LOCK_DATABASE). */
    int fd;               /* for writing; -1: not open */
    uint64_t write_count; /* of writes through fd, so that an idle one can be told */
    uint64_t extent_cap[REGION_COUNT];
    uint64_t file_bytes; /* end of the last extent */
    struct space space;
    uint64_t manifest_at, manifest_bytes;
    /* Extents that nothing uses any more but the last checkpoint: jvdb_file_drop(). */
    struct space_range *dropped;
    size_t dropped_count;

    /* The checkpoint's (LOCK_CHECKPOINT). */
    uint64_t generation;
    uint64_t checkpoint_lsn;
    bool superblocks_alike;

    struct mutex blocks;       /* guards the transitions of view->state and what follows */
    struct block_copy *copies; /* blocks that a writer changed before they were saved */
    size_t copy_count, copy_cap;
    /* Blocks that are BLOCK_DIRTY but for those of checksums, about; added to by the writer, taken
     * by a checkpoint. */
    _Atomic uint64_t dirty_blocks;
    uint32_t *sums_crc;  /* CRC of each block of REGION_SUMS, as of the last checkpoint */
    size_t sums_count;   /* how many of them exist in the file */
    uint8_t *sums_dirty; /* changed by the checkpoint under way */
    size_t sums_dirty_cap;
};

/* A new, empty file image: nothing on disk yet (checkpoint_create() writes it).  For in_memory the
 * memfd is made here.  ERR_NOMEM. */
MUST_CHECK enum err_code jvdb_file_init(struct jvdb_file *f, int dir_fd, const char *file_name,
                                        const uint8_t uuid[16], uint32_t dimension,
                                        struct err *err);
/* Map `bytes` of file; used by init and by manifest.c once extents are known. */
MUST_CHECK enum err_code jvdb_file_map(struct jvdb_file *f, struct err *err);
/* Unmap and close; the caller guarantees that no reader is left. */
void jvdb_file_deinit(struct jvdb_file *f);

/* Have a descriptor for writing.  It stays open until jvdb_file_sync_idle() or deinit. */
MUST_CHECK enum err_code jvdb_file_writable(struct jvdb_file *f, struct err *err);

/* Have room for `cells` cells in a region: new extents are zeroed and, if mutable, wholly dirty.
 * On failure nothing that was there has changed. */
MUST_CHECK enum err_code jvdb_file_grow(struct jvdb_file *f, enum region_id region, uint64_t cells,
                                        struct err *err);
/* Give back the extents of a region but for the first `extents`: no checkpoint knows of them. */
void jvdb_file_shrink(struct jvdb_file *f, enum region_id region, uint32_t extents);
/* For a region of the search index: cells of another size, from scratch.  Its extents are free for
 * use when a checkpoint without them is finished: it calls jvdb_file_give_dropped() with what
 * `dropped_count` was when its manifest was made. */
void jvdb_file_reshape(struct jvdb_file *f, enum region_id region, uint64_t cell_bytes);
void jvdb_file_give_dropped(struct jvdb_file *f, size_t count);
/* Take `bytes` (whole blocks) of space that no checkpoint references. */
MUST_CHECK enum err_code jvdb_file_take(struct jvdb_file *f, uint64_t bytes, uint64_t *at,
                                        struct err *err);

/* R: the bytes of a cell.  NULL: there is no such cell, or its block fails its checksum (counted
 * and logged).  A byte region is addressed by its first byte; see region_run(). */
static inline const void *jvdb_file_read(struct jvdb_file *f, enum region_id region, uint64_t cell);
/* Writer: the same cell, to be changed now; it is marked dirty and saved for a checkpoint under way
 * first.  NULL as above. */
void *jvdb_file_change(struct jvdb_file *f, enum region_id region, uint64_t cell);
/* Writer: write cells of an immutable region.  iov may be changed; `bytes` is their sum and must
 * lie in one extent. */
MUST_CHECK enum err_code jvdb_file_write(struct jvdb_file *f, enum region_id region, uint64_t cell,
                                         struct iovec *iov, int iov_count, struct err *err);

/* R: a part of the file could not be read, or is no longer there: whatever was read so far may have
 * been zeros.  To be asked after reading, before what was read is used (guard.h). */
static inline bool jvdb_file_is_lost(struct jvdb_file *f)
{
    return atomic_load(&f->lost);
}
/* Somebody cut the file short: before a write would make it long again, with zeros in between that
 * pass for rows that were checked.  `bytes`: what it must have.  ERR_CORRUPT. */
MUST_CHECK enum err_code jvdb_file_check_length(struct jvdb_file *f, uint64_t bytes,
                                                struct err *err);

/* R: first touch of a block since open: check it against its checksum. */
bool jvdb_file_verify(struct jvdb_file *f, uint64_t block);

/* Under `blocks`, for a checkpoint: note the checksum that `block` will have.  False: the block of
 * checksums is itself damaged. */
bool jvdb_file_set_sum(struct jvdb_file *f, uint64_t block, uint32_t crc);
/* Where block number `index` of REGION_SUMS lies, as a block of the file. */
uint64_t jvdb_file_sum_block(struct jvdb_file *f, size_t index);
/* How many blocks REGION_SUMS has. */
size_t jvdb_file_sum_blocks(struct jvdb_file *f);

/* R: a bit that says "checked" for the row (REGION_VECTORS) or record (REGION_RECORDS) that begins
 * at `cell`: get it, or set it.  In memory nothing needs a check.  A bit may be forgotten (the file
 * was mapped anew): then it is checked once more. */
bool jvdb_file_is_checked(struct jvdb_file *f, enum region_id region, uint64_t cell);
void jvdb_file_set_checked(struct jvdb_file *f, enum region_id region, uint64_t cell);

static inline const void *jvdb_file_read(struct jvdb_file *f, enum region_id region, uint64_t cell)
{
    const struct region_shape *shape = &f->shapes[region];
    struct region_place place = region_place(shape, cell);
    /* Pairs with the store in jvdb_file_grow(): who sees the count sees the offset. */
    if (place.extent >= atomic_load_explicit(&f->extent_count[region], memory_order_acquire))
        return NULL;
    /* Pairs with the store in publish_view(). */
    const struct jvdb_view *v = atomic_load_explicit(&f->view, memory_order_acquire);
    uint64_t at = v->extents[region][place.extent] + place.offset;
    if (!shape->is_mutable) return v->shared + at;
    uint8_t state = atomic_load_explicit(&v->state[at / BLOCK_BYTES], memory_order_acquire);
    if (!(state & BLOCK_VERIFIED) && !jvdb_file_verify(f, at / BLOCK_BYTES)) return NULL;
    return v->mutable_bytes + at;
}

#endif

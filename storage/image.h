/*
 * image.h - a .jvdb file as it lies on the disk, read without trusting it and without opening it as
 * a database: for verify.c and salvage.c.
 *
 * Everything is read with pread() into buffers, so that damage is a return value and never a
 * signal.  A complete `<name>.ckpt` beside the file can be laid over it: then the image is what the
 * file will be once an opening has finished that checkpoint.  Nothing is ever written.
 *
 * One thread at a time.
 */
#ifndef STORAGE_IMAGE_H
#define STORAGE_IMAGE_H

#include "storage/manifest.h"

enum image_state {
    IMAGE_GOOD,
    IMAGE_BAD,        /* the checksum is wrong                                        */
    IMAGE_UNREADABLE, /* the disk does not give it, or it lies behind the end         */
    IMAGE_UNPROVEN,   /* the block that holds its checksum is itself bad              */
};

struct image_cell_cache;

struct image {
    int dir_fd; /* borrowed */
    char name[NAME_BYTES_MAX + 1];
    char file_name[NAME_BYTES_MAX + 8];
    int fd;
    uint64_t bytes;      /* of the file */
    uint64_t bytes_read; /* since image_open(), from either file */

    /* The checkpoint that is laid over it; fd -1: none. */
    int ckpt_fd;
    struct image_block {
        uint64_t block, at;
    } * ckpt_blocks; /* by block */
    size_t ckpt_count;

    /* Which copies of the superblock have a right checksum; whether one is of a newer version. */
    struct disk_superblock superblocks[SUPERBLOCK_COUNT];
    bool superblock_good[SUPERBLOCK_COUNT];
    bool is_newer;
    bool has_magic; /* in one of them */

    /* Of image_use(). */
    struct disk_superblock sb;
    struct manifest manifest;
    struct jvdb_file f; /* shapes, extent counts, sums_crc */
    uint64_t *extents[REGION_COUNT];

    struct image_cell_cache *cache;
    uint8_t *window; /* part of region "records" */
    uint64_t window_at, window_bytes;
};

/* Open `<name>.jvdb` in `dir_fd` and read its superblocks, good or bad.  `overlay`: lay a complete
 * .ckpt of the same database over it.  ERR_CORRUPT (missing), ERR_IO. */
MUST_CHECK enum err_code image_open(int dir_fd, const char *name, bool overlay, struct image *img,
                                    struct err *err);
void image_close(struct image *img); /* a zeroed or closed one is fine */

/* The newest superblock with a right checksum; NULL: there is none. */
const struct disk_superblock *image_newest(const struct image *img);
/* Take this superblock's manifest; `proven`: only if its checksum is right.  False: not usable. */
bool image_use(struct image *img, const struct disk_superblock *sb, bool proven);

/* 0 or an errno. */
MUST_CHECK int image_read(struct image *img, void *to, size_t bytes, uint64_t at);

/* Offset in the file of a cell; 0: there is none. */
uint64_t image_place(const struct image *img, enum region_id region, uint64_t cell);
/* A block of a mutable region, compared with its checksum.  `bytes` gets the block unless it is
 * unreadable; *want and *got the checksums. */
enum image_state image_block(struct image *img, uint64_t block, uint8_t bytes[BLOCK_BYTES],
                             uint32_t *want, uint32_t *got);
/* Block number `index` of region "sums", compared with the manifest. */
enum image_state image_sum_block(struct image *img, size_t index, uint8_t bytes[BLOCK_BYTES],
                                 uint32_t *want, uint32_t *got);
/* A cell of region "slots" or "id_index", through a cache: valid until the next call.  NULL: there
 * is no such cell, or it cannot be read. */
const void *image_cell(struct image *img, enum region_id region, uint64_t cell,
                       enum image_state *state);

struct image_record {
    struct disk_record head;
    char text[ID_BYTES_MAX];
    char metadata[METADATA_BYTES_MAX];
};
/* The record at this address (offset + 1).  IMAGE_BAD: its bytes are not a record. */
enum image_state image_record(struct image *img, uint64_t record_at, struct image_record *out);

/* The CRC of a row, as in struct slot. */
uint32_t image_row_crc(const struct image *img, uint64_t key, uint32_t text_bytes,
                       const void *vector);

#endif

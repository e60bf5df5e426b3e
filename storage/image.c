/* image.c - pread(), checksums, and a cache of blocks. */
#include "storage/image.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "storage/base/crc32c.h"
#include "storage/base/file.h"
#include "storage/base/mem.h"
#include "storage/checkpoint.h"
#include "storage/records.h"

enum {
    CACHE_BLOCKS = 512, /* 2 MiB */
    WINDOW_BYTES = 256 * 1024,
    SUMS_PER_BLOCK = BLOCK_BYTES / sizeof(uint32_t),
};

struct image_cell_cache {
    uint64_t block[CACHE_BLOCKS]; /* of the file + 1; 0: empty */
    enum image_state state[CACHE_BLOCKS];
    uint8_t bytes[CACHE_BLOCKS][BLOCK_BYTES];
    uint64_t sums_index; /* + 1, of the block of checksums read last */
    enum image_state sums_state;
    uint32_t sums[SUMS_PER_BLOCK];
};

/* ---- the .ckpt ---- */

static int by_block(const void *a, const void *b)
{
    const struct image_block *x = a, *y = b;
    return x->block < y->block ? -1 : x->block > y->block;
}

/* As checkpoint_apply_leftover() would: only of the same database, of this generation or the next.
 * If no superblock is left, the checkpoint has one. */
static bool applies(const struct image *img, const struct disk_ckpt_header *h)
{
    struct err err;
    struct disk_superblock recovered;
    bool alike;
    const struct disk_superblock *sb = image_newest(img);
    enum err_code rc = superblock_read(img->fd, img->file_name, &recovered, &alike, &err);
    if (h->format_version != FORMAT_VERSION || rc == ERR_QUARANTINED) return false;
    if (rc == ERR_OK) sb = &recovered;
    return !sb || (memcmp(h->uuid, sb->uuid, sizeof h->uuid) == 0 &&
                   (h->generation == sb->generation || h->generation == sb->generation + 1));
}

static void lay_over(struct image *img)
{
    char ckpt_name[NAME_BYTES_MAX + 8];
    struct disk_ckpt_header h;
    struct disk_ckpt_footer f;
    uint64_t *numbers = NULL;
    bool complete = false;
    int fd = -1;
    snprintf(ckpt_name, sizeof ckpt_name, "%s.ckpt", img->name);
    if (file_open(img->dir_fd, ckpt_name, O_RDONLY, &fd)) return;
    if (checkpoint_check_file(fd, &h, &f, &complete) || !complete || !applies(img, &h)) goto out;
    numbers = mem_try(f.block_count * sizeof *numbers + 1);
    img->ckpt_blocks = mem_try(f.block_count * sizeof *img->ckpt_blocks + 1);
    if (!numbers || !img->ckpt_blocks ||
        file_read(fd, numbers, f.block_count * sizeof *numbers,
                  BLOCK_BYTES + f.block_count * BLOCK_BYTES))
        goto out;
    for (uint64_t i = 0; i < f.block_count; i++)
        img->ckpt_blocks[i] = (struct image_block){numbers[i], (i + 1) * BLOCK_BYTES};
    img->ckpt_count = f.block_count;
    if (img->ckpt_count)
        qsort(img->ckpt_blocks, img->ckpt_count, sizeof img->ckpt_blocks[0], by_block);
    img->ckpt_fd = fd;
    fd = -1;
out:
    file_close(fd);
    mem_free(numbers);
}

static const struct image_block *laid_over(const struct image *img, uint64_t block)
{
    struct image_block key = {.block = block};
    if (!img->ckpt_count) return NULL;
    return bsearch(&key, img->ckpt_blocks, img->ckpt_count, sizeof key, by_block);
}

int image_read(struct image *img, void *to, size_t bytes, uint64_t at)
{
    uint8_t *p = to;
    img->bytes_read += bytes;
    if (!img->ckpt_count) return file_read(img->fd, to, bytes, at);
    while (bytes > 0) {
        uint64_t block = at / BLOCK_BYTES, within = at % BLOCK_BYTES;
        size_t n = bytes < BLOCK_BYTES - within ? bytes : (size_t)(BLOCK_BYTES - within);
        const struct image_block *over = laid_over(img, block);
        int os_errno =
            over ? file_read(img->ckpt_fd, p, n, over->at + within) : file_read(img->fd, p, n, at);
        if (os_errno) return os_errno;
        p += n;
        at += n;
        bytes -= n;
    }
    return 0;
}

/* ---- open ---- */

static void read_superblocks(struct image *img)
{
    img->is_newer = img->has_magic = false;
    for (int i = 0; i < SUPERBLOCK_COUNT; i++) {
        struct disk_superblock *sb = &img->superblocks[i];
        img->superblock_good[i] = false;
        if (image_read(img, sb, sizeof *sb, (uint64_t)i * BLOCK_BYTES)) {
            memset(sb, 0, sizeof *sb);
            continue;
        }
        if (memcmp(sb->magic, SUPERBLOCK_MAGIC, sizeof sb->magic) != 0) continue;
        img->has_magic = true;
        bool intact = sb->crc == superblock_crc(sb);
        if (sb->format_version != FORMAT_VERSION && sb->format_version < 1000)
            img->is_newer = true;
        else if (intact && (sb->features_incompat || sb->features_ro_compat))
            img->is_newer = true;
        else
            img->superblock_good[i] = intact;
    }
}

enum err_code image_open(int dir_fd, const char *name, bool overlay, struct image *img,
                         struct err *err)
{
    *img = (struct image){.dir_fd = dir_fd, .fd = -1, .ckpt_fd = -1};
    img->f.fd = img->f.dir_fd = -1;
    snprintf(img->name, sizeof img->name, "%s", name);
    snprintf(img->file_name, sizeof img->file_name, "%s.jvdb", name);
    int os_errno = file_open(dir_fd, img->file_name, O_RDONLY, &img->fd);
    if (os_errno == ENOENT)
        return err_set(err, ERR_CORRUPT, "the file %s is missing", img->file_name);
    if (!os_errno) os_errno = file_size(img->fd, &img->bytes);
    if (os_errno) {
        image_close(img);
        return err_os(err, os_errno, "open %s", img->file_name);
    }
    img->cache = mem_new(struct image_cell_cache);
    img->window = mem_zalloc(WINDOW_BYTES);
    read_superblocks(img);
    if (overlay) lay_over(img);
    if (img->ckpt_count) read_superblocks(img);
    return ERR_OK;
}

static void forget_manifest(struct image *img)
{
    manifest_deinit(&img->manifest);
    for (int r = 0; r < REGION_COUNT; r++) {
        mem_free(img->extents[r]);
        img->extents[r] = NULL;
    }
    mem_free(img->f.sums_crc);
    space_deinit(&img->f.space);
    img->f = (struct jvdb_file){.fd = -1, .dir_fd = -1};
    img->manifest = (struct manifest){0};
    if (img->cache) memset(img->cache->block, 0, sizeof img->cache->block);
    if (img->cache) img->cache->sums_index = 0;
    img->window_bytes = 0;
}

void image_close(struct image *img)
{
    if (!img->name[0]) return;
    forget_manifest(img);
    file_close(img->fd);
    file_close(img->ckpt_fd);
    mem_free(img->ckpt_blocks);
    mem_free(img->cache);
    mem_free(img->window);
    *img = (struct image){.fd = -1, .ckpt_fd = -1};
}

const struct disk_superblock *image_newest(const struct image *img)
{
    const struct disk_superblock *best = NULL;
    for (int i = 0; i < SUPERBLOCK_COUNT; i++)
        if (img->superblock_good[i] && (!best || img->superblocks[i].generation > best->generation))
            best = &img->superblocks[i];
    return best;
}

bool image_use(struct image *img, const struct disk_superblock *sb, bool proven)
{
    forget_manifest(img);
    if (sb->manifest_bytes < sizeof(struct disk_manifest) ||
        sb->manifest_bytes > MANIFEST_BYTES_MAX || sb->manifest_bytes % BLOCK_BYTES ||
        sb->manifest_at < SUPERBLOCK_COUNT * BLOCK_BYTES || sb->manifest_at % BLOCK_BYTES ||
        sb->manifest_at > INT64_MAX)
        return false;
    uint8_t *bytes = mem_try(sb->manifest_bytes);
    bool good = bytes && image_read(img, bytes, sb->manifest_bytes, sb->manifest_at) == 0;
    if (good && proven) good = crc32c(0, bytes, sb->manifest_bytes) == sb->manifest_crc;
    if (good) good = manifest_parse(bytes, sb, &img->f, img->extents, &img->manifest);
    mem_free(bytes);
    if (good)
        img->sb = *sb;
    else
        forget_manifest(img);
    return good;
}

/* ---- blocks ---- */

uint64_t image_place(const struct image *img, enum region_id region, uint64_t cell)
{
    struct region_place place = region_place(&img->f.shapes[region], cell);
    if (place.extent >= img->f.extent_count[region]) return 0;
    return img->extents[region][place.extent] + place.offset;
}

enum image_state image_sum_block(struct image *img, size_t index, uint8_t bytes[BLOCK_BYTES],
                                 uint32_t *want, uint32_t *got)
{
    uint64_t at = image_place(img, REGION_SUMS, (uint64_t)index * SUMS_PER_BLOCK);
    *want = *got = 0;
    if (!at || index >= img->f.sums_count) return IMAGE_UNPROVEN;
    *want = img->f.sums_crc[index];
    if (image_read(img, bytes, BLOCK_BYTES, at)) return IMAGE_UNREADABLE;
    *got = crc32c(0, bytes, BLOCK_BYTES);
    return *got == *want ? IMAGE_GOOD : IMAGE_BAD;
}

enum image_state image_block(struct image *img, uint64_t block, uint8_t bytes[BLOCK_BYTES],
                             uint32_t *want, uint32_t *got)
{
    struct image_cell_cache *c = img->cache;
    uint64_t index = block / SUMS_PER_BLOCK;
    *want = *got = 0;
    if (image_read(img, bytes, BLOCK_BYTES, block * BLOCK_BYTES)) return IMAGE_UNREADABLE;
    if (c->sums_index != index + 1) {
        uint32_t ignored;
        c->sums_index = index + 1;
        c->sums_state = image_sum_block(img, (size_t)index, (uint8_t *)c->sums, &ignored, &ignored);
    }
    *got = crc32c(0, bytes, BLOCK_BYTES);
    if (c->sums_state != IMAGE_GOOD) return IMAGE_UNPROVEN;
    *want = c->sums[block % SUMS_PER_BLOCK];
    return *got == *want ? IMAGE_GOOD : IMAGE_BAD;
}

const void *image_cell(struct image *img, enum region_id region, uint64_t cell,
                       enum image_state *state)
{
    struct image_cell_cache *c = img->cache;
    uint64_t at = image_place(img, region, cell), block = at / BLOCK_BYTES;
    *state = IMAGE_UNREADABLE;
    if (!at) return NULL;
    size_t i = block % CACHE_BLOCKS;
    if (c->block[i] != block + 1) {
        uint32_t want, got;
        c->block[i] = block + 1;
        c->state[i] = image_block(img, block, c->bytes[i], &want, &got);
    }
    *state = c->state[i];
    return *state == IMAGE_UNREADABLE ? NULL : c->bytes[i] + at % BLOCK_BYTES;
}

/* ---- rows and records ---- */

/* Bytes of region "records"; false: not there. */
static bool record_bytes(struct image *img, uint64_t at, size_t bytes, void *to)
{
    const struct region_shape *shape = &img->f.shapes[REGION_RECORDS];
    uint64_t capacity = region_capacity(shape, img->f.extent_count[REGION_RECORDS]);
    uint8_t *p = to;
    if (at > capacity || bytes > capacity - at) return false;
    while (bytes > 0) {
        if (at < img->window_at || at >= img->window_at + img->window_bytes) {
            uint64_t run = region_run(shape, at), place = image_place(img, REGION_RECORDS, at);
            /* Records of rows that were updated lie anywhere: more is read at once only where it
             * goes on. */
            bool goes_on =
                img->window_bytes && at - img->window_at - img->window_bytes < BLOCK_BYTES;
            uint64_t most = goes_on ? img->window_bytes * 4 : BLOCK_BYTES;
            if (most > WINDOW_BYTES) most = WINDOW_BYTES;
            if (run > most) run = most;
            img->window_bytes = 0;
            if (!place) return false;
            /* One bad sector must not take its neighbours along. */
            if (image_read(img, img->window, run, place)) {
                run = run < bytes ? run : bytes;
                if (image_read(img, img->window, run, place)) return false;
            }
            img->window_at = at;
            img->window_bytes = run;
        }
        uint64_t left = img->window_at + img->window_bytes - at;
        size_t n = bytes < left ? bytes : (size_t)left;
        memcpy(p, img->window + (at - img->window_at), n);
        p += n;
        at += n;
        bytes -= n;
    }
    return true;
}

enum image_state image_record(struct image *img, uint64_t record_at, struct image_record *out)
{
    struct disk_record *h = &out->head;
    if (record_at == 0 || record_at > INT64_MAX) return IMAGE_BAD;
    uint64_t at = record_at - 1;
    if (!record_bytes(img, at, sizeof *h, h)) return IMAGE_UNREADABLE;
    if (h->text_bytes > ID_BYTES_MAX || h->metadata_bytes > METADATA_BYTES_MAX) return IMAGE_BAD;
    if (!record_bytes(img, at + sizeof *h, h->text_bytes, out->text) ||
        !record_bytes(img, at + sizeof *h + h->text_bytes, h->metadata_bytes, out->metadata))
        return IMAGE_UNREADABLE;
    uint32_t crc = records_head_crc(record_at, h);
    crc = crc32c(crc, out->text, h->text_bytes);
    crc = crc32c(crc, out->metadata, h->metadata_bytes);
    return crc == h->crc ? IMAGE_GOOD : IMAGE_BAD;
}

uint32_t image_row_crc(const struct image *img, uint64_t key, uint32_t text_bytes,
                       const void *vector)
{
    uint32_t crc = crc32c(0, &key, sizeof key);
    crc = crc32c(crc, &text_bytes, sizeof text_bytes);
    return crc32c(crc, vector, (size_t)img->manifest.schema.dimension * sizeof(float));
}

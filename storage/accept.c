/*
 * accept.c - look, set aside, stamp, note.
 *
 * The new uuid goes in as a checkpoint would: a new manifest to free space, then the superblock of
 * the next generation, then the other one.  Whatever moment the power fails, one of them is whole.
 */
#include "storage/accept.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "storage/base/crc32c.h"
#include "storage/base/file.h"
#include "storage/base/mem.h"
#include "storage/catalog.h"
#include "storage/checkpoint.h"
#include "storage/image.h"
#include "storage/wal_scan.h"

enum { SEGMENTS_MAX = 64 };

/* ---- look ---- */

/* Open it as an opening would find it; a checkpoint that a stop interrupted is finished first. */
static enum err_code open_image(int dir_fd, const char *name, struct image *img, struct err *err)
{
    char file_name[NAME_BYTES_MAX + 8];
    snprintf(file_name, sizeof file_name, "%s.jvdb", name);
    if (faccessat(dir_fd, file_name, F_OK, AT_SYMLINK_NOFOLLOW) != 0 && errno == ENOENT)
        return err_set(err, ERR_DATABASE_NOT_FOUND, "there is no %s in the data directory",
                       file_name);
    enum err_code rc = image_open(dir_fd, name, true, img, err);
    if (rc) return rc;
    if (img->ckpt_count) {
        int fd = -1, os_errno = file_open(dir_fd, file_name, O_RDWR, &fd);
        bool applied = false;
        const struct disk_superblock *sb = &img->superblocks[img->superblock_good[0] ? 0 : 1];
        if (os_errno) rc = err_os(err, os_errno, "open %s", file_name);
        if (!rc) rc = checkpoint_apply_leftover(dir_fd, name, fd, false, sb, &applied, err);
        file_close(fd);
        image_close(img);
        if (!rc) rc = image_open(dir_fd, name, false, img, err);
        if (rc) return rc;
    }
    if (img->is_newer)
        return err_set(err, ERR_QUARANTINED, "%s has another format version", file_name);
    const struct disk_superblock *sb = NULL;
    for (int i = 0; i < SUPERBLOCK_COUNT; i++)
        if (img->superblock_good[i] && (!sb || img->superblocks[i].generation > sb->generation))
            sb = &img->superblocks[i];
    if (!sb || !image_use(img, sb, true))
        return err_set(err, ERR_CORRUPT,
                       "%s is damaged itself; `jadevectordb-cli repair` rescues what can be read",
                       file_name);
    if (img->bytes < sb->file_bytes)
        return err_set(err, ERR_CORRUPT, "%s has %" PRIu64 " bytes, %" PRIu64 " are needed",
                       file_name, img->bytes, sb->file_bytes);
    return ERR_OK;
}

static enum err_code look_at_log(int dir_fd, const char *name, struct image *img,
                                 struct accept_result *r, struct err *err)
{
    struct wal_scan s = {.dir_fd = dir_fd,
                         .name = name,
                         .uuid = NULL,
                         .after_lsn = img->sb.lsn,
                         .past_damage = true};
    enum err_code rc = wal_scan(&s, err);
    r->log_records = s.records;
    r->log_bytes = s.bytes;
    r->first_lsn = s.first_lsn;
    r->last_lsn = s.last_lsn;
    r->log_was_damaged = s.damaged;
    r->log_damage = s.damage;
    return rc;
}

/* ---- set aside ---- */

static enum err_code set_aside(int dir_fd, const char *file_name, struct accept_result *r,
                               struct err *err)
{
    char aside[300];
    if (faccessat(dir_fd, file_name, F_OK, AT_SYMLINK_NOFOLLOW) != 0) return ERR_OK;
    snprintf(aside, sizeof aside, "%s%s", file_name, r->aside_suffix);
    int os_errno = file_rename(dir_fd, file_name, aside);
    if (os_errno) return err_os(err, os_errno, "rename %s", file_name);
    r->files_set_aside++;
    return ERR_OK;
}

static enum err_code set_log_aside(int dir_fd, const char *name, struct accept_result *r,
                                   struct err *err)
{
    char file_name[200];
    struct tm tm;
    time_t now = time(NULL);
    enum err_code rc = ERR_OK;
    gmtime_r(&now, &tm);
    strftime(r->aside_suffix, sizeof r->aside_suffix, "~%Y%m%dT%H%M%SZ", &tm);
    for (int i = 0; i < SEGMENTS_MAX && !rc; i++) {
        snprintf(file_name, sizeof file_name, "%s.wal.%d", name, i);
        rc = set_aside(dir_fd, file_name, r, err);
    }
    snprintf(file_name, sizeof file_name, "%s.ckpt", name);
    if (!rc) rc = set_aside(dir_fd, file_name, r, err);
    int os_errno = rc ? 0 : file_sync(dir_fd);
    return os_errno ? err_os(err, os_errno, "sync the data directory") : rc;
}

/* ---- stamp ---- */

static enum err_code stamp(struct image *img, const uint8_t uuid[16], struct err *err)
{
    struct disk_superblock sb = img->sb;
    struct disk_manifest head;
    uint64_t at = 0;
    int fd = -1, os_errno = 0;
    uint8_t *bytes = mem_try(sb.manifest_bytes);
    if (!bytes) return err_set(err, ERR_NOMEM, "out of memory for a manifest");
    os_errno = file_open(img->dir_fd, img->file_name, O_RDWR, &fd);
    if (!os_errno) os_errno = image_read(img, bytes, sb.manifest_bytes, sb.manifest_at);
    if (os_errno) goto out;

    memcpy(&head, bytes, sizeof head);
    head.generation = ++sb.generation;
    memcpy(head.uuid, uuid, sizeof head.uuid);
    memcpy(sb.uuid, uuid, sizeof sb.uuid);
    memcpy(bytes, &head, sizeof head);
    if (!space_take(&img->f.space, sb.manifest_bytes, &at)) {
        at = sb.file_bytes;
        os_errno = file_allocate(fd, at, sb.manifest_bytes);
        sb.file_bytes += sb.manifest_bytes;
    }
    sb.manifest_at = at;
    sb.manifest_crc = crc32c(0, bytes, sb.manifest_bytes);
    sb.crc = superblock_crc(&sb);
    if (!os_errno) os_errno = file_write(fd, bytes, sb.manifest_bytes, at);
    if (!os_errno) os_errno = file_sync(fd);
    for (unsigned i = 0; i < SUPERBLOCK_COUNT && !os_errno; i++) {
        uint64_t copy = (sb.generation + i) % SUPERBLOCK_COUNT;
        os_errno = file_write(fd, &sb, sizeof sb, copy * BLOCK_BYTES);
        if (!os_errno) os_errno = file_sync(fd);
    }
out:
    file_close(fd);
    mem_free(bytes);
    return os_errno ? err_os(err, os_errno, "stamp %s", img->file_name) : ERR_OK;
}

/* ---- the catalog ---- */

struct entries {
    struct catalog_entry *list;
    size_t count, cap, next;
};

static void keep_entry(void *ctx, const struct catalog_entry *e)
{
    struct entries *all = ctx;
    if (all->count == all->cap) {
        all->cap = all->cap ? all->cap * 2 : 64;
        struct catalog_entry *grown = mem_zalloc(all->cap * sizeof *grown);
        if (all->count) memcpy(grown, all->list, all->count * sizeof *grown);
        mem_free(all->list);
        all->list = grown;
    }
    struct catalog_entry *kept = &all->list[all->count++];
    *kept = *e;
    kept->schema.options = e->schema.options ? mem_strdup(e->schema.options) : NULL;
}

static bool next_entry(void *ctx, struct catalog_entry *e)
{
    struct entries *all = ctx;
    if (all->next == all->count) return false;
    *e = all->list[all->next++];
    return true;
}

/* The same databases, but this one with its new uuid, and with counts that are not known. */
static enum err_code note(int dir_fd, const char *name, const uint8_t uuid[16],
                          const struct schema *schema, struct err *err)
{
    struct entries all = {0};
    struct catalog *catalog = NULL;
    bool was_clean = false, was_lost = false;
    enum err_code rc = catalog_open(dir_fd, keep_entry, &all, &catalog, &was_clean, &was_lost, err);
    if (rc) goto out;
    /* Tombstones of the name stay, before it: the last record says what a name is. */
    size_t kept = 0;
    for (size_t i = 0; i < all.count; i++) {
        if (!all.list[i].dropped && strcmp(all.list[i].name, name) == 0)
            mem_free(all.list[i].schema.options);
        else
            all.list[kept++] = all.list[i];
    }
    all.count = kept;
    struct catalog_entry e = {.schema = *schema};
    snprintf(e.name, sizeof e.name, "%s", name);
    memcpy(e.uuid, uuid, sizeof e.uuid);
    keep_entry(&all, &e);
    rc = catalog_rewrite(catalog, next_entry, &all, was_clean, err);
out:
    catalog_close(catalog);
    for (size_t i = 0; i < all.count; i++)
        mem_free(all.list[i].schema.options);
    mem_free(all.list);
    return rc;
}

enum err_code accept_run(int dir_fd, const char *name, struct accept_result *r, struct err *err)
{
    struct image img = {0};
    uint8_t uuid[16];
    *r = (struct accept_result){0};
    enum err_code rc = database_name_check(name, strlen(name), err);
    if (!rc) rc = open_image(dir_fd, name, &img, err);
    if (!rc) rc = look_at_log(dir_fd, name, &img, r, err);
    if (rc) goto out;
    r->lsn = img.sb.lsn;
    if (getrandom(uuid, sizeof uuid, 0) != sizeof uuid) {
        rc = err_os(err, errno, "get random numbers");
        goto out;
    }
    rc = set_log_aside(dir_fd, name, r, err);
    if (!rc) rc = stamp(&img, uuid, err);
    if (!rc) rc = database_adopt_files(dir_fd, name, uuid, img.sb.lsn, err);
    if (!rc) rc = note(dir_fd, name, uuid, &img.manifest.schema, err);
out:
    image_close(&img);
    return rc;
}

/* accept.c - look, set aside, stamp, note. */
#include "storage/accept.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "storage/base/file.h"
#include "storage/base/mem.h"
#include "storage/catalog.h"
#include "storage/checkpoint.h"
#include "storage/image.h"
#include "storage/wal_scan.h"
#include "storage/wal_segment.h"

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
        bool applied = false, alike;
        struct disk_superblock sb;
        if (os_errno) rc = err_os(err, os_errno, "open %s", file_name);
        if (!rc) rc = superblock_read(fd, file_name, &sb, &alike, err);
        /* None is left but that of the checkpoint. */
        if (rc == ERR_CORRUPT && image_newest(img)) {
            sb = *image_newest(img);
            rc = ERR_OK;
        }
        if (!rc) rc = checkpoint_apply_leftover(dir_fd, name, fd, false, &sb, &applied, err);
        file_close(fd);
        image_close(img);
        if (!rc) rc = image_open(dir_fd, name, false, img, err);
        if (rc) return rc;
    }
    if (img->is_newer)
        return err_set(err, ERR_QUARANTINED, "%s has another format version", file_name);
    const struct disk_superblock *sb = image_newest(img);
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

enum { FILES_MAX = WAL_SEGMENTS_MAX + 1 };

/* The i-th file that may have to go. */
static void name_of(const char *name, int i, char text[WAL_SEGMENT_NAME_BYTES])
{
    if (i < WAL_SEGMENTS_MAX)
        wal_segment_name(name, i, text);
    else
        snprintf(text, WAL_SEGMENT_NAME_BYTES, "%s.ckpt", name);
}

static bool exists(int dir_fd, const char *name, int i, const char *suffix)
{
    char file_name[WAL_SEGMENT_NAME_BYTES], aside[300];
    name_of(name, i, file_name);
    snprintf(aside, sizeof aside, "%s%s", file_name, suffix);
    return faccessat(dir_fd, aside, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

/* The time; and a number, if something was set aside in this very second.  The lock of the data
 * directory is held: nobody else makes such names. */
static void choose_suffix(int dir_fd, const char *name, char *suffix, size_t cap)
{
    char now[24];
    time_t t = time(NULL);
    struct tm tm;
    gmtime_r(&t, &tm);
    strftime(now, sizeof now, "%Y%m%dT%H%M%SZ", &tm);
    snprintf(suffix, cap, "~%s", now);
    for (unsigned n = 2;; n++) {
        bool taken = false;
        for (int i = 0; i < FILES_MAX && !taken; i++)
            taken = exists(dir_fd, name, i, suffix);
        if (!taken) return;
        snprintf(suffix, cap, "~%s-%u", now, n);
    }
}

static enum err_code set_log_aside(int dir_fd, const char *name, struct accept_result *r,
                                   struct err *err)
{
    choose_suffix(dir_fd, name, r->aside_suffix, sizeof r->aside_suffix);
    for (int i = 0; i < FILES_MAX; i++) {
        char file_name[WAL_SEGMENT_NAME_BYTES], aside[300];
        name_of(name, i, file_name);
        if (!exists(dir_fd, name, i, "")) continue;
        snprintf(aside, sizeof aside, "%s%s", file_name, r->aside_suffix);
        int os_errno = file_rename(dir_fd, file_name, aside);
        if (os_errno) return err_os(err, os_errno, "rename %s", file_name);
        r->files_set_aside++;
    }
    int os_errno = file_sync(dir_fd);
    return os_errno ? err_os(err, os_errno, "sync the data directory") : ERR_OK;
}

/* ---- stamp ---- */

static enum err_code stamp(const struct image *img, const uint8_t uuid[16], struct err *err)
{
    struct disk_superblock sb = img->sb;
    int fd = -1, os_errno = file_open(img->dir_fd, img->file_name, O_RDWR, &fd);
    if (os_errno) return err_os(err, os_errno, "open %s", img->file_name);
    enum err_code rc = manifest_stamp(fd, img->file_name, &sb, uuid, err);
    file_close(fd);
    return rc;
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

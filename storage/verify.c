/*
 * verify.c - pass by pass over the image of a file.
 *
 * 1  superblocks and manifest;
 * 2  the checkpoint: checksum blocks, then every block of slots and id index, then what those say
 *    about each other;
 * 3  rows and records of the slots that live in it, slice by slice;
 * 4  the log;
 * 5  the search index.
 *
 * A LIVE FILE.  Blocks of mutable regions change in step 4 of a checkpoint only, while its .ckpt
 * exists, and the superblock is the last of them.  A live row or record of a checkpoint is not
 * written over before the next one is complete.  So if something is wrong, or could not be compared
 * because its block is another one by now, and then there is no .ckpt, and the superblock is the
 * one that the pass began with, then it is damage; else the pass (2) or slice (3) is done again
 * with the new checkpoint.  If the file never holds still, nothing is said about it.
 *
 * The index is written before there is a .ckpt, and may be newer than the superblock says for as
 * long as that takes.  So if something is bad there, the file gets some time to move on.
 *
 * PACE.  What image.c and wal_scan.c read is counted there; it is charged between two pieces of
 * work.
 */
#include "storage/verify.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "storage/base/crc32c.h"
#include "storage/base/file.h"
#include "storage/base/mem.h"
#include "storage/image.h"
#include "storage/wal_scan.h"

enum {
    SLICE_BYTES = 1 << 20, /* holds the longest row */
    MOVED_MAX = 20,        /* times that the file may move on under one pass or slice */
    LOG_LOOKS = 3,
    INDEX_LOOKS = 50, /* CHECKPOINT_WAIT_MS apart */
    CHECKPOINT_WAIT_MS = 20,
    CHECKPOINT_WAITS = 3000, /* a minute for one checkpoint */
    PACE_BYTES = 64 * 1024,  /* charged at a time */
};

struct run {
    const struct verify_options *o;
    struct verify_result *r;
    struct image img;
    uint8_t *slice;
    struct image_record *record;
    uint8_t *live; /* one bit per slot: lives in this checkpoint                */
    uint8_t *seen; /* one bit per slot: some leaf names it; or the dead chain   */
    uint8_t *nodes_seen;
    uint64_t bits;
    uint64_t node_bits;
    uint64_t charged; /* of img.bytes_read */
    bool stopped;
    bool restart; /* another file is in its place, or it has no checkpoint: begin anew */
    bool gave_up; /* the file never held still */
    /* What could not be compared and was passed over, and the first of it. */
    struct {
        uint64_t count, block;
        enum verify_region region;
    } unsure;
};

const char *verify_region_name(enum verify_region region)
{
    static const char *const names[] = {"file",     "superblock", "manifest", "sums",    "slots",
                                        "id_index", "counts",     "vectors",  "records", "log"};
    return names[region];
}

void verify_error_text(const struct verify_error *e, char *text, size_t cap)
{
    char place[48] = "", sums[48] = "";
    if (e->has_block) snprintf(place, sizeof place, " (block %" PRIu64 ")", e->block);
    if (e->has_sums)
        snprintf(sums, sizeof sums, ": checksum %08" PRIx32 ", expected %08" PRIx32, e->got,
                 e->want);
    snprintf(text, cap, "%s: %s%s%s", verify_region_name(e->region), e->what, place, sums);
}

/* ---- errors ---- */

static struct verify_error *add_error(struct run *run, enum verify_region region, const char *fmt,
                                      ...) __attribute__((format(printf, 3, 4)));
/* Never NULL: beyond the limit they are counted only. */
static struct verify_error *add_error(struct run *run, enum verify_region region, const char *fmt,
                                      ...)
{
    static _Thread_local struct verify_error beyond;
    struct verify_result *r = run->r;
    struct verify_error *e =
        r->errors_kept < VERIFY_ERRORS_MAX ? &r->errors[r->errors_kept++] : &beyond;
    r->error_count++;
    *e = (struct verify_error){.region = region};
    va_list args;
    va_start(args, fmt);
    vsnprintf(e->what, sizeof e->what, fmt, args);
    va_end(args);
    return e;
}

static void at_block(struct verify_error *e, uint64_t block)
{
    e->has_block = true;
    e->block = block;
}

static void at_row(struct run *run, struct verify_error *e, enum region_id region, uint64_t row)
{
    e->has_row = true;
    e->row = row;
    uint64_t at = image_place(&run->img, region, row);
    if (at) at_block(e, at / BLOCK_BYTES);
}

static void with_sums(struct verify_error *e, uint32_t want, uint32_t got)
{
    e->has_sums = true;
    e->want = want;
    e->got = got;
}

/* A point to which the result can be taken back. */
struct mark {
    uint64_t error_count, blocks, rows, records;
    uint64_t unsure;
    size_t errors_kept;
};

static struct mark mark(const struct run *run)
{
    const struct verify_result *r = run->r;
    return (struct mark){
        .error_count = r->error_count,
        .errors_kept = r->errors_kept,
        .blocks = r->blocks_checked,
        .rows = r->rows_checked,
        .records = r->records_checked,
        .unsure = run->unsure.count,
    };
}

/* Is there a reason to look again at what was read since? */
static bool is_in_doubt(const struct run *run, const struct mark *m)
{
    return run->r->error_count != m->error_count || run->unsure.count != m->unsure;
}

static void take_back(struct run *run, const struct mark *m)
{
    struct verify_result *r = run->r;
    r->error_count = m->error_count;
    r->errors_kept = m->errors_kept;
    r->blocks_checked = m->blocks;
    r->rows_checked = m->rows;
    r->records_checked = m->records;
    run->unsure.count = m->unsure;
}

/* It ended before the second look, which a live file needs. */
static void take_back_unsure(struct run *run, const struct mark *m)
{
    if (run->o->live) take_back(run, m);
}

/* What lies in a block that is not good is not looked at: it is either damaged, and that is an
 * error, or it was written meanwhile. */
static void pass_over(struct run *run, enum verify_region region, uint64_t block)
{
    if (run->unsure.count++) return;
    run->unsure.region = region;
    run->unsure.block = block;
}

/* Charge `bytes` now; false: stop. */
static bool charge(struct run *run, uint64_t bytes)
{
    run->r->bytes_read += bytes;
    if (!run->stopped && run->o->pace && !run->o->pace(run->o->ctx, bytes)) run->stopped = true;
    return !run->stopped;
}

/* Charge what was read of the image since; false: stop. */
static bool pace_now(struct run *run)
{
    uint64_t bytes = run->img.bytes_read - run->charged;
    run->charged = run->img.bytes_read;
    return charge(run, bytes);
}

/* The same, if it is worth a call. */
static bool pace(struct run *run)
{
    return run->img.bytes_read - run->charged >= PACE_BYTES ? pace_now(run) : !run->stopped;
}

/* ---- has the file moved on? ---- */

static bool ckpt_exists(const struct run *run)
{
    char name[NAME_BYTES_MAX + 8];
    snprintf(name, sizeof name, "%s.ckpt", run->o->name);
    return faccessat(run->o->dir_fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

/* The file under this name is another one than the one that is open. */
static bool was_replaced(const struct run *run)
{
    struct stat open_one, named;
    return fstat(run->img.fd, &open_one) == 0 &&
           (fstatat(run->o->dir_fd, run->img.file_name, &named, AT_SYMLINK_NOFOLLOW) != 0 ||
            named.st_ino != open_one.st_ino || named.st_dev != open_one.st_dev);
}

/* Something is wrong in what was read.  True: the file has moved on meanwhile, or does so now (that
 * is waited for), and it should be read again. */
static bool has_moved(struct run *run)
{
    struct image *img = &run->img;
    bool waited = false;
    for (int i = 0; run->o->live && i < CHECKPOINT_WAITS && ckpt_exists(run); i++) {
        waited = true;
        if (!pace_now(run)) return false;
        nanosleep(&(struct timespec){.tv_nsec = CHECKPOINT_WAIT_MS * 1000000l}, NULL);
    }
    if (waited || was_replaced(run)) return true;
    for (int i = 0; i < SUPERBLOCK_COUNT; i++) {
        struct disk_superblock now;
        if (image_read(img, &now, sizeof now, (uint64_t)i * BLOCK_BYTES)) continue;
        if (memcmp(&now, &img->superblocks[i], sizeof now) != 0) return true;
    }
    return false;
}

/* ---- 1: superblocks and manifest ---- */

/* Open it (again) and choose a checkpoint.  *usable: there is one to go on with. */
static enum err_code choose_checkpoint(struct run *run, bool *usable, struct err *err)
{
    const struct verify_options *o = run->o;
    struct image *img = &run->img;
    *usable = false;
    pace_now(run);
    image_close(img);
    run->charged = 0;
    enum err_code rc = image_open(o->dir_fd, o->name, !o->live, img, err);
    if (rc == ERR_CORRUPT) {
        add_error(run, VERIFY_FILE, "%s", err->msg);
        return ERR_OK;
    }
    if (rc) return rc;
    if (img->is_newer)
        return err_set(err, ERR_QUARANTINED, "a newer version wrote %s", img->file_name);
    for (int i = 0; i < SUPERBLOCK_COUNT; i++) {
        run->r->blocks_checked++;
        if (img->superblock_good[i]) continue;
        const struct disk_superblock *sb = &img->superblocks[i];
        bool has_magic = memcmp(sb->magic, SUPERBLOCK_MAGIC, sizeof sb->magic) == 0;
        struct verify_error *e = add_error(
            run, VERIFY_SUPERBLOCK,
            has_magic ? "superblock %d of 2 is damaged" : "superblock %d of 2 is not one", i + 1);
        at_block(e, (uint64_t)i);
        if (has_magic) with_sums(e, superblock_crc(sb), sb->crc);
    }
    const struct disk_superblock *sb = image_newest(img);
    if (!sb) return ERR_OK;
    if (o->uuid && memcmp(sb->uuid, o->uuid, sizeof sb->uuid) != 0)
        add_error(run, VERIFY_FILE, "%s is another database than the one known by that name",
                  img->file_name);
    run->r->generation = sb->generation;
    run->r->lsn = sb->lsn;
    if (!image_use(img, sb, true)) {
        if (img->manifest.is_newer)
            return err_set(err, ERR_QUARANTINED, "a newer version wrote %s", img->file_name);
        struct verify_error *e =
            add_error(run, VERIFY_MANIFEST, "the manifest of generation %" PRIu64 " is damaged",
                      sb->generation);
        at_block(e, sb->manifest_at / BLOCK_BYTES);
        return ERR_OK;
    }
    run->r->blocks_checked += sb->manifest_bytes / BLOCK_BYTES;
    if (img->bytes < sb->file_bytes || sb->file_bytes % BLOCK_BYTES)
        add_error(run, VERIFY_FILE, "%s has %" PRIu64 " bytes, %" PRIu64 " are needed",
                  img->file_name, img->bytes, sb->file_bytes);
    *usable = true;
    return ERR_OK;
}

/* ---- 2: the checkpoint ---- */

static bool bit(const uint8_t *bits, uint64_t i)
{
    return bits[i / 8] >> i % 8 & 1;
}

static void set_bit(uint8_t *bits, uint64_t i)
{
    bits[i / 8] |= (uint8_t)(1u << i % 8);
}

static void block_error(struct run *run, enum verify_region region, uint64_t block,
                        enum image_state state, uint32_t want, uint32_t got)
{
    struct verify_error *e = add_error(
        run, region, state == IMAGE_BAD ? "a block is damaged" : "a block cannot be read");
    at_block(e, block);
    e->is_block = true;
    if (state == IMAGE_BAD) with_sums(e, want, got);
}

static void check_sums(struct run *run)
{
    struct image *img = &run->img;
    uint8_t bytes[BLOCK_BYTES];
    for (size_t i = 0; i < img->f.sums_count; i++) {
        uint32_t want, got;
        enum image_state state = image_sum_block(img, i, bytes, &want, &got);
        uint64_t at = image_place(img, REGION_SUMS, (uint64_t)i * (BLOCK_BYTES / sizeof(uint32_t)));
        run->r->blocks_checked++;
        if (state != IMAGE_GOOD) block_error(run, VERIFY_SUMS, at / BLOCK_BYTES, state, want, got);
        if (!pace(run)) return;
    }
}

static void check_slot(struct run *run, uint64_t number, const struct slot *s, uint64_t *live,
                       uint64_t *dead)
{
    const struct disk_counts *c = &run->img.manifest.counts;
    uint64_t lsn = run->img.sb.lsn;
    const char *wrong = NULL;
    if (s->birth > lsn)
        wrong = "was born after the checkpoint";
    else if (s->death != SLOT_NEVER && (s->death > lsn || s->death < s->birth))
        wrong = "died at an impossible time";
    else if (s->text_bytes > ID_BYTES_MAX || (s->text_bytes && !s->record_at))
        wrong = "has an impossible id";
    else if (s->record_at > c->records_bytes)
        wrong = "has a record behind the last one";
    else if (s->replaced > c->slot_count || s->next_dead > c->slot_count)
        wrong = "refers to a slot that is not there";
    if (wrong)
        at_row(run, add_error(run, VERIFY_SLOTS, "slot %" PRIu64 " %s", number, wrong),
               REGION_SLOTS, number);
    if (s->death == SLOT_NEVER) {
        set_bit(run->live, number);
        ++*live;
    } else {
        ++*dead;
    }
}

/* Every block of region slots or id_index; slots are counted on the way. */
static void check_region(struct run *run, enum region_id region, enum verify_region where)
{
    struct image *img = &run->img;
    const struct disk_counts *c = &img->manifest.counts;
    const struct region_shape *shape = &img->f.shapes[region];
    uint64_t live = 0, dead = 0, before = run->r->error_count;
    uint64_t per_block = BLOCK_BYTES / shape->cell_bytes, cell = 0;
    uint8_t bytes[BLOCK_BYTES];
    for (uint32_t x = 0; x < img->f.extent_count[region]; x++) {
        uint64_t blocks = region_extent_bytes(shape, x) / BLOCK_BYTES;
        uint64_t first = img->extents[region][x] / BLOCK_BYTES;
        for (uint64_t b = 0; b < blocks; b++, cell += per_block) {
            uint32_t want, got;
            enum image_state state = image_block(img, first + b, bytes, &want, &got);
            run->r->blocks_checked++;
            /* The error of unproven ones is that of their block of checksums. */
            if (state == IMAGE_BAD || state == IMAGE_UNREADABLE)
                block_error(run, where, first + b, state, want, got);
            if (state == IMAGE_UNPROVEN) pass_over(run, where, first + b);
            if (region == REGION_SLOTS && state == IMAGE_GOOD) {
                const struct slot *slots = (const void *)bytes;
                for (uint64_t i = 0; i < per_block && cell + i < c->slot_count; i++)
                    check_slot(run, cell + i, &slots[i], &live, &dead);
            }
            if (!pace(run)) return;
        }
    }
    /* With a block missing nothing adds up. */
    if (region != REGION_SLOTS || run->r->error_count != before || run->unsure.count) return;
    if (live != c->live_count || dead != c->dead_count)
        add_error(run, VERIFY_COUNTS,
                  "%" PRIu64 " rows live and %" PRIu64 " are dead, counted are %" PRIu64
                  " and %" PRIu64,
                  live, dead, c->live_count, c->dead_count);
}

static void check_dead_chain(struct run *run)
{
    struct image *img = &run->img;
    const struct disk_counts *c = &img->manifest.counts;
    uint64_t count = 0, death = 0;
    uint32_t last = 0;
    for (uint32_t next = c->dead_first; next;) {
        enum image_state state;
        const struct slot *s = image_cell(img, REGION_SLOTS, next - 1, &state);
        if (!s || state != IMAGE_GOOD || next > c->slot_count || count > c->dead_count ||
            s->death == SLOT_NEVER || s->death < death) {
            at_row(run, add_error(run, VERIFY_SLOTS, "the chain of dead slots is broken"),
                   REGION_SLOTS, next - 1);
            return;
        }
        death = s->death;
        last = next;
        next = s->next_dead;
        count++;
        if (!pace(run)) return;
    }
    if (count != c->dead_count || last != c->dead_last)
        add_error(run, VERIFY_SLOTS, "the chain of dead slots has %" PRIu64 " of %" PRIu64 " slots",
                  count, c->dead_count);
}

/* ---- the id index ---- */

/* A key with its text, if that decides. */
struct key {
    uint64_t key;
    uint32_t text_bytes;
    bool has_text; /* longer than what `key` holds */
    char text[ID_BYTES_MAX];
};

static bool key_of(struct run *run, const struct index_entry *e, struct key *k)
{
    k->key = e->key;
    k->text_bytes = e->text_bytes;
    k->has_text = false;
    if (e->text_bytes <= sizeof e->key) return true;
    if (e->text_bytes > ID_BYTES_MAX ||
        image_record(&run->img, e->text_at, run->record) != IMAGE_GOOD ||
        run->record->head.text_bytes != e->text_bytes)
        return false;
    memcpy(k->text, run->record->text, e->text_bytes);
    k->has_text = true;
    return true;
}

/* Integers before strings, as in id_index.c. */
static int compare(const struct key *a, const struct key *b)
{
    if ((a->text_bytes == 0) != (b->text_bytes == 0)) return a->text_bytes == 0 ? -1 : 1;
    if (a->key != b->key) return a->key < b->key ? -1 : 1;
    if (a->has_text && b->has_text) {
        uint32_t common = a->text_bytes < b->text_bytes ? a->text_bytes : b->text_bytes;
        int order = memcmp(a->text, b->text, common);
        if (order) return order;
    }
    return a->text_bytes < b->text_bytes ? -1 : a->text_bytes > b->text_bytes;
}

static void index_error(struct run *run, uint64_t node, const char *what)
{
    struct verify_error *e =
        add_error(run, VERIFY_ID_INDEX, "node %" PRIu64 " of the id index %s", node, what);
    uint64_t at = image_place(&run->img, REGION_ID_INDEX, node);
    if (at) at_block(e, at / BLOCK_BYTES);
}

/* A leaf's entry and its slot must tell the same. */
static void check_entry(struct run *run, uint64_t node, const struct index_entry *e)
{
    enum image_state state;
    const struct slot *s = e->ref < run->img.manifest.counts.slot_count
                               ? image_cell(&run->img, REGION_SLOTS, e->ref, &state)
                               : NULL;
    if (!s) {
        index_error(run, node, "names a slot that is not there");
        return;
    }
    if (state != IMAGE_GOOD) {
        set_bit(run->seen, e->ref);
        pass_over(run, VERIFY_SLOTS, image_place(&run->img, REGION_SLOTS, e->ref) / BLOCK_BYTES);
        return;
    }
    if (s->key != e->key || s->text_bytes != e->text_bytes)
        index_error(run, node, "names a slot that has another id");
    if (bit(run->seen, e->ref)) index_error(run, node, "names a slot for the second time");
    set_bit(run->seen, e->ref);
}

/* One level from its first node to the right; *first_below is where the next one begins. */
static bool check_level(struct run *run, uint32_t first, uint32_t level, uint64_t *entries_below,
                        uint32_t *first_below, uint64_t *entries)
{
    const struct disk_counts *c = &run->img.manifest.counts;
    struct key *before = mem_new(struct key), *now = mem_new(struct key);
    struct index_node *node = mem_new(struct index_node);
    bool good = true, any = false, may_equal = false;
    uint64_t nodes = 0;
    *entries = 0;
    *first_below = 0;
    for (uint32_t ref = first; good && ref;) {
        enum image_state state;
        const void *cell =
            ref <= c->index_nodes ? image_cell(&run->img, REGION_ID_INDEX, ref - 1, &state) : NULL;
        good = false;
        if (!cell) {
            index_error(run, ref - 1, "is not there");
            break;
        }
        if (state != IMAGE_GOOD) {
            uint64_t at = image_place(&run->img, REGION_ID_INDEX, ref - 1);
            pass_over(run, VERIFY_ID_INDEX, at / BLOCK_BYTES);
            break;
        }
        memcpy(node, cell, sizeof *node);
        if (bit(run->nodes_seen, ref - 1)) {
            index_error(run, ref - 1, "is linked twice");
            break;
        }
        set_bit(run->nodes_seen, ref - 1);
        if (node->version & 1 || node->level != level || node->count > INDEX_NODE_ENTRIES) {
            index_error(run, ref - 1, "has an impossible head");
            break;
        }
        good = true;
        if (nodes == 0 && level > 0 && node->count) *first_below = node->entries[0].ref + 1;
        for (uint32_t i = 0; i < node->count && good; i++) {
            const struct index_entry *e = &node->entries[i];
            /* The very first separator of a level stands for "everything less". */
            bool is_least = level > 0 && nodes == 0 && i == 0;
            if (!is_least) {
                if (!key_of(run, e, now)) {
                    index_error(run, ref - 1, "has an id whose text is damaged");
                    good = false;
                } else if (any && compare(before, now) >= (may_equal ? 1 : 0)) {
                    index_error(run, ref - 1, "is out of order");
                    good = false;
                }
                struct key *swap = before;
                before = now;
                now = swap;
                any = true;
                may_equal = false;
            }
            if (good && level == 0) check_entry(run, ref - 1, e);
        }
        *entries += node->count;
        if (good && node->right) {
            if (!key_of(run, &node->bound, now) || (any && compare(before, now) >= 0)) {
                index_error(run, ref - 1, "has a wrong bound");
                good = false;
            }
            struct key *swap = before;
            before = now;
            now = swap;
            any = true;
            may_equal = true; /* the next key is the bound, or greater */
        }
        nodes++;
        ref = node->right;
        if (!pace(run)) good = false;
    }
    if (good && entries_below && *entries_below != nodes)
        index_error(run, first - 1, "begins a level with nodes that no level above names");
    mem_free(before);
    mem_free(now);
    mem_free(node);
    return good;
}

/* Level by level from the root; at the end every live slot has been named. */
static void check_index(struct run *run)
{
    const struct disk_counts *c = &run->img.manifest.counts;
    uint64_t before = run->r->error_count, above = 1, entries = 0;
    uint32_t first = c->index_root, below = 0;
    memset(run->seen, 0, run->bits / 8 + 1);
    for (uint32_t level = c->index_levels; level-- > 0;) {
        if (first == 0 || !check_level(run, first, level, &above, &below, &entries)) {
            if (!run->stopped && first == 0 && run->r->error_count == before)
                add_error(run, VERIFY_ID_INDEX, "the id index ends before its leaves");
            return;
        }
        above = entries;
        first = below;
    }
    if (run->r->error_count != before) return;
    for (uint64_t i = 0; i < c->slot_count; i++)
        if (bit(run->live, i) && !bit(run->seen, i))
            at_row(
                run,
                add_error(run, VERIFY_ID_INDEX, "the id index does not name live slot %" PRIu64, i),
                REGION_SLOTS, i);
}

static enum err_code room_for_bits(struct run *run, struct err *err)
{
    const struct disk_counts *c = &run->img.manifest.counts;
    mem_free(run->live);
    mem_free(run->seen);
    mem_free(run->nodes_seen);
    run->bits = c->slot_count;
    run->node_bits = c->index_nodes;
    run->live = mem_try(run->bits / 8 + 1);
    run->seen = mem_try(run->bits / 8 + 1);
    run->nodes_seen = mem_try(run->node_bits / 8 + 1);
    if (!run->live || !run->seen || !run->nodes_seen)
        return err_set(err, ERR_NOMEM, "out of memory to verify \"%s\"", run->o->name);
    memset(run->live, 0, run->bits / 8 + 1);
    memset(run->nodes_seen, 0, run->node_bits / 8 + 1);
    return ERR_OK;
}

static enum err_code check_checkpoint(struct run *run, bool *usable, struct err *err)
{
    enum err_code rc = choose_checkpoint(run, usable, err);
    if (rc || !*usable) return rc;
    rc = room_for_bits(run, err);
    if (rc) return rc;
    check_sums(run);
    uint64_t before = run->r->error_count;
    if (!run->stopped) check_region(run, REGION_SLOTS, VERIFY_SLOTS);
    if (!run->stopped) check_region(run, REGION_ID_INDEX, VERIFY_ID_INDEX);
    /* Damaged blocks are errors enough; what they say about each other is worth a look only if they
     * are what was written. */
    if (!run->stopped && run->r->error_count == before) check_dead_chain(run);
    if (!run->stopped && run->r->error_count == before) check_index(run);
    return ERR_OK;
}

/* ---- 3: rows ---- */

static void check_row(struct run *run, uint64_t number, const struct slot *s, const uint8_t *vector)
{
    struct image *img = &run->img;
    run->r->rows_checked++;
    uint32_t got = image_row_crc(img, s->key, s->text_bytes, vector);
    if (got != s->row_crc) {
        struct verify_error *e =
            add_error(run, VERIFY_VECTORS, "the row in slot %" PRIu64 " is damaged", number);
        at_row(run, e, REGION_VECTORS, number);
        with_sums(e, s->row_crc, got);
    }
}

static void check_record(struct run *run, uint64_t number, const struct slot *s)
{
    struct image *img = &run->img;
    if (!s->record_at) return;
    run->r->records_checked++;
    enum image_state state = image_record(img, s->record_at, run->record);
    const char *wrong = NULL;
    if (state == IMAGE_UNREADABLE)
        wrong = "cannot be read";
    else if (state != IMAGE_GOOD)
        wrong = "is damaged";
    else if (run->record->head.text_bytes != s->text_bytes)
        wrong = "belongs to another id";
    if (wrong) {
        struct verify_error *e =
            add_error(run, VERIFY_RECORDS, "the record of slot %" PRIu64 " %s", number, wrong);
        at_row(run, e, REGION_RECORDS, s->record_at - 1);
        e->row = number;
    }
}

/* The slots [from, from + count), which lie in one extent of rows. */
static void check_slice(struct run *run, uint64_t from, uint64_t count)
{
    struct image *img = &run->img;
    uint64_t row_bytes = img->f.shapes[REGION_VECTORS].cell_bytes;
    uint64_t at = image_place(img, REGION_VECTORS, from);
    bool any = false;
    for (uint64_t i = 0; i < count; i++) {
        enum image_state state;
        const struct slot *s = image_cell(img, REGION_SLOTS, from + i, &state);
        if (!s || state != IMAGE_GOOD)
            pass_over(run, VERIFY_SLOTS, image_place(img, REGION_SLOTS, from + i) / BLOCK_BYTES);
        else if (s->death == SLOT_NEVER)
            any = true;
    }
    if (!any) return;
    bool whole = at && image_read(img, run->slice, count * row_bytes, at) == 0;
    for (uint64_t i = 0; i < count; i++) {
        enum image_state state;
        const struct slot *cell = image_cell(img, REGION_SLOTS, from + i, &state);
        if (!cell || state != IMAGE_GOOD || cell->death != SLOT_NEVER) continue;
        struct slot s = *cell;
        uint8_t *vector = run->slice + i * row_bytes;
        if (whole || (at && image_read(img, vector, row_bytes, at + i * row_bytes) == 0)) {
            check_row(run, from + i, &s, vector);
        } else {
            run->r->rows_checked++;
            at_row(run,
                   add_error(run, VERIFY_VECTORS, "the row in slot %" PRIu64 " cannot be read",
                             from + i),
                   REGION_VECTORS, from + i);
        }
        check_record(run, from + i, &s);
        if (!pace(run)) return;
    }
}

/* Only to follow the file to its next checkpoint; what is wrong with it was said already, or will
 * be, if it is not usable: then all is to be begun anew. */
static enum err_code follow(struct run *run, bool *usable, struct err *err)
{
    struct mark m = mark(run);
    enum err_code rc = choose_checkpoint(run, usable, err);
    take_back(run, &m);
    return rc;
}

static enum err_code check_rows(struct run *run, struct err *err)
{
    uint64_t row_bytes = run->img.f.shapes[REGION_VECTORS].cell_bytes;
    uint64_t most = SLICE_BYTES / row_bytes ? SLICE_BYTES / row_bytes : 1;
    /* Rows that are added meanwhile belong to a later checkpoint. */
    uint64_t slot_count = run->img.manifest.counts.slot_count;
    int moved = 0;
    enum err_code rc = ERR_OK;
    for (uint64_t from = 0; from < slot_count && !rc;) {
        uint64_t count = region_run(&run->img.f.shapes[REGION_VECTORS], from);
        if (count > most) count = most;
        if (count > slot_count - from) count = slot_count - from;
        struct mark m = mark(run);
        check_slice(run, from, count);
        bool moved_now = !run->stopped && is_in_doubt(run, &m) && has_moved(run);
        if (run->stopped) {
            take_back_unsure(run, &m);
            return ERR_OK;
        }
        if (moved_now) {
            bool usable;
            take_back(run, &m);
            run->gave_up = ++moved > MOVED_MAX;
            run->restart = was_replaced(run);
            if (run->gave_up || run->restart) return ERR_OK;
            rc = follow(run, &usable, err);
            run->restart = !rc && !usable;
            if (run->restart) return ERR_OK;
            continue;
        }
        moved = 0;
        from += count;
    }
    pace_now(run);
    return rc;
}

/* ---- 4: the log ---- */

static bool pace_log(void *ctx, uint64_t bytes)
{
    return charge(ctx, bytes);
}

static enum err_code check_log(struct run *run, struct err *err)
{
    const struct verify_options *o = run->o;
    for (int attempt = 0;; attempt++) {
        struct wal_scan s = {
            .dir_fd = o->dir_fd,
            .name = o->name,
            .uuid = run->img.sb.uuid,
            .after_lsn = run->img.sb.lsn,
            .pace = pace_log,
            .ctx = run,
        };
        enum err_code rc = wal_scan(&s, err);
        if (rc || run->stopped) return rc;
        struct verify_result *r = run->r;
        r->log_segments = s.segments;
        r->log_records = s.records;
        r->log_bytes = s.bytes;
        r->log_cut_bytes = s.cut_bytes;
        /* Of a log that is being written, the end may look torn; not what is known to be durable.
         * And a database that the daemon knows always has one. */
        bool is_missing = o->live && !s.segments;
        bool lacks = o->live && s.last_lsn < o->durable_lsn && run->img.sb.lsn < o->durable_lsn;
        if (!s.damaged && !is_missing && !lacks) return ERR_OK;
        /* A segment that is given back may look odd for a moment. */
        bool moved = has_moved(run);
        if (run->stopped) return ERR_OK;
        run->gave_up = moved && attempt >= MOVED_MAX;
        run->restart = moved && was_replaced(run);
        if (run->gave_up || run->restart) return ERR_OK;
        if (moved) {
            bool usable;
            rc = follow(run, &usable, err);
            run->restart = !rc && !usable;
            if (rc || run->restart) return rc;
            continue;
        }
        if (o->live && attempt < LOG_LOOKS) {
            nanosleep(&(struct timespec){.tv_nsec = CHECKPOINT_WAIT_MS * 1000000l}, NULL);
            continue;
        }
        if (s.damaged)
            add_error(run, VERIFY_LOG, "%.190s", s.damage.msg);
        else if (is_missing)
            add_error(run, VERIFY_LOG, "the log is missing");
        else
            add_error(run, VERIFY_LOG,
                      "the log ends at LSN %" PRIu64 ", but %" PRIu64 " is durable", s.last_lsn,
                      o->durable_lsn);
        return ERR_OK;
    }
}

/* ---- 5: the search index ---- */

static bool pace_index(void *ctx)
{
    return pace(ctx);
}

/* True: it moved on to another checkpoint; or it is time to look again. */
static bool index_has_moved(struct run *run)
{
    for (int i = 0; run->o->live && i < INDEX_LOOKS && !run->stopped; i++) {
        if (has_moved(run)) return true;
        nanosleep(&(struct timespec){.tv_nsec = CHECKPOINT_WAIT_MS * 1000000l}, NULL);
        if (!pace_now(run)) return false;
    }
    return false;
}

static enum err_code check_search_index(struct run *run, struct err *err)
{
    struct index_check *check = &run->r->index;
    for (int attempt = 0;; attempt++) {
        enum err_code rc = verify_index(&run->img, pace_index, run, check, err);
        if (rc || run->stopped) return rc;
        if (check->cells_bad == 0 || !index_has_moved(run)) return ERR_OK;
        /* Nothing can be said about a file that never holds still. */
        bool usable = attempt < MOVED_MAX;
        *check = (struct index_check){0};
        run->restart = usable && was_replaced(run);
        if (!usable || run->restart) return ERR_OK;
        rc = follow(run, &usable, err);
        run->restart = !rc && !usable;
        if (rc || run->restart) return rc;
    }
}

/* ---- all ---- */

static const struct mark nothing;

/* Passes 1 and 2, until the file holds still. */
static enum err_code check_file(struct run *run, bool *usable, struct err *err)
{
    for (int attempt = 0;; attempt++) {
        take_back(run, &nothing);
        enum err_code rc = check_checkpoint(run, usable, err);
        if (rc) return rc;
        bool in_doubt = !run->stopped && is_in_doubt(run, &nothing);
        bool moved = in_doubt && run->img.name[0] && has_moved(run);
        if (!run->stopped && !moved) return ERR_OK;
        run->gave_up = moved && attempt >= MOVED_MAX;
        if (run->stopped || run->gave_up) {
            take_back_unsure(run, &nothing);
            return ERR_OK;
        }
    }
}

static enum err_code verify_once(struct run *run, struct err *err)
{
    bool usable = false;
    run->restart = false;
    enum err_code rc = check_file(run, &usable, err);
    usable = usable && !rc && !run->stopped && !run->gave_up;
    if (usable) rc = check_rows(run, err);
    if (usable && !rc && !run->stopped && !run->gave_up && !run->restart) rc = check_log(run, err);
    if (usable && !rc && !run->stopped && !run->gave_up && !run->restart)
        rc = check_search_index(run, err);
    return rc;
}

enum err_code verify_files(const struct verify_options *o, struct verify_result *r, struct err *err)
{
    struct run run = {.o = o, .r = r};
    *r = (struct verify_result){0};
    run.slice = mem_zalloc(SLICE_BYTES);
    run.record = mem_new(struct image_record);
    enum err_code rc;
    int attempt = 0;
    do
        rc = verify_once(&run, err);
    while (!rc && run.restart && !run.stopped && ++attempt < MOVED_MAX);
    if (run.restart) take_back(&run, &nothing);
    r->complete = !rc && !run.stopped && !run.restart && !run.gave_up;
    /* Whoever it was that did not give the same twice: it is not good. */
    if (r->complete && run.unsure.count && !r->error_count)
        at_block(add_error(&run, run.unsure.region, "a block could not be compared"),
                 run.unsure.block);
    image_close(&run.img);
    mem_free(run.slice);
    mem_free(run.record);
    mem_free(run.live);
    mem_free(run.seen);
    mem_free(run.nodes_seen);
    return rc;
}

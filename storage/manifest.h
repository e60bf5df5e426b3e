/*
 * manifest.h - superblock and manifest: what a .jvdb file says of itself, to bytes and back.
 *
 * Everything read from a file is checked before it is believed: checksums, bounds, alignment,
 * overlaps, and the extent sizes that region.h prescribes.
 */
#ifndef STORAGE_MANIFEST_H
#define STORAGE_MANIFEST_H

#include "storage/base/buf.h"
#include "storage/jvdb_file.h"
#include "storage/types.h"

/* What a manifest holds beside the extents (which are the file's). */
struct manifest {
    struct schema schema; /* options owned: manifest_deinit() */
    struct disk_counts counts;
    /* Record "index", as it lies in the file, owned; NULL: there is none (index_record.h). */
    uint8_t *index;
    size_t index_bytes;
    bool is_newer; /* it has a required record that is not known here */
};
void manifest_deinit(struct manifest *m);
enum { MANIFEST_BYTES_MAX = 1 << 30 };

/* A schema as manifest and catalog have it, without the text of its options; and back (options are
 * NULL then).  False: it makes no sense. */
struct disk_schema disk_schema_of(const struct schema *schema);
MUST_CHECK bool disk_schema_read(const struct disk_schema *s, struct schema *schema);

/* Append the manifest of the file as it is now to *out, padded to whole blocks; *sums_at is where
 * the checksums of REGION_SUMS' blocks go (sums_count words, zero for now): fill them in, then
 * superblock_make().  `index`: the record of that name; NULL or empty: none.  Under the writer
 * lock. */
void manifest_encode(struct jvdb_file *f, const struct schema *schema,
                     const struct disk_counts *counts, const struct buf *index, uint64_t generation,
                     uint64_t lsn, struct buf *out, size_t *sums_at, size_t *sums_count);
/* Take the record "index" out of it again. */
void manifest_drop_index(struct buf *manifest);

/* A superblock for a manifest that lies at `manifest_at`; its bytes are final. */
struct disk_superblock superblock_make(const struct jvdb_file *f, const struct buf *manifest,
                                       uint64_t manifest_at, uint64_t file_bytes);

/* The newest intact superblock of an open file; *alike: both say the same.  ERR_CORRUPT: none;
 * ERR_QUARANTINED: of a newer format; others: it could not be read.  Never writes. */
MUST_CHECK enum err_code superblock_read(int fd, const char *file_name, struct disk_superblock *out,
                                         bool *alike, struct err *err);
/* Read the manifest that `sb` names; fills *m and the extents, space, sums and sizes of `f`, which
 * was just jvdb_file_init()ed; the shapes of its regions follow from the schema. */
MUST_CHECK enum err_code manifest_read(int fd, const struct disk_superblock *sb,
                                       struct jvdb_file *f, struct manifest *m, struct err *err);
/* Only the schema and the counts: for the catalog. */
MUST_CHECK enum err_code manifest_peek(int fd, const char *file_name,
                                       const struct disk_superblock *sb, struct manifest *m,
                                       struct err *err);

/* ---- for image.c, which reads files that may be damaged ---- */

uint32_t superblock_crc(const struct disk_superblock *sb);
/* What `sb->manifest_bytes` bytes say, if they make sense as the manifest of `sb`; no checksum is
 * compared here.  Fills *m and, of a zeroed `f`, the shapes, extent counts, space and sums;
 * `extents` get arrays (mem_free()) whatever the result.  `f` and `extents` may be NULL: only the
 * schema and the counts.  False: they make none, or m->is_newer. */
bool manifest_parse(const uint8_t *bytes, const struct disk_superblock *sb, struct jvdb_file *f,
                    uint64_t *extents[REGION_COUNT], struct manifest *m);

/* Give a closed file another uuid: a copy beside its original.  Durable when it returns; a stop in
 * between leaves the old uuid or the new one.  `sb` is what superblock_read() gave, and becomes the
 * new one. */
MUST_CHECK enum err_code manifest_stamp(int fd, const char *file_name, struct disk_superblock *sb,
                                        const uint8_t uuid[16], struct err *err);

#endif

/*
 * format.h - every byte that storage puts on disk.  docs/FORMAT.md draws it; this file is the law.
 *
 * All integers are little-endian and read in place, all structs are packed by hand, and the asserts
 * below trip whoever changes one: a change here is a new format version.
 */
#ifndef STORAGE_FORMAT_H
#define STORAGE_FORMAT_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the file formats are read and written in place, in little-endian order"
#endif

enum {
    FORMAT_VERSION = 2,
    BLOCK_BYTES = 4096,        /* unit of checksums, of dirty tracking and of extents */
    HEADER_BYTES = 64 * 1024,  /* size of an empty database                           */
    SUPERBLOCK_COUNT = 2,      /* at 0 and BLOCK_BYTES                                */
    UNIT_BYTES_MIN = 16 * 1024 /* smallest extent of most regions (region.h)          */
};

/* ---- .jvdb ---- */

#define SUPERBLOCK_MAGIC "JVDB"

struct disk_superblock {
    char magic[4];
    uint32_t format_version;
    uint64_t features_compat;    /* unknown bits: go on                       */
    uint64_t features_ro_compat; /* unknown bits: read, but do not write      */
    uint64_t features_incompat;  /* unknown bits: hands off                   */
    uint8_t uuid[16];
    uint64_t generation; /* + 1 at every checkpoint; copy = generation % 2    */
    uint64_t lsn;        /* everything up to here is in this file             */
    uint64_t manifest_at;
    uint64_t manifest_bytes;
    uint64_t file_bytes; /* end of the last extent: the file is at least this */
    uint32_t manifest_crc;
    uint32_t reserved_flags; /* 0 */
    uint8_t reserved[BLOCK_BYTES - 4 - 96];
    uint32_t crc; /* of all bytes before it */
};
static_assert(sizeof(struct disk_superblock) == BLOCK_BYTES, "superblock");
static_assert(offsetof(struct disk_superblock, generation) == 48, "superblock");
static_assert(offsetof(struct disk_superblock, reserved_flags) == 92, "superblock");
static_assert(offsetof(struct disk_superblock, crc) == BLOCK_BYTES - 4, "superblock");

#define MANIFEST_MAGIC "JVMF"

/* The manifest: this head, then `record_count` named records, padded with zeros to whole blocks. */
struct disk_manifest {
    char magic[4];
    uint32_t record_count;
    uint8_t uuid[16];
    uint64_t generation;
    uint64_t lsn;
    uint64_t bytes; /* of head and records, without the padding */
};
static_assert(sizeof(struct disk_manifest) == 48, "manifest head");

enum { MANIFEST_REQUIRED = 1 }; /* flags: who does not know this record must not open the file */

struct disk_manifest_record {
    char name[16]; /* NUL-padded */
    uint32_t flags;
    uint32_t bytes; /* of the payload, which follows and is padded to 8 */
};
static_assert(sizeof(struct disk_manifest_record) == 24, "manifest record head");

/* record "schema" */
struct disk_schema {
    uint32_t dimension;
    uint32_t metric;
    uint32_t durability;
    uint32_t options_bytes; /* JSON text behind this struct */
    uint64_t initial_capacity;
    uint32_t index_kind;
    uint32_t quantization;
    uint32_t m;               /* 0: the default */
    uint32_t ef_construction; /* 0: the default */
};
static_assert(sizeof(struct disk_schema) == 40, "schema");

/* record "counts" */
struct disk_counts {
    uint64_t live_count;
    uint64_t dead_count;
    uint64_t next_id;       /* for rows without an id */
    uint64_t records_bytes; /* used part of the region */
    uint64_t garbage_bytes; /* of records that no live row needs */
    uint32_t slot_count;    /* slots ever used */
    uint32_t dead_first;    /* oldest dead slot + 1, 0: none; the chain is slot.next_dead */
    uint32_t dead_last;
    uint32_t index_root;   /* node + 1, 0: empty */
    uint32_t index_levels; /* 0: empty */
    uint32_t index_nodes;
};
static_assert(sizeof(struct disk_counts) == 64, "counts");

/* record "region", one per region; then extent_count offsets (uint64_t) */
struct disk_region {
    char name[16];
    uint32_t is_mutable;
    uint32_t extent_count;
    uint64_t cell_bytes;
    uint32_t unit_cells;
    uint32_t reserved;
};
static_assert(sizeof(struct disk_region) == 40, "region");

/* record "index", not required: what regions "codes" and "links" are part of.  Behind the struct
 * mean_count float32 (0 or the dimension), then slot numbers: pivot_count of entry points and
 * extra_count of nodes that nothing else leads to; then struct disk_index_run: aside_run_count of
 * rows that have no place in a graph and run_count of rows that are not linked; then step_count of
 * struct disk_index_effort. */
#define INDEX_RECORD "index"
struct disk_index {
    uint32_t codec; /* enum codec_kind */
    uint32_t degree;
    uint32_t ef_construction;
    uint32_t seed; /* of the checksums of cells and links */
    float gain;
    float reach2;
    uint32_t node_count;   /* slots below this may be part of it */
    uint32_t linked_count; /* that are */
    uint64_t reuse_lsn;    /* no link leads to rows that ended at this LSN or before */
    uint64_t effort_rows;  /* rows when the recall was measured; 0: it was not */
    uint32_t effort_queries;
    uint32_t step_count;
    uint32_t mean_count;
    uint32_t pivot_count;
    uint32_t extra_count;
    uint32_t aside_run_count;
    uint32_t run_count;
    uint32_t reserved;
};
static_assert(sizeof(struct disk_index) == 80, "index");

struct disk_index_run {
    uint32_t first, count; /* slots; ascending, apart from each other */
};
static_assert(sizeof(struct disk_index_run) == 8, "index run");

struct disk_index_effort {
    uint32_t ef;     /* candidates */
    float recall[3]; /* for the nearest 1, 10, 100 */
    float error[3];  /* standard errors of these   */
    uint32_t reserved;
};
static_assert(sizeof(struct disk_index_effort) == 32, "index effort");

/* record "sums": one CRC-32C (uint32_t) for each block of the region of block checksums */

/* Region "slots", 64 bytes each: everything about a row but its numbers and its metadata. */
struct slot {
    uint64_t key;   /* the integer id, or the first 8 bytes of a string id, big-endian        */
    uint64_t birth; /* LSN that made it visible; SLOT_NEVER while it is being filled          */
    uint64_t death; /* LSN that ended it; SLOT_NEVER while it lives                           */
    uint64_t expires_at_ms;
    uint64_t record_at; /* offset + 1 in region "records"; 0: no metadata and an integer id       */
    uint32_t text_bytes; /* length of a string id; 0: an integer id                               */
    uint32_t replaced;   /* slot + 1 that this one replaced under the same id, 0: none            */
    uint32_t next_dead;  /* slot + 1, see disk_counts.dead_first                                  */
    uint32_t generation; /* + 1 at every reuse                                                    */
    uint32_t row_crc;    /* CRC-32C of key, text_bytes and the vector's bytes                     */
    uint32_t replaced_generation; /* of the slot in `replaced` then: another one now means that it
                                     was used again                                              */
};
static_assert(sizeof(struct slot) == 64, "slot");
#define SLOT_NEVER UINT64_MAX

/* Region "records": bytes, append-only.  A record may straddle extents. */
struct disk_record {
    uint32_t crc; /* of its place (slot.record_at), of the rest of the head and of both texts */
    uint32_t text_bytes;
    uint32_t metadata_bytes;
    uint32_t reserved;
    uint64_t lsn;
    uint64_t predecessor; /* offset + 1 of the record it replaced for the same row, 0: none */
    /* then the string id, the metadata, and padding to 8 */
};
static_assert(sizeof(struct disk_record) == 32, "record");

/* Region "id_index": nodes of a B+tree with right links, one block each (id_index.c). */
struct index_entry {
    uint64_t key;     /* as slot.key                                    */
    uint64_t text_at; /* as slot.record_at, of a record with the full text; unused for integers */
    uint32_t ref;     /* leaf: slot; above: node                        */
    uint32_t text_bytes;
};
static_assert(sizeof(struct index_entry) == 24, "index entry");

enum { INDEX_NODE_ENTRIES = 168 };
struct index_node {
    uint32_t version; /* even; odd while a writer is at work (never on disk) */
    uint32_t count;
    uint32_t level;           /* 0: leaf */
    uint32_t right;           /* node + 1 of the next one on this level, 0: none */
    struct index_entry bound; /* every key here is less; unused without a right node */
    uint8_t reserved[24];
    struct index_entry entries[INDEX_NODE_ENTRIES];
};
static_assert(sizeof(struct index_node) == BLOCK_BYTES, "index node");
static_assert(offsetof(struct index_node, entries) == 64, "index node");

/* ---- .wal.N ---- */

#define WAL_MAGIC "JVWL"
enum { WAL_HEADER_BYTES = 512, WAL_PREALLOCATED_BYTES = 64 * 1024 };

/* Header of a segment, in its first sector; the records follow at WAL_HEADER_BYTES. */
struct disk_wal_header {
    char magic[4];
    uint32_t format_version;
    uint8_t uuid[16];
    uint64_t sequence;  /* of this segment, + 1 each; a later segment supersedes from its base on */
    uint64_t base_lsn;  /* its first record has this LSN; 0: prepared, not in use */
    uint64_t after_lsn; /* the last LSN before it: LSNs between the two were never given */
    uint64_t salt;
    uint32_t reserved;
    uint32_t crc; /* of all bytes before it */
};
static_assert(sizeof(struct disk_wal_header) == 64, "log header");

enum wal_type { WAL_ROWS = 1 }; /* others: refused */

struct disk_wal_record {
    uint32_t crc;   /* of the salt and of all bytes behind this field */
    uint32_t bytes; /* head and payload, without the padding to 8     */
    uint64_t lsn;
    uint64_t durable_lsn; /* everything up to here was on disk when this was appended */
    uint32_t previous_crc;
    uint16_t type;
    uint16_t flags;
    uint32_t op_count;
    uint32_t reserved;
};
static_assert(sizeof(struct disk_wal_record) == 40, "log record");

enum wal_op_kind { WAL_OP_PUT = 1, WAL_OP_DELETE = 2 };

/* WAL_ROWS: op_count of these; behind each WAL_OP_PUT its string id, metadata, padding to 8, and
 * the vector (dimension float32, padded to 8). */
struct disk_wal_op {
    uint32_t kind;
    uint32_t slot;
    uint64_t key;
    uint64_t expires_at_ms;
    uint64_t record_at; /* offset + 1 where its record goes in region "records", 0: none */
    uint32_t text_bytes;
    uint32_t metadata_bytes;
    uint32_t row_crc;
    uint32_t reserved;
};
static_assert(sizeof(struct disk_wal_op) == 48, "log operation");

/* ---- .ckpt ---- */

#define CKPT_MAGIC "JVCK"
struct disk_ckpt_header { /* one block, zero-padded; the blocks follow, then their numbers */
    char magic[4];
    uint32_t format_version;
    uint8_t uuid[16];
    uint64_t generation; /* of the file after this checkpoint */
    uint64_t lsn;
};
static_assert(sizeof(struct disk_ckpt_header) == 40, "checkpoint header");

struct disk_ckpt_footer {
    uint64_t block_count;
    uint64_t bytes; /* of the whole .ckpt */
    char magic[4];
    uint32_t crc; /* of all bytes before it */
};
static_assert(sizeof(struct disk_ckpt_footer) == 24, "checkpoint footer");

/* ---- .catalog ---- */

#define CATALOG_MAGIC "JVCT"
struct disk_catalog_header {
    char magic[4];
    uint32_t format_version;
};

enum { CATALOG_COUNTS_KNOWN = 1 }; /* flags: the counts and last_lsn are those of the file */
enum catalog_type {
    CATALOG_DATABASE = 1,
    CATALOG_DROPPED = 2, /* its files are being removed: none with this uuid counts any more */
    CATALOG_CLEAN = 3,
    CATALOG_IN_USE = 4,
    CATALOG_FORGOTTEN = 5 /* they are removed: a file with this uuid was put there since */
};

struct disk_catalog_record {
    uint32_t crc;   /* of all bytes behind this field */
    uint32_t bytes; /* of the whole record, a multiple of 8 */
    uint32_t type;
    uint32_t name_bytes;
    uint8_t uuid[16];
    uint64_t live_count;
    uint64_t dead_count;
    uint64_t file_bytes;
    uint64_t last_lsn;
    uint32_t flags;
    uint32_t format_version;   /* again, and here with a checksum */
    struct disk_schema schema; /* then the name, the options' text, and padding to 8 */
};
static_assert(sizeof(struct disk_catalog_record) == 112, "catalog record");

#endif

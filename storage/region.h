/*
 * region.h - where cell n of a region lies.
 *
 * A region is an array of equal cells (rows, slots, nodes, bytes) in extents.  A unit is the
 * smallest power of two of cells that fills UNIT_BYTES_MIN (or `unit_bytes_min` of the region).
 * Extents grow with the region, eight to each doubling, so that at most 1/8 is spare and a small
 * database is small:
 *
 *     units 0 .. 7            extents 0 .. 7       1 unit each
 *     units 2^k .. 2^(k+1)-1  8 extents each       2^(k-3) units each, for 3 <= k < 13
 *     units 8192 ..           from extent 88 on    1024 units each
 *
 * Extents are whole blocks.  Cells never straddle extents; byte regions are addressed by byte.
 *
 * The cells of the search index are as long as its codec and its degree want: their shapes are set
 * when there is an index, and there are no extents before.  Theirs are mapped one behind the other
 * (index_file.c), so they have no padding: a unit has 64 cells at least, whose bytes are a multiple
 * of 64.
 */
#ifndef STORAGE_REGION_H
#define STORAGE_REGION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "storage/format.h"

enum region_id {
    REGION_VECTORS,  /* immutable: float32 rows, each padded to 64 bytes         */
    REGION_RECORDS,  /* immutable: string ids and metadata, append-only          */
    REGION_SLOTS,    /* mutable: struct slot                                     */
    REGION_ID_INDEX, /* mutable: struct index_node                               */
    REGION_SUMS,  /* mutable: CRC-32C of each block of the file that belongs to a mutable region */
    REGION_CODES, /* of the search index: cells of codec.h; each proves itself  */
    REGION_LINKS, /* of the search index: struct graph_node of graph.h; likewise */
    REGION_COUNT
};
/* Is it part of the search index?  Such a region is written in place at any time, even where the
 * last checkpoint has something: what is torn then is found out, and made again. */
static inline bool region_is_index(enum region_id region)
{
    return region == REGION_CODES || region == REGION_LINKS;
}

struct region_shape {
    const char *name;
    bool is_mutable;
    uint64_t cell_bytes;
    uint32_t unit_cells; /* power of two */
    uint32_t unit_shift;
};

/* Fill `shapes` for a database of that dimension; those of the search index have no cells yet. */
void region_shapes(struct region_shape shapes[REGION_COUNT], uint32_t dimension);
enum { INDEX_CELL_BYTES_MAX = 1 << 19 };
/* Give a region of the search index cells of this size.  False: it is none that an index has. */
bool region_set_cell_bytes(struct region_shape *shape, uint64_t cell_bytes);

struct region_place {
    uint32_t extent;
    uint64_t offset; /* bytes from the start of the extent */
};
struct region_place region_place(const struct region_shape *shape, uint64_t cell);
/* Size of extent number `extent`: whole blocks. */
uint64_t region_extent_bytes(const struct region_shape *shape, uint32_t extent);
/* How many cells (from 0) the first `extent_count` extents hold. */
uint64_t region_capacity(const struct region_shape *shape, uint32_t extent_count);
/* Cells of the extent that holds `cell`, from `cell` to the extent's end: how far a run may go. */
uint64_t region_run(const struct region_shape *shape, uint64_t cell);

#endif

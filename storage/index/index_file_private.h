/* index_file_private.h - inside of index_file*.c: where the cells of a graph lie in the file. */
#ifndef STORAGE_INDEX_INDEX_FILE_PRIVATE_H
#define STORAGE_INDEX_INDEX_FILE_PRIVATE_H

#include "storage/base/bits.h"
#include "storage/base/guard.h"
#include "storage/index/index_file.h"
#include "storage/index/vector_index_private.h"

enum { INDEX_PIECE_BYTES = 1 << 20 }; /* read or written at a time */

static inline enum region_id index_part_region(int part)
{
    return part == PART_CODES ? REGION_CODES : REGION_LINKS;
}

static inline uint32_t index_part_bytes(const struct graph *g, int part)
{
    return part == PART_CODES ? g->codec.cell_bytes : g->link_bytes;
}

/* As they are now; under the writer lock, or nobody else knows the file. */
void index_parts_take(struct jvdb_file *f, struct index_part parts[PART_COUNT]);
void index_parts_free(struct index_part parts[PART_COUNT]);

static inline uint64_t index_part_capacity(const struct index_part *p)
{
    return region_capacity(&p->shape, p->extent_count);
}

/* Offset in the file. */
static inline uint64_t index_part_place(const struct index_part *p, uint32_t cell)
{
    struct region_place place = region_place(&p->shape, cell);
    return p->extents[place.extent] + place.offset;
}

/* How many cells from `cell` on, at most `most`, lie one behind the other in the file. */
static inline uint32_t index_part_run(const struct index_part *p, uint32_t cell, uint32_t most)
{
    uint64_t run = region_run(&p->shape, cell);
    return run < most ? (uint32_t)run : most;
}

/* The graph that searches use now, NULL: none; in an epoch section, or as owner. */
static inline struct graph *index_current_graph(struct vector_index *ix)
{
    if (atomic_load_explicit(&ix->lost, memory_order_acquire)) return NULL;
    return atomic_load_explicit(&ix->graph, memory_order_acquire);
}

static inline struct graph_arena *index_arena(struct graph *g)
{
    /* Pairs with graph_set_arena(). */
    return atomic_load_explicit(&g->arena, memory_order_acquire);
}

static inline bool index_is_linked(struct graph_node *n)
{
    /* Pairs with graph_store_links(). */
    return atomic_load_explicit(&n->head, memory_order_acquire) & NODE_LINKED;
}

/* ---- what is mapped ---- */

/* The owner of an arena that lies in the file. */
struct index_mapping {
    struct index_part parts[PART_COUNT];
    uint8_t *at[PART_COUNT];
    size_t bytes[PART_COUNT];
    struct guard *guards[PART_COUNT];
    uint64_t lsn;       /* of the checkpoint                              */
    uint64_t reuse_lsn; /* as in the record                               */
    uint64_t *unlinked; /* a bit for each slot that was pending, or aside */
};

/* Of an arena that is mapped; else NULL. */
struct index_mapping *index_mapping_of(const struct graph_arena *a);

#endif

/*
 * graph.h - a proximity graph over coded rows: approximate nearest neighbours in memory.
 *
 * One flat layer.  A node is a slot number; it has a code (codec.h) and at most `degree` links to
 * near nodes, chosen so that they point in different directions.  A search starts from the nearest
 * of some pivots and walks to ever nearer nodes.  The graph knows nothing of rows, snapshots or
 * filters' meaning: whoever searches compares what it finds with the rows themselves.
 *
 * LINKS ARE HINTS.  A missing or stale link can cost recall, never correctness.  They change in
 * place while readers read; node numbers are checked against the bounds of the array.
 *
 * Sources: incremental insertion and pruned neighbourhoods after Malkov and Yashunin (HNSW, 2016)
 * without the hierarchy (Munyampirwa et al., "Down with the hierarchy", 2024); the two passes of
 * pruning after Subramanya et al. (DiskANN/Vamana, NeurIPS 2019); repair after deletions after
 * Singh et al. (FreshDiskANN, 2021).
 *
 * THREADS.  Readers: any number, inside an epoch section (epoch.h), take no lock.  The OWNER is one
 * thread at a time (vector_index.c holds a lock): it grows, repairs and replaces.  LINKERS: any
 * number, while the owner waits for them; each node is encoded and linked by one of them.
 */
#ifndef STORAGE_INDEX_GRAPH_H
#define STORAGE_INDEX_GRAPH_H

#include "storage/index/codec.h"

/* Links of one node, link_bytes long, a multiple of 64. */
struct graph_node {
    _Atomic uint32_t head;    /* enum node_head */
    uint32_t check;           /* in a file only: graph_copy_node() */
    _Atomic uint32_t links[]; /* `degree` node numbers */
};
enum node_head {
    NODE_DEGREE = 0xff,  /* how many links there are */
    NODE_LOCKED = 0x100, /* a linker is changing them */
    NODE_LINKED = 0x200, /* it is part of the graph */
    NODE_TWIN = 0x400,   /* links[0] leads to the next of several equal nodes: graph_equal.c */
};

enum {
    GRAPH_GROUP_NODES = 32,      /* what the dirty bits stand for */
    GRAPH_NODES_MAX = INT32_MAX, /* the pool of a search has a mark of its own in their numbers */
};

/* Where codes and links lie.  Replaced as a whole by the owner; readers may go on with the old one.
 */
struct graph_arena {
    uint8_t *cells;               /* capacity * codec.cell_bytes  */
    uint8_t *nodes;               /* capacity * graph.link_bytes  */
    struct code_factors *factors; /* of each cell; NULL in a mapped file: they are in the cells */
    uint32_t capacity;            /* nodes                        */
    /* As it lies in a file: walked over, but nothing is linked or swept in it. */
    bool unchecked;
    void (*release)(struct graph_arena *arena); /* unmap and free; called when no reader is left */
    void *owner;                                /* for release */
    /* One bit for each group of nodes whose cells or links changed since they were written out: set
     * by linkers after the change, taken by whoever writes before it reads, with an exchange that
     * acquires.  Made and freed by graph.c, which carries them over. */
    _Atomic uint64_t *dirty_cells, *dirty_links;
};

/* Entry points: constant, replaced as a whole; one at least. */
struct graph_pivots {
    uint32_t chosen_at; /* linked nodes at that time */
    uint32_t count;
    uint32_t *nodes;
    uint8_t *cells; /* copies of their cells, one behind the other */
};

struct graph_options {
    enum codec_kind codec;
    uint32_t m;               /* degree = 2 m - 2; 0: 16      */
    uint32_t ef_construction; /* 0: 200                       */
    float gain;               /* 0: 1; codec_init() */
    const float *mean;        /* `dimension`; codec_init() */
    uint32_t seed;            /* codec.seed; 0: a random one */
};

struct graph {
    struct codec codec;
    uint32_t degree;
    uint32_t link_bytes;
    uint32_t ef_construction;
    _Atomic(struct graph_arena *) arena;
    _Atomic(struct graph_pivots *) pivots; /* NULL: none, there is no way into the graph */
    _Atomic uint32_t node_count;           /* nodes below this may be part of the graph */
    _Atomic uint32_t linked_count;         /* that are */
};

/* An empty graph without room.  ERR_NOMEM. */
MUST_CHECK enum err_code graph_new(enum metric metric, uint32_t dimension,
                                   const struct graph_options *options, struct graph **out,
                                   struct err *err);
void graph_free(struct graph *g); /* no reader is left; NULL is fine */

/* Owner: have room for so many nodes, in memory of huge pages if the system has them; what is there
 * is copied, and the old arena released when the last reader has left it.  ERR_NOMEM, for more than
 * GRAPH_NODES_MAX, too. */
MUST_CHECK enum err_code graph_reserve(struct graph *g, uint32_t nodes, struct err *err);
/* Room for so many nodes, in memory as above: zeros, to be filled and given to graph_set_arena(),
 * or to graph_arena_free().  NULL: out of memory. */
struct graph_arena *graph_arena_new(const struct graph *g, uint32_t nodes);
void graph_arena_free(struct graph_arena *arena);
/* Owner: the same contents in another place (mapped from a file, for one).  Takes the arena; if it
 * has room for factors, they are filled in. */
MUST_CHECK enum err_code graph_set_arena(struct graph *g, struct graph_arena *arena,
                                         struct err *err);
/* The memory of codes, links and pivots in bytes; owner or reader. */
uint64_t graph_memory(const struct graph *g);

/* ---- building ---- */

/* Owner or linker: code a row.  The node must not be reachable: it is new, or it was swept.  False:
 * it has no place in the graph (codec_encode()). */
MUST_CHECK bool graph_encode(struct graph *g, uint32_t node, const float *row, uint32_t generation);

/* May `node` be linked to?  Dead rows should not be.  NULL: all may.  Called often. */
struct graph_liveness {
    bool (*is_alive)(void *ctx, uint32_t node);
    void *ctx;
};
/* Owner or linker: make an encoded node part of the graph; `ef` candidates (0: ef_construction).
 * Where all around it are dead, some of them get links to it, so that it is found through them
 * until they are swept.  False: out of memory, nothing has changed. */
MUST_CHECK bool graph_link(struct graph *g, uint32_t node, uint32_t ef,
                           const struct graph_liveness *alive);
/* Owner or linker: about where an encoded node lies, by the pivots nearest to it, in 32 bits. Nodes
 * that are linked in this order, one after the other, find most of what they are compared with in
 * the caches of the CPU.  There should be many nodes everywhere before: each will lead to others
 * that are there. */
uint32_t graph_place(struct graph *g, uint32_t node);
/* Owner: a dead node that no link leads to any more gives up its links.  Of an unchecked arena: any
 * node, while nobody searches yet. */
void graph_forget(struct graph *g, uint32_t node);

/* Owner: choose the entry points anew: a sample of the linked nodes whose bit in `live` (one for
 * each node below node_count, here and below) is set (NULL: of all), and `extra` nodes that nothing
 * else leads to.  About sqrt(n), 128 to 1024.  Out of memory: they stay. */
void graph_choose_pivots(struct graph *g, const uint64_t *live, const uint32_t *extra,
                         uint32_t extra_count);
/* Owner: these, which were chosen before; those outside of the arena are left out. */
void graph_set_pivots(struct graph *g, const uint32_t *nodes, uint32_t count);
/* True if there are too few of them for the nodes that there are now: cheap. */
bool graph_wants_pivots(const struct graph *g);

/* Owner, several threads on different ranges: replace links to nodes whose bit in `dead` is set by
 * links to what those led to, through more dead ones if need be, for nodes first .. end-1.
 * `thorough` prunes anew: slower, no drift.
 * Returns the lists that changed. */
uint32_t graph_sweep(struct graph *g, const uint64_t *dead, uint32_t first, uint32_t end,
                     bool thorough);

/* Owner: the live linked nodes that a walk from the pivots does not reach, at most `max` of them.
 * `live` as above. */
MUST_CHECK enum err_code graph_unreachable(struct graph *g, const uint64_t *live, uint32_t *nodes,
                                           uint32_t max, uint32_t *count, struct err *err);

/* Owner or linker: a node that a search meets does not lead to `to`, which it was to find.  The
 * first of `from` (nodes that it does meet, live, nearest first) that has room gets a link to `to`;
 * if none has, the nearest one gives up its farthest link for it.  Returns what that link led to;
 * UINT32_MAX: none was given up. */
uint32_t graph_lead_to(struct graph *g, const uint32_t *from, uint32_t count, uint32_t to);

/* ---- searching ---- */

struct graph_query {
    const float *vector;
    uint32_t ef; /* candidates, 1 .. 32768 */
    /* A bit for each of `allowed_nodes` nodes that may be a candidate; NULL: all.  Others are
     * walked through, but are no results. */
    const uint64_t *allowed;
    uint32_t allowed_nodes;
    const uint32_t *seeds; /* allowed nodes to start from as well */
    uint32_t seed_count;
    /* With `allowed`: nodes that are kept in view on the way, whether they may be candidates or
     * not; 0: four times ef.  About ef divided by the share that is allowed are met. */
    uint32_t frontier;
    /* With `allowed`: the nearest nodes of both kinds whose links are followed whatever is found;
     * at most as many as the frontier holds.  What an unfiltered walk would take: where nearly all
     * may be candidates, ef of them come early. */
    uint32_t explore;
    uint64_t distances_max; /* give up after so many; 0: no limit */
    uint32_t hidden;        /* a node that is taken for not being there; UINT32_MAX: none */
    /* Nodes with codes that may be candidates although nothing may lead to them yet: all are
     * compared.  With `allowed` their bits must not be set. */
    const uint32_t *loose;
    uint32_t loose_count;
};

/* Candidates, nearest first by navigation distance; they lie in memory of the calling thread and
 * are overwritten by its next call of a function that takes a graph. */
struct graph_found {
    const uint32_t *nodes;
    const float *distances;
    uint32_t count;
    bool gave_up; /* distances_max was reached */
    /* So many nodes that may not be candidates are nearer than those that were found that the walk
     * lost sight of some, and perhaps of the way to better ones. */
    bool lost_sight;
    uint64_t visited, distances_computed;
};

/* Walk the graph.  ERR_NOMEM. */
MUST_CHECK enum err_code graph_search(struct graph *g, const struct graph_query *q,
                                      struct graph_found *found, struct err *err);

/* Compare codes one by one: of the nodes whose bits are set in q->allowed, or of the `count` nodes
 * at `nodes` if that is not NULL; and those at q->loose; the q->ef nearest are found.  Numbers
 * outside of the arena are left out.  ERR_NOMEM. */
MUST_CHECK enum err_code graph_scan(struct graph *g, const struct graph_query *q,
                                    const uint32_t *nodes, uint32_t count,
                                    struct graph_found *found, struct err *err);

/* ---- keeping ---- */

static inline uint8_t *graph_cell(const struct graph *g, const struct graph_arena *a, uint32_t node)
{
    return a->cells + (size_t)node * g->codec.cell_bytes;
}

static inline struct graph_node *graph_node(const struct graph *g, const struct graph_arena *a,
                                            uint32_t node)
{
    return (struct graph_node *)(void *)(a->nodes + (size_t)node * g->link_bytes);
}

/* A consistent copy of the links of a node, link_bytes at `copy`, with a checksum over codec.seed,
 * node number, `generation` and links in `check`.  Any thread in an epoch section. */
void graph_copy_node(struct graph *g, uint32_t node, uint32_t generation, void *copy);
/* The same for links that are in no graph: make this copy good. */
void graph_seal_node(const struct graph *g, uint32_t node, uint32_t generation, void *copy);
/* Is it such a copy? */
bool graph_node_is_good(const struct graph *g, uint32_t node, uint32_t generation,
                        const void *copy);

#endif

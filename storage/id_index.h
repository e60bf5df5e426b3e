/*
 * id_index.h - from a vector's id to its newest slot, in id order.
 *
 * A B+tree over region "id_index", one node a block, with right links (Lehman and Yao, 1981): a
 * split moves keys to the right only, so a reader that came too late follows the link.  Each node
 * carries a version that is odd while the writer is at work; a reader copies or searches it and
 * looks at the version again.  So lookups and listings take no lock, and the tree opens with the
 * file: it is both the id map and the ordered index.
 *
 * Entries stay when their row dies (readers of older snapshots still come through them) until the
 * slot is reused.  Nodes are never given back; compaction will write a new tree.
 *
 * Threads: functions marked R inside an epoch section by anybody; the others by the writer.
 */
#ifndef STORAGE_ID_INDEX_H
#define STORAGE_ID_INDEX_H

#include "storage/jvdb_file.h"
#include "storage/types.h"

struct id_index {
    struct jvdb_file *file;
    _Atomic uint32_t root; /* node + 1; 0: empty */
    _Atomic bool writing;  /* some node's version is odd because of the writer */
    uint32_t levels;       /* the writer's */
    uint32_t nodes;
};

struct index_key {
    uint64_t key;
    const char *text; /* of string ids */
    uint32_t text_bytes;
};
struct index_key index_key_of(const struct vector_id *id);

enum index_result { INDEX_MISSING, INDEX_FOUND, INDEX_DAMAGED };

/* R: the slot of a key. */
enum index_result id_index_find(struct id_index *ix, const struct index_key *key, uint32_t *slot);

/* R: up to INDEX_NODE_ENTRIES entries with a key greater than `after` (NULL: from the start), in
 * order, of one leaf.  *next is the leaf to go on with (node + 1; 0: the end).  Start with
 * *leaf == 0; go on with `after` NULL and *leaf = *next. */
enum index_result id_index_scan(struct id_index *ix, const struct index_key *after, uint32_t leaf,
                                struct index_entry entries[INDEX_NODE_ENTRIES], uint32_t *count,
                                uint32_t *next);

/* R: no more nodes than these exist: who has followed more links than that goes in circles. */
uint64_t id_index_nodes_max(struct id_index *ix);

/* How many nodes the region must have room for before `count` keys are put. */
uint64_t id_index_nodes_needed(const struct id_index *ix, uint64_t count);
/* Point `key` to `slot`.  INDEX_FOUND: it existed and *old is what it pointed to.  The region has
 * room (id_index_nodes_needed()). */
enum index_result id_index_put(struct id_index *ix, const struct index_key *key, uint64_t text_at,
                               uint32_t slot, uint32_t *old);
/* Remove `key` if it points to `slot`. */
enum index_result id_index_remove(struct id_index *ix, const struct index_key *key, uint32_t slot);

#endif

#include "storage/id_index.h"

#include <sched.h>
#include <string.h>

#include "storage/records.h"

enum {
    LEVELS_MAX = 12,    /* 84^12 keys */
    SPINS_BUSY_MAX = 64 /* then the writer that is waited for gets the processor */
};

/* Readers and the writer meet in nodes: every field is read with acquire and written with release,
 * which is free on x86-64 and keeps the version check honest: nothing read before the second look
 * at the version can move behind it, nothing written before the first mark can move before it. */
#define GET(field)        __atomic_load_n(&(field), __ATOMIC_ACQUIRE)
#define SET(field, value) __atomic_store_n(&(field), (value), __ATOMIC_RELEASE)

struct index_key index_key_of(const struct vector_id *id)
{
    if (!id->text) return (struct index_key){.key = id->number};
    uint64_t key = 0;
    for (uint32_t i = 0; i < 8; i++)
        key = key << 8 | (i < id->text_bytes ? (unsigned char)id->text[i] : 0);
    return (struct index_key){.key = key, .text = id->text, .text_bytes = id->text_bytes};
}

static struct index_entry entry_get(const struct index_entry *from)
{
    return (struct index_entry){
        .key = GET(from->key),
        .text_at = GET(from->text_at),
        .ref = GET(from->ref),
        .text_bytes = GET(from->text_bytes),
    };
}

static void entry_set(struct index_entry *to, const struct index_entry *from)
{
    SET(to->key, from->key);
    SET(to->text_at, from->text_at);
    SET(to->ref, from->ref);
    SET(to->text_bytes, from->text_bytes);
}

/* key <=> entry.  Integers before strings; the first 8 bytes of a string decide mostly.  A damaged
 * or torn text sets *damaged; a torn one is noticed by the version. */
static int compare(struct id_index *ix, const struct index_key *key, const struct index_entry *e,
                   bool *damaged)
{
    if ((key->text_bytes == 0) != (e->text_bytes == 0)) return key->text_bytes == 0 ? -1 : 1;
    if (key->key != e->key) return key->key < e->key ? -1 : 1;
    if (key->text_bytes <= 8 && e->text_bytes <= 8)
        return key->text_bytes < e->text_bytes ? -1 : key->text_bytes > e->text_bytes;

    char copy[ID_BYTES_MAX];
    const char *text = records_text(ix->file, e->text_at, e->text_bytes, copy);
    if (!text) {
        *damaged = true;
        return 0;
    }
    uint32_t common = key->text_bytes < e->text_bytes ? key->text_bytes : e->text_bytes;
    int order = memcmp(key->text, text, common);
    if (order) return order;
    return key->text_bytes < e->text_bytes ? -1 : key->text_bytes > e->text_bytes;
}

/* How many entries are less than `key`, or with `or_equal` not greater. */
static uint32_t rank(struct id_index *ix, const struct index_node *node, uint32_t count,
                     const struct index_key *key, bool or_equal, bool *damaged)
{
    uint32_t low = 0, high = count;
    while (low < high && !*damaged) {
        uint32_t mid = (low + high) / 2;
        struct index_entry e = entry_get(&node->entries[mid]);
        int order = compare(ix, key, &e, damaged);
        if (order > 0 || (order == 0 && or_equal))
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

/* One look at a node, valid if the version did not move. */
struct look {
    uint32_t version, count, level, right;
};

/* Waits for a writer that is at work on the node.  False: nobody is, so the odd version came with a
 * damaged file.  That is sure: the writer sets `writing` before it makes a version odd, and clears
 * it after it made it even; who saw the one and then the other would see another version. */
static bool look_begin(struct id_index *ix, const struct index_node *node, struct look *l)
{
    for (unsigned spins = 0; (l->version = GET(node->version)) & 1; spins++) {
        if (!atomic_load_explicit(&ix->writing, memory_order_acquire) &&
            GET(node->version) == l->version)
            return false;
        if (spins >= SPINS_BUSY_MAX) sched_yield();
    }
    l->count = GET(node->count);
    l->level = GET(node->level);
    l->right = GET(node->right);
    return true;
}

static bool look_end(const struct index_node *node, const struct look *l)
{
    return GET(node->version) == l->version;
}

/* Bounds of what a file may claim; the checksum makes this rare, a forged one possible. */
static bool look_sane(const struct look *l)
{
    return l->count <= INDEX_NODE_ENTRIES && l->level < LEVELS_MAX;
}

static const struct index_node *node_read(struct id_index *ix, uint32_t node)
{
    return jvdb_file_read(ix->file, REGION_ID_INDEX, node);
}

uint64_t id_index_nodes_max(struct id_index *ix)
{
    return region_capacity(
        &ix->file->shapes[REGION_ID_INDEX],
        atomic_load_explicit(&ix->file->extent_count[REGION_ID_INDEX], memory_order_acquire));
}

/* Descend to the leaf where `key` belongs (NULL: the first leaf) and run at the leaf:
 * *position = rank(key).  `entry` gets the entry before (or_equal) or at the position. */
static enum index_result descend(struct id_index *ix, const struct index_key *key,
                                 const struct index_node **leaf, struct look *at)
{
    uint32_t ref = atomic_load_explicit(&ix->root, memory_order_acquire);
    uint32_t level_above = LEVELS_MAX;
    uint64_t hops = 0;
    if (ref == 0) return INDEX_MISSING;
    ref--;
    for (;;) {
        const struct index_node *node = node_read(ix, ref);
        struct look l;
        if (!node || !look_begin(ix, node, &l)) return INDEX_DAMAGED;
        if (!look_sane(&l)) {
            if (look_end(node, &l)) return INDEX_DAMAGED;
            continue;
        }
        bool damaged = false;
        uint32_t next;
        bool to_right = false;
        if (key && l.right) {
            struct index_entry bound = entry_get(&node->bound);
            to_right = compare(ix, key, &bound, &damaged) >= 0;
        }
        if (to_right) {
            next = l.right - 1;
        } else if (l.level == 0) {
            if (damaged) {
                if (look_end(node, &l)) return INDEX_DAMAGED;
                continue;
            }
            *leaf = node;
            *at = l;
            if (!look_end(node, &l)) continue;
            return INDEX_FOUND;
        } else {
            /* The first separator stands for "everything less". */
            uint32_t i = key ? rank(ix, node, l.count, key, true, &damaged) : 0;
            next = GET(node->entries[i ? i - 1 : 0].ref);
            if (l.count == 0) damaged = true;
        }
        if (!look_end(node, &l)) continue;
        if (damaged) return INDEX_DAMAGED;
        if (!to_right) {
            if (l.level >= level_above) return INDEX_DAMAGED;
            level_above = l.level;
        }
        if (++hops > id_index_nodes_max(ix)) return INDEX_DAMAGED; /* right links in a circle */
        ref = next;
    }
}

enum index_result id_index_find(struct id_index *ix, const struct index_key *key, uint32_t *slot)
{
    for (;;) {
        const struct index_node *leaf;
        struct look l;
        enum index_result found = descend(ix, key, &leaf, &l);
        if (found != INDEX_FOUND) return found;

        bool damaged = false;
        uint32_t i = rank(ix, leaf, l.count, key, false, &damaged);
        found = INDEX_MISSING;
        if (i < l.count && !damaged) {
            struct index_entry e = entry_get(&leaf->entries[i]);
            if (compare(ix, key, &e, &damaged) == 0) {
                *slot = e.ref;
                found = INDEX_FOUND;
            }
        }
        if (!look_end(leaf, &l)) continue; /* changed meanwhile, perhaps split: again */
        return damaged ? INDEX_DAMAGED : found;
    }
}

enum index_result id_index_scan(struct id_index *ix, const struct index_key *after, uint32_t leaf,
                                struct index_entry entries[INDEX_NODE_ENTRIES], uint32_t *count,
                                uint32_t *next)
{
    *count = 0;
    *next = 0;
    for (;;) {
        const struct index_node *node;
        struct look l;
        if (leaf == 0) {
            enum index_result found = descend(ix, after, &node, &l);
            if (found != INDEX_FOUND) return found;
        } else {
            node = node_read(ix, leaf - 1);
            if (!node || !look_begin(ix, node, &l)) return INDEX_DAMAGED;
            if (!look_sane(&l) || l.level != 0) {
                if (look_end(node, &l)) return INDEX_DAMAGED;
                continue;
            }
        }
        bool damaged = false;
        uint32_t first = after && leaf == 0 ? rank(ix, node, l.count, after, true, &damaged) : 0;
        uint32_t n = 0;
        for (uint32_t i = first; i < l.count; i++)
            entries[n++] = entry_get(&node->entries[i]);
        if (!look_end(node, &l)) continue;
        if (damaged) return INDEX_DAMAGED;
        *count = n;
        *next = l.right;
        return INDEX_FOUND;
    }
}

/* ---- the writer ---- */

uint64_t id_index_nodes_needed(const struct id_index *ix, uint64_t count)
{
    /* Level by level: a node splits when it is full, and each split makes room for half a node.  So
     * no more nodes split than there are, plus one for each half node of what is put in; each adds
     * one entry to the level above.  All but two nodes of a level are at least half full. */
    const uint64_t half = INDEX_NODE_ENTRIES / 2;
    uint64_t needed = ix->nodes, entries = count, there = ix->nodes;
    for (uint32_t level = 0; level < ix->levels; level++) {
        entries = (entries < there ? entries : there) + entries / half;
        needed += entries;
        there = there / half + 2;
    }
    /* New levels over the root. */
    do {
        entries = entries / half + 1;
        needed += entries;
    } while (entries > 1);
    return needed;
}

static struct index_node *node_change(struct id_index *ix, uint32_t node)
{
    return jvdb_file_change(ix->file, REGION_ID_INDEX, node);
}

static void change_begin(struct id_index *ix, struct index_node *n)
{
    atomic_store_explicit(&ix->writing, true, memory_order_relaxed); /* see look_begin() */
    SET(n->version, n->version + 1);
}
static void change_end(struct id_index *ix, struct index_node *n)
{
    SET(n->version, n->version + 1);
    atomic_store_explicit(&ix->writing, false, memory_order_release);
}

/* Nobody can reach a new node before its link is stored: no version dance. */
static struct index_node *node_new(struct id_index *ix, uint32_t level, uint32_t *number)
{
    *number = ix->nodes;
    struct index_node *n = node_change(ix, *number);
    if (!n) return NULL;
    ix->nodes++;
    SET(n->level, level);
    SET(n->count, 0);
    SET(n->right, 0);
    return n;
}

static void insert_at(struct id_index *ix, struct index_node *n, uint32_t position,
                      const struct index_entry *e)
{
    change_begin(ix, n);
    for (uint32_t i = n->count; i > position; i--)
        entry_set(&n->entries[i], &n->entries[i - 1]);
    entry_set(&n->entries[position], e);
    SET(n->count, n->count + 1);
    change_end(ix, n);
}

struct path {
    uint32_t node[LEVELS_MAX];     /* [level] */
    uint32_t position[LEVELS_MAX]; /* where the next entry goes on that level */
};

static enum index_result find_path(struct id_index *ix, const struct index_key *key,
                                   struct path *path)
{
    uint32_t ref = atomic_load_explicit(&ix->root, memory_order_relaxed) - 1;
    for (uint32_t level = ix->levels; level-- > 0;) {
        const struct index_node *n = node_read(ix, ref);
        bool damaged = !n || n->level != level || n->count > INDEX_NODE_ENTRIES || n->version & 1;
        if (damaged) return INDEX_DAMAGED;
        uint32_t i = rank(ix, n, n->count, key, level > 0, &damaged);
        if (damaged || (level > 0 && n->count == 0)) return INDEX_DAMAGED;
        path->node[level] = ref;
        path->position[level] = i;
        if (level > 0) ref = n->entries[i ? i - 1 : 0].ref;
    }
    return INDEX_FOUND;
}

static enum index_result insert(struct id_index *ix, struct path *path, uint32_t level,
                                struct index_entry e)
{
    for (;; level++) {
        if (level == ix->levels) { /* a new root over the old one */
            uint32_t number, old_root = atomic_load_explicit(&ix->root, memory_order_relaxed);
            struct index_node *root = node_new(ix, level, &number);
            if (!root || level + 1 >= LEVELS_MAX) return INDEX_DAMAGED;
            struct index_entry first = {.ref = old_root - 1};
            if (level > 0) insert_at(ix, root, 0, &first);
            insert_at(ix, root, level > 0 ? 1 : 0, &e);
            ix->levels++;
            atomic_store_explicit(&ix->root, number + 1, memory_order_release);
            return INDEX_FOUND;
        }
        uint32_t left_number = path->node[level], position = path->position[level];
        struct index_node *left = node_change(ix, left_number);
        /* A forged count of nodes makes new ones of nodes that are in use, of those of the path
         * even: then what was read of them on the way down is not true any more. */
        if (!left || left->level != level || position > left->count) return INDEX_DAMAGED;
        if (left->count < INDEX_NODE_ENTRIES) {
            insert_at(ix, left, position, &e);
            return INDEX_FOUND;
        }
        /* Split.  Ascending ids come at the right edge: leave the left node full. */
        bool at_edge = !left->right && position == left->count;
        uint32_t keep = at_edge ? left->count : left->count / 2, number;
        struct index_node *right = ix->nodes != left_number ? node_new(ix, level, &number) : NULL;
        if (!right) return INDEX_DAMAGED;
        for (uint32_t i = keep; i < left->count; i++)
            entry_set(&right->entries[i - keep], &left->entries[i]);
        SET(right->count, left->count - keep);
        SET(right->right, left->right);
        entry_set(&right->bound, &left->bound);
        if (position >= keep) insert_at(ix, right, position - keep, &e);

        change_begin(ix, left);
        entry_set(&left->bound, &right->entries[0]);
        SET(left->right, number + 1);
        SET(left->count, keep);
        change_end(ix, left);
        if (position < keep) insert_at(ix, left, position, &e);

        e = right->entries[0]; /* the separator for the level above */
        e.ref = number;
    }
}

enum index_result id_index_put(struct id_index *ix, const struct index_key *key, uint64_t text_at,
                               uint32_t slot, uint32_t *old)
{
    struct path path;
    enum index_result found = find_path(ix, key, &path);
    if (found != INDEX_FOUND) return found;

    if (ix->levels > 0) {
        const struct index_node *leaf = node_read(ix, path.node[0]);
        bool damaged = false;
        uint32_t i = path.position[0];
        if (i < leaf->count && compare(ix, key, &leaf->entries[i], &damaged) == 0 && !damaged) {
            *old = leaf->entries[i].ref;
            struct index_node *n = node_change(ix, path.node[0]);
            if (!n) return INDEX_DAMAGED;
            SET(n->entries[i].ref, slot); /* one word: no reader sees half of it */
            return INDEX_FOUND;
        }
        if (damaged) return INDEX_DAMAGED;
    }
    struct index_entry e = {
        .key = key->key, .text_at = text_at, .ref = slot, .text_bytes = key->text_bytes};
    return insert(ix, &path, 0, e) == INDEX_FOUND ? INDEX_MISSING : INDEX_DAMAGED;
}

enum index_result id_index_remove(struct id_index *ix, const struct index_key *key, uint32_t slot)
{
    struct path path;
    if (ix->levels == 0) return INDEX_MISSING;
    enum index_result found = find_path(ix, key, &path);
    if (found != INDEX_FOUND) return found;

    const struct index_node *leaf = node_read(ix, path.node[0]);
    bool damaged = false;
    uint32_t i = path.position[0];
    if (i >= leaf->count || compare(ix, key, &leaf->entries[i], &damaged) != 0)
        return INDEX_MISSING;
    if (damaged) return INDEX_DAMAGED;
    if (leaf->entries[i].ref != slot) return INDEX_MISSING;
    struct index_node *n = node_change(ix, path.node[0]);
    if (!n) return INDEX_DAMAGED;
    change_begin(ix, n);
    for (uint32_t k = i + 1; k < n->count; k++)
        entry_set(&n->entries[k - 1], &n->entries[k]);
    SET(n->count, n->count - 1);
    change_end(ix, n);
    return INDEX_FOUND;
}

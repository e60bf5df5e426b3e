/*
 * index_file.c - the graph as it lies in the file: map it, make an index of it.
 *
 * WHAT IS MAPPED may be anything: the file may have been damaged, and after a crash parts of it are
 * of a later moment than the record.  Those parts are no lies: links of a later moment lead to rows
 * that the log has, and they are pending again.  Until index_file_load() nothing is changed in it.
 *
 * Extents have no padding, so cells of one lie right behind those of the one before.  The mapping
 * is private, so what cannot be read is replaced by zeros (guard.h), and the index is lost then: it
 * is built anew, and searches are exact meanwhile.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "storage/base/log.h"
#include "storage/base/mem.h"
#include "storage/index/index_file_private.h"

enum {
    /* A part up to this size is read and not mapped: a process has only so many mappings. */
    READ_BYTES_MAX = 4 << 20,
};

static void release(struct graph_arena *arena)
{
    struct index_mapping *m = arena->owner;
    for (int p = 0; p < PART_COUNT; p++) {
        guard_remove(m->guards[p]);
        if (m->at[p]) munmap(m->at[p], m->bytes[p]);
    }
    index_parts_free(m->parts);
    mem_free(m->unlinked);
    mem_free(m);
    mem_free(arena);
}

struct index_mapping *index_mapping_of(const struct graph_arena *a)
{
    return a && a->release == release ? a->owner : NULL;
}

bool index_file_is_mapped(struct vector_index *ix)
{
    struct graph *g = index_current_graph(ix);
    return g && index_mapping_of(index_arena(g));
}

/* ---- mapping ---- */

/* Extents that lie one behind the other in the file are one mapping. */
static int map_extents(const struct index_part *p, int fd, uint8_t *at)
{
    for (uint32_t e = 0; e < p->extent_count;) {
        uint64_t first = p->extents[e], bytes = 0;
        while (e < p->extent_count && p->extents[e] == first + bytes)
            bytes += region_extent_bytes(&p->shape, e++);
        if (mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE | MAP_FIXED, fd,
                 (off_t)first) == MAP_FAILED)
            return errno;
        at += bytes;
    }
    return 0;
}

static int read_extents(const struct index_part *p, int fd, uint8_t *at)
{
    int os_errno = 0;
    for (uint32_t e = 0; e < p->extent_count && !os_errno; e++) {
        uint64_t bytes = region_extent_bytes(&p->shape, e);
        os_errno = file_read(fd, at, bytes, p->extents[e]);
        at += bytes;
    }
    return os_errno;
}

static int map_part(struct index_mapping *m, int part, int fd, _Atomic bool *lost)
{
    const struct index_part *p = &m->parts[part];
    size_t bytes = index_part_capacity(p) * p->shape.cell_bytes;
    bool may_map = BLOCK_BYTES % (size_t)sysconf(_SC_PAGESIZE) == 0;
    uint8_t *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) return errno;
    m->at[part] = at;
    m->bytes[part] = bytes;
    if (!may_map || bytes <= READ_BYTES_MAX) return read_extents(p, fd, at);
    int os_errno = map_extents(p, fd, at);
    if (os_errno) return os_errno;
    madvise(at, bytes, MADV_RANDOM);
    m->guards[part] = guard_add(at, bytes, true, lost);
    return 0;
}

static bool note_unlinked(struct index_mapping *m, const struct vector_index_state *state,
                          uint32_t slot_count)
{
    m->unlinked = bits_new(slot_count);
    if (!m->unlinked) return false;
    for (size_t i = 0; i < state->pending_count; i++)
        bits_add(m->unlinked, state->pending[i]);
    for (size_t i = 0; i < state->aside_count; i++)
        bits_add(m->unlinked, state->aside[i]);
    return true;
}

static enum err_code map_arena(struct store *store, int fd, const struct index_record *r,
                               uint32_t slot_count, struct graph_arena **out, struct err *err)
{
    struct graph_arena *a = mem_new(struct graph_arena);
    struct index_mapping *m = mem_new(struct index_mapping);
    a->owner = m;
    a->release = release;
    a->unchecked = true;
    m->lsn = store->file.checkpoint_lsn;
    m->reuse_lsn = r->state.reuse_lsn;
    index_parts_take(&store->file, m->parts);
    int os_errno = note_unlinked(m, &r->state, slot_count) ? 0 : ENOMEM;
    for (int p = 0; p < PART_COUNT && !os_errno; p++)
        os_errno = map_part(m, p, fd, &store->vectors->lost);
    if (os_errno) {
        release(a);
        return err_os(err, os_errno, "map it");
    }
    uint64_t capacity = index_part_capacity(&m->parts[PART_CODES]);
    uint64_t nodes = index_part_capacity(&m->parts[PART_LINKS]);
    if (nodes < capacity) capacity = nodes;
    a->cells = m->at[PART_CODES];
    a->nodes = m->at[PART_LINKS];
    a->capacity = capacity < UINT32_MAX ? (uint32_t)capacity : UINT32_MAX - 1;
    *out = a;
    return ERR_OK;
}

/* ---- open ---- */

static enum err_code open_graph(struct store *store, int fd, const struct schema *schema,
                                const struct index_record *r, uint32_t slot_count,
                                struct graph **out, struct err *err)
{
    struct graph *g = NULL;
    struct graph_arena *a = NULL;
    enum err_code rc = graph_new(schema->metric, schema->dimension, &r->options, &g, err);
    if (rc) return rc;
    if (!index_record_fits(r, g, &store->file))
        rc = err_set(err, ERR_CORRUPT, "its record does not fit its cells");
    if (!rc) rc = map_arena(store, fd, r, slot_count, &a, err);
    if (rc) goto out;
    atomic_store(g->codec.reach2, r->reach2);
    atomic_store(&g->node_count, r->node_count);
    atomic_store(&g->linked_count, r->linked_count);
    rc = graph_set_arena(g, a, err);
    if (rc) goto out;
    graph_set_pivots(g, r->pivots, (uint32_t)r->pivot_count);
    *out = g;
    g = NULL;
out:
    graph_free(g);
    return rc;
}

/* Nobody can see rows that had ended by the checkpoint.  And they cannot be read: before a crash
 * their slots may have been written to for rows of which the log knows nothing. */
static void drop_ended(struct store *store, struct vector_index_state *state)
{
    size_t kept = 0;
    for (size_t i = 0; i < state->pending_count; i++) {
        const struct slot *s = jvdb_file_read(&store->file, REGION_SLOTS, state->pending[i]);
        if (!s || s->death == SLOT_NEVER) state->pending[kept++] = state->pending[i];
    }
    state->pending_count = kept;
}

void index_file_open(struct store *store, const char *name, int fd, const struct schema *schema,
                     const struct manifest *m)
{
    struct index_record r;
    struct err err;
    uint32_t slot_count = m->counts.slot_count;
    if (!m->index || schema->index.kind == INDEX_FLAT) return;
    if (!index_record_decode(m->index, m->index_bytes, schema, slot_count, &r)) {
        log_warning("database \"%s\": the record of its search index makes no sense; the index is "
                    "built anew",
                    name);
        return;
    }
    if (open_graph(store, fd, schema, &r, slot_count, &r.state.graph, &err)) {
        log_warning("database \"%s\": its search index is built anew: %s", name, err.msg);
    } else {
        drop_ended(store, &r.state);
        vector_index_adopt(store->vectors, &r.state, store->file.checkpoint_lsn, slot_count);
    }
    /* Whatever comes now is more than the file has. */
    atomic_store(&store->saved_head, atomic_load(&store->vectors->head));
    atomic_store(&store->saved_seed, r.options.seed);
    index_record_deinit(&r);
}

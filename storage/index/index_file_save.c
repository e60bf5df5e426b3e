/*
 * index_file_save.c - write the graph out with a checkpoint.
 *
 * WHAT A RECORD CLAIMS: every row that is in it, and neither pending nor aside, has its code and
 * its links in the file.  A row leaves the pending after it was linked, and linking marks its
 * groups dirty; so the record is made first (index_file_fix()), and the dirty bits are taken then.
 * A node that is not linked when it is written leaves zeros: linking it makes its group dirty
 * again.
 *
 * A node that is linked is not encoded anew, and its slot is not used again, before a sweep has
 * removed the links to it and readers have left.  The copying is in epoch sections, so what was
 * linked at the beginning of one stays as it is but for its links, which have a lock.
 *
 * Of an arena that is mapped nothing is written: what is in the file is there, good or bad.
 */
#include <errno.h>
#include <string.h>

#include "storage/base/epoch.h"
#include "storage/base/log.h"
#include "storage/base/mem.h"
#include "storage/index/index_file_private.h"

enum { WRITE_BACK_BYTES = 8 << 20 }; /* written before the disk gets to see them */

/* ---- parts ---- */

void index_parts_take(struct jvdb_file *f, struct index_part parts[PART_COUNT])
{
    const struct jvdb_view *v = atomic_load_explicit(&f->view, memory_order_relaxed);
    for (int p = 0; p < PART_COUNT; p++) {
        enum region_id r = index_part_region(p);
        uint32_t count = atomic_load_explicit(&f->extent_count[r], memory_order_relaxed);
        parts[p] = (struct index_part){.shape = f->shapes[r], .extent_count = count};
        parts[p].extents = mem_zalloc(count * sizeof(uint64_t) + 1);
        if (count) memcpy(parts[p].extents, v->extents[r], count * sizeof(uint64_t));
    }
}

void index_parts_free(struct index_part parts[PART_COUNT])
{
    for (int p = 0; p < PART_COUNT; p++)
        mem_free(parts[p].extents);
}

/* ---- room ---- */

/* What the graph of now needs in the file. */
struct room {
    uint32_t seed; /* 0: there is no graph */
    uint32_t nodes;
    uint32_t cell_bytes[PART_COUNT];
};

static struct room room_of(struct graph *g)
{
    struct room room = {0};
    if (!g) return room;
    room.seed = g->codec.seed;
    room.nodes = atomic_load_explicit(&g->node_count, memory_order_acquire);
    for (int p = 0; p < PART_COUNT; p++)
        room.cell_bytes[p] = index_part_bytes(g, p);
    return room;
}

static struct room room_wanted(struct store *store)
{
    epoch_enter();
    struct room room = room_of(index_current_graph(store->vectors));
    epoch_leave();
    return room;
}

/* Cells of other sizes are of another graph. */
static void have_shapes(struct jvdb_file *f, const struct room *room)
{
    for (int p = 0; p < PART_COUNT; p++) {
        enum region_id r = index_part_region(p);
        if (f->shapes[r].cell_bytes != room->cell_bytes[p])
            jvdb_file_reshape(f, r, room->cell_bytes[p]);
    }
}

static void count_extents(struct jvdb_file *f, uint32_t extents[PART_COUNT])
{
    for (int p = 0; p < PART_COUNT; p++)
        extents[p] =
            atomic_load_explicit(&f->extent_count[index_part_region(p)], memory_order_relaxed);
}

/* So many extents on the way to enough room.  True in *done: there is. */
static enum err_code add_extents(struct jvdb_file *f, const struct room *room, uint32_t most,
                                 bool *done, struct err *err)
{
    *done = false;
    for (int p = 0; p < PART_COUNT; p++) {
        enum region_id r = index_part_region(p);
        for (;;) {
            uint32_t extents = atomic_load_explicit(&f->extent_count[r], memory_order_relaxed);
            uint64_t has = region_capacity(&f->shapes[r], extents);
            if (has >= room->nodes) break;
            if (most-- == 0) return ERR_OK;
            enum err_code rc = jvdb_file_grow(f, r, has + 1, err);
            if (rc) return rc;
        }
    }
    *done = true;
    return ERR_OK;
}

/* All of it or nothing: rows need the space more. */
static enum err_code have_room(struct jvdb_file *f, const struct room *room, struct err *err)
{
    uint32_t before[PART_COUNT];
    bool done = false;
    have_shapes(f, room);
    count_extents(f, before);
    enum err_code rc = add_extents(f, room, UINT32_MAX, &done, err);
    for (int p = 0; p < PART_COUNT && rc; p++)
        jvdb_file_shrink(f, index_part_region(p), before[p]);
    return rc;
}

void index_file_grow(struct database *db)
{
    enum { EXTENTS_A_TIME = 4 };
    struct store *store = db->store;
    struct jvdb_file *f = &store->file;
    struct room room = room_wanted(store);
    uint32_t before[PART_COUNT];
    struct err err;
    bool done = false;
    enum err_code rc = ERR_OK;
    if (room.seed == 0) return;
    mutex_lock(&db->writer);
    have_shapes(f, &room);
    count_extents(f, before);
    mutex_unlock(&db->writer);
    while (!done && !rc) {
        mutex_lock(&db->writer);
        rc = add_extents(f, &room, EXTENTS_A_TIME, &done, &err);
        for (int p = 0; p < PART_COUNT && rc; p++)
            jvdb_file_shrink(f, index_part_region(p), before[p]);
        mutex_unlock(&db->writer);
    }
    if (rc)
        log_debug("database \"%s\": no room for its search index in the file: %s", db->name,
                  err.msg);
}

/* ---- the record ---- */

/* True: the record is made, or there is none; else there is too little room by now. */
static bool make_record(struct store *store, struct index_save *save)
{
    struct vector_index_state state = {0};
    struct err err;
    bool fits = true;
    epoch_enter();
    uint64_t head = atomic_load_explicit(&store->vectors->head, memory_order_acquire);
    enum err_code rc = vector_index_export(store->vectors, &state, &err);
    struct room room = room_of(rc ? NULL : state.graph);
    if (room.seed == 0) goto out;
    index_parts_take(&store->file, save->parts);
    for (int p = 0; p < PART_COUNT; p++)
        fits = fits && save->parts[p].shape.cell_bytes == room.cell_bytes[p] &&
               index_part_capacity(&save->parts[p]) >= room.nodes;
    if (!fits) goto out;
    if (!index_record_encode(&state, store->counts.slot_count, &save->record)) {
        buf_free(&save->record);
        goto out;
    }
    save->seed = room.seed;
    save->node_count = room.nodes;
    save->head = head;
out:
    epoch_leave();
    vector_index_state_deinit(&state);
    return fits;
}

void index_file_fix(struct store *store, struct index_save *save)
{
    enum { TRIES = 4 }; /* linkers go on meanwhile, and another graph may come */
    struct err err;
    *save = (struct index_save){0};
    if (store->file.dir_fd < 0) return;
    for (int i = 0; i < TRIES; i++) {
        struct room room = room_wanted(store);
        if (room.seed == 0 || have_room(&store->file, &room, &err)) return;
        if (make_record(store, save)) return;
        index_file_end(save);
    }
}

void index_file_saved(struct store *store, const struct index_save *save, bool kept)
{
    atomic_store_explicit(&store->saved_head, save->head, memory_order_relaxed);
    atomic_store_explicit(&store->saved_seed, kept ? save->seed : 0, memory_order_relaxed);
}

void index_file_end(struct index_save *save)
{
    buf_free(&save->record);
    index_parts_free(save->parts);
    *save = (struct index_save){0};
}

/* ---- writing ---- */

/* Writes one part. */
struct saver {
    struct store *store;
    const struct index_save *save;
    int part;
    const struct index_part *cells;
    uint8_t *buffer;
    uint32_t room;                     /* cells that the buffer holds                       */
    uint32_t next;                     /* the node that comes next                          */
    uint32_t taken;                    /* nodes before this one are of a group that is ours */
    uint32_t first, held;              /* in the buffer                                     */
    uint64_t lowest, highest, written; /* not yet written back                              */
};

static _Atomic uint64_t *dirty_bits(const struct graph_arena *a, int part)
{
    return part == PART_CODES ? a->dirty_cells : a->dirty_links;
}

/* The first group from `group` on that is dirty; `groups`: there is none. */
static uint32_t next_dirty(_Atomic uint64_t *bits, uint32_t group, uint32_t groups)
{
    uint32_t word = group / 64;
    uint64_t rest = UINT64_MAX << group % 64;
    for (; word <= groups / 64; word++, rest = UINT64_MAX) {
        rest &= atomic_load_explicit(&bits[word], memory_order_relaxed);
        if (!rest) continue;
        uint32_t found = word * 64 + (uint32_t)__builtin_ctzll(rest);
        return found < groups ? found : groups;
    }
    return groups;
}

/* Go on to the next node that is to be written, and take its group.  False: it does not come right
 * behind what is held, or there is none. */
static bool take_next(struct saver *s, const struct graph_arena *a, uint32_t end)
{
    _Atomic uint64_t *bits = dirty_bits(a, s->part);
    if (s->next < s->taken) return true;
    uint32_t bound = end < a->capacity ? end : a->capacity;
    uint32_t groups = (bound + GRAPH_GROUP_NODES - 1) / GRAPH_GROUP_NODES;
    uint32_t group = next_dirty(bits, s->next / GRAPH_GROUP_NODES, groups);
    if (s->held && (group == groups || group * GRAPH_GROUP_NODES != s->next)) return false;
    s->next = group == groups ? end : group * GRAPH_GROUP_NODES;
    if (group == groups) return false;
    /* Pairs with graph_mark_dirty(): what was changed before is seen. */
    atomic_fetch_and_explicit(&bits[group / 64], ~(UINT64_C(1) << group % 64),
                              memory_order_acquire);
    s->taken = s->next + GRAPH_GROUP_NODES;
    return true;
}

static void copy_cell(struct saver *s, struct graph *g, const struct graph_arena *a, uint32_t node,
                      uint8_t *to)
{
    uint32_t bytes = index_part_bytes(g, s->part);
    bool linked = node < a->capacity && index_is_linked(graph_node(g, a, node));
    if (linked && s->part == PART_CODES) {
        memcpy(to, graph_cell(g, a, node), bytes);
        return;
    }
    const struct slot *slot = linked ? jvdb_file_read(&s->store->file, REGION_SLOTS, node) : NULL;
    if (slot)
        graph_copy_node(g, node, __atomic_load_n(&slot->generation, __ATOMIC_ACQUIRE), to);
    else
        memset(to, 0, bytes);
}

static bool same_graph(const struct saver *s, const struct graph *g)
{
    return g && g->codec.seed == s->save->seed;
}

/* Fill the buffer with what lies one behind the other.  False: there is another graph. */
static bool fill(struct saver *s, uint32_t end)
{
    epoch_enter();
    struct graph *g = index_current_graph(s->store->vectors);
    const bool same = same_graph(s, g);
    const struct graph_arena *a = same ? index_arena(g) : NULL;
    uint32_t most = s->room;
    s->held = 0;
    if (same && a->unchecked) s->next = end;
    for (; same && s->held < most && s->next < end && take_next(s, a, end); s->held++) {
        if (s->held == 0) {
            s->first = s->next;
            most = index_part_run(s->cells, s->first, s->room);
        }
        copy_cell(s, g, a, s->next, s->buffer + (size_t)s->held * s->cells->shape.cell_bytes);
        s->next++;
    }
    epoch_leave();
    return same;
}

/* What was taken is not written after all. */
static void mark_again(struct saver *s)
{
    epoch_enter();
    struct graph *g = index_current_graph(s->store->vectors);
    if (same_graph(s, g)) {
        const struct graph_arena *a = index_arena(g);
        _Atomic uint64_t *bits = dirty_bits(a, s->part);
        uint32_t end = s->taken > s->next ? s->taken : s->next;
        for (uint32_t n = s->held ? s->first : s->next; n < end && n < a->capacity; n++) {
            uint32_t group = n / GRAPH_GROUP_NODES;
            atomic_fetch_or_explicit(&bits[group / 64], UINT64_C(1) << group % 64,
                                     memory_order_relaxed);
        }
    }
    epoch_leave();
}

/* An errno of file_write_back() is one of a sync. */
static int write_held(struct saver *s, bool *sync_failed)
{
    int fd = s->store->file.fd;
    uint64_t bytes = (uint64_t)s->held * s->cells->shape.cell_bytes;
    uint64_t at = index_part_place(s->cells, s->first);
    int os_errno = file_write(fd, s->buffer, bytes, at);
    if (at < s->lowest) s->lowest = at;
    if (at + bytes > s->highest) s->highest = at + bytes;
    s->written += bytes;
    if (os_errno || s->written < WRITE_BACK_BYTES) return os_errno;
    os_errno = file_write_back(fd, s->lowest, s->highest);
    *sync_failed = os_errno != 0;
    s->lowest = UINT64_MAX;
    s->highest = s->written = 0;
    return os_errno;
}

static int write_part(struct store *store, const struct index_save *save, int part, uint8_t *buffer,
                      size_t buffer_bytes, bool *sync_failed)
{
    const struct index_part *cells = &save->parts[part];
    struct saver s = {.store = store,
                      .save = save,
                      .part = part,
                      .cells = cells,
                      .buffer = buffer,
                      .room = (uint32_t)(buffer_bytes / cells->shape.cell_bytes),
                      .lowest = UINT64_MAX};
    /* To the end of the last group: a bit that is taken stands for all of it. */
    uint64_t end = (uint64_t)save->node_count + GRAPH_GROUP_NODES - 1;
    end -= end % GRAPH_GROUP_NODES;
    if (end > index_part_capacity(cells)) end = index_part_capacity(cells);
    int os_errno = 0;
    while (!os_errno && s.next < end) {
        bool same = fill(&s, (uint32_t)end);
        if (s.held) os_errno = write_held(&s, sync_failed);
        if (!same) break; /* the record is of a graph that is no more, and is as good as it was */
    }
    if (os_errno) mark_again(&s);
    return os_errno;
}

int index_file_write(struct store *store, const struct index_save *save, bool *sync_failed)
{
    *sync_failed = false;
    if (save->record.len == 0) return 0;
    size_t bytes = INDEX_PIECE_BYTES;
    for (int p = 0; p < PART_COUNT; p++)
        if (save->parts[p].shape.cell_bytes > bytes) bytes = save->parts[p].shape.cell_bytes;
    uint8_t *buffer = mem_try(bytes);
    if (!buffer) return ENOMEM;
    int os_errno = 0;
    for (int p = 0; p < PART_COUNT && !os_errno; p++)
        os_errno = write_part(store, save, p, buffer, bytes, sync_failed);
    mem_free(buffer);
    return os_errno;
}

static void mark_dirty(const struct graph_arena *a, uint32_t node)
{
    uint32_t group = node / GRAPH_GROUP_NODES;
    for (int p = 0; p < PART_COUNT && node < a->capacity; p++)
        atomic_fetch_or_explicit(&dirty_bits(a, p)[group / 64], UINT64_C(1) << group % 64,
                                 memory_order_relaxed);
}

bool index_file_write_again(struct database *db, const uint32_t *slots, size_t count)
{
    epoch_enter();
    struct store *store = atomic_load_explicit(&db->store, memory_order_acquire);
    struct graph *g = index_current_graph(store->vectors);
    const struct graph_arena *a = g ? index_arena(g) : NULL;
    bool can = a && !a->unchecked;
    for (size_t i = 0; can && slots && i < count; i++)
        mark_dirty(a, slots[i]);
    uint32_t nodes = can ? atomic_load_explicit(&g->node_count, memory_order_acquire) : 0;
    for (uint32_t n = 0; can && !slots && n < nodes; n += GRAPH_GROUP_NODES)
        mark_dirty(a, n);
    epoch_leave();
    return can;
}

/* ---- is there something to do? ---- */

static bool has_dirty(const struct graph_arena *a)
{
    uint32_t groups = (a->capacity + GRAPH_GROUP_NODES - 1) / GRAPH_GROUP_NODES;
    for (int p = 0; p < PART_COUNT; p++)
        if (next_dirty(dirty_bits(a, p), 0, groups) < groups) return true;
    return false;
}

/* Of rows linked since the file was written, so many or more; 0: anything at all. */
static bool has_news(struct database *db, uint64_t rows)
{
    bool news = false;
    if (db->dir_fd < 0) return false;
    epoch_enter();
    struct store *store = atomic_load_explicit(&db->store, memory_order_acquire);
    struct graph *g = index_current_graph(store->vectors);
    const struct graph_arena *a = g ? index_arena(g) : NULL;
    if (a && !a->unchecked) {
        uint64_t head = atomic_load_explicit(&store->vectors->head, memory_order_acquire);
        uint64_t saved = atomic_load_explicit(&store->saved_head, memory_order_relaxed);
        uint32_t seed = atomic_load_explicit(&store->saved_seed, memory_order_relaxed);
        news =
            g->codec.seed != seed || (rows ? head - saved >= rows : head != saved || has_dirty(a));
    }
    epoch_leave();
    return news;
}

bool index_file_is_dirty(struct database *db)
{
    return has_news(db, 0);
}

bool index_file_is_due(struct database *db)
{
    enum { DUE_ROWS = 4096 }; /* half a second of linking, about */
    return has_news(db, DUE_ROWS);
}

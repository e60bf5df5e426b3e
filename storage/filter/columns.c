/*
 * columns.c - a list of columns that is replaced as a whole, and directories of their chunks.
 *
 * `mu` is held by whoever changes something; readers go through pointers.  What is taken out is
 * given back when every reader has left.
 */
#include "storage/filter/columns.h"

#include <stdatomic.h>
#include <string.h>

#include "storage/base/epoch.h"
#include "storage/base/lock.h"
#include "storage/base/mem.h"

enum {
    AUTOMATIC_MAX = 16,  /* columns that nobody asked for */
    COLUMNS_MAX = 80,    /* and those of METADATA_INDEXES_MAX fields */
    USES_KEPT = 32,      /* fields without a column whose use is counted */
    USES_ENOUGH = 3,     /* then it gets one, */
    ROWS_ENOUGH = 16384, /* or when so many rows were tried for it: some milliseconds */
    CHUNKS_MIN = 4,
    /* All columns together. */
    BYTES_MIN = 8 << 20,
    BYTES_PER_ROW = 512,
    /* Trying so many rows costs about what replacing a chunk does. */
    WORN_ROWS = 1024,
    WORN_ROWS_AT_ONCE = 256,
    FULL_USES = 1000, /* of columns, until it is tried again whether there is room */
};

struct place {
    _Atomic(struct column_chunk *) chunk;
    _Atomic uint32_t worn;
};

struct directory {
    uint32_t count;
    struct place places[];
};

struct column {
    /* Constant. */
    char path[METADATA_PATH_BYTES_MAX];
    size_t path_bytes;
    enum column_kind kind;

    _Atomic bool is_wanted;   /* the schema asks for it */
    _Atomic uint64_t used_at; /* columns.clock then */
    _Atomic uint64_t full_at; /* the same, when there was no room for a chunk of it; 0: never */
    _Atomic(struct directory *) directory;
    uint64_t bytes; /* under columns.mu */
};

struct list {
    uint32_t count;
    struct column *columns[];
};

struct use {
    char path[METADATA_PATH_BYTES_MAX];
    size_t path_bytes;
    enum column_kind kind;
    uint32_t times;
    uint64_t rows;
    uint64_t used_at;
};

struct columns {
    _Atomic(struct list *) list;
    _Atomic uint64_t clock; /* counts uses, for what was used longest ago */
    struct mutex mu;        /* LOCK_LEAF: what follows, and all changes */
    uint64_t bytes;
    struct use *uses; /* USES_KEPT; NULL until there is one */
};

#define LOAD(x)         atomic_load_explicit(&(x), memory_order_acquire)
#define STORE(x, value) atomic_store_explicit(&(x), (value), memory_order_release)

static uint64_t tick(struct columns *cs)
{
    return atomic_fetch_add_explicit(&cs->clock, 1, memory_order_relaxed) + 1;
}

struct columns *columns_new(void)
{
    struct columns *cs = mem_new(struct columns);
    mutex_init(&cs->mu, LOCK_LEAF);
    return cs;
}

static void column_free(void *column)
{
    struct column *c = column;
    struct directory *d = LOAD(c->directory);
    for (uint32_t i = 0; d && i < d->count; i++)
        column_chunk_free(LOAD(d->places[i].chunk));
    mem_free(d);
    mem_free(c);
}

void columns_free(struct columns *cs)
{
    if (!cs) return;
    struct list *list = LOAD(cs->list);
    for (uint32_t i = 0; list && i < list->count; i++)
        column_free(list->columns[i]);
    mem_free(list);
    mem_free(cs->uses);
    mutex_deinit(&cs->mu);
    mem_free(cs);
}

void columns_info(struct columns *cs, struct columns_info *info)
{
    *info = (struct columns_info){0};
    mutex_lock(&cs->mu);
    const struct list *list = LOAD(cs->list);
    info->bytes = cs->bytes;
    info->count = list ? list->count : 0;
    for (uint32_t i = 0; i < info->count; i++)
        info->automatic += !LOAD(list->columns[i]->is_wanted);
    mutex_unlock(&cs->mu);
}

/* ---- the list ---- */

/* What is to be freed when no reader can look at it any more: retired behind the lock, which is a
 * leaf. */
struct garbage {
    struct list *list;
    struct column *columns[COLUMNS_MAX];
    uint32_t count;
};

static void throw_away(const struct garbage *g)
{
    if (g->list) epoch_retire(mem_free, g->list);
    for (uint32_t i = 0; i < g->count; i++)
        epoch_retire(column_free, g->columns[i]);
}

static struct column *find(const struct columns *cs, const char *path, size_t path_bytes,
                           enum column_kind kind)
{
    const struct list *list = LOAD(cs->list);
    for (uint32_t i = 0; list && i < list->count; i++) {
        struct column *c = list->columns[i];
        if (c->kind == kind && c->path_bytes == path_bytes &&
            memcmp(c->path, path, path_bytes) == 0)
            return c;
    }
    return NULL;
}

/* Replace the list by one without `out` and with `in` (either may be NULL).  False: out of memory.
 * Under mu; once for each garbage. */
static bool change_list(struct columns *cs, struct column *in, const struct column *out,
                        struct garbage *g)
{
    struct list *old = LOAD(cs->list);
    uint32_t count = old ? old->count : 0;
    struct list *list = mem_try(sizeof *list + (count + 1) * sizeof list->columns[0]);
    if (!list) return false;
    list->count = 0;
    for (uint32_t i = 0; i < count; i++)
        if (old->columns[i] != out) list->columns[list->count++] = old->columns[i];
    if (in) list->columns[list->count++] = in;
    STORE(cs->list, list);
    g->list = old;
    return true;
}

/* The automatic column that was used longest ago, but not `except`; NULL: none. */
static struct column *least_used(const struct columns *cs, const struct column *except,
                                 uint32_t *automatic)
{
    const struct list *list = LOAD(cs->list);
    struct column *oldest = NULL;
    *automatic = 0;
    for (uint32_t i = 0; list && i < list->count; i++) {
        struct column *c = list->columns[i];
        if (LOAD(c->is_wanted)) continue;
        ++*automatic;
        if (c != except && (!oldest || LOAD(c->used_at) < LOAD(oldest->used_at))) oldest = c;
    }
    return oldest;
}

static struct column *column_new(const char *path, size_t path_bytes, enum column_kind kind,
                                 bool is_wanted)
{
    struct column *c = mem_try(sizeof *c);
    if (!c || path_bytes > sizeof c->path) {
        mem_free(c);
        return NULL;
    }
    memset((void *)c, 0, sizeof *c);
    memcpy(c->path, path, path_bytes);
    c->path_bytes = path_bytes;
    c->kind = kind;
    STORE(c->is_wanted, is_wanted);
    return c;
}

/* Have a column.  Under mu; NULL: out of memory, or there are too many. */
static struct column *add(struct columns *cs, const char *path, size_t path_bytes,
                          enum column_kind kind, bool is_wanted, struct garbage *g)
{
    struct column *c = find(cs, path, path_bytes, kind), *out = NULL;
    uint32_t automatic;
    if (c) {
        if (is_wanted) STORE(c->is_wanted, true);
        return c;
    }
    const struct list *list = LOAD(cs->list);
    struct column *oldest = least_used(cs, NULL, &automatic);
    if (automatic == AUTOMATIC_MAX && !is_wanted) out = oldest;
    if (list && list->count >= COLUMNS_MAX && !out) out = oldest;
    if (list && list->count >= COLUMNS_MAX && !out) return NULL;
    c = column_new(path, path_bytes, kind, is_wanted);
    if (!c) return NULL;
    STORE(c->used_at, tick(cs));
    if (!change_list(cs, c, out, g)) {
        mem_free(c);
        return NULL;
    }
    if (out) {
        cs->bytes -= out->bytes;
        g->columns[g->count++] = out;
    }
    return c;
}

struct column *columns_find(struct columns *cs, const char *path, size_t path_bytes,
                            enum column_kind kind, bool is_wanted)
{
    struct column *c = find(cs, path, path_bytes, kind);
    if (is_wanted && (!c || !LOAD(c->is_wanted))) {
        struct garbage g = {0};
        mutex_lock(&cs->mu);
        c = add(cs, path, path_bytes, kind, true, &g);
        mutex_unlock(&cs->mu);
        throw_away(&g);
    }
    if (c) STORE(c->used_at, tick(cs));
    return c;
}

void columns_inherit(struct columns *cs, const struct columns *from)
{
    const struct list *list = LOAD(from->list);
    for (uint32_t i = 0; list && i < list->count; i++) {
        const struct column *c = list->columns[i];
        struct garbage g = {0};
        mutex_lock(&cs->mu);
        (void)add(cs, c->path, c->path_bytes, c->kind, LOAD(c->is_wanted), &g);
        mutex_unlock(&cs->mu);
        throw_away(&g);
    }
}

/* ---- what is filtered on often ---- */

/* Where the field is counted: its own place, or that of the one used longest ago; NULL: out of
 * memory. */
static struct use *use_of(struct columns *cs, const char *path, size_t path_bytes,
                          enum column_kind kind)
{
    if (!cs->uses) {
        cs->uses = mem_try(USES_KEPT * sizeof *cs->uses);
        if (!cs->uses) return NULL;
        memset(cs->uses, 0, USES_KEPT * sizeof *cs->uses);
    }
    struct use *oldest = &cs->uses[0];
    for (uint32_t i = 0; i < USES_KEPT; i++) {
        struct use *u = &cs->uses[i];
        if (u->times && u->kind == kind && u->path_bytes == path_bytes &&
            memcmp(u->path, path, path_bytes) == 0)
            return u;
        if (u->used_at < oldest->used_at) oldest = u;
    }
    *oldest = (struct use){.path_bytes = path_bytes, .kind = kind};
    memcpy(oldest->path, path, path_bytes);
    return oldest;
}

void columns_note(struct columns *cs, const char *path, size_t path_bytes, enum column_kind kind,
                  uint64_t rows)
{
    struct garbage g = {0};
    if (path_bytes > METADATA_PATH_BYTES_MAX) return;
    mutex_lock(&cs->mu);
    struct use *u = use_of(cs, path, path_bytes, kind);
    if (u) {
        u->times++;
        u->rows += rows;
        u->used_at = tick(cs);
    }
    if (u && (u->times >= USES_ENOUGH || u->rows >= ROWS_ENOUGH)) {
        (void)add(cs, path, path_bytes, kind, false, &g);
        *u = (struct use){0};
    }
    mutex_unlock(&cs->mu);
    throw_away(&g);
}

/* ---- chunks ---- */

static struct place *find_place(const struct column *c, uint32_t number)
{
    struct directory *d = LOAD(c->directory);
    return d && number < d->count ? &d->places[number] : NULL;
}

const struct column_chunk *columns_chunk(const struct column *c, uint32_t number)
{
    const struct place *p = find_place(c, number);
    return p ? LOAD(p->chunk) : NULL;
}

bool columns_has_room(const struct columns *cs, const struct column *c)
{
    uint64_t full_at = LOAD(c->full_at);
    return !full_at || LOAD(cs->clock) > full_at + FULL_USES;
}

bool columns_wear(struct column *c, uint32_t number, uint64_t rows)
{
    struct place *p = find_place(c, number);
    if (!p || rows == 0) return false;
    uint32_t more = rows > WORN_ROWS_AT_ONCE ? WORN_ROWS : (uint32_t)rows;
    return atomic_fetch_add_explicit(&p->worn, more, memory_order_relaxed) + more >= WORN_ROWS;
}

/* Room for chunk `number`; false: out of memory.  Under mu. */
static bool directory_reserve(struct column *c, uint32_t number, struct directory **out)
{
    struct directory *old = LOAD(c->directory);
    *out = NULL;
    if (old && number < old->count) return true;
    uint32_t count = old ? old->count : CHUNKS_MIN;
    while (count <= number)
        count *= 2;
    struct directory *d = mem_try(sizeof *d + count * sizeof d->places[0]);
    if (!d) return false;
    d->count = count;
    for (uint32_t i = 0; i < count; i++) {
        bool is_old = old && i < old->count;
        atomic_init(&d->places[i].chunk, is_old ? LOAD(old->places[i].chunk) : NULL);
        atomic_init(&d->places[i].worn, is_old ? LOAD(old->places[i].worn) : 0);
    }
    STORE(c->directory, d);
    *out = old;
    return true;
}

/* Make room for `bytes` more by dropping automatic columns, at most one at a time; false: there is
 * none to drop.  Under mu. */
static bool make_room(struct columns *cs, const struct column *c, uint64_t bytes,
                      uint32_t slot_count, struct garbage *g)
{
    uint64_t most = BYTES_MIN + (uint64_t)BYTES_PER_ROW * slot_count;
    uint32_t automatic;
    if (cs->bytes + bytes <= most) return true;
    struct column *out = least_used(cs, c, &automatic);
    if (!out || !change_list(cs, NULL, out, g)) return false;
    cs->bytes -= out->bytes;
    g->columns[g->count++] = out;
    return cs->bytes + bytes <= most;
}

static bool is_listed(const struct columns *cs, const struct column *c)
{
    const struct list *list = LOAD(cs->list);
    for (uint32_t i = 0; list && i < list->count; i++)
        if (list->columns[i] == c) return true;
    return false;
}

void columns_publish(struct columns *cs, struct column *c, uint32_t number,
                     const struct column_chunk *old, struct column_chunk *chunk,
                     uint32_t slot_count)
{
    struct garbage g = {0};
    struct directory *old_directory = NULL;
    struct column_chunk *useless = chunk;
    mutex_lock(&cs->mu);
    uint64_t old_bytes = old ? column_chunk_bytes(old) : 0, bytes = column_chunk_bytes(chunk);
    bool is_newest = columns_chunk(c, number) == old && is_listed(cs, c);
    uint64_t more = bytes > old_bytes ? bytes - old_bytes : 0;
    bool fits = is_newest && make_room(cs, c, more, slot_count, &g) &&
                directory_reserve(c, number, &old_directory);
    if (is_newest) STORE(c->full_at, fits ? 0 : tick(cs));
    if (fits) {
        struct place *p = find_place(c, number);
        STORE(p->chunk, chunk);
        atomic_store_explicit(&p->worn, 0, memory_order_relaxed);
        c->bytes += bytes - old_bytes;
        cs->bytes += bytes - old_bytes;
        useless = (struct column_chunk *)(uintptr_t)old;
    }
    mutex_unlock(&cs->mu);
    if (useless) epoch_retire(column_chunk_free, useless);
    if (old_directory) epoch_retire(mem_free, old_directory);
    throw_away(&g);
}

/*
 * visibility.c - words that are right unless their group changed.
 *
 * For a row that is born or ends at LSN L the writer stores L in the group, then the new words
 * (release), then publishes L.  A reader of snapshot S < L loads the words (acquire), then the LSN:
 * if it has seen a new word it sees L > S, and looks at the slots.  If it sees an LSN <= S, the
 * words have nothing later than S, and everything up to S, which was stored before S was published.
 */
#include "storage/visibility.h"

#include <stdatomic.h>
#include <string.h>

#include "storage/base/epoch.h"
#include "storage/base/mem.h"
#include "storage/database_private.h"

enum { GROUP_SLOTS = 64, CHUNKS_MIN = 4 };
static_assert(GROUP_SLOTS * sizeof(struct slot) == BLOCK_BYTES, "a group is a block of slots");

struct chunk {
    _Atomic uint64_t live[CHUNK_WORDS];
    _Atomic uint64_t expiring[CHUNK_WORDS]; /* of the live ones */
    _Atomic uint64_t changed[CHUNK_WORDS];  /* LSN of the last birth or death */
    _Atomic uint64_t born[CHUNK_WORDS];     /* LSN of the last birth          */
    _Atomic uint64_t last_born;             /* the greatest of these          */
    _Atomic uint64_t last_changed;          /* the greatest of `changed`      */
};

/* Replaced by a longer one as a whole. */
struct directory {
    uint32_t count;
    _Atomic(struct chunk *) chunks[]; /* NULL: no words */
};

struct visibility {
    _Atomic(struct directory *) directory;
    _Atomic uint64_t bytes;
    _Atomic bool has_expiring; /* some chunk has, or had, a row that expires */
};

#define LOAD(x)                 atomic_load_explicit(&(x), memory_order_acquire)
#define LOAD_RELAXED(x)         atomic_load_explicit(&(x), memory_order_relaxed)
#define STORE(x, value)         atomic_store_explicit(&(x), (value), memory_order_release)
#define STORE_RELAXED(x, value) atomic_store_explicit(&(x), (value), memory_order_relaxed)

struct visibility *visibility_new(void)
{
    return mem_new(struct visibility);
}

void visibility_free(struct visibility *v)
{
    if (!v) return;
    struct directory *d = LOAD(v->directory);
    for (uint32_t i = 0; d && i < d->count; i++)
        mem_free(LOAD(d->chunks[i]));
    mem_free(d);
    mem_free(v);
}

uint64_t visibility_memory(const struct visibility *v)
{
    return LOAD_RELAXED(v->bytes);
}

static struct chunk *find_chunk(const struct visibility *v, uint32_t number)
{
    struct directory *d = LOAD(v->directory);
    return d && number < d->count ? LOAD(d->chunks[number]) : NULL;
}

/* ---- the writer ---- */

/* Room for chunk `number` in the directory; false: out of memory. */
static bool directory_reserve(struct visibility *v, uint32_t number)
{
    struct directory *old = LOAD_RELAXED(v->directory);
    if (old && number < old->count) return true;
    uint32_t count = old ? old->count : CHUNKS_MIN;
    while (count <= number)
        count *= 2;
    struct directory *d = mem_try(sizeof *d + count * sizeof d->chunks[0]);
    if (!d) return false;
    d->count = count;
    for (uint32_t i = 0; i < count; i++)
        atomic_init(&d->chunks[i], old && i < old->count ? LOAD_RELAXED(old->chunks[i]) : NULL);
    STORE(v->directory, d);
    if (old) epoch_retire(mem_free, old);
    return true;
}

/* A chunk without rows; NULL: out of memory, and the chunk stays without words. */
static struct chunk *chunk_new(struct visibility *v)
{
    struct chunk *c = mem_try(sizeof *c);
    if (!c) return NULL;
    memset((void *)c, 0, sizeof *c);
    STORE_RELAXED(v->bytes, LOAD_RELAXED(v->bytes) + sizeof *c);
    return c;
}

static void set_chunk(struct visibility *v, uint32_t number, struct chunk *c)
{
    STORE(LOAD_RELAXED(v->directory)->chunks[number], c);
}

/* LSNs do not ascend while a compaction fills its copy. */
static void raise(_Atomic uint64_t *lsn, uint64_t to)
{
    if (LOAD_RELAXED(*lsn) < to) STORE_RELAXED(*lsn, to);
}

void visibility_birth(struct visibility *v, uint32_t slot, uint32_t slot_count, uint64_t lsn,
                      bool expires)
{
    uint32_t number = slot / CHUNK_SLOTS, group = slot % CHUNK_SLOTS / GROUP_SLOTS;
    struct chunk *c = find_chunk(v, number);
    if (!c) {
        /* The first of a chunk, and the only one: nothing in the file is left out. */
        if (slot % CHUNK_SLOTS != 0 || slot + 1 != slot_count) return;
        c = directory_reserve(v, number) ? chunk_new(v) : NULL;
        if (!c) return;
        set_chunk(v, number, c);
    }
    uint64_t bit = UINT64_C(1) << slot % GROUP_SLOTS, expiring = LOAD_RELAXED(c->expiring[group]);
    raise(&c->changed[group], lsn);
    raise(&c->born[group], lsn);
    raise(&c->last_born, lsn);
    raise(&c->last_changed, lsn);
    if (expires) STORE_RELAXED(v->has_expiring, true);
    STORE(c->expiring[group], expires ? expiring | bit : expiring & ~bit);
    STORE(c->live[group], LOAD_RELAXED(c->live[group]) | bit);
}

void visibility_death(struct visibility *v, uint32_t slot, uint64_t lsn)
{
    uint32_t group = slot % CHUNK_SLOTS / GROUP_SLOTS;
    struct chunk *c = find_chunk(v, slot / CHUNK_SLOTS);
    if (!c) return;
    raise(&c->changed[group], lsn);
    raise(&c->last_changed, lsn);
    STORE(c->live[group], LOAD_RELAXED(c->live[group]) & ~(UINT64_C(1) << slot % GROUP_SLOTS));
}

/* ---- words for what was in the file ---- */

static uint32_t group_slots(uint32_t slot_count, uint32_t first)
{
    return slot_count - first < GROUP_SLOTS ? slot_count - first : GROUP_SLOTS;
}

/* Under `writer`. */
static bool fill_group(struct store *st, struct chunk *c, uint32_t group, uint32_t first)
{
    const struct slot *slots = jvdb_file_read(&st->file, REGION_SLOTS, first);
    if (!slots) return false;
    uint64_t live = 0, expiring = 0, changed = 0, born = 0;
    for (uint32_t i = 0; i < group_slots(st->counts.slot_count, first); i++) {
        const struct slot *s = &slots[i];
        if (s->birth == SLOT_NEVER) continue;
        if (s->birth > born) born = s->birth;
        if (s->death != SLOT_NEVER && s->death > changed) changed = s->death;
        live |= (uint64_t)(s->death == SLOT_NEVER) << i;
        expiring |= (uint64_t)(s->expires_at_ms != 0) << i;
    }
    STORE_RELAXED(c->expiring[group], expiring);
    STORE_RELAXED(c->born[group], born);
    STORE_RELAXED(c->changed[group], born > changed ? born : changed);
    STORE_RELAXED(c->live[group], live);
    raise(&c->last_born, born);
    raise(&c->last_changed, born > changed ? born : changed);
    if (expiring) STORE_RELAXED(st->visibility->has_expiring, true);
    return true;
}

static void track_chunk(struct database *db, struct store *st, uint32_t number)
{
    struct visibility *v = st->visibility;
    if (!mutex_trylock(&db->writer)) return;
    /* In another store than the newest, nobody writes any more: nobody will need it for long. */
    bool wanted = db->store == st && !find_chunk(v, number) && directory_reserve(v, number);
    struct chunk *c = wanted ? chunk_new(v) : NULL;
    bool good = c != NULL;
    for (uint32_t group = 0; group < CHUNK_WORDS && good; group++) {
        uint64_t first = (uint64_t)number * CHUNK_SLOTS + group * GROUP_SLOTS;
        if (first >= st->counts.slot_count) break;
        good = fill_group(st, c, group, (uint32_t)first);
    }
    if (good) {
        set_chunk(v, number, c);
    } else if (c) {
        STORE_RELAXED(v->bytes, LOAD_RELAXED(v->bytes) - sizeof *c);
        mem_free(c);
    }
    mutex_unlock(&db->writer);
}

void visibility_track(struct reader *r)
{
    /* A writer that selects what it will write has the lock. */
    if (lock_ranks_held >> LOCK_DATABASE) return;
    for (uint32_t i = 0; i < visibility_chunks(r); i++)
        if (!find_chunk(r->store->visibility, i)) track_chunk(r->db, r->store, i);
}

uint64_t visibility_untracked(struct reader *r)
{
    uint64_t slots = 0;
    for (uint32_t i = 0; i < visibility_chunks(r); i++) {
        if (find_chunk(r->store->visibility, i)) continue;
        uint64_t left = r->slot_count - (uint64_t)i * CHUNK_SLOTS;
        slots += left < CHUNK_SLOTS ? left : CHUNK_SLOTS;
    }
    return slots;
}

/* ---- readers ---- */

/* Look at the slots of a group. */
static enum err_code look_at_group(struct reader *r, uint32_t first, uint64_t *word,
                                   struct err *err)
{
    const struct slot *slots = jvdb_file_read(&r->store->file, REGION_SLOTS, first);
    if (!slots) return database_damaged(r->db, "a slot", err);
    *word = 0;
    for (uint32_t i = 0; i < group_slots(r->slot_count, first); i++)
        *word |= (uint64_t)slot_is_visible(&slots[i], r->lsn, r->now_ms) << i;
    return ERR_OK;
}

enum err_code visibility_words(struct reader *r, uint32_t chunk, uint64_t words[CHUNK_WORDS],
                               struct err *err)
{
    const struct chunk *c = find_chunk(r->store->visibility, chunk);
    enum err_code rc = ERR_OK;
    for (uint32_t group = 0; group < CHUNK_WORDS; group++) {
        uint64_t first = (uint64_t)chunk * CHUNK_SLOTS + group * GROUP_SLOTS;
        words[group] = 0;
        if (first >= r->slot_count) continue;
        if (c) {
            uint64_t live = LOAD(c->live[group]), expiring = LOAD(c->expiring[group]);
            words[group] = live;
            if (LOAD_RELAXED(c->changed[group]) <= r->lsn && !(live & expiring)) continue;
        }
        rc = look_at_group(r, (uint32_t)first, &words[group], err);
        if (rc) return rc;
    }
    return rc;
}

enum err_code visibility_born_after(struct reader *r, uint32_t chunk, uint64_t lsn,
                                    const uint64_t among[CHUNK_WORDS], uint64_t words[CHUNK_WORDS],
                                    bool *any, struct err *err)
{
    const struct chunk *c = find_chunk(r->store->visibility, chunk);
    *any = false;
    /* What this snapshot sees was stored before it was published. */
    if (c && LOAD_RELAXED(c->last_born) <= lsn) return ERR_OK;
    for (uint32_t group = 0; group < CHUNK_WORDS; group++) {
        uint64_t first = (uint64_t)chunk * CHUNK_SLOTS + group * GROUP_SLOTS;
        words[group] = 0;
        if (!among[group] || (c && LOAD_RELAXED(c->born[group]) <= lsn)) continue;
        const struct slot *slots = jvdb_file_read(&r->store->file, REGION_SLOTS, first);
        if (!slots) return database_damaged(r->db, "a slot", err);
        for (uint64_t left = among[group]; left; left &= left - 1) {
            int i = __builtin_ctzll(left);
            uint64_t birth = __atomic_load_n(&slots[i].birth, __ATOMIC_ACQUIRE);
            words[group] |= (uint64_t)(birth > lsn) << i;
        }
        *any |= words[group] != 0;
    }
    return ERR_OK;
}

bool visibility_changed_after(struct reader *r, uint32_t first_slot, uint64_t lsn)
{
    const struct chunk *c = find_chunk(r->store->visibility, first_slot / CHUNK_SLOTS);
    return !c || LOAD(c->changed[first_slot % CHUNK_SLOTS / GROUP_SLOTS]) > lsn;
}

bool visibility_chunk_changed_after(struct reader *r, uint32_t chunk, uint64_t lsn)
{
    const struct chunk *c = find_chunk(r->store->visibility, chunk);
    return !c || LOAD(c->last_changed) > lsn;
}

bool visibility_is_timeless(struct reader *r)
{
    /* In this order: who sees a chunk sees what it was filled with. */
    return visibility_untracked(r) == 0 && !LOAD_RELAXED(r->store->visibility->has_expiring);
}

/*
 * filter_cache.c - a table of results in sets, and a table of filters that were seen.
 *
 * A filter's hash says in which set its result is; there it has any of WAYS places.  Readers go
 * through pointers; `mu` is held by whoever changes one.  What is taken out is given back when
 * every reader has left.
 */
#include "storage/filter/filter_cache.h"

#include <string.h>

#include "storage/base/epoch.h"
#include "storage/base/lock.h"
#include "storage/base/mem.h"

enum {
    WAYS = 8,
    SETS = FILTER_RESULTS_MAX / WAYS,
    SEEN_WAYS = 8, /* a line of the cache */
    SEEN_SETS = 128,
    COLLECT_BYTES = 64 << 10, /* so much was taken out: look what can be given back */
};

struct place {
    _Atomic uint64_t hash; /* of the result, about: spares a look at it */
    _Atomic(struct filter_result *) result;
};

struct table {
    struct place places[SETS][WAYS];
    _Atomic uint64_t seen[SEEN_SETS][SEEN_WAYS]; /* hashes of filters, the newest first */
};

struct filter_cache {
    _Atomic(struct table *) table; /* NULL until a filter was used */
    _Atomic uint64_t clock;        /* counts results that were put in */
    struct mutex mu;               /* LOCK_LEAF: what follows, and all changes of places */
    uint64_t bytes;
};

#define LOAD(x)                 atomic_load_explicit(&(x), memory_order_acquire)
#define LOAD_RELAXED(x)         atomic_load_explicit(&(x), memory_order_relaxed)
#define STORE(x, value)         atomic_store_explicit(&(x), (value), memory_order_release)
#define STORE_RELAXED(x, value) atomic_store_explicit(&(x), (value), memory_order_relaxed)

struct filter_cache *filter_cache_new(void)
{
    struct filter_cache *c = mem_new(struct filter_cache);
    mutex_init(&c->mu, LOCK_LEAF);
    return c;
}

void filter_cache_free(struct filter_cache *c)
{
    if (!c) return;
    struct table *t = LOAD(c->table);
    for (size_t set = 0; t && set < SETS; set++)
        for (size_t way = 0; way < WAYS; way++)
            mem_free(LOAD(t->places[set][way].result));
    mem_free(t);
    mutex_deinit(&c->mu);
    mem_free(c);
}

uint64_t filter_cache_bytes(struct filter_cache *c)
{
    mutex_lock(&c->mu);
    uint64_t bytes = c->bytes;
    mutex_unlock(&c->mu);
    return bytes;
}

/* ---- results ---- */

/* One piece: the struct, what it has of the rows, the key. */
static struct filter_result *result_new(const struct filter *f, size_t bytes_of_rows, void **rows)
{
    size_t bytes = sizeof(struct filter_result) + bytes_of_rows + f->key_bytes;
    struct filter_result *result = mem_try(bytes);
    if (!result) return NULL;
    memset((void *)result, 0, sizeof *result);
    char *behind = (char *)(result + 1);
    *rows = behind;
    memcpy(behind + bytes_of_rows, f->key, f->key_bytes);
    result->key = (uint8_t *)behind + bytes_of_rows;
    result->key_bytes = f->key_bytes;
    result->hash = f->hash;
    result->bytes = bytes;
    return result;
}

struct filter_result *filter_result_new_list(const struct filter *filter, uint64_t count,
                                             uint32_t **slots)
{
    void *rows;
    struct filter_result *result = result_new(filter, count * sizeof **slots, &rows);
    if (!result) return NULL;
    *slots = rows;
    result->slots = rows;
    result->count = count;
    return result;
}

struct filter_result *filter_result_new_bits(const struct filter *filter, size_t words,
                                             uint64_t **bits)
{
    void *rows;
    struct filter_result *result = result_new(filter, words * sizeof **bits, &rows);
    if (!result) return NULL;
    *bits = rows;
    result->bits = rows;
    result->words = words;
    return result;
}

void filter_result_free(struct filter_result *result)
{
    mem_free(result);
}

void filter_result_raise(struct filter_result *result, uint64_t lsn)
{
    uint64_t old = LOAD_RELAXED(result->lsn);
    /* Released: whoever takes it for the result of that snapshot sees what this thread saw. */
    while (old < lsn && !atomic_compare_exchange_weak_explicit(
                            &result->lsn, &old, lsn, memory_order_release, memory_order_relaxed))
        continue;
}

/* ---- looking ---- */

static struct place *set_of(struct table *t, uint64_t hash)
{
    return t->places[hash % SETS];
}

static bool is_of(const struct filter_result *result, const uint8_t *key, uint32_t key_bytes)
{
    return result->key_bytes == key_bytes && memcmp(result->key, key, key_bytes) == 0;
}

struct filter_result *filter_cache_find(struct filter_cache *c, const struct filter *filter,
                                        uint64_t *lsn)
{
    struct table *t = LOAD(c->table);
    if (!t || !filter->key) return NULL;
    struct place *set = set_of(t, filter->hash);
    for (size_t way = 0; way < WAYS; way++) {
        if (LOAD_RELAXED(set[way].hash) != filter->hash) continue;
        struct filter_result *result = LOAD(set[way].result);
        if (!result || !is_of(result, filter->key, filter->key_bytes)) continue;
        uint64_t clock = LOAD_RELAXED(c->clock);
        /* Not at every use: the line is everybody's. */
        if (LOAD_RELAXED(result->used_at) != clock) STORE_RELAXED(result->used_at, clock);
        *lsn = LOAD(result->lsn);
        return result;
    }
    return NULL;
}

static struct table *table_of(struct filter_cache *c)
{
    struct table *t = LOAD(c->table);
    if (t) return t;
    mutex_lock(&c->mu);
    t = LOAD(c->table);
    if (!t) t = mem_try(sizeof *t);
    if (t && !LOAD(c->table)) {
        memset((void *)t, 0, sizeof *t);
        c->bytes += sizeof *t;
        STORE(c->table, t);
    }
    mutex_unlock(&c->mu);
    return t;
}

static bool is_seen(struct table *t, const struct filter *filter)
{
    _Atomic uint64_t *seen = t->seen[filter->hash / SETS % SEEN_SETS];
    for (size_t i = 0; i < SEEN_WAYS; i++)
        if (LOAD_RELAXED(seen[i]) == filter->hash) return true;
    return false;
}

bool filter_cache_wants(const struct filter_cache *c, const struct filter *filter)
{
    struct table *t = LOAD(c->table);
    return t && filter->key && is_seen(t, filter);
}

void filter_cache_note(struct filter_cache *c, const struct filter *filter)
{
    struct table *t = filter->key ? table_of(c) : NULL;
    if (!t || is_seen(t, filter)) return;
    /* Two threads may get in each other's way: a filter is noted once more then. */
    _Atomic uint64_t *seen = t->seen[filter->hash / SETS % SEEN_SETS];
    for (size_t i = SEEN_WAYS - 1; i > 0; i--)
        STORE_RELAXED(seen[i], LOAD_RELAXED(seen[i - 1]));
    STORE_RELAXED(seen[0], filter->hash);
}

/* ---- changing ---- */

/* Under mu: put a result (NULL: none) into a place; what was there joins *out. */
static void exchange(struct filter_cache *c, struct place *p, struct filter_result *result,
                     struct filter_result **out)
{
    struct filter_result *old = LOAD_RELAXED(p->result);
    if (old) {
        c->bytes -= old->bytes;
        old->next_out = *out;
        *out = old;
    }
    if (result) {
        c->bytes += result->bytes;
        STORE_RELAXED(p->hash, result->hash);
    }
    STORE(p->result, result);
}

/* Under mu: the filter's place, else an empty one, else that of what was used longest ago. */
static struct place *choose_place(struct table *t, const struct filter_result *result)
{
    struct place *set = set_of(t, result->hash), *best = NULL;
    uint64_t best_age = UINT64_MAX;
    for (size_t way = 0; way < WAYS; way++) {
        const struct filter_result *there = LOAD_RELAXED(set[way].result);
        if (there && is_of(there, result->key, result->key_bytes)) return &set[way];
        uint64_t age = there ? LOAD_RELAXED(there->used_at) + 1 : 0;
        if (age < best_age) best = &set[way];
        if (age < best_age) best_age = age;
    }
    return best;
}

/* Under mu: take out what was used longest ago, but not from `keep`; false: there is nothing. */
static bool drop_oldest(struct filter_cache *c, struct table *t, const struct place *keep,
                        struct filter_result **out)
{
    struct place *oldest = NULL;
    for (size_t i = 0; i < (size_t)SETS * WAYS; i++) {
        struct place *p = &t->places[i / WAYS][i % WAYS];
        const struct filter_result *there = LOAD_RELAXED(p->result);
        if (!there || p == keep) continue;
        const struct filter_result *best = oldest ? LOAD_RELAXED(oldest->result) : NULL;
        if (!best || LOAD_RELAXED(there->used_at) < LOAD_RELAXED(best->used_at)) oldest = p;
    }
    if (oldest) exchange(c, oldest, NULL, out);
    return oldest != NULL;
}

/* Under mu. */
static bool put(struct filter_cache *c, struct table *t, struct filter_result *result, uint64_t lsn,
                uint32_t slot_count, struct filter_result **out)
{
    const uint64_t most =
        FILTER_RESULT_BYTES_MIN + (uint64_t)FILTER_RESULT_BYTES_PER_SLOT * slot_count;
    struct place *p = choose_place(t, result);
    const struct filter_result *old = LOAD_RELAXED(p->result);
    bool is_own = old && is_of(old, result->key, result->key_bytes);
    if (is_own && LOAD_RELAXED(old->lsn) >= lsn) return false;
    if (sizeof *t + result->bytes > most) return false;
    while (c->bytes - (old ? old->bytes : 0) + result->bytes > most)
        if (!drop_oldest(c, t, p, out)) return false;
    STORE_RELAXED(c->clock, LOAD_RELAXED(c->clock) + 1);
    STORE_RELAXED(result->used_at, LOAD_RELAXED(c->clock));
    STORE_RELAXED(result->lsn, lsn);
    exchange(c, p, result, out);
    return true;
}

/* Bytes of what was taken out and is not given back yet. */
static _Atomic size_t bytes_out;

static void free_chain(void *first)
{
    for (struct filter_result *result = first; result;) {
        struct filter_result *next = result->next_out;
        atomic_fetch_sub_explicit(&bytes_out, result->bytes, memory_order_relaxed);
        mem_free(result);
        result = next;
    }
}

bool filter_cache_put(struct filter_cache *c, struct filter_result *result, uint64_t lsn,
                      uint32_t slot_count)
{
    struct table *t = LOAD(c->table);
    struct filter_result *out = NULL;
    size_t bytes = 0;
    if (!t || LOAD_RELAXED(bytes_out) > FILTER_RESULT_BYTES_OUT) return false;
    mutex_lock(&c->mu);
    bool is_kept = put(c, t, result, lsn, slot_count, &out);
    mutex_unlock(&c->mu);
    for (const struct filter_result *o = out; o; o = o->next_out)
        bytes += o->bytes;
    atomic_fetch_add_explicit(&bytes_out, bytes, memory_order_relaxed);
    if (out) epoch_retire(free_chain, out);
    if (bytes >= COLLECT_BYTES) epoch_collect();
    return is_kept;
}

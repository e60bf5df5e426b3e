/*
 * vector_index.c - what writers note and what searches are told; no thread of its own.
 *
 * ORDER.  The writer stores a slot number in `pending`, then `tail`, then publishes the row.  A
 * linker links a node, then stores `head`.  A search loads graph, pending, head, encoded, tail,
 * aside, and looks whether graph and pending are still the same: so whatever it does not find in
 * [head, tail) is in the graph or aside.  A position is written once, and a full array is replaced:
 * a search that has loaded an old head still finds what was there.
 */
#include "storage/index/vector_index_private.h"

#include <math.h>
#include <string.h>

#include "storage/base/clock.h"
#include "storage/base/epoch.h"
#include "storage/base/mem.h"

enum {
    PENDING_MIN = 1024,       /* positions of the first array                            */
    TELL_PUTS = 256,          /* without a graph: the indexer looks after so many        */
    PENDING_MAX = 65536,      /* rows that a search may have to compare ...              */
    PENDING_BYTES = 20 << 20, /* ... or codes of so many bytes, about a millisecond  */
    ROWS_PER_S = 5000,        /* linked, before it was measured                          */
};

struct vector_index *vector_index_new(const struct schema *schema)
{
    struct vector_index *ix = mem_new(struct vector_index);
    ix->metric = schema->metric;
    ix->dimension = schema->dimension;
    ix->options = schema->index;
    mutex_init(&ix->mu, LOCK_INDEX);
    atomic_init(&ix->pending_max, PENDING_MAX);
    atomic_init(&ix->rows_per_s, ROWS_PER_S);
    return ix;
}

void vector_index_free(struct vector_index *ix)
{
    if (!ix) return;
    graph_free(atomic_load(&ix->graph));
    mem_free(atomic_load(&ix->pending));
    mem_free(atomic_load(&ix->aside));
    mem_free(atomic_load(&ix->extra));
    mem_free(atomic_load(&ix->effort));
    mem_free(atomic_load(&ix->dead));
    mutex_deinit(&ix->mu);
    mem_free(ix);
}

struct mutex *vector_index_mutex(struct vector_index *ix)
{
    return &ix->mu;
}

/* ---- the writer ---- */

/* Searches may look at what is replaced. */
static void retire(void *p)
{
    if (p) epoch_retire(mem_free, p);
}

static void lose(struct vector_index *ix)
{
    atomic_store_explicit(&ix->lost, true, memory_order_release);
    atomic_store_explicit(&ix->news, true, memory_order_relaxed);
}

/* Room for one more position; NULL: out of memory. */
static struct pending *pending_with_room(struct vector_index *ix, uint64_t tail)
{
    struct pending *old = atomic_load_explicit(&ix->pending, memory_order_relaxed);
    if (old && tail - old->base <= old->mask) return old;
    /* Those before it are linked: nobody looks for them in the new array. */
    uint64_t head = atomic_load_explicit(&ix->head, memory_order_acquire);
    uint64_t cap = PENDING_MIN;
    while (cap < 2 * (tail - head + 1))
        cap *= 2;
    struct pending *p = mem_try(sizeof *p + cap * sizeof p->slots[0]);
    if (!p) return NULL;
    p->base = head;
    p->mask = cap - 1;
    for (uint64_t i = head; i < tail; i++)
        p->slots[i & p->mask] = old->slots[i & old->mask];
    atomic_store_explicit(&ix->pending, p, memory_order_release);
    retire(old);
    return p;
}

static bool add_pending(struct vector_index *ix, uint32_t slot)
{
    uint64_t tail = atomic_load_explicit(&ix->tail, memory_order_relaxed);
    struct pending *p = pending_with_room(ix, tail);
    if (!p) return false;
    p->slots[tail & p->mask] = slot;
    /* Pairs with vector_index_graph(). */
    atomic_store_explicit(&ix->tail, tail + 1, memory_order_release);
    return true;
}

/* Bits for slots below `slots`; false: out of memory. */
static bool dead_bits_reserve(struct vector_index *ix, uint64_t slots)
{
    struct slot_bits *old = atomic_load_explicit(&ix->dead, memory_order_relaxed);
    uint64_t words = slots / 64 + 1;
    if (old && old->words >= words) return true;
    if (old && words < 2 * old->words) words = 2 * old->words;
    struct slot_bits *b = mem_try(sizeof *b + words * sizeof b->bits[0]);
    if (!b) return false;
    b->words = words;
    for (uint64_t i = 0; i < words; i++)
        atomic_init(&b->bits[i], old && i < old->words
                                     ? atomic_load_explicit(&old->bits[i], memory_order_relaxed)
                                     : 0);
    atomic_store_explicit(&ix->dead, b, memory_order_release);
    retire(old);
    return true;
}

static bool set_dead(struct vector_index *ix, uint32_t slot, bool dead)
{
    if (!dead_bits_reserve(ix, slot)) return false;
    struct slot_bits *b = atomic_load_explicit(&ix->dead, memory_order_relaxed);
    _Atomic uint64_t *word = &b->bits[slot / 64];
    uint64_t bit = UINT64_C(1) << slot % 64, old = atomic_load_explicit(word, memory_order_relaxed);
    atomic_store_explicit(word, dead ? old | bit : old & ~bit, memory_order_relaxed);
    return true;
}

void vector_index_put(struct vector_index *ix, uint32_t slot)
{
    if (!ix->tracking) {
        if (++ix->untold < TELL_PUTS) return;
        ix->untold = 0;
        atomic_store_explicit(&ix->news, true, memory_order_relaxed);
        return;
    }
    if (atomic_load_explicit(&ix->lost, memory_order_relaxed)) return;
    if (!set_dead(ix, slot, false) || !add_pending(ix, slot)) lose(ix);
    atomic_store_explicit(&ix->news, true, memory_order_relaxed);
}

void vector_index_end(struct vector_index *ix, uint32_t slot)
{
    if (!ix->tracking || atomic_load_explicit(&ix->lost, memory_order_relaxed)) return;
    if (!set_dead(ix, slot, true)) lose(ix);
    atomic_fetch_add_explicit(&ix->ended, 1, memory_order_relaxed);
    atomic_store_explicit(&ix->news, true, memory_order_relaxed);
}

uint64_t vector_index_reuse_lsn(const struct vector_index *ix)
{
    return ix->tracking ? atomic_load_explicit(&ix->reuse_lsn, memory_order_relaxed) : UINT64_MAX;
}

void vector_index_fall_back(struct vector_index *ix, uint64_t lsn)
{
    if (atomic_load(&ix->forgot_lsn) > lsn) lose(ix);
}

bool vector_index_wants_work(struct vector_index *ix)
{
    return atomic_load_explicit(&ix->news, memory_order_relaxed) &&
           atomic_exchange_explicit(&ix->news, false, memory_order_relaxed);
}

/* ---- slowing writers down ---- */

static uint64_t pending_count(const struct vector_index *ix)
{
    uint64_t head = atomic_load_explicit(&ix->head, memory_order_acquire);
    return atomic_load_explicit(&ix->tail, memory_order_relaxed) - head;
}

uint64_t vector_index_backlog(const struct vector_index *ix)
{
    if (!atomic_load_explicit(&ix->graph, memory_order_relaxed)) return 0;
    uint64_t pending = pending_count(ix);
    uint64_t max = atomic_load_explicit(&ix->pending_max, memory_order_relaxed);
    return pending > max ? pending - max : 0;
}

/* The more rows are too many, the slower: at half as many again as there should be, rows come in as
 * fast as they are linked. */
uint64_t vector_index_delay_ns(struct vector_index *ix, size_t rows)
{
    uint64_t backlog = vector_index_backlog(ix);
    if (!backlog) return 0;
    uint64_t max = atomic_load_explicit(&ix->pending_max, memory_order_relaxed);
    uint64_t rows_per_s = atomic_load_explicit(&ix->rows_per_s, memory_order_relaxed);
    double slower = fmin(2, 2 * (double)backlog / (double)max);
    double ns = slower * 1e9 * (double)rows / (double)(rows_per_s ? rows_per_s : 1);
    /* Whatever was measured: a client takes more for hanging. */
    double longest = fmin(5e9, fmax(5e7, 1e6 * (double)rows));
    uint64_t now = clock_ns(), begin, free = atomic_load(&ix->next_put_ns);
    do {
        begin = free > now ? free : now;
    } while (!atomic_compare_exchange_weak(&ix->next_put_ns, &free,
                                           begin + (uint64_t)fmin(ns, longest)));
    return (uint64_t)fmin((double)(begin - now) + ns, longest);
}

/* ---- searches ---- */

struct graph *vector_index_graph(struct vector_index *ix, uint64_t lsn,
                                 struct vector_index_rest *rest)
{
    for (;;) {
        struct graph *g = atomic_load_explicit(&ix->graph, memory_order_acquire);
        *rest = (struct vector_index_rest){0};
        if (!g || atomic_load_explicit(&ix->lost, memory_order_acquire) ||
            lsn < atomic_load_explicit(&ix->from_lsn, memory_order_acquire))
            return NULL;
        const struct pending *p = atomic_load_explicit(&ix->pending, memory_order_acquire);
        rest->head = atomic_load_explicit(&ix->head, memory_order_acquire);
        rest->encoded = atomic_load_explicit(&ix->encoded, memory_order_acquire);
        rest->tail = atomic_load_explicit(&ix->tail, memory_order_acquire);
        struct slot_list *aside = atomic_load_explicit(&ix->aside, memory_order_acquire);
        if (g != atomic_load_explicit(&ix->graph, memory_order_acquire) ||
            p != atomic_load_explicit(&ix->pending, memory_order_acquire))
            continue;
        if (rest->encoded > rest->tail) rest->encoded = rest->tail;
        if (p) {
            rest->slots = p->slots;
            rest->mask = p->mask;
        }
        if (aside) {
            rest->aside = aside->slots;
            rest->aside_count = atomic_load_explicit(&aside->count, memory_order_acquire);
        }
        return g;
    }
}

/* Before anything was measured.  For a recall of 0.95 twice k, 64 at least, and more the more rows
 * there are; the rest of the way to 1 costs ever more. */
static double guess_effort(double rows, double recall, double k)
{
    double ef = fmax(2 * k, 64);
    if (rows > 1e5) ef *= 1 + 0.25 * log2(rows / 1e5);
    double miss = fmax(1 - recall, 0.0005);
    return ef * fmax(0.5, pow(0.05 / miss, 0.7));
}

uint32_t vector_index_effort(struct vector_index *ix, double recall, size_t k, double *expected)
{
    const struct graph *g = atomic_load_explicit(&ix->graph, memory_order_acquire);
    *expected = 0;
    double rows = g ? (double)atomic_load_explicit(&g->linked_count, memory_order_relaxed) : 0;
    double ef = guess_effort(rows, recall, (double)k);
    if (ef > EFFORT_MAX) ef = EFFORT_MAX;
    return ef < (double)k ? (uint32_t)k : (uint32_t)ef;
}

void vector_index_sample(struct vector_index *ix, const float *query, size_t k, uint64_t lsn,
                         const uint32_t *slots, size_t count)
{
    (void)ix, (void)query, (void)k, (void)lsn, (void)slots, (void)count;
}

/* ---- what is kept ---- */

static bool copy_slots(const struct slot_list *list, uint32_t **slots, size_t *count)
{
    *count = list ? atomic_load_explicit(&list->count, memory_order_acquire) : 0;
    if (*count == 0) return true;
    *slots = mem_try(*count * sizeof **slots);
    if (*slots) memcpy(*slots, list->slots, *count * sizeof **slots);
    return *slots != NULL;
}

enum err_code vector_index_export(const struct vector_index *ix, struct vector_index_state *state,
                                  struct err *err)
{
    *state = (struct vector_index_state){0};
    epoch_enter(); /* the lists are not the writer's */
    uint64_t head = atomic_load_explicit(&ix->head, memory_order_acquire);
    uint64_t tail = atomic_load_explicit(&ix->tail, memory_order_relaxed);
    const struct pending *p = atomic_load_explicit(&ix->pending, memory_order_relaxed);
    state->pending_count = tail - head;
    state->pending = mem_try((tail - head + 1) * sizeof *state->pending);
    bool good = state->pending != NULL;
    for (uint64_t i = head; i < tail && good; i++)
        state->pending[i - head] = p->slots[i & p->mask];
    good = good &&
           copy_slots(atomic_load_explicit(&ix->aside, memory_order_acquire), &state->aside,
                      &state->aside_count) &&
           copy_slots(atomic_load_explicit(&ix->extra, memory_order_acquire), &state->extra_pivots,
                      &state->extra_pivot_count);
    state->reuse_lsn = vector_index_reuse_lsn(ix);
    const struct effort_table *effort = atomic_load_explicit(&ix->effort, memory_order_acquire);
    if (effort) state->effort = *effort;
    if (!atomic_load_explicit(&ix->lost, memory_order_acquire))
        state->graph = atomic_load_explicit(&ix->graph, memory_order_acquire);
    epoch_leave();
    if (good) return ERR_OK;
    vector_index_state_deinit(state);
    return err_set(err, ERR_NOMEM, "out of memory for the state of a search index");
}

void vector_index_state_deinit(struct vector_index_state *state)
{
    mem_free(state->pending);
    mem_free(state->aside);
    mem_free(state->extra_pivots);
    *state = (struct vector_index_state){0};
}

static struct slot_list *slot_list_of(const uint32_t *slots, size_t count)
{
    if (count == 0) return NULL;
    struct slot_list *list = mem_try(sizeof *list + count * sizeof list->slots[0]);
    if (!list) return NULL;
    list->cap = (uint32_t)count;
    memcpy(list->slots, slots, count * sizeof *slots);
    atomic_init(&list->count, (uint32_t)count);
    return list;
}

void vector_index_adopt(struct vector_index *ix, const struct vector_index_state *state,
                        uint64_t lsn, uint32_t slot_count)
{
    (void)lsn;
    if (!state->graph) return;
    ix->tracking = true;
    struct slot_list *aside = slot_list_of(state->aside, state->aside_count);
    bool good = dead_bits_reserve(ix, slot_count) && (aside || state->aside_count == 0);
    for (size_t i = 0; i < state->pending_count && good; i++)
        good = add_pending(ix, state->pending[i]);
    atomic_store(&ix->aside, aside);
    atomic_store(&ix->extra, slot_list_of(state->extra_pivots, state->extra_pivot_count));
    if (state->effort.rows) {
        struct effort_table *effort = mem_new(struct effort_table);
        *effort = state->effort;
        atomic_store(&ix->effort, effort);
    }
    atomic_store(&ix->graph, state->graph);
    atomic_store(&ix->news, true);
    if (!good) lose(ix);
}

/* ---- information ---- */

void vector_index_info(struct vector_index *ix, struct vector_index_info *info)
{
    *info = (struct vector_index_info){.state = INDEX_STATE_NONE, .progress = 1};
    epoch_enter();
    const struct graph *g = atomic_load_explicit(&ix->graph, memory_order_acquire);
    if (g) {
        info->codec = g->codec.kind;
        info->indexed_count = atomic_load_explicit(&g->linked_count, memory_order_relaxed);
        info->memory_bytes = graph_memory(g);
        info->pending_count = pending_count(ix);
        info->state = info->pending_count ? INDEX_STATE_LINKING : INDEX_STATE_READY;
    }
    epoch_leave();
}

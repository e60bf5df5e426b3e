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
#include "storage/index/effort.h"
#include "storage/index/index_work.h"

enum {
    PENDING_MIN = 1024,       /* positions of the first array                            */
    TELL_PUTS = 256,          /* without a graph: the indexer looks after so many        */
    PENDING_GOOD = 512,       /* their codes take about as long as a walk                */
    PENDING_MAX = 65536,      /* while nobody searches ...                               */
    PENDING_BYTES = 20 << 20, /* ... or codes of so many bytes, about a millisecond     */
    SLOWER_MAX = 4,           /* times what linking takes: it may have become slower     */
    ROWS_PER_S = 5000,        /* linked, before it was measured                          */
};
#define CALM_NS      250000000ull /* without a search: twice as many rows may be pending */
#define STALL_NS_MAX 40000000ull  /* of a put of one row                                 */

struct vector_index *vector_index_new(const struct schema *schema)
{
    struct vector_index *ix = mem_new(struct vector_index);
    ix->metric = schema->metric;
    ix->dimension = schema->dimension;
    ix->options = schema->index;
    mutex_init(&ix->mu, LOCK_INDEX);
    mutex_init(&ix->samples.mu, LOCK_LEAF);
    atomic_init(&ix->pending_max, PENDING_MAX);
    atomic_init(&ix->rows_per_s, ROWS_PER_S);
    return ix;
}

void vector_index_free(struct vector_index *ix)
{
    if (!ix) return;
    build_free(ix->build);
    sweep_free(ix->sweep);
    audit_free(ix->audit);
    measurement_free(ix->measurement);
    link_window_free(ix->window);
    for (uint32_t i = 0; i < ix->samples.count; i++)
        mem_free(ix->samples.list[i].query);
    mutex_deinit(&ix->samples.mu);
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

void vector_index_retire(void *p)
{
    if (p) epoch_retire(mem_free, p);
}

static void free_graph(void *g)
{
    graph_free(g);
}

void vector_index_retire_graph(struct graph *g)
{
    epoch_retire(free_graph, g);
}

struct slot_list *slot_list_extend(const struct slot_list *list, const uint32_t *slots,
                                   size_t count)
{
    enum { SPARE = 64 };
    size_t had = slot_list_count(list), cap = had + count + had / 2 + SPARE;
    struct slot_list *longer = mem_try(sizeof *longer + cap * sizeof longer->slots[0]);
    if (!longer) return NULL;
    longer->cap = (uint32_t)cap;
    if (had) memcpy(longer->slots, list->slots, had * sizeof *slots);
    if (count) memcpy(longer->slots + had, slots, count * sizeof *slots);
    atomic_init(&longer->count, (uint32_t)(had + count));
    return longer;
}

void vector_index_lose(struct vector_index *ix)
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
    vector_index_retire(old);
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

bool vector_index_reserve_dead(struct vector_index *ix, uint64_t slots)
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
    vector_index_retire(old);
    return true;
}

void vector_index_set_dead(struct vector_index *ix, uint32_t slot, bool dead)
{
    if (!vector_index_reserve_dead(ix, slot)) {
        vector_index_lose(ix);
        return;
    }
    struct slot_bits *b = atomic_load_explicit(&ix->dead, memory_order_relaxed);
    _Atomic uint64_t *word = &b->bits[slot / 64];
    uint64_t bit = UINT64_C(1) << slot % 64, old = atomic_load_explicit(word, memory_order_relaxed);
    atomic_store_explicit(word, dead ? old | bit : old & ~bit, memory_order_relaxed);
}

/* Replay puts a row into a slot whose node is linked still: nobody searches yet. */
static void forget_node(struct vector_index *ix, uint32_t slot)
{
    struct graph *g = atomic_load_explicit(&ix->graph, memory_order_relaxed);
    if (g && work_is_linked(g, slot)) graph_forget(g, slot);
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
    if (ix->adopted.replaying) forget_node(ix, slot);
    vector_index_set_dead(ix, slot, false);
    if (!add_pending(ix, slot)) vector_index_lose(ix);
    atomic_store_explicit(&ix->news, true, memory_order_relaxed);
}

void vector_index_end(struct vector_index *ix, uint32_t slot)
{
    if (!ix->tracking || atomic_load_explicit(&ix->lost, memory_order_relaxed)) return;
    vector_index_set_dead(ix, slot, true);
    atomic_fetch_add_explicit(&ix->ended, 1, memory_order_relaxed);
    atomic_store_explicit(&ix->news, true, memory_order_relaxed);
}

uint64_t vector_index_reuse_lsn(const struct vector_index *ix)
{
    return ix->tracking ? atomic_load_explicit(&ix->reuse_lsn, memory_order_relaxed) : UINT64_MAX;
}

void vector_index_fall_back(struct vector_index *ix, uint64_t lsn)
{
    if (atomic_load(&ix->forgot_lsn) > lsn) vector_index_lose(ix);
}

bool vector_index_wants_work(struct vector_index *ix)
{
    return atomic_load_explicit(&ix->news, memory_order_relaxed) &&
           atomic_exchange_explicit(&ix->news, false, memory_order_relaxed);
}

/* ---- slowing writers down ---- */

uint64_t vector_index_pending(const struct vector_index *ix)
{
    uint64_t head = atomic_load_explicit(&ix->head, memory_order_acquire);
    return atomic_load_explicit(&ix->tail, memory_order_relaxed) - head;
}

void vector_index_set_pending_max(struct vector_index *ix, const struct graph *g)
{
    uint64_t max = PENDING_BYTES / g->codec.cell_bytes;
    atomic_store_explicit(&ix->pending_max, max < PENDING_MAX ? max : PENDING_MAX,
                          memory_order_relaxed);
}

/* While searches find many rows pending, few may be.  Without them, as in a bulk load, it is more
 * with time. */
static uint64_t pending_limit(const struct vector_index *ix)
{
    uint64_t max = atomic_load_explicit(&ix->pending_max, memory_order_relaxed);
    uint64_t crowded = atomic_load_explicit(&ix->crowded_ns, memory_order_relaxed);
    uint64_t now = clock_ns(), limit = PENDING_GOOD;
    for (uint64_t calm = CALM_NS; limit < max && crowded + calm <= now; calm += CALM_NS)
        limit *= 2;
    return limit < max ? limit : max;
}

uint64_t vector_index_backlog(const struct vector_index *ix)
{
    if (!atomic_load_explicit(&ix->graph, memory_order_relaxed)) return 0;
    uint64_t pending = vector_index_pending(ix);
    uint64_t max = atomic_load_explicit(&ix->pending_max, memory_order_relaxed);
    /* Below every limit, as with nearly every put: no need for the time. */
    if (pending <= PENDING_GOOD && pending <= max) return 0;
    uint64_t limit = pending_limit(ix);
    return pending > limit ? pending - limit : 0;
}

/* The more rows are too many, the slower: at half as many again as there should be, rows come in as
 * fast as they are linked. */
uint64_t vector_index_delay_ns(struct vector_index *ix, size_t rows)
{
    uint64_t backlog = vector_index_backlog(ix);
    if (!backlog) return 0;
    uint64_t rows_per_s = atomic_load_explicit(&ix->rows_per_s, memory_order_relaxed);
    double slower = fmin(SLOWER_MAX, 2 * (double)backlog / (double)pending_limit(ix));
    double ns = slower * 1e9 * (double)rows / (double)(rows_per_s ? rows_per_s : 1);
    /* Whatever was measured: a client takes more for hanging. */
    double longest = fmin(5e9, fmax((double)STALL_NS_MAX, 1e6 * (double)rows));
    uint64_t now = clock_ns(), begin, free = atomic_load(&ix->next_put_ns);
    do {
        begin = free > now ? free : now;
    } while (!atomic_compare_exchange_weak(&ix->next_put_ns, &free,
                                           begin + (uint64_t)fmin(ns, longest)));
    return (uint64_t)fmin((double)(begin - now) + ns, longest);
}

/* ---- searches ---- */

void vector_index_compared_pending(struct vector_index *ix, uint64_t rows)
{
    if (rows <= PENDING_GOOD) return;
    /* Pairs with pending_limit(), which need not know at once. */
    atomic_store_explicit(&ix->crowded_ns, clock_ns(), memory_order_relaxed);
}

/* Whoever was searched often is likely to be searched again. */
static void count_search(struct vector_index *ix)
{
    enum { ENOUGH = 1000 };
    if (atomic_load_explicit(&ix->searched, memory_order_relaxed) < ENOUGH)
        atomic_fetch_add_explicit(&ix->searched, 1, memory_order_relaxed);
}

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
        count_search(ix);
        if (rest->encoded > rest->tail) rest->encoded = rest->tail;
        if (p) {
            rest->slots = p->slots;
            rest->mask = p->mask;
        }
        rest->ended = atomic_load_explicit(&ix->dead, memory_order_acquire);
        if (aside) {
            rest->aside = aside->slots;
            rest->aside_count = atomic_load_explicit(&aside->count, memory_order_acquire);
        }
        return g;
    }
}

bool vector_index_has_ended(const struct vector_index_rest *rest, uint32_t slot)
{
    return rest->ended && slot_bits_has(rest->ended, slot);
}

uint32_t vector_index_effort(struct vector_index *ix, double recall, size_t k, double *expected)
{
    const struct graph *g = atomic_load_explicit(&ix->graph, memory_order_acquire);
    const struct effort_table *t = atomic_load_explicit(&ix->effort, memory_order_acquire);
    double rows = g ? (double)atomic_load_explicit(&g->linked_count, memory_order_relaxed) : 0, ef;
    *expected = 0;
    if (t && t->steps)
        ef = effort_grown(effort_measured(t, recall, k, expected), (double)t->rows, rows);
    else
        ef = effort_guessed(g ? g->codec.kind : CODEC_INT8, rows, recall, k);
    ef = fmin(fmax(ceil(ef), fmax((double)k, EFFORT_MIN)), EFFORT_MAX);
    return (uint32_t)ef;
}

/* One search a second is enough; the ring keeps the last ones. */
void vector_index_sample(struct vector_index *ix, const float *query, size_t k, uint64_t lsn,
                         const uint32_t *slots, size_t count)
{
    enum { ONE_IN_MAX = 1 << 20 };
    struct samples *s = &ix->samples;
    if (atomic_fetch_sub_explicit(&s->skip, 1, memory_order_relaxed) > 0) return;
    if (k > SAMPLE_RESULTS_MAX || count > k || !mutex_trylock(&s->mu)) return;
    uint64_t now = clock_ns(), since = now - s->last_ns;
    if (s->one_in < 1) s->one_in = 1;
    if (since < SECOND_NS && s->one_in < ONE_IN_MAX) s->one_in *= 2;
    if (since > 2 * SECOND_NS && s->one_in > 1) s->one_in /= 2;
    atomic_store_explicit(&s->skip, s->one_in - 1, memory_order_relaxed);
    s->last_ns = now;
    struct sample *to = &s->list[s->taken++ % SAMPLES_MAX];
    bool is_full = s->count == SAMPLES_MAX;
    if (!is_full) to = &s->list[s->count];
    float *copy = is_full ? to->query : mem_try(ix->dimension * sizeof *copy);
    if (copy) {
        memcpy(copy, query, ix->dimension * sizeof *copy);
        *to =
            (struct sample){.query = copy, .lsn = lsn, .k = (uint32_t)k, .count = (uint32_t)count};
        memcpy(to->slots, slots, count * sizeof *slots);
        s->count += !is_full;
    }
    mutex_unlock(&s->mu);
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

void vector_index_adopt(struct vector_index *ix, const struct vector_index_state *state,
                        uint64_t lsn, uint32_t slot_count)
{
    struct graph *g = state->graph;
    if (!g) return;
    ix->tracking = true;
    ix->adopted.replaying = ix->adopted.counting = true;
    ix->adopted.end = slot_count;
    ix->adopted.at_ns = clock_ns();
    ix->tested_rows = atomic_load(&g->linked_count) + 1;
    ix->found_lsn = lsn;
    atomic_store(&ix->from_lsn, lsn);
    atomic_store(&ix->reuse_lsn, state->reuse_lsn);
    vector_index_set_pending_max(ix, g);
    struct slot_list *aside = slot_list_extend(NULL, state->aside, state->aside_count);
    struct slot_list *extra = slot_list_extend(NULL, state->extra_pivots, state->extra_pivot_count);
    bool good = vector_index_reserve_dead(ix, slot_count) && aside && extra;
    for (size_t i = 0; i < state->pending_count && good; i++)
        good = add_pending(ix, state->pending[i]);
    atomic_store(&ix->aside, aside);
    atomic_store(&ix->extra, extra);
    if (state->effort.steps) {
        struct effort_table *effort = mem_new(struct effort_table);
        *effort = state->effort;
        atomic_store(&ix->effort, effort);
    }
    atomic_store(&ix->graph, g);
    atomic_store(&ix->news, true);
    if (!good) vector_index_lose(ix);
}

/* ---- information ---- */

void vector_index_info(struct vector_index *ix, struct vector_index_info *info)
{
    *info = (struct vector_index_info){.state = INDEX_STATE_NONE, .progress = 1};
    epoch_enter();
    const struct graph *g = atomic_load_explicit(&ix->graph, memory_order_acquire);
    if (g && !atomic_load_explicit(&ix->lost, memory_order_relaxed)) {
        uint64_t linked = atomic_load_explicit(&g->linked_count, memory_order_relaxed);
        uint64_t pending = vector_index_pending(ix);
        info->codec = g->codec.kind;
        info->indexed_count = linked + slot_list_count(atomic_load(&ix->aside));
        info->memory_bytes = graph_memory(g);
        info->pending_count = pending;
        info->state = pending ? INDEX_STATE_LINKING : INDEX_STATE_READY;
        info->progress = linked + pending ? (double)linked / (double)(linked + pending) : 1;
        if (pending)
            info->eta_ms =
                pending * 1000 / atomic_load_explicit(&ix->rows_per_s, memory_order_relaxed) + 1;
    } else if (atomic_load_explicit(&ix->building, memory_order_relaxed)) {
        info->state = INDEX_STATE_BUILDING;
        info->progress = atomic_load_explicit(&ix->progress_ppm, memory_order_relaxed) / 1e6;
        info->eta_ms = atomic_load_explicit(&ix->eta_ms, memory_order_relaxed);
        info->pending_count = vector_index_pending(ix);
    }
    epoch_leave();
    info->recall_samples = atomic_load_explicit(&ix->recall_samples, memory_order_relaxed);
    info->recall_estimate = atomic_load_explicit(&ix->recall_ppm, memory_order_relaxed) / 1e6;
}

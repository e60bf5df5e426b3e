#include "storage/index/index_work.h"

#include <string.h>

#include "storage/base/epoch.h"
#include "storage/base/mem.h"

enum { IDLE_TIMES = 50 };

bool work_slot(const struct index_work *w, uint32_t number, const struct slot **slot)
{
    struct err err;
    *slot = jvdb_file_read(&w->store->file, REGION_SLOTS, number);
    if (*slot) return true;
    (void)database_damaged(w->db, "a slot", &err);
    return false;
}

bool work_row(const struct index_work *w, uint32_t number, const struct slot *slot,
              const float **row)
{
    struct err err;
    struct reader r = {.db = w->db, .store = w->store};
    *row = slot_vector(&r, number, slot);
    if (*row) return true;
    (void)database_damaged(w->db, "a vector", &err);
    return false;
}

/* Each step can be undone, so no two numbers go to the same place. */
uint64_t work_shuffle(uint64_t i, unsigned bits)
{
    const uint64_t mask = (UINT64_C(1) << bits) - 1;
    const unsigned half = bits / 2 + 1;
    i = (i * 0x9e3779b97f4a7c15u + 0x94d049bb133111ebu) & mask;
    i ^= i >> half;
    i = i * 0xbf58476d1ce4e5b9u & mask;
    i ^= i >> half;
    return i * 0xd6e8feb86659fd93u & mask;
}

unsigned work_shuffle_bits(uint64_t count)
{
    unsigned bits = 1;
    while (UINT64_C(1) << bits < count)
        bits++;
    return bits;
}

void work_distances(const struct exact *e, const float *const *rows, size_t count, double *out)
{
    for (size_t at = 0; at < count; at += EXACT_ROWS_MAX)
        exact_distances(e, rows + at, count - at < EXACT_ROWS_MAX ? count - at : EXACT_ROWS_MAX,
                        out + at);
}

uint64_t *work_live_bits(const struct index_work *w, const struct graph *g, bool dead,
                         size_t *words)
{
    struct graph_arena *a =
        atomic_load_explicit(&((struct graph *)(uintptr_t)g)->arena, memory_order_acquire);
    epoch_enter();
    struct slot_bits *from = atomic_load_explicit(&w->ix->dead, memory_order_acquire);
    size_t count = a ? (size_t)a->capacity / 64 + 1 : 1;
    if (from && from->words > count) count = from->words;
    uint64_t *bits = mem_try(count * sizeof *bits);
    for (size_t i = 0; i < count && bits; i++) {
        uint64_t word = from && i < from->words
                            ? atomic_load_explicit(&from->bits[i], memory_order_relaxed)
                            : 0;
        bits[i] = dead ? word : ~word;
    }
    epoch_leave();
    if (words) *words = count;
    return bits;
}

bool work_is_linked(const struct graph *g, uint32_t node)
{
    struct graph_arena *a =
        atomic_load_explicit(&((struct graph *)(uintptr_t)g)->arena, memory_order_acquire);
    if (!a || node >= a->capacity) return false;
    return atomic_load_explicit(&graph_node(g, a, node)->head, memory_order_acquire) & NODE_LINKED;
}

bool work_is_encoded(const struct graph *g, uint32_t node, uint32_t generation)
{
    struct graph_arena *a =
        atomic_load_explicit(&((struct graph *)(uintptr_t)g)->arena, memory_order_acquire);
    return a && node < a->capacity &&
           codec_tail(&g->codec, graph_cell(g, a, node))->generation == generation + 1;
}

bool work_is_alive(void *ctx, uint32_t node)
{
    return !slot_bits_has(ctx, node);
}

void work_choose_pivots(const struct index_work *w, struct graph *g, bool anyway)
{
    if (!anyway && !graph_wants_pivots(g)) return;
    uint64_t *live = work_live_bits(w, g, false, NULL);
    struct slot_list *extra = atomic_load_explicit(&w->ix->extra, memory_order_relaxed);
    bool is_published = g == work_graph(w);
    graph_choose_pivots(g, live, is_published && extra ? extra->slots : NULL,
                        is_published ? slot_list_count(extra) : 0);
    mem_free(live);
    if (is_published) w->ix->found_lsn = 0;
}

uint64_t work_idle_at(const struct index_work *w, uint64_t cost_ns)
{
    if (atomic_load_explicit(&w->ix->hurry, memory_order_relaxed)) return 0;
    uint64_t wait = cost_ns * IDLE_TIMES;
    return w->ix->changed_ns + (wait > SECOND_NS ? wait : SECOND_NS);
}

/* index_record.c - an index to bytes and back; nothing read is believed unchecked. */
#include "storage/index/index_record.h"

#include <math.h>
#include <string.h>

#include "storage/base/bits.h"
#include "storage/base/mem.h"
#include "storage/jvdb_file.h"

enum { PIVOTS_MAX = 1 << 16, EF_MAX = 1 << 16 };

static_assert(EFFORT_KS == sizeof((struct disk_index_effort *)0)->recall / sizeof(float),
              "what was measured");

/* ---- writing ---- */

static void add_slots(struct buf *out, const uint32_t *slots, size_t count)
{
    buf_add(out, slots, count * sizeof *slots);
}

static void add_run(struct buf *out, uint32_t first, uint32_t end, uint32_t *runs)
{
    struct disk_index_run run = {first, end - first};
    buf_add(out, &run, sizeof run);
    ++*runs;
}

/* Sorted by setting bits: this is done under the writer lock. */
static bool add_runs(struct buf *out, const uint32_t *slots, size_t count, uint32_t slot_count,
                     uint32_t *runs)
{
    *runs = 0;
    if (count == 0) return true;
    size_t words = (size_t)slot_count / 64 + 1;
    uint64_t *bits = bits_new(slot_count);
    if (!bits) return false;
    for (size_t i = 0; i < count; i++)
        if (slots[i] < slot_count) bits_add(bits, slots[i]);
    uint32_t first = 0, end = 0; /* of the run at hand */
    for (size_t w = 0; w < words; w++) {
        for (uint64_t rest = bits[w]; rest; rest &= rest - 1) {
            uint32_t slot = (uint32_t)(w * 64) + (uint32_t)__builtin_ctzll(rest);
            if (slot != end || first == end) {
                if (first != end) add_run(out, first, end, runs);
                first = slot;
            }
            end = slot + 1;
        }
    }
    if (first != end) add_run(out, first, end, runs);
    mem_free(bits);
    return true;
}

static void add_effort(struct buf *out, const struct effort_table *effort)
{
    for (uint32_t i = 0; i < effort->steps; i++) {
        struct disk_index_effort step = {.ef = effort->ef[i]};
        for (int k = 0; k < EFFORT_KS; k++) {
            step.recall[k] = effort->recall[k][i];
            step.error[k] = effort->error[k][i];
        }
        buf_add(out, &step, sizeof step);
    }
}

bool index_record_encode(const struct vector_index_state *state, uint32_t slot_count,
                         struct buf *out)
{
    struct graph *g = state->graph;
    const struct graph_pivots *pivots = atomic_load_explicit(&g->pivots, memory_order_acquire);
    const struct effort_table *effort = &state->effort;
    size_t start = out->len;
    struct disk_index d = {
        .codec = g->codec.kind,
        .degree = g->degree,
        .ef_construction = g->ef_construction,
        .seed = g->codec.seed,
        .gain = g->codec.gain,
        .reach2 = atomic_load_explicit(g->codec.reach2, memory_order_relaxed),
        .node_count = atomic_load_explicit(&g->node_count, memory_order_acquire),
        .linked_count = atomic_load_explicit(&g->linked_count, memory_order_relaxed),
        .reuse_lsn = state->reuse_lsn,
        .effort_rows = effort->steps ? effort->rows : 0,
        .effort_queries = effort->queries,
        .step_count = effort->rows ? effort->steps : 0,
        .mean_count = g->codec.mean ? g->codec.dimension : 0,
        .pivot_count = pivots ? pivots->count : 0,
        .extra_count = (uint32_t)state->extra_pivot_count,
    };
    if (d.node_count > slot_count) d.node_count = slot_count;
    buf_add(out, &d, sizeof d);
    if (d.mean_count) buf_add(out, g->codec.mean, d.mean_count * sizeof(float));
    if (d.pivot_count) add_slots(out, pivots->nodes, d.pivot_count);
    add_slots(out, state->extra_pivots, d.extra_count);
    bool good = add_runs(out, state->aside, state->aside_count, slot_count, &d.aside_run_count) &&
                add_runs(out, state->pending, state->pending_count, slot_count, &d.run_count);
    if (d.step_count) add_effort(out, effort);
    if (!good || out->failed) return false;
    memcpy(out->data + start, &d, sizeof d);
    return true;
}

/* ---- reading ---- */

struct cursor {
    const uint8_t *at, *end;
};

static bool take(struct cursor *c, void *to, size_t bytes)
{
    if ((size_t)(c->end - c->at) < bytes) return false;
    memcpy(to, c->at, bytes);
    c->at += bytes;
    return true;
}

static bool take_slots(struct cursor *c, size_t count, uint32_t bound, uint32_t **slots,
                       size_t *slot_count)
{
    if (count == 0) return true;
    if (count > (size_t)(c->end - c->at) / sizeof **slots) return false;
    *slots = mem_try(count * sizeof **slots);
    if (!*slots || !take(c, *slots, count * sizeof **slots)) return false;
    *slot_count = count;
    for (size_t i = 0; i < count; i++)
        if ((*slots)[i] >= bound) return false;
    return true;
}

static bool take_runs(struct cursor *c, size_t count, uint32_t slot_count, uint32_t **slots,
                      size_t *slots_count)
{
    struct disk_index_run run;
    struct cursor again = *c;
    uint64_t end = 0, all = 0;
    for (size_t i = 0; i < count; i++) {
        if (!take(c, &run, sizeof run) || run.count == 0 || (i && run.first <= end)) return false;
        end = (uint64_t)run.first + run.count;
        all += run.count;
        if (end > slot_count) return false;
    }
    if (all == 0) return true;
    *slots = mem_try(all * sizeof **slots);
    if (!*slots) return false;
    for (size_t i = 0; i < count; i++) {
        if (!take(&again, &run, sizeof run)) return false;
        for (uint32_t k = 0; k < run.count; k++)
            (*slots)[(*slots_count)++] = run.first + k;
    }
    return true;
}

static bool take_effort(struct cursor *c, const struct disk_index *d, struct effort_table *effort)
{
    if (d->step_count > EFFORT_STEPS || (d->effort_rows == 0) != (d->step_count == 0)) return false;
    effort->rows = d->effort_rows;
    effort->queries = d->effort_queries;
    effort->steps = d->step_count;
    for (uint32_t i = 0; i < d->step_count; i++) {
        struct disk_index_effort step;
        if (!take(c, &step, sizeof step) || step.ef < 1 || step.ef > EFFORT_MAX) return false;
        effort->ef[i] = step.ef;
        for (int k = 0; k < EFFORT_KS; k++) {
            if (!(step.recall[k] >= 0 && step.recall[k] <= 1)) return false;
            if (!(step.error[k] >= 0 && step.error[k] <= 1)) return false;
            effort->recall[k][i] = step.recall[k];
            effort->error[k][i] = step.error[k];
        }
    }
    return true;
}

static bool take_mean(struct cursor *c, const struct disk_index *d, const struct schema *schema,
                      struct index_record *r)
{
    if (d->mean_count == 0) return d->codec == CODEC_FLOAT32;
    if (d->mean_count != schema->dimension) return false;
    r->mean = mem_try(d->mean_count * sizeof(float));
    if (!r->mean || !take(c, r->mean, d->mean_count * sizeof(float))) return false;
    for (uint32_t i = 0; i < d->mean_count; i++)
        if (!isfinite(r->mean[i])) return false;
    return true;
}

static bool head_is_sane(const struct disk_index *d, uint32_t slot_count)
{
    return d->codec < CODEC_KIND_COUNT && d->degree >= 2 && d->degree % 2 == 0 &&
           d->degree / 2 + 1 <= INDEX_M_MAX && d->ef_construction >= 1 &&
           d->ef_construction <= EF_MAX && d->seed != 0 && isfinite(d->gain) && d->gain > 0 &&
           isfinite(d->reach2) && d->reach2 >= 0 && d->node_count <= slot_count &&
           d->linked_count <= d->node_count && d->pivot_count <= PIVOTS_MAX &&
           (d->pivot_count > 0 || d->linked_count == 0) && d->aside_run_count <= slot_count &&
           d->run_count <= slot_count;
}

bool index_record_decode(const uint8_t *bytes, size_t count, const struct schema *schema,
                         uint32_t slot_count, struct index_record *r)
{
    struct cursor c = {bytes, bytes + count};
    struct disk_index d;
    *r = (struct index_record){0};
    if (!take(&c, &d, sizeof d) || !head_is_sane(&d, slot_count)) return false;
    r->degree = d.degree;
    r->reach2 = d.reach2;
    r->node_count = d.node_count;
    r->linked_count = d.linked_count;
    r->state.reuse_lsn = d.reuse_lsn;
    bool good =
        take_mean(&c, &d, schema, r) &&
        take_slots(&c, d.pivot_count, d.node_count, &r->pivots, &r->pivot_count) &&
        take_slots(&c, d.extra_count, d.node_count, &r->state.extra_pivots,
                   &r->state.extra_pivot_count) &&
        take_runs(&c, d.aside_run_count, slot_count, &r->state.aside, &r->state.aside_count) &&
        take_runs(&c, d.run_count, slot_count, &r->state.pending, &r->state.pending_count) &&
        take_effort(&c, &d, &r->state.effort) && c.at == c.end;
    r->options = (struct graph_options){.codec = d.codec,
                                        .m = d.degree / 2 + 1,
                                        .ef_construction = d.ef_construction,
                                        .gain = d.gain,
                                        .mean = r->mean,
                                        .seed = d.seed};
    if (!good) index_record_deinit(r);
    return good;
}

bool index_record_fits(const struct index_record *r, const struct graph *g,
                       const struct jvdb_file *f)
{
    const struct {
        enum region_id region;
        uint32_t cell_bytes;
    } parts[] = {{REGION_CODES, g->codec.cell_bytes}, {REGION_LINKS, g->link_bytes}};
    if (g->degree != r->degree) return false;
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        const struct region_shape *shape = &f->shapes[parts[i].region];
        uint32_t extents =
            atomic_load_explicit(&f->extent_count[parts[i].region], memory_order_relaxed);
        if (shape->cell_bytes != parts[i].cell_bytes || extents == 0 ||
            region_capacity(shape, extents) < r->node_count)
            return false;
    }
    return true;
}

void index_record_deinit(struct index_record *r)
{
    mem_free(r->mean);
    mem_free(r->pivots);
    vector_index_state_deinit(&r->state);
    *r = (struct index_record){0};
}

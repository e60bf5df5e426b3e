/* verify_index.c - cell by cell, as index_file_load.c does when the database is opened. */
#include "storage/verify_index.h"

#include <stdlib.h>
#include <string.h>

#include "storage/base/mem.h"
#include "storage/index/index_record.h"

enum { PIECE_BYTES = 1 << 20 };

struct run {
    struct image *img;
    struct graph *g;
    uint32_t node_count;
    uint64_t *linked; /* a bit for each slot that should be */
    uint32_t *generation;
    uint8_t *piece;
    size_t piece_bytes;
    bool (*pace)(void *ctx);
    void *ctx;
    struct index_check *check;
};

static bool bit(const uint64_t *bits, uint32_t i)
{
    return bits[i / 64] >> i % 64 & 1;
}

static void clear_bit(uint64_t *bits, uint32_t i)
{
    bits[i / 64] &= ~(UINT64_C(1) << i % 64);
}

/* Which rows should be linked: those that live, and are neither pending nor aside. */
static bool find_linked(struct run *run, const struct vector_index_state *state)
{
    for (uint32_t i = 0; i < run->node_count; i++) {
        enum image_state good;
        const struct slot *s = image_cell(run->img, REGION_SLOTS, i, &good);
        if (s && good == IMAGE_GOOD && s->death == SLOT_NEVER)
            run->linked[i / 64] |= UINT64_C(1) << i % 64;
        run->generation[i] = s ? s->generation : 0;
        if (i % 4096 == 0 && !run->pace(run->ctx)) return false;
    }
    for (size_t i = 0; i < state->pending_count; i++)
        if (state->pending[i] < run->node_count) clear_bit(run->linked, state->pending[i]);
    for (size_t i = 0; i < state->aside_count; i++)
        if (state->aside[i] < run->node_count) clear_bit(run->linked, state->aside[i]);
    return true;
}

static bool is_good(struct run *run, enum region_id region, uint32_t node, uint8_t *cell)
{
    uint32_t generation = run->generation[node];
    if (region == REGION_CODES) return codec_cell_is_good(&run->g->codec, node, cell, generation);
    struct graph_node *n = (struct graph_node *)(void *)cell;
    return atomic_load_explicit(&n->head, memory_order_relaxed) & NODE_LINKED &&
           graph_node_is_good(run->g, node, generation, n);
}

static void note_bad(struct index_check *check, uint32_t node)
{
    check->cells_bad++;
    if (check->bad_kept < INDEX_BAD_MAX) check->bad[check->bad_kept++] = node;
}

static bool check_region(struct run *run, enum region_id region)
{
    const struct region_shape *shape = &run->img->f.shapes[region];
    for (uint32_t node = 0; node < run->node_count;) {
        uint64_t count = region_run(shape, node), most = run->piece_bytes / shape->cell_bytes;
        if (count > most) count = most;
        if (count > run->node_count - node) count = run->node_count - node;
        uint64_t at = image_place(run->img, region, node);
        bool read = at && image_read(run->img, run->piece, count * shape->cell_bytes, at) == 0;
        for (uint64_t i = 0; i < count; i++, node++) {
            if (!bit(run->linked, node)) continue;
            run->check->cells_checked++;
            if (!read || !is_good(run, region, node, run->piece + i * shape->cell_bytes))
                note_bad(run->check, node);
        }
        if (!run->pace(run->ctx)) return false;
    }
    return true;
}

/* Do record and regions belong together? */
static bool fits(const struct graph *g, const struct index_record *r, const struct jvdb_file *f)
{
    const struct region_shape *codes = &f->shapes[REGION_CODES], *links = &f->shapes[REGION_LINKS];
    return g->degree == r->degree && codes->cell_bytes == g->codec.cell_bytes &&
           links->cell_bytes == g->link_bytes && f->extent_count[REGION_CODES] &&
           f->extent_count[REGION_LINKS] &&
           region_capacity(codes, f->extent_count[REGION_CODES]) >= r->node_count &&
           region_capacity(links, f->extent_count[REGION_LINKS]) >= r->node_count;
}

static enum err_code room(struct run *run, struct err *err)
{
    size_t words = (size_t)run->node_count / 64 + 1;
    run->piece_bytes = PIECE_BYTES;
    for (int r = REGION_CODES; r <= REGION_LINKS; r++)
        if (run->img->f.shapes[r].cell_bytes > run->piece_bytes)
            run->piece_bytes = run->img->f.shapes[r].cell_bytes;
    run->linked = mem_try(words * sizeof *run->linked);
    run->generation = mem_try(((size_t)run->node_count + 1) * sizeof *run->generation);
    run->piece = mem_try_aligned(run->piece_bytes);
    if (!run->linked || !run->generation || !run->piece)
        return err_set(err, ERR_NOMEM, "out of memory to verify a search index");
    memset(run->linked, 0, words * sizeof *run->linked);
    return ERR_OK;
}

static int by_number(const void *a, const void *b)
{
    const uint32_t *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

enum err_code verify_index(struct image *img, bool (*pace)(void *ctx), void *ctx,
                           struct index_check *check, struct err *err)
{
    const struct manifest *m = &img->manifest;
    struct run run = {.img = img, .pace = pace, .ctx = ctx, .check = check};
    struct index_record r;
    *check = (struct index_check){0};
    if (!m->index) return ERR_OK;
    check->is_unusable =
        !index_record_decode(m->index, m->index_bytes, &m->schema, m->counts.slot_count, &r);
    if (check->is_unusable) return ERR_OK;
    enum err_code rc = graph_new(m->schema.metric, m->schema.dimension, &r.options, &run.g, err);
    if (rc) goto out;
    check->is_unusable = !fits(run.g, &r, &img->f);
    if (check->is_unusable) goto out;
    run.node_count = r.node_count;
    rc = room(&run, err);
    if (!rc && find_linked(&run, &r.state) && check_region(&run, REGION_CODES) &&
        check_region(&run, REGION_LINKS) && check->bad_kept)
        qsort(check->bad, check->bad_kept, sizeof check->bad[0], by_number);
out:
    graph_free(run.g);
    mem_free(run.linked);
    mem_free(run.generation);
    mem_free(run.piece);
    index_record_deinit(&r);
    return rc;
}

/* verify_index.c - cell by cell, as index_file_load.c does when the database is opened. */
#include "storage/verify_index.h"

#include <stdlib.h>

#include "storage/base/bits.h"
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

/* Which rows should be linked: those that live, and are neither pending nor aside. */
static bool find_linked(struct run *run, const struct vector_index_state *state)
{
    for (uint32_t i = 0; i < run->node_count; i++) {
        enum image_state good;
        const struct slot *s = image_cell(run->img, REGION_SLOTS, i, &good);
        if (s && good == IMAGE_GOOD && s->death == SLOT_NEVER) bits_add(run->linked, i);
        run->generation[i] = s ? s->generation : 0;
        if (i % 4096 == 0 && !run->pace(run->ctx)) return false;
    }
    for (size_t i = 0; i < state->pending_count; i++)
        if (state->pending[i] < run->node_count) bits_remove(run->linked, state->pending[i]);
    for (size_t i = 0; i < state->aside_count; i++)
        if (state->aside[i] < run->node_count) bits_remove(run->linked, state->aside[i]);
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
            if (!bits_has(run->linked, node)) continue;
            run->check->cells_checked++;
            if (!read || !is_good(run, region, node, run->piece + i * shape->cell_bytes))
                note_bad(run->check, node);
        }
        if (!run->pace(run->ctx)) return false;
    }
    return true;
}

static enum err_code room(struct run *run, struct err *err)
{
    run->piece_bytes = PIECE_BYTES;
    for (int r = REGION_CODES; r <= REGION_LINKS; r++)
        if (run->img->f.shapes[r].cell_bytes > run->piece_bytes)
            run->piece_bytes = run->img->f.shapes[r].cell_bytes;
    run->linked = bits_new(run->node_count);
    run->generation = mem_try(((size_t)run->node_count + 1) * sizeof *run->generation);
    run->piece = mem_try_aligned(run->piece_bytes);
    if (!run->linked || !run->generation || !run->piece)
        return err_set(err, ERR_NOMEM, "out of memory to verify a search index");
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
    check->is_unusable = !index_record_fits(&r, run.g, &img->f);
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

/*
 * flat.c - exact search: compare the visible rows of the snapshot one by one.
 *
 * Distances come out of the kernels in float64 with a fixed order of summation, so the result is
 * the same on every machine, and equal distances are equal: ties are broken by id.
 */
#include "storage/index/nearest.h"

/* Rows to be compared together. */
struct batch {
    struct candidate candidates[EXACT_ROWS_MAX];
    const float *rows[EXACT_ROWS_MAX];
    size_t count;
};

static bool is_excluded(struct reader *r, const struct vector_id *exclude, const struct slot *s)
{
    if (!exclude) return false;
    char copy[ID_BYTES_MAX];
    struct vector_id id = slot_id(r, s, copy);
    return vector_id_compare(&id, exclude) == 0;
}

static void compare(const struct exact *e, struct batch *b, bool once, struct nearest *nearest)
{
    double distances[EXACT_ROWS_MAX], cosines[EXACT_ROWS_MAX] = {0};
    exact_compare(e, b->rows, b->count, distances, cosines);
    for (size_t i = 0; i < b->count; i++) {
        b->candidates[i].distance = distances[i];
        b->candidates[i].cosine = cosines[i];
        if (once)
            nearest_offer_once(nearest, &b->candidates[i]);
        else
            nearest_offer(nearest, &b->candidates[i]);
    }
    b->count = 0;
}

/* Add the row of a slot if it is part of the snapshot. */
static enum err_code add(struct reader *r, const struct vector_id *exclude, uint32_t number,
                         const struct slot *s, struct batch *b, struct err *err)
{
    if (!slot_is_visible(s, r->lsn, r->now_ms) || is_excluded(r, exclude, s)) return ERR_OK;
    const float *row = slot_vector(r, number, s);
    if (!row) return database_damaged(r->db, "a vector", err);
    b->candidates[b->count] = (struct candidate){.slot_number = number, .slot = s};
    b->rows[b->count++] = row;
    return ERR_OK;
}

enum err_code flat_scan(struct reader *r, const struct exact *e, const struct vector_id *exclude,
                        const uint64_t *bits, struct nearest *nearest, struct err *err)
{
    const uint32_t slots_per_block = BLOCK_BYTES / sizeof(struct slot); /* bits of one word */
    struct batch b = {.count = 0};
    for (uint32_t first = 0; first < r->slot_count; first += slots_per_block) {
        uint64_t left = bits ? bits[first / 64] : UINT64_MAX;
        if (!left) continue;
        const struct slot *slots = jvdb_file_read(&r->store->file, REGION_SLOTS, first);
        if (!slots) return database_damaged(r->db, "a slot", err);
        uint32_t end =
            r->slot_count - first < slots_per_block ? r->slot_count - first : slots_per_block;
        for (; left; left &= left - 1) {
            uint32_t i = (uint32_t)__builtin_ctzll(left);
            if (i >= end) break;
            enum err_code rc = add(r, exclude, first + i, &slots[i], &b, err);
            if (rc) return rc;
            if (b.count == EXACT_ROWS_MAX) compare(e, &b, false, nearest);
        }
    }
    compare(e, &b, false, nearest);
    return ERR_OK;
}

enum err_code flat_scan_list(struct reader *r, const struct exact *e,
                             const struct vector_id *exclude, const uint32_t *slots, size_t count,
                             bool once, struct nearest *nearest, struct err *err)
{
    struct batch b = {.count = 0};
    for (size_t i = 0; i < count; i++) {
        if (slots[i] >= r->slot_count) continue; /* it came after the snapshot */
        const struct slot *s = jvdb_file_read(&r->store->file, REGION_SLOTS, slots[i]);
        if (!s) return database_damaged(r->db, "a slot", err);
        enum err_code rc = add(r, exclude, slots[i], s, &b, err);
        if (rc) return rc;
        if (b.count == EXACT_ROWS_MAX) compare(e, &b, once, nearest);
    }
    compare(e, &b, once, nearest);
    return ERR_OK;
}

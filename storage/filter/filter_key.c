/*
 * filter_key.c - a compiled filter as bytes.
 *
 * Terms in the order of the tree, each an operator; AND, OR and NOT are followed by their parts and
 * an END, conditions by their field and operands.  Every part says how long it is, so no two trees
 * share a key.  Nothing else than what decides about a row is in it.
 */
#include <string.h>

#include "storage/base/mem.h"
#include "storage/filter/filter_private.h"

enum { END = 0xff };

struct writer {
    uint8_t *at, *end;
    bool full;
};

static void put(struct writer *w, const void *from, size_t bytes)
{
    if (bytes > (size_t)(w->end - w->at)) w->full = true;
    if (w->full || bytes == 0) return;
    memcpy(w->at, from, bytes);
    w->at += bytes;
}

static void put_byte(struct writer *w, unsigned byte)
{
    put(w, &(uint8_t){(uint8_t)byte}, 1);
}

static void put_text(struct writer *w, const char *text, uint32_t bytes)
{
    put(w, &bytes, sizeof bytes);
    put(w, text, bytes);
}

static void put_number(struct writer *w, const struct number *n)
{
    put_byte(w, n->is_whole ? 1 + n->is_negative : 0);
    if (n->is_whole)
        put(w, &n->magnitude, sizeof n->magnitude);
    else
        put(w, &n->real, sizeof n->real);
}

static void put_value(struct writer *w, const struct value *v)
{
    put_byte(w, v->kind);
    if (v->kind == VALUE_NUMBER) put_number(w, &v->number);
    if (v->kind == VALUE_STRING || v->kind == VALUE_TIME) put_text(w, v->text, v->bytes);
}

static void put_leaf(struct writer *w, const struct field *f, const struct leaf *leaf)
{
    put_byte(w, f->path ? 1 : 0);
    if (f->path) put_text(w, f->path, f->path_bytes);
    put_byte(w, f->is_datetime);
    if (leaf->op == FILTER_GEO_RADIUS) {
        put(w, &leaf->circle.center.lat, sizeof leaf->circle.center.lat);
        put(w, &leaf->circle.center.lon, sizeof leaf->circle.center.lon);
        put(w, &leaf->circle.meters, sizeof leaf->circle.meters);
    } else if (leaf->op == FILTER_GEO_BOX) {
        put(w, (const double[]){leaf->box.top, leaf->box.left, leaf->box.bottom, leaf->box.right},
            4 * sizeof(double));
    } else {
        put(w, &leaf->value_count, sizeof leaf->value_count);
        for (size_t i = 0; i < leaf->value_count && !w->full; i++)
            put_value(w, &leaf->values[i]);
    }
}

/* Recursion is as deep as filter_compile() lets it be. */
static void put_term(struct writer *w, const struct filter *f, const struct term *t)
{
    put_byte(w, t->op);
    if (t->op > FILTER_NOT) {
        const struct leaf *leaf = &f->leaves[t->leaf];
        put_leaf(w, &f->fields[leaf->field], leaf);
        return;
    }
    for (const struct term *part = t->first; part && !w->full; part = part->next)
        put_term(w, f, part);
    put_byte(w, END);
}

/* Eight bytes at a time, each mixed in by a multiplication (as in FxHash of Firefox), and the high
 * bits, which depend on all, folded down at the end. */
static uint64_t hash(const uint8_t *key, size_t bytes)
{
    const uint64_t factor = 0x9e3779b97f4a7c15;
    uint64_t h = bytes * factor, word;
    for (; bytes >= sizeof word; key += sizeof word, bytes -= sizeof word) {
        memcpy(&word, key, sizeof word);
        h = ((h << 23 | h >> 41) ^ word) * factor;
    }
    word = 0;
    memcpy(&word, key, bytes);
    h = ((h << 23 | h >> 41) ^ word) * factor;
    return h ^ h >> 32;
}

enum err_code filter_set_key(struct filter *f, struct arena *arena, struct err *err)
{
    uint8_t bytes[FILTER_KEY_BYTES_MAX] UNINITIALIZED;
    struct writer w = {bytes, bytes + sizeof bytes, false};
    put_term(&w, f, f->tree);
    if (w.full) return ERR_OK;
    size_t count = (size_t)(w.at - bytes);
    f->key = arena_copy(arena, bytes, count);
    if (!f->key) return err_set(err, ERR_NOMEM, "out of memory for a filter");
    f->key_bytes = (uint32_t)count;
    f->hash = hash(bytes, count);
    return ERR_OK;
}

/*
 * select.c - the rows of a snapshot that match, a chunk of slots at a time.
 *
 * For each condition there are two sets of rows, as bits: those for which it MUST hold, and those
 * for which it MAY, for all that the columns know.  AND, OR and NOT combine both word by word.  In
 * the end the rows in `may` that are not in `must` are tried, one by one, by their metadata; what
 * is not visible in the snapshot is left out from the start.  So columns may be missing, old or
 * incomplete: that costs time, and the result is the same.
 *
 * Chunks of columns are filled here, too: the first selection that finds one missing does it, since
 * it would have to read all of the metadata anyway.
 */
#include <stdlib.h>
#include <string.h>

#include "storage/base/mem.h"
#include "storage/database_private.h"
#include "storage/filter/columns.h"
#include "storage/records.h"

/* What a thread that must not wait may do: about 200 us. */
enum {
    INLINE_ROWS_MAX = 400,            /* rows to be tried, or put into a chunk */
    INLINE_SLOTS_MAX = 32768,         /* slots to be looked at one by one      */
    INLINE_CHUNK_CONDITIONS_MAX = 64, /* conditions times chunks               */
    INLINE_IDS_MAX = 200,
};

enum { NO_SOURCE = UINT32_MAX };

/* Where the answers to some conditions come from, and what it knows of the chunk at hand. */
struct source {
    struct column *column; /* NULL: there is none */
    uint32_t field;
    enum column_kind kind;
    uint32_t looked_at; /* chunk + 1 that the rest is about */
    const struct column_chunk *chunk;
    bool has_newer;
    uint64_t newer[CHUNK_WORDS]; /* rows that are not of the life that the chunk knows */
};

/* A condition on the id that names ids: their slots, ascending. */
struct id_set {
    uint32_t *slots;
    size_t count;
};

struct selection {
    struct reader *r;
    const struct filter *filter;
    bool may_block;
    struct err *err;
    struct matcher matcher;
    struct source *sources;
    uint32_t source_count;
    uint32_t *source_of; /* leaf -> source */
    struct id_set *ids;  /* leaf -> its slots; slots NULL: it names none */
    uint64_t rows_tried, rows_built;

    uint32_t chunk;
    uint64_t visible[CHUNK_WORDS];
    struct bounds *bounds; /* one for each level of the tree */
};

struct bounds {
    uint64_t must[CHUNK_WORDS], may[CHUNK_WORDS];
};

static enum err_code no_memory(struct selection *s)
{
    return err_set(s->err, ERR_NOMEM, "out of memory for a filter");
}

static enum err_code too_long(struct selection *s)
{
    return err_set(s->err, ERR_WOULD_COMPUTE, "a long scan of metadata");
}

static uint64_t count_bits(const uint64_t *words, size_t count)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < count; i++) {
        uint64_t x = words[i];
        x -= x >> 1 & 0x5555555555555555u;
        x = (x & 0x3333333333333333u) + (x >> 2 & 0x3333333333333333u);
        x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fu;
        sum += x * 0x0101010101010101u >> 56;
    }
    return sum;
}

/* ---- rows by their metadata ---- */

/* Called for each row of a set. */
typedef enum err_code row_fn(struct selection *s, void *ctx, uint32_t slot_in_chunk,
                             const struct vector_id *id, const struct record *record);

static enum err_code for_rows(struct selection *s, const uint64_t rows[CHUNK_WORDS], row_fn *fn,
                              void *ctx)
{
    for (uint32_t w = 0; w < CHUNK_WORDS; w++) {
        if (!rows[w]) continue;
        uint64_t first = (uint64_t)s->chunk * CHUNK_SLOTS + w * 64;
        const struct slot *slots = jvdb_file_read(&s->r->store->file, REGION_SLOTS, first);
        if (!slots) return database_damaged(s->r->db, "a slot", s->err);
        for (uint64_t left = rows[w]; left; left &= left - 1) {
            uint32_t i = (uint32_t)__builtin_ctzll(left);
            struct record record;
            struct vector_id id;
            enum err_code rc = slot_metadata(s->r, &slots[i], &id, &record, s->err);
            if (!rc) rc = fn(s, ctx, w * 64 + i, &id, &record);
            if (rc) return rc;
        }
    }
    return ERR_OK;
}

static enum err_code try_row(struct selection *s, void *ctx, uint32_t slot_in_chunk,
                             const struct vector_id *id, const struct record *record)
{
    uint64_t *must = ctx;
    bool matches;
    enum err_code rc =
        matcher_try(&s->matcher, id, record->metadata, record->metadata_bytes, &matches, s->err);
    if (!rc) must[slot_in_chunk / 64] |= (uint64_t)matches << slot_in_chunk % 64;
    return rc;
}

/* ---- columns ---- */

static enum err_code add_to_builder(struct selection *s, void *ctx, uint32_t slot_in_chunk,
                                    const struct vector_id *id, const struct record *record)
{
    (void)s, (void)id;
    column_builder_add(ctx, slot_in_chunk, record->metadata, record->metadata_bytes);
    return ERR_OK;
}

/* Fill a chunk, or bring it up to date.  Without memory the source stays as it is. */
static enum err_code build(struct selection *s, struct source *src)
{
    const struct field *f = &s->filter->fields[src->field];
    uint64_t keep[CHUNK_WORDS], add[CHUNK_WORDS];
    for (uint32_t w = 0; w < CHUNK_WORDS; w++) {
        uint64_t known = src->chunk ? column_chunk_known(src->chunk)[w] : 0;
        if (src->has_newer) known &= ~src->newer[w];
        keep[w] = s->visible[w] & known;
        add[w] = s->visible[w] & ~known;
    }
    uint64_t rows = count_bits(add, CHUNK_WORDS);
    bool is_small = rows <= INLINE_ROWS_MAX && !src->chunk;
    if (!s->may_block && (!is_small || s->rows_built + rows > INLINE_ROWS_MAX)) return too_long(s);
    s->rows_built += rows;
    struct column_builder *b =
        column_builder_new(src->kind, f->path, f->path_bytes, src->chunk, keep);
    if (!b) return ERR_OK;
    enum err_code rc = for_rows(s, add, add_to_builder, b);
    if (rc) {
        column_builder_free(b);
        return rc;
    }
    struct column_chunk *chunk = column_builder_finish(b, s->r->lsn);
    if (!chunk) return ERR_OK;
    columns_publish(s->r->store->columns, src->column, s->chunk, src->chunk, chunk,
                    s->r->slot_count);
    src->chunk = chunk;
    src->has_newer = false;
    return ERR_OK;
}

static enum err_code find_newer(struct selection *s, struct source *src)
{
    return visibility_born_after(s->r, s->chunk, column_chunk_lsn(src->chunk), s->visible,
                                 src->newer, &src->has_newer, s->err);
}

/* What the source knows of the chunk at hand. */
static enum err_code look_at_chunk(struct selection *s, struct source *src)
{
    if (src->looked_at == s->chunk + 1) return ERR_OK;
    src->looked_at = s->chunk + 1;
    src->has_newer = false;
    src->chunk = columns_chunk(src->column, s->chunk);
    bool has_room = columns_has_room(s->r->store->columns, src->column);
    if (!src->chunk) return has_room ? build(s, src) : ERR_OK;
    enum err_code rc = find_newer(s, src);
    if (rc || !src->has_newer) return rc;
    uint64_t newer = count_bits(src->newer, CHUNK_WORDS);
    bool is_worn = columns_wear(src->column, s->chunk, newer) && has_room;
    if (!is_worn || (!s->may_block && s->rows_tried + newer <= INLINE_ROWS_MAX)) return ERR_OK;
    return build(s, src);
}

/* ---- conditions ---- */

static void set_unknown(struct bounds *b)
{
    memset(b->must, 0, sizeof b->must);
    memset(b->may, 0xff, sizeof b->may);
}

static void select_ids(struct selection *s, const struct id_set *ids, struct bounds *b)
{
    uint64_t first = (uint64_t)s->chunk * CHUNK_SLOTS;
    size_t low = 0, high = ids->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (ids->slots[middle] < first)
            low = middle + 1;
        else
            high = middle;
    }
    memset(b->must, 0, sizeof b->must);
    for (; low < ids->count && ids->slots[low] - first < CHUNK_SLOTS; low++) {
        uint64_t i = ids->slots[low] - first;
        b->must[i / 64] |= UINT64_C(1) << i % 64;
    }
    memcpy(b->may, b->must, sizeof b->may);
}

static enum err_code select_leaf(struct selection *s, uint32_t number, struct bounds *b)
{
    const struct leaf *leaf = &s->filter->leaves[number];
    if (s->ids[number].slots) {
        select_ids(s, &s->ids[number], b);
        return ERR_OK;
    }
    struct source *src =
        s->source_of[number] == NO_SOURCE ? NULL : &s->sources[s->source_of[number]];
    if (!src || !src->column) {
        set_unknown(b);
        return ERR_OK;
    }
    enum err_code rc = look_at_chunk(s, src);
    if (rc) return rc;
    if (!src->chunk) {
        set_unknown(b);
        return ERR_OK;
    }
    column_chunk_select(src->chunk, leaf, s->matcher.workspace, b->must, b->may);
    for (uint32_t w = 0; src->has_newer && w < CHUNK_WORDS; w++) {
        b->must[w] &= ~src->newer[w];
        b->may[w] |= src->newer[w];
    }
    return ERR_OK;
}

/* The bounds of a term, for the visible rows at least; those of its parts are the next level's.
 * Recursion is as deep as filter_compile() lets it be. */
static enum err_code select_term(struct selection *s, const struct term *t, struct bounds *b)
{
    bool is_and = t->op == FILTER_AND;
    if (t->op > FILTER_NOT) return select_leaf(s, t->leaf, b);
    memset(b->must, is_and ? 0xff : 0, sizeof b->must);
    memset(b->may, is_and ? 0xff : 0, sizeof b->may);
    for (const struct term *part = t->first; part; part = part->next) {
        struct bounds *of_part = b + 1;
        uint64_t open = 0; /* visible rows that the next parts can still decide about */
        enum err_code rc = select_term(s, part, of_part);
        if (rc) return rc;
        for (uint32_t w = 0; w < CHUNK_WORDS; w++) {
            b->must[w] = is_and ? b->must[w] & of_part->must[w] : b->must[w] | of_part->must[w];
            b->may[w] = is_and ? b->may[w] & of_part->may[w] : b->may[w] | of_part->may[w];
            open |= s->visible[w] & (is_and ? b->may[w] : ~b->must[w]);
        }
        if (!open) break;
    }
    for (uint32_t w = 0; t->op == FILTER_NOT && w < CHUNK_WORDS; w++) {
        uint64_t must = b->must[w];
        b->must[w] = ~b->may[w];
        b->may[w] = ~must;
    }
    return ERR_OK;
}

/* The chunk at hand: `bits` are its words of the result. */
static enum err_code select_chunk(struct selection *s, uint64_t *bits, size_t words)
{
    uint64_t open[CHUNK_WORDS];
    struct bounds *b = &s->bounds[0];
    enum err_code rc = visibility_words(s->r, s->chunk, s->visible, s->err);
    if (rc) return rc;
    if (!s->filter) {
        memcpy(bits, s->visible, words * sizeof *bits);
        return ERR_OK;
    }
    rc = select_term(s, s->filter->tree, b);
    if (rc) return rc;
    for (uint32_t w = 0; w < CHUNK_WORDS; w++) {
        b->must[w] &= s->visible[w];
        open[w] = b->may[w] & s->visible[w] & ~b->must[w];
    }
    uint64_t rows = count_bits(open, CHUNK_WORDS);
    s->rows_tried += rows;
    if (!s->may_block && s->rows_tried > INLINE_ROWS_MAX) return too_long(s);
    if (rows) rc = for_rows(s, open, try_row, b->must);
    memcpy(bits, b->must, words * sizeof *bits);
    return rc;
}

/* ---- before and after ---- */

static int by_number(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* Look up the ids that a condition names. */
static enum err_code find_ids(struct selection *s, uint32_t number)
{
    const struct leaf *leaf = &s->filter->leaves[number];
    struct id_set *ids = &s->ids[number];
    if (leaf->field != s->filter->id_field || (leaf->op != FILTER_EQ && leaf->op != FILTER_IN))
        return ERR_OK;
    if (!s->may_block && leaf->value_count > INLINE_IDS_MAX) return too_long(s);
    ids->slots = mem_try((leaf->value_count + 1) * sizeof *ids->slots);
    if (!ids->slots) return no_memory(s);
    for (size_t i = 0; i < leaf->value_count; i++) {
        const struct value *v = &leaf->values[i];
        struct vector_id id = {.text = v->text, .text_bytes = v->bytes};
        if (v->kind == VALUE_NUMBER) {
            if (!v->number.is_whole || v->number.is_negative || v->number.magnitude > INT64_MAX)
                continue;
            id = (struct vector_id){.number = v->number.magnitude};
        } else if (v->kind != VALUE_STRING || v->bytes == 0 || v->bytes > ID_BYTES_MAX) {
            continue;
        }
        enum err_code rc = reader_find(s->r, &id, &ids->slots[ids->count], s->err);
        ids->count += rc == ERR_OK;
        if (rc && rc != ERR_VECTOR_NOT_FOUND) return rc;
    }
    qsort(ids->slots, ids->count, sizeof *ids->slots, by_number);
    return ERR_OK;
}

static bool is_wanted(const struct field *f, enum column_kind kind)
{
    switch (kind) {
    case COLUMN_TIMES:
        return f->is_datetime;
    case COLUMN_POINTS:
        return f->is_geo;
    case COLUMN_WORDS:
        return f->is_text;
    default:
        return f->is_scalar;
    }
}

/* Find the column for each condition; those on one field share it. */
static void find_sources(struct selection *s)
{
    const struct filter *f = s->filter;
    for (uint32_t i = 0; i < f->leaf_count; i++) {
        uint32_t field = f->leaves[i].field, k = 0;
        enum column_kind kind = column_kind_of(f, &f->leaves[i]);
        s->source_of[i] = NO_SOURCE;
        if (field == f->id_field || kind == COLUMN_KIND_COUNT) continue;
        while (k < s->source_count && (s->sources[k].field != field || s->sources[k].kind != kind))
            k++;
        s->source_of[i] = k;
        if (k < s->source_count) continue;
        struct source *src = &s->sources[s->source_count++];
        src->field = field;
        src->kind = kind;
        src->looked_at = 0;
        src->column =
            columns_find(s->r->store->columns, f->fields[field].path, f->fields[field].path_bytes,
                         kind, is_wanted(&f->fields[field], kind));
    }
}

static uint32_t term_depth(const struct term *t)
{
    uint32_t deepest = 0;
    for (const struct term *part = t->first; part; part = part->next) {
        uint32_t depth = term_depth(part);
        if (depth > deepest) deepest = depth;
    }
    return deepest + 1;
}

static enum err_code selection_init(struct selection *s)
{
    const struct filter *f = s->filter;
    uint32_t depth = f ? term_depth(f->tree) : 1, leaves = f ? f->leaf_count : 0;
    s->bounds = mem_try(depth * sizeof *s->bounds);
    s->sources = mem_try((leaves + 1) * sizeof *s->sources);
    s->source_of = mem_try((leaves + 1) * sizeof *s->source_of);
    s->ids = mem_try((leaves + 1) * sizeof *s->ids);
    if (s->ids) memset(s->ids, 0, (leaves + 1) * sizeof *s->ids);
    if (!s->bounds || !s->sources || !s->source_of || !s->ids) return no_memory(s);
    if (!f) return ERR_OK;
    enum err_code rc = matcher_init(&s->matcher, f, s->err);
    for (uint32_t i = 0; i < leaves && !rc; i++)
        rc = find_ids(s, i);
    if (!rc) find_sources(s);
    return rc;
}

static void selection_deinit(struct selection *s)
{
    matcher_deinit(&s->matcher);
    for (uint32_t i = 0; s->ids && s->filter && i < s->filter->leaf_count; i++)
        mem_free(s->ids[i].slots);
    mem_free(s->ids);
    mem_free(s->bounds);
    mem_free(s->sources);
    mem_free(s->source_of);
}

/* Rows were tried, perhaps for want of a column. */
static void note_wants(struct selection *s)
{
    if (s->rows_tried == 0) return;
    for (uint32_t i = 0; i < s->source_count; i++) {
        const struct source *src = &s->sources[i];
        const struct field *f = &s->filter->fields[src->field];
        if (!src->column)
            columns_note(s->r->store->columns, f->path, f->path_bytes, src->kind, s->rows_tried);
    }
}

static enum err_code select_all(struct selection *s, uint64_t *bits)
{
    struct reader *r = s->r;
    uint64_t untracked = visibility_untracked(r);
    uint64_t conditions = s->filter ? s->filter->leaf_count + 1 : 1;
    if (!s->may_block && (untracked > INLINE_SLOTS_MAX ||
                          conditions * visibility_chunks(r) > INLINE_CHUNK_CONDITIONS_MAX))
        return too_long(s);
    enum err_code rc = selection_init(s);
    if (!rc && untracked) visibility_track(r);
    size_t words = filter_words(r);
    for (s->chunk = 0; s->chunk < visibility_chunks(r) && !rc; s->chunk++) {
        size_t first = (size_t)s->chunk * CHUNK_WORDS;
        size_t of_chunk = words - first < CHUNK_WORDS ? words - first : CHUNK_WORDS;
        rc = select_chunk(s, bits + first, of_chunk);
    }
    if (!rc) note_wants(s);
    return rc;
}

enum err_code filter_select(struct reader *r, const struct filter *filter, bool may_block,
                            uint64_t *bits, uint64_t *count, struct err *err)
{
    struct selection s = {.r = r, .filter = filter, .may_block = may_block, .err = err};
    *count = 0;
    enum err_code rc = database_check_readable(r->db, err);
    if (!rc) rc = select_all(&s, bits);
    selection_deinit(&s);
    rc = reader_check(r, rc, err);
    if (!rc) *count = count_bits(bits, filter_words(r));
    return rc;
}

enum err_code filter_select_again(struct reader *r, const struct filter *filter, uint64_t since,
                                  uint64_t *bits, uint64_t *count, struct err *err)
{
    struct selection s = {.r = r, .filter = filter, .err = err};
    size_t words = filter_words(r);
    *count = 0;
    enum err_code rc = matcher_init(&s.matcher, filter, err);
    for (s.chunk = 0; s.chunk < visibility_chunks(r) && !rc; s.chunk++) {
        uint64_t must[CHUNK_WORDS] = {0}, open[CHUNK_WORDS] = {0};
        size_t first = (size_t)s.chunk * CHUNK_WORDS;
        rc = visibility_words(r, s.chunk, s.visible, err);
        for (size_t w = 0; w < CHUNK_WORDS && first + w < words && !rc; w++) {
            if (visibility_changed_after(r, (uint32_t)(first + w) * 64, since))
                open[w] = s.visible[w];
            else
                must[w] = s.visible[w] & bits[first + w];
        }
        if (!rc) rc = for_rows(&s, open, try_row, must);
        for (size_t w = 0; w < CHUNK_WORDS && first + w < words && !rc; w++)
            bits[first + w] = must[w];
    }
    selection_deinit(&s);
    rc = reader_check(r, rc, err);
    if (!rc) *count = count_bits(bits, words);
    return rc;
}

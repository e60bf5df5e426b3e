/*
 * column_build.c - from metadata to a chunk.
 *
 * While rows come in, values are interned (a hash table of those seen so far) and (value, row)
 * pairs are appended; a row that turns out to be strange takes its pairs back.  In the end values
 * are sorted, pairs are distributed over them by counting, and all is laid out in one piece of
 * memory.  Values of an older chunk come in sorted and are merged with the new ones.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "storage/base/bits.h"
#include "storage/base/clock.h"
#include "storage/base/mem.h"
#include "storage/filter/column_private.h"

enum {
    /* Rows with more are not known: they would be most of the memory, and are seldom. */
    ROW_VALUES_MAX = 256,
    ROW_WORDS_MAX = 4096,
    TEXT_BYTES_MAX = 512,
    /* Beyond this the rest of the rows stay unknown. */
    PAIRS_MAX = CHUNK_SLOTS * 64,
    TEXTS_BYTES_MAX = CHUNK_SLOTS * 256,
    /* As many different numbers are kept as values with lists, more are kept by row. */
    LISTED_NUMBERS_MAX = 64,
    NOT_IN = -1
};

struct pair {
    uint32_t value;
    uint16_t slot;
};

struct column_builder {
    enum column_kind kind;
    struct metadata_path path;
    struct metadata_walk walk;
    struct arena arena; /* of texts */
    uint64_t seed;
    bool failed; /* out of memory */

    struct value *values;
    uint32_t *last_row; /* of each value: slot + 1 of its last pair, so that none comes twice */
    uint32_t value_count, value_cap;
    uint32_t sorted_count; /* the first of them are sorted already */
    uint32_t *table;       /* value + 1, 0: free */
    uint32_t table_mask;
    struct pair *pairs;
    uint32_t pair_count, pair_cap;
    size_t texts_bytes;

    uint64_t known[CHUNK_WORDS], there[CHUNK_WORDS], array[CHUNK_WORDS];
    /* Rows with one value only that may be kept by row. */
    uint64_t has_row_value[CHUNK_WORDS];
    union {
        struct number *numbers;
        struct instant *instants;
        struct geo_point *points;
    } rows; /* NULL until there is one */

    struct {
        uint32_t slot;
        uint32_t first_pair;
        uint32_t values, strings, points;
        bool is_there, has_array, has_plain, is_strange;
        bool has_single; /* the first and so far only value is `single` */
        struct value single;
        struct geo_point point;
    } row;
};

bool instant_to_nanoseconds(const struct instant *at, int64_t *nanoseconds)
{
    const int64_t seconds_max = INT64_MAX / 1000000000 - 1;
    if (at->seconds > seconds_max || at->seconds < -seconds_max) return false;
    *nanoseconds = at->seconds * 1000000000 + at->nanoseconds;
    return true;
}

/* ---- values ---- */

static uint64_t mix(uint64_t h, uint64_t x)
{
    h = (h ^ x) * 0x9e3779b97f4a7c15u;
    return h ^ h >> 32;
}

/* With a seed that nobody knows: clients choose the values. */
static uint64_t hash_value(const struct column_builder *b, const struct value *v)
{
    uint64_t h = mix(b->seed, v->kind), word;
    uint32_t i = 0;
    switch (v->kind) {
    case VALUE_NUMBER:
        memcpy(&word, &v->number.real, sizeof word);
        if (!v->number.is_whole) return mix(h, word);
        return mix(mix(h, v->number.is_negative), v->number.magnitude);
    case VALUE_TIME:
        return mix(mix(h, (uint64_t)v->instant.seconds), v->instant.nanoseconds);
    case VALUE_STRING:
        for (; i + 8 <= v->bytes; i += 8) {
            memcpy(&word, v->text + i, 8);
            h = mix(h, word);
        }
        word = 0;
        memcpy(&word, v->text + i, v->bytes - i);
        return mix(mix(h, word), v->bytes);
    default:
        return h;
    }
}

/* Room for one more thing; NULL: out of memory, and the builder knows. */
static void *grown(struct column_builder *b, void *things, uint32_t count, uint32_t *cap,
                   size_t size)
{
    if (count < *cap) return things;
    uint32_t wider_cap = *cap ? 2 * *cap : 256;
    void *wider = mem_resize(things, wider_cap * size);
    if (!wider)
        b->failed = true;
    else
        *cap = wider_cap;
    return wider;
}

static bool table_grow(struct column_builder *b)
{
    uint32_t size = b->table ? 2 * (b->table_mask + 1) : 512;
    uint32_t *table = mem_try(size * sizeof *table);
    if (!table) return false;
    memset(table, 0, size * sizeof *table);
    for (uint32_t i = 0; i < b->value_count; i++) {
        uint32_t at = (uint32_t)hash_value(b, &b->values[i]) & (size - 1);
        while (table[at])
            at = (at + 1) & (size - 1);
        table[at] = i + 1;
    }
    mem_free(b->table);
    b->table = table;
    b->table_mask = size - 1;
    return true;
}

static bool values_reserve(struct column_builder *b)
{
    uint32_t cap = b->value_cap;
    struct value *values = grown(b, b->values, b->value_count, &cap, sizeof *values);
    if (!values) return false;
    b->values = values;
    if (cap == b->value_cap) return true;
    uint32_t *last_row = mem_resize(b->last_row, cap * sizeof *last_row);
    if (!last_row) return false;
    b->last_row = last_row;
    b->value_cap = cap;
    return true;
}

/* The number of a value, new or not; NOT_IN: out of memory.  The text stays where it is if
 * `is_lasting`. */
static int64_t intern(struct column_builder *b, const struct value *v, bool is_lasting)
{
    if (2 * b->value_count >= (b->table ? b->table_mask : 0) && !table_grow(b)) goto failed;
    uint32_t at = (uint32_t)hash_value(b, v) & b->table_mask;
    for (; b->table[at]; at = (at + 1) & b->table_mask)
        if (value_compare(&b->values[b->table[at] - 1], v) == 0) return b->table[at] - 1;

    if (!values_reserve(b)) goto failed;
    struct value *kept = &b->values[b->value_count];
    *kept = *v;
    if (v->kind == VALUE_STRING) {
        kept->text = is_lasting ? v->text : arena_copy(&b->arena, v->text, v->bytes);
        if (!kept->text) goto failed;
        b->texts_bytes += v->bytes;
    }
    b->last_row[b->value_count] = 0;
    b->table[at] = ++b->value_count;
    return b->value_count - 1;
failed:
    b->failed = true;
    return NOT_IN;
}

static void add_pair(struct column_builder *b, int64_t value, uint32_t slot)
{
    if (value == NOT_IN || b->last_row[value] == slot + 1) return;
    struct pair *pairs = grown(b, b->pairs, b->pair_count, &b->pair_cap, sizeof *pairs);
    if (!pairs) return;
    b->pairs = pairs;
    b->pairs[b->pair_count++] = (struct pair){(uint32_t)value, (uint16_t)slot};
    b->last_row[value] = slot + 1;
}

/* ---- rows ---- */

static bool rows_reserve(struct column_builder *b)
{
    if (b->rows.numbers) return true;
    size_t size = b->kind == COLUMN_POINTS  ? sizeof(struct geo_point)
                  : b->kind == COLUMN_TIMES ? sizeof(struct instant)
                                            : sizeof(struct number);
    b->rows.numbers = mem_try(CHUNK_SLOTS * size);
    if (b->rows.numbers) return true;
    b->failed = true;
    return false;
}

static bool goes_by_row(const struct column_builder *b, const struct value *v)
{
    return v->kind == (b->kind == COLUMN_TIMES ? VALUE_TIME : VALUE_NUMBER) && !v->in_array;
}

static void add_scalar(struct column_builder *b, const struct value *of_row)
{
    struct value v = *of_row;
    if (v.bytes > TEXT_BYTES_MAX || ++b->row.values > ROW_VALUES_MAX) {
        b->row.is_strange = true;
        return;
    }
    if (b->kind == COLUMN_TIMES) value_take_for_time(&v);
    if (b->row.values == 1 && goes_by_row(b, &v)) {
        b->row.single = v;
        b->row.has_single = true;
        return;
    }
    if (b->row.has_single) {
        b->row.has_single = false;
        add_pair(b, intern(b, &b->row.single, false), b->row.slot);
    }
    add_pair(b, intern(b, &v, false), b->row.slot);
}

static void add_words(struct column_builder *b, const struct value *of_row)
{
    struct words rest = {of_row->text, of_row->text + of_row->bytes};
    char word[WORD_BYTES_MAX];
    struct value v = {.kind = VALUE_STRING, .text = word};
    b->row.strings++;
    while (words_next(&rest, word, &v.bytes)) {
        if (++b->row.values > ROW_WORDS_MAX) {
            b->row.is_strange = true;
            return;
        }
        add_pair(b, intern(b, &v, false), b->row.slot);
    }
}

static bool note_value(void *ctx, unsigned path, const struct value *v)
{
    struct column_builder *b = ctx;
    (void)path;
    b->row.is_there = true;
    if (v->kind == VALUE_ARRAY && !v->in_array) {
        b->row.has_array = true;
        return true;
    }
    if (!v->in_array) b->row.has_plain = true;
    if (b->kind == COLUMN_POINTS) {
        struct geo_point point;
        if (value_to_point(v, &point)) {
            b->row.point = point;
            b->row.points++;
        }
    } else if (b->kind == COLUMN_WORDS) {
        if (v->kind == VALUE_STRING) add_words(b, v);
    } else if (v->kind <= VALUE_STRING) {
        add_scalar(b, v);
    }
    return !b->failed && !b->row.is_strange;
}

static void end_row(struct column_builder *b)
{
    uint32_t slot = b->row.slot;
    /* An array and something else, by objects in arrays: which of the values is an element? */
    if (b->row.has_array && b->row.has_plain) b->row.is_strange = true;
    if (b->row.points > 1) b->row.is_strange = true;
    if (b->row.is_strange || b->failed) {
        b->pair_count = b->row.first_pair;
        return;
    }
    bits_add(b->known, slot);
    if (b->row.is_there) bits_add(b->there, slot);
    if (b->kind == COLUMN_WORDS ? b->row.strings > 1 : b->row.has_array) bits_add(b->array, slot);
    if (!(b->row.has_single || b->row.points) || !rows_reserve(b)) return;
    bits_add(b->has_row_value, slot);
    if (b->kind == COLUMN_POINTS)
        b->rows.points[slot] = b->row.point;
    else if (b->kind == COLUMN_TIMES)
        b->rows.instants[slot] = b->row.single.instant;
    else
        b->rows.numbers[slot] = b->row.single.number;
}

void column_builder_add(struct column_builder *b, uint32_t slot, const char *metadata,
                        size_t metadata_bytes)
{
    if (b->failed || b->pair_count > PAIRS_MAX || b->texts_bytes > TEXTS_BYTES_MAX) return;
    memset(&b->row, 0, sizeof b->row);
    b->row.slot = slot;
    b->row.first_pair = b->pair_count;
    metadata_walk(&b->walk, metadata, metadata_bytes);
    if (b->walk.out_of_memory) b->failed = true;
    end_row(b);
}

/* ---- from an older chunk ---- */

/* How many values each row has in lists, up to 2. */
static void count_values_of_rows(const struct column_chunk *old, uint8_t counts[CHUNK_SLOTS])
{
    memset(counts, 0, CHUNK_SLOTS);
    for (uint32_t k = 0; k < old->starts[chunk_value_count(old)]; k++)
        counts[old->slots[k]] += counts[old->slots[k]] < 2;
    for (uint32_t i = 0; i < old->frequent_count; i++)
        for (uint32_t slot = 0; slot < CHUNK_SLOTS; slot++)
            counts[slot] += counts[slot] < 2 && bits_has(old->frequent[i].bits, slot);
}

/* A row of an older chunk has this value, in a list.  If it is its only one and a number, it may
 * be kept by row this time. */
static void keep_pair(struct column_builder *b, const struct value *v, int64_t *value,
                      uint32_t slot, const uint8_t counts[CHUNK_SLOTS])
{
    if (goes_by_row(b, v) && counts[slot] == 1 && !bits_has(b->array, slot) &&
        b->kind != COLUMN_WORDS) {
        if (!rows_reserve(b)) return;
        if (b->kind == COLUMN_TIMES)
            b->rows.instants[slot] = v->instant;
        else
            b->rows.numbers[slot] = v->number;
        bits_add(b->has_row_value, slot);
        return;
    }
    if (*value == NOT_IN) *value = intern(b, v, true);
    add_pair(b, *value, slot);
}

static void keep_rows_of_value(struct column_builder *b, const struct column_chunk *old, uint32_t i,
                               const uint64_t *keep, const uint8_t counts[CHUNK_SLOTS])
{
    const struct frequent *frequent = chunk_frequent(old, i);
    struct value v;
    int64_t value = NOT_IN;
    chunk_value(old, i, &v);
    for (uint32_t k = old->starts[i]; k < old->starts[i + 1]; k++)
        if (bits_has(keep, old->slots[k])) keep_pair(b, &v, &value, old->slots[k], counts);
    for (uint32_t w = 0; frequent && w < CHUNK_WORDS; w++)
        for (uint64_t left = frequent->bits[w] & keep[w]; left; left &= left - 1)
            keep_pair(b, &v, &value, w * 64 + (uint32_t)__builtin_ctzll(left), counts);
}

/* A value that an older chunk kept by row. */
static void keep_row_value(struct column_builder *b, const struct column_chunk *old, uint32_t slot)
{
    int64_t nanoseconds;
    switch (old->by_row) {
    case BY_ROW_POINTS:
        b->rows.points[slot] = (struct geo_point){old->reals[slot], old->longitudes[slot]};
        break;
    case BY_ROW_REALS:
        b->rows.numbers[slot] = number_from_real(old->reals[slot]);
        break;
    default:
        nanoseconds = old->wholes[slot];
        if (b->kind == COLUMN_TIMES) {
            int64_t rest = nanoseconds % 1000000000;
            int64_t below = rest < 0 ? rest + 1000000000 : rest;
            b->rows.instants[slot] =
                (struct instant){(nanoseconds - below) / 1000000000, (uint32_t)below};
        } else {
            uint64_t magnitude =
                nanoseconds < 0 ? 0 - (uint64_t)nanoseconds : (uint64_t)nanoseconds;
            b->rows.numbers[slot] = number_from_u64(magnitude);
            if (nanoseconds < 0) {
                b->rows.numbers[slot].is_negative = true;
                b->rows.numbers[slot].real = -b->rows.numbers[slot].real;
            }
        }
    }
    bits_add(b->has_row_value, slot);
}

static void keep_rows(struct column_builder *b, const struct column_chunk *old,
                      const uint64_t *keep)
{
    for (uint32_t w = 0; w < CHUNK_WORDS; w++) {
        b->known[w] = old->known[w] & keep[w];
        b->there[w] = old->there[w] & keep[w];
        b->array[w] = old->array ? old->array[w] & keep[w] : 0;
    }
    uint8_t counts[CHUNK_SLOTS];
    count_values_of_rows(old, counts);
    for (uint32_t i = 0; i < chunk_value_count(old) && !b->failed; i++)
        keep_rows_of_value(b, old, i, keep, counts);
    b->sorted_count = b->value_count;
    if (old->by_row == BY_ROW_NONE || !rows_reserve(b)) return;
    for (uint32_t w = 0; w < CHUNK_WORDS; w++)
        for (uint64_t left = old->has_row_value[w] & keep[w]; left; left &= left - 1)
            keep_row_value(b, old, w * 64 + (uint32_t)__builtin_ctzll(left));
}

struct column_builder *column_builder_new(enum column_kind kind, const char *path,
                                          size_t path_bytes, const struct column_chunk *old,
                                          const uint64_t keep[CHUNK_WORDS])
{
    struct column_builder *b = mem_try(sizeof *b);
    if (!b) return NULL;
    memset(b, 0, sizeof *b);
    b->kind = kind;
    b->path = (struct metadata_path){path, (uint32_t)path_bytes};
    b->seed = mix(clock_ns(), (uint64_t)(uintptr_t)b);
    b->failed = !metadata_walk_init(&b->walk, &b->path, 1, note_value, b);
    if (old && !b->failed) keep_rows(b, old, keep);
    return b;
}

void column_builder_free(struct column_builder *b)
{
    if (!b) return;
    metadata_walk_deinit(&b->walk);
    arena_free(&b->arena);
    mem_free(b->values);
    mem_free(b->last_row);
    mem_free(b->table);
    mem_free(b->pairs);
    mem_free(b->rows.numbers);
    mem_free(b);
}

/* ---- by row, or with lists? ---- */

static void single_of(const struct column_builder *b, uint32_t slot, struct value *v)
{
    *v = (struct value){.kind = b->kind == COLUMN_TIMES ? VALUE_TIME : VALUE_NUMBER};
    if (b->kind == COLUMN_TIMES)
        v->instant = b->rows.instants[slot];
    else
        v->number = b->rows.numbers[slot];
}

static bool is_double(const struct number *n)
{
    return !n->is_whole || n->magnitude <= UINT64_C(1) << 53;
}

static bool is_int64(const struct number *n)
{
    return n->is_whole && n->magnitude <= (uint64_t)INT64_MAX + (n->is_negative ? 1 : 0);
}

static bool fits(const struct column_builder *b, enum by_row form, uint32_t slot)
{
    int64_t ignored;
    if (b->kind == COLUMN_TIMES) return instant_to_nanoseconds(&b->rows.instants[slot], &ignored);
    return form == BY_ROW_REALS ? is_double(&b->rows.numbers[slot])
                                : is_int64(&b->rows.numbers[slot]);
}

/* Add to an ascending set of at most LISTED_NUMBERS_MAX; false: it is full. */
static bool add_to_set(struct value *set, uint32_t *count, const struct value *v)
{
    uint32_t low = 0, high = *count;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        int order = value_compare(v, &set[middle]);
        if (order == 0) return true;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    if (*count == LISTED_NUMBERS_MAX) return false;
    memmove(&set[low + 1], &set[low], (*count - low) * sizeof *set);
    set[low] = *v;
    ++*count;
    return true;
}

/* How rows with one number or time are best kept: with lists if there are few different ones. */
static enum by_row choose_form(const struct column_builder *b)
{
    struct value different[LISTED_NUMBERS_MAX], v;
    uint32_t count = 0, rows = 0;
    bool few = true, doubles = true, int64s = true;
    if (b->kind == COLUMN_POINTS) return b->rows.points ? BY_ROW_POINTS : BY_ROW_NONE;
    if (!b->rows.numbers) return BY_ROW_NONE;
    for (uint32_t slot = 0; slot < CHUNK_SLOTS; slot++) {
        if (!bits_has(b->has_row_value, slot)) continue;
        rows++;
        if (b->kind != COLUMN_TIMES) {
            doubles &= is_double(&b->rows.numbers[slot]);
            int64s &= is_int64(&b->rows.numbers[slot]);
        }
        if (!few) continue;
        single_of(b, slot, &v);
        few = add_to_set(different, &count, &v);
    }
    if (few || rows == 0) return BY_ROW_NONE;
    if (b->kind == COLUMN_TIMES) return BY_ROW_WHOLES;
    return doubles || !int64s ? BY_ROW_REALS : BY_ROW_WHOLES;
}

/* What does not go by row in this form gets a list. */
static void list_the_rest(struct column_builder *b, enum by_row form)
{
    struct value v;
    if (b->kind == COLUMN_POINTS || !b->rows.numbers) return;
    for (uint32_t slot = 0; slot < CHUNK_SLOTS && !b->failed; slot++) {
        if (!bits_has(b->has_row_value, slot)) continue;
        if (form != BY_ROW_NONE && fits(b, form, slot)) continue;
        single_of(b, slot, &v);
        add_pair(b, intern(b, &v, false), slot);
        bits_remove(b->has_row_value, slot);
    }
}

/* ---- sorting ---- */

struct sortable {
    const struct value *value;
    uint32_t number;
};

static int by_value(const void *a, const void *b)
{
    const struct sortable *x = a, *y = b;
    return value_compare(x->value, y->value);
}

/* Values that have rows, ascending; returns how many.  `out` has room for all, `count` the rows of
 * each. */
static uint32_t sort_values(const struct column_builder *b, const uint32_t *count,
                            struct sortable *scratch, struct sortable *out)
{
    uint32_t old = 0, total = 0, done = 0;
    for (uint32_t i = 0; i < b->value_count; i++) {
        if (i == b->sorted_count) old = total;
        if (count[i]) scratch[total++] = (struct sortable){&b->values[i], i};
    }
    if (b->sorted_count >= b->value_count) old = total;
    qsort(scratch + old, total - old, sizeof *scratch, by_value);
    for (uint32_t x = 0, y = old; x < old || y < total;) {
        bool from_old = y == total || (x < old && by_value(&scratch[x], &scratch[y]) < 0);
        out[done++] = from_old ? scratch[x++] : scratch[y++];
    }
    return total;
}

/* ---- layout ---- */

struct sorted {
    struct sortable *values; /* ascending */
    uint32_t *count;         /* rows of each value by its number, then where its list goes on */
    uint32_t value_count;
    uint32_t of_kind[VALUE_STRING + 1];
    uint32_t listed, frequent;
    size_t text_bytes;
};

static bool is_empty(const uint64_t words[CHUNK_WORDS])
{
    uint64_t any = 0;
    for (uint32_t i = 0; i < CHUNK_WORDS; i++)
        any |= words[i];
    return any == 0;
}

/* Pieces of one allocation, each at a multiple of 8. */
struct layout {
    char *base; /* NULL: only measure */
    size_t used;
};

static void *piece(struct layout *l, size_t bytes)
{
    void *p = l->base ? l->base + l->used : NULL;
    l->used += (bytes + 7) & ~(size_t)7;
    return p;
}

static const uint64_t *copy_bits(struct layout *l, const uint64_t words[CHUNK_WORDS])
{
    uint64_t *copy = piece(l, CHUNK_WORDS * sizeof *copy);
    if (copy) memcpy(copy, words, CHUNK_WORDS * sizeof *copy);
    return copy;
}

static void lay_out_values(const struct sorted *s, struct layout *l, struct column_chunk *c)
{
    struct number *numbers = piece(l, s->of_kind[VALUE_NUMBER] * sizeof *numbers);
    struct instant *instants = piece(l, s->of_kind[VALUE_TIME] * sizeof *instants);
    uint32_t *text_at = piece(l, (s->of_kind[VALUE_STRING] + 1) * sizeof *text_at);
    char *texts = piece(l, s->text_bytes);
    if (!l->base) return;
    c->numbers = numbers;
    c->instants = instants;
    c->text_at = text_at;
    c->texts = texts;
    uint32_t at = 0;
    for (uint32_t i = 0; i < s->value_count; i++) {
        const struct value *v = s->values[i].value;
        if (v->kind == VALUE_NUMBER) *numbers++ = v->number;
        if (v->kind == VALUE_TIME) *instants++ = v->instant;
        if (v->kind != VALUE_STRING) continue;
        *text_at++ = at;
        if (v->bytes) memcpy(texts + at, v->text, v->bytes);
        at += v->bytes;
    }
    *text_at = at;
}

static void lay_out_lists(const struct column_builder *b, const struct sorted *s, struct layout *l,
                          struct column_chunk *c)
{
    uint32_t *starts = piece(l, (s->value_count + 1) * sizeof *starts);
    uint16_t *slots = piece(l, s->listed * sizeof *slots);
    struct frequent *frequent = piece(l, s->frequent * sizeof *frequent);
    uint64_t *bits = piece(l, s->frequent * CHUNK_WORDS * sizeof *bits);
    if (!l->base) return;
    c->starts = starts;
    c->slots = slots;
    c->frequent = frequent;
    c->frequent_count = s->frequent;
    memset(bits, 0, s->frequent * CHUNK_WORDS * sizeof *bits);
    /* s->count becomes: where the next row of the value goes; beyond `listed`, which bitmap. */
    uint32_t at = 0, bitmap = 0;
    for (uint32_t i = 0; i < s->value_count; i++) {
        uint32_t *count = &s->count[s->values[i].number], rows = *count;
        starts[i] = at;
        if (rows > FREQUENT_ROWS) {
            frequent[bitmap] = (struct frequent){i, bits + (size_t)bitmap * CHUNK_WORDS};
            *count = s->listed + bitmap++;
        } else {
            *count = at;
            at += rows;
        }
    }
    starts[s->value_count] = at;
    for (uint32_t i = 0; i < b->pair_count; i++) {
        const struct pair *p = &b->pairs[i];
        uint32_t to = s->count[p->value];
        if (to >= s->listed)
            bits_add(bits + (size_t)(to - s->listed) * CHUNK_WORDS, p->slot);
        else
            slots[s->count[p->value]++] = p->slot;
    }
}

static void lay_out_rows(const struct column_builder *b, enum by_row form, struct layout *l,
                         struct column_chunk *c)
{
    if (form == BY_ROW_NONE) return;
    const uint64_t *has = copy_bits(l, b->has_row_value);
    double *reals = form == BY_ROW_WHOLES ? NULL : piece(l, CHUNK_SLOTS * sizeof *reals);
    double *longitudes = form == BY_ROW_POINTS ? piece(l, CHUNK_SLOTS * sizeof *reals) : NULL;
    int64_t *wholes = form == BY_ROW_WHOLES ? piece(l, CHUNK_SLOTS * sizeof *wholes) : NULL;
    if (!l->base) return;
    c->has_row_value = has;
    c->reals = reals;
    c->longitudes = longitudes;
    c->wholes = wholes;
    for (uint32_t slot = 0; slot < CHUNK_SLOTS; slot++) {
        bool is_there = bits_has(b->has_row_value, slot);
        if (form == BY_ROW_POINTS) {
            reals[slot] = is_there ? b->rows.points[slot].lat : 0;
            longitudes[slot] = is_there ? b->rows.points[slot].lon : 0;
        } else if (form == BY_ROW_REALS) {
            reals[slot] = is_there ? b->rows.numbers[slot].real : 0;
        } else if (!is_there) {
            wholes[slot] = 0;
        } else if (b->kind == COLUMN_TIMES) {
            bool good = instant_to_nanoseconds(&b->rows.instants[slot], &wholes[slot]);
            (void)good; /* fits() said so */
        } else {
            const struct number *n = &b->rows.numbers[slot];
            wholes[slot] = (int64_t)(n->is_negative ? 0 - n->magnitude : n->magnitude);
        }
    }
}

/* Everything into one piece of memory at l->base, or only its size. */
static void lay_out(const struct column_builder *b, const struct sorted *s, enum by_row form,
                    struct layout *l, struct column_chunk *c)
{
    const uint64_t *known = copy_bits(l, b->known), *there = copy_bits(l, b->there);
    const uint64_t *array = is_empty(b->array) ? NULL : copy_bits(l, b->array);
    if (c) {
        c->known = known;
        c->there = there;
        c->array = array;
    }
    lay_out_values(s, l, c);
    lay_out_lists(b, s, l, c);
    lay_out_rows(b, form, l, c);
}

static bool count_and_sort(const struct column_builder *b, struct sorted *s)
{
    struct sortable *scratch = mem_try((b->value_count + 1) * sizeof *scratch);
    s->values = mem_try((b->value_count + 1) * sizeof *s->values);
    s->count = mem_try((b->value_count + 1) * sizeof *s->count);
    if (!scratch || !s->values || !s->count) {
        mem_free(scratch);
        return false;
    }
    memset(s->count, 0, (b->value_count + 1) * sizeof *s->count);
    for (uint32_t i = 0; i < b->pair_count; i++)
        s->count[b->pairs[i].value]++;
    s->value_count = sort_values(b, s->count, scratch, s->values);
    mem_free(scratch);
    for (uint32_t i = 0; i < s->value_count; i++) {
        const struct value *v = s->values[i].value;
        uint32_t rows = s->count[s->values[i].number];
        s->of_kind[v->kind]++;
        if (v->kind == VALUE_STRING) s->text_bytes += v->bytes;
        if (rows > FREQUENT_ROWS)
            s->frequent++;
        else
            s->listed += rows;
    }
    return true;
}

struct column_chunk *column_builder_finish(struct column_builder *b, uint64_t lsn)
{
    struct sorted s = {0};
    struct layout l = {0};
    struct column_chunk *c = NULL;
    enum by_row form = choose_form(b);
    list_the_rest(b, form);
    if (b->failed || !count_and_sort(b, &s)) goto out;
    lay_out(b, &s, form, &l, NULL);
    c = mem_try(sizeof *c + l.used);
    if (!c) goto out;
    *c = (struct column_chunk){
        .kind = b->kind, .lsn = lsn, .bytes = sizeof *c + l.used, .by_row = form};
    for (int k = 0; k <= VALUE_STRING; k++)
        c->first_of[k + 1] = c->first_of[k] + s.of_kind[k];
    l = (struct layout){.base = (char *)(c + 1)};
    lay_out(b, &s, form, &l, c);
out:
    mem_free(s.values);
    mem_free(s.count);
    column_builder_free(b);
    return c;
}

void column_chunk_free(void *chunk)
{
    mem_free(chunk);
}

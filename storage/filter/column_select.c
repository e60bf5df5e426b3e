/*
 * column_select.c - which rows of a chunk satisfy a condition.
 *
 * A condition is a run of the sorted values, or some of them one by one; their lists are turned
 * into bits.  Values that are kept by row are compared, all of them (compare.h).
 */
#include <math.h>
#include <string.h>

#include "storage/filter/column_private.h"
#include "storage/filter/compare.h"

/* Values of $in up to which each is looked for in the rows by itself. */
enum { SINGLE_COMPARISONS_MAX = 4 };

uint64_t column_chunk_bytes(const struct column_chunk *c)
{
    return c->bytes;
}

uint64_t column_chunk_lsn(const struct column_chunk *c)
{
    return c->lsn;
}

const uint64_t *column_chunk_known(const struct column_chunk *c)
{
    return c->known;
}

enum column_kind column_kind_of(const struct filter *f, const struct leaf *leaf)
{
    const struct field *field = &f->fields[leaf->field];
    switch (leaf->op) {
    case FILTER_GEO_RADIUS:
    case FILTER_GEO_BOX:
        return COLUMN_POINTS;
    case FILTER_TEXT:
        return COLUMN_WORDS;
    case FILTER_PREFIX:
    case FILTER_REGEX:
        return COLUMN_SCALARS;
    case FILTER_CONTAINS: /* elements are compared as times, parts as texts */
        return field->is_datetime ? COLUMN_KIND_COUNT : COLUMN_SCALARS;
    default:
        return field->is_datetime ? COLUMN_TIMES : COLUMN_SCALARS;
    }
}

/* ---- the sorted values ---- */

void chunk_value(const struct column_chunk *c, uint32_t i, struct value *v)
{
    *v = (struct value){.kind = VALUE_NULL};
    while (i >= c->first_of[v->kind + 1])
        v->kind++;
    uint32_t k = i - c->first_of[v->kind];
    if (v->kind == VALUE_NUMBER) v->number = c->numbers[k];
    if (v->kind == VALUE_TIME) v->instant = c->instants[k];
    if (v->kind != VALUE_STRING) return;
    v->text = c->texts + c->text_at[k];
    v->bytes = c->text_at[k + 1] - c->text_at[k];
}

const struct frequent *chunk_frequent(const struct column_chunk *c, uint32_t value)
{
    uint32_t low = 0, high = c->frequent_count;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (c->frequent[middle].value < value)
            low = middle + 1;
        else
            high = middle;
    }
    return low < c->frequent_count && c->frequent[low].value == value ? &c->frequent[low] : NULL;
}

/* The first value that is not less than `v` (or, `behind`, that is greater), of all. */
static uint32_t bound(const struct column_chunk *c, const struct value *v, bool behind)
{
    uint32_t low = c->first_of[v->kind], high = c->first_of[v->kind + 1];
    struct value at;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        chunk_value(c, middle, &at);
        int order = value_compare(&at, v);
        if (order < 0 || (behind && order == 0))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* ---- lists to bits ---- */

/* Add the rows of values first .. end - 1. */
static void add_run(const struct column_chunk *c, uint32_t first, uint32_t end, uint64_t *bits)
{
    if (first >= end) return;
    for (uint32_t k = c->starts[first]; k < c->starts[end]; k++)
        bits[c->slots[k] / 64] |= UINT64_C(1) << c->slots[k] % 64;
    for (uint32_t i = 0; i < c->frequent_count; i++) {
        const struct frequent *f = &c->frequent[i];
        if (f->value < first || f->value >= end) continue;
        for (uint32_t w = 0; w < CHUNK_WORDS; w++)
            bits[w] |= f->bits[w];
    }
}

static void add_value(const struct column_chunk *c, const struct value *v, uint64_t *bits)
{
    uint32_t first = bound(c, v, false);
    struct value at;
    if (first == c->first_of[v->kind + 1]) return;
    chunk_value(c, first, &at);
    if (value_compare(&at, v) == 0) add_run(c, first, first + 1, bits);
}

/* Strings for which a condition holds. */
static void add_matching(const struct column_chunk *c, const struct leaf *leaf, void *workspace,
                         uint64_t *bits)
{
    struct value v;
    for (uint32_t i = c->first_of[VALUE_STRING]; i < chunk_value_count(c); i++) {
        chunk_value(c, i, &v);
        if (leaf_holds(leaf, &v, workspace)) add_run(c, i, i + 1, bits);
    }
}

static void add_prefix(const struct column_chunk *c, const struct leaf *leaf, uint64_t *bits)
{
    struct value prefix = leaf->values[0], v;
    prefix.kind = VALUE_STRING;
    uint32_t first = bound(c, &prefix, false), low = first, high = chunk_value_count(c);
    while (low < high) { /* strings with the prefix come first */
        uint32_t middle = (low + high) / 2;
        chunk_value(c, middle, &v);
        if (v.bytes >= prefix.bytes && memcmp(v.text, prefix.text, prefix.bytes) == 0)
            low = middle + 1;
        else
            high = middle;
    }
    add_run(c, first, low, bits);
}

/* ---- by row ---- */

/* From `low` to `high`, both included. */
struct interval {
    bool is_empty;
    double low, high;
    int64_t whole_low, whole_high;
};

/* Doubles that are as `op` says to the number. */
static struct interval interval_of_doubles(enum filter_op op, const struct number *n)
{
    struct number nearest = number_from_real(n->real);
    int rounded = number_compare(&nearest, n); /* < 0: down, > 0: up */
    struct interval in = {.low = -INFINITY, .high = INFINITY};
    bool greater = op == FILTER_GT || op == FILTER_GTE;
    bool includes = op == FILTER_GTE || op == FILTER_LTE || op == FILTER_EQ;
    /* Is the nearest double itself on the right side? */
    bool takes = rounded == 0 ? includes : greater ? rounded > 0 : rounded < 0;
    if (op == FILTER_EQ) {
        in.is_empty = rounded != 0;
        in.low = in.high = n->real;
    } else if (greater) {
        in.is_empty = !takes && n->real == INFINITY;
        in.low = takes ? n->real : nextafter(n->real, INFINITY);
    } else {
        in.is_empty = !takes && n->real == -INFINITY;
        in.high = takes ? n->real : nextafter(n->real, -INFINITY);
    }
    return in;
}

/* Where a value stands to the whole numbers of 64 bits. */
enum place { BELOW_ALL, AMONG, ABOVE_ALL };

/* Whole numbers that are as `op` says to something: to `at`, if that is one of them (`exact`), or
 * to what lies right above `at`. */
static struct interval interval_of_wholes(enum filter_op op, enum place place, int64_t at,
                                          bool exact)
{
    struct interval in = {.whole_low = INT64_MIN, .whole_high = INT64_MAX};
    bool greater = op == FILTER_GT || op == FILTER_GTE;
    if (op == FILTER_EQ) {
        in.is_empty = place != AMONG || !exact;
        in.whole_low = in.whole_high = at;
        return in;
    }
    if (place != AMONG) {
        in.is_empty = (place == ABOVE_ALL) == greater;
        return in;
    }
    if (greater) {
        bool takes = op == FILTER_GTE && exact;
        in.is_empty = !takes && at == INT64_MAX;
        in.whole_low = takes ? at : at + !in.is_empty;
    } else {
        bool takes = !exact || op == FILTER_LTE;
        in.is_empty = !takes && at == INT64_MIN;
        in.whole_high = takes ? at : at - !in.is_empty;
    }
    return in;
}

static struct interval wholes_for_number(enum filter_op op, const struct number *n)
{
    if (n->is_whole) {
        bool fits = n->magnitude <= (uint64_t)INT64_MAX + (n->is_negative ? 1 : 0);
        int64_t at = (int64_t)(n->is_negative ? 0 - n->magnitude : n->magnitude);
        enum place place = fits ? AMONG : n->is_negative ? BELOW_ALL : ABOVE_ALL;
        return interval_of_wholes(op, place, fits ? at : 0, true);
    }
    if (n->real >= 9223372036854775808.0) return interval_of_wholes(op, ABOVE_ALL, 0, false);
    if (n->real < -9223372036854775808.0) return interval_of_wholes(op, BELOW_ALL, 0, false);
    return interval_of_wholes(op, AMONG, (int64_t)floor(n->real), false);
}

static struct interval wholes_for_time(enum filter_op op, const struct instant *at)
{
    int64_t nanoseconds;
    if (instant_to_nanoseconds(at, &nanoseconds))
        return interval_of_wholes(op, AMONG, nanoseconds, true);
    return interval_of_wholes(op, at->seconds < 0 ? BELOW_ALL : ABOVE_ALL, 0, false);
}

/* Rows whose value, kept by row, is as `op` says to the operand. */
static void add_rows(const struct column_chunk *c, enum filter_op op, const struct value *operand,
                     uint64_t *bits)
{
    enum value_kind kind = c->kind == COLUMN_TIMES ? VALUE_TIME : VALUE_NUMBER;
    if (c->by_row == BY_ROW_NONE || operand->kind != kind) return;
    struct interval in = c->by_row == BY_ROW_REALS ? interval_of_doubles(op, &operand->number)
                         : kind == VALUE_TIME      ? wholes_for_time(op, &operand->instant)
                                                   : wholes_for_number(op, &operand->number);
    if (in.is_empty) return;
    if (c->by_row == BY_ROW_REALS)
        compare_doubles(c->reals, c->has_row_value, CHUNK_WORDS, in.low, in.high, bits);
    else
        compare_int64s(c->wholes, c->has_row_value, CHUNK_WORDS, in.whole_low, in.whole_high, bits);
}

/* The value of a row that is kept by row. */
static void row_value(const struct column_chunk *c, uint32_t slot, struct value *v)
{
    if (c->kind == COLUMN_TIMES) {
        int64_t rest = c->wholes[slot] % 1000000000;
        if (rest < 0) rest += 1000000000;
        *v = (struct value){.kind = VALUE_TIME};
        v->instant = (struct instant){(c->wholes[slot] - rest) / 1000000000, (uint32_t)rest};
        return;
    }
    *v = (struct value){.kind = VALUE_NUMBER};
    if (c->by_row == BY_ROW_REALS) {
        v->number = number_from_real(c->reals[slot]);
        return;
    }
    int64_t n = c->wholes[slot];
    v->number = number_from_u64(n < 0 ? 0 - (uint64_t)n : (uint64_t)n);
    if (n < 0) {
        v->number.is_negative = true;
        v->number.real = -v->number.real;
    }
}

static void add_rows_in(const struct column_chunk *c, const struct leaf *leaf, uint64_t *bits)
{
    struct value v;
    if (c->by_row == BY_ROW_NONE) return;
    if (leaf->value_count <= SINGLE_COMPARISONS_MAX) {
        for (size_t i = 0; i < leaf->value_count; i++)
            add_rows(c, FILTER_EQ, &leaf->values[i], bits);
        return;
    }
    for (uint32_t w = 0; w < CHUNK_WORDS; w++) {
        for (uint64_t left = c->has_row_value[w]; left; left &= left - 1) {
            uint32_t i = (uint32_t)__builtin_ctzll(left);
            row_value(c, w * 64 + i, &v);
            bits[w] |= (uint64_t)leaf_holds(leaf, &v, NULL) << i;
        }
    }
}

static void add_points(const struct column_chunk *c, const struct leaf *leaf, uint64_t *bits)
{
    if (c->by_row != BY_ROW_POINTS) return;
    for (uint32_t w = 0; w < CHUNK_WORDS; w++) {
        for (uint64_t left = c->has_row_value[w]; left; left &= left - 1) {
            uint32_t i = (uint32_t)__builtin_ctzll(left), slot = w * 64 + i;
            struct geo_point p = {c->reals[slot], c->longitudes[slot]};
            bool holds = leaf->op == FILTER_GEO_RADIUS ? geo_circle_has(&leaf->circle, &p)
                                                       : geo_box_has(&leaf->box, &p);
            bits[w] |= (uint64_t)holds << i;
        }
    }
}

/* ---- conditions ---- */

static void add_order(const struct column_chunk *c, const struct leaf *leaf, uint64_t *bits)
{
    const struct value *v = leaf->values;
    bool greater = leaf->op == FILTER_GT || leaf->op == FILTER_GTE;
    bool behind = leaf->op == FILTER_GT || leaf->op == FILTER_LTE;
    uint32_t at = bound(c, v, behind);
    if (greater)
        add_run(c, at, c->first_of[v->kind + 1], bits);
    else
        add_run(c, c->first_of[v->kind], at, bits);
    add_rows(c, leaf->op, v, bits);
}

/* An element of an array, or a part of a string. */
static void add_containing(const struct column_chunk *c, const struct leaf *leaf, void *workspace,
                           uint64_t *bits)
{
    uint64_t elements[CHUNK_WORDS] = {0};
    if (leaf->values[0].kind == VALUE_STRING) add_matching(c, leaf, workspace, bits);
    if (c->array) add_value(c, &leaf->values[0], elements);
    for (uint32_t w = 0; c->array && w < CHUNK_WORDS; w++)
        bits[w] = (bits[w] & ~c->array[w]) | (elements[w] & c->array[w]);
}

/* Rows that have all the words, somewhere. */
static void add_words(const struct column_chunk *c, const struct leaf *leaf, uint64_t *bits)
{
    for (uint32_t i = 0; i < leaf->word_count; i++) {
        uint64_t of_word[CHUNK_WORDS] = {0};
        struct value v = {
            .kind = VALUE_STRING, .text = leaf->words[i].text, .bytes = leaf->words[i].bytes};
        add_value(c, &v, of_word);
        for (uint32_t w = 0; w < CHUNK_WORDS; w++)
            bits[w] = i == 0 ? of_word[w] : bits[w] & of_word[w];
    }
}

void column_chunk_select(const struct column_chunk *c, const struct leaf *leaf, void *workspace,
                         uint64_t must[CHUNK_WORDS], uint64_t may[CHUNK_WORDS])
{
    memset(must, 0, CHUNK_WORDS * sizeof *must);
    switch (leaf->op) {
    case FILTER_EXISTS:
        memcpy(must, c->there, CHUNK_WORDS * sizeof *must);
        break;
    case FILTER_EQ:
        add_value(c, leaf->values, must);
        add_rows(c, FILTER_EQ, leaf->values, must);
        break;
    case FILTER_IN:
        for (size_t i = 0; i < leaf->value_count; i++)
            add_value(c, &leaf->values[i], must);
        add_rows_in(c, leaf, must);
        break;
    case FILTER_CONTAINS:
        add_containing(c, leaf, workspace, must);
        break;
    case FILTER_PREFIX:
        add_prefix(c, leaf, must);
        break;
    case FILTER_REGEX:
        add_matching(c, leaf, workspace, must);
        break;
    case FILTER_TEXT:
        add_words(c, leaf, must);
        break;
    case FILTER_GEO_RADIUS:
    case FILTER_GEO_BOX:
        add_points(c, leaf, must);
        break;
    default:
        add_order(c, leaf, must);
    }
    for (uint32_t w = 0; w < CHUNK_WORDS; w++)
        may[w] = must[w] | ~c->known[w];
    /* Words of several strings: perhaps of none all. */
    if (leaf->op != FILTER_TEXT || leaf->word_count == 1 || !c->array) return;
    for (uint32_t w = 0; w < CHUNK_WORDS; w++)
        must[w] &= ~c->array[w];
}

/*
 * filter.h - which rows a search, a count or a delete is about: a condition on their metadata.
 *
 * Whoever has a filter as text (api/json_filter.c) builds a tree of struct filter_node and compiles
 * it.  docs/API.md has the rules of the language; in short:
 *
 *   - a FIELD is a path (metadata.h) and has the values that are found there; of an array, those of
 *     its elements.  A comparison holds if it holds for any of them.
 *   - values of different kinds are neither equal nor less; in a field with a datetime index,
 *     strings that are RFC 3339 times are times.
 *   - null is equal to null and to "there is no such field".
 *   - $ne and $nin are the opposite of $eq and $in: they hold for rows without the field, too.
 *
 * A tree is at most FILTER_TREE_DEPTH_MAX nodes deep: its builder sees to that.  A compiled filter
 * is constant: any thread.
 */
#ifndef STORAGE_FILTER_FILTER_H
#define STORAGE_FILTER_FILTER_H

#include "storage/database.h"
#include "storage/filter/geo.h"
#include "storage/filter/value.h"

enum {
    FILTER_DEPTH_MAX = 16, /* $and, $or and $not within each other */
    FILTER_TREE_DEPTH_MAX = 4 * FILTER_DEPTH_MAX,
    FILTER_NODES_MAX = 1000,
    FILTER_VALUES_MAX = 10000, /* of one $in */
    FILTER_WORDS_MAX = 64,     /* of one $text */
};

enum filter_op {
    FILTER_AND, /* of no parts: true */
    FILTER_OR,  /* of no parts: false */
    FILTER_NOT, /* no part is true */
    FILTER_EQ,
    FILTER_NE,
    FILTER_GT,
    FILTER_GTE,
    FILTER_LT,
    FILTER_LTE,
    FILTER_IN,
    FILTER_NIN,
    FILTER_EXISTS,   /* the field is there, with whatever value */
    FILTER_CONTAINS, /* values[0] is an element of the array, or a part of the string */
    FILTER_PREFIX,
    FILTER_REGEX,
    FILTER_GEO_RADIUS,
    FILTER_GEO_BOX,
    FILTER_TEXT /* all words of values[0] are in one string */
};

struct filter_node {
    enum filter_op op;
    struct filter_node *first, *next; /* parts of AND, OR and NOT, and their neighbours */

    /* All others: of which field.  NULL: of the id, a number or a string. */
    const char *path;
    size_t path_bytes;
    /* EXISTS has none; IN and NIN any number; the geo operators theirs below; the others one. */
    const struct value *values;
    size_t value_count;
    struct geo_point center;
    double meters;
    struct geo_box box;

    const char *where; /* for messages: where it stands in the filter, "$or[1].size.$gt" */
};

struct filter;

/* `options` (may be NULL) is schema.options: its "metadata_indexes" say what fields are.  All lies
 * in the arena, which the filter needs for its whole life, as it does the tree and what that points
 * to.  ERR_INVALID_FILTER: the message is a predicate and says where ("has ... at ..."); ERR_NOMEM.
 */
MUST_CHECK enum err_code filter_compile(const struct filter_node *tree, const char *options,
                                        struct arena *arena, const struct filter **out,
                                        struct err *err);

/* Does a row match?  ERR_NOMEM. */
MUST_CHECK enum err_code filter_matches(const struct filter *filter, const struct vector_id *id,
                                        const char *metadata, size_t metadata_bytes, bool *matches,
                                        struct err *err);

/* The rows of the snapshot that match, exactly: bit i of `bits` (room for r->slot_count bits, whole
 * words of 64) is set if and only if slot i holds a visible row that matches; *count is their
 * number.  filter NULL: every visible row.  ERR_WOULD_COMPUTE if it takes long and `may_block` is
 * false; ERR_CORRUPT, ERR_NOMEM. */
MUST_CHECK enum err_code filter_select(struct reader *r, const struct filter *filter,
                                       bool may_block, uint64_t *bits, uint64_t *count,
                                       struct err *err);

/* Bring a selection up to date: `bits`, room for r->slot_count and clear behind what was selected,
 * are the rows of an older snapshot of the same store, that of LSN `since`; after this they are
 * those of r's.  Only what has changed is looked at.  ERR_CORRUPT, ERR_NOMEM. */
MUST_CHECK enum err_code filter_select_again(struct reader *r, const struct filter *filter,
                                             uint64_t since, uint64_t *bits, uint64_t *count,
                                             struct err *err);

/* The same rows in the shorter of two forms. */
struct filter_rows {
    const uint32_t *slots; /* `count` of them, ascending; NULL: as bits       */
    const uint64_t *bits;  /* as of filter_select(); NULL: as a list          */
    uint64_t count;
    bool from_cache; /* they were known, of this snapshot or an older one     */
    void *own;       /* private */
};

/* What filter_select() would select, for a filter that is likely to come again: from its second use
 * on, the rows are kept for the next (filter_cache.h), and brought up to date then.  `filter` is
 * not NULL.  What is found can be used until filter_rows_deinit(), which comes before reader_end(),
 * and in any case.  Errors as of filter_select(). */
MUST_CHECK enum err_code filter_find_rows(struct reader *r, const struct filter *filter,
                                          bool may_block, struct filter_rows *rows,
                                          struct err *err);
void filter_rows_deinit(struct filter_rows *rows); /* a zeroed one is fine */
/* As bits, in room for filter_words(r) words. */
void filter_rows_to_bits(const struct filter_rows *rows, const struct reader *r, uint64_t *bits);

/* Words of `bits` for filter_select(). */
static inline size_t filter_words(const struct reader *r)
{
    return ((size_t)r->slot_count + 63) / 64;
}

#endif

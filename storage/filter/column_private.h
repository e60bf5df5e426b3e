/* column_private.h - the inside of a chunk: for column_build.c and column_select.c. */
#ifndef STORAGE_FILTER_COLUMN_PRIVATE_H
#define STORAGE_FILTER_COLUMN_PRIVATE_H

#include "storage/filter/column.h"

/* A value that so many rows have is kept as a bitmap. */
enum { FREQUENT_ROWS = 256 };

struct frequent {
    uint32_t value;
    const uint64_t *bits; /* CHUNK_WORDS */
};

enum by_row { BY_ROW_NONE, BY_ROW_REALS, BY_ROW_WHOLES, BY_ROW_POINTS };

struct column_chunk {
    enum column_kind kind;
    uint64_t lsn;
    uint64_t bytes;
    /* CHUNK_WORDS each: rows that are known; that have the field; whose field is an array (of
     * words: has several strings), NULL: none. */
    const uint64_t *known, *there, *array;

    /* The values of kind k are numbered first_of[k] .. first_of[k + 1] - 1, ascending; null, false
     * and true are one each or none. */
    uint32_t first_of[VALUE_STRING + 2];
    const struct number *numbers;
    const struct instant *instants;
    const uint32_t *text_at; /* one more than there are strings */
    const char *texts;
    /* Value i is that of the rows slots[starts[i]] .. slots[starts[i + 1] - 1], or frequent. */
    const uint32_t *starts;
    const uint16_t *slots;
    const struct frequent *frequent; /* ascending */
    uint32_t frequent_count;

    /* Rows that have one value only, a number (or, of COLUMN_TIMES, a time in nanoseconds; of
     * COLUMN_POINTS, a point). */
    enum by_row by_row;
    const uint64_t *has_row_value;
    const double *reals; /* or latitudes */
    const double *longitudes;
    const int64_t *wholes;
};

static inline uint32_t chunk_value_count(const struct column_chunk *c)
{
    return c->first_of[VALUE_STRING + 1];
}

/* Value number i; its text is that of the chunk. */
void chunk_value(const struct column_chunk *c, uint32_t i, struct value *v);
const struct frequent *chunk_frequent(const struct column_chunk *c, uint32_t value); /* or NULL */

/* False: beyond what 64 bits of nanoseconds hold. */
bool instant_to_nanoseconds(const struct instant *at, int64_t *nanoseconds);

#endif

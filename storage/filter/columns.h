/*
 * columns.h - the columns of one store: which there are, what they may cost, when one is worth it.
 *
 * A field has a column if the schema asks for one ("metadata_indexes"; it is made when the first
 * filter wants it), or if it was filtered on often.  Columns are derived data: in memory only, and
 * filled chunk by chunk by whoever selects rows (select.c).  All of them together are bounded;
 * those that nobody asked for go first.
 *
 * Threads: any, inside an epoch section; what is found stays until the section is left.
 */
#ifndef STORAGE_FILTER_COLUMNS_H
#define STORAGE_FILTER_COLUMNS_H

#include "storage/filter/column.h"

struct columns;
struct column;

struct columns *columns_new(void);
void columns_free(struct columns *cs); /* no reader is left; NULL is fine */
/* The same columns as another store had, all empty: for the store that takes its place. */
void columns_inherit(struct columns *cs, const struct columns *from);

struct columns_info {
    uint64_t bytes;
    uint32_t count;     /* columns */
    uint32_t automatic; /* of them, not asked for by the schema */
};
void columns_info(struct columns *cs, struct columns_info *info);

/* The column of a field; NULL: there is none.  `is_wanted`: the schema asks for it, so there is one
 * unless memory is short. */
struct column *columns_find(struct columns *cs, const char *path, size_t path_bytes,
                            enum column_kind kind, bool is_wanted);
/* A filter had to try `rows` rows one by one for want of this column. */
void columns_note(struct columns *cs, const char *path, size_t path_bytes, enum column_kind kind,
                  uint64_t rows);

/* NULL: it was not filled yet. */
const struct column_chunk *columns_chunk(const struct column *c, uint32_t number);
/* Not long ago there was no room for a chunk of it: filling one would be in vain. */
bool columns_has_room(const struct columns *cs, const struct column *c);
/* Rows of the chunk were tried because they are newer than it: true when that has happened so
 * often that replacing it is cheaper. */
bool columns_wear(struct column *c, uint32_t number, uint64_t rows);
/* Put a chunk in place of `old`, if that is still there and there is room: `slot_count` says how
 * much there is.  Takes it in any case; it can be used until the section is left. */
void columns_publish(struct columns *cs, struct column *c, uint32_t number,
                     const struct column_chunk *old, struct column_chunk *chunk,
                     uint32_t slot_count);

#endif

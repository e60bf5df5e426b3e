/* filter.h - which rows a search, a count or a delete is about: a condition on their metadata. */
#ifndef STORAGE_FILTER_FILTER_H
#define STORAGE_FILTER_FILTER_H

#include "storage/database.h"

struct filter; /* compiled; constant, any thread */

/* The rows of the snapshot that match, exactly: bit i of `bits` (room for r->slot_count bits, whole
 * words of 64) is set if and only if slot i holds a visible row that matches; *count is their
 * number. ERR_WOULD_COMPUTE if it takes long and `may_block` is false; ERR_CORRUPT, ERR_NOMEM. */
MUST_CHECK enum err_code filter_select(struct reader *r, const struct filter *filter,
                                       bool may_block, uint64_t *bits, uint64_t *count,
                                       struct err *err);

#endif

/*
 * filter_cache.h - the results of filters that were used before, of one store.
 *
 * A RESULT is a filter's key (filter_private.h), an LSN, and the rows that match in the snapshot of
 * that LSN: a list of slots if they are few, else bits.  It is constant, but for its LSN: whoever
 * has found that a later snapshot has the same rows raises it.  A result of other rows takes its
 * place.  So for a snapshot with the LSN of a result the result is exact; for a later one it has to
 * be brought up to date (filter_rows.c, which is who uses this); for an earlier one it is of no
 * use.
 *
 * A filter is remembered when it is seen for the second time: one that is used once costs no copy.
 * Bounds, of a store: FILTER_RESULTS_MAX results, and FILTER_RESULT_BYTES_MIN plus
 * FILTER_RESULT_BYTES_PER_SLOT bytes for each slot; what was used longest ago goes first.  Of the
 * process: while FILTER_RESULT_BYTES_OUT bytes have been taken out that readers may still look at,
 * nothing is put in.
 *
 * Threads: any, inside an epoch section; what is found stays until the section is left.
 */
#ifndef STORAGE_FILTER_FILTER_CACHE_H
#define STORAGE_FILTER_FILTER_CACHE_H

#include <stdatomic.h>

#include "storage/filter/filter_private.h"

enum {
    FILTER_RESULTS_MAX = 256,
    FILTER_RESULT_BYTES_MIN = 1 << 20,
    FILTER_RESULT_BYTES_PER_SLOT = 8,
    FILTER_RESULT_BYTES_OUT = 32 << 20,
};

struct filter_result {
    /* Constant once it is in a cache. */
    uint64_t count;        /* rows */
    const uint32_t *slots; /* ascending; NULL: as bits */
    const uint64_t *bits;  /* those beyond the slots of the snapshot are clear; NULL: a list */
    size_t words;          /* of bits */
    uint64_t select_ns;    /* what it took to find them without a cache */

    /* Private. */
    _Atomic uint64_t lsn;
    _Atomic uint64_t used_at;
    const uint8_t *key;
    uint32_t key_bytes;
    uint64_t hash;
    size_t bytes; /* of memory, all in one piece */
    struct filter_result *next_out;
};

struct filter_cache;

struct filter_cache *filter_cache_new(void);    /* small until the first filter is used */
void filter_cache_free(struct filter_cache *c); /* no reader is left; NULL is fine */
/* Memory in bytes. */
uint64_t filter_cache_bytes(struct filter_cache *c);

/* A result to be filled: room for `count` slots at *slots, or, if `slots` is NULL, for `words`
 * words at *bits.  The filter has a key.  NULL: out of memory. */
struct filter_result *filter_result_new_list(const struct filter *filter, uint64_t count,
                                             uint32_t **slots);
struct filter_result *filter_result_new_bits(const struct filter *filter, size_t words,
                                             uint64_t **bits);
void filter_result_free(struct filter_result *result); /* one that is in no cache; NULL is fine */

/* The filter's result; NULL: there is none.  `lsn`: of which snapshot; it is to be taken from here,
 * for it may be raised at any time. */
struct filter_result *filter_cache_find(struct filter_cache *c, const struct filter *filter,
                                        uint64_t *lsn);
/* Was the filter used before?  Then its result is worth keeping; else note that it was now. */
bool filter_cache_wants(const struct filter_cache *c, const struct filter *filter);
void filter_cache_note(struct filter_cache *c, const struct filter *filter);
/* The snapshot of `lsn` has the rows of a result, too. */
void filter_result_raise(struct filter_result *result, uint64_t lsn);
/* Keep a result, in place of the filter's older one.  True: it is the cache's now, and can be used
 * until the section is left; false: it is the caller's as before, because there is a newer one or
 * no room.  `slot_count` says how much room there is. */
bool filter_cache_put(struct filter_cache *c, struct filter_result *result, uint64_t lsn,
                      uint32_t slot_count);

#endif

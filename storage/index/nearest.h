/*
 * nearest.h - exact distances to rows, and the best rows so far by (distance, id).
 *
 * Private to storage/index.  One thread at a time; rows and slots belong to the reader.
 */
#ifndef STORAGE_INDEX_NEAREST_H
#define STORAGE_INDEX_NEAREST_H

#include "storage/database_private.h"

/* ---- distances ---- */

/* One query against rows, in float64 with a fixed order of summation (kernel.h). */
struct exact {
    const struct kernel_set *kernels;
    enum metric metric;
    const float *query; /* borrowed */
    size_t dimension;
    double query_norm; /* under cosine */
};
struct exact exact_init(const struct database *db, const float *query);
/* The metric's distances to `count` rows. */
enum { EXACT_ROWS_MAX = 16 };
void exact_distances(const struct exact *e, const float *const *rows, size_t count, double *out);
/* The same, and under cosine the cosines, of which distances have lost some bits. */
void exact_compare(const struct exact *e, const float *const *rows, size_t count, double *distances,
                   double *cosines);
double exact_score(const struct exact *e, double distance, double cosine);

/* ---- the nearest ---- */

struct candidate {
    double distance;
    double cosine; /* under cosine */
    uint32_t slot_number;
    const struct slot *slot;
};

/* The best `limit`, the worst of them on top: a binary heap.  With `count` 0 it begins anew. */
struct nearest {
    struct reader *reader;
    struct candidate *heap;
    size_t count, limit;
    uint32_t *table; /* of nearest_offer_once(): slot + 1, or 0; may be NULL */
    unsigned table_bits;
    size_t table_count;
};
/* Room for `limit`, or for all rows there are if they are fewer.  ERR_NOMEM. */
MUST_CHECK enum err_code nearest_init(struct nearest *n, struct reader *r, size_t limit,
                                      struct err *err);
void nearest_deinit(struct nearest *n);
void nearest_offer(struct nearest *n, const struct candidate *c);
/* For a row that may have been offered before, at the same distance; not after this function to
 * nearest_offer(). */
void nearest_offer_once(struct nearest *n, const struct candidate *c);
/* Nearest first; nothing can be offered afterwards. */
void nearest_sort(struct nearest *n);
/* The distance of the worst, infinity while there is room. */
double nearest_worst(const struct nearest *n);

/* The id of a row; `copy` may hold its text. */
struct vector_id slot_id(struct reader *r, const struct slot *s, char copy[ID_BYTES_MAX]);

/* ---- exact scans (flat.c) ---- */

/* Offer every visible row of the snapshot but `exclude` (may be NULL); with `bits` only those whose
 * slot has its bit set.  ERR_CORRUPT. */
MUST_CHECK enum err_code flat_scan(struct reader *r, const struct exact *e,
                                   const struct vector_id *exclude, const uint64_t *bits,
                                   struct nearest *nearest, struct err *err);
/* The same for the `count` slots of a list (in the order of the list); with `once` some of them may
 * have been offered before. */
MUST_CHECK enum err_code flat_scan_list(struct reader *r, const struct exact *e,
                                        const struct vector_id *exclude, const uint32_t *slots,
                                        size_t count, bool once, struct nearest *nearest,
                                        struct err *err);

#endif

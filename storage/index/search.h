/*
 * search.h - inside of a search: for search.c, and for who measures what a search finds.
 *
 * Private to storage/index.  Threads: inside an epoch section.
 */
#ifndef STORAGE_INDEX_SEARCH_H
#define STORAGE_INDEX_SEARCH_H

#include "storage/index/graph.h"
#include "storage/index/nearest.h"

/* Candidates by navigation distance, nearest first. */
struct code_candidates {
    const uint32_t *slots;
    const float *distances;
    size_t count;
};

/* Compare candidates with the query as rows, nearest codes first, and offer them; stop when none of
 * those left is likely to be among the `nearest`.  How far codes may err is learned on the way from
 * those that were compared.  `most` (0: no limit but the number of candidates) rows are compared.
 * Rows that the snapshot does not see, or `exclude` (may be NULL), are passed over.
 * *compared: rows.  ERR_CORRUPT. */
MUST_CHECK enum err_code search_rescore(struct reader *r, const struct graph *g,
                                        const struct exact *e, const struct vector_id *exclude,
                                        const struct code_candidates *c, size_t most,
                                        struct nearest *nearest, uint64_t *compared,
                                        struct err *err);

/* What a default search of `r` would find with `ef` candidates: the `k` nearest rows by walk and
 * rescoring, without pending rows, filter or fallback.  `hidden` (UINT32_MAX: none) is a row that
 * is taken for not being there.  `slots` has room for k.  *distances_computed may be NULL. */
MUST_CHECK enum err_code search_graph_only(struct reader *r, struct graph *g, const float *query,
                                           uint32_t ef, size_t k, uint32_t hidden, uint32_t *slots,
                                           double *distances, size_t *count,
                                           uint64_t *distances_computed, struct err *err);

#endif

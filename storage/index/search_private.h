/* search_private.h - one search from inside: for search.c, search_plan.c and search_rescore.c. */
#ifndef STORAGE_INDEX_SEARCH_PRIVATE_H
#define STORAGE_INDEX_SEARCH_PRIVATE_H

#include "storage/filter/filter.h"
#include "storage/index/search.h"
#include "storage/index/vector_index.h"

enum { SEARCH_EF_MAX = 32768 };

enum plan {
    PLAN_EXACT,         /* all rows, or all that match                   */
    PLAN_CODES,         /* the codes of all that match                   */
    PLAN_WALK,          /* the graph                                     */
    PLAN_WALK_FILTERED, /* the graph, through rows that do not match     */
};

struct search {
    struct reader *r;
    const struct search_query *query;
    struct search_report *report;
    bool may_block;
    struct exact exact;
    struct graph *graph; /* NULL: none */
    struct vector_index_rest rest;
    size_t wanted; /* results, those to be skipped included */

    struct filter_rows rows; /* that match, if there is a filter */
    uint64_t allowed;        /* their number; UINT64_MAX without a filter */
    const uint64_t *bits;    /* they are needed as bits; `own_bits` if they were a list */
    uint64_t *own_bits;
    uint64_t *coded; /* `bits`, without those below */

    /* Rows that the graph does not hold (yet) and that match: first those to be compared by their
     * codes. */
    uint32_t *loose;
    size_t loose_coded, loose_count;

    enum plan plan;
    uint32_t ef;
    uint32_t frontier, explore; /* of PLAN_WALK_FILTERED */
    struct nearest nearest;
    /* Candidates, copied out of the graph's memory. */
    uint32_t *slots;
    float *distances;
    size_t count, cap;
};

/* Rows that a search is about. */
static inline uint64_t search_rows(const struct search *s)
{
    return s->query->filter ? s->allowed : s->r->live_count;
}

/* ---- search_plan.c ---- */

/* How to search, from what is known once the rows that match are: sets `plan`, `ef`, `frontier` and
 * `explore`.  ERR_WOULD_COMPUTE: it takes long, and may_block is false. */
MUST_CHECK enum err_code search_make_plan(struct search *s, struct err *err);
/* For the report; the latter behind what was said, and only if there is one. */
void search_plan_says(struct search *s, const char *what);
void search_plan_adds(struct search *s, const char *what);
/* Would it take too long, on a thread that must not wait, to compare so many rows, or codes? */
bool search_is_long_scan(const struct search *s, uint64_t rows);
bool search_is_long_scan_of_codes(const struct search *s, uint64_t codes);

/* ---- search_rescore.c ---- */

/* Rows to compare at most, of candidates for the `k` nearest. */
size_t search_rescore_most(const struct graph *g, size_t k, double oversampling);

#endif

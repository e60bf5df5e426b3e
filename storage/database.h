/*
 * database.h - one open database: its write path and its read path.
 *
 * A struct database comes from service_acquire() and stays open until service_release().
 *
 * WRITES go through one writer at a time: append to the log, store, publish.  They return when the
 * write is visible; it is acknowledged when database_await() says so.  A reader may therefore see a
 * write shortly before it is durable; the writer's own answer waits.  If the log breaks, readers
 * fall back to the last LSN that was durable, or acknowledged by periodic durability, and the
 * database is read-only until it is opened again.
 *
 * READS take no lock: a struct reader is a snapshot (everything up to reader.lsn, nothing later,
 * batches whole) that neither writers, checkpoints nor growth disturb.  Keep it short: it holds
 * back the reuse of space.
 *
 * `may_block` false: ERR_WOULD_BLOCK instead of waiting for a lock or doing more than about 200 us
 * of work, with nothing done; call again on a thread that may wait.
 *
 * Any thread, unless said otherwise.
 */
#ifndef STORAGE_DATABASE_H
#define STORAGE_DATABASE_H

#include "storage/base/arena.h"
#include "storage/base/epoch.h"
#include "storage/types.h"

struct database;
struct store;

const struct schema *database_schema(const struct database *db);
const char *database_name(const struct database *db);

/* ---- writes ---- */

struct row_input {
    struct vector_id id;  /* in; out when assign_id                                            */
    bool assign_id;       /* the server picks the next free integer                            */
    const float *vector;  /* `dimension` finite floats                                         */
    const char *metadata; /* JSON object text, validated by the caller; NULL or "{}" for none  */
    uint32_t metadata_bytes;
    bool replaced; /* out, on success: a row with this id existed, perhaps from this very batch  */
};

/* Upsert all `count` rows or none: one log record, one LSN.  Rows are applied in order; the last of
 * equal ids stays.  `dimension` is the length of every vector, to be checked against the schema.
 * ERR_DIMENSION_MISMATCH, ERR_INVALID_VECTOR (a number is not finite), ERR_INVALID_REQUEST
 * (metadata too long), ERR_STORAGE_FULL, ERR_READ_ONLY, ERR_NOMEM, ERR_WOULD_BLOCK. */
MUST_CHECK enum err_code database_put(struct database *db, struct row_input *rows, size_t count,
                                      size_t dimension, bool may_block, uint64_t *lsn,
                                      struct err *err);

/* Delete every id that exists, atomically; *deleted says how many did.  With *deleted == 0 nothing
 * was logged and *lsn is the current one. */
MUST_CHECK enum err_code database_delete(struct database *db, const struct vector_id *ids,
                                         size_t count, bool may_block, size_t *deleted,
                                         uint64_t *lsn, struct err *err);

struct filter;

/* Delete every row that matches (storage/filter/filter.h), atomically: none that does at the LSN of
 * the delete survives it.  Else as above; ERR_WOULD_COMPUTE if it takes long and `may_block` is
 * false; ERR_CORRUPT, ERR_NOMEM. */
MUST_CHECK enum err_code database_delete_matching(struct database *db, const struct filter *filter,
                                                  bool may_block, size_t *deleted, uint64_t *lsn,
                                                  struct err *err);

/* Called once, on a syncer thread, when the write is durable (ERR_OK) or never will be. */
typedef void database_durable_fn(void *ctx, enum err_code rc);

/* True: everything up to `lsn` is durable already (or need not be: periodic durability, in-memory
 * engine) and fn will not be called.  False: fn(ctx, rc) will be called, possibly before this
 * returns.  The database must stay acquired until then. */
bool database_await(struct database *db, uint64_t lsn, enum durability durability,
                    database_durable_fn *fn, void *ctx);
/* The same, waiting.  ERR_READ_ONLY: the log could not be synced. */
MUST_CHECK enum err_code database_wait(struct database *db, uint64_t lsn,
                                       enum durability durability, struct err *err);

/* The LSN of the last write, acknowledged or not, and the one up to which all is durable (in
 * memory: the same). */
void database_lsns(struct database *db, uint64_t *last, uint64_t *durable);

/* ---- reads ---- */

struct reader {
    struct database *db;
    struct store *store; /* private to storage                                      */
    uint64_t lsn;        /* the snapshot                                            */
    uint64_t live_count; /* rows in it                                              */
    uint32_t slot_count; /* private to storage                                      */
    uint64_t now_ms;     /* one wall time for every expiry test                     */
    struct arena pieces; /* of metadata that does not lie in one piece              */
};

void reader_begin(struct database *db, struct reader *r);
/* The file may turn out to be unreadable while its rows are looked at (cut short, a bad disk); what
 * was read then were zeros.  So, when all that is needed of the rows has been copied and before it
 * goes out: ERR_CORRUPT in that case, else `rc`. */
MUST_CHECK enum err_code reader_check(struct reader *r, enum err_code rc, struct err *err);
void reader_end(struct reader *r); /* rows got from it are gone */

/* One snapshot that readers on several threads share.  It holds back as much as a reader, from
 * snapshot_take() to snapshot_drop(), which may be another thread's. */
struct snapshot {
    struct reader of; /* private to storage, but for its counts */
    struct epoch_pin pin;
};
void snapshot_take(struct database *db, struct snapshot *s);
void snapshot_drop(struct snapshot *s); /* no reader of it is left */
/* As reader_begin(), at that snapshot. */
void reader_begin_at(const struct snapshot *s, struct reader *r);

/* ERR_VECTOR_NOT_FOUND, ERR_CORRUPT (never a wrong row). */
MUST_CHECK enum err_code reader_get(struct reader *r, const struct vector_id *id, struct row *row,
                                    struct err *err);
/* Rows that are live in this snapshot: exact. */
uint64_t reader_count(struct reader *r);

/* Called for each row in id order; return false to stop. */
typedef bool reader_row_fn(void *ctx, const struct row *row);
/* Rows with an id greater than `after` (NULL: from the start), at most `limit`, in id order;
 * `prefix` (may be NULL) keeps string ids that start with it.  *more: rows are left.
 * The row pointers given to fn are valid until reader_end(). */
MUST_CHECK enum err_code reader_list(struct reader *r, const struct vector_id *after,
                                     const char *prefix, size_t prefix_bytes, size_t limit,
                                     reader_row_fn *fn, void *ctx, bool *more, struct err *err);
/* The same for those of them that filter_select() of this reader has selected. */
MUST_CHECK enum err_code reader_list_selected(struct reader *r, const uint64_t *bits,
                                              const struct vector_id *after, const char *prefix,
                                              size_t prefix_bytes, size_t limit, reader_row_fn *fn,
                                              void *ctx, bool *more, struct err *err);

/* How a search was answered. */
enum search_strategy { SEARCH_EXACT, SEARCH_GRAPH, SEARCH_FILTERED_GRAPH, SEARCH_STRATEGY_COUNT };
const char *search_strategy_name(enum search_strategy s); /* "exact", "graph", "filtered_graph" */

struct search_query {
    const float *vector; /* `dimension` finite floats                      */
    size_t top_k;        /* 1 .. 10000                                     */
    size_t offset;       /* results to skip; top_k + offset <= 20000       */
    bool has_min_score;
    double min_score;
    bool has_max_distance;
    double max_distance;
    const struct vector_id *exclude; /* may be NULL */
    const struct filter *filter;     /* storage/filter/filter.h; may be NULL */

    /* How hard to look.  `exact` scans; else `ef` (0: not given) is the number of candidates by
     * hand; else it is chosen for the `recall` (0: 0.95) that is wanted, from what was measured on
     * the rows of this database. */
    bool exact;
    uint32_t ef;
    double recall;   /* 0, or 0.5 .. 1; 1 is exact                                            */
    bool no_rescore; /* order the results by codes, not by rows: distances are exact still    */
    double
        oversampling; /* candidates that are compared as rows, times top_k; 0: chosen, 1 .. 100 */
};

struct search_hit {
    struct row row;  /* valid until reader_end()                                             */
    double distance; /* lower is nearer: 1-cos, L2, -dot, L1                                 */
    double score;    /* higher is nearer: cos, 1/(1+L2), dot, 1/(1+L1)                       */
};

/* What a search did, for "strategy", "explain" and statistics. */
struct search_report {
    enum search_strategy strategy;
    char plan[160];          /* one line: what was chosen, and why                              */
    uint32_t ef;             /* 0 when exact                                                    */
    uint64_t allowed;        /* rows that the filter lets through; UINT64_MAX: not counted      */
    uint64_t visited;        /* nodes of the graph whose links were followed                    */
    uint64_t code_distances; /* computed on codes                                               */
    uint64_t row_distances;  /* computed on rows                                                */
    uint64_t unlinked;       /* rows not in the graph yet, compared one by one                  */
    double expected_recall;  /* 1 when exact; 0: not measured yet                               */
    uint64_t filter_ns, graph_ns, unlinked_ns, rescore_ns, read_ns;
};

/* The nearest rows of this snapshot by (distance, id), distances in float64, the same on every
 * machine.  top_k of them, or all that there are (that match the filter): never fewer.  Which rows
 * are found is exact (`exact`, few rows, few matches) or meets the recall that was asked for.
 * `hits` has room for top_k; `report` may be NULL.
 * ERR_WOULD_COMPUTE when it takes long; ERR_INVALID_REQUEST, ERR_INVALID_VECTOR, ERR_NOMEM,
 * ERR_CORRUPT. */
MUST_CHECK enum err_code reader_search(struct reader *r, const struct search_query *query,
                                       bool may_block, struct search_hit *hits, size_t *count,
                                       struct search_report *report, struct err *err);

/* What a compaction did (service_compact()). */
struct compact_result {
    uint64_t bytes_before; /* of the .jvdb */
    uint64_t bytes_after;
    uint64_t rows; /* in the new file */
};

#endif

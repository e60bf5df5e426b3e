/*
 * store.h - one database for a benchmark, through the storage layer's own calls: written, synced,
 * indexed in the background, searched in snapshots.  No HTTP.
 *
 * Whatever fails ends the benchmark (client.h).  store_put() and store_delete(): one thread at a
 * time; searches: any.
 */
#ifndef BENCH_STORE_H
#define BENCH_STORE_H

#include "bench/support/subjects.h"
#include "storage/service.h"

struct store_options {
    const char *dir; /* to use, and to keep afterwards; NULL: a new one, removed afterwards */
    enum metric metric;
    uint32_t dimension;
    struct index_options index;
    uint64_t capacity; /* rows to come; a hint */
    char *options;     /* schema.options; may be NULL */
};

struct bench_store {
    struct service *svc;
    struct database *db;
    uint32_t dimension;
    enum index_kind index_kind;
    char dir[512];
    bool keeps_dir;
};

/* Open the service on the directory; the database is made if it is not there. */
void store_open(struct bench_store *s, const struct store_options *o);
/* The index may go on working until then; the directory is removed unless it was given. */
void store_close(struct bench_store *s);

void store_remove(const char *dir); /* with all that is in it */

/* Metadata of a row: JSON object text into `text`; its length. */
typedef size_t store_metadata_fn(void *ctx, uint64_t id, char *text, size_t cap);

/* Upsert rows with the ids first, first + 1 ..., in batches; durable on return.  `metadata` may be
 * NULL. */
void store_put(struct bench_store *s, const float *rows, uint64_t first, size_t count,
               store_metadata_fn *metadata, void *ctx);
void store_put_one(struct bench_store *s, const float *row, uint64_t id);
void store_delete(struct bench_store *s, uint64_t first, size_t count);

/* Wait until nothing is left to be linked; seconds it took.  Ends the benchmark when
 * nothing has moved for five minutes. */
double store_settle(struct bench_store *s);
/* Until the index has nothing left to do, what it leaves for idle times included: it is audited and
 * measured. */
void store_rest(struct bench_store *s);
void store_index_info(struct bench_store *s, struct vector_index_info *info);

/* Ids of the k nearest.  `report` may be NULL. */
size_t store_search(struct bench_store *s, const struct search_query *query, uint32_t *ids,
                    struct search_report *report);

/* A database as a subject: ids are row numbers; ef 0 searches with the default effort. */
void subject_database(struct subject *s, const struct dataset *set, const struct index_options *o,
                      struct build_cost *cost);
struct bench_store *subject_database_store(const struct subject *s);
void subject_database_free(struct subject *s);

#endif

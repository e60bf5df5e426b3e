/*
 * json_vectors.h - the bodies that carry vectors, read in one pass into C structs.
 *
 * Messages are predicates ("has 767 numbers; ..."): the caller puts the subject in front with
 * json_vectors_subject().  ERR_INVALID_JSON messages are whole and stay as they are.
 */
#ifndef API_JSON_VECTORS_H
#define API_JSON_VECTORS_H

#include "api/json_scan.h"
#include "storage/database.h"

/* What vectors are held against. */
struct vector_rules {
    const char *database; /* name, for messages */
    size_t dimension;
    const char *options; /* of the schema, for filters; may be NULL */
    bool is_dump; /* a row of a dump: "id" as well as "vector_id", and it must have one */
    const struct vector_id *path_id; /* the id is in the path; one in the body must be equal */
};

/* One object {"vector_id","data" | "data_base64","metadata"}.  The row borrows the text and the
 * scanner's arena. */
MUST_CHECK enum err_code json_vector_row(struct json_scan *s, const struct vector_rules *rules,
                                         struct row_input *row, struct err *err);

/* Copy what a row borrows from the text: it will be needed longer.  False: out of memory. */
MUST_CHECK bool json_vector_keep(struct arena *arena, struct row_input *row);

/* The body {"vectors":[...]}; *rows is in the arena. */
MUST_CHECK enum err_code json_vector_batch(struct json_scan *s, const struct vector_rules *rules,
                                           struct row_input **rows, size_t *count, struct err *err);

/* An id: a JSON integer or a string. */
MUST_CHECK enum err_code json_vector_id(struct json_scan *s, struct vector_id *id, struct err *err);
/* An array of ids, in the arena; at most `max`. */
MUST_CHECK enum err_code json_vector_ids(struct json_scan *s, size_t max, struct vector_id **ids,
                                         size_t *count, struct err *err);

enum { INCLUDE_DATA = 1, INCLUDE_METADATA = 2 };

/* An array of "data" and "metadata". */
MUST_CHECK enum err_code json_vector_include(struct json_scan *s, unsigned *include,
                                             struct err *err);

struct search_request {
    struct search_query query;
    bool by_id; /* search by a stored vector */
    struct vector_id id;
    unsigned include;
    bool explain;
};

MUST_CHECK enum err_code json_vector_search(struct json_scan *s, const struct vector_rules *rules,
                                            struct search_request *search, struct err *err);

/* Put "<subject> " in front of the message unless it is about syntax. */
void json_vectors_subject(struct err *err, const char *subject);

#endif

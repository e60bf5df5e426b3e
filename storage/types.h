/* types.h - the nouns that every layer shares: metrics, schemas, ids, rows. */
#ifndef STORAGE_TYPES_H
#define STORAGE_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "storage/base/err.h"

enum {
    NAME_BYTES_MAX = 128, /* database name                     */
    ID_BYTES_MAX = 512,   /* string id                         */
    DIMENSION_MAX = 65536,
    METADATA_BYTES_MAX = 64 * 1024,
    OPTIONS_BYTES_MAX = 16 * 1024,
};

enum metric { METRIC_COSINE, METRIC_EUCLIDEAN, METRIC_DOT_PRODUCT, METRIC_MANHATTAN, METRIC_COUNT };
const char *metric_name(enum metric m);
/* Accepts the aliases l2, dot, inner_product, ip, l1.  False: unknown. */
bool metric_parse(const char *text, size_t len, enum metric *out);

enum durability { DURABILITY_SYNCED, DURABILITY_PERIODIC, DURABILITY_COUNT };
const char *durability_name(enum durability d);
bool durability_parse(const char *text, size_t len, enum durability *out);

/* How the vectors of a database are searched. */
enum index_kind {
    INDEX_AUTO,  /* exactly while that is quick, by a graph from some thousands of rows on */
    INDEX_GRAPH, /* by a graph from a few hundred rows on                                  */
    INDEX_FLAT,  /* always exactly                                                         */
    INDEX_KIND_COUNT
};
const char *index_kind_name(enum index_kind k); /* "auto", "hnsw", "flat" */
bool index_kind_parse(const char *text, size_t len, enum index_kind *out);

/* What the graph is navigated on; rows that are returned are always compared as float32. */
enum quantization {
    QUANTIZATION_AUTO, /* int8 if the data allow it, else float32 */
    QUANTIZATION_NONE, /* float32 */
    QUANTIZATION_INT8,
    QUANTIZATION_BINARY, /* one bit a number */
    QUANTIZATION_COUNT
};
const char *quantization_name(enum quantization q); /* "auto", "none", "int8", "binary" */
bool quantization_parse(const char *text, size_t len, enum quantization *out);

enum { INDEX_M_MIN = 4, INDEX_M_MAX = 64, INDEX_EF_MIN = 8, INDEX_EF_MAX = 2000 };
struct index_options {
    enum index_kind kind;
    enum quantization quantization;
    uint32_t m;               /* half of the links of a node; INDEX_M_MIN .. INDEX_M_MAX, 0: 16 */
    uint32_t ef_construction; /* candidates when a node is linked; INDEX_EF_MIN .. INDEX_EF_MAX,
                                 0: the default */
};
/* Are all four within their bounds? */
bool index_options_are_sane(const struct index_options *o);

/* What a database is: fixed at creation (options may change, step by step). */
struct schema {
    uint32_t dimension; /* 1 .. DIMENSION_MAX                                             */
    enum metric metric;
    enum durability durability;
    uint64_t initial_capacity; /* rows; a hint for growth                                 */
    struct index_options index;
    /* JSON object text of the options that storage does not read itself (description, ...), or
     * NULL; owned by the schema when it was returned, borrowed when given */
    char *options;
};

/* A vector's id: an integer 0 .. 2^63-1, or 1 .. 512 bytes of UTF-8 without control characters that
 * are not the canonical decimal form of such an integer. */
struct vector_id {
    uint64_t number;  /* when text is NULL                  */
    const char *text; /* borrowed; not NUL-terminated       */
    uint32_t text_bytes;
};

/* From the text of an id (already percent-decoded or JSON-unescaped): integers in canonical form
 * become numbers.  ERR_INVALID_ID.  The result borrows `text`. */
MUST_CHECK enum err_code vector_id_parse(const char *text, size_t len, struct vector_id *out,
                                         struct err *err);
/* Integers before strings, each ascending (strings by bytes): <0, 0, >0. */
int vector_id_compare(const struct vector_id *a, const struct vector_id *b);
/* For messages: the id as text, cut to fit; NUL-terminated. */
void vector_id_format(const struct vector_id *id, char *text, size_t cap);

/* ERR_INVALID_NAME unless 1-128 of A-Z a-z 0-9 _ - . that does not start with . or - and does not
 * contain ".jvdb". */
MUST_CHECK enum err_code database_name_check(const char *name, size_t len, struct err *err);

/* A stored row as a reader sees it.  The pointers are borrowed from the reader. */
struct row {
    struct vector_id id;
    const float *vector;  /* `dimension` floats, the bits that were written                   */
    const char *metadata; /* JSON object text as it was sent; "{}" when there is none         */
    uint32_t metadata_bytes;
    uint64_t version;       /* LSN of the row's last write                                    */
    uint64_t expires_at_ms; /* wall time, 0 = never                                           */
};

#endif

/* filter_private.h - a compiled filter from inside: for filter.c, select.c and the columns. */
#ifndef STORAGE_FILTER_FILTER_PRIVATE_H
#define STORAGE_FILTER_FILTER_PRIVATE_H

#include "storage/filter/filter.h"
#include "storage/filter/metadata.h"
#include "storage/filter/regex.h"
#include "storage/filter/words.h"

struct word {
    uint32_t bytes;
    char text[WORD_BYTES_MAX];
};

/* One condition on the values of one field: EQ, GT, GTE, LT, LTE, IN (values ascending, none
 * twice), EXISTS, CONTAINS, PREFIX, REGEX, GEO_RADIUS, GEO_BOX or TEXT.  It holds if it does for
 * any value. */
struct leaf {
    enum filter_op op;
    uint32_t field;
    const struct value *values;
    size_t value_count;
    const struct regex *regex;
    struct geo_circle circle;
    struct geo_box box;
    const struct word *words; /* none twice */
    uint32_t word_count;
};

struct field {
    const char *path; /* NULL: the id */
    uint32_t path_bytes;
    bool is_datetime;
    bool is_text, is_geo, is_scalar; /* which other indexes were asked for */
    uint32_t *leaves;
    uint32_t leaf_count;
};

/* The tree: AND, OR and NOT over leaves. */
struct term {
    enum filter_op op; /* AND, OR, NOT (none of its parts); else `leaf` */
    const struct term *first, *next;
    uint32_t leaf;
};

struct filter {
    const struct term *tree;
    const struct leaf *leaves;
    uint32_t leaf_count;
    const struct field *fields;
    uint32_t field_count;
    const struct metadata_path *paths; /* of the fields that have one, */
    const uint32_t *path_fields;       /* and which they are */
    uint32_t path_count;
    uint32_t id_field;  /* UINT32_MAX: none */
    size_t regex_bytes; /* the largest workspace */
    /* The same bytes for the same conditions on the same fields, other bytes for others; NULL: they
     * would be more than FILTER_KEY_BYTES_MAX. */
    const uint8_t *key;
    uint32_t key_bytes;
    uint64_t hash; /* of the key */
};

enum { FILTER_KEY_BYTES_MAX = 4096 };
/* Set key and hash of a filter that is complete otherwise (filter_key.c).  ERR_NOMEM. */
MUST_CHECK enum err_code filter_set_key(struct filter *f, struct arena *arena, struct err *err);

/* Does the condition hold for one value?  `workspace`: filter.regex_bytes, 8-byte aligned. */
bool leaf_holds(const struct leaf *leaf, const struct value *v, void *workspace);
/* The point in an object. */
bool value_to_point(const struct value *v, struct geo_point *p);
/* Are all the words in the text? */
bool words_are_in(const struct word *words, uint32_t count, const char *text, size_t bytes);

/* What one thread needs to try rows one after the other. */
struct matcher {
    const struct filter *filter;
    struct metadata_walk walk;
    uint64_t *holds; /* a bit for each leaf */
    void *workspace;
};
MUST_CHECK enum err_code matcher_init(struct matcher *m, const struct filter *filter,
                                      struct err *err);
void matcher_deinit(struct matcher *m); /* a zeroed one is fine */
MUST_CHECK enum err_code matcher_try(struct matcher *m, const struct vector_id *id,
                                     const char *metadata, size_t metadata_bytes, bool *matches,
                                     struct err *err);

#endif

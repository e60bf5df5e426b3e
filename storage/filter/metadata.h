/*
 * metadata.h - find the values of some fields in the metadata of a row, in one walk.
 *
 * A path is a key, or keys joined by dots: "a.b" is member "b" of the object in "a", of each object
 * in the array in "a", and also the member that is called "a.b" itself.
 *
 * Metadata was checked when it was written, so what is not looked for is skipped, not read.  All
 * the same: any bytes are safe, they only lead to any values.  One thread at a time for each walk.
 */
#ifndef STORAGE_FILTER_METADATA_H
#define STORAGE_FILTER_METADATA_H

#include "storage/filter/value.h"

enum {
    METADATA_PATH_BYTES_MAX = 256,
    METADATA_PATH_KEYS_MAX = 16, /* joined by dots */
};

struct metadata_path {
    const char *text;
    uint32_t bytes;
};

/* Called for each value of a path, in the order of the text: a scalar; an object; an array, and
 * then each of its elements.  The value is gone after the call.  False: seen enough. */
typedef bool metadata_value_fn(void *ctx, unsigned path, const struct value *v);

/* A path whose first keys led to where the walk is; its rest begins at that offset. */
struct metadata_active {
    uint32_t path;
    uint32_t rest;
};

struct metadata_walk {
    const struct metadata_path *paths; /* borrowed */
    unsigned path_count;
    metadata_value_fn *fn;
    void *ctx;

    /* The walk's own. */
    struct metadata_active *active;
    size_t active_max;
    unsigned dotless; /* paths of one key: each is met once */
    char *unescaped;  /* room for a text without its escapes, made when it is needed */
    size_t unescaped_max;
    bool out_of_memory; /* some value was left out */
};

/* Paths of more than METADATA_PATH_KEYS_MAX keys find nothing.  False: out of memory. */
bool metadata_walk_init(struct metadata_walk *w, const struct metadata_path *paths, unsigned count,
                        metadata_value_fn *fn, void *ctx);
void metadata_walk_deinit(struct metadata_walk *w); /* a zeroed one is fine */

/* Walk over a JSON object.  To be asked afterwards: out_of_memory. */
void metadata_walk(struct metadata_walk *w, const char *text, size_t bytes);

/* How many keys a path has; 0: it is none (empty, or with an empty key). */
unsigned metadata_path_keys(const char *text, size_t bytes);

#endif

/*
 * verify_index.h - the codes and links of a search index, compared with their checksums.
 *
 * What is bad here costs nobody a row: it is made again by whoever opens the database.  So it is
 * counted, and is no error.  A few bad cells are also normal: a crash in the middle of a checkpoint
 * leaves parts of the file newer than its record, or torn.
 */
#ifndef STORAGE_VERIFY_INDEX_H
#define STORAGE_VERIFY_INDEX_H

#include "storage/image.h"

enum { INDEX_BAD_MAX = 256 };

struct index_check {
    uint64_t cells_checked;      /* codes and links of rows that are linked        */
    uint64_t cells_bad;          /* of them                                        */
    bool is_unusable;            /* there is a record, but it makes no sense       */
    size_t bad_kept;             /* the first of them:                             */
    uint32_t bad[INDEX_BAD_MAX]; /* slots, ascending */
};

/* Check the index of an image that is in use (image_use()); `pace` is asked now and then, false:
 * stop, and the result is of no use.  ERR_NOMEM; what cannot be read is bad. */
MUST_CHECK enum err_code verify_index(struct image *img, bool (*pace)(void *ctx), void *ctx,
                                      struct index_check *check, struct err *err);

#endif

/*
 * buf.h - a byte buffer that grows.
 *
 * A failed growth is remembered in `failed` and later appends do nothing, so that an encoder can
 * append a hundred times and test once.  A zeroed struct is an empty buffer.  One thread at a time.
 */
#ifndef STORAGE_BASE_BUF_H
#define STORAGE_BASE_BUF_H

#include <stdbool.h>
#include <stddef.h>

struct buf {
    char *data; /* owned; not NUL-terminated */
    size_t len;
    size_t cap;
    bool failed; /* out of memory: the content is incomplete */
};

/* Make room for `more` bytes behind len and return that place, or NULL (and `failed`). */
char *buf_reserve(struct buf *b, size_t more);
void buf_add(struct buf *b, const void *bytes, size_t count);
void buf_str(struct buf *b, const char *text);
void buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void buf_free(struct buf *b); /* leaves an empty, usable buffer */

#endif

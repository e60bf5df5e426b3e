/* base64.h - RFC 4648: standard text for vectors, URL-safe text without padding for cursors.
 * Any thread. */
#ifndef API_BASE64_H
#define API_BASE64_H

#include <stdbool.h>
#include <stddef.h>

#include "storage/base/buf.h"

void base64_write(struct buf *out, const void *bytes, size_t len);
void base64url_write(struct buf *out, const void *bytes, size_t len);

/* Most bytes that `len` characters can stand for. */
static inline size_t base64_bytes_max(size_t len)
{
    return len / 4 * 3 + 3;
}

/* Both alphabets, padding optional; bits that stand for nothing must be zero.  False: not base64.
 * `out` has room for base64_bytes_max(len). */
bool base64_read(const char *text, size_t len, void *out, size_t *out_len);

#endif

/* text.h - the pure text work of the client: addresses, path segments, vectors, safe printing. */
#ifndef SERVER_CLI_TEXT_H
#define SERVER_CLI_TEXT_H

#include <stddef.h>

#include "storage/base/buf.h"
#include "storage/base/err.h"

/* Append `text` as one segment of a path, percent-encoded. */
void text_add_segment(struct buf *out, const char *text);

/* Append the address of the server without a final slash: `http://` is added when there is no
 * scheme, `/api/v1` at the end is dropped.  ERR_INVALID_REQUEST when it is no http(s) address. */
MUST_CHECK enum err_code text_add_base_url(struct buf *out, const char *text, struct err *err);

/* Append the vector written as "[0.1, 0.2]" or "0.1,0.2" or "0.1 0.2" as a JSON array.  The digits
 * stay as they are, because only the server may round them, once.  ERR_INVALID_VECTOR says which
 * number is none. */
MUST_CHECK enum err_code text_add_vector(struct buf *out, const char *text, struct err *err);

/* Append text from elsewhere so that it can be shown on a terminal: control characters and
 * malformed bytes become \xNN. */
void text_add_printable(struct buf *out, const char *text, size_t len);

/* "12.3 MB" */
void text_bytes(char out[32], double bytes);

#endif

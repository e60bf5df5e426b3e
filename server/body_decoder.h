/*
 * body_decoder.h - expands a compressed body (Content-Encoding) as it arrives.
 *
 * gzip (RFC 1952) by zlib, zstd (RFC 8878) by libzstd.  Several gzip members or zstd frames behind
 * each other are one body, as both formats say.  Anything else behind the end is refused, also the
 * zero bytes with which tapes were filled up.  No bytes at all are an empty body.
 *
 * What a stream may cost is bounded: gzip needs about 50 KB, zstd its window, of which more than
 * BODY_WINDOW_BYTES_MAX (what RFC 8878 recommends to support) are refused.  How much comes out is
 * for the caller to bound.  One thread at a time.
 */
#ifndef SERVER_BODY_DECODER_H
#define SERVER_BODY_DECODER_H

#include <stddef.h>

#include "api/api.h"
#include "storage/base/err.h"

enum { BODY_WINDOW_BYTES_MAX = 8 * 1024 * 1024 };

struct body_decoder;

/* NULL: out of memory.  `encoding` is not ENCODING_IDENTITY. */
struct body_decoder *body_decoder_new(enum api_encoding encoding);
void body_decoder_free(struct body_decoder *d); /* NULL is fine */

/* Expand *in_bytes bytes at *in, which both move on, to at most `room` bytes at `out`.
 * *out_bytes < room: all of the input is used, and all that comes of it is there; else call again,
 * even if no input is left.  `room` is not 0, and both lengths are below 4 GiB.
 * ERR_INVALID_REQUEST: this is not, or no longer, the encoding; ERR_NOMEM. */
MUST_CHECK enum err_code body_decoder_run(struct body_decoder *d, const char **in, size_t *in_bytes,
                                          char *out, size_t room, size_t *out_bytes,
                                          struct err *err);
/* There is no more input.  ERR_INVALID_REQUEST: but there should be. */
MUST_CHECK enum err_code body_decoder_end(const struct body_decoder *d, struct err *err);

/* Memory it has now, in bytes. */
size_t body_decoder_memory(const struct body_decoder *d);

#endif

/*
 * answer_encoder.h - compresses answers for clients that ask for it (Accept-Encoding, RFC 9110
 * section 12.5.3).
 *
 * gzip at its quickest level: 150 to 300 MB/s of JSON to a third or a quarter of its length.  One
 * thread at a time.
 */
#ifndef SERVER_ANSWER_ENCODER_H
#define SERVER_ANSWER_ENCODER_H

#include <stdbool.h>
#include <stddef.h>

#include "storage/base/buf.h"

/* Would the client rather have gzip than the answer as it is?  `header` may be NULL. */
bool accepts_gzip(const char *header);

struct answer_encoder;

struct answer_encoder *answer_encoder_new(void);    /* NULL: out of memory */
void answer_encoder_free(struct answer_encoder *e); /* NULL is fine */

/* Append what comes of `bytes` bytes to *out, perhaps nothing yet; `last`: and all that is left.
 * out->failed: out of memory. */
void answer_encoder_run(struct answer_encoder *e, const char *data, size_t bytes, bool last,
                        struct buf *out);

#endif

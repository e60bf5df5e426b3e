/*
 * json.h - small JSON documents: typed access through jansson, and writing text.
 *
 * For what is not hot.  Vectors go through json_scan.h and json_vectors.h.
 */
#ifndef API_JSON_H
#define API_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "storage/base/arena.h"
#include "storage/base/buf.h"
#include "storage/base/err.h"

/* ---- reading ---- */

/* Parse an object, as strictly as json_scan.h does; a text of white space alone is {}.  The text is
 * followed by a zero byte.  *out is to be given to json_decref(). */
MUST_CHECK enum err_code json_load_object(const char *text, size_t len, struct arena *arena,
                                          json_t **out, struct err *err);

/* ERR_INVALID_REQUEST for a member that is not in `names` (NULL-terminated).  `where` names the
 * object in the message, e.g. "the request" or "\"index\"". */
MUST_CHECK enum err_code json_only_fields(const json_t *object, const char *const *names,
                                          const char *where, struct err *err);

/* Read a member if it is there: *found says so, and the out-parameter is untouched otherwise.
 * ERR_INVALID_REQUEST names the member and what is allowed.  Text is borrowed from `object`. */
MUST_CHECK enum err_code json_get_u64(const json_t *object, const char *name, uint64_t min,
                                      uint64_t max, uint64_t *out, bool *found, struct err *err);
MUST_CHECK enum err_code json_get_text(const json_t *object, const char *name, const char **out,
                                       size_t *len, bool *found, struct err *err);

/* ---- writing ---- */

void json_put_string(struct buf *out, const char *text, size_t len); /* with its quotes */
void json_put_str(struct buf *out, const char *text);
void json_put_u64(struct buf *out, uint64_t value);
void json_put_double(struct buf *out, double value); /* not finite: null */
void json_put_floats(struct buf *out, const float *values, size_t count);

#endif

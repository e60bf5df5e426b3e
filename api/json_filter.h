/*
 * json_filter.h - a filter as a client writes it, {"size": {"$gt": 10}}, to a compiled one.
 *
 * docs/API.md has the language.  Messages are predicates, as in json_vectors.h.
 */
#ifndef API_JSON_FILTER_H
#define API_JSON_FILTER_H

#include "api/json_scan.h"
#include "storage/filter/filter.h"

/* One value of a request; null: *filter is NULL.  The filter lies in the scanner's arena and borrows the text.  `options`:
 * those of the database's schema, may be NULL.  ERR_INVALID_FILTER, ERR_INVALID_JSON, ERR_NOMEM. */
MUST_CHECK enum err_code json_filter(struct json_scan *s, const char *options,
                                     const struct filter **filter, struct err *err);

#endif

/*
 * auth.h - API keys: who may do what, and how often.
 *
 * The file is JSON, readable by its owner alone:
 *   {"keys":[{"name":"ops","scope":"read|write|admin","sha256":"<hex>","databases":["*"]}]}
 * Only hashes are kept.  Any thread.
 */
#ifndef API_AUTH_H
#define API_AUTH_H

#include <stdint.h>

#include "storage/base/err.h"

enum { AUTH_NAME_BYTES = 64 }; /* of a key's name in the log, with the zero */

struct api_auth;

/* `path` is borrowed until auth_free().  `rate_limit`: requests per second and key, 0: none. */
MUST_CHECK enum err_code auth_load(const char *path, uint64_t rate_limit, struct api_auth **out,
                                   struct err *err);
/* The old keys stay on failure. */
MUST_CHECK enum err_code auth_reload(struct api_auth *auth, struct err *err);
void auth_free(struct api_auth *auth); /* NULL is fine */

/* May the holder of the key in these headers (either may be NULL) use `scope` (enum api_scope) on
 * `database` (NULL: on no single one)?  ERR_UNAUTHORIZED (the same for a missing and a wrong key,
 * in the same time), ERR_FORBIDDEN, ERR_RATE_LIMITED (*retry_after_seconds set).  `key_name` gets
 * the name of a known key, cut if need be, also with the last two; else "". */
MUST_CHECK enum err_code auth_check(struct api_auth *auth, const char *authorization,
                                    const char *api_key, int scope, const char *database,
                                    char key_name[AUTH_NAME_BYTES], uint32_t *retry_after_seconds,
                                    struct err *err);

#endif

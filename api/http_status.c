/* http_status.c - the HTTP status of every error code. */
#include <assert.h>

#include "api/api_private.h"

int http_status(enum err_code code)
{
    static const int statuses[ERR_CODE_COUNT] = {
        [ERR_OK] = 200,
        [ERR_INVALID_JSON] = 400,
        [ERR_INVALID_REQUEST] = 400,
        [ERR_DIMENSION_MISMATCH] = 400,
        [ERR_INVALID_VECTOR] = 400,
        [ERR_INVALID_NAME] = 400,
        [ERR_INVALID_ID] = 400,
        [ERR_INVALID_FILTER] = 400,
        [ERR_UNAUTHORIZED] = 401,
        [ERR_FORBIDDEN] = 403,
        [ERR_NOT_FOUND] = 404,
        [ERR_DATABASE_NOT_FOUND] = 404,
        [ERR_VECTOR_NOT_FOUND] = 404,
        [ERR_ALIAS_NOT_FOUND] = 404,
        [ERR_SNAPSHOT_NOT_FOUND] = 404,
        [ERR_METHOD_NOT_ALLOWED] = 405,
        [ERR_LOG_TRUNCATED] = 410,
        [ERR_DATABASE_EXISTS] = 409,
        [ERR_CONFLICT] = 409,
        [ERR_LENGTH_REQUIRED] = 411,
        [ERR_PAYLOAD_TOO_LARGE] = 413,
        [ERR_URI_TOO_LONG] = 414,
        [ERR_UNSUPPORTED_MEDIA_TYPE] = 415,
        [ERR_HEADERS_TOO_LARGE] = 431,
        [ERR_PRECONDITION_FAILED] = 412,
        [ERR_QUARANTINED] = 423,
        [ERR_RATE_LIMITED] = 429,
        [ERR_INTERNAL] = 500,
        [ERR_IO] = 500,
        [ERR_CORRUPT] = 500,
        [ERR_SHUTTING_DOWN] = 503,
        [ERR_OVERLOADED] = 503,
        [ERR_NOMEM] = 503,
        [ERR_NOT_READY] = 503,
        [ERR_READ_ONLY] = 503,
        [ERR_STORAGE_FULL] = 507,
        [ERR_WOULD_BLOCK] = 500,
        [ERR_WOULD_COMPUTE] = 500,
    };
    assert(code < ERR_CODE_COUNT && statuses[code]);
    return statuses[code];
}

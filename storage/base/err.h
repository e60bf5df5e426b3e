/* err.h - the one error type: a code to branch on, a message to read. */
#ifndef STORAGE_BASE_ERR_H
#define STORAGE_BASE_ERR_H

/* One row per code: the enumerator and the word a client sees.  api/http_status.c maps every row
 * to an HTTP status, and a test holds it to that. */
#define ERR_CODES(X)                                                                               \
    X(OK, "ok")                                                                                    \
    X(INVALID_JSON, "invalid_json")                                                                \
    X(INVALID_REQUEST, "invalid_request")                                                          \
    X(DIMENSION_MISMATCH, "dimension_mismatch")                                                    \
    X(INVALID_VECTOR, "invalid_vector")                                                            \
    X(INVALID_NAME, "invalid_name")                                                                \
    X(INVALID_ID, "invalid_id")                                                                    \
    X(INVALID_FILTER, "invalid_filter")                                                            \
    X(UNAUTHORIZED, "unauthorized")                                                                \
    X(FORBIDDEN, "forbidden")                                                                      \
    X(NOT_FOUND, "not_found")                                                                      \
    X(DATABASE_NOT_FOUND, "database_not_found")                                                    \
    X(VECTOR_NOT_FOUND, "vector_not_found")                                                        \
    X(ALIAS_NOT_FOUND, "alias_not_found")                                                          \
    X(SNAPSHOT_NOT_FOUND, "snapshot_not_found")                                                    \
    X(METHOD_NOT_ALLOWED, "method_not_allowed")                                                    \
    X(LOG_TRUNCATED, "log_truncated")                                                              \
    X(DATABASE_EXISTS, "database_exists")                                                          \
    X(CONFLICT, "conflict")                                                                        \
    X(LENGTH_REQUIRED, "length_required")                                                          \
    X(PAYLOAD_TOO_LARGE, "payload_too_large")                                                      \
    X(URI_TOO_LONG, "uri_too_long")                                                                \
    X(UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type")                                            \
    X(HEADERS_TOO_LARGE, "headers_too_large")                                                      \
    X(PRECONDITION_FAILED, "precondition_failed")                                                  \
    X(QUARANTINED, "database_quarantined")                                                         \
    X(RATE_LIMITED, "rate_limited")                                                                \
    X(INTERNAL, "internal")                                                                        \
    X(IO, "internal") /* a system call failed: os_errno */                                         \
    X(CORRUPT, "corrupt")                                                                          \
    X(SHUTTING_DOWN, "shutting_down")                                                              \
    X(OVERLOADED, "overloaded")                                                                    \
    X(NOMEM, "overloaded")                                                                         \
    X(NOT_READY, "not_ready")                                                                      \
    X(READ_ONLY, "database_read_only")                                                             \
    X(STORAGE_FULL, "storage_full")                                                                \
    X(WOULD_BLOCK, "internal")   /* stays inside: do it again on a thread that may wait */         \
    X(WOULD_COMPUTE, "internal") /* the same, but it waits for nothing but the CPU */

enum err_code {
#define X(name, word) ERR_##name,
    ERR_CODES(X)
#undef X
        ERR_CODE_COUNT
};

struct err {
    enum err_code code;
    int os_errno;  /* 0 unless a system call failed */
    char msg[384]; /* a complete sentence fragment, UTF-8, safe to show to a client */
};

#define MUST_CHECK __attribute__((warn_unused_result))

/* Both fill *err and return its code, so that a failure is one line:
 *     return err_set(err, ERR_CONFLICT, "log is %" PRIu64 " bytes", bytes);
 * err_os() appends the text of `os_errno` and picks the code that clients can act on:
 * ENOSPC, EDQUOT and EFBIG are ERR_STORAGE_FULL, ENOMEM is ERR_NOMEM, EMFILE and ENFILE are
 * ERR_OVERLOADED, EROFS is ERR_READ_ONLY, all others ERR_IO. */
enum err_code err_set(struct err *err, enum err_code code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
enum err_code err_os(struct err *err, int os_errno, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Put '?' for control characters and for what is no UTF-8 in the message: one that quotes, and
 * cuts, what somebody wrote into a file, and goes to a terminal. */
void err_make_printable(struct err *err);

/* The word that clients see, e.g. "database_not_found". */
const char *err_word(enum err_code code);

#endif

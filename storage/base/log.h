/*
 * log.h - the one log sink.
 *
 * A line is `2026-11-20T09:30:00.123Z [info] message`, or with LOG_JSON one object
 * {"ts","level","msg"}.  Lines go out with a single write() each, so threads never interleave.
 * Control characters in a message are escaped: a client cannot forge a line.  Any thread.
 */
#ifndef STORAGE_BASE_LOG_H
#define STORAGE_BASE_LOG_H

#include "storage/base/err.h"

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARNING, LOG_ERROR };
enum log_format { LOG_TEXT, LOG_JSON };

struct log_options {
    enum log_level level;
    enum log_format format;
    const char *path; /* NULL or "" or "stderr": standard error; else appended to, 0640 */
};

/* Before log_open() lines go to standard error as text at LOG_INFO.  Copies `path`. */
MUST_CHECK enum err_code log_open(const struct log_options *options, struct err *err);
/* Open the file again under its name (after a rotation); the old one stays on failure. */
MUST_CHECK enum err_code log_reopen(struct err *err);
void log_close(void);

void log_write(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
#define log_debug(...)   log_write(LOG_DEBUG, __VA_ARGS__)
#define log_info(...)    log_write(LOG_INFO, __VA_ARGS__)
#define log_warning(...) log_write(LOG_WARNING, __VA_ARGS__)
#define log_error(...)   log_write(LOG_ERROR, __VA_ARGS__)

#endif

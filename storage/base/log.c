/*
 * log.c - format a line on the stack, write it once.
 *
 * Nothing here allocates while logging, and a line has at most LINE_BYTES: what does not fit is cut
 * and ends in an ellipsis.
 */
#include "storage/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "storage/base/clock.h"
#include "storage/base/lock.h"
#include "storage/base/mem.h"
#include "storage/base/utf8.h"

enum {
    LINE_BYTES = 4096,    /* PIPE_BUF on Linux: a pipe takes such a line whole          */
    CHARACTER_BYTES = 12, /* the longest escape of one character: a surrogate pair      */
    TAIL_BYTES = 8,       /* ellipsis, "} of a JSON line, newline                       */
};

static const char ELLIPSIS[] = "\xe2\x80\xa6";

static const char *const LEVEL_NAMES[] = {"debug", "info", "warning", "error"};

static _Atomic int level = LOG_INFO; /* read without the lock by every log_write() */
static struct mutex lock = {PTHREAD_MUTEX_INITIALIZER, LOCK_LEAF};
/* guarded by lock */
static enum log_format format = LOG_TEXT;
static int log_fd = STDERR_FILENO;
static char *log_path; /* owned; NULL = standard error */

struct line {
    char text[LINE_BYTES];
    size_t len;
};

static void line_add(struct line *line, const char *bytes, size_t count)
{
    memcpy(line->text + line->len, bytes, count);
    line->len += count;
}

/* One character of a message, escaped so that it can neither end the line nor drive a terminal.
 * Returns the number of bytes written to `out`. */
static size_t escape(const char *text, size_t bytes, uint32_t c, enum log_format as,
                     char out[CHARACTER_BYTES + 1])
{
    const char *shortcuts = "\n\r\t", *letters = "nrt";
    const char *found = c && c < 0x80 ? strchr(shortcuts, (int)c) : NULL;
    if (found) {
        out[0] = '\\';
        out[1] = letters[found - shortcuts];
        return 2;
    }
    if (utf8_is_control(c)) {
        const char *pattern = as == LOG_JSON ? "\\u%04x" : "\\x%02x";
        return (size_t)snprintf(out, CHARACTER_BYTES + 1, pattern, (unsigned)c);
    }
    /* In text, too: a backslash must not look like the start of an escape. */
    if (c == '\\' || (as == LOG_JSON && c == '"')) {
        out[0] = '\\';
        out[1] = (char)c;
        return 2;
    }
    memcpy(out, text, bytes);
    return bytes;
}

static void line_add_escaped(struct line *line, const char *text, size_t len, bool cut,
                             enum log_format as)
{
    for (size_t at = 0; at < len;) {
        char out[CHARACTER_BYTES + 1];
        uint32_t c;
        size_t bytes = utf8_decode(text + at, len - at, &c), count;
        if (bytes > 0) {
            count = escape(text + at, bytes, c, as, out);
        } else {
            bytes = 1;
            count = 3;
            memcpy(out, "\xef\xbf\xbd", 3); /* U+FFFD for a byte that is not UTF-8 */
        }
        if (line->len + count + TAIL_BYTES > LINE_BYTES) {
            cut = true;
            break;
        }
        line_add(line, out, count);
        at += bytes;
    }
    if (cut) line_add(line, ELLIPSIS, sizeof ELLIPSIS - 1);
}

void log_write(enum log_level lv, const char *fmt, ...)
{
    if ((int)lv < atomic_load_explicit(&level, memory_order_relaxed)) return;

    const int saved_errno = errno;
    char message[LINE_BYTES];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(message, sizeof message, fmt, ap);
    va_end(ap);
    if (n < 0) n = snprintf(message, sizeof message, "(message that cannot be formatted)");
    const bool cut = (size_t)n >= sizeof message;
    const size_t len = cut ? utf8_cut(message, sizeof message - 1) : (size_t)n;

    char when[25];
    clock_rfc3339(clock_wall_ms(), when);

    mutex_lock(&lock);
    struct line line = {.len = 0};
    const char *pattern =
        format == LOG_JSON ? "{\"ts\":\"%s\",\"level\":\"%s\",\"msg\":\"" : "%s [%s] ";
    line.len = (size_t)snprintf(line.text, sizeof line.text, pattern, when, LEVEL_NAMES[lv]);
    line_add_escaped(&line, message, len, cut, format);
    if (format == LOG_JSON) line_add(&line, "\"}", 2);
    line_add(&line, "\n", 1);

    /* A log that cannot be written is no reason to stop: there is nobody to tell. */
    ssize_t written;
    do
        written = write(log_fd, line.text, line.len);
    while (written < 0 && errno == EINTR);
    mutex_unlock(&lock);
    errno = saved_errno;
}

static enum err_code open_path(const char *path, int *fd, struct err *err)
{
    do
        *fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, 0640);
    while (*fd < 0 && errno == EINTR);
    if (*fd < 0) return err_os(err, errno, "cannot open log file \"%s\"", path);
    return ERR_OK;
}

/* Takes ownership of `path`. */
static void use(int fd, char *path)
{
    mutex_assert_held(&lock);
    if (log_fd != STDERR_FILENO) close(log_fd);
    if (path != log_path) mem_free(log_path);
    log_fd = fd;
    log_path = path;
}

enum err_code log_open(const struct log_options *options, struct err *err)
{
    const char *path = options->path;
    char *copy = NULL;
    int fd = STDERR_FILENO;
    if (path && *path && strcmp(path, "stderr") != 0) {
        enum err_code rc = open_path(path, &fd, err);
        if (rc) return rc;
        copy = mem_strdup(path);
    }

    mutex_lock(&lock);
    use(fd, copy);
    format = options->format;
    atomic_store_explicit(&level, (int)options->level, memory_order_relaxed);
    mutex_unlock(&lock);
    return ERR_OK;
}

enum err_code log_reopen(struct err *err)
{
    enum err_code rc = ERR_OK;
    mutex_lock(&lock);
    if (log_path) {
        int fd;
        rc = open_path(log_path, &fd, err);
        if (!rc) use(fd, log_path);
    }
    mutex_unlock(&lock);
    return rc;
}

void log_close(void)
{
    mutex_lock(&lock);
    use(STDERR_FILENO, NULL);
    mutex_unlock(&lock);
}

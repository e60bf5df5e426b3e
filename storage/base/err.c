#include "storage/base/err.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "storage/base/utf8.h"

static void set_v(struct err *err, enum err_code code, int os_errno, const char *fmt, va_list ap)
{
    assert(err && code != ERR_OK);
    err->code = code;
    err->os_errno = os_errno;
    vsnprintf(err->msg, sizeof err->msg, fmt, ap);
}

enum err_code err_set(struct err *err, enum err_code code, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    set_v(err, code, 0, fmt, ap);
    va_end(ap);
    return code;
}

void err_make_printable(struct err *err)
{
    for (char *p = err->msg; *p;) {
        uint32_t character;
        size_t bytes = utf8_decode(p, strlen(p), &character);
        bool good = bytes > 0 && !utf8_is_control(character);
        if (bytes == 0) bytes = 1;
        if (!good) memset(p, '?', bytes);
        p += bytes;
    }
}

static enum err_code code_of(int os_errno)
{
    switch (os_errno) {
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
        return ERR_STORAGE_FULL;
    case ENOMEM:
        return ERR_NOMEM;
    case EMFILE:
    case ENFILE:
        return ERR_OVERLOADED;
    case EROFS:
        return ERR_READ_ONLY;
    default:
        return ERR_IO;
    }
}

enum err_code err_os(struct err *err, int os_errno, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    set_v(err, code_of(os_errno), os_errno, fmt, ap);
    va_end(ap);

    size_t used = strlen(err->msg);
    char text[96];
    snprintf(err->msg + used, sizeof err->msg - used, ": %s",
             strerror_r(os_errno, text, sizeof text));
    return err->code;
}

const char *err_word(enum err_code code)
{
    static const char *const words[] = {
#define X(name, word) word,
        ERR_CODES(X)
#undef X
    };
    assert(code < ERR_CODE_COUNT);
    return words[code];
}

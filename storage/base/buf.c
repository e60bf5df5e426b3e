#include "storage/base/buf.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "storage/base/mem.h"

char *buf_reserve(struct buf *b, size_t more)
{
    if (b->failed) return NULL;
    if (more <= b->cap - b->len) return b->data + b->len;

    size_t want = b->len + more;
    size_t cap = b->cap < 128 ? 256 : b->cap * 2;
    if (cap < want) cap = want;
    char *data = want < more || cap > SIZE_MAX / 2 ? NULL : mem_resize(b->data, cap);
    if (!data) {
        b->failed = true;
        return NULL;
    }
    b->data = data;
    b->cap = cap;
    return b->data + b->len;
}

void buf_add(struct buf *b, const void *bytes, size_t count)
{
    if (count == 0) return;
    char *at = buf_reserve(b, count);
    if (!at) return;
    memcpy(at, bytes, count);
    b->len += count;
}

void buf_str(struct buf *b, const char *text)
{
    buf_add(b, text, strlen(text));
}

void buf_printf(struct buf *b, const char *fmt, ...)
{
    for (size_t room = 96;;) {
        char *at = buf_reserve(b, room);
        if (!at) return;
        va_list ap;
        va_start(ap, fmt);
        int n = vsnprintf(at, room, fmt, ap);
        va_end(ap);
        if (n < 0) return;
        if ((size_t)n < room) {
            b->len += (size_t)n;
            return;
        }
        room = (size_t)n + 1;
    }
}

void buf_free(struct buf *b)
{
    mem_free(b->data);
    *b = (struct buf){0};
}

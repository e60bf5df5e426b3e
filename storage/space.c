#include "storage/space.h"

#include <assert.h>
#include <string.h>

#include "storage/base/mem.h"

static void remove_range(struct space *s, size_t i)
{
    s->count--;
    memmove(&s->ranges[i], &s->ranges[i + 1], (s->count - i) * sizeof s->ranges[0]);
}

bool space_take(struct space *s, uint64_t bytes, uint64_t *at)
{
    for (size_t i = 0; i < s->count; i++) {
        struct space_range *r = &s->ranges[i];
        if (r->bytes < bytes) continue;
        *at = r->at;
        r->at += bytes;
        r->bytes -= bytes;
        if (r->bytes == 0) remove_range(s, i);
        s->free_bytes -= bytes;
        return true;
    }
    return false;
}

void space_give(struct space *s, uint64_t at, uint64_t bytes)
{
    if (bytes == 0) return;
    size_t i = 0;
    while (i < s->count && s->ranges[i].at < at)
        i++;
    assert(i == 0 || s->ranges[i - 1].at + s->ranges[i - 1].bytes <= at);
    assert(i == s->count || at + bytes <= s->ranges[i].at);
    s->free_bytes += bytes;

    bool joins_left = i > 0 && s->ranges[i - 1].at + s->ranges[i - 1].bytes == at;
    bool joins_right = i < s->count && at + bytes == s->ranges[i].at;
    if (joins_left) {
        s->ranges[i - 1].bytes += bytes;
        if (!joins_right) return;
        s->ranges[i - 1].bytes += s->ranges[i].bytes;
        remove_range(s, i);
        return;
    }
    if (joins_right) {
        s->ranges[i].at = at;
        s->ranges[i].bytes += bytes;
        return;
    }
    if (s->count == s->cap) {
        size_t cap = s->cap ? s->cap * 2 : 8;
        struct space_range *grown = mem_zalloc(cap * sizeof *grown);
        if (s->count) memcpy(grown, s->ranges, s->count * sizeof *grown);
        mem_free(s->ranges);
        s->ranges = grown;
        s->cap = cap;
    }
    memmove(&s->ranges[i + 1], &s->ranges[i], (s->count - i) * sizeof s->ranges[0]);
    s->ranges[i] = (struct space_range){at, bytes};
    s->count++;
}

void space_deinit(struct space *s)
{
    mem_free(s->ranges);
    *s = (struct space){0};
}

#include "storage/base/arena.h"

#include <stdalign.h>
#include <stdint.h>
#include <string.h>

#include "storage/base/mem.h"

enum { CHUNK_BYTES = 16 * 1024, ALIGN = 16 };

struct arena_chunk {
    struct arena_chunk *next;
    size_t used;
    size_t cap;
    alignas(ALIGN) char data[];
};

void *arena_alloc(struct arena *a, size_t bytes)
{
    if (bytes > SIZE_MAX / 4) return NULL;
    bytes = (bytes + ALIGN - 1) & ~(size_t)(ALIGN - 1);

    struct arena_chunk *c = a->head;
    if (!c || c->cap - c->used < bytes) {
        size_t cap = bytes > CHUNK_BYTES / 2 ? bytes : CHUNK_BYTES;
        if (a->bytes_max && a->bytes + cap > a->bytes_max) return NULL;
        c = mem_try(sizeof *c + cap);
        if (!c) return NULL;
        c->used = 0;
        c->cap = cap;
        a->bytes += cap;
        /* A chunk made for one large object goes behind the head: the head keeps its room. */
        if (cap == bytes && a->head) {
            c->next = a->head->next;
            a->head->next = c;
        } else {
            c->next = a->head;
            a->head = c;
        }
    }
    void *p = c->data + c->used;
    c->used += bytes;
    return p;
}

void *arena_copy(struct arena *a, const void *from, size_t bytes)
{
    void *p = arena_alloc(a, bytes);
    if (p && bytes) memcpy(p, from, bytes);
    return p;
}

void arena_free(struct arena *a)
{
    for (struct arena_chunk *c = a->head; c;) {
        struct arena_chunk *next = c->next;
        mem_free(c);
        c = next;
    }
    a->head = NULL;
    a->bytes = 0;
}

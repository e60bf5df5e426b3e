/*
 * arena.h - memory that dies together: one arena per request.
 *
 * Allocations are 16-byte aligned, never freed one by one, and bounded by `bytes_max`.  A zeroed
 * struct with bytes_max set is ready.  One thread at a time.
 */
#ifndef STORAGE_BASE_ARENA_H
#define STORAGE_BASE_ARENA_H

#include <stddef.h>

struct arena_chunk;
struct arena {
    struct arena_chunk *head;
    size_t bytes;     /* handed out by malloc so far      */
    size_t bytes_max; /* 0 = no bound                      */
};

/* NULL when memory or the bound is exhausted: the caller's ERR_NOMEM. */
void *arena_alloc(struct arena *a, size_t bytes);
void *arena_copy(struct arena *a, const void *from, size_t bytes);
/* Drop everything; the arena can be used again. */
void arena_free(struct arena *a);

#endif

/*
 * space.h - which bytes of a file are free.
 *
 * A sorted list of free ranges, in whole blocks, below the end of the file.  Nothing of it is on
 * disk: at open it is what the manifest does not use.  Not thread-safe: the caller's lock.
 */
#ifndef STORAGE_SPACE_H
#define STORAGE_SPACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct space_range {
    uint64_t at;
    uint64_t bytes;
};

struct space {
    struct space_range *ranges; /* ascending, never touching each other */
    size_t count;
    size_t cap;
    uint64_t free_bytes;
};

/* Take `bytes` (a multiple of BLOCK_BYTES) from the lowest range that holds them.  False: none. */
bool space_take(struct space *s, uint64_t bytes, uint64_t *at);
/* Give a range back; it must not overlap what is free. */
void space_give(struct space *s, uint64_t at, uint64_t bytes);
void space_deinit(struct space *s);

#endif

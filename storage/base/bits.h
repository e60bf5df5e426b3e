/* bits.h - sets of numbers, a bit for each: number i is bit i % 64 of word i / 64. */
#ifndef STORAGE_BASE_BITS_H
#define STORAGE_BASE_BITS_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "storage/base/mem.h"

/* Room for the numbers 0 .. count, none of them in it; mem_free().  NULL: out of memory. */
static inline uint64_t *bits_new(uint64_t count)
{
    size_t bytes = (size_t)(count / 64 + 1) * sizeof(uint64_t);
    uint64_t *bits = mem_try(bytes);
    if (bits) memset(bits, 0, bytes);
    return bits;
}

static inline bool bits_has(const uint64_t *bits, uint32_t i)
{
    return bits[i / 64] >> i % 64 & 1;
}

/* True: it was not in there yet. */
static inline bool bits_add(uint64_t *bits, uint32_t i)
{
    bool is_new = !bits_has(bits, i);
    bits[i / 64] |= UINT64_C(1) << i % 64;
    return is_new;
}

static inline void bits_remove(uint64_t *bits, uint32_t i)
{
    bits[i / 64] &= ~(UINT64_C(1) << i % 64);
}

#endif

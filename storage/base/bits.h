/* bits.h - sets of numbers, a bit for each: number i is bit i % 64 of word i / 64. */
#ifndef STORAGE_BASE_BITS_H
#define STORAGE_BASE_BITS_H

#include <stdbool.h>
#include <stdint.h>

static inline bool bits_has(const uint64_t *bits, uint32_t i)
{
    return bits[i / 64] >> i % 64 & 1;
}

/* True: it was not in there yet. */
static inline bool bits_add(uint64_t *bits, uint32_t i)
{
    uint64_t bit = UINT64_C(1) << i % 64;
    if (bits[i / 64] & bit) return false;
    bits[i / 64] |= bit;
    return true;
}

#endif

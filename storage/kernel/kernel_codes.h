/*
 * kernel_codes.h - the integer dot products of one instruction set, four cells at a time.
 *
 * Private to storage/kernel.  A file includes this after it has defined
 *     struct sums                              partial sums of one cell, in int32
 *     no_sums()                                zeros
 *     struct byte_query, struct bit_query      64 numbers of the query, ready for
 *     byte_query_of(from), bit_query_of(from)
 *     add_bytes(sums, byte_query, code)        64 codes of 8 bits
 *     add_bits(sums, bit_query, code)          64 codes of 1 bit
 *     byte_bias(query, bytes)                  what add_bytes leaves out of every total
 *     store_totals(out, sums x 4, bias)        the four totals
 */
#ifndef STORAGE_KERNEL_KERNEL_CODES_H
#define STORAGE_KERNEL_KERNEL_CODES_H

#include "storage/kernel/kernel_lanes.h"

enum { STEP = 64 };

KERNEL_INLINE void dot_bytes(const uint8_t *base, size_t stride, const uint32_t *ids, size_t count,
                             const int8_t *query, size_t bytes, int32_t *out)
{
    const int32_t bias = byte_bias(query, bytes);
    for (size_t i = 0; i < count; i += 4) {
        const struct quad cells = kernel_quad(base, stride, ids + i, count - i);
        struct sums a = no_sums(), b = no_sums(), c = no_sums(), d = no_sums();
        for (size_t j = 0; j < bytes; j += STEP) {
            const struct byte_query q = byte_query_of(query + j);
            add_bytes(&a, &q, cells.a + j);
            add_bytes(&b, &q, cells.b + j);
            add_bytes(&c, &q, cells.c + j);
            add_bytes(&d, &q, cells.d + j);
        }
        store_totals(out + i, &a, &b, &c, &d, bias);
    }
}

KERNEL_INLINE void dot_bits(const uint8_t *base, size_t stride, const uint32_t *ids, size_t count,
                            const int8_t *query, size_t dimension, int32_t *out)
{
    for (size_t i = 0; i < count; i += 4) {
        const struct quad cells = kernel_quad(base, stride, ids + i, count - i);
        struct sums a = no_sums(), b = no_sums(), c = no_sums(), d = no_sums();
        for (size_t j = 0; j < dimension; j += STEP) {
            const struct bit_query q = bit_query_of(query + j);
            add_bits(&a, &q, cells.a + j / 8);
            add_bits(&b, &q, cells.b + j / 8);
            add_bits(&c, &q, cells.c + j / 8);
            add_bits(&d, &q, cells.d + j / 8);
        }
        store_totals(out + i, &a, &b, &c, &d, 0);
    }
}

#endif

/*
 * kernel_floats.h - the float32 distances of one instruction set, four cells at a time.
 *
 * Private to storage/kernel.  A file includes this after it has defined
 *     struct chunk                         sixteen floats, one line of the cache
 *     chunk_of(from)                       the chunk at a pointer
 *     no_chunk()                           zeros
 *     add_chunk(term, sums, chunk, chunk)  adds the terms to sixteen partial sums
 *     store_totals(out, sums x 4)          the four totals
 */
#ifndef STORAGE_KERNEL_KERNEL_FLOATS_H
#define STORAGE_KERNEL_KERNEL_FLOATS_H

#include "storage/kernel/kernel_lanes.h"

enum { CHUNK = 16 };

struct quad_sums {
    struct chunk a, b, c, d;
};

KERNEL_INLINE void add_quad(enum kernel_term term, struct quad_sums *s, const float *query,
                            const struct quad *cells, size_t offset)
{
    const struct chunk q = chunk_of(query);
    add_chunk(term, &s->a, q, chunk_of((const float *)(const void *)cells->a + offset));
    add_chunk(term, &s->b, q, chunk_of((const float *)(const void *)cells->b + offset));
    add_chunk(term, &s->c, q, chunk_of((const float *)(const void *)cells->c + offset));
    add_chunk(term, &s->d, q, chunk_of((const float *)(const void *)cells->d + offset));
}

KERNEL_INLINE void floats(enum kernel_term term, const uint8_t *base, size_t stride,
                          const uint32_t *ids, size_t count, const float *query, size_t dimension,
                          float *out)
{
    const size_t whole = dimension / CHUNK * CHUNK;
    float tail[CHUNK] = {0}; /* cells are padded with zeros, the query may not be */
    for (size_t j = whole; j < dimension; j++)
        tail[j - whole] = query[j];

    for (size_t i = 0; i < count; i += 4) {
        const struct quad cells = kernel_quad(base, stride, ids + i, count - i);
        struct quad_sums s = {no_chunk(), no_chunk(), no_chunk(), no_chunk()};
        for (size_t j = 0; j < whole; j += CHUNK)
            add_quad(term, &s, query + j, &cells, j);
        if (whole < dimension) add_quad(term, &s, tail, &cells, whole);
        store_totals(out + i, &s.a, &s.b, &s.c, &s.d);
    }
}

#endif

/*
 * codec.h - what a graph is navigated on: a short code for each row, and distances between codes.
 *
 * A CELL is code_bytes of code, then a struct code_tail, padded to cell_bytes (a multiple of 64).
 * Cells lie in an array; cell number = node number = slot number of the row.
 *
 *   CODEC_INT8      u8 per number, scaled by the largest of the row, after the mean of the database
 *                   is taken away and a random rotation (signs and Hadamard transforms) has spread
 *                   what is left evenly.  One rounding step is 1/254 of the row's range.
 *   CODEC_BINARY    the signs of the same numbers, one bit each.
 *   CODEC_FLOAT32   the numbers (under cosine: divided by the norm), for data that int8 cannot tell
 *                   apart, for few dimensions and for METRIC_MANHATTAN, which the others take for
 *                   METRIC_EUCLIDEAN.
 *
 * Navigation distances order cells as the metric orders rows, about: they are not the metric's
 * values, and only distances from one codec_query may be compared.  METRIC_DOT_PRODUCT is no
 * metric, so between rows (while the graph is built) it is the Euclidean distance after one more
 * coordinate, sqrt(reach^2 - |x|^2), has made all rows equally long (Bachrach et al., "Speeding up
 * the Xbox recommender system using a Euclidean transformation for inner-product spaces", RecSys
 * 2014).
 *
 * The norm in the tail is that of the coded row, not of the row: else the rounding error of each
 * row would add to all its distances.
 *
 * A codec is constant once made, but for `reach2`.  Any thread.
 */
#ifndef STORAGE_INDEX_CODEC_H
#define STORAGE_INDEX_CODEC_H

#include <stdatomic.h>

#include "storage/index/index_info.h"
#include "storage/kernel/kernel.h"
#include "storage/types.h"

struct code_tail {
    float scale;         /* of the code's steps */
    float norm2;         /* |coded row|^2 */
    int32_t sum;         /* of the numbers of the code */
    float row_norm2;     /* |row|^2, for METRIC_DOT_PRODUCT */
    uint32_t generation; /* slot.generation of the row; + 1 so that 0 means: no code here */
    uint32_t crc; /* of codec.seed, the node number and all bytes of the cell before this field */
};

/* What distances need of a tail, by itself: one cache line holds eight of them. */
struct code_factors {
    float scale, norm2;
};

struct codec {
    enum codec_kind kind;
    enum metric metric;
    uint32_t dimension;
    uint32_t padded; /* dimension as the code has it, a multiple of 64 (float32: of 16) */
    uint32_t code_bytes;
    uint32_t cell_bytes;
    /* Of one graph; part of the checksums of its cells, so that those of an earlier graph, which
     * may lie in the same file, are not taken for its own. */
    uint32_t seed;
    const struct kernel_set *kernels;
    float gain;    /* rows are multiplied by it, so that squares stay in range */
    float *mean;   /* `dimension`, owned; of rows times gain; NULL for CODEC_FLOAT32 */
    int8_t *signs; /* of the rotation: CODEC_ROTATIONS * dimension, owned; from a fixed seed */
    _Atomic float *reach2; /* largest |x|^2 of METRIC_DOT_PRODUCT; owned */
};
enum { CODEC_ROTATIONS = 4 };

/* `mean` (`dimension` floats, copied): of the rows as they are coded, that is times `gain`, or
 * under cosine divided by their norms (gain is 1 then).  CODEC_FLOAT32 does not use it; NULL:
 * zeros. A good gain is 1 / (the root mean square of the rows' distances from their mean); 0: 1,
 * infinite: the largest.  ERR_NOMEM. */
MUST_CHECK enum err_code codec_init(struct codec *c, enum codec_kind kind, enum metric metric,
                                    uint32_t dimension, float gain, const float *mean,
                                    struct err *err);
void codec_deinit(struct codec *c);

/* Code a row into `cell` (cell_bytes, 64-byte aligned).  False: it has no place in a graph (a zero
 * vector under cosine; numbers whose squares overflow): it has to be compared as a row.
 * `scratch`: codec_scratch_bytes(), 64-byte aligned. */
MUST_CHECK bool codec_encode(const struct codec *c, uint32_t node, const float *row,
                             uint32_t generation, uint8_t *cell, void *scratch);
size_t codec_scratch_bytes(const struct codec *c);

/* Is this the intact cell of `node` for that generation of its slot?  A tail that no row has is
 * refused, though its checksum is right: whoever wrote the file may have had anything in mind. What
 * is behind the tail is not looked at. */
bool codec_cell_is_good(const struct codec *c, uint32_t node, const uint8_t *cell,
                        uint32_t generation);

/* Make the intact cell of one row that of another node, for this generation of its slot. */
void codec_move_cell(const struct codec *c, uint32_t node, uint32_t generation, uint8_t *cell);

static inline struct code_tail *codec_tail(const struct codec *c, const uint8_t *cell)
{
    return (struct code_tail *)(void *)(uintptr_t)(cell + c->code_bytes);
}

/* One side of many distances. */
struct codec_query {
    void *code;   /* int8: s8 numbers; float32: floats; 64-byte aligned, codec_scratch_bytes() */
    float scale;  /* int8, binary */
    int32_t bias; /* int8: 128 * the sum of the numbers; binary: their sum */
    float norm2;  /* |coded query|^2 */
    /* METRIC_DOT_PRODUCT, from a cell: its extra coordinate, and the reach at that time */
    float augmented, reach2;
    bool from_cell;
    /* From a cell, too: distances are inner products of the rows, negative, as for a search. */
    bool by_product;
    float from_mean; /* then: see product_from_mean() */
};
/* For a search: `vector` has `dimension` finite floats of any size; q->code points to memory of the
 * caller, and `scratch` as above.  Nothing is near to a zero vector under cosine or dot product:
 * what a search finds with it are any rows. */
void codec_query_from_vector(const struct codec *c, struct codec_query *q, const float *vector,
                             void *scratch);
/* For building: distances between rows. */
void codec_query_from_cell(const struct codec *c, struct codec_query *q, const uint8_t *cell);
/* METRIC_DOT_PRODUCT: what a search for the row of this cell compares. */
void codec_query_product(const struct codec *c, struct codec_query *q, const uint8_t *cell);

/* Navigation distances of `count` cells of the array at `cells`, whose factors are at `factors`
 * (NULL: in their tails); `out` has room for count rounded up to 4.  From a cell: the squared
 * Euclidean distance (Manhattan: the sum of differences), unless by_product. */
void codec_distances(const struct codec *c, const struct codec_query *q, const uint8_t *cells,
                     const struct code_factors *factors, const uint32_t *ids, size_t count,
                     float *out);

#endif

/*
 * hnswlib_peer.h - hnswlib, what others are measured by, behind a C interface.
 *
 * As Debian ships it (libhnswlib-dev), compiled for the CPU it runs on.  Under METRIC_COSINE rows
 * and queries have unit length and it computes inner products, as is usual.  It has no Manhattan
 * distance; that is a loop of ours, vectorised by the compiler.
 */
#ifndef BENCH_HNSWLIB_PEER_H
#define BENCH_HNSWLIB_PEER_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum hnswlib_space { HNSWLIB_L2, HNSWLIB_IP, HNSWLIB_L1 };

struct hnswlib_peer;

/* Room for `rows` rows.  NULL: no memory. */
struct hnswlib_peer *hnswlib_peer_new(enum hnswlib_space space, size_t dimension, size_t rows,
                                      size_t m, size_t ef_construction);
void hnswlib_peer_free(struct hnswlib_peer *p);

/* Insert `count` rows with the labels first, first + 1 ...; 0 if it failed. */
int hnswlib_peer_add(struct hnswlib_peer *p, const float *rows, size_t first, size_t count,
                     size_t dimension, int threads);
/* Mark as deleted: no result any more, but walked through. */
int hnswlib_peer_delete(struct hnswlib_peer *p, size_t label);

/* Not while it is searched. */
void hnswlib_peer_set_ef(struct hnswlib_peer *p, size_t ef);
/* Labels of the k nearest, nearest first; returns how many.  Any thread. */
size_t hnswlib_peer_search(const struct hnswlib_peer *p, const float *query, size_t k,
                           uint32_t *labels);

/* What a row takes in its array: numbers, links of the lowest layer, label. */
size_t hnswlib_peer_row_bytes(const struct hnswlib_peer *p);

#ifdef __cplusplus
}
#endif
#endif

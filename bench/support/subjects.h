/*
 * subjects.h - what is measured: hnswlib, the bare graph, and a database.
 *
 * Each is built from the base rows of a set; row numbers are labels, nodes or ids.  Not ready: the
 * benchmark ends.  One thread makes and frees them.
 */
#ifndef BENCH_SUBJECTS_H
#define BENCH_SUBJECTS_H

#include "bench/support/measure.h"

struct build_cost {
    double cpu_s, wall_s; /* CPU: of all threads of the process */
    double row_bytes;     /* hot: codes (or numbers) and links */
    char codec[16];       /* "float32" for hnswlib */
};

struct subject_options {
    uint32_t m, ef_construction; /* 0: the default of the subject */
    int threads;                 /* to build with */
    const char *codec;           /* bare graph: "int8", "float32", "binary"; NULL: as it is apt */
    bool shuffled;               /* bare graph: rows are inserted in random order */
    uint32_t rescore;            /* bare graph: candidates compared as rows; 0: 3 k, at least 30 */
};

/* M 16 and ef_construction 200 by default.  Room for `more` rows beyond those of the set. */
void subject_hnswlib(struct subject *s, const struct dataset *set, const struct subject_options *o,
                     struct build_cost *cost);
void subject_hnswlib_free(struct subject *s);

/* "faiss", "usearch" or "usearch-i8", by support/peers.py with the interpreter $BENCH_PYTHON; run
 * from the top of the tree.  row_bytes is reckoned: numbers, 2 m links, 8 more. */
void subject_python(struct subject *s, const char *library, const struct dataset *set, uint32_t k,
                    const struct subject_options *o, struct build_cost *cost);
void subject_python_free(struct subject *s);

/* The graph alone (storage/index/graph.h) and a rescoring by the kernels: what a search costs
 * without snapshots, ids, tombstones.  The set must outlive it. */
void subject_graph(struct subject *s, const struct dataset *set, const struct subject_options *o,
                   struct build_cost *cost);
void subject_graph_free(struct subject *s);
/* Per search with this effort: nodes visited, distances of codes. */
void subject_graph_work(const struct subject *s, const struct dataset *set, uint32_t ef,
                        double *visited, double *distances);

#endif

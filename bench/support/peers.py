"""peers.py LIBRARY METRIC DIMENSION ROWS QUERIES K M EF_CONSTRUCTION FILE - a peer that has no C
interface worth using, measured for a benchmark (subject_python.c).

FILE holds float32 rows, then queries.  A line of standard input is an order, a line of standard
output the answer:

    (start)                    ready CPU_SECONDS WALL_SECONDS     of building, one thread
    pass EF REPEATS THREADS    CPU_SECONDS WALL_SECONDS           of searching for all queries
    rows EF PATH               done                               row numbers, int32, are in PATH
"""

import sys
import time

import numpy as np


class Faiss:
    """IndexHNSWFlat."""

    def __init__(self, metric, dimension, m, ef_construction):
        import faiss

        self.faiss = faiss
        kind = faiss.METRIC_L2 if metric == "euclidean" else faiss.METRIC_INNER_PRODUCT
        self.index = faiss.IndexHNSWFlat(dimension, m, kind)
        self.index.hnsw.efConstruction = ef_construction

    def add(self, rows):
        self.faiss.omp_set_num_threads(1)
        self.index.add(rows)

    def search(self, queries, k, ef, threads):
        self.faiss.omp_set_num_threads(threads)
        self.index.hnsw.efSearch = ef
        return self.index.search(queries, k)[1]


class Usearch:
    """On float32, or on 8 bits, for which it has no rescoring."""

    def __init__(self, metric, dimension, m, ef_construction, dtype="f32"):
        from usearch.index import Index

        # Rows have unit length: the inner product is what it computes fastest; but its 8 bits
        # are finer under "cos".
        kind = "l2sq" if metric == "euclidean" else "ip"
        if dtype == "i8" and metric == "cosine":
            kind = "cos"
        self.index = Index(ndim=dimension, metric=kind, dtype=dtype, connectivity=m,
                           expansion_add=ef_construction)

    def add(self, rows):
        self.index.add(np.arange(len(rows), dtype=np.uint64), rows, threads=1)

    def search(self, queries, k, ef, threads):
        self.index.expansion_search = ef
        return self.index.search(queries, k, threads=threads).keys


LIBRARIES = {
    "faiss": Faiss,
    "usearch": Usearch,
    "usearch-i8": lambda *args: Usearch(*args, dtype="i8"),
}


def timed(work):
    cpu, wall = time.process_time(), time.monotonic()
    work()
    print(time.process_time() - cpu, time.monotonic() - wall, flush=True)


def main():
    library, metric = sys.argv[1:3]
    dimension, rows, queries, k, m, ef_construction = map(int, sys.argv[3:9])
    numbers = np.fromfile(sys.argv[9], dtype=np.float32).reshape(rows + queries, dimension)
    base, wanted = numbers[:rows], numbers[rows:]
    index = LIBRARIES[library](metric, dimension, m, ef_construction)
    print("ready", end=" ")
    timed(lambda: index.add(base))
    for line in sys.stdin:
        order, ef, *rest = line.split()
        if order == "pass":
            repeats, threads = map(int, rest)
            timed(lambda: [index.search(wanted, k, int(ef), threads) for _ in range(repeats)])
        else:
            found = index.search(wanted, k, int(ef), 1)
            np.asarray(found).astype(np.int32).tofile(rest[0])
            print("done", flush=True)


if __name__ == "__main__":
    main()

"""Real text: 57,744 rows of 256 dimensions through the REST API, exact search against the truth.

  JADEVECTORDB_DATA=dir     where debdesc-lsa-256 lies (default ../shared/data/debdesc-lsa-256)
  JADEVECTORDB_QUERIES=n    how many of the 2,000 queries (default 300)
"""
import gzip
import json
import os
import pathlib
import time

import numpy as np
import pytest

from harness import SANITIZER, SLOW, TOP, b64, run_threads

HERE = pathlib.Path(os.environ.get("JADEVECTORDB_DATA",
                                   TOP / ".." / "shared" / "data" / "debdesc-lsa-256"))
QUERIES = int(os.environ.get("JADEVECTORDB_QUERIES", "2000" if SLOW else "300"))
BATCH = 1000


def read_vecs(path, kind):
    flat = np.fromfile(path, "<i4")
    dimension = int(flat[0])
    return flat.reshape(-1, dimension + 1)[:, 1:].copy().view(kind)


@pytest.fixture(scope="module")
def data():
    if not (HERE / "base.fvecs").exists():
        pytest.skip(f"NO REAL DATA: {HERE} is missing, set JADEVECTORDB_DATA")
    rows = read_vecs(HERE / "base.fvecs", "<f4")
    queries = read_vecs(HERE / "query.fvecs", "<f4")
    truth = read_vecs(HERE / "gt100.ivecs", "<i4")
    with gzip.open(HERE / "base.jsonl.gz", "rt") as lines:
        metadata = [json.loads(line) for line in lines]
    if SANITIZER:
        return rows[:5000], queries, None, metadata[:5000]
    return rows, queries, truth, metadata


def load(daemon, rows, metadata):
    """Every eighth batch as JSON numbers, the others as base64."""
    for begin in range(0, len(rows), BATCH):
        some = rows[begin:begin + BATCH]
        daemon.put_rows("debdesc", range(begin, begin + len(some)), some,
                        metadata=metadata[begin:begin + BATCH],
                        text=SLOW or (begin // BATCH) % 8 == 0)


def recall_at_10(daemon, rows, queries, truth, exact):
    """Share of the ten answers that are as near as the true ten, ties counted by distance."""
    found = [None] * QUERIES

    def client(first):
        for i in range(first, QUERIES, 4):
            found[i] = daemon.request(
                "POST", "/databases/debdesc/search", 200,
                json={"data_base64": b64(queries[i]), "top_k": 10,
                      "params": {"exact": exact}}).json()["results"]

    run_threads([lambda n=n: client(n) for n in range(4)])
    x = rows.astype(np.float64)
    norms = np.sqrt((x * x).sum(axis=1))
    good = 0
    for i, results in enumerate(found):
        assert len({r["vector_id"] for r in results}) == 10
        q = queries[i].astype(np.float64)
        if truth is None:
            tenth = np.sort(1 - x @ q / (norms * np.sqrt(q @ q)))[9]
        else:
            near = truth[i][:10]
            tenth = (1 - x[near] @ q / (norms[near] * np.sqrt(q @ q))).max()
        for result in results:
            row = result["vector_id"]
            mine = 1 - x[row] @ q / (norms[row] * np.sqrt(q @ q))
            assert abs(mine - result["distance"]) < 1e-9
            good += mine <= tenth + 1e-9
    return good / (10 * QUERIES)


def check_rows(daemon, rows, metadata):
    at = 0
    for page in daemon.pages("debdesc"):
        some = page["vectors"]
        assert [row["vector_id"] for row in some] == list(range(at, at + len(some)))
        got = np.array([row["data"] for row in some], np.float64).astype("<f4")
        assert got.tobytes() == rows[at:at + len(some)].tobytes(), f"rows {at} and following"
        assert [row["metadata"] for row in some] == metadata[at:at + len(some)]
        at += len(some)
    assert at == len(rows)


@pytest.mark.limit(600)
def test_real_rows_are_found_exactly_and_come_back_bit_identical(daemons, data):
    rows, queries, truth, metadata = data
    daemon = daemons()
    daemon.create("debdesc", rows.shape[1], "cosine")
    times = [time.monotonic()]

    def lap(what):
        times.append(time.monotonic())
        print(f"{what}: {times[-1] - times[-2]:.1f} s")

    load(daemon, rows, metadata)
    lap(f"{len(rows)} rows loaded")
    for when in ("before", "after"):
        assert daemon.count("debdesc") == len(rows)
        for exact, least in ((True, 1.0), (False, 0.95)):
            recall = recall_at_10(daemon, rows, queries, truth, exact)
            lap(f"recall@10 of {QUERIES} queries {when} the restart, exact={exact}: {recall:.4f}")
            assert recall >= least
        check_rows(daemon, rows, metadata)
        lap(f"rows compared {when} the restart")
        if when == "before":
            daemon.restart()
            lap("restart")

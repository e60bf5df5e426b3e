"""Search by a graph, over the wire: what is found, what is said, what stays."""
import time

import numpy as np
import pytest

from harness import SANITIZER, TIME_SCALE, Daemon, distances, plain, run_threads, scaled
from test_metrics import parse, value
from test_search import check_results, close

DIMENSION, TOP_K = 64, 10
# As many as make a graph by default; fewer, and a graph all the same, where the build is slow.
ROWS, OPTIONS = (2400, {"index": {"type": "hnsw"}}) if SANITIZER else (12000, {})
METRICS = ("cosine", "euclidean", "dot_product", "manhattan")
pytestmark = pytest.mark.limit(180)


def make_rows(seed, count):
    """Like embeddings: most of what differs lies in few directions."""
    directions = np.random.default_rng(0).standard_normal((16, DIMENSION))
    random = np.random.default_rng(seed)
    rows = random.standard_normal((count, 16)) @ directions
    return (rows + 0.5 * random.standard_normal((count, DIMENSION))).astype(np.float32)


STORED, QUERIES = make_rows(1, ROWS), make_rows(2, 100)
MANY_QUERIES = make_rows(2, 1000)  # so many measure a recall to half a percent


def create(daemon, name, metric="euclidean", **options):
    daemon.create(name, DIMENSION, metric, **{**OPTIONS, **options})


def fill(daemon, name, rows=STORED, first=0, batch=2000):
    for at in range(0, len(rows), batch):
        part = rows[at:at + batch]
        daemon.put_rows(name, range(first + at, first + at + len(part)), part)


def search(daemon, name, query, **more):
    body = {"data": [float(x) for x in query], "top_k": TOP_K, **more}
    return daemon.post(f"/databases/{name}/search", body, 200).json()


def recall_of(replies, metric, queries, rows):
    """The mean share of the nearest that was found; equally near is as good."""
    found = 0
    for reply, query in zip(replies, queries):
        truth = distances(metric, query, rows)
        worst = np.partition(truth, TOP_K - 1)[TOP_K - 1]
        results = reply["results"]
        assert len(results) == len({r["vector_id"] for r in results}) == TOP_K
        assert [r["distance"] for r in results] == sorted(r["distance"] for r in results)
        for r in results:
            assert close(r["distance"], truth[r["vector_id"]], np.abs(truth).max()), (r, metric)
            found += r["distance"] <= worst + 1e-9 * abs(worst)
    return found / (TOP_K * len(replies))


def check_recall(daemon, name, metric, least=0.95, rows=STORED, queries=QUERIES, **more):
    replies = [search(daemon, name, query, **more) for query in queries]
    assert {reply["strategy"] for reply in replies} == {"graph"}
    recall = recall_of(replies, metric, queries, rows)
    assert recall >= least, (name, metric, more, recall)


@pytest.fixture(scope="module")
def linked(tmp_path_factory):
    """A daemon with a linked database for each metric, called by it; tests do not change them."""
    one = Daemon(tmp_path_factory.mktemp("index") / "data").start()
    for metric in METRICS:
        create(one, metric, metric)
        fill(one, metric)
    for metric in METRICS:
        one.wait_index(metric)
    yield one
    one.stop()


# ---- what is found ----

@pytest.mark.parametrize("metric", METRICS)
def test_search_by_default_finds_the_share_that_is_promised(linked, metric):
    index = linked.wait_index(metric)
    assert index["indexed_count"] == ROWS and index["pending_count"] == 0
    assert index["progress"] == 1 and index["eta_ms"] == 0 and index["memory_bytes"] > 0
    check_recall(linked, metric, metric)
    check_recall(linked, metric, metric, 0.98, params={"recall": 0.99})


@pytest.mark.parametrize("metric", METRICS)
def test_exact_is_exact(linked, metric):
    stored = dict(enumerate(STORED))
    for query in QUERIES[:5]:
        for params in ({"exact": True}, {"recall": 1}, {"exact": True, "ef": 10}):
            reply = search(linked, metric, query, params=params)
            assert reply["strategy"] == "exact"
            check_results(reply["results"], metric, query, stored, TOP_K)


@pytest.mark.parametrize("quantization, codec", [
    ("none", "float32"), ("int8", "int8"), ("binary", "binary")])
def test_a_graph_on_any_codes_finds_them_too(daemon, quantization, codec):
    create(daemon, "x", "cosine", quantization=quantization)
    fill(daemon, "x")
    assert daemon.wait_index("x")["codec"] == codec
    # Before anything is measured, the guess is careful: more so for one bit a number.
    check_recall(daemon, "x", "cosine")
    # What recall takes how much is measured soon.
    deadline, expected = time.monotonic() + 60 * TIME_SCALE, None
    while expected is None:
        assert time.monotonic() < deadline, "the effort is not measured"
        expected = search(daemon, "x", QUERIES[0], explain=True)["explain"]["expected_recall"]
    assert 0.94 <= expected <= 1
    check_recall(daemon, "x", "cosine", queries=MANY_QUERIES)


def test_in_memory_it_is_the_same(daemons):
    daemon = daemons(persistence_type="in-memory")
    create(daemon, "x")
    fill(daemon, "x")
    daemon.wait_index("x")
    check_recall(daemon, "x", "euclidean")


def test_the_more_candidates_the_more_is_found(linked):
    replies = [search(linked, "euclidean", q, params={"ef": 2000}) for q in QUERIES]
    assert recall_of(replies, "euclidean", QUERIES, STORED) >= 0.995
    # Fewer candidates than results are raised.
    reply = search(linked, "euclidean", QUERIES[0], params={"ef": 1}, explain=True, top_k=50)
    assert reply["explain"]["ef"] >= 50 and len(reply["results"]) == 50
    # Without rescoring the distances are true all the same.
    replies = [search(linked, "euclidean", q, params={"rescore": False}) for q in QUERIES]
    assert recall_of(replies, "euclidean", QUERIES, STORED) >= 0.8


def test_offset_top_k_and_bounds_go_together_with_the_graph(linked):
    query, params = QUERIES[1], {"ef": 400}
    every = search(linked, "euclidean", query, top_k=60, params=params)["results"]
    part = search(linked, "euclidean", query, top_k=20, offset=15, params=params)["results"]
    assert part == every[15:35]
    near = search(linked, "euclidean", query, top_k=60, max_distance=every[9]["distance"],
                  params=params)["results"]
    assert near == every[:10]
    by_id = linked.post("/databases/euclidean/search",
                        {"vector_id": 7, "top_k": 5, "params": params}).json()
    by_row = search(linked, "euclidean", STORED[7], top_k=6, params=params)
    assert by_id["strategy"] == by_row["strategy"] == "graph"
    assert by_row["results"][0]["vector_id"] == 7 and by_id["results"] == by_row["results"][1:]


# ---- which database is searched how ----

def test_small_and_flat_databases_say_exact(daemon):
    daemon.create("small", DIMENSION)
    fill(daemon, "small", STORED[:500])
    daemon.create("flat", DIMENSION, index={"type": "flat"})
    fill(daemon, "flat")
    daemon.create("graph", DIMENSION, index={"type": "hnsw"})
    fill(daemon, "graph", STORED[:1500])
    daemon.wait_index("graph")
    assert search(daemon, "graph", QUERIES[0])["strategy"] == "graph"
    for name, count in (("small", 500), ("flat", ROWS)):
        assert search(daemon, name, QUERIES[0], params={"ef": 50})["strategy"] == "exact"
        index = daemon.get(f"/databases/{name}/stats").json()["index"]
        assert index["state"] == "exact" and index["codec"] is None
        assert index["indexed_count"] == count and index["pending_count"] == 0
    assert daemon.get("/databases/graph").json()["index_state"]["state"] == "ready"


# ---- writes ----

def test_every_row_is_found_by_the_next_search_linked_or_not(daemon):
    create(daemon, "x", durability="periodic")
    fill(daemon, "x", batch=1000)
    new = make_rows(3, scaled(900, 200))

    def look(vector_id, row):
        hit = search(daemon, "x", row, top_k=1)["results"][0]
        assert (hit["vector_id"], hit["distance"]) == (vector_id, 0)

    # Before, while and after the graph is built; one by one, and the ends of batches.
    for i, row in enumerate(new[:300]):
        daemon.put_rows("x", [ROWS + i], [row])
        look(ROWS + i, row)
    for at in range(300, len(new), 100):
        daemon.put_rows("x", range(ROWS + at, ROWS + at + len(new[at:at + 100])), new[at:at + 100])
        for i in (at, min(at + 99, len(new) - 1)):
            look(ROWS + i, new[i])
    daemon.wait_index("x")
    for i in range(0, len(new), 7):
        look(ROWS + i, new[i])
    # Replaced: at its new place, not at its old one.
    for i in range(40):
        daemon.put_rows("x", [i], [new[i] + 100])
        look(i, new[i] + 100)
        assert search(daemon, "x", STORED[i], top_k=1)["results"][0]["vector_id"] != i


def test_deleted_rows_vanish_at_once(daemon):
    create(daemon, "x", durability="periodic")
    fill(daemon, "x")
    daemon.wait_index("x")
    kept = dict(enumerate(STORED))
    for query in QUERIES[:20]:
        hits = [r["vector_id"] for r in search(daemon, "x", query)["results"]]
        daemon.post("/databases/x/vectors/delete", {"ids": hits})
        for vector_id in hits:
            del kept[vector_id]
        reply = search(daemon, "x", query)
        assert reply["strategy"] == "graph" and len(reply["results"]) == TOP_K
        assert all(r["vector_id"] in kept for r in reply["results"])
    # Most of all: what is left is found, whatever is in the way.
    gone = [i for i in kept if i % 4]
    for at in range(0, len(gone), 5000):
        daemon.post("/databases/x/vectors/delete", {"ids": gone[at:at + 5000]})
    left = {i: row for i, row in kept.items() if i % 4 == 0}
    ids, found = list(left), 0
    for query in QUERIES:
        results = search(daemon, "x", query)["results"]
        assert len(results) == TOP_K and all(r["vector_id"] in left for r in results)
        truth = np.sort(distances("euclidean", query, np.array([left[i] for i in ids])))
        found += sum(r["distance"] <= truth[TOP_K - 1] * (1 + 1e-9) for r in results)
    assert found >= 0.95 * TOP_K * len(QUERIES)


def test_searches_and_writes_side_by_side(daemon):
    create(daemon, "x", durability="periodic")
    half = ROWS // 2
    fill(daemon, "x", STORED[:half])
    new, done = STORED[half:], []

    def write():
        for at in range(0, len(new), 100):
            daemon.put_rows("x", range(half + at, half + at + 100), new[at:at + 100])
        done.append(True)

    def look(seed):
        random = np.random.default_rng(seed)
        while not done:
            i = plain(random.integers(half))
            hits = search(daemon, "x", STORED[i])["results"]
            assert len(hits) == TOP_K
            assert (hits[0]["vector_id"], hits[0]["distance"]) == (i, 0)

    run_threads([write, lambda: look(1), lambda: look(2)])
    daemon.wait_index("x")
    check_recall(daemon, "x", "euclidean")


# ---- restarts ----

def test_a_restart_keeps_the_graph(daemons):
    daemon = daemons()
    create(daemon, "x")
    fill(daemon, "x")
    before = daemon.wait_index("x")
    assert daemon.get("/databases/x").json()["index_state"]["state"] == "ready"
    daemon.restart()
    closed = daemon.get("/databases/x/stats").json()["index"]
    assert closed["state"] == "closed" and closed["indexed_count"] is None
    assert search(daemon, "x", QUERIES[0])["strategy"] == "graph"  # the first, at once
    after = daemon.get("/databases/x/stats").json()["index"]
    assert (after["state"], after["indexed_count"]) == ("ready", ROWS)
    assert after["codec"] == before["codec"]
    check_recall(daemon, "x", "euclidean")


def test_a_crash_loses_no_row_of_the_graph(daemons):
    daemon = daemons()
    create(daemon, "x")
    flushed = ROWS * 5 // 6
    fill(daemon, "x", STORED[:flushed])
    daemon.wait_index("x")
    daemon.post("/storage/flush")
    fill(daemon, "x", STORED[flushed:], first=flushed, batch=500)
    gone = list(range(0, 1000, 3))
    daemon.post("/databases/x/vectors/delete", {"ids": gone})
    daemon.restart(kill=True)
    for i in [*range(1, ROWS, 301), ROWS - 1]:
        hit = search(daemon, "x", STORED[i], top_k=1)["results"][0]
        if i < 1000 and i % 3 == 0:
            assert hit["vector_id"] != i
        else:
            assert (hit["vector_id"], hit["distance"]) == (i, 0)
    daemon.wait_index("x")
    rows = STORED.copy()
    rows[gone] = 1e6  # far from everything
    check_recall(daemon, "x", "euclidean", rows=rows)


# ---- what is said ----

STAGES = ("parse", "filter", "graph", "unlinked", "rescore", "read", "search", "encode")


def test_explain_tells_what_was_done(linked):
    reply = search(linked, "cosine", QUERIES[0], explain=True)
    told = reply["explain"]
    assert told["plan"] and told["ef"] >= TOP_K and told["candidates"] == ROWS
    assert 0 < told["visited"] < told["code_distances"] < ROWS
    assert TOP_K <= told["row_distances"] < ROWS and told["unlinked"] == 0
    assert told["distance_computations"] == told["code_distances"] + told["row_distances"]
    assert told["expected_recall"] is None or 0.5 < told["expected_recall"] <= 1
    stages = {name: told["stages"][f"{name}_us"] for name in STAGES}
    assert all(us >= 0 for us in stages.values()) and len(told["stages"]) == len(STAGES)
    parts = sum(stages[name] for name in ("filter", "graph", "unlinked", "rescore", "read"))
    assert 0 < stages["graph"] <= parts <= stages["search"] + 1
    assert abs(stages["search"] - reply["took_us"]) <= 1

    told = search(linked, "cosine", QUERIES[0], explain=True, params={"exact": True})["explain"]
    assert told["ef"] is None and told["expected_recall"] == 1 and told["visited"] == 0
    assert told["row_distances"] == ROWS and told["code_distances"] == 0


def test_a_batch_is_answered_as_its_searches_are(linked):
    """Enough of them for all cores."""
    searches = [{"data": [float(x) for x in q], "top_k": 1 + i % 20, "params": {"ef": 200},
                 "include": ["metadata"]} for i, q in enumerate(np.concatenate([QUERIES] * 5))]
    reply = linked.post("/databases/euclidean/search/batch", {"searches": searches}).json()
    assert reply["strategy"] == "graph" and len(reply["results"]) == len(searches)
    assert [one["strategy"] for one in reply["searches"]] == ["graph"] * len(searches)
    alone = [linked.post("/databases/euclidean/search", one).json()["results"]
             for one in searches[:100]]
    assert reply["results"][:100] == alone
    mixed = [searches[0], {**searches[1], "params": {"exact": True}, "explain": True}]
    reply = linked.post("/databases/euclidean/search/batch", {"searches": mixed}).json()
    assert [one["strategy"] for one in reply["searches"]] == ["graph", "exact"]
    assert reply["strategy"] is None and reply["searches"][1]["explain"]["row_distances"] == ROWS


def test_metrics_tell_strategies_and_what_is_pending(linked):
    before = parse(linked.metrics())
    for query in QUERIES[:30]:
        search(linked, "euclidean", query)
    search(linked, "euclidean", QUERIES[0], params={"exact": True})
    after = parse(linked.metrics())

    def moved(strategy):
        return (value(after, "search_duration_seconds", strategy=strategy)
                - value(before, "search_duration_seconds", strategy=strategy))

    assert (moved("graph"), moved("exact"), moved("filtered_graph")) == (30, 1, 0)
    assert value(after, "pending_index_vectors") == 0
    assert value(after, "index_memory_bytes") > 4 * ROWS * DIMENSION / 8


def test_live_searches_are_measured_again_in_idle_time(daemon):
    """Some of them are done again exactly; that takes idle time, so this goes on searching."""
    create(daemon, "watched", "cosine")
    fill(daemon, "watched")
    index, deadline = daemon.wait_index("watched"), time.monotonic() + 60 * TIME_SCALE
    assert index["recall_estimate"] is None and index["recall_samples"] == 0
    assert "jadevectordb_recall_estimate" not in parse(daemon.metrics())
    while index["recall_samples"] == 0:
        assert time.monotonic() < deadline, index
        for query in QUERIES:
            search(daemon, "watched", query)
        index = daemon.get("/databases/watched/stats").json()["index"]
    assert 0.9 <= index["recall_estimate"] <= 1
    families = parse(daemon.metrics())
    assert 0.9 <= value(families, "recall_estimate", database="watched") <= 1


def test_slow_searches_are_logged_with_their_strategy(daemons):
    daemon = daemons(log_slow_query_ms=1)
    daemon.create("x", 1024, index={"type": "flat"})
    rows = np.random.default_rng(5).standard_normal((4000, 1024), np.float32)
    for at in range(0, 4000, 1000):
        daemon.put_rows("x", range(at, at + 1000), rows[at:at + 1000])
    for i in range(20):
        search(daemon, "x", rows[i])
    daemon.wait_log(r'slow search: [0-9.]+ ms in database "x", strategy exact, ef 0, top_k 10')

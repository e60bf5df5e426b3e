"""Exact search against numpy in float64."""
import random

import numpy as np
import pytest

from harness import (b64, distances, id_order, plain, random_rows, run_threads, scaled, score_of)

METRICS = ("cosine", "euclidean", "dot_product", "manhattan")


def close(got, want, size=1.0):
    """Sums in float64 in another order differ in the last bits only."""
    return abs(got - want) <= 1e-9 * max(1.0, abs(want), size)


def check_results(results, metric, query, stored, top_k, offset=0):
    """Everything the contract says of a reply: values, order, and that nothing nearer is missing."""
    ids = list(stored)
    truth = dict(zip(ids, distances(metric, query, np.array([stored[i] for i in ids]))))
    assert len(results) == max(0, min(top_k, len(ids) - offset))
    assert len({r["vector_id"] for r in results}) == len(results)
    for result in results:
        want = truth[result["vector_id"]]
        assert close(result["distance"], want), (result, want)
        assert close(result["score"], score_of(metric, want)), (result, want)
    keys = [(r["distance"], id_order(r["vector_id"])) for r in results]
    assert keys == sorted(keys), "not in order of (distance, id)"
    best = sorted(truth.values())[offset:offset + top_k]
    for result, want in zip(results, best):
        assert close(result["distance"], want), "something nearer is missing"


@pytest.mark.limit(120)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dimension", [1, 3, 16, 100, 768])
def test_search_finds_what_numpy_finds(module_daemon, metric, dimension):
    daemon, name = module_daemon, f"r-{metric}-{dimension}"
    count = scaled(1500, 300)
    daemon.create(name, dimension, metric)
    rows = random_rows(dimension, count, dimension)
    daemon.put_rows(name, range(count), rows)
    stored = dict(enumerate(rows))
    for i, query in enumerate(random_rows(dimension + 1, 8, dimension)):
        top_k = (1, 10, 100, 1000, count, 5, 7, 10000)[i]
        check_results(daemon.search(name, query, top_k), metric, query, stored, top_k)


@pytest.mark.parametrize("metric", METRICS)
def test_search_is_the_same_on_both_engines_and_after_a_restart(daemons, metric):
    rows, answers = random_rows(5, 400, 33), []
    query = random_rows(6, 1, 33)[0]
    for engine in ("persistent", "in-memory"):
        daemon = daemons(persistence_type=engine)
        daemon.create("same", 33, metric)
        daemon.put_rows("same", range(400), rows)
        answers.append(daemon.search("same", query, 50))
        if engine == "persistent":
            daemon.restart()
            answers.append(daemon.search("same", query, 50))
    assert answers[0] == answers[1] == answers[2]


@pytest.mark.parametrize("metric", METRICS)
def test_ties_are_broken_by_id_integers_before_strings(any_daemon, metric):
    """Equal rows have exactly equal distances, whatever the metric."""
    ids = [2**63 - 1, 0, 10, 9, 2, "b", "a", "aa", "B", "é", "~", "01", "-1", "10a", 1 << 40]
    random.Random(1).shuffle(ids)
    any_daemon.create("ties", 3, metric)
    for vector_id in ids:
        any_daemon.post("/databases/ties/vectors", {"vector_id": vector_id, "data": [0.3, 0.7, -1.1]})
    want = sorted(ids, key=id_order)
    for top_k in (1, 4, 8, len(ids)):
        found = any_daemon.search("ties", [1, 2, 3], top_k)
        assert [r["vector_id"] for r in found] == want[:top_k]
        assert len({r["distance"] for r in found}) == 1


@pytest.mark.parametrize("metric", ["euclidean", "dot_product", "manhattan"])
def test_order_is_exact_where_distances_are_exact(any_daemon, metric):
    """Small whole numbers: every sum is exact in float64, so the whole order must agree."""
    rng = np.random.default_rng(3)
    rows = rng.integers(-2, 3, (700, 5)).astype(np.float32)
    ids = list(range(350)) + [f"s{i}" for i in range(350)]
    random.Random(2).shuffle(ids)
    any_daemon.create("whole", 5, metric)
    any_daemon.put_rows("whole", ids, rows)
    for query in rng.integers(-2, 3, (5, 5)).astype(np.float32):
        d = distances(metric, query, rows)
        want = sorted(zip(d.tolist(), map(id_order, ids), ids))
        got = any_daemon.search("whole", query, 700)
        assert [r["vector_id"] for r in got] == [w[2] for w in want]
        assert [r["distance"] for r in got] == [w[0] for w in want]
        part = any_daemon.search("whole", query, 37, offset=113)
        assert part == got[113:150]


def test_top_k_k_and_limit_are_one(any_daemon):
    any_daemon.create("x", 2)
    any_daemon.put_rows("x", range(30), random_rows(1, 30, 2))
    answers = [any_daemon.post("/databases/x/search", {"data": [0, 0], word: 7}).json()["results"]
               for word in ("top_k", "k", "limit")]
    assert answers[0] == answers[1] == answers[2] and len(answers[0]) == 7
    assert len(any_daemon.post("/databases/x/search", {"data": [0, 0]}).json()["results"]) == 10


def test_offset_skips_results(any_daemon):
    any_daemon.create("x", 2)
    any_daemon.put_rows("x", range(30), random_rows(1, 30, 2))
    every = any_daemon.search("x", [0, 0], 30)
    assert any_daemon.search("x", [0, 0], 10, offset=0) == every[:10]
    assert any_daemon.search("x", [0, 0], 10, offset=5) == every[5:15]
    assert any_daemon.search("x", [0, 0], 10, offset=25) == every[25:]
    assert any_daemon.search("x", [0, 0], 10, offset=30) == []


def test_the_reply_carries_what_include_asks_for(any_daemon):
    any_daemon.create("x", 2)
    any_daemon.post("/databases/x/vectors",
                    {"vector_id": "a", "data": [0.5, 1], "metadata": {"z": [1, {"y": None}]}})
    reply = any_daemon.post("/databases/x/search", {"data": [0, 0]}).json()
    assert set(reply) >= {"results", "took_us", "complete", "strategy"}
    assert reply["complete"] is True and reply["strategy"] == "exact"
    assert isinstance(reply["took_us"], int)
    for include, keys in (([], set()), (["metadata"], {"metadata"}), (["data"], {"data"}),
                          (["metadata", "data"], {"metadata", "data"})):
        result, = any_daemon.search("x", [0, 0], 5, include=include)
        assert set(result) == {"vector_id", "score", "distance"} | keys
        assert result.get("data", [0.5, 1]) == [0.5, 1]
        assert result.get("metadata", {"z": [1, {"y": None}]}) == {"z": [1, {"y": None}]}


@pytest.mark.parametrize("metric", METRICS)
def test_min_score_and_max_distance_cut_the_results(any_daemon, metric):
    any_daemon.create("x", 4, metric)
    any_daemon.put_rows("x", range(200), random_rows(8, 200, 4))
    query = random_rows(9, 1, 4)[0]
    every = any_daemon.search("x", query, 200)
    for at in (0, 1, 50, 199):
        limit = every[at]
        near = any_daemon.search("x", query, 200, max_distance=limit["distance"])
        assert near == [r for r in every if r["distance"] <= limit["distance"]]
        good = any_daemon.search("x", query, 200, min_score=limit["score"])
        assert good == [r for r in every if r["score"] >= limit["score"]]
    assert any_daemon.search("x", query, 200, max_distance=every[0]["distance"] - 1e-3) == []
    assert any_daemon.search("x", query, 200, min_score=every[0]["score"] + 1e-3) == []
    both = any_daemon.search("x", query, 3, max_distance=every[50]["distance"],
                             min_score=every[20]["score"], offset=1)
    assert both == every[1:4]


@pytest.mark.parametrize("metric", METRICS)
def test_search_by_vector_id_leaves_that_vector_out(any_daemon, metric):
    any_daemon.create("x", 6, metric)
    rows = random_rows(4, 50, 6)
    any_daemon.put_rows("x", range(49), rows[:49])
    any_daemon.put_rows("x", ["word"], rows[49:])
    for vector_id, row in ((7, rows[7]), ("7", rows[7]), ("word", rows[49])):
        reply = any_daemon.post("/databases/x/search", {"vector_id": vector_id, "top_k": 49}).json()
        by_row = [r for r in any_daemon.search("x", row, 50)
                  if r["vector_id"] != (7 if vector_id == "7" else vector_id)]
        assert reply["results"] == by_row
    error = any_daemon.post("/databases/x/search", {"vector_id": 999}, 404).json()["error"]
    assert error["code"] == "vector_not_found" and "999" in error["message"]


def test_search_by_base64_is_search_by_numbers(any_daemon):
    any_daemon.create("x", 5)
    any_daemon.put_rows("x", range(20), random_rows(4, 20, 5))
    query = random_rows(5, 1, 5)[0]
    reply = any_daemon.post("/databases/x/search", {"data_base64": b64(query), "top_k": 20}).json()
    assert reply["results"] == any_daemon.search("x", query, 20)


def test_a_zero_vector_is_stored_and_far_from_everything_under_cosine(any_daemon):
    any_daemon.create("x", 3, "cosine")
    any_daemon.put_rows("x", [1, 2, 3], np.array([[0, 0, 0], [1, 0, 0], [-0.0, 0, 0]]))
    found = {r["vector_id"]: r for r in any_daemon.search("x", [1, 0, 0], 3)}
    assert found[1]["distance"] == found[3]["distance"] == 1
    assert found[1]["score"] == found[3]["score"] == 0
    assert close(found[2]["distance"], 0)
    assert [r["distance"] for r in any_daemon.search("x", [0, 0, 0], 3)] == [1, 1, 1]
    assert [r["vector_id"] for r in any_daemon.search("x", [0, 0, 0], 3)] == [1, 2, 3]


@pytest.mark.parametrize("metric", METRICS)
def test_huge_and_tiny_numbers_give_finite_right_answers(any_daemon, metric):
    """Squares of these overflow or vanish in float32."""
    rows = np.array([[3e38, 3e38], [-3e38, 3e38], [1e-38, 1e-45], [1e-45, 0], [1e20, -1e20], [1, 2]],
                    np.float32)
    any_daemon.create("x", 2, metric)
    any_daemon.put_rows("x", range(len(rows)), rows)
    for query in ([3e38, -3e38], [1e-40, 1e-45], [1e-45, 1e-45], [1, 1]):
        query = np.array(query, np.float32)
        results = any_daemon.search("x", query, 10)
        truth = distances(metric, query, rows)
        assert len(results) == len(rows)
        for r in results:
            want = truth[r["vector_id"]]
            assert np.isclose(float(r["distance"]), want, rtol=1e-9, atol=1e-12), (query, r, want)
        ordered = [r["distance"] for r in results]
        assert ordered == sorted(ordered)


def test_deleted_and_replaced_rows_are_never_returned(any_daemon):
    any_daemon.create("x", 4)
    rows = random_rows(10, 200, 4)
    any_daemon.put_rows("x", range(200), rows)
    stored = dict(enumerate(rows))
    for i in range(0, 200, 3):
        any_daemon.delete(f"/databases/x/vectors/{i}")
        del stored[i]
    moved = random_rows(11, 200, 4)
    for i in range(1, 200, 3):
        any_daemon.put_rows("x", [i], moved[i:i + 1])
        stored[i] = moved[i]
    for query in (rows[0], rows[1], moved[1], rows[2]):
        check_results(any_daemon.search("x", query, 1000), "euclidean", query, stored, 1000)


def test_own_writes_are_visible_to_the_next_search(any_daemon):
    any_daemon.create("x", 3, durability="periodic")

    def client(number):
        for i in range(scaled(60, 10)):
            row = [number * 1000 + i, number, i]
            vector_id = f"{number}-{i % 7}"
            any_daemon.request("POST", "/databases/x/vectors", (200, 201),
                               json={"vector_id": vector_id, "data": row})
            hit = any_daemon.request("POST", "/databases/x/search", 200,
                                     json={"data": row, "top_k": 1}).json()["results"][0]
            assert (hit["vector_id"], hit["distance"]) == (vector_id, 0)
            if i % 5 == 4:
                any_daemon.request("DELETE", f"/databases/x/vectors/{vector_id}", 200)
                hits = any_daemon.request("POST", "/databases/x/search", 200,
                                          json={"data": row, "top_k": 100}).json()["results"]
                assert vector_id not in [h["vector_id"] for h in hits]

    run_threads([lambda n=n: client(n) for n in range(4)])


def test_a_batch_of_searches_answers_each_in_order(any_daemon):
    any_daemon.create("x", 4)
    any_daemon.put_rows("x", range(100), random_rows(10, 100, 4))
    queries = random_rows(12, 20, 4)
    searches = [{"data": [float(x) for x in q], "top_k": i + 1, "include": ["metadata"]}
                for i, q in enumerate(queries)]
    searches.append({"vector_id": 5, "top_k": 3})
    reply = any_daemon.post("/databases/x/search/batch", {"searches": searches}).json()
    assert len(reply["results"]) == 21
    for search, results in zip(searches, reply["results"]):
        assert results == any_daemon.post("/databases/x/search", search).json()["results"]
    bad = searches[:3] + [{"data": [1, 2, 3]}]
    error = any_daemon.post("/databases/x/search/batch", {"searches": bad}, 400).json()["error"]
    assert error["code"] == "dimension_mismatch"
    assert any_daemon.post("/databases/x/search/batch", {"searches": []}, 200).json()["results"] == []


def test_an_empty_database_answers_nothing(any_daemon):
    any_daemon.create("x", 4)
    assert any_daemon.search("x", [0, 0, 0, 0], 10) == []


@pytest.mark.parametrize("body, code, words", [
    ({"data": [1, 2, 3]}, "dimension_mismatch", ["3", "4"]),
    ({"data": []}, ("dimension_mismatch", "invalid_vector"), []),
    ({"data": [1, 2, 3, "4"]}, ("invalid_vector", "invalid_request"), []),
    ({"data": "no"}, ("invalid_vector", "invalid_request"), ["data"]),
    ({"data": [1, 2, 3, 4], "top_k": 0}, "invalid_request", ["top_k"]),
    ({"data": [1, 2, 3, 4], "top_k": 10001}, "invalid_request", ["top_k", "10000"]),
    ({"data": [1, 2, 3, 4], "top_k": -1}, "invalid_request", ["top_k"]),
    ({"data": [1, 2, 3, 4], "top_k": 2.5}, "invalid_request", ["top_k"]),
    ({"data": [1, 2, 3, 4], "top_k": "3"}, "invalid_request", ["top_k"]),
    ({"data": [1, 2, 3, 4], "offset": -1}, "invalid_request", ["offset"]),
    ({"data": [1, 2, 3, 4], "min_score": "high"}, "invalid_request", ["min_score"]),
    ({"data": [1, 2, 3, 4], "max_distance": "far"}, "invalid_request", ["max_distance"]),
    ({"data": [1, 2, 3, 4], "include": ["everything"]}, "invalid_request", ["include"]),
    ({"data": [1, 2, 3, 4], "colour": 1}, "invalid_request", ["colour"]),
    ({"data": [1, 2, 3, 4], "vector_id": 1}, "invalid_request", ["vector_id"]),
    ({"top_k": 3}, "invalid_request", ["data"]),
    ({"vector_id": -1}, "invalid_id", []),
    ([1, 2], ("invalid_request", "invalid_json"), []),
])
def test_a_wrong_search_is_refused_by_name(module_daemon, body, code, words):
    daemon = module_daemon
    daemon.put("/databases/wrong", {"dimension": 4, "distance_metric": "euclidean"})
    error = daemon.post("/databases/wrong/search", body, 400).json()["error"]
    assert error["code"] in ((code,) if isinstance(code, str) else code), error
    for word in words:
        assert word in error["message"], error


def test_rows_written_while_searching_never_show_half_a_batch(any_daemon):
    """A batch moves all rows at once: every answer holds one generation only."""
    any_daemon.create("x", 2, durability="periodic")
    any_daemon.put_rows("x", range(50), np.zeros((50, 2)))
    rounds, done = scaled(60, 10), []

    def write():
        for generation in range(1, rounds):
            any_daemon.put_rows("x", range(50), np.full((50, 2), generation, np.float32))
        done.append(True)

    def look():
        while not done:
            found = any_daemon.request(
                "POST", "/databases/x/search", 200,
                json={"data": [0, 0], "top_k": 100, "include": ["data"]}).json()["results"]
            assert len(found) == 50
            assert len({tuple(r["data"]) for r in found}) == 1

    run_threads([write, look, look])
    assert plain(any_daemon.count("x")) == 50


def test_all_searches_of_a_batch_see_one_snapshot(any_daemon):
    """The same moving rows: every search of a batch finds the generation of the first."""
    any_daemon.create("x", 2, durability="periodic")
    any_daemon.put_rows("x", range(50), np.zeros((50, 2)))
    rounds, done = scaled(200, 30), []
    searches = {"searches": [{"data": [0, 0], "top_k": 20, "include": ["data"]}] * 300}

    def write():
        for generation in range(1, rounds):
            any_daemon.put_rows("x", range(50), np.full((50, 2), generation, np.float32))
        done.append(True)

    def look():
        while not done:
            reply = any_daemon.request("POST", "/databases/x/search/batch", 200, json=searches)
            found = reply.json()["results"]
            assert [len(hits) for hits in found] == [20] * 300
            assert len({tuple(hit["data"]) for hits in found for hit in hits}) == 1

    run_threads([write, look, look])

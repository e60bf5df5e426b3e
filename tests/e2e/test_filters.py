"""Filters over HTTP, against the same conditions in Python."""
import random

import numpy as np

from harness import random_rows, scaled

SECTIONS = ["libs", "admin", "fonts", "net", "Größe"]


def random_metadata(rng, number):
    metadata = {"section": rng.choice(SECTIONS), "size": rng.randrange(1000), "n": number}
    if rng.random() < 0.5:
        metadata["tags"] = rng.sample(["a", "b", "c", "d"], rng.randrange(4))
    if rng.random() < 0.3:
        metadata["author"] = {"name": rng.choice(["Ada", "Alan", "Bob"]), "age": rng.randrange(90)}
    return metadata


def author(m, key, default=None):
    return m.get("author", {}).get(key, default)


CASES = [
    ({}, lambda m: True),
    ({"section": "libs"}, lambda m: m["section"] == "libs"),
    ({"section": {"$ne": "libs"}, "size": {"$lt": 500}},
     lambda m: m["section"] != "libs" and m["size"] < 500),
    ({"size": {"$gt": 100, "$lte": 200}}, lambda m: 100 < m["size"] <= 200),
    ({"section": {"$in": ["fonts", "Größe"]}}, lambda m: m["section"] in ("fonts", "Größe")),
    ({"tags": "a"}, lambda m: "a" in m.get("tags", [])),
    ({"tags": {"$nin": ["a", "b"]}}, lambda m: not {"a", "b"} & set(m.get("tags", []))),
    ({"tags": {"$exists": False}}, lambda m: "tags" not in m),
    ({"$and": [{"tags": {"$contains": "a"}}, {"tags": {"$contains": "b"}}]},
     lambda m: {"a", "b"} <= set(m.get("tags", []))),
    ({"author.name": {"$prefix": "A"}}, lambda m: (author(m, "name") or "").startswith("A")),
    ({"author.age": {"$gte": 40}}, lambda m: author(m, "age", -1) >= 40),
    ({"author": None}, lambda m: "author" not in m),
    ({"section": {"$regex": "^(l|ad)"}}, lambda m: m["section"].startswith(("l", "ad"))),
    ({"section": {"$contains": "öß"}}, lambda m: "öß" in m["section"]),
    ({"$or": [{"section": "net"}, {"$not": {"size": {"$lt": 900}}}]},
     lambda m: m["section"] == "net" or m["size"] >= 900),
    ({"$id": {"$lt": 20}, "n": {"$gte": 10}}, lambda m: 10 <= m["n"] < 20),
    ({"section": "nowhere"}, lambda m: False),
]


def load(daemon, name, count, seed=1, **options):
    rng = random.Random(seed)
    rows = random_rows(seed, count, 8)
    metadata = [random_metadata(rng, i) for i in range(count)]
    daemon.create(name, 8, "euclidean", **options)
    for first in range(0, count, 500):
        daemon.post(f"/databases/{name}/vectors/batch", {"vectors": [
            {"vector_id": i, "data": [float(x) for x in rows[i]], "metadata": metadata[i]}
            for i in range(first, min(first + 500, count))]})
    return rows, metadata


def test_counts_and_searches_agree_with_python(any_daemon):
    """Whatever the filter: the count is exact, and the nearest of the matching rows come first."""
    daemon = any_daemon
    count = scaled(4000, 800)
    rows, metadata = load(daemon, "f", count, metadata_indexes={"section": "keyword", "size": "integer"})
    query = random_rows(2, 1, 8)[0]
    distance = np.linalg.norm(np.array(rows, dtype=np.float64) - np.array(query, dtype=np.float64), axis=1)
    for filter_, holds in CASES:
        for _ in range(4):  # with and without what the server has built meanwhile
            want = [i for i in range(count) if holds(metadata[i])]
            assert daemon.post("/databases/f/count", {"filter": filter_}).json()["count"] == len(want), filter_
            found = daemon.post("/databases/f/search", {
                "data": [float(x) for x in query], "top_k": 10, "filter": filter_,
                "params": {"exact": True}}).json()["results"]
            nearest = sorted(want, key=lambda i: distance[i])[:10]
            assert [hit["vector_id"] for hit in found] == nearest, filter_
        # Writes show at once.
        changed = random.Random(str(filter_)).sample(range(count), 20)
        for i in changed:
            metadata[i] = random_metadata(random.Random(i + len(want)), i)
        daemon.post("/databases/f/vectors/batch", {"vectors": [
            {"vector_id": i, "data": [float(x) for x in rows[i]], "metadata": metadata[i]}
            for i in changed]})


def test_scroll_gives_every_match_once_in_id_order_while_others_write(any_daemon):
    _, metadata = load(any_daemon, "s", 1200, seed=4)
    want = [i for i, m in enumerate(metadata) if m["size"] < 300]
    seen, cursor = [], None
    while True:
        page = any_daemon.post("/databases/s/vectors/scroll", {
            "filter": {"size": {"$lt": 300}}, "limit": 50, "include": ["metadata"],
            "cursor": cursor}).json()
        assert all(row["metadata"] == metadata[row["vector_id"]] for row in page["vectors"])
        seen += [row["vector_id"] for row in page["vectors"]]
        cursor = page["next"]
        if not cursor:
            break
        # Rows behind the page that match no more, rows before it that do now.
        any_daemon.post("/databases/s/vectors/delete", {"ids": [seen[-1], seen[0]]})
    assert seen == want


def test_a_wrong_filter_says_where_and_why(any_daemon):
    any_daemon.create("w", 2)
    for path, body in (("count", {}), ("search", {"data": [1, 2]})):
        reply = any_daemon.post(f"/databases/w/{path}", {
            **body, "filter": {"$or": [{"size": {"$above": 1}}]}}, status=400).json()
        assert reply["error"]["code"] == "invalid_filter"
        assert '"$above" at "$or[0].size"' in reply["error"]["message"]
        assert "$gt" in reply["error"]["message"]


def test_delete_by_filter_is_whole_and_lasts(daemons):
    daemon = daemons()
    rows, metadata = load(daemon, "d", 1500, seed=9)
    for round_, (filter_, holds) in enumerate([({"section": "libs", "size": {"$gte": 500}},
                                                lambda m: m["section"] == "libs" and m["size"] >= 500),
                                               ({"tags": {"$exists": False}}, lambda m: "tags" not in m)]):
        want = [i for i, m in enumerate(metadata) if m and holds(m)]
        reply = daemon.post("/databases/d/vectors/delete", {"filter": filter_}).json()
        assert reply["deleted"] == len(want)
        again = daemon.post("/databases/d/vectors/delete", {"filter": filter_}).json()
        assert again == {"deleted": 0, "lsn": reply["lsn"]}
        for i in want:
            metadata[i] = None
        if round_ == 0:
            daemon.kill()
            daemon.start()
    left = {row["vector_id"] for row in daemon.get("/databases/d/vectors?limit=10000").json()["vectors"]}
    assert left == {i for i, m in enumerate(metadata) if m}
    assert daemon.post("/databases/d/vectors/delete", {"filter": {}}).json()["deleted"] == len(left)
    assert daemon.post("/databases/d/count").json()["count"] == 0

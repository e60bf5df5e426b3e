"""Databases: create, list, look at, delete."""
import pytest


def test_create_and_look_at_a_database(any_daemon):
    d = any_daemon
    d.create("docs", 128, "cosine")
    info = d.get("/databases/docs").json()
    assert info["name"] == "docs"
    assert (info["dimension"], info["distance_metric"], info["vector_count"]) == (128, "cosine", 0)
    listing = d.get("/databases").json()
    assert listing["total"] == 1 and listing["next"] is None
    one, = listing["databases"]
    assert (one["name"], one["dimension"], one["distance_metric"], one["vector_count"]) == \
        ("docs", 128, "cosine", 0)


def test_create_with_the_name_in_the_body(any_daemon):
    any_daemon.post("/databases", {"name": "n", "dimension": 2, "distance_metric": "l2"}, 201)
    assert any_daemon.get("/databases/n").json()["distance_metric"] == "euclidean"
    error = any_daemon.post("/databases", {"dimension": 2}, 400).json()["error"]
    assert error["code"] in ("invalid_request", "invalid_name") and "name" in error["message"]


@pytest.mark.parametrize("word, metric", [
    ("cosine", "cosine"), ("euclidean", "euclidean"), ("dot_product", "dot_product"),
    ("manhattan", "manhattan"), ("l2", "euclidean"), ("dot", "dot_product"),
    ("inner_product", "dot_product"), ("ip", "dot_product"), ("l1", "manhattan")])
def test_metrics_have_aliases(module_daemon, word, metric):
    module_daemon.create(f"m-{word}", 2, word)
    assert module_daemon.get(f"/databases/m-{word}").json()["distance_metric"] == metric


def test_options_come_back(any_daemon):
    options = {"durability": "periodic", "initial_capacity": 500, "description": "of öäü \" \\"}
    any_daemon.create("o", 3, **options)
    info = any_daemon.get("/databases/o").json()
    for key, value in options.items():
        assert info.get(key, info.get("options", {}).get(key)) == value, key


def test_a_closed_database_is_not_opened_to_be_asked(daemons):
    daemon = daemons()
    for name, options in (("x", {}), ("flat", {"index": {"type": "flat"}}), ("empty", {})):
        daemon.create(name, 2, **options)
        if name != "empty":
            daemon.put_rows(name, range(3), [[i, 0] for i in range(3)])
    daemon.restart()
    for name, count in (("flat", 3), ("empty", 0)):
        index = daemon.get(f"/databases/{name}/stats").json()["index"]
        assert (index["state"], index["indexed_count"], index["progress"]) == ("exact", count, 1)
    index = daemon.get("/databases/x/stats").json()["index"]
    assert index["state"] == "closed" and daemon.get("/databases/x").json()["open"] is False
    assert {v for k, v in index.items() if k != "state"} == {None}
    daemon.search("x", [0, 0])
    assert daemon.get("/databases/x/stats").json()["index"]["state"] == "exact"


def test_index_options_survive_a_restart(daemons):
    options = {"index": {"type": "hnsw", "m": 24, "ef_construction": 150}, "quantization": "none"}
    daemon = daemons()
    daemon.create("o", 3, **options)
    for kill in (False, True):
        daemon.restart(kill=kill)
        info = daemon.get("/databases/o").json()
        assert {key: info[key] for key in options} == options
        daemon.put("/databases/o", {"dimension": 3, "distance_metric": "euclidean", **options}, 200)
        daemon.put("/databases/o", {"dimension": 3, "distance_metric": "euclidean"}, 409)


def test_a_database_that_exists_is_not_created_again(any_daemon):
    any_daemon.create("x", 3)
    error = any_daemon.post("/databases/x", {"dimension": 3, "distance_metric": "euclidean"},
                            409).json()["error"]
    assert error["code"] == "database_exists" and "x" in error["message"]


def test_put_creates_only_what_is_missing(any_daemon):
    schema = {"dimension": 3, "distance_metric": "euclidean"}
    any_daemon.put("/databases/x", schema, 201)
    any_daemon.put_rows("x", [1], [[1, 2, 3]])
    any_daemon.put("/databases/x", schema, 200)
    any_daemon.put("/databases/x", {"dimension": 3, "distance_metric": "l2"}, 200)
    for other in ({"dimension": 4, "distance_metric": "euclidean"},
                  {"dimension": 3, "distance_metric": "cosine"}):
        error = any_daemon.put("/databases/x", other, 409).json()["error"]
        assert error["code"] in ("conflict", "database_exists") and "x" in error["message"]
    assert any_daemon.count("x") == 1


def test_a_deleted_database_is_gone_with_its_files(daemon):
    daemon.create("x", 3)
    daemon.put_rows("x", range(10), [[i, 0, 0] for i in range(10)])
    daemon.post("/storage/flush")
    assert (daemon.directory / "x.jvdb").exists()
    before = {p.name for p in daemon.directory.rglob("*") if p.name.startswith("x.")}
    assert "x.jvdb" in before
    daemon.delete("/databases/x")
    assert not [p for p in daemon.directory.rglob("*") if p.name.startswith("x.")]
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/vectors/1"), ("GET", "/stats"),
                         ("POST", "/flush")):
        error = daemon.request(method, "/databases/x" + path, 404).json()["error"]
        assert error["code"] == "database_not_found" and "x" in error["message"]
    daemon.create("x", 5)
    assert daemon.rows("x") == {}
    daemon.restart()
    assert daemon.get("/databases/x").json()["dimension"] == 5
    assert daemon.rows("x") == {}


def test_the_list_is_paged_by_limit_and_cursor_and_cut_by_prefix(any_daemon):
    names = [f"{p}{i:02}" for p in ("a-", "b_", "B.") for i in range(15)]
    for name in names:
        any_daemon.create(name, 2)
    whole = any_daemon.get("/databases").json()
    assert [d["name"] for d in whole["databases"]] == sorted(names)
    assert whole["total"] == 45 and whole["next"] is None
    part = any_daemon.get("/databases?prefix=b_").json()
    assert [d["name"] for d in part["databases"]] == sorted(n for n in names if n[0] == "b")
    for query, want in (("", sorted(names)), ("&prefix=a-", sorted(n for n in names if n[0] == "a"))):
        found, cursor = [], None
        while True:
            page = any_daemon.get(f"/databases?limit=7{query}"
                                  + (f"&cursor={cursor}" if cursor else "")).json()
            found += [d["name"] for d in page["databases"]]
            assert page["total"] == len(want)
            cursor = page["next"]
            if cursor is None:
                break
            assert len(page["databases"]) == 7
        assert found == want
    assert any_daemon.get("/databases?prefix=zzz").json()["databases"] == []


def test_names_at_the_edge_are_accepted(any_daemon):
    names = ["a" * 128, "A", "a", "0", "_", "a.b", "a-b", "9_.-", "jvdb", "x.jvd", "CON", "wal"]
    for name in names:
        any_daemon.create(name, 2)
        any_daemon.post(f"/databases/{name}/vectors", {"vector_id": 1, "data": [1, 2]})
    any_daemon.delete("/databases/A")
    assert any_daemon.count("a") == 1
    assert {d["name"] for d in any_daemon.get("/databases").json()["databases"]} == \
        set(names) - {"A"}


def test_dimensions_from_1_to_65536_work(any_daemon):
    for dimension in (1, 65536):
        name = f"d{dimension}"
        any_daemon.create(name, dimension)
        any_daemon.put_rows(name, [1, 2], [[1.5] * dimension, [2.5] * dimension], text=True)
        assert any_daemon.get(f"/databases/{name}/vectors/2").json()["data"] == [2.5] * dimension
        assert any_daemon.search(name, [2.5] * dimension, 1)[0]["vector_id"] == 2


def test_stats_count_rows_and_bytes(any_daemon, engine):
    any_daemon.create("s", 8)
    any_daemon.put_rows("s", range(100), [[i] * 8 for i in range(100)])
    any_daemon.post("/databases/s/vectors", {"vector_id": 5, "data": [0] * 8})
    any_daemon.delete("/databases/s/vectors/6")
    stats = any_daemon.get("/databases/s/stats").json()
    assert stats["vector_count"] == 99
    assert stats["dimension"] == 8
    assert isinstance(stats["deleted_count"], int) and stats["deleted_count"] >= 0
    for key in ("file_bytes", "live_bytes", "wal_bytes"):
        assert isinstance(stats[key], int) and stats[key] >= 0, key
    assert 0 <= stats["fragmentation_ratio"] <= 1
    assert stats["open"] is True
    assert {"last_flush_ms", "last_flush_at", "index", "memory"} <= set(stats)
    assert "state" in stats["index"]
    if engine == "persistent":
        reply = any_daemon.post("/databases/s/flush", status=200).json()
        assert reply["duration_ms"] >= 0
        after = any_daemon.get("/databases/s/stats").json()
        file = any_daemon.directory / "s.jvdb"
        assert after["file_bytes"] == file.stat().st_size
        assert after["last_flush_at"] not in (None, 0, stats["last_flush_at"])


def test_in_memory_databases_are_gone_after_a_restart(daemons):
    daemon = daemons(persistence_type="in-memory")
    daemon.create("x", 2)
    daemon.put_rows("x", [1], [[1, 2]])
    daemon.restart()
    assert daemon.get("/databases").json()["databases"] == []
    assert not list(daemon.directory.glob("*.jvdb"))


def test_an_empty_database_takes_little_space(daemon):
    daemon.create("e", 768)
    daemon.post("/databases/e/flush")
    assert (daemon.directory / "e.jvdb").stat().st_size <= 128 * 1024


def test_the_schema_survives_a_restart_and_a_kill(daemon):
    daemon.create("x", 7, "manhattan", durability="periodic", description="d")
    before = daemon.get("/databases/x").json()
    for kill in (False, True):
        daemon.restart(kill=kill)
        after = daemon.get("/databases/x").json()
        for key in ("name", "dimension", "distance_metric", "durability", "description"):
            assert after.get(key) == before.get(key), key

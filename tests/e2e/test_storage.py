"""Storage: flush, statistics, the file as a backup, lazy opening and eviction."""
import shutil

import numpy as np
import pytest

from harness import random_rows, run_threads, scaled


def fill(daemon, name, count, dimension=16, seed=1):
    daemon.create(name, dimension)
    ids = [i if i % 3 else f"s{i}" for i in range(count)]
    daemon.put_rows(name, ids, random_rows(seed, count, dimension),
                    metadata=[{"i": i, "text": "é" * (i % 40)} for i in range(count)])


def test_flush_says_what_it_did(any_daemon):
    for name in ("a", "b", "c"):
        fill(any_daemon, name, 20)
    reply = any_daemon.post("/storage/flush", status=200).json()
    assert isinstance(reply["flushed"], int) and 0 <= reply["flushed"] <= 3
    assert reply["duration_ms"] >= 0
    assert any_daemon.post("/databases/a/flush", status=200).json()["duration_ms"] >= 0


def test_storage_stats_have_what_the_contract_lists(any_daemon, engine):
    for name in ("a", "b", "c"):
        fill(any_daemon, name, 20)
    stats = any_daemon.stats()
    assert stats["total_databases"] == 3
    assert stats["total_vectors"] == 60
    assert stats["total_bytes"] > 0
    assert stats["max_open_files"] == 100
    for key in ("open_files", "lru_hits", "lru_misses", "lru_evictions"):
        assert isinstance(stats[key], int) and stats[key] >= 0, key
    assert stats["lru_evictions_per_minute"] >= 0
    assert 0 <= stats["cache_hit_rate"] <= 1
    assert isinstance(stats["flush"], dict)
    assert stats["memory"]["rss_bytes"] > 1 << 20
    if engine == "persistent":
        assert stats["open_files"] >= 3
        assert stats["disk"]["free_bytes"] > 0
        files = sum(p.stat().st_size for p in any_daemon.directory.glob("*.jvdb"))
        assert stats["total_bytes"] == files


def test_after_a_flush_the_file_alone_is_a_backup(daemons, tmp_path):
    daemon = daemons()
    fill(daemon, "docs", 500)
    daemon.delete("/databases/docs/vectors/1")
    daemon.post("/databases/docs/vectors", {"vector_id": 2, "data": [9] * 16})
    daemon.post("/storage/flush")
    want = daemon.rows("docs")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(daemon.directory / "docs.jvdb", elsewhere / "docs.jvdb")
    daemon.post("/databases/docs/vectors", {"vector_id": 3, "data": [8] * 16})
    copy = daemons(elsewhere)
    assert copy.get("/databases").json()["total"] == 1
    info = copy.get("/databases/docs").json()
    assert (info["dimension"], info["distance_metric"], info["vector_count"]) == (16, "euclidean", 499)
    assert copy.rows("docs") == want
    query = np.zeros(16)
    assert copy.search("docs", query, 1000) == [
        r for r in daemon.search("docs", query, 1000) if r["vector_id"] != 3] \
        or copy.get("/databases/docs/vectors/3").json()["data"] != [8] * 16
    copy.post("/databases/docs/vectors", {"vector_id": 10**6, "data": [1] * 16}, 201)
    copy.restart()
    assert len(copy.rows("docs")) == 500


def test_a_copy_of_the_whole_directory_of_a_stopped_daemon_is_the_same(daemons, tmp_path):
    daemon = daemons()
    for i in range(5):
        fill(daemon, f"d{i}", 50, seed=i)
    want = {f"d{i}": daemon.rows(f"d{i}") for i in range(5)}
    daemon.stop()
    shutil.copytree(daemon.directory, tmp_path / "copy")
    copy = daemons(tmp_path / "copy")
    assert {name: copy.rows(name) for name in want} == want


def test_a_file_copied_under_another_name_is_another_database(daemons):
    daemon = daemons()
    fill(daemon, "one", 50)
    want = daemon.rows("one")
    daemon.stop()
    shutil.copy(daemon.directory / "one.jvdb", daemon.directory / "two.jvdb")
    daemon.start()
    assert daemon.rows("one") == daemon.rows("two") == want
    daemon.post("/databases/two/vectors", {"vector_id": "new", "data": [0] * 16})
    daemon.restart(kill=True)
    assert daemon.rows("one") == want
    assert len(daemon.rows("two")) == 51


def test_no_more_databases_are_open_than_allowed(daemons):
    daemon = daemons(persistence_max_open_files=5)
    names = [f"d{i:02}" for i in range(30)]
    for i, name in enumerate(names):
        fill(daemon, name, 12, seed=i)
        assert daemon.stats()["open_files"] <= 5
    want = {name: daemon.rows(name) for name in names}
    stats = daemon.stats()
    assert stats["open_files"] <= 5 == stats["max_open_files"]
    assert stats["lru_evictions"] >= 25 and stats["lru_misses"] > 0
    assert stats["total_databases"] == 30 and stats["total_vectors"] == 360
    for name in names:  # of closed databases too
        assert daemon.get(f"/databases/{name}/stats").json()["vector_count"] == 12
    daemon.restart(kill=True)
    assert {name: daemon.rows(name) for name in names} == want
    assert daemon.stats()["total_vectors"] == 360


def test_databases_are_opened_when_they_are_needed(daemons):
    daemon = daemons()
    for i in range(10):
        fill(daemon, f"d{i}", 5)
    daemon.restart()
    assert daemon.stats()["open_files"] == 0
    daemon.get("/databases/d3/vectors/1")
    assert daemon.stats()["open_files"] in (1, 2)
    assert daemon.get("/databases/d3/stats").json()["open"] is True
    listed = {d["name"]: d for d in daemon.get("/databases").json()["databases"]}
    assert {name: d["vector_count"] for name, d in listed.items()} == {f"d{i}": 5 for i in range(10)}


@pytest.mark.limit(120)
def test_many_clients_on_more_databases_than_may_be_open(daemons):
    daemon = daemons(persistence_max_open_files=5)
    names = [f"d{i}" for i in range(16)]
    for name in names:
        daemon.create(name, 4, durability="periodic")
    rounds = scaled(60, 10)

    def client(number):
        for i in range(rounds):
            name = names[(number * 5 + i * 7) % len(names)]
            vector_id = number * 1000 + i
            row = [number, i, 0, 0]
            daemon.request("PUT", f"/databases/{name}/vectors/{vector_id}", 201, json={"data": row})
            got = daemon.request("GET", f"/databases/{name}/vectors/{vector_id}", 200).json()
            assert got["data"] == row

    run_threads([lambda n=n: client(n) for n in range(8)])
    assert sum(daemon.count(name) for name in names) == 8 * rounds
    assert daemon.stats()["open_files"] <= 5


def test_the_log_is_cut_by_a_flush_and_bounded_by_wal_bytes_max(daemons):
    daemon = daemons(persistence_wal_bytes_max=1 << 20)
    daemon.create("x", 256, durability="periodic")
    for i in range(12):
        daemon.put_rows("x", range(i * 500, i * 500 + 500), random_rows(i, 500, 256))
    daemon.post("/databases/x/flush")
    wal = daemon.get("/databases/x/stats").json()["wal_bytes"]
    assert wal <= 2 << 20, "the log is not given back"
    assert len(daemon.rows("x")) == 6000


def test_space_of_replaced_rows_is_used_again(daemons):
    daemon = daemons()
    daemon.create("x", 256, durability="periodic")
    sizes = []
    for i in range(10):
        daemon.put_rows("x", range(1000), random_rows(i, 1000, 256))
        daemon.post("/databases/x/flush")
        sizes.append((daemon.directory / "x.jvdb").stat().st_size)
    print(f"file sizes: {sizes}")
    assert sizes[-1] <= 6 * sizes[0]
    assert daemon.count("x") == 1000


def test_without_auto_flush_the_log_holds_everything(daemons):
    for options in ({"vector_storage_enable_auto_flush": False},
                    {"persistence_flush_interval_seconds": 0}):
        daemon = daemons(**options)
        fill(daemon, "x", 100)
        want = daemon.rows("x")
        daemon.restart(kill=True)
        assert daemon.rows("x") == want
        daemon.restart()
        assert daemon.rows("x") == want


def test_flush_runs_beside_writers(daemons):
    daemon = daemons()
    daemon.create("x", 4, durability="periodic")
    done = []

    def write(number):
        for i in range(scaled(150, 20)):
            daemon.request("PUT", f"/databases/x/vectors/{number * 1000 + i}", 201,
                           json={"data": [number, i, 0, 0]})

    def flush():
        while len(done) < 4:
            daemon.request("POST", "/storage/flush", 200)

    def writer(number):
        try:
            write(number)
        finally:
            done.append(number)

    run_threads([flush] + [lambda n=n: writer(n) for n in range(4)])
    want = daemon.rows("x")
    assert len(want) == 4 * scaled(150, 20)
    daemon.restart(kill=True)
    assert daemon.rows("x") == want

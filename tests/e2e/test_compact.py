"""Compaction over HTTP: space comes back, rows and versions stay, reads and writes go on."""
import json
import threading

import numpy as np
import pytest

from harness import TIME_SCALE, b64, bits, random_rows, run_threads, scaled

DIMENSION = 128


def fill(daemon, name, count, seed=1):
    """Rows by id: (bytes, metadata)."""
    rows = random_rows(seed, count, DIMENSION)
    metadata = [{"i": i, "pad": "x" * (i % 50)} for i in range(count)]
    daemon.put_rows(name, list(range(count)), rows, metadata=metadata)
    return {i: (rows[i].astype("<f4").tobytes(), metadata[i]) for i in range(count)}


def version_of(daemon, name, vector_id):
    return daemon.get(f"/databases/{name}/vectors/{vector_id}").json()["version"]


def file_bytes(daemon, name):
    return (daemon.directory / f"{name}.jvdb").stat().st_size


def test_after_a_mass_delete_the_file_is_as_small_as_its_rows(daemons):
    daemon = daemons(persistence_compact_percent=0)
    daemon.create("docs", DIMENSION)
    want = fill(daemon, "docs", 4000)
    daemon.post("/databases/docs/flush")
    before = file_bytes(daemon, "docs")
    gone = [i for i in range(4000) if i % 10]
    daemon.post("/databases/docs/vectors/delete", {"ids": gone})
    for i in gone:
        del want[i]
    versions = {i: version_of(daemon, "docs", i) for i in list(want)[:20]}
    reply = daemon.post("/databases/docs/compact", status=200).json()
    assert reply["name"] == "docs" and reply["vector_count"] == 400
    assert reply["bytes_before"] >= before > 6 * reply["bytes_after"]
    assert file_bytes(daemon, "docs") == reply["bytes_after"]
    stats = daemon.get("/databases/docs/stats").json()
    assert stats["deleted_count"] == 0 and stats["fragmentation_ratio"] < 0.2
    assert "\njadevectordb_compactions_total 1\n" in daemon.metrics()
    for kill in (False, True):
        assert daemon.rows("docs") == want
        assert {i: version_of(daemon, "docs", i) for i in versions} == versions
        daemon.put_rows("docs", [7], random_rows(9, 1, DIMENSION), metadata=[{}])
        want[7] = (random_rows(9, 1, DIMENSION)[0].astype("<f4").tobytes(), {})
        daemon.restart(kill=kill)
    assert daemon.rows("docs") == want
    assert not list(daemon.directory.glob("*.new"))


def test_it_happens_by_itself_when_too_much_is_dead(daemons):
    daemon = daemons(persistence_compact_percent=30)
    daemon.create("docs", DIMENSION)
    fill(daemon, "docs", 6000)
    before = file_bytes(daemon, "docs")
    daemon.post("/databases/docs/vectors/delete", {"ids": list(range(0, 5000))})
    daemon.wait_log("compacted database \"docs\"", 40 * TIME_SCALE)
    assert file_bytes(daemon, "docs") < before / 3
    assert daemon.count("docs") == 1000


def test_an_engine_in_memory_gives_memory_back(daemons):
    daemon = daemons(persistence_type="in-memory")
    daemon.create("docs", DIMENSION)
    want = fill(daemon, "docs", 3000)
    daemon.post("/databases/docs/vectors/delete", {"ids": list(range(100, 3000))})
    reply = daemon.post("/databases/docs/compact", status=200).json()
    assert reply["bytes_before"] > 5 * reply["bytes_after"]
    assert daemon.rows("docs") == {i: want[i] for i in range(100)}


def test_readers_and_writers_go_on_and_see_every_row(daemons):
    """Clients that write, delete, read back and search all the time, and compactions beside them."""
    daemon = daemons(persistence_compact_percent=0)
    daemon.create("docs", DIMENSION, durability="periodic")
    fill(daemon, "docs", 2000)
    compactions, stop = scaled(12, least=4), threading.Event()
    final = {}

    def client(number):
        mine = {}
        rng = np.random.default_rng(number)
        base = 100000 * (number + 1)
        connection = daemon.connect()
        def call(method, path, body=None):
            connection.request(method, "/api/v1" + path, body and json.dumps(body),
                               {"Content-Type": "application/json"} if body else {})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

        step = 0
        while not stop.is_set():
            step += 1
            vector_id = base + int(rng.integers(0, 60))
            if vector_id in mine and rng.random() < 0.4:
                status, _ = call("DELETE", f"/databases/docs/vectors/{vector_id}")
                assert status == 200
                del mine[vector_id]
            else:
                row = rng.standard_normal(DIMENSION).astype("<f4")
                status, _ = call("POST", "/databases/docs/vectors",
                                 {"vector_id": vector_id, "data_base64": b64(row),
                                  "metadata": {"step": step}})
                assert status in (200, 201)
                mine[vector_id] = (row.tobytes(), {"step": step})
            look = base + int(rng.integers(0, 60))
            status, reply = call("GET", f"/databases/docs/vectors/{look}")
            if look in mine:
                assert status == 200 and (bits(reply["data"]), reply["metadata"]) == mine[look]
            else:
                assert status == 404
            if mine and step % 5 == 0:
                target = next(iter(mine))
                status, reply = call("POST", "/databases/docs/search", {
                    "data_base64": b64(np.frombuffer(mine[target][0], "<f4")), "top_k": 1})
                assert status == 200 and reply["results"][0]["vector_id"] == target
        final.update(mine)
        connection.close()

    def compactor():
        try:
            for _ in range(compactions):
                daemon.post("/databases/docs/compact", status=200)
        finally:
            stop.set()

    run_threads([compactor, *[lambda n=n: client(n) for n in range(3)]])
    daemon.kill()
    daemon.start()
    assert final
    assert {i: row for i, row in daemon.rows("docs").items() if i >= 100000} == final


def test_a_drop_does_not_wait_for_a_compaction(daemons):
    """It cuts it short: the compaction has no result."""
    daemon = daemons()
    for count in (5000, 10000, 20000, 40000, 80000):  # on a slow day the compaction is done first
        daemon.create("docs", DIMENSION, durability="periodic")
        fill(daemon, "docs", count)
        statuses, ended = [], threading.Event()

        def compact():
            try:
                reply = daemon.post("/databases/docs/compact", status=(200, 404))
                statuses.append(reply.status_code)
            finally:
                ended.set()

        def drop():
            while not (daemon.directory / "docs.new").exists() and not ended.is_set():
                pass
            daemon.delete("/databases/docs")

        run_threads([compact, drop])
        assert not list(daemon.directory.glob("docs*"))
        if statuses == [404]:
            return
    pytest.fail("every compaction came to its end before the drop")


@pytest.mark.parametrize("path,status", [("/databases/none/compact", 404),
                                         ("/databases/a%2Fb/compact", 400)])
def test_of_what_is_not_there_it_says_so(any_daemon, path, status):
    any_daemon.post(path, status=status)


def test_an_empty_database_compacts_too(any_daemon):
    any_daemon.create("empty", 3)
    reply = any_daemon.post("/databases/empty/compact", status=200).json()
    assert reply["vector_count"] == 0
    any_daemon.put_rows("empty", [1], random_rows(1, 1, 3))
    assert any_daemon.count("empty") == 1

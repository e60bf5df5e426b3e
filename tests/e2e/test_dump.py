"""Dumps: export, import, restore; bit-exact, in constant memory."""
import json
import time

import numpy as np
import pytest

from harness import SANITIZER, random_rows

JSON = {"Content-Type": "application/json"}


def fill(daemon):
    """Databases of every kind: empty, string ids, awkward numbers and metadata."""
    daemon.create("empty", 5, "manhattan")
    daemon.create("words", 4, "cosine", description="with \"quotes\" and é")
    daemon.put_rows("words", ["a", "é", "a/b", "\"", "日本", 0, 2**63 - 1, 2**53 + 1],
                    random_rows(1, 8, 4), metadata=[{"n": i, "é": [None, True, 1.5]} for i in range(8)])
    daemon.create("bits", 64, "dot_product", durability="periodic")
    pattern = np.random.default_rng(2).integers(0, 1 << 32, (300, 64), dtype=np.uint32).view(np.float32)
    daemon.put_rows("bits", range(300), np.where(np.isfinite(pattern), pattern, np.float32(-0.0)))
    return ("bits", "empty", "words")


def everything(daemon, names):
    return {name: daemon.rows(name) for name in names}


def schemas(daemon, names):
    found = {}
    for name in names:
        info = daemon.get(f"/databases/{name}").json()
        found[name] = (info["dimension"], info["distance_metric"])
    return found


def test_export_and_import_are_bit_exact(daemons, engine):
    old = daemons(persistence_type=engine)
    names = fill(old)
    dump = old.post("/export", {"format": "json"}).content
    parsed = json.loads(dump)
    assert [set(d) >= {"name", "schema", "vectors"} for d in parsed["databases"]] == [True] * 3
    for database in parsed["databases"]:
        assert set(database["schema"]) >= {"dimension", "distance_metric"}
        assert all(set(row) >= {"id", "data", "metadata"} for row in database["vectors"])
    for kind in ("persistent", "in-memory"):
        new = daemons(persistence_type=kind)
        new.request("POST", "/import", 200, data=dump, headers=JSON)
        assert everything(new, names) == everything(old, names)
        assert schemas(new, names) == schemas(old, names)
        assert json.loads(new.post("/export", {"format": "json"}).content)["databases"] == \
            parsed["databases"]
    new_disk = daemons()
    new_disk.request("POST", "/import", 200, data=dump, headers=JSON)
    new_disk.restart(kill=True)
    assert everything(new_disk, names) == everything(old, names)


def test_export_of_named_databases_only(any_daemon):
    fill(any_daemon)
    dump = any_daemon.post("/export", {"format": "json", "databases": ["words", "empty"]}).json()
    assert sorted(d["name"] for d in dump["databases"]) == ["empty", "words"]
    error = any_daemon.post("/export", {"format": "json", "databases": ["words", "absent"]},
                            404).json()["error"]
    assert error["code"] == "database_not_found" and "absent" in error["message"]


def test_export_ignores_output_with_a_warning(daemon, tmp_path):
    fill(daemon)
    target = tmp_path / "snapshot.json"
    reply = daemon.post("/export", {"format": "json", "output": str(target)})
    assert "output" in reply.headers["Warning"]
    assert len(reply.json()["databases"]) == 3
    assert not target.exists()


def test_export_of_nothing_is_a_dump_of_nothing(any_daemon):
    dump = any_daemon.post("/export", {"format": "json"})
    assert dump.json() == {"databases": []}
    any_daemon.request("POST", "/import", 200, data=dump.content, headers=JSON)
    assert any_daemon.get("/databases").json()["total"] == 0


def test_an_unknown_format_is_refused_by_name(daemon):
    error = daemon.post("/export", {"format": "xml"}, 400).json()["error"]
    assert error["code"] == "invalid_request" and "xml" in error["message"]


def test_restore_creates_a_database_and_upserts_into_one_that_exists(daemons, engine):
    old, new = daemons(persistence_type=engine), daemons(persistence_type=engine)
    names = fill(old)
    for database in old.post("/export", {"format": "json"}).json()["databases"]:
        new.post(f"/databases/{database['name']}/restore", database)
    assert everything(new, names) == everything(old, names)
    assert schemas(new, names) == schemas(old, names)
    more = {"name": "words", "schema": {"dimension": 4, "distance_metric": "cosine"},
            "vectors": [{"id": "a", "data": [1, 2, 3, 4], "metadata": {"new": 1}},
                        {"id": 77, "data": [4, 3, 2, 1], "metadata": {}}]}
    new.post("/databases/words/restore", more)
    assert new.count("words") == 9
    assert new.get("/databases/words/vectors/a").json()["metadata"] == {"new": 1}
    new.post("/databases/other/restore", more)
    assert list(new.rows("other")) == [77, "a"]


@pytest.mark.parametrize("text, code", [
    ('{"databases":[', "invalid_json"), ('{"databases":[{"name":"x"', "invalid_json"),
    ('{"databases":[{"name":"../x","schema":{"dimension":1,"distance_metric":"l2"},"vectors":[]}]}',
     "invalid_name"),
    ('{"databases":[{"name":"x","schema":{"dimension":0,"distance_metric":"l2"},"vectors":[]}]}',
     "invalid_request"),
    ('{"databases":[{"name":"x","schema":{"dimension":2,"distance_metric":"l2"},'
     '"vectors":[{"id":1,"data":[1,2,3],"metadata":{}}]}]}', "dimension_mismatch"),
    ('{"databases":[{"name":"x","schema":{"dimension":1,"distance_metric":"l2"},'
     '"vectors":[{"id":-1,"data":[1],"metadata":{}}]}]}', "invalid_id"),
    ('{"databases":[{"name":"x","schema":{"dimension":1,"distance_metric":"l2"},'
     '"vectors":[{"id":1,"data":[1e39],"metadata":{}}]}]}', "invalid_vector"),
    ('{"databases":17}', ("invalid_request", "invalid_json")), ("[]", ("invalid_request", "invalid_json")),
    ("", ("invalid_request", "invalid_json"))])
def test_a_wrong_dump_is_refused(any_daemon, text, code):
    response = any_daemon.request("POST", "/import", 400, data=text.encode(), headers=JSON)
    assert response.json()["error"]["code"] in ((code,) if isinstance(code, str) else code)
    assert any_daemon.get("/health", root=True)


def test_an_import_that_breaks_off_leaves_the_daemon_well(daemon):
    """The client goes away in the middle of the stream."""
    daemon.create("x", 2)
    connection = daemon.connect()
    connection.putrequest("POST", "/api/v1/databases/y/restore")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", "1000000")
    connection.endheaders()
    rows = ",".join(f'{{"id":{i},"data":[1,2],"metadata":{{}}}}' for i in range(1000))
    connection.send(b'{"name":"y","schema":{"dimension":2,"distance_metric":"l2"},"vectors":['
                    + rows.encode())
    connection.close()
    daemon.post("/databases/x/vectors", {"vector_id": 1, "data": [1, 2]}, 201)
    assert daemon.count("x") == 1
    daemon.restart()
    assert daemon.count("x") == 1


@pytest.mark.parametrize("size", [37, 1000, 4096, 10000, 65536, 262144])
def test_a_chunked_import_works_whatever_the_size_of_a_chunk(any_daemon, size):
    """Among them sizes that divide every buffer of the daemon, and sizes that divide none."""
    count = 500 if size == 37 else 8000
    rows = random_rows(size, count, 8)
    dump = json.dumps({"databases": [{"name": "c", "schema": {"dimension": 8, "distance_metric": "l2"},
                                      "vectors": [{"id": i, "data": [float(x) for x in row],
                                                   "metadata": {"i": i}}
                                                  for i, row in enumerate(rows)]}]}).encode()
    pieces = (dump[i:i + size] for i in range(0, len(dump), size))
    any_daemon.request("POST", "/import", 200, data=pieces, headers=JSON)
    assert {i: row[0] for i, row in any_daemon.rows("c").items()} == \
        {i: row.tobytes() for i, row in enumerate(rows)}


def test_an_import_may_be_larger_than_a_body(daemons):
    daemon = daemons(server_max_body_bytes=65536)
    dump = json.dumps({"databases": [{"name": "c", "schema": {"dimension": 8, "distance_metric": "l2"},
                                      "vectors": [{"id": i, "data": [i] * 8, "metadata": {}}
                                                  for i in range(5000)]}]}).encode()
    assert len(dump) > 3 * 65536
    daemon.request("POST", "/import", 200, data=dump, headers=JSON)
    assert daemon.count("c") == 5000
    database = json.loads(dump)["databases"][0]
    daemon.post("/databases/d/restore", database)
    assert daemon.count("d") == 5000


@pytest.mark.limit(180)
@pytest.mark.skipif(SANITIZER is not None, reason="a sanitizer's memory is its own")
def test_a_dump_of_100_mb_takes_constant_memory(daemons, tmp_path):
    dimension, count = 768, 12000
    old, new = daemons(), daemons()
    old.create("big", dimension, durability="periodic")
    rows = random_rows(9, count, dimension)
    for i in range(0, count, 1000):
        old.put_rows("big", range(i, i + 1000), rows[i:i + 1000],
                     metadata=[{"i": j} for j in range(i, i + 1000)])
    old.post("/storage/flush")
    path, peak, began = tmp_path / "dump.json", 0, time.monotonic()
    before = old.rss_anon()
    with old.session.post(old.api + "/export", json={"format": "json"}, stream=True) as reply, \
            path.open("wb") as out:
        assert reply.status_code == 200
        for i, piece in enumerate(reply.iter_content(1 << 18)):
            out.write(piece)
            if i % 8 == 0:
                peak = max(peak, old.rss_anon())
    size = path.stat().st_size
    print(f"export: {size / 1e6:.0f} MB in {time.monotonic() - began:.1f} s,"
          f" RssAnon {before / 1e6:.1f} -> {peak / 1e6:.1f} MB")
    assert size > 90e6
    assert peak - before < 16 << 20

    before, peaks, began = new.rss_anon(), [0], time.monotonic()

    def pieces():
        with path.open("rb") as source:
            while piece := source.read(1 << 18):
                peaks.append(new.rss_anon())
                yield piece

    new.request("POST", "/import", 200, data=pieces(), headers=JSON, timeout=120)
    print(f"import: {time.monotonic() - began:.1f} s,"
          f" RssAnon {before / 1e6:.1f} -> {max(peaks) / 1e6:.1f} MB")
    assert max(peaks) - before < 48 << 20
    assert new.count("big") == count
    for i in (0, 1, count // 2, count - 1):
        data = new.get(f"/databases/big/vectors/{i}").json()["data"]
        assert np.array(data, np.float64).astype("<f4").tobytes() == rows[i].tobytes()

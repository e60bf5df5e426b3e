"""What `lsn`, `?durability=` and `/wait` promise."""

import json

import pytest

HOUR = 3600000
ROW = {"data": [1, 2, 3]}


def durable_lsn(daemon, name):
    return daemon.get(f"/databases/{name}/stats").json()["durable_lsn"]


def dump(name, ids):
    return json.dumps({"name": name, "schema": {"dimension": 3, "distance_metric": "euclidean"},
                       "vectors": [{"id": i, "data": [i, 0, 0]} for i in ids]})


def writes(daemon, query):
    """Every route that writes, once; the LSN of its answer."""
    def sent(method, path, body=None):
        kwargs = {} if body is None else {"data": body} if isinstance(body, str) else {"json": body}
        answer = daemon.request(method, f"{path}{query}", status=(200, 201), **kwargs).json()
        return answer["databases"][0]["lsn"] if "databases" in answer else answer["lsn"]

    base = "/databases/w/vectors"
    yield "post", sent("POST", base, {"vector_id": 1, **ROW})
    yield "put", sent("PUT", f"{base}/2", ROW)
    yield "batch", sent("POST", f"{base}/batch", {"vectors": [{"vector_id": 3, **ROW}, ROW, ROW]})
    yield "delete", sent("DELETE", f"{base}/1")
    yield "delete many", sent("POST", f"{base}/delete", {"ids": [2, 3]})
    yield "restore", sent("POST", "/databases/w/restore", dump("w", range(10, 14)))
    yield "import", sent("POST", "/import", '{"databases":[' + dump("w", range(20, 24)) + "]}")


def test_every_write_tells_its_lsn_and_can_be_made_to_wait_for_the_disk(daemons):
    daemon = daemons(persistence_wal_sync_interval_ms=HOUR)
    daemon.create("w", 3, durability="periodic")
    last = 0
    for route, lsn in writes(daemon, "?durability=synced"):
        assert lsn > last, route
        assert durable_lsn(daemon, "w") >= lsn, route
        last = lsn


def test_every_write_can_be_answered_before_the_disk_has_it(daemons):
    daemon = daemons(persistence_wal_sync_interval_ms=HOUR)
    daemon.create("w", 3, durability="synced")
    before, last = durable_lsn(daemon, "w"), 0
    for route, lsn in writes(daemon, "?durability=periodic"):
        assert lsn > last, route
        last = lsn
    assert durable_lsn(daemon, "w") == before
    daemon.restart(kill=True)
    assert daemon.count("w") == 2 + 4 + 4


@pytest.mark.parametrize("method, path", [
    ("POST", "/vectors"), ("PUT", "/vectors/1"), ("POST", "/vectors/batch"),
    ("DELETE", "/vectors/1"), ("POST", "/vectors/delete"), ("POST", "/restore")])
def test_another_durability_is_refused_by_every_write(daemon, method, path):
    daemon.create("w", 3)
    answer = daemon.request(method, f"/databases/w{path}?durability=maybe", status=400)
    assert "durability" in answer.json()["error"]["message"]


def test_wait_asks_for_the_sync_and_answers_behind_it(daemons):
    daemon = daemons(persistence_wal_sync_interval_ms=HOUR)
    daemon.create("w", 3, durability="periodic")
    lsns = [daemon.post("/databases/w/vectors", {"vector_id": i, **ROW}).json()["lsn"]
            for i in range(20)]
    assert durable_lsn(daemon, "w") < lsns[0]
    assert daemon.get(f"/databases/w/wait?lsn={lsns[3]}").json()["durable_lsn"] >= lsns[3]
    assert durable_lsn(daemon, "w") >= lsns[3]
    last = daemon.post("/databases/w/vectors", {"vector_id": 1, **ROW}).json()["lsn"]
    assert daemon.get("/databases/w/wait").json() == {"durable_lsn": last}
    assert daemon.get("/databases/w/wait?lsn=0").json() == {"durable_lsn": last}
    assert daemon.get("/databases/w/wait?lsn=2").json() == {"durable_lsn": last}


def test_many_wait_at_once_without_a_thread_each(daemons):
    daemon = daemons(persistence_wal_sync_interval_ms=HOUR, server_threads=1)
    daemon.create("w", 3, durability="periodic")
    connections = [daemon.connect() for _ in range(200)]
    lsn = daemon.post("/databases/w/vectors", {"vector_id": 1, **ROW}).json()["lsn"]
    for connection in connections:
        connection.request("GET", f"/api/v1/databases/w/wait?lsn={lsn}")
    for connection in connections:
        answer = connection.getresponse()
        assert answer.status == 200 and json.loads(answer.read()) == {"durable_lsn": lsn}
        connection.close()


def test_an_lsn_that_no_write_has_is_refused_and_the_last_one_named(any_daemon):
    any_daemon.create("w", 3)
    lsn = any_daemon.post("/databases/w/vectors", {"vector_id": 1, **ROW}).json()["lsn"]
    error = any_daemon.get(f"/databases/w/wait?lsn={lsn + 1}", status=400).json()["error"]
    assert error["code"] == "invalid_request" and str(lsn) in error["message"]
    for bad in ("-1", "x", "", "1.5", "99999999999999999999"):
        any_daemon.get(f"/databases/w/wait?lsn={bad}", status=400)
    any_daemon.get("/databases/w/wait?lsm=1", status=400)
    any_daemon.get("/databases/nobody/wait?lsn=0", status=404)
    assert any_daemon.get(f"/databases/w/wait?lsn={lsn}").json() == {"durable_lsn": lsn}

"""Readers beside writers and checkpoints: every row seen is whole, and no row ever goes back.

A row says in its numbers and in its metadata which id it belongs to and which write it is, so that
a reader can tell a torn, a mixed-up, an old and a dead row from a good one.
"""
import http.client
import json
import random

import numpy as np
import pytest

from harness import b64, id_order, run_threads, scaled

DIMENSION = 48
IDS = 60


def id_of(number):
    """Integers, and strings that differ only behind their first bytes."""
    return number if number % 2 else f"a-common-prefix-{number:03}"


def row_of(number, stamp):
    row = np.full(DIMENSION, stamp, np.float32)
    row[0] = number
    return row


def check_row(row, newest):
    """The stamp of a good row; `newest` by id, as this reader has seen it."""
    data, meta, vector_id = row["data"], row["metadata"], row["vector_id"]
    assert id_of(data[0]) == vector_id == id_of(meta["id"]), row
    assert set(data[1:]) == {meta["stamp"]}, row
    assert meta["pad"] == "p" * (meta["stamp"] % 300)
    assert meta["stamp"] >= newest.get(vector_id, 0), f"{row['vector_id']} went back"
    newest[vector_id] = meta["stamp"]
    return meta["stamp"]


class Talk:
    """One keep-alive connection."""

    def __init__(self, daemon):
        self.connection = daemon.connect()

    def __call__(self, method, path, body=None, status=(200,)):
        self.connection.request(method, "/api/v1" + path, body and json.dumps(body),
                                {"Content-Type": "application/json"} if body else {})
        answer = self.connection.getresponse()
        text = answer.read()
        assert answer.status in status, (method, path, answer.status, text[:300])
        return json.loads(text)


@pytest.mark.limit(120)
@pytest.mark.parametrize("durability", ["periodic", "synced"])
def test_every_row_that_is_read_is_whole_and_none_goes_back(daemons, engine, durability):
    """Each id has one writer; readers get, list and search; one client flushes without a pause."""
    if engine == "in-memory" and durability == "synced":
        pytest.skip("the in-memory engine has one durability")
    daemon = daemons(persistence_type=engine, persistence_wal_bytes_max=1 << 20)
    daemon.create("r", DIMENSION, durability=durability)
    rounds, writers, done = scaled(600 if durability == "periodic" else 250, 60), 3, []

    def write(number):
        talk, rng, last = Talk(daemon), random.Random(number), {}
        mine = [i for i in range(IDS) if i % writers == number]
        try:
            for stamp in range(1, rounds):
                some = rng.sample(mine, rng.choice((1, 1, 4, 12)))
                if rng.random() < 0.3:
                    for vector_id in some:
                        talk("DELETE", f"/databases/r/vectors/{id_of(vector_id)}",
                             status=(200, 404))
                        last.pop(id_of(vector_id), None)
                    talk("GET", f"/databases/r/vectors/{id_of(some[0])}", status=(404,))
                    continue
                talk("POST", "/databases/r/vectors/batch", {"vectors": [
                    {"vector_id": id_of(i), "data_base64": b64(row_of(i, stamp)),
                     "metadata": {"id": i, "stamp": stamp, "pad": "p" * (stamp % 300)}}
                    for i in some]})
                for vector_id in some:
                    last[id_of(vector_id)] = stamp
                seen = talk("GET", f"/databases/r/vectors/{id_of(some[-1])}")
                assert check_row(seen, {}) == stamp, "own write is not visible"
        finally:
            done.append(last)

    def read(number):
        talk, rng, newest = Talk(daemon), random.Random(100 + number), {}
        while len(done) < writers:
            kind = rng.choice((0, 1, 1, 1, 2))
            if kind == 0:
                vector_id = id_of(rng.randrange(IDS))
                row = talk("GET", f"/databases/r/vectors/{vector_id}", status=(200, 404))
                if "error" not in row:
                    assert row["vector_id"] == vector_id
                    check_row(row, newest)
            elif kind == 1:
                page = talk("GET", "/databases/r/vectors?limit=1000&include=data,metadata")
                ids = [row["vector_id"] for row in page["vectors"]]
                assert ids == sorted(set(ids), key=id_order)
                for row in page["vectors"]:
                    check_row(row, newest)
            else:
                found = talk("POST", "/databases/r/search",
                             {"data": [float(x) for x in row_of(rng.randrange(IDS), 5)],
                              "top_k": 1000, "include": ["data", "metadata"]})["results"]
                assert len({row["vector_id"] for row in found}) == len(found) <= IDS
                for row in found:
                    check_row(row, newest)

    def flush():
        talk = Talk(daemon)
        while len(done) < writers:
            talk("POST", "/storage/flush")

    run_threads([lambda n=n: write(n) for n in range(writers)]
                + [lambda n=n: read(n) for n in range(3)] + [flush], timeout=100)
    want = {i: stamp for last in done for i, stamp in last.items()}
    for kill in (None, True, False):
        if kill is not None:
            if engine == "in-memory":
                break
            daemon.restart(kill=kill)
        stored = {row["vector_id"]: check_row(row, {})
                  for page in daemon.pages("r") for row in page["vectors"]}
        assert stored == want


@pytest.mark.limit(120)
def test_databases_come_and_go_under_their_readers(any_daemon):
    """A request meets the database whole or not at all; 404 is the only other answer."""
    daemon, done, rounds = any_daemon, [], scaled(60, 10)

    def come_and_go():
        talk = Talk(daemon)
        try:
            for i in range(rounds):
                dimension = 2 + i % 3
                talk("POST", "/databases/g", {"dimension": dimension, "distance_metric": "l2"},
                     (201,))
                talk("POST", "/databases/g/vectors/batch", {"vectors": [
                    {"vector_id": j, "data": [dimension] * dimension} for j in range(5)]})
                talk("DELETE", "/databases/g")
        finally:
            done.append(True)

    def read(number):
        talk, rng = Talk(daemon), random.Random(number)
        while not done:
            method, path, body = rng.choice([
                ("GET", "/databases/g", None), ("GET", "/databases/g/vectors?include=data", None),
                ("GET", "/databases/g/stats", None), ("GET", "/databases", None),
                ("GET", "/databases/g/vectors/1", None), ("POST", "/databases/g/flush", None),
                ("POST", "/export", {"format": "json"}), ("POST", "/databases/g/count", None)])
            reply = talk(method, path, body, (200, 404))
            if "vectors" in reply:
                assert len(reply["vectors"]) in (0, 5)
                for row in reply["vectors"]:
                    assert row["data"] == [len(row["data"])] * len(row["data"])
            if "databases" in reply and path == "/export":
                for database in reply["databases"]:
                    assert len(database["vectors"]) in (0, 5)
                    assert {len(row["data"]) for row in database["vectors"]} <= \
                        {database["schema"]["dimension"]}

    run_threads([come_and_go] + [lambda n=n: read(n) for n in range(4)], timeout=100)
    assert daemon.get("/databases").json()["total"] == 0


def test_a_client_that_goes_away_in_the_middle_harms_nobody(any_daemon):
    """Connections dropped at every stage of a request, then an ordinary one."""
    daemon = any_daemon
    daemon.create("x", 4, durability="periodic")
    body = json.dumps({"vectors": [{"vector_id": i, "data": [i, 1, 2, 3]} for i in range(200)]})
    head = (f"POST /api/v1/databases/x/vectors/batch HTTP/1.1\r\nHost: x\r\nContent-Type: "
            f"application/json\r\nContent-Length: {len(body)}\r\n\r\n")
    whole = (head + body).encode()
    rng = random.Random(3)
    for cut in [0, 1, len(head) - 1, len(head), len(head) + 1, len(whole) - 1, len(whole)] \
            + [rng.randrange(len(whole)) for _ in range(60)]:
        connection = daemon.connect()
        connection.connect()
        connection.sock.sendall(whole[:cut])
        connection.close()
    assert daemon.count("x") in (0, 200)
    exporters = [daemon.connect() for _ in range(20)]
    for connection in exporters:
        connection.request("POST", "/api/v1/export", '{"format":"json"}',
                           {"Content-Type": "application/json"})
    for connection in exporters:
        try:
            connection.sock.recv(10)
        except (OSError, http.client.HTTPException):
            pass
        connection.close()
    daemon.put_rows("x", [1000], [[1, 2, 3, 4]])
    assert daemon.count("x") in (1, 201)

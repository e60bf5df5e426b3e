"""kill -9 in the middle of writes: what was acknowledged is there, what was not is whole or absent.

Every client owns its ids and sends one request at a time, so that after a kill each of its rows is
either as the last acknowledged operation left it or as the one unanswered operation would have.

  JADEVECTORDB_KILLS=50   rounds of each test (default 5)
  JADEVECTORDB_SEED=n     the same rounds again
"""
import http.client
import json
import os
import random
import threading

import numpy as np
import pytest

from harness import SANITIZER, TIME_SCALE, b64, bits, run_threads

KILLS = int(os.environ.get("JADEVECTORDB_KILLS", "5"))
SEED = int(os.environ.get("JADEVECTORDB_SEED", random.SystemRandom().randrange(1 << 32)))
CLIENTS = 8
DIMENSION = 24
BATCH = 20
IDS_PER_CLIENT = 160
ABSENT = None


def row_of(client, stamp, position=0):
    """The float32 row and the metadata of a client's operation: any finite bit patterns."""
    pattern = np.random.default_rng([client, stamp, position]).integers(
        0, 1 << 32, DIMENSION, dtype=np.uint32).view(np.float32)
    row = np.where(np.isfinite(pattern), pattern, np.float32(1.5)).astype("<f4")
    return row, {"client": client, "stamp": stamp, "pad": "x" * (stamp % 50)}


class Client:
    """A writer and what it knows: `known` is acknowledged, `doubt` the operation without answer."""

    def __init__(self, number, database, durability=None):
        self.number = number
        self.database = database
        self.query = f"?durability={durability}" if durability else ""
        self.known = {}
        self.doubt = None
        self.stamp = 0
        self.random = random.Random(f"{SEED}/{number}")

    def id_of(self, index):
        """Integers and strings."""
        number = self.number * 100000 + index
        return number if index % 2 else f"c{number:07}"

    def next_operation(self):
        """(method, path, body, {id: (bytes, metadata) or ABSENT})"""
        self.stamp += 1
        base = f"/api/v1/databases/{self.database}/vectors"
        kind = self.random.random()
        if kind < 0.25:
            present = [i for i, value in self.known.items() if value is not ABSENT]
            if present:
                victim = self.random.choice(present)
                return "DELETE", f"{base}/{victim}{self.query}", None, {victim: ABSENT}
        if kind < 0.65:
            vector_id = self.id_of(self.random.randrange(IDS_PER_CLIENT))
            row, metadata = row_of(self.number, self.stamp)
            body = {"vector_id": vector_id, "data_base64": b64(row), "metadata": metadata}
            return "POST", base + self.query, body, {vector_id: (row.tobytes(), metadata)}
        rows, after = [], {}
        for position, index in enumerate(self.random.sample(range(IDS_PER_CLIENT), BATCH)):
            row, metadata = row_of(self.number, self.stamp, position)
            vector_id = self.id_of(index)
            rows.append({"vector_id": vector_id, "data_base64": b64(row), "metadata": metadata})
            after[vector_id] = (row.tobytes(), metadata)
        return "POST", f"{base}/batch{self.query}", {"vectors": rows}, after

    def write_until_killed(self, daemon, acknowledged):
        connection = daemon.connect()
        try:
            while True:
                method, path, body, after = self.next_operation()
                self.doubt = after
                try:
                    connection.request(method, path, body and json.dumps(body),
                                       {"Content-Type": "application/json"} if body else {})
                    answer = connection.getresponse()
                    text = answer.read()
                except (OSError, http.client.HTTPException):
                    return
                assert answer.status in (200, 201), (method, path, answer.status, text[:300])
                self.known.update(after)
                self.doubt = None
                acknowledged()
        finally:
            connection.close()

    def check(self, stored):
        """Compare with what is stored; the operation in doubt is then settled either way."""
        doubt = self.doubt or {}
        for vector_id, want in self.known.items():
            if vector_id not in doubt:
                assert stored.get(vector_id, ABSENT) == want, \
                    f"client {self.number}: {vector_id!r} is not as acknowledged"
        happened = set()
        for vector_id, new in doubt.items():
            old, got = self.known.get(vector_id, ABSENT), stored.get(vector_id, ABSENT)
            assert got in (old, new), f"client {self.number}: {vector_id!r} is neither old nor new"
            if old != new:
                happened.add(got == new)
        assert len(happened) <= 1, f"client {self.number}: half a batch of {len(doubt)} rows"
        if happened == {True}:
            self.known.update(doubt)
        self.doubt = None


def stored_rows(daemon, database):
    return {row["vector_id"]: (bits(row["data"]), row["metadata"])
            for page in daemon.pages(database) for row in page["vectors"]}


def flush_until_killed(daemon, rng):
    """Checkpoints under the writers, so that kills hit their every stage."""
    connection = daemon.connect()
    try:
        while True:
            connection.request("POST", "/api/v1/storage/flush")
            connection.getresponse().read()
            for _ in range(rng.randrange(4)):
                connection.request("GET", "/api/v1/storage/stats")
                connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        pass
    finally:
        connection.close()


def kill_rounds(daemon, clients, rounds):
    rng = random.Random(SEED)
    databases = sorted({client.database for client in clients})
    for number in range(rounds):
        after = rng.randrange(10, 60 if SANITIZER else 250)
        reached, count, lock = threading.Event(), [0], threading.Lock()

        def acknowledged():
            with lock:
                count[0] += 1
                if count[0] >= after:
                    reached.set()

        def killer():
            assert reached.wait(60 * TIME_SCALE), "the clients make no progress"
            daemon.process.kill()

        work = [lambda c=client: c.write_until_killed(daemon, acknowledged) for client in clients]
        if number % 2:
            work.append(lambda: flush_until_killed(daemon, random.Random(f"{SEED}/{number}")))
        run_threads([*work, killer])
        in_doubt = sum(client.doubt is not None for client in clients)
        daemon.restart(kill=True)
        everything = {name: stored_rows(daemon, name) for name in databases}
        for client in clients:
            client.check(everything[client.database])
        for name, stored in everything.items():
            wanted = {i for client in clients if client.database == name
                      for i, value in client.known.items() if value is not ABSENT}
            assert set(stored) == wanted, f"{name}: rows from nowhere"
            assert daemon.count(name) == len(wanted)
            assert daemon.get(f"/databases/{name}/stats").json()["vector_count"] == len(wanted)
        print(f"round {number}: {count[0]} acknowledged, {in_doubt} in doubt,"
              f" {sum(map(len, everything.values()))} rows")
    daemon.restart()
    for name in databases:
        assert stored_rows(daemon, name) == everything[name]


@pytest.fixture(autouse=True)
def print_seed():
    print(f"JADEVECTORDB_SEED={SEED} JADEVECTORDB_KILLS={KILLS}")


@pytest.mark.limit(60 + 5 * KILLS)
@pytest.mark.parametrize("durability", ["synced", "periodic"])
def test_kill_loses_no_acknowledged_write_and_leaves_no_half_batch(daemons, durability):
    daemon = daemons(persistence_wal_bytes_max=1 << 20)
    daemon.create("one", DIMENSION, durability=durability)
    kill_rounds(daemon, [Client(i, "one") for i in range(CLIENTS)], KILLS)


@pytest.mark.limit(60 + 5 * KILLS)
def test_kill_while_databases_are_evicted_loses_nothing(daemons):
    daemon = daemons(persistence_max_open_files=5, persistence_wal_bytes_max=1 << 20)
    for i in range(CLIENTS):
        daemon.create(f"db{i}", DIMENSION, durability=("synced", "periodic")[i % 2])
    kill_rounds(daemon, [Client(i, f"db{i}") for i in range(CLIENTS)], KILLS)


@pytest.mark.limit(60 + 5 * KILLS)
def test_created_and_deleted_databases_survive_a_kill_as_acknowledged(daemon):
    """One client creates and deletes databases; the kill comes at any point of that."""
    rng = random.Random(SEED)
    names = [f"d{i}" for i in range(6)]
    known = {name: False for name in names}
    for _ in range(KILLS):
        after, doubt = rng.randrange(1, 40), []
        reached = threading.Event()

        def create_and_delete():
            connection = daemon.connect()
            done = 0
            try:
                while True:
                    name = rng.choice(names)
                    doubt[:] = [name]
                    if known[name]:
                        connection.request("DELETE", f"/api/v1/databases/{name}")
                    else:
                        connection.request("POST", f"/api/v1/databases/{name}",
                                           '{"dimension": 4, "distance_metric": "cosine"}',
                                           {"Content-Type": "application/json"})
                    answer = connection.getresponse()
                    text = answer.read()
                    assert answer.status in (200, 201), text
                    known[name] = not known[name]
                    doubt.clear()
                    done += 1
                    if done == after:
                        reached.set()
            except (OSError, http.client.HTTPException):
                reached.set()
            finally:
                connection.close()

        def killer():
            assert reached.wait(60 * TIME_SCALE)
            daemon.process.kill()

        run_threads([create_and_delete, killer])
        daemon.restart(kill=True)
        listed = {d["name"] for d in daemon.get("/databases").json()["databases"]}
        for name in names:
            if name in doubt:
                known[name] = name in listed
            assert (name in listed) == known[name], name
            daemon.get(f"/databases/{name}", 200 if known[name] else 404)
            if known[name]:
                assert daemon.count(name) == 0


def test_rows_of_a_deleted_database_do_not_come_back_after_a_kill(daemon):
    daemon.create("x", 2)
    daemon.put_rows("x", range(50), np.ones((50, 2)))
    daemon.delete("/databases/x")
    daemon.create("x", 3)
    daemon.post("/databases/x/vectors", {"vector_id": 7, "data": [1, 2, 3]})
    daemon.restart(kill=True)
    assert daemon.rows("x") == {7: (np.float32([1, 2, 3]).tobytes(), {})}


def test_a_second_kill_right_after_recovery_loses_nothing(daemon):
    daemon.create("x", 2)
    daemon.put_rows("x", range(300), np.arange(600).reshape(300, 2))
    before = daemon.rows("x")
    for _ in range(3):
        daemon.restart(kill=True)
    assert daemon.rows("x") == before
    daemon.post("/databases/x/vectors", {"vector_id": 1000, "data": [1, 1]})
    daemon.restart(kill=True)
    assert len(daemon.rows("x")) == 301


def test_lsns_never_go_back_after_a_kill(daemon):
    daemon.create("x", 1)
    last = 0
    for i in range(4):
        for j in range(5):
            lsn = daemon.post("/databases/x/vectors", {"vector_id": j, "data": [i]}).json()["lsn"]
            assert lsn > last
            last = lsn
        daemon.restart(kill=bool(i % 2))


def test_a_torn_tail_is_cut_and_the_log_says_how_much_it_was(daemon):
    daemon.create("x", 2, durability="periodic")
    for i in range(5):
        daemon.post("/databases/x/vectors", {"vector_id": i, "data": [i, 1]})
    before = daemon.get("/databases/x/stats").json()["wal_bytes"]
    daemon.post("/databases/x/vectors", {"vector_id": 5, "data": [5, 1]})
    last = daemon.get("/databases/x/stats").json()["wal_bytes"] - before
    daemon.kill()
    segment = max(daemon.directory.glob("x.wal.*"), key=lambda path: path.stat().st_mtime_ns)
    data = bytearray(segment.read_bytes())
    end = len(bytes(data).rstrip(b"\0"))
    data[end - 1] ^= 0xff
    segment.write_bytes(data)
    daemon.start()
    assert sorted(daemon.rows("x")) == [0, 1, 2, 3, 4]
    daemon.wait_log(rf'database "x": cut a torn tail of {last} bytes off the log')
    daemon.restart(kill=True)
    assert sorted(daemon.rows("x")) == [0, 1, 2, 3, 4]

"""An environment that fails: files that lose their bytes, no descriptors, no memory, a read-only or
foreign directory, a second daemon.  The daemon goes on, says what is wrong, and tells no lie."""
import os
import pathlib
import resource
import shutil
import socket
import subprocess
import tempfile
import threading
import time

import numpy as np
import pytest

import faults
import harness
from harness import bits, random_rows, run_threads

DIMENSION = 24
ROWS = 2000


def code_of(response):
    return response.json()["error"]["code"]


def fill(daemon, name, count=ROWS, seed=1):
    """A database of `count` rows; returns them as the listing shows them."""
    rows = random_rows(seed, count, DIMENSION)
    ids = [i if i % 3 else f"s{i}" for i in range(1, count + 1)]
    daemon.create(name, DIMENSION)
    daemon.put_rows(name, ids, rows, metadata=[{"i": i} for i in range(count)])
    return {vector_id: (row.tobytes(), {"i": i}) for i, (vector_id, row) in enumerate(zip(ids, rows))}


# ---- a mapped file that loses its bytes ----

ONES = np.ones(DIMENSION, "<f4")


def one(vector_id):
    return {"vector_id": vector_id, "data": ONES.tolist()}


# What a client may ask of a database: each looks at the file, or at what became of it.
REQUESTS = {
    "search": lambda d, n: d.request("POST", f"/databases/{n}/search",
                                     json={"data": [0.5] * DIMENSION, "top_k": ROWS}),
    "list": lambda d, n: d.request("GET", f"/databases/{n}/vectors?limit=10000"),
    "get": lambda d, n: d.request("GET", f"/databases/{n}/vectors/s{ROWS // 3 * 3}"),
    "get many": lambda d, n: d.request("POST", f"/databases/{n}/vectors/get",
                                       json={"ids": [1, 2, ROWS - 2, ROWS - 1]}),
    "export": lambda d, n: d.request("GET", f"/databases/{n}/export"),
    "insert": lambda d, n: d.request("POST", f"/databases/{n}/vectors", json=one(ROWS + 1)),
    "update": lambda d, n: d.request("POST", f"/databases/{n}/vectors", json=one(ROWS - 1)),
    "batch": lambda d, n: d.request("POST", f"/databases/{n}/vectors/batch",
                                    json={"vectors": [one(i) for i in range(1, 500)]}),
    "delete": lambda d, n: d.request("DELETE", f"/databases/{n}/vectors/{ROWS - 1}"),
    "flush": lambda d, n: d.request("POST", f"/databases/{n}/flush"),
}


def check_rows(what, answer, want, context):
    """Whatever rows an answer holds are those that were written, and all that were asked for."""
    if what in ("list", "get many"):
        rows = answer.json()["vectors"]
        asked = want if what == "list" else [1, 2, ROWS - 2, ROWS - 1]
        assert len(rows) == len(asked), context
    elif what == "get":
        rows = [answer.json()]
        assert rows[0]["vector_id"] == f"s{ROWS // 3 * 3}", context
    elif what == "search":
        found = [one["vector_id"] for one in answer.json()["results"]]
        assert len(set(found)) == len(found) == ROWS and set(found) <= set(want), context
        return
    elif what == "export":
        try:
            rows = answer.json()["vectors"]
        except ValueError:  # broken off under way, and therefore no dump
            return
        assert len(rows) == len(want), context
    else:
        return
    for row in rows:
        vector_id = row["vector_id"] if "vector_id" in row else row["id"]
        assert (bits(row["data"]), row.get("metadata") or {}) == want[vector_id], context


@pytest.mark.parametrize("left", [0.0, 0.1, 0.5, 0.9])
def test_a_file_cut_short_under_the_daemon_is_an_error_of_that_database_alone(daemons, left):
    daemon = daemons()
    other = fill(daemon, "other")
    for number, (what, request) in enumerate(REQUESTS.items()):
        name = f"victim{number}"
        want = fill(daemon, name, seed=number)
        daemon.post(f"/databases/{name}/flush")
        # Every row was checked, and none will be again; and there is something to flush.
        assert daemon.rows(name) == want
        daemon.post(f"/databases/{name}/vectors", one(ROWS + 10), 201)
        path = daemon.directory / f"{name}.jvdb"
        size = path.stat().st_size
        os.truncate(path, min(int(size * left), size - 4096))

        answer = request(daemon, name)
        context = f"{what} at {left}: {answer.status_code} {answer.text[:300]}"
        if answer.status_code >= 400:
            assert answer.status_code == 500 and code_of(answer) == "corrupt", context
            assert name in answer.json()["error"]["message"], context
        elif left == 0 and what not in ("export",):
            assert False, f"an answer from an empty file: {context}"
        else:
            check_rows(what, answer, {**want, ROWS + 10: (ONES.tobytes(), {})}, context)
        # Whatever the first one met: what looks at the whole file finds it, and nobody lies.
        listing = daemon.request("GET", f"/databases/{name}/vectors?limit=10000")
        assert listing.status_code in (423, 500), context
        for again in REQUESTS.values():
            answer = again(daemon, name)
            assert answer.status_code == 423 and code_of(answer) == "database_quarantined", \
                f"{what}: {answer.status_code} {answer.text[:300]}"
            assert name in answer.json()["error"]["message"]
        assert daemon.get(f"/databases/{name}").json()["quarantined"]
        assert daemon.running() and daemon.rows("other") == other
    daemon.post("/databases/other/vectors", one(ROWS + 1), 201)
    daemon.post("/databases/other/flush")
    daemon.delete("/databases/victim0")  # it can be dropped
    daemon.signal(15)
    assert daemon.wait_exit() in (0, 1)  # 1: not everything could be flushed
    daemon.start()
    assert len(daemon.rows("other")) == ROWS + 1
    for number in range(1, len(REQUESTS)):
        assert code_of(daemon.get(f"/databases/victim{number}/vectors", 423)) \
            == "database_quarantined"


def test_a_file_cut_short_while_it_is_searched_listed_and_written_gives_no_wrong_answer(daemons):
    daemon = daemons()
    other = fill(daemon, "other")
    for attempt in range(faults.count(4)):
        name = f"victim{attempt}"
        want = fill(daemon, name, seed=attempt)
        query = np.zeros(DIMENSION)
        hits = daemon.search(name, query, 50)
        daemon.post(f"/databases/{name}/flush")
        gone = threading.Event()
        seen = []

        def read(make, check):
            with type(daemon.session)() as session:
                while True:
                    last = gone.is_set()
                    answer = make(session, f"{daemon.api}/databases/{name}")
                    if answer.status_code in (200, 201):
                        check(answer.json())
                    else:
                        seen.append(answer.status_code)
                        assert code_of(answer) in ("corrupt", "database_quarantined"), answer.text
                        if answer.status_code == 423:
                            return
                    assert not last or answer.status_code > 201 or make is write, answer.text[:300]

        def search(session, url):
            return session.post(f"{url}/search", json={"data": [0.0] * DIMENSION, "top_k": 50})

        def listing(session, url):
            return session.get(f"{url}/vectors?limit=10000&include=data,metadata")

        def write(session, url):
            return session.post(f"{url}/vectors", json=one(ROWS + 5) | {"data": [1e3] * DIMENSION})

        def hits_are_right(reply):
            assert reply["results"] == hits

        def rows_are_right(reply):
            found = {r["vector_id"]: (bits(r["data"]), r["metadata"]) for r in reply["vectors"]}
            found.pop(ROWS + 5, None)
            assert found == want

        def cut():
            path = daemon.directory / f"{name}.jvdb"
            os.truncate(path, (0, path.stat().st_size // 2)[attempt % 2])
            gone.set()

        run_threads([lambda: read(search, hits_are_right), lambda: read(listing, rows_are_right),
                     lambda: read(write, lambda _: None), cut])
        assert 423 in seen
        assert daemon.rows("other") == other
    daemon.signal(15)
    assert daemon.wait_exit() in (0, 1)


# ---- too few descriptors, too little memory ----

def descriptors(daemon):
    return len(os.listdir(f"/proc/{daemon.pid}/fd"))


def limit(daemon, what, value):
    """Set the soft limit; returns what it was."""
    was, most = resource.prlimit(daemon.pid, what)
    resource.prlimit(daemon.pid, what, (value, most))
    return was


@pytest.mark.limit(120)
def test_without_descriptors_idle_databases_are_closed_for_those_in_use(daemons):
    daemon = daemons(persistence_max_open_files=1000, server_max_connections=100)
    names = [f"d{i:03}" for i in range(100)]
    want = {}
    for i, name in enumerate(names):
        daemon.create(name, 4)
    daemon.get("/databases")
    limit(daemon, resource.RLIMIT_NOFILE, descriptors(daemon) + 8)
    for turn in range(2):
        for i, name in enumerate(names):
            row = {"vector_id": turn, "data": [float(i), float(turn), 0, 1]}
            daemon.post(f"/databases/{name}/vectors", row, 201)
            want[name, turn] = row["data"]
    daemon.create("more", 4)
    daemon.post("/storage/flush", status=200)
    for (name, turn), data in want.items():
        assert daemon.get(f"/databases/{name}/vectors/{turn}").json()["data"] == data
    for name in names[::7]:
        daemon.delete(f"/databases/{name}/vectors/0")
        daemon.delete(f"/databases/{name}")
    assert not any("quarantined" in line for line in daemon.lines)
    assert daemon.stats()["lru_evictions"] > 50


def test_without_any_descriptor_requests_are_503_and_connections_wait_without_spinning(daemons):
    daemon = daemons()
    daemon.create("docs", 4)
    daemon.create("closed", 4)
    daemon.post("/databases/docs/vectors", {"vector_id": 1, "data": [1, 2, 3, 4]}, 201)
    daemon.post("/storage/flush")
    before = limit(daemon, resource.RLIMIT_NOFILE, 3)
    assert daemon.get("/databases/docs/vectors/1").json()["data"] == [1, 2, 3, 4]
    answer = daemon.request("POST", "/databases/closed/vectors",
                            json={"vector_id": 1, "data": [1, 2, 3, 4]})
    assert (answer.status_code, code_of(answer)) == (503, "overloaded")
    assert int(answer.headers["Retry-After"]) > 0
    answer = daemon.request("POST", "/databases/more", json={"dimension": 4})
    assert answer.status_code == 503
    waiting = socket.create_connection(("127.0.0.1", daemon.port))
    waiting.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    daemon.wait_log("no descriptors left for new connections")
    ticks = os.sysconf("SC_CLK_TCK")

    def cpu_seconds():
        fields = open(f"/proc/{daemon.pid}/stat").read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / ticks

    begun = cpu_seconds()
    time.sleep(1)  # nothing to await: this is the time in which it must not spin
    assert cpu_seconds() - begun < 0.25 * harness.TIME_SCALE
    limit(daemon, resource.RLIMIT_NOFILE, before)
    waiting.settimeout(harness.REQUEST_S)
    assert waiting.recv(4096).startswith(b"HTTP/1.1 200")
    waiting.close()
    daemon.post("/databases/closed/vectors", {"vector_id": 1, "data": [1, 2, 3, 4]}, 201)
    daemon.create("more", 4)


@pytest.mark.limit(120)
def test_without_memory_a_request_is_503_and_the_next_is_answered(daemons):
    if harness.SANITIZER:
        pytest.skip("a sanitizer needs its address space")
    daemon = daemons(persistence_max_open_files=1000)
    want = fill(daemon, "docs")
    for i in range(60):
        daemon.create(f"d{i:02}", 4)
    size = int(open(f"/proc/{daemon.pid}/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    # Each open database maps 256 MiB twice and more: room for a few of them.
    limit(daemon, resource.RLIMIT_AS, size + 2048 * 1024 * 1024)
    for i in list(range(60)) * 2:
        answer = daemon.request("POST", f"/databases/d{i:02}/vectors", json={"data": [1, 2, 3, 4]})
        assert answer.status_code == 201, answer.text
    assert daemon.stats()["lru_evictions"] > 0
    limit(daemon, resource.RLIMIT_AS, size // 2)  # nothing more at all
    for _ in range(3):
        for what, request in REQUESTS.items():
            if what == "delete":
                continue
            answer = request(daemon, "docs")
            assert answer.status_code < 400 or \
                (answer.status_code == 503 and code_of(answer) == "overloaded"), \
                f"{what}: {answer.status_code} {answer.text[:300]}"
        body = b'{"vectors":[' + b",".join([b'{"data":[%s]}' % b",".join([b"1.5"] * 24)] * 50000)
        answer = daemon.request("POST", "/databases/docs/vectors/batch", data=body + b"]}",
                                headers={"Content-Type": "application/json"})
        assert (answer.status_code, code_of(answer)) == (503, "overloaded"), answer.text[:300]
        assert "Retry-After" in answer.headers
    limit(daemon, resource.RLIMIT_AS, resource.RLIM_INFINITY)
    assert set(want) - set(daemon.rows("docs")) == set()
    assert daemon.count("docs") == len(daemon.rows("docs"))
    daemon.post("/databases/docs/flush", status=200)


# ---- a directory that cannot be written, files that are somebody else's ----

@pytest.fixture
def disk(tmp_path):
    """A tmpfs, to be mounted again read-only."""
    path = tmp_path / "disk"
    path.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "jvdb-test", path],
                          capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"A READ-ONLY FILE SYSTEM IS NOT TESTED: mounting needs root: {done.stderr}")
    yield path
    subprocess.run(["umount", "-l", path], check=True)


def remount(path, how):
    subprocess.run(["mount", "-o", f"remount,{how}", path], check=True)


WRITES = ("insert", "update", "batch", "delete")


def test_on_a_read_only_file_system_reads_are_answered_and_writes_are_503(disk, daemons):
    daemon = daemons(disk / "data")
    want = fill(daemon, "docs")
    unflushed = fill(daemon, "unflushed", 50)
    daemon.stop()
    daemon.start()
    daemon.post("/databases/unflushed/vectors", one(5000), 201)
    daemon.kill()
    before = {f.name: f.read_bytes() for f in daemon.directory.iterdir()}
    remount(disk, "ro")
    for _ in range(2):
        daemon.start()
        daemon.wait_log("cannot be written")
        assert daemon.rows("docs") == want
        for what, request in REQUESTS.items():
            answer = request(daemon, "docs")
            if what in WRITES:
                assert (answer.status_code, code_of(answer)) == (503, "database_read_only"), what
            else:
                assert answer.status_code == 200, f"{what}: {answer.text[:300]}"
        for method, path in (("POST", "/databases/new"), ("DELETE", "/databases/docs")):
            answer = daemon.request(method, path, json={"dimension": 4} if "new" in path else None)
            assert (answer.status_code, code_of(answer)) == (503, "database_read_only")
        # Its log is not ignored.
        answer = daemon.get("/databases/unflushed/vectors", 423)
        assert "make it writable" in answer.json()["error"]["message"]
        assert daemon.rows("docs") == want
        daemon.stop()
    assert before == {f.name: f.read_bytes() for f in daemon.directory.iterdir()}
    remount(disk, "rw")
    daemon.start()
    assert daemon.rows("docs") == want
    assert len(daemon.rows("unflushed")) == len(unflushed) + 1
    daemon.post("/databases/docs/vectors", one(5000), 201)


@pytest.fixture
def nobody(monkeypatch):
    """Daemons run as nobody, in a directory of theirs: root may do anything."""
    if os.getuid() != 0:
        pytest.skip("FILE PERMISSIONS ARE NOT TESTED: giving files away needs root")
    top = pathlib.Path(tempfile.mkdtemp(prefix="jvdb-nobody-"))
    program = top / "jadevectordb"
    shutil.copy(harness.BIN, program)
    wrapper = top / "as-nobody"
    wrapper.write_text("#!/bin/sh\nexec setpriv --reuid=65534 --regid=65534 --clear-groups "
                       f"{program} \"$@\"\n")
    for path in (top, program, wrapper):
        path.chmod(0o755)
    data = top / "data"
    data.mkdir(mode=0o750)
    os.chown(data, 65534, 65534)
    monkeypatch.setattr(harness, "BIN", wrapper)
    yield data
    shutil.rmtree(top)


def test_a_file_of_another_owner_is_423_and_the_others_are_served(nobody, daemons):
    daemon = daemons(nobody)
    names = ("good", "unreadable", "unwritable", "log", "link", "fifo")
    want = {name: fill(daemon, name, 50) for name in names}
    daemon.stop()
    os.chown(nobody / "unreadable.jvdb", 0, 0)
    os.chmod(nobody / "unreadable.jvdb", 0o600)
    os.chown(nobody / "unwritable.jvdb", 0, 0)
    os.chmod(nobody / "unwritable.jvdb", 0o644)
    log = next(nobody.glob("log.wal.*"))
    os.chown(log, 0, 0)
    os.chmod(log, 0o600)
    for name in ("link", "fifo"):
        os.rename(nobody / f"{name}.jvdb", nobody / f"{name}.away")
    os.symlink("link.away", nobody / "link.jvdb")
    os.mkfifo(nobody / "fifo.jvdb")
    daemon.start()
    for name in names[1:]:
        answer = daemon.get(f"/databases/{name}/vectors", 423)
        assert code_of(answer) == "database_quarantined" and name in answer.text
    assert daemon.rows("good") == want["good"]
    daemon.post("/databases/good/vectors", one(5000), 201)
    daemon.stop()
    for path in nobody.iterdir():
        os.chown(path, 65534, 65534, follow_symlinks=False)
    for name in ("link", "fifo"):
        os.rename(nobody / f"{name}.away", nobody / f"{name}.jvdb")
    daemon.start()
    for name in names[1:]:
        assert daemon.rows(name) == want[name]


def test_a_directory_without_the_right_to_write_is_read_only_and_without_any_it_is_refused(
        nobody, daemons):
    daemon = daemons(nobody)
    want = fill(daemon, "docs")
    daemon.stop()
    os.chown(nobody, 0, 0)
    os.chmod(nobody, 0o755)
    daemon.start()
    assert daemon.rows("docs") == want
    answer = daemon.request("POST", "/databases/docs/vectors", json=one(1))
    assert (answer.status_code, code_of(answer)) == (503, "database_read_only")
    daemon.stop()
    for mode in (0o700, 0o744):
        os.chmod(nobody, mode)
        daemon.start(wait=False)
        assert daemon.wait_exit() == 78
        assert len(daemon.log(since_start=True).splitlines()) == 1
        assert str(nobody) in daemon.log(since_start=True)


# ---- two daemons ----

def test_a_second_daemon_is_refused_within_a_second_and_a_killed_one_leaves_no_lock(daemons):
    daemon = daemons()
    want = fill(daemon, "docs")
    second = daemons(daemon.directory, start=False)
    begun = time.monotonic()
    second.start(wait=False)
    assert second.wait_exit() == 75
    assert time.monotonic() - begun < 1 * harness.TIME_SCALE
    assert f"pid {daemon.pid}" in second.log()
    assert daemon.rows("docs") == want
    daemon.kill()
    second.start()
    assert second.rows("docs") == want
    daemon.start(wait=False)
    assert daemon.wait_exit() == 75
    assert f"pid {second.pid}" in daemon.log(since_start=True)

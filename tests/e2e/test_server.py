"""The process: signals, sockets, keys, configuration."""
import hashlib
import http.client
import json
import os
import pathlib
import re
import signal
import socket
import struct
import subprocess
import time

import pytest

from harness import (BIN, REQUEST_S, START_S, TIME_SCALE, TOP, Session, clean_environment,
                     random_rows, read_answers, run_threads, scaled)

GET_HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"

VERSION = re.search(r"^VERSION := (\S+)$", (TOP / "Makefile").read_text(), re.M).group(1)


def run(*arguments, env=None):
    """The program with these arguments, to its end."""
    return subprocess.run([str(BIN), *map(str, arguments)], stdin=subprocess.DEVNULL, check=False,
                          capture_output=True, text=True, timeout=START_S, env=clean_environment(env))


# ---- stopping ----

class Writer:
    """A client that writes until the daemon is gone, and remembers what was acknowledged."""

    def __init__(self, number):
        self.number, self.acknowledged, self.refused, self.broken = number, set(), 0, []

    def run(self, daemon, tick):
        connection = daemon.connect()
        count = 0
        while True:
            count += 1
            vector_id = self.number * 10**6 + count
            body = json.dumps({"vector_id": vector_id, "data": [self.number, count, 0, 0]})
            answer = None
            try:
                connection.request("POST", "/api/v1/databases/x/vectors", body,
                                   {"Content-Type": "application/json"})
                answer = connection.getresponse()
                text = answer.read()
            except http.client.RemoteDisconnected:
                self.refused += 1
                return
            except http.client.HTTPException as error:
                self.broken.append(repr(error))
                return
            except OSError as error:
                if answer is not None:
                    self.broken.append(repr(error))
                self.refused += 1
                return
            try:
                reply = json.loads(text)
            except ValueError:
                self.broken.append(text)
                return
            if answer.status == 201:
                self.acknowledged.add(reply["vector_id"])
                tick()
            else:
                assert answer.status == 503 and reply["error"]["code"] == "shutting_down", text
            if answer.getheader("Connection", "").lower() == "close":
                connection.close()


@pytest.mark.limit(120)
@pytest.mark.parametrize("durability", ["synced", "periodic"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_under_load_keeps_what_was_acknowledged_and_breaks_no_answer(daemons, durability,
                                                                            number):
    daemon = daemons()
    daemon.create("x", 4, durability=durability)
    writers = [Writer(i) for i in range(1, 9)]
    count, enough = [0], scaled(200, 40)

    def tick():
        count[0] += 1
        if count[0] == enough:
            daemon.signal(number)

    began = time.monotonic()
    run_threads([lambda w=w: w.run(daemon, tick) for w in writers])
    code = daemon.wait_exit()
    print(f"{count[0]} acknowledged, {sum(w.refused for w in writers)} refused,"
          f" {time.monotonic() - began:.2f} s")
    assert code == 0
    assert [w.broken for w in writers if w.broken] == []
    assert "Shutdown complete" in daemon.log()
    daemon.start()
    stored = set(daemon.rows("x"))
    acknowledged = set().union(*(w.acknowledged for w in writers))
    assert acknowledged <= stored
    assert len(stored - acknowledged) <= len(writers)


def test_a_start_after_a_clean_stop_replays_nothing(daemon):
    for i in range(5):
        daemon.create(f"d{i}", 4)
        daemon.put_rows(f"d{i}", range(100), random_rows(i, 100, 4))
    daemon.restart()
    for i in range(5):
        assert daemon.count(f"d{i}") == 100
    replayed = re.findall(r"(?i).*(?:replay|recover)\w*.*", daemon.log(since_start=True))
    assert not [line for line in replayed if re.search(r"[1-9]\d* (records|writes)", line)], replayed
    daemon.restart(kill=True)
    assert daemon.count("d0") == 100


def test_idle_connections_do_not_hold_up_a_stop(daemon):
    idle = [socket.create_connection(("127.0.0.1", daemon.port), REQUEST_S) for _ in range(50)]
    for sock in idle[:25]:
        sock.sendall(GET_HEALTH)
        read_answers(sock, ["GET"])
    began = time.monotonic()
    daemon.stop(timeout=10 * TIME_SCALE)
    print(f"stopped after {time.monotonic() - began:.2f} s")
    for sock in idle:
        sock.close()


@pytest.mark.parametrize("how", ["end", "reset"])
def test_clients_that_went_away_in_the_middle_do_not_hold_up_a_stop(daemon, how):
    """Their last bytes and the end of their stream arrive at once."""
    daemon.create("x", 2)
    head = (b"POST /api/v1/databases/x/vectors HTTP/1.1\r\nHost: x\r\n"
            b"Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n")
    for data in (b"G", b"GET /health HTTP/1.1\r\n", head, head + b'{"vector_id"', head + b" " * 999):
        sock = socket.create_connection(("127.0.0.1", daemon.port), REQUEST_S)
        sock.sendall(data)
        if how == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
    daemon.get("/health", root=True)
    began = time.monotonic()
    daemon.stop()
    took = time.monotonic() - began
    assert took < 3 * TIME_SCALE, f"stopping took {took:.1f} s"


def test_a_stopped_daemon_leaves_its_port_to_the_next(daemon):
    port = daemon.port
    for _ in range(3):
        daemon.get("/health", root=True)
        daemon.restart()
        assert daemon.port == port


# ---- the directory ----

def test_a_second_daemon_on_the_directory_gives_up_and_names_the_first(daemon):
    second = run(f"--persistence-storage-path={daemon.directory}", "--server-port=0")
    assert second.returncode == 75, second
    assert re.search(rf"\b{daemon.pid}\b", second.stderr + second.stdout)
    daemon.get("/health", root=True)


def test_after_a_kill_the_directory_is_free(daemon):
    daemon.create("x", 2)
    daemon.restart(kill=True)
    assert daemon.get("/databases").json()["total"] == 1


@pytest.mark.limit(120)
def test_a_start_with_200_databases_is_quick(daemons):
    daemon = daemons()
    count = scaled(200, 40)
    for i in range(count):
        daemon.create(f"d{i:03}", 4)
        if i % 10 == 0:
            daemon.put_rows(f"d{i:03}", range(5), random_rows(i, 5, 4))
    for kill in (False, True):
        daemon.kill() if kill else daemon.stop()
        began = time.monotonic()
        daemon.start()
        daemon.get("/ready", root=True)
        took = time.monotonic() - began
        print(f"start to /ready with {count} databases after a {'kill' if kill else 'stop'}:"
              f" {took * 1e3:.1f} ms")
        assert took < 5 * TIME_SCALE
        assert daemon.get("/databases").json()["total"] == count


# ---- connections ----

def test_requests_share_a_connection(daemon):
    connection = daemon.connect()
    for _ in range(20):
        connection.request("GET", "/health")
        answer = connection.getresponse()
        assert answer.status == 200 and answer.read()
        sock = connection.sock
        assert sock is not None
    assert connection.sock is sock
    connection.close()


def test_pipelined_requests_are_answered_in_order(daemon):
    daemon.create("x", 2)
    daemon.put_rows("x", [1, 2], [[1, 1], [2, 2]])
    paths = ["/api/v1/databases/x/vectors/1", "/api/v1/databases/x/vectors/2", "/nothing",
             "/api/v1/databases/x/vectors/1"]
    data = b"".join(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for path in paths)
    answers = daemon.raw(data, ["GET"] * 4)
    assert [a.status for a in answers] == [200, 200, 404, 200]
    assert [a.json()["vector_id"] for a in answers if a.status == 200] == [1, 2, 1]


def test_a_write_and_a_read_pipelined_behind_it(daemon):
    daemon.create("x", 2)
    body = b'{"vector_id":1,"data":[1,2]}'
    post = (b"POST /api/v1/databases/x/vectors HTTP/1.1\r\nHost: x\r\nContent-Type: application/json"
            b"\r\nContent-Length: %d\r\n\r\n" % len(body)) + body
    get = b"GET /api/v1/databases/x/vectors/1 HTTP/1.1\r\nHost: x\r\n\r\n"
    answers = daemon.raw(post + get + post + get, ["POST", "GET"] * 2)
    assert [a.status for a in answers] == [201, 200, 200, 200]


def test_a_body_may_come_in_chunks(daemon):
    daemon.create("x", 2)
    body = b'{"vector_id":1,"data":[1.5,2.5]}'
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    answer, = daemon.raw(b"POST /api/v1/databases/x/vectors HTTP/1.1\r\nHost: x\r\n"
                         b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
                         + chunks, ["POST"])
    assert answer.status == 201
    assert daemon.get("/databases/x/vectors/1").json()["data"] == [1.5, 2.5]


def test_expect_100_continue_is_answered_at_once(daemon):
    daemon.create("x", 64)
    rows = [{"vector_id": i, "data": [0.123456789012 + i] * 64} for i in range(2500)]
    body = json.dumps({"vectors": rows}).encode()
    assert len(body) > 2 << 20
    with socket.create_connection(("127.0.0.1", daemon.port), REQUEST_S) as sock:
        sock.sendall(b"POST /api/v1/databases/x/vectors/batch HTTP/1.1\r\nHost: x\r\nContent-Type: "
                     b"application/json\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n"
                     % len(body))
        interim = b""
        while not interim.endswith(b"\r\n\r\n"):
            piece = sock.recv(1)
            assert piece, interim
            interim += piece
        assert interim.startswith(b"HTTP/1.1 100 ")
        sock.sendall(body)
        answer, = read_answers(sock, ["POST"])
    assert answer.status in (200, 201), answer.body[:300]
    assert daemon.count("x") == 2500


def test_expect_100_continue_of_a_body_that_is_too_long_is_refused(daemons):
    daemon = daemons(server_max_body_bytes=65536)
    daemon.create("x", 2)
    answer, = daemon.raw(b"POST /api/v1/databases/x/vectors HTTP/1.1\r\nHost: x\r\nContent-Type: "
                         b"application/json\r\nContent-Length: 100000\r\nExpect: 100-continue\r\n\r\n",
                         ["POST"])
    assert answer.status == 413


@pytest.mark.parametrize("count", [128, 200, 256])
def test_many_connections_at_once_are_all_answered(daemon, count):
    daemon.create("x", 2, durability="periodic")
    sockets = [socket.create_connection(("127.0.0.1", daemon.port), REQUEST_S) for _ in range(count)]
    body = '{"vector_id":%d,"data":[1,2]}'
    for turn in range(2):
        for i, sock in enumerate(sockets):
            text = body % (turn * count + i)
            sock.sendall(b"POST /api/v1/databases/x/vectors HTTP/1.1\r\nHost: x\r\nContent-Type: "
                         b"application/json\r\nContent-Length: %d\r\n\r\n" % len(text) + text.encode())
        for sock in sockets:
            answer, = read_answers(sock, ["POST"])
            assert answer.status == 201, answer.body
    for sock in sockets:
        sock.close()
    assert daemon.count("x") == 2 * count


def test_connections_beyond_the_limit_do_not_stop_the_others(daemons):
    daemon = daemons(server_max_connections=8)
    sockets = [socket.create_connection(("127.0.0.1", daemon.port), REQUEST_S) for _ in range(7)]
    for sock in sockets:
        sock.sendall(GET_HEALTH)
        assert read_answers(sock, ["GET"])[0].status == 200
    extra = []
    for _ in range(10):
        sock = socket.create_connection(("127.0.0.1", daemon.port), REQUEST_S)
        extra.append(sock)
        try:
            sock.sendall(GET_HEALTH)
        except OSError:
            pass
    for sock in sockets:
        sock.sendall(GET_HEALTH)
        assert read_answers(sock, ["GET"])[0].status == 200
    for sock in sockets + extra:
        sock.close()


def test_a_request_that_never_ends_is_dropped(daemons):
    daemon = daemons(server_request_timeout_seconds=1)
    head = b"POST /api/v1/databases/x HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{"
    for data in (b"GET /heal", b"GET /health HTTP/1.1\r\nHost: x\r\n", head):
        with socket.create_connection(("127.0.0.1", daemon.port), REQUEST_S) as sock:
            sock.sendall(data)
            try:
                while sock.recv(4096):
                    pass
            except ConnectionError:
                pass
    daemon.get("/health", root=True)


@pytest.mark.parametrize("data", [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET\r\n\r\n", b"\r\n\r\n\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
    b"\0" * 1000, b"GET / HTTP/1.1\r\n\r\n", b"POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: "
    b"chunked\r\n\r\nZZZ\r\n", b"A" * 40000],
    ids=["tls", "no_version", "blank_lines", "http_9", "zeros", "no_host", "bad_chunk", "one_word"])
def test_noise_on_the_port_does_no_harm(daemons, data):
    daemon = daemons(server_request_timeout_seconds=1)
    with socket.create_connection(("127.0.0.1", daemon.port), REQUEST_S) as sock:
        try:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(65536):
                pass
        except OSError:  # reset, or gone before our end was sent
            pass
    daemon.get("/health", root=True)


# ---- the routes outside /api/v1 ----

@pytest.mark.parametrize("path", ["/health", "/ready", "/version", "/metrics", "/openapi.json"])
def test_routes_outside_the_base_path_are_also_under_it(module_daemon, path):
    for root in (True, False):
        response = module_daemon.get(path, root=root)
        assert response.content
        head = module_daemon.request("HEAD", path, 200, root=root)
        assert head.content == b"" and head.headers["Content-Type"] == response.headers["Content-Type"]


def test_version_is_the_version(module_daemon):
    assert VERSION in module_daemon.get("/version", root=True).text


def test_the_openapi_document_lists_the_routes(module_daemon):
    document = module_daemon.get("/openapi.json", root=True).json()
    assert document["openapi"].startswith("3.")
    text = " ".join(document["paths"])
    for word in ("/databases", "/vectors", "/search", "/storage/flush", "/export", "/import"):
        assert word in text


# ---- signals, logs ----

def test_sighup_opens_the_log_file_again_and_systemd_is_told(daemons, tmp_path):
    """The log goes to a file here, so readiness comes from the notification socket."""
    path = tmp_path / "log" / "server.log"
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(tmp_path / "notify"))
        notified.settimeout(START_S)
        daemon = daemons(start=False, log_file=path, env={"NOTIFY_SOCKET": str(tmp_path / "notify")})
        daemon.start(wait=False)
        while b"READY=1" not in notified.recv(4096):
            pass
        daemon.port = int(re.search(r"Listening on http://\S+:(\d+)", path.read_text()).group(1))
        daemon.session = Session()
        path.rename(tmp_path / "log" / "server.log.1")
        daemon.signal(signal.SIGHUP)
        deadline = time.monotonic() + START_S
        while not path.exists() or "reload" not in path.read_text():
            assert time.monotonic() < deadline, "the log file was not opened again"
            daemon.get("/health", root=True)
        daemon.stop()
    assert "Shutdown complete" in path.read_text()
    assert "Shutdown complete" not in (tmp_path / "log" / "server.log.1").read_text()


def test_the_log_has_the_lines_of_the_guide(daemon):
    for line in (f"[info] Initializing PersistentDatabasePersistence at {daemon.directory}",
                 "[info] LRU cache configured with max_open_files=100",
                 "[info] Starting periodic flush with interval=300s",
                 "[info] JadeVectorDB started successfully"):
        daemon.wait_log(re.escape(line))
    daemon.stop()
    assert "Graceful shutdown initiated..." in daemon.log()
    assert "Shutdown complete" in daemon.log()


def test_a_json_log_is_json(daemons):
    daemon = daemons(log_format="json", log_level="debug")
    daemon.create("x", 2)
    daemon.get("/nothing", 404)
    daemon.stop()
    for line in daemon.log().splitlines():
        assert {"ts", "level", "msg"} <= set(json.loads(line)), line


def test_a_client_cannot_forge_log_lines(daemons):
    daemon = daemons(log_level="debug")
    daemon.raw(b"GET /api/v1/databases/a%0a2026-11-20T09:30:00.123Z%20[info]%20forged HTTP/1.1\r\n"
               b"Host: x\r\nX-Request-Id: a%0aforged\r\n\r\n")
    daemon.stop()
    assert not re.search(r"(?m)^\S+ \[info\] forged", daemon.log())


# ---- keys ----

KEYS = {"reader": "read-0123456789", "writer": "write-0123456789", "ops": "admin-0123456789",
        "one": "one-0123456789"}


def write_keys(path, names=tuple(KEYS), mode=0o600):
    scopes = {"reader": ("read", ["*"]), "writer": ("write", ["*"]), "ops": ("admin", ["*"]),
              "one": ("write", ["mine"])}
    path.write_text(json.dumps({"keys": [
        {"name": n, "scope": scopes[n][0], "sha256": hashlib.sha256(KEYS[n].encode()).hexdigest(),
         "databases": scopes[n][1]} for n in names]}))
    path.chmod(mode)
    return path


def with_key(name, form="bearer"):
    if name is None:
        return {}
    key = KEYS.get(name, name)
    return {"Authorization": f"Bearer {key}"} if form == "bearer" else {"X-API-Key": key}


@pytest.fixture
def guarded(daemons, tmp_path):
    daemon = daemons(security_api_keys_file=write_keys(tmp_path / "keys.json"))
    for name in ("mine", "theirs"):
        daemon.post(f"/databases/{name}", {"dimension": 2, "distance_metric": "l2"}, 201,
                    headers=with_key("ops"))
    return daemon


REQUESTS = [  # least scope, method, path, body
    ("read", "GET", "/databases", None), ("read", "GET", "/databases/mine", None),
    ("read", "GET", "/databases/mine/stats", None), ("read", "GET", "/databases/mine/vectors", None),
    ("read", "POST", "/databases/mine/search", {"data": [1, 2]}),
    ("read", "POST", "/databases/mine/count", {}), ("read", "GET", "/storage/stats", None),
    ("read", "GET", "/metrics", None),
    ("write", "POST", "/databases/mine/vectors", {"vector_id": 1, "data": [1, 2]}),
    ("write", "PUT", "/databases/mine/vectors/1", {"data": [1, 2]}),
    ("write", "POST", "/databases/mine/vectors/batch", {"vectors": [{"vector_id": 1, "data": [1, 2]}]}),
    ("write", "DELETE", "/databases/mine/vectors/1", None),
    ("admin", "POST", "/databases/new", {"dimension": 2, "distance_metric": "l2"}),
    ("admin", "DELETE", "/databases/new", None), ("admin", "POST", "/databases/mine/flush", None),
    ("admin", "POST", "/storage/flush", None), ("admin", "POST", "/export", {"format": "json"}),
    ("admin", "POST", "/import", {"databases": []})]


def test_a_key_may_do_what_its_scope_says_and_no_more(guarded):
    ranks = {"reader": 0, "writer": 1, "ops": 2}
    for least, method, path, body in REQUESTS:
        need = ("read", "write", "admin").index(least)
        for name, rank in ranks.items():
            for form in ("bearer", "header"):
                response = guarded.request(method, path, json=body, headers=with_key(name, form))
                where = (name, method, path, response.status_code, response.text[:200])
                if rank < need:
                    assert response.status_code == 403, where
                    assert response.json()["error"]["code"] == "forbidden"
                else:
                    assert response.status_code in (200, 201, 404, 409), where


def test_without_a_good_key_every_answer_is_the_same_401(guarded):
    bodies = set()
    for _, method, path, body in REQUESTS:
        for headers in ({}, with_key("wrong"), with_key("wrong", "header"), with_key(""),
                        {"Authorization": "Basic " + KEYS["ops"]}, with_key(KEYS["ops"] + "x"),
                        with_key(KEYS["ops"][:-1])):
            response = guarded.request(method, path, json=body, headers=headers)
            assert response.status_code == 401, (method, path, headers, response.text)
            error = response.json()["error"]
            assert error["code"] == "unauthorized"
            bodies.add(error["message"])
    assert len(bodies) == 1, bodies
    answer = guarded.get("/databases?api_key=" + KEYS["ops"], None)
    assert answer.status_code == 401


def test_health_ready_version_and_openapi_need_no_key(guarded):
    for path in ("/health", "/ready", "/version", "/openapi.json"):
        guarded.get(path, root=True)
        guarded.get(path)
    guarded.get("/metrics", 401, root=True)


def test_a_key_of_one_database_reaches_no_other(guarded):
    key = with_key("one")
    guarded.get("/databases/mine", headers=key)
    guarded.post("/databases/mine/vectors", {"vector_id": 1, "data": [1, 2]}, 201, headers=key)
    for method, path, body in (("GET", "/databases/theirs", None),
                               ("POST", "/databases/theirs/vectors", {"vector_id": 1, "data": [1, 2]}),
                               ("POST", "/databases/theirs/search", {"data": [1, 2]}),
                               ("GET", "/databases/theirs/vectors/1", None)):
        error = guarded.request(method, path, 403, json=body, headers=key).json()["error"]
        assert error["code"] == "forbidden"
    listed = guarded.get("/databases", (200, 403), headers=key)
    assert "theirs" not in listed.text


def test_sighup_reads_the_keys_again(guarded):
    path = pathlib.Path(guarded.options["security_api_keys_file"])
    guarded.get("/databases", 200, headers=with_key("reader"))
    write_keys(path, ["ops"])
    guarded.signal(signal.SIGHUP)
    guarded.wait_log("(?i)reloaded")
    guarded.get("/databases", 401, headers=with_key("reader"))
    guarded.get("/databases", 200, headers=with_key("ops"))


def test_a_key_file_that_others_can_read_is_refused(tmp_path):
    path = write_keys(tmp_path / "keys.json", mode=0o644)
    done = run(f"--security-api-keys-file={path}", f"--persistence-storage-path={tmp_path}/d",
               "--server-port=0")
    assert done.returncode == 78, done
    assert re.search(r"keys\.json.*0644", done.stderr + done.stdout)


# ---- configuration ----

def test_print_config_shows_values_and_where_they_come_from(tmp_path):
    file = tmp_path / "config.json"
    file.write_text('{"persistence": {"max_open_files": 7}, "server": {"port": 1234}}')
    done = run("--config", file, "--print-config", "--server-port=4321",
               env={"JADEVECTORDB_PERSISTENCE_FLUSH_INTERVAL_SECONDS": "60"})
    assert done.returncode == 0, done
    lines = {line.split()[0].rstrip("=:"): line for line in done.stdout.splitlines() if line.split()}
    assert re.search(r"\b7\b.*file", lines["persistence.max_open_files"])
    assert re.search(r"\b60\b.*env", lines["persistence.flush_interval_seconds"])
    assert re.search(r"\b4321\b.*flag", lines["server.port"])
    assert re.search(r"300|balanced", lines["persistence.mode"])
    assert "default" in lines["server.host"]


@pytest.mark.parametrize("arguments, words", [
    (["--server-prot=1"], ["server-prot"]), (["--server-port=99999"], ["port", "65535"]),
    (["--persistence-max-open-files=4"], ["max", "5", "1000"]),
    (["--persistence-max-open-files=many"], ["max"]),
    (["--persistence-type=cloud"], ["cloud", "in-memory"]), (["--server-host=0.0.0.0"], ["host"]),
    (["--config=/nonexistent/x.json"], ["/nonexistent/x.json"]), (["surprise"], ["surprise"])])
def test_a_wrong_option_refuses_to_start_and_is_named(tmp_path, arguments, words):
    for check in ([], ["--check-config"]):
        done = run(f"--persistence-storage-path={tmp_path}/d", *arguments, *check)
        said = done.stderr + done.stdout
        assert done.returncode == 78, said
        for word in words:
            assert word in said, said
        assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("text, words", [
    ('{"persistence": {"max_open_filez": 7}}', ["max_open_filez"]), ('{"persistance": {}}', ["persistance"]),
    ('{"server": {"port": 70000}}', ["port", "65535"]), ('{"server": ', []), ("[]", []),
    ('{"server": {"port": "many"}}', ["port"])])
def test_a_wrong_configuration_file_is_refused_and_named(tmp_path, text, words):
    file = tmp_path / "config.json"
    file.write_text(text)
    done = run("--config", file, "--check-config")
    assert done.returncode == 78, done
    for word in words + ["config.json"] * (not words):
        assert word in done.stderr + done.stdout


def test_an_unknown_variable_of_a_known_section_is_refused():
    done = run("--check-config", env={"JADEVECTORDB_SERVER_PROT": "1"})
    assert done.returncode == 78 and "JADEVECTORDB_SERVER_PROT" in done.stderr + done.stdout


def test_a_good_configuration_is_said_to_be_good(tmp_path):
    assert run("--check-config", f"--persistence-storage-path={tmp_path}/d").returncode == 0
    for profile in sorted((TOP / "config").glob("*.json")):
        done = run("--config", profile, "--check-config")
        assert done.returncode == 0, (profile, done)


def test_version_and_help_are_printed():
    done = run("--version")
    assert done.returncode == 0 and VERSION in done.stdout
    done = run("--help")
    assert done.returncode == 0 and "--persistence-storage-path" in done.stdout


def test_a_storage_path_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    done = run(f"--persistence-storage-path={tmp_path}/file", "--server-port=0")
    assert done.returncode == 78, done
    assert str(tmp_path / "file") in done.stderr + done.stdout


def test_a_port_in_use_is_named(daemon, tmp_path):
    done = run(f"--persistence-storage-path={tmp_path}/other", f"--server-port={daemon.port}")
    assert done.returncode not in (0, None) and done.returncode > 0
    assert str(daemon.port) in done.stderr + done.stdout


def test_a_storage_path_may_be_a_symbolic_link(daemons, tmp_path):
    (tmp_path / "real").mkdir()
    os.symlink(tmp_path / "real", tmp_path / "link")
    daemon = daemons(tmp_path / "link")
    daemon.create("x", 2)
    daemon.post("/storage/flush")
    assert (tmp_path / "real" / "x.jvdb").exists()

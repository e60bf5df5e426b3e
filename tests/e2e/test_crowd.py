"""Many honest clients beside many that hold their connections with a byte now and then.

JADEVECTORDB_SLOW=1: 1,000 and 300 of them, and how long /health takes meanwhile.
"""
import json
import resource
import selectors
import socket
import subprocess
import sys
import time

import pytest

from harness import REQUEST_S, SANITIZER, SLOW, random_rows

HONEST, SLOWLORIS, SECONDS = (1000, 300, 10) if SLOW else (100, 30, 4)
FEW = 10  # clients, to begin with
TIMEOUT_S = 2  # server.request_timeout_seconds
DRIP_S = 0.25
DIMENSION = 16
# libmicrohttpd's 32 KiB, and what the kernel and we keep beside it.
CONNECTION_BYTES = 64 * 1024

# In a process of its own: this one is busy being the crowd.
PROBE = """
import http.client, json, sys, time
connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=60)
end, times = time.monotonic() + float(sys.argv[2]), []
while time.monotonic() < end:
    began = time.monotonic()
    connection.request("GET", "/health")
    answer = connection.getresponse()
    answer.read()
    assert answer.status == 200, answer.status
    times.append(time.monotonic() - began)
    time.sleep(0.01)
times.sort()
print(json.dumps({"count": len(times), "median": times[len(times) // 2],
                  "p99": times[len(times) * 99 // 100], "max": times[-1]}))
"""


def http_request(method, path, body=None):
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\n"
    if body is not None:
        body = json.dumps(body)
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return (head + "\r\n" + (body or "")).encode()


def mixed_load():
    """Reads, searches and writes, each with the status it must have."""
    base = "/api/v1/databases/docs"
    rows = random_rows(7, 20, DIMENSION).tolist()
    load = [(http_request("GET", f"{base}/vectors/{i}"), 200) for i in range(20)]
    load += [(http_request("POST", base + "/search", {"data": row, "top_k": 5}), 200) for row in rows]
    load += [(http_request("POST", base + "/vectors", {"vector_id": 100 + i, "data": row}), 200)
             for i, row in enumerate(rows[:5])]
    load += [(http_request("GET", "/health"), 200), (http_request("GET", base + "/vectors/absent"), 404)]
    return load


def is_whole(answer):
    head, end, body = answer.partition(b"\r\n\r\n")
    if not end:
        return False
    at = head.lower().index(b"content-length:") + 15
    return len(body) >= int(head[at:].split(b"\r\n", 1)[0])


class Crowd:
    """All connections, on one selector."""

    def __init__(self, port):
        self.address = ("127.0.0.1", port)
        self.selector = selectors.DefaultSelector()
        self.load = mixed_load()
        self.answered, self.errors, self.cut_off = 0, [], 0
        self.slow = []

    def send_next(self, sock, state):
        state["i"] += 1
        state["got"] = b""
        sock.sendall(self.load[state["i"] % len(self.load)][0])

    def add_honest(self, number):
        sock = socket.create_connection(self.address, REQUEST_S)
        state = {"i": number * 7, "honest": True}
        self.selector.register(sock, selectors.EVENT_READ, state)
        self.send_next(sock, state)

    def add_slow(self, number):
        """Half of them in the middle of a header for ever, half in a body."""
        sock = socket.create_connection(self.address, REQUEST_S)
        head = b"POST /api/v1/databases/docs/search HTTP/1.1\r\nHost: x\r\n"
        body = b"Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
        sock.sendall(head + (body if number % 2 else b"X-A: "))
        self.selector.register(sock, selectors.EVENT_READ, {"number": number, "honest": False})
        self.slow.append(sock)

    def on_honest(self, sock, state):
        try:
            data = sock.recv(65536)
        except OSError as error:
            data, state["error"] = b"", repr(error)
        if not data:
            self.errors.append(state.get("error", "closed"))
            self.drop(sock)
            return
        state["got"] += data
        if not is_whole(state["got"]):
            return
        status = self.load[state["i"] % len(self.load)][1]
        if state["got"].startswith(b"HTTP/1.1 %d " % status):
            self.answered += 1
        else:
            self.errors.append(state["got"][:200])
        self.send_next(sock, state)

    def on_slow(self, sock, state):
        """Cut off; another one comes in its place."""
        try:
            if sock.recv(65536):
                return
        except OSError:
            pass
        self.cut_off += 1
        self.slow.remove(sock)
        self.drop(sock)
        self.add_slow(state["number"])

    def drop(self, sock):
        self.selector.unregister(sock)
        sock.close()

    def drip(self):
        for sock in self.slow:
            try:
                sock.send(b" ", socket.MSG_DONTWAIT)
            except OSError:
                pass  # on_slow() gets to know

    def run(self, seconds):
        end = time.monotonic() + seconds
        next_drip = 0
        while time.monotonic() < end:
            if time.monotonic() >= next_drip:
                self.drip()
                next_drip = time.monotonic() + DRIP_S
            for key, _ in self.selector.select(DRIP_S):
                (self.on_honest if key.data["honest"] else self.on_slow)(key.fileobj, key.data)

    def close(self):
        for key in list(self.selector.get_map().values()):
            self.drop(key.fileobj)
        self.selector.close()


@pytest.fixture
def many_files():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.limit(180)
def test_honest_clients_do_not_notice_those_that_hold_connections(daemons, many_files):
    daemon = daemons(server_max_connections=2 * (HONEST + SLOWLORIS),
                     server_request_timeout_seconds=TIMEOUT_S)
    daemon.create("docs", DIMENSION, durability="periodic")
    daemon.put_rows("docs", range(200), random_rows(1, 200, DIMENSION))
    # What threads keep for themselves is not what connections take.
    few = Crowd(daemon.port)
    for i in range(FEW):
        few.add_honest(i)
    few.run(1)
    few.close()
    assert few.answered > FEW and not few.errors, few.errors[:5]
    before = daemon.rss_anon()
    crowd = Crowd(daemon.port)
    for i in range(SLOWLORIS):
        crowd.add_slow(i)
    for i in range(HONEST):
        crowd.add_honest(i)
    with subprocess.Popen([sys.executable, "-c", PROBE, str(daemon.port), str(SECONDS - 1)],
                          stdout=subprocess.PIPE, text=True) as probe:
        crowd.run(SECONDS)
        during = daemon.rss_anon()
        health = json.loads(probe.communicate(timeout=REQUEST_S)[0])
    crowd.close()
    daemon.get("/health", root=True)
    print(f"{HONEST} clients beside {SLOWLORIS} slow ones, {SECONDS} s: {crowd.answered} answered,"
          f" {len(crowd.errors)} errors, {crowd.cut_off} cut off; /health: {health['count']} times,"
          f" median {health['median'] * 1e3:.1f} ms, p99 {health['p99'] * 1e3:.1f} ms, longest"
          f" {health['max'] * 1e3:.1f} ms; anonymous memory {before >> 10} KiB before,"
          f" {during >> 10} KiB during, {daemon.rss_anon() >> 10} KiB after")
    assert not crowd.errors, crowd.errors[:5]
    assert crowd.answered > HONEST
    # Each is cut off after the timeout and comes again, but for what the sweep and we add to it.
    assert crowd.cut_off >= SLOWLORIS
    if not SANITIZER:
        assert during - before < (HONEST + SLOWLORIS) * CONNECTION_BYTES
    if SLOW and not SANITIZER:
        assert health["p99"] < 0.1  # the longest is the scheduler's: there are more threads than cores

"""A listening socket that is passed in (LISTEN_FDS): nobody is refused while the daemon restarts."""
import collections
import http.client
import json
import pathlib
import socket
import subprocess
import threading
import time

import pytest

from harness import BIN, REQUEST_S, SLOW, START_S, clean_environment, scaled

ROUNDS = 30 if SLOW else scaled(5, 2)
SETTLED = 200 if SLOW else 20  # requests between two restarts
KEEP_ALIVE = 50  # requests of a client's connection, at most


def listen(address="127.0.0.1", family=socket.AF_INET):
    sock = socket.socket(family)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((address, 0))
    sock.listen(4096)
    return sock


@pytest.fixture
def socket_activated(daemons):
    with listen() as sock:
        yield daemons(listening=sock, server_port=1)  # the port is not looked at


def launch(*arguments, fd=None, variables=()):
    """The daemon to its end, with descriptor 3 and variables as given; $$ is its process id."""
    move = "" if fd is None else f" 3<&{fd}"
    line = "".join(f"export {v}; " for v in variables) + f'exec "$@"{move}'
    return subprocess.run(["/bin/bash", "-c", line, "launcher", str(BIN), *arguments], check=False,
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=START_S,
                          env=clean_environment(), pass_fds=[] if fd is None else [fd])


def test_the_socket_that_is_passed_in_is_the_one_that_is_served(socket_activated):
    daemon = socket_activated
    assert daemon.port == daemon.listening.getsockname()[1]
    daemon.get("/health", root=True)
    variables = pathlib.Path(f"/proc/{daemon.pid}/environ").read_bytes()
    assert b"LISTEN_FDS=1" in variables  # it did get it that way


def test_who_connects_while_the_daemon_is_away_waits_for_the_next(socket_activated):
    daemon = socket_activated
    daemon.create("docs", 2)
    daemon.stop()
    early = [socket.create_connection(("127.0.0.1", daemon.port), REQUEST_S) for _ in range(20)]
    for sock in early:
        sock.sendall(b"GET /api/v1/databases/docs HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    daemon.start()
    for sock in early:
        with sock:
            answer = http.client.HTTPResponse(sock)
            answer.begin()
            assert answer.status == 200 and json.loads(answer.read())["name"] == "docs"


class Client:
    """Sends one request after the other and counts what did not get its answer."""

    def __init__(self, daemon, number):
        self.port, self.number = daemon.port, number
        self.failed = collections.Counter()
        self.answered = 0

    def requests(self):
        """Reads and writes, and what they must answer."""
        k = 0
        while True:
            k += 1
            vector = {"vector_id": self.number * 10**6 + k, "data": [k % 7, self.number]}
            yield "POST", "/api/v1/databases/docs/vectors", json.dumps(vector), 201
            yield "POST", "/api/v1/databases/docs/search", '{"data":[1,2],"top_k":3}', 200
            yield "GET", "/health", None, 200

    def run(self, done, tick):
        connection, left = None, 0
        for method, path, body, status in self.requests():
            if done.is_set():
                break
            if left == 0:
                connection, left = http.client.HTTPConnection("127.0.0.1", self.port,
                                                              timeout=REQUEST_S), KEEP_ALIVE
            try:
                connection.request(method, path, body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                text = answer.read()
            except (OSError, http.client.HTTPException) as error:
                self.failed[f"{type(error).__name__} {path}"] += 1
                left = 0
                continue
            if answer.status == status:
                self.answered += 1
            else:
                self.failed[f"{answer.status} {path} {text[:80]}"] += 1
            left -= 1
            if answer.getheader("Connection", "").lower() == "close" or left == 0:
                connection.close()
                left = 0
            tick()
        if connection:
            connection.close()


@pytest.mark.limit(300)
def test_restarts_under_load_fail_no_request(socket_activated):
    daemon = socket_activated
    daemon.create("docs", 2)
    clients = [Client(daemon, i) for i in range(8)]
    done, moved = threading.Event(), threading.Condition()

    def tick():
        with moved:
            moved.notify_all()

    def restart():
        for _ in range(ROUNDS):
            goal = sum(c.answered for c in clients) + SETTLED
            with moved:
                assert moved.wait_for(lambda: sum(c.answered for c in clients) >= goal, REQUEST_S)
            daemon.stop()
            daemon.start()

    threads = [threading.Thread(target=c.run, args=(done, tick)) for c in clients]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    try:
        restart()
    finally:
        done.set()
        for thread in threads:
            thread.join()
    answered = sum(c.answered for c in clients)
    failed = sum((c.failed for c in clients), collections.Counter())
    print(f"{ROUNDS} restarts under 8 clients in {time.monotonic() - began:.1f} s: {answered} requests"
          f" answered, {sum(failed.values())} failed")
    assert not failed
    assert answered >= ROUNDS * SETTLED


def test_a_socket_for_another_process_is_not_taken(daemons):
    with listen() as sock:
        daemon = daemons(env={"LISTEN_PID": "1", "LISTEN_FDS": "1"})
        assert daemon.port != sock.getsockname()[1]
        daemon.get("/health", root=True)


def test_what_cannot_be_served_refuses_to_start(tmp_path):
    meant = "LISTEN_PID=$$"
    arguments = [f"--persistence-storage-path={tmp_path}/d", "--server-port=0"]
    with listen() as good, socket.socket() as silent, \
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        for fd, count in ((silent.fileno(), 1), (datagrams.fileno(), 1), (None, 1), (good.fileno(), 2)):
            done = launch(*arguments, fd=fd, variables=[meant, f"LISTEN_FDS={count}"])
            assert done.returncode == 78, (fd, count, done)
            assert "LISTEN_FDS" in done.stderr
            assert not (tmp_path / "d").exists()


def test_a_socket_beyond_loopback_needs_keys(daemons, tmp_path):
    """server.host says nothing about it."""
    with listen("0.0.0.0") as sock:
        done = launch(f"--persistence-storage-path={tmp_path}/d", fd=sock.fileno(),
                      variables=["LISTEN_PID=$$", "LISTEN_FDS=1"])
        assert done.returncode == 78, done
        assert "allow_insecure" in done.stderr and "0.0.0.0" in done.stderr
        daemons(listening=sock, server_allow_insecure=True).get("/health", root=True)

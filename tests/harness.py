"""The daemon as a test sees it: start, stop, kill, restart, talk.

Environment:
  JADEVECTORDB_BIN, JADEVECTORDB_CLI   programs; default build/release/, then bin/
  JADEVECTORDB_SLOW=1                  the long variants too
"""
import atexit
import base64
import ctypes
import http.client
import json
import math
import os
import pathlib
import re
import signal
import socket
import subprocess
import threading
import time
from fractions import Fraction

import numpy as np
import requests

TOP = pathlib.Path(__file__).resolve().parents[1]
SLOW = os.environ.get("JADEVECTORDB_SLOW", "") not in ("", "0")


def program(name, variable):
    if os.environ.get(variable):
        return pathlib.Path(os.environ[variable]).resolve()
    for folder in ("build/release", "bin"):
        if (TOP / folder / name).exists():
            return TOP / folder / name
    return TOP / "bin" / name


BIN = program("jadevectordb", "JADEVECTORDB_BIN")
CLI = program("jadevectordb-cli", "JADEVECTORDB_CLI")


def sanitizer_of(path):
    """"asan", "tsan" or None: which sanitizer the program was built with."""
    try:
        image = path.read_bytes()
    except OSError:
        return None
    return "tsan" if b"__tsan_init" in image else "asan" if b"__asan_init" in image else None


SANITIZER = sanitizer_of(BIN)
# Limits are for hangs, not for speed: generous, and more so where the build is slow.
TIME_SCALE = float(os.environ.get("JADEVECTORDB_TIME_SCALE", 8 if SANITIZER else 1))
START_S = 20 * TIME_SCALE
STOP_S = 20 * TIME_SCALE
REQUEST_S = 30 * TIME_SCALE

REPORT = re.compile(
    r"ERROR: (Address|Leak|Thread|Memory)Sanitizer|WARNING: ThreadSanitizer|runtime error: "
    r"|Assertion `.*' failed")


def scaled(count, least=1):
    """Fewer rounds where a sanitizer makes each of them slow."""
    return max(least, int(count / 5)) if SANITIZER else count


class Session(requests.Session):
    """Keep-alive, and no request without a time limit."""

    def request(self, *args, **kwargs):
        kwargs.setdefault("timeout", REQUEST_S)
        return super().request(*args, **kwargs)


def die_with_parent():
    """A test run that is killed leaves no daemon behind (PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def flags(options):
    """{"server_port": 0} -> ["--server-port=0"]"""
    text = {True: "true", False: "false"}
    return [f"--{key.replace('_', '-')}={text.get(value, value) if isinstance(value, bool) else value}"
            for key, value in options.items()]


def clean_environment(extra=None):
    env = {k: v for k, v in os.environ.items() if not k.startswith("JADEVECTORDB_")}
    env.setdefault("UBSAN_OPTIONS", "print_stacktrace=1")
    env.setdefault("TSAN_OPTIONS", "second_deadlock_stack=1")
    env.update(extra or {})
    return env


class Daemon:
    """One daemon on one directory.  Options are flags: Daemon(dir, persistence_max_open_files=5).

    start() must be called on the main thread (the daemon dies with the thread that started it).
    `listening`: a socket that is passed in as systemd does it.
    """

    every = []  # all of this test, for its report and its end

    def __init__(self, directory, env=None, listening=None, **options):
        self.directory = pathlib.Path(directory)
        self.options = {"persistence_storage_path": self.directory, "server_port": 0, **options}
        self.env = env
        self.listening = listening
        self.process = None
        self.port = None
        self.session = None
        self.lines = []
        self._changed = threading.Condition()
        self._reader = None
        Daemon.every.append(self)

    # ---- life ----

    def start(self, wait=True, **more):
        assert self.process is None, "already running"
        self.options.update(more)
        self._log_begin = len(self.lines)
        self._ended = False
        self.process = subprocess.Popen(
            [*self._launcher(), str(BIN), *flags(self.options)], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=clean_environment(self.env),
            preexec_fn=die_with_parent,
            pass_fds=[self.listening.fileno()] if self.listening else [])
        self._reader = threading.Thread(target=self._read_log, args=(self.process.stdout,),
                                        daemon=True)
        self._reader.start()
        if wait:
            line = self.wait_log(r'Listening on (https?://[^\s"]+)', START_S)
            self.port = int(line.group(1).rstrip("/").rsplit(":", 1)[1])
            self.session = Session()
        return self

    def _launcher(self):
        """The protocol wants the descriptor to be 3 and its own process id in a variable."""
        if not self.listening:
            return []
        fd = self.listening.fileno()
        move = f" 3<&{fd} {fd}<&-" if fd != 3 else ""
        return ["/bin/bash", "-c", f'export LISTEN_FDS=1 LISTEN_PID=$$; exec "$@"{move}', "launcher"]

    def _read_log(self, pipe):
        for raw in pipe:
            with self._changed:
                self.lines.append(raw.decode("utf-8", "replace").rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        pipe.close()

    def wait_log(self, pattern, timeout=None):
        """The match of the first line since the last start that matches; fails if the log ends."""
        found = []

        def look():
            for line in self.lines[self._log_begin:]:
                match = re.search(pattern, line)
                if match:
                    found.append(match)
                    return True
            return self._ended

        with self._changed:
            self._changed.wait_for(look, timeout or 20 * TIME_SCALE)
        if not found:
            raise AssertionError(f"no log line matches {pattern!r}"
                                 + (" and the log has ended" if self._ended else ""))
        return found[0]

    def log(self, since_start=False):
        with self._changed:
            return "\n".join(self.lines[self._log_begin if since_start else 0:])

    @property
    def pid(self):
        return self.process.pid

    def running(self):
        return self.process is not None and self.process.poll() is None

    def signal(self, number):
        self.process.send_signal(number)

    def reload(self):
        """SIGHUP, and wait until it has been seen to."""
        def count():
            return sum("Configuration reloaded" in line for line in self.lines)

        with self._changed:
            before = count()
            self.signal(signal.SIGHUP)
            assert self._changed.wait_for(lambda: count() > before, START_S), "no answer to SIGHUP"

    def _collect(self, timeout):
        """Wait for the process and its log to end; its exit code (negative: a signal)."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            self._reader.join(5)
            self.process = None
            raise AssertionError(f"the daemon did not end within {timeout:.0f} s") from None
        self._reader.join(5)
        self.process = None
        if self.session:
            self.session.close()
        report = REPORT.search(self.log(since_start=True))
        assert not report, f"the daemon's log holds a report: {report.group(0)}"
        return code

    def wait_exit(self, timeout=None):
        return self._collect(timeout or STOP_S)

    def stop(self, timeout=None):
        """SIGTERM; it must end by itself, with 0."""
        if self.process is None:
            return
        self.signal(signal.SIGTERM)
        code = self._collect(timeout or STOP_S)
        assert code == 0, f"exit code {code} after SIGTERM"

    def kill(self):
        """kill -9"""
        self.signal(signal.SIGKILL)
        code = self._collect(STOP_S)
        assert code == -signal.SIGKILL, f"the daemon had ended by itself with {code}"

    def restart(self, kill=False, **more):
        """Stop or kill and start again, on the same port unless `server_port` says otherwise."""
        self.kill() if kill else self.stop()
        return self.start(**{"server_port": self.port, **more})

    def discard(self):
        """End it, whatever it takes; says nothing."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self._reader.join(5)
            self.process = None

    # ---- talk ----

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    @property
    def api(self):
        return self.url + "/api/v1"

    def request(self, method, path, status=None, root=False, **kwargs):
        """`path` is below /api/v1 (root=True: below /).  `status`: what it must be."""
        response = self.session.request(method, (self.url if root else self.api) + path, **kwargs)
        if status is not None:
            wanted = status if isinstance(status, tuple) else (status,)
            assert response.status_code in wanted, \
                f"{method} {path}: {response.status_code} {response.text[:500]}"
        return response

    def get(self, path, status=200, **kwargs):
        return self.request("GET", path, status, **kwargs)

    def post(self, path, body=None, status=(200, 201), **kwargs):
        if body is not None:
            kwargs["json"] = body
        return self.request("POST", path, status, **kwargs)

    def put(self, path, body=None, status=(200, 201), **kwargs):
        if body is not None:
            kwargs["json"] = body
        return self.request("PUT", path, status, **kwargs)

    def delete(self, path, status=200, **kwargs):
        return self.request("DELETE", path, status, **kwargs)

    def create(self, name, dimension, metric="euclidean", **options):
        return self.post(f"/databases/{name}",
                         {"dimension": dimension, "distance_metric": metric, **options}, 201).json()

    def put_rows(self, name, ids, rows, metadata=None, text=False):
        """A batch of float32 rows; as base64, or with text=True as JSON numbers."""
        vectors = []
        for i, (vector_id, row) in enumerate(zip(ids, rows)):
            one = {"vector_id": plain(vector_id)}
            if text:
                one["data"] = [float(x) for x in np.asarray(row, np.float32)]
            else:
                one["data_base64"] = b64(row)
            if metadata is not None:
                one["metadata"] = metadata[i]
            vectors.append(one)
        return self.post(f"/databases/{name}/vectors/batch", {"vectors": vectors}).json()

    def pages(self, name, limit=1000, include="data,metadata", **query):
        """The replies of a listing, page by page, to its end."""
        cursor = None
        while True:
            params = {"limit": limit, "include": include, **query}
            if cursor is not None:
                params["cursor"] = cursor
            page = self.get(f"/databases/{name}/vectors", params=params).json()
            yield page
            cursor = page["next"]
            if cursor is None:
                return

    def rows(self, name, **query):
        """{id: (bytes of the float32 row, metadata)} of a whole database."""
        found = {}
        for page in self.pages(name, **query):
            for row in page["vectors"]:
                assert row["vector_id"] not in found, f"{row['vector_id']!r} is listed twice"
                found[row["vector_id"]] = (bits(row["data"]), row["metadata"])
        return found

    def count(self, name):
        return self.post(f"/databases/{name}/count", {}).json()["count"]

    def search(self, name, data, top_k=10, **more):
        """The results of a search by a float32 row or a list of numbers."""
        body = {"data": [float(x) for x in data], "top_k": top_k, **more}
        return self.post(f"/databases/{name}/search", body, 200).json()["results"]

    def wait_index(self, name):
        """What the index says of itself once nothing waits to be linked; of an open database."""
        deadline = time.monotonic() + 60 * TIME_SCALE
        while True:
            index = self.get(f"/databases/{name}/stats").json()["index"]
            if index["state"] == "ready":
                return index
            assert time.monotonic() < deadline, f"the index of {name} does not become ready: {index}"
            time.sleep(0.02)

    def stats(self):
        return self.get("/storage/stats").json()

    def metrics(self):
        return self.get("/metrics", root=True).text

    def rss_anon(self):
        """Anonymous memory of the process, in bytes."""
        text = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"RssAnon:\s+(\d+) kB", text).group(1)) * 1024

    def connect(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=REQUEST_S)

    def raw(self, data, methods=("GET",), timeout=None):
        """Send bytes as they are; read one answer for each method of `methods`."""
        with socket.create_connection(("127.0.0.1", self.port), timeout or REQUEST_S) as sock:
            sock.sendall(data)
            return read_answers(sock, methods)


class Kept:
    """A socket's stream that http.client cannot close between two pipelined answers."""

    def __init__(self, sock):
        self.file = sock.makefile("rb")

    def makefile(self, *_):
        return self

    def __getattr__(self, name):
        return getattr(self.file, name)

    def close(self):
        pass

    def flush(self):
        pass


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        return json.loads(self.body)


def read_answers(sock, methods):
    stream, answers = Kept(sock), []
    for method in methods:
        response = http.client.HTTPResponse(stream, method=method)
        response.begin()
        answers.append(Answer(response.status, response.headers, response.read()))
    stream.file.close()
    return answers


@atexit.register
def _discard_all():
    for daemon in Daemon.every:
        daemon.discard()


# ---- numbers ----

def plain(value):
    return value.item() if isinstance(value, np.generic) else value


def b64(row):
    return base64.b64encode(np.ascontiguousarray(row, "<f4").tobytes()).decode()


def bits(numbers):
    """The bytes of a JSON array of numbers as float32 (each is the text of one float32)."""
    return np.array(numbers, np.float64).astype("<f4").tobytes()


def random_rows(seed, count, dimension):
    return np.random.default_rng(seed).standard_normal((count, dimension), np.float32)


def nearest_float32(text):
    """The float32 nearest to a decimal text, ties to even, in exact arithmetic; None: too large.

    np.float32(text) goes through a double and so rounds twice.
    """
    negative = text.lstrip().startswith("-")
    value = abs(Fraction(text))
    if value == 0:
        return np.float32(-0.0 if negative else 0.0)
    exponent = value.numerator.bit_length() - value.denominator.bit_length()
    if Fraction(2) ** exponent > value:
        exponent -= 1
    quantum = max(exponent - 23, -149)  # the lowest bit of a float32 of this size
    mantissa = round(value / Fraction(2) ** quantum)  # Fraction rounds halves to even
    if mantissa * Fraction(2) ** quantum >= Fraction(2) ** 128:
        return None
    exact = math.ldexp(mantissa, quantum)
    return np.float32(-exact if negative else exact)


def distances(metric, query, rows):
    """float64 distances of float32 rows, as the contract defines them."""
    q = np.asarray(query, np.float32).astype(np.float64)
    x = np.asarray(rows, np.float32).astype(np.float64)
    if metric == "euclidean":
        return np.sqrt(((x - q) ** 2).sum(axis=1))
    if metric == "manhattan":
        return np.abs(x - q).sum(axis=1)
    if metric == "dot_product":
        return -(x @ q)
    norms = np.sqrt((x * x).sum(axis=1)) * np.sqrt((q * q).sum())
    dots = x @ q
    return 1 - np.divide(dots, norms, out=np.zeros_like(dots), where=norms > 0)


def score_of(metric, distance):
    if metric == "cosine":
        return 1 - distance
    return -distance if metric == "dot_product" else 1 / (1 + distance)


def id_order(vector_id):
    """Integers before strings, each ascending (strings by bytes)."""
    if isinstance(vector_id, int):
        return (0, vector_id, b"")
    return (1, 0, vector_id.encode())


def run_threads(functions, timeout=120):
    """Run all at once, wait for all; the first failure of any is raised here."""
    failures = []

    def guarded(function):
        try:
            function()
        except BaseException as failure:  # pylint: disable=broad-except
            failures.append(failure)

    threads = [threading.Thread(target=guarded, args=(f,), daemon=True) for f in functions]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + timeout * TIME_SCALE
    for thread in threads:
        thread.join(max(0, deadline - time.monotonic()))
    if failures:
        raise failures[0]
    assert not any(t.is_alive() for t in threads), "a client hangs"

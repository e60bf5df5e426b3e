"""The control of count_shim.c, and daemons that run under it.

A control is a file that the shim maps: armed or read while the daemon runs, and readable after it
was killed.  Case is one run: a directory of its own, a daemon, what it did, a second daemon.
"""
import http.client
import json
import mmap
import pathlib
import shutil
import struct
import time

import pytest

import faults
from harness import REQUEST_S, SANITIZER, START_S, Daemon

LIBRARY = faults.TOOLS / "count_shim.so"

# As in count_shim.c.
OPEN, READ, WRITE, SYNC, TRUNCATE, ALLOCATE, RENAME, UNLINK, MMAP, CLOSE = (
    1 << i for i in range(10))
KINDS = {"open": OPEN, "read": READ, "write": WRITE, "fsync": SYNC, "ftruncate": TRUNCATE,
         "fallocate": ALLOCATE, "rename": RENAME, "unlink": UNLINK, "mmap": MMAP}
PERSISTENCE = WRITE | SYNC | TRUNCATE | ALLOCATE | RENAME | UNLINK
COUNT, KILL, KILL_HALF, FAIL, SHORT = range(5)
CONTROL_BYTES, HITS_MAX, NAME_BYTES = 64 * 1024, 256, 96
LOADED = 0x4d494853
HEAD = struct.Struct("<IIIIQIIQQ")

needs_shim = pytest.mark.skipif(
    not LIBRARY.exists(), reason=f"{LIBRARY} is not built: make fault-tools")


class Shim:
    def __init__(self, directory, control):
        self.directory = pathlib.Path(directory)
        self.path = pathlib.Path(control)
        self.path.write_bytes(bytes(CONTROL_BYTES))
        with open(self.path, "r+b") as file:
            self.map = mmap.mmap(file.fileno(), CONTROL_BYTES)

    def close(self):
        self.map.close()
        self.path.unlink()

    def environment(self):
        env = {"SHIM_DIR": str(self.directory), "SHIM_CONTROL": str(self.path),
               "LD_PRELOAD": str(LIBRARY)}
        if SANITIZER == "asan":
            env["ASAN_OPTIONS"] = "verify_asan_link_order=0:" + env.get("ASAN_OPTIONS", "")
        return env

    def _head(self):
        return HEAD.unpack_from(self.map, 0)

    def arm(self, kinds, at=0, action=COUNT, fail_errno=0, forever=False):
        """From now on; `at` 0 only counts."""
        self.disarm()
        HEAD.pack_into(self.map, 0, self._head()[0], 0, action, fail_errno, at, forever, 0, 0, 0)
        struct.pack_into("<I", self.map, 4, kinds)

    def disarm(self):
        struct.pack_into("<I", self.map, 4, 0)

    @property
    def loaded(self):
        return self._head()[0] == LOADED

    @property
    def calls(self):
        return self._head()[7]

    @property
    def hits(self):
        """[(kind, end of the file's path)] of those that did what they were armed for."""
        found = []
        for i in range(min(self._head()[8], HITS_MAX)):
            at = HEAD.size + i * (4 + NAME_BYTES)
            kind, = struct.unpack_from("<I", self.map, at)
            name = self.map[at + 4:at + 4 + NAME_BYTES].split(b"\0")[0].decode()
            found.append((kind, name))
        return found


def kind_name(kind):
    return next((name for name, value in KINDS.items() if value == kind), str(kind))


class Gone(Exception):
    """The daemon ended before it answered."""


class Connection:
    """Requests one after the other, on one connection, quickly; Gone if the daemon is."""

    def __init__(self, port):
        self.http = http.client.HTTPConnection("127.0.0.1", port, timeout=REQUEST_S)

    def __call__(self, method, path, body=None):
        """(status, JSON of the answer)"""
        try:
            self.http.request(method, "/api/v1" + path, None if body is None else json.dumps(body),
                              {"Content-Type": "application/json"} if body is not None else {})
            answer = self.http.getresponse()
            text = answer.read()
        except TimeoutError:
            raise
        except (OSError, http.client.HTTPException) as error:
            raise Gone(f"{method} {path}: {error!r}") from None
        return answer.status, json.loads(text) if text else None

    def close(self):
        self.http.close()


class Case:
    """A directory of its own with daemons on it, the first of them under the shim."""

    def __init__(self, folder, base=None, **options):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True)
        self.data = self.folder / "data"
        if base:
            shutil.copytree(base, self.data)
        else:
            self.data.mkdir()
        self.shim = Shim(self.data, self.folder / "control")
        self.options = options
        self.started_s = 0
        self.daemons = []
        self.http = None

    def start(self, shimmed=True):
        env = self.shim.environment() if shimmed else None
        daemon = Daemon(self.data, env=env, server_threads=1, **self.options)
        Daemon.every.remove(daemon)
        self.daemons.append(daemon)
        daemon.start(wait=False)
        return daemon

    def serve(self, shimmed=True):
        """A connection to a running daemon; Gone if it ended instead."""
        begun = time.monotonic()
        daemon = self.start(shimmed)
        try:
            url = daemon.wait_log(r"Listening on http://[0-9.]+:(\d+)", START_S)
        except AssertionError:
            raise Gone("it did not start") from None
        self.started_s = time.monotonic() - begun
        assert not shimmed or self.shim.loaded, "the shim is not in the daemon"
        self.http = Connection(int(url.group(1)))
        return self.http

    @property
    def daemon(self):
        return self.daemons[-1]

    def log(self):
        return "\n---- the next daemon\n".join(daemon.log() for daemon in self.daemons)

    def kill(self):
        if self.http:
            self.http.close()
        self.daemon.kill()

    def stop(self):
        """SIGTERM; the exit code."""
        if self.http:
            self.http.close()
        self.daemon.process.terminate()
        return self.daemon.wait_exit()

    def remove(self):
        for daemon in self.daemons:
            daemon.discard()
        self.shim.close()
        shutil.rmtree(self.folder)

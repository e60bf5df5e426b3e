"""The power goes off at any moment: what was acknowledged is there, the rest wholly or not at all.

Clients write to a daemon on record_fs; from the log of that run power_loss.py makes directories as a
power cut could have left them, and power_judge.py starts the daemon on each.  A failure keeps the
log and prints the command that makes and judges the same image again.

FAULT_SCALE=4: 1200 images of four workloads, half of them with strict POSIX names, and 200 of power
cuts during recovery.
"""
import ctypes
import json
import os
import pathlib
import random
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import warnings

import pytest

import faults
import harness
import power_judge
import power_loss
from harness import Daemon
from power_judge import Known, Talk

RECORD_FS = faults.TOOLS / "record_fs"
JUDGE = pathlib.Path(power_judge.__file__)
SYNC_DELAY_US = 600
pytestmark = [
    pytest.mark.limit(120 + 60 * faults.SCALE),
    pytest.mark.skipif(not os.access("/dev/fuse", os.R_OK | os.W_OK),
                       reason="power loss: /dev/fuse is not there for us"),
]

# Weights of the operations; see power_judge.py.
WORKLOADS = {
    "put": {"databases": 3, "operations": 150, "kills": 1, "ids": 60, "durable_directory": False,
            "options": {}, "mix": {"put": 20, "delete": 1, "flush": 1}},
    "batch and delete": {
        "databases": 8, "operations": 60, "kills": 0, "ids": 400, "durable_directory": True,
        "options": {"persistence_max_open_files": 5, "persistence_wal_sync_interval_ms": 50},
        "mix": {"batch": 10, "put": 2, "delete": 6, "flush": 1}},
    "checkpoint and compact": {
        "databases": 3, "operations": 90, "kills": 1, "ids": 300, "durable_directory": True,
        "options": {"persistence_flush_interval_seconds": 1, "persistence_mode": "high_throughput"},
        "mix": {"batch": 6, "put": 4, "delete": 5, "flush": 5, "flush all": 2, "compact": 3}},
    "create, drop and restore": {
        "databases": 7, "operations": 60, "kills": 1, "ids": 80, "durable_directory": True,
        "options": {"persistence_max_open_files": 5},
        "mix": {"drop": 3, "restore": 3, "batch": 4, "put": 4, "delete": 2, "flush": 1,
                "compact": 1}},
}


def syncfs(fd):
    """Makes the kernel write back what maps hold; no barrier for record_fs."""
    ctypes.CDLL(None).syncfs(fd)


class Recording:
    """A mounted record_fs, with a thread that makes dirty pages reach it at odd moments."""

    def __init__(self, seed):
        self.top = pathlib.Path(power_judge.scratch())
        self.log, self.backing, self.mount = (self.top / n for n in ("log", "backing", "mount"))
        self.backing.mkdir()
        self.mount.mkdir()
        self.dice = random.Random(f"jitter/{seed}")
        self.process = self.marks = None
        self.ended = threading.Event()
        self.jitter = threading.Thread(target=self._shake)

    @property
    def directory(self):
        return self.mount / "data"

    def __enter__(self):
        self.process = subprocess.Popen(
            [RECORD_FS, self.log, self.backing, self.mount, str(SYNC_DELAY_US)],
            stdout=subprocess.PIPE, preexec_fn=lambda: ctypes.CDLL(None).prctl(1, 15))
        assert self.process.stdout.readline() == b"serving\n", "record_fs does not serve"
        self.marks = os.open(self.mount / ".mark", os.O_WRONLY)
        self.jitter.start()
        return self

    def _shake(self):
        fd = os.open(self.mount, os.O_RDONLY | os.O_DIRECTORY)
        while not self.ended.wait(self.dice.uniform(.0005, .003)):
            syncfs(fd)
        os.close(fd)

    def mark(self, kind, name, what=None):
        text = json.dumps([kind, name, what]).encode()
        assert os.write(self.marks, text) == len(text), "a mark must be one write"

    def __exit__(self, *_):
        self.ended.set()
        self.jitter.join()
        os.close(self.marks)
        self.process.terminate()
        self.process.wait(20)
        self.process.stdout.close()

    def remove(self):
        shutil.rmtree(self.top, ignore_errors=True)


class Client:
    """Writes to its own databases, one request after the other, and marks each."""

    def __init__(self, recording, workload, names, seed):
        self.recording = recording
        self.workload = workload
        self.known = {name: Known() for name in names}
        self.dice = random.Random(seed)
        self.stamp = int(names[0].rsplit("-", 1)[1]) * 1_000_000 + 1
        self.left = workload["operations"]
        self.refused = []

    def some_ids(self, count):
        return [n if n % 3 else f"user-{n:04}"
                for n in self.dice.sample(range(self.workload["ids"]), count)]

    def next_op(self, name):
        state, dice = self.known[name].newest(), self.dice
        mix = self.workload["mix"]
        kind = dice.choices(list(mix), list(mix.values()))[0]
        self.stamp += 1
        dimension = state["dimension"] if state else dice.choice((3, 8, 24))
        if kind == "restore":
            return ["restore", dimension, self.some_ids(dice.choice((1, 20))), self.stamp]
        if state is None:
            return ["create", dimension, dice.choice(("synced", "synced", "periodic"))]
        how = [dice.choice(("periodic", "synced"))] if dice.random() < .2 else []
        if kind == "put":
            return ["put", *self.some_ids(1), self.stamp, *how]
        if kind == "batch":
            return ["batch", self.some_ids(dice.choice((2, 5, 20, 60))), self.stamp, *how]
        if kind == "delete":
            return ["delete", self.some_ids(dice.choice((1, 3, 30))), *how]
        return [kind]

    def run(self, daemon, halted, progress):
        """Until all is done, or the daemon is killed."""
        talk = Talk(daemon)
        names = list(self.known)
        while self.left and not halted.is_set():
            name = self.dice.choice(names)
            known, op = self.known[name], self.next_op(name)
            dimension = (known.newest() or {}).get("dimension")
            self.recording.mark("begin", name, op)
            known.begin(op)
            try:
                status, answer = talk(*power_judge.request_of(name, op, dimension))
            except OSError:
                assert halted.is_set(), "the daemon hung up"
                return
            except power_judge.HTTP_ERRORS:
                assert halted.is_set(), "the daemon hung up"
                return
            if op[0] == "compact" and status in power_judge.NOT_YET:
                self.refused.append(status)
            else:
                assert status in (200, 201), f"{name}: {op}: {status} {answer}"
            self.recording.mark("answered", name)
            known.answered()
            self.left -= 1
            progress()


def settle(recording, daemon, known, after_kill):
    """What a start shows is what counts from then on."""
    talk = Talk(daemon)
    for name, what in known.items():
        found = power_judge.read_state(talk, name)
        allowed = what.states_after_kill() if after_kill else what.states()
        assert found in allowed, f"{name} after a kill -9: {power_judge.difference(found, what)}"
        what.settle(found)
        recording.mark("settle", name, what.dump()["sure"])
    talk.close()


def work(recording, workload, clients, seed):
    """All operations of the clients, with kill -9 and a start now and then in between."""
    dice = random.Random(f"kills/{seed}")
    daemon = Daemon(recording.directory, **workload["options"]).start()
    for kills_left in reversed(range(workload["kills"] + 1)):
        halted, counted = threading.Event(), threading.Semaphore(0)
        todo = sum(client.left for client in clients)
        share = int(todo * dice.uniform(.3, .7)) if kills_left else todo
        threads = [(lambda c=c: c.run(daemon, halted, counted.release)) for c in clients]

        def end():
            for _ in range(share):
                if not counted.acquire(timeout=30 * harness.TIME_SCALE):
                    break
            halted.set()
            daemon.kill()

        if kills_left:
            harness.run_threads([*threads, end])
            daemon = Daemon(recording.directory, **workload["options"]).start()
            for client in clients:
                settle(recording, daemon, client.known, after_kill=True)
        else:
            harness.run_threads(threads)
    daemon.stop() if dice.random() < .5 else daemon.kill()
    refused = [status for client in clients for status in client.refused]
    if refused:
        warnings.warn(f"{len(refused)} requests to compact were refused with {set(refused)}")


def record(name, seed):
    """One run of a workload; its Recording."""
    workload = WORKLOADS[name]
    recording = Recording(seed)
    if workload["durable_directory"]:
        (recording.backing / "data").mkdir()
    with recording:
        recording.mark("options", None, workload["options"])
        names = [f"db-{i}" for i in range(workload["databases"])]
        count = 4 if len(names) > 4 else len(names)
        clients = [Client(recording, workload, names[i::count], f"{seed}/{i}")
                   for i in range(count)]
        work(recording, workload, clients, seed)
    return recording


def judge(name, recording, seed, images):
    """Both models at once, each in a process of its own; fails with the way to see it again."""
    runs, reports, judged = [], [], 0
    for model, count in (("ext4", images // 2), ("strict", images - images // 2)):
        command = [sys.executable, JUDGE, recording.log, "--model", model, "--seed", str(seed),
                   "--images", str(count)]
        runs.append((model, subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, preexec_fn=harness.die_with_parent,
            env={**os.environ, "JADEVECTORDB_BIN": str(harness.BIN)})))
    for model, process in runs:
        lines = [json.loads(line) for line in process.communicate()[0].splitlines()]
        assert lines and "judged" in lines[-1], f"{name}: the judge of {model} broke off"
        judged += lines[-1]["judged"]
        reports += [(model, report) for report in lines[:-1]]
    if reports:
        pytest.fail(failure(name, recording, seed, judged, reports), pytrace=False)
    return judged


def failure(name, recording, seed, judged, reports):
    kept = pathlib.Path(tempfile.mkdtemp(prefix="jadevectordb-power-loss-"))
    shutil.copy(recording.log, kept / "log")
    text = [f"{name}, seed {seed}: {len(reports)} of {judged} images are wrong"]
    for model, report in reports[:5]:
        again = [f"JADEVECTORDB_BIN={harness.BIN}", sys.executable, str(JUDGE), str(kept / "log"),
                 "--model", model, "--cut", str(report["cut"]), "--image", str(report["image"]),
                 "--keep", str(kept / f"image-{report['cut']}-{report['image']}")]
        text += [f"\n{model}, cut {report['cut']}, {report['policy']}:", report["complaint"],
                 "again: env " + shlex.join(again)]
    return "\n".join(text)


@pytest.fixture(scope="module")
def recordings():
    """Of each workload one, made when it is needed first."""
    made = {}

    def get(name, number=0):
        seed = f"{faults.SEED}/{name}/{number}"
        if seed not in made:
            made[seed] = record(name, seed)
        return made[seed], seed

    yield get
    for recording in made.values():
        recording.remove()


@pytest.fixture
def say(capfd):
    """A line of figures that is seen though the test passes."""
    def line(text):
        with capfd.disabled():
            print(f"\n  {text}", end=" ")
    return line


IMAGES_OF_A_RECORDING = 150


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_power_cut_loses_nothing_that_was_acknowledged(name, recordings, say):
    left, number, judged = faults.count(75, least=4), 0, 0
    while left:
        images = min(left, IMAGES_OF_A_RECORDING)
        recording, seed = recordings(name, number)
        judged += judge(name, recording, number, images)
        left -= images
        number += 1
    say(f"{name}: {judged} images of {number} recordings, none wrong")

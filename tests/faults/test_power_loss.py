"""The power goes off at any moment: what was acknowledged is there, the rest wholly or not at all.

Clients write to a daemon on record_fs; from the log of that run power_loss.py makes directories as a
power cut could have left them, and power_judge.py starts the daemon on each.  A failure keeps the
log and prints the command that makes and judges the same image again.

FAULT_SCALE=2: 1200 images of four workloads, half of them with strict POSIX names, and 200 of power
cuts during recovery.
"""
import ctypes
import json
import mmap
import os
import pathlib
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

import pytest

import faults
import harness
import power_judge
import power_loss
import shim
from harness import Daemon
from power_judge import Known, Talk

RECORD_FS = faults.TOOLS / "record_fs"
JUDGE = pathlib.Path(power_judge.__file__)
SYNC_DELAY_US = 600
CLIENTS = 4
pytestmark = [
    pytest.mark.limit(120 + 60 * faults.SCALE),
    pytest.mark.skipif(not os.access("/dev/fuse", os.R_OK | os.W_OK),
                       reason="power loss: /dev/fuse is not there for us"),
]

# `parts`: so many clients share the ids of a database; else each client has databases of its own.
# "pause_s": each client rests once, so long that what it wrote must be durable (`periodic` too), while
# others go on.  The numbers of "mix" are the weights of the operations; see power_judge.py.
WORKLOADS = {
    "put": {
        "databases": 2, "parts": 2, "operations": 120, "kills": 2, "ids": 60,
        "durable_directory": False,
        "options": {}, "mix": {"put": 20, "delete": 1, "flush": 1}},
    "batch and delete": {
        "databases": 8, "parts": 1, "operations": 60, "kills": 0, "ids": 400, "durable_directory": True,
        "options": {"persistence_wal_sync_interval_ms": 50},
        "pause_s": 1.5,
        "mix": {"batch": 10, "put": 2, "delete": 6, "flush": 1}},
    "checkpoint and compact": {
        "databases": 2, "parts": 2, "operations": 80, "kills": 3, "ids": 300,
        "durable_directory": True,
        "options": {"persistence_flush_interval_seconds": 1, "persistence_mode": "high_throughput"},
        "mix": {"batch": 6, "put": 4, "delete": 5, "flush": 5, "flush all": 2, "compact": 3}},
    # Rows become linked in the background; whatever of that is in the file is a hint.
    "linked": {
        "databases": 2, "parts": 2, "operations": 90, "kills": 2, "ids": 560,
        "durable_directory": True, "index": "hnsw", "pause_s": 1.2,
        "options": {"persistence_flush_interval_seconds": 1},
        "mix": {"batch": 10, "put": 2, "delete": 2, "flush": 4, "flush all": 1, "compact": 1}},
    "create, drop and restore": {
        "databases": 7, "parts": 1, "operations": 60, "kills": 1, "ids": 80, "durable_directory": True,
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
        text = json.dumps([kind, name, what, round(time.monotonic() * 1000)]).encode()
        assert os.write(self.marks, text) == len(text), "a mark must be one write"

    def __exit__(self, failure, *_):
        self.ended.set()
        self.jitter.join()
        os.close(self.marks)
        self.process.terminate()
        self.process.wait(20)
        self.process.stdout.close()
        if failure:
            self.remove()

    def remove(self):
        shutil.rmtree(self.top, ignore_errors=True)


class Client:
    """Writes to its own databases, one request after the other, and marks each."""

    def __init__(self, recording, workload, known, seed, first_stamp, number=0):
        self.recording = recording
        self.workload = workload
        self.known = known  # by name
        self.dice = random.Random(seed)
        self.stamp = first_stamp
        self.left = workload["operations"]
        self.rest_at = self.left * (number + 1) // (CLIENTS + 1)

    def some_ids(self, name, count):
        part, parts = map(int, name.split("#")[1].split("/")) if "#" in name else (0, 1)
        return [power_judge.id_of(number)
                for number in self.dice.sample(range(part, self.workload["ids"], parts), count)]

    def next_op(self, name):
        state, dice = self.known[name].newest(), self.dice
        mix = self.workload["mix"]
        kind = dice.choices(list(mix), list(mix.values()))[0]
        self.stamp += 1
        dimension = state["dimension"] if state else dice.choice((3, 8, 24))
        if kind == "restore":
            return ["restore", dimension, self.some_ids(name, dice.choice((1, 20))), self.stamp]
        if state is None:
            return ["create", dimension, dice.choice(("synced", "synced", "periodic"))]
        how = [dice.choice(("periodic", "synced"))] if dice.random() < .2 else []
        if kind == "put":
            return ["put", *self.some_ids(name, 1), self.stamp, *how]
        if kind == "batch":
            return ["batch", self.some_ids(name, dice.choice((2, 5, 20, 60))), self.stamp, *how]
        if kind == "delete":
            return ["delete", self.some_ids(name, dice.choice((1, 3, 30))), *how]
        return [kind]

    def run(self, daemon, dying, progress):
        """Until all is done, or the daemon has gone, which it must not before `dying` is set."""
        talk = Talk(daemon)
        names = list(self.known)
        while self.left:
            name = self.dice.choice(names)
            known, op = self.known[name], self.next_op(name)
            dimension = (known.newest() or {}).get("dimension")
            self.recording.mark("begin", name, op)
            known.begin(op)
            try:
                status, answer = talk(*power_judge.request_of(name, op, dimension))
            except power_judge.BROKEN_OFF:
                assert dying.is_set(), "the daemon hung up"
                return
            assert status in (200, 201), f"{name}: {op}: {status} {answer}"
            self.recording.mark("answered", name)
            known.answered()
            self.left -= 1
            progress()
            if self.left == self.rest_at:
                time.sleep(self.workload.get("pause_s", 0))


def settle(recording, daemon, known, after_kill):
    """What a start shows is what counts from then on."""
    talk = Talk(daemon)
    found = {name: power_judge.read_state(talk, name)
             for name in {power_judge.database_of(name) for name in known}}
    for name, what in known.items():
        part = power_judge.part_of(name, found[power_judge.database_of(name)])
        allowed = what.states_after_kill() if after_kill else what.states()
        assert part in allowed, f"{name} after a start: {power_judge.difference(part, what)}"
        what.settle(part)
        recording.mark("settle", name, what.dump()["sure"])
    talk.close()


class Killer:
    """Starts daemons that end by kill -9 instead of one of their calls."""

    def __init__(self, recording, options, dice):
        self.shim = shim.Shim(recording.directory, recording.top / "control")
        self.recording, self.options, self.dice = recording, options, dice

    def start(self):
        return Daemon(self.recording.directory, env=self.shim.environment(),
                      **self.options).start()

    def arm(self):
        """Soon: most often instead of a sync, when what it would cover has just been written."""
        kinds = shim.SYNC if self.dice.random() < .7 else shim.PERSISTENCE
        self.shim.arm(kinds, self.dice.randint(1, 12), shim.KILL)

    def collect(self, daemon):
        assert daemon.wait_exit() == -signal.SIGKILL, "the daemon was not killed"
        self.shim.disarm()


def work(recording, workload, clients, seed):
    """All operations of the clients, with kill -9 and a start now and then in between."""
    dice = random.Random(f"kills/{seed}")
    killer = Killer(recording, workload["options"], dice)
    daemon = killer.start()
    if workload["parts"] > 1:
        make_shared(recording, daemon, clients)
    for kills_left in reversed(range(workload["kills"] + 1)):
        dying, counted = threading.Event(), threading.Semaphore(0)
        todo = sum(client.left for client in clients)
        share = int(todo * dice.uniform(.1, .6)) if kills_left else todo
        threads = [(lambda c=c: c.run(daemon, dying, counted.release)) for c in clients]

        def end():
            for _ in range(share):
                assert counted.acquire(timeout=30 * harness.TIME_SCALE), "the clients are stuck"
            dying.set()
            killer.arm()

        if kills_left:
            harness.run_threads([*threads, end])
            if all(client.left == 0 for client in clients):
                break  # before a call to be killed at, perhaps
            killer.collect(daemon)
            daemon = killer.start()
            for client in clients:
                settle(recording, daemon, client.known, after_kill=True)
        else:
            harness.run_threads(threads)
            if "index" in workload:
                states = {daemon.get(f"/databases/db-{i}/stats").json()["index"]["state"]
                          for i in range(workload["databases"])}
                assert states & {"linking", "ready"}, f"no graph was made: {states}"
    killer.shim.disarm()
    if killer.shim.hits and not daemon.running():
        killer.collect(daemon)
    elif dice.random() < .5:
        daemon.stop()
    else:
        daemon.kill()


def make_shared(recording, daemon, clients):
    """Databases of which several clients have a part."""
    talk, op = Talk(daemon), {}
    for client in clients:
        for name, what in client.known.items():
            database = power_judge.database_of(name)
            if database not in op:
                index = client.workload.get("index")
                op[database] = ["create",
                                power_judge.GRAPH_DIMENSION if index else
                                client.dice.choice((3, 8, 24)),
                                ("synced", "periodic")[len(op) % 2], *([index] if index else [])]
            recording.mark("begin", name, op[database])
            what.begin(op[database])
    for database in op:
        status, answer = talk(*power_judge.request_of(database, op[database], None))
        assert status == 201, answer
    for client in clients:
        for name, what in client.known.items():
            recording.mark("answered", name)
            what.answered()
    talk.close()


def record(name, seed):
    """One run of a workload; its Recording."""
    workload = WORKLOADS[name]
    recording = Recording(seed)
    if workload["durable_directory"]:
        (recording.backing / "data").mkdir()
    with recording:
        recording.mark("options", None, workload["options"])
        parts = workload["parts"]
        names = [f"db-{i}" + (f"#{part}/{parts}" if parts > 1 else "")
                 for i in range(workload["databases"]) for part in range(parts)]
        clients = [Client(recording, workload, {name: Known() for name in names[i::CLIENTS]},
                          f"{seed}/{i}", i * 1_000_000 + 1, i) for i in range(CLIENTS)]
        work(recording, workload, clients, seed)
    return recording


def interest(directory, known):
    """How much a start has to do there."""
    points = sum(4 for path in directory.glob("*.ckpt") if path.stat().st_size > 4096)
    points += sum(1 for pattern in ("*.new", "*.tmp", ".catalog.new")
                  for _ in directory.glob(pattern))
    for what in known.values():
        points += 1 if what.tail else 0
        points += 2 if what.tail and what.tail[-1][0] in ("drop", "restore", "create") else 0
    return points


def leave_an_image(recording, seed, target):
    """One image of a recording, of several the one that is hardest to recover, into the new
    directory `target`; what is known of its databases."""
    dice = random.Random(seed)
    model = dice.choice(power_loss.MODELS)
    records = power_loss.read_log(recording.log)
    disk, known, fed, best = power_loss.Disk(model), {}, 0, -1
    for cut, image in power_judge.choose(records, 8, model, dice.random()):
        for entry in records[fed:cut]:
            disk.feed(entry)
            if entry.op == power_loss.MARK:
                power_judge.hear(known, json.loads(entry.data))
        fed = cut
        trial = target.with_name("trial")
        trial.mkdir()
        disk.image(trial, image)
        (trial / "data").mkdir(exist_ok=True)
        points = interest(trial / "data", known) + dice.random()
        if points > best:
            shutil.rmtree(target, ignore_errors=True)
            trial.rename(target)
            best, left = points, {name: what.dump() for name, what in known.items()}
        else:
            shutil.rmtree(trial)
    return {name: Known.load(text) for name, text in left.items()}


def record_recovery(name, base, seed):
    """A start on what a power cut has left of `base`, and a few writes."""
    workload = {**WORKLOADS[name], "operations": 12}
    recording = Recording(seed)
    recording.backing.rmdir()
    known = leave_an_image(base, seed, recording.backing)
    dice = random.Random(f"recovery/{seed}")
    with recording:
        recording.mark("options", None, workload["options"])
        for database, what in known.items():
            recording.mark("known", database, what.dump())
        killer = Killer(recording, workload["options"], dice)
        if dice.random() < .5:
            recover_in_vain(killer, known)
        daemon = killer.start()
        settle(recording, daemon, known, after_kill=False)
        # whoever made a shared database is not here
        usable = {name: what for name, what in known.items() if what.sure or "#" not in name}
        if usable:
            client = Client(recording, workload, usable, seed, first_stamp=500_000)
            client.run(daemon, threading.Event(), lambda: None)
        daemon.kill()
    return recording


def recover_in_vain(killer, known):
    """A start that is killed while it looks at its databases."""
    killer.arm()
    try:
        daemon = killer.start()
        talk = Talk(daemon)
        for name in known:
            talk.get(f"/databases/{power_judge.database_of(name)}/vectors?limit=1")
        killer.shim.disarm()
        daemon.kill()
    except (AssertionError, *power_judge.BROKEN_OFF):
        killer.collect(Daemon.every[-1])


def judge(name, recording, seed, images):
    """Both models at once, each in a process of its own; fails with the way to see it again."""
    runs, reports, judged = [], [], 0
    for model, count in (("ext4", images // 2), ("strict", images - images // 2)):
        command = [sys.executable, JUDGE, recording.log, "--model", model, "--seed", seed,
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
    left, number, judged = faults.count(150, least=4), 0, 0
    while left:
        images = min(left, IMAGES_OF_A_RECORDING)
        recording, seed = recordings(name, number)
        judged += judge(name, recording, seed, images)
        left -= images
        number += 1
    say(f"{name}: {judged} images of {number} recordings, none wrong")


def test_a_power_cut_during_recovery_loses_nothing(recordings, say):
    left, number, judged = faults.count(100, least=5), 0, 0
    while left:
        images = min(left, 10)
        name = list(WORKLOADS)[number % len(WORKLOADS)]
        base, _ = recordings(name, number // len(WORKLOADS) % 3)
        seed = f"{faults.SEED}/recovery/{number}"
        recording = record_recovery(name, base, seed)
        try:
            judged += judge(f"recovery from {name}", recording, seed, images)
        finally:
            recording.remove()
        left -= images
        number += 1
    say(f"recovery: {judged} images of {number} recordings, none wrong")


# ---- does the simulator find what it is there to find? ----

VERSIONS, VERSION_BYTES = 12, 3 * power_loss.PAGE


def replace_file(recording, version, mistake):
    """`current` becomes the next version, as a careful program does it but for one mistake."""
    content = version.to_bytes(4, "little") * (VERSION_BYTES // 4)
    directory = os.open(recording.mount, os.O_RDONLY | os.O_DIRECTORY)
    new, current = recording.mount / "new", recording.mount / "current"
    acknowledge = (lambda: recording.mark("answered", None, version))
    if mistake == "in place" and current.exists():
        new = current
    with open(new, "r+b" if new.exists() else "w+b") as file:
        file.write(content)
        file.flush()
        if mistake == "acknowledged before the sync":
            acknowledge()
        if mistake != "the file not synced":
            os.fsync(file.fileno())
    if new != current:
        os.rename(new, current)
        if mistake != "the directory not synced":
            os.fsync(directory)
    os.close(directory)
    if mistake != "acknowledged before the sync":
        acknowledge()


def wrong_images(recording, model, count):
    """How many images do not hold the version that was acknowledged, or the next, whole."""
    records, wrong, fed, sure = power_loss.read_log(recording.log), 0, 0, -1
    disk = power_loss.Disk(model)
    for number, (cut, seed) in enumerate(power_loss.choose(records, count, model, 1)):
        for entry in records[fed:cut]:
            disk.feed(entry)
            if entry.op == power_loss.MARK:
                sure = json.loads(entry.data)[2]
        fed = max(fed, cut)
        directory = recording.top / f"{model}-{number}"
        directory.mkdir()
        disk.image(directory, seed)
        current = directory / "current"
        found = current.read_bytes() if current.exists() else None
        allowed = [version.to_bytes(4, "little") * (VERSION_BYTES // 4)
                   for version in (sure, sure + 1) if version >= 0] + ([None] if sure < 0 else [])
        wrong += found not in allowed
    return wrong


@pytest.mark.parametrize("mistake", [
    None, "the file not synced", "the directory not synced", "acknowledged before the sync",
    "in place"])
def test_the_simulator_finds_the_mistakes_of_a_small_program_and_no_others(mistake):
    with Recording(mistake) as recording:
        for version in range(VERSIONS):
            replace_file(recording, version, mistake)
    try:
        for model in power_loss.MODELS:
            wrong = wrong_images(recording, model, 150)
            assert wrong > 0 if mistake else wrong == 0, f"{model}: {wrong} wrong images of 150"
    finally:
        recording.remove()


def test_stores_through_a_map_are_seen_between_syncs_and_made_sure_by_msync():
    """What the kernel writes back by itself can be on the disk or not; msync leaves no choice."""
    with Recording("map") as recording:
        path = recording.mount / "mapped"
        path.write_bytes(bytes(4 * power_loss.PAGE))
        with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as view:
            view[:] = b"a" * len(view)
            view.flush()
            recording.mark("answered", None, 0)
            view[power_loss.PAGE:2 * power_loss.PAGE] = b"b" * power_loss.PAGE
            fd = os.open(recording.mount, os.O_RDONLY | os.O_DIRECTORY)
            syncfs(fd)
            os.close(fd)
            recording.mark("answered", None, 1)
    disk, seen = power_loss.Disk("ext4"), set()
    records = power_loss.read_log(recording.log)
    recording.remove()
    sure = max(i for i, r in enumerate(records) if r.op == power_loss.SYNC_END)
    for entry in records[:sure + 1]:
        disk.feed(entry)
    file = disk.live["/mapped"]
    assert file.durable == b"a" * (4 * power_loss.PAGE)
    for entry in records[sure + 1:]:
        disk.feed(entry)
    for seed in range(50):
        content = file.image(random.Random(seed), "pages", None)
        assert content[:power_loss.PAGE] == b"a" * power_loss.PAGE
        seen.add(bytes(content[power_loss.PAGE:2 * power_loss.PAGE]))
    assert seen == {b"a" * power_loss.PAGE, b"b" * power_loss.PAGE}

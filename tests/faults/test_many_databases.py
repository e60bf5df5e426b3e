"""More databases than may be open, and what a dropped database leaves: nothing."""
import os
import pathlib
import random
import re

import numpy as np
import pytest

import faults
import harness
from harness import random_rows, run_threads

pytestmark = pytest.mark.skipif(bool(harness.SANITIZER),
                                reason="times and memory are those of a plain build")


def descriptors(daemon):
    """Paths of the open descriptors."""
    found = []
    for link in pathlib.Path(f"/proc/{daemon.pid}/fd").iterdir():
        try:
            found.append(os.readlink(link))
        except FileNotFoundError:
            pass
    return found


def mappings(daemon, text):
    return [line for line in pathlib.Path(f"/proc/{daemon.pid}/maps").read_text().splitlines()
            if text in line]


def disk_bytes(directory):
    return sum(path.stat().st_blocks * 512 for path in directory.iterdir())


def fill(daemon, name, rows, dimension, batch=2000):
    daemon.create(name, dimension, durability="periodic")
    for first in range(0, rows, batch):
        daemon.put_rows(name, range(first + 1, first + batch + 1),
                        random_rows(first, batch, dimension))


def test_a_dropped_database_gives_back_its_disk_memory_and_mappings_at_once(daemons):
    daemon = daemons()
    daemon.create("other", 4)
    disk, memory = disk_bytes(daemon.directory), daemon.rss_anon()
    fill(daemon, "heavy", 60000, 128)
    assert disk_bytes(daemon.directory) > disk + 30e6
    assert mappings(daemon, "heavy")
    daemon.delete("/databases/heavy")
    assert disk_bytes(daemon.directory) < disk + 2e6
    assert not mappings(daemon, "heavy")
    assert not [path for path in descriptors(daemon) if "heavy" in path]
    assert daemon.rss_anon() < memory + 48e6  # what parsing the batches needed


def test_a_checkpoint_gives_private_memory_back(daemons):
    rows = 200_000
    daemon = daemons(persistence_flush_interval_seconds=3600)
    daemon.create("wide", 1, durability="periodic")
    for first in range(0, rows, 10000):
        daemon.put_rows("wide", range(first + 1, first + 10001), np.ones((10000, 1)))
    before = private_bytes(daemon, "wide")
    assert before > rows * 60
    daemon.post("/databases/wide/flush")
    assert private_bytes(daemon, "wide") < before / 10
    assert daemon.count("wide") == rows


def private_bytes(daemon, text):
    """Anonymous pages in the mappings of a file: those that differ from it."""
    total, ours = 0, False
    for line in pathlib.Path(f"/proc/{daemon.pid}/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            ours = text in line
        elif ours and line.startswith("Anonymous:"):
            total += int(line.split()[1]) * 1024
    return total


@pytest.mark.limit(180)
def test_hundreds_of_databases_through_a_small_lru(daemons):
    """Made, filled, killed, read, dropped and listed with 16 open files: nothing is lost or mixed
    up, and a closed database holds no descriptor."""
    total = faults.count(300)
    daemon = daemons(persistence_max_open_files=16)
    names = [f"db-{i:05}" for i in range(total)]
    chance = random.Random(faults.SEED)

    def make(part):
        session = harness.Session()
        for i in range(part, total, 8):
            url = f"{daemon.api}/databases/{names[i]}"
            session.post(url, json={"dimension": 2, "distance_metric": "euclidean"}
                         ).raise_for_status()
            session.put(url + "/vectors/1", json={"data": [i, 1]}).raise_for_status()

    run_threads([lambda part=part: make(part) for part in range(8)], timeout=100)

    def check(alive):
        listed = []
        cursor = {}
        while True:
            page = daemon.get("/databases", params={"limit": 100, **cursor}).json()
            listed += [(d["name"], d["vector_count"]) for d in page["databases"]]
            if not page.get("next"):
                break
            cursor = {"cursor": page["next"]}
        assert listed == [(name, 1) for name in alive]
        for name in chance.sample(alive, len(alive) // 2):
            row = daemon.get(f"/databases/{name}/vectors/1").json()
            assert row["data"] == [int(name[3:]), 1]
        stats = daemon.stats()
        assert stats["total_databases"] == stats["total_vectors"] == len(alive)
        assert stats["open_files"] <= 16
        held = [path for path in descriptors(daemon) if str(daemon.directory) in path]
        files = [path for path in held if re.search(r"\.(jvdb|wal\.\d+|ckpt)$", path)]
        assert len(files) <= 3 * 16, files
        assert len(mappings(daemon, ".jvdb")) <= 2 * 16

    check(names)
    daemon.restart(kill=True)
    check(names)
    gone = set(chance.sample(names, total // 2))
    for name in gone:
        daemon.delete(f"/databases/{name}")
    alive = [name for name in names if name not in gone]
    check(alive)
    daemon.restart()
    check(alive)

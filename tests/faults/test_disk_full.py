"""Full disks: refused writes are 507 and leave nothing behind; reads, deletes and flushes work; and
when there is room again so do writes, without a restart.

The disk is a small tmpfs, which needs root.  Everything acknowledged and nothing refused is there,
while it is full, after a restart on it, after kill -9 on it, and when it is empty again.
"""
import contextlib
import os
import random
import resource
import subprocess

import numpy as np
import pytest

import faults
from harness import bits, random_rows

DIMENSION = 16
PAGE = os.sysconf("SC_PAGE_SIZE")
ROUNDS = 40


class Disk:
    """A tmpfs and the one file that fills it."""

    def __init__(self, path):
        self.path = path
        self.filler = path / "filler"
        self.room = path / "room"

    def free_pages(self):
        stat = os.statvfs(self.path)
        return stat.f_bavail * stat.f_frsize // PAGE

    def fill(self, leave):
        """Leave exactly so many free pages."""
        with open(self.filler, "ab", buffering=0) as file:
            page = b"f" * PAGE
            with contextlib.suppress(OSError):
                while self.free_pages() > leave:
                    file.write(page * max(1, min(256, self.free_pages() - leave)))
            while self.free_pages() < leave:
                size = file.tell()
                assert size >= PAGE, "nothing left to give back"
                os.truncate(self.filler, size - PAGE)
                file.seek(0, os.SEEK_END)
        assert self.free_pages() == leave

    def empty(self):
        self.filler.unlink(missing_ok=True)


@pytest.fixture
def disk(tmp_path):
    made = []

    def make(options="size=24m"):
        path = tmp_path / f"disk{len(made)}"
        path.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "jvdb-test", path],
                              capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"A FULL DISK IS NOT TESTED: mounting a tmpfs needs root: {done.stderr}")
        made.append(path)
        return Disk(path)

    yield make
    for path in made:
        subprocess.run(["umount", "-l", path], check=True)


class Client:
    """Writes rows, and knows which of them must be there."""

    def __init__(self, daemon, name, seed):
        self.daemon, self.name = daemon, name
        self.random = random.Random(seed)
        self.rows = {}
        self.refused = 0
        self.next_id = 1

    def row(self):
        data = np.array([self.random.gauss(0, 1) for _ in range(DIMENSION)], np.float32)
        return data, {"text": "x" * self.random.randrange(200), "n": self.random.randrange(10**6)}

    def new_id(self):
        self.next_id += 1
        return self.next_id if self.next_id % 3 else f"id-{self.next_id}-{'y' * 30}"

    def write(self, path, body, rows):
        answer = self.daemon.request("POST", f"/databases/{self.name}{path}", json=body)
        if answer.status_code in (200, 201):
            self.rows.update(rows)
            return True
        assert answer.status_code == 507, f"{answer.status_code} {answer.text[:500]}"
        assert answer.json()["error"]["code"] == "storage_full"
        self.refused += 1
        return False

    def put(self, vector_id):
        data, metadata = self.row()
        return self.write("/vectors", {"vector_id": vector_id, "metadata": metadata,
                                       "data": [float(x) for x in data]},
                          {vector_id: (data.tobytes(), metadata)})

    def insert(self):
        return self.put(self.new_id())

    def update(self):
        return self.put(self.random.choice(list(self.rows)))

    def batch(self, count):
        vectors, rows = [], {}
        for _ in range(count):
            vector_id = self.new_id() if not self.rows or self.random.random() < 0.7 \
                else self.random.choice(list(self.rows))
            data, metadata = self.row()
            vectors.append({"vector_id": vector_id, "data": [float(x) for x in data],
                            "metadata": metadata})
            rows[vector_id] = (data.tobytes(), metadata)
        return self.write("/vectors/batch", {"vectors": vectors}, rows)

    def delete(self, count=1):
        """Never refused."""
        ids = self.random.sample(list(self.rows), count)
        if count == 1:
            self.daemon.delete(f"/databases/{self.name}/vectors/{ids[0]}")
        else:
            reply = self.daemon.post(f"/databases/{self.name}/vectors/delete", {"ids": ids}).json()
            assert reply["deleted"] == count
        for vector_id in ids:
            del self.rows[vector_id]

    def check(self):
        """All that was acknowledged and nothing else, by every way to read it."""
        assert self.daemon.rows(self.name) == self.rows
        assert self.daemon.count(self.name) == len(self.rows)
        some = self.random.sample(list(self.rows), 3)
        for vector_id in some:
            reply = self.daemon.get(f"/databases/{self.name}/vectors/{vector_id}").json()
            assert (bits(reply["data"]), reply["metadata"]) == self.rows[vector_id]
            nearest = self.daemon.search(self.name, np.frombuffer(self.rows[vector_id][0],
                                                                  np.float32), 1)[0]
            assert nearest["distance"] == 0


def one_round(daemon, disk, client, pages):
    """Everything that a client does, with so many free pages."""
    disk.fill(pages)
    for _ in range(10):
        client.insert()
    for count in (2, 20, 200, 1000):
        client.batch(count)
    for _ in range(5):
        client.update()
    client.delete()
    client.check()
    client.delete(20)
    answer = daemon.request("POST", f"/databases/new{pages}",
                            json={"dimension": 4, "distance_metric": "cosine"})
    assert answer.status_code in (201, 507), answer.text
    client.insert()
    daemon.post(f"/databases/{client.name}/flush", status=200)
    client.insert()
    client.update()
    for _ in range(5):
        client.delete()
    daemon.post("/storage/flush", status=200)
    client.check()
    listed = [d["name"] for d in daemon.get("/databases").json()["databases"]]
    assert (f"new{pages}" in listed) == (answer.status_code == 201)
    if answer.status_code == 201:
        daemon.delete(f"/databases/new{pages}")  # takes room, too
    assert daemon.get("/health", root=True).status_code == 200


@pytest.mark.limit(240)
def test_a_full_disk_refuses_writes_and_nothing_else(disk, daemons):
    small = disk()
    daemon = daemons(small.path / "data", log_level="info")
    daemon.create("docs", DIMENSION)
    client = Client(daemon, "docs", faults.SEED)
    client.batch(300)
    full = 0
    for pages in range(1, ROUNDS + 1):
        before = client.refused
        one_round(daemon, small, client, pages)
        full += client.refused > before
        if pages % 5 == 0:
            daemon.restart()
        elif pages % 5 == 3:
            daemon.restart(kill=True)
        client.check()
        client.delete()
        small.empty()
        assert client.insert() and client.batch(50), "it does not resume by itself"
        client.check()
        while len(client.rows) > 400:
            client.delete(len(client.rows) - 300)
        if pages % 10 == 0:  # the file only grows: begin again
            daemon.delete("/databases/docs")
            daemon.create("docs", DIMENSION)
            client.rows.clear()
            client.batch(300)
    assert full >= ROUNDS * 9 // 10, f"the disk was full in {full} rounds only"
    assert all(f.name.startswith((".", "docs")) for f in daemon.directory.iterdir())
    daemon.restart()
    client.check()


def test_a_daemon_starts_on_a_full_disk_without_a_reserve_and_resumes(disk, daemons):
    small = disk()
    daemon = daemons(small.path / "data")
    daemon.create("docs", DIMENSION)
    client = Client(daemon, "docs", faults.SEED)
    client.batch(300)
    for kill in (False, True, False):
        daemon.kill() if kill else daemon.stop()
        for file in daemon.directory.glob(".reserve.*"):
            file.unlink()
        small.fill(0)
        daemon.start()
        client.check()
        assert not client.insert()
        client.check()
        small.empty()
        assert client.insert(), "it does not resume by itself"
        client.check()
        daemon.restart(kill=True)
        client.check()
        client.delete(10)


def test_a_disk_without_inodes_refuses_databases_and_nothing_else(disk, daemons):
    small = disk("size=24m,nr_inodes=60")
    daemon = daemons(small.path / "data")
    daemon.create("docs", DIMENSION)
    client = Client(daemon, "docs", faults.SEED)
    client.batch(300)
    for attempt in range(3):
        files = 0
        with contextlib.suppress(OSError):
            while True:
                (small.path / f"inode{files}").touch()
                files += 1
        assert os.statvfs(small.path).f_favail == 0
        answer = daemon.request("POST", "/databases/more",
                                json={"dimension": 4, "distance_metric": "cosine"})
        assert answer.status_code == 507 and answer.json()["error"]["code"] == "storage_full"
        for _ in range(5):
            client.insert()
        client.delete(10)
        daemon.post("/databases/docs/flush", status=200)
        client.insert()
        daemon.post("/storage/flush", status=200)
        client.check()
        daemon.restart(kill=attempt == 1)
        client.check()
        client.delete()
        for i in range(files):
            (small.path / f"inode{i}").unlink()
        assert client.insert(), "it does not resume by itself"
        daemon.create("more", 4)
        daemon.delete("/databases/more")
        client.check()


def test_a_limit_of_file_sizes_is_a_full_disk(daemons):
    daemon = daemons()
    daemon.create("docs", DIMENSION)
    client = Client(daemon, "docs", faults.SEED)
    client.batch(300)
    _, most = resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE)
    for _ in range(3):
        size = max(f.stat().st_size for f in daemon.directory.glob("docs.jvdb"))
        resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (size, most))
        while client.batch(200):
            pass
        client.check()
        for _ in range(20):
            client.delete()
        # A checkpoint writes its manifest behind the rest if no hole takes it.
        answer = daemon.request("POST", "/storage/flush")
        assert answer.status_code in (200, 507), answer.text
        client.check()
        resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (most, most))
        assert client.batch(200), "it does not resume by itself"
        client.check()
        daemon.restart()
        client.check()

#!/usr/bin/env python3
"""make.py [DIRECTORY] - make the golden files of this format version: data directories, and what
they must read as, for ever.

  JADEVECTORDB_BIN=build/release/jadevectordb tests/golden/make.py     into tests/golden/vN

clean       stopped by SIGTERM
crashed     stopped by SIGKILL: rows that only the log knows
checkpoint  stopped while a complete checkpoint was being copied to its place
lone        a .jvdb by itself, as a backup

Files of a version that was released are never made again: the next version gets its own folder.
"""
import base64
import io
import json
import pathlib
import shutil
import sys
import tarfile
import tempfile

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "faults")]

import disk_format as df  # noqa: E402
import gold  # noqa: E402
import harness  # noqa: E402

SHAPES = {  # name: dimension, metric, durability
    "empty": (2, "cosine", "synced"),
    "one": (1, "manhattan", "synced"),
    "text": (3, "euclidean", "periodic"),
    "mixed": (17, "cosine", "synced"),
    "wide": (300, "dot_product", "synced"),
}
SPECIAL = np.array([0.0, -0.0, 1e-45, -3.4028235e38, 1.17549435e-38, 0.1, 16777217.0], np.float32)


def rows(seed, count, dimension):
    """Numbers of few bits, so that they pack well, and the special ones."""
    random = np.random.default_rng(seed)
    made = (random.integers(-64, 64, (count, dimension)) / 8).astype(np.float32)
    made.ravel()[:min(made.size, SPECIAL.size)] = SPECIAL[:made.size]
    return made


def fill(daemon):
    for name, (dimension, metric, durability) in SHAPES.items():
        daemon.create(name, dimension, metric, durability=durability, initial_capacity=500)
    daemon.put_rows("one", [0, 7, (1 << 63) - 2], rows(1, 3, 1))
    ids = [f"id {i}" for i in range(200)] + ["x", "long " * 100, "\u00e9\u4e2d\U0001f600"]
    daemon.put_rows("text", ids, rows(2, len(ids), 3), [{"n": i} for i in range(len(ids))])
    ids = [i if i % 2 else f"row {i}" for i in range(1, 61)]
    meta = [{"i": i, "tags": ["a", None, True, 1.5], "deep": {"k": "v" * (i % 30)}}
            for i in range(60)]
    meta[5], meta[6] = {}, {"large": "m" * 30000}
    daemon.put_rows("mixed", ids, rows(3, 60, 17), meta)
    daemon.post("/storage/flush", {})
    daemon.put_rows("mixed", ids[3:9], rows(4, 6, 17), [{"replaced": i} for i in range(6)])
    daemon.post("/databases/mixed/vectors/delete", {"ids": ids[20:30]})
    daemon.post("/databases/text/vectors/delete", {"ids": [f"id {i}" for i in range(50, 90)]})
    daemon.put_rows("wide", [1, "two", 3], rows(5, 3, 300))


def more(daemon):
    """Writes that stay in the logs."""
    daemon.put_rows("mixed", ["row 2", 1001, "late"], rows(6, 3, 17), [{"log": 1}, {}, {"log": 2}])
    daemon.post("/databases/mixed/vectors/delete", {"ids": [1]})
    daemon.put_rows("one", [8], rows(7, 1, 1))


def contents(daemon):
    """What a directory must read as."""
    found = {}
    for one in daemon.get("/databases").json()["databases"]:
        name = one["name"]
        listed = [row for page in daemon.pages(name) for row in page["vectors"]]
        info = daemon.get(f"/databases/{name}").json()
        found[name] = {
            "info": {k: info[k] for k in ("dimension", "distance_metric", "durability",
                                          "initial_capacity", "vector_count")},
            "rows": [[row["vector_id"], base64.b64encode(harness.bits(row["data"])).decode(),
                      row["metadata"], row["version"]] for row in listed]}
    return found


def pack(directory, only, path):
    with tarfile.open(path, "w:xz", preset=9) as tar:
        for file in sorted(directory.iterdir()):
            if not only(file.name) or file.name == ".lock" or file.name.startswith(".reserve"):
                continue
            item = tarfile.TarInfo(file.name)
            data = file.read_bytes()
            item.size, item.mode = len(data), 0o640
            tar.addfile(item, io.BytesIO(data))


def read_back(scratch, path):
    """What the packed files read as."""
    target = scratch / "read"
    shutil.rmtree(target, ignore_errors=True)
    with tarfile.open(path) as tar:
        tar.extractall(target)
    daemon = harness.Daemon(target).start()
    found = contents(daemon)
    daemon.stop()
    return found


def main():
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="golden-"))
    data = scratch / "data"
    daemon = harness.Daemon(data).start()
    fill(daemon)
    truth = contents(daemon)
    daemon.stop()
    version = df.Jvdb((data / "mixed.jvdb").read_bytes()).get(0, df.SUPERBLOCK, "format_version")
    out = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / f"v{version}"
    out.mkdir(exist_ok=True)
    pack(data, lambda name: True, out / "clean.tar.xz")
    pack(data, lambda name: name == "mixed.jvdb", out / "lone.tar.xz")
    expected = {"clean": truth, "lone": {"mixed": truth["mixed"]}}

    daemon.start()
    more(daemon)
    later = contents(daemon)
    before = (data / "mixed.jvdb").read_bytes()
    # As a kill at this moment leaves them: the daemon does not write by itself now.
    pack(data, lambda name: True, out / "crashed.tar.xz")
    logs = {p.name: p.read_bytes() for p in data.glob("mixed.wal.*")}
    daemon.post("/databases/mixed/flush", {})
    daemon.kill()
    for path in data.glob("mixed.wal.*"):
        path.unlink()
    for name, log in logs.items():
        (data / name).write_bytes(log)
    gold.leave_checkpoint(data, "mixed", before, (data / "mixed.jvdb").read_bytes())
    pack(data, lambda name: True, out / "checkpoint.tar.xz")
    expected["crashed"] = expected["checkpoint"] = later

    for case, want in expected.items():
        got = read_back(scratch, out / f"{case}.tar.xz")
        assert got == want, f"{case} does not read as what was written"
        with open(out / f"{case}.json", "w", encoding="utf-8") as stream:
            json.dump(want, stream, separators=(",", ":"), ensure_ascii=True)
            stream.write("\n")
    shutil.rmtree(scratch)
    print(out, sum(p.stat().st_size for p in out.iterdir()), "bytes")


if __name__ == "__main__":
    main()

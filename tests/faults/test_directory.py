"""A storage directory in which something is, or is missing, that the daemon did not put there."""
import os
import pathlib
import shutil
import socket
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import disk_format as df  # noqa: E402
import harness  # noqa: E402

DIMENSION = 5


def uuid_of(path):
    file = df.Jvdb(path.read_bytes())
    return file.get(file.super_at, df.SUPERBLOCK, "uuid")


@pytest.fixture
def stopped(daemons):
    """A daemon that was stopped, and what its databases `docs` and `other` hold."""
    daemon = daemons()
    rows = harness.random_rows(3, 30, DIMENSION)
    for name in ("docs", "other"):
        daemon.create(name, DIMENSION)
        daemon.put_rows(name, list(range(1, 31)), rows, [{"of": name}] * 30)
    daemon.truth = {name: daemon.rows(name) for name in ("docs", "other")}
    daemon.stop()
    return daemon


def check_others(daemon, but=("docs",)):
    for name, rows in daemon.truth.items():
        if name not in but:
            assert daemon.rows(name) == rows


def refused(daemon, name, *words):
    """Every access to the database is an error that names it and says why."""
    error = daemon.get(f"/databases/{name}/vectors", status=423).json()["error"]
    assert error["code"] == "database_quarantined" and f'"{name}"' in error["message"]
    for word in words:
        assert word in error["message"], error["message"]
    assert daemon.get(f"/databases/{name}").json()["quarantined"]
    daemon.post(f"/databases/{name}", {"dimension": 5, "distance_metric": "cosine"}, 409)
    check_others(daemon, but=(name,))


def put_in_place(kind, path):
    """Something that is no regular file."""
    moved = path.with_name("moved_away")
    if path.exists():
        path.rename(moved)
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "symlink":
        path.symlink_to(moved)
    elif kind == "dangling symlink":
        path.symlink_to("nowhere")
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(os.path.relpath(path))
    elif kind == "device":
        if os.geteuid() != 0:
            pytest.skip("only root makes devices")
        os.mknod(path, 0o020666, os.makedev(1, 3))


KINDS = ("directory", "fifo", "symlink", "dangling symlink", "socket", "device")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_in_place_of_a_database_is_refused(stopped, kind, monkeypatch):
    monkeypatch.chdir(stopped.directory)  # the path of a socket must be short
    put_in_place(kind, stopped.directory / "docs.jvdb")
    stopped.start()
    refused(stopped, "docs", "docs.jvdb")
    stopped.stop()
    path = stopped.directory / "docs.jvdb"
    path.rmdir() if kind == "directory" else path.unlink()
    (stopped.directory / "moved_away").rename(path)
    stopped.start()
    check_others(stopped, but=())


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_in_place_of_a_log_is_refused(stopped, kind, monkeypatch):
    monkeypatch.chdir(stopped.directory)
    put_in_place(kind, sorted(stopped.directory.glob("docs.wal.*"))[0])
    stopped.start()
    refused(stopped, "docs", "docs.wal.")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_in_place_of_the_catalog_is_said_and_nothing_starts(stopped, kind,
                                                                            monkeypatch):
    monkeypatch.chdir(stopped.directory)
    before = {p.name: p.read_bytes() for p in stopped.directory.glob("*.jvdb")}
    put_in_place(kind, stopped.directory / ".catalog")
    stopped.start(wait=False)
    assert stopped.wait_exit() == 1
    assert ".catalog" in stopped.log(since_start=True)
    assert before == {p.name: p.read_bytes() for p in stopped.directory.glob("*.jvdb")}


def test_foreign_files_are_left_alone(stopped):
    foreign = {"notes.txt": b"mine", "docs.jvdb.bak": b"a backup", ".hidden.jvdb": b"?",
               "docs.wal.99": b"beyond the last", "docs.wal.x": b"", "lost+found.txt": b"",
               "core": b"\0" * 5000, "a b.jvdb": b"a space"}
    for name, data in foreign.items():
        (stopped.directory / name).write_bytes(data)
    (stopped.directory / "sub").mkdir()
    (stopped.directory / "sub" / "inner.jvdb").write_bytes(b"")
    stopped.start()
    names = [d["name"] for d in stopped.get("/databases").json()["databases"]]
    assert names == ["docs", "other"]
    check_others(stopped, but=())
    stopped.stop()
    assert all((stopped.directory / n).read_bytes() == d for n, d in foreign.items())
    assert (stopped.directory / "sub" / "inner.jvdb").exists()


def test_a_missing_file_is_an_error_and_not_an_empty_database(stopped):
    (stopped.directory / "docs.jvdb").unlink()
    for _ in range(2):
        stopped.start()
        refused(stopped, "docs", "missing")
        stopped.stop()
    stopped.start()
    stopped.delete("/databases/docs")
    stopped.create("docs", 3)
    assert stopped.count("docs") == 0


def test_a_copied_file_is_adopted(stopped, daemons):
    other = daemons()
    other.stop()
    shutil.copy(stopped.directory / "docs.jvdb", other.directory / "docs.jvdb")
    other.start()
    other.wait_log("adopted docs.jvdb")
    assert other.rows("docs") == stopped.truth["docs"]
    other.put_rows("docs", [100], [[1] * DIMENSION])
    other.restart(kill=True)
    assert other.count("docs") == 31


@pytest.mark.parametrize("copy_name", ("copy", "a-copy-that-comes-first"))
@pytest.mark.parametrize("catalog", ("kept", "lost"))
def test_a_copy_beside_its_original_gets_a_uuid_of_its_own(stopped, copy_name, catalog):
    original = stopped.directory / "docs.jvdb"
    uuid, data = uuid_of(original), original.read_bytes()
    copy = stopped.directory / f"{copy_name}.jvdb"
    shutil.copy(original, copy)
    if catalog == "lost":
        (stopped.directory / ".catalog").unlink()
    stopped.start()
    assert uuid_of(copy) != uuid and original.read_bytes() == data
    stopped.wait_log(f'{copy_name}.jvdb is a copy of "docs"')
    stopped.truth[copy_name] = stopped.truth["docs"]
    check_others(stopped, but=())
    # They live apart.
    stopped.put_rows(copy_name, [500], [[2] * DIMENSION])
    stopped.delete("/databases/docs/vectors/1")
    stopped.restart(kill=True)
    assert stopped.count(copy_name) == 31 and stopped.count("docs") == 29
    own = uuid_of(copy)
    stopped.restart()
    assert uuid_of(copy) == own
    stopped.delete("/databases/docs")
    stopped.restart()
    assert stopped.count(copy_name) == 31
    check_others(stopped, but=("docs", copy_name))


def test_a_copy_with_a_log_that_is_needed_is_refused(daemons):
    daemon = daemons()
    daemon.create("docs", DIMENSION)
    daemon.put_rows("docs", [1, 2], harness.random_rows(1, 2, DIMENSION))
    daemon.kill()
    for path in list(daemon.directory.glob("docs.*")):
        shutil.copy(path, daemon.directory / path.name.replace("docs.", "copy."))
    before = {p.name: p.read_bytes() for p in daemon.directory.glob("copy.*")}
    daemon.truth = {}
    daemon.start()
    assert daemon.count("docs") == 2
    refused(daemon, "copy", "copy it again")
    daemon.stop()
    assert before == {p.name: p.read_bytes() for p in daemon.directory.glob("copy.*")}


@pytest.mark.parametrize("damage", ("removed", "emptied", "noise", "cut"))
def test_a_lost_catalog_is_made_anew_from_the_files_and_says_so(stopped, damage):
    path = stopped.directory / ".catalog"
    if damage == "removed":
        path.unlink()
    else:
        data = path.read_bytes()
        path.write_bytes({"emptied": b"", "noise": os.urandom(len(data)), "cut": data[:100]}[damage])
    stopped.start()
    stopped.wait_log("adopted docs.jvdb")
    stopped.wait_log("the catalog was lost")
    check_others(stopped, but=())
    stopped.restart()
    assert "catalog was lost" not in stopped.log(since_start=True)
    check_others(stopped, but=())


def test_counts_come_from_the_files_if_the_catalog_is_older(stopped, tmp_path):
    old = (stopped.directory / ".catalog").read_bytes()
    stopped.start()
    stopped.put_rows("docs", [100, 101], harness.random_rows(1, 2, DIMENSION))
    stopped.stop()
    (stopped.directory / ".catalog").write_bytes(old)
    stopped.start()
    listed = {d["name"]: d["vector_count"] for d in stopped.get("/databases").json()["databases"]}
    assert listed == {"docs": 32, "other": 30}


@pytest.mark.parametrize("what", ("version", "incompat", "ro_compat"))
def test_a_file_of_a_newer_version_is_refused_and_not_touched(stopped, what):
    path = stopped.directory / "docs.jvdb"
    file = df.Jvdb(path.read_bytes())
    for at in (0, df.BLOCK):
        if what == "version":
            file.put(at, df.SUPERBLOCK, "format_version", 3)
        else:
            file.put(at, df.SUPERBLOCK, f"features_{what}", 1 << 40)
        file.put_crc(at, df.SUPERBLOCK, at, at + 4092)
    path.write_bytes(file.data)
    before = {p.name: p.read_bytes() for p in stopped.directory.glob("docs.*")}
    for catalog in ("kept", "lost"):
        stopped.start()
        refused(stopped, "docs", "version")
        stopped.post("/storage/flush", {})
        stopped.stop()
        assert before == {p.name: p.read_bytes() for p in stopped.directory.glob("docs.*")}, catalog
        (stopped.directory / ".catalog").unlink()


def test_a_catalog_of_a_newer_version_is_refused_and_not_touched(stopped):
    path = stopped.directory / ".catalog"
    file = df.Catalog(path.read_bytes())
    records = file.records()
    file.put(0, df.CATALOG_HEADER, "format_version", 3)
    for at in records:
        file.put(at, df.CATALOG_RECORD, "format_version", 3)
    file.seal(records)
    path.write_bytes(file.data)
    before = {p.name: p.read_bytes() for p in stopped.directory.iterdir()
              if p.name.startswith(".cat") or p.suffix == ".jvdb" or ".wal." in p.name}
    stopped.start(wait=False)
    assert stopped.wait_exit() == 1
    assert "format version 3" in stopped.log(since_start=True)
    assert all((stopped.directory / n).read_bytes() == data for n, data in before.items())

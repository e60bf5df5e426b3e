"""A file that is older than what its database was known to hold is never taken for the newest."""
import shutil

import pytest

DIMENSION = 3


def write(daemon, name, first, count):
    daemon.put_rows(name, list(range(first, first + count)),
                    [[first + i, 1, 2] for i in range(count)])


def flush(daemon, name):
    daemon.post(f"/databases/{name}/flush")


def files(directory, name):
    return sorted(path for path in directory.iterdir()
                  if path.name == f"{name}.jvdb" or path.name.startswith(f"{name}.wal."))


def copy_all(paths, to):
    to.mkdir(exist_ok=True)
    for path in paths:
        shutil.copy(path, to)


def put_back(daemon, name, directory):
    """Exactly the files of `directory` are those of the database."""
    for path in files(daemon.directory, name):
        path.unlink()
    copy_all(files(directory, name), daemon.directory)


def check_refused(daemon, name):
    for _ in range(2):  # looking at it makes it no better
        error = daemon.get(f"/databases/{name}/vectors", status=423).json()["error"]
        assert error["code"] == "database_quarantined"
        assert f"jadevectordb-cli accept {name}" in error["message"]
        daemon.post(f"/databases/{name}/vectors", {"data": [1, 2, 3]}, status=423)
        info = daemon.get(f"/databases/{name}").json()
        assert info["quarantined"] and f"accept {name}" in info["reason"]
        assert daemon.count("other") == 5  # the rest of the server works
        daemon.restart()


class History:
    """A database whose file was copied, and then went on over another checkpoint."""

    def __init__(self, daemons, tmp_path):
        self.daemon = daemon = daemons()
        self.old, self.new = tmp_path / "old", tmp_path / "new"
        daemon.create("db", DIMENSION)
        daemon.create("other", DIMENSION)
        write(daemon, "other", 1, 5)
        write(daemon, "db", 1, 10)
        flush(daemon, "db")
        copy_all(files(daemon.directory, "db"), self.old)
        write(daemon, "db", 5, 20)
        flush(daemon, "db")
        write(daemon, "db", 30, 3)
        self.rows = daemon.rows("db")

    def end(self, kill):
        if kill:
            self.daemon.kill()
        else:
            self.daemon.stop()
        copy_all(files(self.daemon.directory, "db"), self.new)

    def check_the_newest_is_whole(self):
        self.daemon.stop()
        put_back(self.daemon, "db", self.new)
        self.daemon.start()
        assert self.daemon.rows("db") == self.rows


@pytest.fixture
def history(daemons, tmp_path):
    return History(daemons, tmp_path)


@pytest.mark.parametrize("kill", [True, False], ids=["killed", "stopped"])
@pytest.mark.parametrize("log", ["kept", "removed", "emptied"])
def test_an_older_file_is_refused_and_the_newest_can_be_put_back(history, kill, log):
    history.end(kill)
    shutil.copy(history.old / "db.jvdb", history.daemon.directory)
    for path in files(history.daemon.directory, "db")[1:]:
        if log == "removed":
            path.unlink()
        elif log == "emptied":
            path.write_bytes(b"")
    history.daemon.start()
    check_refused(history.daemon, "db")
    history.check_the_newest_is_whole()


def test_an_older_file_with_the_log_of_its_day_is_refused_after_a_clean_stop(history):
    history.end(kill=False)
    put_back(history.daemon, "db", history.old)
    history.daemon.start()
    check_refused(history.daemon, "db")
    history.check_the_newest_is_whole()


def test_it_is_refused_whatever_became_of_the_daemon_since_the_clean_stop(history):
    history.end(kill=False)
    history.daemon.start()
    history.daemon.kill()
    put_back(history.daemon, "db", history.old)
    history.daemon.start()
    check_refused(history.daemon, "db")
    history.check_the_newest_is_whole()


def test_a_file_without_its_log_is_refused_although_it_is_the_newest(history):
    history.end(kill=False)
    for path in files(history.daemon.directory, "db")[1:]:
        path.unlink()
    history.daemon.start()
    check_refused(history.daemon, "db")
    history.check_the_newest_is_whole()


def test_an_older_file_is_refused_in_an_unknown_directory_if_a_log_contradicts_it(history):
    history.end(kill=True)
    shutil.copy(history.old / "db.jvdb", history.daemon.directory)
    (history.daemon.directory / ".catalog").unlink()
    history.daemon.start()
    check_refused(history.daemon, "db")


@pytest.mark.parametrize("kill", [True, False], ids=["killed", "stopped"])
def test_the_copy_of_the_last_flush_is_no_older_copy(daemons, tmp_path, kill):
    daemon = daemons()
    daemon.create("db", DIMENSION)
    write(daemon, "db", 1, 10)
    flush(daemon, "db")
    copy_all(files(daemon.directory, "db"), tmp_path / "copy")
    if kill:
        write(daemon, "db", 5, 20)
    rows = daemon.rows("db")
    if kill:
        daemon.kill()
    else:
        daemon.stop()
    shutil.copy(tmp_path / "copy" / "db.jvdb", daemon.directory)
    daemon.start()
    assert daemon.rows("db") == rows  # the log of the killed one has the rest


def test_a_copy_is_adopted_where_nobody_knows_its_name(history, daemons):
    history.end(kill=True)
    other = daemons()
    other.stop()
    shutil.copy(history.old / "db.jvdb", other.directory)
    other.start()
    assert len(other.rows("db")) == 10
    other.wait_log("adopted db.jvdb")
    write(other, "db", 100, 1)
    other.restart(kill=True)
    assert len(other.rows("db")) == 11

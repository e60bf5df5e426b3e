"""Damage of every region of a real file, in several ways: verify finds it, online and offline; the
rest of the server goes on; what was not hit is rescued bit for bit."""
import json
import random
import shutil
import subprocess

import pytest

import disk_format as df
import faults
import harness
import jvdb
from harness import CLI, bits, clean_environment

DIMENSION = 24
ROWS = 600
REGIONS = ("superblock", "manifest", "sums", "slots", "id_index", "vectors", "records")


def cli(*args, status=0, url=None, **kwargs):
    """Run the client; its exit status must be `status`.  Standard output and error as text."""
    extra = {"JADEVECTORDB_URL": url} if url else {}
    done = subprocess.run([str(CLI), *map(str, args)], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, env=clean_environment(extra), timeout=120,
                          check=False, **kwargs)
    out, err = done.stdout.decode(), done.stderr.decode()
    assert done.returncode == status, f"{args}: {done.returncode}\n{out}\n{err}"
    report = harness.REPORT.search(err)
    assert not report, err
    return out + err


def fill(daemon, name="docs", seed=0, rows=ROWS):
    """Integer and string ids, with and without metadata; some replaced, some deleted."""
    rng = random.Random(seed)
    daemon.create(name, DIMENSION, durability="periodic")
    ids = [i if i % 3 else f"a rather long string id {i:05}" if i % 2 else f"s{i}"
           for i in range(rows)]
    for first in range(0, rows, 100):
        part = ids[first:first + 100]
        daemon.put_rows(name, part, harness.random_rows(seed + first, len(part), DIMENSION),
                        [{"i": i, "pad": "x" * rng.randrange(300)} if rng.random() < .7 else {}
                         for i in range(len(part))])
    again = rng.sample(ids, rows // 10)
    daemon.put_rows(name, again, harness.random_rows(seed + 1, len(again), DIMENSION))
    daemon.post(f"/databases/{name}/vectors/delete", {"ids": rng.sample(ids, rows // 20)})
    daemon.post(f"/databases/{name}/flush")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(directory of a cleanly stopped daemon, its rows)"""
    directory = tmp_path_factory.mktemp("whole") / "data"
    daemon = harness.Daemon(directory).start()
    fill(daemon, "docs", faults.SEED)
    fill(daemon, "other", faults.SEED + 1, 60)
    rows = {name: daemon.rows(name) for name in ("docs", "other")}
    daemon.stop()
    return directory, rows


def live_places(file, rng, region):
    """(offset, length) of something of this region that is in use."""
    slots = [s for s in file.slots() if s.lives]
    slot = rng.choice([s for s in slots if s.record_at])
    if region == "superblock":
        return file.superblock_at, jvdb.BLOCK
    if region == "manifest":
        return file.manifest_at, 400
    if region == "sums":
        return file.place("sums", 0), 16
    if region == "slots":
        return slot.place, 64
    if region == "id_index":
        return file.place("id_index", rng.randrange(file.index_nodes)), 1000
    if region == "vectors":
        return file.place("vectors", slot.number), DIMENSION * 4
    return file.record(slot)


def damage(path, rng, region, kind):
    """Change bytes of `region`; the offset."""
    file = jvdb.File(path)
    place, length = live_places(file, rng, region)
    with path.open("r+b") as f:
        if kind == "bit":
            at = place + rng.randrange(length)
            f.seek(at)
            f.write(bytes([file.bytes[at] ^ 1 << rng.randrange(8)]))
        elif kind == "zeros":
            at = place // jvdb.BLOCK * jvdb.BLOCK
            f.seek(at)
            f.write(bytes(jvdb.BLOCK))
        else:  # the bytes of some other block
            at = place // jvdb.BLOCK * jvdb.BLOCK
            others = [b for b in range(0, file.file_bytes, jvdb.BLOCK)
                      if file.bytes[b:b + jvdb.BLOCK] != file.bytes[at:at + jvdb.BLOCK]]
            other = rng.choice(others)
            f.seek(at)
            f.write(file.bytes[other:other + jvdb.BLOCK])
    return at


def error_of(response):
    return response.json()["error"]


def test_what_is_whole_verifies_online_and_offline(daemons, whole, tmp_path):
    directory, _ = whole
    shutil.copytree(directory, tmp_path / "data")
    for name in ("docs", "other"):
        out = cli("verify", tmp_path / "data" / f"{name}.jvdb")
        assert " 0 errors" in out and "no log" not in out
    found = json.loads(cli("verify", "--json", tmp_path / "data" / "docs.jvdb"))
    assert found["ok"] is True and found["rows_checked"] > ROWS / 2 and found["errors"] == []
    daemon = daemons(tmp_path / "data")
    answer = daemon.post("/databases/docs/verify", status=200).json()
    assert answer["ok"] is True and answer["errors"] == [] and answer["quarantined"] is False
    assert answer["rows_checked"] == found["rows_checked"]
    assert answer["blocks_checked"] == found["blocks_checked"]
    assert " 0 errors" in cli("verify", "--database", "docs", url=daemon.url)
    assert error_of(daemon.post("/databases/none/verify", status=404))["code"] == \
        "database_not_found"


def test_a_file_alone_and_one_with_an_unfinished_log_verify(daemons, tmp_path):
    daemon = daemons()
    fill(daemon)
    daemon.put_rows("docs", [9000, 9001], harness.random_rows(5, 2, DIMENSION))
    shutil.copytree(daemon.directory, tmp_path / "copy")
    assert "1 log records behind it" in cli("verify", tmp_path / "copy" / "docs.jvdb")
    daemon.post("/databases/docs/flush")
    (tmp_path / "alone").mkdir()
    shutil.copy(daemon.directory / "docs.jvdb", tmp_path / "alone")
    assert "no log beside it" in cli("verify", tmp_path / "alone" / "docs.jvdb")


@pytest.mark.parametrize("region", REGIONS)
def test_damage_of_a_region_is_found_online_and_offline(daemons, whole, tmp_path, region):
    directory, rows = whole
    rng = random.Random(f"{faults.SEED} {region}")
    for kind in ("bit", "zeros", "stale"):
        data = tmp_path / kind
        shutil.copytree(directory, data)
        at = damage(data / "docs.jvdb", rng, region, kind)
        where = f"seed {faults.SEED}, {region}, {kind} at {at}"
        found = json.loads(cli("verify", "--json", data / "docs.jvdb", status=1).splitlines()[0])
        assert found["ok"] is False and found["errors"], where
        assert found["errors"][0]["block"] == at // jvdb.BLOCK or region == "records", where

        daemon = daemons(data)
        response = daemon.request("POST", "/databases/docs/verify")
        if response.status_code == 200:  # or the opening found it: 423
            assert response.json()["ok"] is False, where
            healed = all(e["healed"] for e in response.json()["errors"])
            assert healed == (not response.json()["quarantined"]), where
            if healed:  # one of two superblocks
                assert daemon.rows("docs") == rows["docs"], where
                daemon.stop()
                continue
            errors = response.json()["errors"]
            assert response.json()["quarantined"] is True, where
            message = error_of(daemon.get("/databases/docs/vectors/1", status=423))["message"]
            assert errors[0]["message"] in message, where
        answer = error_of(daemon.post("/databases/docs/verify", status=423))
        assert answer["code"] == "database_quarantined", where
        assert "quarantined: " in answer["message"], where
        # The list says so, the rest serves, and it can be deleted.
        listed = {d["name"]: d for d in daemon.get("/databases").json()["databases"]}
        assert listed["docs"]["quarantined"] and listed["docs"]["reason"] in answer["message"]
        assert not listed["other"]["quarantined"]
        assert daemon.stats()["quarantined_databases"] == 1
        assert daemon.rows("other") == rows["other"], where
        assert daemon.post("/databases/other/verify").json()["ok"] is True
        daemon.delete("/databases/docs")
        assert not list(data.glob("docs.*")), where
        daemon.stop()


def test_the_scrub_finds_damage_by_itself(daemons, whole, tmp_path):
    directory, rows = whole
    shutil.copytree(directory, tmp_path / "data")
    damage(tmp_path / "data" / "docs.jvdb", random.Random(faults.SEED), "vectors", "bit")
    daemon = daemons(tmp_path / "data", persistence_scrub_interval_seconds=1)
    daemon.wait_log(r'database "docs" is quarantined: vectors: the row in slot \d+ is damaged')
    daemon.wait_log("scrub completed databases=2 damaged=1")
    message = error_of(daemon.get("/databases/docs/vectors/1", status=423))["message"]
    assert "vectors: the row in slot" in message
    assert daemon.rows("other") == rows["other"]
    metrics = daemon.metrics()
    assert "\njadevectordb_scrub_progress_ratio 1\n" in metrics
    scrubbed = [line for line in metrics.splitlines()
                if line.startswith("jadevectordb_scrubbed_bytes_total ")]
    assert int(scrubbed[0].split()[1]) > 100000
    assert "\njadevectordb_checksum_errors_total 1\n" in metrics


# ---- repair ----

def hit_rows(before, after, ids):
    """Ids of rows of which a byte of slot, vector or record differs; `ids` by slot."""
    changed = {i for i, (a, b) in enumerate(zip(before.bytes, after)) if a != b}
    changed |= set(range(len(after), len(before.bytes)))
    hit = set()
    for slot in before.slots():
        if not slot.lives:
            continue
        spans = [(slot.place, 64), (before.place("vectors", slot.number), DIMENSION * 4)]
        if slot.record_at:
            spans.append(before.record(slot))
        if any(at + i in changed for at, length in spans for i in range(length)):
            hit.add(ids[slot.number])
    return hit


def ids_by_slot(file):
    ids = {}
    for slot in file.slots():
        if slot.lives and slot.text_bytes:
            at, _ = file.record(slot)
            ids[slot.number] = file.bytes[at + 32:at + 32 + slot.text_bytes].decode()
        elif slot.lives:
            ids[slot.number] = slot.key
    return ids


def repair(path, output, sure):
    """(result, lines): exit status 0 only if all was rescued; sure: None means either."""
    done = subprocess.run([str(CLI), "repair", str(path), "--output", str(output), "--json"],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=120,
                          env=clean_environment(), check=False)
    assert not harness.REPORT.search(done.stderr.decode()), done.stderr.decode()
    assert done.stdout, done.stderr.decode()
    result = json.loads(done.stdout.splitlines()[0])
    assert done.returncode == (0 if result["complete"] else 1)
    if sure is not None:
        assert result["complete"] is sure, result
    return result


def rows_of(daemons, path, name="docs"):
    """Put a file where a fresh daemon adopts it; its rows."""
    data = path.parent / f"{path.name}.data"
    data.mkdir()
    shutil.copy(path, data / f"{name}.jvdb")
    daemon = daemons(data)
    assert daemon.post(f"/databases/{name}/verify").json()["ok"] is True
    rows = daemon.rows(name)
    assert daemon.count(name) == len(rows)
    daemon.post(f"/databases/{name}/vectors", {"data": [0] * DIMENSION}, 201)
    daemon.restart(kill=True)
    assert len(daemon.rows(name)) == len(rows) + 1
    daemon.stop()
    return rows


def test_repair_of_a_whole_file_is_a_copy(daemons, whole, tmp_path):
    directory, rows = whole
    result = repair(directory / "docs.jvdb", tmp_path / "new.jvdb", True)
    assert result["rows_rescued"] == len(rows["docs"]) and result["rows_lost"] == 0
    assert " 0 errors" in cli("verify", tmp_path / "new.jvdb")
    assert rows_of(daemons, tmp_path / "new.jvdb") == rows["docs"]
    assert [p.name for p in tmp_path.glob("*repair*")] == []
    out = cli("repair", directory / "docs.jvdb", "--output", tmp_path / "new.jvdb", status=1)
    assert "exists" in out


@pytest.mark.limit(120)
@pytest.mark.parametrize("region", REGIONS)
def test_repair_rescues_what_was_not_hit(daemons, whole, tmp_path, region):
    directory, rows = whole
    rng = random.Random(f"{faults.SEED} repair {region}")
    before = jvdb.File(directory / "docs.jvdb")
    ids = ids_by_slot(before)
    assert set(ids.values()) == set(rows["docs"])
    for i in range(faults.count(6, 3)):
        kind = ("bit", "zeros", "stale")[i % 3]
        path = tmp_path / f"d{i}" / "docs.jvdb"
        path.parent.mkdir()
        shutil.copy(directory / "docs.jvdb", path)
        at = damage(path, rng, region, kind)
        where = f"seed {faults.SEED}, {region}, {kind} at {at}"
        damaged = path.read_bytes()
        hit = hit_rows(before, damaged, ids)
        result = repair(path, tmp_path / f"r{i}.jvdb", None)
        assert path.read_bytes() == damaged, "the damaged file was changed"
        got = rows_of(daemons, tmp_path / f"r{i}.jvdb")
        assert len(got) == result["rows_rescued"], where
        for key, (vector, metadata) in got.items():
            assert vector == rows["docs"][key][0], f"{where}: {key!r}"
            assert metadata in (rows["docs"][key][1], {}), f"{where}: {key!r}"
            if key not in hit:
                assert metadata == rows["docs"][key][1], f"{where}: {key!r}"
        missing = set(rows["docs"]) - set(got)
        if region != "manifest":
            assert missing <= hit, f"{where}: {sorted(map(str, missing - hit))[:5]}"
            assert result["rows_lost"] == len(missing), where
        assert result["complete"] is False or got == rows["docs"], where
        if region in ("superblock", "sums", "id_index"):
            assert got == rows["docs"], where
        if region in ("sums", "id_index"):
            assert result["complete"], where


def test_repair_replays_the_log_torn_or_damaged(daemons, tmp_path):
    daemon = daemons()
    fill(daemon, rows=120)
    later = harness.random_rows(77, 10, DIMENSION)
    for i, row in enumerate(later):
        daemon.put_rows("docs", [10**6 + i], [row], [{"late": i}])
    daemon.delete("/databases/docs/vectors/1")
    rows = daemon.rows("docs")
    shutil.copytree(daemon.directory, tmp_path / "image")
    path = tmp_path / "image" / "docs.jvdb"
    result = repair(path, tmp_path / "all.jvdb", True)
    assert result["log_records"] == 11 and rows_of(daemons, tmp_path / "all.jvdb") == rows

    # The newest segment that is in use: sequence at 24, base LSN at 32.
    log = max((p for p in path.parent.glob("docs.wal.[0-9]*")
               if any(p.read_bytes()[32:40])), key=lambda p: p.read_bytes()[24:32][::-1])
    data = bytearray(log.read_bytes())
    end = len(data.rstrip(b"\0"))
    data[end // 2] ^= 4
    log.write_bytes(data)
    result = repair(path, tmp_path / "gap.jvdb", False)
    assert result["log_gaps"] == 1 and result["log_records"] == 10
    got = rows_of(daemons, tmp_path / "gap.jvdb")
    assert len(got) == len(rows) - 1 and all(rows[key] == value for key, value in got.items())


def test_repair_without_a_manifest_says_what_it_needs_and_uses_the_log(daemons, tmp_path):
    daemon = daemons()
    daemon.create("docs", DIMENSION)
    daemon.put_rows("docs", range(5), harness.random_rows(1, 5, DIMENSION))
    rows = daemon.rows("docs")
    shutil.copytree(daemon.directory, tmp_path / "image")
    path = tmp_path / "image" / "docs.jvdb"
    path.write_bytes(bytes(path.stat().st_size))
    assert "--dimension" in cli("repair", path, "--output", tmp_path / "a.jvdb", status=1)
    out = cli("repair", path, "--output", tmp_path / "a.jvdb", "--dimension", DIMENSION,
              "--metric", "euclidean", status=1)
    assert "5 rows rescued" in out and "not sure" in out
    assert rows_of(daemons, tmp_path / "a.jvdb") == rows


# ---- accept ----

def quarantine_reason(daemon, name="docs"):
    return error_of(daemon.get(f"/databases/{name}/vectors/1", status=423))["message"]


def test_an_older_copy_is_refused_until_it_is_accepted(daemons, tmp_path):
    daemon = daemons()
    fill(daemon)
    fill(daemon, "other", 3, 40)
    old, other = daemon.rows("docs"), daemon.rows("other")
    shutil.copy(daemon.directory / "docs.jvdb", tmp_path / "backup")
    daemon.put_rows("docs", range(5000, 5100), harness.random_rows(9, 100, DIMENSION))
    daemon.post("/databases/docs/flush")
    daemon.put_rows("docs", [6000], harness.random_rows(9, 1, DIMENSION))
    daemon.kill()
    shutil.copy(tmp_path / "backup", daemon.directory / "docs.jvdb")
    daemon.start()
    assert "jadevectordb-cli accept docs" in quarantine_reason(daemon)
    assert "in use by another daemon" in \
        cli("accept", "docs", "--data", daemon.directory, status=1)
    daemon.stop()

    out = cli("accept", "docs", "--data", daemon.directory)
    assert "accepted docs.jvdb as of LSN" in out and "set aside" in out
    aside = list(daemon.directory.glob("docs.wal.*~*"))
    assert aside
    assert " 0 errors" in cli("verify", daemon.directory / "docs.jvdb")
    daemon.start()
    assert daemon.rows("docs") == old and daemon.rows("other") == other
    daemon.put_rows("docs", [7000], harness.random_rows(10, 1, DIMENSION))
    want = daemon.rows("docs")
    assert len(want) == len(old) + 1
    daemon.restart()
    assert daemon.rows("docs") == want
    daemon.put_rows("docs", [7001], harness.random_rows(10, 1, DIMENSION))
    want = daemon.rows("docs")
    daemon.restart(kill=True)
    assert daemon.rows("docs") == want
    assert daemon.post("/databases/docs/verify").json()["ok"] is True
    # The log that was set aside is of no consequence any more.
    daemon.stop()
    for path in aside:
        path.unlink()
    daemon.start()
    assert daemon.rows("docs") == want


def test_a_damaged_log_can_be_left_out(daemons, tmp_path):
    daemon = daemons()
    fill(daemon, rows=60)
    old = daemon.rows("docs")
    for i in range(20):
        daemon.post("/databases/docs/vectors?durability=synced",
                    {"vector_id": 8000 + i, "data": [i] * DIMENSION})
    daemon.kill()
    log = max((p for p in daemon.directory.glob("docs.wal.[0-9]*")
               if any(p.read_bytes()[32:40])), key=lambda p: p.read_bytes()[24:32][::-1])
    data = bytearray(log.read_bytes())
    data[len(data.rstrip(b"\0")) // 2] ^= 1
    log.write_bytes(data)
    assert "log" in cli("verify", daemon.directory / "docs.jvdb", status=1)
    daemon.start()
    assert "log" in quarantine_reason(daemon)
    daemon.stop()
    out = cli("accept", "docs", "--data", daemon.directory)
    assert "its log: " in out and "left out: 19 log records" in out
    daemon.start()
    assert daemon.rows("docs") == old
    daemon.post("/databases/docs/vectors", {"vector_id": 1, "data": [1] * DIMENSION})
    daemon.restart(kill=True)
    assert daemon.post("/databases/docs/verify").json()["ok"] is True


def test_a_repaired_file_takes_the_place_of_the_damaged_one(daemons, whole, tmp_path):
    directory, rows = whole
    shutil.copytree(directory, tmp_path / "data")
    path = tmp_path / "data" / "docs.jvdb"
    damage(path, random.Random(faults.SEED), "vectors", "bit")
    daemon = daemons(tmp_path / "data")
    daemon.post("/databases/docs/verify")
    daemon.stop()
    assert repair(path, tmp_path / "docs.jvdb", False)["rows_lost"] == 1
    shutil.move(tmp_path / "docs.jvdb", path)
    cli("accept", "docs", "--data", tmp_path / "data")
    daemon.start()
    got = daemon.rows("docs")
    assert len(got) == len(rows["docs"]) - 1
    assert all(rows["docs"][key] == row for key, row in got.items())
    assert daemon.rows("other") == rows["other"]
    daemon.restart()
    assert daemon.rows("docs") == got


def test_accept_refuses_what_it_cannot_make_right(daemons, whole, tmp_path):
    directory, _ = whole
    shutil.copytree(directory, tmp_path / "data")
    assert "there is no nothing.jvdb" in \
        cli("accept", "nothing", "--data", tmp_path / "data", status=1)
    assert "cannot open" in cli("accept", "docs", "--data", tmp_path / "none", status=1)
    path = tmp_path / "data" / "docs.jvdb"
    path.write_bytes(bytes(path.stat().st_size))
    assert "repair" in cli("accept", "docs", "--data", tmp_path / "data", status=1)
    assert not list((tmp_path / "data").glob("*~*"))


def flip_cells(path, region, cells):
    """One byte in each of some cells of the search index."""
    file = df.Jvdb(path.read_bytes())
    with open(path, "r+b") as stream:  # in place: it may be mapped
        for cell in cells:
            at = file.place(region, cell) + 9
            stream.seek(at)
            stream.write(bytes([file.data[at] ^ 4]))


def test_damage_of_the_search_index_is_told_and_costs_no_row(daemons):
    daemon = daemons(persistence_flush_interval_seconds=3600)
    daemon.create("docs", DIMENSION, index={"type": "hnsw"})
    daemon.put_rows("docs", range(400), harness.random_rows(1, 400, DIMENSION))
    daemon.wait_index("docs")
    daemon.post("/databases/docs/flush")
    path, rows = daemon.directory / "docs.jvdb", daemon.rows("docs")

    def verified(bad):
        answer = daemon.post("/databases/docs/verify").json()
        assert answer["ok"] is True and answer["quarantined"] is False
        assert answer["index_cells_checked"] == 800 and answer["index_cells_bad"] == bad, answer

    verified(0)
    flip_cells(path, "codes", (5, 6))
    flip_cells(path, "links", (300,))
    verified(3)
    verified(0)  # memory had them right
    daemon.stop()
    flip_cells(path, "links", (7, 8, 9))
    out = cli("verify", path)
    assert "3 of 800 codes and links are bad" in out and " 0 errors" in out
    assert json.loads(cli("verify", "--json", path))["index_cells_bad"] == 3
    daemon.start()
    assert daemon.rows("docs") == rows
    assert daemon.wait_index("docs")["indexed_count"] == 400
    daemon.restart()
    assert daemon.rows("docs") == rows
    assert daemon.wait_index("docs")["indexed_count"] == 400
    verified(0)


def test_what_is_linked_is_linked_after_a_restart(daemons):
    daemon = daemons()
    daemon.create("docs", DIMENSION, index={"type": "hnsw"})
    daemon.put_rows("docs", range(5000), harness.random_rows(1, 5000, DIMENSION))
    daemon.wait_index("docs")
    daemon.restart()
    daemon.rows("docs", limit=10)
    index = daemon.get("/databases/docs/stats").json()["index"]
    assert index["state"] == "ready" and index["indexed_count"] == 5000, index
    daemon.restart(kill=True)  # nothing was written since
    daemon.rows("docs", limit=10)
    index = daemon.get("/databases/docs/stats").json()["index"]
    assert index["state"] == "ready" and index["indexed_count"] == 5000, index

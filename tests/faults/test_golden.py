"""Files that released versions left behind read as what was written, bit for bit, for ever."""
import base64
import json
import pathlib
import sys
import tarfile

import pytest

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parent),
                str(pathlib.Path(__file__).resolve().parents[1] / "golden")]

import disk_format as df  # noqa: E402
import make  # noqa: E402  (tests/golden/make.py)

CASES = sorted(make.HERE.glob("v*/*.tar.xz"))


def name_of(path):
    return f"{path.parent.name}-{path.name.split('.')[0]}"


def unpack(path, directory):
    directory.mkdir()
    with tarfile.open(path) as tar:
        tar.extractall(directory)
    with open(path.with_name(path.name.split(".")[0] + ".json"), encoding="utf-8") as stream:
        return json.load(stream)


def test_there_are_golden_files_of_this_version():
    assert {name_of(path) for path in CASES} >= {
        "v2-clean", "v2-crashed", "v2-checkpoint", "v2-lone"}


@pytest.mark.parametrize("path", CASES, ids=name_of)
def test_golden_files_read_as_what_was_written(daemons, tmp_path, path):
    want = unpack(path, tmp_path / "data")
    daemon = daemons(tmp_path / "data")
    assert make.contents(daemon) == want
    daemon.restart()
    assert make.contents(daemon) == want
    for name, one in want.items():  # and each row by its id, by searching, and by counting
        assert daemon.count(name) == len(one["rows"])
        for vector_id, bits, metadata, _ in one["rows"][::7]:
            row = daemon.post(f"/databases/{name}/vectors/get",
                              {"ids": [vector_id], "include": ["data", "metadata"]}).json()
            assert make.harness.bits(row["vectors"][0]["data"]) == base64.b64decode(bits)
            assert row["vectors"][0]["metadata"] == metadata
        if one["rows"]:
            found = daemon.search(name, [1.0] * one["info"]["dimension"], len(one["rows"]))
            assert {r["vector_id"] for r in found} == {r[0] for r in one["rows"]}


@pytest.mark.parametrize("path", CASES, ids=name_of)
def test_golden_files_go_on_as_new_ones_do(daemons, tmp_path, path):
    want = unpack(path, tmp_path / "data")
    daemon = daemons(tmp_path / "data")
    for name, one in want.items():
        daemon.put_rows(name, ["written now"], [[1.0] * one["info"]["dimension"]], [{"now": 1}])
        if one["rows"]:
            daemon.post(f"/databases/{name}/vectors/delete", {"ids": [one["rows"][0][0]]})
    for kill in (True, False):
        daemon.restart(kill=kill)
        for name, one in make.contents(daemon).items():
            old = [row for row in one["rows"] if row[0] != "written now"]
            assert old == want[name]["rows"][1:] and len(one["rows"]) == len(old) + 1
        daemon.post("/storage/flush", {})


@pytest.mark.parametrize("what", ("version", "incompat", "ro_compat"))
@pytest.mark.parametrize("path", [p for p in CASES if name_of(p) != "v2-lone"], ids=name_of)
def test_golden_files_made_newer_are_refused_and_not_touched(daemons, tmp_path, path, what):
    unpack(path, tmp_path / "data")
    for jvdb in (tmp_path / "data").glob("*.jvdb"):
        file = df.Jvdb(jvdb.read_bytes())
        for at in (0, df.BLOCK):
            if what == "version":
                file.put(at, df.SUPERBLOCK, "format_version", 3)
            else:
                file.put(at, df.SUPERBLOCK, f"features_{what}", 1)
            file.put_crc(at, df.SUPERBLOCK, at, at + 4092)
        jvdb.write_bytes(file.data)
    before = {p.name: p.read_bytes() for p in (tmp_path / "data").iterdir() if p.name[0] != "."}
    daemon = daemons(tmp_path / "data")
    for name in {n.split(".")[0] for n in before}:
        for method, rest, body in (("GET", "/vectors", None), ("POST", "/count", {}),
                                   ("POST", "/vectors", {"data": [1.0]}), ("POST", "/flush", {})):
            answer = daemon.request(method, f"/databases/{name}{rest}", 423, json=body)
            assert f'"{name}"' in answer.json()["error"]["message"]
    daemon.stop()
    after = {p.name: p.read_bytes() for p in (tmp_path / "data").iterdir() if p.name[0] != "."}
    assert after == before

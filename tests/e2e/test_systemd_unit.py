"""The unit file: it is well formed, it is as hardened as promised, and `make install` fits it in."""
import pathlib
import re
import shutil
import subprocess

import pytest

TOP = pathlib.Path(__file__).resolve().parents[2]
UNIT = TOP / "systemd" / "jadevectordb.service"
EXPOSURE_MAX = 1.5

needs_systemd = pytest.mark.skipif(
    not shutil.which("systemd-analyze"),
    reason="SKIPPED CHECK OF THE UNIT FILE: systemd-analyze is not installed (apt-get install systemd)")


def run(*command):
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=60,
                          check=False)


@pytest.fixture
def installed(tmp_path):
    """The unit as `make install PREFIX=...` writes it, with a program where it says."""
    prefix = tmp_path / "prefix"
    (prefix / "bin").mkdir(parents=True)
    shutil.copy("/bin/true", prefix / "bin" / "jadevectordb")
    (prefix / "share/doc/jadevectordb").mkdir(parents=True)
    (prefix / "share/doc/jadevectordb/README.md").touch()
    unit = tmp_path / "jadevectordb.service"
    unit.write_text(UNIT.read_text().replace("/usr/local/", f"{prefix}/"))
    return unit


@needs_systemd
def test_unit_file_is_well_formed(installed):
    done = run("systemd-analyze", "verify", "--man=no", installed)
    # A folder of tests may be less strictly owned than /etc; that is not the unit's fault.
    complaints = [line for line in (done.stdout + done.stderr).splitlines()
                  if "jadevectordb" in line and "marked" not in line]
    assert done.returncode == 0 and not complaints, done.stdout + done.stderr


@needs_systemd
def test_socket_unit_is_well_formed_and_its_port_is_allowed(installed):
    text = UNIT.with_suffix(".socket").read_text()
    unit = installed.with_suffix(".socket")
    unit.write_text(text.replace("/usr/local/", f"{installed.parent}/prefix/"))
    done = run("systemd-analyze", "verify", "--man=no", unit)
    assert done.returncode == 0 and "jadevectordb.socket" not in done.stderr, done.stdout + done.stderr
    streams = re.findall(r"^ListenStream=(\S+)$", text, re.M)  # the daemon takes exactly one
    assert streams == ["127.0.0.1:8080"]


@needs_systemd
@pytest.mark.parametrize("which", ["in the repository", "installed"])
def test_exposure_is_low(installed, which):
    unit = UNIT if which == "in the repository" else installed
    done = run("systemd-analyze", "security", "--offline=true", "--no-pager", unit)
    score = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert score, done.stdout + done.stderr
    assert float(score.group(1)) <= EXPOSURE_MAX, done.stdout


def test_unit_and_its_companions_name_the_same_user_and_folders():
    unit = UNIT.read_text()
    user = re.search(r"^User=(\S+)$", unit, re.M).group(1)
    assert f"u {user} " in (UNIT.parent / "jadevectordb.sysusers").read_text()
    folders = (UNIT.parent / "jadevectordb.tmpfiles").read_text()
    for folder in re.search(r"^StateDirectory=(.+)$", unit, re.M).group(1).split():
        assert re.search(rf"^d /var/lib/{folder} +0750 {user} {user} -$", folders, re.M)
    config = (TOP / "config" / "production-balanced.json").read_text()
    assert '"/var/lib/jadevectordb/data"' in config
    assert "--config /etc/jadevectordb/config.json" in unit

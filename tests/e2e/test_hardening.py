"""The programs are built as docs/OPERATIONS.md says: what a bug in them could do is limited."""
import re
import shutil
import subprocess

import pytest

from harness import BIN, CLI, SANITIZER

pytestmark = [pytest.mark.skipif(not shutil.which("readelf"), reason="readelf is not installed"),
              pytest.mark.parametrize("program", [BIN, CLI], ids=["daemon", "cli"])]


def readelf(program, *options):
    return subprocess.run(["readelf", "-W", *options, str(program)], check=True, text=True,
                          capture_output=True).stdout


def test_addresses_are_random_and_relocations_read_only(program):
    assert re.search(r"Type:\s+DYN", readelf(program, "-h"))
    dynamic = readelf(program, "-d")
    assert re.search(r"FLAGS_1\).*\bNOW\b.*\bPIE\b", dynamic), dynamic
    assert not re.search(r"\((RPATH|RUNPATH|TEXTREL)\)", dynamic)
    assert "GNU_RELRO" in readelf(program, "-l")


def test_nothing_is_both_writable_and_executable(program):
    segments = re.findall(r"^  (\S+)\s+(?:0x\S+\s+){5}([RWE ]{3})", readelf(program, "-l"), re.M)
    assert ("GNU_STACK", "RW ") in segments, segments
    assert len(segments) > 8
    assert not [name for name, rights in segments if "W" in rights and "E" in rights]


@pytest.mark.skipif(SANITIZER is not None, reason="release and debug builds alone")
def test_stacks_are_guarded_and_copies_bounded(program):
    symbols = readelf(program, "--dyn-syms")
    assert "__stack_chk_fail" in symbols
    assert len(set(re.findall(r"\b__\w+_chk\b", symbols)) - {"__stack_chk_fail"}) >= 3  # _FORTIFY_SOURCE

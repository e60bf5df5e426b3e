"""Damaged data directories: everything that is answered is right, or an error names the database.

FAULT_SCALE=5 is 5,000 mutants of a cleanly stopped directory; FAULT_SCALE=10 on the ASan build
(JADEVECTORDB_BIN) is more than 1,000 forged files.
"""
import collections
import json
import os
import pathlib
import pickle
import subprocess
import sys

import pytest

import faults
import gold
import harness

WORKERS = 2


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    """The undamaged directories, in a file that the workers read."""
    top = tmp_path_factory.mktemp("gold")
    made = gold.Gold(top).build()
    with open(top / "gold.pickle", "wb") as stream:
        pickle.dump(made, stream)
    return top / "gold.pickle"


def sweep(program, truth, kind, total, *more):
    """All mutants, by several processes; the sum of what they say."""
    script = pathlib.Path(__file__).with_name(program)
    workers = [subprocess.Popen(
        [sys.executable, script, truth, truth.parent / f"{program}{kind}{i}", kind,
         str(faults.SEED), str(i), str(WORKERS), str(total), *more], stdout=subprocess.PIPE,
        env={**os.environ, "JADEVECTORDB_BIN": str(harness.BIN)},
        preexec_fn=harness.die_with_parent) for i in range(WORKERS)]
    verdicts, kinds, bad = collections.Counter(), collections.Counter(), []
    try:
        for worker in workers:
            output, _ = worker.communicate()
            assert worker.returncode == 0, f"{program} ended with {worker.returncode}"
            part = json.loads(output)
            verdicts.update(part["verdicts"])
            kinds.update(part["kinds"])
            bad += part["bad"]
    finally:
        for worker in workers:
            if worker.poll() is None:
                worker.kill()
                worker.wait()
    print(f"{total} mutants of the {kind} directory, FAULT_SEED={faults.SEED}: {dict(verdicts)}; "
          f"{dict(kinds)}")
    assert not bad, "\n".join(
        [f"{len(bad)} of {total} mutants; FAULT_SEED={faults.SEED} FAULT_SCALE={faults.SCALE:g}, "
         f"or {program} {truth} DIR {kind} {faults.SEED} --keep NUMBER"]
        + [f"{b['mutant']}: {b['verdict']}: {b['what']}: {b['why']}" for b in bad[:20]])
    return verdicts


@pytest.mark.limit(120 * max(1, faults.SCALE))
def test_damage_to_a_cleanly_stopped_directory_is_never_silent(truth):
    total = faults.count(1000)
    verdicts = sweep("mutate.py", truth, "clean", total)
    assert sum(verdicts.values()) == total
    assert verdicts["refused"] > total / 10 and verdicts["exact"] > total / 10
    assert verdicts["tail"] == 0


@pytest.mark.limit(120 * max(1, faults.SCALE))
def test_damage_after_a_crash_costs_at_most_the_last_records_of_the_log(truth):
    total = faults.count(300)
    verdicts = sweep("mutate.py", truth, "crashed", total)
    assert sum(verdicts.values()) == total
    assert verdicts["refused"] > total / 20 and verdicts["exact"] > total / 20


@pytest.mark.limit(180 * max(1, faults.SCALE))
@pytest.mark.parametrize("kind", ("clean", "crashed"))
def test_forged_fields_under_right_checksums_are_survived(truth, kind):
    total = max(10, int(60 * faults.SCALE))
    verdicts = sweep("hostile.py", truth, kind, total)
    assert verdicts == {"survived": total}

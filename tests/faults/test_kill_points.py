"""Killed at its k-th call that changes files, k = 1, 2, ... until a run is not killed: what was
acknowledged is there, what was not is wholly there or absent, and the next start takes no second.

Counted over the process by count_shim.c: write, pwrite, pwritev, fsync, fdatasync, ftruncate,
fallocate, rename, unlink.  Where the call is a write there is a second run that is killed when half
of it is written.  At FAULT_SCALE=1 a part of all k, from an offset that the seed chooses; all of
them with FAULT_SCALE=4 and more.
"""
import concurrent.futures
import itertools
import random
import shutil
import threading

import pytest

import workloads as w
from faults import SCALE, SEED
from harness import SANITIZER, TIME_SCALE
from shim import KILL, KILL_HALF, PERSISTENCE, WRITE, Case, Gone, kind_name, needs_shim

ALL = SCALE >= 4
STRIDE = 1 if ALL else max(2, round((40 if SANITIZER else 10) / SCALE))
START_LIMIT_S = 1.0 * TIME_SCALE
PARALLEL = 2

pytestmark = needs_shim


# ---- workloads: what is there before, and what is asked for under the shim ----

def base_ops():
    return [w.create("a"), w.create("b"), w.batch("a", range(12), 1), w.batch("b", ["x", "y"], 1),
            w.flush(), w.put("a", 3, 3, 3, 3, late="yes")]


def insert_ops():
    return [w.put("a", 100, 1, 2, 3), w.put("a", 3, 9, 9, 9, n=1), w.put("b", "x", 1, 1, 1),
            w.put("a", "text", 0, 0, 0, n=2), w.put("b", 7, 7, 7, 7)]


def batch_ops():
    return [w.batch("a", range(100, 110), 2), w.batch("a", range(5, 12), 3),
            w.batch("b", ["x", "y", "z"], 2), w.batch("a", range(200, 290), 4, pad=1000),
            w.batch("a", ["s", 1, "t"], 5)]


def delete_ops():
    return [w.delete("a", 1), w.delete("b", "x"), w.delete_many("a", [2, 3, 4, 99]),
            w.put("a", 1, 4, 4, 4), w.delete_many("a", range(12)), w.delete("b", "y")]


def checkpoint_ops():
    return [w.put("a", 100, 1, 2, 3), w.flush("a"), w.delete("a", 5), w.put("b", 1, 1, 1, 1),
            w.flush(), w.batch("a", range(3, 9), 7), w.flush("a"), w.put("a", 6, 6, 6, 6)]


def compact_ops():
    return [w.delete_many("a", range(9)), w.compact("a"), w.put("a", 100, 1, 2, 3),
            w.delete("a", 100), w.compact("a"), w.put("a", 101, 1, 2, 3)]


def linked_base_ops():
    """A database that is large enough for a graph, and one that is not."""
    return [w.create("a", index={"type": "hnsw"}), w.create("b", index={"type": "hnsw"}),
            w.batch("a", range(1000, 1300), 1), w.batch("b", ["x", "y"], 1), w.Linked("a"),
            w.flush(), w.put("a", 3, 3, 3, 3)]


def linked_ops():
    return [w.batch("a", range(1290, 1320), 2), w.Linked("a"), w.flush("a"),
            w.delete_many("a", range(1000, 1040)), w.batch("a", range(2000, 2010), 3),
            w.flush("a"), w.batch("b", range(290), 1), w.Linked("b"), w.flush(), w.compact("a"),
            w.put("a", 4, 4, 4, 4)]


def create_ops():
    return [w.create("c"), w.put("c", 1, 1, 1, 1), w.create("d", 5), w.create("e")]


def drop_ops():
    return [w.drop("b"), w.put("a", 100, 1, 1, 1), w.drop("a"), w.create("b", 3),
            w.put("b", 1, 2, 3, 4), w.drop("b")]


def restore_ops():
    return [w.restore("new", range(40)), w.restore("a", range(6, 20)),
            w.restore("more", ["q", 1, "r"])]


def eviction_ops():
    names = [f"db{i}" for i in range(7)]
    return [*(w.put(name, 1, i, i, i) for i, name in enumerate(names)),
            *(w.listing(name) for name in names[:3]),
            *(w.put(name, "again", i, i, i) for i, name in enumerate(names))]


def mixed_ops():
    """Leaves something for every part of a recovery, killed anywhere."""
    return [w.put("a", 100, 1, 2, 3), w.batch("b", range(5), 2), w.flush("a"), w.delete("a", 3),
            w.create("c"), w.put("c", 1, 1, 1, 1), w.flush(), w.drop("b"), w.put("a", 4, 1, 1, 1)]


WORKLOADS = {
    "insert": (base_ops, insert_ops, {}),
    "batch": (base_ops, batch_ops, {}),
    "delete": (base_ops, delete_ops, {}),
    "checkpoint": (base_ops, checkpoint_ops, {}),
    "compact": (base_ops, compact_ops, {}),
    "linked": (linked_base_ops, linked_ops, {}),
    "create": (base_ops, create_ops, {}),
    "drop": (base_ops, drop_ops, {}),
    "restore": (base_ops, restore_ops, {}),
    "eviction": (lambda: [op for i in range(7) for op in
                          (w.create(f"db{i}"), w.put(f"db{i}", 0, i, 0, 0))],
                 eviction_ops, {"persistence_max_open_files": 5}),
}


def apply_all(ops, http, model):
    for op in ops:
        status, answer = op.send(http)
        assert status in (200, 201), (str(op), status, answer)
        model = op.after(model)
    return model


def make_base(folder, ops, options):
    """(directory, model) after `ops` and a clean stop."""
    case = Case(folder, **options)
    model = apply_all(ops, case.serve(shimmed=False), {})
    assert case.stop() == 0
    return case.data, model


# ---- one run ----

class Outcome:
    def __init__(self):
        self.lock = threading.Lock()
        self.runs = self.kills = 0
        self.slowest_s = 0.0

    def add(self, start_s, killed):
        with self.lock:
            self.runs += 1
            self.kills += killed
            self.slowest_s = max(self.slowest_s, start_s)


def run_ops(case, ops, model):
    """All of `ops` and a stop, or up to a kill: (the models that may be stored, the exit code)."""
    possible = [model]
    try:
        http = case.serve()
        for op in ops:
            possible = op.between(model)
            status, answer = op.send(http)
            assert status in (200, 201), (str(op), status, answer)
            model = op.after(model)
            possible = [model]
            if op.method == "GET":
                name = op.path.split("/")[2]
                assert w.rows_of(answer) == model[name], f"{op} is wrong"
    except Gone:
        return possible, case.daemon.wait_exit()
    return possible, case.stop()


def check_after(case, possible, thorough):
    """What a start without the shim finds is one of the possible models; and it works on.  How long
    the first start took."""
    kept = case.folder / "kept"
    shutil.copytree(case.data, kept)
    http = case.serve(shimmed=False)
    first_s = case.started_s
    if case.started_s >= START_LIMIT_S:  # once more: others use this machine, too
        case.kill()
        shutil.rmtree(case.data)
        kept.rename(case.data)
        http = case.serve(shimmed=False)
    assert case.started_s < START_LIMIT_S, f"the start took {case.started_s:.3f} s"
    got = w.read_all(http)
    assert got in possible, " or ".join(w.difference(got, one) for one in possible)
    if thorough:
        for name in got:
            if name != "d":  # of another dimension
                got = apply_all([w.put(name, 4711, 4, 7, 1)], http, got)
        got = apply_all([w.create("fresh"), w.put("fresh", 1, 1, 1, 1)], http, got)
        case.kill()
        http = case.serve(shimmed=False)
        assert w.read_all(http) == got, "after a second kill"
        assert case.stop() == 0
        http = case.serve(shimmed=False)
        assert w.read_all(http) == got, "after a clean stop"
    case.kill()
    return first_s


def killed_at(folder, base, workload, k, action, outcome):
    """One run; the kind of call it was killed at, or None."""
    directory, model, ops, options = base
    case = Case(folder, directory, **options)
    try:
        case.shim.arm(PERSISTENCE, k, action)
        possible, code = run_ops(case, ops, model)
        hits = case.shim.hits
        assert code == (-9 if hits else 0), f"exit code {code}"
        outcome.add(check_after(case, possible, thorough=k % 5 == 0), bool(hits))
        return hits[0][0] if hits else None
    except BaseException as error:
        hits = case.shim.hits
        raise AssertionError(
            f"{workload}, killed at call {k} {[(kind_name(n), f) for n, f in hits]}"
            f"{' after half of it' if action == KILL_HALF else ''}: {error}\n"
            f"FAULT_SEED={SEED} FAULT_SCALE={SCALE:g} replays it\n{case.log()}") from error
    finally:
        case.remove()


def in_parallel(jobs):
    """Run an endless iterator of jobs, until one says that it was the last."""
    ended = threading.Event()

    def one(job):
        if not ended.is_set() and not job():
            ended.set()

    with concurrent.futures.ThreadPoolExecutor(PARALLEL) as pool:
        waiting = set()
        try:
            while not ended.is_set():
                while len(waiting) < PARALLEL:
                    waiting.add(pool.submit(one, next(jobs)))
                done, waiting = concurrent.futures.wait(
                    waiting, return_when=concurrent.futures.FIRST_COMPLETED)
                for future in done:
                    future.result()
            for future in waiting:
                future.result()
        finally:
            ended.set()


def all_kill_points(tmp_path, workload, base, first, stride):
    outcome = Outcome()

    def job(k):
        def run():
            kind = killed_at(tmp_path / f"kill{k}", base, workload, k, KILL, outcome)
            if kind == WRITE:
                killed_at(tmp_path / f"half{k}", base, workload, k, KILL_HALF, outcome)
            return kind is not None
        return run

    in_parallel(job(k) for k in itertools.count(first, stride))
    print(f"{workload}: {outcome.runs} runs, {outcome.kills} kills, "
          f"slowest start {outcome.slowest_s * 1000:.0f} ms")
    return outcome


def crashed_at(folder, base, k):
    """(directory, the models that it may hold) after a kill at call `k`; None: beyond the end."""
    directory, model, ops, options = base
    case = Case(folder, directory, **options)
    case.shim.arm(PERSISTENCE, k, KILL)
    possible, code = run_ops(case, ops, model)
    if code == -9:
        return case.data, possible
    case.remove()
    return None


def recovery_killed_at(folder, crashed, first_kill, k, action, outcome):
    """Start, have every database opened, and be killed in that; the kind of call, or None."""
    directory, possible = crashed
    case = Case(folder, directory)
    try:
        case.shim.arm(PERSISTENCE, k, action)
        try:
            got = w.read_all(case.serve())
            assert got in possible, " or ".join(w.difference(got, one) for one in possible)
            case.shim.disarm()
            case.kill()
        except Gone:
            assert case.daemon.wait_exit() == -9 and case.shim.hits
        hits = case.shim.hits
        start_s = check_after(case, possible, thorough=(first_kill + k) % 5 == 0)
        outcome.add(start_s, bool(hits))
        return hits[0][0] if hits else None
    except BaseException as error:
        raise AssertionError(
            f"killed at call {first_kill} and in the recovery at call {k}"
            f" {[(kind_name(n), f) for n, f in case.shim.hits]}: {error}\n"
            f"FAULT_SEED={SEED} FAULT_SCALE={SCALE:g} replays it\n{case.log()}") from error
    finally:
        case.remove()


def has_compact(tmp_path):
    case = Case(tmp_path / "probe")
    try:
        http = case.serve(shimmed=False)
        w.create("a").send(http)
        return w.compact("a").send(http)[0] == 200
    finally:
        case.remove()


@pytest.mark.limit(3000 if ALL else 120)
@pytest.mark.parametrize("workload", WORKLOADS)
def test_a_kill_at_any_call_loses_nothing(tmp_path, workload):
    make, ops, options = WORKLOADS[workload]
    if workload == "compact" and not has_compact(tmp_path):
        pytest.skip("POST /databases/{db}/compact is not there: ITS KILL POINTS ARE NOT TESTED")
    directory, model = make_base(tmp_path / "base", make(), options)
    base = (directory, model, ops(), options)
    first = 1 if ALL else random.Random(f"{SEED}/{workload}").randrange(1, STRIDE + 1)
    outcome = all_kill_points(tmp_path, workload, base, first, STRIDE)
    assert outcome.kills > 0


@pytest.mark.limit(6000 if ALL else 120)
def test_a_kill_at_any_call_of_a_recovery_loses_nothing(tmp_path):
    directory, model = make_base(tmp_path / "base", base_ops(), {})
    base = (directory, model, mixed_ops(), {})
    outcome = Outcome()
    stride = max(1, round(20 / SCALE))
    rng = random.Random(f"{SEED}/recovery")
    for first_kill in itertools.count(rng.randrange(1, stride + 1), stride):
        crashed = crashed_at(tmp_path / f"crash{first_kill}", base, first_kill)
        if not crashed:
            break

        def job(k):
            def run():
                kind = recovery_killed_at(tmp_path / f"again{k}", crashed, first_kill, k, KILL,
                                          outcome)
                if kind == WRITE and ALL:
                    recovery_killed_at(tmp_path / f"half{k}", crashed, first_kill, k, KILL_HALF,
                                       outcome)
                return kind is not None
            return run

        in_parallel(job(k) for k in itertools.count(1 if ALL else rng.randrange(1, STRIDE + 1),
                                                    STRIDE))
        shutil.rmtree(crashed[0].parent)
    print(f"recovery: {outcome.runs} runs, {outcome.kills} kills, "
          f"slowest start {outcome.slowest_s * 1000:.0f} ms")
    assert outcome.kills > 0

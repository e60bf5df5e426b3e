"""The k-th call of one kind fails with EIO or ENOSPC, once or from then on; k = 1, 2, ... until a
run has no such call.  Whatever fails: the daemon does not crash, does not acknowledge a write that
is missing later, does not show one that it refused, and does not serve wrong rows; a database whose
sync failed takes no more writes; the other databases go on.

A run is a fixed list of requests to a daemon under count_shim.c, then a stop or a kill, then a
start without faults.  At FAULT_SCALE=1 a part of all k, chosen by the seed; all with FAULT_SCALE=4.
"""
import copy
import errno
import itertools
import random
import re

import pytest

import workloads as w
from faults import SCALE, SEED
from harness import SANITIZER
from shim import FAIL, KINDS, SHORT, WRITE, Case, Gone, kind_name, needs_shim
from test_kill_points import crashed_at, in_parallel, make_base

ALL = SCALE >= 4
# About how many calls of a kind a run has, to choose some from all of them.
CALLS = {"open": 180, "read": 240, "write": 300, "fsync": 180, "ftruncate": 2, "fallocate": 46,
         "rename": 36, "unlink": 35, "mmap": 80}
CALLS_OF_START = {"open": 40, "read": 60, "write": 30, "fsync": 20, "mmap": 20}
NOT_OF_A_START = ("ftruncate",)
CHOSEN = (1 if SANITIZER else 2) * SCALE


def stride(name, calls):
    return 1 if ALL else max(1, round(calls.get(name, 2) / CHOSEN))
OPTIONS = {"persistence_max_open_files": 5}
NAMES = [f"db{i}" for i in range(7)]

pytestmark = needs_shim


def base_ops():
    return [*(w.create(name) for name in NAMES), *(w.batch(name, range(4), 1) for name in NAMES),
            w.flush(), *(w.put(name, "late", 1, 2, 3, late=1) for name in NAMES[:3])]


def crash_ops():
    return [w.put("db0", 100, 1, 1, 1), w.create("new"), w.put("new", 1, 1, 1, 1),
            w.put("db1", 5, 1, 1, 1), w.flush("db1"), w.drop("db6"), w.put("db1", 6, 1, 1, 1)]


def requests():
    """Every path that touches files, with more databases than may be open."""
    return [
        w.put("db0", 10, 1, 1, 1, n=1), w.listing("db0"), w.put("db0", 10, 2, 2, 2, n=2),
        w.batch("db1", range(2, 8), 2), w.listing("db1"), w.delete("db0", 1),
        w.batch("db0", range(20, 100), 3, pad=1000), w.listing("db0"),
        w.flush("db0"), w.put("db0", 11, 1, 1, 1), w.create("new"), w.put("new", 1, 1, 1, 1),
        w.put("db2", 10, 1, 1, 1), w.delete_many("db2", [0, 1]), w.listing("db2"),
        *(w.listing(name) for name in NAMES[3:]), w.put("db3", 0, 5, 5, 5), w.flush(),
        w.compact("db0"), w.listing("db0"), w.put("db0", 12, 1, 1, 1), w.drop("db4"),
        w.put("db1", 10, 1, 1, 1), w.restore("other", range(9)), w.create("db4"),
        w.put("db4", 1, 1, 1, 1), w.drop("new"), *(w.listing(name) for name in NAMES),
        w.put("db5", 1, 7, 7, 7), w.put("db0", 13, 1, 1, 1), w.flush("db5"), w.listing("db5"),
    ]


def refusals(kind, code):
    """What a client may be told.  A full disk is no reason to give up a database, unless a sync fails
    with it, or the last step of a checkpoint, which reads the .ckpt and writes over what is there."""
    if code == errno.EIO:
        return {(500, "internal"), (500, "corrupt"), (503, "database_read_only"),
                (423, "database_quarantined")}
    allowed = {(507, "storage_full")}
    if kind in (KINDS["fsync"], KINDS["write"], KINDS["read"]):
        allowed.add((503, "database_read_only"))
    if kind == KINDS["fsync"]:
        allowed.add((423, "database_quarantined"))
    return allowed


NOT_THERE = {(404, "database_not_found"), (404, "vector_not_found"), (409, "database_exists")}


def database_of(path):
    """Which database a file belongs to, or None."""
    match = re.search(r"(?:^|/)([^/.]+)\.(jvdb|ckpt|new|wal\.\w+)$", path)
    return match and match.group(1)


def must_stay_synced(path):
    """A file whose database takes no more writes after a failed sync of it: not one that is only
    being made, and is made anew."""
    return re.search(r"\.(jvdb|wal\.\d+)$", path)


def is_creation(op):
    return op.method == "POST" and op.path.startswith("/databases/") and op.path.count("/") == 2


class Run:
    """What was asked and answered, and what may therefore be stored."""

    def __init__(self, case, model, kind, code):
        self.case, self.code = case, code
        self.refusals = refusals(kind, code)
        self.heard = 0            # hits that were taken note of
        self.model = model        # what is acknowledged, as far as it is certain
        self.in_doubt = {}        # database: its contents if the write that was in doubt counts
        self.frozen = set()       # databases whose sync failed: no more writes
        self.read_only = set()    # those that said so
        self.perhaps_dropped = set()
        self.notes = []

    def new_hits(self):
        hits = self.case.shim.hits[self.heard:]
        self.heard += len(hits)
        return hits

    @staticmethod
    def unsynced(hits):
        return {database_of(path) for kind, path in hits
                if kind == KINDS["fsync"] and must_stay_synced(path)}

    def send(self, op):
        self.frozen |= self.unsynced(self.new_hits())  # since the last request was answered
        status, answer = op.send(self.case.http)
        new_hits = self.new_hits()
        word = answer.get("error", {}).get("code", "") if status >= 400 else ""
        self.notes.append(f"{op}: {status} {word}"
                          f"{''.join(f' [{kind_name(k)} {n}]' for k, n in new_hits)}")
        if op.path.endswith("/compact") and word == "not_found":
            return status
        name = op.path.split("/")[2] if op.path.startswith("/databases/") else None
        if status in (200, 201):
            self.acknowledged(op, name, answer, self.unsynced(new_hits))
        else:
            self.refused(op, name, status, word, new_hits)
        self.frozen |= self.unsynced(new_hits)
        return status

    def acknowledged(self, op, name, answer, own):
        if op.method == "GET":
            assert name in self.model, f"{op}: a database that was never made"
            assert w.rows_of(answer) == self.model[name], \
                f"{op}: {w.difference({name: w.rows_of(answer)}, {name: self.model[name]})}"
        if not op.writes:
            return
        made_or_dropped = op.path.count("/") == 2
        assert made_or_dropped or name not in self.frozen, f"{op}: 2xx after a failed sync"
        assert made_or_dropped or name not in own, f"{op}: 2xx although its own sync failed"
        self.model = op.after(self.model)
        if made_or_dropped:
            self.frozen.discard(name)
            self.in_doubt.pop(name, None)

    def refused(self, op, name, status, word, new_hits):
        allowed = self.refusals
        try:
            after = op.after(self.model)
        except KeyError:  # of a row or a database whose creation was refused
            allowed = allowed | NOT_THERE
            after = self.model
        if op.path.endswith("/restore"):
            # refused behind its first step: the database is made, its rows are not stored
            made = self.case.http("GET", f"/databases/{name}")[0] in (200, 423)
            if made and name not in self.model:
                self.model = {**self.model, name: {}}
        if name and (name in self.model) == is_creation(op):
            allowed = allowed | NOT_THERE
        assert (status, word) in allowed, f"{op}: {status} {word}"
        hit = {database_of(path) for _, path in self.case.shim.hits}
        # A restore makes a database that is missing: no more of that once the catalog failed.
        makes = (op.path.startswith("/databases/") and op.path.count("/") == 2) or \
            (op.path.endswith("/restore") and name not in self.model)
        if word == "database_read_only" and not makes:
            directory = any(path == str(self.case.data) for _, path in self.case.shim.hits)
            assert name in hit or name is None or directory, \
                f"{op}: read-only although nothing of it failed"
            self.read_only |= {name} if name else hit | (set(self.model) if directory else set())
        if op.method == "DELETE" and word == "database_quarantined" and name in self.model and \
                any(".catalog" in path for _, path in new_hits):
            self.perhaps_dropped.add(name)
            self.frozen.add(name)
        if op.writes and word == "database_read_only" and name in self.model and name in after \
                and any(kind == KINDS["fsync"] for kind, _ in new_hits):
            self.in_doubt[name] = after[name]

    def check_stored(self, got):
        want = copy.deepcopy(self.model)
        for name in self.perhaps_dropped - got.keys():
            want.pop(name, None)
        for name, rows in self.in_doubt.items():
            if name in want and got.get(name) == rows:
                want[name] = rows
        assert got == want, w.difference(got, want)

    def others_go_on(self):
        """The faults have ended: which databases must take writes again, without a restart."""
        hit = {database_of(name) for _, name in self.case.shim.hits}
        for name in list(self.model):
            op = w.put(name, 4711, 4, 7, 1)
            status = self.send(op)
            if name in self.perhaps_dropped | self.frozen | self.read_only:
                continue
            if name not in hit or self.code == errno.ENOSPC:
                assert status in (200, 201), f"{op}: {status} when the faults had ended"


def checked(case, what, work):
    try:
        return work()
    except BaseException as error:
        hits = [(kind_name(kind), name) for kind, name in case.shim.hits[:20]]
        raise AssertionError(f"{what}: {error}\nhits: {hits}\n"
                             f"FAULT_SEED={SEED} FAULT_SCALE={SCALE:g} replays it\n"
                             + "\n".join(getattr(case, "notes", [])) + "\n" + case.log()) from error
    finally:
        case.remove()


def serve_with_faults(folder, base, kind, code, k, forever, stop, action=FAIL):
    """One run; True if something was hit."""
    directory, model = base
    case = Case(folder, directory, **OPTIONS)

    def work():
        run = Run(case, model, kind, code)
        case.notes = run.notes
        case.serve()
        case.shim.arm(kind, k, action, code, forever)
        for op in requests():
            run.send(op)
        if stop:
            status = case.stop()
            assert status in (0, 1), f"exit code {status} after SIGTERM"
        else:
            case.shim.disarm()
            run.others_go_on()
            case.kill()
        hits = case.shim.hits
        if action == SHORT:
            assert not any(note.split(": ")[1][0] == "5" for note in run.notes), "refused"
        case.serve(shimmed=False)
        run.check_stored(w.read_all(case.http))
        for name in run.model:
            op = w.put(name, 4712, 4, 7, 2)
            status, answer = op.send(case.http)
            assert status in (200, 201), (str(op), status, answer)
        case.kill()
        return bool(hits)

    what = f"{kind_name(kind)} {k} {'short' if action == SHORT else errno.errorcode[code]}" \
           f"{' for ever' if forever else ''}, {'SIGTERM' if stop else 'SIGKILL'}"
    try:
        return checked(case, what, work)
    except Gone as error:
        raise AssertionError(f"{what}: the daemon died: {error}") from error


def start_with_faults(folder, crashed, kind, code, k, forever):
    """A start on what a kill left, and a look at everything; True if something was hit."""
    directory, possible = crashed
    case = Case(folder, directory, **OPTIONS)

    def look():
        """Right rows or an error, never wrong ones."""
        http = case.serve()
        status, answer = http("GET", "/databases")
        names = {name for model in possible for name in model}
        if status == 200:
            names = {d["name"] for d in answer["databases"]}
        for name in sorted(names):
            status, answer = w.listing(name).send(http)
            if status == 200:
                assert w.rows_of(answer) in [model.get(name) for model in possible], name
            else:
                word = answer["error"]["code"]
                allowed = refusals(kind, code)
                if not all(name in model for model in possible):
                    allowed = allowed | NOT_THERE
                assert (status, word) in allowed, (name, status, word)

    def work():
        case.shim.arm(kind, k, FAIL, code, forever)
        try:
            look()
            if k % 2:
                case.kill()
            else:
                status = case.stop()
                assert status in (0, 1), f"exit code {status} after SIGTERM"
        except Gone:
            status = case.daemon.wait_exit()
            assert status in (1, 78), f"exit code {status} of a start that failed"
            assert re.search(r"^jadevectordb: .+", case.daemon.log(), re.M), "no word on why"
        hits = case.shim.hits
        got = w.read_all(case.serve(shimmed=False))
        assert got in possible, " or ".join(w.difference(got, one) for one in possible)
        case.kill()
        return bool(hits)

    return checked(case, f"start, {kind_name(kind)} {k} {errno.errorcode[code]}"
                         f"{' for ever' if forever else ''}", work)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("failing") / "base", base_ops(), OPTIONS)


@pytest.fixture(scope="module")
def crashed(tmp_path_factory, base):
    """A directory with logs to replay, a .ckpt to apply, a drop to finish."""
    folder = tmp_path_factory.mktemp("crashed")
    whole = (*base, crash_ops(), OPTIONS)
    last = None
    for k in itertools.count(1):
        found = crashed_at(folder / f"{k}", whole, k)
        if not found or (last and (last[0] / "db1.ckpt").exists()
                         and not (found[0] / "db1.ckpt").exists()):
            return last
        last = found


def variants(name):
    for code in (errno.EIO, errno.ENOSPC):
        for forever in (False, True):
            yield pytest.param(name, code, forever,
                               id=f"{name}-{errno.errorcode[code]}-{'ever' if forever else 'once'}")


EVERY = [variant for name in KINDS for variant in variants(name)]


def chosen(calls, name, *what):
    """Every k, or some of them; without an end."""
    step = stride(name, calls)
    first = random.Random(f"{SEED}/{name}/{what}").randrange(1, step + 1)
    return itertools.count(first, step)


@pytest.mark.limit(3000 if ALL else 120)
@pytest.mark.parametrize("name,code,forever", EVERY)
def test_no_failing_call_makes_the_daemon_crash_or_lie(tmp_path, base, name, code, forever):
    runs = []

    def job(number, k):
        def run():
            hit = True
            for stop in (False, True):
                if ALL or stop == bool(number % 2):
                    hit = serve_with_faults(tmp_path / f"{k}{stop}", base, KINDS[name], code, k,
                                            forever, stop)
            runs.append(hit)
            return hit
        return run

    in_parallel(job(number, k) for number, k in
                enumerate(chosen(CALLS, name, code, forever), code + forever))
    print(f"{name}: {len(runs)} k, {sum(runs)} hit")
    assert any(runs), f"no {name} was hit"


@pytest.mark.limit(3000 if ALL else 120)
@pytest.mark.parametrize("name,code,forever", EVERY)
def test_no_failing_call_of_a_start_loses_anything(tmp_path, crashed, name, code, forever):
    runs = []

    def job(k):
        def run():
            runs.append(start_with_faults(tmp_path / f"k{k}", crashed, KINDS[name], code, k,
                                          forever))
            return runs[-1]
        return run

    in_parallel(job(k) for k in chosen(CALLS_OF_START, name, code, forever))
    print(f"{name}: {len(runs)} k, {sum(runs)} hit")
    assert any(runs) or name in NOT_OF_A_START, f"no {name} was hit"


@pytest.mark.limit(3000 if ALL else 120)
@pytest.mark.parametrize("forever", [False, True], ids=["once", "ever"])
def test_a_write_cut_short_by_the_system_is_finished(tmp_path, base, forever):
    runs = []

    def job(k):
        def run():
            runs.append(serve_with_faults(tmp_path / f"k{k}", base, WRITE, 0, k, forever, k % 2,
                                          SHORT))
            return runs[-1]
        return run

    in_parallel(job(k) for k in chosen(CALLS, "write", "short", forever))
    assert any(runs)

"""Mutants of a data directory, and the verdict on what the daemon makes of each.

Run by test_corruption.py, which starts several of these processes side by side:

  mutate.py GOLD.pickle SCRATCH KIND SEED FIRST STEP END

judges mutants FIRST, FIRST + STEP, ... below END of the directory KIND (`clean` or `crashed`), and
prints one JSON object with the verdicts.  Mutant number i of a seed is always the same one.
  mutate.py GOLD.pickle SCRATCH KIND SEED --keep I    makes mutant I, judges it, and keeps its files
"""
import collections
import http.client
import json
import os
import pathlib
import pickle
import random
import shutil
import sys
import time

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parent),
                str(pathlib.Path(__file__).resolve().parents[1])]

import disk_format as df  # noqa: E402
import gold  # noqa: E402
import harness  # noqa: E402

ANSWER_S = 10 * harness.TIME_SCALE
MUTANT_S = 30 * harness.TIME_SCALE


# ---- damage ----

class Mutant:
    """What is done to which file.  `rng` decides everything."""

    def __init__(self, directory, older, rng, crashed):
        self.directory, self.older, self.rng, self.crashed = directory, older, rng, crashed
        names = sorted(p.name for p in directory.iterdir())
        weights = [self.weight(directory / n) for n in names]
        self.file = rng.choices(names, weights)[0]
        self.files = [self.file]
        self.note = ""
        # In a crashed directory: the log of these databases may have lost its end, silently.
        self.tail_of = set()
        self.untouchable = False  # refused for its version: not a byte of it may change

    @staticmethod
    def weight(path):
        if path.name.endswith(".jvdb"):
            return 24 if path.name == "linked.jvdb" else 12
        return {".catalog": 8, ".lock": 1}.get(path.name, 3)

    def path(self, name=None):
        return self.directory / (name or self.file)

    @property
    def database(self):
        """The database that the file belongs to; None: all."""
        return owner(self.file)

    def apply(self):
        kinds = {"bit": 26, "byte": 6, "field": 6, "zero": 8, "noise": 8, "stale": 10, "swap": 8,
                 "foreign": 4, "cut": 10, "grow": 3, "empty": 2, "remove": 3, "old_file": 3,
                 "exchange": 3, "version": 4, "features": 3}
        self.kind = self.rng.choices(list(kinds), list(kinds.values()))[0]
        before = {n: self.path(n).read_bytes() for n in self.files}
        data = bytearray(before[self.file])
        changed = getattr(self, "do_" + self.kind)(data)
        if changed is not None:
            self.path().write_bytes(changed)
        self.effective = any(not self.path(n).exists() or self.path(n).read_bytes() != b
                             for n, b in before.items()) or len(self.files) > 1
        for name in self.files:
            if self.crashed and ".wal." in name:
                self.tail_of.add(owner(name))
        self.note = f"{self.kind} {' and '.join(self.files)} {self.note}"

    def spot(self, data, size=1):
        """An offset: half of them where the structure is, the rest where there is any data."""
        rng, n = self.rng, len(data)
        if n <= size:
            return 0
        roll = rng.random()
        if roll < 0.2:
            at = rng.choice((0, df.BLOCK)) + rng.choice((rng.randrange(128), 4092 + rng.randrange(4)))
        elif roll < 0.5:
            at = rng.randrange(8192)
        elif roll < 0.65 and self.file.endswith(".jvdb"):
            at = df.Jvdb(data).manifest_at + rng.randrange(1024)
        else:
            for _ in range(20):
                at = rng.randrange(n)
                if any(data[at & ~63:(at & ~63) + 64]):
                    break
        at = min(at, n - 1) // size * size
        return at if at + size <= n else max(0, (n - size) // size * size)

    def do_bit(self, data):
        if data:
            at = self.spot(data)
            bit = self.rng.randrange(8)
            data[at] ^= 1 << bit
            self.note = f"{bit} of byte {at}"
        return data

    def do_byte(self, data):
        if data:
            at = self.spot(data)
            data[at] = self.rng.choice((0, 255, 127, 128, data[at] ^ 255, self.rng.randrange(256)))
            self.note = f"at {at}"
        return data

    def do_field(self, data):
        """A number of 4 or 8 bytes becomes another one."""
        size = self.rng.choice((4, 8))
        at = self.spot(data, size)
        old = int.from_bytes(data[at:at + size], "little")
        top = 1 << 8 * size
        new = self.rng.choice((0, 1, top - 1, top // 2, top // 2 - 1, old + 1, old - 1)) % top
        data[at:at + size] = new.to_bytes(size, "little")[:max(0, len(data) - at)]
        self.note = f"of {size} bytes at {at}: {old} to {new}"
        return data

    def chunk(self, data):
        size = self.rng.choice((512, df.BLOCK, df.BLOCK))
        at = self.spot(data, size)
        self.note = f"{size} at {at}"
        return at, min(size, len(data) - at)

    def do_zero(self, data):
        at, size = self.chunk(data)
        data[at:at + size] = bytes(size)
        return data

    def do_noise(self, data):
        at, size = self.chunk(data)
        data[at:at + size] = self.rng.randbytes(size)
        return data

    def do_stale(self, data):
        """A write that never reached the disk: what lay there at an earlier stop."""
        path = self.rng.choice(self.older) / self.file
        old = path.read_bytes() if path.exists() else b""
        at, size = self.chunk(data)
        data[at:at + size] = old[at:at + size].ljust(size, b"\0")
        return data

    def do_swap(self, data):
        """Two blocks of a file exchanged."""
        at, size = self.chunk(data)
        other, _ = self.spot(data, size), 0
        if self.rng.random() < 0.5:
            other = at + size if at + 2 * size <= len(data) else at
        size = min(size, len(data) - other)
        data[at:at + size], data[other:other + size] = data[other:other + size], data[at:at + size]
        self.note += f" with {other}"
        return data

    def do_foreign(self, data):
        """A write that went to the wrong file."""
        suffix = self.file.rsplit(".", 1)[-1]
        others = [p for p in self.directory.iterdir()
                  if p.name != self.file and p.name.rsplit(".", 1)[-1] == suffix]
        if not others:
            return self.do_noise(data)
        source = self.rng.choice(sorted(others))
        at, size = self.chunk(data)
        data[at:at + size] = source.read_bytes()[at:at + size].ljust(size, b"\0")
        self.note += f" from {source.name}"
        return data

    def do_cut(self, data):
        n = len(data)
        to = self.rng.choice((self.rng.randrange(n + 1), self.rng.randrange(n + 1) & ~511,
                              self.rng.randrange(n + 1) & ~4095, n - 1, n - 4096, 4096, 8192, 1, 7,
                              self.rng.randrange(min(n, 9000) + 1)))
        to = min(max(to, 0), n)
        self.note = f"to {to} of {n}"
        return data[:to]

    def do_grow(self, data):
        count = self.rng.choice((1, 8, 511, 512, 4096, 65536, 100000))
        kind = self.rng.choice(("zeros", "noise", "itself"))
        more = {"zeros": bytes(count), "noise": self.rng.randbytes(count),
                "itself": bytes(data)[-count:]}[kind]
        self.note = f"by {len(more)}, {kind}"
        return data + more

    def do_empty(self, data):
        return data[:0]

    def do_remove(self, _data):
        self.path().unlink()

    def do_old_file(self, data):
        source = self.rng.choice(self.older) / self.file
        self.note = f"of {source.parent.name}"
        return source.read_bytes() if source.exists() else self.do_empty(data)

    def do_exchange(self, data):
        """Two files of one kind under each other's name."""
        suffix = self.file.rsplit(".", 1)[-1]
        others = [p for p in self.directory.iterdir()
                  if p.name != self.file and p.name.rsplit(".", 1)[-1] == suffix]
        if not others:
            return self.do_empty(data)
        other = self.rng.choice(sorted(others))
        self.path().write_bytes(other.read_bytes())
        other.write_bytes(data)
        self.files.append(other.name)
        return None

    def do_version(self, data):
        if len(data) < 8:
            return data
        version = self.rng.choice((0, 1, 3, 3, 3, 4, 999, 1000, 1 << 31, (1 << 32) - 1))
        self.note = f"{version}"
        file = df.parse(self.file, data)
        if isinstance(file, df.Jvdb):
            both = self.rng.random() < 0.7
            self.untouchable = both and version < 1000
            for at in (0, df.BLOCK) if both else (0,):
                file.put(at, df.SUPERBLOCK, "format_version", version)
                if self.rng.random() < 0.5:
                    file.put_crc(at, df.SUPERBLOCK, at, at + 4092)
        elif isinstance(file, df.Wal):
            file.put(0, df.WAL_HEADER, "format_version", version)
            file.put_crc(0, df.WAL_HEADER, 0, 60)
        elif file:
            file.put(0, df.CATALOG_HEADER, "format_version", version)
            if isinstance(file, df.Ckpt):
                file.seal()
        return file.data if file else data

    def do_features(self, data):
        file = df.parse(self.file, data)
        if not isinstance(file, df.Jvdb):
            return self.do_noise(data)
        name = self.rng.choice(("features_compat", "features_ro_compat", "features_incompat"))
        bits = 1 << self.rng.randrange(64)
        for at in (0, df.BLOCK):
            file.put(at, df.SUPERBLOCK, name, bits)
            file.put_crc(at, df.SUPERBLOCK, at, at + 4092)
        self.untouchable = name != "features_compat"
        self.note = f"{name} {bits:#x}"
        return file.data


def owner(file_name):
    for mark in (".jvdb", ".wal.", ".ckpt"):
        if mark in file_name:
            return file_name[:file_name.index(mark)]
    return None


# ---- verdict ----

class Silent(Exception):
    """Something else than the truth or an error that names the database."""


def is_refusal(name, status, body):
    """An error that says which database it is about."""
    try:
        error = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return False
    good = (status == 423 and error["code"] == "database_quarantined"
            or status == 500 and error["code"] == "corrupt")
    return good and (f'"{name}"' in error["message"] or f"{name}." in error["message"])


class Judge:
    def __init__(self, truth, scratch, crashed):
        self.truth, self.scratch, self.crashed = truth, scratch, crashed
        self.source = truth.crashed if crashed else truth.clean

    def expected(self, name):
        """The states that a database may show: the newest first."""
        return self.truth.histories[name][::-1] if self.crashed else [self.truth.answers[name]]

    def interview(self, client, name, in_short):
        """"exact", "refused", or how many writes short of the end it is."""
        base = self.truth.bases[name]
        states = self.expected(name)
        refused = False
        for what, status, body in client.interview(base, in_short):
            if status == 200 and what == "info" and json.loads(body)["quarantined"]:
                refused = True
                continue
            if is_refusal(name, status, body):
                refused = True
                continue
            if status not in (200, 404):
                raise Silent(f"{name}: {what}: {status} {body[:200]}")
            # The states that fit all that was said so far.
            seen = gold.essence(what, status, body)
            states = [s for s in states if what in s and gold.agrees(what, s[what], seen)]
            if not states:
                raise Silent(f"{name}: {what}: not what was written: {body[:200]}")
        if refused:
            return "refused"
        behind = [s is states[0] for s in self.expected(name)].index(True)
        return f"{behind} behind" if behind else "exact"

    def listing(self, client, mutant):
        status, body = client.ask("GET", "/databases")
        if status != 200:
            raise Silent(f"the list of databases: {status} {body[:200]}")
        databases = {d["name"]: d for d in json.loads(body)["databases"]}
        for name in self.truth.bases:
            one = databases.pop(name, None)
            if one is None:
                raise Silent(f"{name} is not in the list of databases")
            counts = {s["info"]["vector_count"] for s in self.expected(name)}
            if not one["quarantined"] and one["vector_count"] not in counts:
                raise Silent(f"{name} is listed with {one['vector_count']} rows")
        for name, one in databases.items():
            if not one["quarantined"]:
                raise Silent(f"{name} is listed and never was")

    def run(self, mutant, daemon):
        """Start, ask everything, stop.  The verdict."""
        try:
            daemon.start()
        except AssertionError:
            code = daemon.process.wait(5) if daemon.process else None
            daemon.discard()
            log = daemon.log(since_start=True)
            if code in (1, 75, 78) and mutant.file in (".catalog", ".lock") \
                    and mutant.file in log and mutant.kind == "version":
                return "no start"
            raise Silent(f"did not start: exit code {code}: {log[-300:]}") from None
        client = gold.Client(daemon, ANSWER_S)
        touched = {owner(n) for n in mutant.files}
        try:
            self.listing(client, mutant)
            verdicts = {n: self.interview(client, n, None not in touched and n not in touched)
                        for n in self.truth.bases}
            self.listing(client, mutant)
        finally:
            client.close()
        worst = "exact"
        for name, verdict in verdicts.items():
            if verdict == "exact":
                continue
            if name not in touched and None not in touched:
                raise Silent(f"{name} suffers from damage elsewhere: {verdict}")
            if verdict != "refused" and name not in mutant.tail_of:
                raise Silent(f"{name} lost acknowledged rows: {verdict}")
            if verdict != "refused" and mutant.kind in ("bit", "byte", "field") and \
                    verdict != "1 behind":
                raise Silent(f"{name} lost more than its last record: {verdict}")
            worst = "refused" if verdict == "refused" else worst if worst == "refused" else "tail"
        daemon.stop()
        return worst

    def judge(self, seed, i):
        rng = random.Random(f"{seed}/{'crashed' if self.crashed else 'clean'}/{i}")
        shutil.rmtree(self.scratch, ignore_errors=True)
        shutil.copytree(self.source, self.scratch,
                        ignore=shutil.ignore_patterns(".reserve*"))
        mutant = Mutant(self.scratch, self.truth.older, rng, self.crashed)
        mutant.apply()
        kept = {n: self.path_bytes(n) for n in mutant.files}
        daemon = harness.Daemon(self.scratch)
        begun = time.monotonic()
        try:
            verdict = self.run(mutant, daemon)
            if mutant.untouchable and any(self.path_bytes(n) != b for n, b in kept.items()):
                raise Silent("a file of another version was touched")
            if rng.random() < 0.1 and verdict != "no start":  # a stop must not whitewash anything
                again = self.run(mutant, daemon)
                if verdict == "refused" and again == "exact" and mutant.file.endswith(".jvdb"):
                    raise Silent("refused at first, served after a restart")
            if time.monotonic() - begun > MUTANT_S:
                raise Silent(f"took {time.monotonic() - begun:.1f} s")
            return verdict if mutant.effective else "no damage", mutant.note, ""
        except Silent as failure:
            return "SILENT", mutant.note, str(failure)
        except (AssertionError, OSError, ValueError, http.client.HTTPException) as failure:
            state = "CRASH or HANG" if daemon.process is None or daemon.process.poll() is not None \
                else "HANG"
            return state, mutant.note, f"{failure!r}: {daemon.log(since_start=True)[-1500:]}"
        finally:
            daemon.discard()
            harness.Daemon.every.clear()

    def path_bytes(self, name):
        path = self.scratch / name
        return path.read_bytes() if path.exists() else None


def main(judge_class=Judge):
    os.umask(0o077)
    truth_file, scratch, kind, seed, *rest = sys.argv[1:]
    with open(truth_file, "rb") as stream:
        truth = pickle.load(stream)
    judge = judge_class(truth, pathlib.Path(scratch), kind == "crashed")
    if rest[0] == "--keep":
        print(*judge.judge(seed, int(rest[1])), sep="\n")
        print(scratch)
        return
    first, step, end = map(int, rest)
    verdicts, bad, slowest = collections.Counter(), [], 0
    kinds = collections.Counter()
    for i in range(first, end, step):
        begun = time.monotonic()
        verdict, note, why = judge.judge(seed, i)
        slowest = max(slowest, time.monotonic() - begun)
        verdicts[verdict] += 1
        kinds[note.split()[0]] += 1
        if verdict.isupper() or verdict == "CRASH or HANG":
            bad.append({"mutant": i, "what": note, "verdict": verdict, "why": why})
    shutil.rmtree(scratch, ignore_errors=True)
    print(json.dumps({"verdicts": verdicts, "kinds": kinds, "bad": bad, "slowest_s": slowest}))


if __name__ == "__main__":
    main()

#!/usr/bin/python3
"""Is everything there that was acknowledged before the power went off, and nothing that was not?

A recording's log holds, beside what the file system saw, the marks of the clients: what the daemon
was asked and what it answered, each with its time.  Each database, or each part of the ids of one ("db-0#1/2"), belongs to
one client, which sends one request after the other; so after a cut it may be as its durable operations
left it, or as any of the first few operations behind them did: those that were answered without being
durable (`periodic`) so shortly before that they need not be, and last the one that had no answer.

    power_judge.py LOG --model strict --seed 7 --images 100     judge images of a recording
    power_judge.py LOG --model strict --cut 815 --image 4711 --keep DIR     judge one, and keep it

JADEVECTORDB_BIN names the daemon.  Exit status 1 if any image was judged bad.
"""
import argparse
import base64
import functools
import hashlib
import http.client
import json
import math
import pathlib
import random
import shutil
import struct
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import harness  # noqa: E402
import power_loss  # noqa: E402
from harness import Daemon  # noqa: E402

SYNC_INTERVAL_MS = 1000  # if nothing else is said
PATIENCE_MS = 500 * harness.TIME_SCALE  # for the sync itself, on a machine that has other work
GRAPH_DIMENSION = 6  # of databases that are searched by a graph
START_S = 1 * harness.TIME_SCALE  # a start must not take longer, whatever the cut has left
BROKEN_OFF = (OSError, http.client.HTTPException, ValueError)  # by a killed daemon


# ---- rows ----

@functools.lru_cache(1 << 15)
def row_text(stamp, vector_id, dimension):
    """The row that operation `stamp` gave `vector_id`, in base64: any finite bit patterns; in a graph
    numbers whose squares are finite, too."""
    words = struct.unpack(f"<{dimension}I",
                          hashlib.shake_128(f"{stamp}/{vector_id}".encode()).digest(4 * dimension))
    if dimension == GRAPH_DIMENSION:
        words = [w & 0xbfffffff for w in words]
    finite = [w & 0xff7fffff if w & 0x7f800000 == 0x7f800000 else w for w in words]
    return base64.b64encode(struct.pack(f"<{dimension}I", *finite)).decode()


def metadata_of(stamp, vector_id):
    """Now and then more than a block of it, now and then none to speak of."""
    pad = 5000 if stamp % 97 == 0 else stamp * 13 % 90
    return {"stamp": stamp, "of": vector_id, "pad": "x" * pad}


def row_of(stamp, vector_id, dimension):
    return {"vector_id": vector_id, "data_base64": row_text(stamp, vector_id, dimension),
            "metadata": metadata_of(stamp, vector_id)}


def dump_of(stamp, ids, dimension):
    rows = []
    for vector_id in ids:
        numbers = struct.unpack(f"<{dimension}f",
                                base64.b64decode(row_text(stamp, vector_id, dimension)))
        rows.append({"id": vector_id, "data": list(numbers),
                     "metadata": metadata_of(stamp, vector_id)})
    return {"schema": {"dimension": dimension, "distance_metric": "euclidean"}, "vectors": rows}


# ---- operations ----
#
# ["create", dimension, durability]  ["drop"]  ["put", id, stamp]  ["batch", [id ...], stamp]
# ["delete", [id ...]]  ["restore", dimension, [id ...], stamp]  ["flush"]  ["flush all"]
# ["compact"]; put, batch and delete may have "periodic" or "synced" behind them, create "hnsw".

def request_of(name, op, dimension):
    """(method, path, body)"""
    name = database_of(name)
    base, kind = f"/api/v1/databases/{name}", op[0]
    query = f"?durability={op[-1]}" if op[-1] in ("periodic", "synced") else ""
    if kind == "create":
        index = {"index": {"type": op[3]}} if len(op) > 3 else {}
        return "POST", base, {"dimension": op[1], "distance_metric": "euclidean",
                              "durability": op[2], **index}
    if kind == "drop":
        return "DELETE", base, None
    if kind == "put":
        return "POST", f"{base}/vectors{query}", row_of(op[2], op[1], dimension)
    if kind == "batch":
        return "POST", f"{base}/vectors/batch{query}", {"vectors": [row_of(op[2], i, dimension)
                                                                    for i in op[1]]}
    if kind == "delete":
        return "POST", f"{base}/vectors/delete{query}", {"ids": op[1]}
    if kind == "restore":
        return "POST", f"{base}/restore", {"name": name, **dump_of(op[3], op[2], op[1])}
    if kind == "flush all":
        return "POST", "/api/v1/storage/flush", None
    return "POST", f"{base}/{kind}", None


def is_durable(state, op):
    """Is everything before it, and itself, on the disk once this operation was answered?"""
    if op[0] in ("flush", "flush all", "create", "drop"):
        return True
    if op[0] == "compact":
        return False  # promises nothing
    if op[-1] in ("periodic", "synced"):
        return op[-1] == "synced"
    return state["durability"] == "synced"


def steps_of(state, op):
    """The states that the operation leads through.  A state is None: no such database, or
    {"dimension", "durability", "rows": {id: stamp}}."""
    kind = op[0]
    if kind == "create":
        return [{"dimension": op[1], "durability": op[2], "rows": {}}]
    if kind == "drop":
        return [None]
    if kind in ("flush", "flush all", "compact"):
        return []
    steps = []
    if state is None:  # restore makes it
        state = {"dimension": op[1], "durability": "synced", "rows": {}}
        steps.append(state)
    rows = dict(state["rows"])
    if kind == "delete":
        for vector_id in op[1]:
            rows.pop(vector_id, None)
    else:
        ids = {"put": lambda: [op[1]], "batch": lambda: op[1], "restore": lambda: op[2]}[kind]()
        stamp = op[3] if kind == "restore" else op[2]
        rows.update((vector_id, stamp) for vector_id in ids)
    steps.append({**state, "rows": rows})
    return steps


class Known:
    """What the marks say of one database: `sure`, then operations that may be lost, the latest
    first."""

    def __init__(self, sure=None, tail=()):
        self.sure = sure
        self.tail = list(tail)
        self.answers = len(self.tail)  # so many of them were answered
        self.answered_ms = [math.inf] * self.answers  # and when, if it is known

    @classmethod
    def load(cls, text):
        known = cls(text["sure"], text["tail"])
        if known.sure:
            known.sure["rows"] = {vector_id: stamp for vector_id, stamp in known.sure["rows"]}
        return known

    def dump(self):
        sure = self.sure and {**self.sure, "rows": list(self.sure["rows"].items())}
        return {"sure": sure, "tail": self.tail}

    def states(self):
        """All that are allowed, from the oldest to the newest."""
        states = [self.sure]
        for op in self.tail:
            states += steps_of(states[-1], op)
        return states

    def newest(self):
        return self.states()[-1]

    def states_after_kill(self):
        """The end of the process alone loses nothing that was answered."""
        return Known(Known(self.sure, self.tail[:self.answers]).newest(),
                     self.tail[self.answers:]).states()

    def begin(self, op):
        self.tail.append(op)

    def answered(self, at_ms=math.inf):
        newest = self.newest()
        self.answers = len(self.tail)
        self.answered_ms += [at_ms] * (self.answers - len(self.answered_ms))
        if is_durable(newest, self.tail[-1]):
            self.settle(newest)

    def settle(self, state):
        """It was looked at after a start, and this is what was there: recovery makes it durable."""
        self.sure, self.tail, self.answers, self.answered_ms = state, [], 0, []

    def due(self, before_ms):
        """What of it there is to judge if all that was answered before that time is durable."""
        count = sum(1 for at_ms in self.answered_ms if at_ms < before_ms)
        return Known(Known(self.sure, self.tail[:count]).newest(), self.tail[count:])


def database_of(name):
    """The database of a name that may name a part of its ids: "db-0#1/2" is the odd ones."""
    return name.split("#")[0]


def part_of(name, state):
    """What of the state of its database the name stands for."""
    if state is None or "#" not in name:
        return state
    part, parts = map(int, name.split("#")[1].split("/"))
    return {**state, "rows": {vector_id: stamp for vector_id, stamp in state["rows"].items()
                              if number_of(vector_id) % parts == part}}


def id_of(number):
    """Integers and texts."""
    return number if number % 3 else f"user-{number:04}"


def number_of(vector_id):
    return int(str(vector_id).removeprefix("user-"))


def hear(known, mark):
    """Learn from a mark: {name: Known}.  Its time."""
    kind, name, what, at_ms = mark
    if kind == "known":
        known[name] = Known.load(what)
    elif kind == "begin":
        known.setdefault(name, Known()).begin(what)
    elif kind == "answered":
        known[name].answered(at_ms)
    elif kind == "settle":
        known[name].settle(Known.load({"sure": what, "tail": []}).sure)
    return at_ms


# ---- talking ----

class Talk:
    """One kept connection to a daemon."""

    def __init__(self, daemon):
        self.connection = daemon.connect()

    def __call__(self, method, path, body=None):
        """(status, parsed answer)"""
        text = json.dumps(body) if body is not None else None
        self.connection.request(method, path, text,
                                {"Content-Type": "application/json"} if text else {})
        response = self.connection.getresponse()
        raw = response.read()
        return response.status, json.loads(raw) if raw else None

    def get(self, path):
        status, answer = self("GET", "/api/v1" + path)
        return answer if status == 200 else {"status": status, "answer": answer}

    def close(self):
        self.connection.close()


class Wrong(Exception):
    """What the daemon shows cannot be."""


class Slow(Wrong):
    """The daemon took too long, or the machine was busy: only a second look can tell."""


def read_state(talk, name, durability="synced"):
    """The state of a database as the daemon shows it, each row with its exact bytes; None: there is
    none.  Raises Wrong where an answer cannot be right whatever was written."""
    info = talk.get(f"/databases/{name}")
    if info.get("status") == 404:
        return None
    if "status" in info:
        raise Wrong(f"{name}: {info}")
    rows, cursor, dimension = {}, "", info["dimension"]
    while cursor is not None:
        page = talk.get(f"/databases/{name}/vectors?limit=10000&include=data,metadata"
                        f"&encoding=base64{cursor}")
        if "status" in page:
            raise Wrong(f"{name}: a listing: {page}")
        for row in page["vectors"]:
            vector_id, stamp = row["vector_id"], row["metadata"].get("stamp")
            if row["metadata"] != metadata_of(stamp, vector_id) or \
                    row["data_base64"] != row_text(stamp, vector_id, dimension):
                raise Wrong(f"{name}: row {vector_id!r} is not what was written: {row}"[:600])
            if vector_id in rows:
                raise Wrong(f"{name}: row {vector_id!r} is listed twice")
            rows[vector_id] = stamp
        cursor = page["next"] and f"&cursor={page['next']}"
    if info["vector_count"] != len(rows):
        raise Wrong(f"{name}: vector_count is {info['vector_count']}, listed are {len(rows)}")
    look_twice(talk, name, rows, dimension)
    return {"dimension": dimension, "durability": info.get("durability", durability), "rows": rows}


def look_twice(talk, name, rows, dimension):
    """By id, by count and by search it must be the same database."""
    some = sorted(rows, key=str)[::max(1, len(rows) // 3)][:4]
    for vector_id in some:
        one = talk.get(f"/databases/{name}/vectors/{vector_id}?encoding=base64")
        if one.get("data_base64") != row_text(rows[vector_id], vector_id, dimension):
            raise Wrong(f"{name}: row {vector_id!r} is listed, but read by its id it is {one}")
    missing = talk.get(f"/databases/{name}/vectors/no-such-row")
    if missing.get("status") != 404:
        raise Wrong(f"{name}: a row that never was: {missing}")
    _, answer = talk("POST", f"/api/v1/databases/{name}/count", {})
    if answer.get("count") != len(rows):
        raise Wrong(f"{name}: count says {answer}, listed are {len(rows)}")
    _, answer = talk("POST", f"/api/v1/databases/{name}/search",
                     {"data": [0.5] * dimension, "top_k": 5})
    found = [result["vector_id"] for result in answer.get("results", [])]
    if len(found) != min(5, len(rows)) or not set(found) <= set(rows):
        raise Wrong(f"{name}: a search finds {answer}"[:300])
    status, answer = talk("POST", f"/api/v1/databases/{name}/verify")
    if status != 200 or not answer["ok"]:
        raise Wrong(f"{name}: verify says {status} {answer}")


def difference(found, known):
    """In words, how a state differs from all that are allowed."""
    states = known.states()
    if found is None or all(state is None for state in states):
        return f"is {'there' if found else 'missing'}; may be lost: {str(known.tail)[:300]}"
    near = min((s for s in states if s), key=lambda s: len(dict_difference(s["rows"], found["rows"])))
    wrong = dict_difference(near["rows"], found["rows"])
    text = ", ".join(f"{i!r}: {found['rows'].get(i)} instead of {near['rows'].get(i)}"
                     for i in list(wrong)[:5])
    return (f"{len(wrong)} rows are wrong of {len(near['rows'])} ({text}), dimension "
            f"{found['dimension']} for {near['dimension']}; may be lost: {str(known.tail)[:300]}")


def dict_difference(a, b):
    return {key for key in a.keys() | b.keys() if a.get(key) != b.get(key)}


# ---- the judge ----

class Judge:
    """Starts the daemon on an image and compares."""

    def __init__(self, options):
        self.options = options

    def start(self, directory):
        daemon = Daemon(directory, **self.options)
        begun = time.monotonic()
        try:
            daemon.start()
        except (AssertionError, OSError) as failure:
            daemon.discard()
            raise Wrong(f"no start: {failure}\n{daemon.log()[-800:]}") from None
        took = time.monotonic() - begun
        if took > START_S:
            daemon.discard()
            raise Slow(f"the start took {took:.2f} s")
        return daemon

    def compare(self, daemon, known):
        """The states that were found, by name.  Raises Wrong."""
        talk, found = Talk(daemon), {}
        names = {database_of(name) for name in known}
        listed = {d["name"] for d in talk.get("/databases")["databases"]}
        if not listed <= names:
            raise Wrong(f"databases that were never made: {sorted(listed - names)}")
        for name in names:
            found[name] = read_state(talk, name)
            if (found[name] is not None) != (name in listed):
                raise Wrong(f"{name}: the list of databases and itself disagree")
        for name, what in known.items():
            part = part_of(name, found[database_of(name)])
            if part not in what.states():
                raise Wrong(f"{name}: {difference(part, what)}")
        talk.close()
        self.read_log(daemon)
        return found

    def read_log(self, daemon):
        for line in daemon.log(since_start=True).splitlines():
            if "quarantine" in line or "read-only" in line or "left to the next start" in line:
                raise Wrong(f"the log says: {line}")

    def second_life(self, daemon, found, stamp):
        """Write to what a cut has left, end, start: it must be an ordinary directory."""
        talk, known = Talk(daemon), {}
        for name, state in found.items():
            ops = [["create", 5, "synced"]] if state is None else []
            ops += [["batch", [1, "two", 3000], stamp], ["put", 2, stamp + 1],
                    ["delete", ["two"]], ["flush"], ["put", 7, stamp + 2, "synced"], ["compact"]]
            known[name] = Known(state)
            for op in ops:
                known[name].begin(op)
                dimension = (known[name].newest() or {}).get("dimension")
                status, answer = talk(*request_of(name, op, dimension))
                if status not in (200, 201):
                    raise Wrong(f"{name}: {op} on what the cut left: {status} {answer}")
                known[name].answered()
            known[name].settle(known[name].newest())
        talk.close()
        daemon.restart(kill=stamp % 2 == 0, server_port=0)
        self.compare(daemon, known)

    def judge(self, directory, known, more, stamp):
        """None, or what is wrong.  `more`: go on living there."""
        daemon = None
        try:
            daemon = self.start(directory)
            found = self.compare(daemon, known)
            if more:
                self.second_life(daemon, found, stamp)
                daemon.stop()
        except (Wrong, AssertionError, OSError, ValueError, KeyError) as failure:
            said = daemon.log()[-1500:] if daemon else ""
            return f"{type(failure).__name__}: {failure}\n{said}"
        finally:
            if daemon:
                daemon.discard()
            Daemon.every.clear()
        return None


def choose(records, count, model, seed):
    """Images of a recording, as (cut, seed)."""
    begin = max(i for i, r in enumerate(records)
                if r.op == power_loss.MARK and r.data.startswith((b'["options"', b'["known"')))
    return power_loss.choose(records, count, model, seed, (b'["answered"', b'["settle"'), begin + 1)


def options_of(records):
    """The flags of the daemon that was recorded, from the first mark."""
    first = next(json.loads(r.data) for r in records if r.op == power_loss.MARK)
    assert first[0] == "options", first
    return first[2]


def scratch():
    """Where images are made: in memory if there is room."""
    memory = pathlib.Path("/dev/shm")
    room = memory.is_dir() and shutil.disk_usage(memory).free > 1 << 30
    return tempfile.mkdtemp(prefix="power-", dir=memory if room else None)


def judge_images(log, model, chosen, keep=None, one=False):
    """Judge (cut, seed) images; yields (cut, seed, policy, complaint or None) of each."""
    records = power_loss.read_log(log)
    judge = Judge(options_of(records))
    disk, known, fed, now_ms = power_loss.Disk(model), {}, 0, 0
    interval_ms = judge.options.get("persistence_wal_sync_interval_ms", SYNC_INTERVAL_MS)
    top = pathlib.Path(scratch())
    try:
        for number, (cut, seed) in enumerate(chosen):
            for record in records[fed:cut]:
                disk.feed(record)
                if record.op == power_loss.MARK:
                    now_ms = hear(known, json.loads(record.data))
            fed = max(fed, cut)
            must = {name: what.due(now_ms - interval_ms - PATIENCE_MS)
                    for name, what in known.items()}
            directory = top / f"image{number}"
            for _ in range(3):
                directory.mkdir()
                policy = disk.image(directory, seed)
                if keep:
                    shutil.copytree(directory, pathlib.Path(keep), dirs_exist_ok=True)
                complaint = judge.judge(directory / "data", must, one or seed % 4 == 0,
                                        (1 << 20) + seed // 4 % 2)
                shutil.rmtree(directory)
                if not complaint or not complaint.startswith("Slow"):
                    break
            yield cut, seed, policy, complaint
    finally:
        shutil.rmtree(top, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("log")
    parser.add_argument("--model", choices=power_loss.MODELS, required=True)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--share", default="0/1", help="judge only every n-th image: k/n")
    parser.add_argument("--cut", type=int)
    parser.add_argument("--image", type=int, help="the seed of one image")
    parser.add_argument("--keep", help="a new directory: what the image was before the start")
    args = parser.parse_args()
    if args.image is not None:
        chosen = [(args.cut, args.image)]
    else:
        part, parts = map(int, args.share.split("/"))
        chosen = choose(power_loss.read_log(args.log), args.images, args.model, args.seed)
        chosen = chosen[part::parts]
    bad = 0
    for cut, seed, policy, complaint in judge_images(args.log, args.model, chosen, args.keep,
                                                     args.image is not None):
        if complaint:
            bad += 1
            print(json.dumps({"cut": cut, "image": seed, "policy": policy,
                              "complaint": complaint[:3000]}), flush=True)
    print(json.dumps({"judged": len(chosen), "bad": bad}), flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    random.seed(0)
    sys.exit(main())

"""The data directories that the corruption tests damage, and what they hold.

Gold.build() makes them once with the daemon: `clean` was stopped by SIGTERM, `crashed` by SIGKILL
with records in two logs and a checkpoint under way in a third database.  `older` are earlier clean
stops of the same directory, which stale blocks and stale files are taken from.  What the daemon
must answer is kept as answers: it gave them for the undamaged directory, and the rows in them were
compared with what was written.
"""
import json
import pathlib
import shutil
import urllib.parse

import numpy as np

import disk_format as df
import harness

PAGE = 1000
NEAR = 9
PAGES_MAX = 20


class Base:
    """One database of the directory: how its rows are made and what they should be by now."""

    def __init__(self, name, dimension, metric, seed):
        self.name, self.dimension, self.metric = name, dimension, metric
        self.random = np.random.default_rng(seed)
        self.has_graph = name == "linked"
        self.rows = {}   # id -> (float32 bytes, metadata)
        self.asked = []  # ids that are asked for one by one

    def vectors(self, count):
        return self.random.standard_normal((count, self.dimension), np.float32)

    def put(self, daemon, ids, metadata=None):
        rows = self.vectors(len(ids))
        metadata = metadata or [{}] * len(ids)
        daemon.put_rows(self.name, ids, rows, metadata)
        for vector_id, row, meta in zip(ids, rows, metadata):
            self.rows[vector_id] = (row.tobytes(), meta)

    def delete(self, daemon, ids):
        answer = daemon.post(f"/databases/{self.name}/vectors/delete", {"ids": ids}).json()
        assert answer["deleted"] == len(ids)
        for vector_id in ids:
            del self.rows[vector_id]


def path_of(vector_id):
    return urllib.parse.quote(str(vector_id), safe="")


def questions(base):
    """(what, method, path, body) of what is asked of a database besides its pages."""
    query = np.random.default_rng(7).standard_normal((2, base.dimension), np.float32)
    exact = {"params": {"exact": True}} if base.has_graph else {}
    yield "info", "GET", f"/databases/{base.name}", None
    for i in (0, 1):
        yield f"search {i}", "POST", f"/databases/{base.name}/search", json.dumps(
            {"data": [float(x) for x in query[i]], "top_k": 12, "include": ["metadata", "data"],
             **exact})
        if base.has_graph:
            yield f"near {i}", "POST", f"/databases/{base.name}/search", json.dumps(
                {"data": [float(x) for x in query[i]], "top_k": NEAR, "include": ["data"]})
    for vector_id in base.asked:
        yield f"get {vector_id}", "GET", f"/databases/{base.name}/vectors/{path_of(vector_id)}", None
    yield "count", "POST", f"/databases/{base.name}/count", "{}"


def essence(what, status, body):
    """What must not differ in an answer."""
    if status == 404 and what.startswith("get"):
        return "missing"
    assert status == 200, f"{what}: {status} {body[:300]}"
    if what == "info":
        one = json.loads(body)
        return {key: one[key] for key in ("name", "dimension", "distance_metric", "vector_count",
                                          "durability", "initial_capacity")}
    if what.startswith("search"):
        return json.loads(body)["results"]
    if what.startswith("near"):
        return frozenset((one["vector_id"], harness.bits(one["data"]))
                         for one in json.loads(body)["results"])
    return body


def agrees(what, known, seen):
    """Is the essence of an answer one that a state allows?  A search by a graph, whatever is wrong
    with the graph, finds rows of the state, and as many as were asked for."""
    if what.startswith("near"):
        return seen <= known and len(seen) == min(NEAR, len(known))
    return known == seen


class Client:
    """Fast, plain requests on one connection."""

    def __init__(self, daemon, timeout):
        self.connection = daemon.connect()
        self.connection.timeout = timeout

    def ask(self, method, path, body=None):
        headers = {"Content-Type": "application/json"} if body is not None else {}
        self.connection.request(method, "/api/v1" + path, body, headers)
        response = self.connection.getresponse()
        return response.status, response.read()

    def interview(self, base, in_short=False):
        """(what, status, body) of all questions about a database; in short: its rows and count."""
        page, cursor = 0, None
        while page == 0 or cursor:
            path = f"/databases/{base.name}/vectors?limit={PAGE}&include=data,metadata"
            if cursor:
                path += "&cursor=" + urllib.parse.quote(cursor)
            status, answer = self.ask("GET", path)
            cursor = None
            assert page <= PAGES_MAX, f"the listing of {base.name} has no end"
            if status == 200:
                cursor = json.loads(b"{" + answer[answer.rindex(b'"next":'):])["next"]
            yield f"page {page}", status, answer
            page += 1
        for what, method, path, body in questions(base):
            if not in_short or what == "count":
                yield what, *self.ask(method, path, body)

    def close(self):
        self.connection.close()


class Gold:
    def __init__(self, top):
        self.top = pathlib.Path(top)
        self.clean, self.crashed = self.top / "clean", self.top / "crashed"
        self.older = [self.top / "older0", self.top / "older1"]
        self.bases = {}
        self.answers = {}    # of the clean directory: name -> {what: essence}
        self.histories = {}  # of the crashed one: name -> [the same], after each write, newest last

    # ---- rows ----

    def make_bases(self):
        for i, (name, dimension, metric) in enumerate((
                ("empty", 3, "cosine"), ("tiny", 1, "manhattan"), ("mixed", 17, "cosine"),
                ("wide", 300, "dot_product"), ("many", 8, "euclidean"), ("texts", 4, "euclidean"),
                ("linked", 40, "euclidean"))):
            self.bases[name] = Base(name, dimension, metric, i)

    def first_rows(self, daemon):
        b = self.bases
        for base in b.values():
            index = {"index": {"type": "hnsw"}} if base.has_graph else {}
            daemon.create(base.name, base.dimension, base.metric, **index)
        b["tiny"].put(daemon, [1, 2, 9])
        b["mixed"].put(daemon, [i if i % 3 else f"row {i}" for i in range(1, 61)],
                       [{"n": i, "text": "x" * (i * 7 % 90)} for i in range(60)])
        b["wide"].put(daemon, list(range(100, 180)))
        # Records of one size: blocks of them can be swapped without a trace but a checksum's.
        b["many"].put(daemon, list(range(1000, 2200)),
                      [{"n": f"{i:023}"} for i in range(1200)])
        b["texts"].put(daemon, [f"{i:04} " + "long text id " * (i % 39) for i in range(200)])
        b["linked"].put(daemon, list(range(320)))
        daemon.wait_index("linked")

    def second_rows(self, daemon):
        b = self.bases
        b["mixed"].put(daemon, ["row 3", 4, "row 12", "new"],
                       [{"big": "y" * 20000}, {}, {"big": "z" * 9000}, {"now": "here"}])
        b["mixed"].delete(daemon, [1, 2, "row 6"])
        b["many"].put(daemon, list(range(1100, 1200)), [{"n": f"{i:023}"} for i in range(100)])
        b["many"].delete(daemon, list(range(2000, 2100)))
        b["tiny"].put(daemon, [2, "two"], [{"a": 1}, {"b": 2}])
        b["texts"].delete(daemon, list(b["texts"].rows)[50:60])
        b["linked"].put(daemon, list(range(310, 340)))
        b["linked"].delete(daemon, list(range(20, 40)))
        daemon.wait_index("linked")

    def third_rows(self, daemon):
        b = self.bases
        b["mixed"].put(daemon, [70, "row 71"], [{"third": True}, {}])
        b["many"].put(daemon, list(range(3000, 3050)), [{"n": f"{i:023}"} for i in range(50)])
        b["wide"].put(daemon, list(range(100, 120)))
        b["wide"].delete(daemon, [150, 151])
        b["tiny"].delete(daemon, [9])
        b["texts"].put(daemon, ["~" * 500, 5, 6])

    # ---- directories ----

    def build(self):
        self.make_bases()
        daemon = harness.Daemon(self.clean).start()
        self.first_rows(daemon)
        daemon.stop()
        shutil.copytree(self.clean, self.older[0])
        daemon.start()
        self.second_rows(daemon)
        daemon.stop()
        shutil.copytree(self.clean, self.older[1])
        daemon.start()
        self.third_rows(daemon)
        daemon.stop()
        daemon.start()
        for base in self.bases.values():
            ids = sorted(base.rows, key=harness.id_order)
            base.asked = ids[::max(1, len(ids) // 4)] + [20, 21, 27, 88, 160, "logged", "no such"]
        self.answers = {name: self.interview(daemon, base) for name, base in self.bases.items()}
        self.compare(daemon)
        daemon.stop()
        shutil.copytree(self.clean, self.crashed)
        self.crash()
        return self

    def interview(self, daemon, base):
        client = Client(daemon, harness.REQUEST_S)
        found = {}
        for what, status, body in client.interview(base):
            found[what] = essence(what, status, body)
            if what.startswith("near"):
                every = frozenset((vector_id, row) for vector_id, (row, _) in base.rows.items())
                assert agrees(what, every, found[what]), (what, body)
                found[what] = every
        client.close()
        return found

    def compare(self, daemon):
        """The answers are right: the rows are those that were written."""
        for name, base in self.bases.items():
            assert daemon.rows(name) == base.rows, f"{name} does not hold what was written"

    def crash(self):
        """Writes that only the log knows, and a checkpoint that is complete but not applied."""
        daemon = harness.Daemon(self.crashed).start()
        self.histories = {name: [self.answers[name]] for name in self.bases}

        def write(name, change, *args):
            base = self.bases[name]
            change(daemon, *args)
            self.histories[name].append(self.interview(daemon, base))

        tiny, wide, mixed = (self.bases[n] for n in ("tiny", "wide", "mixed"))
        for i in range(8):
            write("tiny", tiny.put, [20 + i], [{"i": i}])
        write("wide", wide.put, [500, 501])
        write("wide", wide.delete, [160])
        write("wide", wide.put, [502, "text"], [{"m": 1}, {"m": 2}])
        linked = self.bases["linked"]
        write("linked", linked.put, [7, 8, 900])
        write("linked", linked.delete, [9, 900])
        write("mixed", mixed.put, ["row 3", 88, "logged"], [{"a": 1}, {"b": "q" * 300}, {}])
        before = (self.crashed / "mixed.jvdb").read_bytes()
        logs = {p.name: p.read_bytes() for p in self.crashed.glob("mixed.wal.*")}
        daemon.post("/databases/mixed/flush", {})
        after = (self.crashed / "mixed.jvdb").read_bytes()
        daemon.kill()
        # As a stop in the middle of the flush left them, with half of the blocks in place.
        for path in self.crashed.glob("mixed.wal.*"):
            path.unlink()
        for name, data in logs.items():
            (self.crashed / name).write_bytes(data)
        leave_checkpoint(self.crashed, "mixed", before, after)


def leave_checkpoint(directory, name, before, after):
    """A complete .ckpt that makes the file `after` of `before`, and half of it done."""
    new = df.Jvdb(after)
    old = df.Jvdb(before)
    before = before.ljust(len(after), b"\0")
    immutable = {block for region in ("vectors", "records", "codes", "links") if region in new.extents
                 for e, at in enumerate(new.extents[region])
                 for block in range(at // df.BLOCK, (at + extent_bytes(new, region, e)) // df.BLOCK)}
    changed = []
    for block in range(2, len(after) // df.BLOCK):
        span = slice(block * df.BLOCK, (block + 1) * df.BLOCK)
        manifest = new.manifest_at <= span.start < new.manifest_at + new.manifest_bytes
        if block not in immutable and (manifest or before[span] != after[span]):
            changed.append((block, after[span]))
    changed.append((new.super_at // df.BLOCK, after[new.super_at:new.super_at + df.BLOCK]))
    uuid = new.get(new.super_at, df.SUPERBLOCK, "uuid")
    generation = new.get(new.super_at, df.SUPERBLOCK, "generation")
    assert generation == old.get(old.super_at, df.SUPERBLOCK, "generation") + 1
    lsn = new.get(new.super_at, df.SUPERBLOCK, "lsn")
    (directory / f"{name}.ckpt").write_bytes(df.Ckpt.make(uuid, generation, lsn, changed))
    torn = bytearray(before)
    for block, data in changed[:len(changed) // 2]:
        torn[block * df.BLOCK:(block + 1) * df.BLOCK] = data
    for block in immutable:  # rows are written before
        span = slice(block * df.BLOCK, (block + 1) * df.BLOCK)
        torn[span] = after[span]
    (directory / f"{name}.jvdb").write_bytes(torn)


def extent_bytes(file, region, extent):
    cell_bytes, unit_cells = file.shapes[region]
    units = 1 if extent < 8 else 1 << (extent // 8 - 1) if extent < 88 else 1024
    return df.up(cell_bytes * unit_cells * units, df.BLOCK)

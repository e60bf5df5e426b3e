"""Forged files: fields with hostile values under checksums that are right.

Run by test_corruption.py like mutate.py, with the same arguments.  What such a file holds is
anybody's guess; the daemon has to live with it: every request about it gets an answer, in time,
the other databases are answered exactly, and a sanitizer has nothing to say.
"""
import http.client
import json
import random
import resource
import shutil
import subprocess
import time

import mutate  # first: it finds the harness
import disk_format as df
import gold
import harness
import numpy as np

FIELDS_MAX = 3
FILE_BYTES_MAX = 64 << 20


class Forgery:
    """One to three fields of one file, and the checksums on the way up."""

    def __init__(self, directory, older, rng, _crashed):
        self.directory, self.older, self.rng = directory, older, rng
        names = sorted(p.name for p in directory.iterdir()
                       if p.name == ".catalog" or mutate.owner(p.name))
        self.file = rng.choices(names, [self.weight(directory / n) for n in names])[0]
        self.files, self.note, self.kind = [self.file], "", "?"

    @staticmethod
    def weight(path):
        if path.name.endswith(".jvdb"):
            return 40 if path.name == "linked.jvdb" else 14
        if path.name == ".catalog":
            return 6
        if path.name.endswith(".ckpt"):
            return 12
        return 6 if path.read_bytes()[df.SEGMENT_HEAD:df.SEGMENT_HEAD + 4] != bytes(4) else 1

    def apply(self):
        path = self.directory / self.file
        file = df.parse(self.file, path.read_bytes())
        getattr(self, "forge_" + type(file).__name__.lower())(file)
        path.write_bytes(file.data)
        self.note = f"{self.kind} {self.file} {self.note}"

    def hit(self, file, at, table, names=None, others=()):
        """Another value for a field of what lies at `at`; `others` lie elsewhere."""
        rng = self.rng
        name = rng.choice([n for n in names or table if n != "crc" or names])
        code = table[name][1]
        if code not in df.WIDTH:
            old = file.get(at, table, name)
            new = rng.choice((bytes(len(old)), b"\xff" * len(old), rng.randbytes(len(old)),
                              bytes([old[0] ^ 1]) + old[1:], b"x" * len(old)))
            file.put(at, table, name, new)
            self.note += f" {name} at {at}: {old} to {new};"
            return
        old, top = file.get(at, table, name), 1 << 8 * df.WIDTH[code]
        values = [0, 1, 2, top - 1, top - 2, top // 2, top // 2 - 1, old + 1, old - 1, old + 8,
                  old * 2, old // 2, old ^ 1 << rng.randrange(8 * df.WIDTH[code]),
                  rng.randrange(top), rng.randrange(1 << rng.randrange(1, 8 * df.WIDTH[code])),
                  len(file.data), len(file.data) // df.BLOCK, old + df.BLOCK, old - df.BLOCK]
        if others:
            values += [file.get(rng.choice(others), table, name)] * 6
        new = rng.choice(values) % top
        file.put(at, table, name, new)
        self.note += f" {name} at {at}: {old} to {new};"

    def several(self):
        return range(self.rng.randint(1, FIELDS_MAX))

    # ---- by file ----

    def forge_jvdb(self, file):
        rng = self.rng
        kinds = {"superblock": 8, "manifest": 12, "slots": 16, "nodes": 16, "records": 12,
                 "rows": 4, "chain": 6, "copy": 4}
        if "index" in file.records:
            kinds = {"index": 12, "links": 20, "codes": 10, "slots": 4, "manifest": 4}
        self.kind = rng.choices(list(kinds), list(kinds.values()))[0]
        getattr(self, "forge_" + self.kind)(file)

    def forge_superblock(self, file):
        for _ in self.several():
            self.hit(file, file.super_at, df.SUPERBLOCK)
        file.seal_superblock()

    def forge_manifest(self, file):
        rng = self.rng
        for _ in self.several():
            what = rng.choice(("head", "record", "schema", "counts", "counts", "counts", "region",
                               "region", "extents", "extents", "sums"))
            heads = [head for head, _ in file.records.values()]
            regions = [p for n, (_, p) in file.records.items() if n.startswith("region")]
            if what == "head":
                self.hit(file, file.manifest_at, df.MANIFEST)
            elif what == "record":
                self.hit(file, rng.choice(heads), df.MANIFEST_RECORD, None, heads)
            elif what == "schema":
                self.hit(file, file.records["schema"][1], df.SCHEMA)
            elif what == "counts":
                self.hit(file, file.counts_at, df.COUNTS)
            elif what == "region":
                self.hit(file, rng.choice(regions), df.REGION, None, regions)
            else:
                payload = file.records["sums"][1] if what == "sums" else rng.choice(regions) + 40
                self.hit(file, payload, df.fields("offset 0 Q"), None,
                         [r + 40 for r in regions])
        file.seal()

    def forge_slots(self, file):
        slots = file.slots()
        if not slots:
            return self.forge_manifest(file)
        hit = []
        for _ in self.several():
            hit.append(self.rng.choice(slots))
            self.hit(file, hit[-1], df.SLOT, None, slots)
        return file.seal(hit)

    def forge_nodes(self, file):
        nodes = file.nodes()
        if not nodes:
            return self.forge_manifest(file)
        hit = []
        for _ in self.several():
            hit.append(self.rng.choice(nodes))
            if self.rng.random() < 0.4:
                self.hit(file, hit[-1], df.INDEX_NODE, None, nodes)
            else:
                count = max(1, min(168, file.get(hit[-1], df.INDEX_NODE, "count")))
                entries = [n + 64 + 24 * self.rng.randrange(count) for n in nodes]
                at = hit[-1] + 64 + 24 * self.rng.choice((0, count - 1, self.rng.randrange(count)))
                self.hit(file, at, df.INDEX_ENTRY, None, entries)
        if self.rng.random() < 0.3:
            self.hit(file, file.counts_at, df.COUNTS,
                     ("index_root", "index_levels", "index_nodes"))
        return file.seal(hit)

    def forge_records(self, file):
        places = file.record_places()
        if not places:
            return self.forge_manifest(file)
        for _ in self.several():
            at, place = self.rng.choice(places)
            self.hit(file, place, df.RECORD, None, [p for _, p in places])
            file.seal_record(at, place)
        return None

    def forge_rows(self, file):
        """Numbers that no request could have brought in, and ids."""
        slots = file.slots()
        if not slots:
            return self.forge_manifest(file)
        i = self.rng.randrange(len(slots))
        cell, _ = file.shapes["vectors"]
        dimension = file.get(file.records["schema"][1], df.SCHEMA, "dimension")
        place, slot = file.place("vectors", i), slots[i]
        value = self.rng.choice((np.nan, np.inf, -np.inf, 3.4e38, 1e-45))
        row = np.frombuffer(file.cut(place, cell), "<f4").copy()
        row[self.rng.randrange(dimension)] = value
        file.data[place:place + cell] = row.tobytes()
        if self.rng.random() < 0.5:
            self.hit(file, slot, df.SLOT, ("key", "text_bytes"), slots)
        crc = df.crc32c(file.cut(slot, 8) + file.cut(slot + 40, 4)
                        + file.cut(place, 4 * dimension))
        file.put(slot, df.SLOT, "row_crc", crc)
        self.note += f" a row with {value};"
        return file.seal([slot])

    def forge_chain(self, file):
        """The chain of dead slots, which the next writes follow."""
        slots, rng = file.slots(), self.rng
        if not slots:
            return self.forge_manifest(file)
        hit = [rng.choice(slots) for _ in range(rng.randint(1, 4))]
        numbers = [slots.index(s) + 1 for s in hit]
        for slot, following in zip(hit, numbers[1:] + numbers[:1]):
            file.put(slot, df.SLOT, "next_dead", following)
            if rng.random() < 0.5:
                file.put(slot, df.SLOT, "death", 1)
            if rng.random() < 0.5:
                file.put(slot, df.SLOT, "replaced", following)
        file.put(file.counts_at, df.COUNTS, "dead_first", numbers[0])
        file.put(file.counts_at, df.COUNTS, "dead_last", rng.choice(numbers + [0, len(slots)]))
        file.put(file.counts_at, df.COUNTS, "dead_count", rng.choice((0, 1, len(numbers))))
        self.note += f" dead: {numbers} in a circle;"
        return file.seal(hit)

    def forge_copy(self, file):
        """One slot or node in the place of another."""
        cells, size = self.rng.choice(((file.slots(), 64), (file.nodes(), df.BLOCK)))
        if not cells:
            return self.forge_manifest(file)
        source, target = self.rng.choice(cells), self.rng.choice(cells)
        file.data[target:target + size] = file.data[source:source + size]
        self.note += f" {size} bytes at {source} to {target};"
        return file.seal([target])

    def forge_index(self, file):
        """The record of the search index: its head, and the words behind it."""
        at = file.records["index"][1]
        words = (file.get(at - 24, df.MANIFEST_RECORD, "bytes") - df.INDEX_HEAD) // 4
        for _ in self.several():
            if self.rng.random() < 0.6:
                self.hit(file, at, df.INDEX)
            else:
                places = [at + df.INDEX_HEAD + 4 * i for i in range(words)]
                self.hit(file, self.rng.choice(places), df.fields("word 0 I"), None, places)
        file.seal()

    def forge_links(self, file):
        """Of some nodes, with right checksums: to anywhere, in circles, rings that never end."""
        rng, nodes = self.rng, file.graph_nodes()
        size = file.shapes["links"][0] // 4 - 2
        for i in rng.sample(range(len(nodes)), rng.choice((1, 3, 20, len(nodes)))):
            degree = rng.choice((0, 1, 2, size, 255, rng.randrange(256)))
            flags = rng.choice((0x200, 0x600, 0x600, 0x400, 0, 0x300, 0x700, rng.randrange(1 << 32)))
            file.put(nodes[i], df.GRAPH_NODE, "head", degree | flags)
            to = rng.choice((lambda: i, lambda: (i + 1) % len(nodes), lambda: i ^ 1,
                             lambda: rng.randrange(len(nodes)), lambda: rng.randrange(1 << 32),
                             lambda: len(nodes) + rng.randrange(3)))
            for k in range(size):
                file.data[nodes[i] + 8 + 4 * k:nodes[i] + 12 + 4 * k] = to().to_bytes(4, "little")
            file.seal_node(i)
            self.note += f" links of {i}: {degree | flags:#x};"[:40]

    def forge_codes(self, file):
        rng, count = self.rng, len(file.graph_nodes())
        for i in rng.sample(range(count), rng.choice((1, 3, 20, count))):
            value = rng.choice((np.nan, np.inf, -np.inf, 3.4e38, -1.0, 0.0, 1e-45))
            at = file.code_tail(i) + 4 * rng.randrange(4)
            file.data[at:at + 4] = np.float32(value).tobytes()
            if rng.random() < 0.5:
                file.data[file.place("codes", i) + rng.randrange(32)] ^= 255
            file.seal_code(i)
            self.note += f" code of {i} with {value};"[:40]

    def forge_wal(self, file):
        self.kind = "log"
        rng, records = self.rng, file.records()
        name = mutate.owner(self.file)
        dimension = {"empty": 3, "tiny": 1, "mixed": 17, "wide": 300, "many": 8, "texts": 4,
                     "linked": 40}[name]
        for _ in self.several():
            roll = rng.random()
            if not records or roll < 0.25:
                self.hit(file, 0, df.WAL_HEADER)
                continue
            record = rng.choice(records)
            ops = file.ops(record, dimension)
            if roll < 0.5 or not ops:
                self.hit(file, record, df.WAL_RECORD, None, records)
            else:
                self.hit(file, rng.choice(ops), df.WAL_OP, None, ops)
        file.seal(records)

    def forge_ckpt(self, file):
        self.kind = "checkpoint"
        rng = self.rng
        count = file.get(file.footer_at, df.CKPT_FOOTER, "block_count")
        numbers = [file.footer_at - 8 * (i + 1) for i in range(count)]
        for _ in self.several():
            what = rng.choice(("head", "footer", "number", "number", "number", "superblock",
                               "noise"))
            if what == "head":
                self.hit(file, 0, df.CKPT_HEADER)
            elif what == "footer":
                self.hit(file, file.footer_at, df.CKPT_FOOTER)
            elif what == "number":
                self.hit(file, rng.choice(numbers), df.fields("number 0 Q"), None, numbers)
            elif what == "superblock":  # the last block
                at = df.BLOCK * count
                self.hit(file, at, df.SUPERBLOCK)
                file.put_crc(at, df.SUPERBLOCK, at, at + 4092)
            else:
                at = df.BLOCK * rng.randint(1, count)
                file.data[at:at + df.BLOCK] = rng.randbytes(df.BLOCK)
                self.note += f" noise at {at};"
        file.seal()

    def forge_catalog(self, file):
        self.kind = "catalog"
        records = file.records()
        for _ in self.several():
            self.hit(file, self.rng.choice(records), df.CATALOG_RECORD, None, records)
        file.seal(records)


class Hostile(mutate.Judge):
    """Uses the forged database in every way there is."""

    def use(self, client, rng, base):
        """Every answer is HTTP and JSON; what it says is not judged."""
        path = f"/databases/{base.name}"
        row = [float(x) for x in np.random.default_rng(rng.randrange(99)).standard_normal(
            base.dimension).astype(np.float32)]

        def ask(method, more, body=None):
            status, answer = client.ask(method, path + more,
                                        body if body is None else json.dumps(body))
            assert status in (200, 201, 400, 404, 409, 423, 500, 503), (status, answer[:200])
            return status

        def read():
            ask("GET", "")
            ask("GET", "/stats")
            for _ in client.interview(base):
                pass
            ask("POST", "/search", {"data": row, "top_k": 1000})
            ask("GET", "/vectors?prefix=r&limit=50")
            for _ in range(3):  # by metadata, filling a column, with it
                ask("POST", "/count", {"filter": {"k": {"$prefix": "vv"}, "$id": {"$ne": 7}}})
            ask("POST", "/search", {"data": row, "filter": {"k": {"$gt": "vvv"}}})
            ask("POST", "/vectors/scroll", {"filter": {"$not": {"k": "v"}}, "limit": 50})

        read()
        ids = list(base.rows)[:40] + ["fresh one", "fresh " * 80, 5, 9999]
        for some in (ids, list(range(20000, 20060)), [f"s{i}" for i in range(40)]):
            ask("POST", "/vectors/batch", {"vectors": [
                {"vector_id": i, "data": row, "metadata": {"k": "v" * (n % 50)}}
                for n, i in enumerate(some)]})
        ask("POST", "/vectors", {"data": row})
        ask("POST", "/vectors/delete", {"ids": ids[::3]})
        ask("POST", "/flush", {})
        ask("POST", "/vectors/delete", {"filter": {"k": {"$in": ["v", "vvvv", "vvvvvvvv"]}}})
        read()
        ask("POST", "/vectors/delete", {"ids": ids[1::3] + list(range(20000, 20030))})
        ask("POST", "/vectors/batch", {"vectors": [{"vector_id": i, "data": row}
                                                   for i in range(30000, 30090)]})
        ask("POST", "/compact", {})
        ask("POST", "/verify", {})
        read()

    def run_once(self, daemon, rng, mutant, writes):
        daemon.start()
        client = gold.Client(daemon, mutate.ANSWER_S)
        try:
            status, body = client.ask("GET", "/databases")
            json.loads(body)
            if status not in (200, 500):
                raise mutate.Silent(f"the list of databases: {status} {body[:200]}")
            name = mutate.owner(mutant.file)
            for base in self.truth.bases.values():
                if base.name == name or name is None:
                    if writes:
                        self.use(client, rng, base)
                    else:
                        for _ in client.interview(base):
                            pass
                elif self.interview(client, base.name, True) != "exact":
                    raise mutate.Silent(f"{base.name} suffers from damage elsewhere")
        finally:
            client.close()
        rss = peak_kib(daemon.pid)
        daemon.signal(15)
        code = daemon.wait_exit()
        if code not in (0, 1):  # 1: not all could be flushed
            raise mutate.Silent(f"exit code {code} after SIGTERM")
        return rss

    def judge(self, seed, i):
        rng = random.Random(f"{seed}/hostile {'crashed' if self.crashed else 'clean'}/{i}")
        shutil.rmtree(self.scratch, ignore_errors=True)
        shutil.copytree(self.source, self.scratch,
                        ignore=shutil.ignore_patterns(".reserve*"))
        mutant = Forgery(self.scratch, self.truth.older, rng, self.crashed)
        mutant.apply()
        # No allocation by a number in a file that the file cannot back.
        env = {"ASAN_OPTIONS": "max_allocation_size_mb=256:detect_leaks=1"} \
            if harness.SANITIZER == "asan" else None
        daemon = harness.Daemon(self.scratch, env=env)
        begun = time.monotonic()
        try:
            rss = self.run_once(daemon, rng, mutant, True)
            self.run_once(daemon, rng, mutant, False)
            if time.monotonic() - begun > mutate.MUTANT_S:
                raise mutate.Silent(f"took {time.monotonic() - begun:.1f} s")
            if not harness.SANITIZER and rss > 256 << 10:
                raise mutate.Silent(f"took {rss} KiB of memory")
            return "survived", mutant.note, ""
        except mutate.Silent as failure:
            return "WRONG", mutant.note, f"{failure} {daemon.log(since_start=True)[-1500:]}"
        except (AssertionError, OSError, ValueError, http.client.HTTPException) as failure:
            return "CRASH or HANG", mutant.note, f"{failure!r}: {report(daemon)}"
        finally:
            daemon.discard()
            harness.Daemon.every.clear()


def report(daemon):
    """The part of the log that says why."""
    if daemon.process is not None:
        try:
            daemon.process.wait(3)
        except subprocess.TimeoutExpired:
            pass
    time.sleep(0.05)
    log = daemon.log(since_start=True)
    found = harness.REPORT.search(log)
    return log[found.start():found.start() + 1800] if found else log[-1200:]


def peak_kib(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as stream:
        lines = dict(line.split(":", 1) for line in stream)
    return int(lines["VmHWM"].split()[0])


if __name__ == "__main__":
    # A file that grows beyond every reason is refused (507) instead of filling the disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES_MAX, FILE_BYTES_MAX))
    mutate.main(Hostile)

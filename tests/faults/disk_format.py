"""The file formats (docs/FORMAT.md) for tests that forge files: fields by name, and checksums.

A File holds the bytes of one file.  Fields are changed with get() and put(); seal() then makes every
checksum on the way up right again, so that the daemon takes the file for an intact one.
"""
import struct
import sys

BLOCK = 4096
SEGMENT_HEAD = 512

WIDTH = {"B": 1, "H": 2, "I": 4, "Q": 8}


def fields(text):
    """"magic 0 4s, version 4 I" -> {"magic": (0, "4s"), ...}"""
    table = {}
    for item in text.split(","):
        name, at, code = item.split()
        table[name] = (int(at), code)
    return table


SUPERBLOCK = fields("magic 0 4s, format_version 4 I, features_compat 8 Q, features_ro_compat 16 Q,"
                    "features_incompat 24 Q, uuid 32 16s, generation 48 Q, lsn 56 Q,"
                    "manifest_at 64 Q, manifest_bytes 72 Q, file_bytes 80 Q, manifest_crc 88 I,"
                    "reserved_flags 92 I, crc 4092 I")
MANIFEST = fields("magic 0 4s, record_count 4 I, uuid 8 16s, generation 24 Q, lsn 32 Q, bytes 40 Q")
MANIFEST_RECORD = fields("name 0 16s, flags 16 I, bytes 20 I")
SCHEMA = fields("dimension 0 I, metric 4 I, durability 8 I, options_bytes 12 I,"
                "initial_capacity 16 Q, index_kind 24 I, quantization 28 I, m 32 I,"
                "ef_construction 36 I")
COUNTS = fields("live_count 0 Q, dead_count 8 Q, next_id 16 Q, records_bytes 24 Q,"
                "garbage_bytes 32 Q, slot_count 40 I, dead_first 44 I, dead_last 48 I,"
                "index_root 52 I, index_levels 56 I, index_nodes 60 I")
REGION = fields("name 0 16s, is_mutable 16 I, extent_count 20 I, cell_bytes 24 Q, unit_cells 32 I,"
                "reserved 36 I")
INDEX = fields("codec 0 I, degree 4 I, ef_construction 8 I, seed 12 I, gain 16 I, reach2 20 I,"
               "node_count 24 I, linked_count 28 I, reuse_lsn 32 Q, effort_rows 40 Q,"
               "effort_queries 48 I, step_count 52 I, mean_count 56 I, pivot_count 60 I,"
               "extra_count 64 I, aside_run_count 68 I, run_count 72 I, reserved 76 I")
INDEX_HEAD = 80  # arrays of words follow
GRAPH_NODE = fields("head 0 I, check 4 I, first 8 I, second 12 I, last 124 I")
CODE_TAIL = fields("scale 0 I, norm2 4 I, sum 8 I, row_norm2 12 I, generation 16 I")
SLOT = fields("key 0 Q, birth 8 Q, death 16 Q, expires_at_ms 24 Q, record_at 32 Q, text_bytes 40 I,"
              "replaced 44 I, next_dead 48 I, generation 52 I, row_crc 56 I,"
              "replaced_generation 60 I")
RECORD = fields("crc 0 I, text_bytes 4 I, metadata_bytes 8 I, reserved 12 I, lsn 16 Q,"
                "predecessor 24 Q")
INDEX_NODE = fields("version 0 I, count 4 I, level 8 I, right 12 I, bound_key 16 Q,"
                    "bound_text_at 24 Q, bound_text_bytes 36 I")
INDEX_ENTRY = fields("key 0 Q, text_at 8 Q, ref 16 I, text_bytes 20 I")
WAL_HEADER = fields("magic 0 4s, format_version 4 I, uuid 8 16s, sequence 24 Q, base_lsn 32 Q,"
                    "after_lsn 40 Q, salt 48 Q, reserved 56 I, crc 60 I")
WAL_RECORD = fields("crc 0 I, bytes 4 I, lsn 8 Q, durable_lsn 16 Q, previous_crc 24 I, type 28 H,"
                    "flags 30 H, op_count 32 I, reserved 36 I")
WAL_OP = fields("kind 0 I, slot 4 I, key 8 Q, expires_at_ms 16 Q, record_at 24 Q, text_bytes 32 I,"
                "metadata_bytes 36 I, row_crc 40 I, reserved 44 I")
CKPT_HEADER = fields("magic 0 4s, format_version 4 I, uuid 8 16s, generation 24 Q, lsn 32 Q")
CKPT_FOOTER = fields("block_count 0 Q, bytes 8 Q, magic 16 4s, crc 20 I")
CATALOG_HEADER = fields("magic 0 4s, format_version 4 I")
CATALOG_RECORD = fields("crc 0 I, bytes 4 I, type 8 I, name_bytes 12 I, uuid 16 16s,"
                        "live_count 32 Q, dead_count 40 Q, file_bytes 48 Q, last_lsn 56 Q,"
                        "flags 64 I, format_version 68 I, dimension 72 I, metric 76 I,"
                        "durability 80 I, options_bytes 84 I, initial_capacity 88 Q,"
                        "index_kind 96 I, quantization 100 I, m 104 I, ef_construction 108 I")
SIZE = {id(SLOT): 64, id(INDEX_NODE): BLOCK, id(INDEX_ENTRY): 24, id(RECORD): 32}


def make_table():
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


TABLE = make_table()


def crc32c(data, crc=0):
    crc ^= 0xFFFFFFFF
    table = TABLE
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def up(value, to):
    return -(-value // to) * to


class Bytes:
    """A file's bytes, and fields in them."""

    def __init__(self, data):
        self.data = bytearray(data)

    def get(self, at, table, name):
        offset, code = table[name]
        return struct.unpack_from("<" + code, self.data, at + offset)[0]

    def put(self, at, table, name, value):
        offset, code = table[name]
        if code in WIDTH:
            value &= (1 << 8 * WIDTH[code]) - 1
        struct.pack_into("<" + code, self.data, at + offset, value)

    def cut(self, at, count):
        return bytes(self.data[at:at + count])

    def put_crc(self, at, table, start, end, seed=0):
        """The checksum of [start, end) into the field crc of what lies at `at`."""
        self.put(at, table, "crc", crc32c(self.data[start:end], seed))


class Jvdb(Bytes):
    """A NAME.jvdb, as its newest superblock has it."""

    def __init__(self, data):
        super().__init__(data)
        generations = [self.get(i * BLOCK, SUPERBLOCK, "generation") for i in (0, 1)]
        self.super_at = BLOCK * (generations[1] > generations[0])
        self.alike = generations[0] == generations[1]
        self.manifest_at = self.get(self.super_at, SUPERBLOCK, "manifest_at")
        self.manifest_bytes = self.get(self.super_at, SUPERBLOCK, "manifest_bytes")
        self.records = {}   # name, or "region NAME" -> (place of its head, place of its payload)
        self.extents = {}   # region -> [offset]
        self.shapes = {}    # region -> (cell_bytes, unit_cells)
        at = self.manifest_at + 48
        for _ in range(self.get(self.manifest_at, MANIFEST, "record_count")):
            name = self.get(at, MANIFEST_RECORD, "name").rstrip(b"\0").decode()
            count = self.get(at, MANIFEST_RECORD, "bytes")
            payload = at + 24
            if name == "region":
                region = self.get(payload, REGION, "name").rstrip(b"\0").decode()
                extents = self.get(payload, REGION, "extent_count")
                self.extents[region] = list(struct.unpack_from(f"<{extents}Q", self.data,
                                                               payload + 40))
                self.shapes[region] = (self.get(payload, REGION, "cell_bytes"),
                                       self.get(payload, REGION, "unit_cells"))
                name += " " + region
            self.records[name] = (at, payload)
            at = payload + up(count, 8)
        self.counts_at = self.records["counts"][1]

    def place(self, region, cell):
        """Where a cell lies in the file (docs/FORMAT.md, "Regions and extents")."""
        cell_bytes, unit_cells = self.shapes[region]
        unit = cell // unit_cells
        if unit < 8:
            extent, units = unit, 1
        elif unit < 8192:
            k = unit.bit_length() - 1
            units = 1 << (k - 3)
            extent = 8 * (k - 2) + (unit - (1 << k)) // units
        else:
            units, extent = 1024, 88 + (unit - 8192) // 1024
        first = unit // units * units * unit_cells
        return self.extents[region][extent] + (cell - first) * cell_bytes

    def slots(self):
        """Places of all slots in use."""
        return [self.place("slots", i)
                for i in range(self.get(self.counts_at, COUNTS, "slot_count"))]

    def nodes(self):
        return [self.place("id_index", i)
                for i in range(self.get(self.counts_at, COUNTS, "index_nodes"))]

    def graph_nodes(self):
        """Places of the links of all nodes of the search index."""
        if "index" not in self.records:
            return []
        at = self.records["index"][1]
        return [self.place("links", i) for i in range(self.get(at, INDEX, "node_count"))]

    def seal_node(self, i):
        """The checksum of the links of node i."""
        place, slot = self.place("links", i), self.slots()[i]
        seed = self.get(self.records["index"][1], INDEX, "seed")
        words = struct.pack("<4I", seed, i, self.get(slot, SLOT, "generation"),
                            self.get(place, GRAPH_NODE, "head"))
        size = self.shapes["links"][0]
        self.put(place, GRAPH_NODE, "check",
                 crc32c(self.cut(place + 8, size - 8), crc32c(words)))

    def code_tail(self, i):
        """Place of the tail of the code of node i: int8, as many bytes as numbers."""
        dimension = self.get(self.records["schema"][1], SCHEMA, "dimension")
        codec = self.get(self.records["index"][1], INDEX, "codec")
        code = {0: up(dimension, 64), 1: up(dimension, 64) // 8, 2: 4 * up(dimension, 16)}[codec]
        return self.place("codes", i) + code

    def seal_code(self, i):
        tail = self.code_tail(i)
        seed = self.get(self.records["index"][1], INDEX, "seed")
        place = self.place("codes", i)
        struct.pack_into("<I", self.data, tail + 20,
                         crc32c(self.cut(place, tail + 20 - place),
                                crc32c(struct.pack("<2I", seed, i))))

    def record_places(self):
        """(offset in the region, place in the file) of every record that lies in one extent."""
        at, found = 0, []
        end = self.get(self.counts_at, COUNTS, "records_bytes")
        while at + 32 <= end:
            place = self.place("records", at)
            if self.place("records", at + 31) != place + 31:
                break
            size = up(32 + self.get(place, RECORD, "text_bytes")
                      + self.get(place, RECORD, "metadata_bytes"), 8)
            if at + size > end or self.place("records", at + size - 1) != place + size - 1:
                break
            found.append((at, place))
            at += size
        return found

    def seal_record(self, at, place):
        """The checksum of the record at `at` of the region, if its sizes are in the file."""
        size = 32 + self.get(place, RECORD, "text_bytes") + self.get(place, RECORD, "metadata_bytes")
        if size < len(self.data):
            self.put_crc(place, RECORD, place + 4, min(place + size, len(self.data)),
                         record_seed(at))

    def seal(self, blocks=()):
        """All checksums above the mutable blocks that hold the places `blocks`."""
        sums_payload = self.records["sums"][1]
        sum_blocks = set()
        for block in {place // BLOCK for place in blocks}:
            at = self.place("sums", block)
            struct.pack_into("<I", self.data, at,
                             crc32c(self.data[block * BLOCK:(block + 1) * BLOCK]))
            sum_blocks.add(block // 1024)
        for index in sum_blocks:
            at = self.place("sums", index * 1024) // BLOCK * BLOCK
            struct.pack_into("<I", self.data, sums_payload + 4 * index,
                             crc32c(self.data[at:at + BLOCK]))
        crc = crc32c(self.data[self.manifest_at:self.manifest_at + self.manifest_bytes])
        self.put(self.super_at, SUPERBLOCK, "manifest_crc", crc)
        self.seal_superblock()

    def seal_superblock(self):
        at = self.super_at
        self.put_crc(at, SUPERBLOCK, at, at + 4092)
        if self.alike:
            self.data[BLOCK - at:2 * BLOCK - at] = self.data[at:at + BLOCK]


def record_seed(at):
    """What the checksum of the record at `at` of the region begins with: its place."""
    return crc32c(struct.pack("<Q", at + 1))


class Wal(Bytes):
    """A segment of the log."""

    def records(self):
        """Places of the records that belong to it."""
        at, found, lsn = SEGMENT_HEAD, [], self.get(0, WAL_HEADER, "base_lsn")
        salt = self.cut(48, 8)
        while at + 40 <= len(self.data):
            count = self.get(at, WAL_RECORD, "bytes")
            if count < 40 or at + count > len(self.data) or self.get(at, WAL_RECORD, "lsn") != lsn \
                    or crc32c(self.data[at + 4:at + count], crc32c(salt)) \
                    != self.get(at, WAL_RECORD, "crc"):
                break
            found.append(at)
            lsn += 1
            at += up(count, 8)
        return found

    def ops(self, record, dimension):
        """Places of the operations in the record at `record`."""
        end = min(record + self.get(record, WAL_RECORD, "bytes"), len(self.data))
        at, found = record + 40, []
        while at + 48 <= end:
            found.append(at)
            put = self.get(at, WAL_OP, "kind") == 1
            at += up(48 + self.get(at, WAL_OP, "text_bytes")
                     + self.get(at, WAL_OP, "metadata_bytes"), 8)
            at += up(4 * dimension, 8) if put else 0
        return found

    def seal(self, records):
        """All checksums; `records` are the places that records() gave before the change."""
        salt = crc32c(self.cut(48, 8))
        previous = None
        for at in records:
            if previous is not None:
                self.put(at, WAL_RECORD, "previous_crc", previous)
            count = self.get(at, WAL_RECORD, "bytes")
            end = min(at + max(count, 40), len(self.data))
            previous = crc32c(self.data[at + 4:end], salt)
            self.put(at, WAL_RECORD, "crc", previous)
        self.put_crc(0, WAL_HEADER, 0, 60)


class Ckpt(Bytes):
    """A .ckpt."""

    @property
    def footer_at(self):
        return len(self.data) - 24

    def seal(self):
        self.put_crc(self.footer_at, CKPT_FOOTER, 0, len(self.data) - 4)

    @staticmethod
    def make(uuid, generation, lsn, blocks):
        """Of [(block number, its 4096 bytes)]."""
        head = struct.pack("<4sI16sQQ", b"JVCK", 2, uuid, generation, lsn).ljust(BLOCK, b"\0")
        body = head + b"".join(data for _, data in blocks)
        body += struct.pack(f"<{len(blocks)}Q", *(number for number, _ in blocks))
        ckpt = Ckpt(body + struct.pack("<QQ4sI", len(blocks), len(body) + 24, b"JVCK", 0))
        ckpt.seal()
        return bytes(ckpt.data)


class Catalog(Bytes):
    """The catalog."""

    def records(self):
        at, found = 8, []
        while at + 112 <= len(self.data):
            found.append(at)
            count = self.get(at, CATALOG_RECORD, "bytes")
            if count < 112:
                break
            at += count
        return found

    def seal(self, records):
        for at in records:
            end = min(at + max(self.get(at, CATALOG_RECORD, "bytes"), 112), len(self.data))
            self.put_crc(at, CATALOG_RECORD, at + 4, end)


def parse(name, data):
    """The class for a file of that name, or None."""
    if name.endswith(".jvdb"):
        return Jvdb(data)
    if ".wal." in name:
        return Wal(data)
    if name.endswith(".ckpt"):
        return Ckpt(data)
    return Catalog(data) if name == ".catalog" else None


if __name__ == "__main__":  # disk_format.py FILE...: what a file says of itself
    for path in sys.argv[1:]:
        with open(path, "rb") as stream:
            one = parse(path.rsplit("/", 1)[-1], stream.read())
        if isinstance(one, Jvdb):
            print(path, {n: one.get(one.super_at, SUPERBLOCK, n) for n in
                         ("generation", "lsn", "manifest_at", "manifest_bytes", "file_bytes")})
            print("  ", {n: one.get(one.counts_at, COUNTS, n) for n in COUNTS})
            print("  ", one.extents)

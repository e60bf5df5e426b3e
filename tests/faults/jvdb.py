"""A .jvdb file as docs/FORMAT.md draws it: which byte belongs to what.  For tests that damage it."""
import struct

BLOCK = 4096
NEVER = 2**64 - 1
SMALL, CLASS_MAX, LAST_CLASS = 8, 13, 88


def extent_units(extent):
    if extent < SMALL:
        return 1
    return 1024 if extent >= LAST_CLASS else 1 << (extent // 8 - 1)


class Slot:
    def __init__(self, number, raw, place):
        self.number, self.place = number, place
        (self.key, self.birth, self.death, _, self.record_at, self.text_bytes, self.replaced,
         self.next_dead, self.generation, self.row_crc, _) = struct.unpack("<5Q6I", raw)

    @property
    def lives(self):
        return self.death == NEVER


class File:
    """Parsed from bytes; places are offsets in the file."""

    def __init__(self, path):
        self.bytes = path.read_bytes()
        best = max(range(2), key=lambda i: struct.unpack_from("<Q", self.bytes, i * BLOCK + 48)[0])
        (self.generation, self.lsn, self.manifest_at, self.manifest_bytes, self.file_bytes) = \
            struct.unpack_from("<5Q", self.bytes, best * BLOCK + 48)
        self.superblock_at = best * BLOCK
        self.regions = {}
        at = self.manifest_at
        count, = struct.unpack_from("<I", self.bytes, at + 4)
        at += 48
        for _ in range(count):
            name, _, size = struct.unpack_from("<16sII", self.bytes, at)
            name, body = name.rstrip(b"\0").decode(), at + 24
            if name == "schema":
                self.dimension, = struct.unpack_from("<I", self.bytes, body)
            elif name == "counts":
                (self.live_count, self.dead_count, _, self.records_bytes, _, self.slot_count, _, _,
                 _, _, self.index_nodes) = struct.unpack_from("<5Q6I", self.bytes, body)
            elif name == "region":
                region, mutable, extents, cell, unit = \
                    struct.unpack_from("<16sIIQI", self.bytes, body)
                offsets = struct.unpack_from(f"<{extents}Q", self.bytes, body + 40)
                self.regions[region.rstrip(b"\0").decode()] = (bool(mutable), cell, unit, offsets)
            at = body + (size + 7) // 8 * 8

    def extents(self, region):
        """(offset, bytes) of each extent."""
        _, cell, unit, offsets = self.regions[region]
        return [(at, -(-extent_units(i) * unit * cell // BLOCK) * BLOCK)
                for i, at in enumerate(offsets)]

    def place(self, region, number):
        """Where cell `number` lies."""
        _, cell, unit, offsets = self.regions[region]
        for i, at in enumerate(offsets):
            cells = extent_units(i) * unit
            if number < cells:
                return at + number * cell
            number -= cells
        raise IndexError(number)

    def slots(self):
        for number in range(self.slot_count):
            at = self.place("slots", number)
            yield Slot(number, self.bytes[at:at + 64], at)

    def record(self, slot):
        """(place, bytes) of the record of a slot, or None."""
        if not slot.record_at:
            return None
        at = self.place("records", slot.record_at - 1)
        text, metadata = struct.unpack_from("<II", self.bytes, at + 4)
        return at, 32 + text + metadata

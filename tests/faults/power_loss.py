"""What a power cut can leave: from the log of record_fs, the directories that POSIX allows.

At a cut (behind a number of records of the log):
  data    What a finished sync of a file covered is on the disk.  Every page (4 KiB) that was written
          since can be as it was after any of these writes, or before them all; under "torn" every
          sector (512 bytes) chooses for itself.
  size    Any size since the last sync; what no page was written of reads as zeros, or as junk.
  names   strict: a name is made or removed for sure once its directory was synced; of the changes
                  since, any may have happened and any not (what POSIX promises, no more)
          ext4:   any sync, of a file too, makes all earlier changes of names sure; of the later
                  ones the first few have happened (one journal)

An image is named by (cut, model, seed): the seed decides everything else.
"""
import dataclasses
import os
import pathlib
import random
import struct

(WRITE, TRUNCATE, ALLOCATE, ZERO, SYNC_BEGIN, SYNC_END, DIR_SYNC_BEGIN, DIR_SYNC_END, CREATE, MKDIR,
 UNLINK, RMDIR, RENAME, LINK, MARK, ALL_DURABLE) = range(1, 17)
HEAD = struct.Struct("<IIQQQIIII")
MAGIC = 0x52464a56
PAGE, SECTOR = 4096, 512
MODELS = ("ext4", "strict")


@dataclasses.dataclass(slots=True)
class Record:
    op: int
    inode: int
    at: int
    length: int
    path: str
    new_path: str
    data: bytes


def read_log(path):
    """The records, in order."""
    raw, at, records = pathlib.Path(path).read_bytes(), 0, []
    while at < len(raw):
        magic, op, inode, offset, length, *sizes = HEAD.unpack_from(raw, at)
        assert magic == MAGIC, f"{path} is not a log of record_fs at byte {at}"
        at += HEAD.size
        parts = []
        for size in sizes[:3]:
            parts.append(raw[at:at + size])
            at += size
        records.append(Record(op, inode, offset, length, os.fsdecode(parts[0]),
                              os.fsdecode(parts[1]), parts[2]))
    return records


# ---- files ----

def resize(content, size):
    if size < len(content):
        del content[size:]
    else:
        content.extend(bytes(size - len(content)))


def apply(content, record):
    """Do to a bytearray what the record did to the file."""
    end = record.at + record.length
    if record.op == WRITE:
        if record.at > len(content):
            resize(content, record.at)
        content[record.at:end] = record.data
    elif record.op == TRUNCATE:
        resize(content, record.at)
    elif record.op == ALLOCATE:
        resize(content, max(end, len(content)))
    elif record.op == ZERO and record.at < len(content):
        end = min(end, len(content))
        content[record.at:end] = bytes(end - record.at)


class File:
    def __init__(self):
        self.durable = bytearray()
        self.pending = []  # (order, record)

    def sync(self, before):
        """A sync that began at `before` has ended."""
        done = 0
        while done < len(self.pending) and self.pending[done][0] < before:
            apply(self.durable, self.pending[done][1])
            done += 1
        del self.pending[:done]

    def after(self, count):
        content = bytearray(self.durable)
        for _, record in self.pending[:count]:
            apply(content, record)
        return content

    def image(self, dice, policy, junk):
        """One content that the cut may have left."""
        count = len(self.pending)
        if count == 0 or policy == "none":
            return self.durable
        if policy == "all":
            return self.after(count)
        if policy == "prefix":
            return self.after(dice.randint(0, count))
        return self._pages(dice, policy, junk)

    def _pages(self, dice, policy, junk):
        unit = SECTOR if policy == "torn" else PAGE
        sizes, touched = self._history(unit)
        chosen = dice.choice(sorted(touched)) if touched else None
        eager = dice.choice((.1, .5, .9))  # how much of it the disk had got

        def version(number):
            count = len(touched[number])
            if policy == "one":
                return count if number == chosen else 0
            if policy == "allbut":
                return 0 if number == chosen else count
            return count if dice.random() < eager else dice.randint(0, count)

        longest = max(sizes)
        content = self.durable + bytes(longest - len(self.durable))
        if junk:
            content[len(self.durable):] = junk(longest - len(self.durable))
        for number in sorted(touched):
            steps = version(number)
            if steps:
                self._write_unit(content, number * unit, unit, touched[number][:steps])
        last = policy in ("one", "allbut") or dice.random() < .5
        resize(content, sizes[-1] if last else dice.choice(sizes))
        return content

    def _history(self, unit):
        """Every size since the sync, and for each unit that was written the indexes of the writes."""
        sizes, touched = [len(self.durable)], {}
        for index, (_, record) in enumerate(self.pending):
            size, begin, end = sizes[-1], record.at, record.at + record.length
            if record.op == WRITE:
                size = max(size, end)
            elif record.op == TRUNCATE:
                begin, end, size = record.at, size, record.at  # what it cuts off reads as zeros
            elif record.op == ALLOCATE:
                begin, end, size = 0, 0, max(size, end)
            else:
                end = min(end, size)
            sizes.append(size)
            if begin < end:
                for number in range(begin // unit, (end - 1) // unit + 1):
                    touched.setdefault(number, []).append(index)
        return sizes, touched

    def _write_unit(self, content, at, unit, indexes):
        """The unit as it was after these of the pending writes."""
        part = bytearray(self.durable[at:at + unit])
        resize(part, unit)
        for index in indexes:
            record = self.pending[index][1]
            begin = max(record.at, at)
            if record.op == TRUNCATE:
                part[begin - at:] = bytes(unit - (begin - at))
                continue
            end = min(record.at + record.length, at + unit)
            if record.op == ZERO:
                part[begin - at:end - at] = bytes(end - begin)
            else:
                part[begin - at:end - at] = record.data[begin - record.at:end - record.at]
        end = min(at + unit, len(content))
        content[at:end] = part[:end - at]


# ---- the disk ----

DIRECTORY = object()
POLICIES = ("none", "all", "prefix", "pages", "pages", "torn", "torn", "one", "allbut",
            "each", "each", "each")
NAME_POLICIES = ("none", "all", "prefix", "any", "any", "one", "allbut")


@dataclasses.dataclass(slots=True)
class NameChange:
    order: int
    edits: list  # (path, File, DIRECTORY or None: removed)

    def directories(self):
        return {os.path.dirname(path) for path, _ in self.edits}


class Disk:
    """What is durable and what is pending after the records it was fed."""

    def __init__(self, model):
        assert model in MODELS
        self.model = model
        self.order = 0
        self.files = {}      # inode -> File
        self.live = {}       # path -> File or DIRECTORY, as programs see it
        self.names = {}      # the same, as the disk has it for sure
        self.changes = []    # of names, not sure yet
        self.began = {}      # number of a sync -> order

    def feed(self, record):
        self.order += 1
        op = record.op
        if op in (WRITE, TRUNCATE, ALLOCATE, ZERO):
            self.files[record.inode].pending.append((self.order, record))
        elif op in (SYNC_BEGIN, DIR_SYNC_BEGIN):
            self.began[record.at] = self.order
        elif op in (SYNC_END, DIR_SYNC_END):
            self._sync_ended(record, self.began.pop(record.at))
        elif op == ALL_DURABLE:
            for file in self.files.values():
                file.sync(self.order)
            self._settle(lambda change: True)
        elif op != MARK:
            self._change_name(record)

    def _sync_ended(self, record, began):
        if record.op == SYNC_END:
            self.files[record.inode].sync(began)
        if self.model == "ext4":
            self._settle(lambda change: change.order < began)
        elif record.op == DIR_SYNC_END:
            path = record.path.rstrip("/") or "/"
            self._settle(lambda change: change.order < began and change.directories() == {path})
            for change in self.changes:  # a rename between two directories is two changes
                if change.order < began and path in change.directories():
                    self._edit([e for e in change.edits if os.path.dirname(e[0]) == path])
                    change.edits = [e for e in change.edits if os.path.dirname(e[0]) != path]

    def _settle(self, sure):
        for change in self.changes:
            if sure(change):
                self._edit(change.edits)
        self.changes = [change for change in self.changes if not sure(change)]

    def _edit(self, edits):
        edit_names(self.names, edits)

    def _change_name(self, record):
        path, op = record.path, record.op
        if op == CREATE:
            self.files[record.inode] = File()
            edits = [(path, self.files[record.inode])]
        elif op == MKDIR:
            edits = [(path, DIRECTORY)]
        elif op == LINK:
            edits = [(record.new_path, self.live[path])]
        elif op == RENAME:
            edits = [(path, None), (record.new_path, self.live[path])]
        else:
            edits = [(path, None)]
        edit_names(self.live, edits)
        self.changes.append(NameChange(self.order, edits))

    def image(self, directory, seed):
        """Write one image into the new, empty `directory`; what was decided, in words."""
        dice = random.Random(seed)
        policy, name_policy = dice.choice(POLICIES), dice.choice(NAME_POLICIES)
        junk = self._junk(dice) if dice.random() < .2 else None
        names = dict(self.names)
        for change in self._happened(dice, name_policy):
            edit_names(names, change.edits)
        contents = {}
        for path in sorted(names):
            target, node = pathlib.Path(str(directory) + path), names[path]
            if not target.parent.is_dir():
                continue  # its directory was lost
            if node is DIRECTORY:
                target.mkdir()
                continue
            if id(node) not in contents:
                own = dice.choice(POLICIES[:-3]) if policy == "each" else policy
                contents[id(node)] = node.image(dice, own, junk)
            target.write_bytes(contents[id(node)])
        return f"{policy}, names {name_policy}" + (", junk" if junk else "")

    def _happened(self, dice, policy):
        """Which of the changes of names that are not sure the disk has."""
        count = len(self.changes)
        if policy == "none" or count == 0:
            return []
        if policy == "all":
            return self.changes
        if self.model == "ext4" or policy == "prefix":
            return self.changes[:dice.randint(0, count)]
        chosen = dice.randrange(count)
        if policy == "one":
            return [self.changes[chosen]]
        if policy == "allbut":
            return self.changes[:chosen] + self.changes[chosen + 1:]
        return [change for change in self.changes if dice.random() < .5]

    def _junk(self, dice):
        """What grown files hold where nothing was written: anything, or what another file held."""
        if dice.random() < .5:
            return dice.randbytes
        old = b"".join(bytes(file.durable) for file in self.files.values())[:1 << 22] or b"\xff"
        begin = dice.randrange(len(old)) // PAGE * PAGE

        def stale(size):
            return (old[begin:] + old * (size // len(old) + 1))[:size]
        return stale


def edit_names(names, edits):
    for path, node in edits:
        if node is None:
            names.pop(path, None)
        else:
            names[path] = node


# ---- cuts ----

def choose(records, count, model, seed, promises=(b"",), first=0):
    """`count` images of a log, as (cut, seed) in the order of the cuts.

    Most are where mistakes show: while a sync is under way, behind a change of a name, and right
    behind a mark that begins with one of `promises`, when what was acknowledged must be there.
    None is before record `first`, nor among those of what was there when the recording began.
    """
    dice = random.Random(f"{model}/{seed}")
    syncs = [i for i, r in enumerate(records) if r.op in (SYNC_END, DIR_SYNC_END)]
    names = [i + 1 for i, r in enumerate(records) if r.op in (RENAME, UNLINK, CREATE)]
    marks = [i + 1 for i, r in enumerate(records) if r.op == MARK and r.data.startswith(promises)]
    begin = max([first] + [i + 1 for i, r in enumerate(records) if r.op == ALL_DURABLE])
    chosen = []
    for _ in range(count):
        kind = dice.random()
        group = marks if kind < .4 else syncs if kind < .7 else names if kind < .8 else None
        cut = dice.choice(group) if group else dice.randint(begin, len(records))
        chosen.append((max(begin, cut), dice.randrange(1 << 40)))
    return sorted(chosen)

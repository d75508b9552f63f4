"""A FAT32 file system that is changed where it lies, never mounted.

The kernel's driver writes in an order that a power cut turns into damage: a rename there gives the
file a second name for a moment, and to remove either then frees the clusters of both. Here a file
appears, vanishes or gets another name with the write of one sector, which a disk does as a whole:

=======================  ==================================================  ====================
what                     writes, each on the disk before the next            cut between them
=======================  ==================================================  ====================
`Writer`                 contents · both tables · the name                   clusters are lost
`remove`                 the name · both tables                              clusters are lost
`rename`, room in place  the name
`rename`, otherwise      the new name · the old name                         a file has two names
=======================  ==================================================  ====================

Lost clusters come back by `reclaim`. Of two names the caller takes one away by `forget`, which
leaves the clusters alone. Layout: Microsoft's FAT32 File System Specification, 1.03.
"""

import errno
import os
import struct
from array import array
from collections.abc import Iterable, Iterator
from typing import Final

from initd.values import NamedTuple

_SLOT: Final = 32
_FREE: Final = 0xE5
_END: Final = 0x00
_LONG: Final = 0x0F
_LAST: Final = 0x40
_FOLDER: Final = 0x10
_VOLUME: Final = 0x08
_ARCHIVE: Final = 0x20
# Of a table's entry: 28 bits count; from `_CHAIN_END` on it is the last one, `_MARK` is written.
_MASK: Final = 0x0FFFFFFF
_CHAIN_END: Final = 0x0FFFFFF8
_MARK: Final = 0x0FFFFFFF
# Characters of a long name that a slot has, and where.
_PER_SLOT: Final = 13
_PIECES: Final = ((1, 10), (14, 12), (28, 4))
# 1 January 2025: the node's clock may not be set, and nobody asks.
_DATE: Final = (2025 - 1980) << 9 | 1 << 5 | 1
_UNKNOWN: Final = 0xFFFFFFFF


class File(NamedTuple):
    """A file or folder. `slots` are the places of its directory entry on the disk, the last one
    holds its short name."""

    name: str
    short: bytes
    slots: tuple[int, ...]
    cluster: int
    size: int
    folder: bool


class Fat:
    """The file system on an open device or image. OSError with EINVAL: it is not FAT32, or broken;
    with ENOSPC: no room."""

    def __init__(self, fd: int, path: str) -> None:
        """`fd` stays the caller's to close."""
        self._fd = fd
        self._path = path
        boot = self._read(0, 512)
        sector, per_cluster, reserved, tables, roots, total16 = struct.unpack_from(
            "<HBHBHH", boot, 11
        )
        total, table, flags, _, root, info = struct.unpack_from("<IIHHIH", boot, 32)
        if boot[510:512] != b"\x55\xaa" or sector not in (512, 1024, 2048, 4096) or not tables:
            raise self._bad("no FAT file system; write the image anew")
        if roots or total16 or not table or not per_cluster or flags & 0x80:
            raise self._bad("not FAT32 with equal tables; make it with mkfs.vfat -F 32")
        self._sector: int = sector
        self._cluster: int = sector * per_cluster
        self._root: int = root
        self._info: int = info * sector
        self._tables = tuple((reserved + table * n) * sector for n in range(tables))
        self._data: int = (reserved + tables * table) * sector
        count = (total - reserved - tables * table) // per_cluster
        self._end = min(count + 2, table * sector // 4)
        self._table = array("I", self._read(self._tables[0], self._end * 4))

    @property
    def free(self) -> int:
        """Bytes that files may still have; lost clusters do not count."""
        return sum(1 for entry in self._table[2:] if not entry & _MASK) * self._cluster

    def room(self, size: int) -> int:
        """Bytes that a file of this size takes."""
        return -(-size // self._cluster) * self._cluster

    def files(self, folder: str) -> list[File]:
        """What a folder has, by its path (`EFI/Linux`); case does not count. ENOENT: none."""
        return [f for f in self._files(self._start(folder)) if f.name not in (".", "..")]

    def find(self, folder: str, name: str) -> File:
        """OSError with ENOENT."""
        for file in self.files(folder):
            if _same(file.name, name):
                return file
        raise FileNotFoundError(errno.ENOENT, "no such file", f"{self._path}:{folder}/{name}")

    def read(self, file: File, offset: int, length: int) -> bytes:
        """As much as there is."""
        length = max(0, min(length, file.size - offset))
        return self.get(self._chain(file.cluster) if length else [], offset, length)

    def rename(self, folder: str, file: File, name: str) -> None:
        """Give it another name in its folder, which nothing else may have there."""
        taken = self.files(folder)
        if any(_same(other.name, name) and other.slots != file.slots for other in taken):
            raise FileExistsError(errno.EEXIST, "file exists", f"{self._path}:{folder}/{name}")
        pieces = _pieces(name, file.short)
        unused = len(file.slots) - 1 - len(pieces)
        if unused >= 0 and len({slot // self._sector for slot in file.slots}) == 1:
            changes = {slot: bytes((_FREE,)) for slot in file.slots[:unused]}
            changes |= dict(zip(file.slots[unused:-1], pieces, strict=True))
            self._change(changes)
            return
        head = self._read(file.slots[-1], _SLOT)
        self._enter(folder, name, head[11:], taken)
        self.forget(file)

    def forget(self, file: File) -> None:
        """Take a name away and leave its clusters: they are another name's, or lost."""
        # The short name first, without which the pieces of the long one mean nothing.
        self._change({file.slots[-1]: bytes((_FREE,))})
        if len(file.slots) > 1:
            self._change({slot: bytes((_FREE,)) for slot in file.slots[:-1]})

    def remove(self, file: File) -> None:
        """A file. None of its clusters may be another's."""
        self.forget(file)
        if file.cluster:
            self._set(dict.fromkeys(self._chain(file.cluster), 0))

    def sweep(self, folder: str) -> None:
        """Take away pieces of long names that have no file any more."""
        named = {slot for file in self.files(folder) for slot in file.slots}
        pieces = set()
        for place, slot in self._slots(self._start(folder)):
            if slot[0] == _END:
                break
            if slot[0] != _FREE and slot[11] & 0x3F == _LONG:
                pieces.add(place)
        self._change(dict.fromkeys(pieces - named, bytes((_FREE,))))

    def reclaim(self) -> int:
        """Free what no file has, and make the tables equal again. Returns how many bytes."""
        used = bytearray(self._end)
        for cluster in self._reached(self._root, depth=8):
            used[cluster] = 1
        lost = [n for n in range(2, self._end) if self._table[n] & _MASK and not used[n]]
        # What is marked as damaged stays so.
        lost = [n for n in lost if self._table[n] & _MASK != 0x0FFFFFF7]
        self._set(dict.fromkeys(lost, 0))
        whole = self._table.tobytes()
        for table in self._tables[1:]:
            for at in range(0, len(whole), self._sector):
                piece = whole[at : at + self._sector]
                if self._read(table + at, len(piece)) != piece:
                    self._write(table + at, piece)
        self._sync()
        return len(lost) * self._cluster

    def writer(self, size: int) -> "Writer":
        """For a new file of so many bytes, which appears by `Writer.commit`. OSError, ENOSPC."""
        wanted = -(-size // self._cluster)
        found: list[int] = []
        for number in range(2, self._end):
            if len(found) == wanted:
                break
            if not self._table[number] & _MASK:
                found.append(number)
        if len(found) < wanted:
            raise OSError(
                errno.ENOSPC,
                f"{self.free} bytes are free and {self.room(size)} needed",
                self._path,
            )
        return Writer(self, found, size)

    # What `Writer` is made of.

    def put(self, clusters: list[int], offset: int, data: bytes) -> None:
        """Write into clusters that are nobody's, at an offset of the file that they will be."""
        view = memoryview(data)
        for place, length in self._runs(clusters, offset, len(data)):
            self._write(place, view[:length])
            view = view[length:]

    def get(self, clusters: list[int], offset: int, length: int) -> bytes:
        """What they hold now."""
        return b"".join(
            self._read(place, some) for place, some in self._runs(clusters, offset, length)
        )

    def settle(self) -> None:
        """What was put is on the disk, and read from there."""
        self._sync()
        os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def add(self, folder: str, name: str, clusters: list[int], size: int) -> None:
        """Chain the clusters, and only then give them a name."""
        taken = self.files(folder)
        if any(_same(other.name, name) for other in taken):
            raise FileExistsError(errno.EEXIST, "file exists", f"{self._path}:{folder}/{name}")
        self._sync()
        self._set(dict(zip(clusters, [*clusters[1:], _MARK], strict=True)))
        first = clusters[0] if clusters else 0
        head = struct.pack(
            "<BBBHHHHHHHI",
            *(_ARCHIVE, 0, 0, 0, _DATE, _DATE, first >> 16, 0, _DATE, first & 0xFFFF, size),
        )
        self._enter(folder, name, head, taken)

    # Tables

    def _runs(self, clusters: list[int], offset: int, length: int) -> Iterator[tuple[int, int]]:
        """Where on the disk a part of a file is, in as few pieces as it has."""
        if offset + length > len(clusters) * self._cluster:
            raise self._bad("a file ends early; upgrade the node anew")
        while length:
            number, within = divmod(offset, self._cluster)
            run = 1
            while (
                run * self._cluster - within < length
                and clusters[number + run] == clusters[number] + run
            ):
                run += 1
            some = min(length, run * self._cluster - within)
            yield self._place(clusters[number]) + within, some
            offset += some
            length -= some

    def _chain(self, cluster: int) -> list[int]:
        found: list[int] = []
        while cluster and cluster < _CHAIN_END:
            if not 2 <= cluster < self._end or len(found) > self._end:
                raise self._bad("a chain of clusters is broken; write the image anew")
            found.append(cluster)
            cluster = self._table[cluster] & _MASK
        return found

    def _set(self, entries: dict[int, int]) -> None:
        if not entries:
            return
        self._forget_count()
        for number, value in entries.items():
            self._table[number] = self._table[number] & ~_MASK | value
        per = self._sector // 4
        for table in self._tables:
            for sector in sorted({number // per for number in entries}):
                piece = self._table[sector * per : (sector + 1) * per].tobytes()
                self._write(table + sector * self._sector, piece)
            self._sync()

    def _forget_count(self) -> None:
        """How many clusters are free is a hint that others keep there: unknown from now on."""
        if 0 < self._info < self._data:
            hint = self._read(self._info, 512)
            if hint[:4] == b"RRaA" and hint[488:496] != struct.pack("<II", _UNKNOWN, _UNKNOWN):
                self._write(self._info + 488, struct.pack("<II", _UNKNOWN, _UNKNOWN))
                self._sync()

    def _reached(self, folder: int, depth: int) -> Iterator[int]:
        yield from self._chain(folder)
        for file in self._files(folder):
            if file.name in (".", "..") or not file.cluster:
                continue
            if file.folder and depth:
                yield from self._reached(file.cluster, depth - 1)
            else:
                yield from self._chain(file.cluster)

    # Folders

    def _start(self, folder: str) -> int:
        cluster = self._root
        for name in filter(None, folder.split("/")):
            found = [f for f in self._files(cluster) if f.folder and _same(f.name, name)]
            if not found:
                raise FileNotFoundError(errno.ENOENT, "no such folder", f"{self._path}:{folder}")
            cluster = found[0].cluster or self._root
        return cluster

    def _slots(self, folder: int) -> Iterator[tuple[int, bytes]]:
        for cluster in self._chain(folder):
            place = self._place(cluster)
            whole = self._read(place, self._cluster)
            for at in range(0, len(whole), _SLOT):
                yield place + at, whole[at : at + _SLOT]

    def _files(self, folder: int) -> Iterator[File]:
        long: list[tuple[int, bytes]] = []
        for place, slot in self._slots(folder):
            if slot[0] == _END:
                return
            if slot[0] == _FREE:
                long = []
            elif slot[11] & 0x3F == _LONG:
                if slot[0] & _LAST:
                    long = []
                long.append((place, slot))
            else:
                if not slot[11] & _VOLUME:
                    yield _file(long, place, slot)
                long = []

    def _enter(self, folder: str, name: str, head: bytes, taken: list[File]) -> None:
        """A new directory entry, by one write."""
        short = _short_name({file.short for file in taken})
        slots = [*_pieces(name, short), short + head]
        run, before = self._gap(self._start(folder), len(slots), folder)
        self._change(dict(zip(run, slots, strict=True)))
        # Beyond what was the folder's end it is seen once that has gone.
        self._change(dict.fromkeys(before, bytes((_FREE,))))

    def _gap(self, folder: int, wanted: int, path: str) -> tuple[list[int], list[int]]:
        """Free places one after the other in one sector; and those, in another, that end the folder
        before them."""
        run: list[int] = []
        before: list[int] = []
        ended = False
        for place, slot in self._slots(folder):
            if place % self._sector == 0:
                # Those that are free before the end may become so again: it does no harm.
                before = run if ended else []
                run = []
            ended = ended or slot[0] == _END
            run = [*run, place] if ended or slot[0] == _FREE else []
            if len(run) == wanted:
                return run, before
        raise OSError(errno.ENOSPC, "the folder is full", f"{self._path}:{path}")

    # The disk

    def _place(self, cluster: int) -> int:
        return self._data + (cluster - 2) * self._cluster

    def _change(self, changes: dict[int, bytes]) -> None:
        """Write these bytes at these places, each sector as a whole; then it is on the disk."""
        if not changes:
            return
        for sector in sorted({place // self._sector for place in changes}):
            start = sector * self._sector
            whole = bytearray(self._read(start, self._sector))
            for place, data in changes.items():
                if place // self._sector == sector:
                    whole[place - start : place - start + len(data)] = data
            self._write(start, whole)
        self._sync()

    def _read(self, offset: int, length: int) -> bytes:
        data = os.pread(self._fd, length, offset)
        if len(data) != length:
            raise self._bad("ends early; write the image anew")
        return data

    def _write(self, offset: int, data: "bytes | bytearray | memoryview") -> None:
        if os.pwrite(self._fd, data, offset) != len(data):
            raise OSError(errno.EIO, "not all was written", self._path)

    def _sync(self) -> None:
        os.fsync(self._fd)

    def _bad(self, text: str) -> OSError:
        return OSError(errno.EINVAL, text, self._path)


class Writer:
    """A file that is not there yet: its clusters are nobody's until `commit`."""

    def __init__(self, fat: Fat, clusters: list[int], size: int) -> None:
        self._fat = fat
        self._clusters = clusters
        self._size = size

    def write(self, offset: int, data: bytes) -> None:
        self._fat.put(self._clusters, offset, data)

    def settle(self) -> None:
        """What was written is on the disk; `read` reads it from there."""
        self._fat.settle()

    def read(self, offset: int, length: int) -> bytes:
        return self._fat.get(self._clusters, offset, min(length, self._size - offset))

    def commit(self, folder: str, name: str) -> None:
        """From now on it is there, whole."""
        self._fat.add(folder, name, self._clusters, self._size)


def _same(one: str, other: str) -> bool:
    return one.lower() == other.lower()


def _file(long: list[tuple[int, bytes]], place: int, slot: bytes) -> File:
    short = slot[:11]
    high, low, size = struct.unpack_from("<H4xHI", slot, 20)
    name = _long_name(long, short)
    places = tuple(at for at, _ in long) if name else ()
    return File(
        name or _shown(slot),
        short,
        (*places, place),
        high << 16 | low,
        size,
        bool(slot[11] & _FOLDER),
    )


def _long_name(long: list[tuple[int, bytes]], short: bytes) -> str:
    """Empty: there is none, or it is not this one's."""
    numbers = [slot[0] & ~_LAST for _, slot in long]
    if not long or numbers != list(range(len(long), 0, -1)) or not long[0][1][0] & _LAST:
        return ""
    if any(slot[13] != _checksum(short) for _, slot in long):
        return ""
    raw = b"".join(slot[at : at + length] for _, slot in reversed(long) for at, length in _PIECES)
    return raw.decode("utf-16-le", errors="replace").partition("\0")[0].rstrip("\uffff")


def _shown(slot: bytes) -> str:
    """A short name as it is shown: bits say which of its parts is in small letters."""
    base = slot[:8].decode("ascii", errors="replace").rstrip()
    kind = slot[8:11].decode("ascii", errors="replace").rstrip()
    base = base.lower() if slot[12] & 0x08 else base
    kind = kind.lower() if slot[12] & 0x10 else kind
    return f"{base}.{kind}" if kind else base


def _pieces(name: str, short: bytes) -> list[bytes]:
    """The slots of a long name, in their order on the disk."""
    raw = name.encode("utf-16-le")
    count = -(-len(name) // _PER_SLOT)
    if len(name) % _PER_SLOT:
        raw += b"\0\0"
    raw = raw.ljust(count * _PER_SLOT * 2, b"\xff")
    slots = []
    for number in range(count):
        part = raw[number * _PER_SLOT * 2 :][: _PER_SLOT * 2]
        order = number + 1 | (_LAST if number == count - 1 else 0)
        slots.append(
            struct.pack(
                "<B10sBBB12sH4s",
                *(order, part[:10], _LONG, 0, _checksum(short), part[10:22], 0, part[22:]),
            )
        )
    return slots[::-1]


def _checksum(short: bytes) -> int:
    total = 0
    for byte in short:
        total = ((total & 1) << 7) + (total >> 1) + byte & 0xFF
    return total


def _short_name(taken: Iterable[bytes]) -> bytes:
    names = set(taken)
    return next(
        name
        for n in range(1, 1000)
        if (name := f"AURAE~{n}".encode().ljust(8) + b"EFI") not in names
    )

"""The files of an audit log: segments of lines, and how far they are safe on the disk.

| file | what |
|---|---|
| `N.jsonl` | a segment, whose first event has number N (20 digits) |
| `head.json` | the last event that was on the disk for certain, and where it ended |
"""

import json
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from initd.values import NamedTuple
from runtime.audit import chain
from runtime.audit.model import Head

# The oldest of so many segments is removed when a new one begins.
SEGMENTS: Final = 8

# The head is written in place, so it has a size.
_HEAD_BYTES: Final = 256
# A line with the longest texts is shorter.
_LINE_BYTES: Final = 64 * 1024
_SUFFIX: Final = ".jsonl"
_DIGITS: Final = 20
# Numbers that events never have are no names of ours.
_MOST: Final = 1 << 62
_APPEND: Final = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC


class Place(NamedTuple):
    """An event, and where its line ends. Segment 0: there is none yet."""

    head: Head = Head()
    segment: int = 0
    size: int = 0


class Found(NamedTuple):
    """How an earlier run left the log. `fault`: it was changed since, and `head` is beyond it."""

    head: Head
    fault: str = ""


class Segments:
    """Everything but `sync` is for one thread. All raises OSError."""

    def __init__(self, folder: Path, size: int) -> None:
        self.firsts: list[int] = []
        """The segments that there are, by the number of their first event."""
        self._folder = folder
        self._most = size // SEGMENTS
        self._fd = -1
        self._size = 0
        self._torn = False
        self._unsynced: list[int] = []
        self._syncing = threading.Lock()
        self._heading = threading.Lock()
        self._head = Head()

    def path(self, first: int) -> Path:
        return self._folder / f"{first:0{_DIGITS}}{_SUFFIX}"

    def recover(self) -> Found:
        """Open what there is. A line that was not written to its end is cut off."""
        self.close()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.firsts = sorted(
            int(path.stem) for path in self._folder.glob(f"*{_SUFFIX}") if _named(path.stem)
        )
        place = self._read_head()
        if place is None and not self.firsts:
            # There is never a segment without a head.
            self._write_head(Place())
            self._sync_head()
            self._sync_folder()
            return Found(Head())
        if place is None:
            return self._broken(Head(), "head.json is missing or was changed")
        if not self.firsts and place.head.seq:
            return self._broken(place.head, f"all events up to {place.head.seq} are missing")
        return self._go_on(place)

    def full(self, more: int) -> bool:
        """Is there no room in the segment for so many bytes more? Also if there is no segment."""
        return self._fd < 0 or self._size + more > self._most

    def begin(self, head: Head) -> None:
        """A new segment, for the events after that one."""
        self._mend()
        first = head.seq + 1
        path = self.path(first)
        fd = os.open(path, _APPEND | os.O_CREAT | os.O_TRUNC, 0o600)
        data = chain.header(head.seq, head.hash)
        try:
            _write(fd, data)
        except OSError:
            os.close(fd)
            path.unlink()
            raise
        if self._fd >= 0:
            self._unsynced.append(self._fd)
            while len(self._unsynced) > SEGMENTS:
                # Removed by now, before it was ever on the disk.
                os.close(self._unsynced.pop(0))
        self._fd, self._size, self._torn = fd, len(data), False
        if first not in self.firsts:
            self.firsts.append(first)

    def append(self, data: bytes) -> None:
        """All of `data`, or, once the disk can be written again, nothing of it."""
        self._mend()
        self._torn = True
        _write(self._fd, data)
        self._torn = False
        self._size += len(data)

    def kept_from(self) -> int:
        """The first event that `trim` leaves."""
        return self.firsts[-SEGMENTS:][0]

    def trim(self, last: Head) -> None:
        """Remove the oldest segments."""
        if self._fd >= 0 and self.kept_from() > self._head.seq + 1:
            # The disk did not keep up: what the head tells of would be gone.
            self._advance(Place(last, self.firsts[-1], self._size))
        while len(self.firsts) > SEGMENTS:
            self.path(self.firsts[0]).unlink(missing_ok=True)
            del self.firsts[0]

    def snapshot(self, head: Head) -> "Snapshot | None":
        """What is to be made safe, for `sync`: `head` is the last event that was appended."""
        if self._fd < 0:
            return None
        older, self._unsynced = self._unsynced, []
        return Snapshot(Place(head, self.firsts[-1], self._size), (*older, os.dup(self._fd)))

    def sync(self, snapshot: "Snapshot") -> None:
        """Make it safe, which takes as long as the disk does. For any thread."""
        with self._syncing:
            try:
                for fd in snapshot.fds:
                    os.fdatasync(fd)
            finally:
                for fd in snapshot.fds:
                    os.close(fd)
            if len(snapshot.fds) > 1 or not self._head.seq:
                self._sync_folder()
            # Never before the events: a head that they do not reach tells of tampering.
            self._advance(snapshot.place)
            self._sync_head()

    def close(self) -> None:
        for fd in (*self._unsynced, *[self._fd] * (self._fd >= 0)):
            os.close(fd)
        self._unsynced, self._fd = [], -1

    def _go_on(self, place: Place) -> Found:
        """Check what was written after the head: the run before may have ended in the middle."""
        known = self._head = place.head
        verifier = chain.Verifier(after=(known.seq, known.hash))
        if place.segment:
            if place.segment not in self.firsts:
                return self._broken(known, f"segment {place.segment} is missing")
            if not self._ends_with(place):
                return self._broken(known, f"event {known.seq}: is missing or was changed")
        for first in [first for first in self.firsts if first >= place.segment]:
            whole = self._feed(verifier, first, place.size if first == place.segment else 0)
            if whole is None:
                self.path(first).unlink()
                self.firsts.remove(first)
                continue
            if self._fd >= 0:
                os.close(self._fd)
            self._fd = os.open(self.path(first), _APPEND)
            self._size = whole
        verifier.finish(part=True)
        if verifier.faults:
            return self._broken(Head(verifier.seq, verifier.hash), verifier.faults[0])
        if self._fd >= 0:
            os.ftruncate(self._fd, self._size)
        return Found(Head(verifier.seq, verifier.hash))

    def _feed(self, verifier: chain.Verifier, first: int, start: int) -> int | None:
        """Where the last whole line of a segment ends. None: not even its header is whole."""
        whole = start
        with self.path(first).open("rb") as file:
            file.seek(start)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                if whole:
                    verifier.event(line)
                else:
                    try:
                        verifier.begin(*chain.parse_header(line))
                    except ValueError as e:
                        verifier.faults.append(f"segment {first}: {e}")
                whole += len(line)
        return whole or None

    def _ends_with(self, place: Place) -> bool:
        """Is the head's event where it was?"""
        with self.path(place.segment).open("rb") as file:
            start = max(0, place.size - _LINE_BYTES)
            file.seek(start)
            data = file.read(place.size - start)
        if len(data) != place.size - start:
            return False
        last = data.rpartition(b"\n")[0].rpartition(b"\n")[2]
        return last.endswith(f'"hash":"{place.head.hash}"}}'.encode())

    def _broken(self, known: Head, fault: str) -> Found:
        """What is there stays as it is; nothing that follows has a number of it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        last = max(known.seq, *self.firsts, *self._numbers())
        return Found(Head(last, chain.GENESIS), fault)

    def _numbers(self) -> Iterator[int]:
        """Numbers in the last segment that look like those of events."""
        yield 0
        if not self.firsts:
            return
        with self.path(self.firsts[-1]).open("rb") as file:
            for line in file:
                with suppress(ValueError):
                    yield int(chain.parse(line)[0]["seq"])

    def _read_head(self) -> Place | None:
        try:
            text = (self._folder / "head.json").read_text("ascii")
            match json.loads(text):
                case {"seq": int(seq), "hash": str(sealed), "segment": int(at), "size": int(size)}:
                    if min(seq, at, size) >= 0 and max(seq, at, size) < _MOST:
                        return Place(Head(seq, sealed), at, size)
        except (FileNotFoundError, ValueError):
            pass
        return None

    def _mend(self) -> None:
        """Cut off what is left of a line that did not fit."""
        if self._torn:
            os.ftruncate(self._fd, self._size)
            self._torn = False

    def _advance(self, place: Place) -> None:
        with self._heading:
            if place.head.seq > self._head.seq:
                self._write_head(place)
                self._head = place.head

    def _write_head(self, place: Place) -> None:
        """In place: that needs no room, and a page is written as a whole or not."""
        fields = {**place.head._asdict(), "segment": place.segment, "size": place.size}
        data = json.dumps(fields).ljust(_HEAD_BYTES - 1) + "\n"
        fd = os.open(self._folder / "head.json", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(fd, data.encode("ascii"), 0)
        finally:
            os.close(fd)

    def _sync_head(self) -> None:
        _sync(self._folder / "head.json")

    def _sync_folder(self) -> None:
        _sync(self._folder)


class Snapshot(NamedTuple):
    """Files to make safe, which `sync` closes, and how far the log is then on the disk."""

    place: Place
    fds: tuple[int, ...]


def _named(stem: str) -> bool:
    return len(stem) == _DIGITS and stem.isascii() and stem.isdecimal() and int(stem) < _MOST


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _write(fd: int, data: bytes) -> None:
    """A disk that is nearly full takes a part, and says why when it is given the rest."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]

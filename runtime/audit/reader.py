"""Reads an audit log while it is written, from any event on."""

from typing import BinaryIO, Final

from initd.values import NamedTuple
from runtime.audit import chain
from runtime.audit.model import Event, Head
from runtime.audit.segments import Segments

# What is read at once: some 150 events, a millisecond or two.
CHUNK: Final = 64 * 1024

_BEGIN: Final = b'{"seq":'
_DIGITS: Final = 20
_HASH: Final = len(chain.GENESIS) + 2


class Batch(NamedTuple):
    """Events that follow each other. `previous` is the hash of the one before the first."""

    previous: str = ""
    events: list[Event] = []  # noqa: RUF012 # nobody changes it
    lost: int = 0
    """Events before these that the reader missed."""
    damage: str = ""
    """What is in the log that is no event; there are no events then."""


class Cursor:
    """Where a reader is. It keeps one file open, which may be removed meanwhile."""

    def __init__(self, segments: Segments, since: int) -> None:
        self.next = since
        """The number of the next event; 0: of the first that is kept."""
        self._segments = segments
        self._file: BinaryIO | None = None
        self._first = 0
        self._hash = ""

    def read(self, written: Head) -> Batch | None:
        """What comes next in the files, which reach up to `written`; None: nothing yet.

        It may have neither events nor anything else: the reader is on its way.
        """
        while self.next <= written.seq:
            if self._file is None:
                first = self._segment()
                if first is None:
                    return None
                if damage := self._enter(first):
                    return self._skip(damage, written)
            if batch := self._part():
                return batch
            if not self._later():
                return None
            self.close()
        return None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _later(self) -> list[int]:
        return [first for first in self._segments.firsts if first > self._first]

    def _segment(self) -> int | None:
        """The one after that which was read, or at first the one that has the next event."""
        if self._first:
            return min(self._later(), default=None)
        firsts = self._segments.firsts
        return max((f for f in firsts if f <= self.next), default=min(firsts, default=None))

    def _enter(self, first: int) -> str:
        """What is wrong with the segment, if anything is."""
        path = self._segments.path(first)
        self._first = first
        try:
            self._file = path.open("rb", buffering=0)
            header = self._file.read(CHUNK).partition(b"\n")[0]
            _, self._hash = chain.parse_header(header)
            self._file.seek(len(header) + 1)
        except (OSError, ValueError) as e:
            return f"{path.name}: {e}"
        return ""

    def _skip(self, damage: str, written: Head) -> Batch:
        """A segment cannot be read: go on with the next, or with what is written from now on."""
        self.close()
        if not self._later():
            self.next = written.seq + 1
        return Batch(damage=damage)

    def _part(self) -> Batch | None:
        """The next lines of the file that is open. None: there are none."""
        assert self._file is not None
        start = self._file.tell()
        data = self._file.read(CHUNK)
        # What has no end yet is read again: it may be written differently the next time.
        whole = data.rfind(b"\n") + 1
        if not whole and len(data) == CHUNK:
            return Batch(damage=f"{self._title}: a line has no end")
        self._file.seek(start)
        return self._parse(data[:whole], start) if whole else None

    def _parse(self, data: bytes, start: int) -> Batch:
        """The lines up to the first that does not follow, from which on the file is read next."""
        assert self._file is not None
        previous, lost, events, used = self._hash, 0, list[Event](), 0
        damage = ""
        for line in data.split(b"\n")[:-1]:
            if (seq := _number(line)) and seq < self.next:
                self._hash = line[-_HASH:-2].decode("ascii", "replace")
            else:
                try:
                    event = Event.parse(line)
                except ValueError as e:
                    if not events:
                        damage = f"{self._title}: after event {max(0, self.next - 1)}: {e}"
                        used += len(line) + 1
                    break
                if not events:
                    previous, lost = self._hash, event.seq - (self.next or event.seq)
                elif event.seq != self.next:
                    break
                events.append(event)
                self.next, self._hash = event.seq + 1, event.hash
            used += len(line) + 1
        self._file.seek(start + used)
        return Batch(previous, events, lost, damage)

    @property
    def _title(self) -> str:
        return self._segments.path(self._first).name


def _number(line: bytes) -> int:
    """The number of an event, without parsing it; 0 if it is none."""
    digits = line[len(_BEGIN) :].partition(b",")[0]
    known = line.startswith(_BEGIN) and digits.isdigit() and len(digits) < _DIGITS
    return int(digits) if known else 0

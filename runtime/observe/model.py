"""Log streams as readers see them: lines, each with its time, and what was lost between them."""

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from initd.logs.model import HEADER, Entry, Header, entry_at, index_path, read_entries, read_header
from initd.values import NamedTuple

# A line longer than this comes in pieces of this size.
MAX_LINE: Final = 64 * 1024

# Bytes read at once, and index entries read at once: what a reader costs in memory.
CHUNK: Final = 64 * 1024
ENTRIES: Final = 256


class Lines(NamedTuple):
    """Lines that were written at one time, without their newlines; a long one in pieces.

    Together, and not one by one: a hundred thousand lines are a hundred such values.
    """

    channel: str
    texts: list[str]
    time: int
    """Nanoseconds since the epoch."""


class Lost(NamedTuple):
    """So many lines are missing here: they were punched out before they were read."""

    lines: int


class Read(NamedTuple):
    """What one turn of reading gave.

    `end`: nothing more will ever come. `empty`: nothing was there; without it and without items,
    what was read is the beginning of a line.
    """

    items: list[Lines | Lost]
    end: bool = False
    empty: bool = False


class Reader:
    """Reads one stream from the first line that is kept. It never waits.

    The stream's writer may punch out the beginning at any time, also of what is being read: then
    the reader goes on where the stream now begins, and says how many lines it has lost.
    """

    def __init__(self, path: Path, channel: str) -> None:
        """Raises FileNotFoundError if there is no such stream."""
        self.index_path = index_path(path)
        self._channel = channel
        self._offset = 0
        self._newlines = 0
        self._pending = b""
        self._pending_at = 0
        self._entries: list[Entry] = []
        self._entry = 0
        self._first = 0
        self._data = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._index = os.open(self.index_path, os.O_RDONLY | os.O_CLOEXEC)
        except BaseException:
            os.close(self._data)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._index)
        os.close(self._data)

    def read(self) -> Read:
        """The next lines, at most `CHUNK` bytes of them; no items if there is nothing now."""
        if (index := os.fstat(self._index)).st_size < HEADER.size:
            return Read([], empty=True)  # the writer is about to begin
        # Before the data: what is closed now has all of its data on file already.
        closed = read_header(self._index).closed or index.st_nlink == 0
        data = os.pread(self._data, CHUNK, self._offset)
        # After the data: only what still begins before our offset was not a hole.
        if read_header(self._index).start > self._offset:
            return Read([self._skip()])
        if data:
            return Read(list(self._lines(data)))
        if closed:
            return Read(list(self.rest()), end=True)
        return Read([], empty=True)

    def rest(self) -> Iterator[Lines]:
        """The last line, if it has no newline."""
        if self._pending:
            yield self._piece(self._pending, self._pending_at)
            self._pending = b""

    def _skip(self) -> Lost:
        header = self._settled()
        lost = header.lost_lines - self._newlines
        self._newlines = header.lost_lines
        self._offset = header.start
        self._pending = b""
        self._entries = []
        self._first = entry_at(self._index, header.start)
        return Lost(lost)

    def _settled(self) -> Header:
        """The header, not read between the writes of two of its fields."""
        header = read_header(self._index)
        while (again := read_header(self._index)) != header:
            header = again
        return header

    def _lines(self, data: bytes) -> Iterator[Lines]:
        at = self._pending_at if self._pending else self._offset
        data_and_before = self._pending + data
        self._offset += len(data)
        self._newlines += data.count(b"\n")
        end = data_and_before.rfind(b"\n") + 1
        whole, rest = data_and_before[:end], data_and_before[end:]
        yield from self._runs(whole, at)
        at += end
        while len(rest) >= MAX_LINE:
            yield self._piece(rest[:MAX_LINE], at)
            rest, at = rest[MAX_LINE:], at + MAX_LINE
        self._pending, self._pending_at = rest, at

    def _runs(self, whole: bytes, at: int) -> Iterator[Lines]:
        """Whole lines, parted where the first line begins that was written later."""
        position = 0
        while position < len(whole):
            time, until = self._entry_of(at + position)
            stop = len(whole)
            if until is not None and until - at <= stop:
                stop = whole.find(b"\n", until - at - 1) + 1
            yield Lines(self._channel, _texts(whole[position:stop]), time)
            position = stop

    def _piece(self, line: bytes, at: int) -> Lines:
        return Lines(self._channel, [line.decode(errors="replace")], self._entry_of(at)[0])

    def _entry_of(self, at: int) -> tuple[int, int | None]:
        """When the byte at this offset was written, and the offset where later ones begin.

        Offsets must not fall from call to call.
        """
        while True:
            if self._entry + 1 >= len(self._entries):
                # The current entry stays the first of the next block.
                self._first += self._entry
                self._entries = read_entries(self._index, self._first, ENTRIES)
                self._entry = 0
                if len(self._entries) < 2:
                    return (self._entries[0].time if self._entries else 0), None
            if (following := self._entries[self._entry + 1].offset) > at:
                return self._entries[self._entry].time, following
            self._entry += 1


def _texts(lines: bytes) -> list[str]:
    """Lines that each end with a newline."""
    if len(lines) <= MAX_LINE:
        # A newline ends every sequence of bytes that is no text, so all can be decoded at once.
        return lines[:-1].decode(errors="replace").split("\n")
    return [
        line[start : start + MAX_LINE].decode(errors="replace")
        for line in lines[:-1].split(b"\n")
        for start in range(0, len(line) or 1, MAX_LINE)
    ]

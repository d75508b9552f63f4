"""The writer of one log stream."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from initd.linux import splice
from initd.logs.model import (
    CLOSED_AT,
    ENTRY,
    FIELD,
    HEADER,
    LOST_LINES_AT,
    MAGIC,
    START_AT,
    entry_at,
    index_path,
)

if TYPE_CHECKING:
    from initd.handover.model import StreamState

_PAGE: Final = 4096
# How much of the data is looked through at once for newlines before it goes.
_WINDOW: Final = 256 * 1024
_CREATE: Final = os.O_CREAT | os.O_TRUNC | os.O_RDWR | os.O_CLOEXEC


class Stream:
    """A data file and its index, open for writing until `release`."""

    def __init__(self, path: Path) -> None:
        self.start = 0
        self.size = 0
        self._lost_lines = 0
        self._entries = 0
        self._index_start = 0
        self._data = os.open(path, _CREATE, 0o600)
        try:
            self._index = os.open(index_path(path), _CREATE, 0o600)
        except BaseException:
            os.close(self._data)
            raise
        os.pwrite(self._index, HEADER.pack(MAGIC, 0, 0, 0), 0)

    @classmethod
    def resume(cls, state: "StreamState") -> Self:
        """Go on where `save` was called."""
        stream = cls.__new__(cls)
        stream.start, stream.size = state.start, state.size
        stream._lost_lines, stream._entries = state.lost_lines, state.entries
        stream._index_start = state.index_start
        stream._data, stream._index = state.data_file, state.index_file
        return stream

    def save(self) -> "StreamState":
        from initd.handover.model import Descriptor, StreamState

        return StreamState(
            data_file=Descriptor(self._data),
            index_file=Descriptor(self._index),
            start=self.start,
            size=self.size,
            lost_lines=self._lost_lines,
            entries=self._entries,
            index_start=self._index_start,
        )

    @property
    def kept(self) -> int:
        """Bytes of memory that data and index hold."""
        return self.size - self.start + self._entries * ENTRY.size - self._index_start

    def take(self, pipe: int, budget: int) -> int:
        """Move up to `budget` bytes out of the pipe, without waiting. 0: there is no more to come.

        BlockingIOError: nothing is there now."""
        count = splice.splice(pipe, self._data, self.size, budget)
        if count:
            self._enter(count)
        return count

    def write(self, data: bytes) -> None:
        """For what PID 1 itself has to say."""
        self._enter(os.pwrite(self._data, data, self.size))

    def end_line(self) -> None:
        """Write a newline where the last line has none: another run of the executable follows."""
        if self.tail(1) not in (b"", b"\n"):
            self.write(b"\n")

    def tail(self, count: int) -> bytes:
        """The last `count` bytes."""
        first = max(self.start, self.size - count)
        return os.pread(self._data, self.size - first, first)

    def drop(self, count: int) -> int:
        """Punch out the oldest `count` bytes, to the end of their last line; returns how many."""
        target = min(self.size, self.start + count)
        position, newlines = self.start, 0
        while position < target:
            data = os.pread(self._data, min(_WINDOW, target - position), position)
            if not data:
                break
            newlines += data.count(b"\n")
            position += len(data)
        # Never leave the beginning of a line off, if its end is near.
        rest = os.pread(self._data, _PAGE, position)
        end = rest.find(b"\n") + 1
        if end and os.pread(self._data, 1, position - 1) != b"\n":
            position, newlines = position + end, newlines + 1
        return self._drop_to(position, newlines)

    def finish(self) -> None:
        """Tell readers that nothing more will come. What is old may still be dropped."""
        os.pwrite(self._index, FIELD.pack(1), CLOSED_AT)

    def release(self) -> None:
        """Close the files."""
        os.close(self._index)
        os.close(self._data)

    def _enter(self, count: int) -> None:
        at = HEADER.size + self._entries * ENTRY.size
        os.pwrite(self._index, ENTRY.pack(self.size, time.time_ns()), at)
        self._entries += 1
        self.size += count

    def _drop_to(self, start: int, newlines: int) -> int:
        dropped, former = start - self.start, self.start
        self.start = start
        self._lost_lines += newlines
        # Lost lines first: a reader that sees the new start must see what it costs.
        os.pwrite(self._index, FIELD.pack(self._lost_lines), LOST_LINES_AT)
        os.pwrite(self._index, FIELD.pack(start), START_AT)
        _punch(self._data, former, start)
        entry = entry_at(self._index, start) * ENTRY.size
        if entry - self._index_start >= _PAGE:
            # The header's page stays.
            _punch(self._index, max(self._index_start, _PAGE), entry)
            self._index_start = entry
        return dropped


def _punch(file: int, first: int, end: int) -> None:
    first, end = first // _PAGE * _PAGE, end // _PAGE * _PAGE
    if end > first:
        splice.punch(file, first, end - first)

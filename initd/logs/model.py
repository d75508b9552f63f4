"""The log format: a file of bytes and its index. See docs/architecture.md.

PID 1 writes, anybody reads. Data goes before its index entry, the header's `start` before the hole:
a reader that finds `start` at or below its offset *after* reading has read what was written.
"""

import os
import struct
from pathlib import Path
from typing import Final

from initd.values import NamedTuple

MAGIC: Final = 0x3130474F4C415541
HEADER: Final = struct.Struct("<4Q")
ENTRY: Final = struct.Struct("<2Q")
# One field of the header.
FIELD: Final = struct.Struct("<Q")
START_AT: Final = 8
LOST_LINES_AT: Final = 16
CLOSED_AT: Final = 24


class Header(NamedTuple):
    """`start`: offset of the first byte kept. `lost_lines`: newlines in what is gone."""

    start: int
    lost_lines: int
    closed: bool


class Entry(NamedTuple):
    """From `offset` on, bytes were written at or after `time` (nanoseconds since the epoch)."""

    offset: int
    time: int


def index_path(data: Path) -> Path:
    return data.with_name(data.name + ".index")


def read_header(index: int) -> Header:
    """From the open index file. ValueError: it is none."""
    content = os.pread(index, HEADER.size, 0)
    if len(content) < HEADER.size:
        raise ValueError("log index: header is cut short")
    magic, start, lost_lines, closed = HEADER.unpack(content)
    if magic != MAGIC:
        raise ValueError(f"log index: magic is {magic:#x}")
    return Header(start, lost_lines, bool(closed))


def entry_count(index: int) -> int:
    return max(0, os.fstat(index).st_size - HEADER.size) // ENTRY.size


def read_entries(index: int, first: int, count: int) -> list[Entry]:
    """Up to `count` entries from number `first` on. Entries of bytes that are punched out may read
    as (0, 0), so offsets and times never fall."""
    content = os.pread(index, count * ENTRY.size, HEADER.size + first * ENTRY.size)
    whole = len(content) - len(content) % ENTRY.size
    return [Entry(*fields) for fields in ENTRY.iter_unpack(content[:whole])]


def entry_at(index: int, offset: int) -> int:
    """Number of the last entry whose offset is at or below `offset`; 0 when there is none."""
    low, high = 0, entry_count(index)
    while high - low > 1:
        middle = (low + high) // 2
        found = read_entries(index, middle, 1)
        if found and found[0].offset <= offset:
            low = middle
        else:
            high = middle
    return low

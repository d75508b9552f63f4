"""Disks for tests: a GPT with sectors of any size (UEFI specification, 5.3)."""

import binascii
import struct
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Final

MIB: Final = 1 << 20
ENTRIES: Final = 128
ENTRY: Final = 128
LINUX: Final = uuid.UUID("0FC63DAF-8483-4772-8E79-3D69D8477DE4")

# Name, size in MiB, and the file that is in it.
Part = tuple[str, int, Path | None]


def write(file: Path, size: int, parts: Sequence[Part], sector: int = 512) -> None:
    """A sparse disk of `size` bytes with these partitions, from the first MiB on."""
    with file.open("wb") as disk:
        disk.truncate(size)
        entries, at = b"", MIB
        for name, mib, content in parts:
            end = at + mib * MIB
            bounds = struct.pack("<QQQ", at // sector, end // sector - 1, 0)
            kind = LINUX.bytes_le + uuid.uuid4().bytes_le
            entries += kind + bounds + name.encode("utf-16-le").ljust(72, b"\0")
            if content is not None:
                disk.seek(at)
                disk.write(content.read_bytes())
            at = end
        entries = entries.ljust(ENTRIES * ENTRY, b"\0")
        last = size // sector - 1
        own, table = uuid.uuid4().bytes_le, len(entries) // sector
        disk.seek(446)
        whole = min(last, 0xFFFFFFFF)
        disk.write(struct.pack("<B3sB3sII", 0, b"\0\2\0", 0xEE, b"\xff\xff\xff", 1, whole))
        disk.seek(510)
        disk.write(b"\x55\xaa")
        for here, other, place in ((1, last, 2), (last, 1, last - table)):
            usable = (2 + table, last - table - 1)
            header = _header(own, here, other, usable, place, binascii.crc32(entries))
            disk.seek(here * sector)
            disk.write(header)
            disk.seek(place * sector)
            disk.write(entries)


def end_of_last(file: Path, sector: int = 512) -> int:
    """The byte after the last partition."""
    with file.open("rb") as disk:
        disk.seek(2 * sector)
        entries = disk.read(ENTRIES * ENTRY)
    ends = struct.iter_unpack("<32x8xQ80x", entries)
    last: int = max(end for (end,) in ends)
    return (last + 1) * sector


def _header(
    own: bytes, here: int, other: int, usable: tuple[int, int], place: int, check: int
) -> bytes:
    def packed(crc: int) -> bytes:
        first = struct.pack("<8sIII4x", b"EFI PART", 0x10000, 92, crc)
        middle = struct.pack("<QQQQ16sQ", here, other, *usable, own, place)
        return first + middle + struct.pack("<III", ENTRIES, ENTRY, check)

    return packed(binascii.crc32(packed(0)))

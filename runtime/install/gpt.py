"""GUID partition tables: read, checked, and made to fit another disk.

The layout is that of the UEFI specification, section 5.3. Pure: bytes in, bytes out.
"""

import itertools
import struct
from typing import Final
from uuid import UUID
from zlib import crc32

from initd.values import NamedTuple

SECTORS: Final = (512, 4096)
# A header lies in a sector of its own, and is followed by the entries: all that is in so much.
HEAD: Final = 1 << 20

_SIGNATURE: Final = b"EFI PART"
# Signature, revision, size, CRC, reserved; own and other header's sector, first and last usable
# one; the disk's ID; first sector, number and size of entries, and their CRC.
_HEADER: Final = struct.Struct("<8sIIIIQQQQ16sQIII")
# Type, ID, first and last sector, attributes, name.
_ENTRY: Final = struct.Struct("<16s16sQQQ72s")
_UNUSED: Final = bytes(16)
# In a protective MBR: its first record's type and its number of sectors.
_MBR_TYPE: Final = 446 + 4
_MBR_SECTORS: Final = 446 + 12
_PROTECTIVE: Final = 0xEE
_MBR_MARK: Final = (510, b"\x55\xaa")


class Partition(NamedTuple):
    """`first` and `end` are in bytes; the last byte is the one before `end`."""

    type: str
    first: int
    end: int
    label: str

    @property
    def size(self) -> int:
        return self.end - self.first


class Header(NamedTuple):
    """As it lies on the disk. `own`, `other`, `first`, `last` and `at` are sectors."""

    signature: bytes
    revision: int
    size: int
    crc: int
    reserved: int
    own: int
    other: int
    first: int
    last: int
    disk: bytes
    at: int
    number: int
    length: int
    entries_crc: int

    def packed(self, sector: int) -> bytes:
        plain = _HEADER.pack(*self._replace(crc=0))
        return _HEADER.pack(*self._replace(crc=crc32(plain))).ljust(sector, b"\0")


class Table(NamedTuple):
    """A partition table that holds together. Numbers named so are of sectors."""

    sector: int
    sectors: int
    """Of the disk that it is made for."""
    first_usable: int
    entries: bytes
    partitions: tuple[Partition, ...]
    mbr: bytes
    header: Header

    @property
    def size(self) -> int:
        """Bytes of the disk that it is made for."""
        return self.sectors * self.sector

    @property
    def head(self) -> int:
        """Bytes at the beginning which are the table's own."""
        return self.first_usable * self.sector

    @property
    def tail(self) -> int:
        """Bytes at the end which are the table's own: the second copy."""
        return (self._entry_sectors + 1) * self.sector

    @property
    def _entry_sectors(self) -> int:
        return -(-len(self.entries) // self.sector)

    def relocated(self, sectors: int) -> "Table":
        """The same partitions on a disk of so many sectors. ValueError: it is too small."""
        last = sectors - self._entry_sectors - 2
        end = max((partition.end for partition in self.partitions), default=0)
        if end > (last + 1) * self.sector:
            raise ValueError(f"has {sectors * self.sector} bytes, and needs {end + self.tail}")
        return self._replace(sectors=sectors)

    def first_copy(self) -> bytes:
        """`head` bytes for the beginning of the disk: MBR, header, entries."""
        mbr = bytearray(self.mbr)
        if mbr[_MBR_TYPE] == _PROTECTIVE:
            struct.pack_into("<I", mbr, _MBR_SECTORS, min(self.sectors - 1, 0xFFFFFFFF))
        header = self._header(own=1, other=self.sectors - 1, entries=2)
        table = bytes(mbr).ljust(self.sector, b"\0") + header + self.entries
        return table.ljust(self.head, b"\0")

    def second_copy(self) -> bytes:
        """`tail` bytes for its end: entries, header."""
        own = self.sectors - 1
        header = self._header(own=own, other=1, entries=own - self._entry_sectors)
        return self.entries.ljust(self._entry_sectors * self.sector, b"\0") + header

    def _header(self, *, own: int, other: int, entries: int) -> bytes:
        last = self.sectors - self._entry_sectors - 2
        made = self.header._replace(own=own, other=other, last=last, at=entries)
        return made.packed(self.sector)


def parse(data: bytes) -> Table:
    """The table at the beginning of a disk, of which `data` is the first `HEAD` bytes.

    ValueError says what is wrong with it."""
    sector = _sector(data)
    header = _header(data[sector : 2 * sector])
    if header.own != 1 or not 1 < header.at < header.first <= header.last < header.other:
        raise ValueError("partition table: contradicts itself")
    if header.length < _ENTRY.size or header.length % 8 or header.at != 2:
        raise ValueError("partition table: is of a kind that is not known")
    begin, end = header.at * sector, header.at * sector + header.number * header.length
    if end > min(len(data), header.first * sector):
        raise ValueError("partition table: its entries lie elsewhere than behind it")
    entries = data[begin:end]
    if crc32(entries) != header.entries_crc:
        raise ValueError("partition table: damaged: the entries' checksum is wrong")
    return Table(
        sector=sector,
        sectors=header.other + 1,
        first_usable=header.first,
        entries=entries,
        partitions=_partitions(entries, header, sector),
        mbr=data[:512],
        header=header,
    )


def check_second_copy(data: bytes, table: Table) -> None:
    """`data` are the last `tail` bytes of a disk with `table`. ValueError."""
    header = _header(data[-table.sector :])
    if data[: len(table.entries)] != table.entries or header.own != table.sectors - 1:
        raise ValueError("partition table: damaged: its copy at the end is another")


def _sector(data: bytes) -> int:
    at, mark = _MBR_MARK
    for sector in SECTORS:
        if data[sector : sector + len(_SIGNATURE)] == _SIGNATURE:
            if data[at : at + len(mark)] != mark:
                raise ValueError("partition table: damaged: the first sector has no mark")
            return sector
    raise ValueError("has no partition table (GPT)")


def _header(data: bytes) -> Header:
    if len(data) < _HEADER.size or not data.startswith(_SIGNATURE):
        raise ValueError("partition table: damaged: it has no header")
    header = Header(*_HEADER.unpack_from(data))
    if header.size != _HEADER.size:
        raise ValueError("partition table: is of a kind that is not known")
    if header.packed(0) != data[: _HEADER.size]:
        raise ValueError("partition table: damaged: the header's checksum is wrong")
    return header


def _partitions(entries: bytes, header: Header, sector: int) -> tuple[Partition, ...]:
    found = []
    for at in range(0, len(entries), header.length):
        kind, _, first, last, _, name = _ENTRY.unpack_from(entries, at)
        if kind == _UNUSED:
            continue
        label = name.decode("utf-16-le", errors="replace").partition("\0")[0]
        if not header.first <= first <= last <= header.last:
            raise ValueError(f"partition table: {label or 'a partition'} lies outside of the disk")
        found.append(
            Partition(str(UUID(bytes_le=kind)), first * sector, (last + 1) * sector, label)
        )
    found.sort(key=lambda partition: partition.first)
    for one, next_ in itertools.pairwise(found):
        if one.end > next_.first:
            raise ValueError(f"partition table: {one.label} and {next_.label} overlap")
    return tuple(found)

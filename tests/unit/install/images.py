"""Small images, made by other code than that under test."""

import random
import struct
import uuid
import zlib
from collections.abc import Sequence
from pathlib import Path

X86 = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"
ARM = "b921b045-1df0-41c3-af44-4c6f280d3fae"
ESP = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
MIB = 1 << 20


def header(sector: int, sectors: int, entries: bytes, *, own: int, other: int, at: int) -> bytes:
    usable = len(entries) // sector + 2
    fields = (own, other, usable, sectors - usable, uuid.UUID(int=7).bytes_le, at, 128, 128)
    plain = struct.pack("<8sIIIIQQQQ16sQII", b"EFI PART", 1 << 16, 92, 0, 0, *fields)
    plain += struct.pack("<I", zlib.crc32(entries))
    return (plain[:16] + struct.pack("<I", zlib.crc32(plain)) + plain[20:]).ljust(sector, b"\0")


def entry(sector: int, kind: str, label: str, first: int, end: int) -> bytes:
    places = (first // sector, end // sector - 1, 0)
    name = label.encode("utf-16-le").ljust(72, b"\0")
    ids = (uuid.UUID(kind).bytes_le, uuid.uuid5(uuid.NAMESPACE_DNS, label).bytes_le)
    return struct.pack("<16s16sQQQ", *ids, *places) + name


def image(
    size: int = 24 * MIB,
    *,
    sector: int = 512,
    root: str = X86,
    labels: Sequence[str] = ("aurae-esp", "aurae-root-a"),
) -> bytes:
    """Two partitions: one from 1 to 4 MiB, one from 8 to 20, each with random bytes and holes."""
    sectors = size // sector
    esp, other = labels
    entries = entry(sector, ESP, esp, MIB, 4 * MIB) + entry(sector, root, other, 8 * MIB, 20 * MIB)
    entries = entries.ljust(128 * 128, b"\0")
    blank = bytes(446) + b"\0\0\2\0\xee\xff\xff\xff" + struct.pack("<II", 1, sectors - 1)
    mbr = blank.ljust(510, b"\0") + b"\x55\xaa"
    data = bytearray(size)
    data[:512] = mbr
    first = header(sector, sectors, entries, own=1, other=sectors - 1, at=2)
    data[sector : sector + len(first) + len(entries)] = first + entries
    behind = sectors - 1 - len(entries) // sector
    last = header(sector, sectors, entries, own=sectors - 1, other=1, at=behind)
    data[behind * sector :] = entries + last
    noise = random.Random(1)
    for at in (MIB, 3 * MIB + 512, 8 * MIB, 12 * MIB - 7, 20 * MIB - 4096):
        data[at : at + 4096] = noise.randbytes(4096)
    return bytes(data)


def sparse(path: Path, content: bytes) -> Path:
    """A file with that content, whose zeros are holes."""
    with path.open("wb") as file:
        for at in range(0, len(content), 4096):
            if any(block := content[at : at + 4096]):
                file.seek(at)
                file.write(block)
        file.truncate(len(content))
    return path

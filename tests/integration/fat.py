"""Writes a small FAT12 file system with one file, whose name may be long."""

import struct
from pathlib import Path

SECTOR = 512
SECTORS = 2880
FATS = 9
ROOT = 224


def write(path: Path, label: str, name: str, content: bytes) -> Path:
    """The layout is that of a 1.44 MB floppy disk."""
    boot = bytearray(SECTOR)
    struct.pack_into(
        "<3s8sHBHBHHBHHH",
        boot,
        0,
        b"\xeb\x3c\x90",
        b"AURAE   ",
        SECTOR,
        1,
        1,
        2,
        ROOT,
        SECTORS,
        0xF0,
        FATS,
        18,
        2,
    )
    struct.pack_into("<BI11s8s", boot, 38, 0x29, 1, label.encode().ljust(11), b"FAT12   ")
    boot[510:] = b"\x55\xaa"
    clusters = -(-len(content) // SECTOR)
    table = bytearray(FATS * SECTOR)
    entries = [0xFF0, 0xFFF, *range(3, clusters + 2), 0xFFF]
    for number, entry in enumerate(entries):
        at = number * 3 // 2
        (word,) = struct.unpack_from("<H", table, at)
        word |= entry << 4 if number % 2 else entry
        struct.pack_into("<H", table, at, word)
    short = b"FILE~1     "
    volume = struct.pack("<11sB20x", label.encode().ljust(11), 8)
    file = struct.pack("<11sB14xHI", short, 0x20, 2, len(content))
    root = volume + _long(name, short) + file
    path.write_bytes(
        bytes(boot)
        + bytes(table) * 2
        + root.ljust(ROOT * 32, b"\0")
        + content.ljust(clusters * SECTOR, b"\0")
    )
    with path.open("r+b") as disk:
        disk.truncate(SECTORS * SECTOR)
    return path


def _long(name: str, short: bytes) -> bytes:
    """The entry of a long name, of at most 13 letters, which stands before the short one."""
    total = 0
    for byte in short:
        total = ((total >> 1) | (total & 1) << 7) + byte & 0xFF
    letters = (name.encode("utf-16-le") + b"\0\0").ljust(26, b"\xff")[:26]
    return struct.pack(
        "<B10sBBB12sH4s", 0x41, letters[:10], 0x0F, 0, total, letters[10:22], 0, letters[22:]
    )

"""FAT32 file systems to try things on, and a second reader of them that shares no code."""

import os
import shutil
import struct
import subprocess
from pathlib import Path

SECTORS = 6000
"""Of a file system. FAT32 wants more clusters than that; what tells it from others is its head."""


def make(path: Path, sector: int = 512, per_cluster: int = 1) -> Path:
    """A small FAT32 file system with the folder EFI/Linux."""
    table = -(-(SECTORS // per_cluster + 2) * 4 // sector)
    boot = bytearray(sector)
    boot[0:3] = b"\xeb\x58\x90"
    boot[3:11] = b"mkfs.fat"
    struct.pack_into(
        "<HBHBHHBHHHII", boot, 11, sector, per_cluster, 32, 2, 0, 0, 0xF8, 0, 32, 8, 0, SECTORS
    )
    struct.pack_into("<IHHIHH", boot, 36, table, 0, 0, 2, 1, 6)
    boot[66], boot[71:82], boot[82:90] = 0x29, b"NO NAME    ", b"FAT32   "
    boot[510:512] = b"\x55\xaa"
    info = bytearray(sector)
    info[0:4], info[484:488], info[508:512] = b"RRaA", b"rrAa", b"\0\0\x55\xaa"
    clusters = (SECTORS - 32 - 2 * table) // per_cluster
    struct.pack_into("<II", info, 488, clusters - 3, 5)
    with path.open("wb") as file:
        file.truncate(SECTORS * sector)
        for at in (0, 6):
            file.seek(at * sector)
            file.write(boot)
        file.seek(sector)
        file.write(info)
        for number in range(2):
            file.seek((32 + number * table) * sector)
            file.write(struct.pack("<5I", 0x0FFFFFF8, *[0x0FFFFFFF] * 4))
        data = (32 + 2 * table) * sector
        size = sector * per_cluster
        for cluster, entries in (
            (2, [(b"EFI        ", 3)]),
            (3, [(b".          ", 3), (b"..         ", 0), (b"LINUX      ", 4)]),
            (4, [(b".          ", 4), (b"..         ", 3)]),
        ):
            file.seek(data + (cluster - 2) * size)
            for name, start in entries:
                file.write(struct.pack("<11sB8xHIHI", name, 0x10, 0, 0, start, 0))
    return path


def checked(path: Path) -> str:
    """What fsck.fat says of it; empty where this host has none."""
    program = shutil.which("fsck.fat", path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    if program is None:
        return ""
    done = subprocess.run([program, "-n", path], capture_output=True, text=True, check=False)
    return f"{done.stdout}{done.stderr}" if done.returncode else ""

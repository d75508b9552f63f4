"""Boots that nobody has found healthy yet, counted on a sector of the boot disk.

A boot entry that was found healthy once is not counted by the boot loader any more. So each boot
counts itself, before it mounts its root, and what finds the node healthy clears the count: a
version that once worked and now fails is given up as a new one is. No file system is written.

The partition `aurae-attempts` begins with a line, `aurae-attempts ROOTHASH COUNT`, in its first 512
bytes, which a disk writes as a whole. Anything else is a count of none.
"""

import os
from typing import Final

from initd.boot.disks import block_devices
from initd.values import NamedTuple

LABEL: Final = "aurae-attempts"
LIMIT: Final = 3
"""So many boots that came to nothing are enough."""

_SECTOR: Final = 512
_BLOCK: Final = "/sys/class/block"


class Attempts(NamedTuple):
    """What the sector says."""

    root_hash: str = ""
    boots: int = 0


def find_device(disk: str, folder: str = _BLOCK) -> str | None:
    """The partition on this disk (`vda`). None: it has none."""
    for device in block_devices(folder):
        if device.get("PARTNAME") == LABEL and device.get("DISK") == disk:
            return f"/dev/{device['DEVNAME']}"
    return None


def read(path: str) -> Attempts:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _parse(os.pread(fd, _SECTOR, 0))
    finally:
        os.close(fd)


def add(path: str, root_hash: str) -> int:
    """Count this boot; returns how many there were before it. It is on the disk then. OSError."""
    fd = os.open(path, os.O_RDWR | os.O_DSYNC | os.O_CLOEXEC)
    try:
        known = _parse(os.pread(fd, _SECTOR, 0))
        before = known.boots if known.root_hash == root_hash else 0
        os.pwrite(fd, _text(Attempts(root_hash, before + 1)), 0)
    finally:
        os.close(fd)
    return before


def clear(path: str, root_hash: str) -> None:
    """This boot is a healthy one. It is on the disk then. OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_DSYNC | os.O_CLOEXEC)
    try:
        os.pwrite(fd, _text(Attempts(root_hash)), 0)
    finally:
        os.close(fd)


def _parse(sector: bytes) -> Attempts:
    words = sector.rstrip(b"\0").decode("ascii", errors="replace").split()
    if len(words) != 3 or words[0] != LABEL or not words[2].isdecimal():
        return Attempts()
    return Attempts(words[1], int(words[2]))


def _text(attempts: Attempts) -> bytes:
    return f"{LABEL} {attempts.root_hash} {attempts.boots}\n".encode().ljust(_SECTOR, b"\0")

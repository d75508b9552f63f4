"""Disks and partitions as the kernel shows them, and what is written on them."""

import os
from typing import Final

from initd.values import NamedTuple

SECTOR: Final = 512
"""What sysfs counts in, whatever the disk's own sectors are."""

# What is read of a device to know it, and where btrfs has its superblock.
_HEAD: Final = 4096
_BTRFS: Final = 65536
# Where these keep their names: of ext4's superblock (Documentation/filesystems/ext4/super.rst), of
# XFS's (XFS Algorithms and Data Structures, 13.1), of btrfs's (btrfs on-disk format), and of the
# binary header of LUKS2 (LUKS2 On-Disk Format Specification, 2.1).
_EXT4_LABEL: Final = slice(1024 + 0x78, 1024 + 0x88)
_EXT4_STATE: Final = 0x3A
_EXT4_ERRORS: Final = 2
_XFS_LABEL: Final = slice(108, 120)
_BTRFS_LABEL: Final = slice(0x12B, 0x12B + 256)
_LUKS_LABEL: Final = slice(24, 72)
_LUKS_MAGIC: Final = b"LUKS\xba\xbe"


class Content(NamedTuple):
    """What a device holds. `size` are the bytes that the file system fills, 0 if not known."""

    kind: str = ""
    """`ext4` (also 2 and 3), `xfs`, `btrfs`, `luks`; empty: none of these."""
    label: str = ""
    size: int = 0
    faulty: bool = False
    """Its driver has met an error in it, and it was not checked since."""


class NotThere(Exception):
    """No disk, or none that can be used. Empty: there is none, and none was asked for."""


def block_devices(folder: str) -> list[dict[str, str]]:
    """The properties of each block device (its `uevent`), and `DISK`, what a partition lies on."""
    devices = []
    for name in sorted(os.listdir(folder)):
        found = (line.partition("=") for line in lines(f"{folder}/{name}/uevent"))
        properties = {key: value for key, _, value in found}
        if "DEVNAME" in properties:
            if properties.get("DEVTYPE") == "partition":
                path = os.path.realpath(f"{folder}/{name}")
                properties["DISK"] = os.path.basename(os.path.dirname(path))
            devices.append(properties)
    return devices


def content(path: str, start: int = 0) -> Content:
    """What is on a device from the byte `start` on, by its superblock. A device that cannot be read
    has nothing. May block.

    This is for what we use; `initd.boot.filesystems.foreign` knows all that must not be lost."""
    try:
        with open(path, "rb", buffering=0) as file:
            file.seek(start)
            head = file.read(_HEAD)
            file.seek(start + _BTRFS)
            later = file.read(_HEAD)
    except OSError:
        return Content()
    if len(head) == _HEAD:
        if head.startswith(_LUKS_MAGIC):
            # The first version has none.
            label = head[_LUKS_LABEL] if head[6:8] == b"\0\2" else b""
            return Content("luks", _text(label))
        if head.startswith(b"XFSB"):
            size = _big(head[4:8]) * _big(head[8:16])
            return Content("xfs", _text(head[_XFS_LABEL]), size)
        if head[1024 + 0x38 : 1024 + 0x3A] == b"\x53\xef":
            faulty = bool(head[1024 + _EXT4_STATE] & _EXT4_ERRORS)
            size = _ext4_size(head[1024:2048])
            return Content("ext4", _text(head[_EXT4_LABEL]), size, faulty)
    if len(later) == _HEAD and later[64:72] == b"_BHRfS_M":
        # Of dev_item, the size of this device.
        size = _little(later[0xC9 + 8 : 0xC9 + 16])
        return Content("btrfs", _text(later[_BTRFS_LABEL]), size)
    return Content()


def disk_under(path: str, sys: str = "/sys") -> str:
    """The disk with the partition that the file system at `path` lies on, through what device
    mapper makes of it. Empty: it lies in memory, or on a disk as a whole."""
    device = os.stat(path).st_dev
    folder = os.path.realpath(f"{sys}/dev/block/{os.major(device)}:{os.minor(device)}")
    while slaves := _list(f"{folder}/slaves"):
        folder = os.path.realpath(f"{folder}/slaves/{slaves[0]}")
    if not os.path.exists(f"{folder}/partition"):
        return ""
    return os.path.basename(os.path.dirname(folder))


def number(path: str) -> int:
    """A number that sysfs shows. OSError."""
    with open(path) as file:
        return int(file.read())


def lines(path: str) -> list[str]:
    """The lines of a small file; none if it vanished, as files in sysfs do."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().splitlines()
    except OSError:
        return []


def _ext4_size(block: bytes) -> int:
    blocks = _little(block[0x4:0x8])
    # Feature 64bit.
    if _little(block[0x60:0x64]) & 0x80:
        blocks |= _little(block[0x150:0x154]) << 32
    # Of a damaged one it may be anything.
    return blocks << 10 + min(_little(block[0x18:0x1C]), 16)


def _text(label: bytes) -> str:
    return label.partition(b"\0")[0].decode(errors="replace")


def _big(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _little(data: bytes) -> int:
    return int.from_bytes(data, "little")


def _list(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []

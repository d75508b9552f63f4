"""Disks and partitions as the kernel shows them, and what is written on them."""

import os
from typing import Final

# Of an ext4 superblock (Documentation/filesystems/ext4/super.rst): where it lies, and in it.
_EXT4: Final = 1024
_EXT4_MAGIC: Final = (0x38, b"\x53\xef")
_EXT4_NAME: Final = (0x78, 16)


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


def ext4_label(path: str) -> str | None:
    """The volume name of an ext4 (or 2, 3) file system, None for other contents. May block."""
    try:
        with open(path, "rb", buffering=0) as file:
            file.seek(_EXT4)
            block = file.read(1024)
    except OSError:
        return None
    at, magic = _EXT4_MAGIC
    if block[at : at + len(magic)] != magic:
        return None
    at, length = _EXT4_NAME
    return block[at : at + length].rstrip(b"\0").decode(errors="replace")


def lines(path: str) -> list[str]:
    """The lines of a small file; none if it vanished, as files in sysfs do."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().splitlines()
    except OSError:
        return []

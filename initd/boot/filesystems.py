"""The kinds of file systems that the data disk may have: how one is made, and grown.

One that is being made is called `MAKING`, and so is a partition of ours. It gets its own name when
all is done, so whatever a power cut leaves behind is known, and made anew.

A boot that finds one imports this, and not what only runs where there is something to do.
"""

import os
from collections.abc import Callable, Mapping
from typing import Final

from initd.boot.disks import NotThere
from initd.values import NamedTuple

MAKING: Final = "aurae-making"
"""XFS has room for 12 bytes."""

# What a file system may be smaller than its device by, and still fill it.
_SLACK: Final = 16 << 20
# e2fsck's answer where it has found something and mended it: 1; and 2 with the advice to restart,
# which is for a root that is mounted.
_MENDED: Final = 3
# blkid's answers beside 0: nothing is known there, and more than one thing.
_NOTHING: Final = 2
_AMBIVALENT: Final = 8


class Kind(NamedTuple):
    """`make` are a program and its arguments: a label and a device follow. `smallest` is in bytes.
    `grow` has the device and the folder on which it is mounted. `repair` has the device, changes
    only what loses nothing, and raises Failed where that is not enough. None: there is no such
    program, or the kernel does what it would."""

    make: tuple[str, ...]
    smallest: int
    options: str
    grow: Callable[[str, str], None]
    repair: Callable[[str], None] | None = None


def _grow_ext4(device: str, _: str) -> None:
    from initd.boot import programs

    programs.run("resize2fs", device)


def _repair_ext4(device: str) -> None:
    from initd.boot import programs

    try:
        _preen(device)
    except programs.Failed:
        # A superblock that was half written has the wrong checksum. The journal is kept with a
        # copy of it, too.
        block, size = _second_superblock(device)
        _preen(device, "-b", str(block), "-B", str(size))


def _preen(device: str, *options: str) -> None:
    from initd.boot import programs

    try:
        programs.run("e2fsck", "-p", *options, device)
    except programs.Failed as e:
        if e.code & ~_MENDED:
            raise


def _second_superblock(device: str) -> tuple[int, int]:
    """Its block, and bytes of a block, which no write of the first one changes. OSError."""
    with open(device, "rb", buffering=0) as file:
        file.seek(1024)
        head = file.read(1024)
    first, exponent = (int.from_bytes(head[at : at + 4], "little") for at in (0x14, 0x18))
    group = int.from_bytes(head[0x20:0x24], "little")
    # Of a damaged one it may be anything.
    return first + group, 1024 << min(exponent, 6)


def _grow_xfs(_: str, folder: str) -> None:
    from initd.boot import programs

    programs.run("xfs_growfs", "-d", folder)


def _grow_btrfs(_: str, folder: str) -> None:
    from initd.linux import filesystem

    filesystem.fill_with_btrfs(folder)


# A disk is not discarded first: some take minutes for that.
KINDS: Final[Mapping[str, Kind]] = {
    "ext4": Kind(
        ("mke2fs", "-t", "ext4", "-q", "-F", "-E", "nodiscard", "-L"),
        8 << 20,
        "errors=remount-ro",
        _grow_ext4,
        _repair_ext4,
    ),
    "xfs": Kind(
        ("mkfs.xfs", "-q", "-f", "-K", "-L"),
        300 << 20,
        "",
        _grow_xfs,
    ),
    "btrfs": Kind(
        ("mkfs.btrfs", "-q", "-f", "-K", "-L"),
        114 << 20,
        "",
        _grow_btrfs,
    ),
}


def check(kind: str, device: str, size: int) -> None:
    """Whether it can be made of so many bytes of a device. Raises NotThere."""
    from initd.boot import programs

    name = KINDS[kind].make[0]
    if size < KINDS[kind].smallest:
        raise NotThere(
            f"{device}: {max(size, 0) >> 20} MiB, and {kind} needs {KINDS[kind].smallest >> 20}; "
            "make the disk larger, or choose another aurae.data.filesystem="
        )
    try:
        programs.find(name)
    except FileNotFoundError as e:
        raise NotThere(
            f"aurae.data.filesystem={kind}: {name} is not in this image; choose another"
        ) from e


def make(kind: str, device: str) -> None:
    """Make a file system that is called `MAKING`. Raises Failed; OSError."""
    from initd.boot import programs

    name, *arguments = KINDS[kind].make
    programs.run(name, *arguments, MAKING, device)


def foreign(device: str, start: int = 0, length: int = 0) -> str:
    """What is on a device, or in a part of it, that is known to anybody: a file system, a table, a
    member of a volume. Empty: nothing. Raises Failed; OSError."""
    from initd.boot import programs

    part = (f"--offset={start}", f"--size={length}") if length else ()
    wanted = ("--match-tag=TYPE", "--match-tag=PTTYPE")
    try:
        said = programs.run("blkid", "--probe", "--output=value", *wanted, *part, device)
    except programs.Failed as e:
        if e.code == _NOTHING and not e.said.strip():
            return ""
        if e.code == _AMBIVALENT:
            return "more than one thing"
        raise
    return " ".join(said.split())


def is_blank(device: str, length: int = 1 << 20) -> bool:
    """Whether there are only zeros at both ends. OSError."""
    with open(device, "rb", buffering=0) as file:
        for whence, at in ((os.SEEK_SET, 0), (os.SEEK_END, -min(length, size_of(device)))):
            file.seek(at, whence)
            if file.read(length).strip(b"\0"):
                return False
    return True


def fills(size: int, device: str) -> bool:
    """Whether a file system of this size has no room to grow on its device. OSError."""
    return not size or size_of(device) - size < _SLACK


def size_of(device: str) -> int:
    with open(device, "rb", buffering=0) as file:
        return file.seek(0, os.SEEK_END)

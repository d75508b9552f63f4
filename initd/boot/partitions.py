"""The data partition of the disk that was booted: made in what is free behind the others, and
grown when the disk has grown.

Only the table is written here. Of what stands in that room nothing is changed, so a partition that
is made again in the same place has what it had.
"""

import os
from typing import Final

from initd.boot.disks import SECTOR, NotThere, lines, number
from initd.values import NamedTuple

LEAST: Final = 64 << 20
"""Bytes: a data partition that is smaller is not made, and no less is worth to grow by."""

# Partitions begin and end at multiples of this; the table's copy at the end needs less.
_GRAIN: Final = 1 << 20
# Linux data, of the Discoverable Partitions Specification. That of /var is for a machine ID.
_TYPE: Final = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
# What must not happen by the way: the disk is in use, and what is on it stays.
_CAREFUL: Final = ("--quiet", "--no-reread", "--no-tell-kernel", "--wipe=never")


class Extent(NamedTuple):
    """A partition, or room for one: its number and, in bytes, where it is."""

    number: int
    start: int
    length: int

    @property
    def end(self) -> int:
        return self.start + self.length


def extents(disk: str, sys: str = "/sys") -> list[Extent]:
    """The partitions of a disk, in order of their places. OSError."""
    folder = f"{sys}/class/block/{disk}"
    found = []
    for name in os.listdir(os.path.realpath(folder)):
        if os.path.exists(f"{folder}/{name}/partition"):
            at = (number(f"{folder}/{name}/{key}") for key in ("partition", "start", "size"))
            which, start, size = at
            found.append(Extent(which, start * SECTOR, size * SECTOR))
    return sorted(found, key=lambda extent: extent.start)


def last_end(disk: str, sys: str = "/sys") -> int:
    """The byte at which the last partition of a disk may end."""
    size = number(f"{sys}/class/block/{disk}/size") * SECTOR
    return (size - _GRAIN) // _GRAIN * _GRAIN


def room(disk: str, sys: str = "/sys") -> Extent:
    """What is free behind the last partition; its length may be below 0. OSError."""
    taken = extents(disk, sys)
    start = -(-max((extent.end for extent in taken), default=_GRAIN) // _GRAIN) * _GRAIN
    numbers = {extent.number for extent in taken}
    free = next(n for n in range(1, len(taken) + 2) if n not in numbers)
    return Extent(free, start, last_end(disk, sys) - start)


def enlarged(disk: str, which: int, sys: str = "/sys") -> Extent | None:
    """As large as the partition can become; None where that is not worth it. OSError."""
    last = extents(disk, sys)[-1]
    free = last_end(disk, sys) - last.end
    if last.number != which or free < LEAST:
        return None
    return Extent(which, last.start, last.length + free)


def create(disk: str, label: str, sys: str = "/sys") -> str:
    """Make a partition of all room; returns its device's name. Raises NotThere, Failed; OSError."""
    from initd.boot import programs
    from initd.linux import partition

    extent = room(disk, sys)
    if extent.length < LEAST:
        raise NotThere(
            f"/dev/{disk}: {max(extent.length, 0) >> 20} MiB are free behind its last partition, "
            f"and a data partition needs {LEAST >> 20}; make the disk larger, or set aurae.data="
        )
    if number(f"{sys}/class/block/{disk}/ro"):
        raise NotThere(f"/dev/{disk}: read-only, so no data partition is made on it")
    line = f'{_bounds(disk, extent, sys)}, type={_TYPE}, name="{label}"'
    programs.run("sfdisk", "--append", *_CAREFUL, f"/dev/{disk}", text=line + "\n")
    partition.add(f"/dev/{disk}", extent.number, extent.start, extent.length)
    return name_of(disk, extent.number)


def grow(disk: str, extent: Extent, sys: str = "/sys") -> None:
    """Give a partition these bounds, which only its end may differ by. Raises Failed; OSError."""
    from initd.boot import programs
    from initd.linux import partition

    which = f"--partno={extent.number}"
    line = _bounds(disk, extent, sys)
    programs.run("sfdisk", which, *_CAREFUL, f"/dev/{disk}", text=line + "\n")
    partition.resize(f"/dev/{disk}", extent.number, extent.start, extent.length)


def rename(disk: str, which: int, label: str) -> None:
    """Give a partition another name in the table. Raises Failed; OSError."""
    from initd.boot import programs

    programs.run("sfdisk", *_CAREFUL, "--part-label", f"/dev/{disk}", str(which), label)


def name_of(disk: str, which: int) -> str:
    """As the kernel names partitions: with a `p` before the number where a digit comes before."""
    return f"{disk}{'p' if disk[-1].isdigit() else ''}{which}"


def number_of(path: str, sys: str = "/sys") -> int:
    """Which partition of its disk a device is. OSError."""
    return number(f"{sys}/class/block/{os.path.basename(path)}/partition")


def _bounds(disk: str, extent: Extent, sys: str) -> str:
    """For sfdisk, which counts in the disk's own sectors."""
    [size] = lines(f"{sys}/class/block/{disk}/queue/logical_block_size") or [str(SECTOR)]
    return f"start={extent.start // int(size)}, size={extent.length // int(size)}"

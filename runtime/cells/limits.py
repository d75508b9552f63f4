"""Limits of a cell: whether this node can set them, and setting them."""

import errno
from typing import Final

from initd.errors import FailedPrecondition, InvalidArgument
from runtime.cells.cgroups import Cgroups
from runtime.cells.model import Cell, numbers, parent


def check(cell: Cell, cgroups: Cgroups) -> None:
    """Against what the node and the cell above have.

    Raises FailedPrecondition and InvalidArgument.
    """
    above = parent(cell.name)
    controllers = cgroups.controllers(above)
    for file in cell.files():
        if (controller := file.partition(".")[0]) not in controllers:
            raise FailedPrecondition(
                f"cell.{controller}: this node's kernel has no {controller} controller; "
                "leave it out"
            )
    if cell.cpuset is not None:
        if cell.cpuset.cpus is not None:
            _subset(
                numbers(cell.cpuset.cpus, "cell.cpuset.cpus"),
                "cell.cpuset.cpus",
                node=cgroups.cpus(None),
                parent=cgroups.cpus(above),
            )
        if cell.cpuset.mems is not None:
            _subset(
                numbers(cell.cpuset.mems, "cell.cpuset.mems"),
                "cell.cpuset.mems",
                node=cgroups.mems(None),
                parent=cgroups.mems(above),
            )


def write(cgroups: Cgroups, name: str, file: str, value: str) -> None:
    """Into a cell's cgroup. Raises FailedPrecondition, InvalidArgument and OSError."""
    try:
        for line in value.splitlines():
            cgroups.write(name, file, line)
    except OSError as e:
        if e.errno in (errno.ENODEV, errno.EACCES, errno.ENOENT):
            raise FailedPrecondition(
                f"cell.{file}: this node cannot set {value!a} ({e.strerror}); name what it has"
            ) from e
        if e.errno not in (errno.EINVAL, errno.ERANGE):
            raise
        raise InvalidArgument(f"cell.{file}: the kernel refuses {value!a} ({e})") from e


# What the kernel's files say of a cell that was asked for without limits.
UNLIMITED: Final = {
    "cpu.weight": "100",
    "cpu.max": "max 100000",
    "cpuset.mems": "",
    "cpuset.cpus": "",
    "memory.min": "0",
    "memory.low": "0",
    "memory.high": "max",
    "memory.max": "max",
    "pids.max": "max",
    "io.weight": "default 100",
}


def changed(before: Cell, after: Cell) -> dict[str, str]:
    """What to write where so that a cell with the limits of `before` has those of `after`."""
    old, new = before.files(), after.files()
    files = {file: UNLIMITED[file] for file in old if file not in new and file in UNLIMITED}
    # A quota alone keeps the period that is there.
    files |= {
        file: f"{value} 100000" if file == "cpu.max" and " " not in value else value
        for file, value in new.items()
    }
    if before.io is not None:
        kept = {line.device for line in after.io.max} if after.io is not None else set()
        gone = [
            f"{line.device} rbps=max wbps=max riops=max wiops=max"
            for line in before.io.max
            if line.device not in kept
        ]
        if gone:
            files["io.max"] = "\n".join([*gone, files["io.max"]] if "io.max" in files else gone)
    return files


def _subset(
    asked: frozenset[int], where: str, *, node: frozenset[int], parent: frozenset[int]
) -> None:
    if missing := asked - node:
        raise InvalidArgument(
            f"{where}: {min(missing)} is not on this node, which has "
            f"{', '.join(map(str, sorted(node)))}"
        )
    if missing := asked - parent:
        raise FailedPrecondition(
            f"{where}: {min(missing)} is not in the cell above, which has "
            f"{', '.join(map(str, sorted(parent)))}"
        )

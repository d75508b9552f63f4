"""The cgroups of cells: folders below one folder of ours in a cgroup v2 tree.

Figures and file names are those of the kernel's Documentation/admin-guide/cgroup-v2.rst.
"""

import os
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Final

from runtime.cells.model import SYSTEM, numbers

ROOT: Final = Path("/sys/fs/cgroup")

# All of cells, below the root. PID 1 makes the leaf of each executable inside.
CELLS: Final = "aurae"

# What limits need, and what cells are to be counted by.
CONTROLLERS: Final = ("cpu", "cpuset", "io", "memory", "pids")

# The limits that slow down.
THROTTLES: Final = ("cpu.max", "memory.high")


def leaf(cell: str, executable: str) -> str:
    """The leaf cgroup of an executable, as a path below the cgroup root."""
    return f"{CELLS}/{cell}/_{executable}"


class Cgroups:
    """Makes, limits, reads and removes the cgroups of cells. It decides nothing."""

    def __init__(self, root: Path = ROOT) -> None:
        self._root = root
        self._cells = root / CELLS
        inside = str(root.relative_to(ROOT)) if root.is_relative_to(ROOT) else "."
        self._path = f"{PurePosixPath('/', inside, CELLS)}/"

    def prepare(self) -> None:
        """Make the folder of all cells and the system's own cell."""
        self._enable(self._root)
        self._make(self._cells)
        self._enable(self._cells)
        self._make(self._cells / SYSTEM)

    def exists(self, cell: str) -> bool:
        return (self._cells / cell).is_dir()

    def below(self, cgroup: str) -> str | None:
        """The path below the folder of all cells; None for a cgroup outside.

        `cgroup` is a path below the root of the whole tree, as /proc/PID/cgroup has it."""
        return cgroup.removeprefix(self._path) if cgroup.startswith(self._path) else None

    def create(self, cell: str) -> None:
        """Make the cgroup of `cell`, whose parent exists, with every controller in it."""
        folder = self._cells / cell
        self._enable(folder.parent)
        self._mkdir(folder)

    def write(self, cell: str, file: str, value: str) -> None:
        (self._cells / cell / file).write_text(value)

    def controllers(self, cell: str | None) -> frozenset[str]:
        """The controllers that a cell in `cell` would have; None is the top."""
        here = self._cells / cell if cell else self._cells
        return frozenset((here / "cgroup.controllers").read_text().split())

    def cpus(self, cell: str | None) -> frozenset[int]:
        """The CPUs that processes in `cell` can use; None is the whole node."""
        return self._effective(cell, "cpuset.cpus.effective")

    def mems(self, cell: str | None) -> frozenset[int]:
        """The memory nodes that processes in `cell` can use; None is the whole node."""
        return self._effective(cell, "cpuset.mems.effective")

    def _effective(self, cell: str | None, file: str) -> frozenset[int]:
        path = (self._cells / cell if cell else self._root) / file
        return numbers(path.read_text().strip(), str(path))

    def unthrottle(self, cell: str) -> None:
        """Lift what slows `cell` down: the dying need CPU time, too. The caller writes it back."""
        for file in THROTTLES:
            with suppress(FileNotFoundError):
                path = self._cells / cell / file
                if path.read_text().partition(" ")[0].strip() != "max":
                    path.write_text("max")

    def processes(self, cell: str, executable: str) -> list[int]:
        """What runs in the leaf of an executable and below, by process ID."""
        pids: list[int] = []
        for folder, _, _ in os.walk(self._root / leaf(cell, executable)):
            with suppress(OSError):
                pids += map(int, Path(folder, "cgroup.procs").read_text().split())
        return pids

    def kill(self, cell: str) -> None:
        """Kill all that is in `cell`, however deep. They are gone a moment later, not at once."""
        (self._cells / cell / "cgroup.kill").write_text("1")

    def remove(self, cell: str) -> None:
        """Remove `cell` and the cgroups in it. EBUSY if a process is left; done if it is gone."""
        self._remove(self._cells / cell)

    def _remove(self, folder: Path) -> None:
        with suppress(FileNotFoundError):
            for child in [entry.name for entry in os.scandir(folder) if entry.is_dir()]:
                self._remove(folder / child)
            self._rmdir(folder)

    def _make(self, folder: Path) -> None:
        with suppress(FileExistsError):
            self._mkdir(folder)

    def _mkdir(self, folder: Path) -> None:
        folder.mkdir()

    def _rmdir(self, folder: Path) -> None:
        folder.rmdir()

    def _enable(self, folder: Path) -> None:
        """Give every controller that `folder` has to the cgroups in it."""
        available = set((folder / "cgroup.controllers").read_text().split())
        enabled = set((folder / "cgroup.subtree_control").read_text().split())
        if missing := sorted(available.intersection(CONTROLLERS) - enabled):
            (folder / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in missing))

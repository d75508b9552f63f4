"""Ends processes, and waits until they have ended."""

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from initd.errors import Unavailable
from initd.processes.model import Process, State
from runtime.cells.cgroups import THROTTLES, Cgroups
from runtime.cells.model import depth_of, split, title
from runtime.cells.spawns import cell_of
from runtime.processes import Processes

log = logging.getLogger(__name__)

# How long SIGKILL may take to show before we say that a process is stuck in the kernel.
MARGIN: Final = 10.0


class Endings:
    """Of executables: SIGTERM to each tree, SIGKILL after a grace."""

    def __init__(
        self,
        processes: Processes,
        cgroups: Cgroups,
        limits: Callable[[str], Mapping[str, str]],
    ) -> None:
        """`limits` of a cell: what its cgroup's files are to say."""
        self._processes = processes
        self._cgroups = cgroups
        self._limits = limits

    async def all_of(self, subtree: Sequence[str], grace: float) -> None:
        """Of all that runs in these cells, level by level, the deepest first.

        Each level has an equal share of the grace left.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + grace
        levels: dict[int, list[Process]] = {}
        for process in self._processes:
            cell = cell_of(process)
            if cell in subtree and cell is not None and process.state is not State.ENDED:
                levels.setdefault(depth_of(cell), []).append(process)
        for depth in sorted(levels, reverse=True):
            share = max(0.0, deadline - clock()) / sum(1 for level in levels if level <= depth)
            if not await self._ended(levels[depth], share):
                # Killed by now.
                with self._unthrottled(subtree):
                    await self.of(levels[depth], 0)

    @contextmanager
    def _unthrottled(self, subtree: Sequence[str]) -> Iterator[None]:
        """What dies is not slowed down. What is left, the limits hold for again: other levels
        have a grace still, and a caller who leaves leaves the cells."""
        try:
            for cell in subtree:
                self._cgroups.unthrottle(cell)
            yield
        finally:
            for cell in subtree:
                self._throttle(cell)

    def _throttle(self, cell: str) -> None:
        limits = self._limits(cell)
        for file in THROTTLES:
            if file in limits:
                try:
                    self._cgroups.write(cell, file, limits[file])
                except FileNotFoundError:  # another Free has removed it
                    return
                except OSError as e:
                    log.error("cell %s: has lost its limit %s: %s", cell, file, e)

    async def of(self, processes: Sequence[Process], grace: float) -> None:
        """Of these, and of what they have begun. Raises Unavailable where one does not end."""
        if not await self._ended(processes, grace, MARGIN):
            raise Unavailable(
                f"{title(*split(processes[0].id))}: was killed and is there {MARGIN:g} s later; "
                "its cell has used up its CPU time, or it is stuck in the kernel; try again"
            )

    async def _ended(self, processes: Sequence[Process], grace: float, margin: float = 0.5) -> bool:
        """Begin their end and wait for it, `margin` seconds longer than their grace."""
        with suppress(TimeoutError):
            async with asyncio.timeout(grace + margin):
                for process in processes:
                    if process.state is not State.ENDED:
                        await self._processes.stop(process.id, grace)
                for process in processes:
                    await self._processes.ended(process)
                return True
        return False

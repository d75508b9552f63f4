"""Ends processes, and waits until they have ended."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from initd.errors import Unavailable
from initd.processes.model import Process, State
from runtime.cells.cgroups import Cgroups
from runtime.cells.model import depth_of, split, title
from runtime.cells.spawns import cell_of
from runtime.processes import Processes

# How long SIGKILL may take to show before we say that a process is stuck in the kernel.
MARGIN: Final = 10.0


class Endings:
    """Of executables: SIGTERM to each tree, SIGKILL after a grace."""

    def __init__(self, processes: Processes, cgroups: Cgroups) -> None:
        self._processes = processes
        self._cgroups = cgroups

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
                # Killed by now. Nobody needs the limits of a cell that goes.
                for cell in subtree:
                    self._cgroups.unthrottle(cell)
                await self.of(levels[depth], 0)

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

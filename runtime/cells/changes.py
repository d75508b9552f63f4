"""What changes in the cells, for those who watch."""

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from initd.errors import ResourceExhausted
from initd.values import NamedTuple
from runtime.cells.model import Cell, within
from runtime.cells.status import Status

# A watcher that is so many changes behind is dropped.
BEHIND: Final = 4096


class Allocated(NamedTuple):
    cell: Cell


class Freed(NamedTuple):
    """The cell is gone, with all that was in it."""

    cell: str


class Changed(NamedTuple):
    """An executable has another status."""

    cell: str
    status: Status


class Forgotten(NamedTuple):
    """An executable is not listed any more, though its cell is there."""

    cell: str
    executable: str


Change = Allocated | Freed | Changed | Forgotten


class Watcher:
    """The changes since it came, in order, in `inside` and below; None: all."""

    def __init__(self, inside: str | None) -> None:
        self._inside = inside
        self._changes: deque[tuple[int, Change]] = deque()
        self._more = asyncio.Event()
        self._dropped = False

    def put(self, at: int, change: Change) -> None:
        cell = change.cell.name if isinstance(change, Allocated) else change.cell
        if self._inside is not None and not within(cell, self._inside):
            return
        if len(self._changes) >= BEHIND:
            self._dropped = True
        else:
            self._changes.append((at, change))
        self._more.set()

    async def next(self) -> tuple[int, Change]:
        """The next change, with its time in nanoseconds since the epoch.

        ResourceExhausted: some were lost, because it was read too slowly."""
        while not self._changes:
            if self._dropped:
                raise ResourceExhausted(
                    f"watch: {BEHIND} changes behind, so it was ended; read faster, and watch again"
                )
            self._more.clear()
            await self._more.wait()
        return self._changes.popleft()


class Changes:
    """Passes each change to every watcher. It waits for none."""

    def __init__(self) -> None:
        self._watchers: set[Watcher] = set()

    @property
    def watched(self) -> bool:
        return bool(self._watchers)

    def publish(self, at: int, change: Change) -> None:
        for watcher in self._watchers:
            watcher.put(at, change)

    @contextmanager
    def watching(self, inside: str | None) -> Iterator[Watcher]:
        watcher = Watcher(inside)
        self._watchers.add(watcher)
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)

"""Follows log streams: history, then live, then the end; several merged by time."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

from initd.errors import NotFound
from initd.linux import inotify
from initd.processes.model import Process
from runtime.cells import model as cells
from runtime.observe.model import Lines, Lost, Reader
from runtime.observe.wakeups import Wakeups
from runtime.processes import Processes

# auraed's own streams, and the outputs of an executable.
DAEMON: Final = ("initd", "network", "runtime")
OUTPUTS: Final = ("stdout", "stderr")

Item = Lines | Lost


class _Source:
    """A reader and what it has read that is not yet delivered."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._items: deque[Item] = deque()
        self.ended = False

    def fill(self) -> bool:
        """Is there something to deliver?"""
        while not self._items and not self.ended:
            read = self._reader.read()
            self._items.extend(read.items)
            self.ended = read.end
            if read.empty:
                break
        return bool(self._items)

    def finish(self) -> None:
        """No more reading; what was begun is delivered as it is."""
        self._items.extend(self._reader.rest())
        self.ended = True

    @property
    def pending(self) -> bool:
        return bool(self._items)

    @property
    def time(self) -> int:
        """Where the first item belongs. What is lost comes before everything that is kept."""
        first = self._items[0]
        return first.time if isinstance(first, Lines) else 0

    def pop(self) -> Item:
        return self._items.popleft()


class Streams:
    """The log streams below a folder, as `docs/architecture.md` lays them out."""

    def __init__(self, folder: Path, processes: Processes, wakeups: Wakeups) -> None:
        self._folder = folder
        self._processes = processes
        self._wakeups = wakeups

    def by_pid(self, pid: int, *, within: str | None = None) -> Process:
        """The process that has, or had last, this process ID, `within` a cell or anywhere."""
        found = [
            process
            for process in self._processes
            if process.pid == pid
            and not process.init
            and (within is None or _within(process, within))
        ]
        if not found:
            raise NotFound(f"process {pid}: is no executable's first process; see List")
        return found[-1]

    def by_id(self, id_: str, title: str) -> Process:
        process = self._processes.get(id_)
        if process is None:
            raise NotFound(f"{title}: has not run; start it first, or wait until it was started")
        return process

    async def of(
        self, process: Process, channels: Iterable[str], *, follow: bool
    ) -> AsyncIterator[list[Item]]:
        """Output of a process in lists as they come, until it has ended."""
        folder = self._folder / str(process.log)
        changed = asyncio.Event()
        with ExitStack() as stack:
            try:
                sources = [self._source(stack, folder / channel, changed) for channel in channels]
            except FileNotFoundError as e:
                raise NotFound(f"process {process.pid}: its output is forgotten") from e
            while True:
                changed.clear()
                while items := _oldest(sources):
                    yield items
                if all(source.ended for source in sources):
                    return
                if follow:
                    await changed.wait()
                else:
                    for source in sources:
                        source.finish()

    async def daemon(self, *, follow: bool) -> AsyncIterator[list[Item]]:
        """auraed's own log; without an end if followed. Streams may begin later."""
        folder = self._folder / "auraed"
        sources: dict[str, _Source] = {}
        changed = asyncio.Event()
        with ExitStack() as stack:
            try:
                stack.enter_context(self._wakeups.on(folder, changed, inotify.CREATE))
            except FileNotFoundError as e:
                raise NotFound(f"{folder}: PID 1 keeps no log there") from e
            while True:
                changed.clear()
                for channel in DAEMON:
                    if channel not in sources:
                        with suppress(FileNotFoundError):
                            sources[channel] = self._source(stack, folder / channel, changed)
                while items := _oldest(sources.values()):
                    yield items
                if not follow:
                    return
                await changed.wait()

    def _source(self, stack: ExitStack, path: Path, changed: asyncio.Event) -> _Source:
        """Open a stream until the stack unwinds. FileNotFoundError: there is none."""
        reader = stack.enter_context(Reader(path, path.name))
        # Watched before it is read: no change falls between.
        written = inotify.MODIFY | inotify.DELETE_SELF
        stack.enter_context(self._wakeups.on(reader.index_path, changed, written))
        return _Source(reader)


def _oldest(sources: Iterable[_Source]) -> list[Item]:
    """The next items in order of time, as long as every source that can be read takes part."""
    items: list[Item] = []
    ready = [source for source in sources if source.fill()]
    while ready:
        source = min(ready, key=lambda source: source.time)
        items.append(source.pop())
        if not source.pending:
            break
    return items


def _within(process: Process, cell: str) -> bool:
    there = process.meta.get("cell")
    return isinstance(there, str) and cells.within(there, cell)

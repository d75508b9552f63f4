"""Wakes readers when a file changes: one inotify for the whole runtime."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from initd.linux import inotify


class Wakeups:
    """While entered, the running loop watches for it."""

    def __init__(self) -> None:
        self._fd = -1
        self._sleepers: dict[int, set[asyncio.Event]] = {}

    def __enter__(self) -> Self:
        self._fd = inotify.init()
        asyncio.get_running_loop().add_reader(self._fd, self._changed)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)

    @contextmanager
    def on(self, path: Path, event: asyncio.Event, mask: int) -> Iterator[None]:
        """Set `event` whenever one of the changes in `mask` happens to the file or folder.

        All who watch one path must ask for the same changes: the kernel keeps one mask.
        """
        number = inotify.watch(self._fd, str(path), mask)
        self._sleepers.setdefault(number, set()).add(event)
        try:
            yield
        finally:
            sleepers = self._sleepers.get(number, set())
            sleepers.discard(event)
            if not sleepers and self._sleepers.pop(number, None) is not None:
                # The kernel drops the watch of a file that is gone by itself.
                with suppress(OSError):
                    inotify.unwatch(self._fd, number)

    def _changed(self) -> None:
        for change in inotify.read(self._fd):
            # A queue that ran over (watch -1) may have lost anybody's event: wake all.
            numbers = list(self._sleepers) if change.watch < 0 else [change.watch]
            for number in numbers:
                for event in self._sleepers.get(number, ()):
                    event.set()
            if change.mask & inotify.IGNORED:
                # The number may be given to another file from now on.
                self._sleepers.pop(change.watch, None)

"""PID 1's own log: one line a record, on the console and in its stream."""

import time
from collections.abc import Callable
from enum import IntEnum
from typing import TYPE_CHECKING

from initd.console import Console

if TYPE_CHECKING:
    # PID 1 logs before it has imported these.
    from initd.logs.budget import Budget
    from initd.logs.stream import Stream

SOURCE = "auraed"
# How lines of errors begin, ours and those of the services.
_FAILURE = "error: "


class Level(IntEnum):
    """`WARNING`: it goes on without something. `ERROR`: somebody must look."""

    DEBUG = 0
    INFO = 1
    WARNING = 2
    ERROR = 3


class Log:
    """Until `keep` names a stream, records wait for it in memory."""

    def __init__(self, console: Console | None, level: Level = Level.INFO) -> None:
        self.console = console
        self.level = level
        self.failure = ""
        """The last error that was shown, with its time since boot and whose it was."""
        self.on_failure: Callable[[], None] = lambda: None
        self._waiting: list[bytes] | None = []
        self._stream: Stream | None = None
        self._budget: Budget | None = None

    def keep(self, stream: "Stream", budget: "Budget") -> None:
        """From now on records go to `stream`, those of before first."""
        self._stream, self._budget = stream, budget
        for data in self._waiting or []:
            self._store(data)
        self._waiting = None

    @property
    def stream(self) -> "Stream | None":
        return self._stream

    def debug(self, text: str) -> None:
        self._record(Level.DEBUG, text)

    def info(self, text: str) -> None:
        self._record(Level.INFO, text)

    def warning(self, text: str) -> None:
        self._record(Level.WARNING, text)

    def error(self, text: str) -> None:
        self._record(Level.ERROR, text)

    def show(self, source: str, line: str) -> None:
        """On the console only: what a service wrote is in its own stream."""
        seconds = time.clock_gettime(time.CLOCK_BOOTTIME)
        if line.startswith(_FAILURE):
            self.failure = f"{source}: {line.removeprefix(_FAILURE)} (at {seconds:.0f} s)"
            self.on_failure()
        if self.console is not None:
            self.console.write(f"[{seconds:9.3f}] {source}: {line}")

    def _record(self, level: Level, text: str) -> None:
        if level < self.level:
            return
        line = text.replace("\n", "\\n")
        if level >= Level.WARNING:
            line = f"{level.name.lower()}: {line}"
        self.show(SOURCE, line)
        data = f"{line}\n".encode(errors="replace")
        if self._waiting is not None:
            self._waiting.append(data)
        else:
            self._store(data)

    def _store(self, data: bytes) -> None:
        assert self._stream is not None
        assert self._budget is not None
        try:
            self._stream.write(data)
            self._budget.enforce(self._stream)
        except OSError as error:
            # No memory left: the console has the line.
            self.show(SOURCE, f"warning: log: {error.strerror}")

"""auraed's other two processes, kept running."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from initd.log import Log
from initd.logs.budget import Budget
from initd.logs.pump import Pump
from initd.logs.stream import Stream
from initd.loop import Loop, Timer
from initd.processes.cgroups import Cgroups
from initd.processes.children import Children, Ending
from initd.processes.model import ServiceReport

if TYPE_CHECKING:
    from initd.handover.model import ServiceState

# Seconds until the next start: none after a run that was well, then these, twice as long each time.
BACKOFF: Final = 0.1
BACKOFF_LIMIT: Final = 10.0
# One that ran this long was well: its next end is a first one again.
GOOD_RUN: Final = 60.0
# One that came to be ready can start, so the next run is not put off for longer than this.
READY_LIMIT: Final = 1.0

# A line of a service that is longer is shown in pieces.
_LINE_LIMIT: Final = 4096


class Service:
    """One service: its cgroup, its log, and its next start."""

    def __init__(
        self,
        name: str,
        start: Callable[[], int],
        pipe: int | None,
        *,
        loop: Loop,
        children: Children,
        cgroups: Cgroups,
        log: Log,
        logs: Path,
        budget: Budget,
        state: "ServiceState | None" = None,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        """`start` makes a process and returns its pid; `pipe` gives what all its runs write.
        `on_change` is called when what `report` says is another.

        With a `state` it goes on where `save` was called."""
        self.name = name
        self.pid: int | None = None
        self.ready = ""
        self.starts = 0
        self._start = start
        self._loop = loop
        self._children = children
        self._cgroups = cgroups
        self._log = log
        self._on_change = on_change
        self._backoff = 0.0
        self._started = 0.0
        self._stopping = False
        self._timer: Timer | None = None
        self._partial = b""
        if state is None:
            self._pump = Pump(loop, pipe, Stream(logs / name), budget, self._output)
        else:
            self._pump = Pump.resume(loop, state.pump, budget, self._output)
            self._resume(state)

    def _resume(self, state: "ServiceState") -> None:
        self.pid, self.ready, self.starts = state.pid, state.ready, state.starts
        self._backoff, self._started = state.backoff, state.started
        self._partial = state.partial.encode("latin-1")
        if self.pid is not None:
            self._children.add(self.pid, self._ended)
        elif state.due is not None:
            self._timer = self._loop.at(state.due, self.start)

    def save(self, output: int) -> "ServiceState":
        """`output` is the write end of its pipe."""
        from initd.handover.model import Descriptor, ServiceState

        return ServiceState(
            name=self.name,
            pid=self.pid,
            ready=self.ready,
            starts=self.starts,
            backoff=self._backoff,
            started=self._started,
            due=None if self._timer is None else self._timer.due,
            output=Descriptor(output),
            pump=self._pump.save(),
            partial=self._partial.decode("latin-1"),
        )

    @property
    def cgroup(self) -> str:
        return f"auraed/{self.name}"

    def report(self) -> ServiceReport:
        return ServiceReport(name=self.name, pid=self.pid, ready=self.ready, starts=self.starts)

    def start(self) -> None:
        """Start it now. What prevents it is logged, and it is tried again later."""
        self._timer = None
        if self.pid is not None or self._stopping:
            return
        try:
            pid = self._start()
        except OSError as error:
            self._log.error(f"{self.name}: cannot start: {error.strerror}")
            self._start_later()
        else:
            self.adopt(pid)

    def adopt(self, pid: int) -> None:
        """It runs as this child of ours."""
        self.pid = pid
        self.starts += 1
        self._started = time.monotonic()
        self._children.add(pid, self._ended)
        self._log.debug(f"{self.name}: started as pid {pid}")
        self._on_change()

    def told_ready(self, message: str) -> None:
        self.ready = message
        self._log.info(f"{self.name} ready: {message}")
        self._on_change()

    def retire(self) -> None:
        """No next start."""
        self._stopping = True
        if self._timer is not None:
            self._timer.cancel()

    def terminate(self) -> None:
        """SIGTERM, and no next start."""
        self.retire()
        if self.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)

    def replace(self) -> None:
        """Kill this run: the next one starts as after any end."""
        self._cgroups.kill(self.cgroup)

    def kill(self) -> None:
        self._stopping = True
        self._cgroups.kill(self.cgroup)

    def _ended(self, ending: Ending) -> None:
        was_ready = bool(self.ready)
        self.pid = None
        self.ready = ""
        self._on_change()
        # Helpers that it may have started do not outlive it.
        self._cgroups.kill(self.cgroup)
        if self._stopping:
            self._log.debug(f"{self.name}: ended {describe(ending)}")
        else:
            if time.monotonic() - self._started >= GOOD_RUN:
                self._backoff = 0.0
            elif was_ready:
                self._backoff = min(self._backoff, READY_LIMIT)
            when = f"in {self._backoff:g} s" if self._backoff else "at once"
            # It may end by itself to start as something else, as after a claim.
            tell = self._log.info if ending.code == 0 else self._log.error
            tell(f"{self.name}: ended {describe(ending)}; starting it again {when}")
            self._start_later()

    def _start_later(self) -> None:
        self._timer = self._loop.later(self._backoff, self.start)
        self._backoff = min(max(BACKOFF, 2 * self._backoff), BACKOFF_LIMIT)

    def _output(self, stream: Stream, count: int) -> None:
        *lines, rest = (self._partial + stream.tail(count)).split(b"\n")
        if len(rest) > _LINE_LIMIT:
            lines.append(rest)
            rest = b""
        self._partial = rest
        for line in lines:
            self._log.show(self.name, line.decode(errors="replace"))


def describe(ending: Ending) -> str:
    if ending.signal is not None:
        return f"by signal {ending.signal}"
    return f"with exit code {ending.code}"

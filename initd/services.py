"""auraed's other two processes, kept running."""

import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

from initd.linux.spawn import Spawner
from initd.log import Log
from initd.logs.budget import Budget
from initd.logs.pump import Pump
from initd.logs.stream import Stream, make_pipe
from initd.loop import Loop, Timer
from initd.processes.cgroups import Cgroups
from initd.processes.children import Children, Ending
from initd.processes.command import DEFAULT_PATH
from initd.processes.model import ServiceReport

# The module each one runs. Both start together, and neither needs the other; the first, which
# serves callers, is the first to end.
SERVICES: Final = {"runtime": "runtime", "network": "initd.network"}

BACKOFF: Final = 0.1
BACKOFF_LIMIT: Final = 10.0
# One that ran this long was well: its next end is a first one again.
GOOD_RUN: Final = 60.0

_ENVIRONMENT: Final = {"PATH": DEFAULT_PATH, "HOME": "/root", "LANG": "C.UTF-8"}
# The kernel takes workloads first when memory ends.
_OOM_SCORE: Final = "-900"
# A line of a service that is longer is shown in pieces.
_LINE_LIMIT: Final = 4096


class Service:
    """One service: its cgroup, its log, and its next start."""

    def __init__(
        self,
        name: str,
        argv: tuple[str, ...],
        *,
        loop: Loop,
        children: Children,
        cgroups: Cgroups,
        spawner: Spawner,
        log: Log,
        logs: Path,
        budget: Budget,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.pid: int | None = None
        self.ready = ""
        self.starts = 0
        self._argv = argv
        self._loop = loop
        self._children = children
        self._cgroups = cgroups
        self._spawner = spawner
        self._log = log
        self._on_end = on_end
        self._backoff = BACKOFF
        self._started = 0.0
        self._stopping = False
        self._timer: Timer | None = None
        self._partial = b""
        # Both ends stay open: the pipe outlives each run of the service.
        read, self._write = make_pipe()
        self._pump = Pump(loop, read, Stream(logs / name), budget, self._output)

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
            self.pid = self._spawn()
        except OSError as error:
            self._log.error(f"{self.name}: cannot start: {error.strerror}")
            self._start_later()
            return
        self.starts += 1
        self._started = time.monotonic()
        self._children.add(self.pid, self._ended)
        with suppress(OSError):
            Path(f"/proc/{self.pid}/oom_score_adj").write_text(_OOM_SCORE)
        self._log.debug(f"{self.name}: started as pid {self.pid}")

    def told_ready(self, message: str) -> None:
        self.ready = message
        # A service that has come up again need not wait long when it ends once more.
        self._log.info(f"{self.name} ready: {message}")

    def terminate(self) -> None:
        """SIGTERM, and no next start."""
        self._stopping = True
        if self._timer is not None:
            self._timer.cancel()
        if self.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, 15)

    def kill(self) -> None:
        self._stopping = True
        self._cgroups.kill(self.cgroup)

    def _spawn(self) -> int:
        with suppress(FileExistsError):
            self._cgroups.make(self.cgroup)
        with ExitStack() as opened:
            null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            opened.callback(os.close, null)
            leaf = self._cgroups.open(self.cgroup)
            opened.callback(os.close, leaf)
            fds = {0: null, 1: self._write, 2: self._write}
            return self._spawner(
                self._argv[0], self._argv, _ENVIRONMENT, cwd="/", fds=fds, cgroup=leaf
            )

    def _ended(self, ending: Ending) -> None:
        self.pid = None
        self.ready = ""
        # Helpers that it may have started do not outlive it.
        self._cgroups.kill(self.cgroup)
        if self._stopping:
            self._log.debug(f"{self.name}: ended {describe(ending)}")
        else:
            if time.monotonic() - self._started >= GOOD_RUN:
                self._backoff = BACKOFF
            self._log.error(
                f"{self.name}: ended {describe(ending)}; starting it again in {self._backoff:g} s"
            )
            self._start_later()
        self._on_end()

    def _start_later(self) -> None:
        self._timer = self._loop.later(self._backoff, self.start)
        self._backoff = min(2 * self._backoff, BACKOFF_LIMIT)

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


def command(module: str) -> tuple[str, ...]:
    """-I: neither environment nor working folder has a say in what is imported."""
    return (sys.executable or "/usr/bin/python3", "-I", "-m", module)

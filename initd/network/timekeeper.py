"""Keeps the clock right: systemd-timesyncd, for as long as somebody has named servers for it.

It asks over NTP, steps the clock or slews it, and needs no bus and no init of its own. Here it is a
user's process that may do nothing more than set the clock.
"""

import logging
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from initd.linux import spawn
from initd.network.store import write_atomically

log: Final = logging.getLogger(__name__)

PROGRAM: Final = "/usr/bin/systemd-timesyncd"
SETPRIV: Final = "/usr/bin/setpriv"
USER: Final = 998
"""`systemd-timesync` of the image's /etc/passwd."""
CONFIGURATION: Final = Path("/run/systemd/timesyncd.conf.d/aurae.conf")
# Seconds until one that has ended is started again: these, twice as long each time, and from the
# first on after a run of the longest.
FIRST: Final = 1.0
LONGEST: Final = 64.0

# Told of by which descriptor an end is heard, and whom to call then; and that it is heard no more.
Watch = Callable[[int, Callable[[float], None]], None]
Forget = Callable[[int], object]


class Timekeeper:
    """`ask` is called with the servers that are wanted by now."""

    def __init__(
        self,
        watch: Watch,
        forget: Forget,
        command: Sequence[str] | None = None,
        configuration: Path = CONFIGURATION,
    ) -> None:
        self.servers: tuple[str, ...] = ()
        self.deadline: float | None = None
        """When `tick` is to be called."""
        self._watch = watch
        self._forget = forget
        self._command = _command() if command is None else command
        self._configuration = configuration
        self._running: tuple[int, int] | None = None
        self._wait = FIRST
        self._started = 0.0

    def ask(self, servers: tuple[str, ...], now: float) -> None:
        if servers == self.servers:
            return
        self.servers = servers
        self._end()
        self.deadline = None
        if servers:
            log.info("time from %s", " ".join(servers))
            self._wait = FIRST
            self._start(now)
        else:
            log.info("time from nobody any more")

    def tick(self, now: float) -> None:
        if self.deadline is not None and self.deadline <= now:
            self._start(now)

    def _start(self, now: float) -> None:
        self.deadline = None
        try:
            self._configuration.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            write_atomically(self._configuration, configuration(self.servers).encode())
            # It reads that as somebody else.
            self._configuration.chmod(0o644)
            pid = _spawn(self._command)
        except OSError as e:
            log.warning("time: %s: %s", e.filename or self._command[0], e.strerror)
            self._later(now)
            return
        pidfd = os.pidfd_open(pid)
        self._running = pid, pidfd
        self._started = now
        self._watch(pidfd, self._ended)

    def _ended(self, now: float) -> None:
        code = self._reap()
        if now - self._started >= LONGEST:
            self._wait = FIRST
        log.warning("time: %s ended with %d", Path(PROGRAM).name, code)
        self._later(now)

    def _later(self, now: float) -> None:
        self.deadline = now + self._wait
        self._wait = min(2 * self._wait, LONGEST)

    def _end(self) -> None:
        if self._running is not None:
            with suppress(ProcessLookupError):
                os.kill(self._running[0], signal.SIGKILL)
            self._reap()

    def _reap(self) -> int:
        assert self._running is not None
        pid, pidfd = self._running
        self._running = None
        self._forget(pidfd)
        os.close(pidfd)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def configuration(servers: Sequence[str]) -> str:
    """Without other servers than these: the program's own are of whoever has built it."""
    return f"[Time]\nNTP={' '.join(servers)}\nFallbackNTP=\n"


def _command() -> tuple[str, ...]:
    only = "-all,+sys_time"
    return (
        *(SETPRIV, f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--no-new-privs"),
        *(f"--inh-caps={only}", f"--ambient-caps={only}", f"--bounding-set={only}"),
        PROGRAM,
    )


def _spawn(command: Sequence[str]) -> int:
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fds = {0: null, 1: 2, 2: 2}
        return spawn.best()(command[0], command, {}, cwd="/", fds=fds, cgroup=None)
    finally:
        os.close(null)

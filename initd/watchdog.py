"""Who watches: PID 1 the runtime, and a hardware watchdog PID 1.

============================  ==================================================================
what hangs                    what comes of it
============================  ==================================================================
the runtime                   it is killed and started again, once it was silent for `seconds`
the runtime, again and again  nobody reaches the node: after `RECOVERY` the watchdog is fed no more
PID 1                         the watchdog is not fed, and resets the machine
============================  ==================================================================
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from initd.linux import watchdog
from initd.log import Log
from initd.loop import Loop
from initd.services import Service

if TYPE_CHECKING:
    from initd.handover.model import WatchdogState

# Seconds that a runtime may take from its start until it is ready.
STARTING: Final = 300.0
# Seconds without a runtime that is well, after which a machine is better off with a new start.
RECOVERY: Final = 900.0
# Of the seconds that are allowed, after how many something is done that they are counted from.
_PART: Final = 4
_FIRST: Final = Path("/dev/watchdog0")


class Vigil:
    """Over the runtime, which says that it is well every `every` seconds, from its being ready on.

    A machine that stood still as a whole was not the runtime's fault: PID 1 finds its own look to
    be late then, and begins anew."""

    def __init__(
        self,
        loop: Loop,
        log: Log,
        service: Service,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.every = seconds / _PART
        self._loop = loop
        self._log = log
        self._service = service
        self._seconds = seconds
        self._clock = clock
        self._heard = self._well = self._looked = clock()
        self._starts = service.starts

    @property
    def good(self) -> bool:
        """Whether the runtime is well, or may still become so."""
        return self._clock() - self._well < RECOVERY

    def start(self) -> None:
        """Look, from now on."""
        self._loop.later(self.every, self._turn)

    def hear(self) -> None:
        """The runtime says that it is well."""
        self._heard = self._well = self._clock()

    def _turn(self) -> None:
        try:
            self.look()
        finally:
            self.start()

    def look(self) -> None:
        """Replace a runtime that was silent for too long."""
        now, before = self._clock(), self._looked
        self._looked = now
        late = now - before > 2 * self.every
        if late or self._service.starts != self._starts or self._service.pid is None:
            self._heard, self._starts = now, self._service.starts
            return
        limit = self._seconds if self._service.ready else STARTING
        if now - self._heard > limit:
            self._log.error(f"{self._service.name}: silent for {limit:g} s: killed")
            self._service.replace()


class Watchdog:
    """The machine's watchdog device, fed while the loop turns and `good` says so."""

    def __init__(self, loop: Loop, log: Log, seconds: int, good: Callable[[], bool]) -> None:
        """`seconds` without food it waits; 0: none is wanted."""
        self._loop = loop
        self._log = log
        self._seconds = seconds
        self._good = good
        self._device: int | None = None
        self._every = 0.0
        self._hungry = False

    def save(self) -> "WatchdogState | None":
        from initd.handover.model import Descriptor, WatchdogState

        if self._device is None:
            return None
        self.feed()
        return WatchdogState(device=Descriptor(self._device), every=self._every)

    def resume(self, state: "WatchdogState") -> None:
        self._device, self._every = state.device, state.every
        self._turn()

    def look(self, path: Path = _FIRST) -> None:
        """Take the one that is there now, if there is one."""
        if path.exists():
            self.add(path)

    def add(self, path: Path) -> None:
        """Take this one, unless we have one or want none."""
        if self._device is not None or not self._seconds:
            return
        try:
            device = watchdog.open_device(str(path))
        except OSError as error:
            self._log.warning(f"watchdog: {path}: {error.strerror}")
            return
        self._device, taken = device, self._seconds
        try:
            taken = watchdog.set_timeout(device, self._seconds)
        except OSError as error:
            self._log.warning(f"watchdog: {path}: cannot take {taken} s: {error.strerror}")
            # Its own may be as short as any is.
            taken = 8
        self._every = taken / _PART
        self._log.info(f"watchdog: {path} resets this machine after {taken} s without PID 1")
        self._turn()

    def feed(self) -> None:
        """If there is one."""
        if self._device is not None:
            with suppress(OSError):
                watchdog.feed(self._device)

    def disarm(self) -> None:
        """Before the machine is stopped for good."""
        device, self._device = self._device, None
        if device is not None:
            with suppress(OSError):
                watchdog.disarm(device)

    def _turn(self) -> None:
        if self._device is None:
            return
        if self._good():
            self.feed()
            self._hungry = False
        elif not self._hungry:
            self._hungry = True
            self._log.error("watchdog: not fed any more: the runtime does not come back")
            os.sync()
        self._loop.later(self._every, self._turn)

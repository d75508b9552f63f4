"""Devices that appear: their drivers, and their power buttons."""

import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from initd.boot import drivers
from initd.linux import uevent
from initd.log import Log
from initd.loop import Loop, Timer
from initd.processes.children import Children, Ending

if TYPE_CHECKING:
    from initd.handover.model import HardwareState

_PATIENCE: Final = 20.0


class Hardware:
    """`on_device` by subsystem hears of every device with a node that appears."""

    def __init__(
        self,
        loop: Loop,
        children: Children,
        log: Log,
        on_device: Mapping[str, Callable[[Path], None]],
    ) -> None:
        self._loop = loop
        self._children = children
        self._log = log
        self._on_device = on_device
        self._waiting: set[str] = set()
        self._look_again = False
        self._loading: drivers.Loading | None = None
        self._timer: Timer | None = None
        self._listener: socket.socket | None = None

    def start(self, begun: drivers.Loading | None) -> None:
        """From now on hear of new devices. `begun` loads what is urgent; `complete` does the rest,
        and finds what appeared before we listened."""
        self._listen(uevent.listen())
        if begun is not None:
            self._await(begun)
        self._timer = self._loop.later(_PATIENCE, self.complete)

    def save(self) -> "HardwareState":
        from initd.handover.model import Descriptor, HardwareState, LoadingState

        loading = None
        if self._loading is not None:
            pid, began, pipe = self._loading
            loading = LoadingState(pid=pid, began=began, pipe=Descriptor(pipe))
        return HardwareState(
            listener=None if self._listener is None else Descriptor(self._listener.fileno()),
            waiting=tuple(self._waiting),
            look_again=self._look_again,
            due=None if self._timer is None else self._timer.due,
            loading=loading,
        )

    def resume(self, state: "HardwareState") -> None:
        """Go on where `save` was called, before the next reap."""
        if state.listener is not None:
            self._listen(socket.socket(fileno=state.listener))
        self._waiting.update(state.waiting)
        self._look_again = state.look_again
        if state.due is not None:
            self._timer = self._loop.at(state.due, self.complete)
        if state.loading is not None:
            loading = state.loading
            self._await(drivers.Loading(loading.pid, loading.began, loading.pipe))

    def _listen(self, listener: socket.socket) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._loop.watch(listener.fileno(), lambda _: self._hear(listener))

    def complete(self) -> None:
        """Load the drivers of all devices: called when the API is up, or at last by a timer, so
        that disks which nobody asks for yet do not hold it up."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._look_again = True
            self._next()

    def _hear(self, listener: socket.socket) -> None:
        while (event := self._read(listener)) is not None:
            if event.get("ACTION") != "add":
                continue
            hear = self._on_device.get(event.get("SUBSYSTEM", ""))
            if hear is not None and "DEVNAME" in event:
                hear(Path("/dev", event["DEVNAME"]))
            if "MODALIAS" in event:
                self._waiting.add(event["MODALIAS"])
        self._next()

    def _read(self, listener: socket.socket) -> dict[str, str] | None:
        try:
            return uevent.read(listener)
        except OSError:
            # So many came that some were lost.
            self._look_again = True
            return {}

    def _next(self) -> None:
        """One copy of PID 1 at a time."""
        if self._loading is not None:
            return
        if self._look_again:
            self._look_again = False
            self._waiting.clear()
            self._await(drivers.start())
        elif self._waiting:
            modaliases, self._waiting = self._waiting, set()
            self._await(drivers.start(modaliases))

    def _await(self, loading: drivers.Loading) -> None:
        self._loading = loading
        self._children.add(loading.pid, lambda ending: self._ended(loading, ending))

    def _ended(self, loading: drivers.Loading, ending: Ending) -> None:
        self._loading = None
        loaded, problems = drivers.report(loading)
        if loaded:
            took = (time.monotonic() - loading.began) * 1000
            self._log.info(f"{'drivers':<18}{took:6.0f} ms  {loaded}")
        for problem in problems:
            self._log.warning(f"drivers: {problem}")
        if ending.code != 0:
            self._log.warning(f"drivers: ended with {ending}")
        self._next()

"""Drivers for the hardware, now and for what appears later.

A driver's start may take seconds, or for ever where its device is broken, and PID 1 must not wait
for it: copies of PID 1 that live no longer than their work load the modules. They run at a low
weight, so that the services come up first.
"""

import os
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from initd.boot.modules import Modules, find_modaliases
from initd.linux import spawn, uevent
from initd.log import Log
from initd.loop import Loop
from initd.processes.children import Children, Ending

_CGROUP: Final = Path("/sys/fs/cgroup/auraed/hardware")
# Of 100 that a service has.
_WEIGHT: Final = "20"
# What one look has brought forth may need drivers in turn: a bus, its devices, their functions.
_LOOKS: Final = 8
_REPORT_LIMIT: Final = 64 * 1024


class Hardware:
    """`on_input` hears of every input device that appears."""

    def __init__(
        self, loop: Loop, children: Children, log: Log, on_input: Callable[[Path], None]
    ) -> None:
        self._loop = loop
        self._children = children
        self._log = log
        self._on_input = on_input
        self._waiting: set[str] = set()
        self._busy = False

    def start(self) -> None:
        """Load what the devices that are there need; from now on hear of new ones."""
        with suppress(FileExistsError):
            _CGROUP.mkdir()
        (_CGROUP / "cpu.weight").write_text(_WEIGHT)
        # Listening comes before looking: nothing that appears meanwhile is missed.
        listener = uevent.listen()
        self._loop.watch(listener.fileno(), lambda _: self._hear(listener))
        self._fork(_load_for_all)

    def _hear(self, listener: socket.socket) -> None:
        while (event := _next(listener)) is not None:
            if event.get("ACTION") != "add":
                continue
            if event.get("SUBSYSTEM") == "input" and "DEVNAME" in event:
                self._on_input(Path("/dev", event["DEVNAME"]))
            if "MODALIAS" in event:
                self._waiting.add(event["MODALIAS"])
        self._next_batch()

    def _next_batch(self) -> None:
        if self._waiting and not self._busy:
            modaliases, self._waiting = self._waiting, set()
            self._fork(lambda: _load(Modules(), modaliases))

    def _fork(self, work: Callable[[], list[str]]) -> None:
        began = time.monotonic()
        read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            child = spawn.in_child(lambda: _report(work, write))
        except OSError:
            os.close(read)
            raise
        finally:
            os.close(write)
        self._busy = True
        self._children.add(child, lambda ending: self._ended(read, began, ending))

    def _ended(self, read: int, began: float, ending: Ending) -> None:
        self._busy = False
        try:
            text = os.read(read, _REPORT_LIMIT).decode(errors="replace")
        except BlockingIOError:
            text = ""
        finally:
            os.close(read)
        loaded, *problems = text.splitlines() or [""]
        if loaded:
            took = (time.monotonic() - began) * 1000
            self._log.info(f"{'drivers':<18}{took:6.0f} ms  {loaded}")
        for problem in problems:
            self._log.warning(f"drivers: {problem}")
        if ending.code != 0:
            self._log.warning(f"drivers: loading them ended {ending}")
        self._next_batch()


def _load_for_all() -> list[str]:
    """Devices may bring forth others: look again until nothing is new."""
    modules = Modules()
    loaded: list[str] = []
    problems: list[str] = []
    for _ in range(_LOOKS):
        names, wrong = modules.for_aliases(sorted(find_modaliases(), key=urgency))
        loaded += names
        problems += wrong
        if not names:
            break
    return [" ".join(loaded), *problems]


def _load(modules: Modules, modaliases: Iterable[str]) -> list[str]:
    loaded, problems = modules.for_aliases(sorted(modaliases, key=urgency))
    return [" ".join(loaded), *problems]


def urgency(modalias: str) -> int:
    """What a node is reached by comes first; disks last, for the root's own driver is there."""
    if modalias.startswith("virtio:") or "bc02sc" in modalias:
        return 0
    if modalias.startswith("pci:") and "bc01sc" in modalias:
        return 2
    return 1


def _report(work: Callable[[], list[str]], write: int) -> None:
    """In the child: one line of names, then one a problem."""
    (_CGROUP / "cgroup.procs").write_text(str(os.getpid()))
    lines = work()
    os.write(write, "\n".join(lines).encode()[:_REPORT_LIMIT])


def _next(listener: socket.socket) -> dict[str, str] | None:
    try:
        return uevent.read(listener)
    except OSError:
        # So many came that some were lost; what follows is whole again.
        return {}

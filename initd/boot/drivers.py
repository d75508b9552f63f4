"""Loads drivers in a copy of this process, which lives no longer than that work.

A driver's start may take seconds, or for ever where its device is broken, and PID 1 must not wait
for it.
"""

import os
import time
from collections.abc import Iterable
from typing import Final

from initd.boot.modules import Modules, find_modaliases
from initd.linux import spawn
from initd.values import NamedTuple

_PROCS: Final = "/sys/fs/cgroup/auraed/hardware/cgroup.procs"
# What one look has brought forth may need drivers in turn: a bus, its devices, their functions.
_LOOKS: Final = 8
# Paravirtual devices; the power button and what its keys come by.
_FIRST: Final = ("virtio:", "acpi:PNP0C0C", "acpi:LNXPWRBN", "input:")
_REPORT_LIMIT: Final = 64 * 1024


class Loading(NamedTuple):
    """A copy at work. It is the caller's to wait for, and then to ask by `report`."""

    pid: int
    began: float
    pipe: int


def start(modaliases: Iterable[str] | None = None, *, limit: int = 2) -> Loading:
    """For these devices, or for all there are, of an `urgency` up to `limit`."""
    read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        pid = spawn.in_child(lambda: _work(modaliases, limit, write))
    except OSError:
        os.close(read)
        raise
    finally:
        os.close(write)
    return Loading(pid, time.monotonic(), read)


def report(loading: Loading) -> tuple[str, list[str]]:
    """(names of the modules loaded, what was wrong). Once, after its end."""
    try:
        text = os.read(loading.pipe, _REPORT_LIMIT).decode(errors="replace")
    except BlockingIOError:
        text = ""
    finally:
        os.close(loading.pipe)
    loaded, *problems = text.split("\n")
    return loaded, problems


def urgency(modalias: str) -> int:
    """0: what a node is reached by, and its buttons. 2: disks, for the root's is there already."""
    if "bc02sc" in modalias or modalias.startswith(_FIRST):
        return 0
    return 2 if "bc01sc" in modalias else 1


def _work(modaliases: Iterable[str] | None, limit: int, write: int) -> None:
    with open(_PROCS, "w") as procs:
        procs.write(str(os.getpid()))
    modules = Modules()
    loaded: list[str] = []
    problems: list[str] = []
    for _ in range(_LOOKS):
        wanted = find_modaliases() if modaliases is None else modaliases
        wanted = [modalias for modalias in wanted if urgency(modalias) <= limit]
        names, wrong = modules.for_aliases(sorted(wanted, key=urgency))
        loaded += names
        problems += wrong
        if not names or modaliases is not None:
            break
    os.write(write, "\n".join([" ".join(loaded), *problems]).encode()[:_REPORT_LIMIT])

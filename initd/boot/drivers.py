"""Loads drivers in a copy of this process, which lives no longer than that work.

A driver's start may take seconds, or for ever where its device is broken, and PID 1 must not wait
for it.
"""

import os
import time
from collections.abc import Iterable
from typing import Final, NamedTuple

from initd.boot.modules import Modules, find_modaliases
from initd.linux import spawn

_PROCS: Final = "/sys/fs/cgroup/auraed/hardware/cgroup.procs"
# What one look has brought forth may need drivers in turn: a bus, its devices, their functions.
_LOOKS: Final = 8
_REPORT_LIMIT: Final = 64 * 1024


class Loading(NamedTuple):
    """A copy at work. It is the caller's to wait for, and then to ask by `report`."""

    pid: int
    began: float
    pipe: int


def start(modaliases: Iterable[str] | None = None) -> Loading:
    """For these devices, or for all there are."""
    read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        pid = spawn.in_child(lambda: _work(modaliases, write))
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
    """What a node is reached by comes first; disks last, for the root's own driver is there."""
    if modalias.startswith("virtio:") or "bc02sc" in modalias:
        return 0
    if modalias.startswith("pci:") and "bc01sc" in modalias:
        return 2
    return 1


def _work(modaliases: Iterable[str] | None, write: int) -> None:
    with open(_PROCS, "w") as procs:
        procs.write(str(os.getpid()))
    modules = Modules()
    loaded: list[str] = []
    problems: list[str] = []
    for _ in range(_LOOKS):
        wanted = find_modaliases() if modaliases is None else modaliases
        names, wrong = modules.for_aliases(sorted(wanted, key=urgency))
        loaded += names
        problems += wrong
        if not names or modaliases is not None:
            break
    os.write(write, "\n".join([" ".join(loaded), *problems]).encode()[:_REPORT_LIMIT])

"""Loads drivers in a copy of this process, which lives no longer than that work.

A driver's start may take seconds, or for ever where its device is broken, and PID 1 must not wait
for it.
"""

import time
from collections.abc import Iterable
from typing import Final

from initd.boot import copies
from initd.boot.modules import Modules, find_modaliases
from initd.values import NamedTuple

# What one look has brought forth may need drivers in turn: a bus, its devices, their functions.
_LOOKS: Final = 8
# Paravirtual devices; the power button and what its keys come by.
_FIRST: Final = ("virtio:", "acpi:PNP0C0C", "acpi:LNXPWRBN", "input:")


class Loading(NamedTuple):
    """A copy at work. It is the caller's to wait for, and then to ask by `report`."""

    pid: int
    began: float
    pipe: int


def start(modaliases: Iterable[str] | None = None, *, limit: int = 2) -> Loading:
    """For these devices, or for all there are, of an `urgency` up to `limit`."""
    pid, pipe = copies.start(lambda tell: _work(modaliases, limit, tell))
    return Loading(pid, time.monotonic(), pipe)


def report(loading: Loading) -> tuple[str, list[str]]:
    """(names of the modules loaded, what was wrong). Once, after its end."""
    loaded, *problems = copies.told(loading.pipe).split("\n")
    return loaded, problems


def urgency(modalias: str) -> int:
    """0: what a node is reached by, and its buttons. 2: disks, for the root's is there already."""
    if "bc02sc" in modalias or modalias.startswith(_FIRST):
        return 0
    return 2 if "bc01sc" in modalias else 1


def _work(modaliases: Iterable[str] | None, limit: int, tell: copies.Tell) -> None:
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
    tell("\n".join([" ".join(loaded), *problems]))

"""The one place that waits."""

import os
from collections.abc import Callable

from initd.values import NamedTuple


class Ending(NamedTuple):
    """How a process ended: one of the two is set."""

    code: int | None
    signal: int | None


class Children:
    """Reaps every child of this process: those it knows, and orphans that came to it.

    Nothing else in the process may wait, or it would take the endings away from here."""

    def __init__(self) -> None:
        self._known: dict[int, Callable[[Ending], None]] = {}

    def add(self, pid: int, ended: Callable[[Ending], None]) -> None:
        """Before the next `reap`."""
        self._known[pid] = ended

    def reap(self) -> None:
        """All that have ended by now."""
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)
            except ChildProcessError:
                return
            if found is None:
                return
            ended = self._known.pop(found.si_pid, None)
            if ended is not None:
                ended(_ending(found))


def _ending(found: os.waitid_result) -> Ending:
    if found.si_code == os.CLD_EXITED:
        return Ending(found.si_status, None)
    return Ending(None, found.si_status)

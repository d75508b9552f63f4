"""PID 1's side of a cell's init: how it is made, and how PID 1 hears that it is ready.

PID 1 does not wait for it: an init has to do with the cell's limits and file systems, which may
make it slow for ever.
"""

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from initd.linux import namespace
from initd.loop import Loop, Timer
from initd.processes import cell_init
from initd.processes.cgroups import Cgroups
from initd.processes.model import USERS, Isolation
from initd.processes.template import MESSAGE, Copy, Template

if TYPE_CHECKING:
    from initd.handover.model import ReportState

# Seconds that an init has to get ready.
PATIENCE: Final = 60.0
# Of one that says nothing more: nobody but the kernel kills it.
_ENDED: Final = "it ended before it was ready; see the limits of the cell and of those above"


class Report:
    """What an init says until it is ready. `tell` is called once: with "" or with what went wrong;
    not after `close`."""

    def __init__(self, loop: Loop, connection: socket.socket, tell: Callable[[str], None]) -> None:
        self._loop = loop
        self._connection = connection
        self._tell = tell
        self._users = 0
        self._pid = 0
        self._timer: Timer | None = None
        connection.setblocking(False)

    def watch(self, pid: int, users: int) -> None:
        """It is this process, and the first of the user IDs that it asks to have mapped."""
        self._pid, self._users = pid, users
        self._loop.watch(self._connection.fileno(), self._hear)
        self._timer = self._loop.later(PATIENCE, lambda: self._end(f"not ready in {PATIENCE:g} s"))

    def save(self) -> "ReportState | None":
        """None: nothing more will be told."""
        from initd.handover.model import Descriptor, ReportState

        if self._connection.fileno() < 0:
            return None
        connection = Descriptor(self._connection.fileno())
        return ReportState(connection=connection, users=self._users)

    def close(self) -> None:
        """Once more does no harm."""
        if self._connection.fileno() >= 0:
            if self._timer is not None:
                self._timer.cancel()
            self._loop.unwatch(self._connection.fileno())
            self._connection.close()

    def _hear(self, _events: int) -> None:
        try:
            message = self._connection.recv(MESSAGE)
        except BlockingIOError:
            return
        except ConnectionResetError:
            message = b""
        if message == cell_init.MAP:
            self._map()
        elif message == cell_init.READY:
            self._end("")
        else:
            self._end(message.decode(errors="replace") or _ENDED)

    def _map(self) -> None:
        try:
            for name in ("uid_map", "gid_map"):
                Path(f"/proc/{self._pid}/{name}").write_text(f"0 {self._users} {USERS}")
            self._connection.send(cell_init.MAP)
        except OSError as error:
            self._end(f"cannot map its user IDs: {error.strerror}")

    def _end(self, error: str) -> None:
        self.close()
        self._tell(error)


def make(
    template: Template, cgroups: Cgroups, isolation: Isolation, leaf: str, *, outer: int | None
) -> tuple[int, socket.socket]:
    """Begin an init whose leaf exists; (its pid, what it reports on). `outer` is the pid of the
    init that it lives below. OSError."""
    with ExitStack() as opened:
        fds = []
        for path in (isolation.cgroup, leaf):
            fds.append(cgroups.open_procs(path))
            opened.callback(os.close, fds[-1])
        if outer is not None:
            fds.append(os.pidfd_open(outer))
            opened.callback(os.close, fds[-1])
        shared_users = outer is not None and is_apart(outer, "user")
        request = {"isolation": isolation._asdict(), "shared_users": shared_users}
        return template.make(__name__, request, fds)


def copy(request: Mapping[str, Any], report: socket.socket, fds: Sequence[int]) -> Copy:
    """In the template. Its descriptors: as `cell_init.Beginning` has them."""
    cell, leaf, *outer = fds
    beginning = cell_init.Beginning(
        Isolation(**request["isolation"]),
        report,
        cell=cell,
        leaf=leaf,
        outer=outer[0] if outer else -1,
        shared_users=request["shared_users"],
    )
    return Copy(
        lambda: cell_init.run(beginning),
        inside=outer[0] if outer else None,
        first=beginning.isolation.process,
    )


def is_apart(pid: int, kind: str) -> bool:
    """Whether the process lives in another namespace than we; `kind` as in /proc/PID/ns."""
    return namespace.number(pid, kind) != namespace.number(os.getpid(), kind)

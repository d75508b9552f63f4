"""PID 1's side of a cell's init: how it is made, and how PID 1 hears that it is ready.

PID 1 does not wait for it: an init has to do with the cell's limits and file systems, which may
make it slow for ever.
"""

import errno
import json
import os
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

from initd.linux import namespace, prctl, spawn
from initd.loop import Loop, Timer
from initd.processes import cell_init
from initd.processes.cgroups import Cgroups
from initd.processes.model import USERS, Isolation

if TYPE_CHECKING:
    from initd.handover.model import ReportState

# Seconds that an init has to get ready.
PATIENCE: Final = 60.0
# Seconds that a template has to answer.
ANSWER: Final = 10.0
_MESSAGE: Final = 4096
# Of one that says nothing more: nobody but the kernel kills it.
_ENDED: Final = "it ended before it was ready; see the limits of the cell and of those above"
# What comes with a request: report, two files, and a pidfd.
_DESCRIPTORS: Final = 4


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
            message = self._connection.recv(_MESSAGE)
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


class _Killed(OSError):
    """An init ended, or its template, before the first word."""


class Inits:
    """Makes them. They are copies of a template, which is a copy of PID 1 that does nothing else:
    PID 1 changes its memory all the time, so copies of itself would share little with it, and each
    cost megabytes. Inits are children of PID 1 all the same."""

    def __init__(self, cgroups: Cgroups) -> None:
        self._cgroups = cgroups
        self._template: socket.socket | None = None

    def close(self) -> None:
        """The template ends."""
        if self._template is not None:
            self._template.close()
            self._template = None

    def make(
        self, isolation: Isolation, leaf: str, *, outer: int | None
    ) -> tuple[int, socket.socket]:
        """Begin an init whose leaf exists; (its pid, what it reports on). `outer` is the pid of the
        init that it lives below. OSError."""
        try:
            return self._made(isolation, leaf, outer)
        except _Killed:
            # The template may have been: a process takes messages until the kernel has ended it.
            self.close()
            return self._made(isolation, leaf, outer)

    def _made(
        self, isolation: Isolation, leaf: str, outer: int | None
    ) -> tuple[int, socket.socket]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ExitStack() as opened:
            opened.callback(theirs.close)
            fds = [theirs.fileno()]
            for path in (isolation.cgroup, leaf):
                fds.append(self._cgroups.open_procs(path))
                opened.callback(os.close, fds[-1])
            if outer is not None:
                fds.append(os.pidfd_open(outer))
                opened.callback(os.close, fds[-1])
            shared_users = outer is not None and is_apart(outer, "user")
            request = {"isolation": isolation._asdict(), "shared_users": shared_users}
            self._ask(json.dumps(request).encode(), fds)
        return _begun(ours), ours

    def _ask(self, request: bytes, fds: list[int]) -> None:
        if self._template is not None:
            try:
                socket.send_fds(self._template, [request], fds)
            except OSError:
                # It was killed. What it made lives on.
                self.close()
            else:
                return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        spawn.in_child(lambda: _be_template(theirs))
        theirs.close()
        ours.settimeout(ANSWER)
        self._template = ours
        socket.send_fds(ours, [request], fds)


def _begun(report: socket.socket) -> int:
    """The first word of an init is its pid, or that of the template what went wrong."""
    report.settimeout(ANSWER)
    try:
        answer = report.recv(_MESSAGE)
        if not answer:
            raise _Killed(errno.EAGAIN, "it was killed")
        if not answer.isdigit():
            raise OSError(errno.EAGAIN, answer.decode(errors="replace"))
    except BaseException:
        report.close()
        raise
    return int(answer)


def _be_template(requests: socket.socket) -> None:
    prctl.set_name("auraed inits")
    spawn.close_but(requests.fileno())
    while True:
        message, fds, _, _ = socket.recv_fds(requests, _MESSAGE, _DESCRIPTORS)
        if not message:
            return
        request = json.loads(message)
        report = socket.socket(fileno=fds[0])
        beginning = cell_init.Beginning(
            Isolation(**request["isolation"]),
            report,
            cell=fds[1],
            leaf=fds[2],
            outer=fds[3] if len(fds) > 3 else -1,
            shared_users=request["shared_users"],
        )
        try:
            spawn.sibling(
                lambda begin=beginning: cell_init.run(begin),  # type: ignore[misc]
                inside=fds[3] if len(fds) > 3 else None,
                first=beginning.isolation.process,
            )
        except OSError as error:
            report.send((error.strerror or str(error)).encode())
        report.close()
        for fd in fds[1:]:
            os.close(fd)


def is_apart(pid: int, kind: str) -> bool:
    """Whether the process lives in another namespace than we; `kind` as in /proc/PID/ns."""
    return namespace.number(pid, kind) != namespace.number(os.getpid(), kind)

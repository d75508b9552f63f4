"""Who is at the other end of a Unix socket: asked of the kernel, never of the caller."""

import errno
import os
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from initd.linux import peer
from initd.values import NamedTuple

PROC: Final = Path("/proc")

# proc(5), /proc/PID/fdinfo: the process of a pidfd as our own process namespace numbers it.
_PID: Final = r"(?m)^Pid:\t(-?\d+)$"
# cgroups(7), /proc/PID/cgroup: the line of the version 2 hierarchy.
_CGROUP: Final = r"(?m)^0::(/.*)$"


class Peer(NamedTuple):
    """The process that connected. What others do with the connection later, it answers for."""

    pid: int
    uid: int
    gid: int
    cgroup: str
    """Its path below the root of the cgroup tree, such as `/aurae/web/_server`."""


def find(connection: socket.socket) -> Peer:
    """Raises ProcessLookupError if the process has ended meanwhile: nobody can say who it was."""
    _, uid, gid = peer.credentials(connection)
    with _process(connection) as pidfd:
        pid = _pid(pidfd)
        path = cgroup(PROC / str(pid))
        # Only now is it sure that the number was this process's all the time.
        signal.pidfd_send_signal(pidfd, 0)
    return Peer(pid=pid, uid=uid, gid=gid, cgroup=path)


def cgroup(folder: Path) -> str:
    """The cgroup of the process with this folder in /proc. Raises ProcessLookupError."""
    try:
        # Who may make cgroups names them with any bytes but / and newline; no cell's are like that.
        table = (folder / "cgroup").read_bytes().decode(errors="replace")
    except FileNotFoundError as e:
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH), str(folder)) from e
    found = re.search(_CGROUP, table)
    if found is None or found[1].endswith(" (deleted)"):
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH), str(folder))
    return found[1]


@contextmanager
def _process(connection: socket.socket) -> Iterator[int]:
    try:
        pidfd = peer.pidfd(connection)
    except OSError as e:
        if e.errno != errno.ENOPROTOOPT:
            # ESRCH, EINVAL or ENODATA, by the kernel's version.
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH)) from e
        # Linux before 6.5: here a number could have gone to another process before we look.
        pidfd = os.pidfd_open(peer.credentials(connection)[0])
    try:
        yield pidfd
    finally:
        os.close(pidfd)


def _pid(pidfd: int) -> int:
    found = re.search(_PID, (PROC / f"self/fdinfo/{pidfd}").read_text())
    pid = int(found[1]) if found else -1
    # -1: it has been reaped. 0: our process namespace does not show it.
    if pid <= 0:
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
    return pid

"""The init of a cell: a copy of PID 1 that makes the cell's namespaces, keeps them, reaps the
orphans in them, and passes on the signals that it gets from outside. It ends by SIGKILL only.

It talks to PID 1 over a socket pair until it is ready. Its first word is its pid. `MAP` asks for
the map of its new user namespace, and is answered by one message when that is written; `READY` is
the last word; anything else says what went wrong.
"""

import errno
import os
import signal
import socket
from contextlib import suppress
from typing import Final

from initd.boot.plan import describe
from initd.linux import interface, namespace, prctl
from initd.linux.namespace import Namespace
from initd.linux.spawn import close_but
from initd.processes import cell_mounts
from initd.processes.model import Isolation
from initd.processes.template import tell_pid
from initd.values import NamedTuple

MAP: Final = b"map"
READY: Final = b"ready"

_SIGNALS: Final = signal.valid_signals()
# Those of a cell's executables go first when memory ends.
_OOM_SCORE: Final = b"-900"
# Where there is a user namespace: its root has no power over the network namespace, and may use
# the low ports and ping all the same.
_NETWORK_SYSCTLS: Final = (
    ("/proc/sys/net/ipv4/ip_unprivileged_port_start", b"0"),
    ("/proc/sys/net/ipv4/ping_group_range", b"0 2147483647"),
)


class Beginning(NamedTuple):
    """What an init begins with. `cell` and `leaf` are the cgroup.procs of the cell and of the
    init's leaf, open for writing. `outer` is a pidfd of the init whose namespaces it begins from,
    or -1; `shared_users`: that one has a user namespace, and this one is to live in it."""

    isolation: Isolation
    report: socket.socket
    cell: int
    leaf: int
    outer: int = -1
    shared_users: bool = False


def run(beginning: Beginning) -> None:
    """The init's life."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    isolation, report, cell, leaf, outer, _ = beginning
    tell_pid(report)
    try:
        close_but(report.fileno(), cell, leaf, outer)
        prctl.set_name("cell-init")
        prctl.set_undumpable()
        with suppress(PermissionError):
            # A container's PID 1 may not.
            _write("/proc/self/oom_score_adj", _OOM_SCORE)
        shared = cell_mounts.shared() if isolation.process else -1
        _separate(isolation, cell, leaf, outer)
        _furnish(isolation, shared)
        _enter_users(beginning)
        os.chdir("/")
        close_but(report.fileno())
        report.send(READY)
    except Exception as error:  # PID 1 is told whatever it was.
        report.send(describe(error).encode())
        return
    report.close()
    _serve(first=os.getpid() == 1)


def _separate(isolation: Isolation, cell: int, leaf: int, outer: int) -> None:
    if outer >= 0:
        kinds = Namespace.MOUNT | Namespace.CGROUP | Namespace.UTS | Namespace.IPC
        namespace.enter(outer, kinds | Namespace.NETWORK)
    kinds = Namespace.NETWORK if isolation.network else Namespace(0)
    if isolation.process:
        kinds |= Namespace.MOUNT | Namespace.CGROUP | Namespace.UTS | Namespace.IPC
        # A cgroup namespace begins where its maker is.
        os.write(cell, b"0")
    namespace.unshare(kinds)
    os.write(leaf, b"0")


def _furnish(isolation: Isolation, shared: int) -> None:
    if isolation.network:
        interface.up("lo")
    if not isolation.process:
        return
    socket.sethostname(isolation.hostname)
    cell_mounts.apply(isolation, shared)
    if isolation.network and isolation.users:
        for path, text in _NETWORK_SYSCTLS:
            _write(path, text)


def _enter_users(beginning: Beginning) -> None:
    """Last of all: until here we are root of the node, and so nobody inside owns what was made.

    A mount namespace that is made in a user namespace has the mounts of the old one locked."""
    isolation, report, *_, outer, shared_users = beginning
    if isolation.users:
        namespace.unshare(Namespace.USER)
        report.send(MAP)
        if not report.recv(1):
            raise OSError(errno.EPERM, "PID 1 did not map the user namespace")
    elif shared_users:
        namespace.enter(outer, Namespace.USER)
    else:
        return
    if isolation.process:
        namespace.unshare(Namespace.MOUNT)


def _serve(*, first: bool) -> None:
    """`first`: of its pid namespace. Else there are no orphans and nobody to pass signals to."""
    while True:
        caught = signal.sigwaitinfo(_SIGNALS)
        if caught.si_signo == signal.SIGCHLD:
            _reap()
        # Nobody inside is its sender: senders outside have no number here.
        elif first and caught.si_pid == 0:
            _pass_on(caught.si_signo)


def _pass_on(number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(-1, number)


def _reap() -> None:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _write(path: str, text: bytes) -> None:
    file = os.open(path, os.O_WRONLY)
    try:
        os.write(file, text)
    finally:
        os.close(file)

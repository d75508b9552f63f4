"""From the fork to execve(2): how a process gets into the namespaces of a cell, and loses what it
may not do. Its steps concern itself only, so PID 1 waits for none of them: what goes wrong is on
the process's own stderr, and its exit code is 127 or 126, as a shell's.
"""

import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, NoReturn

from initd.boot.plan import describe
from initd.linux import capability, namespace, prctl, seccomp, spawn
from initd.linux.namespace import Namespace
from initd.processes.inits import is_apart
from initd.processes.model import Spawn
from initd.processes.template import Copy, Template, tell_pid
from initd.processes.wire import spawn_from_object, spawn_to_object
from initd.values import NamedTuple

_STDERR: Final = 2
_NOT_FOUND: Final = 127
_NOT_EXECUTABLE: Final = 126


class Entry(NamedTuple):
    """`gate` gives end of file once the process lies in its leaf. `inside` is a pidfd of the init
    whose namespaces it enters, or -1; `users`: it has a user namespace of its own. `filters`
    are of system calls."""

    spawn: Spawn
    fds: Mapping[int, int]
    gate: int
    inside: int = -1
    users: bool = False
    filters: tuple[bytes, ...] = ()


@contextmanager
def begun(
    template: Template, wanted: Spawn, fds: Mapping[int, int], init: int | None
) -> Iterator[int]:
    """The pid of a new process, which waits until the end of the block. `init` is that whose
    namespaces it enters. OSError."""
    with ExitStack() as opened:
        gate, release = os.pipe2(os.O_CLOEXEC)
        opened.callback(os.close, gate)
        opened.callback(os.close, release)
        passed = [gate, *fds.values()]
        if init is not None:
            passed.append(os.pidfd_open(init))
            opened.callback(os.close, passed[-1])
        request = {"spawn": spawn_to_object(wanted), "fds": list(fds), "init": init}
        pid, report = template.make(__name__, request, passed)
        report.close()
        yield pid


def copy(request: Mapping[str, Any], report: socket.socket, fds: Sequence[int]) -> Copy:
    """In the template. Its descriptors: the gate, those of the process, and a pidfd of its init."""
    gate, *passed = fds
    inside = passed.pop() if request["init"] is not None else None
    wanted = spawn_from_object(request["spawn"])
    entry = Entry(
        wanted,
        dict(zip(request["fds"], passed, strict=True)),
        gate,
        inside=-1 if inside is None else inside,
        users=inside is not None and is_apart(request["init"], "user"),
        filters=tuple(_filters(wanted, request["init"])),
    )

    def action() -> None:
        tell_pid(report)
        run(entry)

    return Copy(action, inside=inside)


def _filters(wanted: Spawn, init: int | None) -> Iterator[bytes]:
    machine = os.uname().machine
    if init is not None and is_apart(init, "mnt") and not is_apart(init, "user"):
        # Root there is root of the node, and file systems are mounted here and there.
        yield seccomp.remounts(machine)
    if wanted.confinement.seccomp:
        yield seccomp.profile(machine)


def run(entry: Entry) -> NoReturn:
    """In the process."""
    wanted = entry.spawn
    try:
        os.setsid()
        gate, inside = spawn.take(entry.fds, entry.gate, entry.inside)
        os.read(gate, 1)
        Path("/proc/self/oom_score_adj").write_text("0")
        _enter(inside, users=entry.users)
        _confine(wanted, entry.filters)
        spawn.become(wanted.argv[0], wanted.argv, wanted.env, cwd=wanted.cwd)
    except Exception as error:  # There is nobody else to tell.
        os.write(_STDERR, f"cannot execute: {describe(error)}\n".encode())
        os._exit(_NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_EXECUTABLE)


def _enter(inside: int, *, users: bool) -> None:
    if inside < 0:
        return
    kinds = Namespace.MOUNT | Namespace.CGROUP | Namespace.UTS | Namespace.IPC
    namespace.enter(inside, kinds | Namespace.NETWORK)
    if users:
        # Afterwards we are no root of the node any more, and could not enter the others.
        namespace.enter(inside, Namespace.USER)


def _confine(wanted: Spawn, filters: tuple[bytes, ...]) -> None:
    """Each step needs what the later ones take away."""
    limits = wanted.confinement
    for program in filters:
        seccomp.confine(program)
    if limits.capabilities is not None:
        capability.keep_in_bounding_set(frozenset(limits.capabilities))
    os.setgroups(())
    os.setresgid(wanted.gid, wanted.gid, wanted.gid)
    os.setresuid(wanted.uid, wanted.uid, wanted.uid)
    if limits.no_new_privileges:
        prctl.set_no_new_privileges()

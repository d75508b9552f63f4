"""A copy of PID 1 that the inits of cells, and what begins in their namespaces, are copied from.

PID 1 changes its memory all the time: a copy of it shares little with it and costs megabytes, and
PID 1 has to copy each page that it writes next. So it makes one copy, which does nothing else than
make more. What that one makes is a child of PID 1 all the same.
"""

import errno
import json
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from importlib import import_module
from typing import Any, Final

from initd.linux import prctl, spawn
from initd.values import NamedTuple

NAME: Final = "auraed-template"
# Seconds that it has to answer.
ANSWER: Final = 10.0
# Of its answers, and of requests: PID 1's own limit, and twice that for what JSON makes of it.
MESSAGE: Final = 4096
_REQUEST: Final = 256 * 1024
# The kernel's SCM_MAX_FD.
_DESCRIPTORS: Final = 253


class Copy(NamedTuple):
    """What the template is to make: a process that begins with `action`, in the pid namespace of
    the pidfd `inside`, and with `first` as the init of a new one there."""

    action: Callable[[], None]
    inside: int | None = None
    first: bool = False


class KilledError(OSError):
    """It ended, or the template, before its first word."""


class Template:
    """It is made when it is first needed."""

    def __init__(self) -> None:
        self._requests: socket.socket | None = None

    def close(self) -> None:
        """It ends. What it made lives on."""
        if self._requests is not None:
            self._requests.close()
            self._requests = None

    def make(
        self, module: str, request: Mapping[str, Any], fds: Sequence[int]
    ) -> tuple[int, socket.socket]:
        """The pid of a new process, and what it reports on. `module` has a function `copy` that
        takes request, report and descriptors, and says how the process begins; its first word is
        to be its pid (`tell_pid`). OSError."""
        message = json.dumps({"module": module, "request": request}).encode()
        try:
            return self._make(message, fds)
        except KilledError:
            # The template may have been: a process takes messages until the kernel has ended it.
            self.close()
            return self._make(message, fds)

    def _make(self, message: bytes, fds: Sequence[int]) -> tuple[int, socket.socket]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._ask(message, [theirs.fileno(), *fds])
        return _begun(ours), ours

    def _ask(self, message: bytes, fds: list[int]) -> None:
        if self._requests is not None:
            try:
                socket.send_fds(self._requests, [message], fds)
            except (BrokenPipeError, ConnectionResetError):
                self.close()
            else:
                return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            spawn.in_child(lambda: _live(theirs))
        ours.settimeout(ANSWER)
        self._requests = ours
        socket.send_fds(ours, [message], fds)


def tell_pid(report: socket.socket) -> None:
    """In a new process: its number in the pid namespace of the procfs that is mounted, which is
    PID 1's."""
    report.send(os.readlink(b"/proc/self"))


def _begun(report: socket.socket) -> int:
    """The first word of a process is its pid, or that of the template what went wrong."""
    report.settimeout(ANSWER)
    try:
        answer = report.recv(MESSAGE)
        if not answer:
            raise KilledError(errno.EAGAIN, "it was killed")
        if not answer.isdigit():
            raise OSError(errno.EAGAIN, answer.decode(errors="replace"))
    except BaseException:
        report.close()
        raise
    return int(answer)


def _live(requests: socket.socket) -> None:
    prctl.set_name(NAME)
    spawn.close_but(requests.fileno())
    while True:
        message, fds, _, _ = socket.recv_fds(requests, _REQUEST, _DESCRIPTORS)
        if not message:
            return
        with ExitStack() as opened:
            for fd in fds[1:]:
                opened.callback(os.close, fd)
            _answer(message, opened.enter_context(socket.socket(fileno=fds[0])), fds[1:])


def _answer(message: bytes, report: socket.socket, fds: list[int]) -> None:
    asked = json.loads(message)
    try:
        copy: Copy = import_module(asked["module"]).copy(asked["request"], report, fds)
        spawn.sibling(copy.action, inside=copy.inside, first=copy.first)
    except OSError as error:
        report.send((error.strerror or str(error)).encode())

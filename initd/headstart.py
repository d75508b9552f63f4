"""The runtime's head start: `/init` of the initramfs begins it, PID 1 lets it go on.

An interpreter with all that the API needs takes longer to start than everything else on the node.
So `/init` becomes two before it looks for the root, and its copy becomes the runtime:

1. `begin`: while `/init` finds the root, the copy imports what the initramfs has of that (the
   module `runtime.ahead` says in which steps);
2. `let_in`: once the root is mounted the copy enters it and imports the rest, while `/init` becomes
   PID 1 of the root (see `initd.initramfs.hand_over`);
3. `wait`: before its first step it waits until PID 1, which finds it by `taken`, has made what it
   needs: file systems, its cgroup, credentials.

Where the copy cannot (the initramfs may be of another build than the root), it ends, and PID 1
starts the runtime as it does after any other end. All of them import this: it keeps to `os`.

PID 1's own first copy is the network service, by `copy`.
"""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NoReturn

from initd import pack
from initd.values import NamedTuple

ENVIRONMENT: Final = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
}
PYTHON: Final = "/usr/bin/python3"

# In PID 1's environment: `PID:OUTPUT:END:GATE`. In the runtime's: that there is a gate.
_VARIABLE: Final = "AURAE_HEAD_START"
# The runtime's descriptor of the gate, a pipe: each byte lets it take one more step.
_GATE: Final = 3
_DESCRIPTORS: Final = 256
_HURRIED: Final = os.SCHED_RR | os.SCHED_RESET_ON_FORK


class HeadStart(NamedTuple):
    """The runtime's pid, the ends of its output to read from and to write to, and its gate."""

    pid: int
    output: int
    end: int
    gate: int

    def let_in(self, root: str, answer: int) -> None:
        """In `/init`: the copy enters the folder `root`; returns when it has, and rests.

        OSError where it cannot. It goes on at `go`."""
        os.write(self.gate, root.encode())
        if not os.read(answer, 1):
            raise OSError("it has ended")

    def go(self) -> None:
        """One step. A runtime that is gone by now is found when it is waited for."""
        try:
            os.write(self.gate, b"\n")
        except BrokenPipeError:
            return

    def variables(self) -> dict[str, str]:
        """What PID 1 must have in its environment to find it. Its descriptors outlive an exec."""
        for fd in self[1:]:
            os.set_inheritable(fd, True)
        return {_VARIABLE: ":".join(map(str, self))}


def command(module: str, python: str = PYTHON) -> tuple[str, ...]:
    """-I: neither environment nor working folder has a say in what is imported. Without the site
    module, and without runpy, which `-m` takes, an interpreter starts in two thirds of the time."""
    packages = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    code = (
        f"import sys; sys.path.append({packages!r}); from initd import pack; pack.install();"
        f" import {module} as m; sys.exit(m.main())"
    )
    return (python, "-IS", "-c", code)


# A head start, and a descriptor for its `let_in`.
Begun = tuple[HeadStart, int]


def begin(module: str, ahead: str) -> Begun | None:
    """In `/init`: become two, of which one runs `module` and never returns. Until there is a root
    it takes the steps of module `ahead`. None: it could not."""
    try:
        return _begin(module, ahead)
    except OSError:
        return None


def _begin(module: str, ahead: str) -> Begun:
    # On a machine without a console 0, 1 and 2 are free, and the runtime needs them.
    while (spare := os.open(os.devnull, os.O_RDWR)) <= _GATE:
        pass
    os.close(spare)
    output, end = os.pipe()
    waiting, gate = os.pipe()
    answer, answering = os.pipe()

    def prepare() -> None:
        os.dup2(waiting, _GATE)
        os.dup2(answering, _DESCRIPTORS, inheritable=False)
        os.closerange(_GATE + 1, _DESCRIPTORS)
        os.environ[_VARIABLE] = "gate"
        _enter(_prepare(ahead))
        os.write(_DESCRIPTORS, b"\n")
        os.close(_DESCRIPTORS)
        _step()

    pid = copy(module, end, prepare)
    hurry(pid)
    os.close(waiting)
    os.close(answering)
    return HeadStart(pid, output, end, gate), answer


def hurry(pid: int) -> None:
    """Have the runtime, or PID 1 which it waits for, go first on a processor of its own, until
    `settle`: nobody can call before.

    Neither threads nor processes that it makes. Where it may not, it starts as others do."""
    with suppress(OSError):
        os.sched_setscheduler(pid, _HURRIED, os.sched_param(1))


def settle() -> None:
    """In the runtime and in PID 1, once the API answers: be one among others, if in a hurry."""
    if os.sched_getscheduler(0) == _HURRIED:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def copy(module: str, output: int, prepare: Callable[[], None]) -> int:
    """Become two, of which one calls `prepare`, runs `module` and never returns. It leads a session
    of its own, has the environment of a service, and writes to `output`. Returns its pid. OSError.
    """
    pid = os.fork()  # noqa: TID251
    if pid == 0:
        _become(module, output, prepare)
    return pid


def _become(module: str, output: int, prepare: Callable[[], None]) -> NoReturn:
    """In the copy: never returns, never raises."""
    code = 1
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDONLY)
        for ours, number in ((null, 0), (output, 1), (output, 2)):
            os.dup2(ours, number)
        # There are none where the interpreter started without a console.
        sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
        sys.stderr = sys.stderr or os.fdopen(2, "w", 1, closefd=False)
        os.environ.clear()
        os.environ.update(ENVIRONMENT)
        sys.argv[:] = [module]
        prepare()
        code = __import__(module, fromlist=["main"]).main() or 0
    except SystemExit as end:
        if isinstance(end.code, int):
            code = end.code
        else:
            os.write(2, f"{end.code}\n".encode())
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


def _prepare(ahead: str) -> str:
    """Take steps until `/init` tells of a root; returns that. `/init` waits for the last to end."""
    os.set_blocking(_GATE, False)
    try:
        for _ in __import__(ahead, fromlist=["steps"]).steps():
            with suppress(BlockingIOError):
                return os.read(_GATE, 4096).decode()
    finally:
        os.set_blocking(_GATE, True)
    return os.read(_GATE, 4096).decode()


def _enter(root: str) -> None:
    if not root:
        raise SystemExit("not wanted: the root is of another build than the initramfs")
    os.chroot(root)
    os.chdir("/")
    # The folders have the same names in the root, and other contents.
    sys.path_importer_cache.clear()
    pack.install()


def _step() -> None:
    if not os.read(_GATE, 1):
        raise SystemExit("not wanted: PID 1 closed the gate")


def taken() -> HeadStart | None:
    """In PID 1: what `/init` left; None where it left nothing. Once."""
    found = os.environ.pop(_VARIABLE, "").split(":")
    if len(found) != len(HeadStart._fields) or not all(part.isdecimal() for part in found):
        return None
    started = HeadStart(*map(int, found))
    try:
        for fd in started[1:]:
            os.set_inheritable(fd, False)
    except OSError:
        # Of somebody who only knew the variable's name.
        return None
    os.set_blocking(started.output, False)
    return started


def wait() -> None:
    """In the runtime: go on when PID 1 lets it. Exits where PID 1 does not want it."""
    if os.environ.pop(_VARIABLE, None) is not None:
        _step()
        os.close(_GATE)

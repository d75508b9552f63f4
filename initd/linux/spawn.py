"""New processes. The only file that forks.

`by_posix_spawn` needs glibc 2.39 (`POSIX_SPAWN_SETCGROUP`) and a real cgroup2: the child is born in
its cgroup, and the call costs the same however large the caller is. `by_fork` is for hosts that
have neither; its child moves itself before it executes. Either way the child leads a session of its
own, has default signal handling, no descriptor but those that are given, and room for 1024 of them
(more would break programs that use select(2); the hard limit is ours).
"""

import ctypes
import fcntl
import gc
import os
import resource
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, NoReturn, Protocol

from initd.linux import namespace
from initd.linux.libc import check, error, libc
from initd.linux.namespace import Namespace

_SETSIGDEF: Final = 0x04
_SETSIGMASK: Final = 0x08
_SETSID: Final = 0x80
_SETCGROUP: Final = 0x100
# More than glibc's posix_spawnattr_t (336) and posix_spawn_file_actions_t (80), and sigset_t (128).
_ROOM: Final = 512
FILES: Final = 1024
# clone(2): its number, and CLONE_PARENT of include/uapi/linux/sched.h.
_CLONE: Final = {"x86_64": 56, "aarch64": 220}
_CLONE_PARENT: Final = 0x8000
# The child's descriptors have numbers below this.
CHILD_DESCRIPTORS: Final = 256
# No descriptor of ours has a number above this (fs.nr_open).
_DESCRIPTORS: Final = 1 << 20

_Buffer = ctypes.Array[ctypes.c_char]


class Spawner(Protocol):
    """Start `path`; returns the child's pid. `fds` maps its descriptors to ours, `cgroup` is an
    open cgroup folder without limits (see initd/processes/gate.py), None is ours. OSError with the
    errno of execve(2), clone(2) or chdir(2)."""

    def __call__(
        self,
        path: str,
        argv: Sequence[str],
        env: Mapping[str, str],
        *,
        cwd: str,
        fds: Mapping[int, int],
        cgroup: int | None,
    ) -> int: ...


def best() -> Spawner:
    return by_posix_spawn if hasattr(libc, "posix_spawnattr_setcgroup_np") else by_fork


def by_posix_spawn(
    path: str,
    argv: Sequence[str],
    env: Mapping[str, str],
    *,
    cwd: str,
    fds: Mapping[int, int],
    cgroup: int | None,
) -> int:
    """See `Spawner`."""
    pid = ctypes.c_int()
    words = _strings(argv)
    variables = _strings([f"{name}={value}" for name, value in env.items()])
    with _above(fds) as high, _attributes(cgroup) as attributes, _actions(cwd, high) as actions:
        with _child_limits():
            number = libc.posix_spawn(
                ctypes.byref(pid), os.fsencode(path), actions, attributes, words, variables
            )
        _done(number, path)
    return pid.value


@contextmanager
def _attributes(cgroup: int | None) -> Iterator[_Buffer]:
    attributes = ctypes.create_string_buffer(_ROOM)
    signals = ctypes.create_string_buffer(_ROOM)
    _done(libc.posix_spawnattr_init(attributes))
    try:
        flags = _SETSIGDEF | _SETSIGMASK | _SETSID
        if cgroup is not None:
            flags |= _SETCGROUP
            _done(libc.posix_spawnattr_setcgroup_np(attributes, ctypes.c_int(cgroup)))
        _done(libc.posix_spawnattr_setflags(attributes, ctypes.c_short(flags)))
        libc.sigemptyset(signals)
        _done(libc.posix_spawnattr_setsigmask(attributes, signals))
        libc.sigfillset(signals)
        _done(libc.posix_spawnattr_setsigdefault(attributes, signals))
        yield attributes
    finally:
        libc.posix_spawnattr_destroy(attributes)


@contextmanager
def _actions(cwd: str, fds: Mapping[int, int]) -> Iterator[_Buffer]:
    actions = ctypes.create_string_buffer(_ROOM)
    _done(libc.posix_spawn_file_actions_init(actions))
    try:
        _done(libc.posix_spawn_file_actions_addchdir_np(actions, os.fsencode(cwd)))
        for child, ours in fds.items():
            _done(libc.posix_spawn_file_actions_adddup2(actions, ours, child))
        yield actions
    finally:
        libc.posix_spawn_file_actions_destroy(actions)


def by_fork(
    path: str,
    argv: Sequence[str],
    env: Mapping[str, str],
    *,
    cwd: str,
    fds: Mapping[int, int],
    cgroup: int | None,
) -> int:
    """See `Spawner`."""
    report, tell = os.pipe2(os.O_CLOEXEC)
    try:
        with _above({-1: tell, **fds}) as high:
            os.close(tell)
            tell = -1
            pid = os.fork()  # noqa: TID251
            if pid == 0:
                high_tell = high.pop(-1)
                _become(path, argv, env, cwd=cwd, fds=high, cgroup=cgroup, tell=high_tell)
        number = os.read(report, 16)
    finally:
        os.close(report)
        if tell >= 0:
            os.close(tell)
    if number:
        os.waitpid(pid, 0)
        raise error(int(number), path)
    return pid


def in_child(action: Callable[[], None]) -> int:
    """Run `action` in a copy of this process, which then ends: 0, or 1 when it raised. Returns its
    pid, the caller's to wait for. For what may block for ever."""
    pid = os.fork()  # noqa: TID251
    if pid == 0:
        _run(action)
    return pid


def sibling(action: Callable[[], None], *, inside: int | None, first: bool) -> None:
    """As `in_child`, but the copy is a child of our parent, in the pid namespace of the process of
    the pidfd `inside`, or in ours. With `first` it is the first process,
    the init, of a new pid namespace: below that of the process of the pidfd `inside`, or below
    ours. It may fail without our seeing it: let it tell."""
    with _births_in_own_again():
        if inside is not None:
            namespace.enter(inside, Namespace.PID)
        if first and inside is not None:
            # A pid namespace is made by a process of the one above it, and by nobody else.
            _clone_sibling(lambda: _first_sibling(action))
        elif first:
            _first_sibling(action)
        else:
            _clone_sibling(action)


def _first_sibling(action: Callable[[], None]) -> None:
    namespace.unshare(Namespace.PID)
    _clone_sibling(action)


@contextmanager
def _births_in_own_again() -> Iterator[None]:
    own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield
    finally:
        namespace.enter(own, Namespace.PID)
        os.close(own)


def _clone_sibling(action: Callable[[], None]) -> None:
    """fork(2), but the child is our parent's. Python's preparations for a fork are for threads,
    and there are none; ours were made for this process, which is a child of `in_child` itself. What
    is not done again costs the child no memory."""
    number = ctypes.c_long(_CLONE[os.uname().machine])
    flags = ctypes.c_ulong(_CLONE_PARENT | signal.SIGCHLD)
    zero = ctypes.c_ulong(0)
    if check(libc.syscall(number, flags, zero, zero, zero, zero)) == 0:
        _end_with(action)


def _run(action: Callable[[], None]) -> NoReturn:
    """In the child: never returns, never raises."""

    def prepared() -> None:
        # A collection would write to every page that we share with the parent.
        gc.disable()
        # The parent's handlers and its wakeup pipe are not ours.
        signal.set_wakeup_fd(-1)
        _default_signals()
        action()

    _end_with(prepared)


def _end_with(action: Callable[[], None]) -> NoReturn:
    code = 1
    try:
        action()
        code = 0
    finally:
        os._exit(code)


def close_but(*kept: int) -> None:
    """In a child of `in_child`: all descriptors but these; negative ones are none."""
    start = 0
    for fd in sorted(fd for fd in kept if fd >= 0):
        # closerange(0, 0) would close all.
        if start < fd:
            os.closerange(start, fd)
        start = fd + 1
    os.closerange(start, _DESCRIPTORS)


def take(fds: Mapping[int, int], *kept: int) -> list[int]:
    """In a child of `in_child`: these descriptors under the child's numbers, and those `kept` under
    numbers that are returned, until it executes. No others are left."""
    copies = [_copy_above(fd) if fd >= 0 else fd for fd in kept]
    with _above(fds) as high:
        for child, ours in high.items():
            os.dup2(ours, child)
    close_but(*fds, *copies)
    return copies


def become(path: str, argv: Sequence[str], env: Mapping[str, str], *, cwd: str) -> NoReturn:
    """In a child of `in_child`: execute; `path` without a slash is looked for. OSError."""
    os.chdir(cwd)
    with _child_limits():
        os.execvpe(path, list(argv), env)


def _become(
    path: str,
    argv: Sequence[str],
    env: Mapping[str, str],
    *,
    cwd: str,
    fds: Mapping[int, int],
    cgroup: int | None,
    tell: int,
) -> NoReturn:
    """In the child: never returns, never raises."""
    try:
        os.setsid()
        if cgroup is not None:
            procs = os.open("cgroup.procs", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, dir_fd=cgroup)
            os.write(procs, f"{os.getpid()}\n".encode())
        _default_signals()
        os.chdir(cwd)
        for child, ours in fds.items():
            os.dup2(ours, child)
        with _child_limits():
            os.execve(path, list(argv), env)
    except OSError as failure:
        os.write(tell, str(failure.errno).encode())
    except BaseException:
        os.write(tell, b"22")
    finally:
        os._exit(127)


def _default_signals() -> None:
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


@contextmanager
def _above(fds: Mapping[int, int]) -> Iterator[dict[int, int]]:
    """Copies that no number of the child's can overwrite."""
    copies: dict[int, int] = {}
    try:
        for child, ours in fds.items():
            copies[child] = _copy_above(ours)
        yield copies
    finally:
        for copy in copies.values():
            os.close(copy)


def _copy_above(fd: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, CHILD_DESCRIPTORS)


@contextmanager
def _child_limits() -> Iterator[None]:
    """What the child inherits. Descriptors of ours above the limit stay open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, FILES), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _strings(values: Sequence[str]) -> ctypes.Array[ctypes.c_char_p]:
    encoded = [os.fsencode(value) for value in values]
    return (ctypes.c_char_p * (len(encoded) + 1))(*encoded, None)


def _done(number: int, filename: str | None = None) -> None:
    """These calls return an errno."""
    if number:
        raise error(number, filename)

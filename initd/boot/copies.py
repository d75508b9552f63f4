"""What may take long, or for ever, is done in a copy of PID 1, which tells of it by a pipe."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final

from initd.linux import spawn
from initd.values import NamedTuple

CGROUP: Final = "/sys/fs/cgroup/auraed/hardware"
"""Where copies are, if there is one."""
# As much as a pipe holds: who listens only after the end is not waited for.
_LIMIT: Final = 64 * 1024

Tell = Callable[[str], None]


class Copy(NamedTuple):
    """At work; it is the caller's to wait for. What it tells is read by `told` or `lines`, once."""

    pid: int
    pipe: int


def start(work: Callable[[Tell], None]) -> Copy:
    """OSError. A copy whose work raises has told what it has told."""
    read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def tell(text: str) -> None:
        os.write(write, text.encode()[:_LIMIT])

    def run() -> None:
        with suppress(OSError), open(f"{CGROUP}/cgroup.procs", "w") as procs:
            procs.write(str(os.getpid()))
        work(tell)

    try:
        pid = spawn.in_child(run)
    except OSError:
        os.close(read)
        raise
    finally:
        os.close(write)
    return Copy(pid, read)


def told(pipe: int) -> str:
    """What a copy told that has ended."""
    try:
        return os.read(pipe, _LIMIT).decode(errors="replace")
    except BlockingIOError:
        return ""
    finally:
        os.close(pipe)


def lines(copy: Copy, seconds: float, more: float) -> Iterator[str]:
    """What it tells, until it has ended, which is waited for here.

    TimeoutError: it has told nothing for `seconds`, or for `more` after it had told something. It
    is killed then, but may be where no signal reaches it."""
    import select

    waiting = b""
    deadline = time.monotonic() + seconds
    try:
        while select.select([copy.pipe], [], [], max(deadline - time.monotonic(), 0))[0]:
            if not (data := os.read(copy.pipe, _LIMIT)):
                os.waitpid(copy.pid, 0)
                return
            *whole, waiting = (waiting + data).split(b"\n")
            yield from (line.decode(errors="replace") for line in whole)
            deadline = time.monotonic() + more
    finally:
        os.close(copy.pipe)
    with suppress(OSError):
        os.kill(copy.pid, signal.SIGKILL)
    raise TimeoutError

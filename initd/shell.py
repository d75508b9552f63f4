"""The debug profile's root shells, one on each console of the machine. No other image has them."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from initd.linux.spawn import Spawner
from initd.log import Log
from initd.loop import Loop
from initd.processes.children import Children, Ending

_ACTIVE: Final = Path("/sys/class/tty/console/active")
_CGROUP: Final = Path("/sys/fs/cgroup/auraed/shell")
# Who opens a terminal as the leader of a session without one has it for job control.
_COMMAND: Final = """
exec <>"$1" >&0 2>&1 || exit
echo
echo "DEBUG IMAGE: whoever sits at this console is root"
exec sh -l
"""
_ENVIRONMENT: Final = {
    "HOME": "/root",
    "PATH": "/usr/bin",
    "PS1": "debug \\h:\\w# ",
    "TERM": "linux",
}
_AGAIN_SECONDS: Final = 1.0


def consoles(active: str) -> list[str]:
    """Terminals of the consoles that the kernel names, the last one first. `tty0` stands for the
    virtual terminal that is seen, and the first one is at boot."""
    names = ["tty1" if name == "tty0" else name for name in reversed(active.split())]
    return [f"/dev/{name}" for name in names if name != "ttynull"]


class Shells:
    """They are started again when they end."""

    def __init__(self, loop: Loop, children: Children, spawner: Spawner, log: Log) -> None:
        self._loop = loop
        self._children = children
        self._spawner = spawner
        self._log = log

    def start(self) -> str:
        """Start one on each; returns where. Raises OSError."""
        terminals = consoles(_ACTIVE.read_text())
        _CGROUP.mkdir(parents=True, exist_ok=True)
        for terminal in terminals:
            self._start(terminal)
        return " ".join(terminals)

    def _start(self, terminal: str) -> None:
        cgroup = os.open(_CGROUP, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        nothing = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        try:
            pid = self._spawner(
                "/bin/sh",
                ["sh", "-c", _COMMAND, "sh", terminal],
                _ENVIRONMENT,
                cwd="/",
                fds=dict.fromkeys(range(3), nothing),
                cgroup=cgroup,
            )
        finally:
            os.close(nothing)
            os.close(cgroup)
        self._children.add(pid, self._restart(terminal))

    def _restart(self, terminal: str) -> Callable[[Ending], None]:
        def later(_: Ending) -> None:
            self._loop.later(_AGAIN_SECONDS, again)

        def again() -> None:
            try:
                self._start(terminal)
            except OSError as e:
                self._log.error(f"debug shell on {terminal}: cannot start: {e.strerror}")

        return later

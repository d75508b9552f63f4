"""Whether one of some processes listens at an address, as the kernel's tables in /proc tell.

proc_pid_net(5): in `tcp` and `tcp6` the second field is `ADDRESS:PORT` in hexadecimal, the fourth
the state, 0A where it listens, the tenth the inode. In `unix` the fourth is the flags (10000: it
listens), the seventh the inode, the eighth the name.

The kernel prints names of Unix sockets as they are, newlines too: who binds one writes what looks
like lines, into a table that others share. What is no line is left out; one that looks like one
counts for nothing unless a process that is asked about has that very socket open.
"""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

_LISTEN: Final = "0A"
_ACCEPTS: Final = 0x10000
# Kernel pointer, references, protocol, flags, type, state, inode, name.
_UNIX: Final = (
    r"\S+: [0-9A-F]{8} [0-9A-F]{8} ([0-9A-F]{8}) [0-9A-F]{4} [0-9A-F]{2} +([0-9]{1,20}) (.+)"
)
_SOCKET: Final = r"socket:\[(\d+)\]"


def listens(pids: Iterable[int], address: str, proc: Path = Path("/proc")) -> bool:
    """`address` is a TCP port or the path of a Unix socket. Processes may come and go meanwhile.

    They share a network namespace, or those that do not are of no interest."""
    living = list(pids)
    for pid in living:
        with suppress(OSError):
            inodes = set(_inodes(proc / str(pid) / "net", address))
            return bool(inodes) and any(inodes & _held(proc / str(one)) for one in living)
    return False


def _inodes(net: Path, address: str) -> Iterator[str]:
    if address.startswith("/"):
        for line in _lines(net / "unix"):
            match = re.fullmatch(_UNIX, line)
            if match and match[3] == address and int(match[1], 16) & _ACCEPTS:
                yield match[2]
        return
    for table in ("tcp", "tcp6"):
        for line in _lines(net / table):
            fields = line.split()
            port = int(fields[1].rpartition(":")[2], 16)
            if fields[3] == _LISTEN and port == int(address):
                yield fields[9]


def _lines(table: Path) -> list[str]:
    try:
        # Names may hold all that Python, but not the kernel, takes for the end of a line.
        return table.read_bytes().decode(errors="replace").split("\n")[1:-1]
    except FileNotFoundError:  # a kernel without IPv6
        return []


def _held(process: Path) -> set[str]:
    """Inodes of the sockets that a process has open."""
    held = set()
    with suppress(OSError):
        for entry in os.scandir(process / "fd"):
            with suppress(OSError):
                if match := re.fullmatch(_SOCKET, os.readlink(entry.path)):  # noqa: PTH115
                    held.add(match[1])
    return held

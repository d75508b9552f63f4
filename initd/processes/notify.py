"""The socket of sd_notify(3): what processes say of themselves, and which process says it.

Its man page states the format: assignments, one a line. Descriptors that come along are closed at
once, which is what a sender of BARRIER=1 waits for.
"""

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from initd.linux import peer
from initd.loop import Loop
from initd.values import NamedTuple

# In the folder that an isolated cell has as its /run/aurae, so that LINK is the name everywhere.
SOCKET: Final = "/run/aurae/shared/notify"
LINK: Final = "/run/aurae/notify"

# The longest message, and of a status that which is kept.
MESSAGE_LIMIT: Final = 4096
STATUS_LIMIT: Final = 256
# So many are taken before others have their turn.
_TURN: Final = 16
_DESCRIPTORS: Final = 16


class Message(NamedTuple):
    """What is understood of a message. None: it says nothing of its status."""

    ready: bool
    status: str | None


def parse(data: bytes) -> Message:
    """What is not understood is left out: the protocol has many words that are not for us."""
    lines = data.decode(errors="replace").splitlines()
    words = dict(line.partition("=")[::2] for line in lines if "=" in line)
    status = words.get("STATUS")
    if status is not None:
        status = "".join(c for c in status[:STATUS_LIMIT] if c.isprintable())
    return Message(words.get("READY") == "1", status)


def serve(
    loop: Loop, told: "Callable[[int, Message], None]", descriptor: int | None = None
) -> "Notify":
    """Receive at the place that everybody knows; with a `descriptor` go on with that socket."""
    path, link = Path(SOCKET), Path(LINK)
    path.parent.mkdir(mode=0o755, exist_ok=True)
    notify = Notify(loop, path, told, descriptor)
    link.unlink(missing_ok=True)
    link.symlink_to(path.relative_to(link.parent))
    return notify


class Notify:
    """Receives at `path` until `close`. `told` gets the sender's pid and what it said."""

    def __init__(
        self,
        loop: Loop,
        path: Path,
        told: Callable[[int, Message], None],
        descriptor: int | None = None,
    ) -> None:
        """`descriptor` is the socket that another program of this process has made there."""
        self._loop = loop
        self._path = path
        self._told = told
        self._socket = _bind(path) if descriptor is None else socket.socket(fileno=descriptor)
        self._socket.setblocking(False)
        loop.watch(self._socket.fileno(), self._readable)

    @property
    def descriptor(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._loop.unwatch(self._socket.fileno())
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def _readable(self, _events: int) -> None:
        with suppress(BlockingIOError):
            for _ in range(_TURN):
                data, fds, whole, pid = peer.receive_from(self._socket, MESSAGE_LIMIT, _DESCRIPTORS)
                try:
                    if whole and pid:
                        self._told(pid, parse(data))
                finally:
                    peer.close(fds)


def _bind(path: Path) -> socket.socket:
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    peer.pass_credentials(receiver)
    path.unlink(missing_ok=True)
    before = os.umask(0o111)
    try:
        receiver.bind(str(path))
    finally:
        os.umask(before)
    return receiver

"""The serial console: what it has said (a file that QEMU writes), and a line to type on."""

import codecs
import fcntl
import os
import re
import select
import socket
import sys
import termios
import time
import tty
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pexpect import EOF, TIMEOUT
from pexpect.spawnbase import SpawnBase

PANIC: Final = "Kernel panic - not syncing"
# How often a console that is waited for is looked at; QEMU's end is noticed at once.
LOOK_SECONDS: Final = 0.05
LAST_LINES: Final = 15

CTRL_A: Final = b"\x01"


class LostError(Exception):
    """The machine ended or its kernel panicked, and nobody had asked for that."""


class NotSeenError(Exception):
    """The console did not say in time what was waited for."""


if TYPE_CHECKING:  # generic to the type checker only
    _SpawnBase = SpawnBase[str]
else:
    _SpawnBase = SpawnBase


class Console(_SpawnBase):
    """Expect on the console's file, from its first byte.

    The file and not the socket is read, so that no guest ever waits for a reader of its console
    and no reader is too late. `wait_end(seconds)` waits that long for QEMU's end and says whether
    it has come.
    """

    def __init__(self, file: Path, wait_end: Callable[[float], bool]) -> None:
        super().__init__(encoding="utf-8")
        self._text = codecs.getincrementaldecoder("utf-8")("replace")
        self._file = file
        self._wait_end = wait_end
        self._offset = 0

    @property
    def text(self) -> str:
        """All that the console has said so far."""
        return clean(self._file.read_bytes()) if self._file.exists() else ""

    def wait_for(self, pattern: str, timeout: float) -> re.Match[str]:
        """Read on until the pattern is seen: a regular expression whose `.` is no end of line.

        Raises `LostError` if the machine ends or panics before, `NotSeenError` after `timeout`
        seconds.
        """
        panic = re.compile(re.escape(PANIC))
        index = self.expect([re.compile(pattern), panic, EOF, TIMEOUT], timeout=timeout)
        if index == 0:
            assert isinstance(self.match, re.Match)
            return self.match
        if index == 3:
            raise NotSeenError(f"console: no {pattern!r} in {timeout:g} s; {self.last_lines()}")
        reason = "kernel panic" if index == 1 else "QEMU has ended"
        raise LostError(f"lost the machine: {reason} before {pattern!r}; {self.last_lines()}")

    def last_lines(self) -> str:
        lines = self.text.splitlines()[-LAST_LINES:]
        return "its last lines:\n" + "\n".join(lines)

    def read_nonblocking(self, size: int = 1, timeout: float | None = None) -> str:
        """What `expect` reads with: up to `size` bytes, within `timeout` seconds (-1: none)."""
        deadline = time.monotonic() + (timeout if timeout and timeout > 0 else 0)
        ended = False
        while True:
            if data := self._read(size):
                return self._text.decode(data)
            if ended:
                self.flag_eof = True
                raise EOF("the machine has ended")
            left = deadline - time.monotonic()
            if left <= 0 and timeout != -1:
                raise TIMEOUT("nothing new on the console")
            # Once more after the end: it may have written between.
            ended = self._wait_end(min(LOOK_SECONDS, max(left, 0)))
            if not ended and timeout == -1:
                raise TIMEOUT("nothing new on the console")

    def _read(self, size: int) -> bytes:
        if not self._file.exists():
            return b""
        with self._file.open("rb") as file:
            file.seek(self._offset)
            data = file.read(size)
        self._offset += len(data)
        return data


def clean(raw: bytes) -> str:
    """The text of a console: no escape sequences, plain line ends."""
    text = raw.decode(errors="replace")
    return re.sub(r"\x1b(\[[0-9;?]*[ -/]*[@-~]|[0-Z\\-~])", "", text).replace("\r", "")


def attach(line: socket.socket, file: Path, pidfd: int, offset: int = 0) -> bool:
    """Show the console on this terminal and type on it, until ctrl-a x or the machine's end.

    `line` is connected to the console's socket; `offset` is what has been shown of the file.
    Returns whether the machine has ended.
    """
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    with file.open("rb", buffering=0) as said:
        said.seek(offset)
        try:
            tty.setraw(terminal)
            return _relay(terminal, line, said.fileno(), pidfd)
        finally:
            termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _relay(terminal: int, line: socket.socket, said: int, pidfd: int) -> bool:
    waiting: list[int] = [terminal, line.fileno(), pidfd]
    escaped = False
    while True:
        while data := os.read(said, 1 << 16):
            os.write(sys.stdout.fileno(), data)
        # What comes on the socket is in the file too, maybe a moment later: hence the timeout.
        ready, _, _ = select.select(waiting, [], [], LOOK_SECONDS * 4)
        if pidfd in ready:
            while data := os.read(said, 1 << 16):
                os.write(sys.stdout.fileno(), data)
            return True
        if line.fileno() in ready and not line.recv(1 << 16):
            waiting.remove(line.fileno())
        if terminal not in ready:
            continue
        typed = os.read(terminal, 1024)
        escaped, send = after_escape(typed, escaped=escaped)
        if not typed or send is None:
            return False
        line.sendall(send)


def after_escape(typed: bytes, *, escaped: bool) -> tuple[bool, bytes | None]:
    """What to send of what was typed, None to leave; and whether the next key belongs to ctrl-a.

    ctrl-a twice sends it once.
    """
    send = b""
    for key in (bytes([value]) for value in typed):
        if escaped:
            if key in b"xX":
                return False, None
            send += CTRL_A if key == CTRL_A else CTRL_A + key
            escaped = False
        elif key == CTRL_A:
            escaped = True
        else:
            send += key
    return escaped, send


def has_terminal() -> bool:
    """Whether a person sits here: both ends are terminals, and we are in its foreground."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    foreground = fcntl.ioctl(sys.stdin.fileno(), termios.TIOCGPGRP, b"\0" * 4)
    return int.from_bytes(foreground, sys.byteorder) == os.getpgrp()

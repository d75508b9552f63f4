"""The machine's console: shown, never waited for."""

import os
from typing import Final

CONSOLE: Final = "/dev/console"
# What a slow line (a serial one carries 11 kB a second) may owe us.
_PENDING_LIMIT: Final = 64 * 1024


class Console:
    """Lines to a terminal that does not block. What it cannot take in time is dropped and counted.

    `fd` stays the caller's to close."""

    def __init__(self, fd: int, end: bytes = b"\r\n") -> None:
        self._fd = fd
        self._end = end
        self._pending = b""
        self._dropped = 0

    @property
    def pending(self) -> bool:
        """Whether `flush` should be called when the terminal is writable again."""
        return bool(self._pending)

    def write(self, line: str) -> None:
        """One line, without its end."""
        # A workload or a peer may have had a part in the text: it must not steer the terminal.
        data = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)
        self._append(data.encode(errors="replace") + self._end)
        self.flush()

    def draw(self, text: str) -> None:
        """A whole screen as it is, in the place of one that is not out yet."""
        self._pending = text.encode(errors="replace")
        self.flush()

    def flush(self) -> None:
        while self._pending:
            try:
                count = os.write(self._fd, self._pending)
            except OSError:
                # Full, or hung up: the log's file has it all.
                return
            self._pending = self._pending[count:]

    def _append(self, data: bytes) -> None:
        if len(self._pending) + len(data) > _PENDING_LIMIT:
            self._dropped += 1
            return
        if self._dropped:
            self._pending += f"({self._dropped} lines were not shown)".encode() + self._end
            self._dropped = 0
        self._pending += data


def open_console(path: str = CONSOLE) -> Console:
    """OSError when the machine has none."""
    return Console(os.open(path, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC))

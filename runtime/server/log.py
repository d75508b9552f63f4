"""The runtime's log: one line a record on stderr, which PID 1 keeps."""

import logging
import os
import sys
from typing import Final

# A line of at most PIPE_BUF bytes goes into a pipe whole or not at all: pipe(7).
MAX_LINE: Final = 4096

LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING}


class Line(logging.Formatter):
    """`level: message`, with newlines written as `\\n`."""

    def format(self, record: logging.LogRecord) -> str:
        text = f"{record.levelname.lower()}: {super().format(record)}"
        return text.replace("\n", "\\n").replace("\r", "\\r")


class Stderr(logging.Handler):
    """Writes to a descriptor that does not block; what does not fit is dropped and counted."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd
        self._dropped = 0
        os.set_blocking(fd, False)

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record)
        if self._dropped:
            line = f"{line} ({self._dropped} lines before this one were dropped)"
        data = line.encode(errors="backslashreplace")[: MAX_LINE - 1] + b"\n"
        try:
            os.write(self._fd, data)
        except OSError:
            self._dropped += 1
        else:
            self._dropped = 0


def to_stderr(level: str) -> None:
    """Send all records of `level` and above to stderr. An unknown level counts as info."""
    root = logging.getLogger()
    handler = Stderr(sys.stderr.fileno())
    handler.setFormatter(Line())
    root.handlers[:] = [handler]
    root.setLevel(LEVELS.get(level, logging.INFO))
    # asyncio says at debug level which selector it has, and nothing else that helps.
    logging.getLogger("asyncio").setLevel(logging.WARNING)

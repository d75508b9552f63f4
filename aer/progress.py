"""How far something is, on a terminal; and a question to who sits there."""

import os
import sys
import time
from contextlib import suppress
from typing import Final

from aer.errors import AerError
from aer.hostdisk import size

TERMINAL: Final = "/dev/tty"
# Seconds between two changes of the line.
_PACE: Final = 0.2
_CLEAR: Final = "\r\x1b[K"


class Progress:
    """A line on stderr that changes, where that is a terminal. Clear it before other words."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()
        self._what = ""
        self._began = self._last = 0.0

    def show(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if what != self._what:
            self._what, self._began, self._last = what, now, 0.0
        if not self._shown or now - self._last < _PACE:
            return
        self._last = now
        rate = done / (now - self._began) if now > self._began else 0.0
        share = 100 * done // total if total else 0
        line = f"{what}  {share:3} %  {size(done)} of {size(total)}  {size(int(rate))}/s"
        print(f"{_CLEAR}{line}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        if self._shown:
            print(_CLEAR, end="", file=sys.stderr, flush=True)


def confirm(question: str, *, yes: bool) -> None:
    """Ask who sits at the terminal, even where stdin is something else. AerError unless the answer
    is yes."""
    if yes:
        return
    with suppress(OSError):
        terminal = os.open(TERMINAL, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        with os.fdopen(terminal, "rb") as answers:
            os.write(terminal, f"{question} [y/N] ".encode())
            if answers.readline().strip().lower() in (b"y", b"yes"):
                return
        raise AerError("nothing was changed")
    raise AerError("nobody is here to be asked, so nothing was changed", "--yes is the answer")

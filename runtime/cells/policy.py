"""When an executable is started, when it counts as ready, and whether it is started again: values.

Times are seconds. What is None was not given, and its default counts.
"""

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final, Self

from initd.errors import InvalidArgument
from initd.values import NamedTuple

# A crash loop must not become the node's main work.
MIN_BACKOFF: Final = 0.1
MAX_TIME: Final = 86_400.0
MAX_LIMIT: Final = 1_000
MAX_AFTER: Final = 64

DEFAULT_BACKOFF: Final = 1.0
DEFAULT_MAX_BACKOFF: Final = 60.0
DEFAULT_WINDOW: Final = 600.0

# unix(7): a path of 107 bytes and a NUL.
MAX_SOCKET: Final = 107
_PORT: Final = r"[0-9]{1,5}"


class Mode(StrEnum):
    """After which ends an executable is started again."""

    NEVER = "never"
    ON_FAILURE = "on_failure"
    ALWAYS = "always"


class Kind(StrEnum):
    """What makes an executable ready."""

    STARTED = "started"
    EXIT = "exit"
    LISTEN = "listen"
    NOTIFY = "notify"


class Restart(NamedTuple):
    """Whether and how soon an executable is started again when it has ended."""

    mode: Mode = Mode.NEVER
    backoff: float | None = None
    max_backoff: float | None = None
    limit: int | None = None
    window: float | None = None

    def check(self, where: str) -> None:
        given = {name: value for name, value in self._asdict().items() if value is not None}
        del given["mode"]
        if self.mode is Mode.NEVER and given:
            raise InvalidArgument(
                f"{where}.{min(given)}: means nothing without restarts; give a mode, on failure or "
                "always, or leave it out"
            )
        _bounded(self.backoff, f"{where}.backoff", MIN_BACKOFF, MAX_TIME)
        _bounded(self.max_backoff, f"{where}.max_backoff", MIN_BACKOFF, MAX_TIME)
        _bounded(self.window, f"{where}.window", MIN_BACKOFF, MAX_TIME)
        if self.most < self.first:
            raise InvalidArgument(
                f"{where}.max_backoff: {self.most:g} s is below the first backoff, "
                f"{self.first:g} s; give that or more"
            )
        if self.limit is not None and not 1 <= self.limit <= MAX_LIMIT:
            raise InvalidArgument(
                f"{where}.limit: {self.limit} is not 1 to {MAX_LIMIT}; leave it out for no limit"
            )
        if self.window is not None and self.limit is None:
            raise InvalidArgument(f"{where}.window: goes with a limit; give one, or leave it out")

    @property
    def first(self) -> float:
        """Seconds before the first restart."""
        if self.backoff is not None:
            return self.backoff
        return min(DEFAULT_BACKOFF, self.max_backoff or DEFAULT_BACKOFF)

    @property
    def most(self) -> float:
        """Seconds before a restart, at most. A run that lasted as long was a good one."""
        if self.max_backoff is not None:
            return self.max_backoff
        return max(DEFAULT_MAX_BACKOFF, self.backoff or 0)

    @property
    def within(self) -> float:
        """The window of the limit."""
        return DEFAULT_WINDOW if self.window is None else self.window


class Readiness(NamedTuple):
    """What an executable must do until others may rely on it."""

    kind: Kind = Kind.STARTED
    listen: str = ""
    """Kind LISTEN: a TCP port, or the absolute path of a Unix socket."""
    timeout: float | None = None

    def check(self, where: str) -> None:
        if self.kind is Kind.LISTEN:
            _address(self.listen, f"{where}.listen")
        elif self.listen:
            raise InvalidArgument(f"{where}.listen: goes with kind LISTEN only; leave it out")
        if self.timeout is not None and self.kind is Kind.STARTED:
            raise InvalidArgument(
                f"{where}.timeout: what is ready once started waits for nothing; give a kind"
            )
        _bounded(self.timeout, f"{where}.timeout", MIN_BACKOFF, MAX_TIME)


class Policy(NamedTuple):
    """All of it together."""

    restart: Restart = Restart()
    after: tuple[str, ...] = ()
    """Names of executables in the same cell, or CELL/NAME of one in a cell below."""
    readiness: Readiness = Readiness()

    def check(self, name: str) -> None:
        """`name` is the executable's own."""
        self.restart.check("executable.restart")
        self.readiness.check("executable.readiness")
        if self.readiness.kind is Kind.EXIT and self.restart.mode is Mode.ALWAYS:
            raise InvalidArgument(
                "executable.readiness: EXIT is never reached where every end is followed by a "
                "restart; restart on failure, or never"
            )
        if len(self.after) > MAX_AFTER:
            raise InvalidArgument(f"executable.after: names {len(self.after)}; at most {MAX_AFTER}")
        if name in self.after:
            raise InvalidArgument(f"executable.after: {name} would wait for itself; leave it out")

    @property
    def supervised(self) -> bool:
        """Whether there is anything to do beside starting it once."""
        return self != UNSUPERVISED

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`. KeyError, TypeError or ValueError: it was none."""
        restart, readiness = value["restart"], value["readiness"]
        return cls(
            restart=Restart(**{**restart, "mode": Mode(restart["mode"])}),
            after=tuple(value["after"]),
            readiness=Readiness(**{**readiness, "kind": Kind(readiness["kind"])}),
        )


UNSUPERVISED: Final = Policy()


def _bounded(value: float | None, where: str, least: float, most: float) -> None:
    if value is not None and not least <= value <= most:
        raise InvalidArgument(f"{where}: {value:g} s is not within {least:g} s to {most:g} s")


def _address(text: str, where: str) -> None:
    if text.startswith("/"):
        if len(text.encode()) > MAX_SOCKET or "\0" in text:
            raise InvalidArgument(f"{where}: is no path of a socket; it takes {MAX_SOCKET} bytes")
    elif not re.fullmatch(_PORT, text) or not 1 <= int(text) <= 65535:
        raise InvalidArgument(
            f"{where}: {text[:80]!a} is no address; give a TCP port, or the absolute path of a "
            "Unix socket"
        )

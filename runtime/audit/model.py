"""Events of the audit log, and which of them somebody wants to see."""

from collections.abc import Callable
from enum import Enum
from typing import Final

from initd.values import NamedTuple
from runtime.audit import chain

# Characters of each text of an event: a caller chooses some of them.
MOST: Final = 1024


class Kind(Enum):
    """What an event tells of."""

    DECISION = "decision"
    START = "start"
    """The API started; a start without a stop before it tells of a crash."""
    STOP = "stop"
    SEGMENT = "segment"
    """A new file was begun; what is older than `first` was removed."""
    GAP = "gap"
    """Events `first` to `last` could not be kept; the last of them had the hash `previous`."""
    BROKEN = "broken"
    """The log was not as it had been written; the chain begins anew."""


class Event(NamedTuple):
    """A line of the log. `time`: nanoseconds since the epoch; `boot`: the kernel's ID of it."""

    seq: int
    time: int
    boot: str
    kind: Kind
    who: str
    method: str
    object: str
    allowed: bool
    rule: str
    reason: str
    peer: str
    first: int
    last: int
    previous: str
    hash: str

    @classmethod
    def parse(cls, line: bytes) -> "Event":
        """ValueError: it is no event."""
        fields, _, sealed = chain.parse(line)
        missing = {"first": 0, "last": 0, "previous": ""}
        return cls(**{**missing, **fields, "kind": Kind(fields["kind"]), "hash": sealed})


class Head(NamedTuple):
    """The last event: whoever knows it can tell whether the log was changed up to there."""

    seq: int = 0
    hash: str = chain.GENESIS


class Filter(NamedTuple):
    """Which events are wanted. Patterns are those of a shell; empty: all."""

    who: str = ""
    method: str = ""
    denied: bool = False

    def matches(self) -> Callable[[Event], bool]:
        """A function that tells."""
        if not any(self):
            return lambda _: True
        from fnmatch import fnmatchcase

        def wanted(event: Event) -> bool:
            return not (
                (self.denied and (event.allowed or event.kind is not Kind.DECISION))
                or (self.who and not fnmatchcase(event.who, self.who))
                or (self.method and not _method(event.method, self.method, fnmatchcase))
            )

        return wanted


def _method(method: str, pattern: str, matches: Callable[[str, str], bool]) -> bool:
    """The full name, or the last word or words of it: `Allocate`, `CellService/*`."""
    return matches(method, pattern) or matches(method, f"*[./]{pattern}")

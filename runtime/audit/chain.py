"""The chain of an audit log: how a line is written, and what shows that lines were changed.

A segment is a file of lines. Its first is the header: from which event on it goes, and the hash of
the event before. Each other line is an event: a JSON object whose last key is `hash`, the SHA-256
of the hash before it and of the line without its own, both as they are written.

Standard library only and no classes of ours: the command line client verifies with this too.
"""

import json
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, Final

# The hash before the first event of all, and before one that begins anew after tampering.
GENESIS: Final = "0" * 64

# What every event has, with its type, in the order in which it is written.
FIELDS: Final = {
    "seq": int,
    "time": int,
    "boot": str,
    "kind": str,
    "who": str,
    "method": str,
    "object": str,
    "allowed": bool,
    "rule": str,
    "reason": str,
    "peer": str,
}
# What only events about the log itself have.
SPECIAL: Final = {"first": int, "last": int, "previous": str}

# Where there are more faults, one more says nothing.
MOST_FAULTS: Final = 20

_ENCODE: Final = json.JSONEncoder(separators=(",", ":")).encode
_MOST: Final = 1 << 63
_TAIL: Final = len(',"hash":""}') + len(GENESIS)


@cache
def sha256() -> Callable[[bytes], Any]:
    """The interpreter's own: hashlib would load all of OpenSSL for it."""
    try:
        from _sha2 import sha256  # type: ignore[import-not-found, unused-ignore] # from 3.12 on
    except ImportError:
        from hashlib import sha256
    return sha256  # type: ignore[no-any-return, unused-ignore]


def body(fields: dict[str, Any]) -> str:
    """The line of an event without its hash. `fields` are in their order; empty special ones are
    left out."""
    return _ENCODE(fields)


def seal(previous: str, text: str) -> str:
    """The hash of the event that follows the one with the hash `previous`."""
    digest: str = sha256()(f"{previous}{text}".encode("ascii")).hexdigest()
    return digest


def line(text: str, sealed: str) -> bytes:
    return f'{text[:-1]},"hash":"{sealed}"}}\n'.encode("ascii")


def parse(data: bytes) -> tuple[dict[str, Any], str, str]:
    """Fields, body and hash of a line. ValueError: it is no event."""
    text = data.decode("ascii").removesuffix("\n")
    try:
        fields = json.loads(text)
    except RecursionError as e:
        raise ValueError("it is nested too deeply") from e
    if not isinstance(fields, dict) or text[-_TAIL : -len(GENESIS) - 2] != ',"hash":"':
        raise ValueError("it does not end with a hash")
    sealed = fields.pop("hash")
    for name, kind in FIELDS.items():
        if type(fields.get(name)) is not kind:
            raise ValueError(f"{name} is missing, or of another type")
    for name in fields.keys() - FIELDS.keys():
        if name not in SPECIAL or type(fields[name]) is not SPECIAL[name]:
            raise ValueError(f"{name!r} is unknown, or of another type")
    for name, value in fields.items():
        if isinstance(value, int) and not 0 <= value < _MOST:
            raise ValueError(f"{name} is out of range")
    return fields, text[:-_TAIL] + "}", sealed


def header(after: int, previous: str) -> bytes:
    """The first line of a segment whose events follow number `after`, which has that hash."""
    return f"{_ENCODE({'audit': 1, 'after': after, 'previous': previous})}\n".encode("ascii")


def parse_header(data: bytes) -> tuple[int, str]:
    """`after` and `previous`. ValueError: it is no header."""
    try:
        fields = json.loads(data)
    except RecursionError as e:
        raise ValueError("it is nested too deeply") from e
    match fields:
        case {"audit": 1, "after": int(after), "previous": str(previous)} if len(fields) == 3:
            if 0 <= after < _MOST:
                return after, previous
    raise ValueError("is no header of an audit log")


class Verifier:
    """Is fed a log from its first line to its last, and says what is wrong with it.

    It begins with the first header that it is given, or after an event that is known already.
    `known`: the number and the hash of an event that must be in the log.
    """

    def __init__(
        self,
        known: Iterable[tuple[int, str]] = (),
        *,
        after: tuple[int, str] | None = None,
    ) -> None:
        self.seq, self.hash = after or (0, GENESIS)
        self.first: int | None = after[0] + 1 if after else None
        """Number of the first event that there should be."""
        self.events = 0
        self.lost = 0
        """Events that the node itself says it could not keep."""
        self.faults: list[str] = []
        self.unchecked: list[int] = []
        """Known events that are no longer kept."""
        self._known: dict[int, set[str]] = {}
        for seq, sealed in known:
            self._known.setdefault(seq, set()).add(sealed)
        self._kept_from = 1
        self._holes: list[tuple[int, int, str]] = []

    def begin(self, after: int, previous: str) -> None:
        """What follows are the events after number `after`, which has the hash `previous`."""
        if self.first is None:
            self.first = after + 1
            self._compare(after, previous)
        elif (after, previous) == (self.seq, self.hash):
            return
        elif after > self.seq:
            # A later event must tell of them, or somebody took them out.
            self._holes.append((self.seq + 1, after, previous))
        elif previous != GENESIS:
            self._fault(f"event {after + 1}: its segment does not go on from event {self.seq}")
        self.seq, self.hash = after, previous

    def event(self, data: bytes) -> None:
        """The next line. One that is no event, and whatever does not fit, is a fault."""
        try:
            fields, text, sealed = parse(data)
        except ValueError as e:
            self._fault(f"after event {self.seq}: a line is no event: {e}")
            return
        seq = fields["seq"]
        if seq != self.seq + 1:
            self._fault(
                f"event {seq}: follows event {self.seq}; lines were taken out, or put elsewhere"
            )
        elif seal(self.hash, text) != sealed:
            self._fault(f"event {seq}: was changed, or does not belong to the events before it")
        self.seq, self.hash = seq, sealed
        self.events += 1
        self._compare(seq, sealed)
        self._special(fields)

    def finish(self, *, part: bool = False) -> None:
        """There are no more lines. `part`: the beginning of what the node keeps may be missing."""
        for first, last, _ in self._holes:
            self._fault(f"events {first} to {last}: are missing, and no event says why")
        begins = self.first or 1
        if begins > self._kept_from and not part:
            self._fault(
                f"events {self._kept_from} to {begins - 1}: are missing; the node had kept them"
            )
        for seq in sorted(self._known):
            if seq > self.seq:
                self._fault(f"events {self.seq + 1} to {seq}: were taken off the end")
            elif seq > 0:
                self.unchecked.append(seq)

    def _compare(self, seq: int, sealed: str) -> None:
        if self._known.pop(seq, {sealed}) != {sealed}:
            self._fault(f"event {seq}: is not the one that is known; the log was written anew")

    def _special(self, fields: dict[str, Any]) -> None:
        match fields["kind"]:
            case "segment":
                self._kept_from = max(self._kept_from, fields.get("first", 0))
            case "gap":
                hole = fields.get("first", 0), fields.get("last", 0), fields.get("previous", "")
                self.lost += hole[1] - hole[0] + 1
                if hole in self._holes:
                    self._holes.remove(hole)
            case "broken":
                self._fault(f"event {fields['seq']}: the log was found broken: {fields['reason']}")
                # What is missing before it is what it tells of.
                self._holes = [hole for hole in self._holes if hole[1] != fields["seq"] - 1]

    def _fault(self, text: str) -> None:
        if len(self.faults) < MOST_FAULTS:
            self.faults.append(text)

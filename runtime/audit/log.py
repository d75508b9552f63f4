"""The audit log: decisions become events of a chain, in files of a bounded size.

An event is written before the call that it is about goes on, and made safe on the disk within
`SYNC` seconds. A disk that cannot be written, or is slow, holds nobody up: events wait in memory,
beyond `WAITING` the oldest are dropped, and an event tells of those once it can be written again.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from initd.errors import Unavailable
from initd.values import NamedTuple
from runtime.audit import chain
from runtime.audit.decided import Decided
from runtime.audit.model import MOST, Event, Head, Kind
from runtime.audit.reader import Batch, Cursor
from runtime.audit.segments import Segments

log = logging.getLogger(__name__)

SIZE: Final = 64 << 20
# Without a data disk the log is in memory.
SIZE_IN_MEMORY: Final = 4 << 20

# Bytes of events that wait for the disk: some 5000 events.
WAITING: Final = 2 << 20
# Of those, how many a reader gets at once: with the longest texts they fit in a message.
AT_ONCE: Final = 128
# Seconds until what was written is made safe on the disk.
SYNC: Final = 1.0
# Seconds until a disk that failed is tried again.
AGAIN: Final = 1.0
# A write that takes longer has the next events wait ten times as long in memory.
SLOW: Final = 0.05

_NODE: Final = "auraed"
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")


class Waiting(NamedTuple):
    """An event that is not written yet."""

    before: Head
    head: Head
    line: bytes


class AuditLog:
    """For one thread. Nothing is opened before the first event, or `run`."""

    def __init__(self, folder: Path, *, size: int = SIZE, waiting: int = WAITING) -> None:
        self._folder = folder
        self._segments = Segments(folder, size)
        self._most = waiting
        self._boot = ""
        self._opened = False
        self._closed = False
        self._failed = False
        self._why = ""
        self._resume = 0.0
        self._head = Head()
        self._written = Head()
        self._unsafe = False
        self._waiting: deque[Waiting] = deque()
        self._size = 0
        self._sleepers: set[asyncio.Event] = set()
        self._later: list[tuple[int, Callable[[], Decided]]] = []

    @property
    def head(self) -> Head:
        """The last event. Raises Unavailable."""
        self._need()
        return self._head

    def record(
        self,
        *,
        who: str,
        method: str,
        object: str,  # noqa: A002 # what the event calls it
        allowed: bool,
        rule: str,
        reason: str = "",
        peer: str = "",
    ) -> None:
        """Write a decision down. Never raises, and waits for no disk."""
        self._catch_up()
        self._decided(
            time.time_ns(),
            Decided(
                who=who,
                method=method,
                object=object,
                allowed=allowed,
                rule=rule,
                reason=reason,
                peer=peer,
            ),
        )
        self._flush()

    def record_soon(self, decided: Callable[[], Decided]) -> None:
        """As `record`, in the loop's next turn: for what only looks, which is not to wait for it.
        Of these a crash may take those of that moment."""
        if not self._later:
            asyncio.get_running_loop().call_soon(self._catch_up)
        self._later.append((time.time_ns(), decided))

    def _catch_up(self) -> None:
        if not self._opened:
            self.open()
        later, self._later = self._later, []
        for at, decided in later:
            self._decided(at, decided())
        if later:
            self._flush()

    def _decided(self, at: int, decided: Decided) -> None:
        self._chain(
            {
                "kind": Kind.DECISION.value,
                "who": decided.who[:MOST],
                "method": decided.method[:MOST],
                "object": decided.object[:MOST],
                "allowed": decided.allowed,
                "rule": decided.rule[:MOST],
                "reason": decided.reason[:MOST],
                "peer": decided.peer[:MOST],
            },
            at,
        )
        # Here only: an event that tells of a gap must not make the next.
        while self._size > self._most and len(self._waiting) > 1:
            self._size -= len(self._waiting.popleft().line)

    def open(self) -> None:
        """Go on with the log of an earlier run. Does nothing if that was done."""
        if self._opened or self._closed or time.monotonic() < self._resume:
            return
        with suppress(OSError):
            self._boot = _BOOT.read_text().strip()
        try:
            found = self._segments.recover()
        except OSError as e:
            self._fail(e)
            return
        waiting, self._waiting, self._size = self._waiting, deque(), 0
        self._opened = True
        self._head = self._written = found.head
        if found.fault:
            log.error("audit log %s: %s; it begins anew", self._folder, found.fault)
            self._note(Kind.BROKEN, found.fault)
        self._note(Kind.START)
        for event in waiting:
            # Their numbers and hashes were those of a log that was not known yet.
            fields, _, _ = chain.parse(event.line)
            self._chain({k: v for k, v in fields.items() if k not in ("seq", "boot")})
        self._flush()

    async def run(self) -> None:
        """Make safe what is written, over and over, and try a disk that failed again."""
        self.open()
        safe = Head()
        while True:
            if self._waiting or not self._opened:
                self.open()
                self._flush()
            if self._written != safe:
                head = self._written
                try:
                    if snapshot := self._segments.snapshot(head):
                        await asyncio.to_thread(self._segments.sync, snapshot)
                    safe = head
                    self._unsafe = False
                except OSError as e:
                    self._warn(e)
            await asyncio.sleep(SYNC)

    def close(self) -> None:
        """Write that the log ends here, and make it safe."""
        self._catch_up()
        self._note(Kind.STOP)
        self._resume = 0.0
        self._flush()
        try:
            if self._opened and (snapshot := self._segments.snapshot(self._written)):
                self._segments.sync(snapshot)
        except OSError as e:
            self._warn(e)
        self._segments.close()
        self._closed = True

    async def watch(
        self, since: int = 0, *, follow: bool = True, only_new: bool = False
    ) -> AsyncIterator[Batch]:
        """Events from number `since` on; 0: from the first that is kept. A reader that is so slow
        that events are removed before it comes to them is told how many. Raises Unavailable."""
        self._need()
        wake = asyncio.Event()
        self._sleepers.add(wake)
        start = self._head.seq + 1 if only_new else since
        cursor = Cursor(self._segments, start)
        try:
            while True:
                wake.clear()
                while batch := cursor.read(self._written) or self._unwritten(cursor):
                    if batch.events or batch.damage:
                        yield batch
                    # Each takes a millisecond or more: others have their turn.
                    await asyncio.sleep(0)
                if not follow:
                    return
                await wake.wait()
        finally:
            self._sleepers.discard(wake)
            cursor.close()

    def _need(self) -> None:
        """Nobody knows the numbers of new events before the log of earlier runs was opened."""
        self._catch_up()
        if not self._opened:
            raise Unavailable(f"audit log {self._folder}: {self._why}; mend it, events are kept")

    def _unwritten(self, cursor: Cursor) -> Batch | None:
        """What waits for the disk, for a reader who has come to the end of the files."""
        events = [w for w in self._waiting if w.head.seq >= cursor.next][:AT_ONCE]
        if not events:
            return None
        lost = max(0, events[0].head.seq - cursor.next) if cursor.next else 0
        cursor.next = events[-1].head.seq + 1
        parsed = [Event.parse(event.line) for event in events]
        return Batch(events[0].before.hash, parsed, lost)

    def _note(self, kind: Kind, reason: str = "", **special: object) -> None:
        """An event about the log itself."""
        names = ("who", "method", "object", "allowed", "rule", "reason", "peer")
        values = (_NODE, "", "", True, "", reason[:MOST], "")
        self._chain({"kind": kind.value, **dict(zip(names, values, strict=True)), **special})

    def _chain(self, fields: dict[str, object], at: int = 0) -> None:
        """Put an event at the end of the chain, and of what waits to be written."""
        if self._closed:
            return
        before = self._head
        seq = before.seq + 1
        text = chain.body({"seq": seq, "time": at or time.time_ns(), "boot": self._boot, **fields})
        sealed = chain.seal(before.hash, text)
        self._head = Head(seq, sealed)
        self._waiting.append(Waiting(before, self._head, chain.line(text, sealed)))
        self._size += len(self._waiting[-1].line)
        for wake in self._sleepers:
            wake.set()

    def _flush(self) -> None:
        """Write what waits, unless the disk failed a moment ago."""
        if not self._opened or (self._resume and time.monotonic() < self._resume):
            return
        began = time.monotonic()
        try:
            trim = False
            while self._waiting:
                event = self._waiting.popleft()
                try:
                    trim |= self._put(event)
                except OSError:
                    self._waiting.appendleft(event)
                    raise
                self._written = event.head
                self._size -= len(event.line)
            if trim:
                self._segments.trim(self._written)
        except OSError as e:
            self._fail(e)
            return
        now = time.monotonic()
        self._resume = now + 10 * (now - began) if now - began > SLOW else 0.0
        if self._failed:
            self._failed = False
            log.info("audit log %s: is written again", self._folder)

    def _put(self, event: Waiting) -> bool:
        """Write one. True: in a new segment, and the oldest is to go."""
        lost = event.before.seq - self._written.seq
        begins = self._segments.full(len(event.line)) or event.before != self._written
        if begins:
            self._segments.begin(event.before)
        self._segments.append(event.line)
        trim = begins and self._segments.kept_from() > self._segments.firsts[0]
        if trim:
            self._note(Kind.SEGMENT, first=self._segments.kept_from())
        if lost:
            self._note(
                Kind.GAP,
                f"{lost} events could not be kept",
                first=self._written.seq + 1,
                last=event.before.seq,
                previous=event.before.hash,
            )
        return trim

    def _fail(self, error: OSError) -> None:
        self._resume = time.monotonic() + AGAIN
        self._why = error.strerror or str(error)
        if not self._failed:
            self._failed = True
            log.error(
                "audit log %s: %s; events wait in memory, and beyond %d KiB the oldest are lost",
                self._folder,
                self._why,
                self._most >> 10,
            )

    def _warn(self, error: OSError) -> None:
        """It was written, and a power cut may take it."""
        if not self._unsafe:
            self._unsafe = True
            log.error("audit log %s: is not safe on the disk: %s", self._folder, error)

"""The identities of cells: what they have now, and when that changes."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from initd.errors import Unavailable
from runtime.workload.model import Issuer, X509Svid

# Seconds until what is due by the clock is looked at again: a clock may be set.
LONGEST: Final = 60.0
# Seconds that a clock may be behind the one that an SVID was issued by.
BEHIND: Final = 60.0


class Identities:
    """Keeps the X.509-SVID of each cell that has asked for one, so that who asks over and over
    costs the node no signature each time."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._issuer: Issuer | None = None
        self._svids: dict[str, X509Svid] = {}
        self._changed = asyncio.Event()
        self._closed = False
        self._signing = asyncio.Lock()

    @property
    def issuer(self) -> Issuer:
        """Raises Unavailable: there is none yet."""
        if self._closed:
            raise Unavailable("the Workload API is stopping; try again when it is back")
        if self._issuer is None:
            raise Unavailable("node: has no authority for workloads yet; try again")
        return self._issuer

    def take(self, issuer: Issuer) -> None:
        """Issue from there from now on. Who listens is told."""
        if self._issuer is None or not issuer.goes_on(self._issuer):
            self._svids.clear()
        self._issuer = issuer
        self._tell()

    async def x509(self, cell: str) -> X509Svid:
        """The cell's SVID, a new one where that is due. Raises Unavailable."""
        if (kept := self._kept(cell)) is not None:
            return kept
        # One signature a turn of the loop: many cells may want a new one at the same time, and
        # calls of the API are not to wait for all of them.
        async with self._signing:
            if (kept := self._kept(cell)) is None:
                self._svids[cell] = kept = self.issuer.x509(cell)
                await asyncio.sleep(0)
        return kept

    def _kept(self, cell: str) -> X509Svid | None:
        """What is not due yet."""
        kept = self._svids.get(cell)
        if kept is None or self._closed:
            return None
        return kept if kept.issued - BEHIND <= self._now() < kept.due else None

    def drop(self, cell: str) -> None:
        """The cell is gone. Another of its name has nothing of it."""
        self._svids.pop(cell, None)

    def close(self) -> None:
        """Nothing is given out any more, and whoever listens hears so."""
        self._closed = True
        self._tell()

    def changed(self) -> asyncio.Event:
        """Is set at the next change of what all are given."""
        return self._changed

    async def change(self, changed: asyncio.Event, due: float) -> None:
        """Wait until something may have changed, at the latest at `due` by the clock."""
        seconds = min(max(due - self._now(), 0), LONGEST)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await changed.wait()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

"""The identities of cells from the node's own authority: what they have now, and when that
changes."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from initd.errors import Unavailable
from runtime.identity.spiffe import SpiffeId
from runtime.workload.model import Claims, Keys, Svids, Token, Trust, X509Svid, check_own

if TYPE_CHECKING:
    from runtime.workload.issuer import NodeIssuer

# Seconds that a clock may be behind the one that an SVID was issued by.
BEHIND: Final = 60.0


class NodeIdentities:
    """Keeps the X.509-SVID of each cell that has asked for one, so that who asks over and over
    costs the node no signature each time."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._issuer: NodeIssuer | None = None
        self._svids: dict[str, X509Svid] = {}
        self._changed = asyncio.Event()
        self._closed = False
        self._signing = asyncio.Lock()

    @property
    def issuer(self) -> "NodeIssuer":
        """Raises Unavailable: there is none yet."""
        if self._closed:
            raise Unavailable("the Workload API is stopping; try again when it is back")
        if self._issuer is None:
            raise Unavailable("node: has no authority for workloads yet; try again")
        return self._issuer

    def take(self, issuer: "NodeIssuer") -> None:
        """Issue from there from now on. Who listens is told."""
        if self._issuer is None or not issuer.goes_on(self._issuer):
            self._svids.clear()
        self._issuer = issuer
        self._tell()

    async def svids(self, cell: str) -> Svids:
        svid = await self.x509(cell)
        return Svids([svid], self.issuer.trust, svid.due)

    async def trust(self, _cell: str) -> Trust:
        return self.issuer.trust

    async def tokens(
        self, cell: str, audience: Sequence[str], wanted: SpiffeId | None
    ) -> Sequence[Token]:
        own = self.issuer.identity(cell)
        check_own(wanted, [own])
        return [Token(own, self.issuer.token(cell, audience))]

    async def keys(self, _cell: str) -> Keys:
        keys = self.issuer.keys()
        return Keys({self.issuer.trust.domain: keys.jwks}, keys.due)

    async def verify(self, _cell: str, token: str, audience: str) -> Claims:
        return self.issuer.verify(token, audience)

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

    def changed(self, _cell: str) -> asyncio.Event:
        # What changes is the node's: all cells hear of it.
        return self._changed

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

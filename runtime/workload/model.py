"""What workloads are given."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from initd.errors import PermissionDenied
from initd.values import NamedTuple
from runtime.identity.spiffe import SpiffeId

# Seconds that an X.509-SVID is valid.
LIFE: Final = 3600.0


class X509Svid(NamedTuple):
    """An X.509-SVID with its key. Times are seconds since the epoch."""

    id: SpiffeId
    chain: bytes
    """DER: the leaf, then the authorities above it but the root."""
    key: bytes
    """DER, PKCS#8."""
    issued: float
    due: float
    """When another is to take its place: before half of its life is over."""
    expires: float
    hint: str = ""
    """What it is for, where a cell has several."""


class Trust(NamedTuple):
    """What X.509-SVIDs of others are verified with."""

    domain: str
    """The node's own trust domain."""
    bundles: Mapping[str, bytes]
    """Roots by trust domain, the node's own among them; DER, one after the other."""
    revoked: tuple[bytes, ...] = ()
    """Revocation lists, DER."""

    @property
    def federated(self) -> Mapping[str, bytes]:
        return {name: roots for name, roots in self.bundles.items() if name != self.domain}


class Svids(NamedTuple):
    """The X.509-SVIDs of a cell."""

    svids: Sequence[X509Svid]
    """One at least. The first is meant unless a workload knows of others."""
    trust: Trust
    """With the bundle of each SVID's trust domain."""
    due: float
    """Until when it stays as it is."""


class Token(NamedTuple):
    """A JWT-SVID."""

    id: SpiffeId
    token: str
    hint: str = ""


class Keys(NamedTuple):
    """What JWT-SVIDs are verified with."""

    bundles: Mapping[str, bytes]
    """JWK Sets (RFC 7517) by trust domain."""
    due: float
    """Until when it stays as it is."""


class Claims(NamedTuple):
    """What a valid JWT-SVID says."""

    id: SpiffeId
    claims: Mapping[str, Any]


class Identities(Protocol):
    """The identities of cells, as the Workload API asks for them.

    What waits raises Unavailable (there is nothing to give now: try again), PermissionDenied (the
    cell has no identity) or FailedPrecondition (it can have none).
    """

    async def svids(self, cell: str, /) -> Svids:
        """What the cell has now, new where that is due."""
        ...

    async def trust(self, cell: str, /) -> Trust:
        """What the cell verifies others with."""
        ...

    async def tokens(
        self, cell: str, audience: Sequence[str], wanted: SpiffeId | None, /
    ) -> Sequence[Token]:
        """New ones: of each identity of the cell, or of the one that is wanted. PermissionDenied:
        that is not its own."""
        ...

    async def keys(self, cell: str, /) -> Keys:
        """What the cell verifies tokens with."""
        ...

    async def verify(self, cell: str, token: str, audience: str, /) -> Claims:
        """Raises InvalidArgument: the token is no valid one."""
        ...

    def changed(self, cell: str, /) -> asyncio.Event:
        """Is set at the next change of what the cell is given."""
        ...

    def drop(self, cell: str, /) -> None:
        """The cell is gone."""
        ...

    def close(self) -> None:
        """Nothing is given out any more, and whoever listens hears so."""
        ...


def check_own(wanted: SpiffeId | None, own: Sequence[SpiffeId]) -> None:
    """Raises PermissionDenied: it is none of them."""
    if wanted is not None and wanted not in own:
        raise PermissionDenied(
            f"spiffe_id: is not the caller's own, which is {', '.join(map(str, own))}"
        )

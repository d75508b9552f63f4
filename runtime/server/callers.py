"""Who calls, whether they may, and how much of the node they see."""

import os
from collections.abc import Iterable, Mapping
from typing import Final

from initd.errors import PermissionDenied
from initd.values import NamedTuple
from runtime.cells.cells import Cells
from runtime.scope import NODE, Scope
from runtime.server.authentication import TLS, Authenticator, Identity
from runtime.server.peers import Peer

PEOPLE: Final = "/person/"

# Tenants that are no cell.
ROOT: Final = "root"
STRANGERS: Final = "users outside of cells"


class Caller(NamedTuple):
    """Somebody who was let in."""

    scope: Scope
    tenant: str
    """Whose calls and connections are counted together."""
    identity: Identity | None = None
    """Of a caller with a certificate."""

    def check(self) -> None:
        """Raises Unauthenticated once the caller's certificate is no longer good."""
        if self.identity is not None:
            self.identity.check()


class Callers:
    """Callers on the Unix socket by the address that the relay gave them, and all others."""

    def __init__(self, authenticator: Authenticator, cells: Cells) -> None:
        self._authenticator = authenticator
        self._cells = cells
        self._local: dict[str, Caller] = {}

    def caller(self, peer: Peer) -> Caller | None:
        """Who that process is. None: it is where the cells are, and in none that is allocated.

        Outside of cells the API is root's, and the runtime's own user's where that is another.
        """
        try:
            cell = self._cells.holding(peer.cgroup)
        except PermissionDenied:
            return None
        if cell is not None:
            uid, gid = self._cells.inner_ids(cell, peer.uid, peer.gid)
            identity = (uid, gid) if uid else None
            scope = Scope(cell=cell, identity=identity)
            return Caller(scope=scope, tenant=f"cell {cell.partition('/')[0]}")
        trusted = peer.uid in (0, os.geteuid())
        return Caller(scope=NODE, tenant=ROOT if trusted else STRANGERS)

    def enter(self, address: str, caller: Caller) -> None:
        """From now on calls from `address`, as gRPC writes it, are this caller's."""
        self._local[address] = caller

    def leave(self, address: str) -> None:
        del self._local[address]

    async def check(self, peer: str, authentication: Mapping[str, Iterable[bytes]]) -> Caller:
        """Whose call it is. Raises PermissionDenied, or Unauthenticated.

        `peer` and `authentication` are gRPC's. Whoever comes by TLS is who its certificate says,
        by whatever socket.
        """
        if TLS in authentication.get("transport_security_type", ()):
            identity = await self._authenticator.authenticate(peer, authentication)
            self._check_person(identity)
            return Caller(scope=NODE, tenant=str(identity.id), identity=identity)
        caller = self._local.get(peer)
        if caller is None:
            raise PermissionDenied("caller: did not come by the API's own socket; use that")
        if caller.tenant == STRANGERS:
            raise PermissionDenied(
                "caller: is neither root nor in a cell; call as root, or over TCP with an SVID"
            )
        return caller

    def _check_person(self, identity: Identity) -> None:
        own = self._authenticator.trust.current
        if own is None or not _person(identity, own.identity.trust_domain):
            needed = f"spiffe://{own.identity.trust_domain if own else 'TRUST-DOMAIN'}{PEOPLE}NAME"
            raise PermissionDenied(
                f"caller {identity.id}: may not use this API; needed is one {needed}"
            )


def _person(identity: Identity, trust_domain: str) -> bool:
    return identity.id.trust_domain == trust_domain and bool(identity.id.below(PEOPLE))

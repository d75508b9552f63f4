"""Who calls, and how much of the node they see."""

import os
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from typing import Final

from initd.errors import PermissionDenied
from initd.values import NamedTuple
from runtime.cells.cells import Cells
from runtime.identity.spiffe import SpiffeId
from runtime.scope import NODE, Scope
from runtime.server.authentication import MOST_BYTES, TLS, Authenticator, Identity, presented
from runtime.server.peers import Peer

# Connections whose callers are known again at once.
MOST: Final = 1024

# Tenants that are no cell.
ROOT: Final = "root"
STRANGERS: Final = "users outside of cells"


class Caller(NamedTuple):
    """Somebody who was let in."""

    scope: Scope
    tenant: str
    """Whose calls and connections are counted together."""
    who: str
    """What it is called in decisions: a SPIFFE ID, `cell:NAME` or `uid:NUMBER`."""
    identity: Identity | None = None
    """Of a caller with a certificate."""

    @property
    def id(self) -> SpiffeId | None:
        return None if self.identity is None else self.identity.id

    def check(self) -> None:
        """Raises Unauthenticated once the caller's certificate is no longer good."""
        if self.identity is not None:
            self.identity.check()


_calling: ContextVar[Caller] = ContextVar("calling")


def calling() -> Caller:
    """Whose call this task serves. LookupError: it serves none."""
    return _calling.get()


class called_by:  # noqa: N801 (reads as a verb in `with`)
    """Within the block, in this task and those it makes, the call is this caller's."""

    __slots__ = ("_caller", "_token")

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def __enter__(self) -> None:
        self._token = _calling.set(self._caller)

    def __exit__(self, *_: object) -> None:
        _calling.reset(self._token)


class Kept(NamedTuple):
    """Who was at the other end of a connection, and what TLS said of it."""

    chain: bytes
    """That of its identity: the very same bytes, once only."""
    caller: Caller


class Callers:
    """Callers on the Unix socket by the address that the relay gave them, and all others."""

    def __init__(self, authenticator: Authenticator, cells: Cells) -> None:
        self._authenticator = authenticator
        self._cells = cells
        self._local: dict[str, Caller] = {}
        self._kept: dict[str, Kept] = {}
        self._bytes = 0
        """Of their chains, since none were kept."""

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
            outermost = cell.partition("/")[0]
            return Caller(scope=scope, tenant=f"cell {outermost}", who=f"cell:{cell}")
        trusted = peer.uid in (0, os.geteuid())
        tenant = ROOT if trusted else STRANGERS
        return Caller(scope=NODE, tenant=tenant, who=f"uid:{peer.uid}")

    def enter(self, address: str, caller: Caller) -> None:
        """From now on calls from `address`, as gRPC writes it, are this caller's."""
        self._local[address] = caller

    def leave(self, address: str) -> None:
        del self._local[address]

    def again(self, peer: str, authentication: Mapping[str, Iterable[bytes]]) -> Caller | None:
        """Whose call it is where the same certificate came from there before. That alone is not
        enough: another may have the address by now. Raises Unauthenticated."""
        kept = self._kept.get(peer)
        if kept is None or kept.chain != presented(authentication)[1]:
            return None
        kept.caller.check()
        return kept.caller

    async def check(self, peer: str, authentication: Mapping[str, Iterable[bytes]]) -> Caller:
        """Whose call it is. Raises PermissionDenied, or Unauthenticated.

        `peer` and `authentication` are gRPC's. Whoever comes by TLS is who its certificate says,
        by whatever socket.
        """
        if TLS in authentication.get("transport_security_type", ()):
            identity = await self._authenticator.authenticate(peer, authentication)
            who = str(identity.id)
            caller = Caller(scope=NODE, tenant=who, who=who, identity=identity)
            if len(self._kept) >= MOST or self._bytes > MOST_BYTES:
                self._kept.clear()
                self._bytes = 0
            self._bytes += len(identity.chain)
            self._kept[peer] = Kept(identity.chain, caller)
            return caller
        local = self._local.get(peer)
        if local is None:
            raise PermissionDenied("caller: did not come by the API's own socket; use that")
        if local.tenant == STRANGERS:
            raise PermissionDenied(
                "caller: is neither root nor in a cell; call as root, or over TCP with an SVID"
            )
        return local

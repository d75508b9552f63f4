"""Who calls, and how much of the node they see."""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from initd.errors import PermissionDenied
from initd.values import NamedTuple
from runtime.cells.cells import Cells
from runtime.identity.spiffe import SpiffeId
from runtime.scope import NODE, Scope
from runtime.server.peers import Peer

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
    id: SpiffeId | None = None
    """None: it came by the node's own socket."""


_calling: ContextVar[Caller] = ContextVar("calling")


def calling() -> Caller:
    """Whose call this task serves. LookupError: it serves none."""
    return _calling.get()


@contextmanager
def called_by(caller: Caller) -> Iterator[None]:
    """Within the block, in this task and those it makes, the call is this caller's."""
    token = _calling.set(caller)
    try:
        yield
    finally:
        _calling.reset(token)


class Callers:
    """Callers on the Unix socket by the address that the relay gave them, and all others."""

    def __init__(self, trust_domain: str | None, cells: Cells) -> None:
        self._trust_domain = trust_domain
        self._cells = cells
        self._local: dict[str, Caller] = {}

    def refuse_all_but_local(self) -> None:
        """What the node itself is known by turned out to be unusable."""
        self._trust_domain = None

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

    def check(self, peer: str, authentication: Mapping[str, Iterable[bytes]]) -> Caller:
        """Whose call it is. Raises PermissionDenied.

        `peer` and `authentication` are gRPC's; TLS has verified the chain already.
        """
        if not peer.startswith("unix"):
            identity = identify(peer, authentication, self._trust_domain)
            return Caller(scope=NODE, tenant=str(identity), who=str(identity), id=identity)
        caller = self._local.get(peer)
        if caller is None:
            raise PermissionDenied("caller: did not come by the API's own socket; use that")
        if caller.tenant == STRANGERS:
            raise PermissionDenied(
                "caller: is neither root nor in a cell; call as root, or over TCP with an SVID"
            )
        return caller


def identify(
    peer: str, authentication: Mapping[str, Iterable[bytes]], trust_domain: str | None
) -> SpiffeId:
    """Who that is, of the node's own trust domain. Raises PermissionDenied for anybody else."""
    if trust_domain is None:
        raise PermissionDenied(
            "caller: the node's own credentials are unusable, see its log; call on its Unix socket"
        )
    if not list(authentication.get("x509_pem_cert", ())):
        raise PermissionDenied(
            f"caller {peer}: has no certificate; use an SVID of the trust domain"
        )
    needed = f"needed is an SVID of {trust_domain}"
    uris = [uri.decode(errors="replace") for uri in authentication.get("peer_uri", ())]
    if len(uris) != 1:
        raise PermissionDenied(
            f"caller: its certificate has {len(uris)} URIs in subjectAltName; {needed}"
        )
    try:
        identity = SpiffeId.parse(uris[0])
    except ValueError as e:
        raise PermissionDenied(f"caller: {e}; {needed}") from e
    if identity.trust_domain != trust_domain or not identity.path:
        raise PermissionDenied(f"caller {identity}: may not use this API; {needed}")
    return identity

"""Who a caller with a certificate is.

TLS has verified that the caller holds the key of its certificate, and that one of the roots of any
trust domain stands behind that. Here its chain is verified once more, by the roots of the one trust
domain that it says it is of. See docs/decisions/0091.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final

from initd.errors import Unauthenticated
from runtime.audit.chain import sha256
from runtime.identity.spiffe import SpiffeId
from runtime.trust.material import Material
from runtime.trust.trust import Trust

if TYPE_CHECKING:
    from runtime.identity.revocation import Revocations
    from runtime.identity.svid import Svid

# Verdicts that are kept. A certificate costs a caller a handshake, and us this much memory: 4 KiB;
# chains that are padded as far as they may be count by their bytes.
MOST: Final = 1024
MOST_BYTES: Final = 4 * 1024 * 1024
# Bytes, PEM, of a chain, and certificates in it. One of ours has two or three of 0.7 KiB.
MOST_CHAIN: Final = 16 * 1024
MOST_CERTIFICATES: Final = 8
# Seconds until a certificate is looked at again although nothing has changed but the time.
AGAIN: Final = 60.0

TLS: Final = b"ssl"


class Identity:
    """Somebody whose certificate was found good."""

    __slots__ = ("_authenticator", "_generation", "_until", "chain", "id")

    def __init__(
        self, authenticator: "Authenticator", chain: bytes, found: SpiffeId, until: float
    ) -> None:
        self.id = found
        self._authenticator = authenticator
        self.chain = chain
        self._until = until
        self._generation = authenticator.trust.generation

    def check(self) -> None:
        """Raises Unauthenticated once that is no longer so: the certificate has expired or been
        revoked, or its root is not believed any more. Costs next to nothing."""
        authenticator = self._authenticator
        if self._generation != authenticator.trust.generation or authenticator.now() > self._until:
            fresh = authenticator.verified(self.chain, str(self.id))
            self._generation, self._until = fresh._generation, fresh._until


class Authenticator:
    """`now` is the time of day in seconds."""

    def __init__(self, trust: Trust, now: Callable[[], float] = time.time) -> None:
        self.trust = trust
        self.now = now
        self._known: dict[bytes, Identity] = {}
        """By the SHA-256 of the chain."""
        self._bytes = 0
        """Of chains, since nothing was known."""
        self._loaded = False
        self._revoked: tuple[bytes, Revocations] | None = None
        """The lists that were read last, and from what: there may be many."""

    async def load(self) -> None:
        """Import what verifying needs, without holding anybody else up. Once more does no harm."""
        if not self._loaded:
            await asyncio.to_thread(_load)
            self._loaded = True

    async def authenticate(
        self, peer: str, authentication: Mapping[str, Iterable[bytes]]
    ) -> Identity:
        """Whose call it is; `peer` and `authentication` are gRPC's. Raises Unauthenticated."""
        leaf, chain = presented(authentication)
        _bound(peer, chain)
        identity = self._known.get(_digest(chain))
        if identity is None:
            claimed = [u.decode(errors="replace") for u in authentication.get("peer_uri", ())]
            if not leaf:
                raise Unauthenticated(f"caller {peer}: has no certificate; use an SVID")
            await self.load()
            return self.verified(chain, ", ".join(claimed))
        identity.check()
        return identity

    def verified(self, chain: bytes, claimed: str) -> Identity:
        """The identity that the chain, leaf first, proves now. Raises Unauthenticated."""
        try:
            svid = self._svid(chain)
        except ValueError as e:
            self._known.pop(_digest(chain), None)
            who = f"caller {claimed}" if claimed else "caller"
            raise Unauthenticated(f"{who}: {e}", claimed) from e
        until = min(svid.not_after.timestamp(), self.now() + AGAIN)
        identity = Identity(self, chain, svid.id, until)
        if len(self._known) >= MOST or self._bytes > MOST_BYTES:
            self._known.clear()
            self._bytes = 0
        self._bytes += len(chain)
        self._known[_digest(chain)] = identity
        return identity

    def _svid(self, chain: bytes) -> "Svid":
        from runtime.identity import svid

        material = self.trust.current
        if material is None:
            raise ValueError(
                "the node's own credentials are unusable, see its log; call on its Unix socket"
            )
        own = svid.parse(chain).id
        bundle = material.bundles.get(own.trust_domain)
        if bundle is None:
            raise ValueError(
                f"{own}: this node does not know its trust domain; `aer node trust set` makes it "
                "known"
            )
        return svid.verify(chain, bundle, crls=self._revocations(material))

    def _revocations(self, material: Material) -> "Revocations":
        from runtime.identity.revocation import Revocations

        if self._revoked is None or self._revoked[0] is not material.crls:
            self._revoked = material.crls, Revocations.parse(material.crls)
        return self._revoked[1]


def presented(authentication: Mapping[str, Iterable[bytes]]) -> tuple[bytes, bytes]:
    """The caller's certificate, and that with what came with it: gRPC gives them apart."""
    leaf = b"".join(authentication.get("x509_pem_cert", ()))
    return leaf, leaf + b"".join(authentication.get("x509_pem_cert_chain", ()))


def _bound(peer: str, chain: bytes) -> None:
    """Raises Unauthenticated: whoever calls may pad its chain with what is no part of the path."""
    count = chain.count(b"-----BEGIN ")
    if len(chain) > MOST_CHAIN or count > MOST_CERTIFICATES:
        raise Unauthenticated(
            f"caller {peer}: its chain has {count} certificates of {len(chain)} bytes; send the "
            f"SVID and those between it and the root, at most {MOST_CERTIFICATES} of {MOST_CHAIN}"
        )


def _digest(chain: bytes) -> bytes:
    found: bytes = sha256()(chain).digest()
    return found


def _load() -> None:
    from runtime.trust import usable

    usable.load()

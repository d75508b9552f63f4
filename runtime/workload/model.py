"""What workloads are given."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

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


class KeySet(NamedTuple):
    """What JWT-SVIDs are verified with."""

    jwks: bytes
    """A JWK Set (RFC 7517)."""
    due: float
    """Until when it stays as it is."""


class Claims(NamedTuple):
    """What a valid JWT-SVID says."""

    id: SpiffeId
    claims: Mapping[str, Any]


class Issuer(Protocol):
    """A source of identities for cells. Nothing here waits: what has to be asked of somebody else
    is had beforehand, and until then Unavailable."""

    @property
    def trust(self) -> Trust: ...

    def identity(self, cell: str) -> SpiffeId:
        """Raises FailedPrecondition: it can have none."""
        ...

    def x509(self, cell: str) -> X509Svid:
        """A new one. Raises Unavailable or FailedPrecondition."""
        ...

    def token(self, cell: str, audience: Sequence[str]) -> str:
        """A new JWT-SVID. Raises Unavailable or FailedPrecondition."""
        ...

    def verify(self, token: str, audience: str) -> Claims:
        """Raises InvalidArgument: the token is no valid one."""
        ...

    def keys(self) -> KeySet: ...

    def goes_on(self, before: "Issuer") -> bool:
        """Whether SVIDs of the issuer that was before it are as good as its own."""
        ...

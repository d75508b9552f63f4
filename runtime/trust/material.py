"""What the node proves itself with, and whom it believes."""

from collections.abc import Mapping
from typing import Final

from initd.values import NamedTuple
from runtime.identity.names import first_certificate, uris
from runtime.identity.spiffe import SpiffeId

REMEDY: Final = "pass it at boot (SMBIOS, fw_cfg or initramfs); `aer pki` makes it"

# How a certificate begins its public key if that is Ed25519 (RFC 8410, sections 3 and 4).
ED25519_KEY: Final = bytes.fromhex("302a300506032b6570032100")


class Unusable(Exception):
    """A part is missing or unusable. The message names it and the remedy."""


class Names(NamedTuple):
    """What messages call the parts."""

    certificate: str
    key: str
    bundle: str


class Material(NamedTuple):
    """Well formed. Whether the parts are usable together says `runtime.trust.usable`."""

    identity: SpiffeId
    """Who the node is."""
    certificate: bytes
    """Its chain, PEM, leaf first."""
    key: bytes
    """PEM, PKCS#8, not encrypted."""
    bundles: Mapping[str, bytes]
    """Roots of each trust domain, PEM: the node's own, and those it is federated with."""
    crls: bytes
    """Revocation lists of any of their authorities, PEM one after the other; may be empty."""
    source: str
    """Where it comes from, for people."""
    names: Names

    @property
    def bundle(self) -> bytes:
        """The roots of the node's own trust domain."""
        return self.bundles[self.identity.trust_domain]

    @property
    def roots(self) -> bytes:
        """Those of all trust domains. Who verifies by them alone mixes the domains up."""
        return b"\n".join(self.bundles.values())

    def __repr__(self) -> str:
        return f"Material({self.identity}, from {self.source})"


def identity(certificate: bytes, name: str) -> SpiffeId:
    """Whose SVID the chain is, without a look at its signatures. Raises Unusable."""
    try:
        leaf = first_certificate(certificate)
        found = uris(leaf)
    except ValueError as e:
        raise Unusable(f"{name}: is no PEM certificate, or damaged ({e}); {REMEDY}") from e
    if ED25519_KEY in leaf:
        raise Unusable(
            f"{name}: has an Ed25519 key, which gRPC's clients refuse; issue it with `aer pki` for "
            "an ECDSA P-256 key"
        )
    if len(found) != 1:
        raise Unusable(
            f"{name}: has {len(found)} URIs in its subjectAltName, an SVID has exactly one; issue "
            "it with `aer pki`"
        )
    try:
        return SpiffeId.parse(found[0])
    except ValueError as e:
        raise Unusable(f"{name}: {e}; issue it with `aer pki`") from e

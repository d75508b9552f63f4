"""What the node issues from, and what it hands out."""

import base64
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from initd.values import NamedTuple
from runtime.identity.authority import Pair
from runtime.identity.spiffe import SpiffeId
from runtime.trust import material as trust

REMEDY: Final = "`aer pki issue node-ca` makes it"

# What the node keeps, and what it was given at boot.
CERTIFICATE: Final = ("node-ca.crt", "aurae.node-ca.crt")
KEY: Final = ("node-ca.key", "aurae.node-ca.key")

_CRL: Final = re.compile(rb"-----BEGIN X509 CRL-----(.*?)-----END X509 CRL-----", re.DOTALL)


class Material(NamedTuple):
    """All PEM, but for the revocation lists, which are DER."""

    node: SpiffeId
    authority: Pair
    """The node's own: its certificate, then those above it but the root."""
    bundle: bytes
    federated: Mapping[str, bytes]
    """Roots of other trust domains."""
    revoked: tuple[bytes, ...]


class Places(NamedTuple):
    """The folders that the authority may be in. What the node keeps goes before what it was given
    at boot."""

    kept: Path
    credentials: Path | None

    def folders(self) -> Iterator[Path]:
        """Those that are there, and the one that `kept` comes to be in."""
        for folder in (self.kept.parent, self.kept, self.credentials):
            if folder is not None and folder.is_dir():
                yield folder

    def find(self, names: tuple[str, str]) -> bytes | None:
        """The content of a file."""
        for folder, name in zip(self, names, strict=True):
            if folder is not None:
                try:
                    return (folder / name).read_bytes()
                except FileNotFoundError:
                    continue
        return None


def read(places: Places, known: trust.Material) -> Material | None:
    """With what the node is known by. None: it has no authority. Raises ValueError: it has one
    without its key; OSError."""
    certificate, key = places.find(CERTIFICATE), places.find(KEY)
    if certificate is None:
        return None
    if key is None:
        raise ValueError(f"credential {KEY[1]}: is missing; {REMEDY}")
    own = known.identity.trust_domain
    return Material(
        node=known.identity,
        authority=Pair(certificate, key),
        bundle=known.bundle,
        federated={name: roots for name, roots in known.bundles.items() if name != own},
        revoked=tuple(base64.b64decode(found[1]) for found in _CRL.finditer(known.crls)),
    )

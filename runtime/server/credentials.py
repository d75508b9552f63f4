"""What the node proves itself with, and whom it trusts: read before anything listens."""

import os
from pathlib import Path
from typing import Final

from initd.values import NamedTuple
from runtime.identity.names import first_certificate, uris
from runtime.identity.spiffe import SpiffeId


class Source(NamedTuple):
    """Where an SVID, its key and a trust bundle come from, and what to do where one is not there or
    unusable."""

    certificate: str
    key: str
    bundle: str
    remedy: str


GIVEN: Final = Source(
    certificate="aurae.node.crt",
    key="aurae.node.key",
    bundle="aurae.ca.crt",
    remedy="pass it at boot (SMBIOS, fw_cfg or initramfs); `aer pki` makes it",
)
# What a claim left: runtime.claim.files.
CLAIMED: Final = Source(
    certificate="node.crt",
    key="node.key",
    bundle="ca.crt",
    remedy="boot with aurae.unclaim on the kernel command line, and claim the node anew",
)

# How a certificate begins its public key if that is Ed25519 (RFC 8410, sections 3 and 4).
ED25519_KEY: Final = bytes.fromhex("302a300506032b6570032100")


class Unusable(Exception):
    """A credential is missing or unusable. The message names it and the remedy."""


class Credentials(NamedTuple):
    """Each is well formed. Whether they are usable together says `runtime.server.verification`."""

    folder: Path
    source: Source
    certificate: bytes
    key: bytes
    bundle: bytes
    identity: SpiffeId
    """Who the node is."""


def find(given: Path, claimed: Path) -> tuple[Path, Source] | None:
    """Where what says who the node is lies, usable or not: what it was given, else its claim's."""
    for folder, source in ((given, GIVEN), (claimed, CLAIMED)):
        if any(os.path.lexists(folder / name) for name in source[:3]):
            return folder, source
    return None


def read(folder: Path, source: Source = GIVEN) -> Credentials:
    """Read all three. Raises Unusable."""
    certificate, key, bundle = (_read(folder / name, source) for name in source[:3])
    return Credentials(
        folder=folder,
        source=source,
        certificate=certificate,
        key=key,
        bundle=bundle,
        identity=_identity(certificate, source),
    )


def _read(path: Path, source: Source) -> bytes:
    try:
        content = path.read_bytes()
    except FileNotFoundError as e:
        raise Unusable(f"credential {path.name}: is missing; {source.remedy}") from e
    except OSError as e:
        raise Unusable(
            f"credential {path.name}: cannot be read ({e.strerror}); {source.remedy}"
        ) from e
    if b"-----END " not in content:
        raise Unusable(f"credential {path.name}: is no PEM file, or cut short; {source.remedy}")
    return content


def _identity(pem: bytes, source: Source) -> SpiffeId:
    name = f"credential {source.certificate}"
    try:
        certificate = first_certificate(pem)
        names = uris(certificate)
    except ValueError as e:
        raise Unusable(f"{name}: is no PEM certificate, or damaged ({e}); {source.remedy}") from e
    if ED25519_KEY in certificate:
        raise Unusable(
            f"{name}: has an Ed25519 key, which gRPC's clients refuse; issue it with `aer pki` for "
            "an ECDSA P-256 key"
        )
    if len(names) != 1:
        raise Unusable(
            f"{name}: has {len(names)} URIs in its subjectAltName, an SVID has exactly one; issue "
            "it with `aer pki`"
        )
    try:
        return SpiffeId.parse(names[0])
    except ValueError as e:
        raise Unusable(f"{name}: {e}; issue it with `aer pki`") from e

"""What the node proves itself with, and whom it trusts: read before anything listens."""

from pathlib import Path
from typing import Final

from initd.values import NamedTuple
from runtime.identity.names import first_certificate, uris
from runtime.identity.spiffe import SpiffeId

CERTIFICATE: Final = "aurae.node.crt"
KEY: Final = "aurae.node.key"
BUNDLE: Final = "aurae.ca.crt"

REMEDY: Final = "pass it at boot (SMBIOS, fw_cfg or initramfs); `aer pki` makes it"

# How a certificate begins its public key if that is Ed25519 (RFC 8410, sections 3 and 4).
ED25519_KEY: Final = bytes.fromhex("302a300506032b6570032100")


class Unusable(Exception):
    """A credential is missing or unusable. The message names it and the remedy."""


class Credentials(NamedTuple):
    """Each is well formed. Whether they are usable together says `runtime.server.verification`."""

    folder: Path
    certificate: bytes
    key: bytes
    bundle: bytes
    identity: SpiffeId
    """Who the node is."""


def read(folder: Path) -> Credentials:
    """Read all three. Raises Unusable."""
    certificate, key, bundle = (_read(folder / name) for name in (CERTIFICATE, KEY, BUNDLE))
    return Credentials(
        folder=folder,
        certificate=certificate,
        key=key,
        bundle=bundle,
        identity=_identity(certificate),
    )


def _read(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except FileNotFoundError as e:
        raise Unusable(f"credential {path.name}: is missing; {REMEDY}") from e
    except OSError as e:
        raise Unusable(f"credential {path.name}: cannot be read ({e.strerror}); {REMEDY}") from e
    if b"-----END " not in content:
        raise Unusable(f"credential {path.name}: is no PEM file, or cut short; {REMEDY}")
    return content


def _identity(pem: bytes) -> SpiffeId:
    try:
        certificate = first_certificate(pem)
        names = uris(certificate)
    except ValueError as e:
        raise Unusable(
            f"credential {CERTIFICATE}: is no PEM certificate, or damaged ({e}); {REMEDY}"
        ) from e
    if ED25519_KEY in certificate:
        raise Unusable(
            f"credential {CERTIFICATE}: has an Ed25519 key, which gRPC's clients refuse; issue it "
            "with `aer pki` for an ECDSA P-256 key"
        )
    if len(names) != 1:
        raise Unusable(
            f"credential {CERTIFICATE}: has {len(names)} URIs in its subjectAltName, an SVID has "
            "exactly one; issue it with `aer pki`"
        )
    try:
        return SpiffeId.parse(names[0])
    except ValueError as e:
        raise Unusable(f"credential {CERTIFICATE}: {e}; issue it with `aer pki`") from e

"""X.509 SVIDs: what a certificate must hold before its SPIFFE ID is believed.

cryptography is imported by the functions that need it: its import takes 1.5 s on an emulated
machine, and the node serves without it.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

from runtime.identity import constraints, profile
from runtime.identity.profile import NODE as NODE
from runtime.identity.profile import NODE_UNIT as NODE_UNIT
from runtime.identity.profile import PERSON as PERSON
from runtime.identity.profile import TENANT as TENANT
from runtime.identity.profile import check_dates as check_dates
from runtime.identity.profile import parse_dns_name as parse_dns_name
from runtime.identity.spiffe import SpiffeId

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes

    from runtime.identity.revocation import Revocations

# What a peer may make us read. A chain of ours has two or three certificates of 0.7 kB.
MAX_CHAIN: Final = 8
MAX_CHAIN_BYTES: Final = 64 << 10
# And what an operator may put into a bundle.
MAX_ROOTS: Final = 128
MAX_BUNDLE_BYTES: Final = 1 << 20

_P = ParamSpec("_P")
_R = TypeVar("_R")


@dataclass(frozen=True, slots=True)
class Svid:
    """A leaf certificate that is an SVID of our profile. Who signed it is another question."""

    id: SpiffeId
    dns_name: str | None
    not_before: datetime
    not_after: datetime


def only_value_errors(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """cryptography reads parts when they are asked for, and has errors of its own without a base
    for damages of some kinds: a peer must not be able to cause any of those."""

    @functools.wraps(function)
    def guarded(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return function(*args, **kwargs)
        except ValueError:
            raise
        except Exception as e:
            raise ValueError(f"certificate: cannot be read: {type(e).__name__}: {e}") from e

    return guarded


@only_value_errors
def parse(pem: bytes) -> Svid:
    """The SVID that is the first certificate in `pem`. Raises ValueError naming the broken rule.

    The rules are those of `runtime.identity.profile.check_leaf`.
    """
    return _svid(_chain(pem)[0])


@only_value_errors
def verify(
    pem: bytes,
    bundle: bytes,
    *,
    now: datetime | None = None,
    crls: "Revocations | None" = None,
) -> Svid:
    """Like `parse`, and the chain in `pem` must lead to a certificate of `bundle`.

    The chain begins with the leaf, and each certificate signed the one before; a root at its end is
    not needed and not believed. Any authority in `bundle` is a trust anchor, also one that is not
    signed by itself. Of several paths one that holds is enough. Raises ValueError saying what is
    wrong, and nothing else, whatever the bytes are.

    Stricter than the standards: all of `profile`, the bounds above, and the order of the chain.
    """
    chain = _chain(pem)
    svid = _svid(chain[0])
    anchors = certificates(bundle, most=MAX_ROOTS, most_bytes=MAX_BUNDLE_BYTES)
    now = now or datetime.now(UTC)
    check_dates(chain[0], now)
    reason: ValueError | None = None
    for path in _paths(chain, anchors):
        try:
            _check_path(path, svid.id, now, crls)
        except ValueError as e:
            reason = reason or e
        else:
            return svid
    raise reason or ValueError(f"certificate of {svid.id}: not signed by the trust bundle")


@only_value_errors
def match_key(pem: bytes, key: bytes) -> None:
    """Raises ValueError unless `key` (PEM, PKCS#8) is the key of the first certificate in `pem`."""
    if _public_bytes(certificates(pem)[0].public_key()) != _public_bytes(
        private_key(key).public_key()
    ):
        raise ValueError("the key is not the certificate's: they are of two pairs")


@only_value_errors
def certificates(
    pem: bytes, *, most: int = MAX_ROOTS, most_bytes: int = MAX_BUNDLE_BYTES
) -> "list[x509.Certificate]":
    """All certificates in `pem`, at least one. Raises ValueError, also where there are too many."""
    from cryptography import x509

    if len(pem) > most_bytes:
        raise ValueError(f"certificates: {len(pem)} bytes of them; at most {most_bytes}")
    if (count := pem.count(b"-----BEGIN ")) > most:
        raise ValueError(f"certificates: {count} of them; at most {most}")
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as e:
        raise ValueError("not a certificate in PEM, or a broken one") from e


@only_value_errors
def private_key(pem: bytes) -> "PrivateKeyTypes":
    """The key in `pem`, without a password. Raises ValueError."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        return load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as e:
        raise ValueError("not a private key in PEM, or a broken or encrypted one") from e


def pem(certificate: "x509.Certificate") -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM)


def fingerprint(certificate: "x509.Certificate") -> str:
    """SHA-256 of the certificate, in hexadecimal digits."""
    from cryptography.hazmat.primitives import hashes

    return certificate.fingerprint(hashes.SHA256()).hex()


def key_fingerprint(key: "PublicKeyTypes") -> str:
    """SHA-256 of a public key (SubjectPublicKeyInfo, DER), in hexadecimal digits."""
    import hashlib

    return hashlib.sha256(_public_bytes(key)).hexdigest()


def _chain(pem: bytes) -> "list[x509.Certificate]":
    return certificates(pem, most=MAX_CHAIN, most_bytes=MAX_CHAIN_BYTES)


def _svid(leaf: "x509.Certificate") -> Svid:
    spiffe_id, dns_name = profile.check_leaf(leaf)
    return Svid(spiffe_id, dns_name, leaf.not_valid_before_utc, leaf.not_valid_after_utc)


def _paths(
    chain: "Sequence[x509.Certificate]", anchors: "Sequence[x509.Certificate]"
) -> "list[list[x509.Certificate]]":
    """From the leaf over the chain, as far as it holds, to each anchor that signed its end."""
    found = []
    for length, certificate in enumerate(chain, start=1):
        found += [[*chain[:length], each] for each in anchors if issued(each, certificate)]
        if length == len(chain) or not issued(chain[length], certificate):
            break
    return found


def _check_path(
    path: "Sequence[x509.Certificate]", leaf: SpiffeId, now: datetime, crls: "Revocations | None"
) -> None:
    """Raises ValueError unless each certificate in `path` may sign the one before it."""
    below = 0
    for index, signer in enumerate(path[1:], start=1):
        check_dates(signer, now)
        profile.check_signer(signer, leaf, below=below)
        constraints.check(signer, path[:index])
        if index < len(path) - 1:
            profile.check_signature(signer)
            # RFC 5280, 4.2.1.9: a certificate that is issued by itself is not counted.
            below += signer.subject != signer.issuer
        if crls is not None:
            crls.check(path[index - 1], signer)


def issued(issuer: "x509.Certificate", certificate: "x509.Certificate") -> bool:
    """Whether the names match and the signature is of the issuer's key, and nothing else."""
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _public_bytes(key: "PublicKeyTypes") -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

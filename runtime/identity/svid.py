"""X.509 SVIDs: what a certificate must hold before its SPIFFE ID is believed.

cryptography is imported by the functions that need it: its import takes 1.5 s on an emulated
machine, and the node serves without it.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, TypeVar

from runtime.identity.spiffe import SpiffeId

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes

NODE: Final = "/node/"
PERSON: Final = "/person/"
TENANT: Final = "/tenant/"

# Organisational unit in the subject of an authority that is a node's; its common name is the node.
NODE_UNIT: Final = "node"

_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")

_T = TypeVar("_T", bound="x509.ExtensionType")


@dataclass(frozen=True, slots=True)
class Svid:
    """A leaf certificate that is an SVID of our profile. Who signed it is another question."""

    id: SpiffeId
    dns_name: str | None
    not_before: datetime
    not_after: datetime


def parse_dns_name(text: str) -> str:
    """Return `text` if it is a DNS name, lower case, no wildcard, no address. Raises ValueError."""
    labels = text.split(".")
    if len(text) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError(f"{text!a} is no DNS name; labels of 1 to 63 of a-z 0-9 - joined by dots")
    if labels[-1].isdigit():
        raise ValueError(f"{text!a} looks like an address; a DNS name ends in a letter")
    return text


def parse(pem: bytes) -> Svid:
    """The SVID that is the first certificate in `pem`. Raises ValueError naming the broken rule.

    The rules are those of the X509-SVID standard, sections 2 to 4, and ours: a DNS name on nodes
    only, one at most, and no further alternative names. An address or a second name would let its
    owner answer for another node, since clients that cannot check a SPIFFE ID check these.
    """
    leaf = certificates(pem)[0]
    _check_leaf_usage(leaf)
    spiffe_id, dns_name = _names(leaf)
    if not spiffe_id.path:
        raise ValueError(
            f"certificate of {spiffe_id}: a trust domain is no caller; it needs a path"
        )
    if dns_name is not None and not spiffe_id.below(NODE):
        raise ValueError(f"certificate of {spiffe_id}: has a DNS name; only nodes may")
    return Svid(spiffe_id, dns_name, leaf.not_valid_before_utc, leaf.not_valid_after_utc)


def verify(pem: bytes, bundle: bytes, *, now: datetime | None = None) -> Svid:
    """Like `parse`, and the chain in `pem` (leaf first) must lead to a certificate of `bundle`.

    Every signer must be a certificate authority, valid now, and one that names a SPIFFE ID must be
    that of the leaf's trust domain. Raises ValueError saying what is wrong.
    """
    svid = parse(pem)
    now = now or datetime.now(UTC)
    child, *intermediates = certificates(pem)
    anchors = certificates(bundle)
    check_dates(child, now)
    for above in range(len(intermediates) + 1):
        if anchor := next((a for a in anchors if _issued(a, child)), None):
            _check_signer(anchor, svid.id, now, intermediates_below=above)
            return svid
        if above == len(intermediates) or not _issued(intermediates[above], child):
            break
        child = intermediates[above]
        _check_signer(child, svid.id, now, intermediates_below=above)
    raise ValueError(f"certificate of {svid.id}: not signed by the trust bundle")


def match_key(pem: bytes, key: bytes) -> None:
    """Raises ValueError unless `key` (PEM, PKCS#8) is the key of the first certificate in `pem`."""
    if _public_bytes(certificates(pem)[0].public_key()) != _public_bytes(
        private_key(key).public_key()
    ):
        raise ValueError("the key is not the certificate's: they are of two pairs")


def certificates(pem: bytes) -> "list[x509.Certificate]":
    """All certificates in `pem`, at least one. Raises ValueError."""
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as e:
        raise ValueError("not a certificate in PEM, or a broken one") from e


def private_key(pem: bytes) -> "PrivateKeyTypes":
    """The key in `pem`, without a password. Raises ValueError."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        return load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as e:
        raise ValueError("not a private key in PEM, or a broken or encrypted one") from e


def _names(certificate: "x509.Certificate") -> tuple[SpiffeId, str | None]:
    from cryptography import x509

    names = _extension(certificate, x509.SubjectAlternativeName)
    uris = names.get_values_for_type(x509.UniformResourceIdentifier) if names else []
    if names is None or len(uris) != 1:
        raise ValueError(f"certificate: has {len(uris)} URI names; an SVID has exactly one")
    spiffe_id = SpiffeId.parse(uris[0])
    dns_names = names.get_values_for_type(x509.DNSName)
    if len(dns_names) > 1:
        raise ValueError(f"certificate of {spiffe_id}: has {len(dns_names)} DNS names; one at most")
    if len(uris) + len(dns_names) != len(list(names)):
        raise ValueError(f"certificate of {spiffe_id}: has a name that is neither URI nor DNS name")
    return spiffe_id, parse_dns_name(dns_names[0]) if dns_names else None


def _check_leaf_usage(leaf: "x509.Certificate") -> None:
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    constraints = _extension(leaf, x509.BasicConstraints)
    if constraints and constraints.ca:
        raise ValueError("certificate: is an authority's; those sign and never authenticate")
    usage = _extension(leaf, x509.KeyUsage)
    if usage is None or not usage.digital_signature:
        raise ValueError("certificate: key usage lacks digitalSignature, which an SVID needs")
    if usage.key_cert_sign or usage.crl_sign:
        raise ValueError("certificate: key usage has keyCertSign or cRLSign, which no leaf may")
    purposes = _extension(leaf, x509.ExtendedKeyUsage)
    both = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    if purposes is not None and not both <= set(purposes):
        raise ValueError(
            "certificate: extended key usage must allow both serverAuth and clientAuth"
        )


def _check_signer(
    signer: "x509.Certificate", leaf: SpiffeId, now: datetime, *, intermediates_below: int
) -> None:
    """`signer` may sign for `leaf`, over so many intermediates between them."""
    from cryptography import x509

    check_dates(signer, now)
    constraints = _extension(signer, x509.BasicConstraints)
    usage = _extension(signer, x509.KeyUsage)
    if constraints is None or not constraints.ca or usage is None or not usage.key_cert_sign:
        raise ValueError(f"certificate of {leaf}: its signer is no certificate authority")
    if constraints.path_length is not None and constraints.path_length < intermediates_below:
        raise ValueError(f"certificate of {leaf}: the chain is longer than its authority allows")
    names = _extension(signer, x509.SubjectAlternativeName)
    for uri in names.get_values_for_type(x509.UniformResourceIdentifier) if names else []:
        if SpiffeId.parse(uri) != SpiffeId(leaf.trust_domain):
            raise ValueError(f"certificate of {leaf}: signed by {uri}, which is another authority")


def check_dates(certificate: "x509.Certificate", now: datetime) -> None:
    """Raises ValueError if `certificate` is not valid at `now`."""
    if now < certificate.not_valid_before_utc:
        raise ValueError(f"certificate: not valid before {_date(certificate.not_valid_before_utc)}")
    if now > certificate.not_valid_after_utc:
        raise ValueError(f"certificate: expired on {_date(certificate.not_valid_after_utc)}")


def _date(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M} UTC"


def _issued(issuer: "x509.Certificate", certificate: "x509.Certificate") -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _extension(certificate: "x509.Certificate", kind: type[_T]) -> _T | None:
    from cryptography import x509

    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
    except (ValueError, x509.DuplicateExtension) as e:
        raise ValueError(f"certificate: its extensions cannot be read: {e}") from e


def _public_bytes(key: "PublicKeyTypes") -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

"""Signing requests (PKCS#10): a node's keys are certified without leaving it.

A request says which key it is, and proves that its sender has it. Names in it count for nothing:
who signs decides on those.
"""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from runtime.identity import authority, svid
from runtime.identity.authority import KeyType, Pair
from runtime.identity.spiffe import SpiffeId

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec


def make_request(key: bytes) -> bytes:
    """A request for `key` (PEM, PKCS#8; ECDSA P-256): PEM. Raises ValueError."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding

    private = svid.private_key(key)
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise ValueError("the key is not ECDSA P-256")
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(private, hashes.SHA256()).public_bytes(Encoding.PEM)


def public_bytes(request: bytes) -> bytes:
    """The SubjectPublicKeyInfo, DER, that `request` asks to certify. Raises ValueError."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return _public_key(request).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def issue(
    signer: Pair,
    spiffe_id: SpiffeId,
    request: bytes,
    *,
    dns_name: str | None = None,
    validity: timedelta,
    now: datetime | None = None,
) -> bytes:
    """As `authority.issue`, for the key in `request`: the certificate, PEM. Raises ValueError."""
    key = authority.make_key(KeyType.ECDSA_P256)
    pattern = authority.issue(signer, spiffe_id, key, dns_name=dns_name, validity=validity, now=now)
    return _for_key(pattern.certificate, _public_key(request), signer)


def issue_intermediate(
    signer: Pair, name: str, request: bytes, *, validity: timedelta, now: datetime | None = None
) -> bytes:
    """As `authority.make_intermediate`, for the key in `request`: the certificate, PEM. Raises
    ValueError."""
    key = authority.make_key(KeyType.ECDSA_P256)
    pattern = authority.make_intermediate(signer, key, name, validity=validity, now=now)
    return _for_key(pattern.certificate, _public_key(request), signer)


def _public_key(request: bytes) -> "ec.EllipticCurvePublicKey":
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        read = x509.load_pem_x509_csr(request)
        key, proven = read.public_key(), read.is_signature_valid
    except ValueError as e:
        raise ValueError("not a signing request in PEM, or a broken one") from e
    if not proven:
        raise ValueError("the signing request is not signed by its own key")
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("the signing request is for a key that is not ECDSA P-256")
    return key


def _for_key(pattern: bytes, key: "ec.EllipticCurvePublicKey", signer: Pair) -> bytes:
    """The certificate `pattern` for another key: what stands in it is decided in one place."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    from cryptography.hazmat.primitives.serialization import Encoding

    made = svid.certificates(pattern)[0]
    builder = (
        x509.CertificateBuilder()
        .subject_name(made.subject)
        .issuer_name(made.issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(made.not_valid_before_utc)
        .not_valid_after(made.not_valid_after_utc)
    )
    for extension in made.extensions:
        value = extension.value
        if isinstance(value, x509.SubjectKeyIdentifier):
            value = x509.SubjectKeyIdentifier.from_public_key(key)
        builder = builder.add_extension(value, critical=extension.critical)
    private = svid.private_key(signer.key)
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return builder.sign(private, None).public_bytes(Encoding.PEM)
    if isinstance(private, ec.EllipticCurvePrivateKey):
        return builder.sign(private, hashes.SHA256()).public_bytes(Encoding.PEM)
    raise ValueError("the authority's key is neither ECDSA P-256 nor Ed25519")

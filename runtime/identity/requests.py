"""Certificate signing requests (PKCS #10): how a key that stays where it is gets a certificate."""

from typing import TYPE_CHECKING, Final

from runtime.identity import profile, svid

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

    from runtime.identity.spiffe import SpiffeId

MAX_BYTES: Final = 64 << 10


def make(key: bytes, spiffe_id: "SpiffeId | None" = None) -> bytes:
    """A request, PEM, signed by `key` (PEM). `spiffe_id` is a wish: who signs it decides."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519

    private = svid.private_key(key)
    profile.check_key(private.public_key())
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    if spiffe_id is not None:
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(spiffe_id))])
        builder = builder.add_extension(names, critical=True)
    digest = None if isinstance(private, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    request = builder.sign(private, digest)  # type: ignore[arg-type]
    return request.public_bytes(serialization.Encoding.PEM)


@svid.only_value_errors
def public_key(pem: bytes) -> "PublicKeyTypes":
    """The key of the request in `pem`, which whoever made the request had.

    Nothing else in a request counts: names are given by who signs. Raises ValueError.
    """
    request = load(pem)
    if not request.is_signature_valid:
        raise ValueError("request: not signed by its own key")
    key = request.public_key()
    profile.check_key(key)
    return key


def public_bytes(pem: bytes) -> bytes:
    """The SubjectPublicKeyInfo, DER, of the same key. Raises ValueError."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return public_key(pem).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@svid.only_value_errors
def load(pem: bytes) -> "x509.CertificateSigningRequest":
    """Raises ValueError."""
    from cryptography import x509

    if len(pem) > MAX_BYTES:
        raise ValueError(f"request: has {len(pem)} bytes; at most {MAX_BYTES}")
    try:
        return x509.load_pem_x509_csr(pem)
    except ValueError as e:
        raise ValueError("not a certificate signing request in PEM, or a broken one") from e

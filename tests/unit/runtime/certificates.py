"""Credentials for tests: those of a trust domain, and such as no authority of ours issues."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from runtime.identity import authority
from runtime.identity.authority import KeyType, Pair
from runtime.identity.spiffe import SpiffeId

TRUST_DOMAIN = "example.org"
SERVER_NAME = "one.node.example.org"
DAY = timedelta(days=1)
SIGNATURES = x509.KeyUsage(
    digital_signature=True,
    key_cert_sign=False,
    crl_sign=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    encipher_only=False,
    decipher_only=False,
)


def make_authority(trust_domain: str = TRUST_DOMAIN, kind: KeyType = KeyType.ECDSA_P256) -> Pair:
    """Valid for days already."""
    key, began = authority.make_key(kind), datetime.now(UTC) - 9 * DAY
    return authority.make_authority(trust_domain, key, validity=30 * DAY, now=began)


def issue(
    signer: Pair, spiffe_id: str, *, dns_name: str | None = None, validity: timedelta = DAY
) -> Pair:
    return authority.issue(
        signer,
        SpiffeId.parse(spiffe_id),
        authority.make_key(KeyType.ECDSA_P256),
        dns_name=dns_name,
        validity=validity,
    )


def node_svid(signer: Pair) -> Pair:
    return issue(signer, f"spiffe://{TRUST_DOMAIN}/node/one", dns_name=SERVER_NAME)


def node_authority(signer: Pair, name: str = "one", *, validity: timedelta = DAY) -> Pair:
    key = authority.make_key(KeyType.ECDSA_P256)
    return authority.make_intermediate(signer, key, name, validity=validity)


def forge(signer: Pair, *uris: str, expired: bool = False) -> Pair:
    """A certificate with any number of URIs, of any content."""
    now = datetime.now(UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    above = x509.load_pem_x509_certificate(signer.certificate)
    above_key = serialization.load_pem_private_key(signer.key, None)
    assert isinstance(above_key, ec.EllipticCurvePrivateKey)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(above.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 2 * DAY)
        .not_valid_after(now - DAY if expired else now + DAY)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(SIGNATURES, critical=True)
    )
    if uris:
        names = [x509.UniformResourceIdentifier(uri) for uri in uris]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
    certificate = builder.sign(above_key, hashes.SHA256())
    return Pair(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


def sign(signer: Pair, request: bytes, *, validity: timedelta = DAY) -> bytes:
    """The certificate that a request asks for, PEM."""
    now = datetime.now(UTC)
    asked = x509.load_pem_x509_csr(request)
    assert asked.is_signature_valid
    above = x509.load_pem_x509_certificate(signer.certificate)
    key = serialization.load_pem_private_key(signer.key, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    names = asked.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(above.subject)
        .public_key(asked.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + validity)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(SIGNATURES, critical=True)
        .add_extension(x509.ExtendedKeyUsage(both), critical=False)
        .add_extension(names, critical=True)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )


def revoke(signer: Pair, *pairs: Pair) -> bytes:
    """A revocation list, PEM."""
    now = datetime.now(UTC)
    above = x509.load_pem_x509_certificate(signer.certificate)
    key = serialization.load_pem_private_key(signer.key, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(above.subject)
        .last_update(now - DAY)
        .next_update(now + DAY)
        .add_extension(x509.CRLNumber(1), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False
        )
    )
    for pair in pairs:
        serial = x509.load_pem_x509_certificate(pair.certificate).serial_number
        revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now - DAY)
        builder = builder.add_revoked_certificate(revoked.build())
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def write(folder: Path, node: Pair, bundle: bytes) -> Path:
    """As PID 1 leaves them."""
    folder.mkdir(exist_ok=True)
    (folder / "aurae.node.crt").write_bytes(node.certificate)
    (folder / "aurae.node.key").write_bytes(node.key)
    (folder / "aurae.ca.crt").write_bytes(bundle)
    return folder

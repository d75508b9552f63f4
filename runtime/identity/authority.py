"""The authority of a trust domain: its certificate, and the SVIDs that it issues.

See docs/decisions/0011-certificate-profile.md for what stands in them and why.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Final, cast

from runtime.identity import profile, svid
from runtime.identity.revocation import Revocations
from runtime.identity.spiffe import SpiffeId, parse_segment
from runtime.identity.svid import NODE_UNIT

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.types import (
        CertificateIssuerPrivateKeyTypes,
        CertificateIssuerPublicKeyTypes,
        PublicKeyTypes,
    )

AUTHORITY_DAYS: Final = 3650
NODE_AUTHORITY_DAYS: Final = 365
SVID_DAYS: Final = 365
# When the next revocation list is due.
CRL_DAYS: Final = 30

# Clocks differ: a machine without a battery may be some minutes behind until it has asked a server.
BACKDATED: Final = timedelta(minutes=10)

# X.520's bounds for the parts of a subject; the whole trust domain stands in the SPIFFE ID.
_MAX_ORGANISATION: Final = 64
_MAX_COMMON_NAME: Final = 64


class KeyType(StrEnum):
    ECDSA_P256 = "ecdsa-p256"
    ED25519 = "ed25519"


class Reason(StrEnum):
    """Why a certificate counts no more (RFC 5280, 5.3.1); the others need lists of other kinds."""

    UNSPECIFIED = "unspecified"
    KEY_COMPROMISE = "key-compromise"
    SUPERSEDED = "superseded"
    CESSATION_OF_OPERATION = "cessation-of-operation"

    @property
    def camel(self) -> str:
        """As the standard spells it."""
        first, *rest = self.value.split("-")
        return first + "".join(map(str.capitalize, rest))


@dataclass(frozen=True, slots=True)
class Revoked:
    serial: int
    reason: Reason = Reason.UNSPECIFIED


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, both PEM; the key PKCS#8, not encrypted."""

    certificate: bytes
    key: bytes

    def __repr__(self) -> str:
        return "Pair(…)"


def make_key(key_type: KeyType) -> bytes:
    """A new private key: PEM, PKCS#8."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    key: CertificateIssuerPrivateKeyTypes
    match key_type:
        case KeyType.ECDSA_P256:
            key = ec.generate_private_key(ec.SECP256R1())
        case KeyType.ED25519:
            key = ed25519.Ed25519PrivateKey.generate()
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def encrypt_key(key: bytes, passphrase: bytes) -> bytes:
    """The same key under a passphrase: PEM, PKCS#8 (PBES2 with AES-256)."""
    from cryptography.hazmat.primitives import serialization

    return svid.private_key(key).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(passphrase),
    )


def decrypt_key(key: bytes, passphrase: bytes) -> bytes:
    """The key that `encrypt_key` was given. Raises ValueError if the passphrase is another."""
    from cryptography.hazmat.primitives import serialization

    try:
        found = serialization.load_pem_private_key(key, passphrase)
    except ValueError as e:
        raise ValueError("the passphrase is wrong, or the key is damaged") from e
    return found.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def is_encrypted(key: bytes) -> bool:
    return b"-BEGIN ENCRYPTED PRIVATE KEY-" in key


def make_authority(
    trust_domain: str, key: bytes, *, validity: timedelta, now: datetime | None = None
) -> Pair:
    """The authority of `trust_domain`, signed by itself. It may sign intermediates and leaves."""
    from cryptography import x509

    private = _signing_key(key)
    subject = _authority_name(trust_domain)
    start, end = _validity(validity, now)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .not_valid_before(start)
        .not_valid_after(end)
    )
    builder = _authority_profile(builder, trust_domain, private.public_key(), path_length=1)
    return Pair(_sign(builder, private), key)


def make_intermediate(
    authority: Pair,
    key: bytes,
    name: str,
    *,
    validity: timedelta,
    now: datetime | None = None,
) -> Pair:
    """The authority of the node `name`, with its key; see `certify_intermediate`."""
    public = _signing_key(key).public_key()
    return Pair(certify_intermediate(authority, public, name, validity=validity, now=now), key)


def certify_intermediate(
    authority: Pair,
    public: "PublicKeyTypes",
    name: str,
    *,
    validity: timedelta,
    now: datetime | None = None,
) -> bytes:
    """A certificate for the authority of the node `name`, whose key is elsewhere.

    It signs for `spiffe://TD/node/NAME/…` and nothing else. It stands below `authority`, signs
    leaves only, and does not outlive its authority, whose certificate is not in the result. Raises
    ValueError.
    """
    from cryptography import x509

    if len(parse_segment(name)) > _MAX_COMMON_NAME:
        raise ValueError(
            f"node {name}: the name has {len(name)} characters; that of a node with an authority "
            f"has at most {_MAX_COMMON_NAME}"
        )
    signer = svid.certificates(authority.certificate)[0]
    svid.match_key(authority.certificate, authority.key)
    svid.check_dates(signer, now or datetime.now(UTC))
    domain = trust_domain(authority.certificate)
    constraints = (one.value for one in signer.extensions)
    if 0 in (c.path_length for c in constraints if isinstance(c, x509.BasicConstraints)):
        raise ValueError(
            f"authority of {domain}: may have none below it (its path length is 0); "
            "a node's needs one that may"
        )
    start, end = _validity(validity, now)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_authority_name(domain, node=name))
        .issuer_name(signer.subject)
        .not_valid_before(max(start, signer.not_valid_before_utc))
        .not_valid_after(min(end, signer.not_valid_after_utc))
        .add_extension(_name_constraints(domain), critical=True)
        .add_extension(_identifier_of(signer), critical=False)
    )
    builder = _authority_profile(builder, domain, _peer_key(public), path_length=0)
    return _sign(builder, _signing_key(authority.key))


def _authority_name(trust_domain: str, *, node: str | None = None) -> "x509.Name":
    """An authority needs a subject: chains are built by it (RFC 5280, 4.1.2.6).

    That of a node is told by `OU=node, CN=NAME`; svid.verify holds it to its node.
    """
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    own = (
        ()
        if node is None
        else ((NameOID.ORGANIZATIONAL_UNIT_NAME, NODE_UNIT), (NameOID.COMMON_NAME, node))
    )
    domain = (NameOID.ORGANIZATION_NAME, trust_domain[:_MAX_ORGANISATION])
    return x509.Name([x509.NameAttribute(kind, text) for kind, text in (domain, *own)])


def _name_constraints(trust_domain: str) -> "x509.NameConstraints":
    """The one trust domain; no DNS name and no address at all (RFC 5280, 4.2.1.10).

    Clients that cannot check a SPIFFE ID check those, and an authority on a node must not be able
    to answer for another node.
    """
    from ipaddress import ip_network

    from cryptography import x509

    none = [x509.DNSName(""), *(x509.IPAddress(ip_network(n)) for n in ("0.0.0.0/0", "::/0"))]
    return x509.NameConstraints([x509.UniformResourceIdentifier(trust_domain)], none)


def _identifier_of(signer: "x509.Certificate") -> "x509.AuthorityKeyIdentifier":
    from cryptography import x509

    try:
        own = signer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(_issuer_key(signer))
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def _issuer_key(signer: "x509.Certificate") -> "CertificateIssuerPublicKeyTypes":
    return cast("CertificateIssuerPublicKeyTypes", signer.public_key())


def _authority_profile(
    builder: "x509.CertificateBuilder",
    trust_domain: str,
    public: "CertificateIssuerPublicKeyTypes",
    *,
    path_length: int,
) -> "x509.CertificateBuilder":
    """What every authority's certificate has."""
    from cryptography import x509

    return (
        builder.public_key(public)
        .serial_number(x509.random_serial_number())
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_key_usage(authority=True), critical=True)
        .add_extension(_alternative_names(SpiffeId(trust_domain), None), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def issue(
    authority: Pair,
    spiffe_id: SpiffeId,
    key: bytes,
    *,
    dns_name: str | None = None,
    validity: timedelta,
    now: datetime | None = None,
) -> Pair:
    """An SVID with its key; see `certify`. The chain above is for the caller to add."""
    public = _signing_key(key).public_key()
    certificate = certify(
        authority, spiffe_id, public, dns_name=dns_name, validity=validity, now=now
    )
    return Pair(certificate, key)


def certify(
    authority: Pair,
    spiffe_id: SpiffeId,
    public: "PublicKeyTypes",
    *,
    dns_name: str | None = None,
    validity: timedelta,
    now: datetime | None = None,
) -> bytes:
    """An SVID for the holder of the key to `public`. It does not outlive its authority.

    Raises ValueError where the result would be no SVID, or `authority` may not sign it.
    """
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    signer = svid.certificates(authority.certificate)[0]
    svid.match_key(authority.certificate, authority.key)
    svid.check_dates(signer, now or datetime.now(UTC))
    holder = _peer_key(public)
    start, end = _validity(validity, now)
    builder = (
        x509.CertificateBuilder()
        # No subject at all: nothing may be read from it, the SPIFFE ID is the name.
        .subject_name(x509.Name([]))
        .issuer_name(signer.subject)
        .public_key(holder)
        .serial_number(x509.random_serial_number())
        .not_valid_before(max(start, signer.not_valid_before_utc))
        .not_valid_after(min(end, signer.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(authority=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            ),
            critical=False,
        )
        .add_extension(_alternative_names(spiffe_id, dns_name), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(holder), critical=False)
        .add_extension(_identifier_of(signer), critical=False)
    )
    certificate = _sign(builder, _signing_key(authority.key))
    svid.verify(certificate, authority.certificate, now=now)
    return certificate


def revoke(
    authority: Pair,
    revoked: Iterable[Revoked] = (),
    *,
    before: bytes | None = None,
    validity: timedelta,
    now: datetime | None = None,
) -> bytes:
    """The authority's next revocation list, PEM: what stands in the list `before`, and `revoked`.

    Whoever has it expects a newer one within `validity`. Raises ValueError where `before` is not of
    this authority.
    """
    from cryptography import x509

    signer = svid.certificates(authority.certificate)[0]
    svid.match_key(authority.certificate, authority.key)
    now = (now or datetime.now(UTC)).replace(microsecond=0)
    entries: dict[int, x509.RevokedCertificate] = {}
    number = 0
    if before is not None:
        for old in Revocations.parse(before, [signer]).lists:
            entries |= {entry.serial_number: entry for entry in old.crl}
            number = max(number, old.number)
    for one in revoked:
        entries.setdefault(one.serial, _revoked_entry(one, now))
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(signer.subject)
        .last_update(now)
        .next_update(now + validity)
        .add_extension(x509.CRLNumber(number + 1), critical=False)
        .add_extension(_identifier_of(signer), critical=False)
    )
    for entry in entries.values():
        builder = builder.add_revoked_certificate(entry)
    return _sign(builder, _signing_key(authority.key))


def _revoked_entry(one: Revoked, now: datetime) -> "x509.RevokedCertificate":
    from cryptography import x509

    builder = x509.RevokedCertificateBuilder().serial_number(one.serial).revocation_date(now)
    if one.reason is not Reason.UNSPECIFIED:
        reason = x509.CRLReason(x509.ReasonFlags(one.reason.camel))
        builder = builder.add_extension(reason, critical=False)
    return builder.build()


def trust_domain(certificate: bytes) -> str:
    """Whose authority `certificate` is. Raises ValueError where it is none."""
    from cryptography import x509

    signer = svid.certificates(certificate)[0]
    try:
        names = signer.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise ValueError("certificate: has no SPIFFE ID, so it is no authority of ours") from None
    (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier) or ("",)
    own = SpiffeId.parse(uri)
    if own.path:
        raise ValueError(f"certificate of {own}: is no authority's; that has no path")
    return own.trust_domain


def _validity(validity: timedelta, now: datetime | None) -> tuple[datetime, datetime]:
    now = (now or datetime.now(UTC)).replace(microsecond=0)
    return now - BACKDATED, now + validity


def _alternative_names(spiffe_id: SpiffeId, dns_name: str | None) -> "x509.SubjectAlternativeName":
    from cryptography import x509

    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(str(spiffe_id))]
    if dns_name is not None:
        names.append(x509.DNSName(svid.parse_dns_name(dns_name)))
    return x509.SubjectAlternativeName(names)


def _key_usage(*, authority: bool) -> "x509.KeyUsage":
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _peer_key(public: "PublicKeyTypes") -> "CertificateIssuerPublicKeyTypes":
    """A key that a certificate of ours may be for. Raises ValueError."""
    profile.check_key(public)
    return cast("CertificateIssuerPublicKeyTypes", public)


def _signing_key(pem: bytes) -> "CertificateIssuerPrivateKeyTypes":
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    key = svid.private_key(pem)
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    raise ValueError("the key is neither ECDSA P-256 nor Ed25519")


def _sign(
    builder: "x509.CertificateBuilder | x509.CertificateRevocationListBuilder",
    key: "CertificateIssuerPrivateKeyTypes",
) -> bytes:
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519

    # Ed25519 hashes by itself and takes no choice.
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, digest).public_bytes(serialization.Encoding.PEM)

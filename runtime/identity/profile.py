"""What one certificate must hold, leaf or signer, whoever signed it.

The rules are those of the X509-SVID standard (sections 2 to 4) and of RFC 5280. Where ours are
stricter, the function says so. Left alone, as the standards do: a subject, the purposes in a
signer's extended key usage, further key usages, whether basic constraints are critical, and which
extensions stand there beside, unless they are critical.

cryptography is imported by the functions that need it.
"""

import re
from datetime import datetime
from typing import TYPE_CHECKING, Final, TypeVar

from runtime.identity.spiffe import SpiffeId

if TYPE_CHECKING:
    from cryptography import x509

NODE: Final = "/node/"
PERSON: Final = "/person/"
TENANT: Final = "/tenant/"

# Organisational unit in the subject of an authority that is a node's; its common name is the node.
NODE_UNIT: Final = "node"

_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")

# What NIST SP 800-57 still allows, and at the other end what a peer may make us compute with.
_RSA_BITS: Final = range(2048, 8193)
_RSA_EXPONENTS: Final = range(65537, 1 << 32)
_CURVES: Final = frozenset({"secp256r1", "secp384r1", "secp521r1"})
# SHA-256, SHA-384 and SHA-512 with RSA (PKCS #1 and PSS) or ECDSA, and Ed25519.
_SIGNATURES: Final = frozenset(
    {
        "1.2.840.113549.1.1.11",
        "1.2.840.113549.1.1.12",
        "1.2.840.113549.1.1.13",
        "1.2.840.113549.1.1.10",
        "1.2.840.10045.4.3.2",
        "1.2.840.10045.4.3.3",
        "1.2.840.10045.4.3.4",
        "1.3.101.112",
    }
)
_HASHES: Final = frozenset({"sha256", "sha384", "sha512"})

_T = TypeVar("_T", bound="x509.ExtensionType")


def parse_dns_name(text: str) -> str:
    """Return `text` if it is a DNS name, lower case, no wildcard, no address. Raises ValueError."""
    labels = text.split(".")
    if len(text) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError(f"{text!a} is no DNS name; labels of 1 to 63 of a-z 0-9 - joined by dots")
    if labels[-1].isdigit():
        raise ValueError(f"{text!a} looks like an address; a DNS name ends in a letter")
    return text


def check_leaf(leaf: "x509.Certificate") -> tuple[SpiffeId, str | None]:
    """SPIFFE ID and DNS name of an SVID. Raises ValueError naming the rule that it breaks.

    Stricter than the standard: a DNS name on nodes only, one at most, and no other names. An
    address or a second name would let its owner answer for another node, since clients that cannot
    check a SPIFFE ID check these.
    """
    _check_usage_of_leaf(leaf)
    spiffe_id, dns_name = names(leaf)
    if not spiffe_id.path:
        raise ValueError(
            f"certificate of {spiffe_id}: a trust domain is no caller; it needs a path"
        )
    if dns_name is not None and not spiffe_id.below(NODE):
        raise ValueError(f"certificate of {spiffe_id}: has a DNS name; only nodes may")
    check_form(leaf)
    check_signature(leaf)
    return spiffe_id, dns_name


def check_signer(signer: "x509.Certificate", leaf: SpiffeId, *, below: int) -> None:
    """`signer` may sign for `leaf`, over `below` intermediates that others issued.

    Raises ValueError. Stricter than the standard: a signer that has a SPIFFE ID must be an
    authority of the leaf's own trust domain (the standard: SHOULD), key usage is critical with all
    signers, and one with `OU=node` in its subject signs for that node's workloads only. Names that
    a signer allows are the matter of `runtime.identity.constraints`.
    """
    from cryptography import x509

    constraints = extension(signer, x509.BasicConstraints)
    usage = extension(signer, x509.KeyUsage)
    if constraints is None or not constraints.ca or usage is None or not usage.key_cert_sign:
        raise ValueError(f"certificate of {leaf}: its signer is no certificate authority")
    if not critical(signer, x509.KeyUsage):
        raise ValueError(f"certificate of {leaf}: its signer's key usage is not critical")
    if constraints.path_length is not None and constraints.path_length < below:
        raise ValueError(f"certificate of {leaf}: the chain is longer than its authority allows")
    check_form(signer)
    _check_authority_of(signer, leaf)


def names(certificate: "x509.Certificate") -> tuple[SpiffeId, str | None]:
    """The SPIFFE ID of a certificate and its DNS name. Raises ValueError."""
    from cryptography import x509

    found = extension(certificate, x509.SubjectAlternativeName)
    uris = found.get_values_for_type(x509.UniformResourceIdentifier) if found else []
    if found is None or len(uris) != 1:
        raise ValueError(f"certificate: has {len(uris)} URI names; an SVID has exactly one")
    spiffe_id = SpiffeId.parse(uris[0])
    dns_names = found.get_values_for_type(x509.DNSName)
    if len(dns_names) > 1:
        raise ValueError(f"certificate of {spiffe_id}: has {len(dns_names)} DNS names; one at most")
    if len(uris) + len(dns_names) != len(list(found)):
        raise ValueError(f"certificate of {spiffe_id}: has a name that is neither URI nor DNS name")
    if not list(certificate.subject) and not critical(certificate, x509.SubjectAlternativeName):
        raise ValueError(
            f"certificate of {spiffe_id}: has no subject, so its alternative name must be critical"
        )
    return spiffe_id, parse_dns_name(dns_names[0]) if dns_names else None


def node_of(signer: "x509.Certificate") -> str | None:
    """Whose authority `signer` is by its subject (`OU=node, CN=NAME`), or None."""
    from cryptography.x509.oid import NameOID

    units = signer.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
    own = signer.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if [unit.value for unit in units] != [NODE_UNIT] or len(own) != 1:
        return None
    return str(own[0].value)


def check_dates(certificate: "x509.Certificate", now: datetime) -> None:
    """Raises ValueError if `certificate` is not valid at `now`."""
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < start:
        raise ValueError(
            f"certificate: not valid before {date(start)}, and this clock says {date(now)}"
        )
    if now > end:
        raise ValueError(f"certificate: expired on {date(end)}")


def date(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M} UTC"


def check_form(certificate: "x509.Certificate") -> None:
    """Raises ValueError for what no certificate may be. The key is judged, not the signature.

    Stricter than RFC 5280's validation, as it asks it of issuers: the serial number is positive and
    20 bytes at most, and the issuer has a name. Critical policies are refused: nobody here weighs
    them.
    """
    if not 0 < certificate.serial_number < 1 << 160:
        raise ValueError("certificate: its serial number is not positive, or over 20 bytes")
    if not list(certificate.issuer):
        raise ValueError("certificate: its issuer has no name")
    _check_extensions(certificate)
    check_key(certificate.public_key())


def check_key(key: object) -> None:
    """Raises ValueError for a key that is weak, absurdly large or of another kind.

    Ours: ECDSA on P-256, P-384 and P-521, RSA of 2048 to 8192 bits, Ed25519. The standard names
    none.
    """
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    match key:
        case ec.EllipticCurvePublicKey():
            if key.curve.name not in _CURVES:
                raise ValueError(f"certificate: its key is on the curve {key.curve.name}; refused")
        case rsa.RSAPublicKey():
            if key.key_size not in _RSA_BITS:
                raise ValueError(f"certificate: its RSA key has {key.key_size} bits; 2048 to 8192")
            if key.public_numbers().e not in _RSA_EXPONENTS:
                raise ValueError("certificate: its RSA key has a weak or an absurd exponent")
        case ed25519.Ed25519PublicKey():
            pass
        case _:
            raise ValueError("certificate: its key is neither ECDSA, RSA nor Ed25519")


def check_signature(certificate: "x509.Certificate") -> None:
    """Raises ValueError for a weak kind of signature, such as SHA-1. A root's is not looked at."""
    kind = certificate.signature_algorithm_oid
    if kind.dotted_string not in _SIGNATURES:
        raise ValueError(f"certificate: signed by {kind._name} ({kind.dotted_string}); refused")
    digest = certificate.signature_hash_algorithm
    if digest is not None and digest.name not in _HASHES:
        raise ValueError(f"certificate: signed with {digest.name}; SHA-256 or better is needed")


def extension(certificate: "x509.Certificate", kind: type[_T]) -> _T | None:
    from cryptography import x509

    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as e:
        raise ValueError(f"certificate: its extensions cannot be read: {e}") from e


def critical(certificate: "x509.Certificate", kind: type["x509.ExtensionType"]) -> bool:
    """Whether an extension that is there is critical."""
    return certificate.extensions.get_extension_for_class(kind).critical


def _check_usage_of_leaf(leaf: "x509.Certificate") -> None:
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    constraints = extension(leaf, x509.BasicConstraints)
    if constraints and constraints.ca:
        raise ValueError("certificate: is an authority's; those sign and never authenticate")
    if constraints and constraints.path_length is not None:
        raise ValueError("certificate: has a path length, which is for authorities")
    usage = extension(leaf, x509.KeyUsage)
    if usage is None or not usage.digital_signature:
        raise ValueError("certificate: key usage lacks digitalSignature, which an SVID needs")
    if usage.key_cert_sign or usage.crl_sign:
        raise ValueError("certificate: key usage has keyCertSign or cRLSign, which no leaf may")
    if not critical(leaf, x509.KeyUsage):
        raise ValueError("certificate: its key usage is not critical, as an SVID's must be")
    if extension(leaf, x509.NameConstraints) is not None:
        raise ValueError("certificate: has name constraints, which are for authorities")
    purposes = extension(leaf, x509.ExtendedKeyUsage)
    both = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    if purposes is not None and not both <= set(purposes):
        raise ValueError(
            "certificate: extended key usage must allow both serverAuth and clientAuth"
        )


def _check_authority_of(signer: "x509.Certificate", leaf: SpiffeId) -> None:
    """A signer without any URI names no trust domain: then the bundle alone says for whom."""
    from cryptography import x509

    found = extension(signer, x509.SubjectAlternativeName)
    uris = found.get_values_for_type(x509.UniformResourceIdentifier) if found else []
    if len(uris) > 1:
        raise ValueError(f"certificate of {leaf}: its signer has {len(uris)} URI names")
    for uri in uris:
        if SpiffeId.parse(uri) != SpiffeId(leaf.trust_domain):
            raise ValueError(f"certificate of {leaf}: signed by {uri}, which is another authority")
    node = node_of(signer)
    if uris and node is not None and not leaf.path.startswith(f"{NODE}{node}/"):
        raise ValueError(
            f"certificate of {leaf}: signed by the authority of node {node}, which signs for its "
            "own workloads only"
        )


def _check_extensions(certificate: "x509.Certificate") -> None:
    from cryptography import x509

    known = (
        x509.BasicConstraints,
        x509.ExtendedKeyUsage,
        x509.KeyUsage,
        x509.NameConstraints,
        x509.SubjectAlternativeName,
    )
    for each in certificate.extensions:
        if each.critical and not isinstance(each.value, known):
            raise ValueError(
                f"certificate: has the critical extension {each.oid.dotted_string}, unknown here"
            )

"""Trust bundles: the roots of trust domains, each for its own domain and no other.

A bundle is PEM, or the SPIFFE bundle format: a JWK set (SPIFFE Trust Domain and Bundle, section 4;
X509-SVID, section 6; JWT-SVID, section 6). cryptography is imported by the functions that need it.
"""

import base64
import binascii
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Self

from runtime.identity import svid
from runtime.identity.spiffe import SpiffeId, parse_trust_domain

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

    from runtime.identity.revocation import Revocations

X509_USE: Final = "x509-svid"
JWT_USE: Final = "jwt-svid"
# Seconds after which a consumer of ours looks again, if nobody says otherwise.
REFRESH_HINT: Final = 300

_KEY_TYPES: Final = frozenset({"EC", "RSA", "OKP"})
_CURVES: Final = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}


@dataclass(frozen=True, slots=True)
class JwtKey:
    """A key that JWT-SVIDs of a trust domain are signed with."""

    kid: str
    public: bytes
    """SubjectPublicKeyInfo, DER; ECDSA or RSA."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """What a trust domain's SVIDs are checked against."""

    trust_domain: str
    roots: bytes
    """Certificates, PEM, one after the other; empty where the domain has no X.509 SVIDs."""
    jwt_keys: tuple[JwtKey, ...] = ()
    sequence: int = 0
    """Grows with each change of the bundle; 0 if nobody counts."""
    refresh_hint: int = 0
    """Seconds; 0 without one."""

    @classmethod
    def from_pem(cls, trust_domain: str, pem: bytes) -> Self:
        """Raises ValueError where a certificate is no authority of `trust_domain`."""
        found = svid.certificates(pem)
        return cls(parse_trust_domain(trust_domain), _roots(trust_domain, found))

    @classmethod
    def from_json(cls, trust_domain: str, text: bytes) -> Self:
        """Read the SPIFFE bundle format. Keys of unknown kinds and uses are passed over.

        Raises ValueError. Stricter than the standard: an `x509-svid` entry that states another key
        than its certificate has is refused.
        """
        values = _json(text)
        keys = values.get("keys")
        if not isinstance(keys, list) or len(keys) > svid.MAX_ROOTS:
            raise ValueError(f"bundle: needs an array `keys`, of {svid.MAX_ROOTS} at most")
        known = [each for each in keys if isinstance(each, dict) and each.get("kty") in _KEY_TYPES]
        roots = [_x509_entry(each) for each in known if each.get("use") == X509_USE]
        jwt_keys = [_jwt_entry(each) for each in known if each.get("use") == JWT_USE]
        return cls(
            parse_trust_domain(trust_domain),
            _roots(trust_domain, [root for root in roots if root is not None]),
            tuple(key for key in jwt_keys if key is not None),
            _whole(values, "spiffe_sequence"),
            _whole(values, "spiffe_refresh_hint"),
        )

    def to_json(self) -> bytes:
        """The SPIFFE bundle format."""
        values: dict[str, Any] = {
            "keys": [
                *map(_x509_jwk, svid.certificates(self.roots) if self.roots else ()),
                *map(_jwt_jwk, self.jwt_keys),
            ]
        }
        if self.sequence:
            values["spiffe_sequence"] = self.sequence
        values["spiffe_refresh_hint"] = self.refresh_hint or REFRESH_HINT
        return json.dumps(values, indent=2).encode() + b"\n"

    def with_roots(self, pem: bytes) -> "Bundle":
        """This bundle and more roots, each once: as an authority is being replaced."""
        return Bundle(
            self.trust_domain,
            _roots(self.trust_domain, svid.certificates(self.roots + pem)),
            self.jwt_keys,
            self.sequence,
            self.refresh_hint,
        )


@dataclass(frozen=True, slots=True)
class Bundles:
    """Several trust domains that know each other: a federation."""

    by_domain: Mapping[str, Bundle]

    @classmethod
    def of(cls, bundles: Iterable[Bundle]) -> Self:
        """Raises ValueError if a trust domain comes twice."""
        by_domain: dict[str, Bundle] = {}
        for bundle in bundles:
            if bundle.trust_domain in by_domain:
                raise ValueError(f"bundle of {bundle.trust_domain}: is there twice")
            by_domain[bundle.trust_domain] = bundle
        return cls(by_domain)

    def verify(
        self, pem: bytes, *, now: datetime | None = None, crls: "Revocations | None" = None
    ) -> svid.Svid:
        """`svid.verify` against the roots of the SVID's own trust domain, never those of another.

        Raises ValueError.
        """
        domain = svid.parse(pem).id.trust_domain
        bundle = self.by_domain.get(domain)
        if bundle is None or not bundle.roots:
            raise ValueError(f"trust domain {domain}: there is no bundle of it here")
        return svid.verify(pem, bundle.roots, now=now, crls=crls)

    @property
    def roots(self) -> bytes:
        """All of them, PEM: for a TLS library, which knows one set only. `verify` still decides."""
        return b"".join(bundle.roots for bundle in self.by_domain.values())


def _roots(trust_domain: str, found: "Iterable[x509.Certificate]") -> bytes:
    """PEM of all `found`, each once."""
    from cryptography.hazmat.primitives.serialization import Encoding

    pems: dict[bytes, None] = {}
    for certificate in found:
        _check_root(trust_domain, certificate)
        pems[certificate.public_bytes(Encoding.PEM)] = None
    return b"".join(pems)


@svid.only_value_errors
def _check_root(trust_domain: str, root: "x509.Certificate") -> None:
    from cryptography import x509

    from runtime.identity import profile

    constraints = profile.extension(root, x509.BasicConstraints)
    if constraints is None or not constraints.ca:
        raise ValueError(f"bundle of {trust_domain}: has a certificate that is no authority's")
    found = profile.extension(root, x509.SubjectAlternativeName)
    for uri in found.get_values_for_type(x509.UniformResourceIdentifier) if found else ():
        if SpiffeId.parse(uri) != SpiffeId(trust_domain):
            raise ValueError(f"bundle of {trust_domain}: has a root of {uri}")


def _json(text: bytes) -> dict[str, Any]:
    if len(text) > svid.MAX_BUNDLE_BYTES:
        raise ValueError(f"bundle: has {len(text)} bytes; at most {svid.MAX_BUNDLE_BYTES}")
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise ValueError(f"bundle: not JSON: {e}") from e
    if not isinstance(values, dict):
        raise ValueError("bundle: not a JSON object")
    return values


def _whole(values: Mapping[str, Any], name: str) -> int:
    value = values.get(name, 0)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 64:
        raise ValueError(f"bundle: {name} is no whole number of 64 bits")
    return value


@svid.only_value_errors
def _x509_entry(entry: Mapping[str, Any]) -> "x509.Certificate | None":
    """None where the standard says that it be ignored. Only the first of `x5c` counts."""
    from cryptography import x509

    chain = entry.get("x5c")
    if not isinstance(chain, list) or not chain:
        return None
    certificate = x509.load_der_x509_certificate(base64.b64decode(str(chain[0]), validate=True))
    stated = _jwk(certificate.public_key())
    if any(name in entry and entry[name] != value for name, value in stated.items()):
        raise ValueError("bundle: an x509-svid entry states another key than its certificate has")
    return certificate


@svid.only_value_errors
def _jwt_entry(entry: Mapping[str, Any]) -> JwtKey | None:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    kid = entry.get("kid")
    if entry["kty"] == "OKP":
        return None
    if not isinstance(kid, str) or not kid:
        raise ValueError("bundle: a jwt-svid entry has no kid")
    key = _public_key(entry)
    return JwtKey(kid, key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def _public_key(entry: Mapping[str, Any]) -> "PublicKeyTypes":
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    if entry["kty"] == "RSA":
        return rsa.RSAPublicNumbers(_number(entry, "e"), _number(entry, "n")).public_key()
    curves = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
    curve = curves.get(str(entry.get("crv")))
    if curve is None:
        raise ValueError(f"bundle: a jwt-svid entry has the curve {entry.get('crv')!a}")
    return ec.EllipticCurvePublicNumbers(
        _number(entry, "x"), _number(entry, "y"), curve
    ).public_key()


def _number(entry: Mapping[str, Any], name: str) -> int:
    text = str(entry[name])
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error as e:
        raise ValueError(f"bundle: {name} of a key is not base64url") from e
    return int.from_bytes(raw, "big")


def _x509_jwk(certificate: "x509.Certificate") -> dict[str, Any]:
    from cryptography.hazmat.primitives.serialization import Encoding

    der = certificate.public_bytes(Encoding.DER)
    key = _jwk(certificate.public_key())
    return {"use": X509_USE, **key, "x5c": [base64.b64encode(der).decode()]}


def _jwt_jwk(key: JwtKey) -> dict[str, Any]:
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    return {"use": JWT_USE, "kid": key.kid, **_jwk(load_der_public_key(key.public))}


def _jwk(key: "PublicKeyTypes") -> dict[str, Any]:
    """The members of a JWK that are the key (RFC 7518, section 6; RFC 8037)."""
    return dict(_jwk_members(key))


def _jwk_members(key: "PublicKeyTypes") -> Iterator[tuple[str, str]]:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        numbers, size = key.public_numbers(), (key.curve.key_size + 7) // 8
        yield from (("kty", "EC"), ("crv", _CURVES[key.curve.name]))
        yield from (("x", _text(numbers.x, size)), ("y", _text(numbers.y, size)))
    elif isinstance(key, rsa.RSAPublicKey):
        public = key.public_numbers()
        yield ("kty", "RSA")
        yield from (
            (name, _text(n, (n.bit_length() + 7) // 8))
            for name, n in (("n", public.n), ("e", public.e))
        )
    elif isinstance(key, ed25519.Ed25519PublicKey):
        yield from (("kty", "OKP"), ("crv", "Ed25519"))
        yield ("x", _base64url(key.public_bytes_raw()))
    else:
        raise ValueError("bundle: a key is neither ECDSA, RSA nor Ed25519")


def _text(number: int, size: int) -> str:
    return _base64url(number.to_bytes(size, "big"))


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

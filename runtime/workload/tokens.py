"""JWT-SVIDs: signed and verified to the letter of the JWT-SVID standard, with ES256 alone.

A token is JWS in its compact form (RFC 7515, 7.1). An ES256 signature is two numbers of 32 bytes
(RFC 7518, 3.4).
"""

import base64
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)

from initd.values import NamedTuple
from runtime.identity.spiffe import SpiffeId
from runtime.workload.model import Claims

ALGORITHM: Final = "ES256"
TYPES: Final = (None, "JWT", "JOSE")
HEADERS: Final = frozenset({"alg", "kid", "typ"})
MAX_TOKEN: Final = 16 * 1024

_NUMBER: Final = 32
_HASH: Final = ec.ECDSA(hashes.SHA256())

Jwk = Mapping[str, str]


class SigningKey(NamedTuple):
    """A private key and the name that tokens know it by."""

    kid: str
    private: ec.EllipticCurvePrivateKey

    @classmethod
    def make(cls) -> "SigningKey":
        return cls(kid=os.urandom(16).hex(), private=ec.generate_private_key(ec.SECP256R1()))

    @property
    def jwk(self) -> Jwk:
        """The public key (RFC 7518, 6.2.1), marked as SPIFFE bundles mark it."""
        numbers = self.private.public_key().public_numbers()
        return {
            "kty": "EC",
            "use": "jwt-svid",
            "kid": self.kid,
            "crv": "P-256",
            "x": _encode(numbers.x.to_bytes(_NUMBER, "big")),
            "y": _encode(numbers.y.to_bytes(_NUMBER, "big")),
        }


def sign(
    key: SigningKey, spiffe_id: SpiffeId, audience: Sequence[str], *, issued: int, expires: int
) -> str:
    """A token; times are seconds since the epoch."""
    header = {"alg": ALGORITHM, "kid": key.kid, "typ": "JWT"}
    claims = {"sub": str(spiffe_id), "aud": list(audience), "iat": issued, "exp": expires}
    signed = f"{_encode(_json(header))}.{_encode(_json(claims))}"
    r, s = decode_dss_signature(key.private.sign(signed.encode(), _HASH))
    signature = r.to_bytes(_NUMBER, "big") + s.to_bytes(_NUMBER, "big")
    return f"{signed}.{_encode(signature)}"


def verify(token: str, audience: str, trust_domain: str, keys: Sequence[Jwk], now: float) -> Claims:
    """What a token says that is valid now, for `audience` and in `trust_domain`, whose keys these
    are. Raises ValueError saying what is wrong."""
    parts = _parts(token)
    header, claims = (_object(_decode(part)) for part in parts[:2])
    key = _key(header, keys)
    _check_signature(key, ".".join(parts[:2]).encode(), _decode(parts[2]))
    return _checked(claims, audience, trust_domain, now)


def claimed(token: str) -> SpiffeId:
    """Whose a token says it is; nothing of it is verified. Raises ValueError."""
    return _subject(_object(_decode(_parts(token)[1])))


def usable(jwk: object) -> bool:
    """Whether a key of somebody else is one for ES256, with a name."""
    if not isinstance(jwk, dict) or (jwk.get("kty"), jwk.get("crv")) != ("EC", "P-256"):
        return False
    return all(isinstance(jwk.get(name), str) for name in ("kid", "x", "y"))


def _parts(token: str) -> list[str]:
    if len(token) > MAX_TOKEN:
        raise ValueError(f"has {len(token)} characters; at most {MAX_TOKEN}")
    parts = token.split(".")
    if len(parts) != 3:
        raise ValueError("is no JWS in its compact form: three parts with dots between")
    return parts


def _key(header: Mapping[str, Any], keys: Sequence[Jwk]) -> ec.EllipticCurvePublicKey:
    if header.get("alg") != ALGORITHM:
        raise ValueError(f"is not signed with {ALGORITHM}")
    if header.get("typ") not in TYPES:
        raise ValueError("its typ is neither JWT nor JOSE")
    if unknown := header.keys() - HEADERS:
        raise ValueError(f"has the header {min(unknown)[:40]!a}, which no JWT-SVID has")
    jwk = next((jwk for jwk in keys if jwk["kid"] == header.get("kid")), None)
    if jwk is None:
        raise ValueError("is signed by no key of this node, or by one that is no longer in use")
    x, y = (int.from_bytes(_decode(jwk[name]), "big") for name in ("x", "y"))
    return ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()


def _check_signature(key: ec.EllipticCurvePublicKey, signed: bytes, signature: bytes) -> None:
    if len(signature) != 2 * _NUMBER:
        raise ValueError("its signature has another size than that of ES256")
    r, s = (int.from_bytes(half, "big") for half in (signature[:_NUMBER], signature[_NUMBER:]))
    try:
        key.verify(encode_dss_signature(r, s), signed, _HASH)
    except InvalidSignature:
        raise ValueError("its signature is wrong") from None


def _checked(claims: Mapping[str, Any], audience: str, trust_domain: str, now: float) -> Claims:
    expires, begins = _number(claims.get("exp")), _number(claims.get("nbf", 0))
    if expires is None or begins is None:
        raise ValueError("has no exp, or one (or an nbf) that is no number")
    if now >= expires:
        raise ValueError("is expired")
    if now < begins:
        raise ValueError("is not valid yet")
    named = claims.get("aud")
    if audience not in ([named] if isinstance(named, str) else named or ()):
        raise ValueError("is for another audience")
    spiffe_id = _subject(claims)
    if spiffe_id.trust_domain != trust_domain or not spiffe_id.path:
        raise ValueError(f"is of {spiffe_id}, which is no workload of {trust_domain}")
    return Claims(id=spiffe_id, claims=claims)


def _subject(claims: Mapping[str, Any]) -> SpiffeId:
    subject = claims.get("sub")
    if not isinstance(subject, str):
        raise ValueError("has no sub")
    return SpiffeId.parse(subject)


def _number(value: object) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    return None


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _object(data: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ValueError("its header or claims are no JSON object")
    return value


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    """Raises ValueError also for another spelling of the same bytes."""
    if not re.fullmatch(r"[A-Za-z0-9_-]*", text) or len(text) % 4 == 1:
        raise ValueError("is not in base64url")
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if _encode(data) != text:
        raise ValueError("is not in base64url")
    return data

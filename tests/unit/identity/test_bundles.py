"""The SPIFFE bundle format, both ways."""

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from runtime.identity import authority, svid
from runtime.identity.authority import KeyType
from runtime.identity.bundles import Bundle, JwtKey
from tests.unit.identity import malformed


def root(kind: KeyType = KeyType.ECDSA_P256) -> bytes:
    key = authority.make_key(kind)
    return authority.make_authority("example.org", key, validity=malformed.DAY).certificate


def jwt_key(kid: str, key: Any) -> JwtKey:
    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return JwtKey(kid, der)


def document(*keys: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"keys": keys, **more}).encode()


def entry(pem: bytes) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(Bundle.from_pem("example.org", pem).to_json())["keys"][0]
    return made


def test_what_is_written_is_read() -> None:
    keys = (
        jwt_key("a", ec.generate_private_key(ec.SECP256R1())),
        jwt_key("b", ec.generate_private_key(ec.SECP521R1())),
        jwt_key("c", rsa.generate_private_key(65537, 2048)),
    )
    pem = root() + root(KeyType.ED25519)
    bundle = Bundle("example.org", pem, keys, sequence=7, refresh_hint=60)
    assert Bundle.from_json("example.org", bundle.to_json()) == bundle


def test_it_is_written_as_the_standard_wants_it() -> None:
    pem = root()
    bundle = Bundle("example.org", pem, (jwt_key("a", ec.generate_private_key(ec.SECP256R1())),))
    values = json.loads(bundle.to_json())
    x509, jwt = values["keys"]
    assert x509["use"] == "x509-svid"
    assert "kid" not in x509
    assert len(x509["x5c"]) == 1
    (certificate,) = svid.certificates(pem)
    assert base64.b64decode(x509["x5c"][0]) == certificate.public_bytes(Encoding.DER)
    assert (jwt["use"], jwt["kid"], jwt["kty"], jwt["crv"]) == ("jwt-svid", "a", "EC", "P-256")
    assert "x5c" not in jwt
    assert values["spiffe_refresh_hint"] == 300
    # Coordinates are as wide as the curve (RFC 7518, 6.2.1.2): 32 bytes.
    assert {len(jwt["x"]), len(jwt["y"])} == {43}


def test_what_is_not_known_is_passed_over() -> None:
    good = entry(root())
    read = Bundle.from_json(
        "example.org",
        document(
            good,
            {"kty": "EC", "use": "tls"},
            {"kty": "lattice", "use": "x509-svid", "x5c": ["!"]},
            {"use": "x509-svid"},
            {"kty": "EC", "use": "x509-svid"},
            {"kty": "EC", "use": "x509-svid", "x5c": []},
            {**good, "x5c": [*good["x5c"], "not looked at"]},
            {"kty": "OKP", "crv": "Ed25519", "use": "jwt-svid", "kid": "a"},
            spiffe_sequence=1,
            unknown=True,
        ),
    )
    assert read.roots.count(b"BEGIN CERTIFICATE") == 1
    assert (read.sequence, read.refresh_hint, read.jwt_keys) == (1, 0, ())


def test_a_bundle_may_be_empty() -> None:
    assert Bundle.from_json("example.org", document()) == Bundle("example.org", b"")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "needs an array"),
        (b'{"keys": {}}', "needs an array"),
        (document(*[{}] * 200), "of 128 at most"),
        (document(spiffe_sequence="1"), "spiffe_sequence is no whole number"),
        (document(spiffe_refresh_hint=-1), "spiffe_refresh_hint is no whole number"),
        (document({"kty": "EC", "use": "x509-svid", "x5c": ["AAAA"]}), "error parsing|cannot"),
        (document({"kty": "EC", "use": "x509-svid", "x5c": ["%"]}), "base64|cannot"),
        (document({"kty": "EC", "use": "jwt-svid"}), "has no kid"),
        (document({"kty": "EC", "use": "jwt-svid", "kid": "a", "crv": "P-192"}), "'P-192'"),
        (document({"kty": "EC", "use": "jwt-svid", "kid": "a", "crv": "P-256"}), "cannot be read"),
        (document({"kty": "RSA", "use": "jwt-svid", "kid": "a", "n": "AQ", "e": "AQ"}), "."),
    ],
)
def test_what_is_no_bundle_is_refused(text: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Bundle.from_json("example.org", text)


def test_an_entry_with_another_key_than_its_certificate_is_refused() -> None:
    mixed = {**entry(root()), "x": entry(root())["x"]}
    with pytest.raises(ValueError, match="states another key"):
        Bundle.from_json("example.org", document(mixed))


def test_a_bundle_of_another_trust_domain_is_refused() -> None:
    with pytest.raises(ValueError, match=r"has a root of spiffe://example.org"):
        Bundle.from_json("other.org", document(entry(root())))

"""JWT-SVIDs: what is signed, and what is refused, to the letter of the JWT-SVID standard."""

import base64
import json
from collections.abc import Callable
from typing import Any

import jwt
import pytest

from runtime.identity.spiffe import SpiffeId
from runtime.workload import tokens
from runtime.workload.tokens import SigningKey

ID = SpiffeId("example.org", "/node/one/cell/web")
KEY = SigningKey.make()
NOW = 1_000_000


def signed(key: SigningKey = KEY) -> str:
    return tokens.sign(key, ID, ["db"], issued=NOW, expires=NOW + 300)


def verify(token: str, **changed: Any) -> Any:
    asked: dict[str, Any] = {
        "audience": "db",
        "trust_domain": "example.org",
        "keys": [KEY.jwk],
        "now": NOW + 1,
    }
    return tokens.verify(token, **(asked | changed))


def other(header: dict[str, Any] | None = None, claims: dict[str, Any] | None = None) -> str:
    """A token signed by the right key; None as a value leaves it out."""
    heads = {"kid": KEY.kid, "typ": "JWT"} | (header or {})
    says = {"sub": str(ID), "aud": ["db"], "iat": NOW, "exp": NOW + 300} | (claims or {})
    return jwt.encode(
        {name: value for name, value in says.items() if value is not None},
        KEY.private,
        heads.pop("alg", "ES256"),
        headers={name: value for name, value in heads.items() if value is not None},
    )


def test_a_token_says_who_for_whom_and_until_when() -> None:
    found = verify(signed())
    assert found.id == ID
    assert found.claims == {"sub": str(ID), "aud": ["db"], "iat": NOW, "exp": NOW + 300}
    header = json.loads(base64.urlsafe_b64decode(signed().split(".")[0] + "=="))
    assert header == {"alg": "ES256", "kid": KEY.kid, "typ": "JWT"}


def test_other_implementations_verify_it_with_the_jwk() -> None:
    key = jwt.PyJWK.from_dict(dict(KEY.jwk))
    assert key.key_id == KEY.kid
    assert KEY.jwk["use"] == "jwt-svid"
    options: Any = {"verify_exp": False}
    read = jwt.decode(signed(), key, algorithms=["ES256"], audience="db", options=options)
    assert read["sub"] == str(ID)


def test_tokens_of_other_implementations_are_verified() -> None:
    assert verify(other()).id == ID
    assert verify(other(header={"typ": "JOSE"})).id == ID
    assert verify(other(header={"typ": None})).id == ID
    assert verify(other(claims={"aud": "db", "more": {"a": [1]}})).claims["more"] == {"a": [1]}


@pytest.mark.parametrize(
    ("make", "fact"),
    [
        (lambda: "", "three parts"),
        (lambda: "a.b", "three parts"),
        (lambda: signed() + ".x", "three parts"),
        (lambda: signed()[:-2], "another size"),
        (lambda: signed() + "=", "base64url"),
        (lambda: " " + signed(), "base64url"),
        (lambda: "x" * 20_000, "characters; at most"),
        (lambda: "bnVsbA.bnVsbA.", "no JSON object"),
        (lambda: "W1tb.e30.", "no JSON object"),
        (lambda: _unsigned("none"), "not signed with ES256"),
        (lambda: _unsigned("HS256"), "not signed with ES256"),
        (lambda: other(header={"typ": "at+jwt"}), "typ"),
        (lambda: other(header={"jku": "https://evil.example"}), "jku"),
        (lambda: other(header={"x5c": []}), "x5c"),
        (lambda: other(header={"kid": None}), "by no key of this node"),
        (lambda: signed(SigningKey.make()), "by no key of this node"),
        (lambda: signed(SigningKey.make()._replace(kid=KEY.kid)), "signature is wrong"),
        (lambda: _swapped(claims={"sub": "spiffe://example.org/person/ann"}), "signature is wrong"),
        (lambda: other(claims={"exp": None}), "exp"),
        (lambda: other(claims={"exp": NOW + 1}), "expired"),
        (lambda: other(claims={"nbf": NOW + 2}), "not valid yet"),
        (lambda: other(claims={"aud": ["data", "b"]}), "another audience"),
        (lambda: other(claims={"aud": "database"}), "another audience"),
        (lambda: other(claims={"aud": None}), "another audience"),
        (lambda: other(claims={"sub": None}), "no sub"),
        (lambda: other(claims={"sub": "spiffe://Example.org/x"}), "SPIFFE ID"),
        (lambda: other(claims={"sub": "spiffe://other.org/node/one/cell/web"}), "no workload of"),
        (lambda: other(claims={"sub": "spiffe://example.org"}), "no workload of"),
    ],
)
def test_what_the_standard_refuses_is_refused(make: Callable[[], str], fact: str) -> None:
    with pytest.raises(ValueError, match=fact):
        verify(make())


def test_an_expiry_that_is_no_number_is_refused() -> None:
    for bad in ("1", True, [NOW]):
        with pytest.raises(ValueError, match="no number"):
            verify(_signed_claims({"sub": str(ID), "aud": ["db"], "exp": bad}))


def test_each_changed_character_of_a_token_is_noticed() -> None:
    token = signed()
    for place in range(0, len(token), 7):
        changed = "A" if token[place] != "A" else "B"
        with pytest.raises(ValueError, match=r"."):
            verify(token[:place] + changed + token[place + 1 :])


def _part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def _unsigned(algorithm: str) -> str:
    return f"{_part({'alg': algorithm, 'kid': KEY.kid})}.{_part({'sub': str(ID)})}."


def _swapped(claims: dict[str, Any]) -> str:
    """The header and signature of a good token around other claims."""
    header, _, signature = signed().split(".")
    return f"{header}.{_part({'aud': ['db'], 'exp': NOW + 300} | claims)}.{signature}"


def _signed_claims(claims: dict[str, Any]) -> str:
    return jwt.PyJWS().encode(
        json.dumps(claims).encode(), KEY.private, "ES256", headers={"kid": KEY.kid}
    )

"""SPIFFE IDs, parsed to the letter of the standard."""

import subprocess
import sys

import pytest

from runtime.identity.spiffe import SpiffeId

GOOD = [
    "spiffe://a",
    "spiffe://aurae.local",
    "spiffe://a_b-c.9/node/dev",
    "spiffe://td/A.Z_0-9/.../x",
    "spiffe://td/..a/b..",
    "spiffe://" + "a" * 255,
    "spiffe://td/" + "p" * (2048 - len("spiffe://td/")),
]

BAD = [
    ("", "begin with spiffe://"),
    ("spiffe:/td/x", "begin with spiffe://"),
    ("SPIFFE://td/x", "begin with spiffe://"),
    ("https://td/x", "begin with spiffe://"),
    (" spiffe://td/x", "begin with spiffe://"),
    ("spiffe://", "trust domain is empty"),
    ("spiffe:///x", "trust domain is empty"),
    ("spiffe://TD/x", "trust domain has 'T'"),
    ("spiffe://td:80/x", "trust domain has ':'"),
    ("spiffe://me@td/x", "trust domain has '@'"),
    ("spiffe://t%64/x", "trust domain has '%'"),
    ("spiffe://tä/x", r"trust domain has '\xe4'"),
    ("spiffe://td?x", "trust domain has '?'"),
    ("spiffe://td#x", "trust domain has '#'"),
    ("spiffe://td\n", r"trust domain has '\n'"),
    ("spiffe://" + "a" * 256, "256 characters; at most 255"),
    ("spiffe://td/", "segment is empty"),
    ("spiffe://td/x/", "segment is empty"),
    ("spiffe://td//x", "segment is empty"),
    ("spiffe://td/./x", "segment '.'"),
    ("spiffe://td/x/..", "segment '..'"),
    ("spiffe://td/x?y", "path has '?'"),
    ("spiffe://td/x#y", "path has '#'"),
    ("spiffe://td/x%20y", "path has '%'"),
    ("spiffe://td/x y", "path has ' '"),
    ("spiffe://td/x\n", r"path has '\n'"),
    ("spiffe://td/x:y", "path has ':'"),
    ("spiffe://td/" + "p" * (2049 - len("spiffe://td/")), "2049 bytes"),
]


@pytest.mark.parametrize("text", GOOD, ids=lambda text: text[:30])
def test_a_valid_id_is_itself_again(text: str) -> None:
    assert str(SpiffeId.parse(text)) == text


@pytest.mark.parametrize(("text", "rule"), BAD, ids=[text[:30] or "empty" for text, _ in BAD])
def test_an_invalid_id_is_refused_with_the_rule_it_breaks(text: str, rule: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011  the message is compared below
        SpiffeId.parse(text)
    assert rule in str(refused.value)
    assert len(str(refused.value)) < 250


def test_no_value_of_the_type_is_invalid() -> None:
    with pytest.raises(ValueError, match="does not begin with /"):
        SpiffeId("td", "node/x")


def test_below_says_what_follows_a_path() -> None:
    ann = SpiffeId.parse("spiffe://td/person/ann")
    assert ann.below("/person/") == "ann"
    assert ann.below("/node/") is None
    assert SpiffeId.parse("spiffe://td/personal").below("/person/") is None


def test_importing_it_does_not_import_cryptography() -> None:
    code = "import runtime.identity.spiffe, runtime.identity.svid, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert not {"cryptography", "grpc", "asyncio"} & set(loaded)

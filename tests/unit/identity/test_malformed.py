"""Certificates malformed from valid ones: none is believed that the standards refuse.

With AURAE_SOAK=1 the counts are large. `make soak` runs this file too.
"""

import os
import random
import subprocess
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from runtime.identity import authority, requests, svid
from runtime.identity.bundles import Bundle
from runtime.identity.revocation import Revocations
from tests.unit.identity import malformed
from tests.unit.identity.malformed import NOW

SOAK = bool(os.environ.get("AURAE_SOAK"))
CASES = 20_000 if SOAK else 600
DAMAGES = 20_000 if SOAK else 500
SEED = int(os.environ.get("AURAE_SEED", "1"))

# One word of each reason that must have come up: the changes reach all rules.
REASONS = (
    *("SPIFFE ID", "URI names", "needs a path", "must be critical", "another authority"),
    *("digitalSignature", "keyCertSign", "is an authority's", "both serverAuth", "not critical"),
    *("expired", "not valid before", "longer than", "no certificate authority", "not signed by"),
    *("its key is", "serial number", "critical extension", "cannot be read", "in PEM"),
    *("signer does not allow", "signer excludes", "name constraints", "neither URI nor DNS"),
    *("signed by", "bytes of them", "certificates: 3", "RSA key has 1024 bits"),
)


def verdict(chain: bytes, root: bytes) -> str:
    """Empty if `chain` is believed. Anything but a ValueError goes through."""
    try:
        svid.verify(chain, root, now=NOW)
    except ValueError as e:
        return reason(e)
    return ""


def reason(refusal: ValueError) -> str:
    said = str(refusal)
    assert said.strip()
    assert said.isprintable()
    assert len(said) < 500
    return said


def test_the_chain_that_all_are_made_from_is_believed() -> None:
    made = malformed.valid()
    chain, root = made.encode()
    assert made.complaints() == []
    assert verdict(malformed.pem(chain), malformed.pem([root])) == ""


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_none_is_believed_that_the_standards_refuse(tmp_path: Path) -> None:
    reasons: Counter[str] = Counter()
    believed: list[tuple[malformed.Case, bytes, bytes]] = []
    for seed in range(SEED * 1_000_000, SEED * 1_000_000 + CASES):
        made = malformed.case(seed)
        chain, root = (malformed.pem(part) for part in _encoded(made))
        said = verdict(chain, root)
        reasons.update(word for word in REASONS if word in said)
        if not said:
            believed.append((made, chain, root))
            assert made.complaints() == [], f"case {seed}, {made.changes}: believed"
    # Neither everything nor nothing: the changes that leave a valid chain valid are seen, too.
    assert CASES // 20 < len(believed) < CASES // 2
    if SOAK:
        assert reasons.keys() == set(REASONS)
    # OpenSSL ends validity a second earlier than RFC 5280, which counts the last one.
    timely = [each for each in believed if "other_dates" not in each[0].changes]
    for _, chain, root in timely[:: len(timely) // 20]:
        _openssl_believes_it_too(tmp_path, chain, root)


def _encoded(made: malformed.Case) -> tuple[list[bytes], list[bytes]]:
    chain, root = made.encode()
    return chain, [root]


def _openssl_believes_it_too(folder: Path, chain: bytes, root: bytes) -> None:
    for name, content in (("chain.pem", chain), ("root.pem", root)):
        (folder / name).write_bytes(content)
    at = str(int(NOW.timestamp()))
    line = ["openssl", "verify", "-attime", at, "-CAfile", "root.pem", "-untrusted", "chain.pem"]
    done = subprocess.run(
        [*line, "chain.pem"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_damaged_bytes_of_all_kinds_are_refused_with_a_reason() -> None:
    """A bundle, a list, a request and a chain, whose bytes change without anybody signing them."""
    key = authority.make_key(authority.KeyType.ECDSA_P256)
    day = timedelta(days=1)
    signer = authority.make_authority("example.org", key, validity=day)
    bundle = Bundle.from_pem("example.org", signer.certificate)
    crl = authority.revoke(signer, [authority.Revoked(7)], validity=day)
    roots = svid.certificates(signer.certificate)
    readers: tuple[tuple[bytes, Callable[[bytes], object]], ...] = (
        (bundle.to_json(), lambda data: Bundle.from_json("example.org", data)),
        (signer.certificate, lambda data: Bundle.from_pem("example.org", data)),
        (crl, lambda data: Revocations.parse(data, roots)),
        (requests.make(key), requests.public_key),
        (signer.certificate, svid.parse),
        (b"", svid.certificates),
    )
    chance = random.Random(SEED)
    for _ in range(DAMAGES):
        whole, read = chance.choice(readers)
        data = bytearray(whole or chance.randbytes(40))
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            read(bytes(data[: chance.choice((len(data), chance.randint(0, len(data))))]))
        except ValueError as e:
            reason(e)

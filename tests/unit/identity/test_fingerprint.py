"""Fingerprints: read, misread, and told apart."""

import itertools
import random
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from runtime.identity import authority, fingerprint
from runtime.identity.authority import KeyType
from runtime.identity.fingerprint import KEY, LENGTH, SECRET, Fingerprint
from runtime.identity.words import WORDS

SHOWN = Fingerprint(bytes(range(KEY)), b"\xff" * SECRET)


def distance(a: str, b: str) -> int:
    """How many letters must be changed, left out or put in."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        above, row = row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (x != y)))
    return row[-1]


def test_words_are_bytes_and_no_two_are_taken_for_each_other() -> None:
    assert len(set(WORDS)) == 256
    assert list(WORDS) == sorted(WORDS)
    assert len({word[:3] for word in WORDS}) == 256
    for word in WORDS:
        assert word.isascii()
        assert word.isalpha()
        assert word.islower()
        assert 3 <= len(word) <= 7
    for one, other in itertools.combinations(WORDS, 2):
        assert distance(one, other) >= 3, (one, other)


@pytest.mark.parametrize("change", [str, str.upper, lambda t: t.replace(" ", "-"), str.title])
def test_words_and_base32_are_read_as_they_may_be_typed(change: object) -> None:
    assert callable(change)
    assert Fingerprint.parse(change(SHOWN.words())) == SHOWN
    assert Fingerprint.parse(f"\n {SHOWN.base32()} ") == SHOWN
    assert Fingerprint.parse(SHOWN.base32().lower()) == SHOWN


def test_three_letters_of_a_word_are_enough() -> None:
    assert Fingerprint.parse(" ".join(word[:3] for word in SHOWN.words().split())) == SHOWN


def test_it_has_eighty_bits_of_the_key_forty_of_secret_and_a_checksum() -> None:
    assert KEY * 8 >= 80
    assert SECRET * 8 >= 40
    assert len(SHOWN.words().split()) == LENGTH == KEY + SECRET + 1
    assert len(SHOWN.base32()) == 26


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "has 0 words; the node shows 16"),
        ("able acid", "has 2 words; the node shows 16"),
        (SHOWN.words() + " able", "has 17 words"),
        (SHOWN.words().replace("able", "cable"), "misread: cable is none of its words"),
        (SHOWN.words().replace("acid", "acic"), "did you mean acid?"),
        (SHOWN.words().replace("acid", "ac"), "misread: ac is none of its words"),
        (SHOWN.words().replace("acid", "april"), "its checksum is wrong"),
        ("A" * 26, "its checksum is wrong"),
        ("1" * 26, "has 0 words"),
    ],
)
def test_what_is_misread_is_told(text: str, told: str) -> None:
    with pytest.raises(ValueError, match="fingerprint") as caught:
        Fingerprint.parse(text)
    assert told in str(caught.value)


def test_a_checksum_finds_words_that_changed_places() -> None:
    chance = random.Random(4)
    words = SHOWN.words().split()
    found = 0
    for _ in range(200):
        mixed = chance.sample(words, len(words))
        try:
            found += Fingerprint.parse(" ".join(mixed)) == SHOWN
        except ValueError:
            found += 1
    assert found >= 190


def test_it_is_of_the_key_and_not_of_what_else_a_certificate_says() -> None:
    key = authority.make_key(KeyType.ECDSA_P256)
    validity = timedelta(days=1)
    found = set()
    for domain in ("example.org", "example.net"):
        made = authority.make_authority(domain, key, validity=validity)
        der = x509.load_pem_x509_certificate(made.certificate).public_bytes(Encoding.DER)
        found.add(fingerprint.of_certificate(der))
    assert len(found) == 1
    other = authority.make_authority(
        "example.org", authority.make_key(KeyType.ECDSA_P256), validity=validity
    )
    der = x509.load_pem_x509_certificate(other.certificate).public_bytes(Encoding.DER)
    assert fingerprint.of_certificate(der) not in found


def test_a_certificate_that_cannot_be_read_is_a_value_error() -> None:
    with pytest.raises(ValueError, match=r"pars|ASN"):
        fingerprint.of_certificate(b"\x30\x03abc")


def test_it_does_not_show_its_secret() -> None:
    assert repr(SHOWN) == "Fingerprint(…)"

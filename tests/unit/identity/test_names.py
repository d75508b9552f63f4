"""URI names read from DER, against certificates that `cryptography` makes."""

import random

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from runtime.identity.names import first_certificate, uris
from tests.unit.runtime.certificates import forge, make_authority


@pytest.mark.parametrize(
    "names",
    [(), ("spiffe://example.org/node/a",), ("spiffe://a/" + "long/" * 60, "https://example.org/")],
)
def test_the_names_are_those_that_were_written(names: tuple[str, ...]) -> None:
    pair = forge(make_authority(), *names)
    assert uris(first_certificate(pair.certificate)) == list(names)


def test_of_a_chain_the_first_certificate_counts() -> None:
    signer = make_authority()
    pair = forge(signer, "spiffe://example.org/node/a")
    leaf = first_certificate(pair.certificate)
    assert first_certificate(pair.certificate + signer.certificate) == leaf
    assert x509.load_der_x509_certificate(leaf).public_bytes(Encoding.DER) == leaf


@pytest.mark.parametrize("text", [b"", b"-----BEGIN CERTIFICATE-----\nAAAA", b"nothing"])
def test_what_is_no_certificate_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="no certificate begins and ends"):
        first_certificate(text)


def test_damage_is_a_value_error_or_other_names_and_never_something_else() -> None:
    whole = first_certificate(forge(make_authority(), "spiffe://example.org/node/a").certificate)
    chance = random.Random(1)
    for _ in range(3000):
        damaged = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        cut = bytes(damaged[: chance.randint(0, len(damaged))])
        try:
            found = uris(cut)
        except ValueError:
            continue
        assert all(isinstance(name, str) for name in found)

"""Certificates for keys that their owner does not give away."""

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding

from runtime.identity import authority, request, svid
from runtime.identity.authority import KeyType, Pair
from runtime.identity.spiffe import SpiffeId

DAY = timedelta(days=1)
NODE = SpiffeId("example.org", "/node/one")


@pytest.fixture(scope="module", params=list(KeyType))
def signer(request: pytest.FixtureRequest) -> Pair:
    key = authority.make_key(request.param)
    return authority.make_authority("example.org", key, validity=30 * DAY)


@pytest.fixture(scope="module")
def key() -> bytes:
    return authority.make_key(KeyType.ECDSA_P256)


def test_an_svid_is_as_one_that_was_issued_with_its_key(signer: Pair, key: bytes) -> None:
    asked = request.make_request(key)
    made = request.issue(signer, NODE, asked, dns_name="one.node.example.org", validity=DAY)
    found = svid.verify(made, signer.certificate)
    assert (found.id, found.dns_name) == (NODE, "one.node.example.org")
    svid.match_key(made, key)
    with_key = authority.issue(
        signer, NODE, key, dns_name="one.node.example.org", validity=DAY
    ).certificate
    one, other = (x509.load_pem_x509_certificate(pem) for pem in (made, with_key))
    assert one.serial_number != other.serial_number
    assert list(one.extensions) == list(other.extensions)
    assert (one.subject, one.issuer) == (other.subject, other.issuer)


def test_an_intermediate_signs_for_its_holder(signer: Pair, key: bytes) -> None:
    made = request.issue_intermediate(signer, "one", request.make_request(key), validity=DAY)
    workload = SpiffeId("example.org", "/node/one/cell/web")
    issued = authority.issue(Pair(made, key), workload, key, validity=timedelta(hours=1))
    assert svid.verify(issued.certificate + made, signer.certificate).id == workload


def test_a_request_proves_its_key(key: bytes) -> None:
    asked = request.make_request(key)
    der = bytearray(x509.load_pem_x509_csr(asked).public_bytes(Encoding.DER))
    der[-1] ^= 1
    changed = x509.load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM)
    with pytest.raises(ValueError, match="not signed by its own key"):
        request.public_bytes(changed)


@pytest.mark.parametrize("text", [b"", b"-----BEGIN CERTIFICATE REQUEST-----\n", b"\0" * 100])
def test_what_is_no_request_is_told(text: bytes) -> None:
    with pytest.raises(ValueError, match="not a signing request"):
        request.public_bytes(text)


def test_other_keys_are_refused() -> None:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    curve = builder.sign(ec.generate_private_key(ec.SECP384R1()), hashes.SHA256())
    edwards = builder.sign(ed25519.Ed25519PrivateKey.generate(), None)
    for made in (curve, edwards):
        with pytest.raises(ValueError, match="not ECDSA P-256"):
            request.public_bytes(made.public_bytes(Encoding.PEM))
    with pytest.raises(ValueError, match="not ECDSA P-256"):
        request.make_request(authority.make_key(KeyType.ED25519))

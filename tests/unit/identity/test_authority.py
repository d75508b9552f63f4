"""Certificates that we issue, judged by openssl, and by what an SVID may and may not be."""

import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from runtime.identity import authority, svid
from runtime.identity.authority import KeyType, Pair
from runtime.identity.spiffe import SpiffeId
from runtime.identity.store import PairFiles

DAY = timedelta(days=1)
NODE = SpiffeId.parse("spiffe://example.org/node/one")
ANN = SpiffeId.parse("spiffe://example.org/person/ann")


def make_authority(key_type: KeyType = KeyType.ECDSA_P256) -> Pair:
    return authority.make_authority("example.org", authority.make_key(key_type), validity=30 * DAY)


def issue(signer: Pair, spiffe_id: SpiffeId, **options: object) -> Pair:
    key = authority.make_key(KeyType.ECDSA_P256)
    return authority.issue(signer, spiffe_id, key, **{"validity": DAY, **options})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def signer() -> Pair:
    return make_authority()


def openssl(*words: str | Path) -> str:
    return subprocess.run(["openssl", *words], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("leaf_type", KeyType)
@pytest.mark.parametrize("authority_type", KeyType)
def test_openssl_verifies_what_we_issue(
    tmp_path: Path, authority_type: KeyType, leaf_type: KeyType
) -> None:
    signer = make_authority(authority_type)
    key = authority.make_key(leaf_type)
    pair = authority.issue(signer, NODE, key, dns_name="one.node.example.org", validity=DAY)
    PairFiles.at(tmp_path / "ca").write(signer)
    PairFiles.at(tmp_path / "one").write(pair)
    for purpose in ("sslserver", "sslclient"):
        openssl(
            *("verify", "-x509_strict", "-purpose", purpose),
            *("-verify_hostname", "one.node.example.org"),
            *("-CAfile", tmp_path / "ca.crt", tmp_path / "one.crt"),
        )
    public = openssl("x509", "-in", tmp_path / "one.crt", "-noout", "-pubkey")
    assert public == openssl("pkey", "-in", tmp_path / "one.key", "-pubout")


def test_openssl_reads_the_profile_of_a_node(tmp_path: Path, signer: Pair) -> None:
    file = tmp_path / "one.crt"
    file.write_bytes(issue(signer, NODE, dns_name="one.node.example.org").certificate)
    text = " ".join(openssl("x509", "-in", file, "-noout", "-text").split())
    for claim in (
        "Issuer: O = example.org Validity",
        "Subject: Subject Public Key Info:",
        "ASN1 OID: prime256v1",
        "Basic Constraints: critical CA:FALSE",
        "Key Usage: critical Digital Signature X509v3",
        "Extended Key Usage: TLS Web Server Authentication, TLS Web Client Authentication X509v3",
        "critical URI:spiffe://example.org/node/one, DNS:one.node.example.org X509v3",
        "Subject Key Identifier:",
        "Authority Key Identifier:",
    ):
        assert claim in text


def test_openssl_reads_the_profile_of_an_authority(tmp_path: Path, signer: Pair) -> None:
    file = tmp_path / "ca.crt"
    file.write_bytes(signer.certificate)
    text = " ".join(openssl("x509", "-in", file, "-noout", "-text").split())
    for claim in (
        "Subject: O = example.org Subject",
        "Basic Constraints: critical CA:TRUE, pathlen:1",
        "Key Usage: critical Certificate Sign, CRL Sign X509v3",
        "Subject Alternative Name: URI:spiffe://example.org X509v3",
    ):
        assert claim in text


def test_serial_numbers_are_random_and_long(signer: Pair) -> None:
    serials = {svid.certificates(issue(signer, ANN).certificate)[0].serial_number for _ in range(8)}
    assert len(serials) == 8
    # 159 bits: a dozen leading zeros in all eight would be no accident.
    assert max(serials).bit_length() > 147


def test_an_svid_is_valid_a_little_before_now_and_ends_with_its_authority(signer: Pair) -> None:
    now = datetime.now(UTC)
    issued = svid.parse(issue(signer, ANN, validity=1000 * DAY).certificate)
    assert issued.not_before < now
    assert issued.not_after == svid.certificates(signer.certificate)[0].not_valid_after_utc


def test_an_authority_does_not_issue_for_another_trust_domain(signer: Pair) -> None:
    with pytest.raises(ValueError, match="which is another authority"):
        issue(signer, SpiffeId.parse("spiffe://other.org/person/ann"))


def test_an_authority_does_not_issue_for_a_trust_domain_itself(signer: Pair) -> None:
    with pytest.raises(ValueError, match="needs a path"):
        issue(signer, SpiffeId("example.org"))


def test_a_person_gets_no_dns_name(signer: Pair) -> None:
    with pytest.raises(ValueError, match="only nodes may"):
        issue(signer, ANN, dns_name="ann.example.org")


@pytest.mark.parametrize("name", ["*.example.org", "10.0.0.1", "a..b", "A.org", "-a.org", "a" * 64])
def test_a_dns_name_is_one_host(signer: Pair, name: str) -> None:
    with pytest.raises(ValueError, match=r"no DNS name|looks like an address"):
        issue(signer, NODE, dns_name=name)


def test_an_expired_authority_does_not_issue() -> None:
    long_ago = datetime.now(UTC) - 60 * DAY
    key = authority.make_key(KeyType.ECDSA_P256)
    old = authority.make_authority("example.org", key, validity=30 * DAY, now=long_ago)
    with pytest.raises(ValueError, match="expired on"):
        issue(old, ANN)


def test_an_authority_with_another_ones_key_does_not_issue(signer: Pair) -> None:
    mixed = Pair(signer.certificate, authority.make_key(KeyType.ECDSA_P256))
    with pytest.raises(ValueError, match="of two pairs"):
        issue(mixed, ANN)


def test_verify_believes_its_own_authority_only(signer: Pair) -> None:
    ann = issue(signer, ANN)
    assert svid.verify(ann.certificate, signer.certificate).id == ANN
    with pytest.raises(ValueError, match="not signed by the trust bundle"):
        svid.verify(ann.certificate, make_authority().certificate)


def test_verify_finds_the_authority_among_several(signer: Pair) -> None:
    bundle = make_authority().certificate + signer.certificate
    assert svid.verify(issue(signer, ANN).certificate, bundle).id == ANN


def test_verify_looks_at_the_clock(signer: Pair) -> None:
    ann = issue(signer, ANN)
    now = datetime.now(UTC)
    for offset, said in ((2 * DAY, "expired on"), (-2 * DAY, "not valid before")):
        with pytest.raises(ValueError, match=said):
            svid.verify(ann.certificate, signer.certificate, now=now + offset)


def test_a_leaf_signs_nothing(signer: Pair) -> None:
    """The chain eve → ann → authority: ann is no authority, whatever her key can sign."""
    key = authority.make_key(KeyType.ECDSA_P256)
    ann = Pair(forged(signer, lambda builder: builder, key=key, subject=NAME), key)
    assert svid.verify(ann.certificate, signer.certificate).id == ANN
    eve = forged(ann, lambda builder: builder)
    with pytest.raises(ValueError, match="no certificate authority"):
        svid.verify(eve + ann.certificate, signer.certificate)


@pytest.mark.parametrize(
    ("path_length", "uri", "said"),
    [
        (None, "spiffe://example.org", None),
        (1, "spiffe://example.org", None),
        (0, "spiffe://example.org", "longer than its authority allows"),
        (1, "spiffe://other.org", "which is another authority"),
    ],
)
def test_a_chain_is_as_long_as_its_authority_allows(
    path_length: int | None, uri: str, said: str | None
) -> None:
    """ann → an intermediate of `uri` → a root of that path length."""
    root, root_key = _signer("spiffe://example.org", path_length, None)
    intermediate, key = _signer(uri, None, root_key)
    chain = forged(Pair(intermediate, key), lambda builder: builder) + intermediate
    if said is None:
        assert svid.verify(chain, root).id == ANN
        # The anchor may be the intermediate itself, too.
        assert svid.verify(chain, intermediate).id == ANN
        with pytest.raises(ValueError, match="not signed by the trust bundle"):
            svid.verify(svid.certificates(chain)[0].public_bytes(PEM), root)
    else:
        with pytest.raises(ValueError, match=said):
            svid.verify(chain, root)


def test_an_authority_that_may_have_none_below_it_makes_none() -> None:
    root, key = _signer("spiffe://example.org", 0, None)
    with pytest.raises(ValueError, match="may have none below it"):
        authority.make_intermediate(Pair(root, key), key, "one", validity=DAY)


def test_a_key_belongs_to_its_certificate(signer: Pair) -> None:
    ann, other = issue(signer, ANN), issue(signer, ANN)
    svid.match_key(ann.certificate, ann.key)
    with pytest.raises(ValueError, match="of two pairs"):
        svid.match_key(ann.certificate, other.key)


PEM = serialization.Encoding.PEM
NAME = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "an authority")])
BELOW = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "one below it")])
URI = x509.UniformResourceIdentifier
DNS = x509.DNSName

Change = Callable[[x509.CertificateBuilder], x509.CertificateBuilder]

USAGE = {
    "digital_signature": True,
    "key_cert_sign": False,
    "crl_sign": False,
    "content_commitment": False,
    "key_encipherment": False,
    "data_encipherment": False,
    "key_agreement": False,
    "encipher_only": False,
    "decipher_only": False,
}


def forged(
    signer: Pair,
    change: Change,
    *,
    names: list[x509.GeneralName] | None = None,
    key: bytes | None = None,
    subject: x509.Name | None = None,
) -> bytes:
    """A certificate that `authority` would not make, signed by its key all the same."""
    public = svid.private_key(key or authority.make_key(KeyType.ECDSA_P256)).public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    signing = serialization.load_pem_private_key(signer.key, None)
    assert isinstance(signing, ec.EllipticCurvePrivateKey)
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject or x509.Name([]))
        .issuer_name(svid.certificates(signer.certificate)[0].subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - DAY)
        .not_valid_after(now + DAY)
    )
    names = [x509.UniformResourceIdentifier(str(ANN))] if names is None else names
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
    builder = change(builder)
    if not any(extension.oid == x509.KeyUsage.oid for extension in builder._extensions):
        builder = builder.add_extension(x509.KeyUsage(**USAGE), critical=True)
    return builder.sign(signing, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _signer(uri: str, path_length: int | None, above: bytes | None) -> tuple[bytes, bytes]:
    """An authority's certificate and key; signed by the key `above`, or by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    signing = serialization.load_pem_private_key(above or pem, None)
    assert isinstance(signing, ec.EllipticCurvePrivateKey)
    usage = {**USAGE, "digital_signature": False, "key_cert_sign": True}
    certificate = (
        x509.CertificateBuilder()
        .subject_name(BELOW if above else NAME)
        .issuer_name(NAME)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - DAY)
        .not_valid_after(datetime.now(UTC) + DAY)
        .add_extension(x509.BasicConstraints(True, path_length), critical=True)
        .add_extension(x509.KeyUsage(**usage), critical=True)
        .add_extension(x509.SubjectAlternativeName([URI(uri)]), critical=True)
        .sign(signing, hashes.SHA256())
    )
    return certificate.public_bytes(PEM), pem


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], "has 0 URI names"),
        ([DNS("a.org")], "has 0 URI names"),
        ([URI(str(ANN)), URI(str(NODE))], "has 2 URI names"),
        ([URI("https://example.org/x")], "does not begin with spiffe://"),
        ([URI("spiffe://example.org")], "needs a path"),
        ([URI("spiffe://example.org/a/../b")], "no . and no .."),
        ([URI(str(ANN)), DNS("a.org")], "only nodes may"),
        ([URI(str(NODE)), DNS("a.org"), DNS("b.org")], "has 2 DNS names"),
        ([URI(str(NODE)), DNS("*.example.org")], "no DNS name"),
        ([URI(str(NODE)), x509.RFC822Name("a@example.org")], "neither URI nor DNS"),
    ],
)
def test_names_that_no_svid_has(signer: Pair, names: list[x509.GeneralName], said: str) -> None:
    pem = forged(signer, lambda builder: builder, names=names)
    with pytest.raises(ValueError, match=said):
        svid.parse(pem)


def _usage(**changed: bool) -> Change:
    return lambda b: b.add_extension(x509.KeyUsage(**{**USAGE, **changed}), critical=True)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_usage(digital_signature=False), "lacks digitalSignature"),
        (_usage(key_cert_sign=True), "keyCertSign or cRLSign"),
        (_usage(crl_sign=True), "keyCertSign or cRLSign"),
        (
            lambda b: b.add_extension(x509.BasicConstraints(True, None), critical=True),
            "is an authority's",
        ),
        (
            lambda b: b.add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
            ),
            "both serverAuth and clientAuth",
        ),
    ],
)
def test_usages_that_no_svid_has(signer: Pair, change: Change, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        svid.parse(forged(signer, change))


def test_an_authority_is_no_svid(signer: Pair) -> None:
    with pytest.raises(ValueError, match="is an authority's"):
        svid.parse(signer.certificate)


@pytest.mark.parametrize("pem", [b"", b"nonsense", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_a_broken_file_is_no_certificate(pem: bytes) -> None:
    with pytest.raises(ValueError, match="not a certificate in PEM"):
        svid.parse(pem)


@pytest.mark.parametrize("pem", [b"", b"nonsense", b"-----BEGIN PRIVATE KEY-----\nAAAA\n"])
def test_a_broken_file_is_no_key(pem: bytes) -> None:
    with pytest.raises(ValueError, match="not a private key in PEM"):
        svid.private_key(pem)

"""`aer pki`: what lies in the folder afterwards, and what is refused."""

import stat
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from aer.client import Config
from runtime.identity import authority, store, svid
from runtime.identity.spiffe import SpiffeId

from .conftest import Result

Aer = Callable[..., Result]


@pytest.fixture
def folder(aer: Aer, tmp_path: Path) -> Path:
    """A trust domain with a node and a person, both named dev."""
    folder = tmp_path / "pki"
    for words in (
        ("init", "--trust-domain", "example.org"),
        ("issue", "node", "dev"),
        ("issue", "person", "dev"),
    ):
        done = aer("pki", *words, "--dir", str(folder))
        assert (done.status, done.err) == (0, "")
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_folder_holds_three_pairs(folder: Path) -> None:
    assert set(files(folder)) == {
        *("ca.crt", "ca.key"),
        *("node/dev.crt", "node/dev.key"),
        *("person/dev.crt", "person/dev.key"),
    }
    for path in folder.rglob("*.key"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for path in (folder, folder / "node", folder / "person"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_a_node_is_named_after_the_trust_domain(folder: Path) -> None:
    bundle = (folder / "ca.crt").read_bytes()
    node = svid.verify((folder / "node/dev.crt").read_bytes(), bundle)
    assert str(node.id) == "spiffe://example.org/node/dev"
    assert node.dns_name == "dev.node.example.org"
    person = svid.verify((folder / "person/dev.crt").read_bytes(), bundle)
    assert str(person.id) == "spiffe://example.org/person/dev"
    assert person.dns_name is None


def test_a_tenants_people_are_below_the_tenant(aer: Aer, folder: Path) -> None:
    done = aer("pki", "issue", "tenant", "acme/ann", "--dir", str(folder))
    assert (done.status, done.err) == (0, "")
    issued = svid.verify((folder / "tenant/acme/ann.crt").read_bytes(), bundle(folder))
    assert str(issued.id) == "spiffe://example.org/tenant/acme/ann"


def test_a_nodes_authority_signs_for_its_workloads(aer: Aer, folder: Path) -> None:
    done = aer("pki", "issue", "node-ca", "dev", "--dir", str(folder))
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith("spiffe://example.org/node/dev/…: ")
    node_ca = store.PairFiles.at(folder / "node/dev.ca").load()
    cell = SpiffeId.parse("spiffe://example.org/node/dev/cell/web")
    key = authority.make_key(authority.KeyType.ECDSA_P256)
    leaf = authority.issue(node_ca, cell, key, validity=timedelta(hours=1))
    assert svid.verify(leaf.certificate + node_ca.certificate, bundle(folder)).id == cell


def bundle(folder: Path) -> bytes:
    return (folder / "ca.crt").read_bytes()


def test_nothing_is_made_twice(aer: Aer, folder: Path) -> None:
    before = files(folder)
    for words in (
        ("init", "--trust-domain", "example.org"),
        ("issue", "node", "dev"),
        ("issue", "person", "dev"),
    ):
        done = aer("pki", *words, "--dir", str(folder))
        assert done.status == 1
        assert "exists already, and is left as it is" in done.err
    assert files(folder) == before


def test_a_certificate_that_was_removed_is_issued_again_for_the_same_key(
    aer: Aer, folder: Path
) -> None:
    """So a crash between key and certificate is mended by the same command, and so is expiry."""
    key = (folder / "node/dev.key").read_bytes()
    (folder / "node/dev.crt").unlink()
    assert aer("pki", "issue", "node", "dev", "--dir", str(folder)).status == 0
    assert (folder / "node/dev.key").read_bytes() == key
    svid.match_key((folder / "node/dev.crt").read_bytes(), key)


def test_a_node_may_have_another_dns_name(aer: Aer, folder: Path) -> None:
    words = ("issue", "node", "Big_One", "--dir", str(folder))
    done = aer("pki", *words)
    assert done.status == 2
    assert "no DNS name" in done.err
    assert done.err.endswith("(give it another by --dns)\n")
    assert aer("pki", *words, "--dns", "big.example.net").status == 0
    issued = svid.parse((folder / "node/Big_One.crt").read_bytes())
    assert issued.dns_name == "big.example.net"


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ("init --trust-domain Example.org", 2, "trust domain has 'E'"),
        ("init --trust-domain a/b", 2, "trust domain has '/'"),
        ("init", 2, "required: --trust-domain"),
        ("init --trust-domain x --key-type rsa", 2, "invalid choice: 'rsa'"),
        ("init --trust-domain x --validity long", 2, "'long' is no duration"),
        ("issue node ../dev", 2, "the path has '/'"),
        ("issue person ..", 2, "no . and no .."),
        ("issue person ann --dns a.org", 2, "unrecognized arguments"),
        ("issue tenant acme", 2, "write TENANT/NAME"),
        ("issue tenant acme/..", 2, "no . and no .."),
        ("issue tenant acme/a/b", 2, "the path has '/'"),
        ("issue person ann", 1, "nothing can be issued\n(aer pki init"),
        ("inspect none.crt", 1, "none.crt: No such file"),
        ("renew none.crt", 1, "none.crt: No such file"),
        ("revoke --serial xyz", 2, "'xyz' is no serial number"),
        ("revoke --serial 0", 2, "'0' is no serial number"),
        ("revoke", 1, "nothing can be issued\n(aer pki init"),
        ("bundle show", 1, "nothing can be issued\n(aer pki init"),
        ("export spire x", 1, "nothing can be issued\n(aer pki init"),
    ],
)
def test_what_is_refused_leaves_nothing(
    aer: Aer, tmp_path: Path, words: str, status: int, said: str
) -> None:
    folder = tmp_path / "none"
    where = [] if words.startswith("inspect") else ["--dir", str(folder)]
    done = aer("pki", *words.split(), *where)
    assert (done.status, done.out) == (status, "")
    assert said in done.err
    assert not folder.exists()


def test_ed25519_is_issued_with_a_warning_that_grpc_refuses_it(aer: Aer, folder: Path) -> None:
    done = aer("pki", "issue", "node", "ed", "--key-type", "ed25519", "--dir", str(folder))
    assert done.status == 0
    assert "gRPC accepts no Ed25519 key of a peer" in done.err
    text = subprocess.run(
        ["openssl", "x509", "-in", folder / "node/ed.crt", "-noout", "-text"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "Public Key Algorithm: ED25519" in text


def test_validity_is_as_asked(aer: Aer, folder: Path) -> None:
    words = ("issue", "person", "guest", "--validity", "2h", "--dir", str(folder))
    assert aer("pki", *words).status == 0
    guest = svid.parse((folder / "person/guest.crt").read_bytes())
    # Two hours, and ten minutes before now for clocks that are behind.
    assert (guest.not_after - guest.not_before).total_seconds() == 7800


def test_a_configuration_that_was_written_is_read(aer: Aer, folder: Path, tmp_path: Path) -> None:
    target = tmp_path / 'a "b"' / "config"
    words = ("config", "dev", "dev", "[::1]:8080", "--dir", str(folder))
    assert aer("pki", *words, "--to", str(target)).status == 0
    config = Config.load(target)
    assert str(config.socket) == "[::1]:8080"
    assert config.server_name == "dev.node.example.org"
    assert config.ca_crt == folder / "ca.crt"
    assert config.client_crt == folder / "person/dev.crt"
    assert config.client_key == folder / "person/dev.key"
    assert aer("pki", *words).out == target.read_text()
    again = aer("pki", *words, "--to", str(target))
    assert again.status == 1
    assert "exists already" in again.err


def test_a_configuration_needs_the_persons_svid(aer: Aer, folder: Path) -> None:
    done = aer("pki", "config", "eve", "dev", "[::1]:8080", "--dir", str(folder))
    assert done.status == 1
    assert done.err.endswith("person/eve.crt: does not exist\n(aer pki issue person eve)\n")


def test_a_broken_configuration_is_no_matter_to_pki(aer: Aer, home: Path, tmp_path: Path) -> None:
    (home / ".aurae/config").write_text("nonsense")
    words = ("init", "--trust-domain", "x", "--dir", str(tmp_path / "new"))
    assert aer("pki", *words).status == 0


def test_the_default_folder_is_in_the_home(aer: Aer, home: Path) -> None:
    assert aer("pki", "init", "--trust-domain", "x").status == 0
    assert (home / ".aurae/pki/ca.crt").exists()


def test_a_key_for_secure_boot_is_rsa_with_its_own_certificate(aer: Aer, tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    done = aer("pki", "secure-boot", "--dir", str(folder), "--name", "Example")
    assert (done.status, done.err) == (0, "")
    assert set(files(folder)) == {"db.crt", "db.key"}
    assert stat.S_IMODE((folder / "db.key").stat().st_mode) == 0o600
    certificate = x509.load_pem_x509_certificate((folder / "db.crt").read_bytes())
    key = certificate.public_key()
    assert isinstance(key, rsa.RSAPublicKey)
    assert key.key_size == 2048
    assert certificate.subject.rfc4514_string() == "CN=Example"
    svid.match_key((folder / "db.crt").read_bytes(), (folder / "db.key").read_bytes())
    before = files(folder)
    again = aer("pki", "secure-boot", "--dir", str(folder))
    assert again.status == 1
    assert files(folder) == before

"""What the node finds in its credentials and in its state, and what it says of them."""

import errno
import logging
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from runtime.identity import authority
from runtime.identity.authority import KeyType, Pair
from runtime.identity.spiffe import SpiffeId
from runtime.trust.files import Files
from runtime.trust.material import Material, Unusable
from tests.unit.runtime import certificates
from tests.unit.runtime.certificates import DAY, forge, issue, make_authority, node_svid, write

NAMES = ("aurae.node.crt", "aurae.node.key", "aurae.ca.crt")


@pytest.fixture(scope="module")
def signer() -> Pair:
    return make_authority()


@pytest.fixture
def folder(tmp_path: Path, signer: Pair) -> Path:
    return write(tmp_path / "credentials", node_svid(signer), signer.certificate)


def load(folder: Path) -> tuple[Material, bool]:
    """As the node does: read, listen, verify. Also whether they are out of date."""
    files = Files(folder.parent / "identity", folder)
    files.read()
    return files.load()


def fault(folder: Path) -> str:
    with pytest.raises(Unusable) as caught:
        load(folder)
    return str(caught.value)


def test_a_usable_set_says_who_the_node_is(folder: Path) -> None:
    found, expired = load(folder)
    assert str(found.identity) == "spiffe://example.org/node/one"
    assert not expired
    assert found.key == (folder / "aurae.node.key").read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_one_is_named_with_the_remedy(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert fault(folder).startswith(f"credential {name}: is missing; pass it at boot")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("name", NAMES)
def test_a_truncated_one_is_named_with_the_remedy(folder: Path, name: str, share: float) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(len(content) * share)])
    message = fault(folder)
    assert message.startswith(f"credential {name}: ")
    assert "aer pki" in message


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_one_is_named(folder: Path, name: str) -> None:
    lines = (folder / name).read_text().splitlines()
    lines[1] = lines[1][::-1]
    (folder / name).write_text("\n".join(lines) + "\n")
    assert fault(folder).startswith(f"credential {name}: ")


def test_a_key_of_another_certificate_is_told(folder: Path, signer: Pair) -> None:
    (folder / "aurae.node.key").write_bytes(node_svid(signer).key)
    assert fault(folder).startswith(
        "credential aurae.node.key: is not the key of credential aurae.node.crt"
    )


def test_an_encrypted_key_is_told_and_asks_nothing(folder: Path) -> None:
    path = folder / "aurae.node.key"
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    encrypted = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    path.write_bytes(encrypted)
    assert fault(folder).startswith("credential aurae.node.key: is no unencrypted PEM key")


def test_a_bundle_of_another_trust_domain_is_told(folder: Path) -> None:
    (folder / "aurae.ca.crt").write_bytes(make_authority().certificate)
    message = fault(folder)
    assert message.startswith(
        "credential aurae.node.crt: credential aurae.ca.crt does not vouch for it"
    )


def test_an_expired_certificate_is_used_all_the_same(folder: Path, signer: Pair) -> None:
    old = forge(signer, "spiffe://example.org/node/one", expired=True)
    write(folder, old, signer.certificate)
    found, expired = load(folder)
    assert (str(found.identity), expired) == ("spiffe://example.org/node/one", True)


def test_a_clock_before_the_certificate_is_set_to_its_first_moment(
    tmp_path: Path, signer: Pair
) -> None:
    """A machine whose clock does not run boots with the date of its image, and is not locked out:
    TLS would refuse all who were issued later than that."""
    soon = datetime.now(UTC) + 3 * DAY
    node = authority.issue(
        signer,
        SpiffeId.parse("spiffe://example.org/node/one"),
        authority.make_key(KeyType.ECDSA_P256),
        validity=DAY,
        now=soon,
    )
    folder = write(tmp_path / "credentials", node, signer.certificate)
    times: list[float] = []
    for set_clock, told in ((times.append, True), (None, False), (refuse, False)):
        files = Files(tmp_path / "identity", folder, set_clock)
        found, expired = files.load()
        assert expired
        assert files._mend_clock(found) is told
    assert times == [(soon - authority.BACKDATED).replace(microsecond=0).timestamp()]


def refuse(_: float) -> None:
    raise PermissionError(errno.EPERM, "not permitted")


def test_an_expired_certificate_sets_no_clock(folder: Path, signer: Pair) -> None:
    write(folder, forge(signer, "spiffe://example.org/node/one", expired=True), signer.certificate)
    files = Files(folder.parent / "identity", folder, refuse)
    assert not files._mend_clock(files.load()[0])


def test_a_certificate_needs_exactly_one_uri(folder: Path, signer: Pair) -> None:
    for uris in ((), ("spiffe://example.org/node/a", "spiffe://example.org/node/b")):
        write(folder, forge(signer, *uris), signer.certificate)
        assert f"has {len(uris)} URIs" in fault(folder)
    write(folder, forge(signer, "https://example.org/"), signer.certificate)
    assert "does not begin with spiffe://" in fault(folder)


def test_an_authority_may_be_ed25519(tmp_path: Path) -> None:
    signer = make_authority(kind=KeyType.ED25519)
    folder = write(tmp_path / "ed", node_svid(signer), signer.certificate)
    assert load(folder)[0].identity.trust_domain == certificates.TRUST_DOMAIN


def test_an_ed25519_certificate_of_the_node_is_refused(tmp_path: Path, signer: Pair) -> None:
    pair = authority.issue(
        signer,
        SpiffeId.parse("spiffe://example.org/node/one"),
        authority.make_key(KeyType.ED25519),
        validity=DAY,
    )
    message = fault(write(tmp_path / "ed", pair, signer.certificate))
    assert message.startswith("credential aurae.node.crt: has an Ed25519 key")


@pytest.fixture
def state(folder: Path, signer: Pair) -> Path:
    """An identity of its own, beside the boot credentials."""
    state = folder.parent / "identity"
    (state / "federated").mkdir(parents=True)
    own = issue(signer, "spiffe://example.org/node/own")
    (state / "node.crt").write_bytes(own.certificate)
    (state / "node.key").write_bytes(own.key)
    return state


def test_the_state_goes_before_the_boot_credentials_file_for_file(
    folder: Path, state: Path
) -> None:
    found, _ = load(folder)
    assert (str(found.identity), found.source) == ("spiffe://example.org/node/own", str(state))
    assert found.bundle == (folder / "aurae.ca.crt").read_bytes()
    other = make_authority()
    both = found.bundle + other.certificate
    (state / "ca.crt").write_bytes(both)
    assert load(folder)[0].bundle == both


def test_an_unusable_state_is_told_and_the_boot_credentials_count(
    folder: Path, state: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (state / "node.key").write_bytes((folder / "aurae.node.key").read_bytes())
    with caplog.at_level(logging.ERROR):
        found, _ = load(folder)
    assert str(found.identity) == "spiffe://example.org/node/one"
    (line,) = caplog.messages
    assert line.startswith("identity node.key: is not the key of identity node.crt")


def test_a_pair_that_is_just_being_replaced_is_whole_at_each_moment(
    folder: Path, state: Path, signer: Pair
) -> None:
    fresh = issue(signer, "spiffe://example.org/node/fresh")
    who = [load(folder)[0].identity.path]
    for step in (
        lambda: (state / "next.key").write_bytes(fresh.key),
        lambda: (state / "next.crt").write_bytes(fresh.certificate),
        lambda: (state / "next.key").rename(state / "node.key"),
        lambda: (state / "next.crt").rename(state / "node.crt"),
    ):
        step()
        who.append(load(folder)[0].identity.path)
    assert who == ["/node/own", "/node/own", "/node/fresh", "/node/fresh", "/node/fresh"]


def test_bundles_of_other_trust_domains_come_from_both_and_an_empty_file_hides_one(
    folder: Path, state: Path
) -> None:
    one, two, three = (make_authority(f"{name}.org").certificate for name in ("a", "b", "c"))
    (folder / "aurae.federated.a.org.crt").write_bytes(one)
    (folder / "aurae.federated.b.org.crt").write_bytes(one)
    (state / "federated" / "b.org.crt").write_bytes(two)
    (state / "federated" / "c.org.crt").write_bytes(three)
    found, _ = load(folder)
    others = {name: found.bundles[name] for name in found.bundles if name != "example.org"}
    assert others == {"a.org": one, "b.org": two, "c.org": three}
    (state / "federated" / "a.org.crt").write_bytes(b"")
    assert "a.org" not in load(folder)[0].bundles


@pytest.mark.parametrize("content", [b"none", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END -----"])
def test_a_damaged_bundle_of_another_trust_domain_keeps_only_that_one_out(
    folder: Path, state: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (state / "federated" / "a.org.crt").write_bytes(content)
    (state / "federated" / "b.org.crt").write_bytes(make_authority("c.org").certificate)
    (state / "federated" / "BAD.crt").write_bytes(content)
    found, _ = load(folder)
    assert set(found.bundles) == {"example.org"}
    said = "\n".join(caplog.messages)
    for fault in (
        "a.org: cannot be used: not a",
        "has a root of spiffe://c.org",
        "BAD.crt: is left out",
    ):
        assert fault in said


def test_revocation_lists_that_cannot_be_read_are_not_left_out(folder: Path, state: Path) -> None:
    (state / "crl.pem").write_bytes(b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n")
    assert fault(folder).startswith("revocation lists: cannot be used: ")

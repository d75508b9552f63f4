"""What the node issues to cells, from which files, and for how long."""

import asyncio
import json
import ssl
import stat
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from initd.errors import FailedPrecondition, Unavailable
from runtime.identity import authority, svid
from runtime.identity.authority import Pair
from runtime.identity.spiffe import SpiffeId
from runtime.trust.files import Files
from runtime.trust.trust import Trust
from runtime.workload.identities import BEHIND, NodeIdentities
from runtime.workload.issuer import NodeIssuer
from runtime.workload.keys import MOST, SigningKeys
from runtime.workload.material import Material, Places, read
from runtime.workload.model import X509Svid
from runtime.workload.source import Source
from tests.unit.runtime.certificates import (
    DAY,
    TRUST_DOMAIN,
    make_authority,
    node_authority,
    node_svid,
    write,
)

ROOT = make_authority()
NODE = SpiffeId(TRUST_DOMAIN, "/node/one")


class Clock:
    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


def material(**changed: object) -> Material:
    made = Material(NODE, node_authority(ROOT), ROOT.certificate, {}, ())
    return made._replace(**changed)  # type: ignore[arg-type]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keys(tmp_path: Path, clock: Clock) -> SigningKeys:
    return SigningKeys(tmp_path / "keys.json", now=clock)


Make = Callable[..., NodeIssuer]


@pytest.fixture
def make(keys: SigningKeys, clock: Clock) -> Make:
    def issuer(life: float = 3600, **changed: object) -> NodeIssuer:
        return NodeIssuer(material(**changed), keys, life=life, now=clock)

    return issuer


def leaf(found: X509Svid) -> x509.Certificate:
    return x509.load_der_x509_certificate(found.chain[: _length(found.chain)])


def pem(der: bytes) -> bytes:
    """All certificates of a chain."""
    result = b""
    while der:
        one = x509.load_der_x509_certificate(der[: _length(der)])
        result += one.public_bytes(serialization.Encoding.PEM)
        der = der[_length(der) :]
    return result


def _length(der: bytes) -> int:
    """Of the first of several: all of ours have a length of two bytes (X.690, 8.1.3)."""
    assert der[:2] == b"\x30\x82"
    return 4 + int.from_bytes(der[2:4], "big")


def test_a_cell_gets_an_svid_for_its_name_that_verifies_up_to_the_root(make: Make) -> None:
    found = make().x509("acme/web")
    assert str(found.id) == "spiffe://example.org/node/one/cell/acme/web"
    assert svid.verify(pem(found.chain), ROOT.certificate).id == found.id
    # The leaf and the node's authority, and not the root, which the verifier has.
    assert len(svid.certificates(pem(found.chain))) == 2
    key = serialization.load_der_private_key(found.key, None)
    assert key.public_key() == leaf(found).public_key()


def test_each_svid_has_a_key_of_its_own(make: Make) -> None:
    issuer = make()
    assert issuer.x509("web").key != issuer.x509("web").key


def test_another_is_due_before_half_of_its_life(make: Make, clock: Clock) -> None:
    for _ in range(50):
        found = make().x509("web")
        assert 0.299 <= (found.due - clock.now) / 3600 <= 0.4
        one = leaf(found)
        begins, ends = one.not_valid_before_utc.timestamp(), one.not_valid_after_utc.timestamp()
        assert found.due < (begins + ends) / 2


def test_an_svid_that_its_authority_cuts_off_is_not_replaced_over_and_over(make: Make) -> None:
    short = node_authority(ROOT, validity=timedelta(seconds=600))
    found = make(authority=short).x509("web")
    assert found.due == found.expires
    assert abs(found.expires - time.time() - 600) < 5


def test_an_authority_that_has_expired_issues_nothing(make: Make, clock: Clock) -> None:
    issuer = make()
    clock.now += 2 * DAY.total_seconds()
    with pytest.raises(Unavailable, match="expired"):
        issuer.x509("web")


def test_a_name_that_is_too_long_for_a_spiffe_id_is_refused(make: Make) -> None:
    with pytest.raises(FailedPrecondition, match="shorten"):
        make().identity("/".join(["x" * 60] * 40))


@pytest.mark.parametrize(
    ("changed", "fact"),
    [
        ({"node": SpiffeId("other.org", "/node/one")}, "the node of spiffe://other.org"),
        ({"bundle": make_authority().certificate}, "not signed by the trust bundle"),
        ({"authority": node_svid(ROOT)}, "no authority"),
        (
            {"authority": Pair(node_authority(ROOT).certificate, node_authority(ROOT).key)},
            "of two pairs",
        ),
        ({"bundle": b"nothing"}, "PEM"),
    ],
)
def test_what_does_not_belong_together_is_refused(
    make: Make, changed: dict[str, object], fact: str
) -> None:
    with pytest.raises(ValueError, match=fact):
        make(**changed)


def test_federated_bundles_and_revocation_lists_are_handed_out_and_bad_ones_left_out(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    other = make_authority("other.org")
    trust = make(
        federated={"other.org": other.certificate, "bad.org": b"bad"}, revoked=(b"\x30bad",)
    ).trust
    assert set(trust.bundles) == {"example.org", "other.org"}
    assert set(trust.federated) == {"other.org"}
    assert pem(trust.bundles["other.org"]) == other.certificate
    assert trust.revoked == ()
    assert "bundle of bad.org: is left out" in caplog.text
    assert "revocation list: is left out" in caplog.text


def asked(identities: NodeIdentities, cell: str) -> X509Svid:
    return asyncio.run(identities.x509(cell))


def test_an_svid_is_kept_until_it_is_due_and_made_anew_then(make: Make, clock: Clock) -> None:
    identities = NodeIdentities(now=clock)
    with pytest.raises(Unavailable, match="no authority"):
        asked(identities, "web")
    identities.take(make(life=100))
    first = asked(identities, "web")
    assert asked(identities, "web") is first
    assert asked(identities, "db").key != first.key
    clock.now = first.due
    second = asked(identities, "web")
    assert second.key != first.key
    clock.now -= 2 * BEHIND
    assert asked(identities, "web") is not second, "the clock was set back to before it was made"


def test_a_cell_made_anew_has_nothing_of_the_one_before(make: Make, clock: Clock) -> None:
    identities = NodeIdentities(now=clock)
    identities.take(make())
    first = asked(identities, "web")
    identities.drop("web")
    identities.drop("never-asked")
    assert asked(identities, "web").key != first.key


def test_a_new_authority_makes_new_svids_and_a_new_bundle_keeps_them(
    keys: SigningKeys, clock: Clock
) -> None:
    identities = NodeIdentities(now=clock)
    first = material()
    identities.take(NodeIssuer(first, keys, now=clock))
    kept = asked(identities, "web")
    more = first._replace(bundle=first.bundle + make_authority().certificate)
    identities.take(NodeIssuer(more, keys, now=clock))
    assert asked(identities, "web") is kept
    identities.take(NodeIssuer(material(), keys, now=clock))
    assert asked(identities, "web") is not kept


def test_many_who_ask_at_once_get_one_svid_a_cell_and_others_have_their_turns(make: Make) -> None:
    identities = NodeIdentities()
    identities.take(make())
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async def work() -> None:
        async with asyncio.TaskGroup() as tasks:
            beside = tasks.create_task(other())
            cells = [f"cell-{number // 2}" for number in range(100)]
            found = await asyncio.gather(*map(identities.x509, cells))
            assert len({one.key for one in found}) == 50
            beside.cancel()

    asyncio.run(work())
    assert turns >= 50


def test_files_that_no_library_can_read_are_refused_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    credentials = tmp_path / "credentials"
    trust = trusting(credentials)
    own = node_authority(ROOT)
    # A key of an unknown kind, which is no ValueError to those who parse it.
    der = svid.certificates(own.certificate)[0].public_bytes(serialization.Encoding.DER)
    curve = bytes.fromhex("06082a8648ce3d030107")
    odd = der.replace(curve, curve[:-1] + b"\x7f")
    (credentials / "aurae.node-ca.crt").write_text(ssl.DER_cert_to_PEM_cert(odd))
    (credentials / "aurae.node-ca.key").write_bytes(own.key)
    source = Source(Places(tmp_path / "identity", credentials), tmp_path / "keys", trust)
    identities = NodeIdentities()
    asyncio.run(source.look(identities))
    assert "node's authority: cannot be used" in caplog.text
    with pytest.raises(Unavailable):
        asked(identities, "web")


def test_signing_keys_turn_and_who_verifies_knows_each_before_it_is_used(
    tmp_path: Path, clock: Clock
) -> None:
    keys = SigningKeys(tmp_path / "keys", key_life=100, token_life=10, now=clock)

    def known() -> list[str]:
        return [key["kid"] for key in json.loads(keys.public().jwks)["keys"]]

    own = SpiffeId("example.org", "/x")
    seen: list[str] = []
    tokens: list[tuple[float, str]] = []
    for _ in range(50):
        before = known()
        tokens.append((clock.now, keys.sign(own, ["a"])))
        kid = _kid(tokens[-1][1])
        assert kid in before
        if kid not in seen:
            seen.append(kid)
        for when, token in tokens:
            if clock.now < int(when) + 10:
                assert keys.verify(token, "a", "example.org").id == own
        assert keys.public().due > clock.now
        assert len(known()) <= 4
        clock.now += 7
    assert len(seen) >= 4


def _kid(token: str) -> str:
    import jwt

    return str(jwt.get_unverified_header(token)["kid"])


def test_tokens_outlive_the_runtime_that_signed_them_and_private_keys_do_not(
    tmp_path: Path, clock: Clock
) -> None:
    file = tmp_path / "keys"
    token = SigningKeys(file, now=clock).sign(SpiffeId("example.org", "/x"), ["a"])
    assert '"d"' not in file.read_text()
    later = SigningKeys(file, now=clock)
    assert later.verify(token, "a", "example.org")
    assert _kid(later.sign(SpiffeId("example.org", "/x"), ["a"])) != _kid(token)
    for _ in range(20):
        later = SigningKeys(file, now=clock)
    assert len(json.loads(file.read_text())) == MOST + 2
    clock.now += 301
    assert len(json.loads(later.public().jwks)["keys"]) == 2


def test_a_file_of_keys_that_cannot_be_read_is_replaced(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "keys"
    file.write_text("[")
    SigningKeys(file, now=clock)
    assert "cannot be read" in caplog.text
    assert len(json.loads(file.read_text())) == 2
    assert stat.S_IMODE(file.stat().st_mode) & 0o022 == 0


def put(folder: Path, node_ca: Pair) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "node-ca.key").write_bytes(node_ca.key)
    (folder / "node-ca.crt").write_bytes(node_ca.certificate)


def trusting(folder: Path) -> Trust:
    """What a node with these boot credentials is known by."""
    return Trust(Files(folder / "none", write(folder, node_svid(ROOT), ROOT.certificate)).read())


def test_what_the_node_keeps_goes_before_what_it_was_given_at_boot(tmp_path: Path) -> None:
    credentials, kept = tmp_path / "credentials", tmp_path / "identity"
    known = trusting(credentials).current
    assert known is not None
    places = Places(kept, credentials)
    assert read(places, known) is None
    given, own = node_authority(ROOT), node_authority(ROOT)
    (credentials / "aurae.node-ca.crt").write_bytes(given.certificate)
    with pytest.raises(ValueError, match=r"aurae\.node-ca\.key: is missing; `aer pki"):
        read(places, known)
    (credentials / "aurae.node-ca.key").write_bytes(given.key)
    found = read(places, known)
    assert found is not None
    assert (found.node, found.authority) == (NODE, given)
    put(kept, own)
    found = read(places, known)
    assert found is not None
    assert found.authority == own


def test_what_the_node_believes_is_handed_out(tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    other = make_authority("other.org").certificate
    own = node_authority(ROOT)
    known = trusting(credentials).current
    assert known is not None
    put(tmp_path / "identity", own)
    lists = b"".join(
        b"-----BEGIN X509 CRL-----\n%s\n-----END X509 CRL-----\n" % text
        for text in (b"b25l", b"dHdv")
    )
    more = known._replace(bundles={**known.bundles, "other.org": other}, crls=lists)
    found = read(Places(tmp_path / "identity", None), more)
    assert found == Material(NODE, own, ROOT.certificate, {"other.org": other}, (b"one", b"two"))


def test_files_are_followed_while_they_change(tmp_path: Path) -> None:
    """There is no folder yet, then an authority in it, a bad one, and another good one."""
    credentials, kept = tmp_path / "credentials", tmp_path / "state" / "identity"
    trust = trusting(credentials)
    first, second = node_authority(ROOT), node_authority(ROOT)
    source = Source(Places(kept, credentials), tmp_path / "keys", trust)

    async def chain_becomes(identities: NodeIdentities, wanted: Pair) -> None:
        async with asyncio.timeout(20):
            while True:
                changed = identities.changed("web")
                try:
                    if pem((await identities.x509("web")).chain).endswith(wanted.certificate):
                        return
                except Unavailable:
                    pass
                await changed.wait()

    async def work() -> None:
        identities = NodeIdentities()
        async with asyncio.TaskGroup() as tasks:
            following = tasks.create_task(source.follow(identities))
            await asyncio.sleep(0)
            fresh = kept.with_name("fresh")
            fresh.parent.mkdir(exist_ok=True)
            put(fresh, first)
            fresh.rename(kept)
            await chain_becomes(identities, first)
            put(kept, node_authority(make_authority()))
            put(kept, second)
            await chain_becomes(identities, second)
            following.cancel()

    asyncio.run(work())


def test_issuing_is_fast(make: Make) -> None:
    """The bar of a first SVID through the Workload API is 5 ms; most of that is the call."""
    issuer = make()
    times = []
    for number in range(50):
        began = time.perf_counter()
        issuer.x509(f"cell-{number}")
        times.append(time.perf_counter() - began)
    median = sorted(times)[len(times) // 2]
    assert median < 0.005, f"{median * 1e3:.2f} ms"


def test_authorities_for_workloads_are_those_that_aer_pki_makes() -> None:
    assert authority.trust_domain(node_authority(ROOT).certificate) == TRUST_DOMAIN

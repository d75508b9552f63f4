"""A claim: what is accepted, by whom, once, and whole or not at all."""

import os
import signal
import stat
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from initd.errors import (
    AlreadyExists,
    AuraedError,
    InvalidArgument,
    PermissionDenied,
    ResourceExhausted,
)
from runtime.claim import attempts, files
from runtime.claim.attempts import Attempts
from runtime.claim.claim import MOST, Claim
from runtime.claim.model import Given
from runtime.identity import authority, requests
from runtime.identity.authority import Pair
from runtime.identity.spiffe import SpiffeId
from runtime.trust.files import Files
from tests.unit.runtime.certificates import DAY, TRUST_DOMAIN, issue, make_authority

NODE = SpiffeId(TRUST_DOMAIN, "/node/one")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def signer() -> Pair:
    return make_authority()


@pytest.fixture
def claim(tmp_path: Path) -> Claim:
    return Claim(tmp_path / "state", tmp_path / "secret")


def certified(
    signer: Pair, spiffe_id: SpiffeId, asked: bytes, now: datetime | None = None
) -> bytes:
    return authority.certify(signer, spiffe_id, requests.public_key(asked), validity=DAY, now=now)


def given(claim: Claim, signer: Pair, path: str = NODE.path, **changed: bytes) -> Given:
    own, ca = claim.begin(claim.fingerprint.secret)
    spiffe_id = SpiffeId(TRUST_DOMAIN, path)
    name = path.rpartition("/")[2]
    made = Given(
        certificate_chain=authority.certify(
            signer, spiffe_id, requests.public_key(own), validity=DAY
        ),
        ca_certificate_chain=authority.certify_intermediate(
            signer, requests.public_key(ca), name, validity=DAY
        ),
        trust_bundle=signer.certificate,
        policy=b'{"rules": []}',
    )
    return made._replace(**changed)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_node_is_who_its_claimer_says(tmp_path: Path, claim: Claim, signer: Pair) -> None:
    state = tmp_path / "state"
    offered = given(claim, signer)
    assert claim.claim(claim.fingerprint.secret, offered) == NODE
    assert set(contents(state)) == {
        "policy.json",
        *(f"identity/{name}" for name in ("node.crt", "node.key", "ca.crt")),
        *(f"identity/{name}" for name in ("node-ca.crt", "node-ca.key")),
    }
    for path in (state, *state.rglob("*")):
        wanted = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == wanted
    held = Files(state / "identity", tmp_path / "none")
    assert held.any()
    read, expired = held.load()
    assert (read.identity, expired) == (NODE, False)
    assert not (tmp_path / "secret").exists()


def test_what_is_not_given_is_not_there(tmp_path: Path, claim: Claim, signer: Pair) -> None:
    (tmp_path / "state" / "policy.json").write_text("of an earlier try")
    offered = given(claim, signer, ca_certificate_chain=b"", policy=b"")
    claim.claim(claim.fingerprint.secret, offered)
    assert set(contents(tmp_path / "state")) == {
        f"identity/{name}" for name in ("node.crt", "node.key", "ca.crt")
    }


def test_a_second_claim_is_refused(tmp_path: Path, claim: Claim, signer: Pair) -> None:
    offered = given(claim, signer)
    claim.claim(claim.fingerprint.secret, offered)
    with pytest.raises(AlreadyExists, match="claimed already"):
        claim.claim(claim.fingerprint.secret, offered)
    with pytest.raises(AlreadyExists, match="claimed already"):
        claim.begin(claim.fingerprint.secret)
    with pytest.raises(AlreadyExists, match="claimed already"):
        files.become(tmp_path / "state", {"node.crt": b"another's"}, b"{}")
    assert (tmp_path / "state/identity/node.crt").read_bytes() == offered.certificate_chain


def test_a_claim_that_comes_too_late_changes_no_policy(
    tmp_path: Path, claim: Claim, signer: Pair
) -> None:
    state = tmp_path / "state"
    offered = given(claim, signer)
    (state / "identity").mkdir()
    (state / "identity/node.crt").write_bytes(b"another's")
    for policy in (b'{"rules": []}', b""):
        (state / "policy.json").write_bytes(b"another's")
        with pytest.raises(AlreadyExists, match="claimed already"):
            claim.claim(claim.fingerprint.secret, offered._replace(policy=policy))
        assert (state / "policy.json").read_bytes() == b"another's"
    assert not list(state.glob(".identity.*"))


def test_keys_outlive_a_start_and_so_does_the_secret_until_the_next_boot(tmp_path: Path) -> None:
    first = Claim(tmp_path / "state", tmp_path / "secret").fingerprint
    assert Claim(tmp_path / "state", tmp_path / "secret").fingerprint == first
    (tmp_path / "secret").unlink()
    later = Claim(tmp_path / "state", tmp_path / "secret").fingerprint
    assert later.key == first.key
    assert later.secret != first.secret


def refusals(claim: Claim, signer: Pair) -> dict[str, Given]:
    """What must be refused, by how the message begins."""
    good = given(claim, signer)
    stranger = make_authority()
    other_key = issue(signer, str(NODE)).certificate
    elsewhere = make_authority("elsewhere.org")
    own = requests.make(claim.key)
    past = datetime.now(UTC) - 20 * DAY
    old = authority.make_authority(TRUST_DOMAIN, signer.key, validity=60 * DAY, now=past)
    leaf_as_authority = issue(signer, f"{NODE}/ca").certificate
    return {
        "certificate_chain: not a certificate": good._replace(certificate_chain=b""),
        "certificate_chain: certificate of spiffe://example.org/node/one: not signed": (
            good._replace(trust_bundle=stranger.certificate)
        ),
        "certificate_chain: the key is not": good._replace(certificate_chain=other_key),
        "certificate_chain: spiffe://example.org/person/ann is no node": given(
            claim, signer, "/person/ann", ca_certificate_chain=b""
        ),
        "certificate_chain: certificate: expired": good._replace(
            certificate_chain=authority.certify(
                old, NODE, requests.public_key(own), validity=DAY, now=past
            ),
            trust_bundle=old.certificate,
        ),
        "certificate_chain: certificate: is an authority's": good._replace(
            certificate_chain=signer.certificate
        ),
        "ca_certificate_chain: the key is not": good._replace(
            ca_certificate_chain=signer.certificate
        ),
        "ca_certificate_chain: is for the trust domain elsewhere.org": good._replace(
            ca_certificate_chain=elsewhere.certificate
        ),
        "ca_certificate_chain: certificate of": good._replace(
            ca_certificate_chain=leaf_as_authority
        ),
        "ca_certificate_chain: not a certificate": good._replace(ca_certificate_chain=b"x"),
        "policy: Expecting value": good._replace(policy=b"nonsense"),
        "policy: is not a JSON object": good._replace(policy=b"[]"),
        "policy: is nested too deep": good._replace(policy=b"[" * 200_000),
        "policy: has 262145 bytes": good._replace(policy=b" " * (MOST + 1)),
        "trust_bundle: has 262145 bytes": good._replace(trust_bundle=b" " * (MOST + 1)),
    }


def test_what_is_not_acceptable_is_named_and_changes_nothing(
    tmp_path: Path, claim: Claim, signer: Pair
) -> None:
    before = contents(tmp_path)
    for beginning, offered in refusals(claim, signer).items():
        with pytest.raises(InvalidArgument) as caught:
            claim.claim(claim.fingerprint.secret, offered)
        assert str(caught.value).startswith(beginning)
    assert contents(tmp_path) == before
    claim.claim(claim.fingerprint.secret, given(claim, signer))


def test_a_node_whose_clock_is_behind_can_be_claimed(claim: Claim, signer: Pair) -> None:
    later = datetime.now(UTC) + timedelta(days=10)
    own, _ = claim.begin(claim.fingerprint.secret)
    chain = certified(signer, NODE, own, now=later)
    offered = given(claim, signer, certificate_chain=chain, ca_certificate_chain=b"")
    assert claim.claim(claim.fingerprint.secret, offered) == NODE


def test_of_claims_at_once_one_wins(tmp_path: Path, claim: Claim, signer: Pair) -> None:
    offers = [given(claim, signer, f"/node/n{number}") for number in range(8)]
    start = threading.Barrier(len(offers))
    outcomes: list[SpiffeId | AuraedError] = []

    def attempt(offered: Given) -> None:
        start.wait()
        try:
            outcomes.append(claim.claim(claim.fingerprint.secret, offered))
        except AuraedError as e:
            outcomes.append(e)

    threads = [threading.Thread(target=attempt, args=(offered,)) for offered in offers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (won,) = [outcome for outcome in outcomes if isinstance(outcome, SpiffeId)]
    lost = [outcome for outcome in outcomes if not isinstance(outcome, SpiffeId)]
    assert {type(outcome) for outcome in lost} == {AlreadyExists}
    read = Files(tmp_path / "state/identity", None).read()
    assert read.identity == won


# What a claim does to the disk, one call after the other; it is killed before the N-th of them.
KILLED = """
import os, signal, sys
from pathlib import Path

from runtime.claim import files

state, left = Path(sys.argv[1]), int(sys.argv[2])

def counted(call):
    def count(*args, **named):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return call(*args, **named)
    return count

for name in ("fsync", "open", "rename", "mkdir", "unlink", "write", "rmdir"):
    setattr(os, name, counted(getattr(os, name)))
contents = {f"file{number}": bytes(100) for number in range(5)}
files.become(state, contents, b"{}")
print("done")
"""


def test_a_claim_that_is_killed_at_any_moment_was_made_or_not(tmp_path: Path) -> None:
    killed = made = 0
    for left in range(200):
        state = tmp_path / str(left)
        files.make_folder(state)
        # Twice, so that the second meets what the first has left.
        for _ in range(2):
            done = subprocess.run(
                [sys.executable, "-c", KILLED, state, str(left)],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                capture_output=True,
                timeout=60,
                check=False,
            )
            there = sorted((state / "identity").glob("*"))
            assert len(there) in (0, 5)
            assert all(path.read_bytes() == bytes(100) for path in there)
            if done.returncode == -signal.SIGKILL:
                killed += 1
                continue
            break
        if done.returncode != -signal.SIGKILL:
            made += 1
            if there and not list(state.glob(".identity.*")):
                break
    assert killed > 20
    assert made


def test_a_disk_that_fails_at_any_moment_leaves_the_node_unclaimed(
    tmp_path: Path, claim: Claim, signer: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered = given(claim, signer)
    true_sync, left = os.fsync, 0

    def sync(descriptor: int) -> None:
        nonlocal left
        if left == 0:
            raise OSError(28, "No space left on device")
        left -= 1
        true_sync(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    for count in range(100):
        left = count
        try:
            claim.claim(claim.fingerprint.secret, offered)
        except OSError:
            assert not (tmp_path / "state/identity").exists()
            assert not list((tmp_path / "state").glob(".identity.*"))
        else:
            break
    # Five files and their folder, the policy and its folder, and the folder of all.
    assert count == 9
    assert (tmp_path / "state/identity/node.crt").exists()


def test_a_damaged_key_is_made_anew(tmp_path: Path, claim: Claim) -> None:
    (tmp_path / "state/claim/node.key").write_bytes(claim.key[:100])
    again = Claim(tmp_path / "state", tmp_path / "secret")
    assert again.fingerprint.key != claim.fingerprint.key
    assert Claim(tmp_path / "state", tmp_path / "secret").key == again.key


def test_some_wrong_secrets_cost_nothing_and_the_next_ones_more_and_more_time() -> None:
    clock = Clock()
    bound = Attempts(b"right", clock)
    for _ in range(attempts.FREE):
        with pytest.raises(PermissionDenied):
            bound.check(b"wrong")
    pauses = []
    for _ in range(12):
        with pytest.raises(ResourceExhausted):
            bound.check(b"right")
        began = clock.now
        while True:
            clock.now += 0.5
            try:
                bound.check(b"wrong")
            except PermissionDenied:
                break
            except ResourceExhausted:
                continue
        pauses.append(clock.now - began)
    assert pauses[:4] == [2.0, 4.0, 8.0, 16.0]
    assert pauses[-1] == attempts.LONGEST
    clock.now += attempts.LONGEST
    bound.check(b"right")


def test_a_year_of_guessing_finds_nothing() -> None:
    clock = Clock()
    bound = Attempts(b"right", clock)
    looked_at = 0
    for _ in range(50):
        try:
            bound.check(b"wrong")
        except PermissionDenied:
            looked_at += 1
        except ResourceExhausted:
            clock.now += attempts.LONGEST
    a_year = looked_at + 365 * 24 * 3600 / attempts.LONGEST
    assert a_year / 2**40 < 1e-6


@pytest.mark.parametrize("wrong", [b"", b"x", bytes(5), bytes(100_000)])
def test_a_secret_of_any_length_is_just_wrong(claim: Claim, wrong: bytes) -> None:
    with pytest.raises(PermissionDenied, match="secret is wrong"):
        claim.begin(wrong)

"""Certificates, bundles and revocations that change while callers are connected."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from functools import partial
from pathlib import Path

import grpc
import pytest
from grpc import StatusCode

from runtime.identity import authority
from runtime.identity.authority import KeyType, Pair
from tests.unit.runtime.certificates import DAY, forge, issue, make_authority, node_svid, revoke
from tests.unit.runtime.node import DEADLINE
from tests.unit.trust import nodes
from tests.unit.trust.nodes import PERSON, Known, discover, follow, refusal, replace, wait_until

ROTATIONS = 1000 if os.environ.get("AURAE_SOAK") else 20
STREAMS = 50
CALLERS = 4
CALLS_A_SECOND = 200
TICKING = "while :; do echo tick; sleep 0.2; done"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Known]:
    with nodes.known(tmp_path) as node:
        yield node


def rotate(node: Known, folder: Path, own: Pair, bundle: bytes) -> None:
    """As an operator's tool does: file after file."""
    prefix = "aurae." if folder == node.credentials else ""
    replace(folder / f"{prefix}ca.crt", bundle)
    replace(folder / f"{prefix}node.key", own.key)
    replace(folder / f"{prefix}node.crt", own.certificate)


class Load:
    """Streams and calls, each thread with a connection of its own."""

    def __init__(self, node: Known) -> None:
        self.faults: list[str] = []
        self.calls = 0
        self.lines = [0] * STREAMS
        self._node = node
        self._stop = threading.Event()
        self._stack = ExitStack()

    def __enter__(self) -> "Load":
        self._node.there.start(None, "ticking", TICKING)
        caller = self._node.person
        for number in range(STREAMS):
            channel = self._stack.enter_context(self._node.channel(caller))
            stream = follow(channel, "ticking")
            self._thread(lambda number=number, stream=stream: self._read(number, stream))
            self._stack.callback(stream.cancel)
        for _ in range(CALLERS):
            channel = self._stack.enter_context(self._node.channel(caller))
            self._thread(lambda channel=channel: self._call(channel))
        wait_until(lambda: all(self.lines), "a line of each stream")
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._stack.close()
        self._node.there.stop(None, "ticking", grace=None)

    def _thread(self, work: object) -> None:
        thread = threading.Thread(target=work)  # type: ignore[arg-type]
        thread.start()
        self._stack.callback(thread.join, DEADLINE)

    def _read(self, number: int, stream: Iterator[object]) -> None:
        try:
            for _ in stream:
                self.lines[number] += 1
        except grpc.RpcError as e:
            if not self._stop.is_set():
                self.faults.append(f"stream {number}: {e}")

    def _call(self, channel: grpc.Channel) -> None:
        while not self._stop.is_set():
            try:
                discover(channel)
                self.calls += 1
            except grpc.RpcError as e:
                self.faults.append(f"call: {e}")


def test_rotations_of_certificate_and_bundle_fail_no_call_and_drop_no_stream(node: Known) -> None:
    bundles = (node.signer.certificate, node.signer.certificate + make_authority().certificate)
    with Load(node) as load:
        began = time.monotonic()
        for number in range(ROTATIONS):
            own = node_svid(node.signer)
            folder = node.state if number % 2 else node.credentials
            if folder == node.credentials:
                for name in ("node.crt", "node.key", "ca.crt"):
                    (node.state / name).unlink(missing_ok=True)
            rotate(node, folder, own, bundles[number % 2])
            wait_until(partial(node.serves, own), f"rotation {number}")
            with node.channel(node.person) as fresh:
                assert discover(fresh) == "1.2.3"
        seconds = time.monotonic() - began
        before = list(load.lines)
        wait_until(
            lambda: all(now > then for now, then in zip(load.lines, before, strict=True)),
            "another line of each stream",
        )
        rate = load.calls / seconds
    assert load.faults == []
    assert rate > CALLS_A_SECOND


def test_a_set_that_is_half_replaced_or_unusable_is_told_and_changes_nothing(node: Known) -> None:
    before = node.served()
    other = node_svid(make_authority())
    replace(node.credentials / "aurae.node.crt", node_svid(node.signer).certificate)
    node.says("error: credential aurae.node.key: is not the key of credential aurae.node.crt")
    node.says("The node goes on as spiffe://example.org/node/one")
    replace(node.credentials / "aurae.node.crt", other.certificate)
    replace(node.credentials / "aurae.node.key", other.key)
    node.says("credential aurae.ca.crt does not vouch for it")
    replace(node.credentials / "aurae.node.crt", other.certificate[:100])
    node.says("credential aurae.node.crt: is no PEM file, or cut short")
    assert node.served() == before
    with node.channel(node.person) as channel:
        assert discover(channel) == "1.2.3"


def end_of(stream: Iterator[object]) -> tuple[StatusCode, str]:
    """How a stream ends that has messages all the time."""
    with pytest.raises(grpc.RpcError) as caught:
        for _ in stream:
            pass
    return caught.value.code(), caught.value.details() or ""


@pytest.mark.parametrize("how", ["revoked", "root removed"])
def test_a_certificate_that_is_believed_no_more_ends_calls_and_streams(
    node: Known, how: str
) -> None:
    second = make_authority()
    caller = issue(second, PERSON)
    replace(node.state / "ca.crt", node.signer.certificate + second.certificate)
    node.says("takes effect")
    node.there.start(None, "ticking", TICKING)
    with node.channel(caller) as channel, node.channel(node.person) as other:
        assert discover(channel) == discover(other) == "1.2.3"
        stream, undisturbed = follow(channel, "ticking"), follow(other, "ticking")
        next(stream), next(undisturbed)
        if how == "revoked":
            replace(node.state / "crl.pem", revoke(second, caller))
            told = "revoked on "
        else:
            replace(node.state / "ca.crt", node.signer.certificate)
            told = f"certificate of {PERSON}: not signed by the trust bundle"
        assert end_of(stream) == refusal(channel)
        code, message = refusal(channel)
        assert code is StatusCode.UNAUTHENTICATED
        assert message.startswith(f"caller {PERSON}: certificate ")
        assert told in message
        next(undisturbed)
        assert discover(other) == "1.2.3"
        undisturbed.cancel()
    if how == "revoked":
        with node.channel(issue(second, PERSON)) as channel:
            assert discover(channel) == "1.2.3"
    node.there.stop(None, "ticking", grace=None)


def test_a_certificate_that_expires_ends_calls_and_streams(node: Known) -> None:
    node.there.start(None, "ticking", TICKING)
    with node.channel(issue(node.signer, PERSON, validity=timedelta(seconds=5))) as channel:
        assert discover(channel) == "1.2.3"
        code, message = end_of(follow(channel, "ticking"))
        assert code is StatusCode.UNAUTHENTICATED
        assert message.startswith(f"caller {PERSON}: certificate: expired on 20")
        assert refusal(channel) == (code, message)
    node.there.stop(None, "ticking", grace=None)


def test_who_is_of_a_federated_trust_domain_is_known_by_its_own_roots_only(node: Known) -> None:
    other = make_authority("other.org")
    own, false = "spiffe://other.org/person/ann", PERSON
    with node.channel(issue(other, own)) as channel:
        assert refusal(channel)[0] is StatusCode.UNAVAILABLE
    replace(node.state / "federated" / "other.org.crt", other.certificate)
    node.says("takes effect")
    with node.channel(issue(other, own)) as channel:
        code, message = refusal(channel)
        # Known, and nobody whom the node serves.
        assert code is StatusCode.PERMISSION_DENIED
        assert f"caller {own}: may not" in message
    # Each authority may sign what it likes; outside of its trust domain it proves nothing.
    for signer, spiffe_id in ((other, false), (node.signer, own)):
        pair = forge(signer, spiffe_id)
        with node.channel(pair) as channel:
            code, message = refusal(channel)
            assert code is StatusCode.UNAUTHENTICATED
            assert f"certificate of {spiffe_id}: not signed by the trust bundle" in message
    (node.state / "federated" / "other.org.crt").unlink()
    wait_until(lambda: node.there.log.count("takes effect") == 2, "the removal")
    with node.channel(issue(other, own)) as channel:
        assert refusal(channel)[0] is StatusCode.UNAVAILABLE


def test_a_caller_shows_what_stands_between_it_and_the_root(node: Known) -> None:
    """Workloads of another node, whose certificates that node's own authority signs."""
    key = authority.make_key(KeyType.ECDSA_P256)
    above = authority.make_intermediate(node.signer, key, "two", validity=DAY)
    workload = "spiffe://example.org/node/two/cell/web"
    leaf = issue(above, workload)
    with node.channel(Pair(leaf.certificate + above.certificate, leaf.key)) as channel:
        code, message = refusal(channel)
        # Known, and nobody whom a rule names.
        assert code is StatusCode.PERMISSION_DENIED
        assert f"caller {workload}: may not" in message
    with node.channel(leaf) as channel:
        assert refusal(channel)[0] is StatusCode.UNAVAILABLE

"""A node that nobody has claimed, over TCP: from its first start to its API."""

import re
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from aurae.claim.v0 import claim_pb2, claim_pb2_grpc
from aurae.discovery.v0 import discovery_pb2, discovery_pb2_grpc

from aer import claim as claiming
from aer.__main__ import main
from aer.claim import Naming, Unclaimed
from aer.errors import AerError
from runtime.claim import qr
from runtime.identity import fingerprint
from runtime.identity.authority import Pair
from runtime.identity.fingerprint import Fingerprint
from runtime.identity.spiffe import SpiffeId
from runtime.identity.store import PairFiles
from runtime.server import claiming as server
from tests.unit.runtime import node as nodes
from tests.unit.runtime.certificates import DAY, TRUST_DOMAIN, issue, make_authority, write
from tests.unit.runtime.node import DEADLINE

POLICY = (
    b'{"rules": [{"name": "people", "id": "spiffe://'
    + TRUST_DOMAIN.encode()
    + b'/person/*", "role": "ROLE_ADMIN"}]}'
)
SHOWN = r"Its fingerprint:\n((?: [a-z ]+\n){4})"
OFFERED = r"aer node claim HOST:(\d+) "


def wait_for(log: Path, pattern: str, *, after: int = 0) -> re.Match[str]:
    deadline = time.monotonic() + DEADLINE
    while (found := re.compile(pattern).search(log.read_text(), after)) is None:
        assert time.monotonic() < deadline, f"no {pattern!r} in {log.read_text()}"
        time.sleep(0.02)
    return found


class Node:
    """One run of the API of a node that may be claimed."""

    def __init__(self, folder: Path, process: "subprocess.Popen[bytes]", before: int) -> None:
        log = folder / "api.log"
        self.folder = folder
        self.process = process
        self.shown = Fingerprint.parse(wait_for(log, SHOWN, after=before)[1])
        self.address = f"127.0.0.1:{wait_for(log, OFFERED, after=before)[1]}"

    def stub(self) -> claim_pb2_grpc.ClaimServiceStub:
        return claim_pb2_grpc.ClaimServiceStub(self.channel())

    def channel(self) -> grpc.Channel:
        der = claiming.certificate_of(self.address, DEADLINE)
        credentials = grpc.ssl_channel_credentials(ssl.DER_cert_to_PEM_cert(der).encode())
        options = [("grpc.ssl_target_name_override", fingerprint.NAME)]
        return grpc.secure_channel(self.address, credentials, options)


@contextmanager
def running(folder: Path, listen: str = "127.0.0.1:0") -> Iterator[Node]:
    (folder / "claimable").touch()
    log = folder / "api.log"
    before = len(log.read_text()) if log.exists() else 0
    with nodes.api(folder, listen) as process:
        yield Node(folder, process, before)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with nodes.owner(tmp_path), running(tmp_path) as there:
        yield there


@pytest.fixture(scope="module")
def signer() -> Pair:
    return make_authority()


def naming(folder: Path, signer: Pair, name: str = "one") -> Naming:
    return Naming(
        signer=signer,
        id=SpiffeId(TRUST_DOMAIN, f"/node/{name}"),
        dns_name=f"{name}.node.{TRUST_DOMAIN}",
        validity=DAY,
        with_authority=True,
        files=PairFiles.at(folder / "pki" / name),
    )


def test_a_claimed_node_ends_and_starts_as_who_it_is(tmp_path: Path, signer: Pair) -> None:
    with nodes.owner(tmp_path):
        with running(tmp_path) as node:
            log = (tmp_path / "api.log").read_text()
            assert "\n".join(qr.draw(node.shown.base32())) in log
            assert "error" not in log
            answer = Unclaimed(node.address, node.shown, DEADLINE).claim(
                naming(tmp_path, signer), POLICY
            )
            assert answer.spiffe_id == f"spiffe://{TRUST_DOMAIN}/node/one"
            assert node.process.wait(DEADLINE) == 0
        (tmp_path / "asked").unlink()
        with nodes.program("api", tmp_path, node.address, log=tmp_path / "api.log"):
            nodes.appears(tmp_path / "asked")
            assert Unclaimed(node.address, node.shown, DEADLINE).serves(naming(tmp_path, signer))
            caller = issue(signer, f"spiffe://{TRUST_DOMAIN}/person/ann")
            credentials = grpc.ssl_channel_credentials(
                signer.certificate, caller.key, caller.certificate
            )
            options = [("grpc.ssl_target_name_override", f"one.node.{TRUST_DOMAIN}")]
            with grpc.secure_channel(node.address, credentials, options) as channel:
                stub = discovery_pb2_grpc.DiscoveryServiceStub(channel)
                assert stub.Discover(discovery_pb2.DiscoverRequest(), timeout=DEADLINE).healthy
            with pytest.raises(AerError, match="has an identity already"):
                Unclaimed(node.address, node.shown, DEADLINE).begin()


@contextmanager
def cutting(address: str, broken: Callable[[], bool]) -> Iterator[str]:
    """The address of a way to `address` whose connections end where something is to come back
    while it is `broken`."""
    host, _, port = address.partition(":")
    ends: list[socket.socket] = []

    def forward(source: socket.socket, target: socket.socket, *, cut: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if cut and broken():
                    break
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def accept() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                ends.append(client)
                try:
                    server = socket.create_connection((host, int(port)))
                except OSError:
                    client.shutdown(socket.SHUT_RDWR)
                    continue
                ends.append(server)
                pool.submit(forward, client, server, cut=False)
                pool.submit(forward, server, client, cut=True)

    # More than there are connections at once: each holds two.
    with futures.ThreadPoolExecutor(64) as pool:
        listener = socket.create_server(("127.0.0.1", 0))
        pool.submit(accept)
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            for end in (listener, *ends):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
    for end in (listener, *ends):
        end.close()


def test_an_answer_that_is_cut_off_is_found_out(tmp_path: Path, signer: Pair) -> None:
    named = naming(tmp_path, signer)
    mended = threading.Event()

    def broken() -> bool:
        return (tmp_path / "state/identity").exists() and not mended.is_set()

    with (
        nodes.owner(tmp_path),
        running(tmp_path) as node,
        cutting(node.address, broken) as way,
        futures.ThreadPoolExecutor(1) as pool,
    ):
        claimed = pool.submit(Unclaimed(way, node.shown, DEADLINE).claim, named, b"")
        assert node.process.wait(DEADLINE) == 0
        (tmp_path / "asked").unlink()
        mended.set()
        with nodes.program("api", tmp_path, node.address, log=tmp_path / "api.log"):
            assert claimed.result(60).spiffe_id == str(named.id)
            assert named.files.certificate.exists()


def test_a_runtime_that_is_killed_shows_the_same_fingerprint_again(tmp_path: Path) -> None:
    with nodes.owner(tmp_path):
        with running(tmp_path) as node:
            node.process.send_signal(signal.SIGKILL)
            node.process.wait(DEADLINE)
        with running(tmp_path) as again:
            assert again.shown == node.shown


def test_a_node_that_was_given_credentials_offers_nothing(tmp_path: Path, signer: Pair) -> None:
    (tmp_path / "claimable").touch()
    pair = issue(signer, f"spiffe://{TRUST_DOMAIN}/node/one")
    folder = write(tmp_path / "credentials", pair, signer.certificate)
    (folder / "aurae.node.key").unlink()
    with nodes.owner(tmp_path), nodes.api(tmp_path):
        log = (tmp_path / "api.log").read_text()
        assert "credential aurae.node.key: is missing; pass it at boot" in log
        assert "claim" not in log
        assert not (tmp_path / "state/claim").exists()


def test_a_broken_identity_is_not_claimed_over(tmp_path: Path) -> None:
    (tmp_path / "claimable").touch()
    (tmp_path / "state/identity").mkdir(parents=True)
    (tmp_path / "state/identity/node.key").write_text("half")
    with nodes.owner(tmp_path), nodes.api(tmp_path):
        log = (tmp_path / "api.log").read_text()
        assert "aurae.node.crt: is missing" in log
        assert "fingerprint" not in log


def test_nothing_but_the_claim_is_served_over_tcp(node: Node) -> None:
    with node.channel() as channel:
        for method in (
            "/aurae.discovery.v0.DiscoveryService/Discover",
            "/aurae.cells.v0.CellService/List",
            "/grpc.health.v1.Health/Check",
        ):
            call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
            with pytest.raises(grpc.RpcError) as caught:
                call(b"", timeout=DEADLINE)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    with nodes.client(node.folder) as there:
        assert there.list() == {}


def test_no_secret_goes_to_a_node_with_another_key(
    node: Node, tmp_path: Path, signer: Pair
) -> None:
    other = Fingerprint(fingerprint.of_key(b"another"), node.shown.secret)
    with pytest.raises(AerError, match="nothing was sent to it"):
        Unclaimed(node.address, other, DEADLINE).claim(naming(tmp_path, signer), b"")
    assert not (tmp_path / "pki" / "one.crt").exists()


def test_what_the_node_refuses_is_told_and_leaves_no_certificate(
    node: Node, tmp_path: Path, signer: Pair
) -> None:
    named = naming(tmp_path, signer)
    with pytest.raises(AerError, match="Expecting value"):
        Unclaimed(node.address, node.shown, DEADLINE).claim(named, b"nonsense")
    assert not named.files.certificate.exists()
    named.files.certificate.write_text("of the last time")
    with pytest.raises(AerError, match="Expecting value"):
        Unclaimed(node.address, node.shown, DEADLINE).claim(replace(named, again=True), b"nonsense")
    assert named.files.certificate.read_text() == "of the last time"
    wrong = Fingerprint(node.shown.key, bytes(5))
    for _ in range(3):
        with pytest.raises(AerError, match="the secret is wrong"):
            Unclaimed(node.address, wrong, DEADLINE).claim(named, b"")
    with pytest.raises(AerError, match="3 wrong secrets were given; try again in"):
        Unclaimed(node.address, node.shown, DEADLINE).claim(named, b"")


def test_bytes_that_are_no_request_are_refused(node: Node) -> None:
    with node.channel() as channel:
        for method in ("Begin", "Claim"):
            call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
                f"/aurae.claim.v0.ClaimService/{method}"
            )
            for request in (b"\xff\xff\xff", b""):
                with pytest.raises(grpc.RpcError):
                    call(request, timeout=DEADLINE)
            with pytest.raises(grpc.RpcError) as caught:
                call(bytes(5_000_000), timeout=DEADLINE)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    stub = node.stub()
    with pytest.raises(grpc.RpcError) as caught:
        stub.Begin(claim_pb2.BeginRequest(), timeout=DEADLINE)
    assert caught.value.code() in (
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    )


def test_a_name_that_is_taken_is_told_before_anything_is_sent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "pki"
    assert main(["pki", "init", "--trust-domain", TRUST_DOMAIN, "--dir", str(folder)]) == 0
    assert main(["pki", "issue", "node", "one", "--dir", str(folder)]) == 0
    shown = Fingerprint(bytes(10), bytes(5)).words()
    line = ["node", "claim", "127.0.0.1:1", "--fingerprint", shown, "--dir", str(folder)]

    def refusal(*more: str) -> str:
        assert main([*line, *more]) == 1
        return capsys.readouterr().err

    assert "exists already, with its key" in refusal("--name", "one")
    assert "exists already, with its key" in refusal("--name", "one", "--again")
    (folder / "node/one.key").unlink()
    assert "--again if it is that node" in refusal("--name", "one")
    before = (folder / "node/one.crt").read_bytes()
    assert "cannot connect" in refusal("--name", "one", "--again")
    assert (folder / "node/one.crt").read_bytes() == before
    assert "cannot connect" in refusal("--name", "two")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("node.example.org", "node.example.org:8080"),
        ("10.0.0.7:9000", "10.0.0.7:9000"),
        ("[fd00::7]", "[fd00::7]:8080"),
        ("[fd00::7]:9000", "[fd00::7]:9000"),
    ],
)
def test_a_host_alone_is_meant_at_the_usual_port(text: str, address: str) -> None:
    assert claiming.parse_address(text) == address


@pytest.mark.parametrize("text", ["/run/sock", "fd00::7", "", ":9000", "host:0"])
def test_what_is_no_address_is_told(text: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        claiming.parse_address(text)


def test_a_policy_that_makes_nobody_of_the_nodes_trust_domain_admin_is_no_policy_of_it() -> None:
    server._check_policy(POLICY, TRUST_DOMAIN)
    with pytest.raises(ValueError, match=r"makes anybody of other\.org admin"):
        server._check_policy(POLICY, "other.org")

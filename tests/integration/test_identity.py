"""Who nodes are, on the booted image: federation, rotation, TLS on the Unix socket, clocks."""

import base64
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import grpc
import pytest
from aurae.discovery.v0 import discovery_pb2
from aurae.identity.v0 import identity_pb2 as pb
from aurae.identity.v0.identity_pb2_grpc import IdentityServiceStub
from grpc import StatusCode

from image.machine import Credential
from runtime.identity.authority import Pair
from testkit.cells import Cell
from testkit.machines import Machine, Machines
from testkit.trust import TrustDomain
from tests.unit.runtime.certificates import revoke, sign

STATE = "/run/aurae/state/identity"
CREDENTIALS = "/run/credentials/@system"
CALLED = "it.other.test"
SECONDS = 120.0

POLICY = """{
  "rules": [
    {"name": "people", "id": "spiffe://other.test/person/*", "role": "ROLE_ADMIN"},
    {"name": "friends", "id": "spiffe://test.aurae.test/node/*", "role": "ROLE_READER"}
  ]
}"""


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> TrustDomain:
    return TrustDomain.make(tmp_path_factory.mktemp("other"), "other.test")


@pytest.fixture(scope="module")
def called(machines: Machines, other: TrustDomain) -> Iterator[Machine]:
    """A node of another trust domain, which knows that of the other tests."""
    known = Credential("aurae.federated.test.aurae.test.crt", machines.trust.bundle.read_bytes())
    policy = Credential("aurae.policy.json", POLICY.encode())
    elsewhere = replace(machines, trust=other)
    node = elsewhere.start(credentials=(*other.credentials(), known, policy))
    yield node
    elsewhere.close(node)


def identity(machine: Machine) -> IdentityServiceStub:
    return IdentityServiceStub(machine.api.channel)


def put(cell: Cell, path: str, content: bytes) -> None:
    """Replace a file on the node."""
    text = base64.b64encode(content).decode()
    cell.read(f"mkdir -p ${{1%/*}} && echo {text} | base64 -d > $1.new && mv $1.new $1", path)


def test_a_node_calls_one_of_another_trust_domain_until_that_knows_it_no_more(
    machine: Machine, called: Machine, other: TrustDomain
) -> None:
    # QEMU's user network leads from there to this host, and the forwarded port to the other node.
    address = called.address.replace("127.0.0.1", "10.0.2.2")
    put(machine.system, f"/tmp/{CALLED}.crt", other.bundle.read_bytes())
    line = (
        f"python3 -m aer discovery discover --socket {address} --server-name node.node.other.test "
        f"--ca-crt /tmp/{CALLED}.crt --client-crt {CREDENTIALS}/aurae.node.crt "
        f"--client-key {CREDENTIALS}/aurae.node.key"
    )
    done = machine.system.run(line)
    assert (done.exit_code, done.stderr) == (0, "")
    assert "healthy" in done.stdout
    shut = machine.system.run(line.replace("discovery discover", "node poweroff"))
    assert "spiffe://test.aurae.test/node/node: may not call Shutdown" in shut.stderr
    remove = pb.SetTrustRequest(trust_domain="test.aurae.test", remove=True)
    assert list(identity(called).SetTrust(remove).trust_domains) == ["other.test"]
    assert machine.system.run(line).exit_code == 1
    machine.system.read(f"rm /tmp/{CALLED}.crt")


def test_replaced_files_and_a_signed_request_rotate_the_nodes_identity(
    boot: Callable[..., Machine], trust_domain: TrustDomain
) -> None:
    machine = boot()
    api = identity(machine)
    before = api.GetIdentity(pb.GetIdentityRequest())
    assert before.source == CREDENTIALS
    trust_domain.pki("issue", "node", "second", "--dns", "node.node.test.aurae.test")
    certificate, key = trust_domain.pair("node", "second")
    put(machine.system, f"{STATE}/node.key", key.read_bytes())
    put(machine.system, f"{STATE}/node.crt", certificate.read_bytes())
    second = "spiffe://test.aurae.test/node/second"
    _until(machine, second)
    asked = api.GetSigningRequest(pb.GetSigningRequestRequest(spiffe_id=before.spiffe_id))
    signer = Pair(trust_domain.bundle.read_bytes(), (trust_domain.folder / "ca.key").read_bytes())
    signed = sign(signer, asked.signing_request.encode())
    given = api.SetCertificate(pb.SetCertificateRequest(certificate=signed.decode()))
    assert given.spiffe_id == before.spiffe_id
    with machine.connect() as fresh:
        now = IdentityServiceStub(fresh).GetIdentity(pb.GetIdentityRequest(), timeout=SECONDS)
    assert (now.certificate, now.source) == (signed.decode(), STATE)
    tester, _ = trust_domain.pair("person", "tester")
    crl = revoke(signer, Pair(tester.read_bytes(), b""))
    api.SetTrust(pb.SetTrustRequest(revocation_lists=crl.decode()))
    with pytest.raises(grpc.RpcError) as caught:
        machine.api.discovery.Discover(discovery_pb2.DiscoverRequest())
    assert caught.value.code() is StatusCode.UNAUTHENTICATED
    assert "revoked" in (caught.value.details() or "")


def test_a_certificate_is_the_identity_on_the_unix_socket_inside_of_a_cell(
    machine: Machine, trust_domain: TrustDomain
) -> None:
    certificate, key = trust_domain.pair("person", "tester")
    with machine.cell("inside", isolate_process=True) as cell:
        for name, content in (
            ("ca.crt", trust_domain.bundle),
            ("tester.crt", certificate),
            ("tester.key", key),
        ):
            put(cell, f"/tmp/inside/{name}", content.read_bytes())
        own = cell.read("python3 -m aer auth whoami")
        assert "cell:inside" in own
        said = cell.read(
            "cd /tmp/inside && python3 -m aer auth whoami "
            "--socket unix+tls:/run/aurae/aurae-tls.sock --server-name node.node.test.aurae.test "
            "--ca-crt ca.crt --client-crt tester.crt --client-key tester.key; rm -r /tmp/inside"
        )
        assert "spiffe://test.aurae.test/person/tester" in said


def test_a_machine_whose_clock_is_years_behind_is_not_locked_out(
    boot: Callable[..., Machine],
) -> None:
    machine = boot(date="2020-01-01")
    assert machine.api.discovery.Discover(discovery_pb2.DiscoverRequest()).healthy
    assert "before the node's certificate begins; is set to 20" in machine.daemon_log()


def _until(machine: Machine, spiffe_id: str) -> None:
    """Wait until new connections meet this node."""
    deadline = time.monotonic() + SECONDS
    while True:
        with machine.connect() as fresh:
            now = IdentityServiceStub(fresh).GetIdentity(pb.GetIdentityRequest(), timeout=SECONDS)
        if now.spiffe_id == spiffe_id:
            return
        assert time.monotonic() < deadline, f"{spiffe_id}: not served, but {now.spiffe_id}"

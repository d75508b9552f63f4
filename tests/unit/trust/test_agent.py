"""A node whose identity comes from a SPIFFE agent: a server of the Workload API in this process."""

import queue
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from aurae.identity.v0 import identity_pb2, identity_pb2_grpc
from aurae.spiffe import workload_pb2, workload_pb2_grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from grpc import StatusCode

from runtime.identity.authority import Pair
from runtime.trust import agent
from runtime.trust.material import Unusable
from tests.unit.runtime import node as nodes
from tests.unit.runtime.certificates import issue, make_authority, node_svid, revoke
from tests.unit.runtime.node import DEADLINE, Node
from tests.unit.trust.nodes import PERSON, Known, discover, refusal, wait_until

NODE = "spiffe://example.org/node/one"
DER = serialization.Encoding.DER


def der(pem: bytes) -> bytes:
    return b"".join(one.public_bytes(DER) for one in x509.load_pem_x509_certificates(pem))


def svid(own: Pair, roots: bytes, *, name: str = NODE, **more: Any) -> Any:
    key = serialization.load_pem_private_key(own.key, None).private_bytes(
        DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    one = workload_pb2.X509SVID(
        spiffe_id=name, x509_svid=der(own.certificate), x509_svid_key=key, bundle=der(roots)
    )
    return workload_pb2.X509SVIDResponse(svids=[one], **more)


class Agent(workload_pb2_grpc.SpiffeWorkloadAPIServicer):
    """Gives each who asks what there is now, and then what is pushed."""

    def __init__(self, first: Any) -> None:
        self._now = first
        self._asking: list[queue.Queue[Any]] = []
        self.asked = 0

    def push(self, answer: Any) -> None:
        self._now = answer
        for one in self._asking:
            one.put(answer)

    def FetchX509SVID(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:  # noqa: N802
        if ("workload.spiffe.io", "true") not in context.invocation_metadata():
            context.abort(StatusCode.INVALID_ARGUMENT, "security header missing from request")
        self.asked += 1
        answers: queue.Queue[Any] = queue.Queue()
        answers.put(self._now)
        self._asking.append(answers)
        context.add_callback(lambda: answers.put(None))
        while (answer := answers.get()) is not None:
            yield answer
        self._asking.remove(answers)


def agent_giving(first: Any) -> Agent:
    return Agent(first)  # type: ignore[abstract] # to the type checker only


@contextmanager
def serving(one: Agent, socket: Path) -> Iterator[None]:
    server = grpc.server(futures.ThreadPoolExecutor(4))
    workload_pb2_grpc.add_SpiffeWorkloadAPIServicer_to_server(one, server)
    server.add_insecure_port(f"unix:{socket}")
    server.start()
    try:
        yield
    finally:
        server.stop(None).wait()


@pytest.fixture
def socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    socket = tmp_path / "agent.sock"
    monkeypatch.setenv("TEST_SPIFFE", f"unix:{socket}")
    return socket


def known(folder: Path, signer: Pair, there: Node) -> Known:
    wait_until(lambda: f"as {NODE}" in there.log, "the port")
    said = there.log.rpartition("serving on ")[2].partition(" as ")[0]
    return Known(folder, signer, there, said)


def test_the_agents_svid_is_served_rotates_and_outlives_the_agent(
    tmp_path: Path, socket: Path
) -> None:
    signer, other = make_authority(), make_authority("other.org")
    with nodes.node(tmp_path) as there:
        wait_until(lambda: "the node has none yet" in there.log, "a try")
        own = node_svid(signer)
        spire = agent_giving(svid(own, signer.certificate))
        with serving(spire, socket):
            node = known(tmp_path, signer, there)
            assert node.serves(own)
            channel = node.channel(node.person)
            assert discover(channel) == "1.2.3"
            for _ in range(5):
                own = node_svid(signer)
                spire.push(
                    svid(
                        own,
                        signer.certificate + make_authority().certificate,
                        federated_bundles={"spiffe://other.org": der(other.certificate)},
                    )
                )
                wait_until(lambda own=own: node.serves(own), "the rotation")  # type: ignore[misc]
                assert discover(channel) == "1.2.3"
            with node.channel(issue(other, "spiffe://other.org/person/eve")) as stranger:
                assert refusal(stranger)[0] is StatusCode.PERMISSION_DENIED
        wait_until(lambda: f"the node goes on as {NODE}" in there.log, "the agent's end")
        assert discover(channel) == "1.2.3"
        assert node.serves(own)
        fresh = node_svid(signer)
        with serving(agent_giving(svid(fresh, signer.certificate)), socket):
            wait_until(lambda: node.serves(fresh), "the agent's return")
            assert discover(channel) == "1.2.3"
        channel.close()


def test_what_the_agent_gives_must_be_usable_and_its_lists_count(
    tmp_path: Path, socket: Path
) -> None:
    signer = make_authority()
    own, caller = node_svid(signer), issue(signer, PERSON)
    spire = agent_giving(svid(own, signer.certificate))
    with serving(spire, socket), nodes.node(tmp_path) as there:
        node = known(tmp_path, signer, there)
        for bad, told in (
            (svid(node_svid(make_authority()), signer.certificate), "does not vouch for it"),
            (svid(Pair(own.certificate, caller.key), signer.certificate), "is not the key of"),
            (svid(own, signer.certificate, name=PERSON), f"is not of {PERSON}"),
            (workload_pb2.X509SVIDResponse(), "there is none"),
        ):
            spire.push(bad)
            node.says(told)
        assert node.serves(own)
        with node.channel(caller) as channel:
            assert discover(channel) == "1.2.3"
            lists = x509.load_pem_x509_crl(revoke(signer, caller)).public_bytes(DER)
            spire.push(svid(own, signer.certificate, crl=[lists]))
            node.says("takes effect")
            wait_until(lambda: there.log.count("takes effect") == 2, "the list")
            assert refusal(channel)[0] is StatusCode.UNAUTHENTICATED
        stub = identity_pb2_grpc.IdentityServiceStub(there.channel)
        shown = stub.GetIdentity(identity_pb2.GetIdentityRequest(), timeout=DEADLINE)
        assert (shown.spiffe_id, shown.source) == (NODE, f"unix:{socket}")
        with pytest.raises(grpc.RpcError) as caught:
            stub.GetSigningRequest(identity_pb2.GetSigningRequestRequest(), timeout=DEADLINE)
        assert caught.value.code() is StatusCode.FAILED_PRECONDITION
        assert "comes from the SPIFFE agent" in (caught.value.details() or "")


@pytest.mark.parametrize("cut", [1, 2, 3, 100])
def test_der_that_is_cut_short_is_refused(cut: int) -> None:
    answer = svid(node_svid(make_authority()), make_authority().certificate)
    answer.svids[0].bundle = answer.svids[0].bundle[:cut]
    with pytest.raises(Unusable, match="cut short"):
        agent.parse(answer, "unix:/agent.sock")

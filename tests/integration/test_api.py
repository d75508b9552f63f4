"""The API as a whole: who may call it, what it says of itself, and what it withstands."""

import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from aurae.cells.v0 import cells_pb2 as pb
from aurae.discovery.v0 import discovery_pb2
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from aer.client import Config
from runtime.identity import authority
from runtime.identity.spiffe import SpiffeId
from testkit.api import Api
from testkit.machines import Machine, Machines
from testkit.refusals import refused
from testkit.trust import NAME, TrustDomain

SERVICES = (
    "aurae.cells.v0.CellService",
    "aurae.discovery.v0.DiscoveryService",
    "aurae.node.v0.NodeService",
    "aurae.observe.v0.ObserveService",
)
if TYPE_CHECKING:  # generic to the type checker only
    Raw = grpc.UnaryUnaryMultiCallable[bytes, bytes]

LIST = pb.CellServiceListRequest()


def certificate(
    signer: authority.Pair,
    identity: SpiffeId,
    *,
    days: int = 1,
    now: datetime | None = None,
) -> authority.Pair:
    key = authority.make_key(authority.KeyType.ECDSA_P256)
    return authority.issue(signer, identity, key, validity=timedelta(days=days), now=now)


def forged(signer: authority.Pair, uris: list[str]) -> authority.Pair:
    """What `authority.issue` refuses to make: any names, signed by the right key."""
    key = ec.generate_private_key(ec.SECP256R1())
    by = x509.load_pem_x509_certificate(signer.certificate)
    names = [*map(x509.UniformResourceIdentifier, uris), x509.DNSName("tester.test")]
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tester")]))
        .issuer_name(by.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
    )
    signing = serialization.load_pem_private_key(signer.key, None)
    assert isinstance(signing, ec.EllipticCurvePrivateKey)
    made = builder.sign(signing, hashes.SHA256())
    return authority.Pair(
        made.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


def signer_of(trust: TrustDomain) -> authority.Pair:
    return authority.Pair(trust.bundle.read_bytes(), (trust.folder / "ca.key").read_bytes())


@contextmanager
def as_caller(machine: Machine, pair: authority.Pair | None) -> Iterator[Api]:
    """The API as the holder of these would see it; None is a client without a certificate."""
    server_name = Config.load(machine.config_file).server_name
    secrets = grpc.ssl_channel_credentials(
        root_certificates=machine.trust.bundle.read_bytes(),
        private_key=pair.key if pair else None,
        certificate_chain=pair.certificate if pair else None,
    )
    options = (("grpc.ssl_target_name_override", server_name or ""),)
    with grpc.secure_channel(machine.address, secrets, options=options) as channel:
        yield Api.on(channel)


def test_discovery_and_os_release_tell_the_images_version(
    machine: Machine, machines: Machines
) -> None:
    version = machines.version
    answer = machine.api.discovery.Discover(discovery_pb2.DiscoverRequest())
    assert answer.healthy
    assert answer.version == version
    told = machine.system.read("cat /etc/os-release").splitlines()
    assert {f'IMAGE_VERSION="{version}"', f'VERSION_ID="{version}"'} <= set(told)


@pytest.mark.parametrize("service", ["", *SERVICES])
def test_health_is_known_for_each_service(machine: Machine, service: str) -> None:
    request = health_pb2.HealthCheckRequest(service=service)
    assert machine.api.health.Check(request).status == health_pb2.HealthCheckResponse.SERVING


def test_health_of_what_is_not_served_is_not_found(machine: Machine) -> None:
    with refused(grpc.StatusCode.NOT_FOUND):
        machine.api.health.Check(health_pb2.HealthCheckRequest(service="aurae.none.v0.None"))


def test_health_can_be_watched(machine: Machine) -> None:
    watch = machine.api.health.Watch(health_pb2.HealthCheckRequest())
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()


def test_reflection_lists_every_service(machine: Machine) -> None:
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (answer,) = machine.api.reflection.ServerReflectionInfo(iter([request]))
    listed = {service.name for service in answer.list_services_response.service}
    assert {*SERVICES, "grpc.health.v1.Health"} <= listed


def test_reflection_knows_the_messages(machine: Machine) -> None:
    symbol = "aurae.cells.v0.CellService"
    request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol)
    (answer,) = machine.api.reflection.ServerReflectionInfo(iter([request]))
    assert any(
        b"ExecutableStatus" in f for f in answer.file_descriptor_response.file_descriptor_proto
    )


def test_an_unknown_method_is_unimplemented(machine: Machine) -> None:
    call: Raw = machine.api.channel.unary_unary("/aurae.cells.v0.CellService/Destroy")
    with refused(grpc.StatusCode.UNIMPLEMENTED):
        call(b"", timeout=30)


def test_a_message_that_is_none_is_refused(machine: Machine) -> None:
    call: Raw = machine.api.channel.unary_unary("/aurae.cells.v0.CellService/Allocate")
    with pytest.raises(grpc.RpcError) as refusal:
        call(b"\xff\xff\xff\xff", timeout=30)
    assert refusal.value.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT)


def test_a_message_of_10_mb_is_refused_and_the_api_goes_on(machine: Machine) -> None:
    wanted = pb.Executable(name="big", command="true", description="x" * 10_000_000)
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED):
        machine.api.cells.Start(pb.CellServiceStartRequest(executable=wanted))
    assert machine.system.read("echo fine") == "fine\n"


def test_calls_side_by_side_are_all_answered(machine: Machine) -> None:
    calls = [machine.api.cells.List.future(LIST, timeout=60) for _ in range(200)]
    for call in calls:
        call.result(timeout=60)


def test_one_person_allocates_a_name_when_many_try_at_once(machine: Machine) -> None:
    request = pb.CellServiceAllocateRequest(cell=pb.Cell(name="contended"))
    calls = [machine.api.cells.Allocate.future(request, timeout=60) for _ in range(20)]
    codes = [call.code() for call in calls]
    machine.api.cells.Free(pb.CellServiceFreeRequest(cell_name="contended"))
    assert codes.count(grpc.StatusCode.OK) == 1
    assert codes.count(grpc.StatusCode.ALREADY_EXISTS) == 19


def test_connections_that_say_nothing_keep_nobody_out(machine: Machine) -> None:
    host, _, port = machine.address.partition(":")
    silent = [socket.create_connection((host, int(port)), timeout=30) for _ in range(50)]
    try:
        with machine.connect() as channel:
            Api.on(channel).cells.List(LIST)
    finally:
        for connection in silent:
            connection.close()


class TestCallers:
    """Who may call where nobody has set a policy: a person of the trust domain."""

    def test_a_person_of_the_trust_domain(self, machine: Machine) -> None:
        pair = certificate(signer_of(machine.trust), SpiffeId(NAME, "/person/else"))
        with as_caller(machine, pair) as api:
            api.cells.List(LIST)

    def test_nobody(self, machine: Machine) -> None:
        with as_caller(machine, None) as api, refused(grpc.StatusCode.UNAVAILABLE):
            api.cells.List(LIST, timeout=30)

    def test_one_whose_certificate_has_expired(self, machine: Machine) -> None:
        past = datetime.now(UTC) - timedelta(days=30)
        signer = authority.make_authority(
            NAME, signer_of(machine.trust).key, validity=timedelta(days=60), now=past
        )
        pair = certificate(signer, SpiffeId(NAME, "/person/late"), now=past)
        with as_caller(machine, pair) as api, refused(grpc.StatusCode.UNAVAILABLE):
            api.cells.List(LIST, timeout=30)

    def test_one_of_a_foreign_authority(self, machine: Machine) -> None:
        key = authority.make_key(authority.KeyType.ECDSA_P256)
        foreign = authority.make_authority(NAME, key, validity=timedelta(days=1))
        pair = certificate(foreign, SpiffeId(NAME, "/person/tester"))
        with as_caller(machine, pair) as api, refused(grpc.StatusCode.UNAVAILABLE):
            api.cells.List(LIST, timeout=30)

    @pytest.mark.parametrize(
        "identity",
        [
            SpiffeId(NAME, "/node/node"),
            SpiffeId(NAME, "/node/person"),
            SpiffeId(NAME, "/workload/x"),
        ],
        ids=str,
    )
    def test_one_with_another_identity(self, machine: Machine, identity: SpiffeId) -> None:
        pair = certificate(signer_of(machine.trust), identity)
        with (
            as_caller(machine, pair) as api,
            refused(grpc.StatusCode.PERMISSION_DENIED, str(identity), "no rule"),
        ):
            api.cells.List(LIST)

    @pytest.mark.parametrize(
        "uris",
        [
            ["spiffe://other.test/person/tester"],
            [f"spiffe://sub.{NAME}/person/tester"],
            [f"https://{NAME}/person/tester"],
            [f"spiffe://{NAME}/person/tester", f"spiffe://{NAME}/person/else"],
            [],
        ],
        ids=str,
    )
    def test_one_whom_the_authority_should_never_have_signed(
        self, machine: Machine, uris: list[str]
    ) -> None:
        pair = forged(signer_of(machine.trust), uris)
        with (
            as_caller(machine, pair) as api,
            refused(grpc.StatusCode.UNAUTHENTICATED, "caller", *uris[:1], "certificate"),
        ):
            api.cells.List(LIST)

    def test_the_node_itself(self, machine: Machine) -> None:
        crt, key = machine.trust.pair("node", "node")
        pair = authority.Pair(crt.read_bytes(), key.read_bytes())
        with as_caller(machine, pair) as api, refused(grpc.StatusCode.PERMISSION_DENIED):
            api.cells.List(LIST)

    def test_every_service_asks_who_it_is(self, machine: Machine) -> None:
        pair = certificate(signer_of(machine.trust), SpiffeId(NAME, "/node/other"))
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        with as_caller(machine, pair) as api:
            for call in (
                lambda: api.cells.List(LIST),
                lambda: api.discovery.Discover(discovery_pb2.DiscoverRequest()),
                lambda: api.health.Check(health_pb2.HealthCheckRequest()),
                lambda: list(api.health.Watch(health_pb2.HealthCheckRequest())),
                lambda: list(api.reflection.ServerReflectionInfo(iter([request]))),
            ):
                with refused(grpc.StatusCode.PERMISSION_DENIED):
                    call()

    def test_a_client_that_expects_another_node(self, machine: Machine) -> None:
        secrets = grpc.ssl_channel_credentials(machine.trust.bundle.read_bytes())
        options = (("grpc.ssl_target_name_override", "other.node.test"),)
        with (
            grpc.secure_channel(machine.address, secrets, options=options) as channel,
            refused(grpc.StatusCode.UNAVAILABLE),
        ):
            Api.on(channel).cells.List(LIST, timeout=30)


class TestTls:
    """Only TLS 1.3 leads in."""

    def shake_hands(self, machine: Machine, version: ssl.TLSVersion) -> str | None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(machine.trust.bundle)
        context.load_cert_chain(*machine.trust.pair("person", "tester"))
        context.minimum_version = context.maximum_version = version
        host, _, port = machine.address.partition(":")
        with (
            socket.create_connection((host, int(port)), timeout=30) as connection,
            context.wrap_socket(connection) as secured,
        ):
            return secured.version()

    def test_1_3(self, machine: Machine) -> None:
        assert self.shake_hands(machine, ssl.TLSVersion.TLSv1_3) == "TLSv1.3"

    def test_1_2(self, machine: Machine) -> None:
        with pytest.raises(ssl.SSLError):
            self.shake_hands(machine, ssl.TLSVersion.TLSv1_2)

    def test_no_tls(self, machine: Machine) -> None:
        with (
            grpc.insecure_channel(machine.address) as channel,
            refused(grpc.StatusCode.UNAVAILABLE),
        ):
            Api.on(channel).cells.List(LIST, timeout=30)


class TestAer:
    """The command line client, as a person uses it."""

    def aer(self, machine: Machine, *arguments: str, code: int = 0) -> str:
        line = [sys.executable, "-m", "aer", "--config", str(machine.config_file), *arguments]
        done = subprocess.run(line, check=False, capture_output=True, text=True, timeout=120)
        assert done.returncode == code, done.stderr
        return done.stdout if code == 0 else done.stderr

    def test_a_first_session(self, machine: Machine, machines: Machines) -> None:
        self.aer(machine, "cell", "allocate", "web", "--cpu-weight", "200")
        self.aer(machine, "cell", "start", "web", "hello", 'echo "hello from $AURAE_CELL"; exit 3')
        assert "3" in self.aer(machine, "cell", "wait", "web", "hello")
        assert "hello from web" in self.aer(machine, "logs", "web/hello")
        assert "hello" in self.aer(machine, "cell", "list")
        self.aer(machine, "cell", "free", "web")
        assert machines.version in self.aer(machine, "discovery", "discover")

    def test_a_refusal_is_exit_1_with_the_nodes_words(self, machine: Machine) -> None:
        said = self.aer(machine, "cell", "allocate", "web/api", code=1)
        assert "allocate web first" in said


def test_calls_go_on_while_one_waits(machine: Machine) -> None:
    with machine.cell("c") as cell:
        cell.start("long", "exec sleep 1000")
        waited: list[object] = []
        waiter = threading.Thread(target=lambda: waited.append(cell.wait("long")))
        waiter.start()
        cell.run("true")
        assert not waited
        cell.stop("long", grace=5)
        waiter.join(timeout=60)
        assert waited


def test_secrets_of_the_host_are_not_on_qemus_command_line(machine: Machine) -> None:
    line = Path(f"/proc/{machine.qemu.pid}/cmdline").read_text()
    key = machine.trust.pair("node", "node")[1].read_text().splitlines()[1]
    assert key not in line

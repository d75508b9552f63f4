"""Chains through a node's authority, as the TLS of others takes them: gRPC's BoringSSL, OpenSSL."""

import os
import ssl
import subprocess
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

os.environ["GRPC_VERBOSITY"] = "NONE"

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from runtime.identity import authority, svid
from runtime.identity.authority import KeyType, Pair
from runtime.identity.spiffe import SpiffeId
from tests.unit.identity.test_authority import forged

DAY = timedelta(days=1)
DNS_NAME = "one.node.example.org"
DEADLINE = 10.0


def issue(signer: Pair, path: str, dns_name: str | None = None) -> Pair:
    key = authority.make_key(KeyType.ECDSA_P256)
    spiffe_id = SpiffeId("example.org", path)
    return authority.issue(signer, spiffe_id, key, dns_name=dns_name, validity=DAY)


@pytest.fixture(scope="module")
def root() -> Pair:
    key = authority.make_key(KeyType.ECDSA_P256)
    return authority.make_authority("example.org", key, validity=30 * DAY)


@pytest.fixture(scope="module")
def node_ca(root: Pair) -> Pair:
    key = authority.make_key(KeyType.ECDSA_P256)
    return authority.make_intermediate(root, key, "one", validity=DAY)


@pytest.fixture(scope="module")
def workload(node_ca: Pair) -> Pair:
    """Its chain, as it is shown in a handshake: the leaf, then the node's authority."""
    return chained(node_ca, issue(node_ca, "/node/one/cell/web"))


def chained(node_ca: Pair, leaf: Pair) -> Pair:
    return Pair(leaf.certificate + node_ca.certificate, leaf.key)


def forge(node_ca: Pair, *names: x509.GeneralName) -> Pair:
    """A chain that `authority` would not issue."""
    key = authority.make_key(KeyType.ECDSA_P256)
    signer = svid.certificates(node_ca.certificate)[0]
    own = signer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    above = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)
    certificate = forged(
        node_ca, lambda b: b.add_extension(above, critical=False), names=[*names], key=key
    )
    return chained(node_ca, Pair(certificate, key))


def uri(text: str) -> x509.GeneralName:
    return x509.UniformResourceIdentifier(text)


@contextmanager
def serving(own: Pair, root: Pair) -> Iterator[int]:
    server = grpc.server(futures.ThreadPoolExecutor(2))
    health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
    credentials = grpc.ssl_server_credentials(
        [(own.key, own.certificate)], root.certificate, require_client_auth=True
    )
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        yield port
    finally:
        server.stop(grace=None).wait()


def asks(port: int, caller: Pair, root: Pair) -> bool:
    """Whether the handshake of gRPC with gRPC succeeds."""
    credentials = grpc.ssl_channel_credentials(root.certificate, caller.key, caller.certificate)
    options = [("grpc.ssl_target_name_override", DNS_NAME), ("grpc.enable_retries", 0)]
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            stub.Check(health_pb2.HealthCheckRequest(), timeout=DEADLINE)
        except grpc.RpcError as e:
            if e.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            return False
        return True


def context(side: int, own: Pair, root: Pair, folder: Path) -> ssl.SSLContext:
    made = ssl.SSLContext(side)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.check_hostname = False
    made.verify_mode = ssl.CERT_REQUIRED
    made.verify_flags |= ssl.VERIFY_X509_STRICT
    file = folder / "own.pem"
    file.write_bytes(own.certificate + own.key)
    made.load_cert_chain(file)
    made.load_verify_locations(cadata=root.certificate.decode())
    return made


def shake(client: ssl.SSLContext, server: ssl.SSLContext) -> str | None:
    """The version of TLS that both agree on, in memory. Raises ssl.SSLError."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (client.wrap_bio(down, up), server.wrap_bio(up, down, server_side=True))
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return ends[1].version()


def test_grpc_takes_a_chain_through_a_nodes_authority(root: Pair, workload: Pair) -> None:
    own = issue(root, "/node/one", DNS_NAME)
    with serving(own, root) as port:
        assert asks(port, workload, root)


def test_grpc_takes_name_constraints_to_heart(root: Pair, node_ca: Pair) -> None:
    own = issue(root, "/node/one", DNS_NAME)
    good, bad = uri("spiffe://example.org/node/one/x"), uri("spiffe://other.org/node/one/x")
    dns = x509.DNSName(DNS_NAME)
    with serving(own, root) as port:
        assert asks(port, forge(node_ca, good), root)
        assert not asks(port, forge(node_ca, bad), root)
        assert not asks(port, forge(node_ca, good, dns), root)


def test_grpc_does_not_believe_a_nodes_authority_in_another_nodes_place(
    root: Pair, node_ca: Pair, workload: Pair
) -> None:
    """aer checks the DNS name and nothing else of a node: no authority on a node may give one."""
    impostor = forge(node_ca, uri("spiffe://example.org/node/one"), x509.DNSName(DNS_NAME))
    with serving(impostor, root) as port:
        assert not asks(port, workload, root)


def test_openssl_takes_a_chain_through_a_nodes_authority(
    root: Pair, workload: Pair, tmp_path: Path
) -> None:
    client = context(ssl.PROTOCOL_TLS_CLIENT, workload, root, tmp_path)
    server = context(ssl.PROTOCOL_TLS_SERVER, workload, root, tmp_path)
    assert shake(client, server) == "TLSv1.3"


@pytest.mark.parametrize(
    "names",
    [
        [uri("spiffe://other.org/node/one/x")],
        [uri("spiffe://example.org/node/one/x"), x509.DNSName("a.example.org")],
    ],
)
def test_openssl_takes_name_constraints_to_heart(
    root: Pair, node_ca: Pair, workload: Pair, tmp_path: Path, names: list[x509.GeneralName]
) -> None:
    client = context(ssl.PROTOCOL_TLS_CLIENT, forge(node_ca, *names), root, tmp_path)
    server = context(ssl.PROTOCOL_TLS_SERVER, workload, root, tmp_path)
    with pytest.raises(ssl.SSLError, match=r"certificate verify failed: (permitted|excluded)"):
        shake(client, server)


def test_openssl_verifies_the_chain_strictly(root: Pair, workload: Pair, tmp_path: Path) -> None:
    leaf, above = svid.certificates(workload.certificate)
    for name, certificate in (("leaf", leaf), ("above", above)):
        pem = certificate.public_bytes(Encoding.PEM)
        (tmp_path / f"{name}.pem").write_bytes(pem)
    (tmp_path / "root.pem").write_bytes(root.certificate)
    line = ["openssl", "verify", "-x509_strict", "-CAfile", "root.pem", "-untrusted", "above.pem"]
    done = subprocess.run([*line, "leaf.pem"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "leaf.pem: OK\n")

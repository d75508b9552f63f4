"""A node with an identity, and those who call it by TLS."""

import os
import socket
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from aurae.discovery.v0 import discovery_pb2, discovery_pb2_grpc
from aurae.observe.v0 import observe_pb2, observe_pb2_grpc
from cryptography import x509
from grpc import StatusCode

from runtime.identity.authority import Pair
from tests.unit.runtime import node as nodes
from tests.unit.runtime.certificates import SERVER_NAME, issue, make_authority, node_svid, write
from tests.unit.runtime.node import DEADLINE, Node

PERSON = "spiffe://example.org/person/ann"


def replace(path: Path, content: bytes) -> None:
    """Put another file in its place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.fresh")
    fresh.write_bytes(content)
    fresh.rename(path)


def wait_until(true: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + DEADLINE
    while not true():
        assert time.monotonic() < deadline, f"{what}: not in time"
        time.sleep(0.02)


class Known:
    """A node that is known: its folders, its authority, and where it listens."""

    def __init__(self, folder: Path, signer: Pair, there: Node, address: str) -> None:
        self.folder = folder
        self.signer = signer
        self.there = there
        self.address = address

    @property
    def credentials(self) -> Path:
        return self.folder / "credentials"

    @property
    def state(self) -> Path:
        return self.folder / "state" / "identity"

    @property
    def person(self) -> Pair:
        return issue(self.signer, PERSON)

    def channel(
        self, caller: Pair, address: str | None = None, bundle: bytes | None = None
    ) -> grpc.Channel:
        return grpc.secure_channel(
            address or self.address,
            grpc.ssl_channel_credentials(
                bundle or self.signer.certificate, caller.key, caller.certificate
            ),
            [
                ("grpc.ssl_target_name_override", SERVER_NAME),
                ("grpc.enable_retries", 0),
                ("grpc.use_local_subchannel_pool", 1),
            ],
        )

    def served(self) -> x509.Certificate:
        """The certificate that a new connection gets."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        host, _, port = self.address.rpartition(":")
        with (
            tempfile.TemporaryDirectory() as folder,
            socket.create_connection((host, int(port)), DEADLINE) as plain,
        ):
            pair = Path(folder, "pair.pem")
            own = self.person
            pair.write_bytes(own.certificate + own.key)
            context.load_cert_chain(pair)
            with context.wrap_socket(plain) as tls:
                der = tls.getpeercert(binary_form=True)
        assert der is not None
        return x509.load_der_x509_certificate(der)

    def serves(self, own: Pair) -> bool:
        return self.served() == x509.load_pem_x509_certificate(own.certificate)

    def says(self, fact: str) -> None:
        wait_until(lambda: fact in self.there.log, f"{fact!r} in the log")


def discover(channel: grpc.Channel) -> str:
    stub = discovery_pb2_grpc.DiscoveryServiceStub(channel)
    return stub.Discover(discovery_pb2.DiscoverRequest(), timeout=DEADLINE).version


def refusal(channel: grpc.Channel) -> tuple[StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        discover(channel)
    return caught.value.code(), caught.value.details() or ""


def follow(channel: grpc.Channel, executable: str) -> Any:
    """Lines of the executable as they come."""
    stub = observe_pb2_grpc.ObserveServiceStub(channel)
    return stub.GetSubProcessStream(
        observe_pb2.GetSubProcessStreamRequest(executable_name=executable)
    )


@contextmanager
def known(folder: Path, signer: Pair | None = None, listen: str = "127.0.0.1:0") -> Iterator[Known]:
    """A node of `example.org` with boot credentials."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    signer = signer or make_authority()
    write(folder / "credentials", node_svid(signer), signer.certificate)
    with nodes.owner(folder), nodes.api(folder, listen), nodes.client(folder) as there:
        wait_until(lambda: " as spiffe://" in there.log, "the port")
        address = there.log.partition("serving on ")[2].partition(" as ")[0]
        node = Known(folder, signer, there, address)
        node.says("is good")
        yield node

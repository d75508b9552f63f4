"""A real gRPC server with mutual TLS in this process, which answers what a test tells it to."""

import os
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

os.environ["GRPC_VERBOSITY"] = "NONE"

import grpc
import pytest
from aurae.audit.v0 import audit_pb2_grpc
from aurae.cells.v0 import cells_pb2_grpc
from aurae.discovery.v0 import discovery_pb2_grpc
from aurae.node.v0 import install_pb2_grpc, node_pb2_grpc
from aurae.observe.v0 import observe_pb2_grpc
from grpc_health.v1 import health_pb2_grpc

from aer.__main__ import main
from runtime.identity import authority
from runtime.identity.authority import KeyType, Pair
from runtime.identity.spiffe import SpiffeId
from runtime.identity.store import PairFiles

TRUST_DOMAIN = "aurae.local"
NODE_NAME = "dev.node.aurae.local"
DAY = timedelta(days=1)

Answer = Callable[[Any, grpc.ServicerContext], Any]


@dataclass
class Node:
    """`answers` by method; `requests` and `deadlines` are what came."""

    answers: dict[str, Answer] = field(default_factory=dict)
    requests: list[Any] = field(default_factory=list)
    deadlines: list[float | None] = field(default_factory=list)
    address: str = ""


def servicer(base: type, node: Node) -> Any:
    def method(name: str) -> Callable[..., Any]:
        def answer(_: object, request: Any, context: grpc.ServicerContext) -> Any:
            node.requests.append(request)
            node.deadlines.append(context.time_remaining())
            return node.answers[name](request, context)

        return answer

    names = [name for name in vars(base) if not name.startswith("_")]
    return type(base.__name__, (base,), {name: method(name) for name in names})()


def make_authority(**options: Any) -> Pair:
    key = authority.make_key(KeyType.ECDSA_P256)
    return authority.make_authority(TRUST_DOMAIN, key, **{"validity": DAY, **options})


def issue(signer: Pair, path: str, **options: Any) -> Pair:
    key = authority.make_key(KeyType.ECDSA_P256)
    spiffe_id = SpiffeId(TRUST_DOMAIN, path)
    return authority.issue(signer, spiffe_id, key, **{"validity": DAY, **options})


@contextmanager
def serving(node: Node, signer: Pair, own: Pair) -> Iterator[Node]:
    server = grpc.server(futures.ThreadPoolExecutor(4))
    for module in (
        audit_pb2_grpc,
        cells_pb2_grpc,
        discovery_pb2_grpc,
        install_pb2_grpc,
        node_pb2_grpc,
        observe_pb2_grpc,
        health_pb2_grpc,
    ):
        for name, add in vars(module).items():
            if name.startswith("add_") and name.endswith("_to_server"):
                base = getattr(module, name.removeprefix("add_").removesuffix("_to_server"))
                add(servicer(base, node), server)
    credentials = grpc.ssl_server_credentials(
        [(own.key, own.certificate)], signer.certificate, require_client_auth=True
    )
    node.address = f"127.0.0.1:{server.add_secure_port('127.0.0.1:0', credentials)}"
    server.start()
    try:
        yield node
    finally:
        server.stop(grace=None).wait()


@pytest.fixture(scope="session")
def signer() -> Pair:
    return make_authority()


@pytest.fixture(scope="session")
def server(signer: Pair) -> Iterator[Node]:
    own = issue(signer, "/node/dev", dns_name=NODE_NAME)
    with serving(Node(), signer, own) as node:
        yield node


@pytest.fixture
def node(server: Node) -> Node:
    """The server, as if fresh."""
    server.answers.clear()
    server.requests.clear()
    server.deadlines.clear()
    return server


@pytest.fixture
def home(tmp_path: Path, signer: Pair, node: Node, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with a configuration that works."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "80")
    folder = tmp_path / ".aurae"
    PairFiles.at(folder / "ca").write(signer)
    PairFiles.at(folder / "ann").write(issue(signer, "/person/ann"))
    (folder / "config").write_text(
        f"""
        [auth]
        ca_crt = "ca.crt"
        client_crt = "ann.crt"
        client_key = "ann.key"

        [system]
        socket = "{node.address}"
        server_name = "{NODE_NAME}"
        """
    )
    return tmp_path


@dataclass(frozen=True)
class Result:
    status: int
    out: str
    err: str


@pytest.fixture
def aer(home: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Runs a command line in this process."""

    def run(*words: str) -> Result:
        capfd.readouterr()
        try:
            status = main(words)
        except SystemExit as e:
            status = int(e.code or 0)
        out, err = capfd.readouterr()
        return Result(status, out, err)

    return run

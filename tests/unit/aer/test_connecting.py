"""What a person reads when a node cannot be reached. The server, the TLS and the files are real."""

import socket
import threading
from collections.abc import Callable
from concurrent import futures
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from aurae.discovery.v0 import discovery_pb2, discovery_pb2_grpc

from aer.client import Config, connect
from runtime.identity.authority import Pair
from runtime.identity.store import PairFiles

from .conftest import NODE_NAME, Node, Result, issue, make_authority, servicer, serving

Aer = Callable[..., Result]

LAST_WEEK = datetime.now(UTC) - timedelta(days=7)


@pytest.fixture(autouse=True)
def _answer(node: Node) -> None:
    node.answers["Discover"] = lambda *_: discovery_pb2.DiscoverResponse(
        healthy=True, version="1.2.3"
    )


def test_a_channel_of_the_configuration_reaches_the_node(home: Path) -> None:
    with connect(Config.load(home / ".aurae/config")) as channel:
        stub = discovery_pb2_grpc.DiscoveryServiceStub(channel)
        assert stub.Discover(discovery_pb2.DiscoverRequest(), timeout=10).version == "1.2.3"


def test_a_unix_socket_needs_no_certificate(
    aer: Aer, node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".aurae/config").write_text('[system]\nsocket = "../aurae.sock"')
    server = grpc.server(futures.ThreadPoolExecutor(1))
    base = discovery_pb2_grpc.DiscoveryServiceServicer
    discovery_pb2_grpc.add_DiscoveryServiceServicer_to_server(servicer(base, node), server)
    server.add_insecure_port(f"unix:{tmp_path}/aurae.sock")
    server.start()
    try:
        for flags in ([], ["--socket", "./aurae.sock"], ["--socket", f"{tmp_path}/aurae.sock"]):
            done = aer("discovery", "discover", *flags)
            assert (done.status, done.err) == (0, "")
            assert done.out.endswith("aurae.sock: auraed 1.2.3, healthy\n")
    finally:
        server.stop(grace=None).wait()


def test_nothing_listens(aer: Aer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    done = aer("discovery", "discover", "--socket", f"127.0.0.1:{port}")
    assert done.status == 1
    assert done.err == (
        f"aer: 127.0.0.1:{port}: cannot connect: connection refused\n"
        "(is the node up, and the port right?)\n"
    )


def test_the_node_has_another_name(aer: Aer) -> None:
    done = aer("discovery", "discover", "--server-name", "other.node.aurae.local")
    assert done.status == 1
    assert "for another name\n(server_name must be" in done.err


def test_no_server_name_and_a_bare_address(aer: Aer, home: Path) -> None:
    config = home / ".aurae/config"
    config.write_text(config.read_text().replace("server_name", "#"))
    done = aer("discovery", "discover")
    assert done.status == 1
    assert "without a server_name the host" in done.err


def test_the_node_is_of_another_authority(aer: Aer, home: Path) -> None:
    folder = home / "other"
    other = make_authority()
    PairFiles.at(folder / "ca").write(other)
    PairFiles.at(folder / "eve").write(issue(other, "/person/eve"))
    flags = [f"--ca-crt={folder}/ca.crt", f"--client-crt={folder}/eve.crt"]
    done = aer("discovery", "discover", *flags, f"--client-key={folder}/eve.key")
    assert done.status == 1
    assert f"not signed by your authority\n(is {folder}/ca.crt of the node" in done.err


def test_the_node_does_not_know_our_authority(aer: Aer, home: Path, signer: Pair) -> None:
    """We trust the node, and show it a certificate of somebody else."""
    folder = home / "other"
    other = make_authority()
    PairFiles.at(folder / "eve").write(issue(other, "/person/eve"))
    (folder / "both.crt").write_bytes(signer.certificate + other.certificate)
    flags = [f"--ca-crt={folder}/both.crt", f"--client-crt={folder}/eve.crt"]
    done = aer("discovery", "discover", *flags, f"--client-key={folder}/eve.key")
    assert done.status == 1
    assert f"may not accept {folder}/eve.crt, which must be" in done.err


def test_our_certificate_has_expired(aer: Aer, home: Path) -> None:
    folder = home / "old"
    old = make_authority(now=LAST_WEEK, validity=timedelta(days=30))
    PairFiles.at(folder / "ca").write(old)
    PairFiles.at(folder / "ann").write(issue(old, "/person/ann", now=LAST_WEEK))
    flags = [f"--ca-crt={folder}/ca.crt", f"--client-crt={folder}/ann.crt"]
    done = aer("discovery", "discover", *flags, f"--client-key={folder}/ann.key")
    assert done.status == 1
    assert f"({folder}/ann.crt: certificate: expired on 20" in done.err


def test_the_nodes_certificate_has_expired(aer: Aer, home: Path) -> None:
    folder = home / "old"
    old = make_authority(now=LAST_WEEK, validity=timedelta(days=30))
    PairFiles.at(folder / "ca").write(old)
    PairFiles.at(folder / "ann").write(issue(old, "/person/ann"))
    own = issue(old, "/node/dev", dns_name=NODE_NAME, now=LAST_WEEK)
    with serving(Node(), old, own) as node:
        done = aer(
            "discovery",
            "discover",
            f"--socket={node.address}",
            f"--ca-crt={folder}/ca.crt",
            f"--client-crt={folder}/ann.crt",
            f"--client-key={folder}/ann.key",
        )
    assert done.status == 1
    assert "the node's certificate has expired" in done.err


def test_what_listens_does_not_speak_tls(aer: Aer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            peer, _ = server.accept()
            peer.recv(1)
            peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            peer.close()

        thread = threading.Thread(target=answer)
        thread.start()
        done = aer("discovery", "discover", f"--socket=127.0.0.1:{server.getsockname()[1]}")
        thread.join()
    assert done.status == 1
    assert "does not speak TLS" in done.err


def test_the_unix_socket_is_not_there(aer: Aer, tmp_path: Path) -> None:
    done = aer("discovery", "discover", f"--socket={tmp_path}/aurae.sock")
    assert done.status == 1
    assert "does auraed run here?" in done.err


def test_the_certificate_is_not_of_the_key(aer: Aer, home: Path, signer: Pair) -> None:
    key = home / "other.key"
    key.write_bytes(issue(signer, "/person/ann").key)
    done = aer("discovery", "discover", f"--client-key={key}")
    assert done.status == 1
    assert "the key is not the certificate's" in done.err


def test_a_broken_file_is_named(aer: Aer, home: Path) -> None:
    broken = home / "broken.crt"
    broken.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    done = aer("discovery", "discover", f"--ca-crt={broken}")
    assert done.status == 1
    assert f"{broken}: not a certificate in PEM" in done.err


def test_a_missing_file_is_named(aer: Aer, home: Path) -> None:
    done = aer("discovery", "discover", "--client-key=none.key")
    assert done.status == 1
    assert "none.key: No such file or directory\n(--client-key names another)" in done.err


@pytest.mark.parametrize("name", ["ca_crt", "client_crt", "client_key"])
def test_tls_needs_all_three_files(aer: Aer, home: Path, name: str) -> None:
    config = home / ".aurae/config"
    lines = [line for line in config.read_text().splitlines() if name not in line]
    config.write_text("\n".join(lines))
    done = aer("discovery", "discover")
    assert done.status == 2
    assert f"no {name}, which TLS" in done.err
    assert f"[auth] {name} in {config}" in done.err


def test_no_configuration_at_all(aer: Aer, home: Path) -> None:
    (home / ".aurae/config").unlink()
    done = aer("discovery", "discover")
    assert done.status == 2
    assert "no socket" in done.err
    assert "aer pki config" in done.err


def test_the_nodes_own_unavailable_is_no_broken_connection(aer: Aer, node: Node) -> None:
    def refuse(_: object, context: grpc.ServicerContext) -> None:
        context.abort(grpc.StatusCode.UNAVAILABLE, "node: is going down; ask another")

    node.answers["Discover"] = refuse
    done = aer("discovery", "discover")
    assert done.status == 1
    assert done.err.startswith("aer: node: is going down; ask another\n")


def test_a_silent_node_is_given_up_in_time(aer: Aer, node: Node) -> None:
    given_up = threading.Event()

    def hang(_: object, context: grpc.ServicerContext) -> discovery_pb2.DiscoverResponse:
        context.add_callback(given_up.set)
        given_up.wait(20)
        return discovery_pb2.DiscoverResponse()

    node.answers["Discover"] = hang
    done = aer("discovery", "discover", "--timeout", "3s")
    assert done.status == 1
    assert done.err == f"aer: {node.address}: no answer in time\n(--timeout gives it longer)\n"
    assert given_up.wait(20)

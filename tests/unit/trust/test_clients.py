"""Clients that are not gRPC's own, and the Unix socket that demands a certificate."""

import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from grpc import StatusCode

from tests.unit.runtime import node as unit
from tests.unit.runtime.certificates import issue, make_authority, node_svid, write
from tests.unit.runtime.node import DEADLINE
from tests.unit.trust import nodes
from tests.unit.trust.nodes import PERSON, Known, discover, refusal

# A gRPC message of no bytes: not compressed, length 0.
EMPTY = bytes(5)
CURL = ("curl", "--silent", "--show-error", "--verbose", "--max-time", "20", "--http2")
GRPC = ("--header", "content-type: application/grpc", "--header", "te: trailers")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Known]:
    with nodes.known(tmp_path_factory.mktemp("node")) as node:
        yield node


@pytest.fixture
def files(node: Known, tmp_path: Path) -> Path:
    caller = node.person
    (tmp_path / "ann.crt").write_bytes(caller.certificate)
    (tmp_path / "ann.key").write_bytes(caller.key)
    (tmp_path / "ca.crt").write_bytes(node.signer.certificate)
    return tmp_path


def test_openssl_believes_the_nodes_certificate(node: Known, files: Path) -> None:
    line = (
        *("openssl", "s_client", "-connect", node.address, "-alpn", "h2"),
        *("-CAfile", "ca.crt", "-cert", "ann.crt", "-key", "ann.key", "-verify_return_error"),
    )
    done = subprocess.run(
        line, cwd=files, input=b"", capture_output=True, timeout=DEADLINE, check=True
    )
    said = done.stdout.decode(errors="replace")
    for fact in (
        "ALPN protocol: h2",
        "Verify return code: 0 (ok)",
    ):
        assert fact in said


@pytest.mark.parametrize("way", ["tcp", "unix"])
def test_curl_makes_a_call(node: Known, files: Path, way: str) -> None:
    host, _, port = node.address.rpartition(":")
    where = {
        "tcp": ("--resolve", f"one.node.example.org:{port}:{host}"),
        "unix": ("--unix-socket", str(node.folder / "aurae-tls.sock")),
    }[way]
    url = f"https://one.node.example.org:{port}/aurae.discovery.v0.DiscoveryService/Discover"
    certificates = ("--cacert", "ca.crt", "--cert", "ann.crt", "--key", "ann.key")
    done = subprocess.run(
        [*CURL, *where, *certificates, *GRPC, "--data-binary", "@-", url],
        cwd=files,
        input=EMPTY,
        capture_output=True,
        timeout=DEADLINE,
        check=True,
    )
    assert b"1.2.3" in done.stdout
    assert b"grpc-status: 0" in done.stderr


def test_on_the_unix_socket_a_certificate_is_the_identity(node: Known) -> None:
    path = node.folder / "aurae-tls.sock"
    assert path.readlink() == Path("shared/aurae-tls.sock")
    assert stat.S_IMODE(path.stat().st_mode) == 0o666
    with node.channel(node.person, f"unix:{path}") as channel:
        assert discover(channel) == "1.2.3"
    for caller, code in (
        (issue(node.signer, "spiffe://example.org/node/two"), StatusCode.PERMISSION_DENIED),
        (issue(make_authority(), PERSON), StatusCode.UNAVAILABLE),
    ):
        with node.channel(caller, f"unix:{path}") as channel:
            assert refusal(channel)[0] is code


def test_a_port_that_is_taken_is_told_once_and_served_when_it_is_free(tmp_path: Path) -> None:
    signer = make_authority()
    write(tmp_path / "credentials", node_svid(signer), signer.certificate)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with unit.owner(tmp_path), unit.api(tmp_path, address), unit.client(tmp_path) as there:
            assert there.list() == {}
            nodes.wait_until(lambda: "cannot listen on" in there.log, "the error")
            taken.close()
            nodes.wait_until(lambda: f"serving on {address} as" in there.log, "the port")
            assert there.log.count("cannot listen on") == 1
            node = Known(tmp_path, signer, there, address)
            with node.channel(node.person) as channel:
                assert discover(channel) == "1.2.3"

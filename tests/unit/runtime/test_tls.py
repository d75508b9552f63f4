"""The TCP port as callers with good and bad certificates see it."""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from aurae.discovery.v0 import discovery_pb2, discovery_pb2_grpc
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from runtime.identity.authority import Pair
from tests.unit.runtime import node as nodes
from tests.unit.runtime.certificates import (
    SERVER_NAME,
    forge,
    issue,
    make_authority,
    node_svid,
    write,
)
from tests.unit.runtime.node import DEADLINE

PERSON = "spiffe://example.org/person/ann"


@dataclass(frozen=True)
class Port:
    """A TCP port of a node, and the authority that it trusts."""

    address: str
    signer: Pair

    def channel(self, caller: Pair | None) -> grpc.Channel:
        identity = (caller.key, caller.certificate) if caller else (None, None)
        return grpc.secure_channel(
            self.address,
            grpc.ssl_channel_credentials(self.signer.certificate, *identity),
            [("grpc.ssl_target_name_override", SERVER_NAME), ("grpc.enable_retries", 0)],
        )

    def discover(self, caller: Pair | None) -> discovery_pb2.DiscoverResponse:
        with self.channel(caller) as channel:
            stub = discovery_pb2_grpc.DiscoveryServiceStub(channel)
            return stub.Discover(discovery_pb2.DiscoverRequest(), timeout=DEADLINE)

    def refusal(self, caller: Pair | None) -> tuple[StatusCode, str]:
        with pytest.raises(grpc.RpcError) as caught:
            self.discover(caller)
        return caught.value.code(), caught.value.details() or ""


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Port]:
    folder = tmp_path_factory.mktemp("tls")
    signer = make_authority()
    write(folder / "credentials", node_svid(signer), signer.certificate)
    with nodes.owner(folder), nodes.api(folder), nodes.client(folder) as there:
        (ready,) = there.asked()
        where = ready["message"].removeprefix("serving on ")
        address, _, rest = where.partition(" as ")
        assert rest.startswith("spiffe://example.org/node/one and ")
        yield Port(address, signer)


def test_a_person_of_the_trust_domain_is_let_in(port: Port) -> None:
    assert port.discover(issue(port.signer, PERSON)).version == "1.2.3"


def test_no_certificate_or_a_strange_or_expired_one_ends_in_tls(port: Port) -> None:
    strange = issue(make_authority(), PERSON)
    expired = forge(port.signer, PERSON, expired=True)
    for caller in (None, strange, expired):
        assert port.refusal(caller)[0] is StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    "uri",
    [
        "spiffe://example.org/node/one",
        "spiffe://example.org/person",
        "spiffe://example.org/persona/ann",
    ],
)
def test_a_caller_whom_no_rule_matches_is_told_so(port: Port, uri: str) -> None:
    code, message = port.refusal(forge(port.signer, uri))
    assert code is StatusCode.PERMISSION_DENIED
    assert uri in message
    assert "no rule of the node's policy matches" in message


@pytest.mark.parametrize(
    ("uris", "told"),
    [
        (("spiffe://other.org/person/ann",), "does not know its trust domain"),
        (("spiffe://example.org",), "a trust domain is no caller"),
        (("spiffe://example.org/person/a", "spiffe://example.org/person/b"), "has 2 URI"),
        ((PERSON, "https://example.org/"), "has 2 URI"),
        ((), "has 0 URI"),
        (("spiffe://EXAMPLE.org/person/ann",), "the trust domain has 'E'"),
        (("https://example.org/person/ann",), "does not begin with spiffe://"),
    ],
)
def test_a_certificate_that_is_no_svid_is_told_what_is_wrong(
    port: Port, uris: tuple[str, ...], told: str
) -> None:
    code, message = port.refusal(forge(port.signer, *uris))
    assert code is StatusCode.UNAUTHENTICATED
    assert told in message


def test_streams_health_and_reflection_are_closed_to_strangers_too(port: Port) -> None:
    with port.channel(node_svid(port.signer)) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        for call in (
            lambda: health.Check(health_pb2.HealthCheckRequest(), timeout=DEADLINE),
            lambda: list(health.Watch(health_pb2.HealthCheckRequest(), timeout=DEADLINE)),
            lambda: list(reflection.ServerReflectionInfo(asked, timeout=DEADLINE)),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                call()
            assert caught.value.code() is StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize(
    ("options", "connects"),
    [
        (("-tls1_3",), True),
        (("-tls1_2",), False),
        (("-tls1_2", "-cipher", "ALL:eNULL:PSK:@SECLEVEL=0"), False),
        (("-tls1_2", "-psk", "00112233", "-cipher", "PSK:@SECLEVEL=0"), False),
        (("-tls1_1", "-cipher", "ALL:@SECLEVEL=0"), False),
    ],
)
def test_tls_is_1_3_and_nothing_older(
    port: Port, tmp_path: Path, options: tuple[str, ...], connects: bool
) -> None:
    caller = issue(port.signer, PERSON)
    (tmp_path / "ann.crt").write_bytes(caller.certificate)
    (tmp_path / "ann.key").write_bytes(caller.key)
    (tmp_path / "ca.crt").write_bytes(port.signer.certificate)
    done = subprocess.run(
        [
            *("openssl", "s_client", "-connect", port.address, "-alpn", "h2"),
            *("-CAfile", tmp_path / "ca.crt"),
            *("-cert", tmp_path / "ann.crt", "-key", tmp_path / "ann.key"),
            *options,
        ],
        input=b"",
        capture_output=True,
        timeout=DEADLINE,
        check=False,
    )
    assert (b"Cipher is TLS_" in done.stdout) == connects
    assert (b"Cipher is (NONE)" in done.stdout) != connects

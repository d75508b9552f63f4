"""An operator gives a node certificates, bundles and revocation lists, and sees what it has."""

import json
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from aurae.identity.v0 import identity_pb2 as pb
from aurae.identity.v0 import identity_pb2_grpc
from grpc import StatusCode

from runtime.identity.authority import Pair
from tests.unit.runtime import node as nodes
from tests.unit.runtime.certificates import (
    SERVER_NAME,
    forge,
    issue,
    make_authority,
    node_svid,
    revoke,
    sign,
    write,
)
from tests.unit.runtime.node import DEADLINE
from tests.unit.trust import nodes as known_nodes
from tests.unit.trust.nodes import Known, discover, refusal, wait_until

NODE = "spiffe://example.org/node/one"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Known]:
    with known_nodes.known(tmp_path) as node:
        yield node


class Operator:
    """IdentityService on the node's own socket."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = identity_pb2_grpc.IdentityServiceStub(channel)

    def show(self) -> pb.GetIdentityResponse:
        return self._stub.GetIdentity(pb.GetIdentityRequest(), timeout=DEADLINE)

    def request(self, **asked: str) -> pb.GetSigningRequestResponse:
        return self._stub.GetSigningRequest(pb.GetSigningRequestRequest(**asked), timeout=DEADLINE)

    def give(self, certificate: bytes, roots: bytes = b"") -> pb.SetCertificateResponse:
        request = pb.SetCertificateRequest(certificate=certificate.decode(), roots=roots.decode())
        return self._stub.SetCertificate(request, timeout=DEADLINE)

    def trust(self, **asked: Any) -> pb.SetTrustResponse:
        return self._stub.SetTrust(pb.SetTrustRequest(**asked), timeout=DEADLINE)


@pytest.fixture
def operator(node: Known) -> Operator:
    return Operator(node.there.channel)


def refused(call: Any, *arguments: Any, **asked: Any) -> tuple[StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, **asked)
    return caught.value.code(), caught.value.details() or ""


def test_a_requested_certificate_is_taken_and_its_key_never_leaves(
    node: Known, operator: Operator
) -> None:
    before = operator.show()
    assert (before.spiffe_id, before.dns_name, before.source) == (
        NODE,
        SERVER_NAME,
        str(node.credentials),
    )
    asked = operator.request()
    assert (asked.spiffe_id, asked.dns_name) == (NODE, SERVER_NAME)
    assert (
        operator.request().signing_request.splitlines()[0] == "-----BEGIN CERTIFICATE REQUEST-----"
    )
    key = node.state.parent / "requested.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    certificate = sign(node.signer, asked.signing_request.encode())
    with node.channel(node.person) as open_before:
        assert discover(open_before) == "1.2.3"
        assert operator.give(certificate).spiffe_id == NODE
        assert discover(open_before) == "1.2.3"
    assert node.serves(Pair(certificate, b""))
    now = operator.show()
    assert (now.certificate, now.source) == (certificate.decode(), str(node.state))
    assert sorted(entry.name for entry in node.state.iterdir()) == ["node.crt", "node.key"]
    assert not key.exists()
    for file in node.state.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_certificate_survives_the_runtime(tmp_path: Path) -> None:
    signer = make_authority()
    write(tmp_path / "credentials", node_svid(signer), signer.certificate)
    with nodes.owner(tmp_path), nodes.client(tmp_path) as there:
        operator = Operator(there.channel)
        with nodes.api(tmp_path):
            certificate = sign(signer, operator.request().signing_request.encode())
            operator.give(certificate)
        with nodes.api(tmp_path), nodes.client(tmp_path) as again:
            assert Operator(again.channel).show().certificate == certificate.decode()


def test_what_is_no_certificate_for_the_node_changes_nothing(
    node: Known, operator: Operator
) -> None:
    before = operator.show()
    request = operator.request().signing_request.encode()
    stranger = make_authority()
    for certificate, told in (
        (b"none", "certificate: is no PEM certificate"),
        (node_svid(node.signer).certificate, "the key is not the certificate's"),
        (sign(stranger, request), "certificate: roots does not vouch for it"),
        (sign(make_authority("other.org"), request), "certificate: roots does not vouch for it"),
        (forge(node.signer, NODE, expired=True).certificate, "the key is not the certificate's"),
    ):
        code, message = refused(operator.give, certificate)
        assert code is StatusCode.INVALID_ARGUMENT
        assert told in message
    code, message = refused(operator.give, sign(node.signer, request), b"none")
    assert (code, message[:24]) == (StatusCode.INVALID_ARGUMENT, "bundle of example.org: c")
    assert operator.show() == before
    assert not node.state.exists()


def test_a_node_without_an_identity_gets_one_and_then_serves_by_tls(tmp_path: Path) -> None:
    signer = make_authority()
    with nodes.node(tmp_path) as there:
        operator = Operator(there.channel)
        assert refused(operator.show)[0] is StatusCode.FAILED_PRECONDITION
        assert refused(operator.request)[0] is StatusCode.FAILED_PRECONDITION
        asked = operator.request(spiffe_id=NODE)
        assert asked.dns_name == SERVER_NAME
        certificate = sign(signer, asked.signing_request.encode())
        code, message = refused(operator.give, certificate)
        assert (code, message) == (
            StatusCode.INVALID_ARGUMENT,
            "roots: the node has none of example.org; give them",
        )
        operator.give(certificate, signer.certificate)
        wait_until(lambda: f"as {NODE}" in there.log, "the port")
        said = there.log.rpartition("serving on ")[2].partition(" as ")[0]
        node = Known(tmp_path, signer, there, said)
        for address in (said, f"unix:{tmp_path}/aurae-tls.sock"):
            with node.channel(node.person, address) as channel:
                assert discover(channel) == "1.2.3"


def test_an_unclaimed_node_that_root_gives_an_identity_starts_again_with_it(tmp_path: Path) -> None:
    signer = make_authority()
    (tmp_path / "claimable").touch()
    with nodes.owner(tmp_path), nodes.client(tmp_path) as there:
        operator = Operator(there.channel)
        with nodes.api(tmp_path) as process:
            wait_until(lambda: "nobody has claimed this node" in there.log, "the offer")
            asked = operator.request(spiffe_id=NODE).signing_request
            operator.give(sign(signer, asked.encode()), signer.certificate)
            assert process.wait(DEADLINE) == 0
        with nodes.api(tmp_path), nodes.client(tmp_path) as again:
            assert Operator(again.channel).show().spiffe_id == NODE


def test_trust_is_set_shown_and_taken_back(node: Known, operator: Operator) -> None:
    other = make_authority("other.org")
    caller = issue(other, "spiffe://other.org/person/eve")
    told = operator.trust(trust_domain="other.org", roots=other.certificate.decode())
    assert list(told.trust_domains) == ["example.org", "other.org"]
    with node.channel(caller) as channel:
        assert refusal(channel)[0] is StatusCode.PERMISSION_DENIED
        assert list(operator.trust(trust_domain="other.org", remove=True).trust_domains) == [
            "example.org"
        ]
        assert refusal(channel)[0] is StatusCode.UNAUTHENTICATED
    person = node.person
    with node.channel(person) as channel:
        assert discover(channel) == "1.2.3"
        crl = revoke(node.signer, person).decode()
        assert operator.trust(revocation_lists=crl).revoked == 1
        assert operator.show().revoked == 1
        assert refusal(channel)[0] is StatusCode.UNAUTHENTICATED
        assert operator.trust(revocation_lists="").revoked == 0
        assert discover(channel) == "1.2.3"


def test_trust_that_cannot_be_is_refused(node: Known, operator: Operator) -> None:
    before = operator.show()
    other = make_authority("other.org").certificate.decode()
    for code, asked in (
        (StatusCode.INVALID_ARGUMENT, {}),
        (StatusCode.INVALID_ARGUMENT, {"trust_domain": "OTHER.org", "roots": other}),
        (StatusCode.INVALID_ARGUMENT, {"trust_domain": "another.org", "roots": other}),
        (StatusCode.INVALID_ARGUMENT, {"trust_domain": "other.org", "roots": "none"}),
        (StatusCode.INVALID_ARGUMENT, {"roots": make_authority().certificate.decode()}),
        (StatusCode.INVALID_ARGUMENT, {"revocation_lists": "none"}),
        (StatusCode.INVALID_ARGUMENT, {"remove": True}),
        (StatusCode.NOT_FOUND, {"trust_domain": "other.org", "remove": True}),
    ):
        assert refused(operator.trust, **asked)[0] is code, asked
    assert operator.show() == before


def test_aer_requests_sets_and_shows_by_tls_on_the_unix_socket(node: Known, tmp_path: Path) -> None:
    person = node.person
    for name, content in (
        ("ca.crt", node.signer.certificate),
        ("ann.crt", person.certificate),
        ("ann.key", person.key),
        ("other.crt", make_authority("other.org").certificate),
    ):
        (tmp_path / name).write_bytes(content)
    config = tmp_path / "aer.config"
    config.write_text(
        f"""
        [auth]
        ca_crt = "ca.crt"
        client_crt = "ann.crt"
        client_key = "ann.key"

        [system]
        socket = "unix+tls:{node.folder}/aurae-tls.sock"
        server_name = "{SERVER_NAME}"
        """
    )

    def aer(*words: str) -> str:
        line = [sys.executable, "-m", "aer", *words, "--config", str(config)]
        done = subprocess.run(line, capture_output=True, text=True, timeout=DEADLINE, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    request = aer("node", "identity", "request")
    (tmp_path / "new.crt").write_bytes(sign(node.signer, request.encode()))
    said = aer("node", "identity", "set", str(tmp_path / "new.crt"))
    assert said.startswith(f"unix+tls:{node.folder}/aurae-tls.sock: is {NODE} now, until 20")
    aer("node", "trust", "set", "--trust-domain", "other.org", "--roots", f"{tmp_path}/other.crt")
    assert aer("node", "trust", "show").split() == [
        *("TRUST", "DOMAIN", "ROOTS", "example.org", "1", "other.org", "1"),
    ]
    shown = json.loads(aer("node", "identity", "show", "--output", "json"))
    assert shown["certificate"] == (tmp_path / "new.crt").read_text()
    assert f"identity    {NODE}" in aer("node", "identity", "show")


def test_nobody_locks_itself_out_by_tls_but_root_may_and_the_default_policy_follows(
    node: Known, operator: Operator
) -> None:
    person = node.person
    crl = revoke(node.signer, person).decode()
    with node.channel(person) as channel:
        code, message = refused(Operator(channel).trust, revocation_lists=crl)
        assert code is StatusCode.FAILED_PRECONDITION
        assert "would be refused from then on" in message
    assert operator.trust(revocation_lists=crl).revoked == 1
    other = make_authority("other.org")
    asked = operator.request(spiffe_id="spiffe://other.org/node/one").signing_request
    given = operator.give(sign(other, asked.encode()), other.certificate)
    assert given.spiffe_id == "spiffe://other.org/node/one"

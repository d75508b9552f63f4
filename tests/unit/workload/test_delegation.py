"""Identities of workloads from SPIRE: the node's Workload API before, a SPIRE agent behind it."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from aurae.spiffe import workload_pb2 as pb
from grpc import StatusCode

from initd.errors import PermissionDenied, Unavailable
from runtime.identity import svid
from runtime.identity.authority import Pair
from runtime.server.settings import Settings
from runtime.workload import delegation
from runtime.workload.delegation import Delegation
from tests.unit.runtime import node as nodes
from tests.unit.runtime.certificates import forge, make_authority, node_svid
from tests.unit.runtime.node import DEADLINE, Node
from tests.unit.runtime.test_workload_api import (
    HEADER,
    Workload,
    peer,
    pem,
    refusal,
    says,
    workload,
)
from tests.unit.trust import test_agent as workload_api
from tests.unit.trust.nodes import wait_until
from tests.unit.workload.spire import OTHER, Spire, serving, with_key

WEB = "aurae:cell:acme/web"
SHOP = "spiffe://example.org/shop/web"
MAIL = "aurae:cell:mail"
POST = "spiffe://example.org/post"


@contextmanager
def node(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    monkeypatch.setenv("TEST_SPIFFE_ADMIN", f"unix:{folder}/admin.sock")
    with nodes.node(folder) as there:
        for cell in ("acme", "acme/web", "mail"):
            there.allocate(cell)
        yield there


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Spire]:
    agent = Spire({WEB: {SHOP: ""}, MAIL: {POST: ""}})
    with serving(agent, tmp_path / "admin.sock"):
        yield agent


@pytest.fixture
def there(tmp_path: Path, agent: Spire, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    with node(tmp_path, monkeypatch) as there:
        yield there


def keys(message: pb.X509SVIDResponse) -> list[bytes]:
    return [one.x509_svid_key for one in message.svids]


def bundles(one: Workload) -> set[str]:
    call = one.api.FetchX509Bundles(pb.X509BundlesRequest(), metadata=HEADER, timeout=DEADLINE)
    return set(next(iter(call)).bundles)


def test_a_cell_has_the_identities_that_spire_has_entries_for(there: Node, agent: Spire) -> None:
    with workload(there.folder, "acme/web") as web, workload(there.folder, "mail") as mail:
        given = web.svid()
        assert given.spiffe_id == SHOP
        assert given.x509_svid_key != mail.svid().x509_svid_key
        assert mail.svid().spiffe_id == POST
        chain, roots = pem(given.x509_svid), pem(given.bundle)
        assert roots == agent.root.certificate
        assert str(svid.verify(chain, roots).id) == SHOP
        assert bundles(web) == {"spiffe://example.org"}
        agent.federates = ["spiffe://other.org", "spiffe://broken.org"]
        agent.enter(WEB, {SHOP: "internal", "spiffe://example.org/shop": "external"})
        wait_until(lambda: len(next(web.svids()).svids) == 2, "the second identity")
        both = next(web.svids())
        assert [(one.spiffe_id, one.hint) for one in both.svids] == [
            (SHOP, "internal"),
            ("spiffe://example.org/shop", "external"),
        ]
        assert {n: pem(b) for n, b in both.federated_bundles.items()} == {
            "spiffe://other.org": OTHER.certificate
        }
        assert bundles(web) == {"spiffe://example.org", "spiffe://other.org"}
        assert bundles(mail) == {"spiffe://example.org"}


def test_the_published_client_gets_all_of_it(there: Node) -> None:
    with says(there.folder, cgroup="/aurae/acme/web/_test"):
        assert peer(there.folder, "fetch") == {
            "id": SHOP,
            "chain": 1,
            "bundles": ["example.org"],
            "token": [SHOP, SHOP, ["db"]],
        }


def test_a_cell_without_an_entry_has_no_identity_until_there_is_one(
    there: Node, agent: Spire
) -> None:
    with workload(there.folder, "acme") as one:
        for call in (one.svid, lambda: one.token("db"), lambda: bundles(one)):
            code, message = refusal(call)
            assert code is StatusCode.PERMISSION_DENIED
            assert message.endswith("make an entry with the selector aurae:cell:acme")
        agent.enter("aurae:cell:acme", {"spiffe://example.org/acme": ""})
        wait_until(lambda: _has(one), "the entry")
        stream = one.svids()
        assert next(stream).svids[0].spiffe_id == "spiffe://example.org/acme"
        agent.enter("aurae:cell:acme", {})
        assert refusal(next, stream)[0] is StatusCode.PERMISSION_DENIED


def _has(one: Workload) -> bool:
    try:
        next(one.svids())
    except grpc.RpcError:
        return False
    return True


def test_rotations_are_pushed_and_the_agents_restart_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = Spire({WEB: {SHOP: ""}, MAIL: {POST: ""}})
    away = "asked for workloads: UNAVAILABLE"
    with node(tmp_path, monkeypatch) as there, workload(tmp_path, "acme/web") as web:
        code, message = refusal(web.svid)
        assert code is StatusCode.UNAVAILABLE
        assert "try again" in message
        with serving(agent, tmp_path / "admin.sock"):
            wait_until(lambda: _has(web), "the agent")
            before = there.log.count(away)
            stream = web.svids()
            assert keys(next(stream)) == [web.svid().x509_svid_key]
            for _ in range(3):
                fresh = agent.rotate(WEB)
                assert keys(next(stream)) == [one.x509_svid_key for one in fresh]
        wait_until(lambda: there.log.count(away) > before, "the agent's end")
        assert [web.svid().x509_svid_key] == [one.x509_svid_key for one in fresh]
        with workload(tmp_path, "mail") as mail:
            assert refusal(mail.svid)[0] is StatusCode.UNAVAILABLE
            fresh = agent.rotate(WEB)
            with serving(agent, tmp_path / "admin.sock"):
                assert keys(next(stream)) == [one.x509_svid_key for one in fresh]
                wait_until(lambda: _has(mail), "the agent's return")


def test_tokens_are_spires_for_the_cell_alone_and_verified_with_its_keys(
    there: Node, agent: Spire
) -> None:
    agent.enter(WEB, {SHOP: "", "spiffe://example.org/shop": ""})
    with workload(there.folder, "acme/web") as web, workload(there.folder, "mail") as mail:
        wait_until(lambda: _has(web), "the identity")
        request = pb.JWTSVIDRequest(audience=["db"])
        answer = web.api.FetchJWTSVID(request, metadata=HEADER, timeout=DEADLINE)
        # And not that of an administrator, which SPIRE adds.
        assert [one.spiffe_id for one in answer.svids] == [SHOP, "spiffe://example.org/shop"]
        token = web.token("db", spiffe_id=SHOP)
        assert mail.validate(token, "db").spiffe_id == SHOP
        for wanted in (POST, "spiffe://example.org/admin"):
            code, message = refusal(web.token, "db", spiffe_id=wanted)
            assert code is StatusCode.PERMISSION_DENIED
            assert message.startswith("spiffe_id: is not the caller's own, which is ")
        for bad, audience, fact in (
            (token, "mail", "svid: is for another audience"),
            (token[:-8] + "AAAAAAAA", "db", "svid: its signature is wrong"),
            (agent.token("spiffe://other.org/x", ["db"]), "db", "svid: is of other.org"),
            ("x", "db", "svid: is no JWS"),
        ):
            code, message = refusal(mail.validate, bad, audience)
            assert code is StatusCode.INVALID_ARGUMENT
            assert message.startswith(fact)
        call = web.api.FetchJWTBundles(pb.JWTBundlesRequest(), metadata=HEADER, timeout=DEADLINE)
        assert set(next(iter(call)).bundles) == {"spiffe://example.org"}


def test_a_freed_cell_ends_its_subscription(there: Node, agent: Spire) -> None:
    with workload(there.folder, "acme/web") as web, workload(there.folder, "mail") as mail:
        stream, stays = web.svids(), mail.svids()
        next(stream), next(stays)
        assert (agent.open[WEB], agent.open[MAIL]) == (1, 1)
        there.free("acme/web")
        assert refusal(next, stream)[0] is StatusCode.UNAVAILABLE
        wait_until(lambda: not agent.open[WEB], "the subscription's end")
        fresh = agent.rotate(MAIL)
        assert keys(next(stays)) == [one.x509_svid_key for one in fresh]
        assert agent.asked == {WEB: 1, MAIL: 1}


def test_what_is_not_the_cells_or_does_not_belong_together_is_not_handed_on(
    there: Node, agent: Spire
) -> None:
    own = forge(agent.root, SHOP)
    with workload(there.folder, "acme/web") as web:
        first = web.svid()
        for bad, told in (
            (with_key(own, POST), f"certificate of {POST}: is another's"),
            (with_key(Pair(own.certificate, make_authority().key), SHOP), "of two pairs"),
            (with_key(forge(agent.root, SHOP, POST), SHOP), f"certificate of {SHOP}: is another's"),
        ):
            agent.push(WEB, [bad])
            wait_until(lambda told=told: told in there.log, told)  # type: ignore[misc]
            assert web.svid() == first
        fresh = agent.rotate(WEB)
        wait_until(lambda: web.svid().x509_svid_key == fresh[0].x509_svid_key, "a good one")
        agent.push(WEB, [with_key(forge(agent.root, SHOP, expired=True), SHOP)])
        wait_until(lambda: not _has(web), "one that has expired")
        code, message = refusal(web.svid)
        assert (code, "have expired" in message) == (StatusCode.UNAVAILABLE, True)


def test_a_node_that_is_no_delegate_says_so_in_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = Spire({WEB: {SHOP: ""}})
    agent.delegates = False
    with serving(agent, tmp_path / "admin.sock"), node(tmp_path, monkeypatch) as there:
        with workload(tmp_path, "acme/web") as web:
            assert refusal(web.svid)[0] is StatusCode.UNAVAILABLE
        assert "PERMISSION_DENIED: caller not configured as an authorized delegate" in there.log


def test_who_has_not_asked_for_long_is_not_followed(
    tmp_path: Path, agent: Spire, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        clock = time.time
        one = Delegation(f"unix:{tmp_path}/admin.sock", now=lambda: clock())
        with pytest.raises(Unavailable, match="does not ask SPIRE"):
            await one.svids("mail")
        async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as tasks:
            following = tasks.create_task(one.follow())
            await asyncio.sleep(0)
            first = await one.svids("mail")
            assert [str(each.id) for each in first.svids] == [POST]
            with pytest.raises(PermissionDenied):
                await one.svids("acme")
            one.sweep()
            assert agent.open[MAIL] == 1
            monkeypatch.setattr(delegation, "IDLE", -1.0)
            one.sweep()
            await asyncio.to_thread(wait_until, lambda: not agent.open[MAIL], "its end")
            again = await one.svids("mail")
            assert again.svids[0].key == first.svids[0].key
            assert agent.asked[MAIL] == 2
            # As time goes on without the agent giving another.
            clock = lambda: first.due  # noqa: E731
            with pytest.raises(Unavailable, match="have expired"):
                await one.svids("mail")
            one.close()
            with pytest.raises(Unavailable, match="is stopping"):
                await one.svids("mail")
            following.cancel()

    asyncio.run(work())


WITHOUT = """
import sys
from runtime.server import workloads
from runtime.identity.authority import Pair
from runtime.server.settings import Settings
from runtime.trust.trust import Trust
workloads._load(Settings(), Trust())
print(*(name for name in sys.modules if "delegat" in name or "spire" in name))
"""


def test_a_node_without_the_setting_loads_nothing_of_it() -> None:
    line = [sys.executable, "-c", WITHOUT]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("options", [Settings.from_cmdline, Settings.from_options])
def test_the_admin_socket_is_a_setting(options: Any) -> None:
    said = "aurae.cgroups=/sys/fs/cgroup aurae.spiffe-admin=unix:/run/spire/admin.sock"
    assert options(said).spiffe_admin == "unix:/run/spire/admin.sock"
    assert options("aurae.cgroups=/x").spiffe_admin == ""


def test_node_and_workloads_have_their_identities_from_the_two_sockets_of_one_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = Spire({WEB: {SHOP: ""}})
    own = workload_api.svid(node_svid(agent.root), agent.root.certificate)
    monkeypatch.setenv("TEST_SPIFFE", f"unix:{tmp_path}/agent.sock")
    with (
        workload_api.serving(workload_api.agent_giving(own), tmp_path / "agent.sock"),
        serving(agent, tmp_path / "admin.sock"),
        node(tmp_path, monkeypatch) as there,
        workload(tmp_path, "acme/web") as web,
    ):
        wait_until(lambda: f"as {workload_api.NODE}" in there.log, "the node's identity")
        assert web.svid().spiffe_id == SHOP

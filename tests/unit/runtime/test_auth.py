"""The policy of a node: what may stand in it, what it decides, and who may change it."""

import asyncio
import json
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from aurae.audit.v0 import audit_pb2, audit_pb2_grpc
from aurae.auth.v0 import auth_pb2, auth_pb2_grpc
from aurae.cells.v0 import cells_pb2, cells_pb2_grpc
from aurae.node.v0 import node_pb2, node_pb2_grpc
from google.protobuf import descriptor_pb2
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from initd.errors import FailedPrecondition, InvalidArgument, PermissionDenied
from runtime import durable
from runtime.identity.authority import Pair
from runtime.identity.spiffe import SpiffeId
from runtime.policy import document, model
from runtime.policy import policies as module
from runtime.policy.gate import Asking, Gate
from runtime.policy.model import Pattern, Policy, Rule
from runtime.policy.policies import Policies, Source, full_method
from runtime.policy.table import APART, PARTIAL, ROLES, TABLE, Permission, Role
from runtime.scope import NODE
from testkit.refusals import refused
from tests.unit.runtime import node as nodes
from tests.unit.runtime.certificates import forge, issue, make_authority, node_svid, write
from tests.unit.runtime.node import DEADLINE, Node
from tests.unit.runtime.test_server import methods
from tests.unit.runtime.test_tls import Port

ALL = Path(__file__).parents[3] / "proto/gen/all.pb"
ANN = SpiffeId.parse("spiffe://example.org/person/ann")
BOB = SpiffeId.parse("spiffe://example.org/person/bob")
ACME = SpiffeId.parse("spiffe://example.org/tenant/acme/ci")
ALLOCATE = "/aurae.cells.v0.CellService/Allocate"
LIST = "/aurae.cells.v0.CellService/List"
SHUTDOWN = "/aurae.node.v0.NodeService/Shutdown"


def policy(*rules: tuple[str, str], tenants: str = "[]") -> Policy:
    """From pairs of a pattern, below the trust domain example.org, and a role."""
    wanted = [
        {"name": f"rule-{number}", "id": f"spiffe://example.org/{id_}", "role": f"ROLE_{role}"}
        for number, (id_, role) in enumerate(rules)
    ]
    return document.from_json(json.dumps({"rules": wanted, "tenants": json.loads(tenants)}))


ADMINS = ("person/*", "ADMIN")


# The tables


def services() -> dict[str, set[str]]:
    """The methods of each service in any of the protos, and of gRPC's own."""
    files = descriptor_pb2.FileDescriptorSet.FromString(ALL.read_bytes())
    found = {}
    for file in files.file:
        for service in file.service:
            name = f"{file.package}.{service.name}".strip(".")
            found[name] = {f"/{name}/{method.name}" for method in service.method}
    for foreign in (health_pb2, reflection_pb2):
        for name in foreign.DESCRIPTOR.services_by_name:
            found[f"{foreign.DESCRIPTOR.package}.{name}"] = methods(foreign.DESCRIPTOR)
    return found


def test_every_method_of_every_proto_needs_a_permission_and_the_table_has_no_other() -> None:
    known = services()
    assert known.keys() >= APART.keys()
    of_the_api = [found for name, found in known.items() if name not in APART]
    assert set().union(*of_the_api) == set(TABLE)


def test_every_permission_is_needed_by_a_method_and_an_admin_has_all() -> None:
    assert set(TABLE.values()) == set(Permission) == ROLES[Role.ADMIN]


def test_a_role_has_what_the_one_below_it_has_and_a_tenant_what_is_for_a_part() -> None:
    assert ROLES[Role.READER] < ROLES[Role.OPERATOR] < ROLES[Role.ADMIN]
    assert ROLES[Role.TENANT] == PARTIAL


def test_roles_and_their_numbers_are_the_protos() -> None:
    names = {value.name for value in auth_pb2.DESCRIPTOR.enum_types_by_name["Role"].values}
    assert names == {"ROLE_UNSPECIFIED"} | {f"ROLE_{role.name}" for role in Role}
    assert set(document.ROLES.values()) == set(Role)


# Patterns


@pytest.mark.parametrize(
    ("pattern", "identity", "matches"),
    [
        ("spiffe://example.org/person/ann", ANN, True),
        ("spiffe://example.org/person/*", ANN, True),
        ("spiffe://example.org/person/**", ANN, True),
        ("spiffe://other.org/person/*", ANN, False),
        ("spiffe://example.org/person/bob", ANN, False),
        ("spiffe://example.org/person", ANN, False),
        ("spiffe://example.org/person/*/x", ANN, False),
        ("spiffe://example.org/person/ann/**", ANN, False),
        ("spiffe://example.org/tenant/acme/**", ACME, True),
        ("spiffe://example.org/tenant/*/ci", ACME, True),
        ("spiffe://example.org/tenant/acm/**", ACME, False),
        ("spiffe://example.org/tenant/*", ACME, False),
    ],
)
def test_a_pattern_matches_segment_by_segment(
    pattern: str, identity: SpiffeId, matches: bool
) -> None:
    parsed = Pattern.parse(pattern, "id")
    assert parsed.matches(identity) is matches
    assert str(parsed) == pattern


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("*", "does not begin with spiffe://"),
        ("spiffe://*/person/ann", "the trust domain has '*'"),
        ("spiffe://example.org/**", "matches everybody of example.org"),
        ("spiffe://example.org/*/ann", "matches everybody of example.org"),
        ("spiffe://example.org", "a path segment is empty"),
        ("spiffe://example.org/person/a*", "the path has '*'"),
        ("spiffe://example.org/person/**/x", "the path has '*'"),
        ("spiffe://example.org/person/../x", "the segment '..'"),
        ("spiffe://example.org:8080/person/*", "the trust domain has ':'"),
    ],
)
def test_what_is_no_pattern_is_refused(pattern: str, told: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        Pattern.parse(pattern, "rules[0].id")
    assert told in str(caught.value)
    assert str(caught.value).startswith("rules[0].id: ")


# Decisions


def test_the_default_lets_people_do_all_and_tenants_what_is_in_their_cell() -> None:
    held = model.default("example.org")
    for permission in Permission:
        assert held.decide(ANN, permission).allowed
        decision = held.decide(ACME, permission)
        assert decision.allowed is (permission in PARTIAL)
        if decision.allowed and permission is not Permission.IDENTITY:
            assert decision.tenant == "acme"


def test_nobody_else_may_anything_but_ask() -> None:
    for text in ("spiffe://example.org/node/one", "spiffe://other.org/person/ann"):
        stranger = SpiffeId.parse(text)
        decisions = {one: model.default("example.org").decide(stranger, one) for one in Permission}
        allowed = {one for one, decision in decisions.items() if decision.allowed}
        assert allowed == {Permission.IDENTITY}
        denied = decisions[Permission.CELLS_READ]
        assert (denied.rule, denied.reason) == (
            "default",
            f"no rule of the node's policy matches {text}",
        )


def test_any_rule_may_allow_and_the_decision_names_it() -> None:
    held = policy(("person/*", "READER"), ("person/ann", "ADMIN"))
    assert held.decide(ANN, Permission.CELLS_READ).rule == "rule-0"
    assert held.decide(ANN, Permission.CELLS_WRITE).rule == "rule-1"
    denied = held.decide(BOB, Permission.CELLS_WRITE)
    assert not denied.allowed
    assert denied.reason == "needed is cells.write, which the role reader lacks (rule rule-0)"


def test_a_tenant_whose_name_is_no_cells_is_none() -> None:
    odd = SpiffeId.parse("spiffe://example.org/tenant/a_b/ci")
    assert not model.default("example.org").decide(odd, Permission.CELLS_READ).allowed


# Documents


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[]", "is not a JSON object"),
        ("{", "is no such document"),
        ('{"rule": []}', 'no field named "rule"'),
        ('{"rules": [{"name": "a", "id": "spiffe://t/p/*", "role": "ROLE_KING"}]}', "ROLE_KING"),
        ('{"rules": [{"name": "a", "id": "spiffe://t/p/*"}]}', "policy.rules[0].role: 0 is none"),
        ('{"rules": [{"id": "spiffe://t/p/*", "role": 3}]}', "policy.rules[0].name: give 1 to"),
        (
            '{"rules": [{"name": "a", "id": "spiffe://t/p/*", "role": 1}]}',
            "none has the role admin",
        ),
        ("{}", "none has the role admin"),
        ('{"rules": ' + "[" * 5000 + "]" * 5000 + "}", "is nested too deep"),
        (
            json.dumps({"rules": [{"name": "a", "id": "spiffe://t/p/*", "role": 3}] * 2}),
            "policy.rules[1].name: a is there already",
        ),
        (
            '{"rules": [{"name": "a", "id": "spiffe://t/p/*", "role": 4}]}',
            "does not say which tenant",
        ),
        (
            '{"rules": [{"name": "a", "id": "spiffe://t/p/*", "role": 3, "tenant": "x"}]}',
            "goes with the role tenant",
        ),
        (
            '{"rules": [{"name": "a", "id": "spiffe://t/tenant/a_b/**", "role": 4}]}',
            "labels take a-z",
        ),
        ('{"tenants": [{"cell": {"name": "a/b"}}]}', "policy.tenants[0].cell.name: 'a/b' has a /"),
        (
            '{"tenants": [{"cell": {"name": "a", "memory": {"max": -1}}}]}',
            "policy.tenants[0].cell.memory.max: -1 is negative",
        ),
    ],
)
def test_a_policy_is_checked_as_a_whole(text: str, told: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        document.from_json(text)
    assert told in str(caught.value)


def test_a_document_is_read_as_it_was_written() -> None:
    held = policy(
        ADMINS,
        ("tenant/*/**", "TENANT"),
        tenants='[{"cell": {"name": "acme", "memory": {"max": "1048576"}}, "max_cells": 3}]',
    )
    assert document.from_json(document.to_json(held)) == held
    acme = held.tenant("acme")
    assert (acme.cells, acme.cell.restricted) == (3, True)
    assert held.tenant("other") == model.Tenant.default("other")


# What holds on the node


def policies(folder: Path, boot: Path | None = None) -> Policies:
    return Policies(folder / "state/policy.json", boot, lambda: "example.org")


def replace(held: Policies, wanted: Policy, by: SpiffeId | None = ANN, **options: object) -> str:
    return asyncio.run(held.replace(wanted, by, **options))  # type: ignore[arg-type]


def test_what_is_set_holds_at_once_and_in_the_next_runtime(tmp_path: Path) -> None:
    held = policies(tmp_path)
    assert held.decide(BOB, ALLOCATE).allowed
    revision = replace(held, policy(("person/ann", "ADMIN"), ("person/bob", "READER")))
    for one in (held, policies(tmp_path)):
        assert (one.held.revision, one.held.source) == (revision, Source.STORED)
        assert not one.decide(BOB, ALLOCATE).allowed
        assert one.decide(BOB, LIST).allowed


def test_nobody_locks_themselves_or_the_nodes_own_people_out(tmp_path: Path) -> None:
    held = policies(tmp_path)
    before = held.held
    with pytest.raises(FailedPrecondition, match="ann could not change it again"):
        replace(held, policy(("person/bob", "ADMIN")))
    foreign = Rule("theirs", Pattern.parse("spiffe://other.org/person/*", ""), Role.ADMIN)
    for by in (ANN, None):
        with pytest.raises(FailedPrecondition, match="people would be locked out"):
            replace(held, Policy((foreign,)), by)
    assert held.held == before
    # Root on the node itself is always there.
    replace(held, policy(("person/bob", "ADMIN")), None)


def test_a_change_of_what_is_not_there_any_more_is_refused(tmp_path: Path) -> None:
    held = policies(tmp_path)
    first = held.held.revision
    second = replace(held, policy(ADMINS), if_revision=first)
    with pytest.raises(FailedPrecondition, match=f"has become revision {second}"):
        replace(held, policy(ADMINS, ("person/bob", "READER")), if_revision=first)


def test_who_lost_the_right_while_waiting_changes_nothing(tmp_path: Path) -> None:
    held = policies(tmp_path)
    both = policy(("person/ann", "ADMIN"), ("person/bob", "ADMIN"))
    replace(held, both)

    async def race() -> tuple[object, object]:
        first = held.replace(policy(("person/bob", "ADMIN")), BOB)
        second = held.replace(policy(("person/ann", "ADMIN")), ANN)
        return await asyncio.gather(first, second, return_exceptions=True)

    _, lost = asyncio.run(race())
    assert isinstance(lost, PermissionDenied)
    assert not held.decide(ANN, LIST).allowed
    assert held.decide(BOB, LIST).allowed


def test_a_change_whose_caller_leaves_holds_as_it_is_on_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = policies(tmp_path)
    begun, go_on = threading.Event(), threading.Event()
    write = durable.put

    def slow(path: Path, content: bytes) -> None:
        begun.set()
        assert go_on.wait(DEADLINE)
        write(path, content)

    monkeypatch.setattr(module, "put", slow)

    async def leave() -> None:
        async with asyncio.TaskGroup() as tasks:
            change = tasks.create_task(held.replace(policy(("person/ann", "ADMIN")), ANN))
            await asyncio.to_thread(begun.wait, DEADLINE)
            change.cancel()
            await asyncio.sleep(0)
            go_on.set()
        assert change.cancelled()

    asyncio.run(leave())
    assert held.held == policies(tmp_path).held


def test_what_is_tried_changes_nothing(tmp_path: Path) -> None:
    held = policies(tmp_path)
    before = held.held
    tried = replace(held, policy(("person/ann", "ADMIN")), dry_run=True)
    assert held.held == before
    assert tried == replace(held, policy(("person/ann", "ADMIN")))


def test_the_boots_policy_holds_until_one_is_stored(tmp_path: Path) -> None:
    boot = tmp_path / "aurae.policy.json"
    boot.write_text(document.to_json(policy(("person/ann", "ADMIN"))))
    held = policies(tmp_path, boot)
    assert (held.held.source, held.decide(BOB, LIST).allowed) == (Source.BOOT, False)
    replace(held, policy(ADMINS))
    assert policies(tmp_path, boot).held.source is Source.STORED


def test_a_policy_that_cannot_be_read_gives_nobody_anything(tmp_path: Path) -> None:
    boot = tmp_path / "aurae.policy.json"
    boot.write_text("{")
    held = policies(tmp_path, boot)
    assert not held.decide(ANN, LIST).allowed
    # Root mends it.
    replace(held, policy(ADMINS), None)
    assert held.decide(ANN, LIST).allowed


@pytest.mark.parametrize("text", [*(m.strip("/") for m in TABLE), "CellService/Start", "Start"])
def test_a_method_is_known_by_all_or_the_end_of_its_name(text: str) -> None:
    assert full_method(text).endswith(text)
    assert full_method(text.replace("/", ".")) == full_method(text)


@pytest.mark.parametrize("text", ["", "Sell", "List", "ervice/Start", "/"])
def test_what_names_no_method_or_two_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        full_method(text)


# Over gRPC


@pytest.fixture(scope="module")
def signer() -> Pair:
    return make_authority()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


# A tenant's cell has namespaces by default, which only PID 1 of a node can make.
PLAIN = '{"cell": {"name": "acme", "security": {}%s}, "max_cells": %d}'


def with_acme(limits: str = "", most: int = 9) -> Policy:
    return policy(ADMINS, ("tenant/*/**", "TENANT"), tenants=f"[{PLAIN % (limits, most)}]")


@pytest.fixture
def port(folder: Path, signer: Pair) -> Iterator[Port]:
    write(folder / "credentials", node_svid(signer), signer.certificate)
    (folder / "credentials/aurae.policy.json").write_text(document.to_json(with_acme()))
    with nodes.owner(folder), nodes.api(folder), nodes.client(folder) as there:
        (ready,) = there.asked()
        address = ready["message"].removeprefix("serving on ").partition(" as ")[0]
        yield Port(address, signer)


class Person(Node):
    """The API as somebody with an SVID sees it."""

    def __init__(self, folder: Path, channel: grpc.Channel) -> None:
        super().__init__(folder, channel)
        self.auth = auth_pb2_grpc.AuthServiceStub(channel)
        self.channel = channel

    def set_policy(self, wanted: Policy) -> None:
        request = auth_pb2.SetPolicyRequest(policy=document.to_proto(wanted))
        self.auth.SetPolicy(request, timeout=DEADLINE)


@pytest.fixture
def acme(folder: Path, port: Port) -> Iterator[Person]:
    with port.channel(issue(port.signer, str(ACME))) as channel:
        yield Person(folder, channel)


@pytest.fixture
def ann(folder: Path, port: Port) -> Iterator[Person]:
    with port.channel(issue(port.signer, str(ANN))) as channel:
        yield Person(folder, channel)


def test_a_tenant_has_its_own_cell_and_sees_nothing_else(ann: Person, acme: Person) -> None:
    ann.allocate("other")
    ann.allocate("other/web")
    assert acme.list() == {}
    acme.allocate("acme/web")
    assert set(acme.list()) == {"acme", "acme/web"}
    assert set(ann.list()) == {"acme", "acme/web", "other", "other/web"}
    for name in ("other", "other/web", "none", "none/web"):
        said = "does not exist; yours are acme and those in it"
        with refused(StatusCode.NOT_FOUND, f"cell {name}: {said}"):
            acme.free(name)
        with refused(StatusCode.NOT_FOUND, f"cell {name}: {said}"):
            acme.allocate(name)
        with refused(StatusCode.NOT_FOUND, f"cell {name}: {said}"):
            acme.start(name, "sh", "true")
    acme.free("acme")
    assert set(ann.list()) == {"other", "other/web"}


def test_what_is_anothers_takes_as_long_as_what_does_not_exist(ann: Person, acme: Person) -> None:
    ann.allocate("other")
    times: dict[str, list[float]] = {"other": [], "nowhere": []}
    for _ in range(300):
        for name, taken in times.items():
            began = time.perf_counter()
            with refused(StatusCode.NOT_FOUND):
                acme.free(name)
            taken.append(time.perf_counter() - began)
    there, not_there = map(statistics.median, times.values())
    # Both are 0.5 ms and more; a look into the cell would be as much again.
    assert 0.67 < there / not_there < 1.5
    ann.free("other")


def test_who_calls_is_told_who_it_is_and_what_it_may(ann: Person, acme: Person) -> None:
    me = acme.auth.WhoAmI(auth_pb2.WhoAmIRequest(), timeout=DEADLINE)
    assert (me.id, me.confined_to) == (str(ACME), "acme")
    assert set(me.permissions) == {one.value for one in PARTIAL}
    assert [rule.name for rule in me.rules] == ["rule-1"]
    can = auth_pb2.CanIRequest(method="Shutdown")
    answer = acme.auth.CanI(can, timeout=DEADLINE)
    assert (answer.allowed, answer.rule, answer.permission) == (False, "default", "node.control")
    with refused(StatusCode.PERMISSION_DENIED, "needs policy.read"):
        acme.auth.CanI(auth_pb2.CanIRequest(method="Shutdown", as_id=str(ANN)), timeout=DEADLINE)
    asked = auth_pb2.CanIRequest(method="CellService/Start", as_id=str(ACME))
    answer = ann.auth.CanI(asked, timeout=DEADLINE)
    assert (answer.allowed, answer.rule, answer.confined_to) == (True, "rule-1", "acme")


def test_root_and_cells_have_no_rules(node: Node) -> None:
    auth = auth_pb2_grpc.AuthServiceStub(node.channel)
    me = auth.WhoAmI(auth_pb2.WhoAmIRequest(), timeout=DEADLINE)
    assert me.id.startswith("uid:")
    assert set(me.permissions) == {one.value for one in Permission}
    node.allocate("web")
    with nodes.inside(node.folder, "web") as there:
        auth = auth_pb2_grpc.AuthServiceStub(there.channel)
        me = auth.WhoAmI(auth_pb2.WhoAmIRequest(), timeout=DEADLINE)
        assert (me.id, me.confined_to) == ("cell:web", "web")
        assert set(me.permissions) == {one.value for one in PARTIAL}
    node.free("web")


def test_a_tenants_quota_is_its_cells_limits_and_their_number(ann: Person, acme: Person) -> None:
    ann.set_policy(with_acme(', "memory": {"max": "1048576"}', 2))
    acme.allocate("acme/a")
    acme.allocate("acme/a/b")
    full = "tenant acme takes 2 cells"
    with refused(StatusCode.RESOURCE_EXHAUSTED, full):
        acme.allocate("acme/c")
    # Nor do its executables have more.
    with (
        nodes.inside(ann.folder, "acme/a") as there,
        refused(StatusCode.RESOURCE_EXHAUSTED, full),
    ):
        there.allocate("c")
    memory = ann.folder / "cgroup/aurae/acme/memory.max"
    assert memory.read_text().strip() == "1048576"
    ann.set_policy(with_acme(', "pids": {"max": 9}', 3))
    assert memory.read_text().strip() == "max"
    assert ann.list()["acme"].cell.pids.max == 9
    acme.allocate("acme/c")
    ann.free("acme")


def test_every_decision_is_in_the_audit_log_with_its_rule_or_reason(
    ann: Person, acme: Person, port: Port
) -> None:
    audit = audit_pb2_grpc.AuditServiceStub(ann.channel)
    ann.allocate("other")
    acme.list()
    with refused(StatusCode.NOT_FOUND):
        acme.free("other")
    node = forge(port.signer, "spiffe://example.org/node/one", "https://example.org/")
    code, told = port.refusal(node)
    assert code is StatusCode.UNAUTHENTICATED
    ann.free("other")
    request = audit_pb2.WatchRequest(no_follow=True)
    seen = [
        (event.who, event.method.rpartition("/")[2], event.object, event.allowed, event.rule)
        for answer in audit.Watch(request, timeout=DEADLINE)
        for event in answer.events
        if event.kind == audit_pb2.AUDIT_EVENT_KIND_DECISION
    ]
    people, tenants = "rule-0", "rule-1"
    assert seen[:6] == [
        (str(ANN), "Allocate", "other", True, people),
        (str(ACME), "List", "acme", True, tenants),
        (str(ACME), "Free", "other", True, tenants),
        (str(ACME), "Free", "other", False, tenants),
        (seen[4][0], "Discover", "", False, "identity"),
        (str(ANN), "Free", "other", True, people),
    ]
    assert "spiffe://example.org/node/one" in seen[4][0]
    reasons = [
        event.reason
        for answer in audit.Watch(request, timeout=DEADLINE)
        for event in answer.events
        if event.kind == audit_pb2.AUDIT_EVENT_KIND_DECISION and not event.allowed
    ]
    assert reasons == ["cell other lies outside of its own", told]


def test_a_cell_that_somebody_made_otherwise_is_no_tenants(ann: Person, port: Port) -> None:
    ann.allocate("web")
    with port.channel(issue(port.signer, "spiffe://example.org/tenant/web/ci")) as channel:
        web = Person(ann.folder, channel)
        for call in (
            lambda: web.start("web", "sh", "true"),
            lambda: web.allocate("web/in"),
            lambda: web.free("web"),
            lambda: web.list(),
        ):
            with refused(StatusCode.FAILED_PRECONDITION, "cell web: is there, and not confined"):
                call()
    ann.free("web")


def test_what_a_call_names_is_in_the_audit_log(ann: Person, acme: Person) -> None:
    audit = audit_pb2_grpc.AuditServiceStub(ann.channel)
    head = audit.GetHead(audit_pb2.GetHeadRequest(), timeout=DEADLINE).seq
    wanted = cells_pb2.CellServiceApplyRequest(
        cells=[cells_pb2.Cell(name="acme/a")],
        executables=[
            cells_pb2.CellServiceStartRequest(
                cell_name="acme/a", executable=cells_pb2.Executable(name="x", command="true")
            )
        ],
    )
    acme.cells.Apply(wanted, timeout=DEADLINE)
    acme.start(None, "y", "true")
    with refused(StatusCode.PERMISSION_DENIED):
        acme.auth.CanI(auth_pb2.CanIRequest(method="Shutdown", as_id=str(ANN)), timeout=DEADLINE)
    request = audit_pb2.WatchRequest(no_follow=True, since=head + 1, who=str(ACME))
    seen = [
        (event.method.rpartition("/")[2], event.object, event.allowed)
        for answer in audit.Watch(request, timeout=DEADLINE)
        for event in answer.events
    ]
    assert seen == [
        ("Apply", "acme/a/ acme/a:x", True),
        ("Start", "acme:y", True),
        ("CanI", str(ANN), True),
        ("CanI", str(ANN), False),
    ]
    with refused(StatusCode.INVALID_ARGUMENT, "who: has 2000 characters"):
        list(audit.Watch(audit_pb2.WatchRequest(who="*" * 2000), timeout=DEADLINE))
    ann.free("acme")


def test_health_is_watched_by_who_may_only(ann: Person, port: Port) -> None:
    with port.channel(issue(port.signer, str(BOB))) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        seen = iter(health.Watch(health_pb2.HealthCheckRequest(), timeout=DEADLINE))
        assert next(seen).status == health_pb2.HealthCheckResponse.SERVING
        ann.set_policy(policy(("person/ann", "ADMIN")))
        (ann.folder / "goes-down").touch()
        node = node_pb2_grpc.NodeServiceStub(ann.channel)
        mode = node_pb2.SHUTDOWN_MODE_POWEROFF
        node.Shutdown(node_pb2.ShutdownRequest(mode=mode), timeout=DEADLINE)
        with refused(StatusCode.PERMISSION_DENIED):
            next(seen)


def test_an_apply_of_too_much_is_refused_at_once(ann: Person) -> None:
    wanted = cells_pb2.CellServiceApplyRequest(cells=[cells_pb2.Cell()] * 1001)
    with refused(
        StatusCode.INVALID_ARGUMENT, "cells, executables: are 1001 together; at most 1000"
    ):
        ann.cells.Apply(wanted, timeout=DEADLINE)


def test_an_open_stream_ends_at_its_next_message_when_the_policy_says_no(
    ann: Person, port: Port
) -> None:
    with port.channel(issue(port.signer, str(BOB))) as channel:
        stub = cells_pb2_grpc.CellServiceStub(channel)
        stream = stub.Watch(cells_pb2.CellServiceWatchRequest(), timeout=DEADLINE)
        assert next(iter(stream)).HasField("snapshot")
        ann.set_policy(policy(("person/ann", "ADMIN")))
        ann.allocate("web")
        with refused(StatusCode.PERMISSION_DENIED, "no rule of the node's policy matches"):
            next(iter(stream))
        ann.free("web")


def test_in_an_emergency_nobody_may_more_than_look(tmp_path: Path) -> None:
    held = Policies(tmp_path / "policy.json", None, lambda: "example.org")
    gate = Gate(held, emergency=True)
    for asking in (Asking(NODE, None), Asking(NODE, ANN)):
        assert gate.decide(asking, LIST).allowed
        decision = gate.decide(asking, SHUTDOWN)
        assert (decision.allowed, decision.rule) == (False, "emergency")
        assert Permission.NODE_CONTROL not in gate.permissions(asking)
        assert Permission.NODE_OBSERVE in gate.permissions(asking)

"""Every kind of caller times every method times whose it is, as the policy says; and tenants."""

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from aurae.auth.v0 import auth_pb2
from aurae.cells.v0 import cells_pb2 as pb
from aurae.cells.v0.cells_pb2_grpc import CellServiceStub
from aurae.observe.v0 import observe_pb2
from google.protobuf.message import Message
from grpc import StatusCode

from aer.client import Config
from runtime.identity import authority
from runtime.identity.authority import KeyType, Pair
from runtime.identity.spiffe import SpiffeId
from runtime.policy.table import PARTIAL, ROLES, TABLE, Permission, Role
from testkit.cells import Cell
from testkit.machines import Machine
from testkit.refusals import refused
from testkit.trust import NAME

CELLS = "/aurae.cells.v0.CellService/"
LOGS = "/aurae.observe.v0.ObserveService/GetSubProcessStream"
SECONDS = 60.0

# Whose the object of a call is, seen from the tenant acme: the cell it lies in.
OWN, OTHER, SYSTEM = "acme", "other", ""

# What has passed the policy and is refused all the same, since nothing or nonsense is asked.
PASSED = {
    StatusCode.OK,
    StatusCode.INVALID_ARGUMENT,
    StatusCode.FAILED_PRECONDITION,
    StatusCode.UNIMPLEMENTED,
}


@dataclass(frozen=True)
class Kind:
    """A caller by its path in the trust domain."""

    path: str
    permissions: frozenset[Permission]
    tenant: str = ""


NOTHING = frozenset({Permission.IDENTITY})
KINDS = (
    Kind("/person/tester", ROLES[Role.ADMIN]),
    Kind("/team/operator", ROLES[Role.OPERATOR]),
    Kind("/team/reader", ROLES[Role.READER]),
    Kind("/tenant/acme/ci", ROLES[Role.TENANT], OWN),
    Kind("/tenant/other/ci", ROLES[Role.TENANT], OTHER),
    Kind("/node/node", NOTHING),
    Kind("/node/node/cell/acme", NOTHING),
    Kind("/person/nobody", NOTHING),
)


@dataclass(frozen=True)
class Call:
    """A method, whose the object is (None: it names none), and the request."""

    method: str
    whose: str | None
    request: Message


def calls(whose: str) -> Iterator[Call]:
    """On objects of `whose`, in an order in which each finds what it needs."""
    child = f"{whose}/t" if whose else "t"
    cell = whose or None
    one = pb.Cell(name=child)
    executable = pb.Executable(name="t", command="true")
    yield Call(f"{CELLS}Allocate", whose, pb.CellServiceAllocateRequest(cell=one))
    yield Call(f"{CELLS}Free", whose, pb.CellServiceFreeRequest(cell_name=child))
    start = pb.CellServiceStartRequest(executable=executable, cell_name=cell)
    yield Call(f"{CELLS}Start", whose, start)
    wait = pb.CellServiceWaitRequest(executable_name="done", cell_name=cell)
    yield Call(f"{CELLS}Wait", whose, wait)
    logs = observe_pb2.GetSubProcessStreamRequest(
        executable_name="done", no_follow=True, cell_name=cell
    )
    yield Call(LOGS, whose, logs)
    stop = pb.CellServiceStopRequest(executable_name="t", cell_name=cell)
    yield Call(f"{CELLS}Stop", whose, stop)


def everything() -> Iterator[Call]:
    named = set()
    for whose in (OWN, OTHER, SYSTEM):
        for call in calls(whose):
            named.add(call.method)
            yield call
    # The rest names no object: nothing is asked of them, and what they answer is looked at apart.
    for method in sorted(TABLE.keys() - named):
        yield Call(method, None, pb.CellServiceListRequest())


def expected(kind: Kind, call: Call) -> Callable[[StatusCode], bool]:
    permission = TABLE[call.method]
    if permission not in kind.permissions:
        return lambda code: code is StatusCode.PERMISSION_DENIED
    outside = call.whose is not None and call.whose != kind.tenant
    # To a tenant what names no cell is in its own, and is there as it is there.
    by_cell = call.method in (f"{CELLS}Allocate", f"{CELLS}Free")
    if kind.tenant and outside and (call.whose or by_cell):
        return lambda code: code is StatusCode.NOT_FOUND
    if call.whose is None:
        return lambda code: code in PASSED
    return lambda code: code is StatusCode.OK


def asked(channel: grpc.Channel, call: Call) -> tuple[StatusCode, str]:
    """The first answer, or how it was refused. A stream is the same on the wire as one answer."""
    method: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(call.method)
    answers = method(iter([call.request.SerializeToString()]), timeout=SECONDS)
    try:
        next(iter(answers), None)
    except grpc.RpcError as e:
        return e.code(), e.details() or ""
    finally:
        answers.cancel()
    return StatusCode.OK, ""


def rules() -> auth_pb2.Policy:
    def rule(name: str, path: str, role: "auth_pb2.Role.ValueType") -> auth_pb2.Rule:
        return auth_pb2.Rule(name=name, id=f"spiffe://{NAME}{path}", role=role)

    return auth_pb2.Policy(
        rules=[
            rule("testers", "/person/tester", auth_pb2.ROLE_ADMIN),
            rule("operators", "/team/operator", auth_pb2.ROLE_OPERATOR),
            rule("readers", "/team/reader", auth_pb2.ROLE_READER),
            rule("tenants", "/tenant/*/**", auth_pb2.ROLE_TENANT),
        ],
        # Made by the test, and without confinement: whoever asks must have said so.
        tenants=[
            auth_pb2.Tenant(cell=pb.Cell(name=name, security=pb.Security()))
            for name in (OWN, OTHER)
        ],
    )


def svid(machine: Machine, path: str) -> Pair:
    folder = machine.trust.folder
    signer = Pair((folder / "ca.crt").read_bytes(), (folder / "ca.key").read_bytes())
    key = authority.make_key(KeyType.ECDSA_P256)
    return authority.issue(signer, SpiffeId(NAME, path), key, validity=timedelta(hours=1))


@contextmanager
def called_as(machine: Machine, path: str, folder: Path) -> Iterator[grpc.Channel]:
    """A channel of somebody with that path in the trust domain."""
    pair = svid(machine, path)
    certificate, key = folder / "crt", folder / "key"
    certificate.write_bytes(pair.certificate)
    key.write_bytes(pair.key)
    config = Config.load(machine.config_file)
    with machine.connect(replace(config, client_crt=certificate, client_key=key)) as channel:
        yield channel


@pytest.fixture(scope="module")
def governed(machine: Machine) -> Iterator[Machine]:
    """The machine with a policy that has every role, until the module is done."""
    auth = machine.api.auth
    before = auth.GetPolicy(auth_pb2.GetPolicyRequest()).policy
    auth.SetPolicy(auth_pb2.SetPolicyRequest(policy=rules()))
    yield machine
    auth.SetPolicy(auth_pb2.SetPolicyRequest(policy=before))


@pytest.fixture
def objects(governed: Machine) -> Iterator[Machine]:
    """Cells of two tenants, and in each, and in the system's, an executable that has ended."""
    with governed.cell(OWN) as own, governed.cell(OTHER) as other:
        for cell in (own, other, governed.system):
            cell.start("done", "echo done")
            cell.wait("done")
        yield governed


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.path)
def test_every_method_on_every_object_is_as_the_policy_says(
    objects: Machine, kind: Kind, tmp_path: Path
) -> None:
    wrong = []
    with called_as(objects, kind.path, tmp_path) as channel:
        for call in everything():
            code, message = asked(channel, call)
            if not expected(kind, call)(code):
                wrong.append((call.method, call.whose, code.name, message))
    assert not wrong
    # What is outside of its own is as if it were not there.
    assert {
        node.cell.name for node in objects.api.cells.List(pb.CellServiceListRequest()).cells
    } == {
        OWN,
        OTHER,
        "_system",
    }


# Asks what it is told to, from where it runs: lines of method, request, and the answer's code.
ASK = """
import base64, json, sys, grpc
channel = grpc.insecure_channel("unix:/run/aurae/aurae.sock")
for method, request in json.loads(sys.argv[1]):
    answers = channel.stream_stream(method)(iter([base64.b64decode(request)]), timeout=60)
    try:
        next(iter(answers), None)
        print("OK", flush=True)
    except grpc.RpcError as e:
        print(e.code().name, flush=True)
    answers.cancel()
"""


def asked_inside(cell: Cell, wanted: list[Call]) -> list[StatusCode]:
    text = json.dumps(
        [
            (call.method, base64.b64encode(call.request.SerializeToString()).decode())
            for call in wanted
        ]
    )
    said = cell.run('exec python3 -c "$1" "$2"', ASK, text, timeout=2 * SECONDS)
    assert said.stderr == "", said
    codes = [StatusCode[word] for word in said.stdout.split()]
    assert len(codes) == len(wanted)
    return codes


def test_root_on_the_node_may_do_everything(objects: Machine) -> None:
    wanted = list(everything())
    root = Kind("", frozenset(Permission))
    codes = asked_inside(objects.system, wanted)
    assert [
        call for call, code in zip(wanted, codes, strict=True) if not expected(root, call)(code)
    ] == []


def test_a_caller_in_a_cell_reaches_what_is_in_it_and_nothing_else(objects: Machine) -> None:
    cell = Cell(objects.api, OWN)
    # Its own cell is where it is; the others' names are names in it.
    wanted = [*calls(SYSTEM), *(replace(call, whose=OTHER) for call in calls(OTHER))]
    codes = asked_inside(cell, wanted)
    for call, code in zip(wanted, codes, strict=True):
        assert code is (StatusCode.NOT_FOUND if call.whose else StatusCode.OK), call.method
    rest = [call for call in everything() if call.whose is None]
    for call, code in zip(rest, asked_inside(cell, rest), strict=True):
        denied = TABLE[call.method] not in PARTIAL
        assert (code is StatusCode.PERMISSION_DENIED) is denied, call.method


def test_a_tenant_lists_watches_and_streams_its_own_only(objects: Machine, tmp_path: Path) -> None:
    with called_as(objects, "/tenant/acme/ci", tmp_path) as channel:
        stub = CellServiceStub(channel)
        (own,) = stub.List(pb.CellServiceListRequest(), timeout=SECONDS).cells
        assert own.cell.name == OWN
        watch = stub.Watch(pb.CellServiceWatchRequest(), timeout=SECONDS)
        seen = iter(watch)
        assert [node.cell.name for node in next(seen).snapshot.cells] == [OWN]
        with objects.cell(f"{OTHER}/hidden"), objects.cell(f"{OWN}/shown"):
            assert next(seen).allocated.name == f"{OWN}/shown"
        watch.cancel()


def test_a_tenants_first_call_makes_its_cell_confined(governed: Machine, tmp_path: Path) -> None:
    with called_as(governed, "/tenant/fresh/ci", tmp_path) as channel:
        stub = CellServiceStub(channel)
        stub.Allocate(
            pb.CellServiceAllocateRequest(cell=pb.Cell(name="fresh/web")), timeout=SECONDS
        )
        try:
            home = Cell(governed.api, "fresh").node().cell
            assert home.security.profile == pb.SECURITY_PROFILE_RESTRICTED
            said = Cell(governed.api, "fresh/web").run("cat /proc/1/comm; touch /x")
            assert said.stdout == "cell-init\n"
            assert "Read-only file system" in said.stderr
        finally:
            stub.Free(pb.CellServiceFreeRequest(cell_name="fresh"), timeout=SECONDS)


def test_what_does_not_exist_and_what_is_anothers_are_told_alike(
    objects: Machine, tmp_path: Path
) -> None:
    with called_as(objects, "/tenant/acme/ci", tmp_path) as channel:
        stub = CellServiceStub(channel)
        for name in (OTHER, "nowhere", f"{OTHER}/web", "nowhere/web"):
            with refused(
                StatusCode.NOT_FOUND, f"cell {name}: does not exist; yours are acme and those in it"
            ):
                stub.Free(pb.CellServiceFreeRequest(cell_name=name), timeout=SECONDS)

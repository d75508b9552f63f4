"""The API as seen from inside of a cell: cut to its subtree, with names relative to it."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
from aurae.cells.v0 import cells_pb2
from aurae.discovery.v0 import discovery_pb2
from aurae.observe.v0 import observe_pb2
from grpc import StatusCode

from runtime.cells.model import MAX_LEVELS
from runtime.policy.table import PARTIAL, TABLE
from runtime.scope import NODE, Scope
from runtime.server import admission, relay
from tests.unit.runtime import node as nodes
from tests.unit.runtime.node import DEADLINE, Node
from tests.unit.runtime.test_cells_over_grpc import refused


@pytest.fixture
def tenant(node: Node) -> Iterator[Node]:
    """The API inside of the cell `tenant`, beside which there is a cell `other`."""
    node.allocate("tenant", memory=cells_pb2.MemoryController(max=1 << 20))
    node.allocate("other")
    try:
        with nodes.inside(node.folder, "tenant") as there:
            yield there
    finally:
        node.free("tenant")
        node.free("other")


def test_what_is_for_the_node_is_refused_to_a_cell(tenant: Node) -> None:
    for method, permission in TABLE.items():
        call: grpc.UnaryStreamMultiCallable[bytes, bytes] = tenant.channel.unary_stream(method)
        # Streams of one answer are calls that are not streams, on the wire.
        answers = call(b"", timeout=DEADLINE)
        try:
            next(iter(answers), None)
            code, message = StatusCode.OK, ""
        except grpc.RpcError as e:
            code, message = e.code(), e.details() or ""
        answers.cancel()
        assert (code is StatusCode.PERMISSION_DENIED) == (permission not in PARTIAL), method
        if permission not in PARTIAL:
            assert message == f"{method}: is not for callers in a cell; call from the node"


def test_names_are_relative_to_the_cell(node: Node, tenant: Node) -> None:
    request = cells_pb2.CellServiceAllocateRequest(cell=cells_pb2.Cell(name="web"))
    assert tenant.cells.Allocate(request, timeout=DEADLINE).cell_name == "web"
    tenant.allocate("web/api")
    assert (node.cgroups / "tenant/web/api").is_dir()
    pid = tenant.start("web/api", "server", "echo $AURAE_CELL; exec sleep 100")
    assert [s.pid for s in node.list()["tenant/web/api"].executables] == [pid]
    assert set(tenant.list()) == {"web", "web/api", "_self"}
    stream = tenant.observe.GetSubProcessStream(
        observe_pb2.GetSubProcessStreamRequest(executable_name="server", cell_name="web/api"),
        timeout=DEADLINE,
    )
    assert next(iter(stream)).item.line == "tenant/web/api"
    stream.cancel()
    tenant.stop("web/api", "server")
    assert tenant.wait("web/api", "server").signal == 15
    tenant.free("web")
    assert not (node.cgroups / "tenant/web").exists()


def test_no_cell_name_means_the_callers_own(node: Node, tenant: Node) -> None:
    tenant.start(None, "own", "exec sleep 100")
    assert [s.executable.name for s in node.list()["tenant"].executables] == ["own"]
    (own,) = [n for n in tenant.list().values() if n.cell.name == "_self"]
    assert [s.executable.name for s in own.executables] == ["own"]
    assert own.cell.memory.max == 1 << 20
    assert not own.children
    tenant.stop(None, "own")
    assert tenant.wait(None, "own").signal == 15


def test_nothing_outside_can_be_seen_or_touched(node: Node, tenant: Node) -> None:
    node.allocate("other/child")
    pid = node.start("other", "secret", "exec sleep 100")
    system = node.start(None, "secret", "exec sleep 100")
    try:
        assert set(tenant.list()) == {"_self"}
        for name in ("other", "other/child", "tenant"):
            code, message = refused(lambda name=name: tenant.free(name))  # type: ignore[misc]
            assert (code, message) == (
                StatusCode.NOT_FOUND,
                f"cell {name}: does not exist; allocate it first",
            )
        for cell in ("other", None):
            for call in (tenant.stop, tenant.wait):
                code, _ = refused(lambda call=call, cell=cell: call(cell, "secret"))  # type: ignore[misc]
                assert code is StatusCode.NOT_FOUND
        for hidden in (pid, system):
            request = observe_pb2.GetSubProcessStreamRequest(process_id=hidden)
            code, message = refused(
                lambda r=request: list(tenant.observe.GetSubProcessStream(r, timeout=DEADLINE))  # type: ignore[misc]
            )
            assert code is StatusCode.NOT_FOUND
            assert message.startswith(f"process {hidden}: is no executable's first process")
    finally:
        node.stop(None, "secret")
        node.stop("other", "secret")


@pytest.mark.parametrize("name", ["", "/", "..", "../other", ".", "_self", "_system", "a/../../b"])
def test_there_is_no_name_for_what_lies_above(tenant: Node, name: str) -> None:
    assert refused(lambda: tenant.free(name))[0] is StatusCode.INVALID_ARGUMENT
    assert refused(lambda: tenant.allocate(name))[0] is StatusCode.INVALID_ARGUMENT
    assert refused(lambda: tenant.stop(name, "x"))[0] is StatusCode.INVALID_ARGUMENT


def test_messages_name_cells_as_the_caller_does(tenant: Node) -> None:
    assert refused(lambda: tenant.allocate("a/b"))[1] == "cell a/b: allocate a first"
    tenant.allocate("twice")
    assert refused(lambda: tenant.allocate("twice"))[1].startswith("cell twice: is allocated")
    assert refused(lambda: tenant.stop(None, "x"))[1].startswith("executable x of this cell:")
    assert refused(lambda: tenant.stop("twice", "x"))[1].startswith("executable x of cell twice:")


def test_scopes_name_only_what_they_hold() -> None:
    scope = Scope(cell="a/b")
    assert [scope.title(cell) for cell in ("a/b", "a/b/c", "a", "a/bc")] == [
        "this cell",
        "cell c",
        "a cell above",
        "a cell above",
    ]
    assert NODE.title("a/b") == "cell a/b"


def test_it_works_to_the_deepest_level(node: Node) -> None:
    labels = ["d"] * MAX_LEVELS
    with ExitStack() as stack:
        node.allocate("d")
        stack.callback(node.free, "d")
        for level in range(1, MAX_LEVELS):
            with nodes.inside(node.folder, "/".join(labels[:level])) as there:
                there.allocate("d")
        deepest = "/".join(labels)
        with nodes.inside(node.folder, deepest) as there:
            code, message = refused(lambda: there.allocate("d"))
            assert (code, message) == (
                StatusCode.INVALID_ARGUMENT,
                f"cell.name: has {MAX_LEVELS + 1} levels; at most {MAX_LEVELS}",
            )
            there.start(None, "bottom", "exit 3")
            assert there.wait(None, "bottom").exit_code == 3
        assert node.list()[deepest].executables[0].executable.name == "bottom"


def test_who_is_not_root_in_a_cell_starts_executables_as_itself_only(node: Node) -> None:
    node.allocate("users")
    with nodes.inside(node.folder, "users", uid=os.geteuid() or 65534, gid=os.getegid()) as there:
        uid, gid = os.geteuid() or 65534, os.getegid()
        request = cells_pb2.CellServiceStartRequest(
            executable=cells_pb2.Executable(name="mine", command="true"), uid=0, gid=gid
        )
        code, message = refused(lambda: there.cells.Start(request, timeout=DEADLINE))
        assert code is StatusCode.PERMISSION_DENIED
        assert "not the caller's own" in message
        request.ClearField("uid")
        answer = there.cells.Start(request, timeout=DEADLINE)
        assert (answer.uid, answer.gid) == (uid, gid)
        there.wait(None, "mine")
    node.free("users")


def test_users_outside_of_cells_are_told_that_the_api_is_not_theirs(node: Node) -> None:
    (node.folder / "caller").write_text('{"cgroup": "/user.slice", "uid": 12345}')
    try:
        with nodes.client(node.folder) as there:
            request = discovery_pb2.DiscoverRequest()
            code, message = refused(lambda: there.discovery.Discover(request, timeout=DEADLINE))
        assert code is StatusCode.PERMISSION_DENIED
        assert message.startswith("caller: is neither root nor in a cell")
    finally:
        (node.folder / "caller").unlink()


def test_the_system_cell_is_the_node(node: Node) -> None:
    node.allocate("seen")
    with nodes.inside(node.folder, "_system") as there:
        assert "seen" in there.list()
    node.free("seen")


def test_a_cgroup_that_is_no_cell_belongs_to_the_cell_around_it(node: Node) -> None:
    node.allocate("around")
    with nodes.inside(node.folder, "around/made-by-hand/deeper") as there:
        assert set(there.list()) == {"_self"}
    node.free("around")


def test_a_cgroup_of_no_cell_at_all_is_refused(node: Node) -> None:
    (node.folder / "caller").write_text('{"cgroup": "/aurae/nobody/_test"}')
    try:
        with nodes.client(node.folder) as there:
            assert refused(there.list)[0] is StatusCode.UNAVAILABLE
    finally:
        (node.folder / "caller").unlink()


def test_a_connection_ends_with_its_cell(node: Node) -> None:
    """Whoever it was handed on to: a cell made anew under that name is another one."""
    node.allocate("again")
    caller = node.folder / "caller"
    caller.write_text('{"cgroup": "/aurae/again/_test"}')
    with ExitStack() as stack:
        stack.callback(caller.unlink)
        held = stack.enter_context(socket.socket(socket.AF_UNIX))
        held.connect(str(node.folder / "aurae.sock"))
        held.settimeout(DEADLINE)
        assert held.recv(1)
        node.free("again")
        node.allocate("again")
        while held.recv(1 << 16):
            pass
    node.free("again")


def test_grpcs_own_socket_is_no_way_around(node: Node) -> None:
    with grpc.insecure_channel(f"unix:{node.folder}/runtime/grpc.sock") as channel:
        there = Node(node.folder, channel)
        code, message = refused(there.list)
    assert (code, message) == (
        StatusCode.PERMISSION_DENIED,
        "caller: did not come by the API's own socket; use that",
    )


def test_calls_of_a_cell_are_bounded_and_others_go_on(node: Node, tenant: Node) -> None:
    tenant.start(None, "sleeper", "exec sleep 100")
    request = cells_pb2.CellServiceWaitRequest(executable_name="sleeper")
    waiting = [tenant.cells.Wait.future(request, timeout=DEADLINE) for _ in range(admission.CALLS)]

    def until_refused() -> None:
        """The calls before it are on their way, and may begin a moment later than this one."""
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            tenant.list()

    code, message = refused(until_refused)
    assert code is StatusCode.RESOURCE_EXHAUSTED
    assert str(admission.CALLS) in message
    assert "tenant" in node.list()
    node.stop("tenant", "sleeper")
    assert {call.result().status.signal for call in waiting} == {15}
    tenant.list()


def test_connections_of_a_cell_are_bounded_and_others_go_on(node: Node, tenant: Node) -> None:
    address = str(node.folder / "aurae.sock")
    caller = node.folder / "caller"
    caller.write_text('{"cgroup": "/aurae/tenant/_test"}')
    with ExitStack() as stack:
        stack.callback(caller.unlink)
        # One is the fixture's.
        for _ in range(relay.CONNECTIONS - 1):
            idle = stack.enter_context(socket.socket(socket.AF_UNIX))
            idle.connect(address)
            idle.settimeout(DEADLINE)
            # What a server of HTTP/2 says first.
            assert idle.recv(1)
        with socket.socket(socket.AF_UNIX) as further:
            further.connect(address)
            further.settimeout(DEADLINE)
            assert further.recv(1) == b""
        tenant.list()
        assert "connections to the API, no more are taken" in node.log
    with nodes.client(node.folder) as other:
        assert "tenant" in other.list()


def test_a_slow_reader_holds_up_nobody_and_little_memory(node: Node, tenant: Node) -> None:
    """More than every buffer on the way holds is on its way to one who does not read."""
    lines = 200_000
    tenant.start(None, "flood", f"yes {'x' * 80} | head -n {lines}")
    tenant.wait(None, "flood")
    request = observe_pb2.GetSubProcessStreamRequest(executable_name="flood", batch=True)
    stream = tenant.observe.GetSubProcessStream(request, timeout=DEADLINE)
    assert "tenant" in node.list()
    tenant.list()
    assert sum(1 + len(message.more) for message in stream) == lines


def test_bytes_arrive_as_they_were_sent(node: Node, tenant: Node) -> None:
    text = "".join(chr(33 + n % 90) for n in range(60_000))
    tenant.start(None, "echo", 'printf %s "$1"', args=[text])
    request = observe_pb2.GetSubProcessStreamRequest(executable_name="echo")
    stream = tenant.observe.GetSubProcessStream(request, timeout=DEADLINE)
    assert "".join(message.item.line for message in stream) == text


def test_the_socket_goes_on_from_run_to_run(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("runs")
    with nodes.owner(folder):
        for _ in range(2):
            with nodes.api(folder) as process, nodes.client(folder) as there:
                there.list()
                process.kill()
                process.wait(DEADLINE)
                # Dead, and at once: not a wait for somebody who may never come.
                with socket.socket(socket.AF_UNIX) as late, pytest.raises(ConnectionRefusedError):
                    late.connect(str(Path(folder, "aurae.sock")))


def test_sets_order_and_events_stay_within_the_cell(node: Node, tenant: Node) -> None:
    watch = tenant.cells.Watch(cells_pb2.CellServiceWatchRequest(), timeout=DEADLINE)
    assert [n.cell.name for n in next(watch).snapshot.cells] == ["_self"]
    everything = node.cells.Watch(cells_pb2.CellServiceWatchRequest(), timeout=DEADLINE)
    next(everything)
    node.allocate("other/hidden")
    node.start(None, "hidden", "true")
    after = cells_pb2.Executable(name="after", command="exit 5", after=["web/first"])
    exits = cells_pb2.Readiness(kind=cells_pb2.READINESS_KIND_EXIT)
    first = cells_pb2.Executable(name="first", command="true", readiness=exits)
    request = cells_pb2.CellServiceApplyRequest(
        cells=[cells_pb2.Cell(name="web")],
        executables=[
            cells_pb2.CellServiceStartRequest(executable=after),
            cells_pb2.CellServiceStartRequest(cell_name="web", executable=first),
        ],
    )
    results = tenant.cells.Apply(request, timeout=DEADLINE).results
    assert [(r.name, r.error) for r in results] == [
        ("web/", ""),
        ("_self/after", ""),
        ("web/first", ""),
    ]
    assert tenant.wait(None, "after").exit_code == 5
    tenant.free("web")
    seen = []
    for change in watch:
        seen.append(change.freed or change.allocated.name or change.executable.cell_name)
        if change.freed == "web":
            break
    assert set(seen) == {"web", "_self"}
    assert {next(everything).allocated.name for _ in range(1)} == {"other/hidden"}
    watch.cancel()
    everything.cancel()

"""CellService as a client sees it, with real processes on plain folders."""

import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import grpc
import pytest
from aurae.cells.v0 import cells_pb2
from google.protobuf.duration_pb2 import Duration
from grpc import StatusCode

from tests.unit.runtime import node as nodes
from tests.unit.runtime.node import Node, until

RUNNING = cells_pb2.EXECUTABLE_STATE_RUNNING
STOPPING = cells_pb2.EXECUTABLE_STATE_STOPPING
ENDED = cells_pb2.EXECUTABLE_STATE_ENDED


def refused(call: Callable[[], Any]) -> tuple[StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code(), caught.value.details() or ""


def executables(node: Node, cell: str) -> dict[str, cells_pb2.ExecutableStatus]:
    return {status.executable.name: status for status in node.list()[cell].executables}


def test_a_cell_is_a_folder_with_its_limits_until_it_is_freed(node: Node) -> None:
    cpu = cells_pb2.CpuController(weight=7, max=20000, period=50000)
    node.allocate("limits", cpu=cpu, memory=cells_pb2.MemoryController(max=0, low=4096))
    folder = node.cgroups / "limits"
    assert (folder / "cpu.weight").read_text() == "7"
    assert (folder / "cpu.max").read_text() == "20000 50000"
    assert (folder / "memory.max").read_text() == "0"
    assert (folder / "memory.low").read_text() == "4096"
    assert not (folder / "memory.high").exists()
    node.free("limits")
    assert not folder.exists()
    assert list((node.folder / "cells").iterdir()) == []


def test_list_shows_a_cell_as_it_was_asked_for(node: Node) -> None:
    cell = cells_pb2.Cell(
        name="asked",
        cpu=cells_pb2.CpuController(period=2000),
        cpuset=cells_pb2.CpusetController(cpus="1-2,3", mems="0"),
        memory=cells_pb2.MemoryController(min=0, high=1),
    )
    node.cells.Allocate(cells_pb2.CellServiceAllocateRequest(cell=cell))
    bare = cells_pb2.Cell(name="asked/bare", cpu=cells_pb2.CpuController())
    answer = node.cells.Allocate(cells_pb2.CellServiceAllocateRequest(cell=bare))
    assert (answer.cell_name, answer.cgroup_v2) == ("asked/bare", True)
    assert node.list()["asked"].cell == cell
    assert [child.cell for child in node.list()["asked"].children] == [bare]
    node.free("asked")
    assert "asked" not in node.list()


def test_a_cell_needs_its_ancestors_and_a_free_name(node: Node) -> None:
    code, message = refused(lambda: node.allocate("none/child"))
    assert (code, message) == (StatusCode.NOT_FOUND, "cell none/child: allocate none first")
    node.allocate("twice")
    code, message = refused(lambda: node.allocate("twice"))
    assert code is StatusCode.ALREADY_EXISTS
    assert "cell twice" in message
    node.free("twice")
    assert refused(lambda: node.free("twice"))[0] is StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("cell", "field", "rule"),
    [
        ({"name": ""}, "cell.name", "empty"),
        ({"name": "a_b"}, "cell.name", "a-z A-Z 0-9"),
        ({"name": "a" * 64}, "cell.name", "64 characters"),
        ({"name": "a" + "/a" * 99}, "cell.name", "100 levels; at most 64"),
        ({"name": "../a"}, "cell.name", "a-z A-Z 0-9"),
        ({"name": "x", "cpu": {"weight": 0}}, "cell.cpu.weight", "below 1,"),
        ({"name": "x", "cpu": {"weight": 10001}}, "cell.cpu.weight", "above 10000,"),
        ({"name": "x", "cpu": {"max": 999}}, "cell.cpu.max", "below 1000"),
        ({"name": "x", "cpu": {"period": 1000001}}, "cell.cpu.period", "above 1000000"),
        ({"name": "x", "cpuset": {"cpus": "1..4"}}, "cell.cpuset.cpus", "no list"),
        ({"name": "x", "cpuset": {"cpus": "9"}}, "cell.cpuset.cpus", "9 is not on this node"),
        ({"name": "x", "cpuset": {"mems": "1"}}, "cell.cpuset.mems", "1 is not on this node"),
        ({"name": "x", "memory": {"max": -1}}, "cell.memory.max", "negative"),
        ({"name": "x", "pids": {"max": -1}}, "cell.pids.max", "below 0"),
        ({"name": "x", "pids": {"max": 1 << 23}}, "cell.pids.max", "above 4194304"),
        ({"name": "x", "io": {"weight": 0}}, "cell.io.weight", "below 1"),
        ({"name": "x", "io": {"max": [{"device": "sda"}]}}, "cell.io.max[0].device", "8:0"),
        ({"name": "x", "io": {"max": [{"device": "8:0", "rbps": 0}]}}, "cell.io.max[0].rbps", "1"),
        ({"name": "x", "io": {"max": [{"device": "8:0"}] * 2}}, "cell.io.max", "twice"),
        ({"name": "x", "security": {"seccomp": 9}}, "cell.security.seccomp", "9"),
        ({"name": "x", "security": {"profile": 9}}, "cell.security.profile", "9"),
        (
            {"name": "x", "security": {"keep_capabilities": ["NET_RAW"]}},
            "cell.security.keep_capabilities",
            "CAP_NET_BIND_SERVICE",
        ),
        (
            {"name": "x", "security": {"profile": 1, "keep_capabilities": ["CAP_KILL"]}},
            "cell.security.keep_capabilities",
            "restricted",
        ),
        *(
            ({"name": "x", "security": {field: True}}, f"cell.security.{field}", "isolate_process")
            for field in ("user_namespace", "read_only_root", "private_tmp", "private_dev")
        ),
    ],
)
def test_a_bad_cell_is_refused_by_field_and_rule_and_leaves_nothing(
    node: Node, cell: dict[str, Any], field: str, rule: str
) -> None:
    before = sorted(node.cgroups.rglob("*"))
    code, message = refused(lambda: node.allocate(**cell))
    assert code is StatusCode.INVALID_ARGUMENT
    assert message.startswith(field)
    assert rule in message
    assert sorted(node.cgroups.rglob("*")) == before


def test_pids_and_io_limits_are_files_of_the_cell(node: Node) -> None:
    lines = [cells_pb2.IoMax(device="8:0", rbps=5, wiops=7), cells_pb2.IoMax(device="8:16", wbps=1)]
    io = cells_pb2.IoController(weight=30, max=lines)
    security = cells_pb2.Security(no_new_privileges=True, keep_capabilities=["CAP_KILL"])
    asked: dict[str, Any] = {
        "pids": cells_pb2.PidsController(max=0),
        "io": io,
        "security": security,
    }
    node.allocate("io", **asked)
    folder = node.cgroups / "io"
    assert (folder / "pids.max").read_text() == "0"
    assert (folder / "io.weight").read_text() == "default 30"
    # The kernel takes a device at a time; a plain file keeps the last.
    assert (folder / "io.max").read_text() == "8:16 wbps=1"
    assert node.list()["io"].cell == cells_pb2.Cell(name="io", **asked)
    node.free("io")


def test_what_runs_in_a_cell_without_privileges_gets_none(node: Node) -> None:
    node.allocate("low", security=cells_pb2.Security(no_new_privileges=True))
    node.allocate("low/er")
    for cell in ("low", "low/er"):
        node.start(cell, "look", "grep -q 'NoNewPrivs:.1' /proc/self/status")
        assert node.wait(cell, "look").exit_code == 0
    node.free("low")


def test_a_cell_gets_no_cpu_that_the_cell_above_lacks(node: Node) -> None:
    node.allocate("narrow", cpuset=cells_pb2.CpusetController(cpus="0-1"))
    wide = cells_pb2.CpusetController(cpus="1-2")
    code, message = refused(lambda: node.allocate("narrow/wide", cpuset=wide))
    assert (code, message.partition(":")[0]) == (
        StatusCode.FAILED_PRECONDITION,
        "cell.cpuset.cpus",
    )
    node.allocate("narrow/fits", cpuset=cells_pb2.CpusetController(cpus="1"))
    node.free("narrow")


def test_an_executable_runs_with_what_was_given(node: Node) -> None:
    node.allocate("given")
    node.start(
        "given",
        "e",
        'echo "$0 $1 $2" > out; echo "$AURAE_CELL $AURAE_EXECUTABLE $HOME $X" >> out; exit 7',
        args=["one", "t w o"],
        environment={"X": "ä=b"},
        working_directory=str(node.folder),
    )
    status = node.wait("given", "e")
    assert (status.state, status.exit_code, status.HasField("signal")) == (ENDED, 7, False)
    assert (node.folder / "out").read_text() == "e one t w o\ngiven e / ä=b\n"
    assert status.started_at.ToNanoseconds() < status.ended_at.ToNanoseconds()
    node.free("given")


def test_list_and_wait_tell_how_an_executable_stands(node: Node) -> None:
    node.allocate("stands")
    pid = node.start("stands", "long", "sleep 1000", description="for people")
    listed = executables(node, "stands")["long"]
    assert (listed.state, listed.pid) == (RUNNING, pid)
    assert listed.executable.description == "for people"
    assert not listed.HasField("ended_at")
    node.stop("stands", "long")
    ended = executables(node, "stands")["long"]
    assert (ended.state, ended.signal, ended.pid) == (ENDED, signal.SIGTERM, pid)
    assert node.wait("stands", "long") == ended
    node.stop("stands", "long")
    node.free("stands")


def test_a_name_is_free_again_once_its_executable_has_ended(node: Node) -> None:
    node.allocate("again")
    first = node.start("again", "e", "sleep 1000")
    code, message = refused(lambda: node.start("again", "e", "true"))
    assert code is StatusCode.ALREADY_EXISTS
    assert str(first) in message
    node.stop("again", "e")
    node.start("again", "e", "exit 3")
    assert node.wait("again", "e").exit_code == 3
    assert len(node.list()["again"].executables) == 1
    node.free("again")


def test_the_grace_ends_with_a_kill(node: Node) -> None:
    node.allocate("grace")
    command = "trap '' TERM; echo ready > trapped; while :; do sleep 0.05; done"
    node.start("grace", "deaf", command, working_directory=str(node.folder))
    nodes.appears(node.folder / "trapped")
    node.stop("grace", "deaf", grace=Duration(nanos=200_000_000))
    assert executables(node, "grace")["deaf"].signal == signal.SIGKILL
    node.free("grace")


@pytest.mark.parametrize("grace", [Duration(seconds=-1), Duration(seconds=3601)])
def test_a_grace_has_bounds(node: Node, grace: Duration) -> None:
    code, message = refused(lambda: node.stop(None, "any", grace=grace))
    assert (code, message.partition(":")[0]) == (StatusCode.INVALID_ARGUMENT, "grace")


def test_without_a_cell_it_runs_in_the_systems_own(node: Node) -> None:
    node.start(None, "own", "sleep 1000")
    assert (node.cgroups / "_system" / "_own").is_dir()
    assert list(node.list())[-1] == "_system"
    code, message = refused(lambda: node.stop("_system", "own"))
    assert code is StatusCode.INVALID_ARGUMENT
    assert "leave it out" in message
    node.stop(None, "own")
    assert node.wait(None, "own").signal == signal.SIGTERM


def test_free_ends_all_that_runs_in_the_subtree_and_forgets_it(node: Node) -> None:
    for name in ("tree", "tree/a", "tree/a/b", "treetop"):
        node.allocate(name)
        node.start(name, "e", "sleep 1000")
    pid = executables(node, "tree/a/b")["e"].pid
    node.free("tree")
    assert [name for name in node.list() if name.startswith("tree")] == ["treetop"]
    assert not (node.cgroups / "tree").exists()
    assert executables(node, "treetop")["e"].state == RUNNING
    node.allocate("tree")
    assert list(node.list()["tree"].executables) == []
    code, _ = refused(lambda: node.wait("tree/a/b", "e"))
    assert code is StatusCode.NOT_FOUND
    assert pid not in {s.pid for n in node.list().values() for s in n.executables}
    node.free("tree")
    node.free("treetop")


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"name": "", "command": "true"}, "executable.name"),
        ({"name": "-x", "command": "true"}, "executable.name"),
        ({"name": "x" * 64, "command": "true"}, "executable.name"),
        ({"name": "x", "command": ""}, "executable.command"),
        ({"name": "x", "command": "a\0b"}, "executable.command"),
        ({"name": "x", "command": "true", "args": ["a", "\0"]}, "executable.args[1]"),
        ({"name": "x", "command": "true", "environment": {"": "v"}}, "executable.environment"),
        ({"name": "x", "command": "true", "environment": {"A=B": "v"}}, "executable.environment"),
        ({"name": "x", "command": "true", "working_directory": "tmp"}, "executable.working_dir"),
        ({"name": "x", "command": "x" * 90_000}, "executable: command"),
        ({"name": "x", "command": "x" * 140_000}, "executable.command"),
    ],
)
def test_a_bad_executable_is_refused_by_its_field(
    node: Node, options: dict[str, Any], field: str
) -> None:
    code, message = refused(lambda: node.start(None, **options))
    assert code is StatusCode.INVALID_ARGUMENT
    assert message.startswith(field), message


def test_what_is_not_there_is_named(node: Node) -> None:
    for call in (
        lambda: node.start("nowhere", "e", "true"),
        lambda: node.stop("nowhere", "e"),
        lambda: node.wait("nowhere", "e"),
        lambda: node.free("nowhere"),
    ):
        code, message = refused(call)
        assert (code, message.partition(":")[0]) == (StatusCode.NOT_FOUND, "cell nowhere")
    code, message = refused(lambda: node.stop(None, "nobody"))
    assert (code, message.partition(":")[0]) == (
        StatusCode.NOT_FOUND,
        "executable nobody of the system",
    )
    request = cells_pb2.CellServiceAllocateRequest()
    assert refused(lambda: node.cells.Allocate(request))[1].startswith("cell: is missing")
    start = cells_pb2.CellServiceStartRequest()
    assert refused(lambda: node.cells.Start(start))[1].startswith("executable: is missing")


def test_a_missing_working_folder_is_told_before_anything_starts(node: Node) -> None:
    code, message = refused(lambda: node.start(None, "cwd", "true", working_directory="/no/such"))
    assert code is StatusCode.FAILED_PRECONDITION
    assert message.startswith("executable.working_directory: /no/such")
    assert not (node.cgroups / "_system" / "_cwd").exists()


def test_a_deadline_ends_a_wait_and_nothing_else(node: Node) -> None:
    node.start(None, "waited", "sleep 1000")
    request = cells_pb2.CellServiceWaitRequest(executable_name="waited")
    code, _ = refused(lambda: node.cells.Wait(request, timeout=0.1))
    assert code is StatusCode.DEADLINE_EXCEEDED
    assert executables(node, "_system")["waited"].state == RUNNING
    node.stop(None, "waited")


def test_a_free_whose_caller_leaves_keeps_the_cell(node: Node) -> None:
    node.allocate("kept")
    command = "trap '' TERM; echo ready > deaf; while :; do sleep 0.05; done"
    node.start("kept", "deaf", command, working_directory=str(node.folder))
    nodes.appears(node.folder / "deaf")
    request = cells_pb2.CellServiceFreeRequest(cell_name="kept", grace=Duration(seconds=600))
    freeing = node.cells.Free.future(request, timeout=3)
    note = node.folder / "cells/kept.freeing"
    nodes.appears(note)
    while executables(node, "kept")["deaf"].state != STOPPING:
        assert not freeing.done()
    assert freeing.code() is StatusCode.DEADLINE_EXCEEDED
    until(lambda: not note.exists(), "the cell is kept")
    assert executables(node, "kept")["deaf"].state == STOPPING
    node.allocate("kept/child")
    node.free("kept", grace=Duration(seconds=0))
    assert "kept" not in node.list()


def test_nothing_comes_into_a_cell_that_is_being_freed_and_a_second_free_may_be_faster(
    node: Node,
) -> None:
    node.allocate("going")
    command = "trap 'echo term > going' TERM; echo > trap; while :; do sleep 0.05; done"
    node.start("going", "deaf", command, working_directory=str(node.folder))
    nodes.appears(node.folder / "trap")
    slow = threading.Thread(target=lambda: node.free("going", grace=Duration(seconds=15)))
    slow.start()
    nodes.appears(node.folder / "going")
    for call in (lambda: node.allocate("going/x"), lambda: node.start("going", "x", "true")):
        code, message = refused(call)
        assert code is StatusCode.FAILED_PRECONDITION
        assert "is being freed" in message
    node.free("going", grace=Duration(seconds=0))
    slow.join(nodes.DEADLINE)
    assert not slow.is_alive()
    assert "going" not in node.list()


def test_two_hundred_cells_leave_nothing(node: Node) -> None:
    node.allocate("many")
    before = sorted(node.cgroups.rglob("*"))
    for number in range(200):
        node.allocate(f"many/c{number}")
    for number in range(200):
        node.free(f"many/c{number}")
    assert sorted(node.cgroups.rglob("*")) == before
    node.free("many")


def test_a_killed_api_finds_its_cells_and_executables_again(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("restart")
    with nodes.owner(folder):
        with nodes.api(folder) as process, nodes.client(folder) as before:
            before.allocate("web", cpu=cells_pb2.CpuController(weight=3))
            before.allocate("web/api")
            before.start("web/api", "long", "sleep 1000")
            before.start("web/api", "short", "exit 5")
            before.wait("web/api", "short")
            listed = before.list()
            process.kill()
            process.wait()
        (folder / "cells/gone.json").write_text('{"name": "gone"}')
        (folder / "cells/web.json.partial").write_text("{")
        with nodes.api(folder), nodes.client(folder) as after:
            assert after.list() == listed
            assert not (folder / "cells/web.json.partial").exists()
            after.free("web", grace=Duration(seconds=1))
            assert after.list() == {}


def test_a_start_whose_caller_leaves_is_undone(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("left")
    with nodes.owner(folder) as owner, nodes.api(folder), nodes.client(folder) as there:
        # A channel that is connected: the Start must reach the API before its caller leaves.
        there.list()
        owner.send_signal(signal.SIGSTOP)
        try:
            start = cells_pb2.CellServiceStartRequest(
                executable=cells_pb2.Executable(name="e", command="exec sleep 1000")
            )
            code, _ = refused(lambda: there.cells.Start(start, timeout=5))
        finally:
            owner.send_signal(signal.SIGCONT)
        assert code is StatusCode.DEADLINE_EXCEEDED
        # PID 1 answers in order: what asks after the start is answered after it.
        there.start(None, "after", "true")
        status = there.wait(None, "e")
        assert (status.state, status.signal) == (ENDED, signal.SIGKILL)
        assert "process _system:e: its caller left" in there.log


def test_without_pid_1_every_call_is_unavailable_at_once(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("alone")
    with ExitStack() as stack:
        with nodes.owner(folder):
            stack.enter_context(nodes.api(folder))
        alone = stack.enter_context(nodes.client(folder))
        for call in (alone.list, lambda: alone.start(None, "e", "true")):
            code, message = refused(call)
            assert code is StatusCode.UNAVAILABLE
            assert "try again" in message

"""Supervised executables as a client sees them, with real processes on plain folders."""

import json
import signal
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from aurae.cells.v0 import cells_pb2
from google.protobuf.duration_pb2 import Duration
from grpc import StatusCode

from runtime.server import boot
from tests.unit.runtime import node as nodes
from tests.unit.runtime.node import DEADLINE, Node

MS = 1_000_000
FAST = Duration(nanos=100 * MS)
LONG = Duration(seconds=3600)

RUNNING = cells_pb2.EXECUTABLE_STATE_RUNNING
ENDED = cells_pb2.EXECUTABLE_STATE_ENDED
WAITING = cells_pb2.EXECUTABLE_STATE_WAITING
STARTING = cells_pb2.EXECUTABLE_STATE_STARTING
BACKOFF = cells_pb2.EXECUTABLE_STATE_BACKOFF
FAILED = cells_pb2.EXECUTABLE_STATE_FAILED


def restart(mode: str, **options: Any) -> Any:
    number = cells_pb2.RestartMode.Value(f"RESTART_MODE_{mode}")
    return cells_pb2.RestartPolicy(mode=number, **{"backoff": FAST, **options})


def readiness(kind: str, **options: Any) -> Any:
    number = cells_pb2.ReadinessKind.Value(f"READINESS_KIND_{kind}")
    return cells_pb2.Readiness(kind=number, **options)


def refused(call: Callable[[], Any]) -> tuple[StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code(), caught.value.details() or ""


def files(node: Node) -> list[str]:
    folder = node.folder / "executables"
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.json"))


def reaches(node: Node, cell: str, name: str, state: int) -> cells_pb2.ExecutableStatus:
    """Its status once it stands so, by way of what its runs write: they end by themselves."""
    while (status := node.status(cell, name)).state != state:
        assert status.state != FAILED, status
    return status


# Ends with 1 in its first runs, then stays. Each run says its number.
def flaky(failures: int, then: str = "exec sleep 1000") -> str:
    return (
        'echo x >> "$0-runs"; n=$(wc -l < "$0-runs"); echo "run $n";'
        f" [ $n -le {failures} ] && exit 1; echo up > $0-up; {then}"
    )


def test_on_failure_it_is_started_again_until_it_does_well_and_its_log_goes_on(node: Node) -> None:
    node.allocate("again")
    folder = {"working_directory": str(node.folder)}
    node.start("again", "e1", flaky(2, "exit 0"), restart=restart("ON_FAILURE"), **folder)
    assert list(node.lines("again", "e1")) == ["run 1", "run 2", "run 3"]
    status = node.wait("again", "e1")
    assert (status.state, status.exit_code, status.restarts) == (ENDED, 0, 2)
    assert status.ready
    assert (status.last_exit.exit_code, status.reason) == (0, "")
    assert status.executable.restart == restart("ON_FAILURE")
    assert files(node) == ["again/_e1.json"]
    node.free("again")
    assert files(node) == []
    assert not (node.folder / "executables/again").exists()


def test_always_means_after_an_end_with_0_too_until_it_is_stopped(node: Node) -> None:
    node.allocate("always")
    node.start("always", "e", "echo run", restart=restart("ALWAYS", max_backoff=FAST))
    follower = node.lines("always", "e")
    assert [next(follower) for _ in range(4)] == ["run"] * 4
    node.stop("always", "e")
    assert set(follower) <= {"run"}
    status = node.wait("always", "e")
    assert (status.state, status.restarts >= 3) == (ENDED, True)
    assert not status.HasField("restart_at")
    node.free("always")


def test_a_last_line_without_a_newline_does_not_run_into_the_next_run(node: Node) -> None:
    node.start(None, "partial", "printf part; exit 1", restart=restart("ON_FAILURE", limit=2))
    assert list(node.lines(None, "partial")) == ["part"] * 3


def test_the_limit_lets_it_rest_as_failed_and_a_new_start_begins_anew(node: Node) -> None:
    node.start(None, "limit", "echo run; exit 3", restart=restart("ALWAYS", limit=2))
    status = node.wait(None, "limit")
    assert (status.state, status.exit_code, status.restarts) == (FAILED, 3, 2)
    assert status.reason == "restarted 2 times within 600 s; the last run ended with exit code 3"
    assert list(node.lines(None, "limit")) == ["run"] * 3
    node.stop(None, "limit")
    assert node.status("_system", "limit") == status
    node.start(None, "limit", "echo other", restart=restart("ON_FAILURE"))
    assert list(node.lines(None, "limit")) == ["other"]
    status = node.wait(None, "limit")
    assert (status.state, status.restarts) == (ENDED, 0)
    node.start(None, "limit", "echo plain")
    node.wait(None, "limit")
    assert "_system/_limit.json" not in files(node)


def test_one_in_backoff_is_shown_so_and_can_be_stopped(node: Node) -> None:
    node.allocate("backoff")
    node.start("backoff", "e", "exit 5", restart=restart("ON_FAILURE", backoff=LONG))
    status = reaches(node, "backoff", "e", BACKOFF)
    assert (status.exit_code, status.reason) == (5, "ended with exit code 5")
    waits = status.restart_at.ToNanoseconds() - status.ended_at.ToNanoseconds()
    assert 3600e9 <= waits < 3610e9
    code, message = refused(lambda: node.start("backoff", "e", "true"))
    assert code is StatusCode.ALREADY_EXISTS
    assert "(backoff)" in message
    node.stop("backoff", "e")
    status = node.wait("backoff", "e")
    assert (status.state, status.exit_code) == (ENDED, 5)
    assert list(node.lines("backoff", "e")) == []
    node.start("backoff", "e", "exit 6", restart=restart("ON_FAILURE", backoff=LONG))
    reaches(node, "backoff", "e", BACKOFF)
    node.free("backoff")
    assert "backoff" not in node.list()


def test_each_run_has_its_own_readiness_and_the_last_exit_is_kept(node: Node) -> None:
    folder = {"working_directory": str(node.folder)}
    node.start(None, "kept", flaky(1), restart=restart("ON_FAILURE"), **folder)
    nodes.appears(node.folder / "kept-up")
    status = reaches(node, "_system", "kept", RUNNING)
    assert (status.last_exit.exit_code, status.restarts) == (1, 1)
    assert not status.HasField("exit_code")
    node.stop(None, "kept")
    assert node.status("_system", "kept").last_exit.signal == signal.SIGTERM


def test_it_comes_after_what_ends_well_and_in_any_order_of_starts(node: Node) -> None:
    node.allocate("order")
    note = "echo $0 >> order"
    folder = {"working_directory": str(node.folder)}
    assert node.start("order", "last", note, after=["middle"], **folder) == 0
    exit_first = readiness("EXIT")
    middle = {**folder, "after": ["first", "deep/one"], "readiness": exit_first}
    assert node.start("order", "middle", note, **middle) == 0
    status = node.status("order", "middle")
    assert (status.state, status.pid) == (WAITING, 0)
    assert status.waiting_for == ["first", "deep/one"]
    assert not status.HasField("started_at")
    node.allocate("order/deep")
    node.start("order/deep", "one", note, readiness=exit_first, **folder)
    node.wait("order/deep", "one")
    assert node.status("order", "middle").waiting_for == ["first"]
    node.start("order", "first", f"{note}; exit 4", readiness=exit_first, **folder)
    assert node.wait("order", "first").exit_code == 4
    assert node.status("order", "middle").state == WAITING
    node.start("order", "first", note, readiness=exit_first, **folder)
    assert node.wait("order", "last").exit_code == 0
    names = (node.folder / "order").read_text().split()
    assert names == ["one", "first", "first", "middle", "last"]
    node.free("order")
    assert [name for name in files(node) if name.startswith("order")] == []


def test_one_that_waits_can_be_stopped_and_is_forgotten(node: Node) -> None:
    node.start(None, "waits", "true", after=["nobody"])
    assert node.status("_system", "waits").state == WAITING
    assert refused(lambda: node.start(None, "waits", "true"))[0] is StatusCode.ALREADY_EXISTS
    node.stop(None, "waits")
    assert "_system/_waits.json" not in files(node)
    assert refused(lambda: node.wait(None, "waits"))[0] is StatusCode.NOT_FOUND
    node.allocate("waits")
    node.start("waits", "e", "true", after=["nobody"])
    node.free("waits")
    assert "waits" not in node.list()


def test_circles_are_refused_and_named(node: Node) -> None:
    node.allocate("circle")
    node.start("circle", "a", "true", after=["b"])
    node.start("circle", "b", "true", after=["c"])
    code, message = refused(lambda: node.start("circle", "c", "true", after=["x", "a"]))
    assert code is StatusCode.INVALID_ARGUMENT
    assert message.startswith("executable.after: c after a after b after c is a circle")
    assert [status.executable.name for status in node.list()["circle"].executables] == ["a", "b"]
    code, _ = refused(lambda: node.start("circle", "a", "true", after=["a"]))
    assert code is StatusCode.INVALID_ARGUMENT
    node.free("circle")


def test_one_that_listens_is_ready_when_it_does(node: Node) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    listen = (
        f"import socket, time; s = socket.socket(); s.bind(('127.0.0.1', {port})); "
        "open('bound', 'w').close()\n"
        "while not __import__('os').path.exists('listen'): time.sleep(0.02)\n"
        "s.listen(); time.sleep(1000)"
    )
    folder = {"working_directory": str(node.folder)}
    options = {"environment": {"CODE": listen}, "readiness": readiness("LISTEN", listen=str(port))}
    node.start(None, "listens", 'exec python3 -c "$CODE"', **options, **folder)
    nodes.appears(node.folder / "bound")
    status = node.status("_system", "listens")
    assert (status.state, status.ready) == (STARTING, False)
    (node.folder / "listen").touch()
    status = node.wait(None, "listens", ready=True)
    assert (status.state, status.ready) == (RUNNING, True)
    node.stop(None, "listens")
    assert not node.status("_system", "listens").ready


def test_one_that_is_not_ready_in_time_is_ended_and_fails(node: Node) -> None:
    options = {"readiness": readiness("LISTEN", listen="1", timeout=FAST)}
    node.start(None, "late", "exec sleep 1000", **options)
    status = node.wait(None, "late")
    assert (status.state, status.signal) == (FAILED, signal.SIGTERM)
    assert status.reason == "was not ready in 0.1 s"
    code, message = refused(lambda: node.wait(None, "late", ready=True))
    assert code is StatusCode.FAILED_PRECONDITION
    assert "was not ready in 0.1 s" in message
    again = restart("ON_FAILURE", limit=1)
    node.start(None, "late", "exec sleep 1000", restart=again, **options)
    assert node.wait(None, "late").restarts == 1


def test_a_run_that_cannot_be_started_counts_as_one_that_failed(node: Node) -> None:
    folder = node.folder / "going"
    folder.mkdir()
    command = 'rmdir "$PWD"; exit 1'
    options = {"working_directory": str(folder), "restart": restart("ON_FAILURE", limit=2)}
    node.start(None, "folderless", command, **options)
    status = node.wait(None, "folderless")
    assert (status.state, status.restarts) == (FAILED, 2)
    assert f"could not be started: executable.working_directory: {folder}" in status.reason


def test_a_refused_start_leaves_nothing(node: Node) -> None:
    before = files(node)
    for options in (
        {"restart": restart("ALWAYS", backoff=Duration(seconds=-1))},
        {"restart": restart("NEVER")},
        {"restart": cells_pb2.RestartPolicy(mode=9)},  # type: ignore[arg-type]
        {"readiness": readiness("LISTEN", listen="nowhere")},
        {"readiness": cells_pb2.Readiness(kind=9)},  # type: ignore[arg-type]
        {"after": ["a//b"]},
    ):
        code, message = refused(partial(node.start, None, "bad", "true", **options))
        assert code is StatusCode.INVALID_ARGUMENT
        assert message.startswith("executable."), message
    code, _ = refused(
        lambda: node.start(
            None, "bad", "true", working_directory="/no/such", restart=restart("ALWAYS")
        )
    )
    assert code is StatusCode.FAILED_PRECONDITION
    assert files(node) == before
    assert refused(lambda: node.wait(None, "bad"))[0] is StatusCode.NOT_FOUND


def test_a_killed_api_goes_on_with_what_is_wanted(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("wanted")
    here = {"working_directory": str(folder)}
    with nodes.owner(folder):
        with nodes.api(folder) as process, nodes.client(folder) as before:
            before.allocate("kept")
            long = restart("ON_FAILURE", backoff=LONG)
            before.start("kept", "backoff", "echo one; exit 1", restart=long)
            reaches(before, "kept", "backoff", BACKOFF)
            before.start("kept", "soon", flaky(1), restart=restart("ALWAYS"), **here)
            nodes.appears(folder / "soon-up")
            before.start("kept", "failed", "exit 2", restart=restart("ALWAYS", limit=1))
            before.wait("kept", "failed")
            before.start("kept", "waits", "echo waited", after=["gate"])
            meanwhile = "while [ ! -e killed ]; do sleep 0.02; done; echo one; exit 1"
            # Ends while nobody is there to see it, and again after it was started again.
            before.start(
                "kept", "meanwhile", meanwhile, restart=restart("ON_FAILURE", limit=2), **here
            )
            listed = before.list()["kept"]
            process.kill()
            process.wait()
        (folder / "killed").touch()
        (folder / "executables/gone").mkdir()
        stale = (folder / "executables/kept/_waits.json").read_text()
        (folder / "executables/gone/_waits.json").write_text(stale.replace('"kept"', '"gone"'))
        with nodes.api(folder), nodes.client(folder) as after:
            names = ("backoff", "soon", "failed", "waits")
            then = {s.executable.name: s for s in after.list()["kept"].executables}
            was = {s.executable.name: s for s in listed.executables}
            assert {n: then[n] for n in names} == {n: was[n] for n in names}
            assert list(after.lines("kept", "meanwhile")) == ["one"] * 3
            assert after.wait("kept", "meanwhile").state == FAILED
            after.start("kept", "gate", "true")
            assert after.wait("kept", "waits").state == ENDED
            assert list(after.lines("kept", "waits")) == ["waited"]
            assert not (folder / "executables/gone/_waits.json").exists()
            after.free("kept", grace=Duration(seconds=1))
            assert [path for path in (folder / "executables").rglob("*") if path.is_file()] == []


def test_a_start_whose_caller_leaves_is_not_started_again(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("left")
    with nodes.owner(folder) as owner, nodes.api(folder), nodes.client(folder) as there:
        # A channel that is connected: the Start must reach the API before its caller leaves.
        there.list()
        owner.send_signal(signal.SIGSTOP)
        try:
            executable = cells_pb2.Executable(
                name="e", command="exec sleep 1000", restart=restart("ALWAYS")
            )
            start = cells_pb2.CellServiceStartRequest(executable=executable)
            code, _ = refused(lambda: there.cells.Start(start, timeout=5))
        finally:
            owner.send_signal(signal.SIGCONT)
        assert code is StatusCode.DEADLINE_EXCEEDED
        there.start(None, "after", "true")
        status = there.wait(None, "e")
        assert (status.state, status.signal) == (ENDED, signal.SIGKILL)


def test_a_stop_that_the_api_did_not_live_to_send_is_made_good(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("stop")
    with nodes.owner(folder):
        with nodes.api(folder) as process, nodes.client(folder) as before:
            before.start(None, "e", "exec sleep 1000", restart=restart("ALWAYS"))
            process.kill()
            process.wait()
        note = Path(folder / "executables/_system/_e.json")
        note.write_text(note.read_text().replace('"stopped": false', '"stopped": true'))
        with nodes.api(folder), nodes.client(folder) as after:
            status = after.wait(None, "e")
            assert (status.state, status.signal) == (ENDED, signal.SIGTERM)


def test_a_wait_for_readiness_ends_with_its_deadline(node: Node) -> None:
    node.start(None, "never", "exec sleep 1000", readiness=readiness("EXIT"))
    request = cells_pb2.CellServiceWaitRequest(executable_name="never", ready=True)
    code, _ = refused(lambda: node.cells.Wait(request, timeout=0.2))
    assert code is StatusCode.DEADLINE_EXCEEDED
    node.stop(None, "never")
    node.start(None, "plain", "exec sleep 1000")
    assert node.wait(None, "plain", ready=True).state == RUNNING
    node.stop(None, "plain")


def test_one_that_notifies_is_ready_when_it_says_so(node: Node) -> None:
    code = (
        "import os, socket, time; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); "
        "s.connect(os.environ['NOTIFY_SOCKET']); s.send(b'STATUS=warming up'); "
        "print('begun', flush=True)\n"
        "while not os.path.exists('tell-now'): time.sleep(0.02)\n"
        "s.send(b'READY=1\\nSTATUS=serving'); time.sleep(1000)"
    )
    options = {"environment": {"CODE": code}, "working_directory": str(node.folder)}
    node.start(None, "tells", 'exec python3 -c "$CODE"', readiness=readiness("NOTIFY"), **options)
    node.start(None, "told", "exit 8", after=["tells"])
    assert next(node.lines(None, "tells")) == "begun"
    assert node.status("_system", "tells").state == STARTING
    assert node.status("_system", "told").waiting_for == ["tells"]
    (node.folder / "tell-now").touch()
    status = node.wait(None, "tells", ready=True)
    assert (status.state, status.status_text) == (RUNNING, "serving")
    assert node.wait(None, "told").exit_code == 8
    node.stop(None, "tells")


def test_watchers_see_all_there_is_and_then_every_change_in_order(node: Node) -> None:
    node.allocate("seen")
    node.start("seen", "before", "exit 2")
    node.wait("seen", "before")
    watch = node.cells.Watch(cells_pb2.CellServiceWatchRequest(), timeout=DEADLINE)
    other = node.cells.Watch(cells_pb2.CellServiceWatchRequest(), timeout=DEADLINE)
    snapshot = next(watch).snapshot
    next(other)
    assert node.list()["seen"] in snapshot.cells
    node.allocate("seen/inner")
    node.start("seen/inner", "waits", "true", after=["nobody"])
    node.stop("seen/inner", "waits")
    node.start("seen", "e", "exit 1", restart=restart("ON_FAILURE", limit=1))
    node.wait("seen", "e")
    node.start("seen", "plain", "exec sleep 1000")
    node.stop("seen", "plain", grace=Duration(seconds=5))
    node.free("seen")
    mine = []
    for seen in watch:
        mine.append(seen)
        if seen.freed == "seen":
            break
    times = [seen.at.ToNanoseconds() for seen in mine]
    assert times == sorted(times)
    assert [described(seen) for seen in mine] == [
        "allocated seen/inner",
        "seen/inner waits WAITING 0",
        "forgotten waits",
        "seen e RUNNING 0",
        "seen e BACKOFF 0",
        "seen e WAITING 1",
        "seen e RUNNING 1",
        "seen e FAILED 1",
        "seen plain RUNNING 0",
        "seen plain STOPPING 0",
        "seen plain ENDED 0",
        "freed seen/inner",
        "freed seen",
    ]
    assert [next(other) for _ in mine] == mine
    watch.cancel()
    other.cancel()


def described(seen: cells_pb2.CellServiceWatchResponse) -> str:
    kind = seen.WhichOneof("change")
    if kind == "executable":
        status = seen.executable.status
        state = cells_pb2.ExecutableState.Name(status.state).removeprefix("EXECUTABLE_STATE_")
        name = status.executable.name
        return f"{seen.executable.cell_name} {name} {state} {status.restarts}"
    if kind == "forgotten":
        return f"forgotten {seen.forgotten.status.executable.name}"
    return f"{kind} {seen.allocated.name or seen.freed}"


def applied(node: Node, *cells: str, **executables: cells_pb2.Executable) -> list[tuple[Any, ...]]:
    """What becomes of a set of cells and of executables in the first of them."""
    request = cells_pb2.CellServiceApplyRequest(
        cells=[cells_pb2.Cell(name=cell) for cell in cells],
        executables=[
            cells_pb2.CellServiceStartRequest(cell_name=cells[0], executable=executable)
            for executable in executables.values()
        ],
    )
    results = node.cells.Apply(request, timeout=DEADLINE).results
    return [(result.name, result.outcome, result.code) for result in results]


def test_a_set_is_made_once_and_what_is_wrong_does_not_keep_the_rest_back(node: Node) -> None:
    made, same, wrong = (
        cells_pb2.APPLY_OUTCOME_MADE,
        cells_pb2.APPLY_OUTCOME_UNCHANGED,
        cells_pb2.APPLY_OUTCOME_REFUSED,
    )
    invalid, there, missing = (
        StatusCode.INVALID_ARGUMENT.value[0],
        StatusCode.ALREADY_EXISTS.value[0],
        StatusCode.NOT_FOUND.value[0],
    )
    after = cells_pb2.Executable(name="after", command="true", after=["work"])
    work = cells_pb2.Executable(name="work", command="true", readiness=readiness("EXIT"))
    bad = cells_pb2.Executable(name="bad", command="")
    on = cells_pb2.Executable(name="on", command="exec sleep 1000", restart=restart("ALWAYS"))
    wanted = {"a": after, "b": bad, "w": work, "o": on}
    assert applied(node, "set", "set/x", "none/x", "s_t", **wanted) == [
        ("set/", made, 0),
        ("set/x/", made, 0),
        ("none/x/", wrong, missing),
        ("s_t/", wrong, invalid),
        ("set/after", made, 0),
        ("set/bad", wrong, invalid),
        ("set/work", made, 0),
        ("set/on", made, 0),
    ]
    assert node.wait("set", "after").exit_code == 0
    pids = {s.executable.name: s.pid for s in node.list()["set"].executables}
    del wanted["b"]
    assert {outcome for _, outcome, _ in applied(node, "set", "set/x", **wanted)} == {same}
    assert {s.executable.name: s.pid for s in node.list()["set"].executables} == pids
    work.command = "exit 0"
    on.command = "exec sleep 1001"
    assert applied(node, "set", **wanted) == [
        ("set/", same, 0),
        ("set/after", same, 0),
        # It rests, so another may take its name; this one runs.
        ("set/work", made, 0),
        ("set/on", wrong, there),
    ]
    request = cells_pb2.CellServiceApplyRequest(
        cells=[cells_pb2.Cell(name="set", memory=cells_pb2.MemoryController(max=1))]
    )
    (result,) = node.cells.Apply(request).results
    assert (result.code, result.error) == (
        there,
        "cell set: is allocated otherwise; free it first",
    )
    node.free("set")


def test_the_set_of_the_node_is_applied_once_after_boot_and_names_what_is_wrong(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("boot")
    (folder / "cells.json").write_text(
        """{
            "cells": [{"name": "web", "cpu": {"weight": "7"}}, {"name": "b_d"}, 5],
            "executables": [
                {"cellName": "web", "executable": {"name": "b", "command": "true", "after": ["a"]}},
                {"cell_name": "web", "executable": {"name": "a", "command": "true",
                    "readiness": {"kind": "READINESS_KIND_EXIT", "timeout": "20s"}}},
                {"cell_name": "web", "executable": {"name": "c", "comand": "true"}}
            ]
        }"""
    )
    with nodes.owner(folder):
        with nodes.api(folder) as process, nodes.client(folder) as there:
            nodes.appears(folder / "cells.applied")
            assert there.list()["web"].cell.cpu.weight == 7
            assert there.wait("web", "b").exit_code == 0
            for said in (
                "cells.json: cells[1]: cell.name: 'b_d'",
                "cells.json: cells[2]: is not an object",
                "cells.json: executables[2]: ",
                'no field named "comand"',
                "cells.json: 3 of 6 entries made",
            ):
                assert said in there.log
            there.free("web")
            process.kill()
            process.wait()
        with nodes.api(folder), nodes.client(folder) as there:
            assert there.list() == {}


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("{", "cannot be applied: Expecting property name"),
        ("[]", "cannot be applied: is not a JSON object"),
        ('{"cell": []}', "cannot be applied: has 'cell'"),
        ('{"cells": {}}', "cannot be applied: cells: is not a list"),
    ],
)
def test_a_set_that_is_none_is_told_and_the_api_serves(
    tmp_path_factory: pytest.TempPathFactory, text: str, fact: str
) -> None:
    folder = tmp_path_factory.mktemp("none")
    (folder / "cells.json").write_text(text)
    with nodes.owner(folder), nodes.api(folder), nodes.client(folder) as there:
        nodes.appears(folder / "cells.applied")
        assert fact in there.log
        assert there.list() == {}


def test_the_example_in_the_documentation_is_a_set() -> None:
    page = (Path(__file__).parents[3] / "docs/supervision.md").read_text()
    example = page.partition("```json\n")[2].partition("```")[0]
    values = [entry.value() for entry in boot.read(example)]
    assert [value.name for value in values] == ["app", "app/db", "app/server"]


def test_nothing_is_started_again_in_a_cell_whose_free_the_api_did_not_live_to_finish(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("free")
    here = {"working_directory": str(folder)}
    with nodes.owner(folder):
        with nodes.api(folder) as process, nodes.client(folder) as before:
            before.allocate("web")
            deaf = "trap '' TERM; echo > deaf; while :; do sleep 0.05; done"
            before.start("web", "deaf", deaf, restart=restart("ALWAYS"), **here)
            nodes.appears(folder / "deaf")
            once = "[ -e again ] && touch twice; touch again; exit 1"
            long = restart("ON_FAILURE", backoff=LONG)
            before.start("web", "due", once, restart=long, **here)
            reaches(before, "web", "due", BACKOFF)
            process.kill()
            process.wait()
        # As if it had been killed right after it noted the Free, and the backoff were over.
        (folder / "cells/web.freeing").write_text("2.0")
        note = folder / "executables/web/_due.json"
        wanted = json.loads(note.read_text())
        note.write_text(json.dumps({**wanted, "due": 0.0}))
        with nodes.api(folder), nodes.client(folder) as after:
            # It is gone within its own grace, and what it held with it.
            while "web" in after.list():
                pass
            assert not (folder / "twice").exists()
            assert list((folder / "executables").rglob("*.json")) == []

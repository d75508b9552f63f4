"""ObserveService as a client sees it."""

from collections.abc import Iterable
from typing import Any

import grpc
import pytest
from aurae.observe.v0 import observe_pb2
from grpc import StatusCode

from initd.logs.stream import Stream
from tests.unit.runtime.node import DEADLINE, Node


def stream(node: Node, **request: Any) -> Iterable[observe_pb2.GetSubProcessStreamResponse]:
    return node.observe.GetSubProcessStream(
        observe_pb2.GetSubProcessStreamRequest(**request), timeout=DEADLINE
    )


def lines(
    responses: Iterable[observe_pb2.GetSubProcessStreamResponse],
) -> list[tuple[str, str]]:
    return [
        (item.channel, item.line)
        for response in responses
        for item in (response.item, *response.more)
    ]


def refused(node: Node, **request: Any) -> tuple[StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        list(stream(node, **request))
    return caught.value.code(), caught.value.details() or ""


def test_both_outputs_come_in_the_order_they_were_written(node: Node) -> None:
    pid = node.start(
        None, "both", "for i in 1 2 3; do echo o$i; sleep 0.1; echo e$i >&2; sleep 0.1; done"
    )
    expected = [(c, t + n) for n in "123" for c, t in (("stdout", "o"), ("stderr", "e"))]
    assert lines(stream(node, process_id=pid)) == expected
    assert lines(stream(node, executable_name="both", batch=True)) == expected
    out = lines(stream(node, executable_name="both", channel_type="LOG_CHANNEL_TYPE_STDOUT"))
    assert out == [("stdout", "o1"), ("stdout", "o2"), ("stdout", "o3")]
    err = lines(stream(node, executable_name="both", channel_type="LOG_CHANNEL_TYPE_STDERR"))
    assert err == [("stderr", "e1"), ("stderr", "e2"), ("stderr", "e3")]


def test_a_follower_sees_history_then_what_comes_then_the_end(node: Node) -> None:
    command = "echo one; while [ ! -e go ]; do sleep 0.02; done; echo two; printf last"
    node.start(None, "live", command, working_directory=str(node.folder))
    responses = iter(stream(node, executable_name="live"))
    assert next(responses).item.line == "one"
    kept = lines(stream(node, executable_name="live", no_follow=True))
    assert kept == [("stdout", "one")]
    (node.folder / "go").touch()
    assert [response.item.line for response in responses] == ["two", "last"]


@pytest.mark.parametrize("command", ["printf only", "head -c 200000 /dev/zero", "true"])
def test_a_stream_of_no_newline_at_all_ends_too(node: Node, command: str) -> None:
    node.start(None, "mute", command)
    node.wait(None, "mute")
    expected = {"printf only": "only", "true": ""}.get(command, "\0" * 200_000)
    assert "".join(line for _, line in lines(stream(node, executable_name="mute"))) == expected


def test_a_hundred_thousand_lines_are_complete(node: Node) -> None:
    node.start(None, "many", "seq 1 100000")
    got = lines(stream(node, executable_name="many", batch=True))
    assert got == [("stdout", str(number)) for number in range(1, 100_001)]


def test_an_executable_of_a_cell_is_found_by_both_names(node: Node) -> None:
    node.allocate("logs")
    node.start("logs", "e", "echo in")
    node.start(None, "e", "echo out")
    assert lines(stream(node, cell_name="logs", executable_name="e")) == [("stdout", "in")]
    assert lines(stream(node, executable_name="e")) == [("stdout", "out")]
    node.free("logs")
    assert refused(node, cell_name="logs", executable_name="e")[0] is StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("request_", "code", "field"),
    [
        ({}, StatusCode.INVALID_ARGUMENT, "process_id, executable_name"),
        ({"process_id": 1, "executable_name": "e"}, StatusCode.INVALID_ARGUMENT, "process_id, ex"),
        ({"process_id": 1, "cell_name": "c"}, StatusCode.INVALID_ARGUMENT, "cell_name"),
        ({"process_id": -1}, StatusCode.INVALID_ARGUMENT, "process_id"),
        ({"executable_name": "a b"}, StatusCode.INVALID_ARGUMENT, "executable_name"),
        (
            {"executable_name": "e", "cell_name": "_"},
            StatusCode.INVALID_ARGUMENT,
            "cell_name",
        ),
        ({"process_id": 1, "channel_type": 9}, StatusCode.INVALID_ARGUMENT, "channel_type"),
        ({"process_id": 2**31 - 1}, StatusCode.NOT_FOUND, "process 2147483647"),
        ({"executable_name": "nobody"}, StatusCode.NOT_FOUND, "executable nobody"),
    ],
)
def test_a_bad_request_is_refused_by_its_field(
    node: Node, request_: dict[str, Any], code: StatusCode, field: str
) -> None:
    found, message = refused(node, **request_)
    assert found is code
    assert message.startswith(field)


def test_a_slow_reader_is_told_what_it_lost(node: Node) -> None:
    # 24 MB: half as much again as a stream keeps.
    line = "x" * 999
    command = f"i=0; while [ $i -lt 24 ]; do yes {line} | head -1000; i=$((i+1)); done"
    node.start(None, "flood", command)
    responses = iter(stream(node, executable_name="flood", batch=True))
    first = next(responses)
    assert node.wait(None, "flood").exit_code == 0
    got = [first, *responses]
    kept = sum(1 + len(response.more) for response in got)
    lost = sum(response.lost_lines for response in got)
    assert lost > 0
    assert kept + lost == 24_000
    assert {text for _, text in lines(got)} == {line}


def test_the_daemons_own_streams_are_merged_by_time(node: Node) -> None:
    folder = node.folder / "logs" / "auraed"
    folder.mkdir()
    initd, runtime = Stream(folder / "initd"), Stream(folder / "runtime")
    for number in range(3):
        initd.write(b"i%d\n" % number)
        runtime.write(b"r%d\n" % number)
    request = observe_pb2.GetAuraeDaemonLogStreamRequest(no_follow=True)
    got = list(node.observe.GetAuraeDaemonLogStream(request, timeout=DEADLINE))
    assert [response.item.line for response in got] == ["i0", "r0", "i1", "r1", "i2", "r2"]
    assert {response.item.channel for response in got} == {"initd", "runtime"}
    call = node.observe.GetAuraeDaemonLogStream(
        observe_pb2.GetAuraeDaemonLogStreamRequest(), timeout=DEADLINE
    )
    followed = [next(call).item.line for _ in range(6)]
    initd.write(b"live\n")
    followed.append(next(call).item.line)
    network = Stream(folder / "network")
    network.write(b"late\n")
    followed.append(next(call).item.line)
    assert followed == ["i0", "r0", "i1", "r1", "i2", "r2", "live", "late"]
    call.cancel()
    for writer in (initd, runtime, network):
        writer.release()


def test_signals_are_not_built(node: Node) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        list(node.observe.GetPosixSignalsStream(observe_pb2.GetPosixSignalsStreamRequest()))
    assert caught.value.code() is StatusCode.UNIMPLEMENTED


def test_a_reader_that_leaves_leaves_nothing_behind(node: Node) -> None:
    node.start(None, "left", "echo one; exec sleep 1000")
    for _ in range(20):
        responses = node.observe.GetSubProcessStream(
            observe_pb2.GetSubProcessStreamRequest(executable_name="left"), timeout=DEADLINE
        )
        assert next(responses).item.line == "one"
        responses.cancel()
    node.stop(None, "left")
    assert "error" not in node.log.replace("error: credential", "")

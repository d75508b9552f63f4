"""Streams: output of executables, the node's log, signals; where each line goes."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
from aurae.cells.v0 import cells_pb2
from aurae.observe.v0 import observe_pb2

from .conftest import Node, Result

Aer = Callable[..., Result]

# A message takes a dict where its type declares a message only.
cells: Any = cells_pb2
observe: Any = observe_pb2


def lines(*texts: str, channel: str = "stdout") -> Iterator[observe_pb2.LogItem]:
    for text in texts:
        yield observe.LogItem(channel=channel, line=text, timestamp=1_700_000_000_123_456_789)


def test_output_goes_where_the_executable_sent_it(aer: Aer, node: Node) -> None:
    first, *more = lines("one", "two", "three")
    node.answers["GetSubProcessStream"] = lambda *_: iter(
        [
            observe.GetSubProcessStreamResponse(item=first, more=more),
            observe.GetSubProcessStreamResponse(item=next(lines("oh", channel="stderr"))),
        ]
    )
    done = aer("logs", "web/x")
    assert done.status == 0
    assert done.out == "one\ntwo\nthree\n"
    assert done.err == "oh\n"


def test_lost_lines_are_counted_where_they_are_missing(aer: Aer, node: Node) -> None:
    node.answers["GetSubProcessStream"] = lambda *_: iter(
        [
            observe.GetSubProcessStreamResponse(item=next(lines("one"))),
            observe.GetSubProcessStreamResponse(lost_lines=5),
        ]
    )
    done = aer("logs", "web/x")
    assert done.out == "one\n"
    assert done.err.startswith("aer: warning: 5 lines are missing here")


def test_lines_have_times_if_asked(aer: Aer, node: Node) -> None:
    node.answers["GetSubProcessStream"] = lambda *_: iter(
        [observe.GetSubProcessStreamResponse(item=next(lines("one")))]
    )
    assert aer("logs", "web/x", "-t").out == "2023-11-14T22:13:20.123Z one\n"


def test_a_program_reads_a_line_of_json_for_each_line_of_output(aer: Aer, node: Node) -> None:
    first, *more = lines("one", "two")
    node.answers["GetSubProcessStream"] = lambda *_: iter(
        [observe.GetSubProcessStreamResponse(item=first, more=more, lost_lines=7)]
    )
    one, two = map(json.loads, aer("logs", "web/x", "-o", "json").out.splitlines())
    assert (one["item"]["line"], one["lost_lines"]) == ("one", "7")
    assert (two["item"]["line"], two["lost_lines"]) == ("two", "0")
    documents = list(yaml.safe_load_all(aer("logs", "web/x", "-o", "yaml").out))
    assert [document["item"]["line"] for document in documents] == ["one", "two"]


def test_the_daemons_log_has_time_and_part(aer: Aer, node: Node) -> None:
    item = next(lines("cell web: allocated", channel="runtime"))
    node.answers["GetAuraeDaemonLogStream"] = lambda *_: iter(
        [observe.GetAuraeDaemonLogStreamResponse(item=item)]
    )
    done = aer("observe", "daemon-log")
    assert done.out == "2023-11-14T22:13:20.123Z runtime cell web: allocated\n"


def test_signals_have_names(aer: Aer, node: Node) -> None:
    node.answers["GetPosixSignalsStream"] = lambda *_: iter(
        [observe.GetPosixSignalsStreamResponse(signal={"signal": 15, "process_id": 812})]
    )
    assert aer("observe", "signals", "web").out == "SIGTERM to pid 812\n"


def test_an_interrupt_is_quiet_and_130(
    aer: Aer, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("aer.observe._print", interrupted)
    node.answers["GetSubProcessStream"] = lambda *_: iter(
        [observe.GetSubProcessStreamResponse(item=next(lines("one")))]
    )
    done = aer("logs", "web/x", "-f")
    assert (done.status, done.out, done.err) == (130, "", "")


def test_events_are_a_line_for_each_change(aer: Aer, node: Node) -> None:
    def status(name: str, state: str, **fields: Any) -> Any:
        number = cells.ExecutableState.Value(f"EXECUTABLE_STATE_{state}")
        return cells.ExecutableStatus(executable={"name": name}, state=number, **fields)

    at = {"seconds": 1_700_000_000, "nanos": 123_456_789}
    here = {"name": "web", "cpu": {"weight": 7}}
    graph = {"cell": here, "executables": [status("db", "RUNNING", pid=5)]}
    failed = status(
        "db", "FAILED", pid=6, restarts=2, exit_code=3, ended_at=at, reason="restarted 2 times"
    )
    waits = status("api", "WAITING", waiting_for=["db"], status_text="a\x1bb")
    seen: list[Any] = [
        {"snapshot": {"cells": [graph]}},
        {"allocated": {"name": "web/api"}},
        {"executable": {"cell_name": "web/api", "status": waits}},
        {"executable": {"cell_name": "web", "status": failed}},
        {"forgotten": {"cell_name": "web/api", "status": {"executable": {"name": "api"}}}},
        {"freed": "web/api"},
    ]
    answers = [cells.CellServiceWatchResponse(at=at, **one) for one in seen]
    node.answers["Watch"] = lambda *_: iter(answers)
    assert [line.partition(" ")[::2] for line in aer("cell", "events").out.splitlines()] == [
        ("2023-11-14T22:13:20.123Z", text)
        for text in (
            "web/ cpu.weight=7",
            "web/db running pid 5",
            "web/api/ allocated",
            "web/api/api waiting for db (a\\x1bb)",
            "web/db failed, 2 restarts exit 3 (restarted 2 times)",
            "web/api/api forgotten",
            "web/api/ freed",
        )
    ]
    said = aer("cell", "events", "--output", "json").out.splitlines()
    assert [sorted(json.loads(line)) for line in said][1] == ["allocated", "at"]

"""Output of executables: complete, in order, live, bounded, and never in a workload's way."""

import itertools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import grpc
from aurae.cells.v0 import cells_pb2 as pb
from aurae.observe.v0 import observe_pb2 as observe

from testkit.cells import Cell
from testkit.machines import Machine
from testkit.refusals import refused

SOAK: Final = bool(os.environ.get("AURAE_SOAK"))
LINES: Final = 1_000_000 if SOAK else 100_000
# More than a stream keeps (16 MiB), in lines of 100 bytes.
FLOOD: Final = 220_000


# Lines of 100 bytes, each with its number. busybox's seq has no format.
PADDING: Final = "x" * 90
PRINT: Final = f'printf "%08d-{PADDING}\\n", n'
FLOODING: Final = f"awk 'BEGIN {{ for (n = 1; n <= {FLOOD}; n++) {PRINT} }}'"

GATE: Final = "/run/gate"


@contextmanager
def gate(machine: Machine) -> Iterator[Callable[[], object]]:
    """A gate at which executables wait (`read -r go < GATE`), and what opens it for one of them."""
    machine.system.read(f"mkfifo {GATE}")
    try:
        yield lambda: machine.system.read(f"echo go > {GATE}")
    finally:
        machine.system.read(f"rm {GATE}")


def request(cell: Cell, executable: str, **fields: object) -> observe.GetSubProcessStreamRequest:
    asked = {"executable_name": executable, "cell_name": cell.name, **fields}
    return observe.GetSubProcessStreamRequest(**asked)  # type: ignore[arg-type]


def test_history_has_every_line_in_order(machine: Machine) -> None:
    with machine.cell("c") as cell:
        cell.start("count", f"seq {LINES}")
        cell.wait("count", timeout=300)
        expected = map(str, range(1, LINES + 1))
        seen = (item.line for item in cell.follow("count"))
        assert all(a == b for a, b in itertools.zip_longest(seen, expected))


def test_a_live_reader_gets_every_line_in_order(machine: Machine) -> None:
    with gate(machine) as open_gate, machine.cell("c") as cell:
        cell.start("count", f"read -r go < {GATE}; seq {LINES}; echo end >&2")
        stream = machine.api.observe.GetSubProcessStream(request(cell, "count", batch=True))
        open_gate()
        seen = 0
        for message in stream:
            assert message.lost_lines == 0
            for item in (message.item, *message.more):
                if item.channel == "stdout":
                    seen += 1
                    assert item.line == str(seen)
        assert seen == LINES
        assert cell.wait("count").state == pb.EXECUTABLE_STATE_ENDED


def test_history_and_live_lines_join_without_a_gap(machine: Machine) -> None:
    script = f"seq 5000; read -r go < {GATE}; seq 5001 10000"
    with gate(machine) as open_gate, machine.cell("c") as cell:
        cell.start("count", script)
        numbers = (int(item.line) for item in cell.follow("count"))
        assert list(itertools.islice(numbers, 5000)) == list(range(1, 5001))
        open_gate()
        assert list(numbers) == list(range(5001, 10_001))


def test_without_batch_a_message_has_one_line(machine: Machine) -> None:
    with machine.cell("c") as cell:
        cell.start("count", "seq 500")
        cell.wait("count")
        messages = list(machine.api.observe.GetSubProcessStream(request(cell, "count")))
        assert [message.item.line for message in messages] == list(map(str, range(1, 501)))
        assert not any(message.more for message in messages)


def test_each_channel_can_be_read_alone_and_both_come_with_their_names(machine: Machine) -> None:
    with machine.cell("c") as cell:
        answer = cell.start("both", "echo out; sleep 0.2; echo err >&2; sleep 0.2; echo out again")
        cell.wait("both")

        def lines(**fields: object) -> list[tuple[str, str]]:
            stream = machine.api.observe.GetSubProcessStream(request(cell, "both", **fields))
            return [(message.item.channel, message.item.line) for message in stream]

        assert lines(channel_type=observe.LOG_CHANNEL_TYPE_STDOUT) == [
            ("stdout", "out"),
            ("stdout", "out again"),
        ]
        assert lines(channel_type=observe.LOG_CHANNEL_TYPE_STDERR) == [("stderr", "err")]
        merged = [("stdout", "out"), ("stderr", "err"), ("stdout", "out again")]
        assert lines() == merged
        by_pid = observe.GetSubProcessStreamRequest(process_id=answer.pid)
        assert [
            (message.item.channel, message.item.line)
            for message in machine.api.observe.GetSubProcessStream(by_pid)
        ] == merged


def test_times_rise_and_are_those_of_the_writing(machine: Machine) -> None:
    with machine.cell("c") as cell:
        cell.start("two", "echo one; sleep 2; echo two")
        status = cell.wait("two")
        first, second = (item.timestamp for item in cell.follow("two"))
        assert status.started_at.ToNanoseconds() <= first
        assert 1.5e9 < second - first < 20e9
        assert second <= status.ended_at.ToNanoseconds()


def test_odd_output_arrives(machine: Machine) -> None:
    script = r"""
    echo; echo 'grüezi'; printf '\377\n'; printf '\0\n'
    head -c 200000 /dev/zero | tr '\0' x; echo; printf 'no newline'
    """
    with machine.cell("c") as cell:
        cell.start("odd", script)
        said = cell.lines("odd")["stdout"]
        assert said[:4] == ["", "grüezi", "\ufffd", "\0"]
        pieces = said[4:-1]
        assert {len(piece) for piece in pieces[:-1]} == {64 * 1024}
        assert "".join(pieces) == "x" * 200_000
        assert said[-1] == "no newline"


def test_the_stream_of_what_runs_ends_when_it_is_stopped(machine: Machine) -> None:
    with machine.cell("c") as cell:
        cell.start("tick", "while :; do echo tick; sleep 0.1; done")
        stream = cell.follow("tick")
        assert next(stream).line == "tick"
        cell.stop("tick", grace=0)
        assert {item.line for item in stream} <= {"tick"}


def test_what_is_kept_can_be_read_without_waiting_for_more(machine: Machine) -> None:
    with machine.cell("c") as cell:
        cell.start("on", "echo one; exec sleep 1000")
        assert next(cell.follow("on")).line == "one"
        assert [item.line for item in cell.follow("on", no_follow=True)] == ["one"]


def test_two_readers_get_the_same(machine: Machine) -> None:
    with machine.cell("c") as cell:
        cell.start("count", "seq 2000; sleep 1; seq 2001 4000")
        one, two = cell.follow("count"), cell.follow("count")
        pairs = [(a.line, b.line) for a, b in zip(one, two, strict=True)]
        assert pairs == [(str(n), str(n)) for n in range(1, 4001)]


def test_a_slow_reader_loses_lines_with_a_count_and_the_executable_is_not_slowed(
    machine: Machine,
) -> None:
    with gate(machine) as open_gate, machine.cell("c") as cell:
        cell.start("alone", f"{FLOODING} > /dev/null")
        alone = cell.wait("alone", timeout=300)
        cell.start("flood", f"read -r go < {GATE}; {FLOODING}")
        asked = request(cell, "flood", batch=True)
        stream = machine.api.observe.GetSubProcessStream(asked, timeout=600)
        open_gate()
        began = time.monotonic()
        # Nobody reads the stream until the executable is done.
        cell.wait("flood", timeout=300)
        took = time.monotonic() - began
        seen = lost = last = 0
        for message in stream:
            lost += message.lost_lines
            for item in (message.item, *message.more):
                if item.line:
                    seen += 1
                    number = int(item.line[:8])
                    assert number > last
                    last = number
        assert last == FLOOD
        assert lost > 0
        assert seen + lost == FLOOD
        free = (alone.ended_at.ToNanoseconds() - alone.started_at.ToNanoseconds()) / 1e9
        # Writing through a pipe costs something beside /dev/null; waiting for a reader is for ever.
        assert took < 10 * free + 10


def test_memory_for_output_is_bounded(machine: Machine) -> None:
    with machine.cell("c") as cell:
        cell.start("flood", FLOODING)
        cell.wait("flood", timeout=300)
        kept = sum(len(item.line) + 1 for item in cell.follow("flood"))
        assert kept <= 17 << 20
        blocks = machine.system.read("du -sk /run/aurae/logs").split()[0]
        assert int(blocks) < 40 * 1024


def test_a_reader_that_goes_away_disturbs_nobody(machine: Machine) -> None:
    with machine.cell("c") as cell:
        cell.start("tick", "while :; do echo tick; sleep 0.05; done")
        for _ in range(5):
            stream = machine.api.observe.GetSubProcessStream(request(cell, "tick"))
            assert next(stream).item.line == "tick"
            stream.cancel()
        assert next(cell.follow("tick")).line == "tick"


def test_a_stream_ends_with_its_deadline(machine: Machine) -> None:
    with machine.cell("c") as cell:
        cell.start("silent", "exec sleep 1000")
        with refused(grpc.StatusCode.DEADLINE_EXCEEDED):
            list(machine.api.observe.GetSubProcessStream(request(cell, "silent"), timeout=1))


def test_the_log_of_auraed_tells_what_all_its_parts_did(machine: Machine) -> None:
    asked = observe.GetAuraeDaemonLogStreamRequest(no_follow=True)
    items = [m.item for m in machine.api.observe.GetAuraeDaemonLogStream(asked)]
    assert {"initd", "network", "runtime"} == {item.channel for item in items}
    assert all(item.line for item in items if item.channel == "initd")
    times = [item.timestamp for item in items]
    assert times == sorted(times)


def test_the_log_of_auraed_can_be_followed(machine: Machine) -> None:
    asked = observe.GetAuraeDaemonLogStreamRequest()
    with refused(grpc.StatusCode.DEADLINE_EXCEEDED):
        list(machine.api.observe.GetAuraeDaemonLogStream(asked, timeout=2))

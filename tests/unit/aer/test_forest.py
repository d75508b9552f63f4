"""The tree of cells, as a person sees it in 80 columns."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aurae.cells.v0 import cells_pb2

from aer import forest, output

# A message takes a dict where its type declares a message only.
cells: Any = cells_pb2

NOW = datetime(2026, 1, 2, 12, 0, 0, tzinfo=UTC)
ENDED = cells.EXECUTABLE_STATE_ENDED
RUNNING = cells.EXECUTABLE_STATE_RUNNING
STOPPING = cells.EXECUTABLE_STATE_STOPPING


def executable(name: str, command: str, pid: int, ago: timedelta, **how: Any) -> Any:
    status = cells.ExecutableStatus(
        executable={"name": name, "command": command},
        pid=pid,
        **{"state": RUNNING, **how},
    )
    status.started_at.FromDatetime(NOW - ago)
    return status


def forest_of_cells() -> list[cells_pb2.CellGraphNode]:
    sleeper = executable("sleeper", "sleep 60", 812, timedelta(seconds=42))
    server = executable("server", "exec httpd -f", 90123, timedelta(hours=3, minutes=7))
    hog = executable("hog", "tail /dev/zero", 815, timedelta(minutes=5), state=ENDED, signal=9)
    once = executable("once", "exit 3", 816, timedelta(days=2), state=ENDED, exit_code=3)
    slow = executable("slow", "trap '' TERM; sleep 9", 817, timedelta(seconds=1), state=STOPPING)
    api = cells.CellGraphNode(
        cell={"name": "web/api", "memory": {"max": 64 << 20}},
        children=[cells.CellGraphNode(cell={"name": "web/api/v1"}, executables=[hog])],
        executables=[server, once],
    )
    web = cells.CellGraphNode(
        cell={"name": "web", "cpu": {"weight": 100, "max": 50000, "period": 100000}},
        children=[api, cells.CellGraphNode(cell={"name": "web/db"})],
        executables=[sleeper],
    )
    return [web, cells.CellGraphNode(cell={"name": "_system"}, executables=[slow])]


def drawn(nodes: list[cells_pb2.CellGraphNode], encoding: str = "utf-8") -> str:
    rows = forest.rows(nodes, NOW, encoding=encoding)
    return "\n".join(output.table(forest.HEADERS, rows, forest.RIGHT))


TREE = """\
CELL / EXECUTABLE  STATE       PID    AGE     EXIT  COMMAND
web/               cpu.weight=100 cpu.max=50000/100000
├─ sleeper         running     812    42s           sleep 60
├─ api/            memory.max=64M
│  ├─ server       running   90123  3h07m           exec httpd -f
│  ├─ once         ended       816  2d00h        3  exit 3
│  └─ v1/
│     └─ hog       ended       815  5m00s  SIGKILL  tail /dev/zero
└─ db/
_system/
└─ slow            stopping    817     1s           trap '' TERM; sleep 9"""


def test_the_tree() -> None:
    assert drawn(forest_of_cells()) == TREE


def test_what_was_asked_for_stands_beside_the_cell() -> None:
    security = {"profile": 1, "private_tmp": True, "keep_capabilities": ["CAP_KILL"], "seccomp": 1}
    asked = {
        "name": "t",
        "isolate_process": True,
        "pids": {"max": 0},
        "io": {"weight": 5, "max": [{"device": "8:0", "rbps": 1 << 20, "wiops": 3}]},
        "security": security,
    }
    line = (
        "t/ pids.max=0 io.weight=5 io.max=8:0,rbps=1M,wiops=3 isolated processes "
        "profile=restricted private_tmp keep_capabilities=CAP_KILL seccomp=default"
    )
    for init, said in (({"pid": 7}, "init=7"), ({"pid": 7, "ended": True}, "init=ended")):
        node = cells.CellGraphNode(cell=asked, init=init)
        assert drawn([node]).splitlines()[1].split() == f"{line} {said}".split()


def test_a_terminal_without_unicode_gets_a_tree_too() -> None:
    assert drawn(forest_of_cells(), "ascii").isascii()
    assert "|  `- v1/" in drawn(forest_of_cells(), "ascii")


def test_what_is_waited_for_and_how_often_it_was_started_again_stands_with_the_state() -> None:
    waiting = cells.ExecutableStatus(
        executable={"name": "e", "command": "c"},
        state=cells.EXECUTABLE_STATE_WAITING,
        waiting_for=["db", "api/x"],
    )
    nodes = [cells.CellGraphNode(cell={"name": "web"}, executables=[waiting])]
    row = drawn(nodes).splitlines()[-1]
    assert row.split() == ["└─", "e", "waiting", "for", "db,", "api/x", "c"]
    backoff = executable("e", "c", 5, timedelta(), state=cells.EXECUTABLE_STATE_BACKOFF)
    backoff.restarts = 1
    assert forest.standing(backoff) == "backoff, 1 restart"
    backoff.restarts = 2
    assert forest.standing(backoff) == "backoff, 2 restarts"


def test_a_terminals_line_is_not_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "_width", lambda: 60)
    lines = drawn(forest_of_cells()).splitlines()
    assert max(map(len, lines)) == 60
    assert lines[-1].endswith("trap ''…")


def test_a_command_cannot_colour_the_terminal() -> None:
    bad = executable("x", "echo \x1b[31mred\nnext", 1, timedelta())
    node = cells.CellGraphNode(cell={"name": "web"}, executables=[bad])
    assert r"echo \x1b[31mred\nnext" in drawn([node])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0s"), (0.9, "0s"), (59, "59s"), (60, "1m00s"), (3600, "1h00m"), (90000, "1d01h")],
)
def test_an_age_has_two_units_at_most(seconds: float, text: str) -> None:
    assert forest.age(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (1, "1"), (1023, "1023"), (1024, "1K"), (1536, "1536"), (3 << 30, "3G")],
)
def test_a_size_is_exact(count: int, text: str) -> None:
    assert forest.size(count) == text


def test_a_signal_without_a_name_has_its_number() -> None:
    assert forest.signal_name(9) == "SIGKILL"
    assert forest.signal_name(40) == "signal 40"

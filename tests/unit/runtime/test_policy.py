"""What may be asked for, and what supervision decides when a run ends: plain values and a clock."""

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from initd.errors import InvalidArgument
from initd.processes.model import Process
from initd.processes.model import State as ProcessState
from runtime.cells import wanted as decisions
from runtime.cells.listening import listens
from runtime.cells.model import Executable, dependency
from runtime.cells.policy import Kind, Mode, Policy, Readiness, Restart
from runtime.cells.wanted import BILLION, State, Wanted, WantedFiles

WALL = 1_000 * BILLION


def wanted(mode: Mode = Mode.NEVER, kind: Kind = Kind.STARTED, **restart: Any) -> Wanted:
    listen = "80" if kind is Kind.LISTEN else ""
    policy = Policy(
        restart=Restart(mode=mode, **restart), readiness=Readiness(kind=kind, listen=listen)
    )
    executable = Executable(name="e", command="true", policy=policy)
    return Wanted(cell="web", executable=executable, uid=0, gid=0)


def run(serial: int = 1, seconds: float = 0.0, **how: Any) -> Process:
    """A run that ended, or runs if nothing is said of how."""
    ended = WALL + round(seconds * BILLION) if how.keys() & {"code", "signal"} else None
    state = ProcessState.RUNNING if ended is None else ProcessState.ENDED
    fields: dict[str, Any] = {"uid": 0, "gid": 0, "cgroup": "c", "log": 1, "state": state, **how}
    return Process(serial=serial, id="web:e", pid=7, started=WALL, ended=ended, **fields)


def ends(before: Wanted, process: Process, now: float = 0.0) -> Wanted:
    return decisions.after_end(before, process, now, WALL)


@pytest.mark.parametrize(
    ("policy", "field"),
    [
        (Policy(restart=Restart(backoff=1)), "executable.restart.backoff"),
        (Policy(restart=Restart(limit=1)), "executable.restart.limit"),
        (Policy(restart=Restart(mode=Mode.ALWAYS, backoff=0)), "executable.restart.backoff"),
        (Policy(restart=Restart(mode=Mode.ALWAYS, backoff=-1)), "executable.restart.backoff"),
        (
            Policy(restart=Restart(mode=Mode.ALWAYS, backoff=9, max_backoff=8)),
            "executable.restart.max_backoff",
        ),
        (Policy(restart=Restart(mode=Mode.ALWAYS, limit=0)), "executable.restart.limit"),
        (Policy(restart=Restart(mode=Mode.ALWAYS, limit=1001)), "executable.restart.limit"),
        (Policy(restart=Restart(mode=Mode.ALWAYS, window=5)), "executable.restart.window"),
        (Policy(readiness=Readiness(timeout=1)), "executable.readiness.timeout"),
        (Policy(readiness=Readiness(kind=Kind.EXIT, timeout=0)), "executable.readiness.timeout"),
        (Policy(readiness=Readiness(listen="80")), "executable.readiness.listen"),
        (Policy(readiness=Readiness(kind=Kind.LISTEN)), "executable.readiness.listen"),
        (Policy(readiness=Readiness(kind=Kind.LISTEN, listen="0")), "executable.readiness.listen"),
        (
            Policy(readiness=Readiness(kind=Kind.LISTEN, listen="65536")),
            "executable.readiness.listen",
        ),
        (
            Policy(readiness=Readiness(kind=Kind.LISTEN, listen="/" + "x" * 107)),
            "executable.readiness.listen",
        ),
        (
            Policy(restart=Restart(mode=Mode.ALWAYS), readiness=Readiness(kind=Kind.EXIT)),
            "executable.readiness",
        ),
        (Policy(after=("e",)), "executable.after"),
        (Policy(after=("",)), "executable.after"),
        (Policy(after=("a b",)), "executable.after"),
        (Policy(after=("/b",)), "executable.after"),
        (Policy(after=("../b",)), "executable.after"),
        (Policy(after=tuple(f"e{n}" for n in range(65))), "executable.after"),
    ],
)
def test_a_bad_policy_is_refused_by_its_field(policy: Policy, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        Executable(name="e", command="true", policy=policy).checked()
    assert str(caught.value).startswith(field)


def test_backoff_doubles_to_its_most_and_begins_again_after_a_good_run() -> None:
    state = wanted(Mode.ALWAYS, backoff=1, max_backoff=5)
    waits = []
    for serial, lasted in enumerate((0, 0, 4.9, 0, 5, 0), 1):
        state = ends(state, run(serial, lasted, code=0), now=100.0)
        assert state.due is not None
        assert state.restart_at == WALL + (state.due - 100) * BILLION
        waits.append(state.due - 100)
        state = decisions.restarted(state, state.due)
    assert waits == [1, 2, 4, 5, 1, 2]
    assert state.restarts == 6


def test_defaults_of_backoff_follow_what_is_given() -> None:
    assert (Restart().first, Restart().most) == (1, 60)
    assert (Restart(backoff=90).first, Restart(backoff=90).most) == (90, 90)
    assert (Restart(max_backoff=0.5).first, Restart(max_backoff=0.5).most) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("mode", "how", "state"),
    [
        (Mode.NEVER, {"code": 0}, State.ENDED),
        (Mode.NEVER, {"code": 3}, State.ENDED),
        (Mode.NEVER, {"signal": 9}, State.ENDED),
        (Mode.ON_FAILURE, {"code": 0}, State.ENDED),
        (Mode.ON_FAILURE, {"code": 3}, State.BACKOFF),
        (Mode.ON_FAILURE, {"signal": 15}, State.BACKOFF),
        (Mode.ALWAYS, {"code": 0}, State.BACKOFF),
        (Mode.ALWAYS, {"code": 3}, State.BACKOFF),
    ],
)
def test_the_mode_says_after_which_ends_it_is_started_again(
    mode: Mode, how: dict[str, int], state: State
) -> None:
    process = run(code=how.get("code"), signal=how.get("signal"))
    after = ends(wanted(mode), process)
    assert decisions.state(after, process) is state
    assert ends(wanted(mode)._replace(stopped=True), process).rest is State.ENDED


def test_the_limit_counts_restarts_within_its_window_only() -> None:
    state = wanted(Mode.ALWAYS, backoff=1, max_backoff=1, limit=2, window=10)
    for serial, now in enumerate((0.0, 1.0, 20.0, 25.0), 1):
        state = decisions.restarted(ends(state, run(serial, code=1), now), now)
        assert state.rest is None
    state = ends(state, run(5, code=1), 29.0)
    assert state.rest is State.FAILED
    assert state.reason == ("restarted 2 times within 10 s; the last run ended with exit code 1")
    assert ends(state._replace(rest=None), run(6, code=1), 30.1).rest is None


def test_one_that_was_late_or_refused_failed_though_no_exit_code_says_so() -> None:
    policy = Policy(readiness=Readiness(kind=Kind.EXIT, timeout=5))
    executable = Executable(name="e", command="true", policy=policy)
    late = Wanted(cell="web", executable=executable, uid=0, gid=0, late=1)
    after = ends(late, run(code=0))
    assert (after.rest, after.reason) == (State.FAILED, "was not ready in 5 s")
    refused = decisions.after_refusal(wanted(), "no such folder", 0, WALL)
    assert (refused.rest, refused.reason) == (State.FAILED, "no such folder")
    again = decisions.after_refusal(wanted(Mode.ON_FAILURE), "no such folder", 0, WALL)
    assert decisions.state(again, None) is State.BACKOFF


@pytest.mark.parametrize(
    ("kind", "running", "notified", "listening", "exit_0", "exit_1"),
    [
        (Kind.STARTED, True, True, True, True, False),
        (Kind.EXIT, False, False, False, True, False),
        (Kind.LISTEN, False, False, True, False, False),
        (Kind.NOTIFY, False, True, False, False, False),
    ],
)
def test_what_makes_it_ready(
    kind: Kind, *, running: bool, notified: bool, listening: bool, exit_0: bool, exit_1: bool
) -> None:
    one = wanted(kind=kind)
    assert not decisions.ready(one, None)
    assert decisions.ready(one, run()) is running
    assert decisions.ready(one, run(ready=True)) is notified
    assert decisions.ready(one._replace(listening=1), run()) is listening
    assert not decisions.ready(one, run(state=ProcessState.STOPPING, ready=True))
    assert decisions.ready(ends(one, run(code=0)), run(code=0)) is exit_0
    assert decisions.ready(ends(one, run(code=1)), run(code=1)) is exit_1


def test_the_states_follow_from_what_is_wanted_and_what_runs() -> None:
    one = wanted(Mode.ALWAYS, Kind.NOTIFY)
    assert decisions.state(one, None) is State.WAITING
    assert decisions.state(one, run()) is State.STARTING
    assert decisions.state(one, run(ready=True)) is State.RUNNING
    assert decisions.state(one, run(state=ProcessState.STOPPING)) is State.STOPPING
    ended = ends(one, run(code=0))
    assert decisions.state(ended, run(code=0)) is State.BACKOFF
    again = decisions.restarted(ended, 9)
    assert decisions.state(again, run(code=0)) is State.WAITING
    assert decisions.state(again, run(2)) is State.STARTING


def test_names_of_others_are_relative_to_the_cell() -> None:
    assert dependency("web", "db") == "web:db"
    assert dependency("web", "api/v1/db") == "web/api/v1:db"
    assert dependency("_system", "db") == "_system:db"
    assert dependency("_system", "web/db") == "web:db"


def test_what_is_wanted_is_the_same_after_a_restart(tmp_path: Path) -> None:
    files = WantedFiles(tmp_path)
    first = ends(wanted(Mode.ALWAYS, Kind.LISTEN, limit=3), run(code=None, signal=9), 5.5)
    second = first._replace(cell="web/api", executable=first.executable._replace(name="a.b_c"))
    files.write(wanted())
    files.write(first)
    files.write(second)
    (tmp_path / "web" / "_damaged.json").write_text('{"cell": "web"')
    (tmp_path / "web" / "_other.json").write_text(json.dumps(first.to_json()))
    (tmp_path / "web" / "_list.json").write_text("[]")
    assert sorted(files.read(), key=lambda one: one.cell) == [first, second]
    files.remove(second)
    files.remove_cell("web/api")
    assert not (tmp_path / "web" / "api").exists()
    files.remove_cell("web")
    assert files.read() == [first]


def test_a_file_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    files = WantedFiles(tmp_path)
    files.write(wanted())
    (tmp_path / "web" / "_e.json.partial").mkdir()
    with pytest.raises(OSError, match=r"_e\.json\.partial"):
        files.write(wanted(Mode.ALWAYS))
    assert files.read() == [wanted()]


def test_the_tables_of_the_kernel_tell_who_listens(tmp_path: Path) -> None:
    mine = os.getpid()
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as unix:
        path = str(tmp_path / "socket")
        tcp.bind(("127.0.0.1", 0))
        unix.bind(path)
        port = str(tcp.getsockname()[1])
        assert not listens([mine], port)
        assert not listens([mine], path)
        tcp.listen()
        unix.listen()
        assert listens([mine], port)
        assert listens([mine], path)
        # It listens, but another process does.
        assert not listens([os.getppid()], port)
        assert not listens([], port)
        assert not listens([2**22 + 1], port)
        with socket.socket(socket.AF_INET6) as six:
            six.bind(("::1", 0))
            six.listen()
            assert listens([mine], str(six.getsockname()[1]))
    assert not listens([mine], port)


def test_nobody_else_may_read_what_is_wanted(tmp_path: Path) -> None:
    folder = tmp_path / "executables"
    WantedFiles(folder).write(wanted()._replace(cell="web/api"))
    assert folder.stat().st_mode & 0o777 == 0o700

"""`initd.network.timekeeper`, with a program in the daemon's place that only says that it runs."""

import select
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from initd.network.timekeeper import Timekeeper, configuration

A, B = ("10.0.0.1",), ("ntp.example.com", "2001:db8::1")


class Ends:
    """Hears of ends as the service's selector does."""

    def __init__(self) -> None:
        self.heard: dict[int, Callable[[float], None]] = {}

    def watch(self, fd: int, act: Callable[[float], None]) -> None:
        self.heard[fd] = act

    def forget(self, fd: int) -> None:
        del self.heard[fd]

    def next(self, now: float) -> None:
        ready, _, _ = select.select(list(self.heard), [], [], 10)
        for fd in ready:
            self.heard[fd](now)


@pytest.fixture
def ends() -> Ends:
    return Ends()


def keeper(ends: Ends, tmp_path: Path, script: str) -> Timekeeper:
    command = ("/bin/sh", "-c", f"echo $$ >> {tmp_path}/pids; {script}")
    return Timekeeper(ends.watch, ends.forget, command, tmp_path / "etc/aurae.conf")


@pytest.fixture
def running(ends: Ends, tmp_path: Path) -> Iterator[Timekeeper]:
    made = keeper(ends, tmp_path, "exec sleep 1000")
    yield made
    made.ask((), 0.0)


def pids(tmp_path: Path, count: int) -> list[int]:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if (tmp_path / "pids").exists():
            found = (tmp_path / "pids").read_text().split()
            if len(found) == count:
                return [int(pid) for pid in found]
        select.select([], [], [], 0.01)
    raise AssertionError(f"not {count} runs")


def test_nothing_runs_until_somebody_names_a_server(running: Timekeeper, ends: Ends) -> None:
    running.ask((), 0.0)
    assert not ends.heard
    assert running.deadline is None


def test_other_servers_are_asked_by_another_run(
    running: Timekeeper, ends: Ends, tmp_path: Path
) -> None:
    running.ask(A, 0.0)
    (first,) = pids(tmp_path, 1)
    running.ask(A, 1.0)
    running.ask(B, 2.0)
    assert pids(tmp_path, 2)[0] == first
    assert not Path(f"/proc/{first}").exists()
    written = tmp_path / "etc/aurae.conf"
    assert written.read_text() == configuration(B)
    assert written.stat().st_mode & 0o777 == 0o644
    running.ask((), 3.0)
    assert not ends.heard
    assert not Path(f"/proc/{pids(tmp_path, 2)[1]}").exists()


def test_no_servers_are_asked_but_those() -> None:
    lines = configuration(B).splitlines()
    assert lines == ["[Time]", "NTP=ntp.example.com 2001:db8::1", "FallbackNTP="]


def test_one_that_ends_is_started_again_later_and_later(ends: Ends, tmp_path: Path) -> None:
    made = keeper(ends, tmp_path, "exit 3")
    now = 100.0
    made.ask(A, now)
    waits = []
    # Each runs for a second, but for the last, which was well.
    for number, ran in enumerate([1.0] * 8 + [64.0], 1):
        pids(tmp_path, number)
        ends.next(now + ran)
        assert made.deadline is not None
        waits.append(made.deadline - now - ran)
        made.tick(made.deadline - 0.1)
        now = made.deadline
        made.tick(now)
    assert waits == [1, 2, 4, 8, 16, 32, 64, 64, 1]
    made.ask((), now)
    assert not ends.heard


def test_a_program_that_is_not_there_is_told_and_tried_again(
    ends: Ends, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = Timekeeper(ends.watch, ends.forget, (f"{tmp_path}/none",), tmp_path / "aurae.conf")
    made.ask(A, 0.0)
    assert "No such file or directory" in caplog.text
    assert made.deadline == 1.0
    made.ask((), 0.5)
    assert made.deadline is None

"""Work in a copy of the process."""

import os
import signal
from collections.abc import Callable

import pytest

from initd.boot import copies
from initd.boot.copies import Tell


def told(work: Callable[[Tell], None]) -> str:
    copy = copies.start(work)
    os.waitpid(copy.pid, 0)
    return copies.told(copy.pipe)


def test_what_a_copy_told_is_there_after_its_end() -> None:
    assert told(lambda tell: tell("one\ntwo")) == "one\ntwo"
    assert told(lambda _: None) == ""


def test_a_copy_that_fails_has_told_what_it_told() -> None:
    def failing(tell: Tell) -> None:
        tell("began")
        raise RuntimeError("a mistake of ours")

    assert told(failing) == "began"


def test_nobody_waits_for_a_copy_that_tells_more_than_a_pipe_holds() -> None:
    assert told(lambda tell: tell("x" * 1_000_000)) == "x" * 65536


def test_lines_come_while_it_is_at_work() -> None:
    read, write = os.pipe()

    def work(tell: Tell) -> None:
        tell("one\ntw")
        # Until the first has come.
        os.read(read, 1)
        tell("o\n")

    heard = []
    for line in copies.lines(copies.start(work), 10, 10):
        heard.append(line)
        os.write(write, b"x")
    assert heard == ["one", "two"]
    os.close(read)
    os.close(write)


@pytest.mark.parametrize(("seconds", "more", "wanted"), [(0.1, 10, []), (10, 0.1, ["began"])])
def test_a_copy_that_tells_nothing_for_too_long_is_killed(
    seconds: float, more: float, wanted: list[str]
) -> None:
    def stuck(tell: Tell) -> None:
        tell("began\n" if wanted else "")
        signal.alarm(30)
        signal.pause()

    copy = copies.start(stuck)
    heard = copies.lines(copy, seconds, more)
    assert [next(heard) for _ in wanted] == wanted
    with pytest.raises(TimeoutError):
        next(heard)
    assert os.WTERMSIG(os.waitpid(copy.pid, 0)[1]) == signal.SIGKILL

import os
import signal
import time

import pytest

from initd.loop import Loop


@pytest.fixture
def errors() -> list[BaseException]:
    return []


@pytest.fixture
def loop(errors: list[BaseException]) -> Loop:
    return Loop(errors.append)


@pytest.mark.parametrize(
    "kind", [ValueError, MemoryError, RecursionError, KeyboardInterrupt, SystemExit, GeneratorExit]
)
def test_a_handler_that_raises_is_told_and_survived(
    loop: Loop, errors: list[BaseException], kind: type[BaseException]
) -> None:
    ran = []

    def fail() -> None:
        raise kind("first")

    loop.later(0, fail)
    loop.later(0, lambda: ran.append("second"))
    loop.turn(0)
    assert ran == ["second"]
    assert [(type(error), str(error)) for error in errors] == [(kind, "first")]


def test_timers_run_in_order_and_not_when_cancelled(loop: Loop) -> None:
    ran: list[int] = []
    loop.later(0.002, lambda: ran.append(2))
    loop.later(0.001, lambda: ran.append(1))
    loop.later(0.0015, lambda: ran.append(3)).cancel()
    deadline = time.monotonic() + 5
    loop.run(until=lambda: len(ran) == 2 or time.monotonic() > deadline)
    assert ran == [1, 2]


def test_a_descriptor_that_a_handler_of_the_same_turn_unwatched_is_left_alone(loop: Loop) -> None:
    pipes = [os.pipe(), os.pipe()]
    calls: list[int] = []

    def handler(_events: int) -> None:
        calls.append(1)
        for read, _ in pipes:
            loop.unwatch(read)

    for read, write in pipes:
        loop.watch(read, handler)
        os.write(write, b"x")
    loop.turn(0)
    loop.turn(0)
    assert calls == [1]
    for fd in (fd for pair in pipes for fd in pair):
        os.close(fd)


def test_signals_are_handled_in_the_loop(loop: Loop) -> None:
    heard: list[str] = []
    former = signal.getsignal(signal.SIGUSR1)
    try:
        loop.watch_signals({signal.SIGUSR1: lambda: heard.append("usr1")})
        signal.raise_signal(signal.SIGUSR1)
        assert heard == []
        loop.turn(1)
        assert heard == ["usr1"]
    finally:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGUSR1, former)

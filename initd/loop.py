"""PID 1's one thread: descriptors, timers and signals, one after the other."""

import heapq
import os
import select
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

READABLE: Final = select.EPOLLIN
WRITABLE: Final = select.EPOLLOUT


class Timer:
    """Runs once, at `due` (seconds of CLOCK_MONOTONIC). Cancelled, it never does."""

    __slots__ = ("action", "due")

    def __init__(self, due: float, action: Callable[[], None]) -> None:
        self.due = due
        self.action: Callable[[], None] | None = action

    def cancel(self) -> None:
        self.action = None


class Loop:
    """What a handler raises, whatever it is, goes to `on_error`, and the loop goes on."""

    def __init__(self, on_error: Callable[[BaseException], None]) -> None:
        self._on_error = on_error
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._sequence = 0
        self._deliver: Callable[[int], None] = lambda _: None

    def watch(self, fd: int, handler: Callable[[int], None], events: int = READABLE) -> None:
        """`handler` gets the events; errors and hang-ups are always among those reported."""
        self._epoll.register(fd, events)
        self._handlers[fd] = handler

    def change(self, fd: int, events: int) -> None:
        self._epoll.modify(fd, events)

    def unwatch(self, fd: int) -> None:
        """Before the descriptor is closed. Once more does no harm."""
        if self._handlers.pop(fd, None) is not None:
            with suppress(FileNotFoundError):
                self._epoll.unregister(fd)

    def later(self, seconds: float, action: Callable[[], None]) -> Timer:
        return self.at(time.monotonic() + seconds, action)

    def at(self, due: float, action: Callable[[], None]) -> Timer:
        """As `later`, by the clock's own time; one that has passed is now."""
        timer = Timer(due, action)
        # The number keeps timers of one moment in order, and timers out of the comparison.
        self._sequence += 1
        heapq.heappush(self._timers, (due, self._sequence, timer))
        return timer

    def watch_signals(self, handlers: Mapping[signal.Signals, Callable[[], None]]) -> None:
        """Handlers run in the loop, not amid other code. A signal that comes twice before its
        handler runs may count once. All that were blocked until now are let in."""
        read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in handlers:
            signal.signal(number, _ignore)

        def deliver(_: int) -> None:
            with suppress(BlockingIOError):
                for number in sorted(set(os.read(read, 4096))):
                    if number in handlers:
                        self._guard(handlers[signal.Signals(number)])

        self.watch(read, deliver)
        self._deliver = deliver
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def hear(self) -> None:
        """Run the handlers of the signals that have come, without waiting."""
        self._deliver(READABLE)

    def close(self) -> None:
        self._epoll.close()

    def run(self, *, until: Callable[[], bool]) -> None:
        while not until():
            self.turn()

    def turn(self, limit: float | None = None) -> None:
        """Wait for the next thing, at most `limit` seconds, and handle what is due."""
        for fd, events in self._epoll.poll(self._patience(limit)):
            # An earlier handler of this turn may have closed it.
            handler = self._handlers.get(fd)
            if handler is not None:
                self._guard(handler, events)
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            _, _, timer = heapq.heappop(self._timers)
            if timer.action is not None:
                self._guard(timer.action)

    def _patience(self, limit: float | None) -> float:
        if not self._timers:
            return -1 if limit is None else limit
        due = max(0.0, self._timers[0][0] - time.monotonic())
        return due if limit is None else min(due, limit)

    def _guard(self, action: Callable[..., None], *arguments: int) -> None:
        try:
            action(*arguments)
        except BaseException as error:  # PID 1 goes on, whatever one handler met.
            self._on_error(error)


def _ignore(_number: int, _frame: object) -> None:
    """The wakeup descriptor tells; Python only needs a handler to write to it."""

"""Moves what comes out of a pipe into its stream."""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from initd.linux.splice import PIPE_SIZE
from initd.logs.budget import Budget
from initd.logs.stream import Stream
from initd.loop import Loop

if TYPE_CHECKING:
    from initd.handover.model import PumpState


class Pump:
    """Owns the read end of a pipe (None: nothing more comes) and its stream, until `close`."""

    def __init__(
        self,
        loop: Loop,
        pipe: int | None,
        stream: Stream,
        budget: Budget,
        on_output: Callable[[Stream, int], None] | None = None,
    ) -> None:
        self.stream = stream
        self._loop = loop
        self._pipe: int | None = pipe
        self._budget = budget
        self._on_output = on_output
        if pipe is not None:
            loop.watch(pipe, self._readable)

    @classmethod
    def resume(
        cls,
        loop: Loop,
        state: "PumpState",
        budget: Budget,
        on_output: Callable[[Stream, int], None] | None = None,
    ) -> "Pump":
        """Go on where `save` was called."""
        pump = cls(loop, state.pipe, Stream.resume(state.stream), budget, on_output)
        budget.enforce(pump.stream)
        return pump

    def save(self) -> "PumpState":
        from initd.handover.model import Descriptor, PumpState

        pipe = None if self._pipe is None else Descriptor(self._pipe)
        return PumpState(pipe=pipe, stream=self.stream.save())

    def drain(self) -> None:
        """Take what the pipe holds now, then take no more: nobody who could write is left, or
        what such a one writes is not wanted."""
        # Twice a full pipe: a writer outside, with a copy of the write end, must not hold us.
        for _ in range(2 * PIPE_SIZE // 4096):
            if self._pipe is None or not self._take():
                break
        self._hang_up()

    def detach(self) -> None:
        """Let go of the pipe; the stream is another's."""
        self._hang_up()

    def close(self) -> None:
        self._hang_up()
        self._budget.forget(self.stream)
        self.stream.release()

    def _readable(self, _events: int) -> None:
        self._take()

    def _take(self) -> int:
        assert self._pipe is not None
        try:
            count = self.stream.take(self._pipe, PIPE_SIZE)
        except BlockingIOError:
            return 0
        if count == 0:
            self._hang_up()
            return 0
        if self._on_output is not None:
            self._on_output(self.stream, count)
        self._budget.enforce(self.stream)
        return count

    def _hang_up(self) -> None:
        if self._pipe is not None:
            self._loop.unwatch(self._pipe)
            os.close(self._pipe)
            self._pipe = None

"""What all streams may hold, each and together."""

from typing import Final

from initd.logs.stream import Stream

EACH: Final = 16 * 1024 * 1024
_STEP: Final = 1024 * 1024


class Budget:
    """Drops the oldest of a stream that is too long, and of the longest when all are."""

    def __init__(self, total: int, each: int = EACH) -> None:
        self._total = total
        self._each = each
        self._kept: dict[Stream, int] = {}
        self._sum = 0

    def enforce(self, stream: Stream) -> None:
        """After something was written to it. A stream that was never seen is taken in."""
        self._account(stream)
        if self._kept[stream] > self._each:
            self._drop(stream, self._each)
        while self._sum > self._total:
            longest = max(self._kept, key=self._kept.__getitem__)
            if not self._drop(longest, self._total):
                break

    def forget(self, stream: Stream) -> None:
        self._sum -= self._kept.pop(stream, 0)

    def _drop(self, stream: Stream, limit: int) -> int:
        # A sixteenth more than needed, so that the next line does not drop again.
        step = max(min(_STEP, limit // 16), stream.kept - limit)
        dropped = stream.drop(step)
        self._account(stream)
        return dropped

    def _account(self, stream: Stream) -> None:
        self._sum += stream.kept - self._kept.get(stream, 0)
        self._kept[stream] = stream.kept

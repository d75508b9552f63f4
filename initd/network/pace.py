"""How often one and the same change is tried: neither a refusal nor a quarrel is a busy loop."""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

from initd.network.desired import Change

FIRST: Final = 1.0
LONGEST: Final = 64.0


@dataclass(frozen=True, slots=True)
class Trial:
    failures: int
    not_before: float


class Pace:
    """A change that failed waits 1 s, 2 s, 4 s … 64 s; one done and wanted again waits 1 s."""

    def __init__(self) -> None:
        self._trials: dict[Change, Trial] = {}
        self._pending: AbstractSet[Change] = frozenset()

    @property
    def deadline(self) -> float | None:
        times = (trial.not_before for c, trial in self._trials.items() if c in self._pending)
        return min(times, default=None)

    def due(self, change: Change, now: float) -> bool:
        trial = self._trials.get(change)
        return trial is None or trial.not_before <= now

    def done(self, change: Change, now: float) -> None:
        self._trials[change] = Trial(0, now + FIRST)

    def failed(self, change: Change, now: float) -> int:
        """How often now, in a row."""
        before = self._trials.get(change)
        failures = before.failures + 1 if before else 1
        wait = min(FIRST * 2 ** (failures - 1), LONGEST)
        self._trials[change] = Trial(failures, now + wait)
        return failures

    def settled(self, pending: AbstractSet[Change], now: float) -> None:
        """These are still wanted; the others are forgotten once their time has come."""
        self._pending = pending
        self._trials = {
            change: trial
            for change, trial in self._trials.items()
            if change in pending or trial.not_before > now
        }

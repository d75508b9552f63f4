"""What a measurement is, and how a list of them is shown and kept."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One figure. `bar` is the most it may be, in `unit`; None where nothing is promised."""

    name: str
    value: float
    unit: str
    method: str
    bar: float | None = None

    @property
    def missed(self) -> bool:
        return self.bar is not None and self.value > self.bar


def median(samples: Sequence[float]) -> float:
    return statistics.median(samples)


def p99(samples: Sequence[float]) -> float:
    """The smallest sample that 99 of 100 samples do not exceed."""
    ordered = sorted(samples)
    return ordered[max(0, -(-len(ordered) * 99 // 100) - 1)]


def table(measurements: Sequence[Measurement]) -> str:
    """For people: a line a figure, what misses its bar marked with `MISSED`."""
    width = max((len(m.name) for m in measurements), default=0)
    lines = [f"{'what':<{width}}  {'value':>10} {'unit':<6} {'bar':>8}"]
    for m in measurements:
        bar = "" if m.bar is None else f"{m.bar:g}"
        mark = "  MISSED" if m.missed else ""
        lines.append(f"{m.name:<{width}}  {m.value:>10.4g} {m.unit:<6} {bar:>8}{mark}".rstrip())
    return "\n".join(lines)


def save(measurements: Sequence[Measurement], path: Path) -> None:
    """Write the list as JSON: objects of name, value, unit, bar and method."""
    path.write_text(json.dumps([asdict(m) for m in measurements], indent=1) + "\n")

"""A set of cells and executables, made as a whole: what is there already stays as it is."""

import asyncio
from collections.abc import Callable, Iterable
from enum import StrEnum

from initd.errors import AlreadyExists, AuraedError
from initd.values import NamedTuple
from runtime.cells.cells import Cells
from runtime.cells.model import SYSTEM, Cell, Executable
from runtime.cells.wanted import State


class Outcome(StrEnum):
    """What became of an entry."""

    MADE = "made"
    UNCHANGED = "unchanged"
    REFUSED = "refused"


class Start(NamedTuple):
    """An executable to start, and where. `cell` None: the system's own."""

    cell: str | None
    executable: Executable
    uid: int
    gid: int

    @property
    def name(self) -> str:
        return f"{self.cell or SYSTEM}/{self.executable.name}"


class Result(NamedTuple):
    """An entry of a set, by its name, and what became of it. `error` is set with REFUSED."""

    name: str
    outcome: Outcome
    error: AuraedError | OSError | None = None


class Entry(NamedTuple):
    """One of a set: how it is called, and what makes it a value or raises what is wrong with it."""

    name: str
    value: Callable[[], Cell | Start]


async def apply(cells: Cells, entries: Iterable[Entry]) -> list[Result]:
    """Make each of them, in order. One that is refused does not keep the others from being made."""
    results = []
    for entry in entries:
        results.append(await _apply(cells, entry))
        # One that is refused at once waits for nothing, and others are to have their turn.
        await asyncio.sleep(0)
    return results


async def _apply(cells: Cells, entry: Entry) -> Result:
    try:
        one = entry.value()
        made = await _allocate(cells, one) if isinstance(one, Cell) else await _start(cells, one)
    except (AuraedError, OSError) as e:
        return Result(name=entry.name, outcome=Outcome.REFUSED, error=e)
    return Result(name=entry.name, outcome=Outcome.MADE if made else Outcome.UNCHANGED)


async def _allocate(cells: Cells, cell: Cell) -> bool:
    there = cells.cell(cell.name)
    if there is None:
        await cells.allocate(cell)
        return True
    if there != cell:
        raise AlreadyExists(f"cell {cell.name}: is allocated otherwise; free it first")
    return False


async def _start(cells: Cells, start: Start) -> bool:
    there = cells.status(start.cell, start.executable.name)
    same = there is not None and (there.executable, there.uid, there.gid) == (
        start.executable,
        start.uid,
        start.gid,
    )
    if there is None or (not same and there.state in (State.ENDED, State.FAILED)):
        await cells.start(start.cell, start.executable, uid=start.uid, gid=start.gid)
        return True
    if not same:
        raise AlreadyExists(
            f"executable {start.name}: is there otherwise ({there.state.value}); stop it first"
        )
    return False

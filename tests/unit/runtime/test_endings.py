"""What a cell's limits are while it is freed, and after a Free that did not get there."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from initd.errors import Unavailable
from initd.processes.model import Process, State
from runtime.cells import endings
from runtime.cells.cells import Cells
from runtime.cells.model import Cell, Cpu, Memory, identity
from runtime.cells.specs import Specs
from runtime.cells.wanted import WantedFiles
from runtime.processes import Processes
from tests.unit.runtime import node as nodes

LIMITS = {"cpu.max": "20000 50000", "memory.high": "4096"}
LIFTED = {"cpu.max": "max", "memory.high": "max"}


class Deathless(Processes):
    """A PID 1 with one process in each of some cells: no signal ends those that are `stuck`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "initd.sock")
        self._here = True
        self.stuck: set[str] = set()
        self.stopped: Callable[[str, float], None] = lambda _id, _grace: None

    def begin(self, *cells: str) -> None:
        for serial, cell in enumerate(cells, 1):
            id_ = identity(cell, "one")
            self.stuck.add(id_)
            self._apply(
                Process(serial, id_, 1, State.RUNNING, 0, 0, 0, "", serial, meta={"cell": cell})
            )

    async def stop(self, id_: str, grace: float) -> Process:
        self.stopped(id_, grace)
        process = self._table[id_]
        if id_ not in self.stuck:
            self._apply(process._replace(state=State.ENDED, code=0, revision=1))
        return process

    async def forget(self, process: Process) -> None:
        self._drop(process.id)


class There:
    """Cells on plain folders, of which `tenant` has limits."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.processes = Deathless(folder)
        self.cells = Cells(
            nodes.FolderCgroups(folder / "cgroup"),
            Specs(folder / "cells"),
            WantedFiles(folder / "executables"),
            self.processes,
            notify=folder / "notify",
        )
        self.cells.recover()

    async def allocate(self) -> None:
        cpu, memory = Cpu(max=20_000, period=50_000), Memory(high=4096)
        for name in ("tenant", "tenant/a"):
            await self.cells.allocate(Cell(name=name, cpu=cpu, memory=memory))

    def limits(self, cell: str = "tenant") -> dict[str, str]:
        return {file: (self._folder / "cgroup/aurae" / cell / file).read_text() for file in LIMITS}


@pytest.fixture
def there(tmp_path: Path) -> There:
    return There(tmp_path)


def test_a_free_that_is_cancelled_leaves_the_limits(there: There) -> None:
    async def scenario() -> None:
        await there.allocate()
        there.processes.begin("tenant")
        killed = asyncio.Event()

        def stopped(_id: str, _grace: float) -> None:
            if there.limits() == LIFTED:
                killed.set()

        there.processes.stopped = stopped
        async with asyncio.TaskGroup() as tasks:
            free = tasks.create_task(there.cells.free("tenant", 0))
            await killed.wait()
            free.cancel()
        assert free.cancelled()
        assert there.limits("tenant") == there.limits("tenant/a") == LIMITS

    asyncio.run(asyncio.wait_for(scenario(), nodes.DEADLINE))


def test_a_free_that_fails_leaves_the_limits(there: There, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endings, "MARGIN", 0.01)

    async def scenario() -> None:
        await there.allocate()
        there.processes.begin("tenant")
        with pytest.raises(Unavailable, match="was killed and is there"):
            await there.cells.free("tenant", 0)
        assert there.limits("tenant") == there.limits("tenant/a") == LIMITS

    asyncio.run(scenario())


def test_the_limits_hold_for_the_levels_whose_grace_is_not_over(there: There) -> None:
    seen: list[tuple[str, dict[str, str]]] = []

    def stopped(id_: str, _grace: float) -> None:
        seen.append((id_, there.limits()))
        if there.limits() == LIFTED or id_ == "tenant:one":
            there.processes.stuck.discard(id_)

    async def scenario() -> None:
        await there.allocate()
        there.processes.begin("tenant", "tenant/a")
        there.processes.stopped = stopped
        await there.cells.free("tenant", 0)

    asyncio.run(scenario())
    assert seen == [("tenant/a:one", LIMITS), ("tenant/a:one", LIFTED), ("tenant:one", LIMITS)]
    assert there.cells.cell("tenant") is None

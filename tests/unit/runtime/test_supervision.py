"""What supervision keeps of the executables that wait, for as long as they do."""

import asyncio
from pathlib import Path

import pytest

from initd.errors import ResourceExhausted
from runtime.cells import supervision
from runtime.cells.cells import Cells
from runtime.cells.model import Cell, Executable
from runtime.cells.policy import Policy
from runtime.cells.specs import Specs
from runtime.cells.wanted import WantedFiles
from runtime.processes import Processes
from tests.unit.runtime import node as nodes


@pytest.fixture
def cells(tmp_path: Path) -> Cells:
    """With a PID 1 that has nothing, and is asked for nothing."""
    processes = Processes(tmp_path / "initd.sock")
    processes._here = True
    cells = Cells(
        nodes.FolderCgroups(tmp_path / "cgroup"),
        Specs(tmp_path / "cells"),
        WantedFiles(tmp_path / "executables"),
        processes,
        notify=tmp_path / "notify",
    )
    cells.recover()
    return cells


async def start(cells: Cells, cell: str | None, name: str, after: str, command: str = "-") -> None:
    executable = Executable(name=name, command=command, policy=Policy(after=(after,)))
    await cells.start(cell, executable, uid=0, gid=0)


def test_nothing_is_kept_of_what_one_that_is_gone_waited_for(cells: Cells) -> None:
    async def scenario() -> None:
        await cells.allocate(Cell(name="web"))
        for number in range(3):
            await start(cells, "web", "waits", f"never{number}")
            await start(cells, "web", "too", f"never{number}")
            await cells.stop("web", "waits", 0)
            assert list(cells._supervision._followers) == [f"web:never{number}"]
            await cells.stop("web", "too", 0)
        assert cells._supervision._followers == {}

    asyncio.run(scenario())


def test_an_outermost_cell_has_so_many_executables_that_wait_and_another_its_own(
    cells: Cells, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "MOST", 3)

    async def scenario() -> None:
        for name in ("web", "web/a", "db"):
            await cells.allocate(Cell(name=name))
        for cell in ("web", "db", None):
            for number in range(3):
                within = "web/a" if cell == "web" and number else cell
                await start(cells, within, f"e{number}", "never")
            with pytest.raises(
                ResourceExhausted, match=r"takes 3 executables .*; stop some first$"
            ):
                await start(cells, cell, "more", "never")
            assert cells.status(cell, "more") is None
        await cells.stop("web/a", "e2", 0)
        await start(cells, "web", "more", "never")

    asyncio.run(scenario())


def test_what_waits_in_an_outermost_cell_has_so_many_bytes(
    cells: Cells, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "MOST_BYTES", 100_000)

    async def scenario() -> None:
        await cells.allocate(Cell(name="web"))
        await start(cells, "web", "long", "never", command="x" * 60_000)
        with pytest.raises(ResourceExhausted, match="takes 100000 bytes of executables"):
            await start(cells, "web", "longer", "never", command="x" * 60_000)
        assert cells.status("web", "longer") is None
        await start(cells, "web", "short", "never")

    asyncio.run(scenario())

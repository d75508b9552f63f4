"""The mirror of what PID 1 knows of processes."""

import asyncio
from pathlib import Path

import pytest

from initd.processes.model import Process, Spawn, State
from runtime.processes import Processes
from tests.unit.runtime import node as nodes


class Raising:
    """A listener for which every change is too much."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def changed(self, process: Process) -> None:
        self.told.append(process.id)
        raise ValueError(process.id)

    def gone(self, id_: str) -> None:
        self.told.append(f"gone {id_}")
        raise ValueError(id_)

    def complete(self) -> None:
        self.told.append("complete")
        raise ValueError("complete")


async def run_one(processes: Processes) -> State:
    here = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        runs = tasks.create_task(processes.run(here.set))
        await here.wait()
        spawn = Spawn(id="one", argv=("/bin/true",), cgroup="one")
        process = await processes.ended(await processes.spawn(spawn))
        await processes.forget(process)
        assert not runs.done()
        runs.cancel()
    return process.state


def test_a_listener_that_raises_ends_nothing_and_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    listener = Raising()
    processes = Processes(tmp_path / "initd.sock")
    processes.listen(listener)
    with nodes.owner(tmp_path):
        state = asyncio.run(asyncio.wait_for(run_one(processes), nodes.DEADLINE))
    assert state is State.ENDED
    assert listener.told[0] == "complete"
    assert {"one", "gone one"} <= set(listener.told)
    assert "ValueError: complete" in caplog.text

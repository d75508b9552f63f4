"""A process owner without PID 1 and without cgroup2: real children, real pipes, plain folders."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from initd.client import Initd
from initd.control import Control
from initd.handover.model import Descriptor, HardwareState
from initd.handover.model import State as MachineState
from initd.linux import spawn
from initd.logs.budget import Budget
from initd.loop import Loop
from initd.processes.cgroups import Cgroups
from initd.processes.children import Children
from initd.processes.model import Process, State
from initd.processes.notify import Notify
from initd.processes.operations import ProcessOperations
from initd.processes.processes import Processes


class FolderCgroups(Cgroups):
    """Plain folders: a child writes its pid into cgroup.procs, its session stands for the rest."""

    def make(self, path: str) -> None:
        super().make(path)
        (self.root / path / "cgroup.procs").touch()

    def processes(self, path: str) -> Iterator[int]:
        procs = self.root / path / "cgroup.procs"
        # An init writes 0, itself; and 0 is every session that begins outside of a container.
        sessions = set(map(int, procs.read_text().split())) - {0} if procs.exists() else set()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(ProcessLookupError, FileNotFoundError):
                    if os.getsid(int(entry.name)) in sessions and not _is_zombie(entry):
                        yield int(entry.name)

    def of(self, pid: int) -> str:
        """The folder whose first process leads the session that `pid` is in."""
        session = str(os.getsid(pid))
        for procs in self.root.rglob("cgroup.procs"):
            if session in procs.read_text().split():
                return str(procs.parent.relative_to(self.root))
        return ""

    def populated(self, path: str) -> bool:
        return any(True for _ in self.processes(path))

    def kill(self, path: str) -> None:
        self.signal(path, signal.SIGKILL)

    def remove(self, path: str) -> None:
        (self.root / path / "cgroup.procs").unlink(missing_ok=True)
        super().remove(path)


def _is_zombie(process: Path) -> bool:
    return (process / "stat").read_text().rpartition(")")[2].split()[0] == "Z"


class Owner:
    """The process owner with its loop, driven by the test."""

    def __init__(self, folder: Path, state: MachineState | None = None) -> None:
        """With a `state` it goes on where another program of this process called `save`."""
        self.errors: list[BaseException] = []
        self.admitted: Callable[[int], bool] = lambda _: True
        self.events: list[Process] = []
        self.logs = folder / "logs"
        self.socket = folder / "initd.sock"
        self.root = folder / "cgroup"
        self.root.mkdir(exist_ok=state is not None)
        self.loop = Loop(self.errors.append)
        self.children = Children()
        self.cgroups = FolderCgroups(self.root)
        self.budget = Budget(total=64 * 1024 * 1024)
        self.processes = Processes(
            self.loop,
            self.children,
            self.cgroups,
            logs=self.logs,
            budget=self.budget,
            spawner=spawn.by_fork,
            on_change=self._changed,
        )
        self.notify = Notify(
            self.loop,
            folder / "notify",
            self.processes.told,
            None if state is None else state.notify,
        )
        if state is not None:
            self.processes.resume(state.processes)
        operations = ProcessOperations(self.processes)
        self.control = Control(
            self.loop,
            self.socket,
            {
                "spawn": operations.spawn,
                "signal": operations.signal,
                "stop": operations.stop,
                "list": operations.list,
                "finish": operations.finish,
                "forget": operations.forget,
            },
            admits=lambda pid: self.admitted(pid),
            owner=os.getuid(),
            state=None if state is None else state.control,
        )

    def save(self) -> MachineState:
        """What a machine would hand over."""
        return MachineState(
            version="0",
            began=time.monotonic(),
            steps=(),
            log=None,
            services=(),
            processes=self.processes.save(),
            control=self.control.save(),
            buttons={},
            notify=Descriptor(self.notify.descriptor),
            hardware=HardwareState(
                listener=None, waiting=(), look_again=False, due=None, loading=None
            ),
        )

    def _changed(self, process: Process) -> None:
        self.events.append(process)
        self.control.publish(process)

    def turn(self, limit: float) -> None:
        self.loop.turn(limit)
        self.children.reap()

    def until(self, condition: Callable[[], bool], seconds: float = 20.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"not within {seconds:g} s: {self.events[-3:]}"
            self.turn(0.005)
        assert not self.errors, self.errors

    def state(self, name: str) -> State:
        return self.process(name).state

    def process(self, name: str) -> Process:
        return {process.id: process for process in self.processes.list()}[name]

    def until_ended(self, name: str) -> Process:
        self.until(lambda: self.state(name) is State.ENDED)
        return self.process(name)

    def output(self, process: Process, name: str = "stdout") -> bytes:
        return (self.logs / str(process.serial) / name).read_bytes()

    @asynccontextmanager
    async def served(self) -> AsyncIterator[Initd]:
        """A client, while the owner runs beside it."""

        async def drive() -> None:
            while True:
                self.turn(0)
                await asyncio.sleep(0.001)

        async with asyncio.TaskGroup() as group:
            task = group.create_task(drive())
            async with Initd(self.socket, timeout=10) as client:
                yield client
            task.cancel()

    def close(self) -> None:
        self.processes.close()
        self.processes.kill_all()
        self.until(lambda: not list(self.processes.living()))
        for process in self.processes.list():
            self.processes.forget(process.id)
        self.notify.close()
        self.control.close()
        self.loop.close()

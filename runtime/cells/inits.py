"""The inits of isolated cells: who has one, how it is made, and who lives inside.

An init is a process of PID 1's like every other, so it outlives the runtime and is found again.
What the runtime has to know besides is in its `meta`: the cell, and the first of its user IDs.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from initd.errors import FailedPrecondition, InvalidArgument, ResourceExhausted, Unavailable
from initd.processes.model import USERS, Isolation, Process, Spawn, State
from runtime import scope
from runtime.cells import security
from runtime.cells.cgroups import CELLS, leaf
from runtime.cells.model import INIT, Cell, init_identity
from runtime.processes import Processes
from runtime.waiting import to_the_end

# User namespaces take whole ranges of so many IDs, from the second to the last but one.
RANGES: Final = range(1, (1 << 32) // USERS - 1)

# What the kernel shows for an ID that a user namespace does not have.
NOBODY: Final = 65534


class Inits:
    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._reserved: set[int] = set()

    def get(self, cell: str) -> Process | None:
        return self._processes.get(init_identity(cell))

    def of(self, line: Sequence[Cell]) -> Process | None:
        """The init whose namespaces the last cell of the line lives in; None: the node's own.

        `line` is a cell and those above it, the outermost first. FailedPrecondition: it has ended.
        """
        for cell in reversed(line):
            if cell.own_init:
                return self._running(cell.name)
        return None

    def _running(self, cell: str) -> Process:
        init = self.get(cell)
        if init is None or init.state is not State.RUNNING:
            raise FailedPrecondition(
                f"{scope.current().title(cell)}: its init has ended, and its namespaces with it; "
                "free the cell and allocate it anew"
            )
        return init

    async def begin(self, line: Sequence[Cell], outer: Process | None) -> bool:
        """Make the init of the last cell of the line. Returns whether the caller was cancelled
        meanwhile. FailedPrecondition says why there is none."""
        cell = line[-1]
        users = self._free_users() if _own(cell).user_namespace else 0
        self._reserved.add(users)
        try:
            asked = self._processes.spawn(_spawn(line, outer, users))
            process, cancelled = await to_the_end(asked)
            begun = self._processes.settled(process)
            process, again = await to_the_end(begun)
        finally:
            self._reserved.discard(users)
        if process.state is not State.RUNNING:
            why = process.error or "it was killed; see the limits of the cell and of those above"
            raise FailedPrecondition(
                f"{scope.current().title(cell.name)}: its init cannot begin: {why}"
            )
        return cancelled or again

    async def end(self, cell: str) -> None:
        """Of a cell that was not made after all. PID 1 may be away."""
        init = self.get(cell)
        if init is not None:
            with suppress(Unavailable):
                self._processes.end(init.id, 0)
                await self._processes.ended(init)
                await self._processes.forget(init)

    def inside(self, spawn: Spawn, line: Sequence[Cell]) -> Spawn:
        """The process as it is to run in the last cell of the line."""
        init = self.of(line)
        limits = _all(line)
        if limits.user_namespace and max(spawn.uid, spawn.gid) >= USERS:
            raise InvalidArgument(
                f"uid, gid: the cell's user namespace has 0 to {USERS - 1}, not "
                f"{max(spawn.uid, spawn.gid)}"
            )
        return spawn._replace(
            inside="" if init is None else init.id,
            confinement=security.confinement(limits),
        )

    def inner(self, line: Sequence[Cell], number: int) -> int:
        """What a user or group ID of the node is in the last cell of the line."""
        for cell in reversed(line):
            init = self.get(cell.name) if cell.own_init else None
            if init is not None and (base := init.meta.get("users")):
                return number - base if base <= number < base + USERS else NOBODY
        return number

    def _free_users(self) -> int:
        taken = self._reserved | {
            process.meta.get("users")
            for process in self._processes
            if process.init and process.state is not State.ENDED
        }
        for number in RANGES:
            if number * USERS not in taken:
                return number * USERS
        raise ResourceExhausted("cell.security.user_namespace: no user IDs are left; free a cell")


def _own(cell: Cell) -> security.Security:
    return (cell.security or security.NONE).resolved()


def _all(line: Sequence[Cell]) -> security.Security:
    return security.together(cell.security for cell in line if cell.security is not None)


def _spawn(line: Sequence[Cell], outer: Process | None, users: int) -> Spawn:
    cell = line[-1]
    limits = _all(line)
    return Spawn(
        id=init_identity(cell.name),
        argv=(),
        cgroup=leaf(cell.name, INIT),
        meta={"cell": cell.name, "users": users},
        inside="" if outer is None else outer.id,
        isolation=Isolation(
            hostname=cell.name.rpartition("/")[2],
            cgroup=f"{CELLS}/{cell.name}",
            process=cell.own_process,
            network=cell.isolate_network,
            read_only_root=limits.read_only_root,
            private_tmp=limits.private_tmp,
            private_dev=limits.private_dev,
            users=users,
        ),
    )

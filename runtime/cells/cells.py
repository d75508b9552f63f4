"""All cells of the node, and what happens in them."""

import asyncio
import errno
import logging
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from initd.errors import (
    AlreadyExists,
    AuraedError,
    FailedPrecondition,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)
from initd.processes.model import Log, Process, Spawn
from initd.processes.model import State as ProcessState
from initd.values import NamedTuple
from runtime import scope
from runtime.cells import limits
from runtime.cells import wanted as decisions
from runtime.cells.cgroups import Cgroups
from runtime.cells.changes import Allocated, Change, Changed, Changes, Forgotten, Freed
from runtime.cells.endings import MARGIN, Endings
from runtime.cells.inits import Inits
from runtime.cells.listening import listens
from runtime.cells.model import (
    LIMITS,
    SYSTEM,
    Cell,
    Executable,
    ancestors,
    depth_of,
    identity,
    parent,
    split,
    title,
    within,
)
from runtime.cells.policy import Kind
from runtime.cells.spawns import cell_of, runs_in, spawn_of
from runtime.cells.specs import Specs
from runtime.cells.status import Status, supervised, unsupervised
from runtime.cells.supervision import Supervision
from runtime.cells.wanted import Wanted, WantedFiles
from runtime.processes import Processes

log = logging.getLogger(__name__)

# Seconds until a Free that an earlier runtime began is tried again: first, and at most.
RETRY: Final = (1.0, 60.0)

# A cell costs the kernel some 28 KiB (Linux 6.12, two CPUs), and us little more: so all of them
# have at most a quarter of the memory. At least and at most so many are taken; List stays fast.
CELL_MEMORY: Final = 128 * 1024
MOST: Final = (1_000, 10_000)


class Node(NamedTuple):
    """A cell with what is in it."""

    cell: Cell | None
    """None for the system's own cell."""
    children: tuple["Node", ...]
    executables: tuple[Status, ...]
    init: Process | None = None


class Cells:
    """The cells: what is allocated, what runs in it.

    `allocate` does all of its work in one turn of the loop, so nothing comes between and no
    cancellation can tear it; a cell that needs an init counts as there from the beginning, and
    nothing can be done with it until the init is ready. `free` first marks its subtree, so that
    nothing is allocated or started there while it ends what runs; two may free the same cell, the
    shorter grace wins.
    """

    def __init__(
        self,
        cgroups: Cgroups,
        specs: Specs,
        wanted: WantedFiles,
        processes: Processes,
        *,
        notify: Path,
        most: int | None = None,
    ) -> None:
        """`notify` is PID 1's socket of sd_notify(3). `most` cells at one time; by default
        what the node's memory is for."""
        self._notify = notify
        self._cgroups = cgroups
        self._specs = specs
        self._processes = processes
        self._endings = Endings(processes, cgroups, self._limits)
        self._supervision = Supervision(processes, wanted, self)
        self._changes = Changes()
        # What watchers know, while there are any.
        self._told: dict[str, Status] = {}
        # Cells of which nothing is left but what PID 1 remembers of their processes.
        self._going: set[str] = set()
        processes.listen(self)
        self._cells: dict[str, Cell] = {}
        self._freeing: Counter[str] = Counter()
        self._starting: dict[str, set[asyncio.Future[Process]]] = {}
        self._most = most or max(MOST[0], min(MOST[1], _memory() // CELL_MEMORY))
        self._unfinished: dict[str, float] = {}
        self._half_made: list[str] = []
        self.on_removed: Callable[[str], None] = lambda _name: None
        """Told of each cell that is gone."""
        self.quota: Callable[[str], int] = lambda _tenant: self._most
        """How many cells there may be in that of a tenant."""
        self._inits = Inits(processes)
        self._allocating: set[str] = set()

    def recover(self) -> None:
        """Know again what an earlier runtime made, and undo what it left half-made.

        Cgroups that nobody allocated are left alone: a workload may have made them for itself.
        """
        self._cgroups.prepare()
        specs = self._specs.read()
        self._cells = {
            name: cell
            for name, cell in sorted(specs.items())
            if all(above in specs for above in ancestors(name)) and self._cgroups.exists(name)
        }
        for name in self._specs.half_made():
            try:
                if name not in self._cells:
                    self._cgroups.remove(name)
                    log.warning("cell %s: was half-made, removed", name)
                self._specs.drop(name)
            except OSError as e:
                if e.errno != errno.EBUSY:
                    log.error("cell %s: is half-made and cannot be removed: %s", name, e)
                else:
                    self._half_made.append(name)
        for name in sorted(specs.keys() - self._cells.keys(), reverse=True):
            self._specs.remove(name)
        self._supervision.recover({*self._cells, SYSTEM})
        self._unfinished = {
            name: grace for name, grace in self._specs.marked().items() if name in self._cells
        }
        for name in self._unfinished:
            self._freeing.update(self._subtree(name))
        self._supervision.stop_all(list(self._freeing))

    async def settle(self) -> None:
        """After `recover`, once PID 1 is heard: free what was being freed, and forget what ended in
        cells that are gone. Until then nothing is started there."""
        for name, grace in self._unfinished.items():
            subtree = self._subtree(name)
            delay = RETRY[0]
            while name in self._cells:
                log.warning("cell %s: was being freed, freeing it", name)
                try:
                    await self.free(name, grace)
                except (AuraedError, OSError) as e:
                    log.error("cell %s: cannot be freed, trying again: %s", name, e)
                    await asyncio.sleep(delay)
                    delay = min(2 * delay, RETRY[1])
            self._release(subtree)
        self._unfinished = {}
        while self._half_made:
            # Its init lives, and its namespaces are good for nothing.
            name = self._half_made[0]
            await self._unmake(name)
            self._specs.drop(name)
            self._half_made.remove(name)
            log.warning("cell %s: was half-made, removed", name)
        for process in self._processes:
            cell = cell_of(process)
            if cell not in (None, SYSTEM) and cell not in self._cells:
                if process.state is ProcessState.ENDED:
                    await self._processes.forget(process)
                else:
                    log.error("process %s: runs in a cell that is gone", process.id)

    async def allocate(self, cell: Cell) -> None:
        """Make a cell with its limits. Either all of it exists afterwards or none."""
        for above in ancestors(cell.name):
            if above not in self._cells:
                raise NotFound(f"{_title(cell.name)}: allocate {_name(above)} first")
        if cell.name in self._cells:
            raise AlreadyExists(f"{_title(cell.name)}: is allocated already; free it first")
        self._refuse_freeing(cell.name)
        self._check_room(cell.name)
        self._check_there(parent(cell.name))
        limits.check(cell, self._cgroups)
        line = self._line(cell)
        outer = self._inits.of(line[:-1])
        if cell.own_init:
            await self._allocate_isolated(cell, line, outer)
        else:
            with self._specs.written(cell):
                self._make(cell)
            self._cells[cell.name] = cell
        self._changes.publish(time.time_ns(), Allocated(cell))

    def adjust(self, cell: Cell) -> None:
        """Give a cell the limits of `cell`, where it is there; isolation and security stay.

        One that the kernel refuses ends it: those before it hold, and the file says the old ones.
        """
        before = self._cells.get(cell.name)
        if before is None or cell.name in self._going:
            return
        after = before._replace(**{field: getattr(cell, field) for field in LIMITS})
        limits.check(after, self._cgroups)
        with self._specs.replaced(after):
            for file, value in limits.changed(before, after).items():
                limits.write(self._cgroups, cell.name, file, value)
        self._cells[cell.name] = after

    def _limits(self, name: str) -> Mapping[str, str]:
        """What the files of a cell's cgroup are to say."""
        cell = self._cells.get(name)
        return {} if cell is None else cell.files()

    def _make(self, cell: Cell) -> None:
        """The cgroup and its limits, or nothing."""
        with ExitStack() as undo:
            self._create(cell.name)
            undo.callback(self._cgroups.remove, cell.name)
            for file, value in cell.files().items():
                limits.write(self._cgroups, cell.name, file, value)
            undo.pop_all()

    async def _allocate_isolated(
        self, cell: Cell, line: Sequence[Cell], outer: Process | None
    ) -> None:
        """With an init. To the end, also when the caller leaves."""
        name = cell.name
        with self._specs.written(cell):
            self._make(cell)
            self._cells[name] = cell
            self._allocating.add(name)
            try:
                cancelled = await self._inits.begin(line, outer)
            except BaseException:
                await self._unmake(name)
                del self._cells[name]
                raise
            finally:
                self._allocating.discard(name)
        if cancelled:
            raise asyncio.CancelledError

    async def _unmake(self, name: str) -> None:
        """What is there of a cell whose init could not begin. What cannot be removed is logged."""
        try:
            await self._inits.end(name)
            await self._remove_cgroup(name)
        except (AuraedError, OSError) as e:
            log.error("cell %s: is half-made and cannot be removed: %s", name, e)

    def _check_room(self, name: str) -> None:
        """A caller in a cell leaves half of the room to the others, and a tenant has its quota."""
        there, most, whose = len(self._cells), self._most, "this node"
        outermost = name.partition("/")[0]
        quota = self._quota(outermost) if outermost != name else None
        if quota is not None or scope.current().cell is not None:
            there, most, whose = len(self._subtree(outermost)), most // 2, "a cell of this node"
        if quota is not None and quota < most:
            # The tenant's own cell is the node's.
            there, most, whose = there - 1, quota, f"tenant {outermost}"
        if there >= most:
            raise ResourceExhausted(
                f"{_title(name)}: {whose} takes {most} cells and has as many; free some first"
            )

    def _quota(self, outermost: str) -> int | None:
        """None: it is no tenant's. It is where the node made it so, and where a tenant calls."""
        home = self._cells.get(outermost)
        tenants = home is not None and home.tenant
        return self.quota(outermost) if tenants or scope.current().tenant else None

    def tenants(self) -> Iterator[str]:
        """Those for whom the node has made a cell that is there."""
        return (name for name, cell in self._cells.items() if cell.tenant)

    def _create(self, name: str) -> None:
        try:
            self._cgroups.create(name)
        except FileExistsError as e:
            raise FailedPrecondition(
                f"{_title(name)}: somebody else has made a cgroup there; remove that first"
            ) from e

    def _check_there(self, name: str | None) -> None:
        if name is not None and not self._cgroups.exists(name):
            raise FailedPrecondition(
                f"{_title(name)}: somebody else has removed its cgroup; free it, then allocate it "
                "anew"
            )

    def _line(self, cell: Cell) -> list[Cell]:
        """The cell and those above it, the outermost first."""
        return [*(self._cells[above] for above in ancestors(cell.name)), cell]

    def cell(self, name: str) -> Cell | None:
        return self._cells.get(name)

    def status(self, name: str | None, executable: str) -> Status | None:
        """How an executable stands; None: there is none. NotFound: there is no such cell."""
        with suppress(NotFound):
            return self._status(identity(self._existing(name), executable))
        self._existing(name)
        return None

    async def start(
        self, name: str | None, executable: Executable, *, uid: int, gid: int
    ) -> Status:
        """Start an executable. It exists when this returns, or waits for those that it is to come
        after; cancelled, it is killed."""
        cell = self._existing(name)
        self._refuse_freeing(cell)
        self._check_there(cell)
        id_ = identity(cell, executable.name)
        before = self._processes.get(id_)
        self._refuse_existing(cell, executable.name, before)
        wanted = Wanted(
            cell=cell,
            executable=executable,
            uid=uid,
            gid=gid,
            handled=before.serial if before is not None else 0,
        )
        # Before anything is done: what is wrong with it must be told now.
        spawn = self.spawn_of(wanted, Log.OWN)
        if executable.policy.supervised:
            await self._supervision.start(wanted)
        else:
            await self._start(cell, spawn)
            self._supervision.drop(id_)
        return self._status(id_)

    def _refuse_existing(self, cell: str, name: str, before: Process | None) -> None:
        said = title(cell, name)
        if before is not None and before.state is not ProcessState.ENDED:
            raise AlreadyExists(
                f"{said}: runs already as process {before.pid}; stop it first, or use another name"
            )
        wanted = self._supervision.get(identity(cell, name))
        if wanted is not None and wanted.rest is None:
            standing = decisions.state(wanted, before).value
            raise AlreadyExists(
                f"{said}: is there already ({standing}); stop it first, or use another name"
            )

    async def _start(self, cell: str, spawn: Spawn) -> Process:
        id_ = spawn.id
        future = self._processes.spawn(spawn)
        starting = self._starting.setdefault(cell, set())
        starting.add(future)
        future.add_done_callback(starting.discard)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            future.add_done_callback(lambda done: self._abandon(id_, done))
            raise

    def _abandon(self, id_: str, started: asyncio.Future[Process]) -> None:
        if not started.cancelled() and started.exception() is None:
            log.warning("process %s: its caller left while it was started, killed", id_)
            self._processes.end(id_, 0)

    async def stop(self, name: str | None, executable: str, grace: float) -> None:
        """End the tree of an executable, and start it no more. It is gone when this returns."""
        cell = self._existing(name)
        id_ = identity(cell, executable)
        if self._supervision.get(id_) is not None:
            self._supervision.stop(id_)
            await self._settled([cell])
            if self._supervision.get(id_) is None:
                return
        process = self._processes.get(id_)
        if process is not None:
            await self._endings.of([process], grace)
        elif self._supervision.get(id_) is None:
            raise NotFound(f"{title(cell, executable)}: does not exist; start it first")

    async def wait(self, name: str | None, executable: str, *, ready: bool = False) -> Status:
        """Wait until an executable has come to rest, or until it is ready. Unbounded.

        FailedPrecondition: it has come to rest and is not ready."""
        id_ = identity(self._existing(name), executable)
        while (wanted := self._supervision.get(id_)) is not None:
            if wanted.rest is not None or (ready and self._supervision.is_ready(id_)):
                break
            await self._supervision.changed(id_)
        else:
            process = self._process(name, executable)
            if not (ready and self.is_ready(id_)):
                await self._processes.ended(process)
        status = self._status(id_)
        if ready and not status.ready:
            raise FailedPrecondition(_unready(id_, status))
        return status

    async def free(self, name: str, grace: float) -> None:
        """End all that runs in the cell and below, children first, and remove it all.

        Cancelled before the end, what was signalled ends all the same and the cells stay.
        """
        self._existing(name)
        for cell in self._allocating:
            if within(cell, name):
                raise FailedPrecondition(
                    f"{_title(cell)}: is being allocated; wait until it is there"
                )
        subtree = self._subtree(name)
        with self._marked(name, subtree, grace):
            self._supervision.stop_all(subtree)
            await self._settled(subtree)
            await self._endings.all_of(subtree, grace)
            for cell in sorted(subtree, key=depth_of, reverse=True):
                await self._remove(cell)

    async def _settled(self, cells: Sequence[str]) -> None:
        """Wait until PID 1 has answered what it was asked to start."""
        starting = [f for cell in cells for f in self._starting.get(cell, ())]
        if starting := [*starting, *self._supervision.starting(cells)]:
            await asyncio.wait(starting)

    async def _remove(self, name: str) -> None:
        if name not in self._cells:
            return
        await self._remove_cgroup(name)
        self._specs.remove(name)
        self._going.add(name)
        self._starting.pop(name, None)
        self.on_removed(name)
        self._supervision.drop_cell(name)
        for process in self._processes:
            if cell_of(process) == name:
                await self._processes.forget(process)
        # Last: who sees that it is gone may allocate it again.
        self._going.discard(name)
        if self._cells.pop(name, None) is None:
            return
        for id_ in [id_ for id_ in self._told if split(id_)[0] == name]:
            del self._told[id_]
        self._changes.publish(time.time_ns(), Freed(name))

    async def _remove_cgroup(self, name: str) -> None:
        """A workload that is root may have made cgroups of its own here: they go too."""
        deadline = asyncio.get_running_loop().time() + MARGIN
        delay = 0.001
        while True:
            try:
                self._cgroups.remove(name)
            except OSError as e:
                if e.errno != errno.EBUSY or asyncio.get_running_loop().time() > deadline:
                    raise
                self._cgroups.kill(name)
            else:
                return
            await asyncio.sleep(delay)
            delay = min(2 * delay, 0.25)

    def holding(self, cgroup: str) -> str | None:
        """The innermost cell that a process is in by its cgroup, a path below the root of the tree.

        None: it is in none, or in the system's own. PermissionDenied: in the folder of the cells,
        but in none that is allocated.
        """
        below = self._cgroups.below(cgroup)
        if below is None or within(below, SYSTEM):
            return None
        there = [name for name in (*ancestors(below), below) if name in self._cells]
        if not there:
            raise PermissionDenied(f"cgroup {cgroup}: is no cell's")
        return there[-1]

    def inner_ids(self, cell: str, uid: int, gid: int) -> tuple[int, int]:
        """What the node's user and group IDs are in the cell."""
        line = self._line(self._cells[cell])
        return self._inits.inner(line, uid), self._inits.inner(line, gid)

    def list(self, inside: str | None = None, *, whole: bool = False) -> tuple[Node, ...]:
        """The cells inside of a cell, or all, as a forest by name.

        Last comes the cell itself, without its children; the system's own if it has executables.
        `whole`: the cell itself with all that is in it, if it is there.
        """
        if inside is not None and not (whole and inside not in self._cells):
            self._existing(inside)
        statuses = self._by_cell(inside)
        children: dict[str | None, list[str]] = {}
        for name in sorted(self._cells):
            children.setdefault(parent(name), []).append(name)

        def node(name: str) -> Node:
            return Node(
                self._cells[name],
                tuple(map(node, children.get(name, ()))),
                tuple(statuses.get(name, ())),
                self._inits.get(name),
            )

        if inside is not None and whole:
            return (node(inside),) if inside in self._cells else ()
        nodes = tuple(map(node, children.get(inside, ())))
        if inside is not None:
            return (*nodes, Node(self._cells[inside], (), tuple(statuses.get(inside, ()))))
        if SYSTEM in statuses:
            nodes += (Node(None, (), tuple(statuses[SYSTEM])),)
        return nodes

    def _by_cell(self, inside: str | None) -> Mapping[str, Sequence[Status]]:
        """How the executables of each cell stand, of those inside of a cell, or of all."""
        statuses: dict[str, list[Status]] = {}
        for process in self._processes:
            cell = runs_in(process)
            if cell is not None and (inside is None or within(cell, inside)):
                statuses.setdefault(cell, []).append(self._status(process.id))
        for wanted in self._supervision:
            # What waits has no process yet. It comes after those that have one.
            if self._processes.get(wanted.id) is None:
                statuses.setdefault(wanted.cell, []).append(self._status(wanted.id))
        return statuses

    def _subtree(self, name: str) -> tuple[str, ...]:
        return tuple(cell for cell in self._cells if within(cell, name))

    def _existing(self, name: str | None) -> str:
        if name is None:
            return SYSTEM
        if name not in self._cells:
            raise NotFound(f"{_title(name)}: does not exist; allocate it first")
        return name

    def _status(self, id_: str) -> Status:
        process = self._processes.get(id_)
        wanted = self._supervision.get(id_)
        if wanted is not None:
            return supervised(wanted, process, self._supervision.waiting_for(wanted))
        if process is None:
            raise NotFound(f"{title(*split(id_))}: is gone; start it again")
        return unsupervised(process)

    # What supervision needs

    def spawn_of(self, wanted: Wanted, output: Log) -> Spawn:
        spawn = spawn_of(wanted.cell, wanted.executable, uid=wanted.uid, gid=wanted.gid)
        if wanted.cell != SYSTEM:
            spawn = self._inits.inside(spawn, self._line(self._cells[wanted.cell]))
        # In an isolated cell nobody but the process itself looks at files: they are the cell's own.
        if not spawn.inside and not _is_folder(spawn.cwd):
            raise FailedPrecondition(
                f"executable.working_directory: {spawn.cwd} is no folder on this node; make it "
                "first"
            )
        if wanted.executable.policy.readiness.kind is Kind.NOTIFY:
            spawn = spawn._replace(env={**spawn.env, "NOTIFY_SOCKET": str(self._notify)})
        return spawn._replace(log=output)

    def is_ready(self, id_: str) -> bool:
        process = self._processes.get(id_)
        return process is not None and unsupervised(process).ready

    def listens(self, wanted: Wanted) -> bool:
        pids = self._cgroups.processes(wanted.cell, wanted.executable.name)
        return listens(pids, wanted.executable.policy.readiness.listen)

    def announce(self, id_: str) -> None:
        """Tell watchers how an executable stands, if they do not know."""
        cell, name = split(id_)
        if not self._changes.watched or not self._known(cell):
            return
        try:
            status = self._status(id_)
        except Unavailable:  # all is looked at when PID 1 is back
            return
        except NotFound:
            if self._told.pop(id_, None) is not None:
                self._changes.publish(time.time_ns(), Forgotten(cell, name))
            return
        if self._told.get(id_) != status:
            self._told[id_] = status
            self._changes.publish(time.time_ns(), Changed(cell, status))

    def _known(self, cell: str) -> bool:
        return cell == SYSTEM or (cell in self._cells and cell not in self._going)

    async def watch(
        self, inside: str | None = None, *, whole: bool = False
    ) -> AsyncIterator[tuple[Node, ...] | tuple[int, Change]]:
        """What there is inside of a cell, or at all, then each change with its time. Without an
        end."""
        first = not self._changes.watched
        with self._changes.watching(inside) as watcher:
            if first:
                self._told = dict(_statuses(self.list()))
            yield self.list(inside, whole=whole)
            while True:
                yield await watcher.next()

    def close(self) -> None:
        """Start nothing again: the node goes down."""
        self._supervision.close()

    # What PID 1 tells

    def changed(self, process: Process) -> None:
        self._supervision.process_changed(process.id)
        if runs_in(process) is not None:
            self.announce(process.id)

    def gone(self, id_: str) -> None:
        self.announce(id_)

    def complete(self) -> None:
        self._supervision.look_at_all(self._freeing)
        here = [process.id for process in self._processes if runs_in(process) is not None]
        for id_ in {*here, *self._told}:
            self.announce(id_)

    def _process(self, name: str | None, executable: str) -> Process:
        cell = self._existing(name)
        process = self._processes.get(identity(cell, executable))
        if process is None:
            raise NotFound(f"{title(cell, executable)}: does not exist; start it first")
        return process

    def _refuse_freeing(self, name: str) -> None:
        for cell in (*ancestors(name), name):
            if self._freeing[cell]:
                raise FailedPrecondition(f"{_title(cell)}: is being freed; wait until it is gone")
            if cell in self._allocating:
                raise FailedPrecondition(
                    f"{_title(cell)}: is being allocated; wait until it is there"
                )
            if cell in self._half_made:
                raise Unavailable(f"{_title(cell)}: what was half made of it goes; try again")

    @contextmanager
    def _marked(self, name: str, cells: Sequence[str], grace: float) -> Iterator[None]:
        """Nothing is begun in `cells`, and a later runtime finishes what is begun here."""
        try:
            self._specs.mark(name, grace)
        except OSError as e:
            # A node that is full can be freed all the same.
            log.warning("cell %s: is freed without a note on file: %s", name, e)
        self._freeing.update(cells)
        try:
            yield
        finally:
            self._release(cells)

    def _release(self, cells: Sequence[str]) -> None:
        self._freeing.subtract(cells)
        for cell in cells:
            if not self._freeing[cell]:
                del self._freeing[cell]
                self._specs.unmark(cell)


def _title(cell: str) -> str:
    """How messages call a cell: as the caller knows it."""
    return scope.current().title(cell)


def _name(cell: str) -> str:
    return scope.current().relative(cell)


def _memory() -> int:
    """Bytes of the machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _statuses(nodes: Sequence[Node]) -> Iterator[tuple[str, Status]]:
    for node in nodes:
        cell = SYSTEM if node.cell is None else node.cell.name
        for status in node.executables:
            yield identity(cell, status.executable.name), status
        yield from _statuses(node.children)


def _unready(id_: str, status: Status) -> str:
    why = status.reason or f"is {status.state.value}"
    return f"{title(*split(id_))}: is not ready and will not be: {why}; see its output"


def _is_folder(path: str) -> bool:
    return Path(path).is_dir()

"""All processes of workloads: PID 1 makes them, keeps their output and sees them end."""

import errno
import functools
import os
import signal
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from initd.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unavailable,
)
from initd.linux.spawn import Spawner
from initd.linux.splice import make_pipe
from initd.logs.budget import Budget
from initd.logs.pump import Pump
from initd.logs.stream import Stream
from initd.loop import Loop, Timer
from initd.processes import gate
from initd.processes.cgroups import Cgroups
from initd.processes.children import Children, Ending
from initd.processes.command import resolve
from initd.processes.model import Confinement, Isolation, Log, Process, Spawn, State
from initd.processes.notify import Message
from initd.processes.template import Template

if TYPE_CHECKING:
    from initd.handover.model import OwnedState, ProcessesState
    from initd.processes.inits import Report


ENDED_LIMIT: Final = 1024
_STREAMS: Final = {1: "stdout", 2: "stderr"}
# How long after its kill a leaf is looked at again, when no ending came that would have told.
_RECHECK: Final = 0.02
_RECHECK_LIMIT: Final = 1.0
# How often, at most, others hear of a process's new status, in seconds.
_SAY: Final = 0.25


class _Owned:
    """A process and what PID 1 holds for it."""

    __slots__ = (
        "ending",
        "folder",
        "kill_at",
        "log_open",
        "process",
        "pumps",
        "recheck",
        "report",
        "said",
        "saying",
        "timer",
    )

    def __init__(
        self, process: Process, folder: Path, pumps: tuple[Pump, ...], *, log_open: bool
    ) -> None:
        self.process = process
        self.folder = folder
        self.pumps = pumps
        self.log_open = log_open
        self.timer: Timer | None = None
        self.kill_at = 0.0
        self.ending: Ending | None = None
        self.recheck = _RECHECK
        # Its status, which others hear of a little later.
        self.said = ""
        self.saying: Timer | None = None
        self.report: Report | None = None


class Processes:
    """`on_change` is told every change of every process, in order."""

    def __init__(
        self,
        loop: Loop,
        children: Children,
        cgroups: Cgroups,
        *,
        logs: Path,
        budget: Budget,
        spawner: Spawner,
        on_change: Callable[[Process], None],
    ) -> None:
        self._loop = loop
        self._children = children
        self._cgroups = cgroups
        self._logs = logs
        self._budget = budget
        self._spawner = spawner
        self._on_change = on_change
        self._owned: dict[str, _Owned] = {}
        # Ended ones by id, the one that ended first in front.
        self._ended: dict[str, _Owned] = {}
        # Those that have not ended, by leaf.
        self._leaves: dict[str, _Owned] = {}
        self._serial = 0
        self._closed = False
        self._template = Template()

    def spawn(self, spawn: Spawn, fds: Mapping[int, int]) -> Process:
        """Either all of it exists afterwards, or nothing. `fds` stay the caller's to close."""
        if self._closed:
            raise Unavailable("node: going down, it starts nothing any more")
        former = self._owned.get(spawn.id)
        if former is not None and former.process.state is not State.ENDED:
            raise AlreadyExists(
                f"process {spawn.id}: runs already as pid {former.process.pid}: stop it first"
            )
        if spawn.isolation is not None:
            return self._spawn_init(spawn, spawn.isolation, former)
        path, argv = self._resolve(spawn)
        serial = self._serial + 1
        continued = former if spawn.log is Log.APPEND and former and former.log_open else None
        with ExitStack() as undo:
            self._make_leaf(spawn.cgroup)
            undo.callback(self._cgroups.remove, spawn.cgroup)
            folder = self._logs / str(serial) if continued is None else continued.folder
            if continued is None:
                folder.mkdir(parents=True, mode=0o700)
                undo.callback(_remove, folder)
            with ExitStack() as theirs:
                pumps, pipes = self._make_streams(folder, continued, fds, undo, theirs)
                null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
                theirs.callback(os.close, null)
                started = time.time_ns()
                pid = self._execute(spawn, path, argv, {0: null, **pipes, **fds})
            undo.pop_all()
        process = _process(spawn, serial, pid, started)
        if continued is not None:
            process = process._replace(log=continued.process.log)
            self._ended.pop(spawn.id, None)
        elif former is not None:
            self._drop(former)
        self._own(_Owned(process, folder, pumps, log_open=spawn.log is not Log.OWN))
        return process

    def _spawn_init(self, spawn: Spawn, isolation: Isolation, former: _Owned | None) -> Process:
        """It is starting when this returns; whether it comes to run is told as a change."""
        from initd.processes import inits

        serial = self._serial + 1
        outer = self._init(spawn.inside)
        with ExitStack() as undo:
            self._make_leaf(spawn.cgroup)
            undo.callback(self._cgroups.remove, spawn.cgroup)
            folder = self._logs / str(serial)
            folder.mkdir(parents=True, mode=0o700)
            undo.callback(_remove, folder)
            started = time.time_ns()
            pid, connection = inits.make(
                self._template,
                self._cgroups,
                isolation,
                spawn.cgroup,
                outer=outer.pid if outer else None,
            )
            undo.pop_all()
        process = _process(spawn, serial, pid, started)._replace(state=State.STARTING, init=True)
        owned = _Owned(process, folder, (), log_open=False)
        self._hear(owned, connection, isolation.users)
        if former is not None:
            self._drop(former)
        self._own(owned)
        return process

    def _own(self, owned: _Owned) -> None:
        process = owned.process
        self._serial = process.serial
        self._owned[process.id] = owned
        self._leaves[process.cgroup] = owned
        self._children.add(process.pid, functools.partial(self._first_ended, owned))
        self._on_change(process)

    def _init(self, id: str) -> Process | None:  # noqa: A002
        """The init that a new process is to live in. FailedPrecondition: it does not run."""
        if not id:
            return None
        owned = self._find(id)
        if owned.process.state is not State.RUNNING or owned.ending is not None:
            raise FailedPrecondition(f"process {id}: {owned.process.state}: make another")
        if not owned.process.init:
            raise FailedPrecondition(f"process {id}: is no init: name one")
        return owned.process

    def _hear(self, owned: _Owned, connection: socket.socket, users: int) -> None:
        """An init's report, until it is ready."""
        from initd.processes import inits

        report = inits.Report(self._loop, connection, lambda e: self._reported(owned, e))
        report.watch(owned.process.pid, users)
        owned.report = report

    def _reported(self, owned: _Owned, error: str) -> None:
        if owned.process.state is not State.STARTING:
            return
        if error:
            owned.process = owned.process._replace(error=error)
            self._kill(owned)
        else:
            self._set(owned, owned.process._replace(state=State.RUNNING))

    def signal(self, id: str, number: int) -> None:  # noqa: A002
        """To the first process only."""
        if not 0 < number < signal.NSIG:
            raise InvalidArgument(f"signal {number}: must be from 1 to {signal.NSIG - 1}")
        owned = self._living(id)
        with suppress(ProcessLookupError):
            os.kill(owned.process.pid, number)

    def told(self, pid: int, message: Message) -> None:
        """A process says something of itself: what counts is the leaf that it lives in. Nobody's
        word is left out, and that of one that has ended."""
        owned = self._speaker(pid)
        if owned is None:
            return
        if message.status is not None:
            owned.said = message.status
        if message.ready and not owned.process.ready:
            self._set(owned, owned.process._replace(ready=True, status=owned.said))
        elif owned.said != owned.process.status and owned.saying is None:
            # Who chats must not keep those busy who listen to changes.
            owned.saying = self._loop.later(_SAY, lambda: self._say(owned))

    def stop(self, id: str, grace: float) -> Process:  # noqa: A002
        """SIGTERM to the whole leaf now, SIGKILL after `grace` seconds; answers at once. An init is
        killed as soon as nobody is left inside, and after `grace` whoever is.

        Asked again, an earlier end counts. A process that has ended is left as it is."""
        if not grace >= 0:
            raise InvalidArgument(f"grace {grace}: must be 0 or more seconds")
        owned = self._find(id)
        if owned.process.state is State.ENDED or owned.ending is not None:
            return owned.process
        if owned.process.state in (State.STARTING, State.RUNNING):
            self._set(owned, owned.process._replace(state=State.STOPPING))
            # An init waits for those inside, who are told themselves.
            if owned.process.init and not self._inside(owned):
                grace = 0
            elif grace > 0 and not owned.process.init:
                self._terminate(owned)
        self._kill_after(owned, grace)
        return owned.process

    def _inside(self, init: _Owned) -> bool:
        """Whether anything that we started lives in the init's namespaces."""
        id_ = init.process.id
        return any(
            owned.process.inside == id_ and owned.process.state is not State.ENDED
            for owned in self._owned.values()
        )

    def list(self) -> list[Process]:
        """The oldest first."""
        processes = [owned.process for owned in self._owned.values()]
        return sorted(processes, key=lambda process: process.serial)

    def finish(self, id: str) -> None:  # noqa: A002
        """Close the log of an ended process: no other run follows. Once more does no harm."""
        owned = self._find(id)
        if owned.process.state is not State.ENDED:
            raise FailedPrecondition(f"process {id}: has not ended: stop it first")
        if owned.log_open:
            owned.log_open = False
            for pump in owned.pumps:
                pump.stream.finish()

    def forget(self, id: str) -> None:  # noqa: A002
        owned = self._find(id)
        if owned.process.state is not State.ENDED:
            raise FailedPrecondition(f"process {id}: has not ended: stop it first")
        self._drop(owned)
        del self._owned[id]

    def save(self) -> "ProcessesState":
        from initd.handover.model import ProcessesState

        return ProcessesState(
            serial=self._serial,
            owned=tuple(map(_save, self._owned.values())),
            ended=tuple(self._ended),
        )

    def resume(self, state: "ProcessesState") -> None:
        """Own what another program of this process owned, before the next reap."""
        self._serial = state.serial
        for item in state.owned:
            pumps = tuple(Pump.resume(self._loop, pump, self._budget) for pump in item.pumps)
            owned = _Owned(item.process, Path(item.folder), pumps, log_open=item.log_open)
            owned.kill_at, owned.recheck, owned.said = item.kill_at, item.recheck, item.said
            self._owned[item.process.id] = owned
            if item.process.state is not State.ENDED:
                self._leaves[item.process.cgroup] = owned
                # Others have still to hear of it; that they can, they are to be taken over first.
                owned.saying = self._loop.later(_SAY, functools.partial(self._say, owned))
            if item.ending is not None:
                owned.ending = Ending(item.ending.code, item.ending.signal)
                self._finish_later(owned)
            elif item.process.state is not State.ENDED:
                self._children.add(item.process.pid, functools.partial(self._first_ended, owned))
                if item.pending:
                    self._kill_at(owned, item.kill_at)
                if item.report is not None:
                    connection = socket.socket(fileno=item.report.connection)
                    self._hear(owned, connection, item.report.users)
        self._ended = {id_: self._owned[id_] for id_ in state.ended}

    def close(self) -> None:
        """Start nothing any more."""
        self._closed = True
        self._template.close()

    def living(self) -> Iterable[Process]:
        return [p for p in self.list() if p.state is not State.ENDED]

    def kill_all(self) -> None:
        """What has not ended by now is killed."""
        for process in self.living():
            self._kill(self._owned[process.id])

    def _make_leaf(self, path: str) -> None:
        try:
            self._cgroups.make(path)
        except FileExistsError as error:
            raise AlreadyExists(f"cgroup {path}: exists already: use another") from error
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFound(f"cgroup {path}: its parent does not exist: make that first") from error

    def _make_streams(
        self,
        folder: Path,
        continued: _Owned | None,
        fds: Mapping[int, int],
        undo: ExitStack,
        theirs: ExitStack,
    ) -> tuple[tuple[Pump, ...], dict[int, int]]:
        """Pumps, and the write ends for the child. A stream that the caller passed stays as it is.

        Those of a process whose log is continued lose their streams to the new ones only when all
        has worked: neither has a pipe any more that it could read from."""
        pumps = []
        pipes: dict[int, int] = {}
        for index, (number, name) in enumerate(_STREAMS.items()):
            read, write = make_pipe()
            theirs.callback(os.close, write)
            try:
                if continued is None:
                    stream = Stream(folder / name)
                else:
                    stream = continued.pumps[index].stream
                    stream.end_line()
                pump = Pump(self._loop, read, stream, self._budget)
            except BaseException:
                os.close(read)
                raise
            undo.callback(pump.close if continued is None else pump.detach)
            if number in fds:
                pump.drain()
            else:
                pipes[number] = write
            pumps.append(pump)
        return tuple(pumps), pipes

    def _resolve(self, spawn: Spawn) -> tuple[str, tuple[str, ...]]:
        if spawn.inside or spawn.confinement != Confinement():
            # Files of the cell are looked at by nobody but its processes: they may never answer.
            return spawn.argv[0], spawn.argv
        return resolve(spawn)

    def _execute(
        self, spawn: Spawn, path: str, argv: tuple[str, ...], fds: Mapping[int, int]
    ) -> int:
        """Start it beside us and move it into its leaf. See `gate` for why not at once."""
        if spawn.inside or spawn.confinement != Confinement():
            return self._fork(spawn, fds)
        number = gate.descriptor(fds)
        waiting, release = os.pipe2(os.O_CLOEXEC)
        try:
            pid = self._spawner(
                gate.SHELL,
                gate.command(number, path, argv, spawn.env),
                spawn.env,
                cwd=spawn.cwd,
                fds={**fds, number: waiting},
                cgroup=None,
            )
            try:
                self._cgroups.enter(spawn.cgroup, pid)
            except OSError:
                os.kill(pid, signal.SIGKILL)
                raise
        finally:
            os.close(waiting)
            os.close(release)
        return pid

    def _fork(self, spawn: Spawn, fds: Mapping[int, int]) -> int:
        """The same for one that must enter namespaces or give up privileges first."""
        from initd.processes import confined

        init = self._init(spawn.inside)
        pid_of_init = None if init is None else init.pid
        with confined.begun(self._template, spawn, fds, pid_of_init) as pid:
            try:
                self._cgroups.enter(spawn.cgroup, pid)
            except OSError:
                os.kill(pid, signal.SIGKILL)
                raise
        return pid

    def _first_ended(self, owned: _Owned, ending: Ending) -> None:
        owned.ending = ending
        if owned.timer is not None:
            owned.timer.cancel()
        if owned.report is not None:
            owned.report.close()
        self._finish(owned)

    def _finish(self, owned: _Owned) -> None:
        """What the first process left behind ends with it; then its output is complete."""
        leaf = owned.process.cgroup
        if self._cgroups.populated(leaf):
            self._cgroups.kill(leaf)
            return self._finish_later(owned)
        try:
            self._cgroups.remove(leaf)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            return self._finish_later(owned)
        assert owned.ending is not None
        for pump in owned.pumps:
            pump.drain()
            if not owned.log_open:
                pump.stream.finish()
        code, number = owned.ending
        ended = owned.process._replace(
            state=State.ENDED,
            ended=time.time_ns(),
            code=code,
            signal=number,
            status=owned.said,
        )
        self._ended[ended.id] = owned
        del self._leaves[leaf]
        self._set(owned, ended)
        init = self._owned.get(ended.inside)
        if init is not None and init.process.state is State.STOPPING and not self._inside(init):
            self._kill(init)
        if len(self._ended) > ENDED_LIMIT:
            self.forget(next(iter(self._ended)))
        return None

    def _finish_later(self, owned: _Owned) -> None:
        owned.timer = self._loop.later(owned.recheck, functools.partial(self._finish, owned))
        owned.recheck = min(2 * owned.recheck, _RECHECK_LIMIT)

    def _kill_after(self, owned: _Owned, grace: float) -> None:
        kill_at = time.monotonic() + grace
        if owned.timer is not None:
            if owned.kill_at <= kill_at:
                return
            owned.timer.cancel()
        owned.kill_at = kill_at
        if grace == 0:
            self._kill(owned)
        else:
            self._kill_at(owned, kill_at)

    def _kill_at(self, owned: _Owned, due: float) -> None:
        owned.timer = self._loop.at(due, functools.partial(self._kill, owned))

    def _terminate(self, owned: _Owned) -> None:
        """SIGTERM to all in the leaf, and to the first process where somebody has moved it away."""
        leaf, pid = owned.process.cgroup, owned.process.pid
        away = pid not in set(self._cgroups.processes(leaf))
        self._cgroups.signal(leaf, signal.SIGTERM)
        if away and owned.ending is None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def _kill(self, owned: _Owned) -> None:
        """As `_terminate`; an init that is starting is not always in its leaf. Until it is reaped
        here, the number is the first process's."""
        self._cgroups.kill(owned.process.cgroup)
        if owned.ending is None:
            with suppress(ProcessLookupError):
                os.kill(owned.process.pid, signal.SIGKILL)

    def _say(self, owned: _Owned) -> None:
        owned.saying = None
        if owned.said != owned.process.status and owned.process.state is not State.ENDED:
            self._set(owned, owned.process._replace(status=owned.said))

    def _speaker(self, pid: int) -> _Owned | None:
        try:
            path = self._cgroups.of(pid)
        except OSError:
            return None
        while path:
            owned = self._leaves.get(path)
            if owned is not None and owned.ending is None:
                return owned
            path = path.rpartition("/")[0]
        return None

    def _set(self, owned: _Owned, process: Process) -> None:
        owned.process = process._replace(revision=owned.process.revision + 1)
        self._on_change(owned.process)

    def _find(self, id: str) -> _Owned:  # noqa: A002
        owned = self._owned.get(id)
        if owned is None:
            raise NotFound(f"process {id}: does not exist")
        return owned

    def _living(self, id: str) -> _Owned:  # noqa: A002
        owned = self._find(id)
        if owned.ending is not None:
            raise FailedPrecondition(f"process {id}: has ended")
        return owned

    def _drop(self, owned: _Owned) -> None:
        """An ended process and its output."""
        self._ended.pop(owned.process.id, None)
        for pump in owned.pumps:
            pump.close()
        _remove(owned.folder)


def _save(owned: _Owned) -> "OwnedState":
    from initd.handover.model import EndingState, OwnedState

    ended = owned.process.state is State.ENDED
    # An ending that was told is in the process.
    ending = None if ended or owned.ending is None else owned.ending
    process = owned.process
    if process.state is State.STARTING:
        # It ends when it finds that nobody hears it any more.
        process = process._replace(error="PID 1 was replaced meanwhile; try again")
    return OwnedState(
        process=process,
        folder=str(owned.folder),
        pumps=tuple(pump.save() for pump in owned.pumps),
        kill_at=owned.kill_at,
        pending=owned.timer is not None and ending is None and not ended,
        recheck=owned.recheck,
        log_open=owned.log_open,
        said=owned.said,
        ending=ending and EndingState(code=ending.code, signal=ending.signal),
        report=None if owned.report is None else owned.report.save(),
    )


def _process(spawn: Spawn, serial: int, pid: int, started: int) -> Process:
    """With a log of its own."""
    return Process(
        serial=serial,
        id=spawn.id,
        pid=pid,
        state=State.RUNNING,
        started=started,
        uid=spawn.uid,
        gid=spawn.gid,
        cgroup=spawn.cgroup,
        log=serial,
        meta=spawn.meta,
        inside=spawn.inside,
        ns_pid=_ns_pid(pid) if spawn.inside or spawn.isolation else pid,
    )


def _ns_pid(pid: int) -> int:
    """The process's number in its own pid namespace; 0: it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    for line in status.splitlines():
        if line.startswith("NSpid:"):
            return int(line.split()[-1])
    return 0


def _remove(folder: Path) -> None:
    for entry in list(folder.iterdir()):
        entry.unlink()
    folder.rmdir()

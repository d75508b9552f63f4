"""Executables with a policy: started in order, watched until ready, started again.

What is wanted is on file before a Start is acknowledged, and after every decision: a runtime that
comes after one that died compares it with what PID 1 has, and goes on. `_look` is that comparison;
it never waits, and whatever happens to an executable ends in a call of it.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterator
from typing import Final, Protocol

from initd.errors import AuraedError, InvalidArgument, ResourceExhausted, Unavailable
from initd.processes.model import Log, Process, Spawn
from initd.processes.model import State as ProcessState
from runtime.cells import wanted as decisions
from runtime.cells.model import DEFAULT_GRACE, dependency, title
from runtime.cells.policy import Kind
from runtime.cells.wanted import State, Wanted, WantedFiles
from runtime.processes import Processes

log = logging.getLogger(__name__)

RUNNING: Final = ProcessState.RUNNING

# Seconds between looks at whether an executable listens: first, and at most.
POLL: Final = (0.05, 1.0)

# Seconds before PID 1 is asked again for a process when it could not answer.
AGAIN: Final = 1.0

# As many at rest are remembered as PID 1 remembers processes.
KEPT: Final = 1024

# What waits costs nobody but us memory. So many, and so many bytes of them on file, may be not at
# rest in an outermost cell with all that is in it, and in the system's own.
MOST: Final = 1000
MOST_BYTES: Final = 8 * 1024 * 1024


class Around(Protocol):
    """What supervision needs of the cells."""

    def spawn_of(self, wanted: Wanted, log: Log) -> Spawn:
        """InvalidArgument, FailedPrecondition: it cannot be made."""

    def is_ready(self, id_: str) -> bool:
        """Whether an executable that is not supervised is."""

    def listens(self, wanted: Wanted) -> bool: ...

    def announce(self, id_: str) -> None:
        """Its status may be another now."""


class _Unit:
    """An executable, and what goes on around it in this runtime."""

    __slots__ = (
        "accepted",
        "not_before",
        "poll",
        "seen",
        "seen_at",
        "size",
        "starting",
        "timer",
        "waiters",
        "wanted",
    )

    def __init__(self, wanted: Wanted, *, accepted: bool) -> None:
        self.wanted = wanted
        self.size = wanted.executable.size
        # Its Start was answered, or will be without an error: failures are met by its policy.
        self.accepted = accepted
        self.not_before = 0.0
        self.starting: asyncio.Future[Process] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.waiters: set[asyncio.Future[None]] = set()
        # The run that is watched for readiness, since when, and how long until the next look.
        self.seen = 0
        self.seen_at = 0.0
        self.poll = POLL[0]


class Supervision:
    """All that are supervised. Calls that wait are unbounded."""

    def __init__(
        self,
        processes: Processes,
        files: WantedFiles,
        around: Around,
        clock: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
    ) -> None:
        self._processes = processes
        self._files = files
        self._around = around
        self._clock = clock
        self._units: dict[str, _Unit] = {}
        # Of an id, those that are to come after it.
        self._followers: dict[str, set[str]] = {}
        self._resting: dict[str, None] = {}

    def __iter__(self) -> Iterator[Wanted]:
        return (unit.wanted for unit in self._units.values())

    def get(self, id_: str) -> Wanted | None:
        unit = self._units.get(id_)
        return None if unit is None else unit.wanted

    def recover(self, cells: Collection[str]) -> None:
        """Know again what an earlier runtime wanted in `cells`; drop what has no cell any more."""
        for wanted in self._files.read():
            if wanted.cell in cells:
                self._add(_Unit(wanted, accepted=True))
            else:
                self._files.remove(wanted)

    def look_at_all(self, ending: Collection[str]) -> None:
        """After PID 1 was away, or a runtime before this one: anything may have happened.

        What runs in cells that are `ending` is ended by whoever frees them."""
        for unit in list(self._units.values()):
            self._look(unit.wanted.id)
            run = unit.wanted.run(self._processes.get(unit.wanted.id))
            if unit.wanted.stopped and run is not None and run.state is RUNNING:
                if unit.wanted.cell in ending:
                    continue
                # A Stop was accepted that never reached it.
                self._processes.end(run.id, DEFAULT_GRACE)

    def close(self) -> None:
        """Start nothing any more: the node goes down."""
        for id_ in list(self._units):
            self.stop(id_)

    def process_changed(self, id_: str) -> None:
        """A process has another state. It may be one that is not supervised."""
        self._look(id_)
        self._look_at_followers(id_)

    async def start(self, wanted: Wanted) -> Process | None:
        """Put it on file and start it, or let it wait: then there is no process yet.

        Refused, nothing of it is left. Cancelled, it is stopped.
        """
        self._refuse_too_many(wanted)
        self._refuse_cycle(wanted)
        self._files.write(wanted)
        self._forget(wanted.id)
        waits = bool(self.waiting_for(wanted))
        unit = _Unit(wanted, accepted=waits)
        self._add(unit)
        if waits:
            self._tell(unit)
            return None
        future = self._spawn(unit)
        try:
            process = await asyncio.shield(future)
        except asyncio.CancelledError:
            log.warning("process %s: its caller left while it was started, killed", wanted.id)
            self.stop(wanted.id)
            raise
        except Unavailable:
            # It may exist all the same.
            self.stop(wanted.id)
            raise
        except BaseException:
            if self._units.get(wanted.id) is unit:
                self.drop(wanted.id)
            raise
        unit.accepted = True
        return process

    def stop(self, id_: str) -> None:
        """No further start. What runs is the caller's to end; what is being started is killed."""
        unit = self._units[id_]
        if unit.wanted.rest is None and not unit.wanted.stopped:
            self._set(unit, unit.wanted._replace(stopped=True, due=None, restart_at=None))
            self._look(id_)

    def stop_all(self, cells: Collection[str]) -> None:
        for wanted in list(self):
            if wanted.cell in cells:
                self.stop(wanted.id)

    def starting(self, cells: Collection[str]) -> list[asyncio.Future[Process]]:
        """Starts that PID 1 has not answered yet."""
        return [
            unit.starting
            for unit in self._units.values()
            if unit.starting is not None and unit.wanted.cell in cells
        ]

    def drop(self, id_: str) -> None:
        """Forget it, with its file. Its process is another's business."""
        unit = self._units.get(id_)
        if unit is not None:
            self._forget(id_)
            self._files.remove(unit.wanted)
            self._around.announce(id_)

    def _forget(self, id_: str) -> None:
        unit = self._units.pop(id_, None)
        if unit is None:
            return
        self._resting.pop(id_, None)
        _cancel(unit)
        for name in unit.wanted.executable.policy.after:
            before = dependency(unit.wanted.cell, name)
            followers = self._followers.get(before, set())
            followers.discard(id_)
            if not followers:
                self._followers.pop(before, None)
        _wake(unit)

    def drop_cell(self, cell: str) -> None:
        """All that were in it."""
        for wanted in list(self):
            if wanted.cell == cell:
                self.drop(wanted.id)
        self._files.remove_cell(cell)

    async def changed(self, id_: str) -> None:
        """Wait until something about it is different, or it is gone."""
        unit = self._units[id_]
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        unit.waiters.add(future)
        try:
            await future
        finally:
            unit.waiters.discard(future)

    def waiting_for(self, wanted: Wanted) -> tuple[str, ...]:
        """Of the names that it is to come after, those that are not ready."""
        return tuple(
            name
            for name in wanted.executable.policy.after
            if not self.is_ready(dependency(wanted.cell, name))
        )

    def is_ready(self, id_: str) -> bool:
        unit = self._units.get(id_)
        if unit is None:
            return self._around.is_ready(id_)
        return decisions.ready(unit.wanted, self._processes.get(id_))

    # What happens to an executable

    def _look(self, id_: str) -> None:
        unit = self._units.get(id_)
        if unit is None:
            return
        try:
            process = self._processes.get(id_)
        except Unavailable:  # looked at again when PID 1 is back
            return
        run = unit.wanted.run(process)
        if run is not None and run.state is ProcessState.ENDED:
            self._set(unit, decisions.after_end(unit.wanted, run, self._clock(), time.time_ns()))
            run = None
        if run is not None:
            self._watch(unit, run)
        else:
            self._go_on(unit)
        self._tell(unit)

    def _go_on(self, unit: _Unit) -> None:
        """Nothing of it runs."""
        wanted = unit.wanted
        if unit.starting is not None:
            return
        if wanted.stopped and wanted.rest is None:
            wanted = wanted._replace(rest=State.ENDED, reason="")
            self._set(unit, wanted)
        if wanted.rest is not None:
            self._come_to_rest(unit)
        elif wanted.due is not None and wanted.due > self._clock():
            self._later(unit, wanted.due - self._clock())
        else:
            if wanted.due is not None:
                self._set(unit, decisions.restarted(wanted, self._clock()))
            if self.waiting_for(wanted):
                return
            if unit.not_before > self._clock():
                self._later(unit, unit.not_before - self._clock())
            else:
                self._spawn(unit)

    def _come_to_rest(self, unit: _Unit) -> None:
        id_ = unit.wanted.id
        _cancel(unit)
        if id_ in self._resting:
            return
        self._resting[id_] = None
        if unit.wanted.ran:
            self._processes.finish(id_)
        elif unit.wanted.stopped:
            # It never was more than a wish.
            self.drop(id_)
        if len(self._resting) > KEPT:
            self.drop(next(iter(self._resting)))

    def _watch(self, unit: _Unit, run: Process) -> None:
        """It runs: is it ready, is it late?"""
        wanted = unit.wanted
        if run.state is not RUNNING:
            _cancel(unit)
            return
        if wanted.stopped:
            _cancel(unit)
            return
        if wanted.late == run.serial:
            self._processes.end(wanted.id, DEFAULT_GRACE)
            return
        if decisions.state(wanted, run) is State.RUNNING:
            _cancel(unit)
            return
        readiness = wanted.executable.policy.readiness
        now = self._clock()
        if unit.seen != run.serial:
            unit.seen, unit.seen_at, unit.poll = run.serial, now, POLL[0]
        if readiness.kind is Kind.LISTEN and self._around.listens(wanted):
            self._set(unit, wanted._replace(listening=run.serial))
            _cancel(unit)
            return
        left = None if readiness.timeout is None else unit.seen_at + readiness.timeout - now
        if left is not None and left <= 0:
            self._set(unit, wanted._replace(late=run.serial))
            self._processes.end(wanted.id, DEFAULT_GRACE)
            return
        if readiness.kind is Kind.LISTEN:
            self._later(unit, unit.poll if left is None else min(unit.poll, left))
            unit.poll = min(2 * unit.poll, POLL[1])
        elif left is not None:
            self._later(unit, left)

    def _spawn(self, unit: _Unit) -> asyncio.Future[Process]:
        wanted = unit.wanted
        try:
            spawn = self._around.spawn_of(wanted, Log.APPEND if wanted.ran else Log.OPEN)
            future = self._processes.spawn(spawn)
        except (AuraedError, OSError) as e:
            future = asyncio.get_running_loop().create_future()
            future.set_exception(e)
        unit.starting = future
        future.add_done_callback(lambda done: self._spawned(unit, done))
        return future

    def _spawned(self, unit: _Unit, done: asyncio.Future[Process]) -> None:
        unit.starting = None
        id_ = unit.wanted.id
        if done.cancelled() or self._units.get(id_) is not unit:
            return
        error = done.exception()
        if isinstance(error, Unavailable):
            # It may exist all the same: the look when PID 1 is back will tell.
            unit.not_before = self._clock() + AGAIN
            self._later(unit, AGAIN)
        elif error is not None and unit.accepted:
            log.warning("%s: cannot be started: %s", _title(unit.wanted), error)
            cause = f"could not be started: {error}"
            now, wall = self._clock(), time.time_ns()
            self._set(unit, decisions.after_refusal(unit.wanted, cause, now, wall))
            self._look(id_)
        elif error is None:
            if unit.wanted.stopped:
                self._processes.end(id_, 0)
            self._look(id_)

    # Small parts

    def _add(self, unit: _Unit) -> None:
        self._units[unit.wanted.id] = unit
        for name in unit.wanted.executable.policy.after:
            self._followers.setdefault(dependency(unit.wanted.cell, name), set()).add(
                unit.wanted.id
            )

    def _set(self, unit: _Unit, wanted: Wanted) -> None:
        if wanted.rest is not None and unit.wanted.rest is None and wanted.reason:
            log.warning("%s: %s, and rests", _title(wanted), wanted.reason)
        unit.wanted = wanted
        try:
            self._files.write(wanted)
        except OSError as e:
            # What is wanted is known here; only a runtime after this one would decide anew.
            log.error("%s: cannot be noted: %s", _title(wanted), e)

    def _tell(self, unit: _Unit) -> None:
        _wake(unit)
        self._around.announce(unit.wanted.id)

    def _look_at_followers(self, id_: str) -> None:
        for follower in sorted(self._followers.get(id_, ())):
            unit = self._units.get(follower)
            if unit is not None and unit.wanted.rest is None:
                self._look(follower)

    def _later(self, unit: _Unit, seconds: float) -> None:
        _cancel(unit)
        loop = asyncio.get_running_loop()
        unit.timer = loop.call_later(max(0.0, seconds), self._timed, unit)

    def _timed(self, unit: _Unit) -> None:
        if self._units.get(unit.wanted.id) is unit:
            self.process_changed(unit.wanted.id)

    def _refuse_too_many(self, wanted: Wanted) -> None:
        home = _outermost(wanted)
        sizes = [
            unit.size
            for unit in self._units.values()
            if unit.wanted.rest is None and _outermost(unit.wanted) == home
        ]
        size = wanted.executable.size
        if len(sizes) >= MOST:
            most = f"{MOST} executables"
        elif sum(sizes) + size > MOST_BYTES:
            most = f"{MOST_BYTES} bytes of executables"
        else:
            return
        raise ResourceExhausted(
            f"{title(wanted.cell, wanted.executable.name)}: an outermost cell takes {most} with a "
            "policy that have not ended, and has as many; stop some first"
        )

    def _refuse_cycle(self, wanted: Wanted) -> None:
        """Those that are not at rest and wanted itself must not wait for each other."""
        first: tuple[str, ...] = (wanted.executable.name,)
        todo, seen = [(wanted, first)], set()
        while todo:
            one, way = todo.pop()
            for name in one.executable.policy.after:
                id_ = dependency(one.cell, name)
                if id_ == wanted.id:
                    raise InvalidArgument(
                        f"executable.after: {' after '.join((*way, wanted.executable.name))} is a "
                        "circle, none would ever start; leave one out"
                    )
                following = self.get(id_)
                if following is not None and following.rest is None and id_ not in seen:
                    seen.add(id_)
                    todo.append((following, (*way, name)))


def _outermost(wanted: Wanted) -> str:
    return wanted.cell.partition("/")[0]


def _title(wanted: Wanted) -> str:
    """For the node's log, whoever's call it is that this happens in."""
    return f"executable {wanted.executable.name} of cell {wanted.cell}"


def _cancel(unit: _Unit) -> None:
    if unit.timer is not None:
        unit.timer.cancel()
        unit.timer = None


def _wake(unit: _Unit) -> None:
    for future in unit.waiters:
        if not future.done():
            future.set_result(None)

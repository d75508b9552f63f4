"""What supervision wants of an executable and remembers of its runs: values, decisions, files.

Nothing here starts or waits. Times of the clock are seconds since boot, so that setting the time of
day neither hastens nor delays a restart; times shown to people are nanoseconds since the epoch.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Self

from initd.errors import InvalidArgument
from initd.processes import model as processes
from initd.processes.model import Process
from initd.values import NamedTuple
from runtime.cells.model import Executable, identity
from runtime.cells.policy import Kind, Mode
from runtime.cells.values import to_json

BILLION: Final = 1_000_000_000


class State(StrEnum):
    """Where an executable stands.

    ============  ==========================================================================
    state         leaves it when
    ============  ==========================================================================
    ``WAITING``   all that it is to come after are ready: it is started, ``STARTING`` or
                  ``RUNNING``; Stop: ``ENDED``
    ``STARTING``  it is ready: ``RUNNING``; its time for that is over: ``STOPPING``; it ends: see
                  below
    ``RUNNING``   Stop or Free: ``STOPPING``; it ends: see below
    ``STOPPING``  it ends: ``ENDED`` after Stop or Free; else see below
    ``BACKOFF``   its time has come: ``WAITING``; Stop or Free: ``ENDED``
    ``ENDED``     never; a Start of the same name makes another
    ``FAILED``    as ``ENDED``
    ============  ==========================================================================

    When it ends, its policy says what comes: ``BACKOFF`` where it is to be started again;
    ``FAILED`` where its restarts are used up, where it was not ready in time, or where it could
    not be started; else ``ENDED``. The last two are its rest.
    """

    WAITING = "waiting"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    BACKOFF = "backoff"
    ENDED = "ended"
    FAILED = "failed"


class Exit(NamedTuple):
    """How a run ended: code or signal, and when."""

    code: int | None
    signal: int | None
    at: int


class Wanted(NamedTuple):
    """An executable that is supervised.

    Serial numbers are PID 1's. A run whose end was acted on has one up to `handled`.
    """

    cell: str
    executable: Executable
    uid: int
    gid: int
    handled: int = 0
    ran: bool = False
    """A run of this Start has ended: the next continues its log."""
    listening: int = 0
    """The run that was seen to listen."""
    late: int = 0
    """The run that was not ready in time."""
    restarts: int = 0
    recent: tuple[float, ...] = ()
    """When it was restarted, as far as the limit's window reaches."""
    delay: float = 0.0
    """The backoff before the last restart."""
    due: float | None = None
    """When it is started again; None: not in backoff."""
    restart_at: int | None = None
    """The same for people."""
    last: Exit | None = None
    stopped: bool = False
    """Stop or Free was asked for."""
    rest: State | None = None
    """ENDED or FAILED, once nothing more will happen."""
    reason: str = ""

    @property
    def id(self) -> str:
        return identity(self.cell, self.executable.name)

    def run(self, process: Process | None) -> Process | None:
        """`process` if it is a run whose end was not acted on yet."""
        return process if process is not None and process.serial > self.handled else None

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = to_json(self)
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`. KeyError, TypeError, ValueError, InvalidArgument: none."""
        return cls(
            **{
                **value,
                "executable": Executable.from_json(value["executable"]),
                "recent": tuple(value["recent"]),
                "last": None if value["last"] is None else Exit(**value["last"]),
                "rest": None if value["rest"] is None else State(value["rest"]),
            }
        )


def after_end(wanted: Wanted, run: Process, now: float, wall: int) -> Wanted:
    """What comes after the end of a run."""
    ended = run.ended or wall
    known = wanted._replace(
        handled=run.serial,
        ran=True,
        last=Exit(code=run.code, signal=run.signal, at=ended),
    )
    late = wanted.late == run.serial
    failed = late or run.code != 0
    cause = (
        f"was not ready in {wanted.executable.policy.readiness.timeout:g} s"
        if late
        else _ending(run)
    )
    return _after(
        known, (ended - run.started) / BILLION, cause, now, wall, failed=failed, hard=late
    )


def after_refusal(wanted: Wanted, cause: str, now: float, wall: int) -> Wanted:
    """What comes after PID 1 could not start it."""
    return _after(wanted, 0, cause, now, wall, failed=True, hard=True)


def _after(
    wanted: Wanted, ran: float, cause: str, now: float, wall: int, *, failed: bool, hard: bool
) -> Wanted:
    """`hard`: no exit code tells the failure, so the state has to."""
    policy = wanted.executable.policy.restart
    if wanted.stopped:
        return wanted._replace(rest=State.ENDED, reason="")
    if policy.mode is Mode.NEVER or (policy.mode is Mode.ON_FAILURE and not failed):
        rest = State.FAILED if hard else State.ENDED
        return wanted._replace(rest=rest, reason=cause if failed else "")
    recent = tuple(at for at in wanted.recent if now - at < policy.within)
    if policy.limit is not None and len(recent) >= policy.limit:
        times = f"{policy.limit} time{'s' if policy.limit > 1 else ''}"
        used = f"restarted {times} within {policy.within:g} s; the last run {cause}"
        return wanted._replace(rest=State.FAILED, reason=used)
    fresh = not wanted.delay or ran >= policy.most
    delay = policy.first if fresh else min(2 * wanted.delay, policy.most)
    return wanted._replace(
        recent=recent,
        delay=delay,
        due=now + delay,
        restart_at=wall + round(delay * BILLION),
        reason=cause,
    )


def restarted(wanted: Wanted, now: float) -> Wanted:
    """Its backoff is over."""
    counted = wanted.executable.policy.restart.limit is not None
    return wanted._replace(
        restarts=wanted.restarts + 1,
        recent=(*wanted.recent, now) if counted else (),
        due=None,
        restart_at=None,
        reason="",
    )


def state(wanted: Wanted, process: Process | None) -> State:
    run = wanted.run(process)
    if run is not None:
        return _running(wanted, run)
    if wanted.rest is not None:
        return wanted.rest
    return State.WAITING if wanted.due is None else State.BACKOFF


def _running(wanted: Wanted, run: Process) -> State:
    if run.state is processes.State.RUNNING:
        return State.RUNNING if _reached(wanted, run) else State.STARTING
    return State(run.state.value)


def ready(wanted: Wanted, process: Process | None) -> bool:
    """Whether others may rely on it: on a run that is ready, or on work that it has done."""
    run = wanted.run(process)
    if run is not None:
        return run.state is processes.State.RUNNING and _reached(wanted, run)
    done = wanted.executable.policy.readiness.kind in (Kind.STARTED, Kind.EXIT)
    return done and wanted.rest is State.ENDED and wanted.last is not None and wanted.last.code == 0


def _reached(wanted: Wanted, run: Process) -> bool:
    match wanted.executable.policy.readiness.kind:
        case Kind.STARTED:
            return True
        case Kind.EXIT:
            return False
        case Kind.LISTEN:
            return wanted.listening == run.serial
        case Kind.NOTIFY:
            return run.ready


def _ending(run: Process) -> str:
    if run.signal is not None:
        return f"was ended by signal {run.signal}"
    return f"ended with exit code {run.code}"


class WantedFiles:
    """One JSON file each: `web/_server.json` for the executable `server` of cell `web`.

    A label of a cell does not begin with `_`, so no file is in the way of a cell's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _path(self, wanted: Wanted) -> Path:
        return self._folder / wanted.cell / f"_{wanted.executable.name}.json"

    def write(self, wanted: Wanted) -> None:
        """All of the file exists afterwards, or what was there before."""
        path = self._path(wanted)
        # Not by `parents` alone, which is as open as the umask: commands may hold secrets.
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = path.with_suffix(".json.partial")
        try:
            partial.write_text(json.dumps(wanted.to_json()))
            partial.replace(path)
        except OSError:
            partial.unlink(missing_ok=True)
            raise

    def remove(self, wanted: Wanted) -> None:
        self._path(wanted).unlink(missing_ok=True)

    def remove_cell(self, cell: str) -> None:
        """The folder of a cell, once nothing is in it."""
        with suppress(OSError):
            (self._folder / cell).rmdir()

    def read(self) -> list[Wanted]:
        """Those on file. Files that are none of ours, or damaged, are left out."""
        found = []
        for folder, _, files in os.walk(self._folder):
            for file in sorted(files):
                path = Path(folder) / file
                with suppress(ValueError, KeyError, TypeError, AttributeError, InvalidArgument):
                    wanted = Wanted.from_json(json.loads(path.read_text()))
                    if path == self._path(wanted):
                        found.append(wanted)
        return found

"""How an executable stands, as List, Wait and Watch tell it."""

from initd.processes.model import Process
from initd.processes.model import State as ProcessState
from initd.values import NamedTuple
from runtime.cells import wanted as decisions
from runtime.cells.model import Executable
from runtime.cells.wanted import Exit, State, Wanted


class Status(NamedTuple):
    """An executable that is wanted, runs or has ended. Times are nanoseconds since the epoch."""

    executable: Executable
    state: State
    process: Process | None
    """The latest run; None: there was none."""
    uid: int
    gid: int
    ready: bool
    restarts: int = 0
    last: Exit | None = None
    """How the latest run ended that has ended, of those after its Start."""
    waiting_for: tuple[str, ...] = ()
    reason: str = ""
    restart_at: int | None = None


def unsupervised(process: Process) -> Status:
    """Of one that PID 1 alone knows."""
    ended = process.state is ProcessState.ENDED
    return Status(
        executable=executable_of(process),
        state=State(process.state.value),
        process=process,
        uid=process.uid,
        gid=process.gid,
        ready=process.code == 0 if ended else process.state is ProcessState.RUNNING,
        last=Exit(code=process.code, signal=process.signal, at=process.ended)
        if ended and process.ended is not None
        else None,
    )


def supervised(wanted: Wanted, process: Process | None, waiting_for: tuple[str, ...]) -> Status:
    # One that had the name before this Start is not its run.
    mine = wanted.run(process) is not None or wanted.ran
    state = decisions.state(wanted, process)
    return Status(
        executable=wanted.executable,
        state=state,
        process=process if mine else None,
        uid=wanted.uid,
        gid=wanted.gid,
        ready=decisions.ready(wanted, process),
        restarts=wanted.restarts,
        last=wanted.last,
        waiting_for=waiting_for if state is State.WAITING else (),
        reason=wanted.reason,
        restart_at=wanted.restart_at,
    )


def executable_of(process: Process) -> Executable:
    return Executable.from_json(process.meta["executable"])

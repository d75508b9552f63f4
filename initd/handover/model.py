"""What PID 1 hands over to its next program: the values, and nothing else.

Each part of PID 1 makes its own value (`save`) and is made again from it (`resume`); `State` holds
them all. A field that is added needs a default if states without it are to be read. Times without
another word are seconds of CLOCK_MONOTONIC, which goes on over exec(2).
"""

from typing import Final, NewType

from initd.processes.model import Process, StepReport
from initd.values import NamedTuple

# Raised when a field changes its meaning. A program takes over states of its own format only.
FORMAT: Final = 1

# A number of a descriptor that stays open over exec(2). Every field of this type is kept.
Descriptor = NewType("Descriptor", int)


class StreamState(NamedTuple):
    """A log stream (initd/logs/stream.py) amid its files."""

    data_file: Descriptor
    index_file: Descriptor
    start: int
    size: int
    lost_lines: int
    entries: int
    index_start: int


class PumpState(NamedTuple):
    """A stream and the pipe it is filled from, if anything may still come."""

    pipe: Descriptor | None
    stream: StreamState


class EndingState(NamedTuple):
    """How a first process ended whose leaf is not empty yet."""

    code: int | None
    signal: int | None


class ReportState(NamedTuple):
    """What a cell's init that is not ready yet reports on, and its first user ID on the node."""

    connection: Descriptor
    users: int


class OwnedState(NamedTuple):
    """A process. `kill_at` counts while a kill is `pending`. `said` is its newest status."""

    process: Process
    folder: str
    pumps: tuple[PumpState, ...]
    kill_at: float
    pending: bool
    recheck: float
    log_open: bool
    said: str
    ending: EndingState | None = None
    report: ReportState | None = None


class ProcessesState(NamedTuple):
    """The process owner's table. `ended` has ids, the one that ended first in front."""

    serial: int
    owned: tuple[OwnedState, ...]
    ended: tuple[str, ...]


class ServiceState(NamedTuple):
    """A service that runs on; `due` is when one that does not is started again. `partial` is the
    beginning of a line for the console, a character a byte."""

    name: str
    pid: int | None
    ready: str
    starts: int
    backoff: float
    started: float
    due: float | None
    output: Descriptor
    pump: PumpState
    partial: str


class ControlState(NamedTuple):
    """The control socket. `owed` is the connection that waits for the answer to `reload`."""

    listener: Descriptor
    connections: tuple[Descriptor, ...]
    subscribers: tuple[int, ...]
    owed: int | None = None


class LoadingState(NamedTuple):
    """A copy of PID 1 that loads drivers."""

    pid: int
    began: float
    pipe: Descriptor


class HardwareState(NamedTuple):
    """Devices that were heard of. `due` is when all drivers are looked at, if they were not yet."""

    listener: Descriptor | None
    waiting: tuple[str, ...]
    look_again: bool
    due: float | None
    loading: LoadingState | None


class WatchdogState(NamedTuple):
    """The watchdog that must be fed `every` so many seconds."""

    device: Descriptor
    every: float


class ScreenState(NamedTuple):
    """Who the node is, as the runtime told, and what hears of addresses that change."""

    spiffe_id: str = ""
    fingerprint: str = ""
    listener: Descriptor | None = None


class State(NamedTuple):
    """All that PID 1 knows. `began` is when it stopped to listen."""

    version: str
    began: float
    steps: tuple[StepReport, ...]
    log: StreamState | None
    services: tuple[ServiceState, ...]
    processes: ProcessesState
    control: ControlState | None
    hardware: HardwareState
    buttons: dict[str, Descriptor]
    notify: Descriptor | None = None
    watchdog: WatchdogState | None = None
    screen: ScreenState = ScreenState()
    format: int = FORMAT

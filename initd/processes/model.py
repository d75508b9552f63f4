"""What is asked of the process owner, and what it knows of a process.

The same values go over the control socket as JSON; see docs/architecture.md and `wire.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class State(StrEnum):
    """Where a process stands.

    ============  ==========================================================================
    state         leaves it when
    ============  ==========================================================================
    ``RUNNING``   stop is asked for: ``STOPPING``; its first process ends: ``ENDED``
    ``STOPPING``  its first process ends, by SIGTERM or after the grace: ``ENDED``
    ``ENDED``     never; its id may be spawned anew, which makes another process
    ============  ==========================================================================

    ``ENDED`` is entered only when its leaf cgroup is empty and its output is on file.
    """

    RUNNING = "running"
    STOPPING = "stopping"
    ENDED = "ended"


class Log(StrEnum):
    """Where the output of a process goes.

    ============  ==========================================================================
    log           the process writes to
    ============  ==========================================================================
    ``OWN``       a log of its own, which is closed when it has ended
    ``OPEN``      a log of its own, which stays open when it has ended, for a next run
    ``APPEND``    the open log of the process that had its id before; as ``OPEN`` if it has none
    ============  ==========================================================================

    An open log is closed by the operation ``finish``.
    """

    OWN = "own"
    OPEN = "open"
    APPEND = "append"


class How(StrEnum):
    """What becomes of the machine at the end of the road down."""

    POWEROFF = "poweroff"
    REBOOT = "reboot"
    HALT = "halt"
    KEXEC = "kexec"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spawn:
    """A process to make. `cgroup` is its leaf, a path below the cgroup root."""

    id: str
    argv: tuple[str, ...]
    cgroup: str
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = "/"
    uid: int = 0
    gid: int = 0
    meta: Mapping[str, Any] = field(default_factory=dict)
    log: Log = Log.OWN


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process that runs or has ended. Times are nanoseconds since the epoch.

    `log` is the serial number of the process that its log began with. `revision` counts the changes
    of this process: of two values the one with the higher is the newer. `ready` and `status` are
    what it has told by sd_notify.
    """

    serial: int
    id: str
    pid: int
    state: State
    started: int
    uid: int
    gid: int
    cgroup: str
    log: int
    revision: int = 0
    ready: bool = False
    status: str = ""
    ended: int | None = None
    code: int | None = None
    signal: int | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """A step of the boot plan that was run: how long it took, and what went wrong or ""."""

    name: str
    milliseconds: float
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceReport:
    """A supervised service; `pid` is null while it waits to be started again."""

    name: str
    pid: int | None
    ready: str
    starts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reloaded:
    """The answer to `reload`, by the new program: its version, and seconds without PID 1."""

    version: str
    pause: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The answer to `status`."""

    version: str
    boot_id: str
    steps: tuple[StepReport, ...]
    services: tuple[ServiceReport, ...]

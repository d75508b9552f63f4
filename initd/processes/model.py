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


class How(StrEnum):
    """What becomes of the machine at the end of the road down."""

    POWEROFF = "poweroff"
    REBOOT = "reboot"
    HALT = "halt"


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process that runs or has ended. Times are nanoseconds since the epoch."""

    serial: int
    id: str
    pid: int
    state: State
    started: int
    uid: int
    gid: int
    cgroup: str
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
class Status:
    """The answer to `status`."""

    version: str
    boot_id: str
    steps: tuple[StepReport, ...]
    services: tuple[ServiceReport, ...]

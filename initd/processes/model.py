"""What is asked of the process owner, and what it knows of a process.

The same values go over the control socket as JSON; see docs/architecture.md and `wire.py`.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

from initd.values import NamedTuple

NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


class State(StrEnum):
    """Where a process stands.

    ============  ==========================================================================
    state         leaves it when
    ============  ==========================================================================
    ``STARTING``  inits only: its namespaces are made: ``RUNNING``; they cannot be, or stop is
                  asked for: it is killed, and ``ENDED``
    ``RUNNING``   stop is asked for: ``STOPPING``; its first process ends: ``ENDED``
    ``STOPPING``  its first process ends, by SIGTERM or after the grace: ``ENDED``
    ``ENDED``     never; its id may be spawned anew, which makes another process
    ============  ==========================================================================

    ``ENDED`` is entered only when its leaf cgroup is empty and its output is on file.
    """

    STARTING = "starting"
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


class Isolation(NamedTuple):
    """The namespaces that an init makes and keeps, and what is mounted there.

    `cgroup`, a path below the cgroup root, is what its cgroup namespace begins at. Without
    `process` no more than a network namespace is made.
    """

    hostname: str
    cgroup: str
    process: bool = False
    network: bool = False
    read_only_root: bool = False
    private_tmp: bool = False
    private_dev: bool = False
    users: int = 0
    """The node's user and group ID that is 0 in a user namespace; 0: no user namespace."""


# How many IDs a user namespace has.
USERS: Final = 65536


class Confinement(NamedTuple):
    """What a process may not do, whatever its user ID. `capabilities` are those kept; None: all."""

    no_new_privileges: bool = False
    capabilities: tuple[str, ...] | None = None
    seccomp: bool = False


class Spawn(NamedTuple):
    """A process to make. `cgroup` is its leaf, a path below the cgroup root.

    With `isolation` it is an init: a copy of PID 1 that executes nothing. `inside` is the id of an
    init, whose namespaces the process lives in, or begins from.
    """

    id: str
    argv: tuple[str, ...]
    cgroup: str
    env: Mapping[str, str] = NOTHING
    cwd: str = "/"
    uid: int = 0
    gid: int = 0
    meta: Mapping[str, Any] = NOTHING
    log: Log = Log.OWN
    inside: str = ""
    isolation: Isolation | None = None
    confinement: Confinement = Confinement()


class Process(NamedTuple):
    """A process that runs or has ended. Times are nanoseconds since the epoch.

    `log` is the serial number of the process that its log began with. `revision` counts the changes
    of this process: of two values the one with the higher is the newer. `ready` and `status` are
    what it has told by sd_notify.
    `ns_pid` is its number in its own pid namespace. `error` says why an init could not begin.
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
    meta: Mapping[str, Any] = NOTHING
    init: bool = False
    inside: str = ""
    ns_pid: int = 0
    error: str = ""


class StepReport(NamedTuple):
    """A step of the boot plan that was run: how long it took, and what went wrong or ""."""

    name: str
    milliseconds: float
    error: str = ""


class ServiceReport(NamedTuple):
    """A supervised service; `pid` is null while it waits to be started again."""

    name: str
    pid: int | None
    ready: str
    starts: int


class Reloaded(NamedTuple):
    """The answer to `reload`, by the new program: its version, and seconds without PID 1."""

    version: str
    pause: float


class Status(NamedTuple):
    """The answer to `status`."""

    version: str
    boot_id: str
    steps: tuple[StepReport, ...]
    services: tuple[ServiceReport, ...]

"""Cells and executables as values: what may be asked for, checked once at the border.

Messages name the field as it stands in the proto, then the rule that it breaks.
"""

import json
import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final, Self

from initd.errors import InvalidArgument
from initd.values import NamedTuple
from runtime import scope
from runtime.cells.policy import UNSUPERVISED, Policy
from runtime.cells.security import Profile, Security
from runtime.cells.values import to_json

# The system's own cell, and what a caller in a cell sees that one called. No cell can have these
# names: `_` is not a label's.
SYSTEM: Final = "_system"
SELF: Final = "_self"
# What stands for an executable's name in the id and the leaf of a cell's init.
INIT: Final = "_init"

# A level of List is a message in the one above, and protobuf reads no more than 100 of those.
MAX_LEVELS: Final = 64
MAX_NAME: Final = 1023
MAX_LABEL: Final = 63
DEFAULT_GRACE: Final = 10.0
MAX_GRACE: Final = 3600.0

# cgroup-v2.rst, "CPU": weights are 1 to 10000. kernel/sched/core.c: a period is 1 ms to 1 s, a
# quota at least 1 ms, and beyond 44 bits of microseconds it no longer fits its fixed point.
WEIGHTS: Final = (1, 10_000)
PERIODS: Final = (1_000, 1_000_000)
QUOTAS: Final = (1_000, (1 << 44) - 1)
# include/linux/threads.h: PID_MAX_LIMIT. block/blk-throttle.c: rates are 64 bit.
MAX_PIDS: Final = 1 << 22
MAX_RATE: Final = (1 << 63) - 1
# What the restricted profile sets where no other limit is given.
RESTRICTED_PIDS: Final = "1024"
# A list of CPUs names none above this (the kernel's largest NR_CPUS).
MAX_CPU: Final = 8191

# execve(2): one string is at most 32 pages. Everything together must fit in one message to PID 1.
MAX_STRING: Final = 131_071
MAX_REQUEST: Final = 100_000
# More cannot be in such a message, each of them being two characters in JSON at least.
MAX_STRINGS: Final = 32_768

_NOT_LABEL: Final = r"[^a-zA-Z0-9-]"
_EXECUTABLE: Final = r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,62}"
_DEVICE: Final = r"[0-9]{1,4}:[0-9]{1,7}"
_RANGE: Final = r"([0-9]{1,5})(?:-([0-9]{1,5}))?"


def cell_name(text: str, where: str) -> str:
    """Return `text` if it can be a cell's name."""
    if not text:
        raise InvalidArgument(f"{where}: is empty; give a name such as `web/api`")
    if len(text) > MAX_NAME:
        raise InvalidArgument(f"{where}: has {len(text)} characters; at most {MAX_NAME}")
    labels = text.split("/")
    if len(labels) > MAX_LEVELS:
        raise InvalidArgument(f"{where}: has {len(labels)} levels; at most {MAX_LEVELS}")
    for label in labels:
        _label(label, f"{where}: {text!a}" if len(text) <= 80 else where)
    return text


def _label(label: str, where: str) -> None:
    if not label:
        raise InvalidArgument(f"{where}: a label is empty; no / at an end, and no //")
    if len(label) > MAX_LABEL:
        raise InvalidArgument(
            f"{where}: a label has {len(label)} characters; it takes 1 to {MAX_LABEL}"
        )
    if bad := re.search(_NOT_LABEL, label):
        raise InvalidArgument(f"{where}: has {bad[0]!a}; labels take a-z A-Z 0-9 and - only")
    if label.startswith("-") or label.endswith("-"):
        raise InvalidArgument(f"{where}: label {label} has - at an end; - may stand within only")


def executable_name(text: str, where: str) -> str:
    """Return `text` if it can be an executable's name."""
    if not text:
        raise InvalidArgument(f"{where}: is empty; give the executable a name")
    if not re.fullmatch(_EXECUTABLE, text):
        raise InvalidArgument(
            f"{where}: {text[:80]!a} is no name; it takes 1 to 63 of a-z A-Z 0-9 . _ -, "
            "the first of them a letter or digit"
        )
    return text


def ancestors(name: str) -> list[str]:
    """The cells that `name` lies in, the outermost first: `a/b/c` lies in `a` and `a/b`."""
    labels = name.split("/")
    return ["/".join(labels[:count]) for count in range(1, len(labels))]


def parent(name: str) -> str | None:
    return name.rpartition("/")[0] or None


def within(name: str, cell: str) -> bool:
    """Is `name` the cell itself, or somewhere in it?"""
    return name == cell or name.startswith(cell + "/")


def identity(cell: str, executable: str) -> str:
    """The id that PID 1 knows an executable by."""
    return f"{cell}:{executable}"


def split(id_: str) -> tuple[str, str]:
    """The cell and the executable of an `identity`."""
    cell, _, executable = id_.rpartition(":")
    return cell, executable


def depth_of(cell: str) -> int:
    """How many cells it lies in."""
    return cell.count("/")


def dependency(cell: str, name: str) -> str:
    """The id of what an executable of `cell` calls `name` in its `after`."""
    below, _, executable = name.rpartition("/")
    if not below:
        return identity(cell, executable)
    return identity(below if cell == SYSTEM else f"{cell}/{below}", executable)


def init_identity(cell: str) -> str:
    """The id of the cell's init. No executable can have that name."""
    return identity(cell, INIT)


def title(cell: str, executable: str) -> str:
    """How messages call an executable."""
    owner = "the system" if cell == SYSTEM else scope.current().title(cell)
    return f"executable {executable} of {owner}"


def numbers(text: str, where: str) -> frozenset[int]:
    """The members of a kernel list such as `0-4,6,8-10` (cpuset(7), "List format")."""
    if not text:
        raise InvalidArgument(f"{where}: is empty; leave it out, or give a list such as `0-3,6`")
    members: set[int] = set()
    for part in text.split(","):
        if not (match := re.fullmatch(_RANGE, part)):
            raise InvalidArgument(
                f"{where}: {text[:80]!a} is no list; write numbers and ranges such as `0-3,6`"
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if last > MAX_CPU:
            raise InvalidArgument(f"{where}: {last} is above {MAX_CPU}, the most that may be named")
        if last < first:
            raise InvalidArgument(f"{where}: range {part} ends before it begins")
        members.update(range(first, last + 1))
    return frozenset(members)


def _bounded(value: int | None, where: str, least: int, most: int) -> None:
    if value is None:
        return
    if value < least:
        raise InvalidArgument(f"{where}: {value} is below {least}, the least that the kernel takes")
    if value > most:
        raise InvalidArgument(f"{where}: {value} is above {most}, the most that the kernel takes")


class Cpu(NamedTuple):
    """cgroup-v2.rst, "CPU". Times in microseconds."""

    weight: int | None = None
    max: int | None = None
    period: int | None = None

    def check(self, where: str) -> None:
        _bounded(self.weight, f"{where}.weight", *WEIGHTS)
        _bounded(self.max, f"{where}.max", *QUOTAS)
        _bounded(self.period, f"{where}.period", *PERIODS)

    def files(self) -> dict[str, str]:
        files = {}
        if self.weight is not None:
            files["cpu.weight"] = str(self.weight)
        if self.max is not None or self.period is not None:
            # A quota alone keeps the kernel's period; a period alone sets no quota.
            quota = "max" if self.max is None else str(self.max)
            files["cpu.max"] = quota if self.period is None else f"{quota} {self.period}"
        return files


class Cpuset(NamedTuple):
    """cgroup-v2.rst, "Cpuset". Lists of CPUs and of memory nodes."""

    cpus: str | None = None
    mems: str | None = None

    def check(self, where: str) -> None:
        for name, text in (("cpus", self.cpus), ("mems", self.mems)):
            if text is not None:
                numbers(text, f"{where}.{name}")

    def files(self) -> dict[str, str]:
        # Memory nodes before CPUs: a cell must never have CPUs without memory to use.
        files = {"cpuset.mems": self.mems, "cpuset.cpus": self.cpus}
        return {file: text for file, text in files.items() if text is not None}


class Memory(NamedTuple):
    """cgroup-v2.rst, "Memory". Bytes; the kernel rounds them down to whole pages."""

    min: int | None = None
    low: int | None = None
    high: int | None = None
    max: int | None = None

    def check(self, where: str) -> None:
        for name, value in self._asdict().items():
            if value is not None and value < 0:
                raise InvalidArgument(f"{where}.{name}: {value} is negative; give bytes, 0 or more")

    def files(self) -> dict[str, str]:
        return {
            f"memory.{name}": str(value)
            for name, value in self._asdict().items()
            if value is not None
        }


class Pids(NamedTuple):
    """cgroup-v2.rst, "PID"."""

    max: int | None = None

    def check(self, where: str) -> None:
        _bounded(self.max, f"{where}.max", 0, MAX_PIDS)

    def files(self) -> dict[str, str]:
        return {} if self.max is None else {"pids.max": str(self.max)}


class IoMax(NamedTuple):
    """A line of io.max: bytes and operations in a second."""

    device: str
    rbps: int | None = None
    wbps: int | None = None
    riops: int | None = None
    wiops: int | None = None

    def check(self, where: str) -> None:
        if not re.fullmatch(_DEVICE, self.device):
            raise InvalidArgument(
                f"{where}.device: {self.device[:80]!a} is no device; write its numbers, such as 8:0"
            )
        for name, value in self._figures().items():
            _bounded(value, f"{where}.{name}", 1, MAX_RATE)

    def line(self) -> str:
        figures = self._figures().items()
        return " ".join((self.device, *(f"{name}={value}" for name, value in figures)))

    def _figures(self) -> dict[str, int]:
        return {
            name: value
            for name, value in self._asdict().items()
            if name != "device" and value is not None
        }


class Io(NamedTuple):
    """cgroup-v2.rst, "IO"."""

    weight: int | None = None
    max: tuple[IoMax, ...] = ()

    def check(self, where: str) -> None:
        _bounded(self.weight, f"{where}.weight", *WEIGHTS)
        for number, limits in enumerate(self.max):
            limits.check(f"{where}.max[{number}]")
        devices = [limits.device for limits in self.max]
        if len(set(devices)) < len(devices):
            raise InvalidArgument(f"{where}.max: names a device twice; put its limits together")

    def files(self) -> dict[str, str]:
        """io.max takes one device at a time: its lines are written one by one."""
        files = {} if self.weight is None else {"io.weight": f"default {self.weight}"}
        if self.max:
            files["io.max"] = "\n".join(limits.line() for limits in self.max)
        return files

    @classmethod
    def from_json(cls, spec: Mapping[str, Any]) -> Self:
        return cls(weight=spec["weight"], max=tuple(IoMax(**line) for line in spec["max"]))


# The fields of a cell that are limits.
LIMITS: Final = ("cpu", "cpuset", "memory", "pids", "io")


class Cell(NamedTuple):
    """A cell as it was asked for. What is None was not given."""

    name: str
    cpu: Cpu | None = None
    cpuset: Cpuset | None = None
    memory: Memory | None = None
    pids: Pids | None = None
    io: Io | None = None
    isolate_process: bool = False
    isolate_network: bool = False
    security: Security | None = None
    tenant: bool = False
    """The node has made it for the tenant of its name."""

    def checked(self) -> Self:
        """Itself. Raises InvalidArgument where it cannot be."""
        cell_name(self.name, "cell.name")
        for where, limits in self.limits():
            limits.check(f"cell.{where}")
        if self.security is not None:
            self.security.check("cell.security", isolated=self.isolate_process)
        return self

    def limits(self) -> Iterator[tuple[str, Cpu | Cpuset | Memory | Pids | Io]]:
        """Those that were given, by the name of their field."""
        for where in LIMITS:
            if (limits := getattr(self, where)) is not None:
                yield where, limits

    @property
    def restricted(self) -> bool:
        return self.security is not None and self.security.profile is Profile.RESTRICTED

    @property
    def own_process(self) -> bool:
        """Has it the namespaces of `isolate_process`?"""
        return self.isolate_process or self.restricted

    @property
    def own_init(self) -> bool:
        return self.own_process or self.isolate_network

    def files(self) -> dict[str, str]:
        """What to write where in the cell's cgroup, in this order."""
        files: dict[str, str] = {"pids.max": RESTRICTED_PIDS} if self.restricted else {}
        for _, limits in self.limits():
            files |= limits.files()
        return files

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = to_json(self)
        return value

    @classmethod
    def from_json(cls, spec: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`. KeyError, TypeError or InvalidArgument: it was none."""
        return cls(
            name=spec["name"],
            cpu=None if spec["cpu"] is None else Cpu(**spec["cpu"]),
            cpuset=None if spec["cpuset"] is None else Cpuset(**spec["cpuset"]),
            memory=None if spec["memory"] is None else Memory(**spec["memory"]),
            pids=None if spec.get("pids") is None else Pids(**spec["pids"]),
            io=None if spec.get("io") is None else Io.from_json(spec["io"]),
            isolate_process=spec.get("isolate_process", False),
            isolate_network=spec.get("isolate_network", False),
            security=None if spec.get("security") is None else Security.from_json(spec["security"]),
            tenant=spec.get("tenant", False),
        ).checked()


class Executable(NamedTuple):
    """What to run, as it was asked for."""

    name: str
    command: str
    description: str = ""
    args: tuple[str, ...] = ()
    environment: Mapping[str, str] = MappingProxyType({})
    working_directory: str = ""
    policy: Policy = UNSUPERVISED

    def checked(self) -> Self:
        """Itself. Raises InvalidArgument where it cannot be."""
        executable_name(self.name, "executable.name")
        for where, several in (("args", self.args), ("environment", self.environment)):
            if len(several) > MAX_STRINGS:
                raise InvalidArgument(
                    f"executable.{where}: has {len(several)} entries; at most {MAX_STRINGS}"
                )
        self.policy.check(self.name)
        for name in self.policy.after:
            _dependency(name)
        if not self.command:
            raise InvalidArgument("executable.command: is empty; give a command line for sh -c")
        _text(self.command, "executable.command")
        _text(self.description, "executable.description")
        for number, arg in enumerate(self.args):
            _text(arg, f"executable.args[{number}]")
        for name, value in self.environment.items():
            _environment_name(name)
            _text(value, f"executable.environment[{name}]")
        if self.working_directory:
            _text(self.working_directory, "executable.working_directory")
            if not self.working_directory.startswith("/"):
                raise InvalidArgument(
                    f"executable.working_directory: {self.working_directory[:80]!a} is not "
                    "absolute; begin it with /"
                )
        return self

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = to_json(self)
        return value

    @property
    def size(self) -> int:
        """Bytes that it takes on file."""
        return len(json.dumps(self.to_json()))

    @classmethod
    def from_json(cls, spec: Mapping[str, Any]) -> Self:
        policy = Policy.from_json(spec["policy"])
        return cls(**{**spec, "args": tuple(spec["args"]), "policy": policy}).checked()


def _dependency(name: str) -> None:
    cell, slash, executable = name.rpartition("/")
    if slash:
        cell_name(cell, "executable.after")
    executable_name(executable, "executable.after")


def _text(text: str, where: str) -> None:
    if "\0" in text:
        raise InvalidArgument(f"{where}: has a NUL; the kernel's strings end there")
    if len(text.encode()) > MAX_STRING:
        raise InvalidArgument(f"{where}: is longer than {MAX_STRING} bytes, the kernel's limit")


def _environment_name(name: str) -> None:
    if not name or "=" in name or "\0" in name:
        raise InvalidArgument(
            f"executable.environment: {name[:80]!a} is no name; it takes 1 or more characters, "
            "and no = and no NUL"
        )
    _text(name, "executable.environment")


def grace(seconds: float | None) -> float:
    """Seconds between SIGTERM and SIGKILL, checked."""
    if seconds is None:
        return DEFAULT_GRACE
    if seconds < 0:
        raise InvalidArgument(f"grace: {seconds:g} s is negative; give 0 s to {MAX_GRACE:g} s")
    if seconds > MAX_GRACE:
        raise InvalidArgument(f"grace: {seconds:g} s is above {MAX_GRACE:g} s, the most")
    return seconds


# (uid_t)-1 means "unchanged" to the kernel's calls: setresuid(2).
NO_ID: Final = (1 << 32) - 1


def user_or_group(number: int, where: str) -> int:
    if number == NO_ID:
        raise InvalidArgument(
            f"{where}: {number} is no identity to the kernel; the most is {NO_ID - 1}"
        )
    return number

"""What workloads may have of the machine, all together, and what is kept for auraed.

Memory of workloads is charged to `aurae`: what they allocate, their files in a tmpfs, and what the
kernel holds for them. What they write to their output is charged to PID 1, which bounds it by the
budget of logs. The kernel never kills PID 1 for want of memory (mm/oom_kill.c), and its services
come last (oom_score_adj).
"""

from pathlib import Path
from typing import Final

from initd.boot import cgroups
from initd.values import NamedTuple

_MIB: Final = 1024 * 1024
# What auraed's processes take, with the code that they run; measured: 12, 90 and 40 MiB.
PROTECTED: Final = {"initd": 24 * _MIB, "runtime": 96 * _MIB, "network": 40 * _MIB}
# All logs together have this share of the memory.
LOG_SHARE: Final = 8
# Processes and threads for auraed: a share of what the machine can have, and no fewer than these.
_PIDS_SHARE: Final = 16
_PIDS: Final = 256


class Machine(NamedTuple):
    """Bytes of memory, those of them that nothing can ever get back (a root that lies in memory),
    and how many processes and threads the kernel makes."""

    memory: int
    held: int
    threads: int


class Limits(NamedTuple):
    """Of workloads, bytes and processes; and bytes that each service keeps."""

    memory: int
    pids: int
    protected: dict[str, int]


def share(machine: Machine) -> Limits:
    """A small machine is halved: a limit that leaves nothing to run is none to be had."""
    usable = machine.memory - machine.held
    kept = sum(PROTECTED.values()) + machine.memory // LOG_SHARE
    scale = min(1.0, usable / 2 / sum(PROTECTED.values()))
    return Limits(
        memory=max(usable // 2, usable - kept),
        pids=machine.threads
        - min(machine.threads // 2, max(_PIDS, machine.threads // _PIDS_SHARE)),
        protected={name: int(size * scale) for name, size in PROTECTED.items()},
    )


def read_machine(proc: Path = Path("/proc")) -> Machine:
    """Raises OSError."""
    lines = (proc / "meminfo").read_text().splitlines()
    fields = {name: value.split()[0] for name, _, value in (line.partition(":") for line in lines)}
    kernel = proc / "sys/kernel"
    threads = min(int((kernel / name).read_text()) for name in ("threads-max", "pid_max"))
    return Machine(int(fields["MemTotal"]) * 1024, int(fields["Unevictable"]) * 1024, threads)


def apply(limits: Limits, root: Path = Path(cgroups.ROOT)) -> list[str]:
    """Returns what went wrong, file by file."""
    files = {
        f"{cgroups.CELLS}/memory.max": limits.memory,
        f"{cgroups.CELLS}/pids.max": limits.pids,
        f"{cgroups.OURS}/memory.min": sum(limits.protected.values()),
        **{f"{cgroups.OURS}/{name}/memory.min": size for name, size in limits.protected.items()},
    }
    problems = []
    for name, value in files.items():
        try:
            (root / name).write_text(str(value))
        except OSError as error:
            problems.append(f"{name}={value}: {error.strerror}")
    return problems

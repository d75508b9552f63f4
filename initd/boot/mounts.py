"""File systems of the machine."""

import os
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from initd.boot import cgroups
from initd.linux.mount import MountFlag, mount
from initd.values import NamedTuple

NOSUID, NODEV, NOEXEC = MountFlag.NOSUID, MountFlag.NODEV, MountFlag.NOEXEC


class Mount(NamedTuple):
    """`optional`: the machine goes on without it."""

    fstype: str
    target: str
    flags: MountFlag
    options: str = ""
    optional: bool = False


# In order. The initramfs has mounted the first ones and moved them here. No tmpfs may fill the
# memory, nor may all together; see docs/decisions/0081.
MACHINE: Final = (
    Mount("proc", "/proc", NOSUID | NODEV | NOEXEC),
    Mount("sysfs", "/sys", NOSUID | NODEV | NOEXEC),
    Mount("devtmpfs", "/dev", NOSUID | NOEXEC, "mode=755"),
    Mount("tmpfs", "/run", NOSUID | NODEV, "mode=755,size=10%"),
    # Apart from what workloads may fill: logs, and what was asked for.
    Mount("tmpfs", "/run/aurae", NOSUID | NODEV, "mode=755,size=20%"),
    # 5 is the tty group: write(1) may reach a terminal, other users may not.
    Mount("devpts", "/dev/pts", NOSUID | NOEXEC, "gid=5,mode=620,ptmxmode=666"),
    Mount("tmpfs", "/dev/shm", NOSUID | NODEV, "mode=1777,size=15%"),
    Mount("mqueue", "/dev/mqueue", NOSUID | NODEV | NOEXEC, optional=True),
    Mount("tmpfs", "/tmp", NOSUID | NODEV, "mode=1777,size=15%"),
    Mount("tmpfs", "/var", NOSUID | NODEV, "mode=755,size=15%"),
    Mount(
        "cgroup2",
        "/sys/fs/cgroup",
        NOSUID | NODEV | NOEXEC,
        cgroups.OPTIONS,
    ),
    Mount("bpf", "/sys/fs/bpf", NOSUID | NODEV | NOEXEC, "mode=700", optional=True),
    Mount("securityfs", "/sys/kernel/security", NOSUID | NODEV | NOEXEC, optional=True),
    Mount("tracefs", "/sys/kernel/tracing", NOSUID | NODEV | NOEXEC, "mode=700", optional=True),
)

# Made on the fresh file systems, with their mode.
FOLDERS: Final = (
    ("/var/lib", 0o755),
    ("/var/log", 0o755),
    ("/var/cache", 0o755),
    ("/var/tmp", 0o1777),
    ("/run/lock", 0o755),
    ("/run/credentials/@system", 0o700),
    ("/run/aurae", 0o755),
    ("/run/aurae/cells", 0o700),
    ("/run/aurae/shared", 0o755),
    ("/run/aurae/logs", 0o700),
    ("/run/aurae/logs/auraed", 0o700),
)

LINKS: Final = (
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/core", "/proc/kcore"),
    ("/var/run", "../run"),
    ("/run/aurae/resolv.conf", "shared/resolv.conf"),
)


def mount_all(mounts: Iterable[Mount] = MACHINE) -> list[str]:
    """Mount what is not mounted yet; returns what optional ones met."""
    problems: list[str] = []
    for item in mounts:
        try:
            # A folder of a read-only root is there; one of a fresh file system is not.
            if not os.path.isdir(item.target):
                os.mkdir(item.target)
            if not _is_mount_point(item.target):
                mount(item.fstype, item.target, item.fstype, item.flags, item.options)
        except OSError as error:
            if not item.optional:
                raise
            problems.append(f"{item.target}: {error.strerror}")
    return problems


def make_folders() -> None:
    for name, mode in FOLDERS:
        os.makedirs(name, exist_ok=True)
        # Past the umask.
        os.chmod(name, mode)
    for name, target in LINKS:
        with suppress(FileExistsError):
            os.symlink(target, name)


def _is_mount_point(path: str) -> bool:
    return os.stat(path).st_dev != os.stat(f"{path}/..").st_dev

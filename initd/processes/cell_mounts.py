"""File systems of an isolated cell, made by its init in its new mount namespace.

What is mounted anew replaces what was there and does not lie over it: nobody can lay bare what is
below by unmounting. Only where the cell above has a user namespace its mounts are locked, and ours
lie over them; those get locked as well, by the user namespace that the cell then enters.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from initd.boot.mounts import Mount
from initd.linux import mount
from initd.linux.mount import MountFlag
from initd.processes.model import Isolation

NOSUID, NODEV, NOEXEC = MountFlag.NOSUID, MountFlag.NODEV, MountFlag.NOEXEC

# In order. {users} is the node's user ID of the cell's root, {tty} that of its group 5.
RUN: Final = Mount("tmpfs", "/run", NOSUID | NODEV, "mode=755,size=16m,uid={users},gid={users}")
DEV: Final = Mount("tmpfs", "/dev", NOSUID | NOEXEC, "mode=755,size=1m,uid={users},gid={users}")
ALWAYS: Final = (
    Mount("proc", "/proc", NOSUID | NODEV | NOEXEC),
    Mount("sysfs", "/sys", NOSUID | NODEV | NOEXEC),
    Mount("cgroup2", "/sys/fs/cgroup", NOSUID | NODEV | NOEXEC),
    Mount("devpts", "/dev/pts", NOSUID | NOEXEC, "gid={tty},mode=620,ptmxmode=666"),
    Mount("tmpfs", "/dev/shm", NOSUID | NODEV, "mode=1777"),
    Mount("mqueue", "/dev/mqueue", NOSUID | NODEV | NOEXEC, optional=True),
)
TMP: Final = (
    Mount("tmpfs", "/tmp", NOSUID | NODEV, "mode=1777"),
    Mount("tmpfs", "/var/tmp", NOSUID | NODEV, "mode=1777"),
)

# What every cell has of the node's /run, as its own /run/aurae: the API's socket, and the name
# servers. It is always the node's own folder, whatever cells above have made of theirs.
SHARED: Final = "/run/aurae/shared"
AURAE: Final = "/run/aurae"

# A /dev of its own has these of the node's devices.
DEVICES: Final = tuple(
    f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty")
)
DEV_FOLDERS: Final = ("/dev/pts", "/dev/shm", "/dev/mqueue")
DEV_LINKS: Final = (
    ("/dev/ptmx", "pts/ptmx"),
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
)
_TTY: Final = 5


def apply(isolation: Isolation, tree: int) -> None:
    """In a mount namespace of our own, of no use after an OSError. `tree` is that of `shared`."""
    # Nothing that is mounted here shows elsewhere, nor the other way round.
    mount.mount("none", "/", "", MountFlag.REC | MountFlag.PRIVATE)
    if isolation.read_only_root:
        mount.make_read_only("/")
    with _Pit(RUN.target) as pit:
        if isolation.private_dev:
            _dev(pit, isolation.users)
        for item in (*ALWAYS, *(TMP if isolation.private_tmp else ())):
            try:
                _replace(pit, item, isolation.users)
            except OSError:
                if not item.optional:
                    raise
    _run(isolation.users, tree)


def shared() -> int:
    """A mount of what is shared, to be taken along into a new mount namespace; -1: there is none.
    In the node's own mount namespace."""
    return mount.clone_tree(SHARED) if os.path.isdir(SHARED) else -1


class _Pit:
    """Takes mounts, and is unmounted once with all of them: the kernel waits for its processors at
    each unmount, and not when a mount is moved. It is a file system over `place`, whose own mount
    goes too."""

    def __init__(self, place: str) -> None:
        self._place = place
        self._count = 0

    def __enter__(self) -> "_Pit":
        mount.mount("tmpfs", self._place, "tmpfs", 0, "size=4k,mode=700")
        return self

    def take(self, target: str) -> None:
        """What is mounted there, if it can be taken."""
        self._count += 1
        folder = f"{self._place}/{self._count}"
        os.mkdir(folder)
        with _unless_kept():
            mount.mount(target, folder, "", MountFlag.MOVE)

    def __exit__(self, *_: object) -> None:
        mount.umount(self._place, detach=True)
        with _unless_kept():
            mount.umount(self._place, detach=True)


@contextmanager
def _unless_kept() -> Iterator[None]:
    """Of what is no mount point, or locked."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise


def _run(users: int, tree: int) -> None:
    _mount(RUN, users)
    for folder in (AURAE, "/run/lock"):
        os.mkdir(folder, 0o755)
    if tree >= 0:
        mount.place_tree(tree, AURAE)
        mount.make_read_only(AURAE)


def _dev(pit: _Pit, users: int) -> None:
    devices = {path: mount.clone_tree(path) for path in DEVICES}
    _replace(pit, DEV, users)
    for path, tree in devices.items():
        _place(tree, path)
    for folder in DEV_FOLDERS:
        os.mkdir(folder, 0o755)
    for path, target in DEV_LINKS:
        os.symlink(target, path)


def _replace(pit: _Pit, item: Mount, users: int) -> None:
    pit.take(item.target)
    _mount(item, users)


def _mount(item: Mount, users: int) -> None:
    options = item.options.format(users=users, tty=users + _TTY)
    try:
        mount.mount(item.fstype, item.target, item.fstype, item.flags, options)
    except OSError as error:
        # The kernel lays no file system over itself.
        if error.errno != errno.EBUSY:
            raise
        mount.mount("tmpfs", item.target, "tmpfs", item.flags, "size=4k")
        mount.mount(item.fstype, item.target, item.fstype, item.flags, options)


def _place(tree: int, path: str) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o644))
    mount.place_tree(tree, path)
    os.close(tree)
